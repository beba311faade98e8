#!/usr/bin/perl

# The configuration lies on pages that no worker can write to: whatever a
# request does, the next one finds the same guard.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

no warnings 'portable';

my $t = CdmStop::Test->new;
my ($iam, $cdm) = ($t->iam, $t->cdm);

# enough locations for more than one piece of memory
my $locations = join '', map { "location /other/$_/ { return 204; }\n" }
    1 .. 600;

$t->config(<<"EOC");
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
    }
    cdm_stop                    huawei;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
        $locations
    }
}
EOC

$t->start;

# Anonymous memory of a process: address range => rights.

sub anonymous {
    my ($pid) = @_;

    open my $maps, '<', "/proc/$pid/maps" or die "maps of $pid: $!\n";

    return map { /\A(\S+) (\S+) \S+ 00:00 0\s*\z/ ? ($1 => $2) : () } <$maps>;
}

# The addresses that the master may write to and a worker may only read, in
# bytes, and one of them.

sub read_only {
    my ($worker) = @_;

    my %master = anonymous($t->master_pid);
    my %worker = anonymous($worker);
    my ($bytes, $at) = (0);

    for my $range (grep { $worker{$_} eq 'r--p' } keys %worker) {
        my ($from, $to) = map { hex } split /-/, $range;

        # the kernel tells neighbours of equal rights as one
        next if !grep {
            my ($first, $last) = map { hex } split /-/;
            $master{$_} eq 'rw-p' && $first <= $from && $to <= $last
        } keys %master;

        $bytes += $to - $from;
        $at = $from;
    }

    return ($bytes, $at);
}

sub is_read_only {
    my ($name) = @_;

    for my $worker ($t->worker_pids) {
        my ($bytes, $at) = read_only($worker);

        # 600 locations have some hundred bytes each
        cmp_ok($bytes, '>', 64 * 1024, "$name: more than one piece");
    }

    return is($t->put_stop(job => 'served')->{status}, 200,
              "$name: and stops are served");
}

is_read_only('K12 at start');

$t->reload;
is_read_only('K12 after a reload');

{
    my $conf = $t->read('nginx.conf');

    $t->write('nginx.conf', $conf =~ s/cdm_stop_zone cdm:1m/cdm_stop_zone x/r);
    $t->reload(fail => 1);
    $t->write('nginx.conf', $conf);
    $t->kill_worker(($t->worker_pids)[0]);
    $t->wait_for(sub { $t->worker_pids == 2 }, what => 'a new worker');
}

is_read_only('K12 in a worker that is born after a refused reload');

$t->expect_log(qr/\[alert\] .* exited on signal 9/);
$t->done;
