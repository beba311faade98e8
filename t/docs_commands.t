#!/usr/bin/perl

# Each command that a document prints in a block of the shell was run: by the
# test that the table names, which takes it from the document; here, against a
# gateway that has had some of what the documents tell of; or it stands in the
# table with the reason why no test runs it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $dir = $t->dir;
my $root = $t->root;

my $BUILD = 't/build/static.sh does it for each version, with --add-module';
my $NAMES = 'gateway is a name; t/examples.t sends the same stop';
my $LONG = 'it takes minutes and tells of a machine, not of the module';
my $PACKAGE = 't/build/deb_test does it on a bare Debian';

# goals of the Makefile that .ci/run does not name

my %goal = (
    demo => 't/demo.t runs it', run => 't/demo.t runs it',
    help => 'it prints the list of goals', style => 't/style.t is all it runs',
    clean => 'it would remove what is tested',
    keystone => 't/keystone.t is what it runs',
    clients => 't/clients_*.t are what it runs',
    page => 't/status_page.t fails where it was not run',
    screenshots => 'people look at pictures',
    bench => $LONG, 'bench-doc' => $LONG, scale => $LONG, soak => $LONG,
    coverage => $LONG, 'fuzz-coverage' => $LONG,
    deb => 'make deb-test runs it', 'deb-test' => 'it installs, as root'
);

# by the document and the first words of a block: a test that takes the block
# from there, "run", or a reason. Blocks with nothing but goals of the Makefile
# need no row, see below. Where a block has commands of both kinds, what
# is left out is in the third place, with its reason.

my @table = (
    ['README.md', 'apt-get', ['a bare Debian begins so in .ci/run']],
    ['README.md', 'curl -X PUT', [$NAMES]],
    ['README.md', './configure', [$BUILD]],
    ['docs/AUDIT.md', 'openssl rand', 'run'],
    ['docs/AUDIT.md', 'openssl genpkey', 'run'],
    ['docs/AUDIT.md', 'kill -USR1', 'run'],
    ['docs/AUDIT.md', 'now=', 't/audit_logrotate.t'],
    ['docs/MONITORING.md', 'promtool', 'run'],
    ['docs/OPERATIONS.md', 'curl -s http', 'run'],
    ['docs/OPERATIONS.md', 'grep -E', 'run'],
    ['docs/OPERATIONS.md', 'awk', 'run'],
    ['docs/OPERATIONS.md', 'curl -sS -o', 'run'],
    ['docs/OPERATIONS.md', '(IFS= read', 'run'],
    ['docs/OPERATIONS.md', 'printf', 'run'],
    ['docs/OPERATIONS.md', 'grep -c', 'run'],
    ['docs/OPERATIONS.md', 'cdm-stop-policy', 'run'],
    ['docs/CDM-STOP-AUDIT.md', 'cdm-stop-audit', 'run'],
    ['docs/EXAMPLES.md', 'curl', [$NAMES]],
    ['docs/PACKAGE.md', 'apt-get install', [$PACKAGE]],
    ['docs/PACKAGE.md', 'rm -f', 't/quickstart.t'],
    ['docs/PACKAGE.md', 'rm /etc', [$PACKAGE]],
    ['docs/QUICKSTART.md', 'apt-get', 't/quickstart.t'],
    ['docs/QUICKSTART.md', 'make', 't/quickstart.t'],
    ['docs/QUICKSTART.md', 'install -d', 't/quickstart.t'],
    ['docs/QUICKSTART.md', 'touch', 't/quickstart.t'],
    ['docs/QUICKSTART.md', 'cp docs', 't/quickstart.t'],
    ['docs/QUICKSTART.md', 'service', 't/quickstart.t'],
    ['docs/QUICKSTART.md', 'umask', 't/quickstart.t'],
    ['docs/QUICKSTART.md', 'jobs=', 't/quickstart.t'],
    ['docs/QUICKSTART.md', 'curl', 't/quickstart.t'],
    ['docs/QUICKSTART.md', 'cdm-stop-audit', 't/quickstart.t'],
    ['docs/SCALE.md', 'make scale', [$LONG]],
    ['docs/SECURITY.md', 'grep -rn', 'run'],
    ['docs/TROUBLESHOOTING.md', 'grep -h', 'run'],
    ['docs/TROUBLESHOOTING.md', 'tail', 'run'],
    ['docs/TROUBLESHOOTING.md', 'nginx -T', 'run'],
    ['docs/monitoring/ALERTS.md', 'promtool', 'run'],
    ['docs/monitoring/ALERTS.md', 'systemctl', 'run',
        [qr/^systemctl status nginx; /m, 'no service manager here']],
    ['docs/monitoring/ALERTS.md', 'grep -E', 'run'],
    ['docs/monitoring/ALERTS.md', "grep '\"verdict", 'run'],
);


# the blocks of all documents; translations have those of the original

my @blocks;

for my $file (map { s{^\Q$root/\E}{}r } glob("$root/README.md"),
    glob("$root/docs/*.md"), glob("$root/docs/monitoring/*.md"))
{
    my $text = $t->read("$root/$file");

    push @blocks, { file => $file, commands => $1 }
        while $text =~ /^```(?:sh|shell|bash|console)\n(.*?)^```$/msg;
}

my $ci = $t->read("$root/.ci/run");

for my $block (@blocks) {
    my @goals = goals($block->{commands});

    for my $goal (@goals) {
        my ($exit) = CdmStop::Process::capture('make', '-n', '-C', $root,
            $goal, { timeout => 60 });
        is($exit, 0, "$block->{file}: there is a goal \"$goal\"");
        ok($goal{$goal} || $ci =~ /\b(?:make|suite) \Q$goal\E$/m
            || $goal eq 'all' && $ci =~ /^make$/m,
            "$block->{file}: \"make $goal\" is run by .ci/run");
    }

    next if @goals;

    my @rows = grep { $_->[0] eq $block->{file}
        && index($block->{commands}, $_->[1]) == 0 } @table;

    # the longest start
    ($block->{row}) = sort { length $b->[1] <=> length $a->[1] } @rows;
    ok($block->{row}, "$block->{file} is in the table: "
        . first_line($block->{commands}));
    $block->{row}[4]++ if $block->{row};
}

is(join(', ', map { "$_->[0]: $_->[1]" }
        grep { -e "$root/$_->[0]" && !$_->[4] } @table), '',
    'each row of the table has a block');

for my $row (@table) {
    my ($file, $start, $how) = @$row;

    if (ref $how) {
        cmp_ok(length $how->[0], '>', 20, "$file, $start: has a reason");

    } elsif ($how ne 'run') {
        like($t->read("$root/$how"), qr/\Q$file\E/,
            "$file, $start: $how reads it");
    }
}

# nothing is hidden in blocks that are indented only

for my $file (glob("$root/*.md"), glob("$root/docs/*.md"),
    glob("$root/docs/*/*.md"))
{
    my $prose = $t->read($file) =~ s/^```.*?^```$//gmsr;

    is(join("\n", $prose =~ /^[ ]{4,}((?:apt-get|cdm-stop-\w+|curl|git|grep|jq
        |kill|make|nginx|openssl|perl|promtool|prove|service|sudo|systemctl)
        [ ].*)$/gmx), '', $file =~ s{^\Q$root/\E}{}r
        . ' has its commands in blocks of the shell');
}

for my $file (glob("$root/README.*.md"), glob("$root/docs/zh-CN/*.md")) {
    my $name = $file =~ s{^\Q$root/\E}{}r;
    my $original = $name =~ s/\.zh-CN//r =~ s{zh-CN/}{}r;
    my @theirs = code($t->read("$root/$original"));
    my @its = code($t->read($file));

    is_deeply(\@its, \@theirs, "$name has the commands of $original");
}

# Commands without comments, which are translated.

sub code {
    my ($text) = @_;

    return map { s/\s+#\s.*$//gmr } $text =~ /^```sh\n(.*?)^```$/msg;
}

# The goals of a block that has nothing else.

sub goals {
    my ($commands) = @_;

    my @lines = grep { length } map { s/\s*#.*//r } split /\n/, $commands;
    my @goals;

    for my $line (@lines) {
        my ($make, @words) = split ' ', $line;
        my @named = grep { !/=/ } @words;

        return if $make ne 'make' || grep { /[^\w.=\/-]/ } @words;
        push @goals, @named ? @named : 'all';
    }

    return @goals;
}

sub first_line { return ($_[0] =~ /(\S.*)/)[0] }


# a gateway that has had some of all: stops, a token that CDM refuses, an
# outcome that is unknown, an IAM that is away

my $iam = $t->iam;
my $cdm = $t->cdm;
my $password = $t->{password};

$t->write_secret('input/password', "$password\n");
$t->write_secret('secrets/cdm-gateway', "$password\n");
mkdir "$dir/$_" for qw(bin run desk);
chmod 0755, "$dir/run";

my $key = $t->ledger->key(32);
$t->audit_key($key);
$t->write_secret($_, "$key\n") for 'secrets/key', 'desk/audit.key';

for my $command ("genpkey -algorithm ed25519 -out $dir/secrets/sign",
    "pkey -in $dir/secrets/sign -pubout -out $dir/desk/audit.pub")
{
    my ($exit, $said) = CdmStop::Process::capture('openssl',
        split ' ', $command);
    die "openssl $command: $said" if $exit;
}

chmod 0600, "$dir/secrets/sign";
symlink "$root/build/cdm-stop-audit", "$dir/bin/cdm-stop-audit";
symlink "$dir/cdm_stop.jsonl", "$dir/desk/cdm_stop.jsonl";

my ($format) = $t->read("$root/docs/OPERATIONS.md")
    =~ /^```nginx\n(log_format stops .*?\naccess_log [^\n]*)\n```/ms;

$format =~ s{/var/log/nginx/}{$dir/};

my $conf = <<"EOC";
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_audit_key   %%TESTDIR%%/secrets/key;
    cdm_stop_audit_sign  %%TESTDIR%%/secrets/sign;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/cdm-gateway;
        projects       @{[CdmStop::Test::Traffic::PROJECT]} @{['4' x 32]};
    }
    cdm_stop_policy org {
        allow  scheduler  principal=airflow  job=~^etl_;
    }
    $format
    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop                    huawei;
            cdm_stop_verify             off;
            cdm_stop_principal          \$http_x_test_principal;
            cdm_stop_enforce            org;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/cdm_stop.jsonl;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /cdm_stop        { cdm_stop_status; }
        location = /cdm_stop/ready  { cdm_stop_status ready; }
    }
}
EOC

$t->config($conf);
$t->start;

sub stop {
    my (%arg) = @_;

    return $t->put_stop(job => 'etl_1',
        headers => ['X-Test-Principal' => 'airflow'], %arg);
}

$cdm->script({ status => 401, times => 1 });
is(stop()->{status}, 200, 'a stop with a second token');
is(stop(job => 'prod_1')->{status}, 403, 'one that is denied');
$cdm->script({ close => 'after_request', times => 1 });
my $unknown = stop();
is($unknown->{status}, 504, 'one whose outcome is unknown');
$iam->refuse;
is(stop(project => '4' x 32)->{status}, 503, 'one without a token');
$iam->resume;

# what somebody asks for, in which records it is

$t->write_secret('desk/token', $iam->last_token);

my $request_id = $unknown->header('X-Request-Id');


# the commands

my @other = (
    ['/etc/nginx/nginx.conf', "$dir/nginx.conf"],
    ['/etc/nginx/secrets', "$dir/secrets"],
    ['/var/log/nginx', $dir],
    ['/run/nginx.pid', "$dir/nginx.pid"],
    ['/run/cdm', "$dir/run"],
    ['http://127.0.0.1:8080/', 'http://127.0.0.1:' . $t->port . '/'],
    ['https://iam.cn-north-4.myhuaweicloud.com',
        'http://127.0.0.1:' . $t->port('IAM')],
);
my @typed = (
    [qr/^(\(IFS= read -rsp .*\n.*\.new\))$/m, "$dir/input/password"],
);

# "nginx -t" and the like leave what the end of the process frees

$t->write('bin/nginx', <<"EOS", 0755);
#!/bin/sh
export ASAN_OPTIONS="\$ASAN_OPTIONS:detect_leaks=0"
exec $t->{binary} -p $dir/ -e $dir/startup.log -c $dir/nginx.conf "\$@"
EOS

my $module = $t->module_file // '';

$t->write('bin/cdm-stop-policy', <<"EOS", 0755);
#!/bin/sh
export ASAN_OPTIONS="\$ASAN_OPTIONS:detect_leaks=0"
exec $root/src/tools/cdm-stop-policy --nginx $t->{binary} \\
    --module "$module" "\$@"
EOS

# a file of a person who tries another policy

$t->write('desk/new.conf', $t->read('nginx.conf'));

for my $block (grep { $_->{row} && $_->{row}[2] eq 'run' } @blocks) {
    my $commands = $block->{commands};

    $commands =~ s/$block->{row}[3][0]// if $block->{row}[3];
    $commands =~ s/\Q$_->[0]\E/$_->[1]/g for @other;
    $commands =~ s/$_->[0]/$1 < $_->[1]/ for @typed;
    $commands =~ s/-g www-data // if $>;

    # where the commands are to be given
    my $where = $block->{file} =~ m{monitoring/} ? "$root/docs/monitoring"
        : $commands =~ m{docs/|t/\*} ? $root : "$dir/desk";

    $t->write('desk/script', "set -e\nset -o pipefail\nexec 2>&1\n"
        . "cd $where\nrequest_id=$request_id\ntoken=x\n$commands");

    local $ENV{PATH} = "$dir/bin:$ENV{PATH}";
    my ($exit, $said) = CdmStop::Process::capture('bash', "$dir/desk/script",
        { timeout => 120, env => $t->environment });

    is($exit, 0, "$block->{file}: " . first_line($block->{commands}))
        or diag($said);
    $block->{said} = $said;
}

sub said {
    my ($file, $start) = @_;

    my ($block) = grep { $_->{row} && $_->{row}[0] eq $file
        && $_->{row}[1] eq $start } @blocks;
    return $block->{said} // '';
}


# they tell what the text says they do

my $O = 'docs/OPERATIONS.md';
my $C = 'docs/CDM-STOP-AUDIT.md';
my $T = 'docs/TROUBLESHOOTING.md';
my $A = 'docs/monitoring/ALERTS.md';

like(said($O, 'curl -s http'), qr/"ready":true.*"principal":"airflow"/s,
    'ready, and the last stops');
like(said($O, 'grep -E'), qr/IAM gave no token/, 'what IAM said');
like(said($O, 'awk'), qr/^RENEWED 1$/m, 'stops by what their token was');
like(said($O, 'curl -sS -o'), qr/\A[1-5]\d\d\n\z/, 'IAM can be reached');
is($t->read('secrets/cdm-gateway'), "$password\n", 'a new password is there');
is($t->read('run/token'), "x\n", 'a new token is there');
is(said($O, 'grep -c'), "1\n", 'stops that were sent again');
like(said($O, 'cdm-stop-policy'), qr/^allow by rule scheduler$/m,
    'who could stop it');
like(said($T, 'grep -h'), qr/"stage":"intent".*"verdict":"unknown"/s,
    'the records of a request');
like(said($T, 'tail'), qr/^ +1 "error_code":"CDMSTOP\.0201"$/m,
    'what was refused');
like(said($T, 'nginx -T'), qr/cdm_stop_enforce/, 'the guard that runs');
like(said($C, 'cdm-stop-audit'),
    qr/ 0 findings.*stopped  job=etl_1.*\Q$request_id\E/s,
    'the records verify, and tell of stops and of a token');
like(said($A, 'systemctl'), qr/successful\n200\n\z/, 'the gateway answers');
like(said($A, 'grep -E'), qr/IAM gave no token/, 'the line of the alert');
like(said($A, "grep '\"verdict"), qr/\Q$request_id\E/, 'the unknown stop');

# the same records twice are no chain
unlink "$dir/desk/cdm_stop.jsonl";

$t->allow_log(qr/IAM gave no token|refused|prematurely closed|reset by peer/);
$t->done;
