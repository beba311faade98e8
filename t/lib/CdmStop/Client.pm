package CdmStop::Client;

=head1 NAME

CdmStop::Client - an HTTP/1 client that sends exactly what it is told to

=head1 SYNOPSIS

    my $c = CdmStop::Client->connect(port => $port);
    $c->send("GET / HTTP/1.1\r\nHost: a\r\n\r\n" x 2);     # pipelined
    my @r = $c->responses(2);                               # bounded wait
    $c->send_slowly([split //, "PUT / HT"], 0.01);
    $c->reset;                                              # RST, not FIN

    my @many = map { CdmStop::Client->connect(port => $port) } 1 .. 1000;
    $_->send($bytes) for @many;
    CdmStop::Client::collect(\@many, expect => 1);          # all in parallel

Every byte received is kept in C<received>. C<eof>, C<was_reset> and
C<timed_out> tell how the connection ended.

=cut

use strict;
use warnings;

use Errno qw(EAGAIN EINTR EINPROGRESS);
use IO::Socket::IP;
use Socket qw(SOL_SOCKET SO_LINGER SOCK_STREAM);
use Time::HiRes qw(time sleep);

use CdmStop::Http;

sub connect {
    my ($class, %arg) = @_;

    my $self = bless {
        in => '', out => '', received => '', responses => [], heads => [],
        timeout => $arg{timeout} // 30, record => $arg{record}
    }, $class;

    my %where = $arg{unix}
        ? (Peer => $arg{unix})
        : (PeerHost => $arg{peer} // '127.0.0.1', PeerPort => $arg{port});

    $self->{sock} = open_socket(\%where, $arg{timeout} // 30);
    $self->{sock}->blocking(0);

    return $self;
}

sub open_socket {
    my ($where, $timeout) = @_;

    if ($where->{Peer}) {
        require IO::Socket::UNIX;
        return IO::Socket::UNIX->new(Type => SOCK_STREAM, %$where)
            || die "connect to $where->{Peer}: $!\n";
    }

    return IO::Socket::IP->new(Type => SOCK_STREAM, Timeout => $timeout,
                               %$where)
        || die "connect to port $where->{PeerPort}: $@\n";
}

# Queues bytes and writes what goes out at once. head => 1 tells that the next
# response answers a HEAD.

sub send {
    my ($self, $bytes, %opt) = @_;

    push @{$self->{heads}}, $opt{head} ? 1 : 0;
    $self->{out} .= $bytes;
    $self->flush;

    return $self;
}

sub flush {
    my ($self) = @_;

    while ($self->{sock} && length $self->{out}) {
        local $SIG{PIPE} = 'IGNORE';
        my $n = syswrite $self->{sock}, $self->{out};

        if (!defined $n) {
            next if $! == EINTR;
            return if $! == EAGAIN;

            $self->{write_error} = "$!";
            $self->{out} = '';
            return;
        }

        substr($self->{out}, 0, $n) = '';
    }

    return;
}

# Sends piece after piece with a pause between; stops when the peer leaves.

sub send_slowly {
    my ($self, $pieces, $pause) = @_;

    for my $piece (@$pieces) {
        $self->send($piece);
        sleep $pause;
        $self->read_some;
        last if $self->{eof} || $self->{write_error};
    }

    return $self;
}

# Reads what is there and takes whole responses from it.

sub read_some {
    my ($self) = @_;

    while ($self->{sock} && !$self->{eof}) {
        my $n = sysread $self->{sock}, my $bytes, 65536;

        if (!defined $n) {
            next if $! == EINTR;
            last if $! == EAGAIN;

            $self->{was_reset} = "$!";
            $self->{eof} = 1;

        } elsif ($n == 0) {
            $self->{eof} = 1;

        } else {
            $self->{in} .= $bytes;
            $self->{received} .= $bytes;
            $self->{first_byte} //= time;
        }
    }

    $self->parse unless $self->{raw_mode};
    return;
}

sub parse {
    my ($self) = @_;

    while (length $self->{in}) {
        my $number = @{$self->{responses}};
        my $r = CdmStop::Http::parse_response(\$self->{in},
                    eof => $self->{eof}, head => $self->{heads}[$number])
            or last;

        $r->{received_at} = time;
        push @{$self->{responses}}, $r;
    }

    return;
}

# Waits for $n responses, or for the end; returns those that came.

sub responses {
    my ($self, $n, %opt) = @_;

    collect([$self], expect => $n, %opt);
    return @{$self->{responses}};
}

# The next response that was not yet taken by this call.

sub response {
    my ($self, %opt) = @_;

    my $number = $self->{taken}++ // 0;
    collect([$self], expect => $number + 1, %opt);

    return $self->{responses}[$number];
}

# Waits until the peer has closed; false if it did not in time.

sub wait_closed {
    my ($self, %opt) = @_;

    collect([$self], expect => ~0, %opt);
    return $self->{eof};
}

# Closes with FIN.

sub close {
    my ($self) = @_;

    if ($self->{sock}) {
        $self->{record}->($self->{received}) if $self->{record};
        CORE::close $self->{sock};
        delete $self->{sock};
    }

    return;
}

# Half-close: no more bytes from us, still reading.

sub finish_sending {
    my ($self) = @_;

    shutdown $self->{sock}, 1;
    return $self;
}

# Closes with RST.

sub reset {
    my ($self) = @_;

    setsockopt $self->{sock}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)
        if $self->{sock};

    return $self->close;
}

sub is_open {
    my ($self) = @_;

    $self->read_some;
    return $self->{sock} && !$self->{eof};
}

# Drives many connections until each has its responses or has ended.

sub collect {
    my ($clients, %opt) = @_;

    my $expect = $opt{expect} // 1;
    my $timeout = $opt{timeout} // (@$clients ? $clients->[0]{timeout} : 30);
    my $deadline = time + $timeout;

    my @waiting = grep { !has_ended($_, $expect) } @$clients;

    while (@waiting) {
        my $left = $deadline - time;

        if ($left <= 0) {
            $_->{timed_out} = 1 for @waiting;
            last;
        }

        my ($r, $w) = ('', '');

        for my $c (@waiting) {
            vec($r, fileno $c->{sock}, 1) = 1;
            vec($w, fileno $c->{sock}, 1) = 1 if length $c->{out};
        }

        my $n = select(my $rr = $r, my $ww = $w, undef, $left);
        next if $n <= 0;

        for my $c (@waiting) {
            my $fd = fileno $c->{sock};
            $c->flush if vec($ww, $fd, 1);
            $c->read_some if vec($rr, $fd, 1);
        }

        @waiting = grep { !has_ended($_, $expect) } @waiting;
    }

    return $clients;
}

sub has_ended {
    my ($client, $expect) = @_;

    return !$client->{sock} || $client->{eof}
        || @{$client->{responses}} >= $expect;
}

sub DESTROY {
    my ($self) = @_;

    $self->close;
    return;
}

1;
