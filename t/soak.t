#!/usr/bin/perl

# A short soak, of a seed that is always the same and of one that is not: mixed
# load over four workers with all that can go wrong. t/soak runs the same for
# half an hour. TEST_NGINX_SEED to see a run again, TEST_NGINX_SECONDS for
# another length.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use CdmStop::Soak;
use CdmStop::Test;

my $seconds = $ENV{TEST_NGINX_SECONDS} || 6;

CdmStop::Soak::small_quarantine();

for my $seed (7, $ENV{TEST_NGINX_SEED} || time) {
    diag("TEST_NGINX_SEED=$seed");

    subtest "Q01 seed $seed" => sub {
        my $t = CdmStop::Test->new(log => 'notice');
        my $soak = CdmStop::Soak->new($t, seconds => $seconds, seed => $seed);

        # how much memory there is takes longer to tell than this takes
        $soak->run;
        $soak->check(growth => 0);
        $soak->report if $ENV{TEST_NGINX_VERBOSE}
            || !Test::More->builder->is_passing;
        $soak->done;
    };
}

done_testing();
