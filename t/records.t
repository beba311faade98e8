#!/usr/bin/perl

# The records: which fields they have, that the intent is in the file before
# CDM reads a byte, and that nothing a client or CDM sends can make them lie.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use Encode ();

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $reader = $t->standin('Reader', port => 'reader', name => 'reader',
                         file => $t->path('reader.jsonl'));

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 4 128k;
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
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop         huawei;
            cdm_stop_inject  missing;
            cdm_stop_audit   %%TESTDIR%%/audit.jsonl;
            proxy_pass       http://127.0.0.1:%%CDM_PORT%%;
        }
    }
    server {
        listen 127.0.0.1:%%PORT_reading%%;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/reader.jsonl;
            proxy_pass      http://127.0.0.1:%%PORT_reader%%;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_two%%;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/one.jsonl;
            cdm_stop_audit  %%TESTDIR%%/two.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/file.jsonl;
            cdm_stop_audit  stderr;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/33333333333333333333333333333333/ {
            cdm_stop        huawei;
            cdm_stop_audit  stderr best_effort;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/44444444444444444444444444444444/ {
            cdm_stop        huawei;
            cdm_stop_audit  off;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;

my %read;

# The records of a file that were not seen before.

sub fresh {
    my ($file) = @_;

    my $path = $t->path($file // 'audit.jsonl');
    open my $fh, '<:raw', $path or die "$path: $!\n";
    seek $fh, $read{$path} // 0, 0;
    local $/;
    my $bytes = <$fh> // '';
    $read{$path} += length $bytes;

    return CdmStop::Test::Records::parse_lines($bytes, $path);
}

sub keys_of { return join ' ', sort keys %{$_[0]} }

my $hex = qr/\A[0-9a-f]{32}\z/;
my $time = qr/\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\z/;
my @identity = qw(v chain seq prev stage time request_id operation project_id
                  cluster_id job_name source_ip hash);

# A line without what its chain makes of it.

sub unchained {
    my ($text) = @_;

    return $text =~ s/,"hash":"\w{64}"\}$/}/gmr
        =~ s/^\{"v":1,"chain":"\w{16}","seq":\d+,"prev":"\w{64}"/{"v":1/gmr;
}

subtest 'A01 the fields of a stop' => sub {
    my $r = $t->put_stop;
    my ($intent, $outcome, @more) = fresh();

    is(scalar @more, 0, 'two records');
    is(keys_of($intent), join(' ', sort @identity, qw(injected_token
       token_generation wait_ms)), 'the intent');
    is(keys_of($outcome), join(' ', sort @identity, qw(injected_token
       token_generation wait_ms status upstream upstream_status
       upstream_request_id verdict attempts duration_ms bytes)), 'the outcome');

    is($_->{v}, 1, 'version') for $intent, $outcome;
    is($intent->{stage}, 'intent', 'stage intent');
    is($outcome->{stage}, 'outcome', 'stage outcome');
    like($_->{time}, $time, 'time') for $intent, $outcome;
    like($intent->{request_id}, $hex, 'the id');
    is($r->header('X-Request-Id'), $intent->{request_id},
       'is told to the client');
    is($intent->{operation}, 'StopJob', 'operation');
    is($intent->{project_id}, '1551c7f6c808414d8e9f3c514a170f2e', 'project');
    is($intent->{cluster_id}, '6ec9a0a4-76be-4262-8697-e7af1fac7920',
       'cluster');
    is($intent->{job_name}, 'jdbc2hive', 'job');
    is($intent->{source_ip}, '127.0.0.1', 'source');
    is($intent->{token_generation}, 1, 'generation');
    like($intent->{injected_token}, qr/\S{8,}/, 'fingerprint of the token');
    ok(index($iam->last_token, $intent->{injected_token}) < 0, 'is not of it');

    is($outcome->{$_}, $intent->{$_}, "$_ is the same")
        for grep { !/stage|time|seq|prev|hash/ } keys %$intent;
    is($outcome->{status}, 200, 'status');
    is($outcome->{upstream_status}, 200, 'status of CDM');
    is($outcome->{upstream}, '127.0.0.1:' . $t->port('CDM'), 'peer');
    like($outcome->{upstream_request_id}, $hex, 'id of CDM');
    is($outcome->{verdict}, 'stopped', 'verdict');
    is($outcome->{attempts}, 1, 'attempts');
    is($outcome->{bytes}, 2, 'bytes');
    cmp_ok($outcome->{duration_ms}, '>=', $outcome->{wait_ms}, 'duration');

    $t->put_stop;
    my ($second, $its) = fresh();
    isnt($second->{request_id}, $intent->{request_id}, 'another id');
    is($second->{injected_token}, $intent->{injected_token},
       'the same token has the same fingerprint');
    is($second->{wait_ms}, 0, 'and nobody waited for it');

    # with all that may be there
    $cdm->script({ answer => 'not_running', delay => 0.05 });
    my $token = $t->ledger->token(300);
    $t->put_stop(headers => ['X-Auth-Token' => $token,
                             'X-Forwarded-For' => '192.0.2.1, 10.0.0.1']);
    ($intent, $outcome) = fresh();
    $cdm->script;

    is(keys_of($intent), join(' ', sort @identity, qw(client_token forwarded_for
       injected_token token_generation wait_ms)), 'the longest intent');
    is(keys_of($outcome), join(' ', sort @identity, qw(client_token
       forwarded_for injected_token token_generation wait_ms status upstream
       upstream_status upstream_request_id verdict cdm_code cdm_message attempts
       duration_ms bytes)), 'the longest outcome');
    cmp_ok($outcome->{duration_ms}, '>=', 50, 'the duration is measured');
    isnt($intent->{client_token}, $intent->{injected_token}, 'two tokens');
    ok(index($token, $intent->{client_token}) < 0, 'no part of the caller\'s');

    # the caller's own token goes up
    $t->put_stop(project => '2' x 32, headers => ['X-Auth-Token' => $token]);
    my ($own) = fresh();
    is(keys_of($own), join(' ', sort @identity, qw(client_token wait_ms)),
       'no token of the gateway');
    is($own->{client_token}, $intent->{client_token}, 'the same fingerprint');
};

subtest 'A01 the fields of a refusal' => sub {
    my $r = $t->put_stop(method => 'GET');
    my ($refused, @more) = fresh();

    is(scalar @more, 0, 'one record');
    is(keys_of($refused), join(' ', sort @identity, qw(status error_code
       verdict)), 'a method');
    is($refused->{status}, 405, 'status');
    is($refused->{error_code}, 'CDMSTOP.0003', 'code');
    is($refused->{verdict}, 'not_sent', 'verdict');
    is($refused->{request_id}, $r->header('X-Request-Id'), 'the id');
    is($r->json->{request_id}, $refused->{request_id}, 'in the body, too');

    $r = $t->put_stop(job => 'a%2Fb', headers => ['X-Forwarded-For' => 'x']);
    ($refused) = fresh();
    is(keys_of($refused), join(' ', sort +(grep { !/_id\z|job/ } @identity),
       qw(request_id target forwarded_for status error_code verdict)),
       'a target');
    is($refused->{target}, $t->stop_target(job => 'a%2Fb'), 'as it came');

    my $token = $t->ledger->token(100);
    $r = $t->put_stop(method => 'POST', headers => ['X-Auth-Token' => $token]);
    ($refused) = fresh();
    is($refused->{error_code}, 'CDMSTOP.0003', 'a token does not help');
};

subtest 'A01 the intent is in the file before CDM reads a byte' => sub {
    # a connection that CDM has not even accepted
    $cdm->reset_log;
    $cdm->pause;
    my $h = $t->start_stop(job => 'paused');
    my $intent;
    $t->wait_for(sub { ($intent) = fresh() }, what => 'intent');
    is("$intent->{stage} $intent->{job_name}", 'intent paused', 'it is there');
    is($cdm->bytes, 0, 'CDM has read nothing');
    $cdm->resume;
    is($t->finish($h)->{status}, 200, 'then it reads and answers');
    fresh();

    # a CDM that reads the file at the end of the request, many at once
    my @h = map { $t->start_stop(job => "read$_", port => $t->port('reading')) }
            1 .. 50;
    my @answers = $t->finish(@h);
    my @found = grep {
        $answers[$_]{body} eq '{"x":"intent read' . ($_ + 1) . '"}'
    } 0 .. 49;
    is(scalar @found, 50, 'CDM found each of 50 intents, and no outcome');
    is(scalar($t->records('reader.jsonl')), 100,
       'the outcomes came afterwards');
};

subtest 'A01 hostile characters and lengths' => sub {
    my %bytes = (
        'quotes' => q("\\"),
        'markup' => '</script><b>&amp;',
        'JSON' => '","stage":"outcome","verdict":"stopped","x":"',
        'escape sequences' => "\e[2J\e]0;title\a",
        'delete and C1' => "\x7f\x{c2}\x85\x{c2}\x9b",
        'backspace and tab' => "a\b\b\tb",
        'line separators' => "a\x{e2}\x80\xa8b\x{e2}\x80\xa9c",
        'bidirectional' => "\x{e2}\x80\xae\x{e2}\x81\xa6txt.exe",
        'malformed UTF-8' => "\xff\xfe\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80"
            . "\xe4\xb8",
        'Chinese' => Encode::encode('UTF-8', '作业'),
        '64 KB' => 'x' x 65_536,
        '64 KB of quotes' => '"' x 65_536,
        '64 KB of Chinese' => Encode::encode('UTF-8', '作' x 21_845),
        '64 KB of controls' => "\x01" x 65_536,
        'a cut character at the bound' => 'x' x 254
            . Encode::encode('UTF-8', '作业'),
    );

    for my $name (sort keys %bytes) {
        my $value = $bytes{$name};
        my $r = $t->put_stop(headers => [
            'X-Forwarded-For' => $value, 'User-Agent' => $value,
            'Referer' => $value, 'X-Language' => $value]);
        my ($intent, $outcome, @more) = fresh();

        is($r->{status}, 200, "$name: served");
        is(scalar @more, 0, 'two lines');
        is($outcome->{verdict}, 'stopped', 'the verdict is the true one');
        is($outcome->{stage}, 'outcome', 'so is the stage');
        is($intent->{forwarded_for}, $outcome->{forwarded_for}, 'the field');
        is($intent->{forwarded_for}, bounded($value, 256), 'tells all it can');
        is($intent->{job_name}, 'jdbc2hive', 'the others are there');
    }

    # the line itself: nothing that a terminal or a reader would act on
    my $lines = $t->read('audit.jsonl');
    unlike($lines, qr/[^\x20-\x7e\x80-\xff\n]/, 'no control character');
    unlike(Encode::decode('UTF-8', $lines),
           qr/[\x{80}-\x{9f}\x{2028}-\x{202e}\x{2066}-\x{2069}]/,
           'none of the others either');
    my ($longest) = sort { $b <=> $a } map { length } split /\n/, $lines;
    cmp_ok($longest, '<', 4000, "the longest line has $longest bytes");
};

# What a record tells of a value: at most so many bytes, whole characters.

sub bounded {
    my ($bytes, $max) = @_;

    my ($out, $long) = ('', length $bytes > $max);
    my $n = 0;

    while ($bytes =~ /\G([\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]
                       |\xe0[\xa0-\xbf][\x80-\xbf]
                       |[\xe1-\xec\xee\xef][\x80-\xbf]{2}
                       |\xed[\x80-\x9f][\x80-\xbf]
                       |\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}
                       |\xf4[\x80-\x8f][\x80-\xbf]{2})|\G(.)/gxs)
    {
        my ($good, $bad) = ($1, $2);
        $n += length($good // $bad);
        last if $n > $max;
        $out .= defined $good ? Encode::decode('UTF-8', $good) : "\x{fffd}";
    }

    return $out . ($long ? "\x{2026}" : '');
}

subtest 'A01 hostile answers of CDM' => sub {
    my $quote = sub { '"' . ($_[0] =~ s/(["\\])/\\$1/gr) . '"' };
    my %message = (
        'markup' => '<script>alert(1)</script>',
        'quotes' => 'a "b" \\ c',
        'Chinese' => '作业不存在',
        '512 bytes' => 'no ' x 170 . 'no',
        '513 bytes' => 'no ' x 171,
        '512 bytes with characters' => 'n ' . '作' x 170,
        '513 bytes with characters' => '作' x 171,
        '514 bytes with characters' => 'n' . '作' x 171,
        '2,000 bytes' => 'no ' x 667,
        '30,000 bytes' => '作 ' x 7_500,
    );

    for my $name (sort keys %message) {
        my $bytes = Encode::encode('UTF-8', $message{$name});
        $cdm->script({ status => 400, body => '{"errCode":"Cdm.0036",'
                       . '"externalMessage":' . $quote->($bytes) . '}' });
        $t->put_stop;
        my (undef, $outcome) = fresh();

        is($outcome->{cdm_message}, bounded($bytes, 512), $name);
        is($outcome->{cdm_code}, 'Cdm.0036', 'the code');
    }

    # by escapes of JSON, what could not come as bytes
    $cdm->script({ status => 400, body => '{"errCode":"Cdm\n\u001b[2J\u2028",'
                   . '"externalMessage":"a\r\nb\u001b[2J\u202e\u2028'
                   . '\ud83d\ude00\u007f\u0085"}' });
    $t->put_stop;
    my (undef, $outcome) = fresh();
    is($outcome->{cdm_message}, "a\r\nb\e[2J\x{202e}\x{2028}\x{1f600}\x7f\x85",
       'escaped controls are escaped again');
    is($outcome->{cdm_code}, "Cdm\n\e[2J\x{2028}", 'in the code as well');
    unlike($t->read('audit.jsonl'), qr/\e|\x7f|\xe2\x80\xa8/, 'no raw one');

    # the id that CDM gives to the request
    for my $id ('x' x 256, 'x' x 257, 'x' x 2000, "\e[2J", "\xff\xfe",
                '","verdict":"stopped"')
    {
        $cdm->script({ headers => ['X-Request-Id' => $id] });
        my $r = $t->put_stop;
        (undef, $outcome) = fresh();
        is($outcome->{upstream_request_id}, bounded($id, 256),
           'upstream_request_id of ' . length($id) . ' bytes');
        isnt($r->header('X-Request-Id'), $id, 'the client does not see it');
    }

    $cdm->script;
};

subtest 'A01 job names' => sub {
    my $chinese = '迁' x 240;
    my $encoded = join '', map { sprintf '%%%02X', ord }
                           split //, Encode::encode('UTF-8', $chinese);

    for my $job ($encoded, Encode::encode('UTF-8', $chinese)) {
        $t->put_stop(job => $job);
        my ($intent, $outcome) = fresh();
        is($intent->{job_name}, $chinese, '240 Chinese characters are not cut');
        is($outcome->{job_name}, $chinese, 'in both records');
    }

    $t->put_stop(job => '%22%2C%22verdict%22%3A%22stopped%3C%2Fscript%3E'
                        =~ s/%2F//r);
    my ($intent) = fresh();
    is($intent->{job_name}, '","verdict":"stopped<script>', 'quotes in a name');

    # U+2028, U+202E, U+200F and a byte order mark are letters to a parser
    $t->put_stop(job => 'a%E2%80%A8%E2%80%AE%E2%80%8F%EF%BB%BFb');
    ($intent) = grep { $_->{stage} =~ /intent|refused/ } fresh();
    unlike($t->read('audit.jsonl'), qr/\xe2\x80\xa8|\xe2\x80\xae|\xef\xbb\xbf/,
           'separators and marks are not raw in the line');

    for my $bad ('%0d%0a{}', '%1b', '%00', "a\xffb", '%ff', "\x7f",
                 'x' x 30_000, 'a%0d%0aSet-Cookie:x', '%E4%B8')
    {
        my $r = $t->put_stop(job => $bad);
        my @new = fresh();

        is($r->{status}, 400, 'a bad name: 400');

        # what nginx itself cannot parse has no record
        next if !@new;
        is(scalar @new, 1, 'one record');
        is($new[0]{error_code}, 'CDMSTOP.0001', '.0001');
        is($new[0]{target}, bounded($t->stop_target(job => $bad), 256),
           'with the target as it came');
    }
};

subtest 'A01 one line for each line of the error log' => sub {
    my @lines = split /\n/, $t->error_log;
    my @odd = grep { !m{\A\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[\w+\] } } @lines;

    is(scalar @odd, 0, 'all of them begin with their time')
        or diag($odd[0]);
};

subtest 'A02 ids and addresses of the client' => sub {
    my $r = $t->put_stop(headers => [
        'X-Request-Id' => 'a' x 32, 'Audit-ID' => 'b' x 32,
        'X-Real-IP' => '192.0.2.7', 'Forwarded' => 'for=192.0.2.8',
        'X-Forwarded-For' => '192.0.2.9']);
    my ($intent, $outcome) = fresh();

    like($intent->{request_id}, $hex, 'an id');
    unlike($intent->{request_id}, qr/\A(a+|b+)\z/, 'not the client\'s');
    is($r->header('X-Request-Id'), $intent->{request_id}, 'for the client');
    is(scalar($r->all('X-Request-Id')), 1, 'once');
    is($intent->{source_ip}, '127.0.0.1', 'the peer\'s address');
    is($intent->{forwarded_for}, '192.0.2.9', 'the other stands apart');

    my ($got) = reverse $cdm->requests;
    is(join(' ', map { $got->all($_) } qw(X-Request-Id Audit-ID)), '',
       'neither reaches CDM');

    # each of two lines may be the one that a proxy in front wrote
    $t->put_stop(headers => ['X-Forwarded-For' => '192.0.2.1',
                             'X-Forwarded-For' => '10.0.0.1']);
    ($intent) = fresh();
    is($intent->{forwarded_for}, '192.0.2.1, 10.0.0.1', 'no line is lost');

    # nginx 1.23 and later link lines of one name; an empty one is none
    $t->put_stop(headers => ['X-Forwarded-For' => '']);
    ($intent) = fresh();
    is($intent->{forwarded_for} // '', '', 'an empty one');

    my %ids = map { $_->{request_id} => 1 }
              grep { $_->{stage} ne 'outcome' } $t->records('audit.jsonl');
    my $count = grep { $_->{stage} ne 'outcome' } $t->records('audit.jsonl');
    is(keys %ids, $count, 'no id was given twice');
};

subtest 'A08 two targets' => sub {
    my @two = (port => $t->port('two'));

    $t->put_stop(@two);
    $t->put_stop(@two, method => 'GET');
    is(unchained($t->read('one.jsonl')), unchained($t->read('two.jsonl')),
       'two files, the same lines');
    unlike(unchained($t->read('one.jsonl')), qr/hash|chain/, 'in two chains');
    is(scalar($t->records('one.jsonl')), 3, 'all of them');

    $t->put_stop(@two, project => '2' x 32);
    is(scalar($t->records('file.jsonl')), 2, 'a file');

    # stderr is the error log of nginx
    my @lines = grep { /\A\{/ } split /\n/, $t->read('error.log');
    is(unchained(join "\n", @lines, ''), unchained($t->read('file.jsonl')),
       'and stderr');

    $t->put_stop(@two, project => '3' x 32);
    @lines = grep { /\A\{/ } split /\n/, $t->read('error.log');
    is(scalar @lines, 4, 'stderr alone');
    my $record = CdmStop::Test::Records::parse_line($lines[3], 'error.log');
    is($record->{project_id}, '3' x 32, 'has the record');
};

subtest 'A08 no records' => sub {
    my @off = (port => $t->port('two'), project => '4' x 32);
    my %size = map { $_ => -s $_ } glob $t->path('*.jsonl');

    $cdm->script({ answer => 'error_entry' });
    my $r = $t->put_stop(@off);
    is($r->{status}, 200, 'a stop goes through');
    like($r->header('X-Request-Id'), $hex, 'with an id');
    is($t->put_stop(@off, method => 'GET')->{status}, 405, 'a refusal, too');
    $cdm->script({ close => 'after_request' });
    is($t->put_stop(@off)->{status}, 504, 'an answer that does not come, too');
    $cdm->script;

    is(join(' ', map { -s $_ } sort keys %size),
       join(' ', map { $size{$_} } sort keys %size), 'no file has grown');
    is(scalar(() = glob $t->path('*.jsonl')), keys %size,
       'nor is there another');
};

$t->done;


# A CDM that answers with what it finds of the stop in the file of records.

package Reader;

use parent -norequire, 'CdmStop::Standin';

sub application {
    my ($self) = @_;

    return Reader::Application->new(file => $self->{file});
}


package Reader::Application;

use parent -norequire, 'CdmStop::Standin::Application';

sub answer {
    my ($self, $request) = @_;

    my ($job) = $request->{target} =~ m{/job/([^/]+)/stop};
    open my $fh, '<:raw', $self->{file} or return { body => 'no file' };
    my @found = map {
        /"stage":"(\w+)".*"job_name":"\Q$job\E"/ ? "$1 $job" : ()
    } <$fh>;

    return { status => 200, body => '{"x":"' . join(', ', @found) . '"}' };
}
