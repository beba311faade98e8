#!/usr/bin/perl

# The documents and the code say the same: directives, settings, variables,
# codes, lines of the error log; and each example of them passes "nginx -t".
# Metrics are compared in t/status.t, members of records in t/schema.t.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::LogLines;
use CdmStop::Messages;
use CdmStop::Process;
use CdmStop::Test;

my $root = "$FindBin::Bin/..";
my $reference = slurp("$root/docs/DIRECTIVES.md");
my $troubles = slurp("$root/docs/TROUBLESHOOTING.md");
my $readme = slurp("$root/README.md");
my %source = map { $_ => slurp($_) } glob("$root/*.c $root/src/*.c");
my $code = join "\n", map { $source{$_} } sort keys %source;

my $t = CdmStop::Test->new;
$t->iam;
$t->cert('good');
CdmStop::Process::capture('openssl', 'genpkey', '-algorithm', 'ed25519',
                          '-out', $t->path('secrets/password.pem'));
chmod 0600, $t->path('secrets/password.pem');


# names

my ($table) = $source{"$root/ngx_http_cdm_stop_module.c"}
    =~ /ngx_http_cdm_stop_commands\[\] = (.*?)ngx_null_command/s;
my ($settings) = $code =~ /ngx_http_cdm_stop_settings\[\] = (.*?)null_string/s;
my ($vars) = $code =~ /ngx_http_cdm_stop_vars\[\] = (.*?)null_variable/s;

is_deeply([sort $reference =~ /^### (\w+)$/mg], [strings($table)],
    'each directive has its section, and each section a directive');

my @rows = block_settings();
is_deeply([sort @rows], [strings($settings)],
    'each setting of cdm_stop_iam has its row');

my ($rows) = slurp("$root/docs/VARIABLES.md")
    =~ /^(\| variable \| value .*?)\n\n/ms;
is_deeply([sort map { (split / \| /)[0] =~ /\$(cdm_stop\w*)/g }
        split /\n/, $rows], [strings($vars)], 'each variable has its row');

for my $name ($reference =~ /^### (\w+)$/mg) {
    my ($text) = $reference =~ /^### \Q$name\E\n(.*?)(?=^##|\z)/ms;

    like($text, qr/^ +Syntax: +\Q$name\E .*^ +Default: .*^ +Context: /ms,
        "$name: syntax, default and context");
    like($text, qr/^```nginx$/m, "$name: an example");
}


# codes: status, code, cause and cure

my %status = (
    (map { ("NGX_HTTP_$_->[0]" => $_->[1]) } ['BAD_REQUEST', 400],
        ['UNAUTHORIZED', 401], ['FORBIDDEN', 403], ['NOT_ALLOWED', 405],
        ['TOO_MANY_REQUESTS', 429], ['BAD_GATEWAY', 502],
        ['SERVICE_UNAVAILABLE', 503], ['GATEWAY_TIME_OUT', 504]),
    425 => 425
);
my %codes = map { $_->[1] => $status{$_->[0]} } pairs(
    $code =~ /NGX_HTTP_CDM_STOP_ERROR\((\w+), "(\d+)"/g);
my @answers = rows('Answers of the gateway');

is_deeply({ map { ($_->[1] =~ s/^CDMSTOP\.//r => $_->[0]) } @answers }, \%codes,
    'each code has its row, with its status');
is(scalar @answers, scalar keys %codes, 'and one only');
is(scalar(grep { length $_->[2] < 20 || length $_->[3] < 10 } @answers), 0,
    'with cause and cure');

for my $file (documents()) {
    my %named = map { $_ => 1 } slurp($file) =~ /CDMSTOP\.(\d{4})/g;

    is(join(' ', grep { !$codes{$_} } sort keys %named), '',
        name_of($file) . ' names no other code');
}


# lines of the error log: text, level, cause and cure

my @lines = CdmStop::LogLines::at_run_time(map { $source{$_} }
    sort keys %source);
my %line = map { $_->{text} => $_->{level} } @lines;
my (%told, @poor);

for my $section ('Tokens', 'Callers', 'The way to IAM and CDM', 'Records',
    'The system')
{
    for my $row (grep { @$_ == 4 } rows($section)) {
        for my $text (quoted($row->[0])) {
            ok(!exists $told{$text}, "once: $text");
            $told{$text} = $row->[1];
        }

        push @poor, $row->[0] if $row->[2] eq ''
            || ($row->[3] eq '' && $row->[1] ne 'info'
                && $row->[2] !~ /see \[below\]/);
    }
}

cmp_ok(scalar @lines, '>', 50, 'lines of the error log are found');
is_deeply(\%told, \%line, 'each line has its row, with its level, and each '
    . 'row a line');
is_deeply(\@poor, [], 'each row has cause and cure');

# what is put in for "..."

for my $pair (['Why IAM gave no token', qw(iam fetch)],
    ['Callers', qw(facts verify)], ['Why a stop is not sent', qw(gate)],
    ['Records that are not on disk', qw(sync)])
{
    my ($section, @files) = @$pair;
    my @causes = CdmStop::LogLines::causes(
        map { $source{"$root/src/ngx_http_cdm_stop_$_.c"} } @files);
    my @there = grep { @$_ == 2 } rows($section);

    is_deeply([sort map { quoted($_->[0]) } @there], [sort @causes],
        "$section: each cause has its row, and each row a cause");
    is(scalar(grep { $_->[1] eq '' } @there), 0, "$section: and a cure");
}

# of "nginx -t", whose messages say themselves what to write, there is a choice

my @known = CdmStop::Messages::of(sort keys %source);

for my $row (rows('nginx -t')) {
    for my $text (quoted($row->[0])) {
        next if $text =~ /unknown directive|binary compatible|instead of/;

        my ($start) = $text =~ /\A(.*?)(?:, )?\.\.\.\z/
            or fail("it ends with an ellipsis: $text");
        my @like = grep { begins($_, $start) } @known;
        is(scalar @like, 1, "nginx -t says: $start");
    }
}


# the sources: each in the table of docs/DESIGN.md and in one of its pictures

my $design = slurp("$root/docs/DESIGN.md");
my ($sources) = $design =~ /^## The sources\n(.*?)(?=^##|\z)/ms;
my %drawn = map { $_ => 1 } join(' ', map { slurp("$root/docs/img/$_.svg") }
    qw(request sources)) =~ /\b(\w+\.c)\b/g;
my @short = map { m{([^/]+)\z} && $1 =~ s/^ngx_http_cdm_stop_(?!module)//r }
    sort keys %source;
my %told_of = map { $_ => 1 } $sources =~ /`(\w+\.c)`/g;

is(join(' ', grep { !$told_of{$_} } @short), '', 'each source has its row');
is(join(' ', grep { !$drawn{$_} } @short), '', 'and is in a picture');

for my $name (sort keys %{ { %told_of, %drawn } }) {
    ok(scalar(grep { $_ eq $name } @short), "$name is a source");
}


# examples

my $i = 0;

for my $file (documents()) {
    my $text = slurp($file);

    while ($text =~ /^```nginx\n(.*?)^```$/msg) {
        my $example = $1;

        my ($exit, $output) = $t->nginx_t(whole($example));
        is($exit, 0, name_of($file) . ', example ' . ++$i
            . ' passes nginx -t: ' . ($example =~ /(\S+)/)[0])
            or diag($output);
    }
}

$t->done;


sub slurp {
    my ($file) = @_;

    open my $fh, '<', $file or die "$file: $!\n";
    local $/;
    return scalar <$fh>;
}


sub strings {
    my ($text) = @_;

    return sort $text =~ /ngx_string\("([^"]+)"\)/g;
}


sub block_settings {
    my ($text) = $reference =~ /^### cdm_stop_iam\n(.*?)(?=^##|\z)/ms;

    my ($table) = $text =~ /^(\| setting .*?)\n\n/ms;

    return map { /`(\w+)/g } map { (split / \| /)[0] }
        grep { /^\| `/ } split /\n/, $table;
}


# Documents that are written by hand, in English.

sub documents {
    return ("$root/README.md", glob("$root/docs/*.md"),
            glob("$root/docs/*/*.md"));
}


sub name_of {
    my ($file) = @_;

    return $file =~ s{^\Q$root\E/}{}r;
}


# The rows of the tables below a heading of docs/TROUBLESHOOTING.md.

sub rows {
    my ($heading) = @_;

    my ($text) = $troubles =~ /^##+ \Q$heading\E\n(.*?)(?=^##|\z)/ms
        or die "docs/TROUBLESHOOTING.md has no \"$heading\"\n";
    my @tables = map { [grep { /^\|/ } split /\n/] } split /\n\n/, $text;
    my @rows;

    for my $table (@tables) {
        my (undef, undef, @body) = @$table;
        push @rows, map { [cells($_)] } @body;
    }

    return @rows;
}


sub cells {
    my ($line) = @_;

    return map { s/^\s+|\s+$//gr } split /(?<!\\)\|/, $line =~ s/^\||\|$//gr,
        -1;
}


sub quoted {
    my ($text) = @_;

    return $text =~ /`([^`]+)`/g;
}


sub pairs {
    my @pairs;

    while (my ($one, $two) = splice @_, 0, 2) {
        push @pairs, [$one, $two];
    }

    return @pairs;
}


# Whether a message of the configuration begins so; "..." is what is put in.

sub begins {
    my ($message, $start) = @_;

    my $plain = $message->{format} =~ s/%(?:\*s|u[a-z]|[a-zA-Z])/.../gr;

    return index($plain, $start) == 0;
}


# an example within the least that makes it a configuration

sub whole {
    my ($example) = @_;

    $example =~ s{^load_module.*\n}{}m;
    $example =~ s{^http \{\n(.*)^\}\n}{$1}ms;
    $example =~ s{/etc/nginx/secrets/[\w-]+}{%%TESTDIR%%/secrets/password}g;
    $example =~ s{/var/log/nginx/}{%%TESTDIR%%/}g;
    $example =~ s{/etc/nginx/tls/gateway}{%%TESTDIR%%/certs/good}g;
    $example =~ s{listen 443 ssl;}{listen 127.0.0.1:%%PORT%% ssl;}g;
    $example =~ s{listen 127\.0\.0\.1:8080;}{listen 127.0.0.1:%%PORT%%;}g;

    my $guard = $example =~ /^\s*cdm_stop\s/m ? '' : 'cdm_stop huawei;';
    my $zone = $example =~ /cdm_stop_zone/ ? '' : 'cdm_stop_zone cdm:1m;';
    my $iam = $example =~ /cdm_stop_iam/ ? '' : <<'EOI';
    cdm_stop_iam huawei {
        uri https://127.0.0.1; domain acme; user cdm-gateway;
        password_file %%TESTDIR%%/secrets/password; projects any;
    }
EOI

    my %default = (
        cdm_stop_verify => 'cdm_stop_verify off;',
        cdm_stop_anonymous => 'cdm_stop_anonymous on;',
        cdm_stop_audit => 'cdm_stop_audit %%TESTDIR%%/records;',
        proxy_pass => 'proxy_pass https://127.0.0.1; proxy_ssl_verify on; '
            . 'proxy_ssl_trusted_certificate '
            . '/etc/ssl/certs/ca-certificates.crt;',
    );
    my $rest = join ' ', map { $default{$_} }
        grep { $example !~ /^\s*\Q$_\E\s/m } sort keys %default;

    my ($http, $server, $location) = ('', '', '');

    if ($example =~ /^\s*server\s*\{/m) {
        $http = $example;
        $location = $guard && "$guard $rest";

    } elsif ($example =~ /^location/m) {
        $server = $example;
        $location = $guard && "$guard $rest";

    } elsif ($example =~ /^(?:cdm_stop_(?:zone|iam|policy|audit_key|audit_sign)
                             |log_format|limit_req_zone)\b/mx) {
        $http = $example;
        $location = $example
            =~ /cdm_stop_iam huawei|log_format|zone|policy|audit_/
            ? "$guard $rest" : '';

    } else {
        $location = "$guard $rest\n$example";
    }

    $server .= "location /v1.1/ { $location }" if $location ne '';
    $server = "server { listen 127.0.0.1:%%PORT%%; $server }" if $server ne '';

    return <<"EOC";
%%GLOBALS%%
events { }
http {
    %%HTTP_GLOBALS%%
    upstream iam.cn-north-4.myhuaweicloud.com { server 127.0.0.1:1; }
    upstream cdm.cn-north-4.myhuaweicloud.com { server 127.0.0.1:1; }
    $zone
    $iam
    $http
    $server
}
EOC
}
