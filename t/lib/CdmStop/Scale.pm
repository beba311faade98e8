package CdmStop::Scale;

=head1 NAME

CdmStop::Scale - the cost of a request at the points of a curve

=head1 SYNOPSIS

    my $scale = CdmStop::Scale->new($t, processor => 1);
    $scale->start_standins;

    my $point = { http => $directives, location => $directives,
                  request => sub { my ($k) = @_; ... },   # the k-th request
                  warm => 100, connections => 16, window => 16, status => 200 };

    $scale->cpu([$p1, $p2], rounds => 7, requests => 2000);
    $p1->{us};                  # [microseconds of each round]

    $scale->instructions($p1, 500);
    $p1->{instructions};        # of the worker for a request

Each point has an nginx of its own with one worker, but for the point that
another names as C<then>: it is measured behind that one, when what both need
is there. This process is the client:
it sends a request on each of C<window> connections, reads their answers, and
goes on with the next; what it gets must have the status that is expected.
CDM is an nginx that answers C<{}> to a token that belongs to the project of
the stop and 403 to others. All are on one processor, as those of
t/bench/request_cost are.

Instructions are those of callgrind, which begins to count when the point is
warm.

=cut

use strict;
use warnings;

use IO::Socket::INET;
use Time::HiRes qw(sleep);

use CdmStop::Process;
use CdmStop::Scale::Iam;

use constant FILES => 16_384;

# processor: the one that all are on

sub new {
    my ($class, $t, %opt) = @_;

    my $self = bless { t => $t, n => 0, %opt }, $class;

    # two for each connection, at each end of it
    quietly('prlimit', '--pid', $$, '--nofile=' . FILES);
    quietly('taskset', '-cp', $self->{processor}, $$);
    quietly('chrt', '--batch', '-p', 0, $$);

    return $self;
}

sub quietly {
    my ($exit, $said) = CdmStop::Process::capture(@_);
    die "@_: $said" if $exit;

    return;
}

sub start_standins {
    my ($self) = @_;

    my $t = $self->{t};
    my $listener = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1', LocalPort => $t->port('IAM'), Listen => 1024,
        ReuseAddr => 1) or die "IAM: $!\n";

    $self->{iam} = CdmStop::Process::spawn(sub {
        CdmStop::Scale::Iam::serve($listener);
    });
    close $listener;

    $self->{cdm} = $self->nginx('cdm', <<"EOC");
    map "\$uri \$http_x_auth_token" \$right {
        default                                   403;
        "~^/v1.1/([0-9a-f]+)/[^ ]+/stop MII\\1"   200;
    }
    server {
        listen 127.0.0.1:${\ $t->port('CDM')} backlog=4096;
        large_client_header_buffers 4 64k;
        default_type application/json;
        if (\$right = 403) { return 403 "no\\n"; }
        return 200 '{}';
    }
EOC

    return;
}

sub stop_standins {
    my ($self) = @_;

    $self->stop_nginx($self->{cdm});
    CdmStop::Process::end($self->{iam});

    return;
}


# What a gateway's configuration has in common.

sub gateway {
    my ($self, $point, $name) = @_;

    my $t = $self->{t};

    return <<"EOC";
$point->{http}
    upstream cdm {
        server 127.0.0.1:${\ $t->port('CDM')};
        keepalive @{[$point->{window} > 32 ? $point->{window} : 32]};
        keepalive_requests 10000000;
    }

    server {
        listen 127.0.0.1:${\ $t->port($name)} backlog=4096;
        large_client_header_buffers 4 64k;
        client_header_buffer_size 1k;
        location /v1.1/ {
            $point->{location}
            proxy_http_version  1.1;
            proxy_set_header    Connection '';
            proxy_pass          http://cdm;
        }
    }
EOC
}

# under => [...] is what runs it.

sub nginx {
    my ($self, $name, $http, %how) = @_;

    my $t = $self->{t};
    my $dir = $t->dir;
    my $load = $http =~ /cdm_stop_/ ? $t->module_file : undef;
    $load = $load ? "load_module $load;" : '';

    my $master = $how{under} ? 'off' : 'on';

    my $conf = $t->write("$name.conf", <<"EOC");
$load
user root;
daemon off;
master_process $master;
worker_processes 1;
pid $dir/$name.pid;
error_log $dir/$name.error.log error;
events { worker_connections 8192; }
http {
    @{[$t->expand($t->http_globals)]}
    access_log off;
    keepalive_requests 100000000;
    keepalive_timeout 3600;
$http
}
EOC

    my $pid = CdmStop::Process::run_in_background(
        ['chrt', $name eq 'cdm' ? '--batch' : '--other', 0,
         @{ $how{under} // [] }, $t->{binary}, '-p', $dir, '-c', $conf],
        stdout => "$dir/$name.out", stderr => "$dir/$name.out");

    my $port = $t->port($name eq 'cdm' ? 'CDM' : $name);

    $t->wait_for(sub {
        defined CdmStop::Process::wait_for($pid, 0)
            and die "nginx $name does not start: " . $t->read("$name.out");
        IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);
    }, what => "nginx $name");

    return { name => $name, pid => $pid, port => $port,
             worker => $master eq 'on' ? $self->worker($pid) : $pid };
}

sub worker {
    my ($self, $master) = @_;

    my $children = $self->{t}->wait_for(sub {
        my $pids = $self->{t}->read("/proc/$master/task/$master/children");
        return $pids =~ /\d/ ? $pids : undef;
    }, what => 'a worker');

    return (split ' ', $children)[0];
}

sub stop_nginx {
    my ($self, $nginx) = @_;

    kill QUIT => $nginx->{pid};
    defined CdmStop::Process::wait_for($nginx->{pid}, 120)
        or die "nginx $nginx->{name} does not end\n";

    my $log = $self->{t}->path("$nginx->{name}.error.log");
    die $self->{t}->read($log) if -s $log;

    return;
}


# The client.

sub connect_all {
    my ($self, $nginx, $n) = @_;

    return [map {
        IO::Socket::INET->new(PeerAddr => '127.0.0.1',
            PeerPort => $nginx->{port}, Timeout => 30)
            or die "connection to $nginx->{name}: $!\n"
    } 1 .. $n];
}

# Requests from number $from on, each connection in its turn.

sub drive {
    my ($self, $point, $connections, $from, $n) = @_;

    my $next = 0;
    my $status = $point->{status} // 200;

    while ($n > 0) {
        my $window = $point->{window} < $n ? $point->{window} : $n;
        my @batch = map { $connections->[($next + $_) % @$connections] }
                        0 .. $window - 1;

        for my $fh (@batch) {
            my $request = $point->{request}->($from++);
            my $sent = syswrite $fh, $request;
            die "not sent: $!\n" if ($sent // 0) != length $request;
        }

        for my $fh (@batch) {
            my $answer = answer($fh);
            die "not $status but: $answer\n"
                if $answer !~ m{\AHTTP/1\.1 $status };
        }

        $next += $window;
        $n -= $window;
    }

    return;
}

sub answer {
    my ($fh) = @_;

    my $answer = '';

    for (;;) {
        sysread $fh, $answer, 8192, length $answer
            or die "the end of: $answer\n";

        my $head = index $answer, "\r\n\r\n";
        next if $head < 0;

        $answer =~ /^content-length: *(\d+)/im
            or die "an answer of no length: $answer\n";

        return $answer if length($answer) >= $head + 4 + $1;
    }
}

sub run {
    my ($self, $point, $n) = @_;

    # two by some connections would be one at a time on them
    my $connections = $point->{open};

    $self->drive($point, $connections, $point->{next}, $n);
    $point->{next} += $n;

    return;
}

sub start {
    my ($self, $point, %how) = @_;

    my $name = 'p' . ++$self->{n};

    $point->{connections} //= 16;
    $point->{window} //= $point->{connections} < 16 ? $point->{connections}
                                                    : 16;
    $point->{nginx} = $self->nginx($name, $self->gateway($point, $name), %how);
    $point->{open} = $self->connect_all($point->{nginx},
                                        $point->{connections});
    $point->{next} = 0;
    $self->run($point, $point->{warm} // 200);

    return;
}

sub stop {
    my ($self, $point) = @_;

    close $_ for @{ delete $point->{open} };
    $self->stop_nginx(delete $point->{nginx});

    return;
}


# CPU time of the worker: the points take turns, and another begins each time.

sub cpu {
    my ($self, $points, %opt) = @_;

    $self->start($_) for @$points;
    $self->rounds($points, %opt);

    $self->rounds([map { follow($_) } grep { $_->{then} } @$points], %opt);
    $self->stop($_) for @$points;

    return;
}

sub rounds {
    my ($self, $points, %opt) = @_;

    my @turn = @$points;

    for my $round (1 .. $opt{rounds}) {
        push @turn, shift @turn if @turn;

        for my $point (@turn) {
            my $n = $point->{requests} // $opt{requests};
            my $before = $self->time_of($point);

            $self->run($point, $n);
            push @{ $point->{us} },
                ($self->time_of($point) - $before) / 1000 / $n;
        }
    }

    return;
}

# another goes on with the nginx of this one

sub follow {
    my ($point) = @_;

    my $then = $point->{then};
    $then->{$_} = $point->{$_} for qw(nginx open next connections window);

    return $then;
}

# nanoseconds, the kernel's part included

sub time_of {
    my ($self, $point) = @_;

    my ($ns) = split ' ',
        $self->{t}->read("/proc/$point->{nginx}{worker}/schedstat");

    return $ns;
}


# Instructions of the worker outside of the kernel.

sub instructions {
    my ($self, $point, $n) = @_;

    my $out = $self->{t}->path('callgrind');
    unlink glob "$out*";

    $self->start($point, under => ['valgrind', '-q', '--tool=callgrind',
        '--instr-atstart=no', "--callgrind-out-file=$out"]);
    $self->count($point, $point->{count} // $n, "$out.1");

    if ($point->{then}) {
        my $then = follow($point);
        $self->count($then, $then->{count} // $n, "$out.2");
    }

    $self->stop($point);

    return;
}

sub count {
    my ($self, $point, $n, $file) = @_;

    my $pid = $point->{nginx}{pid};

    quietly('callgrind_control', '-i', 'on', $pid);
    $self->run($point, $n);
    quietly('callgrind_control', '-i', 'off', $pid);
    quietly('callgrind_control', '-d', $pid);

    my ($total) = $self->{t}->read($file) =~ /^totals:\s+(\d+)/m;
    die "no figures in $file\n" if !$total;

    $point->{instructions} = $total / $n;

    return;
}

1;
