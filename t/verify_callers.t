#!/usr/bin/perl

# A thousand callers at once, each with a token of its own, and a worker killed
# now and then: nobody gets another's identity or token, in answers, at CDM and
# in records.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $CALLERS = $ENV{TEST_NGINX_CALLERS} || 1000;
my $ROUNDS = 4;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $config = <<'EOC';
%%GLOBALS%%
worker_processes 4;
events { worker_connections 4096; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:4m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        verify_cache   2s;
    }
    server {
        listen 127.0.0.1:%%PORT%% backlog=4096;
        listen 127.0.0.1:%%PORT_h2%% http2;
        keepalive_requests 5000;
        large_client_header_buffers 4 40k;
        location /v1.1/ {
            cdm_stop                   huawei;
            cdm_stop_inject            off;
            cdm_stop_wait              30s;
            cdm_stop_audit             %%TESTDIR%%/audit.jsonl;
            cdm_stop_insecure_upstream on;
            add_header                 X-Principal $cdm_stop_principal always;
            add_header                 X-Job $cdm_stop_job_name always;
            proxy_pass                 http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

my $http2 = $t->has('--with-http_v2_module');
$config =~ s/^.*\bhttp2;\n//m if !$http2;

$t->config($config);
$t->start;

# A third of them are of another project, or have a token that is none.

my (%caller, %of_token);

for my $n (1 .. $CALLERS) {
    my $project = sprintf '%032x', $n % 7;
    my $kind = $n % 6 == 0 ? 'foreign' : $n % 6 == 3 ? 'bad' : 'good';
    my $token = $kind eq 'bad'
        ? $t->ledger->token(300 + $n % 50, register => 0)
        : $iam->add_token(user => "u$n", domain => 'd' . $n % 3,
            roles => ["r$n"], size => 300 + $n % 50,
            project => $kind eq 'foreign' ? 'f' x 32 : $project);

    $caller{$n} = { n => $n, project => $project, kind => $kind,
        token => $token, principal => "u$n\@d" . $n % 3 };
    $of_token{$token} = $n;
}

my %status = (good => 200, foreign => 403, bad => 401);
my ($lost, $wrong, $served) = (0, 0, 0);

for my $round (1 .. $ROUNDS) {
    my @order = sort { rand() <=> 0.5 } keys %caller;
    my @h = map {
        $t->start_stop(job => "j$_", project => $caller{$_}{project},
            headers => ['X-Auth-Token' => $caller{$_}{token}])
    } @order;

    if ($round > 1) {
        my @pids = $t->worker_pids;
        $t->kill_worker($pids[rand @pids]);
    }

    my @r = $t->finish(@h);

    for my $i (0 .. $#order) {
        my ($c, $r) = ($caller{$order[$i]}, $r[$i]);

        if (!$r) {
            $lost++;
            next;
        }

        my $principal = $c->{kind} eq 'bad' ? '' : $c->{principal};
        my $right = $r->{status} == $status{$c->{kind}}
            && ($r->header('X-Principal') // '') eq $principal
            && ($r->header('X-Job') // '') eq "j$c->{n}";

        $right ? $served++ : $wrong++;
        diag("$c->{kind} u$c->{n}: $r->{status}, "
            . ($r->header('X-Principal') // '-')) if !$right && $wrong < 5;
    }

    @{$t->{answers}} = ();
    $t->wait_for(sub { $t->worker_pids == 4 }, what => 'four workers');
}

is($wrong, 0, "K09 $CALLERS callers, $ROUNDS times: each its own answer");
cmp_ok($served, '>', $CALLERS * $ROUNDS / 2, 'K09 most are answered');
cmp_ok($lost, '<', $CALLERS * $ROUNDS / 2, 'K09 or lost with a worker');


# a hundred of them on one connection

SKIP: {
    skip 'nginx has no HTTP/2', 1 if !$http2;

    my @few = grep { $caller{$_} } 1 .. 100;
    my $h2 = $t->h2(port => $t->port('h2'));
    my @r = $h2->collect(map {
        $h2->request(headers => [$t->h2_stop_headers(job => "j$_",
            project => $caller{$_}{project},
            headers => ['X-Auth-Token' => $caller{$_}{token}])])
    } @few);
    my @wrong = grep {
        my ($c, $r) = ($caller{$few[$_]}, $r[$_]);
        my $principal = $c->{kind} eq 'bad' ? '' : $c->{principal};
        $r->{status} != $status{$c->{kind}}
            || ($r->header('X-Principal') // '') ne $principal
            || ($r->header('X-Job') // '') ne "j$c->{n}";
    } 0 .. $#few;

    is("@wrong", '', 'K09 100 callers on one HTTP/2 connection');
}


# at CDM

my @stops = $cdm->stops;
my @mixed = grep {
    my ($n) = $_->{target} =~ m{/job/j(\d+)/stop};
    my @tokens = $_->all('X-Auth-Token');
    @tokens != 1 || ($of_token{$tokens[0]} // 0) != $n
        || $caller{$n}{kind} ne 'good'
} @stops;

is(scalar @mixed, 0, 'K09 CDM: each job with the token of its caller');


# in records

my (%mixed, %seen, %fingerprint);

for my $record ($t->records('audit.jsonl')) {
    my ($n) = ($record->{job_name} // '') =~ /\Aj(\d+)\z/;
    my $c = $caller{$n // 0} or next;
    my $known = exists $record->{user};

    $seen{"$c->{kind} $record->{stage}"}++;
    $mixed{stage}++ if ($record->{stage} eq 'refused') == ($c->{kind} eq 'good')
        && ($record->{status} // 0) != 499;
    $mixed{project}++ if $record->{project_id} ne $c->{project};
    $mixed{bad}++ if $known && $c->{kind} eq 'bad';

    if ($known) {
        $mixed{principal}++ if $record->{principal} ne $c->{principal};
        $mixed{user}++ if $record->{user}{name} ne "u$n"
            || $record->{user}{domain} ne 'd' . $n % 3;
        $mixed{roles}++ if "@{$record->{roles}}" ne "r$n";
    }

    if (my $fp = $record->{client_token}) {
        $mixed{fingerprint}++ if ($fingerprint{$fp} //= $n) != $n;
    }
}

is_deeply(\%mixed, {}, 'K09 records: nobody is mixed up');
is(join(', ', sort keys %seen), 'bad refused, foreign refused, good intent, '
    . 'good outcome', 'K09 records of all kinds');

my %asked;
$asked{$of_token{$_->header('X-Subject-Token')} // 0}++ for $iam->gets;
is(scalar keys %asked, $CALLERS, 'K09 IAM was asked about all of them');
is(scalar(grep { $_ > 2 * $ROUNDS } values %asked), 0, 'K09 but not too often');
is(scalar(grep { $_->header('X-Auth-Token') ne $_->header('X-Subject-Token') }
    $iam->gets), 0, 'K09 and about each by itself');

$t->done;
