#!/usr/bin/perl

# What nginx -t says of a rule that never matches is true of every request:
# random rules, and each pair that it names is tried on all the callers there
# can be, by the meaning of the rules as the reference tells it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $RUNS = $ENV{TEST_NGINX_RUNS} || 40;

my $t = CdmStop::Test->new;
$t->write_secret('secrets/password', $t->ledger->password);

my $seed = $ENV{TEST_NGINX_SEED} || time;
srand $seed;
diag("TEST_NGINX_SEED=$seed") if $ENV{TEST_NGINX_VERBOSE};

my $conf = <<'EOC';
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
    cdm_stop_policy org { include %%TESTDIR%%/rules.conf; }
    server {
        listen 127.0.0.1:%%PORT%%;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop huawei;
            cdm_stop_enforce org;
            cdm_stop_insecure_upstream on;
            cdm_stop_audit %%TESTDIR%%/audit.jsonl;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

# All that a caller can be with regard to the rules below: named values, one
# that no rule names, none, and one that no pattern can be told of.

my %universe = (
    user => [undef, 'ab', 'ac', 'bc', 'zz', "ab\n"],
    job  => ['ab', 'ac', 'bc', 'zz'],
    role => [[], ['ab'], ['ac'], ['ab', 'bc'], ['ac', 'zz'], ["ab\n"]],
    addr => [undef, [10, 0, 0, 1], [10, 1, 0, 1], [10, 1, 2, 3],
             [192, 0, 2, 1]],
    if   => [undef, 0, 1],
);
my @facts = sort keys %universe;

sub one_of { return $_[rand @_] }

sub condition {
    my $fact = one_of(@facts);
    my %c = (fact => $fact, negated => rand() < 0.3);

    if ($fact eq 'if') {
        $c{values} = ['$arg_a'];

    } elsif ($fact eq 'addr') {
        $c{values} = [map { one_of(qw(10.0.0.0/8 10.1.0.0/16 10.1.2.0/24
            10.1.2.3 192.0.2.0/24 0.0.0.0/0)) } 1 .. 1 + rand 2];

    } elsif (rand() < 0.4) {
        $c{pattern} = one_of('^a.*$', '^.c$', '^ab$');

    } else {
        $c{values} = [map { one_of(qw(ab ac bc)) } 1 .. 1 + rand 3];
    }

    return \%c;
}

sub text {
    my ($rule) = @_;

    return join(' ', $rule->{deny} ? 'deny' : 'allow', $rule->{name}, map {
        ($_->{negated} ? '!' : '') . "$_->{fact}="
            . ($_->{pattern} ? "~$_->{pattern}" : join ',', @{ $_->{values} })
    } @{ $rule->{conditions} }) . ";\n";
}


# 1, 0, undef for what the request lacks, -1 for what cannot be told

sub in_range {
    my ($addr, $range) = @_;

    my ($net, $bits) = split m{/}, $range;
    $bits //= 32;
    my ($is, $of) = map { unpack 'N', pack 'C4', @$_ }
        $addr, [split /\./, $net];

    return $bits == 0 || $is >> (32 - $bits) == $of >> (32 - $bits);
}

sub of_value {
    my ($c, $value) = @_;

    return -1 if $c->{pattern} && $value =~ /\n\z/;
    return $value =~ /$c->{pattern}/ ? 1 : 0 if $c->{pattern};
    return (grep { $_ eq $value } @{ $c->{values} }) ? 1 : 0;
}

sub told {
    my ($c, $value) = @_;

    return undef if !defined $value;
    return $value ? 1 : 0 if $c->{fact} eq 'if';

    if ($c->{fact} eq 'addr') {
        return (grep { in_range($value, $_) } @{ $c->{values} }) ? 1 : 0;
    }

    return of_value($c, $value) if $c->{fact} ne 'role';
    return undef if !@$value;

    my %is = map { of_value($c, $_) => 1 } @$value;
    return $is{1} ? 1 : $is{-1} ? -1 : 0;
}

sub holds {
    my ($rule, $caller) = @_;

    for my $c (@{ $rule->{conditions} }) {
        my $is = told($c, $caller->{ $c->{fact} });

        my $holds = !defined $is ? $c->{negated} && $rule->{deny}
            : $is == -1 ? $rule->{deny}
            : $c->{negated} ? !$is : $is;

        return 0 if !$holds;
    }

    return 1;
}

my @callers = ({});

for my $fact (@facts) {
    @callers = map { my $value = $_; map { { %$_, $fact => $value } } @callers }
        @{ $universe{$fact} };
}


my ($told, @wrong) = (0);

for (1 .. $RUNS) {
    my @rules = map {
        { name => "r$_", deny => rand() < 0.5,
          conditions => [map { condition() } 1 .. 1 + rand 2.5] };
    } 1 .. 12;
    my %rule = map { $_->{name} => $_ } @rules;

    $t->write('rules.conf', join '', map { text($_) } @rules);
    my ($exit, $said) = $t->nginx_t($conf);
    $exit and die $said;

    while ($said =~ /rule "(r\d+)" never matches: "(r\d+)"/g) {
        my ($later, $earlier) = @rule{$1, $2};

        $told++;
        push @wrong, text($earlier) . text($later)
            if grep { holds($later, $_) && !holds($earlier, $_) } @callers;
    }
}

is(join("\n", @wrong), '', "C08 what is told of $told pairs is true of each of "
    . @callers . ' callers');
cmp_ok($told, '>', $RUNS / 4, 'C08 enough pairs were told');

$t->allow_log(qr/./);
$t->done;
