
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_sync.h"


static ngx_int_t ngx_http_cdm_stop_forward(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_prepare(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_record(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_forget_answer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);


/*
 * Stands in, on the request only, for the content handler of the location,
 * that is for proxy_pass.
 */

ngx_int_t
ngx_http_cdm_stop_content(ngx_http_request_t *r)
{
    ngx_int_t  rc;

    rc = ngx_http_cdm_stop_forward(r, ngx_http_cdm_stop_get_ctx(r));

    if (rc == NGX_AGAIN) {

        /* the wait for the disk has a reference of its own */

        r->main->count++;
        return NGX_DONE;
    }

    return rc;
}


void
ngx_http_cdm_stop_synced(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r);

    ctx->synced = 1;

    if (rc == NGX_OK) {
        rc = ngx_http_cdm_stop_forward(r, ctx);

    } else {
        rc = ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_no_record);
    }

    ngx_http_finalize_request(r, rc);
}


static ngx_int_t
ngx_http_cdm_stop_forward(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t                  rc;
    ngx_http_upstream_conf_t  *ucf;

    rc = ngx_http_cdm_stop_prepare(r, ctx);

    if (rc != NGX_OK) {
        return rc;
    }

    /* with variables, the request would not pass the gate */

    ucf = ngx_http_cdm_stop_proxy_conf(r->loc_conf);

    if (ctx->content_handler == NULL || ucf->upstream == NULL) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "a stop is not sent: its location needs "
                      "\"proxy_pass\" with the address of CDM as it is, "
                      "without variables");
        return NGX_HTTP_BAD_GATEWAY;
    }

    if (ngx_http_cdm_stop_mark_headers(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /*
     * The body has been read, so the handler builds the request to CDM, and
     * passes the gate with it, before it returns.
     */

    rc = ctx->content_handler(r);

    ngx_http_cdm_stop_unmark_headers(r, ctx);

    return rc;
}


static ngx_int_t
ngx_http_cdm_stop_prepare(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t  rc;

    ctx->fingerprinted = 0;

    if (ctx->injected
        && ngx_http_cdm_stop_take_token(r, ctx) != NGX_OK)
    {
        return ngx_http_cdm_stop_refuse_token(r, ctx);
    }

    rc = ngx_http_cdm_stop_record(r, ctx);

    if (rc == NGX_OK) {
        ctx->forwarding = 1;
    }

    return rc;
}


static ngx_int_t
ngx_http_cdm_stop_record(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t  rc;

    /* a repeated stop has its intent, and one that waited for the disk */

    if (!ctx->intent && ngx_http_cdm_stop_record_intent(r, ctx) != NGX_OK) {
        return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_no_record);
    }

    if (ctx->synced) {
        return NGX_OK;
    }

    rc = ngx_http_cdm_stop_sync_wait(r, ctx);

    if (rc == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    ctx->synced = 1;

    if (rc != NGX_OK) {
        return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_no_record);
    }

    return NGX_OK;
}


/*
 * Sends a stop again whose first answer was a 401, with the token that has
 * come instead of the refused one.  The request lives on by the reference
 * that our body filter took when it kept that answer back.
 */

void
ngx_http_cdm_stop_repeat(ngx_http_request_t *r)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r);

    switch (ngx_http_cdm_stop_wait(r, ctx)) {

    case NGX_AGAIN:
        return;

    case NGX_OK:
        ngx_http_cdm_stop_forget_answer(r, ctx);

        ngx_http_finalize_request(r, ngx_http_cdm_stop_forward(r, ctx));
        return;

    default: /* NGX_BUSY, NGX_ERROR */
        ngx_http_finalize_request(r, ngx_http_cdm_stop_refuse_token(r, ctx));
    }
}


/* no header of the first answer is to be in the second one */

static void
ngx_http_cdm_stop_forget_answer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_clean_header(r);

    r->headers_out.status = 0;
    ngx_str_null(&r->headers_out.status_line);
    ngx_str_null(&r->headers_out.charset);

    ctx->upstream_status = 0;
    ngx_str_null(&ctx->upstream_request_id);
    ctx->body_len = 0;
    ctx->forwarding = 0;
    ctx->repeat = 0;
    ctx->repeated = 1;
}
