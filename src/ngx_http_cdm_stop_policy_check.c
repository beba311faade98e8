
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


static void ngx_http_cdm_stop_check_unruled(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static void ngx_http_cdm_stop_check_enforced(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);


ngx_int_t
ngx_http_cdm_stop_check_policies(ngx_conf_t *cf)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_policy_t     **policies;
    ngx_http_cdm_stop_loc_conf_t   **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        if (ngx_http_cdm_stop_policy_resolve(cf, cdmcf, locations[i]->enforced)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (locations[i]->identity && locations[i]->own) {
            ngx_http_cdm_stop_check_unruled(cf, locations[i]);
        }

        if (locations[i]->identity
            && locations[i]->dry_run
            && (locations[i]->own || locations[i]->tried))
        {
            ngx_http_cdm_stop_check_enforced(cf, locations[i]);
        }
    }

    if (ngx_http_cdm_stop_default_projects(cf) != NGX_OK) {
        return NGX_ERROR;
    }

    policies = cdmcf->policies.elts;

    for (i = 0; i < cdmcf->policies.nelts; i++) {

        if (!policies[i]->used) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &policies[i]->place,
                                         "policy \"%V\" is not used, write "
                                         "\"cdm_stop_enforce %V;\" beside "
                                         "\"cdm_stop\" or remove it",
                                         &policies[i]->name,
                                         &policies[i]->name);
        }
    }

    return NGX_OK;
}


/* of callers without any identity another warning tells */

static void
ngx_http_cdm_stop_check_unruled(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    if (cdcf->enforced
        || cdcf->dry_run
        || cdcf->inject == NGX_HTTP_CDM_STOP_INJECT_OFF
        || (cdcf->anonymous
            && cdcf->verify != NGX_HTTP_CDM_STOP_VERIFY_REQUIRED))
    {
        return;
    }

    ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                 "everyone who is identified stops any job "
                                 "with the gateway's token, say who may in a "
                                 "\"cdm_stop_policy\" and write "
                                 "\"cdm_stop_enforce\" beside \"cdm_stop\"");
}


static void
ngx_http_cdm_stop_check_enforced(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    if (cdcf->enforced == NULL && cdcf->reason == NULL && cdcf->rate == NULL
        && (cdcf->inject == NGX_HTTP_CDM_STOP_INJECT_ALWAYS
            || (cdcf->verify == NGX_HTTP_CDM_STOP_VERIFY_OFF
                && cdcf->principal == NULL)))
    {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                     "\"cdm_stop_dry_run on\" has no effect "
                                     "on \"cdm_stop\" without "
                                     "\"cdm_stop_enforce\", "
                                     "\"cdm_stop_reason\" or "
                                     "\"cdm_stop_rate\", remove it or add "
                                     "one of them");
        return;
    }

    if (cdcf->inject != NGX_HTTP_CDM_STOP_INJECT_OFF) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                     "\"cdm_stop_dry_run on\" refuses no stop "
                                     "of \"cdm_stop\", whatever the policy "
                                     "says: everyone %s stops jobs with the "
                                     "gateway's token; remove it once the "
                                     "records show what you want",
                                     cdcf->anonymous ? "who reaches it"
                                                     : "who is identified");
    }
}
