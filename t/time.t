#!/usr/bin/perl

# Time: a token lives as long as IAM gave it, counted from its receipt by a
# clock that no one sets.  Neither a wall clock that jumps nor IAM's clock that
# is wrong changes that, and nor does a worker or a machine that slept.
#
# libfaketime gives nginx, and only nginx, another time: either the wall clock
# alone is moved, as by somebody who sets it, or all clocks are, as if so much
# time had passed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Cwd qw(abs_path);
use POSIX qw(strftime);
use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Http;
use CdmStop::Test;


my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1';
die "libfaketime is missing: t/build/deps.sh test\n" unless $library;

my @users = qw(cdm-gateway refused many);

# One nginx of its own for each part.

sub setup {
    my (%opt) = @_;

    my $t = CdmStop::Test->new(log => 'info');
    my $password = $t->ledger->password;
    $t->write_secret('secrets/password', $password);
    my $iam = $t->iam(
        users => { acme => { map { $_ => $password } @users[0, 2] } },
        life => 3600);
    my $cdm = $t->cdm;

    my $config = <<'EOC';
%%GLOBALS%%
worker_processes %%WORKERS%%;
env LD_PRELOAD;
env NO_FAKE_STAT;
env FAKETIME_NO_CACHE;
env FAKETIME_TIMESTAMP_FILE;
env FAKETIME_DONT_FAKE_MONOTONIC;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:4m;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    cdm_stop_iam huawei {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user cdm-gateway; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
    }
    cdm_stop_iam refused {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user refused; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
    }
    cdm_stop_iam many {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user many; projects any;
        password_file %%TESTDIR%%/secrets/password;
    }
    server {
        listen 127.0.0.1:%%PORT_verified%%;
        cdm_stop huawei;
        cdm_stop_verify required;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop huawei;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_refused%%;
        cdm_stop refused;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_many%%;
        cdm_stop many;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

    $config =~ s/%%PROJECTS%%/project_list(100)/ge;
    $t->config($config =~ s/%%WORKERS%%/$opt{workers} \/\/ 4/er);

    set_clock($t, 0);
    local @ENV{
        qw(FAKETIME_TIMESTAMP_FILE FAKETIME_DONT_FAKE_MONOTONIC
            FAKETIME_NO_CACHE NO_FAKE_STAT)
    } = ($t->path('clock'), $opt{wall_only} // 0, 1, 1);
    local $t->{binary} = wrapper($t);
    $t->start;
    $t->{shared} = $t->master_pid;

    return ($t, $iam, $cdm);
}

# The library sets itself up in a small program first: within AddressSanitizer,
# which asks for the time while it holds its locks, it would wait for itself.

sub wrapper {
    my ($t) = @_;

    my $binary = abs_path($t->{binary});
    return $t->write('run', <<"EOC", 0755);
#!/bin/sh
export LD_PRELOAD=$library
exec env "$binary" "\$@"
EOC
}

# How many seconds nginx's time is ahead of ours from now on.

sub set_clock {
    my ($t, $offset) = @_;

    $t->write('clock.new', sprintf("%+d\n", $offset));
    rename $t->path('clock.new'), $t->path('clock') or die "clock: $!\n";
    $t->{offset} = $offset;

    return;
}

# .. and a little later, when all timers that are due have gone off.

sub pass_time {
    my ($t, $seconds) = @_;

    set_clock($t, $t->{offset} + $seconds);
    sleep 0.05;

    return;
}

sub http_date {
    return strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime $_[0]);
}

sub end {
    my ($t) = @_;

    my $status = $t->stop;
    unlink glob "/dev/shm/*faketime_*_$t->{shared}";
    $t->stop_standins;
    $t->check_all($status);
    $t->{passed} = Test::More->builder->is_passing;

    return;
}

sub last_token_at {
    my ($cdm) = @_;

    return ($cdm->stops)[-1]->header('X-Auth-Token');
}


subtest 'M01 the wall clock is set' => sub {
    my ($t, $iam, $cdm) = setup(wall_only => 1);
    my $project = new_project();
    my $year = 365 * 86400;

    is($t->put_stop(project => $project)->{status}, 200, 'M01 a token');
    my $first = last_token_at($cdm);

    for my $case (
        ['an hour ahead', 3600], ['an hour behind', -3600],
        ['a day ahead', 86400], ['two years ahead', 2 * $year],
        ['two years behind', -2 * $year], ['right again', 0])
    {
        my ($name, $offset) = @$case;
        set_clock($t, $offset);

        my $answer = $t->put_stop(project => $project);
        my $date = $answer->header('Date');
        my $set = grep { $date eq http_date(time + $offset + $_) } -3 .. 1;
        ok($set, "M01 $name: nginx's clock is set")
            or diag($date);

        # over all workers
        my @answers =
            $t->finish(map { $t->start_stop(project => $project) } 1 .. 12);
        is(scalar(grep { $_ && $_->{status} == 200 } @answers), 12,
            "M01 $name: served");
        is(scalar posts_for($iam, $project), 1, "M01 $name: the token stays");

        # a token that is got at such a time
        my $new = new_project();
        is($t->put_stop(project => $new)->{status}, 200,
            "M01 $name: another token");
        like(
            $t->error_log,
            qr/IAM issued a token of \d+ bytes for 3\d\d\d seconds.*$new/,
            "M01 $name: its life is right");
        $t->put_stop(project => $new) for 1 .. 3;
        is(scalar posts_for($iam, $new), 1, "M01 $name: asked once");
    }
    is(scalar(grep { $_->header('X-Auth-Token') ne $first }
            grep { $_->{target} =~ /$project/ } $cdm->stops),
        0, 'M01 it was the same token all the time');

    # back-off and Retry-After are as long as they are
    set_clock($t, 2 * $year);
    my $retry = new_project();
    $iam->script(
        {   when => { body => qr/$retry/ }, answer => 'throttled',
            headers => ['Retry-After' => http_date(time + 40)]
        });
    my $told = $t->put_stop(project => $retry)->header('Retry-After');
    cmp_ok($told, '<=', 40, 'M01 Retry-After by the clock of IAM');
    cmp_ok($told, '>=', 20, 'M01 not less');
    set_clock($t, 4 * $year);
    is_refused('M01 it rests, whatever the clock says',
        $t->put_stop(project => $retry));
    is(scalar posts_for($iam, $retry), 1, 'M01 IAM is left alone');

    # no token is revived
    my @short = (new_project(), new_project());
    my @jump = (-2 * $year, 2 * $year);
    set_clock($t, 0);
    $iam->script(map { { when => { body => qr/$_/ }, life => 4 } } @short);
    for my $n (0, 1) {
        is($t->put_stop(project => $short[$n])->{status}, 200,
            'M01 a short token');
    }
    my %first = map { $_->{project} => $_ } $iam->tokens;
    for my $n (0, 1) {
        my $token = $first{$short[$n]};
        set_clock($t, $jump[$n]);
        is($t->put_stop(project => $short[$n])->{status}, 200,
            'M01 served before its end');
        is(scalar posts_for($iam, $short[$n]), 1, 'M01 with that token')
            if time < $token->{issued} + 2.8;
    }
    sleep 0.1 while time < $first{$short[1]}{issued} + 4.1;

    for my $n (1, 0) {
        set_clock($t, $jump[$n]);
        is($t->put_stop(project => $short[$n])->{status}, 200,
            'M01 served after its end');
        ok(last_token_at($cdm) ne $first{$short[$n]}{token},
            'M01 but not with that token');
        cmp_ok(scalar posts_for($iam, $short[$n]), '<=', 3,
            'M01 one request for each life');
    }

    end($t);
};


subtest 'M02 the clock of IAM is an hour off' => sub {
    my ($t, $iam, $cdm) = setup(wall_only => 1);
    my %project = map { $_ => new_project() } 3600, -3600;

    for my $skew (keys %project) {
        my $project = $project{$skew};
        $iam->set(skew => $skew, life => 4);
        is($t->put_stop(project => $project)->{status}, 200,
            "M02 $skew seconds: a token");
        my ($token) = grep { $_->{project} eq $project } $iam->tokens;

        while (time < $token->{issued} + 4.5) {
            push @{$token->{answers}},
                $t->finish(map { $t->start_stop(project => $project) } 1, 2);
            sleep 0.1;
        }

        is(scalar(grep { $_->{status} != 200 } @{$token->{answers}}), 0,
            "M02 $skew seconds: served");
        my @posts = posts_for($iam, $project);
        is(scalar @posts, 2, "M02 $skew seconds: renewed once");
        cmp_ok($posts[1]{time} - $posts[0]{time}, '>', 2.9,
            "M02 $skew seconds: when it was time");

        my %issued = map { $_->{token} => $_ } $iam->tokens;
        is(
            scalar(
                grep {
                    my $used = $issued{ $_->header('X-Auth-Token') };
                    $_->{time} > $used->{issued} + $used->{life};
                } $cdm->stops
            ),
            0,
            "M02 $skew seconds: no token was used past its end");
    }

    end($t);
};


subtest 'M03 a worker is stopped over the end of a token' => sub {
    my ($t, $iam, $cdm) = setup(workers => 1);
    my $project = new_project();

    # the second life is long enough for a machine that is busy
    $iam->script({ when => { body => qr/$project/ }, times => 1, life => 3 });
    is($t->put_stop(project => $project)->{status}, 200, 'M03 a token');
    my ($token) = $iam->tokens;

    my ($pid) = $t->worker_pids;
    $t->kill_worker($pid, 'STOP');
    my @handles = map { $t->start_stop(project => $project) } 1 .. 10;
    sleep 0.1 while time < $token->{issued} + 3.2;
    kill 'CONT', $pid;

    is( scalar(grep { $_ && $_->{status} == 200 } $t->finish(@handles)), 10,
        'M03 served when it goes on');
    is(
        scalar(
            grep { $_->header('X-Auth-Token') eq $token->{token} } $cdm->stops
        ),
        1,
        'M03 none with the token that ended meanwhile');
    is(scalar posts_for($iam, $project), 2, 'M03 one more request to IAM');

    end($t);
};


subtest 'M03 the machine was suspended' => sub {
    my ($t, $iam, $cdm) = setup();
    my ($project, $other) = (new_project(), new_project());

    is($t->put_stop(project => $_)->{status}, 200, 'M03 a token')
        for $project, $other;
    my $first = last_token_at($cdm);

    # past the end of both
    pass_time($t, 2 * 3600);
    my @answers =
        $t->finish(map { $t->start_stop(project => $other) } 1 .. 12);
    is(scalar(grep { $_ && $_->{status} == 200 } @answers), 12,
        'M03 served');
    is(scalar posts_for($iam, $other), 2, 'M03 one request to IAM');
    is( scalar(grep { $_->header('X-Auth-Token') eq $first } $cdm->stops), 1,
        'M03 the token that ended was not used again');
    is(scalar posts_for($iam, $project), 1,
        'M03 nobody renews a token that ended unused');

    # between the time of renewal and the end
    pass_time($t, 3200);
    is($t->put_stop(project => $other)->{status}, 200, 'M03 served');
    $t->wait_for(
        sub { posts_for($iam, $other) == 3 },
        what => 'renewal');
    pass('M03 a token near its end is renewed');

    end($t);
};


subtest 'bounds of rests' => sub {
    my ($t, $iam, $cdm) = setup();

    # a refused credential: 15 minutes, less a second or two for the test
    my %arg = (port => $t->port('refused'), project => new_project());
    my $refusals = sub { scalar posts_for($iam, $arg{project}) };
    is_refused('I06 refused', $t->put_stop(%arg));
    pass_time($t, 890);
    is_refused('I06 after 890 seconds', $t->put_stop(%arg));
    is($refusals->(), 1, 'I06 IAM is left alone');
    pass_time($t, 11);
    is_refused('I06 after 901 seconds', $t->put_stop(%arg));
    is($refusals->(), 2, 'I06 IAM is asked again');
    $t->expect_log(qr/\[alert\].*IAM refuses the gateway.*next try in 900 s/);

    # a Retry-After beyond all measure: 10 minutes
    my $project = new_project();
    $iam->script(
        {   when => { body => qr/$project/ }, times => 1,
            answer => 'throttled', headers => ['Retry-After' => '1000000000']
        });
    is_refused('I07 throttled', $t->put_stop(project => $project));
    pass_time($t, 590);
    is_refused('I07 after 590 seconds', $t->put_stop(project => $project));
    pass_time($t, 11);
    is($t->put_stop(project => $project)->{status}, 200,
        'I07 after 601 seconds');
    is(scalar posts_for($iam, $project), 2, 'I07 IAM was asked twice');

    # back-off: 1, 2, 4 .. 60 seconds, a fifth more or less
    my $down = new_project();
    $iam->script({ when => { body => qr/$down/ }, answer => 'server_error' });
    for my $n (1 .. 9) {
        is_refused("Q03 failure $n", $t->put_stop(project => $down));
        my @rests = map { /next try in (\d+) ms/ } lines_of($t, $down);
        is(scalar @rests, $n, 'Q03 one attempt');

        my $rest = 2**($n - 1);
        $rest = 60 if $rest > 60;
        ok( $rests[-1] >= 800 * $rest && $rests[-1] <= 1200 * $rest,
            "Q03 failure $n: $rest seconds, more or less")
            or diag($rests[-1]);
        pass_time($t, int($rest * 1.2) + 1);
    }

    # well again: the first failure after that is a first one
    $iam->script(
        { when => { body => qr/$down/ }, times => 1, life => 1800 },
        { when => { body => qr/$down/ }, answer => 'server_error' });
    is($t->put_stop(project => $down)->{status}, 200, 'Q03 well again');
    pass_time($t, 1801);
    is_refused('Q03 down again', $t->put_stop(project => $down));
    my ($rest) = (map { /next try in (\d+) ms/ } lines_of($t, $down))[-1];
    cmp_ok($rest, '<=', 1200, 'Q03 which begins with a second again');

    end($t);
};


subtest 'K13 256 projects, ten new ones a minute' => sub {
    my ($t, $iam, $cdm) = setup();
    my $port = $t->port('many');
    my @project = map { sprintf '%032x', 0xbed000 + $_ } 0 .. 299;
    my $n = 0;
    my $served = sub {
        my $count = grep { $_ && $_->{status} == 200 }
            $t->finish(map { $t->start_stop(port => $port, project => $_) }
                @_);
        return $count;
    };

    # the first token is over in two hours, all others in a day
    $iam->set(token_size => 200, life => 86400);
    $iam->script(
        { when => { body => qr/$project[0]/ }, times => 1, life => 7200 });

    my @rounds;
    while ($n < 256) {
        my $last = $n + 10 > 256 ? 256 : $n + 10;
        push @rounds, $served->(@project[$n .. $last - 1]);
        $n = $last;

        # in no minute there are more
        push @rounds, 10 + $served->($project[299]) if $n == 10 || $n == 130;
        if ($n == 10) {
            pass_time($t, 50);
            push @rounds, 10 + $served->($project[298]);
        }
        pass_time($t, 61);
    }
    is(join(' ', @rounds), join(' ', (10) x 28, 6), 'K13 256 are served');

    my $posts = $iam->posts;
    is($served->(@project[256 .. 265]), 0, 'K13 more are not');
    is_refused('K13 the 257th',
        $t->put_stop(port => $port, project => $project[256]));
    is(scalar $iam->posts, $posts, 'K13 IAM is not asked for them');
    is($served->(@project[1 .. 255]), 255, 'K13 those that are there go on');
    is(scalar $iam->posts, $posts, 'K13 with the tokens they have');

    # one lapses, and one more has room
    pass_time($t, 7200);
    is($served->(@project[256 .. 258]), 1,
        'K13 one lapsed, one more is served');
    is($served->(@project[1 .. 255]), 255, 'K13 the others go on');

    end($t);
};

subtest 'K11 a refusal is remembered for ten seconds' => sub {
    my ($t, $iam, $cdm) = setup();
    my $bad = $t->ledger->token(300);
    my $ask = sub {
        my $r = $t->put_stop(port => $t->port('verified'),
                             headers => ['X-Auth-Token' => $bad]);
        return ($r->json->{error_code} // '') . ' ' . scalar(() = $iam->gets);
    };
    is($ask->(), 'CDMSTOP.0102 1', 'K11 asked');
    pass_time($t, 8);
    is($ask->(), 'CDMSTOP.0102 1', 'K11 after 8 seconds: from memory');
    pass_time($t, 3);
    is($ask->(), 'CDMSTOP.0102 2', 'K11 after 11 seconds: asked anew');
    end($t);
};

subtest 'D07 renewals by 401: six in any minute' => sub {
    my ($t, $iam, $cdm) = setup();
    my $project = new_project();
    my $stop = sub {
        my $r = $t->put_stop(project => $project);
        my $rec = $t->records_of('audit.jsonl', $r->header('X-Request-Id'));
        return $r->{status} == 401 ? $rec->{outcome}{attempts} : $r->{status};
    };

    $cdm->script({ when => { project => $project }, answer => 'apig_0307' });
    is(join(' ', map { $stop->() } 1 .. 9), '2 2 2 2 2 2 1 1 1',
       'D07 six, then each 401 passes');
    pass_time($t, 50);
    is($stop->(), 1, 'D07 nor one more before the minute is over');
    is(scalar posts_for($iam, $project), 7, 'D07 seven calls of IAM');
    pass_time($t, 11);
    is(join(' ', map { $stop->() } 1 .. 9), '2 2 2 2 2 2 1 1 1',
       'D07 six more in the next minute');
    is(scalar posts_for($iam, $project), 13, 'D07 six calls of IAM');
    $cdm->script;
    pass_time($t, 61);
    is($stop->(), 200, 'D07 well again');
    $t->expect_log(qr/CDM refuses every token that IAM issues/);
    end($t);
};

done_testing();
