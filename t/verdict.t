#!/usr/bin/perl

# What the gateway makes of CDM's answers: a 200 is no proof of a stop, and an
# error is not always a failure. Status and body reach the client as they are.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 512; }
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
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop    huawei;
            proxy_pass  http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_own%%;
        location /v1.1/ {
            cdm_stop         huawei;
            cdm_stop_inject  off;
            proxy_pass       http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

# the stand-in's answers by name: case, name, verdict, code, message

my $being = 'Job[jdbc2hive] is being submitted.';
my $not_running = 'Job jdbc2hive is not running.';
my $not_there = 'Job jdbc2hive does not exist.';
my $not_there_either = "Job[jdbc2hive] doesn't exist.";
my $iam_says = 'Incorrect IAM authentication information: ';

my @named = (
    [D01 => empty => 'stopped'],
    [D01 => object => 'stopped'],
    [D01 => spaced => 'stopped'],
    [D01 => list => 'stopped'],
    [D01 => submissions => 'stopped'],
    [D01 => error_entry => 'failed', undef, $being],
    [D01 => warning_entry => 'stopped', undef, $being],
    [D01 => mixed_entries => 'failed', undef, $being],

    [D02 => html_200 => 'unknown'],
    [D02 => cut_200 => 'unknown'],
    [D02 => no_list => 'unknown'],
    [D02 => twice => 'unknown'],

    [D04 => not_running => 'already_stopped', 'Cdm.0053', $not_running],
    [D04 => code_in_code => 'already_stopped', 'Cdm.0053', $not_running],
    [D04 => not_found => 'not_found', 'Cdm.0054', $not_there],
    [D04 => not_found_200 => 'not_found', 'Cdm.0054', $not_there],
    [D04 => not_found_0100 => 'not_found', 'Cdm.0100', $not_there_either],
    [D04 => not_found_500 => 'not_found', 'Cdm.0100', $not_there_either],
    [D04 => no_permission => 'denied', 'Cdm.0032', 'You do not have required '
        . 'permissions. Check your permissions on IAM.'],
    [D04 => code_00095 => 'failed', 'Cdm.00095', 'The name cannot be empty.'],
    [D04 => system_error => 'failed', 'Cdm.0000', 'System error.'],
    [D04 => internal_error => 'failed', 'Cdm.0036',
        'Internal error. Cause: null.'],
    [D04 => invalid_uri => 'failed', 'Cdm.0501', 'Invalid URI [/v1.1].'],

    [D08 => token_not_found => 'denied', 'APIGW.0301',
        $iam_says . 'x-auth-token not found'],
    [D08 => token_expired => 'denied', 'APIGW.0301',
        $iam_says . 'token expires, expires_at: 2026-01-04T09:05:22Z'],
    [D08 => token_must_update => 'denied', 'APIGW.0307',
        'The token must be updated.'],
    [D08 => apig_0301 => 'denied', 'APIG.0301',
        $iam_says . 'decrypt token fail'],
    [D08 => apig_0307 => 'denied', 'APIG.0307', 'The token must be updated.'],
    [D08 => keystone_401 => 'denied', undef, 'The X-Auth-Token is invalid!'],
    [D08 => keystone_401_string => 'denied', undef,
        'X-Auth-Token is invalid in the request'],
    [D04 => forbidden_0302 => 'denied', 'APIGW.0302',
        'The IAM user is not authorized to access the API'],
    [D08 => throttled => 'throttled', 'APIGW.0308', 'The throttling threshold '
        . 'has been reached: policy user over ratelimit,limit:1200,'
        . 'time:1 minute'],

    [D04 => api_not_exist => 'failed', 'APIGW.0101', 'The API does not exist '
        . 'or has not been published in the environment'],
    [D04 => too_large_494 => 'failed', 'APIGW.0201',
        'Request headers too large'],
    [D04 => internal_0601 => 'failed', 'APIGW.0601', 'Internal server error'],
    [D04 => iam_unavailable => 'failed', 'APIGW.0613',
        'The IAM service is currently unavailable'],
    [D12 => apig_502 => 'unknown', 'APIGW.0201', 'Backend unavailable'],
    [D12 => apig_504 => 'unknown', 'APIGW.0201', 'Backend timeout'],
    [D12 => html_502 => 'unknown'],
    [D12 => html_504 => 'unknown'],
);

# answers of our own: case, what, status, body, verdict, code, message

my $vr = '"validation-result"';
my $error = '{"message":"the error","status":"ERROR"}';
my $warning = '{"message":"the warning","status":"WARNING"}';
my $odd = '{"message":"the odd one","status":"INFO"}';

my @own_answers = (
    [D01 => 'line feed behind', 200, "{}\r\n", 'stopped'],
    [D01 => 'blanks alone', 200, "  \r\n", 'unknown'],
    [D01 => 'no submissions', 200, '{"submissions":[]}', 'stopped'],
    [D01 => 'a list and more', 200, qq({$vr:[],"request_id":"1"}), 'stopped'],
    [D01 => 'warning, then error', 200, "{$vr:[$warning,$error]}", 'failed',
        undef, 'the error'],
    [D01 => 'error, then warning', 200, "{$vr:[$error,$warning]}", 'failed',
        undef, 'the error'],
    [D01 => 'two errors', 200,
        qq({$vr:[$error,{"message":"second","status":"ERROR"}]}), 'failed',
        undef, 'the error'],
    [D01 => 'two warnings', 200, "{$vr:[$warning,$warning]}", 'stopped', undef,
        'the warning'],
    [D01 => 'error without a message', 200, qq({$vr:[{"status":"ERROR"}]}),
        'failed'],
    [D01 => 'error with a null message', 200,
        qq({$vr:[{"status":"ERROR","message":null}]}), 'failed'],
    [D01 => 'error behind many warnings', 200,
        "{$vr:[" . "$warning," x 100 . "$error]}", 'failed', undef,
        'the error'],
    [D01 => 'error among submissions', 200,
        qq({"submissions":[],$vr:[$error]}), 'failed', undef, 'the error'],
    [D01 => 'error spelled with escapes', 200,
        qq({"validation\\u002dresult":[{"status":"\\u0045RROR"}]}), 'failed'],

    [D02 => 'an entry of no known status', 200, "{$vr:[$odd]}", 'unknown',
        undef, 'the odd one'],
    [D02 => 'error behind an odd entry', 200, "{$vr:[$odd,$error]}", 'failed',
        undef, 'the error'],
    [D02 => 'error in lower case', 200, qq({$vr:[{"status":"error"}]}),
        'unknown'],
    [D02 => 'an entry without a status', 200, qq({$vr:[{"message":"m"}]}),
        'unknown', undef, 'm'],
    [D02 => 'entries that are strings', 200, qq({$vr:["ERROR"]}), 'unknown'],
    [D02 => 'an entry that is empty', 200, "{$vr:[{}]}", 'unknown'],
    [D02 => 'a null list', 200, "{$vr:null}", 'unknown'],
    [D02 => 'an object for the list', 200, "{$vr:$error}", 'unknown'],
    [D02 => 'a list of lists', 200, "{$vr:[[$error]]}", 'unknown'],
    [D02 => 'submissions that are no list', 200, '{"submissions":{}}',
        'unknown'],
    [D02 => 'another object', 200, '{"status":"ok"}', 'unknown'],
    [D02 => 'an array', 200, '[]', 'unknown'],
    [D02 => 'an array of the entry', 200, "[$error]", 'unknown'],
    [D02 => 'null', 200, 'null', 'unknown'],
    [D02 => 'a string', 200, '"stopped"', 'unknown'],
    [D02 => 'a number', 200, '0', 'unknown'],
    [D02 => 'true', 200, 'true', 'unknown'],
    [D02 => 'two objects', 200, '{}{}', 'unknown'],
    [D02 => 'something behind', 200, '{} ok', 'unknown'],
    [D02 => 'a byte order mark', 200, "\xef\xbb\xbf{}", 'unknown'],
    [D02 => 'a NUL behind', 200, "{}\0", 'unknown'],
    [D02 => 'UTF-16', 200, "{\0}\0", 'unknown'],
    [D02 => 'malformed UTF-8', 200, qq({$vr:[],"x":"\xff"}), 'unknown'],
    [D02 => 'a NUL in the status', 200, qq({$vr:[{"status":"WARNING\\u0000"}]}),
        'unknown'],
    [D02 => 'a key twice, deeper', 200,
        qq({$vr:[{"status":"ERROR","status":"WARNING"}]}), 'unknown'],
    [D02 => 'a key twice, one escaped', 200,
        qq({$vr:[],"validation\\u002dresult":[$error]}), 'unknown'],
    [D02 => 'deep nesting', 200, '[' x 30_000 . ']' x 30_000, 'unknown'],
    [D02 => 'deep nesting in a list', 200,
        "{$vr:" . '[' x 30_000 . ']' x 30_000 . '}', 'unknown'],
    [D02 => 'a code that is no string', 200, qq({$vr:[],"errCode":100}),
        'unknown'],
    [D02 => 'an error that is no object', 200, qq({$vr:[],"error":"no"}),
        'unknown'],
    [D02 => 'no code at all, null', 200, qq({$vr:[],"errCode":null}),
        'stopped'],
    [D02 => 'single quotes', 200, "{'validation-result':[]}", 'unknown'],
    [D02 => 'compressed unasked', 200, "\x1f\x8b\x08\x00" . '{}' x 10,
        'unknown'],

    (map { ([D04 => "not running, with $_", $_,
             '{"errCode":"Cdm.0053","externalMessage":"m"}', 'already_stopped',
             'Cdm.0053', 'm'],
            [D04 => "gone, with $_", $_,
             '{"errCode":"Cdm.0054","externalMessage":"m"}', 'not_found',
             'Cdm.0054', 'm'],
            [D04 => "gone by 0100, with $_", $_,
             '{"errCode":"Cdm.0100","externalMessage":"m"}', 'not_found',
             'Cdm.0100', 'm'],
            [D04 => "not permitted, with $_", $_,
             '{"errCode":"Cdm.0032","externalMessage":"m"}', 'denied',
             'Cdm.0032', 'm']) } 200, 400, 403, 404, 500, 502),

    [D04 => 'the code counts more than the list', 200,
        qq({$vr:[],"errCode":"Cdm.0053"}), 'already_stopped', 'Cdm.0053'],
    [D04 => 'any code in a 200', 200, '{"errCode":"Cdm.0036"}', 'failed',
        'Cdm.0036'],
    [D04 => 'a code of the gateway in a 200', 200,
        '{"error_code":"APIGW.0301","error_msg":"m"}', 'failed', 'APIGW.0301',
        'm'],
    [D04 => 'an error object in a 200', 200,
        '{"error":{"code":403,"message":"m"}}', 'failed', undef, 'm'],
    [D04 => 'errCode before code', 400,
        '{"code":"Cdm.0054","errCode":"Cdm.0053"}', 'already_stopped',
        'Cdm.0053'],
    [D04 => 'code where errCode is none of CDM', 400,
        '{"errCode":"x","code":"Cdm.0053"}', 'already_stopped', 'Cdm.0053'],
    [D04 => 'five digits are another code', 400, '{"errCode":"Cdm.00054"}',
        'failed', 'Cdm.00054'],
    [D04 => 'six digits', 400, '{"errCode":"Cdm.005400"}', 'failed',
        'Cdm.005400'],
    [D04 => 'lower case', 400, '{"errCode":"cdm.0054"}', 'failed', 'cdm.0054'],
    [D04 => 'a blank behind the code', 400, '{"errCode":"Cdm.0054 "}',
        'failed', 'Cdm.0054 '],
    [D04 => 'a number for a code', 400, '{"code":400,"message":"m"}', 'failed',
        undef, 'm'],
    [D04 => 'two codes of one name', 400,
        '{"errCode":"Cdm.0053","errCode":"Cdm.0036"}', 'failed'],
    [D04 => 'externalMessage before message', 400,
        '{"errCode":"Cdm.0036","message":"inner","externalMessage":"outer"}',
        'failed', 'Cdm.0036', 'outer'],
    [D04 => 'the code alone', 400, '{"errCode":"Cdm.0054"}', 'not_found',
        'Cdm.0054'],
    [D04 => '400 without a body', 400, '', 'failed'],
    [D04 => '400 as HTML', 400, '<html>', 'failed'],
    [D04 => '403 as HTML', 403, '<html>', 'denied'],
    [D04 => '403 with another code', 403, '{"errCode":"Cdm.0036"}', 'denied',
        'Cdm.0036'],
    [D04 => '404 as HTML', 404, '<html>', 'failed'],
    [D04 => '500 as HTML', 500, '<html>', 'unknown'],
    [D04 => '500 without a body', 500, '', 'unknown'],
    [D04 => '500 with a code', 500, '{"errCode":"Cdm.0000"}', 'failed',
        'Cdm.0000'],
    [D04 => '503 as HTML', 503, '<html>', 'unknown'],
    [D04 => '302', 302, '', 'unknown'],
    [D04 => '304', 304, '', 'unknown'],
    [D04 => '999', 999, '{}', 'unknown'],
    [D08 => '401 without a body', 401, '', 'denied'],
    [D08 => '429 without a body', 429, '', 'throttled'],
    [D12 => '502 with a code of CDM', 502, '{"errCode":"Cdm.0000"}', 'unknown',
        'Cdm.0000'],
    [D12 => '504 without a body', 504, '', 'unknown'],
    [D12 => '502 with an empty object', 502, '{}', 'unknown'],
);

my @rules;
my $n = 0;

for my $row (@named) {
    push @rules, { when => { job => 'n' . ++$n }, answer => $row->[1] };
}

for my $row (@own_answers) {
    push @rules, { when => { job => 'n' . ++$n }, status => $row->[2],
                   body => $row->[3] };
}

$cdm->script(@rules);
$t->start;

# a 401 to a token of the gateway is another matter: it is renewed
my $token = $t->ledger->token(400);
my @own = (port => $t->port('own'), headers => ['X-Auth-Token' => $token]);
my $app = CdmStop::Cdm::Application->new;
my @status = ((map { $app->named_answer($_->[1])->{status} } @named),
              map { $_->[2] } @own_answers);
my @answers = map {
    $t->put_stop(job => "n$_", $status[$_ - 1] == 401 ? @own : ())
} 1 .. $n;
my %record;

for my $r ($t->wait_records('audit.jsonl', 2 * $n)) {
    push @{$record{$r->{job_name}}{$r->{stage}}}, $r;
}

my $at = 0;

for my $row (@named) {
    my ($id, $name, @verdict) = @$row;
    my $answer = $app->named_answer($name);

    check("$id $name", $answer->{status}, $answer->{body}, @verdict);
}

check("$_->[0] $_->[1]", @$_[2 .. 6]) for @own_answers;

is($cdm->count, $n, 'D04 each stop was sent once');
is(scalar($iam->posts), 1, 'D08 no answer of CDM made the gateway ask again '
   . 'for a token');

# One row: what the client got, and what the records say of it.

sub check {
    my ($name, $status, $body, $verdict, $code, $message) = @_;

    my $r = $answers[$at++];
    my $records = $record{"n$at"};
    my ($intent, $outcome) = map { $_->[0] } @$records{qw(intent outcome)};

    subtest $name => sub {
        $body =~ s/%%REQUEST_ID%%/$outcome->{upstream_request_id}/;
        $body = '' if $status == 304;

        is($r->{status}, $status, 'the status');
        ok($r->{body} eq $body, 'the body, byte for byte');
        is($r->{malformed}, undef, 'well framed');

        is(join(' ', map { scalar @{$records->{$_} // []} }
                     qw(intent outcome refused)), '1 1 0', 'one pair');
        is($outcome->{request_id}, $intent->{request_id}, 'joined');
        is($r->header('X-Request-Id'), $intent->{request_id}, 'by the id that '
           . 'the client got');

        is($outcome->{verdict}, $verdict, "verdict $verdict");
        is($outcome->{cdm_code}, $code, 'the code');
        is($outcome->{cdm_message}, $message, 'the message');
        is($outcome->{status}, $status, 'status of the record');
        is($outcome->{upstream_status}, $status, 'status of CDM');
        is($outcome->{error_code}, undef, 'no code of the gateway');
        is($outcome->{attempts}, 1, 'one attempt');
        is($outcome->{bytes}, length $body, 'the bytes');
    };
}

subtest 'D08 the caller brought the token' => sub {
    my $posts = $iam->posts;

    $cdm->reset_log;
    $cdm->script(
        { when => { job => 'refused' }, answer => 'apig_0301' },
        { when => { job => 'busy' }, answer => 'throttled',
          headers => ['Retry-After' => '17'] });

    my $r = $t->put_stop(job => 'refused', @own);
    is($r->{status}, 401, 'a 401 passes');
    is($r->json->{error_code}, 'APIG.0301', 'with its body');

    my $busy = $t->put_stop(job => 'busy', @own);
    is($busy->{status}, 429, 'a 429 passes');
    is($busy->header('Retry-After'), '17', 'with its Retry-After');

    is(join(' ', map { $_->header('X-Auth-Token') } $cdm->requests),
       "$token $token", 'both were sent once, with that token');
    is($iam->posts, $posts, 'IAM was not asked');

    my $refused = $t->records_of('audit.jsonl', $r->header('X-Request-Id'));
    is($refused->{outcome}{verdict}, 'denied', 'denied');
    is($refused->{outcome}{attempts}, 1, 'once');
    like($refused->{intent}{client_token}, qr/\S/, 'the caller\'s fingerprint');
    is($refused->{intent}{injected_token}, undef, 'and none of the gateway');

    my $throttled = $t->records_of('audit.jsonl',
                                   $busy->header('X-Request-Id'));
    is($throttled->{outcome}{verdict}, 'throttled', 'throttled');
};

$t->done;
