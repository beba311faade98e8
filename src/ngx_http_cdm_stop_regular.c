
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/rand.h>
#include <sys/mman.h>
#include "ngx_http_cdm_stop.h"


/*
 * Callers that a worker knows at sight: more than ever stop jobs in the same
 * second, of whom the others cost what they cost without all this.  A token
 * goes into one of the four places that its mark leads to.
 */

#define NGX_HTTP_CDM_STOP_REGULARS      64
#define NGX_HTTP_CDM_STOP_REGULAR_WAYS  4

/*
 * IAM's documented tokens have up to 9,120 bytes.  So a worker takes 1 MB at
 * most; of a place, the pages that no token came to are not taken.
 */

#define NGX_HTTP_CDM_STOP_REGULAR_MAX   16384

/* a shorter one is quickly hashed, if IAM ever gave any */
#define NGX_HTTP_CDM_STOP_REGULAR_MIN   sizeof(uint64_t)

/* words that a mark is made of, so that a short token is in it whole */
#define NGX_HTTP_CDM_STOP_MARK_WORDS    8


struct ngx_http_cdm_stop_regulars_s {
    uint64_t                     seed[2];
    ngx_http_cdm_stop_regular_t  place[NGX_HTTP_CDM_STOP_REGULARS];
    u_char                       token[NGX_HTTP_CDM_STOP_REGULARS]
                                      [NGX_HTTP_CDM_STOP_REGULAR_MAX];
};


static ngx_http_cdm_stop_regulars_t *ngx_http_cdm_stop_regular_create(void);
static ngx_uint_t ngx_http_cdm_stop_regular_fits(ngx_str_t *token);
static ngx_http_cdm_stop_regular_t *ngx_http_cdm_stop_regular_places(
    ngx_http_cdm_stop_regulars_t *regulars, ngx_str_t *token, uint64_t *mark);
static ngx_http_cdm_stop_regular_t *ngx_http_cdm_stop_regular_room(
    ngx_http_cdm_stop_regular_t *place, ngx_http_cdm_stop_key_t *key);
static uint64_t ngx_http_cdm_stop_regular_word(u_char *p);
static ngx_uint_t ngx_http_cdm_stop_regular_same(u_char *a, u_char *b,
    size_t len);
static void ngx_http_cdm_stop_regular_wipe(ngx_http_cdm_stop_regular_t *place);


ngx_uint_t
ngx_http_cdm_stop_regular_find(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char                         *digest;
    uint64_t                        mark;
    ngx_str_t                      *token;
    ngx_uint_t                      i;
    ngx_http_cdm_stop_regular_t    *place;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    token = &ctx->caller_token;

    if (cdmcf->worker->regulars == NULL
        || ctx->conf->verify == NGX_HTTP_CDM_STOP_VERIFY_OFF
        || !ngx_http_cdm_stop_regular_fits(token))
    {
        return 0;
    }

    digest = ctx->conf->identity->digest;

    place = ngx_http_cdm_stop_regular_places(cdmcf->worker->regulars, token,
                                             &mark);

    for (i = 0; i < NGX_HTTP_CDM_STOP_REGULAR_WAYS; i++, place++) {

        /* a mark is secret, so it is no way to try a token in pieces */

        if (place->mark != mark
            || place->token.len != token->len
            || place->digest != digest
            || !ngx_http_cdm_stop_regular_same(place->token.data, token->data,
                                               token->len))
        {
            continue;
        }

        ctx->key = place->key;
        ngx_memcpy(ctx->caller_fp, place->fp, sizeof(ctx->caller_fp));
        ctx->regular = place;

        return 1;
    }

    return 0;
}


void
ngx_http_cdm_stop_regular_keep(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    uint64_t                        mark;
    ngx_str_t                      *token;
    ngx_http_cdm_stop_worker_t     *worker;
    ngx_http_cdm_stop_regular_t    *place;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    token = &ctx->caller_token;
    place = ctx->regular;

    /* it may have been wiped meanwhile, or make place for another one */

    if (place
        && place->token.len
        && ngx_memcmp(&place->key, &ctx->key, sizeof(ngx_http_cdm_stop_key_t))
           == 0)
    {
        place->used = 1;
        return;
    }

    /* there are no requests any more that this were for */

    if (ngx_exiting || ngx_terminate
        || !ngx_http_cdm_stop_regular_fits(token))
    {
        return;
    }

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    worker = cdmcf->worker;

    if (worker->regulars == NULL) {

        worker->regulars = ngx_http_cdm_stop_regular_create();

        if (worker->regulars == NULL) {
            return;
        }
    }

    /* without a master, a reload does not make a process that began it */

    ngx_http_cdm_stop_start_renewal(cdmcf);

    place = ngx_http_cdm_stop_regular_places(worker->regulars, token, &mark);
    place = ngx_http_cdm_stop_regular_room(place, &ctx->key);

    if (place == NULL) {
        return;
    }

    if (place->token.len == 0) {
        place->token.data = worker->regulars->token[place
                                                    - worker->regulars->place];
        ngx_memcpy(place->token.data, token->data, token->len);
        ngx_memcpy(place->fp, ctx->caller_fp, sizeof(place->fp));

        place->token.len = token->len;
        place->mark = mark;
        place->digest = ctx->conf->identity->digest;
        place->key = ctx->key;
    }

    place->used = 1;
}


static ngx_http_cdm_stop_regulars_t *
ngx_http_cdm_stop_regular_create(void)
{
    ngx_http_cdm_stop_regulars_t  *regulars;

    regulars = ngx_http_cdm_stop_hidden_pages(
                                         sizeof(ngx_http_cdm_stop_regulars_t));
    if (regulars == NULL) {
        return NULL;
    }

    if (RAND_bytes((u_char *) regulars->seed, sizeof(regulars->seed)) != 1) {
        (void) munmap(regulars, sizeof(ngx_http_cdm_stop_regulars_t));
        return NULL;
    }

    return regulars;
}


static ngx_uint_t
ngx_http_cdm_stop_regular_fits(ngx_str_t *token)
{
    return token->len >= NGX_HTTP_CDM_STOP_REGULAR_MIN
           && token->len <= NGX_HTTP_CDM_STOP_REGULAR_MAX;
}


/*
 * The first of the places of a token, and its mark, which is of words from
 * its begin to its end and of what nobody outside knows.  Nothing depends on
 * it but the time that it takes to find a token.
 */

static ngx_http_cdm_stop_regular_t *
ngx_http_cdm_stop_regular_places(ngx_http_cdm_stop_regulars_t *regulars,
    ngx_str_t *token, uint64_t *mark)
{
    size_t       step;
    u_char      *p;
    uint64_t     hash, times;
    ngx_uint_t   i;

    p = token->data;
    step = (token->len - sizeof(uint64_t)) / (NGX_HTTP_CDM_STOP_MARK_WORDS
                                              - 1);
    hash = regulars->seed[0] ^ token->len;
    times = regulars->seed[1] | 1;

    for (i = 0; i < NGX_HTTP_CDM_STOP_MARK_WORDS - 1; i++, p += step) {
        hash = (hash ^ ngx_http_cdm_stop_regular_word(p)) * times;
        hash ^= hash >> 32;
    }

    p = token->data + token->len - sizeof(uint64_t);

    hash = (hash ^ ngx_http_cdm_stop_regular_word(p)) * times;
    hash ^= hash >> 32;

    *mark = hash;

    return &regulars->place[hash % (NGX_HTTP_CDM_STOP_REGULARS
                                    / NGX_HTTP_CDM_STOP_REGULAR_WAYS)
                            * NGX_HTTP_CDM_STOP_REGULAR_WAYS];
}


/*
 * The place of the key or, if there is none, one that is empty now.  A token
 * that was used since the last look stays, so that more callers than places
 * do not drive each other out, at a copy for each request.
 */

static ngx_http_cdm_stop_regular_t *
ngx_http_cdm_stop_regular_room(ngx_http_cdm_stop_regular_t *place,
    ngx_http_cdm_stop_key_t *key)
{
    ngx_uint_t                    i;
    ngx_http_cdm_stop_regular_t  *room;

    room = NULL;

    for (i = 0; i < NGX_HTTP_CDM_STOP_REGULAR_WAYS; i++, place++) {

        if (place->token.len == 0) {

            if (room == NULL || room->token.len) {
                room = place;
            }

            continue;
        }

        if (ngx_memcmp(&place->key, key, sizeof(ngx_http_cdm_stop_key_t))
            == 0)
        {
            return place;
        }

        if (room == NULL && !place->used) {
            room = place;
        }
    }

    if (room) {
        ngx_http_cdm_stop_regular_wipe(room);
    }

    return room;
}


static uint64_t
ngx_http_cdm_stop_regular_word(u_char *p)
{
    uint64_t  word;

    ngx_memcpy(&word, p, sizeof(uint64_t));

    return word;
}


/*
 * Takes as long for any bytes as for the same, as CRYPTO_memcmp() does, which
 * takes them one by one and as long as to hash them.
 */

static ngx_uint_t
ngx_http_cdm_stop_regular_same(u_char *a, u_char *b, size_t len)
{
    size_t    i;
    uint64_t  diff;

    diff = 0;

    for (i = 0; i + 4 * sizeof(uint64_t) <= len; i += 4 * sizeof(uint64_t)) {

        diff |= (ngx_http_cdm_stop_regular_word(a + i)
                 ^ ngx_http_cdm_stop_regular_word(b + i))
                | (ngx_http_cdm_stop_regular_word(a + i + 8)
                   ^ ngx_http_cdm_stop_regular_word(b + i + 8))
                | (ngx_http_cdm_stop_regular_word(a + i + 16)
                   ^ ngx_http_cdm_stop_regular_word(b + i + 16))
                | (ngx_http_cdm_stop_regular_word(a + i + 24)
                   ^ ngx_http_cdm_stop_regular_word(b + i + 24));
    }

    for ( /* void */ ; i < len; i++) {
        diff |= a[i] ^ b[i];
    }

    return diff == 0;
}


static void
ngx_http_cdm_stop_regular_wipe(ngx_http_cdm_stop_regular_t *place)
{
    if (place->token.len) {
        ngx_explicit_memzero(place->token.data, place->token.len);
        ngx_explicit_memzero(place, sizeof(ngx_http_cdm_stop_regular_t));
    }
}


void
ngx_http_cdm_stop_regular_expire(ngx_http_cdm_stop_regulars_t *regulars)
{
    ngx_uint_t                    i;
    ngx_http_cdm_stop_regular_t  *place;

    if (regulars == NULL) {
        return;
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_REGULARS; i++) {

        place = &regulars->place[i];

        if (!place->used) {
            ngx_http_cdm_stop_regular_wipe(place);
        }

        place->used = 0;
    }
}


void
ngx_http_cdm_stop_regular_free(ngx_http_cdm_stop_regulars_t *regulars)
{
    ngx_uint_t  i;

    if (regulars == NULL) {
        return;
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_REGULARS; i++) {
        ngx_http_cdm_stop_regular_wipe(&regulars->place[i]);
    }

    (void) munmap(regulars, sizeof(ngx_http_cdm_stop_regulars_t));
}
