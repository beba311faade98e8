package CdmStop::Bench::Trace;

=head1 NAME

CdmStop::Bench::Trace - instructions and system calls of a request

=head1 SYNOPSIS

    my $n = CdmStop::Bench::Trace::instructions($bed, 'records', 1000, $dir);
    my %calls = CdmStop::Bench::Trace::syscalls($bed, 'records', 4000);

By callgrind, which counts outside of the kernel, and by strace. Each starts a
gateway of its own.

=cut

use strict;
use warnings;

use CdmStop::Process;

# What twice as many requests take more, so that neither the start nor the end
# counts. callgrind's files are kept in a directory if one is named.

sub instructions {
    my ($bed, $name, $n, $keep) = @_;

    my @total = map { callgrind($bed, $name, $_ * $n, $keep // $bed->dir) }
                    1 .. 2;

    return ($total[1] - $total[0]) / $n;
}

sub callgrind {
    my ($bed, $name, $n, $dir) = @_;

    my $out = "$dir/$name.$n.callgrind";
    my $gateway = $bed->start($name, under =>
                              ['valgrind', '-q', '--tool=callgrind',
                               '--compress-pos=no',
                               "--callgrind-out-file=$out"]);
    $bed->load($gateway, requests => $n);
    $bed->stop($gateway);

    open my $fh, '<', $out or die "$out: $!\n";
    my ($total) = map { /\A(?:summary|totals):\s+(\d+)/ ? $1 : () } <$fh>;

    return $total // die "no figures in $out\n";
}

sub syscalls {
    my ($bed, $name, $n) = @_;

    my $gateway = $bed->start($name);
    my $out = $bed->path("$name.strace");
    my $strace = CdmStop::Process::run_in_background(
        ['strace', '-c', '-o', $out, '-p', $gateway->{worker}],
        stderr => $bed->path('strace.out'));

    $bed->{t}->wait_for(sub {
        $bed->read("/proc/$gateway->{worker}/status") =~ /TracerPid:\s+[1-9]/
    }, what => 'strace');

    $bed->load($gateway, requests => $n);
    kill INT => $strace;
    CdmStop::Process::wait_for($strace, 30);
    $bed->stop($gateway);

    my %calls;

    for (split /\n/, $bed->read($out)) {
        my ($calls, $call)
            = / \A \s* [\d.]+ \s+ [\d.]+ \s+ \d+ \s+ (\d+) .* \s (\w+) \z/x
            or next;
        $calls{$call} = $calls / $n if $call ne 'total' && $calls / $n >= 0.005;
    }

    return %calls;
}

1;
