#!/usr/bin/perl

# A token is renewed ahead of its end while requests go on with the current
# one: nobody waits after the first use, IAM is asked once for each life, and
# neither a killed or stopped worker nor a reload changes that.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;


my $t = CdmStop::Test->new(log => 'info');
my $password = $t->ledger->password;
$t->write_secret('secrets/password', $password);

my $iam = $t->iam(
    users => { acme => { map { $_ => $password } qw(cdm-gateway half early) } }
);
my $cdm = $t->cdm;

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 4;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:4m;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;

    # renewed after 80% of the life
    cdm_stop_iam huawei {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user cdm-gateway; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
    }

    # after half of it, never used in its last second
    cdm_stop_iam half {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user half; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
        refresh_ahead 50%; margin 1s;
    }

    # after a tenth of it; a lease of two seconds
    cdm_stop_iam early {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user early; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
        refresh_ahead 90%; timeout 1s;
    }

    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop huawei;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_half%%;
        cdm_stop half;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_early%%;
        cdm_stop early;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$config =~ s/%%PROJECTS%%/project_list(100)/ge;

$t->config($config);
$t->start;

# The worker that has a connection to IAM, by the tables of the kernel.

sub worker_at_iam {
    my $remote = sprintf '0100007F:%04X', $t->port('IAM');
    open my $table, '<', '/proc/net/tcp' or die "/proc/net/tcp: $!\n";
    my %inode =
        map { (split)[9] => 1 } grep { (split)[2] eq $remote } <$table>;

    for my $pid ($t->worker_pids(all => 1)) {
        for my $fd (glob "/proc/$pid/fd/*") {
            return $pid
                if (readlink($fd) // '') =~ /\Asocket:\[(\d+)\]/ && $inode{$1};
        }
    }

    return;
}

# The tokens of a project, in order, by value.

sub issued_for {
    my ($project) = @_;

    my @tokens = grep { $_->{project} eq $project } $iam->tokens;
    return (\@tokens, { map { $_->{token} => $_ } @tokens });
}

# The longest wait in the records of a project, but for the first n stops.

sub longest_wait {
    my ($project, $first) = @_;

    my @wait = map { /"wait_ms":(\d+)/ }
        grep { /"stage":"intent"/ && /"project_id":"$project"/ }
        split /\n/, $t->read('audit.jsonl');
    splice @wait, 0, $first;

    return (sort { $b <=> $a } @wait)[0];
}

# Every stop of a project must have come with a token of it that was good when
# the stop was there.

sub is_always_good {
    my ($name, $project) = @_;

    my (undef, $issued) = issued_for($project);
    my @bad = grep {
        my $token = $issued->{ $_->header('X-Auth-Token') // '' };
        !$token || $_->{time} > $token->{issued} + $token->{life};
    } grep { $_->{target} =~ /$project/ } $cdm->stops;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is(scalar @bad, 0, "$name: each stop came with a good token");
}

# Stops at once, and then again, until a sub is true.

sub load_until {
    my ($until, $n, %arg) = @_;

    my @bad;

    for (my $i = 0; !$until->(); $i++) {
        push @bad, grep { !$_ || $_->{status} != 200 }
            $t->finish(map { $t->start_stop(%arg, job => "j$i-$_") } 1 .. $n);
        sleep 0.02;
    }

    return @bad;
}


# TEST_NGINX_STEADY=300: with tokens of 30 seconds, for so many seconds

subtest 'K02 tokens of six seconds under load' => sub {
    my $seconds = $ENV{TEST_NGINX_STEADY} // 30;
    my $life = $ENV{TEST_NGINX_STEADY} ? 30 : 6;
    my ($steady, $half, $rare, $idle) = map { new_project() } 1 .. 4;
    my $port = $t->port('half');
    my ($begin, $bad, $asked) = (time, 0, 0);

    $iam->set(life => $life);

    # one that is used in each life, once, and one that is not used again
    is($t->put_stop(port => $port, project => $_)->{status}, 200, 'K02 first')
        for $rare, $idle;

    for (my $i = 0; time < $begin + $seconds; $i++) {
        my @handles = (
            (map { $t->start_stop(project => $steady) } 1 .. 3),
            (map { $t->start_stop(project => $half, port => $port) } 1, 2));

        if ($i % 5 == 0 && posts_for($iam, $rare) > $asked) {
            $asked = posts_for($iam, $rare);
            push @handles, $t->start_stop(port => $port, project => $rare);
        }

        $bad += grep { !$_ || $_->{status} != 200 } $t->finish(@handles);
        sleep 0.06;
    }

    is($bad, 0, 'K02 all were served');
    note(scalar($cdm->stops) . " stops in $seconds s, " . scalar($iam->posts)
        . ' calls of IAM');

    for my $case (['steady', $steady, 3, 0.76], ['half', $half, 2, 0.43]) {
        my ($name, $project, $first, $least) = @$case;
        my ($tokens) = issued_for($project);

        cmp_ok(scalar @$tokens, '>=', 3, "K02 $name: renewed");
        is( scalar posts_for($iam, $project), scalar @$tokens,
            "K02 $name: one request for each token");

        my @between = map { $tokens->[$_]{issued} - $tokens->[$_ - 1]{issued} }
            1 .. $#$tokens;
        is( scalar(grep { $_ < $least * $life } @between), 0,
            "K02 $name: one for each life")
            or diag("@between");
        is(longest_wait($project, $first), 0, "K02 $name: nobody waits");
        is_always_good("K02 $name", $project);
    }

    cmp_ok(scalar posts_for($iam, $half), '>', scalar posts_for($iam, $steady),
        'K02 refresh_ahead is obeyed');

    # nobody asks for these two when they are to be renewed
    cmp_ok(scalar posts_for($iam, $rare), '>=', 3,
        'K02 a token that is used now and then is renewed');
    is(longest_wait($rare, 1), 0, 'K02 and nobody waits');
    is_always_good('K02 now and then', $rare);
    is(scalar posts_for($iam, $idle), 2,
        'K02 one that is not used in a life lapses');
};


subtest 'K04 the worker that renews is killed' => sub {
    my $project = new_project();
    my %arg = (port => $t->port('early'), project => $project);

    # renewal is due between 0.1 and 3.8 seconds
    $iam->set(life => 20);
    $iam->script(
        { when => { body => qr/$project/ }, times => 1 },
        { when => { body => qr/$project/ }, times => 1, hold => 'kill' });
    is($t->put_stop(%arg)->{status}, 200, 'K04 a token');

    my @bad = load_until(sub { posts_for($iam, $project) == 2 }, 4, %arg);
    is(scalar @bad, 0, 'K04 served while it is renewed');

    $t->kill_worker(worker_at_iam());
    my $killed = time;

    # the lease would last two seconds
    @bad = load_until(sub { posts_for($iam, $project) == 3 }, 4, %arg);
    is(scalar @bad, 0, 'K04 served when its worker is gone');
    my @posts = posts_for($iam, $project);
    cmp_ok($posts[2]{time} - $killed, '<', $t->{asan} ? 1.5 : 1,
        'K04 the next request to IAM is made at once');
    $iam->release('kill');

    $t->wait_for(
        sub {
            $t->put_stop(%arg);
            my ($tokens) = issued_for($project);
            ($cdm->stops)[-1]->header('X-Auth-Token') eq $tokens->[-1]{token};
        },
        what => 'use of the new token');
    is(longest_wait($project, 1), 0, 'K04 nobody waited');
    $t->wait_for(sub { $t->worker_pids == 4 }, what => 'four workers');
};


subtest 'K04 the worker that renews is stopped past its lease' => sub {
    my $project = new_project();
    my %arg = (port => $t->port('early'), project => $project);
    my @token = map { $t->ledger->token(500) } 1 .. 2;

    $iam->set(life => 30);
    $iam->script(
        { when => { body => qr/$project/ }, times => 1 },
        {   when => { body => qr/$project/ }, times => 1, hold => 'stop',
            headers => ['X-Subject-Token' => $token[0]]
        },
        {   when => { body => qr/$project/ }, times => 1, life => 600,
            headers => ['X-Subject-Token' => $token[1]]
        });
    $cdm->reset_log;

    is($t->put_stop(%arg)->{status}, 200, 'K04 a token');
    my $first = ($cdm->stops)[-1]->header('X-Auth-Token');
    load_until(sub { posts_for($iam, $project) == 2 }, 2, %arg);

    my $holder = worker_at_iam();
    $t->kill_worker($holder, 'STOP');
    my $stopped = time;

    # its answer waits in its socket
    $iam->release('stop');

    # some requests are with the stopped worker and answered by it, later
    my @late;
    $t->wait_for(
        sub {
            push @late, $t->start_stop(%arg);
            posts_for($iam, $project) == 3;
        },
        what => 'the next request to IAM');
    my @posts = posts_for($iam, $project);
    cmp_ok($posts[2]{time} - $posts[1]{time}, '>', 1.9,
        'K04 the lease is obeyed');
    cmp_ok($posts[2]{time} - $stopped, '<', 3.5,
        'K04 and not longer than it lasts');

    $t->wait_for(
        sub {
            push @late, $t->start_stop(%arg);
            grep { $_->header('X-Auth-Token') eq $token[1] } $cdm->stops;
        },
        what => 'use of the newer token');

    kill 'CONT', $holder;
    is( scalar(grep { !$_ || $_->{status} != 200 } $t->finish(@late)), 0,
        'K04 all were served');
    $t->wait_for(
        sub { $t->error_log =~ /(?:too late|no answer in time).*$project/ },
        what => 'the end of the older exchange');
    pass('K04 the older exchange came too late');

    is($t->put_stop(%arg)->{status}, 200, 'K04 all goes on') for 1 .. 8;
    my %used = map { $_->header('X-Auth-Token') => 1 } $cdm->stops;
    is( join(' ', sort keys %used), join(' ', sort $first, $token[1]),
        'K04 it was never used');
    is(scalar posts_for($iam, $project), 3, 'K04 no further request to IAM');
};


subtest 'K05 twenty reloads under load' => sub {
    my $project = new_project();
    my %arg = (port => $t->port('half'), project => $project);
    my @bad;

    $iam->script;
    $iam->set(life => 600);
    is($t->put_stop(%arg)->{status}, 200, 'K05 a token');

    for my $n (1 .. 20) {
        my @handles =
            map { $t->start_stop(%arg, job => "r$n-$_") } 1 .. 6;
        $t->reload(keep_old => 1);
        push @handles, map { $t->start_stop(%arg, job => "n$n-$_") } 1 .. 6;
        push @bad, grep { !$_ || $_->{status} != 200 } $t->finish(@handles);
    }

    is(scalar @bad, 0, 'K05 all were served');
    is(scalar posts_for($iam, $project), 1, 'K05 no further request to IAM');
    is(longest_wait($project, 1), 0, 'K05 nobody waited');
};


subtest 'K05 renewal goes on in new workers' => sub {
    my ($project, %arg, $long, %old);

    $iam->set(life => 8);

    # the reload must be over before renewal is due, which is after 4 seconds
    for (1 .. 5) {
        $project = new_project();
        %arg = (port => $t->port('half'), project => $project);
        $iam->script(
            { when => { body => qr/$project/ }, times => 1 },
            { when => { body => qr/$project/ }, hold => 'renew' });
        is($t->put_stop(%arg)->{status}, 200, 'K05 a token');
        my ($tokens) = issued_for($project);

        # an old worker that still has a stop to end
        $cdm->reset_log;
        $cdm->script({ when => { job => 'long' }, hold => 'long' });
        $long = $t->start_stop(%arg, job => 'long');
        $t->wait_for(
            sub { grep { $_->{target} =~ /long/ } $cdm->stops },
            what => 'the long stop');
        %old = map { $_ => 1 } $t->worker_pids(all => 1);
        $t->reload(keep_old => 1);

        last if time < $tokens->[0]{issued} + 3.4;
        $iam->release('renew');
        $cdm->release('long');
        $t->finish($long);
    }

    # nobody asks
    $t->wait_for(
        sub { posts_for($iam, $project) == 2 },
        what => 'renewal');
    my $worker = worker_at_iam();
    ok($worker && !$old{$worker}, 'K05 it is not done by an old worker');
    ok( scalar(grep { $old{$_} } $t->worker_pids(all => 1)),
        'K05 one of which is still there');

    # another reload, in the middle of it
    $t->reload(keep_old => 1);
    is($t->put_stop(%arg)->{status}, 200, 'K05 reload amid renewal: served');
    is(scalar posts_for($iam, $project), 2, 'K05 no second renewal');
    $iam->release('renew');

    $t->wait_for(
        sub {
            $t->put_stop(%arg);
            my ($tokens) = issued_for($project);
            ($cdm->stops)[-1]->header('X-Auth-Token') eq $tokens->[-1]{token};
        },
        what => 'use of the new token');
    pass('K05 what an old worker got is used by the new ones');
    is(scalar posts_for($iam, $project), 2, 'K05 one renewal');

    $cdm->release('long');
    is($t->finish($long)->{status}, 200, 'K05 the long stop');
};


subtest 'W07 quit amid renewal' => sub {
    my $project = new_project();
    my %arg = (port => $t->port('early'), project => $project);

    $iam->set(life => 20);
    $iam->script(
        { when => { body => qr/$project/ }, times => 1 },
        { when => { body => qr/$project/ }, hold => 'quit' });
    is($t->put_stop(%arg)->{status}, 200, 'W07 a token');
    $t->wait_for(
        sub { posts_for($iam, $project) == 2 },
        what => 'renewal');
    my $last = $t->start_stop(%arg);
    is($t->finish($last)->{status}, 200, 'W07 served meanwhile');

    my $begin = time;
    is($t->stop, 0, 'W07 nginx ends');
    cmp_ok(time - $begin, '<', $t->{asan} ? 8 : 4,
        'W07 no later than the exchange');
};

$t->done;
