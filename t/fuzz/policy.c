
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * A policy and a request.  An input is: rules, a line "%%", and a line each
 * for the principal, user, project, cluster, job, domain, roles with commas,
 * address, and arguments, of which rules may use the variables.
 *
 * The index decides as one rule after the other does; of a rule without a
 * pattern, address or variable, that is what its text says; a rule that is
 * told to match never does not match; and the trace ends with the decision.
 */


#include "cycle.h"
#include <jansson.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


#define POLICY_SIZE   8192
#define POLICY_LINES  9


static void check(cycle_t *c, ngx_str_t *lines);
static void make_request(cycle_t *c, ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_str_t *lines);
static void take_roles(ngx_pool_t *pool, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_str_t *line);
static ngx_http_cdm_stop_rule_t *walk(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_policy_t *policy);
static int reference(ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_rule_t *rule);
static int reference_holds(ngx_http_cdm_stop_ctx_t *ctx, const char *text,
    const char *last, int deny);
static int is_one_of(ngx_str_t *value, const char *list, const char *last);
static void check_told(cycle_t *c, ngx_http_cdm_stop_rule_t *rule);
static void check_trace(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_rule_t *rule);


int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const u_char *data, size_t size);


int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    cycle_init();

    return 0;
}


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    u_char         *p, *last, *lf;
    ngx_str_t       lines[POLICY_LINES];
    ngx_uint_t      i;
    static char     text[POLICY_SIZE];
    static u_char   facts[POLICY_SIZE / 2];
    static cycle_t  c;

    p = memmem(data, size, "\n%%\n", 4);

    if (p == NULL || size > POLICY_SIZE / 2
        || memchr(data, '\0', p - data) != NULL
        || memmem(data, p - data, "include", 7) != NULL)
    {
        return 0;
    }

    snprintf(text, sizeof(text),
             "events { }\nhttp {\ncdm_stop_policy org {\n%.*s\n}\n}\n",
             (int) (p - data), data);

    last = ngx_cpymem(facts, p + 4, data + size - p - 4);
    p = facts;

    for (i = 0; i < POLICY_LINES; i++) {
        lf = memchr(p, '\n', last - p);

        /* a carriage return stands for a line feed in a value */

        lines[i].data = p;
        lines[i].len = (lf ? lf : last) - p;
        p += lines[i].len + (lf != NULL);

        if (lines[i].len && lines[i].data[lines[i].len - 1] == '\r') {
            lines[i].data[lines[i].len - 1] = '\n';
        }
    }

    cycle_read(&c, text, strlen(text));

    if (c.rc == NGX_OK) {
        check(&c, lines);
    }

    cycle_free(&c);

    return 0;
}


static void
check(cycle_t *c, ngx_str_t *lines)
{
    int                              holds;
    ngx_uint_t                       i;
    ngx_http_request_t               r;
    ngx_http_cdm_stop_ctx_t          ctx;
    ngx_http_cdm_stop_rule_t        *rule;
    ngx_http_cdm_stop_policy_t      *policy;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = cycle_main_conf(c, &ngx_http_cdm_stop_module);

    if (cdmcf == NULL || cdmcf->policies.nelts != 1) {
        return;
    }

    policy = *(ngx_http_cdm_stop_policy_t **) cdmcf->policies.elts;

    make_request(c, &r, &ctx, lines);

    rule = walk(&r, &ctx, policy);

    require(ngx_http_cdm_stop_policy_find(&r, &ctx, policy) == rule,
            "with the index as without it");

    for (i = 0; i < policy->nrules; i++) {

        holds = reference(&ctx, policy->rules[i]);

        require(holds == -1
                || holds == (ngx_http_cdm_stop_rule_fails(&r, &ctx,
                                                          policy->rules[i])
                             == NULL),
                "a rule holds as it is written");
    }

    if (rule) {
        check_told(c, rule);
    }

    check_trace(&r, &ctx, policy, rule);
}


static void
make_request(cycle_t *c, ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_str_t *lines)
{
    ngx_addr_t                  addr;
    ngx_http_conf_ctx_t        *conf;
    static void                *modules[1024];
    static ngx_connection_t     connection;
    static struct sockaddr      unix_address;
    ngx_http_core_main_conf_t  *cmcf;

    ngx_memzero(r, sizeof(ngx_http_request_t));
    ngx_memzero(ctx, sizeof(ngx_http_cdm_stop_ctx_t));

    conf = (ngx_http_conf_ctx_t *) ngx_get_conf(c->cycle->conf_ctx,
                                                ngx_http_module);
    cmcf = conf->main_conf[ngx_http_core_module.ctx_index];

    r->main = r;
    r->pool = c->cycle->pool;
    r->connection = &connection;
    r->main_conf = conf->main_conf;
    r->srv_conf = conf->srv_conf;
    r->loc_conf = conf->loc_conf;
    r->ctx = modules;
    r->args = lines[8];
    r->variables = ngx_pcalloc(r->pool, (cmcf->variables.nelts + 1)
                                        * sizeof(ngx_http_variable_value_t));
    require(r->variables != NULL, "memory");

    connection.log = &c->log;

    unix_address.sa_family = AF_UNIX;
    connection.sockaddr = &unix_address;

    if (ngx_parse_addr(r->pool, &addr, lines[7].data, lines[7].len) == NGX_OK)
    {
        connection.sockaddr = addr.sockaddr;
    }

    ctx->request = r;
    ctx->caller.principal = lines[0];
    ctx->caller.user = lines[1];
    ctx->target.project = lines[2];
    ctx->target.cluster = lines[3];
    ctx->target.job = lines[4];
    ctx->caller.domain = lines[5];

    take_roles(r->pool, ctx, &lines[6]);

    ngx_http_set_ctx(r, ctx, ngx_http_cdm_stop_module);
}


static void
take_roles(ngx_pool_t *pool, ngx_http_cdm_stop_ctx_t *ctx, ngx_str_t *line)
{
    u_char     *p, *last, *comma;
    ngx_str_t  *role;

    if (line->len == 0) {
        return;
    }

    ctx->caller.roles = ngx_array_create(pool, 4, sizeof(ngx_str_t));

    p = line->data;
    last = p + line->len;

    while (p < last) {
        comma = ngx_strlchr(p, last, ',');
        comma = comma ? comma : last;

        role = ngx_array_push(ctx->caller.roles);
        role->data = p;
        role->len = comma - p;

        p = comma + 1;
    }
}


static ngx_http_cdm_stop_rule_t *
walk(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_policy_t *policy)
{
    ngx_uint_t  i;

    for (i = 0; i < policy->nrules; i++) {
        if (ngx_http_cdm_stop_rule_fails(r, ctx, policy->rules[i]) == NULL) {
            return policy->rules[i];
        }
    }

    return NULL;
}


/* by the text of its conditions; -1 if this does not read one of them */

static int
reference(ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_rule_t *rule)
{
    int          holds, all;
    ngx_str_t   *text;
    ngx_uint_t   i;

    all = 1;

    for (i = 0; i < rule->nconditions; i++) {
        text = &rule->conditions[i].text;

        holds = reference_holds(ctx, (char *) text->data,
                                (char *) text->data + text->len, rule->deny);

        if (holds == 0) {
            return 0;
        }

        all = (holds == -1) ? -1 : all;
    }

    return all;
}


static int
reference_holds(ngx_http_cdm_stop_ctx_t *ctx, const char *text,
    const char *last, int deny)
{
    int         negated, found;
    ngx_str_t  *value;
    ngx_uint_t  i, n;

    negated = (*text == '!');
    text += negated;

    if (memchr(text, '~', last - text)
        || strncmp(text, "addr=", 5) == 0 || strncmp(text, "if=", 3) == 0)
    {
        return -1;
    }

    n = 1;
    value = NULL;

    switch (*text) {

    case 'p':
        value = (text[2] == 'i') ? &ctx->caller.principal
                                 : &ctx->target.project;
        break;

    case 'u':
        value = &ctx->caller.user;
        break;

    case 'd':
        value = &ctx->caller.domain;
        break;

    case 'c':
        value = &ctx->target.cluster;
        break;

    case 'j':
        value = &ctx->target.job;
        break;

    default: /* role */
        n = ctx->caller.roles ? ctx->caller.roles->nelts : 0;
        value = n ? ctx->caller.roles->elts : NULL;
    }

    if (n == 0 || (*text != 'r' && value->len == 0)) {
        return negated && deny;
    }

    text = strchr(text, '=') + 1;
    found = 0;

    for (i = 0; i < n; i++) {
        found |= is_one_of(&value[i], text, last);
    }

    return negated ? !found : found;
}


static int
is_one_of(ngx_str_t *value, const char *list, const char *last)
{
    const char  *comma;

    while (list < last) {
        comma = memchr(list, ',', last - list);
        comma = comma ? comma : last;

        if (value->len == (size_t) (comma - list)
            && memcmp(value->data, list, value->len) == 0)
        {
            return 1;
        }

        list = comma + 1;
    }

    return 0;
}


static void
check_told(cycle_t *c, ngx_http_cdm_stop_rule_t *rule)
{
    char                text[256];
    ngx_uint_t          i;
    static const char  *told[] = {
        "rule \"%.*s\" never matches",
        "rule \"%.*s\" can never match",
        "rule \"%.*s\" is never reached"
    };

    for (i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
        snprintf(text, sizeof(text), told[i], (int) rule->name.len,
                 rule->name.data);
        require(!cycle_has(c, text), "what is told never to match does not");
    }
}


static void
check_trace(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_rule_t *rule)
{
    json_t                        *json, *last;
    ngx_http_variable_value_t      v;
    ngx_http_cdm_stop_enforced_t   enforced;
    ngx_http_cdm_stop_loc_conf_t   conf;

    ngx_memzero(&conf, sizeof(ngx_http_cdm_stop_loc_conf_t));
    ngx_memzero(&enforced, sizeof(ngx_http_cdm_stop_enforced_t));
    ngx_memzero(&v, sizeof(ngx_http_variable_value_t));

    ctx->conf = &conf;

    require(ngx_http_cdm_stop_variable_trace(r, &v, 0) == NGX_OK
            && v.not_found, "nothing was decided");

    conf.enforced = &enforced;
    enforced.policy = policy;

    ctx->decision = (rule && !rule->deny) ? NGX_HTTP_CDM_STOP_DECISION_ALLOW
                                          : NGX_HTTP_CDM_STOP_DECISION_DENY;

    if (rule) {
        ctx->rule = rule->name;
    }

    ngx_memzero(&v, sizeof(ngx_http_variable_value_t));

    require(ngx_http_cdm_stop_variable_trace(r, &v, 0) == NGX_OK && v.valid,
            "a trace");

    json = json_loadb((char *) v.data, v.len, JSON_REJECT_DUPLICATES, NULL);
    require(json_is_array(json), "it is JSON");

    require(rule != NULL || json_array_size(json) == policy->nrules,
            "it has all rules if none decided");

    last = json_array_get(json, json_array_size(json) - 1);

    require((json_object_get(last, "failed") == NULL) == (rule != NULL),
            "its last rule is the one that decided");
    require(rule == NULL
            || strncmp(json_string_value(json_object_get(last, "rule")),
                       (char *) rule->name.data, rule->name.len)
               == 0, "by its name");

    json_decref(json);
}
