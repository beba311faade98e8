#!/usr/bin/perl

# Every case of t/cases is shown by a test that names it, or is marked as one
# that a coming version brings; and no test names a case that is not listed.

use strict;
use warnings;

use FindBin;
use Test::More;

my %case;
my $number = qr/[THBKIDLAWMQC]\d\d/;

open my $list, '<', "$FindBin::Bin/cases" or die "t/cases: $!\n";

while (<$list>) {
    next if /\A(?:#|\s*\z)/;

    my ($id, $title, $mark, $later)
        = /\A($number)  (\S.*?)(?: -- (later|partly later): (\S.*))?\n\z/;

    if (!defined $id || exists $case{$id}) {
        fail("line $. of t/cases: " . (defined $id ? "$id again" : $_));
        next;
    }

    $case{$id} = { title => $title, mark => $mark // 'now', later => $later };
}

close $list;

cmp_ok(scalar keys %case, '>', 100, 'the list of cases is there');


# numbers count where a test's name can be: inside of quotes, before "=>", at
# the beginning of a line of data

my %named;

for my $file (sort glob "$FindBin::Bin/*.t") {
    my $base = $file =~ s{.*/}{}r;
    next if $base eq 'cases.t';

    open my $in, '<', $file or die "$file: $!\n";

    while (<$in>) {
        next if /\A\s*#/;

        push @{ $named{$1} }, "$base:$."
            if /\b($number)\s*=>/ || /\A\s*($number) \S/;

        for my $string (/'((?:[^'\\]|\\.)*)'/g, /"((?:[^"\\]|\\.)*)"/g,
            /\bq[qw]?[\{\[\(\/](.*?)[\}\]\)\/]/g)
        {
            push @{ $named{$1} }, "$base:$."
                while $string =~ /(?<![A-Za-z0-9%.])($number)(?![A-Za-z0-9.])/g;
        }
    }

    close $in;
}

# the case of the fuzzers is theirs, which "make fuzz" runs
push @{ $named{Q06} }, s{.*/}{}r for glob "$FindBin::Bin/fuzz/*.c";

for my $id (sort keys %named) {
    fail("$id is listed in t/cases (named at $named{$id}[0])")
        if !exists $case{$id};
}

for my $id (sort keys %case) {
    my $case = $case{$id};
    my $seen = exists $named{$id};

    if ($case->{mark} eq 'later') {
        ok(!$seen, "$id $case->{title}: later, $case->{later}")
            or diag("  $named{$id}[0] names it: mark it \"partly later\" or "
                . "take the mark away");

    } else {
        ok($seen, "$id $case->{title}")
            or diag("  no test names it: say \"later\", or test it");
    }
}

# what docs/SECURITY.md says that a test shows

open my $doc, '<', "$FindBin::Bin/../docs/SECURITY.md" or die "SECURITY: $!\n";
my @claimed = map { /\b([A-Z]\d\d)\b/g } grep { /\A\| / } <$doc>;
close $doc;

cmp_ok(scalar(@claimed), '>', 50, 'docs/SECURITY.md names cases');
is(join(' ', grep { !$case{$_} || $case{$_}{mark} eq 'later' } @claimed), '',
   'and all of them are shown');

my @later = grep { $case{$_}{mark} ne 'now' } sort keys %case;

note(scalar(keys %case) . ' cases, ' . scalar(@later)
    . ' of them wholly or partly in a coming version');

done_testing();
