#!/usr/bin/perl

# TLS on all three sides: a stop in early data is refused however often it is
# replayed; a CDM whose certificate is not right gets not one byte of HTTP; an
# IAM whose certificate is not right does not get the password.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use IO::Socket::IP;

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');

my @KINDS = qw(good wrong_name unknown_ca expired);

my %cdm = map {
    $_ => $t->standin('CdmStop::Cdm', name => "cdm-$_", port => "cdm_$_",
                      tls => $_)
} @KINDS;
my %iam = map {
    $_ => $t->iam(name => "iam-$_", port => "iam_$_", tls => $_)
} @KINDS;

# these speak in clear, at once, where TLS should be
my $clear_cdm = $t->standin('CdmStop::Cdm', name => 'clear-cdm',
                            port => 'cdm_clear');
my $clear_iam = $t->iam(name => 'clear-iam', port => 'iam_clear');

my $iam = $t->iam;

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;

    # in clear, for what is not about IAM
    cdm_stop_iam plain {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    cdm_stop_iam good {
        uri            https://localhost:%%PORT_iam_good%%;
        trusted_certificate %%TESTDIR%%/certs/ca.crt;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    cdm_stop_iam named {
        uri            https://127.0.0.1:%%PORT_iam_wrong_name%%;
        server_name    other.test;
        trusted_certificate %%TESTDIR%%/certs/ca.crt;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    cdm_stop_iam unverified {
        uri            https://localhost:%%PORT_iam_expired%%;
        verify         off;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    # none of these may get the password

    cdm_stop_iam misnamed {
        uri            https://localhost:%%PORT_iam_good%%;
        server_name    stranger.test;
        trusted_certificate %%TESTDIR%%/certs/ca.crt;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    cdm_stop_iam wrong_name {
        uri            https://localhost:%%PORT_iam_wrong_name%%;
        trusted_certificate %%TESTDIR%%/certs/ca.crt;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    cdm_stop_iam unknown_ca {
        uri            https://localhost:%%PORT_iam_unknown_ca%%;
        trusted_certificate %%TESTDIR%%/certs/ca.crt;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    cdm_stop_iam expired {
        uri            https://localhost:%%PORT_iam_expired%%;
        trusted_certificate %%TESTDIR%%/certs/ca.crt;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    # "insecure on" alone does not end the check
    cdm_stop_iam insecure {
        uri            https://localhost:%%PORT_iam_unknown_ca%%;
        insecure       on;
        trusted_certificate %%TESTDIR%%/certs/ca.crt;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    # the CAs of the system do not know ours
    cdm_stop_iam system_ca {
        uri            https://localhost:%%PORT_iam_good%%;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    cdm_stop_iam clear {
        uri            https://localhost:%%PORT_iam_clear%%;
        trusted_certificate %%TESTDIR%%/certs/ca.crt;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }

    cdm_stop                   plain;
    cdm_stop_verify            off;
    cdm_stop_anonymous         on;
    cdm_stop_audit             %%TESTDIR%%/audit.jsonl;

    proxy_connect_timeout         2s;
    proxy_ssl_verify              on;
    proxy_ssl_server_name         on;
    proxy_ssl_name                cdm.test;
    proxy_ssl_trusted_certificate %%TESTDIR%%/certs/ca.crt;

    # the name of the job tells the CDM
    server {
        listen 127.0.0.1:%%PORT%%;
        location = /here { return 200 "here\n"; }
        location = /busy {
            if ($arg_x ~ "^(?:a+)+$") { return 204; }
            return 204;
        }
        location ~ /good/stop$ {
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /wrong_name/stop$ {
            proxy_pass https://127.0.0.1:%%PORT_cdm_wrong_name%%;
        }
        location ~ /unknown_ca/stop$ {
            proxy_pass https://127.0.0.1:%%PORT_cdm_unknown_ca%%;
        }
        location ~ /expired/stop$ {
            proxy_pass https://127.0.0.1:%%PORT_cdm_expired%%;
        }
        location ~ /clear/stop$ {
            proxy_pass https://127.0.0.1:%%PORT_cdm_clear%%;
        }
    }

    # the name of the job tells the identity
    server {
        listen 127.0.0.1:%%PORT_iam%%;
        location = /here { return 200 "here\n"; }
        location ~ /good/stop$ {
            cdm_stop good;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /named/stop$ {
            cdm_stop named;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /unverified/stop$ {
            cdm_stop unverified;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /misnamed/stop$ {
            cdm_stop misnamed;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /wrong_name/stop$ {
            cdm_stop wrong_name;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /unknown_ca/stop$ {
            cdm_stop unknown_ca;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /expired/stop$ {
            cdm_stop expired;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /insecure/stop$ {
            cdm_stop insecure;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /system_ca/stop$ {
            cdm_stop system_ca;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location ~ /clear/stop$ {
            cdm_stop clear;
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_early%% ssl;
        ssl_certificate     %%TESTDIR%%/certs/good.crt;
        ssl_certificate_key %%TESTDIR%%/certs/good.key;
        ssl_protocols       TLSv1.3;
        ssl_early_data      on;
        location /v1.1/ {
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
        location = /here { return 200 "here\n"; }
    }

    server {
        listen 127.0.0.1:%%PORT_early2%% ssl http2;
        ssl_certificate     %%TESTDIR%%/certs/good.crt;
        ssl_certificate_key %%TESTDIR%%/certs/good.key;
        ssl_protocols       TLSv1.3;
        ssl_early_data      on;
        location /v1.1/ {
            proxy_pass https://127.0.0.1:%%PORT_cdm_good%%;
        }
    }
}
EOC
$t->start;

subtest 'certificate of CDM' => sub {
    my $r = $t->put_stop(job => 'good');
    is($r->{status}, 200, 'H12 a certificate that is right: served');
    my ($got) = $cdm{good}->requests;
    is(join(',', $got->all('X-Auth-Token')), $iam->last_token,
       'H12 CDM reads the token');
    is(($cdm{good}{front}->handshakes(1))[0]{sni}, 'cdm.test',
       'H12 and its name');

    for my $kind (qw(wrong_name unknown_ca expired)) {
        $t->new_records;
        $r = $t->put_stop(job => $kind);
        is($r->{status}, 502, "H12 $kind: 502");
        is(eval { $r->json->{error_code} }, 'CDMSTOP.0401', "H12 $kind: .0401");
        is($cdm{$kind}->bytes, 0, "H12 $kind: not one HTTP byte");
        is(scalar($cdm{$kind}{front}->handshakes), 0, "H12 $kind: no request");

        my ($intent, $outcome) = $t->new_records;
        is($outcome->{stage}, 'outcome', "H12 $kind: an outcome");
        is($outcome->{verdict}, 'not_sent', "H12 $kind: not_sent");
        is($outcome->{attempts}, 0, "H12 $kind: no attempt");
        ok(!exists $outcome->{upstream_status}, "H12 $kind: no status");
    }
};


# nginx before the repair of CVE-2026-1642 reads what comes in clear before the
# handshake as the answer, if it is there as soon as the connection. To bring
# this about, the worker finds the stop and, behind it, some requests that keep
# it busy, all at once: meanwhile the other side speaks.

sub connected_and_spoken_to {
    my (%arg) = @_;

    my @clients = map { $t->connect(port => $t->port) } 1 .. 7;
    push @clients, $t->connect(port => $arg{port} // $t->port);
    $_->send("GET /here HTTP/1.1\r\nHost: a\r\n\r\n") for @clients;
    CdmStop::Client::collect(\@clients);

    my ($worker) = $t->worker_pids;
    kill 'STOP', $worker;

    my $stop = pop @clients;
    $stop->send('PUT ' . $t->stop_target(%arg)
                . " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    $_->send("GET /busy?x=" . 'a' x 18 . "b HTTP/1.1\r\nHost: a\r\n\r\n")
        for @clients;
    kill 'CONT', $worker;

    my $r = ($stop->responses(2))[1] // { status => 0 };
    $_->close for $stop, @clients;

    return $r;
}


subtest 'CDM that answers in clear before the handshake' => sub {
    $clear_cdm->script({ on => 'accept',
        raw => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}" });

    for my $time (1 .. 3) {
        $t->new_records;
        my $r = connected_and_spoken_to(job => 'clear');
        is($r->{status}, 502, "H12 in clear $time: 502") or diag($r->{raw});
        is(eval { $r->json->{error_code} }, 'CDMSTOP.0401',
           "H12 in clear $time: .0401");

        my ($intent, $outcome) = $t->new_records;
        is($outcome->{verdict}, 'not_sent', "H12 in clear $time: not_sent");
    }

    my $raw = $clear_cdm->raw;
    unlike($raw, qr/PUT|HTTP|X-Auth-Token/, 'H12 in clear: not one HTTP byte');
    is(join('; ', $t->ledger->search($raw)), '', 'H12 in clear: no token');

    # a plain server that waits for its request
    $clear_cdm->script({ on => 'first_byte', hang => 1 });
    $clear_cdm->reset_log;
    my $r = $t->put_stop(job => 'clear');
    is($r->{status}, 502, 'H12 a plain server: 502');
    is(eval { $r->json->{error_code} }, 'CDMSTOP.0401',
       'H12 a plain server: .0401');
    unlike($clear_cdm->raw, qr/PUT|HTTP|X-Auth-Token/,
           'H12 a plain server: not one HTTP byte');
};


subtest 'certificate of IAM' => sub {
    my @port = (port => $t->port('iam'));
    my $project = 0;

    for my $case ([good => 'good', 'localhost'],
                  [named => 'wrong_name', 'other.test'],
                  [unverified => 'expired', 'localhost'])
    {
        my ($name, $kind, $sni) = @$case;

        $cdm{good}->reset_log;
        my $r = $t->put_stop(@port, job => $name);
        is($r->{status}, 200, "I03 $name: served") or diag($r->{raw});

        my ($got) = $cdm{good}->requests;
        is($got->header('X-Auth-Token'), $iam{$kind}->last_token,
           "I03 $name: the token of this IAM");
        my @all = $iam{$kind}{front}->handshakes(scalar $iam{$kind}->requests);
        is($all[-1]{sni}, $sni, "I03 $name: SNI");
    }

    for my $case ([misnamed => 'good'], [wrong_name => 'wrong_name'],
                  [unknown_ca => 'unknown_ca'], [expired => 'expired'],
                  [insecure => 'unknown_ca'], [system_ca => 'good'])
    {
        my ($name, $kind) = @$case;

        $iam{$kind}->reset_log;
        $cdm{good}->reset_log;
        $t->new_records;

        my $r = $t->put_stop(@port, job => $name,
                             project => sprintf '%032x', ++$project);
        is($r->{status}, 503, "I03 $name: 503");
        is(eval { $r->json->{error_code} }, 'CDMSTOP.0301', "I03 $name: .0301");
        is($iam{$kind}->bytes, 0, "I03 $name: the password goes to nobody");
        is($cdm{good}->bytes, 0, "I03 $name: nothing at CDM");
        is(join(' ', map { "$_->{stage} $_->{error_code}" } $t->new_records),
           'refused CDMSTOP.0301', "I03 $name: one refusal");

        $r = $t->put_stop(@port, job => $name);
        is($r->{status}, 503, "K06 $name: no token of another identity");
        is($cdm{good}->bytes, 0, "K06 $name: nothing at CDM");
    }

    my @told = grep { /\[error\].*certificate/ } split /\n/, $t->error_log;

    for my $name (qw(wrong_name unknown_ca expired)) {
        ok((grep { /while requesting IAM token, identity: "$name"/ } @told),
           "I03 the log names the certificate of $name");
    }
};


# The same hole on the other side: a token in clear must not be taken.

subtest 'IAM that answers in clear before the handshake' => sub {
    my $forged = 'MII' . 'f' x 300;

    $cdm{good}->reset_log;

    for my $time (1 .. 3) {
        my $project = sprintf '%032x', 1000 + $time;
        my $body = '{"token":{"expires_at":"2099-01-01T00:00:00.000000Z",'
            . '"issued_at":"2098-12-31T00:00:00.000000Z","project":{"id":"'
            . $project . '"}}}';
        $clear_iam->script({ on => 'accept',
            raw => "HTTP/1.1 201 Created\r\nX-Subject-Token: $forged\r\n"
                   . 'Content-Length: ' . length($body) . "\r\n\r\n$body" });

        my $r = connected_and_spoken_to(port => $t->port('iam'),
                                        job => 'clear', project => $project);
        is($r->{status}, 503, "I03 in clear $time: 503") or diag($r->{raw});
        is(eval { $r->json->{error_code} }, 'CDMSTOP.0301',
           "I03 in clear $time: .0301");
    }

    is($cdm{good}->bytes, 0, 'I03 in clear: nothing at CDM');
    unlike($clear_iam->raw, qr/POST|HTTP|password/, 'I03 in clear: no HTTP');
    is(join('; ', $t->ledger->search($clear_iam->raw)), '',
       'I03 in clear: the password goes to nobody');
    unlike($t->error_log, qr/issued a token.*identity: "clear"/,
           'I03 in clear: no token is taken');
};


# A relay that keeps what the client sent first, to send it again. It holds the
# server's first answer back until the stop is recorded, so that the client
# cannot end the handshake before.

sub relay {
    my ($to, $file) = @_;

    my $name = "relay_$to";
    my $listener = IO::Socket::IP->new(
        LocalHost => '127.0.0.1', LocalPort => $t->port($name), Listen => 8,
        ReuseAddr => 1) or die "relay: $@\n";

    my $pid = CdmStop::Process::spawn(sub {

        # either side may be gone when the other one's last bytes come
        local $SIG{PIPE} = 'IGNORE';

        while (my $client = $listener->accept) {
            my $server = IO::Socket::IP->new(PeerHost => '127.0.0.1',
                                             PeerPort => $to) or die "$@\n";
            pass_on($client, $server, $file);
        }
    });

    return ($pid, $t->port($name));
}

sub pass_on {
    my ($client, $server, $file) = @_;

    my $select = IO::Select->new($client, $server);
    my $size = -s $t->path('audit.jsonl');
    open my $fh, '>:raw', $file or die "$file: $!\n";
    $fh->autoflush;

    while (my @ready = $select->can_read(30)) {
        for my $from (@ready) {
            if ($from == $server && defined $size) {
                if (-s $t->path('audit.jsonl') == $size) {
                    $select->can_read(0.01);
                    next;
                }

                undef $size;
            }

            return unless sysread $from, my $bytes, 65536;
            print {$fh} $bytes if $from == $client && defined $size;
            syswrite $from == $client ? $server : $client, $bytes;
        }
    }

    return;
}

sub s_client {
    my ($port, $input, @arguments) = @_;

    my ($exit, $output) = CdmStop::Process::capture(
        'openssl', 's_client', '-connect', "127.0.0.1:$port", '-tls1_3',
        '-ign_eof', '-servername', 'localhost', @arguments,
        { stdin => $input, timeout => 10 });

    return $output;
}

sub refused_as_early {
    my ($name) = @_;

    my @records;
    $t->wait_for(sub { @records = $t->new_records }, quiet => 1, timeout => 10);

    is(join(' ', map { "$_->{stage} $_->{status} " . ($_->{error_code} // '') }
                 @records), 'refused 425 CDMSTOP.0006', "$name: R(.0006)");
    is($cdm{good}->bytes, 0, "$name: nothing at CDM");

    return;
}


subtest 'early data' => sub {
    my $port = $t->port('early');
    my $target = $t->stop_target(job => 'early');
    my $stop = "PUT $target HTTP/1.1\r\nHost: localhost\r\n"
               . "Connection: close\r\n\r\n";
    my $session = $t->path('secrets/session');
    my $early = $t->write('early.bin', $stop);

    s_client($port, "GET /here HTTP/1.0\r\n\r\n", '-sess_out', $session);
    ok(-s $session, 'H11 there is a session to resume');

    $cdm{good}->reset_log;
    $t->new_records;
    my $posts = $iam->posts;

    # the same ticket three times
    my ($relay, $through) = relay($port, $t->path('secrets/relayed'));

    for my $time (1 .. 3) {
        my $output = s_client($through, '', '-sess_in', $session,
                              '-early_data', $early);
        like($output, qr/Early data was accepted/,
             "H11 early data $time is accepted") or diag($output);
        like($output, qr/^HTTP\/1\.1 425 .*CDMSTOP\.0006/ms,
             "H11 early data $time: but not a stop");
        like($output, qr/^X-Request-Id: [0-9a-f]{32}\r?$/m,
             "H11 early data $time: with its id");
        refused_as_early("H11 early data $time");
    }

    CdmStop::Process::end($relay);

    # what a thief of the connection's bytes can do
    for my $time (1, 2) {
        my $c = $t->connect(port => $port);
        $c->{raw_mode} = 1;
        $c->send($t->read('secrets/relayed'));
        refused_as_early("H11 replay $time");
        $c->close;
    }

    # the stop in pieces: what is whole only after the handshake is no replay
    $t->write('early.bin', substr $stop, 0, 60);
    my $output = s_client($port, substr($stop, 60), '-sess_in', $session,
                          '-early_data', $early);
    like($output, qr/Early data was accepted.*^HTTP\/1\.1 200 /ms,
         'H11 begun in early data, ended after the handshake: served');

    $output = s_client($port, $stop, '-sess_in', $session);
    like($output, qr/^HTTP\/1\.1 200 /m,
         'H11 the same after the handshake: served');
    is(scalar($cdm{good}->stops), 2, 'H11 CDM got both');

    # another request may come early
    $t->write('early.bin', "GET /here HTTP/1.0\r\n\r\n");
    $output = s_client($port, '', '-sess_in', $session, '-early_data', $early);
    like($output, qr/Early data was accepted.*^here$/ms,
         'H11 what is no stop is served early');
};


subtest 'early data over HTTP/2' => sub {
    my $port = $t->port('early2');
    my $session = $t->path('secrets/session2');
    my ($relay, $through) = relay($port, $t->path('secrets/relayed2'));

    # the last frame makes nginx close the connection
    my $preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        . CdmStop::H2::frame_bytes(CdmStop::H2::SETTINGS, 0, 0, '');
    my $headers = CdmStop::H2::frame_bytes(CdmStop::H2::HEADERS,
        CdmStop::H2::END_STREAM | CdmStop::H2::END_HEADERS, 1,
        CdmStop::H2::Hpack::encode($t->h2_stop_headers(job => 'early2')));
    my $wrong = CdmStop::H2::frame_bytes(CdmStop::H2::SETTINGS, 0, 0, 'wrong');

    s_client($port, "$preface$wrong", '-alpn', 'h2', '-sess_out', $session);
    ok(-s $session, 'H11 HTTP/2: there is a session to resume');

    my $early = $t->write('early2.bin', "$preface$headers$wrong");
    $cdm{good}->reset_log;
    $t->new_records;

    for my $time (1, 2) {
        my $output = s_client($through, '', '-alpn', 'h2', '-sess_in', $session,
                              '-early_data', $early);
        like($output, qr/Early data was accepted/,
             "H11 HTTP/2: early data $time is accepted");
        refused_as_early("H11 HTTP/2: early data $time");
    }

    CdmStop::Process::end($relay);
};

$t->done;
