
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"
#include "ngx_http_cdm_stop_stats.h"


static ngx_int_t ngx_http_cdm_stop_variable_stop(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_part(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_http_cdm_stop_target_t *ngx_http_cdm_stop_variable_target(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_variable_text(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_id(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_code(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_verdict(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_token(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_decision(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_verify(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_attempts(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_wait(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_cdm_stop_variable_set(ngx_http_variable_value_t *v,
    ngx_str_t *value);


static ngx_http_variable_t  ngx_http_cdm_stop_vars[] = {

    { ngx_string("cdm_stop"), NULL, ngx_http_cdm_stop_variable_stop,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_project_id"), NULL,
      ngx_http_cdm_stop_variable_part,
      offsetof(ngx_http_cdm_stop_target_t, project),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_cluster_id"), NULL,
      ngx_http_cdm_stop_variable_part,
      offsetof(ngx_http_cdm_stop_target_t, cluster),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_job_name"), NULL, ngx_http_cdm_stop_variable_part,
      offsetof(ngx_http_cdm_stop_target_t, job),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_principal"), NULL, ngx_http_cdm_stop_variable_text,
      offsetof(ngx_http_cdm_stop_ctx_t, caller.principal),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_user"), NULL, ngx_http_cdm_stop_variable_text,
      offsetof(ngx_http_cdm_stop_ctx_t, caller.user),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_domain"), NULL, ngx_http_cdm_stop_variable_text,
      offsetof(ngx_http_cdm_stop_ctx_t, caller.domain),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_decision"), NULL,
      ngx_http_cdm_stop_variable_decision, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_rule"), NULL, ngx_http_cdm_stop_variable_text,
      offsetof(ngx_http_cdm_stop_ctx_t, rule), NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_policy_trace"), NULL,
      ngx_http_cdm_stop_variable_trace, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_verify_status"), NULL,
      ngx_http_cdm_stop_variable_verify, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_request_id"), NULL, ngx_http_cdm_stop_variable_id,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_error_code"), NULL, ngx_http_cdm_stop_variable_code,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_verdict"), NULL, ngx_http_cdm_stop_variable_verdict,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_token_status"), NULL,
      ngx_http_cdm_stop_variable_token, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_attempts"), NULL,
      ngx_http_cdm_stop_variable_attempts, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("cdm_stop_wait_time"), NULL, ngx_http_cdm_stop_variable_wait,
      0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


ngx_int_t
ngx_http_cdm_stop_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_cdm_stop_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_variable_stop(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    *v = ngx_http_cdm_stop_variable_target(r->main)
         ? ngx_http_variable_true_value : ngx_http_variable_null_value;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_variable_part(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_cdm_stop_target_t  *target;

    target = ngx_http_cdm_stop_variable_target(r->main);

    if (target == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_cdm_stop_variable_set(v,
                                   (ngx_str_t *) ((u_char *) target + data));
}


/*
 * The parts of the target are there before our handler is, for what limits or
 * logs requests in an earlier phase.
 */

static ngx_http_cdm_stop_target_t *
ngx_http_cdm_stop_variable_target(ngx_http_request_t *r)
{
    ngx_http_cdm_stop_ctx_t       *ctx;
    ngx_http_cdm_stop_target_t    *target;
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    ctx = ngx_http_cdm_stop_get_ctx(r);

    if (ctx) {
        return ctx->target.job.len ? &ctx->target : NULL;
    }

    cdcf = ngx_http_get_module_loc_conf(r, ngx_http_cdm_stop_module);

    if (cdcf->identity == NULL || r->unparsed_uri.len == 0) {
        return NULL;
    }

    target = ngx_palloc(r->pool, sizeof(ngx_http_cdm_stop_target_t));

    if (target == NULL
        || ngx_http_cdm_stop_recognise(r, target) != NGX_OK)
    {
        return NULL;
    }

    return target;
}


static ngx_int_t
ngx_http_cdm_stop_variable_text(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_cdm_stop_variable_set(v,
                                      (ngx_str_t *) ((u_char *) ctx + data));
}


static ngx_int_t
ngx_http_cdm_stop_variable_decision(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_cdm_stop_ctx_t  *ctx;
    static ngx_str_t          allow = ngx_string("allow");
    static ngx_str_t          deny = ngx_string("deny");

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL || ctx->decision == NGX_HTTP_CDM_STOP_DECISION_NONE) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_cdm_stop_variable_set(v,
               (ctx->decision == NGX_HTTP_CDM_STOP_DECISION_ALLOW) ? &allow
                                                                   : &deny);
}


static ngx_int_t
ngx_http_cdm_stop_variable_id(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                 id;
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    id.len = sizeof(ctx->id);
    id.data = ctx->id;

    return ngx_http_cdm_stop_variable_set(v, &id);
}


static ngx_int_t
ngx_http_cdm_stop_variable_code(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL || ctx->error == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_cdm_stop_variable_set(v, (ngx_str_t *) &ctx->error->code);
}


static ngx_int_t
ngx_http_cdm_stop_variable_verdict(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL || (!ctx->outcome && !ctx->refused)) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_cdm_stop_variable_set(v,
                       ngx_http_cdm_stop_verdict_name(ctx->verdict.verdict));
}


static ngx_int_t
ngx_http_cdm_stop_variable_token(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL || ctx->target.job.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_cdm_stop_variable_set(v,
             ngx_http_cdm_stop_token_name(ngx_http_cdm_stop_token_state(ctx)));
}


static ngx_int_t
ngx_http_cdm_stop_variable_verify(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL || ctx->target.job.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    return ngx_http_cdm_stop_variable_set(v,
           ngx_http_cdm_stop_caller_name(ngx_http_cdm_stop_caller_state(ctx)));
}


ngx_http_cdm_stop_token_e
ngx_http_cdm_stop_token_state(ngx_http_cdm_stop_ctx_t *ctx)
{
    if (!ctx->injected || ctx->token_len == 0) {
        return NGX_HTTP_CDM_STOP_TOKEN_NONE;
    }

    if (ctx->repeated) {
        return NGX_HTTP_CDM_STOP_TOKEN_RENEWED;
    }

    if (ctx->stale) {
        return NGX_HTTP_CDM_STOP_TOKEN_STALE;
    }

    return ctx->late ? NGX_HTTP_CDM_STOP_TOKEN_WAIT
                     : NGX_HTTP_CDM_STOP_TOKEN_HIT;
}


ngx_http_cdm_stop_caller_e
ngx_http_cdm_stop_caller_state(ngx_http_cdm_stop_ctx_t *ctx)
{
    if (ctx->caller.verified) {
        return ctx->verify_late ? NGX_HTTP_CDM_STOP_CALLER_WAIT
                                : NGX_HTTP_CDM_STOP_CALLER_HIT;
    }

    if (ctx->error == &ngx_http_cdm_stop_not_valid
        || ctx->waived == &ngx_http_cdm_stop_not_valid)
    {
        return NGX_HTTP_CDM_STOP_CALLER_REFUSED;
    }

    return ctx->verifying ? NGX_HTTP_CDM_STOP_CALLER_FAILED
                          : NGX_HTTP_CDM_STOP_CALLER_NONE;
}


ngx_str_t *
ngx_http_cdm_stop_token_name(ngx_http_cdm_stop_token_e state)
{
    static ngx_str_t  names[] = {
        ngx_string("NONE"),
        ngx_string("HIT"),
        ngx_string("WAIT"),
        ngx_string("STALE"),
        ngx_string("RENEWED")
    };

    return &names[state];
}


ngx_str_t *
ngx_http_cdm_stop_caller_name(ngx_http_cdm_stop_caller_e state)
{
    static ngx_str_t  names[] = {
        ngx_string("NONE"),
        ngx_string("HIT"),
        ngx_string("WAIT"),
        ngx_string("REFUSED"),
        ngx_string("FAILED")
    };

    return &names[state];
}


static ngx_int_t
ngx_http_cdm_stop_variable_attempts(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                 value;
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL || ctx->target.job.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    value.data = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    value.len = ngx_sprintf(value.data, "%ui", ctx->attempts) - value.data;

    return ngx_http_cdm_stop_variable_set(v, &value);
}


static ngx_int_t
ngx_http_cdm_stop_variable_wait(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                 value;
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_cdm_stop_get_ctx(r->main);

    if (ctx == NULL || ctx->target.job.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    value.data = ngx_pnalloc(r->pool, NGX_INT64_LEN + 4);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    value.len = ngx_sprintf(value.data, "%L.%03L", ctx->wait_time / 1000,
                            ctx->wait_time % 1000)
                - value.data;

    return ngx_http_cdm_stop_variable_set(v, &value);
}


static ngx_int_t
ngx_http_cdm_stop_variable_set(ngx_http_variable_value_t *v, ngx_str_t *value)
{
    if (value->len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = value->len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = value->data;

    return NGX_OK;
}
