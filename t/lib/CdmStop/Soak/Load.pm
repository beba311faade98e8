package CdmStop::Soak::Load;

=head1 NAME

CdmStop::Soak::Load - many clients of all kinds at once, in one loop

=head1 SYNOPSIS

    my $load = CdmStop::Soak::Load->new($t, kinds => $kinds, rate => 30);
    $load->run($seconds);              # new ones at that rate, and all go on
    $load->drain;                      # no new ones, until all have ended
    $load->burst(50, qw(ok denied));   # so many of these kinds at once
    for my $r (@{$load->results}) { ... }

What a request is and what may be answered is told by L<CdmStop::Soak::Kinds>.
A result is {kind, job, begin, end, status, code, id, body}; status 0 is an
answer that did not come, and left a client that went away by itself. Of those
that did not end within LIMIT seconds C<stuck> has the jobs.

Everything that was received goes to a file of the test, where the search for
secrets finds it.

=cut

use strict;
use warnings;

use Time::HiRes qw(time);

use CdmStop::Client;
use CdmStop::H2;
use CdmStop::Process;

use constant {
    LIMIT => 60,
    AT_ONCE => 150,
};

sub new {
    my ($class, $t, %opt) = @_;

    my $self = bless {
        t => $t, active => [], results => [], stuck => [], curls => 0,
        rate => 30, %opt
    }, $class;

    open $self->{answers}, '>>:raw', $t->path('answers.log')
        or die "answers.log: $!\n";

    return $self;
}

sub results { return $_[0]{results} }

sub active { return scalar @{$_[0]{active}} }

sub run {
    my ($self, $seconds) = @_;

    my $now = time;
    my $end = $now + $seconds;

    # after a pause it does not make up for what it missed
    $self->{due} = $now if ($self->{due} // 0) < $now - 1;

    while (($now = time) < $end) {
        while ($self->{due} < $now && $self->active < AT_ONCE) {
            $self->begin($self->{kinds}->draw);
            $self->{due} += 1 / $self->{rate};
        }

        $self->{due} = $now if $self->active >= AT_ONCE;
        $self->turn(0.02);
    }

    return;
}

sub drain {
    my ($self) = @_;

    $self->turn(0.05) while $self->active;

    return;
}

sub burst {
    my ($self, $n, @kinds) = @_;

    for my $i (1 .. $n) {
        $self->begin($self->{kinds}->make($kinds[$i % @kinds]));
        $self->turn(0) if $self->active >= AT_ONCE;
    }

    return;
}

# Begins what was drawn: {via, stops => [...], port, bytes or headers, ...}.

sub begin {
    my ($self, $what) = @_;

    my $method = "begin_$what->{via}";

    $what->{begin} = time;
    $what->{end} = $what->{begin} + LIMIT;
    $self->$method($what);
    push @{$self->{active}}, $what;

    return;
}

sub record {
    my ($self) = @_;

    return sub { print { $self->{answers} } $_[0], "\n" };
}

sub begin_http {
    my ($self, $what) = @_;

    my $client = CdmStop::Client->connect(port => $what->{port},
                                          record => $self->record);
    $what->{client} = $client;

    # [seconds, bytes]: what is sent slowly
    $what->{pieces} //= [[0, $what->{bytes}]];
    $self->send_piece($what);

    return;
}

sub send_piece {
    my ($self, $what) = @_;

    my $now = time;

    while (@{$what->{pieces}}
           && $what->{pieces}[0][0] <= $now - $what->{begin})
    {
        $what->{client}->send((shift @{$what->{pieces}})->[1]);
    }

    return;
}

sub begin_h2 {
    my ($self, $what) = @_;

    my $h2 = CdmStop::H2->new(port => $what->{port}, record => $self->record);

    $what->{h2} = $h2;
    $what->{client} = $h2->{client};
    $what->{ids} = [map { $h2->request(headers => $_) } @{$what->{headers}}];

    return;
}

# With TLS and the HTTP version that curl and nginx agree on. What curl is to do
# is in a file, for there are tokens in it.

sub begin_curl {
    my ($self, $what) = @_;

    my $t = $self->{t};
    my $n = ++$self->{curls} % 64;
    my $file = $t->path("secrets/curl$n");

    open my $out, '>', $file or die "$file: $!\n";
    print {$out} $what->{curl};
    close $out or die "$file: $!\n";

    $what->{output} = $t->path("curl$n.out");
    unlink $what->{output};
    $what->{pid} = CdmStop::Process::run_in_background(
        ['curl', '-sS', '-K', $file], stdout => $what->{output},
        stderr => $t->path('curl.err'));

    return;
}

# One turn of the loop: at most $seconds of waiting.

sub turn {
    my ($self, $seconds) = @_;

    my ($r, $w) = ('', '');

    for my $what (@{$self->{active}}) {
        my $client = $what->{client} or next;
        next if !$client->{sock};
        vec($r, fileno $client->{sock}, 1) = 1;
        vec($w, fileno $client->{sock}, 1) = 1 if length $client->{out};
    }

    select $r, $w, undef, $seconds;

    my $now = time;
    my @left;

    for my $what (@{$self->{active}}) {
        $self->go_on($what, $r, $now);
        push @left, $what unless $self->has_ended($what, $now);
    }

    $self->{active} = \@left;

    return;
}

sub go_on {
    my ($self, $what, $readable, $now) = @_;

    my $client = $what->{client};

    if (!$client) {
        $what->{status} = CdmStop::Process::wait_for($what->{pid}, 0);
        return;
    }

    return if !$client->{sock};

    $self->send_piece($what) if $what->{pieces} && @{$what->{pieces}};
    $client->flush;

    return if !vec($readable, fileno $client->{sock}, 1);

    $what->{h2} ? $what->{h2}->read_frames(0) : $client->read_some;

    return;
}

sub has_ended {
    my ($self, $what, $now) = @_;

    my $leaves = defined $what->{leave}
        && $now - $what->{begin} >= $what->{leave};
    my $stuck = $now > $what->{end};

    return 0 if !$leaves && !$stuck && !$self->is_complete($what);

    push @{$self->{stuck}}, map { "$_->{kind} $_->{job}" } @{$what->{stops}}
        if $stuck && !$leaves;

    my @answers = $self->answers($what);
    my ($number, $closed) = (0, 0);

    for my $stop (@{$what->{stops}}) {
        my $result = result($stop, $answers[$number++]);
        @$result{qw(begin end)} = ($what->{begin}, $now);
        $result->{left} = 1 if $leaves && !$result->{status};
        $result->{closed} = $closed;
        $closed ||= $result->{closes};
        push @{$self->{results}}, $result;
    }

    $self->close($what, $leaves);

    return 1;
}

sub is_complete {
    my ($self, $what) = @_;

    return defined $what->{status} if $what->{pid};
    return 1 if !$what->{client}{sock} || $what->{client}{eof};

    return !grep { !CdmStop::H2::is_complete($what->{h2}{streams}{$_}) }
            @{$what->{ids}} if $what->{h2};

    return @{$what->{client}{responses}} >= @{$what->{stops}};
}

sub answers {
    my ($self, $what) = @_;

    if ($what->{h2}) {
        return map { $what->{h2}{streams}{$_} } @{$what->{ids}};
    }

    return @{$what->{client}{responses}} if $what->{client};

    # heads and bodies of HTTP/1.1 or HTTP/2, one after the other
    my $output = -e $what->{output} ? $self->{t}->read($what->{output}) : '';
    print { $self->{answers} } $output;

    my @answers;

    while ($output =~ /^HTTP\/(?:2|1\.1)\ (\d+)[^\n]*\n(.*?)\r?\n\r?\n
                       (.*?)\n?(?=^HTTP\/|\z)/gmsx)
    {
        my ($status, $head, $body) = ($1, $2, $3);

        push @answers, bless {
            status => $status, body => $body, headers => [
                map { [split /:\s*/, s/\r\z//r, 2] } split /\n/, $head
            ]
        }, 'CdmStop::Http::Message' if $status >= 200;
    }

    return @answers;
}

sub result {
    my ($stop, $answer) = @_;

    my %result = (%$stop, status => 0);

    # a stream that was not answered has no status either
    return \%result if !$answer || !$answer->{status};

    $result{status} = $answer->{status};
    $result{id} = $answer->header('X-Request-Id');
    $result{code} = $1
        if $answer->{body} =~ /"error_code":"CDMSTOP\.(\d{4})"/;
    $result{closes} = 1
        if ($answer->header('Connection') // '') eq 'close';
    $result{malformed} = $answer->{malformed} if $answer->{malformed};

    return \%result;
}

sub close {
    my ($self, $what, $leaves) = @_;

    if ($what->{pid}) {
        CdmStop::Process::end($what->{pid}) if !defined $what->{status};
        return;
    }

    $leaves && $what->{reset} ? $what->{client}->reset
                              : $what->{client}->close;
    return;
}

1;
