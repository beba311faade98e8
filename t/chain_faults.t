#!/usr/bin/perl

# A disk that is really full, a descriptor that is lost, a line that is cut: no
# intent, no stop; all goes on by itself once it can, and the chain is whole.

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
my $fault = CdmStop::Fault->new($t);
my $small = $t->path('small');

mkdir $small or die "$small: $!\n";

my ($exit) = CdmStop::Process::capture(
    'mount', '-t', 'tmpfs', '-o', 'size=128k,mode=755', 'small', $small);
my $mounted = $exit == 0;

# leaves no file system behind, however the test ends

END {
    if ($mounted) {
        my $status = $?;
        system 'umount', '-l', $small;
        $? = $status;
    }
}

$t->config(<<'EOC');
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
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/small/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/other.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC
$t->expect_log(qr/\[alert\] .*audit record could not be written to "\S+"/);
# a full disk tears lines
$t->damages('small/audit.jsonl');

$fault->run(sub { $t->start });

sub chain {
    my ($file) = @_;

    return CdmStop::Chain->new->add($file, $t->read($file));
}

sub is_whole {
    my ($name, $file) = @_;

    my $chain = chain($file);
    is(join("\n", $chain->troubles), '', "$name: the chain is whole");
    is(scalar $chain->ids, 1, "$name: one chain");
    return $chain;
}

SKIP: {
    skip 'a tmpfs may not be mounted here', 1 if !$mounted;

    my $filler = "$small/filler";

    $t->allow_log(qr/state of the audit chain could not be written/);

    for my $round (1 .. 3) {

        # all but some pages, which records take then
        open my $fh, '>', $filler or die "$filler: $!\n";
        binmode $fh;
        syswrite $fh, "\0" x 4096 for 1 .. 26 - 6 * $round;
        close $fh;

        my ($good, $refused) = (0, 0);

        for (1 .. 400) {
            my $count = $cdm->count;
            my $r = $t->put_stop(job => "r$round");

            if ($r->{status} == 200) {
                $good++;
                next;
            }

            is($r->json->{error_code}, 'CDMSTOP.0303', 'A03 full: .0303')
                if !$refused;
            is($cdm->count, $count, 'A03 full: CDM gets none') if !$refused;
            last if ++$refused == 3;
        }

        cmp_ok($good, '>', 0, "A03 round $round: some were recorded");
        is($refused, 3, "A03 round $round: then the disk was full");

        unlink $filler;
        is($t->put_stop(job => "after$round")->{status}, 200,
           'A03 room again: it goes on by itself');
    }

    my $chain = is_whole('A03 after all that', 'small/audit.jsonl');
    my %intents;
    $intents{ $_->{job_name} }++
        for grep { $_->{stage} eq 'intent' } $chain->records;
    my $stops = $cdm->count;
    my $sum = 0;
    $sum += $_ for values %intents;
    cmp_ok($stops, '<=', $sum, 'A03 CDM saw no stop without an intent');
}

my @two = (project => '2' x 32);

# Nobody closes a descriptor of nginx; if it happens, it is opened anew, where
# the worker may, as after USR1, with which the file is given to its user.

$t->put_stop(@two);
$t->reopen;
$t->put_stop(@two) for 1 .. 8;

for my $stage (qw(intent outcome)) {
    is($t->put_stop(@two)->{status}, 200, 'A03 before');
    $fault->put('close', $stage);
    my $r = $t->put_stop(@two);
    ok($fault->fired, "A03 the descriptor is closed at an $stage");
    is($r->{status}, $stage eq 'intent' ? 503 : 200,
       'A03 no intent no stop, and what CDM answered is passed on');
    my @next = $t->finish(map { $t->start_stop(@two) } 1 .. 6);
    is(scalar(grep { $_->{status} == 200 } @next), 6, 'A03 it goes on');
}

# a line of which write(2) takes a half is told by the next one

for my $stage (qw(intent outcome)) {
    $fault->put('half', $stage);
    my $r = $t->put_stop(@two);
    is($r->{status}, $stage eq 'intent' ? 503 : 200, "A04 half an $stage");
    is($t->put_stop(@two)->{status}, 200, 'A04 the next one');
}

my $chain = is_whole('A04 half lines', 'other.jsonl');
is(scalar $chain->torn, 2, 'A04 the pieces are there');
is(scalar(grep { $_->{torn} } $chain->records), 2, 'A04 and are told');

# an outcome that was lost is for the verifier to tell: nobody makes one up
is(scalar $chain->open, 2, 'A05 stops without outcome');

# copytruncate: the chain goes on, so that what is missing can be told

my $last = ($chain->records)[-1]{seq};
truncate $t->path('other.jsonl'), 0;
is($t->put_stop(@two)->{status}, 200, 'A07 copytruncate');
my ($first) = $t->records('other.jsonl');
is($first->{seq}, $last + 1, 'A07 the first number tells of the cut');

$t->done;
