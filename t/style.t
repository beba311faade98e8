#!/usr/bin/perl

# The style of the tree: layout of the C sources as nginx has it, names of
# symbols, words that have no place in a finished tree, form of the commits.
#
# What a machine can tell is told here; see docs/DESIGN.md for the rest.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Find qw(find);
use FindBin;
use Test::More;

my $root = abs_path("$FindBin::Bin/..");

chdir $root or die "chdir $root: $!\n";

use constant {
    WIDTH => 80,
    FILE_LINES => 700,
    FUNCTION_LINES => 80,
    SUBJECT => 72,

    # one long string, made by t/build/page.pl
    MADE => 'src/ngx_http_cdm_stop_page.c',
};

my $prefix = 'ngx_http_cdm_stop_';

# by nginx's own habit: the function of a directive, and the next filter
my $named = qr/\A_?ngx_http_cdm_stop(?:_|\z)|\Angx_http_next_\w+_filter\z/i;

# a tool is a program of its own, which nothing else links with
my $named_tool = qr/\A(?:_?cdm_stop_audit_|_AUDIT_\w+_\z|main\z)/i;

# spelled so that this file does not find itself
my @words = map { join '', @$_ } ['TO', 'DO'], ['FIX', 'ME'], ['X', 'XX'],
    ['HA', 'CK'];
my $words = join '|', @words;

my @files = tree();
my @c = grep { /\.[ch]\z/ } @files;
my @sources = grep { !m{\At/} } @c;

cmp_ok(scalar @sources, '>', 0, 'there are C sources');

report("layout of $_", layout($_))
    for grep { !m{\.md\z|\At/fuzz/\w+\.seeds/} } @files;
report("C style of $_", c_style($_)) for @c;
report("functions of $_", functions($_)) for @c;
report("names of $_", names($_)) for @sources;
report("guard of $_", guard($_)) for grep { /\.h\z/ } @sources;
report("Perl style of $_", perl_style($_)) for grep { is_perl($_) } @files;
report('words', map { words($_) } @files);

symbols();
commits();

done_testing();


# one test for each question, with a line for each complaint

sub report {
    my ($name, @complaints) = @_;

    ok(!@complaints, $name) or diag(map { "  $_\n" } @complaints);
}


# the files of the project: what git knows or would add, else all there is

sub tree {
    my @list = git('ls-files', '-co', '--exclude-standard');

    if (!@list) {
        find({
            no_chdir => 1,
            wanted => sub {
                $File::Find::prune = 1 if m{\A\./(?:build|\.git)\z};
                push @list, s{\A\./}{}r if -f;
            },
        }, '.');
    }

    return sort grep { -f && -T _ && !-l } @list;
}


sub git {
    open my $out, '-|', 'sh', '-c', 'exec git -c safe.directory="*" "$@" '
        . '2>/dev/null', 'sh', @_ or return;
    chomp(my @lines = <$out>);
    close $out or return;

    return @lines;
}


sub lines {
    my ($file) = @_;

    open my $in, '<:raw', $file or die "$file: $!\n";
    my @lines = <$in>;
    close $in;

    return @lines;
}


# for every kind of file but Markdown, which has long lines

sub layout {
    my ($file) = @_;

    return if $file eq 'LICENSE';

    my @lines = lines($file);
    my @bad;

    for my $i (0 .. $#lines) {
        my $at = "line " . ($i + 1);
        my $line = $lines[$i];

        push @bad, "$at: no line feed at the end of the file"
            if $line !~ s/\n\z//;
        push @bad, "$at: carriage return" if $line =~ s/\r\z//;
        push @bad, "$at: trailing blank" if $line =~ /[ \t]\z/;
        push @bad, "$at: tab"
            if $line =~ /\t/ && $file !~ m{(?:\A|/debian/)(?:Makefile|rules)\z};

        utf8::decode($line);
        push @bad, "$at: " . length($line) . " columns"
            if length $line > WIDTH && $file =~ /\.(?:[chtm]|pm|sh)\z|Makefile/;
    }

    push @bad, scalar(@lines) . " lines"
        if @lines > FILE_LINES && $file ne MADE
            && $file =~ /\.(?:[cht]|pm|sh)\z/;
    push @bad, "empty line at the end of the file"
        if @lines && $lines[-1] =~ /\A\s*\z/;

    return @bad;
}


# the text without comments, strings and character constants, same lines

sub bare {
    my ($text) = @_;

    $text =~ s{(/\*.*?\*/)|("(?:[^"\\\n]|\\.)*")|('(?:[^'\\\n]|\\.)*')}{
        my ($comment, $string) = ($1, $2);

        if (defined $comment) {
            $comment =~ s/[^\n]/ /g;
            $comment;

        } elsif (defined $string) {
            '"' . 's' x (length($string) - 2) . '"';

        } else {
            '0' x length $3;
        }
    }gse;

    return $text;
}


sub c_style {
    my ($file) = @_;

    my $text = join '', lines($file);
    my @bare = map { s/\s+\z//r } split /\n/, bare($text);
    my @line = split /\n/, $text;
    my ($blank, $inside, @bad) = (0, 0);

    my $say = sub { push @bad, "line " . ($_[0] + 1) . ": $_[1]" };

    $say->(0, 'an empty line and the copyright come first')
        if $file !~ m{\At/} && $text !~ m{\A\n/\*\n \* Copyright \(C\) \d};

    for my $i (0 .. $#line) {
        my ($line, $bare) = ($line[$i], $bare[$i] // '');

        if ($line eq '') {
            $blank++;

            $say->($i, 'more than two empty lines') if $blank > 2;
            $say->($i, 'two empty lines in a block') if $blank > 1 && $inside;
            next;
        }

        my $after = $blank;
        $blank = 0;

        $say->($i, '// comment') if $bare =~ m{//};
        $say->($i, 'a comment of one line has no full stop')
            if $line =~ m{\A\s*/\* .*[^.]\. \*/\z};
        $say->($i, 'no blank behind the keyword')
            if $bare =~ /\b(?:if|for|while|switch)\(/;
        $say->($i, 'an endless loop is written "for ( ;; )"')
            if $bare =~ /for \((?:;;|;; | ;;)\)/;
        $say->($i, 'the star belongs to the name')
            if $bare =~ /\b(?:ngx_\w+_t|u_char|char|void)\* /;
        $say->($i, 'no empty line before else')
            if $bare =~ /\A\s*\} else/ && !$after;
        $say->($i, 'the return type stands on a line of its own')
            if $bare =~ /\A(?:static )?\w[\w ]* \*?(?:ngx_http_)?cdm_stop_\w+\(/
               && closes($i, \@bare) =~ /\A\s*\{/;
        $say->($i, 'the brace of a function stands alone')
            if $bare =~ /\A\w+\(.*\{\z/;

        if ($bare =~ /\A(\w+):\z/ && $1 ne 'default') {
            $say->($i, 'a label has an empty line on both sides')
                if !$after || ($line[$i + 1] // 'x') ne '';
        }

        # what stands between two things at the top level

        if ($i > 0 && !$inside && $after && previous($i, \@line) =~ /\A\}/
            && $bare !~ /\A#(?:endif|else|elif)/ && $after != 2)
        {
            $say->($i, 'two empty lines between top-level items');
        }

        if (!$inside && !$after && previous($i, \@line) =~ /\A\};?\z/) {
            $say->($i, 'two empty lines between top-level items');
        }

        $inside = 1 if $bare =~ /\A\{\z/ || $bare =~ /\A[^\s#].*\{\z/;
        $inside = 0 if $bare =~ /\A\}/;

        push @bad, unbraced($i, \@bare), unchecked($i, \@bare);
    }

    return @bad, pointers(\@bare), declarations(\@bare);
}


# sorted by the length of the type, names in one column two blanks behind
# the longest type; arrays may come last, groups are told apart by empty lines

sub declarations {
    my ($bare) = @_;
    my ($head, $length, $column, @bad) = (0, 0);

    for my $i (0 .. $#$bare) {
        local $_ = $bare->[$i];

        if (/\A\{\z/) {
            ($head, $length, $column) = (1, 0, undef);
            next;
        }

        next if !$head || /\A\s{8,}/;

        if ($_ eq '') {
            ($length, $column) = (0, undef);
            next;
        }

        if (!/\A    (\w+(?: \w+)*)(  +)(\**)(\w+)(.*)\z/) {
            $head = 0;
            next;
        }

        my ($type, $name, $rest) = ($1, $4, $5);
        my $at = length("    $1$2$3");

        if (length $type < $length && $rest !~ /\[/ && $type !~ /\Astatic /) {
            push @bad, "line " . ($i + 1) . ": $name is declared after a "
                . "longer type";
        }

        push @bad, "line " . ($i + 1) . ": $name is not in the column of the "
            . "names" if defined $column && $at != $column;

        $column //= $at;
        $length = length $type if $rest !~ /\[/;
    }

    return @bad;
}


sub previous {
    my ($i, $line) = @_;

    for (my $j = $i - 1; $j >= 0; $j--) {
        return $line->[$j] if $line->[$j] ne '';
    }

    return '';
}


# what follows the bracket that closes the first one of line $i

sub closes {
    my ($i, $bare) = @_;
    my $depth = 0;
    my $text = join "\n", @$bare[$i .. ($i + 15 < $#$bare ? $i + 15 : $#$bare)];

    while ($text =~ /([()])/g) {
        $depth += $1 eq '(' ? 1 : -1;
        return substr $text, pos $text if $depth == 0;
    }

    return '';
}


sub unbraced {
    my ($i, $bare) = @_;

    return if $bare->[$i] !~ /\A\s+(?:\} else )?(?:if|for|while) \(/;
    return if closes($i, $bare) =~ /\A\s*\{/;

    return "line " . ($i + 1) . ": a statement without braces";
}


# an allocation is checked in the line after it

sub unchecked {
    my ($i, $bare) = @_;

    return if $bare->[$i] !~ /\A\s+(?:(\S.*?) = )?(?:\(\w[\w ]*\**\) )?
        (ngx_(?:p|pc|pn|c|sl)?alloc|ngx_calloc|ngx_pmemalign|ngx_memalign|
        ngx_(?:array|list)_(?:push|push_n|create)|ngx_create_temp_buf|
        ngx_(?:alloc_chain_link|calloc_buf|alloc_buf|create_pool)|
        ngx_slab_(?:c?alloc)(?:_locked)?|ngx_pool_cleanup_add|
        ngx_http_cleanup_add)\(/x;

    my ($name, $function) = ($1, $2);
    my $at = "line " . ($i + 1);

    return "$at: the result of $function() is lost" if !defined $name;

    my $j = $i;
    $j++ while $j < $#$bare && $bare->[$j] !~ /;\z/;

    return if ($bare->[$j + 1] // '')
        =~ /\A\s+if \(\Q$name\E == NULL(?: \|\|.*|\) \{|)\z/;

    return "$at: $function() is not checked in the next line";
}


# "!" is for flags, pointers are compared with NULL

sub pointers {
    my ($bare) = @_;
    my (%pointer, @bad);

    for my $i (0 .. $#$bare) {
        local $_ = $bare->[$i];

        %pointer = () if /\A\}/;

        if (/\A    (?:const )?\w+(?: \w+)?\s{1,}(\*.*);\z/) {
            $pointer{$_} = 1 for map { /\A\*+(\w+)/ ? $1 : () }
                split /,\s*/, $1;
        }

        while (/!(\w+)(?!\w|->|\[|\(|\.)/g) {
            push @bad, "line " . ($i + 1) . ": \"!$1\" of a pointer"
                if $pointer{$1};
        }
    }

    return @bad;
}


sub functions {
    my ($file) = @_;
    my @lines = lines($file);
    my ($start, $name, @bad);

    for my $i (0 .. $#lines) {
        $name = $1 if $lines[$i] =~ /\A(\w+)\(/;
        $start = $i if $lines[$i] =~ /\A\{/;

        if (defined $start && $lines[$i] =~ /\A\}/) {
            my $length = $i - $start + 1;

            push @bad, "$name() has $length lines" if $length > FUNCTION_LINES;
            undef $start;
        }
    }

    return @bad;
}


# what a file defines has the project's prefix, static or not

sub names {
    my ($file) = @_;
    my @lines = split /\n/, bare(join '', lines($file));
    my $legal = $file =~ m{\Asrc/tools/} ? $named_tool : $named;
    my @bad;

    for my $i (0 .. $#lines) {
        local $_ = $lines[$i];
        my $name;

        if (/\A(\w+)\(/) {
            $name = $1;

        } elsif (/\A\} (\w+);/) {
            $name = $1;

        } elsif (/\A(?:typedef )?(?:struct|enum|union) (\w+)\s/) {
            $name = $1;

        } elsif (/\A#\s*define (\w+)/) {
            $name = $1;

        } elsif (/\A(?:static )?(?:const )?\w+  \*?(\w+)(?:\[.*\])*(?: =|;)/) {
            $name = $1;
        }

        push @bad, "line " . ($i + 1) . ": the name $name"
            if defined $name && $name !~ $legal;
    }

    return @bad;
}


sub guard {
    my ($file) = @_;
    my $text = join '', lines($file);
    my $name = '_' . uc($file =~ s{.*/}{}r =~ s/\W/_/gr) . '_INCLUDED_';

    return if $text =~ /\n#ifndef $name\n#define $name\n/
        && $text =~ m{\n#endif /\* $name \*/\n\z};

    return "there is no guard $name, or it is not closed with its name";
}


sub is_perl {
    my ($file) = @_;

    return 1 if $file =~ /\.(?:t|pm|pl)\z/;
    return ((lines($file))[0] // '') =~ /\A#!.*\bperl/;
}


sub perl_style {
    my ($file) = @_;
    my @lines = lines($file);
    my @bad;

    for my $module (qw(strict warnings)) {
        push @bad, "no \"use $module\"" if !grep { /\Ause $module;/ } @lines;
    }

    my $blank = 0;

    for my $i (0 .. $#lines) {
        last if $lines[$i] =~ /\A__(?:END|DATA)__/;

        $blank = $lines[$i] =~ /\A\n/ ? $blank + 1 : 0;
        push @bad, "line " . ($i + 1) . ": more than two empty lines"
            if $blank == 3;
        push @bad, "line " . ($i + 1) . ": no blank behind the keyword"
            if $lines[$i] =~ /\A\s*(?:\} els)?(?:if|for|foreach|while)\(/;
    }

    return @bad;
}


sub words {
    my ($file) = @_;
    my @bad;
    my $n = 0;

    for (lines($file)) {
        $n++;
        push @bad, "$file line $n: $1" if /\b($words)\b/;
    }

    return @bad;
}


# what the built objects define for others to see

sub symbols {
    my @objects = glob "$root/build/obj/*/addon/*/*.o";
    my (%bad, $seen);

    if (!@objects) {
        note('nothing is built yet: no symbols to look at');
        return;
    }

    # not by name alone: a file that went away leaves its object behind
    @objects = grep {
        my $base = m{([^/]+)\.o\z} ? $1 : '';
        grep { m{(?:\A|/)\Q$base\E\.c\z} } @sources;
    } @objects;

    for my $object (@objects) {
        open my $nm, '-|', 'nm', $object or die "nm: $!\n";

        while (<$nm>) {
            my ($kind, $name) = /\A\S*\s+([TDBRVWC])\s+(\S+)/ or next;

            # the compilers' own
            next if $name =~ /\A(?:__|\.|asan\.|_?_?odr_asan|sancov)/;

            $seen++;
            $bad{$name} = $object if $name !~ $named;
        }

        close $nm;
    }

    cmp_ok($seen // 0, '>', 0, 'symbols were found in the objects');
    report('symbols of the objects',
        map { "$_ in " . ($bad{$_} =~ s{\A\Q$root\E/}{}r) } sort keys %bad);
}


# "Prefix: lower-case summary." as nginx has it, and no stray blanks

sub commits {
    my @hashes = git('rev-list', '--no-merges', 'HEAD');

    if (!@hashes) {
        note('this is no git checkout: no commits to look at');
        return;
    }

    my @bad;

    for my $hash (@hashes) {
        my ($subject, $empty, @body) = git('show', '-s', '--format=%B', $hash);
        my $at = substr $hash, 0, 12;

        push @bad, "$at: \"$subject\" is not \"Prefix: summary.\""
            if $subject !~ /\A[A-Z][\w\/ -]*: [^A-Z\s].*[^.]\.\z/
               && $subject !~ /\A[A-Z][\w\/ -]*: [A-Z][A-Z0-9].*[^.]\.\z/;
        push @bad, "$at: the subject has " . length($subject) . " columns"
            if length $subject > SUBJECT;
        push @bad, "$at: no empty line behind the subject"
            if defined $empty && $empty ne '';

        for (@body) {
            next if /\A\s/ || m{https?://};
            push @bad, "$at: a line of the message has " . length($_)
                . " columns" if length > SUBJECT;
        }
    }

    report('messages of the commits', @bad);
    report('whitespace in the commits', git_check());
}


sub git_check {
    open my $out, '-|', 'sh', '-c', 'exec git -c safe.directory="*" log '
        . '--check --format= HEAD 2>&1' or return "git: $!";
    chomp(my @lines = <$out>);
    close $out;

    return grep { /\S/ } @lines;
}
