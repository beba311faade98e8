
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_metric.h"
#include "ngx_http_cdm_stop_status.h"


static void ngx_http_cdm_stop_metrics_health(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_metrics_tokens(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_metrics_memory(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_metrics_records(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh);
static void ngx_http_cdm_stop_metrics_delays(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh);
static void ngx_http_cdm_stop_metrics_targets(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_identity_label(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_identity_view_t *iv);
static void ngx_http_cdm_stop_target_label(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_target_view_t *target);


void
ngx_http_cdm_stop_metrics_state(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_http_cdm_stop_metrics_health(m, view);
    ngx_http_cdm_stop_metrics_tokens(m, view);
    ngx_http_cdm_stop_metrics_memory(m, view);
    ngx_http_cdm_stop_metrics_records(m, view->sh);
    ngx_http_cdm_stop_metrics_delays(m, view->sh);
    ngx_http_cdm_stop_metrics_targets(m, view);
}


static void
ngx_http_cdm_stop_metrics_health(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                          i, n;
    ngx_http_cdm_stop_identity_view_t  *iv;

    n = view->identities.nelts;
    iv = view->identities.elts;

    ngx_http_cdm_stop_family(m, "cdm_stop_identity_ready", "gauge",
                             "Whether the identity has a token or could get "
                             "one.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_identity_label(m, &iv[i]);
        ngx_http_cdm_stop_gauge(m, iv[i].ready);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_iam_up", "gauge",
                             "Whether the last exchange with IAM went well; "
                             "1 before the first one.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_identity_label(m, &iv[i]);
        ngx_http_cdm_stop_gauge(m,
                              iv[i].identity->stats->health.failures == 0);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_iam_last_success_timestamp_seconds",
                             "gauge", "When an exchange with IAM went well "
                             "last, 0 is never.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_identity_label(m, &iv[i]);
        ngx_http_cdm_stop_seconds(m, iv[i].identity->stats->health.success);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_iam_backoff_seconds", "gauge",
                             "Longest time for which IAM is left alone now, "
                             "over the projects.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_identity_label(m, &iv[i]);
        ngx_http_cdm_stop_seconds(m, ngx_max(iv[i].retry, iv[i].rest));
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_verifying_requests", "gauge",
                             "Calls of IAM about callers' tokens that are "
                             "under way.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_identity_label(m, &iv[i]);
        ngx_http_cdm_stop_gauge(m, iv[i].verifying);
    }
}


static void
ngx_http_cdm_stop_metrics_tokens(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                          i, j, n;
    ngx_uint_t                          counts[4];
    static const char                  *states[] = {
        "good", "stale", "failing", "none"
    };
    ngx_http_cdm_stop_identity_view_t  *iv;

    n = view->identities.nelts;
    iv = view->identities.elts;

    ngx_http_cdm_stop_family(m, "cdm_stop_tokens", "gauge",
                             "Projects that a token was asked for, by what "
                             "there is; stale: good, but its renewal fails.");

    for (i = 0; i < n; i++) {

        counts[0] = iv[i].good - iv[i].stale;
        counts[1] = iv[i].stale;
        counts[2] = iv[i].failing;
        counts[3] = iv[i].entries - iv[i].good - iv[i].failing;

        for (j = 0; j < 4; j++) {
            ngx_http_cdm_stop_identity_label(m, &iv[i]);
            ngx_http_cdm_stop_word(m, "state", states[j]);
            ngx_http_cdm_stop_gauge(m, counts[j]);
        }
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_token_remaining_seconds", "gauge",
                             "Life that is left of the good token that ends "
                             "first, absent if there is none.");

    for (i = 0; i < n; i++) {

        if (iv[i].left != -1) {
            ngx_http_cdm_stop_identity_label(m, &iv[i]);
            ngx_http_cdm_stop_seconds(m, iv[i].left);
        }
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_token_generation", "gauge",
                             "Number of the newest token; all identities "
                             "count as one.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_identity_label(m, &iv[i]);
        ngx_http_cdm_stop_gauge(m, iv[i].generation);
    }
}


static void
ngx_http_cdm_stop_metrics_memory(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_http_cdm_stop_family(m, "cdm_stop_verification_cache_entries",
                             "gauge", "Callers' tokens that are remembered; "
                             "other: not valid, or being asked about.");
    ngx_http_cdm_stop_word(m, "state", "valid");
    ngx_http_cdm_stop_gauge(m, view->valid);
    ngx_http_cdm_stop_word(m, "state", "other");
    ngx_http_cdm_stop_gauge(m, view->known - view->valid);

    ngx_http_cdm_stop_family(m, "cdm_stop_verification_cache_bytes", "gauge",
                             "Memory that they take.");
    ngx_http_cdm_stop_gauge(m, view->known_size);

    ngx_http_cdm_stop_family(m, "cdm_stop_verification_cache_limit_bytes",
                             "gauge", "Memory that they may take.");
    ngx_http_cdm_stop_gauge(m, view->known_max);

    ngx_http_cdm_stop_family(m, "cdm_stop_verification_cache_evictions",
                             "counter", "Callers' tokens that were forgotten "
                             "before their time, for lack of room.");
    ngx_http_cdm_stop_counter(m, view->evictions);

    ngx_http_cdm_stop_family(m, "cdm_stop_zone_size_bytes", "gauge",
                             "Size of cdm_stop_zone.");
    ngx_http_cdm_stop_gauge(m, view->zone_size);

    ngx_http_cdm_stop_family(m, "cdm_stop_zone_free_bytes", "gauge",
                             "Whole pages of it that are free.");
    ngx_http_cdm_stop_gauge(m, view->zone_free);

    ngx_http_cdm_stop_family(m, "cdm_stop_zone_full", "counter",
                             "How often there was no room in it.");
    ngx_http_cdm_stop_counter(m, view->full);
}


static void
ngx_http_cdm_stop_metrics_records(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh)
{
    ngx_uint_t  i, j;

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_records_written", "counter",
                             "Records of stops that were written.");

    for (i = 0; ngx_http_cdm_stop_metric_target(m, sh, i); i++) {
        ngx_http_cdm_stop_counter(m, sh->targets[i].written);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_records_lost", "counter",
                             "Records of stops that could not be written.");

    for (i = 0; ngx_http_cdm_stop_metric_target(m, sh, i); i++) {
        for (j = 0; j < NGX_HTTP_CDM_STOP_STAGES; j++) {
            (void) ngx_http_cdm_stop_metric_target(m, sh, i);
            ngx_http_cdm_stop_word(m, "stage",
                                   ngx_http_cdm_stop_stage_name(j));
            ngx_http_cdm_stop_counter(m, sh->targets[i].lost[j]);
        }
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_records_unsynced", "counter",
                             "Intents that were written, but are not known "
                             "to be on disk.");

    for (i = 0; ngx_http_cdm_stop_metric_target(m, sh, i); i++) {
        ngx_http_cdm_stop_counter(m, sh->targets[i].unsynced);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_refusals_summed_up",
                             "counter", "Refusals that are in a summary and "
                             "have no record of their own.");

    for (i = 0; ngx_http_cdm_stop_metric_target(m, sh, i); i++) {
        ngx_http_cdm_stop_counter(m, sh->targets[i].summed_up);
    }
}


static void
ngx_http_cdm_stop_metrics_delays(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh)
{
    ngx_uint_t  i;

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_write_seconds", "histogram",
                             "Time that a record took, the wait for its "
                             "turn included.");

    for (i = 0; ngx_http_cdm_stop_metric_target(m, sh, i); i++) {
        ngx_http_cdm_stop_histogram(m, &sh->targets[i].write,
                                    ngx_http_cdm_stop_bounds_us, 1000000);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_sync_seconds", "histogram",
                             "Time until an intent was on disk, with sync.");

    for (i = 0; ngx_http_cdm_stop_metric_target(m, sh, i); i++) {
        ngx_http_cdm_stop_histogram(m, &sh->targets[i].sync,
                                    ngx_http_cdm_stop_bounds_ms, 1000);
    }
}


static void
ngx_http_cdm_stop_metrics_targets(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                        i, n;
    ngx_http_cdm_stop_target_view_t  *target;

    n = view->targets.nelts;
    target = view->targets.elts;

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_up", "gauge",
                             "Whether the last record was written, as far as "
                             "it is known the next one would be as well.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_target_label(m, &target[i]);
        ngx_http_cdm_stop_gauge(m, !target[i].failing);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_chain_info", "gauge",
                             "The chain that records go to.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_target_label(m, &target[i]);
        ngx_http_cdm_stop_label(m, "chain", target[i].id,
                                NGX_HTTP_CDM_STOP_CHAIN_ID_LEN);
        ngx_http_cdm_stop_gauge(m, 1);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_chain_position", "gauge",
                             "Number of the last record of the chain.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_target_label(m, &target[i]);
        ngx_http_cdm_stop_gauge(m, target[i].seq);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_checkpoint_timestamp_seconds",
                             "gauge", "When the last checkpoint was written, "
                             "0 is none since the start.");

    for (i = 0; i < n; i++) {

        if (target[i].chain->sign) {
            ngx_http_cdm_stop_target_label(m, &target[i]);
            ngx_http_cdm_stop_seconds(m, target[i].signed_time);
        }
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_owner", "gauge",
                             "Whether the file is ours; 0: another instance "
                             "has it.");

    for (i = 0; i < n; i++) {

        if (target[i].chain->is_file) {
            ngx_http_cdm_stop_target_label(m, &target[i]);
            ngx_http_cdm_stop_gauge(m, target[i].owner);
        }
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_audit_open_stops", "gauge",
                             "Stops on their way: with an intent and without "
                             "an outcome.");

    for (i = 0; i < n; i++) {
        ngx_http_cdm_stop_target_label(m, &target[i]);
        ngx_http_cdm_stop_gauge(m, target[i].open);
    }
}


static void
ngx_http_cdm_stop_identity_label(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_identity_view_t *iv)
{
    ngx_http_cdm_stop_label(m, "identity", iv->identity->name.data,
                            ngx_min(iv->identity->name.len,
                                    NGX_HTTP_CDM_STOP_KEPT_LEN));
}


static void
ngx_http_cdm_stop_target_label(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_target_view_t *target)
{
    ngx_http_cdm_stop_label(m, "target", target->chain->name.data,
                            ngx_min(target->chain->name.len,
                                    NGX_HTTP_CDM_STOP_KEPT_LEN));
}
