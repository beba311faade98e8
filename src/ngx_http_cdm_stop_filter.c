
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


static ngx_int_t ngx_http_cdm_stop_header_filter(ngx_http_request_t *r);
static ngx_uint_t ngx_http_cdm_stop_is_cdm_answer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_int_t ngx_http_cdm_stop_answer_body(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_collect(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_chain_t *in);
static ngx_int_t ngx_http_cdm_stop_keep_back(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_append(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_buf_t *b);
static ngx_int_t ngx_http_cdm_stop_release(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_chain_t *rest, ngx_uint_t last);
static void ngx_http_cdm_stop_consume(ngx_chain_t *in);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


ngx_int_t
ngx_http_cdm_stop_filter_init(ngx_conf_t *cf)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_cdm_stop_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_cdm_stop_body_filter;

    return NGX_OK;
}


/*
 * An answer of CDM is held back until its body is known, as the image and
 * XSLT filters do: the verdict is there before the client gets a byte, a
 * client that leaves cannot end the reading, and a cut answer can still be
 * replaced.
 */

static ngx_int_t
ngx_http_cdm_stop_header_filter(ngx_http_request_t *r)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r);

    if (ctx == NULL) {
        ctx = ngx_http_cdm_stop_early_ctx(r);
    }

    if (ctx == NULL) {
        return ngx_http_next_header_filter(r);
    }

    if (ctx->fetch) {
        return NGX_OK;
    }

    if (ngx_http_cdm_stop_is_cdm_answer(r, ctx)) {
        ctx->held = 1;
        r->filter_need_in_memory = 1;
        return NGX_OK;
    }

    if (ctx->forwarding && ctx->error == NULL) {

        /* the request could not be built, or the answer not be sent on */

        ctx->error = ctx->outcome ? &ngx_http_cdm_stop_no_answer
                                  : &ngx_http_cdm_stop_unreachable;
    }

    if (ctx->error) {

        if (ngx_http_cdm_stop_set_answer(r, ctx) != NGX_OK) {
            return NGX_ERROR;
        }

        ctx->answered = 1;

        return ngx_http_next_header_filter(r);
    }

    if (ngx_http_cdm_stop_set_request_id(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_next_header_filter(r);
}


static ngx_uint_t
ngx_http_cdm_stop_is_cdm_answer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    return ctx->forwarding
           && ctx->upstream_status
           && !ctx->failed
           && r->headers_out.status == ctx->upstream_status;
}


static ngx_int_t
ngx_http_cdm_stop_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);

    if (ctx == NULL) {
        return ngx_http_next_body_filter(r, in);
    }

    if (ctx->fetch) {
        ngx_http_cdm_stop_consume(in);
        return NGX_OK;
    }

    if (ctx->answered) {

        ngx_http_cdm_stop_consume(in);

        if (ctx->answer_sent) {
            return ngx_http_next_body_filter(r, NULL);
        }

        return ngx_http_cdm_stop_answer_body(r, ctx);
    }

    if (ctx->held) {
        return ngx_http_cdm_stop_collect(r, ctx, in);
    }

    return ngx_http_next_body_filter(r, in);
}


static ngx_int_t
ngx_http_cdm_stop_answer_body(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_buf_t    *b;
    ngx_chain_t   out;

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->memory = 1;
    b->pos = ctx->answer.data;
    b->last = ctx->answer.data + ctx->answer.len;
    b->last_buf = (r == r->main);
    b->last_in_chain = 1;

    out.buf = b;
    out.next = NULL;

    ctx->answer_sent = 1;

    return ngx_http_next_body_filter(r, &out);
}


ngx_int_t
ngx_http_cdm_stop_send_answer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t  rc;

    ctx->held = 0;
    ctx->answered = 1;

    if (ngx_http_cdm_stop_set_answer(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_http_next_header_filter(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_cdm_stop_answer_body(r, ctx);
}


static ngx_int_t
ngx_http_cdm_stop_collect(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_chain_t *in)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = in; cl; cl = cl->next) {

        b = cl->buf;

        rc = ngx_http_cdm_stop_append(r, ctx, b);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        if (rc == NGX_DECLINED && !ctx->repeat
            && ngx_http_cdm_stop_renewable(r, ctx))
        {
            ctx->repeat = 1;
        }

        if (ctx->repeat) {

            /* of an answer that is not sent, the end alone matters */

            b->pos = b->last;

        } else if (rc == NGX_DECLINED) {

            /* too long for a verdict: what follows passes as it comes */

            ctx->overflow = 1;
            return ngx_http_cdm_stop_release(r, ctx, cl, 0);
        }

        if (b->last_buf) {
            return ctx->repeat ? ngx_http_cdm_stop_keep_back(r, ctx)
                               : ngx_http_cdm_stop_release(r, ctx, NULL, 1);
        }
    }

    return NGX_OK;
}


/*
 * The first answer is not sent at all.  NGX_DONE goes back through the
 * filters to core's ngx_http_finalize_request(), to which it means that the
 * request goes on elsewhere, with the reference that is taken here.
 */

static ngx_int_t
ngx_http_cdm_stop_keep_back(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ctx->held = 0;

    r->main->count++;

    /* that of upstream, which is done with this answer, is of no use now */

    r->write_event_handler = ngx_http_request_empty_handler;

    ngx_http_cdm_stop_wake_later(r, ctx);

    return NGX_DONE;
}


static ngx_int_t
ngx_http_cdm_stop_append(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_buf_t *b)
{
    size_t   len, size;
    u_char  *p;

    if (!ngx_buf_in_memory(b)) {
        return NGX_OK;
    }

    len = b->last - b->pos;

    if (len > NGX_HTTP_CDM_STOP_CDM_BODY_LEN - ctx->body_len) {
        return NGX_DECLINED;
    }

    if (len > ctx->body_size - ctx->body_len) {

        size = ngx_max(2 * ctx->body_size, ctx->body_len + len);
        size = ngx_min(size, NGX_HTTP_CDM_STOP_CDM_BODY_LEN);

        p = ngx_pnalloc(r->pool, size);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (ctx->body) {
            ngx_memcpy(p, ctx->body, ctx->body_len);
        }

        ctx->body = p;
        ctx->body_size = size;
    }

    ngx_memcpy(ctx->body + ctx->body_len, b->pos, len);

    ctx->body_len += len;
    b->pos = b->last;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_release(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_chain_t *rest, ngx_uint_t last)
{
    ngx_buf_t    *b;
    ngx_int_t     rc;
    ngx_chain_t   out;

    ctx->held = 0;
    ctx->released = 1;

    /* a Range of the client's does not concern the answer to a PUT */

    r->allow_ranges = 0;

    if (ngx_http_cdm_stop_set_request_id(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_http_next_header_filter(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    if (ctx->body_len == 0 && !last) {
        return ngx_http_next_body_filter(r, rest);
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    if (ctx->body_len) {
        b->memory = 1;
        b->pos = ctx->body;
        b->last = ctx->body + ctx->body_len;
    }

    b->last_buf = last;
    b->last_in_chain = last;

    out.buf = b;
    out.next = rest;

    return ngx_http_next_body_filter(r, &out);
}


static void
ngx_http_cdm_stop_consume(ngx_chain_t *in)
{
    for ( /* void */ ; in; in = in->next) {
        in->buf->pos = in->buf->last;
        in->buf->file_pos = in->buf->file_last;
    }
}
