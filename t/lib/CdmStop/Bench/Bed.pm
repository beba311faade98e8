package CdmStop::Bench::Bed;

=head1 NAME

CdmStop::Bench::Bed - IAM, CDM, clients and gateways of the benchmark

=head1 SYNOPSIS

    my $bed = CdmStop::Bench::Bed->new(tls => 0);
    my $gateway = $bed->start('records');          # a mode's name
    $bed->load($gateway, requests => 4000);        # {requests, seconds, ...}
    $bed->stop($gateway);
    $bed->end;

A gateway is {mode, pid, worker}: worker is the process that works. CDM and the
clients are t/bench/serve.c and t/bench/load.c. CDM answers with 200 only what
has the gateway's token, and C<load> dies unless each answer has that status:
no figure is taken of a gateway that does not do its work.

=cut

use strict;
use warnings;

use File::Path ();
use IO::Socket::INET;
use JSON::PP;

use CdmStop::Bench::Haproxy;
use CdmStop::Bench::Modes;
use CdmStop::Bench::Nginx;
use CdmStop::Process;
use CdmStop::Test;

use constant {
    PROJECT => '1' x 32,
    PROJECTS => 64,       # further ones, to see what a token takes
    TOKEN => 4000,
    CALLER => 2000,
    CONNECTIONS => 16,
    WARM => 500,
};

# tls; warm: requests before the first figure.

sub new {
    my ($class, %opt) = @_;

    my $t = CdmStop::Test->new(log => 'error', timeout => 60,
                               password => 'cdm-gateway-of-the-benchmark');
    my $self = bless { warm => WARM, %opt, t => $t }, $class;

    chmod 0777, $t->dir;
    mkdir "$self->{t}{dir}/temp";
    $t->write('key', join('', map { sprintf '%02x', $_ } 0 .. 31), 0600);

    # everybody is given the same token, which CDM knows

    $self->{iam} = $t->iam(token_size => TOKEN, record => 0);
    $self->{token} = $self->{iam}->add_token(
        user => 'cdm-gateway', domain => 'acme', project => PROJECT,
        size => TOKEN);
    $self->{caller} = $self->{iam}->add_token(
        user => 'airflow', domain => 'acme', project => PROJECT,
        size => CALLER);
    $self->{iam}->script({ when => { method => 'POST' },
                           headers => ['X-Subject-Token' => $self->{token}] });

    $t->write("token.$_", $self->{$_}) for qw(token caller);
    $self->{cert} = $t->cert('good') if $self->{tls};

    $self->place;
    $self->compile;
    $self->start_cdm;

    return $self;
}

# Where there are two processors, the gateway has the last one to itself when
# it is to be saturated ("apart"). When the processor time of a request is
# measured, all are on that one, since a worker that waits for another
# processor's caches measures those.

sub place {
    my ($self) = @_;

    open my $fh, '<', '/proc/self/status' or die "/proc/self/status: $!\n";
    my ($list) = map { /^Cpus_allowed_list:\s+(\S+)/ ? $1 : () } <$fh>;
    my @cpus = map { /(\d+)-(\d+)/ ? ($1 .. $2) : $_ } split /,/, $list;

    $self->{cpu} = { gateway => $cpus[-1], other => $cpus[0] };

    return;
}

sub compile {
    my ($self) = @_;

    my $source = $self->{t}->root . '/t/bench';

    for my $program (qw(load serve)) {
        my ($exit, $said) = CdmStop::Process::capture(
            $ENV{CC} || 'cc', qw(-std=gnu11 -O2 -Wall -Wextra -Werror -o),
            $self->path($program), "$source/$program.c", "$source/net.c",
            qw(-lssl -lcrypto));
        die "cc: $said\n" if $exit;
    }

    return;
}

sub start_cdm {
    my ($self) = @_;

    my $cert = $self->{cert};

    $self->{cdm} = CdmStop::Process::run_in_background(
        [$self->on('gateway'), $self->path('serve'), $self->cdm_port,
         $self->path('token.token'), $cert ? @$cert{qw(cert key)} : ()],
        stdout => $self->path('cdm.out'), stderr => $self->path('cdm.out'));
    $self->wait_port($self->cdm_port, 'CDM');

    return;
}

# The command in front of another one that chooses its processor. Where all are
# on one, none but a gateway interrupts who wakes it: a slower worker is
# interrupted more often, which would not be its own cost.

sub on {
    my ($self, $where) = @_;

    return ('taskset', '-c', $self->{cpu}{$where},
            $where eq 'gateway' ? qw(chrt --batch 0) : ());
}

sub path { return $_[0]{t}->path($_[1]) }
sub read { return $_[0]{t}->read($_[1]) }
sub write { my $self = shift; return $self->{t}->write(@_) }
sub dir { return $_[0]{t}->dir }
sub cert { return $_[0]{cert} }
sub token { return $_[0]{token} }
sub scheme { return $_[0]{tls} ? 'https' : 'http' }
sub port { return $_[0]{t}->port($_[1]) }
sub cdm_port { return $_[0]{t}->port('CDM') }
sub iam_port { return $_[0]{t}->port('IAM') }

# The body of a request for a token.

sub asks {
    my ($self) = @_;

    return JSON::PP->new->canonical->encode({
        auth => {
            identity => {
                methods => ['password'],
                password => { user => {
                    name => 'cdm-gateway', domain => { name => 'acme' },
                    password => $self->{t}{password} } } },
            scope => { project => { id => PROJECT } } } });
}

sub project {
    my ($self, $i) = @_;

    return $i ? sprintf '%032x', $i : PROJECT;
}

sub projects {
    my ($self) = @_;

    return join ' ', map { $self->project($_) } 0 .. PROJECTS;
}

# Starts the gateway of a mode; under => [...] is what runs it.

sub start {
    my ($self, $name, %how) = @_;

    my $mode = CdmStop::Bench::Modes::get($name);
    my $gateway = { mode => $mode, name => $name, port => $self->port($name) };

    if ($mode->{gateway} eq 'none') {
        return { %$gateway, port => $self->cdm_port };
    }

    my $file = $self->path("$name.conf");
    my @command;

    if ($mode->{gateway} eq 'haproxy') {
        $self->write($file, CdmStop::Bench::Haproxy::conf($self, $mode), 0600);
        @command = ('haproxy', '-db', '-f', $file);

    } else {
        $self->write($file, CdmStop::Bench::Nginx::conf(
            $self, $mode, master => !$how{under},
            counted => $how{counted}), 0600);
        @command = ($self->binary($mode), '-p', $self->dir, '-c', $file);
    }

    # the log of HAProxy is its standard output

    $gateway->{pid} = CdmStop::Process::run_in_background(
        ['taskset', '-c', $self->{cpu}{gateway}, @{$how{under} // []},
         @command],
        stdout => $self->path("$name.jsonl"),
        stderr => $self->path("$name.error.log"));
    $self->wait_port($gateway->{port}, $name, $gateway->{pid});

    $gateway->{worker} = $mode->{gateway} eq 'haproxy' || $how{under}
        ? $gateway->{pid} : $self->worker($gateway->{pid});
    $self->load($gateway, requests => $self->{warm});

    return $gateway;
}

# Lua is a module of Debian's for Debian's nginx.

sub binary {
    my ($self, $mode) = @_;

    return $mode->{gateway} eq 'lua' ? '/usr/sbin/nginx' : $self->{t}{binary};
}

# Where temporary files go, of those parts that the binary has.

sub nginx_globals {
    my ($self, $mode) = @_;

    my $t = $self->{t};
    my $given = $mode->{gateway} ne 'lua';

    return join "\n",
        $given && $t->{asan} ? '    proxy_ssl_session_reuse off;' : (),
        map { "    ${_}_temp_path $t->{dir}/temp/$_;" }
        grep { !$given || !$t->has("--without-http_${_}_module") }
             qw(client_body proxy fastcgi uwsgi scgi);
}

sub wait_port {
    my ($self, $port, $what, $pid) = @_;

    $self->{t}->wait_for(sub {
        if ($pid && defined CdmStop::Process::wait_for($pid, 0)) {
            die "$what does not start: " . $self->read("$what.error.log");
        }

        return IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                     PeerPort => $port);
    }, what => "a listener of $what");

    return;
}

sub worker {
    my ($self, $master) = @_;

    my $file = "/proc/$master/task/$master/children";
    my $children = $self->{t}->wait_for(sub {
        open my $fh, '<', $file or die "$file: $!\n";
        my ($pids) = <$fh>;
        return $pids;
    }, what => 'a worker');

    return (split ' ', $children)[0];
}

# What a gateway has to say of errors is shown, but not what "nginx -t" says of
# a configuration as open as a benchmark's.

sub stop {
    my ($self, $gateway) = @_;

    return if !$gateway->{pid};

    kill $gateway->{mode}{gateway} eq 'haproxy' ? 'USR1' : 'QUIT',
        $gateway->{pid};
    my $status = CdmStop::Process::wait_for($gateway->{pid}, 60);

    print {*STDERR} grep { !/\[(?:warn|notice|WARNING)\]/ }
        split /^/, $self->read("$gateway->{name}.error.log");
    die "$gateway->{name}: ended with ", $status // 'nothing', "\n"
        if !defined $status || $status;

    return;
}

# Makes a log empty, so that a long run does not fill the disk. Ours is told
# of it, since it takes a file that was cut for one that somebody cut.

sub forget_logs {
    my ($self, $gateway) = @_;

    my $log = $self->path("$gateway->{name}.jsonl");
    return if !-s $log;

    if ($gateway->{mode}{log} ne 'records') {
        truncate $log, 0 or die "$log: $!\n";
        return;
    }

    rename $log, "$log.old" or die "$log: $!\n";
    kill USR1 => $gateway->{pid};
    $self->{t}->wait_for(sub { -e $log }, what => "a new $log");
    unlink "$log.old";

    return;
}

# Sends stops. requests, or seconds with or without rate; connections, project;
# apart => 1 leaves the gateway alone on its processor.

sub load {
    my ($self, $gateway, %opt) = @_;

    my $where = $opt{apart} ? 'other' : 'gateway';
    my ($exit, $said) = CdmStop::Process::capture(
        $self->on($where), $self->load_command($gateway, %opt),
        { timeout => 300 });
    my $got = eval { decode_json($said) };

    die "$gateway->{name}: $said\n" if $exit || !$got;
    die "$gateway->{name}: only $got->{good} of $got->{requests} answers had "
        . "status 200\n" if $got->{good} != $got->{requests};

    return $got;
}

sub load_command {
    my ($self, $gateway, %opt) = @_;

    my $mode = $gateway->{mode};
    my $token = $mode->{gateway} eq 'none' ? 'token.token'
              : $mode->{caller} ? 'token.caller' : undef;

    return ($self->path('load'), $self->{tls} ? '-T' : (),
        '-p', $gateway->{port}, '-c', $opt{connections} // CONNECTIONS,
        '-u', $self->{t}->stop_target(project => $opt{project} // PROJECT),
        $token ? ('-k', $self->path($token)) : (),
        $opt{requests} ? ('-n', $opt{requests}) : (),
        $opt{seconds} ? ('-s', $opt{seconds}) : (),
        $opt{rate} ? ('-r', $opt{rate}) : (), $opt{wait} ? '-w' : ());
}

# CDM on the processor of the clients, or on that of all.

sub cdm_apart {
    my ($self, $apart) = @_;

    for my $command (
        ['taskset', '-cp', $self->{cpu}{$apart ? 'other' : 'gateway'}],
        ['chrt', $apart ? '--other' : '--batch', '-p', 0])
    {
        my ($exit, $said) = CdmStop::Process::capture(@$command, $self->{cdm});
        die $said if $exit;
    }

    return;
}

# Ends what runs; the stops that CDM answered with 200, and those it refused.

sub end {
    my ($self) = @_;

    CdmStop::Process::end($self->{cdm});
    $self->{t}->stop_standins;
    $self->{t}{passed} = 1;

    return split ' ', $self->read('cdm.out');
}

1;
