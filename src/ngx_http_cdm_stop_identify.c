
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


static ngx_int_t ngx_http_cdm_stop_identified(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_take_facts(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_take_roles(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, u_char *p, u_char *last);
static ngx_int_t ngx_http_cdm_stop_name_caller(ngx_http_request_t *r,
    ngx_http_cdm_stop_caller_t *caller);


/*
 * "required" asks for a token and, where "cdm_stop_principal" is set, for a
 * principal as well; "optional" for one of them; "off" for the principal.
 */

ngx_int_t
ngx_http_cdm_stop_credentials(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_uint_t                     token, named;
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    cdcf = ctx->conf;

    if (cdcf->principal
        && ngx_http_complex_value(r, cdcf->principal, &ctx->caller.principal)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->caller.principal.len
        && ngx_http_cdm_stop_handshake(r) != NGX_OK)
    {
        ngx_str_null(&ctx->caller.principal);
    }

    token = (ctx->caller_token.len != 0);
    named = (ctx->caller.principal.len != 0);

    if (cdcf->verify == NGX_HTTP_CDM_STOP_VERIFY_REQUIRED) {

        if (token && (named || cdcf->principal == NULL)) {
            return NGX_OK;
        }

    } else {

        if (named || cdcf->anonymous) {
            return NGX_OK;
        }

        if (cdcf->verify == NGX_HTTP_CDM_STOP_VERIFY_OPTIONAL && token) {
            return NGX_OK;
        }

        /* CDM itself refuses who sends it no token */

        if (cdcf->principal == NULL
            && cdcf->inject == NGX_HTTP_CDM_STOP_INJECT_OFF)
        {
            return NGX_OK;
        }
    }

    return ngx_http_cdm_stop_unidentified(r, ctx,
                                          &ngx_http_cdm_stop_no_credentials);
}


ngx_int_t
ngx_http_cdm_stop_identify(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t                       rc;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (ctx->conf->verify == NGX_HTTP_CDM_STOP_VERIFY_OFF
        || ctx->caller_token.len == 0)
    {
        return NGX_OK;
    }

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    if (!ctx->verifying) {

        if (ctx->regular == NULL
            && ngx_http_cdm_stop_verified_key(cdmcf->zone,
                                              ctx->conf->identity->digest,
                                              &ctx->caller_token, &ctx->key,
                                              ctx->caller_fp)
               != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ctx->verifying = 1;
        ctx->look = ngx_http_cdm_stop_verify_look;
    }

    rc = ngx_http_cdm_stop_wait(r, ctx);

    if (rc == NGX_AGAIN) {
        return NGX_AGAIN;
    }

    /* what is told of waiting from here on is about the gateway's token */

    ctx->verify_late = ctx->late;
    ctx->late = 0;

    if (rc == NGX_OK) {
        return ngx_http_cdm_stop_identified(r, ctx);
    }

    if (rc == NGX_DECLINED) {
        ctx->retry_after = 0;
        return ngx_http_cdm_stop_unidentified(r, ctx,
                                              &ngx_http_cdm_stop_not_valid);
    }

    if (ctx->retry_after == 0) {
        ctx->retry_after = NGX_HTTP_CDM_STOP_BACKOFF_MIN;
    }

    return ngx_http_cdm_stop_unidentified(r, ctx,
                                          &ngx_http_cdm_stop_not_verified);
}


static ngx_int_t
ngx_http_cdm_stop_identified(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t  *project;

    if (ngx_http_cdm_stop_take_facts(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* it is the caller's name unless another mechanism gave one */

    if (ctx->caller.principal.len == 0
        && ngx_http_cdm_stop_name_caller(r, &ctx->caller) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    project = &ctx->caller.project_id;

    if (project->len != ctx->target.project.len
        || ngx_memcmp(project->data, ctx->target.project.data, project->len)
           != 0)
    {
        return ngx_http_cdm_stop_unidentified(r, ctx,
                                            &ngx_http_cdm_stop_other_project);
    }

    ngx_http_cdm_stop_regular_keep(r, ctx);

    return NGX_OK;
}


/* the facts are in a buffer of the worker, which the next request uses */

static ngx_int_t
ngx_http_cdm_stop_take_facts(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char                         *p, *last;
    ngx_http_cdm_stop_caller_t     *caller;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    p = ngx_pnalloc(r->pool, ctx->token_len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, cdmcf->worker->facts, ctx->token_len);

    last = p + ctx->token_len;
    ctx->token_len = 0;

    caller = &ctx->caller;

    if (ngx_http_cdm_stop_facts_next(&p, last, &caller->user_id) != NGX_OK
        || ngx_http_cdm_stop_facts_next(&p, last, &caller->user) != NGX_OK
        || ngx_http_cdm_stop_facts_next(&p, last, &caller->domain_id) != NGX_OK
        || ngx_http_cdm_stop_facts_next(&p, last, &caller->domain) != NGX_OK
        || ngx_http_cdm_stop_facts_next(&p, last, &caller->project_id)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    caller->verified = 1;

    return ngx_http_cdm_stop_take_roles(r, ctx, p, last);
}


static ngx_int_t
ngx_http_cdm_stop_take_roles(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, u_char *p, u_char *last)
{
    ngx_str_t                   *role, name;
    ngx_http_cdm_stop_caller_t  *caller;

    caller = &ctx->caller;

    caller->roles = ngx_array_create(r->pool, 8, sizeof(ngx_str_t));
    if (caller->roles == NULL) {
        return NGX_ERROR;
    }

    while (ngx_http_cdm_stop_facts_next(&p, last, &name) == NGX_OK) {

        role = ngx_array_push(caller->roles);
        if (role == NULL) {
            return NGX_ERROR;
        }

        *role = name;
    }

    return NGX_OK;
}


/*
 * user@domain.  A "@" in the domain is written as %40, and "%" as %25, so that
 * user "a@b" of domain "c" and user "a" of domain "b@c" have different names.
 */

static ngx_int_t
ngx_http_cdm_stop_name_caller(ngx_http_request_t *r,
    ngx_http_cdm_stop_caller_t *caller)
{
    u_char     *p;
    size_t      i;
    ngx_str_t  *domain;

    domain = &caller->domain;

    p = ngx_pnalloc(r->pool, caller->user.len + 1 + 3 * domain->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    caller->principal.data = p;

    p = ngx_cpymem(p, caller->user.data, caller->user.len);
    *p++ = '@';

    for (i = 0; i < domain->len; i++) {

        switch (domain->data[i]) {

        case '@':
            p = ngx_cpymem(p, "%40", 3);
            break;

        case '%':
            p = ngx_cpymem(p, "%25", 3);
            break;

        default:
            *p++ = domain->data[i];
        }
    }

    caller->principal.len = p - caller->principal.data;

    return NGX_OK;
}


void
ngx_http_cdm_stop_forget_caller(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (!ctx->caller.verified) {
        return;
    }

    /* the key is the verification's, since no other token was looked for */

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    ngx_http_cdm_stop_verified_forget(cdmcf->zone, &ctx->key);
}
