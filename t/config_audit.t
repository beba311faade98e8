#!/usr/bin/perl

# nginx -t as the linter of the keys of the audit chain: a key that is short,
# open to others or not there, a signing key of another kind, times out of
# bounds, and keys that no record is made with.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Linter;
use CdmStop::Messages;
use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new;

$t->write_secret('secrets/password', $t->ledger->password);
$t->write_secret('secrets/key', $t->ledger->token(64));
$t->write_secret('secrets/open', $t->ledger->token(64), 0644);
$t->write('secrets/short', "15 bytes of key\n", 0600);
$t->write('secrets/least', "16 bytes, a key.\r\n", 0600);
$t->write('secrets/binary', pack('C*', 128 .. 160), 0600);
$t->write('secrets/most', 'k' x 4096 . "\n", 0600);
$t->write('secrets/long', 'k' x 4097, 0600);

# algorithm, or what else openssl is told, for each file

my %pem = (
    ed25519 => ['ed25519'], x25519 => ['x25519'],
    rsa => ['rsa', '-pkeyopt', 'rsa_keygen_bits:1024'],
    locked => ['ed25519', '-aes256', '-pass', 'pass:abcd'],
);

for my $name (sort keys %pem) {
    my ($exit, $output) = CdmStop::Process::capture(
        'openssl', 'genpkey', '-algorithm', @{ $pem{$name} }, '-out',
        $t->path("secrets/$name.pem"));
    die "openssl: $output" if $exit;
    chmod 0600, $t->path("secrets/$name.pem");
}

$t->write('secrets/open.pem', $t->read('secrets/ed25519.pem'), 0640);
chmod 0644, $t->path('secrets/open.pem');
$t->write('secrets/cut.pem', substr($t->read('secrets/ed25519.pem'), 0, 60),
          0600);

my $lint = CdmStop::Linter->new(test => $t, conf => <<'EOC');
%%GLOBALS%%
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            https://127.0.0.1:%%IAM_PORT%%;
        projects       any;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
    }
    #KEY
    #SIGN
    server {
        listen 127.0.0.1:%%PORT%%;
        large_client_header_buffers 4 40k;
        error_log %%TESTDIR%%/server.log info;
        location /v1.1/ {
            cdm_stop huawei;                                    #GUARD
            cdm_stop_verify off;
            cdm_stop_anonymous on;
            cdm_stop_insecure_upstream on;
            cdm_stop_audit %%TESTDIR%%/audit.jsonl;             #AUDIT
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

sub key { return "cdm_stop_audit_key %%TESTDIR%%/secrets/$_[0];" }

sub pem { return "cdm_stop_audit_sign %%TESTDIR%%/secrets/$_[0].pem$_[1];" }

$lint->is_fine("C03 key $_", $lint->with(KEY => key($_)))
    for qw(key least most binary);
$lint->is_fine("C03 sign$_", $lint->with(SIGN => pem('ed25519', $_)))
    for '', ' every=1s', ' every=60', ' every=1d';
$lint->is_fine('C03 both', $lint->with(KEY => key('key'),
                                       SIGN => pem('ed25519', '')));

for my $case (['short', 15], ['long', 4097]) {
    my ($name, $bytes) = @$case;
    $lint->is_error("C03 key of $bytes bytes", $lint->with(KEY => key($name)),
                    'KEY', qr/has $bytes bytes, it must have 16 to 4096;/);
}

$lint->is_error('C03 key for all to read', $lint->with(KEY => key('open')),
                'KEY', qr/can be read or written by others, run: chmod 600/);
$lint->is_error('C03 no such key', $lint->with(KEY => key('none')), 'KEY',
                qr/open\(\) "\S+none" failed, put the secret there/);
$lint->is_error('C03 two keys', $lint->with(KEY => key('key') . key('key')),
                'KEY', '"cdm_stop_audit_key" directive is duplicate');

for my $name (qw(x25519 rsa locked cut)) {
    $lint->is_error("C03 sign by $name", $lint->with(SIGN => pem($name, '')),
                    'SIGN', qr/holds no Ed25519 private key without a/);
}

$lint->is_error('C03 sign by a key that all may read',
                $lint->with(SIGN => pem('open', '')), 'SIGN',
                qr/can be read or written by others, run: chmod 600/);
$lint->is_error('C03 two signing keys',
                $lint->with(SIGN => pem('ed25519', '') . pem('ed25519', '')),
                'SIGN', '"cdm_stop_audit_sign" directive is duplicate');

for my $every ('', '0', '0s', 'x', '-1s', '86401', '2d', '1ms') {
    $lint->is_error("C03 every=$every",
                    $lint->with(SIGN => pem('ed25519', " every=$every")),
                    'SIGN', qr/invalid time "every=\S*" of .*write 1s to 1d/);
}

$lint->is_error('C03 another parameter',
                $lint->with(SIGN => pem('ed25519', ' each=1s')), 'SIGN',
                'invalid parameter "each=1s" of "cdm_stop_audit_sign", it must '
                . 'be "every=TIME"');

# keys that nothing is made with

for my $case (['GUARD', undef], ['GUARD', 'cdm_stop off;'],
              ['AUDIT', 'cdm_stop_audit off;'])
{
    my ($mark, $line) = @$case;
    my $name = $line // 'no guard';

    my ($exit, $said) = $t->nginx_t($lint->with($mark => $line,
        KEY => key('key'), SIGN => pem('ed25519', '')));

    is($exit, 0, "C03 $name: passes");
    like($said, qr/\[warn\] .*"cdm_stop_audit_$_" has no effect,.*remove it/,
         "C03 $name: cdm_stop_audit_$_ does nothing") for qw(key sign);
    $lint->{output} .= $said;
}

# nothing of a running instance is touched, nor is anything left behind

ok(!-e $t->path("audit.jsonl$_"), "W03 nginx -t makes no file$_")
    for qw(.state .lock .state.new);
is(-s $t->path('audit.jsonl'), 0, 'W03 and writes no record');

my %never = map { $_ => 1 }
    'mmap(MAP_ANONYMOUS, %uz) failed',
    'madvise(MADV_DONTDUMP) failed, core dumps will hold the key of '
    . '"cdm_stop_audit_sign"';
my @messages = grep { !$never{ $_->{format} } }
    CdmStop::Messages::of(map { $t->root . "/src/ngx_http_cdm_stop_$_.c" }
        qw(keys sign));
cmp_ok(scalar @messages, '>=', 5, 'the messages were found in the sources');
is(join("\n", map { "$_->{file}:$_->{line}: $_->{format}" }
        CdmStop::Messages::unseen($lint->output, @messages)),
   '', 'C03 every message of nginx -t about keys was seen');

$t->allow_log(qr/./);
$t->done;
