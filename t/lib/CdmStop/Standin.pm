package CdmStop::Standin;

=head1 NAME

CdmStop::Standin - a scriptable HTTP server that keeps every byte it got

=head1 SYNOPSIS

    my $s = CdmStop::Standin->new(name => 'cdm', port => $port, dir => $dir);
    $s->start;
    $s->script({ when => { job => 'x' }, times => 2, status => 503 },
               { delay => 0.5 });
    ...
    $s->wait_requests(3);
    for my $r ($s->requests) { print $r->{raw}; $r->header('X-Auth-Token') }
    is($s->bytes, 0, 'not one byte arrived');
    $s->stop;

It runs in a child process. Each call of the parent is answered by the child
before it returns, after the child has read what had already arrived at its
sockets: what is seen does not depend on timing. What a rule may hold is told
in L<CdmStop::Standin::Rule>.

Recordings are in C<dir>/C<name>, which the search for secrets leaves out.

=cut

use strict;
use warnings;

use File::Path ();
use IO::Socket::UNIX;
use Socket qw(AF_UNIX SOCK_STREAM PF_UNSPEC);
use Storable ();
use Time::HiRes qw(time sleep);

use CdmStop::Http;
use CdmStop::Process;
use CdmStop::Standin::Rule;
use CdmStop::Standin::Server;

# name, dir and port; host (127.0.0.1); timeout of commands; record => 0 keeps
# counters only; keepalive => 0 closes after each answer; further ones go to
# the application of the subclass.

sub new {
    my ($class, %opt) = @_;

    my $self = bless {
        host => '127.0.0.1', name => 'standin', timeout => 60, record => 1,
        %opt
    }, $class;

    $self->{store} = "$self->{dir}/$self->{name}";
    return $self;
}

# The object in the child that makes the answers; subclasses have their own.

sub application {
    my ($self) = @_;

    return CdmStop::Standin::Application->new;
}

sub start {
    my ($self) = @_;

    File::Path::make_path($self->{store}, { mode => 0700 });

    $self->{owner} = $$;
    my $listener = CdmStop::Standin::Server::listener($self);

    socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC)
        or die "socketpair: $!\n";
    binmode $_ for $ours, $theirs;

    $self->{pid} = CdmStop::Process::spawn(sub {
        CdmStop::Standin::Server->new(
            standin => $self, listener => $listener, channel => $theirs,
            app => $self->application)->run;
    });

    close $theirs;
    close $listener;
    $self->{channel} = $ours;
    $self->command('sync');

    return $self;
}

sub stop {
    my ($self) = @_;

    if ($self->{pid}) {
        close $self->{channel};
        CdmStop::Process::end(delete $self->{pid});
    }

    return;
}

sub port { return $_[0]{port} }

# What the stand-in holds that nobody else may see.

sub secrets { return () }

# Sends a command to the child and returns its answer.

sub command {
    my ($self, $name, @args) = @_;

    die "stand-in $self->{name} is not running\n" unless $self->{pid};

    CdmStop::Standin::Server::write_frame($self->{channel}, [$name, @args]);
    my $answer = CdmStop::Standin::Server::read_frame($self->{channel},
                                                      $self->{timeout})
        // die "stand-in $self->{name} did not answer to $name\n";

    die "stand-in $self->{name}: $answer->[1]" unless $answer->[0];
    return $answer->[1];
}

# Replaces the script; without rules the stand-in answers as by default again.

sub script {
    my ($self, @rules) = @_;

    $self->command('script', map { CdmStop::Standin::Rule::check($_) } @rules);
    return $self;
}

# Adds rules behind those that are there.

sub add_script {
    my ($self, @rules) = @_;

    $self->command('add_script',
                   map { CdmStop::Standin::Rule::check($_) } @rules);
    return $self;
}

# Lets answers go on that wait at hold => NAME, now and later.

sub release {
    my ($self, $name) = @_;

    return $self->command('release', $name // 'hold');
}

# Closes the listening socket: new connections are refused.

sub refuse { return $_[0]->command('refuse') }

# Leaves new connections in the backlog: they open, nobody answers.

sub pause { return $_[0]->command('pause') }

# Listens, and accepts, again.

sub resume { return $_[0]->command('resume') }

# Closes connections that wait for their next request; with a reset if told.

sub close_idle {
    my ($self, %opt) = @_;

    return $self->command('close_idle', $opt{reset});
}

# Forgets rules and recordings.

sub reset_log {
    my ($self) = @_;

    $self->command('reset_log');
    delete $self->{read};

    return $self;
}

# Counters of the child: connections, requests, bytes, open.

sub counters { return $_[0]->command('counters') }

sub bytes { return $_[0]->counters->{bytes} }

# All requests so far, in the order in which they were complete.

sub requests {
    my ($self) = @_;

    $self->command('sync');
    $self->read_recordings;

    return @{$self->{read}{requests} // []};
}

sub count {
    my ($self) = @_;

    return $self->counters->{requests};
}

# Connections in the order in which they were accepted: {id, opened, closed,
# how ('peer', 'peer reset', 'us', 'us reset', undef while open), raw}.

sub connections {
    my ($self) = @_;

    $self->command('sync');
    $self->read_recordings;

    return @{$self->{read}{connections} // []};
}

# All bytes that arrived, over all connections.

sub raw {
    my ($self) = @_;

    return join '', map { $_->{raw} } $self->connections;
}

# Waits until $n requests were complete; dies if they do not come.

sub wait_requests {
    my ($self, $n, %opt) = @_;

    return $self->wait_counter('requests', $n, %opt);
}

sub wait_connections {
    my ($self, $n, %opt) = @_;

    return $self->wait_counter('connections', $n, %opt);
}

sub wait_counter {
    my ($self, $what, $n, %opt) = @_;

    my $deadline = time + ($opt{timeout} // 30);

    while ($self->counters->{$what} < $n) {
        die "stand-in $self->{name}: " . $self->counters->{$what}
            . " $what, $n awaited\n" if time > $deadline;
        sleep 0.02;
    }

    return 1;
}

# Reads the part of the recordings that was not yet read.

sub read_recordings {
    my ($self) = @_;

    my $read = $self->{read} //= { requests => [], connections => [], at => 0 };

    open(my $fh, '<:raw', "$self->{store}/log")
        or die "$self->{store}/log: $!\n";
    seek $fh, $read->{at}, 0;

    while (read($fh, my $head, 17) == 17) {
        my ($kind, $conn, $time, $length) = unpack 'aNdN', $head;
        read($fh, my $data, $length) == $length or last;
        $read->{at} += 17 + $length;
        $self->take_recording($read, $kind, $conn, $time, $data);
    }

    return;
}

sub take_recording {
    my ($self, $read, $kind, $conn, $time, $data) = @_;

    if ($kind eq 'Q') {
        my $request = Storable::thaw($data);
        @$request{qw(conn time)} = ($conn, $time);
        push @{$read->{requests}}, $request;
        return;
    }

    my $c = $read->{by_id}{$conn};

    if (!$c) {
        $c = { id => $conn, opened => $time, raw => '' };
        $read->{by_id}{$conn} = $c;
        push @{$read->{connections}}, $c;
    }

    $c->{raw} .= $data if $kind eq 'D';
    $c->{raw_times} .= pack 'dN', $time, length $data if $kind eq 'D';
    @$c{qw(closed how)} = ($time, $data) if $kind eq 'C';

    return;
}

sub DESTROY {
    my ($self) = @_;

    local ($?, $!, $@);
    $self->stop if $self->{pid} && $self->{owner} == $$;

    return;
}


package CdmStop::Standin::Application;

# The plain one: every request gets 200 and an empty body.

sub new {
    my ($class, %opt) = @_;

    return bless {%opt}, $class;
}

sub answer { return { status => 200, body => '' } }

# Headers that an answer has unless it brings its own.

sub defaults { return (['Content-Type', 'text/plain']) }

1;
