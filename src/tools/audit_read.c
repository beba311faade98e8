
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* Files line by line, in pieces of a megabyte, and their order */


#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "audit.h"


#define CDM_STOP_AUDIT_BUFFER  (1024 * 1024)


static ssize_t cdm_stop_audit_fill(cdm_stop_audit_reader_t *reader);
static int cdm_stop_audit_peek(cdm_stop_audit_file_t *file);
static int cdm_stop_audit_compare(const void *one, const void *two);


int
cdm_stop_audit_open(cdm_stop_audit_reader_t *reader, const char *name)
{
    memset(reader, 0, sizeof(cdm_stop_audit_reader_t));

    reader->fd = open(name, O_RDONLY|O_CLOEXEC|O_NOCTTY);
    if (reader->fd == -1) {
        return -1;
    }

    (void) posix_fadvise(reader->fd, 0, 0, POSIX_FADV_SEQUENTIAL);

    reader->size = CDM_STOP_AUDIT_BUFFER;

    reader->buffer = malloc(reader->size);
    if (reader->buffer == NULL) {
        close(reader->fd);
        return -1;
    }

    return 0;
}


void
cdm_stop_audit_close(cdm_stop_audit_reader_t *reader)
{
    free(reader->buffer);
    close(reader->fd);
}


int
cdm_stop_audit_next(cdm_stop_audit_reader_t *reader,
    const unsigned char **data)
{
    size_t          seen;
    ssize_t         n;
    unsigned char  *start, *lf;

    reader->place.line++;
    reader->place.offset = reader->done;
    reader->len = 0;
    reader->too_long = 0;
    reader->unended = 0;

    seen = 0;

    for ( ;; ) {
        start = reader->buffer + reader->pos;
        lf = NULL;

        if (reader->last > reader->pos + seen) {
            lf = memchr(start + seen, '\n', reader->last - reader->pos - seen);
        }

        if (lf) {
            break;
        }

        seen = reader->last - reader->pos;

        if (reader->too_long || seen > CDM_STOP_AUDIT_LINE_MAX) {
            /* only its length matters from here on */

            reader->too_long = 1;
            reader->len += seen;
            reader->done += seen;
            reader->pos = reader->last;
            seen = 0;
        }

        n = cdm_stop_audit_fill(reader);

        if (n == -1) {
            return -1;
        }

        if (n == 0) {
            if (seen == 0 && reader->len == 0) {
                return 0;
            }

            reader->unended = 1;
            lf = reader->buffer + reader->last;
            start = reader->buffer + reader->pos;
            break;
        }
    }

    *data = start;

    reader->len += lf - start;
    reader->done += lf - start + !reader->unended;
    reader->pos = lf - reader->buffer + !reader->unended;

    if (reader->len > CDM_STOP_AUDIT_LINE_MAX) {
        reader->too_long = 1;
    }

    return 1;
}


static ssize_t
cdm_stop_audit_fill(cdm_stop_audit_reader_t *reader)
{
    ssize_t  n;

    memmove(reader->buffer, reader->buffer + reader->pos,
            reader->last - reader->pos);
    reader->last -= reader->pos;
    reader->pos = 0;

    do {
        n = read(reader->fd, reader->buffer + reader->last,
                 reader->size - reader->last);
    } while (n == -1 && errno == EINTR);

    if (n == -1) {
        reader->error = errno;
        return -1;
    }

    reader->last += n;

    return n;
}


int
cdm_stop_audit_order(cdm_stop_audit_opts_t *opts)
{
    int  i;

    for (i = 0; i < opts->nfiles; i++) {

        if (cdm_stop_audit_peek(&opts->files[i]) != 0) {
            return -1;
        }
    }

    qsort(opts->files, opts->nfiles, sizeof(cdm_stop_audit_file_t),
          cdm_stop_audit_compare);

    return 0;
}


/* the first record of a file tells its place */

static int
cdm_stop_audit_peek(cdm_stop_audit_file_t *file)
{
    int                      rc, tries;
    struct stat              st;
    const unsigned char     *data;
    cdm_stop_audit_line_t    line;
    cdm_stop_audit_reader_t  reader;

    if (cdm_stop_audit_open(&reader, file->name) != 0) {
        cdm_stop_audit_error("%s: %s", file->name, strerror(errno));
        return -1;
    }

    if (fstat(reader.fd, &st) == -1 || !S_ISREG(st.st_mode)) {
        cdm_stop_audit_error("%s: it is no regular file; records are read "
                             "twice, to put files in order", file->name);
        cdm_stop_audit_close(&reader);
        return -1;
    }

    file->size = st.st_size;

    for (tries = 0; tries < 1000; tries++) {
        rc = cdm_stop_audit_next(&reader, &data);

        if (rc == -1) {
            cdm_stop_audit_error("%s: %s", file->name,
                                 strerror(reader.error));
            cdm_stop_audit_close(&reader);
            return -1;
        }

        if (rc == 0) {
            break;
        }

        if (!reader.too_long
            && cdm_stop_audit_line(data, reader.len, &line) == NULL)
        {
            file->seq = line.seq;
            memcpy(file->chain, line.members[CDM_STOP_AUDIT_CHAIN].data,
                   CDM_STOP_AUDIT_CHAIN_LEN);
            memcpy(file->time, line.members[CDM_STOP_AUDIT_TIME].data,
                   line.members[CDM_STOP_AUDIT_TIME].len);
            break;
        }
    }

    cdm_stop_audit_close(&reader);

    return 0;
}


static int
cdm_stop_audit_compare(const void *one, const void *two)
{
    int                           rc;
    const cdm_stop_audit_file_t  *a, *b;

    a = one;
    b = two;

    rc = strcmp(a->chain, b->chain);

    if (rc == 0) {
        rc = (a->seq > b->seq) - (a->seq < b->seq);
    }

    return rc ? rc : strcmp(a->name, b->name);
}
