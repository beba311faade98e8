#!/usr/bin/perl

# Rules decide who may stop what: conditions, lists, negation, patterns,
# addresses and variables; the first match wins, no match denies; and nobody
# gets in by lacking something.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;
my $project = CdmStop::Test::Traffic::PROJECT();
my $cluster = CdmStop::Test::Traffic::CLUSTER();
my $other = '0' x 32;

my %policy = (
    first => "deny freeze job=~^prod_ !principal=~^oncall-[a-z]+\@acme\$;
              allow etl user=x; allow all-etl job=~^etl_;
              allow oncall principal=~^oncall-[a-z]+\@acme\$;",
    list => "allow some project=$project,$other principal=ann,bob;
             deny bob principal=bob; allow any-job job=a,b,c;",
    plain => "allow user user=x; allow domain domain=x; allow role role=x;
              allow name principal=x; allow addr addr=192.0.2.0/24;",
    negated => "allow user !user=x; allow domain !domain=x;
                allow role !role=x; allow role2 !role=~x;
                allow var !if=\$arg_x;",
    refuse => "deny role !role=x; allow rest;",
    addr => "allow four addr=192.0.2.0/24,127.0.0.0/8;",
    six => "deny six addr=::/0; allow rest;",
    notaddr => "deny out !addr=127.0.0.1; allow rest;",
    var => 'deny frozen if=$frozen; allow busy !if=$empty if=$one;',
    regex => 'deny hostile job=~(a+)+$; allow rest;',
    regex_allow => 'allow hostile job=~^(a+)+$; ',
    regex_not => 'allow hostile !job=~^(a+)+$; ',
    caseless => 'allow ann principal=~*^ANN$;',
    clusters => "allow c cluster=$cluster !job=x;",
);

my $servers = join '', map { <<"EOC" } sort keys %policy;
    cdm_stop_policy $_ { $policy{$_} }
    server {
        listen 127.0.0.1:%%PORT_$_%%;
        cdm_stop_enforce $_;
        location / { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
EOC

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 2;
events { worker_connections 1024; }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop huawei;
    cdm_stop_verify off;
    cdm_stop_anonymous on;
    cdm_stop_principal \$http_x_who;
    cdm_stop_insecure_upstream on;
    cdm_stop_audit %%TESTDIR%%/audit.jsonl;
    map \$http_x_frozen \$frozen { default 0; yes 1; }
    map \$http_x_frozen \$empty { default ""; }
    map \$http_x_frozen \$one { default 1; }
    log_format trace '\$cdm_stop_request_id \$cdm_stop_decision '
                     '\$cdm_stop_rule \$cdm_stop_policy_trace';
    log_format json escape=none '\$cdm_stop_policy_trace';
    access_log %%TESTDIR%%/trace.jsonl json;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
$servers
}
EOC
$t->start;


sub cdm_requests { return $cdm->counters->{requests} }


# Asserts answer, message and record of one stop; rule '' is by default.

sub decides {
    my ($policy, $effect, $rule, $name, %arg) = @_;

    my $who = delete $arg{who};
    my @headers = @{ delete $arg{headers} // [] };
    push @headers, ['X-Who', $who] if defined $who;

    my $sent = cdm_requests();
    my $answer = $t->put_stop(port => $t->port($policy), %arg,
                              headers => \@headers);
    my $id = $answer->header('X-Request-Id');
    my $record = $t->wait_for(sub {
        my @own = grep { $_->{request_id} eq $id } $t->records('audit.jsonl');
        return $own[0];
    });

    my %seen = (
        status => $answer->{status}, decision => $record->{decision},
        rule => $record->{rule} // '', enforced => $record->{enforced} ? 1 : 0,
        sent => cdm_requests() - $sent);
    my $allow = $effect eq 'allow';

    is_deeply(\%seen, {
        status => $allow ? 200 : 403, decision => $effect, rule => $rule,
        enforced => 1, sent => $allow ? 1 : 0 }, $name);

    like($answer->{body}, $rule ne ''
            ? qr/"CDMSTOP\.0201".*Rule \Q$rule\E of/
            : qr/"CDMSTOP\.0201".*denied by default/, "$name: the answer")
        if !$allow;

    return $answer;
}

decides('first', 'deny', 'freeze', 'C08 a pattern and a negated one',
        job => 'prod_x', who => 'eve');
decides('first', 'deny', 'freeze', 'C08 a deny rule holds for who has no name',
        job => 'prod_x');
decides('first', 'allow', 'oncall', 'C08 the exception of a negated one',
        job => 'prod_x', who => 'oncall-ann@acme');
decides('first', 'deny', 'freeze', 'C08 not anchored at its end',
        job => 'prod_x', who => 'oncall-ann@acme.evil');
decides('first', 'allow', 'all-etl', 'C08 a later rule', job => 'etl_x');
decides('first', 'deny', '', 'C08 no rule matches', job => 'x', who => 'eve');

decides('list', 'allow', 'some', 'C08 a list', who => 'bob', job => 'z');
decides('list', 'deny', 'bob', 'C08 the first match wins, not the index',
        who => 'bob', project => '1' x 32, job => 'a');
decides('list', 'allow', 'any-job', 'C08 a list of jobs', job => 'c');
decides('list', 'deny', '', 'C08 no part of a value', job => 'a,b');

decides('plain', 'deny', '', 'C08 plain conditions on facts that are missing');
decides('negated', 'deny', '',
        'C08 negated conditions on missing facts let nobody in');
decides('refuse', 'deny', 'role', 'C08 !role=x denies who has no roles');

decides('addr', 'allow', 'four', 'C08 an address of a list');
decides('six', 'allow', 'rest', 'C08 an IPv4 address is none of IPv6');
decides('notaddr', 'allow', 'rest', 'C08 an address, negated',
        headers => [['X-Forwarded-For', '192.0.2.1'],
                    ['X-Real-IP', '192.0.2.1']]);

decides('var', 'deny', 'frozen', 'C08 a variable',
        headers => [['X-Frozen', 'yes']]);
decides('var', 'allow', 'busy', 'C08 variables that are 0, empty and 1');

decides('caseless', 'allow', 'ann', 'C08 a caseless pattern', who => 'aNn');
decides('caseless', 'deny', '', 'C08 a caseless pattern, all of it',
        who => 'anna');
decides('clusters', 'allow', 'c', 'C08 a cluster, and not a job', job => 'y');
decides('clusters', 'deny', '', 'C08 a cluster, and not this job',
        job => 'x');

subtest 'K07 decided anew for each request' => sub {
    my $client = $t->connect(port => $t->port('list'));
    my @status;

    for my $job (qw(a z a z b)) {
        $client->send(CdmStop::Http::build_request(
            method => 'PUT', keepalive => 1,
            target => $t->stop_target(job => $job, project => '1' x 32)));
        push @status, $client->response->{status};
    }

    is("@status", '200 403 200 403 200',
        'K07 another job of the same caller on the same connection');
    $client->close;
};

subtest 'Q04 patterns that backtrack' => sub {
    my $hostile = ('a' x 239) . 'b';

    decides('regex', 'deny', 'hostile', 'Q04 an engine error denies',
            job => $hostile);
    decides('regex', 'deny', 'hostile', 'Q04 a match denies', job => 'aaa');
    decides('regex', 'allow', 'rest', 'Q04 no match', job => 'b');
    decides('regex_allow', 'deny', '', 'Q04 an engine error allows nobody',
            job => $hostile);
    decides('regex_not', 'deny', '',
            'Q04 an engine error allows nobody, negated', job => $hostile);
    decides('regex_not', 'allow', 'hostile', 'Q04 negated', job => 'b');
};

subtest 'the trace of a decision' => sub {
    decides('first', 'allow', 'oncall', 'a stop', who => 'oncall-x@acme');

    my ($trace) = $t->wait_for(sub {
        open my $in, '<:raw', $t->path('trace.jsonl') or return;
        my @lines = <$in>;
        close $in;
        return @lines && $lines[-1] =~ /"oncall"/ ? $lines[-1] : undef;
    });

    is_deeply(JSON::PP::decode_json($trace), [
        { rule => 'freeze', effect => 'deny', failed => 'job=~^prod_' },
        { rule => 'etl', effect => 'allow', failed => 'user=x' },
        { rule => 'all-etl', effect => 'allow', failed => 'job=~^etl_' },
        { rule => 'oncall', effect => 'allow' },
    ], 'why each rule before did not match');
};

$t->allow_log(qr/\[warn\]/);
$t->done;
