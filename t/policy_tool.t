#!/usr/bin/perl

# cdm-stop-policy asks the real nginx who could stop a job, and which recorded
# decisions another policy would turn over.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Test;

my $t = CdmStop::Test->new;
my $module = $t->module_file // '';
my $project = CdmStop::Test::Traffic::PROJECT();
my $cluster = CdmStop::Test::Traffic::CLUSTER();

# braces in comments and quotes are none of the configuration's

my $file = $t->write('site.conf', <<'EOC');
http {                                   # {
    cdm_stop_policy org {
        deny freeze job=~^prod_ !principal=~^oncall-[a-z]+$;   # }
        allow office if=$office "job=a {b}";
        allow net addr=192.0.2.0/24,2001:db8::/32;
    }
    server { listen 80; }
}
EOC

sub run {
    my (@arguments) = @_;

    my @command = ("$FindBin::Bin/../src/tools/cdm-stop-policy",
                   '--nginx', $t->{binary}, '--module', $module, @arguments);
    my $out = $t->path('out');
    my $pid = fork // die "fork: $!\n";

    if (!$pid) {
        my $env = $t->environment;

        # nginx -t leaves what the end of the process frees
        $env->{ASAN_OPTIONS} .= ':detect_leaks=0';
        @ENV{keys %$env} = values %$env;

        open STDOUT, '>', $out;
        open STDERR, '>&', \*STDOUT;
        exec @command or exit 126;
    }
    waitpid $pid, 0;

    return ($? >> 8, $t->read('out'));
}

sub stop { return ($file, '--project', $project, '--cluster', $cluster, @_) }

my ($exit, $said) = run(stop('--job', 'prod_x'));
is($exit, 1, 'denied');
is($said, "deny by rule freeze\n  deny freeze: matches\n", 'the rule');

($exit, $said) = run(stop('--job', 'prod_x', '--principal', 'oncall-ann',
                          '--addr', '2001:db8::7'));
is($exit, 0, 'allowed, by the address');
is($said, "allow by rule net\n  deny freeze: not !principal=~^oncall-[a-z]+\$\n"
    . "  allow office: not if=\$office\n  allow net: matches\n",
    'and why each rule before did not match');

($exit, $said) = run(stop('--job', 'a {b}', '--var', 'office=1'));
is($exit, 0, 'allowed, by a variable');
like($said, qr/^allow by rule office$/m, 'the rule');

($exit, $said) = run(stop('--job', 'x'));
is($exit, 1, 'denied by default');
like($said, qr/^deny by default$/m, 'so it says');

my $record = sub {
    return JSON::PP->new->canonical->encode({
        stage => 'intent', request_id => 'f' x 32, decision => 'allow',
        project_id => $project, cluster_id => $cluster, job_name => 'x',
        source_ip => '192.0.2.1', @_ }) . "\n";
};
$t->write('audit.jsonl', $record->() . $record->(stage => 'outcome'));

($exit, $said) = run($file, '--records', $t->path('audit.jsonl'));
is($exit, 0, 'no decision changes');
is($said, "0 of 1 decisions change\n", 'so it says');

$t->write('audit.jsonl', $record->()
    . $record->(job_name => 'prod_x', rule => 'old', request_id => 'e' x 32));

($exit, $said) = run($file, '--records', $t->path('audit.jsonl'));
is($exit, 1, 'a decision changes');
is($said, 'e' x 32 . ": allow (old) becomes deny (freeze)\n"
    . "1 of 2 decisions change\n", 'which one');

for my $case (
    ['an option that is none', qr/Usage/, stop('--no')],
    ['no job', qr/Usage/, $file, '--project', $project],
    ['no such policy', qr/no policy "x"/, stop('--job', 'x', '--policy', 'x')],
    ['no such file', qr/nowhere/, 'nowhere', '--records', 'x'],
    ['a bad target', qr/is refused/, stop('--job', 'a/b')],
    ['no such variable', qr/no if=\$x/, stop('--job', 'x', '--var', 'x=1')],
    ['no JSON', qr/no JSON/, $file, '--records', $file],
) {
    my ($name, $why, @arguments) = @$case;

    ($exit, $said) = run(@arguments);
    is($exit, 2, "$name: at fault");
    like($said, $why, "$name: why");
}

$t->write('bad.conf', 'cdm_stop_policy org { allow a job=~[; }');
($exit, $said) = run($t->path('bad.conf'), '--records', '/dev/null');
is($exit, 2, 'a bad policy: at fault');
like($said, qr/bad pattern/, 'in the words of nginx');

# callers that IAM knows, and files that include others

$t->write('org.rules', 'allow etl domain=acme role=etl_operator;
                        allow all user=root principal=root@acme;');
$t->write('org.policy', 'cdm_stop_policy org {
    deny freeze job=~^prod_ !principal=~^oncall-[a-z]+@acme$;
    include org.rules;
}');
$t->write('nginx.conf', 'http { include "org.poli*"; server { } }');

my @org = ($t->path('nginx.conf'), '--project', $project,
           '--cluster', $cluster, '--job');

for my $case (
    ['a role', 0, 'allow by rule etl', 'load',
        qw(--user ann --domain acme --role x --role etl_operator)],
    ['a role of another domain', 1, 'deny by default', 'load',
        qw(--user ann --domain evil --role etl_operator)],
    ['no role', 1, 'deny by default', 'load', qw(--user ann --domain acme)],
    ['the principal is made of user and domain', 0, 'allow by rule etl',
        'prod_x', qw(--user oncall-x --domain acme --role etl_operator)],
    ['a namesake', 1, 'deny by rule freeze', 'prod_x',
        qw(--user oncall-x --domain evil --role etl_operator)],
    ['a user, and a name by another mechanism', 0, 'allow by rule all', 'load',
        qw(--user root --domain x --principal root@acme)],
    ['nobody', 1, 'deny by default', 'load'],
) {
    my ($name, $status, $want, @arguments) = @$case;

    ($exit, $said) = run(@org, @arguments);
    is($exit, $status, "$name: exit status");
    is(($said =~ /\A(.*)/)[0], $want, "$name: decision");
}

$t->write('audit.jsonl', join '', map {
    $record->(user => { id => 'i', name => 'ann', domain => $_ },
              roles => ['etl_operator'], principal => "ann\@$_",
              request_id => substr($_, 0, 1) x 32)
} qw(acme evil));
($exit, $said) = run($t->path('nginx.conf'), '--records',
                     $t->path('audit.jsonl'));
is($exit, 1, 'recorded callers that IAM knew');
is($said, 'e' x 32 . ": allow (by default) becomes deny (by default)\n"
    . "1 of 2 decisions change\n", 'are decided by what it said of them');

($exit, $said) = run(@org, 'load', '--role', 'x');
is($exit, 2, 'a role of nobody: at fault');

($exit, $said) = run('--help');
is($exit, 0, '--help');
like($said, qr/EXIT STATUS/, 'is the manual');

$t->done;
