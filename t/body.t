#!/usr/bin/perl

# Bodies and the framing of requests and answers: what two servers could frame
# in two ways is refused; no byte of a body is ever taken for a request, nor a
# trailer for a header; each stop has one decision, one answer, one set of
# records, in order; an answer is read once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Expect;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my $iam = $t->iam;
my $cdm = $t->cdm;

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%

    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri           http://127.0.0.1:%%IAM_PORT%%;
        insecure      on;
        method        password;
        domain        acme;
        user          cdm-gateway;
        password_file %%TESTDIR%%/secrets/password;
        projects      any;
    }

    cdm_stop                   huawei;
    cdm_stop_verify            off;
    cdm_stop_anonymous         on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit             %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%%;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen 127.0.0.1:%%PORT_missing%%;

        location /v1.1/ {
            cdm_stop_inject missing;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_small%%;

        client_max_body_size 1k;
        client_body_timeout  300ms;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    upstream cdm {
        server    127.0.0.1:%%CDM_PORT%%;
        keepalive 4;
    }

    server {
        listen 127.0.0.1:%%PORT_keep%%;

        location /v1.1/ {
            proxy_http_version 1.1;
            proxy_set_header   Connection "";
            proxy_pass         http://cdm;
        }
    }
}
EOC

$t->start;

my $e = CdmStop::Expect->new($t, iam => $iam, cdm => $cdm);
my $stop = $t->stop_target;
my $smuggled = request('smuggled');

sub request {
    my ($job, @headers) = @_;

    return join "\r\n", 'PUT ' . $t->stop_target(job => $job) . ' HTTP/1.1',
        'Host: x', @headers, '', '';
}


# framing that can be read in two ways: nginx refuses it and closes

my $chunks = "0\r\n\r\n";

for my $case (
    ['Content-Length with Transfer-Encoding',
     'Content-Length: 5', 'Transfer-Encoding: chunked'],
    ['Transfer-Encoding with Content-Length',
     'Transfer-Encoding: chunked', 'Content-Length: 5'],
    ['two different lengths', 'Content-Length: 5', 'Content-Length: 0'],
    ['two equal lengths', 'Content-Length: 5', 'Content-Length: 5'],
    ['a length of +5', 'Content-Length: +5'],
    ['a length of -5', 'Content-Length: -5'],
    ['a length of 5,5', 'Content-Length: 5,5'],
    ['a length of 0x5', 'Content-Length: 0x5'],
    ['a length of 5 5', 'Content-Length: 5 5'],
    ['a length that is empty', 'Content-Length:'],
    ['a length too large', 'Content-Length: 99999999999999999999'],
    ['a length before a null', "Content-Length: 5\0"],
    ['chunked twice', 'Transfer-Encoding: chunked, chunked'],
    ['two lines of chunked',
     'Transfer-Encoding: chunked', 'Transfer-Encoding: chunked'],
    ['xchunked', 'Transfer-Encoding: xchunked'],
    ['gzip, chunked', 'Transfer-Encoding: gzip, chunked'],
    ['chunked, identity', 'Transfer-Encoding: chunked, identity'],
    ['identity', 'Transfer-Encoding: identity'],
    ['a parameter', 'Transfer-Encoding: chunked;a=b'],
    ['a vertical tab', "Transfer-Encoding: \x0bchunked"],
    ['a blank before the colon', 'Transfer-Encoding : chunked'],
    ['a folded line', 'Transfer-Encoding:', ' chunked'],
) {
    my ($what, @headers) = @$case;

    my @r = $t->raw(request('x', @headers) . $chunks . $smuggled, expect => 2);
    $e->by_nginx($r[0], [400, 501], "B01 $what");
    is(@r . ($t->{last_connection}{eof} ? ' closed' : ' open'), '1 closed',
       'B01 nothing behind it is read as a request');
}

my @r = $t->raw(request('x', 'Transfer-Encoding: chunked')
                =~ s/HTTP\/1\.1/HTTP\/1.0/r . $chunks . $smuggled,
                expect => 2);
$e->by_nginx($r[0], [400, 501], 'B01 chunked in HTTP/1.0');
is(scalar(@r), 1, 'B01 nothing behind it is read as a request');


# chunks that are none: the stop is known by then, and has a record

for my $chunk ("5g\r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n", "5\r\nhello0\r\n\r\n", "-1\r\n\r\n",
    "ffffffffffffffffff\r\nhello\r\n", "\r\n0\r\n\r\n", "5 5\r\nhello\r\n")
{
    @r = $t->raw(request('x', 'Transfer-Encoding: chunked') . $chunk
                 . $smuggled, expect => 2);
    $e->ended_early($r[0], 400, 'B01 a chunk that is none: '
                    . substr($chunk, 0, 12) =~ s/\r\n.*//sr, job => 'x');
    is(scalar(@r), 1, 'B01 nothing behind it is read as a request');
}


# bodies: nginx frames them anew, with one length

my $long = join '', map { chr(33 + $_ % 90) } 1 .. 200_000;

for my $case (
    ['no body', '', '', []],
    ['Content-Length: 0', '', '', ['Content-Length: 0']],
    ['a body', 'hello', 'hello', ['Content-Length: 5']],
    ['a long body', $long, $long, ['Content-Length: 200000']],
    ['a body that looks like a request', $smuggled, $smuggled,
     ['Content-Length: ' . length $smuggled]],
    ['an empty chunked body', '', $chunks, ['Transfer-Encoding: chunked']],
    ['a chunked body', 'hello', "5\r\nhello\r\n$chunks",
     ['Transfer-Encoding: chunked']],
    ['many chunks', 'hello', "1\r\nh\r\n3\r\nell\r\n0001\r\no\r\n$chunks",
     ['transfer-encoding: CHUNKED']],
    ['a long chunked body', $long, CdmStop::Http::chunked($long, 1000),
     ['Transfer-Encoding: chunked']],
    ['chunk extensions', 'hello',
     "5;a=b;c=\"d\"\r\nhello\r\n0;last\r\n\r\n",
     ['Transfer-Encoding: chunked']],
    ['trailers', 'hello', "5\r\nhello\r\n0\r\nX-Auth-Token: of-a-trailer\r\n"
     . "X-Auth-Token: again\r\nX-A: b\r\nContent-Length: 3\r\n\r\n",
     ['Transfer-Encoding: chunked', 'Trailer: X-Auth-Token']],
) {
    my ($what, $body, $sent, $headers) = @$case;

    for my $port ('', 'missing') {
        my $r = $t->raw(request('x', 'Connection: close', @$headers) . $sent,
                        port => $t->port($port));
        $e->forwarded($r, "B02 $what" . ($port && ', cdm_stop_inject missing'),
                      job => 'x', body => $body);
    }
}

my ($got) = reverse $cdm->requests;
unlike($got->{raw}, qr/of-a-trailer|again|X-A:/i,
       'B02 no trailer is a header at CDM');
is(scalar(grep { exists $_->{client_token} } $t->records('audit.jsonl')), 0,
   'B02 and none is the token of the caller');


# a refused stop with 1 MB behind it, made of what looks like requests

my $mega = substr($smuggled x (1 + (1 << 20) / length $smuggled), 0, 1 << 20);

for my $case (['a slash behind', '0001', 'x/stop'], ['a null method', '0003'],
    ['two tokens', '0002'])
{
    my ($what, $code) = @$case;
    my $bytes = request('x', 'Content-Length: ' . length $mega);

    $bytes =~ s{/stop }{/stop/ } if $code eq '0001';
    $bytes =~ s{\APUT}{POST} if $code eq '0003';
    $bytes =~ s{Host: x}{Host: x\r\nX-Auth-Token: a\r\nX-Auth-Token: b}
        if $code eq '0002';

    my @r = $t->raw($bytes . $mega . request('behind', 'Connection: close'),
                    expect => 3);

    my ($refused, @pair) = $e->wait_records(@r > 1 ? 3 : 1);
    is($r[0]{status} . ' ' . ($refused->{error_code} // '') . ' '
       . ($r[0]->header('X-Request-Id') eq $refused->{request_id}),
       $refused->{status} . " CDMSTOP.$code 1", "B03 $what: refused");

    if (@r > 1) {
        is(join(' ', scalar @r, $r[1]{status}, map { "$_->{stage} "
           . "$_->{job_name}" } @pair),
           '2 200 intent behind outcome behind',
           'B03 the body is drained, and what is behind it is served');

    } else {
        ok(!@pair && $t->{last_connection}{eof},
           'B03 the connection is closed');
    }

    is(scalar(grep { $_->{target} =~ /smuggled/ } $cdm->requests), 0,
       'B03 no byte of the body is taken for a request');
    $e->arrived;
}


# many stops at one go

@r = $t->raw(request('a') . request('b', 'Connection: close'), expect => 3);
is(join(' ', map { $_->{status} } @r), '200 200', 'B03 two in one segment');
check_order(['a', 'b'], [0, 0]);

my @jobs = map { "j$_" } 1 .. 100;
@r = $t->raw(join('', map { request($_) } @jobs), expect => 100);
is(scalar(grep { $_->{status} == 200 } @r), 100, 'B03 100 in one segment');
check_order(\@jobs, [(0) x 100]);

# nginx closes the connection after a 400, and not after a 405

@r = $t->raw(join('', request('a', 'Content-Length: 3') . 'abc',
    request('b') =~ s/\APUT/POST/r, request('c'),
    request('d', 'Content-Length: 2') =~ s/\APUT/DELETE/r . 'xy',
    request('e', 'Transfer-Encoding: chunked') . "1\r\nx\r\n$chunks",
    request('f') =~ s{/stop }{/stop// }r, request('g')), expect => 7);
is(join(' ', map { $_->{status} } @r), '200 405 200 405 200 400',
   'B03 good and bad ones: answered in order');
check_order(['a' .. 'f'], [0, 1, 0, 1, 0, 1]);


# the records of answers @r: each has its own set, in this order

sub check_order {
    my ($jobs, $refused) = @_;

    my $n = 0;
    $n += $_ ? 1 : 2 for @$refused;

    my @records = $e->wait_records($n);
    my @want = map {
        my $id = $r[$_]->header('X-Request-Id') // '';
        $refused->[$_] ? "$id refused" : ("$id intent", "$id outcome")
    } 0 .. $#$jobs;

    is(join("\n", map { "$_->{request_id} $_->{stage}" } @records),
       join("\n", @want), 'B03 a set of records for each, in order');

    my @sent = map { $_->{target} } $cdm->requests;
    my @good = map { $t->stop_target(job => $jobs->[$_]) }
               grep { !$refused->[$_] } 0 .. $#$jobs;
    is(join("\n", @sent[-@good .. -1]), join("\n", @good),
       'B03 CDM got the good ones, in order');
    $e->arrived;

    return;
}


# a body that never ends, or is too large

my @small = (port => $t->port('small'));

for my $case (
    ['cut', 'Content-Length: 100', 'only this'],
    ['without a byte', 'Content-Length: 100', ''],
    ['of chunks, without an end', 'Transfer-Encoding: chunked',
     "5\r\nhello\r\n"],
    ['of chunks, cut', 'Transfer-Encoding: chunked', "64\r\nhello"],
) {
    my ($what, $header, $sent) = @$case;

    my @r = $t->raw(request('x', $header) . $sent, @small);
    $e->ended_early($r[0], 408, "B04 a body $what: 408", job => 'x',
                    no_answer => !@r);
    ok($t->{last_connection}{eof}, 'B04 the connection is closed');
}

for my $case (
    ['announced', 'Content-Length: 1025', 'x' x 10],
    ['sent', 'Content-Length: 1025', 'x' x 1025],
    ['announced, without end', 'Content-Length: 999999999999', ''],
    ['of chunks', 'Transfer-Encoding: chunked',
     CdmStop::Http::chunked('x' x 1025, 100)],
    ['of one chunk', 'Transfer-Encoding: chunked', "401\r\nxxx"],
) {
    my ($what, $header, $sent) = @$case;

    my @r = $t->raw(request('x', $header) . $sent, @small);
    $e->ended_early($r[0], 413, "B04 too large, $what: 413", job => 'x');
}

$e->forwarded($t->put_stop(@small, body => 'x' x 1024),
              'B04 as large as it may be', body => 'x' x 1024);
is(scalar(grep { $_->{stage} eq 'intent' } $t->records('audit.jsonl')),
   scalar(grep { $_->{stage} eq 'outcome' } $t->records('audit.jsonl')),
   'B04 no intent stays open');


# answers of CDM that can be framed in two ways

$cdm->reset_log;
$e->arrived;

my @keep = (port => $t->port('keep'), keepalive => 1);
my $second = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond";
my $head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

$e->forwarded($t->put_stop(@keep), 'B06 a good answer');
$e->forwarded($t->put_stop(@keep), 'B06 another one');
is(scalar($cdm->connections), 1, 'B06 on the same connection');

for my $case (
    ['two answers at once', { after => $second }],
    ['a second answer a little later',
     { parts => ["${head}Content-Length: 2\r\n\r\n{}", 0.05, $second] }],
    ['bytes beyond Content-Length', { after => 'surplus' }],
    ['one byte beyond', { after => "\n" }],
    ['Content-Length with Transfer-Encoding', { raw => $head
     . "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
     . "2\r\n{}\r\n0\r\n\r\n" }],
    ['Transfer-Encoding with Content-Length', { raw => $head
     . "Transfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n"
     . "2\r\n{}\r\n0\r\n\r\n" }],
    ['two lengths', { raw => $head
     . "Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}$second" }],
    ['chunks and more behind them', { raw => $head
     . "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n$second" }],
) {
    my ($what, $rule) = @$case;

    $cdm->script({ when => { job => 'odd' }, %$rule });

    my ($r, @more) = $t->finish($t->start_stop(@keep, job => 'odd'));
    my ($intent, $outcome) = $e->wait_records(2);
    my $conn = ($cdm->requests)[-1]{conn};

    # what is late is noticed while the connection is idle
    $t->wait_for(sub { !$cdm->counters->{open} }, what => 'closed connection')
        if $what =~ /later/;

    ok(!$r->{malformed} && $r->{raw} !~ /second|surplus/,
       "B06 $what: one whole answer") or diag($r->{raw});

    if ($r->{status} == 200) {
        is("$r->{body} $outcome->{verdict} $outcome->{upstream_status}",
           '{} stopped 200', 'B06 it is that of CDM');

    } else {
        is("$r->{status} " . $r->json->{error_code}
           . " $outcome->{verdict} $outcome->{error_code}",
           '504 CDMSTOP.0402 unknown CDMSTOP.0402',
           'B06 it says that the outcome is unknown');
    }

    $e->arrived;
    $e->forwarded($t->put_stop(@keep, job => 'next'),
                  'B06 the next stop has its own answer', job => 'next');
    isnt(($cdm->requests)[-1]{conn}, $conn, 'B06 and its own connection');

    $cdm->script;
    $cdm->close_idle;
}

$t->done;
