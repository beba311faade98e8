#!/usr/bin/perl

# Huawei's own SDK core for Node stops jobs through the gateway: what it signs
# is taken away, the gateway's token stands instead, and what the gateway
# refuses is the exception that the SDK makes of Huawei's own errors.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::RealClient;
use CdmStop::Test;

my $missing = CdmStop::RealClient->missing('node');

plan(skip_all => "Huawei's SDK is not installed (\"make clients\" installs "
    . "it): $missing") if $missing ne '';

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

$t->cert('good');
my $airflow = $t->client_cert('airflow', '/O=acme/CN=airflow');

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       1551c7f6c808414d8e9f3c514a170f2e;
    }

    cdm_stop_iam silent {
        uri            http://127.0.0.1:%%PORT_nobody%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    cdm_stop_policy org {
        deny   freeze     job=~^prod_;
        allow  scheduler  principal=airflow;
        allow  operators  role=etl_operator;
    }

    map $ssl_client_s_dn $client {
        "CN=airflow,O=acme"  airflow;
    }

    cdm_stop                   huawei;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit             %%TESTDIR%%/audit.jsonl;

    ssl_certificate      %%TESTDIR%%/certs/good.crt;
    ssl_certificate_key  %%TESTDIR%%/certs/good.key;

    large_client_header_buffers 4 40k;
    upstream cdm { server 127.0.0.1:%%CDM_PORT%%; }

    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop_verify    off;
        cdm_stop_anonymous on;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_certificate%% ssl;
        ssl_client_certificate %%TESTDIR%%/certs/ca.crt;
        ssl_verify_client      on;
        cdm_stop_verify        off;
        cdm_stop_principal     $client;
        cdm_stop_enforce       org;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_token%% ssl;
        cdm_stop_enforce org;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_no_iam%%;
        cdm_stop           silent;
        cdm_stop_wait      1s;
        cdm_stop_verify    off;
        cdm_stop_anonymous on;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_no_cdm%%;
        cdm_stop_verify    off;
        cdm_stop_anonymous on;
        location / { proxy_pass http://127.0.0.1:%%PORT_nobody%%; }
    }
}
EOC
$t->start;

my $CLUSTER = CdmStop::Test::Traffic::CLUSTER;
my $AK = 'HPUAAAAATESTACCESSKEY';
my $SK = $t->ledger->key(20);
my $SECURITY_TOKEN = $t->ledger->token(900);

# the gateway's, once it has one
my $token;

# Runs the SDK against a port of the gateway, or of CDM itself.

sub sdk {
    my ($port, $jobs, %arg) = @_;

    my $tls = $port =~ /certificate|token/ ? 's' : '';
    my $headers = delete $arg{headers} // {};

    return CdmStop::RealClient->node($t, {
        endpoint => "http$tls://127.0.0.1:" . $t->port($port),
        ak => $AK, sk => $SK, userAgent => 'etl/7',
        projectId => CdmStop::Test::Traffic::PROJECT,
        timeout => 1000 * $t->{timeout},
        $tls ? (ca => $airflow->{ca}) : (),
        stops => [map {
            { clusterId => $CLUSTER, jobName => $_, headers => $headers }
        } ref $jobs ? @$jobs : $jobs], %arg });
}

# The next records that have some facts; what is left is for another stop.

my @left;

sub records {
    my ($name, $n, %fact) = @_;

    my @found;

    $t->wait_for(sub {
        push @left, $t->new_records;
        @found = grep {
            my $record = $_;
            !grep { ($record->{$_} // '') ne $fact{$_} } keys %fact
        } @left;
        @found >= $n;
    }, quiet => 1);

    my %found = map { $_ => 1 } @found;
    @left = grep { !$found{$_} } @left;
    is(scalar @found, $n, "$name: $n records");

    return @found;
}

# A stop that CDM gets: what it read, and the outcome's record.

sub served {
    my ($name, $result, %record) = @_;

    is_deeply($result, { response => { httpStatusCode => 200 } },
        "$name: what the SDK returns") or diag(explain($result));

    %record = (verdict => 'stopped', status => 200, upstream_status => 200,
               job_name => 'jdbc2hive', %record);

    my ($intent, $outcome) = records($name, 2, job_name => $record{job_name});
    is("$intent->{stage} $outcome->{stage}", 'intent outcome',
        "$name: the records");
    is($outcome->{$_}, $record{$_}, "$name: $_") for sort keys %record;

    return;
}

# What the gateway refuses: an exception of a class with its code.

sub refused {
    my ($name, $result, $class, $status, $code, $message, %record) = @_;

    my $count = delete $record{records} // 1;
    my $id = delete $result->{requestId};
    my @new = records($name, $count, request_id => $id);
    my $text = delete $result->{errorMsg};

    is_deeply($result, {
        exception => $class, isServiceResponse => JSON::PP::true(),
        httpStatusCode => $status, errorCode => "CDMSTOP.$code" },
        "$name: the exception") or diag(explain($result));
    like($text, $message, "$name: its message");
    is($new[-1]{error_code}, "CDMSTOP.$code", "$name: code in the record");
    is($new[-1]{$_}, $record{$_}, "$name: $_") for sort keys %record;

    return;
}

# The lines of a request behind the first, by their names in lower case.

sub names {
    my ($request) = @_;

    return join ' ', sort $request->names;
}


subtest 'without a gateway' => sub {
    my ($result) = sdk('CDM', 'jdbc2hive', securityToken => $SECURITY_TOKEN);
    my ($got) = $cdm->stops;

    is($result->{httpStatusCode}, 401, 'CDM wants a token');
    is($result->{errorCode}, 'APIGW.0301', 'its code gets to the caller');
    is(names($got), 'accept accept-encoding authorization connection '
        . 'content-length content-type host user-agent x-project-id '
        . 'x-sdk-date x-security-token', 'H06 what the SDK sends by itself');
    like($got->header('Authorization'), qr/\ASDK-HMAC-SHA256[ ]Access=$AK,[ ]
        SignedHeaders=[\w;-]+,[ ]Signature=[0-9a-f]{64}\z/x,
        'H06 it signs with its access key');
    is($got->header('X-Security-Token'), $SECURITY_TOKEN,
        'H06 and sends the security token');
};


subtest 'HTTP/1.1' => sub {
    $cdm->reset_log;
    my ($result) = sdk('', 'jdbc2hive', securityToken => $SECURITY_TOKEN);
    my @got = $cdm->requests;

    served('H06 SDK', $result, source_ip => '127.0.0.1');
    is(scalar @got, 1, 'H06 CDM got one request');
    $token = $iam->last_token;
    is($got[0]{raw} =~ s/\Q$token\E/TOKEN/r, join("\r\n",
        'PUT /v1.1/1551c7f6c808414d8e9f3c514a170f2e/clusters/6ec9a0a4-76be-'
        . '4262-8697-e7af1fac7920/cdm/job/jdbc2hive/stop HTTP/1.1',
        'Host: cdm', 'Connection: close', 'Content-Length: 0',
        'Accept: application/json', 'Content-Type: application/json',
        'User-Agent: huaweicloud-usdk-nodejs/3.0; etl/7',
        'Accept-Encoding: identity', 'X-Auth-Token: TOKEN', '', ''),
        'H06 byte for byte');
};


subtest 'names of jobs' => sub {
    # the last one is made so by the URL parser of the SDK, not by the gateway
    my @names = ('订单_同步', 'a b', 'x(1)+y@z', 'a/../b');
    my @known_as = (@names[0 .. 2], 'b');

    $cdm->reset_log;
    my @results = sdk('', \@names);
    my @at_cdm = map { $_->{target} =~ m{/job/([^/]+)/stop\z} } $cdm->requests;

    for my $i (0 .. $#names) {
        my $plain = ($at_cdm[$i] // '') =~ s/%(..)/chr hex $1/ger;
        utf8::decode($plain);

        served("T02 $names[$i]", $results[$i], job_name => $known_as[$i]);
        is($plain, $known_as[$i], "T02 $names[$i]: at CDM");
    }

    @names = ('a?b=1', 'a;b', 'a%2Fb');
    @results = sdk('', \@names);

    for my $i (0 .. $#names) {
        refused("T07 $names[$i]", $results[$i], 'ClientRequestException', 400,
            '0001', qr/spell|document/, stage => 'refused');
    }

    is($cdm->count, 4, 'T07 nothing of these at CDM');
};


subtest 'TLS and a certificate' => sub {
    $cdm->reset_log;
    my @with = map { $_ => $airflow->{$_} } qw(cert key);
    my ($result) = sdk('certificate', 'jdbc2hive', @with);

    served('H06 certificate', $result, principal => 'airflow',
        rule => 'scheduler', decision => 'allow');
    is((($cdm->requests)[0])->header('X-Auth-Token'), $token,
        "H06 certificate: the gateway's token at CDM");

    ($result) = sdk('certificate', 'prod_1', @with);
    refused('H06 certificate', $result, 'ClientRequestException', 403, '0201',
        qr/freeze/, stage => 'refused', rule => 'freeze');

    # the SDK says that it does not check certificates, but it does
    my $before = $cdm->count;
    ($result) = sdk('certificate', 'jdbc2hive', @with, ca => undef);
    is($result->{httpStatusCode}, undef, 'an authority it does not know');
    like($result->{errorMsg}, qr/certificate/, 'is said to be the reason');
    is($cdm->count, $before, 'nothing at CDM');
};


subtest 'TLS and a token' => sub {
    my ($mine, $foreign) = map {
        $t->ledger->add("a caller's token", $iam->add_token(domain => 'acme',
            user => 'alice', roles => ['etl_operator'], project => $_))
    } CdmStop::Test::Traffic::PROJECT, 'f' x 32;
    $cdm->reset_log;

    my ($result) = sdk('token', 'jdbc2hive',
        headers => { 'X-Auth-Token' => $mine });
    served('H06 token beside a signature', $result,
        principal => 'alice@acme', rule => 'operators');

    my ($got) = $cdm->requests;
    is(join(',', $got->all('X-Auth-Token')), $token,
        "H06 the gateway's token at CDM");
    unlike($got->{raw}, qr/SDK-HMAC|\Q$mine\E|$AK/, 'H06 none of the caller');

    ($result) = sdk('token', 'jdbc2hive');
    refused('H07 a signature alone', $result, 'ClientRequestException', 401,
        '0101', qr/X-Auth-Token/, stage => 'refused');

    ($result) = sdk('token', 'jdbc2hive',
        headers => { 'X-Auth-Token' => $foreign });
    refused('H09 another project', $result, 'ClientRequestException', 403,
        '0202', qr/project/, stage => 'refused');
    is($cdm->count, 1, 'H07 H09 nothing of these at CDM');
};


subtest 'errors' => sub {
    my ($result) = sdk('no_iam', 'jdbc2hive');
    refused('no IAM', $result, 'ServerResponseException', 503, '0301',
        qr/IAM/, stage => 'refused', verdict => 'not_sent');

    ($result) = sdk('no_cdm', 'jdbc2hive');
    refused('D09 no CDM', $result, 'ServerResponseException', 502, '0401',
        qr/did not get to it/, records => 2, verdict => 'not_sent');

    # what CDM says is passed as it is: the same exception without the gateway
    my @answers = qw(not_running not_found forbidden_0302 throttled html_502
                     apig_504);

    $cdm->script(map { { when => { job => $_ }, answer => $_ } } @answers);
    my @through = sdk('', \@answers);
    my @direct = sdk('CDM', \@answers);

    for my $answer (@answers) {
        my ($through, $direct) = (shift @through, shift @direct);
        my ($intent, $outcome) = records("D04 $answer", 2,
            job_name => $answer);

        is($through->{requestId}, $outcome->{request_id},
            "D04 $answer: id of the gateway");
        $_->{requestId} = 0 for $through, $direct;
        is_deeply($through, $direct, "D04 $answer: as CDM says it")
            or diag(explain([$through, $direct]));
        ok($through->{exception}, "D04 $answer: an exception");
    }
};


# After a 504 the SDK tries its second endpoint, by itself.

subtest 'two endpoints' => sub {
    $cdm->reset_log;
    $cdm->script({ when => { job => 'twice' }, reset => 'after_request',
                   times => 1 });

    my ($result) = sdk('', 'twice', endpoint => [map {
        "http://127.0.0.1:" . $t->port($_) } '', '']);
    my @new = records('D10 a second try of the SDK', 4,
        job_name => 'twice');

    is_deeply($result, { response => { httpStatusCode => 200 } },
        'D10 the second one is served');
    is(join(' ', map { "$_->{stage}=" . ($_->{verdict} // '') } @new),
        'intent= outcome=unknown intent= outcome=stopped',
        'D10 each is recorded for itself');
    is($cdm->count, 2, 'D10 and CDM got both');
};

is(scalar @left, 0, 'no other record');
$t->done;
