
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <sys/mman.h>
#include "ngx_http_cdm_stop.h"


#define NGX_HTTP_CDM_STOP_HEADER      "X-Auth-Token: "
#define NGX_HTTP_CDM_STOP_HEADER_LEN  (sizeof(NGX_HTTP_CDM_STOP_HEADER) - 1)
#define NGX_HTTP_CDM_STOP_END_LEN     (sizeof(CRLF CRLF) - 1)

/* of the longest token; a mapping is of whole pages anyway */
#define NGX_HTTP_CDM_STOP_HELD_SIZE                                           \
    (NGX_HTTP_CDM_STOP_HEADER_LEN + NGX_HTTP_CDM_STOP_TOKEN_LEN               \
     + NGX_HTTP_CDM_STOP_END_LEN)


static ngx_http_cdm_stop_held_t *ngx_http_cdm_stop_held_find(
    ngx_http_cdm_stop_held_t *held, ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_held_fill(
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_held_t *held,
    ngx_http_cdm_stop_key_t *key);
static void ngx_http_cdm_stop_held_wipe(ngx_http_cdm_stop_held_t *held);
static ngx_int_t ngx_http_cdm_stop_copy_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_ctx_t *ctx);
static u_char *ngx_http_cdm_stop_header_room(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, size_t len);
static void ngx_http_cdm_stop_header_end(ngx_str_t *header, u_char *last);


ngx_int_t
ngx_http_cdm_stop_take_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t                       rc;
    ngx_http_cdm_stop_held_t       *held;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    /* of the time before a wait for the disk */

    ngx_http_cdm_stop_leave_token(ctx);

    held = ngx_http_cdm_stop_held_find(cdmcf->worker->held, ctx);

    /* there may be an older one, or another one, or none */

    if (held == NULL || held->generation == 0
        || held->generation != ctx->found)
    {
        rc = ngx_http_cdm_stop_held_fill(cdmcf, held, &ctx->key);

        if (rc == NGX_BUSY) {
            return ngx_http_cdm_stop_copy_token(r, cdmcf, ctx);
        }

        if (rc != NGX_OK) {
            return rc;
        }
    }

    held->refs++;
    held->used = 1;

    ctx->from = held;
    ctx->generation = held->generation;
    ctx->token = held->token;
    ctx->token_header.data = held->header;
    ctx->token_header.len = NGX_HTTP_CDM_STOP_HEADER_LEN + held->token.len
                            + NGX_HTTP_CDM_STOP_END_LEN;
    ngx_memcpy(ctx->token_fp, held->fp, sizeof(ctx->token_fp));

    return NGX_OK;
}


/*
 * A token has two places, so that requests with a new one need not wait for
 * those with the old one.  Returns the one where it is or, if it is in none,
 * one that is not in use, or NULL.
 */

static ngx_http_cdm_stop_held_t *
ngx_http_cdm_stop_held_find(ngx_http_cdm_stop_held_t *held,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_uint_t                 i, n;
    ngx_http_cdm_stop_held_t  *unused;

    /*
     * Looked up anew unless that was just now: the token may have ended
     * since the wait was over.
     */

    if (ctx->found_time != ngx_current_msec) {
        ctx->found = 0;
    }

    unused = NULL;
    n = ngx_http_cdm_stop_key_hash(&ctx->key) % NGX_HTTP_CDM_STOP_HELD;

    for (i = 0; i < 2; i++, n ^= 1) {

        if (ctx->found
            && held[n].generation == ctx->found
            && ngx_memcmp(&held[n].key, &ctx->key,
                          sizeof(ngx_http_cdm_stop_key_t))
               == 0)
        {
            return &held[n];
        }

        if (unused == NULL && held[n].refs == 0) {
            unused = &held[n];
        }
    }

    return unused;
}


/* NGX_BUSY if there is no place, or no page, to hold it */

static ngx_int_t
ngx_http_cdm_stop_held_fill(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_held_t *held, ngx_http_cdm_stop_key_t *key)
{
    u_char     *p;
    ngx_str_t   header;

    if (held == NULL) {
        return NGX_BUSY;
    }

    if (held->header == NULL) {
        held->header = ngx_http_cdm_stop_hidden_pages(
                                                  NGX_HTTP_CDM_STOP_HELD_SIZE);

        if (held->header == NULL) {
            return NGX_BUSY;
        }
    }

    ngx_http_cdm_stop_held_wipe(held);

    p = ngx_cpymem(held->header, NGX_HTTP_CDM_STOP_HEADER,
                   NGX_HTTP_CDM_STOP_HEADER_LEN);

    held->token.data = p;
    held->token.len = ngx_http_cdm_stop_token_copy(cdmcf->zone, key, p,
                                                NGX_HTTP_CDM_STOP_TOKEN_LEN,
                                                &held->generation, held->fp);
    if (held->token.len == 0) {
        return NGX_DECLINED;
    }

    held->key = *key;

    header.data = held->header;
    ngx_http_cdm_stop_header_end(&header, p + held->token.len);

    if (held->fp[0] == '\0'
        && ngx_http_cdm_stop_token_keep_fingerprint(cdmcf->zone, key,
                                                    held->generation,
                                                    &held->token, held->fp)
           != NGX_OK)
    {
        ngx_http_cdm_stop_held_wipe(held);
        return NGX_ERROR;
    }

    return NGX_OK;
}


void *
ngx_http_cdm_stop_hidden_pages(size_t size)
{
#if defined(MADV_DONTDUMP) && defined(MAP_ANON)

    void  *p;

    p = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANON, -1, 0);

    if (p == MAP_FAILED) {
        return NULL;
    }

    if (madvise(p, size, MADV_DONTDUMP) == -1) {
        (void) munmap(p, size);
        return NULL;
    }

    return p;

#else

    return NULL;

#endif
}


static void
ngx_http_cdm_stop_held_wipe(ngx_http_cdm_stop_held_t *held)
{
    if (held->token.len) {
        ngx_explicit_memzero(held->token.data, held->token.len);
        held->token.len = 0;
    }

    held->generation = 0;
}


void
ngx_http_cdm_stop_held_expire(ngx_http_cdm_stop_held_t *held)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_HELD; i++) {

        if (held[i].refs == 0 && !held[i].used) {
            ngx_http_cdm_stop_held_wipe(&held[i]);
        }

        held[i].used = 0;
    }
}


void
ngx_http_cdm_stop_held_free(ngx_http_cdm_stop_held_t *held)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_HELD; i++) {

        if (held[i].header == NULL) {
            continue;
        }

        ngx_http_cdm_stop_held_wipe(&held[i]);

        (void) munmap(held[i].header, NGX_HTTP_CDM_STOP_HELD_SIZE);

        held[i].header = NULL;
    }
}


/* the copy is of this request alone, and wiped with it */

static ngx_int_t
ngx_http_cdm_stop_copy_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_ctx_t *ctx)
{
    ctx->token.data = ngx_http_cdm_stop_header_room(r, ctx, ctx->token_len);
    if (ctx->token.data == NULL) {
        return NGX_ERROR;
    }

    ctx->token.len = ngx_http_cdm_stop_token_copy(cdmcf->zone, &ctx->key,
                                                  ctx->token.data,
                                                  ctx->token_len,
                                                  &ctx->generation,
                                                  ctx->token_fp);
    if (ctx->token.len == 0) {
        return NGX_DECLINED;
    }

    ngx_http_cdm_stop_header_end(&ctx->token_header,
                                 ctx->token.data + ctx->token.len);

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_take_caller_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char  *p;

    p = ngx_http_cdm_stop_header_room(r, ctx, ctx->token.len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(p, ctx->token.data, ctx->token.len);

    ngx_http_cdm_stop_header_end(&ctx->token_header, p);

    return NGX_OK;
}


static u_char *
ngx_http_cdm_stop_header_room(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, size_t len)
{
    u_char  *p;

    len += NGX_HTTP_CDM_STOP_HEADER_LEN + NGX_HTTP_CDM_STOP_END_LEN;

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NULL;
    }

    ctx->token_header.len = len;
    ctx->token_header.data = p;

    return ngx_cpymem(p, NGX_HTTP_CDM_STOP_HEADER,
                      NGX_HTTP_CDM_STOP_HEADER_LEN);
}


static void
ngx_http_cdm_stop_header_end(ngx_str_t *header, u_char *last)
{
    last = ngx_cpymem(last, CRLF CRLF, NGX_HTTP_CDM_STOP_END_LEN);

    header->len = last - header->data;
}


void
ngx_http_cdm_stop_leave_token(ngx_http_cdm_stop_ctx_t *ctx)
{
    if (ctx->from) {
        ctx->from->refs--;
        ctx->from = NULL;

    } else if (ctx->token_header.len) {
        ngx_explicit_memzero(ctx->token_header.data, ctx->token_header.len);
    }

    ctx->token_header.len = 0;

    if (ctx->injected) {
        ctx->token.len = 0;
    }
}
