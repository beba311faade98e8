#!/usr/bin/perl

# Reloads under load, one in three of them with a broken configuration: no stop
# fails or is recorded twice, the old configuration serves on, and the master
# keeps nothing of what was. TEST_NGINX_RELOADS is their number; a reload each
# ten seconds for ten minutes are 60 of them with TEST_NGINX_PAUSE=10.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Metrics;
use CdmStop::Test;

my $RELOADS = $ENV{TEST_NGINX_RELOADS} || 12;
my $PAUSE = $ENV{TEST_NGINX_PAUSE} || 0;

# AddressSanitizer keeps what is freed: less of it, so that it is full soon

local $ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // (),
    'quarantine_size_mb=1', 'thread_local_quarantine_size_kb=64';

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam(life => 86400);
my $cdm = $t->cdm;

$t->write_secret('secrets/key', $t->ledger->key . "\n");
$t->audit_key($t->read('secrets/key') =~ s/\n\z//r);

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 2;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone       cdm:1m;
    cdm_stop_audit_key  %%TESTDIR%%/secrets/key;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        verify_cache   1h;
    }
    cdm_stop_policy org {
        deny   frozen  job=~^prod_;
        allow  all     user=airflow domain=acme;
    }
    server {
        listen 127.0.0.1:%%PORT%% backlog=1024;
        location /v1.1/ {
            cdm_stop                    huawei;
            cdm_stop_enforce            org;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status { cdm_stop_status; }
    }
}
EOC

$t->config($config);
$t->start;

my $token = $iam->add_token(user => 'airflow', domain => 'acme',
    project => CdmStop::Test::Traffic::PROJECT);

my ($jobs, @open, @answers) = (0);

# Twenty stops are always on their way.

sub load {
    push @open, $t->start_stop(job => 'load' . ++$jobs,
        headers => ['X-Auth-Token' => $token]);
    push @answers, $t->finish(splice @open, 0, 10) if @open > 20;

    return;
}

sub pause {
    my $end = time + $PAUSE;

    while (time < $end) {
        load() for 1 .. 5;
        sleep 0.05;
    }

    return;
}

# What the master has: memory in KB, mappings, open files.

sub master {
    my $pid = $t->master_pid;
    my ($status, $maps) = map { CdmStop::Test::Nginx::slurp("/proc/$pid/$_") }
        qw(status maps);
    my ($rss) = $status =~ /^VmRSS:\s+(\d+)/m;
    my @maps = split /\n/, $maps;
    my @files = glob "/proc/$pid/fd/*";

    return ($rss, scalar @maps, scalar @files);
}

my (@early, $refused);

for my $turn (1 .. $RELOADS) {
    load() for 1 .. 30;

    if ($turn % 3 == 0) {
        my $conf = $t->read('nginx.conf');

        $t->write('nginx.conf', "${conf}cdm_stop_nonsense;\n");
        $refused .= $t->reload(fail => 1);
        load() for 1 .. 30;
        $t->write('nginx.conf', $conf);

    } else {
        my %old = map { $_ => 1 } $t->worker_pids(all => 1);

        kill HUP => $t->master_pid;
        $t->wait_for(sub {
            load() for 1 .. 5;
            my @pids = $t->worker_pids(all => 1);
            return @pids == 2 && !grep { $old{$_} } @pids;
        }, what => 'new workers');
    }

    @early = master() if $turn == int($RELOADS / 3);
    pause();
}

push @answers, $t->finish(@open);

like($refused, qr/unknown directive "cdm_stop_nonsense"/,
     'W06 a broken configuration is refused');
is(scalar(grep { $_ && $_->{status} == 200 } @answers), $jobs,
   'W06 no stop fails') or diag(join ' ', map { $_ ? $_->{status} : 'lost' }
                                          @answers);
is($cdm->count, $jobs, 'W06 CDM got each of them once');
is(scalar($iam->posts), 1, 'W06 one token for all');
is(scalar($iam->gets), 1, 'W06 and one verification');

my %stages;
push @{$stages{$_->{job_name}}}, $_->{stage} for $t->records('audit.jsonl');
is(scalar(grep { join(' ', @{$stages{"load$_"} // []}) ne 'intent outcome' }
          1 .. $jobs), 0, 'W06 each has its two records, none is doubled');

my @end = master();
cmp_ok($end[0], '<=', $early[0] * ($t->{asan} ? 1.1 : 1.05),
    "W06 memory of the master: $early[0] KB early, $end[0] KB at the end");
cmp_ok($end[1], '<=', $early[1] + 2,
    "W06 mappings of the master: $early[1] early, $end[1] at the end");

# it closes its channel to a worker a moment after that one has gone
$t->wait_for(sub { (master())[2] <= $early[2] }, quiet => 1);
cmp_ok((master())[2], '<=', $early[2], 'W06 no more open files');

my $status = CdmStop::Metrics->new($t)->json;
is($status->{totals}{verdicts}{stopped} // '?', $jobs,
   'W06 counters go on over reloads');

$t->done;
