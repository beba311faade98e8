#!/usr/bin/perl

# cdm-stop-audit verify with files that are bad in a way nobody thought of: by
# chance, too long, or without any record. It never says that they are whole,
# never dies, and needs no more memory.
#
# TEST_DAMAGES is the number of random damages, 300 by default; TEST_SEED makes
# them those of an earlier run.

use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use CdmStop::MadeChain;
use CdmStop::Process;

my $tool = "$FindBin::Bin/../build/cdm-stop-audit";
die "$tool is missing: run make\n" unless -x $tool;

my $dir = tempdir('cdm-stop-damage-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $damages = $ENV{TEST_DAMAGES} || 300;
my $seed = $ENV{TEST_SEED} || time;
my $chain = CdmStop::MadeChain->new(key => 'k' x 32);
my ($private, $public) = CdmStop::MadeChain::keypair();

srand $seed;
$chain->checkpoint($private);
$chain->stop(job_name => "\xe4\xbd\xa0\\u597d", principal => 'ann')
    for 1 .. 6;
$chain->checkpoint($private);

my $whole = join '', $chain->lines;
my @verify = ($tool, 'verify', '--key', "$dir/key", '--public-key', $public,
    '--head', $chain->head, "$dir/file");

write_file('key', 'k' x 32);


# a change of bytes, or of lines

my @kinds = (
    sub { substr $_[0], place($_[0]), 1, chr int rand 256 },
    sub { substr $_[0], place($_[0]), 1 + rand 40, '' },
    sub { substr $_[0], place($_[0]), 0, bytes() },
    sub { substr $_[0], place($_[0]), 0, "\n" },
    sub { substr $_[0], place($_[0]), length $_[0], '' },
    sub { my $at = place($_[0]); my $bit = 1 << int rand 8;
          substr $_[0], $at, 1, chr(ord(substr $_[0], $at, 1) ^ $bit) },
    sub { $_[0] = lines($_[0], sub { splice @_, rand @_, 1; @_ }) },
    sub { $_[0] = lines($_[0], sub { splice @_, rand @_, 0, $_[rand @_];
                                     @_ }) },
    sub { $_[0] = lines($_[0], sub { my $line = splice @_, rand @_, 1;
                                     splice @_, rand @_, 0, $line; @_ }) },
    sub { $_[0] =~ s/(,"\w+":(?:"[^"]*"|\d+))(?=,"stage)/$1$1/ },
    sub { $_[0] =~ s/"etl_\K\d/\\ud800/ },
    sub { $_[0] =~ s/\n/\r\n/g },
    sub { $_[0] .= bytes() },
);
my (@whole, @other);

for my $n (1 .. $damages) {
    my $text = $whole;
    $kinds[$n % @kinds]->($text) for 0 .. rand 2;
    next if $text eq $whole;

    write_file('file', $text);
    my ($exit, $said) = CdmStop::Process::capture(@verify);
    push @whole, $n if $exit == 0;
    push @other, "$n: $exit" if $exit != 0 && $exit != 1;
}

write_file('file', $whole);
is((CdmStop::Process::capture(@verify))[0], 0, 'Q06 without damage it is whole')
    or diag((CdmStop::Process::capture(@verify))[1]);
is("@whole", '', "Q06 no damage of $damages goes unseen (TEST_SEED=$seed)");
is("@other", '', 'Q06 and the tool does not fail of it');


# files without a record, each within 64 MB

for (['one line of 1 GB', '', "\n"], ['the same without an end', '', ''],
    ['records, and 1 GB without an end', $whole, ''])
{
    my ($name, $before, $after) = @$_;

    open my $out, '>:raw', "$dir/file" or die "$dir/file: $!\n";
    print $out $before;
    truncate $out, length($before) + 1024 ** 3 or die "truncate: $!\n";
    seek $out, 0, 2;
    print $out $after;
    close $out or die "$dir/file: $!\n";

    my ($exit, $said) = CdmStop::Process::capture(
        'sh', '-c', 'ulimit -v 65536; exec "$@"', 'sh', @verify);
    is($exit, 1, "Q06 $name") or diag($said);
    like($said, qr/it is longer than any record/, "Q06 $name: is told");
}

for (['zeros', "\0" x 100_000], ['empty lines', "\n" x 100_000],
    ['braces', '{' x 60_000 . "\n"], ['brackets', '{"v":' . '[' x 60_000],
    ['names', '{' . join(',', map { "\"$_\":1" } 1 .. 5_000) . "}\n"],
    ['a byte order mark', "\xef\xbb\xbf$whole"],
    ['UTF-16', join '', map { "$_\0" } split //, $whole])
{
    my ($name, $text) = @$_;

    write_file('file', $text);
    my ($exit, $said) = CdmStop::Process::capture(@verify);
    is($exit, 1, "Q06 $name") or diag($said);
}

done_testing();


sub place { return int rand length $_[0] }


sub bytes { return join '', map { chr int rand 256 } 0 .. rand 60 }


sub lines {
    my ($text, $change) = @_;

    return join '', $change->(split /^/, $text);
}


sub write_file {
    my ($name, $text) = @_;

    open my $out, '>:raw', "$dir/$name" or die "$dir/$name: $!\n";
    print $out $text;
    close $out or die "$dir/$name: $!\n";

    return;
}
