package CdmStop::Standin::Server;

=head1 NAME

CdmStop::Standin::Server - the loop in the child process of a stand-in

=head1 SYNOPSIS

    CdmStop::Standin::Server->new(standin => $s, listener => $socket,
                                  channel => $socket, app => $application)->run;

One select() loop for the channel to the parent, the listening socket and any
number of connections. It ends when the parent closes the channel. Each frame
of the recordings is: kind (O open, D data, Q request, C close), connection,
time, length, data.

=cut

use strict;
use warnings;

use Errno qw(EAGAIN EINTR);
use IO::Socket::IP;
use POSIX ();
use Socket qw(SOCK_STREAM SOMAXCONN);
use Storable ();
use Time::HiRes qw(time);

use CdmStop::Standin::Connection;
use CdmStop::Standin::Rule;

sub listener {
    my ($standin) = @_;

    my $listener = IO::Socket::IP->new(
        LocalHost => $standin->{host}, LocalPort => $standin->{port},
        Type => SOCK_STREAM, Listen => SOMAXCONN, ReuseAddr => 1)
        or die "stand-in $standin->{name}: port $standin->{port}: $@\n";
    $listener->blocking(0);

    return $listener;
}

sub new {
    my ($class, %arg) = @_;

    return bless {
        conns => {}, rules => [], timers => [], released => {},
        accepting => 1, counter => fresh_counters(), next_id => 1, %arg
    }, $class;
}

sub fresh_counters {
    return { connections => 0, requests => 0, bytes => 0 };
}

sub run {
    my ($self) = @_;

    $SIG{PIPE} = 'IGNORE';
    $SIG{INT} = 'IGNORE';
    $0 = "stand-in $self->{standin}{name}";

    $self->close_inherited;
    $self->open_log;

    $self->turn until $self->{done};

    return;
}

# Sockets of the test must not be held open here. They are replaced and not
# closed, for perl counts the handles of a descriptor and would not close a new
# handle that got the number of an old one.

sub close_inherited {
    my ($self) = @_;

    my %keep = map { $_ => 1 } 0 .. 2,
        map { fileno $_ } @$self{qw(listener channel)};

    opendir my $dir, '/proc/self/fd' or return;
    my @open = grep { /\A\d+\z/ && !$keep{$_} && $_ != fileno $dir }
               readdir $dir;
    closedir $dir;

    open my $null, '<', '/dev/null' or die "/dev/null: $!\n";
    POSIX::dup2(fileno $null, $_) for grep { $_ != fileno $null } @open;

    return;
}

sub open_log {
    my ($self) = @_;

    my $file = "$self->{standin}{store}/log";
    open($self->{log}, '>:raw', $file) or die "$file: $!\n";

    return;
}

sub record {
    my ($self, $kind, $conn, $data) = @_;

    return unless $self->{standin}{record};

    my $frame = pack('aNdN', $kind, $conn->{id}, time, length $data) . $data;

    # one write, so that the parent never reads half a frame
    syswrite $self->{log}, $frame;

    return;
}

# One turn of the loop; waits at most $timeout.

sub turn {
    my ($self, $timeout) = @_;

    my ($r, $w) = ('', '');

    vec($r, fileno $self->{channel}, 1) = 1;
    vec($r, fileno $self->{listener}, 1) = 1
        if $self->{listener} && $self->{accepting};

    for my $c (values %{$self->{conns}}) {
        vec($r, $c->{fd}, 1) = 1 unless $c->{eof} || $c->{deaf};
        vec($w, $c->{fd}, 1) = 1 if length $c->{out};
    }

    $timeout //= $self->time_to_timer;
    my $n = select($r, $w, undef, $timeout);

    $self->run_timers;

    if ($n > 0) {
        $self->accept_all
            if $self->{listener} && vec($r, fileno $self->{listener}, 1);

        my @conns = values %{$self->{conns}};

        for my $c (@conns) {
            $c->on_writable if vec($w, $c->{fd}, 1) && !$c->{closed};
            $c->on_readable if vec($r, $c->{fd}, 1) && !$c->{closed};
        }

        $self->on_channel if vec($r, fileno $self->{channel}, 1);
    }

    return $n;
}

sub accept_all {
    my ($self) = @_;

    while (my $sock = $self->{listener}->accept) {
        $sock->blocking(0);

        my $c = CdmStop::Standin::Connection->new(
            server => $self, sock => $sock, id => $self->{next_id}++);

        $self->{conns}{$c->{fd}} = $c;
        $self->{counter}{connections}++;
        $self->record('O', $c, '');
        $c->on_event('accept');
    }

    return;
}

# Timers, few at a time: a sorted list.

sub after {
    my ($self, $seconds, $code) = @_;

    my $timer = { at => time + $seconds, code => $code };

    @{$self->{timers}} = sort { $a->{at} <=> $b->{at} }
                         @{$self->{timers}}, $timer;
    return $timer;
}

sub time_to_timer {
    my ($self) = @_;

    my $first = $self->{timers}[0] or return;
    my $left = $first->{at} - time;

    return $left > 0 ? $left : 0;
}

sub run_timers {
    my ($self) = @_;

    my $now = time;

    while (@{$self->{timers}} && $self->{timers}[0]{at} <= $now) {
        (shift @{$self->{timers}})->{code}->();
    }

    return;
}

# The first rule that fits and is not used up, or none.

sub rule_for {
    my ($self, $event, $connection, $request) = @_;

    for my $rule (@{$self->{rules}}) {
        next if ($rule->{on} // 'request') ne $event;
        next if defined $rule->{times} && $rule->{times} <= 0;
        next unless CdmStop::Standin::Rule::fits($rule->{when}, $connection,
                                                 $request);
        $rule->{times}-- if defined $rule->{times};
        return $rule;
    }

    return;
}

# The channel: one command, one answer.

sub on_channel {
    my ($self) = @_;

    my $command = read_frame($self->{channel}, 60);

    if (!$command) {
        $self->{done} = 1;
        return;
    }

    my ($name, @args) = @$command;
    my $method = "cmd_$name";
    my $target = $self->can($method) ? $self
        : $self->{app}->can($method) ? $self->{app} : undef;

    my $value = $target ? eval { $target->$method(@args) } : undef;
    my $error = $target ? $@ : "unknown command $name\n";

    write_frame($self->{channel}, $error ? [0, $error] : [1, $value]);
    return;
}

# Reads all that has arrived by now.

sub settle {
    my ($self) = @_;

    $self->accept_all if $self->{listener} && $self->{accepting};

    my @conns = values %{$self->{conns}};

    for my $c (@conns) {
        $c->on_readable unless $c->{closed} || $c->{eof} || $c->{deaf};
    }

    return;
}

sub cmd_sync {
    my ($self) = @_;

    $self->settle;
    return 1;
}

sub cmd_counters {
    my ($self) = @_;

    $self->settle;
    return { %{$self->{counter}}, open => scalar keys %{$self->{conns}} };
}

sub cmd_script {
    my ($self, @rules) = @_;

    $self->{rules} = [@rules];
    return 1;
}

sub cmd_add_script {
    my ($self, @rules) = @_;

    push @{$self->{rules}}, @rules;
    return 1;
}

sub cmd_release {
    my ($self, $name) = @_;

    $self->{released}{$name} = 1;

    my @held = grep { ($_->{held} // '') eq $name } values %{$self->{conns}};
    $_->resume for @held;

    return scalar @held;
}

sub cmd_refuse {
    my ($self) = @_;

    close(delete $self->{listener}) if $self->{listener};
    return 1;
}

sub cmd_pause {
    my ($self) = @_;

    $self->{accepting} = 0;
    return 1;
}

sub cmd_resume {
    my ($self) = @_;

    $self->{listener} //= listener($self->{standin});
    $self->{accepting} = 1;
    return 1;
}

sub cmd_close_idle {
    my ($self, $reset) = @_;

    my @idle = grep { $_->is_idle } values %{$self->{conns}};
    $_->close($reset ? 'us reset' : 'us') for @idle;

    return scalar @idle;
}

sub cmd_reset_log {
    my ($self) = @_;

    $self->settle;
    $self->{rules} = [];
    $self->{released} = {};
    $self->{counter} = fresh_counters();
    $self->open_log;

    return 1;
}

# Frames of the channel: length and frozen data.

sub write_frame {
    my ($fh, $data) = @_;

    my $frozen = Storable::nfreeze($data);
    my $bytes = pack('N', length $frozen) . $frozen;
    my $at = 0;

    local $SIG{PIPE} = 'IGNORE';

    while ($at < length $bytes) {
        my $n = syswrite $fh, $bytes, length($bytes) - $at, $at;
        next if !defined $n && $! == EINTR;
        return unless defined $n;
        $at += $n;
    }

    return 1;
}

sub read_frame {
    my ($fh, $timeout) = @_;

    my $deadline = time + $timeout;
    my $head = read_exactly($fh, 4, $deadline) // return;
    my $body = read_exactly($fh, unpack('N', $head), $deadline) // return;

    return Storable::thaw($body);
}

sub read_exactly {
    my ($fh, $length, $deadline) = @_;

    my $bytes = '';

    while (length $bytes < $length) {
        vec(my $r = '', fileno $fh, 1) = 1;
        my $n = select($r, undef, undef, $deadline - time);
        next if $n < 0 && $! == EINTR;
        return if $n <= 0;

        $n = sysread $fh, $bytes, $length - length $bytes, length $bytes;
        next if !defined $n && $! == EINTR;
        return unless $n;
    }

    return $bytes;
}

1;
