
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


#define NGX_HTTP_CDM_STOP_IAM_TIMEOUT  5000

/* the longest trust in one verification of a caller's token, and its bounds */
#define NGX_HTTP_CDM_STOP_VERIFY_CACHE      60000
#define NGX_HTTP_CDM_STOP_VERIFY_CACHE_MIN  1000
#define NGX_HTTP_CDM_STOP_VERIFY_CACHE_MAX  86400000

/* renewed in the last fifth of a token's life */
#define NGX_HTTP_CDM_STOP_AHEAD        20


/* a directive of the block; post may check what the slot has set */

typedef struct {
    ngx_str_t    name;
    char      *(*set)(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
    ngx_uint_t   offset;
    unsigned     many:1;        /* takes more than one argument */
} ngx_http_cdm_stop_setting_t;


static ngx_http_cdm_stop_identity_t *ngx_http_cdm_stop_identity_create(
    ngx_conf_t *cf, ngx_str_t *name);
static char *ngx_http_cdm_stop_identity_line(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_cdm_stop_identity_uri(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_cdm_stop_identity_projects(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_cdm_stop_identity_ahead(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static void ngx_http_cdm_stop_identity_terms(
    ngx_http_cdm_stop_identity_t *identity);
static char *ngx_http_cdm_stop_identity_finish(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);
static char *ngx_http_cdm_stop_identity_required(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);


static ngx_http_cdm_stop_setting_t  ngx_http_cdm_stop_settings[] = {

    { ngx_string("uri"), ngx_http_cdm_stop_identity_uri, 0, 0 },

    { ngx_string("method"), ngx_http_cdm_stop_set_method, 0, 0 },

    { ngx_string("scope"), ngx_http_cdm_stop_set_scope, 0, 0 },

    { ngx_string("domain"), ngx_conf_set_str_slot,
      offsetof(ngx_http_cdm_stop_identity_t, credentials.domain), 0 },

    { ngx_string("user"), ngx_conf_set_str_slot,
      offsetof(ngx_http_cdm_stop_identity_t, credentials.user), 0 },

    { ngx_string("password_file"), ngx_conf_set_str_slot,
      offsetof(ngx_http_cdm_stop_identity_t, password_file), 0 },

    { ngx_string("access_key_file"), ngx_conf_set_str_slot,
      offsetof(ngx_http_cdm_stop_identity_t, access_key_file), 0 },

    { ngx_string("secret_key_file"), ngx_conf_set_str_slot,
      offsetof(ngx_http_cdm_stop_identity_t, secret_key_file), 0 },

    { ngx_string("agency"), ngx_http_cdm_stop_set_agency, 0, 1 },

    { ngx_string("via"), ngx_conf_set_str_slot,
      offsetof(ngx_http_cdm_stop_identity_t, via_name), 0 },

    { ngx_string("token_file"), ngx_conf_set_str_slot,
      offsetof(ngx_http_cdm_stop_identity_t, token_file), 0 },

    { ngx_string("projects"), ngx_http_cdm_stop_identity_projects, 0, 1 },

    { ngx_string("timeout"), ngx_conf_set_msec_slot,
      offsetof(ngx_http_cdm_stop_identity_t, timeout), 0 },

    { ngx_string("refresh_ahead"), ngx_http_cdm_stop_identity_ahead, 0, 0 },

    { ngx_string("margin"), ngx_conf_set_msec_slot,
      offsetof(ngx_http_cdm_stop_identity_t, margin), 0 },

    { ngx_string("hold"), ngx_conf_set_msec_slot,
      offsetof(ngx_http_cdm_stop_identity_t, hold), 0 },

    { ngx_string("verify_cache"), ngx_conf_set_msec_slot,
      offsetof(ngx_http_cdm_stop_identity_t, verify_cache), 0 },

    { ngx_string("verify"), ngx_conf_set_flag_slot,
      offsetof(ngx_http_cdm_stop_identity_t, verify), 0 },

    { ngx_string("insecure"), ngx_conf_set_flag_slot,
      offsetof(ngx_http_cdm_stop_identity_t, insecure), 0 },

    { ngx_string("trusted_certificate"), ngx_conf_set_str_slot,
      offsetof(ngx_http_cdm_stop_identity_t, trusted_certificate), 0 },

    { ngx_string("server_name"), ngx_conf_set_str_slot,
      offsetof(ngx_http_cdm_stop_identity_t, server_name.value), 0 },

    { ngx_null_string, NULL, 0, 0 }
};


char *
ngx_http_cdm_stop_identity_block(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_main_conf_t *cdmcf = conf;

    char                           *rv;
    ngx_str_t                      *value;
    ngx_uint_t                      i;
    ngx_conf_t                      save;
    ngx_http_cdm_stop_identity_t   *identity, **identities;

    value = cf->args->elts;

    if (value[1].len == 0 || ngx_strcmp(value[1].data, "off") == 0) {
        return "cannot be named so, choose another name";
    }

    identities = cdmcf->identities.elts;

    for (i = 0; i < cdmcf->identities.nelts; i++) {

        if (identities[i]->name.len == value[1].len
            && ngx_strncmp(identities[i]->name.data, value[1].data,
                           value[1].len)
               == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "identity \"%V\" is already defined in %V:%ui, "
                               "give this one another name", &value[1],
                               &identities[i]->place.file,
                               identities[i]->place.line);
            return NGX_CONF_ERROR;
        }
    }

    identity = ngx_http_cdm_stop_identity_create(cf, &value[1]);
    if (identity == NULL) {
        return NGX_CONF_ERROR;
    }

    identities = ngx_array_push(&cdmcf->identities);
    if (identities == NULL) {
        return NGX_CONF_ERROR;
    }

    *identities = identity;

    save = *cf;
    cf->handler = ngx_http_cdm_stop_identity_line;
    cf->handler_conf = (void *) identity;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    return ngx_http_cdm_stop_identity_finish(cf, identity);
}


static ngx_http_cdm_stop_identity_t *
ngx_http_cdm_stop_identity_create(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_http_cdm_stop_identity_t  *identity;

    /*
     * set by ngx_http_cdm_stop_conf_alloc():
     *
     *     identity->uri = { 0, NULL };
     *     identity->credentials = { { 0, NULL }, ... };
     *     identity->password_file = { 0, NULL };
     *     identity->access_key_file = { 0, NULL };
     *     identity->secret_key_file = { 0, NULL };
     *     identity->token_file = { 0, NULL };
     *     identity->via_name = { 0, NULL };
     *     identity->via = NULL;
     *     identity->projects = NULL;
     *     identity->trusted_certificate = { 0, NULL };
     *     identity->server_name = { { 0, NULL }, ... };
     *     identity->upstream = { 0, ... };
     */

    identity = ngx_http_cdm_stop_conf_alloc(cf,
                                        sizeof(ngx_http_cdm_stop_identity_t));
    if (identity == NULL) {
        return NULL;
    }

    identity->name = *name;
    identity->place.file = cf->conf_file->file.name;
    identity->place.line = cf->conf_file->line;

    identity->timeout = NGX_CONF_UNSET_MSEC;
    identity->credentials.method = NGX_CONF_UNSET_UINT;
    identity->credentials.domain_scope = NGX_CONF_UNSET_UINT;
    identity->hold = NGX_CONF_UNSET_MSEC;
    identity->margin = NGX_CONF_UNSET_MSEC;
    identity->verify_cache = NGX_CONF_UNSET_MSEC;
    identity->refresh_ahead = NGX_CONF_UNSET_UINT;
    identity->any_project = NGX_CONF_UNSET;
    identity->verify = NGX_CONF_UNSET;
    identity->insecure = NGX_CONF_UNSET;

    return identity;
}


static char *
ngx_http_cdm_stop_identity_line(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    char                         *rv;
    ngx_str_t                    *value;
    ngx_command_t                 command;
    ngx_http_cdm_stop_setting_t  *setting;

    value = cf->args->elts;

    for (setting = ngx_http_cdm_stop_settings; setting->name.len; setting++) {

        if (setting->name.len == value[0].len
            && ngx_strcmp(setting->name.data, value[0].data) == 0)
        {
            break;
        }
    }

    if (setting->name.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown directive \"%V\" in \"cdm_stop_iam\"",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts < 2 || (cf->args->nelts > 2 && !setting->many)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of arguments in \"%V\" directive "
                           "of \"cdm_stop_iam\"", &value[0]);
        return NGX_CONF_ERROR;
    }

    /* the slot functions of core need no more of a command than this */

    ngx_memzero(&command, sizeof(ngx_command_t));
    command.name = setting->name;
    command.offset = setting->offset;

    rv = setting->set(cf, &command, conf);

    if (rv == NGX_CONF_OK || rv == NGX_CONF_ERROR) {
        return rv;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"%V\" directive of \"cdm_stop_iam\" %s", &value[0],
                       rv);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_cdm_stop_identity_uri(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_identity_t *identity = conf;

    size_t      add;
    ngx_str_t  *value;

    if (identity->uri.len) {
        return "is duplicate";
    }

    value = cf->args->elts;
    identity->uri = value[1];

    if (ngx_strncmp(value[1].data, "https://", 8) == 0) {
        add = 8;
        identity->ssl = 1;
        identity->url.default_port = 443;

    } else if (ngx_strncmp(value[1].data, "http://", 7) == 0) {
        add = 7;
        identity->url.default_port = 80;

    } else {
        return "must begin with \"https://\"";
    }

    identity->url.url.len = value[1].len - add;
    identity->url.url.data = value[1].data + add;
    identity->url.uri_part = 1;
    identity->url.no_resolve = 1;

    return NGX_CONF_OK;
}


static char *
ngx_http_cdm_stop_identity_projects(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_identity_t *identity = conf;

    ngx_str_t   *value, *project;
    ngx_uint_t   i, j;

    if (identity->any_project != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "any") == 0) {
        identity->any_project = 1;
        return NGX_CONF_OK;
    }

    identity->any_project = 0;

    identity->projects = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                          sizeof(ngx_str_t));
    if (identity->projects == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        for (j = 0; j < value[i].len; j++) {
            if (!((value[i].data[j] >= '0' && value[i].data[j] <= '9')
                  || (value[i].data[j] >= 'a' && value[i].data[j] <= 'f')))
            {
                break;
            }
        }

        if (j != NGX_HTTP_CDM_STOP_PROJECT_LEN || j != value[i].len) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid project \"%V\", a project id has 32 "
                               "lower-case hexadecimal digits", &value[i]);
            return NGX_CONF_ERROR;
        }

        project = ngx_array_push(identity->projects);
        if (project == NULL) {
            return NGX_CONF_ERROR;
        }

        *project = value[i];
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_cdm_stop_identity_ahead(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_identity_t *identity = conf;

    ngx_int_t   n;
    ngx_str_t  *value;

    if (identity->refresh_ahead != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    n = NGX_ERROR;

    if (value[1].len > 1 && value[1].data[value[1].len - 1] == '%') {
        n = ngx_atoi(value[1].data, value[1].len - 1);
    }

    if (n < 1 || n > 90) {
        return "must be a share of the token's life from \"1%\" to \"90%\"";
    }

    identity->refresh_ahead = n;

    return NGX_CONF_OK;
}


/* what the shared memory needs to know of all this */

static void
ngx_http_cdm_stop_identity_terms(ngx_http_cdm_stop_identity_t *identity)
{
    ngx_http_cdm_stop_terms_t  *terms;

    terms = &identity->terms;

    /* the owner of a lease gives up before the lease ends */

    terms->lease = identity->timeout + NGX_HTTP_CDM_STOP_BACKOFF_MIN;
    terms->hold = identity->hold;
    terms->margin = (identity->margin == NGX_CONF_UNSET_MSEC)
                    ? -1 : (int64_t) identity->margin;
    terms->ahead = identity->refresh_ahead;
    terms->verify_cache = identity->verify_cache;
    terms->any_project = (identity->any_project == 1);
}


static char *
ngx_http_cdm_stop_identity_finish(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    ngx_conf_init_msec_value(identity->timeout,
                             NGX_HTTP_CDM_STOP_IAM_TIMEOUT);
    ngx_conf_init_uint_value(identity->credentials.method,
                             NGX_HTTP_CDM_STOP_PASSWORD);
    ngx_conf_init_uint_value(identity->credentials.domain_scope, 0);
    ngx_conf_init_msec_value(identity->hold, NGX_HTTP_CDM_STOP_HOLD);
    ngx_conf_init_uint_value(identity->refresh_ahead,
                             NGX_HTTP_CDM_STOP_AHEAD);
    ngx_conf_init_msec_value(identity->verify_cache,
                             NGX_HTTP_CDM_STOP_VERIFY_CACHE);
    ngx_conf_init_value(identity->verify, 1);
    ngx_conf_init_value(identity->insecure, 0);

    if (ngx_http_cdm_stop_identity_required(cf, identity) != NGX_CONF_OK
        || ngx_http_cdm_stop_method(cf, identity) != NGX_OK
        || ngx_http_cdm_stop_endpoint(cf, identity) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    ngx_http_cdm_stop_identity_terms(identity);

    return NGX_CONF_OK;
}


static char *
ngx_http_cdm_stop_identity_required(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    if (identity->uri.len == 0) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                     "no \"uri\" in identity \"%V\", add it",
                                     &identity->name);
        return NGX_CONF_ERROR;
    }

    if (identity->timeout == 0) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                     "\"timeout\" of identity \"%V\" is zero, "
                                     "give IAM some seconds", &identity->name);
        return NGX_CONF_ERROR;
    }

    if (identity->verify_cache < NGX_HTTP_CDM_STOP_VERIFY_CACHE_MIN
        || identity->verify_cache > NGX_HTTP_CDM_STOP_VERIFY_CACHE_MAX)
    {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                     "\"verify_cache\" of identity \"%V\" "
                                     "must be from 1s to 24h", &identity->name);
        return NGX_CONF_ERROR;
    }

    if (!identity->ssl && !identity->insecure) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                     "identity \"%V\" would send its secret "
                                     "over plain http, write "
                                     "\"uri https://...\" or, for a test, "
                                     "\"insecure on\"", &identity->name);
        return NGX_CONF_ERROR;
    }

    if (identity->ssl && !identity->verify && !identity->insecure) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                     "identity \"%V\" would send its secret "
                                     "to a server it does not check, name its "
                                     "CA in \"trusted_certificate\" or, for a "
                                     "test, write \"insecure on\"",
                                     &identity->name);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* a token of a domain is the same for all its projects */

void
ngx_http_cdm_stop_identity_key(ngx_http_cdm_stop_identity_t *identity,
    u_char *project, ngx_http_cdm_stop_key_t *key)
{
    ngx_memcpy(key->digest, identity->digest, NGX_HTTP_CDM_STOP_DIGEST_LEN);

    if (identity->credentials.domain_scope) {
        ngx_memset(key->project, '-', NGX_HTTP_CDM_STOP_PROJECT_LEN);
        return;
    }

    ngx_memcpy(key->project, project, NGX_HTTP_CDM_STOP_PROJECT_LEN);
}
