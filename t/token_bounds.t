#!/usr/bin/perl

# Bounds of the token cache: exchanges leave nothing behind, connections and
# shared memory may run out, the number of waiting requests is limited; and one
# worker, or none beside the master, is enough.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;


# One nginx of its own for each part; %%WORDS%% are replaced by its options.

sub setup {
    my (%opt) = @_;

    my $t = CdmStop::Test->new(log => 'info');
    $t->{fake_iam} = $t->iam(token_size => $opt{token_size} // 2000);
    $t->{fake_cdm} = $t->cdm;

    my $config = <<'EOC';
%%GLOBALS%%
%%PROCESSES%%
events { worker_connections %%CONNECTIONS%%; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:%%SIZE%%;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_wait %%WAIT%%;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       %%PROJECTS%%;
        timeout        %%TIMEOUT%%;
    }
    cdm_stop_iam refused {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           another;
        password_file  %%TESTDIR%%/secrets/password;
        projects       %%PROJECTS%%;
    }
    server {
        listen 127.0.0.1:%%PORT%% backlog=2048;
        listen 127.0.0.1:%%PORT_h2%% http2;
        http2_max_concurrent_streams 5000;
        keepalive_requests 10000;
        location /v1.1/ {
            cdm_stop huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /idle { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_refused%%;
        location /v1.1/ {
            cdm_stop refused;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

    my %word = (
        PROCESSES => $opt{processes} // 'worker_processes 1;',
        CONNECTIONS => $opt{connections} // 512, SIZE => $opt{size} // '8m',
        TIMEOUT => $opt{timeout} // '5s',
        WAIT => $opt{wait} // '20s', PROJECTS => project_list(600));
    $config =~ s/%%([A-Z]+)%%/$word{$1} \/\/ $&/ge;

    $t->config($config);
    $t->start;

    return ($t, @$t{qw(fake_iam fake_cdm)});
}


# The workers, or the only process.

sub processes {
    my ($t) = @_;

    return $t->worker_pids ? $t->worker_pids : $t->master_pid;
}


# The client has its answer a moment before the worker has closed the socket.

sub no_socket_left {
    my ($t, $before, $name) = @_;

    $t->wait_for(sub { sockets(processes($t)) == $before }, quiet => 1);

    return is(sockets(processes($t)), $before, "$name: no socket is left");
}


sub memory {
    my ($t) = @_;

    my ($pid) = $t->worker_pids;
    return (split ' ', CdmStop::Test::Nginx::slurp("/proc/$pid/statm"))[1] * 4;
}


sub end {
    my ($t) = @_;

    my $status = $t->stop;
    $t->stop_standins;
    $t->check_all($status);
    $t->{passed} = Test::More->builder->is_passing;

    return;
}


subtest 'Q01 hundreds of exchanges leave nothing behind' => sub {
    my ($t, $iam, $cdm) = setup(connections => 64, timeout => '100ms');

    my $before = sockets(processes($t));
    $t->put_stop(project => new_project());
    no_socket_left($t, $before, 'Q01 a first one');
    my $memory = memory($t);

    my %rule = (
        good => {}, '401' => { answer => 'wrong_password' },
        garbage => { body => 'x' },
        reset => { reset => 'after_request' }, cut => { close => 'mid_body' },
        'no header' => { raw => "x\r\n", close => 1 },
        silence => { hang => 1 },
        'no body' => {
            raw => "HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\n",
            hang => 1
        },
    );

    for my $name (sort keys %rule) {
        $iam->script($rule{$name});

        # where credentials are refused, the identity rests in all projects
        my $port = $t->port($name eq '401' ? 'refused' : '');
        my @status;

        for (1 .. 4) {
            my @handles =
                map { $t->start_stop(port => $port, project => new_project()) }
                1 .. 10;
            push @status, map { $_ ? $_->{status} : 0 } $t->finish(@handles);
        }

        my $want = $name eq 'good' ? 200 : 503;
        is(scalar(grep { $_ == $want } @status), 40, "Q01 $name: 40 exchanges")
            or diag("@status");
        no_socket_left($t, $before, "Q01 $name");
    }

    $iam->refuse;
    my @status =
        map { $t->put_stop(project => new_project())->{status} } 1 .. 40;
    is(scalar(grep { $_ == 503 } @status), 40, 'Q01 refused connections');
    no_socket_left($t, $before, 'Q01 refused connections');
    $iam->resume;

    # a client that leaves at once
    $iam->script({ hang => 1 });
    for (1 .. 4) {
        $_->reset for map { $t->start_stop(project => new_project()) } 1 .. 10;
        no_socket_left($t, $before, 'Q01 clients that left');
    }

    $iam->script;
    is( $t->put_stop(project => new_project())->{status}, 200,
        'Q01 all goes on');
    cmp_ok(
        memory($t) - $memory, '<', $t->{asan} ? 200_000 : 8_000,
        'Q01 memory is level');

    $t->expect_log(qr/\[alert\].*IAM refuses the gateway/);
    end($t);
};


subtest 'Q02 no connection is free for an exchange' => sub {
    my ($t, $iam, $cdm) = setup(connections => 25);
    my $project = new_project();

    # requests that are no stops hold all that there are but a few
    $cdm->script({ when => { target => '/idle' }, hold => 'idle' });
    my @idle;
    push @idle, $t->start_request(target => '/idle') for 1 .. 10;
    $cdm->wait_requests(10);

    my $answer = $t->put_stop(project => $project);
    is_refused('Q02 no connection', $answer);
    is( scalar(grep { $_->{target} ne '/idle' } $cdm->requests), 0,
        'Q02 no stop at CDM');

    $cdm->release('idle');
    $t->finish(@idle);
    ok(
        $t->wait_for(
            sub { $t->put_stop(project => $project)->{status} == 200 },
            quiet => 1
        ),
        'Q02 served when there are connections again');

    $t->allow_log(qr/worker_connections are not enough/);
    end($t);
};


# Frames are taken in the order in which they come: what was sent before this
# request has been seen when it is answered.

sub is_taken_in {
    my ($h2) = @_;

    my $id = $h2->request(
        headers => [
            [':method', 'GET'], [':scheme', 'http'], [':path', '/idle'],
            [':authority', 'localhost']
        ]);
    is($h2->response($id)->{status}, 200, 'Q02 other requests are served');

    return;
}


subtest 'Q02 4,096 requests of one worker wait, no more' => sub {
    my ($t, $iam, $cdm) = setup(timeout => '60s', wait => '60s');
    my $project = new_project();

    $iam->script({ hold => 'crowd' });
    my $first = $t->start_stop(project => $project);
    $iam->wait_requests(1);

    my $h2 = $t->h2(port => $t->port('h2'));
    my @ids = map {
        $h2->request(headers =>
                [$t->h2_stop_headers(project => $project, job => "h$_")])
    } 1 .. 4_100;

    # the last five are answered while the others wait
    my @refused = $h2->collect(@ids[4_095 .. 4_099]);
    is( scalar(grep { ($_->{status} // 0) == 503 } @refused), 5,
        'Q02 those beyond the bound: 503 at once');
    is($refused[0]->json->{error_code}, 'CDMSTOP.0301', 'Q02 their code')
        if $refused[0]{status};
    is(scalar $cdm->stops, 0, 'Q02 nothing at CDM');

    # one that leaves makes room for another
    $h2->rst($ids[0], 8);
    is_taken_in($h2);
    my $next = $t->start_stop(project => $project, job => 'next');
    sleep 0.3;
    ok( $next->is_open && !@{ $next->{responses} },
        'Q02 one that leaves makes room');

    # all but a few leave, for the sake of time
    $h2->rst($_, 8) for @ids[1 .. 4_000];
    is_taken_in($h2);
    $iam->release('crowd');
    is($t->finish($first)->{status}, 200, 'Q02 the first one is served');
    is($t->finish($next)->{status}, 200, 'Q02 the one that took the room');
    is(
        scalar(
            grep { ($_->{status} // 0) == 200 }
                $h2->collect(@ids[4_001 .. 4_094])
        ),
        94,
        'Q02 the others, too');
    is(scalar $iam->posts, 1, 'Q02 one exchange');
    end($t);
};


subtest 'K10 the zone is full' => sub {
    my ($t, $iam, $cdm) = setup(size => '256k', token_size => 31_000);
    my @project = map { new_project() } 1 .. 12;

    my @status = map { $t->put_stop(project => $_)->{status} } @project;
    my $served = grep { $_ == 200 } @status;
    cmp_ok(
        $served, '>=', 4,
        'K10 a small zone has room for some tokens of 31 KB');
    cmp_ok($served, '<', 12, 'K10 but not for all');
    is( scalar(grep { $_ != 200 && $_ != 503 } @status), 0,
        'K10 the others: 503');
    my $mend = 'enlarge "cdm_stop_zone"';
    $t->expect_log(qr/\[alert\].*no room for a token of 31000 bytes, $mend/);

    my @good = @project[grep { $status[$_] == 200 } 0 .. $#project];
    my $posts = $iam->posts;
    is( join(' ', map { $t->put_stop(project => $_)->{status} } @good),
        join(' ', (200) x @good),
        'K10 the tokens that are there stay');
    is(scalar $iam->posts, $posts, 'K10 and are used');

    my ($bad) = grep { $status[$_] == 503 } 0 .. $#project;
    my $before = $iam->posts;
    is_refused('K10 no room', $t->put_stop(project => $project[$bad]))
        for 1 .. 10;
    cmp_ok(
        scalar $iam->posts, '<=', $before + 1,
        'K10 no storm of requests to IAM');

    # one of those that are there ends, and is had anew
    is($t->put_stop(project => $good[0])->{status}, 200, 'K10 all goes on');
    end($t);
};


for my $way (
    ['one worker' => 'worker_processes 1;'],
    ['no worker' => 'master_process off;'],
    ['eight workers' => 'worker_processes 8;'])
{
    subtest "W08 $way->[0]" => sub {
        my ($t, $iam, $cdm) = setup(processes => $way->[1], timeout => '1s');
        my $project = new_project();

        $iam->script(
            { when => { body => qr/$project/ }, hold => 'way', life => 1.5 });
        my @handles = map { $t->start_stop(project => $project) } 1 .. 50;
        $iam->wait_requests(1);
        $iam->release('way');

        is( scalar(grep { $_ && $_->{status} == 200 } $t->finish(@handles)),
            50, 'W08 50 at once');
        is(scalar $iam->posts, 1, 'W08 one exchange');

        my ($token) = $iam->tokens;
        sleep 0.1 while time < $token->{issued} + $token->{life};
        is( $t->put_stop(project => $project)->{status}, 200,
            'W08 after the end of the token');
        is(scalar $iam->posts, 2, 'W08 another exchange');

        $iam->script({ hang => 1 });
        my $waits = $t->start_stop(project => new_project());
        $iam->wait_requests(3);
        $waits->reset;
        end($t);
    };
}

done_testing();
