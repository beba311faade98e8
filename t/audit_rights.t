#!/usr/bin/perl

# Who may read and write what is beside the records, and the records: what a
# worker could put there does not lead root to another file, and a file that
# the workers may not read does not stop them after a reload.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new(log => 'info');
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 1;
events { worker_connections 256; }
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
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ {
            cdm_stop        huawei;
            cdm_stop_audit  %%TESTDIR%%/audit.jsonl;
            proxy_pass      http://127.0.0.1:%%CDM_PORT%%;
        }
    }
}
EOC

# a file of root that somebody gave the name of the new state

my $victim = $t->write('victim', "root's\n", 0600);
link $victim, $t->path('audit.jsonl.state.new') or die "link: $!\n";

my $umask = umask 077;
$t->start;
umask $umask;

is($t->put_stop(job => 'first')->{status}, 200, 'a stop');
is($t->read('victim'), "root's\n", 'a link to a file of root: it is as it was');
is((stat $victim)[4], 0, 'a link to a file of root: it is still of root');
ok(-s $t->path('audit.jsonl.state'), 'and the state is written');

# nobody but root may read the records now, and the end is to be looked at

$t->damages('audit.jsonl');
is((stat $t->path('audit.jsonl'))[2] & 0777, 0600, 'the records are of root');
$t->reload;
is($t->put_stop(job => 'reloaded')->{status}, 200, 'after a reload: a stop');

open my $fh, '>>', $t->path('audit.jsonl') or die "audit.jsonl: $!\n";
print {$fh} "somebody else's\n";
close $fh or die "audit.jsonl: $!\n";

is($t->put_stop(job => 'behind')->{status}, 200,
   'A03 behind a foreign line, in a file that is not to be read: a stop');
my ($torn) = grep { $_->{torn} }
             map { eval { CdmStop::Test::Records::parse_line($_, 'x') } // () }
             split /\n/, $t->read('audit.jsonl');
is($torn && $torn->{torn}, length "somebody else's", 'A03 and it is told');

$t->done;
