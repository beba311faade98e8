package CdmStop::Test::Nginx;

=head1 NAME

CdmStop::Test::Nginx - the part of CdmStop::Test that runs nginx

=head1 SYNOPSIS

    $t->start;                       # dies with nginx's words if it fails
    $t->reload;                      # new workers run, old ones are gone
    $t->reload(fail => 1);           # a configuration that must be refused
    my ($exit, $output) = $t->nginx_t($conf);
    $t->kill_worker(($t->worker_pids)[0], 'KILL');
    $t->stop;

nginx runs as a child of the test (C<daemon off>), as the user of the test;
started by root it makes workers of its default user.

=cut

use strict;
use warnings;

use POSIX ();
use Time::HiRes qw(time sleep);

use CdmStop::Process;

# What the binary can: debug log, sanitizers, modules left out.

my %LOOKED_AT;

sub look_at_binary {
    my ($self) = @_;

    my $binary = $self->{binary};
    my $v = $LOOKED_AT{$binary} //= (CdmStop::Process::capture(
        $binary, '-V', { env => { ASAN_OPTIONS => 'detect_leaks=0' } }))[1];

    die "$binary: no nginx\n" unless $v =~ m{nginx version: \S+?/(\S+)};

    $self->{version} = $1;
    $self->{built_with} = $v;
    $self->{asan} = $v =~ /fsanitize=\S*address/ ? 1 : 0;
    $self->{debug} = $v =~ /--with-debug/ ? 1 : 0;
    $self->{valgrind} = $v =~ /--wrap=ngx_setproctitle/ ? 1 : 0;

    return;
}

# True if the binary was built with (or without) a configure option.

sub has {
    my ($self, $option) = @_;

    return $self->{built_with} =~ /\Q$option\E(?![\w-])/ ? 1 : 0;
}

# The file for load_module, undef if the module is in the binary or not wanted.

sub module_file {
    my ($self) = @_;

    my $module = $self->{module} // $ENV{TEST_NGINX_MODULE}
        // 'build/dynamic/ngx_http_cdm_stop_module.so';

    return if !$module;
    return $module =~ m{\A/} ? $module : $self->root . "/$module";
}

sub globals {
    my ($self, %opt) = @_;

    my $level = $self->{log} // ($self->{debug} ? 'debug' : 'info');
    my $log = $opt{log} // 'error.log';
    my $module = $self->module_file;

    return join "\n", ($module ? "load_module $module;" : ()),
        'daemon off;', "pid %%TESTDIR%%/nginx.pid;",
        "error_log %%TESTDIR%%/$log $level;", '';
}

sub http_globals {
    my ($self, %opt) = @_;

    my $access = $opt{access_log} // 'access.log';
    my @lines = ("access_log %%TESTDIR%%/$access;", 'root %%TESTDIR%%;');

    for my $name (qw(client_body proxy fastcgi uwsgi scgi)) {
        push @lines, "${name}_temp_path %%TESTDIR%%/${name}_temp;"
            unless $self->has("--without-http_${name}_module");
    }

    # at its end nginx does not free the TLS sessions that it keeps for
    # upstreams, and what looks for leaks cannot tell who made them
    push @lines, 'proxy_ssl_session_reuse off;'
        if $self->{asan} || $self->{valgrind};

    return join "\n", @lines, '';
}

sub environment {
    my ($self) = @_;

    my %env;

    for my $name (qw(ASAN UBSAN LSAN)) {
        my $given = $ENV{"${name}_OPTIONS"} // '';

        $env{"${name}_OPTIONS"} = join ':', length $given ? $given : (),
            $name eq 'ASAN' ? 'detect_odr_violation=0' : (),
            $name eq 'UBSAN' ? 'print_stacktrace=1' : (),
            "log_path=$self->{dir}/sanitizer/report";
    }

    return \%env;
}

sub command_line {
    my ($self, $conf, @more) = @_;

    return ($self->{binary}, '-p', "$self->{dir}/", '-e',
            "$self->{dir}/startup.log", '-c', $conf, @more);
}

# Starts nginx and waits until it listens and all workers run.

sub start {
    my ($self, %opt) = @_;

    die "nginx runs already\n" if $self->{pid};

    unlink $self->path('nginx.pid');
    $self->{conf} //= $self->path('nginx.conf');

    $self->{pid} = CdmStop::Process::run_in_background(
        [$self->command_line($self->{conf})],
        stdout => $self->path('stdout.log'),
        stderr => $self->path('stderr.log'), env => $self->environment);

    my $up = $self->wait_for(sub {
        defined($self->{status} = CdmStop::Process::wait_for($self->{pid}, 0))
            || -s $self->path('nginx.pid') && $self->workers_are_up;
    }, what => 'start of nginx');

    if (defined $self->{status}) {
        delete $self->{pid};
        return 0 if $opt{fail};
        die "nginx did not start:\n" . $self->startup_output . "\n";
    }

    die "nginx started though it should not\n" if $opt{fail};
    return $self;
}

# What nginx said when it did not start.

sub startup_output {
    my ($self) = @_;

    return join '', map { -e $self->path($_) ? $self->read($_) : () }
                    qw(startup.log stderr.log);
}

sub master_pid { return $_[0]{pid} }

# Children of the master by /proc: pid => title.

sub children {
    my ($self, $master) = @_;

    my %children;
    $master //= $self->{pid} // return {};

    opendir my $proc, '/proc' or die "/proc: $!\n";

    for my $pid (grep { /\A\d+\z/ } readdir $proc) {
        my $stat = slurp("/proc/$pid/stat") // next;
        my ($state, $parent) = $stat =~ /\) (\S) (\d+)/ or next;
        next if $parent != $master || $state eq 'Z';

        my $title = $self->title($pid) // next;
        $children{$pid} = $title;
    }

    return \%children;
}

# The title of a process; under valgrind the first 15 characters of what nginx
# set it to, see t/build/proctitle.c.

sub title {
    my ($self, $pid) = @_;

    if ($self->{valgrind}) {
        my $name = slurp("/proc/$pid/comm") // return;
        return 'nginx: ' . $name =~ s/\n\z//r;
    }

    my $title = slurp("/proc/$pid/cmdline") // return;
    return $title =~ s/\0+\z//r;
}

sub slurp {
    my ($file) = @_;

    open my $fh, '<:raw', $file or return;
    local $/;

    return scalar <$fh>;
}

# The pids of workers that serve; all => 1: those that are leaving, too.

sub worker_pids {
    my ($self, %opt) = @_;

    my $children = $self->children;
    my $title = $opt{all} ? qr/\Anginx: worker process/
                          : qr/\Anginx: worker process\z/;

    my @pids = grep { $children->{$_} =~ $title } keys %$children;
    @pids = sort { $a <=> $b } @pids;

    return @pids;
}

# How many workers the configuration asks for.

sub worker_count {
    my ($self) = @_;

    my $conf = $self->read($self->{conf});

    return 0 if $conf =~ /^\s*master_process\s+off/m;
    return $1 if $conf =~ /\bworker_processes\s+(\d+)/;
    return 1;
}

sub workers_are_up {
    my ($self) = @_;

    return $self->worker_pids >= $self->worker_count;
}

# Loads the configuration anew and waits until only new workers are there.
# keep_old => 1: old ones may still finish; fail => 1: it must be refused.

sub reload {
    my ($self, %opt) = @_;

    my %old = map { $_ => 1 } $self->worker_pids(all => 1);
    my $from = -s $self->path('error.log') // 0;

    kill 'HUP', $self->{pid};

    if ($opt{fail}) {
        my $said = $self->wait_for(sub {
            substr($self->error_log, $from) =~ /^.*\[emerg\].*$/m ? $& : undef;
        }, what => 'refusal of the configuration');
        $self->allow_log(qr/\Q$said\E/);
        return $said;
    }

    # the master tells the old ones a while after the new ones are there
    $self->wait_for(sub {
        my @new = grep { !$old{$_} } $self->worker_pids;
        my @left = grep { $old{$_} } $self->worker_pids(all => !$opt{keep_old});

        @new >= $self->worker_count && !@left;
    }, what => 'new workers after a reload');

    return $self;
}

# Has the log files opened anew and waits until the master did it.

sub reopen {
    my ($self) = @_;

    my $marker = $self->path('access.log');
    my $old = (stat $marker)[1] // 0;

    rename $marker, "$marker.before-reopen" if -e $marker;
    kill 'USR1', $self->{pid};
    return $self if !$old;

    # workers do it in their own time, after the master
    $self->wait_for(sub { -e $marker && !$self->holders($old) },
                    what => 'reopened logs');

    return $self;
}

# The processes of nginx that have a file open, by its inode.

sub holders {
    my ($self, $inode) = @_;

    return grep {
        my $pid = $_;
        grep { ((stat $_)[1] // 0) == $inode } glob "/proc/$pid/fd/*";
    } $self->{pid}, keys %{$self->children};
}

sub kill_worker {
    my ($self, $pid, $signal) = @_;

    $signal //= 'KILL';
    $self->{killed}{$pid} = 1;

    # what it was doing is the master's to undo
    $self->allow_log(qr/\[alert\] .* was locked by $pid\b/);
    kill $signal, $pid or die "worker $pid: $!\n";
    $self->wait_for(sub { !exists $self->children->{$pid} },
                    what => "end of worker $pid") if $signal ne 'STOP';

    return $self;
}

# The worker that has a connection to a port of this machine, by the tables of
# the kernel; undef if none has.

sub worker_connected_to {
    my ($self, $port) = @_;

    my $remote = sprintf '0100007F:%04X', $port;
    open my $table, '<', '/proc/net/tcp' or die "/proc/net/tcp: $!\n";
    my %inode =
        map { (split)[9] => 1 } grep { (split)[2] eq $remote } <$table>;

    for my $pid ($self->worker_pids) {
        for my $fd (glob "/proc/$pid/fd/*") {
            return $pid
                if (readlink($fd) // '') =~ /\Asocket:\[(\d+)\]/ && $inode{$1};
        }
    }

    return;
}

# Sends a signal to the master.

sub signal {
    my ($self, $signal) = @_;

    kill $signal, $self->{pid} or die "nginx: $!\n";
    return $self;
}

# Ends nginx gracefully; returns its wait status, undef if it did not run.
# signal => 'TERM' for another way.

sub stop {
    my ($self, %opt) = @_;

    $self->note_processes if $self->{pid};
    my $pid = delete $self->{pid} // return $self->{status};

    kill $opt{signal} // 'QUIT', $pid;
    my $status = CdmStop::Process::wait_for($pid, $self->{timeout});

    if (!defined $status) {
        $self->{stuck} = 'nginx did not end after '
                         . ($opt{signal} // 'QUIT');
        my @workers = keys %{$self->children($pid)};
        $status = CdmStop::Process::end($pid);
        kill 'KILL', @workers;
    }

    return $self->{status} = $status;
}

# What /proc tells others of our processes belongs to what is searched.

sub note_processes {
    my ($self) = @_;

    for my $pid ($self->{pid}, keys %{$self->children}) {
        for my $file (qw(cmdline environ)) {
            my $content = slurp("/proc/$pid/$file") // next;
            push @{$self->{answers}}, ["$file of process $pid", $content];
        }
    }

    return;
}

# Runs nginx -t on a configuration: (exit, output).

sub nginx_t {
    my ($self, $text) = @_;

    return $self->nginx_with('-t', $text);
}

# Runs nginx with one option (-t, -T) on a configuration, which is expanded.

sub nginx_with {
    my ($self, $option, $text) = @_;

    my $conf = $self->write('nginx-t.conf', $self->expand(
        $text, log => 'nginx-t.log', access_log => 'nginx-t-access.log'));

    my $env = $self->environment;
    $env->{ASAN_OPTIONS} .= ':detect_leaks=0';

    my ($exit, $output) = CdmStop::Process::capture(
        $self->{binary}, '-p', "$self->{dir}/", '-e',
        "$self->{dir}/nginx-t.log", '-c', $conf, $option,
        { env => $env, timeout => $self->{timeout} });

    push @{$self->{answers}}, ["nginx $option", $output];
    return ($exit, $output);
}

sub error_log {
    my ($self) = @_;

    my $file = $self->path('error.log');
    return -e $file ? $self->read($file) : '';
}

1;
