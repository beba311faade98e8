package CdmStop::Recovery;

=head1 NAME

CdmStop::Recovery - what must be seen when CDM refuses a token

=head1 SYNOPSIS

    my $see = CdmStop::Recovery->new(test => $t, iam => $iam, cdm => $cdm);

    my $old = $see->warm($project);        # a stop, so that there is a token
    $see->renewed('D05 ...', refusal => { answer => 'apig_0307' }, ...);
    $see->passes('D04 ...', refusal => { answer => 'forbidden_0302' }, ...);
    $see->outcome('D07 ...', $answer, status => 401, attempts => 2);
    like($see->status_line($answer), qr/RENEWED/);

A refusal is a rule of the stand-in for CDM. It answers to the token that is
in use, and to no other, and is taken away afterwards.

The configuration writes status.log with the request's id, token status,
attempts, "$upstream_status" and status.

=cut

use strict;
use warnings;

use Test::More ();

use CdmStop::Exchange;
use CdmStop::Http;
use CdmStop::Test::Records;

sub new {
    my ($class, %opt) = @_;

    return bless {%opt}, $class;
}

# The token that IAM issued last for a project.

sub token {
    my ($self, $project) = @_;

    my @tokens = map { $_->{token} }
        grep { ($_->{project} // '') eq $project }
        map { $_->tokens } grep { $_->isa('CdmStop::Iam') }
        @{ $self->{test}{standins} };

    return $tokens[-1];
}

# One stop that is served; returns the token for it.

sub warm {
    my ($self, @arg) = @_;

    my %arg = @arg == 1 ? (project => $arg[0]) : @arg;
    my $answer = $self->send(job => 'warm', %arg);

    die "no answer to the first stop: $answer->{raw}\n"
        if $answer->{status} != 200;

    $self->{served} = $answer;
    return $self->token($arg{project});
}

# Sends a stop over HTTP/1.1, chunked or not, or over HTTP/2.

sub send {
    my ($self, %arg) = @_;

    my $t = $self->{test};
    my %stop = map { $_ => $arg{$_} }
        grep { exists $arg{$_} } qw(project job port headers body);

    if ($arg{h2}) {
        my $h2 = $t->h2(port => $arg{port});
        my $id = $h2->request(headers => [$t->h2_stop_headers(%stop)],
            defined $arg{body} ? (body => $arg{body}) : ());
        my $answer = $h2->response($id);

        $h2->close;
        return $answer;
    }

    if ($arg{chunked}) {
        my $chunks = join '', map { sprintf("%x\r\n%s\r\n", length, $_) }
            unpack '(a7001)*', delete $stop{body};

        return $t->raw(CdmStop::Http::build_request(
            method => 'PUT', target => $t->stop_target(%stop), headers =>
                ['Transfer-Encoding' => 'chunked', 'Connection' => 'close'])
            . $chunks . "0\r\n\r\n", port => $arg{port});
    }

    return $t->put_stop(%stop);
}

# A first 401 that the caller sees nothing of. Arguments beyond those of
# send(): refusal (a rule), tried (a pattern for $upstream_status).

sub renewed {
    my ($self, $name, %arg) = @_;

    my ($t, $cdm) = @$self{qw(test cdm)};
    my $project = new_project();
    my $old = $self->warm(%arg, project => $project);

    $cdm->reset_log;
    $cdm->script({ when => { header => { 'X-Auth-Token' => $old } },
                   %{ $arg{refusal} } });
    my $answer = $self->send(%arg, project => $project);
    $cdm->script;

    my @sent = $cdm->stops;
    my @findings;

    push @findings, "status $answer->{status} "
        . ($answer->{malformed} // substr $answer->{body}, 0, 200)
        if $answer->{status} != 200 || $answer->{body} ne '{}';

    my ($had, $want) = map { join ' ', sort grep { $_ ne 'connection' }
                             $_->names } $answer, $self->{served};
    push @findings, "headers $had, not $want" if $had ne $want;

    my ($is, $should) = map { $_->header('Content-Type') // '-' }
        $answer, $self->{served};
    push @findings, "Content-Type $is, not $should" if $is ne $should;

    push @findings, 'sent ' . @sent . ' times' if @sent != 2;
    push @findings, $self->differences($old, $project, $arg{body}, @sent)
        if @sent == 2;

    my $posts = posts_for($self->{iam}, $project);
    push @findings, "$posts calls of IAM" if $posts != 2;

    my $line = $self->status_line($answer);
    my $tried = $arg{tried} // qr/401 : 200/;
    push @findings, "in the log: $line"
        if $line !~ /\A\S+ RENEWED 2 "$tried" 200\z/;

    push @findings, $self->pair($answer, status => 200, attempts => 2,
        upstream_status => 200, verdict => 'stopped', error_code => undef);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return report($name, @findings);
}

# Between what CDM got at first and then: nothing but the token.

sub differences {
    my ($self, $old, $project, $body, @sent) = @_;

    my @tokens = map { join ',', $_->all('X-Auth-Token') } @sent;
    my ($first, $second) = map { $_->{raw} =~ s/^(X-Auth-Token): \S+/$1/mir }
        @sent;
    my @findings;

    push @findings, 'another request for the second time' if $first ne $second;
    push @findings, 'not the token that was refused' if $tokens[0] ne $old;
    push @findings, 'not the token that came instead'
        if $tokens[1] ne $self->token($project) || $tokens[1] eq $old;
    push @findings, map { 'another body: ' . length($_->{body}) . ' bytes' }
        grep { $_->{body} ne ($body // '') } @sent;

    return @findings;
}

# An answer that passes as it came, from a stop that was sent once. Arguments:
# own (the token that CDM must get).

sub passes {
    my ($self, $name, %arg) = @_;

    my $cdm = $self->{cdm};

    $cdm->reset_log;
    $cdm->script({ when => { project => $arg{project} }, %{ $arg{refusal} },
                   headers => ['X-First' => 'yes', 'Retry-After' => '9'] });
    my $answer = $self->send(%arg);
    $cdm->script;

    my @sent = $cdm->stops;
    my @findings;

    push @findings, "status $answer->{status}"
        if $answer->{status} !~ /\A4/ || $answer->{body} =~ /CDMSTOP/;
    push @findings, 'not its headers'
        if ($answer->header('X-First') // '') ne 'yes'
        || ($answer->header('Retry-After') // '') ne '9';
    push @findings, 'sent ' . @sent . ' times' if @sent != 1;
    push @findings, 'another token'
        if $arg{own} && $sent[0]->header('X-Auth-Token') ne $arg{own};

    push @findings, $self->pair($answer, status => $answer->{status},
        attempts => 1, upstream_status => $answer->{status},
        verdict => $answer->{status} == 429 ? 'throttled' : 'denied');

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return report($name, @findings);
}

# The line of status.log for an answer.

sub status_line {
    my ($self, $answer) = @_;

    my $t = $self->{test};
    my $id = $answer->header('X-Request-Id') // return 'no X-Request-Id';

    return $t->wait_for(sub {
        -e $t->path('status.log') && $t->read('status.log') =~ /^($id .*)\n/m
            && $1;
    }, quiet => 1, timeout => 5) // "nothing of $id";
}

# The records since the last call, by whom ever; each line is decoded once.

sub new_records {
    my ($self) = @_;

    open my $in, '<:raw', $self->{test}->path('audit.jsonl') or return;
    seek $in, $self->{read} // 0, 0;
    my $bytes = do { local $/; <$in> } // '';
    close $in;

    # the last line may be on its way
    $bytes =~ s/[^\n]+\z//;
    $self->{read} += length $bytes;

    my @records =
        CdmStop::Test::Records::parse_lines($bytes, 'audit.jsonl');
    push @{ $self->{records}{ $_->{request_id} } }, $_ for @records;

    return @records;
}

sub records_of {
    my ($self, $answer) = @_;

    $self->new_records;

    return @{ $self->{records}{ $answer->header('X-Request-Id') // '-' }
              // [] };
}

sub outcome_of {
    my ($self, $answer) = @_;

    return (grep { $_->{stage} eq 'outcome' } $self->records_of($answer))[-1]
        // {};
}

# One intent and one outcome, which says what is wanted; undef: no such field.

sub pair {
    my ($self, $answer, %want) = @_;

    my @records = $self->records_of($answer);
    my $stages = join ' ', map { $_->{stage} } @records;

    return "records: $stages" if $stages ne 'intent outcome';

    return map {
        my $is = $records[1]{$_};
        ($is // '') eq ($want{$_} // '') ? ()
            : "outcome: $_ is " . ($is // 'absent');
    } sort keys %want;
}

sub outcome {
    my ($self, $name, $answer, %want) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return report("$name: one pair of records",
                  $self->pair($answer, %want));
}

sub report {
    my ($name, @findings) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return Test::More::ok(!@findings, $name)
        || Test::More::diag(map { "  $_\n" } @findings);
}

1;
