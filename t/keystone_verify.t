#!/usr/bin/perl

# A real OpenStack Keystone in the place of IAM tells who calls: two users, two
# projects and roles. The right one is known, and what Keystone does not call
# valid any more is refused within verify_cache.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Keystone;
use CdmStop::Test;
use Time::HiRes qw(time);

my $missing = CdmStop::Keystone->missing;

plan(skip_all => "OpenStack Keystone is not installed (\"make keystone\" "
    . "installs it): $missing") if $missing ne '';

my $t = CdmStop::Test->new;
my $cdm = $t->cdm;

my $keystone = CdmStop::Keystone->new(dir => $t->path('keystone'),
    port => $t->port('keystone'));
$keystone->start;

my $domain = $keystone->create(domain => { name => 'acme' });
my %password = map { $_ => $t->ledger->password }
    qw(cdm-gateway alice bob carol);
my %user = map {
    $_ => $keystone->create(user => { name => $_, domain_id => $domain,
        password => $password{$_} })
} keys %password;
my ($etl, $dwh) = map {
    $keystone->create(project => { name => $_, domain_id => $domain })
} qw(etl dwh);

$keystone->create(role => { name => 'etl_operator' });
$keystone->grant($user{'cdm-gateway'}, $_, 'member') for $etl, $dwh;
$keystone->grant($user{alice}, $etl, 'etl_operator');
$keystone->grant($user{bob}, $dwh, 'member');
$keystone->grant($user{carol}, $etl, 'reader');

$t->write_secret('secrets/gateway', "$password{'cdm-gateway'}\n");

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes  4;

events {
    worker_connections  2048;
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
        verify_cache   3s;
    }

    cdm_stop_policy org {
        deny   freeze     job=~^prod_;
        allow  operators  domain=acme  role=etl_operator;
    }

    server {
        listen  127.0.0.1:%%PORT_ruled%%;
        large_client_header_buffers  4 40k;

        location /v1.1/ {
            cdm_stop                    keystone;
            cdm_stop_enforce            org;
            cdm_stop_wait               20s;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen  127.0.0.1:%%PORT%% backlog=4096;
        large_client_header_buffers  4 40k;

        location /v1.1/ {
            cdm_stop                    keystone;
            cdm_stop_wait               20s;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;


# A token of a user for a project, as the caller gets it.

sub login {
    my ($name, $project) = @_;

    my $r = $keystone->call(POST => '/v3/auth/tokens', { auth => {
        identity => { methods => ['password'], password => { user => {
            name => $name, password => $password{$name},
            domain => { name => 'acme' } } } },
        scope => { project => { id => $project } } } });
    my $token = $r->{headers}{'x-subject-token'}
        // die "no token for $name: $r->{status} $r->{content}\n";

    $t->ledger->add("a token of $name", $token);

    return $token;
}

sub stop {
    my ($token, $project) = @_;

    return $t->put_stop(project => $project,
        headers => [defined $token ? ('X-Auth-Token' => $token) : ()]);
}

sub code {
    my ($r) = @_;

    return eval { $r->json->{error_code} } // $r->{status};
}

sub record {
    my ($r) = @_;

    my ($record) = grep { $_->{request_id} eq $r->header('X-Request-Id') }
        $t->records('audit.jsonl');

    return $record;
}

# How often Keystone was asked about a token so far.

sub questions {
    return scalar grep { m{GET /v3/auth/tokens} }
        split /\n/, $t->read('keystone/uwsgi.log');
}


# the right one is known

my %token = (alice => login('alice', $etl), bob => login('bob', $dwh),
    carol => login('carol', $etl));
my %project = (alice => $etl, bob => $dwh, carol => $etl);

for my $name (sort keys %token) {
    my $r = stop($token{$name}, $project{$name});
    my $record = record($r);
    my $given = ($cdm->stops)[-1]->header('X-Auth-Token');

    $t->ledger->add('a token of the gateway', $given);

    is($r->{status}, 200, "$name stops in the own project");
    is($record->{principal}, "$name\@acme", "$name: principal");
    is($record->{user}{id}, $user{$name}, "$name: id of the user");
    is($record->{user}{domain_id}, $domain, "$name: id of the domain");

    my $facts = $keystone->validate($given)->{json}{token};
    is($facts->{user}{name}, 'cdm-gateway', "$name: CDM gets the gateway's");
    is($facts->{project}{id}, $project{$name}, "$name: of the project");
    is_deeply([sort @{$record->{roles}}],
        [sort map { $_->{name} }
            @{$keystone->validate($token{$name})->{json}{token}{roles}}],
        "$name: the roles that Keystone tells");
}

is_deeply(record(stop($token{alice}, $etl))->{roles}, ['etl_operator'],
    'the operator has the role');
isnt(join(' ', @{record(stop($token{carol}, $etl))->{roles}}), 'etl_operator',
    'another has not');


# and may by a rule of its role, which others have not

sub ruled {
    my ($name, %opt) = @_;

    my $before = () = $cdm->stops;
    my $r = $t->put_stop(port => $t->port('ruled'),
        project => $project{$name},
        headers => ['X-Auth-Token' => $token{$name}], %opt);
    my $record = record($r);

    return join ' ', code($r), $record->{decision}, $record->{rule} // 'none',
        "sent:" . ((() = $cdm->stops) - $before);
}

is(ruled('alice'), '200 allow operators sent:1', 'the role may stop');
is(ruled('alice', job => 'prod_1'), 'CDMSTOP.0201 deny freeze sent:0',
    'but not what is frozen');
is(ruled('carol'), 'CDMSTOP.0201 deny none sent:0', 'another role may not');
is(ruled('bob'), 'CDMSTOP.0201 deny none sent:0',
    'nor who has no such role in the own project');


# the wrong project, and no token of Keystone

my $sent = $cdm->stops;

is(code(stop($token{alice}, $dwh)), 'CDMSTOP.0202', 'H09 alice elsewhere');
is(code(stop($token{bob}, $etl)), 'CDMSTOP.0202', 'H09 bob elsewhere');
is(code(stop(undef, $etl)), 'CDMSTOP.0101', 'H07 nobody');
is(code(stop('gAAAAAB' . 'x' x 180, $etl)), 'CDMSTOP.0102', 'H07 none');
is(code(stop($token{alice} . 'A', $etl)), 'CDMSTOP.0102', 'K08 a byte more');
is(scalar $cdm->stops, $sent, 'H07 nothing of these at CDM');


# one question for all

my $fresh = login('alice', $etl);
my $before = questions();
my $since = time;
my @r = $t->finish(map {
    $t->start_stop(project => $etl, job => "p$_",
        headers => ['X-Auth-Token' => $fresh])
} 1 .. 500);

is(scalar(grep { $_ && $_->{status} == 200 } @r), 500,
    'K11 500 stops of alice at once');
cmp_ok(questions() - $before, '<=', 1 + int((time - $since) / 3),
    'K11 one question to Keystone in three seconds');


# revoked, and disabled

sub refused_in_time {
    my ($what, $token, $project) = @_;

    my $since = time;
    my $last = $since;
    my $r;

    $t->wait_for(sub {
        my $begun = time;
        $r = stop($token, $project);
        $last = $begun if $r->{status} == 200;
        $r->{status} != 200;
    }, what => "the end of $what");

    is(code($r), 'CDMSTOP.0102', "K11 $what: refused");
    cmp_ok($last - $since, '<', 3.1, "K11 $what: within verify_cache");
}

is(stop($fresh, $etl)->{status}, 200, 'K11 a token before it is revoked');
is($keystone->call(DELETE => '/v3/auth/tokens', undef,
    'X-Subject-Token' => $fresh)->{status}, 204, 'K11 Keystone revokes it');
refused_in_time('a revoked token', $fresh, $etl);
is(stop($token{alice}, $etl)->{status}, 200, 'K11 another of hers is good');

is(stop($token{bob}, $dwh)->{status}, 200, 'K11 bob before he is disabled');
is($keystone->call(PATCH => "/v3/users/$user{bob}",
    { user => { enabled => JSON::PP::false() } })->{status}, 200,
    'K11 Keystone disables him');
refused_in_time('a disabled user', $token{bob}, $dwh);


# Keystone gone: nothing is let through that is not known

$keystone->stop;
$t->wait_for(sub { stop($token{alice}, $etl)->{status} != 200 },
    what => 'the end of what is known');
my $r = stop($token{alice}, $etl);
is(code($r), 'CDMSTOP.0302', 'I08 Keystone gone: .0302');
like($r->header('Retry-After'), qr/\A[1-9]\d*\z/, 'I08 with Retry-After');

$t->allow_log(qr/IAM did not verify a caller's token|Connection refused/);
$t->done;
