
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


static char *ngx_http_cdm_stop_audit_target(ngx_conf_t *cf,
    ngx_http_cdm_stop_audit_t *audit, ngx_str_t *name);
static void ngx_http_cdm_stop_audit_alert(ngx_http_request_t *r,
    ngx_http_cdm_stop_audit_t *audit, ngx_err_t err);


char *
ngx_http_cdm_stop_audit_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    ngx_str_t                  *value;
    ngx_uint_t                  i, off;
    ngx_http_cdm_stop_audit_t  *audit;

    value = cf->args->elts;

    off = (ngx_strcmp(value[1].data, "off") == 0);

    if (cdcf->audit == NGX_CONF_UNSET_PTR) {
        cdcf->audit = ngx_array_create(cf->pool,
                                       NGX_HTTP_CDM_STOP_AUDIT_TARGETS,
                                       sizeof(ngx_http_cdm_stop_audit_t));
        if (cdcf->audit == NULL) {
            return NGX_CONF_ERROR;
        }

    } else if (off || cdcf->audit->nelts == 0) {
        return "cannot be \"off\" and have a target as well";
    }

    if (off) {
        return (cf->args->nelts == 2) ? NGX_CONF_OK
                                      : "\"off\" takes no parameters";
    }

    if (cdcf->audit->nelts == NGX_HTTP_CDM_STOP_AUDIT_TARGETS) {
        return "has more than two targets";
    }

    audit = ngx_array_push(cdcf->audit);
    if (audit == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(audit, sizeof(ngx_http_cdm_stop_audit_t));

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strcmp(value[i].data, "best_effort") == 0) {
            audit->best_effort = 1;
            audit->by_name = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "sync") == 0) {
            return "parameter \"sync\" is not available in this version, "
                   "remove it";
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" of \"cdm_stop_audit\", "
                           "it must be \"best_effort\"", &value[i]);
        return NGX_CONF_ERROR;
    }

    return ngx_http_cdm_stop_audit_target(cf, audit, &value[1]);
}


static char *
ngx_http_cdm_stop_audit_target(ngx_conf_t *cf,
    ngx_http_cdm_stop_audit_t *audit, ngx_str_t *name)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (name->len == 0) {
        return "has an empty target, name a file, \"stderr\" or \"off\"";
    }

    if (ngx_strncmp(name->data, "syslog:", sizeof("syslog:") - 1) == 0) {
        return "target \"syslog:\" is not available in this version, "
               "name a file or \"stderr\"";
    }

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    audit->chain = ngx_http_cdm_stop_chain_add(cf, &cdmcf->chains, name);
    if (audit->chain == NULL) {
        return NGX_CONF_ERROR;
    }

    if (!audit->chain->is_file) {
        audit->best_effort = 1;
    }

    if (audit->chain->file->flush) {
        return "names a file that \"access_log\" buffers, give the records "
               "a file of their own";
    }

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_cdm_stop_audit_write(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_record_t *rec)
{
    ngx_int_t                   rc;
    ngx_uint_t                  i;
    ngx_http_cdm_stop_audit_t  *audit;

    rc = NGX_OK;
    audit = ctx->conf->audit->elts;

    for (i = 0; i < ctx->conf->audit->nelts; i++) {

        if (ngx_http_cdm_stop_chain_append(audit[i].chain, rec, &ctx->slots[i],
                                           r->connection->log)
            == NGX_OK)
        {
            continue;
        }

        ngx_http_cdm_stop_audit_alert(r, &audit[i], ngx_errno);

        if (!audit[i].best_effort) {
            rc = NGX_ERROR;
        }
    }

    return rc;
}


static void
ngx_http_cdm_stop_audit_alert(ngx_http_request_t *r,
    ngx_http_cdm_stop_audit_t *audit, ngx_err_t err)
{
    ngx_http_cdm_stop_worker_t     *worker;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    worker = cdmcf->worker;
    worker->lost++;

    if (worker->lost_logged
        && ngx_time() - worker->lost_logged < NGX_HTTP_CDM_STOP_ALERT_EVERY)
    {
        return;
    }

    worker->lost_logged = ngx_time();

    ngx_log_error(NGX_LOG_ALERT, r->connection->log, err,
                  "audit record could not be written to \"%V\", %ui lost "
                  "by this worker", &audit->chain->name, worker->lost);
}
