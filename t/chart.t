#!/usr/bin/perl

# The charts of the documentation, read by a real Chromium: what it makes of
# the XML, where things are, what is drawn of hostile text, both themes.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp ();
use Test::More;

use CdmStop::Browser;
use CdmStop::Chart;

my $dir = File::Temp::tempdir('cdm-stop-chart-XXXXXX', TMPDIR => 1,
                              CLEANUP => 1);
my $web = CdmStop::Browser->new(dir => $dir);
my $hostile = qq{a&b <i>"x"</i> 'y' ]]> é 停止 \x{1f6d1}};

sub show {
    my ($svg) = @_;

    CdmStop::Chart::write("$dir/chart.svg", $svg);
    $web->open("file://$dir/chart.svg");

    return;
}

# what is drawn: for each element of a kind its text and its box

sub drawn {
    my ($selector) = @_;

    return @{ $web->js(<<'EOJ', $selector) };
return Array.from(document.querySelectorAll(arguments[0]), function (e) {
    var box = e.getBBox();
    return { text: e.textContent, x: box.x, y: box.y, right: box.x + box.width,
        bottom: box.y + box.height, middle: box.x + box.width / 2,
        centre: box.y + box.height / 2, width: box.width };
});
EOJ
}

sub near {
    my ($got, $expected, $name) = @_;

    cmp_ok(abs($got - $expected), '<', 0.25, $name)
        or diag("got $got, expected $expected");

    return;
}

# what holds for each chart

sub sound {
    my ($svg, $name) = @_;

    unlike($svg, qr/[^\n\x20-\x7e]/, "$name: plain ASCII");
    unlike($svg =~ s{http://www\.w3\.org/2000/svg}{}r,
        qr{https?:|url\(|\@import}, "$name: names no address");

    my $root = $web->js('var r = document.documentElement; return [r.localName,'
        . ' r.namespaceURI, r.getAttribute("role"),'
        . ' document.querySelectorAll("parsererror").length,'
        . ' r.getAttribute("width"), r.getAttribute("height")]');
    is_deeply([@$root[0 .. 3]],
              ['svg', 'http://www.w3.org/2000/svg', 'img', 0],
              "$name: well-formed SVG");

    my @outside = grep { $_->{x} < 0 || $_->{right} > $root->[4]
        || $_->{y} < 0 || $_->{bottom} > $root->[5] }
        drawn('text, rect, line, polyline, polygon, circle, path');
    is_deeply(\@outside, [], "$name: nothing is drawn outside");

    my @text = sort { $a->{y} <=> $b->{y} || $a->{x} <=> $b->{x} }
        drawn('text');
    my @over;

    for my $i (1 .. $#text) {
        for my $j (0 .. $i - 1) {
            my ($p, $q) = @text[$j, $i];
            push @over, "$p->{text} and $q->{text}"
                if $p->{x} < $q->{right} && $q->{x} < $p->{right}
                    && $p->{y} + 3 < $q->{bottom} && $q->{y} + 3 < $p->{bottom};
        }
    }

    is_deeply(\@over, [], "$name: no text lies on another");

    return;
}

# where a tick of an axis is

sub tick {
    my ($label, @ticks) = @_;

    my ($tick) = grep { $_->{text} eq $label } @ticks;
    ok($tick, "the axis has $label") or return { middle => -1, centre => -1 };

    return $tick;
}


# Bars.

my $svg = CdmStop::Chart::bars(
    title => 'Cost of a request', note => 'medians of nine rounds',
    axis => { name => 'CPU time', unit => 'µs' },
    bars => [
        { label => 'plain', series => 'TCP', value => 5, low => 4,
          high => 7.5 },
        { label => 'plain', series => 'TLS', value => 10 },
        { label => $hostile, series => 'TCP', value => 0, text => 'none' },
        { label => 'a long name ' x 9, series => $hostile, value => 12.345 },
        { label => 'last', series => 'TLS', value => 1234 / 100,
          low => 12, high => 13 }]);
show($svg);
sound($svg, 'bars');

my @ticks = drawn('text.t');
my $zero = tick('0', @ticks)->{middle};
my $unit = (tick('10', @ticks)->{middle} - $zero) / 10;
my @bars = drawn('g rect');

near($_->{x}, $zero, 'a bar begins at zero') for @bars;
near($bars[0]{right}, $zero + 5 * $unit, 'a bar ends at its value');
near($bars[1]{right}, $zero + 10 * $unit, 'so does one twice as long');
near($bars[2]{width}, 0, 'and one of nothing');

my @error = drawn('g path');
is(scalar @error, 2, 'an error bar where there are bounds');
near($error[0]{x}, $zero + 4 * $unit, 'it begins at the least');
near($error[0]{right}, $zero + 7.5 * $unit, 'it ends at the most');
near($error[0]{centre}, $bars[0]{centre}, 'it is on its bar');

is_deeply([map { $_->{text} } drawn('text.v')],
          [qw(5.00 10.0 none 12.3 12.3)], 'each bar has its value');
is(scalar(grep { $_->{text} eq 'plain' } drawn('text.l')), 1,
   'a group has one label');
cmp_ok($bars[1]{y} - $bars[0]{bottom}, '<', $bars[2]{y} - $bars[1]{bottom},
       'bars of a group are closer');
is(scalar(grep { $_->{text} eq $hostile } drawn('text.l')), 2,
   'label and legend have their text as it is');
like($web->js('return document.querySelectorAll("g title")[0].textContent'),
     qr/\Aplain, TCP: 5\.00 \(4\.00 to 7\.50\)\z/, 'a bar tells what it is');
is_deeply($web->js('return Array.from(document.querySelectorAll("i, script"))'),
          [], 'text is no markup');
like(join(' ', map { $_->{text} } drawn('text.n')), qr/CPU time \(µs\)/,
     'the axis has its name and unit');
is($web->js('var r = document.documentElement; return r.getAttribute('
          . '"aria-labelledby").split(" ").map(function (i) { return '
          . 'document.getElementById(i).textContent }).join("|")'),
   'Cost of a request|Cost of a request. medians of nine rounds',
   'a screen reader is told of it');


# Lines, on each scale.

$svg = CdmStop::Chart::lines(
    title => "Lines of $hostile",
    x => { name => 'rules', scale => 'log' },
    y => { name => 'instructions', unit => $hostile },
    series => [
        { name => $hostile,
          points => [[10_000, 300], [10, 100, 50, 200], [1000, 250]] },
        { name => 'other', points => [[10, 420]] },
        { name => 'points', style => 'points', points => [[100, 1]] },
        { name => 'fit', style => 'line', like => $hostile, legend => 0,
          points => [[10, 100], [10_000, 300]] }]);
show($svg);
sound($svg, 'lines');

@ticks = drawn('text.t');
my ($left, $right) = map { tick($_, @ticks)->{middle} } '10', '10,000';
my ($low, $high) = map { tick($_, @ticks)->{centre} } '0', '500';
my @points = drawn('g circle');

is(scalar @points, 3, 'a point each');
near($points[0]{middle}, $left, 'the least is left');
near($points[1]{middle}, $left + ($right - $left) * 2 / 3,
     'a hundred times as much is two thirds to the right');
near($points[2]{middle}, $right, 'the most is right');
near($points[$_]{centre}, $low + ($high - $low) * (100, 250, 300)[$_] / 500,
     'height of point ' . ($_ + 1)) for 0 .. 2;

@error = drawn('g path');
near($error[0]{bottom}, $low + ($high - $low) * 50 / 500, 'the least');
near($error[0]{y}, $low + ($high - $low) * 200 / 500, 'the most');
is($web->js('return document.querySelectorAll("polyline.s0")[0].points.length'),
   3, 'a line through the points');
is($web->js('return document.querySelectorAll("polyline.f0")[0].points.length'),
   2, 'the fit has the colour of what it fits');
is($web->js('return document.querySelectorAll("polyline").length'), 2,
   'no line where only points are wanted');
is_deeply([map { $_->{text} } drawn('text.l')], [$hostile, 'other', 'points'],
    'the legend has what it should');
is($web->js('return document.querySelectorAll("svg > polygon").length'), 2,
   'the shapes of the series are in the legend');

$svg = CdmStop::Chart::lines(
    title => 'Latency', x => { name => 'KB', from => 0 },
    y => { name => 'latency', unit => 'ms', scale => 'log' },
    series => [{ name => 'one', points => [[1, 0.1], [20, 10], [31, 100]] }]);
show($svg);
sound($svg, 'logarithm');

@ticks = drawn('text.t');
($left, $right) = map { tick($_, @ticks)->{middle} } '0', '30';
($low, $high) = map { tick($_, @ticks)->{centre} } '0.1', '100';
@points = drawn('g circle');
near($points[1]{middle}, $left + ($right - $left) * 20 / 30, 'linear x');
near($points[1]{centre}, $low + ($high - $low) * 2 / 3, 'logarithmic y');


# Both themes, and what is not drawn.

my %colour;

for my $theme (qw(light dark)) {
    $web->prefers(theme => $theme);
    $colour{$theme} = $web->js(
        'return [".p", ".h", ".m0"].map(function (s) { return getComputedStyle('
        . 'document.querySelector(s)).fill })');
}

is($colour{light}[0], 'rgb(255, 255, 255)', 'light is white');
isnt($colour{dark}[$_], $colour{light}[$_], 'dark has other colours')
    for 0 .. 2;

for my $bad (['a word', value => 'many'], ['infinity', value => 9 ** 9 ** 9],
             ['below zero', value => -1])
{
    my ($name, @value) = @$bad;
    ok(!eval { CdmStop::Chart::bars(title => 'x', axis => { name => 'y' },
                   bars => [{ label => 'z', @value }]); 1 },
       "no bar of $name");
}

ok(!eval { CdmStop::Chart::lines(title => 'x', x => { name => 'x' },
               y => { name => 'y', scale => 'log' },
               series => [{ name => 's', points => [[1, 0]] }]); 1 },
   'no logarithm of zero');
is(CdmStop::Chart::number($_->[0]), $_->[1], "number $_->[1]")
    for [1234567.8, '1,234,568'], [0.01234, '0.0123'], [999.6, '1,000'],
        [0, '0'], [-12.5, '-12.5'];
is(CdmStop::Chart::escape("\x00\x0b<"), '&#65533;&#65533;&#60;',
   'what XML cannot have is replaced');

done_testing();
