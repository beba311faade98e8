package CdmStop::Bench::Run;

=head1 NAME

CdmStop::Bench::Run - a run of the benchmark: the modes in turns, in rounds

=head1 SYNOPSIS

    my $figures = CdmStop::Bench::Run::run(
        tls => 0, modes => [...], rounds => 11, cpu => 4000, throughput => 1,
        latency => 2, rate => 10_000, memory => 1000, instructions => 1000,
        syscalls => 4000);

The measures that are to be taken are those that are named: cpu (requests of a
round), throughput and latency (seconds of a round; rate), memory (stops in
flight), instructions and syscalls (requests).

What it returns is the content of the JSON file: {run, machine, modes}, of a
mode

    cpu_us, kernel, rps, busy, p50_us, p99_us, p999_us     one for each round
    pss, connection, token, disk                           bytes
    instructions, syscalls                                 for a request

=cut

use strict;
use warnings;

use List::Util qw(sum0);
use POSIX qw(strftime);

use CdmStop::Bench::Bed;
use CdmStop::Bench::Measure;
use CdmStop::Bench::Modes;
use CdmStop::Bench::Trace;
use CdmStop::Process;

my @OPTIONS = qw(tls rounds cpu throughput latency rate memory instructions
                 syscalls);

sub run {
    my (%opt) = @_;

    my $bed = CdmStop::Bench::Bed->new(
        tls => $opt{tls}, $opt{warm} ? (warm => $opt{warm}) : ());
    my $say = $opt{say} // sub { };
    my @modes = @{$opt{modes}};
    my %figures = map { $_ => {} } @modes;

    for my $name (@modes) {
        my $of = $figures{$name};

        if ($opt{memory}) {
            $say->("memory of $name");
            my $m = CdmStop::Bench::Measure->new(bed => $bed);
            %$of = %{$m->memory($name, $opt{memory})};
        }

        trace($bed, $name, $of, \%opt, $say)
            if CdmStop::Bench::Modes::get($name)->{gateway} eq 'nginx'
                && $name ne 'auth_request';
    }

    rounds($bed, \%figures, \%opt, $say)
        if $opt{cpu} || $opt{throughput} || $opt{latency};

    my ($answers, $refused) = $bed->end;

    return { run => { (map { $_ => $opt{$_} } @OPTIONS),
                      stops => $answers, refused => $refused },
             machine => machine(), modes => \%figures };
}

sub trace {
    my ($bed, $name, $of, $opt, $say) = @_;

    if ($opt->{instructions}) {
        $say->("instructions of $name");
        $of->{instructions} = CdmStop::Bench::Trace::instructions(
            $bed, $name, $opt->{instructions}, $opt->{profile});
    }

    if ($opt->{syscalls}) {
        $say->("system calls of $name");
        $of->{syscalls} = { CdmStop::Bench::Trace::syscalls(
            $bed, $name, $opt->{syscalls}) };
    }

    return;
}

# The modes take turns, and each begins a round once, so that what else the
# machine does falls on all.

sub rounds {
    my ($bed, $figures, $opt, $say) = @_;

    my $m = CdmStop::Bench::Measure->new(bed => $bed);
    my @order = @{$opt->{modes}};
    my %gateway = map { $_ => $bed->start($_) } @order;
    my %ticks;

    for my $round (1 .. $opt->{rounds}) {

        $say->("round $round of $opt->{rounds}");
        push @order, shift @order;

        for my $name ($opt->{cpu} ? @order : ()) {
            next if !$gateway{$name}{worker};

            my $got = $m->cpu($gateway{$name}, $opt->{cpu});
            push @{$figures->{$name}{cpu_us}}, $got->{us};
            $ticks{$name}[0] += $got->{user_ticks};
            $ticks{$name}[1] += $got->{kernel_ticks};
        }

        $bed->cdm_apart(1);

        for my $name (@order) {
            add($figures->{$name}, '', $m->throughput(
                $gateway{$name}, $opt->{throughput})) if $opt->{throughput};
            add($figures->{$name}, '_us', $m->latency(
                $gateway{$name}, $opt->{latency}, $opt->{rate}))
                if $opt->{latency};
        }

        $bed->cdm_apart(0);
        $bed->forget_logs($gateway{$_}) for @order;
    }

    for my $name (keys %ticks) {
        my $all = sum0 @{$ticks{$name}};
        $figures->{$name}{kernel} = $all ? $ticks{$name}[1] / $all : 0;
    }

    $bed->stop($gateway{$_}) for @{$opt->{modes}};

    return;
}

sub add {
    my ($figures, $unit, $got) = @_;

    push @{$figures->{"$_$unit"}}, $got->{$_} for keys %$got;

    return;
}

# What the figures were taken on.

sub machine {
    my $cpuinfo = slurp('/proc/cpuinfo');
    my ($model) = $cpuinfo =~ /^model name\s*:\s*(.*)$/m;
    my ($os) = slurp('/etc/os-release') =~ /^PRETTY_NAME="?([^"\n]+)/m;
    my @cpus = $cpuinfo =~ /^processor\s*:/mg;
    my ($load) = split ' ', slurp('/proc/loadavg');

    my %version = map { /^(\S+) (\S+)$/ ? ($1 => $2) : () } split /\n/,
        (CdmStop::Process::capture(
            'dpkg-query', '-W', '-f', "\${Package} \${Version}\n", 'nginx',
            'libnginx-mod-http-lua', 'haproxy', 'libssl3', 'libc6'))[1];

    return { date => strftime('%Y-%m-%d %H:%M UTC', gmtime),
             model => $model // 'unknown', processors => scalar @cpus,
             kernel => (POSIX::uname())[2], system => $os // 'unknown',
             load => $load, versions => \%version };
}

sub slurp {
    my ($file) = @_;

    open my $fh, '<', $file or return '';
    local $/;

    return scalar <$fh>;
}

1;
