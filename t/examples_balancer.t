#!/usr/bin/perl

# The sites of docs/examples that have a balancer before them, as they are in
# the files but for ports, paths and addresses, behind the real HAProxy: the
# address of the caller is that of the PROXY protocol or of X-Forwarded-For,
# from the balancer alone; of two gateways one is killed and the other serves,
# and the records of both verify.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Ports;
use CdmStop::Process;
use CdmStop::Test;

my $HAPROXY = '/usr/sbin/haproxy';

# the one whom the gateways believe, another one, and callers

my $BALANCER = '127.0.0.9';
my $STRANGER = '127.0.0.8';
my $INSIDE = '127.0.0.1';
my $OUTSIDE = '127.0.0.2';

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam(tls => 'good');
my $cdm = $t->cdm(tls => 'good');
my $certs = $t->path('certs');
my $ca = $t->cert('good')->{ca};

my $token = $iam->add_token(user => 'alice', domain => 'acme',
    roles => ['etl_operator'], project => CdmStop::Test::Traffic::PROJECT);
my $reader = $iam->add_token(user => 'rita', domain => 'acme',
    roles => ['reader'], project => CdmStop::Test::Traffic::PROJECT);

# one key for the chains of both, one of each for its checkpoints

my $key = $t->ledger->key(32);

$t->write_secret('secrets/audit-key', "$key\n");
$t->audit_key($key);

for my $n (1 .. 2) {
    my $file = $t->path("secrets/audit-sign-$n");

    CdmStop::Process::capture('openssl', 'genpkey', '-algorithm', 'ed25519',
        '-out', $file);
    chmod 0600, $file;
    CdmStop::Process::capture('openssl', 'pkey', '-in', $file, '-pubout',
        '-out', $t->path("sign$n.pub"));
}


# A site with what has to be other here; port is that of 443, others by name.

sub site {
    my ($name, %port) = @_;

    my $site = $t->read($t->root . "/docs/examples/$name.conf");
    my @other = (
        [qr/listen 443 /, "listen 127.0.0.1:$port{443} "],
        [qr/listen 8443 /, "listen 127.0.0.1:" . ($port{8443} // 0) . ' '],
        [qr/listen 8080;/, "listen 127.0.0.1:" . ($port{8080} // 0) . ';'],
        [qr/https:\/\/iam\.[\w.-]+/, 'https://localhost:%%IAM_PORT%%'],
        [qr/https:\/\/cdm\.[\w.-]+/, 'https://localhost:%%CDM_PORT%%'],
        [qr/\/etc\/ssl\/certs\/ca-certificates\.crt/, $ca],
        [qr/\/etc\/nginx\/tls\/gateway/, "$certs/good"],
        [qr/\/etc\/nginx\/secrets\/cdm-gateway/,
            '%%TESTDIR%%/secrets/password'],
        [qr/\/etc\/nginx\/secrets\/audit-sign\.pem/,
            '%%TESTDIR%%/secrets/audit-sign-' . ($port{n} // '')],
        [qr/\/etc\/nginx\/secrets\//, '%%TESTDIR%%/secrets/'],
        [qr/\/var\/log\/nginx\/cdm_stop\.jsonl/,
            '%%TESTDIR%%/audit' . ($port{n} // '') . '.jsonl'],
        [qr/192\.0\.2\.0\/28/, "$BALANCER/32"],
        [qr/10\.20\.0\.0\/16/, "$INSIDE/32"],
    );

    $site =~ s/$_->[0]/$_->[1]/g for @other;
    return $site;
}

# A stop with curl: status, code, and the records of a file.

sub stop {
    my ($port, %arg) = @_;

    my @curl = ('-s', '-i', '-X', 'PUT', '--cacert', $ca, '--http1.1',
        '-H', 'X-Auth-Token: ' . ($arg{token} // $token));

    push @curl, '--interface', $arg{from} // $INSIDE;
    push @curl, '--haproxy-protocol' if $arg{proxy_protocol};
    push @curl, map { ('-H', $_) } @{ $arg{header} // [] };

    my (undef, $output) = $t->curl(@curl, "https://127.0.0.1:$port"
        . $t->stop_target(job => $arg{job} // 'etl_1'));

    return {
        status => $output =~ m{\AHTTP/1\.1 (\d+)} ? "$1" : 0,
        code => $output =~ /"error_code":"CDMSTOP\.(\d+)"/ ? "$1" : '',
        id => $output =~ /^X-Request-Id: (\w+)/mi ? "$1" : '',
        output => $output
    };
}

# The last record of a request, once it is there.

sub record {
    my ($file, $id) = @_;

    return $t->wait_for(sub {
        my ($last) = reverse grep { ($_->{request_id} // '') eq $id
            && $_->{stage} ne 'intent' } $t->records($file);
        $last;
    }, what => "a record of $id in $file");
}

# HAProxy with these sections; its end is that of the test.

my @running;

sub haproxy {
    my ($sections) = @_;

    my $n = @running;
    my $conf = $t->write("haproxy$n.cfg", <<"EOC");
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
$sections
EOC

    my $pid = CdmStop::Process::run_in_background(
        [$HAPROXY, '-db', '-f', $conf], stdout => $t->path("haproxy$n.out"),
        stderr => $t->path("haproxy$n.out"));
    push @running, $pid;

    return $pid;
}

sub listens {
    my (@ports) = @_;

    for my $port (@ports) {
        $t->wait_for(sub { !CdmStop::Ports::is_free($port) },
            what => "something on port $port");
    }

    return;
}

END { local $?; CdmStop::Process::end($_) for @running }


subtest 'load-balancer' => sub {
    my %port = (443 => $t->port, 8443 => $t->port('two'));
    my ($tcp, $http) = map { $t->port($_) } qw(tcp http);

    $t->config(<<"EOC");
%%GLOBALS%%
worker_processes 2;
events { }
http {
    %%HTTP_GLOBALS%%
    @{[site('load-balancer', %port)]}
}
EOC
    my ($exit, $said) = $t->nginx_t($t->read('nginx.conf'));
    is($exit, 0, 'nginx -t');
    unlike($said, qr/\[warn\]/, 'no warning');
    $t->start;

    $t->write('certs/balancer.pem', join '', map { $t->read($_) }
        "$certs/good.crt", "$certs/good.key");

    my $check = 'check check-ssl inter 200ms';

    haproxy(<<"EOS");
listen tcp
    bind 127.0.0.1:$tcp
    server gateway 127.0.0.1:$port{443} source $BALANCER send-proxy-v2
listen http
    mode http
    bind 127.0.0.1:$http ssl crt $certs/balancer.pem
    option forwardfor
    option httpchk GET /cdm_stop/ready
    default-server ssl verify required ca-file $ca $check
    server gateway 127.0.0.1:$port{8443} source $BALANCER
EOS
    listens($tcp, $http);

    # a gateway that was not asked yet is down for HAProxy
    $t->wait_for(sub { stop($http)->{status} != 503 }, what => 'HAProxy');

    for my $way (['PROXY protocol', $tcp], ['X-Forwarded-For', $http]) {
        my ($name, $port) = @$way;

        my $r = stop($port);
        is($r->{status}, 200, "$name: a caller inside may")
            or diag($r->{output});
        my $record = record('audit.jsonl', $r->{id});
        is($record->{source_ip}, $INSIDE, "$name: the record has its address");
        is($record->{verdict}, 'stopped', "$name: and that it was stopped");

        $r = stop($port, from => $OUTSIDE);
        is("$r->{status} $r->{code}", '403 0201', "$name: one outside may not");
        is(record('audit.jsonl', $r->{id})->{source_ip}, $OUTSIDE,
            "$name: and is recorded as such");

        $r = stop($port, token => $reader);
        is("$r->{status} $r->{code}", '403 0201', "$name: nor another role");

        $r = stop($port, from => $OUTSIDE,
            header => ["X-Forwarded-For: $INSIDE"]);
        is("$r->{status} $r->{code}", '403 0201',
            "$name: X-Forwarded-For of a caller is not believed");
        is(record('audit.jsonl', $r->{id})->{source_ip}, $OUTSIDE,
            "$name: whatever it says");
    }

    # round the balancer, with what it would say

    my $before = $cdm->requests;

    for my $from ($STRANGER, $OUTSIDE) {
        my $r = stop($port{443}, from => $from, proxy_protocol => 1,
            header => ["X-Forwarded-For: $INSIDE"]);
        is("$r->{status} $r->{code}", '403 0201',
            "A02 a PROXY protocol of $from is not believed");
        is(record('audit.jsonl', $r->{id})->{source_ip}, $from,
            'A02 nor recorded');

        $r = stop($port{8443}, from => $from,
            header => ["X-Forwarded-For: $INSIDE"]);
        is("$r->{status} $r->{code}", '403 ', "A02 nor may $from connect");
    }

    is(stop($port{443})->{status}, 0, 'without a PROXY protocol: no answer');
    is(scalar($cdm->requests), $before, 'nothing of this at CDM');

    CdmStop::Process::end(pop @running);
    $t->stop;
};


# Two instances by hand: the harness has one nginx.

subtest 'ha-pair' => sub {
    my %gateway = map { $_ => { tls => $t->port("tls$_"),
        check => $t->port("check$_") } } 1 .. 2;
    my $port = $t->port('pair');

    $cdm->reset_log;

    for my $n (1 .. 2) {
        my $globals = $t->globals =~ s/nginx\.pid/nginx$n.pid/r
            =~ s/error\.log/error$n.log/r;
        my $http_globals = $t->http_globals
            =~ s/%%TESTDIR%%\/(?=\w+_temp)/%%TESTDIR%%\/temp$n\//gr;
        my %port = (443 => $gateway{$n}{tls}, 8080 => $gateway{$n}{check},
            n => $n);

        mkdir $t->path("temp$n");
        $gateway{$n}{conf} = $t->write("nginx$n.conf", $t->expand(<<"EOC"));
$globals
worker_processes 2;
events { }
http {
    $http_globals
    @{[site('ha-pair', %port)]}
}
EOC
        my ($exit, $said) = CdmStop::Process::capture(
            $t->command_line($gateway{$n}{conf}, '-t'),
            { env => $t->environment });
        is($exit, 0, "$n: nginx -t") or diag($said);
        unlike($said, qr/\[warn\]/, "$n: no warning");

        start_gateway($gateway{$n}, $n);
    }

    # as docs/EXAMPLES.md has it, but for addresses and times

    my ($backend) = $t->read($t->root . '/docs/EXAMPLES.md')
        =~ /^(    backend cdm_gateways\n(?:        .*\n)+)/m;
    $backend =~ s/^    //mg;
    $backend =~ s/inter 1s/inter 200ms/;
    $backend =~ s/ port 8080//;

    for my $n (1 .. 2) {
        my $at = "127.0.0.1:$gateway{$n}{tls} port $gateway{$n}{check}";
        $backend =~ s/192\.0\.2\.1$n:443/$at source $BALANCER/;
    }

    haproxy(<<"EOS");
frontend callers
    bind 127.0.0.1:$port
    default_backend cdm_gateways
$backend
EOS
    listens($port);

    # each gets some of them

    my %served;

    $t->wait_for(sub {
        my $r = stop($port);
        return if $r->{status} != 200;

        for my $n (1 .. 2) {
            $served{$n}++ if -e $t->path("audit$n.jsonl")
                && $t->read("audit$n.jsonl") =~ /$r->{id}/;
        }
        $served{1} && $served{2};
    }, what => 'stops at both');
    pass('both serve');

    my $r = stop($port, job => 'prod_1');
    is("$r->{status} $r->{code}", '403 0201', 'what is denied is so');
    $r = stop($port, from => $OUTSIDE);
    my ($n) = grep { $t->read("audit$_.jsonl") =~ /$r->{id}/ } 1 .. 2;
    is(record("audit$n.jsonl", $r->{id})->{source_ip}, $OUTSIDE,
        'callers have their own address');

    # one is killed, master and workers

    my @killed = kill_gateway($gateway{1});
    cmp_ok(scalar @killed, '>=', 3, 'a master and its workers are killed');

    $t->wait_for(sub { stop($port)->{status} == 200 },
        what => 'the other one');

    my %after = map { $_ => 0 } 1 .. 2;

    for (1 .. 10) {
        my $r = stop($port);
        is($r->{status}, 200, 'a stop after the death of one');
        $after{2}++ if $t->read('audit2.jsonl') =~ /$r->{id}/;
    }

    is($after{2}, 10, 'the other one serves');

    # it comes back

    start_gateway($gateway{1}, 1);
    my $size = -s $t->path('audit1.jsonl');
    $t->wait_for(sub {
        stop($port)->{status} == 200 && -s $t->path('audit1.jsonl') > $size
            && $t->read('audit1.jsonl') =~ /"outcome".*\z/s;
    }, what => 'the one that was killed');
    pass('the one that was killed serves again');

    CdmStop::Process::end(pop @running);
    CdmStop::Process::end(delete $gateway{$_}{pid}, signal => 'QUIT')
        for 1 .. 2;

    # the records of each are whole, with key, signatures and head

    for my $n (1 .. 2) {
        my ($exit, $said) = CdmStop::Process::capture(
            $t->root . '/build/cdm-stop-audit', 'verify', '--strict', '--key',
            $t->path('secrets/audit-key'), '--public-key',
            $t->path("sign$n.pub"), $t->path("audit$n.jsonl"));
        is($exit, 0, "the records of $n verify") or diag($said);
        like($said, qr/ 0 findings, 0 intents without outcome/,
            'with nothing to find');
    }

    my @stops = grep { $_->{target} =~ m{/stop\z} } $cdm->requests;
    my @sent = grep { $_->{stage} eq 'intent' } map { $t->records(
        "audit$_.jsonl") } 1 .. 2;
    is(scalar @sent, scalar @stops, 'each stop at CDM has one intent');
};

sub start_gateway {
    my ($gateway, $n) = @_;

    unlink $t->path("nginx$n.pid");
    $gateway->{pid} = CdmStop::Process::run_in_background(
        [$t->command_line($gateway->{conf})],
        stdout => $t->path("stdout$n.log"), stderr => $t->path("stderr$n.log"),
        env => $t->environment);
    $t->wait_for(sub { -s $t->path("nginx$n.pid")
        && children($gateway->{pid}) >= 2 }, what => "gateway $n");
    listens(@$gateway{qw(tls check)});

    return;
}

# Master first, so that it makes no new workers.

sub kill_gateway {
    my ($gateway) = @_;

    my $master = delete $gateway->{pid};
    my @workers = children($master);

    kill 'KILL', $master;
    CdmStop::Process::wait_for($master, 20);
    kill 'KILL', @workers;
    $t->wait_for(sub { !grep { kill 0, $_ } @workers }, what => 'their end');

    return ($master, @workers);
}

sub children {
    my ($pid) = @_;

    open my $fh, '<', "/proc/$pid/task/$pid/children" or return;
    return split ' ', <$fh> // '';
}

$t->allow_log(qr/broken header:|client sent no required SSL/);
$t->done;
