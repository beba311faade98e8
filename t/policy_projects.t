#!/usr/bin/perl

# An identity without "projects" asks for tokens of the projects that the
# policy names, and of any, with a warning, where that is not clear.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my @project = map { sprintf '%032x', $_ } 1 .. 3;

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
    }
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    cdm_stop_policy one {
        deny   frozen  job=~^prod_;
        allow  some    project=%%TWO%%,%%ONE%% job=~^etl_;
        allow  other   project=%%ONE%% project=~^0;
    }
    cdm_stop_policy two { allow all project=%%ONE%%; MORE }

    server {
        listen 127.0.0.1:%%PORT%%;
        cdm_stop huawei;
        cdm_stop_enforce one;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; PLACE }
        location /two/ {
            cdm_stop_enforce two;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$config =~ s/%%ONE%%/$project[0]/g;
$config =~ s/%%TWO%%/$project[1]/g;

# The configuration with a rule more, and something more in a location.

sub with {
    my ($more, $place) = @_;

    return $config =~ s/MORE/$more/r =~ s/PLACE/$place/r;
}

my $warning = qr/\[warn\] .*identity "huawei" asks IAM for a token of any /;

for my $case (
    ['each rule that allows names projects', 0, '', ''],
    ['a rule that denies need not', 0, 'deny rest;', ''],
    ['a rule that allows and names none', 1, 'allow more job=x;', ''],
    ['a rule with a pattern', 1, 'allow more project=~^0;', ''],
    ['a rule with what it is not', 1, "allow more !project=$project[0];", ''],
    ['a place without a policy', 1, '', 'cdm_stop_enforce off;'],
    ['a dry run', 1, '', 'cdm_stop_dry_run on;'],
) {
    my ($name, $warned, @with) = @$case;
    my ($exit, $said) = $t->nginx_t(with(@with));

    is($exit, 0, "C01 $name: accepted") or diag($said);
    is($said =~ $warning ? 1 : 0, $warned,
       "C01 $name: " . ($warned ? 'a warning' : 'no warning'));
}

$t->config(with('', ''));
$t->start;

is($t->put_stop(project => $_, job => 'etl_x')->{status}, 200,
   'K13 a project of the policy') for @project[0, 1];
is($t->put_stop(project => $project[2], job => 'etl_x')->{status}, 403,
   'K13 another project');
is(scalar $iam->posts, 2, 'K13 nothing is asked for it');

my $late = "cdm_stop_policy one { allow late project=$project[2] job=late;";
$t->write('nginx.conf', $t->expand(
    with('', '') =~ s/cdm_stop_policy one \{/$late/r));
$t->reload;
is($t->put_stop(project => $project[2], job => 'late')->{status}, 200,
   'K13 a project that came to the policy by a reload');

$t->done;
