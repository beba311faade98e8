
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_zone.h"


#define NGX_HTTP_CDM_STOP_MINUTE  60000


static ngx_uint_t ngx_http_cdm_stop_account_evict(
    ngx_http_cdm_stop_zone_t *zone, ngx_http_cdm_stop_account_t *account,
    int64_t now);


ngx_http_cdm_stop_account_t *
ngx_http_cdm_stop_account_get(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key)
{
    ngx_http_cdm_stop_key_t       k;
    ngx_http_cdm_stop_account_t  *account;

    k = *key;
    ngx_memzero(k.project, NGX_HTTP_CDM_STOP_PROJECT_LEN);

    account = (ngx_http_cdm_stop_account_t *)
                  ngx_http_cdm_stop_node_lookup(zone, &k);

    if (account) {
        return account;
    }

    account = ngx_http_cdm_stop_node_alloc(zone, &k,
                                         sizeof(ngx_http_cdm_stop_account_t));
    if (account) {
        ngx_http_cdm_stop_node_insert(zone, &account->node);
    }

    return account;
}


/*
 * A stranger who invents projects makes neither many calls of IAM nor many
 * entries.
 */

ngx_int_t
ngx_http_cdm_stop_account_admit(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_account_t *account, int64_t now, int64_t *retry)
{
    int64_t  since;

    if (ngx_http_cdm_stop_counted(&account->added, now,
                                  NGX_HTTP_CDM_STOP_MINUTE, &since)
        >= NGX_HTTP_CDM_STOP_NEW)
    {
        *retry = since + NGX_HTTP_CDM_STOP_MINUTE - now;
        return NGX_BUSY;
    }

    if (account->projects >= NGX_HTTP_CDM_STOP_PROJECTS
        && !ngx_http_cdm_stop_account_evict(zone, account, now))
    {
        *retry = NGX_HTTP_CDM_STOP_MINUTE;
        return NGX_BUSY;
    }

    ngx_http_cdm_stop_count(&account->added, now);

    return NGX_OK;
}


/* makes room for a project by one that has no token */

static ngx_uint_t
ngx_http_cdm_stop_account_evict(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_account_t *account, int64_t now)
{
    ngx_rbtree_node_t          *node;
    ngx_http_cdm_stop_entry_t  *entry;

    for (node = ngx_rbtree_min(zone->sh->rbtree.root,
                               zone->sh->rbtree.sentinel);
         node;
         node = ngx_rbtree_next(&zone->sh->rbtree, node))
    {
        entry = (ngx_http_cdm_stop_entry_t *) node;

        if (!ngx_http_cdm_stop_node_is_entry(&entry->node)
            || ngx_memcmp(entry->node.key.digest, account->node.key.digest,
                          NGX_HTTP_CDM_STOP_DIGEST_LEN)
               != 0
            || (entry->token.len && now < entry->end)
            || ngx_http_cdm_stop_lease_held(&entry->lease, entry->owner, now))
        {
            continue;
        }

        ngx_http_cdm_stop_entry_free(zone, entry);
        return 1;
    }

    return 0;
}


ngx_int_t
ngx_http_cdm_stop_account_begin(ngx_http_cdm_stop_account_t *account,
    ngx_http_cdm_stop_lease_t *lease, int64_t now, int64_t hold,
    int64_t *retry)
{
    int64_t                    since;
    ngx_uint_t                 i, held, refused;
    ngx_http_cdm_stop_slot_t  *slot, *idle;

    refused = ngx_http_cdm_stop_counted(&account->refused, now, hold, &since);

    if (refused >= NGX_HTTP_CDM_STOP_SLOTS) {
        *retry = since + hold - now;
        return NGX_BUSY;
    }

    idle = NULL;
    held = 0;

    for (i = 0; i < NGX_HTTP_CDM_STOP_SLOTS; i++) {

        slot = &account->slots[i];

        if (ngx_http_cdm_stop_lease_held(&slot->lease, slot->owner, now)) {
            held++;

        } else {
            idle = slot;
        }
    }

    /* what is on its way may be refused as well */

    if (held + refused >= NGX_HTTP_CDM_STOP_SLOTS) {
        return NGX_AGAIN;
    }

    idle->lease = *lease;
    idle->owner = ngx_pid;

    return NGX_OK;
}


void
ngx_http_cdm_stop_account_refused(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, int64_t now)
{
    ngx_http_cdm_stop_account_t  *account;

    account = ngx_http_cdm_stop_account_get(zone, key);

    if (account) {
        ngx_http_cdm_stop_count(&account->refused, now);
    }
}


void
ngx_http_cdm_stop_account_end(ngx_http_cdm_stop_account_t *account,
    ngx_http_cdm_stop_lease_t *lease)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_SLOTS; i++) {
        if (account->slots[i].lease.id == lease->id) {
            account->slots[i].lease.id = 0;
        }
    }
}
