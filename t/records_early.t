#!/usr/bin/perl

# A stop that nginx itself ends, before the module decides anything, is recorded
# as refused, and the answer names the record, whatever page it becomes.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->write('htpasswd', "user:\{PLAIN}no\n");

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    limit_req_zone $uri zone=rate:1m rate=1r/m;
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
        listen 127.0.0.1:%%PORT_early%%;
        client_body_timeout  300ms;
        client_max_body_size 1k;
        cdm_stop             huawei;
        cdm_stop_audit       %%TESTDIR%%/early.jsonl;
        error_page 403       /open/error;
        location /open/ { cdm_stop off; return 200 "a page of no guard"; }
        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
        location /v1.1/11111111111111111111111111111111/ {
            deny all;
            error_page 403 /own.html;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            auth_basic "a realm";
            auth_basic_user_file %%TESTDIR%%/htpasswd;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/33333333333333333333333333333333/ {
            limit_req zone=rate;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/44444444444444444444444444444444/ { return 410 "gone"; }
        location /v1.1/55555555555555555555555555555555/ {
            return 302 http://elsewhere/;
        }
        location /v1.1/66666666666666666666666666666666/ {
            return 444;
        }
        location /v1.1/77777777777777777777777777777777/ {
            deny all;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/88888888888888888888888888888888/ {
            deny all;
            error_page 403 =200 @named;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location @named { cdm_stop off; return 200 "named"; }
        location /v1.1/99999999999999999999999999999999/ {
            auth_request /open/no;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /open/no { cdm_stop off; return 401; }
        location /v1.1/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/ {
            internal;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb/ {
            if ($http_x_stop_here) { return 409; }
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/cccccccccccccccccccccccccccccccc/ {
            limit_except GET { deny all; }
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /own.html { cdm_stop off; return 200 "own"; }
    }
}
EOC

$t->start;

my $seen = 0;

# Waits for as many new records.

sub wait_fresh {
    my ($n) = @_;

    my @all = $t->wait_records('early.jsonl', $seen + $n);
    my $from = $seen;
    $seen = @all;

    return @all[$from .. $#all];
}

subtest 'A01 what nginx itself ends is recorded' => sub {
    my @early = (port => $t->port('early'));
    my %case = (
        'deny, an error page' => ['1', 403, qr/\Aown\z/],
        'auth_basic' => ['2', 401],
        'return' => ['4', 410, qr/\Agone\z/],
        'a redirect' => ['5', 302],
        'deny, an error page of no guard' => ['7', 403, qr/no guard/],
        'deny, a named page' => ['8', 200, qr/\Anamed\z/],
        'auth_request' => ['9', 401],
        'internal' => ['a', 404],
        'a return in an if' => ['b', 409, undef, ['X-Stop-Here' => 1]],
        'limit_except' => ['c', 403],
    );

    $cdm->reset_log;
    my $posts = $iam->posts;

    for my $name (sort keys %case) {
        my ($project, $status, $body, $headers) = @{$case{$name}};
        my $r = $t->put_stop(@early, project => $project x 32,
                             headers => $headers);
        my @records = wait_fresh(1);

        is(scalar @records, 1, "$name: one record");
        is_early($name, $r, $records[0], $status);
        is($records[0]{project_id}, $project x 32, 'the stop');
        like($r->{body}, $body, 'the page') if $body;
        is($r->header('WWW-Authenticate'), 'Basic realm="a realm"',
           'nginx\'s own header') if $name eq 'auth_basic';
    }

    # limit_req lets the first one pass
    is($t->put_stop(@early, project => '3' x 32)->{status}, 200, 'the first');
    wait_fresh(2);
    my $r = $t->put_stop(@early, project => '3' x 32);
    is_early('limit_req', $r, wait_fresh(1), 503);
    is($cdm->count, 1, 'and only that is at CDM');

    # bodies
    $r = $t->put_stop(@early, body => 'x' x 2000);
    is_early('a body too large', $r, wait_fresh(1), 413);

    my $head = 'PUT ' . $t->stop_target . " HTTP/1.1\r\nHost: a\r\n";
    $r = $t->raw("${head}Transfer-Encoding: chunked\r\n\r\n" . "400\r\n"
                 . 'x' x 1024 . "\r\n400\r\nx", @early);
    is_early('chunks too large', $r, wait_fresh(1), 413);

    $r = $t->raw("${head}Content-Length: 100\r\n\r\nx", @early);
    is_early('a body that does not come', undef, wait_fresh(1),
             408);

    $r = $t->raw("${head}Transfer-Encoding: chunked\r\n\r\nzz\r\n", @early);
    is_early('chunks of no size', $r, wait_fresh(1), 400);

    # no answer at all
    $r = $t->put_stop(@early, project => '6' x 32);
    is($r->{status}, 0, 'return 444: the client gets nothing');
    my ($record) = wait_fresh(1);
    is("$record->{stage} $record->{status}", 'refused 444', 'the record');

    # a target that is misspelt is not what nginx acts on
    $r = $t->put_stop(@early, project => '4' x 32, job => 'a%2fb');
    ($record) = wait_fresh(1);
    is("$record->{stage} " . ($record->{target} // ''), 'refused '
       . $t->stop_target(project => '4' x 32, job => 'a%2fb'),
       'a misspelt one that "return" ends');

    # others leave no trace
    $t->request(@early, target => '/v1.1/' . '4' x 32 . '/clusters');
    $t->request(@early, target => '/open/');
    $t->put_stop(@early, project => '4' x 32, job => 'last');
    my @records = wait_fresh(1);
    is(join(' ', map { $_->{job_name} } @records), 'last',
       'what is no stop has no record');

    is($cdm->count, 1, 'nothing else came to CDM');
    is(scalar($iam->posts) - $posts, 1, 'nor to IAM');
};

# A stop that nginx ended: no code of ours, its status and the id.

sub is_early {
    my ($name, $r, $record, $status) = @_;

    is($record->{stage}, 'refused', "$name: refused");
    is($record->{status}, $status, "status $status");
    is($record->{verdict}, 'not_sent', 'not sent');
    is($record->{error_code}, undef, 'no code of the gateway');
    is($record->{upstream_status}, undef, 'no status of CDM');
    return if !$r;

    is($r->{status}, $status, 'the client got it');
    is(join(' ', $r->all('X-Request-Id')), $record->{request_id},
       'with the id');
    return;
}

$t->done;
