
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


char *
ngx_http_cdm_stop_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_main_conf_t *cdmcf = conf;

    u_char     *p;
    ssize_t     size;
    ngx_str_t  *value, name, s;

    if (cdmcf->zone) {
        return "is duplicate";
    }

    value = cf->args->elts;

    name.data = value[1].data;

    p = (u_char *) ngx_strchr(name.data, ':');

    if (p == NULL || p == name.data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone \"%V\", write name:size such as "
                           "\"cdm:16m\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    name.len = p - name.data;

    s.data = p + 1;
    s.len = value[1].data + value[1].len - s.data;

    size = ngx_parse_size(&s);

    if (size == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid size \"%V\" of zone \"%V\", write such as "
                           "\"16m\"", &s, &name);
        return NGX_CONF_ERROR;
    }

    if (size < NGX_HTTP_CDM_STOP_ZONE_MIN) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone \"%V\" is too small, give it at least 256k",
                           &name);
        return NGX_CONF_ERROR;
    }

    cdmcf->zone = ngx_http_cdm_stop_zone_add(cf, &name, size);

    return cdmcf->zone ? NGX_CONF_OK : NGX_CONF_ERROR;
}


char *
ngx_http_cdm_stop_directive(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    ngx_str_t  *value;

    if (cdcf->identity != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "has an empty name, write that of a \"cdm_stop_iam\" or "
               "\"off\"";
    }

    cdcf->own = 1;
    cdcf->identity = NULL;
    cdcf->place.file = cf->conf_file->file.name;
    cdcf->place.line = cf->conf_file->line;

    if (ngx_strcmp(value[1].data, "off") != 0) {
        cdcf->identity_name = value[1];
    }

    return NGX_CONF_OK;
}


char *
ngx_http_cdm_stop_set_enum(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    u_char           *p, *last, text[NGX_MAX_CONF_ERRSTR];
    ngx_str_t        *value;
    ngx_uint_t       *np, i;
    ngx_conf_enum_t  *e;

    np = (ngx_uint_t *) ((u_char *) conf + cmd->offset);

    if (*np != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;
    e = cmd->post;

    p = text;
    last = text + NGX_MAX_CONF_ERRSTR;

    for (i = 0; e[i].name.len; i++) {

        if (e[i].name.len == value[1].len
            && ngx_strcmp(e[i].name.data, value[1].data) == 0)
        {
            *np = e[i].value;
            return NGX_CONF_OK;
        }

        p = ngx_slprintf(p, last, "%s\"%V\"",
                         (i == 0) ? "" : (e[i + 1].name.len ? ", " : " or "),
                         &e[i].name);
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" of \"%V\", it must be %*s",
                       &value[1], &cmd->name, (size_t) (p - text), text);

    return NGX_CONF_ERROR;
}


char *
ngx_http_cdm_stop_pass_header(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    ngx_str_t   *value, *name;
    const char  *reason;
    ngx_uint_t   i;

    if (cdcf->pass_headers == NGX_CONF_UNSET_PTR) {
        cdcf->pass_headers = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
        if (cdcf->pass_headers == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        reason = ngx_http_cdm_stop_header_forbidden(&value[i]);

        if (reason) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "header \"%V\" may not be passed to CDM: it %s",
                               &value[i], reason);
            return NGX_CONF_ERROR;
        }

        name = ngx_array_push(cdcf->pass_headers);
        if (name == NULL) {
            return NGX_CONF_ERROR;
        }

        *name = value[i];
    }

    return NGX_CONF_OK;
}
