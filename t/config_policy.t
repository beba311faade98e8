#!/usr/bin/perl

# nginx -t as the linter of policies, reasons and rates: what cannot be right
# is an error or a warning that names the line and what to write.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Linter;
use CdmStop::Messages;
use CdmStop::Test;

my $t = CdmStop::Test->new;
$t->write_secret('secrets/password', $t->ledger->password);

my $lint = CdmStop::Linter->new(test => $t, conf => <<'EOC');
%%GLOBALS%%
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            https://127.0.0.1:%%IAM_PORT%%;
        projects       any;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
    }
    cdm_stop_policy org {                        #POLICY
        deny   freeze  job=~^prod_;              #FIRST
        allow  rest    user=x;                   #LAST
    }                                            #END
    #MORE
    server {
        listen 127.0.0.1:%%PORT%%;
        large_client_header_buffers 4 40k;
        error_log %%TESTDIR%%/server.log info;
        location /v1.1/ {
            cdm_stop huawei;                     #GUARD
            cdm_stop_enforce org;                #ENFORCE
            #SETTING
            cdm_stop_insecure_upstream on;
            cdm_stop_audit %%TESTDIR%%/audit.jsonl;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

sub error {
    my ($name, $mark, $line, $why) = @_;

    $lint->is_error("C08 $name", $lint->with($mark => $line), $mark, $why);
    return;
}

sub warning {
    my ($name, $mark, $line, $why) = @_;

    $lint->is_warning("C08 $name", $lint->with($mark => $line), $mark, $why);
    return;
}

$lint->is_fine('C08 as it is', $lint->with);
$lint->is_fine("C08 $_", $lint->with(FIRST => $_)) for
    'deny a !role=x,y addr=10.0.0.0/8,2001:db8::/32,192.0.2.7;',
    'allow a principal=~^a$ !job=~b if=$args;',
    'deny a !principal=~^(?:a|b)$ job=~x;', 'allow a job=~^a user=~*.*b\z;';

error('a rule twice', 'LAST', 'allow freeze;',
      'rule "freeze" is already defined in');
error('a policy twice', 'MORE', 'cdm_stop_policy org { allow all; }',
      'policy "org" is already defined in');
error('a policy "off"', 'MORE', 'cdm_stop_policy off { allow all; }',
      'cannot be named so, choose another name');
$lint->is_error('C08 an empty policy',
    $lint->with(FIRST => undef, LAST => undef), 'POLICY',
    'policy "org" is empty and would deny all stops');
error('a bad pattern', 'FIRST', 'deny a job=~[;', qr/bad pattern "~\["/);
error('no pattern', 'FIRST', 'deny a job=~*;', 'empty pattern "~*"');
error("the address $_", 'FIRST', "deny a addr=$_;", qq(bad address "$_"))
    for '10.0.0.0/33', '10.0.0', '2001:db8::/129', '~10';
warning('low bits', 'FIRST', 'deny a addr=10.0.0.1/8;',
        'low bits of "10.0.0.1/8" have no meaning');
error("the condition $_", 'FIRST', "deny a $_;", qq(unknown condition "$_"))
    for 'users=x', 'user', '!', '=x', 'User=x', '!!user=x';
error('no value', 'FIRST', 'deny a user=;', 'condition "user=" has no value');
error("a list $_", 'FIRST', "deny a $_;", qq(empty value in the list of "$_"))
    for 'user=a,,b', 'user=a,', 'user=,a';
error("no variable in $_", 'FIRST', "deny a $_;", qq("$_" names no variable))
    for 'if=x', 'if=$';
error('another word', 'FIRST', 'permit a user=x;', 'unknown word "permit"');
error('no name', 'FIRST', "$_;", 'rule without a name, write "deny NAME')
    for 'deny', 'deny user=x';
error('a bad name', 'FIRST', "deny $_ user=x;", 'of a rule, use 1 to 64')
    for '"a b"', 'a' x 65, '""', 'a/b';

$lint->is_warning('C08 behind a catch-all',
    $lint->with(FIRST => 'deny all;'), 'LAST',
    'rule "rest" is never reached behind "all", which has no condition');
warning("exclude each other: $_", 'FIRST', "deny a $_;",
        'rule "a" can never match')
    for 'user=x user=y', 'user=x !user=x,y', 'job=a,b user=x job=c';
$lint->is_fine("C08 $_", $lint->with(FIRST => "deny a $_;")) for
    'user=x,y user=y', 'user=x,y !user=x', 'role=x role=y', 'user=x job=y';

warning("not anchored: $_", 'FIRST', "$_;", 'write "^" at its start')
    for 'allow a principal=~admin$', 'allow a job=~etl_',
        'deny a !domain=~*admin$';
warning("not anchored: $_", 'FIRST', "$_;", 'write "$" at its end')
    for 'allow a principal=~^admin', 'deny a !role=~^admin';

warning("alternatives: $_->[0]", 'FIRST', "$_->[0];",
        'hold for a part of its alternatives only, write "' . $_->[1] . '"')
    for ['allow a principal=~^a|b$', 'principal=~^(a|b)$'],
        ['deny a !principal=~*^a|b|c$', '!principal=~*^(a|b|c)$'],
        ['deny a job=~^a|b', 'job=~^(a|b)'],
        ['allow a job=~a\|b|^c', 'job=~^(a\|b|c)'],
        ['allow a principal=~(?i)^[a|]$|^b', 'principal=~(?i)^([a|]|b)$'],
        ['deny a job=~\\Aa|b\\z', 'job=~^(a|b)$'],
        ['deny a job=~\\Q^|\\E|^x', 'job=~^(\\Q^|\\E|x)'],
        ['allow a role=~(?!x)^a$|(?:b)$', 'role=~^((?!x)^a|(?:b))$'];
$lint->is_fine("C08 alternatives: $_", $lint->with(FIRST => "$_;")) for
    'allow a principal=~^(a|b)$', 'allow a principal=~^a$|^b$',
    'allow a job=~^a|^b', 'deny a job=~(^a|b$)', 'deny a job=~a|b',
    'deny a job=~^a[|]b', 'deny a job=~^a\|b', 'deny a job=~^\\Qa|b\\E$',
    'allow a principal=~^a$|(^b|^c)$', 'deny a job=~^a$|^(b|c$)',
    'allow a principal=~^a$|.*-b$', 'deny a job=~(?x)^a|b$',
    'deny a job=~^[]|]b|^[[:alpha:]|]';
warning("alternatives without anchors: $_", 'FIRST', "allow a $_;",
        'write "^" at its start and parentheses around its alternatives')
    for 'principal=~a|b', 'job=~x$|y$';
warning("not anchored: $_", 'FIRST', "allow a $_;", 'write "^" at its start')
    for 'principal=~(a|b)$', 'principal=~(?i)a$', 'user=~(?!b)a$';
warning("not anchored: $_", 'FIRST', "allow a $_;", 'write "$" at its end')
    for 'principal=~^a\\$', 'principal=~^[$]', 'principal=~^(a|b)';


# rules behind one that matches all that they ask for

my $COVERED = 'rule "rest" never matches: "a" in ';

sub behind {
    my ($first, $last) = @_;

    return $lint->with(FIRST => "$first;", LAST => "$last;");
}

$lint->is_warning("C08 covered: @$_", behind(@$_), 'LAST', $COVERED) for
    ['allow a user=x', 'deny rest user=x job=y'],
    ['deny a user=x,y', 'allow rest job=z user=y'],
    ['deny a role=x,y', 'allow rest role=y'],
    ['deny a project=1,2 job=~^p', 'allow rest job=~^p project=2 user=u'],
    ['deny a job=~^prod_', 'allow rest job=prod_1,prod_2'],
    ['deny a !job=~^prod_', 'allow rest job=test_1'],
    ['deny a role=~^adm', 'allow rest role=admin'],
    ['deny a !user=x', 'allow rest user=y,z'],
    ['deny a !user=x', 'deny rest !user=x,y'],
    ['allow a !user=x', 'allow rest !user=x'],
    ['allow a if=$args', 'allow rest if=$args user=x'],
    ['deny a addr=10.0.0.0/8', 'allow rest addr=10.1.0.0/16,10.2.3.4'],
    ['deny a addr=0.0.0.0/0', 'allow rest addr=192.0.2.1'],
    ['deny a addr=2001:db8::/32', 'allow rest addr=2001:db8:1::/48'],
    ['deny a !addr=10.0.0.0/8', 'allow rest addr=192.0.2.0/24'],
    ['deny a !addr=10.1.0.0/16', 'deny rest !addr=10.0.0.0/8 user=x'];

# None of these is covered: a request that gets to the second is told.

$lint->is_fine("C08 not covered: @$_", behind(@$_)) for
    ['allow a user=x job=y', 'deny rest user=x'],
    ['allow a user=x', 'deny rest user=x,y'],
    ['allow a user=x', 'deny rest domain=x'],
    ['allow a user=x', 'deny rest !user=y'],
    ['allow a !user=x', 'deny rest !user=x'],           # without a user
    ['allow a !user=x,y', 'allow rest !user=x'],        # y
    ['deny a !user=x', 'allow rest user=x'],
    ['deny a !user=x', 'allow rest user=x,y'],
    ['deny a !role=x', 'allow rest role=y'],            # both roles
    ['deny a !role=~^x$', 'allow rest role=y'],
    ['allow a job=~^p', 'deny rest job=~^p'],           # p and a line feed
    ['deny a job=~^p', 'allow rest job=~*^p'],
    ['deny a job=~^prod', 'allow rest job=prod,test'],
    ['deny a job=~^prod', 'allow rest !job=prod'],
    ['deny a !job=~^prod', 'allow rest job=prod'],
    ['deny a job=p', 'allow rest job=~^p$'],
    ['allow a if=$args', 'deny rest if=$args'],
    ['allow a if=$args', 'allow rest !if=$args'],
    ['allow a if=$args', 'allow rest if=$is_args'],
    ['deny a addr=10.0.0.0/16', 'allow rest addr=10.0.0.0/8'],
    ['deny a addr=10.0.0.0/8', 'allow rest addr=10.0.0.1,192.0.2.1'],
    ['deny a addr=10.0.0.0/8', 'allow rest addr=2001:db8::/32'],
    ['deny a addr=2001:db8::/32', 'allow rest addr=2001:db9::/48'],
    ['deny a !addr=10.1.0.0/16', 'allow rest addr=10.0.0.0/8'],
    ['deny a !addr=10.0.0.0/8', 'allow rest addr=10.0.0.1'],
    ['allow a !addr=10.0.0.0/8', 'deny rest !addr=10.0.0.0/8'];

sub many {
    my ($n, $rule, @before) = @_;

    $t->write('many.conf', join "\n", @before, map { $rule->($_) } 1 .. $n);

    return $lint->look($lint->with(FIRST => 'include %%TESTDIR%%/many.conf;',
                                   LAST => undef));
}

{
    my ($exit, $said) = many(200, sub { "allow r$_[0] user=x job=j$_[0];" },
                             'allow all_of_x user=x;');

    is($exit, 0, 'C08 one broad rule before many: no error');
    is(scalar(() = $said =~ /\[warn\] rule "r\d+" never matches/g), 20,
        'C08 enough of them are told');
    like($said, qr/\[warn\] rules behind "r20" are not compared .* enough /,
        'C08 and that there may be more');
}

# The worst there is: long lists that no index tells apart.

{
    my $list = join ',', map { "d$_" } 1 .. 199;
    my ($exit, $said) = many(200, sub { "allow r$_[0] domain=x$_[0],$list;" });

    is($exit, 0, 'C08 rules that share all: no error');
    like($said, qr/\[warn\] rules behind "r7\d" are not compared .* share /,
        'C08 from where on they are not compared is told');
    unlike($said, qr/never matches/, 'C08 and nothing that is not so');
}

error('an unknown policy', 'ENFORCE', 'cdm_stop_enforce other;',
      'unknown policy "other", define it by "cdm_stop_policy other');
$lint->is_warning('C08 a policy that is not used',
    $lint->with(MORE => 'cdm_stop_policy other { allow all; }'), 'MORE',
    'policy "other" is not used, write "cdm_stop_enforce other;"');
error('enforce twice', 'SETTING', 'cdm_stop_enforce org;', 'is duplicate');

$lint->is_warning('C02 no policy at all', $lint->with(
        POLICY => '', FIRST => '', LAST => '', END => '', ENFORCE => ''),
    'GUARD', 'everyone who is identified stops any job with the gateway\'s '
    . 'token, say who may in a "cdm_stop_policy" and write '
    . '"cdm_stop_enforce" beside "cdm_stop"');

$lint->is_warning('C08 a dry run of nothing',
    $lint->with(ENFORCE => 'cdm_stop_dry_run on;', POLICY => undef,
        FIRST => undef, LAST => undef, END => undef), 'GUARD',
    '"cdm_stop_dry_run on" has no effect');
$lint->is_warning('C08 a dry run',
    $lint->with(SETTING => 'cdm_stop_dry_run on;'), 'GUARD',
    '"cdm_stop_dry_run on" refuses no stop');
$lint->is_warning('C02 a dry run while injecting',
    $lint->with(SETTING => 'cdm_stop_dry_run on;'), 'GUARD',
    qr/everyone who is identified stops jobs with the gateway's token/);
$lint->is_warning('C02 a dry run while injecting for anyone',
    $lint->with(SETTING => 'cdm_stop_verify off; cdm_stop_anonymous on; '
        . 'cdm_stop_dry_run on;'), 'GUARD',
    qr/everyone who reaches it stops jobs with the gateway's token/);
$lint->is_warning('C02 a dry run in a location that inherits the guard',
    $lint->with(SETTING => 'location /v1.1/x { cdm_stop_dry_run on; '
        . 'proxy_pass http://127.0.0.1:%%CDM_PORT%%; }'), 'GUARD',
    '"cdm_stop_dry_run on" refuses no stop');
$lint->is_fine("C02 $_", $lint->with(SETTING => $_)) for
    'cdm_stop_dry_run on; cdm_stop_inject off;',
    'cdm_stop_dry_run off;';

$lint->is_fine("C01 $_", $lint->with(SETTING => "$_;"))
    for 'cdm_stop_reason X-Reason', 'cdm_stop_reason off',
        'cdm_stop_reason X-Reason ~*^chg', 'cdm_stop_rate off',
        'cdm_stop_rate 1/m', 'cdm_stop_rate 60000/m burst=0';
error('reason twice', 'SETTING', 'cdm_stop_reason X; cdm_stop_reason Y;',
      'is duplicate');
error('C10 the reason is a credential', 'SETTING',
      'cdm_stop_reason X-Auth-Token;',
      'header "X-Auth-Token" cannot hold the reason: it ');
error('a reason in no header', 'SETTING', 'cdm_stop_reason "a b";',
      'header "a b" cannot hold the reason: it is no name of a header');
error("a reason in $_", 'SETTING', "cdm_stop_reason $_;",
      qq(header "$_" cannot hold the reason: it is not of letters, digits))
    for 'X_Reason', 'X.Reason';
error("a reason in $_", 'SETTING', "cdm_stop_reason $_;",
      qq(header "$_" cannot hold the reason: it goes to CDM and says something))
    for 'User-Agent', 'traceparent';
error('no pattern of a reason', 'SETTING', 'cdm_stop_reason X-Reason CHG;',
      '"CHG" is no pattern, write "~" before it');
error('a bad pattern of a reason', 'SETTING', 'cdm_stop_reason X-Reason ~(;',
      'bad pattern "~("');
error('rate twice', 'SETTING', 'cdm_stop_rate 1/m; cdm_stop_rate 1/m;',
      'is duplicate');
error("the rate $_", 'SETTING', "cdm_stop_rate $_;", qq(bad rate "$_"))
    for '0/m', '1', '1/s', '/m', '60001/m', '-1/m';
error("the burst $_", 'SETTING', "cdm_stop_rate 1/m $_;", qq(bad burst "$_"))
    for 'burst=', 'burst=x', '10', 'burst=60001', 'burst=-1';

$t->write('rules.conf', "deny a job=a;\nallow b;\n");
$lint->is_fine('C08 rules of another file', $lint->with(
    FIRST => 'include %%TESTDIR%%/rules.conf;', LAST => undef));

my @messages = map { CdmStop::Messages::of("$FindBin::Bin/../src/$_") }
    map { "ngx_http_cdm_stop_$_.c" }
    qw(pattern policy policy_anchor policy_check policy_cover policy_lint
          rate reason);
cmp_ok(scalar @messages, '>', 15, 'messages were found');
is(join("\n", map { "$_->{file}:$_->{line}: $_->{format}" }
       CdmStop::Messages::unseen($lint->output, @messages)), '',
    'C01 every message of nginx -t about a policy was seen');

$t->allow_log(qr/./);
$t->done;
