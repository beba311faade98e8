#!/usr/bin/perl

# Tokens that a worker holds, and their fingerprints in the zone: stops that
# are on their way keep the token that they began with, whatever was renewed
# meanwhile, and another key for the audit gives other fingerprints at once.

use strict;
use warnings;

use Digest::SHA qw(hmac_sha256 hmac_sha256_hex);
use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam(token_size => 5000), $t->cdm);

my ($first, $second) = map { $t->ledger->key } 1, 2;

$t->write_secret('secrets/audit_key', "$first\n");

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone       cdm:1m;
    cdm_stop_audit_key  %%TESTDIR%%/secrets/audit_key;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop                    huawei;
            cdm_stop_verify             off;
            cdm_stop_anonymous          on;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->audit_key($first, $second);
$t->start;

sub print_of {
    my ($token, $key) = @_;

    return substr hmac_sha256_hex($token,
        hmac_sha256('cdm_stop fingerprint v1', $key)), 0, 32;
}

# What CDM read of the stop of a job, the last one if it was repeated.

sub token_at_cdm {
    my ($job) = @_;

    my @stops = grep { $_->{target} =~ m{/$job/stop} } $cdm->stops;
    return @stops ? $stops[-1]->header('X-Auth-Token') : undef;
}

subtest 'L06 fingerprints are those of the key that is in force' => sub {
    for my $n (1 .. 3) {
        is($t->put_stop(job => "first$n")->{status}, 200, "stop $n");
    }

    my @prints = map { $_->{injected_token} } $t->new_records('audit.jsonl');
    is(scalar @prints, 6, 'six records');
    my $print = print_of($iam->last_token, $first);
    is($_, $print, 'the fingerprint of the token') for @prints;

    $t->write_secret('secrets/audit_key', "$second\n");
    $t->reload;

    is($t->put_stop(job => "second$_")->{status}, 200, "stop $_") for 1 .. 2;

    is(scalar($iam->posts), 1, 'the token is the same');
    $print = print_of($iam->last_token, $second);
    is($_->{injected_token}, $print, 'by the other key')
        for $t->new_records('audit.jsonl');
};

subtest 'D05 what is on its way keeps its token' => sub {
    my (%token, %on_its_way);

    # more tokens at a time than a worker has places for one project
    for my $n (1 .. 4) {
        $cdm->script({ when => { job => "slow$n" }, hold => "slow$n" },
                     { when => { job => "renew$n" }, answer => 'apig_0307',
                       times => 1 });

        $on_its_way{$n} = $t->start_stop(job => "slow$n");
        $t->wait_for(sub { defined token_at_cdm("slow$n") }, what => "slow$n");

        $token{$n} = $iam->last_token;
        is(token_at_cdm("slow$n"), $token{$n}, "slow stop $n has token $n");

        is($t->put_stop(job => "renew$n")->{status}, 200, 'CDM refuses it');
        isnt($iam->last_token, $token{$n}, 'so there is another one');
        is(token_at_cdm("renew$n"), $iam->last_token, 'which is sent');

        for my $again (1 .. 2) {
            is($t->put_stop(job => "next$n-$again")->{status}, 200, 'next');
            is(token_at_cdm("next$n-$again"), $iam->last_token,
               'the last one at once');
        }
    }

    my $of = sub { print_of($_[0], $second) };

    for my $n (1 .. 4) {
        $cdm->release("slow$n");
        is($t->answer_of($on_its_way{$n})->{status}, 200, "slow stop $n");
    }

    my %outcome = map { $_->{job_name} => $_ }
        grep { $_->{stage} eq 'outcome' } $t->new_records('audit.jsonl');

    is($outcome{"slow$_"}{injected_token}, $of->($token{$_}),
       "its outcome tells of token $_") for 1 .. 4;
};

$t->done;
