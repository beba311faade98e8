#!/usr/bin/perl

# $cdm_stop_* in each place where variables are used: log_format, map,
# limit_req_zone, if, add_header, from the first phase to the last, of stops
# and of requests that are none.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam(life => 8);
my $cdm = $t->cdm;

my @names = qw(
    cdm_stop cdm_stop_project_id cdm_stop_cluster_id cdm_stop_job_name
    cdm_stop_principal cdm_stop_user cdm_stop_domain cdm_stop_decision
    cdm_stop_rule cdm_stop_error_code cdm_stop_verdict cdm_stop_token_status
    cdm_stop_verify_status cdm_stop_attempts cdm_stop_wait_time
    cdm_stop_request_id
);
my $all = join ' ', map { qq('"$_":"\$$_",') } @names;
my $maps = join "\n", map {
    my $n = $names[$_];
    qq(map \$$n \$mapped_$n { "" none; default some; })
} 0 .. $#names;
my $mapped = join ' ', map { qq('"$_":"\$mapped_$_",') } @names;
my $sets = join "\n", map { qq(set \$early_$_ "\$$_";) } @names;
my $early = join ' ', map { qq('"$_":"\$early_$_",') } @names;

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 1;
events { worker_connections 512; }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 4 40k;
    variables_hash_max_size 4096;
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        method         password;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
        refresh_ahead  50%;
        margin         1s;
    }
    cdm_stop_policy org {
        deny   prod  job=~^prod;
        allow  rest  job=~.;
    }

    # the log phase, and the whole of it
    log_format late   escape=json '{' $all '"end":"1"}';
    log_format maps   escape=json '{' $mapped '"end":"1"}';
    log_format early  escape=json '{' $early '"end":"1"}';
    $maps

    limit_req_zone \$cdm_stop_job_name zone=job:1m rate=1r/m;
    limit_req_zone \$cdm_stop_rule\$cdm_stop_verdict zone=none:1m rate=1r/m;

    server {
        listen 127.0.0.1:%%PORT%%;
        access_log %%TESTDIR%%/late.log late;
        access_log %%TESTDIR%%/maps.log maps;
        access_log %%TESTDIR%%/early.log early;

        cdm_stop                    huawei;
        cdm_stop_verify             optional;
        cdm_stop_anonymous          on;
        cdm_stop_enforce            org;
        cdm_stop_insecure_upstream  on;
        cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

        # of the server, before there is a location
        $sets
        location / {
            add_header X-Verdict \$cdm_stop_verdict always;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/33333333333333333333333333333333/ {
            limit_req zone=job;
            limit_req zone=none;
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /v1.1/44444444444444444444444444444444/ {
            if (\$cdm_stop_job_name = "no") { return 409; }
            proxy_pass http://127.0.0.1:%%CDM_PORT%%;
        }
        location /unguarded/ { cdm_stop off; return 204; }
    }
}
EOC

$t->start;

my %read = map { $_ => 0 } qw(late maps early);

sub logged {
    my ($file) = @_;

    my @lines = $t->wait_for(sub {
        my @all = split /\n/, -e $t->path("$file.log") ? $t->read("$file.log")
            : '';
        @all > $read{$file} && [@all];
    }, what => "a line of $file.log");
    my $line = $lines[0][$read{$file}++];

    return JSON::PP->new->utf8->decode($line);
}

sub log_is {
    my ($name, %want) = @_;

    my ($late, $maps, $early) = map { logged($_) } qw(late maps early);
    my $id = delete $want{id} // 1;

    for my $variable (@names) {
        (my $short = $variable) =~ s/^cdm_stop_//;

        if ($short eq 'request_id' || $short eq 'wait_time') {
            my $re = $short eq 'request_id' ? qr/\A[0-9a-f]{32}\z/
                : qr/\A\d+\.\d{3}\z/;
            if ($id) {
                like($late->{$variable}, $re, "$name: $variable");
            } else {
                is($late->{$variable}, '', "$name: no $variable");
            }
            next;
        }

        is($late->{$variable}, $want{$short} // '', "$name: $variable");
        is($maps->{$variable}, $late->{$variable} eq '' ? 'none' : 'some',
           "$name: $variable in a map");
    }

    # in the first phase the parts of the target are there, and nothing else
    for my $variable (@names) {
        (my $short = $variable) =~ s/^cdm_stop_//;
        my $there = $short =~ /\A(?:cdm_stop|project_id|cluster_id|job_name)\z/;

        is($early->{$variable}, $there ? $late->{$variable} : '',
           "$name: $variable in the first phase");
    }

    return;
}

my %target = (
    cdm_stop => 1, project_id => CdmStop::Test::Traffic::PROJECT,
    cluster_id => CdmStop::Test::Traffic::CLUSTER
);


subtest 'a stop' => sub {
    my $r = $t->put_stop(job => 'j%22%5B%E4%BD%A0');
    is($r->{status}, 200, 'served');
    is($r->header('X-Verdict'), 'stopped', 'the verdict in a header');
    log_is('a stop', %target, job_name => 'j"[你', decision => 'allow',
           rule => 'rest', verdict => 'stopped', token_status => 'WAIT',
           verify_status => 'NONE', attempts => 1);

    $t->put_stop(job => 'j');
    log_is('the next one', %target, job_name => 'j', decision => 'allow',
           rule => 'rest', verdict => 'stopped', token_status => 'HIT',
           verify_status => 'NONE', attempts => 1);
};


subtest 'a stop of a verified caller that is denied' => sub {
    my $token = $iam->add_token(user => 'bob', domain => 'org', roles => [],
                                project => $target{project_id});
    $t->put_stop(job => 'prod', headers => ['X-Auth-Token' => $token]);
    log_is('denied', %target, job_name => 'prod', principal => 'bob@org',
           user => 'bob', domain => 'org', decision => 'deny', rule => 'prod',
           error_code => 'CDMSTOP.0201', verdict => 'not_sent',
           token_status => 'NONE', verify_status => 'WAIT', attempts => 0);
};


subtest 'requests that are no stop' => sub {
    for my $target ('/v1.1/x', '/unguarded/x',
                    '/unguarded' . $t->stop_target, '/')
    {
        $t->request(method => 'GET', target => $target);
        log_is($target, id => 0);
    }
};


subtest 'a stop that is not spelled right' => sub {
    is($t->request(method => 'PUT', target => $t->stop_target . '?x')
           ->{status}, 400, 'refused');
    my ($late, undef, $early) = map { logged($_) } qw(late maps early);
    is($late->{cdm_stop_error_code}, 'CDMSTOP.0001', 'its code');
    is("$late->{cdm_stop}$early->{cdm_stop}", '', 'it is none');
    is($early->{cdm_stop_job_name}, '', 'and has no parts');
};


subtest 'limit_req by a part of the target' => sub {
    my @put = (project => '3' x 32);

    is($t->put_stop(@put, job => 'a')->{status}, 200, 'the first of a');
    is($t->put_stop(@put, job => 'a')->{status}, 503, 'the second of a');
    is($t->put_stop(@put, job => '%61')->{status}, 503, 'in another spelling');
    is($t->put_stop(@put, job => 'b')->{status}, 200, 'the first of b');

    my @refused = grep { $_->{stage} eq 'refused' && ($_->{job_name} // '')
        eq 'a' } $t->records('audit.jsonl');
    is(scalar @refused, 2, 'what nginx refused is recorded');
    logged($_) for (qw(late maps early)) x 4;
};


subtest 'if' => sub {
    my @put = (project => '4' x 32);

    is($t->put_stop(@put, job => 'no')->{status}, 409, 'by its name');
    is($t->put_stop(@put, job => 'yes')->{status}, 200, 'another');
    logged($_) for (qw(late maps early)) x 2;
};


# the token lives for 8 seconds, and is to be renewed after half of them

subtest 'STALE: the token serves, but its renewal fails' => sub {
    $iam->refuse;

    my @put = (job => 'stale');
    my $status = $t->wait_for(sub {
        my $r = $t->put_stop(@put);
        my $status = logged('late')->{cdm_stop_token_status};
        logged($_) for qw(maps early);
        $r->{status} == 200 && $status eq 'HIT' ? undef : "$r->{status} $status"
    }, what => 'a renewal that fails');
    is($status, '200 STALE', 'it is told');

    $iam->resume;
    $t->wait_for(sub {
        $t->put_stop(@put);
        my $status = logged('late')->{cdm_stop_token_status};
        logged($_) for qw(maps early);
        $status eq 'HIT';
    }, what => 'a renewal');
    pass('and no more when it is renewed');
};

$t->allow_log(qr/limiting requests|Connection refused|IAM gave no token/);
$t->done;
