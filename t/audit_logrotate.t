#!/usr/bin/perl

# The real logrotate under load: with the configuration of docs/AUDIT.md no
# record is lost, which the commands of that page prove, and with
# "copytruncate", which it forbids, the verifier tells just what was.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::MadeChain;
use CdmStop::Process;
use CdmStop::Test;

my $tool = "$FindBin::Bin/../build/cdm-stop-audit";
my ($logrotate) = grep { -x } qw(/usr/sbin/logrotate /usr/bin/logrotate);
die "logrotate is missing: run t/build/deps.sh test\n" unless $logrotate;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $key = $t->ledger->token(64);

my ($private, $public) = CdmStop::MadeChain::keypair();

$t->write_secret('secrets/key', $key);
$t->write_secret('secrets/sign', CdmStop::MadeChain::slurp($private));
$t->audit_key($key);

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 4;
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
    cdm_stop_audit_sign         %%TESTDIR%%/secrets/sign;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/logs/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/cut.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

mkdir $t->path('logs');
$t->config($config);
$t->start;

my $jobs = 0;
my $key_file = $t->path('secrets/key');

# Sends stops while a command runs, and some behind it; its output.

sub under_load {
    my ($command, %arg) = @_;

    my $output = $t->write('logrotate.out', '');
    stops(100, %arg);
    my $pid = CdmStop::Process::run_in_background(
        $command, stdout => $output, stderr => $output, env => $arg{env});
    my $status;

    until (defined $status) {
        stops(20, %arg);
        $status = CdmStop::Process::wait_for($pid, 0);
    }

    stops(100, %arg);
    my $said = $t->read('logrotate.out');
    is($status, 0, 'logrotate') or diag($said);

    return $said;
}

sub stops {
    my ($n, %arg) = @_;

    my @answers = $t->finish(map {
        $t->start_stop(job => 'j' . ++$jobs, project => $arg{project});
    } 1 .. $n);
    my @bad = grep { !$_ || $_->{status} != 200 } @answers;
    die scalar @bad, " of $n stops do not go\n" if @bad;

    return;
}

sub verify {
    return CdmStop::Process::capture(
        $tool, 'verify', '--key', $t->path('secrets/key'), @_);
}

# What the page says is to be typed, with these files and that tool.

sub commands {
    my ($text) = $t->read($t->root . '/docs/AUDIT.md') =~
        m{^```sh\n(now=.*?)^```}ms or die "docs/AUDIT.md has no commands\n";
    my ($file, $copy) = map { $t->path($_) } 'logs/audit.jsonl', 'standin/copy';

    for (['/var/log/nginx/cdm_stop.jsonl', $file], ['cdm-audit', $key_file],
         ['cdm-sign.pub', $public], ['cdm-stop-audit', $tool],
         ['cdm_stop.jsonl', 'audit.jsonl'])
    {
        my ($said, $here) = @$_;
        $text =~ s/\Q$said\E/$here/ or die "no $said\n";
    }

    return $text =~ s/\bcopy\b/$copy/gr;
}

# The configuration of the page, for these paths and this nginx.

sub documented {
    my ($text) = $t->read($t->root . '/docs/AUDIT.md') =~
        m{^```\n(/var/log/nginx/cdm_stop\.jsonl \{\n.*?^\}\n)```}ms
        or die "docs/AUDIT.md has no logrotate\n";
    my $pid = $t->master_pid;
    my $file = $t->path('logs/audit.jsonl');

    $text =~ s{/var/log/nginx/cdm_stop\.jsonl}{$file};
    $text =~ s{invoke-rc\.d nginx rotate\b.*}{kill -USR1 $pid} or die;
    $text =~ s{^ *create \K0640 www-data adm}{0640}m or die if $>;

    # of one day there would be one
    $text =~ s{^ *dateext\n}{}m or die;

    return $text;
}

subtest 'A07 as documented' => sub {
    my $conf = $t->write('logrotate.conf', documented());
    my $file = $t->path('logs/audit.jsonl');

    for my $turn (1 .. 4) {
        my @before = stat $file;
        under_load([$logrotate, '-f', '-s', $t->path('logrotate.state'),
                    $conf]);
        my @new = stat $file;
        isnt($new[1], $before[1], 'A07 a new file');
        is($new[2] & 07777, 0640, 'A07 with its mode');
    }

    is(scalar(glob "$file.*.gz") ? 1 : 0, 1, 'A07 old ones are compressed');

    my ($exit, $said) = verify(glob "$file*");
    is($exit, 2, 'A07 which the verifier tells');
    like($said, qr/audit\.jsonl\.\d\.gz: it is compressed/, 'A07 by name');

    ($exit, $said) = CdmStop::Process::capture('sh', '-e', '-c', commands());
    is($exit, 0, 'A07 all files of logrotate are one chain') or diag($said);
    my ($all, $signed) =
        $said =~ /^chain \w+: (\d+) records fit, .* (\d+) checkpoints$/m;
    is($all - $signed, 2 * $jobs, 'A07 of all records');
    like($said, qr/ 0 intents without outcome/, 'A07 and outcomes');
    my @copies = grep { !/\.(?:state|lock)\z/ }
                 glob $t->path('standin/copy/*');
    is(scalar @copies, 5, 'A07 in five files');

    # for all that looks at the files of a test
    CdmStop::Process::capture('gunzip', glob "$file.*.gz");
};

# The time between the copy and the cut is what records are lost in; a slow
# ftruncate(2) makes it long enough for some.

subtest 'A07 copytruncate' => sub {
    my $file = $t->path('cut.jsonl');
    my $library = $t->path('slow.so');
    my $conf = $t->write('cut.conf', <<"EOC");
$file {
    rotate 4
    copytruncate
}
EOC
    my $source = $t->write('slow.c', <<'EOC');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

int
ftruncate(int fd, off_t size)
{
    int (*real)(int, off_t) = dlsym(RTLD_NEXT, "ftruncate");

    usleep(500000);
    return real(fd, size);
}

int
ftruncate64(int fd, off64_t size)
{
    return ftruncate(fd, size);
}
EOC
    my ($exit, $said) = CdmStop::Process::capture(
        'cc', '-shared', '-fPIC', '-o', $library, $source, '-ldl');
    is($exit, 0, 'cc') or diag($said);

    my $first = $jobs + 1;
    under_load([$logrotate, '-f', '-s', $t->path('cut.state'), $conf],
               project => '2' x 32, env => { LD_PRELOAD => $library });
    $t->stop;

    my @there = map { $t->records($_) } "$file.1", $file;
    my (%stages, %seq);
    $seq{ $_->{seq} }++ for @there;
    $stages{ $_->{job_name} } .= $_->{stage} for grep { $_->{job_name} } @there;
    my $lost = 2 * ($jobs - $first + 1) - grep { $_->{job_name} } @there;
    cmp_ok($lost, '>', 0, 'A07 records are lost');

    # the last of all is a checkpoint, and another one may have been due
    my @gone = grep { !$seq{$_} } 1 .. $there[-1]{seq};
    cmp_ok(abs(@gone - $lost - 0.5), '<', 1, 'A07 as the numbers tell');

    ($exit, $said) = verify($file, "$file.1");
    is($exit, 1, 'A07 the verifier tells the cut');
    like($said, qr/^\S+cut\.jsonl:1\ \(byte\ 0\):\ lost\ file:
                   \ records\ $gone[0]\ to\ $gone[-1]\ are\ missing/mx,
         'A07 which records are gone') or diag($said);
    is($gone[-1] - $gone[0] + 1, scalar @gone, 'A07 and no others');

    my @open = $said =~ /: open: request \w+ of \S+, job (\w+):/g;
    my @intents = grep { $stages{$_} eq 'intent' } keys %stages;
    is(join(' ', sort @open), join(' ', sort @intents),
       'A07 stops whose outcome was lost are listed');
};

$t->damaged_records('lost file');
$t->done;
