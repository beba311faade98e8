#!/usr/bin/perl

# Several addresses of one IAM: those that are dead cost time but no token; a
# request that one of them may have got is not sent to the next. And identities
# that differ in how they check IAM do not share what they got there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::INET ();
use Socket qw(pack_sockaddr_in inet_aton SOCK_STREAM AF_INET);
use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $second = $t->iam(name => 'second', port => 'SECOND');
my $tls = $t->iam(name => 'tls', port => 'TLS', tls => 'good');
my $cdm = $t->cdm;

# An address that answers nothing: its queue of connections is full.

my $hole = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $t->port('HOLE'),
    Listen => 1, ReuseAddr => 1
) or die "listen: $!\n";
my @stuffing;

for (1 .. 8) {
    socket(my $s, AF_INET, SOCK_STREAM, 0) or die "socket: $!\n";
    $s = IO::Socket::INET->new_from_fd($s, '+<');
    $s->blocking(0);
    CORE::connect $s,
        pack_sockaddr_in($t->port('HOLE'), inet_aton('127.0.0.1'));
    push @stuffing, $s;
}

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;

    upstream refused {
        server 127.0.0.1:%%PORT_CLOSED%%;
        server 127.0.0.1:%%PORT_CLOSED_TOO%%;
        server 127.0.0.1:%%IAM_PORT%%;
    }
    upstream hole {
        server 127.0.0.1:%%PORT_HOLE%%;
        server 127.0.0.1:%%IAM_PORT%%;
    }
    upstream both {
        server 127.0.0.1:%%IAM_PORT%% max_fails=0;
        server 127.0.0.1:%%PORT_SECOND%% max_fails=0;
    }
    upstream none {
        server 127.0.0.1:%%PORT_CLOSED%%;
        server 127.0.0.1:%%PORT_CLOSED_TOO%%;
    }

    cdm_stop_iam refused {
        uri http://refused; insecure on;
        domain acme; user cdm-gateway; projects any;
        password_file %%TESTDIR%%/secrets/password;
    }
    cdm_stop_iam hole {
        uri http://hole; insecure on;
        domain acme; user cdm-gateway; projects any; timeout 3s;
        password_file %%TESTDIR%%/secrets/password;
    }
    cdm_stop_iam both {
        uri http://both; insecure on;
        domain acme; user cdm-gateway; projects any;
        password_file %%TESTDIR%%/secrets/password;
    }
    cdm_stop_iam none {
        uri http://none; insecure on;
        domain acme; user cdm-gateway; projects any;
        password_file %%TESTDIR%%/secrets/password;
    }

    # one uri, one user, but another check of the server
    cdm_stop_iam unchecked {
        uri https://127.0.0.1:%%PORT_TLS%%; insecure on; verify off;
        domain acme; user cdm-gateway; projects any;
        password_file %%TESTDIR%%/secrets/password;
    }
    cdm_stop_iam checked {
        uri https://127.0.0.1:%%PORT_TLS%%;
        domain acme; user cdm-gateway; projects any;
        trusted_certificate %%TESTDIR%%/certs/ca.crt; server_name iam.test;
        password_file %%TESTDIR%%/secrets/password;
    }
    cdm_stop_iam checked_too {
        uri https://127.0.0.1:%%PORT_TLS%%;
        domain acme; user cdm-gateway; projects any;
        trusted_certificate %%TESTDIR%%/certs/ca.crt; server_name localhost;
        password_file %%TESTDIR%%/secrets/password;
    }
    cdm_stop_iam wrong_name {
        uri https://127.0.0.1:%%PORT_TLS%%;
        domain acme; user cdm-gateway; projects any;
        trusted_certificate %%TESTDIR%%/certs/ca.crt; server_name other.test;
        password_file %%TESTDIR%%/secrets/password;
    }
    cdm_stop_iam system_ca {
        uri https://127.0.0.1:%%PORT_TLS%%;
        domain acme; user cdm-gateway; projects any;
        server_name iam.test;
        password_file %%TESTDIR%%/secrets/password;
    }

    server {
        listen 127.0.0.1:%%PORT_refused%%;
        cdm_stop refused;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_hole%%;
        cdm_stop hole;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_both%%;
        cdm_stop both;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_none%%;
        cdm_stop none;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_unchecked%%;
        cdm_stop unchecked;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_checked%%;
        cdm_stop checked;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_checked_too%%;
        cdm_stop checked_too;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_wrong_name%%;
        cdm_stop wrong_name;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_system_ca%%;
        cdm_stop system_ca;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$t->start;


is( $t->put_stop(port => $t->port('refused'))->{status}, 200,
    'I03 addresses that refuse: the next one is asked');
is(scalar $iam->posts, 1, 'I03 once');
is(($iam->posts)[0]->header('Host'), 'refused', 'I03 by its name');

is( $t->put_stop(port => $t->port('hole'))->{status}, 200,
    'I03 an address that does not answer: the next one '
        . 'is asked within "timeout"');

is_refused('I03 no address answers', $t->put_stop(port => $t->port('none')));


# what one of them may have got is not sent again

for my $rule (
    { reset => 'after_request' }, { close => 'after_request' },
    { answer => 'server_error' },
    { answer => 'unavailable' }, { raw => "x\r\n", close => 1 },
    { close => 'mid_body' })
{
    my $project = new_project();
    $_->reset_log->script($rule) for $iam, $second;

    is_refused(
        'I03 ' . join(' ', %$rule),
        $t->put_stop(port => $t->port('both'), project => $project));
    is($iam->count + $second->count, 1, 'I03 is not asked for twice');
}

$_->reset_log for $iam, $second;


# identities that differ in their check only

my $project = new_project();
is( $t->put_stop(port => $t->port('unchecked'), project => $project)->{status},
    200, 'K06 an unchecked IAM, where that is allowed');
is_refused(
    "K06 $_: another check, and no token of another's",
    $t->put_stop(port => $t->port($_), project => $project)
) for qw(wrong_name system_ca);
is(scalar $tls->posts, 1, 'K06 the password went to nobody unverified');

$cdm->reset_log;
is( $t->put_stop(port => $t->port($_), project => $project)->{status}, 200,
    "K06 $_: served"
) for qw(checked checked_too unchecked);
my %token = map { $_->header('X-Auth-Token') => 1 } $cdm->stops;
is(scalar keys %token, 3, 'K06 each with its own token');
is(scalar $tls->posts, 3, 'K06 from its own exchange');

my @sni = map { $_->{sni} // '' } $tls->{front}->handshakes(3);
is(        scalar(grep { $_ eq 'iam.test' } @sni) >= 1
        && scalar(grep { $_ eq 'localhost' } @sni) >= 1, 1,
    'K06 and by its own name');

$t->done;
