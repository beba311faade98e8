#!/usr/bin/perl

# docs/VARIABLES.md: its log_format as it is printed, of the requests in its
# table; what nginx logs of them is what the table says.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;

my $text = $t->read($t->root . '/docs/VARIABLES.md');
my ($format) = $text =~ /^```nginx\n(log_format stops  .*?;)\n```/ms
    or die "docs/VARIABLES.md has no log_format\n";

$format =~ s/(log_format stops) (.*?)\s+(escape=none);/$1 $3$2;/s;

my @names = $format =~ /\$(cdm_stop\w*)/g;

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 4 40k;
    variables_hash_max_size 4096;
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       @{[CdmStop::Test::Traffic::PROJECT]};
    }
    cdm_stop_policy org {
        deny   prod-freeze  job=~^prod_;
        allow  alice        user=alice  domain=acme;
    }
    $format
    server {
        listen 127.0.0.1:%%PORT%%;
        access_log %%TESTDIR%%/stops.log stops;
        location / {
            cdm_stop                    huawei;
            cdm_stop_enforce            org;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

$t->start;

my %token = map { $_ => $iam->add_token(user => $_, domain => 'acme',
    project => CdmStop::Test::Traffic::PROJECT) } qw(alice bob);
my $unknown = $t->ledger->token(300, register => 0);

# what the columns of the table are, by their names

my %request = (
    'the first stop' => sub { stop('etl_daily', $token{alice}) },
    'the next' => sub { stop('etl_daily', $token{alice}) },
    'a frozen job' => sub { stop('prod_daily', $token{alice}) },
    'no rule' => sub { stop('etl_daily', $token{bob}) },
    'refused token' => sub { stop('etl_daily', $unknown) },
    'no stop' => sub { $t->request(method => 'GET', target => '/v1.1/x') },
);

sub stop {
    my ($job, $token) = @_;

    return $t->put_stop(job => $job, headers => ['X-Auth-Token' => $token]);
}


my ($table) = $text =~ /^(\| variable \| the first stop .*?)\n\n/ms
    or die "docs/VARIABLES.md has no table of values\n";
my ($head, undef, @rows) = map { [cells($_)] } split /\n/, $table;
my (undef, @columns) = @$head;

my (%told, %seen);

for my $row (@rows) {
    my ($name, @values) = @$row;

    $name =~ s/^`\$|`$//g;
    $told{$columns[$_]}{$name} = $values[$_] for 0 .. $#columns;
}

is_deeply([sort keys %request], [sort @columns], 'each request has a column');
is_deeply([map { $_->[0] =~ tr/`$//dr } @rows], \@names,
    'each variable has a row, in the order of the log');
my @known = variables();

is_deeply([sort @names], [sort @known], 'no variable is left out');

sub variables {
    my $code = $t->read($t->root . '/src/ngx_http_cdm_stop_variables.c');

    my ($vars) = $code =~ /ngx_http_cdm_stop_vars\[\] = (.*?)null_variable/s;
    return $vars =~ /ngx_string\("([^"]+)"\)/g;
}

sub cells {
    my ($line) = @_;

    return map { s/^ +| +$//gr } split /(?<!\\)\|/, $line =~ s/^\||\|$//gr;
}


for my $column (@columns) {
    $request{$column}->();

    my $line = $t->wait_for(sub {
        my @lines = split /\n/, $t->read('stops.log');
        $lines[keys %seen];
    }, what => "a line of \"$column\"");
    my @values = split /\|/, $line, -1;

    $seen{$column} = 1;

    for my $i (0 .. $#names) {
        my $told = $told{$column}{$names[$i]};

        $told =~ s/^`|`$//g;
        is(shown($names[$i], $values[$i]), $told, "$column: \$$names[$i]");
    }
}

# An id and a time are others each time.

sub shown {
    my ($name, $value) = @_;

    $value =~ s/\A[0-9a-f]{32}\z/an id/ if $name eq 'cdm_stop_request_id';
    $value =~ s/\A\d+\.\d{3}\z/seconds/ if $name eq 'cdm_stop_wait_time';

    return $value;
}

$t->done;
