#!/usr/bin/perl

# A worker holds tokens of callers that IAM just called valid, so that the next
# stop of the same caller needs no hash of it. Nothing else is different: what
# is known of a token is looked up for each stop, another token is never taken
# for a held one, and what is held is on pages that no dump has, and soon gone.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256 hmac_sha256_hex);
use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Memory qw(memory pieces);
use CdmStop::Test;
use Time::HiRes qw(time);

# what a worker has places for, and the longest token that it holds
use constant { PLACES => 64, LONGEST => 16384 };

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

my ($first, $second) = map { $t->ledger->key } 1, 2;

$t->write_secret('secrets/audit_key', "$first\n");
$t->audit_key($first, $second);

my %verify_cache = (long => '1h', short => '2s');

my $config = join '', <<'EOC', (map { <<"EOC" } sort keys %verify_cache), "}\n";
%%GLOBALS%%
worker_processes 1;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone       cdm:4m;
    cdm_stop_audit_key  %%TESTDIR%%/secrets/audit_key;
EOC
    cdm_stop_iam $_ {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-$_;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        verify_cache   $verify_cache{$_};
    }
    server {
        listen 127.0.0.1:%%PORT_$_%% backlog=1024;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop                    $_;
            cdm_stop_inject             off;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/$_.jsonl;
            add_header                  X-Principal \$cdm_stop_principal always;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }
EOC

$t->config($config);
$t->start;

my ($worker) = $t->worker_pids;
my $n = 0;

sub caller_token {
    my (%opt) = @_;

    return $iam->add_token(user => 'u' . ++$n, domain => 'acme',
        project => CdmStop::Test::Traffic::PROJECT, size => 2000, %opt);
}

sub start {
    my ($token, %arg) = @_;

    return $t->start_stop(port => $t->port($arg{mode} // 'long'),
        headers => ['X-Auth-Token' => $token]);
}

sub stop { return $t->answer_of(start(@_)) }

sub code {
    my ($r) = @_;

    return eval { $r->json->{error_code} } // $r->{status};
}

sub print_of {
    my ($token, $key) = @_;

    return substr hmac_sha256_hex($token,
        hmac_sha256('cdm_stop fingerprint v1', $key)), 0, 32;
}

# How much of a token is on pages that no dump has: here, none of the gateway's
# is anywhere.

sub held { return (pieces($worker, $_[0]))[1] }

# A token that is certainly held: if the machine stood still for some seconds,
# it was wiped again, and is sent once more.

sub hold {
    my ($token, %arg) = @_;

    return $t->wait_for(sub {
        return stop($token, %arg)->{status} == 200 && held($token);
    }, what => 'a token that is held');
}

sub altered {
    my ($token, $at, $byte) = @_;

    substr($token, $at, 1) = $byte
        // (substr($token, $at, 1) eq 'x' ? 'y' : 'x');

    return $token;
}


subtest 'K08 a token that is not the held one' => sub {
    my $token = caller_token();
    my $principal = "u$n\@acme";

    is(stop($token)->header('X-Principal'), $principal, 'a first stop');
    cmp_ok(hold($token), '>', 0, 'its token is held');

    my $gets = $iam->gets;
    is(stop($token)->header('X-Principal'), $principal, 'a second one');
    is(scalar $iam->gets, $gets, 'nobody is asked');

    for my $at (0, 1, 7, 8, 9, 20, 31, 32, 999, 1000, 1500, 1991, 1992, 1998,
                1999)
    {
        hold($token);
        is(code(stop(altered($token, $at))), 'CDMSTOP.0102',
           "byte $at is another one: refused");
        is(scalar $iam->gets, ++$gets, 'by IAM');
    }

    # of all bytes, so also of those that a mark is not made of
    my @at = map { 17 + 19 * $_ } 0 .. 99;
    hold($token);
    my %n;
    $n{$_ ? code($_) : 'none'}++
        for $t->finish(map { start(altered($token, $_)) } @at);
    is_deeply(\%n, { 'CDMSTOP.0102' => scalar @at }, 'wherever it is');

    hold($token);
    is(code(stop(substr $token, 0, -1)), 'CDMSTOP.0102', 'a shorter one');
    is(code(stop($token . 'x')), 'CDMSTOP.0102', 'a longer one');

    for my $at (0, 1000, 1003, 1999) {
        hold($token);
        is(code(stop(altered($token, $at, $_->[1]))), 'CDMSTOP.0002',
           "$_->[0] in byte $at is not legal")
            for ['a comma', ','], ['a byte above ASCII', "\xe4"],
                ['DEL', "\x7f"];
    }

    is(stop($token)->{status}, 200, 'the held one is still good');
};


subtest 'K06 tokens that differ in a byte, of two callers' => sub {
    my $token = caller_token();
    my $mine = "u$n\@acme";
    my %principal = ($token => $mine);

    for my $at (0, 1003, 1999) {
        my $other = caller_token(value => altered($token, $at));
        $principal{$other} = "u$n\@acme";
    }

    hold($_) for keys %principal;

    for my $round (1 .. 3) {
        is(stop($_)->header('X-Principal'), $principal{$_}, $principal{$_})
            for sort keys %principal;
    }

    my %print = map { print_of($_, $first) => $principal{$_} }
        keys %principal;
    my @records = grep { exists $print{$_->{client_token} // ''} }
        $t->new_records('long.jsonl');
    cmp_ok(scalar @records, '>=', 2 * 4 * 4, 'records');
    is(scalar(grep { $_->{principal} ne $print{$_->{client_token}} } @records),
       0, 'each has the fingerprint of its caller');

    # what one identity knows another does not use
    hold($token);
    my $gets = $iam->gets;
    is(stop($token, mode => 'short')->header('X-Principal'), $mine,
       'another identity');
    is(scalar $iam->gets, $gets + 1, 'asks for itself');
};


subtest 'K11 a held token that is revoked' => sub {
    my $token = caller_token();

    hold($token, mode => 'short');

    my $since = time;
    $iam->revoke($token);

    my $last = $since;
    $t->wait_for(sub {
        my $begun = time;
        my $r = stop($token, mode => 'short');
        $last = $begun if $r->{status} == 200;
        return code($r) eq 'CDMSTOP.0102';
    }, what => 'the end of a revoked token');
    cmp_ok($last - $since, '<', 2.1, 'refused within verify_cache');

    # who is refused does not keep it there
    ok($t->wait_for(sub {
        return code(stop($token, mode => 'short')) eq 'CDMSTOP.0102'
            && !held($token);
    }, quiet => 1), 'and is not held any more, however often it is sent');

    # CDM refuses the caller's own token: what was known does not hold
    $token = caller_token();
    hold($token);
    $iam->revoke($token);
    my $gets = $iam->gets;
    is(stop($token)->{status}, 200, 'IAM is not asked for an hour');

    $cdm->script({ answer => 'apig_0307', times => 1 });
    is(stop($token)->{status}, 401, 'until CDM refuses it');
    is(scalar $iam->gets, $gets, 'by what was known');
    is(code(stop($token)), 'CDMSTOP.0102', 'then at once');
    is(scalar $iam->gets, $gets + 1, 'by what IAM says');
};


subtest 'K10 who gets a place' => sub {
    my $bad = $t->ledger->token(2000);
    for (1 .. 3) {
        is(code(stop($bad)), 'CDMSTOP.0102', 'a token that is none');
        is(held($bad), 0, 'is not held');
    }

    my $foreign = caller_token(project => 'f' x 32);
    is(code(stop($foreign)), 'CDMSTOP.0202', 'one of another project');
    is(held($foreign), 0, 'is not held');

    my $long = caller_token(size => LONGEST);
    cmp_ok(hold($long), '>', 0, 'the longest one is held');

    my $longer = caller_token(size => LONGEST + 1);
    is(stop($longer)->{status}, 200, 'a longer one is good');
    is(stop($longer)->{status}, 200, 'each time');
    is(held($longer), 0, 'but not held');

    for my $size (7, 8, 9, 32, 63, 64, 65) {
        my $short = $iam->add_token(user => "s$size", domain => 'acme',
            project => CdmStop::Test::Traffic::PROJECT, size => $size);
        is(stop($short)->header('X-Principal'), "s$size\@acme",
           "one of $size bytes") for 1 .. 2;
    }

    # more callers than places
    my %token = map { $_ => caller_token(user => "many$_", size => 600) }
        1 .. 2 * PLACES;
    my ($most, %seen) = (0);

    for my $round (1 .. 3) {
        my @who = sort keys %token;
        my @r = $t->finish(map { start($token{$_}) } @who);
        $seen{$r[$_] && ($r[$_]->header('X-Principal') // '')
              eq "many$who[$_]\@acme" ? 'own' : 'other'}++ for 0 .. $#who;

        my @pages = map { $_->[0] } grep { $_->[1] } memory($worker);
        my $held = grep { my $token = $_; grep { index($_, $token) >= 0 }
            @pages } values %token;
        $most = $held if $held > $most;
    }

    is_deeply(\%seen, { own => 3 * 2 * PLACES }, 'each as who it is');
    cmp_ok($most, '>', 0, "of more callers than places $most are held");
    cmp_ok($most, '<=', PLACES, 'and no more than that');
};


subtest 'L05 gone when it is not used' => sub {
    my $token = caller_token();

    hold($token);
    ok($t->wait_for(sub { !held($token) }, quiet => 1), 'wiped');
    is(stop($token)->{status}, 200, 'and good as before');
};


subtest 'K05 a reload with another key' => sub {
    my $token = caller_token();
    my $old = $worker;

    hold($token);
    my $gets = $iam->gets;
    $t->new_records('long.jsonl');

    # an answer that does not come keeps the old worker
    $cdm->script({ when => { job => 'slow' }, hold => 'slow', times => 1 });
    my $slow = $t->start_stop(job => 'slow', port => $t->port('long'),
        headers => ['X-Auth-Token' => $token]);
    $t->wait_for(sub { grep { $_->{target} =~ m{/slow/stop} } $cdm->stops },
        what => 'a slow stop');

    $t->write_secret('secrets/audit_key', "$second\n");
    $t->reload(keep_old => 1);
    ($worker) = $t->worker_pids;
    isnt($worker, $old, 'a new worker');

    ok($t->wait_for(sub { !(pieces($old, $token))[1] }, quiet => 1),
       'a worker that is about to end holds it no longer than others');

    hold($token);
    $t->new_records('long.jsonl');
    is(stop($token)->{status}, 200, 'one more stop') for 1 .. 2;
    is($_->{client_token}, print_of($token, $second), 'by the new key')
        for $t->new_records('long.jsonl');
    is(scalar $iam->gets, $gets + 1, 'by which a token is found: one question');

    $cdm->release('slow');
    is($t->answer_of($slow)->{status}, 200, 'the slow one');
};

$t->done;
