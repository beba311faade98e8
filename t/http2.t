#!/usr/bin/perl

# HTTP/2: the same decisions, the same target and one token at CDM; each of
# many streams has its own answer and records; what HTTP/2 forbids reaches
# nobody.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Expect;
use CdmStop::Test;

my $t = CdmStop::Test->new;
my $iam = $t->iam;
my $cdm = $t->cdm;

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%

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

    cdm_stop                   huawei;
    cdm_stop_verify            off;
    cdm_stop_anonymous         on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit             %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%% http2;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen 127.0.0.1:%%PORT_small%% http2;

        client_max_body_size 1k;
        client_body_timeout  300ms;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }

    server {
        listen 127.0.0.1:%%PORT_1%%;

        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC

if (!$t->has('--with-http_v2_module')) {
    my ($exit, $output) = $t->nginx_t($config);
    isnt($exit, 0, 'T13 nginx without HTTP/2 does not start with it');
    like($output, qr/http2/, 'T13 and says so');
    done_testing();
    exit;
}

$t->config($config);
$t->start;

my $e = CdmStop::Expect->new($t, iam => $iam, cdm => $cdm);
my $stop = $t->stop_target;
my $jobs = $stop =~ s{/[^/]+/stop\z}{}r;


# the documented example

my $c = $t->h2;
my $r = $c->response($c->request(headers => [$t->h2_stop_headers]));

$e->forwarded($r, 'T13 T01 the example of the document: one token, a pair',
              iam => 1);
is($r->{body}, '{}', 'T13 the answer of CDM');

my ($got) = $cdm->requests;
like($got->{raw}, qr{\APUT\x20/v1\.1/1551c7f6c808414d8e9f3c514a170f2e/clusters
    /6ec9a0a4-76be-4262-8697-e7af1fac7920/cdm/job/jdbc2hive/stop
    \x20HTTP/1\.[01]\r\n}x, 'T13 CDM reads exactly the documented target');
is(join(',', $got->all('X-Auth-Token')), $iam->last_token,
   'T13 with exactly the token that IAM issued');

for my $case (['HTTP/2', 2, '--http2-prior-knowledge', ''],
    ['HTTP/1.1', '1.1', '--http1.1', '1'])
{
    my ($what, $version, $option, $port) = @$case;
    my $url = 'http://127.0.0.1:' . $t->port($port) . $stop;
    my ($exit, $output) = $t->curl('-s', $option, '-X', 'PUT', $url, '-w',
        ' %{http_code} %{http_version} %header{x-request-id}');

    # curl of Debian 12 knows %header
    my ($id) = $output =~ s/ ([0-9a-f]{32})\z// ? $1 : '';
    is("$exit $output", "0 {} 200 $version", "T13 T01 curl by $what");

    $e->forwarded(bless({ status => 200, body => '{}', headers => [
                         ['X-Request-Id', $id]] }, 'CdmStop::Http::Message'),
                  'T13 its stop at CDM and its records', iam => 0);
}


# one request of headers that are given, on the connection or on one of its own

sub send_request {
    my ($headers, %opt) = @_;

    my $own = $t->h2(port => $opt{port} // $t->port);
    my $id = $own->request(headers => $headers,
                           map { exists $opt{$_} ? ($_ => $opt{$_}) : () }
                           qw(body trailers end));

    return $own->response($id);
}

sub stop_headers {
    my (%change) = @_;

    return [map { exists $change{$_->[0]} ? [$_->[0], $change{$_->[0]}] : $_ }
            $t->h2_stop_headers];
}


# names, authorities, hosts

my $hanzi = "\xe5\x90\x8c\xe6\xad\xa5";

for my $case (
    ['encoded', '%e5%90%8c%E6%AD%A5'], ['raw', $hanzi],
    ['half of it encoded', "\xe5\x90%8C%e6\xad\xa5"],
) {
    my $path = "$jobs/$case->[1]/stop";

    $e->forwarded(send_request(stop_headers(':path' => $path)),
                  "T13 T02 a Chinese name, $case->[0]",
                  job => "\x{540c}\x{6b65}",
                  target => "$jobs/%E5%90%8C%E6%AD%A5/stop");
}

for my $authority ('evil.test', '127.0.0.1:' . $t->port('small'), '[::1]:1') {
    $e->forwarded(send_request(stop_headers(':authority' => $authority)),
                  'T13 :authority ' . $authority =~ s/:\d{5}/:port/r);
}

$e->forwarded(send_request([(grep { $_->[0] ne ':authority' }
                             @{stop_headers()}), [host => 'evil.test']]),
              'T13 host alone');
$e->forwarded(send_request(stop_headers(':scheme' => 'https')),
              'T13 another scheme');

($got) = reverse $cdm->requests;
is($got->header('Host'), '127.0.0.1:' . $t->port('CDM'),
   'T13 Host of CDM comes from the configuration');


# refused as in HTTP/1.1

for my $case (
    ["$jobs/J/st%6fp", 'T03 a fixed part encoded'],
    ["$jobs/a%2fb/stop", 'T05 a slash in the name'],
    ["$stop/", 'T04 a slash behind'], ["$stop?a=b", 'T07 a query'],
    ["/$stop", 'T04 a slash before'], ["$stop#x", 'T06 a number sign'],
    ["$jobs/X/../J/stop", 'T04 a dot segment'], ["$stop;x", 'T05 parameters'],
    ["$jobs/a%0d%0ab/stop", 'T09 a line break'],
    ["$jobs/%ff/stop", 'T09 no UTF-8'],
) {
    my ($path, $name) = @$case;
    $e->refused(send_request(stop_headers(':path' => $path)), '0001',
                "T13 $name");
}

for my $method (qw(GET HEAD POST DELETE OPTIONS PATCH PUTT)) {
    $e->refused(send_request(stop_headers(':method' => $method)), '0003',
                "T13 T11 $method", head => $method eq 'HEAD');
}

$e->refused(send_request([@{stop_headers()}, ['x-auth-token', 'a'],
                          ['x-auth-token', 'b']]), '0002',
            'T13 two x-auth-token');


# many streams of one connection, the first of a project: one call of IAM

my $project = 'a' x 32;
my $many = $t->h2;
my @ids = map {
    $many->request(headers => [$t->h2_stop_headers(project => $project,
                                                   job => "j$_")])
} 1 .. 100;
my @r = $many->collect(@ids);

is(scalar(grep { $_->{status} == 200 && $_->{body} eq '{}' } @r), 100,
   'B03 100 streams on one connection');

my (%of, %sent);
push @{$of{$_->{request_id}}}, $_ for $e->wait_records(200);
$sent{$_->{target}}++ for $cdm->requests;

my @wrong = grep {
    my $records = $of{$r[$_ - 1]->header('X-Request-Id') // ''} // [];
    join(' ', map { "$_->{stage} $_->{job_name}" } @$records)
        ne "intent j$_ outcome j$_"
    || $sent{$t->stop_target(project => $project, job => "j$_")} != 1;
} 1 .. 100;

is("@wrong", '', 'B03 each with its own answer, records and stop at CDM');
is(keys %of, 100, 'B03 and no record too many');
my %new = $e->arrived;
is("$new{iam_requests} $new{cdm_requests}", '1 100',
   'B03 one call of IAM for all');

# good and bad ones between each other, with bodies

@ids = map {
    my $job = "k$_";
    my @headers = $t->h2_stop_headers(job => $job);
    my %body = $_ % 2 ? (body => 'x' x 3000) : ();

    $headers[2][1] .= '/' if $_ % 5 == 0;
    $headers[0][1] = 'GET' if $_ % 7 == 0;
    $many->request(headers => \@headers, %body);
} 1 .. 34;
@r = $many->collect(@ids);

is(join(' ', map { $_->{status} } @r), join(' ', map {
    $_ % 5 == 0 ? 400 : $_ % 7 == 0 ? 405 : 200 } 1 .. 34),
   'B03 good and bad ones, with and without a body');
is(scalar(my @records = $e->wait_records(34 + 24)), 34 + 24,
   'B03 a set of records for each');
%new = $e->arrived;
is($new{cdm_requests}, 24, 'B03 the good ones are at CDM');

my $mega = 'PUT ' . $t->stop_target(job => 'smuggled') . " HTTP/1.1\r\n\r\n";
$mega = substr $mega x 10_000, 0, 1 << 20;

my @two = ($many->request(headers => stop_headers(':path' => "$stop/"),
                          body => $mega),
           $many->request(headers => stop_headers()));
@r = $many->collect(@two);
is($r[0]{status}, 400, 'B03 a refused stop with 1 MB of body');
is($r[1]{status} || ($r[1]{refused} && 'closed'), 200,
   'B03 the stream behind it is served');
@records = $e->wait_records(3);
is(join(' ', sort map { $_->{stage} } @records), 'intent outcome refused',
   'B03 and their records');
$e->arrived;


# bodies that are too large, or do not end

$r = send_request([@{stop_headers()}, ['content-length', 1025]],
                  body => 'x' x 1025, port => $t->port('small'));
$e->ended_early($r, 413, 'B04 too large: 413', job => $t->JOB);
$r = send_request(stop_headers(), body => 'x' x 1025,
                  port => $t->port('small'));
$e->ended_early($r, 413, 'B04 too large without content-length: 413',
                job => $t->JOB);
$r = send_request([@{stop_headers()}, ['content-length', 100]], body => 'x',
                  end => 0, port => $t->port('small'));
$e->ended_early($r, 408, 'B04 a body that does not end: 408', job => $t->JOB,
                no_answer => !$r->{status});


# bodies, trailers

$e->forwarded(send_request(stop_headers(), body => 'hello'),
              'B02 a body', body => 'hello');
$e->forwarded(send_request([@{stop_headers()}, ['content-length', 5]],
                           body => 'hello'),
              'B02 a body with content-length', body => 'hello');
$e->forwarded(send_request(stop_headers(), body => ''), 'B02 an empty body');

# 1.22.1 takes no trailers at all

forbidden(send_request(stop_headers(), body => 'hello', trailers => [
    ['x-auth-token', 'of-a-trailer']]), 'a trailer', body => 'hello');


# what HTTP/2 forbids: an error of nginx, of the stream or of the connection

my @forbidden = (
    (map { ["$_->[0] in :path", [':path', $_->[1]]] }
        ['CR', "$jobs/a\rb/stop"], ['LF', "$jobs/a\nb/stop"],
        ['CR LF and a header', "$stop HTTP/1.1\r\nX-Auth-Token: x\r\n\r\n"],
        ['a blank', "$jobs/a b/stop"], ['a blank behind', "$stop "],
        ['a tab', "$jobs/a\tb/stop"], ['NUL', "$jobs/a\0b/stop"],
        ['DEL', "$jobs/a\x7fb/stop"], ['%00', "$jobs/a%00b/stop"],
        ['a broken escape', "$jobs/%zz/stop"]),
    ['no slash before', [':path', substr $stop, 1]],
    ['an empty :path', [':path', '']], ['* as :path', [':path', '*']],
    ['an absolute :path', [':path', "http://evil.test$stop"]],
    ['no :path', undef, ':path'], ['no :method', undef, ':method'],
    ['no :scheme', undef, ':scheme'],
    ['an empty :method', [':method', '']],
    ['put in lower case', [':method', 'put']],
    ['a blank in :method', [':method', 'PUT /x HTTP/1.1']],
    ['CONNECT', [':method', 'CONNECT']], ['TRACE', [':method', 'TRACE']],
    ['an :authority that is none', [':authority', 'a/b']],
    ['two :path', [':path', $stop], 'add'],
    ['another :path after the first', [':path', "$jobs/other/stop"], 'add'],
    ['two :method', [':method', 'GET'], 'add'],
    ['two :scheme', [':scheme', 'http'], 'add'],
    ['two :authority', [':authority', 'evil.test'], 'add'],
    ['host beside :authority', ['host', 'evil.test'], 'append'],
    ['an unknown pseudo-header', [':x', 'y'], 'add'],
    ['a response pseudo-header', [':status', '200'], 'add'],
    ['an upper-case name', ['X-Auth-Token', 'x'], 'append'],
    ['an upper-case letter', ['x-Auth-token', 'x'], 'append'],
    ['an upper-case Content-Length', ['Content-Length', '0'], 'append'],
    ['a blank in a name', ['x-auth token', 'x'], 'append'],
    ['a colon in a name', ['x:y', 'x'], 'append'],
    ['LF in a name', ["x\ny", 'x'], 'append'],
    ['an empty name', ['', 'x'], 'append'],
    ['CR LF in a value', ['x-a', "b\r\nx-auth-token: c"], 'append'],
    ['LF in a value', ['x-a', "b\nc"], 'append'],
    ['NUL in a value', ['x-a', "b\0c"], 'append'],
    ['a pseudo-header behind others', ['x-a', 'b'], 'first'],
    ['content-length without a body', ['content-length', '5'], 'append'],
    ['content-length of +5', ['content-length', '+5'], 'append'],
    ['two content-length', ['content-length', '0', 'content-length', '5'],
     'append'],
);

for my $case (@forbidden) {
    my ($what, $field, $how) = @$case;
    my @headers = $t->h2_stop_headers;

    if (!$field) {
        @headers = grep { $_->[0] ne $how } @headers;

    } elsif (!defined $how) {
        @headers = @{stop_headers(@$field)};

    } elsif ($how eq 'first') {
        unshift @headers, $field;

    } elsif ($how eq 'add') {
        splice @headers, 4, 0, $field;

    } else {
        push @headers, CdmStop::Http::pairs($field);
    }

    forbidden(send_request(\@headers), $what);
}

for my $case (['shorter', 10, 'hello'], ['longer', 3, 'hello'],
    ['longer than 0', 0, 'hello'])
{
    my ($what, $length, $body) = @$case;
    my $r = send_request([@{stop_headers()}, ['content-length', $length]],
                         body => $body);

    forbidden($r, "a content-length $what than the body");
}

$e->forwarded(send_request(stop_headers()), 'B05 all is well after that');


# an answer of nginx, or an error of the stream or the connection; nginx may
# leave out a field that it does not like and serve the stop without it

sub forbidden {
    my ($r, $what, %opt) = @_;

    if (defined $r->{reset} || $r->{refused} || !$r->{status}) {
        ok(!$r->{timed_out}, "B05 $what: the stream is ended");
        $r->{status} = 0;
        $e->by_nginx($r, 0, 'B05 nothing at CDM');

    } elsif ($r->{status} == 200) {
        $e->forwarded($r, "B05 $what: the field is left out", %opt);

        my ($got) = reverse $cdm->requests;
        is(join(',', sort grep { $_ ne 'connection' } $got->names),
           'accept-encoding,content-length,host,x-auth-token',
           'B05 and not at CDM');

    } else {
        $e->by_nginx($r, [400, 405], "B05 $what: $r->{status}");
    }
}

$_->close for $c, $many;
$t->done;
