
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_stats.h"


/* what the slab allocator keeps for itself, beside one byte in a hundred */
#define NGX_HTTP_CDM_STOP_STATS_SPARE   (64 * 1024)

#define NGX_HTTP_CDM_STOP_MINUTE        60000


static ngx_int_t ngx_http_cdm_stop_stats_zone_init(ngx_shm_zone_t *zone,
    void *data);
static void ngx_http_cdm_stop_stats_names(ngx_http_cdm_stop_stats_t *stats);
static void ngx_http_cdm_stop_stats_identity(
    ngx_http_cdm_stop_stats_sh_t *sh, ngx_http_cdm_stop_identity_t *identity);
static void ngx_http_cdm_stop_stats_target(ngx_http_cdm_stop_stats_sh_t *sh,
    ngx_http_cdm_stop_chain_t *chain);
static ngx_uint_t ngx_http_cdm_stop_stats_named(u_char *name, size_t len,
    ngx_str_t *wanted);
static ngx_int_t ngx_http_cdm_stop_stats_location(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static void ngx_http_cdm_stop_stats_average(ngx_http_cdm_stop_histogram_t *h,
    ngx_uint_t *count, ngx_uint_t *sum);


ngx_int_t
ngx_http_cdm_stop_stats_init(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    size_t                           size;
    ngx_str_t                        name;
    ngx_uint_t                       i;
    ngx_shm_zone_t                  *zone;
    ngx_http_cdm_stop_stats_t       *stats;
    ngx_http_cdm_stop_loc_conf_t   **locations;

    if (!cdmcf->status) {
        return NGX_OK;
    }

    stats = ngx_http_cdm_stop_conf_alloc(cf,
                                         sizeof(ngx_http_cdm_stop_stats_t));
    if (stats == NULL) {
        return NGX_ERROR;
    }

    stats->cdmcf = cdmcf;

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        if (locations[i]->identity
            && ngx_http_cdm_stop_stats_location(cf, locations[i]) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    /* another layout is another zone, by its name or by its size */

    size = sizeof(ngx_http_cdm_stop_stats_sh_t);
    size += size / 100 + NGX_HTTP_CDM_STOP_STATS_SPARE;
    size = ngx_align(size, ngx_pagesize);

    name.data = ngx_pnalloc(cf->pool,
                            sizeof("cdm_stop_status ") - 1 + NGX_INT_T_LEN);
    if (name.data == NULL) {
        return NGX_ERROR;
    }

    name.len = ngx_sprintf(name.data, "cdm_stop_status %ui",
                           (ngx_uint_t) NGX_HTTP_CDM_STOP_STATS_LAYOUT)
               - name.data;

    zone = ngx_shared_memory_add(cf, &name, size, &ngx_http_cdm_stop_module);
    if (zone == NULL) {
        return NGX_ERROR;
    }

    zone->init = ngx_http_cdm_stop_stats_zone_init;
    zone->data = stats;

    cdmcf->stats = stats;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_stats_zone_init(ngx_shm_zone_t *zone, void *data)
{
    ngx_http_cdm_stop_stats_t *ostats = data;

    ngx_time_t                    *tp;
    ngx_http_cdm_stop_stats_t     *stats;
    ngx_http_cdm_stop_stats_sh_t  *sh;

    stats = zone->data;
    stats->shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (ostats || zone->shm.exists) {

        /* counters go on, those of the old workers included */

        stats->sh = stats->shpool->data;

        ngx_shmtx_lock(&stats->shpool->mutex);
        ngx_http_cdm_stop_stats_names(stats);
        ngx_shmtx_unlock(&stats->shpool->mutex);

        return NGX_OK;
    }

    sh = ngx_slab_calloc(stats->shpool, sizeof(ngx_http_cdm_stop_stats_sh_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    tp = ngx_timeofday();

    sh->started = (int64_t) tp->sec * 1000 + tp->msec;
    sh->first = (ngx_uint_t) (ngx_http_cdm_stop_now()
                              / NGX_HTTP_CDM_STOP_MINUTE);
    sh->minute = sh->first;

    stats->sh = sh;
    stats->shpool->data = sh;

    ngx_http_cdm_stop_stats_names(stats);

    return NGX_OK;
}


/* gives what has a name in the configuration its place */

static void
ngx_http_cdm_stop_stats_names(ngx_http_cdm_stop_stats_t *stats)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_chain_t      **chains;
    ngx_http_cdm_stop_identity_t   **identities;

    identities = stats->cdmcf->identities.elts;

    for (i = 0; i < stats->cdmcf->identities.nelts; i++) {
        ngx_http_cdm_stop_stats_identity(stats->sh, identities[i]);
    }

    chains = stats->cdmcf->chains.elts;

    for (i = 0; i < stats->cdmcf->chains.nelts; i++) {
        ngx_http_cdm_stop_stats_target(stats->sh, chains[i]);
    }
}


static void
ngx_http_cdm_stop_stats_identity(ngx_http_cdm_stop_stats_sh_t *sh,
    ngx_http_cdm_stop_identity_t *identity)
{
    ngx_str_t                       name;
    ngx_uint_t                      i;
    ngx_http_cdm_stop_iam_stats_t  *slot;

    name = identity->name;
    name.len = ngx_min(name.len, NGX_HTTP_CDM_STOP_KEPT_LEN);

    for (i = 0; i < sh->nidentities; i++) {

        slot = &sh->identities[i];

        if (ngx_http_cdm_stop_stats_named(slot->name, slot->name_len, &name)) {
            identity->stats = slot;
            return;
        }
    }

    /* the last one is for all that find no place; it has no name */

    slot = &sh->identities[i];
    identity->stats = slot;

    if (i < NGX_HTTP_CDM_STOP_NAMED_MAX) {
        ngx_memcpy(slot->name, name.data, name.len);
        slot->name_len = name.len;

        ngx_memory_barrier();

        sh->nidentities++;
    }
}


static void
ngx_http_cdm_stop_stats_target(ngx_http_cdm_stop_stats_sh_t *sh,
    ngx_http_cdm_stop_chain_t *chain)
{
    ngx_str_t                         name;
    ngx_uint_t                        i;
    ngx_http_cdm_stop_audit_stats_t  *slot;

    name = chain->name;
    name.len = ngx_min(name.len, NGX_HTTP_CDM_STOP_KEPT_LEN);

    for (i = 0; i < sh->ntargets; i++) {

        slot = &sh->targets[i];

        if (ngx_http_cdm_stop_stats_named(slot->name, slot->name_len, &name)) {
            chain->stats = slot;
            return;
        }
    }

    slot = &sh->targets[i];
    chain->stats = slot;

    if (i < NGX_HTTP_CDM_STOP_NAMED_MAX) {
        ngx_memcpy(slot->name, name.data, name.len);
        slot->name_len = name.len;

        ngx_memory_barrier();

        sh->ntargets++;
    }
}


static ngx_uint_t
ngx_http_cdm_stop_stats_named(u_char *name, size_t len, ngx_str_t *wanted)
{
    return len == wanted->len && ngx_memcmp(name, wanted->data, len) == 0;
}


/* a location as it is told apart from others in labels */

static ngx_int_t
ngx_http_cdm_stop_stats_location(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    char                      *kind;
    u_char                    *p;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = cdcf->location;

    kind = clcf->exact_match ? "= " : "";

#if (NGX_PCRE)
    if (clcf->regex) {
        kind = "~ ";
    }
#endif

    p = ngx_pnalloc(cf->pool, 2 + clcf->name.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    cdcf->label.data = p;
    cdcf->label.len = ngx_sprintf(p, "%s%V", kind, &clcf->name) - p;

    ngx_http_cdm_stop_stats_label(cdcf);

    return NGX_OK;
}


void
ngx_http_cdm_stop_stats_worker(ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    ngx_uint_t                         i;
    ngx_http_cdm_stop_stats_t         *stats;
    ngx_http_cdm_stop_worker_stats_t  *slot, *idle;

    stats = cdmcf->stats;

    if (stats == NULL) {
        return;
    }

    idle = NULL;

    ngx_shmtx_lock(&stats->shpool->mutex);

    for (i = 0; i < NGX_HTTP_CDM_STOP_WORKERS_MAX; i++) {

        slot = &stats->sh->workers[i];

        if (slot->pid == ngx_pid) {

            /* without a master, the same process goes on */

            idle = slot;
            break;
        }

        if (idle == NULL
            && (slot->pid == 0
                || (kill(slot->pid, 0) == -1 && ngx_errno == NGX_ESRCH)))
        {
            idle = slot;
        }
    }

    if (idle) {
        idle->pid = ngx_pid;
        idle->waiting = 0;
    }

    ngx_shmtx_unlock(&stats->shpool->mutex);

    cdmcf->worker->stats = idle;
}


void
ngx_http_cdm_stop_stats_exit(ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    if (cdmcf->stats && cdmcf->worker->stats) {
        cdmcf->worker->stats->waiting = 0;
        cdmcf->worker->stats->pid = 0;
    }
}


void
ngx_http_cdm_stop_stats_tick(ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    if (cdmcf->stats == NULL) {
        return;
    }

    if (cdmcf->worker->stats == NULL) {

        /* without a master, a reload does not make a process */

        ngx_http_cdm_stop_stats_worker(cdmcf);
    }

    if (cdmcf->worker->stats) {
        cdmcf->worker->stats->waiting = cdmcf->worker->waiting;
    }

    ngx_http_cdm_stop_stats_minute(cdmcf->stats);
}


/*
 * Counters are not set back for the plots: what they were when a minute began
 * is kept, so that a minute is the difference to the next one.
 */

void
ngx_http_cdm_stop_stats_minute(ngx_http_cdm_stop_stats_t *stats)
{
    ngx_uint_t                     i, now, minute;
    ngx_http_cdm_stop_totals_t     totals;
    ngx_http_cdm_stop_stats_sh_t  *sh;

    sh = stats->sh;
    now = (ngx_uint_t) (ngx_http_cdm_stop_now() / NGX_HTTP_CDM_STOP_MINUTE);

    if (sh->minute == now) {
        return;
    }

    ngx_shmtx_lock(&stats->shpool->mutex);

    minute = sh->minute;

    if (minute < now) {

        ngx_http_cdm_stop_stats_totals(sh, &totals);

        i = ngx_max(minute + 1, now - ngx_min(now,
                                              NGX_HTTP_CDM_STOP_MINUTES - 1));

        for ( /* void */ ; i <= now; i++) {
            sh->minutes[i % NGX_HTTP_CDM_STOP_MINUTES] = totals;
        }

        sh->minute = now;
    }

    ngx_shmtx_unlock(&stats->shpool->mutex);
}


void
ngx_http_cdm_stop_stats_totals(ngx_http_cdm_stop_stats_sh_t *sh,
    ngx_http_cdm_stop_totals_t *totals)
{
    ngx_uint_t                       i, j, k, n;
    ngx_http_cdm_stop_iam_stats_t   *iam;
    ngx_http_cdm_stop_rule_stats_t  *rule;

    ngx_memzero(totals, sizeof(ngx_http_cdm_stop_totals_t));

    for (i = 0;
         i < NGX_HTTP_CDM_STOP_RULES_MAX + NGX_HTTP_CDM_STOP_RULES_OTHER;
         i++)
    {
        rule = &sh->rules[i];

        if (rule->decision == NGX_HTTP_CDM_STOP_DECISION_ALLOW) {
            totals->allow += rule->count;

        } else {
            totals->deny += rule->count;
        }
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_VERDICTS; i++) {
        totals->verdicts[i] = sh->verdicts[i];
    }

    for (i = 0; i <= NGX_HTTP_CDM_STOP_NAMED_MAX; i++) {

        iam = &sh->identities[i];

        for (j = 0; j < 2; j++) {

            ngx_http_cdm_stop_stats_average(&iam->time[j], &totals->iam_count,
                                            &totals->iam_sum);

            for (k = 0; k < NGX_HTTP_CDM_STOP_IAM_RESULTS; k++) {

                n = iam->results[j][k];

                /* a caller's token that is not valid is an answer, too */

                if (k == NGX_HTTP_CDM_STOP_IAM_OK
                    || (j == NGX_HTTP_CDM_STOP_VERIFY
                        && k == NGX_HTTP_CDM_STOP_FAIL_REFUSED))
                {
                    totals->iam_ok += n;

                } else {
                    totals->iam_failed += n;
                }
            }
        }
    }

    ngx_http_cdm_stop_stats_average(&sh->cdm.time, &totals->cdm_count,
                                    &totals->cdm_sum);
}


ngx_uint_t
ngx_http_cdm_stop_stats_stops(ngx_http_cdm_stop_totals_t *totals)
{
    ngx_uint_t  i, n;

    n = 0;

    for (i = 0; i < NGX_HTTP_CDM_STOP_VERDICTS; i++) {
        n += totals->verdicts[i];
    }

    return n;
}


static void
ngx_http_cdm_stop_stats_average(ngx_http_cdm_stop_histogram_t *h,
    ngx_uint_t *count, ngx_uint_t *sum)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_BUCKETS; i++) {
        *count += h->buckets[i];
    }

    *sum += h->sum;
}
