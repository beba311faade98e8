
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_refusals.h"
#include "ngx_http_cdm_stop_stats.h"


static ngx_http_cdm_stop_refusals_t *ngx_http_cdm_stop_refusals_get(
    ngx_conf_t *cf, ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_array_t *targets);
static ngx_uint_t ngx_http_cdm_stop_refusals_same(ngx_array_t *a,
    ngx_array_t *b);
static void ngx_http_cdm_stop_refusals_cleanup(void *data);
static void ngx_http_cdm_stop_refusals_handler(ngx_event_t *ev);
static ngx_uint_t ngx_http_cdm_stop_refusals_sum_up(
    ngx_http_cdm_stop_refusals_t *refusals);


ngx_int_t
ngx_http_cdm_stop_refusals_init(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    ngx_uint_t                       i;
    ngx_pool_cleanup_t              *cln;
    ngx_http_cdm_stop_loc_conf_t   **locations;

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cdmcf->refusals = ngx_array_create(cf->pool, 4,
                                       sizeof(ngx_http_cdm_stop_refusals_t *));
    if (cdmcf->refusals == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_cdm_stop_refusals_cleanup;
    cln->data = cdmcf->refusals;

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        if (locations[i]->identity == NULL
            || locations[i]->audit->nelts == 0)
        {
            continue;
        }

        locations[i]->refusals = ngx_http_cdm_stop_refusals_get(cf, cdmcf,
                                                         locations[i]->audit);
        if (locations[i]->refusals == NULL) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_http_cdm_stop_refusals_t *
ngx_http_cdm_stop_refusals_get(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_array_t *targets)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_refusals_t    *refusals, **known;

    known = cdmcf->refusals->elts;

    for (i = 0; i < cdmcf->refusals->nelts; i++) {
        if (ngx_http_cdm_stop_refusals_same(known[i]->targets, targets)) {
            return known[i];
        }
    }

    known = ngx_array_push(cdmcf->refusals);
    if (known == NULL) {
        return NULL;
    }

    refusals = ngx_pcalloc(cf->pool, sizeof(ngx_http_cdm_stop_refusals_t));
    if (refusals == NULL) {
        return NULL;
    }

    refusals->targets = targets;
    refusals->cdmcf = cdmcf;

    refusals->timer.handler = ngx_http_cdm_stop_refusals_handler;
    refusals->timer.data = refusals;
    refusals->timer.cancelable = 1;

    *known = refusals;

    return refusals;
}


/* locations that name the same files fill the same disk */

static ngx_uint_t
ngx_http_cdm_stop_refusals_same(ngx_array_t *a, ngx_array_t *b)
{
    ngx_uint_t                  i;
    ngx_http_cdm_stop_audit_t  *x, *y;

    if (a == b) {
        return 1;
    }

    if (a->nelts != b->nelts) {
        return 0;
    }

    x = a->elts;
    y = b->elts;

    for (i = 0; i < a->nelts; i++) {
        if (x[i].chain != y[i].chain || x[i].best_effort != y[i].best_effort) {
            return 0;
        }
    }

    return 1;
}


static void
ngx_http_cdm_stop_refusals_cleanup(void *data)
{
    ngx_array_t *array = data;

    ngx_uint_t                       i;
    ngx_http_cdm_stop_refusals_t   **refusals;

    refusals = array->elts;

    for (i = 0; i < array->nelts; i++) {
        if (refusals[i]->timer.timer_set) {
            ngx_del_timer(&refusals[i]->timer);
        }
    }
}


ngx_uint_t
ngx_http_cdm_stop_refusals_admit(ngx_http_cdm_stop_refusals_t *refusals)
{
    int64_t      now;
    ngx_uint_t   i;
    ngx_time_t  *tp;

    now = ngx_http_cdm_stop_now();

    if (now - refusals->start >= NGX_HTTP_CDM_STOP_REFUSALS_EVERY
        || now < refusals->start)
    {
        /* the loop may have been too busy for the timer */

        if (refusals->timer.timer_set) {
            ngx_del_timer(&refusals->timer);
            ngx_http_cdm_stop_refusals_handler(&refusals->timer);
        }

        refusals->start = now;
        refusals->count = 0;
    }

    if (refusals->count < NGX_HTTP_CDM_STOP_REFUSALS_MAX) {
        refusals->count++;
        return 1;
    }

    ngx_http_cdm_stop_stats_summed_up(refusals->targets);

    tp = ngx_timeofday();

    for (i = 0; i < refusals->targets->nelts; i++) {

        if (refusals->unwritten[i].number++ == 0) {
            refusals->unwritten[i].sec = tp->sec;
            refusals->unwritten[i].msec = tp->msec;
        }
    }

    if (!refusals->timer.timer_set) {
        refusals->timer.log = ngx_cycle->log;

        ngx_add_timer(&refusals->timer,
                      (ngx_msec_t) (refusals->start + 1 - now
                                    + NGX_HTTP_CDM_STOP_REFUSALS_EVERY));
    }

    return 0;
}


static void
ngx_http_cdm_stop_refusals_handler(ngx_event_t *ev)
{
    ngx_http_cdm_stop_refusals_t  *refusals;

    refusals = ev->data;

    if (ngx_http_cdm_stop_refusals_sum_up(refusals)) {

        /* a target that takes nothing now may do so again */

        ngx_add_timer(ev, NGX_HTTP_CDM_STOP_REFUSALS_EVERY);
    }
}


/* returns the number of targets that got no summary though they were to */

static ngx_uint_t
ngx_http_cdm_stop_refusals_sum_up(ngx_http_cdm_stop_refusals_t *refusals)
{
    ngx_uint_t                      i, failed;
    ngx_http_cdm_stop_audit_t      *audit;
    ngx_http_cdm_stop_unwritten_t  *unwritten;

    failed = 0;
    audit = refusals->targets->elts;

    for (i = 0; i < refusals->targets->nelts; i++) {

        unwritten = &refusals->unwritten[i];

        if (unwritten->number == 0) {
            continue;
        }

        if (ngx_http_cdm_stop_record_refusals(refusals->cdmcf, audit[i].chain,
                                              unwritten)
            == NGX_OK)
        {
            unwritten->number = 0;

        } else {
            failed++;
        }
    }

    return failed;
}


void
ngx_http_cdm_stop_refusals_flush(ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    ngx_uint_t                       i, j;
    ngx_http_cdm_stop_refusals_t   **refusals;

    if (cdmcf->refusals == NULL) {
        return;
    }

    refusals = cdmcf->refusals->elts;

    for (i = 0; i < cdmcf->refusals->nelts; i++) {

        if (refusals[i]->timer.timer_set) {
            ngx_del_timer(&refusals[i]->timer);
        }

        if (ngx_http_cdm_stop_refusals_sum_up(refusals[i]) == 0) {
            continue;
        }

        for (j = 0; j < refusals[i]->targets->nelts; j++) {

            if (refusals[i]->unwritten[j].number) {
                ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, 0,
                              "%ui refused stops have no audit record: the "
                              "worker ends, and their summary could not be "
                              "written", refusals[i]->unwritten[j].number);
                refusals[i]->unwritten[j].number = 0;
            }
        }
    }
}
