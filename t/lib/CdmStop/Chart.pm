package CdmStop::Chart;

=head1 NAME

CdmStop::Chart - small charts as SVG, for the documentation

=head1 SYNOPSIS

    use CdmStop::Chart;

    my $svg = CdmStop::Chart::bars(
        title => 'CPU of the worker for a request',
        note  => 'nginx 1.22.1, 2026-11-24; whiskers: least and most',
        desc  => 'What a screen reader says; the title and note by default.',
        axis  => { name => 'CPU time', unit => 'us' },
        bars  => [
            { label => 'proxy_pass', series => 'peer', value => 6.8,
              low => 6.2, high => 7.4 },
            { label => 'cdm_stop', series => 'ours', value => 7.9,
              low => 7.1, high => 8.4, text => '7.9 us, 1.16' } ]);

    $svg = CdmStop::Chart::lines(
        title  => 'Cost by number of rules',
        x      => { name => 'rules', scale => 'log' },
        y      => { name => 'CPU time', unit => 'us' },
        series => [
            { name => 'denied', points => [[10, 7.1], [100, 7.2, 7.0, 7.5]] },
            { name => 'fitted', style => 'line',
              points => [[10, 7.1], [100, 7.2]] } ]);

    CdmStop::Chart::write('docs/img/rules.svg', $svg);

=head1 DESCRIPTION

Both return a document of plain ASCII: other characters are references. It has
its own background, so that it is legible on any page, and its own colours for
C<prefers-color-scheme>; it names no font, script or address that a browser
would have to fetch, and is right within C<< <img> >>.

=over

=item bars

Horizontal bars from zero, in the order given. Bars that follow each other and
have the same label are a group, and the label is written once. C<series> gives
the colour; there is a legend when there is more than one. C<low> and C<high>
make an error bar. C<text> is what stands behind the bar, the value by default.
C<< axis => { to => 100 } >> sets where the axis ends at the least.

=item lines

Each point is C<[x, y]> or C<[x, y, low, high]>. C<scale> of an axis is
C<linear>, which begins at zero unless C<from> says otherwise, or C<log>, with
numbers above zero; C<to> sets where a linear axis ends at the least. C<style>
of a series is C<both> (points and a line between them, the default),
C<points>, or C<line>, which is dashed and thin. C<like> names a series whose
colour it shares: a fit and what it fits. C<< legend => 0 >> leaves it out of
the legend.

=item number

A number for people: three digits that count, commas between thousands.

=back

Text is cut into lines where it is too wide. Impossible values die.

=cut

use strict;
use warnings;

use POSIX qw(ceil floor);

use constant {
    WIDTH => 800,
    EDGE => 24,            # from the border of the picture
    PLOT => 340,           # height of the plot of lines
    BAR => 20,             # height of a bar
    BAR_GAP => 3,          # between bars of a group
    GROUP_GAP => 12,
    LABEL_MAX => 260,      # width of the labels of bars
};

# Colours that are told apart by those who see few, on light and on dark; a
# series also has a shape and a dash of its own.

my @LIGHT = map { "#$_" } qw(0b62b8 c2500a 0b7a5a 8a3f9a 7a6a00 5b6470);
my @DARK = map { "#$_" } qw(62aef5 f59a55 4fc9a0 d39ae2 d8c64a a9b4c0);
my @DASH = ('', '7 3', '2 3', '9 3 2 3', '12 4', '1 4');

my $FONT = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",'
           . 'Arial,"Noto Sans","Noto Sans CJK SC",sans-serif';


sub bars {
    my (%arg) = @_;

    my @bars = @{ $arg{bars} };
    die "a chart needs bars\n" if !@bars;

    my (@names, %index);
    my $most = $arg{axis}{to} // 0;
    my $labels = 0;
    my $texts = 0;

    for my $bar (@bars) {
        my $name = $bar->{series} // '';
        $index{$name} //= push(@names, $name) - 1;

        for (grep { defined } @$bar{qw(value low high)}) {
            check($_);
            die "a bar cannot be below zero: $_\n" if $_ < 0;
            $most = $_ if $_ > $most;
        }

        my $text = $bar->{text} // number($bar->{value});
        $texts = larger($texts, text_width($text, 12));
        $labels = larger($labels, text_width($bar->{label}, 13));
    }

    $labels = LABEL_MAX if $labels > LABEL_MAX;

    my ($top, @body) = head(\%arg, @names > 1 ? legend_items(\@names) : ());
    my $left = EDGE + $labels + 10;
    my $right = WIDTH - EDGE - $texts - 8;
    my @ticks = linear_ticks(0, $most || 1);
    my $scale = sub { $left + ($right - $left) * $_[0] / $ticks[-1] };

    my ($y, $more, $before, @drawn) = ($top + 4, 0);

    for my $bar (@bars) {
        my $first = !defined $before || $bar->{label} ne $before;
        my @lines = $first ? wrap($bar->{label}, LABEL_MAX, 13) : ();

        # a label of many lines needs room of its own
        $y += $first ? GROUP_GAP + $more : BAR_GAP;
        $more = larger(0, 7.5 * (@lines - 2)) if $first;
        $y += $more if $first;

        my $middle = $y + BAR / 2;
        my $series = $index{ $bar->{series} // '' };
        my $value = $bar->{value};
        my $text = $bar->{text} // number($value);
        my $end = $scale->(larger($value, $bar->{high} // $value));

        if ($first) {
            my $at = $middle + 4.5 - 7.5 * $#lines;
            push @drawn, map { text($left - 10, $at + 15 * $_, $lines[$_],
                                    'l', 'end') } 0 .. $#lines;
            $before = $bar->{label};
        }

        push @drawn, '<g>' . element('title', join(', ', grep { length }
                         $bar->{label}, $bar->{series} // '')
                         . ': ' . spread($value, @$bar{qw(low high)})),
            sprintf('<rect class="b%d" x="%s" y="%s" width="%s" height="%d"'
                . ' rx="2"/>', $series % @LIGHT, at($left), at($y),
                at($scale->($value) - $left), BAR),
            whisker($scale, $middle, @$bar{qw(low high)}), '</g>',
            text($end + 8, $middle + 4, $text, 'v');
        $y += BAR;
    }

    $y += GROUP_GAP + $more;

    push @body, map {
        line($scale->($_), $top + 6, $scale->($_), $y, $_ ? 'g' : 'a'),
        text($scale->($_), $y + 17, tick($_, @ticks), 't', 'middle')
    } @ticks;
    push @body, @drawn,
        text(($left + $right) / 2, $y + 38, axis_name($arg{axis}), 'n',
             'middle');

    return document(\%arg, $y + 54, @body);
}


sub lines {
    my (%arg) = @_;

    my @series = @{ $arg{series} };
    my (@x, @y, %index);
    my $next = 0;

    for my $s (@series) {
        for my $point (@{ $s->{points} }) {
            check($_) for grep { defined } @$point;
            push @x, $point->[0];
            push @y, grep { defined } @$point[1 .. 3];
        }

        $s = { style => 'both', %$s };
        $s->{colour} = defined $s->{like} ? $index{ $s->{like} }
                                          : $next++ % @LIGHT;
        die "no series $s->{like} before $s->{name}\n"
            if !defined $s->{colour};
        $index{ $s->{name} } = $s->{colour};
    }

    die "a chart needs points\n" if !@x;

    my @xticks = ticks($arg{x}, @x);
    my @yticks = ticks($arg{y}, @y);
    my @yshown = map { tick($_, @yticks) } @yticks;
    my ($top, @body) = head(\%arg, map {
        { name => $_->{name}, colour => $_->{colour}, style => $_->{style} }
    } grep { $_->{legend} // 1 } @series);

    my $left = EDGE + 12;
    $left = larger($left, EDGE + 8 + text_width($_, 12)) for @yshown;
    my $right = WIDTH - EDGE - 12;

    push @body, text(EDGE, $top + 14, axis_name($arg{y}), 'n');
    $top += 30;

    my $bottom = $top + PLOT;
    my $sx = scale($arg{x}, \@xticks, $left, $right);
    my $sy = scale($arg{y}, \@yticks, $bottom, $top);

    push @body, map {
        line($left, $sy->($yticks[$_]), $right, $sy->($yticks[$_]),
             $_ ? 'g' : 'a'),
        text($left - 8, $sy->($yticks[$_]) + 4, $yshown[$_], 't', 'end')
    } 0 .. $#yticks;
    push @body, map {
        line($sx->($_), $bottom, $sx->($_), $bottom + 5, 'a'),
        text($sx->($_), $bottom + 20, tick($_, @xticks), 't', 'middle')
    } @xticks;
    push @body, text(($left + $right) / 2, $bottom + 42, axis_name($arg{x}),
                     'n', 'middle');
    push @body, map { one_line($_, $sx, $sy) } @series;

    return document(\%arg, $bottom + 58, @body);
}


# A series: the line, and over it the points with their error bars.

sub one_line {
    my ($s, $sx, $sy) = @_;

    my @points = sort { $a->[0] <=> $b->[0] } @{ $s->{points} };
    my $colour = $s->{colour};
    my @out;

    if ($s->{style} ne 'points' && @points > 1) {
        push @out, sprintf '<polyline class="%s%d" points="%s"/>',
            $s->{style} eq 'line' ? 'f' : 's', $colour,
            join ' ', map { at($sx->($_->[0])) . ',' . at($sy->($_->[1])) }
            @points;
    }

    return @out if $s->{style} eq 'line';

    for my $point (@points) {
        my ($x, $y, $low, $high) = @$point;

        push @out, '<g>' . element('title', "$s->{name}: " . number($x)
                                   . ', ' . spread($y, $low, $high));
        push @out, error_bar($sx->($x), $sy->($low), $sy->($high), $colour)
            if defined $low && defined $high;
        push @out, mark($colour, $sx->($x), $sy->($y)), '</g>';
    }

    return @out;
}


# A shape for each series, so that colour is not all that tells them apart.

sub mark {
    my ($colour, $x, $y) = @_;

    my $r = 4.5;
    my $shape = $colour % 4;

    return sprintf '<circle class="m%d" cx="%s" cy="%s" r="%s"/>', $colour,
        at($x), at($y), $r if $shape == 0;

    my @corner = $shape == 1 ? ([-1, -1], [1, -1], [1, 1], [-1, 1])
        : $shape == 2 ? ([0, -1.2], [1.2, 0.9], [-1.2, 0.9])
        : ([0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]);

    return sprintf '<polygon class="m%d" points="%s"/>', $colour, join ' ',
        map { at($x + $r * $_->[0]) . ',' . at($y + $r * $_->[1]) } @corner;
}

sub error_bar {
    my ($x, $low, $high, $colour) = @_;

    return sprintf '<path class="e%d" d="M%s %sV%sM%s %sh8M%s %sh8"/>',
        $colour, at($x), at($low), at($high), at($x - 4), at($low),
        at($x - 4), at($high);
}

sub whisker {
    my ($scale, $y, $low, $high) = @_;

    return if !defined $low || !defined $high;

    return sprintf '<path class="w" d="M%s %sH%sM%s %sv8M%s %sv8"/>',
        at($scale->($low)), at($y), at($scale->($high)),
        at($scale->($low)), at($y - 4), at($scale->($high)), at($y - 4);
}


# Title, note and legend; returns where they end, and what to draw.

sub head {
    my ($arg, @items) = @_;

    my $y = EDGE + 12;
    my @out;

    for my $line (wrap($arg->{title}, WIDTH - 2 * EDGE, 17)) {
        push @out, text(EDGE, $y, $line, 'h');
        $y += 22;
    }

    for my $line (wrap($arg->{note} // '', WIDTH - 2 * EDGE, 12)) {
        push @out, text(EDGE, $y - 2, $line, 't');
        $y += 16;
    }

    return ($y, @out) if !@items;

    my $x = EDGE;
    $y += 8;

    for my $item (@items) {
        my $wide = 34 + text_width($item->{name}, 13);

        if ($x > EDGE && $x + $wide > WIDTH - EDGE) {
            $x = EDGE;
            $y += 20;
        }

        push @out, legend($item, $x, $y),
            text($x + 32, $y + 4, $item->{name}, 'l');
        $x += $wide + 22;
    }

    return ($y + 14, @out);
}

sub legend_items {
    my ($names) = @_;

    return map { { name => $names->[$_], colour => $_ % @LIGHT,
                   style => 'bar' } } 0 .. $#$names;
}

sub legend {
    my ($item, $x, $y) = @_;

    my ($style, $colour) = @$item{qw(style colour)};

    return sprintf '<rect class="b%d" x="%s" y="%s" width="26" height="12"'
        . ' rx="2"/>', $colour, at($x), at($y - 6) if $style eq 'bar';

    my $class = ($style eq 'line' ? 'f' : 's') . $colour;

    return ($style eq 'points' ? () : line($x, $y, $x + 26, $y, $class),
            $style eq 'line' ? () : mark($colour, $x + 13, $y));
}


# The axes.  A tick at each end, so that nothing is drawn outside.

sub ticks {
    my ($axis, @values) = @_;

    @values = sort { $a <=> $b } @values;

    return log_ticks($values[0], $values[-1])
        if ($axis->{scale} // 'linear') eq 'log';

    die "scale is linear or log\n" if ($axis->{scale} // 'linear') ne 'linear';

    return linear_ticks($axis->{from} // ($values[0] < 0 ? $values[0] : 0),
                        larger($values[-1], $axis->{to} // $values[-1]));
}

sub linear_ticks {
    my ($from, $to) = @_;

    $to = $from + 1 if $to <= $from;

    my $step = 10 ** floor(log(($to - $from) / 4) / log 10);
    ($step) = grep { ($to - $from) / $_ <= 6 } map { $step * $_ } 1, 2, 5, 10;

    my $first = floor($from / $step + 1e-9);
    my $last = ceil($to / $step - 1e-9);

    return map { $_ * $step } $first .. $last;
}

# Decades; where they are few also what is between them.

sub log_ticks {
    my ($from, $to) = @_;

    die "no logarithm of $from\n" if $from <= 0;

    my $first = floor(log($from) / log(10) + 1e-9);
    my $last = ceil(log($to) / log(10) - 1e-9);
    my @decades = map { 10 ** $_ } $first .. $last;

    return @decades if $last - $first > 2;

    my @all = map { my $d = $_; map { $d * $_ } 1, 2, 5 } @decades;
    my ($low) = grep { $_ <= $from * 1.000001 } reverse @all;
    my ($high) = grep { $_ >= $to * 0.999999 && $_ > $low } @all,
        20 * $decades[-1];

    return grep { $_ >= $low && $_ <= $high } @all, 20 * $decades[-1];
}

sub scale {
    my ($axis, $ticks, $from, $to) = @_;

    my $log = ($axis->{scale} // 'linear') eq 'log';
    my $of = sub { $log ? log $_[0] : $_[0] };
    my ($low, $high) = map { $of->($_) } @$ticks[0, -1];

    return sub { $from + ($to - $from) * ($of->($_[0]) - $low)
                         / ($high - $low) };
}

sub axis_name {
    my ($axis) = @_;

    return $axis->{name} . (length($axis->{unit} // '') ? " ($axis->{unit})"
                                                        : '');
}


# Numbers.

sub check {
    my ($value) = @_;

    # neither text, nor an infinity, nor what is no number at all
    die "not a number: $value\n"
        if $value !~ /\A-?[0-9.]+(?:e[-+]?\d+)?\z/i;

    return;
}

sub number {
    my ($value) = @_;

    return '0' if $value == 0;

    my $digits = 2 - floor(log(abs $value) / log 10);
    my $text = sprintf '%.*f', $digits < 0 ? 0 : $digits, $value;

    return commas($text);
}

# as many digits as the smallest step needs

sub tick {
    my ($value, @ticks) = @_;

    my $least = (sort { $a <=> $b } grep { $_ > 0 } map { abs } @ticks)[0] // 1;
    my $digits = $least >= 1 && !grep({ $_ != int } @ticks) ? 0
        : ceil(-log($least) / log(10) - 1e-9);
    my $text = sprintf '%.*f', $digits < 0 ? 0 : $digits, $value;

    $text =~ s/\.?0+\z// if $text =~ /\./;

    return commas($text);
}

sub commas {
    my ($text) = @_;

    my ($whole, $rest) = $text =~ /\A(-?\d+)(.*)\z/;
    1 while $whole =~ s/\A(-?\d+)(\d{3})/$1,$2/;

    return $whole . $rest;
}

sub spread {
    my ($value, $low, $high) = @_;

    return number($value) . (defined $low && defined $high
        ? ' (' . number($low) . ' to ' . number($high) . ')' : '');
}

sub larger { return $_[0] > $_[1] ? $_[0] : $_[1] }

# a coordinate

sub at {
    my ($value) = @_;

    my $text = sprintf '%.1f', $value;
    $text =~ s/\.0\z//;

    return $text eq '-0' ? '0' : $text;
}


# Text.  No font can be asked how wide it is: these are its wide letters.

sub text_width {
    my ($text, $size) = @_;

    my $wide = 0;

    for (split //, $text) {
        $wide += /[ilj.,:;|'!()\[\] ftI]/ ? 0.36 : /[mwMW%@]/ ? 0.9
            : ord >= 0x1100 ? 1 : /[A-Z]/ ? 0.7 : 0.58;
    }

    return $wide * $size;
}

sub wrap {
    my ($text, $width, $size) = @_;

    my @lines;

    for my $word (split ' ', $text) {
        if (@lines && text_width("$lines[-1] $word", $size) <= $width) {
            $lines[-1] .= " $word";
        } else {
            push @lines, $word;
        }
    }

    return @lines;
}

# What XML has no place for becomes the sign of a character that is none.

sub escape {
    my ($text) = @_;

    $text =~ s/[^\t\n\r\x20-\x{d7ff}\x{e000}-\x{fffd}\x{10000}-\x{10ffff}]
              /\x{fffd}/gx;
    $text =~ s/([&<>"'\x7f]|[^\x00-\x7f])/'&#' . ord($1) . ';'/ge;

    return $text;
}

sub element {
    my ($name, $text) = @_;

    return "<$name>" . escape($text) . "</$name>";
}

sub text {
    my ($x, $y, $text, $class, $anchor) = @_;

    return sprintf '<text class="%s" x="%s" y="%s"%s>%s</text>', $class,
        at($x), at($y), $anchor ? qq( text-anchor="$anchor") : '',
        escape($text);
}

sub line {
    my ($x1, $y1, $x2, $y2, $class) = @_;

    return sprintf '<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>',
        $class, at($x1), at($y1), at($x2), at($y2);
}


# The document.

sub style {
    my ($back, $text, $soft, $grid, @colours) = @_;

    return join '', ".p{fill:$back;stroke:$grid}",
        ".h,.l,.v{fill:$text}.t,.n{fill:$soft}",
        ".g{stroke:$grid}.a{stroke:$soft}.w{stroke:$text}",
        map { ".b$_,.m$_\{fill:$colours[$_]}"
              . ".s$_,.e$_,.f$_\{stroke:$colours[$_]}"
              . ".m$_\{stroke:$back}" } 0 .. $#colours;
}

sub document {
    my ($arg, $height, @body) = @_;

    my $id = lc $arg->{title} =~ s/[^A-Za-z0-9]+/-/gr;
    my $desc = $arg->{desc} // join '. ', grep { length } $arg->{title},
        $arg->{note} // '';
    my $lines = join '', map {
        ".s$_\{stroke-width:2;stroke-dasharray:" . ($DASH[$_] || 'none') . '}'
    } 0 .. $#DASH;
    my $thin = join ',', map { ".f$_" } 0 .. $#DASH;
    my $errors = join ',', map { ".e$_" } 0 .. $#DASH;
    my $bars = join ',', map { ".b$_" } 0 .. $#DASH;
    my $width = WIDTH;

    $height = ceil($height);

    return join "\n",
        '<?xml version="1.0" encoding="UTF-8"?>',
        qq(<svg xmlns="http://www.w3.org/2000/svg" width="$width" )
            . qq(height="$height" viewBox="0 0 $width $height" role="img" )
            . qq(aria-labelledby="t-$id d-$id">),
        qq(<title id="t-$id">) . escape($arg->{title}) . '</title>',
        qq(<desc id="d-$id">) . escape($desc) . '</desc>',
        '<style>',
        "text{font-family:$FONT;font-size:12px}",
        '.h{font-size:17px;font-weight:600}.l{font-size:13px}'
            . '.v{font-weight:600}text{font-variant-numeric:tabular-nums}',
        'polyline,path{fill:none}line{fill:none}' . $lines,
        "$thin\{stroke-width:1.5;stroke-dasharray:4 4;opacity:.75}"
            . "$errors,.w{stroke-width:1.5}$bars\{fill-opacity:.75}",
        style('#ffffff', '#1f2328', '#59636e', '#d9dee4', @LIGHT),
        '@media (prefers-color-scheme:dark){'
            . style('#0d1117', '#e6edf3', '#9aa4b0', '#30363d', @DARK) . '}',
        '</style>',
        qq(<rect class="p" x="0.5" y="0.5" width="@{[$width - 1]}" )
            . qq(height="@{[$height - 1]}" rx="6"/>),
        @body,
        '</svg>', '';
}

sub write {
    my ($file, $svg) = @_;

    open my $out, '>', "$file.new" or die "$file.new: $!\n";
    print {$out} $svg;
    close $out or die "$file.new: $!\n";
    rename "$file.new", $file or die "$file: $!\n";

    return;
}

1;
