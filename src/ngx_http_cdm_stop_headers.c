
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


typedef struct {
    ngx_str_t   name;       /* lower case, - for _ and . */
    unsigned    prefix:1;
    char       *reason;
} ngx_http_cdm_stop_header_t;


static u_char ngx_http_cdm_stop_header_char(u_char c);


/* headers of the caller that may reach CDM, lower case */

static ngx_str_t  ngx_http_cdm_stop_headers_allowed[] = {
    ngx_string("accept"),
    ngx_string("accept-language"),
    ngx_string("content-type"),
    ngx_string("user-agent"),
    ngx_string("x-language"),
    ngx_string("workspace"),
    ngx_string("traceparent"),
    ngx_string("tracestate"),
    ngx_null_string
};


#define NGX_HTTP_CDM_STOP_CREDENTIAL  "is a credential or an identity"
#define NGX_HTTP_CDM_STOP_OVERRIDE    "overrides the method or the target"
#define NGX_HTTP_CDM_STOP_CONNECTION  "belongs to one connection only"

static ngx_http_cdm_stop_header_t  ngx_http_cdm_stop_headers_forbidden[] = {
    { ngx_string("x-auth-token"), 0, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("authorization"), 0, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("cookie"), 0, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-sdk-"), 1, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-security-token"), 0, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-subject-token"), 0, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-service-"), 1, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-storage-token"), 0, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-project-"), 1, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-domain-"), 1, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-tenant"), 1, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-cluster-id"), 0, NGX_HTTP_CDM_STOP_OVERRIDE },
    { ngx_string("x-user"), 1, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-role"), 1, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("openstack-system-scope"), 0, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-identity-status"), 0, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-is-admin-project"), 0, NGX_HTTP_CDM_STOP_CREDENTIAL },
    { ngx_string("x-http-method"), 1, NGX_HTTP_CDM_STOP_OVERRIDE },
    { ngx_string("x-method-override"), 0, NGX_HTTP_CDM_STOP_OVERRIDE },
    { ngx_string("x-original-url"), 0, NGX_HTTP_CDM_STOP_OVERRIDE },
    { ngx_string("x-rewrite-url"), 0, NGX_HTTP_CDM_STOP_OVERRIDE },
    { ngx_string("accept-encoding"), 0,
      "would let CDM compress the answer that is read for the verdict" },
    { ngx_string("host"), 0, "names the server" },
    { ngx_string("content-length"), 0, NGX_HTTP_CDM_STOP_CONNECTION },
    { ngx_string("connection"), 0, NGX_HTTP_CDM_STOP_CONNECTION },
    { ngx_string("expect"), 0, NGX_HTTP_CDM_STOP_CONNECTION },
    { ngx_string("keep-alive"), 0, NGX_HTTP_CDM_STOP_CONNECTION },
    { ngx_string("proxy-"), 1, NGX_HTTP_CDM_STOP_CONNECTION },
    { ngx_string("te"), 0, NGX_HTTP_CDM_STOP_CONNECTION },
    { ngx_string("trailer"), 0, NGX_HTTP_CDM_STOP_CONNECTION },
    { ngx_string("transfer-encoding"), 0, NGX_HTTP_CDM_STOP_CONNECTION },
    { ngx_string("upgrade"), 0, NGX_HTTP_CDM_STOP_CONNECTION },
    { ngx_null_string, 0, NULL }
};


ngx_int_t
ngx_http_cdm_stop_caller_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t        *token;
    ngx_uint_t        i, n;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    n = 0;
    token = &ctx->caller_token;

    ngx_str_null(token);

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

        if (h[i].key.len == sizeof("x-auth-token") - 1
            && ngx_strncmp(h[i].lowcase_key, "x-auth-token",
                           sizeof("x-auth-token") - 1)
               == 0)
        {
            *token = h[i].value;
            n++;
        }
    }

    if (n == 0) {
        return NGX_OK;
    }

    if (n > 1) {
        return NGX_DECLINED;
    }

    /* one that the worker holds was looked at before */

    if (!ngx_http_cdm_stop_regular_find(r, ctx)
        && !ngx_http_cdm_stop_token_legal(token))
    {
        return NGX_DECLINED;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_mark_headers(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_list_t       *headers;
    ngx_table_elt_t  *h;

    h = ngx_pcalloc(r->pool, sizeof(ngx_table_elt_t));
    if (h == NULL) {
        return NGX_ERROR;
    }

    /*
     * Nobody else knows the request's id by now, so nobody forges the mark.
     * It is of no name that proxy_pass looks for, so any hash but 0 will do.
     */

    h->hash = 1;
    h->key.len = sizeof(ctx->id);
    h->key.data = ctx->id;
    h->lowcase_key = ctx->id;
    h->value = h->key;

    headers = &r->headers_in.headers;

    ctx->headers = *headers;

    if (headers->last == &headers->part) {
        headers->last = &ctx->headers.part;
    }

    headers->part.elts = h;
    headers->part.nelts = 1;

    /* of a next part, proxy_pass takes it that there is something in it */

    headers->part.next = ctx->headers.part.nelts ? &ctx->headers.part : NULL;

    return NGX_OK;
}


void
ngx_http_cdm_stop_unmark_headers(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    r->headers_in.headers = ctx->headers;
}


ngx_uint_t
ngx_http_cdm_stop_header_allowed(ngx_http_cdm_stop_loc_conf_t *cdcf,
    ngx_str_t *header)
{
    ngx_str_t   *name;
    ngx_uint_t   i;

    if (ngx_http_cdm_stop_header_known(header)) {
        return 1;
    }

    if (cdcf->pass_headers == NULL) {
        return 0;
    }

    name = cdcf->pass_headers->elts;

    for (i = 0; i < cdcf->pass_headers->nelts; i++) {
        if (header->len == name[i].len
            && ngx_strncasecmp(header->data, name[i].data, name[i].len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


ngx_uint_t
ngx_http_cdm_stop_header_known(ngx_str_t *header)
{
    ngx_str_t  *name;

    for (name = ngx_http_cdm_stop_headers_allowed; name->len; name++) {
        if (ngx_http_cdm_stop_header_is(header, (char *) name->data,
                                        name->len))
        {
            return 1;
        }
    }

    return 0;
}


ngx_uint_t
ngx_http_cdm_stop_header_is(ngx_str_t *header, const char *name, size_t len)
{
    size_t  i;
    u_char  d;

    if (header->len != len) {
        return 0;
    }

    for (i = 0; i < len; i++) {

        d = header->data[i] ^ (u_char) name[i];

        /* 0x20 is between a letter and its capital */

        if (d && (d != 0x20 || name[i] < 'a' || name[i] > 'z')) {
            return 0;
        }
    }

    return 1;
}


const char *
ngx_http_cdm_stop_header_forbidden(ngx_str_t *name)
{
    size_t                       i;
    ngx_http_cdm_stop_header_t  *h;

    if (!ngx_http_cdm_stop_header_legal(name)) {
        return "is not the name of a header";
    }

    for (h = ngx_http_cdm_stop_headers_forbidden; h->name.len; h++) {

        if (h->prefix ? name->len < h->name.len : name->len != h->name.len) {
            continue;
        }

        for (i = 0; i < h->name.len; i++) {
            if (ngx_http_cdm_stop_header_char(name->data[i])
                != h->name.data[i])
            {
                break;
            }
        }

        if (i == h->name.len) {
            return h->reason;
        }
    }

    return NULL;
}


ngx_uint_t
ngx_http_cdm_stop_header_legal(ngx_str_t *name)
{
    return name->len
           && ngx_http_cdm_stop_header_name(name->data,
                                            name->data + name->len)
              == name->data + name->len;
}


u_char *
ngx_http_cdm_stop_header_name(u_char *p, u_char *last)
{

    /* all of 0x21 to 0x7e but "(),/:;<=>?@[\]{} */

    static u_char  legal[256] = {
        /* 0x00 */  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        /* 0x10 */  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        /* 0x20 */  0, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0,
        /* 0x30 */  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0,
        /* 0x40 */  0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        /* 0x50 */  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1,
        /* 0x60 */  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        /* 0x70 */  1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0
    };

    while (p < last && legal[*p]) {
        p++;
    }

    return p;
}


u_char *
ngx_http_cdm_stop_header_skip(u_char *p, u_char *last, ngx_str_t *token)
{
    u_char                  *value;
    static const ngx_str_t   name = ngx_string("X-Auth-Token: ");

    if (token->len == 0
        || (size_t) (last - p) < name.len + token->len + sizeof(CRLF) - 1
        || ngx_strncasecmp(p, name.data, name.len) != 0)
    {
        return p;
    }

    value = p + name.len;
    last = value + token->len;

    if (ngx_memcmp(value, token->data, token->len) != 0
        || ngx_memcmp(last, CRLF, sizeof(CRLF) - 1) != 0)
    {
        return p;
    }

    return last + sizeof(CRLF) - 1;
}


ngx_uint_t
ngx_http_cdm_stop_header_folds(ngx_str_t *name, char *folded)
{
    size_t  i;

    for (i = 0; i < name->len; i++) {

        if (folded[i] == '\0'
            || ngx_http_cdm_stop_header_char(name->data[i])
               != (u_char) folded[i])
        {
            return 0;
        }
    }

    return folded[i] == '\0';
}


/* CGI and WSGI servers take _ for -, some take any other character for it */

static u_char
ngx_http_cdm_stop_header_char(u_char c)
{
    return (c == '_' || c == '.') ? '-' : ngx_tolower(c);
}
