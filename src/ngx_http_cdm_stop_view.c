
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <sys/statvfs.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_status.h"


static ngx_int_t ngx_http_cdm_stop_view_zone(ngx_http_cdm_stop_view_t *view);
static ngx_uint_t ngx_http_cdm_stop_view_count(
    ngx_http_cdm_stop_zone_t *zone);
static void ngx_http_cdm_stop_view_tokens(ngx_http_cdm_stop_view_t *view,
    ngx_uint_t max);
static void ngx_http_cdm_stop_view_token(ngx_http_cdm_stop_view_t *view,
    ngx_http_cdm_stop_identity_view_t *iv, ngx_http_cdm_stop_entry_t *entry,
    ngx_uint_t max);
static ngx_http_cdm_stop_identity_view_t *ngx_http_cdm_stop_view_identity(
    ngx_http_cdm_stop_view_t *view, u_char *digest);
static void ngx_http_cdm_stop_view_accounts(ngx_http_cdm_stop_view_t *view);
static int ngx_libc_cdecl ngx_http_cdm_stop_view_cmp(const void *one,
    const void *two);
static ngx_int_t ngx_http_cdm_stop_view_targets(
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_view_uses(ngx_http_cdm_stop_view_t *view,
    ngx_http_cdm_stop_target_view_t *target);
static void ngx_http_cdm_stop_view_file(
    ngx_http_cdm_stop_target_view_t *target);
static void ngx_http_cdm_stop_view_workers(ngx_http_cdm_stop_view_t *view);


ngx_http_cdm_stop_view_t *
ngx_http_cdm_stop_view(ngx_http_request_t *r)
{
    ngx_time_t                *tp;
    ngx_http_cdm_stop_view_t  *view;

    view = ngx_pcalloc(r->pool, sizeof(ngx_http_cdm_stop_view_t));
    if (view == NULL) {
        return NULL;
    }

    tp = ngx_timeofday();

    view->pool = r->pool;
    view->cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);
    view->sh = view->cdmcf->stats->sh;
    view->now = ngx_http_cdm_stop_now();
    view->time = (int64_t) tp->sec * 1000 + tp->msec;

    ngx_http_cdm_stop_stats_tick(view->cdmcf);

    ngx_http_cdm_stop_view_workers(view);

    if (ngx_http_cdm_stop_view_zone(view) != NGX_OK
        || ngx_http_cdm_stop_view_targets(view) != NGX_OK)
    {
        return NULL;
    }

    return view;
}


static ngx_int_t
ngx_http_cdm_stop_view_zone(ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                          i, n;
    ngx_http_cdm_stop_zone_t           *zone;
    ngx_http_cdm_stop_identity_t      **identities;
    ngx_http_cdm_stop_verified_t       *verified;
    ngx_http_cdm_stop_identity_view_t  *iv;

    zone = view->cdmcf->zone->data;
    identities = view->cdmcf->identities.elts;

    if (ngx_array_init(&view->identities, view->pool,
                       view->cdmcf->identities.nelts + 1,
                       sizeof(ngx_http_cdm_stop_identity_view_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < view->cdmcf->identities.nelts; i++) {

        iv = ngx_array_push(&view->identities);

        ngx_memzero(iv, sizeof(ngx_http_cdm_stop_identity_view_t));
        iv->identity = identities[i];
        iv->left = -1;
        iv->next = -1;
    }

    /* nothing is allocated while the zone is locked */

    ngx_shmtx_lock(&zone->shpool->mutex);
    n = ngx_http_cdm_stop_view_count(zone);
    ngx_shmtx_unlock(&zone->shpool->mutex);

    n = ngx_min(n + 16, NGX_HTTP_CDM_STOP_TOKENS_MAX);

    if (ngx_array_init(&view->tokens, view->pool, n,
                       sizeof(ngx_http_cdm_stop_token_view_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    ngx_http_cdm_stop_view_tokens(view, n);
    ngx_http_cdm_stop_view_accounts(view);

    verified = &zone->sh->verified;

    view->known = verified->entries;
    view->valid = verified->nvalid;
    view->known_size = verified->size;
    view->known_max = verified->max;
    view->evictions = verified->evictions;
    view->full = zone->sh->full;
    view->zone_free = zone->shpool->pfree * ngx_pagesize;

    ngx_shmtx_unlock(&zone->shpool->mutex);

    view->zone_size = view->cdmcf->zone->shm.size;

    ngx_qsort(view->tokens.elts, view->tokens.nelts,
              sizeof(ngx_http_cdm_stop_token_view_t),
              ngx_http_cdm_stop_view_cmp);

    return NGX_OK;
}


static ngx_uint_t
ngx_http_cdm_stop_view_count(ngx_http_cdm_stop_zone_t *zone)
{
    ngx_uint_t          n;
    ngx_rbtree_t       *rbtree;
    ngx_rbtree_node_t  *node;

    n = 0;
    rbtree = &zone->sh->rbtree;

    if (rbtree->root == rbtree->sentinel) {
        return 0;
    }

    for (node = ngx_rbtree_min(rbtree->root, rbtree->sentinel);
         node;
         node = ngx_rbtree_next(rbtree, node))
    {
        n++;
    }

    return n;
}


static void
ngx_http_cdm_stop_view_tokens(ngx_http_cdm_stop_view_t *view, ngx_uint_t max)
{
    ngx_rbtree_t                       *rbtree;
    ngx_rbtree_node_t                  *node;
    ngx_http_cdm_stop_zone_t           *zone;
    ngx_http_cdm_stop_entry_t          *entry;
    ngx_http_cdm_stop_account_t        *account;
    ngx_http_cdm_stop_identity_view_t  *iv;

    zone = view->cdmcf->zone->data;
    rbtree = &zone->sh->rbtree;

    if (rbtree->root == rbtree->sentinel) {
        return;
    }

    for (node = ngx_rbtree_min(rbtree->root, rbtree->sentinel);
         node;
         node = ngx_rbtree_next(rbtree, node))
    {
        entry = (ngx_http_cdm_stop_entry_t *) node;

        iv = ngx_http_cdm_stop_view_identity(view, entry->node.key.digest);

        if (iv == NULL) {

            /* of an identity of an older configuration */

            continue;
        }

        if (ngx_http_cdm_stop_node_is_entry(&entry->node)) {
            ngx_http_cdm_stop_view_token(view, iv, entry, max);
            continue;
        }

        account = (ngx_http_cdm_stop_account_t *) node;

        if (ngx_http_cdm_stop_counted(&account->refused, view->now,
                                      iv->identity->terms.hold, &iv->rest)
            >= NGX_HTTP_CDM_STOP_SLOTS)
        {
            iv->rest += iv->identity->terms.hold - view->now;

        } else {
            iv->rest = 0;
        }
    }
}


static void
ngx_http_cdm_stop_view_token(ngx_http_cdm_stop_view_t *view,
    ngx_http_cdm_stop_identity_view_t *iv, ngx_http_cdm_stop_entry_t *entry,
    ngx_uint_t max)
{
    int64_t                          left;
    ngx_http_cdm_stop_token_view_t   t, *tv;

    ngx_memzero(&t, sizeof(ngx_http_cdm_stop_token_view_t));

    t.identity = iv->identity;
    ngx_memcpy(t.project, entry->node.key.project, sizeof(t.project));

    t.generation = entry->generation;
    t.issues = entry->issues;
    t.issued = entry->issued;
    t.life = entry->life;
    t.renew = entry->renew;
    t.end = entry->end;
    t.failures = entry->failures;
    t.fail = entry->fail;
    t.retry = ngx_max(entry->next_try - view->now, 0);
    t.has = (entry->token.len != 0);
    t.good = (t.has && view->now < entry->end);
    t.leased = ngx_http_cdm_stop_lease_held(&entry->lease, entry->owner,
                                            view->now);
    t.used = entry->used;

    iv->entries++;
    iv->generation = ngx_max(iv->generation, t.generation);
    iv->retry = ngx_max(iv->retry, t.retry);

    if (t.failures) {
        iv->fail = t.fail;
        iv->next = (iv->next == -1) ? t.retry : ngx_min(iv->next, t.retry);
    }

    if (t.good) {
        iv->good++;
        iv->stale += (t.failures != 0);

        left = t.issued + t.life - view->now;
        iv->left = (iv->left == -1) ? left : ngx_min(iv->left, left);

    } else if (t.failures) {
        iv->failing++;
    }

    if (view->tokens.nelts == max) {
        view->more++;
        return;
    }

    /* the array has room for max, so this does not allocate */

    tv = ngx_array_push(&view->tokens);

    *tv = t;
}


static ngx_http_cdm_stop_identity_view_t *
ngx_http_cdm_stop_view_identity(ngx_http_cdm_stop_view_t *view,
    u_char *digest)
{
    ngx_uint_t                          i;
    ngx_http_cdm_stop_identity_view_t  *iv;

    iv = view->identities.elts;

    for (i = 0; i < view->identities.nelts; i++) {
        if (ngx_memcmp(iv[i].identity->digest, digest,
                       NGX_HTTP_CDM_STOP_DIGEST_LEN)
            == 0)
        {
            return &iv[i];
        }
    }

    return NULL;
}


/* calls of IAM about callers' tokens */

static void
ngx_http_cdm_stop_view_accounts(ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                          i;
    ngx_queue_t                        *q, *queue;
    ngx_http_cdm_stop_slot_t           *slot;
    ngx_http_cdm_stop_zone_t           *zone;
    ngx_http_cdm_stop_verifier_t       *verifier;
    ngx_http_cdm_stop_identity_view_t  *iv;

    zone = view->cdmcf->zone->data;
    queue = &zone->sh->verified.verifiers;

    for (q = ngx_queue_head(queue);
         q != ngx_queue_sentinel(queue);
         q = ngx_queue_next(q))
    {
        verifier = ngx_queue_data(q, ngx_http_cdm_stop_verifier_t, queue);

        iv = ngx_http_cdm_stop_view_identity(view, verifier->digest);

        if (iv == NULL) {
            continue;
        }

        iv->verify_retry = ngx_max(verifier->next_try - view->now, 0);

        for (i = 0; i < NGX_HTTP_CDM_STOP_VERIFY_SLOTS; i++) {

            slot = &verifier->slots[i];

            if (slot->lease.id && view->now < slot->lease.until) {
                iv->verifying++;
            }
        }
    }
}


static int ngx_libc_cdecl
ngx_http_cdm_stop_view_cmp(const void *one, const void *two)
{
    ngx_int_t                        rc;
    ngx_http_cdm_stop_token_view_t  *a, *b;

    a = (ngx_http_cdm_stop_token_view_t *) one;
    b = (ngx_http_cdm_stop_token_view_t *) two;

    rc = ngx_memn2cmp(a->identity->name.data, b->identity->name.data,
                      a->identity->name.len, b->identity->name.len);

    return rc ? (int) rc : ngx_memcmp(a->project, b->project,
                                      NGX_HTTP_CDM_STOP_PROJECT_LEN);
}


static ngx_int_t
ngx_http_cdm_stop_view_targets(ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                        i, j;
    ngx_http_cdm_stop_chain_t       **chains, *chain;
    ngx_http_cdm_stop_target_view_t  *target;

    chains = view->cdmcf->chains.elts;

    if (ngx_array_init(&view->targets, view->pool,
                       view->cdmcf->chains.nelts + 1,
                       sizeof(ngx_http_cdm_stop_target_view_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < view->cdmcf->chains.nelts; i++) {

        chain = chains[i];
        target = ngx_array_push(&view->targets);

        ngx_memzero(target, sizeof(ngx_http_cdm_stop_target_view_t));
        target->chain = chain;
        target->keyed = (view->cdmcf->audit_key_place.line != 0);

        ngx_http_cdm_stop_view_uses(view, target);

        ngx_shmtx_lock(&chain->shpool->mutex);

        ngx_memcpy(target->id, chain->sh->id, sizeof(target->id));
        target->seq = ngx_http_cdm_stop_chain_head(chain)->seq;
        target->owner = chain->sh->owner;
        target->signed_seq = chain->sh->signed_seq;
        target->signed_time = chain->sh->signed_time;

        for (j = 0; j < chain->sh->high; j++) {
            target->open += chain->sh->used[j];
        }

        ngx_shmtx_unlock(&chain->shpool->mutex);

        ngx_http_cdm_stop_view_file(target);
    }

    return NGX_OK;
}


/* whether some location needs the target, or waits for its disk */

static void
ngx_http_cdm_stop_view_uses(ngx_http_cdm_stop_view_t *view,
    ngx_http_cdm_stop_target_view_t *target)
{
    ngx_uint_t                       i, j;
    ngx_http_cdm_stop_audit_t       *audit;
    ngx_http_cdm_stop_loc_conf_t   **locations;

    locations = view->cdmcf->locations.elts;

    for (i = 0; i < view->cdmcf->locations.nelts; i++) {

        if (locations[i]->identity == NULL) {
            continue;
        }

        audit = locations[i]->audit->elts;

        for (j = 0; j < locations[i]->audit->nelts; j++) {

            if (audit[j].chain == target->chain) {
                target->required |= !audit[j].best_effort;
                target->sync |= (audit[j].sync != NULL);
            }
        }
    }
}


/* what can be seen of the file without writing to it, and the last record */

static void
ngx_http_cdm_stop_view_file(ngx_http_cdm_stop_target_view_t *target)
{
    struct statvfs               fs;
    ngx_file_info_t              fi;
    ngx_http_cdm_stop_chain_t   *chain;
    ngx_http_cdm_stop_health_t  *health;

    chain = target->chain;
    health = &chain->stats->health;

    if (chain->is_file
        && ngx_fd_info(chain->file->fd, &fi) != NGX_FILE_ERROR
        && ngx_is_file(&fi))
    {
        if (fi.st_nlink == 0) {

            /* it would be open again within a second, if it could be */

            target->err = NGX_ENOENT;

        } else if (fstatvfs(chain->file->fd, &fs) == 0) {

            if (fs.f_flag & ST_RDONLY) {
                target->err = EROFS;

            } else if (fs.f_blocks && fs.f_bavail == 0) {
                target->err = NGX_ENOSPC;
            }
        }
    }

    target->blocked = (target->err != 0);
    target->failing = (target->blocked || health->failures);

    if (health->failures && !target->blocked) {
        target->err = health->cause;
    }
}


static void
ngx_http_cdm_stop_view_workers(ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                         i;
    ngx_http_cdm_stop_worker_stats_t  *slot;

    for (i = 0; i < NGX_HTTP_CDM_STOP_WORKERS_MAX; i++) {

        slot = &view->sh->workers[i];

        if (slot->pid
            && (kill(slot->pid, 0) == 0 || ngx_errno != NGX_ESRCH))
        {
            view->workers++;
            view->waiting += slot->waiting;
        }
    }
}
