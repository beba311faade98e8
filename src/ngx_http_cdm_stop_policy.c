
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


/* a policy while its block is read */

typedef struct {
    ngx_http_cdm_stop_policy_t     *policy;
    ngx_array_t                     rules;      /* of pointers */
    ngx_rbtree_t                    names;
    ngx_rbtree_node_t               sentinel;
} ngx_http_cdm_stop_block_t;


typedef struct {
    ngx_str_node_t                  sn;
    ngx_http_cdm_stop_rule_t       *rule;
} ngx_http_cdm_stop_named_t;


static ngx_http_cdm_stop_policy_t *ngx_http_cdm_stop_policy_named(
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_str_t *name);
static char *ngx_http_cdm_stop_policy_finish(ngx_conf_t *cf,
    ngx_http_cdm_stop_block_t *block);
static char *ngx_http_cdm_stop_rule(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_cdm_stop_rule_name(ngx_conf_t *cf,
    ngx_http_cdm_stop_block_t *block, ngx_http_cdm_stop_rule_t *rule);
static ngx_int_t ngx_http_cdm_stop_condition(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t *text);
static ngx_int_t ngx_http_cdm_stop_condition_pattern(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t *value);
static ngx_int_t ngx_http_cdm_stop_condition_list(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t *value);
static ngx_int_t ngx_http_cdm_stop_condition_cidr(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition);
static ngx_int_t ngx_http_cdm_stop_condition_if(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t *value);


static ngx_conf_enum_t  ngx_http_cdm_stop_facts[] = {
    { ngx_string("principal"), NGX_HTTP_CDM_STOP_FACT_PRINCIPAL },
    { ngx_string("user"), NGX_HTTP_CDM_STOP_FACT_USER },
    { ngx_string("domain"), NGX_HTTP_CDM_STOP_FACT_DOMAIN },
    { ngx_string("role"), NGX_HTTP_CDM_STOP_FACT_ROLE },
    { ngx_string("project"), NGX_HTTP_CDM_STOP_FACT_PROJECT },
    { ngx_string("cluster"), NGX_HTTP_CDM_STOP_FACT_CLUSTER },
    { ngx_string("job"), NGX_HTTP_CDM_STOP_FACT_JOB },
    { ngx_string("addr"), NGX_HTTP_CDM_STOP_FACT_ADDR },
    { ngx_string("if"), NGX_HTTP_CDM_STOP_FACT_IF },
    { ngx_null_string, 0 }
};


char *
ngx_http_cdm_stop_policy_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_main_conf_t *cdmcf = conf;

    char                         *rv;
    ngx_str_t                    *value;
    ngx_conf_t                    save;
    ngx_http_cdm_stop_block_t     block;
    ngx_http_cdm_stop_policy_t   *policy, **policies;

    value = cf->args->elts;

    if (value[1].len == 0 || ngx_strcmp(value[1].data, "off") == 0) {
        return "cannot be named so, choose another name";
    }

    policy = ngx_http_cdm_stop_policy_named(cdmcf, &value[1]);

    if (policy) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "policy \"%V\" is already defined in %V:%ui, give "
                           "this one another name", &value[1],
                           &policy->place.file, policy->place.line);
        return NGX_CONF_ERROR;
    }

    policy = ngx_http_cdm_stop_conf_alloc(cf,
                                          sizeof(ngx_http_cdm_stop_policy_t));
    if (policy == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_cdm_stop_conf_text(cf, &policy->name, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    policy->place.file = cf->conf_file->file.name;
    policy->place.line = cf->conf_file->line;

    policies = ngx_array_push(&cdmcf->policies);
    if (policies == NULL) {
        return NGX_CONF_ERROR;
    }

    *policies = policy;

    block.policy = policy;
    ngx_rbtree_init(&block.names, &block.sentinel,
                    ngx_str_rbtree_insert_value);

    if (ngx_array_init(&block.rules, cf->temp_pool, 64,
                       sizeof(ngx_http_cdm_stop_rule_t *))
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    save = *cf;
    cf->handler = ngx_http_cdm_stop_rule;
    cf->handler_conf = (void *) &block;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    return ngx_http_cdm_stop_policy_finish(cf, &block);
}


static ngx_http_cdm_stop_policy_t *
ngx_http_cdm_stop_policy_named(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_str_t *name)
{
    ngx_uint_t                    i;
    ngx_http_cdm_stop_policy_t  **policies;

    policies = cdmcf->policies.elts;

    for (i = 0; i < cdmcf->policies.nelts; i++) {

        if (policies[i]->name.len == name->len
            && ngx_strncmp(policies[i]->name.data, name->data, name->len) == 0)
        {
            return policies[i];
        }
    }

    return NULL;
}


static char *
ngx_http_cdm_stop_policy_finish(ngx_conf_t *cf,
    ngx_http_cdm_stop_block_t *block)
{
    size_t                       size;
    ngx_http_cdm_stop_policy_t  *policy;

    policy = block->policy;
    policy->nrules = block->rules.nelts;

    if (policy->nrules == 0) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &policy->place,
                                     "policy \"%V\" is empty and would deny "
                                     "all stops, write rules such as \"allow "
                                     "operators role=cdm_operator;\"",
                                     &policy->name);
        return NGX_CONF_ERROR;
    }

    size = policy->nrules * sizeof(ngx_http_cdm_stop_rule_t *);

    policy->rules = ngx_http_cdm_stop_conf_alloc(cf, size);
    if (policy->rules == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memcpy(policy->rules, block->rules.elts, size);

    if (ngx_http_cdm_stop_policy_index(cf, policy) != NGX_OK
        || ngx_http_cdm_stop_policy_lint(cf, policy) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_cdm_stop_rule(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_block_t *block = conf;

    ngx_str_t                  *value;
    ngx_uint_t                  i;
    ngx_http_cdm_stop_rule_t   *rule, **rules;

    value = cf->args->elts;

    if (ngx_strcmp(value[0].data, "include") == 0 && cf->args->nelts == 2) {
        return ngx_conf_include(cf, cmd, conf);
    }

    if (ngx_strcmp(value[0].data, "allow") != 0
        && ngx_strcmp(value[0].data, "deny") != 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown word \"%V\" in \"cdm_stop_policy\", "
                           "write \"allow\" or \"deny\"", &value[0]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts < 2 || ngx_strchr(value[1].data, '=')) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "rule without a name, write \"%V NAME "
                           "condition...;\"", &value[0]);
        return NGX_CONF_ERROR;
    }

    rule = ngx_http_cdm_stop_conf_alloc(cf, sizeof(ngx_http_cdm_stop_rule_t));
    if (rule == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_cdm_stop_conf_text(cf, &rule->name, &value[1]) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    rule->deny = (value[0].data[0] == 'd');
    rule->place.file = cf->conf_file->file.name;
    rule->place.line = cf->conf_file->line;

    if (ngx_http_cdm_stop_rule_name(cf, block, rule) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    rule->nconditions = cf->args->nelts - 2;
    rule->conditions = ngx_http_cdm_stop_conf_alloc(cf, rule->nconditions
                                    * sizeof(ngx_http_cdm_stop_condition_t));
    if (rule->conditions == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < rule->nconditions; i++) {
        if (ngx_http_cdm_stop_condition(cf, &rule->conditions[i],
                                        &value[i + 2])
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    rules = ngx_array_push(&block->rules);
    if (rules == NULL) {
        return NGX_CONF_ERROR;
    }

    *rules = rule;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_cdm_stop_rule_name(ngx_conf_t *cf, ngx_http_cdm_stop_block_t *block,
    ngx_http_cdm_stop_rule_t *rule)
{
    u_char                      ch;
    size_t                      i;
    uint32_t                    hash;
    ngx_http_cdm_stop_named_t  *named;

    for (i = 0; i < rule->name.len; i++) {
        ch = rule->name.data[i];

        if (!(ch >= '0' && ch <= '9') && !(ch >= 'a' && ch <= 'z')
            && !(ch >= 'A' && ch <= 'Z') && ch != '-' && ch != '_'
            && ch != '.')
        {
            break;
        }
    }

    if (i == 0 || i < rule->name.len || i > NGX_HTTP_CDM_STOP_RULE_LEN) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "bad name \"%V\" of a rule, use 1 to 64 letters, "
                           "digits, \"-\", \"_\" and \".\"", &rule->name);
        return NGX_ERROR;
    }

    hash = ngx_crc32_short(rule->name.data, rule->name.len);

    named = (ngx_http_cdm_stop_named_t *)
                ngx_str_rbtree_lookup(&block->names, &rule->name, hash);

    if (named) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "rule \"%V\" is already defined in %V:%ui, give "
                           "this one another name", &rule->name,
                           &named->rule->place.file, named->rule->place.line);
        return NGX_ERROR;
    }

    named = ngx_palloc(cf->temp_pool, sizeof(ngx_http_cdm_stop_named_t));
    if (named == NULL) {
        return NGX_ERROR;
    }

    named->sn.str = rule->name;
    named->sn.node.key = hash;
    named->rule = rule;

    ngx_rbtree_insert(&block->names, &named->sn.node);

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_condition(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t *text)
{
    ngx_str_t         name, value;
    ngx_conf_enum_t  *fact;

    /* names and values are pieces of this copy */

    if (ngx_http_cdm_stop_conf_text(cf, &condition->text, text) != NGX_OK) {
        return NGX_ERROR;
    }

    name = condition->text;

    if (name.len && name.data[0] == '!') {
        condition->negated = 1;
        name.data++;
        name.len--;
    }

    value.data = ngx_strlchr(name.data, name.data + name.len, '=');

    if (value.data) {
        value.data++;
        value.len = name.data + name.len - value.data;
        name.len = value.data - 1 - name.data;

    } else {
        name.len = 0;
    }

    for (fact = ngx_http_cdm_stop_facts; fact->name.len; fact++) {
        if (fact->name.len == name.len
            && ngx_strncmp(fact->name.data, name.data, name.len) == 0)
        {
            break;
        }
    }

    if (fact->name.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown condition \"%V\", write \"principal=\", "
                           "\"user=\", \"domain=\", \"role=\", \"project=\", "
                           "\"cluster=\", \"job=\", \"addr=\" or \"if=\", "
                           "with \"!\" before it to negate it", text);
        return NGX_ERROR;
    }

    condition->fact = fact->value;

    if (value.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "condition \"%V\" has no value, write one behind "
                           "\"=\"", text);
        return NGX_ERROR;
    }

    if (condition->fact == NGX_HTTP_CDM_STOP_FACT_IF) {
        return ngx_http_cdm_stop_condition_if(cf, condition, &value);
    }

    if (value.data[0] == '~'
        && condition->fact != NGX_HTTP_CDM_STOP_FACT_ADDR)
    {
        return ngx_http_cdm_stop_condition_pattern(cf, condition, &value);
    }

    if (ngx_http_cdm_stop_condition_list(cf, condition, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (condition->fact == NGX_HTTP_CDM_STOP_FACT_ADDR) {
        return ngx_http_cdm_stop_condition_cidr(cf, condition);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_condition_pattern(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t *value)
{
    u_char     prefix[NGX_HTTP_CDM_STOP_PREFIX_LEN];
    ngx_str_t  found;

    condition->regex = ngx_http_cdm_stop_pattern(cf, value);
    if (condition->regex == NULL) {
        return NGX_ERROR;
    }

    found.data = prefix;
    found.len = ngx_http_cdm_stop_pattern_prefix(value, prefix);

    if (found.len == 0) {
        return NGX_OK;
    }

    return ngx_http_cdm_stop_conf_text(cf, &condition->prefix, &found);
}


/* a value that is written twice is taken once, so that the index has it once */

static ngx_int_t
ngx_http_cdm_stop_condition_list(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t *value)
{
    u_char      *p, *last;
    ngx_str_t    one, *values;
    ngx_uint_t   i, n;

    n = 1;
    last = value->data + value->len;

    for (p = value->data; p < last; p++) {
        n += (*p == ',');
    }

    values = ngx_http_cdm_stop_conf_alloc(cf, n * sizeof(ngx_str_t));
    if (values == NULL) {
        return NGX_ERROR;
    }

    condition->values = values;

    for (one.data = value->data; one.data <= last; one.data = p + 1) {

        p = ngx_strlchr(one.data, last, ',');
        p = p ? p : last;
        one.len = p - one.data;

        if (one.len == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "empty value in the list of \"%V\", remove a "
                               "comma", &condition->text);
            return NGX_ERROR;
        }

        for (i = 0; i < condition->nvalues; i++) {
            if (values[i].len == one.len
                && ngx_memcmp(values[i].data, one.data, one.len) == 0)
            {
                break;
            }
        }

        if (i == condition->nvalues) {
            values[condition->nvalues++] = one;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_condition_cidr(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition)
{
    ngx_int_t     rc;
    ngx_uint_t    i;
    ngx_cidr_t   *cidrs;
    ngx_array_t  *array;

    array = ngx_http_cdm_stop_conf_alloc(cf, sizeof(ngx_array_t));
    if (array == NULL) {
        return NGX_ERROR;
    }

    cidrs = ngx_http_cdm_stop_conf_alloc(cf, condition->nvalues
                                             * sizeof(ngx_cidr_t));
    if (cidrs == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < condition->nvalues; i++) {

        rc = ngx_ptocidr(&condition->values[i], &cidrs[i]);

        if (rc == NGX_ERROR) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "bad address \"%V\", write such as "
                               "\"10.0.0.0/8\", \"192.0.2.7\" or "
                               "\"2001:db8::/32\"", &condition->values[i]);
            return NGX_ERROR;
        }

        if (rc == NGX_DONE) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "low bits of \"%V\" have no meaning, write the "
                               "address of the network or a longer prefix",
                               &condition->values[i]);
        }
    }

    /* it is not pushed to any more */

    array->elts = cidrs;
    array->nelts = condition->nvalues;
    array->size = sizeof(ngx_cidr_t);
    array->nalloc = condition->nvalues;

    condition->cidrs = array;
    condition->values = NULL;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_condition_if(ngx_conf_t *cf,
    ngx_http_cdm_stop_condition_t *condition, ngx_str_t *value)
{
    if (value->data[0] != '$' || value->len == 1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" names no variable, write such as "
                           "\"if=$office_hours\"", &condition->text);
        return NGX_ERROR;
    }

    value->data++;
    value->len--;

    condition->variable = ngx_http_get_variable_index(cf, value);

    return (condition->variable == NGX_ERROR) ? NGX_ERROR : NGX_OK;
}


char *
ngx_http_cdm_stop_enforce_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    ngx_str_t                     *value;
    ngx_http_cdm_stop_enforced_t  *enforced;

    if (cdcf->enforced != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        cdcf->enforced = NULL;
        return NGX_CONF_OK;
    }

    enforced = ngx_http_cdm_stop_conf_alloc(cf,
                                         sizeof(ngx_http_cdm_stop_enforced_t));
    if (enforced == NULL) {
        return NGX_CONF_ERROR;
    }

    enforced->name = value[1];
    enforced->place.file = cf->conf_file->file.name;
    enforced->place.line = cf->conf_file->line;

    cdcf->enforced = enforced;

    return NGX_CONF_OK;
}


/* "cdm_stop_enforce NAME" may stand before "cdm_stop_policy NAME" */

ngx_int_t
ngx_http_cdm_stop_policy_resolve(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_enforced_t *e)
{
    if (e == NULL || e->policy) {
        return NGX_OK;
    }

    e->policy = ngx_http_cdm_stop_policy_named(cdmcf, &e->name);

    if (e->policy == NULL) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &e->place,
                                     "unknown policy \"%V\", define it by "
                                     "\"cdm_stop_policy %V { ... }\" in the "
                                     "http block", &e->name, &e->name);
        return NGX_ERROR;
    }

    e->policy->used = 1;

    return NGX_OK;
}
