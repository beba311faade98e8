#!/usr/bin/perl

# A stop is a PUT: another method is refused, and nothing that a caller or the
# configuration says changes the method or the job that CDM reads.  A request
# that is no stop passes untouched, or is refused where only stops are served.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Expect;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my $iam = $t->iam;
my $cdm = $t->cdm;

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%

    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri           http://127.0.0.1:%%IAM_PORT%%;
        insecure      on;
        method        password;
        domain        acme;
        user          cdm-gateway;
        password_file %%TESTDIR%%/secrets/password;
        projects      any;
    }

    cdm_stop_verify            off;
    cdm_stop_anonymous         on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit             %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%%;

        location /v1.1/ {
            cdm_stop   huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_deny%%;

        location /v1.1/ {
            cdm_stop       huawei;
            cdm_stop_other deny;
            proxy_pass     http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_plain%%;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen 127.0.0.1:%%PORT_method%%;

        location /v1.1/ {
            cdm_stop     huawei;
            proxy_method DELETE;
            proxy_pass   http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_uri%%;

        location /v1.1/ {
            cdm_stop   huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%/other/;
        }
    }
}
EOC

$t->start;

my $e = CdmStop::Expect->new($t, iam => $iam, cdm => $cdm);
my $stop = $t->stop_target;
my $jobs = $stop =~ s{/[^/]+/stop\z}{}r;


# other methods; the stand-ins have nothing to do

for my $method (qw(GET POST DELETE OPTIONS PATCH PUTT COPY MKCOL PROPFIND LOCK
    STOP X-PUT PUT_))
{
    my $r = $t->request(method => $method, target => $stop);
    $e->refused($r, '0003', "T11 $method: Allow: PUT, no token fetched",
                job => $t->JOB);
}

my $r = $t->request(method => 'HEAD', target => $stop);
$e->refused($r, '0003', 'T11 HEAD: the same without a body', head => 1);

$r = $t->request(method => 'POST', target => $stop, body => 'x' x 100_000);
$e->refused($r, '0003', 'T11 POST with a body');

$r = $t->request(method => 'GET', target => "$stop?a=b");
$e->refused($r, '0001', 'T11 T07 the target is looked at first');

for my $case (['TRACE', $stop, 405], ['CONNECT', $stop, [400, 405]],
    ['CONNECT', 'cdm.test:443', [400, 405]], ['put', $stop, 400],
    ['Put', $stop, 400], ['PU T', $stop, 400], ["PUT\t", $stop, 400],
    ['', $stop, 400])
{
    my ($method, $target, $status) = @$case;

    $e->by_nginx($t->raw("$method $target HTTP/1.1\r\nHost: x\r\n\r\n"),
                 $status, "T11 nginx itself refuses \"$method\" of "
                 . ($target eq $stop ? 'a stop' : $target));
}

is($cdm->bytes + $iam->bytes, 0, 'T11 not one byte at CDM and IAM');


# what names another method or another job is neither obeyed nor passed on

my $other = $t->stop_target(job => 'other');
my %override = (
    'X-HTTP-Method-Override' => 'DELETE', 'X-HTTP-Method' => 'DELETE',
    'X-Method-Override' => 'DELETE', '_method' => 'DELETE',
    'X-Original-URL' => $other, 'X-Rewrite-URL' => $other,
    'X-Forwarded-Uri' => $other, 'X-Original-URI' => $other,
    'X-Forwarded-Method' => 'DELETE', 'X-Forwarded-Host' => 'evil.test',
    'X-Forwarded-Prefix' => '/x', 'Forwarded' => 'host=evil.test',
    'X-Host' => 'evil.test',
);

for my $name (sort keys %override) {
    $e->forwarded($t->put_stop(headers => [$name => $override{$name}]),
                  "T12 $name: $override{$name}");
}

$e->forwarded($t->put_stop(headers => \%override), 'T12 all of them at once');

my ($got) = reverse $cdm->requests;
is(join(',', grep { exists $override{$_} || /forwarded|original|method/i }
             $got->names), '', 'T12 none of them reaches CDM');

for my $body ('_method=DELETE', '{"_method":"DELETE"}') {
    $e->forwarded($t->put_stop(body => $body, headers => [
        'Content-Type' => 'application/x-www-form-urlencoded']),
        "T12 in the body: $body", body => $body);
}

for my $agent ('ELB-HealthChecker/2.0', 'kube-probe/1.25', 'GoogleHC/1.0') {
    $e->forwarded($t->put_stop(headers => ['User-Agent' => $agent]),
                  "T12 no short cut for $agent");
    $e->refused($t->request(method => 'GET', target => $stop,
                            headers => ['User-Agent' => $agent]),
                '0003', "T12 nor for its GET");
}


# the configuration is not to change it either

$e->forwarded($t->put_stop(port => $t->port('method')),
              'T12 proxy_method DELETE: CDM reads PUT');
$e->forwarded($t->put_stop(port => $t->port('uri')),
              'T12 a URI in proxy_pass: CDM reads the target of the request');


# requests that are no stop

my @others = (
    ['PUT', "$jobs/stop"], ['PUT', "$jobs/J"], ['POST', $jobs],
    ['PUT', "$jobs/J/start"], ['GET', "$jobs/J/status"],
    ['DELETE', "$jobs/J"], ['GET', "$jobs/all?jobType=NORMAL_JOB"],
    ['PUT', $stop =~ s/v1\.1/v1.10/r =~ s/v1\.10/v1.1\/v1.10/r],
    ['POST', $jobs =~ s{/cdm/job\z}{/action}r], ['OPTIONS', "$jobs/J"],
);

for my $case (@others) {
    my ($method, $target) = @$case;
    my $name = "T10 $method " . $target =~ s{\A.*/(?=\w+/cdm|clusters)}{}r;

    my %arg = (method => $method, target => $target,
        headers => ['X-Auth-Token' => 'of-the-caller', Cookie => 'a=b',
                    'X-HTTP-Method-Override' => 'PUT', 'X-A' => 'b',
                    Authorization => 'Basic eDp5']);
    $arg{body} = '{"jobs":[]}' if $method =~ /P/;

    my (@sent, @answers);

    for my $port ('plain', '') {
        $cdm->reset_log;
        my $r = $t->request(%arg, port => $t->port($port));
        push @sent, join '', map { $_->{raw} } $cdm->requests;
        push @answers, $r->{raw} =~ s/^(?:Date|X-Request-Id):.*\n//mgr;
    }

    is($sent[1], $sent[0], "$name: CDM reads what it would read without us");
    is($answers[1], $answers[0], 'T10 so does the client');

    $cdm->reset_log;
    $e->arrived;
    my $r = $t->request(%arg, port => $t->port('deny'));
    my $json = eval { $r->json } // {};

    is("$r->{status} " . ($json->{error_code} // $r->{body}),
       '403 CDMSTOP.0005', "$name: 403 where only stops are served");
    like($r->header('X-Request-Id'), qr/\A[0-9a-f]{32}\z/,
         'T10 with a request id');
    $e->nothing('T10 nothing at CDM, no record');
}

$e->forwarded($t->put_stop(job => 'stop'),
              'T10 .../job/stop/stop stops the job stop', job => 'stop');
$e->forwarded($t->put_stop(port => $t->port('deny')),
              'T10 a stop is served where others are denied');
$e->refused($t->request(method => 'GET', target => $stop,
                        port => $t->port('deny')),
            '0003', 'T10 T11 a GET of a stop is a stop with another method');
$e->refused($t->request(method => 'PUT', target => "$stop/",
                        port => $t->port('deny')),
            '0001', 'T10 T04 what resembles a stop is not another request');

is(scalar($iam->posts), 1, 'T10 T12 one token for all');

$t->done;
