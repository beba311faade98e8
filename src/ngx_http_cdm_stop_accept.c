
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_status.h"


static void ngx_http_cdm_stop_accept(ngx_str_t *value,
    ngx_http_cdm_stop_form_e *format, ngx_uint_t *best);
static ngx_uint_t ngx_http_cdm_stop_accept_quality(u_char *p, u_char *last);


static struct {
    ngx_str_t                 name;         /* of ?format= */
    ngx_str_t                 type;         /* of Accept */
    ngx_http_cdm_stop_form_e  format;
} ngx_http_cdm_stop_forms[] = {
    { ngx_string("metrics"), ngx_string("text/plain"),
      NGX_HTTP_CDM_STOP_FORM_METRICS },
    { ngx_string("openmetrics"), ngx_string("application/openmetrics-text"),
      NGX_HTTP_CDM_STOP_FORM_OPENMETRICS },
    { ngx_string("json"), ngx_string("application/json"),
      NGX_HTTP_CDM_STOP_FORM_JSON },
    { ngx_string("html"), ngx_string("text/html"),
      NGX_HTTP_CDM_STOP_FORM_HTML }
};


#define NGX_HTTP_CDM_STOP_FORMS                                               \
    (sizeof(ngx_http_cdm_stop_forms) / sizeof(ngx_http_cdm_stop_forms[0]))


ngx_int_t
ngx_http_cdm_stop_form(ngx_http_request_t *r,
    ngx_http_cdm_stop_form_e *format)
{
    ngx_str_t         value, *name;
    ngx_uint_t        i, best;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    *format = NGX_HTTP_CDM_STOP_FORM_METRICS;

    if (ngx_http_arg(r, (u_char *) "format", sizeof("format") - 1, &value)
        == NGX_OK)
    {
        for (i = 0; i < NGX_HTTP_CDM_STOP_FORMS; i++) {

            name = &ngx_http_cdm_stop_forms[i].name;

            if (name->len == value.len
                && ngx_strncmp(name->data, value.data, value.len) == 0)
            {
                *format = ngx_http_cdm_stop_forms[i].format;
                return NGX_OK;
            }
        }

        return NGX_DECLINED;
    }

    best = 0;

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

        if (h[i].key.len == sizeof("accept") - 1
            && ngx_strncmp(h[i].lowcase_key, "accept", h[i].key.len) == 0)
        {
            ngx_http_cdm_stop_accept(&h[i].value, format, &best);
        }
    }

    return NGX_OK;
}


/* of two that are liked as much, the one that is named first */

static void
ngx_http_cdm_stop_accept(ngx_str_t *value, ngx_http_cdm_stop_form_e *format,
    ngx_uint_t *best)
{
    u_char      *p, *next, *last, *end;
    ngx_str_t   *type;
    ngx_uint_t   i, quality;

    last = value->data + value->len;

    for (p = value->data; p < last; p = next + 1) {

        while (p < last && (*p == ' ' || *p == '\t')) {
            p++;
        }

        next = ngx_strlchr(p, last, ',');

        if (next == NULL) {
            next = last;
        }

        for (end = p; end < next; end++) {
            if (*end == ';' || *end == ' ' || *end == '\t') {
                break;
            }
        }

        for (i = 0; i < NGX_HTTP_CDM_STOP_FORMS; i++) {

            type = &ngx_http_cdm_stop_forms[i].type;

            if (type->len != (size_t) (end - p)
                || ngx_strncasecmp(type->data, p, type->len) != 0)
            {
                continue;
            }

            quality = ngx_http_cdm_stop_accept_quality(end, next);

            if (quality > *best) {
                *best = quality;
                *format = ngx_http_cdm_stop_forms[i].format;
            }
        }
    }
}


/* in thousandths */

static ngx_uint_t
ngx_http_cdm_stop_accept_quality(u_char *p, u_char *last)
{
    u_char     *end;
    ngx_int_t   quality;

    for ( /* void */ ; p < last; p++) {

        if (*p != ';') {
            continue;
        }

        do {
            p++;
        } while (p < last && (*p == ' ' || *p == '\t'));

        if (last - p < 3 || (*p | 0x20) != 'q' || p[1] != '=') {
            p--;
            continue;
        }

        p += 2;
        end = p;

        while (end < last && (*end == '.' || (*end >= '0' && *end <= '9'))) {
            end++;
        }

        quality = ngx_atofp(p, end - p, 3);

        return (quality == NGX_ERROR) ? 0 : ngx_min(quality, 1000);
    }

    return 1000;
}
