#!/usr/bin/perl

# What is built is hardened: the module where it is loaded, the auditor's tool.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Test::More;

use CdmStop::Process;

my $tool = "$FindBin::Bin/../build/cdm-stop-audit";

sub readelf {
    my (@arguments) = @_;

    my ($exit, $output) = CdmStop::Process::capture('readelf', '-W',
                                                    @arguments);
    is($exit, 0, "readelf @arguments") or diag($output);
    return $output;
}

for my $file (grep { $_ } $ENV{TEST_NGINX_MODULE}, $tool) {
    my ($name) = $file =~ m{([^/]+)\z};
    my $dynamic = readelf('-d', $file);
    my $segments = readelf('-l', $file);
    my $symbols = readelf('--dyn-syms', $file);

    like($dynamic, qr/\(FLAGS\).*\bBIND_NOW\b/, "$name: bound at load");
    like($segments, qr/GNU_RELRO/, "$name: relocations are read-only then");
    like($segments, qr/GNU_STACK(?:\s+0x\w+){5}\s+RW\s/,
         "$name: the stack is not executable");
    unlike($segments, qr/LOAD(?:\s+0x\w+){5}\s+RWE/,
           "$name: no page is written to and executed");
    unlike($dynamic, qr/TEXTREL|R(?:UN)?PATH/,
           "$name: no relocations in code, no path of its own for libraries");
    like($symbols, qr/UND __stack_chk_fail/, "$name: stack protector");
    like($symbols, qr/UND __\w+_chk\b(?!_)/, "$name: fortified functions");

    if ($file eq $tool) {
        like($dynamic, qr/Flags:.* PIE/, "$name: position independent");
        next;
    }

    my @exported = $symbols =~ /GLOBAL\s+DEFAULT\s+\d+\s+(\S+)/g;
    cmp_ok(scalar(@exported), '>', 100, "$name: has names of its own");
    is(join(' ', grep { !/\Angx_(?:http_cdm_stop|module(?:s\z|_))/ } @exported),
       '', "$name: no other names");

    # with the names left to the loader, one of another module would do
    my $relocations = readelf('-r', $file);
    like($relocations, qr/JUMP_SLO\S*\s+\w+\s+ngx_palloc\b/,
         "$name: calls nginx by name");
    unlike($relocations, qr/(?:JUMP_SLO|GLOB_DAT)\S*\s+\w+\s+ngx_http_cdm_stop/,
           "$name: calls itself directly");
    my @needed = sort $dynamic =~ /\(NEEDED\).*\[(\S+?)\.so/g;
    is("@needed", 'libc libjansson',
       "$name: needs jansson, and what nginx has loaded");
}

done_testing();
