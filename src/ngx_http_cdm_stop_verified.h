
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_VERIFIED_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_VERIFIED_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_facts.h"
#include "ngx_http_cdm_stop_token.h"


/* calls of IAM about callers' tokens, of one identity, at one time */
#define NGX_HTTP_CDM_STOP_VERIFY_SLOTS   32

/* a token that IAM refused is not asked about again for so long, ms */
#define NGX_HTTP_CDM_STOP_REFUSED_FOR    10000

/*
 * After so many calls without an answer, one after the other, IAM is taken to
 * be down: it is asked about one token at a time and at most once a second.
 */
#define NGX_HTTP_CDM_STOP_VERIFY_FAILED  3


/*
 * What IAM said of callers' tokens.  A token is found by a keyed hash over
 * the identity that asks and the token, so that the zone holds no token of a
 * caller, and a byte changed makes another one.  There are facts here and no
 * decisions.  In key, only the digest is used.  "digest" is the identity's; fp
 * gets the token's fingerprint.
 */

ngx_int_t ngx_http_cdm_stop_verified_key(ngx_shm_zone_t *zone, u_char *digest,
    ngx_str_t *token, ngx_http_cdm_stop_key_t *key, u_char *fp);

/*
 * Looks for what is known of a token.  Returns
 *   NGX_OK        IAM called it valid at most terms->verify_cache ago: facts
 *                 (of NGX_HTTP_CDM_STOP_FACTS_LEN bytes) are filled, and
 *                 found->len is their length,
 *   NGX_DECLINED  IAM refused it, or it has ended,
 *   NGX_BUSY      nothing, and IAM is left alone for found->retry
 *                 milliseconds because of found->fail,
 *   NGX_AGAIN     nothing, and somebody asks IAM, or too many do,
 *   NGX_DONE      nothing, and the caller has to ask IAM: found->lease is the
 *                 caller's for terms->lease milliseconds; found->by_gateway
 *                 tells that the token may not be asked about by itself,
 *   NGX_ERROR     the zone is full.
 */
ngx_int_t ngx_http_cdm_stop_verified_find(ngx_shm_zone_t *zone, u_char *digest,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_terms_t *terms,
    ngx_http_cdm_stop_found_t *found, u_char *facts);

/*
 * Ends a lease with IAM's answer: facts of a token that ends at end, or NULL
 * if it refused it.  Returns NGX_OK, NGX_DECLINED if the lease was lost
 * meanwhile, NGX_ERROR if the zone is full.
 */
ngx_int_t ngx_http_cdm_stop_verified_publish(ngx_shm_zone_t *zone,
    u_char *digest, ngx_http_cdm_stop_key_t *key,
    ngx_http_cdm_stop_lease_t *lease, ngx_http_cdm_stop_facts_t *facts,
    int64_t end);

/*
 * Ends a lease without an answer about the token.  Returns the milliseconds
 * until IAM is asked about it again.
 */
int64_t ngx_http_cdm_stop_verified_failed(ngx_shm_zone_t *zone, u_char *digest,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_http_cdm_stop_fail_e fail, int64_t retry_after);

/*
 * Gives a lease back that brought nothing; by_gateway tells, from now on,
 * that IAM did not let the token be asked about by itself.
 */
void ngx_http_cdm_stop_verified_abandon(ngx_shm_zone_t *zone, u_char *digest,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_uint_t by_gateway);

/* what is known of a token does not hold any more */
void ngx_http_cdm_stop_verified_forget(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key);


#endif /* _NGX_HTTP_CDM_STOP_VERIFIED_H_INCLUDED_ */
