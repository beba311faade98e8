#!/usr/bin/perl

# What the Debian packages say is what the tree says: their version, the
# rotation of the records, the licence, the paths. Whether they can be built,
# installed and used is shown by "make deb" and "make deb-test".

use strict;
use warnings;

use FindBin;
use Test::More;

my $root = "$FindBin::Bin/..";
my $debian = "$root/t/build/debian";
my $name = 'libnginx-mod-http-cdm-stop';

my ($version) = slurp("$root/src/ngx_http_cdm_stop.h")
    =~ /^#define NGX_HTTP_CDM_STOP_VERSION +"(.*)"$/m;
my ($first) = slurp("$root/CHANGES.md") =~ /^## ([\d.]+)/m;
my ($packaged) = slurp("$debian/changelog") =~ /\A$name \(([\d.]+)-/;

is($packaged, $version, 'the version of the sources');
is($first, $version, 'is that of the changes, too');

my ($rotation) = slurp("$root/docs/AUDIT.md")
    =~ m{^```\n(/var/log/nginx/cdm_stop\.jsonl \{\n.*?^\}\n)```}ms;
is(slurp("$debian/$name.logrotate"), $rotation,
    'the rotation is that of docs/AUDIT.md');

my $licence = slurp("$root/LICENSE") =~ s/\A.*?\n\n//sr;
my ($copyright) = slurp("$debian/copyright")
    =~ /^License: BSD-2-Clause\n((?: .*\n)+)/m;
is($copyright =~ s/^ \.?//gmr, $licence, 'the licence is that of LICENSE');

# what is in the table of docs/PACKAGE.md is what the packages say

my $page = slurp("$root/docs/PACKAGE.md");
my $readme = slurp("$debian/$name.README.Debian");

for my $path ('/etc/nginx/secrets', '/var/log/nginx/cdm_stop.jsonl',
              "/etc/logrotate.d/$name", '/usr/bin/cdm-stop-policy')
{
    like($page, qr/`\Q$path\E/, "$path is in docs/PACKAGE.md");
    like($readme, qr/\Q$path\E/, "$path is in README.Debian");
}

my %package = map { $_ => 1 } slurp("$debian/control") =~ /^Package: (\S+)$/mg;
is_deeply([sort $page =~ /^\| `([\w-]+)` \|/mg], [sort keys %package],
    'its first table has the packages');

done_testing();


sub slurp {
    my ($file) = @_;

    open my $in, '<', $file or die "$file: $!\n";
    local $/;

    return scalar <$in>;
}
