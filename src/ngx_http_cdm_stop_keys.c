
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/* a key of fewer bytes could be guessed; of more than these nobody needs */
#define NGX_HTTP_CDM_STOP_KEY_MIN  16
#define NGX_HTTP_CDM_STOP_KEY_MAX  4096


char *
ngx_http_cdm_stop_audit_key(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_main_conf_t *cdmcf = conf;

    ngx_str_t  *value;

    if (cdmcf->audit_key.len) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_http_cdm_stop_read_key(cf, &value[1], &cdmcf->audit_key)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (cdmcf->audit_key.len < NGX_HTTP_CDM_STOP_KEY_MIN
        || cdmcf->audit_key.len > NGX_HTTP_CDM_STOP_KEY_MAX)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "key \"%V\" has %uz bytes, it must have 16 to "
                           "4096; make one by: openssl rand -hex -out %V 32",
                           &value[1], cdmcf->audit_key.len, &value[1]);
        return NGX_CONF_ERROR;
    }

    cdmcf->audit_key_place.file = cf->conf_file->file.name;
    cdmcf->audit_key_place.line = cf->conf_file->line;

    return NGX_CONF_OK;
}


char *
ngx_http_cdm_stop_audit_sign(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_main_conf_t *cdmcf = conf;

    ngx_int_t   every;
    ngx_str_t  *value, time;

    if (cdmcf->sign) {
        return "is duplicate";
    }

    value = cf->args->elts;
    every = NGX_HTTP_CDM_STOP_EVERY;

    if (cf->args->nelts == 3) {

        if (ngx_strncmp(value[2].data, "every=", sizeof("every=") - 1) != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" of "
                               "\"cdm_stop_audit_sign\", it must be "
                               "\"every=TIME\"", &value[2]);
            return NGX_CONF_ERROR;
        }

        time.data = value[2].data + sizeof("every=") - 1;
        time.len = value[2].len - (sizeof("every=") - 1);

        every = ngx_parse_time(&time, 1);

        if (every == NGX_ERROR
            || every == 0
            || every > NGX_HTTP_CDM_STOP_EVERY_MAX)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid time \"%V\" of "
                               "\"cdm_stop_audit_sign\", write 1s to 1d",
                               &value[2]);
            return NGX_CONF_ERROR;
        }
    }

    cdmcf->sign = ngx_http_cdm_stop_sign_create(cf, &value[1],
                                                (ngx_msec_t) every * 1000);
    if (cdmcf->sign == NULL) {
        return NGX_CONF_ERROR;
    }

    cdmcf->sign_place.file = cf->conf_file->file.name;
    cdmcf->sign_place.line = cf->conf_file->line;

    return NGX_CONF_OK;
}


void
ngx_http_cdm_stop_check_keys(ngx_conf_t *cf)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_loc_conf_t   **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        if (locations[i]->identity
            && locations[i]->audit
            && locations[i]->audit->nelts)
        {
            return;
        }
    }

    if (cdmcf->audit_key.len) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN,
                                     &cdmcf->audit_key_place,
                                     "\"cdm_stop_audit_key\" has no effect, no "
                                     "\"cdm_stop\" writes records by "
                                     "\"cdm_stop_audit FILE\"; remove it");
    }

    if (cdmcf->sign) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdmcf->sign_place,
                                     "\"cdm_stop_audit_sign\" has no effect, "
                                     "no \"cdm_stop\" writes records by "
                                     "\"cdm_stop_audit FILE\"; remove it");
    }
}


ngx_int_t
ngx_http_cdm_stop_init_chains(ngx_conf_t *cf)
{
    u_char                          md[NGX_HTTP_CDM_STOP_MAC_LEN];
    ngx_int_t                       rc;
    ngx_str_t                       label, key;
    ngx_http_cdm_stop_mac_t        *mac;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    if (ngx_http_cdm_stop_chain_zones(cf, &cdmcf->chains, &cdmcf->audit_key,
                                      cdmcf->sign)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (cdmcf->audit_key.len == 0) {
        return NGX_OK;
    }

    /* a key of its own, by which the verifier finds a token in records */

    mac = ngx_http_cdm_stop_mac_create(cf->pool, &cdmcf->audit_key);

    ngx_explicit_memzero(cdmcf->audit_key.data, cdmcf->audit_key.len);

    ngx_str_set(&label, "cdm_stop fingerprint v1");

    if (mac == NULL || ngx_http_cdm_stop_mac(mac, &label, 1, md) != NGX_OK) {
        return NGX_ERROR;
    }

    key.data = md;
    key.len = sizeof(md);

    mac = ngx_http_cdm_stop_mac_create(cf->pool, &key);

    ngx_explicit_memzero(md, sizeof(md));

    rc = NGX_ERROR;

    if (mac) {
        rc = ngx_http_cdm_stop_zone_fingerprint(cdmcf->zone, mac);
    }

    return rc;
}
