
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_target.h"
#include "ngx_http_cdm_stop_text.h"


static ngx_uint_t ngx_http_cdm_stop_literal(u_char **p, u_char *last,
    char *text, size_t len);
static ngx_uint_t ngx_http_cdm_stop_project_id(u_char *p);
static ngx_uint_t ngx_http_cdm_stop_cluster_id(u_char *p);
static ngx_uint_t ngx_http_cdm_stop_hex(u_char *p, u_char *q);
static ngx_uint_t ngx_http_cdm_stop_plain(u_char *p, u_char *last);
static ngx_int_t ngx_http_cdm_stop_job_name(ngx_str_t *name, u_char *p,
    u_char *last);
static ngx_uint_t ngx_http_cdm_stop_blank(uint32_t c);


/* RFC 3986, 2.3: what stands for itself in a path: A-Z a-z 0-9 - . _ ~ */

static u_char  ngx_http_cdm_stop_unreserved[256] = {
    /* 0x00 */  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    /* 0x10 */  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    /* 0x20 */  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0,
    /* 0x30 */  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0,
    /* 0x40 */  0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    /* 0x50 */  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1,
    /* 0x60 */  0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    /* 0x70 */  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0
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
        || !ngx_http_cdm_stop_project_id(p))
    {
        goto loose;
    }

    p += NGX_HTTP_CDM_STOP_PROJECT_LEN;

    if (!ngx_http_cdm_stop_literal(&p, last, "/clusters/", 10)) {
        goto loose;
    }

    cluster = p;

    if (last - p < NGX_HTTP_CDM_STOP_CLUSTER_LEN
        || !ngx_http_cdm_stop_cluster_id(p))
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
        || ngx_memcmp(p, "/stop", sizeof("/stop") - 1) != 0)
    {
        goto loose;
    }

    if (ngx_http_cdm_stop_plain(job, p)) {
        t->job.len = p - job;
        t->job.data = job;

    } else {
        t->job.data = scratch;

        if (ngx_http_cdm_stop_job_name(&t->job, job, p) != NGX_OK) {
            goto loose;
        }
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

        if (ngx_http_cdm_stop_unreserved[c]) {
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
ngx_http_cdm_stop_project_id(u_char *p)
{
    return ngx_http_cdm_stop_hex(p, p + 4)
           & ngx_http_cdm_stop_hex(p + 8, p + 12)
           & ngx_http_cdm_stop_hex(p + 16, p + 20)
           & ngx_http_cdm_stop_hex(p + 24, p + 28);
}


/* 8-4-4-4-12 */

static ngx_uint_t
ngx_http_cdm_stop_cluster_id(u_char *p)
{
    return p[8] == '-' && p[13] == '-' && p[18] == '-' && p[23] == '-'
           && (ngx_http_cdm_stop_hex(p, p + 4)
               & ngx_http_cdm_stop_hex(p + 9, p + 14)
               & ngx_http_cdm_stop_hex(p + 19, p + 24)
               & ngx_http_cdm_stop_hex(p + 28, p + 32));
}


/* whether four bytes at p and four at q are all lower-case digits */

static ngx_uint_t
ngx_http_cdm_stop_hex(u_char *p, u_char *q)
{
    uint32_t  a, b;
    uint64_t  c, digit, letter;

    ngx_memcpy(&a, p, 4);
    ngx_memcpy(&b, q, 4);

    c = (uint64_t) a << 32 | b;

    /* with no byte above 0x7f, no sum carries into the next byte */

    if (c & NGX_HTTP_CDM_STOP_BYTES(0x80)) {
        return 0;
    }

    /* the top bit of a byte: not below the first, and not above the last */

    digit = (c + NGX_HTTP_CDM_STOP_BYTES(0x80 - '0'))
            & ~(c + NGX_HTTP_CDM_STOP_BYTES(0x7f - '9'));
    letter = (c + NGX_HTTP_CDM_STOP_BYTES(0x80 - 'a'))
             & ~(c + NGX_HTTP_CDM_STOP_BYTES(0x7f - 'f'));

    return ((digit | letter) & NGX_HTTP_CDM_STOP_BYTES(0x80))
           == NGX_HTTP_CDM_STOP_BYTES(0x80);
}


/* a name that decoding leaves as it is, and that no check would refuse */

static ngx_uint_t
ngx_http_cdm_stop_plain(u_char *p, u_char *last)
{
    if (p == last
        || *p == '.'
        || last - p > NGX_HTTP_CDM_STOP_JOB_CHARS)
    {
        return 0;
    }

    while (p < last && ngx_http_cdm_stop_unreserved[*p]) {
        p++;
    }

    return p == last;
}


/*
 * Decodes a name to name->data, once, and checks it; nothing that is decoded
 * is read again.
 */

static ngx_int_t
ngx_http_cdm_stop_job_name(ngx_str_t *name, u_char *p, u_char *last)
{
    u_char      *dst, *end;
    uint32_t     c, previous;
    ngx_int_t    n;
    ngx_uint_t   chars;

    dst = name->data;
    end = name->data + NGX_HTTP_CDM_STOP_JOB_LEN;

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

    name->len = dst - name->data;

    chars = 0;
    previous = ' ';
    p = name->data;

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

    if ((name->len == 1 && name->data[0] == '.')
        || (name->len == 2 && name->data[0] == '.' && name->data[1] == '.'))
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_cdm_stop_blank(uint32_t c)
{
    return c == ' ' || c == 0xa0 || c == 0x1680
           || (c >= 0x2000 && c <= 0x200b) || c == 0x2028 || c == 0x2029
           || c == 0x202f || c == 0x205f || c == 0x2060 || c == 0x3000
           || c == 0xfeff;
}
