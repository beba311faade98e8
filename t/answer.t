#!/usr/bin/perl

# How CDM's answer reaches the client: unchanged, whatever nginx is told to do
# with answers, but for what only concerns the hop or would steer the gateway.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Uncompress::Gunzip ();

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    log_format steps '$uri $upstream_addr';
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
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop    huawei;
            proxy_pass  http://127.0.0.1:%%CDM_PORT%%;
        }
        location /internal/ { return 418 "not for CDM to choose"; }
    }

    # everything that an operator may have switched on for other sites
    server {
        listen 127.0.0.1:%%PORT_busy%%;
        error_page 400 401 403 404 429 = /own_page;
        error_page 500 502 503 504 =200 /own_page;
        error_page 405 =200 @elsewhere;
        location = /own_page { return 200 "own page"; }
        location @elsewhere { return 200 "elsewhere"; }
        location /v1.1/ {
            cdm_stop    huawei;
            proxy_intercept_errors   on;
            recursive_error_pages    on;
            proxy_force_ranges       on;
            proxy_pass_header        X-Accel-Redirect;
            proxy_set_header         Upgrade $http_upgrade;
            proxy_set_header         Connection "upgrade";
            proxy_set_header         Range $http_range;
            proxy_set_header         If-None-Match $http_if_none_match;
            proxy_http_version       1.1;
            proxy_store              %%TESTDIR%%/store$uri;
            if_modified_since        before;
            proxy_pass  http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_gzip%%;
        gzip on;
        gzip_types *;
        gzip_min_length 1;
        gzip_proxied any;
        location /v1.1/ {
            cdm_stop    huawei;
            proxy_set_header Accept-Encoding $http_accept_encoding;
            proxy_pass  http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_unbuffered%%;
        location /v1.1/ {
            cdm_stop         huawei;
            proxy_buffering  off;
            proxy_pass       http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_small%%;
        location /v1.1/ {
            cdm_stop                  huawei;
            proxy_buffers             2 4k;
            proxy_busy_buffers_size   4k;
            proxy_max_temp_file_size  0;
            proxy_pass                http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;

my $at = 0;

# Sends a stop that CDM answers by a rule; answer and outcome, which is there
# once the answer is complete, be it that nginx sends it in pieces.

sub stop_with {
    my ($rule, %arg) = @_;

    $cdm->script($rule);
    my $r = $t->put_stop(%arg);
    my $id = $r->header('X-Request-Id') // die "no request id: $r->{raw}\n";
    my $outcome;

    $t->wait_for(sub {
        ($outcome) = grep { $_->{request_id} eq $id } outcomes();
        $outcome;
    }, what => "outcome of $id");

    return ($r, $outcome);
}

# The outcomes that were written since the last call.

sub outcomes {
    open my $fh, '<:raw', $t->path('audit.jsonl') or die "audit.jsonl: $!\n";
    seek $fh, $at, 0;
    my @lines = <$fh>;
    $at = tell $fh;

    return grep { $_->{stage} eq 'outcome' }
           map { CdmStop::Test::Records::parse_line(s/\n\z//r, 'a record') }
           @lines;
}

# The headers of an answer without those that every answer has, as text.

sub headers_of {
    my ($r) = @_;

    return join "\n", sort map { "$_->[0]: $_->[1]" }
        grep { $_->[0] !~ /\A(?:Server|Date|Connection|X-Request-Id)\z/i }
        @{$r->{headers}};
}

my @ports = qw(busy unbuffered small gzip);
my $failed = '{"validation-result":[{"message":"m","status":"ERROR"}]}';

subtest 'D13 headers that pass and headers that do not' => sub {
    my @pass = ('Content-Type' => 'application/json;charset=UTF-8',
                'X-Apig-Latency' => '7', 'X-Apig-Upstream-Latency' => '5',
                'X-Apig-Ratelimit-Api' => 'remain:99,limit:100,time:1 minute',
                'Cache-Control' => 'no-store', 'ETag' => '"e"',
                'Set-Cookie' => 'a=b; Path=/', 'Set-Cookie' => 'c=d',
                'Vary' => 'Accept', 'WWW-Authenticate' => 'Keystone uri="x"',
                'Retry-After' => '9', 'X-Own' => '', 'Allow' => 'GET');
    my @drop = ('X-Subject-Token' => $t->ledger->token(500),
                'X-Auth-Token' => $t->ledger->token(500),
                'x-auth-TOKEN' => $t->ledger->token(500),
                'X_Auth_Token' => $t->ledger->token(500),
                'X-Accel-Charset' => 'koi8-r', 'Keep-Alive' => 'timeout=5',
                'Server' => 'api-gateway',
                'Date' => 'Thu, 01 Jan 1970 00:00:00 GMT');
    my $id = 'deadbeef' x 4;

    for my $port ('', @ports) {
        my ($r, $outcome) = stop_with(
            { headers => [@pass, @drop, 'X-Request-Id' => $id],
              body => '{"validation-result":[]}',
              drop => ['X-Apig'] }, port => $t->port($port));

        my @expect = map { "$pass[2 * $_]: $pass[2 * $_ + 1]" } 0 .. $#pass / 2;
        push @expect, 'Content-Length: 24';

        # an empty value is one that nginx leaves out of its own answers
        is(headers_of($r), join("\n", sort @expect),
           "passed and dropped $port");
        is(scalar($r->all('Server')), 1, 'one Server');
        like($r->header('Server'), qr/nginx/, 'nginx\'s own');
        isnt($r->header('Date'), $drop[-1], 'Date is nginx\'s own');

        is(join(' ', $r->all('X-Request-Id')), $outcome->{request_id},
           'one X-Request-Id, ours');
        is($outcome->{upstream_request_id}, $id,
           'that of CDM is in the record');
    }

    my ($r, $outcome) = stop_with({ drop => ['X-Request-Id'] });
    is($outcome->{upstream_request_id}, undef, 'CDM sends no X-Request-Id');

    ($r, $outcome) = stop_with({ headers => [
        'X-Request-Id' => 'one', 'x-request-id' => 'two'] });
    is(scalar($r->all('X-Request-Id')), 1,
       'CDM sends two: the client gets one');
    like($outcome->{upstream_request_id}, qr/one|two/, 'and one is recorded');
};

subtest 'D13 X-Accel-* is not acted on' => sub {
    $t->write('secret.txt', 'a file of the gateway');

    for my $port ('', qw(busy unbuffered)) {
        for my $to (qw(/internal/x @elsewhere /own_page)) {
            my ($r, $outcome) = stop_with(
                { headers => ['X-Accel-Redirect' => $to], body => $failed },
                port => $t->port($port));

            is("$r->{status} $r->{body}", "200 $failed", "redirect to $to");
            is($outcome->{verdict}, 'failed', 'the verdict is of CDM\'s body');
        }

        my ($r, $outcome) = stop_with(
            { headers => ['X-Accel-Limit-Rate' => '1',
                          'X-Accel-Buffering' => 'no',
                          'X-Accel-Expires' => '0'],
              body => $failed . ' ' x 3000 },
            port => $t->port($port), timeout => 5);

        is(length $r->{body}, 3000 + length $failed, 'no byte a second');
        is($r->header('X-Accel-Limit-Rate'), undef, 'the header is gone');
        is($outcome->{verdict}, 'failed', 'the verdict is known');
    }

    is($t->read('access.log') =~ m{/internal/}, '', 'nginx went nowhere');
};

subtest 'D13 101 and other interim answers' => sub {
    my @upgrade = (headers => ['Upgrade' => 'websocket',
                               'Connection' => 'Upgrade']);

    for my $port ('', qw(busy unbuffered)) {
        my ($r, $outcome) = stop_with(
            { raw => "HTTP/1.1 101 Switching Protocols\r\n"
              . "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n" },
            @upgrade, port => $t->port($port));

        is($r->{status}, 504, '101 is no answer');
        is($r->json->{error_code}, 'CDMSTOP.0402', 'of a known outcome');
        is($r->header('Upgrade'), undef, 'the client is not upgraded');
        is($outcome->{verdict}, 'unknown', 'unknown');

        my $early = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n"
                    . "X-Request-Id: early\r\nX-Accel-Redirect: /internal/\r\n"
                    . "Content-Length: 5\r\n"
                    . "X-Subject-Token: abc\r\n\r\n";

        for my $before ($early, $early x 4, "HTTP/1.1 100 Continue\r\n\r\n",
                        "HTTP/1.1 102 Processing\r\n\r\n" . $early)
        {
            ($r, $outcome) = stop_with(
                { before => $before, body => $failed,
                  headers => ['X-Request-Id' => 'late'] },
                port => $t->port($port));

            is("$r->{status} $r->{body}", "200 $failed",
               'the answer behind it');
            is($r->header('Link'), undef, 'without its headers');
            is($outcome->{verdict}, 'failed', 'the verdict is of the answer');
            is($outcome->{upstream_request_id}, 'late', 'so is the request id');
            is($outcome->{upstream_status}, 200, 'and the status');
        }

        # in pieces of one byte
        ($r, $outcome) = stop_with(
            { raw => "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 "
              . "400 No\r\nContent-Length: 2\r\n\r\n{}", drip => 0.0005 },
            port => $t->port($port));
        is("$r->{status} $r->{body}", '400 {}', 'byte by byte');

        # an interim answer and nothing behind it
        ($r, $outcome) = stop_with(
            { raw => "HTTP/1.1 103 Early Hints\r\n\r\n", close => 1 },
            port => $t->port($port));
        is("$r->{status} $outcome->{verdict}", '504 unknown', '103 alone');

        # more of them than any header buffer holds
        ($r, $outcome) = stop_with(
            { raw => "HTTP/1.1 103 Early Hints\r\n\r\n" x 2000, close => 1 },
            port => $t->port($port));
        is("$r->{status} $outcome->{verdict}", '504 unknown',
           '103 without end');
    }
};

subtest 'D15 error pages stay out of it' => sub {
    for my $name (qw(not_found token_expired forbidden_0302 throttled
                     internal_0601 html_502 html_504 iam_unavailable))
    {
        my ($r, $outcome) = stop_with({ answer => $name },
                                      port => $t->port('busy'));
        my $answer = CdmStop::Cdm::Application->new->named_answer($name);
        $answer->{body} =~ s/%%REQUEST_ID%%/$outcome->{upstream_request_id}/;

        is($r->{status}, $answer->{status}, "$name: status of CDM");
        is($r->{body}, $answer->{body}, 'body of CDM');
        is(scalar(grep { $_->{request_id} eq $outcome->{request_id} }
                  $t->records('audit.jsonl')), 2, 'two records');
    }

    # the gateway's own answers: before CDM, of the connection, after sending
    my $records = $t->records('audit.jsonl');
    my @busy = (port => $t->port('busy'));

    my $r = $t->put_stop(@busy, method => 'GET');
    is("$r->{status} " . $r->json->{error_code}, '405 CDMSTOP.0003', 'method');
    $r = $t->put_stop(@busy, job => 'a%2fb');
    is("$r->{status} " . $r->json->{error_code}, '400 CDMSTOP.0001', 'target');

    $cdm->script({ close => 'after_request' });
    $r = $t->put_stop(@busy);
    is("$r->{status} " . $r->json->{error_code}, '504 CDMSTOP.0402', 'cut');

    $cdm->refuse;
    $r = $t->put_stop(@busy);
    is("$r->{status} " . $r->json->{error_code}, '502 CDMSTOP.0401', 'down');
    $cdm->resume;

    is($t->records('audit.jsonl') - $records, 6, 'no record is doubled');
};

subtest 'D13 conditions and ranges of the client change nothing' => sub {
    my $body = '{"validation-result":[],"x":"' . 'y' x 500 . '"}';
    my $date = 'Thu, 19 Nov 2026 10:00:00 GMT';

    for my $port ('', @ports) {
        for my $header (['If-None-Match' => '"e"'], ['If-None-Match' => '*'],
                        ['If-Modified-Since' => $date],
                        ['If-Unmodified-Since' =>
                             'Thu, 19 Nov 2020 10:00:00 GMT'],
                        ['If-Match' => '"other"'],
                        ['Range' => 'bytes=0-1'], ['Range' => 'bytes=9999-'],
                        ['Range' => 'bytes=0-1,3-4'])
        {
            my ($r, $outcome) = stop_with(
                { headers => ['ETag' => '"e"', 'Last-Modified' => $date,
                              'Accept-Ranges' => 'bytes'], body => $body },
                port => $t->port($port), headers => $header);

            is("$r->{status} $r->{body}", "200 $body",
               "@$header" . ($port && ", $port"));
            is("$outcome->{status} $outcome->{verdict}", '200 stopped',
               'and the record tells the same');
        }
    }
};

subtest 'D03 compression' => sub {
    my @gzip = (port => $t->port('gzip'),
                headers => ['Accept-Encoding' => 'gzip, br, deflate']);

    my ($r, $outcome) = stop_with({ body => $failed }, @gzip);
    my ($got) = reverse $cdm->requests;

    is(lc join(',', $got->all('Accept-Encoding')), 'gzip, br, deflate',
       'the operator passes Accept-Encoding on: it is theirs');
    is($r->header('Content-Encoding'), 'gzip',
       'nginx compresses for the client');
    is(unzip($r->{body}), $failed, 'who can decode it');
    is($outcome->{verdict}, 'failed', 'the verdict is as if plain');

    ($r, $outcome) = stop_with({ body => $failed },
                               headers => ['Accept-Encoding' => 'gzip']);
    ($got) = reverse $cdm->requests;

    is(join(',', $got->all('Accept-Encoding')), 'identity',
       'CDM is asked for a plain answer');
    is($r->{body}, $failed, 'which passes as it is');
    is($outcome->{verdict}, 'failed', 'and is read');

    # CDM compresses though it was asked not to
    my $zip = unpack 'H*', $failed;
    ($r, $outcome) = stop_with(
        { headers => ['Content-Encoding' => 'gzip'], body => $zip },
        headers => ['Accept-Encoding' => 'gzip']);
    is($r->{body}, $zip, 'compressed all the same: it passes');
    is($r->header('Content-Encoding'), 'gzip', 'with its encoding');
    is($outcome->{verdict}, 'unknown', 'and is not guessed at');

    # more than nginx can hold back
    ($r, $outcome) = stop_with({ body => '{"x":"' . 'y' x 300_000 . '"}' },
                               @gzip);
    is(length unzip($r->{body}), 300_008, 'a long one, compressed');
};

sub unzip {
    my ($bytes) = @_;

    IO::Uncompress::Gunzip::gunzip(\$bytes, \my $plain)
        or return "no gzip: $IO::Uncompress::Gunzip::GunzipError";
    return $plain;
}

subtest 'D02 long bodies' => sub {
    my $limit = 64 * 1024;

    # in turn: as long as it is read, then longer
    for my $port ('', @ports) {
        my @to = (port => $t->port($port));

        for my $size (1, 1024, 1025, 63 * 1024, $limit, $limit + 1, 65 * 1024,
                      150_000)
        {
            my $body = $size < 3 ? ' ' x $size : '{' . ' ' x ($size - 2) . '}';
            my $verdict = $size < 3 || $size > $limit ? 'unknown' : 'stopped';

            for my $how ([], [chunked => 7000], [no_length => 1]) {
                my ($r, $outcome) = stop_with({ body => $body, @$how }, @to);

                is("$r->{status} " . length $r->{body}, "200 $size",
                   "$size bytes @$how $port");
                ok($r->{body} eq $body, 'are the same');
                is($outcome->{verdict}, $verdict, "$verdict");
                is($r->{malformed}, undef, 'well framed');
            }
        }

        my $long = '{"errCode":"Cdm.0053","x":"' . 'y' x $limit . '"}';
        my ($r, $outcome) = stop_with({ status => 400, body => $long }, @to);
        ok($r->{body} eq $long, 'a long error passes');
        is($outcome->{verdict}, 'failed', 'and its status counts');
    }
};

subtest 'D02 10 MB: they pass, and memory is bounded' => sub {
    my $body = '{"validation-result":[],"x":"' . 'y' x 10_000_000 . '"}';
    my ($worker) = $t->worker_pids;

    for my $port ('', 'unbuffered') {
        my $before = memory($worker);
        my ($r, $outcome) = stop_with({ body => $body },
                                      port => $t->port($port));

        ok($r->{body} eq $body, "the same bytes $port");
        is($outcome->{verdict}, 'unknown', 'unknown');
        is($outcome->{bytes}, length $body, 'all are counted');
        cmp_ok(memory($worker) - $before, '<', 4_000, 'less than 4 MB more');

        # a client that does not read, and one that comes back to it
        $before = memory($worker);
        my $h = $t->start_stop(port => $t->port($port));
        $t->wait_for(sub {
            vec(my $readable = '', fileno $h->{sock}, 1) = 1;
            select $readable, undef, undef, 0.1;
        }, what => 'begin of the answer');
        cmp_ok(memory($worker) - $before, '<', 4_000, 'nor for one who waits');
        ($r) = $t->finish($h);
        ok($r->{body} eq $body, 'and who gets all in the end');
    }
};

# Resident memory of a process at its height, in KB.

sub memory {
    my ($pid) = @_;

    my ($kb) = $t->read("/proc/$pid/status") =~ /^VmHWM:\s+(\d+)/m;
    return $kb;
}

ok(!-e $t->path('store'), 'D13 no answer was stored');

$t->done;
