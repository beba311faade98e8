
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * The order of files.  Names do not matter: of two files that have records of
 * one chain, the one with the lower numbers comes first.  A chain that begins
 * within a file is seen at its end, so both ends are looked at.  Files that
 * have nothing in common are in the order of their times.
 */


#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "audit.h"


/* so many lines of the begin, and so many bytes of the end */
#define CDM_STOP_AUDIT_PEEK_LINES  1000
#define CDM_STOP_AUDIT_PEEK_GOOD   64
#define CDM_STOP_AUDIT_PEEK_END    (2 * CDM_STOP_AUDIT_LINE_MAX)


static int cdm_stop_audit_peek(cdm_stop_audit_file_t *file);
static int cdm_stop_audit_packed(cdm_stop_audit_reader_t *reader);
static int cdm_stop_audit_peek_lines(cdm_stop_audit_file_t *file,
    cdm_stop_audit_reader_t *reader);
static void cdm_stop_audit_span(cdm_stop_audit_file_t *file,
    cdm_stop_audit_line_t *line);
static int cdm_stop_audit_sort(cdm_stop_audit_opts_t *opts);
static int cdm_stop_audit_precedes(const cdm_stop_audit_file_t *a,
    const cdm_stop_audit_file_t *b);
static int cdm_stop_audit_earlier(const cdm_stop_audit_file_t *a,
    const cdm_stop_audit_file_t *b);


int
cdm_stop_audit_order(cdm_stop_audit_opts_t *opts)
{
    int  i;

    for (i = 0; i < opts->nfiles; i++) {

        if (cdm_stop_audit_peek(&opts->files[i]) != 0) {
            return -1;
        }
    }

    return cdm_stop_audit_sort(opts);
}


static int
cdm_stop_audit_peek(cdm_stop_audit_file_t *file)
{
    int                      rc;
    struct stat              st;
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

    if (cdm_stop_audit_packed(&reader)) {
        cdm_stop_audit_error("%s: it is compressed; give it unpacked",
                             file->name);
        cdm_stop_audit_close(&reader);
        return -1;
    }

    file->size = st.st_size;

    rc = cdm_stop_audit_peek_lines(file, &reader);

    if (rc == 0 && st.st_size > CDM_STOP_AUDIT_PEEK_END
        && lseek(reader.fd, -CDM_STOP_AUDIT_PEEK_END, SEEK_END) != -1)
    {
        /* the first piece is no line as a rule, and no record then */

        reader.pos = 0;
        reader.last = 0;

        rc = cdm_stop_audit_peek_lines(file, &reader);
    }

    if (rc != 0) {
        cdm_stop_audit_error("%s: %s", file->name, strerror(reader.error));
    }

    cdm_stop_audit_close(&reader);

    return rc;
}


/* of gzip, xz, zstd and bzip2, whose names "FILE*" has as well */

static int
cdm_stop_audit_packed(cdm_stop_audit_reader_t *reader)
{
    unsigned char  c[4];

    return pread(reader->fd, c, sizeof(c), 0) == sizeof(c)
           && ((c[0] == 0x1f && c[1] == 0x8b)
               || memcmp(c, "\xfd" "7zX", 4) == 0
               || memcmp(c, "\x28\xb5\x2f\xfd", 4) == 0
               || memcmp(c, "BZh", 3) == 0);
}


static int
cdm_stop_audit_peek_lines(cdm_stop_audit_file_t *file,
    cdm_stop_audit_reader_t *reader)
{
    int                    rc, lines, good;
    const unsigned char   *data;
    cdm_stop_audit_str_t  *time;
    cdm_stop_audit_line_t  line;

    rc = 0;
    good = 0;

    for (lines = 0; lines < CDM_STOP_AUDIT_PEEK_LINES
                    && good < CDM_STOP_AUDIT_PEEK_GOOD; lines++)
    {
        rc = cdm_stop_audit_next(reader, &data);

        if (rc != 1) {
            break;
        }

        if (reader->too_long
            || cdm_stop_audit_line(data, reader->len, &line) != NULL)
        {
            continue;
        }

        good++;
        cdm_stop_audit_span(file, &line);

        if (file->time[0] == '\0') {
            time = &line.members[CDM_STOP_AUDIT_TIME];
            memcpy(file->time, time->data, time->len);
        }
    }

    return rc == -1 ? -1 : 0;
}


static void
cdm_stop_audit_span(cdm_stop_audit_file_t *file, cdm_stop_audit_line_t *line)
{
    int                     i;
    cdm_stop_audit_str_t   *id;
    cdm_stop_audit_span_t  *span;

    id = &line->members[CDM_STOP_AUDIT_CHAIN];

    for (i = 0; i < file->nspans; i++) {
        span = &file->spans[i];

        if (cdm_stop_audit_is(id, span->chain)) {
            span->seq = line->seq < span->seq ? line->seq : span->seq;
            return;
        }
    }

    if (file->nspans < CDM_STOP_AUDIT_SPANS) {
        span = &file->spans[file->nspans++];
        span->seq = line->seq;
        memcpy(span->chain, id->data, CDM_STOP_AUDIT_CHAIN_LEN);
    }
}


/* the earliest of those before which nothing is left, one after the other */

static int
cdm_stop_audit_sort(cdm_stop_audit_opts_t *opts)
{
    size_t                  i, k, n, best;
    cdm_stop_audit_file_t  *files, *sorted;

    n = opts->nfiles;
    files = opts->files;

    sorted = calloc(n, sizeof(cdm_stop_audit_file_t));
    if (sorted == NULL) {
        cdm_stop_audit_error("there is no memory");
        return -1;
    }

    for (i = 0; i < n; i++) {
        for (k = 0; k < n; k++) {
            files[i].before += cdm_stop_audit_precedes(&files[k], &files[i]);
        }
    }

    for (k = 0; k < n; k++) {
        best = 0;

        for (i = 1; i < n - k; i++) {

            /* in a circle, which only a forger makes, time decides */

            if ((files[i].before > 0) != (files[best].before > 0)) {
                best = files[i].before > 0 ? best : i;

            } else if (cdm_stop_audit_earlier(&files[i], &files[best])) {
                best = i;
            }
        }

        sorted[k] = files[best];
        files[best] = files[n - k - 1];

        for (i = 0; i < n - k - 1; i++) {
            files[i].before -= cdm_stop_audit_precedes(&sorted[k], &files[i]);
        }
    }

    memcpy(files, sorted, n * sizeof(cdm_stop_audit_file_t));
    free(sorted);

    return 0;
}


static int
cdm_stop_audit_precedes(const cdm_stop_audit_file_t *a,
    const cdm_stop_audit_file_t *b)
{
    int  i, k;

    for (i = 0; i < a->nspans; i++) {

        for (k = 0; k < b->nspans; k++) {

            if (a->spans[i].seq != b->spans[k].seq
                && strcmp(a->spans[i].chain, b->spans[k].chain) == 0)
            {
                return a->spans[i].seq < b->spans[k].seq;
            }
        }
    }

    return 0;
}


static int
cdm_stop_audit_earlier(const cdm_stop_audit_file_t *a,
    const cdm_stop_audit_file_t *b)
{
    int  rc;

    rc = strcmp(a->time, b->time);

    return rc ? rc < 0 : strcmp(a->name, b->name) < 0;
}
