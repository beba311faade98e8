
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_target.h"
#include "ngx_http_cdm_stop_text.h"


static ngx_uint_t ngx_http_cdm_stop_literal(u_char **p, u_char *last,
    char *text, size_t len);
static ngx_uint_t ngx_http_cdm_stop_project_id(u_char *p, size_t len);
static ngx_uint_t ngx_http_cdm_stop_cluster_id(u_char *p, size_t len);
static ngx_int_t ngx_http_cdm_stop_job_name(ngx_str_t *name, u_char *p,
    u_char *last);
static ngx_uint_t ngx_http_cdm_stop_blank(uint32_t c);


static u_char  ngx_http_cdm_stop_hex[256] = {
    ['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1, ['5'] = 1,
    ['6'] = 1, ['7'] = 1, ['8'] = 1, ['9'] = 1, ['a'] = 1, ['b'] = 1,
    ['c'] = 1, ['d'] = 1, ['e'] = 1, ['f'] = 1
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
        || ngx_memcmp(p, "/stop", sizeof("/stop") - 1) != 0)
    {
        goto loose;
    }

    t->job.data = scratch;

    if (ngx_http_cdm_stop_job_name(&t->job, job, p) != NGX_OK) {
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
    size_t      i;
    ngx_uint_t  hex;

    hex = 1;

    for (i = 0; i < len; i++) {
        hex &= ngx_http_cdm_stop_hex[p[i]];
    }

    return hex;
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

        } else if (!ngx_http_cdm_stop_hex[p[i]]) {
            return 0;
        }
    }

    return 1;
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
