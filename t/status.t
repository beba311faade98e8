#!/usr/bin/perl

# cdm_stop_status: which form for whom, what it must never show, and that
# hostile names are inert in all of it.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Metrics;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 4 40k;
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       1551c7f6c808414d8e9f3c514a170f2e;
    }
    cdm_stop_policy org {
        deny   prod-freeze  job=~^prod;
        allow  jobs         job=~^job;
        allow  hostile      principal=~<script>;
    }
    cdm_stop_verify             off;
    cdm_stop_insecure_upstream  on;
    cdm_stop_principal          $http_x_principal;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%%;
        server_name "gw<script>\"\\.example";

        location /v1.1/ {
            cdm_stop          huawei;
            cdm_stop_enforce  org;
            cdm_stop_reason   X-Reason;
            proxy_pass        http://127.0.0.1:%%CDM_PORT%%;
        }
        location /only/ {
            cdm_stop          huawei;
            cdm_stop_enforce  org;
            cdm_stop_other    deny;
            proxy_pass        http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status { cdm_stop_status; }
        location = /ready { cdm_stop_status ready; }
    }

    server {
        listen 127.0.0.1:%%PORT_guarded%%;
        cdm_stop          huawei;
        cdm_stop_enforce  org;
        cdm_stop_other    deny;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
        location = /status { cdm_stop_status; }
        location = /ready { cdm_stop_status ready; }
    }
}
EOC

$t->start;

my $metrics = CdmStop::Metrics->new($t);

my $by = sub {
    my ($principal, %arg) = @_;

    return $t->put_stop(
        %arg, headers => ['X-Principal' => $principal, 'X-Reason' => 'INC-1']);
};


subtest 'forms by what the client likes' => sub {
    my $json = qr{\Aapplication/json\z};
    my $text = qr{\Atext/plain; version=0\.0\.4; charset=utf-8\z};
    my $open = qr{\Aapplication/openmetrics-text; version=1\.0\.0; charset=ut};
    my $html = qr{\Atext/html; charset=utf-8\z};

    for (
        [undef, $text], ['*/*', $text], ['text/plain', $text],
        ['application/openmetrics-text;version=1.0.0;q=0.5,'
            . 'application/openmetrics-text;version=0.0.1;q=0.4,'
            . 'text/plain;version=0.0.4;q=0.3,*/*;q=0.2', $open],
        ['text/plain;q=0.5, application/openmetrics-text;q=0.4', $text],
        ['text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8',
            $html],
        ['application/json', $json], ['application/json ; q=0.9', $json],
        ['text/html;q=0, application/json;q=0.001', $json],
        ['TEXT/HTML', $html], ['image/png', $text], ['', $text],
        [';q=;,,;', $text], ['application/json;q=nonsense', $text],
    ) {
        my ($accept, $type) = @$_;
        my $r = $metrics->get(defined $accept ? (headers => [Accept => $accept])
                                              : ());
        like($r->header('Content-Type'), $type,
             'Accept: ' . ($accept // 'none'));
    }

    for (
        ['json', $json], ['metrics', $text], ['openmetrics', $open],
        ['html', $html]
    ) {
        my $r = $metrics->get(target => "/status?format=$_->[0]",
                              headers => [Accept => 'text/html']);
        like($r->header('Content-Type'), $_->[1], "?format=$_->[0]");
        is($r->header('Cache-Control'), 'no-store', 'not stored');
        is($r->header('X-Content-Type-Options'), 'nosniff', 'not guessed at');
        is($r->header('Vary'), 'Accept', 'varies');
    }

    is($metrics->get(target => '/status?format=xml')->{status}, 400,
       'no such form');
    is($metrics->get(target => '/status?x=1&format=json')->{status}, 200,
       'other arguments do not matter');
};


subtest 'in a server that is guarded' => sub {
    my @port = (port => $t->port('guarded'));

    is($t->request(method => 'GET', target => '/x', @port)->{status}, 403,
       'what is no stop is refused');
    is($t->request(method => 'GET', target => $_, @port)->{status}, 200,
       "but not $_") for '/status', '/ready';
    is($t->request(method => 'PUT', target => '/status', @port)->{status},
       405, 'with the methods that it has');
};


subtest 'methods' => sub {
    my $head = $metrics->get(method => 'HEAD');
    is($head->{status}, 200, 'HEAD');
    is($head->{body}, '', 'HEAD has no body');
    cmp_ok($head->header('Content-Length'), '>', 1000, 'HEAD tells its length');

    for my $method (qw(POST PUT DELETE OPTIONS)) {
        my $r = $metrics->get(method => $method, body => 'x');
        is($r->{status}, 405, $method);
        is($r->header('Allow'), 'GET, HEAD', "$method: Allow");
    }
};


subtest 'the page' => sub {
    my $r = $metrics->get(headers => [Accept => 'text/html']);
    my $csp = $r->header('Content-Security-Policy');

    like($csp, qr/default-src 'none'/, 'the page may load nothing by default');
    unlike($csp, qr/unsafe|\*|https?:/, 'and nothing from elsewhere');
    like($r->{body}, qr/\A<!doctype html>/i, 'it is HTML');
    unlike($r->{body}, qr{(?:src|href)\s*=\s*["']?\s*(?:https?:)?//}i,
           'no asset from elsewhere');
};


subtest 'OpenMetrics' => sub {
    my $text = $metrics->get(target => '/status?format=openmetrics')->{body};

    like($text, qr/\n# EOF\n\z/, 'has its end');
    like($text, qr/^# TYPE cdm_stop_stops counter$/m, 'family of a counter');
    like($text, qr/^cdm_stop_stops_total\{verdict="stopped"\} \d+$/m,
         'sample of a counter');
    unlike($text, qr/^# TYPE \w+_total /m, 'no family with _total');
};


subtest 'L08 hostile names' => sub {
    my $principal = '"><script>alert(1)</script>\\' . "\xe2\x80\xae";
    my $job = 'job%3Cscript%3E%22%27%3C%2Fscript%3E%E2%80%AE';

    # a slash is no character of a name, so this one is refused
    is($by->($principal, job => $job)->{status}, 400, 'L08 refused');
    $job =~ s/%3C%2Fscript%3E//;
    is($by->($principal, job => $job)->{status}, 200, 'L08 sent');
    is($by->('eve', job => 'x<script>')->{status}, 403, 'L08 denied');

    my $r = $metrics->get(target => '/status?format=json');
    like($r->{body}, qr/\\u202e/, 'L08 U+202E is escaped');
    unlike($r->{body}, qr/\xe2\x80\xae/, 'L08 and not there as it is');

    my $json = JSON::PP->new->utf8->decode($r->{body});
    my ($last) = grep { $_->{sent} } @{$json->{last}};
    is($last->{job}, "job<script>\"'\x{202e}", 'L08 the job, as it is');
    is($last->{principal}, "\"><script>alert(1)</script>\\\x{202e}",
       'L08 the principal, as it is');
    is($last->{reason}, 'INC-1', 'L08 the reason');

    my $m = $metrics->text;
    my ($decision) = grep { /rule="jobs"/ } keys %$m;
    like($decision, qr/\{server="gw<script>\\"\\\\\.example",location="\/v1\.1/,
         'L08 labels are escaped');
    ok(!grep({ /alert|eve|x<script/ } keys %$m),
       'L08 no name of a caller or job is a label');
    is_deeply([$metrics->promtool($metrics->get->{body})], [],
              'L08 promtool has nothing to say');
};


subtest 'L08 the longest names' => sub {
    my $job = 'job' . '%F0%9F%9B%91' x 237;
    my $long = "\xc3\xa9" x 200;

    is($t->put_stop(job => $job, headers => [
           'X-Principal' => "x<script>$long", 'X-Reason' => 'r' x 512
       ])->{status}, 200, 'L08 sent');

    my ($last) = @{$metrics->json->{last}};
    is($last->{job}, 'job' . "\x{1f6d1}" x 237, 'L08 the job is whole');
    is($last->{principal}, 'x<script>' . "\x{e9}" x 123,
       'L08 the principal is cut at a character');
    is($last->{reason}, 'r' x 512, 'L08 the reason is whole');
    is($last->{rule}, 'jobs', 'L08 the rule');
    is($last->{location}, '/v1.1/', 'L08 the location');
};


subtest 'what it tells' => sub {
    is($by->('ann', job => 'prod_x')->{status}, 403, 'denied by a rule');
    is($by->('ann', job => 'other')->{status}, 403, 'denied by default');
    is($t->put_stop(job => 'job1', headers => ['X-Principal' => 'ann'])
           ->{status}, 400, 'without a reason');
    is($t->put_stop(job => 'job1')->{status}, 401, 'without a principal');
    is($t->request(method => 'GET', target => $t->stop_target)->{status}, 405,
       'with another method');
    $cdm->script({ when => { job => 'job2' }, answer => 'not_running' });
    is($by->('ann', job => 'job2')->{status}, 400, 'it had stopped');

    is($t->request(method => 'GET', target => '/only/x')->{status}, 403,
       'what is no stop');

    my $json = $metrics->json;
    my $m = $metrics->text;

    is($json->{totals}{errors}{'CDMSTOP.0005'}, 2, 'no stop, by its code');
    is($json->{totals}{errors}{'CDMSTOP.0201'}, 3, 'denied, by code');
    is($json->{totals}{errors}{'CDMSTOP.0003'}, 1, 'the method, by code');
    is($json->{totals}{verdicts}{already_stopped}, 1, 'a verdict');
    is($json->{totals}{stops}, 10, 'all stops');
    is($json->{cdm}{requests}, 3, 'sent to CDM');
    is($json->{cdm}{responses}{'4xx'}, 1, 'an answer of CDM');

    my ($freeze) = grep { ($_->{rule} // '') eq 'prod-freeze' }
        @{$json->{rules}};
    is($freeze->{count}, 1, 'a rule');
    is($freeze->{policy}, 'org', 'its policy');
    is($freeze->{location}, '/v1.1/', 'its location');

    is($metrics->sum($m, 'cdm_stop_decisions_total', rule => '',
                     decision => 'deny'), 2, 'by default');
    is($metrics->sum($m, 'cdm_stop_audit_records_written_total'),
       scalar(my @records = $t->records('audit.jsonl')), 'records');
    is($json->{audit}[0]{seq}, scalar @records, 'position of the chain');
    is($json->{audit}[0]{chain}, $records[0]{chain}, 'the chain');

    my ($token) = @{$json->{tokens}};
    is($token->{state}, 'good', 'the token is good');
    cmp_ok(abs($token->{left} - 86400), '<', 120, 'what is left of it');
    is($token->{renewals}, 0, 'it was not renewed');
    is($json->{identities}[0]{requests}{issue}{ok}, 1, 'one call of IAM');
    is(scalar @{$json->{hour}{allow}}, 60, 'an hour of minutes');

    my $sum = 0;
    $sum += $_ for map { @$_ } values %{$json->{hour}{verdicts}};
    is($sum, $json->{totals}{stops}, 'all of it is in the last hour');
    is($json->{ready}{ok}, JSON::PP::true, 'ready');
};


subtest 'each metric is documented, and what is documented is there' => sub {
    my $text = $metrics->get->{body};
    my %type = $text =~ /^# TYPE (\w+) (\w+)$/mg;

    open my $fh, '<:encoding(UTF-8)', $t->root . '/docs/MONITORING.md'
        or die "MONITORING.md: $!\n";
    my %row;

    while (<$fh>) {
        $row{$1} = [$2, $3] if /^\| `(cdm_stop_\w+)` \| (\w+) \| ([\w, ]*)\|/;
    }

    is_deeply([sort keys %row], [sort keys %type], 'names');

    for my $name (sort keys %type) {
        is($row{$name}[0], $type{$name}, "$name: type");

        # without a sample there are no labels to look at
        my ($labels) = $text =~ /^\Q$name\E(?:_count)?\{(.*)\} \S+$/m or next;
        my $keys = join ', ', $labels =~ /(\w+)="/g;
        is($row{$name}[1] =~ s/ +\z//r, $keys, "$name: labels");
    }
};


subtest 'each code of an answer is counted' => sub {
    open my $fh, '<', $t->root . '/src/ngx_http_cdm_stop_answer.c'
        or die "answer.c: $!\n";
    my %code = map { ("CDMSTOP.$_" => 1) }
        do { local $/; <$fh> } =~ /NGX_HTTP_CDM_STOP_ERROR\(\w+, "(\d+)"/g;
    my $text = $metrics->get->{body};

    is_deeply([sort $text =~ /^cdm_stop_errors_total\{code="([^"]+)"\}/mg],
              [sort(keys %code, 'other')], 'codes');
    is(scalar(grep { !/\ACDMSTOP\.0\d0\d\z/ } keys %code), 0,
       'of the form by which they are counted');
};


subtest 'nothing secret' => sub {
    my $token = $iam->last_token;

    for my $format (qw(json metrics openmetrics html)) {
        my $body = $metrics->get(target => "/status?format=$format")->{body};
        unlike($body, qr/\Q$token\E|\Q$t->{password}\E/, $format);
    }
};

$t->done;
