
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * Configurations, read by nginx itself.  An input is up to five pieces of
 * text, with a line "%%" before each but the first: what stands in the http
 * block, in an identity, in a policy, in the server and in the guarded
 * location; an empty piece is one that is right.  What is refused has an error
 * that tells the file and the line, and what is accepted guards as it must.
 */


#include "cycle.h"
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


#define CONF_PIECES  5
#define CONF_SIZE    (64 * 1024)


static ngx_uint_t is_foreign(const char *text);
static size_t compose(char *text, const char *data, size_t size);
static void check_refused(cycle_t *c);
static void check_accepted(cycle_t *c);
static void check_guard(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static void check_caller(ngx_http_cdm_stop_loc_conf_t *cdcf);
static void check_proxy(ngx_http_cdm_stop_loc_conf_t *cdcf);
static void check_identity(ngx_http_cdm_stop_identity_t *identity);
static void check_policy(ngx_http_cdm_stop_policy_t *policy);


/* what is around the pieces, and in their place if they are empty */

static const char  *around[CONF_PIECES + 1] = {
    "events { }\nhttp {\n",
    "\ncdm_stop_iam huawei {\n",
    "\n}\n#policy\n",
    "\nserver {\nlisten 127.0.0.1:8080;\n",
    "\nlocation /v1.1/ {\n",
    "\n}\n}\n}\n"
};


static const char  *usual[CONF_PIECES] = {
    "cdm_stop_zone cdm:1m;\n",

    "uri http://127.0.0.1:5000; insecure on; domain acme; user gateway;\n"
    "password_file secret; projects any;\n",

    "",

    "large_client_header_buffers 4 40k;\n",

    "cdm_stop huawei; cdm_stop_audit audit.jsonl;\n"
    "cdm_stop_insecure_upstream on; proxy_pass http://127.0.0.1:8081;\n"
};


/*
 * Words of directives of nginx itself that are not of interest here: they
 * ask for memory or time without bound, or read what is not of these files.
 */

static const char  *foreign[] = {
    "hash", "types", "ssl_", "/dev", "/proc", "/sys", "/etc", "include /",
    "include ..", "*", NULL
};


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
    size_t          len;
    static char     text[CONF_SIZE];
    static cycle_t  c;

    if (size > CONF_SIZE / 2) {
        return 0;
    }

    len = compose(text, (const char *) data, size);

    if (is_foreign(text)) {
        return 0;
    }

    cycle_read(&c, text, len);

    if (c.rc == NGX_OK) {
        check_accepted(&c);

    } else {
        check_refused(&c);
    }

    cycle_free(&c);

    return 0;
}


static ngx_uint_t
is_foreign(const char *text)
{
    ngx_uint_t  i;

    for (i = 0; foreign[i]; i++) {
        if (strstr(text, foreign[i])) {
            return 1;
        }
    }

    return 0;
}


static size_t
compose(char *text, const char *data, size_t size)
{
    char        *p;
    size_t       len;
    ngx_uint_t   i;
    const char  *next;

    p = text;

    for (i = 0; i < CONF_PIECES; i++) {

        next = memmem(data, size, "%%\n", 3);
        len = (next && i < CONF_PIECES - 1) ? (size_t) (next - data) : size;

        p = stpcpy(p, around[i]);

        if (len == 0) {
            p = stpcpy(p, usual[i]);

        } else if (i == 2) {
            p = stpcpy(p, "cdm_stop_policy org {\n");
            p = mempcpy(p, data, len);
            p = stpcpy(p, "\n}\n");

        } else {
            p = mempcpy(p, data, len);
        }

        len += (next && i < CONF_PIECES - 1) ? 3 : 0;
        data += len;
        size -= len;
    }

    p = stpcpy(p, around[CONF_PIECES]);

    return p - text;
}


/*
 * "no memory" is told by nobody, and there is enough of it; the "[emerg]" of
 * core and of the module have the place, be it as "in FILE:LINE"
 */

static void
check_refused(cycle_t *c)
{
    char  place[128];

    require(c->len > 0, "an error is told");

    /* of a variable, core tells that at the end, when no line is known */

    if (cycle_has(c, "unknown \"") && cycle_has(c, "\" variable")) {
        return;
    }

    require(c->worst <= NGX_LOG_EMERG || c->worst == NGX_LOG_CRIT,
            "it is told as one");

    snprintf(place, sizeof(place), "in %s:", cycle_path);

    if (!cycle_has(c, place)) {
        snprintf(place, sizeof(place), "in %s/rules:", cycle_dir);
        require(cycle_has(c, place), "with its file and line");
    }
}


static void
check_accepted(cycle_t *c)
{
    ngx_uint_t                       i, guards;
    ngx_http_cdm_stop_policy_t     **policies;
    ngx_http_cdm_stop_identity_t   **identities;
    ngx_http_cdm_stop_loc_conf_t   **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    require(c->worst >= NGX_LOG_WARN, "no error is told");

    cdmcf = cycle_main_conf(c, &ngx_http_cdm_stop_module);

    if (cdmcf == NULL) {
        return;
    }

    guards = 0;
    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {
        if (locations[i]->identity) {
            guards++;
            check_guard(cdmcf, locations[i]);
        }
    }

    require(guards == 0 || cdmcf->worker != NULL, "a guard has a worker");

    identities = cdmcf->identities.elts;

    for (i = 0; i < cdmcf->identities.nelts; i++) {
        check_identity(identities[i]);
    }

    policies = cdmcf->policies.elts;

    for (i = 0; i < cdmcf->policies.nelts; i++) {
        check_policy(policies[i]);
    }
}


static void
check_guard(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_str_t   *name;
    ngx_uint_t   i;

    require(cdmcf->zone != NULL, "a guard has a zone");
    require(cdcf->audit != NULL && cdcf->audit->nelts <= 2,
            "a guard says where its records go");
    require(cdcf->wait > 0, "there is time to wait");

    check_caller(cdcf);
    check_proxy(cdcf);

    if (cdcf->pass_headers) {
        name = cdcf->pass_headers->elts;

        for (i = 0; i < cdcf->pass_headers->nelts; i++) {
            require(ngx_http_cdm_stop_header_forbidden(&name[i]) == NULL,
                    "a header that may be passed");
        }
    }

    if (cdcf->enforced) {
        require(cdcf->enforced->policy != NULL, "the policy is there");
    }

    if (cdcf->rate) {
        require(cdcf->rate->rate > 0 && cdcf->rate->rate <= 60000
                && cdcf->rate->burst >= 0, "bounds of a rate");
    }

    if (cdcf->reason) {
        require(ngx_http_cdm_stop_header_legal(&cdcf->reason->header),
                "the reason has a legal header");
    }
}


static void
check_caller(ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    if (cdcf->inject == NGX_HTTP_CDM_STOP_INJECT_OFF
        || cdcf->verify == NGX_HTTP_CDM_STOP_VERIFY_REQUIRED
        || cdcf->anonymous)
    {
        return;
    }

    require(cdcf->principal && cdcf->principal->lengths,
            "something identifies the callers");
}


static void
check_proxy(ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_http_upstream_conf_t  *ucf;

    if (cdcf->location->handler == NULL
        || cdcf->inject == NGX_HTTP_CDM_STOP_INJECT_OFF
        || cdcf->insecure_upstream)
    {
        return;
    }

    ucf = ngx_http_cdm_stop_proxy_conf(cdcf->location->loc_conf);

    require(ucf->upstream == NULL || (ucf->ssl && ucf->ssl_verify),
            "the certificate of CDM is checked");
}


static void
check_identity(ngx_http_cdm_stop_identity_t *identity)
{
    size_t      i;
    ngx_str_t  *project;

    require(identity->ssl || identity->insecure, "IAM is asked by https");
    require(!identity->ssl || identity->verify || identity->insecure,
            "the certificate of IAM is checked");
    require(identity->ssl == (identity->upstream.ssl != NULL),
            "https has what it needs");
    require(identity->host.len > 0, "IAM is somewhere");

    for (i = 0; i < identity->host.len; i++) {
        require(identity->host.data[i] > ' ' && identity->host.data[i] < 0x7f,
                "the host is one for a header");
    }

    for (i = 0; i < identity->path.len; i++) {
        require(identity->path.data[i] > ' ' && identity->path.data[i] < 0x7f,
                "the path is one for a request line");
    }

    require(identity->timeout > 0 && identity->verify_cache >= 1000
            && identity->verify_cache <= 86400000
            && identity->refresh_ahead >= 1 && identity->refresh_ahead <= 90,
            "times within their bounds");

    if (identity->projects) {
        project = identity->projects->elts;

        for (i = 0; i < identity->projects->nelts; i++) {
            require(project[i].len == NGX_HTTP_CDM_STOP_PROJECT_LEN,
                    "the length of a project");
        }
    }
}


static void
check_policy(ngx_http_cdm_stop_policy_t *policy)
{
    ngx_uint_t                      i, k;
    ngx_http_cdm_stop_rule_t       *rule;
    ngx_http_cdm_stop_condition_t  *condition;

    require(policy->nrules > 0, "a policy has rules");

    for (i = 0; i < policy->nrules; i++) {
        rule = policy->rules[i];

        require(rule->name.len > 0
                && rule->name.len <= NGX_HTTP_CDM_STOP_RULE_LEN,
                "a rule has a name");
        require(rule->place.line > 0, "a rule has a place");

        for (k = 0; k < rule->nconditions; k++) {
            condition = &rule->conditions[k];

            require((condition->fact == NGX_HTTP_CDM_STOP_FACT_IF)
                    + (condition->regex != NULL)
                    + (condition->values != NULL)
                    + (condition->cidrs != NULL)
                    == 1, "a condition is of one kind");
            require((condition->fact == NGX_HTTP_CDM_STOP_FACT_ADDR)
                    == (condition->cidrs != NULL), "addresses are read");
        }
    }
}
