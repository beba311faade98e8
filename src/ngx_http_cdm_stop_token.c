
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_zone.h"


#define NGX_HTTP_CDM_STOP_MINUTE  60000


static ngx_http_cdm_stop_entry_t *ngx_http_cdm_stop_entry_lookup(
    ngx_http_cdm_stop_zone_t *zone, ngx_http_cdm_stop_key_t *key);
static ngx_int_t ngx_http_cdm_stop_entry_get(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_terms_t *terms,
    int64_t now, ngx_http_cdm_stop_found_t *found,
    ngx_http_cdm_stop_entry_t **entry);
static ngx_uint_t ngx_http_cdm_stop_entry_good(
    ngx_http_cdm_stop_entry_t *entry, int64_t now);
static ngx_uint_t ngx_http_cdm_stop_entry_stale(
    ngx_http_cdm_stop_entry_t *entry, uint64_t stamp);
static ngx_int_t ngx_http_cdm_stop_entry_lease(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_entry_t *entry, ngx_http_cdm_stop_terms_t *terms,
    int64_t now, ngx_http_cdm_stop_found_t *found);
static void ngx_http_cdm_stop_entry_release(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_entry_t *entry);
static int64_t ngx_http_cdm_stop_jitter(int64_t time, ngx_uint_t percent);


ngx_int_t
ngx_http_cdm_stop_token_find(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_terms_t *terms,
    ngx_http_cdm_stop_found_t *found)
{
    int64_t                     now;
    ngx_int_t                   rc;
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();

    ngx_memzero(found, sizeof(ngx_http_cdm_stop_found_t));

    ngx_shmtx_lock(&zone->shpool->mutex);

    rc = ngx_http_cdm_stop_entry_get(zone, key, terms, now, found, &entry);

    if (rc == NGX_OK && ngx_http_cdm_stop_entry_good(entry, now)) {

        entry->used = 1;

        found->len = entry->token.len;
        found->generation = entry->generation;
        found->stale = (entry->failures != 0);

        if (now >= entry->renew) {
            (void) ngx_http_cdm_stop_entry_lease(zone, entry, terms, now,
                                                 found);
        }

    } else if (rc == NGX_OK) {
        rc = ngx_http_cdm_stop_entry_lease(zone, entry, terms, now, found);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rc;
}


ngx_int_t
ngx_http_cdm_stop_token_renew(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_terms_t *terms,
    uint64_t stamp, ngx_http_cdm_stop_found_t *found)
{
    int64_t                     now;
    ngx_int_t                   rc;
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();
    rc = NGX_DECLINED;

    ngx_memzero(found, sizeof(ngx_http_cdm_stop_found_t));

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(zone, key);

    if (entry
        && ((entry->used
             && now >= entry->renew
             && ngx_http_cdm_stop_entry_good(entry, now))
            || ngx_http_cdm_stop_entry_stale(entry, stamp)))
    {
        if (ngx_http_cdm_stop_entry_stale(entry, stamp)) {

            /* what rested because of another content is news by now */

            entry->next_try = 0;
        }

        rc = ngx_http_cdm_stop_entry_lease(zone, entry, terms, now, found);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rc;
}


ngx_uint_t
ngx_http_cdm_stop_token_due(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *keys, ngx_uint_t max)
{
    int64_t                     now;
    ngx_uint_t                  n;
    ngx_rbtree_t               *rbtree;
    ngx_rbtree_node_t          *node;
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();
    n = 0;

    rbtree = &zone->sh->rbtree;

    ngx_shmtx_lock(&zone->shpool->mutex);

    node = (rbtree->root == rbtree->sentinel)
           ? NULL : ngx_rbtree_min(rbtree->root, rbtree->sentinel);

    for ( /* void */ ;
         node && n < max;
         node = ngx_rbtree_next(rbtree, node))
    {
        entry = (ngx_http_cdm_stop_entry_t *) node;

        if (ngx_http_cdm_stop_node_is_entry(&entry->node)
            && entry->used
            && now >= entry->renew
            && now >= entry->next_try
            && entry->lease.id == 0
            && ngx_http_cdm_stop_entry_good(entry, now))
        {
            keys[n++] = entry->node.key;
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return n;
}


ngx_uint_t
ngx_http_cdm_stop_token_stale(ngx_shm_zone_t *shm_zone, u_char *digest,
    uint64_t stamp, ngx_http_cdm_stop_key_t *keys, ngx_uint_t max)
{
    ngx_uint_t                  n;
    ngx_rbtree_t               *rbtree;
    ngx_rbtree_node_t          *node;
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    zone = shm_zone->data;
    n = 0;

    rbtree = &zone->sh->rbtree;

    ngx_shmtx_lock(&zone->shpool->mutex);

    node = (rbtree->root == rbtree->sentinel)
           ? NULL : ngx_rbtree_min(rbtree->root, rbtree->sentinel);

    for ( /* void */ ;
         node && n < max;
         node = ngx_rbtree_next(rbtree, node))
    {
        entry = (ngx_http_cdm_stop_entry_t *) node;

        if (ngx_http_cdm_stop_node_is_entry(&entry->node)
            && ngx_memcmp(entry->node.key.digest, digest,
                          NGX_HTTP_CDM_STOP_DIGEST_LEN)
               == 0
            && ngx_http_cdm_stop_entry_stale(entry, stamp))
        {
            keys[n++] = entry->node.key;
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return n;
}


static ngx_http_cdm_stop_entry_t *
ngx_http_cdm_stop_entry_lookup(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key)
{
    return (ngx_http_cdm_stop_entry_t *)
               ngx_http_cdm_stop_node_lookup(zone, key);
}


static ngx_int_t
ngx_http_cdm_stop_entry_get(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_terms_t *terms,
    int64_t now, ngx_http_cdm_stop_found_t *found,
    ngx_http_cdm_stop_entry_t **entry)
{
    ngx_http_cdm_stop_account_t  *account;

    *entry = ngx_http_cdm_stop_entry_lookup(zone, key);

    if (*entry) {
        return NGX_OK;
    }

    account = ngx_http_cdm_stop_account_get(zone, key);
    if (account == NULL) {
        return NGX_ERROR;
    }

    if (terms->any_project
        && ngx_http_cdm_stop_account_admit(zone, account, now, &found->retry)
           != NGX_OK)
    {
        found->fail = NGX_HTTP_CDM_STOP_FAIL_PROJECTS;
        return NGX_BUSY;
    }

    *entry = ngx_http_cdm_stop_node_alloc(zone, key,
                                          sizeof(ngx_http_cdm_stop_entry_t));
    if (*entry == NULL) {
        return NGX_ERROR;
    }

    account->projects++;
    ngx_http_cdm_stop_node_insert(zone, &(*entry)->node);

    return NGX_OK;
}


static ngx_uint_t
ngx_http_cdm_stop_entry_good(ngx_http_cdm_stop_entry_t *entry, int64_t now)
{
    return entry->token.len && now < entry->end;
}


/* whether its file has another content than what was used or tried of it */

static ngx_uint_t
ngx_http_cdm_stop_entry_stale(ngx_http_cdm_stop_entry_t *entry, uint64_t stamp)
{
    return stamp && entry->stamp != stamp && entry->tried != stamp;
}


static ngx_int_t
ngx_http_cdm_stop_entry_lease(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_entry_t *entry, ngx_http_cdm_stop_terms_t *terms,
    int64_t now, ngx_http_cdm_stop_found_t *found)
{
    ngx_int_t                     rc;
    ngx_http_cdm_stop_lease_t     lease;
    ngx_http_cdm_stop_account_t  *account;

    if (ngx_http_cdm_stop_lease_held(&entry->lease, entry->owner, now)) {
        return NGX_AGAIN;
    }

    if (now < entry->next_try) {
        found->retry = entry->next_try - now;
        found->fail = entry->fail;
        return NGX_BUSY;
    }

    account = ngx_http_cdm_stop_account_get(zone, &entry->node.key);
    if (account == NULL) {
        return NGX_ERROR;
    }

    lease.id = zone->sh->leases + 1;
    lease.until = now + terms->lease;

    rc = ngx_http_cdm_stop_account_begin(account, &lease, now, terms->hold,
                                         &found->retry);

    if (rc == NGX_BUSY) {
        found->fail = NGX_HTTP_CDM_STOP_FAIL_REFUSED;
    }

    if (rc != NGX_OK) {
        return rc;
    }

    zone->sh->leases++;

    entry->lease = lease;
    entry->owner = ngx_pid;

    found->lease = lease;

    return NGX_DONE;
}


/* gives the lease of an entry back, and the slot of its identity */

static void
ngx_http_cdm_stop_entry_release(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_entry_t *entry)
{
    ngx_http_cdm_stop_account_t  *account;

    account = ngx_http_cdm_stop_account_get(zone, &entry->node.key);

    if (account) {
        ngx_http_cdm_stop_account_end(account, &entry->lease);
    }

    entry->lease.id = 0;
}


size_t
ngx_http_cdm_stop_token_copy(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *key, u_char *dst, size_t size,
    uint64_t *generation, u_char *fp)
{
    size_t                      len;
    int64_t                     now;
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();
    len = 0;

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(zone, key);

    if (entry
        && ngx_http_cdm_stop_entry_good(entry, now)
        && entry->token.len <= size)
    {
        len = entry->token.len;
        *generation = entry->generation;
        ngx_http_cdm_stop_chunks_get(&entry->token, dst);

        if (fp && entry->fp_key == zone->fp_key) {
            ngx_memcpy(fp, entry->fp, sizeof(ngx_http_cdm_stop_fingerprint_t));

        } else if (fp) {
            *fp = '\0';
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return len;
}


ngx_int_t
ngx_http_cdm_stop_token_keep_fingerprint(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *key, uint64_t generation, ngx_str_t *token,
    u_char *dst)
{
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    if (ngx_http_cdm_stop_token_fingerprint(shm_zone, token, dst) != NGX_OK) {
        return NGX_ERROR;
    }

    zone = shm_zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(zone, key);

    if (entry && entry->generation == generation) {
        ngx_memcpy(entry->fp, dst, sizeof(ngx_http_cdm_stop_fingerprint_t));
        entry->fp_key = zone->fp_key;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_token_publish(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_str_t *token, ngx_http_cdm_stop_grant_t *grant)
{
    int64_t                     now;
    ngx_int_t                   rc;
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(zone, key);

    if (entry == NULL || entry->lease.id != lease->id) {
        rc = NGX_DECLINED;
        goto done;
    }

    /* what is leased does not make room for others, itself neither */

    entry->lease.until = now + NGX_HTTP_CDM_STOP_BACKOFF_MIN;

    if (ngx_http_cdm_stop_chunks_set(zone, &entry->token, token) != NGX_OK) {
        rc = NGX_ERROR;
        goto done;
    }

    ngx_http_cdm_stop_entry_release(zone, entry);

    entry->issued = now;
    entry->issues++;
    entry->life = grant->life;
    entry->end = now + grant->life - grant->margin;
    entry->renew = now + grant->life
                   - ngx_http_cdm_stop_jitter(grant->ahead, 10);
    entry->generation = ++zone->sh->generations;
    entry->fp_key = 0;
    entry->stamp = grant->stamp;
    entry->tried = 0;
    entry->next_try = 0;
    entry->failures = 0;
    entry->fail = NGX_HTTP_CDM_STOP_FAIL_NONE;
    entry->used = 0;
    entry->via_tried = 0;

    rc = NGX_OK;

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rc;
}


void
ngx_http_cdm_stop_token_abandon(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease)
{
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    zone = shm_zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(zone, key);

    if (entry && entry->lease.id == lease->id) {
        ngx_http_cdm_stop_entry_release(zone, entry);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


int64_t
ngx_http_cdm_stop_token_failed(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_http_cdm_stop_terms_t *terms, ngx_http_cdm_stop_fail_e fail,
    int64_t retry_after, uint64_t stamp)
{
    int64_t                     now, rest;
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(zone, key);

    if (entry == NULL || entry->lease.id != lease->id) {

        /* for the account it is a refusal, however late it came */

        if (fail == NGX_HTTP_CDM_STOP_FAIL_REFUSED) {
            ngx_http_cdm_stop_account_refused(zone, key, now);
        }

        rest = -1;
        goto done;
    }

    ngx_http_cdm_stop_entry_release(zone, entry);

    rest = ngx_http_cdm_stop_backoff(entry->failures++);

    if (fail == NGX_HTTP_CDM_STOP_FAIL_VIA) {

        /* with a new token of its via it is tried once more, at once */

        fail = entry->via_tried ? NGX_HTTP_CDM_STOP_FAIL_REFUSED
                                : NGX_HTTP_CDM_STOP_FAIL_VIA;
        entry->via_tried = 1;
        rest = 0;
    }

    if (fail == NGX_HTTP_CDM_STOP_FAIL_REFUSED) {
        rest = terms->hold;
        ngx_http_cdm_stop_account_refused(zone, key, now);

    } else if (retry_after) {
        rest = ngx_max(retry_after, NGX_HTTP_CDM_STOP_RETRY_MIN);
        rest = ngx_min(rest, NGX_HTTP_CDM_STOP_RETRY_MAX);
    }

    entry->next_try = now + rest;
    entry->fail = fail;
    entry->tried = stamp;

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rest;
}


ngx_int_t
ngx_http_cdm_stop_token_drop(ngx_shm_zone_t *shm_zone,
    ngx_http_cdm_stop_key_t *key, uint64_t generation)
{
    int64_t                     now;
    ngx_int_t                   rc;
    ngx_http_cdm_stop_zone_t   *zone;
    ngx_http_cdm_stop_entry_t  *entry;

    zone = shm_zone->data;
    now = ngx_http_cdm_stop_now();
    rc = NGX_OK;

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(zone, key);

    /* a newer token, or none, is not what CDM refused */

    if (entry
        && entry->generation == generation
        && ngx_http_cdm_stop_entry_good(entry, now))
    {
        if (ngx_http_cdm_stop_counted(&entry->drops, now,
                                      NGX_HTTP_CDM_STOP_MINUTE, NULL)
            >= NGX_HTTP_CDM_STOP_DROPS)
        {
            rc = NGX_DECLINED;

        } else {
            ngx_http_cdm_stop_count(&entry->drops, now);
            entry->end = 0;
        }
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rc;
}


int64_t
ngx_http_cdm_stop_backoff(ngx_uint_t failures)
{
    int64_t  rest;

    rest = NGX_HTTP_CDM_STOP_BACKOFF_MIN << ngx_min(failures, 6);
    rest = ngx_min(rest, NGX_HTTP_CDM_STOP_BACKOFF_MAX);

    return ngx_http_cdm_stop_jitter(rest, 20);
}


/* so much either way, so that workers and gateways do not act in step */

static int64_t
ngx_http_cdm_stop_jitter(int64_t time, ngx_uint_t percent)
{
    return time * (100 - percent + ngx_random() % (2 * percent + 1)) / 100;
}
