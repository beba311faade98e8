package CdmStop::Bench::Report;

=head1 NAME

CdmStop::Bench::Report - the tables of a benchmark, for terminals and pages

=head1 SYNOPSIS

    my @tables = CdmStop::Bench::Report::tables($figures);
    print CdmStop::Bench::Report::text($_) for @tables;
    print CdmStop::Bench::Report::markdown($_) for @tables;

    CdmStop::Bench::Report::put($text, 'tcp', @tables);

Figures are what L<CdmStop::Bench::Run> returns. A table is {id, title, head,
rows}; there is one for each group of measures that were taken: cpu, position,
load, memory, instructions, syscalls.

put replaces what stands in a page between C<< <!-- bench tcp cpu --> >> and
C<< <!-- end --> >> by the table of that id; machine (what the run was done on)
verdict (where ours stands, in words) and gateways (what each does) are such
ids as well.

=cut

use strict;
use warnings;

use CdmStop::Bench::Modes;
use CdmStop::Bench::Stats;

# What ours may take of its peer, and what it should: the limits that the
# project has set itself.
my %LIMIT = (inject => [1.08, 1.03], records => [1.20, 1.08],
             all => [1.30, 1.12]);

my @PEERS = qw(plain plain_log auth_request lua haproxy);
my @OURS = qw(inject records keyed all);

sub tables {
    my ($figures) = @_;

    my @run = grep { $figures->{modes}{$_} } CdmStop::Bench::Modes::names();

    return grep { @{$_->{rows}} } cpu($figures, @run),
        position($figures), load($figures, @run), memory($figures, @run),
        instructions($figures, @run), syscalls($figures, @run);
}

sub title { return CdmStop::Bench::Modes::get($_[0])->{title} }

# undef for a mode that was not run, which stays one.

sub value {
    my ($figures, $name, $what) = @_;

    return ($figures->{modes}{$name} // {})->{$what};
}

# The ratios of the rounds to those of the peer.

sub of_peer {
    my ($figures, $name, $what, $peer) = @_;

    $peer //= CdmStop::Bench::Modes::get($name)->{peer} // return;
    my ($of, $by) = map { value($figures, $_, $what) } $name, $peer;
    return if !$of || !$by;

    return CdmStop::Bench::Stats::summary(
        CdmStop::Bench::Stats::ratios($of, $by));
}

# "1.17 (1.03 to 1.22)"

sub spread {
    my ($format, $of) = @_;

    return '' if !$of;
    return sprintf "$format ($format to $format)",
        @$of{qw(median least most)};
}

sub rounds {
    my ($figures, $name, $what) = @_;

    return CdmStop::Bench::Stats::summary(
        @{value($figures, $name, $what) // []});
}

sub cpu {
    my ($figures, @run) = @_;
    my @rows;

    for my $name (@run) {
        my $us = rounds($figures, $name, 'cpu_us') or next;
        my $ratio = of_peer($figures, $name, 'cpu_us');
        my $limit = $LIMIT{$name};

        push @rows, [
            title($name), spread('%.1f', $us),
            sprintf('%.0f%%', 100 * ($figures->{modes}{$name}{kernel} // 0)),
            $ratio ? title(CdmStop::Bench::Modes::get($name)->{peer}) : '',
            spread('%.2f', $ratio),
            $limit ? map { sprintf '%.2f', $_ } @$limit : ('', '') ];
    }

    return { id => 'cpu',
             title => 'CPU microseconds of the worker for a request',
             head => ['gateway', 'microseconds', 'kernel', 'against', 'ratio',
                      'must', 'aim'],
             rows => \@rows };
}

# Ours against each, by CPU time; below 1 ours takes less.

sub position {
    my ($figures) = @_;

    my @peers = grep { value($figures, $_, 'cpu_us') } @PEERS;
    my @ours = grep { value($figures, $_, 'cpu_us') } @OURS;
    my @rows;

    for my $name (@peers ? @ours : ()) {
        push @rows, [title($name), map {
            sprintf '%.2f', of_peer($figures, $name, 'cpu_us', $_)->{median}
        } @peers];
    }

    return { id => 'position', title => 'CPU time of ours, as a part of theirs',
             head => ['', map { title($_) } @peers], rows => \@rows };
}

sub load {
    my ($figures, @run) = @_;
    my @rows;

    for my $name (@run) {
        my %of = map { $_ => rounds($figures, $name, $_) }
            qw(rps busy p50_us p99_us p999_us);
        next if !$of{rps} && !$of{p50_us};

        push @rows, [
            title($name), spread('%.0f', $of{rps}),
            $of{busy} ? sprintf '%.0f%%', 100 * $of{busy}{median} : '',
            map { spread('%.0f', $of{$_}) } qw(p50_us p99_us p999_us) ];
    }

    my $rate = $figures->{run}{rate};

    return { id => 'load',
             title => 'Requests a second when saturated'
                 . ($rate ? ", and microseconds of latency at $rate a second"
                          : ''),
             head => ['gateway', 'a second', 'worker busy', 'p50', 'p99',
                      'p99.9'],
             rows => \@rows };
}

sub memory {
    my ($figures, @run) = @_;
    my @rows;

    for my $name (@run) {
        my $of = $figures->{modes}{$name};
        next if !defined $of->{pss};

        push @rows, [
            title($name), sprintf('%.1f', $of->{pss} / 1048576),
            sprintf('%.1f', $of->{connection} / 1024),
            defined $of->{token} ? sprintf '%.0f in shared memory', $of->{token}
            : defined $of->{disk} ? "$of->{disk} in a file" : '' ];
    }

    return { id => 'memory', title => 'Memory',
             head => ['gateway', 'worker, MB', 'each stop in flight, KB',
                      'a token of 4,000 bytes, bytes'],
             rows => \@rows };
}

sub instructions {
    my ($figures, @run) = @_;
    my @rows;

    for my $name (@run) {
        my $n = value($figures, $name, 'instructions') or next;
        my $peer = CdmStop::Bench::Modes::get($name)->{peer};
        my $by = $peer && value($figures, $peer, 'instructions');

        push @rows, [title($name), commas(sprintf '%.0f', $n),
                     $by ? (title($peer), sprintf '%.2f', $n / $by)
                         : ('', '')];
    }

    return { id => 'instructions',
             title => 'Instructions for a request, outside of the kernel',
             head => ['gateway', 'instructions', 'against', 'ratio'],
             rows => \@rows };
}

sub syscalls {
    my ($figures, @run) = @_;

    my @traced = grep { $figures->{modes}{$_}{syscalls} } @run;
    my %calls = map { %{$figures->{modes}{$_}{syscalls}} } @traced;
    my @rows;

    for my $call (sort keys %calls) {
        push @rows, [$call, map {
            my $n = $figures->{modes}{$_}{syscalls}{$call};
            defined $n ? sprintf '%.2f', $n : '';
        } @traced];
    }

    return { id => 'syscalls', title => 'System calls for a request',
             head => ['', map { title($_) } @traced], rows => \@rows };
}

sub commas {
    my ($n) = @_;

    1 while $n =~ s/^(\d+)(\d{3})/$1,$2/;

    return $n;
}

sub text {
    my ($table) = @_;

    my @lines = ($table->{head}, @{$table->{rows}});
    my @width;

    for my $line (@lines) {
        for my $i (0 .. $#$line) {
            my $w = length $line->[$i];
            $width[$i] = $w if $w > ($width[$i] // 0);
        }
    }

    my $format = join '  ', map { $_ ? "%$width[$_]s" : "%-$width[$_]s" }
                                0 .. $#width;

    return "\n$table->{title}\n\n"
        . join '', map { sprintf("$format", @$_) =~ s/\s+\z//r . "\n" } @lines;
}

sub markdown {
    my ($table) = @_;

    my @lines = ($table->{head},
                 ['---', map { $table->{id} ? '---:' : '---' }
                             2 .. @{$table->{head}}],
                 @{$table->{rows}});

    return join '', map { '| ' . join(' | ', @$_) . " |\n" } @lines;
}

# What a run was done on, for a page.

sub circumstances {
    my ($figures) = @_;

    my ($m, $run) = @$figures{qw(machine run)};
    my %v = %{$m->{versions}};

    return "$m->{date}; $m->{processors} processors, $m->{model}, Linux "
        . "$m->{kernel}, $m->{system}; "
        . join(', ', map { "$_ $v{$_}" } sort keys %v)
        . '. ' . ($run->{rounds} ? "$run->{rounds} rounds; l" : 'L')
        . "oad of the machine at the end $m->{load}.\n" . shared($figures);
}

# A worker that did not get the processor although it had work to do.

sub shared {
    my ($figures) = @_;

    my @busy = map { @{$_->{busy} // []} } values %{$figures->{modes}};
    my $busy = 100 * (CdmStop::Bench::Stats::median(@busy) // return '');

    return '' if $busy >= 80;
    return sprintf "\nOther work ran on the machine: a saturated worker had "
        . "the processor %.0f%% of the time. The ratios of CPU time, memory "
        . "and instructions depend little on that; requests a second and "
        . "latency are those of this machine then, not of the gateways, and "
        . "say nothing.\n", $busy;
}

sub gateways {
    my ($figures) = @_;

    my @run = grep { $figures->{modes}{$_} } CdmStop::Bench::Modes::names();

    return { head => ['gateway', 'what it does'], rows => [map {
        [title($_), CdmStop::Bench::Modes::get($_)->{does}]
    } @run] };
}

# Where ours stands by CPU time, in words, for a page.

sub verdict {
    my ($figures) = @_;
    my $text = '';

    for my $name (grep { $LIMIT{$_} } @OURS) {
        my $mode = CdmStop::Bench::Modes::get($name);
        my $ratio = of_peer($figures, $name, 'cpu_us') or next;
        my ($must, $aim) = @{$LIMIT{$name}};
        my $is = $ratio->{median};
        my (@less, @more);

        for my $peer (grep { $_ ne $mode->{peer} } @PEERS) {
            my $r = of_peer($figures, $name, 'cpu_us', $peer) or next;
            push @{$r->{median} < 1 ? \@less : \@more},
                sprintf '%s (%.2f)', title($peer), $r->{median};
        }

        $text .= sprintf '- **%s** takes %.2f times the CPU of %s. %s',
            title($name), $is, title($mode->{peer}),
            reached($is, $must, $aim);
        $text .= ' Less than ' . join(', ', @less) . '.' if @less;
        $text .= ' More than ' . join(', ', @more) . '.' if @more;
        $text .= "\n";
    }

    return $text;
}

sub reached {
    my ($is, $must, $aim) = @_;

    return sprintf 'The aim of %.2f is reached.', $aim if $is <= $aim;
    return sprintf 'The limit of %.2f is kept, the aim of %.2f is not reached.',
        $must, $aim if $is <= $must;
    return sprintf 'The limit of %.2f is missed by %.2f.', $must, $is - $must;
}

sub put {
    my ($page, $series, $figures) = @_;

    my %block = (machine => circumstances($figures),
                 verdict => verdict($figures),
                 gateways => markdown(gateways($figures)),
                 map { $_->{id} => markdown($_) } tables($figures));

    for my $id (keys %block) {
        $page =~ s{(<!-- bench \Q$series $id\E -->\n).*?(<!-- end -->)}
                  {$1\n$block{$id}\n$2}s;
    }

    return $page;
}

1;
