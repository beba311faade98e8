#!/usr/bin/perl

# A dry run decides and records as if it refused, and refuses nothing for
# policy or reason; what is wrong with the request itself is refused still.

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
    cdm_stop huawei;
    cdm_stop_verify optional;
    cdm_stop_anonymous on;
    cdm_stop_dry_run on;
    cdm_stop_enforce org;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    cdm_stop_policy org { deny frozen job=frozen; allow x job=x; }
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    server {
        listen 127.0.0.1:%%PORT%%;
        location = /status { cdm_stop_status; }
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_rate%%;
        cdm_stop_rate 1/m;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    # CDM gets the callers' own tokens here
    server {
        listen 127.0.0.1:%%PORT_own%%;
        cdm_stop_verify required;
        cdm_stop_inject off;
        cdm_stop_reason X-Reason;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_missing%%;
        cdm_stop_anonymous off;
        cdm_stop_principal $http_x_who;
        cdm_stop_inject missing;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_reason%%;
        cdm_stop_reason X-Reason;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC
$t->start;


sub records_of {
    my ($answer, $n) = @_;

    my $id = $answer->header('X-Request-Id');

    return @{ $t->wait_for(sub {
        my @own = grep { $_->{request_id} eq $id } $t->records('audit.jsonl');
        return @own == ($n // 2) ? \@own : undef;
    }) };
}

my @cases = (
    ['a deny rule', '', 'frozen', 'deny', 'frozen', 'CDMSTOP.0201'],
    ['by default', '', 'y', 'deny', undef, 'CDMSTOP.0201'],
    ['an allow rule', '', 'x', 'allow', 'x', undef],
    ['no reason', 'reason', 'x', 'deny', 'x', 'CDMSTOP.0004'],
    ['a rule, and no reason', 'reason', 'frozen', 'deny', 'frozen',
        'CDMSTOP.0201'],
);

for my $case (@cases) {
    my ($name, $port, $job, $decision, $rule, $code) = @$case;

    my $answer = $t->put_stop(port => $t->port($port), job => $job);
    is($answer->{status}, 200, "A12 $name: forwarded");

    for my $record (records_of($answer)) {
        is_deeply([@$record{qw(decision rule error_code)}],
            [$decision, $rule, $code],
            "A12 $name: the $record->{stage}, as if enforced");
        ok(defined $record->{enforced} && !$record->{enforced},
            "A12 $name: which it is not");
    }
}

subtest 'A12 a rate that is used up' => sub {
    my @own = map { records_of($t->put_stop(port => $t->port('rate'),
        job => 'x')) } 1 .. 2;
    my @refused = grep { $_->{stage} eq 'intent'
        && ($_->{error_code} // '') eq 'CDMSTOP.0205' } @own;

    is(scalar @own, 4, 'all are sent');
    is_deeply([map { [@$_{qw(decision rule)}] } @refused], [['deny', 'x']],
        'one would not have been');
};

subtest 'A12 callers that are not identified' => sub {
    my $bad = $t->ledger->token(300, register => 0);
    my $other = $iam->add_token(user => 'ann', domain => 'acme',
        project => '00000000000000000000000000000001');
    $t->ledger->add("a caller's token", $other);

    my @not = (
        ['own', 'no token', undef, '0101', undef],
        ['own', 'a bad token', $bad, '0102', undef],
        ['own', 'a token of another project', $other, '0202', 'ann@acme'],
        ['missing', 'a bad token that CDM gets', $bad, '0102', undef],
    );

    for my $case (@not) {
        my ($port, $name, $token, $code, $principal) = @$case;

        my $before = $cdm->requests;
        my $answer = $t->put_stop(port => $t->port($port), job => 'x',
            headers => [['X-Reason', 'because'],
                        defined $token ? ['X-Auth-Token', $token] : ()]);
        my @sent = $cdm->requests;
        my @tokens = map { $_->all('X-Auth-Token') }
            @sent[$before .. $#sent];

        is(scalar @sent, $before + 1, "$name: forwarded");
        ok(join(',', @tokens) eq ($token // ''),
            "$name: with what the caller sent");

        for my $record (records_of($answer)) {
            is_deeply([@$record{qw(decision rule principal)},
                    $record->{enforced} ? 1 : 0],
                ['deny', undef, $principal, 0],
                "$name: the $record->{stage}");
            is($record->{error_code}, "CDMSTOP.$code",
                "$name: what would have been answered");
            is($record->{reason}, $port eq 'own' ? 'because' : undef,
                "$name: the reason");
        }
    }

    my $answer = $t->put_stop(port => $t->port('missing'), job => 'x');
    is($answer->json->{error_code}, 'CDMSTOP.0101',
        'nobody gets the gateway\'s token by lacking one');
    my ($record) = records_of($answer, 1);
    is($record->{stage}, 'refused', 'which is recorded');
};

my $answer = $t->put_stop(
    headers => [['X-Auth-Token', $t->ledger->token(300, register => 0)]]);
is($answer->{status}, 401, 'A12 a bad token while injecting');
like($answer->{body}, qr/CDMSTOP\.0102/, 'A12 its code');

$answer = $t->put_stop(target => $t->stop_target . '/');
is($answer->{status}, 400, 'A12 a malformed target');
like($answer->{body}, qr/CDMSTOP\.0001/, 'A12 its code');

$t->allow_log(qr/\[warn\]/);
$t->done;
