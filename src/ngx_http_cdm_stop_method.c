
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/* which settings a method needs; all others of these are refused */

typedef struct {
    char        *name;
    ngx_uint_t   offset;        /* of an ngx_str_t */
    ngx_uint_t   methods;       /* bits */
} ngx_http_cdm_stop_need_t;


static ngx_int_t ngx_http_cdm_stop_method_needs(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);
static ngx_int_t ngx_http_cdm_stop_method_utf8(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity, char *name, ngx_str_t *value);
static ngx_int_t ngx_http_cdm_stop_method_via(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);
static uint64_t ngx_http_cdm_stop_stamp(ngx_file_info_t *fi);


static ngx_str_t  ngx_http_cdm_stop_methods[] = {
    ngx_string("password"),
    ngx_string("ak_sk"),
    ngx_string("agency"),
    ngx_string("file"),
    ngx_null_string
};


#define ngx_http_cdm_stop_in(m)  (1 << NGX_HTTP_CDM_STOP_ ## m)
#define ngx_http_cdm_stop_at(f)  offsetof(ngx_http_cdm_stop_identity_t, f)

static ngx_http_cdm_stop_need_t  ngx_http_cdm_stop_needs[] = {
    { "domain", ngx_http_cdm_stop_at(credentials.domain),
      ngx_http_cdm_stop_in(PASSWORD) },
    { "user", ngx_http_cdm_stop_at(credentials.user),
      ngx_http_cdm_stop_in(PASSWORD) },
    { "password_file", ngx_http_cdm_stop_at(password_file),
      ngx_http_cdm_stop_in(PASSWORD) },
    { "access_key_file", ngx_http_cdm_stop_at(access_key_file),
      ngx_http_cdm_stop_in(AK_SK) },
    { "secret_key_file", ngx_http_cdm_stop_at(secret_key_file),
      ngx_http_cdm_stop_in(AK_SK) },
    { "agency", ngx_http_cdm_stop_at(credentials.agency),
      ngx_http_cdm_stop_in(AGENCY) },
    { "via", ngx_http_cdm_stop_at(via_name),
      ngx_http_cdm_stop_in(AGENCY) },
    { "token_file", ngx_http_cdm_stop_at(token_file),
      ngx_http_cdm_stop_in(FILE) },
    { NULL, 0, 0 }
};


char *
ngx_http_cdm_stop_set_method(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_identity_t *identity = conf;

    ngx_str_t   *value;
    ngx_uint_t   i;

    if (identity->credentials.method != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (i = 0; ngx_http_cdm_stop_methods[i].len; i++) {

        if (value[1].len == ngx_http_cdm_stop_methods[i].len
            && ngx_strcmp(value[1].data, ngx_http_cdm_stop_methods[i].data)
               == 0)
        {
            identity->credentials.method = i;
            return NGX_CONF_OK;
        }
    }

    return "must be \"password\", \"ak_sk\", \"agency\" or \"file\"";
}


char *
ngx_http_cdm_stop_set_scope(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_identity_t *identity = conf;

    ngx_str_t  *value;

    if (identity->credentials.domain_scope != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "project") == 0) {
        identity->credentials.domain_scope = 0;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "domain") == 0) {
        identity->credentials.domain_scope = 1;
        return NGX_CONF_OK;
    }

    return "must be \"project\" or \"domain\"";
}


char *
ngx_http_cdm_stop_set_agency(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_cdm_stop_identity_t *identity = conf;

    ngx_str_t  *value;

    if (identity->credentials.agency.len) {
        return "is duplicate";
    }

    if (cf->args->nelts != 3) {
        return "must have the domain and the name of the agency";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "must have the domain and the name of the agency";
    }

    identity->credentials.agency_domain = value[1];
    identity->credentials.agency = value[2];

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_cdm_stop_method(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    ngx_http_cdm_stop_credentials_t  *credentials;

    credentials = &identity->credentials;

    if (ngx_http_cdm_stop_method_needs(cf, identity) != NGX_OK) {
        return NGX_ERROR;
    }

    switch (credentials->method) {

    case NGX_HTTP_CDM_STOP_AK_SK:
        if (ngx_http_cdm_stop_read_secret(cf, &identity->access_key_file,
                                          &credentials->access_key)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        return ngx_http_cdm_stop_read_secret(cf, &identity->secret_key_file,
                                             &credentials->secret_key);

    case NGX_HTTP_CDM_STOP_AGENCY:
        return ngx_http_cdm_stop_method_via(cf, identity);

    case NGX_HTTP_CDM_STOP_FILE:
        return ngx_conf_full_name(cf->cycle, &identity->token_file, 1);

    default: /* NGX_HTTP_CDM_STOP_PASSWORD */
        return ngx_http_cdm_stop_read_secret(cf, &identity->password_file,
                                             &credentials->password);
    }
}


static ngx_int_t
ngx_http_cdm_stop_method_needs(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    ngx_str_t                 *value, *method;
    ngx_uint_t                 needed, domain;
    ngx_http_cdm_stop_need_t  *need;

    method = &ngx_http_cdm_stop_methods[identity->credentials.method];

    for (need = ngx_http_cdm_stop_needs; need->name; need++) {

        value = (ngx_str_t *) ((u_char *) identity + need->offset);
        needed = need->methods & (1 << identity->credentials.method);

        /* the domain of an access key is asked for to scope a token to it */

        domain = (need->offset == ngx_http_cdm_stop_at(credentials.domain)
                  && identity->credentials.method == NGX_HTTP_CDM_STOP_AK_SK);

        if (domain) {
            needed = identity->credentials.domain_scope;
        }

        if (value->len == 0 && needed) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                         "no \"%s\" in identity \"%V\", add "
                                         "it", need->name, &identity->name);
            return NGX_ERROR;
        }

        if (value->len && !needed && !domain) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                         "\"%s\" in identity \"%V\" has no "
                                         "use with \"method %V\", remove it",
                                         need->name, &identity->name, method);
            return NGX_ERROR;
        }

        if (ngx_http_cdm_stop_method_utf8(cf, identity, need->name, value)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_cdm_stop_method_utf8(cf, identity, "agency",
                                         &identity->credentials.agency_domain);
}


static ngx_int_t
ngx_http_cdm_stop_method_utf8(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity, char *name, ngx_str_t *value)
{
    u_char  *p, *last;

    if (value->len == 0) {
        return NGX_OK;
    }

    last = value->data + value->len;

    for (p = value->data; p < last; /* void */ ) {

        if (ngx_http_cdm_stop_utf8_decode(&p, last)
            == NGX_HTTP_CDM_STOP_BAD_UTF8)
        {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                         "\"%s\" of identity \"%V\" is not "
                                         "valid UTF-8, save the configuration "
                                         "as UTF-8", name, &identity->name);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_method_via(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_identity_t   **identities, *via;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    identities = cdmcf->identities.elts;
    via = NULL;

    for (i = 0; i < cdmcf->identities.nelts; i++) {

        if (identities[i] != identity
            && identities[i]->name.len == identity->via_name.len
            && ngx_strncmp(identities[i]->name.data, identity->via_name.data,
                           identity->via_name.len)
               == 0)
        {
            via = identities[i];
        }
    }

    if (via == NULL) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                     "unknown identity \"%V\" in \"via\" of "
                                     "identity \"%V\", define it above",
                                     &identity->via_name, &identity->name);
        return NGX_ERROR;
    }

    if (via->credentials.method == NGX_HTTP_CDM_STOP_AGENCY
        || !via->credentials.domain_scope)
    {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                     "identity \"%V\" cannot be the \"via\" "
                                     "of identity \"%V\": write \"scope "
                                     "domain\" in it, and another method than "
                                     "\"agency\"", &via->name,
                                     &identity->name);
        return NGX_ERROR;
    }

    identity->via = via;

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_read_token_file(ngx_http_cdm_stop_identity_t *identity,
    ngx_pool_t *pool, ngx_str_t *token, uint64_t *stamp, ngx_log_t *log)
{
    ssize_t           n;
    ngx_fd_t          fd;
    ngx_file_info_t   fi;

    fd = ngx_open_file(identity->token_file.data,
                       NGX_FILE_RDONLY|NGX_FILE_NONBLOCK, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      "token file \"%V\" cannot be opened by the worker",
                      &identity->token_file);
        return NGX_ERROR;
    }

    n = -1;

    if (ngx_fd_info(fd, &fi) != NGX_FILE_ERROR) {

        token->data = ngx_pnalloc(pool, NGX_HTTP_CDM_STOP_TOKEN_LEN + 2);

        if (token->data) {
            n = ngx_read_fd(fd, token->data, NGX_HTTP_CDM_STOP_TOKEN_LEN + 2);
        }
    }

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      ngx_close_file_n " \"%V\" failed",
                      &identity->token_file);
    }

    token->len = (n > 0) ? n : 0;

    if (token->len && token->data[token->len - 1] == LF) {
        token->len--;
    }

    if (!ngx_http_cdm_stop_token_legal(token)) {
        ngx_log_error(NGX_LOG_ALERT, log, 0,
                      "token file \"%V\" does not hold a token, write it to "
                      "another file and rename that", &identity->token_file);
        return NGX_ERROR;
    }

    *stamp = ngx_http_cdm_stop_stamp(&fi);

    return NGX_OK;
}


uint64_t
ngx_http_cdm_stop_token_file_stamp(ngx_http_cdm_stop_identity_t *identity)
{
    ngx_file_info_t  fi;

    if (identity->token_file.len == 0
        || ngx_file_info(identity->token_file.data, &fi) == NGX_FILE_ERROR)
    {
        return 0;
    }

    return ngx_http_cdm_stop_stamp(&fi);
}


static uint64_t
ngx_http_cdm_stop_stamp(ngx_file_info_t *fi)
{
    uint64_t  stamp;

    stamp = (uint64_t) fi->st_ino;
    stamp = stamp * 1000003 + (uint64_t) fi->st_mtim.tv_sec;
    stamp = stamp * 1000003 + (uint64_t) fi->st_mtim.tv_nsec;
    stamp = stamp * 1000003 + (uint64_t) fi->st_size;

    return stamp ? stamp : 1;
}
