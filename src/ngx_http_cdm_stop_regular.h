
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_REGULAR_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_REGULAR_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop_chain.h"
#include "ngx_http_cdm_stop_token.h"


typedef struct ngx_http_cdm_stop_regulars_s  ngx_http_cdm_stop_regulars_t;


/*
 * A caller's token that IAM called valid a moment ago, with what is computed
 * of it.  To find it again costs a comparison, and the computation a hash over
 * all of its bytes, twice.  It is about the bytes alone: whether the token is
 * still valid is looked up for each request, as it is for any other.
 */

typedef struct {
    ngx_str_t                        token;         /* len 0: holds nothing */
    uint64_t                         mark;          /* of some of its bytes */
    u_char                          *digest;        /* the identity's */
    ngx_http_cdm_stop_key_t          key;
    ngx_http_cdm_stop_fingerprint_t  fp;
    ngx_uint_t                       used;          /* since the last look */
} ngx_http_cdm_stop_regular_t;


/*
 * Whether the worker holds the request's token: then ctx->key and
 * ctx->caller_fp are filled, and the token has the bytes of one that is legal.
 * No byte of it was looked at before, so it may be anything.
 */
ngx_uint_t ngx_http_cdm_stop_regular_find(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Holds the request's token, which must be valid by what is known now, for the
 * next requests.  Nothing is held without room, or pages that no dump has.
 */
void ngx_http_cdm_stop_regular_keep(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* wipes what was not used since the last call; regulars may be NULL */
void ngx_http_cdm_stop_regular_expire(ngx_http_cdm_stop_regulars_t *regulars);

/* wipes and frees all of them; regulars may be NULL */
void ngx_http_cdm_stop_regular_free(ngx_http_cdm_stop_regulars_t *regulars);


#endif /* _NGX_HTTP_CDM_STOP_REGULAR_H_INCLUDED_ */
