#!/usr/bin/perl

# The status page of a real gateway in a real Chromium: what it shows is what
# happened, with its own headers, over a reload and with IAM down.

use strict;
use warnings;
use utf8;

use Encode qw(encode_utf8);
use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Browser;
use CdmStop::Process;
use CdmStop::Test;

use constant {
    PROJECT => '1551c7f6c808414d8e9f3c514a170f2e',
    SECOND => '2662d8a7d919525e9fa04d625b281a3f',
};

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

my ($exit, $said) = CdmStop::Process::capture('openssl', 'genpkey',
    '-algorithm', 'ed25519', '-out', $t->path('secrets/sign.pem'));
is($exit, 0, 'a key for checkpoints') or diag($said);
chmod 0600, $t->path('secrets/sign.pem');

my $key = $t->ledger->key;

$t->write_secret('secrets/chain', $key);
$t->audit_key($key);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    log_format asked '$uri?$args $sent_http_content_type';
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       1551c7f6c808414d8e9f3c514a170f2e
                       2662d8a7d919525e9fa04d625b281a3f;
    }
    cdm_stop_policy org {
        deny   prod-freeze  job=~^prod;
        allow  everything   job=~.;
    }
    cdm_stop_verify             off;
    cdm_stop_insecure_upstream  on;
    cdm_stop_principal          $http_x_principal;
    cdm_stop_audit_key          %%TESTDIR%%/secrets/chain;
    cdm_stop_audit_sign         %%TESTDIR%%/secrets/sign.pem every=1s;

    server {
        listen 127.0.0.1:%%PORT%%;
        server_name gateway.example;

        location /v1.1/ {
            cdm_stop          huawei;
            cdm_stop_enforce  org;
            cdm_stop_reason   X-Reason;
            cdm_stop_audit    %%TESTDIR%%/audit.jsonl;
            proxy_pass        http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /status {
            cdm_stop_status;
            access_log %%TESTDIR%%/asked.log asked;
        }
    }
}
EOC

$t->start;

my $url = 'http://127.0.0.1:' . $t->port . '/status';
my $b = CdmStop::Browser->new(dir => $t->path('browser'),
                              timeout => $t->{timeout} * 4);

$b->size(1280, 900)->prefers(theme => 'light', language => 'en-US');
$b->open($url);
$b->wait_until('return !document.getElementById("all").hidden');

line_is('Stops are possible', 'nobody has asked for anything yet');
like($b->text('#stop-empty'), qr/No stop was asked for/, 'it says so');

headers();
stops();
hostile();
reload();
iam_down();

is_deeply([$b->complaints], [], 'no error and no violation all the while');
is_deeply([grep { !m{\A(?:\Q$url\E(?:\?format=json)?\z|data:)} }
    $b->requested], [], 'L08 it asked for itself and its JSON, nothing else');

$b->stop;
$t->done;


sub line_is {
    my ($line, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $is = eval {
        $b->wait_until('return document.getElementById("state-line")'
            . '.textContent === arguments[0]', $line);
    };
    ok($is, $name) or diag('it says: ' . ($b->text('#state-line') // ''));

    return;
}


# waits until the first row of the last stops has a text

sub first_row {
    my ($text) = @_;

    $b->wait_until('var row = document.querySelector("#stop-rows tr");'
        . 'return row && row.textContent.indexOf(arguments[0]) >= 0', $text);

    return $b->text('#stop-rows tr');
}


sub headers {
    my $page = $t->request(method => 'GET', target => '/status',
                           headers => [Accept => 'text/html']);

    is($page->{status}, 200, 'the page');
    like($page->header('Content-Security-Policy'),
        qr/\Adefault-src 'none'; script-src 'sha256-[^;]*'; style-src 'sha256/,
        'its policy');

    my %header = ('Content-Type' => qr{\Atext/html; charset=utf-8\z},
        'Cache-Control' => qr/\Ano-store\z/, 'Vary' => qr/\bAccept\b/,
        'X-Content-Type-Options' => qr/\Anosniff\z/,
        'Referrer-Policy' => qr/\Ano-referrer\z/);

    like($page->header($_) // '', $header{$_}, "its $_")
        for sort keys %header;

    return;
}


sub stops {
    $t->put_stop(job => 'etl_orders', headers =>
        ['X-Principal' => 'airflow@acme', 'X-Reason' => 'INC-1 fail over']);

    like(first_row('etl_orders'), qr/airflow\@acme\s+INC-1\ fail\ over\s+
        rule\ everything\s+stopped\s+200\ ·\ \d/x, 'a stop as it was');
    like($b->text('#token-rows tr'), qr/\A1551c7f6\w+\s+huawei\s+good\s+
        23\ h\ left\s+renews\ in\ 1[89]\ h/x, 'with the token that it got');
    like($b->text('#plot-decisions'), qr/allowed 1\s+denied 0/,
        'in the plot');
    like($b->text('#audit'), qr/Written\s+2\s.*keyed.*signed
        |keyed\ ·\ signed.*Written\s+2\s/xs, 'with intent and outcome');

    $t->put_stop(job => 'prod_ledger', headers =>
        ['X-Principal' => 'mallory@acme', 'X-Reason' => 'why not']);
    like(first_row('prod_ledger'), qr/mallory\@acme\s+why\ not\s+
        rule\ prod-freeze\s+refused\s+403\ CDMSTOP\.0201/x,
        'one that was denied');
    like($b->text('#rules'), qr/everything.*allowed\s+1\b.*prod-freeze
        .*denied\s+1\b/xs, 'decisions by rule');

    $b->wait_until('return /Checkpoint\s*at \d/.test(document'
        . '.getElementById("audit").innerText)');
    pass('checkpoints go on in silence');

    return;
}


sub hostile {
    my $name = '<script>window.taken=1<script>"' . "\x{202e}'";

    $t->put_stop(job => encode_utf8($name), headers =>
        ['X-Principal' => '<img src=x onerror=alert(1)>', 'X-Reason' =>
         encode_utf8("\x{202e}<b>源库</b>")]);

    my $row = first_row('<script>');

    like($row, qr{<script>window\.taken=1<script>"U\+202E'}s,
        'L08 the name of a job is text');
    like($row, qr/<img src=x onerror=alert\(1\)>/, 'L08 the caller’s, too');
    like($row, qr{U\+202E<b>源库</b>}, 'L08 and the reason');
    is($b->js('return String(window.taken) + document.querySelectorAll('
        . '"#stop-rows img, #stop-rows b, #stop-rows script").length'),
        'undefined0', 'L08 nothing of it lives');

    return;
}


# the page stays open over a reload of the configuration, and goes on

sub reload {
    $b->js('window.marked = true');
    $t->reload;
    $t->put_stop(job => 'after_reload', headers =>
        ['X-Principal' => 'airflow@acme', 'X-Reason' => 'x']);

    like(first_row('after_reload'), qr/stopped/, 'a stop after a reload');
    like($b->text('#stop-rows'), qr/prod_ledger.*etl_orders/s,
        'those from before are still there');
    like($b->text('#rules'), qr/everything.*allowed\s+3\b/s,
        'the counters go on');
    is($b->js('return window.marked'), 1, 'the page was not loaded again');

    return;
}


sub iam_down {
    $iam->script({ reset => 'after_request' });
    my $r = $t->put_stop(job => 'late', project => SECOND, headers =>
        ['X-Principal' => 'airflow@acme', 'X-Reason' => 'x']);

    is($r->{status}, 503, 'IAM gives no token for another project');
    line_is('Stops are possible, but not everywhere: IAM does not answer',
        'the line says so and why');
    like($b->text('#token-rows tr'), qr/\A2662d8a7\w+\s+huawei\s+missing/,
        'the project without a token comes first');
    like(first_row('late'), qr/refused\s+503 CDMSTOP\.0301: no gateway token/,
        'and what it cost');

    $iam->script;
    $t->wait_for(sub {
        $t->put_stop(job => 'again', project => SECOND, headers =>
            ['X-Principal' => 'airflow@acme', 'X-Reason' => 'x'])->{status}
            == 200;
    }, what => 'a token after IAM is back');
    line_is('Stops are possible', 'when IAM is back, the line says so');

    return;
}
