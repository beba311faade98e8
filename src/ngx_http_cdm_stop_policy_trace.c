
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


/* each byte of a condition as \uXXXX, and what is around it */
#define NGX_HTTP_CDM_STOP_TRACE_ESCAPE  6
#define NGX_HTTP_CDM_STOP_TRACE_RULE                                          \
    (sizeof(",{\"rule\":\"\",\"effect\":\"allow\",\"failed\":\"\"}")          \
     + NGX_HTTP_CDM_STOP_RULE_LEN)


static ngx_uint_t ngx_http_cdm_stop_trace_end(ngx_http_cdm_stop_policy_t *p,
    ngx_str_t *rule);
static u_char *ngx_http_cdm_stop_trace_rule(u_char *p, u_char *end,
    ngx_http_cdm_stop_rule_t *rule, ngx_http_cdm_stop_condition_t *failed);


/*
 * It looks at the rules one after the other, without the index, and is only
 * evaluated where a log format or the like names it.
 */

ngx_int_t
ngx_http_cdm_stop_variable_trace(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    size_t                          len;
    u_char                         *p, *end;
    ngx_uint_t                      i, j, n;
    ngx_http_cdm_stop_ctx_t        *ctx;
    ngx_http_cdm_stop_rule_t       *rule;
    ngx_http_cdm_stop_policy_t     *policy;
    ngx_http_cdm_stop_condition_t  *failed;

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL || ctx->conf->enforced == NULL
        || ctx->decision == NGX_HTTP_CDM_STOP_DECISION_NONE)
    {
        v->not_found = 1;
        return NGX_OK;
    }

    policy = ctx->conf->enforced->policy;
    n = ngx_http_cdm_stop_trace_end(policy, &ctx->rule);

    len = sizeof("[]");

    for (i = 0; i < n; i++) {
        rule = policy->rules[i];
        len += NGX_HTTP_CDM_STOP_TRACE_RULE;

        for (j = 0; j < rule->nconditions; j++) {
            len += rule->conditions[j].text.len
                   * NGX_HTTP_CDM_STOP_TRACE_ESCAPE;
        }
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->data = p;
    end = p + len;

    *p++ = '[';

    for (i = 0; i < n; i++) {
        rule = policy->rules[i];

        /* a variable may have changed since, the decision has not */

        failed = ngx_http_cdm_stop_rule_fails(r, ctx, rule);

        if (i) {
            *p++ = ',';
        }

        p = ngx_http_cdm_stop_trace_rule(p, end, rule, failed);
        if (p == NULL) {
            return NGX_ERROR;
        }
    }

    *p++ = ']';

    v->len = p - v->data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


/* rules up to the one that decided, all if none did */

static ngx_uint_t
ngx_http_cdm_stop_trace_end(ngx_http_cdm_stop_policy_t *policy,
    ngx_str_t *rule)
{
    ngx_uint_t  i;

    if (rule->len == 0) {
        return policy->nrules;
    }

    for (i = 0; i < policy->nrules; i++) {
        if (policy->rules[i]->name.data == rule->data) {
            return i + 1;
        }
    }

    return policy->nrules;
}


static u_char *
ngx_http_cdm_stop_trace_rule(u_char *p, u_char *end,
    ngx_http_cdm_stop_rule_t *rule, ngx_http_cdm_stop_condition_t *failed)
{
    p = ngx_slprintf(p, end, "{\"rule\":\"%V\",\"effect\":\"%s\"",
                     &rule->name, rule->deny ? "deny" : "allow");

    if (failed) {
        p = ngx_slprintf(p, end, ",\"failed\":\"");

        p = ngx_http_cdm_stop_json_text(p, end, &failed->text,
                                        failed->text.len);
        if (p == NULL) {
            return NULL;
        }

        p = ngx_slprintf(p, end, "\"");
    }

    return ngx_slprintf(p, end, "}");
}
