
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_metric.h"
#include "ngx_http_cdm_stop_status.h"


static void ngx_http_cdm_stop_metrics_general(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_metrics_stops(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh);
static void ngx_http_cdm_stop_metrics_decisions(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh);
static void ngx_http_cdm_stop_metrics_waits(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_metrics_cdm(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_cdm_stats_t *cdm);
static void ngx_http_cdm_stop_metrics_iam(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh);


void
ngx_http_cdm_stop_metrics(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_http_cdm_stop_metric_t  m;

    m.out = out;
    m.nlabels = 0;

    ngx_http_cdm_stop_metrics_general(&m, view);
    ngx_http_cdm_stop_metrics_stops(&m, view->sh);
    ngx_http_cdm_stop_metrics_decisions(&m, view->sh);
    ngx_http_cdm_stop_metrics_waits(&m, view);
    ngx_http_cdm_stop_metrics_cdm(&m, &view->sh->cdm);
    ngx_http_cdm_stop_metrics_iam(&m, view->sh);
    ngx_http_cdm_stop_metrics_state(&m, view);

    if (out->openmetrics) {
        ngx_http_cdm_stop_out(out, "# EOF\n");
    }
}


static void
ngx_http_cdm_stop_metrics_general(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_http_cdm_stop_family(m, "cdm_stop_build_info", "gauge",
                             "Versions of the module and of nginx.");
    ngx_http_cdm_stop_word(m, "version", NGX_HTTP_CDM_STOP_VERSION);
    ngx_http_cdm_stop_word(m, "nginx", NGINX_VERSION);
    ngx_http_cdm_stop_gauge(m, 1);

    ngx_http_cdm_stop_family(m, "cdm_stop_start_time_seconds", "gauge",
                             "Since when the counters count.");
    ngx_http_cdm_stop_seconds(m, view->sh->started);

    ngx_http_cdm_stop_family(m, "cdm_stop_ready", "gauge",
                             "Whether a stop could be served now.");
    ngx_http_cdm_stop_gauge(m, view->reasons.nelts == 0);

    ngx_http_cdm_stop_family(m, "cdm_stop_workers", "gauge",
                             "Worker processes, those that end included.");
    ngx_http_cdm_stop_gauge(m, view->workers);
}


static void
ngx_http_cdm_stop_metrics_stops(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh)
{
    ngx_str_t   *name;
    ngx_uint_t   i;
    const char  *code;

    ngx_http_cdm_stop_family(m, "cdm_stop_stops", "counter",
                             "Requests for a stop that came to an end, by "
                             "what became of the job.");

    for (i = 0; i < NGX_HTTP_CDM_STOP_VERDICTS; i++) {
        name = ngx_http_cdm_stop_verdict_name(i);
        ngx_http_cdm_stop_label(m, "verdict", name->data, name->len);
        ngx_http_cdm_stop_counter(m, sh->verdicts[i]);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_errors", "counter",
                             "Answers of the gateway itself, by their code; "
                             "\"other\" are those of nginx.");

    for (i = 0; (code = ngx_http_cdm_stop_code(i)) != NULL; i++) {
        ngx_http_cdm_stop_word(m, "code", code);
        ngx_http_cdm_stop_counter(m, sh->errors[code[9] - '0']
                                               [code[11] - '0']);
    }

    ngx_http_cdm_stop_word(m, "code", "other");
    ngx_http_cdm_stop_counter(m, sh->others);

    ngx_http_cdm_stop_family(m, "cdm_stop_token_lookups", "counter",
                             "Stops by where the gateway's token came from.");

    for (i = 0; i < NGX_HTTP_CDM_STOP_TOKEN_STATES; i++) {
        ngx_http_cdm_stop_word(m, "status",
                               ngx_http_cdm_stop_token_label(i));
        ngx_http_cdm_stop_counter(m, sh->tokens[i]);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_verifications", "counter",
                             "Stops by what is known of the caller's token.");

    for (i = 0; i < NGX_HTTP_CDM_STOP_CALLER_STATES; i++) {
        ngx_http_cdm_stop_word(m, "status",
                               ngx_http_cdm_stop_caller_label(i));
        ngx_http_cdm_stop_counter(m, sh->callers[i]);
    }
}


static void
ngx_http_cdm_stop_metrics_decisions(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh)
{
    ngx_uint_t                       i, n;
    ngx_http_cdm_stop_rule_stats_t  *rule;

    ngx_http_cdm_stop_family(m, "cdm_stop_decisions", "counter",
                             "Decisions by rule and location; no rule is by "
                             "default.");
    n = sh->nrules;

    for (i = 0;
         i < NGX_HTTP_CDM_STOP_RULES_MAX + NGX_HTTP_CDM_STOP_RULES_OTHER;
         i++)
    {
        rule = &sh->rules[i];

        if (i >= NGX_HTTP_CDM_STOP_RULES_MAX) {

            if (rule->count == 0) {
                continue;
            }

            ngx_http_cdm_stop_word(m, "server", "other");
            ngx_http_cdm_stop_word(m, "location", "other");
            ngx_http_cdm_stop_word(m, "policy", "other");
            ngx_http_cdm_stop_word(m, "rule", "other");

        } else if (i < n) {
            ngx_http_cdm_stop_label(m, "server", rule->server,
                                    rule->server_len);
            ngx_http_cdm_stop_label(m, "location", rule->location,
                                    rule->location_len);
            ngx_http_cdm_stop_label(m, "policy", rule->policy,
                                    rule->policy_len);
            ngx_http_cdm_stop_label(m, "rule", rule->rule, rule->rule_len);

        } else {
            continue;
        }

        ngx_http_cdm_stop_word(m, "decision",
                       (rule->decision == NGX_HTTP_CDM_STOP_DECISION_ALLOW)
                       ? "allow" : "deny");
        ngx_http_cdm_stop_word(m, "enforced",
                               rule->enforced ? "true" : "false");

        ngx_http_cdm_stop_counter(m, rule->count);
    }
}


static void
ngx_http_cdm_stop_metrics_waits(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_http_cdm_stop_family(m, "cdm_stop_wait_seconds", "histogram",
                             "How long stops waited for IAM, of those that "
                             "did.");
    ngx_http_cdm_stop_histogram(m, &view->sh->wait,
                                ngx_http_cdm_stop_bounds_ms, 1000);

    ngx_http_cdm_stop_family(m, "cdm_stop_waiting_requests", "gauge",
                             "Stops that wait for IAM or the disk.");
    ngx_http_cdm_stop_gauge(m, view->waiting);

    ngx_http_cdm_stop_family(m, "cdm_stop_waiting_requests_limit", "gauge",
                             "Stops that may wait; more are refused.");
    ngx_http_cdm_stop_gauge(m, view->workers * NGX_HTTP_CDM_STOP_WAITING_MAX);
}


static void
ngx_http_cdm_stop_metrics_cdm(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_cdm_stats_t *cdm)
{
    ngx_uint_t  i;

    ngx_http_cdm_stop_family(m, "cdm_stop_cdm_requests", "counter",
                             "Requests that were sent to CDM, by the status "
                             "of its answer; \"none\" got none.");

    for (i = 0; i < NGX_HTTP_CDM_STOP_CDM_CLASSES; i++) {
        ngx_http_cdm_stop_word(m, "status", ngx_http_cdm_stop_class_name(i));
        ngx_http_cdm_stop_counter(m, cdm->responses[i]);
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_cdm_repeats", "counter",
                             "Of these, sent again after a 401, with a new "
                             "token.");
    ngx_http_cdm_stop_counter(m, cdm->repeats);

    ngx_http_cdm_stop_family(m, "cdm_stop_cdm_unreachable", "counter",
                             "Stops that were not sent for lack of a "
                             "connection to CDM.");
    ngx_http_cdm_stop_counter(m, cdm->unreachable);

    ngx_http_cdm_stop_family(m, "cdm_stop_cdm_duration_seconds", "histogram",
                             "Time from the connection to CDM to the end of "
                             "its answer.");
    ngx_http_cdm_stop_histogram(m, &cdm->time, ngx_http_cdm_stop_bounds_ms,
                                1000);

    ngx_http_cdm_stop_family(m, "cdm_stop_cdm_up", "gauge",
                             "Whether CDM answered the last stop; 1 before "
                             "the first one.");
    ngx_http_cdm_stop_gauge(m, cdm->health.failures == 0);
}


static void
ngx_http_cdm_stop_metrics_iam(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh)
{
    ngx_uint_t                      i, j, k;
    static const char              *purposes[] = { "issue", "verify" };
    ngx_http_cdm_stop_iam_stats_t  *iam;

    ngx_http_cdm_stop_family(m, "cdm_stop_iam_requests", "counter",
                             "Exchanges with IAM by what they brought.");

    for (i = 0; ngx_http_cdm_stop_metric_identity(m, sh, i); i++) {

        iam = &sh->identities[i];

        for (j = 0; j < 2; j++) {
            for (k = 0; k < NGX_HTTP_CDM_STOP_IAM_RESULTS; k++) {

                if (k == NGX_HTTP_CDM_STOP_FAIL_PROJECTS) {
                    continue;
                }

                (void) ngx_http_cdm_stop_metric_identity(m, sh, i);
                ngx_http_cdm_stop_word(m, "purpose", purposes[j]);
                ngx_http_cdm_stop_word(m, "result",
                                       ngx_http_cdm_stop_result_name(k));
                ngx_http_cdm_stop_counter(m, iam->results[j][k]);
            }
        }
    }

    ngx_http_cdm_stop_family(m, "cdm_stop_iam_duration_seconds", "histogram",
                             "Time that exchanges with IAM took.");

    for (i = 0; ngx_http_cdm_stop_metric_identity(m, sh, i); i++) {

        iam = &sh->identities[i];

        for (j = 0; j < 2; j++) {
            (void) ngx_http_cdm_stop_metric_identity(m, sh, i);
            ngx_http_cdm_stop_word(m, "purpose", purposes[j]);
            ngx_http_cdm_stop_histogram(m, &iam->time[j],
                                        ngx_http_cdm_stop_bounds_ms, 1000);
        }
    }
}
