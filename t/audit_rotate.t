#!/usr/bin/perl

# A file of records that is renamed, deleted or replaced while nginx writes to
# it, with and without a signal: no record gets to where nobody looks.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

# workers may make files in the one and not in the other
mkdir $t->path($_) for qw(open closed);
chmod 0777, $t->path('open');

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 4;
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
            cdm_stop_audit  %%TESTDIR%%/open/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/closed/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/33333333333333333333333333333333/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/closed/effort.jsonl best_effort;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;

my $audit = $t->path('open/audit.jsonl');

# Sends stops until each worker had some; the workers' answers.

sub by_all {
    my ($job, %arg) = @_;

    my (%seen, @answers);

    for my $i (1 .. 400) {
        my $r = $t->put_stop(job => $job, %arg);
        push @answers, $r;
        $seen{$r->header('X-Worker') // '-'}++;
        last if keys %seen == 4 && $i >= 8;
    }

    is(scalar keys %seen, 4, 'each worker had one');

    return @answers;
}

# Whether each answer has its pair of records in one of the files.

sub pairs_in {
    my ($answers, @files) = @_;

    my %stages;

    for my $file (@files) {
        push @{$stages{$_->{request_id}}}, $_->{stage} for $t->records($file);
    }

    return join ' ', grep { $_ ne 'intent outcome' }
           map { join ' ', @{$stages{$_->header('X-Request-Id')} // ['none']} }
           @$answers;
}

# Open files of the workers that have no name any more: inode => size.

sub deleted {
    my %size;

    for my $pid ($t->worker_pids) {
        for my $fd (glob "/proc/$pid/fd/*") {
            next if (readlink $fd // '') !~ /audit\.jsonl \(deleted\)\z/;
            my @stat = stat $fd;
            $size{$stat[1]} = $stat[7];
        }
    }

    return \%size;
}

subtest 'A06 renamed without a signal' => sub {
    by_all('before');
    rename $audit, "$audit.1" or die "$audit: $!\n";

    my @answers = by_all('renamed');
    is(pairs_in(\@answers, "$audit.1"), '', 'it is written on');
    ok(!-e $audit, 'and no other is made');

    $t->reopen;
    $t->wait_for(sub { by_worker_is_new() }, what => 'workers with new files');
    @answers = by_all('reopened');
    is(pairs_in(\@answers, $audit), '', 'until USR1');
};

# Workers open their files in their own time.

sub by_worker_is_new {
    my $inode = (stat $audit)[1] // return 0;

    return 4 == grep {
        my $pid = $_;
        grep { ((stat $_)[1] // 0) == $inode } glob "/proc/$pid/fd/*";
    } $t->worker_pids;
}

# A second time before anybody wrote to the new file, or looked at it.

subtest 'A07 renamed twice' => sub {
    for my $turn (1 .. 4) {
        my ($old, $new) = map { "$audit." . (2 * $turn + $_) } 0, 1;

        rename $audit, $old or die "$audit: $!\n";
        $t->reopen;
        $t->wait_for(sub { by_worker_is_new() },
                     what => 'workers with new files');
        rename $audit, $new or die "$audit: $!\n";

        my $r = $t->put_stop(job => "twice$turn");
        is($r->{status}, 200, 'the stop goes');
        is(pairs_in([$r], $new), '', 'its records are in the newer file');

        $t->reopen;
        $t->wait_for(sub { by_worker_is_new() },
                     what => 'workers with new files');
    }
};

subtest 'A06 deleted without a signal' => sub {
    for my $turn (1 .. 3) {
        my @stat = stat $audit;
        unlink $audit or die "$audit: $!\n";

        my @answers = by_all("deleted$turn");
        is(scalar(grep { $_->{status} != 200 } @answers), 0, 'stops go');
        is(pairs_in(\@answers, $audit), '', 'a new file has their records');
        is(deleted()->{$stat[1]} // $stat[7], $stat[7],
           'nothing is added to the old one');
    }

    unlink $audit or die "$audit: $!\n";
    ok($t->wait_for(sub { -e $audit }, what => 'a new file', quiet => 1),
       'it is noticed without a stop');

    like($t->error_log, qr/\[warn\] .*audit file "\S+" was deleted, a new one/,
         'the log tells');
};

subtest 'A06 replaced without a signal' => sub {
    $t->write("$audit.new", '');
    chmod 0666, "$audit.new";
    rename "$audit.new", $audit or die "$audit: $!\n";
    my $inode = (stat $audit)[1];

    my @answers = by_all('replaced');
    is(pairs_in(\@answers, $audit), '', 'the one of that name has the records');
    is((stat $audit)[1], $inode, 'it is the same');
};

$t->expect_log(qr/\[alert\] .*audit file "\S+" was deleted, and the worker ca/);
$t->expect_log(qr/\[alert\] .*audit record could not be written to "\S+"/);

subtest 'A06 deleted, and the worker may not make a new one' => sub {
    my $file = $t->path('closed/audit.jsonl');

    chmod 0555, $t->path('closed') if $>;
    is($t->put_stop(project => '2' x 32)->{status}, 200, 'a stop');

    chmod 0755, $t->path('closed');
    unlink $file, $t->path('closed/effort.jsonl');
    chmod 0555, $t->path('closed') if $>;
    my $count = $cdm->count;

    my @answers = by_all('nowhere', project => '2' x 32);
    is(scalar(grep { $_->{status} == 503
                     && $_->json->{error_code} eq 'CDMSTOP.0303' } @answers),
       scalar @answers, 'no stop goes');
    is($cdm->count, $count, 'CDM gets none');
    ok(!-e $file, 'there is no file');

    is($t->put_stop(project => '3' x 32)->{status}, 200, 'best_effort goes');

    chmod 0755, $t->path('closed');
    $t->reopen;
    $t->wait_for(sub { -e $file }, what => 'the new file');
    $t->wait_for(sub {
        $t->put_stop(project => '2' x 32)->{status} == 200;
    }, what => 'a stop after USR1') for 1 .. 8;
    my @stages = map { $_->{stage} } $t->records($file);
    cmp_ok(scalar(grep { $_ eq 'intent' } @stages), '>=', 8,
           'the master made it on USR1');
};

subtest 'A07 rotation under load' => sub {
    my $jobs = 0;
    my (@open, @answers);

    # not what is kept beside it
    unlink $audit, glob "$audit.[0-9]*";

    my $load = sub {
        for (1 .. 60) {
            push @open, $t->start_stop(job => 'load' . ++$jobs);
            push @answers, $t->finish(splice @open, 0, 10) if @open > 30;
        }
    };

    for my $turn (1 .. 8) {
        $load->();
        rename $audit, "$audit.$turn" or die "$audit: $!\n";
        $load->() if $turn % 2;
        kill 'USR1', $t->master_pid;
        $load->();
        $t->wait_for(sub { -s $audit }, what => 'new file');
    }

    push @answers, $t->finish(@open);
    is(scalar(grep { $_->{status} == 200 } @answers), $jobs, 'all are stopped');

    my %stages;
    my @files = ($audit, glob "$audit.[0-9]*");
    is(scalar @files, 9, 'nine files');

    for my $file (@files) {
        push @{$stages{$_->{job_name}}}, $_->{stage} for $t->records($file);
    }

    is(join(' ', grep { join(' ', sort @{$stages{"load$_"} // []})
                          ne 'intent outcome' } 1 .. $jobs), '',
       'each has its two records, none is lost, doubled or split');
};

$t->done;
