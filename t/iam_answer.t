#!/usr/bin/perl

# What IAM may answer to the request for a token. An answer that is not exactly
# as it must be is never stored and never sent: the stop gets 503 CDMSTOP.0301,
# CDM no byte, IAM no second request before the back-off is over, and the error
# log says what was wrong.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time sleep);

use CdmStop::Exchange;
use CdmStop::Test;

# hundreds of exchanges: a debug log of them would take longer than all else
my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;
my $elsewhere = $t->standin(
    'CdmStop::Iam', port => 'ELSEWHERE',
    name => 'elsewhere',
    users => { acme => { 'cdm-gateway' => $t->{password} } });


my $config = <<'EOC';
%%GLOBALS%%
worker_processes 2;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:8m;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       %%PROJECTS%%;
    }

    # one whose credentials are refused rests in all its projects
    cdm_stop_iam refusing {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           another;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop huawei;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /inside/ {
            internal;
            return 200 "inside\n";
        }
    }
    server {
        listen 127.0.0.1:%%PORT_refusing%%;
        location /v1.1/ {
            cdm_stop refusing;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->config($config =~ s/%%PROJECTS%%/project_list(300)/er);
$t->start;

# A token of which no part may be seen anywhere, with something in its middle.

sub with {
    my ($bytes) = @_;

    return $t->ledger->add(
        'odd token',
        $t->ledger->token(40) . $bytes . $t->ledger->token(40));
}

# Name, what the log says, and the rule for the stand-in (or a function of the
# project that makes it).

my $other = '1551c7f6c808414d8e9f3c514a170f2f';
my $good = $t->ledger->token(200);
my @two = map { $t->ledger->token(100) } 1 .. 2;

my $illegal = qr/an X-Subject-Token that is no legal token \(status 201/;
my $no_json = qr/a body that is no JSON/;
my $no_end = qr/no readable expires_at/;
my $scope = qr/a token of another project/;
my $ended = qr/a token that has ended/;
my $no_answer = qr/IAM gave no token: no answer, next try/;
my $too_big = qr/IAM sent too big body/;
my $length = qr/IAM sent a body of unknown length or encoding/;
my $header = qr/IAM sent an invalid header line/;
my $status_line = qr/IAM sent no valid HTTP\/1\.1 header/;

my @refused = (

    # the token

    ['I02 no token', qr/no X-Subject-Token/, { drop => ['X-Subject-Token'] }],
    ['I02 an empty one', $illegal, { headers => ['X-Subject-Token' => ''] }],
    [   'I02 a blank one', $illegal,
        { headers => ['X-Subject-Token' => "  \t"] }
    ],
    [   'I02 two', qr/more than one X-Subject-Token/,
        { headers => [map { ('X-Subject-Token' => $_) } @two] }
    ],
    [   'I02 the same twice',
        qr/more than one/,
        {   headers => ['X-Subject-Token' => $good, 'x-subject-token' => $good]
        }
    ],
    [   'I02 an empty one and another', qr/more than one/,
        { headers => ['X-Subject-Token' => '', 'X-Subject-Token' => $good] }
    ],
    [   'I02 one in the body only', qr/no X-Subject-Token/,
        { drop => ['X-Subject-Token'], body => '{"token":"%%TOKEN%%"}' }
    ],
    [   'I02 under another name',
        qr/no X-Subject-Token/,
        {   drop => ['X-Subject-Token'],
            headers => [
                'X-Auth-Token' => $good,
                'X_Subject_Token' => $good, 'X-Subject-Tokens' => $good
            ]
        }
    ],
    ['I02 over 32 KB', $illegal, { token_size => 32_769 }],
    ['I02 60 KB', $illegal, { token_size => 60_000 }],

    (
        map {
            my ($what, $bytes, $why) = @$_;
            [   "I02 a token with $what", $why // $illegal,
                { headers => ['X-Subject-Token' => with($bytes)] }]
        } ['CR', "\r", $header],
        ['LF', "\n", $header],
        ['LF and a header', "\nX-A: ", $header],
        ['a folded line', "\r\n ", $header], ['NUL', "\0", $header],
        ['a blank', ' '], ['a tab', "\t"], ['a comma', ','], ['ESC', "\e"],
        ['DEL', "\x7f"],
        ['a byte over 126', "\xe9"],
        ['UTF-8', "\xe5\x90\x8c"]
    ),

    # the status

    (
        map {
            [   "I02 $_ for 201", qr/unexpected status \(status $_/,
                { status => $_ }]
        } 200,
        202, 203, 206,
        299
    ),
    [   'I02 204 for 201', qr/unexpected status \(status 204/,
        { status => 204, body => '' }
    ],
    (
        map {
            my $status = $_;
            [   "I03 $status to another host",
                qr/unexpected status \(status $status/,
                sub {
                    {   status => $status,
                        body => body_for($_[0]),
                        headers => [
                                  Location => 'http://127.0.0.1:'
                                . $t->port('ELSEWHERE')
                                . '/v3/auth/tokens',
                            'X-Subject-Token' => $good
                        ] }
                }
            ]
        } 300 .. 305,
        307,
        308
    ),
    (
        map {
            my $name = $_;
            [   "I08 answer $name",
                qr/unexpected status \(status \d+, message "/,
                { answer => $name }]
        } qw(bad_request not_found failed_over server_error unavailable),
        'throttled'
    ),
    [   'I08 401 with a token', qr/IAM refuses the gateway: status 401/,
        sub {
            {   status => 401, body => body_for($_[0]),
                headers => ['X-Subject-Token' => $good] }
        }
    ],
    [   'I08 403', qr/IAM refuses the gateway: status 403/,
        { answer => 'no_right' }
    ],

    # the body

    (   map { ["I02 $_->[0]", $no_json, { body => $_->[1] }] }
            ['garbage', 'garbage'], ['no body', ''],
        ['HTML', '<html>no</html>'],
        ['NUL', "\0"], ['a lone quote', '"'],
        ['an endless list', '[' x 100_000],
        ['endless objects', '{"token":' x 20_000],
        [   'invalid UTF-8',
            "{\"token\":{\"a\":\"\xff\"}}"
        ],
        [   'an overlong form',
            "{\"token\":{\"a\":\"\xc0\xaf\"}}"
        ],
        [   'a lone surrogate',
            '{"token":{"a":"\ud800"}}'
        ],
        ['a huge number', '{"token":{"a":1e99999}}']
    ),
    [   'I02 cut JSON', $no_json,
        sub { { body => substr body_for($_[0]), 0, -1 } }
    ],
    [   'I02 JSON and more', $no_json,
        sub { { body => body_for($_[0]) . '{}' } }
    ],
    [   'I05 deep JSON',
        $no_json,
        sub {
            {   body => body_for($_[0]) =~ s/\[\]/'[' x 5000
        . ']' x 5000/er }
        }
    ],
    (
        map {
            my $key = $_;
            [   "I08 key $key twice", $no_json,
                sub { { body => body_for($_[0]) =~ s/("$key":)/$1null,$1/r } }]
        } qw(token project id expires_at issued_at methods)
    ),
    [   'I08 a key twice in another spelling',
        $no_json,
        sub {
            { body => body_for($_[0]) =~
                    s/"expires_at"/"\\u0065xpires_at":null,$&/r }
        }
    ],
    (   map { ["I02 $_->[0]", qr/no token object/, { body => $_->[1] }] }
            ['a list', '[]'],
        ['an empty object', '{}'],
        [   'token: null',
            '{"token":null}'
        ],
        ['token: a string', '{"token":"x"}'],
        ['token: a list', '{"token":[{}]}']
    ),

    # the project

    [   'I09 another project', $scope,
        { token => { project => { id => $other } } }
    ],
    ['I09 no project', $scope, { token => { project => undef } }],
    [   'I09 a domain',
        $scope,
        {
            token => {
                project => undef,
                domain => { id => $other }
            }
        }
    ],
    [   'I09 project without id', $scope,
        { token => { project => { name => 'x' } } }
    ],
    [   'I09 project: a list', $scope,
        sub { { token => { project => [{ id => $_[0] }] } } }
    ],
    [   'I09 project: a string', $scope,
        sub { { token => { project => $_[0] } } }
    ],
    [   'I09 id: a list', $scope,
        sub { { token => { project => { id => [$_[0]] } } } }
    ],
    [   'I09 id in upper case', $scope,
        sub { { token => { project => { id => uc $_[0] } } } }
    ],
    [   'I09 id and more', $scope,
        sub { { token => { project => { id => "$_[0]0" } } } }
    ],
    [   'I09 a part of the id', $scope,
        sub { { token => { project => { id => substr $_[0], 1 } } } }
    ],
    [   'I09 id with NUL', qr/$scope|$no_json/,
        sub { { token => { project => { id => "$_[0]\0" } } } }
    ],

    # the end

    (
        map {
            [   "I04 expires_at $_->[0]", $no_end,
                { token => { expires_at => $_->[1] } }]
        } ['missing', undef],
        ['empty', ''],
        ['a word', 'never'],
        ['a number', 1893456000],
        ['a list', [stamp(time + 60) . 'Z']], ['a date', '2031-01-01'],
        ['without a zone', '2031-01-01T00:00:00'],
        ['with a blank', '2031-01-01 00:00:00Z'],
        ['blank before', ' 2031-01-01T00:00:00Z'],
        ['blank behind', '2031-01-01T00:00:00Z '],
        ['month 13', '2031-13-01T00:00:00Z'],
        ['month 0', '2031-00-01T00:00:00Z'], ['day 0', '2031-01-00T00:00:00Z'],
        ['30 February', '2031-02-30T00:00:00Z'],
        ['29 February 2100', '2100-02-29T00:00:00Z'],
        ['hour 24', '2031-01-01T24:00:00Z'],
        ['minute 60', '2031-01-01T00:60:00Z'],
        ['second 61', '2031-01-01T00:00:61Z'],
        ['no digit behind the point', '2031-01-01T00:00:00.Z'],
        ['two zones', '2031-01-01T00:00:00ZZ'],
        ['zone without colon', '2031-01-01T00:00:00+0800'],
        ['zone +24:00', '2031-01-01T00:00:00+24:00'],
        ['a sign', '+2031-01-01T00:00:00Z'],
        ['five digits of a year', '12031-01-01T00:00:00Z'],
        ['year 1969', '1969-12-31T23:59:59Z'],
        ['full-width digits', "\x{ff12}031-01-01T00:00:00Z"],
        ['64 KB', '2031-01-01T00:00:00.' . '0' x 65_000 . 'x'],
        ['-', '-']
    ),
    [   'I04 past', $ended,
        { token => { expires_at => '2020-01-04T09:05:22.701000Z' } }
    ],
    [   'I04 past, of an old token',
        $ended,
        {
            token => {
                issued_at => '2020-01-03T09:05:22.701000Z',
                expires_at => '2020-01-04T09:05:22.701000Z'
            }
        }
    ],
    [   'I04 past, with a zone', $ended,
        sub { { token => { expires_at => stamp(time - 60, 480) } } }
    ],
    [   'I04 no life',
        $ended,
        sub {
            my $now = stamp(time) . 'Z';
            { token => { issued_at => $now, expires_at => $now } };
        }
    ],
    [   'I04 ends before it begins',
        $ended,
        sub {
            {
                token => {
                    issued_at => stamp(time + 7200) . 'Z',
                    expires_at => stamp(time + 3600) . 'Z'
                } }
        }
    ],
    [   'I04 neither issued_at nor Date', qr/neither issued_at nor Date/,
        { token => { issued_at => undef }, drop => ['Date'] }
    ],
    [   'I04 an unreadable issued_at and Date', qr/neither issued_at nor Date/,
        { token => { issued_at => 'x' }, headers => [Date => 'yesterday'] }
    ],

    # the form

    [   'I05 a header of 64 KB', qr/upstream sent too big header/,
        { headers => ['X-Filler' => 'x' x 65_536] }
    ],
    [   'I05 headers of 64 KB', qr/upstream sent too big header/,
        { headers => [map { ("X-Filler-$_" => 'x' x 100) } 1 .. 700] }
    ],
    [   'I05 a header without an end', qr/upstream sent too big header/,
        { raw => "HTTP/1.1 201 Created\r\nX-A: " . 'x' x 200_000 }
    ],
    [   'I05 50 MB announced', $too_big,
        { headers => ['Content-Length' => 52_428_800] }
    ],
    [   'I05 50 MB until close', $too_big,
        { no_length => 1, body => ' ' x 52_428_800 }
    ],
    [   'I05 5 MB in chunks', $too_big,
        { chunked => 1, body => ' ' x 5_242_880 }
    ],
    [   'I05 256 KB and a byte',
        $too_big,
        sub {
            my $b = body_for($_[0]);
            { body => $b . ' ' x (262_145 - length $b) };
        }
    ],
    ['I05 gzip', $length, { headers => ['Content-Encoding' => 'gzip'] }],
    [   'I05 gzip, chunked', $length,
        { headers => ['Transfer-Encoding' => 'gzip, chunked'] }
    ],
    (
        map {
            [   "I05 Content-Length: $_", $length,
                { headers => ['Content-Length' => $_] }]
        } '-1',
        '', 'x', '1e3', '0x10',
        '99999999999999999999',
        '5, 5'
    ),
    [   'I05 two lengths',
        $length,
        sub {
            my $b = body_for($_[0]);
            {   body => $b,
                headers => [
                    'X-Subject-Token' => $good, 'Content-Length' => 5,
                    'Content-Length' => length $b
                ] };
        }
    ],
    [   'I05 length and chunks', $length,
        { chunked => 1, headers => ['Content-Length' => 5] }
    ],
    [   'I05 more than announced',
        qr/IAM sent more data than specified/,
        sub {
            my $b = body_for($_[0]);
            {         raw => "HTTP/1.1 201 Created\r\nX-Subject-Token: "
                    . "$good\r\nContent-Length: "
                    . length($b)
                    . "\r\n\r\n${b}x", close => 1 };
        }
    ],
    ['I05 less than announced', $no_answer, { close => 'mid_body' }],
    [   'I05 chunks without an end',
        $no_answer,
        sub {
            my $b = body_for($_[0]);
            { raw => "HTTP/1.1 201 Created\r\nX-Subject-Token: $good\r\n"
                    . "Transfer-Encoding: chunked\r\n\r\n"
                    . sprintf("%x", length $b)
                    . "\r\n$b\r\n", close => 1 };
        }
    ],
    [   'I05 invalid chunks',
        qr/IAM sent invalid chunked body/,
        {         raw => "HTTP/1.1 201 Created\r\nX-Subject-Token: "
                . "$good\r\nTransfer-Encoding: chunked\r\n"
                . "\r\nxyz\r\n"
        }
    ],
    [   'I05 a huge chunk',
        qr/IAM sent (?:invalid chunked|too big) body/,
        {         raw => "HTTP/1.1 201 Created\r\nX-Subject-Token: "
                . "$good\r\nTransfer-Encoding: chunked\r\n"
                . "\r\n7fffffffffffffff\r\n"
                . 'x' x 300_000, close => 1
        }
    ],
    [   'I02 no status line', $status_line,
        { raw => "X-Subject-Token: $good\r\n\r\n", close => 1 }
    ],
    [   'I02 four digits', $status_line,
        { raw => "HTTP/1.1 2010 Created\r\n\r\n", close => 1 }
    ],
    [   'I03 TLS on the plain port', $status_line,
        { raw => "\x15\x03\x01\x00\x02\x02\x28", close => 1 }
    ],
    ['I02 a header with NUL', $header, { headers => ["X-A\0" => 'x'] }],
    [   'I02 a blank before the colon',
        $header,
        sub {
            {         raw => "HTTP/1.1 201 Created\r\n"
                    . "X-Subject-Token : $good\r\n\r\n"
                    . body_for($_[0]), close => 1 }
        }
    ],
    ['I05 close', $no_answer, { close => 'after_request' }],
    ['I05 reset', $no_answer, { reset => 'after_request' }],
    [   'I05 reset behind the header', $no_answer,
        { reset => 'after_headers', delay_body => 0.1 }
    ],
    ['I05 reset amid the body', $no_answer, { reset => 'mid_body' }],
    [   'I05 close behind half a header',
        $no_answer,
        {   raw => "HTTP/1.1 201 Created\r\nX-Subject-Token: $good",
            close => 1
        }
    ],

    # nothing of an answer steers nginx

    [   'I03 404 with X-Accel-Redirect', qr/unexpected status \(status 404/,
        { status => 404, headers => ['X-Accel-Redirect' => '/inside/'] }
    ],
    [   'I03 302 with X-Accel-Redirect',
        qr/unexpected status \(status 302/,
        {   status => 302,
            headers =>
                ['X-Accel-Redirect' => '/inside/', 'Location' => '/inside/']
        }
    ],
);


for my $case (@refused) {
    my ($name, $log, $rule) = @$case;
    my $project = $case->[3] = new_project();

    $rule = $rule->($project) if ref $rule eq 'CODE';
    $iam->script({ when => { body => qr/$project/ }, %$rule });

    my $port = $t->port($name =~ /I08 40[13]/ ? 'refusing' : '');

    is_refused($name, $t->put_stop(port => $port, project => $project));

    # at once again: IAM is left alone, the answer was not stored
    is_refused(
        "$name: again",
        $t->put_stop(port => $port, project => $project));

    my @lines = lines_of($t, $project);
    ok(scalar(grep { /$log/ } @lines), "$name: the log says what is wrong")
        or diag(join "\n", 'the log has:', map { substr $_, 0, 500 } @lines);
    is( scalar(grep { /IAM (?:gave no token|refuses the gateway)/ } @lines), 1,
        "$name: one line about the token");
}

my %posts;
$posts{ ($_->{body} =~ /"id":"([0-9a-f]{32})"/)[0] }++ for $iam->posts;

is_deeply(
    \%posts, { map { $_->[3] => 1 } @refused },
    'I02 each of them was asked for once');
is($cdm->bytes, 0, 'I02 not one byte at CDM');
is($elsewhere->bytes, 0, 'I03 not one byte at the other host');
is($elsewhere->counters->{connections}, 0, 'I03 nor a connection');

my %records;
push @{ $records{ $_->{project_id} } }, $_ for $t->records('audit.jsonl');

is(
    scalar(
        grep {
            my @r = @{ $records{ $_->[3] } // [] };
            @r == 2 && !grep {
                       $_->{stage} ne 'refused'
                    || $_->{status} != 503
                    || $_->{error_code} ne 'CDMSTOP.0301'
                    || exists $_->{upstream_status}
                    || exists $_->{injected_token}
                    || exists $_->{token_generation}
            } @r;
        } @refused
    ),
    scalar @refused,
    'I02 one record of a refusal for each request');

$t->expect_log(qr/\[alert\].*IAM refuses the gateway: status 40[13]/);


# IAM is well again: each is asked for anew when its back-off is over, but for
# those whose credential was refused. What CDM gets is what IAM issued now.

$iam->script;
my @again = grep { $_->[0] !~ /I08 40[13]/ } @refused;
my %status;

for (1 .. 8) {
    for my $case (grep { ($status{ $_->[3] } // 0) != 200 } @again) {
        $status{ $case->[3] } = $t->put_stop(project => $case->[3])->{status};
    }

    last if !grep { $status{ $_->[3] } != 200 } @again;
    sleep 0.4;
}

is( join(', ', map { $_->[0] } grep { $status{ $_->[3] } != 200 } @again), '',
    'I02 asked for again, with success');

my %issued = map { $_->{project} => $_->{token} } $iam->tokens;
my %sent =
    map { ($_->{target} =~ m{/v1\.1/(\w+)/})[0] => $_->header('X-Auth-Token') }
    $cdm->stops;

is( scalar(grep { ($sent{ $_->[3] } // '') eq $issued{ $_->[3] } } @again),
    scalar @again,
    'I02 CDM got the tokens of the good answers');

$t->done;
