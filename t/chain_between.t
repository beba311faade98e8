#!/usr/bin/perl

# What others do to the file of records after a worker looked at it and before
# it writes: the chain stays whole, and no record is part of a torn line.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Chain;
use CdmStop::Fault;
use CdmStop::H2;
use CdmStop::Http;
use CdmStop::MadeChain;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $fault = CdmStop::Fault->new($t);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    add_header                  X-Worker $pid always;

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        listen 127.0.0.1:%%PORT_H2%% reuseport http2;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            cdm_stop_audit  %%TESTDIR%%/stalled.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/44444444444444444444444444444444/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/shared.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/55555555555555555555555555555555/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/cut.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$fault->run(sub { $t->start });

sub chain {
    my ($file) = @_;

    return CdmStop::Chain->new->add($file, $t->read($file));
}

sub is_whole {
    my ($name, $file) = @_;

    my $chain = chain($file);
    is(join("\n", $chain->troubles), '', "$name: the chain is whole");

    return $chain;
}

# a piece of a line, behind which a record would be no line

$t->put_stop(job => 'first');

for my $stage (qw(intent outcome)) {
    $fault->bytes('{"piece');
    $fault->put('append', $stage);
    is($t->put_stop(job => "behind-$stage")->{status}, 200,
       "A04 a piece before an $stage");
    ok($fault->fired, 'A04 a piece: it was there');

    my ($broken) = reverse grep { /^\{"piece/ } split /\n/,
                   $t->read('audit.jsonl');
    like($broken, qr/\A\{"piece\{.*\}\z/,
         'A04 a piece: the record that came behind it is torn');

    my ($last) = reverse grep { $_->{stage} eq $stage }
                 is_whole('A04 a piece', 'audit.jsonl')->records;
    is($last->{torn}, length $broken, 'A04 a piece: the next record tells');
}

# a line of another instance, as while the binary is upgraded

my @shared = (project => '4' x 32);
my $other = CdmStop::MadeChain->new;

my @lines = map {
    $other->add('refused', qq(,"summary":$_,"since":"2026-01-01T00:00:00.000Z"))
} 1, 2;

$t->put_stop(@shared);

for my $stage (qw(intent outcome)) {
    $fault->bytes(shift @lines);
    $fault->put('append', $stage);
    is($t->put_stop(@shared)->{status}, 200,
       "W03 a line of another chain before an $stage");
    ok($fault->fired, 'W03 another chain: it was there');
}

my $chain = is_whole('W03 another chain', 'shared.jsonl');
is(scalar $chain->ids, 2, 'W03 both chains are there');
is(scalar(grep { $_->{torn} } $chain->records), 0,
   'W03 another chain: nothing is torn');

# the file is cut by somebody: the chain goes on, and its numbers tell

my @cut = (project => '5' x 32);
$t->damages('cut.jsonl');
$t->put_stop(@cut) for 1 .. 3;

my $seq = ($t->records('cut.jsonl'))[-1]{seq};

for my $stage (qw(intent outcome)) {
    $fault->put('cut', $stage);
    is($t->put_stop(@cut)->{status}, 200, "A07 cut at an $stage");
    ok($fault->fired, 'A07 cut: it was');
    is($t->put_stop(@cut)->{status}, 200, 'A07 cut: it goes on');

    my @records = $t->records('cut.jsonl');
    my $first = $stage eq 'intent' ? $seq + 1 : $seq + 2;
    is(join(' ', map { $_->{seq} } @records),
       join(' ', $first .. $records[-1]{seq}),
       'A07 cut: no number is missing or used twice behind it');
    is($records[0]{stage}, $stage, 'A07 cut: the record is the first');
    $seq = $records[-1]{seq};
}

# Two stops come to a worker at once.  It looks at the file for the first one
# and is held up at another file; the other worker writes to the first file and
# is killed before it could tell; then the second stop has its turn, before any
# worker looks again: the master, which starts one, is held up as well.

my @two = (project => '2' x 32);
$t->put_stop(@two);     # gets the token
my $h2 = $t->h2(port => $t->port('H2'));
my $first = $h2->response($h2->request(
    headers => [$t->h2_stop_headers(job => 'who')]))->header('X-Worker');
my $client;

for (1 .. 100) {
    my $c = $t->connect;
    my ($r) = $c->send(stop('who'))->responses(1);
    next if $r->header('X-Worker') eq $first;
    $client = $c;
    last;
}

ok($client, 'each worker has a connection');

sub stop {
    my ($job) = @_;

    return CdmStop::Http::build_request(
        method => 'PUT', target => $t->stop_target(job => $job),
        keepalive => 1);
}

$t->expect_log(qr/\[alert\] .*worker process \d+ exited on signal 9/);
$t->expect_log(qr/\[alert\] .*zone "cdm_stop_audit \S+ \w+" was locked by/);
$t->allow_log(qr/open socket #\d+ left in connection/);
# lines are torn by what somebody appended
$t->damages('audit.jsonl');

$fault->put('stall', 'stalled.jsonl');

my @ids = @$h2{qw(next_id)};
push @ids, $ids[0] + 2;
my $bytes = join '', map {
    CdmStop::H2::frame_bytes(
        CdmStop::H2::HEADERS,
        CdmStop::H2::END_STREAM | CdmStop::H2::END_HEADERS, $ids[$_],
        CdmStop::H2::Hpack::encode(
            $t->h2_stop_headers(job => "at-once-$_", @two)))
} 0, 1;
$h2->{streams}{$_} = CdmStop::H2::new_stream($_) for @ids;
$h2->{next_id} = $ids[1] + 2;
$h2->send($bytes);

$t->wait_for(sub { $fault->fired }, what => 'a worker that is held up');

kill 'STOP', $t->master_pid;
$fault->put('kill_after', 'intent');
$client->send(stop('killed'));
$t->wait_for(sub { is_killed() }, what => 'the other worker to be killed');

sub is_killed { return $t->read('audit.jsonl') =~ /"job_name":"killed"/ }

$fault->go;
$t->wait_for(sub { $fault->went }, what => 'the worker to go on');
kill 'CONT', $t->master_pid;

is(join(' ', map { $_->{status} } $h2->collect(@ids)), '200 200',
   'W01 both stops are answered');

$t->wait_for(sub { !chain('audit.jsonl')->open },
             what => 'the end of the killed one');

$chain = is_whole('W01 killed between a look and a record', 'audit.jsonl');
is(join(' ', map { "$_->{stage} $_->{verdict}" }
             grep { ($_->{job_name} // '') eq 'killed' && $_->{verdict} }
             $chain->records),
   'outcome unknown', 'W01 the stop of the killed worker has its end');

$h2->close;
$client->close;

$t->done;
