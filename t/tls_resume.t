#!/usr/bin/perl

# The name of a client's certificate is of the handshake with the server that
# guards the stops. A TLS session that another server block made, which trusts
# other authorities or asks for no certificate, identifies nobody there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $certs = $t->path('certs');

$t->cert($_) for qw(good unknown_ca);

client_certificate('airflow', '/O=acme/CN=airflow', 'ca');
client_certificate('forged', '/O=acme/CN=airflow', 'other-ca');

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
    cdm_stop_policy org { allow scheduler principal=~^CN=airflow,O=acme$; }

    # what makes a session of one good for all, as far as TLS goes
    ssl_session_cache       shared:tls:1m;
    ssl_session_ticket_key  %%TESTDIR%%/ticket.key;
    ssl_protocols           TLSv1.2 TLSv1.3;
    ssl_certificate         %%TESTDIR%%/certs/good.crt;
    ssl_certificate_key     %%TESTDIR%%/certs/good.key;

    server {
        listen 127.0.0.1:%%PORT%% ssl default_server;
        server_name             other.test;
        ssl_client_certificate  %%TESTDIR%%/certs/other-ca.crt;
        ssl_verify_client       optional;
        return 204;
    }
    server {
        listen 127.0.0.1:%%PORT%% ssl;
        server_name             second.test;
        ssl_client_certificate  %%TESTDIR%%/certs/other-ca.crt;
        ssl_verify_client       on;
        return 204;
    }
    server {
        listen 127.0.0.1:%%PORT%% ssl;
        server_name             lax.test;
        ssl_client_certificate  %%TESTDIR%%/certs/ca.crt;
        ssl_verify_client       optional_no_ca;
        return 204;
    }
    server {
        listen 127.0.0.1:%%PORT%% ssl;
        server_name             gate.test;
        ssl_client_certificate  %%TESTDIR%%/certs/ca.crt;
        ssl_verify_client       on;

        location /v1.1/ {
            cdm_stop                    huawei;
            cdm_stop_verify             off;
            cdm_stop_principal          $ssl_client_s_dn;
            cdm_stop_enforce            org;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            add_header X-Reused         "$ssl_session_reused" always;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    # here the default server asks for the same as that of the stops
    ssl_client_certificate  %%TESTDIR%%/certs/ca.crt;
    ssl_verify_client       on;

    server {
        listen 127.0.0.1:%%PORT_same%% ssl default_server;
        server_name             first.test;
        return 204;
    }
    server {
        listen 127.0.0.1:%%PORT_same%% ssl;
        server_name             second.test;
        ssl_client_certificate  %%TESTDIR%%/certs/other-ca.crt;
        return 204;
    }
    server {
        listen 127.0.0.1:%%PORT_same%% ssl;
        server_name             gate.test;

        location /v1.1/ {
            cdm_stop                    huawei;
            cdm_stop_verify             off;
            cdm_stop_principal          $ssl_client_s_dn;
            cdm_stop_enforce            org;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            add_header X-Reused         "$ssl_session_reused" always;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC
$t->write('ticket.key', join('', map { chr rand 256 } 1 .. 80), 0600);
$t->start;

sub client_certificate {
    my ($name, $subject, $ca) = @_;

    my $base = "$certs/client-$name";

    for my $command (
        [qw(req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes),
         '-subj', $subject, '-keyout', "$base.key", '-out', "$base.csr"],
        [qw(x509 -req -days 20 -CAcreateserial), '-in', "$base.csr",
         '-CA', "$certs/$ca.crt", '-CAkey', "$certs/$ca.key",
         '-out', "$base.crt"])
    {
        my ($exit, $said) = CdmStop::Process::capture('openssl', @$command);
        die "openssl @$command: $said" if $exit;
    }

    return;
}

# One connection: what the client and the server said. name: of the server,
# undef for none; host: of the request; out and in: files of the session.

sub connect_with {
    my (%opt) = @_;

    my $request = 'PUT ' . $t->stop_target(job => $opt{job} // 'etl')
        . " HTTP/1.1\r\nHost: $opt{host}\r\nContent-Length: 0\r\n"
        . "Connection: close\r\n\r\n";
    my $cert = $opt{cert} ? "$certs/client-$opt{cert}" : undef;

    my (undef, $said) = CdmStop::Process::capture('openssl', 's_client',
        '-connect', "127.0.0.1:" . $t->port($opt{port}), '-quiet', "-$opt{tls}",
        defined $opt{name} ? ('-servername', $opt{name}) : '-noservername',
        $cert ? ('-cert', "$cert.crt", '-key', "$cert.key") : (),
        $opt{out} ? ('-sess_out', $opt{out}) : (),
        $opt{in} ? ('-sess_in', $opt{in}) : (),
        { stdin => $request, timeout => 20 });

    return $said;
}

my %code;

for my $tls (qw(tls1_2 tls1_3)) {
    my $n = 0;

    # a session of the same server is what it was

    my $file = $t->path("$tls.own");
    my $said = connect_with(tls => $tls, name => 'gate.test',
        host => 'gate.test', cert => 'airflow', out => $file);
    like($said, qr{^HTTP/1\.1 200 .*^X-Reused: \.}ms,
        "H13 $tls: with a certificate the scheduler may");

    $said = connect_with(tls => $tls, name => 'gate.test',
        host => 'gate.test', in => $file, job => 'again');
    like($said, qr{^HTTP/1\.1 200 .*^X-Reused: r}ms,
        "H13 $tls: and in a session that this made");

    for my $from (['other.test', 'forged'], ['other.test', undef],
                  ['second.test', 'forged'], ['lax.test', 'forged'],
                  ['nobody.test', 'forged'], [undef, 'forged'],
                  [undef, undef]) {
        my ($name, $cert) = @$from;
        my $text = ($name // 'no name') . ', ' . ($cert ? 'a certificate of '
            . 'another authority' : 'no certificate');

        $file = $t->path("$tls." . ++$n);
        $said = connect_with(tls => $tls, name => $name,
            host => $name // 'other.test', out => $file,
            $cert ? (cert => $cert) : ());
        like($said, qr{^HTTP/1\.1 204 }m, "$tls: $text: served there");
        ok(-s $file, "$tls: $text: and a session of it");

        for my $sni ('gate.test', $name, undef) {
            my $before = () = $cdm->stops;

            $said = connect_with(tls => $tls, name => $sni,
                host => 'gate.test', in => $file);
            my $as = 'resumed by ' . ($sni // 'no name');

            unlike($said, qr{^HTTP/1\.1 2}m, "H13 $tls: $text, $as: no stop");
            is(scalar(() = $cdm->stops), $before,
                "H13 $tls: $text, $as: nothing at CDM");
            $code{$1}++ if $said =~ /(CDMSTOP\.\d+)/;
        }
    }

    # without any session, by the settings of the default server

    for my $name (undef, 'nobody.test', 'other.test') {
        my $text = $name // 'no name';

        $said = connect_with(tls => $tls, name => $name, host => 'gate.test',
                             cert => 'forged');
        unlike($said, qr{^HTTP/1\.1 2}m, "H13 $tls: $text in the handshake, "
            . 'but in the request: no stop');
        $code{$1}++ if $said =~ /(CDMSTOP\.\d+)/;
    }

    # a session of a third one, resumed where the default server asks for the
    # same certificates

    $file = $t->path("$tls.third");
    $said = connect_with(tls => $tls, name => 'second.test', port => 'same',
        host => 'second.test', cert => 'forged', out => $file);
    like($said, qr{^HTTP/1\.1 204 }m, "$tls: of a third server: served there");

    for my $name ('gate.test', undef) {
        $said = connect_with(tls => $tls, name => $name, port => 'same',
            host => 'gate.test', in => $file);
        unlike($said, qr{^HTTP/1\.1 2}m, "H13 $tls: of a third server, "
            . 'resumed by ' . ($name // 'no name') . ': no stop');
    }

    # what is of the default server or of that of the stops is all the same

    for my $name (undef, 'gate.test', 'nobody.test') {
        my $text = $name // 'no name';

        $file = $t->path("$tls.same." . ++$n);

        for my $session (out => 'in') {
            $said = connect_with(tls => $tls, name => $name,
                host => 'gate.test', port => 'same', cert => 'airflow',
                $session => $file);
            my $reused = $session eq 'in' ? 'r' : '\.';

            like($said, qr{^HTTP/1\.1 200 .*^X-Reused: $reused}ms,
                "H13 $tls: $text, all servers alike, $session: served");
        }
    }
}

is_deeply([sort keys %code], ['CDMSTOP.0101'], 'H13 what nginx itself lets in '
    . 'gets 401 CDMSTOP.0101');
cmp_ok($code{'CDMSTOP.0101'}, '>', 3, 'H13 and there is such a thing');
is(scalar(grep { $_->{error_code} && $_->{principal} } $t->records), 0,
    'H13 no record of a refusal names anybody');

$t->allow_log(qr/./);
$t->done;
