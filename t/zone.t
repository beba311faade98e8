#!/usr/bin/perl

# The zone: what a reload keeps and what it does not, what gives way when there
# is no room, and how many projects may be in it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;


my $t = CdmStop::Test->new(log => 'info');

my $password = $t->ledger->password;
$t->write_secret("secrets/$_", $password) for 'password', 'copy';

my %users = map { $_ => $password } qw(cdm-gateway second any);
my $iam = $t->iam(users => { acme => \%users, other => \%users });
my $iam2 = $t->standin(
    'CdmStop::Iam', port => 'IAM2', name => 'iam2',
    users => { acme => \%users });
my $cdm = $t->cdm;

my $text = <<'EOC';
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

    cdm_stop_iam huawei {
        uri http://127.0.0.1:%%IAM_PORT%%;
        insecure on;
        domain acme;
        user cdm-gateway;
        password_file %%TESTDIR%%/secrets/password;
        projects %%PROJECTS%%;
    }
    cdm_stop_iam any {
        uri http://127.0.0.1:%%IAM_PORT%%;
        insecure on;
        domain acme;
        user any;
        password_file %%TESTDIR%%/secrets/password;
        projects any;
    }
    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop huawei;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_any%%;
        cdm_stop any;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$text =~ s/%%PROJECTS%%/project_list(100)/ge;

# Loads the configuration with the first identity changed.

sub reload_with {
    my ($change) = @_;

    my $changed = $text;
    local $_ = $changed;
    $change->();

    $t->config($_);
    $t->reload;

    return;
}

$t->config($text);
$t->start;


subtest 'K06 what a reload keeps' => sub {
    my $project = new_project();
    is($t->put_stop(project => $project)->{status}, 200, 'K06 a token');
    my $first = ($cdm->stops)[-1]->header('X-Auth-Token');

    my @same = (
        ['nothing' => sub { }],
        ['the name of the identity' =>
                sub { s/cdm_stop_iam huawei/cdm_stop_iam h/;
                    s/cdm_stop huawei/cdm_stop h/ }],
        ['timeout, hold, margin, refresh_ahead' =>
                sub { s/insecure on;/insecure on; timeout 3s; hold 1m;
                    margin 20s; refresh_ahead 30%;/ }],
        ['the list of projects' => sub { s/projects 0/projects any; #/ }],
        ['the place of the password' =>
                sub { s{secrets/password}{secrets/copy} }],
        ['the order' =>
                sub { s/(user cdm-gateway;)/domain acme; $1/;
                    s/domain acme;\n// }],
        ['another site' =>
                sub { s/cdm_stop_verify off;/$& cdm_stop_wait 3s;/ }],
    );

    for my $case (@same) {
        my ($name, $change) = @$case;
        reload_with($change);
        is($t->put_stop(project => $project)->{status}, 200,
            "K06 $name: served");
        ok(($cdm->stops)[-1]->header('X-Auth-Token') eq $first,
            "K06 $name: with the same token");
    }
    is(scalar posts_for($iam, $project), 1, 'K06 IAM was asked once');

    my @different = (
        ['domain' => sub { s/domain acme/domain other/ }, $iam],
        ['user' => sub { s/user cdm-gateway/user second/ }, $iam],
        ['uri' => sub { s/%%IAM_PORT%%/%%PORT_IAM2%%/ }, $iam2],
        ['host' => sub { s{//127.0.0.1:}{//localhost:} }, $iam],
        ['scope' =>
                sub { s/domain acme;/domain acme; scope domain;/ }, $iam],
    );

    my %seen = ($first => 1);

    # all at once, so that each finds those of the others in the zone
    for my $case (@different) {
        my ($name, $change, $standin) = @$case;
        my $posts = $standin->posts;
        reload_with($change);
        is($t->put_stop(project => $project)->{status}, 200,
            "K06 another $name: served");
        my $token = ($cdm->stops)[-1]->header('X-Auth-Token');
        ok(!$seen{$token}++, "K06 another $name: another token");
        is(scalar $standin->posts, $posts + 1, "K06 another $name: asked once");
    }

    reload_with(sub { });
    is($t->put_stop(project => $project)->{status}, 200, 'K06 back again');
    ok(($cdm->stops)[-1]->header('X-Auth-Token') eq $first,
        'K06 the first token is still there');
};


subtest 'K13 ten new projects a minute' => sub {
    my $port = $t->port('any');
    my @project = map { new_project() } 1 .. 30;

    my @answers =
        $t->finish(map { $t->start_stop(port => $port, project => $_) }
            @project);
    my @good = @project[grep { $answers[$_]{status} == 200 } 0 .. 29];
    my @bad = @project[grep { $answers[$_]{status} == 503 } 0 .. 29];
    is(scalar @good, 10, 'K13 ten of thirty are served');
    is(scalar @bad, 20, 'K13 the others are refused');
    is_refused('K13 the eleventh', (grep { $_->{status} == 503 } @answers)[0]);

    my $posts = $iam->posts;
    is($t->put_stop(port => $port, project => $bad[0])->{status}, 503,
        'K13 again') for 1 .. 5;

    # a thousand, over all workers
    my $h = 0;
    for (1 .. 10) {
        @answers = $t->finish(
            map {
                $t->start_stop(
                    port => $port, project => sprintf '%032x', 0xfff000 + $h++)
            } 1 .. 100);
        is(scalar(grep { !$_ || $_->{status} != 503 } @answers), 0,
            'K13 a hundred invented projects');
    }

    is( scalar(
            grep { $_->{status} == 200 }
                $t->finish(map { $t->start_stop(port => $port, project => $_) }
                    @good, @good)
        ),
        20,
        'K13 those that are known go on');
    is($t->put_stop(project => new_project())->{status}, 200,
        'K13 another identity is not held back');
    is(scalar $iam->posts, $posts + 1, 'K13 IAM was not asked for them');

    # a reload does not open another ten
    $t->reload;
    is($t->put_stop(port => $port, project => $bad[1])->{status}, 503,
        'K13 a reload makes no difference');
};


subtest 'W05 another size, under load' => sub {
    my $project = new_project();
    my %arg = (project => $project);
    my @bad;

    is($t->put_stop(%arg)->{status}, 200, 'W05 a token');

    for my $size ('1m', '4m', '300k', '16m') {
        my $posts = posts_for($iam, $project);
        my @handles = map { $t->start_stop(%arg) } 1 .. 10;
        $t->config($text =~ s/cdm:4m/cdm:$size/r);
        $t->reload(keep_old => 1);
        push @handles, map { $t->start_stop(%arg) } 1 .. 10;
        push @bad, grep { !$_ || $_->{status} != 200 } $t->finish(@handles);
        $t->wait_for(
            sub { $t->worker_pids(all => 1) == 4 },
            what => 'end of the old workers');
        is($t->put_stop(%arg)->{status}, 200, "W05 $size: served");
        is(scalar posts_for($iam, $project), $posts + 1,
            "W05 $size: one token for the new zone");
    }
    is(scalar @bad, 0, 'W05 all were served');

    # one that is too small is refused, and all goes on
    my $posts = posts_for($iam, $project);
    $t->config($text =~ s/cdm:4m/cdm:64k/r);
    like($t->reload(fail => 1), qr/cdm_stop_zone|zone "cdm"/,
        'W05 too small: refused');
    is($t->put_stop(%arg)->{status}, 200, 'W05 the old configuration serves');
    is(scalar posts_for($iam, $project), $posts, 'W05 with its token');

    # another name is another zone
    $t->config($text =~ s/cdm:4m/other:4m/r);
    $t->reload;
    is($t->put_stop(%arg)->{status}, 200, 'W05 another name: served');
    is(scalar posts_for($iam, $project), $posts + 1, 'W05 a token of its own');
};


subtest 'K10 renewal in a full zone' => sub {
    my @project = map { new_project() } 1 .. 12;
    my $no_room = qr/\[alert\].*no room for a token of \d+ bytes, enlarge/;

    # renewed after half of its life
    $t->config($text =~ s/cdm:4m/full:256k/r
            =~ s/insecure on;/insecure on; refresh_ahead 50%;/r);
    $t->reload;
    $iam->set(token_size => 31_000);
    $iam->script(
        map { { when => { body => qr/$_/ }, times => 1, life => 8 } } @project
    );

    my %status = map { $_ => $t->put_stop(project => $_)->{status} } @project;
    my @good = grep { $status{$_} == 200 } @project;
    my @bad = grep { $status{$_} == 503 } @project;
    cmp_ok(scalar @good, '>=', 4, 'K10 room for some');
    cmp_ok(scalar @bad, '>=', 1, 'K10 but not for all');
    is(@good + @bad, 12, 'K10 nothing but 200 and 503');
    $t->expect_log($no_room);

    # the good ones are renewed in their own room, while others want it
    my $wrong = 0;
    my $renewed = $t->wait_for(
        sub {
            $wrong += grep { !$_ || $_->{status} != 200 }
                $t->finish(map { $t->start_stop(project => $_) } @good);
            $t->put_stop(project => $bad[rand @bad]);
            sleep 0.1;
            !grep { posts_for($iam, $_) < 2 } @good;
        },
        what => 'renewal of all', timeout => 20);
    ok($renewed, 'K10 all are renewed');
    is($wrong, 0, 'K10 tokens that are good stay');

    # past the end of the first ones
    my ($last) = sort { $b <=> $a } map { $_->{issued} + $_->{life} }
        grep { $_->{life} == 8 } $iam->tokens;
    sleep 0.1 while time < $last;
    my $posts = $iam->posts;
    is($t->put_stop(project => $_)->{status}, 200, 'K10 still there') for @good;
    is(scalar $iam->posts, $posts, 'K10 with the renewed token');

    # nor do the others make a storm of requests to IAM
    for my $project (@bad) {
        my @time = map { $_->{time} } posts_for($iam, $project);
        is(scalar(grep { $time[$_] - $time[$_ - 1] < 0.75 } 1 .. $#time), 0,
            'K10 back-off where there is no room');
    }
};

$t->done;
