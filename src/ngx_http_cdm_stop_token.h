
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_TOKEN_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_TOKEN_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_mac.h"
#include "ngx_http_cdm_stop_iam.h"
#include "ngx_http_cdm_stop_target.h"


#define NGX_HTTP_CDM_STOP_DIGEST_LEN       32
#define NGX_HTTP_CDM_STOP_FINGERPRINT_LEN  32

/* a zone holds at least a few tokens of 32 KB beside their bookkeeping */
#define NGX_HTTP_CDM_STOP_ZONE_MIN         (256 * 1024)

/* back-off after a failed exchange, in milliseconds */
#define NGX_HTTP_CDM_STOP_BACKOFF_MIN      1000
#define NGX_HTTP_CDM_STOP_BACKOFF_MAX      60000

/* rest after a refused credential, since IAM locks accounts: 15 minutes */
#define NGX_HTTP_CDM_STOP_HOLD             900000

/* IAM's Retry-After is followed from a second to ten minutes */
#define NGX_HTTP_CDM_STOP_RETRY_MIN        1000
#define NGX_HTTP_CDM_STOP_RETRY_MAX        600000


typedef enum {
    NGX_HTTP_CDM_STOP_FAIL_NONE = 0,
    NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE,
    NGX_HTTP_CDM_STOP_FAIL_ANSWER,
    NGX_HTTP_CDM_STOP_FAIL_THROTTLED,
    NGX_HTTP_CDM_STOP_FAIL_REFUSED,
    NGX_HTTP_CDM_STOP_FAIL_VIA,
    NGX_HTTP_CDM_STOP_FAIL_PROJECTS
} ngx_http_cdm_stop_fail_e;


/* what an entry of the cache is found by */

typedef struct {
    u_char                     digest[NGX_HTTP_CDM_STOP_DIGEST_LEN];
    u_char                     project[NGX_HTTP_CDM_STOP_PROJECT_LEN];
} ngx_http_cdm_stop_key_t;


typedef u_char  ngx_http_cdm_stop_fingerprint_t[
                                            NGX_HTTP_CDM_STOP_FINGERPRINT_LEN];


/* what an identity's directives say of its tokens, in milliseconds */

typedef struct {
    int64_t                    lease;       /* longest exchange with IAM */
    int64_t                    hold;        /* rest after a refusal */
    int64_t                    margin;      /* -1: by the life of a token */
    ngx_uint_t                 ahead;       /* percent of the life */
    int64_t                    verify_cache;
    unsigned                   any_project:1;
} ngx_http_cdm_stop_terms_t;


typedef struct {
    uint64_t                   id;          /* 0 is no lease */
    int64_t                    until;
} ngx_http_cdm_stop_lease_t;


/* what a look-up found */

typedef struct {
    size_t                     len;         /* of the token or the facts */
    uint64_t                   generation;
    int64_t                    retry;       /* milliseconds until next try */
    ngx_http_cdm_stop_fail_e   fail;
    ngx_http_cdm_stop_lease_t  lease;       /* filled if it is now ours */
    unsigned                   stale:1;     /* its renewal fails */
    unsigned                   by_gateway:1;/* see verified.h */
} ngx_http_cdm_stop_found_t;


/*
 * cdm_stop_zone: checks and reserves the zone.  Returns NULL after an error
 * has been logged.
 */
ngx_shm_zone_t *ngx_http_cdm_stop_zone_add(ngx_conf_t *cf, ngx_str_t *name,
    ssize_t size);

/* a number that two keys rarely have in common */
ngx_uint_t ngx_http_cdm_stop_key_hash(ngx_http_cdm_stop_key_t *key);

/*
 * Looks for a token that is good now.  Returns
 *   NGX_OK        there is one; found->len and generation are set; if there
 *                 is a found->lease too, it is time to renew the token, which
 *                 the caller has to do while it uses this one,
 *   NGX_BUSY      none, and IAM is left alone for found->retry milliseconds
 *                 because of found->fail,
 *   NGX_AGAIN     none, and somebody asks IAM for it,
 *   NGX_DONE      none, and the caller has to ask IAM: found->lease is the
 *                 caller's for terms->lease milliseconds,
 *   NGX_ERROR     the zone is full.
 */
ngx_int_t ngx_http_cdm_stop_token_find(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_terms_t *terms,
    ngx_http_cdm_stop_found_t *found);

/*
 * The keys, at most max, of tokens that were used since they were issued and
 * that it is time to renew.
 */
ngx_uint_t ngx_http_cdm_stop_token_due(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *keys, ngx_uint_t max);

/*
 * The keys, at most max, of an identity's tokens that came from another
 * content of its file than stamp.
 */
ngx_uint_t ngx_http_cdm_stop_token_stale(ngx_shm_zone_t *zone, u_char *digest,
    uint64_t stamp, ngx_http_cdm_stop_key_t *keys, ngx_uint_t max);

/* gives a lease back that is not needed */
void ngx_http_cdm_stop_token_abandon(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease);

/*
 * Takes the lease of such a token, due or stale: NGX_DONE, or anything else if
 * it is neither any more or cannot be renewed now.  stamp is 0 if it does not
 * come from a file.
 */
ngx_int_t ngx_http_cdm_stop_token_renew(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_terms_t *terms,
    uint64_t stamp, ngx_http_cdm_stop_found_t *found);

/*
 * Copies the token of the key to dst, if it is good now and has at most size
 * bytes.  Returns its length and sets generation, or returns 0.  fp, which may
 * be NULL, gets the fingerprint, or a zero byte where none is kept as yet.
 */
size_t ngx_http_cdm_stop_token_copy(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, u_char *dst, size_t size,
    uint64_t *generation, u_char *fp);

/*
 * Ends a lease with a token.  Returns NGX_OK, NGX_DECLINED if the lease was
 * lost meanwhile and the token is not kept, NGX_ERROR if the zone is full.
 */
ngx_int_t ngx_http_cdm_stop_token_publish(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_str_t *token, ngx_http_cdm_stop_grant_t *grant);

/*
 * Ends a lease without a token: IAM is left alone for retry_after
 * milliseconds or, if it said nothing (0), for a while that grows with each
 * failure.  stamp is that of the file that was tried, or 0.  Returns the
 * milliseconds of it, or -1 if the lease was lost meanwhile.
 */
int64_t ngx_http_cdm_stop_token_failed(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, ngx_http_cdm_stop_lease_t *lease,
    ngx_http_cdm_stop_terms_t *terms, ngx_http_cdm_stop_fail_e fail,
    int64_t retry_after, uint64_t stamp);

/*
 * Ends a token that CDM refused, if it is still that generation.  Returns
 * NGX_OK if a newer one may be asked for or is there, NGX_DECLINED if that
 * happened too often of late: the token stays then.
 */
ngx_int_t ngx_http_cdm_stop_token_drop(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, uint64_t generation);

/*
 * Writes the keyed fingerprint of a token, 32 hexadecimal digits.  Its key is
 * made with the zone and never leaves it.
 */
ngx_int_t ngx_http_cdm_stop_token_fingerprint(ngx_shm_zone_t *zone,
    ngx_str_t *token, u_char *dst);

/*
 * The same for a token of that key and generation, beside which it is kept,
 * since it takes longer than all else that is done with a token.
 */
ngx_int_t ngx_http_cdm_stop_token_keep_fingerprint(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, uint64_t generation, ngx_str_t *token,
    u_char *dst);

/*
 * What fingerprints are made with in place of the random key of the zone.
 * Returns NGX_ERROR if OpenSSL fails.
 */
ngx_int_t ngx_http_cdm_stop_zone_fingerprint(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_mac_t *mac);


#endif /* _NGX_HTTP_CDM_STOP_TOKEN_H_INCLUDED_ */
