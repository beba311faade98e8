#!/usr/bin/perl

# The ways to a token beside a password: an access key, an agency that is
# assumed with the token of another identity, and a token for a whole domain;
# each request at IAM byte for byte, and what happens when IAM says no.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use Encode qw(encode_utf8);
use JSON::PP ();
use Time::HiRes qw(sleep time);

use CdmStop::Exchange;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');

# the two parts of keys are found in no log, with hostile characters or without
my %key = map { $_ => $t->ledger->key(20) } qw(AK SK odd_AK odd_SK bad_SK);
$key{odd_AK} .= q{"\\</script>} . "\x{540c}";
$key{odd_SK} .= qq{'"\\\t} . $t->ledger->key(8);

$t->write_secret("secrets/$_", encode_utf8($key{$_}) . "\n") for keys %key;

my $iam = $t->iam(
    access_keys => {
        $key{AK} => { secret => $key{SK}, user => 'robot', domain => 'acme' },
        $key{odd_AK} =>
            { secret => $key{odd_SK}, user => 'odd', domain => 'acme' },
    },
    agencies => { customer => ['cdm-stop', "q\"\x{e9}"] });
my $cdm = $t->cdm;

my %identity = (
    keys => 'method ak_sk; access_key_file %%TESTDIR%%/secrets/AK;'
        . 'secret_key_file %%TESTDIR%%/secrets/SK;',
    odd_keys => 'method ak_sk; access_key_file %%TESTDIR%%/secrets/odd_AK;'
        . 'secret_key_file %%TESTDIR%%/secrets/odd_SK;',
    bad_keys => 'method ak_sk; access_key_file %%TESTDIR%%/secrets/AK;'
        . 'secret_key_file %%TESTDIR%%/secrets/bad_SK;',
    domain_keys => 'method ak_sk; access_key_file %%TESTDIR%%/secrets/AK;'
        . 'secret_key_file %%TESTDIR%%/secrets/SK; domain acme; scope domain;',
    domain => password('domain'),
    agency => 'method agency; agency customer cdm-stop; via base1;',
    odd_agency => encode_utf8(
        qq{method agency; agency customer "q\\"\x{e9}"; via base2;}),
    dead_agency => 'method agency; agency customer cdm-stop; via base3;',
    no_agency => 'method agency; agency customer nobody; via base4;',
    no_via => 'method agency; agency customer cdm-stop; via base5;',
    domain_agency => 'method agency; agency customer cdm-stop; via base6;'
        . 'scope domain;',
    (map { ("scope_$_" => password('domain') =~ s/cdm-gateway/scope$_/r) }
        1 .. 4),
    short_agency => 'method agency; agency customer cdm-stop; via base7;',
);

# each its own user, or two of them would share what counts for one identity

my %base = map { ("base$_" => password('domain') =~ s/cdm-gateway/base$_/r) }
    1 .. 7;

$t->write_secret('secrets/wrong', $t->ledger->password);
$base{base5} =~ s{secrets/password}{secrets/wrong};
$iam->set(users => { acme => { map { $_ => $t->{password} }
    'cdm-gateway', (map { "scope$_" } 1 .. 4), keys %base } });

sub password {
    my ($scope) = @_;

    return "method password; domain acme; user cdm-gateway; scope $scope;"
        . 'password_file %%TESTDIR%%/secrets/password;';
}

sub identity {
    my ($name, $settings, $projects) = @_;

    return "cdm_stop_iam $name { $settings\n"
        . "uri http://127.0.0.1:%%IAM_PORT%%; insecure on;\n"
        . "projects $projects; }\n";
}

my $projects = project_list(60);
my $config = join '', map { identity($_, $base{$_}, 'any') } sort keys %base;

for my $name (sort keys %identity) {
    $config .= identity($name, $identity{$name}, $projects) . <<"EOC";
    server {
        listen 127.0.0.1:%%PORT_$name%%;
        location /v1.1/ {
            cdm_stop   $name;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
EOC
}

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 2;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone               cdm:1m;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
$config
}
EOC

$t->start;


# One stop by an identity in a project; what it made IAM get.

sub stop_by {
    my ($name, $project) = @_;

    $iam->reset_log if !$iam->{keep};
    my $answer = $t->put_stop(project => $project, port => $t->port($name));

    return ($answer, $iam->requests);
}

# What IAM must get: POST with a body, and a token of the one who asks.

sub expected {
    my ($body, $token) = @_;

    return "POST /v3/auth/tokens?nocatalog=true HTTP/1.1\r\n"
        . 'Host: 127.0.0.1:' . $t->port('IAM') . "\r\n"
        . "Content-Type: application/json;charset=utf8\r\n"
        . 'Content-Length: ' . length($body) . "\r\n"
        . "Accept: application/json\r\n"
        . "User-Agent: ngx_http_cdm_stop_module/0.1.0\r\n"
        . (defined $token ? "X-Auth-Token: $token\r\n" : '')
        . "Connection: close\r\n\r\n$body";
}

sub in_json {
    my ($text) = @_;

    return JSON::PP->new->utf8->allow_nonref->encode($text) =~ s{\\/}{/}gr;
}

my %method = (
    password => sub {
        my ($user, $password) = @_;

        return qq("password":{"user":{"name":"$user","password":)
            . in_json($password) . ',"domain":{"name":"acme"}}}';
    },
    hw_ak_sk => sub {
        my ($access, $secret) = @_;

        return '"hw_ak_sk":{"access":{"key":' . in_json($access)
            . '},"secret":{"key":' . in_json($secret) . '}}';
    },
    assume_role => sub {
        my ($domain, $agency) = @_;

        return qq("assume_role":{"domain_name":"$domain","agency_name":)
            . in_json($agency) . '}';
    },
);

# A body: the method with its facts, and a project or {domain name}.

sub body {
    my ($method, $facts, $scope) = @_;

    return qq({"auth":{"identity":{"methods":["$method"],)
        . $method{$method}->(@$facts) . '},"scope":{'
        . (ref $scope ? qq("domain":{"name":"$scope->[0]"})
                      : qq("project":{"id":"$scope"})) . '}}}';
}

# Each request is one that was expected; what it is called where it is not.

sub asked {
    my ($name, $requests, @expected) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return is(join("\n--\n", map { $_->{raw} } @$requests),
              join("\n--\n", @expected), $name);
}

sub served {
    my ($name, $answer, $token) = @_;

    my $got = (($cdm->stops)[-1])->header('X-Auth-Token') // '';

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is("$answer->{status} " . ($got eq $token ? 'issued' : 'another'),
              '200 issued', "$name: CDM gets the token that IAM issued");
}

sub tokens { return map { $_->{token} } $iam->tokens }


# access keys

for my $name (qw(keys odd_keys)) {
    my $project = new_project();
    my @keys = map { $key{ ($name eq 'keys' ? '' : 'odd_') . $_ } } qw(AK SK);

    my ($answer, @asked) = stop_by($name, $project);

    asked("I01 $name: asked with hw_ak_sk", \@asked,
        expected(body(hw_ak_sk => \@keys, $project)));
    served("I01 $name", $answer, (tokens())[-1]);

    ($answer, @asked) = stop_by($name, $project);
    is(scalar @asked, 0, "$name: the token is kept");
}

{
    my $project = new_project();
    my ($answer, @asked) = stop_by('bad_keys', $project);

    is_refused('I06 a secret key that IAM refuses', $answer);
    is($answer->header('Retry-After'), 900, 'I06 it rests for 15 minutes');
    asked('I06 asked once', \@asked,
        expected(body(hw_ak_sk => [@key{qw(AK bad_SK)}], $project)));

    ($answer, @asked) = stop_by('bad_keys', $project);
    is_refused('I06 the next stop', $answer);
    is(scalar @asked, 0, 'I06 makes no call');
    like(join("\n", lines_of($t, $project)),
        qr/\A.*\[alert\].* IAM refuses the gateway: status 401, .*\z/,
        'I06 one line tells it');
}


# a token for a domain must be one of that domain, and of no project

{
    my %token = (
        1 => { domain => { name => 'other', id => 'a' x 32 } },
        2 => { project => { id => 'b' x 32 } },
        3 => { domain => undef },
        4 => { domain => { name => ['acme'] } },
    );
    my %error = (
        1 => 'a token of another domain',
        2 => 'a token of a project and not of a domain',
        3 => 'a token without a domain',
        4 => 'a token of another domain',
    );

    for my $n (sort keys %token) {
        my $project = new_project();

        $iam->script({ token => $token{$n} });
        my $answer = $t->put_stop(project => $project,
                                  port => $t->port("scope_$n"));
        is_refused("I02 scope domain, and $error{$n}", $answer);
        like(join("\n", lines_of($t, '-' x 32)),
            qr/ IAM gave no token: \Q$error{$n}\E \(.*"scope_$n"/,
            'I02 the log tells it');
        $iam->script;
    }
}


# a token for a domain serves all of its projects

for my $name (qw(domain domain_keys)) {
    my @project = map { new_project() } 1, 2;
    my ($answer, @asked) = stop_by($name, $project[0]);

    asked("K06 $name: asked for the domain", \@asked, expected(
        $name eq 'domain'
            ? body(password => ['cdm-gateway', $t->{password}], ['acme'])
            : body(hw_ak_sk => [@key{qw(AK SK)}], ['acme'])));
    served("K06 $name", $answer, (tokens())[-1]);

    ($answer, @asked) = stop_by($name, $project[1]);
    is(scalar @asked, 0, "K06 $name: nothing is asked for another project");
    served("K06 $name, another project", $answer, (tokens())[-1]);
}


# an agency

for my $name (qw(agency odd_agency)) {
    my @project = map { new_project() } 1, 2;
    my ($base, $agency) = $name eq 'agency' ? ('base1', 'cdm-stop')
        : ('base2', "q\"\x{e9}");

    my ($answer, @asked) = stop_by($name, $project[0]);
    my ($via, $token) = (tokens())[-2, -1];

    asked("I11 $name: first the token of its via, then its own", \@asked,
        expected(body(password => [$base, $t->{password}], ['acme'])),
        expected(body(assume_role => ['customer', $agency], $project[0]),
                 $via));
    served("I11 $name", $answer, $token);

    ($answer, @asked) = stop_by($name, $project[1]);

    asked("I11 $name: another project with the same via", \@asked,
        expected(body(assume_role => ['customer', $agency], $project[1]),
                 $via));
    served("I11 $name, another project", $answer, (tokens())[-1]);

    is(scalar((grep { defined } map { $_->{client_token} }
        $t->records('audit.jsonl'))), 0, 'no token of a via in a record');
}

{
    my ($answer, @asked) = stop_by('domain_agency', new_project());

    is($asked[1]{raw}, expected(body(assume_role => ['customer', 'cdm-stop'],
        ['customer']), (tokens())[-2]),
        'I11 an agency for its whole domain');
    served('I11 an agency for its domain', $answer, (tokens())[-1]);
}

# the token of the via is dead; nobody knew before it was used

{
    my $project = new_project();
    my ($answer) = stop_by('dead_agency', $project);
    my ($via, $token) = (tokens())[-2, -1];
    my $password = body(password => ['base3', $t->{password}], ['acme']);
    my $assume = body(assume_role => ['customer', 'cdm-stop'], $project);

    $iam->revoke($via);
    $cdm->script({ when => { header => { 'X-Auth-Token' => $token } },
                   answer => 'apig_0307' });

    ($answer, my @asked) = stop_by('dead_agency', $project);
    my ($new_via, $new) = (tokens())[-2, -1];

    asked('I11 a dead via: renewed once, then asked again', \@asked,
        expected($assume, $via), expected($password),
        expected($assume, $new_via));
    served('I11 a dead via', $answer, $new);
    $cdm->script;

    # IAM does not take the new one either

    $iam->reset_log;
    $iam->script({ when => { body => qr/assume_role/ },
                   answer => 'agency_token_invalid' });
    $cdm->script({ when => { header => { 'X-Auth-Token' => $new } },
                   answer => 'apig_0307' });
    $answer = $t->put_stop(project => $project,
                           port => $t->port('dead_agency'));
    @asked = $iam->requests;

    is_refused('I11 a via that IAM never takes', $answer);
    asked('I11 tried with a new one, and no loop', \@asked,
        expected($assume, $new_via), expected($password),
        expected($assume, (tokens())[-1]));
    like(join("\n", lines_of($t, $project)),
        qr/\[alert\].* IAM refuses the gateway: status 401/,
        'I11 which is an alert');

    $answer = $t->put_stop(project => $project,
                           port => $t->port('dead_agency'));
    is_refused('I11 the next stop', $answer);
    cmp_ok($answer->header('Retry-After'), '>', 800, 'I11 is to wait');
    is(scalar $iam->requests, 3, 'I11 makes no call');
    $iam->script;
    $cdm->script;
}

# no such agency, or no right to assume it

{
    my $project = new_project();
    my ($answer, @asked) = stop_by('no_agency', $project);

    is_refused('I11 an agency that is refused', $answer);
    is(scalar @asked, 2, 'I11 the via once, the agency once');
    like(join("\n", lines_of($t, $project)),
        qr/\[alert\].* IAM refuses the gateway: status 403/,
        'I11 an agency that is refused, in the log');

    ($answer, @asked) = stop_by('no_agency', $project);
    is_refused('I11 it rests', $answer);
    is(scalar @asked, 0, 'I11 without a call');
}

# the via itself is refused

{
    my ($answer, @asked) = stop_by('no_via', new_project());

    is_refused('I11 a via with a wrong password', $answer);
    is(scalar @asked, 1, 'I11 the agency is not asked for');
    like($asked[0]{body}, qr/"password":/, 'I11 but its via');

    ($answer, @asked) = stop_by('no_via', new_project());
    is_refused('I11 the next stop', $answer);
    is(scalar @asked, 0, 'I11 makes no call while the via rests');
}


# both tokens of an agency live for a few seconds, under steady use

{
    my $project = new_project();
    my @life = (life => 4);
    my (%status, $wrong);

    $iam->set(@life);
    $iam->reset_log;
    $cdm->reset_log;
    my $issued = tokens();
    my $end = time + 9;

    while (time < $end) {
        my $r = $t->put_stop(project => $project, job => 'steady',
                             port => $t->port('short_agency'));
        $status{$r->{status}}++;
        sleep 0.1;
    }

    my %token = map { $_->{token} => $_ } $iam->tokens;

    for my $stop ($cdm->stops) {
        my $token = $token{$stop->header('X-Auth-Token')};
        $wrong++ if !$token || $stop->{time} > $token->{issued} + 4;
    }

    is_deeply([keys %status], [200], 'K02 an agency under steady use');
    is($wrong // 0, 0, 'K02 no stop with a token that has ended');

    my @via = grep { $_->{body} !~ /assume_role/ } $iam->posts;
    my @own = grep { $_->{body} =~ /assume_role/ } $iam->posts;

    cmp_ok(scalar @own, '>=', 3, 'K02 its token was renewed');
    cmp_ok(scalar @own, '<=', 5, 'K02 once for each life');
    cmp_ok(scalar @via, '>=', 2, 'K02 that of its via as well');
    cmp_ok(scalar @via, '<=', 5, 'K02 once for each life');

    my @waited = grep { $_->{stage} eq 'outcome' && $_->{wait_ms}
                        && $_->{job_name} eq 'steady' }
        $t->records('audit.jsonl');
    cmp_ok(scalar @waited, '<=', 1, 'K02 only the first stop waited');
}

$t->expect_log(qr/\[alert\].* IAM refuses the gateway: status 40[13]/);
$t->done;
