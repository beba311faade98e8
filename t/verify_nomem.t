#!/usr/bin/perl

# Without memory for the question to IAM the caller's token is wiped from where
# it was copied to for that, and the next caller is verified as ever.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Fault;
use CdmStop::Test;

no warnings 'portable';

my $SIZE = 20_000;

my $t = CdmStop::Test->new;

# a sanitizer has a malloc() of its own, and keeps what is freed: this is about
# the one that users have

if ($t->{asan}) {
    $t->{passed} = 1;
    $t = CdmStop::Test->new(binary => '/usr/sbin/nginx',
        module => "$FindBin::Bin/../build/dynamic/"
                  . 'ngx_http_cdm_stop_module.so');
}

my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 4 24k;
    cdm_stop_zone cdm:2m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop                    huawei;
    cdm_stop_verify             required;
    cdm_stop_inject             off;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

my $fault = CdmStop::Fault->new($t);
$fault->run(sub { $t->start });

sub stop {
    my ($token) = @_;

    return $t->put_stop(job => 'etl', headers => [['X-Auth-Token', $token]]);
}

sub token {
    return $iam->add_token(user => 'u' . shift, domain => 'acme',
        size => $SIZE, project => CdmStop::Test::Traffic::PROJECT);
}

# How often the token is in the memory of the worker: as a header that the
# client sent, with the end of a line behind it, and otherwise.

sub copies {
    my ($token) = @_;

    my ($worker) = $t->worker_pids;
    my $middle = substr $token, $SIZE / 2, 64;
    my ($sent, $other) = (0, 0);

    open my $maps, '<', "/proc/$worker/maps" or die "maps: $!\n";
    open my $mem, '<:raw', "/proc/$worker/mem" or die "memory: $!\n";

    for (<$maps>) {
        my ($from, $to) = /\A([0-9a-f]+)-([0-9a-f]+) rw/ or next;
        $_ = hex for $from, $to;
        next if $to - $from > 64 * 1024 * 1024;

        sysseek $mem, $from, 0 or next;
        sysread $mem, my $text, $to - $from or next;

        while ($text =~ /\Q$middle\E/g) {
            # of what is freed the allocator overwrites the beginning only
            if (substr($text, $-[0] + $SIZE / 2, 2) =~ /[\r\0]\n/) {
                $sent++;
            } else {
                $other++;
            }
        }
    }

    return ($sent, $other);
}

my $token = token(1);

$fault->put('nomem', 3 * $SIZE);
my $answer = stop($token);
my ($sent, $other) = copies($token);

ok($fault->fired, 'L05 memory for the question is not to be had');
is($answer->{status}, 503, 'L05 the stop is refused');
is($answer->json->{error_code}, 'CDMSTOP.0302', 'L05 it cannot be verified');
is($iam->gets, 0, 'L05 IAM is not asked');
cmp_ok($sent, '>', 0, 'L05 the header of the client is found in memory');
is($other, 0, 'L05 and no copy that was made of it');

is(stop(token(2))->{status}, 200, 'L05 the next caller is verified');

$t->expect_log(qr/\[emerg\] .* malloc\(\d+\) failed/);
$t->allow_log(qr/IAM did not verify a caller's token/);
$t->done;
