#!/usr/bin/perl

# cdm-stop-audit on records that nginx wrote: keyed, signed, over a rotation.

use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::MadeChain;
use CdmStop::Test;

my $tool = "$FindBin::Bin/../build/cdm-stop-audit";
die "$tool is missing: run make\n" unless -x $tool;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $key = $t->ledger->token(64);
my ($private, $public) = CdmStop::MadeChain::keypair();

$t->write_secret('secrets/key', $key);
$t->write_secret('secrets/sign', CdmStop::MadeChain::slurp($private));
$t->audit_key($key);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_audit_key   %%TESTDIR%%/secrets/key;
    cdm_stop_audit_sign  %%TESTDIR%%/secrets/sign every=60s;
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
        cdm_stop        huawei;
        cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

my ($old, $new) = ($t->path('audit.jsonl.1'), $t->path('audit.jsonl'));

$t->start;
$t->put_stop(job => "etl_$_") for 1 .. 10;
is($t->put_stop(method => 'GET')->{status}, 405, 'a refusal');
rename $new, $old or die "$new: $!\n";
$t->reopen;
is($t->put_stop(job => 'late')->{status}, 200, 'a stop after the rotation');
my $token = $iam->last_token;
$t->stop;

my @verify = ('verify', '--key', $t->path('secrets/key'), '--public-key',
    $public, '--strict');

my ($exit, $text) = run('', @verify, $new, $old);
is($exit, 0, 'A10 what nginx wrote is whole') or diag($text);
like($text, qr/ 0 findings, 0 intents without outcome/, 'A10 and nothing told');
my ($head) = $text =~ /head (\d+:\w+)/;

# not where the harness looks at all records
my $cut = tempdir('cdm-stop-cut-XXXXXX', TMPDIR => 1, CLEANUP => 1) . '/f';
my @lines = split /^/, CdmStop::MadeChain::slurp($new);
my ($exit_file, $told) = run('', @verify, $new);
is($exit_file, 1, 'A10 the file before was lost');
like($told, qr/: lost start /, 'A10 which is told');

open my $fh, '>', $cut or die "$cut: $!\n";
print $fh @lines[0 .. $#lines - 1];
close $fh;
($exit, $text) = run('', @verify, '--head', $head, $old, $cut);
is($exit, 1, 'A11 a cut tail');
like($text, qr/: cut tail /, 'A11 is told');

($exit, $text) = run($token, 'fingerprint', '--key', $t->path('secrets/key'),
    $old, $new);
is($exit, 0, 'the token is found in the records') or diag($text);
like($text, qr/: injected by the gateway$/m, 'as one that was injected');
unlike($text, qr/\Q$token\E/, 'and is not printed');

($exit, $text) = run('', 'show', '--job', '^late$', $old, $new);
like($text, qr/^\S+Z  stopped  job=late  .*status=200/m, 'show');

$t->done;


sub run {
    my ($input, @args) = @_;

    pipe my $in, my $feed or die "pipe: $!\n";
    my $pid = open my $out, '-|';
    die "fork: $!\n" unless defined $pid;

    if ($pid == 0) {
        close $feed;
        open STDIN, '<&', $in or die "dup: $!\n";
        open STDERR, '>&', \*STDOUT or die "dup: $!\n";
        exec $tool, @args or die "$tool: $!\n";
    }

    close $in;
    print $feed $input;
    close $feed;

    local $/;
    my $output = <$out> // '';
    close $out;

    return ($? >> 8, $output);
}
