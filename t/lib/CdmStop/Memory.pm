package CdmStop::Memory;

=head1 NAME

CdmStop::Memory - what is in the memory of a process

=head1 SYNOPSIS

    use CdmStop::Memory qw(PIECE memory pieces);

    my ($dumped, $excluded) = pieces($pid, $token);
    my @pages = memory($pid);           # [bytes, excluded from dumps]

A secret is looked for in pieces of PIECE bytes. How many of them are in pages
that a core dump has, and in pages that are excluded from dumps.

=cut

use strict;
use warnings;

no warnings 'portable';

use Exporter qw(import);

our @EXPORT_OK = qw(PIECE memory pieces);

use constant PIECE => 24;

# The memory of a process as [bytes, excluded from dumps].

sub memory {
    my ($pid) = @_;

    open my $maps, '<', "/proc/$pid/smaps" or die "smaps of $pid: $!\n";
    open my $mem, '<:raw', "/proc/$pid/mem" or die "memory of $pid: $!\n";

    my ($range, @pages);

    while (my $line = <$maps>) {
        $range = [hex $1, hex $2, $3]
            if $line =~ /\A([0-9a-f]+)-([0-9a-f]+) (r|-)\S{3} /;

        next if $line !~ /\AVmFlags:(.*)/ || $range->[2] ne 'r';

        my $excluded = $1 =~ / dd\b/;
        my ($from, $length) = ($range->[0], $range->[1] - $range->[0]);

        # the map of AddressSanitizer, which holds no data; a device's page
        next if $excluded && $length > 2**32;
        next if $from >= 2**47 || !sysseek $mem, $from, 0;

        my $bytes = '';
        while ($length > 0) {
            my $n = sysread $mem, my $piece, $length > 2**20 ? 2**20 : $length;
            last if !$n;
            $bytes .= $piece if $piece =~ /[^\0]/;
            $length -= $n;
        }

        push @pages, [$bytes, $excluded];
    }

    return @pages;
}

sub pieces {
    my ($pid, $secret) = @_;

    my ($dumped, $excluded) = (0, 0);
    my @pieces = unpack '(a' . PIECE . ')*', $secret;
    pop @pieces if @pieces > 1 && length $pieces[-1] < PIECE;

    for my $page (memory($pid)) {
        my $n = grep { index($page->[0], $_) >= 0 } @pieces;
        $page->[1] ? ($excluded += $n) : ($dumped += $n);
    }

    return ($dumped, $excluded);
}

1;
