#!/usr/bin/perl

# nginx -t as the linter of all directives but cdm_stop_iam (t/config_iam.t):
# what is missing, unknown, contradictory, open or dead is an error or a warning
# with file and line, what is wrong and what to write instead.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Linter;
use CdmStop::Messages;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $conf = <<'EOC';
%%GLOBALS%%
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;                                       #ZONE
    cdm_stop_iam huawei {                                       #IAM
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    #HTTP
    server {
        listen 127.0.0.1:%%PORT%%;
        large_client_header_buffers 4 40k;                      #BUFFERS
        #SERVER
        location /v1.1/ {
            cdm_stop huawei;                                    #GUARD
            cdm_stop_verify off;                                #VERIFY
            cdm_stop_anonymous on;                              #ANONYMOUS
            cdm_stop_insecure_upstream on;                      #INSECURE
            cdm_stop_audit %%TESTDIR%%/audit.jsonl;             #AUDIT
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;           #PASS
            #LOCATION
        }
        #AFTER
    }
}
EOC

my $lint = CdmStop::Linter->new(test => $t, conf => $conf);

{
    my ($exit, $said, $line) = $lint->look($conf);
    is($exit, 0, 'C01 the configuration that is varied below: accepted')
        or diag($said);
    is( join("\n", CdmStop::Linter::complaints($said)), '',
        'C01 without a word but');
    my $open = quotemeta $CdmStop::Linter::OPEN;
    my $here = $lint->place($line->{GUARD});
    like(
        $said, qr/\[warn\].*$open$here/,
        'C02 the warning that everyone stops with the power '
            . 'of the gateway');
    is(scalar(() = $said =~ /$open/g), 1, 'C02 once');
}


# what is missing

$lint->is_error(
    'C01 no zone', $lint->with(ZONE => undef), 'GUARD',
    '"cdm_stop" needs shared memory, add "cdm_stop_zone '
        . 'cdm:16m;" to the http block');
$lint->is_error(
    'C01 no identity of that name', $lint->with(GUARD => 'cdm_stop huawey;'),
    'GUARD',
    'unknown identity "huawey", define it by '
        . '"cdm_stop_iam huawey { ... }" in the http block');
$lint->is_error(
    'C01 a part of its name', $lint->with(GUARD => 'cdm_stop huawe;'), 'GUARD',
    'unknown identity "huawe"');
$lint->is_error(
    'C01 in upper case', $lint->with(GUARD => 'cdm_stop HUAWEI;'), 'GUARD',
    'unknown identity "HUAWEI"');
$lint->is_error(
    'C01 an empty name is not off', $lint->with(GUARD => 'cdm_stop "";'),
    'GUARD', qr/unknown identity ""|"cdm_stop" directive/);
$lint->is_error(
    'C01 a variable', $lint->with(GUARD => 'cdm_stop $identity;'), 'GUARD',
    'unknown identity "$identity"');
$lint->is_error(
    'C01 Off', $lint->with(GUARD => 'cdm_stop Off;'), 'GUARD',
    'unknown identity "Off"');
$lint->is_error(
    'C01 unknown at server level', $lint->with(SERVER => 'cdm_stop nobody;'),
    'SERVER', 'unknown identity "nobody"');
$lint->is_error(
    'C01 unknown at http level', $lint->with(HTTP => 'cdm_stop nobody;'),
    'HTTP', 'unknown identity "nobody"');
$lint->is_error(
    'C01 no audit', $lint->with(AUDIT => undef), 'GUARD',
    '"cdm_stop" writes its records nowhere, add '
        . '"cdm_stop_audit FILE;" or, to have none, '
        . '"cdm_stop_audit off;"');
$lint->is_error(
    'C01 no proxy_pass', $lint->with(PASS => undef), 'GUARD',
    '"cdm_stop" guards a location without "proxy_pass", '
        . 'add "proxy_pass https://...;" with the address of ' . 'CDM');
$lint->is_error(
    'C01 return in its place', $lint->with(PASS => 'return 200;'), 'GUARD',
    'guards a location without "proxy_pass"');
$lint->is_error(
    'C02 nobody is identified', $lint->with(ANONYMOUS => undef), 'GUARD',
    'nothing identifies the callers of "cdm_stop", and '
        . 'all would stop jobs with the gateway\'s token; '
        . 'remove "cdm_stop_verify off", name callers in '
        . '"cdm_stop_principal" or, if other means keep strangers out, '
        . 'write "cdm_stop_anonymous on;"');
$lint->is_error(
    'C02 anonymous off', $lint->with(ANONYMOUS => 'cdm_stop_anonymous off;'),
    'GUARD', 'nothing identifies the callers');
$lint->is_error(
    'C02 nor under inject missing',
    $lint->with(ANONYMOUS => 'cdm_stop_inject missing;'), 'GUARD',
    'nothing identifies the callers');
$lint->is_warning(
    'C02 the own tokens of the callers, unchecked',
    $lint->with(ANONYMOUS => 'cdm_stop_inject off;'), 'GUARD',
    '"cdm_stop" neither identifies callers nor injects a token');
$lint->is_fine(
    'C01 the identity behind its use',
    $conf =~ s/^(    cdm_stop_iam.*?^    \}\n)(.*)^\}\n/$2$1}\n/msr);


# values

sub bare {
    my ($value) = @_;

    return $value eq '""' ? '' : $value;
}

my %directive = (
    cdm_stop_verify => [qw(on yes "")], cdm_stop_inject => [qw(on allways "")],
    cdm_stop_other => [qw(on allow 403 "")],
);

for my $name (sort keys %directive) {
    for my $value (@{ $directive{$name} }) {
        $lint->is_error(
            "C01 $name $value", $lint->with(SERVER => "$name $value;"),
            'SERVER',
            'invalid value "' . bare($value) . '"');
    }
}

for my $name (qw(cdm_stop_anonymous cdm_stop_insecure_upstream)) {
    for my $value (qw(yes 1 true "" ON!)) {
        $lint->is_error(
            "C01 $name $value", $lint->with(SERVER => "$name $value;"),
            'SERVER',
            'invalid value "'
                . bare($value)
                . qq(" in "$name" directive, )
                . 'it must be "on" or "off"');
    }
}

for my $value (qw(x 5x -1 "" 1ms5s 99999999999999999999)) {
    $lint->is_error(
        "C01 cdm_stop_wait $value",
        $lint->with(LOCATION => "cdm_stop_wait $value;"),
        'LOCATION',
        '"cdm_stop_wait" directive invalid value');
}

$lint->is_error(
    'C01 cdm_stop_wait 0', $lint->with(LOCATION => 'cdm_stop_wait 0;'),
    'GUARD',
    '"cdm_stop_wait" of "cdm_stop" is zero, give IAM some seconds');
$lint->is_fine(
    "C01 cdm_stop_wait $_",
    $lint->with(LOCATION => "cdm_stop_wait $_;")
) for qw(1ms 8s 1m 30);

for (
    ['cdm', 'invalid zone "cdm", write name:size such as ' . '"cdm:16m"'],
    [':1m', qr/invalid zone ":1m"/],
    ['""', qr/invalid zone ""/],
    ['cdm:', 'invalid size "" of zone "cdm", write such as "16m"'],
    ['cdm:x', qr/invalid size "x"/], ['cdm:-1', qr/invalid size "-1"/],
    ['cdm:1m:2m', 'invalid size "1m:2m"'],
    ['cdm:1g', qr/invalid size "1g"/],
    ['cdm:99999999999999999999', qr/invalid size/],
    ['cdm:0', 'zone "cdm" is too small, give it at least 256k'],
    ['cdm:255k', qr/too small/],
    ['cdm:262143', qr/too small/])
{
    $lint->is_error(
        "C01 cdm_stop_zone $_->[0]",
        $lint->with(ZONE => "cdm_stop_zone $_->[0];"), 'ZONE', $_->[1]);
}

$lint->is_fine(
    "C01 cdm_stop_zone $_",
    $lint->with(ZONE => "cdm_stop_zone $_;")
) for qw(cdm:256k cdm:16m x:262144);
$lint->is_error(
    'C01 the zone twice', $lint->with(HTTP => 'cdm_stop_zone other:1m;'),
    'HTTP', '"cdm_stop_zone" directive is duplicate');
$lint->is_error(
    'C01 a zone of another module',
    $lint->with(
        ZONE => 'limit_req_zone $uri zone=cdm:1m rate=1r/s; '
            . 'cdm_stop_zone cdm:1m;'
    ),
    'ZONE',
    qr/zone "cdm" is already (?:in use|declared for a different use)/);


# words, places, numbers of arguments

$lint->is_error(
    'C01 an unknown directive', $lint->with(LOCATION => 'cdm_stop_verfy off;'),
    'LOCATION', 'unknown directive "cdm_stop_verfy"');

my %right = (
    cdm_stop => 'huawei', cdm_stop_verify => 'off',
    cdm_stop_inject => 'always',
    cdm_stop_other => 'pass', cdm_stop_anonymous => 'off',
    cdm_stop_insecure_upstream => 'off', cdm_stop_wait => '8s',
);

for my $name (sort keys %right) {
    my $value = $right{$name};

    $lint->is_error(
        "C01 $name without a value", $lint->with(SERVER => "$name;"), 'SERVER',
        qr/invalid number of arguments in "$name" directive/);
    $lint->is_error(
        "C01 $name with two values",
        $lint->with(SERVER => "$name $value $value;"), 'SERVER',
        qr/invalid number of arguments in "$name" directive/);
    $lint->is_error(
        "C01 $name twice",
        $lint->with(SERVER => "$name $value; $name $value;"),
        'SERVER', qr/"$name" directive is duplicate/);
    $lint->is_error(
        "C09 $name in if",
        $lint->with(
            LOCATION => "if (\$request_method = PUT) { $name $value; }"
        ),
        'LOCATION',
        qr/"$name" directive is not allowed here/);
    $lint->is_error(
        "C09 $name in limit_except",
        $lint->with(LOCATION => "limit_except GET { $name $value; }"),
        'LOCATION',
        qr/"$name" directive is not allowed here/);
    $lint->is_error(
        "C01 $name outside of http",
        $conf =~ s/^events/$name $value; #OUT\nevents/mr, 'OUT',
        qr/"$name" directive is not allowed here/);
}

$lint->is_error(
    "C01 $_->[0] without a value", $lint->with(SERVER => "$_->[0];"), 'SERVER',
    qr/invalid number of arguments in "$_->[0]" directive/
) for ['cdm_stop_audit'], ['cdm_stop_pass_header'];
$lint->is_error(
    'C01 cdm_stop_zone in a server',
    $lint->with(SERVER => 'cdm_stop_zone other:1m;'), 'SERVER',
    '"cdm_stop_zone" directive is not allowed here');
$lint->is_error(
    'C01 cdm_stop twice in a location',
    $lint->with(LOCATION => 'cdm_stop off;'), 'LOCATION',
    '"cdm_stop" directive is duplicate');
$lint->is_error(
    'C01 a later directive',
    $lint->with(LOCATION => 'cdm_stop_quota org { }'),
    'LOCATION', 'unknown directive "cdm_stop_quota"');


# headers that may pass

my %forbidden = (
    'is a credential or an identity' => [
        qw(X-Auth-Token x-auth-token X_Auth_Token X.Auth.Token),
        qw(Authorization Proxy-Authorization Cookie X-Sdk-Date),
        qw(X-Sdk-Content-Sha256 X-Security-Token X-Subject-Token),
        qw(X-Service-Token X-Storage-Token X-Project-Id X-Project-Name),
        qw(X-Domain-Id X-Tenant-Id X-Tenant-Name X-User-Id X-User-Name),
        qw(X-Roles X-Identity-Status X-Is-Admin-Project)
    ],
    'overrides the method or the target' => [
        qw(X-HTTP-Method X-HTTP-Method-Override X-Method-Override),
        qw(X-Original-URL X-Rewrite-URL X-Cluster-ID)
    ],
    'would let CDM compress the answer that is read for the verdict' =>
        ['Accept-Encoding'],
    'names the server' => ['Host'],
    'belongs to one connection only' => [
        qw(Connection Keep-Alive TE Trailer Transfer-Encoding Upgrade),
        qw(Content-Length Expect)
    ],
);

for my $reason (sort keys %forbidden) {
    for my $name (@{ $forbidden{$reason} }) {
        my $why =
            $name eq 'Proxy-Authorization'
            ? 'belongs to one connection only'
            : $reason;
        $lint->is_error(
            "H05 cdm_stop_pass_header $name",
            $lint->with(SERVER => "cdm_stop_pass_header X-Trace $name;"),
            'SERVER',
            qq(header "$name" may not be passed to CDM: it $why));
    }
}

$lint->is_error(
    "H05 cdm_stop_pass_header $_->[0]",
    $lint->with(SERVER => qq(cdm_stop_pass_header "$_->[1]";)), 'SERVER',
    qr/header "[^"]*" may not be passed to CDM: it/)
    for ['of no letter', ''], ['with a blank', 'X Trace'],
    ['with a colon', 'X-Trace:'],
    ['with a line feed', "X-A\nX-B"];
$lint->is_fine(
    'H05 headers that may pass',
    $lint->with(
        SERVER => 'cdm_stop_pass_header X-Trace X-Request-Tag; '
            . 'cdm_stop_pass_header b3;'
    ));


# the upstream

$lint->is_error(
    'C06 proxy_pass with variables',
    $lint->with(PASS => 'set $cdm 127.0.0.1:1; proxy_pass http://$cdm;'),
    'GUARD',
    '"cdm_stop" needs "proxy_pass" with the address of '
        . 'CDM as it is, without variables');
$lint->is_error(
    'C06 proxy_pass with variables in the URI',
    $lint->with(
        PASS => 'proxy_pass ' . 'http://127.0.0.1:%%CDM_PORT%%$request_uri;'
    ),
    'GUARD',
    qr/without variables/);
$lint->is_error(
    'C06 variables behind an inherited guard',
    $lint->with(
              SERVER => 'set $cdm 127.0.0.1:1; cdm_stop huawei; '
            . 'cdm_stop_verify off; cdm_stop_anonymous on; '
            . 'cdm_stop_audit %%TESTDIR%%/audit.jsonl; '
            . 'cdm_stop_insecure_upstream on; '
            . 'location /seen/ { proxy_pass http://127.0.0.1:1; }',
        GUARD => undef,
        PASS => 'proxy_pass http://$cdm;'
    ),
    'SERVER',
    '"cdm_stop" needs "proxy_pass" with the address of '
        . 'CDM as it is, without variables');
my @handlers = ('stub_status', 'empty_gif');
push @handlers, 'fastcgi_pass 127.0.0.1:9000'
    if !$t->has('--without-http_fastcgi_module');
push @handlers, 'memcached_pass 127.0.0.1:11211'
    if !$t->has('--without-http_memcached_module');

$lint->is_error(
    "C06 $_ behind the guard", $lint->with(PASS => "$_;"),
    'GUARD', '"cdm_stop" needs "proxy_pass"'
) for @handlers;

my $unchecked =
      q("cdm_stop" would give the gateway's token to a server it )
    . 'does not check, set "proxy_pass https://...;", "proxy_ssl_verify on;", '
    . '"proxy_ssl_server_name on;" and '
    . '"proxy_ssl_trusted_certificate" or, for '
    . 'a test, "cdm_stop_insecure_upstream on;"';
my $https =
      'proxy_pass https://127.0.0.1:1; '
    . 'proxy_ssl_trusted_certificate '
    . '%%TESTDIR%%/certs/ca.crt;';
$t->cert('good');

$lint->is_error(
    'C04 CDM over http', $lint->with(INSECURE => undef), 'GUARD',
    $unchecked);
$lint->is_error(
    'C04 CDM over http, insecure off',
    $lint->with(INSECURE => 'cdm_stop_insecure_upstream off;'), 'GUARD',
    $unchecked);
$lint->is_error(
    'C04 CDM over http, with a check that checks nothing',
    $lint->with(
        INSECURE => 'proxy_ssl_verify on; proxy_ssl_trusted_certificate '
            . '%%TESTDIR%%/certs/ca.crt;'
    ),
    'GUARD',
    $unchecked);
$lint->is_error(
    'C04 CDM unchecked', $lint->with(INSECURE => undef, PASS => $https),
    'GUARD', $unchecked);
$lint->is_fine(
    'C04 CDM checked',
    $lint->with(
        INSECURE => undef,
        PASS => "$https proxy_ssl_verify on; proxy_ssl_server_name " . "on;"
    ));
$lint->is_fine(
    'C04 CDM checked, set at http level',
    $lint->with(
        INSECURE => undef, PASS => $https, HTTP => 'proxy_ssl_verify on;'
    ));
$lint->is_fine(
    'C04 CDM unchecked, but nothing is injected',
    $lint->with(INSECURE => undef, VERIFY => 'cdm_stop_inject off;',
        ANONYMOUS => undef));
$lint->is_error(
    'C04 unchecked behind an inherited guard',
    $lint->with(
              SERVER => 'cdm_stop huawei; cdm_stop_verify off; '
            . 'cdm_stop_anonymous on; '
            . 'cdm_stop_audit %%TESTDIR%%/audit.jsonl;', GUARD => undef,
        INSECURE => undef
    ),
    'SERVER',
    $unchecked);

$lint->is_warning(
    'B04 proxy_request_buffering off',
    $lint->with(LOCATION => 'proxy_request_buffering off;'), 'GUARD',
    '"proxy_request_buffering off" has no effect on '
        . 'stops, whose body is read before the token is '
        . 'taken; remove it');
$lint->is_warning(
    'H03 small buffers for headers', $lint->with(BUFFERS => undef), 'GUARD',
    'callers of "cdm_stop" who send a token of more than '
        . '8176 bytes get 400 from nginx itself, write '
        . '"large_client_header_buffers 4 40k;" in the server');
$lint->is_warning(
    'H03 buffers a byte too small',
    $lint->with(BUFFERS => 'large_client_header_buffers 4 40959;'), 'GUARD',
    'large_client_header_buffers 4 40k');
$lint->is_fine(
    'H03 buffers at http level',
    $lint->with(
        BUFFERS => undef, HTTP => 'large_client_header_buffers 4 40k;'
    ));

my $sibling = 'location "/other/" proxies to the same CDM without '
    . '"cdm_stop", guard it as well';
$lint->is_warning(
    'C07 the same CDM beside the guard',
    $lint->with(
        AFTER => 'location /other/ { proxy_pass '
            . 'http://127.0.0.1:%%CDM_PORT%%; }'
    ),
    'GUARD',
    $sibling);
$lint->is_warning(
    'C07 with a path',
    $lint->with(
        AFTER => 'location /other/ { proxy_pass '
            . 'http://127.0.0.1:%%CDM_PORT%%/v1.1/; }'
    ),
    'GUARD',
    $sibling);
$lint->is_warning(
    'C07 in another server',
    $lint->with(HTTP => <<'EOC'), 'GUARD', $sibling);
    server {
        listen 127.0.0.1:%%PORT_two%%;
        location /other/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
EOC
$lint->is_fine(
    'C07 another host',
    $lint->with(
        AFTER => 'location /other/ { proxy_pass http://127.0.0.1:1; }'
    ));

{
    # only a binary with debug logs prints headers
    my $text = $lint->with(SERVER => 'error_log %%TESTDIR%%/debug.log debug;');
    my $warning =
          'nginx prints the headers of callers of "cdm_stop", '
        . 'their tokens included, at level "debug" of '
        . '"error_log"; set it to "info"';

    $t->{debug}
        ? $lint->is_warning('L02 a debug log', $text, 'GUARD', $warning)
        : $lint->is_fine('L02 no debug log', $text);
}


# records

$lint->is_error(
    'C10 stderr alone', $lint->with(AUDIT => 'cdm_stop_audit stderr;'),
    'GUARD',
    '"cdm_stop_audit stderr" alone may lose records, add '
        . 'a file or write "cdm_stop_audit stderr best_effort;"');
$lint->is_fine(
    'C10 stderr by name',
    $lint->with(AUDIT => 'cdm_stop_audit stderr best_effort;'));
$lint->is_fine(
    'C10 stderr and a file',
    $lint->with(LOCATION => 'cdm_stop_audit stderr;'));
$lint->is_fine(
    'C10 a file, best effort',
    $lint->with(
        AUDIT => 'cdm_stop_audit %%TESTDIR%%/audit.jsonl best_effort;'
    ));
$lint->is_warning(
    'C10 no records, by name', $lint->with(AUDIT => 'cdm_stop_audit off;'),
    'GUARD', 'stops leave no record with "cdm_stop_audit off"');
$lint->is_error(
    'C10 off and a file',
    $lint->with(AUDIT => 'cdm_stop_audit off; cdm_stop_audit %%TESTDIR%%/a;'),
    'AUDIT',
    '"cdm_stop_audit" directive cannot be "off" and have '
        . 'a target as well');
$lint->is_error(
    'C10 a file and off',
    $lint->with(AUDIT => 'cdm_stop_audit %%TESTDIR%%/a; cdm_stop_audit off;'),
    'AUDIT', 'cannot be "off" and have a target as well');
$lint->is_error(
    'C10 off with a parameter',
    $lint->with(AUDIT => 'cdm_stop_audit off best_effort;'), 'AUDIT',
    '"cdm_stop_audit" directive "off" takes no parameters');
$lint->is_error(
    'C10 three targets',
    $lint->with(
        AUDIT => join ' ', map { "cdm_stop_audit %%TESTDIR%%/$_;" } 'a' .. 'c'
    ),
    'AUDIT',
    '"cdm_stop_audit" directive has more than two targets');
if ($t->has('--with-threads')) {
    $lint->is_fine("C10 a file, $_",
        $lint->with(AUDIT => "cdm_stop_audit %%TESTDIR%%/a $_;"))
        for 'sync', 'best_effort sync';

} else {
    $lint->is_error(
        'C10 sync', $lint->with(AUDIT => 'cdm_stop_audit %%TESTDIR%%/a sync;'),
        'AUDIT',
        'parameter "sync" of "cdm_stop_audit" needs an nginx that is built '
            . '--with-threads, use such a one or remove the word');
}

$lint->is_error(
    "C10 sync of $_", $lint->with(AUDIT => "cdm_stop_audit $_ sync;"), 'AUDIT',
    'parameter "sync" needs a file, remove the word or name one'
) for 'stderr', 'syslog:server=127.0.0.1';
$lint->is_error(
    'C10 syslog alone',
    $lint->with(AUDIT => 'cdm_stop_audit syslog:server=127.0.0.1,tag=cdm;'),
    'GUARD',
    '"cdm_stop_audit syslog:server=127.0.0.1,tag=cdm" alone may lose records, '
        . 'add a file or write "cdm_stop_audit syslog:server=127.0.0.1,tag=cdm '
        . 'best_effort;"');
$lint->is_fine(
    'C10 syslog by name',
    $lint->with(AUDIT => 'cdm_stop_audit syslog:server=127.0.0.1 best_effort;'
    ));
$lint->is_fine(
    'C10 syslog and a file',
    $lint->with(LOCATION => 'cdm_stop_audit syslog:server=127.0.0.1;'));
$lint->is_error(
    'C10 syslog without a server',
    $lint->with(AUDIT => 'cdm_stop_audit syslog:tag=cdm best_effort;'),
    'AUDIT', 'no syslog server specified');
$lint->is_error(
    "C10 parameter $_",
    $lint->with(AUDIT => "cdm_stop_audit %%TESTDIR%%/a $_;"), 'AUDIT',
    qr/invalid parameter "$_" of "cdm_stop_audit", it must be "best_effort" or /
) for 'besteffort', 'buffer=64k', 'Best_effort';
$lint->is_error(
    'C10 a file that access_log buffers',
    $lint->with(
        AUDIT => 'access_log %%TESTDIR%%/both.log combined buffer=4k; '
            . 'cdm_stop_audit %%TESTDIR%%/both.log;'
    ),
    'AUDIT',
    '"cdm_stop_audit" directive names a file that '
        . '"access_log" buffers, give the records a file of '
        . 'their own');
$lint->is_error(
    "C10 an empty name$_", $lint->with(AUDIT => "cdm_stop_audit \"\"$_;"),
    'AUDIT', '"cdm_stop_audit" directive'
) for '', ' best_effort';

{
    my ($exit, $said) =
        $lint->look(
        $lint->with(AUDIT => 'cdm_stop_audit %%TESTDIR%%/none/audit.jsonl;'));
    isnt($exit, 0, 'C10 no such directory: refused');
    like(
        $said, qr{\[emerg\] open\(\) "\S+/none/audit\.jsonl" failed \(2: },
        'C10 no such directory: named');

    mkdir $t->path('directory');
    ($exit, $said) =
        $lint->look(
        $lint->with(AUDIT => 'cdm_stop_audit %%TESTDIR%%/directory;'));
    isnt($exit, 0, 'C10 a directory: refused');
    like(
        $said, qr{\[emerg\] open\(\) "\S+/directory" failed \(21: },
        'C10 a directory: named');

    # where not even root may make a file
    ($exit, $said) =
        $lint->look($lint->with(AUDIT => 'cdm_stop_audit /sys/cdm.jsonl;'));
    isnt($exit, 0, 'C10 no right to make the file: refused');
    like(
        $said, qr{\[emerg\] open\(\) "/sys/cdm\.jsonl" failed \((?:13|30): },
        'C10 no right to make the file: named');
}

$lint->is_fine(
    'A13 native', $lint->with(LOCATION => 'cdm_stop_audit_format native;'));
$lint->is_error(
    "A13 $_", $lint->with(LOCATION => "cdm_stop_audit_format $_;"), 'LOCATION',
    "\"cdm_stop_audit_format $_\" comes with a later version, remove it or "
        . 'write "native"'
) for qw(cts ocsf);
$lint->is_error(
    'C01 another format',
    $lint->with(LOCATION => 'cdm_stop_audit_format json;'), 'LOCATION',
    'invalid value "json" of "cdm_stop_audit_format", it must be "native"');
$lint->is_error(
    'C01 two formats',
    $lint->with(LOCATION => 'cdm_stop_audit_format native; ' x 2),
    'LOCATION', '"cdm_stop_audit_format" directive is duplicate');

# a message each, however many locations inherit it

{
    my ($exit, $said) = $lint->look(
        $lint->with(
                  SERVER => 'cdm_stop huawei; cdm_stop_verify off; '
                . 'cdm_stop_anonymous on; cdm_stop_insecure_upstream '
                . 'on; cdm_stop_audit off;'
                . ' location /a/ { proxy_pass http://127.0.0.1:1; } '
                . 'location /b/ { proxy_pass http://127.0.0.1:2; '
                . 'location /b/c/ { proxy_pass http://127.0.0.1:3; } }'));
    is($exit, 0, 'C01 inherited by three locations: accepted') or diag($said);
    is( scalar(() = $said =~ /stops leave no record/g), 1,
        'C01 inherited by three locations: one warning');
}


# every message has its test above

my @sources = (
    (map { $t->root . "/src/ngx_http_cdm_stop_$_.c" }
         qw(audit check conf directives token)),
    $t->root . '/ngx_http_cdm_stop_module.c');
my @messages = CdmStop::Messages::of(@sources);
cmp_ok(scalar @messages, '>=', 25, 'the messages were found in the sources');

@messages = grep { $_->{format} !~ /^nginx prints the headers/ } @messages
    if !$t->{debug};
is(
    join(
        "\n",
        map { "$_->{file}:$_->{line}: $_->{format}" }
            CdmStop::Messages::unseen($lint->output, @messages)
    ),
    '',
    'C01 every message of nginx -t was seen');

$t->done;
