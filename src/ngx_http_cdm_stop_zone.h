
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_ZONE_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_ZONE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_mac.h"
#include "ngx_http_cdm_stop_token.h"
#include "ngx_http_cdm_stop_verified.h"


#define NGX_HTTP_CDM_STOP_SECRET_LEN  32

/*
 * Exchanges of one identity at one time, and refused ones in one hold: IAM
 * locks an account after a few, so no more may be on their way than may yet
 * be refused.
 */
#define NGX_HTTP_CDM_STOP_SLOTS       2

/* projects of one identity under "projects any", and new ones in a minute */
#define NGX_HTTP_CDM_STOP_PROJECTS    256
#define NGX_HTTP_CDM_STOP_NEW         10

/* tokens of one entry that a 401 of CDM may end in a minute */
#define NGX_HTTP_CDM_STOP_DROPS       6


/* when something happened the last times, 0 is never */

#define NGX_HTTP_CDM_STOP_TIMES       10

typedef struct {
    int64_t                    times[NGX_HTTP_CDM_STOP_TIMES];
    ngx_uint_t                 next;
} ngx_http_cdm_stop_count_t;


/* what all nodes of the tree begin with */

typedef struct {
    ngx_rbtree_node_t          rbnode;      /* key: hash of what follows */
    ngx_http_cdm_stop_key_t    key;
} ngx_http_cdm_stop_node_t;


/*
 * A token lies in pieces of a page, since pages that follow one another may
 * not be there in a zone that is full of small things, however much of it is
 * free.  Nobody keeps a pointer to one without the lock.
 */

#define NGX_HTTP_CDM_STOP_CHUNK       4096
#define NGX_HTTP_CDM_STOP_CHUNKS                                              \
    (NGX_HTTP_CDM_STOP_TOKEN_LEN / NGX_HTTP_CDM_STOP_CHUNK)

typedef struct {
    size_t                     len;         /* of the token, 0: none */
    size_t                     size[NGX_HTTP_CDM_STOP_CHUNKS];
    u_char                    *chunk[NGX_HTTP_CDM_STOP_CHUNKS];
} ngx_http_cdm_stop_chunks_t;


/* a token and the state of getting it */

typedef struct {
    ngx_http_cdm_stop_node_t   node;

    ngx_http_cdm_stop_lease_t  lease;
    ngx_pid_t                  owner;

    uint64_t                   generation;
    uint64_t                   issues;      /* tokens so far */
    int64_t                    issued;
    int64_t                    life;        /* from then on */
    int64_t                    renew;       /* when it is time to */
    int64_t                    end;         /* of the token, minus margin */

    int64_t                    next_try;
    ngx_uint_t                 failures;
    ngx_http_cdm_stop_fail_e   fail;
    ngx_http_cdm_stop_count_t  drops;

    uint64_t                   stamp;       /* of the file it came from */
    uint64_t                   tried;       /* stamp that came to nothing */
    uint64_t                   fp_key;      /* see zone_t, 0: none is kept */
    ngx_http_cdm_stop_fingerprint_t  fp;    /* of the token */

    unsigned                   used:1;      /* since it was issued */
    unsigned                   via_tried:1; /* its via was refused once */

    ngx_http_cdm_stop_chunks_t  token;
} ngx_http_cdm_stop_entry_t;


typedef struct {
    ngx_http_cdm_stop_lease_t  lease;
    ngx_pid_t                  owner;
} ngx_http_cdm_stop_slot_t;


/* what holds for an identity over all its projects; its key has none */

typedef struct {
    ngx_http_cdm_stop_node_t   node;
    ngx_http_cdm_stop_slot_t   slots[NGX_HTTP_CDM_STOP_SLOTS];
    ngx_http_cdm_stop_count_t  refused;
    ngx_http_cdm_stop_count_t  added;       /* projects */
    ngx_uint_t                 projects;
} ngx_http_cdm_stop_account_t;


/* what IAM said last of a caller's token, in a tree of its own */

typedef struct {
    ngx_http_cdm_stop_node_t   node;        /* key: its digest only */
    ngx_queue_t                queue;

    ngx_http_cdm_stop_lease_t  lease;
    ngx_pid_t                  owner;

    int64_t                    checked;     /* when IAM said it */
    int64_t                    end;         /* of the token */

    int64_t                    failed;      /* when IAM last said nothing */
    int64_t                    next_try;
    ngx_uint_t                 failures;
    ngx_http_cdm_stop_fail_e   fail;

    unsigned                   refused:1;
    unsigned                   by_gateway:1;
    unsigned                   listed:1;    /* as valid */

    size_t                     size;        /* of this block */
    size_t                     len;
    u_char                     facts[1];
} ngx_http_cdm_stop_known_t;


/* the calls of IAM about callers' tokens, of one identity */

typedef struct {
    ngx_queue_t                queue;
    u_char                     digest[NGX_HTTP_CDM_STOP_DIGEST_LEN];
    ngx_http_cdm_stop_slot_t   slots[NGX_HTTP_CDM_STOP_VERIFY_SLOTS];
    ngx_uint_t                 used;        /* slots */
    int64_t                    swept;
    int64_t                    next_try;
    int64_t                    well;        /* since when, after a failure */
    ngx_uint_t                 failures;    /* one after the other */
    ngx_http_cdm_stop_fail_e   fail;
} ngx_http_cdm_stop_verifier_t;


typedef struct {
    ngx_rbtree_t               rbtree;
    ngx_rbtree_node_t          sentinel;
    ngx_queue_t                valid;       /* the last used one first */
    ngx_queue_t                refused;     /* or not known */
    ngx_queue_t                verifiers;
    size_t                     size;        /* of all entries */
    size_t                     max;
    ngx_uint_t                 entries;
    ngx_uint_t                 nvalid;      /* of them, in the first queue */
    uint64_t                   evictions;
} ngx_http_cdm_stop_verified_t;


typedef struct {
    ngx_rbtree_t                  rbtree;
    ngx_rbtree_node_t             sentinel;
    ngx_http_cdm_stop_verified_t  verified;
    uint64_t                      leases;   /* given so far */
    uint64_t                      generations;
    uint64_t                      full;     /* times there was no room */
    void                         *buckets;  /* of callers' rates */
    ngx_uint_t                    nbuckets;
    u_char                        secret[NGX_HTTP_CDM_STOP_SECRET_LEN];
} ngx_http_cdm_stop_shctx_t;


typedef struct {
    ngx_http_cdm_stop_shctx_t  *sh;
    ngx_slab_pool_t            *shpool;
    ngx_http_cdm_stop_mac_t    *mac;        /* of fingerprints */
    uint64_t                    fp_key;     /* tells its keys apart */
    ngx_http_cdm_stop_mac_t    *known;      /* of keys in "verified" */
    ngx_pool_t                 *pool;
} ngx_http_cdm_stop_zone_t;


/* all that follows is called with the mutex of the zone held */

void ngx_http_cdm_stop_tree_insert(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel);
ngx_http_cdm_stop_node_t *ngx_http_cdm_stop_tree_lookup(ngx_rbtree_t *rbtree,
    ngx_http_cdm_stop_key_t *key);

void ngx_http_cdm_stop_node_insert(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_node_t *node);

ngx_http_cdm_stop_node_t *ngx_http_cdm_stop_node_lookup(
    ngx_http_cdm_stop_zone_t *zone, ngx_http_cdm_stop_key_t *key);

/* whether a node is an entry and not an account */
ngx_uint_t ngx_http_cdm_stop_node_is_entry(ngx_http_cdm_stop_node_t *node);

/*
 * Zeroed memory; NULL if the zone is full even after lapsed entries, and what
 * is known of callers' tokens, have made room.
 */
void *ngx_http_cdm_stop_zone_alloc(ngx_http_cdm_stop_zone_t *zone,
    size_t size);

/* the same for a node of that key */
void *ngx_http_cdm_stop_node_alloc(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, size_t size);

/*
 * Stores a token in place of another.  NGX_ERROR if the zone is full or the
 * token longer than NGX_HTTP_CDM_STOP_TOKEN_LEN: the other one stays then.
 */
ngx_int_t ngx_http_cdm_stop_chunks_set(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_chunks_t *chunks, ngx_str_t *token);

/* copies a token to dst, which has room for chunks->len bytes */
void ngx_http_cdm_stop_chunks_get(ngx_http_cdm_stop_chunks_t *chunks,
    u_char *dst);

/* wipes and frees a token */
void ngx_http_cdm_stop_chunks_free(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_chunks_t *chunks);

/* takes an entry out and wipes its token */
void ngx_http_cdm_stop_entry_free(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_entry_t *entry);

/* whether a lease is in force: not over, and its owner alive */
ngx_uint_t ngx_http_cdm_stop_lease_held(ngx_http_cdm_stop_lease_t *lease,
    ngx_pid_t owner, int64_t now);

/* it happens now */
void ngx_http_cdm_stop_count(ngx_http_cdm_stop_count_t *count, int64_t now);

/*
 * How often it happened in the last so many milliseconds, at most
 * NGX_HTTP_CDM_STOP_TIMES; since, if given, is set to the first of these.
 */
ngx_uint_t ngx_http_cdm_stop_counted(ngx_http_cdm_stop_count_t *count,
    int64_t now, int64_t window, int64_t *since);

/* the account of the identity of key, made if need be; NULL: zone is full */
ngx_http_cdm_stop_account_t *ngx_http_cdm_stop_account_get(
    ngx_http_cdm_stop_zone_t *zone, ngx_http_cdm_stop_key_t *key);

/*
 * Whether the identity may get one more project: NGX_OK, or NGX_BUSY with the
 * milliseconds until it may.
 */
ngx_int_t ngx_http_cdm_stop_account_admit(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_account_t *account, int64_t now, int64_t *retry);

/*
 * Takes a slot for a lease: NGX_OK, NGX_AGAIN if all are taken, or NGX_BUSY
 * with the milliseconds that the identity rests because it was refused.
 */
ngx_int_t ngx_http_cdm_stop_account_begin(ngx_http_cdm_stop_account_t *account,
    ngx_http_cdm_stop_lease_t *lease, int64_t now, int64_t hold,
    int64_t *retry);

/* IAM refused the identity of key now */
void ngx_http_cdm_stop_account_refused(ngx_http_cdm_stop_zone_t *zone,
    ngx_http_cdm_stop_key_t *key, int64_t now);

/* gives the slot of a lease back */
void ngx_http_cdm_stop_account_end(ngx_http_cdm_stop_account_t *account,
    ngx_http_cdm_stop_lease_t *lease);

/* milliseconds to leave IAM alone after so many failures before this one */
int64_t ngx_http_cdm_stop_backoff(ngx_uint_t failures);

/* makes the buckets of callers' rates; NGX_ERROR if the zone is too small */
ngx_int_t ngx_http_cdm_stop_rate_init(ngx_http_cdm_stop_zone_t *zone,
    size_t size);

void ngx_http_cdm_stop_verified_init(ngx_http_cdm_stop_zone_t *zone);

/* frees some of what is known of callers' tokens; returns how many */
ngx_uint_t ngx_http_cdm_stop_verified_evict(ngx_http_cdm_stop_zone_t *zone);

/* the verifier of an identity, made if need be; NULL: zone is full */
ngx_http_cdm_stop_verifier_t *ngx_http_cdm_stop_verifier_get(
    ngx_http_cdm_stop_zone_t *zone, u_char *digest);

/*
 * Takes a slot for a lease: NGX_OK, NGX_AGAIN if all are taken, or NGX_BUSY
 * with found->retry and fail if IAM is left alone for now.
 */
ngx_int_t ngx_http_cdm_stop_verifier_begin(
    ngx_http_cdm_stop_verifier_t *verifier, ngx_http_cdm_stop_lease_t *lease,
    int64_t now, ngx_http_cdm_stop_found_t *found);

/* gives the slot of a lease back */
void ngx_http_cdm_stop_verifier_end(ngx_http_cdm_stop_verifier_t *verifier,
    ngx_http_cdm_stop_lease_t *lease);

/* IAM gave an answer */
void ngx_http_cdm_stop_verifier_well(ngx_http_cdm_stop_verifier_t *verifier,
    int64_t now);

/* it gave none; returns the milliseconds that it is left alone, or 0 */
int64_t ngx_http_cdm_stop_verifier_failed(
    ngx_http_cdm_stop_verifier_t *verifier, ngx_http_cdm_stop_fail_e fail,
    int64_t retry_after, int64_t now);


#endif /* _NGX_HTTP_CDM_STOP_ZONE_H_INCLUDED_ */
