
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/rand.h>
#include <sys/mman.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_zone.h"


static ngx_int_t ngx_http_cdm_stop_zone_init(ngx_shm_zone_t *zone,
    void *data);
static ngx_int_t ngx_http_cdm_stop_zone_mac(ngx_http_cdm_stop_zone_t *ctx);
static ngx_int_t ngx_http_cdm_stop_zone_fp_key(ngx_http_cdm_stop_zone_t *ctx);
static void ngx_http_cdm_stop_zone_hide(ngx_shm_zone_t *zone);
static ngx_uint_t ngx_http_cdm_stop_zone_purge(
    ngx_http_cdm_stop_zone_t *zone);


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

    ctx->pool = cf->pool;

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

        return ngx_http_cdm_stop_zone_mac(ctx);
    }

    ctx->shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (zone->shm.exists) {
        ctx->sh = ctx->shpool->data;
        return ngx_http_cdm_stop_zone_mac(ctx);
    }

    ngx_http_cdm_stop_zone_hide(zone);

    ctx->sh = ngx_slab_calloc(ctx->shpool, sizeof(ngx_http_cdm_stop_shctx_t));
    if (ctx->sh == NULL) {
        return NGX_ERROR;
    }

    ctx->shpool->data = ctx->sh;

    ngx_rbtree_init(&ctx->sh->rbtree, &ctx->sh->sentinel,
                    ngx_http_cdm_stop_tree_insert);

    ngx_http_cdm_stop_verified_init(ctx);

    if (ngx_http_cdm_stop_rate_init(ctx, zone->shm.size) != NGX_OK) {
        return NGX_ERROR;
    }

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

    return ngx_http_cdm_stop_zone_mac(ctx);
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


void
ngx_http_cdm_stop_tree_insert(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel)
{
    ngx_rbtree_node_t         **p;
    ngx_http_cdm_stop_node_t   *n, *t;

    for ( ;; ) {

        if (node->key < temp->key) {
            p = &temp->left;

        } else if (node->key > temp->key) {
            p = &temp->right;

        } else {
            n = (ngx_http_cdm_stop_node_t *) node;
            t = (ngx_http_cdm_stop_node_t *) temp;

            p = (ngx_memcmp(&n->key, &t->key, sizeof(ngx_http_cdm_stop_key_t))
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


/*
 * A digest is as good as random, so a word of it will do; a project is not,
 * and is mixed by words.  Keys that fall together only make a look-up longer.
 */

ngx_uint_t
ngx_http_cdm_stop_key_hash(ngx_http_cdm_stop_key_t *key)
{
    size_t    i;
    uint64_t  hash, word[NGX_HTTP_CDM_STOP_PROJECT_LEN / sizeof(uint64_t)];

    ngx_memcpy(&hash, key->digest, sizeof(uint64_t));
    ngx_memcpy(word, key->project, NGX_HTTP_CDM_STOP_PROJECT_LEN);

    for (i = 0; i < sizeof(word) / sizeof(word[0]); i++) {
        hash = (hash ^ word[i]) * 0x9e3779b97f4a7c15;
        hash ^= hash >> 32;
    }

    return (ngx_uint_t) hash;
}


void
ngx_http_cdm_stop_node_insert(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_node_t *node)
{
    ngx_rbtree_insert(&zone->sh->rbtree, &node->rbnode);
}


ngx_http_cdm_stop_node_t *
ngx_http_cdm_stop_node_lookup(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key)
{
    return ngx_http_cdm_stop_tree_lookup(&zone->sh->rbtree, key);
}


ngx_http_cdm_stop_node_t *
ngx_http_cdm_stop_tree_lookup(ngx_rbtree_t *rbtree,
    ngx_http_cdm_stop_key_t *key)
{
    ngx_int_t                  rc;
    ngx_rbtree_key_t           hash;
    ngx_rbtree_node_t         *node, *sentinel;
    ngx_http_cdm_stop_node_t  *n;

    hash = ngx_http_cdm_stop_key_hash(key);

    node = rbtree->root;
    sentinel = rbtree->sentinel;

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

        n = (ngx_http_cdm_stop_node_t *) node;

        rc = ngx_memcmp(key, &n->key, sizeof(ngx_http_cdm_stop_key_t));

        if (rc == 0) {
            return n;
        }

        node = (rc < 0) ? node->left : node->right;
    }

    return NULL;
}


ngx_uint_t
ngx_http_cdm_stop_node_is_entry(ngx_http_cdm_stop_node_t *node)
{
    return node->key.project[0] != '\0';
}


void *
ngx_http_cdm_stop_node_alloc(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, size_t size)
{
    ngx_http_cdm_stop_node_t  *node;

    node = ngx_http_cdm_stop_zone_alloc(zone, size);

    if (node) {
        node->key = *key;
        node->rbnode.key = ngx_http_cdm_stop_key_hash(key);
    }

    return node;
}


void *
ngx_http_cdm_stop_zone_alloc(ngx_http_cdm_stop_zone_t *zone, size_t size)
{
    void  *p;

    for ( ;; ) {

        p = ngx_slab_calloc_locked(zone->shpool, size);

        if (p) {
            return p;
        }

        if (!ngx_http_cdm_stop_zone_purge(zone)
            && !ngx_http_cdm_stop_verified_evict(zone))
        {
            zone->sh->full++;
            return NULL;
        }
    }
}


/* frees the entries that hold nothing but the memory of a failure */

static ngx_uint_t
ngx_http_cdm_stop_zone_purge(ngx_http_cdm_stop_zone_t *zone)
{
    int64_t                     now;
    ngx_uint_t                  n;
    ngx_rbtree_node_t          *node, *next;
    ngx_http_cdm_stop_entry_t  *entry;

    if (zone->sh->rbtree.root == zone->sh->rbtree.sentinel) {
        return 0;
    }

    n = 0;
    now = ngx_http_cdm_stop_now();

    for (node = ngx_rbtree_min(zone->sh->rbtree.root,
                               zone->sh->rbtree.sentinel);
         node;
         node = next)
    {
        next = ngx_rbtree_next(&zone->sh->rbtree, node);

        entry = (ngx_http_cdm_stop_entry_t *) node;

        if (!ngx_http_cdm_stop_node_is_entry(&entry->node)
            || (entry->token.len && now < entry->end)
            || now < entry->next_try
            || ngx_http_cdm_stop_lease_held(&entry->lease, entry->owner, now))
        {
            continue;
        }

        ngx_http_cdm_stop_entry_free(zone, entry);
        n++;
    }

    return n;
}


void
ngx_http_cdm_stop_entry_free(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_entry_t *entry)
{
    ngx_http_cdm_stop_key_t       key;
    ngx_http_cdm_stop_account_t  *account;

    key = entry->node.key;

    ngx_rbtree_delete(&zone->sh->rbtree, &entry->node.rbnode);

    ngx_http_cdm_stop_chunks_free(zone, &entry->token);

    ngx_slab_free_locked(zone->shpool, entry);

    ngx_memzero(key.project, NGX_HTTP_CDM_STOP_PROJECT_LEN);

    account = (ngx_http_cdm_stop_account_t *)
                  ngx_http_cdm_stop_node_lookup(zone, &key);

    if (account && account->projects) {
        account->projects--;
    }
}


ngx_uint_t
ngx_http_cdm_stop_lease_held(ngx_http_cdm_stop_lease_t *lease,
    ngx_pid_t owner, int64_t now)
{
    return lease->id
           && now < lease->until
           && (kill(owner, 0) == 0 || ngx_errno != NGX_ESRCH);
}


void
ngx_http_cdm_stop_count(ngx_http_cdm_stop_count_t *count, int64_t now)
{
    count->times[count->next] = now;
    count->next = (count->next + 1) % NGX_HTTP_CDM_STOP_TIMES;
}


ngx_uint_t
ngx_http_cdm_stop_counted(ngx_http_cdm_stop_count_t *count, int64_t now,
    int64_t window, int64_t *since)
{
    int64_t     first;
    ngx_uint_t  i, n;

    n = 0;
    first = now;

    for (i = 0; i < NGX_HTTP_CDM_STOP_TIMES; i++) {

        if (count->times[i] && now - count->times[i] < window) {
            first = ngx_min(first, count->times[i]);
            n++;
        }
    }

    if (since) {
        *since = first;
    }

    return n;
}


ngx_int_t
ngx_http_cdm_stop_token_fingerprint(ngx_shm_zone_t *zone, ngx_str_t *token,
    u_char *dst)
{
    u_char                     md[NGX_HTTP_CDM_STOP_MAC_LEN];
    ngx_http_cdm_stop_zone_t  *ctx;

    ctx = zone->data;

    if (ngx_http_cdm_stop_mac(ctx->mac, token, 1, md) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_cdm_stop_hex_dump(dst, md, NGX_HTTP_CDM_STOP_FINGERPRINT_LEN / 2);

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_zone_fingerprint(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_mac_t *mac)
{
    ngx_http_cdm_stop_zone_t  *ctx;

    ctx = zone->data;

    ctx->mac = mac;

    return ngx_http_cdm_stop_zone_fp_key(ctx);
}


/* the secret is written once, before there are workers */

static ngx_int_t
ngx_http_cdm_stop_zone_mac(ngx_http_cdm_stop_zone_t *ctx)
{
    u_char                    md[NGX_HTTP_CDM_STOP_MAC_LEN];
    ngx_str_t                 key, label;
    ngx_http_cdm_stop_mac_t  *mac;

    key.data = ctx->sh->secret;
    key.len = NGX_HTTP_CDM_STOP_SECRET_LEN;

    mac = ngx_http_cdm_stop_mac_create(ctx->pool, &key);
    if (mac == NULL) {
        return NGX_ERROR;
    }

    ngx_str_set(&label, "cdm_stop verified");

    if (ngx_http_cdm_stop_mac(mac, &label, 1, md) != NGX_OK) {
        return NGX_ERROR;
    }

    key.data = md;
    key.len = sizeof(md);

    ctx->known = ngx_http_cdm_stop_mac_create(ctx->pool, &key);

    ngx_explicit_memzero(md, sizeof(md));

    if (ctx->known == NULL) {
        return NGX_ERROR;
    }

    if (ctx->mac) {
        return NGX_OK;
    }

    ctx->mac = mac;

    return ngx_http_cdm_stop_zone_fp_key(ctx);
}


/*
 * Fingerprints are kept in the zone, which workers of another configuration,
 * and with another key, may use as well.
 */

static ngx_int_t
ngx_http_cdm_stop_zone_fp_key(ngx_http_cdm_stop_zone_t *ctx)
{
    u_char     md[NGX_HTTP_CDM_STOP_MAC_LEN];
    ngx_str_t  label;

    ngx_str_set(&label, "cdm_stop fingerprint key");

    if (ngx_http_cdm_stop_mac(ctx->mac, &label, 1, md) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_memcpy(&ctx->fp_key, md, sizeof(uint64_t));

    /* 0 is that of no fingerprint */

    ctx->fp_key |= 1;

    return NGX_OK;
}
