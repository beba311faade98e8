package CdmStop::Disk;

=head1 NAME

CdmStop::Disk - what lies between nginx and the disk, and goes wrong

=head1 SYNOPSIS

    my $fault = CdmStop::Disk->new(test => $t);
    $fault->start;                     # $t->start with the library loaded

    $fault->set('write full');         # from now on, on files *.jsonl
    $fault->set('write half intent', 'fdatasync hold');
    $fault->mend;

    my @synced = $fault->synced;       # {path, inode, size} of each fdatasync

A library that is loaded before libc. It reads what it is to do, from a file,
at each call: a function, a mode, and for write(2) which records are meant and
in which process, "any" for all.

    write      full quota readonly io nothing   fails with that error
               half most                        takes that much of the record
    fdatasync  io full                          fails with that error
               hold                             waits until that is mended

Calls of fdatasync that come to their end are noted with the size that the
file had when they began: what would be there after a loss of power.

=cut

use strict;
use warnings;

use CdmStop::Process;

sub new {
    my ($class, %arg) = @_;

    my $self = bless { %arg }, $class;
    my $t = $self->{test};

    $self->{control} = $t->path('fault');
    $self->{log} = $t->write('fault.log', '', 0666);
    $self->{library} = $t->path('fault.so');

    my $source = $t->write('fault.c', library());
    my ($exit, $output) = CdmStop::Process::capture(
        'cc', '-O1', '-Wall', '-shared', '-fPIC', '-o', $self->{library},
        $source, '-ldl', '-lpthread');
    die "cc: $output\n" if $exit;

    return $self;
}

sub start {
    my ($self) = @_;

    local $ENV{LD_PRELOAD} = $self->{library};
    local $ENV{TEST_FAULT_CONTROL} = $self->{control};
    local $ENV{TEST_FAULT_LOG} = $self->{log};

    return $self->{test}->start;
}

sub set {
    my ($self, @lines) = @_;

    # a reader sees the old file or the new one
    $self->{test}->write('fault.new', join '', map { "$_\n" } @lines);
    rename $self->{test}->path('fault.new'), $self->{control}
        or die "$self->{control}: $!\n";
    return $self;
}

sub mend {
    my ($self) = @_;

    unlink $self->{control};
    return $self;
}

sub synced {
    my ($self) = @_;

    return map { my %s; @s{qw(size inode path)} = split / /, $_, 3; \%s }
           split /\n/, $self->{test}->read('fault.log');
}

sub library {
    return <<'EOF_C';
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char     control[4096], log_file[4096];
static ssize_t  (*real_write)(int, const void *, size_t);
static int      (*real_fdatasync)(int);

__attribute__((constructor)) static void
begin(void)
{
    const char  *name;

    name = getenv("TEST_FAULT_CONTROL");
    if (name) {
        strncpy(control, name, sizeof(control) - 1);
    }

    name = getenv("TEST_FAULT_LOG");
    if (name) {
        strncpy(log_file, name, sizeof(log_file) - 1);
    }

    real_write = (ssize_t (*)(int, const void *, size_t))
                     dlsym(RTLD_NEXT, "write");
    real_fdatasync = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
}

static int
is_record(int fd, char *name, size_t size)
{
    char     link[64];
    ssize_t  n;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, name, size - 1);

    if (n < 0) {
        return 0;
    }

    name[n] = '\0';

    return strstr(name, ".jsonl") != NULL;
}

/* the mode that is set for a function, 0 if there is none */

static int
mode_of(const char *function, char *mode, const void *buf, size_t n)
{
    int    fields, found;
    char   line[256], name[32], stage[32], pid[32], want[64];
    FILE  *f;

    f = fopen(control, "r");
    if (f == NULL) {
        return 0;
    }

    found = 0;

    while (!found && fgets(line, sizeof(line), f)) {
        strcpy(stage, "any");
        strcpy(pid, "any");

        fields = sscanf(line, "%31s %31s %31s %31s", name, mode, stage, pid);

        snprintf(want, sizeof(want), "\"stage\":\"%s\"", stage);

        found = fields >= 2 && strcmp(name, function) == 0
                && (strcmp(stage, "any") == 0
                    || (buf && memmem(buf, n, want, strlen(want))))
                && (strcmp(pid, "any") == 0 || atoi(pid) == (int) getpid());
    }

    fclose(f);

    return found;
}

static int
error_of(const char *mode)
{
    return strcmp(mode, "full") == 0 ? ENOSPC
           : strcmp(mode, "quota") == 0 ? EDQUOT
           : strcmp(mode, "readonly") == 0 ? EROFS : EIO;
}

ssize_t
write(int fd, const void *buf, size_t n)
{
    char  mode[32], name[4096];

    if (control[0] == '\0' || !is_record(fd, name, sizeof(name))
        || !mode_of("write", mode, buf, n))
    {
        return real_write(fd, buf, n);
    }

    if (strcmp(mode, "half") == 0) {
        return real_write(fd, buf, n / 2);
    }

    if (strcmp(mode, "most") == 0) {
        return real_write(fd, buf, n - 1);
    }

    errno = error_of(mode);

    return strcmp(mode, "nothing") == 0 ? 0 : -1;
}

int
fdatasync(int fd)
{
    int          rc, log;
    char         mode[32], name[4096], line[8192];
    struct stat  st;

    if (control[0] == '\0' || !is_record(fd, name, sizeof(name))
        || fstat(fd, &st) != 0)
    {
        return real_fdatasync(fd);
    }

    while (mode_of("fdatasync", mode, NULL, 0)) {

        if (strcmp(mode, "hold") != 0) {
            errno = error_of(mode);
            return -1;
        }

        usleep(5000);
    }

    rc = real_fdatasync(fd);

    log = open(log_file, O_WRONLY|O_APPEND|O_CLOEXEC);

    if (rc == 0 && log >= 0) {
        snprintf(line, sizeof(line), "%lld %llu %s\n", (long long) st.st_size,
                 (unsigned long long) st.st_ino, name);
        if (real_write(log, line, strlen(line)) < 0) {
            rc = -1;
        }
    }

    if (log >= 0) {
        close(log);
    }

    return rc;
}
EOF_C
}

1;
