#!/usr/bin/perl

# Every combination of cdm_stop_verify, cdm_stop_inject and cdm_stop_principal:
# who gets through, whose token CDM sees, and under which name.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my (@modes, $servers);

for my $verify (qw(required optional off)) {
    for my $inject (qw(always missing off)) {
        for my $named (0, 1) {
            for my $anonymous ($verify eq 'required' ? (0) : (0, 1)) {
                # nginx -t refuses it, see config_verify.t
                next if $verify ne 'required' && $inject ne 'off'
                    && !$named && !$anonymous;

                push @modes, { verify => $verify, inject => $inject,
                    named => $named, anonymous => $anonymous,
                    name => "$verify $inject"
                        . ($named ? ' principal' : '')
                        . ($anonymous ? ' anonymous' : ''),
                    port => "m_${verify}_${inject}_${named}_$anonymous" };
            }
        }
    }
}

for my $mode (@modes) {
    my $principal = $mode->{named} ? 'cdm_stop_principal $http_x_name;' : '';
    my $anonymous = $mode->{anonymous} ? 'on' : 'off';

    $servers .= <<"EOC";
    server {
        listen 127.0.0.1:%%PORT_$mode->{port}%%;
        large_client_header_buffers 4 70k;
        location /v1.1/ {
            cdm_stop                   huawei;
            cdm_stop_verify            $mode->{verify};
            cdm_stop_inject            $mode->{inject};
            cdm_stop_anonymous         $anonymous;
            cdm_stop_audit             %%TESTDIR%%/audit.jsonl;
            cdm_stop_insecure_upstream on;
            proxy_pass                 http://127.0.0.1:%%CDM_PORT%%;
            $principal
        }
    }
EOC
}

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 2;
events { worker_connections 1024; }
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
$servers
}
EOC

$t->start;

my $good = $iam->add_token(user => 'alice', domain => 'acme',
    project => CdmStop::Test::Traffic::PROJECT, roles => ['etl']);
my $bad = $t->ledger->token(600);
my $foreign = $iam->add_token(user => 'alice', domain => 'acme',
    project => 'e' x 32);
$t->ledger->add("a caller's token", $_) for $good, $foreign;

my %token = (none => undef, good => $good, bad => $bad, foreign => $foreign);


# What the contract says of a stop: the code of the gateway's answer or whose
# token CDM sees, and the principal.

sub expected {
    my ($mode, $token, $name) = @_;

    my ($verify, $inject) = @$mode{qw(verify inject)};
    my $sent = $token ne 'none';
    my $named = $mode->{named} && $name ne '';

    # whether there is what identifies the caller
    my $enough =
        $verify eq 'required' ? $sent && ($named || !$mode->{named})
        : $mode->{anonymous} || $named || ($verify eq 'optional' && $sent)
            || (!$mode->{named} && $inject eq 'off');

    return ('0101', $named ? $name : undef) if !$enough;

    my $principal = $named ? $name : undef;

    if ($verify ne 'off' && $sent) {
        return ('0102', $principal) if $token eq 'bad';
        $principal //= 'alice@acme';
        return ('0202', $principal) if $token eq 'foreign';
    }

    my $whose = $inject eq 'always' || ($inject eq 'missing' && !$sent)
        ? 'gateway' : $sent ? 'caller' : 'nobody';

    return ($whose, $principal);
}


for my $mode (@modes) {
    for my $token (qw(none good bad foreign)) {
        for my $name (undef, '', 'robot "7"') {
            next if defined $name && !$mode->{named};

            my $what = "H08 $mode->{name}: token $token"
                . (defined $name ? ", name '$name'" : '');
            my ($expected, $principal) = expected($mode, $token, $name // '');
            my $before = $cdm->requests;

            my $r = $t->put_stop(port => $t->port($mode->{port}), headers => [
                defined $token{$token} ? ('X-Auth-Token' => $token{$token})
                    : (),
                defined $name ? ('X-Name' => $name) : ()]);

            my @requests = $cdm->requests;
            my @seen = map { $_->all('X-Auth-Token') }
                @requests[$before .. $#requests];
            my ($record) = grep {
                $_->{request_id} eq $r->header('X-Request-Id')
            } $t->records('audit.jsonl');

            my $got = @requests == $before
                ? (eval { $r->json->{error_code} } // '') =~ s/CDMSTOP\.//r
                : @seen == 0 ? 'nobody' : @seen > 1 ? 'two'
                : $seen[0] eq ($token{$token} // '') ? 'caller' : 'gateway';

            is($got, $expected, $what);
            is($record->{principal}, $principal, "$what: principal");
            is(exists $record->{user} ? 1 : 0,
                $mode->{verify} ne 'off' && $token =~ /good|foreign/
                    && $expected ne '0101' ? 1 : 0, "$what: user")
                if $expected ne '0101';
        }
    }
}


# the gateway's token is one and the same, got once

my @posts = $iam->posts;
is(scalar @posts, 1, 'H07 one token of the gateway');


# principals that are odd

my ($port) = map { $t->port($_->{port}) }
    grep { $_->{name} eq 'off always principal' } @modes;

for my $name ('a"b\\c', "tab\there", 'ü€', '<b>', ' inside x', 'x' x 65_000) {
    my $r = $t->put_stop(port => $port, headers => ['X-Name' => $name]);
    my ($intent) = grep { $_->{request_id} eq $r->header('X-Request-Id') }
        $t->records('audit.jsonl');
    my $short = substr($name, 0, 20);

    is($r->{status}, 200, "H13 a principal like '$short': served");

    (my $text = $name) =~ s/\A +//;
    utf8::decode($text);
    $text = substr($text, 0, 256) . "\x{2026}" if length $text > 256;
    is($intent->{principal}, $text, 'H13 told as it is, or cut');
}

$t->done;
