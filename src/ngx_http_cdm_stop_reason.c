
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


static ngx_uint_t ngx_http_cdm_stop_reason_legal(ngx_str_t *value);


/* "cdm_stop_reason HEADER [~regex]" */

char *
ngx_http_cdm_stop_reason_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    ngx_str_t                   *value;
    const char                  *why;
    ngx_http_cdm_stop_reason_t  *reason;

    if (cdcf->reason != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        cdcf->reason = NULL;
        return NGX_CONF_OK;
    }

    why = ngx_http_cdm_stop_header_legal(&value[1])
          ? ngx_http_cdm_stop_header_forbidden(&value[1])
          : "is no name of a header";

    if (why) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "header \"%V\" cannot hold the reason: it %s; "
                           "write such as \"X-Stop-Reason\"", &value[1], why);
        return NGX_CONF_ERROR;
    }

    reason = ngx_http_cdm_stop_conf_alloc(cf,
                                          sizeof(ngx_http_cdm_stop_reason_t));
    if (reason == NULL) {
        return NGX_CONF_ERROR;
    }

    reason->header = value[1];

    if (cf->args->nelts == 3) {

        if (value[2].len == 0 || value[2].data[0] != '~') {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" is no pattern, write \"~\" before it",
                               &value[2]);
            return NGX_CONF_ERROR;
        }

        reason->regex = ngx_http_cdm_stop_pattern(cf, &value[2]);
        if (reason->regex == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    cdcf->reason = reason;

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_cdm_stop_take_reason(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t                   *value;
    ngx_uint_t                   i;
    ngx_list_part_t             *part;
    ngx_table_elt_t             *h;
    ngx_http_cdm_stop_reason_t  *reason;

    value = NULL;
    reason = ctx->conf->reason;

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len != reason->header.len
            || ngx_strncasecmp(h[i].key.data, reason->header.data,
                               reason->header.len)
               != 0)
        {
            continue;
        }

        if (value) {
            return NGX_DECLINED;
        }

        value = &h[i].value;
    }

    if (value == NULL || !ngx_http_cdm_stop_reason_legal(value)) {
        return NGX_DECLINED;
    }

    if (reason->regex
        && ngx_http_cdm_stop_pattern_match(reason->regex, value) != NGX_OK)
    {
        return NGX_DECLINED;
    }

    ctx->reason = *value;

    return NGX_OK;
}


/* it is recorded as it is: whole, text, on one line */

static ngx_uint_t
ngx_http_cdm_stop_reason_legal(ngx_str_t *value)
{
    u_char      *p, *last;
    uint32_t     ch;
    ngx_uint_t   visible;

    if (value->len == 0 || value->len > NGX_HTTP_CDM_STOP_REASON_LEN) {
        return 0;
    }

    p = value->data;
    last = p + value->len;
    visible = 0;

    while (p < last) {
        ch = ngx_http_cdm_stop_utf8_decode(&p, last);

        if (ch == NGX_HTTP_CDM_STOP_BAD_UTF8 || ch < 0x20
            || (ch >= 0x7f && ch < 0xa0))
        {
            return 0;
        }

        visible |= (ch != ' ');
    }

    return visible;
}
