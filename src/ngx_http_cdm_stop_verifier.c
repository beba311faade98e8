
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_verified.h"
#include "ngx_http_cdm_stop_zone.h"


static void ngx_http_cdm_stop_verifier_sweep(
    ngx_http_cdm_stop_verifier_t *verifier, int64_t now);


ngx_http_cdm_stop_verifier_t *
ngx_http_cdm_stop_verifier_get(ngx_http_cdm_stop_zone_t *zone, u_char *digest)
{
    ngx_queue_t                   *q, *queue;
    ngx_http_cdm_stop_verifier_t  *verifier;

    queue = &zone->sh->verified.verifiers;

    for (q = ngx_queue_head(queue);
         q != ngx_queue_sentinel(queue);
         q = ngx_queue_next(q))
    {
        verifier = ngx_queue_data(q, ngx_http_cdm_stop_verifier_t, queue);

        if (ngx_memcmp(verifier->digest, digest, NGX_HTTP_CDM_STOP_DIGEST_LEN)
            == 0)
        {
            return verifier;
        }
    }

    verifier = ngx_slab_calloc_locked(zone->shpool,
                                      sizeof(ngx_http_cdm_stop_verifier_t));
    if (verifier) {
        ngx_memcpy(verifier->digest, digest, NGX_HTTP_CDM_STOP_DIGEST_LEN);
        ngx_queue_insert_head(queue, &verifier->queue);
    }

    return verifier;
}


ngx_int_t
ngx_http_cdm_stop_verifier_begin(ngx_http_cdm_stop_verifier_t *verifier,
    ngx_http_cdm_stop_lease_t *lease, int64_t now,
    ngx_http_cdm_stop_found_t *found)
{
    ngx_uint_t  i, max;

    if (now < verifier->next_try) {
        found->retry = verifier->next_try - now;
        found->fail = verifier->fail;
        return NGX_BUSY;
    }

    max = (verifier->failures < NGX_HTTP_CDM_STOP_VERIFY_FAILED)
          ? NGX_HTTP_CDM_STOP_VERIFY_SLOTS : 1;

    if (verifier->used >= max) {
        ngx_http_cdm_stop_verifier_sweep(verifier, now);
    }

    if (verifier->used >= max) {
        return NGX_AGAIN;
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_VERIFY_SLOTS; i++) {

        if (verifier->slots[i].lease.id == 0) {
            verifier->slots[i].lease = *lease;
            verifier->slots[i].owner = ngx_pid;
            verifier->used++;

            return NGX_OK;
        }
    }

    return NGX_AGAIN;
}


/*
 * Gives slots back of workers that are gone.  Many requests may wait for one:
 * they do not all look at all of them.
 */

static void
ngx_http_cdm_stop_verifier_sweep(ngx_http_cdm_stop_verifier_t *verifier,
    int64_t now)
{
    ngx_uint_t                 i;
    ngx_http_cdm_stop_slot_t  *slot;

    if (now < verifier->swept + NGX_HTTP_CDM_STOP_POLL) {
        return;
    }

    verifier->swept = now;

    /* counted anew: a worker may have been killed before it counted */

    verifier->used = 0;

    for (i = 0; i < NGX_HTTP_CDM_STOP_VERIFY_SLOTS; i++) {

        slot = &verifier->slots[i];

        if (ngx_http_cdm_stop_lease_held(&slot->lease, slot->owner, now)) {
            verifier->used++;

        } else {
            slot->lease.id = 0;
        }
    }
}


void
ngx_http_cdm_stop_verifier_end(ngx_http_cdm_stop_verifier_t *verifier,
    ngx_http_cdm_stop_lease_t *lease)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_VERIFY_SLOTS; i++) {

        if (verifier->slots[i].lease.id == lease->id) {
            verifier->slots[i].lease.id = 0;
            verifier->used--;
            return;
        }
    }
}


void
ngx_http_cdm_stop_verifier_well(ngx_http_cdm_stop_verifier_t *verifier,
    int64_t now)
{
    if (verifier->failures) {
        verifier->failures = 0;
        verifier->next_try = 0;
        verifier->well = now;
    }
}


/*
 * Only silence and throttling tell that IAM is not well: an error as its
 * answer is about one token, and a stranger may have made that up.
 */

int64_t
ngx_http_cdm_stop_verifier_failed(ngx_http_cdm_stop_verifier_t *verifier,
    ngx_http_cdm_stop_fail_e fail, int64_t retry_after, int64_t now)
{
    int64_t  rest;

    if (fail != NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE
        && fail != NGX_HTTP_CDM_STOP_FAIL_THROTTLED)
    {
        return 0;
    }

    rest = 0;

    verifier->fail = fail;
    verifier->failures++;

    if (retry_after) {
        rest = ngx_max(retry_after, NGX_HTTP_CDM_STOP_RETRY_MIN);
        rest = ngx_min(rest, NGX_HTTP_CDM_STOP_RETRY_MAX);

    } else if (verifier->failures >= NGX_HTTP_CDM_STOP_VERIFY_FAILED) {
        rest = ngx_http_cdm_stop_backoff(0);
    }

    if (rest) {
        verifier->next_try = now + rest;
    }

    return rest;
}
