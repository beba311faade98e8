package CdmStop::Bench::Measure;

=head1 NAME

CdmStop::Bench::Measure - one figure of one gateway

=head1 SYNOPSIS

    my $m = CdmStop::Bench::Measure->new(bed => $bed);
    $m->cpu($gateway, 4000);            # {us, kernel}
    $m->throughput($gateway, 1);        # {rps, busy}
    $m->latency($gateway, 2, 10_000);   # {p50, p99, p999}
    $m->memory('records', 1000);        # {pss, connection, token, disk}

cpu is what the scheduler counts for the worker, the kernel's part included.
busy is the part of the time that the worker had the processor: a gateway with
much less than 1 was not what limited the requests a second.

=cut

use strict;
use warnings;

use IO::Socket::INET;
use List::Util qw(sum0);

use CdmStop::Bench::Modes;
use CdmStop::Process;

use constant { CONNECTIONS => 64 };

sub new {
    my ($class, %opt) = @_;

    return bless {%opt}, $class;
}

sub cpu {
    my ($self, $gateway, $requests) = @_;

    return {} if !$gateway->{worker};

    my @before = $self->times_of($gateway);
    $self->{bed}->load($gateway, requests => $requests);
    my @after = $self->times_of($gateway);

    return { us => ($after[0] - $before[0]) / 1000 / $requests,
             user_ticks => $after[1] - $before[1],
             kernel_ticks => $after[2] - $before[2] };
}

# schedstat has nanoseconds, stat the parts of user and kernel in ticks.

sub times_of {
    my ($self, $gateway) = @_;

    my $proc = "/proc/$gateway->{worker}";
    my ($ns) = split ' ', $self->{bed}->read("$proc/schedstat");
    my ($rest) = $self->{bed}->read("$proc/stat") =~ /\A.*\) (.*)/s;
    my (undef, @field) = split ' ', $rest;

    return ($ns, @field[10, 11]);
}

# As many as the gateway can: a closed loop, it has a processor to itself.

sub throughput {
    my ($self, $gateway, $seconds) = @_;

    my ($before) = $gateway->{worker} ? $self->times_of($gateway) : 0;
    my $got = $self->{bed}->load($gateway, seconds => $seconds, apart => 1,
                                 connections => CONNECTIONS);
    my ($after) = $gateway->{worker} ? $self->times_of($gateway) : 0;

    return { rps => $got->{requests} / $got->{seconds},
             $gateway->{worker}
                 ? (busy => ($after - $before) / 1e9 / $got->{seconds}) : () };
}

# At a rate that all gateways can serve: an open loop, see t/bench/load.c.

sub latency {
    my ($self, $gateway, $seconds, $rate) = @_;

    my $got = $self->{bed}->load($gateway, seconds => $seconds, apart => 1,
                                 rate => $rate, connections => CONNECTIONS);

    return { map { $_ => $got->{$_} } qw(p50 p99 p999) };
}

# Of a gateway of its own, since a worker gives nothing back: its memory when
# it has served some, what each stop more takes that waits for CDM, and what
# each token more takes.

sub memory {
    my ($self, $name, $connections) = @_;

    my $bed = $self->{bed};
    my $gateway = $bed->start($name, counted => 1);
    my %of;

    if ($gateway->{worker}) {
        $of{pss} = $self->pss($gateway);
        $of{connection} = ($self->pss_in_flight($gateway, $connections)
                           - $of{pss}) / $connections;
    }

    if ($name eq 'inject') {
        my $before = $self->zone_free($name);
        $bed->load($gateway, requests => 1, connections => 1,
                   project => $bed->project($_)) for 1 .. $bed->PROJECTS;
        $of{token} = ($before - $self->zone_free($name)) / $bed->PROJECTS;

    } elsif ($name eq 'lua') {
        $of{token} = $self->control($name, '/memory?tokens='
                                           . $bed->PROJECTS) + 0;

    } elsif ($name eq 'auth_request') {
        $of{disk} = sum0 map { -s } glob $bed->path('cache/*');
    }

    $bed->stop($gateway);

    return \%of;
}

# Bytes; pages that processes share count for each with its part.

sub pss {
    my ($self, $gateway) = @_;

    my ($kb) = $self->{bed}->read("/proc/$gateway->{worker}/smaps_rollup")
        =~ /^Pss:\s+(\d+) kB/m or die "no Pss\n";

    return 1024 * $kb;
}

# CDM holds its answers back until all the stops are with it.

sub pss_in_flight {
    my ($self, $gateway, $connections) = @_;

    my $bed = $self->{bed};
    my $out = $bed->write('held.out', '');

    kill USR1 => $bed->{cdm};

    my $pid = CdmStop::Process::run_in_background(
        [$bed->load_command($gateway, requests => $connections,
                            connections => $connections)],
        stdout => $out, stderr => $out);

    my $rested = 0;

    $bed->{t}->wait_for(sub {
        my ($spent) = $self->times_of($gateway);
        my $rests = $spent == $rested && $self->at_cdm >= $connections;

        $rested = $spent;
        return $rests;
    }, what => "$connections stops that wait for CDM");

    my $pss = $self->pss($gateway);

    kill USR2 => $bed->{cdm};
    my $status = CdmStop::Process::wait_for($pid, 60);
    die "$gateway->{name}: ${\ $bed->read($out) }"
        if !defined $status || $status;

    return $pss;
}

# Connections that CDM has.

sub at_cdm {
    my ($self) = @_;

    my $local = sprintf '0100007F:%04X', $self->{bed}->cdm_port;

    return scalar grep { (split ' ')[1, 3] && (split ' ')[1] eq $local
                             && (split ' ')[3] eq '01' }
        split /\n/, $self->{bed}->read('/proc/net/tcp');
}

sub zone_free {
    my ($self, $name) = @_;

    my ($free) = $self->control($name, '/cdm_stop')
        =~ /^cdm_stop_zone_free_bytes (\d+)/m
        or die "no cdm_stop_zone_free_bytes\n";

    return $free;
}

# The body of what a gateway tells the driver.

sub control {
    my ($self, $name, $target) = @_;

    my $s = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1', Timeout => 10,
        PeerPort => $self->{bed}->port("$name-control"))
        or die "$name: $@\n";
    print {$s} "GET $target HTTP/1.0\r\nHost: localhost\r\n\r\n";

    local $/;
    my ($head, $body) = split /\r\n\r\n/, <$s>, 2;
    die "$target of $name: $head\n" if $head !~ m{\AHTTP/1.. 200 };

    return $body;
}

1;
