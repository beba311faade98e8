#!/usr/bin/perl

# cdm_stop_audit FILE sync: what would be on the disk after a loss of power,
# at the moment when CDM gets a stop, has the intent of that stop. One call of
# fdatasync serves all who wait; one that is slow or fails stops those stops
# and nothing else.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Disk;
use CdmStop::Metrics;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $fault = CdmStop::Disk->new(test => $t);
my $checker = $t->standin('DiskReader', port => 'disk', name => 'disk',
                          file => $t->path('audit.jsonl'),
                          log => $t->path('fault.log'));

if (!$t->has('--with-threads')) {
    plan(skip_all => 'nginx without threads');
}

my $conf = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { worker_connections 1024; }
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
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    add_header                  X-Worker $pid always;

    server {
        listen 127.0.0.1:%%PORT%%;
        listen 127.0.0.1:%%PORT_h2%% http2;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl sync;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/plain.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/33333333333333333333333333333333/ {
            cdm_stop        huawei;
            cdm_stop_wait   1s;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl sync;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/44444444444444444444444444444444/ {
            cdm_stop        huawei;
            cdm_stop_wait   1s;
            cdm_stop_audit  %%TESTDIR%%/effort.jsonl best_effort sync;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/55555555555555555555555555555555/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/first.jsonl sync;
            cdm_stop_audit  %%TESTDIR%%/second.jsonl sync;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status { cdm_stop_status; }
    }
    server {
        listen 127.0.0.1:%%PORT_disk_front%%;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl sync;
            proxy_pass      http://127.0.0.1:%%PORT_disk%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%PORT_disk%%;
        }
    }
}
EOC

$t->config($conf);
$fault->start;

# tokens are there, so that nothing waits but for the disk
$t->put_stop(project => $_) for $t->PROJECT, map { $_ x 32 } 2 .. 5;

sub calls { return scalar grep { $_->{path} =~ /audit/ } $fault->synced }

# Stages and codes of the records of one job.

sub told {
    my ($job, $file) = @_;

    return join ' ', map { join ':', grep { defined } @$_{qw(stage error_code
                           verdict)} }
           grep { ($_->{job_name} // '') eq $job }
           $t->records($file // 'audit.jsonl');
}

my $NOT_SENT = 'intent outcome:CDMSTOP.0303:not_sent';
my $GONE = 'intent outcome:stopped';

sub wait_intents {
    my ($n, $re, $file) = @_;

    return $t->wait_records($file // 'audit.jsonl', sub {
        $n <= grep { $_->{stage} eq 'intent' && $_->{job_name} =~ $re } @_;
    });
}

# What is counted of a file since the last call: intents that waited for its
# disk, and those that are not known to be there.

my %counted;

sub counted {
    my ($file) = @_;

    my $m = CdmStop::Metrics->new($t)->text;
    my $target = 'target="' . $t->path($file) . '"';
    my @now = ($m->{"cdm_stop_audit_sync_seconds_count{$target}"},
               $m->{"cdm_stop_audit_records_unsynced_total{$target}"});
    my @before = @{$counted{$file} // [0, 0]};

    $counted{$file} = \@now;
    return join ' ', map { $now[$_] - $before[$_] } 0, 1;
}

counted($_) for qw(audit.jsonl effort.jsonl first.jsonl second.jsonl);

subtest 'A09 power is lost when CDM gets the stop' => sub {
    my @front = (port => $t->port('disk_front'));

    # the check would see it
    is($t->put_stop(@front, project => '2' x 32, job => 'unsafe')->{body},
       '{"x":"lost"}', 'without "sync" the intent would be lost');

    (my $two = $conf) =~ s/worker_processes 1/worker_processes 2/;
    $t->config($two);
    $t->reload;

    my $before = calls();
    my $n = 0;
    my %body;

    for (1 .. 6) {
        my @open = map { $t->start_stop(@front, job => 'safe' . ++$n) } 1 .. 64;
        $body{$_ ? $_->{body} : 'none'}++ for $t->finish(@open);
    }

    is(join(' ', map { "$_ $body{$_}" } sort keys %body),
       "{\"x\":\"safe\"} $n", 'with it, it is on disk');
    cmp_ok(calls() - $before, '<=', $n, 'a call for each at most');
    note(sprintf '%d stops, %d calls of fdatasync', $n, calls() - $before);

    $t->config($conf);
    $t->reload;
};

subtest 'A09 a slow disk' => sub {
    my ($count, $before) = ($cdm->count, calls());

    counted('audit.jsonl');
    $fault->set('fdatasync hold');
    my @open = map { $t->start_stop(job => "slow$_") } 1 .. 20;
    wait_intents(20, qr/\Aslow/);

    is($t->put_stop(project => '2' x 32, job => 'other')->{status}, 200,
       'other locations go on');
    is($t->request(method => 'GET', target => '/nothing')->{status}, 404,
       'and other requests');
    is($t->put_stop(method => 'GET')->{status}, 405, 'and refusals');
    is($cdm->count, $count + 1, 'CDM has got nothing');

    $fault->mend;
    my @answers = $t->finish(@open);
    is(scalar(grep { $_->{status} == 200 } @answers), 20, 'then they go');
    is(join(' ', grep { told("slow$_") ne $GONE } 1 .. 20), '',
       'with their records');
    is(calls() - $before, 2, 'one call for the first, one for all others');
    is(counted('audit.jsonl'), '20 0', 'A09 which are counted');
};

$t->expect_log(qr/\[alert\] .*jsonl" was not written to disk in the time of /);
$t->expect_log(qr/\[alert\] .*jsonl" could not be written to disk, its last /);

subtest 'A09 a disk that does not come back' => sub {
    my $count = $cdm->count;

    $fault->set('fdatasync hold');
    my $r = $t->put_stop(project => '3' x 32, job => 'late');
    is($r->{status}, 503, 'refused');
    is($r->json->{error_code}, 'CDMSTOP.0303', '.0303');
    is($cdm->count, $count, 'the stop is not sent');
    is(told('late'), $NOT_SENT, 'and the outcome says so');

    is($t->put_stop(project => '4' x 32, job => 'effort')->{status}, 200,
       'best_effort: it goes on when the time is over');
    is(counted('audit.jsonl'), '1 1', 'A09 which is counted');
    is(counted('effort.jsonl'), '1 1', 'A09 at best effort as well');
    $fault->mend;

    is($t->put_stop(project => '3' x 32, job => 'again')->{status}, 200,
       'it works again by itself');
};

subtest 'A09 fdatasync fails' => sub {
    my $count = $cdm->count;

    for my $mode (qw(io full)) {
        $fault->set("fdatasync $mode");
        my $r = $t->put_stop(job => "lost_$mode");
        is($r->{status}, 503, "$mode: 503");
        is($r->json->{error_code}, 'CDMSTOP.0303', '.0303');
        is(told("lost_$mode"), $NOT_SENT, 'the outcome says so');
        is($cdm->count, $count, 'CDM has got nothing');
        $fault->mend;
    }

    $fault->set('fdatasync io');
    is($t->put_stop(project => '4' x 32)->{status}, 200, 'best_effort goes on');
    is(counted('effort.jsonl'), '1 1', 'A09 which is counted');
    is(CdmStop::Metrics->new($t)->text->{'cdm_stop_audit_up{target="'
       . $t->path('effort.jsonl') . '"}'} . '', 1,
       'A09 its next record was written');
    $fault->mend;

    is($t->put_stop(job => 'well')->{status}, 200, 'it works again by itself');
};

# The pages of an intent that was written while the failing call went on may
# have been part of it, and no later call would tell.

subtest 'A09 it fails for those that came meanwhile, too' => sub {
    my $count = $cdm->count;

    $fault->set('fdatasync hold');
    my @open = map { $t->start_stop(job => "both$_") } 1 .. 3;
    wait_intents(3, qr/\Aboth/);
    $fault->set('fdatasync io');
    my @answers = $t->finish(@open);
    $fault->mend;

    is(join(' ', map { $_->{status} } @answers), '503 503 503', 'all of them');
    is(join(' ', map { told("both$_") } 1 .. 3), join(' ', ($NOT_SENT) x 3),
       'and their records');
    is($cdm->count, $count, 'CDM has got nothing');
};

subtest 'D14 A09 the client leaves while its stop waits' => sub {
    for my $way (qw(close h2)) {
        my $count = $cdm->count;

        $fault->set('fdatasync hold');

        if ($way eq 'h2') {
            my $h2 = $t->h2(port => $t->port('h2'));
            $h2->request(headers => [$t->h2_stop_headers(job => 'left_h2')]);
            wait_intents(1, qr/\Aleft_h2/);
            $h2->close;

        } else {
            my $h = $t->start_stop(job => 'left_close');
            wait_intents(1, qr/\Aleft_close/);
            $h->close;
        }

        $t->wait_records('audit.jsonl', sub {
            grep { $_->{stage} eq 'outcome' && $_->{job_name} eq "left_$way" }
                 @_;
        });
        is(told("left_$way"), 'intent outcome:not_sent', "$way: told so");
        $fault->mend;

        is($t->put_stop(job => "stays_$way")->{status}, 200, 'the next one');
        is($cdm->count, $count + 1, 'CDM has got that alone');
    }
};

subtest 'A09 A07 the file is rotated while stops wait' => sub {
    my $old = (stat $t->path('audit.jsonl'))[1];

    $fault->set('fdatasync hold');
    my @open = map { $t->start_stop(job => "old$_") } 1 .. 2;
    wait_intents(2, qr/\Aold/);

    rename $t->path('audit.jsonl'), $t->path('audit.jsonl.1');
    $t->reopen;
    push @open, $t->start_stop(job => 'new1');
    wait_intents(1, qr/\Anew/);
    $fault->mend;

    is(join(' ', map { $_->{status} } $t->finish(@open)), '200 200 200',
       'all go');

    my @synced = map { $_->{inode} == $old ? 'old' : 'new' }
        (grep { $_->{path} =~ /audit/ } $fault->synced)[-3 .. -1];
    is("@synced", 'old old new', 'each file is written to disk');
};

subtest 'A09 A08 two files' => sub {
    my $before = scalar $fault->synced;

    is($t->put_stop(project => '5' x 32, job => 'two')->{status}, 200, 'goes');
    is(join(' ', sort map { $_->{path} =~ m{(\w+)\.jsonl} }
            ($fault->synced)[$before .. $before + 1]), 'first second',
       'when both are on disk');
    is(told('two', "$_.jsonl"), $GONE, $_) for qw(first second);
    is(counted("$_.jsonl"), '1 0', "A09 $_: counted") for qw(first second);

    $fault->set('fdatasync io');
    is($t->put_stop(project => '5' x 32, job => 'neither')->{status}, 503,
       'or neither');
    $fault->mend;
};

subtest 'W07 A09 a reload while a stop waits' => sub {
    $fault->set('fdatasync hold');
    my $h = $t->start_stop(job => 'reloaded');
    wait_intents(1, qr/\Areloaded/);
    $t->reload(keep_old => 1);
    $fault->mend;

    is($t->finish($h)->{status}, 200, 'it goes on in the old worker');
    is(told('reloaded'), $GONE, 'with its records');
};

$t->expect_log(qr/\[alert\] .*is not written to disk, the queue of its thread/);

subtest 'A09 the queue of the threads is full' => sub {
    my $count = $cdm->count;

    (my $full = $conf) =~
        s/^events/thread_pool default threads=1 max_queue=0;\nevents/m;
    $t->config($full);
    $t->reload;

    # the only thread is busy with another file
    $fault->set('fdatasync hold');
    my $h = $t->start_stop(job => 'before');
    wait_intents(1, qr/\Abefore/);

    my $r = $t->put_stop(project => '5' x 32, job => 'queue');
    is($r->{status}, 503, 'refused');
    is($r->json->{error_code}, 'CDMSTOP.0303', '.0303');
    is(told('queue', 'first.jsonl'), $NOT_SENT, 'the outcome says so');
    is($cdm->count, $count, 'CDM has got nothing');
    is($t->put_stop(project => '2' x 32)->{status}, 200, 'others go on');

    $fault->mend;
    is($t->finish($h)->{status}, 200, 'that which had the thread as well');
};

$t->done;


# A CDM that looks at what is on disk, by the last call of fdatasync that came
# to its end.

package DiskReader;

use parent -norequire, 'CdmStop::Standin';

sub application {
    my ($self) = @_;

    return DiskReader::Application->new(file => $self->{file},
                                        log => $self->{log});
}


package DiskReader::Application;

use parent -norequire, 'CdmStop::Standin::Application';

sub answer {
    my ($self, $request) = @_;

    my ($job) = $request->{target} =~ m{/job/([^/]+)/stop};
    my $size = 0;

    open(my $log, '<', $self->{log}) or return { body => 'no log' };

    while (<$log>) {
        $size = $1 if /\A(\d+) \d+ \Q$self->{file}\E\n/ && $1 > $size;
    }

    open(my $in, '<:raw', $self->{file}) or return { body => 'no file' };
    read($in, my $disk, $size);

    return { status => 200, body => '{"x":"'
        . ($disk =~ /"stage":"intent"[^\n]*"job_name":"\Q$job\E"[^\n]*\n/
           ? 'safe' : 'lost') . '"}' };
}
