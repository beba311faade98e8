
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <sys/mman.h>
#include "ngx_http_cdm_stop.h"


#define NGX_HTTP_CDM_STOP_SECRET_LEN  32


/*
 * An entry is one slab block with its token at the end, so that a token of
 * 9,120 bytes takes three pages and no more.  To store a token is to replace
 * the entry: nobody keeps a pointer to one without the lock.
 */

typedef struct {
    ngx_rbtree_node_t          node;        /* key: start of the digest */
    ngx_http_cdm_stop_key_t    key;

    ngx_http_cdm_stop_lease_t  lease;
    ngx_pid_t                  owner;

    uint64_t                   generation;
    int64_t                    end;         /* of the token, minus margin */

    int64_t                    next_try;
    ngx_uint_t                 failures;
    ngx_http_cdm_stop_fail_e   fail;

    size_t                     len;
    u_char                     token[1];
} ngx_http_cdm_stop_entry_t;


typedef struct {
    ngx_rbtree_t               rbtree;
    ngx_rbtree_node_t          sentinel;
    uint64_t                   leases;      /* given so far */
    uint64_t                   generations;
    u_char                     secret[NGX_HTTP_CDM_STOP_SECRET_LEN];
} ngx_http_cdm_stop_shctx_t;


typedef struct {
    ngx_http_cdm_stop_shctx_t  *sh;
    ngx_slab_pool_t            *shpool;
} ngx_http_cdm_stop_zone_t;


static ngx_int_t ngx_http_cdm_stop_zone_init(ngx_shm_zone_t *zone,
    void *data);
static void ngx_http_cdm_stop_zone_hide(ngx_shm_zone_t *zone);
static void ngx_http_cdm_stop_rbtree_insert(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel);
static ngx_rbtree_key_t ngx_http_cdm_stop_rbtree_key(
    ngx_http_cdm_stop_key_t *key);
static ngx_http_cdm_stop_entry_t *ngx_http_cdm_stop_entry_lookup(
    ngx_http_cdm_stop_zone_t *ctx, ngx_http_cdm_stop_key_t *key);
static ngx_http_cdm_stop_entry_t *ngx_http_cdm_stop_entry_create(
    ngx_http_cdm_stop_zone_t *ctx, ngx_http_cdm_stop_key_t *key, size_t len);
static void ngx_http_cdm_stop_entry_free(ngx_http_cdm_stop_zone_t *ctx,
    ngx_http_cdm_stop_entry_t *entry);
static ngx_uint_t ngx_http_cdm_stop_entry_good(
    ngx_http_cdm_stop_entry_t *entry, int64_t now);
static ngx_int_t ngx_http_cdm_stop_entry_lease(ngx_http_cdm_stop_zone_t *ctx,
    ngx_http_cdm_stop_entry_t *entry, int64_t now, ngx_msec_t timeout,
    ngx_http_cdm_stop_found_t *found);
static int64_t ngx_http_cdm_stop_backoff(ngx_http_cdm_stop_fail_e fail,
    ngx_uint_t failures);


ngx_shm_zone_t *
ngx_http_cdm_stop_zone_add(ngx_conf_t *cf, ngx_str_t *name, ssize_t size)
{
    ngx_shm_zone_t            *zone;
    ngx_http_cdm_stop_zone_t  *ctx;

    ctx = ngx_pcalloc(cf->pool, sizeof(ngx_http_cdm_stop_zone_t));
    if (ctx == NULL) {
        return NULL;
    }

    zone = ngx_shared_memory_add(cf, name, size, &ngx_http_cdm_stop_module);
    if (zone == NULL) {
        return NULL;
    }

    if (zone->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone \"%V\" is already in use, "
                           "give \"cdm_stop_zone\" a name of its own", name);
        return NULL;
    }

    zone->init = ngx_http_cdm_stop_zone_init;
    zone->data = ctx;

    return zone;
}


static ngx_int_t
ngx_http_cdm_stop_zone_init(ngx_shm_zone_t *zone, void *data)
{
    ngx_http_cdm_stop_zone_t  *octx = data;

    size_t                     len;
    ngx_http_cdm_stop_zone_t  *ctx;

    ctx = zone->data;

    if (octx) {

        /* the workers of the old cycle use it: change nothing */

        ctx->sh = octx->sh;
        ctx->shpool = octx->shpool;

        return NGX_OK;
    }

    ctx->shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (zone->shm.exists) {
        ctx->sh = ctx->shpool->data;
        return NGX_OK;
    }

    ngx_http_cdm_stop_zone_hide(zone);

    ctx->sh = ngx_slab_calloc(ctx->shpool, sizeof(ngx_http_cdm_stop_shctx_t));
    if (ctx->sh == NULL) {
        return NGX_ERROR;
    }

    ctx->shpool->data = ctx->sh;

    ngx_rbtree_init(&ctx->sh->rbtree, &ctx->sh->sentinel,
                    ngx_http_cdm_stop_rbtree_insert);

    if (RAND_bytes(ctx->sh->secret, NGX_HTTP_CDM_STOP_SECRET_LEN) != 1) {
        ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0, "RAND_bytes() failed");
        return NGX_ERROR;
    }

    len = sizeof(" in cdm_stop_zone \"\"") + zone->shm.name.len;

    ctx->shpool->log_ctx = ngx_slab_alloc(ctx->shpool, len);
    if (ctx->shpool->log_ctx == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(ctx->shpool->log_ctx, " in cdm_stop_zone \"%V\"%Z",
                &zone->shm.name);

    ctx->shpool->log_nomem = 0;

    return NGX_OK;
}


/* the tokens must not get into a core dump */

static void
ngx_http_cdm_stop_zone_hide(ngx_shm_zone_t *zone)
{
#if defined(MADV_DONTDUMP)

    if (madvise(zone->shm.addr, zone->shm.size, MADV_DONTDUMP) == -1) {
        ngx_log_error(NGX_LOG_WARN, zone->shm.log, ngx_errno,
                      "madvise(MADV_DONTDUMP) failed, core dumps will hold "
                      "the tokens of zone \"%V\"", &zone->shm.name);
    }

#endif
}


static void
ngx_http_cdm_stop_rbtree_insert(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel)
{
    ngx_rbtree_node_t          **p;
    ngx_http_cdm_stop_entry_t   *entry, *other;

    for ( ;; ) {

        if (node->key < temp->key) {
            p = &temp->left;

        } else if (node->key > temp->key) {
            p = &temp->right;

        } else {
            entry = (ngx_http_cdm_stop_entry_t *) node;
            other = (ngx_http_cdm_stop_entry_t *) temp;

            p = (ngx_memcmp(&entry->key, &other->key,
                            sizeof(ngx_http_cdm_stop_key_t))
                 < 0)
                ? &temp->left : &temp->right;
        }

        if (*p == sentinel) {
            break;
        }

        temp = *p;
    }

    *p = node;
    node->parent = temp;
    node->left = sentinel;
    node->right = sentinel;
    ngx_rbt_red(node);
}


static ngx_rbtree_key_t
ngx_http_cdm_stop_rbtree_key(ngx_http_cdm_stop_key_t *key)
{
    return ngx_crc32_short((u_char *) key, sizeof(ngx_http_cdm_stop_key_t));
}


static ngx_http_cdm_stop_entry_t *
ngx_http_cdm_stop_entry_lookup(ngx_http_cdm_stop_zone_t *ctx,
    ngx_http_cdm_stop_key_t *key)
{
    ngx_int_t                   rc;
    ngx_rbtree_key_t            hash;
    ngx_rbtree_node_t          *node, *sentinel;
    ngx_http_cdm_stop_entry_t  *entry;

    hash = ngx_http_cdm_stop_rbtree_key(key);

    node = ctx->sh->rbtree.root;
    sentinel = ctx->sh->rbtree.sentinel;

    while (node != sentinel) {

        if (hash < node->key) {
            node = node->left;
            continue;
        }

        if (hash > node->key) {
            node = node->right;
            continue;
        }

        /* hash == node->key */

        entry = (ngx_http_cdm_stop_entry_t *) node;

        rc = ngx_memcmp(key, &entry->key, sizeof(ngx_http_cdm_stop_key_t));

        if (rc == 0) {
            return entry;
        }

        node = (rc < 0) ? node->left : node->right;
    }

    return NULL;
}


static ngx_http_cdm_stop_entry_t *
ngx_http_cdm_stop_entry_create(ngx_http_cdm_stop_zone_t *ctx,
    ngx_http_cdm_stop_key_t *key, size_t len)
{
    size_t                      size;
    ngx_http_cdm_stop_entry_t  *entry;

    size = offsetof(ngx_http_cdm_stop_entry_t, token) + len;

    entry = ngx_slab_calloc_locked(ctx->shpool, size);
    if (entry == NULL) {
        return NULL;
    }

    entry->key = *key;
    entry->node.key = ngx_http_cdm_stop_rbtree_key(key);

    return entry;
}


static void
ngx_http_cdm_stop_entry_free(ngx_http_cdm_stop_zone_t *ctx,
    ngx_http_cdm_stop_entry_t *entry)
{
    ngx_rbtree_delete(&ctx->sh->rbtree, &entry->node);

    ngx_explicit_memzero(entry->token, entry->len);

    ngx_slab_free_locked(ctx->shpool, entry);
}


static ngx_uint_t
ngx_http_cdm_stop_entry_good(ngx_http_cdm_stop_entry_t *entry, int64_t now)
{
    return entry->len && now < entry->end;
}


ngx_int_t
ngx_http_cdm_stop_token_find(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_msec_t timeout,
    ngx_http_cdm_stop_found_t *found)
{
    int64_t                     now;
    ngx_int_t                   rc;
    ngx_http_cdm_stop_zone_t   *ctx;
    ngx_http_cdm_stop_entry_t  *entry;

    ctx = zone->data;
    now = ngx_http_cdm_stop_now();

    ngx_memzero(found, sizeof(ngx_http_cdm_stop_found_t));

    ngx_shmtx_lock(&ctx->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(ctx, key);

    if (entry == NULL) {

        entry = ngx_http_cdm_stop_entry_create(ctx, key, 0);

        if (entry == NULL) {
            rc = NGX_ERROR;
            goto done;
        }

        ngx_rbtree_insert(&ctx->sh->rbtree, &entry->node);
    }

    if (ngx_http_cdm_stop_entry_good(entry, now)) {
        found->len = entry->len;
        found->generation = entry->generation;
        rc = NGX_OK;

    } else {
        rc = ngx_http_cdm_stop_entry_lease(ctx, entry, now, timeout, found);
    }

done:

    ngx_shmtx_unlock(&ctx->shpool->mutex);

    return rc;
}


/* called with the lock held */

static ngx_int_t
ngx_http_cdm_stop_entry_lease(ngx_http_cdm_stop_zone_t *ctx,
    ngx_http_cdm_stop_entry_t *entry, int64_t now, ngx_msec_t timeout,
    ngx_http_cdm_stop_found_t *found)
{
    /* a lease ends by itself, or at once if its owner is no more */

    if (entry->lease.id
        && now < entry->lease.until
        && (kill(entry->owner, 0) == 0 || ngx_errno != NGX_ESRCH))
    {
        return NGX_AGAIN;
    }

    if (now < entry->next_try) {
        found->retry = entry->next_try - now;
        found->fail = entry->fail;
        return NGX_BUSY;
    }

    entry->lease.id = ++ctx->sh->leases;
    entry->lease.until = now + timeout;
    entry->owner = ngx_pid;

    found->lease = entry->lease;

    return NGX_DONE;
}


size_t
ngx_http_cdm_stop_token_copy(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, u_char *dst, size_t size,
    uint64_t *generation)
{
    size_t                      len;
    int64_t                     now;
    ngx_http_cdm_stop_zone_t   *ctx;
    ngx_http_cdm_stop_entry_t  *entry;

    ctx = zone->data;
    now = ngx_http_cdm_stop_now();
    len = 0;

    ngx_shmtx_lock(&ctx->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(ctx, key);

    if (entry
        && ngx_http_cdm_stop_entry_good(entry, now)
        && entry->len <= size)
    {
        len = entry->len;
        *generation = entry->generation;
        ngx_memcpy(dst, entry->token, len);
    }

    ngx_shmtx_unlock(&ctx->shpool->mutex);

    return len;
}


ngx_int_t
ngx_http_cdm_stop_token_publish(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_str_t *token, ngx_http_cdm_stop_grant_t *grant)
{
    int64_t                     now;
    ngx_int_t                   rc;
    ngx_http_cdm_stop_zone_t   *ctx;
    ngx_http_cdm_stop_entry_t  *entry, *old;

    ctx = zone->data;
    now = ngx_http_cdm_stop_now();

    ngx_shmtx_lock(&ctx->shpool->mutex);

    old = ngx_http_cdm_stop_entry_lookup(ctx, key);

    if (old == NULL || old->lease.id != lease->id) {
        rc = NGX_DECLINED;
        goto done;
    }

    entry = ngx_http_cdm_stop_entry_create(ctx, key, token->len);

    if (entry == NULL) {
        rc = NGX_ERROR;
        goto done;
    }

    ngx_memcpy(entry->token, token->data, token->len);
    entry->len = token->len;
    entry->end = now + grant->life - grant->margin;
    entry->generation = ++ctx->sh->generations;

    /* the new entry has no lease and no failures */

    ngx_http_cdm_stop_entry_free(ctx, old);
    ngx_rbtree_insert(&ctx->sh->rbtree, &entry->node);

    rc = NGX_OK;

done:

    ngx_shmtx_unlock(&ctx->shpool->mutex);

    return rc;
}


int64_t
ngx_http_cdm_stop_token_failed(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_http_cdm_stop_fail_e fail)
{
    int64_t                     now, rest;
    ngx_http_cdm_stop_zone_t   *ctx;
    ngx_http_cdm_stop_entry_t  *entry;

    ctx = zone->data;
    now = ngx_http_cdm_stop_now();
    rest = 0;

    ngx_shmtx_lock(&ctx->shpool->mutex);

    entry = ngx_http_cdm_stop_entry_lookup(ctx, key);

    if (entry && entry->lease.id == lease->id) {

        rest = ngx_http_cdm_stop_backoff(fail, entry->failures++);

        entry->lease.id = 0;
        entry->next_try = now + rest;
        entry->fail = fail;
    }

    ngx_shmtx_unlock(&ctx->shpool->mutex);

    return rest;
}


static int64_t
ngx_http_cdm_stop_backoff(ngx_http_cdm_stop_fail_e fail, ngx_uint_t failures)
{
    int64_t  rest;

    if (fail == NGX_HTTP_CDM_STOP_FAIL_REFUSED) {
        return NGX_HTTP_CDM_STOP_HOLD;
    }

    rest = NGX_HTTP_CDM_STOP_BACKOFF_MIN << ngx_min(failures, 6);
    rest = ngx_min(rest, NGX_HTTP_CDM_STOP_BACKOFF_MAX);

    /* 20% of jitter either way, so that gateways do not act in step */

    return rest * (80 + ngx_random() % 41) / 100;
}


ngx_int_t
ngx_http_cdm_stop_token_fingerprint(ngx_shm_zone_t *zone, ngx_str_t *token,
    u_char *dst)
{
    u_char                     md[EVP_MAX_MD_SIZE];
    unsigned int               len;
    ngx_http_cdm_stop_zone_t  *ctx;

    ctx = zone->data;

    /* the secret is written once, before there are workers */

    if (HMAC(EVP_sha256(), ctx->sh->secret, NGX_HTTP_CDM_STOP_SECRET_LEN,
             token->data, token->len, md, &len)
        == NULL)
    {
        return NGX_ERROR;
    }

    ngx_hex_dump(dst, md, NGX_HTTP_CDM_STOP_FINGERPRINT_LEN / 2);

    return NGX_OK;
}
