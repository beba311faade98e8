#!/usr/bin/perl

# cdm-stop-audit on a terminal, which is a pseudo-terminal of script(1): the
# bar, the colours, and a token that is typed and never seen.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256 hmac_sha256_hex);
use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(time);

use CdmStop::MadeChain;
use CdmStop::Process;

my $tool = "$FindBin::Bin/../build/cdm-stop-audit";
die "$tool is missing: run make\n" unless -x $tool;

my $dir = tempdir('cdm-stop-terminal-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $key = 'an audit key of thirty-two bytes';
my $token = 'gAAAA' . 'tOkEn-0123' x 900;
my $print = substr hmac_sha256_hex($token,
    hmac_sha256('cdm_stop fingerprint v1', $key)), 0, 32;

my $chain = CdmStop::MadeChain->new(key => $key);
$chain->stop(job_name => 'etl_1', client_token => $print);
$chain->stop(job_name => 'etl_2', verdict => 'failed');

write_file('key', "$key\n");
write_file('few', $chain->lines);

# each 65,536 lines the bar is drawn
my $long = CdmStop::MadeChain->new(key => $key);
$long->stop for 1 .. 35_000;
write_file('many', $long->lines);

my @verify = ('verify', '--key', "$dir/key");


# the bar

my $seen = terminal("$tool @verify $dir/many");
like($seen, qr/\r\[#*\.*\] +\d+% of \d+ MB, \d+ lines/, 'a bar on a terminal');
like($seen, qr/lines\r\e\[K/, 'which is wiped at the end');
like($seen, qr/\e\[Kchain \w+: 70000 records fit/, 'and the result stays');
unlike(terminal("$tool @verify $dir/few"), qr/\e|%/, 'none for a small file');
unlike(terminal("$tool @verify $dir/many 2>$dir/err"), qr/\e|%/,
    'none where messages go elsewhere');
is(-s "$dir/err", 0, 'and none there');
like(terminal("$tool @verify $dir/many >$dir/out"), qr/%.*\e\[K/s,
    'one where only the result goes elsewhere');
unlike(slurp('out'), qr/\e|%/, 'and none in the result');
unlike(terminal("TERM=dumb $tool @verify $dir/many"), qr/\e|%/,
    'none on a terminal that only prints');

my ($exit, $piped) = CdmStop::Process::capture($tool, @verify, "$dir/many");
unlike($piped, qr/\e|%/, 'none without a terminal');


# colour

my $show = "$tool show $dir/few";
$seen = terminal($show);
like($seen, qr/\e\[32mstopped\e\[0m.*etl_1/, 'what stopped is green');
like($seen, qr/\e\[31mfailed\e\[0m.*etl_2/, 'what failed is red');
unlike(terminal("NO_COLOR=1 $show"), qr/\e/, 'no colour with NO_COLOR');
like(terminal("NO_COLOR= $show"), qr{\e\[32m}, 'an empty NO_COLOR is none');
unlike(terminal("TERM=dumb $show"), qr/\e/, 'no colour on TERM=dumb');
unlike(terminal("$show | cat"), qr/\e/, 'no colour in a pipe');
unlike(terminal("$show --json"), qr/\e/, 'no colour in JSON');


# the token

my $ask = "$tool fingerprint --key $dir/key $dir/few; echo status=\$?; stty -a";

$seen = terminal($ask, "$token\r");
like($seen, qr/^token: \r\n/, 'the tool asks for the token');
like($seen, qr/:2: \S+ outcome request \w+: sent by the caller/,
    'and finds one of 9,005 bytes');
like($seen, qr/^status=0/m, 'exit status 0');
unlike($seen, qr/tOkEn|gAAA/, 'it is not seen');
like($seen, qr/ icanon\b.* echo\b/s, 'later input is seen again');
like($seen, qr/susp = \^Z/, 'and all is as it was');

$seen = terminal($ask, "wrong\x15${token}xx\x7f\x7f\x04");
like($seen, qr/^1 records have this token/m, 'what was typed can be erased');

$seen = terminal("trap : INT; $ask", "gAAAAtOkEn\x03");
unlike($seen, qr/tOkEn|gAAA/, 'interrupted, it is not seen');
like($seen, qr/token: status=130/, 'the signal ends the tool');
like($seen, qr/ icanon\b.* echo\b/s, 'and the terminal is as it was');

$seen = terminal($ask, "\r");
like($seen, qr/^status=2/m, 'no token: exit status 2');
like($seen, qr/ icanon\b.* echo\b/s, 'and the terminal is as it was');

# a terminal that goes on showing what is typed must not be typed into

write_file('loud.c', "int tcsetattr(int fd, int a, const void *t)",
           " { return -1; }\n");
my ($failed, $said) = CdmStop::Process::capture('cc', '-shared', '-fPIC', '-o',
    "$dir/loud.so", "$dir/loud.c");
is($failed, 0, 'a terminal that does not obey') or diag($said);

$seen = terminal("LD_PRELOAD=$dir/loud.so $ask");
unlike($seen, qr/token: /, 'is not asked');
like($seen, qr/the terminal would show the token, give it by a pipe/,
     'the tool says what to do');
like($seen, qr/^status=2/m, 'exit status 2');

done_testing();


# Runs a command line on a terminal; types once it is asked for something.

sub terminal {
    my ($command, $typed) = @_;

    pipe my $in, my $keys or die "pipe: $!\n";
    pipe my $screen, my $out or die "pipe: $!\n";

    my $pid = CdmStop::Process::spawn(sub {
        close $_ for $keys, $screen;
        open STDIN, '<&', $in or die "dup: $!\n";
        open STDOUT, '>&', $out or die "dup: $!\n";
        open STDERR, '>&', $out or die "dup: $!\n";
        delete $ENV{NO_COLOR};
        @ENV{qw(TERM SHELL)} = ('xterm', '/bin/sh');
        exec 'script', '-qec', $command, '/dev/null' or die "script: $!\n";
    });

    close $_ for $in, $out;
    $keys->autoflush;

    my $text = '';
    my $deadline = time + 60;

    while ((my $left = $deadline - time) > 0) {
        vec(my $r = '', fileno $screen, 1) = 1;
        next unless select($r, undef, undef, $left) > 0;
        last unless sysread $screen, $text, 65536, length $text;

        if (defined $typed && $text =~ /token: /) {
            print $keys $typed;
            undef $typed;
        }
    }

    CdmStop::Process::end($pid) unless
        defined CdmStop::Process::wait_for($pid, 5);

    return $text;
}


sub slurp { return CdmStop::MadeChain::slurp("$dir/$_[0]") }


sub write_file {
    my ($name, @lines) = @_;

    open my $fh, '>:raw', "$dir/$name" or die "$dir/$name: $!\n";
    print $fh @lines;
    close $fh or die "$dir/$name: $!\n";
}
