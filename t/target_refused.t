#!/usr/bin/perl

# What some normalisation would turn into a stop, and is not spelled as CDM
# documents it, is refused wherever cdm_stop applies, with merge_slashes on and
# off: one answer, one record, not one byte at CDM or IAM.  What no reading
# makes a stop passes as if the module were not there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

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

    cdm_stop_verify            off;
    cdm_stop_anonymous         on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit             %%TESTDIR%%/audit.jsonl;

    server {
        listen   127.0.0.1:%%PORT_on%%;
        cdm_stop huawei;

        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen   127.0.0.1:%%PORT_off%%;
        cdm_stop huawei;
        merge_slashes off;

        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen   127.0.0.1:%%PORT_plain%%;

        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

$t->start;

my $P = $t->PROJECT;
my $C = $t->CLUSTER;
my $stop = $t->stop_target(job => 'J');

my $e = CdmStop::Expect->new($t, iam => $iam, cdm => $cdm);

# {P} and {C} are the ids, {p} and {c} the same without their first digit,
# {jobs} is the path of all jobs, {stop} that of a stop of J, \xNN a byte.

my @refused = table(<<'EOT');
T03 fixed parts encoded
    {jobs}/J/st%6fp  {jobs}/J/%73%74%6F%70
    /v1%2e1/{P}/clusters/{C}/cdm/job/J/stop
    /%761.1/{P}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}/cl%75sters/{C}/cdm/job/J/stop
    /v1.1/{P}/clusters/{C}/c%64m/job/J/stop
    /v1.1/{P}/clusters/{C}/cdm/j%6Fb/J/stop
T03 slashes encoded
    /v1.1%2f{P}/clusters/{C}/cdm/job/J/stop
    /%2fv1.1/{P}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}/clusters/{C}%2fcdm%2fjob/J/stop
    {jobs}%2FJ/stop  {jobs}/J%2fstop  {jobs}/stop%2fstop
    {stop}%2f  {stop}%2F%2f
T03 ids encoded
    /v1.1/%31{p}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}/clusters/%36{c}/cdm/job/J/stop
    /v1.1/{P}/clusters/6ec9a0a4%2d76be-4262-8697-e7af1fac7920/cdm/job/J/stop
T03 decoded twice
    {jobs}/a%252fb/stop  {jobs}/a%25b/stop  {jobs}/%25/stop
    {jobs}/a%2525b/stop  {jobs}/J/%2573top  {jobs}/J/%25%37%33top
    {jobs}/J%252fstop  /v1%252e1/{P}/clusters/{C}/cdm/job/J/stop
    /x/%252e%252e{stop}  {stop}%252f  {stop}%253Fa=b  {stop}%2523
T03 decoded three times and more
    {jobs}/J/%252573top  {jobs}/J/%25252573top  {jobs}/J%25252fstop
T03 decoded segment by segment, an encoded slash in the name
    {jobs}/a%2fb/st%6fp  {jobs}/a%252fb/st%6fp  {jobs}/a%2fb/%2573top
    {jobs}/a%2fb/STOP  {jobs}/a%2fb/stop/  {jobs}/a%2fb/stop?a=b
    {jobs}/a%2fb/stop;x  /v1%2e1/{P}/clusters/{C}/cdm/job/a%2Fb/stop

T04 double slashes
    /{stop}  //{stop}  {jobs}//J/stop  {jobs}/J//stop
    /v1.1//{P}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}//clusters//{C}//cdm//job//J//stop
T04 slashes behind
    {stop}/  {stop}//  {stop}////////////////////  {jobs}/stop/stop/
    {jobs}/stop//stop
T04 dot segments
    {jobs}/X/../J/stop  {jobs}/./J/stop  {jobs}/J/./stop  {jobs}/J/x/../stop
    /x/..{stop}  /x/y/../..{stop}  {stop}/.  {stop}/x/..  {stop}/./
    {jobs}/J/start/../stop  {jobs}/J/stop/../stop  {jobs}/stop/../J/stop
    /./v1.1/{P}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}/clusters/{C}/cdm/link/../job/J/stop
T04 dot segments encoded
    {jobs}/X/%2e%2e/J/stop  {jobs}/X/.%2E/J/stop  {jobs}/%2e/J/stop
    {jobs}/X/%2e%2e%2fJ/stop  {jobs}/X%2f..%2fJ/stop  /x/%2e%2e{stop}
    {stop}/%2e
T04 names that are none
    {jobs}/./stop  {jobs}/../stop  {jobs}/%2e/stop  {jobs}/%2e%2e/stop
    {jobs}/.%2e/stop  {jobs}//stop  {jobs}/%20/stop  {jobs}/%e3%80%80/stop
T04 a blank at one end of the name
    {jobs}/%20J/stop  {jobs}/J%20/stop  {jobs}/%C2%A0J/stop
    {jobs}/J%e3%80%80/stop  {jobs}/J%c2%a0/stop
    {jobs}/%e2%80%83J/stop  {jobs}/J%e2%80%8a/stop  {jobs}/%e1%9a%80J/stop
    {jobs}/J%e2%80%a8/stop  {jobs}/%e2%80%afJ/stop  {jobs}/J%e2%81%9f/stop
    {jobs}/%e2%80%8bJ/stop  {jobs}/%ef%bb%bfJ/stop
T04 dots resolved before the rest is decoded
    /v1.1/./{P}/clusters/{C}/cdm/job/%2e%2e/st%6fp
    /x/../v1.1/{P}/clusters/{C}/cdm/job/%252e%252e/%73top

T05 parameters of segments
    {jobs}/J;a=b/stop  {stop};a=b  {stop};  {jobs}/J;/stop  {jobs}/;a/stop
    {stop};a=b/  {stop};a/../b  {stop}/;x  {jobs};/J/stop
    {stop};jsessionid=0/x  /v1.1;a/{P}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P};a=b/clusters;/{C};c/cdm;d/job;e/J/stop
T05 parameters encoded
    {jobs}/J%3Ba=b/stop  {jobs}/J%3b/stop  {stop}%3Ba=b  {stop}%3b
    {stop}%253bx  /v1.1%3bx/{P}/clusters/{C}/cdm/job/J/stop
T05 slashes encoded in parameters
    /v1.1/{P}/clusters/{C}/cdm/job;x%2fy/J/stop  {jobs};x%2fy%2fz/J/stop
    /v1.1/{P}/clusters/{C}/cdm;a%2Fb/job/J/stop  {jobs};%5cx/J/stop
    {jobs};a\x5cb/J/stop  {jobs};%252fx/J/stop  {jobs}%3bx%2fy/J/stop
    {jobs}/X/..;a%2fb/J/stop  {jobs};%2f../J/stop  /;a%2fb{stop}
T05 dot segments with parameters
    {jobs}/X/..;/J/stop  {jobs}/.;/J/stop  /x/..;a=b{stop}
    {jobs}/X/..%3b/J/stop  /x/../v1.1;a/{P}/clusters/{C}/cdm/job/..;x/stop
T05 backslashes
    {jobs}\x5cJ\x5cstop  {jobs}/J\x5cstop  {jobs}/a\x5cb/stop
    {jobs}/X\x5c..\x5cJ/stop  {jobs}/X/..\x5cJ/stop  {stop}\x5c
    /\x5cv1.1/{P}/clusters/{C}/cdm/job/J/stop
T05 backslashes encoded
    {jobs}%5cJ%5Cstop  {jobs}/a%5cb/stop  {jobs}/J%5cstop
    {jobs}/X%5c..%5cJ/stop  {jobs}/X%255c..%255cJ/stop  {stop}%5c
T05 slashes encoded in the name
    {jobs}/J%2f..%2fother/stop  {jobs}/a%2Fb/stop  {jobs}/%2fJ/stop
    {jobs}/J%2f/stop  {jobs}/%2f/stop

T06 number signs
    {stop}#/x  {stop}#  {jobs}/J#/stop  {jobs}/#/stop  {stop}#?a  {stop}/#
    {stop}#..  {jobs}/J/st%6fp#
T06 number signs encoded
    {jobs}/a%23b/stop  {stop}%23  {stop}%23/x  {stop}%2523x  {jobs}/J%23/stop

T07 queries
    {stop}?  {stop}?a=b  {stop}?_method=DELETE  {stop}??  {stop}?/../x
    {stop}/?a  {stop}?#  {jobs}/J/STOP?a  {jobs}/J/st%6fp?a
T07 question marks in the name
    {jobs}/a%3Fb/stop  {jobs}/a%3fb/stop  {jobs}/a?b/stop
T07 question marks encoded
    {stop}%3F  {stop}%3fa=b  {stop}%253f

T08 upper case
    {jobs}/J/STOP  {jobs}/J/Stop  {jobs}/J/%53TOP
    /V1.1/{P}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}/CLUSTERS/{C}/cdm/job/J/stop
    /v1.1/{P}/clusters/{C}/CDM/JOB/J/stop
T08 project ids that are none
    /v1.1/1551C7F6C808414D8E9F3C514A170F2E/clusters/{C}/cdm/job/J/stop
    /v1.1/{p}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}0/clusters/{C}/cdm/job/J/stop
    /v1.1/g{p}/clusters/{C}/cdm/job/J/stop
    /v1.1//clusters/{C}/cdm/job/J/stop
    /v1.1/all/clusters/{C}/cdm/job/J/stop
T08 cluster ids that are none
    /v1.1/{P}/clusters/6EC9A0A4-76BE-4262-8697-E7AF1FAC7920/cdm/job/J/stop
    /v1.1/{P}/clusters/6ec9a0a476be42628697e7af1fac7920/cdm/job/J/stop
    /v1.1/{P}/clusters/6ec9a0a-476be-4262-8697-e7af1fac7920/cdm/job/J/stop
    /v1.1/{P}/clusters/6ec9a0a4_76be_4262_8697_e7af1fac7920/cdm/job/J/stop
    /v1.1/{P}/clusters/x{c}/cdm/job/J/stop
    /v1.1/{P}/clusters/{c}/cdm/job/J/stop
    /v1.1/{P}/clusters/{C}0/cdm/job/J/stop
    /v1.1/{P}/clusters/\x7b{C}\x7d/cdm/job/J/stop
    /v1.1/{P}/clusters//cdm/job/J/stop
    /v1.1/{P}/clusters/all/cdm/job/J/stop
    /v1.1/{P}/clusters/{C}%20/cdm/job/J/stop
T08 fullwidth digits and letters
    /v1.1/\xef\xbc\x91{p}/clusters/{C}/cdm/job/J/stop
    /v1.1/%ef%bc%91{p}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}/clusters/%ef%bc%96{c}/cdm/job/J/stop
    {jobs}/J/\xef\xbd\x93top  {jobs}/J/%ef%bd%93top  {jobs}/J/%ef%bc%b3TOP
    /%ef%bd%961.1/{P}/clusters/{C}/cdm/job/J/stop
T08 letters that are others without case
    {jobs}/J/\xc5\xbftop  {jobs}/J/%c5%bftop  {jobs}/J/%ef%ac%86op
    {jobs}/J/%f0%9d%90%ac%f0%9d%90%ad%f0%9d%90%a8%f0%9d%90%a9
    /v1.1/{P}/cluster%C5%BF/{C}/cdm/job/J/stop
T08 a fullwidth slash in the name and one flaw more
    {jobs}/a\xef\xbc\x8fb/stop/  {jobs}/a\xef\xbc\x8fb/stop?a=b
    {jobs}/a\xef\xbc\x8fb/STOP  {jobs}/a%ef%bc%8fb/st%6fp
    {jobs}/a%c0%afb/st%6fp

T09 controls in the name
    {jobs}/a%01b/stop  {jobs}/%1fJ/stop  {jobs}/J%7f/stop  {jobs}/a%1b[31mb/stop
    {jobs}/a%c2%80b/stop  {jobs}/a%c2%9fb/stop  {jobs}/a\xc2\x85b/stop
    {jobs}/a%0d%0ab/stop  {jobs}/a%0ab/stop  {jobs}/a%09b/stop
    {jobs}/J%0d%0a/stop  {jobs}/.%20/stop
T09 controls in other parts
    {stop}%0d%0a  {stop}%20  {stop}%09  {stop}%c2%85  {jobs}/J/%01stop
    {jobs}/J/st%0d%0aop  {jobs}/J/%0a%25%0a73top
    {stop}%0d%0aX-Auth-Token:%20x  {stop}%20HTTP/1.1%0d%0aX:%20y
    /v1.1%0d%0a/{P}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}%0d%0a/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}/clusters/{C}%7f/cdm/job/J/stop
T09 a null character after the second decoding
    {stop}%2500  {stop}%2500.js  {jobs}/J/%2500stop
T09 bytes that are no UTF-8 in the name
    {jobs}/%80/stop  {jobs}/%ff/stop  {jobs}/a\xffb/stop  {jobs}/a%fe%ff/stop
    {jobs}/a%c0%aeb/stop  {jobs}/%c0%ae%c0%ae/stop  {jobs}/a%c0%afb/stop
    {jobs}/a%c0%80b/stop  {jobs}/a%c1%81/stop  {jobs}/a%e0%80%afb/stop
    {jobs}/a%f0%80%80%afb/stop  {jobs}/a%ed%a0%80b/stop
    {jobs}/a%ed%a0%bd%ed%b8%80b/stop  {jobs}/a%f4%90%80%80b/stop
    {jobs}/a%f5%80%80%80/stop  {jobs}/a%e5%90/stop  {jobs}/\xe5\x90/stop
T09 the same in other parts
    /v1%c0%ae1/{P}/clusters/{C}/cdm/job/J/stop
    /v1%e0%80%ae1/{P}/clusters/{C}/cdm/job/J/stop
    /v1%f0%80%80%ae1/{P}/clusters/{C}/cdm/job/J/stop
    /v1%f8%80%80%80%ae1/{P}/clusters/{C}/cdm/job/J/stop
    /v1.1/{P}%ff/clusters/{C}/cdm/job/J/stop
    {jobs}%c0%afJ/stop  {jobs}%e0%80%afJ/stop
    /x/%c0%ae%c0%ae{stop}  /x/%e0%80%ae%e0%80%ae{stop}
    {stop}%ff  {stop}%ed%a0%80  {stop}%f4%90%80%80  {stop}\xff
    {jobs}/J/st%ffop  {jobs}/J/st%c3op
T09 characters that are trimmed
    {stop}%c2%a0  {stop}%e2%80%8b  {stop}%ef%bb%bf  {stop}%e3%80%80
    {jobs}/J/%ef%bb%bfstop
T09 other escapes, and suffixes that frameworks ignore
    {jobs}/J/%25u0073top  {jobs}/J/%ef%bc%8573top
    {stop}.json  {stop}.  {stop}.%6ason
EOT

# nginx answers 400 by itself

my @by_nginx = table(<<'EOT');
T09 a null character
    {jobs}/a%00b/stop  {stop}%00  {stop}%00.js  /%00{stop}  {jobs}/J/st%00op
T09 raw controls
    {jobs}/a\x01b/stop  {jobs}/a\x7fb/stop  {jobs}/a\x09b/stop
    {jobs}/a\x1bb/stop  {jobs}/a\x00b/stop
T09 a raw blank or line break
    {jobs}/a\x20b/stop  {stop}\x20x  {jobs}/a\x0db/stop  {jobs}/a\x0ab/stop
T03 escapes that are none
    {jobs}/a%b/stop  {jobs}/a%/stop  {jobs}/%zz/stop  {jobs}/J/%u0073top
    {stop}%  {stop}%4
T04 dots beyond the root
    /..{stop}  /%2e%2e{stop}  /x/../..{stop}
T13 no path
    v1.1/{P}/clusters/{C}/cdm/job/J/stop  *{stop}  \x5c{stop}
EOT

# no reading makes a stop of these

my @others = table(<<'EOT');
T10 another version
    /v1x1/{P}/clusters/{C}/cdm/job/J/stop
    /v1.10/{P}/clusters/{C}/cdm/job/J/stop
    /v11/{P}/clusters/{C}/cdm/job/J/stop
    /v1/{P}/clusters/{C}/cdm/job/J/stop
    /v1.1.1/{P}/clusters/{C}/cdm/job/J/stop
    /v2.1/{P}/clusters/{C}/cdm/job/J/stop
T10 other calls
    {jobs}/stop  {jobs}/stop/  {jobs}/J/start  {jobs}/J/status  {jobs}/J  {jobs}
    {jobs}/stop/start  {jobs}/stop/status  {jobs}/J/stop/../start
    {jobs}/%e5%90%8c%e6%ad%a5/start  {jobs}/\xe5\x90\x8c\xe6\xad\xa5
    {jobs}/a%2fb/start  {jobs}/all?jobType=NORMAL_JOB&filter=stop
    /v1.1/{P}/clusters/{C}/action  /v1.1/{P}/clusters/{C}/cdm/link/stop
    /v1.1/{P}/clusters/{C}/cdm/link/J/stop
    /v1.1/{P}/clusters/{C}/cdm/submissions?jname=stop
T10 one segment more or less
    {jobs}/J/x/stop  {stop}/x  {stop}/stop  /x{stop}  /  /stop
    /v1.1/clusters/{C}/cdm/job/J/stop  /v1.1/{P}/clusters/{C}/job/J/stop
T10 other words
    {jobs}/J/stops  {jobs}/J/stop-all  {jobs}/J/xstop  {jobs}/J/sto
    /v1.1/{P}/clusters/{C}/cdm/jobs/J/stop
    /v1.1/{P}/cluster/{C}/cdm/job/J/stop
EOT

for my $slashes (qw(on off)) {
    my $port = $t->port($slashes);

    for my $case (@refused) {
        my ($name, @targets) = @$case;

        for my $target (@targets) {
            my $r = $t->request(method => 'PUT', target => $target,
                                port => $port);

            $e->refused($r, '0001', "$name, merge_slashes $slashes: "
                        . shown($target), recorded($target));
        }
    }

    for my $case (@by_nginx) {
        my ($name, @targets) = @$case;

        for my $target (@targets) {
            my $r = $t->raw("PUT $target HTTP/1.1\r\nHost: x\r\n\r\n",
                            port => $port);

            $e->by_nginx($r, [400, 0], "$name, merge_slashes $slashes: "
                         . shown($target));
        }
    }
}

is($cdm->bytes, 0, 'T03-T09 not one byte at CDM');
is($iam->bytes, 0, 'T03-T09 no call of IAM');


# a query may hold what nobody should read in a record

my $token = $t->ledger->token(40, register => 0);
my $r = $t->request(method => 'PUT', port => $t->port('on'),
                    target => "$stop?X-Auth-Token=$token&a=b");
$e->refused($r, '0001', 'T07 a token in the query is no token',
            target => $stop);

for my $sign ('%3F', '%3f', '%253F', '%25253f') {
    $r = $t->request(method => 'PUT', port => $t->port('on'),
                     target => "$stop${sign}X-Auth-Token=$token");
    $e->refused($r, '0001', "T07 a token behind $sign", target => $stop);
}

unlike($t->read('audit.jsonl'), qr/\Q$token\E|a=b&/,
       'T07 the query is in no record');
unlike($t->error_log =~ s/^.*\[debug\].*$//mgr =~ s/, request: "[^"]*"//gr,
       qr/\Q$token\E/, 'T07 and in no line of ours');


# a long target is cut in the record

my $long = "$stop/" . '/' x 5000;
$e->refused($t->request(method => 'PUT', port => $t->port('on'),
                        target => $long), '0001',
            'T04 5,000 slashes behind: the record is bounded',
            target => substr($long, 0, 256) . "\x{2026}");
$e->refused($t->request(method => 'PUT', port => $t->port('on'),
                        target => '/x/..' x 3000 . $stop),
            '0001', 'T04 3,000 times to and fro');


# what is no stop: the same bytes as without the module

for my $case (@others) {
    my ($name, @targets) = @$case;

    for my $target (@targets) {
        my %arg = (method => 'PUT', target => $target, body => '{"jobs":[]}',
                   headers => ['X-Auth-Token' => 'of-the-caller', A => 'b']);

        my @raw = map {
            $cdm->reset_log;
            my $answer = $t->request(%arg, port => $t->port($_));
            $answer->{status} . join '', map { $_->{raw} } $cdm->requests;
        } qw(plain on);

        is($raw[1], $raw[0], "$name passes as it is: " . shown($target));
    }
}

is(scalar(grep { $_->{stage} ne 'refused' } $t->records('audit.jsonl')), 0,
   'T10 no record of them');
is($iam->bytes, 0, 'T10 no call of IAM for them');

$t->done;


# lines of a name, and below it, indented, of targets: [name, targets...]

sub table {
    my ($text) = @_;

    my @cases;
    my %word = (P => $P, C => $C, p => substr($P, 1), c => substr($C, 1),
                stop => $stop, jobs => $stop =~ s{/J/stop\z}{}r);

    for my $line (split /\n/, $text) {
        if ($line =~ /\A\S/) {
            push @cases, [$line];

        } else {
            push @{$cases[-1]}, map {
                s/\{(\w+)\}/$word{$1}/gr =~ s/\\x(..)/chr hex $1/ger
            } split ' ', $line;
        }
    }

    return @cases;
}


# the name of a target in the name of a test

sub shown {
    my ($target) = @_;

    $target =~ s/\Q$P\E/P/g;
    $target =~ s/\Q$C\E/C/g;
    $target = substr($target, 0, 100) . '...' if length $target > 100;

    # a number sign would end the name for TAP
    return $target =~ s/([^!"\$-~]|\\)/sprintf '\\x%02x', ord $1/ger;
}


# what the record says of a target in plain ASCII: the path, as it was sent

sub recorded {
    my ($target) = @_;

    return () if $target =~ /[^!-~]/ || length $target > 256;
    return (target => $target =~ s/(?:\?|%(?:25)*3f).*\z//sir);
}
