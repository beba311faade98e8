#!/usr/bin/perl

# IAM is down, slow or throttling: tokens serve to their end, the gateway asks
# no oftener than it may, and is well again by itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use POSIX qw(strftime);
use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;


my $t = CdmStop::Test->new(log => 'info');
my $password = $t->ledger->password;
$t->write_secret('secrets/password', $password);

my @users = qw(cdm-gateway strict slow);
my $iam = $t->iam(users => { acme => { map { $_ => $password } @users } });
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
    cdm_stop_wait 3s;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;

    # renewed after half of a life of six seconds, used for 4.5 seconds of it
    cdm_stop_iam huawei {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user cdm-gateway; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
        margin 1500ms;
    }
    cdm_stop_iam slow {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user slow; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
        timeout 1s;
    }
    cdm_stop_iam strict {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user strict; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
        margin 60s;
    }

    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop huawei;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_slow%%;
        cdm_stop slow;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_strict%%;
        cdm_stop strict;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$config =~ s/%%PROJECTS%%/project_list(200)/ge;
$t->config($config);
$t->start;


# The times between the requests for a token of a project, but for the first n.

sub pauses {
    my ($project, $first) = @_;

    my @time = map { $_->{time} } posts_for($iam, $project);
    splice @time, 0, $first // 0;

    return map { $time[$_] - $time[$_ - 1] } 1 .. $#time;
}

# They must grow as the back-off does: 1 s, 2 s, 4 s .. and 20% either way; an
# attempt may take some time itself, and load on the machine some more.

sub is_backed_off {
    my ($name, $took, @pauses) = @_;

    my @bad = grep {
        my $rest = 2**$_;
        $pauses[$_] < 0.8 * $rest + $took - 0.05
            || $pauses[$_] > 1.2 * $rest + $took + 1;
    } 0 .. $#pauses;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return ok(!@bad, "$name: 1, 2, 4 seconds, with jitter")
        || diag("pauses: @pauses");
}


subtest 'K03 IAM is down in the second half of a life' => sub {
    my $project = new_project();
    my (@ok, @refused, @other);

    $iam->set(life => 6);
    is($t->put_stop(project => $project)->{status}, 200, 'K03 a token');
    my ($token) = $iam->tokens;

    $iam->script({ reset => 'after_request' });

    while (time < $token->{issued} + 5.5) {
        my $begin = time;
        for my $answer (
            $t->finish(map { $t->start_stop(project => $project) } 1 .. 8))
        {
            push @{
                  $answer->{status} == 200 ? \@ok
                : $answer->{status} == 503 ? \@refused : \@other
            }, [$begin - $token->{issued}, $answer];
        }
        sleep 0.02;
    }

    is(scalar @other, 0, 'K03 served, or told so');
    cmp_ok($refused[0][0], '>', 4.2,
        'K03 all are served until the end of the token minus margin');
    cmp_ok($ok[-1][0], '<', 4.6, 'K03 none is served later');
    is_refused('K03 after the end', $refused[-1][1]);
    like(
        $refused[-1][1]->json->{error_msg}, qr/IAM is unreachable/,
        'K03 the answer names IAM');
    is(
        scalar(
            grep {
                $_->{time} > $token->{issued} + 4.6
                    || $_->header('X-Auth-Token') ne $token->{token}
            } $cdm->stops
        ),
        0,
        'K03 no ended token at CDM');

    # after 3, 4 and 6 seconds; IAM is back before the last of them
    is_backed_off('Q03 attempts of four workers', 0, pauses($project, 1));
    my $failed = posts_for($iam, $project) - 1;
    cmp_ok($failed, '>=', 2, 'Q03 renewal was tried');
    cmp_ok($failed, '<=', 3, 'Q03 no oftener than the back-off allows');

    $iam->script;
    my $back = time;
    $t->wait_for(
        sub { $t->put_stop(project => $project)->{status} == 200 },
        what => 'recovery', timeout => 15);
    cmp_ok(time - $back, '<', 5.8, 'K03 well again within one step');
    is( scalar posts_for($iam, $project), $failed + 2,
        'K03 by one more request to IAM');
};


subtest 'Q03 IAM hangs' => sub {
    my $project = new_project();
    my %arg = (project => $project, port => $t->port('slow'));
    my $until = time + 6;
    my @answers;

    $iam->script({ when => { body => qr/$project/ }, hang => 1 });
    $cdm->reset_log;

    # each attempt takes a second; nobody makes a second one beside it
    while (time < $until) {
        push @answers, $t->finish(map { $t->start_stop(%arg) } 1 .. 12);
        sleep 0.05;
    }

    is(scalar(grep { !$_ || $_->{status} != 503 } @answers), 0, 'Q03 503');
    is_backed_off('Q03 one attempt at a time', 1, pauses($project));
    cmp_ok(scalar posts_for($iam, $project), '<=', 3, 'Q03 at most three');
    is($cdm->bytes, 0, 'Q03 nothing at CDM');

    my ($one, $two) = map { (split)[0] }
        sort { $a <=> $b } map { /next try in (\d+) ms/ }
        grep { /gave no token: no answer in time.*$project/ }
        split /\n/, $t->error_log;
    cmp_ok($one, '>=', 800, 'Q03 the first rest');
    cmp_ok($two, '>=', 1600, 'Q03 the second rest');
};


subtest 'Q03 jitter' => sub {
    my @project = map { new_project() } 1 .. 16;

    $iam->script({ answer => 'server_error' });
    is_refused('Q03 IAM fails', $_)
        for $t->finish(map { $t->start_stop(project => $_) } @project);

    my %rest;
    for my $project (@project) {
        my ($ms) = join("\n", lines_of($t, $project)) =~ /next try in (\d+) ms/;
        $rest{$ms}++ if $ms && $ms >= 800 && $ms <= 1200;
    }
    my $n = 0;
    $n += $_ for values %rest;
    is($n, 16, 'Q03 each rests for a second, give or take a fifth');
    cmp_ok(scalar keys %rest, '>', 3, 'Q03 but not all for the same time');
};


subtest 'I07 Retry-After' => sub {
    my $date = sub {
        return strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time + $_[0]));
    };

    # what IAM says, and what the client is told at once
    my @case = (
        ['seconds', '7', 7, 7],
        ['a date', $date->(40), 25, 40],
        ['a second', '1', 1, 1],
        ['ten minutes', '600', 600, 600],
        ['longer', '601', 600, 600],
        ['1e9 seconds', '1000000000', 600, 600],
        ['a far date', $date->(86400 * 365), 600, 600],
        ['a date in the past', $date->(-60), 1, 2],
        ['none', undef, 1, 2],
        map { [$_, $_, 1, 2] } '-1', '0', '1e9', 'soon', '7 s', '7, 8',
            '0x10', '', '+5', '99999999999999999999999');

    for my $status (429, 503) {
        for my $case (@case) {
            my ($name, $value, $least, $most) = @$case;
            my $project = new_project();

            $iam->script(
                {   when => { body => qr/$project/ }, status => $status,
                    body => 'x',
                    headers => [defined $value ? ('Retry-After' => $value) : ()]
                });
            my $answer = $t->put_stop(project => $project);
            is_refused("I07 $status, $name", $answer);
            my $told = $answer->header('Retry-After') // '';
            ok( $told =~ /\A\d+\z/ && $told >= $least && $told <= $most,
                "I07 $status, $name: $least to $most seconds")
                or diag($told);

            # nobody asks again meanwhile, and nobody waits
            my @more =
                $t->finish(map { $t->start_stop(project => $project) } 1 .. 4);
            is(scalar(grep { $_->{status} != 503 } @more), 0, 'I07 503');
            is( scalar posts_for($iam, $project), 1,
                "I07 $status, $name: IAM is left alone");
        }
    }

    # and then it is asked again
    my $project = new_project();
    $iam->script(
        {   when => { body => qr/$project/ }, times => 1,
            answer => 'throttled', headers => ['Retry-After' => '3']
        });
    is_refused('I07 throttled', $t->put_stop(project => $project));
    $t->wait_for(
        sub { $t->put_stop(project => $project)->{status} == 200 },
        what => 'a token', timeout => 10);
    my ($pause) = pauses($project);
    cmp_ok($pause, '>=', 2.9, 'I07 asked again after three seconds');
    cmp_ok($pause, '<', 5, 'I07 and not much later');
};


subtest 'K02 a margin of more than a third of the life' => sub {
    my $project = new_project();
    my %arg = (port => $t->port('strict'), project => $project);
    my $begin = time;

    $iam->script;
    $iam->set(life => 90);

    while (time < $begin + 3.5) {
        my @answers = $t->finish(map { $t->start_stop(%arg) } 1 .. 8);
        is_refused('K02 not used', $answers[0]);
        sleep 0.2;
    }

    is_backed_off('K02 no tight loop', 0, pauses($project));
    cmp_ok(scalar posts_for($iam, $project), '<=', 3, 'K02 three at most');
    $t->expect_log(
        qr/\[alert\].*token for \d+ seconds only, it is not used: "margin"/);

    # just enough
    $iam->set(life => 181);
    $t->wait_for(
        sub { $t->put_stop(%arg)->{status} == 200 },
        what => 'a token that lives longer', timeout => 15);
    pass('K02 three times the margin is enough');
};

$t->done;
