
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


static ngx_int_t ngx_http_cdm_stop_apply_policy(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_denied(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, const ngx_http_cdm_stop_error_t *error);
static ngx_int_t ngx_http_cdm_stop_waive(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, const ngx_http_cdm_stop_error_t *error);
static const ngx_http_cdm_stop_error_t *ngx_http_cdm_stop_by_rule(
    ngx_http_request_t *r, ngx_str_t *rule);


/*
 * Policy, reason, rate: what is refused by one is not looked at by the next,
 * and no stop is counted that would not be sent.  A dry run decides likewise.
 */

ngx_int_t
ngx_http_cdm_stop_enforce(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t                      rc, reason;
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    cdcf = ctx->conf;

    if (ctx->waived
        || (cdcf->enforced == NULL && cdcf->reason == NULL
            && cdcf->rate == NULL))
    {
        return NGX_OK;
    }

    ctx->decision = NGX_HTTP_CDM_STOP_DECISION_ALLOW;

    /* what the policy denies is recorded with its reason as well */

    reason = cdcf->reason ? ngx_http_cdm_stop_take_reason(r, ctx) : NGX_OK;

    if (cdcf->enforced) {

        rc = ngx_http_cdm_stop_apply_policy(r, ctx);

        if (rc != NGX_OK || ctx->waived) {
            return rc;
        }
    }

    if (reason != NGX_OK) {
        return ngx_http_cdm_stop_denied(r, ctx, &ngx_http_cdm_stop_no_reason);
    }

    if (cdcf->rate == NULL) {
        return NGX_OK;
    }

    rc = ngx_http_cdm_stop_take_rate(r, ctx);

    if (rc == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_cdm_stop_denied(r, ctx, &ngx_http_cdm_stop_too_many);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_unidentified(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, const ngx_http_cdm_stop_error_t *error)
{
    if (ctx->conf->reason) {
        (void) ngx_http_cdm_stop_take_reason(r, ctx);
    }

    if (ngx_http_cdm_stop_injects(ctx)) {
        return ngx_http_cdm_stop_refuse(r, ctx, error);
    }

    /* the caller has no more power than its own token gives it at CDM */

    return ngx_http_cdm_stop_waive(r, ctx, error);
}


static ngx_int_t
ngx_http_cdm_stop_apply_policy(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_rule_t         *rule;
    const ngx_http_cdm_stop_error_t  *error;

    rule = ngx_http_cdm_stop_policy_find(r, ctx, ctx->conf->enforced->policy);

    if (rule) {
        ctx->rule = rule->name;

        if (!rule->deny) {
            return NGX_OK;
        }

        error = ngx_http_cdm_stop_by_rule(r, &rule->name);
        if (error == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

    } else {
        error = &ngx_http_cdm_stop_by_default;
    }

    return ngx_http_cdm_stop_denied(r, ctx, error);
}


static ngx_int_t
ngx_http_cdm_stop_denied(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    const ngx_http_cdm_stop_error_t *error)
{
    ctx->decision = NGX_HTTP_CDM_STOP_DECISION_DENY;

    return ngx_http_cdm_stop_waive(r, ctx, error);
}


/* refuses a stop, or notes in a dry run what would have been answered */

static ngx_int_t
ngx_http_cdm_stop_waive(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    const ngx_http_cdm_stop_error_t *error)
{
    if (!ctx->conf->dry_run) {
        return ngx_http_cdm_stop_refuse(r, ctx, error);
    }

    ctx->decision = NGX_HTTP_CDM_STOP_DECISION_DENY;
    ctx->retry_after = 0;

    /* the first one is what would have been answered */

    if (ctx->waived == NULL) {
        ctx->waived = error;
    }

    return NGX_OK;
}


static const ngx_http_cdm_stop_error_t *
ngx_http_cdm_stop_by_rule(ngx_http_request_t *r, ngx_str_t *rule)
{
    u_char                     *p;
    size_t                      len;
    ngx_http_cdm_stop_error_t  *error;

    error = ngx_palloc(r->pool, sizeof(ngx_http_cdm_stop_error_t));
    if (error == NULL) {
        return NULL;
    }

    /* a name of a rule has no character that JSON would escape */

    *error = ngx_http_cdm_stop_by_default;

    len = sizeof("Rule  of the gateway's policy denies this stop. Ask its "
                 "operator who may send it.")
          - 1 + rule->len;

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NULL;
    }

    error->message.data = p;
    error->message.len = ngx_sprintf(p, "Rule %V of the gateway's policy "
                                     "denies this stop. Ask its operator who "
                                     "may send it.", rule)
                         - p;

    return error;
}
