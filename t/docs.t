#!/usr/bin/perl

# The reference in docs/DIRECTIVES.md and the code say the same: directives,
# settings, variables, codes, messages; and each example of it, of README.md
# and of docs/OPERATIONS.md passes "nginx -t".

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Process;
use CdmStop::Test;

my $root = "$FindBin::Bin/..";
my $reference = slurp("$root/docs/DIRECTIVES.md");
my $readme = slurp("$root/README.md");
my %source = map { $_ => slurp($_) } glob("$root/*.c $root/src/*.c");
my $code = join "\n", map { $source{$_} } sort keys %source;

my $t = CdmStop::Test->new;
$t->iam;
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

my ($section) = $reference =~ /^## Variables\n(.*?)^## /ms;
my %documented = map { $_ => 1 } grep { !/^cdm_stop_zone$/ }
    join("\n", grep { /^\|/ } split /\n/, $section) =~ /\$(cdm_stop\w*)/g;
is_deeply([sort keys %documented], [strings($vars)],
    'each variable has its row');

my %codes = map { $_ => 1 } $code =~ /NGX_HTTP_CDM_STOP_ERROR\(\w+, "(\d+)"/g;
my ($answers) = $reference =~ /^## Answers of the gateway\n(.*?)^## /ms;
is_deeply([sort $answers =~ /CDMSTOP\.(\d+)/g], [sort keys %codes],
    'each code has its row');

for my $name ($reference =~ /^### (\w+)$/mg) {
    my ($text) = $reference =~ /^### \Q$name\E\n(.*?)(?=^##)/ms;

    like($text, qr/^ +Syntax: +\Q$name\E .*^ +Default: .*^ +Context: /ms,
        "$name: syntax, default and context");
    like($text, qr/^```nginx$/m, "$name: an example");
}


# messages

my ($messages) = $reference =~ /^## Messages\n(.*)/ms;
$messages =~ s/\s+/ /g;

for my $message (run_time_messages()) {
    my @pieces = grep { /\w/ } split /%\S+?(?=["\s,):]|$)/, $message;
    my ($longest) = sort { length $b <=> length $a } @pieces;

    $longest =~ s/^\W+|\W+$//g;
    ok(index($messages, $longest) >= 0 || known_by_its_start($message),
        "documented: $message");
}


# examples

my $i = 0;

for my $text ($reference, $readme, slurp("$root/docs/OPERATIONS.md")) {
    while ($text =~ /^```nginx\n(.*?)^```$/msg) {
        my $example = $1;

        my ($exit, $output) = $t->nginx_t(whole($example));
        is($exit, 0, 'example ' . ++$i . ' passes nginx -t: '
            . ($example =~ /(\S+)/)[0]) or diag($output);
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
    my ($text) = $reference =~ /^### cdm_stop_iam\n(.*?)(?=^##)/ms;

    my ($table) = $text =~ /^(\| setting .*?)\n\n/ms;

    return map { /`(\w+)/g } map { (split / \| /)[0] }
        grep { /^\| `/ } split /\n/, $table;
}


# what the module logs when it runs: ngx_log_error(), not at configuration

sub run_time_messages {
    my @found;

    my $string = qr/"(?:[^"\\]|\\.)*"/;

    while ($code =~ /ngx_log_error\((?!level)[^;]*?((?:$string\s*)+)/g) {
        my $literal = $1;
        my $message = join '', $literal =~ /"((?:[^"\\]|\\.)*)"/g;

        $message =~ s/\\"/"/g;
        next if $message =~ /^%\*s in %V|^OpenSSL|^"%V"/ || $message !~ /\w{3}/;
        push @found, $message;
    }

    return @found;
}


# messages that only begin the same, and those of nginx's own words

sub known_by_its_start {
    my ($message) = @_;

    return 1 if $message =~ /^IAM gave no token: %s/;
    return 1 if $message =~ /^a stop is not sent/;
    return 1 if $message =~ /^ failed$/;

    (my $plain = $message) =~ s/^IAM sent (?:an |no |a )?//;
    return index($messages, $plain) >= 0;
}


# an example within the least that makes it a configuration

sub whole {
    my ($example) = @_;

    $example =~ s{^load_module.*\n}{}m;
    $example =~ s{^http \{\n(.*)^\}\n}{$1}ms;
    $example =~ s{/etc/nginx/secrets/[\w-]+}{%%TESTDIR%%/secrets/password}g;
    $example =~ s{/var/log/nginx/}{%%TESTDIR%%/}g;
    $example =~ s{listen 443 ssl;}{listen 127.0.0.1:%%PORT%%;}g;

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

    } elsif ($example =~ /^location/m) {
        $server = $example;
        $location = $guard && "$guard $rest";

    } elsif ($example =~ /^(?:cdm_stop_(?:zone|iam|policy|audit_key|audit_sign)
                             |log_format)\b/mx) {
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
