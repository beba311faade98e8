#!/usr/bin/perl

# So many stops a minute for one caller, over all workers: what is beyond gets
# 429 with Retry-After and does not reach CDM; others are not concerned.

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
worker_processes 4;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop huawei;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_principal $http_x_who;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop_policy org { deny eve principal=eve; allow rest; }
    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop_rate 1/m burst=9;
        cdm_stop_enforce org;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_quick%%;
        cdm_stop_rate 60/m;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC
$t->start;


sub stops {
    my ($n, %arg) = @_;

    my $who = delete $arg{who};
    my @headers = defined $who ? (headers => [['X-Who', $who]]) : ();

    return $t->finish(map { $t->start_stop(@headers, %arg) } 1 .. $n);
}

sub statuses {
    my %count;
    $count{$_->{status}}++ for @_;
    return \%count;
}

# the token is there before
$t->put_stop(headers => [['X-Who', 'first']]);
my $before = $cdm->counters->{requests};

my @answers = stops(40, who => 'ann');
is_deeply(statuses(@answers), { 200 => 10, 429 => 30 },
    'ten of forty at once over four workers');
is($cdm->counters->{requests} - $before, 10, 'CDM gets these alone');

my ($late) = grep { $_->{status} == 429 } @answers;
like($late->{body}, qr/"CDMSTOP\.0205"/, 'the code');
cmp_ok($late->header('Retry-After'), '>', 20, 'Retry-After: about a minute');
cmp_ok($late->header('Retry-After'), '<=', 61, 'and no more than that');

is_deeply(statuses(stops(1, who => 'bob')), { 200 => 1 },
    'another caller goes on');
is_deeply(statuses(stops(1, who => '127.0.0.1')), { 200 => 1 },
    'who is named like an address');
is_deeply(statuses(stops(11)), { 200 => 10, 429 => 1 },
    'who has no name is known by the address, not by such a name');

is_deeply(statuses(stops(12, who => 'eve')), { 403 => 12 },
    'what the policy denies is not counted, nor told of a rate');

my %seen;
$seen{$_->{stage}}++ for grep { ($_->{error_code} // '') eq 'CDMSTOP.0205' }
    $t->wait_records('audit.jsonl', sub {
        31 == grep { ($_->{error_code} // '') eq 'CDMSTOP.0205' } @_;
    });
is_deeply(\%seen, { refused => 31 }, 'each of them has a record');

subtest 'it runs out again' => sub {
    my $port = $t->port('quick');

    is_deeply(statuses(stops(1, who => 'zoe', port => $port)), { 200 => 1 },
        'a first one');
    ok($t->wait_for(sub {
        my ($answer) = stops(1, who => 'zoe', port => $port);
        return $answer->{status} == 200;
    }), 'and one later');
};

subtest 'many callers' => sub {

    # more than there are buckets, while the gateway's token stays
    my $posts = scalar $iam->posts;

    for my $round (1 .. 20) {
        my @got = $t->finish(map {
            $t->start_stop(headers => [['X-Who', "u$round-$_"]])
        } 1 .. 50);
        my $count = statuses(@got);
        is_deeply($count, { 200 => 50 }, "round $round") or last;
    }

    is(scalar $iam->posts, $posts, 'IAM is asked for no other token');
};

subtest 'a reload' => sub {
    $t->reload;
    my ($answer) = stops(1, who => 'ann');
    is($answer->{status}, 429, 'forgets nobody');
};

$t->allow_log(qr/\[warn\]/);
$t->done;
