#!/usr/bin/perl

# nginx -t as the linter of cdm_stop_iam: each wrong setting, each unusable
# secret file is an error or a warning with file and line, what is wrong and
# what to write instead; and what is right passes without a word.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Linter;
use CdmStop::Messages;
use CdmStop::Test;

my $t = CdmStop::Test->new;

my $password = $t->ledger->password;
$t->write_secret('secrets/password', $password);
$t->cert('good');

my $conf = <<'EOC';
%%GLOBALS%%
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {                                       #BLOCK
        uri            https://127.0.0.1:%%IAM_PORT%%;          #uri
        method         password;                                #method
        domain         acme;                                    #domain
        user           cdm-gateway;                             #user
        password_file  %%TESTDIR%%/secrets/password;            #file
        projects       any;                                     #projects
        timeout        5s;                                      #timeout
        verify         on;                                      #verify
        insecure       off;                                     #insecure
        trusted_certificate %%TESTDIR%%/certs/ca.crt;           #ca
        server_name    iam.test;                                #name
    }                                                           #END
    #MORE
    server {
        listen 127.0.0.1:%%PORT%%;
        large_client_header_buffers 4 40k;
        error_log %%TESTDIR%%/server.log info;
        location /v1.1/ {
            cdm_stop huawei;
            cdm_stop_verify off;
            cdm_stop_anonymous on;
            cdm_stop_insecure_upstream on;
            cdm_stop_audit %%TESTDIR%%/audit.jsonl;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

my $lint = CdmStop::Linter->new(test => $t, conf => $conf);


sub bare {
    my ($value) = @_;

    return $value eq '""' ? '' : $value;
}

$lint->is_fine('C01 all settings', $lint->with());
$lint->is_fine(
    'C01 the defaults',
    $lint->with(
        map { $_ => undef } qw(method timeout verify insecure ca name)
    ));

# words

$lint->is_error(
    'C01 an unknown setting', $lint->with(user => 'users cdm-gateway;'),
    'user',
    'unknown directive "users" in "cdm_stop_iam"');
$lint->is_error(
    'C01 in upper case', $lint->with(user => 'User cdm-gateway;'), 'user',
    'unknown directive "User"');
$lint->is_error(
    'C01 a directive of nginx', $lint->with(user => 'resolver 127.0.0.1;'),
    'user', 'unknown directive "resolver"');
$lint->is_error(
    'C01 a block', $lint->with(user => 'user cdm-gateway { }'), 'user',
    qr/unexpected "\{"/);

for my $mark (qw(uri method domain user file timeout verify insecure ca name))
{
    my ($word) = $conf =~ /^\s*(\w+)[^\n]*#$mark$/m;
    my ($value) = $conf =~ /^\s*\w+\s+(\S+);[^\n]*#$mark$/m;

    $lint->is_error(
        "C01 $word without a value", $lint->with($mark => "$word;"), $mark,
        qr/invalid number of arguments in "$word" directive of "cdm_stop_iam"/
    );
    $lint->is_error(
        "C01 $word with two values",
        $lint->with($mark => "$word $value $value;"),
        $mark,
        qr/invalid number of arguments in "$word" directive of "cdm_stop_iam"/
    );
    $lint->is_error(
        "C01 $word twice",
        $lint->with($mark => "$word $value; $word $value;"), $mark,
        qr/"$word" directive of "cdm_stop_iam" is duplicate/);
}

$lint->is_error(
    'C01 projects without a value', $lint->with(projects => 'projects;'),
    'projects',
    'invalid number of arguments in "projects"');
$lint->is_error(
    'C01 projects twice',
    $lint->with(projects => 'projects any; projects any;'),
    'projects',
    '"projects" directive of "cdm_stop_iam" is duplicate');

for my $word (qw(verify insecure)) {
    for my $value (qw(yes true 1 ON. "")) {
        $lint->is_error(
            "C01 $word $value", $lint->with($word => "$word $value;"), $word,
            'invalid value "'
                . bare($value)
                . qq(" in "$word" directive, )
                . 'it must be "on" or "off"');
    }
}

for my $value (qw(sec 5x -1 "" 5ss 99999999999999999999)) {
    $lint->is_error(
        "C01 timeout $value", $lint->with(timeout => "timeout $value;"),
        'timeout',
        '"timeout" directive of "cdm_stop_iam" invalid value');
}

$lint->is_error(
    'C01 timeout 0', $lint->with(timeout => 'timeout 0;'), 'BLOCK',
    '"timeout" of identity "huawei" is zero, give IAM ' . 'some seconds');

for my $method (qw(Password token AK_SK), '""') {
    $lint->is_error(
        "C01 method $method", $lint->with(method => "method $method;"),
        'method',
        '"method" directive of "cdm_stop_iam" must be "password", '
            . '"ak_sk", "agency" or "file"');
}

# the block

$lint->is_error(
    'C01 no name', $conf =~ s/cdm_stop_iam huawei/cdm_stop_iam/r, 'BLOCK',
    'invalid number of arguments in "cdm_stop_iam" directive');
$lint->is_error(
    'C01 no block', $conf =~ s/#MORE/cdm_stop_iam other; #HERE/r, 'HERE',
    qr/directive "cdm_stop_iam" has no opening "\{"/);
$lint->is_error(
    'C01 named off', $conf =~ s/cdm_stop_iam huawei/cdm_stop_iam off/r,
    'BLOCK',
    '"cdm_stop_iam" directive cannot be named so, choose another name'
);
$lint->is_error(
    'C01 named nothing', $conf =~ s/#MORE/cdm_stop_iam "" { #HERE\n}/r,
    'HERE', qr/"cdm_stop_iam" directive/);
$lint->is_error(
    'C01 an empty block',
    $conf =~ s/#MORE/cdm_stop_iam other { #HERE\n}/r, 'HERE',
    qr/no "uri" in identity "other", add it/);

{
    my ($block) = $conf =~ /^(    cdm_stop_iam huawei .*?#END)$/ms;
    my $second = $block =~ s/#BLOCK/#HERE/r =~ s/ #(?!HERE)\w+$//gmr;

    my ($exit, $said, $line) = $lint->look($conf =~ s/#MORE/$second/r);
    isnt($exit, 0, 'C01 the same name twice: refused');
    my $first = qr/\S+:$line->{BLOCK}/;
    my $mend = 'give this one another name';
    my $here = $lint->place($line->{HERE});
    like(
        $said,
        qr/identity "huawei" is already defined in $first, $mend$here/,
        'C01 the same name twice: both places');

    $lint->is_error(
        'C01 in a server',
        $conf =~ s/listen 127/cdm_stop_iam other { } #HERE\n listen 127/r,
        'HERE',
        '"cdm_stop_iam" directive is not allowed here');
}

for my $mark (qw(uri domain user file)) {
    my ($word) = $conf =~ /^\s*(\w+)[^\n]*#$mark$/m;

    $lint->is_error(
        "C01 no $word", $lint->with($mark => undef), 'BLOCK',
        qr/no "$word" in identity "huawei", add it/);
    $lint->is_error(
        "C01 $word empty", $lint->with($mark => "$word \"\";"),
        $word eq 'uri' ? 'uri' : 'BLOCK',
        $word eq 'uri'
        ? '"uri" directive of "cdm_stop_iam" must begin with ' . '"https://"'
        : qr/no "$word" in identity "huawei", add it/);
}

for my $mark (qw(domain user)) {
    $lint->is_error(
        "C01 $mark not in UTF-8", $lint->with($mark => "$mark \"a\xe9b\";"),
        'BLOCK',
        qq("$mark" of identity "huawei" is not valid UTF-8, save the )
            . 'configuration as UTF-8');
    $lint->is_error(
        "C01 $mark with an overlong form",
        $lint->with($mark => "$mark \"a\xc0\xafb\";"), 'BLOCK',
        qr/not valid UTF-8/);
    $lint->is_fine(
        "C01 $mark in Chinese",
        $lint->with($mark => "$mark \"\xe5\x90\x8c\xe6\xad\xa5\";"));
}

# uri

for my $uri (
    '127.0.0.1', 'iam.test/v3', 'ftp://iam.test', 'https:/iam.test',
    'HTTPS://127.0.0.1', 'unix:/tmp/iam', 'htt', '$scheme://127.0.0.1')
{
    $lint->is_error(
        "C01 uri $uri", $lint->with(uri => "uri $uri;"), 'uri',
        '"uri" directive of "cdm_stop_iam" must begin with "https://"');
}

for (
    ['https://', qr/no host/], ['https:///v3', qr/no host/],
    ['https://:443', qr/no host/],
    ['https://127.0.0.1:0', qr/invalid port/],
    ['https://127.0.0.1:65536', qr/invalid port/],
    ['https://127.0.0.1:https', qr/invalid port/],
    ['https://127.0.0.1:', qr/invalid port/],
    ['https://user:pass@127.0.0.1', qr/invalid port/],
    ['https://[::1', qr/invalid host/],
    ['https://[x]', 'invalid IPv6 address'])
{
    $lint->is_error(
        "C01 uri $_->[0]", $lint->with(uri => "uri $_->[0];"), 'BLOCK',
        qr/$_->[1] in "uri \Q$_->[0]\E" of identity "huawei"/);
}

for my $uri (
    'https://127.0.0.1/?a=b', 'https://127.0.0.1?a=b',
    'https://127.0.0.1/v3?', 'https://unix:/tmp/iam.sock')
{
    $lint->is_error(
        "C01 uri $uri", $lint->with(uri => "uri \"$uri\";"), 'BLOCK',
        qq("uri $uri" of identity "huawei" must be scheme, host, and )
            . 'optionally port and path');
}

# what would make another request of it than the one that is meant

for my $uri (
    'https://127.0.0.1/a b', "https://127.0.0.1/a\r\nX: y",
    'https://127.0.0.1/#v3', "https://127.0.0.1/\x01",
    "https://127.0.0.1/\xe5\x90\x8c", 'https://a@127.0.0.1', 'https://a b')
{
    my $shown = $uri =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ger;
    my ($exit, $said) = $lint->look($lint->with(uri => "uri \"$uri\";"));
    isnt($exit, 0, "C01 uri $shown: refused");
}

$lint->is_error(
    'C01 uri with a name that is not found',
    $lint->with(uri => 'uri https://iam.invalid;'), 'END',
    qr/host not found in upstream "iam.invalid"/);

for my $uri (
    'https://127.0.0.1', 'https://127.0.0.1/',
    'https://127.0.0.1:443/v3/', 'https://[::1]:5000/identity/v3',
    'https://localhost/v3')
{
    $lint->is_fine("C01 uri $uri", $lint->with(uri => "uri $uri;"));
}

# in clear or unchecked

$lint->is_error(
    'C04 http', $lint->with(uri => 'uri http://127.0.0.1;'), 'BLOCK',
    'identity "huawei" would send its secret over '
        . 'plain http, write "uri https://..." or, for a test, '
        . '"insecure on"');
$lint->is_error(
    'C04 http, insecure not set',
    $lint->with(uri => 'uri http://127.0.0.1;', insecure => undef), 'BLOCK',
    qr/over plain http/);
$lint->is_error(
    'C04 verify off', $lint->with(verify => 'verify off;'), 'BLOCK',
    'identity "huawei" would send its secret to a '
        . 'server it does not check, name its CA in '
        . '"trusted_certificate" or, for a test, write '
        . '"insecure on"');
$lint->is_fine(
    'C04 http and insecure',
    $lint->with(uri => 'uri http://127.0.0.1;', insecure => 'insecure on;'));
$lint->is_fine(
    'C04 verify off and insecure',
    $lint->with(verify => 'verify off;', insecure => 'insecure on;'));

$t->write('bad.crt', "no certificate\n");

# why is told by nginx, and by us where

for my $name (qw(none bad)) {
    my $file = $t->path("$name.crt");
    my ($exit, $said, $line) =
        $lint->look($lint->with(ca => "trusted_certificate $file;"));
    my $place = $lint->place($line->{BLOCK});
    my $wanted = "\"trusted_certificate $file\" of identity \"huawei\" cannot "
        . 'be used, name a file with the certificate of its CA in PEM';

    isnt($exit, 0, "C01 $name.crt as the CA: refused");
    like($said, qr/\[emerg\] .*\Q$name.crt\E.* failed/,
        "C01 $name.crt as the CA: why");
    like($said, qr/\[emerg\] \Q$wanted\E$place/,
        "C01 $name.crt as the CA: where");
}

# projects

for my $project (
    '1551c7f6c808414d8e9f3c514a170f2', '1551c7f6c808414d8e9f3c514a170f2e0',
    '1551C7F6C808414D8E9F3C514A170F2E',
    '1551c7f6c808414d8e9f3c514a170f2g', 'all', 'Any', '*', '""',
    '6ec9a0a4-76be-4262-8697-e7af1fac7920',
    '~^15',
    '1551c7f6c808414d8e9f3c514a170f2e,1551c7f6c808414d8e9f3c514a170f2f')
{
    $lint->is_error(
        "C01 projects $project", $lint->with(projects => "projects $project;"),
        'projects',
        'invalid project "'
            . bare($project)
            . '", a project id has 32 '
            . 'lower-case hexadecimal digits');
}

$lint->is_error(
    'C01 projects: the second is wrong',
    $lint->with(projects => 'projects 1551c7f6c808414d8e9f3c514a170f2e x;'),
    'projects', qr/invalid project "x"/);
$lint->is_error(
    'C01 projects: any and one',
    $lint->with(projects => 'projects any 1551c7f6c808414d8e9f3c514a170f2e;'),
    'projects', 'invalid project "any"');
$lint->is_error(
    'C01 projects: one and any',
    $lint->with(projects => 'projects 1551c7f6c808414d8e9f3c514a170f2e any;'),
    'projects', 'invalid project "any"');
$lint->is_fine(
    'C01 projects: two',
    $lint->with(
        projects => 'projects 1551c7f6c808414d8e9f3c514a170f2e '
            . '1551c7f6c808414d8e9f3c514a170f2f;'
    ));
$lint->is_fine(
    'C01 projects: 500',
    $lint->with(
        projects => 'projects '
            . join("\n", map { sprintf '%032x', $_ } 1 .. 500) . ';'
    ));

{
    my ($exit, $said, $line) = $lint->look($lint->with(projects => undef));
    is($exit, 0, 'C01 no projects: accepted');
    my $why = 'identity "huawei" asks IAM for a token of any project that a '
        . 'caller names, list them in "projects" or in each rule of the '
        . 'policy that allows, or write "projects any"';
    like(
        $said, qr/\[warn\].*$why${\$lint->place($line->{BLOCK})}/,
        'C01 no projects: a warning with the mend');
}

# the secret file

sub secret {
    my ($name, $content, $mode) = @_;

    return $t->write_secret("secrets/$name", $content, $mode);
}

my $put = 'put the secret there in a file that only the master process may '
    . 'read';
my @files = (
    ['missing', undef, undef, qr/open\(\) "\S+\/missing" failed, $put \(2: /],
    [   'world_readable', $password, 0644,
        qr/secret "(\S+)" can be read or written by others, run: chmod 600 \1/
    ],
    [   'world_writable', $password, 0602,
        'can be read or written by others, run: chmod 600'
    ],
    [   'group_writable', $password, 0620,
        'can be read or written by others, run: chmod 600'
    ],
    [   'world_readable_only', $password, 0604,
        'can be read or written by others, run: chmod 600'
    ],
    [   'empty', '', 0600,
        qr/secret "\S+\/empty" is empty, write the secret into it/
    ],
    [   'line_feed', "\n", 0600,
        qr/secret "\S+\/line_feed" is empty, write the secret into it/
    ],
    [   'line_end', "\r\n", 0600,
        qr/secret "\S+\/line_end" is empty, write the secret into it/
    ],
    [   'large', 'x' x 65_537, 0600,
        ' is larger than 64 KB, it must hold nothing but the ' . 'secret'
    ],
    [   'latin1', $t->ledger->key(8) . "\xe9", 0600,
        qr/secret "\S+\/latin1" is not valid UTF-8, save the file as UTF-8/
    ],
    ['utf16', "\xff\xfes\0e\0c\0", 0600, qr/is not valid UTF-8/],
);

for (@files) {
    my ($name, $content, $mode, $message) = @$_;

    secret($name, $content, $mode)
        if defined $content && $content =~ /\S{8}/ && $name ne 'large';
    $t->write("secrets/$name", $content, $mode)
        if defined $content && !($content =~ /\S{8}/ && $name ne 'large');
    $lint->is_error(
        "C03 $name",
        $lint->with(file => "password_file %%TESTDIR%%/secrets/$name;"), 'END',
        $message);
}

mkdir $t->path('secrets/directory');
$lint->is_error(
    'C03 a directory',
    $lint->with(file => 'password_file %%TESTDIR%%/secrets/directory;'), 'END',
    qr/secret "\S+\/directory" is not a regular file, name the file itself/);
$lint->is_error(
    'C03 a device', $lint->with(file => 'password_file /dev/zero;'), 'END',
    'is not a regular file');

system('mkfifo', '-m', '600', $t->path('secrets/fifo'));
$lint->is_error(
    'C03 a FIFO that nobody writes',
    $lint->with(file => 'password_file %%TESTDIR%%/secrets/fifo;'), 'END',
    'is not a regular file');

symlink $t->path('secrets/world_readable'), $t->path('secrets/link');
$lint->is_error(
    'C03 a link to a readable one',
    $lint->with(file => 'password_file %%TESTDIR%%/secrets/link;'), 'END',
    'can be read or written by others');

secret($_->[0], $_->[1], $_->[2])
    for ['group_readable', $password, 0640],
    ['read_only', "$password\n", 0400], ['dos', "$password\r\n", 0600],
    ['largest', 'x' x 65_536, 0600];
$lint->is_fine("C03 $_",
    $lint->with(file => "password_file %%TESTDIR%%/secrets/$_;"))
    for qw(group_readable read_only dos largest);

# relative names are those beside the configuration
$lint->is_fine(
    'C03 a relative name',
    $lint->with(
        file => 'password_file secrets/password;',
        ca => 'trusted_certificate certs/ca.crt;'
    ));

# as somebody else

{
    my ($uid, $gid) = (getpwnam 'nobody')[2, 3];
    my ($exit, $said) = CdmStop::Process::capture(
        'setpriv', "--reuid=$uid", "--regid=$gid", '--clear-groups',
        $t->{binary}, '-p', $t->dir, '-e', 'stderr', '-c',
        $t->path('nginx-t.conf'), '-t',
        { env => { ASAN_OPTIONS => 'detect_leaks=0:detect_odr_violation=0' } }
    );
    isnt($exit, 0, 'C03 nginx -t by one who may not read it: refused');
    like(
        $said, qr{open\(\) "\S+/secrets/password" failed, $put \(13: },
        'C03 and says so');
    $lint->{output} .= $said;
}

# included from another file, the place is that file

$t->write('iam.conf', "\n\n    timeout 0x;\n");
{
    my ($exit, $said) =
        $lint->look($lint->with(timeout => 'include %%TESTDIR%%/iam.conf;'));
    isnt(
        $exit, 0,
        'C01 a part of the block from a file: not taken as a ' . 'setting');
}

$t->write('block.conf', "\ncdm_stop_iam more {\n uri ftp://x;\n}\n");
{
    my ($exit, $said) =
        $lint->look($conf =~ s/#MORE/include %%TESTDIR%%\/block.conf;/r);
    like(
        $said, qr/must begin with "https:\/\/" in \S+\/block\.conf:3$/m,
        'C01 a block from a file: the place is that file');
}


# every message has its test above; these need a failing disk or kernel

my %never = map { $_ => 1 } '<ngx_close_file_n> "%V" failed',
    '<ngx_fd_info_n> "%V" failed', '<ngx_read_fd_n> "%V" failed';

my @sources =
    map { $t->root . "/src/ngx_http_cdm_stop_$_.c" } qw(endpoint secret);
my @messages =
    grep { !$never{ $_->{format} } } CdmStop::Messages::of(@sources);
cmp_ok(scalar @messages, '>=', 8, 'the messages were found in the sources');
is(
    join(
        "\n",
        map { "$_->{file}:$_->{line}: $_->{format}" }
            CdmStop::Messages::unseen($lint->output, @messages)
    ),
    '',
    'C01 every message of nginx -t about an identity was seen');

unlike($lint->output, qr/\Q$password\E/, 'C01 no message has the password');

$t->allow_log(qr/./);
$t->done;
