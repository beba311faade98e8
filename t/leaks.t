#!/usr/bin/perl

# The gateway's token and password are nowhere but on their ways to CDM and to
# IAM: not in logs, variables, records, dumps, files, or at another upstream,
# and not in what is kept of texts that echo them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Digest::MD5 qw(md5_hex);
use Digest::SHA qw(sha1_hex sha256_hex hmac_sha256_hex);

use CdmStop::Test;

my $t = CdmStop::Test->new;
my $iam = $t->iam;
my $cdm = $t->cdm;
my $other = $t->standin('CdmStop::Standin', name => 'other', port => 'up');

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

    # the same with all the projects that the last test needs
    cdm_stop_iam listed {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       00000000000000000000000000000001
                       00000000000000000000000000000002
                       00000000000000000000000000000003
                       00000000000000000000000000000004
                       00000000000000000000000000000005
                       00000000000000000000000000000006
                       00000000000000000000000000000007
                       00000000000000000000000000000008
                       00000000000000000000000000000009;
    }

    cdm_stop                   huawei;
    cdm_stop_verify            off;
    cdm_stop_anonymous         on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit             %%TESTDIR%%/audit.jsonl;

    log_format all escape=none
        'stop=$cdm_stop project=$cdm_stop_project_id '
        'cluster=$cdm_stop_cluster_id job=$cdm_stop_job_name '
        'id=$cdm_stop_request_id code=$cdm_stop_error_code '
        'verdict=$cdm_stop_verdict token=$cdm_stop_token_status '
        'attempts=$cdm_stop_attempts wait=$cdm_stop_wait_time '
        'own=$http_x_auth_token set=$copy map=$mapped '
        'sent=$sent_http_x_auth_token,$sent_http_x_subject_token '
        'got=$upstream_http_x_auth_token,$upstream_http_x_subject_token,'
        '$upstream_http_x_request_id,$upstream_trailer_x_auth_token '
        '$request $request_body $upstream_addr $upstream_status '
        '$http_authorization $proxy_host $proxy_add_x_forwarded_for';

    map $http_x_auth_token $mapped {
        ""      none;
        default $http_x_auth_token;
    }

    upstream cdm { server 127.0.0.1:%%CDM_PORT%%; }
    upstream other { server 127.0.0.1:%%PORT_up%%; }

    server {
        listen 127.0.0.1:%%PORT%%;
        access_log %%TESTDIR%%/variables.log all;
        location / {
            set $copy $http_x_auth_token;
            add_header X-Seen "$http_x_auth_token|$upstream_http_x_auth_token"
                       always;
            proxy_set_header X-Own $http_x_auth_token;
            proxy_buffer_size 32k;
            proxy_buffers 4 32k;
            proxy_pass http://cdm;
        }
        location ~ /small/stop$ {
            add_header X-Seen "$http_x_auth_token|$upstream_http_x_auth_token"
                       always;
            proxy_pass http://cdm;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_mirror%%;
        location / {
            mirror /mirror;
            mirror /mirror-all;
            proxy_pass http://cdm;
        }
        location = /mirror {
            cdm_stop off;
            internal;
            proxy_set_header X-Own $http_x_auth_token;
            proxy_pass http://127.0.0.1:%%PORT_up%%$request_uri;
        }
        location = /mirror-all { proxy_pass http://other; }
    }

    server {
        listen 127.0.0.1:%%PORT_auth%%;
        location / {
            auth_request /auth;
            auth_request_set $seen $upstream_http_x_seen;
            proxy_pass http://cdm;
        }
        location = /auth {
            internal;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Own $http_x_auth_token;
            proxy_pass http://other;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_ssi%%;
        location / {
            ssi on;
            ssi_types *;
            proxy_pass http://cdm;
        }
        location = /part {
            proxy_set_header X-Own $http_x_auth_token;
            proxy_pass http://other;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_after%%;
        location / {
            post_action /after;
            proxy_pass http://cdm;
        }
        location = /after {
            cdm_stop off;
            proxy_set_header X-Own $http_x_auth_token;
            proxy_pass http://other;
        }
        location /v1.1/1551c7f6c808414d8e9f3c514a170f2f/ {
            post_action @after;
            proxy_pass http://cdm;
        }
        location @after { proxy_pass http://other; }
    }

    server {
        listen 127.0.0.1:%%PORT_texts%%;
        cdm_stop listed;
        location / { proxy_pass http://cdm; }
    }

    # what nginx itself refuses is told to another upstream
    server {
        listen 127.0.0.1:%%PORT_denied%%;
        error_page 403 /denied;
        location / {
            deny all;
            proxy_pass http://cdm;
        }
        location = /denied {
            cdm_stop off;
            allow all;
            proxy_pass http://other;
        }
    }

    proxy_cache_path %%TESTDIR%%/cache keys_zone=cache:1m;

    server {
        listen 127.0.0.1:%%PORT_files%%;
        client_body_buffer_size 1k;
        client_body_in_file_only on;
        location / {
            proxy_cache cache;
            proxy_cache_valid any 1h;
            proxy_ignore_headers Cache-Control Expires;
            proxy_buffer_size 4k;
            proxy_buffers 4 4k;
            proxy_busy_buffers_size 4k;
            proxy_pass http://cdm;
        }
        location /v1.1/1551c7f6c808414d8e9f3c514a170f2f/ {
            root %%TESTDIR%%/store;
            proxy_store on;
            proxy_pass http://cdm;
        }
    }
}
EOC

$t->config($config);
$t->start;

my $SECOND = '1551c7f6c808414d8e9f3c514a170f2f';
my $ledger = $t->ledger;

# Secrets that a text holds; the tokens issued since are secrets as well.

sub secrets_in {
    my ($text) = @_;

    $ledger->add('token of IAM', $_->{token}) for $iam->tokens;
    return join '; ', $ledger->search($text);
}

# Sends a stop to CDM; the answer and the outcome record.

sub outcome_of {
    my (%arg) = @_;

    $t->new_records;
    my $r = $t->put_stop(%arg);
    my ($outcome) = grep { $_->{stage} eq 'outcome' } $t->new_records;

    return ($r, $outcome // {});
}

# The first token, which is that of the project that most stops name.

sub token { return ($iam->tokens)[0]{token} }

sub line_of {
    my ($file, $re) = @_;

    return $t->wait_for(sub {
        -e $t->path($file) && $t->read($file) =~ /^(.*$re.*)\n/m ? $1 : undef;
    }, what => "line in $file");
}


subtest 'variables' => sub {
    my $r = $t->put_stop(job => 'first');
    is($r->{status}, 200, 'L01 the first stop');
    my $line = line_of('variables.log', 'job=first');

    my $id = $r->header('X-Request-Id');
    like($line, qr/\Astop=1\ project=1551c7f6c808414d8e9f3c514a170f2e
                   \ cluster=6ec9a0a4-76be-4262-8697-e7af1fac7920\ job=first
                   \ id=$id\ code=\ verdict=stopped\ token=WAIT\ attempts=1
                   \ wait=0\.\d\d\d\ own=\ set=\ map=none\ sent=,\ /x,
         'L01 what the variables hold');
    is(secrets_in($line), '', 'L01 which is no secret');
    is($r->header('X-Seen'), '|', 'L01 nor is it in a header of the answer');

    my ($got) = $cdm->requests;
    is($got->header('X-Own'), undef, 'L01 nor where proxy_pass uses it');
    is($got->header('X-Auth-Token'), $iam->last_token,
       'L01 CDM gets the token');

    $r = $t->put_stop(job => 'second',
                      headers => ['X-Auth-Token' => 'its-own']);
    $line = line_of('variables.log', 'job=second');
    like($line, qr/token=HIT .* own=its-own set=its-own map=its-own /,
         "L01 the variable is the caller's");
    is($r->header('X-Seen'), 'its-own|', 'L01 in an answer too');
    is(secrets_in($line), '', 'L01 which is no secret of ours');

    $r = $t->put_stop(job => 'third', project => 'x');
    $line = line_of('variables.log', 'CDMSTOP.0001');
    like($line, qr/verdict=not_sent token= /, 'L01 a refused one');
};


# Nothing of ours gets to a server that is not CDM.

subtest 'other upstreams' => sub {
    my $own = $ledger->token(700, register => 0);

    my %want = (mirror => 2, auth => 1, ssi => 1, after => 1, denied => 1);

    for my $kind (sort keys %want) {
        for my $headers ([], ['X-Auth-Token' => $own]) {
            $other->reset_log;
            $cdm->reset_log;
            $cdm->script({ headers => ['Content-Type' => 'text/html'],
                           body => '<p><!--# include virtual="/part" -->'
                                   . '<!--# echo var="http_x_auth_token" -->' })
                if $kind eq 'ssi';

            my $r = $t->put_stop(port => $t->port($kind), headers => $headers,
                                 body => 'a body');
            $t->wait_for(sub { $other->count >= $want{$kind} }, quiet => 1,
                         timeout => 5);
            is($other->count, $want{$kind}, "L03 $kind: the other was asked");

            my @got = $cdm->requests;
            is(scalar @got, $kind eq 'denied' ? 0 : 1, "L03 $kind: CDM too");
            is(join(',', map { $_->all('X-Auth-Token') } @got),
               $kind eq 'denied' ? '' : token(),
               "L03 $kind: with one token");

            my $raw = $other->raw;
            $raw =~ s/\Q$own\E/OWN/g;
            is(secrets_in($raw), '', "L03 $kind: the other gets no secret");
            unlike($raw, qr/^(?:X-Own|X-Auth-Token): (?!OWN\r)/m,
                   "L03 $kind: nor any token but the caller's");
            $cdm->script;
        }
    }

    # a guarded location, whether it gets there or not
    $other->reset_log;
    $t->new_records;
    my $r = $t->put_stop(port => $t->port('after'), project => $SECOND);
    is($r->{status}, 200, 'L03 post_action to a named location: served');
    is($t->put_stop->{status}, 200, 'L03 and the next stop');
    is(secrets_in($other->raw), '', 'L03 it gets no secret');
    is(join(' ', map { $_->{stage} } $t->new_records),
       'intent outcome intent outcome', 'L03 and leaves no record of its own');

    # what was done is in the records, each stop once
    my %stages;
    push @{$stages{$_->{request_id}}}, $_->{stage} for $t->records;
    is_deeply([grep { !/\A(?:refused|intent outcome)\z/ }
               map { join ' ', @$_ } values %stages], [],
              'L03 records are whole');
};


subtest 'files, dumps, processes' => sub {
    # answers and bodies that do not fit into memory
    $cdm->reset_log;
    $cdm->script({ body => '{"a":"' . 'x' x 3_000_000 . '"}' });
    my $r = $t->put_stop(port => $t->port('files'), body => 'y' x 100_000);
    is(length $r->{body}, 3_000_008, 'L04 a long answer to a long request');
    my ($got) = $cdm->requests;
    is($got->{body}, 'y' x 100_000, 'L04 CDM has read it');
    is($got->header('X-Auth-Token'), token(), 'L04 with the token');
    $cdm->script;

    $r = $t->put_stop(port => $t->port('files'), project => $SECOND);
    is($r->{status}, 200, 'L04 another with proxy_store');

    secrets_in('');
    my @files = $t->files_to_search;
    ok((grep { m{/client_body_temp/} } @files),
       'L04 there are temporary files');
    ok(!(grep { m{/(?:store|cache)/} } @files), 'L04 no answer was kept');

    for my $file (@files) {
        next if $file =~ m{/error\.log\z};
        is(join('; ', $ledger->search($t->read($file))), '',
           'L04 ' . $t->short_name($file));
    }

    my ($exit, $output) = $t->nginx_with('-T', $config);
    is($exit, 0, 'L04 nginx -T');
    like($output, qr/^# configuration file.*password_file/ms, 'L04 dumps');
    is(secrets_in($output), '', 'L04 and shows no secret');

    for my $pid ($t->master_pid, $t->worker_pids) {
        for my $what (qw(cmdline environ maps)) {
            is(secrets_in(CdmStop::Test::Nginx::slurp("/proc/$pid/$what")), '',
               "L04 $what of a process");
        }
    }
};


# With the debug log on, even nginx's own lines have no secret of ours, since
# the token gets into the request when nginx has already printed it.

subtest 'debug log' => sub {
    my $log = $t->error_log;
    my $own = qr/^X-Auth-Token: |"X-Auth-Token: /m;

    like($log, $own, 'L02 the debug log shows headers') if $t->{debug};

    secrets_in('');
    my @ours = grep { !/\Atoken\z/ } values %{$ledger->{secrets}};
    cmp_ok(scalar @ours, '>', 2, 'L02 there are secrets');
    is(join('; ', grep { !/: token / } $ledger->search($log)), '',
       "L02 but none of the gateway's");

    my ($exit, $output) = $t->nginx_t($config =~ s/^%%GLOBALS%%$/
        %%GLOBALS%%\nerror_log %%TESTDIR%%\/more.log debug;/mr);
    is($exit, 0, 'L02 nginx -t accepts a debug log') or diag($output);
    like($output, qr/\[warn\].*debug/, 'L02 and warns of it');

    ($exit, $output) = $t->nginx_t($config =~ s/^%%GLOBALS%%$/
        daemon off;/mr) if !$t->module_file;
    unlike($output, qr/\[warn\].*debug/, 'L02 but not without one')
        if !$t->module_file;
};


subtest 'fingerprints' => sub {
    my $token = $ledger->token(1000);
    $iam->script({ headers => ['X-Subject-Token' => $token] });
    my @project = (project => 'a' x 32, port => $t->port('files'));

    my %found;

    for my $start (1, 2) {
        my @outcomes = map { (outcome_of(@project, headers => $_))[1] }
                       [], [], ['X-Auth-Token' => $token];
        my @prints = ((map { $_->{injected_token} } @outcomes),
                      $outcomes[2]{client_token});

        is(scalar(grep { $_ eq $prints[0] } @prints), 4,
           'L06 one token has one fingerprint, whoever sends it');
        like($prints[0], qr/\A[0-9a-f]{32}\z/, 'L06 of 32 hex digits');
        is($found{$prints[0]}++, 0, 'L06 another one with another key');

        $t->reload;
        is((outcome_of(@project))[1]{injected_token}, $prints[0],
           'L06 the same after a reload');

        if ($start == 1) {
            $t->stop;
            $t->start;
        }
    }

    my @plain = (sha256_hex($token), sha1_hex($token), md5_hex($token),
                 unpack('H*', $token),
                 map { (hmac_sha256_hex($token, $_),
                        hmac_sha256_hex($_, $token)) }
                 '', 'cdm', 'huawei', 'acme', 'cdm-gateway', 'cdm_stop');

    for my $print (keys %found) {
        ok(!(grep { index($_, $print) >= 0 } @plain),
           'L06 it is no hash that a stranger could make');
        is(join('; ', $ledger->search($print)), '', 'L06 and no part of it');
        ok(!(grep { index($token, substr $print, $_, 6) >= 0 } 0 .. 26),
           'L06 not even six digits');
    }

    $iam->script;
};


# What CDM says: the client gets it as it is, the record what is safe of it.

subtest 'texts of CDM' => sub {
    $t->put_stop;
    my $token = $ledger->add('token of IAM', $iam->last_token);
    my $hex = unpack 'H*', $token;
    my $keep = $t->{answers};
    $t->{answers} = [];

    my %text = (
        'whole token' => "Token $token is invalid.",
        'start of it' => 'Token ' . substr($token, 0, 40) . '... is invalid',
        'a piece' => 'bad bytes at ' . substr($token, 777, 16) . ' there',
        'a short piece' => 'near ' . substr($token, 300, 8) . '!',
        'piece in quotes' => '"' . substr($token, 900, 30) . '"',
        'two halves' => substr($token, 0, 1000) . ' ' . substr($token, 1000),
        'key and value' => "x-auth-token=$token;v=1",
        'upper hex' => 'got ' . uc $hex,
        'hex' => "got $hex",
        'in a URL' => 'https://a/?t=' . ($token =~ s{([+/])}{
                          sprintf '%%%02X', ord $1}ger),
        'all of it in a URL' => join('', map { sprintf '%%%02x', ord }
                                     split //, substr $token, 0, 150),
        'base64' => MIME::Base64::encode_base64($token, ''),
        'in lines' => join("\n", $token =~ /(.{1,64})/g),
        'in small pieces' =>
            join(' ', (substr $token, 500, 120) =~ /(.{1,9})/g),
        'late in it' => 'y' x 480 . " $token",
        'across the cut' => 'y' x 505 . $token,
        'across its end' => 'y ' x 505 . $token,
    );

    my @shape = (
        sub { { status => 400, body => encode({ errCode => 'Cdm.0000',
                                                externalMessage => $_[0] }) } },
        sub { { status => 200, body => encode({ 'validation-result' => [
                    { status => 'ERROR', message => $_[0] }] }) } },
        sub { { status => 403, body => encode({ error_code => 'APIGW.0302',
                    error_msg => $_[0], request_id => 'x' }) } },
        sub { { status => 400, body => encode({ error => {
                    code => 400, message => $_[0] } }) } },
        sub { { status => 400, body => encode({ errCode => $_[0] }) } },
        sub { { status => 400, body => encode({
                    code => substr $_[0], -70 }) } },
        sub { { status => 400, body => $_[0], headers => [
                    'X-Request-Id' => substr $_[0] =~ s/\n/ /gr, 0, 2000] } },
    );

    for my $kind (sort keys %text) {
        my @leaks;

        for my $shape (0 .. $#shape) {
            my $rule = $shape[$shape]->($text{$kind});
            $cdm->script($rule);
            my ($r, $record) = outcome_of(job => 'echo');

            push @leaks, "shape $shape: not passed"
                if $r->{body} ne $rule->{body};
            push @leaks, "shape $shape: message too long"
                if length($record->{cdm_message} // '') > 513;
            my $said = join "\n", map { $record->{$_} // '' }
                       qw(cdm_message cdm_code upstream_request_id);
            utf8::encode($said);
            push @leaks, map { "shape $shape: $_" } $ledger->search($said);
            push @leaks, "shape $shape: a run of 8 shows"
                if grep { index($token, substr $said, $_, 8) >= 0 }
                   0 .. length($said) - 8;
        }

        is(join("\n", @leaks), '', "L07 $kind");
    }

    my $signature = $ledger->key(32);
    my $access = $ledger->add('access key', 'AK' . $ledger->key(9));

    for my $text (
        'verify aksk signature fail: SDK-HMAC-SHA256 Access=' . $access
            . ', SignedHeaders=host;x-sdk-date, Signature=' . $signature,
        "canonicalRequest:PUT|/v1.1/|X-Auth-Token:$token|$signature",
        "Authorization: SDK-HMAC-SHA256 Access=$access,Signature=$signature")
    {
        $cdm->script({ status => 403, body => encode({
            error_code => 'APIGW.0301', error_msg => $text }) });
        my ($r, $record) = outcome_of();
        is(join('; ', $ledger->search($record->{cdm_message})), '',
           'L07 signature and access key: ' . substr $text, 0, 20);
        isnt($record->{cdm_message}, '', 'L07 but something is told');
    }

    $t->{answers} = $keep;

    for my $text ('<script>alert("x")</script>', "a\r\n\x1b[31mb", 'z' x 60_000,
                  "\x{202e}evil\x{2028}", 'w' x 511 . "\x{540c}\x{6b65}")
    {
        $cdm->script({ status => 400, body => encode({
            errCode => 'Cdm.0000', externalMessage => $text }) });
        my ($r, $record) = outcome_of();

        my $want = $text;
        $want = 'z' x 512 . "\x{2026}" if length $text > 1000;
        $want = 'w' x 511 . "\x{2026}" if $text =~ /\Aw/;
        is($record->{cdm_message}, $want, 'L07 bounded, and as it is: '
           . sprintf '%vd', substr $text, 0, 3);
    }

    $cdm->script;
};


subtest 'headers of CDM' => sub {
    $t->put_stop;
    my ($got) = ($cdm->stops)[-1];
    my $token = $got->header('X-Auth-Token');

    $cdm->script({ headers => [
        'X-Auth-Token' => $token, 'X-Subject-Token' => $token,
        'x-auth-token' => $token, 'X_Auth_Token' => $token,
        'X.Auth.Token' => $token, 'X_Subject_Token' => $token,
        'x.subject.token' => $token, 'X-Kept' => 'yes'] });

    my $r = $t->put_stop(job => 'headers');
    is($r->{status}, 200, 'L07 token headers of CDM: served');
    is($r->header('X-Kept'), 'yes', 'L07 others are passed');
    is(join(' ', grep { /token/ } $r->names), '', 'L07 no token header is');
    is($r->header('X-Seen'), '|', 'L07 nor is one in a variable');
    is(secrets_in($r->{raw}), '', 'L07 nothing of it at the client');
    is(secrets_in(line_of('variables.log', 'job=headers')), '',
       'L07 or in the access log');

    # the gateway's own answer, when CDM's header was read in part
    $cdm->script({ headers => ['X-Auth-Token' => $token, 'X-Long' => 'x' x 9000]
                 });
    $r = $t->put_stop(job => 'small');
    is($r->{status}, 504, 'L07 a header that is too long: .0402');
    like($r->header('X-Seen'), qr/\A\|\**\z/,
         'L07 the token in it is in no variable');
    is(secrets_in($r->{raw} . line_of('variables.log', 'job=small')), '',
       'L07 at the client or in the access log');

    my $half = int(length($token) / 2);
    $cdm->script({ parts => [
        "HTTP/1.1 200 OK\r\nX-Auth-Token: " . substr($token, 0, $half), 0.2,
        substr($token, $half) . "\r\nX-Long: " . 'x' x 9000 ] });
    $r = $t->put_stop(job => 'small');
    is($r->{status}, 504, 'L07 the same in two reads: .0402');
    is(secrets_in($r->{raw}), '', 'L07 in two reads: no part at the client');

    # nginx shows a header line that it cannot read
    $cdm->script({ raw => "HTTP/1.1 200 OK\r\nX-Auth-Token: $token\0\r\n"
                          . "Content-Length: 2\r\n\r\n{}" });
    $r = $t->put_stop(job => 'broken');
    is($r->{status}, 504, 'L07 a broken token header: .0402');
    is(secrets_in(join '', grep { /\[error\]/ } split /^/, $t->error_log), '',
       'L07 the error log does not show it');

    $cdm->script;
};


# What IAM says: nothing of it for the client, nothing secret of it in the log.

subtest 'texts of IAM' => sub {
    my $password = $t->{password};
    my $json = encode($password);
    my $project = 0;
    my $from = length $t->error_log;

    my %text = (
        'the password' => "The password $password is wrong.",
        'the password at the end' => "wrong: $password",
        'half of it' => 'wrong: ' . substr($password, 0, 16),
        'the password as JSON' => "cannot read {\"password\":$json}",
        'the request' => encode({ auth => { identity => {
            methods => ['password'], password => { user => {
                name => 'cdm-gateway', password => $password } } } } }),
        'a token' => 'token ' . $iam->last_token,
        '64 KB' => "long $password " x 3000,
        'markup' => "<script>alert(1)</script>\r\n[alert] forged\x1b[31m",
    );

    my @port = (port => $t->port('texts'));
    my $posts = $iam->posts;

    for my $kind (sort keys %text) {
        my $status = (400, 500, 503)[$project % 3];
        $iam->script({ status => $status, body => encode($status == 500
            ? { error_msg => $text{$kind}, error_code => 'IAM.0006' }
            : { error => { message => $text{$kind}, code => $status } }) });
        my $r = $t->put_stop(@port, project => sprintf('%032x', ++$project));

        is($r->{status}, 503, "L07 IAM $status, $kind: .0301");
        is(scalar($iam->posts), ++$posts, 'L07 IAM was asked');
        unlike($r->{raw}, qr/wrong|script|long|cannot|IAM\.0006/,
               'L07 nothing of it for the client');
        is(secrets_in($r->{raw}), '', 'L07 no secret for the client');
    }

    $iam->script({ status => 401, body => encode({ error => {
        message => "no: $password", code => 401, title => 'x' } }) });
    my $r = $t->put_stop(@port, project => sprintf '%032x', ++$project);
    is($r->{status}, 503, 'L07 IAM refuses the password: .0301');
    $t->expect_log(qr/\[alert\].*IAM refuses the gateway/);
    $t->allow_log(qr/\[error\].*IAM gave no token.*script.*\[alert\] forged/);

    my @said = grep { /\[(?:error|alert|warn)\]/ }
               split /^/, substr $t->error_log, $from;
    is(secrets_in(join '', @said), '', 'L07 no secret in the log');
    is(scalar(grep { length > 2100 } @said), 0, 'L07 the log is bounded');
    is(scalar(grep { /^\[alert\] forged/ } @said), 0, 'L07 one line each');
    ok((grep { /IAM gave no token.*status 400/ } @said), 'L07 but it tells');
};

sub encode {
    return JSON::PP->new->utf8->canonical->allow_nonref->encode($_[0]);
}

$t->done;
