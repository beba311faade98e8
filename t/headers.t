#!/usr/bin/perl

# The header firewall over HTTP/1.1: a token that is repeated or that cannot be
# one is refused, and of all other headers of a caller only the allowed ones
# reach CDM, next to what the operator adds, with exactly one X-Auth-Token.

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
        listen 127.0.0.1:%%PORT%%;
        underscores_in_headers on;
        ignore_invalid_headers off;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_default%%;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_own%%;
        cdm_stop_inject off;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_missing%%;
        underscores_in_headers on;
        ignore_invalid_headers off;
        cdm_stop_inject missing;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_operator%%;
        cdm_stop_pass_header X-Team x-ticket;
        cdm_stop_pass_header X-Region;
        location / {
            proxy_set_header X-Operator    "gateway 7";
            proxy_set_header X-Caller      $http_x_caller;
            proxy_set_header X-Was-Signed  $http_authorization;
            proxy_set_header X-Session     $cookie_session;
            proxy_set_header Authorization "Basic b3BlcmF0b3I6";
            proxy_set_header User-Agent    "gateway/1";
            proxy_set_header Accept-Encoding "";
            proxy_set_header X-Real-IP     $remote_addr;
            proxy_pass http://cdm;
        }
    }

    # a token of the operator's own, beside ours
    server {
        listen 127.0.0.1:%%PORT_two%%;
        location ~ /passed/stop$ {
            proxy_set_header X-Auth-Token $http_x_auth_token;
            proxy_pass http://cdm;
        }
        location ~ /underscore/stop$ {
            proxy_set_header X_Auth_Token constant;
            proxy_pass http://cdm;
        }
        location ~ /dot/stop$ {
            proxy_set_header x.auth.token constant;
            proxy_pass http://cdm;
        }
        location ~ /blank/stop$ {
            proxy_set_header "X-Auth-Token " constant;
            proxy_pass http://cdm;
        }
        location ~ /tab/stop$ {
            proxy_set_header "X-Auth-Token\t" constant;
            proxy_pass http://cdm;
        }
        location ~ /folded/stop$ {
            proxy_set_header X-Other "a\r\nX-Auth-Token: constant";
            proxy_pass http://cdm;
        }
        location ~ /feed/stop$ {
            proxy_set_header X-Other "a\nX-Auth-Token: constant";
            proxy_pass http://cdm;
        }
        location ~ /end/stop$ {
            proxy_set_header X-Other "a\r\n\r\nPUT / HTTP/1.1";
            proxy_pass http://cdm;
        }
        location ~ /length/stop$ {
            proxy_set_header Content-Length "";
            proxy_pass http://cdm;
        }
        location ~ /nobody/stop$ {
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_pass http://cdm;
        }
        location ~ /other_body/stop$ {
            proxy_set_body operator;
            proxy_pass http://cdm;
        }
        location ~ /none/stop$ {
            proxy_set_header X-Auth-Token "";
            proxy_pass http://cdm;
        }
    }

    # what operators copy from guides for WebSocket
    server {
        listen 127.0.0.1:%%PORT_upgrade%%;
        location / {
            proxy_set_header Upgrade    $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_pass http://cdm;
        }
    }
}
EOC
$t->start;

my $odd = $t->port;

# One stop that must get to CDM; the request that CDM read.

sub arrives {
    my ($name, %arg) = @_;

    $cdm->reset_log;
    my $r = $t->put_stop(%arg);
    my @got = $cdm->requests;

    is($r->{status}, 200, "$name: served") or diag($r->{raw});
    is(scalar @got, 1, "$name: CDM got one request");

    return $got[0] // bless { headers => [], raw => '' },
                            'CdmStop::Http::Message';
}

# Asserts a refusal by the gateway: its answer, one record, nothing at CDM, and
# no call of IAM.

sub refused {
    my ($name, $code, $status, %arg) = @_;

    $t->new_records;
    my ($connections, $calls) = ($cdm->counters->{connections}, $iam->count);
    my $r = $t->put_stop(%arg);
    my $json = eval { $r->json } // {};
    my $id = $json->{request_id} // 'none';

    is($r->{status}, $status, "$name: $status") or diag($r->{raw});
    is($json->{error_code}, "CDMSTOP.$code", "$name: code");
    is_deeply([$r->all('X-Request-Id')], [$id], "$name: request id");
    is($r->header('Content-Type'), 'application/json', "$name: JSON");

    my @records = $t->new_records;
    is($records[0]{request_id}, $id, "$name: its id in the record");
    is(scalar @records, 1, "$name: one record");
    is($records[0]{stage}, 'refused', "$name: refused");
    is($records[0]{error_code}, "CDMSTOP.$code", "$name: code in the record");
    ok(!exists $records[0]{upstream_status}, "$name: no status of CDM");

    is($cdm->counters->{connections}, $connections, "$name: nothing at CDM");
    is($iam->count, $calls, "$name: nothing at IAM");

    return $r;
}

# Bytes that nginx itself refuses with 400.

sub refused_by_nginx {
    my ($name, $headers) = @_;

    my $connections = $cdm->counters->{connections};
    my $target = $t->stop_target;

    for my $port ($odd, $t->port('default')) {
        my $r = $t->raw("PUT $target HTTP/1.1\r\nHost: a\r\n"
                        . "Connection: close\r\n$headers\r\n\r\n",
                        port => $port);
        is($r->{status}, 400, "$name: 400");
    }

    is($cdm->counters->{connections}, $connections, "$name: nothing at CDM");
    return;
}

sub token { return $t->ledger->token($_[0] // 1200) }

sub text {
    my ($message, @without) = @_;

    my %without = map { lc $_ => 1 } @without;
    return join '', map { "$_->[0]: $_->[1]\n" }
                    grep { !$without{lc $_->[0]} } @{$message->{headers}};
}


subtest 'what CDM reads' => sub {
    my $got = arrives('H05 a bare stop');
    my $token = $iam->last_token;

    my $bare = join("\r\n",
        'PUT /v1.1/1551c7f6c808414d8e9f3c514a170f2e/clusters/6ec9a0a4-76be-'
        . '4262-8697-e7af1fac7920/cdm/job/jdbc2hive/stop HTTP/1.1',
        'Host: cdm', 'Connection: close', 'Content-Length: 0',
        'Accept-Encoding: identity', "X-Auth-Token: $token", '', '');

    is($got->{raw}, $bare, 'H05 a bare stop, byte for byte');

    # in HTTP/1.0 even Host may be missing, and the list of headers is empty
    $cdm->reset_log;
    my $r = $t->raw('PUT ' . $t->stop_target . " HTTP/1.0\r\n\r\n");
    is($r->{status}, 200, 'H05 no header at all: served') or diag($r->{raw});
    is(join('', map { $_->{raw} } $cdm->requests), $bare,
       'H05 no header at all, byte for byte');

    my @allowed = (
        'Accept' => 'application/json', 'Accept-Language' => 'zh-CN',
        'Content-Type' => 'application/json', 'User-Agent' => 'airflow/2',
        'X-Language' => 'zh-cn', 'workspace' => 'd7cb7e0c',
        'traceparent' => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7'
                         . '-01',
        'tracestate' => 'a=b',
    );

    $got = arrives('H05 allowed headers', headers => \@allowed);
    is(text($got, qw(Host Connection Content-Length Accept-Encoding
                     X-Auth-Token)),
       join('', map { "$allowed[2 * $_]: $allowed[2 * $_ + 1]\n" } 0 .. 7),
       'H05 allowed headers are passed as they are');

    $got = arrives('H05 case', headers => [
        map { $_ % 2 ? $allowed[$_] : uc $allowed[$_] } 0 .. 15]);
    is(scalar @{$got->{headers}}, 13, 'H05 in any case');

    $got = arrives('H05 twice', headers => ['Accept' => 'a', 'Accept' => 'b']);
    is(join(',', $got->all('Accept')), 'a,b', 'H05 twice is twice');
};


subtest 'repeated tokens' => sub {
    my ($one, $two) = (token(), token());

    my %pair = (
        equal => [$one, $one], different => [$one, $two],
        'first empty' => ['', $one], 'last empty' => [$one, ''],
        'both empty' => ['', ''],
    );

    for my $kind (sort keys %pair) {
        for my $port ($odd, $t->port('own'), $t->port('missing')) {
            refused("H01 $kind", '0002', 400, port => $port,
                    headers => [map { ['X-Auth-Token', $_] } @{$pair{$kind}}]);
        }
    }

    refused('H01 case differs', '0002', 400,
            headers => ['X-Auth-Token' => $one, 'x-AUTH-token' => $two]);
    refused('H01 far apart', '0002', 400,
            headers => ['X-Auth-Token' => $one,
                        (map { ("X-Filler-$_" => 'x') } 1 .. 80),
                        'X-Auth-Token' => $two]);
    refused('H01 three', '0002', 400,
            headers => [map { ['X-Auth-Token', $one] } 1 .. 3]);
};


subtest 'values that are no token' => sub {
    my $token = token();

    for my $port (map { $t->port($_) } qw(default own missing)) {
        refused('H02 empty', '0002', 400, port => $port,
                headers => ['X-Auth-Token' => '']);
        refused('H02 blanks only', '0002', 400, port => $port,
                headers => ['X-Auth-Token' => '   ']);
    }

    my %bad = (
        comma => "$token,$token", blank => "$token $token",
        tab => "$token\t$token", 'tab at the end' => "$token\t",
        'tab in front' => "\t$token", 'a list' => "$token, ",
    );

    refused("H02 $_", '0002', 400, headers => ['X-Auth-Token' => $bad{$_}])
        for sort keys %bad;

    # each byte in turn, alone and among the eight that are looked at
    # together; nginx itself refuses CR, LF and NUL
    my @wrong;

    for my $n (map { $_, $_ + 256 } 1 .. 9, 11, 12, 14 .. 255) {
        my $byte = $n % 256;
        my $legal = $byte > 0x20 && $byte < 0x7f && $byte != ord ',';
        my $value = 'a' . chr($byte) . 'b';
        $value = '!~' x ($byte % 8) . $value . '~!' x 8 if $n > 255;

        $cdm->reset_log;
        my $r = $t->put_stop(port => $t->port('own'),
                             headers => ['X-Auth-Token' => $value]);
        my ($got) = $cdm->requests;

        push @wrong, sprintf('%x', $n)
            unless $legal ? $got && $got->header('X-Auth-Token') eq $value
                            && $r->{status} == 200
                          : !$got && $r->{status} == 400
                            && $r->json->{error_code} eq 'CDMSTOP.0002';
    }

    is("@wrong", '', 'H02 bytes: the legal ones pass, the others do not');

    # these values are shown by nginx's own message, so they are no secrets
    refused_by_nginx('H02 NUL', "X-Auth-Token: a\0b");
    refused_by_nginx('H02 bare CR', "X-Auth-Token: a\rb");
    refused_by_nginx('H02 folded line', "X-Auth-Token: a\r\n b");
    refused_by_nginx('H02 folded before', "X-Auth-Token:\r\n a");
    refused_by_nginx('H02 blank before the colon', 'X-Auth-Token : a');
    refused_by_nginx('H02 tab before the colon', "X-Auth-Token\t: a");
    refused_by_nginx('H02 NUL in the name', "X-Auth-Token\0: a");
};


subtest 'other spellings of X-Auth-Token' => sub {
    my @spelled = (
        'X_Auth_Token', 'X.Auth.Token', 'x-AUTH_token', 'X_AUTH-TOKEN',
        'x.auth-token', 'X+Auth+Token', 'X~Auth~Token', 'XAuthToken',
        "X-Auth-Token\x80", "\xefX-Auth-Token", 'X-Auth-Token.',
        '_X-Auth-Token',
        'X--Auth-Token', 'X-Auth-Token-', 'HTTP_X_AUTH_TOKEN', 'X"Auth"Token',
    );

    for my $name (@spelled) {
        my ($foreign, $own) = (token(), token());

        my $got = arrives("H04 $name", headers => [$name => $foreign]);
        is($got->{raw} =~ /\Q$foreign\E/ ? 1 : 0, 0, "H04 $name: not at CDM");
        is(scalar(grep { /auth/ } $got->names), 1, "H04 $name: one token");

        $got = arrives("H04 $name, injection of what is missing",
                       port => $t->port('missing'),
                       headers => [$name => $foreign]);
        is($got->header('X-Auth-Token'), $iam->last_token,
           "H04 $name: does not count as the caller's");

        $got = arrives("H04 $name beside a token", port => $t->port('missing'),
                       headers => [$name => $foreign, 'X-Auth-Token' => $own,
                                   $name => $foreign]);
        is(join(',', $got->all('X-Auth-Token')), $own,
           "H04 $name: beside a token it is nothing");
    }

    # and the same for the names that are allowed
    my $got = arrives('H04 allowed names', headers => [
        map { $_ => 'smuggled' } qw(User_Agent Content.Type Accept_Language
            X_Language work-space Trace_parent Accept-Encoding Accept_Encoding
            Content_Length Host_ X_Forwarded_For)]);
    unlike($got->{raw}, qr/smuggled/, 'H04 allowed names in other spellings');
};


subtest 'credentials, identities and overrides' => sub {
    my @forbidden = qw(
        Authorization Cookie Proxy-Authorization X-Sdk-Date X-Sdk-Content-Sha256
        X-Security-Token X-Subject-Token X-Service-Token X-Storage-Token
        X-Project-Id X-Domain-Id X-Tenant-Id X-Tenant-Name X-Cluster-ID
        X-User-Id X-User-Name X-Roles X-Identity-Status X-Is-Admin-Project
        X-HTTP-Method X-HTTP-Method-Override X-Method-Override X-Original-URL
        X-Rewrite-URL
    );
    my @others = qw(
        X-User X-Role X-Tenant X-Service-Roles X-Service-Identity-Status
        X-Openstack-Request-Id OpenStack-System-Scope X-Amz-Security-Token
        X-Forwarded-For X-Forwarded-Host X-Forwarded-Uri X-Forwarded-Proto
        X-Forwarded-Prefix X-Forwarded-Method X-Real-IP Forwarded Via Origin
        X-Original-Method X-Original-Uri X-Host X-Url X-Request-Id X-B3-TraceId
        X-Accel-Redirect Range If-Match If-None-Match Cache-Control Pragma
        Referer Date Early-Hints X-Auth X-Auth-Key Token Api-Key X-Api-Key
        X-Apig-Mode X-Stage X-Sdk X-Custom
    );

    my $token = token();
    my $got = arrives('H05 all at once', headers => [
        (map { $_ => 'smuggled' } @forbidden, @others),
        'X-Auth-Token' => $token, 'Accept' => 'a']);

    unlike($got->{raw}, qr/smuggled|\Q$token\E/, 'H05 none reaches CDM');
    is(join(' ', $got->names), 'host connection accept content-length '
       . 'accept-encoding x-auth-token', 'H05 what is left');
    is($got->{target}, $t->stop_target, 'H05 target as it was sent');
    is($got->{method}, 'PUT', 'H05 method as it was sent');

    my ($signature, $security) = (token(64), token(400));
    my @sdk = ('Authorization' => "SDK-HMAC-SHA256 Access=AK, "
               . "SignedHeaders=host;x-sdk-date, Signature=$signature",
               'X-Sdk-Date' => '20261124T010203Z',
               'X-Security-Token' => $security);

    $got = arrives('H06 signature beside a token',
                   headers => [@sdk, 'X-Auth-Token' => $token]);
    unlike($got->{raw}, qr/\Q$signature\E|\Q$security\E|^X-Sdk/mi,
           'H06 CDM reads no signature');
    is(join(',', $got->all('X-Auth-Token')), $iam->last_token,
       'H06 but one token');

    $got = arrives('H06 beside an own token', port => $t->port('own'),
                   headers => [@sdk, 'X-Auth-Token' => $token]);
    unlike($got->{raw}, qr/\Q$signature\E|\Q$security\E|^X-Sdk/mi,
           'H06 no signature beside an own token');
    is(join(',', $got->all('X-Auth-Token')), $token, 'H06 the own token');

    for my $name (qw(X-Storage-Token X-Subject-Token X-Service-Token)) {
        my $value = token();
        $got = arrives("H06 $name alone", port => $t->port('missing'),
                       headers => [$name => $value]);
        unlike($got->{raw}, qr/\Q$value\E/, "H06 $name does not reach CDM");
        is(join(',', $got->all('X-Auth-Token')), $iam->last_token,
           "H06 $name is not the caller's token");
    }
};


subtest 'what the operator adds' => sub {
    my $port = $t->port('operator');
    my $got = arrives('H05 with proxy_set_header', port => $port, headers => [
        'X-Caller' => 'airflow', 'Authorization' => 'SDK caller',
        'Cookie' => 'session=s7', 'X-Team' => 'etl', 'X-TICKET' => '42',
        'x-region' => 'north', 'X-Operator' => 'forged',
        'X-Real-IP' => '8.8.8.8',
        'User-Agent' => 'curl', 'X-Teams' => 'no', 'X-Tea' => 'no',
        'X-Team' => 'second', 'Accept-Encoding' => 'gzip', 'Accept' => 'a']);

    is(text($got, qw(Host Connection)), <<"EOC", 'H05 it is theirs');
X-Operator: gateway 7
X-Caller: airflow
X-Was-Signed: SDK caller
X-Session: s7
Authorization: Basic b3BlcmF0b3I6
User-Agent: gateway/1
X-Real-IP: 127.0.0.1
X-Team: etl
X-TICKET: 42
x-region: north
X-Team: second
Accept: a
Content-Length: 0
Accept-Encoding: identity
X-Auth-Token: @{[$iam->last_token]}
EOC

    $got = arrives('H05 variables without a value', port => $port);
    unlike($got->{raw}, qr/X-Caller|X-Was-Signed|X-Session/,
           'H05 an empty value adds nothing');
};


# R(.0401) that is no fault of CDM: nothing is sent, and the log tells why.

subtest 'a second token or a broken header of the operator' => sub {
    my $token = token();

    for my $job (qw(passed underscore dot blank tab folded feed end)) {
        $cdm->reset_log;
        $t->new_records;
        my $r = $t->put_stop(port => $t->port('two'), job => $job,
                             headers => ['X-Auth-Token' => $token],
                             body => "PUT / HTTP/1.1\r\nHost: b\r\n\r\n");

        is($r->{status}, 502, "C06 $job: 502") or diag($r->{raw});
        is(eval { $r->json->{error_code} }, 'CDMSTOP.0401', "C06 $job: .0401");
        is($cdm->bytes, 0, "C06 $job: nothing at CDM");

        my ($intent, $outcome) = $t->new_records;
        is($outcome->{verdict}, 'not_sent', "C06 $job: not_sent");

        my @told = grep { /\[error\].*a stop is not sent: .*\/$job\/stop/ }
                   split /\n/, $t->error_log;
        is(scalar @told, 1, "C06 $job: the log tells once");
    }

    my $got = arrives('C06 without a length', port => $t->port('two'),
                      job => 'length', body => "PUT / HTTP/1.1\r\n\r\n");
    is($got->{body}, "PUT / HTTP/1.1\r\n\r\n",
       'C06 a body stays one, whose length is told');

    $got = arrives('C06 without length and body', port => $t->port('two'),
                   job => 'nobody', body => "PUT / HTTP/1.1\r\n\r\n");
    is($got->{body}, '', 'C06 a body that is not passed');
    is(join(',', $got->all('Content-Length')), '0', 'C06 has no length');

    $got = arrives('C06 proxy_set_body', port => $t->port('two'),
                   job => 'other_body', body => 'x' x 100);
    is($got->{body}, 'operator', "C06 the operator's body");
    is(join(',', $got->all('Content-Length')), '8', 'C06 has its length');

    $got = arrives('C06 an empty one', port => $t->port('two'),
                      job => 'none', headers => ['X-Auth-Token' => $token]);
    is(join(',', $got->all('X-Auth-Token')), $iam->last_token,
       'C06 an empty one is none');
};


subtest 'names that may not be passed' => sub {
    my $conf = <<'EOC';
%%GLOBALS%%
events { }
http {
    %%HTTP_GLOBALS%%
    server { cdm_stop_pass_header X-Fine NAME; }
}
EOC

    my @never = qw(
        X-Auth-Token x_auth_token X.Auth.Token X-AUTH_TOKEN Authorization
        Cookie Proxy-Authorization X-Sdk-Date x_sdk_anything X-Security-Token
        X-Subject-Token X-Service-Token X-Storage-Token X-Project-Id X-Domain-Id
        X-Tenant-Id x.tenant.x X-Cluster-ID X-User-Id X-Roles X-Identity-Status
        X-Is-Admin-Project X-HTTP-Method X-HTTP-Method-Override
        X-Method-Override X-Original-URL X-Rewrite-URL Accept-Encoding Host
        Content-Length Connection TE Upgrade Transfer-Encoding Expect
        X-User X-Tenant X-Role X-Service-Roles
    );

    for my $name (@never) {
        my ($exit, $output) = $t->nginx_t($conf =~ s/NAME/$name/r);
        isnt($exit, 0, "H05 cdm_stop_pass_header $name is refused");
        like($output, qr/\[emerg\].*"\Q$name\E".* in .*nginx-t\.conf:\d/,
             'H05 and told why and where');
    }

    for my $name ('', 'a b', 'x:y', 'X-Team ', "X-T\xc3\xa9am", 'X-Team,') {
        my ($exit, $output) = $t->nginx_t($conf =~ s/NAME/"$name"/r);
        isnt($exit, 0, "H05 cdm_stop_pass_header \"$name\" is no name");
        like($output, qr/\[emerg\].* in .*nginx-t\.conf:\d/, 'H05 says where');
    }

    my ($exit, $output) = $t->nginx_t($conf =~ s/NAME/X-Team/r);
    is($exit, 0, 'H05 another one is taken') or diag($output);
};


subtest 'hop by hop' => sub {
    my $token = token();
    my @hop = ('Connection' => 'X-Auth-Token, Upgrade, TE, close',
               'Upgrade' => 'websocket', 'TE' => 'trailers, deflate',
               'Keep-Alive' => 'timeout=5', 'Proxy-Connection' => 'keep-alive',
               'Trailer' => 'X-Auth-Token', 'X-Auth-Token' => $token,
               'HTTP2-Settings' => 'AAMAAABkAAQAAP__');

    for my $port (map { $t->port($_) } qw(default own upgrade)) {
        my $got = arrives('H10 hop by hop', port => $port, headers => \@hop);
        is(join(',', $got->all('X-Auth-Token')),
           $port == $t->port('own') ? $token : $iam->last_token,
           'H10 the token arrives');
        unlike($got->{raw}, qr/^(?:TE|Keep-Alive|Proxy-Connection|Trailer
                                  |HTTP2-Settings):/xmi, 'H10 none of these');
        unlike($got->{raw}, qr/^(?:Upgrade|Connection: upgrade)/mi,
               'H10 no upgrade') if $port != $t->port('upgrade');
    }

    $cdm->reset_log;
    $cdm->script({ raw => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "
                   . "websocket\r\nConnection: upgrade\r\n\r\n", close => 1 });

    for my $port (map { $t->port($_) } qw(default upgrade)) {
        my $r = $t->put_stop(port => $port, headers => \@hop);
        is($r->{status}, 504, 'H10 no 101 to the client');
        is(eval { $r->json->{error_code} }, 'CDMSTOP.0402', 'H10 but .0402');
    }

    $cdm->script;
    $cdm->reset_log;

    my $c = $t->connect;
    $c->send('PUT ' . $t->stop_target . " HTTP/1.1\r\nHost: a\r\nConnection: "
             . "close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    $t->wait_for(sub { $c->read_some; $c->{received} =~ /100 Continue/ },
                 what => '100 Continue');
    is($cdm->bytes, 0, 'H10 nothing at CDM before the body');
    $c->send('body');
    is($c->response->{status}, 200, 'H10 Expect: 100-continue is served');

    my ($got) = $cdm->requests;
    is($got->header('Expect'), undef, 'H10 without Expect at CDM');
    is($got->{body}, 'body', 'H10 with the body');
    is(join(',', $got->all('Content-Length')), '4', 'H10 and its one length');
};


subtest 'early data behind a proxy' => sub {
    for my $headers (['Early-Data' => '1'], ['early-data' => '1'],
                     ['Early-Data' => '1', 'Early-Data' => '0'])
    {
        refused('H11 Early-Data', '0006', 425, headers => $headers,
                job => 'early');
    }

    arrives('H11 the same after the handshake', job => 'early');
};


# names made up at random, with every byte that nginx lets through

subtest 'random headers' => sub {
    my @bytes = map { chr } grep { $_ != 0x3a && $_ != 0x7f } 0x21 .. 0xff;
    my @near = qw(x auth token X-Auth-Token x-auth-token accept user-agent
                  workspace traceparent content-type - _ .);
    my %allowed = map { $_ => 1 } qw(
        host connection content-length accept-encoding x-auth-token accept
        accept-language content-type user-agent x-language workspace
        traceparent tracestate);
    my (@odd, @status);

    for my $round (1 .. 40) {
        my @headers = map {
            my $name = join '', map { rand() < 0.5 ? $near[rand @near]
                                                   : $bytes[rand @bytes] }
                            0 .. rand 4;
            [$name =~ /\A(?:x-auth-token|host|content-length
                           |early-data)\z/xi ? 'x' : $name, 'v']
        } 1 .. 30;

        $cdm->reset_log;
        my $r = $t->put_stop(headers => \@headers, job => "r$round");
        my ($got) = $cdm->requests;

        push @status, $r->{status} if $r->{status} != 200;
        push @odd, grep { !$allowed{$_} } $got->names if $got;
        push @odd, 'two tokens' if $got && $got->all('X-Auth-Token') != 1;
    }

    is("@odd", '', 'H04 no other name reaches CDM');
    is("@status", '', 'H04 and all are served');
};

$t->done;
