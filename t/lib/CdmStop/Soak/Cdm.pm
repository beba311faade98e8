package CdmStop::Soak::Cdm;

=head1 NAME

CdmStop::Soak::Cdm - a stand-in for CDM that judges each stop as it arrives

=head1 SYNOPSIS

    my $cdm = $t->standin('CdmStop::Soak::Cdm', name => 'cdm', port => 'CDM',
        record => 0, audit => [$t->path('audit.jsonl')]);
    $cdm->command('refuse', $project);      # its token is good no more
    my $seen = $cdm->command('seen');       # {stops => [...], tokens => [...]}
    my @wrong = @{$cdm->command('wrong')};

When a stop arrives, its intent has to be in one of the files of records by
then: they are read on to their ends, also under the names that rotations give
them. The gateway tells the id of its record in X-Gateway-Id. Headers must be
those that may reach CDM, the token must come once.

A token that was refused is refused for good, with one of the answers that CDM
has for it; it may still come for TOLERANCE seconds after the first refusal.

A stop that was seen is [time, job, project, number of its token, whether that
was refused].

=cut

use strict;
use warnings;

use parent 'CdmStop::Cdm';

# requests that were under way when the first of them was refused, on a machine
# that has other things to do

use constant TOLERANCE => 15;

sub application {
    my ($self) = @_;

    return CdmStop::Soak::Cdm::Application->new(audit => $self->{audit});
}


package CdmStop::Soak::Cdm::Application;

use Fcntl qw(SEEK_SET);
use Time::HiRes qw(time);

our @ISA = ('CdmStop::Cdm::Application');

my @REFUSALS = qw(
    apig_0307 apig_0301 token_expired token_must_update keystone_401
);

my %MAY_COME = map { $_ => 1 } qw(
    accept accept-language content-type user-agent x-language workspace
    traceparent tracestate x-auth-token host connection content-length
    accept-encoding transfer-encoding x-gateway-id
);

sub new {
    my ($class, %opt) = @_;

    my $self = $class->SUPER::new;
    %$self = (
        %$self, %opt, stops => [], tokens => [], number => {}, wrong => [],
        intents => {}, tails => [], opened => {}, refused => {}, last_of => {},
        others => 0
    );

    return $self;
}

sub wrong {
    my ($self, $what) = @_;

    push @{$self->{wrong}}, $what if @{$self->{wrong}} < 100;
    return;
}

# Every request passes here. What is returned is the rule for it, if any.

sub seen {
    my ($self, $request) = @_;

    my ($project, $job) = $request->{target}
        =~ m{\A/v1\.1/(\w+)/clusters/[^/]+/cdm/job/([^/]+)/stop\z};

    if (!defined $job) {
        $self->{others}++;
        $self->wrong("a stop in disguise: $request->{target}")
            if $request->{target} =~ /stop/i && $request->{method} ne 'GET';
        return;
    }

    my $now = time;
    my @tokens = $request->all('X-Auth-Token');
    my $token = $tokens[0] // '';
    my $number = $self->{number}{$token};

    if (!defined $number) {
        $number = $self->{number}{$token} = @{$self->{tokens}};
        push @{$self->{tokens}}, $token;
    }

    my $rule = $self->refusal($token, $job, $now);
    push @{$self->{stops}}, [$now, $job, $project, $number, $rule ? 1 : 0];
    $self->{last_of}{$project} = $token;

    $self->wrong("$job: method $request->{method}")
        if $request->{method} ne 'PUT';
    $self->wrong("$job: " . @tokens . ' tokens') if @tokens != 1;
    $self->wrong("$job: header $_") for grep { !$MAY_COME{lc $_} }
        map { $_->[0] } @{$request->{headers}};

    $self->find_intent($request, $project, $job);

    return $rule;
}

sub find_intent {
    my ($self, $request, $project, $job) = @_;

    my $id = $request->header('X-Gateway-Id') // '';

    $self->read_on($_) for $self->{intents}{$id} ? () : @{$self->{audit}};

    # one that was renamed before any stop came out of it
    $self->read_on($_) for $self->{intents}{$id} ? ()
        : grep { !/\.(?:state|lock)\b/ } map { glob "$_.*" } @{$self->{audit}};

    my $intent = $self->{intents}{$id};

    return $self->wrong("$job: no intent of request $id") if !$intent;
    $self->wrong("$job: its intent is $intent")
        if $intent ne "$project $job";

    return;
}

# Of a token that is good no more.

sub refusal {
    my ($self, $token, $job, $now) = @_;

    my $refused = $self->{refused}{$token} or return;

    $refused->{since} //= $now;
    $refused->{times}++;
    $self->wrong(sprintf '%s: a token that was refused %.1f s ago', $job,
                 $now - $refused->{since})
        if $now - $refused->{since} > CdmStop::Soak::Cdm::TOLERANCE;

    return { answer => $refused->{answer} };
}

# Reads a file of records to its end. One that got another name is read on, as
# a worker may write to it for a while.

sub read_on {
    my ($self, $path) = @_;

    my $tails = $self->{tails};
    my $inode = (stat $path)[1];

    if ($inode && !$self->{opened}{$inode} && open my $fh, '<:raw', $path) {
        $self->{opened}{ (stat $fh)[1] } = 1;
        push @$tails, { fh => $fh, rest => '' };
        shift @$tails if @$tails > 16;
    }

    $self->read_tail($_) for @$tails;

    return;
}

sub read_tail {
    my ($self, $tail) = @_;

    while (sysread $tail->{fh}, $tail->{rest}, 1 << 20, length $tail->{rest}) {
        while ($tail->{rest} =~ s/\A([^\n]*)\n//) {
            my $line = $1;
            my %field = $line =~ /"(stage|request_id|project_id|job_name)":"
                                  ([^"]*)"/gx;
            $self->{intents}{$field{request_id}} =
                "$field{project_id} $field{job_name}"
                if ($field{stage} // '') eq 'intent';
        }
    }

    return;
}

# Commands of the parent.

# At most six times a minute the gateway gets a new token for this: no more
# than each twelve seconds.

sub cmd_refuse {
    my ($self, $project) = @_;

    my $token = $self->{last_of}{$project} // return;
    my $now = time;

    return if $self->{refused}{$token}
        || $now - ($self->{refused_at}{$project} // 0) < 12;

    $self->{refused_at}{$project} = $now;
    $self->{refused}{$token} = { answer => $REFUSALS[rand @REFUSALS],
                                 times => 0 };
    return $token;
}

sub cmd_seen {
    my ($self) = @_;

    return { map { $_ => $self->{$_} } qw(stops tokens refused others) };
}

sub cmd_wrong {
    my ($self) = @_;

    return $self->{wrong};
}

1;
