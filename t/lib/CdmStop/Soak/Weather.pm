package CdmStop::Soak::Weather;

=head1 NAME

CdmStop::Soak::Weather - what happens to a gateway during a soak

=head1 SYNOPSIS

    my $weather = CdmStop::Soak::Weather->new($t, seconds => 1800, iam => $iam,
        cdm => $cdm, load => $load, kinds => $kinds, config => sub { ... });
    $weather->run($from, $to);      # of the plan, in seconds from the begin
    $weather->clear;                # IAM and CDM are well again
    my $counts = $weather->counts;

The plan is drawn before the run, so that a seed gives the same one again: a
list of [second, name, what, for how long]. In CALM fifths of the run nobody
kills or reloads: there workers grow old. The configuration comes from
C<config>, which is called with a number that changes it, and undef for a
broken one.

=cut

use strict;
use warnings;

use Time::HiRes qw(time);

my %CALM = (1 => 1, 3 => 1);

# name => weight

my %EVENTS = (
    iam => 7, cdm => 8, refuse => 4, revoke => 2, rotate => 4, mortal => 4,
    burst => 2, kill => 4, reload => 5,
);

my %STRUGGLE = map { $_ => 1 } qw(kill reload);

# A refused credential rests, and a rest is no load: it has one entry of many.

my %IAM = (
    down => undef, silent => undef, short => undef,
    slow => [{ delay => 1 }], very_slow => [{ delay => 4 }],
    refuses => [{ when => { method => 'POST' }, answer => 'wrong_password' }],
    throttles => [{ answer => 'throttled', headers => ['Retry-After' => 1] }],
    error_500 => [{ answer => 'server_error' }],
    error_503 => [{ answer => 'unavailable' }],
    garbage => [{ raw => "\x00\xff{]\r\n\r\n" x 9, close => 1 }],
    no_json => [{ status => 201, headers => ['X-Subject-Token' => 'x'],
                  body => '{"token":' }],
    cut => [{ close => 'mid_body' }], resets => [{ reset => 'after_request' }],
    drips => [{ drip => 0.01, drip_size => 40 }],
);

my %CDM = (
    down => undef,
    slow => { delay => 0.7 }, very_slow => { delay => 6 },
    hangs => { hang => 1 },
    garbage => { raw => "\x16\x03\x01\x00\xff" x 20, close => 1 },
    closes => { close => 'after_request' },
    resets => { reset => 'after_request' },
    cuts => { close => 'mid_body' },
    cuts_head => { raw => "HTTP/1.1 200 O", close => 1 },
    resets_late => { reset => 'after_headers' },
    drips => { drip => 0.002, drip_size => 20 },
    chunks => { answer => 'submissions', chunked => 7 },
    interim => { before => "HTTP/1.1 100 Continue\r\n\r\n" },
    map({ $_ => { answer => $_ } } qw(
        error_entry mixed_entries html_200 cut_200 not_running not_found
        no_permission system_error forbidden_0302 throttled too_large_494
        html_502 apig_504 internal_0601 iam_unavailable)),
);

sub new {
    my ($class, $t, %opt) = @_;

    my $self = bless { t => $t, counts => {}, ends => [], kills => [],
                       reloads => [], rotations => 0, version => 0, %opt },
                     $class;

    my $mean = $self->{seconds} / 60;
    $mean = $mean < 0.5 ? 0.5 : $mean > 3 ? 3 : $mean;

    # some of everything first, so that a short run has it as well
    my @first = qw(cdm kill rotate reload iam);
    my $step = $self->{seconds} / 5 / @first;

    $self->{plan} = [map { $self->draw($_ * $step, $mean, $first[$_]) }
                     0 .. $#first];
    my $at = 4 * $step;

    while (($at += rand 2 * $mean) < $self->{seconds}) {
        push @{$self->{plan}}, $self->draw($at, $mean);
    }

    return $self;
}

sub draw {
    my ($self, $at, $mean, $name) = @_;

    my $fifth = int($at * 5 / $self->{seconds});
    my @urn = map { ($_) x $EVENTS{$_} }
              grep { !$CALM{$fifth} || !$STRUGGLE{$_} } sort keys %EVENTS;
    $name //= $urn[rand @urn];
    my @what = $name eq 'iam' ? sort keys %IAM
        : $name eq 'cdm' ? sort keys %CDM
        : $name eq 'rotate' ? qw(rename rename_late signal)
        : $name eq 'reload' ? qw(same changed changed broken)
        : ('');

    return [$at, $name, $what[rand @what], (0.2 + rand 1.8) * $mean, rand];
}

sub counts { return $_[0]{counts} }

sub has_happened {
    my ($self, $name) = @_;

    return scalar grep { /\A\Q$name\E\b/ } keys %{$self->{counts}};
}

# The plan between two moments, with the load going on.

sub run {
    my ($self, $from, $to) = @_;

    my $begin = time - $from;

    for (;;) {
        my $now = time - $begin;
        my $next = $self->{plan}[0];

        $self->end_what_is_due;
        last if $now >= $to;

        if ($next && $next->[0] <= $now) {
            $self->happen(@{ shift @{$self->{plan}} });
            next;
        }

        my $end = $next && $next->[0] < $to ? $next->[0] : $to;
        my $left = $end - $now;
        $self->{load}->run($left > 0.2 ? 0.2 : $left);
    }

    return;
}

sub happen {
    my ($self, undef, $name, $what, $seconds, $chance) = @_;

    my $method = "happen_$name";

    $self->{counts}{$what eq '' ? $name : "$name $what"}++;
    $self->$method($what, $seconds, $chance);

    return;
}

sub later {
    my ($self, $seconds, $key, $code) = @_;

    # a new trouble of IAM is there instead of the old one
    @{$self->{ends}} = grep { $_->{key} ne $key } @{$self->{ends}};
    push @{$self->{ends}}, { at => time + $seconds, key => $key,
                             code => $code };

    return;
}

sub end_what_is_due {
    my ($self, %opt) = @_;

    my $now = time;
    my @due = grep { $opt{all} || $_->{at} <= $now } @{$self->{ends}};
    my %due = map { $_ => 1 } @due;

    @{$self->{ends}} = grep { !$due{$_} } @{$self->{ends}};
    $_->{code}->() for @due;

    return;
}

sub happen_iam {
    my ($self, $what, $seconds) = @_;

    my $iam = $self->{iam};

    $self->heal($iam);

    if ($what eq 'down') { $iam->refuse }
    elsif ($what eq 'silent') { $iam->pause }
    elsif ($what eq 'short') { $iam->set(life => 2 + $seconds) }
    else { $iam->script(@{$IAM{$what}}) }

    $self->later($seconds, 'iam', sub { $self->heal($iam) });

    return;
}

sub heal {
    my ($self, $standin) = @_;

    $standin->script;
    $standin->resume;
    $standin->set(life => $self->{life}) if $standin == $self->{iam};

    return;
}

# All stops, or half of them.

sub happen_cdm {
    my ($self, $what, $seconds, $chance) = @_;

    my $cdm = $self->{cdm};
    my $when = $chance < 0.3 ? qr/./ : qr/[0-4]\z/;

    $self->heal($cdm);
    $what eq 'down'
        ? $cdm->refuse
        : $cdm->script({ when => { job => $when }, %{$CDM{$what}} });
    $self->later($seconds, 'cdm', sub { $self->heal($cdm) });

    return;
}

sub happen_refuse {
    my ($self) = @_;

    return $self->{cdm}->command('refuse', $self->{kinds}->any);
}

sub happen_revoke {
    my ($self) = @_;

    my $token = $self->happen_refuse // return;

    $self->{iam}->revoke($token);
    return;
}

sub happen_mortal {
    my ($self, undef, $seconds, $chance) = @_;

    # revoked at once, or left to its end
    $self->{kinds}->kill_mortal if $chance < 0.5;
    $self->{kinds}->mortal(2 + 3 * $seconds) if $chance > 0.3;

    return;
}

sub happen_burst {
    my ($self) = @_;

    $self->{load}->burst(80, qw(ok denied ok random_token forged));
    return;
}

sub happen_rotate {
    my ($self, $what) = @_;

    my $t = $self->{t};
    my $usr1 = sub { kill 'USR1', $t->master_pid };

    if ($what ne 'signal') {
        for my $file (map { $t->path($_) } @{$self->{audit}}) {
            rename $file, sprintf '%s.%05d', $file, ++$self->{rotations};
        }
    }

    $what eq 'rename_late' ? $self->later(1, 'usr1', $usr1) : $usr1->();

    return;
}

# Half of them with stops on their way to CDM.

sub happen_kill {
    my ($self, undef, undef, $chance) = @_;

    my ($t, $cdm, $load) = @$self{qw(t cdm load)};

    if ($chance < 0.5) {
        $self->heal($cdm);
        $cdm->script({ delay => 1 });
        $self->later(1, 'cdm', sub { $self->heal($cdm) });
        $load->burst(24, qw(ok sync));
        $load->run(0.3);
    }

    my @pids = $t->worker_pids or return;
    my $pid = $pids[$chance * 97 % @pids];

    $t->{killed}{$pid} = 1;
    kill 'KILL', $pid;
    push @{$self->{kills}}, time;

    return;
}

sub happen_reload {
    my ($self, $what) = @_;

    my $t = $self->{t};

    # the master reads it a while later
    $self->wait_for_master;
    $self->{version}++ if $what eq 'changed';
    $t->write('nginx.conf', $self->{config}->(
        $what eq 'broken' ? undef : $self->{version}));

    $self->{before} = -s $t->path('error.log');
    $self->{broken} = $what eq 'broken';
    kill 'HUP', $t->master_pid;
    push @{$self->{reloads}}, time;

    return;
}

# Until it has read what it was told to read.

sub wait_for_master {
    my ($self) = @_;

    my $from = delete $self->{before} // return;
    my $t = $self->{t};
    my $done = $self->{broken} ? qr/unknown directive "cdm_stop_nonsense"/
                               : qr/\[notice\] \d+#\d+: start worker process/;

    $t->wait_for(sub {
        $self->{load}->run(0.02);
        open my $log, '<:raw', $t->path('error.log') or return;
        seek $log, $from, 0;
        local $/;
        return (<$log> // '') =~ $done;
    }, what => 'a reload', timeout => 120);

    return;
}

# What was going on ends; the configuration is a good one.

sub clear {
    my ($self) = @_;

    $self->end_what_is_due(all => 1);
    $self->heal($_) for $self->{iam}, $self->{cdm};
    $self->wait_for_master;
    $self->{t}->write('nginx.conf', $self->{config}->($self->{version}));

    return;
}

1;
