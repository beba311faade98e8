#!/usr/bin/perl

# Checkpoints: signed by the Ed25519 key, at start, in silence, each 10,000
# records and at the end; a cut tail and a rewritten chain are found by them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(sha256_hex);
use MIME::Base64 qw(decode_base64);
use POSIX qw(strftime);
use Time::Local qw(timegm);

use CdmStop::Chain;
use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

sub openssl {
    my ($exit, $output) = CdmStop::Process::capture('openssl', @_);
    return $exit ? die "openssl: $output" : $output;
}

openssl('genpkey', '-algorithm', 'ed25519', '-out',
        $t->path('secrets/sign.pem'));
chmod 0600, $t->path('secrets/sign.pem');
openssl('pkey', '-in', $t->path('secrets/sign.pem'), '-pubout', '-out',
        $t->path('public.pem'));
openssl('pkey', '-in', $t->path('secrets/sign.pem'), '-pubout', '-outform',
        'DER', '-out', $t->path('public.der'));

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
    cdm_stop_audit_sign         %%TESTDIR%%/secrets/sign.pem #EVERY;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

# The lines of checkpoints in the file.

sub checkpoints {
    return grep { /"stage":"checkpoint"/ } split /\n/,
        $t->read('audit.jsonl');
}

sub is_signed {
    my ($name, $line) = @_;

    my ($text, $signature) = $line =~ /\A(.*),"signature":"([^"]{88})",/
        or return fail("$name: a signature of 88 characters");

    $t->write('signed', $text);
    $t->write('signature', decode_base64($signature));
    my ($exit) = CdmStop::Process::capture(
        'openssl', 'pkeyutl', '-verify', '-pubin', '-inkey',
        $t->path('public.pem'), '-rawin', '-in', $t->path('signed'),
        '-sigfile', $t->path('signature'));

    return is($exit, 0, "$name: OpenSSL finds it good");
}

$t->config($config =~ s/#EVERY/every=1s/r);
$t->start;

# nobody stops anything

$t->wait_for(sub { checkpoints() >= 4 }, what => 'four checkpoints');
my @silent = checkpoints();
is_signed("A11 in silence, $_", $silent[$_]) for 0 .. 3;

my $public = substr $t->read('public.der'), -32;
my ($first, @more) = map { CdmStop::Test::Records::parse_line($_, 'x') }
                     @silent;
is($first->{seq}, 1, 'A11 the first record of all');
is($_->{key_id}, sha256_hex($public), 'A11 by this key') for $first, @more;
is($_->{every}, 1, 'A11 when the next one is due') for $first, @more;
is(join(' ', sort keys %$first), 'chain every hash key_id prev seq signature '
   . 'stage time v', 'A11 its members');

# one worker writes it, though all of them look

my %second;
$second{ substr $_->{time}, 0, 19 }++ for $first, @more;
cmp_ok((sort { $b <=> $a } values %second)[0], '<=', 2, 'A11 one at a time');

# the chain goes through them

$t->put_stop for 1 .. 20;
my $seen = checkpoints();
$t->wait_for(sub { checkpoints() > $seen }, what => 'another one');
$t->kill_worker($_) for ($t->worker_pids)[0, 1];
$t->wait_for(sub { $t->worker_pids == 4 }, what => 'four workers');
$t->expect_log(qr/exited on signal 9/);
$seen = checkpoints();
$t->wait_for(sub { checkpoints() > $seen + 1 }, what => 'after deaths');

my $chain = CdmStop::Chain->new;
$chain->add('audit.jsonl', $t->read('audit.jsonl') =~ s/[^\n]+\z//r);
is(join("\n", $chain->troubles), '', 'A11 the chain is whole');

# whoever makes a chain without key whole again cannot sign

{
    my ($line) = reverse checkpoints();
    is_signed('A10 as it was', $line);
    my ($text, $signature) = $line =~ /\A(.*),"signature":"([^"]{88})",/;
    $text =~ s/"prev":"\w/'"prev":"' . ($& =~ m{0\z} ? 1 : 0)/e;
    $t->write('signed', $text);
    $t->write('signature', decode_base64($signature));
    my ($exit) = CdmStop::Process::capture(
        'openssl', 'pkeyutl', '-verify', '-pubin', '-inkey',
        $t->path('public.pem'), '-rawin', '-in', $t->path('signed'),
        '-sigfile', $t->path('signature'));
    isnt($exit, 0, 'A10 rewritten, it is not good');
}

$t->stop;

# an orderly end leaves one behind the last record

my $last = (split /\n/, $t->read('audit.jsonl'))[-1];
like($last, qr/"stage":"checkpoint"/, 'A11 the last record');
is_signed('A11 at the end', $last);

# so says the tool: it knows the key, and what of the tail is gone

{
    my $tool = $t->root . '/build/cdm-stop-audit';
    my @lines = split /^/, $t->read('audit.jsonl');
    my @times = map { /"stage":"checkpoint","time":"([^"]+)"/ } @lines;
    my $n = @times;
    my $file = $t->write('standin/copy', join '', @lines);
    my $verify = sub {
        return CdmStop::Process::capture(
            $tool, 'verify', '--public-key', $t->path('public.pem'), '--every',
            60, @_, $file);
    };

    my ($exit, $said) = $verify->('--at', $times[-1]);
    is($exit, 0, 'A11 the tool finds all signatures good') or diag($said);
    like($said, qr/^chain \w+: .*, $n checkpoints$/m, 'A11 of all of them');

    # two minutes and five seconds behind the last one
    my $late = sub {
        my ($y, $mon, $day, $h, $m, $s) = $_[0] =~ /\d+/g;
        my $at = timegm($s, $m, $h, $day, $mon - 1, $y) + 126;
        return strftime('%Y-%m-%dT%H:%M:%SZ', gmtime $at);
    };

    ($exit, $said) = $verify->('--at', $late->($times[-1]));
    is($exit, 1, 'A11 the next one is overdue');
    like($said, qr/: cut tail .*: it is the last one/, 'A11 which is told');

    my ($last) = $lines[-1] =~ /"hash":"(\w+)"/;
    my ($seq) = $lines[-1] =~ /"seq":(\d+)/;
    $t->write('standin/copy', join '', @lines[0 .. $#lines - 2]);
    is(($verify->('--at', $times[-1]))[0], 0,
       'A11 a tail is cut, and no checkpoint is overdue yet');
    ($exit, $said) = $verify->('--head', "$seq:$last");
    is($exit, 1, 'A11 but a head tells it');
    like($said, qr/: cut tail .* record $seq was written/, 'A11 and what');
}

# by default each minute, and each 10,000 records

$t->write('audit.jsonl', '');
unlink $t->path('audit.jsonl.state');
$t->config($config =~ s/#EVERY//r);
$t->start;
$t->wait_for(sub { checkpoints() }, what => 'the first one');
is((map { CdmStop::Test::Records::parse_line($_, 'x')->{every} }
    checkpoints())[0], 60, 'A11 each minute');

my $done = 0;

while ($done < 5_100) {
    my @answers = $t->finish(map { $t->start_stop } 1 .. 100);
    my $good = grep { $_ && $_->{status} == 200 } @answers;
    $done += $good or die "no stop goes through\n";
}

my @seqs = map { CdmStop::Test::Records::parse_line($_, 'x')->{seq} }
           checkpoints();
my ($many) = grep { $_ > 9_000 } @seqs;
cmp_ok($many // 99_999, '<=', 10_002, 'A11 behind 10,000 records');
$t->stop;
$chain = CdmStop::Chain->new->add('audit.jsonl', $t->read('audit.jsonl'));
is(join("\n", $chain->troubles), '', 'A11 the chain is whole');

$t->done;
