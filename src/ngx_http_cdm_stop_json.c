
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_status.h"


static void ngx_http_cdm_stop_json_identities(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_json_identity(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_identity_view_t *iv);
static void ngx_http_cdm_stop_json_state(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_identity_view_t *iv);
static void ngx_http_cdm_stop_json_exchanges(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_iam_stats_t *iam);
static void ngx_http_cdm_stop_json_tokens(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);
static void ngx_http_cdm_stop_json_token(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view, ngx_http_cdm_stop_token_view_t *token);
static const char *ngx_http_cdm_stop_json_cause(
    ngx_http_cdm_stop_identity_t *identity, ngx_uint_t fail);
static void ngx_http_cdm_stop_json_word(ngx_http_cdm_stop_out_t *out,
    const char *key, const char *word);
static void ngx_http_cdm_stop_json_cdm(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_cdm_stats_t *cdm);
static void ngx_http_cdm_stop_json_totals(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_stats_sh_t *sh);


void
ngx_http_cdm_stop_json(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_http_cdm_stop_out_open(out, NULL, '{');

    ngx_http_cdm_stop_out_count(out, "format", 1);
    ngx_http_cdm_stop_out_time(out, "time", view->time);
    ngx_http_cdm_stop_out_time(out, "started", view->sh->started);

    ngx_http_cdm_stop_out_open(out, "build", '{');
    ngx_http_cdm_stop_out_word(out, "module", NGX_HTTP_CDM_STOP_VERSION);
    ngx_http_cdm_stop_out_word(out, "nginx", NGINX_VERSION);
    ngx_http_cdm_stop_out_close(out, '}');

    ngx_http_cdm_stop_out_count(out, "workers", view->workers);

    ngx_http_cdm_stop_out_open(out, "ready", '{');
    ngx_http_cdm_stop_out_flag(out, "ok", view->reasons.nelts == 0);
    ngx_http_cdm_stop_json_reasons(out, view);
    ngx_http_cdm_stop_out_close(out, '}');

    ngx_http_cdm_stop_out_open(out, "waiting", '{');
    ngx_http_cdm_stop_out_count(out, "requests", view->waiting);
    ngx_http_cdm_stop_out_count(out, "max",
                            view->workers * NGX_HTTP_CDM_STOP_WAITING_MAX);
    ngx_http_cdm_stop_out_close(out, '}');

    ngx_http_cdm_stop_json_identities(out, view);
    ngx_http_cdm_stop_json_tokens(out, view);
    ngx_http_cdm_stop_json_cdm(out, &view->sh->cdm);
    ngx_http_cdm_stop_json_totals(out, view->sh);
    ngx_http_cdm_stop_json_lists(out, view);

    ngx_http_cdm_stop_out_close(out, '}');
    ngx_http_cdm_stop_out(out, "\n");
}


void
ngx_http_cdm_stop_json_reasons(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                    i;
    ngx_http_cdm_stop_unready_t  *reason;

    reason = view->reasons.elts;

    ngx_http_cdm_stop_out_open(out, "reasons", '[');

    for (i = 0; i < view->reasons.nelts; i++) {

        ngx_http_cdm_stop_out_open(out, NULL, '{');
        ngx_http_cdm_stop_out_word(out, "code", reason[i].code);

        if (reason[i].identity) {
            ngx_http_cdm_stop_out_text(out, "identity",
                                       reason[i].identity->data,
                                       reason[i].identity->len);

        } else {
            ngx_http_cdm_stop_out_null(out, "identity");
        }

        if (reason[i].target) {
            ngx_http_cdm_stop_out_text(out, "target", reason[i].target->data,
                                       reason[i].target->len);

        } else {
            ngx_http_cdm_stop_out_null(out, "target");
        }

        ngx_http_cdm_stop_out_time(out, "retry", reason[i].retry);
        ngx_http_cdm_stop_out_close(out, '}');
    }

    ngx_http_cdm_stop_out_close(out, ']');
}


static void
ngx_http_cdm_stop_json_identities(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                          i;
    ngx_http_cdm_stop_identity_view_t  *iv;

    iv = view->identities.elts;

    ngx_http_cdm_stop_out_open(out, "identities", '[');

    for (i = 0; i < view->identities.nelts; i++) {
        ngx_http_cdm_stop_out_open(out, NULL, '{');
        ngx_http_cdm_stop_json_identity(out, &iv[i]);
        ngx_http_cdm_stop_out_close(out, '}');
    }

    ngx_http_cdm_stop_out_close(out, ']');
}


static void
ngx_http_cdm_stop_json_identity(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_identity_view_t *iv)
{
    ngx_uint_t                     other;
    static const char             *methods[] = {
        "password", "ak_sk", "agency", "file"
    };
    ngx_http_cdm_stop_identity_t  *identity;

    identity = iv->identity;

    ngx_http_cdm_stop_out_text(out, "name", identity->name.data,
                               identity->name.len);
    ngx_http_cdm_stop_out_word(out, "method",
                               methods[identity->credentials.method]);
    ngx_http_cdm_stop_out_text(out, "iam", identity->uri.data,
                               identity->uri.len);
    ngx_http_cdm_stop_out_word(out, "scope",
                               identity->credentials.domain_scope ? "domain"
                                                                  : "project");
    ngx_http_cdm_stop_out_flag(out, "any_project", identity->any_project);
    ngx_http_cdm_stop_out_flag(out, "used", identity->used);
    ngx_http_cdm_stop_out_flag(out, "ready", iv->ready);

    ngx_http_cdm_stop_json_state(out, iv);

    other = iv->entries - iv->good - iv->failing;

    if (identity->projects && identity->projects->nelts > iv->entries) {
        other += identity->projects->nelts - iv->entries;
    }

    ngx_http_cdm_stop_out_open(out, "projects", '{');
    ngx_http_cdm_stop_out_count(out, "good", iv->good);
    ngx_http_cdm_stop_out_count(out, "failing", iv->failing);
    ngx_http_cdm_stop_out_count(out, "other", other);
    ngx_http_cdm_stop_out_close(out, '}');

    ngx_http_cdm_stop_json_exchanges(out, identity->stats);

    ngx_http_cdm_stop_out_open(out, "verifying", '{');
    ngx_http_cdm_stop_out_count(out, "in_flight", iv->verifying);
    ngx_http_cdm_stop_out_count(out, "max", NGX_HTTP_CDM_STOP_VERIFY_SLOTS);
    ngx_http_cdm_stop_out_time(out, "retry",
                               iv->verify_retry ? iv->verify_retry : -1);
    ngx_http_cdm_stop_out_close(out, '}');
}


static void
ngx_http_cdm_stop_json_state(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_identity_view_t *iv)
{
    int64_t                      retry;
    const char                  *state;
    ngx_http_cdm_stop_health_t  *health;

    health = &iv->identity->stats->health;

    if (iv->rest) {
        state = "refused";

    } else if (health->failures || (iv->failing && !iv->good)) {
        state = "failing";

    } else {
        state = health->success ? "ok" : "idle";
    }

    retry = ngx_max(iv->next, iv->rest);

    ngx_http_cdm_stop_out_word(out, "state", state);
    ngx_http_cdm_stop_json_word(out, "cause",
                                health->failures
                                ? ngx_http_cdm_stop_json_cause(iv->identity,
                                                               health->cause)
                                : NULL);
    ngx_http_cdm_stop_out_time(out, "retry", retry > 0 ? retry : -1);
    ngx_http_cdm_stop_out_time(out, "last_success",
                               health->success ? health->success : -1);
    ngx_http_cdm_stop_out_time(out, "last_failure",
                               health->failure ? health->failure : -1);
    ngx_http_cdm_stop_out_count(out, "failures_in_row", health->failures);
}


static void
ngx_http_cdm_stop_json_exchanges(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_iam_stats_t *iam)
{
    ngx_uint_t          i, j;
    static const char  *purposes[] = { "issue", "verify" };

    ngx_http_cdm_stop_out_open(out, "requests", '{');

    for (i = 0; i < 2; i++) {

        ngx_http_cdm_stop_out_open(out, purposes[i], '{');

        for (j = 0; j < NGX_HTTP_CDM_STOP_IAM_RESULTS; j++) {

            if (j != NGX_HTTP_CDM_STOP_FAIL_PROJECTS) {
                ngx_http_cdm_stop_out_count(out,
                                            ngx_http_cdm_stop_result_name(j),
                                            iam->results[i][j]);
            }
        }

        ngx_http_cdm_stop_out_close(out, '}');
    }

    ngx_http_cdm_stop_out_close(out, '}');

    ngx_http_cdm_stop_out_open(out, "latency", '{');

    for (i = 0; i < 2; i++) {
        ngx_http_cdm_stop_out_histogram(out, purposes[i], &iam->time[i],
                                        ngx_http_cdm_stop_bounds_ms, 1000);
    }

    ngx_http_cdm_stop_out_close(out, '}');
}


static void
ngx_http_cdm_stop_json_tokens(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_token_view_t  *token;

    token = view->tokens.elts;

    ngx_http_cdm_stop_out_open(out, "tokens", '[');

    for (i = 0; i < view->tokens.nelts; i++) {
        ngx_http_cdm_stop_out_open(out, NULL, '{');
        ngx_http_cdm_stop_json_token(out, view, &token[i]);
        ngx_http_cdm_stop_out_close(out, '}');
    }

    ngx_http_cdm_stop_out_close(out, ']');
    ngx_http_cdm_stop_out_count(out, "tokens_more", view->more);
}


static void
ngx_http_cdm_stop_json_token(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view, ngx_http_cdm_stop_token_view_t *token)
{
    int64_t                        now, left;
    const char                    *state;
    ngx_http_cdm_stop_identity_t  *identity;

    now = view->now;
    identity = token->identity;

    if (token->good) {
        state = token->failures ? "stale" : "good";

    } else {
        state = token->failures ? "failing" : "none";
    }

    ngx_http_cdm_stop_out_text(out, "identity", identity->name.data,
                               identity->name.len);

    if (identity->credentials.domain_scope) {
        ngx_http_cdm_stop_out_null(out, "project");

    } else {
        ngx_http_cdm_stop_out_text(out, "project", token->project,
                                   sizeof(token->project));
    }

    ngx_http_cdm_stop_out_word(out, "state", state);

    if (token->generation) {
        ngx_http_cdm_stop_out_count(out, "generation", token->generation);

    } else {
        ngx_http_cdm_stop_out_null(out, "generation");
    }

    left = token->issued + token->life - now;

    ngx_http_cdm_stop_out_time(out, "issued",
                               token->has ? view->time - now + token->issued
                                          : -1);
    ngx_http_cdm_stop_out_time(out, "age",
                               token->has ? now - token->issued : -1);
    ngx_http_cdm_stop_out_time(out, "life", token->has ? token->life : -1);
    ngx_http_cdm_stop_out_time(out, "left",
                               token->has ? ngx_max(left, 0) : -1);
    ngx_http_cdm_stop_out_time(out, "usable",
                               token->has ? ngx_max(token->end - now, 0)
                                          : -1);
    ngx_http_cdm_stop_out_time(out, "renew_in",
                               token->has ? ngx_max(token->renew - now, 0)
                                          : -1);

    ngx_http_cdm_stop_out_count(out, "renewals",
                                token->issues ? token->issues - 1 : 0);
    ngx_http_cdm_stop_out_flag(out, "renewing", token->leased);
    ngx_http_cdm_stop_out_flag(out, "used", token->used);
    ngx_http_cdm_stop_out_count(out, "failures", token->failures);
    ngx_http_cdm_stop_json_word(out, "cause",
                                token->failures
                                ? ngx_http_cdm_stop_json_cause(identity,
                                                               token->fail)
                                : NULL);
    ngx_http_cdm_stop_out_time(out, "retry",
                               token->retry ? token->retry : -1);
}


/* a token file that cannot be read is not IAM's fault */

static const char *
ngx_http_cdm_stop_json_cause(ngx_http_cdm_stop_identity_t *identity,
    ngx_uint_t fail)
{
    if (identity->credentials.method == NGX_HTTP_CDM_STOP_FILE
        && fail == NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE
        && identity->stats->health.cause == NGX_HTTP_CDM_STOP_IAM_LOCAL)
    {
        return "local";
    }

    return ngx_http_cdm_stop_result_name(fail);
}


static void
ngx_http_cdm_stop_json_word(ngx_http_cdm_stop_out_t *out, const char *key,
    const char *word)
{
    if (word) {
        ngx_http_cdm_stop_out_word(out, key, word);

    } else {
        ngx_http_cdm_stop_out_null(out, key);
    }
}


static void
ngx_http_cdm_stop_json_cdm(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_cdm_stats_t *cdm)
{
    ngx_uint_t                   i, n;
    const char                  *state;
    ngx_http_cdm_stop_health_t  *health;

    health = &cdm->health;
    n = 0;

    for (i = 0; i < NGX_HTTP_CDM_STOP_CDM_CLASSES; i++) {
        n += cdm->responses[i];
    }

    state = health->failures ? "failing" : (health->success ? "ok" : "idle");

    ngx_http_cdm_stop_out_open(out, "cdm", '{');
    ngx_http_cdm_stop_out_word(out, "state", state);
    ngx_http_cdm_stop_out_time(out, "last_answer",
                               health->success ? health->success : -1);
    ngx_http_cdm_stop_out_time(out, "last_failure",
                               health->failure ? health->failure : -1);
    ngx_http_cdm_stop_out_count(out, "failures_in_row", health->failures);
    ngx_http_cdm_stop_out_count(out, "requests", n);
    ngx_http_cdm_stop_out_count(out, "repeats", cdm->repeats);
    ngx_http_cdm_stop_out_count(out, "unreachable", cdm->unreachable);

    ngx_http_cdm_stop_out_open(out, "responses", '{');

    for (i = 0; i < NGX_HTTP_CDM_STOP_CDM_CLASSES; i++) {
        ngx_http_cdm_stop_out_count(out, ngx_http_cdm_stop_class_name(i),
                                    cdm->responses[i]);
    }

    ngx_http_cdm_stop_out_close(out, '}');
    ngx_http_cdm_stop_out_histogram(out, "latency", &cdm->time,
                                    ngx_http_cdm_stop_bounds_ms, 1000);
    ngx_http_cdm_stop_out_close(out, '}');
}


static void
ngx_http_cdm_stop_json_totals(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_stats_sh_t *sh)
{
    ngx_str_t                    *name;
    ngx_uint_t                    i, n;
    const char                   *code;
    ngx_http_cdm_stop_totals_t    totals;

    ngx_http_cdm_stop_stats_totals(sh, &totals);

    n = ngx_http_cdm_stop_stats_stops(&totals);

    ngx_http_cdm_stop_out_open(out, "totals", '{');
    ngx_http_cdm_stop_out_count(out, "stops", n);

    ngx_http_cdm_stop_out_open(out, "decisions", '{');
    ngx_http_cdm_stop_out_count(out, "allow", totals.allow);
    ngx_http_cdm_stop_out_count(out, "deny", totals.deny);
    n -= ngx_min(n, totals.allow + totals.deny);
    ngx_http_cdm_stop_out_count(out, "none", n);
    ngx_http_cdm_stop_out_close(out, '}');

    ngx_http_cdm_stop_out_open(out, "verdicts", '{');

    for (i = 0; i < NGX_HTTP_CDM_STOP_VERDICTS; i++) {
        name = ngx_http_cdm_stop_verdict_name(i);
        ngx_http_cdm_stop_out_count(out, (char *) name->data,
                                    totals.verdicts[i]);
    }

    ngx_http_cdm_stop_out_close(out, '}');
    ngx_http_cdm_stop_out_open(out, "errors", '{');

    for (i = 0; (code = ngx_http_cdm_stop_code(i)) != NULL; i++) {

        n = sh->errors[code[9] - '0'][code[11] - '0'];

        if (n) {
            ngx_http_cdm_stop_out_count(out, code, n);
        }
    }

    if (sh->others) {
        ngx_http_cdm_stop_out_count(out, "other", sh->others);
    }

    ngx_http_cdm_stop_out_close(out, '}');
    ngx_http_cdm_stop_out_open(out, "tokens", '{');

    for (i = 0; i < NGX_HTTP_CDM_STOP_TOKEN_STATES; i++) {
        ngx_http_cdm_stop_out_count(out, ngx_http_cdm_stop_token_label(i),
                                    sh->tokens[i]);
    }

    ngx_http_cdm_stop_out_close(out, '}');
    ngx_http_cdm_stop_out_open(out, "callers", '{');

    for (i = 0; i < NGX_HTTP_CDM_STOP_CALLER_STATES; i++) {
        ngx_http_cdm_stop_out_count(out, ngx_http_cdm_stop_caller_label(i),
                                    sh->callers[i]);
    }

    ngx_http_cdm_stop_out_close(out, '}');
    ngx_http_cdm_stop_out_close(out, '}');
}
