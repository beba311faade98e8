#!/usr/bin/perl

# A stop with a target as documented reaches CDM with one canonical target,
# whatever the spelling of its name; the record has the decoded name.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use Encode qw(encode);

use CdmStop::Expect;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my $iam = $t->iam;
my $cdm = $t->cdm;

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 4 40k;

    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri           http://127.0.0.1:%%IAM_PORT%%;
        insecure      on;
        method        password;
        domain        acme;
        user          cdm-gateway;
        password_file %%TESTDIR%%/secrets/password;
        projects      any;
    }

    server {
        listen 127.0.0.1:%%PORT%%;

        location /v1.1/ {
            cdm_stop                   huawei;
            cdm_stop_verify            off;
            cdm_stop_anonymous         on;
            cdm_stop_insecure_upstream on;
            cdm_stop_audit             %%TESTDIR%%/audit.jsonl;
            proxy_pass                 http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;

my $e = CdmStop::Expect->new($t, iam => $iam, cdm => $cdm);


# the documented target; CDM does not take the connection before it is told

$cdm->pause;
my $h = $t->start_stop;
my ($intent) = $t->wait_records('audit.jsonl', 1);
is($intent->{stage}, 'intent', 'T01 the intent is readable');
is($cdm->bytes, 0, 'T01 before CDM reads its first byte');
$cdm->resume;

my $r = $t->finish($h);
$e->forwarded($r, 'T01 canonical target: one token, a pair, stopped',
              iam => 1, verdict => 'stopped');
is($r->{body}, '{}', 'T01 the answer of CDM');
is(join(',', $r->all('X-Request-Id')), $intent->{request_id},
   'T01 one X-Request-Id, that of the record');

my ($got) = $cdm->requests;
my $port = $t->port('CDM');
like($got->{raw}, qr{\APUT\x20/v1\.1/1551c7f6c808414d8e9f3c514a170f2e/clusters
    /6ec9a0a4-76be-4262-8697-e7af1fac7920/cdm/job/jdbc2hive/stop
    \x20HTTP/1\.[01]\r\n}x, 'T01 CDM reads exactly the documented target');
is(join(',', sort grep { $_ ne 'connection' } $got->names),
   'accept-encoding,content-length,host,x-auth-token', 'T01 and no more');
is($got->header('Host'), "127.0.0.1:$port", 'T01 Host is that of CDM');
is($got->header('Content-Length'), 0, 'T01 no body');

$e->forwarded($t->put_stop(project => '0' x 32), 'T01 another project',
              project => '0' x 32, iam => 1);
$e->forwarded($t->put_stop(
    cluster => 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
    'T01 another cluster',
    cluster => 'ffffffff-ffff-ffff-ffff-ffffffffffff', iam => 0);


# Every spelling of a name: what is sent => name. CDM gets one form: unreserved
# characters as they are, each other byte as %XX.

my $hanzi = join '', map { chr 0x4e00 + $_ } 1 .. 240;
my $clef = "\x{1d11e}" x 240;
my $mixed = 0;

my @spellings = (
    ['ASCII', 'Job-1_a.b~c', 'Job-1_a.b~c'],
    ['one letter', 'x', 'x'],
    ['unreserved letters encoded', '%4a%4Fb%2d1%5f%61%2E%62%7E%63',
     'JOb-1_a.b~c'],
    ['all of it encoded', hex_of('jdbc2hive', 'x'), 'jdbc2hive'],
    ['240 letters', 'j' x 240, 'j' x 240],
    ['240 letters encoded', hex_of('j' x 240, 'X'), 'j' x 240],

    ['240 Chinese characters, lower-case hex', hex_of($hanzi, 'x'), $hanzi],
    ['240 Chinese characters, upper-case hex', hex_of($hanzi, 'X'), $hanzi],
    ['240 Chinese characters, both cases',
     join('', map { hex_of($_, $mixed++ & 1 ? 'x' : 'X') } split //, $hanzi),
     $hanzi],
    ['240 Chinese characters, raw UTF-8', encode('UTF-8', $hanzi), $hanzi],
    ['240 characters of four bytes, raw', encode('UTF-8', $clef), $clef],
    ['240 characters of four bytes, encoded', hex_of($clef, 'X'), $clef],
    ['raw and encoded in one name', "\xe5\x90\x8c%e6%ad%a5-a%62", '同步-ab'],
    ['half of a character raw', "\xe5%90\x8c", '同'],

    ['a blank', 'a%20b', 'a b'],
    ['a plus stays a plus', 'a+b', 'a+b'],
    ['a plus encoded', 'a%2bb', 'a+b'],
    ['two blanks and a plus', 'a%20%20+%2B', 'a  ++'],
    ['a no-break space within', 'a%c2%a0b', "a\x{a0}b"],
    ['sub-delimiters raw', q{!$&'()*,:@=[]}, q{!$&'()*,:@=[]}],
    ['sub-delimiters encoded', hex_of(q{!$&'()*,:@=[]}, 'x'),
     q{!$&'()*,:@=[]}],
    ['quotes and brackets raw', '"<>^`{|}"', '"<>^`{|}"'],
    ['quotes and brackets encoded', hex_of('"<>^`{|}"', 'X'), '"<>^`{|}"'],

    ['a job named stop', 'stop', 'stop'],
    ['a job named stop, encoded', '%73top', 'stop'],
    ['jobs named as other calls', 'all', 'all'],
    ['a dot before', '.a', '.a'],
    ['a dot behind', 'a.', 'a.'],
    ['dots before', '..a', '..a'],
    ['dots within', 'a..b', 'a..b'],
    ['three dots', '...', '...'],
    ['three dots, encoded', '%2e.%2E', '...'],
    ['a minus before', '-a', '-a'],
    ['a fullwidth slash is no slash', 'a%ef%bc%8fb', "a\x{ff0f}b"],
    ['the same, raw', "a\xef\xbc\x8fb", "a\x{ff0f}b"],
    ['a fullwidth dot is no dot', "\xef\xbc\x8e", "\x{ff0e}"],
    ['from right to left', "a%e2%80%aeb", "a\x{202e}b"],
    ['a line separator', "a%e2%80%a8b", "a\x{2028}b"],
    ['the last character of Unicode', '%f4%8f%bf%bd', "\x{10fffd}"],
);

for my $case (@spellings) {
    my ($what, $sent, $name) = @$case;

    my $target = $t->stop_target(job => canonical($name));

    $e->forwarded($t->put_stop(job => $sent), "T02 $what",
                  job => $name, target => $target, iam => 0);
}


# one character more

for my $case (
    ['241 letters', 'j' x 241],
    ['241 letters encoded', hex_of('j' x 241, 'x')],
    ['241 Chinese characters, lower-case hex', hex_of($hanzi . '的', 'x')],
    ['241 Chinese characters, raw', encode('UTF-8', $hanzi . '的')],
    ['241 characters of four bytes', hex_of("\x{1d11e}" x 241, 'X')],
    ['10,000 letters', 'j' x 10_000],
) {
    $e->refused($t->put_stop(job => $case->[1]), '0001',
                "T02 $case->[0] are too many");
}

is(scalar($iam->posts), 2, 'T01 T02 one token for each project');

$t->done;


# each byte of the UTF-8 of a text as %XX, with x or X

sub hex_of {
    my ($text, $x) = @_;

    return join '', map { sprintf "%%%02$x", $_ }
                    unpack 'C*', encode('UTF-8', $text);
}


# RFC 3986: all but the unreserved characters as %XX in upper case

sub canonical {
    my ($text) = @_;

    return encode('UTF-8', $text)
        =~ s/([^A-Za-z0-9\-._~])/sprintf '%%%02X', ord $1/ger;
}
