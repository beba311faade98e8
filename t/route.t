#!/usr/bin/perl

# However a request comes to a guarded location, a decision is made about it:
# absolute form, any Host, HTTP/1.0, rewrite, try_files, error_page, redirects
# by an upstream, subrequests, "satisfy any".  The stop that is acted on is the
# one that the client named, and it goes where the configuration says.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Expect;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my $iam = $t->iam;
my $cdm = $t->cdm;
my $app = $t->standin('CdmStop::Standin', name => 'app', port => 'app');
my $trap = $t->standin('CdmStop::Standin', name => 'trap', port => 'trap');
my $tls = $t->standin('CdmStop::Cdm', name => 'tls', port => 'tls',
                      tls => 'good');
my $stop = $t->stop_target;

$t->write('users', "operator:{PLAIN}secret\n", 0644);
$t->write('html/page.shtml', "[<!--#include virtual=\"$stop\" -->]", 0644);
$t->write('html/fixed.shtml', '[<!--#include virtual="'
          . $stop =~ s/stop\z/st%6Fp/r . '" -->]', 0644);
$t->write('html/file.html', "a file\n", 0644);

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    limit_req_zone $server_port zone=one:64k rate=1r/m;

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

    # a guard for the whole server, and ways into it

    server {
        listen   127.0.0.1:%%PORT%%;
        root     %%TESTDIR%%/html;
        cdm_stop huawei;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }

        location /rewritten/   { rewrite ^ STOP last; }
        location /named/       { error_page 418 = @cdm; return 418; }
        location /tried/       { try_files /none STOP; }
        location /tried-named/ { try_files /none @stop; }
        location /error/       { error_page 403 STOP; deny all; }
        location /error-same/  { error_page 403 =200 STOP; deny all; }
        location /accel/       { proxy_pass http://127.0.0.1:%%PORT_app%%; }
        location /auth/        { auth_request STOP; }
        location /auth-fixed/  { auth_request FIXED; }
        location /mirror/ {
            mirror     STOP;
            proxy_pass http://127.0.0.1:%%PORT_app%%;
        }
        location /post/ {
            post_action STOP;
            proxy_pass  http://127.0.0.1:%%PORT_app%%;
        }
        location ~ \.shtml$    { ssi on; default_type text/html; }

        location @cdm  { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
        location @stop {
            rewrite    ^ STOP break;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    # CDM by TLS

    server {
        listen 127.0.0.1:%%PORT_to_tls%%;

        location /v1.1/ {
            cdm_stop                      huawei;
            cdm_stop_insecure_upstream    off;
            proxy_ssl_verify              on;
            proxy_ssl_trusted_certificate %%TESTDIR%%/certs/ca.crt;
            proxy_ssl_name                cdm.test;
            proxy_ssl_server_name         on;
            proxy_pass                    https://127.0.0.1:%%PORT_tls%%;
        }
    }

    # other ways of a stop to its guarded location

    server {
        listen 127.0.0.1:%%PORT_try%%;

        location /v1.1/ { try_files $uri @cdm; }
        location @cdm {
            cdm_stop   huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_error%%;

        location /v1.1/ { error_page 418 = @cdm; return 418; }
        location @cdm {
            cdm_stop   huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_accel%%;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%PORT_app%%; }
        location @cdm {
            cdm_stop   huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen   127.0.0.1:%%PORT_rewrite%%;
        root     %%TESTDIR%%/html;
        cdm_stop huawei;

        rewrite ^(.*)/job/one/stop$ $1/job/other/stop;
        rewrite ^(.*)/job/same/stop$ $1/job/same/stop?x=y;
        rewrite ^(.*)/job/away/stop$ /file.html;
        rewrite ^(.*)/job/start/stop$ $1/job/start/start;

        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
        location = /file.html { }
    }

    # proxy_pass makes a stop of what was none

    server {
        listen   127.0.0.1:%%PORT_map%%;
        cdm_stop huawei;

        location /api/   { proxy_pass http://127.0.0.1:%%CDM_PORT%%/v1.1/; }
        location /alias/ {
            mirror     /copy;
            proxy_pass http://127.0.0.1:%%PORT_app%%;
        }
        location = /copy { proxy_pass http://127.0.0.1:%%CDM_PORT%%STOP; }
    }

    # ways out of the guarded location, before the decision and after it

    server {
        listen 127.0.0.1:%%PORT_out%%;

        location /v1.1/ {
            cdm_stop   huawei;
            try_files  /none @raw;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location @raw { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen 127.0.0.1:%%PORT_out_before%%;

        location /v1.1/ {
            cdm_stop   huawei;
            error_page 418 = @raw;
            return     418;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location @raw { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    # what nginx refuses does not come back by an error page

    server {
        listen     127.0.0.1:%%PORT_back%%;
        error_page 400 413 414 494 @cdm;
        client_max_body_size 10;

        location /v1.1/ {
            cdm_stop   huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location @cdm {
            cdm_stop   huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen     127.0.0.1:%%PORT_back200%%;
        error_page 400 494 = @cdm;

        location /v1.1/ {
            cdm_stop   huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location @cdm {
            cdm_stop   huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    # what the access phase and the rewrite phase decide

    server {
        listen     127.0.0.1:%%PORT_satisfy%%;
        cdm_stop   huawei;
        satisfy    any;
        allow      127.0.0.1;
        deny       all;
        auth_basic gateway;
        auth_basic_user_file %%TESTDIR%%/users;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen     127.0.0.1:%%PORT_basic%%;
        cdm_stop   huawei;
        satisfy    any;
        deny       all;
        auth_basic gateway;
        auth_basic_user_file %%TESTDIR%%/users;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen   127.0.0.1:%%PORT_deny%%;
        cdm_stop huawei;
        deny     all;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen 127.0.0.1:%%PORT_return%%;

        location /v1.1/ {
            cdm_stop   huawei;
            return     410;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen    127.0.0.1:%%PORT_limit%%;
        limit_req zone=one;
        cdm_stop  huawei;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen 127.0.0.1:%%PORT_sub%%;

        location /v1.1/ {
            cdm_stop     huawei;
            auth_request /auth;
            mirror       /mirror;
            proxy_pass   http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /auth   { proxy_pass http://127.0.0.1:%%PORT_app%%; }
        location = /mirror {
            proxy_pass http://127.0.0.1:%%PORT_app%%$request_uri;
        }
    }
}
EOC

my $fixed = $stop =~ s/stop\z/st%6fp/r;
$t->config($config =~ s/\bSTOP\b/$stop/gr =~ s/\bFIXED\b/$fixed/gr);
$t->start;

my $e = CdmStop::Expect->new($t, iam => $iam, cdm => $cdm);

# absolute form, Host and version

my $r;

$e->forwarded($t->put_stop, 'T14 a guard for the whole server');

my ($gateway, $trapped) = map { "127.0.0.1:$_" } $t->port, $t->port('trap');

for my $authority ($gateway, 'localhost', $trapped, 'evil.test',
    'cdm.cn-north-4.myhuaweicloud.com:443', '[::1]:80')
{
    for my $scheme ('http', 'https', 'HTTP') {
        my $r = $t->put_stop(target => "$scheme://$authority$stop");
        $e->forwarded($r, "T13 absolute form: $scheme://$authority");
    }
}

for my $host ($trapped, 'evil.test', 'evil.test:443', '127.0.0.1', '[::1]',
    'localhost.', 'x' x 200)
{
    my $r = $t->put_stop(headers => [Host => $host]);
    $e->forwarded($r, 'T13 Host: ' . substr $host, 0, 20);
}

my ($got) = reverse $cdm->requests;
is($got->header('Host'), '127.0.0.1:' . $t->port('CDM'),
   'T13 Host of CDM comes from the configuration');

$e->refused($t->put_stop(target => "http://$trapped$stop/"), '0001',
            'T13 T04 absolute form, a slash behind', target => "$stop/");
$e->refused($t->put_stop(target => "http://$trapped$stop?a=b"), '0001',
            'T13 T07 absolute form, a query', target => $stop);
$e->refused($t->request(target => "http://$trapped$stop"), '0003',
            'T13 T11 absolute form, GET');

for my $target ("http://user\@$gateway$stop", "http://u:p\@$gateway$stop",
    "http://$trapped\@$gateway$stop", "http://$stop", "http:/$stop",
    "http:$stop", "//user\@$gateway$stop" =~ s{^//}{http//:}r)
{
    $e->by_nginx($t->put_stop(target => $target), [400, 405],
                 "T13 nginx refuses $target" =~ s/$stop/STOP/r
                 =~ s/:\d+/:port/gr);
}

$e->by_nginx($t->put_stop(headers => [Host => 'a/b']), 400,
             'T13 nginx refuses a Host that is none');
$e->by_nginx($t->put_stop(headers => [[Host => 'a'], [Host => 'b']]), 400,
             'T13 nginx refuses two Hosts');
$e->by_nginx($t->raw("PUT $stop HTTP/1.1\r\n\r\n"), 400,
             'T13 nginx refuses HTTP/1.1 without Host');

$e->forwarded($t->put_stop(version => '1.0'), 'T13 HTTP/1.0 without Host');
$e->forwarded($t->put_stop(version => '1.0', host => 'evil.test'),
              'T13 HTTP/1.0 with a Host');
$e->forwarded($t->put_stop(version => '1.0', target => "http://x.test$stop"),
              'T13 HTTP/1.0 in absolute form');
$e->by_nginx($t->raw("PUT $stop\r\n\r\n"), [400, 0], 'T13 HTTP/0.9');

for my $authority ('evil.test', $trapped) {
    $r = $t->put_stop(port => $t->port('to_tls'),
                      target => "https://$authority$stop",
                      headers => [Host => $authority]);
    is($r->{status}, 200, 'T13 absolute form and a foreign Host, CDM by TLS');
    is(join(' ', map { "$_->{stage}" } $e->wait_records(2)),
       'intent outcome', 'T13 with its records');
}

is(join(' ', map { $_->{sni} } $tls->{front}->handshakes(2)),
   'cdm.test cdm.test', 'T13 SNI comes from the configuration');
is(join(' ', map { $_->header('Host') } $tls->requests),
   join(' ', ('127.0.0.1:' . $t->port('tls')) x 2), 'T13 and Host as well');

is($trap->counters->{connections}, 0, 'T13 no connection to another host');


# into the location by something else than the client's target

for my $way (qw(rewritten tried tried-named error error-same)) {
    my $r = $t->request(method => 'PUT', target => "/$way/x");
    $e->refused($r, '0001', "T14 $way: the client named no stop",
                target => "/$way/x");
}

for my $answer ($stop, $fixed, "$stop/") {
    $app->script({ headers => ['X-Accel-Redirect' => $answer] });
    $e->refused($t->request(method => 'PUT', target => '/accel/x'), '0001',
                'T14 X-Accel-Redirect: the client named no stop',
                target => '/accel/x');
}

$app->script({ headers => ['X-Accel-Redirect' => '@stop'] });
$e->refused($t->request(method => 'PUT', target => '/accel/x'), '0001',
            'T14 X-Accel-Redirect to a location that rewrites');
$app->script;

$r = $t->request(method => 'PUT', target => '/post/x');
is($r->{status}, 200, 'T14 post_action: the request itself is served');
ok($t->wait_for(sub { $t->error_log
       =~ /a stop is not sent: "post_action" cannot send one/ }, quiet => 1),
   'T14 post_action: the stop is refused');
$e->nothing('T14 post_action: nothing at CDM');


# a stop that the configuration changes on its way

for my $job (qw(one away start)) {
    my $r = $t->put_stop(job => $job, port => $t->port('rewrite'));
    $e->refused($r, '0001', "T14 the stop of $job becomes something else",
                target => $t->stop_target(job => $job));
}

$e->forwarded($t->put_stop(job => 'same', port => $t->port('rewrite')),
              'T14 rewritten to itself, a query added: the same stop',
              job => 'same');
$e->forwarded($t->put_stop(port => $t->port('try')),
              'T14 try_files to a named location: the same stop');
$e->forwarded($t->put_stop(port => $t->port('error')),
              'T14 error_page to a named location: the same stop');
$e->forwarded($t->put_stop(port => $t->port('error'), body => 'abc'),
              'T14 the same with a body', body => 'abc');
$e->refused($t->put_stop(port => $t->port('try'), target => "$stop/"),
            '0001', 'T14 T04 try_files, a slash behind');
$e->refused($t->request(method => 'POST', port => $t->port('error'),
                        target => $stop),
            '0003', 'T14 T11 error_page, another method');

$app->script({ headers => ['X-Accel-Redirect' => '@cdm'] });
$e->forwarded($t->put_stop(port => $t->port('accel')),
              'T14 X-Accel-Redirect to a named location: the same stop');
$app->script;


# proxy_pass is no way to make a stop of another request

$r = $t->put_stop(port => $t->port('map'), target => $stop =~ s{/v1.1}{/api}r,
                  headers => ['X-Auth-Token' => 'of-the-caller']);
cmp_ok($r->{status}, '>=', 400, 'T14 a URI in proxy_pass makes a stop');
my ($mapped) = $e->wait_records(1);
is($mapped->{stage} // '', 'refused', 'T14 it is refused');
$e->nothing('T14 nothing at CDM');

$r = $t->request(port => $t->port('map'), target => '/alias/x');
is($r->{status}, 200, 'T14 a mirror with a URI in proxy_pass');
($mapped) = $e->wait_records(1);
is($mapped->{stage} // '', 'refused', 'T14 it is refused');
$e->nothing('T14 nothing at CDM');


# nor does a record tell of a stop that it was not sent when it was

for my $port (qw(out out_before)) {
    $r = $t->put_stop(port => $t->port($port),
                      headers => ['X-Auth-Token' => 'of-the-caller']);
    my %new = $e->arrived;
    my @records = $e->wait_records(1);

    my @not_sent = grep { ($_->{verdict} // '') eq 'not_sent' } @records;

    ok(!$new{cdm_requests} || !@not_sent,
       "T14 $port of the guarded location: the record is true");
}

is(scalar(grep { $_->header('X-Auth-Token') ne 'of-the-caller' }
          ($cdm->requests)[-1]), 0, 'T14 and no token of ours got there')
    if $cdm->requests;


# what nginx refused stays refused, whatever error_page says

for my $port (qw(back back200)) {
    for my $case (
        ['two lengths', "Content-Length: 5\r\nContent-Length: 0\r\n\r\n"],
        ['a length and chunks', "Content-Length: 5\r\nTransfer-Encoding: "
         . "chunked\r\n\r\n0\r\n\r\n"],
        ['a length of +5', "Content-Length: +5\r\n\r\nhello"],
        ['two hosts', "Host: y\r\n\r\n"],
        ['a header too large', 'X: ' . 'y' x 20_000 . "\r\n\r\n"],
        ['a body too large', "Content-Length: 50\r\n\r\n" . 'x' x 50],
    ) {
        my ($what, $headers) = @$case;
        next if $what =~ /body/ && $port ne 'back';

        $r = $t->raw("PUT $stop HTTP/1.1\r\nHost: x\r\n$headers",
                     port => $t->port($port));
        is(join(' ', map { $_->{stage} } $e->wait_records(1)), 'refused',
           "T14 B01 $port: $what, error_page to a guarded location: refused");
        cmp_ok($r->{status}, '>=', 400, 'T14 the client is told');
        $e->nothing('T14 nothing at CDM');
    }
}


# subrequests are no way to stop a job

for my $case (['auth', 403], ['auth-fixed', 403], ['mirror', 200],
    ['page.shtml', 200], ['fixed.shtml', 200])
{
    my ($way, $status) = @$case;
    my $r = $t->request(target => $way =~ /\./ ? "/$way" : "/$way/file.html");

    is($r->{status}, $status, "T14 $way: answer to the request itself");
    my ($record) = $e->wait_records(1);
    is($record->{stage} . ' ' . ($record->{error_code} // ''),
       'refused CDMSTOP.0204', "T14 $way: the stop by a subrequest is refused");
    $e->nothing("T14 $way: nothing at CDM and IAM");
}

$app->reset_log;
$e->forwarded($t->put_stop(port => $t->port('sub')),
              'T14 a stop that has subrequests itself');
$app->wait_requests(2);
is(scalar(grep { $_->header('X-Auth-Token') } $app->requests), 0,
   'T14 they get no token');

$app->script({ status => 403 });
$e->ended_early($t->put_stop(port => $t->port('sub')), 403,
                'T14 auth_request denies a stop', job => $t->JOB);
$app->script;


# "satisfy any" ends the access phase, not ours

$e->forwarded($t->put_stop(port => $t->port('satisfy')),
              'T14 satisfy any, allowed by address: recorded, decided');
$e->refused($t->put_stop(port => $t->port('satisfy'), target => "$stop;x"),
            '0001', 'T14 T05 satisfy any');
$e->refused($t->request(port => $t->port('satisfy'), target => $stop),
            '0003', 'T14 T11 satisfy any');
$e->forwarded($t->put_stop(port => $t->port('basic'),
                           headers => [Authorization => 'Basic '
                               . 'b3BlcmF0b3I6c2VjcmV0']),
              'T14 satisfy any, allowed by password');


# a stop that nginx ends before us has its record

$r = $t->put_stop(port => $t->port('basic'));
$e->ended_early($r, 401, 'T14 auth_basic without a password',
                job => $t->JOB);
is($r->header('WWW-Authenticate'), 'Basic realm="gateway"',
   'T14 the answer is that of nginx');
$e->ended_early($t->put_stop(port => $t->port('basic'), target => "$stop/"),
                401, 'T14 T04 the same, not spelled as documented',
                target => "$stop/");
$e->ended_early($t->put_stop(port => $t->port('deny')), 403,
                'T14 deny all', job => $t->JOB);
$e->ended_early($t->put_stop(port => $t->port('return')), 410,
                'T14 return', job => $t->JOB);
$e->forwarded($t->put_stop(port => $t->port('limit')),
              'T14 limit_req: the first');
$e->ended_early($t->put_stop(port => $t->port('limit')), 503,
                'T14 limit_req: the second', job => $t->JOB);

for my $port (qw(basic deny)) {
    $t->request(port => $t->port($port), target => "/v1.1/x");
    $e->nothing("T14 $port: no record of what is no stop");
}

$t->done;
