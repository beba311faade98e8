
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* Files line by line, in pieces of a megabyte */


#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "audit.h"


#define CDM_STOP_AUDIT_BUFFER  (1024 * 1024)


static ssize_t cdm_stop_audit_fill(cdm_stop_audit_reader_t *reader);


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
