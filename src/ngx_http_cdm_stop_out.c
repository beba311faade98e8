
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_status.h"


#define NGX_HTTP_CDM_STOP_OUT_SIZE  16384


static u_char *ngx_http_cdm_stop_out_room(ngx_http_cdm_stop_out_t *out,
    size_t size);
static void ngx_http_cdm_stop_out_seal(ngx_http_cdm_stop_out_t *out);
static ngx_int_t ngx_http_cdm_stop_out_quantile(
    ngx_http_cdm_stop_histogram_t *h, const ngx_uint_t *bounds,
    ngx_uint_t count, ngx_uint_t percent);
static void ngx_http_cdm_stop_out_fraction(ngx_http_cdm_stop_out_t *out,
    const char *key, ngx_uint_t value, ngx_uint_t unit);


ngx_int_t
ngx_http_cdm_stop_out_init(ngx_http_cdm_stop_out_t *out, ngx_pool_t *pool)
{
    ngx_memzero(out, sizeof(ngx_http_cdm_stop_out_t));

    out->pool = pool;
    out->last = &out->first;

    return ngx_http_cdm_stop_out_room(out, 1) ? NGX_OK : NGX_ERROR;
}


/* so many bytes at out->pos, or NULL */

static u_char *
ngx_http_cdm_stop_out_room(ngx_http_cdm_stop_out_t *out, size_t size)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    if (out->failed) {
        return NULL;
    }

    if ((size_t) (out->end - out->pos) >= size) {
        return out->pos;
    }

    cl = ngx_alloc_chain_link(out->pool);
    b = ngx_create_temp_buf(out->pool,
                            ngx_max(size, NGX_HTTP_CDM_STOP_OUT_SIZE));

    if (cl == NULL || b == NULL) {
        out->failed = 1;
        return NULL;
    }

    if (out->first) {
        ngx_http_cdm_stop_out_seal(out);
    }

    cl->buf = b;
    cl->next = NULL;

    *out->last = cl;
    out->last = &cl->next;
    out->buf = b;

    out->pos = b->pos;
    out->end = b->end;

    return out->pos;
}


/* the buffer is full enough */

static void
ngx_http_cdm_stop_out_seal(ngx_http_cdm_stop_out_t *out)
{
    out->buf->last = out->pos;
    out->length += out->pos - out->buf->pos;
}


ngx_chain_t *
ngx_http_cdm_stop_out_end(ngx_http_cdm_stop_out_t *out)
{
    if (out->failed) {
        return NULL;
    }

    ngx_http_cdm_stop_out_seal(out);

    out->buf->last_buf = 1;
    out->buf->last_in_chain = 1;

    return out->first;
}


void ngx_cdecl
ngx_http_cdm_stop_out(ngx_http_cdm_stop_out_t *out, const char *fmt, ...)
{
    u_char   *p;
    va_list   args;

    p = ngx_http_cdm_stop_out_room(out, NGX_HTTP_CDM_STOP_OUT_MAX);

    if (p == NULL) {
        return;
    }

    va_start(args, fmt);
    out->pos = ngx_vslprintf(p, p + NGX_HTTP_CDM_STOP_OUT_MAX, fmt, args);
    va_end(args);
}


/*
 * The format has no escapes but for a backslash, a quote and a line feed; what
 * could change how the text around it is shown has no place in a label.
 */

void
ngx_http_cdm_stop_out_label(ngx_http_cdm_stop_out_t *out, u_char *data,
    size_t len)
{
    u_char    *p, *start, *dst, *last;
    uint32_t   c;

    /* the longest form of a byte is U+FFFD */

    dst = ngx_http_cdm_stop_out_room(out, len * 3 + 1);

    if (dst == NULL) {
        return;
    }

    p = data;
    last = data + len;

    while (p < last) {

        start = p;
        c = ngx_http_cdm_stop_utf8_decode(&p, last);

        if (c == '\\' || c == '"') {
            *dst++ = '\\';
            *dst++ = (u_char) c;

        } else if (c == LF) {
            *dst++ = '\\';
            *dst++ = 'n';

        } else if (c == NGX_HTTP_CDM_STOP_BAD_UTF8
                   || ngx_http_cdm_stop_text_unsafe(c))
        {
            dst = ngx_cpymem(dst, "\xef\xbf\xbd", 3);

        } else {
            dst = ngx_cpymem(dst, start, p - start);
        }
    }

    out->pos = dst;
}


void
ngx_http_cdm_stop_out_key(ngx_http_cdm_stop_out_t *out, const char *key)
{
    if (key) {
        ngx_http_cdm_stop_out(out, "%s\"%s\":", out->comma ? "," : "", key);

    } else if (out->comma) {
        ngx_http_cdm_stop_out(out, ",");
    }

    out->comma = 1;
}


void
ngx_http_cdm_stop_out_open(ngx_http_cdm_stop_out_t *out, const char *key,
    char bracket)
{
    ngx_http_cdm_stop_out_key(out, key);
    ngx_http_cdm_stop_out(out, "%c", bracket);

    out->comma = 0;
}


void
ngx_http_cdm_stop_out_close(ngx_http_cdm_stop_out_t *out, char bracket)
{
    ngx_http_cdm_stop_out(out, "%c", bracket);

    out->comma = 1;
}


void
ngx_http_cdm_stop_out_text(ngx_http_cdm_stop_out_t *out, const char *key,
    u_char *data, size_t len)
{
    u_char     *p;
    ngx_str_t   text;

    ngx_http_cdm_stop_out_key(out, key);

    p = ngx_http_cdm_stop_out_room(out, len * 6 + 2);

    if (p == NULL) {
        return;
    }

    text.data = data;
    text.len = len;

    *p++ = '"';

    p = ngx_http_cdm_stop_json_text(p, out->end - 1, &text, len);

    if (p == NULL) {
        out->failed = 1;
        return;
    }

    *p++ = '"';

    out->pos = p;
}


void
ngx_http_cdm_stop_out_word(ngx_http_cdm_stop_out_t *out, const char *key,
    const char *word)
{
    ngx_http_cdm_stop_out_key(out, key);
    ngx_http_cdm_stop_out(out, "\"%s\"", word);
}


void
ngx_http_cdm_stop_out_count(ngx_http_cdm_stop_out_t *out, const char *key,
    uint64_t value)
{
    ngx_http_cdm_stop_out_key(out, key);
    ngx_http_cdm_stop_out(out, "%uL", value);
}


void
ngx_http_cdm_stop_out_flag(ngx_http_cdm_stop_out_t *out, const char *key,
    ngx_uint_t value)
{
    ngx_http_cdm_stop_out_key(out, key);
    ngx_http_cdm_stop_out(out, "%s", value ? "true" : "false");
}


void
ngx_http_cdm_stop_out_time(ngx_http_cdm_stop_out_t *out, const char *key,
    int64_t ms)
{
    if (ms < 0) {
        ngx_http_cdm_stop_out_null(out, key);
        return;
    }

    ngx_http_cdm_stop_out_key(out, key);
    ngx_http_cdm_stop_out(out, "%L.%03L", ms / 1000, ms % 1000);
}


void
ngx_http_cdm_stop_out_null(ngx_http_cdm_stop_out_t *out, const char *key)
{
    ngx_http_cdm_stop_out_key(out, key);
    ngx_http_cdm_stop_out(out, "null");
}


void
ngx_http_cdm_stop_out_histogram(ngx_http_cdm_stop_out_t *out,
    const char *key, ngx_http_cdm_stop_histogram_t *h,
    const ngx_uint_t *bounds, ngx_uint_t unit)
{
    ngx_int_t   value;
    ngx_uint_t  i, count;
    static struct {
        const char  *name;
        ngx_uint_t   percent;
    } q[] = {
        { "p50", 50 },
        { "p90", 90 },
        { "p99", 99 }
    };

    count = 0;

    for (i = 0; i < NGX_HTTP_CDM_STOP_BUCKETS; i++) {
        count += h->buckets[i];
    }

    ngx_http_cdm_stop_out_open(out, key, '{');
    ngx_http_cdm_stop_out_count(out, "count", count);
    ngx_http_cdm_stop_out_fraction(out, "sum", h->sum, unit);

    for (i = 0; i < 3; i++) {

        value = ngx_http_cdm_stop_out_quantile(h, bounds, count, q[i].percent);

        if (value == NGX_ERROR) {
            ngx_http_cdm_stop_out_null(out, q[i].name);

        } else {
            ngx_http_cdm_stop_out_fraction(out, q[i].name, value, unit);
        }
    }

    ngx_http_cdm_stop_out_close(out, '}');
}


/* as Prometheus does it: evenly spread within a bucket */

static ngx_int_t
ngx_http_cdm_stop_out_quantile(ngx_http_cdm_stop_histogram_t *h,
    const ngx_uint_t *bounds, ngx_uint_t count, ngx_uint_t percent)
{
    ngx_uint_t  i, n, rank, sum, low;

    if (count == 0) {
        return NGX_ERROR;
    }

    rank = (count * percent + 99) / 100;
    sum = 0;
    low = 0;

    for (i = 0; i < NGX_HTTP_CDM_STOP_BUCKETS - 1; i++) {

        n = h->buckets[i];

        if (n && sum + n >= rank) {
            return low + (bounds[i] - low) * (rank - sum) / n;
        }

        sum += n;
        low = bounds[i];
    }

    return low;
}


static void
ngx_http_cdm_stop_out_fraction(ngx_http_cdm_stop_out_t *out, const char *key,
    ngx_uint_t value, ngx_uint_t unit)
{
    ngx_http_cdm_stop_out_key(out, key);

    if (unit == 1000) {
        ngx_http_cdm_stop_out(out, "%ui.%03ui", value / unit, value % unit);

    } else {
        ngx_http_cdm_stop_out(out, "%ui.%06ui", value / unit, value % unit);
    }
}
