
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_zone.h"


/*
 * The requests of this worker that wait for one token.  A group lives from
 * the first waiting request to the last one; who asks IAM, and whether it is
 * this worker, is not its concern.
 */

typedef struct {
    ngx_queue_t                     link;       /* in worker->groups */
    ngx_queue_t                     requests;
    ngx_http_cdm_stop_key_t         key;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;
    ngx_event_t                     poll;
} ngx_http_cdm_stop_group_t;


static ngx_int_t ngx_http_cdm_stop_wait_done(ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_found_t *found, ngx_int_t rc);
static ngx_int_t ngx_http_cdm_stop_wait_add(ngx_http_request_t *r,
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_ctx_t *ctx);
static ngx_http_cdm_stop_group_t *ngx_http_cdm_stop_group_find(
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_key_t *key);
static ngx_http_cdm_stop_group_t *ngx_http_cdm_stop_group_create(
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_key_t *key);
static void ngx_http_cdm_stop_group_free(ngx_http_cdm_stop_group_t *group);
static void ngx_http_cdm_stop_poll_handler(ngx_event_t *ev);
static void ngx_http_cdm_stop_wake_handler(ngx_event_t *ev);


ngx_int_t
ngx_http_cdm_stop_wait(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t                       rc;
    ngx_http_cdm_stop_found_t       found;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (ctx->waiting || ctx->wake.posted) {

        /*
         * A write event of the client runs the phases again, perhaps when the
         * request was woken and that event is still to come.
         */

        return NGX_AGAIN;
    }

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    rc = ctx->look(cdmcf, ctx, &found);

    if (rc != NGX_AGAIN) {
        return ngx_http_cdm_stop_wait_done(ctx, &found, rc);
    }

    if (!ctx->waited) {
        ctx->waited = 1;
        ctx->late = 1;
        ctx->wait_start = ngx_http_cdm_stop_now();
        ctx->wait_end = ctx->wait_start + ctx->conf->wait;

        /* who waited to be identified has the rest of the time */

        if (!ctx->repeat) {
            ctx->wait_end -= ctx->wait_time;
        }
    }

    if (ngx_http_cdm_stop_now() >= ctx->wait_end
        || cdmcf->worker->waiting >= NGX_HTTP_CDM_STOP_WAITING_MAX)
    {
        found.retry = NGX_HTTP_CDM_STOP_BACKOFF_MIN;
        return ngx_http_cdm_stop_wait_done(ctx, &found, NGX_BUSY);
    }

    return ngx_http_cdm_stop_wait_add(r, cdmcf, ctx);
}


static ngx_int_t
ngx_http_cdm_stop_wait_done(ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_found_t *found, ngx_int_t rc)
{
    if (ctx->waited) {
        ctx->waited = 0;
        ctx->wait_time += ngx_http_cdm_stop_now() - ctx->wait_start;
    }

    ctx->token_len = found->len;
    ctx->found = found->generation;
    ctx->found_time = ngx_current_msec;
    ctx->stale = found->stale;

    ctx->retry_after = found->retry;
    ctx->fail = found->fail;

    return rc;
}


ngx_int_t
ngx_http_cdm_stop_look(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_found_t *found)
{
    return ngx_http_cdm_stop_find(cdmcf, ctx->conf->identity, &ctx->key,
                                  found);
}


ngx_int_t
ngx_http_cdm_stop_find(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity, ngx_http_cdm_stop_key_t *key,
    ngx_http_cdm_stop_found_t *found)
{
    ngx_int_t  rc;

    /* without a master, a reload does not make a process */

    ngx_http_cdm_stop_start_renewal(cdmcf);

    rc = ngx_http_cdm_stop_token_find(cdmcf->zone, key, &identity->terms,
                                      found);

    if (rc == NGX_OK && found->lease.id) {

        /* nobody waits for a renewal, so nobody minds if it fails */

        (void) ngx_http_cdm_stop_ask(cdmcf, identity, key, found);
        return NGX_OK;
    }

    if (rc != NGX_DONE) {
        return rc;
    }

    return ngx_http_cdm_stop_ask(cdmcf, identity, key, found);
}


ngx_int_t
ngx_http_cdm_stop_ask(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity, ngx_http_cdm_stop_key_t *key,
    ngx_http_cdm_stop_found_t *found)
{
    ngx_int_t                  rc;
    ngx_http_cdm_stop_key_t    via;
    ngx_http_cdm_stop_found_t  f;

    if (identity->via) {

        /* an agency is assumed with the token of another identity */

        ngx_http_cdm_stop_identity_key(identity->via, NULL, &via);

        rc = ngx_http_cdm_stop_find(cdmcf, identity->via, &via, &f);

        if (rc != NGX_OK) {
            ngx_http_cdm_stop_token_abandon(cdmcf->zone, key, &found->lease);

            found->retry = f.retry;
            found->fail = f.fail;

            return rc;
        }
    }

    if (ngx_http_cdm_stop_fetch(cdmcf, identity, key, &found->lease)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_AGAIN;
}


static ngx_int_t
ngx_http_cdm_stop_wait_add(ngx_http_request_t *r,
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_group_t  *group;

    group = ngx_http_cdm_stop_group_find(cdmcf, &ctx->key);

    if (group == NULL) {
        group = ngx_http_cdm_stop_group_create(cdmcf, &ctx->key);
        if (group == NULL) {
            return NGX_ERROR;
        }
    }

    /* the cleanup of the context ends the wait if the client leaves */

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ctx->repeat ? ngx_http_request_empty_handler
                                         : ngx_http_core_run_phases;

    if (r->connection->read->ready) {
        ngx_post_event(r->connection->read, &ngx_posted_events);

    } else if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_queue_insert_tail(&group->requests, &ctx->queue);
    cdmcf->worker->waiting++;
    ctx->waiting = 1;

    ctx->wake.handler = ngx_http_cdm_stop_wake_handler;
    ctx->wake.data = r;
    ctx->wake.log = r->connection->log;

    ngx_add_timer(&ctx->wake,
                  (ngx_msec_t) (ctx->wait_end - ngx_http_cdm_stop_now()));

    r->connection->log->action = "waiting for IAM token";

    return NGX_AGAIN;
}


static ngx_http_cdm_stop_group_t *
ngx_http_cdm_stop_group_find(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_key_t *key)
{
    ngx_queue_t                *q;
    ngx_http_cdm_stop_group_t  *group;

    for (q = ngx_queue_head(&cdmcf->worker->groups);
         q != ngx_queue_sentinel(&cdmcf->worker->groups);
         q = ngx_queue_next(q))
    {
        group = ngx_queue_data(q, ngx_http_cdm_stop_group_t, link);

        if (ngx_memcmp(&group->key, key, sizeof(ngx_http_cdm_stop_key_t)) == 0)
        {
            return group;
        }
    }

    return NULL;
}


static ngx_http_cdm_stop_group_t *
ngx_http_cdm_stop_group_create(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_key_t *key)
{
    ngx_http_cdm_stop_group_t  *group;

    group = ngx_calloc(sizeof(ngx_http_cdm_stop_group_t), ngx_cycle->log);
    if (group == NULL) {
        return NULL;
    }

    group->key = *key;
    group->cdmcf = cdmcf;

    ngx_queue_init(&group->requests);
    ngx_queue_insert_tail(&cdmcf->worker->groups, &group->link);

    /* another worker may hold the lease, and it cannot tell us of its end */

    group->poll.handler = ngx_http_cdm_stop_poll_handler;
    group->poll.data = group;
    group->poll.log = ngx_cycle->log;

    ngx_add_timer(&group->poll, NGX_HTTP_CDM_STOP_POLL);

    return group;
}


static void
ngx_http_cdm_stop_group_free(ngx_http_cdm_stop_group_t *group)
{
    if (group->poll.timer_set) {
        ngx_del_timer(&group->poll);
    }

    if (group->poll.posted) {
        ngx_delete_posted_event(&group->poll);
    }

    ngx_queue_remove(&group->link);

    ngx_free(group);
}


static void
ngx_http_cdm_stop_poll_handler(ngx_event_t *ev)
{
    ngx_int_t                       rc;
    ngx_http_cdm_stop_ctx_t        *ctx;
    ngx_http_cdm_stop_key_t         key;
    ngx_http_cdm_stop_found_t       found;
    ngx_http_cdm_stop_group_t      *group;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    group = ev->data;

    if (ngx_queue_empty(&group->requests)) {
        ngx_http_cdm_stop_group_free(group);
        return;
    }

    key = group->key;
    cdmcf = group->cdmcf;

    /* whoever has not looked for the longest time is the next one */

    ngx_queue_remove(&group->link);
    ngx_queue_insert_tail(&cdmcf->worker->groups, &group->link);

    /* a fetch that fails at once wakes the group, which frees it */

    ngx_add_timer(ev, NGX_HTTP_CDM_STOP_POLL);

    /* all of them look for the same */

    ctx = ngx_queue_data(ngx_queue_head(&group->requests),
                         ngx_http_cdm_stop_ctx_t, queue);

    rc = ctx->look(cdmcf, ctx, &found);

    if (rc != NGX_AGAIN) {
        ngx_http_cdm_stop_wake(cdmcf, &key);
    }
}


void
ngx_http_cdm_stop_wake(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_key_t *key)
{
    ngx_queue_t                *q;
    ngx_http_cdm_stop_ctx_t    *ctx;
    ngx_http_cdm_stop_group_t  *group;

    group = ngx_http_cdm_stop_group_find(cdmcf, key);

    if (group == NULL) {
        return;
    }

    /*
     * A resumed request may run to its end and start others: they are resumed
     * by the event loop and not from within whatever called us.
     */

    while (!ngx_queue_empty(&group->requests)) {

        q = ngx_queue_head(&group->requests);
        ctx = ngx_queue_data(q, ngx_http_cdm_stop_ctx_t, queue);

        ngx_queue_remove(q);
        cdmcf->worker->waiting--;
        ctx->waiting = 0;

        if (ctx->wake.timer_set) {
            ngx_del_timer(&ctx->wake);
        }

        ngx_post_event(&ctx->wake, &ngx_posted_events);
    }

    ngx_http_cdm_stop_group_free(group);
}


void
ngx_http_cdm_stop_wake_next(ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    ngx_uint_t                  n;
    ngx_queue_t                *q;
    ngx_http_cdm_stop_group_t  *group;

    n = 0;

    for (q = ngx_queue_head(&cdmcf->worker->groups);
         q != ngx_queue_sentinel(&cdmcf->worker->groups);
         q = ngx_queue_next(q))
    {
        group = ngx_queue_data(q, ngx_http_cdm_stop_group_t, link);

        if (group->poll.timer_set) {
            ngx_del_timer(&group->poll);
        }

        ngx_post_event(&group->poll, &ngx_posted_events);

        /* all but one of the other calls may be those of the first groups */

        if (++n == NGX_HTTP_CDM_STOP_SLOTS) {
            break;
        }
    }
}


/* the wait is over: there is news of the token, or the time is up */

static void
ngx_http_cdm_stop_wake_handler(ngx_event_t *ev)
{
    ngx_connection_t               *c;
    ngx_http_request_t             *r;
    ngx_http_cdm_stop_ctx_t        *ctx;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    r = ev->data;
    c = r->connection;

    ctx = ngx_http_cdm_stop_get_ctx(r);

    if (ctx->waiting) {
        cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

        ngx_queue_remove(&ctx->queue);
        cdmcf->worker->waiting--;
        ctx->waiting = 0;
    }

    ngx_http_set_log_request(c->log, r);

    r->read_event_handler = ngx_http_block_reading;

    if (ctx->repeat) {
        r->write_event_handler = ngx_http_request_empty_handler;
        ngx_http_cdm_stop_repeat(r);

    } else {
        r->write_event_handler = ngx_http_core_run_phases;
        ngx_http_core_run_phases(r);
    }

    ngx_http_run_posted_requests(c);
}


void
ngx_http_cdm_stop_wake_later(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ctx->wake.handler = ngx_http_cdm_stop_wake_handler;
    ctx->wake.data = r;
    ctx->wake.log = r->connection->log;

    ngx_post_event(&ctx->wake, &ngx_posted_events);
}
