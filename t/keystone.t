#!/usr/bin/perl

# A real OpenStack Keystone in the place of IAM: the token that CDM receives is
# one that Keystone itself calls valid, for this project and this user.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Keystone;
use CdmStop::Test;

my $missing = CdmStop::Keystone->missing;

plan(skip_all => "OpenStack Keystone is not installed (\"make keystone\" "
    . "installs it): $missing") if $missing ne '';

my $t = CdmStop::Test->new;
my $cdm = $t->cdm;

my $keystone = CdmStop::Keystone->new(dir => $t->path('keystone'),
    port => $t->port('keystone'));
$keystone->start;

my $password = $t->ledger->password;
my $domain = $keystone->create(domain => { name => 'acme' });
my $user = $keystone->create(user => { name => 'cdm-gateway',
    domain_id => $domain, password => $password });
my ($etl, $dwh, $foreign) = map {
    $keystone->create(project => { name => $_, domain_id => $domain })
} qw(etl dwh foreign);

$keystone->grant($user, $_, 'member') for $etl, $dwh;

$t->write_secret('secrets/right', "$password\n");
$t->write_secret('secrets/wrong', $t->ledger->password . "\n");

# the last server asks with a password that Keystone does not know

my $servers = '';

for my $which (qw(right wrong)) {
    $servers .= <<"END";
    cdm_stop_iam $which {
        uri            http://127.0.0.1:%%PORT_keystone%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/$which;
        projects       any;
        timeout        20s;
    }

    server {
        listen  127.0.0.1:%%PORT_$which%%;

        location /v1.1/ {
            cdm_stop                    $which;
            cdm_stop_verify             off;
            cdm_stop_anonymous          on;
            cdm_stop_wait               20s;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/$which.jsonl;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }

END
}

$t->config(<<"END");
%%GLOBALS%%
worker_processes  2;

events {
}

http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone  cdm:1m;

$servers
}
END

$t->start;


# a token for each project, and each stop has that of its project

for my $project ([etl => $etl], [dwh => $dwh]) {
    my ($name, $id) = @$project;

    my $r = $t->put_stop(project => $id, port => $t->port('right'));
    my $stop = ($cdm->stops)[-1];
    my @tokens = $stop ? $stop->all('X-Auth-Token') : ();

    is($r->{status}, 200, "stop in project $name");
    is(scalar @tokens, 1, "one token at CDM for project $name");

    $t->ledger->add('a token of Keystone', $_) for @tokens;

    my $facts = $keystone->validate($tokens[0] // 'none');

    is($facts->{status}, 200, "Keystone calls the token for $name valid");
    is($facts->{json}{token}{project}{id}, $id, "it is for project $name");
    is($facts->{json}{token}{user}{id}, $user, "it is of the gateway's user");
    is_deeply($facts->{json}{token}{methods}, ['password'],
        "it was got by password");
}

my @before = $cdm->stops;

$t->put_stop(project => $etl, port => $t->port('right'), job => 'again');

is((($cdm->stops)[-1])->header('X-Auth-Token'),
    $before[0]->header('X-Auth-Token'), 'the token is kept for the next stop');

my @records = $t->wait_records('right.jsonl', 6);

is_deeply([map { $_->{verdict} } grep { $_->{stage} eq 'outcome' } @records],
    [('stopped') x 3], 'an outcome for each stop');


# what Keystone refuses

my $sent = $cdm->stops;

my $r = $t->put_stop(project => $foreign, port => $t->port('right'));

is($r->{status}, 503, 'no role on the project: 503');
is($r->json->{error_code}, 'CDMSTOP.0301', 'no role on the project: code');

$r = $t->put_stop(project => $etl, port => $t->port('wrong'));

is($r->{status}, 503, 'wrong password: 503');
is($r->json->{error_code}, 'CDMSTOP.0301', 'wrong password: code');
is(scalar $cdm->stops, $sent, 'nothing was sent to CDM without a token');

my ($refused) = $t->wait_records('wrong.jsonl', 1);

is($refused->{stage}, 'refused', 'wrong password: record');
is($refused->{error_code}, 'CDMSTOP.0301', 'wrong password: code in it');

# Keystone's answer is a reason to wake somebody
$t->expect_log(qr/\[alert\].*IAM refuses the gateway: status 401/);

$keystone->stop;
$t->done;
