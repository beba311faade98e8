#!/usr/bin/perl

# Makes src/ngx_http_cdm_stop_page.c of src/page/: one HTML page with its style
# and script inside, and the Content-Security-Policy that allows these two by
# their hashes and nothing else.
#
#     page.pl            writes the file if it would change
#     page.pl --check    fails if it would change
#     page.pl --html     prints the page
#     page.pl --csp      prints the policy
#
# The C file is committed, so a build of the module needs nothing of this.

use strict;
use warnings;

use Digest::SHA qw(sha256_base64);
use FindBin;

use constant WIDTH => 78;

my $src = "$FindBin::Bin/../../src";
my $file = "$src/ngx_http_cdm_stop_page.c";

my @styles = qw(status.css);
my @scripts = qw(words.js dom.js plots.js tables.js side.js status.js);

my ($html, $csp) = page();

my $mode = $ARGV[0] // '';

if ($mode eq '--html') {
    print $html;

} elsif ($mode eq '--csp') {
    print "$csp\n";

} elsif ($mode eq '--check') {
    exit(slurp($file) eq source() ? 0 : 1) if -e $file;
    exit 1;

} elsif ($mode eq '') {
    publish();

} else {
    die "usage: $0 [--check | --html | --csp]\n";
}


sub page {
    my %part = (
        style => join("\n", map { short(slurp("$src/page/$_")) } @styles),
        script => "(function () {\n'use strict';\n"
            . join("\n", map { short(slurp("$src/page/$_")) } @scripts)
            . "})();\n",
    );

    my $page = slurp("$src/page/status.html");

    for my $name (sort keys %part) {
        die "$name ends itself\n" if $part{$name} =~ m{</$name|<!--}i;

        $page =~ s/\@\@$name\@\@/\n$part{$name}/
            or die "status.html: no \@\@$name\@\@\n";
    }

    return ($page, policy($page));
}


# comments and indentation are for who reads the source

sub short {
    my ($text) = @_;

    $text =~ s{^[ \t]*/\*.*?\*/[ \t]*\n}{}gms;
    $text =~ s{[ \t]+/\*[^*\n]*\*/[ \t]*$}{}gm;
    $text =~ s/^[ \t]+//gm;
    $text =~ s/\n{2,}/\n/g;

    return $text;
}


sub policy {
    my ($page) = @_;

    my $style = hashes($page, 'style');
    my $script = hashes($page, 'script');

    # data: is for the icon in the browser's tab
    return join '; ', "default-src 'none'", "script-src $script",
        "style-src $style", "connect-src 'self'", 'img-src data:',
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'";
}


sub hashes {
    my ($page, $element) = @_;
    my @hashes;

    while ($page =~ m{<$element>(.*?)</$element>}gs) {
        my $hash = sha256_base64($1);

        $hash .= '=' while length($hash) % 4;
        push @hashes, "'sha256-$hash'";
    }

    die "there is no <$element>\n" if !@hashes;

    return join ' ', @hashes;
}


sub source {
    return <<"EOC";

/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* made of src/page/ by t/build/page.pl: change the files there */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop_status.h"


static u_char  ngx_http_cdm_stop_page_text[] =
${\ literal($html)};


/* the value of the header Content-Security-Policy */

static u_char  ngx_http_cdm_stop_page_csp_text[] =
${\ literal($csp)};


ngx_str_t  ngx_http_cdm_stop_page = {
    sizeof(ngx_http_cdm_stop_page_text) - 1, ngx_http_cdm_stop_page_text
};


ngx_str_t  ngx_http_cdm_stop_page_csp = {
    sizeof(ngx_http_cdm_stop_page_csp_text) - 1,
    ngx_http_cdm_stop_page_csp_text
};
EOC
}


# a C string, in lines; "?" is escaped because of trigraphs

sub literal {
    my ($text) = @_;
    my @lines = ('');

    for my $byte (split //, $text) {
        my $c = $byte eq "\n" ? '\n'
            : $byte =~ /["\\?]/ ? "\\$byte"
            : $byte =~ /[ -~]/ ? $byte
            : sprintf '\\%03o', ord $byte;

        push @lines, '' if length("    \"$lines[-1]$c\"") > WIDTH;
        $lines[-1] .= $c;
    }

    return join "\n", map { "    \"$_\"" } @lines;
}


sub slurp {
    my ($name) = @_;

    open my $in, '<:raw', $name or die "$name: $!\n";
    local $/;
    my $text = <$in>;
    close $in;

    return $text;
}


sub publish {
    my $text = source();

    return if -e $file && slurp($file) eq $text;

    open my $out, '>:raw', "$file.new" or die "$file.new: $!\n";
    print {$out} $text or die "$file.new: $!\n";
    close $out or die "$file.new: $!\n";
    rename "$file.new", $file or die "$file: $!\n";
    print "made src/ngx_http_cdm_stop_page.c: " . length($html) . " bytes\n";

    return;
}
