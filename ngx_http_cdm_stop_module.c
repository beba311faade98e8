
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


static ngx_int_t ngx_http_cdm_stop_preconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_cdm_stop_postconfiguration(ngx_conf_t *cf);
static ngx_int_t ngx_http_cdm_stop_create_worker(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf);
static ngx_int_t ngx_http_cdm_stop_add_handlers(ngx_conf_t *cf);
static void *ngx_http_cdm_stop_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_cdm_stop_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_cdm_stop_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static ngx_int_t ngx_http_cdm_stop_init_process(ngx_cycle_t *cycle);
static char *ngx_http_cdm_stop_resolve(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static char *ngx_http_cdm_stop_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_cdm_stop_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_cdm_stop_set_enum(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_cdm_stop_pass_header(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


#define NGX_HTTP_CDM_STOP_WAIT  8000


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

    { ngx_string("cdm_stop_audit"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_cdm_stop_audit_directive,
      NGX_HTTP_LOC_CONF_OFFSET,
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
    NULL,                                  /* init module */
    ngx_http_cdm_stop_init_process,        /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_cdm_stop_preconfiguration(ngx_conf_t *cf)
{
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

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {
        if (locations[i]->identity) {
            break;
        }
    }

    if (i == cdmcf->locations.nelts) {

        /* guards nothing, so it touches nothing */

        return NGX_OK;
    }

    if (ngx_http_cdm_stop_check(cf) != NGX_OK) {
        return NGX_ERROR;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);
    cscfp = cmcf->servers.elts;

    cdmcf->server = cscfp[0]->ctx;

    if (ngx_http_cdm_stop_create_worker(cf, cdmcf) != NGX_OK) {
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


static void *
ngx_http_cdm_stop_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    /*
     * set by ngx_pcalloc():
     *
     *     cdmcf->zone = NULL;
     *     cdmcf->server = NULL;
     *     cdmcf->worker = NULL;
     */

    cdmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_cdm_stop_main_conf_t));
    if (cdmcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&cdmcf->identities, cf->pool, 4,
                       sizeof(ngx_http_cdm_stop_identity_t *))
        != NGX_OK
        || ngx_array_init(&cdmcf->peers, cf->pool, 4,
                          sizeof(ngx_http_cdm_stop_peer_t))
           != NGX_OK
        || ngx_array_init(&cdmcf->locations, cf->pool, 16,
                          sizeof(ngx_http_cdm_stop_loc_conf_t *))
           != NGX_OK)
    {
        return NULL;
    }

    return cdmcf;
}


static void *
ngx_http_cdm_stop_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    /*
     * set by ngx_pcalloc():
     *
     *     cdcf->identity_name = { 0, NULL };
     *     cdcf->server = NULL;
     *     cdcf->location = NULL;
     *     cdcf->place = { { 0, NULL }, 0 };
     *     cdcf->own = 0;
     */

    cdcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_cdm_stop_loc_conf_t));
    if (cdcf == NULL) {
        return NULL;
    }

    cdcf->identity = NGX_CONF_UNSET_PTR;
    cdcf->verify = NGX_CONF_UNSET_UINT;
    cdcf->inject = NGX_CONF_UNSET_UINT;
    cdcf->other = NGX_CONF_UNSET_UINT;
    cdcf->anonymous = NGX_CONF_UNSET;
    cdcf->insecure_upstream = NGX_CONF_UNSET;
    cdcf->wait = NGX_CONF_UNSET_MSEC;
    cdcf->pass_headers = NGX_CONF_UNSET_PTR;
    cdcf->audit = NGX_CONF_UNSET_PTR;

    return cdcf;
}


static char *
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

    ngx_conf_merge_ptr_value(conf->identity, prev->identity, NULL);
    ngx_conf_merge_uint_value(conf->verify, prev->verify,
                              NGX_HTTP_CDM_STOP_VERIFY_REQUIRED);
    ngx_conf_merge_uint_value(conf->inject, prev->inject,
                              NGX_HTTP_CDM_STOP_INJECT_ALWAYS);
    ngx_conf_merge_uint_value(conf->other, prev->other,
                              NGX_HTTP_CDM_STOP_OTHER_PASS);
    ngx_conf_merge_value(conf->anonymous, prev->anonymous, 0);
    ngx_conf_merge_value(conf->insecure_upstream, prev->insecure_upstream, 0);
    ngx_conf_merge_msec_value(conf->wait, prev->wait, NGX_HTTP_CDM_STOP_WAIT);
    ngx_conf_merge_ptr_value(conf->pass_headers, prev->pass_headers, NULL);
    ngx_conf_merge_ptr_value(conf->audit, prev->audit, NULL);

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

    if (cdmcf && cdmcf->worker) {
        ngx_http_cdm_stop_start_renewal(cdmcf);
    }

    return NGX_OK;
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


static char *
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


static char *
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


/* as ngx_conf_set_enum_slot(), but says what may be written */

static char *
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


static char *
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
