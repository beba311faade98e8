package CdmStop::Soak::Kinds;

=head1 NAME

CdmStop::Soak::Kinds - what the clients of a soak send, and what they may get

=head1 SYNOPSIS

    my $kinds = CdmStop::Soak::Kinds->new($t, iam => $iam);
    $load->begin($kinds->draw);                  # any, by weight
    $load->begin($kinds->make('denied'));
    $kinds->mortal($seconds);                    # a caller's token that ends
    my $complaint = $kinds->complaint($result);

Each stop has a job of its own, by which it is found again at CDM and in the
records. Its class says what may be answered:

    stop      served, or refused for IAM or CDM, never for the caller
    refused   as the kind says, or 503 CDMSTOP.0302 where IAM is asked first;
              never at CDM
    rated     as a stop, or 429
    mortal    as a stop while the token is good; 401 when it is not
    slow      as a stop, or closed for being too slow
    plain     no stop

=cut

use strict;
use warnings;

use Time::HiRes qw(time);

use CdmStop::Http;

use constant {
    PROJECTS => 8,

    # IAM's own clock, which it tells by the second
    EARLY => 1.5,

    # how long a token of a caller may be served after it ended: verify_cache
    # of the configuration, and requests that wait on a machine that is slow
    GRACE => 5 + 15,
};

# kind => [weight, class, status and code of a refusal, is IAM asked first]

my %KINDS = (
    ok => [24, 'stop'],
    body => [3, 'stop'],
    chunked => [3, 'stop'],
    pipelined => [4, 'stop'],
    forged => [5, 'stop'],
    reason => [3, 'stop'],
    sync => [4, 'stop'],
    h2 => [8, 'stop'],
    tls => [1, 'stop'],
    rated => [3, 'rated'],
    mortal => [4, 'mortal'],
    slow => [2, 'slow'],
    denied => [5, 'refused', 403, '0201', 1],
    banned => [2, 'refused', 403, '0201', 1],
    foreign => [3, 'refused', 403, '0202', 1],
    random_token => [4, 'refused', 401, '0102', 1],
    no_token => [3, 'refused', 401, '0101'],
    two_tokens => [2, 'refused', 400, '0002'],
    bad_target => [4, 'refused', 400, '0001'],
    method => [3, 'refused', 405, '0003'],
    early_data => [2, 'refused', 425, '0006'],
    no_reason => [2, 'refused', 400, '0004', 1],
    oversize => [2, 'refused', 413, ''],
    oversize_chunked => [2, 'refused', 413, '', 1],
    leaves => [5, 'stop'],
    leaves_h2 => [2, 'stop'],
    leaves_in_head => [2, 'stop'],
    leaves_in_body => [2, 'stop'],
    other => [3, 'plain'],
    status => [1, 'plain'],
);

# of the gateway, where it could not serve a stop that it may serve

my %TROUBLE = map { $_ => 1 } qw(0301 0302 0401 0402);

my @FORGED = (
    ['X-Project-Id', 'f' x 32], ['X-HTTP-Method-Override', 'DELETE'],
    ['Authorization', 'Basic Zm9yZ2VkOmZvcmdlZA=='], ['Cookie', 'a=b'],
    ['X-Subject-Token', 'forged'], ['X-Identity-Status', 'Confirmed'],
    ['X-Roles', 'admin'], ['X-Original-URL', '/v1.1/'],
    ['X-Gateway-Id', 'forged'], ['X-Request-Id', 'forged'],
    ['X_Auth_Token', 'forged'], ['X-User-Id', 'root'],
);

sub new {
    my ($class, $t, %opt) = @_;

    my $self = bless { t => $t, jobs => 0, counts => {}, %opt }, $class;

    $self->{project} = [map { sprintf '%032x', 0x50a0000 + $_ }
                        0 .. PROJECTS + 2];

    # three projects have locations of their own
    @$self{qw(sync_project reason_project rated_project)} =
        @{$self->{project}}[PROJECTS .. PROJECTS + 2];

    for my $project (@{$self->{project}}) {
        $self->{tokens}{$project} = [map { $self->token("c$_", $project) }
                                     0 .. 2];
    }

    $self->{banned} = $self->token('banned', $self->{project}[0]);
    # each kind once, then by weight
    $self->{urn} = [map { ($_) x $KINDS{$_}[0] }
                    grep { $_ !~ /h2/ || $self->{h2} } sort keys %KINDS];
    my %kinds = map { $_ => 1 } @{$self->{urn}};
    $self->{first} = [sort keys %kinds];

    return $self;
}

sub token {
    my ($self, $user, $project, %opt) = @_;

    return $self->{iam}->add_token(user => $user, domain => 'acme',
        project => $project, size => 700, life => 86400, %opt);
}

sub projects { return @{$_[0]{project}} }

sub draw {
    my ($self) = @_;

    return $self->make(shift @{$self->{first}}
                       // $self->{urn}[rand @{$self->{urn}}]);
}

# A token of a caller that lives so long, and then another one.

sub mortal {
    my ($self, $life) = @_;

    my $project = $self->any;

    $self->{mortal} = {
        project => $project, ends => time + $life,
        token => $self->token('c0', $project, life => $life),
    };

    return;
}

# Its life ends now.

sub kill_mortal {
    my ($self) = @_;

    my $mortal = $self->{mortal} or return;

    $self->{iam}->revoke($mortal->{token});
    $mortal->{ends} = time if $mortal->{ends} > time;

    return;
}

sub any {
    my ($self) = @_;

    return $self->{project}[rand PROJECTS];
}

# One stop of a kind, and what is to be sent for it.

sub stop {
    my ($self, $kind, %arg) = @_;

    my $project = $arg{project} // $self->any;
    my $job = $arg{prefix} // $kind;

    $job .= '_' . ++$self->{jobs};
    $self->{counts}{$kind}++;

    return {
        kind => $kind, job => $job, project => $project,
        class => $KINDS{$kind}[1],
    };
}

sub headers {
    my ($self, $stop, @more) = @_;

    my $tokens = $self->{tokens}{$stop->{project}};

    return [['X-Auth-Token', $tokens->[rand @$tokens]], @more];
}

sub target {
    my ($self, $stop) = @_;

    return $self->{t}->stop_target(map { $_ => $stop->{$_} } qw(project job));
}

sub bytes {
    my ($self, $stop, %arg) = @_;

    return CdmStop::Http::build_request(
        method => 'PUT', target => $self->target($stop),
        headers => $self->headers($stop), %arg);
}

sub http {
    my ($self, $stop, $bytes, %arg) = @_;

    return { via => 'http', port => $self->{t}->port, stops => [$stop],
             bytes => $bytes, %arg };
}

# A request of a kind, as the load takes it.

sub make {
    my ($self, $kind) = @_;

    my $method = $self->can("make_$kind") // \&make_ok;

    return $self->$method($kind);
}

sub make_ok {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->bytes($stop));
}

sub make_body {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->bytes($stop, body => '{"a":"b"}'));
}

sub chunked {
    my ($self, $stop, $body) = @_;

    return $self->bytes($stop, body => CdmStop::Http::chunked($body, 512),
        headers => $self->headers($stop, ['Transfer-Encoding', 'chunked']));
}

sub make_chunked {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->chunked($stop, 'x' x (1 + rand 2000)));
}

sub make_oversize {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->bytes($stop, body => 'x' x 9000));
}

sub make_oversize_chunked {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->chunked($stop, 'x' x 9000));
}

sub make_pipelined {
    my ($self, $kind) = @_;

    my @stops = map { $self->stop($kind) } 0 .. rand 3;
    my $bytes = join '', map { $self->bytes($_, keepalive => 1) } @stops;

    $_->{behind} = 1 for @stops[1 .. $#stops];

    return $self->http(undef, $bytes, stops => \@stops);
}

sub make_forged {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    my $first = rand @FORGED;

    # none twice, which nginx itself would refuse
    my @forged = map { $FORGED[($first + $_) % @FORGED] } 0 .. 3;

    return $self->http($stop, $self->bytes($stop,
        headers => $self->headers($stop, @forged)));
}

sub make_reason {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind, project => $self->{reason_project});
    return $self->http($stop, $self->bytes($stop,
        headers => $self->headers($stop, ['X-Stop-Reason', 'CHG-17 soak'])));
}

sub make_no_reason {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind, project => $self->{reason_project});
    return $self->http($stop, $self->bytes($stop));
}

sub make_sync {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind, project => $self->{sync_project});
    return $self->http($stop, $self->bytes($stop));
}

sub make_rated {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind, project => $self->{rated_project});
    return $self->http($stop, $self->bytes($stop));
}

sub make_mortal {
    my ($self, $kind) = @_;

    $self->mortal(600) if !$self->{mortal};

    my $mortal = $self->{mortal};
    my $stop = $self->stop($kind, project => $mortal->{project});
    $stop->{mortal} = $mortal;

    return $self->http($stop, $self->bytes($stop,
        headers => [['X-Auth-Token', $mortal->{token}]]));
}

sub make_denied {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind, prefix => 'frozen');
    return $self->http($stop, $self->bytes($stop));
}

sub make_banned {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind, project => $self->{project}[0]);
    return $self->http($stop, $self->bytes($stop,
        headers => [['X-Auth-Token', $self->{banned}]]));
}

sub make_foreign {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind, project => $self->{project}[1]);
    return $self->http($stop, $self->bytes($stop, headers => $self->headers(
        { project => $self->{project}[2 + rand 5] })));
}

sub make_random_token {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    my $token = join '', map { chr(97 + rand 26) } 1 .. 20 + rand 300;

    return $self->http($stop, $self->bytes($stop,
        headers => [['X-Auth-Token', $token]]));
}

sub make_no_token {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->bytes($stop, headers => []));
}

sub make_two_tokens {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->bytes($stop, headers => $self->headers(
        $stop, ['X-Auth-Token', 'another'])));
}

sub make_bad_target {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    my $target = $self->target($stop);
    my $change = (
        sub { s{/stop\z}{/stop/} }, sub { s{/cdm/}{//cdm/} },
        sub { s{_}{%2F} }, sub { s{/stop\z}{/stop?force=1} },
        sub { s{/stop\z}{;a=b/stop} }, sub { s{/cdm/job}{/CDM/Job} },
    )[rand 6];

    $change->() for $target;

    return $self->http($stop, $self->bytes($stop, target => $target));
}

sub make_method {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->bytes($stop,
        method => (qw(POST GET DELETE PATCH))[rand 4]));
}

sub make_early_data {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->bytes($stop,
        headers => $self->headers($stop, ['Early-Data', 1])));
}

# The head or the body in pieces; some take longer than they may.

sub make_slow {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    my $bytes = $self->bytes($stop, body => 'x' x 60);
    my $pause = rand > 0.2 ? 0.3 : 2;
    my @pieces;

    for my $n (0 .. 6) {
        my $size = $n < 6 ? int(length($bytes) / (7 - $n)) : length $bytes;
        push @pieces, [$n * $pause, substr $bytes, 0, $size, ''];
    }

    return $self->http($stop, '', pieces => \@pieces);
}

# Clients that go away: behind the request, within its head, within its body.

sub make_leaves {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    return $self->http($stop, $self->bytes($stop),
                       leave => rand 0.5, reset => rand > 0.5);
}

sub make_leaves_in_head {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    my $bytes = $self->bytes($stop);

    return $self->http($stop, substr($bytes, 0, rand(length($bytes) - 4)),
                       leave => rand 1, reset => rand > 0.5);
}

sub make_leaves_in_body {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    my $bytes = $self->bytes($stop, body => 'x' x 1000);

    return $self->http($stop, substr($bytes, 0, -500), leave => rand 1,
                       reset => rand > 0.5);
}

sub h2 {
    my ($self, $kind, %arg) = @_;

    my (@stops, @headers);

    for (0 .. rand 5) {
        my $stop = $self->stop($kind);

        $stop->{behind} = 1;
        push @stops, $stop;
        push @headers, [$self->{t}->h2_stop_headers(
            project => $stop->{project}, job => $stop->{job},
            headers => $self->headers($stop))];
    }

    return { via => 'h2', port => $self->{t}->port('h2'), stops => \@stops,
             headers => \@headers, %arg };
}

sub make_h2 { return $_[0]->h2($_[1]) }

sub make_leaves_h2 {
    my ($self, $kind) = @_;

    return $self->h2($kind, leave => rand 0.5, reset => rand > 0.5);
}

sub make_tls {
    my ($self, $kind) = @_;

    my @stops = map { $self->stop($kind) } 1 .. 3;
    my $port = $self->{t}->port('tls');
    my @parts;

    for my $stop (@stops) {
        my $token = $self->headers($stop)->[0][1];
        my $target = $self->target($stop);

        push @parts, <<"END";
url = "https://localhost:$port$target"
request = "PUT"
header = "X-Auth-Token: $token"
cacert = "@{[$self->{t}->path('certs/ca.crt')]}"
noproxy = "*"
include
write-out = "\\n"
max-time = 50
END
    }

    return { via => 'curl', curl => join("next\n", @parts), stops => \@stops };
}

sub make_other {
    my ($self, $kind) = @_;

    my $stop = $self->stop($kind);
    my $target = $self->target($stop) =~ s{/[^/]+/stop\z}{s}r;

    return $self->http($stop, $self->bytes($stop, target => $target,
                                           method => 'GET'));
}

sub make_status {
    my ($self, $kind) = @_;

    my ($query, $accept) = (['', '*/*'], ['?format=json', '*/*'],
                            ['', 'text/html'])[rand 3]->@*;

    return $self->http($self->stop($kind), CdmStop::Http::build_request(
        target => "/status$query", headers => [['Accept', $accept]]));
}

# What is wrong with the answer, undef if nothing is. An answer that did not
# come is another matter.

sub complaint {
    my ($self, $result) = @_;

    my ($status, $code, $kind) = (@$result{qw(status code kind)});

    return if !$status;

    my (undef, $class, $right, $right_code, $late) = @{$KINDS{$kind}};
    my $wrong = "$kind $result->{job}: $status " . ($code // '-');

    if ($class eq 'refused') {
        return if $status == $right && ($code // '') eq $right_code;
        return if $late && ($code // '') eq '0302';
        return $wrong;
    }

    return if $class eq 'rated' && ($code // '') eq '0205';
    return if $class eq 'slow' && $status == 408;

    if ($class eq 'mortal') {
        my $ends = $result->{mortal}{ends};

        return if $result->{end} > $ends - EARLY && ($code // '') eq '0102';
        return "$wrong, its token ended " . ($result->{begin} - $ends)
            . ' s before that'
            if $result->{begin} > $ends + GRACE && !defined $code;
    }

    return $wrong if defined $code && !$TROUBLE{$code};

    # an answer of nginx alone has no place here
    return $wrong if $status =~ /\A(?:408|413|414|421|499)\z/;
    return $wrong if $status == 401 && defined $code;

    return;
}

1;
