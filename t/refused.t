#!/usr/bin/perl

# IAM refuses the gateway: so that no account gets locked, one identity makes
# two refused calls at most in a "hold", over all projects and workers; tokens
# that are good go on; a reload with the right password ends it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;


my $t = CdmStop::Test->new(log => 'info');
my $password = $t->ledger->password;
$t->write_secret("secrets/$_", $password) for 'password', 'mended';

my @users = qw(many short);
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
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;

    cdm_stop_iam many {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user many; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/mended;
    }
    cdm_stop_iam short {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user short; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
        refresh_ahead 80%; hold 2s;
    }

    # its password is wrong
    cdm_stop_iam race {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on;
        domain acme; user race; projects %%PROJECTS%%;
        password_file %%TESTDIR%%/secrets/password;
    }

    server {
        listen 127.0.0.1:%%PORT_many%%;
        cdm_stop many;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_short%%;
        cdm_stop short;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_race%%;
        cdm_stop race;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$config =~ s/%%PROJECTS%%/project_list(200)/ge;
$t->config($config);
$t->start;


# The times between the requests for a token of a project.

sub pauses {
    my ($project) = @_;

    my @time = map { $_->{time} } posts_for($iam, $project);

    return map { $time[$_] - $time[$_ - 1] } 1 .. $#time;
}


subtest 'I06 the password was changed: 50 projects' => sub {
    my $port = $t->port('many');
    my $asked = sub { scalar grep { $_->{body} =~ /"many"/ } $iam->posts };
    my @project = map { new_project() } 1 .. 53;
    my @good = splice @project, 0, 3;

    $iam->script;
    $iam->set(life => 3600);
    is($t->put_stop(port => $port, project => $_)->{status}, 200,
        'I06 a token') for @good;

    my $posts = $asked->();
    my $new = $t->ledger->password;
    $iam->set(
        users => {
            acme => { (map { $_ => $password } @users), many => $new }
        });

    # all at once, over four workers, and again
    my @answers =
        map { $t->finish(map { $t->start_stop(port => $port, project => $_) }
                @project) } 1 .. 3;
    is(scalar(grep { !$_ || $_->{status} != 503 } @answers), 0, 'I06 503');
    is_refused('I06 refused', $answers[-1]);
    is( scalar(grep { $_->json->{error_msg} !~ /IAM refuses the gateway/ }
            @answers),
        0, 'I06 the answer says who refuses');
    cmp_ok($answers[-1]->header('Retry-After'), '>', 600,
        'I06 the rest is 15 minutes');

    my $refused = $asked->() - $posts;
    cmp_ok($refused, '>=', 1, 'I06 IAM was asked');
    cmp_ok($refused, '<=', 2, 'I06 twice at most');
    is( scalar(() = $t->error_log =~ /IAM refuses the gateway/g), $refused,
        'I06 one line for each refusal, none for a request');
    $t->expect_log(
        qr/\[alert\].*IAM refuses the gateway: status 401.*identity: "many"/);

    is($t->put_stop(port => $port, project => $_)->{status}, 200,
        'I06 tokens that are good go on') for @good;

    # a reload changes nothing as long as the password is the same
    $t->reload;
    is_refused('I06 after a reload',
        $t->put_stop(port => $port, project => $project[0]));
    is($asked->(), $posts + $refused, 'I06 IAM is not asked again');

    $t->write_secret('secrets/mended', $new);
    $t->reload;
    @answers =
        $t->finish(map { $t->start_stop(port => $port, project => $_) }
            @project);
    is( scalar(grep { $_ && $_->{status} == 200 } @answers), 50,
        'I06 the mended password works at once, in all projects');
};


subtest 'I06 one project, and a short hold' => sub {
    my $project = new_project();
    my %arg = (port => $t->port('short'), project => $project);

    $iam->set(life => 3600);
    $iam->script(
        {   when => { body => qr/$project/ }, times => 2,
            answer => 'wrong_password'
        });
    my $lines = () = $t->error_log =~ /IAM refuses the gateway/g;

    my @answers = $t->finish(map { $t->start_stop(%arg) } 1 .. 30);
    is(scalar(grep { !$_ || $_->{status} != 503 } @answers), 0, 'I06 503');
    is(scalar posts_for($iam, $project), 1, 'I06 asked once');

    # the second refusal, and then a token
    $t->wait_for(
        sub { $t->put_stop(%arg)->{status} == 200 },
        what => 'a token after the hold', timeout => 15);
    my @pauses = pauses($project);
    is(scalar @pauses, 2, 'I06 asked once in each hold');
    is(scalar(grep { $_ < 1.95 } @pauses), 0, 'I06 which is obeyed')
        or diag("@pauses");
    is(scalar(grep { $_ > 3.5 } @pauses), 0, 'I06 and ends')
        or diag("@pauses");
    is( scalar(() = $t->error_log =~ /IAM refuses the gateway/g),
        $lines + 2, 'I06 one line each');

    # a token that is good goes on though its renewal is refused
    my $other = new_project();
    $arg{project} = $other;
    $iam->script(
        { when => { body => qr/$other/ }, times => 1, life => 8 },
        { when => { body => qr/$other/ }, answer => 'wrong_password' });
    my $begin = time;
    my $bad = 0;
    while (time < $begin + 4.5) {
        $bad += grep { !$_ || $_->{status} != 200 }
            $t->finish(map { $t->start_stop(%arg) } 1 .. 4);
        sleep 0.05;
    }
    is($bad, 0, 'I06 a good token goes on');
    my $tries = posts_for($iam, $other) - 1;
    cmp_ok($tries, '>=', 1, 'I06 its renewal was refused');
    cmp_ok($tries, '<=', 2, 'I06 once in each hold');
    $t->expect_log(qr/\[alert\].*IAM refuses the gateway.*identity: "short"/);
};


# Of two exchanges under way, one is refused: there must be no third beside the
# other one.

subtest 'I06 one of two is refused before the other' => sub {
    my @project = map { new_project() } 1 .. 4;
    my $port = $t->port('race');

    $iam->script(
        { when => { body => qr/$project[0]/ }, hold => 'one' },
        { when => { body => qr/$project[1]/ }, hold => 'two' });
    my @handles = map { $t->start_stop(port => $port, project => $_) }
        @project[0, 1];
    $t->wait_for(
        sub { 2 == map { posts_for($iam, $_) } @project[0, 1] },
        what => 'two exchanges');

    # those that come now wait for one of the two
    push @handles, map { $t->start_stop(port => $port, project => $_) }
        @project[2, 3];
    $iam->release('one');
    is_refused('I06 the first', $t->finish(shift @handles));
    sleep 0.3;
    $iam->release('two');
    is_refused('I06 the others', $_) for $t->finish(@handles);
    is(scalar(map { posts_for($iam, $_) } @project), 2,
        'I06 no third exchange');
    $t->expect_log(qr/\[alert\].*IAM refuses the gateway.*identity: "race"/);
};


# Refusals of several projects: never more than two in any time of a hold.

subtest 'I06 two refusals in any hold' => sub {
    my @project = map { new_project() } 1 .. 6;
    my $port = $t->port('short');

    # the last hold is over
    sleep 2.1;
    $iam->script(map { { when => { body => qr/$_/ }, answer => 'locked' } }
            @project);

    my $begin = time;
    $t->put_stop(port => $port, project => $project[0]);
    sleep 0.05 while time < $begin + 1.8;
    while (time < $begin + 5) {
        $t->finish(map { $t->start_stop(port => $port, project => $_) }
                @project);
        sleep 0.05;
    }

    my @time = sort { $a <=> $b } map { $_->{time} }
        map { posts_for($iam, $_) } @project;
    my @close = grep { $time[$_] - $time[$_ - 2] < 1.9 } 2 .. $#time;
    is(scalar @close, 0, 'I06 no third refusal within a hold')
        or diag('refused after ', join ' ', map { $_ - $time[0] } @time);
    cmp_ok(scalar @time, '>=', 3, 'I06 but it goes on');
};

$t->done;
