
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


static ngx_int_t ngx_http_cdm_stop_subrequest(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_post_action(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_decide(ngx_http_request_t *r,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static ngx_int_t ngx_http_cdm_stop_not_a_stop(ngx_http_request_t *r,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static ngx_uint_t ngx_http_cdm_stop_is_early_data(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_read_body(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_steps(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_choose_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_obtain_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);


/*
 * PRECONTENT: the access phase is over, so "satisfy any" does not go round
 * what is decided here.
 */

ngx_int_t
ngx_http_cdm_stop_handler(ngx_http_request_t *r)
{
    ngx_int_t                      rc;
    ngx_http_cdm_stop_ctx_t       *ctx;
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    cdcf = ngx_http_get_module_loc_conf(r, ngx_http_cdm_stop_module);

    if (cdcf->identity == NULL) {
        return NGX_DECLINED;
    }

    if (r != r->main) {
        return ngx_http_cdm_stop_subrequest(r);
    }

    if (r->post_action) {
        return ngx_http_cdm_stop_post_action(r);
    }

    ctx = ngx_http_cdm_stop_get_ctx(r);

    /* a redirect to another guarded location starts anew */

    if (ctx == NULL || ctx->conf != cdcf) {

        rc = ngx_http_cdm_stop_decide(r, cdcf);

        if (rc != NGX_OK) {
            return rc;
        }

        ctx = ngx_http_cdm_stop_get_ctx(r);
    }

    /*
     * The body comes before the token: a slow one must not use up the
     * token's last seconds.
     */

    if (!ctx->body_read) {
        return ngx_http_cdm_stop_read_body(r, ctx);
    }

    rc = ngx_http_cdm_stop_steps(r, ctx);

    if (rc != NGX_OK) {
        return rc;
    }

    ctx->content_handler = r->content_handler;
    r->content_handler = ngx_http_cdm_stop_content;

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_cdm_stop_subrequest(ngx_http_request_t *r)
{
    ngx_int_t                      rc;
    ngx_http_cdm_stop_ctx_t       *ctx;
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    rc = ngx_http_cdm_stop_looks_like(r, &r->uri);

    if (rc == NGX_DECLINED) {
        cdcf = ngx_http_get_module_loc_conf(r, ngx_http_cdm_stop_module);
        return ngx_http_cdm_stop_not_a_stop(r, cdcf);
    }

    if (rc != NGX_OK) {
        return rc;
    }

    ctx = ngx_http_cdm_stop_create_ctx(r, NULL);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_by_subrequest);
}


/* the client has its answer by now, and a stop is not sent again */

static ngx_int_t
ngx_http_cdm_stop_post_action(ngx_http_request_t *r)
{
    ngx_int_t  rc;

    rc = ngx_http_cdm_stop_looks_like(r, &r->uri);

    if (rc == NGX_DECLINED && r->valid_unparsed_uri) {
        rc = ngx_http_cdm_stop_looks_like(r, &r->unparsed_uri);
    }

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "a stop is not sent: \"post_action\" cannot send one");

    return NGX_HTTP_FORBIDDEN;
}


ngx_int_t
ngx_http_cdm_stop_looks_like(ngx_http_request_t *r, ngx_str_t *uri)
{
    u_char     *scratch;
    ngx_int_t   rc;

    scratch = ngx_pnalloc(r->pool, uri->len + 1);
    if (scratch == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_cdm_stop_target_resembles(uri, scratch) ? NGX_OK
                                                          : NGX_DECLINED;

    ngx_pfree(r->pool, scratch);

    return rc;
}


static ngx_int_t
ngx_http_cdm_stop_decide(ngx_http_request_t *r,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_int_t                    rc;
    ngx_http_cdm_stop_ctx_t     *ctx;
    ngx_http_cdm_stop_target_t   target;

    rc = ngx_http_cdm_stop_recognise(r, &target);

    if (rc == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_cdm_stop_not_a_stop(r, cdcf);
    }

    ctx = ngx_http_cdm_stop_create_ctx(r, (rc == NGX_OK) ? &target : NULL);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /*
     * All answers to a stop, those of CDM included, reach the client as they
     * are: no error_page, no 304 for a header of the client's.
     */

    r->error_page = 1;
    r->disable_not_modified = 1;

    if (!ngx_http_cdm_stop_was_accepted(r)) {

        /* core refused this request, and an error page led here */

        r->err_status = 0;
        rc = NGX_ABORT;
    }

    if (rc == NGX_ABORT) {
        return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_bad_target);
    }

    if (r->method != NGX_HTTP_PUT) {
        return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_bad_method);
    }

    if (ngx_http_cdm_stop_caller_token(r, ctx) != NGX_OK) {
        ngx_str_null(&ctx->caller_token);
        return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_bad_token);
    }

    if (ngx_http_cdm_stop_is_early_data(r)) {
        return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_early_data);
    }

    return ngx_http_cdm_stop_credentials(r, ctx);
}


static ngx_int_t
ngx_http_cdm_stop_not_a_stop(ngx_http_request_t *r,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    if (cdcf->other == NGX_HTTP_CDM_STOP_OTHER_PASS) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_cdm_stop_create_ctx(r, NULL);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->error_page = 1;

    return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_other_request);
}


/* RFC 8470: early data may be a replay, and a proxy in front says so */

static ngx_uint_t
ngx_http_cdm_stop_is_early_data(ngx_http_request_t *r)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    if (r->connection->ssl
        && !SSL_is_init_finished(r->connection->ssl->connection))
    {
        return 1;
    }

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len == sizeof("early-data") - 1
            && ngx_strncmp(h[i].lowcase_key, "early-data",
                           sizeof("early-data") - 1)
               == 0)
        {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_http_cdm_stop_read_body(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t  rc;

    /* in HTTP/1 a body is announced; where it is not, none is waited for */

    if (r->request_body
        || (r->http_version < NGX_HTTP_VERSION_20
            && r->headers_in.content_length_n <= 0
            && !r->headers_in.chunked))
    {
        ctx->body_read = 1;
        return ngx_http_cdm_stop_handler(r);
    }

    rc = ngx_http_read_client_request_body(r, ngx_http_cdm_stop_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


static void
ngx_http_cdm_stop_body_handler(ngx_http_request_t *r)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r);

    ctx->body_read = 1;

    r->preserve_body = 1;

    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);
}


/* each step is taken once; a request that waited goes on where it was */

static ngx_int_t
ngx_http_cdm_stop_steps(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t  rc;

    if (!ctx->identified) {

        rc = ngx_http_cdm_stop_identify(r, ctx);

        if (rc != NGX_OK) {
            return rc;
        }

        ctx->identified = 1;
    }

    if (!ctx->decided) {

        rc = ngx_http_cdm_stop_enforce(r, ctx);

        if (rc != NGX_OK) {
            return rc;
        }

        ctx->decided = 1;
    }

    return ngx_http_cdm_stop_choose_token(r, ctx);
}


ngx_uint_t
ngx_http_cdm_stop_injects(ngx_http_cdm_stop_ctx_t *ctx)
{
    switch (ctx->conf->inject) {

    case NGX_HTTP_CDM_STOP_INJECT_OFF:
        return 0;

    case NGX_HTTP_CDM_STOP_INJECT_MISSING:
        return ctx->caller_token.len == 0;

    default: /* NGX_HTTP_CDM_STOP_INJECT_ALWAYS */
        return 1;
    }
}


static ngx_int_t
ngx_http_cdm_stop_choose_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_identity_t  *identity;

    if (!ngx_http_cdm_stop_injects(ctx)) {
        ctx->token = ctx->caller_token;
        return NGX_OK;
    }

    ctx->injected = 1;

    identity = ctx->conf->identity;

    if (!ngx_http_cdm_stop_serves(identity, &ctx->target.project)) {
        return ngx_http_cdm_stop_refuse(r, ctx, &ngx_http_cdm_stop_no_project);
    }

    ngx_http_cdm_stop_identity_key(identity, ctx->target.project.data,
                                   &ctx->key);

    return ngx_http_cdm_stop_obtain_token(r, ctx);
}


static ngx_int_t
ngx_http_cdm_stop_obtain_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t  rc;

    ctx->look = ngx_http_cdm_stop_look;

    rc = ngx_http_cdm_stop_wait(r, ctx);

    if (rc == NGX_OK || rc == NGX_AGAIN) {
        return rc;
    }

    return ngx_http_cdm_stop_refuse_token(r, ctx);
}


/*
 * Stops that did not get to an end of ours: nginx itself refused them, or the
 * client left while they waited.
 */

ngx_int_t
ngx_http_cdm_stop_log(ngx_http_request_t *r)
{
    ngx_uint_t                status;
    ngx_http_cdm_stop_ctx_t  *ctx;

    if (r != r->main) {
        return NGX_OK;
    }

    ctx = ngx_http_cdm_stop_get_ctx(r);

    if (ctx == NULL) {
        ctx = ngx_http_cdm_stop_early_ctx(r);
    }

    if (ctx == NULL || ctx->error == &ngx_http_cdm_stop_other_request) {
        return NGX_OK;
    }

    status = r->err_status ? r->err_status : r->headers_out.status;

    if (ctx->intent && !ctx->outcome) {

        /* after a 401, the client may have left the wait for a new token */

        ctx->verdict.verdict = ctx->attempts ? NGX_HTTP_CDM_STOP_DENIED
                                             : NGX_HTTP_CDM_STOP_NOT_SENT;
        ngx_http_cdm_stop_record_outcome(r, ctx, status);

    } else if (!ctx->intent && !ctx->refused) {

        /* before we saw it, it may have been led to an unguarded location */

        ctx->verdict.verdict = (r->upstream && r->upstream->request_sent)
                               ? NGX_HTTP_CDM_STOP_UNKNOWN
                               : NGX_HTTP_CDM_STOP_NOT_SENT;

        ngx_http_cdm_stop_record_refused(r, ctx, status);
    }

    return NGX_OK;
}
