package CdmStop::Bench::Charts;

=head1 NAME

CdmStop::Bench::Charts - the charts of a benchmark

=head1 SYNOPSIS

    my %svg = CdmStop::Bench::Charts::charts($figures, 'TCP');

By name (cpu, load, latency), those of the measures that were taken.

=cut

use strict;
use warnings;

use CdmStop::Bench::Modes;
use CdmStop::Bench::Report;
use CdmStop::Chart;

use constant { US => "\x{b5}s" };

my @PERCENTILES = (['p50', 'p50_us'], ['p99', 'p99_us'], ['p99.9', 'p999_us']);

sub charts {
    my ($figures, $how) = @_;

    my $rounds = $figures->{run}{rounds} // return;
    my $note = ($figures->{machine}{date} =~ s/ .*//r)
        . ", $how, medians of $rounds rounds";
    my $whiskers = "$note; whiskers: least and most";

    my %bars = map { $_->[0] => [bars($figures, $_->[1], $_->[2])] }
        ['cpu', 'cpu_us', 1], ['load', 'rps', 0];
    my %svg;

    $svg{cpu} = CdmStop::Chart::bars(
        title => 'CPU time of the gateway for one request',
        note => $whiskers, axis => { name => 'CPU time', unit => US },
        bars => $bars{cpu})
        if @{$bars{cpu}};

    $svg{load} = CdmStop::Chart::bars(
        title => 'Requests a second of one saturated worker',
        note => $whiskers, axis => { name => 'requests a second' },
        bars => $bars{load})
        if @{$bars{load}};

    my @latency = latency($figures);

    $svg{latency} = CdmStop::Chart::bars(
        title => "Latency at $figures->{run}{rate} requests a second",
        note => $note, axis => { name => 'latency', unit => US },
        bars => \@latency) if @latency;

    return %svg;
}

# One for each mode; with the ratio to the peer if that is asked for.

sub bars {
    my ($figures, $what, $ratio) = @_;
    my @bars;

    for my $name (CdmStop::Bench::Modes::names()) {
        my $mode = CdmStop::Bench::Modes::get($name);
        my $of = CdmStop::Bench::Report::rounds($figures, $name, $what);
        next if !$of || $mode->{side} eq 'direct';

        my $r = $ratio
            && CdmStop::Bench::Report::of_peer($figures, $name, $what);
        my $value = CdmStop::Chart::number($of->{median});

        push @bars, { label => $mode->{title}, series => $mode->{side},
                      value => $of->{median}, low => $of->{least},
                      high => $of->{most},
                      $r ? (text => sprintf '%s %s, %.2f of its peer',
                            $value, US, $r->{median}) : () };
    }

    return @bars;
}

sub latency {
    my ($figures) = @_;
    my @bars;

    for my $name (CdmStop::Bench::Modes::names()) {
        for my $p (@PERCENTILES) {
            my $of = CdmStop::Bench::Report::rounds($figures, $name, $p->[1])
                or next;

            push @bars, { label => CdmStop::Bench::Modes::get($name)->{title},
                          series => $p->[0], value => $of->{median} };
        }
    }

    return @bars;
}

1;
