#!/usr/bin/perl

# What a core dump of nginx would hold: the pages of its processes but those
# that are excluded from dumps.  No token is on them once the stops are done,
# and an old password is nowhere after a reload.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Memory qw(PIECE pieces);
use CdmStop::Test;

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
