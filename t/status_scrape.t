#!/usr/bin/perl

# A real Prometheus scrapes a gateway in OpenMetrics, which it asks for by
# itself and reads more strictly than the older text.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Metrics;
use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    log_format scrapes '$http_accept|$sent_http_content_type|$status';
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
    cdm_stop_reason             X-Reason;

    server {
        listen 127.0.0.1:%%PORT%%;
        server_name "a\"b\\c";

        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status {
            cdm_stop_status;
            access_log %%TESTDIR%%/scrapes.log scrapes;
        }
    }
}
EOC

$t->start;

$t->put_stop(headers => ['X-Reason' => 'x']) for 1 .. 3;
$t->put_stop for 1 .. 2;

my ($port, $own) = ($t->port, $t->port('prometheus'));
my $file = $t->write('prometheus.yml', <<"EOC");
global: { scrape_interval: 1s }
scrape_configs:
  - job_name: cdm_stop
    metrics_path: /status
    static_configs: [ { targets: ['127.0.0.1:$port'] } ]
EOC

my $pid = CdmStop::Process::run_in_background(
    ['prometheus', "--config.file=$file",
     '--storage.tsdb.path=' . $t->path('tsdb'),
     "--web.listen-address=127.0.0.1:$own"],
    stdout => $t->path('prometheus.log'), stderr => $t->path('prometheus.log'));

# What Prometheus knows: the samples of an expression, or its targets.

sub ask {
    my ($what) = @_;

    my $r = eval {
        $t->request(method => 'GET', port => $own, target => "/api/v1/$what");
    };

    return if !$r || $r->{status} != 200;
    return JSON::PP->new->utf8->decode($r->{body})->{data};
}

sub value {
    my ($expression) = @_;

    $expression =~ s/([^A-Za-z0-9_])/sprintf '%%%02X', ord $1/ge;
    my $data = ask("query?query=$expression") // return;
    my ($sample) = @{$data->{result}} or return;

    return $sample->{value}[1];
}

$t->wait_for(sub { value('sum(cdm_stop_stops_total)') }, what => 'a scrape');

my ($target) = @{ask('targets')->{activeTargets}};
is($target->{health}, 'up', 'the scrape is accepted');
is($target->{lastError}, '', 'without an error');

my ($line) = $t->read('scrapes.log') =~ /\A(.*)/;
like($line, qr{openmetrics-text.*\|application/openmetrics-text; version=1\.0},
     'it asked for OpenMetrics and got that');

is(value('cdm_stop_stops_total{verdict="stopped"}'), 3, 'a counter');
is(value('cdm_stop_decisions_total{decision="deny",server="a\\"b\\\\c"}'), 2,
   'with labels as they are');
is(value('cdm_stop_ready'), 1, 'a gauge');
is(value('cdm_stop_cdm_duration_seconds_bucket{le="+Inf"}'), 3,
   'a histogram');
is(value('histogram_quantile(1, cdm_stop_cdm_duration_seconds_bucket{})')
   <= 60, 1, 'of which it makes quantiles');
is(value('count({__name__=~"cdm_stop_.+"}) > 100'), value(
   'count({__name__=~"cdm_stop_.+"})'), 'and all the rest');

CdmStop::Process::end($pid);
$t->done;
