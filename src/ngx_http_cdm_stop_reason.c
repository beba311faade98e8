
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


/* so much of the start of a token shows that it is one */
#define NGX_HTTP_CDM_STOP_REASON_TOKEN  16


static const char *ngx_http_cdm_stop_reason_header(ngx_str_t *name);
static ngx_uint_t ngx_http_cdm_stop_reason_legal(ngx_str_t *value);
static ngx_uint_t ngx_http_cdm_stop_reason_tells(ngx_str_t *value,
    ngx_str_t *token);


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

    why = ngx_http_cdm_stop_reason_header(&value[1]);

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


/* why no reason can come in this header, or NULL */

static const char *
ngx_http_cdm_stop_reason_header(ngx_str_t *name)
{
    size_t  i;

    if (!ngx_http_cdm_stop_header_legal(name)) {
        return "is no name of a header";
    }

    for (i = 0; i < name->len; i++) {
        if (!(name->data[i] == '-'
              || (name->data[i] >= '0' && name->data[i] <= '9')
              || ((name->data[i] | 0x20) >= 'a'
                  && (name->data[i] | 0x20) <= 'z')))
        {
            return "is not of letters, digits and \"-\", and nginx drops such "
                   "headers";
        }
    }

    if (ngx_http_cdm_stop_header_known(name)) {
        return "goes to CDM and says something else there";
    }

    return ngx_http_cdm_stop_header_forbidden(name);
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

    if (value == NULL
        || !ngx_http_cdm_stop_reason_legal(value)
        || ngx_http_cdm_stop_reason_tells(value, &ctx->caller_token))
    {
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


/* whether it has the caller's token in it, which is in no record */

static ngx_uint_t
ngx_http_cdm_stop_reason_tells(ngx_str_t *value, ngx_str_t *token)
{
    u_char  *p, *last;

    if (token->len < NGX_HTTP_CDM_STOP_REASON_TOKEN
        || value->len < NGX_HTTP_CDM_STOP_REASON_TOKEN)
    {
        return 0;
    }

    last = value->data + value->len - NGX_HTTP_CDM_STOP_REASON_TOKEN;

    for (p = value->data; p <= last; p++) {
        if (ngx_memcmp(p, token->data, NGX_HTTP_CDM_STOP_REASON_TOKEN) == 0) {
            return 1;
        }
    }

    return 0;
}
