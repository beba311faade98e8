#!/usr/bin/perl

# The header firewall over HTTP/2, where names, repeats and values reach nginx
# in another way than over HTTP/1.1.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 1024; }
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
        projects       any;
    }

    cdm_stop                   huawei;
    cdm_stop_verify            off;
    cdm_stop_anonymous         on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit             %%TESTDIR%%/audit.jsonl;

    large_client_header_buffers 8 64k;
    proxy_http_version 1.1;
    proxy_set_header Host $proxy_host;
    proxy_set_header Connection close;

    upstream cdm { server 127.0.0.1:%%CDM_PORT%%; }

    # all that nginx can be told to let through
    server {
        listen 127.0.0.1:%%PORT%% http2;
        underscores_in_headers on;
        ignore_invalid_headers off;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_missing%% http2;
        underscores_in_headers on;
        ignore_invalid_headers off;
        cdm_stop_inject missing;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_own%% http2;
        cdm_stop_inject off;
        cdm_stop_pass_header x-team;
        location / {
            proxy_set_header X-Caller $http_x_caller;
            proxy_pass http://cdm;
        }
    }
}
EOC
$t->start;

my %connection;

# Sends a stop with further header fields, in the order in which they are, over
# a connection that is kept as long as nginx keeps it.

sub stop {
    my ($headers, %arg) = @_;

    my $port = delete $arg{port} // '';
    my $h2 = $connection{$port};
    $h2 = $connection{$port} = $t->h2(port => $t->port($port))
        if !$h2 || $h2->{eof} || defined $h2->{goaway};

    my $id = $h2->request(
        headers => [$t->h2_stop_headers(%arg),
                    CdmStop::Http::pairs($headers)], %arg);
    my $r = $h2->response($id);

    # what nginx refuses may cost the connection
    delete $connection{$port} if $r->{reset} || $r->{refused}
        || $r->{status} == 400;

    return $r;
}

sub arrives {
    my ($name, $headers, %arg) = @_;

    $cdm->reset_log;
    my $r = stop($headers, %arg);
    my @got = $cdm->requests;

    is($r->{status}, 200, "$name: served") or diag(explain($r));
    is(scalar @got, 1, "$name: CDM got one request");

    return $got[0] // bless { headers => [], raw => '' },
                            'CdmStop::Http::Message';
}

sub refused {
    my ($name, $code, $status, $headers, %arg) = @_;

    $t->new_records;
    my ($connections, $calls) = ($cdm->counters->{connections}, $iam->count);
    my $r = stop($headers, %arg);
    my $json = eval { $r->json } // {};

    is($r->{status}, $status, "$name: $status") or diag(explain($r));
    is($json->{error_code}, "CDMSTOP.$code", "$name: code");
    is($r->header('x-request-id'), $json->{request_id}, "$name: request id");

    my @records = $t->new_records;
    is(join(' ', map { "$_->{stage} $_->{error_code} $_->{request_id}" }
                 @records),
       "refused CDMSTOP.$code " . ($json->{request_id} // ''),
       "$name: one record");
    is($cdm->counters->{connections}, $connections, "$name: nothing at CDM");
    is($iam->count, $calls, "$name: nothing at IAM");

    return;
}

# What nginx itself refuses: by 400, or by an error of the stream.

sub refused_by_nginx {
    my ($name, $headers) = @_;

    my $connections = $cdm->counters->{connections};
    my $r = stop($headers);

    ok($r->{status} == 400 || $r->{reset} || $r->{refused},
       "$name: refused by nginx") or diag(explain($r));
    is($cdm->counters->{connections}, $connections, "$name: nothing at CDM");

    return;
}

sub token { return $t->ledger->token($_[0] // 600) }


subtest 'what CDM reads' => sub {
    my $got = arrives('H05 a bare stop', []);

    is($got->{raw}, join("\r\n",
        'PUT ' . $t->stop_target . ' HTTP/1.1', 'Host: cdm',
        'Connection: close', 'Content-Length: 0', 'Accept-Encoding: identity',
        'X-Auth-Token: ' . $iam->last_token, '', ''),
        'H05 a bare stop, byte for byte');

    my @allowed = (
        'accept' => 'application/json', 'accept-language' => 'zh-CN',
        'content-type' => 'application/json', 'user-agent' => 'airflow/2',
        'x-language' => 'zh-cn', 'workspace' => 'd7cb7e0c',
        'traceparent' => '00-4bf92f35-00f067aa-01', 'tracestate' => 'a=b',
    );

    $got = arrives('H05 allowed headers', \@allowed);
    is(scalar(grep { ($got->header($allowed[2 * $_]) // '')
                     eq $allowed[2 * $_ + 1] } 0 .. 7), 8,
       'H05 all allowed ones arrive');
    is(scalar @{$got->{headers}}, 13, 'H05 and no other');
};


subtest 'repeated tokens' => sub {
    my ($one, $two) = (token(), token());

    for my $pair ([$one, $one], [$one, $two], ['', $one], [$one, ''], ['', ''])
    {
        for my $port ('', 'missing', 'own') {
            refused('H01 repeated', '0002', 400,
                    [map { ['x-auth-token', $_] } @$pair], port => $port);
        }
    }

    refused('H01 far apart', '0002', 400,
            [['x-auth-token', $one], (map { ["x-filler-$_", 'x'] } 1 .. 80),
             ['x-auth-token', $two]]);
};


subtest 'values that are no token' => sub {
    for my $value ('', ' ', 'a,b', 'a b', "a\tb", "a\x7f", "\x80a", "a\xff",
                   "a\x01b", ',', 'x' x 32_769)
    {
        my $name = 'H02 ' . (length $value > 9 ? 'too long'
                                               : sprintf '"%vd"', $value);

        refused($name, '0002', 400, [['x-auth-token', $value]], port => $_)
            for '', 'missing', 'own';
    }

    for my $value ("a\0b", "a\rb", "a\nb", "a\r\nx-auth-token: b") {
        refused_by_nginx(sprintf('H02 "%vd"', substr $value, 0, 4),
                         [['x-auth-token', $value]]);
    }

    for my $name ('X-Auth-Token', 'x-auth-token ', "x-auth-token\0",
                  'x-auth-token:', ' x-auth-token', "x-auth-token\r\n", '')
    {
        refused_by_nginx(sprintf('H02 name "%vd"', substr $name, -3),
                         [[$name, 'a']]);
    }
};


subtest 'sizes' => sub {
    for my $size (1, 9_120, 32_768) {
        my $own = $t->ledger->token($size, register => $size == 9_120);

        my $got = arrives("H03 $size bytes", [['x-auth-token', $own]],
                          port => 'own');
        is(join(',', $got->all('X-Auth-Token')), $own, "H03 $size bytes whole");

        $got = arrives("H03 $size bytes", [['x-auth-token', $own]]);
        is(join(',', $got->all('X-Auth-Token')), $iam->last_token,
           "H08 always: the gateway's");
    }

    $iam->script({ token_size => 31_000 });
    my $got = arrives('H03 31,000 bytes of IAM', [], project => '7' x 32);
    is(length $got->header('X-Auth-Token'), 31_000, 'H03 arrive');
    is($got->header('X-Auth-Token'), $iam->last_token, 'H03 as issued');
    $iam->script;
};


subtest 'other spellings of X-Auth-Token' => sub {
    for my $name ('x_auth_token', 'x.auth.token', 'x_auth-token',
                  'x+auth+token', "x-auth-token\x80", 'x-auth-token-',
                  '_x-auth-token',
                  'http_x_auth_token', 'x"auth"token')
    {
        my ($foreign, $own) = (token(), token());

        my $got = arrives("H04 $name", [[$name, $foreign]]);
        unlike($got->{raw}, qr/\Q$foreign\E/, "H04 $name: not at CDM");
        is(scalar(grep { /auth/ } $got->names), 1, "H04 $name: one token");

        $got = arrives("H04 $name alone", [[$name, $foreign]],
                       port => 'missing');
        is(join(',', $got->all('X-Auth-Token')), $t->{gateway_token}
            //= $got->header('X-Auth-Token'),
           "H04 $name: does not count as the caller's");

        $got = arrives("H04 $name beside", [[$name, $foreign],
                       ['x-auth-token', $own], [$name, $foreign]],
                       port => 'missing');
        is(join(',', $got->all('X-Auth-Token')), $own,
           "H04 $name: beside a token it is nothing");
    }

    ok((grep { $_->{token} eq $t->{gateway_token} } $iam->tokens),
       "H04 it was the gateway's");
};


subtest 'credentials, identities and overrides' => sub {
    my @forbidden = map { lc } qw(
        Authorization Cookie Proxy-Authorization X-Sdk-Date X-Security-Token
        X-Subject-Token X-Service-Token X-Storage-Token X-Project-Id X-Domain-Id
        X-Tenant-Id X-Cluster-ID X-User-Id X-Roles X-Identity-Status
        X-Is-Admin-Project X-HTTP-Method X-HTTP-Method-Override
        X-Method-Override X-Original-URL X-Rewrite-URL X-Forwarded-For Forwarded
        X-Request-Id X-Real-IP Priority Cookie
    );
    my $token = token();
    my $got = arrives('H05 all at once', [(map { [$_, 'smuggled'] } @forbidden),
                      ['x-auth-token', $token], ['cookie', 'smuggled=2']]);

    unlike($got->{raw}, qr/smuggled|\Q$token\E/, 'H05 none reaches CDM');
    is(join(' ', $got->names), 'host connection content-length accept-encoding '
       . 'x-auth-token', 'H05 what is left');
    is("$got->{method} $got->{target}", 'PUT ' . $t->stop_target,
       'H05 method and target as sent');

    my $signature = token(64);
    $got = arrives('H06 signature beside a token', [
        ['authorization', "SDK-HMAC-SHA256 Signature=$signature"],
        ['x-sdk-date', '20261124T010203Z'], ['x-auth-token', $token]],
        port => 'own');
    unlike($got->{raw}, qr/\Q$signature\E|^x-sdk/mi, 'H06 no signature');
    is(join(',', $got->all('X-Auth-Token')), $token, 'H06 one token');

    $got = arrives("H05 the operator's", [['x-caller', 'airflow'],
        ['x-team', 'etl'], ['x-teams', 'no'], ['x-auth-token', $token]],
        port => 'own');
    is($got->header('X-Caller'), 'airflow', 'H05 by a variable');
    is($got->header('X-Team'), 'etl', 'H05 by cdm_stop_pass_header');
    unlike($got->{raw}, qr/teams/i, 'H05 but no name that begins so');
};


# Fields that HTTP/2 does not have: whether nginx refuses or ignores them.

subtest 'hop by hop' => sub {
    for my $field ([connection => 'x-auth-token'], [upgrade => 'websocket'],
                   ['proxy-connection' => 'keep-alive'], [te => 'trailers'],
                   ['keep-alive' => 'timeout=5'], [trailer => 'x-auth-token'],
                   ['transfer-encoding' => 'chunked'])
    {
        my ($name) = @$field;

        $cdm->reset_log;
        my $r = stop([$field]);
        my @got = $cdm->requests;

        if ($r->{status} == 200) {
            is(scalar @got, 1, "H10 $name: served");
            is(join(',', $got[0]->all('X-Auth-Token')),
               ($iam->tokens)[0]{token}, "H10 $name: the token arrives");
            is(join(',', grep { defined } $got[0]->header($name)),
               $name eq 'connection' ? 'close' : '', "H10 $name: it does not");

        } else {
            is(scalar @got, 0, "H10 $name: refused, nothing at CDM");
        }
    }

    my $got = arrives('H10 Expect', [['expect', '100-continue'],
                      ['content-length', '4']], body => 'body');
    is($got->header('Expect'), undef, 'H10 Expect does not arrive');
    is($got->{body}, 'body', 'H10 but the body');
    is(join(',', $got->all('Content-Length')), '4', 'H10 with its length');
};


subtest 'trailers and early data' => sub {
    my $token = token();

    # nginx has no trailers of requests in HTTP/2: it ends the connection
    $cdm->reset_log;
    my $r = stop([], port => 'missing', body => 'x',
                 trailers => [['x-auth-token', $token]]);
    unlike($cdm->raw, qr/\Q$token\E/, 'B02 a trailer is no header at CDM');
    ok($r->{status} == 200 || $r->{reset} || $r->{refused},
       'B02 nor does it leave a stop undecided');

    refused('H11 Early-Data', '0006', 425, [['early-data', '1']]);
};


# Many streams of one connection, each with a token of its own.

subtest 'many streams' => sub {
    $cdm->reset_log;
    my $h2 = $t->h2(port => $t->port('missing'));
    my %own = map { ("j$_" => $_ % 3 ? "token-of-job-$_-" . 'x' x $_ : undef) }
              1 .. 90;

    my @ids = map {
        $h2->request(headers => [$t->h2_stop_headers(job => $_),
                     $own{$_} ? ['x-auth-token', $own{$_}] : ()])
    } sort keys %own;
    my @r = $h2->collect(@ids);

    is(scalar(grep { $_->{status} == 200 } @r), 90, 'H08 all served');
    is($cdm->count, 90, 'H08 each once');

    my $wrong = grep {
        my ($job) = $_->{target} =~ m{/job/(\w+)/stop\z};
        join(',', $_->all('X-Auth-Token'))
            ne ($own{$job} // $t->{gateway_token})
    } $cdm->requests;
    is($wrong, 0, 'H08 each with its own token');

    my %id = map { $_->header('x-request-id') => 1 } @r;
    is(keys %id, 90, 'H08 each with its own id');
    $h2->close;
};

$_->close for values %connection;
$t->done;
