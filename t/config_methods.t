#!/usr/bin/perl

# nginx -t as the linter of the ways to get a token: each method asks for its
# own settings and for no others; an agency needs an identity to go by; and the
# times of renewal, margin and rest have bounds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Linter;
use CdmStop::Messages;
use CdmStop::Test;

my $t = CdmStop::Test->new;

$t->write_secret("secrets/$_", $t->ledger->password)
    for qw(password access_key secret_key);
$t->write_secret('secrets/token', $t->ledger->token(2000));

my $lint = CdmStop::Linter->new(test => $t, conf => <<'EOC');
%%GLOBALS%%
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    #FIRST
    cdm_stop_iam huawei {                                       #BLOCK
        uri            https://127.0.0.1:%%IAM_PORT%%;
        projects       any;
        method         password;                                #method
        domain         acme;                                    #domain
        user           cdm-gateway;                             #user
        password_file  %%TESTDIR%%/secrets/password;            #file
        #more
    }                                                           #END
    #LAST
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

# The settings of the methods.

my %none = (domain => undef, user => undef, file => undef);
my %setting = (
    domain => 'domain acme;', user => 'user cdm-gateway;',
    password_file => 'password_file %%TESTDIR%%/secrets/password;',
    access_key_file => 'access_key_file %%TESTDIR%%/secrets/access_key;',
    secret_key_file => 'secret_key_file %%TESTDIR%%/secrets/secret_key;',
    agency => 'agency acme stopper;', via => 'via base;',
    token_file => 'token_file %%TESTDIR%%/secrets/token;',
);
my %needs = (
    password => [qw(domain user password_file)],
    ak_sk => [qw(access_key_file secret_key_file)],
    agency => [qw(agency via)], file => [qw(token_file)],
);

my $base = <<'EOC';
    cdm_stop_iam base {
        uri https://127.0.0.1:%%IAM_PORT%%; projects any; scope domain;
        domain acme; user other;
        password_file %%TESTDIR%%/secrets/password;
    }
EOC


sub method {
    my ($method, @settings) = @_;

    return $lint->with(
        %none, FIRST => $base, method => "method $method;",
        more => join(' ', map { $setting{$_} // $_ } @settings));
}

for my $method (sort keys %needs) {
    my @needs = @{ $needs{$method} };

    $lint->is_fine("C01 method $method", method($method, @needs));

    for my $missing (@needs) {
        $lint->is_error(
            "C01 method $method without $missing",
            method($method, grep { $_ ne $missing } @needs), 'BLOCK',
            qq(no "$missing" in identity "huawei", add it));
    }

    my %needed = map { $_ => 1 } @needs;

    for my $more (grep { !$needed{$_} } sort keys %setting) {

        # of an access key, it is the domain that a token is scoped to
        next if $method eq 'ak_sk' && $more eq 'domain';

        $lint->is_error(
            "C01 method $method with $more", method($method, @needs, $more),
            'BLOCK',
            qq("$more" in identity "huawei" has no use with )
                . qq("method $method", remove it));
    }
}

for my $name (sort keys %setting) {
    my ($method) = grep {
        grep { $_ eq $name }
            @{ $needs{$_} }
    } sort keys %needs;
    my @others = grep { $_ ne $name } @{ $needs{$method} };

    $lint->is_error(
        "C01 $name twice",
        method($method, @others, $setting{$name}, $setting{$name}), 'more',
        qq("$name" directive of "cdm_stop_iam" is duplicate));
    $lint->is_error(
        "C01 $name without a value", method($method, @others, "$name;"),
        'more',
        qq(invalid number of arguments in "$name" directive of )
            . '"cdm_stop_iam"');
}

$lint->is_error(
    'C01 method twice', $lint->with(method => 'method password; method file;'),
    'method', '"method" directive of "cdm_stop_iam" is duplicate');


# scope

$lint->is_error(
    "C01 scope $_", $lint->with(more => "scope $_;"), 'more',
    '"scope" directive of "cdm_stop_iam" must be "project" or "domain"'
) for qw(Project all ""), 'any';
$lint->is_error(
    'C01 scope twice', $lint->with(more => 'scope project; scope domain;'),
    'more', '"scope" directive of "cdm_stop_iam" is duplicate');
$lint->is_fine("C01 scope $_", $lint->with(more => "scope $_;"))
    for qw(project domain);
$lint->is_error(
    'C01 an access key scoped to a domain that is not named',
    method('ak_sk', @{ $needs{ak_sk} }, 'scope domain;'), 'BLOCK',
    'no "domain" in identity "huawei", add it');
$lint->is_fine(
    'C01 an access key scoped to a domain',
    method('ak_sk', @{ $needs{ak_sk} }, 'domain', 'scope domain;'));


# agency

for my $value ('acme', 'acme stopper more') {
    $lint->is_error(
        "C01 agency $value", method('agency', 'via', "agency $value;"), 'more',
        '"agency" directive of "cdm_stop_iam" must have the domain and the '
            . 'name of the agency');
}

$lint->is_error(
    'C01 an empty name of an agency',
    method('agency', 'via', 'agency acme "";'), 'BLOCK',
    'no "agency" in identity "huawei", add it');
$lint->is_error(
    'C01 an empty domain of an agency',
    method('agency', 'via', 'agency "" stopper;'), 'more',
    '"agency" directive of "cdm_stop_iam" must have the domain and the '
        . 'name of the agency');
$lint->is_error(
    'C01 an agency not in UTF-8',
    method('agency', 'via', "agency acme \"a\xff\";"), 'BLOCK',
    '"agency" of identity "huawei" is not valid UTF-8, save the '
        . 'configuration as UTF-8');
$lint->is_error(
    'C01 its domain not in UTF-8',
    method('agency', 'via', "agency \"a\xff\" stopper;"), 'BLOCK',
    '"agency" of identity "huawei" is not valid UTF-8');

my $unknown = 'of identity "huawei", define it above';

$lint->is_error(
    'C01 via nobody', method('agency', 'agency', 'via nobody;'), 'BLOCK',
    qq(unknown identity "nobody" in "via" $unknown));
$lint->is_error(
    'C01 via itself', method('agency', 'agency', 'via huawei;'), 'BLOCK',
    qq(unknown identity "huawei" in "via" $unknown));
$lint->is_error(
    'C01 via one that comes later',
    $lint->with(
        %none, method => 'method agency;', LAST => $base,
        more => 'agency acme stopper; via base;'
    ),
    'BLOCK',
    qq(unknown identity "base" in "via" $unknown));

my $cannot = 'cannot be the "via" of identity "huawei": write "scope domain" '
    . 'in it, and another method than "agency"';

$lint->is_error(
    'C01 via one with the scope of a project',
    method('agency', 'agency', 'via') =~ s/ scope domain;//r, 'BLOCK',
    qq(identity "base" $cannot));
$lint->is_error(
    'C01 via another agency',
    $lint->with(
        %none, method => 'method agency;', FIRST => $base . <<'EOC',
    cdm_stop_iam middle {
        uri https://127.0.0.1:%%IAM_PORT%%; projects any; scope domain;
        method agency; agency acme other; via base;
    }
EOC
        more => 'agency acme stopper; via middle;'
    ),
    'BLOCK',
    qq(identity "middle" $cannot));


# secret files of the other methods

for my $name (qw(access_key_file secret_key_file)) {
    my @others = grep { $_ ne $name } @{ $needs{ak_sk} };

    $t->write("secrets/empty", '', 0600);
    $t->write_secret("secrets/open", $t->ledger->password, 0644);

    $lint->is_error(
        "C03 $name empty",
        method('ak_sk', @others, "$name %%TESTDIR%%/secrets/empty;"), 'END',
        qr/secret "\S+\/empty" is empty, write the secret into it/);
    $lint->is_error(
        "C03 $name of mode 0644",
        method('ak_sk', @others, "$name %%TESTDIR%%/secrets/open;"), 'END',
        qr/secret "\S+\/open" can be read or written by others, run: chmod/);
    $lint->is_error(
        "C03 $name missing",
        method('ak_sk', @others, "$name %%TESTDIR%%/secrets/none;"), 'END',
        qr/open\(\) "\S+\/none" failed, put the secret there/);
}

# something else keeps it, which may begin later
$lint->is_fine(
    'I11 a token_file that is not there yet',
    method('file', 'token_file %%TESTDIR%%/secrets/later;'));


# times

for my $value (qw(0% 91% 100% -1% % 20 20%% x% 1.5% ""), '20s') {
    $lint->is_error(
        "C01 refresh_ahead $value",
        $lint->with(more => "refresh_ahead $value;"), 'more',
        '"refresh_ahead" directive of "cdm_stop_iam" must be a share of the '
            . q(token's life from "1%" to "90%"));
}

$lint->is_error(
    'C01 refresh_ahead twice',
    $lint->with(more => 'refresh_ahead 20%; refresh_ahead 20%;'), 'more',
    '"refresh_ahead" directive of "cdm_stop_iam" is duplicate');
$lint->is_fine(
    "C01 refresh_ahead $_",
    $lint->with(more => "refresh_ahead $_;")
) for qw(1% 20% 90%);

for my $name (qw(margin hold)) {
    for my $value (qw(x -1 5x "")) {
        $lint->is_error(
            "C01 $name $value", $lint->with(more => "$name $value;"), 'more',
            qq("$name" directive of "cdm_stop_iam" invalid value));
    }

    $lint->is_error(
        "C01 $name twice", $lint->with(more => "$name 5s; $name 5s;"), 'more',
        qq("$name" directive of "cdm_stop_iam" is duplicate));
    $lint->is_fine("C01 $name 5m", $lint->with(more => "$name 5m;"));
}


# every message has its test here or in t/config_iam.t

$lint->look($lint->with(file => 'password_fil x;'));
$lint->look($lint->with(LAST => 'cdm_stop_iam huawei { }'));
$lint->look($lint->with(LAST => 'cdm_stop_iam off { }'));
$lint->look($lint->with(more => $_))
    for 'uri ftp://x;', 'projects x;', 'projects any;', 'timeout 0;',
    'verify off;', 'uri https://x; uri https://x;';

{
    my $text = $lint->with;
    $lint->look($text =~ s/uri +https\S+//r);
    $lint->look($text =~ s/https:/http:/r);
    $lint->look($text =~ s/https:/ftp:/r);
    $lint->look($text =~ s/projects +any;//r);
    $lint->look($text =~ s/projects +any;/projects x;/r);
    $lint->look($text =~ s/method +password;/method x;/r);
    $lint->look($text =~ s/projects +any;/projects any; verify_cache 0;/r);
}

my @messages =
    CdmStop::Messages::of(map { $t->root . "/src/ngx_http_cdm_stop_$_.c" }
        qw(identity method));
cmp_ok(scalar @messages, '>=', 20, 'the messages were found in the sources');
is(
    join(
        "\n",
        map { "$_->{file}:$_->{line}: $_->{format}" }
            CdmStop::Messages::unseen($lint->output, @messages)
    ),
    '',
    'C01 every message of nginx -t about an identity was seen');

$t->allow_log(qr/./);
$t->done;
