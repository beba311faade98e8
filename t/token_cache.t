#!/usr/bin/perl

# The token cache: one request to IAM for one token, however many requests
# wait for it in however many workers; never a token of another identity, of
# another project or past its end; IAM is left alone while it fails.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;

# thousands of requests: a debug log of them would take longer than all else
my $t = CdmStop::Test->new(log => 'info');

my $password = $t->ledger->password;
$t->write_secret('secrets/right', $password);
$t->write_secret('secrets/wrong', $t->ledger->password);

# two directories of users, as two different IAM would have them

my %users = (
    acme => { 'cdm-gateway' => $password, second => $password },
    other => { 'cdm-gateway' => $password },
    ab => { c => $password }, a => { bc => $password },
);

my $iam = $t->iam(users => \%users);
my $iam2 = $t->standin(
    'CdmStop::Iam', port => 'IAM2', name => 'iam2',
    users => \%users);
my $cdm = $t->cdm;

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 4;
events { worker_connections 2048; }
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
        password_file %%TESTDIR%%/secrets/right;
    }

    # each differs from the first in one thing
    cdm_stop_iam user {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user second; projects any;
        password_file %%TESTDIR%%/secrets/right;
    }
    cdm_stop_iam domain {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain other; user cdm-gateway; projects any;
        password_file %%TESTDIR%%/secrets/right;
    }
    cdm_stop_iam uri {
        uri http://127.0.0.1:%%PORT_IAM2%%; insecure on;
        domain acme; user cdm-gateway; projects any;
        password_file %%TESTDIR%%/secrets/right;
    }
    cdm_stop_iam password {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user cdm-gateway; projects any;
        password_file %%TESTDIR%%/secrets/wrong;
    }

    # the fields of these two join to the same string
    cdm_stop_iam ab_c {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain ab; user c; projects any;
        password_file %%TESTDIR%%/secrets/right;
    }
    cdm_stop_iam a_bc {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain a; user bc; projects any;
        password_file %%TESTDIR%%/secrets/right;
    }

    # the same in all but a name: one token will do
    cdm_stop_iam listed {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user cdm-gateway;
        password_file %%TESTDIR%%/secrets/right;
        projects 1551c7f6c808414d8e9f3c514a170f2e
            00000000000000000000000000000002;
    }

    server {
        listen 127.0.0.1:%%PORT%%;
        listen 127.0.0.1:%%PORT_h2%% http2;
        cdm_stop huawei;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_many%% reuseport backlog=2048;
        cdm_stop huawei;
        cdm_stop_audit %%TESTDIR%%/many.jsonl;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_user%%;
        cdm_stop user;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_domain%%;
        cdm_stop domain;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_uri%%;
        cdm_stop uri;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_password%%;
        cdm_stop password;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_ab_c%%;
        cdm_stop ab_c;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_a_bc%%;
        cdm_stop a_bc;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_listed%%;
        cdm_stop listed;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_left%%;
        listen 127.0.0.1:%%PORT_left_h2%% http2;
        cdm_stop huawei;
        cdm_stop_audit %%TESTDIR%%/left.jsonl;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_hurry%%;
        cdm_stop huawei;
        cdm_stop_wait 300ms;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$t->config($config =~ s/%%PROJECTS%%/$t->PROJECT . project_list(100)/er);

# nginx starts without IAM
$iam->refuse;
$t->start;


subtest 'K03 IAM is dead when nginx starts' => sub {
    is_refused('K03 no IAM', $t->put_stop);
    is($cdm->bytes, 0, 'K03 nothing at CDM');

    $iam->resume;
    my $status = $t->wait_for(
        sub { $t->put_stop->{status} == 200 },
        what => 'recovery', timeout => 10);
    is($status, 1, 'K03 works by itself when IAM is there');
    is(scalar $iam->posts, 1, 'K03 with one request');
};


subtest 'K01 1,000 first requests at once over 4 workers' => sub {
    my $project = new_project();
    my $port = $t->port('many');

    $iam->script({ when => { body => qr/$project/ }, hold => 'all' });
    $cdm->reset_log;

    my $before = sockets($t->worker_pids);
    my @handles = map {
        $t->start_stop(port => $port, project => $project, job => "j$_")
    } 1 .. 1000;
    $t->wait_for(
        sub { sockets($t->worker_pids) >= $before + 1000 },
        what => '1,000 connections');

    my @each = map { sockets($_) } $t->worker_pids;
    is( scalar(grep { $_ > 100 } @each), 4,
        'K01 all four workers have some of them'
    ) or diag("@each");

    is($cdm->bytes, 0, 'K01 none went on without a token');
    $iam->release('all');

    my @answers = $t->finish(@handles);
    is( scalar(grep { $_ && $_->{status} == 200 } @answers), 1000,
        'K01 all got the answer of CDM');
    is(scalar(posts_for($iam, $project)), 1, 'K01 IAM was asked once');
    is($cdm->count, 1000, 'K01 each is at CDM, once');

    my %jobs = map { $_->{target} => 1 } $cdm->stops;
    is(scalar keys %jobs, 1000, 'K01 and no other');

    my ($token) =
        map { $_->{token} } grep { $_->{project} eq $project } $iam->tokens;
    is(
        scalar(
            grep { join(',', $_->all('X-Auth-Token')) eq $token } $cdm->stops
        ),
        1000,
        'K01 with the token of that request');

    $t->wait_for(
        sub { 2000 <= (() = $t->read('many.jsonl') =~ /\n/g) },
        what => 'records');
    my @records = $t->records('many.jsonl');
    my %generation = map { $_->{token_generation} => 1 } @records;
    my %fingerprint = map { $_->{injected_token} => 1 } @records;
    is(scalar @records, 2000, 'K01 two records for each');
    is(scalar keys %generation, 1, 'K01 one generation in the records');
    is(scalar keys %fingerprint, 1, 'K01 one fingerprint in the records');
    is( scalar(grep { $_->{wait_ms} > 0 } @records), 2000,
        'K01 the wait is recorded');

    my $next = $t->put_stop(port => $port, project => $project);
    is($next->{status}, 200, 'K01 the next one');
    my ($intent) = $t->read('many.jsonl') =~
        /^(\{"v":1,.*"stage":"intent",.*${\$next->header('X-Request-Id')}.*)$/m;
    like($intent, qr/"wait_ms":0,"hash"/, 'K01 does not wait');
    like(
        $intent, qr/"token_generation":${\(keys %generation)[0]},/,
        'K01 has the same generation');

    # without a pause, and over one HTTP/2 connection
    $iam->script;
    $project = new_project();
    @handles = map {
        $t->start_stop(port => $port, project => $project, job => "j$_")
    } 1 .. 300;
    @answers = $t->finish(@handles);
    is( scalar(grep { $_ && $_->{status} == 200 } @answers), 300,
        'K01 300 more');
    is(scalar(posts_for($iam, $project)), 1, 'K01 one request to IAM');

    $project = new_project();
    my $h2 = $t->h2(port => $t->port('h2'));
    my @ids = map {
        $h2->request(headers =>
                [$t->h2_stop_headers(project => $project, job => "h$_")])
    } 1 .. 100;
    @answers = $h2->collect(@ids);
    is( scalar(grep { ($_->{status} // 0) == 200 } @answers), 100,
        'K01 100 streams');
    is(scalar(posts_for($iam, $project)), 1, 'K01 one request to IAM');
};


subtest 'K06 no two of them share an entry' => sub {
    my %who = (
        huawei => ['acme', 'cdm-gateway'], user => ['acme', 'second'],
        domain => ['other', 'cdm-gateway'], uri => ['acme', 'cdm-gateway'],
        ab_c => ['ab', 'c'], a_bc => ['a', 'bc'],
    );

    my @project = (new_project(), new_project());
    my %seen;

    # twice in either order: the second round is from the cache
    for my $round (1, 2) {
        for my $name ($round == 1 ? sort keys %who : reverse sort keys %who) {
            for my $project (@project) {
                $cdm->reset_log;
                my $port = $t->port($name eq 'huawei' ? '' : $name);
                is( $t->put_stop(port => $port, project => $project)->{status},
                    200,
                    "K06 $name: served");

                my ($stop) = $cdm->stops;
                my $token = $stop->header('X-Auth-Token');
                my $standin = $name eq 'uri' ? $iam2 : $iam;
                my ($issued) = grep { $_->{token} eq $token } $standin->tokens;
                is( join(' ', @$issued{qw(domain user project)}),
                    "@{$who{$name}} $project",
                    "K06 $name: the token is that of this identity and "
                        . "project");
                $seen{$token}++;
            }
        }
    }

    is(scalar keys %seen, 12, 'K06 twelve tokens');
    is(scalar(grep { $_ != 2 } values %seen), 0, 'K06 each used twice');
    is( scalar(posts_for($iam, $project[0])), 5,
        'K06 one request to IAM for each');
    is( scalar(grep { $_->{body} =~ /$project[0]/ } $iam2->posts), 1,
        'K06 and to the other IAM');

    is_refused(
        'K06 same user, another password',
        $t->put_stop(port => $t->port('password'), project => $project[0]));
    $t->expect_log(
        qr/\[alert\].*IAM refuses the gateway.*identity: "password"/);
};


subtest 'K13 projects' => sub {
    my $posts = $iam->posts;
    my $port = $t->port('listed');
    $cdm->reset_log;

    for my $project (
        '1551c7f6c808414d8e9f3c514a170f2f', '0551c7f6c808414d8e9f3c514a170f2e',
        '0' x 32, '00000000000000000000000000000020')
    {
        my $answer = $t->put_stop(port => $port, project => $project);
        is($answer->{status}, 403, "K13 $project is not listed");
        is($answer->json->{error_code}, 'CDMSTOP.0203', 'K13 its code');
        is($answer->header('Retry-After'), undef, 'K13 no Retry-After');

        my $record =
            $t->records_of('audit.jsonl', $answer->header('X-Request-Id'));
        is(join(' ', keys %$record), 'refused', 'K13 one record');
        is( $record->{refused}{error_code}, 'CDMSTOP.0203',
            'K13 with the code');
    }

    is(scalar $iam->posts, $posts, 'K13 no request to IAM');
    is($cdm->bytes, 0, 'K13 nothing at CDM');

    is( $t->put_stop(port => $port, project => '0' x 31 . '2')->{status}, 200,
        'K13 one that is listed');
    is($t->put_stop(port => $port)->{status}, 200, 'K13 another one');
    is(scalar $iam->posts, $posts + 1, 'K13 whose token is there already');
};


subtest 'Q02 a request waits no longer than cdm_stop_wait' => sub {
    my $project = new_project();
    my $port = $t->port('hurry');

    $iam->script({ when => { body => qr/$project/ }, hold => 'hurry' });
    $cdm->reset_log;

    # one that waits longer is not held up by those that give up
    my $patient = $t->start_stop(project => $project, job => 'patient');
    $t->wait_for(
        sub { posts_for($iam, $project) },
        what => 'the request to IAM');

    my $begin = time;
    my @answers =
        $t->finish(map { $t->start_stop(port => $port, project => $project) }
            1 .. 20);
    cmp_ok(time - $begin, '>', 0.25, 'Q02 they waited');
    is_refused('Q02 IAM is slow', $_) for @answers;
    is($cdm->bytes, 0, 'Q02 nothing at CDM');

    my ($record) = map { $_->{refused} }
        $t->records_of('audit.jsonl', $answers[0]->header('X-Request-Id'));
    is($record->{error_code}, 'CDMSTOP.0301', 'Q02 the record');

    is_refused(
        'Q02 IAM is still slow',
        $t->put_stop(port => $port, project => $project));
    $iam->release('hurry');
    is($t->finish($patient)->{status}, 200, 'Q02 the patient one is served');
    is( $t->put_stop(port => $port, project => $project)->{status}, 200,
        'Q02 the next hasty one too');
    is( scalar(posts_for($iam, $project)), 1,
        'Q02 all of it with one request to IAM');
};


subtest 'D14 the client leaves while its stop waits' => sub {
    my $project = new_project();
    my $port = $t->port('left');

    $iam->script({ when => { body => qr/$project/ }, hold => 'left' });
    $cdm->reset_log;

    my $before = sockets($t->worker_pids);
    my @stay = map {
        $t->start_stop(port => $port, project => $project, job => "stay$_")
    } 1 .. 50;
    my @gone = map {
        $t->start_stop(port => $port, project => $project, job => "gone$_")
    } 1 .. 50;
    my $h2 = $t->h2(port => $t->port('left_h2'));
    my @ids = map {
        $h2->request(headers =>
                [$t->h2_stop_headers(project => $project, job => "h2-$_")])
    } 1 .. 10;

    $t->wait_for(
        sub {
            posts_for($iam, $project)
                && sockets($t->worker_pids) >= $before + 101;
        },
        what => 'waiting requests');

    $_ % 2 ? $gone[$_]->reset : $gone[$_]->close for 0 .. $#gone;
    $h2->rst($_, 8) for @ids[0 .. 4];

    my @left = $t->wait_records(
        'left.jsonl',
        sub {
            55 == grep {
                $_->{project_id} eq $project && $_->{job_name} =~ /gone|h2/
            } @_;
        });
    @left = grep { $_->{project_id} eq $project } @left;

    is(
        scalar(
            grep {
                       $_->{stage} eq 'refused'
                    && $_->{status} == 499
                    && $_->{verdict} eq 'not_sent'
                    && !exists $_->{error_code}
            } @left
        ),
        55,
        'D14 one record for each that left');
    is($cdm->bytes, 0, 'D14 nothing at CDM');

    $iam->release('left');
    is( scalar(grep { $_ && $_->{status} == 200 } $t->finish(@stay)), 50,
        'D14 the others are served');
    is( scalar(grep { ($_->{status} // 0) == 200 } $h2->collect(@ids[5 .. 9])),
        5, 'D14 the other streams too');
    is( scalar(grep { $_->{target} =~ /gone|h2-[1-5]\// } $cdm->stops), 0,
        'D14 none of those that left is at CDM');
    is(scalar(posts_for($iam, $project)), 1, 'D14 one request to IAM');

    # the very request that caused the exchange leaves: its token is kept
    $project = new_project();
    $iam->script({ when => { body => qr/$project/ }, hold => 'alone' });
    my $alone = $t->start_stop(port => $port, project => $project);
    $t->wait_for(
        sub { posts_for($iam, $project) },
        what => 'the request to IAM');
    $alone->reset;
    $t->wait_records(
        'left.jsonl',
        sub {
            grep { $_->{project_id} eq $project } @_;
        });
    $iam->release('alone');
    is( $t->put_stop(port => $port, project => $project)->{status}, 200,
        'D14 the exchange outlives its request');
    is( scalar(posts_for($iam, $project)), 1,
        'D14 its token is used by the next one');
};


subtest 'B03 stops in one segment wait one after the other' => sub {
    my $project = new_project();
    $iam->script({ when => { body => qr/$project/ }, hold => 'pipeline' });
    $cdm->reset_log;

    my $c = $t->connect;
    $c->send(
        join '',
        map {
                  'PUT '
                . $t->stop_target(project => $project, job => "p$_")
                . " HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n$_"
        } 1 .. 5);
    $t->wait_for(
        sub { posts_for($iam, $project) },
        what => 'the request to IAM');
    is($cdm->bytes, 0, 'B03 all wait');
    $iam->release('pipeline');

    my @answers = $c->responses(5);
    is( join(' ', map { $_->{status} } @answers), '200 200 200 200 200',
        'B03 five answers');
    is(join(' ', map { $_->{body} } $cdm->stops), '1 2 3 4 5', 'B03 in order');
    $c->close;
};


subtest 'an ended token is never used' => sub {
    my $project = new_project();
    my $until = time + 5;

    $iam->script({ when => { body => qr/$project/ }, life => 1.5 });
    $cdm->reset_log;

    my $n = 0;
    while (time < $until) {
        my @answers =
            $t->finish(map { $t->start_stop(project => $project) } 1 .. 4);
        $n += grep { $_->{status} == 200 } @answers;
        sleep 0.02;
    }

    my %issued = map { $_->{token} => $_ } $iam->tokens;
    my @stops = $cdm->stops;
    my $late = grep {
        my $token = $issued{ $_->header('X-Auth-Token') };
        $_->{time} >= $token->{issued} + $token->{life};
    } @stops;

    is($n, scalar @stops, 'K02 all were served');
    is($late, 0, 'K02 each with a token that was good when it arrived at CDM');

    my $posts = posts_for($iam, $project);
    cmp_ok($posts, '>=', 3, 'K02 the token was had anew');
    cmp_ok($posts, '<=', 5, 'K02 once for each life');

    # a body that is slower than the token's life
    $project = new_project();
    $iam->script({ when => { body => qr/$project/ }, life => 1 });
    $cdm->reset_log;
    is($t->put_stop(project => $project)->{status}, 200, 'M03 a token');
    my ($first) = grep { $_->{project} eq $project } $iam->tokens;

    my $c = $t->connect;
    $c->send( 'PUT '
            . $t->stop_target(project => $project, job => 'slow')
            . " HTTP/1.1\r\nHost: a\r\nContent-Length: "
            . "4\r\nConnection: close\r\n\r\nbod");
    sleep 0.1 while time < $first->{issued} + 1.1;
    $c->send('y');
    is($t->finish($c)->{status}, 200, 'M03 a body slower than the token');
    my ($stop) = grep { $_->{target} =~ /slow/ } $cdm->stops;
    isnt(
        $stop->header('X-Auth-Token'), $first->{token},
        'M03 gets the next token');
    is($stop->{body}, 'body', 'M03 and its body');
};


subtest 'IAM fails: back-off' => sub {
    my $project = new_project();
    my $until = time + 4;

    $iam->script(
        { when => { body => qr/$project/ }, answer => 'server_error' });
    $cdm->reset_log;

    while (time < $until) {
        my @answers =
            $t->finish(map { $t->start_stop(project => $project) } 1 .. 8);
        my @bad = grep {
                   $_->{status} != 503
                || ($_->header('Retry-After') // 0) < 1
                || $_->header('Retry-After') > 3
        } @answers;
        is_refused('K03 while IAM fails', $bad[0]) if @bad;
        sleep 0.05;
    }

    my @posts = map { $_->{time} } posts_for($iam, $project);
    cmp_ok(scalar @posts, '>=', 2, 'K03 IAM is tried again');
    cmp_ok(
        scalar @posts, '<=', 3,
        'K03 not more often than the back-off lets');
    cmp_ok($posts[1] - $posts[0], '>=', 0.79, 'K03 after about one second');
    cmp_ok($posts[2] - $posts[1], '>=', 1.59, 'K03 then after about two')
        if @posts > 2;
    is($cdm->bytes, 0, 'K03 nothing at CDM');

    # another project is not held up
    my $other = new_project();
    is( $t->put_stop(project => $other)->{status}, 200,
        'K03 another project is served');

    $iam->script;
    ok(
        $t->wait_for(
            sub { $t->put_stop(project => $project)->{status} == 200 },
            timeout => 10
        ),
        'K03 well again');
};


subtest 'I06 a refused credential' => sub {
    my $project = new_project();
    my $port = $t->port('password');

    my @answers =
        $t->finish(map { $t->start_stop(port => $port, project => $project) }
            1 .. 100);
    is_refused('I06 the password is wrong', $answers[$_]) for 0, 50, 99;
    is( scalar(grep { $_->{status} == 503 } @answers), 100,
        'I06 all are refused');
    like(
        $answers[0]->json->{error_msg},
        qr/IAM refuses the gateway's credentials/, 'I06 who refused is said');
    cmp_ok($answers[0]->header('Retry-After'), '>', 800, 'I06 not soon');
    cmp_ok(
        $answers[0]->header('Retry-After'), '<=', 900,
        'I06 but within a quarter of an hour');

    sleep 1.3;
    is_refused(
        'I06 a second later',
        $t->put_stop(port => $port, project => $project)
    ) for 1 .. 10;
    is( scalar(posts_for($iam, $project)), 1,
        'I06 IAM was asked once by all workers');
    is(
        scalar(
            () =
                $t->error_log =~
                /\[alert\].*IAM refuses the gateway.*$project/g
        ),
        1,
        'I06 one alert');
    is( $t->put_stop(project => $project)->{status}, 200,
        'I06 another identity is served');
};

$t->done;
