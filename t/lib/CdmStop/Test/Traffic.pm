package CdmStop::Test::Traffic;

=head1 NAME

CdmStop::Test::Traffic - the part of CdmStop::Test that sends requests

=head1 SYNOPSIS

    my $r = $t->request(method => 'GET', target => '/x', headers => [A => 'b']);
    my $r = $t->put_stop(job => 'x', headers => ['X-Auth-Token' => 'v']);
    my @r = $t->raw("GET / HTTP/1.1\r\n...", expect => 2);      # pipelined

    my @h = map { $t->start_stop(job => "j$_") } 1 .. 1000;     # in parallel
    my @r = $t->finish(@h);

    my $c = $t->connect;      # a CdmStop::Client: send, send_slowly, reset, ...
    my $h2 = $t->h2;          # a CdmStop::H2
    my ($exit, $out) = $t->curl('-s', "https://127.0.0.1:$port/");

All answers are kept for the search for secrets.

=cut

use strict;
use warnings;

use Time::HiRes qw(time sleep);

use CdmStop::Client;
use CdmStop::H2;
use CdmStop::Http;
use CdmStop::Process;

# The example of the StopJob document.

use constant {
    PROJECT => '1551c7f6c808414d8e9f3c514a170f2e',
    CLUSTER => '6ec9a0a4-76be-4262-8697-e7af1fac7920',
    JOB => 'jdbc2hive',
};

sub stop_target {
    my ($self, %arg) = @_;

    return '/v1.1/' . ($arg{project} // PROJECT)
        . '/clusters/' . ($arg{cluster} // CLUSTER)
        . '/cdm/job/' . ($arg{job} // JOB) . '/stop';
}

# Opens a connection: port (default %%PORT%%), unix, timeout.

sub connect {
    my ($self, %opt) = @_;

    return CdmStop::Client->connect(
        port => $self->port, timeout => $self->{timeout},
        record => sub { $self->keep_answer('answer', $_[0]) }, %opt);
}

sub keep_answer {
    my ($self, $what, $bytes) = @_;

    push @{$self->{answers}}, [$what, $bytes] if length $bytes;
    return;
}

my %OF_CONNECTION = map { $_ => 1 } qw(port unix peer timeout);

# Sends one request; the handle goes to finish(). Arguments: method, target,
# version, headers, body, host, keepalive, port, timeout.

sub start_request {
    my ($self, %arg) = @_;

    my $client = $self->connect(
        map { $_ => $arg{$_} } grep { $OF_CONNECTION{$_} } keys %arg);

    return $client->send(CdmStop::Http::build_request(%arg),
                         head => ($arg{method} // '') eq 'HEAD');
}

sub start_stop {
    my ($self, %arg) = @_;

    return $self->start_request(
        method => 'PUT', %arg,
        target => $arg{target} // $self->stop_target(%arg));
}

# Waits for the answers of handles and closes them; one answer for each, undef
# where none came. The timeout is for all together.

sub finish {
    my ($self, @handles) = @_;

    CdmStop::Client::collect(\@handles, timeout => $self->{timeout});

    my @answers = map { $_->{responses}[0] } @handles;
    $_->close for @handles;
    $self->pace(scalar grep {
        $_ && $_->{status} >= 400 && $_->{body} =~ /"CDMSTOP/
    } @answers);

    return wantarray ? @answers : $answers[0];
}

# Beyond a hundred refusals a second a worker sums them up, and here each one
# is to have its record: twenty at once, then seventy a second. Many that were
# made at once are summed up all the same.

sub pace {
    my ($self, $n) = @_;

    my $now = time;
    my $left = ($self->{pace_left} // 20)
               + ($now - ($self->{pace_time} // $now)) * 70;

    $left = 20 if $left > 20;
    $left -= $n;

    if ($left < 0) {
        my $pause = -$left / 70;
        sleep($pause < 0.05 ? $pause : 0.05);
        $left = 0;
        $now = time;
    }

    @$self{qw(pace_left pace_time)} = ($left, $now);
    return;
}

# One request, one answer. One that did not come has status 0.

sub request {
    my ($self, %arg) = @_;

    return $self->answer_of($self->start_request(%arg));
}

sub put_stop {
    my ($self, %arg) = @_;

    return $self->answer_of($self->start_stop(%arg));
}

sub answer_of {
    my ($self, $handle) = @_;

    my ($answer) = $self->finish($handle);

    return $answer // bless {
        status => 0, reason => '', headers => [], body => '', raw => '',
        interim => [], malformed => $handle->{timed_out} ? 'no answer in time'
            : $handle->{was_reset} ? 'reset' : 'closed without an answer'
    }, 'CdmStop::Http::Message';
}

# Sends bytes as they are and waits for the answers (expect => N, default 1) or
# for the end of the connection. In scalar context the first answer.

sub raw {
    my ($self, $bytes, %opt) = @_;

    my $expect = delete $opt{expect} // 1;
    my $head = delete $opt{head};
    my $client = $self->connect(%opt);

    $client->send($bytes, head => $head);
    my @answers = $client->responses($expect);
    $self->{last_connection} = {
        map { $_ => $client->{$_} } qw(eof was_reset timed_out received)
    };
    $client->close;

    return wantarray ? @answers : $answers[0];
}

# An HTTP/2 connection (prior knowledge, no TLS).

sub h2 {
    my ($self, %opt) = @_;

    return CdmStop::H2->new(
        port => $self->port, timeout => $self->{timeout},
        record => sub { $self->keep_answer('HTTP/2 answer', $_[0]) }, %opt);
}

# The headers of a stop over HTTP/2, their names in lower case as they must be.
# What is forbidden is appended by the test itself.

sub h2_stop_headers {
    my ($self, %arg) = @_;

    return ([':method', 'PUT'], [':scheme', 'http'],
            [':path', $arg{target} // $self->stop_target(%arg)],
            [':authority', 'localhost'],
            map { [lc $_->[0], $_->[1]] } CdmStop::Http::pairs($arg{headers}));
}

sub curl {
    my ($self, @arguments) = @_;

    my ($exit, $output) = CdmStop::Process::capture(
        'curl', '--noproxy', '*', '--max-time', int($self->{timeout} + 0.5),
        @arguments, { timeout => $self->{timeout} + 5 });
    $self->keep_answer('output of curl', $output);

    return ($exit, $output);
}

1;
