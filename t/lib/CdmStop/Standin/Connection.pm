package CdmStop::Standin::Connection;

=head1 NAME

CdmStop::Standin::Connection - one connection of a stand-in, in its child

=head1 SYNOPSIS

    my $c = CdmStop::Standin::Connection->new(server => $server,
                                              sock => $socket, id => 7);
    $c->on_event('accept');
    $c->on_readable; $c->on_writable;

What is to be done for an answer is a list of steps (see
L<CdmStop::Standin::Rule>), run one after the other; the next request of the
connection is taken when all are done.

=cut

use strict;
use warnings;

use Errno qw(EAGAIN EINTR);
use Socket qw(SOL_SOCKET SO_LINGER);
use Storable ();

use CdmStop::Http;
use CdmStop::Standin::Rule;

sub new {
    my ($class, %arg) = @_;

    return bless {
        in => '', out => '', steps => [], requests => 0,
        fd => fileno $arg{sock}, %arg
    }, $class;
}

sub is_idle {
    my ($self) = @_;

    return !$self->{busy} && $self->{in} eq '' && $self->{requests} > 0;
}

# Things that happen before a request is there: accept, first_byte.

sub on_event {
    my ($self, $event) = @_;

    my $rule = $self->{server}->rule_for($event, $self, undef) or return;

    push @{$self->{steps}}, CdmStop::Standin::Rule::event_steps($rule);
    $self->{busy} = 1;
    $self->run_steps;

    return;
}

sub on_readable {
    my ($self) = @_;

    my $was_empty = $self->{in} eq '';

    while (!$self->{closed} && !$self->{eof}) {
        my $n = sysread $self->{sock}, my $bytes, 65536;

        if (!defined $n) {
            next if $! == EINTR;
            last if $! == EAGAIN;
            return $self->close('peer reset');
        }

        if ($n == 0) {
            $self->{eof} = 1;
            last;
        }

        $self->{server}{counter}{bytes} += $n;
        $self->{server}->record('D', $self, $bytes);
        $self->{in} .= $bytes;

        if ($was_empty && !$self->{busy}) {
            $was_empty = 0;
            $self->on_event('first_byte');
        }
    }

    return if $self->{closed};

    $self->on_eof if $self->{eof};
    $self->next_request unless $self->{closed} || $self->{busy};

    return;
}

# The peer is gone: nothing more is owed to it but what is being sent.

sub on_eof {
    my ($self) = @_;

    return if $self->{busy} && !$self->{held} && !$self->{hanging};

    if (!$self->{busy}) {
        $self->next_request;
        return if $self->{busy} || $self->{closed};
    }

    return $self->close('peer');
}

sub next_request {
    my ($self) = @_;

    my $request = CdmStop::Http::parse_request(\$self->{in}) or return;
    my $server = $self->{server};

    $self->{requests}++;
    $request->{conn_request} = $self->{requests};
    $request->{n} = ++$server->{counter}{requests};
    $server->record('Q', $self, Storable::freeze($request));

    # an application may look at all requests, and have a rule of its own
    my $rule = $server->{app}->can('seen')
        ? $server->{app}->seen($request) : undef;
    $rule //= $server->rule_for('request', $self, $request);
    my @steps = eval {
        CdmStop::Standin::Rule::answer_steps($server, $rule, $request);
    };

    if ($@) {
        print STDERR "stand-in: $@";
        @steps = (['close', 'us']);
    }

    $self->{busy} = 1;
    $self->{steps} = \@steps;
    $self->run_steps;

    return;
}

# Runs steps until one of them waits.

sub run_steps {
    my ($self) = @_;

    while (!$self->{closed}) {
        return if length $self->{out};

        my $step = shift @{$self->{steps}};

        if (!$step) {
            $self->{busy} = 0;
            return $self->close('peer') if $self->{eof} && $self->{in} eq '';

            # pipelined requests wait in the buffer
            $self->next_request;
            return;
        }

        my ($name, @args) = @$step;
        my $method = "step_$name";
        return if ($self->$method(@args) // '') eq 'wait';
    }

    return;
}

sub resume {
    my ($self) = @_;

    delete @$self{qw(held hanging)};
    $self->run_steps unless $self->{closed};

    return;
}

sub step_send {
    my ($self, $bytes) = @_;

    $self->{out} .= $bytes;
    $self->on_writable(1);

    return length $self->{out} ? 'wait' : '';
}

sub step_wait {
    my ($self, $seconds) = @_;

    $self->{server}->after($seconds, sub { $self->resume });
    return 'wait';
}

sub step_hold {
    my ($self, $name) = @_;

    return '' if $self->{server}{released}{$name};

    $self->{held} = $name;
    return $self->{eof} ? $self->close('peer') // 'wait' : 'wait';
}

sub step_hang {
    my ($self) = @_;

    $self->{hanging} = 1;
    return $self->{eof} ? $self->close('peer') // 'wait' : 'wait';
}

# Reads nothing any more, as a peer whose window is closed.

sub step_deaf {
    my ($self) = @_;

    $self->{deaf} = 1;
    return 'wait';
}

# Sends bytes one at a time ($size at a time).

sub step_drip {
    my ($self, $bytes, $pause, $size) = @_;

    return '' if $bytes eq '';

    unshift @{$self->{steps}}, ['send', substr($bytes, 0, $size)],
        ['wait', $pause], ['drip', substr($bytes, $size) // '', $pause, $size]
        if length $bytes > $size;
    unshift @{$self->{steps}}, ['send', $bytes] if length $bytes <= $size;

    return '';
}

sub step_reset { return $_[0]->close('us reset') }

sub step_close { return $_[0]->close('us') }

# Closes our direction, goes on reading.

sub step_half_close {
    my ($self) = @_;

    shutdown $self->{sock}, 1;
    return '';
}

sub on_writable {
    my ($self, $from_step) = @_;

    while (length $self->{out}) {
        my $n = syswrite $self->{sock}, $self->{out};

        if (!defined $n) {
            next if $! == EINTR;
            last if $! == EAGAIN;
            return $self->close('peer reset');
        }

        substr($self->{out}, 0, $n) = '';
    }

    $self->run_steps if !$from_step && !length $self->{out};
    return;
}

sub close {
    my ($self, $how) = @_;

    return if $self->{closed};

    $self->{closed} = 1;
    setsockopt $self->{sock}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0)
        if $how eq 'us reset';

    $self->{server}->record('C', $self, $how);
    delete $self->{server}{conns}{$self->{fd}};
    CORE::close $self->{sock};

    return;
}

1;
