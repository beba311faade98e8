#!/usr/bin/perl

# Workers are killed under load, fifty times, at any moment of getting a token:
# the requests of others are served, with the right token, nobody waits for a
# lease of the dead, and nothing is left behind.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;

use constant KILLS => 50;


my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam(token_size => 500);
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

    # a lease lasts for as long as the test may take
    cdm_stop_iam huawei {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user cdm-gateway; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
        timeout 60s;
    }
    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        cdm_stop huawei;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$t->config($config =~ s/%%PROJECTS%%/project_list(60)/er);
$t->start;


# An exchange takes a moment, in which the worker that makes it is to be killed;
# every third time it is any worker.

$iam->script({ delay => 0.2 });

my ($lost, $served, $other, $holders) = (0, 0, 0, 0);
my @slow;
my @project = map { new_project() } 1 .. KILLS;

for my $n (0 .. $#project) {
    my $begin = time;
    my @handles =
        map { $t->start_stop(project => $project[$n], job => "k$n-$_") }
        1 .. 8;

    # on a slow machine it may take a while until there is an exchange
    my $holder = $n % 3
        ? $t->wait_for(sub { $t->worker_connected_to($t->port('IAM')) },
                       quiet => 1, timeout => 1)
        : undef;
    sleep rand 0.1;
    my @pids = $t->worker_pids;
    $holders++ if $holder;
    $t->kill_worker($holder // $pids[rand @pids]);

    for my $answer ($t->finish(@handles)) {
        $answer ? $answer->{status} == 200 ? $served++ : $other++ : $lost++;
    }
    push @slow, time - $begin if time - $begin > ($t->{asan} ? 8 : 4);

    $t->wait_for(sub { $t->worker_pids == 4 }, what => 'four workers');
}

cmp_ok($holders, '>=', KILLS / 4, 'K04 the one that asks IAM was killed often');
is($other, 0, 'K04 served, or lost with its worker');
is($lost + $served, 8 * KILLS, 'K04 none is stuck');
cmp_ok($served, '>', 2 * KILLS, 'K04 most are served');
is(scalar @slow, 0, 'K04 nobody waits for the dead') or diag("@slow");

# nobody makes more requests to IAM than there were deaths
my @often = grep { posts_for($iam, $_) > 2 } @project;
is(scalar @often, 0, 'K04 one more request to IAM at most');

my %issued = map { $_->{token} => $_->{project} } $iam->tokens;
my @wrong = grep {
    my ($project) = $_->{target} =~ m{/v1\.1/(\w+)/};
    ($issued{ $_->header('X-Auth-Token') } // '') ne $project;
} $cdm->stops;
is(scalar @wrong, 0, 'K04 each stop came with a token of its project');

# and all of them are there now, for all workers
$iam->script;
my @answers = $t->finish(map { $t->start_stop(project => $_) } @project);
is( scalar(grep { $_ && $_->{status} == 200 } @answers), KILLS,
    'K04 all goes on');

$t->done;
