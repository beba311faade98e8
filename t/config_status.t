#!/usr/bin/perl

# nginx -t as the linter of cdm_stop_status: a page that is open to all, one
# that has nothing to tell, one in a location that something else answers.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Linter;
use CdmStop::Messages;
use CdmStop::Test;

my $t = CdmStop::Test->new;

$t->write_secret('secrets/password', $t->ledger->password);

my $lint = CdmStop::Linter->new(test => $t, conf => <<'EOC');
%%GLOBALS%%
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            https://127.0.0.1:%%IAM_PORT%%;
        projects       any;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
    }
    server {
        listen 127.0.0.1:%%PORT%%;                              #LISTEN
        large_client_header_buffers 4 40k;
        error_log %%TESTDIR%%/server.log info;
        location /v1.1/ {
            cdm_stop huawei;                                    #GUARD
            cdm_stop_verify off;
            cdm_stop_anonymous on;
            cdm_stop_insecure_upstream on;
            cdm_stop_audit %%TESTDIR%%/audit.jsonl;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status {
            cdm_stop_status;                                    #STATUS
            #LIMIT
        }
    }
}
EOC

my $open = qr/"cdm_stop_status" tells everybody.*"allow 127\.0\.0\.1; deny/;

$lint->is_fine('C07 on a loopback address', $lint->with);

# who gets there

for my $listen ('%%PORT%%', '0.0.0.0:%%PORT%%', '[::]:%%PORT%%',
                '127.0.0.1:%%PORT%%; listen 0.0.0.0:%%PORT_other%%')
{
    my @listen = (LISTEN => "listen $listen;");

    $lint->is_warning("C07 listen $listen", $lint->with(@listen), 'STATUS',
                      $open);
    $lint->is_fine("C07 listen $listen, $_",
                   $lint->with(@listen, LIMIT => $_))
        for 'allow 127.0.0.1; deny all;', 'deny all;', 'allow ::1; deny all;',
            'internal;',
            'auth_basic "x"; auth_basic_user_file %%TESTDIR%%/users;',
            'auth_request /auth;';
    $lint->is_fine("C07 listen $listen, readiness",
                   $lint->with(@listen, STATUS => 'cdm_stop_status ready;'));
}

$lint->is_fine("C07 listen $_", $lint->with(LISTEN => "listen $_;"))
    for '127.8.9.1:%%PORT%%', '[::1]:%%PORT%%', 'unix:%%TESTDIR%%/sock';
$lint->is_fine('C07 limited by the server',
               $lint->with(LISTEN => 'listen %%PORT%%; allow 127.0.0.1; '
                                   . 'deny all;'));

# what it says, and where

$lint->is_error('C01 another word',
                $lint->with(STATUS => 'cdm_stop_status readiness;'), 'STATUS',
                'invalid parameter "readiness" of "cdm_stop_status", write '
                . '"ready" or nothing');
$lint->is_error('C01 twice',
                $lint->with(STATUS => 'cdm_stop_status; cdm_stop_status;'),
                'STATUS', '"cdm_stop_status" directive is duplicate');
$lint->is_error('C01 two words',
                $lint->with(STATUS => 'cdm_stop_status ready x;'),
                'STATUS', 'invalid number of arguments in "cdm_stop_status"');

for my $guard (undef, 'cdm_stop off;') {
    $lint->is_error('C01 nothing to tell of', $lint->with(GUARD => $guard),
                    'STATUS', '"cdm_stop_status" has nothing to tell of, guard '
                    . 'a location by "cdm_stop" or remove it');
}

$lint->is_error('C01 with proxy_pass',
                $lint->with(LIMIT => 'proxy_pass http://127.0.0.1:1;'),
                'STATUS',
                qr/"cdm_stop_status" is in a location that something/);
$lint->is_error('C01 behind proxy_pass',
                $lint->with(STATUS => 'proxy_pass http://127.0.0.1:1; '
                                    . 'cdm_stop_status;'),
                'STATUS', qr/is behind something else that answers here/);
$lint->is_error('C01 in a server',
                $lint->with(LISTEN => 'listen %%PORT%%; cdm_stop_status;'),
                'LISTEN', '"cdm_stop_status" directive is not allowed here');

my @messages = CdmStop::Messages::of(
    map { $t->root . "/src/ngx_http_cdm_stop_$_.c" } qw(status check_status));
cmp_ok(scalar @messages, '>=', 5, 'the messages were found in the sources');
is(join("\n", map { "$_->{file}:$_->{line}: $_->{format}" }
        CdmStop::Messages::unseen($lint->output, @messages)),
   '', 'C07 every message of nginx -t about the status was seen');

$t->allow_log(qr/./);
$t->done;
