
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


/*
 * A rule that asks for an exact value of a fact, or for a pattern such as
 * "^etl_", cannot hold for a request whose value is another one, or begins
 * otherwise.  So it is found by that alone, by what fewest rules name if it
 * asks for several facts; what has no such condition is looked at for each
 * request.  The lists are ascending, and the lowest rule of all goes first:
 * the same order as without an index.
 */


static ngx_rbtree_t *ngx_http_cdm_stop_index_keys(
    ngx_http_cdm_stop_policy_t *policy,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t **keys,
    ngx_uint_t *nkeys);
static ngx_int_t ngx_http_cdm_stop_index_count(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_rule_t *rule);
static ngx_int_t ngx_http_cdm_stop_index_add(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy, ngx_uint_t n);
static ngx_http_cdm_stop_condition_t *ngx_http_cdm_stop_index_choose(
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_rule_t *rule);
static ngx_http_cdm_stop_value_t *ngx_http_cdm_stop_index_lookup(
    ngx_rbtree_t *tree, ngx_str_t *key);
static ngx_http_cdm_stop_rule_t *ngx_http_cdm_stop_policy_walk(
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_policy_t *policy);


ngx_int_t
ngx_http_cdm_stop_policy_index(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_INDEXED; i++) {
        ngx_rbtree_init(&policy->values[i], &policy->sentinel,
                        ngx_str_rbtree_insert_value);
        ngx_rbtree_init(&policy->prefixes[i], &policy->sentinel,
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


/* what a rule with this condition may be found by, and where; NULL if not */

static ngx_rbtree_t *
ngx_http_cdm_stop_index_keys(ngx_http_cdm_stop_policy_t *policy,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t **keys,
    ngx_uint_t *nkeys)
{
    *keys = NULL;
    *nkeys = 0;

    if (condition->fact >= NGX_HTTP_CDM_STOP_INDEXED || condition->negated) {
        return NULL;
    }

    if (condition->values) {
        *keys = condition->values;
        *nkeys = condition->nvalues;

        return &policy->values[condition->fact];
    }

    if (condition->prefix.len) {
        *keys = &condition->prefix;
        *nkeys = 1;

        return &policy->prefixes[condition->fact];
    }

    return NULL;
}


static ngx_int_t
ngx_http_cdm_stop_index_count(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_rule_t *rule)
{
    ngx_str_t                  *keys;
    ngx_uint_t                  i, j, nkeys;
    ngx_rbtree_t               *tree;
    ngx_http_cdm_stop_value_t  *v;

    for (i = 0; i < rule->nconditions; i++) {

        tree = ngx_http_cdm_stop_index_keys(policy, &rule->conditions[i],
                                            &keys, &nkeys);
        if (tree == NULL) {
            continue;
        }

        for (j = 0; j < nkeys; j++) {

            v = ngx_http_cdm_stop_index_lookup(tree, &keys[j]);

            if (v == NULL) {
                v = ngx_http_cdm_stop_conf_alloc(cf,
                                            sizeof(ngx_http_cdm_stop_value_t));
                if (v == NULL) {
                    return NGX_ERROR;
                }

                v->sn.str = keys[j];
                v->sn.node.key = ngx_crc32_short(v->sn.str.data,
                                                 v->sn.str.len);
                ngx_rbtree_insert(tree, &v->sn.node);
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
    ngx_str_t                      *keys;
    ngx_uint_t                      j, nkeys;
    ngx_rbtree_t                   *tree;
    ngx_http_cdm_stop_value_t      *v;
    ngx_http_cdm_stop_condition_t  *c;

    c = ngx_http_cdm_stop_index_choose(policy, policy->rules[n]);

    if (c == NULL) {
        policy->others[policy->nothers++] = n;
        return NGX_OK;
    }

    tree = ngx_http_cdm_stop_index_keys(policy, c, &keys, &nkeys);

    for (j = 0; j < nkeys; j++) {

        v = ngx_http_cdm_stop_index_lookup(tree, &keys[j]);

        if (v->rules == NULL) {
            v->rules = ngx_http_cdm_stop_conf_alloc(cf, v->count
                                                        * sizeof(ngx_uint_t));
            if (v->rules == NULL) {
                return NGX_ERROR;
            }
        }

        v->rules[v->nrules++] = n;
    }

    if (c->prefix.len) {
        policy->lengths[c->fact] |= (uint32_t) 1 << (c->prefix.len - 1);
    }

    return NGX_OK;
}


/* of two equals the first, but exact values before a beginning */

static ngx_http_cdm_stop_condition_t *
ngx_http_cdm_stop_index_choose(ngx_http_cdm_stop_policy_t *policy,
    ngx_http_cdm_stop_rule_t *rule)
{
    ngx_str_t                      *keys;
    ngx_uint_t                      i, j, nkeys, most, least;
    ngx_rbtree_t                   *tree;
    ngx_http_cdm_stop_value_t      *v;
    ngx_http_cdm_stop_condition_t  *c, *best;

    best = NULL;
    least = 0;

    for (i = 0; i < rule->nconditions; i++) {
        c = &rule->conditions[i];

        tree = ngx_http_cdm_stop_index_keys(policy, c, &keys, &nkeys);
        if (tree == NULL) {
            continue;
        }

        most = 0;

        for (j = 0; j < nkeys; j++) {
            v = ngx_http_cdm_stop_index_lookup(tree, &keys[j]);
            most = ngx_max(most, v->count);
        }

        if (best == NULL
            || most < least
            || (most == least && best->regex && c->values))
        {
            best = c;
            least = most;
        }
    }

    return best;
}


static ngx_http_cdm_stop_value_t *
ngx_http_cdm_stop_index_lookup(ngx_rbtree_t *tree, ngx_str_t *key)
{
    return (ngx_http_cdm_stop_value_t *)
               ngx_str_rbtree_lookup(tree, key,
                                     ngx_crc32_short(key->data, key->len));
}


ngx_uint_t
ngx_http_cdm_stop_index_find(ngx_http_cdm_stop_policy_t *policy,
    ngx_http_cdm_stop_fact_e fact, ngx_str_t *value,
    ngx_http_cdm_stop_value_t **lists)
{
    uint32_t                    lengths;
    ngx_str_t                   prefix;
    ngx_uint_t                  n;
    ngx_http_cdm_stop_value_t  *v;

    n = 0;

    if (value->len == 0) {
        return 0;
    }

    if (policy->values[fact].root != &policy->sentinel) {

        v = ngx_http_cdm_stop_index_lookup(&policy->values[fact], value);

        if (v && v->nrules) {
            lists[n++] = v;
        }
    }

    prefix.data = value->data;
    prefix.len = 1;

    for (lengths = policy->lengths[fact];
         lengths && prefix.len <= value->len;
         lengths >>= 1, prefix.len++)
    {
        if (lengths & 1) {

            v = ngx_http_cdm_stop_index_lookup(&policy->prefixes[fact],
                                               &prefix);
            if (v && v->nrules) {
                lists[n++] = v;
            }
        }
    }

    return n;
}


ngx_http_cdm_stop_rule_t *
ngx_http_cdm_stop_policy_find(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_policy_t *policy)
{
    ngx_str_t                  *value;
    ngx_uint_t                  i, j, n, nlists, first;
    ngx_uint_t                 *next[NGX_HTTP_CDM_STOP_INDEXED
                                     * NGX_HTTP_CDM_STOP_LISTS + 1];
    ngx_uint_t                 *end[NGX_HTTP_CDM_STOP_INDEXED
                                    * NGX_HTTP_CDM_STOP_LISTS + 1];
    ngx_http_cdm_stop_value_t  *lists[NGX_HTTP_CDM_STOP_LISTS];

    n = 0;

    if (policy->nothers) {
        next[n] = policy->others;
        end[n++] = policy->others + policy->nothers;
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_INDEXED; i++) {

        value = ngx_http_cdm_stop_fact(ctx, i);

        if (policy->lengths[i]
            && value->len && value->data[value->len - 1] == LF)
        {
            /* of such a value no pattern tells, whatever it begins with */

            return ngx_http_cdm_stop_policy_walk(r, ctx, policy);
        }

        nlists = ngx_http_cdm_stop_index_find(policy, i, value, lists);

        for (j = 0; j < nlists; j++) {
            next[n] = lists[j]->rules;
            end[n++] = lists[j]->rules + lists[j]->nrules;
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


static ngx_http_cdm_stop_rule_t *
ngx_http_cdm_stop_policy_walk(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_policy_t *policy)
{
    ngx_uint_t  i;

    for (i = 0; i < policy->nrules; i++) {

        if (ngx_http_cdm_stop_rule_fails(r, ctx, policy->rules[i]) == NULL) {
            return policy->rules[i];
        }
    }

    return NULL;
}
