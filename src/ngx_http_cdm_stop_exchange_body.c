
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_fetch.h"


static ngx_int_t ngx_http_cdm_stop_exchange_chunked(
    ngx_http_cdm_stop_fetch_t *f, ssize_t bytes);
static ngx_int_t ngx_http_cdm_stop_exchange_append(
    ngx_http_cdm_stop_fetch_t *f, u_char *p, size_t len);


ngx_int_t
ngx_http_cdm_stop_exchange_filter_init(void *data)
{
    ngx_http_request_t *r = data;

    ngx_http_upstream_t        *u;
    ngx_http_cdm_stop_ctx_t    *ctx;
    ngx_http_cdm_stop_fetch_t  *f;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);
    f = ctx->fetch;
    u = r->upstream;

    if (f->encoded) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent a body of unknown length or encoding");
        return NGX_ERROR;
    }

    f->body_size = NGX_HTTP_CDM_STOP_IAM_BODY_LEN;

    if (u->headers_in.chunked) {
        u->length = 1;

    } else {

        u->length = u->headers_in.content_length_n;

        if (u->length > (off_t) f->body_size) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                          "IAM sent too big body");
            return NGX_ERROR;
        }

        if (u->length >= 0) {
            f->body_size = (size_t) u->length;
            f->complete = (u->length == 0);
        }
    }

    f->answer.body.data = ngx_pnalloc(r->pool, f->body_size + 1);
    if (f->answer.body.data == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_exchange_filter(void *data, ssize_t bytes)
{
    ngx_http_request_t *r = data;

    ngx_http_upstream_t        *u;
    ngx_http_cdm_stop_ctx_t    *ctx;
    ngx_http_cdm_stop_fetch_t  *f;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);
    f = ctx->fetch;
    u = r->upstream;

    if (u->headers_in.chunked) {
        return ngx_http_cdm_stop_exchange_chunked(f, bytes);
    }

    if (u->length == -1) {
        return ngx_http_cdm_stop_exchange_append(f, u->buffer.last, bytes);
    }

    if (bytes > u->length) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent more data than specified in "
                      "\"Content-Length\"");
        return NGX_ERROR;
    }

    u->length -= bytes;
    f->complete = (u->length == 0);

    return ngx_http_cdm_stop_exchange_append(f, u->buffer.last, bytes);
}


static ngx_int_t
ngx_http_cdm_stop_exchange_chunked(ngx_http_cdm_stop_fetch_t *f, ssize_t bytes)
{
    size_t                size;
    ngx_buf_t             b;
    ngx_int_t             rc;
    ngx_http_request_t   *r;
    ngx_http_upstream_t  *u;

    r = f->request;
    u = r->upstream;

    ngx_memzero(&b, sizeof(ngx_buf_t));

    b.pos = u->buffer.last;
    b.last = u->buffer.last + bytes;

    for ( ;; ) {

#if (nginx_version >= 1027002)
        rc = ngx_http_parse_chunked(r, &b, &f->chunked, 0);
#else
        rc = ngx_http_parse_chunked(r, &b, &f->chunked);
#endif

        if (rc == NGX_OK) {

            size = (size_t) ngx_min(b.last - b.pos, f->chunked.size);

            if (ngx_http_cdm_stop_exchange_append(f, b.pos, size) != NGX_OK) {
                return NGX_ERROR;
            }

            b.pos += size;
            f->chunked.size -= size;

            continue;
        }

        if (rc == NGX_DONE) {
            u->length = 0;
            f->complete = 1;
            return NGX_OK;
        }

        if (rc == NGX_AGAIN) {
            return NGX_OK;
        }

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent invalid chunked body");

        return NGX_ERROR;
    }
}


static ngx_int_t
ngx_http_cdm_stop_exchange_append(ngx_http_cdm_stop_fetch_t *f, u_char *p,
    size_t len)
{
    if (len > f->body_size - f->answer.body.len) {
        ngx_log_error(NGX_LOG_ERR, f->request->connection->log, 0,
                      "IAM sent too big body");
        return NGX_ERROR;
    }

    ngx_memcpy(f->answer.body.data + f->answer.body.len, p, len);
    f->answer.body.len += len;

    return NGX_OK;
}
