#!/usr/bin/perl

# A stop is sent at most once, whatever goes wrong between nginx and CDM and
# whatever proxy_next_upstream says: what was surely not sent is 502 .0401 or
# goes to the next peer, anything else without an answer is 504 .0402.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::INET;
use Socket qw(inet_aton pack_sockaddr_in);

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $second = $t->cdm(port => 'second', name => 'second');
my $expired = $t->cdm(port => 'expired', name => 'expired', tls => 'expired');
my $good = $t->cdm(port => 'good', name => 'good', tls => 'good');
$t->port($_) for qw(gone gone2 full);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { worker_connections 512; }
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
    }
    cdm_stop                    huawei;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    proxy_next_upstream error timeout invalid_header http_500 http_502
                        http_503 http_504 http_403 http_404 http_429
                        non_idempotent;
    proxy_connect_timeout  500ms;
    client_max_body_size   20m;

    upstream two {
        server 127.0.0.1:%%CDM_PORT%% max_fails=0;
        server 127.0.0.1:%%PORT_second%% max_fails=0;
    }
    upstream first_refuses {
        server 127.0.0.1:%%PORT_gone%% max_fails=0;
        server 127.0.0.1:%%CDM_PORT%% backup;
    }
    upstream first_is_slow {
        server 127.0.0.1:%%PORT_full%% max_fails=0;
        server 127.0.0.1:%%CDM_PORT%% backup;
    }
    upstream first_expired {
        server 127.0.0.1:%%PORT_expired%% max_fails=0;
        server 127.0.0.1:%%PORT_good%% backup;
    }
    upstream first_plain {
        server 127.0.0.1:%%CDM_PORT%% max_fails=0;
        server 127.0.0.1:%%PORT_good%% backup;
    }
    upstream none {
        server 127.0.0.1:%%PORT_gone%% max_fails=0;
        server 127.0.0.1:%%PORT_gone2%% max_fails=0;
    }
    upstream dead {
        server 127.0.0.1:%%PORT_gone%% max_fails=1 fail_timeout=1h;
        server 127.0.0.1:%%PORT_gone2%% max_fails=1 fail_timeout=1h;
    }
    upstream kept {
        server 127.0.0.1:%%CDM_PORT%% max_fails=0;
        server 127.0.0.1:%%PORT_second%% backup;
        keepalive 4;
    }

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            proxy_read_timeout  400ms;
            proxy_send_timeout  400ms;
            proxy_pass          http://two;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_unbuffered%%;
        location /v1.1/ {
            proxy_read_timeout       400ms;
            proxy_buffering          off;
            proxy_request_buffering  on;
            proxy_http_version       1.1;
            proxy_set_header         Connection close;
            proxy_pass               http://two;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_kept%%;
        location /v1.1/ {
            proxy_http_version  1.1;
            proxy_set_header    Connection "";
            proxy_pass          http://kept;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_refused%%;
        location /v1.1/ { proxy_pass http://first_refuses; }
    }
    server {
        listen 127.0.0.1:%%PORT_slow%%;
        location /v1.1/ { proxy_pass http://first_is_slow; }
    }
    server {
        listen 127.0.0.1:%%PORT_none%%;
        location /v1.1/ { proxy_pass http://none; }
    }
    server {
        listen 127.0.0.1:%%PORT_dead%%;
        location /v1.1/ { proxy_pass http://dead; }
    }
    server {
        listen 127.0.0.1:%%PORT_tls%%;
        proxy_ssl_verify               on;
        proxy_ssl_trusted_certificate  %%TESTDIR%%/certs/ca.crt;
        proxy_ssl_name                 cdm.test;
        location /v1.1/1551c7f6c808414d8e9f3c514a170f2e/ {
            proxy_pass https://first_expired;
        }
        location /v1.1/2551c7f6c808414d8e9f3c514a170f2e/ {
            proxy_pass https://first_plain;
        }
        location /v1.1/3551c7f6c808414d8e9f3c514a170f2e/ {
            proxy_pass https://127.0.0.1:%%PORT_expired%%;
        }
    }
}
EOC

# a port whose queue of connections is full: a connection to it hangs
my $full = IO::Socket::INET->new(
    Listen => 1, LocalAddr => '127.0.0.1', LocalPort => $t->port('full'),
    ReuseAddr => 1) or die "listen: $!\n";
my @waiting = map {
    socket(my $s, Socket::PF_INET, Socket::SOCK_STREAM, 0)
        or die "socket: $!\n";
    $s->blocking(0);
    connect $s, pack_sockaddr_in($t->port('full'), inet_aton('127.0.0.1'));
    $s;
} 1 .. 4;

$t->start;

my $at = 0;

# Sends a stop under a name of its own; the answer and its records, all that
# were written since the last call.

sub stop {
    my (%arg) = @_;

    my $r = $t->put_stop(%arg);
    my (%records, @all);

    $t->wait_for(sub {
        my $bytes = substr $t->read('audit.jsonl'), $at;
        @all = CdmStop::Test::Records::parse_lines($bytes, 'audit.jsonl');
        return grep { $_->{stage} =~ /outcome|refused/ } @all;
    }, what => 'outcome');
    $at = -s $t->path('audit.jsonl');

    push @{$records{$_->{stage}}}, $_ for @all;
    is(join(' ', map { "$_->{stage} $_->{request_id}" } @all),
       join(' ', map { $_ . ' ' . ($r->header('X-Request-Id') // '?') }
                     qw(intent outcome)), 'one pair, of this request');

    return ($r, $records{outcome}[0], $records{intent}[0]);
}

# A stop that CDM did not answer, though it may have got it.

sub is_unknown {
    my ($name, %arg) = @_;

    my ($r, $outcome) = stop(%arg);

    is($r->{status}, 504, "$name: 504");
    is($r->json && $r->json->{error_code}, 'CDMSTOP.0402', '.0402');
    is($r->header('Content-Type'), 'application/json', 'JSON');
    is($r->json->{request_id}, $outcome->{request_id}, 'with the id');
    is($r->{malformed}, undef, 'well framed');
    is($outcome->{verdict}, 'unknown', 'unknown');
    is($outcome->{status}, 504, 'in the record, too');
    is($outcome->{error_code}, 'CDMSTOP.0402', 'with its code');
    is($outcome->{attempts}, 1, 'one attempt');

    return ($r, $outcome);
}

# A stop that surely was not sent.

sub is_not_sent {
    my ($name, %arg) = @_;

    my ($r, $outcome) = stop(%arg);

    is($r->{status}, 502, "$name: 502");
    is($r->json && $r->json->{error_code}, 'CDMSTOP.0401', '.0401');
    is($outcome->{verdict}, 'not_sent', 'not sent');
    is($outcome->{status}, 502, 'in the record, too');
    is($outcome->{error_code}, 'CDMSTOP.0401', 'with its code');
    is($outcome->{attempts}, 0, 'no attempt');
    is($outcome->{upstream_status}, undef, 'no status of CDM');

    return ($r, $outcome);
}

sub script {
    my (@rules) = @_;

    $_->script(@rules) for $cdm, $second;
    return;
}

# How often a stop reached any of the two, by their bytes.

sub arrivals {
    my ($job) = @_;

    my $raw = join '', map { $_->raw } $cdm, $second;
    return scalar(() = $raw =~ m{/cdm/job/\Q$job\E/stop}g);
}

my $n = 0;
my @both = ('', 'unbuffered');

subtest 'D09 connection refused, the second peer gets it' => sub {
    my ($r, $outcome) = stop(job => 'second_peer', port => $t->port('refused'));

    is($r->{status}, 200, 'it was stopped');
    is($outcome->{verdict}, 'stopped', 'by its record');
    is($outcome->{upstream}, '127.0.0.1:' . $t->port('CDM'), 'by that peer');
    is($outcome->{attempts}, 1, 'it was sent once');
    is(arrivals('second_peer'), 1, 'and arrived once');
};

subtest 'D09 a connection that hangs, the second peer gets it' => sub {
    my ($r, $outcome) = stop(job => 'slow_peer', port => $t->port('slow'));

    is($r->{status}, 200, 'it was stopped');
    is($outcome->{upstream}, '127.0.0.1:' . $t->port('CDM'), 'by the second');
    is(arrivals('slow_peer'), 1, 'it arrived once');
};

subtest 'D09 TLS fails, the second peer gets it' => sub {
    my ($r, $outcome) = stop(port => $t->port('tls'));

    is($r->{status}, 200, 'expired certificate: it was stopped');
    is($outcome->{upstream}, '127.0.0.1:' . $t->port('good'), 'by the second');
    is($expired->bytes, 0, 'nothing went to the first');
    is($good->count, 1, 'one stop at the second');

    # a peer that speaks no TLS, or hangs up amid the handshake
    my @plain = (port => $t->port('tls'),
                 project => '2551c7f6c808414d8e9f3c514a170f2e');

    for my $rule ({ on => 'first_byte', raw => "HTTP/1.1 200 OK\r\n"
                    . "Content-Length: 2\r\n\r\n{}", close => 1 },
                  { on => 'first_byte', close => 1 },
                  { on => 'first_byte', reset => 1 },
                  { on => 'accept', reset => 1 })
    {
        my $before = $good->count;
        script($rule);
        ($r, $outcome) = stop(@plain);

        is($r->{status}, 200, 'no handshake: it was stopped');
        is($good->count, $before + 1, 'by the second peer');
        is($outcome->{attempts}, 1, 'it was sent once');
    }

    script();
    unlike($cdm->raw, qr/X-Auth-Token.*2551c7f6|2551c7f6.*X-Auth-Token/s,
           'nothing in clear');
};

# nginx may find the connection open and an answer on it at one time, and read
# before it has sent anything, be it a handshake

subtest 'H12 D10 an answer before the request' => sub {
    my $answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    for my $close ([], [close => 1]) {
        script({ on => 'accept', raw => $answer, @$close });

        for (1 .. 12) {
            my $job = 'forged' . ++$n;
            my $forged = $good->count;
            my ($r, $outcome) = stop(
                job => $job, port => $t->port('tls'),
                project => '2551c7f6c808414d8e9f3c514a170f2e');

            my $seen = "$r->{status} $outcome->{verdict} $outcome->{attempts} "
                       . ($good->count - $forged);
            like($seen, qr/\A(?:200 stopped 1 1|502 not_sent 0 0)\z/,
                 "TLS: $seen");
        }

        for (1 .. 12) {
            my $job = 'forged' . ++$n;
            my ($r, $outcome) = stop(job => $job);
            my $seen = "$r->{status} $outcome->{verdict} $outcome->{attempts}";

            # a peer that CDM is, as far as anybody can tell, may be fast
            like($seen, qr/\A(?:200 stopped 1|50\d \w+ [01])\z/,
                 "in clear: $seen");
            cmp_ok(arrivals($job), '<=', 1, 'at most one arrived');
        }
    }

    script();
};

subtest 'D09 no peer is left' => sub {
    my ($r, $outcome) = is_not_sent('all refuse', port => $t->port('none'));
    like($outcome->{upstream}, qr/\A127\.0\.0\.1:\d+\z/, 'the last peer');

    is_not_sent('all refuse', port => $t->port('dead'));
    ($r, $outcome) = is_not_sent('no live upstreams', port => $t->port('dead'));
    is($outcome->{upstream}, 'dead', 'the name of the group');
    is($r->header('Retry-After'), undef, 'no promise of a time');

    is_not_sent('TLS refuses the only one', port => $t->port('tls'),
                project => '3551c7f6c808414d8e9f3c514a170f2e');
    is($expired->bytes, 0, 'which got nothing');
};

subtest 'D10 once over all peers' => sub {
    my %failure = (
        'silence' => { hang => 1 },
        'reset' => { reset => 'after_request' },
        'close' => { close => 'after_request' },
        'reset amid the header' =>
            { parts => ["HTTP/1.1 200 OK\r\nX-A", 0.05], reset => 1 },
        'close amid the header' =>
            { parts => ["HTTP/1.1 200 OK\r\nX-A", 0.05], close => 1 },
        'silence amid the header' =>
            { parts => ["HTTP/1.1 200 OK\r\nX-A"], hang => 1 },
        'reset at the first byte' => { on => 'first_byte', reset => 1 },
        'close at the first byte' => { on => 'first_byte', close => 1 },
    );

    for my $port (@both) {
        for my $name (sort keys %failure) {
            my $job = 'once' . ++$n;
            script($failure{$name});
            is_unknown("$name $port", job => $job, port => $t->port($port));
            cmp_ok(arrivals($job), '<=', 1, 'at most one arrived');
        }

        # answers for which proxy_next_upstream would try the next peer
        for my $status (403, 404, 429, 500, 502, 503, 504) {
            my $job = 'status' . ++$n;
            script({ status => $status, body => 'no' });
            my ($r, $outcome) = stop(job => $job, port => $t->port($port));

            is("$r->{status} $r->{body}", "$status no", "$status passes $port");
            is($outcome->{attempts}, 1, 'one attempt');
            is(arrivals($job), 1, 'one arrived');
        }
    }

    # accepted and gone before a byte of ours: sent or not, but never twice
    for (1 .. 10) {
        my $job = 'accept' . ++$n;
        script({ on => 'accept', reset => 1 });
        my ($r, $outcome) = stop(job => $job);
        my $seen = "$r->{status} $outcome->{verdict} $outcome->{attempts}";

        like($seen, qr/\A(?:504 unknown 1|502 not_sent 0)\z/,
             "reset at accept: $seen");
        cmp_ok(arrivals($job), '<=', 1, 'at most one arrived');
    }

    script();
};

subtest 'D10 a body that CDM does not take' => sub {
    script({ on => 'first_byte', deaf => 1 });
    my $job = 'deaf';

    is_unknown('deaf', job => $job, body => 'x' x 15_000_000);
    cmp_ok(arrivals($job), '<=', 1, 'at most one began to arrive');

    $job = 'gone';
    script({ on => 'first_byte', reset => 1 });
    is_unknown('reset amid the body', job => $job, body => 'x' x 15_000_000);
    cmp_ok(arrivals($job), '<=', 1, 'at most one began to arrive');

    # an answer before the body was sent: it is an answer
    script({ on => 'first_byte', raw => "HTTP/1.1 413 Too Large\r\n"
             . "Content-Length: 3\r\n\r\nno!" });
    my ($r, $outcome) = stop(job => 'early', body => 'x' x 1_000_000);
    is("$r->{status} $r->{body}", '413 no!', 'an early answer passes');
    is($outcome->{verdict}, 'failed', 'failed');
    script();
};

subtest 'D11 a kept-alive connection ends as the stop is written' => sub {
    my @kept = (port => $t->port('kept'));

    for my $how ({ close => 1 }, { reset => 1 }) {
        my ($r) = stop(@kept, job => 'first' . ++$n);
        is($r->{status}, 200, 'the first one');

        my $job = 'kept' . ++$n;
        my $connections = $cdm->counters->{connections};
        script({ on => 'first_byte', %$how });
        is_unknown('it is closed', job => $job, @kept);
        is($cdm->counters->{connections}, $connections,
           'it was the kept connection');
        is(arrivals($job), 1, 'the stop was not sent again');

        script();
        ($r) = stop(@kept, job => 'next' . ++$n);
        is($r->{status}, 200, 'the next one takes a new connection');
    }

    # CDM closes while the worker looks away: it wakes to the end of the
    # connection and to a new stop at once
    my ($worker) = $t->worker_pids;

    for my $reset (0, 1) {
        stop(@kept, job => 'warm' . ++$n);

        my $job = 'race' . ++$n;
        kill 'STOP', $worker;
        $cdm->close_idle(reset => $reset);
        my $h = $t->start_stop(@kept, job => $job);
        kill 'CONT', $worker;

        my $r = $t->finish($h);
        my $outcome = ($t->wait_records('audit.jsonl', sub {
            grep { $_->{stage} eq 'outcome' && $_->{job_name} eq $job } @_
        }))[-1];
        $at = -s $t->path('audit.jsonl');

        my $seen = "$r->{status} $outcome->{verdict} " . arrivals($job);
        like($seen, qr/\A(?:200 stopped 1|504 unknown [01])\z/, "seen: $seen");
    }
};

subtest 'D12 rubbish' => sub {
    my $ok = "HTTP/1.1 200 OK\r\n";
    my $json = '{"validation-result":[]}';

    my %rubbish = (
        'HTTP/0.9' => $json,
        'HTTP/0.9 with a look of a header' => "X-A: b\r\n\r\n$json",
        'nothing but a line feed' => "\r\n\r\n",
        'HTML' => "<html>\r\n<head></head>\r\n</html>\r\n",
        'binary' => join('', map { chr } 0 .. 255),
        'TLS' => "\x15\x03\x01\x00\x02\x02\x28",
        'SSH' => "SSH-2.0-OpenSSH_9.2\r\n",
        'HTTP/2' => "\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64",
        'a status of zero' => "HTTP/1.1 000 OK\r\n\r\n$json",
        'a status of four digits' => "HTTP/1.1 2000 OK\r\n\r\n$json",
        'a status of letters' => "HTTP/1.1 abc OK\r\n\r\n$json",
        'a status line of another protocol' => "ICY 200 OK\r\n\r\n$json",
        'a header with a NUL' => "${ok}X-A: a\0b\r\n\r\n$json",
        'a header with a control' => "${ok}X\x01A: b\r\n\r\n$json",
        'a header without end' => "${ok}X-A: b\r\n",
        'a header too large' => "${ok}X-A: " . 'a' x 100_000 . "\r\n\r\n$json",
        'too many headers' => $ok . "X-A: bbbbbbbbbb\r\n" x 10_000
            . "\r\n$json",
        'a length cut short' => "${ok}Content-Length: 1000\r\n\r\n$json",
        'no body where one was announced' => "${ok}Content-Length: 2\r\n\r\n",
        'no body, error' => "HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n",
        'a chunk cut short' => "${ok}Transfer-Encoding: chunked\r\n\r\n"
            . "100\r\n$json",
        'chunks without the last' => "${ok}Transfer-Encoding: chunked\r\n\r\n"
            . "18\r\n$json\r\n",
        'the last chunk without its end' =>
            "${ok}Transfer-Encoding: chunked\r\n\r\n18\r\n$json\r\n0\r\n",
        'no chunk' => "${ok}Transfer-Encoding: chunked\r\n\r\n",
        'a chunk size of letters' => "${ok}Transfer-Encoding: chunked\r\n\r\n"
            . "18\r\n$json\r\nzz\r\n",
        'a chunk size without end' => "${ok}Transfer-Encoding: chunked\r\n\r\n"
            . "18\r\n$json\r\n" . 'f' x 40 . "\r\n",
        'a chunk longer than its size' =>
            "${ok}Transfer-Encoding: chunked\r\n\r\n2\r\n$json\r\n0\r\n\r\n",
        '103 alone' => "HTTP/1.1 103 Early\r\n\r\n",
        '103 and HTTP/0.9' => "HTTP/1.1 103 Early\r\n\r\n$json",
        '103 and a cut answer' => "HTTP/1.1 103 Early\r\n\r\n${ok}"
            . "Content-Length: 99\r\n\r\n$json",
    );

    for my $port (@both) {
        for my $name (sort keys %rubbish) {
            my $job = 'rubbish' . ++$n;
            script({ raw => $rubbish{$name}, close => 1 });
            my ($r) = is_unknown("$name $port", job => $job,
                                 port => $t->port($port));
            is(arrivals($job), 1, 'it arrived once');
            unlike($r->{raw}, qr/validation-result|X-A:/,
                   'nothing of it passes');
        }
    }
};

subtest 'D12 a body that breaks off' => sub {
    my $json = '{"validation-result":[]}';

    for my $port (@both) {
        for my $how ('close', 'reset') {
            for my $framing ([], [chunked => 4]) {
                my $job = 'cut' . ++$n;
                script({ body => $json, @$framing, $how => 'mid_body' });
                my ($r, $outcome) = is_unknown("$how @$framing $port",
                    job => $job, port => $t->port($port));
                is($outcome->{upstream_status}, 200, 'CDM began with 200');
                is(arrivals($job), 1, 'it arrived once');
            }

            # behind the header
            script({ body => $json, $how => 'after_headers' });
            is_unknown("$how behind the header $port", port => $t->port($port),
                       job => 'cut' . ++$n);
        }

        # a reset is no end of a body that ends by close
        script({ body => "$json ", no_length => 1, reset => 'mid_body' });
        is_unknown("reset without a length $port", job => 'cut' . ++$n,
                   port => $t->port($port));

        script({ body => $json, hold_body => 'never' });
        is_unknown("silence behind the header $port", job => 'cut' . ++$n,
                   port => $t->port($port));

        script({ body => $json, drip_body => 30 });
        is_unknown("silence amid the body $port", job => 'cut' . ++$n,
                   port => $t->port($port));

        # longer than what is held back: the client has part of it by then
        for my $how ('close', 'reset') {
            script({ body => '{' . ' ' x 400_000 . '}', $how => 'mid_body' });
            my ($r, $outcome);
            my $job = 'long' . ++$n;
            $r = $t->put_stop(job => $job, port => $t->port($port));
            ($outcome) = grep { $_->{stage} eq 'outcome' } $t->wait_records(
                'audit.jsonl', sub { grep { $_->{job_name} eq $job
                && $_->{stage} eq 'outcome' } @_ });
            ($outcome) = grep { $_->{stage} eq 'outcome'
                && $_->{job_name} eq $job } $t->records('audit.jsonl');
            $at = -s $t->path('audit.jsonl');

            like($r->{malformed}, qr/shorter|cut|close/, "$how of a long one: "
                 . 'the client sees that it is cut');
            is($outcome->{verdict}, 'unknown', 'unknown');
            is(arrivals($job), 1, 'it arrived once');
        }
    }

    # the answer may end before its connection does
    script({ body => $json, after => 'more', close => 1 });
    my ($r, $outcome) = stop(job => 'more' . ++$n);
    is("$r->{status} $r->{body} $outcome->{verdict}", "200 $json stopped",
       'bytes behind the answer');
};

subtest 'D12 an empty answer that only the close ends' => sub {
    for my $port (@both) {
        script({ raw => "HTTP/1.1 200 OK\r\nServer: api-gateway\r\n\r\n",
                 close => 1 });
        my ($r, $outcome) = stop(job => 'empty' . ++$n,
                                 port => $t->port($port));
        is($outcome->{verdict}, 'unknown', 'it may be one that broke off');

        script({ raw => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                 close => 1 });
        ($r, $outcome) = stop(job => 'empty' . ++$n, port => $t->port($port));
        is("$r->{status} $outcome->{verdict}", '200 stopped',
           'an empty one of a known length is whole');
    }
};

$t->done;
