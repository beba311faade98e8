#!/usr/bin/perl

# t/build/coverage.pl [--verbose] [--limit=N]
#     [--of=FILE[:[!]FUNCTION,...]]... LCOV
#
# Reads what llvm-cov exported in the format of lcov, and tells how much was
# run of each source. A line counts if there is code in it: blank lines,
# comments, and braces alone do not. Of the sources that are named, or of
# functions in them (with "!", of all others), each must have N percent run of
# those lines that have no reason, see below, not to be.
#
# With no source named, of all sources together; and then each line that was
# not run needs a reason. These are in t/coverage, by function, or are plain to
# see: what a function does when it gets no memory.

use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;

# what may fail, and how that is asked

my $MEMORY = qr/\b(?:
    ngx_(?:p?n?c?alloc|pmemalign|alloc|calloc_buf|create_temp_buf
        |alloc_chain_link|pstrdup|slab_c?alloc(?:_locked)?
        |array_(?:init|push|push_n|create)|list_(?:init|push|create)
        |pool_cleanup_add|create_pool|hash_add_key)
    | ngx_http_cdm_stop_conf_(?:alloc|text) | ngx_http_cleanup_add
    | malloc | calloc | realloc | strdup | json_\w+
    )\s*\(/x;
my $OPENSSL = qr/\b(?:EVP|RAND|SSL|SSL_CTX|HMAC|BIO|PEM|OSSL)_\w+\(/;
my $SYSTEM = qr/\b(?:
    mmap | munmap | mprotect | madvise | open | openat | close | fcntl | flock
    | fstat | lseek | pread | readdir | opendir | fsync | rename | unlink
    | ngx_(?:open_file|close_file|fd_info|file_info|read_fd|write_fd
        |rename_file|delete_file|shmtx_create|thread_cond_\w+)
    | sigaction | tcgetattr | tcsetattr | isatty | fopen | fread | getline
    )\s*\(/x;
my $FAILED = qr/==\s(?:NULL|-1|0\b|NGX_ERROR|NGX_FILE_ERROR|NGX_INVALID_FILE
    |MAP_FAILED) | !=\s(?:NGX_OK|NGX_CONF_OK|1|0\b) | <\s0 | !\w+/x;

my $root = abs_path("$FindBin::Bin/../..");
my ($limit, $verbose, @of, $lcov) = (90, 0);

for (@ARGV) {
    if (/\A--limit=(\d+)\z/) {
        $limit = $1;

    } elsif (/\A--of=(.+)\z/) {
        push @of, $1;

    } elsif ($_ eq '--verbose') {
        $verbose = 1;

    } else {
        $lcov = $_;
    }
}

die "usage: $0 [--limit=N] [--of=FILE[:[!]FUNCTION,...]]... LCOV\n"
    if !defined $lcov;

my $hits = read_lcov($lcov);

exit(@of ? named() : whole());


sub named {
    my $failed = 0;
    my %reason;

    for my $of (@of) {
        my ($file, $not, $functions) = $of =~ /\A([^:]+)(?::(!?)(.+))?\z/;
        my %named = map { $_ => 1 } split /,/, $functions // '';
        my $lines = judge($file);

        for my $name (keys %named) {
            die "$file: no function $name\n"
                if !grep { $_->{function} eq $name } @$lines;
        }

        $lines = [grep { $named{ $_->{function} } xor $not } @$lines] if %named;

        # what no input leads to does not count, and is told

        my @reached = grep {
            $_->{run} || !defined reason_of($file, $_, \%reason)
        } @$lines;

        $failed |= figure($of, \@reached, @$lines - @reached);
        print_missed($file, \@reached) if $verbose;
    }

    return $failed;
}


sub whole {
    my %reason = reasons();
    my (@all, %count, @none);

    for my $file (sort keys %$hits) {
        next if $file =~ m{_page\.c\z};

        my $lines = judge($file);
        push @all, @$lines;
        figure($file, $lines);

        for my $line (grep { !$_->{run} } @$lines) {
            my $why = reason_of($file, $line, \%reason);

            if (defined $why) {
                $count{$why}++;
                printf "    %s:%d: %s: %s\n", $file, $line->{number}, $why,
                    $line->{text} =~ s/\A\s+//r if $verbose;

            } else {
                push @none, "$file:$line->{number}: $line->{function}(): "
                    . $line->{text} =~ s/\A\s+//r;
            }
        }
    }

    my $failed = figure('all', \@all);

    print "\n";
    printf "%6d lines not run: %s\n", $count{$_}, $_
        for sort { $count{$b} <=> $count{$a} } keys %count;

    if (@none) {
        printf "%6d lines not run, for no reason that is told:\n",
            scalar @none;
        print "    $_\n" for @none;
    }

    return $failed || (@none ? 1 : 0);
}


sub figure {
    my ($what, $lines, $others) = @_;
    my $run = grep { $_->{run} } @$lines;
    my $percent = @$lines ? 100 * $run / @$lines : 0;

    $what =~ s/:.*/, in part/;
    $what .= ", $others not reachable" if $others;
    printf "%6.1f%%  %5d of %5d  %s\n", $percent, $run, scalar @$lines, $what;

    return $percent < $limit ? 1 : 0;
}


sub print_missed {
    my ($file, $lines) = @_;

    printf "    %s:%d: %s\n", $file, $_->{number}, $_->{text}
        for grep { !$_->{run} } @$lines;

    return;
}


# FILE => { LINE => HITS }, of the sources of the project

sub read_lcov {
    my ($name) = @_;
    my ($file, %hits);

    open my $in, '<', $name or die "$name: $!\n";

    while (<$in>) {
        chomp;

        if (/\ASF:(.*)/) {
            my $path = $1;
            $path =~ s{/\./}{/}g;
            $file = $path =~ m{\A\Q$root\E/((?:src/(?:tools/)?)?[^/]+\.c)\z}
                ? $1 : undef;

        } elsif (defined $file && /\ADA:(\d+),(\d+)/) {
            $hits{$file}{$1} = $2 > ($hits{$file}{$1} // 0)
                ? $2 : $hits{$file}{$1} // 0;
        }
    }

    close $in or die "$name: $!\n";

    return \%hits;
}


# the lines of a source that have code, with what became of them

sub judge {
    my ($file) = @_;

    die "$file: nothing was measured\n" if !$hits->{$file};

    open my $in, '<', "$root/$file" or die "$file: $!\n";
    my @text = <$in>;
    close $in or die "$file: $!\n";

    my ($function, $comment, $inside, @lines) = ('', 0, 0);

    for my $i (0 .. $#text) {
        local $_ = $text[$i];
        chomp;

        $function = $1 if !$inside && /\A(\w+)\(/;
        $inside = 1 if /\A\{/;
        $inside = 0 if /\A\}/;

        my $code = $_;
        $code =~ s{\A.*?\*/}{} && ($comment = 0) if $comment;
        next if $comment;
        $code =~ s{/\*.*?\*/}{}g;
        $comment = 1 if $code =~ s{/\*.*}{};

        next if $code =~ /\A[\s{}]*\z/ || $code =~ /\A\#/;
        next if !exists $hits->{$file}{ $i + 1 };

        push @lines, {
            number => $i + 1,
            function => $function,
            text => $_,
            run => $hits->{$file}{ $i + 1 } > 0,
            before => \@text,
        };
    }

    return \@lines;
}


# t/coverage: "[REASON]" in lines of their own, and below each of them the
# lines that have it, as FILE FUNCTION...[: TEXT], without the prefixes of the
# project, where TEXT is a piece of the line itself, and none is all of these
# functions

sub reasons {
    my (%reason, $why);
    my $name = "$root/t/coverage";

    open my $in, '<', $name or die "$name: $!\n";

    while (<$in>) {
        chomp;
        next if /\A(?:#|\s*\z)/;

        if (/\A\[(.+)\]\z/) {
            $why = $1;
            next;
        }

        my ($file, $functions, $text) = /\A(\S+) ([\w ]+)(?:: (.+))?\z/
            or die "$name:$.: not FILE FUNCTION...[: TEXT]\n";

        die "$name:$.: there is no reason above\n" if !defined $why;

        push @{ $reason{"$file $_"} }, [$text, $why]
            for split ' ', $functions;
    }

    close $in or die "$name: $!\n";

    return %reason;
}


sub reason_of {
    my ($file, $line, $reason) = @_;

    my $failed = failed($line);
    return $failed if defined $failed;

    my $key = ($file =~ s{.*/}{}r) . " $line->{function}";
    $key =~ s/\b(?:ngx_http_)?cdm_stop_(?:audit_(?=\w+\z))?//g
        if $file =~ m{tools/};
    $key =~ s/\bngx_http_cdm_stop_//g;

    for (@{ $reason->{$key} // [] }) {
        my ($text, $why) = @$_;
        return $why if !defined $text || index($line->{text}, $text) >= 0;
    }

    return;
}


# what has failed, if the line is behind a condition that says so

sub failed {
    my ($line) = @_;
    my ($condition, $before) = guard_of($line);

    return if !defined $condition;

    return 'there is no memory'
        if "$before$condition" =~ /$MEMORY/ && $condition =~ /$FAILED/;

    return 'OpenSSL fails, for want of memory or of randomness'
        if "$before$condition" =~ /$OPENSSL/;

    return 'a system call fails that does so on broken hardware or by '
        . 'exhaustion'
        if "$before$condition" =~ /$SYSTEM/ && $condition =~ /$FAILED/;

    return 'what is called has failed, for a reason that is among these'
        if $condition =~ /$FAILED/
        && $line->{text} =~ /\A\s+(?:return\s(?:NGX_ERROR|NULL|NGX_CONF_ERROR
            |NGX_HTTP_INTERNAL_SERVER_ERROR|-1|rc|error);|goto\sfailed;)\z/x;

    return;
}


# The condition of the "if" around a line, and the statement before that, or
# nothing if the line is in no such block.

sub guard_of {
    my ($line) = @_;
    my @text = @{ $line->{before} }[0 .. $line->{number} - 2];
    my ($indent) = $line->{text} =~ /\A( *)/;
    my $condition = '';

    # the lines of a statement have no indent that counts: find its first one

    while (@text) {
        my $t = pop @text;
        my ($less) = $t =~ /\A( *)/;

        return if $t =~ /\A[{}]/ || $t =~ /\A\s*(?:case |default:)/;

        $condition = $t . $condition;
        last if $t =~ /\A *(?:\} else )?if \(/ && length $less < length $indent;
    }

    # the lines between are of the block itself, or of the condition

    $condition =~ s/\)\s*\{.*|\n\s*\{.*//s;

    my $before = '';

    # the statement may stand directly above, or behind an empty line

    while (@text) {
        my $t = pop @text;
        last if $t =~ /\A\s*[{}]?\s*\z/ && $before ne '';
        next if $t =~ /\A\s*\z/;
        last if length $before > 400;
        $before = $t . $before;
    }

    return ($condition, $before);
}
