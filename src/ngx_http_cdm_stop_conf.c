
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/* how long a request waits for IAM, in milliseconds */
#define NGX_HTTP_CDM_STOP_WAIT  8000


static char *ngx_http_cdm_stop_resolve(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);


void *
ngx_http_cdm_stop_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    /*
     * set by ngx_http_cdm_stop_conf_alloc():
     *
     *     cdmcf->zone = NULL;
     *     cdmcf->refusals = NULL;
     *     cdmcf->server = NULL;
     *     cdmcf->worker = NULL;
     */

    cdmcf = ngx_http_cdm_stop_conf_alloc(cf,
                                        sizeof(ngx_http_cdm_stop_main_conf_t));
    if (cdmcf == NULL) {
        return NULL;
    }

    cdmcf->pages = ngx_http_cdm_stop_conf_pages();

    if (ngx_array_init(&cdmcf->identities, cf->pool, 4,
                       sizeof(ngx_http_cdm_stop_identity_t *))
        != NGX_OK
        || ngx_array_init(&cdmcf->policies, cf->pool, 4,
                          sizeof(ngx_http_cdm_stop_policy_t *))
           != NGX_OK
        || ngx_array_init(&cdmcf->peers, cf->pool, 4,
                          sizeof(ngx_http_cdm_stop_peer_t))
           != NGX_OK
        || ngx_array_init(&cdmcf->locations, cf->pool, 16,
                          sizeof(ngx_http_cdm_stop_loc_conf_t *))
           != NGX_OK
        || ngx_array_init(&cdmcf->chains, cf->pool, 4,
                          sizeof(ngx_http_cdm_stop_chain_t *))
           != NGX_OK)
    {
        return NULL;
    }

    return cdmcf;
}


void *
ngx_http_cdm_stop_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    /*
     * set by ngx_http_cdm_stop_conf_alloc():
     *
     *     cdcf->identity_name = { 0, NULL };
     *     cdcf->refusals = NULL;
     *     cdcf->server = NULL;
     *     cdcf->location = NULL;
     *     cdcf->place = { { 0, NULL }, 0 };
     *     cdcf->own = 0;
     *     cdcf->named = 0;
     */

    cdcf = ngx_http_cdm_stop_conf_alloc(cf,
                                        sizeof(ngx_http_cdm_stop_loc_conf_t));
    if (cdcf == NULL) {
        return NULL;
    }

    cdcf->identity = NGX_CONF_UNSET_PTR;
    cdcf->verify = NGX_CONF_UNSET_UINT;
    cdcf->principal = NGX_CONF_UNSET_PTR;
    cdcf->inject = NGX_CONF_UNSET_UINT;
    cdcf->other = NGX_CONF_UNSET_UINT;
    cdcf->anonymous = NGX_CONF_UNSET;
    cdcf->insecure_upstream = NGX_CONF_UNSET;
    cdcf->wait = NGX_CONF_UNSET_MSEC;
    cdcf->pass_headers = NGX_CONF_UNSET_PTR;
    cdcf->audit = NGX_CONF_UNSET_PTR;
    cdcf->audit_format = NGX_CONF_UNSET_UINT;
    cdcf->enforced = NGX_CONF_UNSET_PTR;
    cdcf->reason = NGX_CONF_UNSET_PTR;
    cdcf->rate = NGX_CONF_UNSET_PTR;
    cdcf->dry_run = NGX_CONF_UNSET;

    return cdcf;
}


char *
ngx_http_cdm_stop_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_cdm_stop_loc_conf_t *prev = parent;
    ngx_http_cdm_stop_loc_conf_t *conf = child;

    ngx_http_cdm_stop_loc_conf_t   **location;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    if (ngx_http_cdm_stop_resolve(cf, prev) != NGX_CONF_OK
        || ngx_http_cdm_stop_resolve(cf, conf) != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (conf->identity == NGX_CONF_UNSET_PTR) {
        conf->place = prev->place;

        /* for the http block, which is nobody's child, its servers speak */

        conf->own = (prev->own && prev->location == NULL);
    }

    if (conf->status && !conf->own) {

        /* it tells of the gateway, and nothing of CDM */

        conf->identity = NULL;
    }

    ngx_conf_merge_ptr_value(conf->identity, prev->identity, NULL);
    ngx_conf_merge_uint_value(conf->verify, prev->verify,
                              NGX_HTTP_CDM_STOP_VERIFY_REQUIRED);
    conf->named = (conf->principal != NGX_CONF_UNSET_PTR);
    ngx_conf_merge_ptr_value(conf->principal, prev->principal, NULL);
    ngx_conf_merge_uint_value(conf->inject, prev->inject,
                              NGX_HTTP_CDM_STOP_INJECT_ALWAYS);
    ngx_conf_merge_uint_value(conf->other, prev->other,
                              NGX_HTTP_CDM_STOP_OTHER_PASS);
    ngx_conf_merge_value(conf->anonymous, prev->anonymous, 0);
    ngx_conf_merge_value(conf->insecure_upstream, prev->insecure_upstream, 0);
    ngx_conf_merge_msec_value(conf->wait, prev->wait, NGX_HTTP_CDM_STOP_WAIT);
    ngx_conf_merge_ptr_value(conf->pass_headers, prev->pass_headers, NULL);
    ngx_conf_merge_ptr_value(conf->audit, prev->audit, NULL);
    ngx_conf_merge_uint_value(conf->audit_format, prev->audit_format,
                              NGX_HTTP_CDM_STOP_FORMAT_NATIVE);
    ngx_conf_merge_ptr_value(conf->enforced, prev->enforced, NULL);
    ngx_conf_merge_ptr_value(conf->reason, prev->reason, NULL);
    ngx_conf_merge_ptr_value(conf->rate, prev->rate, NULL);
    conf->tried = (conf->dry_run == 1);
    ngx_conf_merge_value(conf->dry_run, prev->dry_run, 0);

    conf->server = ngx_http_conf_get_module_srv_conf(cf, ngx_http_core_module);
    conf->location = ngx_http_conf_get_module_loc_conf(cf,
                                                       ngx_http_core_module);

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    location = ngx_array_push(&cdmcf->locations);
    if (location == NULL) {
        return NGX_CONF_ERROR;
    }

    *location = conf;

    return NGX_CONF_OK;
}


/* "cdm_stop NAME" may stand before "cdm_stop_iam NAME" */

static char *
ngx_http_cdm_stop_resolve(ngx_conf_t *cf, ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_identity_t   **identities;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    if (cdcf->identity_name.len == 0) {
        return NGX_CONF_OK;
    }

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    identities = cdmcf->identities.elts;

    for (i = 0; i < cdmcf->identities.nelts; i++) {

        if (identities[i]->name.len == cdcf->identity_name.len
            && ngx_strncmp(identities[i]->name.data, cdcf->identity_name.data,
                           cdcf->identity_name.len)
               == 0)
        {
            cdcf->identity = identities[i];
            return NGX_CONF_OK;
        }
    }

    ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                 "unknown identity \"%V\", define it by "
                                 "\"cdm_stop_iam %V { ... }\" in the http "
                                 "block", &cdcf->identity_name,
                                 &cdcf->identity_name);

    return NGX_CONF_ERROR;
}
