package CdmStop::Process;

=head1 NAME

CdmStop::Process - child processes that never outlive their test

=head1 SYNOPSIS

    my $pid = CdmStop::Process::spawn(sub { ...; });          # forked code
    my $pid = CdmStop::Process::run_in_background(
                  [qw(nginx -g), 'daemon off;'], stderr => $file);
    my $status = CdmStop::Process::wait_for($pid, $seconds);
    CdmStop::Process::end($pid);                              # TERM, then KILL

    my ($exit, $output) = CdmStop::Process::capture(qw(nginx -t),
                                                    { timeout => 9 });

Whatever was started here is ended by its pid when the test exits, also when it
dies or is interrupted.

=cut

use strict;
use warnings;

use POSIX qw(WNOHANG _exit);
use Time::HiRes qw(time sleep);

my %children;

# Forks; the child runs $code and never returns into the test.

sub spawn {
    my ($code) = @_;

    my $pid = fork // die "fork: $!\n";

    if ($pid == 0) {
        %children = ();
        $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE CHLD);
        eval { $code->(); 1 } or print STDERR "child: $@";
        _exit($@ ? 1 : 0);
    }

    $children{$pid} = $$;
    return $pid;
}

# Starts a command; stdin => "close", stdout and stderr => files, env => {}.

sub run_in_background {
    my ($command, %opt) = @_;

    return spawn(sub {
        redirect(%opt);
        local @ENV{keys %{$opt{env} // {}}} = values %{$opt{env} // {}};
        exec {$command->[0]} @$command or print STDERR "$command->[0]: $!\n";
        _exit(127);
    });
}

sub redirect {
    my (%opt) = @_;

    open STDIN, '<', $opt{stdin} // '/dev/null' or die "stdin: $!\n";
    open STDOUT, '>>', $opt{stdout} or die "$opt{stdout}: $!\n" if $opt{stdout};
    open STDERR, '>>', $opt{stderr} or die "$opt{stderr}: $!\n" if $opt{stderr};

    return;
}

# Runs a command to its end: exit status (128 + signal if one ended it) and
# what it wrote to stdout and stderr. The last argument may be a hash:
# timeout, stdin (bytes), env.

sub capture {
    my (@command) = @_;

    my $opt = ref $command[-1] eq 'HASH' ? pop @command : {};

    pipe(my $out, my $out_w) or die "pipe: $!\n";
    open(my $in, '+>', undef) or die "temporary file: $!\n";
    binmode $in;
    print {$in} $opt->{stdin} if defined $opt->{stdin};
    seek $in, 0, 0;

    my $pid = spawn(sub {
        open STDIN, '<&', $in or die "stdin: $!\n";
        open STDOUT, '>&', $out_w or die "stdout: $!\n";
        open STDERR, '>&', $out_w or die "stderr: $!\n";
        local @ENV{keys %{$opt->{env} // {}}} = values %{$opt->{env} // {}};
        exec {$command[0]} @command or print STDERR "$command[0]: $!\n";
        _exit(127);
    });

    close $out_w;

    my $output = read_until_end($out, time + ($opt->{timeout} // 60));
    my $status = wait_for($pid, 1);

    if (!defined $status) {
        end($pid);
        return (-1, $output . "\n(ended after its time)");
    }

    return (exit_code($status), $output);
}

sub read_until_end {
    my ($fh, $deadline) = @_;

    my $output = '';

    while ((my $left = $deadline - time) > 0) {
        vec(my $r = '', fileno $fh, 1) = 1;
        next unless select($r, undef, undef, $left) > 0;
        last unless sysread $fh, $output, 65536, length $output;
    }

    return $output;
}

# What a shell would show for a wait status.

sub exit_code {
    my ($status) = @_;

    return $status & 127 ? 128 + ($status & 127) : $status >> 8;
}

# The wait status of a child once it has ended; undef if it has not in time.

sub wait_for {
    my ($pid, $seconds) = @_;

    my $deadline = time + $seconds;
    my $pause = 0.002;

    for (;;) {
        my $got = waitpid $pid, WNOHANG;

        if ($got == $pid) {
            delete $children{$pid};
            return $?;
        }

        if ($got < 0) {
            delete $children{$pid};
            return 0;
        }

        return if time > $deadline;

        sleep $pause;
        $pause *= 1.5 if $pause < 0.05;
    }
}

# Ends a child: TERM, and KILL if that is not enough.

sub end {
    my ($pid, %opt) = @_;

    return unless $children{$pid} && $children{$pid} == $$;

    # the test's own exit status must survive
    local $?;

    kill $opt{signal} // 'TERM', $pid;
    my $status = wait_for($pid, $opt{timeout} // 5);
    return $status if defined $status;

    kill 'KILL', $pid;
    return wait_for($pid, 5);
}

sub end_all {
    local ($?, $!, $@);

    my @mine = grep { $children{$_} == $$ } keys %children;
    kill 'TERM', @mine if @mine;
    end($_) for @mine;

    return;
}

# A test that is interrupted ends through its END blocks as well.

for my $signal (qw(INT TERM HUP)) {
    $SIG{$signal} //= sub { exit 128 + ($signal eq 'INT' ? 2 : 15) };
}

END { end_all() }

1;
