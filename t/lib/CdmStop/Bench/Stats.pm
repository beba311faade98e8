package CdmStop::Bench::Stats;

=head1 NAME

CdmStop::Bench::Stats - medians and spreads of the rounds of a benchmark

=cut

use strict;
use warnings;

use List::Util qw(max min);

sub median {
    my (@of) = sort { $a <=> $b } @_;

    return if !@of;
    return @of % 2 ? $of[$#of / 2] : ($of[@of / 2 - 1] + $of[@of / 2]) / 2;
}

# The quotients of two series, round by round: what disturbs the machine for
# longer than a round is in both.

sub ratios {
    my ($of, $by) = @_;

    return map { $of->[$_] / $by->[$_] } 0 .. min($#$of, $#$by);
}

# {median, least, most} of some values; undef for none.

sub summary {
    my (@of) = @_;

    return @of ? { median => median(@of), least => min(@of), most => max(@of) }
               : undef;
}

1;
