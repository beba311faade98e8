#!/usr/bin/perl

# The chain of records: one for each target over all workers, reloads and
# rotations, with a key or without; a second instance and a second master are
# told apart; checkpoints are signed, also in silence.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::SHA qw(hmac_sha256 hmac_sha256_hex);

use CdmStop::Chain;
use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $key = $t->ledger->token(64);

$t->write_secret('secrets/key', $key);
$t->audit_key($key);

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 4;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    #KEY
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    add_header                  X-Worker $pid always;

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%FILE%%;
            cdm_stop_audit  stderr;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%FILE%%;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

my $with_key = 'cdm_stop_audit_key %%TESTDIR%%/secrets/key;';

sub config {
    my ($test, $line, $file) = @_;

    $test->config($config =~ s/#KEY/$line/r
                          =~ s/%%FILE%%/$t->path($file)/ger);
    return;
}

sub chain_of {
    my ($secret, @files) = @_;

    my $chain = CdmStop::Chain->new(key => $secret);
    $chain->add($_, $t->read($_)) for @files;
    return $chain;
}

sub is_whole {
    my ($name, $secret, @files) = @_;

    my $chain = chain_of($secret, @files);
    is(join("\n", $chain->troubles), '', "$name: whole");
    is(join(' ', $chain->open), '', "$name: each stop has its outcome");
    return $chain;
}

sub load {
    my ($test, $count) = @_;

    my @answers = $test->finish(
        map { $test->start_stop(job => "load$_",
                                $_ % 2 ? (project => '2' x 32) : ()) }
        1 .. $count);
    is(scalar(grep { $_ && $_->{status} == 200 } @answers), $count,
       "$count stops");
    return map { $_->header('X-Worker') } grep { $_ } @answers;
}

# with a key and without, over workers, reloads and rotations

for my $case (['keyed', $with_key, $key], ['plain', '', undef]) {
    my ($name, $line, $secret) = @$case;
    my $file = "$name.jsonl";

    config($t, $line, $file);
    $t->start;
    my %workers = map { $_ => 1 } load($t, 100);
    cmp_ok(scalar keys %workers, '>', 1, 'A07 by several workers');
    is(scalar is_whole("A10 $name", $secret, $file)->ids, 1,
       'A10 C10 two locations, one chain');

    $t->reload;
    load($t, 20);
    $t->reload;
    load($t, 20);
    is(scalar is_whole("A10 $name, reloads", $secret, $file)->ids, 1,
       'A10 one chain');

    for my $n (1 .. 3) {
        rename $t->path($file), $t->path("$file.$n") or die "$file: $!\n";
        $t->reopen;
        load($t, 20);
    }

    my @files = ((map { "$file.$_" } 1 .. 3), $file);
    my $chain = is_whole("A07 $name, rotations", $secret, @files);
    is(scalar $chain->ids, 1, 'A07 one chain over four files');
    is(scalar $chain->records, 400, 'A07 of all records');

    # no file has a record that is older than one of the file before
    my @spans = map { my @seq = map { $_->{seq} } $t->records($_);
                      [$seq[0], $seq[-1], scalar @seq] } @files;
    my @mixed = grep { $_->[1] - $_->[0] + 1 != $_->[2] } @spans;
    is(scalar @mixed, 0, 'A07 each file has a piece of the chain');

    # what somebody changes is seen, where it is and by whoever has the key
    my @lines = split /^/, $t->read($file);

    my %change = (
        'a byte' => sub { $_[0][3] =~ s/StopJob/StopJoc/ },
        'a line is gone' => sub { splice @{$_[0]}, 3, 1 },
        'two change places' => sub { @{$_[0]}[3, 4] = @{$_[0]}[4, 3] },
        'a line is there twice' => sub { splice @{$_[0]}, 3, 0, $_[0][3] },
    );

    for my $what (sort keys %change) {
        my @copy = @lines;
        $change{$what}->(\@copy);
        my $test = CdmStop::Chain->new(key => $secret, partial => 1);
        $test->add('x', join '', @copy);
        my @found = $test->troubles;
        $what eq 'two change places'
            ? is(join('', sort @copy), join('', sort @lines),
                 "A10 $name: $what, the numbers tell")
            : cmp_ok(scalar @found, '>', 0, "A10 $name: $what");
    }

    my $wrong = CdmStop::Chain->new(key => 'x' x 32, partial => 1);
    $wrong->add('x', join '', @lines);
    is(scalar $wrong->troubles, scalar @lines, "A10 $name: a foreign key");
    $t->stop;
}

# fingerprints, by which the verifier finds a token

{
    config($t, $with_key, 'token.jsonl');
    $t->start;
    my $token = $t->ledger->token(300);
    $t->put_stop(headers => ['X-Auth-Token' => $token]);
    my ($intent) = $t->records('token.jsonl');
    my $print = hmac_sha256('cdm_stop fingerprint v1', $key);
    is($intent->{client_token}, substr(hmac_sha256_hex($token, $print), 0, 32),
       'A10 the fingerprint of a token by the key');
    is($intent->{injected_token},
       substr(hmac_sha256_hex($iam->last_token, $print), 0, 32),
       'A10 and of the gateway\'s');
}

# a second instance on the same file, and what becomes of it

{
    my $other = CdmStop::Test->new(log => 'info');
    $other->iam;
    $other->cdm;
    $other->write_secret('secrets/key', $key);
    config($other, $with_key, 'token.jsonl');

    $cdm->script({ hold => 'mine' });
    my $h = $t->start_stop(job => 'mine');
    $t->wait_for(sub { grep { $_->{job_name} eq 'mine' }
                       $t->records('token.jsonl') }, what => 'an intent');
    my $before = $t->read('token.jsonl');

    my ($exit) = $other->nginx_t($other->read('nginx.conf'));
    is($exit, 0, 'W03 nginx -t of another instance');
    is($t->read('token.jsonl'), $before, 'W03 touches nothing');

    $other->start;
    like($other->error_log . $other->startup_output,
         qr/another instance writes to "\S+token.jsonl"/, 'W03 it is told');

    for my $round (1 .. 3) {
        load($other, 10);
        $cdm->script;
        load($t, 10);
    }

    is(scalar(grep { ($_->{job_name} // '') eq 'mine' }
              $t->records('token.jsonl')), 1, 'W03 its stops are left open');
    $cdm->release('mine');
    $t->finish($h);

    my $chain = is_whole('W03 two instances', $key, 'token.jsonl');
    is(scalar $chain->ids, 2, 'W03 have a chain each');

    # the second takes over once the first is gone, with its open stops
    $cdm->script({ hold => 'left' });
    $h = $t->start_stop(job => 'left');
    $t->wait_for(sub { grep { ($_->{job_name} // '') eq 'left' }
                       $t->records('token.jsonl') }, what => 'an intent');
    my $pid = delete $t->{pid};
    my @all = ($pid, keys %{ $t->children($pid) });
    kill 'KILL', @all;
    CdmStop::Process::wait_for($pid, 30);
    $t->finish($h);
    $cdm->release('left');
    $cdm->script;

    $t->wait_for(sub { !chain_of($key, 'token.jsonl')->open },
                 what => 'the outcome');
    my ($end) = grep { $_->{closed} } $t->records('token.jsonl');
    is("$end->{job_name} $end->{verdict}", 'left unknown', 'W02 W03 closed');
    $other->stop;

    config($t, $with_key, 'token.jsonl');
    $t->start;
    load($t, 4);
    $chain = is_whole('W03 afterwards', $key, 'token.jsonl');
    is(scalar $chain->ids, 2, 'W03 the chain of the last one goes on');
    $t->stop;
    $other->stop_standins;
    $other->{passed} = 1;
}

$t->done;
