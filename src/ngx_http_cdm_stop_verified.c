
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_verified.h"
#include "ngx_http_cdm_stop_zone.h"


/* entries that make room at a time: many are smaller than what needs it */
#define NGX_HTTP_CDM_STOP_EVICT  16


static ngx_http_cdm_stop_known_t *ngx_http_cdm_stop_known_lookup(
    ngx_http_cdm_stop_zone_t *zone, ngx_http_cdm_stop_key_t *key);
static ngx_int_t ngx_http_cdm_stop_known_state(
    ngx_http_cdm_stop_known_t *known, ngx_http_cdm_stop_terms_t *terms,
    int64_t now);
static ngx_int_t ngx_http_cdm_stop_known_lease(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_verifier_t *verifier, ngx_http_cdm_stop_known_t *known,
    ngx_http_cdm_stop_key_t *key, int64_t until,
    ngx_http_cdm_stop_found_t *found);
static ngx_http_cdm_stop_known_t *ngx_http_cdm_stop_known_create(
    ngx_http_cdm_stop_zone_t *zone, ngx_http_cdm_stop_key_t *key, size_t len,
    int64_t now);
static void ngx_http_cdm_stop_known_touch(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_known_t *known);
static void ngx_http_cdm_stop_known_free(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_known_t *known);
static void ngx_http_cdm_stop_known_expire(ngx_http_cdm_stop_zone_t *zone,
    int64_t now);
static ngx_uint_t ngx_http_cdm_stop_known_evict(
    ngx_http_cdm_stop_zone_t *zone, ngx_uint_t max, ngx_uint_t leased);
static size_t ngx_http_cdm_stop_known_size(size_t len);


ngx_int_t
ngx_http_cdm_stop_verified_key(ngx_shm_zone_t *shm_zone, u_char *digest,
    ngx_str_t *token, ngx_http_cdm_stop_key_t *key, u_char *fp)
{
    u_char                     md[NGX_HTTP_CDM_STOP_MAC_LEN];
    ngx_int_t                  rc;
    ngx_str_t                  parts[2];
    ngx_http_cdm_stop_zone_t  *zone;

    zone = shm_zone->data;

    ngx_memzero(key, sizeof(ngx_http_cdm_stop_key_t));

    /* a token is long, so it is read once for both */

    rc = ngx_http_cdm_stop_mac(zone->mac, token, 1, md);

    if (rc == NGX_OK) {
        ngx_http_cdm_stop_hex_dump(fp, md,
                                   NGX_HTTP_CDM_STOP_FINGERPRINT_LEN / 2);

        parts[0].data = digest;
        parts[0].len = NGX_HTTP_CDM_STOP_DIGEST_LEN;
        parts[1].data = md;
        parts[1].len = sizeof(md);

        rc = ngx_http_cdm_stop_mac(zone->known, parts, 2, key->digest);
    }

    ngx_explicit_memzero(md, sizeof(md));

    return rc;
}


ngx_int_t
ngx_http_cdm_stop_verified_find(ngx_shm_zone_t *shm_zone, u_char *digest,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_terms_t *terms,
    ngx_http_cdm_stop_found_t *found, u_char *facts)
{
    int64_t                        now;
    ngx_int_t                      rc;
    ngx_http_cdm_stop_zone_t      *zone;
    ngx_http_cdm_stop_known_t     *known;
    ngx_http_cdm_stop_verifier_t  *verifier;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();

    ngx_memzero(found, sizeof(ngx_http_cdm_stop_found_t));

    ngx_shmtx_lock(&zone->shpool->mutex);

    known = ngx_http_cdm_stop_known_lookup(zone, key);

    rc = known ? ngx_http_cdm_stop_known_state(known, terms, now) : NGX_DONE;

    if (rc == NGX_OK || rc == NGX_DECLINED) {

        ngx_http_cdm_stop_known_touch(zone, known);

        if (rc == NGX_OK) {
            found->len = known->len;
            ngx_memcpy(facts, known->facts, known->len);
        }
    }

    if (rc != NGX_DONE) {
        goto done;
    }

    verifier = ngx_http_cdm_stop_verifier_get(zone, digest);

    if (verifier == NULL) {
        rc = NGX_ERROR;
        goto done;
    }

    /* what failed before IAM was well again does not count */

    if (known && now < known->next_try && known->failed >= verifier->well) {
        found->retry = known->next_try - now;
        found->fail = known->fail;
        rc = NGX_BUSY;
        goto done;
    }

    rc = ngx_http_cdm_stop_known_lease(zone, verifier, known, key,
                                       now + terms->lease, found);

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rc;
}


/* known is made if there is none */

static ngx_int_t
ngx_http_cdm_stop_known_lease(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_verifier_t *verifier, ngx_http_cdm_stop_known_t *known,
    ngx_http_cdm_stop_key_t *key, int64_t until,
    ngx_http_cdm_stop_found_t *found)
{
    int64_t                    now;
    ngx_int_t                  rc;
    ngx_http_cdm_stop_lease_t  lease;

    now = ngx_http_cdm_stop_now();

    lease.id = zone->sh->leases + 1;
    lease.until = until;

    rc = ngx_http_cdm_stop_verifier_begin(verifier, &lease, now, found);

    if (rc != NGX_OK) {
        return rc;
    }

    zone->sh->leases++;

    if (known == NULL) {
        known = ngx_http_cdm_stop_known_create(zone, key, 0, now);
    }

    if (known == NULL) {
        ngx_http_cdm_stop_verifier_end(verifier, &lease);
        return NGX_ERROR;
    }

    known->lease = lease;
    known->owner = ngx_pid;

    found->lease = lease;
    found->by_gateway = known->by_gateway;

    return NGX_DONE;
}


static ngx_http_cdm_stop_known_t *
ngx_http_cdm_stop_known_lookup(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key)
{
    return (ngx_http_cdm_stop_known_t *)
               ngx_http_cdm_stop_tree_lookup(&zone->sh->verified.rbtree, key);
}


/*
 * NGX_OK or NGX_DECLINED if IAM's last answer still holds, NGX_AGAIN if it is
 * being asked, NGX_DONE if it has to be.
 */

static ngx_int_t
ngx_http_cdm_stop_known_state(ngx_http_cdm_stop_known_t *known,
    ngx_http_cdm_stop_terms_t *terms, int64_t now)
{
    if (known->refused && now < known->checked + NGX_HTTP_CDM_STOP_REFUSED_FOR)
    {
        return NGX_DECLINED;
    }

    if (known->len) {

        if (now < known->end && now < known->checked + terms->verify_cache) {
            return NGX_OK;
        }

        if (now >= known->end
            && now < known->end + NGX_HTTP_CDM_STOP_REFUSED_FOR)
        {
            return NGX_DECLINED;
        }
    }

    if (ngx_http_cdm_stop_lease_held(&known->lease, known->owner, now)) {
        return NGX_AGAIN;
    }

    return NGX_DONE;
}


ngx_int_t
ngx_http_cdm_stop_verified_publish(ngx_shm_zone_t *shm_zone, u_char *digest,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_http_cdm_stop_facts_t *facts, int64_t end)
{
    size_t                         len;
    int64_t                        now;
    ngx_int_t                      rc;
    ngx_uint_t                     by_gateway;
    ngx_http_cdm_stop_zone_t      *zone;
    ngx_http_cdm_stop_known_t     *known;
    ngx_http_cdm_stop_verifier_t  *verifier;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();
    len = facts ? facts->len : 0;

    ngx_shmtx_lock(&zone->shpool->mutex);

    verifier = ngx_http_cdm_stop_verifier_get(zone, digest);

    if (verifier) {
        ngx_http_cdm_stop_verifier_end(verifier, lease);
        ngx_http_cdm_stop_verifier_well(verifier, now);
    }

    known = ngx_http_cdm_stop_known_lookup(zone, key);

    if (known == NULL || known->lease.id != lease->id) {
        rc = NGX_DECLINED;
        goto done;
    }

    if (known->size != ngx_http_cdm_stop_known_size(len)) {

        by_gateway = known->by_gateway;

        ngx_http_cdm_stop_known_free(zone, known);

        known = ngx_http_cdm_stop_known_create(zone, key, len, now);

        if (known == NULL) {
            rc = NGX_ERROR;
            goto done;
        }

        known->by_gateway = by_gateway;
    }

    if (facts) {
        ngx_memcpy(known->facts, facts->data, len);
    }

    known->lease.id = 0;
    known->len = len;
    known->refused = (facts == NULL);
    known->checked = now;
    known->end = end;
    known->next_try = 0;
    known->failures = 0;

    ngx_http_cdm_stop_known_touch(zone, known);

    rc = NGX_OK;

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rc;
}


int64_t
ngx_http_cdm_stop_verified_failed(ngx_shm_zone_t *shm_zone, u_char *digest,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_http_cdm_stop_fail_e fail, int64_t retry_after)
{
    int64_t                        now, own, rest;
    ngx_http_cdm_stop_zone_t      *zone;
    ngx_http_cdm_stop_known_t     *known;
    ngx_http_cdm_stop_verifier_t  *verifier;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();
    rest = 0;

    ngx_shmtx_lock(&zone->shpool->mutex);

    verifier = ngx_http_cdm_stop_verifier_get(zone, digest);

    if (verifier) {
        ngx_http_cdm_stop_verifier_end(verifier, lease);

        rest = ngx_http_cdm_stop_verifier_failed(verifier, fail, retry_after,
                                                 now);
    }

    known = ngx_http_cdm_stop_known_lookup(zone, key);

    if (known && known->lease.id == lease->id) {

        known->lease.id = 0;
        known->fail = fail;
        known->failed = now;

        own = ngx_http_cdm_stop_backoff(known->failures++);
        rest = ngx_max(rest, own);

        known->next_try = now + rest;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rest;
}


void
ngx_http_cdm_stop_verified_abandon(ngx_shm_zone_t *shm_zone, u_char *digest,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_uint_t by_gateway)
{
    ngx_http_cdm_stop_zone_t      *zone;
    ngx_http_cdm_stop_known_t     *known;
    ngx_http_cdm_stop_verifier_t  *verifier;

    zone = shm_zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);

    verifier = ngx_http_cdm_stop_verifier_get(zone, digest);

    if (verifier) {
        ngx_http_cdm_stop_verifier_end(verifier, lease);
    }

    known = ngx_http_cdm_stop_known_lookup(zone, key);

    if (known && known->lease.id == lease->id) {
        known->lease.id = 0;
        known->by_gateway |= by_gateway;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_cdm_stop_verified_forget(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *key)
{
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_known_t  *known;

    zone = shm_zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);

    known = ngx_http_cdm_stop_known_lookup(zone, key);

    if (known) {
        ngx_http_cdm_stop_known_free(zone, known);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


void
ngx_http_cdm_stop_verified_init(ngx_http_cdm_stop_zone_t *zone)
{
    ngx_http_cdm_stop_verified_t  *verified;

    verified = &zone->sh->verified;

    ngx_rbtree_init(&verified->rbtree, &verified->sentinel,
                    ngx_http_cdm_stop_tree_insert);

    ngx_queue_init(&verified->valid);
    ngx_queue_init(&verified->refused);
    ngx_queue_init(&verified->verifiers);

    verified->max = (zone->shpool->end - zone->shpool->start) / 2;
}


/* makes room for a token of the gateway */

ngx_uint_t
ngx_http_cdm_stop_verified_evict(ngx_http_cdm_stop_zone_t *zone)
{
    ngx_uint_t  n;

    n = ngx_http_cdm_stop_known_evict(zone, NGX_HTTP_CDM_STOP_EVICT, 0);

    if (n == 0) {
        n = ngx_http_cdm_stop_known_evict(zone, NGX_HTTP_CDM_STOP_EVICT, 1);
    }

    return n;
}


/* an entry makes room only by others of its kind */

static ngx_http_cdm_stop_known_t *
ngx_http_cdm_stop_known_create(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, size_t len, int64_t now)
{
    size_t                         size;
    ngx_http_cdm_stop_known_t     *known;
    ngx_http_cdm_stop_verified_t  *verified;

    verified = &zone->sh->verified;
    size = ngx_http_cdm_stop_known_size(len);

    ngx_http_cdm_stop_known_expire(zone, now);

    while (verified->size + size > verified->max) {
        if (!ngx_http_cdm_stop_known_evict(zone, 1, 0)) {
            zone->sh->full++;
            return NULL;
        }
    }

    for ( ;; ) {

        known = ngx_slab_calloc_locked(zone->shpool, size);

        if (known) {
            break;
        }

        if (!ngx_http_cdm_stop_known_evict(zone, NGX_HTTP_CDM_STOP_EVICT, 0)) {
            zone->sh->full++;
            return NULL;
        }
    }

    known->node.key = *key;
    known->node.rbnode.key = ngx_http_cdm_stop_key_hash(key);
    known->size = size;

    verified->size += size;
    verified->entries++;

    ngx_rbtree_insert(&verified->rbtree, &known->node.rbnode);
    ngx_queue_insert_head(&verified->refused, &known->queue);

    return known;
}


static void
ngx_http_cdm_stop_known_touch(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_known_t *known)
{
    ngx_queue_remove(&known->queue);

    zone->sh->verified.nvalid -= known->listed;
    known->listed = (known->len != 0);
    zone->sh->verified.nvalid += known->listed;

    ngx_queue_insert_head(known->len ? &zone->sh->verified.valid
                                     : &zone->sh->verified.refused,
                          &known->queue);
}


static void
ngx_http_cdm_stop_known_free(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_known_t *known)
{
    zone->sh->verified.size -= known->size;
    zone->sh->verified.entries--;
    zone->sh->verified.nvalid -= known->listed;

    ngx_queue_remove(&known->queue);
    ngx_rbtree_delete(&zone->sh->verified.rbtree, &known->node.rbnode);

    ngx_slab_free_locked(zone->shpool, known);
}


/* each new entry takes two old ones away that are of no use any more */

static void
ngx_http_cdm_stop_known_expire(ngx_http_cdm_stop_zone_t *zone, int64_t now)
{
    ngx_uint_t                  i;
    ngx_queue_t                *queue;
    ngx_http_cdm_stop_known_t  *known;

    queue = &zone->sh->verified.refused;

    for (i = 0; i < 2; i++) {

        if (ngx_queue_empty(queue)) {
            return;
        }

        known = ngx_queue_data(ngx_queue_last(queue),
                               ngx_http_cdm_stop_known_t, queue);

        if (now < known->checked + NGX_HTTP_CDM_STOP_REFUSED_FOR
            || now < known->next_try
            || ngx_http_cdm_stop_lease_held(&known->lease, known->owner, now))
        {
            return;
        }

        ngx_http_cdm_stop_known_free(zone, known);
    }
}


/*
 * Those first that IAM did not call valid, so that a flood of tokens that are
 * none does not cost a caller's verification; then those not used for long.
 */

static ngx_uint_t
ngx_http_cdm_stop_known_evict(ngx_http_cdm_stop_zone_t *zone, ngx_uint_t max,
    ngx_uint_t leased)
{
    int64_t                     now;
    ngx_uint_t                  i, n;
    ngx_queue_t                *q, *prev, *queue[2];
    ngx_http_cdm_stop_known_t  *known;

    n = 0;
    now = ngx_http_cdm_stop_now();

    queue[0] = &zone->sh->verified.refused;
    queue[1] = &zone->sh->verified.valid;

    for (i = 0; i < 2; i++) {

        for (q = ngx_queue_last(queue[i]);
             q != ngx_queue_sentinel(queue[i]) && n < max;
             q = prev)
        {
            prev = ngx_queue_prev(q);

            known = ngx_queue_data(q, ngx_http_cdm_stop_known_t, queue);

            if (!leased
                && ngx_http_cdm_stop_lease_held(&known->lease, known->owner,
                                                now))
            {
                continue;
            }

            ngx_http_cdm_stop_known_free(zone, known);
            zone->sh->verified.evictions++;
            n++;
        }
    }

    return n;
}


/* as much as the slab allocator takes for it */

static size_t
ngx_http_cdm_stop_known_size(size_t len)
{
    size_t  size, slot;

    size = offsetof(ngx_http_cdm_stop_known_t, facts) + ngx_max(len, 1);

    if (size > ngx_pagesize / 2) {
        return ngx_align(size, ngx_pagesize);
    }

    for (slot = 64; slot < size; slot <<= 1) { /* void */ }

    return slot;
}
