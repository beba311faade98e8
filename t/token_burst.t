#!/usr/bin/perl

# Many projects at a time whose tokens nobody has yet, as after a start: an
# identity has two calls of IAM under way, and whoever waits for one of them is
# the next as soon as one is answered.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Exchange;
use CdmStop::Test;


my $t = CdmStop::Test->new;
my $iam = $t->iam;
my $cdm = $t->cdm;

my @projects = map { new_project() } 1 .. 400;

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { worker_connections 4096; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:8m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       %%PROJECTS%%;
    }
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_wait 6s;
    cdm_stop_audit off;
    server {
        listen 127.0.0.1:%%PORT%% backlog=1024;
        cdm_stop huawei;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$t->config($config =~ s/%%PROJECTS%%/@projects/r);
$t->start;

# by the poll of 50 ms alone, two of them each, it would take 10 seconds
my @answers = $t->finish(map { $t->start_stop(project => $_) } @projects);
is(scalar(grep { $_ && $_->{status} == 200 } @answers), @projects,
   'K01 first stops of 400 projects: all are served within the wait');
is(scalar $iam->posts, @projects, 'K01 and IAM is asked once for each');

my %token = map { $_->header('X-Auth-Token') => 1 } $cdm->stops;
is(scalar keys %token, @projects, 'K01 each with its own token');

$t->done;
