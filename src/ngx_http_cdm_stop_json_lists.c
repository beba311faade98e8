
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_status.h"


/* the lists of the JSON: minutes, rules, the last stops, targets */


static void ngx_http_cdm_stop_json_hour(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);
static ngx_http_cdm_stop_totals_t *ngx_http_cdm_stop_json_minutes(
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_json_plot(ngx_http_cdm_stop_out_t *out,
    const char *key, ngx_http_cdm_stop_totals_t *minutes, size_t offset);
static void ngx_http_cdm_stop_json_means(ngx_http_cdm_stop_out_t *out,
    const char *key, ngx_http_cdm_stop_totals_t *minutes, size_t count,
    size_t sum);
static void ngx_http_cdm_stop_json_rules(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);
static int ngx_libc_cdecl ngx_http_cdm_stop_json_rule_cmp(const void *one,
    const void *two);
static void ngx_http_cdm_stop_json_rule(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_rule_stats_t *rule, ngx_uint_t other);
static void ngx_http_cdm_stop_json_last(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);
static ngx_uint_t ngx_http_cdm_stop_json_take(ngx_http_cdm_stop_last_t *dst,
    ngx_http_cdm_stop_last_t *src);
static int ngx_libc_cdecl ngx_http_cdm_stop_json_last_cmp(const void *one,
    const void *two);
static void ngx_http_cdm_stop_json_stop(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_last_t *last);
static void ngx_http_cdm_stop_json_memory(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_json_targets(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_json_target(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_target_view_t *target);
static void ngx_http_cdm_stop_json_records(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_audit_stats_t *stats);
static void ngx_http_cdm_stop_json_known(ngx_http_cdm_stop_out_t *out,
    const char *key, u_char *data, size_t len);


#define ngx_http_cdm_stop_total(totals, offset)                               \
    *(ngx_uint_t *) ((u_char *) (totals) + (offset))


void
ngx_http_cdm_stop_json_lists(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_http_cdm_stop_json_hour(out, view);
    ngx_http_cdm_stop_json_rules(out, view);
    ngx_http_cdm_stop_json_last(out, view);
    ngx_http_cdm_stop_json_memory(out, view);
    ngx_http_cdm_stop_json_targets(out, view);
}


static void
ngx_http_cdm_stop_json_hour(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_str_t                   *name;
    ngx_uint_t                   i;
    ngx_http_cdm_stop_totals_t  *m;

    m = ngx_http_cdm_stop_json_minutes(view);

    if (m == NULL) {
        out->failed = 1;
        return;
    }

    ngx_http_cdm_stop_out_open(out, "hour", '{');
    ngx_http_cdm_stop_out_count(out, "step", 60);
    ngx_http_cdm_stop_out_time(out, "end", view->time);

    ngx_http_cdm_stop_json_plot(out, "allow", m,
                            offsetof(ngx_http_cdm_stop_totals_t, allow));
    ngx_http_cdm_stop_json_plot(out, "deny", m,
                            offsetof(ngx_http_cdm_stop_totals_t, deny));
    ngx_http_cdm_stop_json_plot(out, "none", m,
                            offsetof(ngx_http_cdm_stop_totals_t, none));

    ngx_http_cdm_stop_out_open(out, "verdicts", '{');

    for (i = 0; i < NGX_HTTP_CDM_STOP_VERDICTS; i++) {
        name = ngx_http_cdm_stop_verdict_name(i);
        ngx_http_cdm_stop_json_plot(out, (char *) name->data, m,
                            offsetof(ngx_http_cdm_stop_totals_t, verdicts)
                            + i * sizeof(ngx_uint_t));
    }

    ngx_http_cdm_stop_out_close(out, '}');

    ngx_http_cdm_stop_json_plot(out, "iam_ok", m,
                            offsetof(ngx_http_cdm_stop_totals_t, iam_ok));
    ngx_http_cdm_stop_json_plot(out, "iam_failed", m,
                            offsetof(ngx_http_cdm_stop_totals_t, iam_failed));
    ngx_http_cdm_stop_json_means(out, "cdm_latency", m,
                            offsetof(ngx_http_cdm_stop_totals_t, cdm_count),
                            offsetof(ngx_http_cdm_stop_totals_t, cdm_sum));
    ngx_http_cdm_stop_json_means(out, "iam_latency", m,
                            offsetof(ngx_http_cdm_stop_totals_t, iam_count),
                            offsetof(ngx_http_cdm_stop_totals_t, iam_sum));

    ngx_http_cdm_stop_out_close(out, '}');
}


/*
 * What was counted until each minute of the last hour began, and until now:
 * one more than there are minutes.
 */

static ngx_http_cdm_stop_totals_t *
ngx_http_cdm_stop_json_minutes(ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                     i, minute;
    ngx_http_cdm_stop_stats_t     *stats;
    ngx_http_cdm_stop_totals_t    *m;
    ngx_http_cdm_stop_stats_sh_t  *sh;

    m = ngx_pcalloc(view->pool, NGX_HTTP_CDM_STOP_MINUTES
                                * sizeof(ngx_http_cdm_stop_totals_t));
    if (m == NULL) {
        return NULL;
    }

    stats = view->cdmcf->stats;
    sh = view->sh;

    ngx_shmtx_lock(&stats->shpool->mutex);

    for (i = 0; i < NGX_HTTP_CDM_STOP_MINUTES - 1; i++) {

        minute = sh->minute - (NGX_HTTP_CDM_STOP_MINUTES - 2) + i;

        if (minute >= sh->first) {
            m[i] = sh->minutes[minute % NGX_HTTP_CDM_STOP_MINUTES];
        }
    }

    ngx_shmtx_unlock(&stats->shpool->mutex);

    ngx_http_cdm_stop_stats_totals(sh, &m[i]);

    for (i = 0; i < NGX_HTTP_CDM_STOP_MINUTES; i++) {
        m[i].none = ngx_http_cdm_stop_stats_stops(&m[i]);
        m[i].none -= ngx_min(m[i].none, m[i].allow + m[i].deny);
    }

    return m;
}


static void
ngx_http_cdm_stop_json_plot(ngx_http_cdm_stop_out_t *out, const char *key,
    ngx_http_cdm_stop_totals_t *minutes, size_t offset)
{
    ngx_uint_t  i, a, b;

    ngx_http_cdm_stop_out_open(out, key, '[');

    for (i = 0; i < NGX_HTTP_CDM_STOP_MINUTES - 1; i++) {

        a = ngx_http_cdm_stop_total(&minutes[i], offset);
        b = ngx_http_cdm_stop_total(&minutes[i + 1], offset);

        ngx_http_cdm_stop_out_count(out, NULL, b - ngx_min(a, b));
    }

    ngx_http_cdm_stop_out_close(out, ']');
}


static void
ngx_http_cdm_stop_json_means(ngx_http_cdm_stop_out_t *out, const char *key,
    ngx_http_cdm_stop_totals_t *minutes, size_t count, size_t sum)
{
    ngx_uint_t                   i, n, s;
    ngx_http_cdm_stop_totals_t  *m;

    ngx_http_cdm_stop_out_open(out, key, '[');

    for (i = 0; i < NGX_HTTP_CDM_STOP_MINUTES - 1; i++) {

        m = &minutes[i];

        n = ngx_http_cdm_stop_total(m + 1, count)
            - ngx_http_cdm_stop_total(m, count);
        s = ngx_http_cdm_stop_total(m + 1, sum)
            - ngx_http_cdm_stop_total(m, sum);

        ngx_http_cdm_stop_out_time(out, NULL,
                                   n ? (int64_t) (s / n) : (int64_t) -1);
    }

    ngx_http_cdm_stop_out_close(out, ']');
}


static void
ngx_http_cdm_stop_json_rules(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                       i, n;
    ngx_array_t                      rules;
    ngx_http_cdm_stop_rule_stats_t  *rule, **r;

    n = view->sh->nrules;

    if (ngx_array_init(&rules, view->pool, n + 1,
                       sizeof(ngx_http_cdm_stop_rule_stats_t *))
        != NGX_OK)
    {
        out->failed = 1;
        return;
    }

    for (i = 0; i < n; i++) {
        r = ngx_array_push(&rules);
        *r = &view->sh->rules[i];
    }

    /* an order of a moment: counters go on while they are sorted */

    ngx_qsort(rules.elts, n, sizeof(ngx_http_cdm_stop_rule_stats_t *),
              ngx_http_cdm_stop_json_rule_cmp);

    ngx_http_cdm_stop_out_open(out, "rules", '[');

    r = rules.elts;

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_json_rule(out, r[i], 0);
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_RULES_OTHER; i++) {

        rule = &view->sh->rules[NGX_HTTP_CDM_STOP_RULES_MAX + i];

        if (rule->count) {
            ngx_http_cdm_stop_json_rule(out, rule, 1);
        }
    }

    ngx_http_cdm_stop_out_close(out, ']');
}


static int ngx_libc_cdecl
ngx_http_cdm_stop_json_rule_cmp(const void *one, const void *two)
{
    ngx_http_cdm_stop_rule_stats_t  *a, *b;

    a = *(ngx_http_cdm_stop_rule_stats_t **) one;
    b = *(ngx_http_cdm_stop_rule_stats_t **) two;

    return (a->count < b->count) - (a->count > b->count);
}


static void
ngx_http_cdm_stop_json_rule(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_rule_stats_t *rule, ngx_uint_t other)
{
    ngx_http_cdm_stop_out_open(out, NULL, '{');

    if (other) {
        ngx_http_cdm_stop_out_word(out, "server", "other");
        ngx_http_cdm_stop_out_word(out, "location", "other");
        ngx_http_cdm_stop_out_word(out, "policy", "other");
        ngx_http_cdm_stop_out_word(out, "rule", "other");

    } else {
        ngx_http_cdm_stop_out_text(out, "server", rule->server,
                                   rule->server_len);
        ngx_http_cdm_stop_out_text(out, "location", rule->location,
                                   rule->location_len);
        ngx_http_cdm_stop_json_known(out, "policy", rule->policy,
                                     rule->policy_len);
        ngx_http_cdm_stop_json_known(out, "rule", rule->rule, rule->rule_len);
    }

    ngx_http_cdm_stop_out_word(out, "decision",
                       (rule->decision == NGX_HTTP_CDM_STOP_DECISION_ALLOW)
                       ? "allow" : "deny");
    ngx_http_cdm_stop_out_flag(out, "enforced", rule->enforced);
    ngx_http_cdm_stop_out_count(out, "count", rule->count);

    ngx_http_cdm_stop_out_close(out, '}');
}


static void
ngx_http_cdm_stop_json_last(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                 i, j, n;
    ngx_http_cdm_stop_last_t  *last;

    last = ngx_palloc(view->pool, 2 * NGX_HTTP_CDM_STOP_LAST_MAX
                                  * sizeof(ngx_http_cdm_stop_last_t));
    if (last == NULL) {
        out->failed = 1;
        return;
    }

    n = 0;

    for (i = 0; i < 2; i++) {
        for (j = 0; j < NGX_HTTP_CDM_STOP_LAST_MAX; j++) {
            n += ngx_http_cdm_stop_json_take(&last[n],
                                             &view->sh->rings[i].stops[j]);
        }
    }

    ngx_qsort(last, n, sizeof(ngx_http_cdm_stop_last_t),
              ngx_http_cdm_stop_json_last_cmp);

    ngx_http_cdm_stop_out_open(out, "last", '[');

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_out_open(out, NULL, '{');
        ngx_http_cdm_stop_json_stop(out, &last[i]);
        ngx_http_cdm_stop_out_close(out, '}');
    }

    ngx_http_cdm_stop_out_close(out, ']');
}


/* a copy of a stop, if none was written there meanwhile */

static ngx_uint_t
ngx_http_cdm_stop_json_take(ngx_http_cdm_stop_last_t *dst,
    ngx_http_cdm_stop_last_t *src)
{
    ngx_atomic_uint_t  turn;

    turn = src->turn;

    if (turn == 0 || (turn & 1)) {
        return 0;
    }

    ngx_memory_barrier();

    *dst = *src;

    ngx_memory_barrier();

    return src->turn == turn
           && dst->job_len + dst->principal_len + dst->location_len
              + dst->rule_len + dst->reason_len + dst->code_len
              <= sizeof(dst->text);
}


static int ngx_libc_cdecl
ngx_http_cdm_stop_json_last_cmp(const void *one, const void *two)
{
    ngx_http_cdm_stop_last_t  *a, *b;

    a = (ngx_http_cdm_stop_last_t *) one;
    b = (ngx_http_cdm_stop_last_t *) two;

    return (a->time < b->time) - (a->time > b->time);
}


static void
ngx_http_cdm_stop_json_stop(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_last_t *last)
{
    u_char      *job, *principal, *location, *rule, *reason, *code;
    ngx_str_t   *name;
    const char  *decision;

    job = last->text;
    principal = job + last->job_len;
    location = principal + last->principal_len;
    rule = location + last->location_len;
    reason = rule + last->rule_len;
    code = reason + last->reason_len;

    ngx_http_cdm_stop_out_time(out, "time", last->time);
    ngx_http_cdm_stop_out_text(out, "request_id", last->id, sizeof(last->id));
    ngx_http_cdm_stop_json_known(out, "principal", principal,
                                 last->principal_len);

    ngx_http_cdm_stop_json_known(out, "project", last->project,
                                 last->job_len ? sizeof(last->project) : 0);
    ngx_http_cdm_stop_json_known(out, "cluster", last->cluster,
                                 last->job_len ? sizeof(last->cluster) : 0);
    ngx_http_cdm_stop_json_known(out, "job", job, last->job_len);

    ngx_http_cdm_stop_out_text(out, "location", location, last->location_len);
    ngx_http_cdm_stop_out_flag(out, "sent", last->sent);

    if (last->decision == NGX_HTTP_CDM_STOP_DECISION_NONE) {
        ngx_http_cdm_stop_out_null(out, "decision");

    } else {
        decision = (last->decision == NGX_HTTP_CDM_STOP_DECISION_ALLOW)
                   ? "allow" : "deny";
        ngx_http_cdm_stop_out_word(out, "decision", decision);
    }

    ngx_http_cdm_stop_out_flag(out, "enforced", last->enforced);
    ngx_http_cdm_stop_json_known(out, "rule", rule, last->rule_len);
    ngx_http_cdm_stop_json_known(out, "reason", reason, last->reason_len);

    name = ngx_http_cdm_stop_verdict_name(last->verdict);
    ngx_http_cdm_stop_out_text(out, "verdict", name->data, name->len);

    ngx_http_cdm_stop_out_count(out, "status", last->status);
    ngx_http_cdm_stop_json_known(out, "code", code, last->code_len);
    ngx_http_cdm_stop_out_count(out, "attempts", last->attempts);
    ngx_http_cdm_stop_out_time(out, "duration", ngx_max(last->duration, 0));
}


static void
ngx_http_cdm_stop_json_memory(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_str_t  *name;

    name = &view->cdmcf->zone->shm.name;

    ngx_http_cdm_stop_out_open(out, "verification", '{');
    ngx_http_cdm_stop_out_count(out, "valid", view->valid);
    ngx_http_cdm_stop_out_count(out, "other", view->known - view->valid);
    ngx_http_cdm_stop_out_count(out, "bytes", view->known_size);
    ngx_http_cdm_stop_out_count(out, "max_bytes", view->known_max);
    ngx_http_cdm_stop_out_count(out, "evictions", view->evictions);
    ngx_http_cdm_stop_out_close(out, '}');

    ngx_http_cdm_stop_out_open(out, "zone", '{');
    ngx_http_cdm_stop_out_text(out, "name", name->data, name->len);
    ngx_http_cdm_stop_out_count(out, "size", view->zone_size);
    ngx_http_cdm_stop_out_count(out, "free", view->zone_free);
    ngx_http_cdm_stop_out_count(out, "full", view->full);
    ngx_http_cdm_stop_out_close(out, '}');
}


static void
ngx_http_cdm_stop_json_targets(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                        i;
    ngx_http_cdm_stop_target_view_t  *target;

    target = view->targets.elts;

    ngx_http_cdm_stop_out_open(out, "audit", '[');

    for (i = 0; i < view->targets.nelts; i++) {
        ngx_http_cdm_stop_out_open(out, NULL, '{');
        ngx_http_cdm_stop_json_target(out, &target[i]);
        ngx_http_cdm_stop_json_records(out, target[i].chain->stats);
        ngx_http_cdm_stop_out_close(out, '}');
    }

    ngx_http_cdm_stop_out_close(out, ']');
}


static void
ngx_http_cdm_stop_json_target(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_target_view_t *target)
{
    u_char                     *p, text[NGX_MAX_ERROR_STR];
    ngx_http_cdm_stop_chain_t  *chain;

    chain = target->chain;

    ngx_http_cdm_stop_out_text(out, "target", chain->name.data,
                               chain->name.len);
    ngx_http_cdm_stop_out_word(out, "kind",
                               chain->is_file ? "file"
                               : (chain->syslog ? "syslog" : "stderr"));
    ngx_http_cdm_stop_out_flag(out, "required", target->required);
    ngx_http_cdm_stop_out_flag(out, "sync", target->sync);
    ngx_http_cdm_stop_out_flag(out, "keyed", target->keyed);
    ngx_http_cdm_stop_out_flag(out, "signed", chain->sign != NULL);
    ngx_http_cdm_stop_out_word(out, "state",
                               target->failing ? "failing" : "ok");

    if (target->failing) {
        p = ngx_strerror(target->err, text, sizeof(text));

        /* a part of a record was written, which is no error of the system */

        if (target->err == 0) {
            p = ngx_cpymem(text, "a record was cut off",
                           sizeof("a record was cut off") - 1);
        }

        ngx_http_cdm_stop_out_text(out, "error", text, p - text);

    } else {
        ngx_http_cdm_stop_out_null(out, "error");
    }

    ngx_http_cdm_stop_out_text(out, "chain", target->id, sizeof(target->id));
    ngx_http_cdm_stop_out_count(out, "seq", target->seq);
    ngx_http_cdm_stop_out_flag(out, "owner",
                               target->owner || !chain->is_file);
    ngx_http_cdm_stop_out_count(out, "open", target->open);

    if (target->signed_time) {
        ngx_http_cdm_stop_out_open(out, "checkpoint", '{');
        ngx_http_cdm_stop_out_count(out, "seq", target->signed_seq);
        ngx_http_cdm_stop_out_time(out, "time", target->signed_time);
        ngx_http_cdm_stop_out_close(out, '}');

    } else {
        ngx_http_cdm_stop_out_null(out, "checkpoint");
    }
}


static void
ngx_http_cdm_stop_json_records(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_audit_stats_t *stats)
{
    ngx_uint_t  i, lost;

    lost = 0;

    for (i = 0; i < NGX_HTTP_CDM_STOP_STAGES; i++) {
        lost += stats->lost[i];
    }

    ngx_http_cdm_stop_out_count(out, "written", stats->written);
    ngx_http_cdm_stop_out_count(out, "lost", lost);

    ngx_http_cdm_stop_out_open(out, "lost_by_stage", '{');

    for (i = 0; i < NGX_HTTP_CDM_STOP_STAGES; i++) {
        ngx_http_cdm_stop_out_count(out, ngx_http_cdm_stop_stage_name(i),
                                    stats->lost[i]);
    }

    ngx_http_cdm_stop_out_close(out, '}');

    ngx_http_cdm_stop_out_count(out, "unsynced", stats->unsynced);
    ngx_http_cdm_stop_out_count(out, "summed_up", stats->summed_up);
    ngx_http_cdm_stop_out_time(out, "last_written",
                               stats->health.success ? stats->health.success
                                                     : -1);
    ngx_http_cdm_stop_out_time(out, "last_lost",
                               stats->health.failure ? stats->health.failure
                                                     : -1);

    ngx_http_cdm_stop_out_histogram(out, "delay", &stats->write,
                                    ngx_http_cdm_stop_bounds_us, 1000000);
    ngx_http_cdm_stop_out_histogram(out, "sync_delay", &stats->sync,
                                    ngx_http_cdm_stop_bounds_ms, 1000);
}


/* null where nothing is known */

static void
ngx_http_cdm_stop_json_known(ngx_http_cdm_stop_out_t *out, const char *key,
    u_char *data, size_t len)
{
    if (len) {
        ngx_http_cdm_stop_out_text(out, key, data, len);

    } else {
        ngx_http_cdm_stop_out_null(out, key);
    }
}
