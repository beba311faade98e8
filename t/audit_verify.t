#!/usr/bin/perl

# cdm-stop-audit verify: every kind of tampering, what was printed for it, and
# the table of both in docs/AUDIT.md, which this test compares.
#
#   perl -It/lib t/audit_verify.t --table    prints the table for the page

use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use CdmStop::MadeChain;

my $tool = "$FindBin::Bin/../build/cdm-stop-audit";
my $page = "$FindBin::Bin/../docs/AUDIT.md";
my $table = grep { $_ eq '--table' } @ARGV;

die "$tool is missing: run make\n" unless -x $tool;

my $dir = tempdir('cdm-stop-verify-XXXXXX', TMPDIR => 1, CLEANUP => 1);
my ($private, $public) = CdmStop::MadeChain::keypair();
my ($other_private, $other_public) = CdmStop::MadeChain::keypair();
my $secret = 'an audit key of thirty-two bytes';
my $foreign_secret = 'another key of more than sixteen';

write_file('key', "$secret\n");
write_file('foreign', "$foreign_secret\r\n");

# 1 checkpoint, 2..11 five stops, 12 checkpoint, 13..16 two stops
my $whole = chain();
my @whole = $whole->lines;
my $head = $whole->head;
my @signed = ('--public-key', $public);

my @rows;


# what is whole

sub chain {
    my (%opt) = @_;

    my $chain = CdmStop::MadeChain->new(key => $secret, %opt);

    $chain->checkpoint($private);
    $chain->stop for 1 .. 5;
    $chain->tick(10);
    $chain->checkpoint($private);
    $chain->stop for 1 .. 2;

    return $chain;
}


case('A10 nothing', [@whole], exit => 0, lines => []);
case('A10 nothing, signatures and head given', [@whole],
    options => [@signed, '--head', $head], exit => 0, lines => []);
case('A10 nothing, files in the wrong order', [@whole[10 .. 15]],
    [@whole[0 .. 9]], exit => 0, lines => []);

case('A10 a byte changed', edit(4, sub { s/StopJob/StopJab/ }),
    lines => [qr/:5 .*: changed \(record 5\): its hash does not fit/]);
case('A10 a byte of a hash changed', edit(4, sub {
        s/"hash":"\K(.)/$1 eq '0' ? '1' : '0'/e }),
    lines => [qr/:5 .*: changed \(record 5\)/]);
case('A10 a byte of a number changed', edit(4, sub { s/"seq":5/"seq":6/ }),
    lines => [qr/:5 .*: changed \(record 5\)/]);
case('A10 two bytes changed far apart', [map { s/etl_[14]/job_x/gr } @whole],
    lines => [(qr/changed/) x 4]);
case('A10 a line deleted', [@whole[0 .. 3, 5 .. 15]],
    lines => [qr/:5 .*: missing \(record 5\)/]);
case('A10 lines deleted', [@whole[0 .. 3, 8 .. 15]],
    lines => [qr/:5 .*: note: no intent/,
        qr/:5 .*: missing: records 5 to 8 are missing/]);
case('A10 two lines swapped', [@whole[0 .. 3, 5, 4, 6 .. 15]],
    lines => [qr/:5 .*: moved \(record 6\)/]);
case('A10 a line moved down', [@whole[0 .. 3, 5 .. 10, 4, 11 .. 15]],
    lines => [qr/:11 .*: moved \(record 5\)/]);
case('A10 a line moved up', [@whole[0 .. 3, 10, 4 .. 9, 11 .. 15]],
    lines => [qr/:5 .*: note: no intent/, qr/:5 .*: moved \(record 11\)/]);
case('A10 a line repeated', [@whole[0 .. 4, 4, 5 .. 15]],
    lines => [qr/:6 .*: repeated \(record 5\)/]);
case('A10 a file given twice', [@whole], [@whole],
    lines => [qr/repeated \(16 lines, records 1 to 16\)/]);
case('A10 a foreign line put in',
    [@whole[0 .. 4], (chain(key => $foreign_secret)->lines)[5],
        @whole[5 .. 15]],
    lines => [qr/:6 .*: put in: its hash does not fit/]);
case('A10 a line of no record put in', [@whole[0 .. 4], "hello\n",
        @whole[5 .. 15]],
    lines => [qr/:6 .*: put in: it is no JSON object/]);
case('A10 a file lost', [@whole[0 .. 3]], [@whole[8 .. 15]],
    lines => [qr/:1 .*: note: no intent/,
        qr/:1 .*: lost file: records 5 to 8 are missing/]);
case('A10 the first file lost', [@whole[6 .. 15]],
    lines => [qr/:1 .*: lost start \(record 7\)/, qr/:1 .*: note: no intent/]);
my @second = chain(id => 'fedcba9876543210')->lines;
my @older = chain(id => 'a' x 16, key => $foreign_secret)->lines;
case('A10 a new key within a file, one given', [@older, @whole[0 .. 9]],
    [@whole[10 .. 15]],
    lines => [qr/^f1:1 .*: wrong key: not one of 16 lines of chain a{16}/]);
case('A10 a new key within a file, both given', [@older, @whole[0 .. 9]],
    [@whole[10 .. 15]], options => ['--key', 'foreign'], exit => 0,
    lines => []);
case('A10 a wrong key', [@whole], key => 'foreign',
    lines => [qr/:1 .*: wrong key: not one of 16 lines fits/]);
case('A10 a key that was not given', [@whole], key => undef,
    lines => [qr/:1 .*: wrong key: .*--key gives/]);

my @keyless = chain(key => undef)->lines;
case('A10 no key, nothing', [@keyless], key => undef, exit => 0,
    lines => [], also => qr/^no key: whoever could write/m);
case('A10 no key, a line written anew', [anew(4, @keyless)], key => undef,
    lines => [qr/:6 .*: broken \(record 6\)/]);
case('A10 no key, all written anew', [forged()], key => undef, exit => 0,
    lines => [], also => qr/^no key: whoever could write/m);
case('A10 no key, all written anew, signatures looked at', [forged()],
    key => undef, options => [@signed],
    lines => [qr/:12 .*: bad signature/]);

case('A10 a foreign signer', [@whole],
    options => ['--public-key', $other_public],
    lines => [(qr/: foreign signer/) x 2, qr/: no checkpoint/]);

my $bad = CdmStop::MadeChain->new(key => $secret);
$bad->checkpoint($private);
$bad->stop;
$bad->checkpoint($private, bad => 1);
case('A10 a bad signature', [$bad->lines], options => [@signed],
    lines => [qr/:4 .*: bad signature \(record 4\)/]);

my $late = CdmStop::MadeChain->new(key => $secret);
$late->checkpoint($private);
$late->tick(200);
$late->stop;
case('A11 a checkpoint that is missing', [$late->lines], options => [@signed],
    lines => [qr/:2 .*: no checkpoint \(record 2\)/]);

case('A11 a tail cut, nothing known', [@whole[0 .. 13]], exit => 0,
    lines => [], also => qr/^no head and no time: /m);
case('A11 a tail cut, head given', [@whole[0 .. 13]],
    options => ['--head', $head],
    lines => [qr/:14 .*: cut tail \(record 14\): .*record 16 was written/]);
case('A11 all but a part of the first file cut, head given', [@whole[0 .. 4]],
    options => ['--head', "0123456789abcdef:$head"],
    lines => [qr/:5 .*: cut tail \(record 5\): .*record 16 was written/]);
case('A11 all of a chain cut, head given', [@second],
    options => ['--head', "0123456789abcdef:$head"],
    lines => [qr/^f1: cut tail \(record 16\): there is no record of the ch/]);
case('A11 another head', [@whole], options => ['--head', '16:' . '0' x 64],
    lines => [qr/: other head/]);
case('A11 a tail cut before the last checkpoint, time given',
    [@whole[0 .. 10]], options => [@signed, '--at', at(115)],
    lines => [qr/:11 .*: cut tail \(record 11\): .*checkpoint was due/]);
case('A11 the same, not cut', [@whole],
    options => [@signed, '--at', at(115)], exit => 0, lines => []);
case('A11 a tail cut behind the last checkpoint, the next one is not due',
    [@whole[0 .. 12]], options => [@signed, '--at', at(60)],
    exit => 0, lines => []);
case('A11 a tail cut behind the last checkpoint, the next one is overdue',
    [@whole[0 .. 12]], options => [@signed, '--at', at(126)],
    lines => [qr/:13 .*: cut tail \(record 13\): .*checkpoint was due/]);

my $silence = CdmStop::MadeChain->new(key => $secret);
$silence->checkpoint($private), $silence->tick(60) for 1 .. 4;
case('A11 silence over three checkpoints', [$silence->lines],
    options => [@signed, '--at', $silence->now], exit => 0, lines => []);

my $torn = CdmStop::MadeChain->new(key => $secret);
my @piece = ($torn->add('refused', ''), "{\"v\":1,\"ch\n");
push @piece, $torn->add('refused', '', torn => 10);
case('A10 a torn line that the next one tells of', [@piece], exit => 0,
    lines => [qr/:2 .*: note: torn: 10 bytes of no record/]);
case('A10 a torn line that nobody tells of', [$piece[0], $piece[1]],
    lines => [qr/:2 .*: changed/]);
case('Q06 no line feed at the end', [@whole[0 .. 14], $whole[15] =~ s/\n//r],
    lines => [qr/:16 .*: no line feed \(record 16\)/]);
case('Q06 a line cut within', [@whole[0 .. 14], substr $whole[15], 0, 200],
    lines => [qr/:16 .*: changed \(record 16\): it ends within/]);
case('Q06 a member twice', edit(4, sub { s/"v":1/"v":1,"v":1/ }),
    lines => [qr/:5 .*: changed \(record 5\): it has a member twice/]);
case('Q06 invalid UTF-8', edit(4, sub { s/etl_/etl\xff/ }),
    lines => [qr/:5 .*: changed \(record 5\): it is no valid UTF-8/]);
case('Q06 an empty file', [], lines => [qr/: empty: /]);

case('A10 two chains in one file', [map { ($whole[$_], $second[$_]) } 0 .. 15],
    exit => 0, lines => []);
case('A10 two chains over three files in the wrong order',
    [@second[9 .. 11], @whole[10 .. 15], @second[12 .. 15]],
    [(map { ($whole[$_], $second[$_]) } 0 .. 4), $second[5]],
    [@second[6 .. 8], @whole[5 .. 9]], exit => 0, lines => []);
case('A10 two chains in one file, a line deleted',
    [map { $_ == 4 ? $whole[$_] : ($whole[$_], $second[$_]) } 0 .. 15],
    lines => [qr/:11 .*: missing \(record 5\)/]);

my $open = CdmStop::MadeChain->new(key => $secret);
$open->stop;
my $id = $open->stop(open => 1, job_name => 'nightly');
$open->stop(closed => 1);
case('A10 an intent without outcome, one closed by a crash', [$open->lines],
    exit => 0, lines => [qr/:5 .*: note: closed \(record 5\): request 0+3/],
    also => qr/:3: open: request $id of \S+Z, job nightly: an intent without/);
is((verify([$open->lines], options => ['--strict']))[0], 1,
    'A10 --strict: an intent without outcome fails');

large();
given();
wrong();

if ($table) {
    print table();
    exit;
}

my $text = -e $page ? CdmStop::MadeChain::slurp($page) : '';
ok(index($text, table()) >= 0, 'the table of the page is what was printed')
    or diag('perl -It/lib t/audit_verify.t --table prints it');

done_testing();


sub table {
    my $text = "| what was done | exit | what is printed |\n|---|---|---|\n";

    for my $row (@rows) {
        my ($name, $exit, @lines) = @$row;
        $name =~ s/^\w\d\d //;
        $text .= "| $name | $exit | "
            . (join('<br>', map { "`$_`" } @lines) || 'no finding') . " |\n";
    }

    return $text;
}


# a kind of tampering: files, each an array of lines, then what is expected

sub case {
    my ($name, @rest) = @_;

    my @files;
    push @files, shift @rest while ref $rest[0];
    my %opt = (exit => 1, @rest);
    my ($exit, $output) = verify(@files, %opt);

    my @told = grep { /^f\d:?/ && !/: open: / } split /\n/, $output;
    my $good = $exit == $opt{exit} && @told == @{ $opt{lines} };

    for my $i (0 .. $#{ $opt{lines} }) {
        $good &&= $told[$i] =~ $opt{lines}[$i];
    }

    $good &&= $output =~ $opt{also} if $opt{also};

    if (!$table) {
        ok($good, $name) or diag("exit $exit\n$output");
    }

    push @rows, [$name, $exit, @told];
}


sub verify {
    my @files;
    push @files, shift while ref $_[0];
    my (%opt) = (key => 'key', @_);

    my @names;

    for my $lines (@files) {
        push @names, 'f' . (@names + 1);
        write_file($names[-1], @$lines);
    }

    return run('verify', defined $opt{key} ? ('--key', $opt{key}) : (),
        @{ $opt{options} // [] }, @names);
}


sub run {
    my (@args) = @_;

    my $pid = open my $out, '-|';
    die "fork: $!\n" unless defined $pid;

    if ($pid == 0) {
        chdir $dir or die "$dir: $!\n";
        open STDERR, '>&', \*STDOUT or die "dup: $!\n";
        exec $tool, @args or die "$tool: $!\n";
    }

    local $/;
    my $output = <$out>;
    close $out;

    return ($? & 127 ? "signal $?" : $? >> 8, $output // '');
}


sub edit {
    my ($i, $change) = @_;
    my @lines = @whole;

    for ($lines[$i]) {
        my $before = $_;
        $change->();
        die "line $i was not changed\n" if $_ eq $before;
    }

    return [@lines];
}


# options that are given more than once, and files that are none of records

sub given {
    my $other = chain(id => 'b' x 16, key => $foreign_secret);
    my $bare = chain(id => 'c' x 16, key => undef);
    my @files = ([@whole], [$other->lines], [$bare->lines]);
    my @keys = ('--key', 'foreign', '--keyless');
    my @heads = map { ('--head', $_) } "0123456789abcdef:$head",
        'b' x 16 . ':' . $other->head, 'c' x 16 . ':' . $bare->head;

    my ($exit, $output) = verify(@files, options => [@keys, @heads]);
    is($exit, 0, 'A10 chains of two keys and of none, a head for each')
        or diag($output);
    like($output, qr/^no key: whoever could write/m, 'A10 none proves less');
    is((verify(@files, options => ['--key', 'foreign']))[0], 1,
        'A10 without --keyless none is not enough');

    ($exit, $output) = verify(@files, options => [@keys, @heads[0 .. 3],
        '--head', 'c' x 16 . ':17:' . '0' x 64]);
    is($exit, 1, 'A11 one head of three is not reached');
    like($output, qr/^f3:16 .*: cut tail .* record 17 was written/m,
        'A11 which is told of its chain');

    # who has no key cannot go on with a chain of one that has

    my $forged = CdmStop::MadeChain->new(seq => 16, hash => $whole->{hash});
    $forged->stop;
    ($exit, $output) = verify([@whole, $forged->lines],
        options => ['--keyless']);
    is($exit, 1, 'A10 a chain with a key goes on with it');
    like($output, qr/^f1:17 .*: changed .* its hash does not fit/m,
        'A10 a line without one is told');

    my @late = map { [($_->lines)[11 .. 15]] } $whole, $other;
    my @from = map { /"prev":"(\w+)"/ } map { $_->[0] } @late;
    ($exit, $output) = verify(@late, options => ['--key', 'foreign', '--from',
        "0123456789abcdef:11:$from[0]", '--from', 'b' x 16 . ":11:$from[1]"]);
    is($exit, 0, 'A10 --from for two chains') or diag($output);
    ($exit, $output) = verify(@late, options => ['--key', 'foreign', '--from',
        "0123456789abcdef:11:$from[1]", '--from', 'b' x 16 . ":11:$from[1]"]);
    is($exit, 1, 'A10 --from with another hash');
    like($output, qr/^f1:1 .*: broken .* follow the record of --from/m,
        'A10 which is told');

    # both targets have each stop; one has lost the outcome of the second

    my $lost = CdmStop::MadeChain->new(id => 'd' x 16, key => $secret);
    $lost->stop(open => $_ == 2) for 1 .. 5;
    ($exit, $output) = verify([$lost->lines], [@whole]);
    is(join(' ', $output =~ /^(\S+): open: request 0+(\d) /mg), 'f1:3 2',
        'A10 the intent without outcome is that of its target');

    write_file('f1', $whole->lines);
    write_file('f1.state', '{"v":1}');
    write_file('f1.lock', '');
    ($exit, $output) = run('verify', '--key', 'key', 'f1', 'f1.lock',
        'f1.state');
    is($exit, 0, 'what is kept beside a file is passed over');
    like($output, qr/: f1.state is passed over/, 'which is said');
    is((run('verify', 'f1.lock', 'f1.state'))[0], 2, 'nothing is left');
    write_file('f1.gz', "\x1f\x8b\x08\0");
    ($exit, $output) = run('verify', '--key', 'key', 'f1', 'f1.gz');
    is($exit, 2, 'a compressed file');
    like($output, qr/: f1.gz: it is compressed/, 'is told');
    unlink map { "$dir/$_" } qw(f1.state f1.lock f1.gz);
}


# one who has no key, and so needs none

sub anew {
    my ($i, @lines) = @_;

    my ($prev) = $lines[$i] =~ /"prev":"(\w+)"/;
    my ($line) = $lines[$i] =~ /^(.*),"hash"/;

    $line =~ s/StopJob/StopJab/;
    $lines[$i] = "$line,\"hash\":\""
        . Digest::SHA::sha256_hex(pack('H*', $prev) . $line) . "\"}\n";

    return @lines;
}


sub forged {
    my @lines = @keyless;
    my $prev = '0' x 64;

    for (@lines) {
        s/"prev":"\w+"/"prev":"$prev"/;
        s/etl_1/other/;
        my ($line) = /^(.*),"hash"/;
        $prev = Digest::SHA::sha256_hex(pack('H*', $prev) . $line);
        $_ = "$line,\"hash\":\"$prev\"}\n";
    }

    return @lines;
}


sub at {
    my ($seconds) = @_;

    my $clock = CdmStop::MadeChain->new;
    $clock->tick(15 + $seconds);
    return $clock->now;
}


# a line of a gigabyte, which is a hole in the file, within bounded memory

sub large {
    my $file = "$dir/large";

    write_file('large', @whole[0 .. 4], "\n", @whole[5 .. 15]);
    my $before = length join '', @whole[0 .. 4];

    open my $fh, '>:raw', $file or die "$file: $!\n";
    print $fh @whole[0 .. 4];
    seek $fh, $before + 1024 ** 3, 0 or die "seek: $!\n";
    print $fh "\n", @whole[5 .. 15];
    close $fh or die "$file: $!\n";

    my ($exit, $output) = do {
        my $pid = open my $out, '-|';
        die "fork: $!\n" unless defined $pid;

        if ($pid == 0) {
            open STDERR, '>&', \*STDOUT or die "dup: $!\n";
            exec 'sh', '-c', 'ulimit -v 65536; exec "$@"', 'sh', $tool,
                'verify', '--key', "$dir/key", $file or die "sh: $!\n";
        }

        local $/;
        my $text = <$out>;
        close $out;
        ($? >> 8, $text);
    };

    unlink $file;
    is($exit, 1, 'Q06 a line of 1 GB in 64 MB of memory') or diag($output);
    like($output, qr/:6 .*: put in: it is longer than any record/,
        'Q06 a line of 1 GB is told, and only it');
    like($output, qr/^17 lines, 1 findings/m, 'Q06 and the others fit');
}


sub wrong {
    for (['no file', 'verify'], ['a file that is not there', 'verify', 'none'],
        ['an unknown command', 'prove', 'f1'],
        ['an option of another command', 'verify', '--job', 'x', 'f1'],
        ['a bad head', 'verify', '--head', '5', 'f1'],
        ['a bad time', 'verify', '--at', 'now', 'f1'],
        ['a key too short', 'verify', '--key', 'short', 'f1'],
        ['no public key', 'verify', '--public-key', 'key', 'f1'])
    {
        my ($name, @args) = @$_;
        write_file('short', "abc\n");
        is((run(@args))[0], 2, "$name: exit status 2");
    }

    my ($exit, $output) = run('--help');
    is($exit, 0, '--help');
    like($output, qr/verify.*show.*fingerprint/s, '--help tells the commands');
    like((run('--version'))[1], qr/^cdm-stop-audit \d/, '--version');

    my $man = CdmStop::MadeChain::slurp("$FindBin::Bin/../docs/"
        . 'cdm-stop-audit.1') =~ s/\\-/-/gr;
    my $page = CdmStop::MadeChain::slurp("$FindBin::Bin/../docs/"
        . 'CDM-STOP-AUDIT.md');
    my %option = map { $_ => 1 } $output =~ /(--\w[\w-]+)/g;
    cmp_ok(scalar keys %option, '>', 12, '--help tells the options');
    is(join(' ', grep { $man !~ /\Q$_\E\\f/ } sort keys %option), '',
        'the manual page has each of them');
    is(join(' ', grep { $page !~ /`\Q$_\E\b/ } sort keys %option), '',
        'and so has docs/CDM-STOP-AUDIT.md');

    write_file('f1', @whole);
    ($exit, $output) = run('verify', '--key', 'key', '--json', 'f1');
    like($output, qr/^\{"lines":16,"findings":0,"open":0,/m, '--json');
}


sub write_file {
    my ($name, @lines) = @_;

    open my $fh, '>:raw', "$dir/$name" or die "$dir/$name: $!\n";
    print $fh @lines;
    close $fh or die "$dir/$name: $!\n";
}
