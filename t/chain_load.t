#!/usr/bin/perl

# Records under load over four workers, with a rotation each second and a
# worker killed each two: the chain verifies over all files, CDM saw no stop
# whose intent was not written before, and each intent has its outcome.
#
# TEST_CHAIN_RECORDS is the number of records, 4,000 by default.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time);

use CdmStop::Chain;
use CdmStop::Test;

my $records = $ENV{TEST_CHAIN_RECORDS} || 4_000;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $key = $t->ledger->token(64);

$t->write_secret('secrets/key', $key);
$t->audit_key($key);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 4;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop_audit_key          %%TESTDIR%%/secrets/key;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC
$t->start;
$t->put_stop(job => 'first');

my $file = $t->path('audit.jsonl');
my ($jobs, $answered, $files, $kills) = (0, 0, 0, 0);
my $start = time;

# a short run has its rotations and deaths as well
my $second = $records < 50_000 ? 0.1 : 1;
my ($rotate, $kill) = ($start + $second, $start + 2 * $second);


while ($jobs * 2 < $records) {
    my @handles = map { $t->start_stop(job => 'j' . ++$jobs) } 1 .. 50;

    if (time > $rotate) {
        rename $file, sprintf '%s.%04d', $file, ++$files;
        kill 'USR1', $t->master_pid;
        $rotate = time + $second;
    }

    if (time > $kill) {
        my @pids = $t->worker_pids;
        $t->{killed}{ $pids[0] } = 1;
        kill 'KILL', $pids[0];
        $kill = time + 2 * $second;
        $kills++;
    }

    $answered += grep { $_ && $_->{status} == 200 } $t->finish(@handles);
}

my $took = time - $start;

$t->wait_for(sub { $t->worker_pids == 4 }, what => 'four workers');
is($t->put_stop(job => 'last')->{status}, 200, 'A07 it goes on');

sub chain {
    my $chain = CdmStop::Chain->new(key => $key);

    for my $path (glob("$file.[0-9]*"), $file) {
        $chain->add($path =~ s{.*/}{}r, $t->read($path));
    }

    return $chain;
}

$t->wait_for(sub { !chain()->open }, what => 'all outcomes');
$t->stop;

my $chain = chain();
is(join("\n", ($chain->troubles)[0 .. 9]) =~ s/\n+\z//r, '',
   'W01 the chain verifies');
is(scalar $chain->ids, 1, 'W01 one chain');

my %count;

for my $record ($chain->records) {
    $count{ $record->{job_name} }{ $record->{stage} }++
        if $record->{job_name};
}

my @odd = grep { ($count{$_}{intent} // 0) != 1
                 || ($count{$_}{outcome} // 0) != 1 } keys %count;
is("@odd", '', 'W02 each intent has one outcome');

my %at_cdm;
$at_cdm{ ($_->{target} =~ m{/job/(\w+)/stop})[0] }++ for $cdm->stops;
my @unwritten = grep { !$count{$_} } keys %at_cdm;
is("@unwritten", '', 'W02 CDM saw none without an intent');
my @twice = grep { $at_cdm{$_} > 1 } keys %at_cdm;
is("@twice", '', 'W02 and none twice');

my $closed = grep { $_->{closed} } $chain->records;
diag(sprintf '%d stops, %d answered, %d records in %d files in %.1f s '
     . '(%d a second), %d workers killed, %d closed as unknown, %d torn',
     $jobs, $answered, scalar $chain->records, $files + 1, $took,
     $chain->records / $took, $kills, $closed, scalar $chain->torn);

$t->expect_log(qr/exited on signal 9/) if $kills;
$t->allow_log(qr/exited on signal 9|was locked by \d+|left in connection/);
$t->done;
