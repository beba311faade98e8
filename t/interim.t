#!/usr/bin/perl

# Answers of 1xx that CDM sends before the real one: they get neither to the
# client nor round what looks at the real one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Http;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my ($iam, $cdm) = ($t->iam, $t->cdm);

# newer ones pass 103 on to the client, where they are told to

my ($minor) = $t->{version} =~ /^1\.(\d+)/;
my $early_hints = $minor >= 29 ? 'early_hints 1;' : '';

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 1;
events { worker_connections 64; }
http {
    %%HTTP_GLOBALS%%
    log_format echo '\$upstream_http_x_echo';
    access_log %%TESTDIR%%/echo.log echo;

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
        $early_hints
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

my $token = ($cdm->requests)[-1]->header('X-Auth-Token');

# an answer that repeats the gateway's token

my $real = "HTTP/1.1 200 OK\r\nX-Echo: $token\r\nContent-Length: 2\r\n\r\n{}";

my %interim = (
    'none' => '',
    '100' => "HTTP/1.1 100 Continue\r\n\r\n",
    '103' => "HTTP/1.1 103 Early Hints\r\nX-Echo: $token\r\n\r\n",
    'two' => "HTTP/1.1 100 Continue\n\nHTTP/1.1  103 x\r\nLink: x\r\n\r\n",
);

for my $name (sort keys %interim) {
    $cdm->script({ raw => $interim{$name} . $real });

    # what a client gets is searched for secrets at the end; this is told here
    my $c = $t->connect(record => sub { });
    $c->send(CdmStop::Http::build_request(
        method => 'PUT', target => $t->stop_target(job => "echo-$name")));
    my ($r) = $c->responses(1);
    $c->close;

    is($r->{status}, 200, "L01 interim $name: the real answer");
    is(scalar @{$r->{interim}}, 0, "D13 interim $name: no other one");
    is(index($c->{received}, $token), -1, "L01 interim $name: no token");
}

is(index($t->read('echo.log'), $token), -1, 'L01 interim: nor in a log');

# headers that are for nobody

my $secret = $t->ledger->token(40);

$cdm->script({ raw => "HTTP/1.1 103 Early Hints\r\nX-Subject-Token: $secret\r\n"
    . "X-Auth-Token: $secret\r\nX-Request-Id: of-cdm\r\n\r\n"
    . "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" });

my $r = $t->put_stop(job => 'hints');
is($r->{status}, 200, 'D13 103: the real answer');
is(scalar @{$r->{interim}}, 0, 'D13 103: stays here, with its headers');
isnt($r->header('X-Request-Id'), 'of-cdm', 'D13 103: the id is ours');

# the client has left when it comes

my $before = $cdm->count;
$cdm->script({ hold => 'left',
               raw => "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" x 20
                      . "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" });

my $c = $t->connect;
$c->send(CdmStop::Http::build_request(
    method => 'PUT', target => $t->stop_target(job => 'left')));
$cdm->wait_requests($before + 1);
$c->reset;
$cdm->release('left');

my @left;
$t->wait_for(sub {
    @left = grep { ($_->{job_name} // '') eq 'left' }
            $t->records('audit.jsonl');
    return @left == 2;
}, what => 'the outcome');
is($left[1]{verdict}, 'stopped', 'D14 103 to a client that left: the verdict');

$t->done;
