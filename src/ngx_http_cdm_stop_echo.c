
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/* so much of the start of a token shows that it is one */
#define NGX_HTTP_CDM_STOP_ECHO_LEN  16


static u_char *ngx_http_cdm_stop_find_echo(u_char *p, u_char *last,
    ngx_str_t *token);
static size_t ngx_http_cdm_stop_echo_len(u_char *p, u_char *last,
    ngx_str_t *token);
static u_char *ngx_http_cdm_stop_header_end(ngx_buf_t *b);
static ngx_uint_t ngx_http_cdm_stop_header_interim(u_char *p, u_char *last);


void
ngx_http_cdm_stop_mask_header(ngx_buf_t *b, ngx_str_t *token)
{
    size_t   len;
    u_char  *p, *last;

    last = ngx_http_cdm_stop_header_end(b);

    for (p = b->start; p < last; p += len) {

        p = ngx_http_cdm_stop_find_echo(p, last, token);

        if (p == NULL) {
            return;
        }

        len = ngx_http_cdm_stop_echo_len(p, last, token);

        if (len < token->len && p + len == b->last) {

            /* the rest of it, and of its line, is yet to come */

            return;
        }

        ngx_memset(p, '*', len);
    }
}


ngx_int_t
ngx_http_cdm_stop_mask_body(ngx_str_t *body, ngx_str_t *token,
    ngx_pool_t *pool)
{
    size_t   len;
    u_char  *p, *last, *copy;

    if (body->len == 0
        || ngx_http_cdm_stop_find_echo(body->data, body->data + body->len,
                                       token)
           == NULL)
    {
        return NGX_OK;
    }

    copy = ngx_pnalloc(pool, body->len);
    if (copy == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(copy, body->data, body->len);

    last = copy + body->len;

    for (p = copy; /* void */ ; p += len) {

        p = ngx_http_cdm_stop_find_echo(p, last, token);

        if (p == NULL) {
            break;
        }

        len = ngx_http_cdm_stop_echo_len(p, last, token);

        ngx_memset(p, '*', len);
    }

    body->data = copy;

    return NGX_OK;
}


void
ngx_http_cdm_stop_mask_id(ngx_str_t *id, ngx_str_t *token)
{
    size_t  i;

    for (i = 0; i < id->len; i++) {

        if (!((id->data[i] >= '0' && id->data[i] <= '9')
              || (id->data[i] >= 'a' && id->data[i] <= 'f')
              || id->data[i] == '-'))
        {
            break;
        }
    }

    /* an id as APIG writes it holds no token: no need to search it for one */

    if (i < id->len || id->len > 36) {
        ngx_http_cdm_stop_redact(id, token);
    }
}


static u_char *
ngx_http_cdm_stop_find_echo(u_char *p, u_char *last, ngx_str_t *token)
{
    size_t  len;

    len = ngx_min(token->len, NGX_HTTP_CDM_STOP_ECHO_LEN);

    if (len == 0) {
        return NULL;
    }

    for ( /* void */ ; len <= (size_t) (last - p); p++) {

        p = memchr(p, *token->data, last - p - len + 1);

        if (p == NULL || ngx_memcmp(p, token->data, len) == 0) {
            return p;
        }
    }

    return NULL;
}


static size_t
ngx_http_cdm_stop_echo_len(u_char *p, u_char *last, ngx_str_t *token)
{
    size_t  i;

    for (i = 0; i < token->len && p + i < last; i++) {
        if (p[i] != token->data[i]) {
            break;
        }
    }

    return i;
}


/*
 * The body, which may follow in the same buffer, is not ours to change.  What
 * follows an interim answer is another header.
 */

static u_char *
ngx_http_cdm_stop_header_end(ngx_buf_t *b)
{
    u_char  *p, *start;

    start = b->start;

    for (p = b->start; p + 1 < b->last; p++) {

        p = memchr(p, LF, b->last - p - 1);

        if (p == NULL) {
            break;
        }

        if (p[1] == LF || (p[1] == CR && p + 2 < b->last && p[2] == LF)) {

            if (!ngx_http_cdm_stop_header_interim(start, p)) {
                return p;
            }

            p += (p[1] == LF) ? 1 : 2;
            start = p + 1;
        }
    }

    return b->last;
}


/* a status line of 1xx */

static ngx_uint_t
ngx_http_cdm_stop_header_interim(u_char *p, u_char *last)
{
    p = memchr(p, ' ', last - p);

    if (p == NULL) {
        return 0;
    }

    while (p < last && *p == ' ') {
        p++;
    }

    return p < last && *p == '1';
}
