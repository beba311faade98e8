#!/usr/bin/perl

# A session of keystoneauth1, the client library of OpenStack, against a real
# Keystone: it stops jobs through the gateway with the token that Keystone gave
# it, finds the gateway in Keystone's catalog, and gets another token where the
# gateway answers that the one it has is none any more.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Keystone;
use CdmStop::RealClient;
use CdmStop::Test;

my $missing = join ' ', grep { length } CdmStop::Keystone->missing,
    CdmStop::RealClient->missing('keystoneauth');

plan(skip_all => "not installed (\"make clients\" installs it): $missing")
    if $missing ne '';

my $t = CdmStop::Test->new;
my $cdm = $t->cdm;

my $keystone = CdmStop::Keystone->new(dir => $t->path('keystone'),
    port => $t->port('keystone'));
$keystone->start;

my $domain = $keystone->create(domain => { name => 'acme' });
my %password = map { $_ => $t->ledger->password } qw(cdm-gateway alice carol);
my %user = map {
    $_ => $keystone->create(user => { name => $_, domain_id => $domain,
        password => $password{$_} })
} keys %password;
my ($etl, $dwh) = map {
    $keystone->create(project => { name => $_, domain_id => $domain })
} qw(etl dwh);

$keystone->create(role => { name => 'etl_operator' });
$keystone->grant($user{'cdm-gateway'}, $etl, 'member');
$keystone->grant($user{alice}, $etl, 'etl_operator');
$keystone->grant($user{carol}, $etl, 'reader');

$t->write_secret('secrets/gateway', "$password{'cdm-gateway'}\n");
my $ca = $t->cert('good')->{ca};

# the catalog names the gateway as the endpoint of CDM

my $gateway = 'https://127.0.0.1:' . $t->port;
my $service = $keystone->create(service => { name => 'cdm', type => 'cdm' });
$keystone->create(endpoint => { service_id => $service, interface => 'public',
    url => "$gateway/v1.1/\$(project_id)s" });

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes  2;

events {
}

http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone  cdm:1m;

    cdm_stop_iam keystone {
        uri            http://127.0.0.1:%%PORT_keystone%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/gateway;
        projects       any;
        timeout        20s;
    }

    cdm_stop_policy org {
        deny   freeze     job=~^prod_;
        allow  operators  domain=acme  role=etl_operator;
    }

    server {
        listen  127.0.0.1:%%PORT%% ssl;
        large_client_header_buffers  4 40k;

        ssl_certificate      %%TESTDIR%%/certs/good.crt;
        ssl_certificate_key  %%TESTDIR%%/certs/good.key;

        location /v1.1/ {
            cdm_stop                    keystone;
            cdm_stop_enforce            org;
            cdm_stop_wait               20s;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;

sub session {
    my ($name, $project) = @_;

    return CdmStop::RealClient->keystoneauth($t, {
        auth_url => $keystone->url . '/v3', username => $name,
        password => $password{$name}, user_domain_name => 'acme',
        project_id => $project, ca => $ca });
}

# A stop by a session, and the records that are new since the last one.

sub stop {
    my ($session, $project, %arg) = @_;

    $cdm->reset_log;
    $t->new_records;

    return $session->ask({ endpoint => $gateway,
        path => $t->stop_target(project => $project, %arg), %arg });
}

sub refused {
    my ($name, $answer, $class, $status, $code) = @_;

    my ($record) = $t->new_records;

    is($answer->{exception} // '', $class, "$name: the exception");
    is($answer->{status}, $status, "$name: its status");
    is($answer->{body}{error_code}, "CDMSTOP.$code", "$name: the code");
    is($answer->{id}, $record->{request_id}, "$name: the id of the record");
    is($record->{error_code}, "CDMSTOP.$code", "$name: the code in it");
    is(scalar $cdm->stops, 0, "$name: nothing at CDM");
}

# How often Keystone was asked for a token since one was revoked. It writes its
# log behind the answers: a line of before may come late.

sub logins_after_revocation {
    my ($later) = $t->read('keystone/uwsgi.log')
        =~ m{DELETE /v3/auth/tokens(.*)}s;

    return scalar grep { m{POST /v3/auth/tokens} } split /\n/, $later // '';
}


# Keystone ends each connection and says so: no session sends into its end

is($keystone->call(GET => '/v3')->{headers}{connection}, 'close',
    'Keystone tells that it closes');


# a stop

my $alice = session('alice', $etl);
my $answer = stop($alice, $etl);
my ($stop) = $cdm->stops;
my $given = $stop->header('X-Auth-Token');
my ($intent, $outcome) = $t->new_records;

$t->ledger->add('a token of the gateway', $given);

is($answer->{status}, 200, 'H06 a session stops a job');
is_deeply($answer->{body}, {}, 'H06 with the answer of CDM');
is($keystone->validate($given)->{json}{token}{user}{name}, 'cdm-gateway',
    "H06 CDM gets the gateway's token");
my ($agent) = $stop->{raw} =~ /^User-Agent: (.*)\r$/m;
like($agent, qr{keystoneauth1/\d}, 'H06 the library names itself at CDM');
is($stop->{raw} =~ s/\Q$given\E/TOKEN/r, join("\r\n",
    'PUT ' . $t->stop_target(project => $etl) . ' HTTP/1.1',
    'Host: 127.0.0.1:' . $t->port('CDM'), 'Connection: close',
    'Content-Length: 0', "User-Agent: $agent", 'Accept: */*',
    'Accept-Encoding: identity', 'X-Auth-Token: TOKEN', '', ''),
    'H06 byte for byte');

is("$intent->{stage} $outcome->{stage}", 'intent outcome', 'H06 the records');
is($outcome->{principal}, 'alice@acme', 'H06 her name in them');
is($outcome->{user}{id}, $user{alice}, 'H06 her id');
is($outcome->{rule}, 'operators', 'H06 the rule');
is($outcome->{verdict}, 'stopped', 'H06 the verdict');
is($outcome->{request_id}, $answer->{id}, 'H06 the id that she got');


# the gateway as the endpoint in Keystone's catalog

$answer = stop($alice, $etl, endpoint => undef, path => '/clusters/'
    . CdmStop::Test::Traffic::CLUSTER . '/cdm/job/by_catalog/stop');
is($answer->{status}, 200, 'a stop by the catalog');
is(($t->new_records)[1]{job_name}, 'by_catalog', 'its job in the record');


# refusals

refused('another rule', stop($alice, $etl, job => 'prod_1'), 'Forbidden', 403,
    '0201');
refused('H09 another project', stop($alice, $dwh), 'Forbidden', 403, '0202');
refused('another role', stop(session('carol', $etl), $etl), 'Forbidden', 403,
    '0201');
refused('T06 a number sign', stop($alice, $etl, job => 'a%23b'), 'BadRequest',
    400, '0001');


# Her token ends at Keystone before the gateway saw it: the session gets 401,
# asks Keystone for another one and repeats the stop, all within one call.

my $session = session('alice', $etl);
$answer = stop($session, $etl, revoke => JSON::PP::true());
my @records = $t->new_records;

is($answer->{status}, 200, 'H07 a revoked token: the stop succeeds');
is(join(' ', map { "$_->{stage} " . ($_->{error_code} // '-') } @records),
    'refused CDMSTOP.0102 intent - outcome -',
    'H07 a revoked token: refused, then a stop with another one');
isnt($records[0]{client_token}, $records[1]{client_token},
    'H07 a revoked token: not the same');
is(scalar $cdm->stops, 1, 'H07 a revoked token: one stop at CDM');
is($records[2]{principal}, 'alice@acme', 'H07 a revoked token: her name');
$t->wait_for(sub { logins_after_revocation() }, quiet => 1);
is(logins_after_revocation(), 1, 'H07 a revoked token: one more of Keystone');


# Keystone gone: what was verified is known for a while, another is refused

my $late = session('carol', $etl);
$keystone->stop;
is(stop($alice, $etl)->{status}, 200, 'I08 Keystone gone: she is known');
$t->new_records;

$answer = stop($late, $etl);
refused('I08 Keystone gone', $answer, 'ServiceUnavailable', 503, '0302')
    if $answer->{status} == 503;
is($answer->{status}, 503, 'I08 Keystone gone: another session');

$t->allow_log(qr/IAM did not verify a caller's token|Connection refused/);
undef $_ for $alice, $session, $late;
$t->done;
