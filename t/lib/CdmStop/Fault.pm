package CdmStop::Fault;

=head1 NAME

CdmStop::Fault - what may go wrong between nginx and the disk

=head1 SYNOPSIS

    my $fault = CdmStop::Fault->new($t);
    $fault->run(sub { $t->start });
    $fault->put('kill_after', 'intent');      # fires once
    $t->wait_for(sub { $fault->fired });

A library that is loaded before libc: the next write(2) to a file *.jsonl whose
record is of the stage (or "any") does not go as usual. C<kill_before>,
C<kill_half> and C<kill_after>: the process kills itself by SIGKILL before the
record, behind the half of it, or behind the whole; C<half>: a part is written;
C<close>: the descriptor is closed. C<poke>, with an address in hexadecimal
digits for the stage: a byte is written there instead, at any record. And not
of records: C<nomem>, with a size for the stage: the next malloc(3) of at least
16384 bytes and of at least that size fails.

=cut

use strict;
use warnings;

use CdmStop::Process;

my $SOURCE = do { local $/; <DATA> };

sub new {
    my ($class, $test) = @_;

    my $dir = $test->path('fault');
    mkdir $dir or die "$dir: $!\n";
    chmod 0777, $dir;

    my $self = bless { dir => $dir, control => "$dir/control" }, $class;
    my $source = $test->write('fault/fault.c', $SOURCE);

    my ($exit, $output) = CdmStop::Process::capture(
        'cc', '-O1', '-Wall', '-shared', '-fPIC', '-o', "$dir/fault.so",
        $source, '-ldl');
    die "cc: $output\n" if $exit;

    return $self;
}

# What is started in the code has the library.

sub run {
    my ($self, $code) = @_;

    local $ENV{LD_PRELOAD} = "$self->{dir}/fault.so";
    local $ENV{TEST_FAULT_CONTROL} = $self->{control};

    return $code->();
}

sub put {
    my ($self, $mode, $stage) = @_;

    # a reader sees nothing or the whole
    open my $fh, '>', "$self->{control}.new" or die "fault: $!\n";
    print {$fh} "$mode $stage\n";
    close $fh or die "fault: $!\n";
    rename "$self->{control}.new", $self->{control} or die "fault: $!\n";

    return;
}

# What somebody else appends, by "append".

sub bytes {
    my ($self, $bytes) = @_;

    open my $fh, '>', "$self->{dir}/append" or die "fault: $!\n";
    print {$fh} $bytes;
    close $fh or die "fault: $!\n";

    return;
}

# Lets go on what "stall" holds up, which "went" when it took notice.

sub go {
    my ($self) = @_;

    open my $fh, '>', "$self->{control}.go" or die "fault: $!\n";
    close $fh or die "fault: $!\n";

    return;
}

sub fired { return !-e $_[0]{control} }
sub went { return !-e "$_[0]{control}.go" }

1;

__DATA__
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static char  control[4096];

__attribute__((constructor)) static void
begin(void)
{
    const char  *name = getenv("TEST_FAULT_CONTROL");

    if (name) {
        strncpy(control, name, sizeof(control) - 1);
    }
}

/* only of large pieces: what reads the control needs small ones itself */

void *
malloc(size_t n)
{
    int     fields;
    char    mode[32], size[32];
    FILE   *f;

    extern void *__libc_malloc(size_t n);

    if (n < 16384 || control[0] == '\0') {
        return __libc_malloc(n);
    }

    f = fopen(control, "r");
    if (f == NULL) {
        return __libc_malloc(n);
    }

    fields = fscanf(f, "%31s %31s", mode, size);
    fclose(f);

    if (fields != 2
        || strcmp(mode, "nomem")
        || n < strtoul(size, NULL, 10)
        || unlink(control) != 0)
    {
        return __libc_malloc(n);
    }

    return NULL;
}

static int
is_record(int fd, char *name, size_t size)
{
    char     link[64];
    ssize_t  n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, name, size - 1);

    name[n > 0 ? n : 0] = '\0';

    return n > 6 && memcmp(name + n - 6, ".jsonl", 6) == 0;
}

/* what somebody else does to the file before this process writes to it */

static void
interfere(const char *mode, int fd)
{
    char     name[4096 + 16], bytes[4096];
    FILE    *f;
    size_t   n = 0;

    if (strcmp(mode, "cut") == 0) {
        if (ftruncate(fd, 0) == -1) {
            abort();
        }
        return;
    }

    snprintf(name, sizeof(name), "%.*s/append",
             (int) (strrchr(control, '/') - control), control);

    f = fopen(name, "r");
    if (f) {
        n = fread(bytes, 1, sizeof(bytes), f);
        fclose(f);
        unlink(name);
    }

    if (syscall(SYS_write, fd, bytes, n) != (long) n) {
        abort();
    }
}

/* at most ten seconds */

static void
stall(void)
{
    int   i;
    char  go[4096 + 16];

    snprintf(go, sizeof(go), "%s.go", control);

    for (i = 0; i < 1000 && unlink(go) == -1; i++) {
        usleep(10000);
    }
}

ssize_t
write(int fd, const void *buf, size_t n)
{
    int       fields;
    char      mode[32], stage[32], want[64], file[4096];
    FILE     *f;
    ssize_t   done, (*real)(int, const void *, size_t);

    real = (ssize_t (*)(int, const void *, size_t)) dlsym(RTLD_NEXT, "write");

    if (control[0] == '\0' || !is_record(fd, file, sizeof(file))) {
        return real(fd, buf, n);
    }

    f = fopen(control, "r");
    if (f == NULL) {
        return real(fd, buf, n);
    }

    fields = fscanf(f, "%31s %31s", mode, stage);
    fclose(f);

    snprintf(want, sizeof(want), "\"stage\":\"%s\"", stage);

    /* only the one that takes it away has the fault */

    if (fields == 2 && strcmp(mode, "nomem") == 0) {
        return real(fd, buf, n);
    }

    if (fields == 2 && strcmp(mode, "poke") == 0) {
        strcpy(want, "{");
    }

    if (fields == 2 && strcmp(mode, "stall") == 0) {

        if (strcmp(strrchr(file, '/') + 1, stage) == 0
            && unlink(control) == 0)
        {
            stall();
        }

        return real(fd, buf, n);
    }

    if (fields != 2
        || (strcmp(stage, "any") && !memmem(buf, n, want, strlen(want)))
        || unlink(control) != 0)
    {
        return real(fd, buf, n);
    }

    if (strcmp(mode, "poke") == 0) {
        *(volatile char *) strtoul(stage, NULL, 16) = 'x';
        return real(fd, buf, n);
    }

    if (strcmp(mode, "cut") == 0 || strcmp(mode, "append") == 0) {
        interfere(mode, fd);
        return real(fd, buf, n);
    }

    if (strcmp(mode, "half") == 0) {
        return real(fd, buf, n / 2);
    }

    if (strcmp(mode, "close") == 0) {
        close(fd);
    }

    if (strcmp(mode, "kill_before") == 0) {
        kill(getpid(), SIGKILL);
    }

    done = real(fd, buf, strcmp(mode, "kill_half") == 0 ? n / 2 : n);

    if (strncmp(mode, "kill_", 5) == 0) {
        kill(getpid(), SIGKILL);
    }

    return done;
}
