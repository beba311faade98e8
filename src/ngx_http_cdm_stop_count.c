
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"
#include "ngx_http_cdm_stop_stats.h"


#define ngx_http_cdm_stop_add(counter)                                        \
    (void) ngx_atomic_fetch_add(&(counter), 1)


static void ngx_http_cdm_stop_count_error(ngx_http_cdm_stop_stats_sh_t *sh,
    ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_count_decision(ngx_http_cdm_stop_stats_t *stats,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_atomic_t *ngx_http_cdm_stop_count_labels(
    ngx_http_cdm_stop_stats_t *stats, ngx_http_cdm_stop_ctx_t *ctx);
static ngx_http_cdm_stop_rule_stats_t *ngx_http_cdm_stop_count_find(
    ngx_http_cdm_stop_stats_t *stats, ngx_http_cdm_stop_rule_stats_t *labels,
    ngx_str_t *texts);
static ngx_http_cdm_stop_rule_stats_t *ngx_http_cdm_stop_count_insert(
    ngx_http_cdm_stop_stats_sh_t *sh, ngx_uint_t bucket,
    ngx_http_cdm_stop_rule_stats_t *labels, ngx_str_t *texts);
static void ngx_http_cdm_stop_count_texts(ngx_http_cdm_stop_loc_conf_t *cdcf,
    ngx_str_t *rule, ngx_str_t *texts);
static uint64_t ngx_http_cdm_stop_count_hash(uint64_t hash, ngx_str_t *text);
static void ngx_http_cdm_stop_count_value(ngx_http_cdm_stop_histogram_t *h,
    const ngx_uint_t *bounds, ngx_uint_t value);
static void ngx_http_cdm_stop_count_health(ngx_http_cdm_stop_health_t *health,
    ngx_uint_t failed, ngx_uint_t cause);
static void ngx_http_cdm_stop_count_last(ngx_http_cdm_stop_stats_t *stats,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status);
static void ngx_http_cdm_stop_count_stop(ngx_http_cdm_stop_last_t *last,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status);
static int64_t ngx_http_cdm_stop_count_clock(void);


/* 5 ms to 60 s, in milliseconds; the last bucket has no bound */

const ngx_uint_t  ngx_http_cdm_stop_bounds_ms[] = {
    5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000
};


/* 10 us to 1 s, in microseconds */

const ngx_uint_t  ngx_http_cdm_stop_bounds_us[] = {
    10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 50000, 250000, 1000000
};


void
ngx_http_cdm_stop_stats_end(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status)
{
    int64_t                         wait;
    ngx_http_cdm_stop_stats_t      *stats;
    ngx_http_cdm_stop_stats_sh_t   *sh;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);
    stats = cdmcf->stats;

    if (stats == NULL) {
        return;
    }

    sh = stats->sh;

    ngx_http_cdm_stop_add(sh->verdicts[ctx->verdict.verdict]);
    ngx_http_cdm_stop_add(sh->tokens[ngx_http_cdm_stop_token_state(ctx)]);
    ngx_http_cdm_stop_add(sh->callers[ngx_http_cdm_stop_caller_state(ctx)]);

    wait = ctx->wait_time;

    if (ctx->waited) {

        /* the client left before the wait was over */

        wait += ngx_http_cdm_stop_now() - ctx->wait_start;
    }

    if (wait > 0) {
        ngx_http_cdm_stop_count_value(&sh->wait, ngx_http_cdm_stop_bounds_ms,
                                      (ngx_uint_t) wait);
    }

    if (ctx->error || ctx->refused) {
        ngx_http_cdm_stop_count_error(sh, ctx);
    }

    if (ctx->decision != NGX_HTTP_CDM_STOP_DECISION_NONE) {
        ngx_http_cdm_stop_count_decision(stats, ctx);
    }

    ngx_http_cdm_stop_count_last(stats, ctx, status);
}


void
ngx_http_cdm_stop_stats_other(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    if (cdmcf->stats) {
        ngx_http_cdm_stop_count_error(cdmcf->stats->sh, ctx);
    }
}


/* a code is CDMSTOP.0a0b, or nginx itself ended the request */

static void
ngx_http_cdm_stop_count_error(ngx_http_cdm_stop_stats_sh_t *sh,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char  *p;

    if (ctx->error == NULL) {
        ngx_http_cdm_stop_add(sh->others);
        return;
    }

    p = ctx->error->code.data + sizeof("CDMSTOP.") - 1;

    ngx_http_cdm_stop_add(sh->errors[p[1] - '0'][p[3] - '0']);
}


/* a rule's name is the configuration's, so its address tells which it is */

static void
ngx_http_cdm_stop_count_decision(ngx_http_cdm_stop_stats_t *stats,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    uintptr_t                     n;
    ngx_http_cdm_stop_counted_t  *counted;

    n = ((uintptr_t) ctx->rule.data ^ (uintptr_t) ctx->conf) >> 3;
    n = (n ^ (n >> 6) ^ ctx->decision) % NGX_HTTP_CDM_STOP_COUNTED;

    counted = &stats->cdmcf->worker->counted[n];

    if (counted->conf != ctx->conf
        || counted->rule != ctx->rule.data
        || counted->decision != (ngx_uint_t) ctx->decision)
    {
        counted->count = ngx_http_cdm_stop_count_labels(stats, ctx);
        counted->conf = ctx->conf;
        counted->rule = ctx->rule.data;
        counted->decision = ctx->decision;
    }

    ngx_http_cdm_stop_add(*counted->count);
}


static ngx_atomic_t *
ngx_http_cdm_stop_count_labels(ngx_http_cdm_stop_stats_t *stats,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t                        texts[4];
    ngx_http_cdm_stop_rule_stats_t  *rule, labels;

    ngx_http_cdm_stop_count_texts(ctx->conf, &ctx->rule, texts);

    labels.decision = ctx->decision;
    labels.enforced = !ctx->conf->dry_run;
    labels.by_rule = (ctx->rule.len != 0);
    labels.by_policy = (ctx->conf->enforced != NULL);

    labels.hash = ngx_http_cdm_stop_count_hash(ctx->conf->label_hash
                                               ^ ctx->decision, &texts[3]);

    rule = ngx_http_cdm_stop_count_find(stats, &labels, texts);

    return &rule->count;
}


void
ngx_http_cdm_stop_stats_label(ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_str_t   none, texts[4];
    ngx_uint_t  i;

    ngx_str_null(&none);
    ngx_http_cdm_stop_count_texts(cdcf, &none, texts);

    cdcf->label_hash = 14695981039346656037ULL ^ (cdcf->dry_run != 0);

    for (i = 0; i < 3; i++) {
        cdcf->label_hash = ngx_http_cdm_stop_count_hash(cdcf->label_hash,
                                                        &texts[i]);
    }
}


static void
ngx_http_cdm_stop_count_texts(ngx_http_cdm_stop_loc_conf_t *cdcf,
    ngx_str_t *rule, ngx_str_t *texts)
{
    ngx_uint_t  i;

    texts[0] = cdcf->server->server_name;
    texts[1] = cdcf->label;
    texts[3] = *rule;

    if (cdcf->enforced) {
        texts[2] = cdcf->enforced->name;

    } else {
        ngx_str_set(&texts[2], "");
    }

    for (i = 0; i < 4; i++) {
        texts[i].len = ngx_min(texts[i].len, NGX_HTTP_CDM_STOP_LABEL_LEN);
    }
}


/*
 * Labels are only ever added, under the mutex, and found without it: a bucket
 * is filled when the labels that it leads to are complete.
 */

static ngx_http_cdm_stop_rule_stats_t *
ngx_http_cdm_stop_count_find(ngx_http_cdm_stop_stats_t *stats,
    ngx_http_cdm_stop_rule_stats_t *labels, ngx_str_t *texts)
{
    ngx_uint_t                       bucket, locked;
    ngx_http_cdm_stop_stats_sh_t    *sh;
    ngx_http_cdm_stop_rule_stats_t  *rule;

    sh = stats->sh;
    bucket = labels->hash % NGX_HTTP_CDM_STOP_RULES_INDEX;

    for (locked = 0; /* void */ ; /* void */ ) {

        if (sh->index[bucket]) {

            rule = &sh->rules[sh->index[bucket] - 1];

            if (rule->hash == labels->hash) {
                break;
            }

            bucket = (bucket + 1) % NGX_HTTP_CDM_STOP_RULES_INDEX;

        } else if (locked || sh->nrules == NGX_HTTP_CDM_STOP_RULES_MAX) {
            rule = ngx_http_cdm_stop_count_insert(sh, bucket, labels, texts);
            break;

        } else {

            /* it may have come meanwhile, here or in a bucket behind */

            ngx_shmtx_lock(&stats->shpool->mutex);
            locked = 1;
        }
    }

    if (locked) {
        ngx_shmtx_unlock(&stats->shpool->mutex);
    }

    return rule;
}


static ngx_http_cdm_stop_rule_stats_t *
ngx_http_cdm_stop_count_insert(ngx_http_cdm_stop_stats_sh_t *sh,
    ngx_uint_t bucket, ngx_http_cdm_stop_rule_stats_t *labels,
    ngx_str_t *texts)
{
    ngx_http_cdm_stop_rule_stats_t  *rule;

    if (sh->nrules == NGX_HTTP_CDM_STOP_RULES_MAX) {

        /* the same words are stored whoever gets here */

        rule = &sh->rules[sh->nrules
                          + (labels->decision
                             == NGX_HTTP_CDM_STOP_DECISION_DENY) * 2
                          + labels->enforced];

        rule->decision = labels->decision;
        rule->enforced = labels->enforced;

        return rule;
    }

    rule = &sh->rules[sh->nrules];

    rule->hash = labels->hash;
    rule->decision = labels->decision;
    rule->enforced = labels->enforced;
    rule->by_rule = labels->by_rule;
    rule->by_policy = labels->by_policy;

    rule->server_len = ngx_http_cdm_stop_text_cut(rule->server,
                                      NGX_HTTP_CDM_STOP_LABEL_LEN, &texts[0]);
    rule->location_len = ngx_http_cdm_stop_text_cut(rule->location,
                                      NGX_HTTP_CDM_STOP_LABEL_LEN, &texts[1]);
    rule->policy_len = ngx_http_cdm_stop_text_cut(rule->policy,
                                      NGX_HTTP_CDM_STOP_LABEL_LEN, &texts[2]);
    rule->rule_len = ngx_http_cdm_stop_text_cut(rule->rule,
                                      NGX_HTTP_CDM_STOP_LABEL_LEN, &texts[3]);

    ngx_memory_barrier();

    sh->index[bucket] = ++sh->nrules;

    return rule;
}


/* FNV-1a; the length keeps "ab" and "c" from being "a" and "bc" */

static uint64_t
ngx_http_cdm_stop_count_hash(uint64_t hash, ngx_str_t *text)
{
    size_t  i;

    hash = (hash ^ text->len) * 1099511628211ULL;

    for (i = 0; i < text->len; i++) {
        hash = (hash ^ text->data[i]) * 1099511628211ULL;
    }

    return hash;
}


void
ngx_http_cdm_stop_stats_cdm(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_msec_int_t                  time;
    ngx_http_upstream_t            *u;
    ngx_http_cdm_stop_cdm_e         class;
    ngx_http_cdm_stop_cdm_stats_t  *cdm;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    if (cdmcf->stats == NULL) {
        return;
    }

    u = r->upstream;
    cdm = &cdmcf->stats->sh->cdm;

    if (!u->request_sent) {
        ngx_http_cdm_stop_add(cdm->unreachable);
        ngx_http_cdm_stop_count_health(&cdm->health, 1, 0);
        return;
    }

    if (ctx->repeated) {
        ngx_http_cdm_stop_add(cdm->repeats);
    }

    time = (u->state) ? (ngx_msec_int_t) u->state->response_time : 0;

    ngx_http_cdm_stop_count_value(&cdm->time, ngx_http_cdm_stop_bounds_ms,
                                  ngx_max(time, 0));

    switch (ctx->upstream_status / 100) {

    case 2:
        class = NGX_HTTP_CDM_STOP_CDM_2XX;
        break;

    case 3:
        class = NGX_HTTP_CDM_STOP_CDM_3XX;
        break;

    case 4:
        class = (ctx->upstream_status == NGX_HTTP_UNAUTHORIZED)
                ? NGX_HTTP_CDM_STOP_CDM_401 : NGX_HTTP_CDM_STOP_CDM_4XX;
        break;

    case 0:
        class = NGX_HTTP_CDM_STOP_CDM_NONE;
        break;

    default:
        class = NGX_HTTP_CDM_STOP_CDM_5XX;
    }

    ngx_http_cdm_stop_add(cdm->responses[class]);
    ngx_http_cdm_stop_count_health(&cdm->health,
                                   class == NGX_HTTP_CDM_STOP_CDM_NONE, 0);
}


void
ngx_http_cdm_stop_stats_iam(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity,
    ngx_http_cdm_stop_purpose_e purpose, ngx_uint_t result, int64_t start)
{
    int64_t                         time;
    ngx_uint_t                      well;
    ngx_http_cdm_stop_iam_stats_t  *iam;

    if (cdmcf->stats == NULL) {
        return;
    }

    iam = identity->stats;

    ngx_http_cdm_stop_add(iam->results[purpose][result]);

    /* what a caller sends does not tell how IAM is, nor does a token's life */

    well = (result == NGX_HTTP_CDM_STOP_IAM_OK
            || result == NGX_HTTP_CDM_STOP_IAM_UNUSED
            || (purpose == NGX_HTTP_CDM_STOP_VERIFY
                && result == NGX_HTTP_CDM_STOP_FAIL_REFUSED));

    ngx_http_cdm_stop_count_health(&iam->health, !well, result);

    if (result == NGX_HTTP_CDM_STOP_IAM_LOCAL) {
        return;
    }

    time = ngx_http_cdm_stop_now() - start;

    ngx_http_cdm_stop_count_value(&iam->time[purpose],
                                  ngx_http_cdm_stop_bounds_ms,
                                  (ngx_uint_t) ngx_max(time, 0));
}


ngx_int_t
ngx_http_cdm_stop_stats_append(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_record_t *rec, ngx_uint_t *slot, ngx_log_t *log,
    ngx_http_cdm_stop_stage_e stage)
{
    int64_t                           start;
    ngx_int_t                         rc;
    ngx_err_t                         err;
    ngx_http_cdm_stop_audit_stats_t  *stats;

    stats = chain->stats;

    if (stats == NULL) {
        return ngx_http_cdm_stop_chain_append(chain, rec, slot, log);
    }

    start = ngx_http_cdm_stop_count_clock();

    rc = ngx_http_cdm_stop_chain_append(chain, rec, slot, log);
    err = ngx_errno;

    if (rc == NGX_OK) {
        ngx_http_cdm_stop_add(stats->written);

    } else {
        ngx_http_cdm_stop_add(stats->lost[stage]);
    }

    ngx_http_cdm_stop_count_value(&stats->write, ngx_http_cdm_stop_bounds_us,
                     (ngx_uint_t) (ngx_http_cdm_stop_count_clock() - start));

    ngx_http_cdm_stop_count_health(&stats->health, rc != NGX_OK, err);

    ngx_set_errno(err);

    return rc;
}


void
ngx_http_cdm_stop_stats_synced(ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t i,
    ngx_uint_t failed)
{
    int64_t                           time;
    ngx_http_cdm_stop_audit_t        *audit;
    ngx_http_cdm_stop_audit_stats_t  *stats;

    audit = ctx->conf->audit->elts;
    stats = audit[i].chain->stats;

    if (stats == NULL) {
        return;
    }

    time = ngx_http_cdm_stop_now() - ctx->sync_start;

    ngx_http_cdm_stop_count_value(&stats->sync, ngx_http_cdm_stop_bounds_ms,
                                  (ngx_uint_t) ngx_max(time, 0));

    if (failed) {
        ngx_http_cdm_stop_add(stats->unsynced);
        ngx_http_cdm_stop_count_health(&stats->health, 1, EIO);
    }
}


void
ngx_http_cdm_stop_stats_summed_up(ngx_array_t *targets)
{
    ngx_uint_t                  i;
    ngx_http_cdm_stop_audit_t  *audit;

    audit = targets->elts;

    for (i = 0; i < targets->nelts; i++) {
        if (audit[i].chain->stats) {
            ngx_http_cdm_stop_add(audit[i].chain->stats->summed_up);
        }
    }
}


static void
ngx_http_cdm_stop_count_value(ngx_http_cdm_stop_histogram_t *h,
    const ngx_uint_t *bounds, ngx_uint_t value)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_BUCKETS - 1; i++) {
        if (value <= bounds[i]) {
            break;
        }
    }

    ngx_http_cdm_stop_add(h->buckets[i]);
    (void) ngx_atomic_fetch_add(&h->sum, (ngx_atomic_int_t) value);
}


static void
ngx_http_cdm_stop_count_health(ngx_http_cdm_stop_health_t *health,
    ngx_uint_t failed, ngx_uint_t cause)
{
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    if (failed) {
        health->failure = (int64_t) tp->sec * 1000 + tp->msec;
        health->failed = ngx_http_cdm_stop_now();
        health->cause = cause;
        ngx_http_cdm_stop_add(health->failures);
        return;
    }

    health->success = (int64_t) tp->sec * 1000 + tp->msec;

    if (health->failures) {
        health->failures = 0;
    }
}


/*
 * A stop never waits here: it takes the next place, and what is there counts
 * again when its turn is even.  A place that is still written after a whole
 * round is left to who writes it; after two rounds that worker was killed.
 */

static void
ngx_http_cdm_stop_count_last(ngx_http_cdm_stop_stats_t *stats,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status)
{
    ngx_atomic_uint_t          turn, old;
    ngx_http_cdm_stop_last_t  *last;
    ngx_http_cdm_stop_ring_t  *ring;

    ring = &stats->sh->rings[ctx->intent];

    turn = ngx_atomic_fetch_add(&ring->next, 1);
    last = &ring->stops[turn % NGX_HTTP_CDM_STOP_LAST_MAX];

    turn = turn * 2 + 1;
    old = last->turn;

    if (old > turn
        || ((old & 1) && turn - old <= 2 * NGX_HTTP_CDM_STOP_LAST_MAX)
        || !ngx_atomic_cmp_set(&last->turn, old, turn))
    {
        return;
    }

    ngx_http_cdm_stop_count_stop(last, ctx, status);

    ngx_memory_barrier();

    (void) ngx_atomic_cmp_set(&last->turn, turn, turn + 1);
}


static void
ngx_http_cdm_stop_count_stop(ngx_http_cdm_stop_last_t *last,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status)
{
    u_char      *p;
    ngx_str_t    code;
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    last->time = (int64_t) tp->sec * 1000 + tp->msec;
    last->duration = ngx_http_cdm_stop_now() - ctx->start;
    last->status = status;
    last->attempts = ctx->attempts;
    last->verdict = ctx->verdict.verdict;
    last->decision = ctx->decision;
    last->sent = (ctx->attempts != 0);
    last->enforced = !ctx->conf->dry_run;

    ngx_memcpy(last->id, ctx->id, sizeof(last->id));

    p = last->text;

    last->job_len = ngx_http_cdm_stop_text_cut(p, NGX_HTTP_CDM_STOP_JOB_LEN,
                                               &ctx->target.job);
    if (last->job_len) {
        ngx_memcpy(last->project, ctx->target.project.data,
                   sizeof(last->project));
        ngx_memcpy(last->cluster, ctx->target.cluster.data,
                   sizeof(last->cluster));
    }

    p += last->job_len;
    last->principal_len = ngx_http_cdm_stop_text_cut(p,
                      NGX_HTTP_CDM_STOP_KEPT_LEN, &ctx->caller.principal);
    p += last->principal_len;
    last->location_len = ngx_http_cdm_stop_text_cut(p,
                      NGX_HTTP_CDM_STOP_LABEL_LEN, &ctx->conf->label);
    p += last->location_len;
    last->rule_len = ngx_http_cdm_stop_text_cut(p,
                      NGX_HTTP_CDM_STOP_LABEL_LEN, &ctx->rule);
    p += last->rule_len;
    last->reason_len = ngx_http_cdm_stop_text_cut(p,
                      NGX_HTTP_CDM_STOP_REASON_LEN, &ctx->reason);
    p += last->reason_len;

    ngx_str_null(&code);

    if (ctx->error) {
        code = ctx->error->code;

    } else if (ctx->waived) {
        code = ctx->waived->code;
    }

    last->code_len = ngx_http_cdm_stop_text_cut(p,
                      NGX_HTTP_CDM_STOP_CODE_LEN, &code);
}


/* microseconds; 0 if there is no such clock, and nothing took any time */

static int64_t
ngx_http_cdm_stop_count_clock(void)
{
    struct timespec  ts;

    if (clock_gettime(CLOCK_MONOTONIC, &ts) == -1) {
        return 0;
    }

    return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}
