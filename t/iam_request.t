#!/usr/bin/perl

# The request for a token, byte for byte: its target and Host for every way to
# write "uri", its body for every character that a user, a domain and a
# password may have, in clear and through TLS.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Encode qw(encode_utf8 decode_utf8);
use JSON::PP ();

use CdmStop::Test;

my $t = CdmStop::Test->new;

# What is hostile to JSON, to HTTP, to a page, to a shell or to a log. A
# configuration holds these too, but for the line feed at the end.

my %hostile = (
    quotes => q{a"b'c\\d\\"e\\\\u0041/f},
    controls => "\x01\x08\t\x0b\x0c\r\x1b[31m\x1f\x7fx",
    lines => "one\ntwo\r\nX-Auth-Token: three",
    json => '"}}}},"scope":{"domain":{"id":"d"}},"x":{"',
    markup => '</script><!--&amp;%s%n$host${uri}#{x};',
    utf8 => "\x{e9}\x{540c}\x{6b65}\x{1f511}\x{2028}\x{2029}\x{202e}\x{85}",
    nul => "a\x00b",
    blanks => '  two at each end  ',
    line_end => "secret without its last line\n",
);

my @names = sort keys %hostile;

# a password is the same with random digits in between: what is in nginx.conf
# as a user and a domain must not look like a part of it
my %password = map {
    $_ => join '',
        map { $_ . unpack('H*', $t->ledger->random_bytes(2)) }
        $hostile{$_} =~ /.{1,3}/gs
} @names;

# the line feed that is cut off is the last one only
$password{line_end} = $t->ledger->key(16) . "\n\nx\n";

$t->write_secret("secrets/$_", encode_utf8($password{$_}) . "\n") for @names;

my $long = '"' x (65_536 - 32) . $t->ledger->key(16);
$t->write_secret('secrets/long', $long);

my $iam = $t->iam(
    users => {
        acme => {
            'cdm-gateway' => $t->{password} //= $t->ledger->password,
            long => $long, nul => $password{nul}
        },
        map { $hostile{$_} => { $hostile{$_} => $password{$_} } } @names,
    });

$t->write_secret('secrets/password', $t->{password});

my $acme = { acme => { 'cdm-gateway' => $t->{password} } };
my $tls = $t->standin(
    'CdmStop::Iam', port => 'TLS', name => 'tls',
    tls => 'good', users => $acme);
my $ipv6 = $t->standin(
    'CdmStop::Iam', port => 'IPV6', name => 'ipv6',
    host => '::1', users => $acme);
my $cdm = $t->cdm;

# An identity and a server of its own for each way to write the same thing.

my $iam_port = $t->port('IAM');

my %uri = (
    bare => [
        "http://127.0.0.1:$iam_port", '/v3/auth/tokens',
        "127.0.0.1:$iam_port"
    ],
    slash => [
        "http://127.0.0.1:$iam_port/", '/v3/auth/tokens',
        "127.0.0.1:$iam_port"
    ],
    version => [
        "http://127.0.0.1:$iam_port/v3", '/v3/auth/tokens',
        "127.0.0.1:$iam_port"
    ],
    version_slash => [
        "http://127.0.0.1:$iam_port/v3/", '/v3/auth/tokens',
        "127.0.0.1:$iam_port"
    ],
    path => [
        "http://127.0.0.1:$iam_port/identity",
        '/identity/v3/auth/tokens', "127.0.0.1:$iam_port"
    ],
    path_version => [
        "http://127.0.0.1:$iam_port/identity/v3",
        '/identity/v3/auth/tokens', "127.0.0.1:$iam_port"
    ],
    path_like_version => [
        "http://127.0.0.1:$iam_port/av3",
        '/av3/v3/auth/tokens', "127.0.0.1:$iam_port"
    ],
    name => [
        "http://localhost:$iam_port", '/v3/auth/tokens',
        "localhost:$iam_port"
    ],
    no_port => ['http://iam.test', '/v3/auth/tokens', 'iam.test'],
    ipv6 => [
        'http://[::1]:' . $t->port('IPV6') . '/v3',
        '/v3/auth/tokens', '[::1]:' . $t->port('IPV6')
    ],
    https => [
        'https://127.0.0.1:' . $t->port('TLS'), '/v3/auth/tokens',
        '127.0.0.1:' . $t->port('TLS')
    ],
);

my $identities = '';
my $servers = '';


sub identity {
    my ($name, $settings) = @_;

    $identities .=
          "        cdm_stop_iam $name {\n"
        . "            method         password;\n"
        . "            projects       any;\n"
        . ($name eq 'https' ? '' : "            insecure       on;\n")
        . join('', map { "            $_;\n" } @$settings)
        . "        }\n";

    $servers .= <<"EOC";
        server {
            listen 127.0.0.1:%%PORT_$name%%;
            location /v1.1/ {
                cdm_stop $name;
                proxy_pass http://127.0.0.1:%%CDM_PORT%%;
            }
        }
EOC

    return;
}

for my $name (sort keys %uri) {
    identity(
        $name,
        [   "uri            $uri{$name}[0]", 'domain         acme',
            'user           cdm-gateway',
            'password_file  %%TESTDIR%%/secrets/password',
            $name eq 'https'
            ? ( 'server_name    iam.test',
                'trusted_certificate %%TESTDIR%%/certs/ca.crt'
                )
            : ()
        ]);
}

# In quotes, nginx takes a backslash before a quote or a backslash away, and
# one before n, r or t as the character; all others stand for themselves.

sub quoted {
    my ($text) = @_;

    $text =~ s/([\\"])/\\$1/g;
    return '"' . encode_utf8($text) . '"';
}

for my $name (grep { $_ ne 'nul' } @names) {
    identity(
        "hostile_$name",
        [   "uri http://127.0.0.1:$iam_port",
            'domain ' . quoted($hostile{$name}),
            'user ' . quoted($hostile{$name}),
            "password_file %%TESTDIR%%/secrets/$name"
        ]);
}

identity(
    'hostile_nul',
    [   "uri http://127.0.0.1:$iam_port", 'domain acme',
        'user nul', 'password_file %%TESTDIR%%/secrets/nul'
    ]);
identity(
    'long',
    [   "uri http://127.0.0.1:$iam_port", 'domain acme', 'user long',
        'password_file %%TESTDIR%%/secrets/long'
    ]);

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    upstream iam.test { server 127.0.0.1:%%IAM_PORT%%; }
$identities
$servers
}
EOC

$t->start;


# One stop through the server of an identity; the POST that it made.

sub post_of {
    my ($name, $standin) = @_;

    $standin->reset_log;
    my $answer = $t->put_stop(port => $t->port($name));
    my @posts = $standin->requests;

    is(scalar @posts, 1, "$name: one request") or return ({}, $answer);
    return ($posts[0], $answer);
}


sub expected {
    my ($path, $host, $body) = @_;

    return
          "POST $path?nocatalog=true HTTP/1.1\r\n"
        . "Host: $host\r\n"
        . "Content-Type: application/json;charset=utf8\r\n"
        . 'Content-Length: '
        . length($body) . "\r\n"
        . "Accept: application/json\r\n"
        . "User-Agent: ngx_http_cdm_stop_module/0.1.0\r\n"
        . "Connection: close\r\n\r\n$body";
}


sub sorted {
    my ($request) = @_;

    my ($head, $content) = split /\r\n\r\n/, $request, 2;
    my ($line, @headers) = split /\r\n/, $head;

    return join("\r\n", $line, sort @headers) . "\r\n\r\n$content";
}


sub in_json {
    my ($text) = @_;

    return JSON::PP->new->utf8->allow_nonref->encode($text);
}

my $body =
      '{"auth":{"identity":{"methods":["password"],"password":{"user":{'
    . '"name":"cdm-gateway","password":'
    . in_json($t->{password})
    . ',"domain":{"name":"acme"}}}},"scope":{"project":{"id":"'
    . $t->PROJECT . '"}}}}';

for my $name (sort keys %uri) {
    my $standin = $name eq 'https' ? $tls : $name eq 'ipv6' ? $ipv6 : $iam;
    my ($uri, $path, $host) = @{ $uri{$name} };

    # only these paths are known to the stand-in
    my $known = $path eq '/v3/auth/tokens';
    my ($post, $answer) = post_of($name, $standin);

    # the front of the TLS stand-in sorts the headers
    $post->{raw} = sorted($post->{raw}) if $name eq 'https';

    ok(
        ($post->{raw} // '') eq (
            $name eq 'https'
            ? sorted(
                expected($path, $host, $body) =~ s/Connection: close\r\n//r)
            : expected($path, $host, $body)
        ),
        "I01 uri $uri: the request, byte for byte"
    ) or diag(($post->{raw} // 'none') =~ s/\Q$t->{password}\E/.../r);
    is($answer->{status}, $known ? 200 : 503, "I01 uri $uri: the answer");
}

is( ($tls->{front}->handshakes(1))[0]{sni}, 'iam.test',
    'I01 https: the name that is asked for is server_name');


# What IAM decodes is what the operator wrote, whatever that was.

for my $name (@names, 'long') {
    my $plain = $name =~ /\A(?:nul|long)\z/;
    my $user = $plain ? $name : $hostile{$name};
    my $domain = $plain ? 'acme' : $hostile{$name};
    my $password = $name eq 'long' ? $long : $password{$name};
    my ($post, $answer) = post_of(
        $name eq 'long' ? 'long' : "hostile_$name",
        $iam);

    my $sent = $post->{body} // '';
    unlike(
        $sent, qr/[\x00-\x1f]/,
        "I01 $name: no control character in the body");

    my $decoded = eval { JSON::PP->new->utf8->decode($sent) };
    my $same = $decoded
        && JSON::PP->new->canonical->encode($decoded) eq
        JSON::PP->new->canonical->encode(
        {
            auth => {
                identity => {
                    methods => ['password'],
                    password => {
                        user => {
                            name => $user, password => $password,
                            domain => { name => $domain }
                        }
                    }
                },
                scope => { project => { id => $t->PROJECT } }
            } });

    ok($same, "I01 $name: the body parses to exactly what was configured");
    is( CdmStop::Test::Records::repeated_key(decode_utf8($sent)), undef,
        "I01 $name: no key twice"
    ) if $name ne 'long';

    # the stand-in compares them and issues a token for the right ones only
    is($answer->{status}, 200, "I01 $name: IAM issues a token");
}

is( scalar(grep { $_->header('X-Auth-Token') } $iam->requests), 0,
    'no token is sent to IAM');
is(scalar(grep { $_->{method} ne 'POST' } $iam->requests), 0, 'nor a GET');

$t->done;
