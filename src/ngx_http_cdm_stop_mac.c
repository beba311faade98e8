
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_mac.h"


/* of SHA-256, RFC 2104 */
#define NGX_HTTP_CDM_STOP_MAC_BLOCK  64


static EVP_MD_CTX *ngx_http_cdm_stop_mac_state(u_char *block, u_char pad);
static void ngx_http_cdm_stop_mac_cleanup(void *data);


ngx_http_cdm_stop_mac_t *
ngx_http_cdm_stop_mac_create(ngx_pool_t *pool, ngx_str_t *key)
{
    u_char                    block[NGX_HTTP_CDM_STOP_MAC_BLOCK];
    ngx_pool_cleanup_t       *cln;
    ngx_http_cdm_stop_mac_t  *mac;

    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_http_cdm_stop_mac_t));
    if (cln == NULL) {
        return NULL;
    }

    mac = cln->data;

    ngx_memzero(mac, sizeof(ngx_http_cdm_stop_mac_t));

    cln->handler = ngx_http_cdm_stop_mac_cleanup;

    mac->work = EVP_MD_CTX_new();
    if (mac->work == NULL) {
        return NULL;
    }

    if (key->len == 0) {
        return EVP_DigestInit_ex(mac->work, EVP_sha256(), NULL) ? mac : NULL;
    }

    ngx_memzero(block, sizeof(block));

    if (key->len > sizeof(block)) {

        if (!EVP_Digest(key->data, key->len, block, NULL, EVP_sha256(), NULL))
        {
            return NULL;
        }

    } else {
        ngx_memcpy(block, key->data, key->len);
    }

    mac->inner = ngx_http_cdm_stop_mac_state(block, 0x36);
    mac->outer = ngx_http_cdm_stop_mac_state(block, 0x5c);

    ngx_explicit_memzero(block, sizeof(block));

    return (mac->inner && mac->outer) ? mac : NULL;
}


static EVP_MD_CTX *
ngx_http_cdm_stop_mac_state(u_char *block, u_char pad)
{
    u_char       padded[NGX_HTTP_CDM_STOP_MAC_BLOCK];
    ngx_uint_t   i;
    EVP_MD_CTX  *ctx;

    ctx = EVP_MD_CTX_new();
    if (ctx == NULL) {
        return NULL;
    }

    if (!EVP_DigestInit_ex(ctx, EVP_sha256(), NULL)) {
        EVP_MD_CTX_free(ctx);
        return NULL;
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_MAC_BLOCK; i++) {
        padded[i] = block[i] ^ pad;
    }

    if (!EVP_DigestUpdate(ctx, padded, sizeof(padded))) {
        EVP_MD_CTX_free(ctx);
        ctx = NULL;
    }

    ngx_explicit_memzero(padded, sizeof(padded));

    return ctx;
}


static void
ngx_http_cdm_stop_mac_cleanup(void *data)
{
    ngx_http_cdm_stop_mac_t *mac = data;

    EVP_MD_CTX_free(mac->inner);
    EVP_MD_CTX_free(mac->outer);
    EVP_MD_CTX_free(mac->work);
}


ngx_int_t
ngx_http_cdm_stop_mac(ngx_http_cdm_stop_mac_t *mac, ngx_str_t *parts,
    ngx_uint_t n, u_char *md)
{
    ngx_uint_t  i;

    /* what has no key begins anew without a copy, which takes memory */

    if (mac->inner == NULL
        ? !EVP_DigestInit_ex(mac->work, NULL, NULL)
        : !EVP_MD_CTX_copy_ex(mac->work, mac->inner))
    {
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {
        if (!EVP_DigestUpdate(mac->work, parts[i].data, parts[i].len)) {
            return NGX_ERROR;
        }
    }

    if (!EVP_DigestFinal_ex(mac->work, md, NULL)) {
        return NGX_ERROR;
    }

    if (mac->outer == NULL) {
        return NGX_OK;
    }

    if (!EVP_MD_CTX_copy_ex(mac->work, mac->outer)
        || !EVP_DigestUpdate(mac->work, md, NGX_HTTP_CDM_STOP_MAC_LEN)
        || !EVP_DigestFinal_ex(mac->work, md, NULL))
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}
