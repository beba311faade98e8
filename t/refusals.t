#!/usr/bin/perl

# A stranger who sends stops that are refused, without pause: beyond a hundred
# a second of a worker they are counted and summed up in one record, none is
# forgotten, and the disk, IAM and everybody else's stops are left in peace.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use List::Util qw(sum0);
use Time::HiRes qw(time);

use CdmStop::Disk;
use CdmStop::Test;

use constant { MAX => 100, FLOOD => 2000 };

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $fault = CdmStop::Disk->new(test => $t);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    keepalive_requests 100000;
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

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/33333333333333333333333333333333/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/other.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/44444444444444444444444444444444/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/first.jsonl;
            cdm_stop_audit  /dev/full best_effort;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/55555555555555555555555555555555/ {
            cdm_stop        huawei;
            cdm_stop_audit  off;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$fault->start;

# Bad stops, one behind the other on one connection: one worker gets them all.
# Targets are taken in turn. Returns how many were answered as they should be.

sub flood {
    my ($n, @projects) = @_;

    my @requests = map {
        CdmStop::Http::build_request(method => 'GET', keepalive => 1,
                                     target => $t->stop_target(project => $_))
    } @projects ? @projects : $t->PROJECT;

    my $answers = $t->raw(join('', map { $requests[$_ % @requests] } 1 .. $n),
                          expect => $n) ? 1 : 0;

    return $answers && $t->{last_connection}{timed_out} ? 0 : $n;
}

my %at;

# Waits until the records since the last call stand for n refusals: how many
# have one of their own, and the summaries.

sub told {
    my ($file, $n) = @_;

    my $path = $t->path($file);
    my (@single, @summary);

    $t->wait_for(sub {
        my $bytes = -e $path ? substr($t->read($file), $at{$file} // 0) : '';
        $bytes =~ s/[^\n]+\z//;
        my @refused = grep { $_->{stage} eq 'refused' }
            CdmStop::Test::Records::parse_lines($bytes, $file);

        @single = grep { !exists $_->{summary} } @refused;
        @summary = grep { exists $_->{summary} } @refused;

        return @single + sum0(map { $_->{summary} } @summary) >= $n;
    }, what => "records of $n refusals", quiet => 1);

    $at{$file} = -s $path;

    return (scalar @single, @summary);
}

subtest 'Q05 as many as are recorded one by one' => sub {
    is(flood(MAX), MAX, 'refusals in a row');
    my ($single, @summary) = told('audit.jsonl', MAX);
    is($single, MAX, 'each has its record');
    is(scalar @summary, 0, 'and there is no other');
};

subtest 'Q05 a flood' => sub {
    my ($posts, $bytes) = (scalar $iam->posts, $cdm->bytes);
    my $began = time;

    is(flood(FLOOD), FLOOD, 'all are answered');
    my ($single, @summary) = told('audit.jsonl', FLOOD);
    my $took = time - $began;

    cmp_ok($single, '<=', MAX * (int($took) + 2), 'few have a record');
    cmp_ok(scalar @summary, '>=', 1, 'the others are summed up');
    cmp_ok(scalar @summary, '<=', $took + 2, 'once a second');
    is($single + sum0(map { $_->{summary} } @summary), FLOOD,
       'and none is forgotten');

    for my $r (@summary) {
        is(join(' ', grep { !/\A(?:chain|seq|prev|hash)\z/ } sort keys %$r),
           'since stage summary time v', 'a summary tells');
        cmp_ok($r->{since}, 'le', $r->{time}, 'since when');
    }

    is(scalar $iam->posts, $posts, 'IAM was not asked');
    is($cdm->bytes, $bytes, 'not one byte at CDM');
};

subtest 'Q05 a stop in the midst of it' => sub {
    my $sent = 0;
    my @floods = map {
        $sent += FLOOD;
        $t->connect->send(CdmStop::Http::build_request(
            method => 'GET', keepalive => 1, target => $t->stop_target)
            x FLOOD);
    } 1 .. 2;

    my @ids;

    for my $i (1 .. 20) {
        my $r = $t->put_stop(job => "amid$i");
        is($r->{status}, 200, 'a stop goes');
        push @ids, $r->header('X-Request-Id');
    }

    $_->responses(FLOOD) for @floods;
    $_->close for @floods;

    my ($single, @summary) = told('audit.jsonl', $sent);
    is($single + sum0(map { $_->{summary} } @summary), $sent,
       'the flood is told');

    my %stages;
    push @{$stages{$_->{request_id} // '-'}}, $_->{stage}
        for $t->records('audit.jsonl');
    is(join(' ', map { join '+', @{$stages{$_} // []} } @ids),
       join(' ', ('intent+outcome') x @ids), 'and each stop has its pair');
};

subtest 'Q05 locations with the same file and with another one' => sub {
    my $n = 3 * MAX;

    # both before the second is over, or once more
    for (1 .. 10) {
        my $began = time;
        flood($n, '1' x 32, '2' x 32);
        flood(1, '3' x 32);
        my ($single, @summary) = told('audit.jsonl', $n);
        my ($other, @others) = told('other.jsonl', 1);

        is($single + sum0(map { $_->{summary} } @summary), $n, 'all are told');
        is("$other " . @others, '1 0', 'another file is not concerned');

        next if time - $began > 2;
        cmp_ok($single, '<=', 3 * MAX - 1, 'one count for one file');
        last;
    }

    is(flood(3 * MAX, '5' x 32), 3 * MAX, 'and none where records are off');
};

subtest 'Q05 the worker ends before the second does' => sub {
    for my $how ('reload', 'stop') {
        is(flood(FLOOD), FLOOD, "$how: a flood");
        $how eq 'reload' ? $t->reload : $t->stop;

        my ($single, @summary) = told('audit.jsonl', FLOOD);
        is($single + sum0(map { $_->{summary} } @summary), FLOOD,
           'all are told');
    }

    $fault->start;
};

subtest 'Q05 a summary that cannot be written' => sub {
    my $n = 5 * MAX;

    $fault->set('write full refused');
    flood($n);
    $t->wait_for(sub { $t->error_log =~ /could not be written to/ },
                 what => 'the alert');
    is(scalar(grep { exists $_->{summary} }
              map { CdmStop::Test::Records::parse_line($_, 'x') }
              split /\n/, substr $t->read('audit.jsonl'), $at{'audit.jsonl'}),
       0, 'nothing is written');
    $fault->mend;

    # those that were to have a record are lost, as counted; the others wait
    my ($single, @summary) = told('audit.jsonl', $n - 4 * MAX);
    my $sum = sum0(map { $_->{summary} } @summary);
    is($single, 0, 'later');
    cmp_ok($sum, '>=', MAX, 'the summary comes');
    cmp_ok($sum, '<=', $n - MAX, 'with what it had counted');
};

$t->expect_log(qr/\[alert\] .*audit record could not be written to "\S+"/);
$t->expect_log(qr/\[alert\] .*\d+ refused stops have no audit record/);

subtest 'Q05 one of two targets takes no summary' => sub {
    my $n = 5 * MAX;

    flood($n, '4' x 32);
    my ($single, @summary) = told('first.jsonl', $n);
    is($single + sum0(map { $_->{summary} } @summary), $n,
       'the other has it');

    # and not again with the next one
    flood(1, '4' x 32);
    ($single, @summary) = told('first.jsonl', 1);
    is("$single " . @summary, '1 0', 'once');
};

$t->done;
