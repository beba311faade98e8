#!/usr/bin/perl

# What nginx -t says about who may call: combinations that are open are errors,
# pointless ones warnings, and so are principals that callers write themselves.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Linter;
use CdmStop::Messages;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
$t->iam;
my $cert = $t->cert;

my $conf = <<'EOC';
%%GLOBALS%%
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {                                       #IAM
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        #CACHE
    }
    cdm_stop_policy org { deny freeze job=~^prod_; allow rest; }
    cdm_stop_enforce org;                                       #ENFORCE
    server {
        listen 127.0.0.1:%%PORT%%;
        large_client_header_buffers 4 40k;                      #BUFFERS
        #SERVER
        location /v1.1/ {
            cdm_stop huawei;                                    #GUARD
            #VERIFY
            #INJECT
            #PRINCIPAL
            #ANONYMOUS
            #BASIC
            cdm_stop_insecure_upstream on;
            cdm_stop_audit %%TESTDIR%%/audit.jsonl;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

my $lint = CdmStop::Linter->new(test => $t, conf => $conf);

# Settings by name, as the lines of the configuration; '' is the default.

sub mode {
    my (%of) = @_;

    my %line = (
        VERIFY => 'cdm_stop_verify', INJECT => 'cdm_stop_inject',
        PRINCIPAL => 'cdm_stop_principal', ANONYMOUS => 'cdm_stop_anonymous',
    );

    return $lint->with(map {
        $line{$_} ? ($_ => $of{$_} eq '' ? '' : "$line{$_} $of{$_};")
                  : ($_ => $of{$_})
    } keys %of);
}


# every combination: what becomes of it

my $TLS = "ssl_certificate $cert->{cert}; ssl_certificate_key $cert->{key}; "
    . "ssl_client_certificate $cert->{ca}; ssl_verify_client";
my $NOBODY = 'nothing identifies the callers of "cdm_stop"';
my $POINTLESS = '"cdm_stop_inject missing" of "cdm_stop" never injects';
my $RECORDS = '"cdm_stop" neither identifies callers nor injects a token';

for my $verify ('', qw(required optional off)) {
    for my $inject ('', qw(always missing off)) {
        for my $named (0, 1) {
            my $what = 'C02 verify ' . ($verify || 'by default') . ', inject '
                . ($inject || 'by default') . ', '
                . ($named ? 'a principal' : 'no principal');
            my $text = mode(VERIFY => $verify, INJECT => $inject, $named
                ? (PRINCIPAL => '$ssl_client_s_dn', SERVER => "$TLS on;") : ());
            my $required = $verify eq '' || $verify eq 'required';

            if (!$required && !$named && $inject ne 'off') {
                $lint->is_error($what, $text, 'GUARD', $NOBODY);

            } elsif ($required && $inject eq 'missing') {
                $lint->is_warning($what, $text, 'GUARD', $POINTLESS);

            } elsif ($verify eq 'off' && $inject eq 'off' && !$named) {
                $lint->is_warning($what, $text, 'GUARD', $RECORDS);

            } else {
                $lint->is_fine($what, $text);
            }
        }
    }
}

$lint->is_error('C02 optional, told what to remove',
    mode(VERIFY => 'optional'), 'GUARD',
    'remove "cdm_stop_verify optional", name callers in "cdm_stop_principal" '
    . 'or, if other means keep strangers out, write "cdm_stop_anonymous on;"');

for my $verify (qw(optional off)) {
    my ($exit, $said, $line) = $lint->look(
        mode(VERIFY => $verify, ANONYMOUS => 'on'));
    my $open = quotemeta $CdmStop::Linter::OPEN;

    is($exit, 0, "C02 verify $verify, anonymous: accepted");
    like($said, qr/\[warn\].*$open@{[ $lint->place($line->{GUARD}) ]}/,
        "C02 verify $verify, anonymous: but everybody is told");
}

$lint->is_warning('C02 anonymous has no effect', mode(ANONYMOUS => 'on'),
    'GUARD', '"cdm_stop_anonymous on" of "cdm_stop" has no effect where '
    . 'callers have to send a token; remove it');
$lint->is_fine('C02 anonymous off is what it is', mode(ANONYMOUS => 'off'));


# principals

for my $verify (qw(required optional off)) {
    $lint->is_error("H13 verify $verify, an empty principal",
        mode(VERIFY => $verify, PRINCIPAL => '""'), 'GUARD',
        '"cdm_stop_principal" of "cdm_stop" is empty and names nobody');
}

for my $verify (qw(optional off)) {
    $lint->is_error("C02 verify $verify, everybody has one name",
        mode(VERIFY => $verify, PRINCIPAL => 'scheduler'), 'GUARD',
        '"cdm_stop_principal" of "cdm_stop" has no variable and is the same '
        . 'for everybody');
}

my $WRITE = 'callers of "cdm_stop" choose their principal as they like: ';

for my $own ('$http_x_user', '${http_x_user}', 'u:$arg_user', '$cookie_user',
             '$HTTP_X_USER', '$args', '$request', '$host', '$uri') {
    my ($name) = $own =~ /(\w+)\}?\z/;

    $lint->is_warning("C05 $own", mode(VERIFY => 'off', PRINCIPAL => $own),
        'GUARD', "$WRITE\"\$$name\" is what they write into the request");
}

$lint->is_warning('C05 $remote_user without auth_basic',
    mode(VERIFY => 'off', PRINCIPAL => '$remote_user'), 'GUARD',
    "$WRITE\"\$remote_user\" is not checked without \"auth_basic\", add it");
$lint->is_warning('C05 $remote_user with auth_basic off',
    mode(VERIFY => 'off', PRINCIPAL => '$remote_user',
        BASIC => 'auth_basic off;'), 'GUARD', '$remote_user" is not checked');
$lint->is_warning('C05 $remote_user with satisfy any',
    mode(VERIFY => 'off', PRINCIPAL => '$remote_user',
        BASIC => 'auth_basic jobs; auth_basic_user_file %%TESTDIR%%/none; '
            . 'satisfy any; allow 10.0.0.0/8; deny all;'), 'GUARD',
    '"$remote_user" is not checked where "satisfy any" lets a caller in');
$lint->is_fine('C05 $remote_user with auth_basic',
    mode(VERIFY => 'off', PRINCIPAL => '$remote_user',
        BASIC => 'auth_basic x; auth_basic_user_file users;'));
$lint->is_fine('C05 $remote_user with auth_basic of the server',
    mode(VERIFY => 'off', PRINCIPAL => '$remote_user',
        SERVER => 'auth_basic x; auth_basic_user_file users;'));

for my $how ('', "$TLS off;", "$TLS optional_no_ca;") {
    $lint->is_warning("C05 certificates, $how",
        mode(VERIFY => 'off', PRINCIPAL => '$ssl_client_s_dn',
            SERVER => $how), 'GUARD',
        "$WRITE\"\$ssl_client_s_dn\" is not checked without "
        . '"ssl_verify_client on", add it');
}

for my $how (qw(on optional)) {
    $lint->is_fine("C05 certificates, $how",
        mode(VERIFY => 'off', PRINCIPAL => '$ssl_client_s_dn',
            SERVER => "$TLS $how;"));
}

$lint->is_warning('C05 in a location that inherits the guard',
    mode(VERIFY => 'off', PRINCIPAL => '$ssl_client_s_dn',
        SERVER => "$TLS on;", BASIC => 'location /v1.1/x/ {
            cdm_stop_principal $http_x_user;
            cdm_stop_insecure_upstream on;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%; }'), 'GUARD',
    "$WRITE\"\$http_x_user\" is what they write into the request");

$lint->is_fine('C05 what auth_request says', mode(VERIFY => 'off',
    PRINCIPAL => '$principal', SERVER => 'set $principal x;'));


# buffers for tokens of callers

for my $verify (qw(required optional)) {
    $lint->is_warning("H03 verify $verify, nginx's own buffers",
        $lint->with(BUFFERS => undef, VERIFY => "cdm_stop_verify $verify;",
            INJECT => 'cdm_stop_inject off;'), 'GUARD',
        'callers of "cdm_stop" who send a token of more than 8176 bytes get '
        . '400 from nginx itself, write "large_client_header_buffers 4 40k;"');
}


# verify_cache

for my $time (qw(0 999ms 25h)) {
    $lint->is_error("C01 verify_cache $time",
        $lint->with(CACHE => "verify_cache $time;"), 'IAM',
        '"verify_cache" of identity "huawei" must be from 1s to 24h');
}

for my $time (qw(1s 60s 24h)) {
    $lint->is_fine("C01 verify_cache $time",
        $lint->with(CACHE => "verify_cache $time;"));
}


# every message has its test above

my @messages = CdmStop::Messages::of(
    $t->root . '/src/ngx_http_cdm_stop_callers.c');
cmp_ok(scalar @messages, '>=', 7, 'the messages were found in the source');
is(join("\n", map { "$_->{file}:$_->{line}: $_->{format}" }
        CdmStop::Messages::unseen($lint->output, @messages)), '',
    'C01 every message of nginx -t about callers was seen');

$t->done;
