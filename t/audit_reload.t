#!/usr/bin/perl

# A file of records that was renamed is made anew by a reload, for whatever
# reason USR1 does not come: workers that are leaving write to it as well.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Test;

my $t = CdmStop::Test->new;
my ($iam, $cdm) = ($t->iam, $t->cdm);

$t->config(<<'EOC');
%%GLOBALS%%
worker_processes 2;
events { }
http {
    %%HTTP_GLOBALS%%
    cdm_stop_zone cdm:1m;
    cdm_stop_iam huawei {
        uri            http://127.0.0.1:%%IAM_PORT%%;
        insecure       on;
        domain         acme;
        user           cdm-gateway;
        password_file  %%TESTDIR%%/secrets/password;
        projects       any;
    }
    cdm_stop                    huawei;
    cdm_stop_verify             off;
    cdm_stop_anonymous          on;
    cdm_stop_insecure_upstream  on;
    cdm_stop_audit              %%TESTDIR%%/audit.jsonl;

    server {
        listen 127.0.0.1:%%PORT%%;
        location /v1.1/ { proxy_pass http://127.0.0.1:%%CDM_PORT%%; }
    }
}
EOC
$t->start;

$cdm->script({ when => { job => 'old' }, hold => 'old' });

my $old = $t->start_stop(job => 'old');
$cdm->wait_requests(1);

my $file = $t->path('audit.jsonl');
rename $file, "$file.1";
$t->reload(keep_old => 1);

is($t->put_stop(job => 'new')->{status}, 200, 'A06 the new workers serve');
is(scalar $t->records, 2, 'A06 and write to the new file');

$cdm->release('old');
is($t->finish($old)->{status}, 200, 'A06 a worker that leaves ends its stop');

my ($outcome) = grep { $_->{job_name} eq 'old' } $t->records;
is($outcome->{stage}, 'outcome', 'A06 and writes to that file as well');
is($outcome->{verdict}, 'stopped', 'A06 how it ended');
is(join(' ', map { $_->{stage} } $t->records('audit.jsonl.1')), 'intent',
   'A06 which began in the old file');

# nginx runs as a user of its own only if root starts it
is(!!((stat $file)[4] == 0), !!($> == 0 && (getpwnam 'nobody')[2] == 0),
   'A06 the file is of the user of the workers') if $> == 0;

# Who may write to that directory may put a file of root there by a link.

for my $kind ('symbolic', 'hard') {
    my $other = $t->write("other.$kind", '');

    rename $file, "$file.$kind";
    ($kind eq 'hard' ? link $other, $file : symlink $other, $file)
        or die "link to $other: $!\n";
    $t->reload;

    is((stat $other)[4], $>, "A06 a $kind link: the file is not given away");
    is($t->put_stop(job => $kind)->{status}, 200, 'A06 records go there');

    # under one name, for those who verify all files
    $kind eq 'hard' ? unlink $other : rename $other, $file;
}

$t->done;
