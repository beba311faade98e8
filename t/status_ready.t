#!/usr/bin/perl

# cdm_stop_status ready: 200 only when a stop could be served now, in each
# state that the gateway may be in, and back to 200 by the question alone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Metrics;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

use constant PROJECT => '1551c7f6c808414d8e9f3c514a170f2e';

mkdir $t->path('shut'), 0755;

my %password = (right => $t->{password}, wrong => $t->ledger->password);
$t->write_secret('secrets/wrong', $password{wrong});

# One gateway after the other, each with an identity of its own, so that what
# is remembered of one does not speak for the next.

my $user = 0;
my %users = ('cdm-gateway' => $t->{password});

sub with {
    my (%arg) = @_;

    my $name = 'user' . ++$user;
    $users{$name} = $t->{password};
    $iam->set(users => { acme => \%users });

    my $file = $arg{password} // 'password';
    my $identity = $arg{identity} // "domain acme; user $name; "
        . "password_file %%TESTDIR%%/secrets/$file;";
    my $projects = $arg{projects} // PROJECT . ' ' . '2' x 32;
    my $audit = $arg{audit} // '%%TESTDIR%%/audit.jsonl';
    my $more = $arg{more} // '';
    my $workers = $arg{workers} // 1;

    $t->config(<<"EOC");
%%GLOBALS%%
worker_processes $workers;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    $more
    cdm_stop_iam huawei {
        uri       http://127.0.0.1:%%IAM_PORT%%;
        insecure  on;
        hold      2s;
        projects  $projects;
        $identity
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_wait               2s;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  $audit;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /ready { cdm_stop_status ready; }
        location = /status { cdm_stop_status; }
    }
}
EOC

    $t->{pid} ? $t->reload : $t->start;
    return;
}

sub ready {
    my ($path) = @_;

    my $r = $t->request(method => 'GET', target => '/ready');
    my $json = JSON::PP->new->utf8->decode($r->{body});
    my $ready = $json->{ready} ? 200 : 503;

    die "status $r->{status} of a body that says $ready\n"
        if $r->{status} != $ready;

    return join ' ', $r->{status}, map { $_->{code} } @{$json->{reasons}};
}

sub becomes {
    my ($want, $name) = @_;

    my $last;
    $t->wait_for(sub { ($last = ready()) eq $want }, quiet => 1);
    is($last, $want, $name);

    return;
}

my $metrics = CdmStop::Metrics->new($t);


subtest 'a cold cache' => sub {
    with();
    my $n = $iam->posts;

    is(ready(), '200', 'nothing speaks against it');
    $t->wait_for(sub { $iam->posts > $n }, what => 'a token');
    $t->wait_for(sub { $metrics->json->{identities}[0]{projects}{good} },
                 what => 'a good token');

    is(ready(), '200', 'with a token');
    is(ready(), '200', 'and again') for 1 .. 3;
    is(scalar(() = $iam->posts), $n + 1, 'one call of IAM, for one project');

    my $head = $t->request(method => 'HEAD', target => '/ready');
    is($head->{status}, 200, 'HEAD');
    is($t->request(method => 'POST', target => '/ready')->{status}, 405,
       'POST');

    my $m = $metrics->text;
    is($m->{cdm_stop_ready}, 1, 'the metric');
    is($m->{'cdm_stop_identity_ready{identity="huawei"}'}, 1,
       'that of the identity');
};


subtest 'IAM is away, with a good token' => sub {
    $iam->refuse;
    is(ready(), '200', 'the token serves');
    is($t->put_stop->{status}, 200, 'so does a stop');

    # the other project has none
    is($t->put_stop(project => '2' x 32)->{status}, 503, 'but not each');
    is(ready(), '200', 'the gateway is ready all the same');
    is($metrics->json->{identities}[0]{projects}{failing}, 1, 'which is told');

    $iam->resume;
};


subtest 'IAM is away, without a token' => sub {
    $iam->refuse;
    with();

    is(ready(), '200', 'nothing is known');
    becomes('503 iam_unreachable', 'the question found it out');

    my $json = $metrics->json;
    is($json->{ready}{ok}, JSON::PP::false, 'the JSON says so');
    is($json->{ready}{reasons}[0]{identity}, 'huawei', 'and who');
    is($json->{identities}[0]{state}, 'failing', 'its state');
    is($json->{identities}[0]{cause}, 'unreachable', 'and why');
    is($json->{tokens}[0]{state}, 'failing', 'of the token');

    my $m = $metrics->text;
    is($m->{cdm_stop_ready}, 0, 'the metric');
    is($m->{'cdm_stop_iam_up{identity="huawei"}'}, 0, 'that of IAM');

    $iam->resume;
    becomes('200', 'well again, and no stop was sent');
    is($metrics->text->{'cdm_stop_iam_up{identity="huawei"}'}, 1, 'IAM is up');
};


subtest 'IAM refuses the gateway' => sub {
    with(password => 'wrong');
    my $n = $iam->posts;

    becomes('503 iam_refused', 'it is told');
    is(ready(), '503 iam_refused', 'again') for 1 .. 5;
    cmp_ok($iam->posts - $n, '<=', 2, 'no more than two refused calls');

    my $r = $t->request(method => 'GET', target => '/ready');
    my ($reason) = @{JSON::PP->new->utf8->decode($r->{body})->{reasons}};
    ok(defined $reason->{retry}, 'the time that is left');
    unlike($r->{body}, qr/user\d|secrets/, 'and nothing of the credential');

    $t->write_secret('secrets/wrong', $password{right});
    $t->reload;
    becomes('200', 'with the right one');
};


for (['throttled', 'iam_throttled'], ['server_error', 'iam_answer']) {
    my ($answer, $code) = @$_;

    subtest "IAM says $answer" => sub {
        $iam->script({ answer => $answer });
        with();
        becomes("503 $code", 'it is told');
        $iam->script;
        becomes('200', 'well again');
    };
}


subtest 'the next try is the soonest of all projects' => sub {
    my %rest = (&PROJECT => 600, '2' x 32 => 200);

    $iam->script(map { {
        when => { body => qr/$_/ }, answer => 'throttled',
        headers => ['Retry-After' => $rest{$_}]
    } } sort keys %rest);
    with();
    is($t->put_stop(project => $_)->{status}, 503, "no token for $_")
        for sort keys %rest;

    my $json = $metrics->json;
    my ($soon, $late) = sort { $a <=> $b } map { $_->{retry} }
        @{$json->{tokens}};

    cmp_ok($late - $soon, '>', 50, 'one rests longer than the other');
    is($json->{identities}[0]{retry}, $soon, 'of the identity');
    is($json->{ready}{reasons}[0]{retry}, $soon, 'of the reason');
    cmp_ok($metrics->text->{'cdm_stop_iam_backoff_seconds{identity="huawei"}'},
           '>', $soon + 50, 'the metric is that of the longest');
    $iam->script;
};


subtest 'tokens that live too short' => sub {
    $iam->script({ life => 5 });
    my $name = 'user' . ($user + 1);
    with(identity => "domain acme; user $name; margin 10s;"
                   . 'password_file %%TESTDIR%%/secrets/password;');
    becomes('503 token_unusable', 'it is told');
    $iam->script;
    becomes('200', 'well again');
};


subtest 'a token from a file' => sub {
    my $file = $t->path('token');

    with(projects => PROJECT,
         identity => "method file; token_file $file;");
    becomes('503 token_file', 'there is no file');

    my $token = $iam->add_token(user => 'cdm-gateway', domain => 'acme',
                                project => PROJECT, roles => []);
    $t->ledger->add('token', $token);
    $t->write_secret('token.new', $token, 0644);
    rename $t->path('token.new'), $file or die "rename: $!\n";
    $t->{secret_files}{$file} = 1;
    becomes('200', 'there it is');
};


subtest 'through another identity' => sub {
    my $name = 'user' . ($user + 2);
    $users{$name} = $t->{password};

    $iam->set(agencies => { customer => ['cdm-stop'] });
    $t->write_secret('secrets/base', $password{wrong});

    my $base = <<"EOC";
    cdm_stop_iam base {
        uri http://127.0.0.1:%%IAM_PORT%%; insecure on; hold 2s; scope domain;
        domain acme; user $name; password_file %%TESTDIR%%/secrets/base;
    }
EOC

    with(more => $base, identity => 'method agency; via base; '
                                  . 'agency customer cdm-stop;');
    becomes('503 iam_refused', 'which is refused');

    my ($reason) = @{$metrics->json->{ready}{reasons}};
    is($reason->{identity}, 'huawei', 'the one that does not serve is named');

    $t->write_secret('secrets/base', $password{right});
    $t->reload;
    becomes('200', 'and is not, with the right password');
};


subtest 'projects any' => sub {
    $iam->refuse;
    with(projects => 'any');
    is($t->put_stop->{status}, 503, 'a stop fails');
    is(ready(), '200', 'but anybody may name a project');
    is($metrics->json->{identities}[0]{state}, 'failing', 'it is told');
    $iam->resume;
};


subtest 'A03 the records' => sub {
    with(audit => '/dev/full');
    is(ready(), '200', 'A03 nothing was lost yet');
    is($t->put_stop->{status}, 503, 'A03 then a stop is refused');
    is(ready(), '503 audit_failing', 'A03 which is told');

    my ($audit) = grep { $_->{target} eq '/dev/full' }
        @{$metrics->json->{audit}};
    is($audit->{state}, 'failing', 'A03 its state');
    like($audit->{error}, qr/space/, 'A03 and why');
    is_deeply($audit->{lost_by_stage},
              { intent => 1, outcome => 0, refused => 1 }, 'A03 what was lost');

    my $m = $metrics->text;
    is($m->{'cdm_stop_audit_up{target="/dev/full"}'}, 0, 'A03 the metric');
    is($m->{'cdm_stop_audit_records_lost_total{target="/dev/full",'
          . 'stage="intent"}'}, 1, 'A03 the counter');

    becomes('200', 'A03 another stop may tell whether it is well');
    is($t->put_stop->{status}, 503, 'A03 it is not');
    is(ready(), '503 audit_failing', 'A03 so it is not ready again');

    with(audit => '/dev/full best_effort');
    is($t->put_stop->{status}, 200, 'A03 best effort: a stop is served');
    is(ready(), '200', 'A03 and told so');
    cmp_ok($metrics->sum($metrics->text, 'cdm_stop_audit_records_lost_total'),
           '>=', 6, 'A03 what is lost is counted');
};


subtest 'A06 a file that is deleted' => sub {
    with(audit => '%%TESTDIR%%/shut/audit.jsonl');
    is($t->put_stop->{status}, 200, 'A06 it is written');
    unlink $t->path('shut/audit.jsonl') or die "unlink: $!\n";
    chmod 0555, $t->path('shut');
    becomes('503 audit_failing', 'A06 no stop was needed to tell');
    chmod 0755, $t->path('shut');
    kill 'USR1', $t->master_pid;
    becomes('200', 'A06 opened again');
    $t->damaged_records;
};


subtest 'a worker that ends' => sub {
    with();
    becomes('200', 'before');

    # the second one is in its hands, but for its end
    my $get = "GET /ready HTTP/1.1\r\nHost: x\r\n";
    my $client = $t->connect;
    $client->send("$get\r\n$get");
    $client->responses(1);
    kill 'QUIT', $t->master_pid;
    $t->wait_for(sub {
        !eval { $t->connect(timeout => 1)->close; 1 }
    }, what => 'the end of listening');
    $client->send("\r\n");

    my $r = ($client->responses(2))[1];
    is($r->{status}, 503, 'not ready');
    like($r->{body}, qr/"shutting_down"/, 'and why');
    $client->close;
};

$t->expect_log(qr/\[alert\] .*IAM refuses the gateway/);
$t->allow_log(qr/\[(?:alert|error|warn|crit)\]/);
$t->done;
