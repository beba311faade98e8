#!/usr/bin/perl

# CDM cuts its answer: the one that the gateway makes instead says that the
# connection ends, and it does.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Http;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { }
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
    cdm_stop                    huawei;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
    proxy_read_timeout          2s;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC
$t->start;

my %cut = (
    'closed in the body' => { close => 'mid_body' },
    'reset in the body' => { reset => 'mid_body' },
    'closed behind the head' => { close => 'after_headers' },
    'silent in the body' => { hold_body => 'never' },
    'closed' => { close => 'after_request' },
);

for my $name (sort keys %cut) {
    $cdm->script({ %{$cut{$name}}, times => 1 });

    my $client = $t->connect;
    my @bytes = map {
        CdmStop::Http::build_request(method => 'PUT', keepalive => 1,
                                     target => $t->stop_target(job => $_))
    } qw(cut behind);

    $client->send($bytes[0]);
    my ($answer) = $client->responses(1);

    is($answer->{status}, 504, "B06 $name: 504");
    my $said = $answer->header('Connection') // '';

    # whether it is kept or not is nginx's to say, but it is to say so
    $client->send($bytes[1]) if $said ne 'close';
    my (undef, $next) = $client->responses(2);

    is($next ? $next->{status} : $said, $next ? 200 : 'close',
       "B06 $name: Connection is $said");
    $client->close;
}

$t->allow_log(qr/upstream/);
$t->done;
