
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


static ngx_uint_t ngx_http_cdm_stop_lint_contradiction(ngx_conf_t *cf,
    ngx_http_cdm_stop_rule_t *rule);
static ngx_uint_t ngx_http_cdm_stop_contradict(
    ngx_http_cdm_stop_condition_t *a, ngx_http_cdm_stop_condition_t *b);


ngx_int_t
ngx_http_cdm_stop_policy_lint(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy)
{
    ngx_uint_t                  i, j;
    ngx_http_cdm_stop_rule_t   *rule, *all;
    ngx_http_cdm_stop_cover_t   cover;

    all = NULL;

    ngx_memzero(&cover, sizeof(ngx_http_cdm_stop_cover_t));

    for (i = 0; i < policy->nrules; i++) {
        rule = policy->rules[i];

        if (all) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &rule->place,
                                         "rule \"%V\" is never reached behind "
                                         "\"%V\", which has no condition; "
                                         "move it or remove it",
                                         &rule->name, &all->name);

            /* one line tells it of all that follow */

            return NGX_OK;
        }

        if (rule->nconditions == 0) {
            all = rule;
        }

        if (!ngx_http_cdm_stop_lint_contradiction(cf, rule)) {
            ngx_http_cdm_stop_lint_covered(cf, policy, &cover, i);
        }

        for (j = 0; j < rule->nconditions; j++) {
            if (rule->conditions[j].regex) {
                ngx_http_cdm_stop_lint_pattern(cf, rule, &rule->conditions[j]);
            }
        }
    }

    return NGX_OK;
}


/* whether the rule is told as one that never matches */

static ngx_uint_t
ngx_http_cdm_stop_lint_contradiction(ngx_conf_t *cf,
    ngx_http_cdm_stop_rule_t *rule)
{
    ngx_uint_t                      i, j;
    ngx_http_cdm_stop_condition_t  *c;

    c = rule->conditions;

    for (i = 0; i < rule->nconditions; i++) {
        for (j = 0; j < i; j++) {

            if (ngx_http_cdm_stop_contradict(&c[i], &c[j])
                || ngx_http_cdm_stop_contradict(&c[j], &c[i]))
            {
                ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &rule->place,
                                             "rule \"%V\" can never match: "
                                             "\"%V\" and \"%V\" exclude each "
                                             "other, write a list such as "
                                             "\"user=a,b\" for one of several "
                                             "values",
                                             &rule->name, &c[j].text,
                                             &c[i].text);
                return 1;
            }
        }
    }

    return 0;
}


/* whether no value of the one is possible with the other */

static ngx_uint_t
ngx_http_cdm_stop_contradict(ngx_http_cdm_stop_condition_t *a,
    ngx_http_cdm_stop_condition_t *b)
{
    ngx_uint_t  i, j, found;

    if (a->fact != b->fact || a->fact == NGX_HTTP_CDM_STOP_FACT_ROLE
        || a->values == NULL || b->values == NULL || a->negated)
    {
        return 0;
    }

    for (i = 0; i < a->nvalues; i++) {

        found = 0;

        for (j = 0; j < b->nvalues; j++) {
            found |= (a->values[i].len == b->values[j].len
                      && ngx_memcmp(a->values[i].data, b->values[j].data,
                                    a->values[i].len)
                         == 0);
        }

        if (found != b->negated) {
            return 0;
        }
    }

    return 1;
}
