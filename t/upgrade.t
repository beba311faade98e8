#!/usr/bin/perl

# The binary is upgraded (USR2) while a token is asked for: the old workers end
# what they have begun, the new ones ask for a token of their own, and either
# can serve alone afterwards.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

# a master that has the parent that it began with is not to be upgraded
$t->config(<<'EOC' =~ s/%%GLOBALS%%/$t->globals =~ s{daemon off;}{}r/er);
%%GLOBALS%%
worker_processes 2;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        timeout        30s;
    }
    cdm_stop                    huawei;
    cdm_stop_wait               30s;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
    add_header                  X-Worker $pid always;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

my @masters;

# nobody else ends them if the test dies
END { kill 'TERM', @masters if @masters && $? }

my ($exit, $output) = CdmStop::Process::capture(
    $t->command_line($t->path('nginx.conf')), { env => $t->environment });
is($exit, 0, 'nginx runs in the background') or diag($output);

push @masters, master();

sub master {
    my ($file) = @_;

    my $pid;
    $t->wait_for(sub {
        ($pid) = -s $t->path($file // 'nginx.pid')
            ? $t->read($file // 'nginx.pid') =~ /(\d+)/ : ();
        $pid && 2 <= grep { /worker/ } values %{$t->children($pid)};
    }, what => 'a master with its workers');

    return $pid;
}

sub upgrade {
    my $old = $masters[-1];

    kill 'USR2', $old;
    $t->wait_for(sub {
        -s $t->path('nginx.pid.oldbin') && -s $t->path('nginx.pid')
    }, what => 'pids of both');
    push @masters, master();
    isnt($masters[-1], $old, 'W04 another master');

    return $old;
}

# The workers of a master leave, then it does.

sub leaves {
    my ($pid, $what) = @_;

    return ok($t->wait_for(sub { !-d "/proc/$pid" || is_zombie($pid) },
                           quiet => 1), $what);
}

sub is_zombie {
    my ($pid) = @_;

    my $stat = CdmStop::Test::Nginx::slurp("/proc/$pid/stat") // return 1;
    return $stat =~ /\) Z /;
}

subtest 'W04 upgrade while a token is asked for' => sub {
    $iam->script({ hold => 'first', times => 1 });
    my $waiting = $t->start_stop(job => 'old');
    $t->wait_for(sub { $iam->posts == 1 }, what => 'a call of IAM');

    my $old = upgrade();
    my %old_worker = %{$t->children($old)};
    kill 'WINCH', $old;
    $t->wait_for(sub {
        !grep { /worker process\z/ } values %{$t->children($old)}
    }, what => 'the old workers to leave their sockets');

    my $r = $t->put_stop(job => 'new');
    is($r->{status}, 200, 'the new binary serves');
    ok(!$old_worker{$r->header('X-Worker')}, 'by a worker of its own');
    is(scalar $iam->posts, 2, 'with a token of its own');

    $iam->release('first');
    $r = $t->finish($waiting);
    is($r->{status}, 200, 'what waits in the old one is served');
    ok($old_worker{$r->header('X-Worker')}, 'by a worker of the old one');
    is($cdm->count, 2, 'CDM got each of them once');

    kill 'QUIT', $old;
    leaves($old, 'the old binary ends');
    is($t->put_stop(job => 'alone')->{status}, 200, 'the new one serves on');
    is(scalar $iam->posts, 2, 'with the token that it has');
};

subtest 'W04 and back again' => sub {
    my $old = upgrade();
    my $new = pop @masters;

    my @bad;
    $t->wait_for(sub {
        push @bad, grep { $_ != 200 } $t->put_stop(job => 'both')->{status};
        $iam->posts == 3;
    }, what => 'a call of IAM by the other binary');
    is("@bad", '', 'both serve');
    my $posts = $iam->posts;

    kill 'QUIT', $new;
    leaves($new, 'the new binary ends');
    is($t->put_stop(job => "back$_")->{status}, 200, 'the old one serves')
        for 1 .. 4;
    is(scalar $iam->posts, $posts, 'with the token that it had');
};

my @records = $t->records('audit.jsonl');
is(scalar(grep { $_->{stage} eq 'intent' } @records), $cdm->count,
   'W04 each stop has its intent');
is(scalar(grep { $_->{stage} eq 'outcome' && $_->{verdict} eq 'stopped' }
          @records), $cdm->count, 'W04 and its outcome');
is(scalar(grep { $_->{closed} } @records), 0,
   'W04 no binary closes what the other one has under way');
my %chains = map { $_->{chain} => 1 } @records;
cmp_ok(scalar keys %chains, '>', 1, 'W04 their chains are told apart');

kill 'QUIT', $masters[-1];
leaves($masters[-1], 'the last one ends');
$t->done;
