#!/usr/bin/perl

# Crashes around a record: a worker that is killed before it, in its middle and
# behind it, all of nginx between intent and outcome, also over a rotation; a
# second instance, a state that is lost. The chain stays whole, no number is
# used twice or left out, and each stop has an end.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Chain;
use CdmStop::Fault;
use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $key = $t->ledger->token(64);

$t->write_secret('secrets/key', $key);
$t->audit_key($key);

# to rename FILE and write FILE.state as a root's directory is, and as one of
# the workers is

mkdir $t->path('own');
chmod 0777, $t->path('own');

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 2;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop_audit_key          %%TESTDIR%%/secrets/key;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%FILE%%;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

my $fault = CdmStop::Fault->new($t);

# lines are torn by its kills
$t->damages('audit.jsonl', 'own/audit.jsonl');
my $file;

sub begin {
    ($file) = @_;

    $t->config($config =~ s/%%FILE%%/$t->path($file)/er);
    $fault->run(sub { $t->start });
    return;
}

# All files of the chain, in the order of their making.

sub files {
    return grep { -e $t->path($_) }
        (map { "$file.$_" } reverse 1 .. 9), $file;
}

sub chain {
    my $chain = CdmStop::Chain->new(key => $key);
    $chain->add($_, $t->read($_)) for files();
    return $chain;
}

sub is_whole {
    my ($name) = @_;

    my $chain = chain();
    is(join("\n", $chain->troubles), '', "$name: the chain is whole");
    return $chain;
}

# Waits until no intent is without outcome.

sub is_closed {
    my ($name) = @_;

    $t->wait_for(sub { !chain()->open }, what => "outcomes ($name)");
    my %count;
    $count{ $_->{request_id} }{ $_->{stage} }++
        for grep { $_->{stage} =~ /intent|outcome/ } chain()->records;
    my @odd = grep { ($count{$_}{intent} // 0) != 1
                     || ($count{$_}{outcome} // 0) != 1 } keys %count;
    is("@odd", '', "$name: each stop has one intent and one outcome");
    return;
}

# The records of a job: "stage verdict closed", in their order.

sub story {
    my ($job) = @_;

    return join ', ', map { join ' ', $_->{stage}, $_->{verdict} // (),
                            $_->{closed} // () }
        grep { ($_->{job_name} // '') eq $job } chain()->records;
}

# Ends nginx as a loss of power does: nobody has time for anything.

sub crash {
    my $pid = delete $t->{pid};

    # a master that may make a worker anew would leave one behind
    kill 'STOP', $pid;
    $t->wait_for(sub {
        (CdmStop::Test::Nginx::slurp("/proc/$pid/stat") // '') =~ /\) T /
    }, what => 'a master that stands still');

    my @workers = keys %{ $t->children($pid) };
    kill 'KILL', $pid, @workers;
    CdmStop::Process::wait_for($pid, 30);
    $t->wait_for(sub { !grep { kill 0, $_ } @workers }, what => 'the end');
    return;
}

# A stop that is at CDM and stays there.

sub hang {
    my ($job) = @_;

    my $count = $cdm->count;
    $cdm->script({ hold => "$file $job" });
    my $h = $t->start_stop(job => $job);
    $cdm->wait_requests($count + 1);
    return $h;
}

sub let_go {
    my ($job, $h) = @_;

    $t->finish($h);
    $cdm->release("$file $job");
    $cdm->script;
    return;
}

$t->expect_log(qr/\[alert\] .*worker process \d+ exited on signal 9/);
$t->expect_log(qr/\[alert\] .*zone "cdm_stop_audit \S+ \w+" was locked by/);
$t->allow_log(qr/open socket #\d+ left in connection/);

for my $dir ('', 'own/') {
    my $where = $dir ? 'workers\' directory' : 'root\'s directory';

    begin("${dir}audit.jsonl");

    # a worker kills itself around write(2), which is when it has the lock

    for my $mode (qw(kill_before kill_half kill_after)) {
        for my $stage (qw(intent outcome)) {
            my $job = "${mode}_$stage";
            my $name = "W01 $mode of an $stage, $where";

            is($t->put_stop(job => 'before')->{status}, 200, $name);
            $fault->put($mode, $stage);
            my $h = $t->start_stop(job => $job);
            $t->wait_for(sub { $fault->fired }, what => $mode);
            $t->finish($h);

            my @answers = $t->finish(map { $t->start_stop(job => 'next') }
                                     1 .. 4);
            is(scalar(grep { $_ && $_->{status} == 200 } @answers), 4,
               "$name: the lock is free, others go on");
            $t->wait_for(sub { $t->worker_pids == 2 }, what => 'two workers');

            is_closed($name);
            my $chain = is_whole($name);
            is(scalar $chain->ids, 1, "$name: one chain");

            my $want = $mode eq 'kill_after'
                ? $stage eq 'intent' ? 'intent, outcome unknown crash'
                                     : 'intent, outcome stopped'
                : $stage eq 'intent' ? ''
                                     : 'intent, outcome unknown crash';
            is(story($job), $want, "$name: its records");
        }
    }

    my @torn = chain()->torn;
    is(scalar @torn, 2, "A04 the pieces of lines are there, $where");
    is(scalar(grep { $_->{torn} } chain()->records), 2,
       "A04 the records behind them tell of them, $where");

    # a worker between intent and outcome, while others live

    my $h = hang('one');
    $t->kill_worker($_) for $t->worker_pids;
    let_go('one', $h);
    is_closed("W02 all workers, $where");
    is(story('one'), 'intent, outcome unknown crash', 'W02 its records');

    # all of nginx, the file is as it was, gone, or cut

    for my $way (qw(kept rotated reopened)) {
        my $name = "W02 nginx is killed, the file is $way, $where";
        my $path = $t->path($file);

        $h = hang("all_$way");

        if ($way ne 'kept') {
            rename $t->path("$file.$_"), $t->path("$file." . ($_ + 1))
                for grep { -e $t->path("$file.$_") } reverse 1 .. 8;
            rename $path, "$path.1" or die "$path: $!\n";
        }

        if ($way eq 'reopened') {
            $t->reopen;
            is($t->put_stop(method => 'GET')->{status}, 405, "$name: a record");
        }

        crash();
        let_go("all_$way", $h);
        begin($file);

        is_closed($name);
        is(story("all_$way"), 'intent, outcome unknown crash',
           "$name: its records");
        is($t->put_stop(job => 'after')->{status}, 200, "$name: the next");
        is(scalar is_whole($name)->ids, 1, "$name: the same chain");
    }

    # a piece of a line at the very end

    $fault->put('kill_half', 'intent');
    $h = $t->start_stop(job => 'end');
    $t->wait_for(sub { $fault->fired }, what => 'the half');
    $t->finish($h);
    crash();
    begin($file);
    is($t->put_stop(job => 'after_the_end')->{status}, 200, 'A04 a stop');
    is(scalar is_whole("A04 torn by a crash, $where")->ids, 1, 'A04 one chain');

    # TERM does not wait for CDM

    $h = hang('term');
    $t->stop(signal => 'TERM');
    let_go('term', $h);
    is_closed("W07 TERM, $where");
    is(story('term'), 'intent, outcome unknown exit', 'W07 its records');

    # an orderly restart, with the file as it was and moved away

    for my $moved (0, 1) {
        rename $t->path($file), $t->path("$file.kept") if $moved;
        begin($file);
        is($t->put_stop(job => 'x')->{status}, 200, 'A07 after a restart');

        if ($moved) {
            my ($first) = $t->records($file);
            cmp_ok($first->{seq}, '>', 50, 'A07 goes on in the new file');
            rename $t->path($file), $t->path("$file.new");
            $t->write($file, $t->read("$file.kept") . $t->read("$file.new"));
            unlink $t->path("$file.kept"), $t->path("$file.new");
        }

        $t->stop;
    }

    is(scalar is_whole("A07 restarts, $where")->ids, 1, 'A07 one chain');
}

# The state is lost or cut: the file's end is enough.

for my $damage (qw(gone cut)) {
    my $state = $t->path("$file.state");

    $damage eq 'gone' ? unlink $state
                      : truncate $state, 50;
    begin($file);
    is($t->put_stop(job => $damage)->{status}, 200, "A07 state is $damage");
    is(scalar is_whole("A07 state is $damage")->ids, 1, 'A07 the same chain');
    $t->stop;
}

# Another key does not carry on a chain that it cannot prove.

{
    my $ids = chain()->ids;

    my $new = $t->ledger->token(64);
    $t->write_secret('secrets/key', $new);
    $t->audit_key($new);
    $t->expect_log(qr/was not made with this "cdm_stop_audit_key", a new/);
    begin($file);
    is($t->put_stop->{status}, 200, 'A10 a new key');
    is(scalar chain()->ids, $ids + 1, 'A10 a new chain');
    $t->stop;
}

$t->done;
