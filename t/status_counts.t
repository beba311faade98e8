#!/usr/bin/perl

# What the gateway counts is what its callers, CDM and IAM counted: many mixed
# requests over four workers, with reloads in their midst.
# TEST_NGINX_REQUESTS=100000 for many more, TEST_NGINX_SEED to see one again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Client;
use CdmStop::Metrics;
use CdmStop::Test;

my $requests = $ENV{TEST_NGINX_REQUESTS} || 2_000;
my $seed = $ENV{TEST_NGINX_SEED} || time;

use constant BATCH => 50;

srand $seed;
diag("TEST_NGINX_SEED=$seed") if $ENV{TEST_NGINX_VERBOSE};

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 4;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 4 40k;
    cdm_stop_zone cdm:4m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop_policy org {
        deny   frozen  job=~^prod;
        allow  ann     principal=ann;
        allow  bob     principal=bob@acme;
    }
    cdm_stop_insecure_upstream  on;
    cdm_stop_enforce            org;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        server_name gateway;

        location /v1.1/ {
            cdm_stop            huawei;
            cdm_stop_verify     off;
            cdm_stop_principal  $http_x_principal;
            proxy_pass          http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop     huawei;
            proxy_pass   http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/33333333333333333333333333333333/ {
            cdm_stop     huawei;
            deny         all;
            proxy_pass   http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status { cdm_stop_status; }
    }
}
EOC

# From now on CDM refuses the token that IAM issued last.

sub expire {
    my ($token) = grep { $_->{project} ne '2' x 32 } reverse $iam->tokens;

    $cdm->add_script({
        when => { job => qr/^expired/,
                  header => { 'X-Auth-Token' => $token->{token} } },
        answer => 'token_expired' });
}

$cdm->script(
    { when => { job => qr/^ended/ }, answer => 'not_running' },
    { when => { job => qr/^gone/ }, answer => 'not_found' },
    { when => { job => qr/^may_not/ }, answer => 'no_permission' },
    { when => { job => qr/^too_many/ }, answer => 'throttled' },
    { when => { job => qr/^warns/ }, answer => 'error_entry' },
    { when => { job => qr/^cut/ }, reset => 'after_request' },
);

$t->start;

is($t->put_stop(headers => ['X-Principal' => 'ann'])->{status}, 200,
   'the first stop');
expire();

my $metrics = CdmStop::Metrics->new($t);

# tokens of callers of the second location

my $two = '2' x 32;
my @good = map {
    $iam->add_token(user => 'bob', domain => 'acme', project => $two,
                    roles => [])
} 1 .. 5;
my @bad = map { $t->ledger->token(200) } 1 .. 5;

# what is sent, and what has to be counted for it

my @kinds = (
    (map {
        my ($job, $verdict) = @$_;
        { job => $job, principal => 'ann', rule => 'ann', sent => 1,
          verdict => $verdict }
    } ['ok', 'stopped'], ['ok', 'stopped'], ['ended', 'already_stopped'],
      ['gone', 'not_found'], ['may_not', 'denied'],
      ['too_many', 'throttled'], ['warns', 'failed'], ['expired', 'stopped']),
    { job => 'cut', principal => 'ann', rule => 'ann', sent => 1,
      verdict => 'unknown', code => '0402' },
    { job => 'prod', principal => 'ann', rule => 'frozen', deny => 1,
      code => '0201' },
    { job => 'ok', principal => 'eve', rule => '', deny => 1,
      code => '0201' },
    { job => 'ok', code => '0101' },
    { job => 'a%2Fb', principal => 'ann', code => '0001' },
    { job => 'ok', principal => 'ann', method => 'POST', code => '0003' },
    { job => 'ok', principal => 'ann', headers => ['Early-Data' => 1],
      code => '0006' },
    { job => 'ok', project => $two, tokens => \@good, rule => 'bob',
      sent => 1, verdict => 'stopped' },
    { job => 'ok', project => $two, tokens => \@bad, code => '0102' },
    { job => 'ok', project => '3' x 32, code => 'other' },
);

my %want = (cdm => 1, verdict => { stopped => 1 },
            rule => { ann => { allow => 1 } });
my $sent = 1;
my @samples;
my $reloads = 0;

while ($sent < $requests) {
    my @handles;

    for (1 .. BATCH) {
        my $kind = $kinds[rand @kinds];
        my @headers = @{$kind->{headers} // []};

        push @headers, 'X-Principal' => $kind->{principal}
            if $kind->{principal};
        push @headers, 'X-Auth-Token' => $kind->{tokens}[rand 5]
            if $kind->{tokens};

        push @handles, $t->start_stop(
            method => $kind->{method} // 'PUT', headers => \@headers,
            job => $kind->{job} . (++$sent),
            $kind->{project} ? (project => $kind->{project}) : ());

        $want{verdict}{$kind->{verdict} // 'not_sent'}++;
        $want{code}{$kind->{code}}++ if $kind->{code};
        $want{cdm}++ if $kind->{sent};
        $want{rule}{$kind->{rule}}{$kind->{deny} ? 'deny' : 'allow'}++
            if defined $kind->{rule};
    }

    # while they are under way
    if (++$reloads <= 2 || $sent > $requests / 2 && $reloads < 100) {
        kill 'HUP', $t->master_pid;

        if ($reloads > 2) {
            $reloads = 100;
            expire();
        }
    }

    CdmStop::Client::collect(\@handles, timeout => $t->{timeout});
    $want{status}{$_->{responses}[0] ? $_->{responses}[0]{status} : 'none'}++
        for @handles;
    $_->close for @handles;

    push @samples, $metrics->text if $sent % (BATCH * 8) == 1;
}

is($want{status}{none}, undef, 'each request got an answer');

# all old workers are gone, with what they counted, and summaries are written

$t->wait_for(sub { $t->worker_pids(all => 1) == 4 }, what => 'old workers');
$t->wait_for(sub {
    my $n = 0;
    $n += $_->{summary} // 1
        for grep { $_->{stage} eq 'refused' } $t->records('audit.jsonl');
    $n == $want{verdict}{not_sent};
}, what => 'summaries of refusals', quiet => 1);

my $m = $metrics->text;
my $json = $metrics->json;
push @samples, $m;


subtest 'Q01 stops' => sub {
    is($metrics->sum($m, 'cdm_stop_stops_total'), $sent, 'Q01 all of them');

    is($metrics->sum($m, 'cdm_stop_stops_total', verdict => $_),
       $want{verdict}{$_} // 0, "Q01 verdict $_")
        for qw(stopped failed already_stopped not_found denied throttled
               unknown not_sent);

    is($metrics->sum($m, 'cdm_stop_errors_total',
                     code => /\d/ ? "CDMSTOP.$_" : $_),
       $want{code}{$_}, "Q01 code $_") for sort keys %{$want{code}};

    my $codes = 0;
    $codes += $_ for values %{$want{code}};
    is($metrics->sum($m, 'cdm_stop_errors_total'), $codes, 'Q01 and no others');
};


subtest 'Q01 decisions' => sub {
    my $all = 0;

    for my $rule (sort keys %{$want{rule}}) {
        for my $decision (sort keys %{$want{rule}{$rule}}) {
            my $n = $want{rule}{$rule}{$decision};

            is($metrics->sum($m, 'cdm_stop_decisions_total', rule => $rule,
                             decision => $decision), $n,
               "Q01 $decision by " . ($rule || 'default'));
            $all += $n;
        }
    }

    is($metrics->sum($m, 'cdm_stop_decisions_total'), $all,
       'Q01 and no others');
    is($json->{totals}{decisions}{none}, $sent - $all, 'Q01 the rest');
};


subtest 'Q01 CDM and IAM' => sub {
    is($metrics->sum($m, 'cdm_stop_cdm_requests_total'), $cdm->count,
       'Q01 requests that CDM got');
    is($metrics->sum($m, 'cdm_stop_cdm_repeats_total'),
       $cdm->count - $want{cdm}, 'Q01 of them, sent again');
    cmp_ok($cdm->count - $want{cdm}, '>', 0, 'Q01 some were');
    is($metrics->sum($m, 'cdm_stop_cdm_requests_total', status => 'none'),
       $want{verdict}{unknown}, 'Q01 without an answer');
    is($metrics->sum($m, 'cdm_stop_cdm_duration_seconds_count'), $cdm->count,
       'Q01 the histogram');

    is($metrics->sum($m, 'cdm_stop_iam_requests_total', purpose => 'issue'),
       scalar(() = $iam->posts), 'Q01 tokens that IAM issued');
    is($metrics->sum($m, 'cdm_stop_iam_requests_total', purpose => 'verify'),
       scalar(() = $iam->gets), 'Q01 questions that IAM got');
    is($metrics->sum($m, 'cdm_stop_iam_duration_seconds_count'), $iam->count,
       'Q01 the histogram');
};


subtest 'Q01 records' => sub {
    my %records;
    $records{$_->{stage}}++ for my @records = $t->records('audit.jsonl');

    my ($summaries, $summed) = (0, 0);
    $_->{summary} and $summaries++, $summed += $_->{summary} for @records;

    is($records{outcome}, $want{cdm}, 'Q01 outcomes');
    is($metrics->sum($m, 'cdm_stop_audit_records_written_total'),
       scalar @records, 'Q01 records written');
    is($metrics->sum($m, 'cdm_stop_audit_refusals_summed_up_total'), $summed,
       'Q01 refusals that were summed up');
    is($records{refused} - $summaries + $summed, $want{verdict}{not_sent},
       'Q01 refusals');
    is($metrics->sum($m, 'cdm_stop_audit_records_lost_total'), 0,
       'Q01 none was lost');
    is($metrics->sum($m, 'cdm_stop_audit_open_stops'), 0, 'Q01 none is open');
};


subtest 'Q01 no counter ever fell, and buckets add up' => sub {
    my @fell;

    for my $i (1 .. $#samples) {
        for my $key (keys %{$samples[$i - 1]}) {
            push @fell, "$key: sample $i"
                if $key =~ /_(?:total|bucket|count|sum)\b/
                && $samples[$i]{$key} < $samples[$i - 1]{$key};
        }
    }

    is("@fell", '', 'Q01 over ' . @samples . ' samples');

    for my $key (grep { /_bucket\{.*le="\+Inf"/ } keys %$m) {
        (my $count = $key) =~ s/_bucket\{/_count{/;
        $count =~ s/,?le="\+Inf"//;
        $count =~ s/\{\}//;
        is($m->{$key}, $m->{$count}, "Q01 $count");
    }
};


subtest 'Q01 the JSON says the same' => sub {
    is($json->{totals}{stops}, $sent, 'Q01 stops');
    is_deeply(
        { map { $_ => $json->{totals}{verdicts}{$_} } keys %{$want{verdict}} },
        $want{verdict}, 'Q01 verdicts');
    is($json->{cdm}{requests}, $cdm->count, 'Q01 CDM');

    my $n = 0;
    $n += $_->{count} for @{$json->{rules}};
    is($n, $metrics->sum($m, 'cdm_stop_decisions_total'), 'Q01 rules');

    # more than an hour if it is 100,000 under valgrind
    my $minutes = 0;
    $minutes += $_
        for map { @{$json->{hour}{$_}} } qw(allow deny none);
    is($minutes, $sent, 'Q01 the last hour');

    is(scalar(grep { $_->{attempts} } @{$json->{last}}), 64,
       'Q01 the last that were sent');
    is(scalar(grep { !$_->{attempts} } @{$json->{last}}), 64,
       'Q01 the last that were refused');
    is(join(' ', map { $_->{time} } @{$json->{last}}),
       join(' ', sort { $b <=> $a } map { $_->{time} } @{$json->{last}}),
       'Q01 newest first');
};

is_deeply([$metrics->promtool($metrics->get->{body})], [], 'promtool is quiet');

# each that was cut
$t->allow_log(qr/recv\(\) failed|upstream prematurely closed/);
$t->allow_log(qr/access forbidden by rule/);
$t->done;
