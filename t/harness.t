#!/usr/bin/perl

# The harness and the stand-ins themselves, with an nginx that knows nothing of
# the module: what the other tests rely on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use File::Temp ();
use MIME::Base64 qw(encode_base64);
use Time::HiRes qw(time);

use CdmStop::MadeChain;
use CdmStop::Test;
use CdmStop::H2::Hpack;

my $t = CdmStop::Test->new(module => 0);
my $iam = $t->iam(token_size => 31_000);
my $cdm = $t->cdm;
my $tls = $t->standin('CdmStop::Cdm', name => 'tls', port => 'tls',
                      tls => 'good');
my $expired = $t->standin('CdmStop::Cdm', name => 'expired', port => 'expired',
                          tls => 'expired');

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 2;
events { worker_connections 4096; }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 8 64k;
    proxy_http_version 1.1;
    proxy_buffer_size 128k;
    proxy_buffers 4 128k;
    upstream cdm {
        server 127.0.0.1:%%CDM_PORT%%;
        keepalive 8;
    }
    server {
        listen 127.0.0.1:%%PORT%% backlog=2048;
        location / {
            proxy_set_header Connection "";
            proxy_pass http://cdm;
        }
        location /v3/ { proxy_pass http://127.0.0.1:%%IAM_PORT%%; }
        location = /here { return 200 "here\n"; }
        location /tls/ {
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate %%TESTDIR%%/certs/ca.crt;
            proxy_ssl_name cdm.test;
            proxy_ssl_server_name on;
            proxy_pass https://127.0.0.1:%%PORT_tls%%/;
        }
        location /expired/ {
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate %%TESTDIR%%/certs/ca.crt;
            proxy_ssl_name cdm.test;
            proxy_pass https://127.0.0.1:%%PORT_expired%%/;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_h2%% %%H2%%;
        large_client_header_buffers 8 64k;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
        location = /here { return 200 "here\n"; }
    }
}
EOC

# one word differs between versions
$config =~ s/%%H2%%/http2/;
$t->config($config);
$t->start;

my @auth = (headers => ['X-Auth-Token' => 'x']);

subtest 'nginx runs' => sub {
    is($t->request(target => '/here')->{body}, "here\n", 'an answer');
    is(scalar($t->worker_pids), 2, 'two workers');

    my @old = $t->worker_pids;
    $t->reload;
    my %new = map { $_ => 1 } $t->worker_pids;
    is(scalar(grep { $new{$_} } @old), 0, 'reload: old workers are gone');
    is(keys %new, 2, 'reload: new workers are there');

    my ($exit, $output) = $t->nginx_t($config =~ s/events \{/evnts {/r);
    isnt($exit, 0, 'nginx -t refuses');
    like($output, qr/unknown directive "evnts"/, 'nginx -t says why');
    ($exit, $output) = $t->nginx_t($config);
    is($exit, 0, 'nginx -t accepts') or diag($output);

    my $good = $t->read('nginx.conf');
    $t->write('nginx.conf', $good =~ s/events \{/evnts {/r);
    like($t->reload(fail => 1), qr/evnts/, 'reload of a broken one: refused');
    $t->write('nginx.conf', $good);
    is($t->request(target => '/here')->{status}, 200, 'and it serves on');

    $t->reopen;
    $t->request(target => '/here');
    $t->wait_for(sub { $t->read('access.log') =~ /here/ },
                 what => 'line in the new access log');
    pass('USR1: logs are written anew');
};

subtest 'client and CDM' => sub {
    my $r = $t->put_stop(headers => ['X-Auth-Token' => 'x', 'A' => 'b']);
    is($r->{status}, 200, 'the default stop');
    is($r->{body}, '{}', 'its body');
    like($r->header('x-request-id'), qr/\A[0-9a-f]{32}\z/, 'a request id');

    my ($got) = $cdm->stops;
    is($got->{target}, '/v1.1/1551c7f6c808414d8e9f3c514a170f2e/clusters/'
       . '6ec9a0a4-76be-4262-8697-e7af1fac7920/cdm/job/jdbc2hive/stop',
       'CDM got the target');
    is($got->header('a'), 'b', 'and the header');
    is($cdm->bytes, length $cdm->raw, 'every byte is kept');
    is($cdm->raw, $got->{raw}, 'as it came');

    is($t->put_stop->{status}, 401, 'no token: 401');

    my @r = $t->raw("GET /here HTTP/1.1\r\nHost: a\r\n\r\n" x 3, expect => 3);
    is(join(',', map { $_->{body} } @r), "here\n,here\n,here\n", 'pipelining');

    $r = $t->request(method => 'HEAD', target => '/here');
    is($r->{body}, '', 'HEAD has no body');

    my $c = $t->connect;
    $c->send_slowly([split /(?=H)/, "GET /here HTTP/1.1\r\nHost: a\r\n\r\n"],
                    0.01);
    is($c->response->{status}, 200, 'sent in pieces');

    $r = $t->raw("GET / HTTP/1.1\r\nHost: a\r\nBad\x00: x\r\n\r\n");
    is($r->{status}, 400, 'nginx answers rubbish');

    my ($exit, $output) = $t->curl('-s', 'http://127.0.0.1:' . $t->port
                                         . '/here');
    is($output, "here\n", 'curl');
};

subtest 'scripts' => sub {
    $cdm->reset_log;
    is($cdm->bytes, 0, 'nothing yet');

    $cdm->script(
        { when => { job => 'a' }, answer => 'not_running' },
        { when => { job => qr/^b/ }, times => 1, status => 429, body => 'no',
          headers => ['Retry-After' => 7] },
        { when => { job => 'chunks' }, body => 'x' x 10, chunked => 3 },
        { when => { job => 'close' }, body => 'until close', no_length => 1 },
        { when => { job => 'drop' }, drop => ['X-Request-Id'] },
        { when => { job => 'drip' }, body => 'abc', drip => 0.0001 },
        { when => { job => 'slow' }, body => 'abc', delay => 0.01,
          delay_body => 0.01 },
        { when => { job => 'parts' },
          parts => ["HTTP/1.1 200 O", 0.02, "K\r\nContent-Length: 2\r\n\r\no",
                    0.02, 'k'] },
        { when => { job => 'reset' }, reset => 'after_request' },
        { when => { job => 'half' }, body => 'x' x 1000, reset => 'mid_body' },
        { when => { job => 'early' }, before => "HTTP/1.1 103 Early\r\n\r\n" },
        { when => { header => { 'X-A' => qr/1/ } }, status => 418, body => '' },
    );

    my $r = $t->put_stop(job => 'a', @auth);
    is("$r->{status} " . $r->json->{errCode}, '400 Cdm.0053', 'named answer');

    $r = $t->put_stop(job => 'b', @auth);
    is("$r->{status} $r->{body} " . $r->header('Retry-After'), '429 no 7',
       'own answer');
    is($t->put_stop(job => 'b', @auth)->{status}, 200, 'but once');

    is($t->put_stop(job => 'chunks', @auth)->{body}, 'x' x 10, 'chunked');
    is($t->put_stop(job => 'close', @auth)->{body}, 'until close', 'no length');
    is($t->put_stop(job => 'drop', @auth)->header('X-Request-Id'), undef,
       'a header dropped');
    is($t->put_stop(job => 'drip', @auth)->{body}, 'abc', 'byte by byte');
    is($t->put_stop(job => 'slow', @auth)->{body}, 'abc', 'slowly');
    is($t->put_stop(job => 'parts', @auth)->{body}, 'ok', 'in parts');
    is($t->put_stop(job => 'reset', @auth)->{status}, 502, 'reset');

    # straight, for nginx does not show its client all that it got
    my @straight = (port => $t->port('CDM'), @auth);
    $r = $t->put_stop(job => 'half', @straight);
    is(length $r->{body}, 500, 'reset amid the body');
    like($r->{malformed}, qr/shorter/, 'the client knows');

    $r = $t->put_stop(job => 'early', @straight);
    is($r->{status}, 200, '103 before');
    is($r->{interim}[0]{status}, 103, 'the interim answer is kept');
    is($t->put_stop(headers => ['X-Auth-Token' => 'x', 'X-A' => 1])->{status},
       418, 'by header');

    ok(!eval { $cdm->script({ stauts => 200 }); 1 }, 'an unknown word dies');
    like($@, qr/stauts/, 'and is named');

    $cdm->script;
    is($t->put_stop(@auth)->{body}, '{}', 'default again');

    for my $name ($cdm->answers) {
        $cdm->script({ answer => $name });
        my $r = $t->put_stop(@auth);
        ok(!$r->{malformed} && $r->{status}, "answer $name");
    }

    $cdm->script;
};

subtest 'moments' => sub {
    $cdm->reset_log;
    $cdm->script({ when => { job => 'held' }, hold => 'gate' });

    my $h = $t->start_stop(job => 'held', @auth);
    $cdm->wait_requests(1);
    ok($h->is_open && !@{$h->{responses}}, 'the answer is held');
    $cdm->release('gate');
    is($t->finish($h)->{status}, 200, 'and released');

    $cdm->script({ hang => 1 });
    $h = $t->start_stop(job => 'x', @auth);
    $cdm->wait_requests(2);
    $h->reset;
    $t->wait_for(sub { !grep { !$_->{closed} && $_->{raw} =~ m{/x/} }
                       $cdm->connections }, what => 'closed connection');
    my ($c) = grep { $_->{raw} =~ m{/x/} } $cdm->connections;
    like($c->{how}, qr/peer/, 'the stand-in sees that the peer left');

    $cdm->script;
    $t->put_stop(@auth);
    $cdm->script({ on => 'first_byte', close => 1 });
    is($t->put_stop(@auth)->{status}, 502,
       'idle connection closed as the request came');

    $cdm->script({ on => 'accept', reset => 1 });
    $cdm->close_idle;
    is($t->put_stop(@auth)->{status}, 502, 'reset at accept');
    $cdm->script;

    $cdm->refuse;
    $cdm->close_idle;
    is($t->put_stop(@auth)->{status}, 502, 'connection refused');
    $cdm->resume;
    is($t->put_stop(@auth)->{status}, 200, 'and accepted again');
};

subtest '1,000 at once' => sub {
    $cdm->reset_log;
    $cdm->script({ hold => 'all' });

    my @h = map { $t->start_stop(job => "j$_", @auth) } 1 .. 1000;
    $cdm->wait_requests(1000);
    is($cdm->counters->{requests}, 1000, 'all are at CDM');
    $cdm->release('all');

    my @r = $t->finish(@h);
    is(scalar(grep { $_ && $_->{status} == 200 } @r), 1000, 'all got 200');

    my %jobs = map { $_->{target} => 1 } $cdm->stops;
    is(keys %jobs, 1000, 'each was recorded');
    $cdm->script;
};

subtest 'IAM' => sub {
    my $body = sub {
        my ($password) = @_;
        return JSON::PP->new->utf8->encode({ auth => {
            identity => { methods => ['password'], password => { user => {
                name => 'cdm-gateway', password => $password,
                domain => { name => 'acme' } } } },
            scope => { project => { id => $t->PROJECT } } } });
    };
    my @post = (method => 'POST', target => '/v3/auth/tokens?nocatalog=true',
                port => $t->port('IAM'));

    # a token in an answer to a client is a leak, so not through the records
    my $answers = $t->{answers};
    $t->{answers} = [];

    my $r = $t->request(@post, body => $body->($t->{password}));
    is($r->{status}, 201, 'right password');
    my $token = $r->header('X-Subject-Token');
    is(length $token, 31_000, 'a token of 31,000 bytes');
    like($token, qr/\AMII/, 'that looks like one');
    is(($iam->tokens)[0]{token}, $token, 'IAM knows it');
    is($r->json->{token}{project}{id}, $t->PROJECT, 'the project');
    like($r->json->{token}{expires_at},
         qr/\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\z/, 'expires_at');

    my @check = (target => '/v3/auth/tokens', port => $t->port('IAM'));
    is($t->request(@check, headers => ['X-Auth-Token' => $token,
                                       'X-Subject-Token' => $token])->{status},
       200, 'it is valid');
    is($t->request(@check, headers => ['X-Auth-Token' => $token,
                                       'X-Subject-Token' => 'MIIx'])->{status},
       404, 'another one is not');
    $iam->revoke($token);
    is($t->request(@check, headers => ['X-Auth-Token' => $token,
                                       'X-Subject-Token' => $token])->{status},
       401, 'nor is it when revoked');

    is($t->request(@post, body => $body->('wrong'))->{status}, 401,
       'wrong password');
    is($t->request(@post, body => '{"auth":')->{status}, 400, 'broken body');

    $iam->script({ times => 1, token => { expires_at => 'never',
                   project => undef }, token_size => 1, life => 5 });
    $r = $t->request(@post, body => $body->($t->{password}));
    is($r->json->{token}{expires_at}, 'never', 'a field changed');
    ok(!exists $r->json->{token}{project}, 'a field removed');
    is(length $r->header('X-Subject-Token'), 1, 'a short token');

    $iam->script({ times => 1, drop => ['X-Subject-Token'],
                   body => '{"token":"%%TOKEN%%"}' });
    $r = $t->request(@post, body => $body->($t->{password}));
    is($r->header('X-Subject-Token'), undef, 'no token header');
    is($r->json->{token}, ($iam->tokens)[-1]{token}, 'but in the body');

    $iam->script({ times => 1, headers => ['X-Subject-Token' => '%%TOKEN%%',
                                           'X-Subject-Token' => 'MIItwo'] });
    $r = $t->request(@post, body => $body->($t->{password}));
    is(scalar($r->all('X-Subject-Token')), 2, 'two tokens');

    my $caller = $iam->add_token(user => 'airflow', domain => 'acme',
                                 project => $t->PROJECT, size => 100);
    is(length $caller, 100, 'a token for a caller');

    is(scalar($iam->posts), 6, 'token requests are counted');
    $t->{answers} = $answers;
};

subtest 'TLS' => sub {
    my $r = $t->put_stop(target => '/tls' . $t->stop_target, @auth);
    is($r->{status}, 200, 'through TLS with a checked certificate');
    is(($tls->requests)[0]{target}, $t->stop_target, 'the stand-in got it');
    is(($tls->{front}->handshakes(1))[0]{sni}, 'cdm.test', 'and its name');

    $r = $t->put_stop(target => '/expired' . $t->stop_target, @auth);
    is($r->{status}, 502, 'an expired certificate');
    is($expired->bytes, 0, 'no byte in clear');

    for my $kind (qw(wrong_name unknown_ca)) {
        my $c = $t->cert($kind);
        my ($exit) = CdmStop::Process::capture('openssl', 'verify', '-CAfile',
            $c->{ca}, '-verify_hostname', 'cdm.test', $c->{cert});
        isnt($exit, 0, "certificate $kind does not verify");
    }
};

subtest 'HTTP/2' => sub {
    # RFC 7541, C.4.1 and C.6.1: Huffman
    my $hpack = CdmStop::H2::Hpack->new;
    is_deeply([$hpack->decode(pack 'H*', '828684418cf1e3c2e5f23a6ba0ab90f4ff')],
              [[':method', 'GET'], [':scheme', 'http'], [':path', '/'],
               [':authority', 'www.example.com']], 'the example of the RFC');
    is_deeply([$hpack->decode(pack 'H*', '828684be5886a8eb10649cbf')],
              [[':method', 'GET'], [':scheme', 'http'], [':path', '/'],
               [':authority', 'www.example.com'],
               ['cache-control', 'no-cache']], 'and its dynamic table');

    $cdm->reset_log;
    my $h2 = $t->h2(port => $t->port('h2'));
    my $id = $h2->request(headers => [$t->h2_stop_headers(@auth)]);
    my $r = $h2->response($id);
    is($r->{status}, 200, 'a stop over HTTP/2');
    is($r->{body}, '{}', 'its body');
    like($r->header('x-request-id'), qr/\A[0-9a-f]{32}\z/, 'its headers');

    my @ids = map { $h2->request(headers => [$t->h2_stop_headers(
                        job => "h$_", @auth)], body => 'x' x $_) } 1 .. 100;
    my @r = $h2->collect(@ids);
    is(scalar(grep { $_->{status} == 200 } @r), 100, '100 streams');
    is($cdm->count, 101, 'all arrived');
    is_deeply([sort { $a <=> $b } map { length $_->{body} } $cdm->stops],
              [0 .. 100], 'with their bodies');

    $id = $h2->request(headers => [$t->h2_stop_headers(@auth)],
                       body => 'y' x 300_000);
    is($h2->response($id)->{status}, 200, 'a body beyond the windows');

    $cdm->script({ hang => 1 });
    $id = $h2->request(headers => [$t->h2_stop_headers(job => 'gone', @auth)]);
    $cdm->wait_requests(103);
    $h2->rst($id);
    $t->wait_for(sub { !grep { !$_->{closed} && $_->{raw} =~ /gone/ }
                       $cdm->connections }, what => 'closed connection');
    pass('RST_STREAM reaches nginx');
    $cdm->script;

    my $bad = $t->h2(port => $t->port('h2'));
    $id = $bad->request(headers => [$t->h2_stop_headers, ['Upper', 'x']]);
    $r = $bad->response($id);
    ok($r->{reset} || $r->{refused} || $r->{status} == 400,
       'an upper-case name is refused');

    $bad = $t->h2(port => $t->port('h2'));
    $bad->frame(5, 0, 1, '');
    ok($bad->wait_closed, 'a connection error closes');
    ok(defined $bad->{goaway}, 'with GOAWAY');
};

subtest 'secrets' => sub {
    my $ledger = CdmStop::Ledger->new;
    my $token = $ledger->token(9120);
    my $password = $ledger->password;
    my $short = $ledger->add('short', 'q"1\\' . $ledger->key(4));

    my $piece = substr $token, 5003, 16;
    my %hidden = (
        raw => $piece, hex => unpack('H*', $piece),
        'upper hex' => uc unpack('H*', $piece),
        base64 => encode_base64("a$token", ''),
        base64url => encode_base64("ab$token", '') =~ tr{+/}{-_}r,
        url => substr($token, 100, 60) =~ s/(\W)/sprintf '%%%02x', ord $1/ger,
        password => $password, 'password in JSON' =>
            JSON::PP->new->allow_nonref->encode($password),
        short => $short, 'short in hex' => unpack('H*', $short),
        'short in base64' => encode_base64("xy$short", ''),
    );

    for my $name (sort keys %hidden) {
        my $missed = grep { !$ledger->search('-' x $_ . $hidden{$name} . '-') }
                     0 .. 33;
        is($missed, 0, "found: $name");
    }

    ok(!$ledger->search(substr $token, 5003, 15), 'not found: 15 bytes');
    ok(!$ledger->search('MII' . 'x' x 100), 'not found: how tokens begin');
    $ledger->add('tiny', 'x');
    ok(!$ledger->search('x' x 100), 'not found: what is too short');
    unlike(join('', $ledger->search($token)), qr/\Q$piece\E/,
           'findings do not show what they found');
};

# a second set, whose checks must fail

subtest 'checks find what is wrong' => sub {
    my $x = CdmStop::Test->new(module => 0);
    my $password = $x->{ledger}->password;
    my $token = $x->{ledger}->token(2000);

    $x->write_secret('secrets/password', $password);
    $x->write('standin/x', $token);
    is_deeply([$x->secret_findings], [], 'secrets where they may be');

    # what stands around a piece is not by chance what stood around it
    $x->write('deep/er/file', '.' x 5 . substr($token, 77, 20) . '.');
    like(join('', $x->secret_findings),
         qr{deep/er/file: token \(raw\), 20 bytes}, 'a secret in a file');
    unlink $x->path('deep/er/file');

    my $stamp = '2026/11/24 01:02:03 [debug] 1#1: *1';
    $x->write('error.log', "$stamp http proxy header:\n\"PUT / HTTP/1.1\r\n"
              . "X-Auth-Token: $token\r\n\"\n"
              . "$stamp http header: \"a: $token\"\n"
              . "$stamp http2 output header: \"a: $token\"\n");
    is_deeply([$x->secret_findings], [], 'debug lines of the core');
    $x->write('error.log', "$stamp cdm stop token: $token\n");
    is(scalar($x->secret_findings), 1, 'debug lines of the module');
    unlink $x->path('error.log');

    $x->keep_answer('answer', "abc$password");
    ok(scalar($x->secret_findings), 'a secret in an answer');
    $x->{answers} = [];

    $x->write('error.log', "2026/11/24 01:02:03 [alert] 1#1: odd\n"
              . "2026/11/24 01:02:03 [crit] 1#1: worse\n"
              . "2026/11/24 01:02:03 [error] 1#1: usual\n");
    is(scalar($x->log_findings), 2, 'alerts');
    $x->expect_log(qr/odd/);
    is(scalar($x->log_findings), 1, 'but those expected');
    is(scalar($x->missing_log), 0, 'which came');
    $x->expect_log(qr/never/);
    is(scalar($x->missing_log), 1, 'or did not');

    my %report = (
        "=1=ERROR: AddressSanitizer: heap-use-after-free\n    #0 ngx_x\n" => 1,
        "src/http/ngx_http_cdm_stop_a.c:1:2: runtime error: odd\n" => 1,
        "src/core/ngx_a.c:1:2: runtime error: odd\n    #0 0x1 in ngx_a\n"
            . "    #1 0x2 in ngx_http_cdm_stop_b\n" => 1,
        "src/core/ngx_a.c:1:2: runtime error: odd\n    #0 0x1 in ngx_a\n" => 0,
        "LeakSanitizer\nDirect leak of 8 byte(s)\n    #0 0x1 in malloc\n"
            . "    #1 0x1 in ngx_event_process_init\n" => 0,
        "LeakSanitizer\nDirect leak of 8 byte(s)\n    #0 0x1 in malloc\n"
            . "    #1 0x1 in ngx_create_pool\n" => 1,
    );

    for my $text (sort keys %report) {
        $x->write('sanitizer/report.1', $text);
        is(scalar($x->sanitizer_findings), $report{$text},
           ($report{$text} ? 'counts: ' : 'does not count: ')
           . $text =~ s/\n\s*/ /gr);
    }

    $x->write('sanitizer/report.1', "==7==ERROR: LeakSanitizer: leaks\n");
    is(scalar($x->sanitizer_findings), 0, 'nor does what it begins with');

    $x->write('sanitizer/report.memcheck.7', "==7== Invalid read of size 1\n"
              . "==7==    at 0x1: f (a.c:1)\n==7== \n"
              . "==7== 8 bytes in 1 blocks are definitely lost\n");
    is_deeply([$x->sanitizer_findings],
              ["Invalid read of size 1\n   at 0x1: f (a.c:1)",
               '8 bytes in 1 blocks are definitely lost'], 'memcheck counts');
};

subtest 'records' => sub {
    my %bad = (
        'no line feed' => '{"a":1}', 'no JSON' => "{\"a\":}\n",
        'no JSON object' => "[1]\n", 'empty line' => "{}\n\n",
        'UTF-8' => "{\"a\":\"\xff\"}\n", 'control' => "{\"a\":\"\x01\"}\n",
        'twice' => "{\"a\":1,\"b\":{\"a\":2},\"\\u0061\":3}\n",
    );

    for my $name (sort keys %bad) {
        ok(!eval { CdmStop::Test::Records::parse_lines("{}\n$bad{$name}", 'f');
                   1 }, "refused: $name");
        like($@, qr/\Af:[23]: .*$name/, 'the place is named');
    }

    my @r = CdmStop::Test::Records::parse_lines(
        "{\"a\":\"{\\\"a\\\":[\",\"b\":[{\"a\":1},{\"a\":2}]}\n"
        . "{\"n\":\"\xe5\x90\x8c\"}\n", 'f');
    is(scalar @r, 2, 'accepted: two lines');
    is($r[1]{n}, "\x{540c}", 'decoded');

    $t->write('r.jsonl', "{\"a\":1}\n{\"a\"");
    my @part = $t->wait_records('r.jsonl', 1);
    is(scalar @part, 1, 'a line on its way is waited for');
    ok(!eval { $t->wait_records('r.jsonl', 2, timeout => 0.1); 1 },
       'waiting is bounded');
};

subtest 'chains, by cdm-stop-audit as well' => sub {
    my $x = CdmStop::Test->new(log => 'info');
    my $made = CdmStop::MadeChain->new(key => 'k' x 32);
    my $findings = sub { join "\n", $x->chain_findings };

    $made->stop for 1 .. 3;
    my $open = $made->stop(open => 1);
    my @lines = $made->lines;

    $x->audit_key('k' x 32);
    $x->write('audit.jsonl', join '', @lines[4 .. 6]);
    $x->write('audit.jsonl.1', join '', @lines[0 .. 3]);
    is($findings->(), '', 'a whole chain, with an open intent');
    unlink $x->path('audit.jsonl.1');
    is($findings->(), '', 'of which the begin was deleted');

    $x->write('audit.jsonl', join '', @lines[0 .. 2, 4 .. 6]);
    like($findings->(), qr/^cdm-stop-audit: missing, audit.jsonl:4: /m,
         'a missing line');
    $x->damaged_records('missing');
    is($findings->(), '', 'which was expected');
    $x->damaged_records('moved');
    like($findings->(), qr/: missing, /, 'or another one was');
    $x->write('audit.jsonl', join '', @lines);
    like($findings->(), qr/^cdm-stop-audit: found none of: moved$/m,
         'or one was and is not there');

    delete $x->{damaged_records};
    $x->{tool} = '/bin/true';
    like($findings->(), qr/^cdm-stop-audit: heads: \w+ not there, /m,
         'a tool that says nothing');
    like($findings->(), qr/^cdm-stop-audit: open intents: $open not there/m,
         'of open intents neither');
    $x->{tool} = '/bin/false';
    like($findings->(), qr/^cdm-stop-audit: exit status 1$/m,
         'a tool that fails');
};

subtest 'signals and failures' => sub {
    my $x = CdmStop::Test->new(module => 0);
    $x->config("%%GLOBALS%%\nevents { }\nhttp { %%HTTP_GLOBALS%%\nserver { "
               . "listen 127.0.0.1:%%PORT%%; wrong; } }\n");
    ok(!eval { $x->start; 1 }, 'start dies');
    like($@, qr/unknown directive "wrong"/, 'with the reason');

    my $y = CdmStop::Test->new(module => 0);
    $y->config("%%GLOBALS%%\nevents { }\nhttp { %%HTTP_GLOBALS%%\nserver { "
               . "listen 127.0.0.1:%%PORT%%; return 200 ok; } }\n");
    $y->start;
    my ($worker) = $y->worker_pids;
    $y->kill_worker($worker);
    $y->wait_for(sub { $y->worker_pids }, what => 'a new worker');
    is($y->request->{body}, 'ok', 'a killed worker is replaced');
    is($y->stop, 0, 'a graceful end');
    is_deeply([$y->log_findings], [], 'the kill of the test is no finding');
    $y->{killed} = {};
    is(scalar($y->log_findings), 1, 'any other is');
    is_deeply([$y->end_findings(0)], [], 'status 0 is well');
    is(scalar($y->end_findings(11)), 1, 'a signal is not');

    # a test that dies leaves nothing behind
    my $child = <<'EOC';
use CdmStop::Test;
my $t = CdmStop::Test->new(module => 0);
$t->cdm;
$t->config("%%GLOBALS%%\nevents { }\nhttp { %%HTTP_GLOBALS%%\n }\n");
$t->start;
my @standins = map { $_->{pid} } @{$t->{standins}};
print join(' ', 'pids', $t->master_pid, @standins), "\n";
die "on purpose\n";
EOC
    my ($exit, $output) = CdmStop::Process::capture(
        $^X, "-I$FindBin::Bin/lib", '-e', $child);
    isnt($exit, 0, 'a test that dies fails');
    my @pids = ($output =~ /^pids (.*)$/m)[0] =~ /\d+/g;
    is(scalar @pids, 2, 'it had children');
    is(kill(0, @pids), 0, 'and ended them');
};

$t->done;
