#!/usr/bin/perl

# Each site of docs/examples, as it is in the file but for ports, paths, names
# and addresses: it starts, without a warning that it does not tell of, lets
# those stop jobs whom it says it does, and nobody else. Those with a balancer
# before them are in t/examples_balancer.t.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use CdmStop::Http;
use CdmStop::Process;
use CdmStop::Standin;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my %key = map { $_ => $t->ledger->key(20) } qw(access secret);

$t->write_secret("secrets/$_-key", "$key{$_}\n") for sort keys %key;

my $iam = $t->iam(tls => 'good', agencies => { customer => ['cdm-stop'] },
    access_keys => { $key{access} => {
        secret => $key{secret}, user => 'robot', domain => 'acme' } });
my $cdm = $t->cdm(tls => 'good');
my $certs = $t->path('certs');

my $oidc = $t->standin('CdmStop::Standin', port => 'oidc', name => 'oidc');

$iam->set(users => { map { $_ => { 'cdm-gateway' => $t->{password} } }
    qw(acme partner) });

my $PASSWORD = $t->ledger->password;
my $TOKEN = token(user => 'alice', roles => ['etl_operator']);
my $READER = token(user => 'rita', roles => ['reader']);
my $UNKNOWN = $t->ledger->token(300, register => 0);

my %FINGERPRINT = map { $_->[0] => client_certificate(@$_) } (
    ['airflow', '/O=acme/OU=data/CN=airflow', 'ca'],
    ['ann', '/O=acme/OU=oncall/CN=ann', 'ca'],
    ['guest', '/O=acme/OU=guests/CN=guest', 'ca'],
    ['forged', '/O=acme/OU=data/CN=airflow', 'other-ca'],
    ['longer', '/O=acme/OU=oncall/CN=x,OU=oncall/OU=guests', 'ca'],
);

$t->write('stops.htpasswd', join '', map {
    my (undef, $hash) = CdmStop::Process::capture('openssl', 'passwd', '-apr1',
        '-stdin', { stdin => "$PASSWORD\n" });
    "$_:$hash"
} qw(ann eve));

# A token of IAM for a caller.

sub token {
    my (%opt) = @_;

    my $token = $iam->add_token(domain => 'acme',
        project => CdmStop::Test::Traffic::PROJECT, %opt);
    $t->ledger->add("a caller's token", $token);

    return $token;
}

# A certificate of a client, and its fingerprint.

sub client_certificate {
    my ($name, $subject, $ca) = @_;

    my $of = $t->client_cert($name, $subject, $ca);
    my ($exit, $said) = CdmStop::Process::capture('openssl',
        qw(x509 -noout -fingerprint -sha1 -in), $of->{cert});
    die "openssl x509: $said" if $exit;

    my ($fingerprint) = $said =~ /=([0-9A-F:]+)/;
    return lc $fingerprint =~ tr/://dr;
}

# The configuration of an example, with what has to be other here.

sub configuration {
    my ($name) = @_;

    my $conf = $t->read($t->root . "/docs/examples/$name.conf");

    my @other = (
        [qr/listen 443 /, 'listen 127.0.0.1:%%PORT%% '],
        [qr/listen 127\.0\.0\.1:8080/, 'listen 127.0.0.1:%%PORT%%'],
        [qr/https:\/\/iam\.[\w.-]+/, 'https://localhost:%%IAM_PORT%%'],
        [qr/https:\/\/cdm\.[\w.-]+/, 'https://localhost:%%CDM_PORT%%'],
        [qr/127\.0\.0\.1:4180/, '127.0.0.1:%%PORT_oidc%%'],
        [qr/\/etc\/ssl\/certs\/ca-certificates\.crt/, "$certs/ca.crt"],
        [qr/\/etc\/nginx\/tls\/gateway/, "$certs/good"],
        [qr/\/etc\/nginx\/tls\/clients-ca\.crt/, "$certs/ca.crt"],
        [qr/\/etc\/nginx\/secrets\/cdm-gateway/,
            '%%TESTDIR%%/secrets/password'],
        [qr/\/etc\/nginx\/secrets\//, '%%TESTDIR%%/secrets/'],
        [qr/\/etc\/nginx\/close-of-books/, '%%TESTDIR%%/close-of-books'],
        [qr/\/etc\/nginx\/stops\.htpasswd/, '%%TESTDIR%%/stops.htpasswd'],
        [qr/\/var\/log\/nginx\/cdm_stop\.jsonl/, '%%TESTDIR%%/audit.jsonl'],
        [qr/10\.20\.0\.0\/16/, '127.0.0.1/32'],
        [qr/0123456789abcdef0123456789abcdef01234567/, $FINGERPRINT{airflow}],
    );

    for my $pair (@other) {
        my ($what, $instead) = @$pair;
        $conf =~ s/$what/$instead/g;
    }

    return <<"EOC";
%%GLOBALS%%
worker_processes 2;
events { }
http {
    %%HTTP_GLOBALS%%
    $conf
}
EOC
}

# Starts an example and runs the code; warnings that the text tells of.

sub example {
    my ($name, $warnings, $code) = @_;

    my $conf = configuration($name);
    my $done = 0;

    subtest $name => sub {
        my ($exit, $said) = $t->nginx_t($conf);
        is($exit, 0, 'nginx -t') or diag($said);
        is_deeply([grep { !/$warnings/ } $said =~ /^.*\[warn\].*$/mg], [],
            'no other warning');

        unlink $t->path('audit.jsonl');
        $t->config($conf);
        $t->start;
        $code->();
        $t->stop;
        $done = 1;
    };

    return $done;
}

# Sends a stop with curl: the answer, and the records of it. Arguments: job,
# client (a certificate), user, token, header, from (an address).

sub stop {
    my (%arg) = @_;

    my @curl = ('-s', '-i', '-X', 'PUT', '--cacert', "$certs/ca.crt",
        '--http1.1');
    push @curl, '--cert', "$certs/client-$arg{client}.crt",
        '--key', "$certs/client-$arg{client}.key" if $arg{client};
    push @curl, '-u', $arg{user} if $arg{user};
    push @curl, '-H', "X-Auth-Token: $arg{token}" if $arg{token};
    push @curl, map { ('-H', $_) } @{ $arg{header} // [] };
    push @curl, '--interface', $arg{from} if $arg{from};

    my $from = -s $t->path('audit.jsonl') // 0;
    my $before = $cdm->requests;
    my (undef, $output) = $t->curl(@curl,
        ($arg{scheme} // 'https') . '://127.0.0.1:' . $t->port
            . $t->stop_target(%arg));
    my ($status) = $output =~ m{\AHTTP/1\.1 (\d+)};
    my ($code) = $output =~ /"error_code":"CDMSTOP\.(\d+)"/;

    # the record of a refusal of nginx comes after the answer
    $t->wait_for(sub { -s $t->path('audit.jsonl') > $from },
        what => "a record: $output");
    my @records = grep { length } split /\n/,
        substr $t->read('audit.jsonl'), $from;
    my @sent = $cdm->requests;

    return {
        status => $status, code => $code,
        retry => $output =~ /^Retry-After: (\d+)/mi ? $1 : undef,
        record => JSON::PP->new->utf8->decode($records[-1]),
        sent => [@sent[$before .. $#sent]]
    };
}

# A stop that reaches CDM with the gateway's token.

sub may {
    my ($what, $principal, $rule, %arg) = @_;

    my $r = stop(job => 'etl_1', %arg);

    is($r->{status}, 200, "$what may");

    my @sent = map { $_->all('X-Auth-Token') } @{ $r->{sent} };
    my ($token) = grep { @sent == 1 && $_->{token} eq $sent[0] } $iam->tokens;
    like($token->{user}, qr{\A(?:cdm-gateway|robot|customer/cdm-stop)\z},
        "$what: with the gateway's token");
    is($token->{project}, $arg{project} // CdmStop::Test::Traffic::PROJECT,
        "$what: of the project");
    is_deeply([@{ $r->{record} }{qw(stage principal rule)}],
        ['outcome', $principal, $rule], "$what: the record");

    return $r;
}

# One that does not; code is undef where nginx itself refused it.

sub may_not {
    my ($what, $status, $code, $principal, %arg) = @_;

    my $r = stop(job => 'etl_1', %arg);

    is_deeply([@$r{qw(status code)}], [$status, $code], "$what may not");
    is(scalar @{ $r->{sent} }, 0, "$what: nothing at CDM");
    is_deeply([@{ $r->{record} }{qw(stage status principal)}],
        ['refused', $status, $principal], "$what: the record");

    return $r;
}


my %tested = map { $_ => 'in t/examples_balancer.t' }
    qw(load-balancer ha-pair);

$tested{$_->[0]} = example(@$_) for (

    ['public-cloud', qr/\A\z/, sub {
        my @why = (header => ['X-Stop-Reason: OPS-17 disk full']);

        my $r = may('the right role', 'alice@acme', 'operators', @why,
            token => $TOKEN);
        is($r->{record}{reason}, 'OPS-17 disk full', 'its reason');
        is_deeply($r->{record}{roles}, ['etl_operator'], 'its roles');

        may_not('another role', 403, '0201', 'rita@acme', @why,
            token => $READER);
        may_not('a frozen job', 403, '0201', 'alice@acme', @why,
            token => $TOKEN, job => 'prod_1');
        may_not('without a reason', 400, '0004', 'alice@acme',
            token => $TOKEN);
        may_not('without a token', 401, '0101', undef, @why);
        may_not('a token that IAM does not know', 401, '0102', undef, @why,
            token => $UNKNOWN);

        my $late;

        for (1 .. 40) {
            $late = stop(job => 'etl_1', @why, token => $TOKEN);
            last if $late->{status} != 200;
        }

        is_deeply([@$late{qw(status code)}], [429, '0205'], 'too many');
        cmp_ok($late->{retry}, '>=', 1, 'and when there is room again');
    }],

    ['ak-sk', qr/\A\z/, sub {
        may('the right role', 'alice@acme', 'operators', token => $TOKEN);
        is(($iam->tokens)[-1]{user}, 'robot', 'the user of the key');
        may_not('another role', 403, '0201', 'rita@acme', token => $READER);
        may_not('without a token', 401, '0101', undef);
    }],

    ['agency', qr/\A\z/, sub {
        may('one on call', 'CN=ann,OU=oncall,O=acme', 'oncall',
            client => 'ann');

        my ($assumed) = grep { $_->{assumed_by} } $iam->tokens;
        is_deeply([$assumed->{domain}, $assumed->{assumed_by}{domain}],
            [qw(customer partner)], 'the agency of the customer');
        may_not('another certificate', 403, '0201',
            'CN=airflow,OU=data,O=acme', client => 'airflow');
        my $r = may_not('another project', 403, '0203',
            'CN=ann,OU=oncall,O=acme', client => 'ann', project => '4' x 32);
        is($r->{record}{project_id}, '4' x 32, 'and which');
    }],

    ['teams', qr/\A\z/, sub {
        my ($one, $two, $three) = map { "${_}551c7f6c808414d8e9f3c514a170f2e" }
            1 .. 3;
        my $dwh = token(user => 'wang', roles => ['dwh_operator'],
            project => $two);
        my $third = token(user => 'wang', roles => ['dwh_operator'],
            project => $three);
        my $airflow = token(user => 'airflow', roles => []);
        my $late = token(user => 'olga',
            roles => [qw(etl_operator cdm_oncall)]);

        may('etl', 'alice@acme', 'etl', token => $TOKEN);
        may_not('etl, another job', 403, '0201', 'alice@acme',
            token => $TOKEN, job => 'dwh_1');
        may('the warehouse', 'wang@acme', 'warehouse', token => $dwh,
            project => $two);
        may('the warehouse, its other project', 'wang@acme', 'warehouse',
            token => $third, project => $three);
        may_not('the warehouse, at night', 403, '0201', 'wang@acme',
            token => $dwh, project => $two, job => 'night_1');
        may('the scheduler', 'airflow@acme', 'scheduler', token => $airflow);
        may_not('the scheduler from elsewhere', 403, '0201', 'airflow@acme',
            token => $airflow, from => '127.0.0.2');

        $t->write('close-of-books', '');
        my $r = may_not('etl while the books are closed', 403, '0201',
            'alice@acme', token => $TOKEN);
        is($r->{record}{rule}, 'close-of-books', 'by this rule');
        may('one on call', 'olga@acme', 'etl', token => $late);
        unlink $t->path('close-of-books');
        may('etl afterwards', 'alice@acme', 'etl', token => $TOKEN);
    }],

    ['quickstart', qr/\A\z/, sub {
        my @plain = (scheme => 'http');

        may('the caller', 'alice@acme', 'alice', token => $TOKEN, @plain);
        may_not('a frozen job', 403, '0201', 'alice@acme', token => $TOKEN,
            job => 'prod_1', @plain);
        may_not('another user', 403, '0201', 'rita@acme', token => $READER,
            @plain);
    }],

    ['mutual-tls', qr/\A\z/, sub {
        may('the scheduler', 'CN=airflow,OU=data,O=acme', 'airflow',
            client => 'airflow');
        may('one on call', 'CN=ann,OU=oncall,O=acme', 'oncall',
            client => 'ann', job => 'prod_1');
        may_not('another job', 403, '0201', 'CN=airflow,OU=data,O=acme',
            client => 'airflow', job => 'prod_1');
        may_not('a guest', 403, '0201', 'CN=guest,OU=guests,O=acme',
            client => 'guest');

        my $r = stop(job => 'etl_1', client => 'longer');
        is($r->{status}, 403, 'H13 a name with a comma in it may not');

        for my $client ('', 'forged') {
            my ($exit, $output) = $t->curl('-s', '-i', '-X', 'PUT', '--cacert',
                "$certs/ca.crt", $client
                    ? ('--cert', "$certs/client-$client.crt",
                       '--key', "$certs/client-$client.key") : (),
                'https://127.0.0.1:' . $t->port . $t->stop_target);
            like($output, qr{\AHTTP/1\.1 400 },
                ($client || 'no') . ' certificate: refused by nginx');
        }
    }],

    ['basic-auth', qr/\A\z/, sub {
        may('a good password', 'ann', 'people', user => "ann:$PASSWORD");
        may_not('a stranger to the rules', 403, '0201', 'eve',
            user => "eve:$PASSWORD");
        may_not('a wrong password', 401, undef, undef, user => 'ann:wrong');
        may_not('no password', 401, undef, undef);
    }],

    ['oidc-proxy', qr/\A\z/, sub {
        my $name = 'X-Auth-Request-Email';

        $oidc->script(
            { when => { header => { Cookie => 's=ann' } }, status => 202,
              headers => [$name => 'ann@acme.example'] },
            { when => { header => { Cookie => 's=eve' } }, status => 202,
              headers => [$name => 'eve@other.example'] },
            { when => { header => { Cookie => 's=nameless' } },
              status => 202 },
            { status => 401 });

        may('a session', 'ann@acme.example', 'staff',
            header => ['Cookie: s=ann'], token => $UNKNOWN);
        may_not('one of others', 403, '0201', 'eve@other.example',
            header => ['Cookie: s=eve']);
        may_not('no session', 401, undef, undef);
        may_not('a session without a name', 401, '0101', undef,
            header => ['Cookie: s=nameless', "$name: ann\@acme.example"]);

        my @asked = $oidc->requests;
        cmp_ok(scalar @asked, '>=', 4, 'the proxy was asked each time');
        is(scalar(grep { $_->all('X-Auth-Token') } @asked), 0,
            'L03 it gets no token');
    }],

    ['signing-sdk', qr/\A\z/, sub {
        my @signed = (header => [
            'Authorization: SDK-HMAC-SHA256 Access=AKEXAMPLE, '
                . 'SignedHeaders=host;x-sdk-date, Signature=' . 'ab' x 32,
            'X-Sdk-Date: 20260801T080000Z',
            'X-Project-Id: ' . CdmStop::Test::Traffic::PROJECT,
        ]);

        my $r = may('a signed stop', 'nightly-sdk', 'nightly', @signed,
            client => 'airflow');
        my ($request) = @{ $r->{sent} };
        is(scalar(map { $request->all($_) }
                qw(Authorization X-Sdk-Date X-Project-Id)), 0,
            'nothing of the signature goes to CDM');

        may_not('the same from another client', 401, '0101', undef, @signed,
            client => 'ann');
        may_not('another job', 403, '0201', 'nightly-sdk', @signed,
            client => 'airflow', job => 'prod_1');
    }],

    ['address-range',
     qr/everyone who reaches this "cdm_stop" stops jobs/, sub {
        may('one in the range', undef, 'schedulers');
        may_not('another job', 403, '0201', undef, job => 'prod_1');
        my $r = may_not('one beyond it', 403, undef, undef,
            from => '127.0.0.2');
        is($r->{record}{source_ip}, '127.0.0.2', 'from where it came');
    }],

    ['limits', qr/\A\z/, sub {
        may('a first one', 'alice@acme', 'etl', token => $TOKEN);

        my $late;

        for (1 .. 20) {
            $late = stop(job => 'etl_1', token => $TOKEN);
            last if $late->{status} != 200;
        }

        is_deeply([@$late{qw(status code)}], [429, undef], 'then too many');
        is_deeply([@{ $late->{record} }{qw(stage status principal)}],
            ['refused', 429, undef], 'which is recorded, without a name');

        my ($exit, $output) = (0, '');
        for (1 .. 10) {
            ($exit, $output) = $t->curl('-s', '-i', '--cacert',
                "$certs/ca.crt", 'https://127.0.0.1:' . $t->port . '/v1.1/x');
            last if $output !~ m{\AHTTP/1\.1 200 };
        }
        like($output, qr{\AHTTP/1\.1 200 }, 'other requests are not counted');
    }],

    ['satisfy-any', qr/\A\z/, sub {
        my @beyond = (from => '127.0.0.2');

        may('one in the range', 'alice@acme', 'operators', token => $TOKEN);
        may('one with the password', 'alice@acme', 'operators', @beyond,
            token => $TOKEN, user => "eve:$PASSWORD");
        may_not('one with neither', 401, undef, undef, @beyond,
            token => $TOKEN);
        may_not('T14 in the range without a token', 401, '0101', undef);
        may_not('T14 with the password and no token', 401, '0101', undef,
            @beyond, user => "ann:$PASSWORD");
        may_not('with a bad token', 401, '0102', undef, token => $UNKNOWN);
        may_not('with another role', 403, '0201', 'rita@acme',
            token => $READER);
    }],
);

subtest 'the lines of cdm_stop in the server' => sub {
    my $conf = configuration('mutual-tls');

    ok($conf =~ s/^( +location [^\n]+\n)((?: +cdm_stop.*\n)+)/$2$1/m, 'moved');
    unlink $t->path('audit.jsonl');
    $t->config($conf);
    $t->start;

    may('the scheduler', 'CN=airflow,OU=data,O=acme', 'airflow',
        client => 'airflow');
    may_not('nobody', 400, undef, undef);
    $t->stop;
};

my @files = map { m{([^/]+)\.conf\z} } glob($t->root . '/docs/examples/*');

is_deeply([sort keys %tested], [sort @files], 'each example is here');

my $text = $t->read($t->root . '/docs/EXAMPLES.md');

is_deeply([sort $text =~ /^\| \[[\w.-]+\]\(examples\/([\w-]+)\.conf\)/mg],
    [sort @files], 'and in the table of docs/EXAMPLES.md');
unlike($text, qr/^```nginx/m, 'which repeats none of them');

$t->done;
