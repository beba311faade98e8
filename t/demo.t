#!/usr/bin/perl

# What "make demo" and "make run" do: the calls go through, nothing secret is
# shown, nothing is left behind.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(sleep time);

use CdmStop::Process;

my $demo = "$FindBin::Bin/demo";
my $limit = $ENV{TEST_NGINX_TIMEOUT} || 60;

my ($exit, $output) = CdmStop::Process::capture($demo, { timeout => $limit });

is($exit, 0, 'the demo succeeds') or diag($output);

# three calls, of which IAM sees one and CDM two

my @calls = $output =~ /^    (curl -X PUT \S+)$/gm;
is(scalar @calls, 3, 'three calls are shown');

my @iam = $output =~ /What IAM received\n    (\S+)/g;
is("@iam", 'POST nothing nothing', 'IAM is asked once');

my @cdm = $output =~ /What CDM received\n    (\S+)/g;
is("@cdm", 'PUT PUT nothing', 'CDM receives two of them');

my @shown = $output =~ /(?:X-Auth-Token|answer) +(.*)$/gm;
is(scalar @shown, 3, 'the token is shown at IAM and at CDM');
is(scalar(grep { $_ =~ /9,120 bytes, SHA-256 [0-9a-f]{16}\.\.\.$/ } @shown), 3,
    'as its length and a part of its digest');

# what is longest otherwise are the hashes of the chain
my ($longest) = sort { length $b <=> length $a }
    $output =~ s/(?:prev|hash)[": ]+[0-9a-f]{64}"//gr
        =~ /([A-Za-z0-9+=]{20,})/g;
cmp_ok(length($longest // ''), '<=', 36, 'no part of a token is shown');

unlike($output, qr/\e/, 'no colours in a pipe');

my @records = $output =~ /^      stage +"(\w+)"$/gm;
is("@records", 'intent outcome intent outcome refused', 'records of each call');


# the gateway stays until it is interrupted

pipe my $read, my $write or die "pipe: $!\n";

my $pid = CdmStop::Process::spawn(sub {
    open STDOUT, '>&', $write or die "stdout: $!\n";
    exec {$demo} $demo, '--run' or die "$demo: $!\n";
});

close $write;

my $text = '';
my $end = time + $limit;

# the call that it proposes, once the gateway has said all that it says first

$text .= read_more() until $text =~ /Ctrl-C/ || time > $end;

my ($url) = $text =~ /curl -i -X PUT (\S+)/;
my ($dir) = $text =~ m{Records +(\S+)/audit\.jsonl};

($exit, $output) = CdmStop::Process::capture('curl', '-sS', '-i', '-X', 'PUT',
    $url // '', { timeout => $limit });

like($output, qr{\AHTTP/1\.1 200 }, 'the proposed call goes through');

$text .= read_more() until $text =~ /"stage":"outcome"/ || time > $end;

like($text, qr/"stage":"intent".*\n.*"stage":"outcome"/,
    'its records are shown as they are written');

ok(-d ($dir // ''), 'the files are there as long as it runs');

kill 'INT', $pid;
is(CdmStop::Process::wait_for($pid, $limit), 0, 'an interrupt is a good end');
ok(!-e $dir, 'nothing is left behind') if defined $dir;

done_testing();


sub read_more {
    vec(my $ready = '', fileno $read, 1) = 1;
    select $ready, undef, undef, 0.2;

    return '' if !vec $ready, fileno $read, 1;

    sysread $read, my $bytes, 65536;
    return $bytes // '';
}
