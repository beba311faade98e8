#!/usr/bin/perl

# The figures of the documents that are no promise but a size: of records, of
# tokens in the zone, of an answer for Prometheus. They are measured here and
# compared with what is said, to a half of it.

use strict;
use warnings;
no warnings qw(portable);      # addresses of 64 bits

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Process;
use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my $iam = $t->iam;
my $cdm = $t->cdm;
my %text = map { $_ => $t->read($t->root . "/docs/$_.md") =~ s/\s+/ /gr }
    qw(DIRECTIVES AUDIT MONITORING);
my @project = map { $_ x 32 } 1 .. 2;

$t->config(<<"EOC");
%%GLOBALS%%
worker_processes 1;
events { }
http {
    %%HTTP_GLOBALS%%
    large_client_header_buffers 4 40k;
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       @{[CdmStop::Test::Traffic::PROJECT]} @project;
    }
    cdm_stop_policy org {
        deny   prod-freeze  job=~^prod_;
        allow  operators    domain=acme  role=etl_operator;
    }
    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop                    huawei;
            cdm_stop_enforce            org;
            cdm_stop_insecure_upstream  on;
            cdm_stop_audit              %%TESTDIR%%/audit.jsonl;
            proxy_pass                  http://127.0.0.1:%%CDM_PORT%%;
        }
        location = /metrics  { cdm_stop_status; }
    }
}
EOC
$t->start;

my %token;

sub stop {
    my ($project, $job) = @_;

    $token{$project} //= $iam->add_token(user => 'alice', domain => 'acme',
        roles => ['etl_operator'], project => $project);

    my $before = -s $t->path('audit.jsonl') // 0;
    my $r = $t->put_stop(project => $project, job => $job,
        headers => ["X-Auth-Token" => $token{$project}]);

    my $wanted = $r->{status} == 200 ? 'outcome' : 'refused';
    my $new = $t->wait_for(sub {
        my $new = substr $t->read('audit.jsonl'), $before;
        $new =~ /"stage":"$wanted".*\n\z/ && $new;
    }, what => "a record: $wanted");

    return ($r->{status}, length $new);
}

# What a document says, in bytes; a half of it more or less is the same.

sub says {
    my ($file, $pattern, $measured, $what) = @_;

    my ($number, $unit) = $text{$file} =~ $pattern
        or return fail("$file says something of $what");
    my $said = $number * { bytes => 1, KB => 1024, MB => 1048576,
        GB => 1 << 30 }->{$unit};

    cmp_ok($measured, '>', $said / 2, "$file: $what, $number $unit");
    cmp_ok($measured, '<', $said * 1.5, "$file: $what, not $measured");

    return;
}


my (undef, $stop) = stop(CdmStop::Test::Traffic::PROJECT, 'etl_daily');
my ($status, $refusal) = stop(CdmStop::Test::Traffic::PROJECT, 'prod_daily');

is($status, 403, 'a refusal');
says('AUDIT', qr/A stop takes about (\d+) (KB) in two records/, $stop,
    'two records of a stop');
says('AUDIT', qr/a refusal about (\d+) (bytes)/, $refusal, 'a refusal');

# 100 of them and a summary in a second, for a day

says('AUDIT', qr/known: about (\d+) (GB) for each worker/,
    101 * $refusal * 86400, 'refusals of a day');

my $answer = $t->request(method => 'GET', target => '/metrics')->{body};

says('MONITORING', qr/One answer has about (\d+) (KB)/, length $answer,
    'an answer for Prometheus');

# what is shared: counters and the chain, beside the zone of 1 MB itself

my ($worker) = $t->worker_pids;
my @maps;

open my $fh, '<', "/proc/$worker/maps" or die "maps: $!\n";
while (<$fh>) {
    push @maps, hex($2) - hex($1) if /^(\w+)-(\w+) rw-s /;
}
close $fh;

my ($counters, $chain, @more) = sort { $a <=> $b }
    grep { $_ > 65536 && $_ != 1048576 } @maps;

is_deeply(\@more, [], 'there is nothing else');
says('DIRECTIVES', qr/in shared memory of about (\d+) (MB)/, $counters,
    'counters');
says('DIRECTIVES', qr/Each target has about (\d+) (MB) of shared/, $chain,
    'a chain');

# compressed

stop(CdmStop::Test::Traffic::PROJECT, "etl_$_") for 1 .. 100;
CdmStop::Process::capture('gzip', '-k', $t->path('audit.jsonl'));

my ($packed, $whole) = map { -s } map { $t->path("audit.jsonl$_") } '.gz', '';
my $share = $packed / $whole;

like($text{AUDIT}, qr/compress the files \(to about a tenth;/, 'what is said');
cmp_ok($share, '>', 1 / 20, 'AUDIT: a tenth when compressed');
cmp_ok($share, '<', 1 / 5, "AUDIT: not $share");
unlink $t->path('audit.jsonl.gz');


# what one more token takes; the zone counts pages that are free

sub free { return $t->request(method => 'GET', target => '/metrics')->{body}
    =~ /^cdm_stop_zone_free_bytes (\d+)/m ? $1 : die "no free bytes\n" }

for my $case ([9120, qr/A token of 9,120 bytes takes (\d+) (KB)/],
    [31 * 1024, qr/one of 31 KB takes (\d+) (KB)/])
{
    my ($size, $pattern) = @$case;
    my $project = shift @project;

    # the caller's token is known before
    $token{$project} = $iam->add_token(user => 'alice', domain => 'acme',
        roles => ['reader'], project => $project);
    $t->put_stop(project => $project, job => 'etl',
        headers => ["X-Auth-Token" => $token{$project}]);
    delete $token{$project};
    $iam->set(token_size => $size);

    my $before = free();
    is((stop($project, 'etl_daily'))[0], 200, "a token of $size bytes");
    my $taken = $before - free();

    my ($said) = $text{DIRECTIVES} =~ $pattern;
    cmp_ok(abs($taken / 1024 - ($said // 0)), '<=', 4,
        "DIRECTIVES: a token of $size bytes takes $said KB, not $taken bytes");
}

$t->done;
