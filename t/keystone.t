#!/usr/bin/perl

# A real OpenStack Keystone in the place of IAM: the token that CDM receives is
# one that Keystone itself calls valid, for this project and this user.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::CheckingCdm;
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

my @first = $cdm->stops;

$t->put_stop(project => $etl, port => $t->port('right'), job => 'again');

is((($cdm->stops)[-1])->header('X-Auth-Token'),
    $first[0]->header('X-Auth-Token'), 'the token is kept for the next stop');

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


# CDM asks Keystone about each token; one identity has a password of its own,
# one a token that something else keeps in a file

my $checking = $t->standin('CdmStop::CheckingCdm', name => 'checking',
    port => 'checking', keystone => $keystone->url);
my $keeper = $keystone->create(user => { name => 'keeper',
    domain_id => $domain, password => $password });
my $second = $t->ledger->password;
my $robot = $keystone->create(user => { name => 'robot',
    domain_id => $domain, password => $second });

$keystone->grant($_, $etl, 'member') for $keeper, $robot;
$t->write_secret('secrets/robot', "$second\n");

my %method = (
    robot => 'method password; domain acme; user robot;
        password_file %%TESTDIR%%/secrets/robot;',
    keeper => 'method file; token_file %%TESTDIR%%/tokens/keeper;',
);

$servers = join '', map { <<"END" } sort keys %method;
    cdm_stop_iam $_ {
        uri       http://127.0.0.1:%%PORT_keystone%%/v3;
        insecure  on;
        projects  any;
        timeout   20s;
        $method{$_}
    }

    server {
        listen  127.0.0.1:%%PORT_$_%%;

        location /v1.1/ {
            cdm_stop                    $_;
            cdm_stop_verify             off;
            cdm_stop_anonymous          on;
            cdm_stop_wait               20s;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/$_.jsonl;
            proxy_pass                  http://127.0.0.1:%%PORT_checking%%;
        }
    }

END

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

sub stop_by {
    my ($name) = @_;

    my $r = $t->put_stop(project => $etl, port => $t->port($name));
    my $stop = ($checking->stops)[-1];
    my $token = $stop ? $stop->header('X-Auth-Token') : '';

    $t->ledger->add('a token of Keystone', $token) if length $token;

    return ($r, $token);
}

# How often Keystone was asked for a token so far.

sub logins {
    return scalar grep { m{POST /v3/auth/tokens} }
        split /\n/, $t->read('keystone/uwsgi.log');
}

# How many more there are, once the log has been written.

sub logins_since {
    my ($before) = @_;

    $t->wait_for(sub { logins() > $before }, quiet => 1);
    return logins() - $before;
}

# A token by password, as a keeper of a file gets it.

sub login {
    my ($name) = @_;

    my $r = $keystone->call(POST => '/v3/auth/tokens', { auth => {
        identity => { methods => ['password'], password => { user => {
            name => $name, password => $password,
            domain => { name => 'acme' } } } },
        scope => { project => { id => $etl } } } });

    return $r->{headers}{'x-subject-token'};
}

sub revoke {
    my ($token) = @_;

    return $keystone->call(DELETE => '/v3/auth/tokens', undef,
        'X-Subject-Token' => $token)->{status};
}

sub keep {
    my ($token) = @_;

    $t->{secret_files}{$t->path('tokens/keeper')} = 1;
    $t->write_secret('tokens/keeper.new', "$token\n", 0644);
    rename $t->path('tokens/keeper.new'), $t->path('tokens/keeper')
        or die "tokens/keeper: $!\n";

    return $token;
}


# a file with a token of Keystone

my $kept = keep(login('keeper'));
my $token;

$t->reload;

($r, $token) = stop_by('keeper');
is($r->{status}, 200, 'I11 method file: a stop');
ok($token eq $kept, 'I11 method file: with the token of the file');

is(revoke($kept), 204, 'I11 Keystone revokes it');
($r) = stop_by('keeper');
is($r->{status}, 503, 'I11 there is no other: 503');
is($r->json->{error_code}, 'CDMSTOP.0301', 'I11 there is no other: code');

$kept = keep(login('keeper'));
ok($t->wait_for(sub {
    ($r, $token) = stop_by('keeper');
    $r->{status} == 200;
}, quiet => 1, timeout => 10), 'I11 the next token of the file is taken');
ok($token eq $kept, 'I11 as it is there');


# revoked at Keystone

($r, my $revoked) = stop_by('robot');
is($r->{status}, 200, 'D05 a stop by password');
is(revoke($revoked), 204, 'D05 Keystone revokes the token');

my $before = logins();
($r, $token) = stop_by('robot');

is($r->{status}, 200, 'D05 the next stop succeeds');
ok($token ne $revoked, 'D05 with another token');
is(logins_since($before), 1, 'D05 by one call');

my ($outcome) = grep { $_->{stage} eq 'outcome'
    && $_->{request_id} eq $r->header('X-Request-Id') }
    $t->records('robot.jsonl');
is($outcome->{attempts}, 2, 'D05 at the second attempt');


# the password is changed at Keystone, which ends the tokens of the user

my $third = $t->ledger->password;

is($keystone->call(PATCH => "/v3/users/$robot",
    { user => { password => $third } })->{status}, 200,
    'I06 the password is changed');
$before = logins();
($r) = stop_by('robot');

is($r->{status}, 503, 'I06 the old password is refused: 503');
is($r->header('Retry-After'), 900, 'I06 and rests for 15 minutes');
is(logins_since($before), 1, 'I06 after one attempt');

($outcome) = grep { $_->{stage} eq 'outcome'
    && $_->{request_id} eq $r->header('X-Request-Id') }
    $t->records('robot.jsonl');
is($outcome->{upstream_status}, 401, 'I06 what CDM said is in the record');

stop_by('robot') for 1 .. 5;
is(logins() - $before, 1, 'I06 more stops make no attempt');

# Keystone goes by the second: a token of the very one in which the password
# was changed counts as issued before
sleep 2;
$t->write_secret('secrets/robot', "$third\n");
$t->reload;

($r) = stop_by('robot');
is($r->{status}, 200, 'I06 the file is mended and read again: served');

$keystone->stop;
$t->done;
