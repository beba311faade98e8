#!/usr/bin/perl

# What IAM said of callers' tokens is kept: how long, how often IAM is asked,
# and what happens while it cannot be.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;
use Time::HiRes qw(time);

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my %cache = (short => '2s', long => '60s', asked => '2s');
my %user = (short => 'somebody-else', long => 'cdm-gateway',
            asked => 'cdm-gateway');

my $iams = join '', map { <<"EOC" } sort keys %cache;
    cdm_stop_iam $_ {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           $user{$_};
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        timeout        3s;
        verify_cache   $cache{$_};
    }

    server {
        listen 127.0.0.1:%%PORT_$_%% backlog=4096;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop                   $_;
            cdm_stop_inject            off;
            cdm_stop_audit             %%TESTDIR%%/$_.jsonl;
            cdm_stop_insecure_upstream on;
            proxy_pass                 http://127.0.0.1:%%CDM_PORT%%;
        }
    }
EOC

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 4;
events { worker_connections 2048; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
$iams
    server {
        listen 127.0.0.1:%%PORT_hasty%%;
        location /v1.1/ {
            cdm_stop                   long;
            cdm_stop_wait              700ms;
            cdm_stop_audit             %%TESTDIR%%/hasty.jsonl;
            cdm_stop_insecure_upstream on;
            proxy_pass                 http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;

my $n = 0;

sub token {
    my (%opt) = @_;

    return $iam->add_token(user => 'u' . ++$n, domain => 'acme', size => 400,
        project => CdmStop::Test::Traffic::PROJECT, %opt);
}

sub start {
    my ($mode, $token, %arg) = @_;

    return $t->start_stop(port => $t->port($mode),
        headers => ['X-Auth-Token' => $token], %arg);
}

# Statuses of stops with these tokens, all at once.

sub statuses {
    my ($mode, @tokens) = @_;

    my %n;
    $n{$_ ? $_->{status} : 'none'}++
        for $t->finish(map { start($mode, $_) } @tokens);

    return \%n;
}

sub stop {
    my ($mode, $token, %arg) = @_;

    return $t->finish(start($mode, $token, %arg));
}

sub code {
    my ($r) = @_;

    return eval { $r->json->{error_code} } // $r->{status};
}


subtest 'one call for all' => sub {
    my $gets = $iam->gets;
    $iam->script({ when => { method => 'GET' }, hold => 'all' });
    my $token = token();
    my @h = map { start('long', $token) } 1 .. 500;

    $t->wait_for(sub { $iam->gets > $gets }, what => 'the question to IAM');
    $iam->release('all');
    my @r = $t->finish(@h);

    is(scalar(grep { $_ && $_->{status} == 200 } @r), 500,
        'K11 500 stops of one caller over 4 workers');
    is(scalar($iam->gets), $gets + 1, 'K11 one call of IAM');
    $iam->script;

    $gets = $iam->gets;
    my $bad = $t->ledger->token(500);
    is_deeply(statuses('long', ($bad) x 100), { 401 => 100 },
        'K11 100 stops with a bad token');
    is(scalar($iam->gets), $gets + 1, 'K11 one call as well');
};


subtest 'revoked' => sub {
    my $token = token();
    is(stop('short', $token)->{status}, 200, 'K11 a good token');

    my $gets = $iam->gets;
    my $since = time;
    $iam->revoke($token);

    # no stop is let through later than that, by any worker
    my ($last, %seen) = (0);
    $t->wait_for(sub {
        my $begun = time;
        my $n = statuses('short', ($token) x 8);
        $seen{$_} += $n->{$_} for keys %$n;
        $last = $begun if $n->{200};
        $n->{401} && $n->{401} == 8;
    }, what => 'the end of a revoked token');

    cmp_ok($last - $since, '<', 2.1, 'K11 refused within verify_cache');
    is(join(' ', sort keys %seen), '200 401', 'K11 good or refused, no more');
    is(scalar($iam->gets), $gets + 1, 'K11 one more call');
    is(code(stop('short', $token)), 'CDMSTOP.0102', 'K11 .0102');

    # what one identity knows another does not use
    is(code(stop('long', $token)), 'CDMSTOP.0102', 'K06 another identity');
    is(scalar($iam->gets), $gets + 2, 'K06 asks for itself');
};


# a token that may not be asked about by itself is not tried so again

subtest 'asked about by the gateway' => sub {
    my @own = (project => 'c' x 32);
    my $token = token(@own);
    my $gets = $iam->gets;

    $iam->script({ when => { method => 'GET',
        header => { 'X-Auth-Token' => $token } }, answer => 'no_right' });

    is(stop('asked', $token, @own)->{status}, 200, 'I08 a good token');
    is(scalar($iam->gets), $gets + 2, 'I08 asked about in both ways');

    $t->wait_for(sub {
        stop('asked', $token, @own);
        $iam->gets > $gets + 2;
    }, what => 'the end of verify_cache');
    is(scalar($iam->gets), $gets + 3, 'I08 then by the gateway alone');
    $iam->script;
};


subtest 'the end by the clock of IAM' => sub {
    for my $skew (3600, -3600) {
        $iam->set(skew => $skew);
        my $since = time;
        my $token = token(life => 5);
        is(stop('long', $token)->{status}, 200, "M02 $skew s: a good token");

        my $last = $since;
        $t->wait_for(sub {
            my $begun = time;
            my $r = stop('long', $token);
            $last = $begun if $r->{status} == 200;
            $r->{status} == 401;
        }, what => 'the end of a token');
        cmp_ok($last - $since, '<', 5, "M02 $skew s: not trusted beyond it");
        cmp_ok($last - $since, '>', 0.1, "M02 $skew s: but until then");
    }

    $iam->set(skew => 0);

    # one that ended before it was asked about
    my $gets = $iam->gets;
    $iam->script({ when => { method => 'GET' },
        token => { expires_at => '2026-01-01T00:00:00.000000Z' } });
    my $token = token();
    is(code(stop('long', $token)), 'CDMSTOP.0102', 'I09 past its end');
    is(code(stop('long', $token)), 'CDMSTOP.0102', 'I09 again');
    is(scalar($iam->gets), $gets + 1, 'I09 one call');
    $iam->script;
};


subtest 'calls in flight' => sub {
    my $gets = $iam->gets;
    my @good = map { token() } 1 .. 60;
    my %bad = map { $t->ledger->token(300, register => 0) => 1 } 1 .. 40;

    $iam->script({ when => { method => 'GET' }, hold => 'some' });
    my @h = map { start('long', $_) } @good, keys %bad;

    $t->wait_for(sub { $iam->gets >= $gets + 32 }, what => '32 calls');

    # all others are waiting by now, or a call more would have come
    push @h, start('short', token());
    $t->wait_for(sub { $iam->gets >= $gets + 33 }, what => 'the other one');
    is(scalar($iam->gets), $gets + 33,
        'K10 32 calls at one time for one identity, and one of another');

    $iam->release('some');
    $iam->script;
    my %n;
    $n{$_ ? $_->{status} : 'none'}++ for $t->finish(@h);
    is_deeply(\%n, { 200 => 61, 401 => 40 }, 'K10 all have their own answer');
    is(scalar($iam->gets), $gets + 101, 'K10 one call for each');
};


subtest 'IAM is silent' => sub {
    my $known = token();
    is(stop('long', $known)->{status}, 200, 'I08 a token that is known');

    $iam->script({ when => { method => 'GET' }, hang => 1 });
    my $token = token();
    my $since = time;
    my $r = stop('long', $token);
    is($r->{status}, 503, 'I08 silence: 503');
    is(code($r), 'CDMSTOP.0302', 'I08 .0302');
    like($r->header('Retry-After'), qr/\A[1-9]\d*\z/, 'I08 Retry-After');
    cmp_ok(time - $since, '>', 2.5, 'I08 after the timeout of the identity');
    is(stop('long', $known)->{status}, 200, 'I08 what is known holds on');

    $iam->script({ when => { method => 'GET' }, reset => 'after_request' });
    is(code(stop('long', token())), 'CDMSTOP.0302', 'I08 a reset: .0302');

    # many tokens make few calls then
    stop('long', token());
    my $before = $iam->gets;
    $since = time;
    my $n = statuses('long', map { token() } 1 .. 300);
    my $calls = $iam->gets - $before;
    is_deeply($n, { 503 => 300 }, 'I08 nobody is let through');
    cmp_ok($calls, '<=', 2 + (time - $since) * 1.5,
        'I08 one call a second for all of them');

    # an answer opens it again for all
    $iam->script;
    $t->wait_for(sub { stop('long', $token)->{status} == 200 },
        what => 'a verification');
    is(stop('long', token())->{status}, 200, 'I08 IAM is back');

    # one that is a mistake of one token does not close it
    my @odd = map { token() } 1 .. 8;
    $iam->script(map { {
        when => { method => 'GET', header => { 'X-Auth-Token' => $_ } },
        answer => 'server_error',
    } } @odd);
    is_deeply(statuses('long', @odd), { 503 => 8 }, 'I08 errors of 8 tokens');
    is(stop('long', token())->{status}, 200, 'I08 are theirs alone');

    # it rests for a second, then for two, each with 20% by chance
    my $again;
    $t->wait_for(sub {
        $again = stop('long', $odd[0]);
        1 < grep { $_->header('X-Auth-Token') eq $odd[0] } $iam->gets;
    }, what => 'a second question about it');
    like($again->header('Retry-After'), qr/\A[23]\z/,
        'I08 its rest doubles with each failure');
    $iam->script;
};


subtest 'throttled' => sub {
    $iam->script({ when => { method => 'GET' }, times => 1,
        answer => 'throttled', headers => ['Retry-After' => '4'] });
    my $r = stop('long', token());
    is(code($r), 'CDMSTOP.0302', 'I08 429: .0302');
    is($r->header('Retry-After'), 4, 'I08 with what IAM says');

    my $gets = $iam->gets;
    $r = stop('long', token());
    is(code($r), 'CDMSTOP.0302', 'I08 no other token meanwhile');
    is(scalar($iam->gets), $gets, 'I08 IAM is left alone');

    my $token = token();
    $t->wait_for(sub { stop('long', $token)->{status} == 200 },
        what => 'the end of the rest');
    $iam->script;
};


subtest 'the client leaves' => sub {
    my $gets = $iam->gets;
    my $token = token();
    $iam->script({ when => { method => 'GET' }, hold => 'left' });
    my $h = start('long', $token);
    $t->wait_for(sub { $iam->gets > $gets }, what => 'the question to IAM');
    $h->reset;
    my $other = start('long', $token);
    $iam->release('left');
    is($t->finish($other)->{status}, 200, 'K11 another one gets the answer');
    is(scalar($iam->gets), $gets + 1, 'K11 of the same call');
    $iam->script;
};

# A worker that asks IAM dies with a question open; how those end who waited.

sub death_of_the_one_who_asks {
    my $gets = $iam->gets;
    my $token = token();

    $iam->script({ when => { method => 'GET' }, times => 1, hang => 1 });
    my @h = map { start('long', $token) } 1 .. 24;

    my $pid = $t->wait_for(sub {
        $iam->gets > $gets && $t->worker_connected_to($t->port('IAM'))
    }, what => 'the worker that asks');
    my $since = time;
    $t->kill_worker($pid);

    my %n;
    $n{$_ ? $_->{status} : 'lost'}++ for $t->finish(@h);
    my $took = time - $since;
    $iam->script;
    $t->wait_for(sub { $t->worker_pids == 4 }, what => 'four workers');

    return ($took, %n);
}

subtest 'who asks IAM dies' => sub {
    my ($gets, $took, %n);

    # it may have had all of them, who are lost with it then
    for (1 .. 20) {
        $gets = $iam->gets;
        ($took, %n) = death_of_the_one_who_asks();
        last if grep { $_ ne 'lost' } keys %n;
    }

    is(join(' ', sort grep { $_ ne 'lost' } keys %n), 200,
        'K09 another worker asks, for all who wait');
    cmp_ok($took, '<', 3, 'K09 and not only when the lease is over');
    is(scalar($iam->gets), $gets + 2, 'K09 by one more call');
};


subtest 'reload' => sub {
    my $token = token();
    my $bad = $t->ledger->token(300);
    stop('long', $_) for $token, $bad;
    my $gets = $iam->gets;
    $t->reload;
    is(stop('long', $token)->{status}, 200, 'K05 a reload: known still');
    is(code(stop('long', $bad)), 'CDMSTOP.0102', 'K05 a bad one, too');
    is(scalar($iam->gets), $gets, 'K05 without a call');
};


subtest 'patience' => sub {
    my $token = token();
    $iam->script({ when => { method => 'GET' }, hold => 'slow' });
    my $since = time;
    my $r = $t->finish(start('hasty', $token));
    is(code($r), 'CDMSTOP.0302', 'I08 slow for cdm_stop_wait: .0302');
    cmp_ok(time - $since, '>', 0.6, 'I08 not before');
    my ($record) = $t->records('hasty.jsonl');
    cmp_ok($record->{status}, '==', 503, 'I08 recorded');
    $iam->release('slow');
    $iam->script({ when => { method => 'GET' }, delay => 0.5 },
        { when => { method => 'POST' }, delay => 0.5 });

    # one budget for both: the rest is too short for the gateway's token
    $r = $t->finish(start('hasty', token()));
    like(code($r), qr/\ACDMSTOP\.030[12]\z/, 'I08 both slow: no more than it');
    $iam->script;
    $t->wait_for(sub { $t->finish(start('hasty', $token))->{status} == 200 },
        what => 'a stop in time');
};

$t->expect_log(qr/\[error\].*IAM did not verify a caller's token: no answer/);
$t->done;
