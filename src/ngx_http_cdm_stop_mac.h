
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_MAC_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_MAC_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <openssl/evp.h>


#define NGX_HTTP_CDM_STOP_MAC_LEN  32


/*
 * HMAC-SHA256 with one key, or plain SHA-256: the states after the key, which
 * are copied for each use, so that none sets up a key or looks for a digest.
 */

typedef struct {
    EVP_MD_CTX  *inner;     /* NULL: no key */
    EVP_MD_CTX  *outer;
    EVP_MD_CTX  *work;
} ngx_http_cdm_stop_mac_t;


/*
 * A key of length 0 is none.  The key itself is not kept.  NULL if there is
 * no memory or OpenSSL fails.
 */
ngx_http_cdm_stop_mac_t *ngx_http_cdm_stop_mac_create(ngx_pool_t *pool,
    ngx_str_t *key);

/* of n strings, one behind the other; returns NGX_ERROR if OpenSSL fails */
ngx_int_t ngx_http_cdm_stop_mac(ngx_http_cdm_stop_mac_t *mac,
    ngx_str_t *parts, ngx_uint_t n, u_char *md);


#endif /* _NGX_HTTP_CDM_STOP_MAC_H_INCLUDED_ */
