package CdmStop::Markdown;

=head1 NAME

CdmStop::Markdown - the parts of a document, for comparing two of them

=head1 SYNOPSIS

    my @parts = CdmStop::Markdown::parts($text);
    # { kind => 'heading', level => 2, text => 'Variables', line => 7 }, ...

    my @spans = CdmStop::Markdown::spans($part->{text});     # `of code`
    my @links = CdmStop::Markdown::links($part->{text});     # targets
    my $plain = CdmStop::Markdown::plain($part->{text});     # the rest
    my %ids   = map { $_ => 1 } CdmStop::Markdown::anchors(@parts);

Kinds: heading, code (fenced or indented, the text with its fences), row (of a
table), item (of a list), text (a paragraph). Paragraphs and items tell how many
C<lines> they have; a line break in them is a blank. It knows as much of
Markdown as these documents use.

=cut

use strict;
use warnings;

sub parts {
    my ($text) = @_;

    my @lines = split /\n/, $text;
    my (@parts, $open);

    for (my $i = 0; $i < @lines; $i++) {
        my $line = $lines[$i];
        my %part = (line => $i + 1, lines => 1);

        if ($line =~ /\A(\s*)```/ || (!$open && $line =~ /\A    \S/)) {
            my $end = code_end(\@lines, $i);
            push @parts, { %part, kind => 'code',
                           text => join("\n", @lines[$i .. $end]) };
            $i = $end;
            undef $open;

        } elsif ($line =~ /\A(#+) (.*)/) {
            push @parts, { %part, kind => 'heading', level => length $1,
                           text => $2 };
            undef $open;

        } elsif ($line =~ /\A\|/) {
            push @parts, { %part, kind => 'row', text => $line };
            undef $open;

        } elsif ($line =~ /\A\s*\z/) {
            undef $open;

        } elsif ($line =~ /\A(?:-|\d+\.) +(.*)/) {
            push @parts, $open = { %part, kind => 'item', text => $1 };

        } elsif ($open) {
            $open->{text} .= ' ' . ($line =~ s/\A\s+//r);
            $open->{lines}++;

        } else {
            push @parts, $open = { %part, kind => 'text', text => $line };
        }
    }

    return @parts;
}

# The last line of code that begins at a line.

sub code_end {
    my ($lines, $i) = @_;

    if ($lines->[$i] =~ /\A(\s*```)/) {
        my $fence = $1;
        my $end = $i + 1;

        $end++ while $end < $#$lines && $lines->[$end] !~ /\A\Q$fence\E\s*\z/;
        return $end;
    }

    $i++ while $i < $#$lines && $lines->[$i + 1] =~ /\A    /;
    return $i;
}

sub spans {
    my ($text) = @_;

    return $text =~ /`([^`]+)`/g;
}

sub links {
    my ($text) = @_;

    return $text =~ /\]\(([^)]+)\)/g;
}

# What people read: neither code nor targets of links.

sub plain {
    my ($text) = @_;

    return $text =~ s/`[^`]*`/`/gr =~ s/\]\([^)]*\)/]/gr;
}

# The anchors that a forge makes of the headings.

sub anchors {
    my (@parts) = @_;

    my %seen;

    return map {
        my $id = lc($_->{text}) =~ s/[`\[\]]//gr =~ s/\([^)]*\)//gr;
        $id =~ s/[^\w\- ]//g;
        $id =~ tr/ /-/;
        $seen{$id}++ ? "$id-" . ($seen{$id} - 1) : $id;
    } grep { $_->{kind} eq 'heading' } @parts;
}

1;
