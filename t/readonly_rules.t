#!/usr/bin/perl

# What decides is on pages that no worker can write to: the copies of a rule's
# text and range that lie elsewhere have no say, and a write into a rule ends
# the worker, not the rule.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Fault;
use CdmStop::Test;

no warnings 'portable';

# the default terminates on a signal with a report: here the signal is wanted
local $ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // (), 'handle_segv=0';

my $t = CdmStop::Test->new;
my ($iam, $cdm) = ($t->iam, $t->cdm);
$cdm->script({ answer => 'object' });

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { }
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
    cdm_stop_policy org {
        deny   frozen_by_name   job=needle_of_a_job,another;
        deny   frozen_by_range  addr=127.0.0.0/9  job=by_range;
        deny   frozen_by_start  job=~^needle_of_a_start;
        allow  all_the_rest;
    }
    cdm_stop                    huawei;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_inject             off;
    cdm_stop_insecure_upstream  on;
    cdm_stop_enforce            org;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
    add_header X-Rule "$cdm_stop_rule" always;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

my $fault = CdmStop::Fault->new($t);
$fault->run(sub { $t->start });

# Of a process the places where the bytes are, as [address, writable]; what is
# larger than any configuration is left out, as are files and stacks.

sub places {
    my ($pid, $bytes) = @_;

    my @places;

    open my $maps, '<', "/proc/$pid/maps" or die "maps of $pid: $!\n";
    open my $mem, '<:raw', "/proc/$pid/mem" or die "memory of $pid: $!\n";

    for (<$maps>) {
        my ($from, $to, $write) =
            /\A([0-9a-f]+)-([0-9a-f]+) r(.).. \S+ 00:00 0\s*(?:\[heap\])?\s*\z/
            or next;
        $_ = hex for $from, $to;
        next if $to - $from > 64 * 1024 * 1024;

        sysseek $mem, $from, 0 or next;
        sysread $mem, my $text, $to - $from or next;

        while ($text =~ /\Q$bytes\E/g) {
            push @places, [$from + $-[0], $write eq 'w'];
        }
    }

    return @places;
}

sub decisions {
    my ($name) = @_;

    my %rule = (needle_of_a_job => 'frozen_by_name',
                by_range => 'frozen_by_range',
                needle_of_a_start_1 => 'frozen_by_start',
                free => 'all_the_rest');

    for my $job (sort keys %rule) {
        my $answer = $t->put_stop(job => $job);

        is($answer->header('X-Rule'), $rule{$job}, "$name: $job");
        is($answer->{status}, $job eq 'free' ? 200 : 403,
            "$name: $job is answered so");
    }

    return;
}

decisions('K12 at first');

my %of = (
    "the rule's name" => 'frozen_by_name',
    'the value' => 'needle_of_a_job',
    'the range' => pack('C8', 127, 0, 0, 0, 255, 128, 0, 0),
    'the beginning' => 'needle_of_a_start',
);
my ($worker) = $t->worker_pids;
my %at;

for my $what (sort keys %of) {
    my @places = places($worker, $of{$what});
    my @writable = map { $_->[0] } grep { $_->[1] } @places;

    ($at{$what}) = map { $_->[0] } grep { !$_->[1] } @places;
    ok($at{$what}, "K12 $what lies on a read-only page");

    # what is found elsewhere is not what decides
    open my $mem, '+<:raw', "/proc/$worker/mem" or die "memory: $!\n";

    for my $address (@writable) {
        sysseek $mem, $address, 0 or die "memory: $!\n";
        syswrite $mem, 'X' x length $of{$what} or die "memory: $!\n";
    }

    diag("$what: " . @writable . ' other places')
        if $ENV{TEST_NGINX_VERBOSE};
}

decisions('K12 with all other copies overwritten');

for my $what (sort keys %of) {
    my ($before) = $t->worker_pids;

    $fault->put('poke', sprintf '%x', $at{$what});
    eval { $t->put_stop(job => 'free') };

    $t->wait_for(sub {
        my @now = $t->worker_pids;
        @now == 1 && $now[0] != $before;
    }, what => 'a new worker');
    ok($fault->fired, "K12 a write into $what ends the worker");
}

decisions('K12 after the writes');

# it was about to write a record
$t->expect_log(qr/\[alert\] .* exited on signal 11/);
$t->expect_log(qr/\[alert\] .* "cdm_stop_audit .* was locked by/);
$t->done;
