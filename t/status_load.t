#!/usr/bin/perl

# IAM hangs, and all that may wait do: the status answers, and other locations,
# who is too much is refused at once, and all is well when IAM is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time);

use CdmStop::Client;
use CdmStop::Metrics;
use CdmStop::Test;

use constant {
    LIMIT => 4096,
    MORE => 54,
};

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
worker_rlimit_nofile 10000;
events { worker_connections 9000; }
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
        projects       1551c7f6c808414d8e9f3c514a170f2e;
        timeout        120s;
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_wait               120s;
    cdm_stop_audit              off;

    server {
        listen 127.0.0.1:%%PORT%% backlog=8192;
        location /v1.1/ {
            cdm_stop    huawei;
            proxy_pass  http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status { cdm_stop_status; }
        location = /ready  { cdm_stop_status ready; }
        location = /other  { return 204; }
    }
}
EOC

$t->start;

my $metrics = CdmStop::Metrics->new($t);

$iam->script({ hold => 'iam' });

my @handles;
push @handles, map { $t->start_stop(job => "j$_") } 1 .. 64
    for 1 .. LIMIT / 64;

$t->wait_for(sub { $metrics->json->{waiting}{requests} == LIMIT },
             what => LIMIT . ' waiting stops');

my $start = time;
my $m = $metrics->text;
my $took = time - $start;

is($m->{cdm_stop_waiting_requests}, LIMIT, 'Q02 all of them are told of');
is($m->{cdm_stop_waiting_requests_limit}, LIMIT, 'Q02 and that these are all');
cmp_ok($took, '<', 5, 'Q02 the status answers while they wait');
is($t->request(method => 'GET', target => '/other')->{status}, 204,
   'Q02 so do other locations');

my $ready = $t->request(method => 'GET', target => '/ready');
is($ready->{status}, 503, 'Q02 not ready for more');
like($ready->{body}, qr/"waiting_full"/, 'Q02 and why');

my @more = map { $t->start_stop(job => "more$_") } 1 .. MORE;
CdmStop::Client::collect(\@more, timeout => $t->{timeout});
is(scalar(grep { $_->{responses}[0]{status} == 503 } @more), MORE,
   'Q02 who is too much is refused at once');
$_->close for @more;

is(scalar(grep { $_->{responses}[0] } @handles), 0, 'Q02 nobody else is');
is($cdm->count, 0, 'Q02 CDM got nothing');

# a third of them leave

$_->close for splice @handles, 0, LIMIT / 4;
$t->wait_for(sub { $metrics->json->{waiting}{requests} == LIMIT * 3 / 4 },
             what => 'those who left');

$iam->release('iam');
CdmStop::Client::collect(\@handles, timeout => $t->{timeout});
is(scalar(grep { $_->{responses}[0] && $_->{responses}[0]{status} == 200 }
          @handles), LIMIT * 3 / 4, 'Q02 all are served in the end');
$_->close for @handles;

$t->wait_for(sub { $metrics->json->{waiting}{requests} == 0 },
             what => 'nobody to wait');

$m = $metrics->text;
is(scalar(() = $iam->posts), 1, 'Q02 one call of IAM');
is($m->{cdm_stop_wait_seconds_count}, LIMIT, 'Q02 waits are counted');
is($m->{'cdm_stop_errors_total{code="CDMSTOP.0301"}'}, MORE,
   'Q02 those who were too many');
is($m->{'cdm_stop_stops_total{verdict="stopped"}'}, $cdm->count,
   'Q02 those who were served');
is($metrics->sum($m, 'cdm_stop_stops_total'), LIMIT + MORE, 'Q02 all');
is($t->request(method => 'GET', target => '/ready')->{status}, 200,
   'Q02 ready again');

$t->done;
