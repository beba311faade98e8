
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_status.h"


static ngx_int_t ngx_http_cdm_stop_status_ready(ngx_http_request_t *r,
    ngx_http_cdm_stop_view_t *view);
static ngx_int_t ngx_http_cdm_stop_status_all(ngx_http_request_t *r,
    ngx_http_cdm_stop_view_t *view, ngx_http_cdm_stop_form_e format);
static ngx_int_t ngx_http_cdm_stop_status_page(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_status_send(ngx_http_request_t *r,
    ngx_uint_t status, ngx_str_t *type, ngx_chain_t *out, off_t length);
static ngx_int_t ngx_http_cdm_stop_status_header(ngx_http_request_t *r,
    char *key, ngx_str_t *value);
static ngx_int_t ngx_http_cdm_stop_status_method(ngx_http_request_t *r);


char *
ngx_http_cdm_stop_status_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    ngx_str_t                      *value;
    ngx_http_core_loc_conf_t       *clcf;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (cdcf->status) {
        return "is duplicate";
    }

    value = cf->args->elts;

    cdcf->status = NGX_HTTP_CDM_STOP_STATUS_ALL;

    if (cf->args->nelts == 2) {

        if (ngx_strcmp(value[1].data, "ready") != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" of "
                               "\"cdm_stop_status\", write \"ready\" or "
                               "nothing", &value[1]);
            return NGX_CONF_ERROR;
        }

        cdcf->status = NGX_HTTP_CDM_STOP_STATUS_READY;
    }

    cdcf->status_place.file = cf->conf_file->file.name;
    cdcf->status_place.line = cf->conf_file->line;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);
    cdmcf->status = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->handler) {
        return "is behind something else that answers here, such as "
               "\"proxy_pass\", give it a location of its own";
    }

    clcf->handler = ngx_http_cdm_stop_status_handler;

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_cdm_stop_status_handler(ngx_http_request_t *r)
{
    ngx_int_t                      rc;
    ngx_http_cdm_stop_view_t      *view;
    ngx_http_cdm_stop_form_e       format;
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return ngx_http_cdm_stop_status_method(r);
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    cdcf = ngx_http_get_module_loc_conf(r, ngx_http_cdm_stop_module);

    if (cdcf->status == NGX_HTTP_CDM_STOP_STATUS_READY) {
        format = NGX_HTTP_CDM_STOP_FORM_JSON;

    } else if (ngx_http_cdm_stop_form(r, &format) != NGX_OK) {
        return NGX_HTTP_BAD_REQUEST;
    }

    if (format == NGX_HTTP_CDM_STOP_FORM_HTML) {
        return ngx_http_cdm_stop_status_page(r);
    }

    view = ngx_http_cdm_stop_view(r);

    if (view == NULL || ngx_http_cdm_stop_judge(view) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (cdcf->status == NGX_HTTP_CDM_STOP_STATUS_READY) {
        return ngx_http_cdm_stop_status_ready(r, view);
    }

    return ngx_http_cdm_stop_status_all(r, view, format);
}


static ngx_int_t
ngx_http_cdm_stop_status_ready(ngx_http_request_t *r,
    ngx_http_cdm_stop_view_t *view)
{
    ngx_str_t                 type;
    ngx_uint_t                status;
    ngx_chain_t              *cl;
    ngx_http_cdm_stop_out_t   out;

    status = view->reasons.nelts ? NGX_HTTP_SERVICE_UNAVAILABLE : NGX_HTTP_OK;

    if (ngx_http_cdm_stop_out_init(&out, r->pool) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_cdm_stop_out(&out, "{");
    ngx_http_cdm_stop_out_flag(&out, "ready", status == NGX_HTTP_OK);
    ngx_http_cdm_stop_json_reasons(&out, view);
    ngx_http_cdm_stop_out(&out, "}\n");

    cl = ngx_http_cdm_stop_out_end(&out);
    if (cl == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (!ngx_exiting && !ngx_quit && !ngx_terminate) {
        ngx_http_cdm_stop_try(view);
    }

    ngx_str_set(&type, "application/json");

    return ngx_http_cdm_stop_status_send(r, status, &type, cl, out.length);
}


static ngx_int_t
ngx_http_cdm_stop_status_all(ngx_http_request_t *r,
    ngx_http_cdm_stop_view_t *view, ngx_http_cdm_stop_form_e format)
{
    ngx_str_t                 type;
    ngx_chain_t              *cl;
    ngx_http_cdm_stop_out_t   out;

    if (ngx_http_cdm_stop_out_init(&out, r->pool) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    switch (format) {

    case NGX_HTTP_CDM_STOP_FORM_JSON:
        ngx_str_set(&type, "application/json");
        ngx_http_cdm_stop_json(&out, view);
        break;

    case NGX_HTTP_CDM_STOP_FORM_OPENMETRICS:
        ngx_str_set(&type, "application/openmetrics-text; version=1.0.0; "
                           "charset=utf-8");
        out.openmetrics = 1;
        ngx_http_cdm_stop_metrics(&out, view);
        break;

    default: /* NGX_HTTP_CDM_STOP_FORM_METRICS */
        ngx_str_set(&type, "text/plain; version=0.0.4; charset=utf-8");
        ngx_http_cdm_stop_metrics(&out, view);
    }

    cl = ngx_http_cdm_stop_out_end(&out);
    if (cl == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_cdm_stop_status_send(r, NGX_HTTP_OK, &type, cl,
                                         out.length);
}


static ngx_int_t
ngx_http_cdm_stop_status_page(ngx_http_request_t *r)
{
    ngx_buf_t    *b;
    ngx_str_t     type;
    ngx_chain_t  *cl;

    b = ngx_calloc_buf(r->pool);
    cl = ngx_alloc_chain_link(r->pool);

    if (b == NULL || cl == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    b->memory = 1;
    b->pos = ngx_http_cdm_stop_page.data;
    b->last = b->pos + ngx_http_cdm_stop_page.len;
    b->last_buf = 1;
    b->last_in_chain = 1;

    cl->buf = b;
    cl->next = NULL;

    if (ngx_http_cdm_stop_status_header(r, "Content-Security-Policy",
                                        &ngx_http_cdm_stop_page_csp)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_str_set(&type, "text/html; charset=utf-8");

    return ngx_http_cdm_stop_status_send(r, NGX_HTTP_OK, &type, cl,
                                         ngx_http_cdm_stop_page.len);
}


static ngx_int_t
ngx_http_cdm_stop_status_send(ngx_http_request_t *r, ngx_uint_t status,
    ngx_str_t *type, ngx_chain_t *out, off_t length)
{
    ngx_int_t          rc;
    ngx_uint_t         i;
    static struct {
        char          *key;
        ngx_str_t      value;
    } headers[] = {
        { "Cache-Control", ngx_string("no-store") },
        { "X-Content-Type-Options", ngx_string("nosniff") },
        { "Referrer-Policy", ngx_string("no-referrer") },
        { "Vary", ngx_string("Accept") }
    };

    for (i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        if (ngx_http_cdm_stop_status_header(r, headers[i].key,
                                            &headers[i].value)
            != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    r->headers_out.status = status;
    r->headers_out.content_length_n = length;
    r->headers_out.content_type = *type;
    r->headers_out.content_type_len = type->len;
    r->headers_out.content_type_lowcase = NULL;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_output_filter(r, out);
}


static ngx_int_t
ngx_http_cdm_stop_status_header(ngx_http_request_t *r, char *key,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif
    h->key.data = (u_char *) key;
    h->key.len = ngx_strlen(key);
    h->value = *value;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_status_method(ngx_http_request_t *r)
{
    ngx_str_t  allow;

    ngx_str_set(&allow, "GET, HEAD");

    if (ngx_http_cdm_stop_status_header(r, "Allow", &allow) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_HTTP_NOT_ALLOWED;
}
