
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_POLICY_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_POLICY_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


#if !(NGX_PCRE)
#error ngx_http_cdm_stop_module requires nginx with PCRE
#endif


/*
 * Steps of the regex engine for one pattern and one value, after which it
 * gives up: a millisecond or so.  A sensible pattern takes some hundred.
 */
#define NGX_HTTP_CDM_STOP_LIMITS                                              \
    "(*LIMIT_MATCH=50000)(*LIMIT_RECURSION=10000)"

/* a rule's name is in answers, records and metrics */
#define NGX_HTTP_CDM_STOP_RULE_LEN  64


/* the first ones are indexed */

typedef enum {
    NGX_HTTP_CDM_STOP_FACT_PRINCIPAL = 0,
    NGX_HTTP_CDM_STOP_FACT_USER,
    NGX_HTTP_CDM_STOP_FACT_PROJECT,
    NGX_HTTP_CDM_STOP_FACT_CLUSTER,
    NGX_HTTP_CDM_STOP_FACT_JOB,
    NGX_HTTP_CDM_STOP_FACT_DOMAIN,
    NGX_HTTP_CDM_STOP_FACT_ROLE,
    NGX_HTTP_CDM_STOP_FACT_ADDR,
    NGX_HTTP_CDM_STOP_FACT_IF
} ngx_http_cdm_stop_fact_e;


#define NGX_HTTP_CDM_STOP_INDEXED  (NGX_HTTP_CDM_STOP_FACT_JOB + 1)

/*
 * What a pattern such as "^etl_daily_" begins with is indexed up to this
 * length: one bit each of a word, and one look for each length there is.
 */
#define NGX_HTTP_CDM_STOP_PREFIX_LEN  32

/* lists of rules that one value of a fact can find: its own, its beginnings */
#define NGX_HTTP_CDM_STOP_LISTS  (NGX_HTTP_CDM_STOP_PREFIX_LEN + 1)


typedef struct {
    ngx_http_cdm_stop_fact_e        fact;
    ngx_uint_t                      nvalues;
    ngx_str_t                      *values;     /* exact ones, or NULL */
    ngx_array_t                    *cidrs;      /* of ngx_cidr_t, or NULL */
    ngx_regex_t                    *regex;      /* or NULL */
    ngx_str_t                       prefix;     /* of all that it matches */
    ngx_int_t                       variable;   /* index of that of "if" */
    ngx_str_t                       text;       /* as it is written */
    unsigned                        negated:1;
} ngx_http_cdm_stop_condition_t;


typedef struct {
    ngx_str_t                       name;
    ngx_http_cdm_stop_place_t       place;
    ngx_uint_t                      nconditions;
    ngx_http_cdm_stop_condition_t  *conditions;
    unsigned                        deny:1;
} ngx_http_cdm_stop_rule_t;


/* rules that ask for one value of a fact, or a beginning, in their order */

typedef struct {
    ngx_str_node_t                  sn;
    ngx_uint_t                      count;      /* rules that name it */
    ngx_uint_t                      nrules;     /* that are found by it */
    ngx_uint_t                     *rules;
} ngx_http_cdm_stop_value_t;


struct ngx_http_cdm_stop_policy_s {
    ngx_str_t                       name;
    ngx_http_cdm_stop_place_t       place;
    ngx_uint_t                      nrules;
    ngx_http_cdm_stop_rule_t      **rules;

    /* the index */

    ngx_rbtree_t                    values[NGX_HTTP_CDM_STOP_INDEXED];
    ngx_rbtree_t                    prefixes[NGX_HTTP_CDM_STOP_INDEXED];
    uint32_t                        lengths[NGX_HTTP_CDM_STOP_INDEXED];
    ngx_rbtree_node_t               sentinel;
    ngx_uint_t                      nothers;
    ngx_uint_t                     *others;     /* found by no value */

    unsigned                        used:1;
};


/* how far the rules of a policy are compared with each other */

typedef struct {
    ngx_uint_t                      steps;      /* comparisons so far */
    ngx_uint_t                      found;      /* rules that never match */
    unsigned                        done:1;     /* the rest is left */
} ngx_http_cdm_stop_cover_t;


struct ngx_http_cdm_stop_enforced_s {
    ngx_str_t                       name;
    ngx_http_cdm_stop_place_t       place;
    ngx_http_cdm_stop_policy_t     *policy;     /* set by the check */
};


struct ngx_http_cdm_stop_reason_s {
    ngx_str_t                       header;
    ngx_regex_t                    *regex;      /* or NULL */
};


/* stops of one caller */

struct ngx_http_cdm_stop_rate_s {
    ngx_int_t                       rate;       /* in a minute */
    ngx_int_t                       burst;
};


char *ngx_http_cdm_stop_policy_block(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_cdm_stop_enforce_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_cdm_stop_reason_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_cdm_stop_rate_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* finds the policy by its name; logs and returns NGX_ERROR if there is none */
ngx_int_t ngx_http_cdm_stop_policy_resolve(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_enforced_t *e);

/*
 * The projects of identities without "projects", once the policies of all
 * locations are known.  Returns NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_default_projects(ngx_conf_t *cf);

/* warns of guards without a policy and of policies without a guard */
ngx_int_t ngx_http_cdm_stop_check_policies(ngx_conf_t *cf);


/*
 * Fills the index of a policy whose rules are complete.  Returns NGX_ERROR if
 * there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_policy_index(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy);

/*
 * The lists of rules that this value of an indexed fact finds, at most
 * NGX_HTTP_CDM_STOP_LISTS of them.  Returns their number.
 */
ngx_uint_t ngx_http_cdm_stop_index_find(ngx_http_cdm_stop_policy_t *policy,
    ngx_http_cdm_stop_fact_e fact, ngx_str_t *value,
    ngx_http_cdm_stop_value_t **lists);

/*
 * Warns of rules that never match and of patterns that match too much; the
 * index has to be filled.
 */
ngx_int_t ngx_http_cdm_stop_policy_lint(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy);

/*
 * Warns of the rule with this number if an earlier one matches whenever it
 * would.  Rules are given in their order, with "cover" all 0 for the first.
 */
void ngx_http_cdm_stop_lint_covered(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_cover_t *cover,
    ngx_uint_t n);

/* warns of a pattern that matches more than it looks as if */
void ngx_http_cdm_stop_lint_pattern(ngx_conf_t *cf,
    ngx_http_cdm_stop_rule_t *rule, ngx_http_cdm_stop_condition_t *condition);

/* the first rule that holds for the request, or NULL */
ngx_http_cdm_stop_rule_t *ngx_http_cdm_stop_policy_find(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_policy_t *policy);

/* the first condition of the rule that does not hold, NULL if all do */
ngx_http_cdm_stop_condition_t *ngx_http_cdm_stop_rule_fails(
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_rule_t *rule);

/* the value of an indexed fact, len 0 if the request does not have it */
ngx_str_t *ngx_http_cdm_stop_fact(ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_fact_e fact);


/*
 * Compiles a pattern with "~" or "~*" before it, with limits.  Logs what is
 * wrong with it and returns NULL.
 */
ngx_regex_t *ngx_http_cdm_stop_pattern(ngx_conf_t *cf, ngx_str_t *text);

/*
 * Copies to "prefix", of NGX_HTTP_CDM_STOP_PREFIX_LEN bytes, what all values
 * begin with that the pattern, with "~" or "~*" before it, matches.  Returns
 * its length, 0 if that cannot be said with certainty.
 */
size_t ngx_http_cdm_stop_pattern_prefix(ngx_str_t *text, u_char *prefix);

/* NGX_OK, NGX_DECLINED, or NGX_ERROR if it cannot be told */
ngx_int_t ngx_http_cdm_stop_pattern_match(ngx_regex_t *regex,
    ngx_str_t *value);


/* ctx->reason, or NGX_DECLINED if the caller gives none that will do */
ngx_int_t ngx_http_cdm_stop_take_reason(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Counts a stop of this caller: NGX_OK, NGX_DECLINED with ctx->retry_after if
 * there are too many, NGX_ERROR.
 */
ngx_int_t ngx_http_cdm_stop_take_rate(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* $cdm_stop_policy_trace: why each rule up to the decision did not match */
ngx_int_t ngx_http_cdm_stop_variable_trace(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


#endif /* _NGX_HTTP_CDM_STOP_POLICY_H_INCLUDED_ */
