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

sub fired { return !-e $_[0]{control} }

1;

__DATA__
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
is_record(int fd)
{
    char     link[64], name[4096];
    ssize_t  n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, name, sizeof(name) - 1);

    return n > 6 && memcmp(name + n - 6, ".jsonl", 6) == 0;
}

ssize_t
write(int fd, const void *buf, size_t n)
{
    int       fields;
    char      mode[32], stage[32], want[64];
    FILE     *f;
    ssize_t   done, (*real)(int, const void *, size_t);

    real = (ssize_t (*)(int, const void *, size_t)) dlsym(RTLD_NEXT, "write");

    if (control[0] == '\0' || !is_record(fd)) {
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
