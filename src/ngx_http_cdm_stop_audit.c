
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_stats.h"
#include "ngx_http_cdm_stop_sync.h"


static char *ngx_http_cdm_stop_audit_words(ngx_conf_t *cf,
    ngx_http_cdm_stop_audit_t *audit, ngx_uint_t *sync);
static char *ngx_http_cdm_stop_audit_target(ngx_conf_t *cf,
    ngx_http_cdm_stop_audit_t *audit, ngx_str_t *name);
static void ngx_http_cdm_stop_audit_alert(ngx_http_request_t *r,
    ngx_http_cdm_stop_chain_t *chain, ngx_err_t err);


char *
ngx_http_cdm_stop_audit_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    char                       *rv;
    ngx_str_t                  *value;
    ngx_uint_t                  off, sync;
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

    if (ngx_http_cdm_stop_audit_words(cf, audit, &sync) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    rv = ngx_http_cdm_stop_audit_target(cf, audit, &value[1]);

    if (rv != NGX_CONF_OK || !sync) {
        return rv;
    }

    if (!audit->chain->is_file) {
        return "parameter \"sync\" needs a file, remove the word or name "
               "one";
    }

    if (ngx_http_cdm_stop_sync_add(cf, audit->chain) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    audit->sync = audit->chain->sync;

    return NGX_CONF_OK;
}


/* the names are taken already, so that nobody takes one for another thing */

char *
ngx_http_cdm_stop_audit_format(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    ngx_str_t  *value;

    if (cdcf->audit_format != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "native") == 0) {
        cdcf->audit_format = NGX_HTTP_CDM_STOP_FORMAT_NATIVE;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "cts") == 0
        || ngx_strcmp(value[1].data, "ocsf") == 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"cdm_stop_audit_format %V\" comes with a later "
                           "version, remove it or write \"native\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" of \"cdm_stop_audit_format\", "
                       "it must be \"native\"", &value[1]);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_cdm_stop_audit_words(ngx_conf_t *cf, ngx_http_cdm_stop_audit_t *audit,
    ngx_uint_t *sync)
{
    ngx_str_t   *value;
    ngx_uint_t   i;

    *sync = 0;
    value = cf->args->elts;

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strcmp(value[i].data, "best_effort") == 0) {
            audit->best_effort = 1;
            audit->by_name = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "sync") == 0) {
            *sync = 1;
            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" of \"cdm_stop_audit\", "
                           "it must be \"best_effort\" or \"sync\"",
                           &value[i]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_cdm_stop_audit_target(ngx_conf_t *cf,
    ngx_http_cdm_stop_audit_t *audit, ngx_str_t *name)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (name->len == 0) {
        return "has an empty target, name a file, \"syslog:...\", "
               "\"stderr\" or \"off\"";
    }

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    audit->chain = ngx_http_cdm_stop_chain_add(cf, &cdmcf->chains, name);
    if (audit->chain == NULL) {
        return NGX_CONF_ERROR;
    }

    if (!audit->chain->is_file) {
        audit->best_effort = 1;
    }

    if (audit->chain->file && audit->chain->file->flush) {
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
    ngx_http_cdm_stop_stage_e   stage;

    rc = NGX_OK;

    stage = ctx->refused ? NGX_HTTP_CDM_STOP_STAGE_REFUSED
            : (ctx->outcome ? NGX_HTTP_CDM_STOP_STAGE_OUTCOME
                            : NGX_HTTP_CDM_STOP_STAGE_INTENT);

    audit = ctx->conf->audit->elts;

    for (i = 0; i < ctx->conf->audit->nelts; i++) {

        if (ngx_http_cdm_stop_stats_append(audit[i].chain, rec, &ctx->slots[i],
                                           r->connection->log, stage)
            == NGX_OK)
        {
            continue;
        }

        ngx_http_cdm_stop_audit_alert(r, audit[i].chain, ngx_errno);

        if (!audit[i].best_effort) {
            rc = NGX_ERROR;
        }
    }

    return rc;
}


static void
ngx_http_cdm_stop_audit_alert(ngx_http_request_t *r,
    ngx_http_cdm_stop_chain_t *chain, ngx_err_t err)
{
    chain->lost++;

    if (chain->lost_logged
        && ngx_time() - chain->lost_logged < NGX_HTTP_CDM_STOP_ALERT_EVERY)
    {
        return;
    }

    chain->lost_logged = ngx_time();

    ngx_log_error(NGX_LOG_ALERT, r->connection->log, err,
                  "audit record could not be written to \"%V\", %ui lost "
                  "by this worker", &chain->name, chain->lost);
}
