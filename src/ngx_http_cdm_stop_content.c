
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


static ngx_int_t ngx_http_cdm_stop_prepare(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_take_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);


/*
 * Stands in, on the request only, for the content handler of the location,
 * that is for proxy_pass.
 */

ngx_int_t
ngx_http_cdm_stop_content(ngx_http_request_t *r)
{
    ngx_int_t                  rc;
    ngx_http_cdm_stop_ctx_t   *ctx;
    ngx_http_upstream_conf_t  *ucf;

    ctx = ngx_http_cdm_stop_get_ctx(r);

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
    u_char  *p;

    p = ngx_pnalloc(r->pool, NGX_HTTP_CDM_STOP_TARGET_LEN);
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->canonical.data = p;
    ctx->canonical.len = ngx_http_cdm_stop_target_build(p, &ctx->target) - p;

    if (ctx->injected
        && ngx_http_cdm_stop_take_token(r, ctx) != NGX_OK)
    {
        ctx->retry_after = NGX_HTTP_CDM_STOP_BACKOFF_MIN;
        return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_no_token);
    }

    if (ngx_http_cdm_stop_record_intent(r, ctx) != NGX_OK) {
        return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_no_record);
    }

    ctx->forwarding = 1;

    return NGX_OK;
}


/* looked up anew: the token may have ended since the wait was over */

static ngx_int_t
ngx_http_cdm_stop_take_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    ctx->token.data = ngx_pnalloc(r->pool, ctx->token_len);
    if (ctx->token.data == NULL) {
        return NGX_ERROR;
    }

    ctx->token.len = ngx_http_cdm_stop_token_copy(cdmcf->zone, &ctx->key,
                                                  ctx->token.data,
                                                  ctx->token_len,
                                                  &ctx->generation);

    return ctx->token.len ? NGX_OK : NGX_DECLINED;
}
