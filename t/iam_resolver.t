#!/usr/bin/perl

# IAM's name has other addresses by now: with a resolver they are found without
# a reload, those that are dead are passed over, and a name server that fails
# is as an IAM that does not answer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(sleep);

use CdmStop::Dns;
use CdmStop::Exchange;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $tls = $t->iam(name => 'tls', port => 'TLS', tls => 'good');
my $dns = CdmStop::Dns->new(port => $t->port('dns'), file => $t->path('names'));

# the system's own name server knows this one, and this one only
$dns->set(localhost => ['127.0.0.1']);

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    resolver          127.0.0.1:%%PORT_dns%% valid=1s;
    resolver_timeout  30s;

    cdm_stop_zone cdm:1m;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;

    cdm_stop_iam named {
        uri            http://localhost:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       %%PROJECTS%%;
        timeout        5s;
    }
    cdm_stop_iam checked {
        uri                  https://localhost:%%PORT_TLS%%;
        trusted_certificate  %%CA%%;
        method               password;
        domain               acme;
        user                 cdm-gateway;
        password_file        %%TESTDIR%%/secrets/password;
        projects             any;
    }
    cdm_stop_iam grouped {
        uri            http://group;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    upstream group { server 127.0.0.1:%%IAM_PORT%%; }

    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop named;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_checked%%;
        cdm_stop checked;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_grouped%%;
        cdm_stop grouped;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

my %word = (PROJECTS => project_list(500), CA => $t->cert('good')->{ca});
$t->config($config =~ s/%%(PROJECTS|CA)%%/$word{$1}/gr);
$t->start;

# Stops in a new project, until one is answered so: the name server's last
# answer lives for a second, and what failed rests for one.

sub becomes {
    my ($status, $name, %arg) = @_;

    my $project = $arg{project} // new_project();
    my $r;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    $t->wait_for(sub {
        $r = $t->put_stop(%arg, project => $project);
        $r->{status} == $status;
    }, quiet => 1);

    is($r->{status}, $status, $name);
    return $r;
}

is($t->put_stop(project => new_project())->{status}, 200, 'I03 a name');
cmp_ok($dns->queries('localhost'), '>=', 1, 'I03 asked of the resolver');
is(($iam->posts)[0]->header('Host'), 'localhost:' . $t->port('IAM'),
   'I03 the header Host has no dot');

# nobody listens at 127.0.0.9
{
    my $project = new_project();

    $dns->set(localhost => ['127.0.0.9']);
    $t->wait_for(sub {
        sleep 0.1;    # each has a project of its own
        $t->put_stop(project => $project = new_project())->{status} == 503
    }, what => 'the end of the old answer');
    is_refused('I03 another address, and a dead one',
               $t->put_stop(project => $project));

    $dns->set(localhost => ['127.0.0.1']);
    becomes(200, 'I03 a new address without a reload', project => $project);
}

$dns->set(localhost => ['::1', '127.0.0.9', '127.0.0.1']);
$t->wait_for(sub {
    sleep 0.1;
    $t->put_stop(project => new_project());
    $t->error_log =~ /connect\(\) .*127\.0\.0\.9:/
}, what => 'the new answer');
is($t->put_stop(project => new_project())->{status}, 200,
   "I03 addresses that are dead are passed over: $_") for 1 .. 3;

$dns->set(localhost => []);
{
    my $project;

    $t->wait_for(sub {
        sleep 0.1;    # each has a project of its own
        $t->put_stop(project => $project = new_project())->{status} == 503
    }, what => 'the end of the old answer');
    is_refused('I03 no such name', $t->put_stop(project => $project));
    like(join("\n", lines_of($t, $project)),
         qr/localhost could not be resolved/, 'I03 the log tells it');
}

# ends with the exchange's own timeout, and not after 30 seconds
$dns->set(localhost => undef);
is_refused('I03 the name server is silent',
           $t->put_stop(project => new_project()));

$dns->set(localhost => ['127.0.0.1']);
becomes(200, 'I03 well again by itself');

# TLS asks for the name and checks it, without the dot
is($t->put_stop(port => $t->port('checked'))->{status}, 200, 'I03 over TLS');
is(($tls->{front}->handshakes(1))[-1]{sni}, 'localhost', 'I03 its SNI');

is($t->put_stop(port => $t->port('grouped'))->{status}, 200,
   'I03 a group of servers is no name for the resolver');
is($dns->queries('group'), 0, 'I03 which is not asked');

$t->done;
