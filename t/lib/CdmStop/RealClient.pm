package CdmStop::RealClient;

=head1 NAME

CdmStop::RealClient - programs of others that stop jobs through the gateway

=head1 SYNOPSIS

    my $missing = CdmStop::RealClient->missing('node');     # or ''

    # Huawei's SDK core: see t/clients/stop.js
    my @results = CdmStop::RealClient->node($t, \%task);

    # a session of keystoneauth1: see t/clients/keystone_stops.py
    my $session = CdmStop::RealClient->keystoneauth($t, \%credentials);
    my $answer = $session->ask(\%stop);

What the gateway answered is kept for the search for secrets; what the programs
log is theirs: Huawei's SDK logs a request that fails, with what it signs.

=cut

use strict;
use warnings;

use IPC::Open2 qw(open2);
use JSON::PP ();
use Time::HiRes qw(time);

use CdmStop::Process;

# pyenv and its like hide what Debian's package installs
my $PYTHON = '/usr/bin/python3';
my $MODULES = 'build/clients/node_modules';

my $JSON = JSON::PP->new->canonical;

# What has to be installed for a client, as one string.

sub missing {
    my ($class, $which) = @_;

    if ($which eq 'keystoneauth') {
        my ($exit) = CdmStop::Process::capture($PYTHON, '-c',
            'import keystoneauth1');
        return $exit ? 'python3-keystoneauth1' : '';
    }

    return 'nodejs' if (CdmStop::Process::capture('node', '--version'))[0];
    return -d CdmStop::Test->root . "/$MODULES/\@huaweicloud" ? ''
        : '@huaweicloud/huaweicloud-sdk-core';
}

# One run of Huawei's SDK: of each stop its response, or its exception.

sub node {
    my ($class, $t, $task) = @_;

    my $root = $t->root;
    my ($exit, $output) = CdmStop::Process::capture('node',
        "$root/t/clients/stop.js", {
            stdin => $JSON->utf8->encode($task),
            env => { NODE_PATH => "$root/$MODULES", NODE_OPTIONS => '',
                     HOME => $t->dir },
            timeout => 2 * $t->{timeout},
        });

    my ($results) = $output =~ /^RESULT (.*)$/m;
    die "Huawei's SDK ended with $exit:\n$output" if $exit || !$results;
    $t->keep_answer("results of Huawei's SDK", $results);

    return @{$JSON->utf8->decode($results)};
}

sub keystoneauth {
    my ($class, $t, $credentials) = @_;

    my $pid = open2(my $out, my $in, $PYTHON,
        $t->root . '/t/clients/keystone_stops.py');
    my $self = bless { t => $t, pid => $pid, in => $in, out => $out,
                       owner => $$ }, $class;

    $in->autoflush(1);
    $self->{first} = $self->ask($credentials);

    return $self;
}

# Sends one line and waits for its answer. Tokens go into the ledger.

sub ask {
    my ($self, $task) = @_;

    local $SIG{PIPE} = 'IGNORE';
    print {$self->{in}} $JSON->utf8->encode($task), "\n";

    my $end = time + 2 * $self->{t}{timeout};
    my $line = '';

    while ($line !~ /\n\z/) {
        vec(my $r = '', fileno $self->{out}, 1) = 1;
        my $left = $end - time;

        die "keystoneauth1 does not answer\n"
            if $left <= 0 || !select $r, undef, undef, $left;
        die "keystoneauth1 ended\n"
            if !sysread $self->{out}, $line, 65536, length $line;
    }

    my $answer = $JSON->utf8->decode($line);
    $self->{t}->ledger->add("a session's token", delete $answer->{token});
    $self->{t}->keep_answer('a session', $JSON->utf8->encode($answer));

    return $answer;
}

# It ends with the end of its input.

sub DESTROY {
    my ($self) = @_;

    return if $self->{owner} != $$;

    local ($?, $!);
    close $self->{in};
    waitpid $self->{pid}, 0;

    return;
}

1;
