#!/usr/bin/perl

# Whose token CDM sees: the gateway's, the caller's, or the gateway's where the
# caller sent none; and that tokens of every size up to 32,768 bytes arrive
# whole, IAM's with nothing set but the directives of the module.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $config = <<'EOC';
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

    upstream cdm { server 127.0.0.1:%%CDM_PORT%%; }

    # nothing of nginx is set here
    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop           huawei;
            cdm_stop_verify    off;
            cdm_stop_anonymous on;
            cdm_stop_audit     %%TESTDIR%%/audit.jsonl;
            cdm_stop_insecure_upstream on;
            proxy_pass         http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_always%%;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop           huawei;
            cdm_stop_verify    off;
            cdm_stop_anonymous on;
            cdm_stop_inject    always;
            cdm_stop_audit     %%TESTDIR%%/always.jsonl;
            cdm_stop_insecure_upstream on;
            proxy_pass         http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_missing%%;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop           huawei;
            cdm_stop_verify    off;
            cdm_stop_anonymous on;
            cdm_stop_inject    missing;
            cdm_stop_audit     %%TESTDIR%%/missing.jsonl;
            cdm_stop_insecure_upstream on;
            proxy_pass         http://127.0.0.1:%%CDM_PORT%%;
        }
    }

    # the token is for proxy_pass, whatever else an operator puts in its place
    server {
        listen 127.0.0.1:%%PORT_else%%;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop           huawei;
            cdm_stop_verify    off;
            cdm_stop_anonymous on;
            cdm_stop_audit     %%TESTDIR%%/else.jsonl;
            cdm_stop_insecure_upstream on;
            proxy_pass         http://127.0.0.1:%%CDM_PORT%%;

            set $memcached_key job;
            if ($http_x_else = fastcgi) { fastcgi_pass cdm; }
            if ($http_x_else = uwsgi) { uwsgi_pass cdm; }
            if ($http_x_else = scgi) { scgi_pass cdm; }
            if ($http_x_else = memcached) { memcached_pass cdm; }
        }
    }

    # neither anonymous callers nor an unchecked CDM get a token here
    server {
        listen 127.0.0.1:%%PORT_off%%;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop           huawei;
            cdm_stop_verify    off;
            cdm_stop_inject    off;
            cdm_stop_audit     %%TESTDIR%%/off.jsonl;
            proxy_pass         http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

# What the binary has of them.

my (@handlers, @missing);
push @{$t->has("--without-http_${_}_module") ? \@missing : \@handlers}, $_
    for qw(fastcgi uwsgi scgi memcached);
$config =~ s/^.*\b${_}_pass\b.*\n//mg for @missing;

$t->config($config);
$t->start;

# Of the large ones few are searched for in the end, which takes its time.

my @SIZES = (1, 2, 8_192, 9_120, 31_000, 32_768);
my $project = 0;

# A project that has no token yet.

sub fresh_project { return sprintf '%032x', ++$project }

# Sends a stop; the answer, what CDM read, and the records of it.

sub stop {
    my ($mode, %arg) = @_;

    my $file = ($mode || 'audit') . '.jsonl';

    $cdm->reset_log;
    $t->new_records($file);
    my $r = $t->put_stop(port => $t->port($mode), %arg);
    my %records = map { $_->{stage} => $_ } $t->new_records($file);

    return ($r, [$cdm->requests], \%records);
}

# The tokens that one request brought to CDM.

sub tokens_of {
    my ($requests) = @_;

    return 'not one request' if @$requests != 1;
    return join ',', $requests->[0]->all('X-Auth-Token');
}


subtest 'always' => sub {
    my ($r, $got, $records) = stop('always');
    is($r->{status}, 200, 'H08 always, no token: served');
    is(tokens_of($got), $iam->last_token, "H08 CDM reads the gateway's");
    ok(!exists $records->{intent}{client_token}, 'H08 no client_token');
    my $fingerprint = $records->{intent}{injected_token};
    like($fingerprint, qr/\A[0-9a-f]{32}\z/, 'H08 injected_token');

    my $own = $t->ledger->token(1500);
    ($r, $got, $records) = stop('always', headers => ['X-Auth-Token' => $own]);
    is($r->{status}, 200, 'H08 always, own token: served');
    is(tokens_of($got), $iam->last_token, "H08 CDM reads the gateway's");
    unlike($got->[0]{raw}, qr/\Q$own\E/, "H08 and nothing of the caller's");

    for my $stage (qw(intent outcome)) {
        is($records->{$stage}{injected_token}, $fingerprint,
           "H08 $stage: the same token");
        like($records->{$stage}{client_token}, qr/\A[0-9a-f]{32}\z/,
             "H08 $stage: the caller's too");
        isnt($records->{$stage}{client_token}, $fingerprint,
             "H08 $stage: which is another");
    }

    is(scalar($iam->posts), 1, 'H08 one call of IAM for both');
};


subtest 'missing' => sub {
    my $posts = $iam->posts;
    my $own = $t->ledger->token(1500);

    my ($r, $got, $records) = stop('missing', project => fresh_project(),
                                   headers => ['x-auth-token' => $own]);
    is($r->{status}, 200, 'H08 missing, own token: served');
    is(tokens_of($got), $own, "H08 CDM reads the caller's");
    like($records->{outcome}{client_token}, qr/\A[0-9a-f]{32}\z/,
         'H08 client_token');
    ok(!exists $records->{outcome}{$_}, "H08 no $_")
        for qw(injected_token token_generation);
    is(scalar($iam->posts), $posts, 'H08 no call of IAM');

    ($r, $got, $records) = stop('missing');
    is($r->{status}, 200, 'H08 missing, no token: served');
    is(tokens_of($got), $iam->last_token, "H08 CDM reads the gateway's");
    ok(!exists $records->{outcome}{client_token}, 'H08 no client_token');
    like($records->{outcome}{injected_token}, qr/\A[0-9a-f]{32}\z/,
         'H08 injected_token');

    for my $empty ('', ' ', '   ') {
        ($r, $got, $records) = stop('missing',
                                    headers => ['X-Auth-Token' => $empty]);
        is($r->{status}, 400, 'H02 missing, an empty value: refused');
        is(eval { $r->json->{error_code} }, 'CDMSTOP.0002', 'H02 .0002');
        is(scalar @$got, 0, 'H02 nothing at CDM');
        is_deeply([sort keys %$records], ['refused'], 'H02 one refusal');
    }
};


subtest 'off' => sub {
    my $posts = $iam->posts;
    my $own = $t->ledger->token(1500);

    my ($r, $got, $records) = stop('off', headers => ['X-Auth-Token' => $own]);
    is($r->{status}, 200, 'H08 off, own token: served');
    is(tokens_of($got), $own, "H08 CDM reads the caller's");
    ok(!exists $records->{outcome}{injected_token}, 'H08 no injected_token');

    # CDM decides: no token of the gateway's stands in
    ($r, $got, $records) = stop('off');
    is($r->{status}, 401, "H08 off, no token: CDM's 401");
    is(tokens_of($got), '', 'H08 CDM reads none');
    is($records->{outcome}{verdict}, 'denied', 'H08 denied');

    ($r, $got, $records) = stop('off', headers => ['X-Auth-Token' => '']);
    is($r->{status}, 400, 'H02 off, an empty value: refused');
    is(scalar @$got, 0, 'H02 nothing at CDM');

    is(scalar($iam->posts), $posts, 'H08 no call of IAM');
};


# The words of the contract: "a 31 KB token works with nothing set".

subtest "sizes of IAM's tokens" => sub {
    for my $size (@SIZES) {
        my $project = fresh_project();
        $iam->script({ when => { body => qr/\Q$project\E/ },
                       token_size => $size });

        for my $try ('fetched', 'from the cache') {
            my ($r, $got) = stop('', project => $project);
            is($r->{status}, 200, "H03 $size bytes, $try: served");
            is(length(tokens_of($got)), $size, "H03 $size bytes arrive");
            is(tokens_of($got), $iam->last_token, "H03 $size bytes as issued");
        }
    }

    # one byte more is never stored or sent
    my $project = fresh_project();
    $iam->script({ token_size => 32_769 });
    my $posts = $iam->posts;

    my ($r, $got, $records) = stop('', project => $project);
    is($r->{status}, 503, 'H03 32,769 bytes of IAM: refused');
    is(eval { $r->json->{error_code} }, 'CDMSTOP.0301', 'H03 .0301');
    like($r->header('Retry-After'), qr/\A[1-9]\d*\z/, 'H03 Retry-After');
    is(scalar @$got, 0, 'H03 nothing at CDM');
    is_deeply([sort keys %$records], ['refused'], 'H03 one refusal');
    is(scalar($iam->posts), $posts + 1, 'H03 one call of IAM');
    like($t->error_log, qr/\[error\].*X-Subject-Token.*$project/,
         'H03 the log tells');

    $iam->script;
};


subtest "sizes of callers' tokens" => sub {
    for my $size (@SIZES) {
        my $own = $t->ledger->token($size, register => $size == 9_120);

        for my $mode (qw(missing off)) {
            my ($r, $got) = stop($mode, headers => ['X-Auth-Token' => $own]);
            is($r->{status}, 200, "H03 $size bytes, $mode: served");
            is(tokens_of($got), $own, "H03 $size bytes, $mode: whole at CDM");
        }

        my ($r, $got) = stop('always', headers => ['X-Auth-Token' => $own]);
        is($r->{status}, 200, "H03 $size bytes, always: served");
        is(tokens_of($got), ($iam->tokens)[0]{token},
           "H03 $size bytes, always: the gateway's at CDM");
    }

    for my $size (32_769, 39_000) {
        for my $mode (qw(always missing off)) {
            my ($r, $got, $records) = stop($mode,
                headers => ['X-Auth-Token' => 'x' x $size]);
            is($r->{status}, 400, "H03 $size bytes, $mode: refused");
            is(eval { $r->json->{error_code} }, 'CDMSTOP.0002', 'H03 .0002');
            is(scalar @$got, 0, 'H03 nothing at CDM');
            is_deeply([sort keys %$records], ['refused'], 'H03 one refusal');
        }
    }

    # nginx's own buffers, and its own answer
    my ($r, $got) = stop('', headers => ['X-Auth-Token' => 'x' x 8_176]);
    is($r->{status}, 200, 'H03 8,176 bytes fit into the default buffers');

    ($r, $got) = stop('', headers => ['X-Auth-Token' => 'x' x 9_120]);
    is($r->{status}, 400, 'H03 9,120 bytes do not');
    is(scalar @$got, 0, 'H03 nothing at CDM');

    my ($exit, $output) = $t->nginx_t($config);
    is($exit, 0, 'H03 nginx -t accepts the default buffers') or diag($output);
    my @warned = $output =~ /\[warn\].*(large_client_header_buffers 4 40k)/g;
    is(scalar @warned, 1, 'H03 but warns, for the one server that has them');
};


# Other content handlers, and addresses that a caller chooses.

subtest 'no other handler' => sub {
    my $r = $t->put_stop(port => $t->port('else'));
    is($r->{status}, 200, 'C06 proxy_pass: served');

    for my $else (@handlers) {
        my ($answer, $got, $records) = stop('else',
                                            headers => ['X-Else' => $else]);

        # written when nginx itself ends the request
        $t->wait_for(sub {
            $records->{$_->{stage}} = $_ for $t->new_records('else.jsonl');
            $records->{outcome};
        }, quiet => 1);

        is($answer->{status}, 502, "C06 $else: 502");
        is(eval { $answer->json->{error_code} }, 'CDMSTOP.0401',
           "C06 $else: .0401");
        is($cdm->bytes, 0, "C06 $else: not one byte");
        is($records->{outcome}{verdict}, 'not_sent', "C06 $else: not_sent");
    }

    my $variable = 'proxy_pass http://127.0.0.1:$http_x_port;';

    for my $else ("if (\$http_x_else) { $variable }",
                  map { "location ~ /nested/ { $_ }" } $variable,
                  map { "${_}_pass cdm;" } @handlers)
    {
        my ($exit, $output) = $t->nginx_t(
            $config =~ s/^( +)(?=set \$memcached_key)/$1$else\n$1/mr);
        isnt($exit, 0, "C06 refused: $else");
        like($output, qr/\[emerg\].*"cdm_stop" needs "proxy_pass"/,
             'C06 and told why');
    }
};


# Many callers at once: nobody gets another's token.

subtest 'many at once' => sub {
    $cdm->reset_log;

    my %own = map {
        ("j$_" => $_ % 3 ? $t->ledger->token(200 + $_ * 90, register => $_ < 9)
                         : undef)
    } 1 .. 90;
    my @h = map {
        $t->start_stop(port => $t->port('missing'), job => $_, $own{$_}
            ? (headers => ['X-Auth-Token' => $own{$_}]) : ())
    } sort keys %own;
    my @r = $t->finish(@h);

    is(scalar(grep { $_ && $_->{status} == 200 } @r), 90, 'H08 all served');

    my $ours = ($iam->tokens)[0]{token};
    my $wrong = grep {
        my ($job) = $_->{target} =~ m{/job/(\w+)/stop\z};
        join(',', $_->all('X-Auth-Token')) ne ($own{$job} // $ours)
    } $cdm->requests;

    is($wrong, 0, 'H08 each with its own token');
    is($cdm->count, 90, 'H08 each once');
};

$t->done;
