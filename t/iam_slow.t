#!/usr/bin/perl

# An IAM that is slow, silent, late or confused: the exchange as a whole ends at
# "timeout", an answer belongs to its own exchange or to none, and what IAM says
# of an error is shown to nobody as it is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;

# hundreds of exchanges: a debug log of them would take longer than all else
my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 2;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:8m;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       %%PROJECTS%%;
    }
    cdm_stop_iam quick {
        uri            http://127.0.0.1:%%IAM_PORT%%/v3;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       %%PROJECTS%%;
        timeout        500ms;
    }
    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /inside/ {
            internal;
            return 200 "inside\n";
        }
    }
    server {
        listen 127.0.0.1:%%PORT_quick%%;
        location /v1.1/ {
            cdm_stop quick;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->config($config =~ s/%%PROJECTS%%/project_list(100)/egr);
$t->start;

my $good = $t->ledger->token(200);

# Slow: the whole exchange ends at "timeout", 500 ms here, whatever comes in
# the meantime.

my @slow = (
    ['I05 silence', { hang => 1 }],
    ['I05 a byte now and then', { drip => 0.05 }],
    ['I05 a body byte by byte', { drip_body => 0.05 }],
    [   'I05 half a header',
        { parts => ["HTTP/1.1 201 Created\r\nX-Subject-", 30] }
    ],
    ['I05 half a body', { hold_body => 'never' }],
    ['I05 a body until close', { no_length => 1, hold_body => 'never' }],
    [   'I05 endless chunks',
        {         raw => "HTTP/1.1 201 Created\r\nX-Subject-Token: $good\r\n"
                . "Transfer-Encoding: chunked\r\n\r\n"
                . "1\r\n \r\n" x 1000, drip => 0.05
        }
    ],
);

my @slow_projects = map { new_project() } @slow;

my $sockets = sockets($t->worker_pids);

$iam->script(
    map { { when => { body => qr/$slow_projects[$_]/ }, %{ $slow[$_][1] } } }
        0 .. $#slow);
$cdm->reset_log;

my @handles = map { $t->start_stop(port => $t->port('quick'), project => $_) }
    @slow_projects;
my @answers = $t->finish(@handles);

for my $i (0 .. $#slow) {
    is_refused($slow[$i][0], $answers[$i]);
    ok(
        scalar(
            grep { /IAM gave no token: no answer in time/ }
                lines_of($t, $slow_projects[$i])
        ),
        "$slow[$i][0]: the log says so");
}

is($cdm->bytes, 0, 'I05 nothing at CDM');
is(sockets($t->worker_pids), $sockets, 'I05 no connection to IAM is left');

# nobody accepts, and nobody reads a long request

my $waits = new_project();
$iam->pause;
is_refused(
    'I05 no accept',
    $t->put_stop(port => $t->port('quick'), project => $waits));
$iam->resume;

# refused connections

my $down = new_project();
$iam->refuse;
is_refused('I05 connection refused', $t->put_stop(project => $down));
ok( scalar(grep { /connect\(\) failed/ } lines_of($t, $down)),
    'I05 connection refused: in the log');
$iam->resume;


# An answer that comes after its exchange was given up is not taken for the
# answer to the next one, nor stored.

my $late = new_project();
my @late = map { $t->ledger->token(300) } 1 .. 2;

$iam->script(
    {   when => { body => qr/$late/ }, times => 1, hold => 'late',
        headers => ['X-Subject-Token' => $late[0]]
    },
    {   when => { body => qr/$late/ }, times => 1, hold => 'second',
        headers => ['X-Subject-Token' => $late[1]]
    });
$iam->{read} = undef;
$cdm->reset_log;

is_refused(
    'I05 no answer in time',
    $t->put_stop(port => $t->port('quick'), project => $late));
$iam->release('late');

my $second;
$t->wait_for(
    sub {
        my $handle =
            $t->start_stop(port => $t->port('quick'), project => $late);
        my $posted = $t->wait_for(
            sub {
                grep({ $_->{body} =~ /$late/ } $iam->posts) > 1;
            },
            timeout => 0.2,
            quiet => 1);
        $second = $handle if $posted;
        return $posted;
    },
    what => 'the next request to IAM');

$iam->release('second');
is( $t->finish($second)->{status}, 200,
    'I05 the next exchange has its own answer');
is( scalar(grep { $_->header('X-Auth-Token') eq $late[0] } $cdm->stops), 0,
    'I05 the late token is not used');
is( ($cdm->stops)[-1]->header('X-Auth-Token'), $late[1],
    'I05 but the other one');


# Two exchanges at once, each answered with the other's token.

my @mixed = map { new_project() } 1 .. 2;

$iam->script(
    map {
        {   when => { body => qr/$mixed[$_]/ }, hold => 'both',
            body => body_for($mixed[1 - $_]) }
    } 0 .. 1);
$cdm->reset_log;

@handles = map { $t->start_stop(project => $_) } @mixed;
$t->wait_for(
    sub {
        grep({ $_->{body} =~ /$mixed[0]|$mixed[1]/ } $iam->posts) == 2;
    },
    what => 'both exchanges');
$iam->release('both');
is_refused('I05 answers mixed up', $_) for $t->finish(@handles);
is($cdm->bytes, 0, 'I05 answers mixed up: nothing at CDM');


# An error text that echoes what it was sent does not get into the log, nor to
# the client.

my $echo = new_project();
$iam->script(
    {   when => { body => qr/$echo/ },
        status => 400,
        body => JSON::PP->new->utf8->encode(
            {
                error => {
                    code => 400, title => 'Bad Request',
                    message =>
                        "user cdm-gateway with password $t->{password} and "
                        . "token $good\n"
                        . "\e[31m\x{202e}"
                        . '<script>' x 10_000
                } }
        ) });

my $answer = $t->put_stop(project => $echo);
is_refused('L07 an error text', $answer);
unlike(
    $answer->{raw}, qr/script|Bad Request|gateway with/,
    'L07 IAM\'s text is not shown to the client');
my ($line) = grep { /IAM gave no token/ } lines_of($t, $echo);
cmp_ok(length($line // 'x' x 10_000), '<', 2_500, 'L07 it is cut in the log');
unlike($line // '', qr/[\x00-\x1f]/, 'L07 and in one line');

$t->done;
