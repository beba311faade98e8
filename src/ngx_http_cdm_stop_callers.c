
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/* "ssl_verify_client" takes any certificate with this value */
#define NGX_HTTP_CDM_STOP_OPTIONAL_NO_CA  3


static ngx_int_t ngx_http_cdm_stop_check_principal(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static void ngx_http_cdm_stop_check_modes(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static void ngx_http_cdm_stop_check_variables(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static const char *ngx_http_cdm_stop_check_variable(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf, ngx_str_t *name);
static ngx_uint_t ngx_http_cdm_stop_has_basic(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static ngx_uint_t ngx_http_cdm_stop_has_certificates(
    ngx_http_cdm_stop_loc_conf_t *cdcf);


/* what a caller writes as it likes */

static ngx_str_t  ngx_http_cdm_stop_written[] = {
    ngx_string("http_"),
    ngx_string("arg_"),
    ngx_string("cookie_"),
    ngx_string("args"),
    ngx_string("query_string"),
    ngx_string("request"),
    ngx_string("uri"),
    ngx_string("document_uri"),
    ngx_string("host"),
    ngx_null_string
};


ngx_int_t
ngx_http_cdm_stop_check_callers(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    if (ngx_http_cdm_stop_check_principal(cf, cdcf) != NGX_OK) {
        return NGX_ERROR;
    }

    /* warnings are for the place where they can be mended, once */

    if (cdcf->own) {
        ngx_http_cdm_stop_check_modes(cf, cdcf);
    }

    if (cdcf->own || cdcf->named) {
        ngx_http_cdm_stop_check_variables(cf, cdcf);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_check_principal(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    if (cdcf->principal && cdcf->principal->value.len == 0) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                     "\"cdm_stop_principal\" of \"cdm_stop\" "
                                     "is empty and names nobody, write a "
                                     "variable of what authenticates callers, "
                                     "such as \"$ssl_client_s_dn\"");
        return NGX_ERROR;
    }

    if (cdcf->verify == NGX_HTTP_CDM_STOP_VERIFY_REQUIRED
        || cdcf->inject == NGX_HTTP_CDM_STOP_INJECT_OFF
        || cdcf->anonymous)
    {
        return NGX_OK;
    }

    if (cdcf->principal == NULL) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                     "nothing identifies the callers of "
                                     "\"cdm_stop\", and all would stop jobs "
                                     "with the gateway's token; remove "
                                     "\"cdm_stop_verify %s\", name callers in "
                                     "\"cdm_stop_principal\" or, if other "
                                     "means keep strangers out, write "
                                     "\"cdm_stop_anonymous on;\"",
                                     (cdcf->verify
                                      == NGX_HTTP_CDM_STOP_VERIFY_OFF)
                                     ? "off" : "optional");
        return NGX_ERROR;
    }

    if (cdcf->principal->lengths == NULL) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                     "\"cdm_stop_principal\" of \"cdm_stop\" "
                                     "has no variable and is the same for "
                                     "everybody, write one or, if other means "
                                     "keep strangers out, add "
                                     "\"cdm_stop_anonymous on;\"");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_http_cdm_stop_check_modes(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    if (cdcf->verify == NGX_HTTP_CDM_STOP_VERIFY_REQUIRED) {

        if (cdcf->anonymous) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                         "\"cdm_stop_anonymous on\" of "
                                         "\"cdm_stop\" has no effect where "
                                         "callers have to send a token; "
                                         "remove it, or write "
                                         "\"cdm_stop_verify optional;\"");
        }

        if (cdcf->inject == NGX_HTTP_CDM_STOP_INJECT_MISSING) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                         "\"cdm_stop_inject missing\" of "
                                         "\"cdm_stop\" never injects where "
                                         "callers have to send a token; write "
                                         "\"cdm_stop_inject off;\", or "
                                         "\"cdm_stop_verify optional;\" with "
                                         "\"cdm_stop_principal\"");
        }

        return;
    }

    if (cdcf->inject != NGX_HTTP_CDM_STOP_INJECT_OFF) {

        if (cdcf->anonymous) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                         "everyone who reaches this "
                                         "\"cdm_stop\" stops jobs with the "
                                         "gateway's token, see to it that "
                                         "only those do who may");
        }

        return;
    }

    if (cdcf->verify == NGX_HTTP_CDM_STOP_VERIFY_OFF
        && cdcf->principal == NULL)
    {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                     "\"cdm_stop\" neither identifies callers "
                                     "nor injects a token, it only keeps "
                                     "records; remove \"cdm_stop_verify off\" "
                                     "or \"cdm_stop_inject off\" if that is "
                                     "not what is meant");
    }
}


/* each variable in the text of "cdm_stop_principal" */

static void
ngx_http_cdm_stop_check_variables(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    u_char      *p, *last;
    ngx_str_t    name;
    const char  *reason;

    if (cdcf->principal == NULL) {
        return;
    }

    p = cdcf->principal->value.data;
    last = p + cdcf->principal->value.len;

    while (p < last) {

        if (*p++ != '$') {
            continue;
        }

        if (p < last && *p == '{') {
            p++;
        }

        for (name.data = p; p < last; p++) {
            if (!(*p == '_' || (*p >= '0' && *p <= '9')
                  || ((*p | 0x20) >= 'a' && (*p | 0x20) <= 'z')))
            {
                break;
            }
        }

        name.len = p - name.data;

        reason = ngx_http_cdm_stop_check_variable(cf, cdcf, &name);

        if (reason) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                         "callers of \"cdm_stop\" choose their "
                                         "principal as they like: \"$%V\" %s",
                                         &name, reason);
        }
    }
}


/* why a variable names nobody, or NULL */

static const char *
ngx_http_cdm_stop_check_variable(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf, ngx_str_t *name)
{
    ngx_str_t  *written;

    for (written = ngx_http_cdm_stop_written; written->len; written++) {

        if (name->len >= written->len
            && ngx_strncasecmp(name->data, written->data, written->len) == 0
            && (name->len == written->len
                || written->data[written->len - 1] == '_'))
        {
            return "is what they write into the request, take it from "
                   "something that authenticates them";
        }
    }

    if (name->len == sizeof("remote_user") - 1
        && ngx_strncasecmp(name->data, (u_char *) "remote_user", name->len)
           == 0)
    {
        if (!ngx_http_cdm_stop_has_basic(cf, cdcf)) {
            return "is not checked without \"auth_basic\", add it";
        }

        /* whom something else lets in may write what he likes there */

        if (cdcf->location->satisfy == NGX_HTTP_SATISFY_ANY) {
            return "is not checked where \"satisfy any\" lets a caller in "
                   "without a password, remove that";
        }
    }

    if (name->len > sizeof("ssl_client_") - 1
        && ngx_strncasecmp(name->data, (u_char *) "ssl_client_",
                           sizeof("ssl_client_") - 1)
           == 0
        && !ngx_http_cdm_stop_has_certificates(cdcf))
    {
        return "is not checked without \"ssl_verify_client on\", add it";
    }

    return NULL;
}


/*
 * The module is part of nginx or is missing altogether; its configuration,
 * which no header declares, begins with the realm.
 */

static ngx_uint_t
ngx_http_cdm_stop_has_basic(ngx_conf_t *cf, ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_uint_t                  i;
    ngx_module_t               *module;
    ngx_http_complex_value_t  **realm;

    for (i = 0; cf->cycle->modules[i]; i++) {

        module = cf->cycle->modules[i];

        if (ngx_strcmp(module->name, "ngx_http_auth_basic_module") == 0) {

            realm = cdcf->location->loc_conf[module->ctx_index];

            return *realm
                   && !((*realm)->value.len == 3
                        && ngx_strncmp((*realm)->value.data, "off", 3) == 0);
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_cdm_stop_has_certificates(ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_http_ssl_srv_conf_t  *sscf;

    sscf = cdcf->server->ctx->srv_conf[ngx_http_ssl_module.ctx_index];

    return sscf->verify && sscf->verify != NGX_HTTP_CDM_STOP_OPTIONAL_NO_CA;
}
