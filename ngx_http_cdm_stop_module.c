
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_iam.h"
#include "ngx_http_cdm_stop_policy.h"
#include "ngx_http_cdm_stop_refusals.h"
#include "ngx_http_cdm_stop_stats.h"
#include "ngx_http_cdm_stop_status.h"


static ngx_int_t ngx_http_cdm_stop_preconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_cdm_stop_postconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_cdm_stop_create_worker(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf);
static ngx_int_t ngx_http_cdm_stop_add_handlers(ngx_conf_t *cf);
static ngx_int_t ngx_http_cdm_stop_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_cdm_stop_init_process(ngx_cycle_t *cycle);
static void ngx_http_cdm_stop_exit_process(ngx_cycle_t *cycle);


static ngx_conf_enum_t  ngx_http_cdm_stop_verify[] = {
    { ngx_string("required"), NGX_HTTP_CDM_STOP_VERIFY_REQUIRED },
    { ngx_string("optional"), NGX_HTTP_CDM_STOP_VERIFY_OPTIONAL },
    { ngx_string("off"), NGX_HTTP_CDM_STOP_VERIFY_OFF },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_cdm_stop_inject[] = {
    { ngx_string("always"), NGX_HTTP_CDM_STOP_INJECT_ALWAYS },
    { ngx_string("missing"), NGX_HTTP_CDM_STOP_INJECT_MISSING },
    { ngx_string("off"), NGX_HTTP_CDM_STOP_INJECT_OFF },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_cdm_stop_other[] = {
    { ngx_string("pass"), NGX_HTTP_CDM_STOP_OTHER_PASS },
    { ngx_string("deny"), NGX_HTTP_CDM_STOP_OTHER_DENY },
    { ngx_null_string, 0 }
};


static ngx_command_t  ngx_http_cdm_stop_commands[] = {

    { ngx_string("cdm_stop_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_iam"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_identity_block,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_verify"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_set_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_cdm_stop_loc_conf_t, verify),
      &ngx_http_cdm_stop_verify },

    { ngx_string("cdm_stop_principal"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_set_complex_value_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_cdm_stop_loc_conf_t, principal),
      NULL },

    { ngx_string("cdm_stop_inject"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_set_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_cdm_stop_loc_conf_t, inject),
      &ngx_http_cdm_stop_inject },

    { ngx_string("cdm_stop_other"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_set_enum,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_cdm_stop_loc_conf_t, other),
      &ngx_http_cdm_stop_other },

    { ngx_string("cdm_stop_anonymous"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_cdm_stop_loc_conf_t, anonymous),
      NULL },

    { ngx_string("cdm_stop_insecure_upstream"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_cdm_stop_loc_conf_t, insecure_upstream),
      NULL },

    { ngx_string("cdm_stop_wait"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_cdm_stop_loc_conf_t, wait),
      NULL },

    { ngx_string("cdm_stop_pass_header"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_cdm_stop_pass_header,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_policy"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_policy_block,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_enforce"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_enforce_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_dry_run"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_cdm_stop_loc_conf_t, dry_run),
      NULL },

    { ngx_string("cdm_stop_reason"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_cdm_stop_reason_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_rate"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_cdm_stop_rate_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_audit"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_cdm_stop_audit_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_status_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_audit_format"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_audit_format,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_audit_key"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_cdm_stop_audit_key,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("cdm_stop_audit_sign"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE12,
      ngx_http_cdm_stop_audit_sign,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_cdm_stop_module_ctx = {
    ngx_http_cdm_stop_preconfiguration,    /* preconfiguration */
    ngx_http_cdm_stop_postconfiguration,   /* postconfiguration */

    ngx_http_cdm_stop_create_main_conf,    /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_cdm_stop_create_loc_conf,     /* create location configuration */
    ngx_http_cdm_stop_merge_loc_conf       /* merge location configuration */
};


ngx_module_t  ngx_http_cdm_stop_module = {
    NGX_MODULE_V1,
    &ngx_http_cdm_stop_module_ctx,         /* module context */
    ngx_http_cdm_stop_commands,            /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_cdm_stop_init_module,         /* init module */
    ngx_http_cdm_stop_init_process,        /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_cdm_stop_exit_process,        /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_cdm_stop_preconfiguration(ngx_conf_t *cf)
{
    if (ngx_http_cdm_stop_iam_bind() != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_cdm_stop_add_variables(cf);
}


static ngx_int_t
ngx_http_cdm_stop_postconfiguration(ngx_conf_t *cf)
{
    ngx_uint_t                       i;
    ngx_http_core_srv_conf_t       **cscfp;
    ngx_http_core_main_conf_t       *cmcf;
    ngx_http_cdm_stop_loc_conf_t   **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    ngx_http_cdm_stop_check_keys(cf);

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {
        if (locations[i]->identity) {
            break;
        }
    }

    if (i == cdmcf->locations.nelts) {

        /* guards nothing, so it touches nothing */

        return ngx_http_cdm_stop_check_status(cf, 0);
    }

    if (ngx_http_cdm_stop_check(cf) != NGX_OK
        || ngx_http_cdm_stop_check_status(cf, 1) != NGX_OK)
    {
        return NGX_ERROR;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);
    cscfp = cmcf->servers.elts;

    cdmcf->server = cscfp[0]->ctx;

    if (ngx_http_cdm_stop_create_worker(cf, cdmcf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_cdm_stop_init_chains(cf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_cdm_stop_refusals_init(cf, cdmcf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_cdm_stop_stats_init(cf, cdmcf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_cdm_stop_wrap_upstreams(cf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_cdm_stop_add_handlers(cf) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_cdm_stop_filter_init(cf);
}


static ngx_int_t
ngx_http_cdm_stop_create_worker(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    ngx_pool_cleanup_t  *cln;

    cdmcf->worker = ngx_pcalloc(cf->pool, sizeof(ngx_http_cdm_stop_worker_t));
    if (cdmcf->worker == NULL) {
        return NGX_ERROR;
    }

    ngx_queue_init(&cdmcf->worker->groups);

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_cdm_stop_stop_renewal;
    cln->data = cdmcf;

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_cdm_stop_stop_keeping;
    cln->data = cdmcf;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_add_handlers(ngx_conf_t *cf)
{
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_POST_READ_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_cdm_stop_post_read;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PRECONTENT_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_cdm_stop_handler;

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_LOG_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_cdm_stop_log;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_init_module(ngx_cycle_t *cycle)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (ngx_test_config || ngx_cycle->conf_ctx == NULL) {
        return NGX_OK;
    }

    if (ngx_process == NGX_PROCESS_MASTER) {

        /* a reload: workers of both configurations will write */

        cdmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                    ngx_http_cdm_stop_module);
        if (cdmcf) {
            ngx_http_cdm_stop_files_made(cdmcf, cycle->log);
        }

    } else if (ngx_process == NGX_PROCESS_SINGLE) {

        /* without a master, the files of the old one are closed next */

        cdmcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                                    ngx_http_cdm_stop_module);
        if (cdmcf) {
            ngx_http_cdm_stop_refusals_flush(cdmcf);
            ngx_http_cdm_stop_stop_keeping(cdmcf);
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_init_process(ngx_cycle_t *cycle)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    cdmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                ngx_http_cdm_stop_module);

    if (cdmcf == NULL || cdmcf->worker == NULL) {
        return NGX_OK;
    }

    ngx_http_cdm_stop_start_renewal(cdmcf);
    ngx_http_cdm_stop_start_keeping(cdmcf);
    ngx_http_cdm_stop_stats_worker(cdmcf);

    return ngx_http_cdm_stop_conf_protect(cdmcf->pages, cycle->log);
}


static void
ngx_http_cdm_stop_exit_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_chain_t      **chains;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE)
    {
        return;
    }

    cdmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                ngx_http_cdm_stop_module);

    if (cdmcf == NULL || cdmcf->worker == NULL) {
        return;
    }

    ngx_http_cdm_stop_refusals_flush(cdmcf);

    chains = cdmcf->chains.elts;

    for (i = 0; i < cdmcf->chains.nelts; i++) {
        ngx_http_cdm_stop_keep_exit(chains[i], cdmcf->worker->record,
                                    cycle->log);
    }

    ngx_http_cdm_stop_stats_exit(cdmcf);
}
