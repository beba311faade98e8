#!/usr/bin/perl

# The driver of the scale curves, with two small points of each: that it runs,
# that it fails when a stop does not get what it should, and what it writes;
# and the arithmetic of the fits.  No time is judged here.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Fit;
use CdmStop::Process;
use CdmStop::Scale;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'error');
chmod 0777, $t->dir;


# The arithmetic.

sub fitted {
    my ($of, @x) = @_;

    return CdmStop::Fit::of([map { [$_, $of->($_)] } @x],
                            unit => 'us', each => 'rule');
}

my $fit = fitted(sub { 100 + $_[0] % 3 }, 10, 100, 1001, 10_001);
is($fit->{model}, 'constant', 'what changes by two in a hundred is constant');
is($fit->{sentence}, 'constant within 1.0%', 'said so');

$fit = fitted(sub { 100 + 0.5 * $_[0] }, 10, 100, 1000, 10_000);
is($fit->{model}, 'linear', 'a base and so much for each is linear');
is($fit->{sentence}, 'linear: +0.500 us for each rule, within 0.0%', 'said so');
cmp_ok(abs($fit->{at}->(500) - 350), '<', 1e-6, 'it knows what is between');
cmp_ok(abs($fit->{ratio} - 5100 / 105), '<', 1e-9, 'the last by the first');

$fit = fitted(sub { 100 + 20 * log($_[0]) / log 10 }, 1, 10, 100, 100_000);
is($fit->{sentence}, 'logarithmic: +20.0 us for each tenfold, within 0.0%',
   'so much for each tenfold is logarithmic');

$fit = fitted(sub { 3 * $_[0] ** 2 }, 1, 10, 100, 1000);
is($fit->{model}, 'power', 'a square is neither');
cmp_ok(abs($fit->{exponent} - 2), '<', 1e-9, 'its exponent is two');

$fit = fitted(sub { 100 - 2 * $_[0] }, 1, 10, 20);
is($fit->{sentence}, 'linear: less 2.00 us for each rule, within 0.0%',
   'less for each');

my %odd = (1 => 10, 10 => 7, 100 => 30, 1000 => 31);
$fit = fitted(sub { $odd{ $_[0] } }, 1, 10, 100, 1000);
is($fit->{sentence}, 'no simple growth, 0.70 to 3.10 times the first',
   'what is none of these is not called one');

ok(!eval { fitted(sub { 1 }, 5); 1 }, 'one point is no curve');


# A run that measures the wrong thing must not give a figure.

my $scale = CdmStop::Scale->new($t, processor => 0);
$scale->start_standins;

my $own = CdmStop::Scale::Iam::token('1' x 32, 0, 100);
my $request = sub {
    return 'PUT ' . $t->stop_target(project => $_[0]) . " HTTP/1.1\r\n"
        . "Host: localhost\r\nContent-Length: 0\r\n\r\n";
};

my %point = (http => '', location => "proxy_set_header X-Auth-Token $own;",
             warm => 1, request => sub { $request->('1' x 32) });
my $good = { %point };

$scale->start($good);
$scale->stop($good);
ok(1, 'CDM takes the token of the project');

for my $bad (['of another project', request => sub { $request->('2' x 32) }],
             ['with an answer of the gateway', location => 'return 403;'],
             ['without a token', location => ''])
{
    my ($name, %wrong) = @$bad;
    my $point = { %point, %wrong };

    ok(!eval { $scale->start($point); 1 }, "no figure for a stop $name");
    like($@, qr{\Anot 200 but: HTTP/1\.1 403 }, 'it says why');
    $scale->stop($point);
}

$scale->stop_standins;


# The driver.

sub run {
    my (@options) = @_;

    return CdmStop::Process::capture(
        $^X, '-I' . $t->root . '/t/lib', $t->root . '/t/bench/scale',
        '--least', '--out=' . $t->path('out'), '--img=' . $t->path('img'),
        @options, { timeout => 300, env => { TEST_NGINX_MODULE
            => $t->module_file // '', TEST_NGINX_BINARY => $t->{binary} } });
}

my ($exit, $said) = run('--only=rules,heights');
isnt($exit, 0, 'a curve that there is not is refused');
like($said, qr/^no curve heights$/m, 'and named');

my @marked = map { "<!-- $_ -->\nold $_\n<!-- end of $_ -->\ntext of $_\n" }
    qw(size rules projects callers connections machine);
my $doc = $t->write('page.md', join '', @marked);

($exit, $said) = run('--rounds=2', '--requests=20', '--instructions=0',
                     '--note=a test & no measurement', "--doc=$doc");
is($exit, 0, 'all curves are measured') or diag($said);

my $all = JSON::PP->new->utf8->decode($t->read('out/scale.json'));
is_deeply([map { $_->{id} } @{ $all->{curves} }],
          [qw(rules projects callers connections size)], 'each has its part');
is($all->{machine}{note}, 'a test & no measurement', 'the note is there');

for my $curve (@{ $all->{curves} }) {
    my @series = @{ $curve->{series} };
    my @bad = grep {
        my $s = $_;
        @{ $s->{points} } != 2 || !defined $s->{fit}{cpu}{sentence}
            || grep { @{ $_->{us} } != 2 || grep { $_ <= 0 } @{ $_->{us} } }
               @{ $s->{points} }
    } @series;

    ok(@series && !@bad, "$curve->{id}: figures of each round of each point");
    like($said, qr/^\Q$curve->{title}\E$/m, "$curve->{id}: in the table");
    like($t->read('out/scale.md'), qr/^## \Q$curve->{title}\E$/m,
         "$curve->{id}: in the page");
    like($t->read($doc), qr/^<!-- $curve->{id} -->\n\n\Q$series[0]{name}\E:\n/m,
        "$curve->{id}: in the documentation");
    like($t->read("img/scale-$curve->{id}-cpu.svg"), qr{</svg>\n\z},
         "$curve->{id}: as a chart");
}

is_deeply([sort { $a cmp $b } $t->read($doc) =~ /^((?:old|text) .*)/mg],
          [map { "text of $_" } qw(callers connections machine projects rules
                                   size)], 'what was there is gone');
like($t->read($doc), qr/^- note: a test & no measurement$/m, 'with the note');

# AddressSanitizer and valgrind exclude each other

if (!$t->{asan}) {
    ($exit, $said) = run('--rounds=0', '--instructions=10', '--only=projects');
    is($exit, 0, 'instructions are counted') or diag($said);

    $all = JSON::PP->new->utf8->decode($t->read('out/scale.json'));
    my @counts = map { $_->{instructions} }
        @{ $all->{curves}[0]{series}[0]{points} };
    is(scalar(grep { $_ > 5000 } @counts), 2, 'a stop takes some thousands')
        or diag("@counts");
    like($t->read('img/scale-projects.svg'), qr{</svg>\n\z}, 'as a chart');
}

$t->{passed} = Test::More->builder->is_passing;
done_testing();
