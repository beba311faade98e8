#!/usr/bin/perl

# Answers of IAM that are odd, but right: the token is taken as it is, the life
# is what IAM's own clock says, and CDM gets that token.

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
}
EOC

$t->config($config =~ s/%%PROJECTS%%/project_list(100)/egr);
$t->start;

my $good = $t->ledger->token(200);

# Odd, but right: [name, seconds of life as the log tells, rule].

sub life {
    my ($seconds) = @_;

    # the clock may tick on between the making of both times
    return [$seconds - 2, $seconds];
}

my @accepted = (
    [   'I04 10 years', [86_400, 86_400],
        sub { { token => { expires_at => stamp(time + 315_360_000) . 'Z' } } }
    ],
    [   'I04 the year 9999', [86_400, 86_400],
        { token => { expires_at => '9999-12-31T23:59:59Z' } }
    ],
    [   'I04 +08:00', life(3600),
        sub { { token => { expires_at => stamp(time + 3600, 480) } } }
    ],
    [   'I04 -09:30', life(3600),
        sub { { token => { expires_at => stamp(time + 3600, -570) } } }
    ],
    [   'I04 -00:00', life(3600),
        sub { { token => { expires_at => stamp(time + 3600) . '-00:00' } } }
    ],
    [   'I04 no fraction', life(7200),
        sub { { token => { expires_at => stamp(time + 7200) . 'Z' } } }
    ],
    [   'I04 nine digits',
        life(7200),
        sub {
            { token => { expires_at => stamp(time + 7200) . '.999999999Z' } }
        }
    ],
    [   'I04 a long fraction',
        life(7200),
        sub {
            {
                token => {
                    expires_at => stamp(time + 7200) . '.' . '9' x 1000 . 'Z'
                } }
        }
    ],
    [   'I04 second 60',
        [60, 60],
        {
            token => {
                issued_at => '2035-06-30T23:59:00Z',
                expires_at => '2035-06-30T23:59:60Z'
            },
            headers => [Date => 'Sat, 30 Jun 2035 23:59:00 GMT']
        }
    ],
    [   'I04 second 60 over midnight',
        [61, 61],
        {
            token => {
                issued_at => '2035-06-30T23:59:59Z',
                expires_at => '2035-07-01T00:01:00Z'
            },
            headers => [Date => 'Sat, 30 Jun 2035 23:59:59 GMT']
        }
    ],
    [   'I04 29 February',
        [86_400, 86_400],
        {
            token => {
                issued_at => '2032-02-28T12:00:00Z',
                expires_at => '2032-02-29T12:00:00Z'
            },
            headers => [Date => 'Sat, 28 Feb 2032 12:00:00 GMT']
        }
    ],
    [   'I04 no issued_at',
        life(1800),
        sub {
            {
                token => {
                    issued_at => undef,
                    expires_at => stamp(time + 1800) . 'Z'
                } }
        }
    ],
    [   'I04 an unreadable issued_at',
        life(1800),
        sub {
            {
                token => {
                    issued_at => 'x',
                    expires_at => stamp(time + 1800) . 'Z'
                } }
        }
    ],
    [   'M02 IAM is one hour behind',
        life(600),
        sub {
            {
                token => {
                    issued_at => stamp(time - 3600) . 'Z',
                    expires_at => stamp(time - 3000) . 'Z'
                },
                headers =>
                    [Date => CdmStop::Standin::Rule::http_date(time - 3600)] }
        }
    ],
    [   'M02 IAM is one year ahead',
        life(600),
        sub {
            {
                token => {
                    issued_at => stamp(time + 31_536_000) . 'Z',
                    expires_at => stamp(time + 31_536_600) . 'Z'
                },
                headers => [
                    Date =>
                        CdmStop::Standin::Rule::http_date(time + 31_536_000)
                ] }
        }
    ],
    [   'M02 issued an hour ago',
        life(600),
        sub {
            {
                token => {
                    issued_at => stamp(time - 3600) . 'Z',
                    expires_at => stamp(time + 600) . 'Z'
                } }
        }
    ],
    [   'M02 no Date',
        life(600),
        sub {
            {   drop => ['Date'],
                token => {
                    issued_at => stamp(time) . 'Z',
                    expires_at => stamp(time + 600) . 'Z'
                } }
        }
    ],

    ['H03 a token of one byte', undef, { token_size => 1 }],
    ['H03 a token of 9,120 bytes', undef, { token_size => 9_120 }],
    ['H03 a token of 31 KB', undef, { token_size => 31_744 }],
    ['H03 a token of 32,768 bytes', undef, { token_size => 32_768 }],
    [   'I05 and headers of 30 KB',
        undef,
        {   token_size => 32_768,
            headers => [map { ("X-Filler-$_" => 'x' x 1000) } 1 .. 30]
        }
    ],
    [   'I02 a token of all legal characters',
        undef,
        sub {
            {
                headers => [
                    'X-Subject-Token' => $t->ledger->add(
                        'token', join '',
                        grep { $_ ne ',' } map { chr } 0x21 .. 0x7e
                    )
                ] }
        }
    ],
    [   'I02 a header in lower case',
        undef,
        sub {
            { headers =>
                    ['x-SUBJECT-token' => ' ' . $t->ledger->token(100) . '  ']
            }
        }
    ],
    ['I05 chunks', undef, { chunked => 4096 }],
    ['I05 chunks of one byte', undef, { chunked => 2 }],
    ['I05 until close', undef, { no_length => 1 }],
    ['I05 HTTP/1.0', undef, { version => '1.0', no_length => 1 }],
    [   'I05 256 KB',
        undef,
        sub {
            my $b = body_for($_[0]);
            { body => $b . ' ' x (262_144 - length $b) };
        }
    ],
    [   'I05 256 KB in chunks',
        undef,
        sub {
            my $b = body_for($_[0]);
            { body => $b . ' ' x (262_144 - length $b), chunked => 1000 };
        }
    ],
    [   'I05 a catalog of 200 KB',
        undef,
        sub {
            { token => { catalog => [map { { id => $_ x 20 } } 1 .. 3000] } }
        }
    ],
    ['I05 byte by byte', undef, { token_size => 100, drip => 0.0005 }],
    [   'I05 interim answers before',
        undef,
        {   before => "HTTP/1.1 100 Continue\r\n\r\n"
                . "HTTP/1.1 103 Early Hints\r\nX-Subject-Token: $good\r\n\r\n"
        }
    ],
    [   'I03 X-Accel headers and cookies',
        undef,
        {
            headers => [
                'X-Accel-Redirect' => '/inside/',
                'X-Accel-Expires' => '@0', 'X-Accel-Limit-Rate' => '1',
                'X-Accel-Buffering' => 'no',
                'X-Accel-Charset' => 'x', 'Set-Cookie' => 'a=b',
                'Refresh' => '0; url=/inside/',
                'Location' => '/inside/', 'Vary' => '*', 'Upgrade' => 'h2c',
                'WWW-Authenticate' => 'x'
            ]
        }
    ],
    [   'I02 unknown members', undef,
        sub { { body => body_for($_[0], user => { name => "\\u0000" }) } }
    ],
);

$iam->script;

for my $case (@accepted) {
    my ($name, $life, $rule) = @$case;
    my $project = new_project();

    $rule = $rule->($project) if ref $rule eq 'CODE';
    $iam->script({ when => { body => qr/$project/ }, times => 1, %$rule });
    $cdm->reset_log;

    my $answer = $t->put_stop(project => $project);
    is($answer->{status}, 200, "$name: a token")
        or diag(join "\n", lines_of($t, $project));
    is($t->put_stop(project => $project)->{status}, 200, "$name: kept");

    my @sent = map { $_->all('X-Auth-Token') } $cdm->stops;
    my %headers =
        CdmStop::Http::pairs($rule->{headers}) ? @{ $rule->{headers} } : ();
    my ($own) = map { $headers{$_} =~ s/\A\s+|\s+\z//gr }
        grep { /\Ax-subject-token\z/i } keys %headers;
    my $token = $own // $iam->last_token;

    is( join(' ', map { length } @sent), length($token) . ' ' . length $token,
        "$name: CDM gets one token each");
    ok(!(grep { $_ ne $token } @sent), "$name: it is the one that IAM issued");

    next if !$life;

    my ($seconds) = $t->error_log =~
        /IAM issued a token of \d+ bytes for (-?\d+) seconds .*$project/;
    ok( defined $seconds && $seconds >= $life->[0] && $seconds <= $life->[1],
        "$name: its life is right"
    ) or diag($seconds // 'no line in the log');
}


# An answer is complete when its length says so, not when IAM closes.

for my $form (
    ['a length', sub { 'Content-Length: ' . length($_[0]) . "\r\n\r\n$_[0]" }],
    [   'chunks',
        sub {
            "Transfer-Encoding: chunked\r\n\r\n"
                . sprintf("%x\r\n%s\r\n0\r\n\r\n", length $_[0], $_[0]);
        }
    ])
{
    my $project = new_project();
    my $token = $t->ledger->token(400);

    $iam->script(
        {   when => { body => qr/$project/ }, hang => 1,
            raw => "HTTP/1.1 201 Created\r\n"
                . "X-Subject-Token: $token\r\nConnection: "
                . "keep-alive\r\n"
                . $form->[1]->(body_for($project)) });
    $cdm->reset_log;

    my $begin = time;
    is( $t->put_stop(project => $project)->{status}, 200,
        "I05 $form->[0], and IAM does not close: a token");
    cmp_ok(time - $begin, '<', 4, "I05 $form->[0]: at once");
    is( ($cdm->stops)[0]->header('X-Auth-Token'), $token,
        "I05 $form->[0]: that token");
}

$t->done;
