
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


static ngx_uint_t ngx_http_cdm_stop_condition_holds(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_condition_t *condition,
    ngx_uint_t deny);
static ngx_int_t ngx_http_cdm_stop_test_roles(ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_condition_t *condition);
static ngx_int_t ngx_http_cdm_stop_test_addr(ngx_http_request_t *r,
    ngx_http_cdm_stop_condition_t *condition);
static ngx_int_t ngx_http_cdm_stop_test_variable(ngx_http_request_t *r,
    ngx_http_cdm_stop_condition_t *condition);
static ngx_int_t ngx_http_cdm_stop_test_value(
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t *value);


ngx_http_cdm_stop_condition_t *
ngx_http_cdm_stop_rule_fails(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_rule_t *rule)
{
    ngx_uint_t  i;

    for (i = 0; i < rule->nconditions; i++) {

        if (!ngx_http_cdm_stop_condition_holds(r, ctx, &rule->conditions[i],
                                               rule->deny))
        {
            return &rule->conditions[i];
        }
    }

    return NULL;
}


ngx_str_t *
ngx_http_cdm_stop_fact(ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_fact_e fact)
{
    switch (fact) {

    case NGX_HTTP_CDM_STOP_FACT_PRINCIPAL:
        return &ctx->caller.principal;

    case NGX_HTTP_CDM_STOP_FACT_USER:
        return &ctx->caller.user;

    case NGX_HTTP_CDM_STOP_FACT_PROJECT:
        return &ctx->target.project;

    case NGX_HTTP_CDM_STOP_FACT_CLUSTER:
        return &ctx->target.cluster;

    case NGX_HTTP_CDM_STOP_FACT_JOB:
        return &ctx->target.job;

    default: /* NGX_HTTP_CDM_STOP_FACT_DOMAIN */
        return &ctx->caller.domain;
    }
}


/*
 * The tests say NGX_OK, NGX_DECLINED, NGX_DONE if the request lacks the fact,
 * or NGX_ERROR if it cannot be told: then a deny rule goes on, and an allow
 * rule does not.
 */

static ngx_uint_t
ngx_http_cdm_stop_condition_holds(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_condition_t *condition,
    ngx_uint_t deny)
{
    ngx_int_t  rc;

    switch (condition->fact) {

    case NGX_HTTP_CDM_STOP_FACT_ROLE:
        rc = ngx_http_cdm_stop_test_roles(ctx, condition);
        break;

    case NGX_HTTP_CDM_STOP_FACT_ADDR:
        rc = ngx_http_cdm_stop_test_addr(r, condition);
        break;

    case NGX_HTTP_CDM_STOP_FACT_IF:
        rc = ngx_http_cdm_stop_test_variable(r, condition);
        break;

    default:
        rc = ngx_http_cdm_stop_test_value(condition,
                              ngx_http_cdm_stop_fact(ctx, condition->fact));
    }

    switch (rc) {

    case NGX_OK:
        return !condition->negated;

    case NGX_DECLINED:
        return condition->negated;

    case NGX_DONE:
        return condition->negated && deny;

    default: /* NGX_ERROR */
        return deny;
    }
}


static ngx_int_t
ngx_http_cdm_stop_test_roles(ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_condition_t *condition)
{
    ngx_int_t   rc, result;
    ngx_str_t  *role;
    ngx_uint_t  i;

    if (ctx->caller.roles == NULL || ctx->caller.roles->nelts == 0) {
        return NGX_DONE;
    }

    result = NGX_DECLINED;
    role = ctx->caller.roles->elts;

    for (i = 0; i < ctx->caller.roles->nelts; i++) {

        rc = ngx_http_cdm_stop_test_value(condition, &role[i]);

        if (rc == NGX_OK) {
            return NGX_OK;
        }

        if (rc == NGX_ERROR) {
            result = NGX_ERROR;
        }
    }

    return result;
}


/* the address of the connection: a header of the caller's has no say here */

static ngx_int_t
ngx_http_cdm_stop_test_addr(ngx_http_request_t *r,
    ngx_http_cdm_stop_condition_t *condition)
{
    struct sockaddr  *sa;

    sa = r->connection->sockaddr;

    if (sa->sa_family != AF_INET
#if (NGX_HAVE_INET6)
        && sa->sa_family != AF_INET6
#endif
       )
    {
        return NGX_DONE;
    }

    return ngx_cidr_match(sa, condition->cidrs);
}


static ngx_int_t
ngx_http_cdm_stop_test_variable(ngx_http_request_t *r,
    ngx_http_cdm_stop_condition_t *condition)
{
    ngx_http_variable_value_t  *v;

    v = ngx_http_get_indexed_variable(r, condition->variable);

    if (v == NULL) {
        return NGX_ERROR;
    }

    if (v->not_found) {
        return NGX_DONE;
    }

    if (v->len == 0 || (v->len == 1 && v->data[0] == '0')) {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_test_value(ngx_http_cdm_stop_condition_t *condition,
    ngx_str_t *value)
{
    ngx_str_t   *exact;
    ngx_uint_t   i;

    if (value->len == 0) {
        return NGX_DONE;
    }

    if (condition->regex) {
        return ngx_http_cdm_stop_pattern_match(condition->regex, value);
    }

    exact = condition->values;

    for (i = 0; i < condition->nvalues; i++) {

        if (exact[i].len == value->len
            && ngx_memcmp(exact[i].data, value->data, value->len) == 0)
        {
            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}
