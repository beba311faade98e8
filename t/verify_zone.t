#!/usr/bin/perl

# A zone that is full: tokens of the gateway take the room of what is known of
# callers, and never the other way round.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam(token_size => 31_000);
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
    log_format who '$cdm_stop_request_id $cdm_stop_token_status';

    server {
        listen 127.0.0.1:%%PORT%% backlog=4096;
        location /v1.1/ {
            cdm_stop                   huawei;
            cdm_stop_verify            optional;
            cdm_stop_anonymous         on;
            cdm_stop_audit             off;
            cdm_stop_insecure_upstream on;
            access_log                 %%TESTDIR%%/access.log who;
            proxy_pass                 http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    # the caller's own token goes up, so the zone holds none of the gateway's
    server {
        listen 127.0.0.1:%%PORT_own%% backlog=4096;
        location /v1.1/ {
            cdm_stop                   huawei;
            cdm_stop_inject            off;
            cdm_stop_audit             off;
            cdm_stop_insecure_upstream on;
            proxy_pass                 http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;

my $n = 0;

# Callers of IAM with facts of all sizes, each with a stop; how many succeed.

sub callers {
    my ($count) = @_;

    my @tokens = map {
        $n++;
        $iam->add_token(user => "u$n", domain => 'acme', size => 60 + $n % 40,
            roles => [map { "role_$_" . 'x' x ($n * 7 % 60) } 0 .. $n % 23],
            project => CdmStop::Test::Traffic::PROJECT)
    } 1 .. $count;

    return scalar grep { $_ && $_->{status} == 200 } $t->finish(map {
        $t->start_stop(port => $t->port('own'),
            headers => ['X-Auth-Token' => $_])
    } @tokens);
}

sub tokens {
    my (@projects) = @_;

    return map { $t->put_stop(project => sprintf '%032x', $_) } @projects;
}

sub status_of {
    my ($r) = @_;

    my $id = $r->header('X-Request-Id');

    return $t->wait_for(sub { ($t->read('access.log') =~ /^$id (\w+)/m)[0] },
        what => 'a line of the access log');
}


is(callers(600), 600, 'K10 more callers than the zone has room for');

my @r = tokens(1 .. 5);
is(scalar(grep { $_->{status} == 200 } @r), 5,
    'K10 then five tokens of 31 KB, which need more than half of it');
is(scalar($iam->posts), 5, 'K10 each got once');

for my $round (1 .. 3) {
    is(callers(400), 400, "K10 callers are verified in what is left, $round");
    @r = tokens(1 .. 5);
    is(join(' ', map { status_of($_) } @r), join(' ', ('HIT') x 5),
        'K10 no token of the gateway made room');
}

is(scalar($iam->posts), 5, 'K10 or was got again');

$t->done;
