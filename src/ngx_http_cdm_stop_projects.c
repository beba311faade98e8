
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


/*
 * The projects of an identity that has no "projects": those that the policies
 * name which are enforced where it is used.  A policy that may allow a stop in
 * a project that it does not name, and a place without a policy, leave any.
 */

static ngx_int_t ngx_http_cdm_stop_projects_by_policy(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);
static ngx_int_t ngx_http_cdm_stop_projects_of_rule(ngx_array_t *projects,
    ngx_http_cdm_stop_rule_t *rule);
static ngx_int_t ngx_http_cdm_stop_projects_add(ngx_array_t *projects,
    ngx_str_t *value);
static void ngx_http_cdm_stop_projects_sort(ngx_array_t *projects);
static int ngx_libc_cdecl ngx_http_cdm_stop_projects_cmp(const void *one,
    const void *two);


ngx_int_t
ngx_http_cdm_stop_default_projects(ngx_conf_t *cf)
{
    ngx_int_t                        rc;
    ngx_uint_t                       i;
    ngx_http_cdm_stop_identity_t   **identity;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    identity = cdmcf->identities.elts;

    for (i = 0; i < cdmcf->identities.nelts; i++) {

        if (identity[i]->any_project != NGX_CONF_UNSET) {
            ngx_http_cdm_stop_projects_sort(identity[i]->projects);
            continue;
        }

        rc = ngx_http_cdm_stop_projects_by_policy(cf, identity[i]);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        identity[i]->any_project = (rc == NGX_DECLINED);
        identity[i]->terms.any_project = (rc == NGX_DECLINED);

        if (rc == NGX_OK) {
            ngx_http_cdm_stop_projects_sort(identity[i]->projects);
            continue;
        }

        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &identity[i]->place,
                                     "identity \"%V\" asks IAM for a token of "
                                     "any project that a caller names, list "
                                     "them in \"projects\" or in each rule of "
                                     "the policy that allows, or write "
                                     "\"projects any\"", &identity[i]->name);
    }

    return NGX_OK;
}


/* NGX_DECLINED: any project */

static ngx_int_t
ngx_http_cdm_stop_projects_by_policy(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    ngx_int_t                        rc;
    ngx_uint_t                       i, j;
    ngx_array_t                     *projects;
    ngx_http_cdm_stop_policy_t      *policy;
    ngx_http_cdm_stop_loc_conf_t   **location;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    projects = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
    if (projects == NULL) {
        return NGX_ERROR;
    }

    location = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        if (location[i]->identity != identity) {
            continue;
        }

        /* what a dry run lets pass the policy does not name */

        if (location[i]->enforced == NULL || location[i]->dry_run) {
            return NGX_DECLINED;
        }

        policy = location[i]->enforced->policy;

        for (j = 0; j < policy->nrules; j++) {

            rc = ngx_http_cdm_stop_projects_of_rule(projects,
                                                    policy->rules[j]);
            if (rc != NGX_OK) {
                return rc;
            }
        }
    }

    if (projects->nelts == 0) {
        return NGX_DECLINED;
    }

    identity->projects = projects;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_projects_of_rule(ngx_array_t *projects,
    ngx_http_cdm_stop_rule_t *rule)
{
    ngx_uint_t                      i, j;
    ngx_http_cdm_stop_condition_t  *condition;

    if (rule->deny) {
        return NGX_OK;
    }

    for (i = 0; i < rule->nconditions; i++) {
        condition = &rule->conditions[i];

        if (condition->fact == NGX_HTTP_CDM_STOP_FACT_PROJECT
            && condition->values
            && !condition->negated)
        {
            for (j = 0; j < condition->nvalues; j++) {
                if (ngx_http_cdm_stop_projects_add(projects,
                                                   &condition->values[j])
                    != NGX_OK)
                {
                    return NGX_ERROR;
                }
            }

            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_cdm_stop_projects_add(ngx_array_t *projects, ngx_str_t *value)
{
    ngx_str_t  *project;

    /* no stop has an id of another form */

    if (value->len != NGX_HTTP_CDM_STOP_PROJECT_LEN) {
        return NGX_OK;
    }

    project = ngx_array_push(projects);
    if (project == NULL) {
        return NGX_ERROR;
    }

    *project = *value;

    return NGX_OK;
}


/* a policy may name thousands */

static void
ngx_http_cdm_stop_projects_sort(ngx_array_t *projects)
{
    if (projects) {
        ngx_qsort(projects->elts, projects->nelts, sizeof(ngx_str_t),
                  ngx_http_cdm_stop_projects_cmp);
    }
}


static int ngx_libc_cdecl
ngx_http_cdm_stop_projects_cmp(const void *one, const void *two)
{
    const ngx_str_t  *first = one;
    const ngx_str_t  *second = two;

    return ngx_memcmp(first->data, second->data,
                      NGX_HTTP_CDM_STOP_PROJECT_LEN);
}


ngx_uint_t
ngx_http_cdm_stop_serves(ngx_http_cdm_stop_identity_t *identity,
    ngx_str_t *project)
{
    return identity->any_project
           || bsearch(project, identity->projects->elts,
                      identity->projects->nelts, sizeof(ngx_str_t),
                      ngx_http_cdm_stop_projects_cmp)
              != NULL;
}
