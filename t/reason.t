#!/usr/bin/perl

# A stop has to say why: the header is mandatory, is recorded as it is, and has
# to match; a reason that will not do is refused before anything is sent.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

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
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    large_client_header_buffers 4 100k;
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
        cdm_stop_reason X-Stop-Reason;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_ticket%%;
        cdm_stop_reason X-Stop-Reason ~^CHG-[0-9]+:;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    cdm_stop_policy none { deny all; }
    server {
        listen 127.0.0.1:%%PORT_denied%%;
        cdm_stop_reason X-Stop-Reason;
        cdm_stop_enforce none;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_named%%;
        cdm_stop_reason X-Stop-Reason;
        cdm_stop_anonymous off;
        cdm_stop_principal $http_x_who;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_slow%%;
        cdm_stop_reason X-Stop-Reason ~^(a+)+$;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC
$t->start;


sub records_for {
    my ($answer, $n) = @_;

    my $id = $answer->header('X-Request-Id');
    my $found = $t->wait_for(sub {
        my @own = grep { $_->{request_id} eq $id } $t->records('audit.jsonl');
        return @own >= $n ? \@own : undef;
    });

    return @$found;
}

sub stop {
    my ($port, @values) = @_;

    return $t->put_stop(port => $t->port($port),
                        headers => [map { ['X-Stop-Reason', $_] } @values]);
}

my @bad = (
    ['missing', ''],
    ['empty', '', ''],
    ['sent twice', '', 'one', 'two'],
    ['sent twice, the same', '', 'one', 'one'],
    ['64 KB', '', 'x' x 65536],
    ['513 bytes', '', 'x' x 513],
    ['an escape', '', "a\x1b[31mb"],
    ['a C1 control', '', "a\xc2\x9bb"],
    ['not UTF-8', '', "a\xffb"],
    ['not matching', 'ticket', 'because'],
    ['not matching at its start', 'ticket', 'x CHG-1: y'],
    ['backtracking', 'slow', ('a' x 400) . 'b'],
);

for my $case (@bad) {
    my ($name, $port, @values) = @$case;

    my $before = $cdm->counters->{requests};
    my $answer = stop($port, @values);

    # nginx itself refuses some control characters
    if ($answer->{body} !~ /CDMSTOP/) {
        is($answer->{status}, 400, "H14 $name: refused by nginx");
        next;
    }

    is($answer->{status}, 400, "H14 $name: refused");
    like($answer->{body}, qr/"CDMSTOP\.0004"/, "H14 $name: the code");

    my ($record) = records_for($answer, 1);
    is_deeply([@$record{qw(stage error_code decision reason)}],
        ['refused', 'CDMSTOP.0004', 'deny', undef], "H14 $name: the record");
    is($cdm->counters->{requests}, $before, "H14 $name: nothing sent");
}

subtest 'H14 the caller\'s token as a reason' => sub {
    my $token = $t->ledger->token(300, register => 0);
    my $before = $cdm->counters->{requests};
    my $answer = $t->put_stop(headers => [
        ['X-Auth-Token', $token], ['X-Stop-Reason', "I am $token, stop it"]]);

    is($answer->{status}, 400, 'refused');
    my ($record) = records_for($answer, 1);
    is_deeply([@$record{qw(error_code reason)}], ['CDMSTOP.0004', undef],
        'and not recorded');
    is($cdm->counters->{requests}, $before, 'nothing sent');
};

my @good = (
    ['', 'disk is full'], ['', 'x' x 512], ['', "say \"no\" \\ \xe2\x82\xac"],
    ['ticket', 'CHG-17: rollback'], ['slow', 'aaa'],
);

for my $case (@good) {
    my ($port, $reason) = @$case;
    my $name = 'H14 "' . substr($reason, 0, 20) . '"';
    my $answer = stop($port, $reason);

    is($answer->{status}, 200, "$name: served");

    my ($intent, $outcome) = records_for($answer, 2);
    my $text = $reason;
    utf8::decode($text);

    is($_->{reason}, $text, "$name: in the $_->{stage}")
        for $intent, $outcome;
}

subtest 'H14 a stop that the policy denies' => sub {
    my $answer = stop('denied', 'because');
    my ($record) = records_for($answer, 1);

    is_deeply([@$record{qw(stage error_code reason)}],
        ['refused', 'CDMSTOP.0201', 'because'], 'is recorded with its reason');
};

subtest 'H14 a caller that is not identified' => sub {
    my $answer = stop('named', 'because');
    my ($record) = records_for($answer, 1);

    is_deeply([@$record{qw(stage error_code reason decision)}],
        ['refused', 'CDMSTOP.0101', 'because', undef], 'as well');
};

is(scalar(grep { /x-stop-reason/i }
              map { JSON::PP->new->allow_blessed->encode({%$_}) }
              $cdm->requests), 0, 'the reason is for the record, not for CDM');
like(JSON::PP->new->allow_blessed->encode({%{ ($cdm->requests)[0] }}),
    qr/content-length/i, 'whose headers are seen here');

$t->allow_log(qr/\[warn\]/);
$t->done;
