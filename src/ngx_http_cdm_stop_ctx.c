
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/rand.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_sync.h"


static ngx_int_t ngx_http_cdm_stop_random_id(ngx_http_request_t *r,
    u_char *id);
static void ngx_http_cdm_stop_ctx_cleanup(void *data);
static void ngx_http_cdm_stop_accepted(void *data);
static ngx_http_cdm_stop_loc_conf_t *ngx_http_cdm_stop_early_guard(
    ngx_http_request_t *r);


ngx_http_cdm_stop_ctx_t *
ngx_http_cdm_stop_get_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t       *cln;
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);

    if (ctx || r != r->main || !(r->internal || r->filter_finalize)) {
        return ctx;
    }

    /*
     * an internal redirect cleared the module contexts, the address of ours
     * is still available via its cleanup handler
     */

    for (cln = r->pool->cleanup; cln; cln = cln->next) {

        if (cln->handler == ngx_http_cdm_stop_ctx_cleanup) {

            ctx = cln->data;

            if (!ctx->subrequest) {
                ngx_http_set_ctx(r, ctx, ngx_http_cdm_stop_module);
                return ctx;
            }
        }
    }

    return NULL;
}


ngx_http_cdm_stop_ctx_t *
ngx_http_cdm_stop_create_ctx(ngx_http_request_t *r,
    ngx_http_cdm_stop_target_t *target)
{
    ngx_pool_cleanup_t       *cln;
    ngx_http_cdm_stop_ctx_t  *ctx;

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_cdm_stop_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, sizeof(ngx_http_cdm_stop_ctx_t));

    if (ngx_http_cdm_stop_random_id(r, ctx->id) != NGX_OK) {
        return NULL;
    }

    ctx->request = r;
    ctx->start = ngx_http_cdm_stop_now();
    ctx->conf = ngx_http_get_module_loc_conf(r, ngx_http_cdm_stop_module);
    ctx->subrequest = (r != r->main);

    if (target) {
        ctx->target = *target;
    }

    cln->handler = ngx_http_cdm_stop_ctx_cleanup;

    ngx_http_set_ctx(r, ctx, ngx_http_cdm_stop_module);

    return ctx;
}


static ngx_int_t
ngx_http_cdm_stop_random_id(ngx_http_request_t *r, u_char *id)
{
    u_char                         *p;
    ngx_http_cdm_stop_worker_t     *worker;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);
    worker = cdmcf->worker;

    /* never what another process may have got with its memory */

    if (worker->random_left == 0 || worker->random_pid != ngx_pid) {

        worker->random_left = 0;

        if (RAND_bytes(worker->random, sizeof(worker->random)) != 1) {
            ngx_log_error(NGX_LOG_CRIT, r->connection->log, 0,
                          "RAND_bytes() failed");
            return NGX_ERROR;
        }

        worker->random_pid = ngx_pid;
        worker->random_left = sizeof(worker->random);
    }

    worker->random_left -= NGX_HTTP_CDM_STOP_REQUEST_ID_LEN / 2;

    p = worker->random + worker->random_left;

    ngx_http_cdm_stop_hex_dump(id, p, NGX_HTTP_CDM_STOP_REQUEST_ID_LEN / 2);

    ngx_explicit_memzero(p, NGX_HTTP_CDM_STOP_REQUEST_ID_LEN / 2);

    return NGX_OK;
}


static void
ngx_http_cdm_stop_ctx_cleanup(void *data)
{
    ngx_http_cdm_stop_ctx_t *ctx = data;

    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (ctx->waiting) {
        cdmcf = ngx_http_get_module_main_conf(ctx->request,
                                              ngx_http_cdm_stop_module);
        ngx_queue_remove(&ctx->queue);
        cdmcf->worker->waiting--;
        ctx->waiting = 0;
    }

    ngx_http_cdm_stop_sync_cancel(ctx);

    if (ctx->wake.timer_set) {
        ngx_del_timer(&ctx->wake);
    }

    if (ctx->wake.posted) {
        ngx_delete_posted_event(&ctx->wake);
    }

    if (ctx->echoed) {
        ngx_explicit_memzero(ctx->body, ctx->body_len);
    }

    ngx_http_cdm_stop_leave_token(ctx);
}


/*
 * Called once for a request, and only for one whose header core accepted; a
 * refused one gets to a location by error_page alone.
 */

ngx_int_t
ngx_http_cdm_stop_post_read(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t  *cln;

    if (r != r->main) {
        return NGX_DECLINED;
    }

    cln = ngx_pool_cleanup_add(r->pool, 0);
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cln->handler = ngx_http_cdm_stop_accepted;

    return NGX_DECLINED;
}


/* only its address counts */

static void
ngx_http_cdm_stop_accepted(void *data)
{
    /* void */
}


ngx_uint_t
ngx_http_cdm_stop_was_accepted(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t  *cln;

    if (r->err_status) {
        return 0;
    }

    for (cln = r->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_cdm_stop_accepted) {
            return 1;
        }
    }

    return 0;
}


ngx_int_t
ngx_http_cdm_stop_recognise(ngx_http_request_t *r,
    ngx_http_cdm_stop_target_t *target)
{
    u_char     *scratch;
    ngx_int_t   rc;

    scratch = ngx_pnalloc(r->pool,
                          ngx_max(r->unparsed_uri.len, r->uri.len) + 1);
    if (scratch == NULL) {
        return NGX_ERROR;
    }

    rc = ngx_http_cdm_stop_target_parse(target, &r->unparsed_uri, scratch);

    /*
     * What the client asked for and what nginx acts on may differ after a
     * rewrite, try_files, error_page or X-Accel-Redirect.
     */

    switch (rc) {

    case NGX_OK:

        if (target->job.data != scratch
            && r->uri.len == r->unparsed_uri.len
            && ngx_memcmp(r->uri.data, r->unparsed_uri.data, r->uri.len) == 0)
        {
            /* nothing of it is encoded, so it is as it is decoded */
            break;
        }

        rc = ngx_http_cdm_stop_target_equal(target, &r->uri) ? NGX_OK
                                                             : NGX_ABORT;
        break;

    case NGX_ERROR:
        rc = NGX_ABORT;
        break;

    default: /* NGX_DECLINED */
        if (ngx_http_cdm_stop_target_resembles(&r->uri, scratch)) {
            rc = NGX_ABORT;
        }
    }

    return rc;
}


ngx_http_cdm_stop_ctx_t *
ngx_http_cdm_stop_early_ctx(ngx_http_request_t *r)
{
    u_char                        *scratch;
    ngx_int_t                      rc;
    ngx_http_cdm_stop_ctx_t       *ctx;
    ngx_http_cdm_stop_target_t     target;
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    if (r != r->main || r->unparsed_uri.len == 0) {
        return NULL;
    }

    cdcf = ngx_http_cdm_stop_early_guard(r);

    if (cdcf == NULL) {
        return NULL;
    }

    /* nginx may act on an error page by now: what the client sent counts */

    scratch = ngx_pnalloc(r->pool, r->unparsed_uri.len);
    if (scratch == NULL) {
        return NULL;
    }

    rc = ngx_http_cdm_stop_target_parse(&target, &r->unparsed_uri, scratch);

    if (rc == NGX_DECLINED) {
        return NULL;
    }

    ctx = ngx_http_cdm_stop_create_ctx(r, (rc == NGX_OK) ? &target : NULL);

    if (ctx) {
        ctx->conf = cdcf;
    }

    return ctx;
}


/*
 * An error page may have led out of the guarded location before our handler
 * was called: then some guard of the same server speaks for it.
 */

static ngx_http_cdm_stop_loc_conf_t *
ngx_http_cdm_stop_early_guard(ngx_http_request_t *r)
{
    ngx_uint_t                       i;
    ngx_http_core_srv_conf_t        *cscf;
    ngx_http_cdm_stop_loc_conf_t    *cdcf, **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdcf = ngx_http_get_module_loc_conf(r, ngx_http_cdm_stop_module);

    if (cdcf->identity) {
        return cdcf;
    }

    if (!r->internal) {
        return NULL;
    }

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);
    cscf = ngx_http_get_module_srv_conf(r, ngx_http_core_module);

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        if (locations[i]->identity && locations[i]->server == cscf) {
            return locations[i];
        }
    }

    return NULL;
}
