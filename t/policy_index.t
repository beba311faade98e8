#!/usr/bin/perl

# Ten thousand rules, found by an index: each decision is the one that comes
# out when the rules are simply looked at one after the other.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $RULES = $ENV{TEST_NGINX_RULES} || 10_000;
my $STOPS = $ENV{TEST_NGINX_STOPS} || 1_000;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $seed = $ENV{TEST_NGINX_SEED} || time;
srand $seed;
diag("TEST_NGINX_SEED=$seed") if $ENV{TEST_NGINX_VERBOSE};

# Few enough values that requests meet rules, and lists that overlap.

my @project = map { sprintf '%032x', $_ } 1 .. 40;
my @cluster = map { sprintf '00000000-0000-0000-0000-%012x', $_ } 1 .. 40;
my @who = map { "u$_" } 1 .. 200;
my @job = map { "job_$_" } 1 .. 400;
my @pattern = ('7$', '^job_1', '^u9', '3.$', '^u1\d', '^job_2(1|2)', '^job_39?',
               '^u12$|^u13$', '^0+2');
my %values = (project => \@project, cluster => \@cluster,
              principal => \@who, job => \@job);

sub one_of { return $_[rand @_] }

my @rules = map {
    my @conditions = map {
        my $fact = one_of(sort keys %values);
        my $pattern = rand() < 0.08;
        {
            fact => $fact, negated => rand() < 0.05, pattern => $pattern,
            values => $pattern ? [one_of(@pattern)]
                : [map { one_of(@{ $values{$fact} }) } 1 .. 1 + rand 3],
        }
    } 1 .. 3 + rand 2;
    { name => "r$_", deny => rand() < 0.5, conditions => \@conditions };
} 1 .. $RULES;

sub text {
    my ($rule) = @_;

    return join(' ', $rule->{deny} ? 'deny' : 'allow', $rule->{name}, map {
        ($_->{negated} ? '!' : '') . "$_->{fact}="
            . ($_->{pattern} ? '~' : '') . join ',', @{ $_->{values} }
    } @{ $rule->{conditions} }) . ";\n";
}

$t->write('rules.conf', join '', map { text($_) } @rules);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    keepalive_requests 100000;
    cdm_stop_zone cdm:1m;
    cdm_stop huawei;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_inject off;
    cdm_stop_principal $http_x_who;
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
    cdm_stop_policy org { include %%TESTDIR%%/rules.conf; }
    add_header X-Decided "$cdm_stop_decision $cdm_stop_rule" always;
    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop_enforce org;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC
$t->start;


# The meaning of the rules, as the reference tells it.

sub holds {
    my ($condition, $facts, $deny) = @_;

    my $value = $facts->{ $condition->{fact} };
    return $condition->{negated} && $deny if !defined $value;

    my $match = grep { $condition->{pattern} ? $value =~ /$_/ : $value eq $_ }
        @{ $condition->{values} };

    return $condition->{negated} ? !$match : $match;
}

sub decision {
    my ($facts) = @_;

    RULE:
    for my $rule (@rules) {
        for my $condition (@{ $rule->{conditions} }) {
            next RULE if !holds($condition, $facts, $rule->{deny});
        }
        return ($rule->{deny} ? 'deny' : 'allow') . " $rule->{name}";
    }

    return 'deny ';
}

my %count;
my @wrong;

while ($STOPS > 0) {
    my (@facts, @handles);

    for (1 .. 50) {
        my %facts = map { $_ => one_of(@{ $values{$_} }, 'none') }
            qw(principal job);
        $facts{$_} = one_of(@{ $values{$_} }) for qw(project cluster);
        delete $facts{principal} if rand() < 0.1;

        push @facts, \%facts;
        push @handles, $t->start_stop(
            (map { $_ => $facts{$_} } qw(project cluster job)),
            headers => [defined $facts{principal}
                        ? ['X-Who', $facts{principal}] : ()]);
    }

    my @answers = $t->finish(@handles);

    for my $n (0 .. $#facts) {
        my $is = $answers[$n]->header('X-Decided') // 'none';
        my $wanted = decision($facts[$n]);

        s/ \z// for $is, $wanted;
        push @wrong, "$is, not $wanted" if $is ne $wanted;
        $count{(split / /, $wanted)[0]}++;
        $count{late}++ if $wanted =~ /r(\d+)/ && $1 > 100;
    }

    $STOPS -= @facts;
}

is("@wrong[0 .. ($#wrong < 9 ? $#wrong : 9)]", '',
    "C08 each decision over $RULES rules is that of one after the other");
cmp_ok($count{$_} // 0, '>', 20, "enough of them: $_") for qw(allow deny late);

$t->allow_log(qr/\[warn\]/);
$t->done;
