#!/usr/bin/perl

# Rules are found by what their patterns begin with; a pattern that only looks
# as if it began so is not, and each decision is that of the pattern alone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my @PATTERNS = (
    # found by a beginning
    '^ab', '^ab$', '^abc', '^a', '^ab+c', '^ab*', '^abc?', '^a\.b', '^a\+b$',
    '^ab(c|d)', '^ab(?:c|d)$', '^ab[|]c', '^ab[^]c]', '^a(?!b)', '^ab\|c',
    '^ab\d', '^ab\\bc', '^' . 'long' x 12, '^' . 'long' x 8 . '$',
    '^' . 'long' x 8 . '?', "^\xc3\xa9", "^\xc3\xa9?ab", '^a b', '^ab(c|(d|1))',

    # not found by one, though they have such a piece
    '^ab|xab', '^ab(c)|xab', 'ab', '^(ab|x)', '(?i)^ab', '^ab(?i)C|xab',
    ['^a\Qb|\E|xab', '^ab\||xab'], ['^ab[\Q]\E|]|xab', '^ab[]|]|xab'],
    '^ab[[:alpha:]|]|xab', '^ab[]|]|xab',
    '^ab(?#(|)|xab', '^.b', '\Aab', '^ab\cA|xab', '|^ab', '^',
    '^ab(?x: # (
    )|xab',
);

# PCRE's, and Perl's where that has another spelling
my @PERL = map { ref ? $_->[1] : $_ } @PATTERNS;
@PATTERNS = map { ref ? $_->[0] : $_ } @PATTERNS;

my @JOBS = (qw(a ab abc abbc ac b xab AB abC aXb a.b a+b abd ab1 ab|c x abx),
            'ab|', 'a b', 'ab(', "\xc3\xa9", "\xc3\xa9ab", 'long' x 7,
            'long' x 8, 'long' x 8 . 'x', 'long' x 12, 'lon' . 'glon' x 7);

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

my $maps = join '', map { "map \$http_x_n \$is_$_ { $_ 1; }\n" }
    0 .. $#PATTERNS;
my $rules = join '', map {
    my $pattern = $PATTERNS[$_] =~ s/([\\"])/\\$1/gr;
    qq(allow r$_ if=\$is_$_ "job=~$pattern";\n);
} 0 .. $#PATTERNS;

$t->config(<<"EOC");
%%GLOBALS%%
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    keepalive_requests 100000;
    cdm_stop_zone cdm:1m;
    cdm_stop huawei;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_inject off;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit off;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    $maps
    map \$http_x_feed \$who { default \$http_x_who; 1 "other\\n"; }
    cdm_stop_principal \$who;
    cdm_stop_policy org { $rules }
    cdm_stop_policy freeze {
        deny   frozen  principal=~^etl_;
        allow  rest    job=~^rest;
    }
    add_header X-Decided "\$cdm_stop_decision \$cdm_stop_rule" always;
    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop_enforce org;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
        location /v1.1/22222222222222222222222222222222/ {
            cdm_stop_enforce freeze;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC
$t->start;

my ($matches, $wrong) = (0, '');

for my $n (0 .. $#PATTERNS) {
    my @handles = map {
        $t->start_stop(job => s/(\W)/sprintf '%%%02X', ord $1/ger,
                       headers => [['X-N', $n]])
    } @JOBS;
    my @answers = $t->finish(@handles);

    for my $i (0 .. $#JOBS) {
        my $is = $answers[$i]->header('X-Decided') // 'none';
        my $matched = $JOBS[$i] =~ /$PERL[$n]/;
        my $wanted = $matched ? "allow r$n" : 'deny ';

        $matches++ if $matched;
        $wrong .= "$PATTERNS[$n] on $JOBS[$i]: $is\n"
            if $is =~ s/ \z//r ne $wanted =~ s/ \z//r;
    }
}

is($wrong, '', 'C08 ' . @PATTERNS . ' patterns on ' . @JOBS . ' jobs, each '
    . 'decided as the pattern says');
cmp_ok($matches, '>', 100, 'and enough of them match');

# Of a value with a line feed at its end nothing is told: a deny rule matches,
# whatever the value begins with.

my $freeze = '2' x 32;

for (['etl_x', 'deny frozen'], ['other', 'allow rest']) {
    my ($who, $wanted) = @$_;

    is($t->put_stop(project => $freeze, job => 'rest_1',
                    headers => [['X-Who', $who]])->header('X-Decided'),
        $wanted, "C08 the principal $who: $wanted");
}

is($t->put_stop(project => $freeze, job => 'rest_1',
                headers => [['X-Feed', 1]])->header('X-Decided'),
    'deny frozen', 'C08 a principal with a line feed behind it is denied');

$t->allow_log(qr/\[warn\]/);
$t->done;
