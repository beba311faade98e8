#!/usr/bin/perl

# An event of the client's that comes to the worker together with the answer
# of IAM or CDM, in one turn of its event loop: a stop is sent once for each
# token and has one outcome, and the client gets its answer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Http;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my ($iam, $cdm) = ($t->iam, $t->cdm);

# more than the buffers of a connection hold

mkdir $t->path('big');
chmod 0755, $t->path('big');
$t->write('big/file', 'x' x 8_000_000, 0644);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { worker_connections 64; }
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
        timeout        20s;
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_wait               20s;

    upstream cdm { server 127.0.0.1:%%CDM_PORT%%; keepalive 4; }

    server {
        listen 127.0.0.1:%%PORT%%;
        location /big/ { alias %%TESTDIR%%/big/; }
        location /v1.1/ {
            cdm_stop            huawei;
            cdm_stop_audit      %%TESTDIR%%/audit.jsonl;
            proxy_pass          http://cdm;
            proxy_http_version  1.1;
            proxy_set_header    Connection '';
        }
    }
}
EOC

$t->start;

my ($worker) = $t->worker_pids;

# Bytes that wait in a connection of which one end has the port: what that end
# has not read, what it has sent and the other one did not take.

sub queues {
    my ($port, $end) = @_;

    my ($unread, $unsent) = (0, 0);

    for (split /\n/, CdmStop::Test::Nginx::slurp('/proc/net/tcp')) {
        my @of = (split)[1, 2, 4];
        my ($mine) = ($of[$end] // '') =~ /:([0-9A-F]{4})\z/ or next;
        next if hex $mine != $port;
        my ($out, $in) = map { hex } split /:/, $of[2];
        $unread += $in;
        $unsent += $out;
    }

    return ($unread, $unsent);
}

use constant { LOCAL => 0, REMOTE => 1 };

# A connection whose writing was blocked once, so that the worker is told of
# it again and again: whenever it can be written to and something comes.

sub blocked_once {
    my $c = $t->connect;
    my $before = -1;

    $c->send("GET /big/file HTTP/1.1\r\nHost: localhost\r\n\r\n");
    $t->wait_for(sub {
        my ($unread, $unsent) = queues($t->port, LOCAL);
        my $still = $unsent && $unsent == $before;
        $before = $unsent;
        return $still;
    }, what => 'writing to be blocked');

    my ($r) = $c->responses(1);
    is(length $r->{body}, 8_000_000, 'an answer that had to be waited for');

    return $c;
}

# While the worker is held up, somebody answers it and the client sends a byte.

sub at_once {
    my ($c, $port, $answer) = @_;

    kill 'STOP', $worker;
    $answer->();
    $t->wait_for(sub { (queues($port, REMOTE))[0] }, what => 'the answer');
    $c->send('P');
    $t->wait_for(sub { (queues($t->port, LOCAL))[0] }, what => 'the byte');
    kill 'CONT', $worker;

    return;
}

sub stop {
    my ($job) = @_;

    return CdmStop::Http::build_request(
        method => 'PUT', keepalive => 1,
        target => $t->stop_target(job => $job));
}

sub story {
    my ($job) = @_;

    return join ', ', map { join ' ', grep { defined }
                            @$_{qw(stage verdict status attempts)} }
        grep { ($_->{job_name} // '') eq $job } $t->records('audit.jsonl');
}

sub the_answer {
    my ($c, $job) = @_;

    my ($r) = ($c->responses(2))[-1];
    $c->close;      # with the byte that would begin a request
    is($r && $r->{status}, 200, "$job: the client gets the answer of CDM");
    is(join(' ', $t->worker_pids), $worker, "$job: the worker lives");

    $t->wait_for(sub { story($job) =~ /outcome/ }, what => 'the outcome');
    return;
}

# IAM's answer ends a wait; the stop goes to CDM at once, on a connection that
# is there, and CDM takes its time

$t->put_stop(job => 'first', project => '2' x 32);

my $c = blocked_once();
$iam->script({ hold => 'token' });
$cdm->script({ delay => 0.3 });
$c->send(stop('waits'));
$iam->wait_requests(2);
at_once($c, $iam->port, sub { $iam->release('token') });

the_answer($c, 'waits');
is($cdm->count, 2, 'W09 waits: CDM gets it once');
is(story('waits'), 'intent, outcome stopped 200 1', 'W09 waits: one outcome');

# CDM's 401 begins one

my $refused = '{"error_code":"APIGW.0301","error_msg":"x"}';

for my $answer (['with a length', body => $refused],
                ['up to the end', close => 1,
                 raw => "HTTP/1.1 401 No\r\n\r\n$refused"])
{
    my ($what, @how) = @$answer;
    my $job = $what =~ s/ /_/gr;
    my $before = $cdm->count;

    $c = blocked_once();
    $iam->script;
    $cdm->script({ times => 1, hold => $job, status => 401, @how });
    $c->send(stop($job));
    $cdm->wait_requests($before + 1);
    at_once($c, $cdm->port, sub { $cdm->release($job) });

    the_answer($c, $job);
    is($cdm->count, $before + 2, "D05 401 $what: sent twice");
    is(story($job), 'intent, outcome stopped 200 2',
       "D05 401 $what: one outcome");
}

$t->done;
