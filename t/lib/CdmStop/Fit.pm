package CdmStop::Fit;

=head1 NAME

CdmStop::Fit - how a cost grows, as a number and as a sentence

=head1 SYNOPSIS

    my $fit = CdmStop::Fit::of([[10, 24_600], [100, 24_700], [1000, 24_650]],
                               unit => 'instructions', each => 'rule');
    $fit->{exponent}        # least squares on log-log: 0 constant, 1 linear
    $fit->{ratio}           # the last by the first
    $fit->{model}           # constant, linear, logarithmic, power, irregular
    $fit->{error}           # how far the worst point is from that, as a share
    $fit->{sentence}        # 'constant within 0.5%'
    $fit->{at}->(500)       # what the model says of 500

A cost is C<constant> when the most is at most C<same> (0.03 by default) above
the least. Otherwise it is a base and so much for each (C<linear>), or so much
for each tenfold (C<logarithmic>), whichever is closer to the points, in shares
of them; or, if both are more than a tenth off and it is closer, a C<power>.
If that is as far off as well, it is C<irregular>, and C<at> knows nothing.

=cut

use strict;
use warnings;

use List::Util qw(max min sum);

use CdmStop::Chart;

sub of {
    my ($points, %opt) = @_;

    my @points = sort { $a->[0] <=> $b->[0] } @$points;
    my @y = map { $_->[1] } @points;
    my $spread = max(@y) / min(@y) - 1;
    my %fit = (ratio => $y[-1] / $y[0]);

    die "a fit needs two points\n" if @points < 2;

    my ($factor, $exponent)
        = line([map { [log $_->[0], log $_->[1], 1] } @points]);
    $fit{exponent} = $exponent;

    if ($spread <= ($opt{same} // 0.03)) {
        my $middle = (max(@y) + min(@y)) / 2;

        return { %fit, model => 'constant', error => $spread,
                 sentence => sprintf('constant within %s',
                                     percent($spread)),
                 at => sub { $middle } };
    }

    my @models = map { model($_, \@points) } qw(linear logarithmic);
    push @models, { model => 'power', error => 0, exponent => $exponent,
                    at => sub { exp($factor) * $_[0] ** $exponent } };
    $_->{error} = max(map { abs($models[2]{at}->($_->[0]) / $_->[1] - 1) }
                      @points) for $models[2];

    my ($best) = sort { $a->{error} <=> $b->{error} } @models[0, 1];
    $best = $models[2] if $best->{error} > 0.1
        && $models[2]{error} < $best->{error};

    return { %fit, model => 'irregular', error => $best->{error},
             sentence => sprintf('no simple growth, %.2f to %.2f times the '
                                 . 'first', min(@y) / $y[0], max(@y) / $y[0]) }
        if $best->{error} > 0.1;

    return { %fit, %$best, sentence => sentence($best, $opt{unit},
                                                $opt{each}) };
}

# base and slope over x or its logarithm, each point weighted by its own size

sub model {
    my ($name, $points) = @_;

    my $of = $name eq 'linear' ? sub { $_[0] } : sub { log($_[0]) / log 10 };
    my ($base, $slope)
        = line([map { [$of->($_->[0]), $_->[1], 1 / $_->[1] ** 2] } @$points]);
    my $at = sub { $base + $slope * $of->($_[0]) };

    return { model => $name, base => $base, slope => $slope, at => $at,
             error => max(map { abs($at->($_->[0]) / $_->[1] - 1) } @$points) };
}

# weighted least squares of [x, y, weight]: base and slope

sub line {
    my ($points) = @_;

    my $w = sum map { $_->[2] } @$points;
    my $x = sum(map { $_->[2] * $_->[0] } @$points) / $w;
    my $y = sum(map { $_->[2] * $_->[1] } @$points) / $w;
    my $xx = sum map { $_->[2] * ($_->[0] - $x) ** 2 } @$points;
    my $xy = sum map { $_->[2] * ($_->[0] - $x) * ($_->[1] - $y) } @$points;

    die "a fit needs two different places\n" if $xx == 0;

    return ($y - $xy / $xx * $x, $xy / $xx);
}

sub sentence {
    my ($m, $unit, $each) = @_;

    return sprintf 'grows with the power %.2f, within %s', $m->{exponent},
        percent($m->{error}) if $m->{model} eq 'power';

    my $slope = ($m->{slope} < 0 ? 'less ' : '')
        . CdmStop::Chart::number(abs $m->{slope});

    return sprintf '%s: %s%s %s for each %s, within %s', $m->{model},
        $m->{slope} < 0 ? '' : '+', $slope, $unit,
        $m->{model} eq 'linear' ? $each : 'tenfold', percent($m->{error});
}

sub percent {
    my ($share) = @_;

    return sprintf '%.*f%%', $share < 0.0995 ? 1 : 0, 100 * $share;
}

1;
