#!/usr/bin/perl

# The caller's own token is checked at IAM: who asks is what IAM says, a token
# that it refuses stops nothing, and the gateway's never stands in for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $servers = join '', map { <<"EOC" } qw(always missing off);
    server {
        listen 127.0.0.1:%%PORT_$_%%;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop                   huawei;
            cdm_stop_inject            $_;
            cdm_stop_audit             %%TESTDIR%%/$_.jsonl;
            cdm_stop_insecure_upstream on;
            access_log                 %%TESTDIR%%/access.log who;
            proxy_pass                 http://127.0.0.1:%%CDM_PORT%%;
        }
    }
EOC

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
        timeout        4s;
    }
    log_format who '\$cdm_stop_request_id \$cdm_stop_verify_status '
                   '\$cdm_stop_principal \$cdm_stop_user \$cdm_stop_domain';
$servers
}
EOC

$t->start;

my $PROJECT = CdmStop::Test::Traffic::PROJECT;
my %KNOWN;

# A token of IAM for a caller.

sub token {
    my (%opt) = @_;

    my $token = $iam->add_token(user => 'alice', domain => 'acme',
        project => $PROJECT, roles => ['etl_operator', 'reader'], %opt);
    $t->ledger->add('a caller\'s token', $token) if length $token >= 16
        && !$KNOWN{$token}++;

    return $token;
}

# Sends a stop; the answer, the tokens that CDM read, the records by stage.

sub stop {
    my ($mode, $token, %arg) = @_;

    my $before = $cdm->requests;
    my $r = $t->put_stop(port => $t->port($mode),
        headers => [defined $token ? ('X-Auth-Token' => $token) : ()], %arg);
    my $id = $r->header('X-Request-Id');
    my %records = map { $_->{stage} => $_ }
        grep { $_->{request_id} eq $id } $t->records("$mode.jsonl");

    my @requests = $cdm->requests;

    return ($r, [map { $_->all('X-Auth-Token') }
        @requests[$before .. $#requests]], \%records);
}

sub refused {
    my ($code, $what, $r, $tokens, $records) = @_;

    is(eval { $r->json->{error_code} }, "CDMSTOP.$code", "$what: .$code");
    is(scalar @$tokens, 0, "$what: nothing at CDM");
    is_deeply([sort keys %$records], ['refused'], "$what: one record");
    is($records->{refused}{error_code}, "CDMSTOP.$code", "$what: with .$code");

    return;
}

# What the access log says of a request.

sub logged {
    my ($r) = @_;

    my $id = $r->header('X-Request-Id');

    return $t->wait_for(sub {
        my ($line) = $t->read('access.log') =~ /^$id (.*)$/m;
        $line;
    }, what => 'a line of the access log');
}


subtest 'who asks' => sub {
    my $token = token();
    my ($r, $tokens, $records) = stop('always', $token);

    is($r->{status}, 200, 'H08 verified, always: served');
    is_deeply($tokens, [$iam->last_token], 'H08 CDM reads one token');
    isnt($tokens->[0], $token, "H08 which is the gateway's");
    is(scalar($iam->gets), 1, 'H08 one question to IAM');

    my ($get) = $iam->gets;
    is($get->{target}, '/v3/auth/tokens?nocatalog=true', 'the documented one');
    is($get->header('X-Auth-Token'), $token, 'by the token itself');
    is($get->header('X-Subject-Token'), $token, 'about the token');

    for my $stage (qw(intent outcome)) {
        my $record = $records->{$stage};
        is($record->{principal}, 'alice@acme', "$stage: principal");
        is_deeply($record->{user}, {
            id => CdmStop::Iam::Application::id_of('alice@acme'),
            name => 'alice', domain => 'acme',
            domain_id => CdmStop::Iam::Application::id_of('acme') },
            "$stage: user");
        is_deeply($record->{roles}, ['etl_operator', 'reader'],
            "$stage: roles");
        like($record->{client_token}, qr/\A[0-9a-f]{32}\z/,
            "$stage: the token's fingerprint");
    }

    is(logged($r), 'WAIT alice@acme alice acme', 'the variables');

    ($r) = stop('always', $token);
    is(logged($r), 'HIT alice@acme alice acme', 'again: from memory');

    for my $mode (qw(missing off)) {
        ($r, $tokens, $records) = stop($mode, $token);
        is($r->{status}, 200, "H08 verified, $mode: served");
        is_deeply($tokens, [$token], "H08 $mode: the caller's at CDM");
        is($records->{outcome}{principal}, 'alice@acme', "H08 $mode: who");
    }

    is(scalar($iam->gets), 1, 'K07 one question for all modes and workers');

    # facts are kept, decisions are not: each stop is looked at anew
    ($r, $tokens) = stop('always', $token, project => '0' x 32);
    is($r->{status}, 403, 'K07 the same caller, another project: refused');
    ($r, $tokens) = stop('always', $token, job => 'another');
    is($r->{status}, 200, 'K07 another job: served');
};


subtest 'no credentials' => sub {
    my $gets = $iam->gets;

    for my $mode (qw(always missing off)) {
        my @none = (
            ['nothing'],
            ['X_Auth_Token' => 'x' x 40], ['X.Auth.Token' => 'x' x 40],
            ['Authorization' => 'SDK-HMAC-SHA256 Access=AK, SignedHeaders=host'
                . ', Signature=' . 'a' x 64, 'X-Sdk-Date' => '20261124T0250Z',
                'X-Security-Token' => 'y' x 40],
            map { [$_ => token()] } qw(X-Storage-Token X-Subject-Token
                                       X-Service-Token),
        );

        for my $headers (@none) {
            my $what = "$mode, $headers->[0]";
            my @answer = stop($mode, undef,
                headers => @$headers > 1 ? $headers : []);
            is($answer[0]{status}, 401, "H07 H06 $what: 401");
            refused('0101', "H07 H06 $what", @answer);
            is($answer[0]->header('WWW-Authenticate'), 'Keystone uri="http://'
                . '127.0.0.1:' . $t->port('IAM') . '"', "H07 $what: where to");
        }

        # beside a token they are nothing
        my $token = token();
        my ($r, $tokens) = stop($mode, $token, headers => [
            @{$none[3]}, 'X-Auth-Token' => $token]);
        is($r->{status}, 200, "H06 $mode, a signature beside a token: served");
        is(scalar @$tokens, 1, "H06 $mode: one token at CDM");
    }

    is(scalar($iam->gets), $gets + 3, 'H07 no question to IAM without a token');

    # nobody reads the body of a stranger
    my $c = $t->connect(port => $t->port('always'));
    $c->send('PUT ' . $t->stop_target . " HTTP/1.1\r\nHost: x\r\n"
        . "Content-Length: 10\r\n\r\n");
    my ($r) = $t->finish($c);
    is($r->{status}, 401, 'H07 refused before the body comes');
};


subtest 'refused tokens' => sub {
    for my $mode (qw(always missing off)) {
        my $gets = $iam->gets;
        my @posts = $iam->posts;
        my $bad = $t->ledger->token(900);
        my @answer = stop($mode, $bad);

        is($answer[0]{status}, 401, "H07 $mode, a bad token: 401");
        refused('0102', "H07 $mode", @answer);
        like($answer[0]->header('WWW-Authenticate'), qr/\AKeystone uri=/,
            "H07 $mode: where to get one");
        is(logged($answer[0]), 'REFUSED - - -', "H07 $mode: the variables");
        like($answer[2]{refused}{client_token}, qr/\A[0-9a-f]{32}\z/,
            "H07 $mode: its fingerprint");

        stop($mode, $bad) for 1 .. 5;
        is(scalar($iam->gets), $gets + 1, "K11 $mode: one question");
        is(scalar($iam->posts), scalar @posts,
            "H07 $mode: the gateway's token does not stand in");
    }

    # 401 for a token that asks about itself, 404 for one that is asked about
    for my $named (qw(subject_invalid invalid_token bad_subject_token)) {
        $iam->script({ when => { method => 'GET' }, answer => $named });
        my @answer = stop('always', $t->ledger->token(300));
        refused('0102', "I08 $named", @answer);
        $iam->script;
    }
};


subtest 'IAM says neither' => sub {
    my %answer = (
        'server_error' => { answer => 'server_error' },
        'bad_request' => { answer => 'bad_request' },
        'failed_over' => { answer => 'failed_over' },
        'no token object' => { status => 200, body => '{"user":{}}' },
        'no JSON' => { status => 200, body => 'token' },
        'a key twice' => { status => 200,
            body => '{"token":{},"token":{}}' },
        'no user' => { token => { user => undef } },
        'no domain' => { token => { user => { id => 'a', name => 'b' } } },
        'a user without a name' => { token => { user => { id => 'a',
            name => '', domain => { id => 'c', name => 'd' } } } },
        'a line feed in a name' => { token => { user => { id => 'a',
            name => 'alice', domain => { id => 'c', name => "acme\n" } } } },
        'a lone surrogate' => { status => 200,
            body => '{"token":{"user":{"id":"a","name":"\ud800","domain":'
                . '{"id":"c","name":"d"}},"expires_at":'
                . '"2046-01-01T00:00:00.000000Z"}}' },
        'no end' => { token => { expires_at => undef } },
        'roles that are none' => { token => { roles => 'admin' } },
        'another token' => { headers => ['X-Subject-Token' => 'x' x 40] },
    );

    for my $what (sort keys %answer) {
        $iam->script({ when => { method => 'GET' }, %{$answer{$what}} });
        my $token = token();
        my @posts = $iam->posts;
        my @answer = stop('always', $token);

        is($answer[0]{status}, 503, "I08 I09 $what: 503");
        refused('0302', "I08 I09 $what", @answer);
        like($answer[0]->header('Retry-After'), qr/\A[1-9]\d*\z/,
            "I08 $what: Retry-After");
        is(logged($answer[0]), 'FAILED - - -', "I08 $what: the variables");

        # never taken for a refusal: with IAM well it is served
        $iam->script;
        my $r;
        ok($t->wait_for(sub {
            ($r) = stop('always', $token);
            $r->{status} != 503;
        }, quiet => 1), "I08 $what: not for ever");
        is($r->{status}, 200, "I08 $what: served later");
        is(scalar($iam->posts), scalar @posts, "I08 $what: no other token");
    }
};


subtest 'scopes' => sub {
    my @posts = $iam->posts;
    my %token = (
        'another project' => token(project => 'f' x 32),
        'no project' => token(project => undef),
        'a domain' => token(project => undef, scope => 'acme'),
    );

    for my $what (sort keys %token) {
        for my $mode (qw(always missing off)) {
            my $gets = $iam->gets;
            my @answer = stop($mode, $token{$what});

            is($answer[0]{status}, 403, "H09 $mode, $what: 403");
            refused('0202', "H09 $mode, $what", @answer);
            is($answer[2]{refused}{principal}, 'alice@acme',
                "H09 $mode, $what: who tried");
            is(scalar($iam->gets), $gets + ($mode eq 'always'),
                "H09 $mode, $what: asked once");
        }
    }

    $iam->script({ when => { method => 'GET' },
        token => { project => undef } });
    refused('0202', 'I09 project gone', stop('always', token()));
    $iam->script({ when => { method => 'GET' }, status => 200, body => '{"token'
        . '":{"project":null,"user":{"id":"a","name":"b","domain":{"id":"c",'
        . '"name":"d"}},"expires_at":"2046-01-01T00:00:00.000000Z"}}' });
    refused('0202', 'I09 project null', stop('always', token()));
    $iam->script;

    is(scalar($iam->posts), scalar @posts, 'H09 no token of the gateway');
};


subtest 'names' => sub {
    my ($r, $tokens, $records) = stop('off', token(domain => 'evil'));
    is($r->{status}, 200, 'I10 a namesake of a foreign domain: known as that');
    is($records->{intent}{principal}, 'alice@evil', 'I10 by the domain');
    is($records->{intent}{user}{domain_id},
        CdmStop::Iam::Application::id_of('evil'), 'I10 and by its id');

    ($r, $tokens, $records) = stop('off',
        token(user => 'alice', domain => 'x@acme'));
    is($records->{intent}{principal}, 'alice@x%40acme', 'I10 one "@" splits');
    ($r, $tokens, $records) = stop('off',
        token(user => 'alice@x', domain => 'acme'));
    is($records->{intent}{principal}, 'alice@x@acme', 'I10 the last one');

    $iam->script({ when => { method => 'GET' }, status => 200, body => '{"token'
        . '":{"project":{"id":"' . $PROJECT . '"},"user":{"id":"a","name":'
        . '"\u4f60\"\\\\u0041","domain":{"id":"c","name":"d\u00e9"}},"roles":'
        . '[{"name":"r\/1"}],"expires_at":"2046-01-01T00:00:00.000000Z"}}' });
    ($r, $tokens, $records) = stop('off', token());
    is($records->{outcome}{user}{name}, "\x{4f60}\"\\u0041",
        'I09 escapes are decoded once');
    is($records->{outcome}{principal}, "\x{4f60}\"\\u0041\@d\x{e9}",
        'I09 in the principal too');
    is_deeply($records->{outcome}{roles}, ['r/1'], 'I09 and in roles');

    $iam->script({ when => { method => 'GET' },
        token => { roles => [map { { name => "op_gated_role_$_" } } 1 .. 300] }
    });
    ($r, $tokens, $records) = stop('off', token());
    is($r->{status}, 200, '300 roles: served');
    cmp_ok(scalar @{$records->{intent}{roles}}, '<', 100,
        'the record is bounded');
    is($records->{intent}{roles}[-1], "\x{2026}", 'and says so');
    $iam->script;
};


# IAM that lets nobody ask about a token by itself is asked by the gateway.

subtest 'by the gateway' => sub {
    my $project = 'b' x 32;
    my $token = token(project => $project);

    $iam->script({ when => { method => 'GET',
        header => { 'X-Auth-Token' => $token } }, answer => 'no_right' });

    my $gets = $iam->gets;
    my ($r, $tokens, $records) = stop('always', $token, project => $project);
    is($r->{status}, 200, 'I08 403 for itself: served');
    is($records->{intent}{principal}, 'alice@acme', 'I08 the right caller');

    my @gets = $iam->gets;
    is(scalar @gets, $gets + 2, 'I08 two questions');
    is($gets[-1]->header('X-Subject-Token'), $token, 'I08 about the token');
    is($gets[-1]->header('X-Auth-Token'), $tokens->[0],
        "I08 the second one by the gateway's");

    my $bad = $t->ledger->token(400);
    $iam->script({ when => { method => 'GET',
        header => { 'X-Auth-Token' => $bad } }, answer => 'no_right' });
    refused('0102', 'I08 a bad token, asked by the gateway',
        stop('always', $bad, project => $project));

    # neither is allowed
    $iam->script({ when => { method => 'GET' }, answer => 'no_right' });
    refused('0302', 'I08 403 for both', stop('always', token()));
    $iam->script;
};


subtest 'sizes' => sub {
    for my $size (1, 8_192, 9_120, 32_768) {
        my $token = token(size => $size);
        my ($r, $tokens) = stop('off', $token);
        is($r->{status}, 200, "H03 a caller's token of $size bytes: verified");
        is($tokens->[0], $token, 'H03 and whole at CDM');
    }

    refused('0002', 'H03 32,769 bytes', stop('off', 'x' x 32_769));

    for my $value ('', 'a,b', 'a b', "a\tb", "a\x{e9}") {
        my $gets = $iam->gets;
        refused('0002', 'H02 a value that is none', stop('off', $value));
        is(scalar($iam->gets), $gets, 'H02 no question to IAM');
    }

    refused('0002', 'H01 two of them', stop('always', undef,
        headers => ['X-Auth-Token' => token(), 'X-Auth-Token' => token()]));
};


subtest 'a good token with a byte changed' => sub {
    my $token = token(size => 1200);
    my ($r) = stop('always', $token);
    is($r->{status}, 200, 'K08 the good one');

    (my $inner = $token) =~ s/\A(.{600})(.)/$1 . ($2 eq 'A' ? 'B' : 'A')/es;
    my %changed = (
        'a byte more' => "${token}A", 'padding' => "$token==",
        'a byte less' => substr($token, 0, -1), 'inner byte' => $inner,
        'another alphabet' => ($token =~ tr/-+/+-/r) . '-',
    );

    for my $what (sort keys %changed) {
        my $gets = $iam->gets;
        refused('0102', "K08 $what", stop('always', $changed{$what}));
        is(scalar($iam->gets), $gets + 1, "K08 $what: a question of its own");
    }
};


subtest "CDM refuses the caller's token" => sub {
    my $token = token();
    my ($r) = stop('off', $token);
    is($r->{status}, 200, 'D08 verified');
    my $gets = $iam->gets;

    $cdm->script({ times => 1, answer => 'token_expired' });
    my ($answer, $tokens, $records) = stop('off', $token);
    is($answer->{status}, 401, "D08 CDM's 401 passes");
    is(scalar @$tokens, 1, 'D08 not repeated');
    is($records->{outcome}{verdict}, 'denied', 'D08 denied');
    is(scalar($iam->gets), $gets, 'D08 IAM was not asked');

    stop('off', $token);
    is(scalar($iam->gets), $gets + 1, 'D08 but now it is');

    # the gateway's own renews itself, and tells nothing of the caller's
    $cdm->script({ times => 1, answer => 'token_expired' });
    ($answer) = stop('always', $token);
    is($answer->{status}, 200, "D08 the gateway's is renewed");
    stop('always', $token);
    is(scalar($iam->gets), $gets + 1, "D08 the caller's is still known");

    $cdm->script({ times => 1, answer => 'throttled',
        headers => ['Retry-After' => '7'] });
    ($answer, $tokens, $records) = stop('off', $token);
    is($answer->{status}, 429, 'D08 429 passes');
    is($answer->header('Retry-After'), 7, 'D08 with Retry-After');
    $cdm->script;
};

$t->expect_log(qr/\[error\].*IAM did not verify a caller's token/);
$t->done;
