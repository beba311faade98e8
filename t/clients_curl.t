#!/usr/bin/perl

# curl stops jobs through the gateway in each way that it has of speaking to a
# server: HTTP/1.0, 1.1 and 2, in clear and over TLS 1.2 and 1.3, with and
# without a certificate, to a name that it is told the address of.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $ca = $t->cert('good')->{ca};
my $airflow = $t->client_cert('airflow', '/O=acme/CN=airflow');
my $forged = $t->client_cert('forged', '/O=acme/CN=airflow', 'other-ca');

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
    cdm_stop_enforce           org;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit             %%TESTDIR%%/audit.jsonl;

    ssl_certificate      %%TESTDIR%%/certs/good.crt;
    ssl_certificate_key  %%TESTDIR%%/certs/good.key;
    ssl_protocols        TLSv1.2 TLSv1.3;

    large_client_header_buffers 4 40k;
    upstream cdm { server 127.0.0.1:%%CDM_PORT%%; }

    server {
        listen 127.0.0.1:%%PORT%%;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_h2%% http2;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_tls%% ssl http2;
        server_name cdm.test;
        location / { proxy_pass http://cdm; }
    }

    server {
        listen 127.0.0.1:%%PORT_certificate%% ssl http2;
        server_name cdm.test;
        ssl_client_certificate %%TESTDIR%%/certs/ca.crt;
        ssl_verify_client      on;
        cdm_stop_verify        off;
        cdm_stop_principal     $client;
        location / { proxy_pass http://cdm; }
    }
}
EOC
$t->start;

my $TOKEN = $t->ledger->add("a caller's token", $iam->add_token(
    user => 'alice', domain => 'acme', roles => ['etl_operator'],
    project => CdmStop::Test::Traffic::PROJECT));
my $HEADERS = file_for_curl('header', "X-Auth-Token: $TOKEN\n");

my @TOKEN = ('-H', "\@$HEADERS");

# A file for curl, with a secret in it and words that are none.

sub file_for_curl {
    my ($name, $text) = @_;

    my $file = $t->write("secrets/$name", $text, 0600);
    $t->{secret_files}{$file} = 1;

    return $file;
}

# One call, in which cdm.test is a name that curl is told the address of: what
# it says of the connection, and the answer. Arguments of the target come last.

sub curl {
    my ($port, @options) = @_;

    my $target = $t->stop_target(ref $options[-1] ? %{pop @options} : ());
    my $scheme = $port =~ /tls|certificate/ ? 'https' : 'http';
    my $number = $t->port($port);
    my @files = map { $t->path("curl.$_") } qw(head body);
    unlink @files;
    $t->new_records;
    $cdm->reset_log;

    my ($exit, $said) = $t->curl('-s', '-S', '-D', $files[0], '-o', $files[1],
        '-w', '%{http_code} %{http_version} %{num_connects}',
        '--cacert', $ca, '--resolve', "cdm.test:$number:127.0.0.1",
        @options, "$scheme://cdm.test:$number$target");
    my ($head, $body) = map { -e $_ ? $t->read($_) : '' } @files;
    $t->keep_answer('an answer to curl', "$head$body");

    return { exit => $exit, said => $said, head => $head, body => $body };
}

# What CDM read, with TOKEN in place of the gateway's.

my $given;

sub at_cdm {
    my ($got) = $cdm->requests;
    return '' if !$got;

    $given //= $iam->last_token;
    return $got->{raw} =~ s/\Q$given\E/TOKEN/r;
}

# The request as CDM has to read it. The names of what comes from curl are as
# they came, those of HTTP/2 in lower case.

sub expected {
    my ($said) = @_;

    my @passed = ('User-Agent: curl/7', 'Accept: */*');

    if ($said =~ / 2 /) {
        s/(.*?):/lc($1) . ':'/e for @passed;
    }

    return join "\r\n", 'PUT ' . $t->stop_target . ' HTTP/1.1', 'Host: cdm',
        'Connection: close', @passed, 'Content-Length: 0',
        'Accept-Encoding: identity', 'X-Auth-Token: TOKEN', '', '';
}

sub served {
    my ($name, $r, $said, %record) = @_;

    my ($intent, $outcome) = $t->new_records;
    my ($id) = $r->{head} =~ /^X-Request-Id: (\w+)\r$/mi;

    is("$r->{exit} $r->{said}", "0 $said", "$name: curl")
        or diag($r->{body});
    is($r->{body}, '{}', "$name: the answer of CDM");
    is("$intent->{stage} $outcome->{stage} $outcome->{verdict}",
        'intent outcome stopped', "$name: the records");
    is($id, $outcome->{request_id}, "$name: their id in the answer");
    is($outcome->{$_}, $record{$_}, "$name: $_") for sort keys %record;

    return;
}

sub refused {
    my ($name, $r, $said, $code) = @_;

    my ($record) = $t->new_records;

    is("$r->{exit} $r->{said}", "0 $said", "$name: curl");
    like($r->{body}, qr/\A\{"error_code":"CDMSTOP\.$code","error_msg":"[^"]+",
        "request_id":"$record->{request_id}"\}\z/x, "$name: the answer");
    like($r->{head}, qr/^X-Request-Id: $record->{request_id}\r$/mi,
        "$name: its id");
    is($record->{error_code}, "CDMSTOP.$code", "$name: the record");
    is($cdm->count, 0, "$name: nothing at CDM");

    return;
}


# each protocol, with the token of the caller

my %protocol = (
    'HTTP/1.0' => ['', '200 1.1 1', '--http1.0'],
    'HTTP/1.1' => ['', '200 1.1 1', '--http1.1'],
    'HTTP/2 by knowledge' => ['h2', '200 2 1', '--http2-prior-knowledge'],
    'HTTP/1.1 and TLS 1.2' => ['tls', '200 1.1 1', '--http1.1',
                               qw(--tlsv1.2 --tls-max 1.2)],
    'HTTP/1.1 and TLS 1.3' => ['tls', '200 1.1 1', '--http1.1', '--tlsv1.3'],
    'HTTP/2 and TLS 1.2' => ['tls', '200 2 1', '--http2',
                             qw(--tlsv1.2 --tls-max 1.2)],
    'HTTP/2 and TLS 1.3' => ['tls', '200 2 1', '--http2', '--tlsv1.3'],
);

for my $name (sort keys %protocol) {
    my ($port, $said, @options) = @{$protocol{$name}};

    my $r = curl($port, @options, qw(-X PUT -A curl/7), @TOKEN);
    served("T13 $name", $r, $said, principal => 'alice@acme',
        rule => 'operators');
    is(at_cdm(), expected($said), "T13 $name: byte for byte");

    refused("T13 $name, no token", curl($port, @options, qw(-X PUT)),
        $said =~ s/200/401/r, '0101');
    refused("T11 $name, POST", curl($port, @options, qw(-X POST), @TOKEN),
        $said =~ s/200/405/r, '0003');
}


# a certificate in place of a token

for my $version ('1.1', '2') {
    my $name = "HTTP/$version and a certificate";
    my @with = ('--http' . $version, map { ("--$_", $airflow->{$_}) }
        qw(cert key));

    served("H07 $name", curl('certificate', @with, qw(-X PUT)),
        "200 $version 1", principal => 'airflow', rule => 'scheduler');
    refused("H07 $name, a rule", curl('certificate', @with, qw(-X PUT),
        { job => 'prod_1' }), "403 $version 1", '0201');

    for my $kind ('forged', 'none') {
        my $r = curl('certificate', '--http' . $version, qw(-X PUT),
            $kind eq 'forged'
                ? map { ("--$_", $forged->{$_}) } qw(cert key) : ());

        # what nginx ends is recorded by the log phase, behind the answer
        my $record = $t->wait_for(sub { ($t->new_records)[0] },
            what => "H07 $name: $kind: a record");

        is($r->{said}, "400 $version 1", "H07 $name: $kind: by nginx");
        is($cdm->count, 0, "H07 $name: $kind: nothing at CDM");
        is($record->{verdict}, 'not_sent', "H07 $name: $kind: its record");
    }
}


# what curl adds by options of its own does not get to CDM

my $secret = $t->ledger->key(12);
my $options = file_for_curl('options', <<"END");
user = "someone:$secret"
cookie = "session=$secret"
header = "X-Subject-Token: $secret"
END

served('H05 options', curl('tls', qw(-X PUT -A curl/7 --compressed -e
    https://console.test/ -K), $options, @TOKEN), '200 2 1',
    principal => 'alice@acme');
is(at_cdm(), expected('200 2 1'), 'H05 options: byte for byte');


# a body, an empty upload, a name that is not ASCII

my %body = (
    'data' => [[qw(-X PUT -d {})], '{}'],
    'an empty upload' => [[qw(-T /dev/null)], ''],
    'chunked' => [[qw(-X PUT -d {} -H), 'Transfer-Encoding: chunked',
                   '--http1.1'], '{}'],
    'Expect' => [[qw(-X PUT -d {} -H), 'Expect: 100-continue'], '{}'],
);

for my $name (sort keys %body) {
    my ($with, $body) = @{$body{$name}};
    my $version = $name eq 'chunked' ? '1.1' : '2';

    served("B02 $name", curl('tls', @$with, @TOKEN), "200 $version 1");
    is((($cdm->requests)[0])->{body}, $body, "B02 $name: at CDM");
}

served('T02 a Chinese name', curl('tls', qw(-X PUT), @TOKEN,
    { job => "\xe8\xae\xa2\xe5\x8d\x95" }), '200 2 1',
    job_name => "\x{8ba2}\x{5355}");
like(at_cdm(), qr{/cdm/job/%E8%AE%A2%E5%8D%95/stop HTTP/1\.1\r$}m,
    'T02 a Chinese name: encoded at CDM');

refused('T04 dot segments as they are', curl('tls', qw(-X PUT --path-as-is),
    @TOKEN, { job => 'a/../b' }), '400 2 1', '0001');
served('T04 dot segments that curl takes away', curl('tls', qw(-X PUT),
    @TOKEN, { job => 'a/../b' }), '200 2 1', job_name => 'b');
refused('T07 a query', curl('tls', qw(-X PUT --url-query force=1), @TOKEN),
    '400 2 1', '0001');


# a name that the certificate does not have: curl does not say a word

my $port = $t->port('tls');
$cdm->reset_log;
$t->new_records;
my ($exit) = $t->curl('-s', '--cacert', $ca, '--resolve',
    "other.test:$port:127.0.0.1", qw(-X PUT), @TOKEN,
    "https://other.test:$port" . $t->stop_target);

is($exit, 60, 'another name: curl refuses the certificate');
is($cdm->count, 0, 'another name: nothing at CDM');
is(scalar(() = $t->new_records), 0, 'another name: no record');


# twenty stops at once over one connection

my @urls = map { ('-o', '/dev/null', 'https://cdm.test:' . $port
    . $t->stop_target(job => "job_$_")) } 1 .. 20;

($exit, my $said) = $t->curl(qw(-s -S --http2 -Z --parallel-max 20 -X PUT),
    '--cacert', $ca, '--resolve', "cdm.test:$port:127.0.0.1", @TOKEN,
    '-w', '%{http_code} %{http_version} %{num_connects}\n', @urls);

is($exit, 0, 'B03 twenty at once');
is(scalar(() = $said =~ /^200 2 [01]$/mg), 20, 'B03 all are served');
is($cdm->count, 20, 'B03 CDM got each once');
is(scalar(grep { ($_->{verdict} // '') eq 'stopped' }
    $t->wait_records('audit.jsonl', sub {
        20 == grep { ($_->{job_name} // '') =~ /\Ajob_/
            && $_->{stage} eq 'outcome' } @_ })) >= 20 ? 1 : 0, 1,
    'B03 each has its outcome');

$t->done;
