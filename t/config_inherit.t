#!/usr/bin/perl

# How settings are inherited from http to server to location and by nested
# locations, if, limit_except and named locations; that only "off" turns the
# guard off; and that a module that guards nothing changes no byte.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $running = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 4 40k;
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop_iam second {
        uri            http://127.0.0.1:%%IAM_PORT%%/v3;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       00000000000000000000000000000001;
    }

    # all of it at http level
    cdm_stop            huawei;
    cdm_stop_verify     off;
    cdm_stop_anonymous  on;
    cdm_stop_other      deny;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit      %%TESTDIR%%/http.jsonl;
    cdm_stop_pass_header X-Http;

    server {
        listen 127.0.0.1:%%PORT%%;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_own%%;
        cdm_stop second;
        cdm_stop_other pass;
        cdm_stop_audit %%TESTDIR%%/own.jsonl;
        cdm_stop_pass_header X-Own;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
        location /v1.1/00000000000000000000000000000001/ {
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_off%%;
        location / { cdm_stop off; proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_nested%%;
        location / {
            cdm_stop off;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
            location /v1.1/ {
                cdm_stop huawei;
                proxy_pass http://127.0.0.1:%%CDM_PORT%%;
                location ~ /deep/stop$ {
                    proxy_pass http://127.0.0.1:%%CDM_PORT%%;
                }
            }
        }
    }
    server {
        listen 127.0.0.1:%%PORT_if%%;
        location / {
            set $x 0;
            if ($http_x_if) { set $x 1; }
            if ($http_x_if = pass) { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_except%%;
        location / {
            limit_except GET { allow all; }
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_except_deny%%;
        location / {
            limit_except GET { deny all; }
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_named%%;
        location / { try_files /nothing-of-this-name @cdm; }
        location @cdm { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$t->config($running);
$t->start;


sub token_at_cdm {
    my (%arg) = @_;

    $cdm->reset_log;
    my $answer = $t->put_stop(%arg);
    my ($stop) = $cdm->requests;

    return (
        $answer, $stop ? scalar $stop->header('X-Auth-Token') : undef,
        $stop);
}


sub is_guarded {
    my ($name, %arg) = @_;

    my ($answer, $token) = token_at_cdm(%arg);
    my %issued = map { $_->{token} => 1 } $iam->tokens;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($answer->{status}, 200, "$name: served");
    ok(defined $token && $issued{$token}, "$name: guarded");

    my ($refused) = token_at_cdm(%arg, job => 'a%2fb');
    is($refused->{status}, 400, "$name: a misspelt stop is refused");

    return;
}

is_guarded('C09 inherited from http');
is_guarded(
    'C09 inherited from http, overridden by server',
    port => $t->port('own'), project => '0' x 31 . '1');
is_guarded('C09 set in a nested location', port => $t->port('nested'));
is_guarded(
    'C09 nested in that one', port => $t->port('nested'),
    job => 'deep');
is_guarded('C09 with if', port => $t->port('if'));
is_guarded(
    'C09 with an if that holds', port => $t->port('if'),
    headers => ['X-If' => 'x']);
is_guarded(
    'C09 with an if that proxies', port => $t->port('if'),
    headers => ['X-If' => 'pass']);
is_guarded('C09 in limit_except', port => $t->port('except'));
is_guarded('C09 in a named location', port => $t->port('named'));

{
    my ($answer, $token) = token_at_cdm(
        port => $t->port('off'),
        headers => ['X-Auth-Token' => 'own']);
    is($token, 'own', 'C09 off: the request passes as it is');
    is($answer->{status}, 200, 'C09 off: served');
    ($answer) = token_at_cdm(
        port => $t->port('off'), job => 'a%2fb',
        headers => ['X-Auth-Token' => 'own']);
    is($answer->{status}, 200, 'C09 off: misspelt or not');

    ($answer, $token) = token_at_cdm(port => $t->port('except_deny'));
    is($answer->{status}, 403, 'C09 limit_except still denies');
    is($token, undef, 'C09 nothing at CDM then');

    ($answer) =
        token_at_cdm(port => $t->port('own'), project => '0' x 31 . '2');
    is( $answer->json->{error_code}, 'CDMSTOP.0203',
        'C09 the other identity has its own projects');

    is( $t->request(target => '/x')->{status}, 403,
        'C09 cdm_stop_other from http');
    is( $t->request(target => '/x', port => $t->port('own'))->{status}, 200,
        'C09 overridden by server');
    is( $t->request(target => '/x', port => $t->port('off'))->{status}, 200,
        'C09 has no effect where cdm_stop is off');

    my @both = ('X-Http' => 1, 'X-Own' => 2);
    my (undef, undef, $stop) = token_at_cdm(headers => [@both]);
    is( join(',', map { $stop->header($_) // '-' } qw(X-Http X-Own)), '1,-',
        'C09 headers from http');
    (undef, undef, $stop) = token_at_cdm(
        headers => [@both], port => $t->port('own'),
        project => '0' x 31 . '1');
    is( join(',', map { $stop->header($_) // '-' } qw(X-Http X-Own)), '-,2',
        'C09 replaced by server');

    cmp_ok(
        scalar $t->records('own.jsonl'), '>', 2,
        'C09 records of the server go to its file');
    is(
        scalar(
            grep { ($_->{project_id} // '') =~ /^0+[12]$/ }
                $t->records('http.jsonl')
        ),
        0,
        'C09 and to no other');
}

# by default the caller's own token goes nowhere

{
    my ($answer, $token) = token_at_cdm(headers => ['X-Auth-Token' => 'own']);
    isnt($token, 'own', 'C01 cdm_stop_inject is "always"');
}

$t->stop;


# A module that is loaded and not used, or whose cdm_stop is off, changes no
# byte of other sites.

my $plain = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    #STOP
    server {
        listen 127.0.0.1:%%PORT%%;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
        location = /static { return 200 "static\n"; }
        location = /error { return 503; }
        location = /redirect { return 302 /static; }
        location = /page { error_page 404 = /static; return 404; }
    }
}
EOC


sub bytes_of {
    my ($text) = @_;

    $t->config($text);
    $t->start;
    $cdm->reset_log;
    $cdm->script(
        {   headers =>
                [Date => 'x', 'X-Request-Id' => 'x', 'X-Accel-Expires' => '0'],
            body => 'body' });

    my @targets = (
        '/', '/static', '/error', '/redirect', '/page', '/a/../b?c=d',
        $t->stop_target, '//v1.1/x/stop',
        $t->stop_target . '?a=b', $t->stop_target(job => 'a%2fb'));
    my @bytes = map {
        my $target = $_;
        map {
            my $r = $t->request(method => $_, target => $target, headers =>
                    ['X-Auth-Token' => 'own', Cookie => 'a=b', Host => 'h']);
            $r->{raw} =~ s/^Date: .*?\r\n//mr
        } qw(GET PUT HEAD)
    } @targets;

    push @bytes, map { $_->{raw} } $cdm->requests;
    $t->stop;
    $cdm->script;

    return @bytes;
}

# a static build has no nginx without the module to compare with
my @without;

if ($t->module_file) {
    local $t->{module} = 0;
    @without = bytes_of($plain);
}

my @loaded = bytes_of($plain);

my $identity = <<'EOC';
    cdm_stop_zone cdm:1m;
    cdm_stop_iam x {
        uri            https://127.0.0.1;
        domain         d;
        user           u;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
EOC

my $off = 'cdm_stop off; cdm_stop_other deny; cdm_stop_audit off;';

my @defined = bytes_of($plain =~ s/#STOP/$identity/r);
my @off = bytes_of($plain =~ s/#STOP/$identity$off/r);

cmp_ok(scalar @loaded, '>', 40, 'C09 answers, and what reached the upstream');
is_deeply(
    \@loaded, \@without,
    'C09 loaded and unused: the same bytes as without ' . 'the module'
) if @without;
is_deeply(\@defined, \@loaded, 'C09 zone and identity alone: the same');
is_deeply(\@off, \@loaded, 'C09 cdm_stop off: the same');

$t->done;
