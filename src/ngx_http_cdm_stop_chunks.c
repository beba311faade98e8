
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_zone.h"


static size_t ngx_http_cdm_stop_chunk_size(size_t len, ngx_uint_t i);
static void ngx_http_cdm_stop_chunk_free(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_chunks_t *chunks, ngx_uint_t i);


ngx_int_t
ngx_http_cdm_stop_chunks_set(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_chunks_t *chunks, ngx_str_t *token)
{
    size_t                      size;
    ngx_uint_t                  i;
    ngx_http_cdm_stop_chunks_t  fresh;

    if (token->len > NGX_HTTP_CDM_STOP_TOKEN_LEN) {
        return NGX_ERROR;
    }

    ngx_memzero(&fresh, sizeof(ngx_http_cdm_stop_chunks_t));

    /* the old token stays whole until there is room for all of the new one */

    for (i = 0; i < NGX_HTTP_CDM_STOP_CHUNKS; i++) {

        size = ngx_http_cdm_stop_chunk_size(token->len, i);

        if (size <= chunks->size[i]) {
            continue;
        }

        fresh.chunk[i] = ngx_http_cdm_stop_zone_alloc(zone, size);

        if (fresh.chunk[i] == NULL) {

            while (i--) {
                ngx_http_cdm_stop_chunk_free(zone, &fresh, i);
            }

            return NGX_ERROR;
        }

        fresh.size[i] = size;
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_CHUNKS; i++) {

        size = ngx_http_cdm_stop_chunk_size(token->len, i);

        if (size == 0 || fresh.chunk[i]) {
            ngx_http_cdm_stop_chunk_free(zone, chunks, i);
        }

        if (size == 0) {
            continue;
        }

        if (fresh.chunk[i]) {
            chunks->chunk[i] = fresh.chunk[i];
            chunks->size[i] = fresh.size[i];
        }

        ngx_memcpy(chunks->chunk[i],
                   token->data + i * NGX_HTTP_CDM_STOP_CHUNK, size);

        ngx_explicit_memzero(chunks->chunk[i] + size, chunks->size[i] - size);
    }

    chunks->len = token->len;

    return NGX_OK;
}


void
ngx_http_cdm_stop_chunks_get(ngx_http_cdm_stop_chunks_t *chunks, u_char *dst)
{
    size_t      size;
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_CHUNKS; i++) {

        size = ngx_http_cdm_stop_chunk_size(chunks->len, i);

        if (size == 0) {
            break;
        }

        dst = ngx_cpymem(dst, chunks->chunk[i], size);
    }
}


void
ngx_http_cdm_stop_chunks_free(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_chunks_t *chunks)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_CDM_STOP_CHUNKS; i++) {
        ngx_http_cdm_stop_chunk_free(zone, chunks, i);
    }

    chunks->len = 0;
}


/* what the chunk holds of a token of that length */

static size_t
ngx_http_cdm_stop_chunk_size(size_t len, ngx_uint_t i)
{
    size_t  start;

    start = i * NGX_HTTP_CDM_STOP_CHUNK;

    if (len <= start) {
        return 0;
    }

    return ngx_min(len - start, NGX_HTTP_CDM_STOP_CHUNK);
}


static void
ngx_http_cdm_stop_chunk_free(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_chunks_t *chunks, ngx_uint_t i)
{
    if (chunks->chunk[i] == NULL) {
        return;
    }

    ngx_explicit_memzero(chunks->chunk[i], chunks->size[i]);

    ngx_slab_free_locked(zone->shpool, chunks->chunk[i]);

    chunks->chunk[i] = NULL;
    chunks->size[i] = 0;
}
