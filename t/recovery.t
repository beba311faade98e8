#!/usr/bin/perl

# A token that CDM no longer takes: the stop is sent once more with a new one,
# and the caller sees nothing of it. One renewal serves all who need it; a
# second 401 passes; a CDM that refuses every token does not flood IAM.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Exchange;
use CdmStop::Recovery;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $down = $t->iam(port => 'IAM2', name => 'iam2');
$t->port('nobody');

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 4;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    log_format status '$cdm_stop_request_id $cdm_stop_token_status '
                      '$cdm_stop_attempts "$upstream_status" $status';
    access_log %%TESTDIR%%/status.log status;

    cdm_stop_zone cdm:2m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       %%PROJECTS%%;
        timeout        20s;
    }
    cdm_stop_iam down {
        uri            http://127.0.0.1:%%PORT_IAM2%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       %%PROJECTS%%;
    }
    cdm_stop                    huawei;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_wait               15s;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    upstream kept {
        server    127.0.0.1:%%CDM_PORT%%;
        keepalive 8;
    }
    upstream two {
        server 127.0.0.1:%%PORT_nobody%% max_fails=0;
        server 127.0.0.1:%%CDM_PORT%%;
    }

    server {
        listen 127.0.0.1:%%PORT%%;
        listen 127.0.0.1:%%PORT_h2%% http2;
        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
    server {
        listen 127.0.0.1:%%PORT_unbuffered%%;
        listen 127.0.0.1:%%PORT_unbuffered_h2%% http2;
        location /v1.1/ {
            proxy_buffering         off;
            proxy_request_buffering off;
            proxy_pass              http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_kept%%;
        location /v1.1/ {
            proxy_http_version 1.1;
            proxy_set_header   Connection "";
            proxy_pass         http://kept;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_two%%;
        location /v1.1/ { proxy_pass http://two; }
    }
    server {
        listen 127.0.0.1:%%PORT_off%%;
        location /v1.1/ {
            cdm_stop_inject off;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_missing%%;
        location /v1.1/ {
            cdm_stop_inject missing;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_down%%;
        location /v1.1/ {
            cdm_stop      down;
            cdm_stop_wait 1s;
            proxy_pass    http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

my $listed = project_list(80);
$t->config($config =~ s/%%PROJECTS%%/$listed/gr);
$t->start;

my $see = CdmStop::Recovery->new(test => $t, iam => $iam, cdm => $cdm);


# whatever the first 401 says, it is about the token

for my $name (qw(token_not_found token_expired token_must_update apig_0301
                 apig_0307 keystone_401 keystone_401_string))
{
    $see->renewed("D05 $name", refusal => { answer => $name });
}

my %refusal = (
    'empty' => { status => 401, body => '' },
    'HTML' => { status => 401, body => '<html>no</html>',
                headers => ['Content-Type' => 'text/html; charset=koi8-r'] },
    'cut JSON' => { status => 401, body => '{"error_code":"APIG' },
    'success of CDM' => { status => 401, body => '{}' },
    'chunked' => { answer => 'apig_0307', chunked => 7 },
    'up to the end of the connection' =>
        { answer => 'apig_0307', no_length => 1 },
    '64 KB' => { status => 401, body => 'x' x 65_536 },
    '100 KB' => { status => 401, body => 'x' x 100_000 },
    '100 KB in chunks' =>
        { status => 401, body => 'x' x 100_000, chunked => 9000 },
);

for my $name (sort keys %refusal) {
    $see->renewed("D05 a 401 with a body: $name",
                  refusal => $refusal{$name});
}

$see->renewed('D05 100 KB, unbuffered', refusal => $refusal{'100 KB'},
              port => $t->port('unbuffered'));


# every way there and back

my $body = '{"why":"' . 'maintenance ' x 3400 . '"}';
cmp_ok(length $body, '>', 40_000, 'a body of 40 KB');

my @first = (refusal => {
    answer => 'apig_0307', headers => [
        'X-First' => 'yes', 'Set-Cookie' => 'first=1', 'Retry-After' => '7',
        'WWW-Authenticate' => 'Keystone uri="https://iam.test"',
        'Content-Type' => 'text/plain; charset=koi8-r', 'ETag' => '"first"',
        'Last-Modified' => 'Mon, 01 Jan 2024 00:00:00 GMT',
        'Cache-Control' => 'no-store', 'Content-Language' => 'de',
        'Expires' => 'Mon, 01 Jan 2024 00:00:00 GMT', 'Link' => '<first>',
        'Location' => 'http://first.test/', 'Content-Encoding' => 'x-first' ],
});

for my $port ('', qw(unbuffered kept two)) {
    my $name = 'D05' . ($port && " $port");
    my @port = (@first, port => $t->port($port));

    push @port, tried => qr/(?:502, )?401 : (?:502, )?200/ if $port eq 'two';

    $see->renewed("$name, no body", @port);
    $see->renewed("$name, a body", @port, body => '{"a":1}');
    $see->renewed("$name, 40 KB", @port, body => $body);
    $see->renewed("$name, 40 KB in chunks", @port, body => $body,
                  chunked => 1);
}

for my $port (qw(h2 unbuffered_h2)) {
    my @port = (@first, h2 => 1, port => $t->port($port));

    $see->renewed("D05 $port, no body", @port);
    $see->renewed("D05 $port, 40 KB", @port, body => $body);
}

$see->renewed('D05 inject missing, the caller has none', @first,
              port => $t->port('missing'));


# many at once

{
    my $project = new_project();
    my $old = $see->warm($project);

    $cdm->reset_log;
    $cdm->script({ when => { header => { 'X-Auth-Token' => $old } },
                   answer => 'apig_0307', hold => 'all' });

    my @h = map { $t->start_stop(project => $project, job => "many$_") }
            1 .. 200;
    $cdm->wait_requests(200);
    $cdm->release('all');
    my @r = $t->finish(@h);

    is(scalar(grep { $_ && $_->{status} == 200 } @r), 200,
        'D06 200 stops with one refused token: 200 answers 200');
    is(scalar posts_for($iam, $project), 2, 'D06 and one renewal');
    is(scalar $cdm->stops, 400, 'D06 each was sent twice');

    my @outcomes = grep { $_->{stage} eq 'outcome'
                          && $_->{project_id} eq $project
                          && $_->{job_name} ne 'warm' } $see->new_records;

    is(scalar @outcomes, 200, 'D06 one outcome each');
    is(scalar(grep { $_->{attempts} == 2 } @outcomes), 200,
        'D06 two attempts each');

    my %generation = map { $_->{token_generation} => 1 } @outcomes;
    is(scalar keys %generation, 1, 'D06 all with the same new token');
    $cdm->script;
}

# a 401 that comes late finds the token that others have got

{
    my $project = new_project();
    my $old = $see->warm($project);

    $cdm->reset_log;
    $cdm->script(
        { when => { job => 'late', header => { 'X-Auth-Token' => $old } },
          answer => 'apig_0307', hold => 'late' },
        { when => { header => { 'X-Auth-Token' => $old } },
          answer => 'apig_0307' });

    my $late = $t->start_stop(project => $project, job => 'late');
    $cdm->wait_requests(1);

    is($t->put_stop(project => $project, job => 'early')->{status}, 200,
        'D06 the token is renewed while a 401 is on its way');
    is(scalar posts_for($iam, $project), 2, 'D06 by one call of IAM');

    $cdm->release('late');
    my $r = $t->finish($late);

    is($r->{status}, 200, 'D06 the late 401 is repeated');
    is(scalar posts_for($iam, $project), 2, 'D06 with no other call of IAM');
    is((($cdm->stops)[-1])->header('X-Auth-Token'), $see->token($project),
        'D06 with the newer token');
    like($see->status_line($r), qr/ RENEWED 2 "401 : 200" 200/,
        'D06 the late one in the log');
    $cdm->script;
}


# refused again

{
    my $project = new_project();
    my %refusal = (answer => 'apig_0301', headers => ['X-Second' => 'yes']);

    $cdm->reset_log;
    $cdm->script({ when => { project => $project }, %refusal, times => 1,
                   headers => ['X-First' => 'yes'] },
                 { when => { project => $project }, %refusal });

    my $r = $t->put_stop(project => $project);

    is($r->{status}, 401, 'D07 a second 401 passes');
    is($r->header('X-Second'), 'yes', 'D07 with its headers');
    ok(!defined $r->header('X-First'), 'D07 without those of the first one');
    is($r->json->{error_code}, 'APIG.0301', 'D07 and its body');
    is(scalar $cdm->stops, 2, 'D07 no third sending');
    is(scalar posts_for($iam, $project), 2, 'D07 one renewal');
    $see->outcome('D07 a second 401', $r, status => 401, attempts => 2,
        upstream_status => 401, verdict => 'denied', error_code => undef);
    like($see->status_line($r), qr/ RENEWED 2 "401 : 401" 401/,
        'D07 both in the log');

    # every token is refused for good

    my @attempts = map {
        my $r = $t->put_stop(project => $project);
        $r->{status} == 401 ? $see->outcome_of($r)->{attempts} : 'no 401';
    } 1 .. 12;

    is("@attempts", '2 2 2 2 2 1 1 1 1 1 1 1',
        'D07 6 renewals a minute, then each 401 passes as it came');
    is(scalar posts_for($iam, $project), 7, 'D07 IAM is not flooded');

    my @alerts = grep { /CDM refuses every token that IAM issues/ }
        split /\n/, $t->error_log;
    cmp_ok(scalar @alerts, '>=', 1, 'D07 an alert tells it');
    cmp_ok(scalar @alerts, '<=', 4, 'D07 once for each worker');
    $t->expect_log(qr/\[alert\] .*CDM refuses every token that IAM issues/);

    is($see->outcome_of($t->put_stop(project => $project))->{verdict},
        'denied', 'D07 what is not repeated is denied, too');

    # another project has its own count
    $cdm->script;
    $see->renewed('D07 another project meanwhile', @first);
}


# without IAM

for my $way (qw(unreachable refusing slow)) {
    my $project = new_project();
    my @down = (project => $project, port => $t->port('down'));
    my $name = "D07 a 401 while IAM is $way";
    my $old = $see->warm(@down);

    $cdm->reset_log;
    $cdm->script({ when => { header => { 'X-Auth-Token' => $old } },
                   %{ $first[1] } });
    $down->refuse if $way eq 'unreachable';
    $down->script({ answer => 'unavailable' }) if $way eq 'refusing';
    $down->script({ hang => 1 }) if $way eq 'slow';

    my $r = $t->put_stop(@down);

    is_refused($name, $r);
    is(scalar $cdm->stops, 1, "$name: sent once");
    is_deeply([grep { $_ eq 'x-first' || $_ eq 'set-cookie' } $r->names], [],
        "$name: nothing of CDM's answer");
    $see->outcome($name, $r, status => 503, error_code => 'CDMSTOP.0301',
        upstream_status => 401, attempts => 1, verdict => 'denied');
    like($see->status_line($r), qr/ 1 "401" 503/, "$name: in the log");

    $down->script;
    $down->resume;

    # what hung is bounded by its timeout, not by the patience of a request
    next if $way eq 'slow';

    my $again = $t->wait_for(sub {
        my $r = $t->put_stop(@down);
        $r->{status} == 200 && $r;
    }, what => "recovery of IAM ($way)");
    is($see->outcome_of($again)->{attempts}, 1,
        "$name: the next stops have a new token");
}


# what may happen to the second sending

{
    my $project = new_project();
    my $old = $see->warm($project);
    my @refusal = ({ when => { header => { 'X-Auth-Token' => $old } },
                     answer => 'apig_0307' });

    $cdm->reset_log;
    $cdm->script(@refusal, { reset => 'after_request' });
    my $r = $t->put_stop(project => $project);

    is($r->{status}, 504, 'D10 reset at the second sending');
    is($r->json->{error_code}, 'CDMSTOP.0402', 'D10 its code');
    is(scalar $cdm->stops, 2, 'D10 no third one');
    $see->outcome('D10 reset at the second sending', $r, status => 504,
        error_code => 'CDMSTOP.0402', attempts => 2, verdict => 'unknown',
        upstream_status => undef);
    $cdm->script;
}

{
    my $project = new_project();
    my $old = $see->warm($project);

    $cdm->script({ when => { header => { 'X-Auth-Token' => $old } },
                   answer => 'apig_0307' });
    $iam->script({ when => { body => qr/$project/ }, hold => $project });
    my $h = $t->start_stop(project => $project);

    $t->wait_for(sub { posts_for($iam, $project) == 2 },
                 what => 'renewal of the token');
    $cdm->refuse;
    $iam->release($project);
    my $r = $t->finish($h);

    is($r->{status}, 502, 'D09 CDM is gone at the second sending');
    is($r->json->{error_code}, 'CDMSTOP.0401', 'D09 its code');
    $see->outcome('D09 CDM is gone at the second sending', $r, status => 502,
        error_code => 'CDMSTOP.0401', attempts => 1, verdict => 'not_sent',
        upstream_status => undef);
    $cdm->resume;
    $cdm->script;
    $iam->script;
}

# a reload while the renewed token is awaited

{
    my $project = new_project();
    my $old = $see->warm($project);

    $cdm->script({ when => { header => { 'X-Auth-Token' => $old } },
                   answer => 'apig_0307' });
    $iam->script({ when => { body => qr/$project/ }, hold => $project });
    my $h = $t->start_stop(project => $project);

    $t->wait_for(sub { posts_for($iam, $project) == 2 },
                 what => 'renewal of the token');
    $t->reload(keep_old => 1);
    $iam->release($project);
    my $r = $t->finish($h);

    is($r->{status}, 200, 'W07 a reload during the renewal');
    is(scalar posts_for($iam, $project), 2, 'W07 no other call of IAM');
    $see->outcome('W07 a reload during the renewal', $r, status => 200,
        attempts => 2, verdict => 'stopped');
    $cdm->script;
    $iam->script;
    $see->renewed('W07 and with the new workers', @first);
}


# what is not renewed

{
    my $project = new_project();

    $see->warm($project);

    for my $answer (qw(forbidden_0302 no_permission throttled)) {
        $see->passes("D04 $answer", project => $project,
                     refusal => { answer => $answer });
    }

    $see->passes('D04 403 that speaks of the token', project => $project,
        refusal => { status => 403, body => '{"error_code":"APIGW.0307",'
            . '"error_msg":"The token must be updated."}' });
    is(scalar posts_for($iam, $project), 1, 'D04 no renewal for a 403');

    for my $port (qw(off missing)) {
        my $project = new_project();
        my $own = $t->ledger->token(2000);

        $see->passes("D08 401 to the caller's own token, inject $port",
            project => $project, port => $t->port($port),
            headers => ['X-Auth-Token' => $own], own => $own,
            refusal => { answer => 'apig_0307' });
        is(scalar posts_for($iam, $project), 0, "D08 inject $port: no renewal");
    }

    $see->passes('D08 401 without any token, inject off',
        project => $project, port => $t->port('off'),
        refusal => { answer => 'token_not_found' });
}


# the client leaves while IAM is asked anew

my %client = (
    'HTTP/1.1 close' => sub { $_[0]->close },
    'HTTP/1.1 reset' => sub { $_[0]->reset },
    'HTTP/2 RST_STREAM' => sub { $_[0]->rst($_[1], 8) },
    'HTTP/2 close' => sub { $_[0]->close },
);

for my $way (sort keys %client) {
    my $project = new_project();
    my $old = $see->warm($project);
    my $name = "W09 left during the renewal: $way";
    my ($c, $id);

    $cdm->reset_log;
    $cdm->script({ when => { header => { 'X-Auth-Token' => $old } },
                   answer => 'apig_0307' });
    $iam->script({ when => { body => qr/$project/ }, hold => $project });

    if ($way =~ /2/) {
        $c = $t->h2(port => $t->port('h2'));
        $id = $c->request(headers => [$t->h2_stop_headers(
            project => $project, job => 'left')]);

    } else {
        $c = $t->start_stop(project => $project, job => 'left');
    }

    $t->wait_for(sub { posts_for($iam, $project) == 2 },
                 what => 'renewal of the token');
    $client{$way}->($c, $id);

    my @records;

    $t->wait_for(sub {
        push @records, grep { $_->{project_id} eq $project
                              && $_->{job_name} eq 'left' } $see->new_records;
        grep { $_->{stage} eq 'outcome' } @records;
    }, what => 'outcome');

    is(join(' ', map { $_->{stage} } @records), 'intent outcome',
        "$name: one pair");
    is(join(' ', map { $_ // '-' } @{ $records[-1] }{qw(status upstream_status
        attempts verdict error_code)}), '499 401 1 denied -',
        "$name: what is known");

    $iam->release($project);
    $iam->script;

    is($t->put_stop(project => $project, job => 'after')->{status}, 200,
        "$name: the next stop");
    is(scalar posts_for($iam, $project), 2, "$name: has the token");
    is(scalar $cdm->stops, 2, "$name: the stop was not repeated");
    $cdm->script;
}

$t->done;
