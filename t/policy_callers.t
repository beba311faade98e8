#!/usr/bin/perl

# Who may stop what, by what IAM says of the caller: users, domains, roles and
# projects; a namesake of another domain is somebody else; and a policy that
# changes decides from the next stop on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);
my $project = CdmStop::Test::Traffic::PROJECT();
my $other = '9' x 32;

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 2;
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
        projects       any;
    }

    cdm_stop_policy org {
        deny   prod-freeze   job=~^prod_  !principal=~^oncall-[a-z]+@acme$;
        allow  etl-owners    domain=acme role=etl_operator project=%%PROJECT%%;
        allow  scheduler     user=airflow  addr=127.0.0.0/8  job=~^etl_;
        allow  oncall        principal=~^oncall-[a-z]+@acme$;
        allow  not-readers   domain=acme  user=carol,dave  !role=reader;
    }

    server {
        listen 127.0.0.1:%%PORT%%;
        large_client_header_buffers 4 40k;

        location /v1.1/ {
            cdm_stop                    huawei;
            cdm_stop_enforce            org;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            cdm_stop_insecure_upstream  on;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$config =~ s/%%PROJECT%%/$project/g;
$t->config($config);
$t->start;

my %token;

sub token {
    my ($user, $domain, $roles, $scope) = @_;

    return $token{"$user $domain @$roles $scope"} //= do {
        my $token = $iam->add_token(user => $user, domain => $domain,
            roles => $roles, project => $scope);
        $t->ledger->add("a caller's token", $token);
        $token;
    };
}

# A stop by a caller: the job, and what is decided by which rule ("allow" or
# "deny", and the rule, or "-" by default).

sub decided {
    my ($name, $user, $domain, $roles, $job, $want, %arg) = @_;

    my ($decision, $rule) = split ' ', $want;
    my $scope = $arg{project} // $project;
    my $before = $cdm->count;
    my $r = $t->put_stop(job => $job, project => $scope, headers => [
        'X-Auth-Token' => token($user, $domain, $roles, $scope)]);
    my $id = $r->header('X-Request-Id');

    my @records = grep { $_->{request_id} eq $id } $t->records('audit.jsonl');
    my $said = join ' ', map { $_ // '-' } @{$records[0]}{qw(decision rule)};

    subtest $name => sub {
        is($said, "$decision $rule", 'the record tells the rule');
        is($records[0]{principal}, $user . '@' . $domain =~ s/@/%40/gr,
           'and the principal');
        is_deeply($records[0]{roles}, $roles, 'and the roles');
        is($records[0]{user}{domain}, $domain, 'and the domain');

        if ($decision eq 'allow') {
            is($r->{status}, 200, 'served');
            is($cdm->count, $before + 1, 'CDM got it');
            is(scalar @records, 2, 'two records');

        } else {
            is($r->{status}, 403, 'refused');
            is($r->json->{error_code}, 'CDMSTOP.0201', 'with its code');
            is($r->json->{error_msg} =~ /^Rule (\S+) / ? $1 : '-', $rule,
               'the message names the rule');
            is($cdm->count, $before, 'nothing at CDM');
            is(scalar @records, 1, 'one record');
        }
    };

    return $r;
}

my @etl = (['etl_operator', 'other']);

decided('an owner', 'ann', 'acme', @etl, 'load', 'allow etl-owners');
decided('an owner, and a job that is frozen', 'ann', 'acme', @etl, 'prod_x',
        'deny prod-freeze');
decided('the role in another project', 'ann', 'acme', @etl, 'load', 'deny -',
        project => $other);
decided('another role', 'bob', 'acme', ['reader'], 'load', 'deny -');
decided('a role that begins alike', 'bob', 'acme', ['etl_operators'], 'load',
        'deny -');
decided('no role', 'bob', 'acme', [], 'load', 'deny -');
decided('a user by name', 'airflow', 'acme', [], 'etl_1', 'allow scheduler');
decided('a user by name, another job', 'airflow', 'acme', [], 'x_etl_1',
        'deny -');
decided('a role that must not be there, and is not', 'carol', 'acme', ['x'],
        'load', 'allow not-readers');
decided('and no role at all: nobody gets in by lacking something', 'carol',
        'acme', [], 'load', 'deny -');
decided('a role that must not be there, and is', 'dave', 'acme',
        ['x', 'reader'], 'load', 'deny -');

# the rule of the example says nothing of a domain: it is for airflow anywhere
decided('I10 a namesake, by a rule that names no domain', 'airflow', 'evil',
        [], 'etl_1', 'allow scheduler');
decided('I10 a namesake with the role', 'ann', 'evil', @etl, 'load', 'deny -');
decided('on call', 'oncall-x', 'acme', [], 'prod_x', 'allow oncall');
decided('I10 a namesake on call', 'oncall-x', 'evil', [], 'prod_x',
        'deny prod-freeze');
decided('I10 a domain that ends like ours', 'oncall-x', 'not@acme', [],
        'prod_x', 'deny prod-freeze');

subtest 'K07 a policy that changes decides from the next stop on' => sub {
    my $gets = $iam->gets;

    decided('before', 'ann', 'acme', @etl, 'load', 'allow etl-owners');

    $t->write('nginx.conf', $t->expand(
        $config =~ s/allow  etl-owners/deny   etl-owners/r));
    $t->reload;
    decided('after', 'ann', 'acme', @etl, 'load', 'deny etl-owners');

    $t->write('nginx.conf', $t->expand($config));
    $t->reload;
    decided('back', 'ann', 'acme', @etl, 'load', 'allow etl-owners');
    decided('another job is decided anew', 'ann', 'acme', @etl, 'prod_load',
            'deny prod-freeze');
    is(scalar $iam->gets, $gets, 'only the facts came from the cache');
};

$t->done;
