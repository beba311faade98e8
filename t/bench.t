#!/usr/bin/perl

# The benchmark does what it says, with so few requests that no figure means
# anything: each gateway does its work, each figure is there, and the clients
# count the time that a stalled gateway lets requests wait.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time);

use CdmStop::Bench::Bed;
use CdmStop::Bench::Charts;
use CdmStop::Bench::Measure;
use CdmStop::Bench::Modes;
use CdmStop::Bench::Report;
use CdmStop::Bench::Run;
use CdmStop::Process;
use CdmStop::Test;

my @modes = CdmStop::Bench::Modes::names();
my @gateways = grep { $_ ne 'direct' } @modes;
my %few = (modes => \@modes, rounds => 2, cpu => 20, throughput => 0.02,
           latency => 0.02, rate => 1000, warm => 20);


# TCP, all that is measured in rounds

my $tcp = CdmStop::Bench::Run::run(%few, memory => 20);

is($tcp->{run}{refused}, 0, 'CDM got the token with each stop');
cmp_ok($tcp->{run}{stops}, '>', 40 * @gateways, 'and got stops');

for my $name (@gateways) {
    my $of = $tcp->{modes}{$name};

    is_deeply([map { scalar @{$of->{$_} // []} }
                   qw(cpu_us rps busy p50_us p99_us p999_us)], [(2) x 6],
        "$name: a figure of each measure for each round");
    is(scalar(grep { $_ <= 0 } map { @{$of->{$_}} }
                  qw(cpu_us rps busy p50_us p99_us p999_us)), 0,
        "$name: none is zero");
    cmp_ok($of->{pss}, '>', 1e6, "$name: memory of the worker");
    ok(exists $of->{connection} && exists $of->{kernel},
        "$name: memory of a stop in flight, the kernel's part");
}

is(scalar @{$tcp->{modes}{direct}{p99_us}}, 2, 'without a gateway: latency');
cmp_ok($tcp->{modes}{$_}{token} // 0, '>=', 4000, "$_: memory of a token")
    for qw(inject lua);
cmp_ok($tcp->{modes}{auth_request}{disk}, '>', 4000,
    'auth_request: the token is in a file of the cache');


# TLS, in which nothing but the connections differs

my $tls = CdmStop::Bench::Run::run(%few, tls => 1, rounds => 1);

is($tls->{run}{refused}, 0, 'TLS: CDM got the token with each stop');
is(scalar(grep { !@{$tls->{modes}{$_}{rps} // []} } @modes), 0,
    'TLS: a figure of each gateway');


# counting tools; callgrind runs no binary that has a sanitizer in it

my @traced = qw(inject);
my $asan = CdmStop::Test->new->{asan};
my $traced = CdmStop::Bench::Run::run(
    modes => \@traced, warm => 5, syscalls => 20,
    instructions => $asan ? 0 : 5);

for my $name (@traced) {
    my $of = $traced->{modes}{$name};

    cmp_ok($of->{syscalls}{recvfrom}, '>=', 2, "$name: system calls");
    cmp_ok($of->{instructions}, '>', 10_000, "$name: instructions")
        if !$asan;
    $tcp->{modes}{$name}{$_} = $of->{$_} for keys %$of;
}


# tables and charts

my %table = map { $_->{id} => $_ } CdmStop::Bench::Report::tables($tcp);

is_deeply([sort keys %table],
    [sort qw(cpu position load memory syscalls), $asan ? () : 'instructions'],
    'each table is there');

for my $id (qw(cpu load memory)) {
    my $text = CdmStop::Bench::Report::text($table{$id});

    is(scalar(grep {
        $text !~ /^\Q${\ CdmStop::Bench::Modes::get($_)->{title} }\E /m
    } @gateways), 0, "$id: each gateway has its row");
    is(scalar(grep { @$_ != @{$table{$id}{head}} } @{$table{$id}{rows}}), 0,
        "$id: each row has each column");
}

my $page = "x\n<!-- bench tcp cpu -->\nold\n<!-- end -->\ny\n";
my $made = CdmStop::Bench::Report::put($page, 'tcp', $tcp);

like($made, qr/\Ax\n<!-- bench tcp cpu -->\n\n\| gateway \|.*\|\n\n<!-- end/s,
    'a table is put into a page');
unlike($made, qr/old/, 'in place of the one that was there');
is(CdmStop::Bench::Report::put($made, 'tcp', $tcp), $made,
    'and again, which changes nothing');

like(CdmStop::Bench::Report::put(
        "<!-- bench tcp verdict -->\n<!-- end -->\n", 'tcp', $tcp),
    qr/^- \*\*ours, everything\*\* takes \d+\.\d\d times the CPU of nginx/m,
    'and in words where ours stands');

CdmStop::Bench::Report::tables($traced);
my $told = CdmStop::Bench::Report::put(
    "<!-- bench tcp gateways -->\n<!-- end -->\n", 'tcp', $traced);

is_deeply([sort keys %{$traced->{modes}}], [sort @traced],
    'no table makes a mode out of nothing');
like($told, qr/^\| ours, injecting \| `cdm_stop` with /m,
    'what a gateway does is told');
unlike($told, qr/HAProxy/, 'of those that ran');

my %svg = CdmStop::Bench::Charts::charts($tcp, 'TCP');

is_deeply([sort keys %svg], [qw(cpu latency load)], 'each chart is there');
like($_, qr{\A(?:<\?xml[^>]*>\s*)?<svg .*ours, everything.*</svg>\s*\z}s,
    'a chart has the gateways') for values %svg;


# the client

my $bed = CdmStop::Bench::Bed->new(warm => 20);
my $plain = $bed->start('plain');

# CDM answers nothing before all of 100 requests at 200 a second were due;
# most are sent later, for there are 4 connections, and nothing but the time
# from when they were due shows that they had to wait

kill USR1 => $bed->{cdm};
my $out = $bed->write('stalled.out', '');
my $start = time;
my $pid = CdmStop::Process::run_in_background(
    [$bed->load_command($plain, rate => 200, seconds => 0.5,
                        connections => 4)], stdout => $out);
my $m = CdmStop::Bench::Measure->new(bed => $bed);

$bed->{t}->wait_for(sub { $m->at_cdm >= 4 && time > $start + 0.6 },
    what => 'the time in which 100 requests are due');
kill USR2 => $bed->{cdm};
CdmStop::Process::wait_for($pid, 60);

my $stalled = JSON::PP::decode_json($bed->read($out));
is($stalled->{good}, 100, 'stalled: each request was answered');
cmp_ok($stalled->{p50}, '>=', 200_000,
    'stalled: the latency of half of them is that of the stall');

# whoever sends another token does no work

$bed->stop($plain);
my $right = $bed->{token};
$bed->{token} = $bed->{caller};
ok(!eval { $bed->start('plain_log'); 1 }, 'wrong token: no figure');
like($@, qr/only 0 of 20 answers had status 200/, 'wrong token: and says so');
$bed->{token} = $right;

my ($answers, $refused) = $bed->end;
is($refused, 20, 'wrong token: CDM refused each stop');
is($answers, 140, 'and counted all');

done_testing();
