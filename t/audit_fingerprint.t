#!/usr/bin/perl

# cdm-stop-audit fingerprint: a token's records, without the token.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256 hmac_sha256_hex);
use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use CdmStop::MadeChain;

my $tool = "$FindBin::Bin/../build/cdm-stop-audit";
die "$tool is missing: run make\n" unless -x $tool;

my $dir = tempdir('cdm-stop-token-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $key = 'an audit key of thirty-two bytes';
my $token = 'MIIGAAYJ' . 'tOkEn-0123' x 900;
my $print = substr hmac_sha256_hex($token,
    hmac_sha256('cdm_stop fingerprint v1', $key)), 0, 32;

my $chain = CdmStop::MadeChain->new(key => $key);
$chain->stop(client_token => 'f' x 32);
my $id = $chain->stop(client_token => $print);
my $other = $chain->stop(injected_token => $print);

write_file('key', "$key\n");
write_file('records', $chain->lines);

for ([$token, 'a token'], ["$token\n", 'a token with a line end']) {
    my ($input, $name) = @$_;
    my ($exit, $output) = fingerprint($input, '--key', "$dir/key");

    is($exit, 0, "$name is found");
    like($output, qr/:4: \S+Z outcome request $id: sent by the caller/,
        "$name: where a caller sent it");
    like($output, qr/:6: \S+Z outcome request $other: injected/,
        "$name: where the gateway injected it");
    like($output, qr/^2 records have this token/m, "$name: in two records");
    unlike($output, qr/tOkEn/, "$name is not printed");
}

my ($exit, $output) = fingerprint('another', '--key', "$dir/key");
is($exit, 1, 'a token that is in no record');
like($output, qr/^0 records/m, 'which is said');

is((fingerprint('', '--key', "$dir/key"))[0], 2, 'no token');
is((fingerprint('a' x 32769, '--key', "$dir/key"))[0], 2, 'too long a token');
($exit, $output) = fingerprint($token);
is($exit, 2, 'no key');
like($output, qr/cdm_stop_audit_key/, 'why one is needed');

write_file('old', "a key that was used in January\n");
($exit, $output) = fingerprint($token, '--key', "$dir/old", '--key',
    "$dir/key");
is($exit, 0, 'several keys: the token is found by one of them');
like($output, qr/^2 records have this token, as \w{32} or $print$/m,
    'the fingerprints are told');
is((fingerprint($token, '--key', "$dir/old"))[0], 1, 'and not by another key');

done_testing();


sub fingerprint {
    my ($input, @options) = @_;

    write_file('input', $input);
    open my $out, '-|', 'sh', '-c', 'exec "$@" 2>&1 <"$0"', "$dir/input",
        $tool, 'fingerprint', @options, "$dir/records" or die "$tool: $!\n";
    local $/;
    my $text = <$out> // '';
    close $out;

    return ($? >> 8, $text);
}


sub write_file {
    my ($name, @lines) = @_;

    open my $fh, '>:raw', "$dir/$name" or die "$dir/$name: $!\n";
    print $fh @lines;
    close $fh or die "$dir/$name: $!\n";
}
