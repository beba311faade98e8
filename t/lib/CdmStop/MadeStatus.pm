package CdmStop::MadeStatus;

=head1 NAME

CdmStop::MadeStatus - answers of cdm_stop_status as a gateway would give them

=head1 SYNOPSIS

    my $status = CdmStop::MadeStatus::healthy(time => $now);
    my $status = CdmStop::MadeStatus::iam_failing(projects => 500);
    my $status = CdmStop::MadeStatus::iam_down();
    my $status = CdmStop::MadeStatus::crowded();
    my $status = CdmStop::MadeStatus::idle();
    CdmStop::MadeStatus::page($t);              # page.html, and its policy
    CdmStop::MadeStatus::publish($t, $status);  # status.json

For tests of the page alone, which need states that a real gateway is hard to
bring into. What a real one answers is tested where it is made. The numbers
are the same in each run.

C<page> and C<publish> write into the directory of a CdmStop::Test. In what is
published the time is C<msec> of nginx's SSI, so that its clock goes on.

=cut

use strict;
use warnings;
use utf8;

use Digest::SHA qw(sha256_hex);
use JSON::PP ();

use CdmStop::Process;

use constant { LIFE => 86400, MARGIN => 60, VERDICTS => [qw(
    stopped failed already_stopped not_found denied throttled unknown not_sent
)] };

sub true { return $JSON::PP::true }

sub false { return $JSON::PP::false }

# a number from 0 up to, not including, 1 that depends on the name alone

sub chance { return hex(substr sha256_hex(join ' ', @_), 0, 8) / 2**32 }

sub project { return substr sha256_hex("project $_[0]"), 0, 32 }

sub cluster {
    my ($i) = @_;

    return join '-', sha256_hex("cluster $i")
        =~ /\A(.{8})(.{4})(.{4})(.{4})(.{12})/;
}

# All members, as of a gateway that nobody has asked for anything.

sub idle {
    my (%opt) = @_;

    my $now = $opt{time} // 1_764_000_000.123;

    return {
        format => 1, time => $now, started => $now - 93_784, workers => 4,
        build => { module => '0.1.0', nginx => '1.26.3' },
        ready => { ok => true(), reasons => [] },
        waiting => { requests => 0, max => 16_384 },
        identities => [], tokens => [], tokens_more => 0, cdm => cdm($now, 0),
        totals => totals(), hour => hour($now), rules => [], last => [],
        verification => { valid => 0, other => 0, bytes => 0,
                          max_bytes => 8_388_608, evictions => 0 },
        zone => { name => 'cdm', size => 16_777_216, free => 16_384_000,
                  full => 0 },
        audit => [],
    };
}

sub healthy {
    my (%opt) = @_;

    my $projects = $opt{projects} // 6;
    my $s = idle(%opt);
    my $now = $s->{time};
    my @stops = stops($now);

    $s->{tokens} = [map { token($now, $_) } 1 .. $projects];
    $s->{identities} = [identity($now, 'huawei', $projects)];
    $s->{cdm} = cdm($now, 1);
    $s->{totals} = totals(1);
    $s->{rules} = rules();
    $s->{audit} = [target($now)];
    remember($s, @stops);
    $s->{verification} = { %{ $s->{verification} }, valid => 37, other => 2,
                           bytes => 41_216 };
    $s->{zone}{free} = 15_204_352;

    return $s;
}

# IAM is away for longer than some of the tokens live, so that stops are not
# possible in their projects.

sub iam_failing {
    my (%opt) = @_;

    my $s = healthy(%opt);
    my $now = $s->{time};

    $s->{waiting}{requests} = 3;

    my $i = 0;

    for my $token (@{ $s->{tokens} }) {
        my $ended = $i++ % 3 == 0 || $opt{all};

        %$token = (%$token,
            state => $ended ? 'failing' : 'stale', renew_in => 0,
            failures => 212, cause => 'unreachable', retry => 41.2 - $i % 7);
        @$token{qw(age left usable)} = $ended
            ? (LIFE + 1_300 + 200 * $i, 0, 0)
            : (LIFE - 1_000 * $i, 1_000 * $i, 1_000 * $i - MARGIN);
    }

    my ($identity) = @{ $s->{identities} };
    my $failing = grep { $_->{state} eq 'failing' } @{ $s->{tokens} };

    %$identity = (%$identity, state => 'failing',
        cause => 'unreachable', retry => 35.2, last_success => $now - 17_280,
        last_failure => $now - 18.4, failures_in_row => 212,
        projects => { good => @{ $s->{tokens} } - $failing,
                      failing => $failing, other => 0 });
    $identity->{requests}{issue}{unreachable} = 212;

    # a stop of a project whose token had ended by then was not possible
    my %end = map { $_->{project} => $now - ($_->{age} - LIFE) }
        grep { $_->{state} eq 'failing' } @{ $s->{tokens} };
    my @stops = stops($now);
    my $lost = 0;

    for my $stop (@stops) {
        next if !$stop->{sent} || $stop->{time} < ($end{$stop->{project}}
                                                   // $now);
        %$stop = (%$stop, sent => false(), verdict => 'not_sent',
                  status => 503, code => 'CDMSTOP.0301', attempts => 0);
        $lost++;
    }

    remember($s, @stops);
    $s->{hour}{iam_failed}[$_] = 1 for 0 .. 59;
    $s->{totals}{errors}{'CDMSTOP.0301'} = $lost;

    # neither sent, nor with an intent
    $s->{cdm}{requests} -= $lost;
    $s->{cdm}{responses}{'2xx'} -= $lost;
    $s->{cdm}{latency}{count} -= $lost;
    $s->{audit}[0]{$_} -= $lost for qw(written seq);
    $s->{audit}[0]{delay}{count} -= $lost;
    $s->{audit}[0]{checkpoint}{seq} = $s->{audit}[0]{seq};

    return $s;
}

# For longer than any lives.

sub iam_down {
    my (%opt) = @_;

    my $s = iam_failing(%opt, all => 1);

    $s->{ready} = { ok => false(), reasons => [{ code => 'iam_unreachable',
        identity => 'huawei', target => undef, retry => 35.2 }] };
    $s->{identities}[0]{ready} = false();

    return $s;
}

# Everything that seldom happens, and names that are long, at once.

sub crowded {
    my (%opt) = @_;

    my $s = healthy(%opt);
    my $now = $s->{time};
    my $refused = identity($now, 'otc-agency', 1);
    my $idle = identity($now, 'private-edition-with-a-rather-long-name', 0);

    %$refused = (%$refused, state => 'refused', cause => 'refused',
        retry => 812, last_failure => $now - 88, failures_in_row => 2,
        projects => { good => 1, failing => 1, other => 0 });
    %$idle = (%$idle, state => 'idle', last_success => undef,
        projects => { good => 0, failing => 0, other => 3 },
        requests => { issue => calls(), verify => calls() },
        latency => { issue => latencies(0), verify => latencies(0) });
    push @{ $s->{identities} }, $refused, $idle;

    my %none = (%{ $s->{tokens}[0] }, identity => $idle->{name},
        state => 'none', left => 0, usable => 0,
        map { $_ => undef } qw(age issued life generation renew_in));

    push @{ $s->{tokens} }, \%none,
        { %none, identity => 'otc-agency', state => 'failing',
          cause => 'refused', retry => 812, failures => 2 },
        { %{ $s->{tokens}[1] }, identity => 'otc-agency', project => undef,
          renewing => true() };
    %{ $s->{tokens}[2] } = (%{ $s->{tokens}[2] }, used => false(),
        left => 4_000, usable => 3_940, renew_in => 0);

    %{ $s->{cdm} } = (%{ $s->{cdm} }, state => 'failing', unreachable => 3,
        last_failure => $now - 30, failures_in_row => 3);
    push @{ $s->{audit} }, { %{ target($now) }, kind => 'syslog',
        target => 'syslog:server=10.1.2.3:514,facility=local7,tag=cdm_stop,'
        . 'severity=info', required => false(), state => 'failing',
        error => 'Connection refused', lost => 12, sync => true(),
        lost_by_stage => { intent => 4, outcome => 4, refused => 4 },
        unsynced => 2, sync_delay => latencies(100, 0.004, 0.021),
        chain => undef, seq => undef, signed => false(), owner => false(),
        checkpoint => undef };

    my @last = @{ $s->{last} };

    $last[0]{enforced} = false();
    %{ $last[1] } = (%{ $last[1] }, sent => false(), status => 400,
        code => 'CDMSTOP.0001', verdict => 'not_sent',
        map { $_ => undef } qw(job project cluster principal decision rule
                               reason));
    $last[2]{job} = '一个很长的作业名称' x 20;
    $last[3]{job} = 'x' x 240;

    # of another day, whenever it is shown
    $last[4]{time} -= 2 * 86_400;
    $s->{zone}{full} = 3;
    $s->{tokens_more} = 12;

    return $s;
}

# Writes the page as it is built; returns its policy.

sub page {
    my ($t) = @_;

    my ($html, $csp) = map {
        my ($exit, $out) = CdmStop::Process::capture(
            $^X, $t->root . '/t/build/page.pl', "--$_");
        die "page.pl --$_: $out" if $exit;
        $out;
    } qw(html csp);

    $t->write('page.html', $html);
    chomp $csp;

    return $csp;
}

# still => 1: with the time as it is, as from a cache.

sub publish {
    my ($t, $status, %opt) = @_;

    my $json = JSON::PP->new->canonical->utf8->encode($status);

    $json =~ s/"time":[\d.]+(?=,"tokens")/"time":<!--# echo var="msec" -->/
        or die "there is no time in the status\n" if !$opt{still};

    # never half of it
    $t->write('status.json.new', $json);
    rename $t->path('status.json.new'), $t->path('status.json')
        or die "status.json: $!\n";

    return;
}

sub token {
    my ($now, $i) = @_;

    my $age = int(60_000 * chance('age', $i)) + 0.123;

    return {
        identity => 'huawei', project => project($i), state => 'good',
        generation => 2 + int(9 * chance('generation', $i)),
        issued => $now - $age, age => $age, life => LIFE + 0,
        left => LIFE - $age, usable => LIFE - MARGIN - $age,
        renew_in => LIFE * 0.8 - $age, renewals => 1, renewing => false(),
        used => true(), failures => 0, cause => undef, retry => undef,
    };
}

sub latencies {
    my ($count, $p50, $p99) = @_;

    return $count
        ? { count => $count, sum => $count * $p50 * 1.2, p50 => $p50,
            p90 => ($p50 + $p99) / 2, p99 => $p99 }
        : { count => 0, sum => 0, p50 => undef, p90 => undef, p99 => undef };
}

sub calls {
    my (%some) = @_;

    return { map({ $_ => 0 } qw(ok unused unreachable answer throttled refused
                                via local)), %some };
}

sub identity {
    my ($now, $name, $projects) = @_;

    return {
        name => $name, method => 'password',
        iam => 'https://iam.cn-north-4.myhuaweicloud.com',
        scope => 'project', any_project => false(), used => true(),
        ready => true(), state => 'ok', cause => undef, retry => undef,
        last_success => $now - 1_284, last_failure => undef,
        failures_in_row => 0,
        projects => { good => $projects, failing => 0, other => 0 },
        requests => { issue => calls(ok => 3 * $projects),
                      verify => calls(ok => 412, refused => 9) },
        latency => { issue => latencies(3 * $projects, 0.118, 0.241),
                     verify => latencies(421, 0.037, 0.092) },
        verifying => { in_flight => 0, max => 32, retry => undef },
    };
}

sub cdm {
    my ($now, $busy) = @_;

    return {
        state => $busy ? 'ok' : 'idle',
        last_answer => $busy ? $now - 74 : undef, last_failure => undef,
        failures_in_row => 0, requests => $busy ? 1_927 : 0,
        repeats => $busy ? 6 : 0, unreachable => 0,
        responses => { '2xx' => $busy ? 1_894 : 0, '3xx' => 0,
                       401 => $busy ? 6 : 0, '4xx' => $busy ? 21 : 0,
                       '5xx' => 0, none => $busy ? 6 : 0 },
        latency => latencies($busy ? 1_921 : 0, 0.186, 0.92),
    };
}

sub totals {
    my ($busy) = @_;

    return {
        stops => $busy ? 2_047 : 0,
        decisions => { allow => $busy ? 1_921 : 0, deny => $busy ? 103 : 0,
                       none => $busy ? 23 : 0 },
        verdicts => $busy ? { stopped => 1_890, failed => 10,
            already_stopped => 15, not_found => 0, denied => 0,
            throttled => 0, unknown => 6, not_sent => 126 }
            : { map { $_ => 0 } @{ +VERDICTS } },
        errors => $busy ? { 'CDMSTOP.0201' => 103, 'CDMSTOP.0402' => 6,
                            'CDMSTOP.0102' => 14,
                            'CDMSTOP.0001' => 6, 'CDMSTOP.0004' => 3 } : {},
        tokens => { map { $_ => 0 } qw(hit wait stale renewed none) },
        callers => { map { $_ => 0 } qw(hit wait refused failed none) },
    };
}

# What became of the stops of the last hour.

sub hour {
    my ($now, @stops) = @_;

    my %hour = (step => 60, end => $now, iam_ok => [(0) x 60],
        iam_failed => [(0) x 60], cdm_latency => [(undef) x 60],
        iam_latency => [(undef) x 60],
        map { $_ => [(0) x 60] } qw(allow deny none));

    $hour{verdicts} = { map { $_ => [(0) x 60] } @{ +VERDICTS } };

    for my $stop (@stops) {
        my $minute = 59 - int(($now - $stop->{time}) / 60);

        $hour{$stop->{decision} // 'none'}[$minute]++;
        $hour{verdicts}{$stop->{verdict}}[$minute]++;
    }

    return \%hour;
}

# Stops of the last hour, the newest first, where they are shown.

sub remember {
    my ($s, @stops) = @_;

    my ($sent) = grep { $_->{sent} && $_->{verdict} ne 'unknown' } @stops;
    my ($unknown) = grep { $_->{verdict} eq 'unknown' } @stops;

    $s->{hour} = hour($s->{time}, @stops);
    $s->{last} = [@stops[0 .. 23]];
    $s->{cdm}{last_answer} = $sent->{time} + $sent->{duration};
    $s->{cdm}{last_failure} = $unknown->{time} + $unknown->{duration};
    $s->{audit}[0]{last_written} = $stops[0]{time} + $stops[0]{duration};

    return;
}

sub rules {
    my @rules = (['etl-owners', 'allow', 1_204], ['scheduler', 'allow', 717],
        ['prod-freeze', 'deny', 71], [undef, 'deny', 32]);

    return [map {
        { server => 'cdm.acme.example', location => '/v1.1/',
          policy => 'org', rule => $_->[0], decision => $_->[1],
          enforced => true(), count => $_->[2] }
    } @rules];
}

# All of an hour, the newest first.

sub stops {
    my ($now) = @_;

    my @stops;

    for my $minute (0 .. 59) {
        my $n = int(12 * chance('minute', $minute) ** 3);

        for my $k (1 .. $n) {
            push @stops, stop(@stops + 1,
                $now - 60 * $minute - 60 * ($k - 0.5) / $n);
        }
    }

    return @stops;
}

sub stop {
    my ($i, $time) = @_;

    my @jobs = qw(etl_orders_daily etl_customers jdbc2hive_sales prod_ledger
                  etl_clickstream dws_load_2026);
    my @who = ('airflow@acme', 'li.wei@acme', 'oncall-maria@acme');
    my @why = ('INC-20417 source database is being failed over', undef,
               '源库切换，暂停抽取', 'CHG-881 schema change');
    my $job = $jobs[$i % @jobs];
    my $kind = $i % 29;

    my %stop = (
        time => $time,
        request_id => substr(sha256_hex("request $i"), 0, 32),
        principal => $who[$i % @who], project => project(1 + ($i + 5) % 6),
        cluster => cluster($i % 4), job => $job,
        location => '/v1.1/', sent => true(), decision => 'allow',
        enforced => true(), rule => $i % @who ? 'etl-owners' : 'scheduler',
        reason => $why[$i % @why], verdict => 'stopped', status => 200,
        code => undef, attempts => 1,
        duration => 0.09 + 0.4 * chance('duration', $i));

    if ($job eq 'prod_ledger' || $kind == 6) {
        %stop = (%stop, sent => false(), decision => 'deny',
            verdict => 'not_sent', status => 403, code => 'CDMSTOP.0201',
            attempts => 0);
        @stop{qw(rule principal)} = $job eq 'prod_ledger'
            ? ('prod-freeze', $stop{principal}) : (undef, 'a.chen@acme');

    } elsif ($kind == 11) {
        %stop = (%stop, sent => false(), verdict => 'not_sent', status => 401,
            code => 'CDMSTOP.0102', attempts => 0,
            map { $_ => undef } qw(principal decision rule));

    } elsif ($kind == 5 || $kind == 19) {
        %stop = (%stop, verdict => 'already_stopped', status => 400);

    } elsif ($kind == 8) {
        %stop = (%stop, verdict => 'unknown', status => 504,
            code => 'CDMSTOP.0402', duration => 12.0);

    } elsif ($kind == 10) {
        %stop = (%stop, verdict => 'failed', attempts => 2);
    }

    return \%stop;
}

sub target {
    my ($now) = @_;

    return {
        target => '/var/log/nginx/cdm_stop.jsonl', kind => 'file',
        required => true(), sync => false(), keyed => true(), signed => true(),
        state => 'ok', error => undef, written => 3_968, lost => 0,
        lost_by_stage => { intent => 0, outcome => 0, refused => 0 },
        summed_up => 0, last_written => $now - 74, last_lost => undef,
        delay => latencies(3_968, 0.000021, 0.00034),
        sync_delay => latencies(0), unsynced => 0,
        chain => '9f3c514a170f2e41', seq => 3_968, owner => true(), open => 0,
        checkpoint => { seq => 3_968, time => $now - 41 },
    };
}

1;
