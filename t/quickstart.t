#!/usr/bin/perl

# The commands of docs/QUICKSTART.md, as they are printed, in their order: what
# they answer is what the document says they do. Their places are those of this
# test; stand-ins are in the place of the cloud. The demo is run by t/demo.t.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $dir = $t->dir;
my $text = $t->read($t->root . '/docs/QUICKSTART.md');

my ($gateway, $alice) = map { $t->ledger->password } 1 .. 2;
my $iam = $t->iam(tls => 'good', users => {
    acme => { 'cdm-gateway' => $gateway, alice => $alice } });
my $cdm = $t->cdm(tls => 'good');
my $ca = $t->cert('good')->{ca};

# what is other here, in commands and files

my @other = (
    ['/usr/lib/nginx/modules', "$dir/modules"],
    ['/usr/local/bin/', "$dir/bin/"],
    ['/var/log/nginx', "$dir/log"],
    ['/etc/ssl/certs/ca-certificates.crt', $ca],
    ['/etc/nginx', $dir],
    ['127.0.0.1:8080', '127.0.0.1:' . $t->port],
    ['https://iam.cn-north-4.myhuaweicloud.com',
        'https://localhost:' . $t->port('IAM')],
    ['https://cdm.cn-north-4.myhuaweicloud.com',
        'https://localhost:' . $t->port('CDM')],
);

# what a person types, and what needs no repetition: the build is there, and
# the demo has a test of its own

my @typed = (
    [qr/^(\(IFS= read -rsp .*\n.*\))$/m, "$dir/input/gateway"],
    [qr/^(read -rs password)$/m, "$dir/input/alice"],
);
my $left_out = qr/^(?:apt-get .*|make|make demo)\n/m;

# nobody but root can give a file away
$left_out = qr/$left_out|^chown .*\n/m if $>;

sub here {
    my ($words) = @_;

    $words =~ s/\Q$_->[0]\E/$_->[1]/g for @other;
    return $words;
}

sub there {
    my ($words) = @_;

    $words =~ s/\Q$_->[1]\E/$_->[0]/g for @other;
    return $words;
}


# the place: Debian's nginx.conf in short, and the sources as far as needed

mkdir "$dir/$_" for qw(bin log conf.d modules-enabled desk desk/docs);
chmod 0755, "$dir/log";

$t->write_secret('input/gateway', "$gateway\n");
$t->write_secret('input/alice', "$alice\n");
$t->write_secret($_, "$alice\n") for 'secrets/cdm-gateway', 'desk/token';
$t->write('desk/docs/examples/quickstart.conf',
    here($t->read($t->root . '/docs/examples/quickstart.conf')));
symlink $t->root . "/$_", "$dir/desk/$_" or die "symlink: $!\n"
    for qw(build src);

# a module that is linked in needs no line that loads it

my $module = $t->module_file;

$t->config(join "\n",
    $t->globals =~ s/^load_module .*\n//r, 'worker_processes 2;',
    $module ? "include $dir/modules-enabled/*.conf;" : '',
    'events { }', 'http {', $t->http_globals, "include $dir/conf.d/*.conf;",
    '}', '');

$t->write('bin/nginx', <<"EOS", 0755);
#!/bin/sh
exec $t->{binary} -p $dir/ -e $dir/startup.log -c $dir/nginx.conf "\$@"
EOS


# the commands, up to the one that starts nginx, and behind it

my @blocks;

push @blocks, { commands => $1, said => $2 // '' }
    while $text =~ /^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?/msg;

cmp_ok(scalar @blocks, '>=', 8, 'there are commands');

my ($restart) = grep { $blocks[$_]{commands} =~ /^service nginx restart\n/ }
    0 .. $#blocks;
ok(defined $restart, 'nginx is started by Debian\'s service');
$blocks[$restart]{commands} =~ s/^service nginx restart\n//;

replay(@blocks[0 .. $restart - 1]);
$t->start;
replay(@blocks[$restart .. $#blocks]);

is(sprintf('%o', (stat "$dir/log/cdm_stop.jsonl")[2] & 07777), '640',
    'not everybody may read the records');
ask_the_policy();

is(scalar($cdm->requests), 1, 'one stop got to CDM');
is(scalar(grep { ($_->{verdict} // '') eq 'stopped' }
        $t->records('log/cdm_stop.jsonl')), 1, 'and its record says so');

# the package has files of its own in the place of those

my ($remove) = $t->read($t->root . '/docs/PACKAGE.md') =~ /^(rm -f .*)$/m;
CdmStop::Process::capture('sh', '-c', here($remove));
is(join(' ', glob("$dir/{bin,modules-enabled}/*")), "$dir/bin/nginx",
    'docs/PACKAGE.md removes what would be found before the package');
$t->done;


# Runs blocks in one shell and compares what each of them prints.

sub replay {
    my (@run) = @_;

    my $script = "set -e\nexec 2>&1\ncd $dir/desk\n";

    for my $block (@run) {
        my $commands = $block->{commands} =~ s/$left_out//gr;

        $commands =~ s/$_->[0]/$1 < $_->[1]/ for @typed;
        $script .= here($commands) . "printf '\\0'\n";
    }

    $t->write('desk/script', $script);

    local @ENV{qw(PATH CURL_CA_BUNDLE)} = ("$dir/bin:$ENV{PATH}", $ca);
    my ($exit, $output) = CdmStop::Process::capture('bash',
        "$dir/desk/script", { timeout => 120, env => $t->environment });
    my @said = split /\0/, $output, -1;

    is($exit, 0, 'the commands succeed') or diag($output);
    is(pop @said, '', 'all of them');

    for my $block (@run) {
        my ($first) = $block->{commands} =~ /(\S.*)/;

        is(same(there(shift @said // 'nothing')), same($block->{said}),
            'what is printed: ' . ($first // ''));
    }

    return;
}


# What was installed as cdm-stop-policy is asked about the site that was copied.

sub ask_the_policy {
    local $ENV{ASAN_OPTIONS} = ($ENV{ASAN_OPTIONS} // '') . ':detect_leaks=0';

    my ($exit, $said) = CdmStop::Process::capture("$dir/bin/cdm-stop-policy",
        '--nginx', $t->{binary}, '--module', $module // '',
        "$dir/conf.d/cdm-stop.conf", qw(--user alice --domain acme --job),
        'etl_daily', '--project', $t->PROJECT, '--cluster', $t->CLUSTER);

    is($said, "allow by rule alice\n  deny prod-freeze: not job=~^prod_\n"
        . "  allow alice: matches\n", 'who could stop it');
    is($exit, 0, 'an answer');

    return;
}


# Ids, hashes and times are others each time.

sub same {
    my ($words) = @_;

    $words =~ s/\b[0-9a-f]{64}\b/HASH/g;
    $words =~ s/\b[0-9a-f]{32}\b/ID/g;
    $words =~ s/\b[0-9a-f]{16}\b/CHAIN/g;
    $words =~ s/\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z?/TIME/g;

    return $words;
}
