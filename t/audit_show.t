#!/usr/bin/perl

# cdm-stop-audit show: filters, and texts that must not act on a terminal.

use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use CdmStop::MadeChain;

my $tool = "$FindBin::Bin/../build/cdm-stop-audit";
die "$tool is missing: run make\n" unless -x $tool;

my $dir = tempdir('cdm-stop-show-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $chain = CdmStop::MadeChain->new;

$chain->stop(job_name => 'etl_1', principal => 'ann');
$chain->tick(100);
my $id = $chain->stop(job_name => 'etl_2', principal => 'bob',
    verdict => 'failed');
$chain->tick(100);
$chain->stop(job_name => "nightly\xe2\x80\xae\xc2\x9b1\xe4\xbd\xa0",
    principal => 'x\u001b[31m\u202e');
$chain->add('refused', ',"summary":7,"since":"2026-01-01T00:00:00Z"');

write_file('f', $chain->lines);

my $all = show();
is(() = $all =~ /\n/g, 4, 'one line for a stop and one for a summary');
like($all, qr/^\S+Z  stopped  job=etl_1  by=ann  from=10.1.2.3  status=200/m,
    'who, what, why and result');
like($all, qr/refusals=7/, 'a summary of refusals');

is(jobs('--job', '^etl_'), 'etl_1 etl_2', '--job');
is(jobs('--job', '2$'), 'etl_2', '--job at the end of the name');
is(jobs('--user', 'ann'), 'etl_1', '--user');
is(jobs('--verdict', 'failed'), 'etl_2', '--verdict');
is(jobs('--stage', 'intent', '--job', 'etl'), 'etl_1 etl_2', '--stage');
is(jobs('--request-id', $id), 'etl_2 etl_2', '--request-id: both records');
is(jobs('--until', '2026-09-21T14:14:00Z'), 'etl_1', '--until');
is(jobs('--since', '2026-09-21T14:14:00Z', '--until', '2026-09-21T14:16:00Z'),
    'etl_2', '--since and --until');

my ($odd) = $all =~ /^(.*nightly.*)$/m;
like($odd, qr/job=nightly\\xe2\\x80\\xae\\xc2\\x9b1\xe4\xbd\xa0  by=x/,
    'what turns a text or controls a terminal is inert, Chinese is not');
unlike($all, qr/\e|\xe2\x80\xae/, 'no escape sequence on a pipe');

my $json = show('--json', '--job', 'nightly');
is(() = $json =~ /\n/g, 2, '--json: the records');
unlike($json, qr/[^\x20-\x7e\n]/, '--json is ASCII');

write_file('f', $chain->lines, "no record\n");
show();
is($? >> 8, 1, 'a line of no record: exit status 1');
show('--job', '(');
is($? >> 8, 2, 'a pattern that is none: exit status 2');
show('--since', 'yesterday');
is($? >> 8, 2, 'a time that is none: exit status 2');

done_testing();


sub jobs {
    return join ' ', show(@_) =~ /job=(\w+)/g;
}


sub show {
    open my $out, '-|', 'sh', '-c', 'exec "$@" 2>/dev/null', 'sh', $tool,
        'show', @_, "$dir/f" or die "$tool: $!\n";
    local $/;
    my $text = <$out> // '';
    close $out;

    return $text;
}


sub write_file {
    my ($name, @lines) = @_;

    open my $fh, '>:raw', "$dir/$name" or die "$dir/$name: $!\n";
    print $fh @lines;
    close $fh or die "$dir/$name: $!\n";
}
