#!/usr/bin/perl

# A flood of tokens that are none: bounded memory, bounded calls of IAM, the
# gateway's token and the callers' verifications stay. TEST_NGINX_FLOOD is the
# number of tokens; 100,000 take some minutes.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use List::Util qw(min);

use CdmStop::Metrics;
use CdmStop::Test;

my $TOKENS = $ENV{TEST_NGINX_FLOOD} || 10_000;
my $AT_ONCE = 200;

# AddressSanitizer keeps what is freed: less of it, so that it is full soon

local $ENV{ASAN_OPTIONS} = join ':', $ENV{ASAN_OPTIONS} // (),
    'quarantine_size_mb=1', 'thread_local_quarantine_size_kb=64';

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam(life => 86400);
my $cdm = $t->cdm;

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 2048; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:256k;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        verify_cache   1h;
    }
    log_format who '$cdm_stop_verify_status $cdm_stop_token_status';
    access_log off;

    server {
        listen 127.0.0.1:%%PORT%% backlog=4096;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop                   huawei;
            cdm_stop_audit             off;
            cdm_stop_insecure_upstream on;
            access_log                 %%TESTDIR%%/access.log who
                                       if=$http_x_valid;
            proxy_pass                 http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status { cdm_stop_status; }
    }
}
EOC

$t->start;

my @valid = map {
    $iam->add_token(user => "u$_", domain => 'acme', size => 600,
        project => CdmStop::Test::Traffic::PROJECT)
} 1 .. 5;

sub valid {
    my ($token) = @_;

    return $t->start_stop(headers => ['X-Auth-Token' => $token,
        'X-Valid' => 1]);
}

# The memory of all workers, in KB: what is theirs and the zone.

sub memory {
    my $sum = 0;

    for my $pid ($t->worker_pids) {
        $sum += $1 if (CdmStop::Test::Nginx::slurp("/proc/$pid/status") // "")
            =~ /^VmRSS:\s+(\d+)/m;
    }

    return $sum;
}

is($_->{status}, 200, 'K10 valid callers at first')
    for $t->finish(map { valid($_) } @valid);
is(scalar($iam->posts), 1, 'K10 one token of the gateway');

my ($sent, @fifth, @end, %n, %valid) = (0);

sub random_tokens {
    my ($count) = @_;

    return map {
        $sent++;
        $t->start_stop(headers => ['X-Auth-Token' =>
            sprintf('%08x%s', $sent, 'r' x (20 + $sent % 97 * 3))])
    } 1 .. $count;
}

# Which worker takes how many of a batch is chance: each takes more than a
# batch alone first, so that none reaches its peak only later. And what is in
# use at a moment goes up and down by some hundred KB: so the least of some
# batches around a fifth is compared with the least of the last ones, which a
# leak would raise.

my @workers = $t->worker_pids;

for my $pid (@workers) {
    my @others = grep { $_ != $pid } @workers;

    kill STOP => @others;
    $n{$_ ? $_->{status} : 'none'}++
        for $t->finish(random_tokens(2 * $AT_ONCE));
    kill CONT => @others;
}

while ($sent < $TOKENS) {
    my @h = random_tokens($AT_ONCE);
    my @own = map { valid($_) } @valid;

    $n{$_ ? $_->{status} : 'none'}++ for $t->finish(@h);
    $valid{$_ ? $_->{status} : 'none'}++ for $t->finish(@own);
    @{$t->{answers}} = ();

    my $part = $sent / $TOKENS;
    push @{$part < 0.5 ? \@fifth : \@end}, memory()
        if $part >= 0.1 && $part <= 0.3 || $part >= 0.8;
}

my ($fifth, $end) = map { min(@$_) } \@fifth, \@end;

is_deeply(\%n, { 401 => $TOKENS }, "K10 $TOKENS random tokens: refused");
is(join(' ', keys %valid), 200, 'K10 valid callers are served throughout');


# A worker's heap keeps to one size for tens of thousands of tokens, which is
# chance for the allocator within 1.5 MB, and may take that step at any time:
# 1.02 is for a hundred thousand of them. A request that each of ten thousand
# would leave behind is ten times as much in either case.

my $most = $fifth * 1.02;
$most += 1536 * @workers if $TOKENS < 100_000 || $t->{asan};

cmp_ok($end, '<=', $most,
    "K10 memory does not grow: $fifth KB at a fifth, $end KB at the end");

my %calls;
$calls{$_->header('X-Subject-Token')}++ for $iam->gets;
is(scalar(grep { $_ > 1 } values %calls), 0, 'K10 no token is asked about '
    . 'twice, the valid ones neither');
is(scalar($iam->posts), 1, "K10 the gateway's token is untouched");

my $metrics = CdmStop::Metrics->new($t);
my $m = $metrics->text;

cmp_ok($m->{cdm_stop_verification_cache_evictions_total}, '>', 0,
    'K10 what was forgotten for lack of room is counted');
is($m->{'cdm_stop_verification_cache_entries{state="valid"}'}, scalar @valid,
    'K10 the valid ones are remembered');
cmp_ok($m->{cdm_stop_verification_cache_bytes}, '<=',
    $m->{cdm_stop_verification_cache_limit_bytes}, 'K10 within the bound');
is($m->{'cdm_stop_verifications_total{status="refused"}'}, $TOKENS,
    'K10 each refused one is counted');
is($m->{'cdm_stop_errors_total{code="CDMSTOP.0102"}'}, $TOKENS,
    'K10 by its code as well');
is($m->{'cdm_stop_iam_requests_total{identity="huawei",purpose="verify",'
    . 'result="refused"}'}, $TOKENS, 'K10 and so is each question of IAM');
$t->wait_for(sub { $metrics->text->{cdm_stop_waiting_requests} == 0 },
    what => 'K10 nothing to wait, which is told once a second');

my @lines = split /\n/, $t->read('access.log');
my @later = grep { $_ ne 'HIT HIT' } @lines[@valid .. $#lines];
is(scalar @later, 0, 'K10 valid callers never wait again');

$t->done;
