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

    my $id = $answer->header('X-Request-Id');
    my $records = $t->wait_for(sub {
        my @own = grep { $_->{request_id} eq $id } $t->records('audit.jsonl');
        return @own == 2 ? \@own : undef;
    });

    for my $record (@$records) {
        is_deeply([@$record{qw(decision rule error_code)}],
            [$decision, $rule, $code],
            "A12 $name: the $record->{stage}, as if enforced");
        ok(defined $record->{enforced} && !$record->{enforced},
            "A12 $name: which it is not");
    }
}

my $answer = $t->put_stop(
    headers => [['X-Auth-Token', $t->ledger->token(300, register => 0)]]);
is($answer->{status}, 401, 'A12 a bad token while injecting');
like($answer->{body}, qr/CDMSTOP\.0102/, 'A12 its code');

$answer = $t->put_stop(target => $t->stop_target . '/');
is($answer->{status}, 400, 'A12 a malformed target');
like($answer->{body}, qr/CDMSTOP\.0001/, 'A12 its code');

$t->allow_log(qr/\[warn\]/);
$t->done;
