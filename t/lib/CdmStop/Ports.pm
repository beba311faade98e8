package CdmStop::Ports;

=head1 NAME

CdmStop::Ports - free TCP ports for tests that run in parallel

=head1 SYNOPSIS

    my $port = CdmStop::Ports::take();

Ports are taken in blocks below the range of ephemeral ports. A block belongs
to one process by a lock on a file, so that C<prove -j> never gives one port to
two tests, and each port is tried by bind before it is given out.

=cut

use strict;
use warnings;

use Fcntl qw(:flock O_CREAT O_RDWR);
use File::Spec;
use IO::Socket::IP;
use Socket qw(SOCK_STREAM);

use constant { FIRST => 10_000, BLOCK => 50, BLOCKS => 440 };

my ($lock, $owner, $next, $end) = (undef, 0, 0, 0);
my @locks;

# A port that nobody listens on; never the same twice in one process.

sub take {
    for (1 .. BLOCKS * BLOCK) {
        take_block() if $owner != $$ || $next >= $end;

        my $port = $next++;
        return $port if is_free($port);
    }

    die "no free port\n";
}

sub is_free {
    my ($port) = @_;

    my $s = IO::Socket::IP->new(
        LocalHost => '127.0.0.1', LocalPort => $port, Type => SOCK_STREAM,
        Listen => 1, ReuseAddr => 1);

    return defined $s;
}

sub take_block {
    my $dir = File::Spec->catdir(File::Spec->tmpdir, "cdm-stop-ports-$>");
    mkdir $dir, 0700;

    my $start = int rand BLOCKS;

    for my $i (0 .. BLOCKS - 1) {
        my $block = ($start + $i) % BLOCKS;

        sysopen(my $fh, "$dir/$block", O_CREAT | O_RDWR, 0600)
            or die "$dir/$block: $!\n";
        next unless flock $fh, LOCK_EX | LOCK_NB;

        # an earlier block of this process stays locked: its ports are in use
        push @locks, $fh;
        ($owner, $next) = ($$, FIRST + $block * BLOCK);
        $end = $next + BLOCK;
        return;
    }

    die "no free block of ports\n";
}

1;
