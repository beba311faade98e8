#!/usr/bin/perl

# The bounds of what is counted: rules beyond a number, many identities, names
# that come and go with reloads, a worker that is killed, no master.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Metrics;
use CdmStop::Test;

use constant {
    RULES => 1100,
    MAX => 1024,
    IDENTITIES => 70,
    BATCH => 50,
};

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

sub conf {
    my (%arg) = @_;

    my $rules = join '', map { "        allow rule$_ job=job$_;\n" }
        1 .. RULES;
    my $identities = join '', map { <<"EOC" } 1 .. $arg{identities};
    cdm_stop_iam identity$_ {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on; projects any;
        domain acme; user user$_; password_file %%TESTDIR%%/secrets/password;
    }
EOC
    my $location = $arg{location} // '/v1.1/';
    my $status = $arg{status} // 'location = /status { cdm_stop_status; }';
    my $processes = $arg{processes} // 'worker_processes 4;';

    return <<"EOC";
%%GLOBALS%%
$processes
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
$identities
    cdm_stop_policy org {
$rules
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_enforce            org;

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        server_name gateway;
        location $location {
            cdm_stop        identity1;
            cdm_stop_audit  %%TESTDIR%%/$arg{audit}.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        $status
    }
}
EOC
}

$iam->set(users => { acme => { map { ("user$_" => $t->{password}) }
                               1 .. IDENTITIES } });

my $metrics = CdmStop::Metrics->new($t);

sub stops {
    my (@jobs) = @_;

    my $served = 0;

    while (my @some = splice @jobs, 0, BATCH) {
        $served += grep { $_ && $_->{status} == 200 }
            $t->finish(map { $t->start_stop(job => $_) } @some);
    }

    return $served;
}

sub sets {
    my ($m) = @_;

    return scalar grep { /\Acdm_stop_decisions_total/ } keys %$m;
}

$t->config(conf(identities => IDENTITIES, audit => 'a'));
$t->start;


subtest 'more rules than are kept apart' => sub {
    # each twice, the second time not by the same worker
    for my $round (1, 2) {
        is(stops(map { "job$_" } 1 .. RULES), RULES, "round $round: served");
    }

    my $m = $metrics->text;
    is(sets($m), MAX + 1, 'as many sets of labels as there may be, and other');
    is($metrics->sum($m, 'cdm_stop_decisions_total'), 2 * RULES,
       'no decision is lost');

    my ($other) = grep { /rule="other"/ } keys %$m;
    is($m->{$other}, 2 * (RULES - MAX), 'what is beyond is other');
    is(scalar(grep { /\Acdm_stop_decisions_total/ && $m->{$_} != 2
                     && $_ ne $other } keys %$m), 0, 'the rest is exact');

    is($t->put_stop(job => 'none')->{status}, 403, 'another, that is denied');
    $m = $metrics->text;
    is($metrics->sum($m, 'cdm_stop_decisions_total', rule => 'other',
                     decision => 'deny'), 1, 'is other by its decision');

    my $json = $metrics->json;
    is(scalar @{$json->{rules}}, MAX + 2, 'the JSON has the same');
    is_deeply([$metrics->promtool($metrics->get->{body})], [], 'promtool');
};


subtest 'more identities than are kept apart' => sub {
    my $m = $metrics->text;
    my @of = grep { /\Acdm_stop_iam_requests_total.*purpose="issue",result="ok"/
    } keys %$m;

    is(scalar @of, 65, '64 and other');
    is($metrics->sum($m, 'cdm_stop_iam_requests_total', result => 'ok'), 1,
       'one token was issued');
    is(scalar(grep { /\Acdm_stop_iam_up\{/ } keys %$m), IDENTITIES,
       'what is looked at is told of each');
};


subtest 'names that come and go' => sub {
    my $before = $metrics->text;

    $t->config(conf(identities => 1, audit => 'b', location => '~ ^/v1'));
    $t->reload;
    is(stops('job1', 'job2'), 2, 'in another location, to another file');

    my $m = $metrics->text;
    is($m->{"cdm_stop_audit_records_written_total{target=\"$t->{dir}/$_\"}"},
       $_ eq 'b.jsonl' ? 4 : 4 * RULES + 1, "records of $_")
        for qw(a.jsonl b.jsonl);
    is(scalar(grep { /\Acdm_stop_audit_up/ } keys %$m), 1,
       'only what is configured is looked at');
    is($metrics->sum($m, 'cdm_stop_decisions_total', rule => 'other')
       - $metrics->sum($before, 'cdm_stop_decisions_total', rule => 'other'),
       2, 'the labels were all taken');
    is($metrics->sum($m, 'cdm_stop_stops_total')
       - $metrics->sum($before, 'cdm_stop_stops_total'), 2, 'counters go on');
};


subtest 'without the status, and with it again' => sub {
    $t->config(conf(identities => 1, audit => 'b', status => ''));
    $t->reload;
    is(stops('job3'), 1, 'a stop without it');

    $t->config(conf(identities => 1, audit => 'b', location => '= /x'));
    $t->reload;
    my $m = $metrics->text;
    is($metrics->sum($m, 'cdm_stop_stops_total'), 0, 'it counts anew');

    $t->config(conf(identities => 1, audit => 'b', location => '~ ^/v1'));
    $t->reload;
    is(stops('job4'), 1, 'a stop with it');
    my ($decision) = grep { /\Acdm_stop_decisions_total/ }
        keys %{$metrics->text};
    like($decision, qr{location="~ \^/v1",policy="org",rule="rule4"},
         'its labels');
};


subtest 'workers that are killed' => sub {
    my $before = $metrics->sum($metrics->text, 'cdm_stop_stops_total');

    for my $pid ($t->worker_pids) {
        $t->kill_worker($pid);
    }

    $t->wait_for(sub { $t->worker_pids == 4 }, what => 'new workers');
    is(stops(map { "job$_" } 1 .. 50), 50, 'stops are served');

    my $m = $metrics->text;
    is($m->{cdm_stop_workers}, 4, 'the dead are not among the workers');
    is($metrics->sum($m, 'cdm_stop_stops_total') - $before, 50,
       'counters go on');
};

$t->allow_log(qr/exited on signal 9/);


subtest 'no master' => sub {
    my $single = CdmStop::Test->new(log => 'info');
    my $other = CdmStop::Metrics->new($single);

    $single->{password} = $t->{password};
    $single->write_secret('secrets/password', $t->{password});
    $single->{ports} = { %{$t->{ports}} };
    delete $single->{ports}{''};

    $single->config(conf(identities => 1, audit => 'c',
                         processes => 'master_process off;'));
    $single->start;
    $single->wait_for(sub { eval { $other->json } }, what => 'nginx');

    is($single->put_stop(job => 'job1')->{status}, 200, 'a stop');

    my $json = $other->json;
    is($json->{workers}, 1, 'one process');
    is($json->{totals}{stops}, 1, 'a stop is counted');
    is($json->{audit}[0]{written}, 2, 'so are its records');
    is($json->{ready}{ok}, JSON::PP::true, 'ready');
    $single->stop;
    $single->{passed} = 1;
};

$t->done;
