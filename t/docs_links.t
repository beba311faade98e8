#!/usr/bin/perl

# No link within the documents is broken: files are there, headings too, and
# pictures; each document can be reached from README.md; what is named in
# backticks as a file of the tree is there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use Cwd ();
use File::Basename qw(dirname);
use File::Find ();

my $root = Cwd::abs_path("$FindBin::Bin/..");
my %text;

File::Find::find({ no_chdir => 1, wanted => sub {
    $File::Find::prune = 1 if -d && m{\A\Q$root\E/(?:\.git|build|t)\z};
    $text{s{^\Q$root/\E}{}r} = slurp($_) if /\.md\z/;
} }, $root);

cmp_ok(scalar keys %text, '>=', 15, 'there are documents');

my (%leads, %anchors);

$anchors{$_} = { map { $_ => 1 } anchors($text{$_}) } for keys %text;

for my $file (sort keys %text) {
    my @broken;

    for my $link (links($text{$file})) {
        my ($path, $anchor) = $link =~ /\A([^#]*)(?:#(.*))?\z/;
        my $to = $path eq '' ? $file : resolve($file, $path);

        if (!defined $to || !-e "$root/$to") {
            push @broken, "$link: no such file";
            next;
        }

        $leads{$file}{$to} = 1;
        next if !defined $anchor;

        push @broken, "$link: no such heading"
            if !$anchors{$to} || !$anchors{$to}{$anchor};
    }

    is(join("\n", @broken), '', "the links of $file");
}


# whoever reads README.md finds all of them

my %seen = map { $_ => 1 } my @todo = grep { /^README/ } keys %text;

while (defined(my $file = shift @todo)) {
    push @todo, grep { !$seen{$_}++ } keys %{ $leads{$file} // {} };
}

is(join(' ', grep { !$seen{$_} } sort keys %text), '',
    'each document is reached from README.md');


# tests, sources and tools that the text names

for my $file (sort keys %text) {
    my $prose = $text{$file} =~ s/^```.*?^```$//gmsr;
    my @named = $prose =~ m{`((?:t|src|docs)/[\w./-]*\w)`}g;

    is(join(' ', grep { !-e "$root/$_" } @named), '',
        "$file names files that are there") if @named;
}

done_testing();


sub slurp {
    my ($file) = @_;

    open my $in, '<:encoding(UTF-8)', $file or die "$file: $!\n";
    local $/;
    return scalar <$in>;
}


# Targets within the tree, of text, pictures and HTML.

sub links {
    my ($markdown) = @_;

    $markdown =~ s/^```.*?^```$//gms;
    $markdown =~ s/`[^`\n]*`//g;

    return grep { !/\A(?:[a-z]+:|\/\/)/i }
        $markdown =~ /\]\(([^()\s]+)\)/g,
        $markdown =~ /\b(?:src|srcset|href)="([^"]+)"/g,
        $markdown =~ /^\[[^\]]+\]: (\S+)/mg;
}


sub resolve {
    my ($file, $path) = @_;

    my $to = Cwd::abs_path("$root/" . dirname($file) . "/$path") // return;

    return $to =~ m{\A\Q$root\E/(.+)\z} ? $1 =~ s{/+\z}{}r : undef;
}


# Names of headings as GitHub makes them.

sub anchors {
    my ($markdown) = @_;

    $markdown =~ s/^```.*?^```$//gms;

    my %count;
    my @anchors;

    for my $heading ($markdown =~ /^#{1,6} (.+?) *$/mg) {
        my $anchor = lc $heading =~ s/\[([^\]]*)\]\([^)]*\)/$1/gr;

        $anchor =~ s/[^\w\- ]//g;
        $anchor =~ tr/ /-/;
        push @anchors, $count{$anchor}++ ? "$anchor-" . ($count{$anchor} - 1)
            : $anchor;
    }

    return @anchors, $markdown =~ /\b(?:id|name)="([^"]+)"/g;
}
