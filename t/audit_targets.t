#!/usr/bin/perl

# Two targets of records, each with its own state: a file, syslog, stderr, a
# pipe. One whose reader sleeps or is gone holds up neither the other one nor
# the worker, and obeys its own mode.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Fcntl qw(O_NONBLOCK O_RDWR);
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP ();
use POSIX ();
use Socket qw(SOCK_DGRAM);

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

my $udp = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1')
    or die "socket: $!\n";
$t->{ports}{log} = $udp->sockport;
my $unix = unix_socket();
my $pipe = pipe_at('pipe.jsonl');
my $required = pipe_at('required.jsonl');

sub unix_socket {
    my $path = $t->path('syslog.sock');

    unlink $path;
    my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $path)
        or die "$path: $!\n";
    chmod 0666, $path;
    $socket->blocking(0);

    return $socket;
}

# A pipe that somebody has open for reading.

sub pipe_at {
    my ($file) = @_;

    POSIX::mkfifo($t->path($file), 0600) or die "$file: $!\n";
    sysopen my $fh, $t->path($file), O_RDWR|O_NONBLOCK or die "$file: $!\n";

    return $fh;
}

$udp->blocking(0);

my $conf = <<'EOC';
%%GLOBALS%%
#STDERR#
worker_processes 2;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            cdm_stop_audit  syslog:server=unix:%%TESTDIR%%/syslog.sock;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit
                "syslog:server=127.0.0.1:%%PORT_log%%,facility=auth,tag=cdm"
                best_effort;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/33333333333333333333333333333333/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/pipe.jsonl best_effort;
            cdm_stop_audit  %%TESTDIR%%/beside.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/44444444444444444444444444444444/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/required.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/55555555555555555555555555555555/ {
            cdm_stop        huawei;
            cdm_stop_audit  stderr;
            cdm_stop_audit  %%TESTDIR%%/stderr_too.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

(my $plain = $conf) =~ s/#STDERR#//;
$t->config($plain);
$t->start;

# What came at a socket or through a pipe since the last call, by its lines.

sub drain {
    my ($fh) = @_;

    my (@messages, $bytes);

    push @messages, $bytes while sysread $fh, $bytes, 65536;
    return @messages;
}

sub messages {
    my ($fh, $n) = @_;

    my @messages;
    $t->wait_for(sub { push @messages, drain($fh); @messages >= $n },
                 what => "$n messages", quiet => 1);

    return @messages;
}

sub stages {
    return join ' ', map { $_->{stage} } @_;
}

# Messages as syslog gets them: those that are records with that header.

sub of_syslog {
    my ($header, @messages) = @_;

    return map {
        /\A$header(\{.*\})\z/ ? CdmStop::Test::Records::parse_line($1, 'syslog')
                              : { stage => "no record: $_" }
    } @messages;
}

my $date = qr/[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d/;
my $host = qr/\S+/;

subtest 'A08 syslog and a file' => sub {
    my $r = $t->put_stop;
    is($r->{status}, 200, 'a stop');

    my @syslog = of_syslog(qr/<190>$date $host nginx: /, messages($unix, 2));
    my @file = $t->records('audit.jsonl');

    is(stages(@syslog), 'intent outcome', 'syslog has its records');
    is(stages(@file), 'intent outcome', 'and the file');
    is($_->{request_id}, $r->header('X-Request-Id'), 'they are of that stop')
        for @syslog, @file;

    is_deeply([$t->record_schema->check($_)], [], 'as the schema says')
        for @syslog;
    isnt($syslog[0]{chain}, $file[0]{chain}, 'each target has a chain');
    is(join(' ', map { $_->{seq} } @syslog), '1 2', 'with all its numbers');
};

subtest 'A08 syslog over UDP' => sub {
    is($t->put_stop(project => '2' x 32)->{status}, 200, 'a stop');
    is(stages(of_syslog(qr/<38>$date $host cdm: /, messages($udp, 2))),
       'intent outcome', 'with the facility and tag of the setting');
};

# As fast as it goes: a target that is waited for would take seconds each.

sub stops {
    my ($n, $name, %arg) = @_;

    my @answers = $t->finish(map { $t->start_stop(%arg) } 1 .. $n);
    is(scalar(grep { ($_->{status} // 0) == 200 } @answers), $n, $name);

    return;
}

sub whole_pairs {
    my ($file, $n) = @_;

    my $stages = stages(sort { $a->{stage} cmp $b->{stage} }
                        $t->new_records($file));
    is($stages, join(' ', ('intent') x $n, ('outcome') x $n),
       'the other target has all');

    return;
}

$t->expect_log(qr/\[alert\] .*audit record could not be written to "syslog:/);
$t->allow_log(qr/\[alert\] .*(?:connect|send)\(\) failed/);

subtest 'A08 syslog that is not read' => sub {
    $t->new_records('audit.jsonl');
    stops(100, 'stops go');
    whole_pairs('audit.jsonl', 100);

    my @messages = drain($unix);
    cmp_ok(scalar @messages, '<', 200, 'some are lost there');
    like($t->error_log, qr/could not be written to "syslog:\S+", \d+ lost/,
         'which is told');

    stops(1, 'then it is read again');
    is(stages(of_syslog(qr/<190>$date $host nginx: /, messages($unix, 2))),
       'intent outcome', 'and gets records');
    $t->new_records('audit.jsonl');
};

subtest 'A08 syslog that is gone' => sub {
    close $unix;
    unlink $t->path('syslog.sock');

    my $from = length $t->error_log;
    stops(100, 'stops go');
    whole_pairs('audit.jsonl', 100);
    my $lines = () = substr($t->error_log, $from) =~ /connect|send\(\)/g;
    cmp_ok($lines, '<=', 40, 'and the log is not filled with it');

    $unix = unix_socket();
    my @messages;
    $t->wait_for(sub {
        $t->put_stop;
        push @messages, drain($unix);
        @messages >= 2;
    }, what => 'messages at the new socket');
    like(stages(of_syslog(qr/<190>$date $host nginx: /, @messages)),
         qr/\A(?:intent|outcome)(?: intent| outcome)+\z/, 'until it is back');
    $t->new_records('audit.jsonl');
};

sub fill {
    my ($fh) = @_;

    my $size = 0;

    for my $piece (4096, 1) {
        while (my $n = syswrite $fh, 'x' x $piece) { $size += $n }
    }

    return $size;
}

$t->expect_log(qr/\[alert\] .*record could not be written to "\S+\/$_"/)
    for qw(pipe.jsonl required.jsonl);
$t->expect_log(qr/\[alert\] .*record could not be written to "stderr"/);

subtest 'A08 a full pipe' => sub {
    stops(1, 'a pipe that is read', project => '3' x 32);
    my @lines = map { split /\n/ } messages($pipe, 1);
    is(stages(map { CdmStop::Test::Records::parse_line($_, 'pipe') } @lines),
       'intent outcome', 'has the records');
    $t->new_records('beside.jsonl');

    cmp_ok(fill($pipe), '>=', 4096, 'it is full');
    stops(100, 'stops go', project => '3' x 32);
    whole_pairs('beside.jsonl', 100);

    is(join('', drain($pipe)) =~ tr/x//c, 0, 'nothing was added');
    stops(1, 'it has room again', project => '3' x 32);
    @lines = map { split /\n/ } messages($pipe, 1);
    is(stages(map { CdmStop::Test::Records::parse_line($_, 'pipe') } @lines),
       'intent outcome', 'and gets records');
};

subtest 'A08 a full pipe that is required' => sub {
    stops(1, 'a pipe that is read', project => '4' x 32);
    drain($required);
    my $count = $cdm->count;

    fill($required);
    my $r = $t->put_stop(project => '4' x 32);
    is($r->{status}, 503, 'a full one');
    is($r->json->{error_code}, 'CDMSTOP.0303', '.0303');
    is($cdm->count, $count, 'CDM has got nothing');

    drain($required);
    stops(1, 'it has room again', project => '4' x 32);
};

subtest 'A08 a full pipe at stderr' => sub {
    $t->stop;
    unlink $t->path('stderr.log');
    my $stderr = pipe_at('stderr.log');

    # else nginx makes its log the standard error
    (my $with = $conf) =~ s/#STDERR#/error_log stderr emerg;/;
    $t->config($with);
    $t->start;

    stops(1, 'a pipe that is read', project => '5' x 32);
    my @lines = map { split /\n/ } messages($stderr, 1);
    is(stages(map { CdmStop::Test::Records::parse_line($_, 'stderr') }
              grep { /\A\{/ } @lines), 'intent outcome', 'has the records');
    $t->new_records('stderr_too.jsonl');

    fill($stderr);
    stops(100, 'stops go', project => '5' x 32);
    whole_pairs('stderr_too.jsonl', 100);

    drain($stderr);
    $t->stop;
    unlink $t->path('stderr.log');
};

# pipes are no files to be searched or to be held against the schema
unlink $t->path('pipe.jsonl'), $t->path('required.jsonl');

$t->done;
