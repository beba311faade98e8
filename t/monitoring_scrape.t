#!/usr/bin/perl

# The alert rules in a real Prometheus that scrapes a gateway: each of them can
# be evaluated with what is really there, none cries while all is well, and
# those that should do when IAM and CDM fail.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

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
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       1551c7f6c808414d8e9f3c514a170f2e
                       2662d8a7d919525e9fa04d625b281a3f;
    }
    cdm_stop_policy org {
        deny   prod-freeze  job=~^prod;
        allow  everything   job=~.;
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%%;

        location /v1.1/ {
            cdm_stop          huawei;
            cdm_stop_enforce  org;
            cdm_stop_audit    %%TESTDIR%%/audit.jsonl;
            proxy_pass        http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /cdm_stop { cdm_stop_status; }
    }
}
EOC

$t->start;

$t->put_stop(job => 'etl') for 1 .. 3;
$t->put_stop(job => 'prod') for 1 .. 2;

my ($port, $own) = ($t->port, $t->port('prometheus'));
my $rules = $t->root . '/docs/monitoring/cdm_stop.rules.yml';
my $file = $t->write('prometheus.yml', <<"EOC");
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [ '$rules' ]
scrape_configs:
  - job_name: cdm_stop
    metrics_path: /cdm_stop
    static_configs: [ { targets: ['127.0.0.1:$port'] } ]
EOC

my $pid = CdmStop::Process::run_in_background(
    ['prometheus', "--config.file=$file",
     '--storage.tsdb.path=' . $t->path('tsdb'),
     "--web.listen-address=127.0.0.1:$own"],
    stdout => $t->path('prometheus.log'),
    stderr => $t->path('prometheus.log'));

# until each rule was evaluated with what a scrape had brought

my $seen = $t->wait_for(sub {
    my $up = ask('query?query=cdm_stop_ready') or return;

    return $up->{result}[0] && $up->{result}[0]{value}[0];
}, what => 'a scrape');

my @rules = $t->wait_for(sub {
    my @all = rules();

    return @all && !(grep { evaluated($_) < $seen + 2 } @all) && \@all;
}, what => 'the evaluation of the rules')->@*;

cmp_ok(scalar @rules, '>=', 30, 'Prometheus has the rules');
is_deeply([map { "$_->{name}: $_->{lastError}" }
    grep { $_->{health} ne 'ok' } @rules], [], 'and can evaluate each');
is_deeply([map { $_->{name} } grep { $_->{state} ne 'inactive' } @rules], [],
    'none of them cries while all is well');

# a project that gets no token

$iam->script({ answer => 'server_error' });
is($t->put_stop(job => 'etl', project => '2662d8a7d919525e9fa04d625b281a3f')
    ->{status}, 503, 'IAM fails');
cries('CdmStopNoToken', identity => 'huawei', state => 'failing');
cries('CdmStopIamFailing', identity => 'huawei');

# an answer that nobody can read

$cdm->script({ reset => 'after_request' });
is($t->put_stop(job => 'etl')->{status}, 504, 'CDM gives no answer');
cries('CdmStopUnknownVerdict', verdict => 'unknown');

is_deeply([map { "$_->{name}: $_->{lastError}" }
    grep { $_->{health} ne 'ok' } rules()], [],
    'all rules are well to the end');

# and a gateway that is gone

$t->stop;
cries('CdmStopGone', job => 'cdm_stop');

CdmStop::Process::end($pid);
$t->done;


sub ask {
    my ($what) = @_;

    my $r = eval {
        $t->request(method => 'GET', port => $own, target => "/api/v1/$what");
    };

    return if !$r || $r->{status} != 200;
    return JSON::PP->new->utf8->decode($r->{body})->{data};
}


sub rules {
    my $data = ask('rules') or return;

    return map { @{ $_->{rules} } } @{ $data->{groups} };
}


# seconds of the day; 0 if it was not so far

sub evaluated {
    my ($rule) = @_;

    my ($h, $m, $s) = ($rule->{lastEvaluation} // '')
        =~ /\A20\d\d-\d\d-\d\dT(\d\d):(\d\d):(\d\d)/ or return 0;
    my $day = $seen - $seen % 86_400;
    my $at = $day + $h * 3600 + $m * 60 + $s;

    return $at < $seen - 43_200 ? $at + 86_400 : $at;
}


# waits until an alert has such labels; most need some minutes to fire

sub cries {
    my ($name, %label) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $alert = eval {
        $t->wait_for(sub {
            my $data = ask('alerts') or return;

            return (grep {
                my $labels = $_->{labels};

                $labels->{alertname} eq $name
                    && !grep { ($labels->{$_} // '') ne $label{$_} }
                       keys %label
            } @{ $data->{alerts} })[0];
        }, what => "alert $name");
    };

    ok($alert, "$name cries");
    like($alert->{annotations}{summary} // '', qr/127\.0\.0\.1:$port: .*\w/,
        "$name says where");

    return;
}
