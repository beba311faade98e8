#!/usr/bin/perl

# The exchange with IAM belongs to a worker: what becomes of it, and of the
# requests that wait for it, when that worker is killed, stopped, replaced or
# hurried; and what a reload keeps.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;


my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 4;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:4m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        timeout        20s;
    }
    cdm_stop_iam quick {
        uri            http://127.0.0.1:%%IAM_PORT%%/v3;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        timeout        1s;
    }
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_wait 15s;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        cdm_stop huawei;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_quick%% reuseport;
        cdm_stop quick;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$t->config($config);
$t->start;

# How many requests are with each worker, above what it had.

sub spread {
    my ($n, $project) = @_;

    my %before = map { $_ => sockets($_) } $t->worker_pids;
    my @handles =
        map { $t->start_stop(project => $project, job => "j$_") } 1 .. $n;
    my %now;

    $t->wait_for(
        sub {
            my $sum = 0;
            $sum += $now{$_} = sockets($_) - $before{$_} for keys %before;
            return $sum >= $n && posts_for($iam, $project);
        },
        what => "$n waiting requests");

    return (\@handles, \%now);
}

# The worker that has a connection to a port, by the tables of the kernel.

sub worker_with_connection_to {
    my ($port) = @_;

    my $remote = sprintf '0100007F:%04X', $port;
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


subtest 'K04 the worker that asks IAM is killed' => sub {
    my $project = new_project();
    $iam->script(
        { when => { body => qr/$project/ }, times => 1, hold => 'kill' });

    my ($handles, $with) = spread(40, $project);
    is(scalar posts_for($iam, $project), 1, 'K04 one exchange');

    my $victim = worker_with_connection_to($t->port('IAM'));
    ok($victim, 'K04 the worker is found');
    $t->kill_worker($victim);

    # the lease would last 21 s, and the requests wait for 15 s
    my @answers = $t->finish(@$handles);
    my $lost = grep { !defined } @answers;
    cmp_ok($lost, '>=', 1, 'K04 its requests are lost');
    cmp_ok($lost, '<=', $with->{$victim}, 'K04 but no others');
    is( scalar(grep { $_ && $_->{status} == 200 } @answers), 40 - $lost,
        'K04 those of the other workers are served');

    my @posts = posts_for($iam, $project);
    is(scalar @posts, 2, 'K04 by one more exchange');
    cmp_ok(
        $posts[1]{time} - $posts[0]{time}, '<', 10,
        'K04 that did not wait for the end of the lease');

    $iam->release('kill');
    my ($last) = map { $_->{token} }
        grep { $_->{project} eq $project } reverse $iam->tokens;
    is(
        scalar(
            grep {
                       $_->{target} =~ /$project/
                    && $_->header('X-Auth-Token') ne $last
            } $cdm->stops
        ),
        0,
        'K04 with its token');

    $t->wait_for(sub { $t->worker_pids == 4 }, what => 'four workers');
    is($t->put_stop(project => $project)->{status}, 200, 'K04 all goes on');
    is(scalar posts_for($iam, $project), 2, 'K04 with the same token');
};


subtest 'K04 the worker that asks IAM is stopped' => sub {
    my $project = new_project();
    my $port = $t->port('quick');
    my @token = map { $t->ledger->token(500) } 1 .. 2;

    # its lease is one second, and one more for the clean-up
    $iam->script(
        {   when => { body => qr/$project/ }, times => 1, hold => 'stop',
            headers => ['X-Subject-Token' => $token[0]]
        },
        {   when => { body => qr/$project/ },
            headers => ['X-Subject-Token' => $token[1]]
        });
    $cdm->reset_log;

    my @handles =
        map { $t->start_stop(port => $port, project => $project) } 1 .. 40;
    my $holder = $t->wait_for(
        sub { worker_with_connection_to($t->port('IAM')) },
        what => 'exchange');
    $t->kill_worker($holder, 'STOP');

    # the answer waits in its socket
    $iam->release('stop');

    $t->wait_for(
        sub { posts_for($iam, $project) == 2 },
        what => 'the next exchange');
    $t->wait_for(
        sub { $cdm->count > 0 },
        what => 'stops of the other workers');
    kill 'CONT', $holder;

    my @answers = $t->finish(@handles);
    is(scalar(grep { !defined } @answers), 0, 'K04 each gets an answer');
    is( scalar(grep { $_->{status} == 200 } @answers),
        scalar(grep { $_->{status} != 503 } @answers),
        'K04 from CDM or 503');
    is(scalar posts_for($iam, $project), 2, 'K04 no third exchange');
    is( scalar(grep { $_->header('X-Auth-Token') ne $token[1] } $cdm->stops),
        0, 'K04 the older answer is dropped');
    is( $t->put_stop(port => $port, project => $project)->{status}, 200,
        'K04 the newer one stays');
    is( ($cdm->stops)[-1]->header('X-Auth-Token'), $token[1],
        'K04 the newer token is used');
};


subtest 'K05 reload while requests wait' => sub {
    my $project = new_project();
    $iam->script({ when => { body => qr/$project/ }, hold => 'reload' });
    $cdm->reset_log;

    my ($handles) = spread(40, $project);
    my @old = $t->worker_pids;
    $t->reload(keep_old => 1);

    my @more =
        map { $t->start_stop(project => $project, job => "new$_") } 1 .. 20;
    $t->wait_for(
        sub { sockets($t->worker_pids) >= 20 },
        what => 'requests at new workers');
    sleep 0.2;

    is( scalar posts_for($iam, $project), 1,
        'K05 new workers wait for the exchange of an old one');
    $iam->release('reload');

    is( scalar(grep { $_ && $_->{status} == 200 } $t->finish(@$handles)), 40,
        'K05 the requests of old workers are served');
    is( scalar(grep { $_ && $_->{status} == 200 } $t->finish(@more)), 20,
        'K05 and those of new ones');
    is(scalar posts_for($iam, $project), 1, 'K05 one exchange');

    my %left;
    $t->wait_for(
        sub {
            %left = map { $_ => 1 } $t->worker_pids(all => 1);
            !grep { $left{$_} } @old;
        },
        what => 'end of the old workers');
    pass('K05 old workers end');

    # three times in a row: the token stays
    $t->reload for 1 .. 3;
    is($t->put_stop(project => $project)->{status}, 200, 'K05 after reloads');
    is(scalar posts_for($iam, $project), 1, 'K05 the token is kept');
};


subtest 'K06 reload with another identity' => sub {
    my $project = new_project();
    $iam->script;
    $cdm->reset_log;

    is($t->put_stop(project => $project)->{status}, 200, 'K06 a token');

    my $password = $t->ledger->password;
    $iam->set(
        users => {
            acme => { 'cdm-gateway' => $password, 'other-user' => $password }
        });
    $t->write_secret('secrets/password', $password);
    is( $t->put_stop(project => $project)->{status}, 200,
        'K06 the file changed');
    is( scalar posts_for($iam, $project), 1,
        'K06 which is read by a reload only');

    $t->reload;
    is( $t->put_stop(project => $project)->{status}, 200,
        'K06 another password');
    is(scalar posts_for($iam, $project), 2, 'K06 another token');

    my @tokens = map { $_->header('X-Auth-Token') } $cdm->stops;
    is($tokens[1], $tokens[0], 'K06 the old one before the reload');
    isnt($tokens[2], $tokens[0], 'K06 not after it');

    $t->config(
        $config =~ s/user           cdm-gateway/user           other-user/r);
    $t->reload;
    is($t->put_stop(project => $project)->{status}, 200, 'K06 another user');
    is(scalar posts_for($iam, $project), 3, 'K06 another token');

    $t->config($config);
    $t->reload;
    is($t->put_stop(project => $project)->{status}, 200, 'K06 back again');
    is(scalar posts_for($iam, $project), 3, 'K06 whose token is still good');
    is( ($cdm->stops)[-1]->header('X-Auth-Token'), $tokens[2],
        'K06 the same one');
};


subtest 'W05 reload with a zone of another size' => sub {
    my $project = new_project();
    is($t->put_stop(project => $project)->{status}, 200, 'W05 a token');

    $t->config($config =~ s/cdm:4m/cdm:2m/r);
    $t->reload;
    is( $t->put_stop(project => $project)->{status}, 200,
        'W05 another size: served');
    is(scalar posts_for($iam, $project), 2, 'W05 with a token of its own');

    $t->config($config);
    $t->reload;
    is( $t->put_stop(project => $project)->{status}, 200,
        'W05 back again: served');
    is( scalar posts_for($iam, $project), 3,
        'W05 and nothing of the first zone is left');
};


subtest 'I06 a reload with the right password ends the rest' => sub {
    my $project = new_project();
    my ($right) = map { $t->read("secrets/$_") } 'password';

    $t->write_secret('secrets/password', $t->ledger->password);
    $t->reload;
    is_refused('I06 a wrong password', $t->put_stop(project => $project));
    $t->reload;
    is_refused(
        'I06 after a reload without a change',
        $t->put_stop(project => $project));
    is(scalar posts_for($iam, $project), 1, 'I06 IAM is not asked again');

    $t->write_secret('secrets/password', $right);
    $t->reload;
    is( $t->put_stop(project => $project)->{status}, 200,
        'I06 the right password is used at once');
    $t->expect_log(qr/\[alert\].*IAM refuses the gateway: status 401/);
};


subtest 'W07 quick ends while an exchange is under way' => sub {
    my $project = new_project();
    $iam->script({ when => { body => qr/$project/ }, hold => 'quit' });

    my ($handles) = spread(10, $project);
    is($t->stop(signal => 'TERM'), 0, 'W07 TERM ends nginx');
    is( scalar(grep { $_ && $_->{status} == 200 } $t->finish(@$handles)), 0,
        'W07 none of the stops was sent');

    $t->config($config =~ s/^worker_/worker_shutdown_timeout 300ms;\n$&/mr);
    $t->start;
    $iam->script({ when => { body => qr/$project/ }, hold => 'shutdown' });
    $iam->reset_log;
    $iam->script({ when => { body => qr/$project/ }, hold => 'shutdown' });
    $cdm->reset_log;
    ($handles) = spread(10, $project);
    my %old = map { $_ => 1 } $t->worker_pids;
    $t->reload(keep_old => 1);
    my @answers = $t->finish(@$handles);
    ok(
        $t->wait_for(
            sub {
                !grep { $old{$_} } $t->worker_pids(all => 1);
            },
            timeout => 8,
            quiet => 1
        ),
        'W07 worker_shutdown_timeout ends the workers');
    is( scalar(grep { $_ && $_->{status} == 200 } @answers), 0,
        'W07 and the waiting');
    is($cdm->bytes, 0, 'W07 nothing at CDM');

    $iam->script;
    ok(
        $t->wait_for(
            sub { $t->put_stop(project => $project)->{status} == 200 },
            quiet => 1
        ),
        'W07 the new workers ask for themselves');
};

$t->done;
