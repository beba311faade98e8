
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_stats.h"


/* a look for tokens to renew, in milliseconds, and how many at one look */
#define NGX_HTTP_CDM_STOP_LOOK_EVERY  1000
#define NGX_HTTP_CDM_STOP_LOOK_MAX    16


static void ngx_http_cdm_stop_renew_handler(ngx_event_t *ev);
static void ngx_http_cdm_stop_renew(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_key_t *key);
static void ngx_http_cdm_stop_renew_files(
    ngx_http_cdm_stop_main_conf_t *cdmcf);
static void ngx_http_cdm_stop_renew_one(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity, ngx_http_cdm_stop_key_t *key,
    uint64_t stamp);


/*
 * A token that is used all the time is renewed by whoever uses it.  This is
 * for one that is used now and then: it is renewed if it was used in its life,
 * and lapses otherwise.
 */

void
ngx_http_cdm_stop_start_renewal(ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    ngx_event_t  *ev;

    ev = &cdmcf->worker->renew;

    if (ev->handler) {
        return;
    }

    ev->handler = ngx_http_cdm_stop_renew_handler;
    ev->data = cdmcf;
    ev->log = ngx_cycle->log;
    ev->cancelable = 1;

    ngx_add_timer(ev, ngx_random() % NGX_HTTP_CDM_STOP_LOOK_EVERY);
}


void
ngx_http_cdm_stop_stop_renewal(void *data)
{
    ngx_http_cdm_stop_main_conf_t *cdmcf = data;

    if (cdmcf->worker->renew.timer_set) {
        ngx_del_timer(&cdmcf->worker->renew);
    }

    ngx_http_cdm_stop_held_free(cdmcf->worker->held);

    ngx_http_cdm_stop_regular_free(cdmcf->worker->regulars);
    cdmcf->worker->regulars = NULL;
}


static void
ngx_http_cdm_stop_renew_handler(ngx_event_t *ev)
{
    ngx_uint_t                      i, n;
    ngx_http_cdm_stop_key_t         keys[NGX_HTTP_CDM_STOP_LOOK_MAX];
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    ngx_add_timer(ev, NGX_HTTP_CDM_STOP_LOOK_EVERY);

    cdmcf = ev->data;

    ngx_http_cdm_stop_held_expire(cdmcf->worker->held);
    ngx_http_cdm_stop_regular_expire(cdmcf->worker->regulars);

    /* a worker that is about to end leaves the rest to the new ones */

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    ngx_http_cdm_stop_stats_tick(cdmcf);

    n = ngx_http_cdm_stop_token_due(cdmcf->zone, keys,
                                    NGX_HTTP_CDM_STOP_LOOK_MAX);

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_renew(cdmcf, &keys[i]);
    }

    ngx_http_cdm_stop_renew_files(cdmcf);
}


static void
ngx_http_cdm_stop_renew(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_key_t *key)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_identity_t   **identities;

    identities = cdmcf->identities.elts;

    for (i = 0; i < cdmcf->identities.nelts; i++) {

        if (ngx_memcmp(identities[i]->digest, key->digest,
                       NGX_HTTP_CDM_STOP_DIGEST_LEN)
            == 0)
        {
            ngx_http_cdm_stop_renew_one(cdmcf, identities[i], key, 0);
            return;
        }
    }
}


/* something else keeps these tokens, and may have written a new one */

static void
ngx_http_cdm_stop_renew_files(ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    uint64_t                         stamp;
    ngx_uint_t                       i, j, n;
    ngx_http_cdm_stop_key_t          keys[NGX_HTTP_CDM_STOP_LOOK_MAX];
    ngx_http_cdm_stop_identity_t   **identities;

    identities = cdmcf->identities.elts;

    for (i = 0; i < cdmcf->identities.nelts; i++) {

        if (identities[i]->credentials.method != NGX_HTTP_CDM_STOP_FILE) {
            continue;
        }

        stamp = ngx_http_cdm_stop_token_file_stamp(identities[i]);

        if (stamp == 0) {
            continue;
        }

        n = ngx_http_cdm_stop_token_stale(cdmcf->zone, identities[i]->digest,
                                          stamp, keys,
                                          NGX_HTTP_CDM_STOP_LOOK_MAX);

        for (j = 0; j < n; j++) {
            ngx_http_cdm_stop_renew_one(cdmcf, identities[i], &keys[j], stamp);
        }
    }
}


static void
ngx_http_cdm_stop_renew_one(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity, ngx_http_cdm_stop_key_t *key,
    uint64_t stamp)
{
    ngx_http_cdm_stop_found_t  found;

    if (ngx_http_cdm_stop_token_renew(cdmcf->zone, key, &identity->terms,
                                      stamp, &found)
        == NGX_DONE)
    {
        (void) ngx_http_cdm_stop_ask(cdmcf, identity, key, &found);
    }
}
