#!/usr/bin/perl

# L01 What runs the suite searches what has changed for the secrets of all
# tests, and fails where it finds one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp ();
use Test::More;

use CdmStop::Ledger;
use CdmStop::Process;

my $dir = File::Temp->newdir('suite-XXXXXXXX', TMPDIR => 1);
my $ledger = CdmStop::Ledger->new;
my $token = $ledger->token(9120, register => 0);

# what a test hands over: kind and secret in base64

my $test = <<'EOT';
use MIME::Base64;
my ($secret, $file, $text, $exit, $before) = @ARGV;
open my $fh, '>', "$ENV{TEST_NGINX_SECRETS}/$$" or die;
print {$fh} encode_base64('token', ''), ' ', encode_base64($secret, ''), "\n";
close $fh;
if (length $text) {
    open $fh, '>', $file or die;
    print {$fh} 'x' x $before, $text;
    close $fh;
}
exit $exit;
EOT

sub suite {
    my ($text, $exit, $before) = @_;

    return CdmStop::Process::capture("$FindBin::Bin/build/suite", $^X, '-e',
        $test, $token, "$dir/somewhere", $text, $exit // 0, $before // 0,
        { timeout => 120 });
}

my ($exit, $output) = suite('');
is($exit, 0, 'L01 nothing leaked: well');
like($output, qr/^# 1 secrets of the tests, \d+ files that changed: none/m,
     'L01 and it says what was searched');

($exit) = suite('', 3);
is($exit, 3, 'L01 a failure of the tests stays one');

for my $leak ($token, 'x' x 1000 . substr($token, 4000, 600),
              unpack('H*', substr $token, 0, 900))
{
    ($exit, $output) = suite($leak);
    is($exit, 1, 'L01 a secret that went elsewhere: failed');
    like($output, qr{^# \Q$dir\E/somewhere: token}m, 'L01 with its place');
    unlike($output, qr/\Q@{[substr $token, 4100, 16]}\E/,
           'L01 but not the secret');
}

($exit) = CdmStop::Process::capture("$FindBin::Bin/build/suite", $^X, '-e',
    $test, 'x' x 100, "$dir/somewhere", 'x' x 100, 0, 0, { timeout => 120 });
is($exit, 0, 'L01 a secret of one character is no finding');

($exit, $output) = suite($token, 0, (1 << 24) - 100);
is($exit, 1, 'L01 across the pieces in which a large file is read');

done_testing();
