#!/usr/bin/perl

# What a core dump of nginx would hold: the pages of its processes but those
# that are excluded from dumps.  No token is on them once the stops are done,
# and an old password is nowhere after a reload.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

no warnings 'portable';

use constant PIECE => 24;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    upstream cdm {
        server 127.0.0.1:%%CDM_PORT%%;
        keepalive 8;
    }

    server {
        listen 127.0.0.1:%%PORT%% reuseport;
        location /v1.1/ {
            cdm_stop            huawei;
            cdm_stop_audit      %%TESTDIR%%/audit.jsonl;
            proxy_http_version  1.1;
            proxy_set_header    Connection "";
            proxy_pass          http://cdm;
        }
    }
}
EOC

# the loader tells what it binds in each process

{
    local $ENV{LD_DEBUG} = 'bindings';
    local $ENV{LD_DEBUG_OUTPUT} = $t->path('bindings');
    $t->start;
}

# The memory of a process as [bytes, excluded from dumps].

sub memory {
    my ($pid) = @_;

    open my $maps, '<', "/proc/$pid/smaps" or die "smaps of $pid: $!\n";
    open my $mem, '<:raw', "/proc/$pid/mem" or die "memory of $pid: $!\n";

    my ($range, @pages);

    while (<$maps>) {
        $range = [hex $1, hex $2, $3]
            if /\A([0-9a-f]+)-([0-9a-f]+) (r|-)\S{3} /;

        next if !/\AVmFlags:(.*)/ || $range->[2] ne 'r';

        my $excluded = $1 =~ / dd\b/;
        my ($from, $length) = ($range->[0], $range->[1] - $range->[0]);

        # the map of AddressSanitizer, which holds no data; a device's page
        next if $excluded && $length > 2**32;
        next if $from >= 2**47 || !sysseek $mem, $from, 0;

        my $bytes = '';
        while ($length > 0) {
            my $n = sysread $mem, my $piece, $length > 2**20 ? 2**20 : $length;
            last if !$n;
            $bytes .= $piece if $piece =~ /[^\0]/;
            $length -= $n;
        }

        push @pages, [$bytes, $excluded];
    }

    return @pages;
}

# How many pieces of a secret are in dumps of a process, and beside them.

sub pieces {
    my ($pid, $secret) = @_;

    my ($dumped, $excluded) = (0, 0);
    my @pieces = unpack '(a' . PIECE . ')*', $secret;
    pop @pieces if @pieces > 1 && length $pieces[-1] < PIECE;

    for my $page (memory($pid)) {
        my $n = grep { index($page->[0], $_) >= 0 } @pieces;
        $page->[1] ? ($excluded += $n) : ($dumped += $n);
    }

    return ($dumped, $excluded);
}

sub all_pids { return ($t->master_pid, $t->worker_pids) }

my $password = $t->{password};

is($t->put_stop(job => "j$_")->{status}, 200, "stop $_") for 1 .. 100;

my @tokens = $iam->tokens;
is(scalar @tokens, 1, 'one token');
my $token = $tokens[0]{token};
cmp_ok(length $token, '>', 1000, 'of some length');

subtest 'L05 a core dump of an idle worker and of the master' => sub {
    for my $pid (all_pids()) {
        my ($dumped, $excluded) = pieces($pid, $token);
        is($dumped, 0, "the token is in no dump of $pid");
        cmp_ok($excluded, '>=', int(length($token) / PIECE),
               'and whole in the zone, whose pages are excluded');

        # the reader does find what is there
        ($dumped) = pieces($pid, 'cdm_stop_insecure_upstream');
        cmp_ok($dumped, '>', 0, 'other words are in the dump');
    }
};

subtest 'L05 the loader binds nothing of jansson where tokens are' => sub {
    my @bound = map { split /\n/, $t->read($_) } glob $t->path('bindings.*');

    cmp_ok(scalar @bound, '>', 100, 'the loader told what it bound');

    for my $pid ($t->worker_pids) {
        my @late = grep { m{\A\s*$pid:\s.*\sfile \S*/libjansson} } @bound;
        is_deeply(\@late, [], "in worker $pid nothing");
    }
};

subtest 'L05 a token of another project, and one that CDM refused' => sub {
    $cdm->script({ answer => 'apig_0307', times => 1 });
    is($t->put_stop(job => 'again')->{status}, 200, 'sent with a new token');
    is($t->put_stop(project => '9' x 32)->{status}, 200, 'another project');

    for my $secret (map { $_->{token} } $iam->tokens) {
        my $dumped = 0;
        $dumped += (pieces($_, $secret))[0] for all_pids();
        is($dumped, 0, 'is in no dump');
    }

    # a worker holds a token for two seconds after it was used
    ok($t->wait_for(sub {
        my $kept = 0;
        $kept += (pieces($_, $token))[1] for all_pids();
        return $kept == 0;
    }, quiet => 1), 'the refused one is not even in the zone, nor elsewhere');
};

subtest 'L05 a reload with a new password' => sub {
    for my $pid (all_pids()) {
        my ($dumped, $excluded) = pieces($pid, $password);
        cmp_ok($dumped + $excluded, '>', 0, "the password is in use by $pid");
    }

    my $new = $t->{ledger}->password;
    $t->write_secret('secrets/password', $new);
    $iam->set(users => { acme => { 'cdm-gateway' => $new } });
    $t->reload;

    for my $pid (all_pids()) {
        my ($dumped, $excluded) = pieces($pid, $password);
        is($dumped + $excluded, 0, "the old one is nowhere in $pid");
        ($dumped, $excluded) = pieces($pid, $new);
        cmp_ok($dumped + $excluded, '>', 0, 'the new one is in use');
    }

    is($t->put_stop(project => '8' x 32)->{status}, 200, 'and is good');
};

$t->done;
