
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_target.h"
#include "ngx_http_cdm_stop_text.h"


#define NGX_HTTP_CDM_STOP_SEGMENTS   8

/* room for slashes at the end, which are empty segments to some readers */
#define NGX_HTTP_CDM_STOP_PATH_MAX   16

/* a stop has at most 2,977 bytes: nobody needs longer ones taken apart */
#define NGX_HTTP_CDM_STOP_LOOSE_LEN  8192


/* normalisations that some server or proxy may or may not apply to a target */

#define NGX_HTTP_CDM_STOP_N_MERGE       0x01    /* // is / */
#define NGX_HTTP_CDM_STOP_N_DOTS        0x02    /* . and .. are resolved */
#define NGX_HTTP_CDM_STOP_N_BACKSLASH   0x04    /* \ is / */
#define NGX_HTTP_CDM_STOP_N_PARAMS      0x08    /* ;a=b ends a segment */
#define NGX_HTTP_CDM_STOP_N_SEMICOLON   0x10    /* ; ends the target */
#define NGX_HTTP_CDM_STOP_N_FRAGMENT    0x20    /* # ends the target */
#define NGX_HTTP_CDM_STOP_N_QUERY       0x40    /* ? ends the target */
#define NGX_HTTP_CDM_STOP_N_LAST        0x80


typedef struct {
    ngx_str_t   segment[NGX_HTTP_CDM_STOP_PATH_MAX];
    ngx_uint_t  n;
} ngx_http_cdm_stop_path_t;


static ngx_uint_t ngx_http_cdm_stop_literal(u_char **p, u_char *last,
    char *text, size_t len);
static ngx_uint_t ngx_http_cdm_stop_project_id(u_char *p, size_t len);
static ngx_uint_t ngx_http_cdm_stop_cluster_id(u_char *p, size_t len);
static ngx_int_t ngx_http_cdm_stop_job_name(ngx_http_cdm_stop_target_t *t,
    u_char *p, u_char *last);
static ngx_uint_t ngx_http_cdm_stop_blank(uint32_t c);
static ngx_uint_t ngx_http_cdm_stop_hex(u_char c);
static u_char *ngx_http_cdm_stop_decode(u_char *dst, u_char *src, u_char *last,
    ngx_uint_t again);
static u_char *ngx_http_cdm_stop_fold(u_char *p, u_char *last);
static ngx_uint_t ngx_http_cdm_stop_has_words(u_char *p, u_char *last);
static ngx_uint_t ngx_http_cdm_stop_triggers(u_char *p, u_char *last);
static ngx_uint_t ngx_http_cdm_stop_any_reading(u_char *p, u_char *last);
static ngx_uint_t ngx_http_cdm_stop_reading(u_char *p, u_char *last,
    ngx_uint_t flags);
static u_char *ngx_http_cdm_stop_cut(u_char *p, u_char *last,
    ngx_uint_t flags);
static void ngx_http_cdm_stop_path_add(ngx_http_cdm_stop_path_t *path,
    u_char *p, u_char *last, ngx_uint_t flags);
static ngx_uint_t ngx_http_cdm_stop_path_match(ngx_http_cdm_stop_path_t *path);


/* the fixed segments of a stop; an id or a name stands where it is empty */

static ngx_str_t  ngx_http_cdm_stop_shape[NGX_HTTP_CDM_STOP_SEGMENTS] = {
    ngx_string("v1.1"),
    ngx_null_string,
    ngx_string("clusters"),
    ngx_null_string,
    ngx_string("cdm"),
    ngx_string("job"),
    ngx_null_string,
    ngx_string("stop")
};


ngx_int_t
ngx_http_cdm_stop_target_parse(ngx_http_cdm_stop_target_t *t, ngx_str_t *uri,
    u_char *scratch)
{
    u_char  *p, *last, *project, *cluster, *job;

    p = uri->data;
    last = p + uri->len;

    if (!ngx_http_cdm_stop_literal(&p, last, "/v1.1/", 6)) {
        goto loose;
    }

    project = p;

    if (last - p < NGX_HTTP_CDM_STOP_PROJECT_LEN
        || !ngx_http_cdm_stop_project_id(p, NGX_HTTP_CDM_STOP_PROJECT_LEN))
    {
        goto loose;
    }

    p += NGX_HTTP_CDM_STOP_PROJECT_LEN;

    if (!ngx_http_cdm_stop_literal(&p, last, "/clusters/", 10)) {
        goto loose;
    }

    cluster = p;

    if (last - p < NGX_HTTP_CDM_STOP_CLUSTER_LEN
        || !ngx_http_cdm_stop_cluster_id(p, NGX_HTTP_CDM_STOP_CLUSTER_LEN))
    {
        goto loose;
    }

    p += NGX_HTTP_CDM_STOP_CLUSTER_LEN;

    if (!ngx_http_cdm_stop_literal(&p, last, "/cdm/job/", 9)) {
        goto loose;
    }

    job = p;

    p = ngx_strlchr(p, last, '/');

    if (p == NULL
        || last - p != sizeof("/stop") - 1
        || ngx_memcmp(p, "/stop", sizeof("/stop") - 1) != 0
        || ngx_http_cdm_stop_job_name(t, job, p) != NGX_OK)
    {
        goto loose;
    }

    t->project.len = NGX_HTTP_CDM_STOP_PROJECT_LEN;
    t->project.data = project;

    t->cluster.len = NGX_HTTP_CDM_STOP_CLUSTER_LEN;
    t->cluster.data = cluster;

    return NGX_OK;

loose:

    if (ngx_http_cdm_stop_target_resembles(uri, scratch)) {
        return NGX_ERROR;
    }

    return NGX_DECLINED;
}


u_char *
ngx_http_cdm_stop_target_build(u_char *dst, ngx_http_cdm_stop_target_t *t)
{
    u_char         c;
    size_t         i;
    static u_char  hex[] = "0123456789ABCDEF";

    dst = ngx_cpymem(dst, "/v1.1/", 6);
    dst = ngx_cpymem(dst, t->project.data, t->project.len);
    dst = ngx_cpymem(dst, "/clusters/", 10);
    dst = ngx_cpymem(dst, t->cluster.data, t->cluster.len);
    dst = ngx_cpymem(dst, "/cdm/job/", 9);

    for (i = 0; i < t->job.len; i++) {

        c = t->job.data[i];

        if ((c >= '0' && c <= '9')
            || (c >= 'A' && c <= 'Z')
            || (c >= 'a' && c <= 'z')
            || c == '-' || c == '.' || c == '_' || c == '~')
        {
            *dst++ = c;
            continue;
        }

        *dst++ = '%';
        *dst++ = hex[c >> 4];
        *dst++ = hex[c & 0xf];
    }

    return ngx_cpymem(dst, "/stop", 5);
}


ngx_uint_t
ngx_http_cdm_stop_target_equal(ngx_http_cdm_stop_target_t *t, ngx_str_t *uri)
{
    u_char  *p, *last;

    p = uri->data;
    last = p + uri->len;

    return ngx_http_cdm_stop_literal(&p, last, "/v1.1/", 6)
           && ngx_http_cdm_stop_literal(&p, last, (char *) t->project.data,
                                        t->project.len)
           && ngx_http_cdm_stop_literal(&p, last, "/clusters/", 10)
           && ngx_http_cdm_stop_literal(&p, last, (char *) t->cluster.data,
                                        t->cluster.len)
           && ngx_http_cdm_stop_literal(&p, last, "/cdm/job/", 9)
           && ngx_http_cdm_stop_literal(&p, last, (char *) t->job.data,
                                        t->job.len)
           && ngx_http_cdm_stop_literal(&p, last, "/stop", 5)
           && p == last;
}


static ngx_uint_t
ngx_http_cdm_stop_literal(u_char **p, u_char *last, char *text, size_t len)
{
    if ((size_t) (last - *p) < len || ngx_memcmp(*p, text, len) != 0) {
        return 0;
    }

    *p += len;

    return 1;
}


static ngx_uint_t
ngx_http_cdm_stop_project_id(u_char *p, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        if (!ngx_http_cdm_stop_hex(p[i])) {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_cdm_stop_cluster_id(u_char *p, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {

        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (p[i] != '-') {
                return 0;
            }

        } else if (!ngx_http_cdm_stop_hex(p[i])) {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_cdm_stop_hex(u_char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}


/* decodes a name once and checks it; nothing that is decoded is read again */

static ngx_int_t
ngx_http_cdm_stop_job_name(ngx_http_cdm_stop_target_t *t, u_char *p,
    u_char *last)
{
    u_char      *dst, *end;
    uint32_t     c, previous;
    ngx_int_t    n;
    ngx_uint_t   chars;

    dst = t->name;
    end = t->name + NGX_HTTP_CDM_STOP_JOB_LEN;

    while (p < last) {

        if (dst == end) {
            return NGX_ERROR;
        }

        if (*p != '%') {
            *dst++ = *p++;
            continue;
        }

        if (last - p < 3) {
            return NGX_ERROR;
        }

        n = ngx_hextoi(p + 1, 2);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        *dst++ = (u_char) n;
        p += 3;
    }

    t->job.data = t->name;
    t->job.len = dst - t->name;

    chars = 0;
    previous = ' ';
    p = t->name;

    while (p < dst) {

        c = ngx_http_cdm_stop_utf8_decode(&p, dst);

        if (c == NGX_HTTP_CDM_STOP_BAD_UTF8
            || c < 0x20 || (c >= 0x7f && c <= 0x9f)
            || c == '/' || c == '\\' || c == '%'
            || c == ';' || c == '?' || c == '#')
        {
            return NGX_ERROR;
        }

        if (chars == 0 && ngx_http_cdm_stop_blank(c)) {
            return NGX_ERROR;
        }

        previous = c;
        chars++;
    }

    /* an empty name ends here as well */

    if (chars > NGX_HTTP_CDM_STOP_JOB_CHARS
        || ngx_http_cdm_stop_blank(previous))
    {
        return NGX_ERROR;
    }

    if ((t->job.len == 1 && t->name[0] == '.')
        || (t->job.len == 2 && t->name[0] == '.' && t->name[1] == '.'))
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_cdm_stop_blank(uint32_t c)
{
    return c == ' ' || c == 0xa0 || c == 0x3000;
}


ngx_uint_t
ngx_http_cdm_stop_target_resembles(ngx_str_t *uri, u_char *scratch)
{
    u_char      *raw, *next, *last, *raw_last;
    ngx_uint_t   level;

    raw = scratch;
    next = scratch + uri->len;

    /*
     * Most requests that are no stop lack one of its words however they are
     * read, and end here; the many readings below are for the few others.
     */

    last = ngx_http_cdm_stop_decode(next, uri->data, uri->data + uri->len, 1);
    last = ngx_http_cdm_stop_fold(next, last);

    if (!ngx_http_cdm_stop_has_words(next, last)) {
        return 0;
    }

    if (uri->len > NGX_HTTP_CDM_STOP_LOOSE_LEN
        || ngx_http_cdm_stop_any_reading(next, last))
    {
        return 1;
    }

    /* not decoded, decoded once and twice */

    ngx_memcpy(raw, uri->data, uri->len);
    raw_last = raw + uri->len;

    for (level = 0; level < 3; level++) {

        last = ngx_cpymem(next, raw, raw_last - raw);
        last = ngx_http_cdm_stop_fold(next, last);

        if (ngx_http_cdm_stop_any_reading(next, last)) {
            return 1;
        }

        raw_last = ngx_http_cdm_stop_decode(raw, raw, raw_last, 0);
    }

    return 0;
}


/* "again" decodes until nothing is left to decode; dst may be src */

static u_char *
ngx_http_cdm_stop_decode(u_char *dst, u_char *src, u_char *last,
    ngx_uint_t again)
{
    u_char     *start;
    ngx_int_t   n;

    start = dst;

    while (src < last) {

        *dst++ = *src++;

        /* what was decoded may complete an escape that began before it */

        while (dst - start >= 3 && dst[-3] == '%') {

            n = ngx_hextoi(dst - 2, 2);

            if (n == NGX_ERROR) {
                break;
            }

            dst -= 3;
            *dst++ = (u_char) n;

            if (!again) {
                start = dst;
            }
        }
    }

    return dst;
}


/*
 * Lower case; fullwidth and overlong forms of ASCII become ASCII; controls
 * and blanks, which some parsers skip, are dropped.
 */

static u_char *
ngx_http_cdm_stop_fold(u_char *p, u_char *last)
{
    u_char  c, *dst;

    dst = p;

    while (p < last) {

        c = *p++;

        if ((c == 0xc0 || c == 0xc1) && p < last && (*p & 0xc0) == 0x80) {
            c = ((c & 0x03) << 6) | (*p++ & 0x3f);

        } else if (c == 0xc2 && p < last && *p >= 0x80 && *p <= 0x9f) {
            p++;
            continue;

        } else if (c == 0xef && last - p >= 2 && p[0] == 0xbc
                   && p[1] >= 0x81 && p[1] <= 0xbf)
        {
            c = p[1] - 0x60;
            p += 2;

        } else if (c == 0xef && last - p >= 2 && p[0] == 0xbd
                   && p[1] >= 0x80 && p[1] <= 0x9e)
        {
            c = p[1] - 0x20;
            p += 2;
        }

        if (c <= 0x20 || c == 0x7f) {
            continue;
        }

        *dst++ = ngx_tolower(c);
    }

    return dst;
}


static ngx_uint_t
ngx_http_cdm_stop_has_words(u_char *p, u_char *last)
{
    ngx_str_t   *word;
    ngx_uint_t   i;

    for (i = NGX_HTTP_CDM_STOP_SEGMENTS; i > 0; i--) {

        word = &ngx_http_cdm_stop_shape[i - 1];

        if (word->len
            && ngx_strlcasestrn(p, last, word->data, word->len - 1) == NULL)
        {
            return 0;
        }
    }

    return 1;
}


/* tries every combination of the normalisations that can matter here */

static ngx_uint_t
ngx_http_cdm_stop_any_reading(u_char *p, u_char *last)
{
    ngx_uint_t  flags, triggers;

    triggers = ngx_http_cdm_stop_triggers(p, last);

    for (flags = 0; flags < NGX_HTTP_CDM_STOP_N_LAST; flags++) {

        if ((flags & triggers) == flags
            && ngx_http_cdm_stop_reading(p, last, flags))
        {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_cdm_stop_triggers(u_char *p, u_char *last)
{
    ngx_uint_t  triggers;

    triggers = NGX_HTTP_CDM_STOP_N_MERGE;

    for ( /* void */ ; p < last; p++) {

        switch (*p) {

        case '.':
            triggers |= NGX_HTTP_CDM_STOP_N_DOTS;
            break;

        case '\\':
            triggers |= NGX_HTTP_CDM_STOP_N_BACKSLASH;
            break;

        case ';':
            triggers |= NGX_HTTP_CDM_STOP_N_PARAMS
                        |NGX_HTTP_CDM_STOP_N_SEMICOLON;
            break;

        case '#':
            triggers |= NGX_HTTP_CDM_STOP_N_FRAGMENT;
            break;

        case '?':
            triggers |= NGX_HTTP_CDM_STOP_N_QUERY;
            break;
        }
    }

    return triggers;
}


static ngx_uint_t
ngx_http_cdm_stop_reading(u_char *p, u_char *last, ngx_uint_t flags)
{
    u_char                    *start;
    ngx_http_cdm_stop_path_t   path;

    last = ngx_http_cdm_stop_cut(p, last, flags);

    path.n = 0;

    if (p < last
        && (*p == '/'
            || (*p == '\\' && (flags & NGX_HTTP_CDM_STOP_N_BACKSLASH))))
    {
        p++;
    }

    for (start = p; /* void */ ; p++) {

        if (p < last
            && *p != '/'
            && (*p != '\\' || !(flags & NGX_HTTP_CDM_STOP_N_BACKSLASH)))
        {
            continue;
        }

        ngx_http_cdm_stop_path_add(&path, start, p, flags);

        if (p >= last) {
            break;
        }

        start = p + 1;
    }

    return ngx_http_cdm_stop_path_match(&path);
}


static u_char *
ngx_http_cdm_stop_cut(u_char *p, u_char *last, ngx_uint_t flags)
{
    for ( /* void */ ; p < last; p++) {

        if ((*p == '#' && (flags & NGX_HTTP_CDM_STOP_N_FRAGMENT))
            || (*p == '?' && (flags & NGX_HTTP_CDM_STOP_N_QUERY))
            || (*p == ';' && (flags & NGX_HTTP_CDM_STOP_N_SEMICOLON)))
        {
            return p;
        }
    }

    return last;
}


/*
 * Only the first segments are kept, all are counted: "path->n" may grow
 * beyond the array and come back by "..".
 */

static void
ngx_http_cdm_stop_path_add(ngx_http_cdm_stop_path_t *path, u_char *p,
    u_char *last, ngx_uint_t flags)
{
    u_char  *semicolon;

    if (flags & NGX_HTTP_CDM_STOP_N_PARAMS) {
        semicolon = ngx_strlchr(p, last, ';');

        if (semicolon) {
            last = semicolon;
        }
    }

    if (p == last && (flags & NGX_HTTP_CDM_STOP_N_MERGE)) {
        return;
    }

    if (flags & NGX_HTTP_CDM_STOP_N_DOTS) {

        if (last - p == 1 && p[0] == '.') {
            return;
        }

        if (last - p == 2 && p[0] == '.' && p[1] == '.') {
            path->n -= (path->n > 0);
            return;
        }
    }

    if (path->n < NGX_HTTP_CDM_STOP_PATH_MAX) {
        path->segment[path->n].data = p;
        path->segment[path->n].len = last - p;
    }

    path->n++;
}


static ngx_uint_t
ngx_http_cdm_stop_path_match(ngx_http_cdm_stop_path_t *path)
{
    ngx_str_t   *segment, *word;
    ngx_uint_t   i;

    if (path->n < NGX_HTTP_CDM_STOP_SEGMENTS
        || path->n > NGX_HTTP_CDM_STOP_PATH_MAX)
    {
        return 0;
    }

    for (i = NGX_HTTP_CDM_STOP_SEGMENTS; i < path->n; i++) {
        if (path->segment[i].len) {
            return 0;
        }
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_SEGMENTS; i++) {

        word = &ngx_http_cdm_stop_shape[i];
        segment = &path->segment[i];

        if (word->len
            && (segment->len != word->len
                || ngx_memcmp(segment->data, word->data, word->len) != 0))
        {
            return 0;
        }
    }

    return 1;
}
