package CdmStop::Soak::Memory;

=head1 NAME

CdmStop::Soak::Memory - what the processes of a gateway have, at rest

=head1 SYNOPSIS

    my $memory = CdmStop::Soak::Memory->new($t);
    my $now = $memory->measure;     # {pss, anon, master, workers, files}

It is the median of SAMPLES, in KB: C<pss> is what master and workers have
together, what they share counted once, with the shared memory; C<anon> is the
part of it that is neither shared memory nor a file. C<files> is the number of
their open files, the least of the samples.

=cut

use strict;
use warnings;

use Time::HiRes qw(sleep);

use constant SAMPLES => 5;

sub new {
    my ($class, $t) = @_;

    return bless { t => $t }, $class;
}

sub measure {
    my ($self) = @_;

    my @samples;

    for (1 .. SAMPLES) {
        push @samples, $self->sample;
        sleep 0.4;
    }

    my %measure = map { my $key = $_; $key => median(map { $_->{$key} }
                                                    @samples) }
                  qw(pss anon master workers);
    ($measure{files}) = sort { $a <=> $b } map { $_->{files} } @samples;

    return \%measure;
}

sub median {
    my @sorted = sort { $a <=> $b } @_;

    return $sorted[@sorted / 2];
}

sub sample {
    my ($self) = @_;

    my $t = $self->{t};
    my $master = $t->master_pid;
    my %sum = map { $_ => 0 } qw(pss anon master workers files);

    for my $pid ($master, $t->worker_pids) {
        my $rollup = CdmStop::Test::Nginx::slurp("/proc/$pid/smaps_rollup")
            // die "smaps_rollup of $pid: $!\n";
        my %kb = $rollup =~ /^(\w+):\s+(\d+) kB/mg;
        my @files = glob "/proc/$pid/fd/*";

        $sum{pss} += $kb{Pss};
        $sum{anon} += $kb{Pss_Anon};
        $sum{$pid == $master ? 'master' : 'workers'} += $kb{Pss};
        $sum{files} += @files;
    }

    return \%sum;
}

1;
