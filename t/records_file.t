#!/usr/bin/perl

# A file of records that cannot be written, takes half a line, or is rotated:
# no intent, no stop; what was answered is answered; no line is lost or torn
# that could be whole.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Process;
use CdmStop::Metrics;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $control = $t->path('fault');

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
        listen 127.0.0.1:%%PORT%% reuseport;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/effort.jsonl best_effort;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/33333333333333333333333333333333/ {
            cdm_stop        huawei;
            cdm_stop_audit  /dev/full;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/44444444444444444444444444444444/ {
            cdm_stop        huawei;
            cdm_stop_audit  /dev/full best_effort;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/55555555555555555555555555555555/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/first.jsonl;
            cdm_stop_audit  /dev/full;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/66666666666666666666666666666666/ {
            cdm_stop        huawei;
            cdm_stop_audit  /dev/full best_effort;
            cdm_stop_audit  %%TESTDIR%%/second.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status { cdm_stop_status; }
    }
}
EOC

# What lies between nginx and the disk: a library that makes write(2) fail, or
# take less, as a file tells: MODE STAGE PID, the latter two "any" if they are
# not to matter.

my $library = fault_library();

{
    local $ENV{LD_PRELOAD} = $library;
    local $ENV{TEST_FAULT_CONTROL} = $control;
    $t->start;
}

# How many records of a stage were lost since the last call.

my %lost;

sub lost {
    my ($stage, $file) = @_;

    my $n = CdmStop::Metrics->new($t)->text->{
        'cdm_stop_audit_records_lost_total{target="'
        . $t->path($file // 'audit.jsonl') . qq(",stage="$stage"})};
    my $more = $n - ($lost{$stage, $file // ''} // 0);

    $lost{$stage, $file // ''} = $n;
    return $more;
}

sub fault_library {
    my $source = $t->write('fault.c', <<'EOF_C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char  control[4096];

__attribute__((constructor)) static void
begin(void)
{
    const char  *name = getenv("TEST_FAULT_CONTROL");

    if (name) {
        strncpy(control, name, sizeof(control) - 1);
    }
}

static int
is_record(int fd)
{
    char     link[64], name[4096];
    ssize_t  n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, name, sizeof(name) - 1);

    return n > 6 && memcmp(name + n - 6, ".jsonl", 6) == 0;
}

ssize_t
write(int fd, const void *buf, size_t n)
{
    int       fields;
    char      mode[32], stage[32], pid[32], want[64];
    FILE     *f;
    ssize_t (*real)(int, const void *, size_t);

    real = (ssize_t (*)(int, const void *, size_t)) dlsym(RTLD_NEXT, "write");

    if (control[0] == '\0' || !is_record(fd)) {
        return real(fd, buf, n);
    }

    f = fopen(control, "r");
    if (f == NULL) {
        return real(fd, buf, n);
    }

    fields = fscanf(f, "%31s %31s %31s", mode, stage, pid);
    fclose(f);

    snprintf(want, sizeof(want), "\"stage\":\"%s\"", stage);

    if (fields != 3
        || (strcmp(stage, "any") && !memmem(buf, n, want, strlen(want)))
        || (strcmp(pid, "any") && atoi(pid) != (int) getpid()))
    {
        return real(fd, buf, n);
    }

    if (strcmp(mode, "half") == 0) {
        return real(fd, buf, n / 2);
    }

    if (strcmp(mode, "most") == 0) {
        return real(fd, buf, n - 1);
    }

    errno = strcmp(mode, "full") == 0 ? ENOSPC
            : strcmp(mode, "quota") == 0 ? EDQUOT
            : strcmp(mode, "readonly") == 0 ? EROFS : EIO;

    return strcmp(mode, "nothing") == 0 ? 0 : -1;
}
EOF_C

    my $object = $t->path('fault.so');
    my ($exit, $output) = CdmStop::Process::capture(
        'cc', '-O1', '-Wall', '-shared', '-fPIC', '-o', $object, $source,
        '-ldl');
    die "cc: $output\n" if $exit;

    return $object;
}

sub fault {
    my ($mode, $stage, $pid) = @_;

    # a reader sees the old file or the new one
    $t->write('fault.new', join(' ', $mode, $stage // 'any', $pid // 'any'));
    rename $t->path('fault.new'), $control or die "$control: $!\n";
    return;
}

sub mend {
    unlink $control or die "$control: $!\n";
    return;
}

sub lines {
    my ($file) = @_;

    return -e $t->path($file) ? split /\n/, $t->read($file), -1 : ();
}

# A stop that is refused for want of a record; nothing is sent.

sub is_refused {
    my ($name, %arg) = @_;

    my ($bytes, $posts) = ($cdm->bytes, scalar $iam->posts);
    my $r = $t->put_stop(%arg);

    is($r->{status}, 503, "$name: 503");
    is($r->json && $r->json->{error_code}, 'CDMSTOP.0303', '.0303');
    like($r->header('X-Request-Id'), qr/\A[0-9a-f]{32}\z/, 'with an id');
    is($cdm->bytes, $bytes, 'not one byte at CDM');
    cmp_ok(scalar($iam->posts) - $posts, '<=', 1, 'one call of IAM at most');

    return $r;
}

$t->expect_log(qr/\[alert\] .*audit record could not be written to "\S+"/);

is($t->put_stop(job => 'before')->{status}, 200, 'A03 a stop before all that');

subtest 'A03 no space, no quota, a broken or read-only disk' => sub {
    for my $mode (qw(full quota io readonly nothing)) {
        my $before = $t->read('audit.jsonl');

        fault($mode);
        is_refused($mode, job => "no_$mode");
        is($t->read('audit.jsonl'), $before, 'nothing was written');

        my $r = $t->put_stop(method => 'GET');
        is($r->json->{error_code}, 'CDMSTOP.0003', 'a refusal keeps its code');
        is(lost('intent'), 1, 'A03 the intent is counted as lost');
        is(lost('refused'), 2, 'A05 so are both refusals');

        mend();
        is($t->put_stop(job => "after_$mode")->{status}, 200,
           'it works again by itself');
    }

    # but for the intent, the file takes it all
    fault('full', 'intent');
    my $r = is_refused('the intent alone', job => 'no_intent');
    mend();
    my ($refused) = (grep { $_->{stage} eq 'refused' }
                     $t->records('audit.jsonl'))[-1];
    is($refused->{error_code}, 'CDMSTOP.0303', 'the record of the refusal');
    is($refused->{status}, 503, 'its status');
    is($refused->{verdict}, 'not_sent', 'and verdict');
    is($refused->{request_id}, $r->header('X-Request-Id'), 'is of that stop');
    is($refused->{job_name}, 'no_intent', 'and that job');

    is_refused('/dev/full', project => '3' x 32);
    is_refused('/dev/full again', project => '3' x 32);
};

subtest 'A03 best_effort' => sub {
    fault('full');
    my $r = $t->put_stop(project => '2' x 32);
    is($r->{status}, 200, 'the stop goes');
    is(scalar(lines('effort.jsonl')), 0, 'without a record');
    is(lost($_, 'effort.jsonl'), 1, "A03 its $_ is counted as lost")
        for qw(intent outcome);
    mend();

    is($t->put_stop(project => '2' x 32)->{status}, 200, 'the next one');
    is(scalar($t->records('effort.jsonl')), 2, 'has its records');

    is($t->put_stop(project => '4' x 32)->{status}, 200, '/dev/full');
};

subtest 'A03 A08 one of two targets' => sub {
    my $r = is_refused('the second cannot', project => '5' x 32);
    my @first = $t->records('first.jsonl');
    is(join(' ', map { $_->{stage} . ' ' . ($_->{error_code} // '') } @first),
       'intent  refused CDMSTOP.0303', 'the first tells how it ended');
    is($first[1]{request_id}, $first[0]{request_id}, 'that stop');

    is($t->put_stop(project => '6' x 32)->{status}, 200,
       'the first cannot, at best effort');
    is(scalar($t->records('second.jsonl')), 2, 'the second has all');
};

subtest 'A05 CDM has answered, and the outcome cannot be written' => sub {
    for my $mode (qw(full half)) {
        fault($mode, 'outcome');
        my $r = $t->put_stop(job => "answered_$mode");
        mend();

        is("$r->{status} $r->{body}", '200 {}', "$mode: the client gets CDM's "
           . 'answer');
        is($r->header('X-Request-Id') =~ /\A[0-9a-f]{32}\z/, 1, 'and the id');
        $t->put_stop(job => "then_$mode") for 1 .. 4;

        my @mine = grep { /"answered_$mode"/ } lines('audit.jsonl');
        my @whole = grep { /\}\z/ } @mine;
        is(scalar @whole, 1, 'the intent is there');
        is(lost('outcome'), 1, 'A05 the outcome is counted as lost');
        like($whole[0], qr/"stage":"intent"/, 'and no outcome');
    }
};

# A line that was not taken whole ends where it broke off, and the next record
# begins on a line of its own, whichever worker writes it.

subtest 'A04 half a line' => sub {
    my @workers = $t->worker_pids;

    for my $case (['half', 'intent', 503], ['most', 'intent', 503],
                  ['half', 'outcome', 200], ['most', 'outcome', 200])
    {
        my ($mode, $stage, $status) = @$case;

        for my $worker (@workers) {
            my ($same, $other) = (0, 0);

            for my $i (1 .. 60) {
                last if $same && $other;
                tear($mode, $stage, $worker, $status) or next;
                my $r = $t->put_stop(job => 'whole');
                my $by = $r->header('X-Worker');
                $by == $worker ? $same++ : $other++;

                is($r->{status}, 200, "$mode of an $stage: the next stop goes");
                is(trouble($r->header('X-Request-Id')), '',
                   'its lines are its own, '
                   . ($by == $worker ? 'same' : 'other') . ' worker');
            }

            ok($same && $other, 'the same worker, and the other');
        }
    }
};

# Has one worker write half a record; false if it was the other one's turn.

sub tear {
    my ($mode, $stage, $worker, $status) = @_;

    fault($mode, $stage, $worker);
    my $r = $t->put_stop(job => 'torn');
    mend();

    if ($r->header('X-Worker') != $worker) {
        is($r->{status}, 200, 'the other worker: not torn');
        return 0;
    }

    is($r->{status}, $status, "$mode of an $stage: $status");
    is($r->json->{error_code}, $status == 503 ? 'CDMSTOP.0303' : undef,
       'the stop is not sent, or CDM has answered');

    return 1;
}

# What is wrong with the lines of one request: they are to be two records.

sub trouble {
    my ($id) = @_;

    my @lines = lines('audit.jsonl');
    my $rest = pop @lines;
    return 'no line feed at the end' if $rest ne '';

    my @mine = grep { /"\Q$id\E"/ } @lines;
    my @records = grep { $_ } map {
        eval { CdmStop::Test::Records::parse_line($_, 'x') }
    } @mine;
    my $stages = join ' ', map { $_->{stage} } @records;

    return $stages eq 'intent outcome' ? '' : "stages: $stages, of: @mine";
}

subtest 'A04 A07 a torn line and a new file' => sub {
    my ($worker) = $t->worker_pids;
    my $r;

    # the refusal behind it is torn as well
    fault('half');
    $r = $t->put_stop(job => 'torn') for 1 .. 8;
    mend();

    rename $t->path('audit.jsonl'), $t->path('audit.jsonl.torn');
    $t->reopen;
    is($t->put_stop(job => 'new')->{status}, 200, 'a stop') for 1 .. 8;

    # a worker may have written to the old one yet
    my @lines = lines('audit.jsonl');
    isnt($lines[0], '', 'the new file begins with a record');
    is(scalar(grep { $_ eq '' } @lines), 1, 'and has no empty line');
};

subtest 'A07 a new file under load' => sub {
    my $jobs = 0;
    my (@open, @answers);

    # a file that is deleted before it is opened again would be an alert
    rename $t->path('audit.jsonl'), $t->path('old.jsonl');
    unlink grep { !m{\.(?:state|lock)\z} } glob $t->path('audit.jsonl*');
    $t->reopen;
    $t->wait_for(sub {
        $t->put_stop(job => 'start');
        -s $t->path('audit.jsonl');
    }, what => 'the first file');
    $cdm->reset_log;

    for my $turn (1 .. 5) {
        for (1 .. 60) {
            push @open, $t->start_stop(job => 'load' . ++$jobs);
            push @answers, $t->finish(splice @open, 0, 10) if @open > 20;
        }

        rename $t->path('audit.jsonl'), $t->path("audit.jsonl.$turn");
        kill 'USR1', $t->master_pid;

        for (1 .. 60) {
            push @open, $t->start_stop(job => 'load' . ++$jobs);
            push @answers, $t->finish(splice @open, 0, 10) if @open > 20;
        }

        # the master may get to it only when these are all done
        $t->wait_for(sub {
            push @open, $t->start_stop(job => 'load' . ++$jobs);
            push @answers, $t->finish(splice @open);
            -s $t->path('audit.jsonl');
        }, what => 'new file');
    }

    push @answers, $t->finish(@open);
    is(scalar(grep { $_->{status} == 200 } @answers), $jobs,
       'all were stopped');

    my %stages;
    my @files = sort grep { !m{\.(?:state|lock)\z} }
                glob $t->path('audit.jsonl*');
    is(scalar @files, 6, 'six files');

    for my $file (@files) {
        push @{$stages{$_->{job_name}}}, $_->{stage} for $t->records($file);
    }

    my @wrong = grep { join(' ', sort @{$stages{"load$_"} // []})
                       ne 'intent outcome' } 1 .. $jobs;
    is(join(' ', @wrong), '', 'each has its two records, none is doubled');
    is($cdm->count, $jobs, 'CDM got each of them once');
};

subtest 'W03 a configuration that is only tested writes nothing' => sub {
    my $count = $cdm->count;

    $cdm->script({ hold => 'end' });
    my $h = $t->start_stop(job => 'running');
    $cdm->wait_requests($count + 1);
    my $before = $t->read('audit.jsonl');
    my $conf = $t->read('nginx.conf');

    for my $option (qw(-t -T)) {
        my ($exit) = $t->nginx_with($option, $conf);
        is($exit, 0, "nginx $option");
        is($t->read('audit.jsonl'), $before, 'nothing is appended');
    }

    $t->reload(keep_old => 1);
    is($t->read('audit.jsonl'), $before, 'nor by a reload');

    $cdm->release('end');
    is($t->finish($h)->{status}, 200, 'the stop comes to its end');
    my ($outcome) = grep { $_->{job_name} eq 'running'
                           && $_->{stage} eq 'outcome' }
                    $t->records('audit.jsonl');
    is($outcome->{verdict}, 'stopped', 'and to its outcome');
    $cdm->script;
};

subtest 'A07 copytruncate' => sub {
    my $file = $t->path('audit.jsonl');

    $t->put_stop(job => 'old');
    truncate $file, 0 or die "$file: $!\n";
    $t->put_stop(job => 'new');

    is(join(' ', map { "$_->{stage} $_->{job_name}" } $t->records($file)),
       'intent new outcome new', 'goes on at the begin of the file');
};

# files were deleted and cut, which the verifier tells
$t->damaged_records('lost file');
$t->done;
