
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_HELD_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_HELD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop_chain.h"
#include "ngx_http_cdm_stop_token.h"


/* tokens that a worker holds; of more projects some are copied each time */
#define NGX_HTTP_CDM_STOP_HELD  16


/*
 * The last header of a request to CDM, with the token and the end of the
 * header, on a page of its own that no core dump has.  Requests of the same
 * generation are sent from there, so that a token is copied out of the zone
 * once and not for each of them.
 */

typedef struct {
    ngx_http_cdm_stop_key_t          key;
    uint64_t                         generation;    /* 0: holds nothing */
    ngx_http_cdm_stop_fingerprint_t  fp;
    ngx_str_t                        token;
    u_char                          *header;        /* NULL: no page yet */
    ngx_uint_t                       refs;          /* requests */
    ngx_uint_t                       used;          /* since the last look */
} ngx_http_cdm_stop_held_t;


/*
 * Gives ctx the gateway's token of ctx->key that is good now, its generation
 * and its fingerprint.  Returns NGX_DECLINED if there is none any more,
 * NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_take_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* makes the last header of a request with the caller's own token */
ngx_int_t ngx_http_cdm_stop_take_caller_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* the request needs it no longer: it is wiped unless it is held for others */
void ngx_http_cdm_stop_leave_token(ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Memory of size bytes, all of them 0, that no core dump has: for munmap().
 * NULL if there is none, or nothing that keeps it out of dumps.
 */
void *ngx_http_cdm_stop_hidden_pages(size_t size);

/* wipes what was not used since the last call and is not in use */
void ngx_http_cdm_stop_held_expire(ngx_http_cdm_stop_held_t *held);

/* wipes and frees all of them */
void ngx_http_cdm_stop_held_free(ngx_http_cdm_stop_held_t *held);


#endif /* _NGX_HTTP_CDM_STOP_HELD_H_INCLUDED_ */
