
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


/*
 * A rule that asks for an exact value of a fact cannot hold for a request
 * with another one.  So it is found by that value alone, by the one that
 * fewest rules name if it asks for several facts; what has no such condition
 * is looked at for each request.  The lists are ascending, and the lowest
 * rule of all goes first: the same order as without an index.
 */


static ngx_int_t ngx_http_cdm_stop_index_count(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_rule_t *rule);
static ngx_int_t ngx_http_cdm_stop_index_add(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy, ngx_uint_t n);
static ngx_http_cdm_stop_condition_t *ngx_http_cdm_stop_index_choose(
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_rule_t *rule);


ngx_int_t
ngx_http_cdm_stop_policy_index(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_INDEXED; i++) {
        ngx_rbtree_init(&policy->values[i], &policy->sentinel,
                        ngx_str_rbtree_insert_value);
    }

    policy->others = ngx_http_cdm_stop_conf_alloc(cf, policy->nrules
                                                      * sizeof(ngx_uint_t));
    if (policy->others == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < policy->nrules; i++) {
        if (ngx_http_cdm_stop_index_count(cf, policy, policy->rules[i])
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    for (i = 0; i < policy->nrules; i++) {
        if (ngx_http_cdm_stop_index_add(cf, policy, i) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


ngx_uint_t
ngx_http_cdm_stop_is_indexed(ngx_http_cdm_stop_condition_t *condition)
{
    return condition->fact < NGX_HTTP_CDM_STOP_INDEXED
           && condition->values && !condition->negated;
}


static ngx_int_t
ngx_http_cdm_stop_index_count(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_rule_t *rule)
{
    ngx_uint_t                      i, j;
    ngx_http_cdm_stop_value_t      *v;
    ngx_http_cdm_stop_condition_t  *c;

    for (i = 0; i < rule->nconditions; i++) {
        c = &rule->conditions[i];

        if (!ngx_http_cdm_stop_is_indexed(c)) {
            continue;
        }

        for (j = 0; j < c->nvalues; j++) {

            v = ngx_http_cdm_stop_index_lookup(policy, c->fact, &c->values[j]);

            if (v == NULL) {
                v = ngx_http_cdm_stop_conf_alloc(cf,
                                            sizeof(ngx_http_cdm_stop_value_t));
                if (v == NULL) {
                    return NGX_ERROR;
                }

                v->sn.str = c->values[j];
                v->sn.node.key = ngx_crc32_short(v->sn.str.data,
                                                 v->sn.str.len);
                ngx_rbtree_insert(&policy->values[c->fact], &v->sn.node);
            }

            v->count++;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_index_add(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy, ngx_uint_t n)
{
    ngx_uint_t                      j;
    ngx_http_cdm_stop_value_t      *v;
    ngx_http_cdm_stop_condition_t  *c;

    c = ngx_http_cdm_stop_index_choose(policy, policy->rules[n]);

    if (c == NULL) {
        policy->others[policy->nothers++] = n;
        return NGX_OK;
    }

    for (j = 0; j < c->nvalues; j++) {

        v = ngx_http_cdm_stop_index_lookup(policy, c->fact, &c->values[j]);

        if (v->rules == NULL) {
            v->rules = ngx_http_cdm_stop_conf_alloc(cf, v->count
                                                        * sizeof(ngx_uint_t));
            if (v->rules == NULL) {
                return NGX_ERROR;
            }
        }

        v->rules[v->nrules++] = n;
    }

    return NGX_OK;
}


static ngx_http_cdm_stop_condition_t *
ngx_http_cdm_stop_index_choose(ngx_http_cdm_stop_policy_t *policy,
    ngx_http_cdm_stop_rule_t *rule)
{
    ngx_uint_t                      i, j, most, least;
    ngx_http_cdm_stop_value_t      *v;
    ngx_http_cdm_stop_condition_t  *c, *best;

    best = NULL;
    least = 0;

    for (i = 0; i < rule->nconditions; i++) {
        c = &rule->conditions[i];

        if (!ngx_http_cdm_stop_is_indexed(c)) {
            continue;
        }

        most = 0;

        for (j = 0; j < c->nvalues; j++) {
            v = ngx_http_cdm_stop_index_lookup(policy, c->fact, &c->values[j]);
            most = ngx_max(most, v->count);
        }

        if (best == NULL || most < least) {
            best = c;
            least = most;
        }
    }

    return best;
}


ngx_http_cdm_stop_value_t *
ngx_http_cdm_stop_index_lookup(ngx_http_cdm_stop_policy_t *policy,
    ngx_http_cdm_stop_fact_e fact, ngx_str_t *value)
{
    uint32_t  hash;

    if (policy->values[fact].root == &policy->sentinel || value->len == 0) {
        return NULL;
    }

    hash = ngx_crc32_short(value->data, value->len);

    return (ngx_http_cdm_stop_value_t *)
               ngx_str_rbtree_lookup(&policy->values[fact], value, hash);
}


ngx_http_cdm_stop_rule_t *
ngx_http_cdm_stop_policy_find(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_policy_t *policy)
{
    ngx_uint_t                  i, n, first;
    ngx_uint_t                 *next[NGX_HTTP_CDM_STOP_INDEXED + 1];
    ngx_uint_t                 *end[NGX_HTTP_CDM_STOP_INDEXED + 1];
    ngx_http_cdm_stop_value_t  *v;

    n = 0;

    if (policy->nothers) {
        next[n] = policy->others;
        end[n++] = policy->others + policy->nothers;
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_INDEXED; i++) {

        v = ngx_http_cdm_stop_index_lookup(policy, i,
                                           ngx_http_cdm_stop_fact(ctx, i));
        if (v && v->nrules) {
            next[n] = v->rules;
            end[n++] = v->rules + v->nrules;
        }
    }

    for ( ;; ) {

        first = n;

        for (i = 0; i < n; i++) {
            if (next[i] != end[i]
                && (first == n || *next[i] < *next[first]))
            {
                first = i;
            }
        }

        if (first == n) {
            return NULL;
        }

        i = *next[first]++;

        if (ngx_http_cdm_stop_rule_fails(r, ctx, policy->rules[i]) == NULL) {
            return policy->rules[i];
        }
    }
}
