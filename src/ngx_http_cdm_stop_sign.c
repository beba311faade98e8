
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/mman.h>
#include "ngx_http_cdm_stop.h"


#define NGX_HTTP_CDM_STOP_SEED_LEN       32
#define NGX_HTTP_CDM_STOP_SIGNATURE_LEN  64

/* the members of a checkpoint, but for those of the chain */
#define NGX_HTTP_CDM_STOP_CHECKPOINT     512


static ngx_int_t ngx_http_cdm_stop_sign_key(ngx_conf_t *cf,
    ngx_http_cdm_stop_sign_t *sign, ngx_str_t *file, ngx_str_t *pem);
static int ngx_http_cdm_stop_sign_password(char *buf, int size, int rwflag,
    void *data);
static void ngx_http_cdm_stop_sign_cleanup(void *data);
static void ngx_http_cdm_stop_signed(ngx_http_cdm_stop_chain_t *chain,
    ngx_time_t *tp);
static ngx_int_t ngx_http_cdm_stop_sign_text(ngx_http_cdm_stop_sign_t *sign,
    u_char *p, size_t len, u_char *signature);


ngx_http_cdm_stop_sign_t *
ngx_http_cdm_stop_sign_create(ngx_conf_t *cf, ngx_str_t *file,
    ngx_msec_t every)
{
    ngx_int_t                  rc;
    ngx_str_t                  pem;
    ngx_pool_cleanup_t        *cln;
    ngx_http_cdm_stop_sign_t  *sign;

    if (ngx_http_cdm_stop_read_key(cf, file, &pem) != NGX_OK) {
        return NULL;
    }

    cln = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_http_cdm_stop_sign_t));
    if (cln == NULL) {
        return NULL;
    }

    sign = cln->data;

    ngx_memzero(sign, sizeof(ngx_http_cdm_stop_sign_t));

    sign->every = every;

    sign->seed = mmap(NULL, ngx_pagesize, PROT_READ|PROT_WRITE,
                      MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);

    if (sign->seed == MAP_FAILED) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "mmap(MAP_ANONYMOUS, %uz) failed", ngx_pagesize);
        return NULL;
    }

    cln->handler = ngx_http_cdm_stop_sign_cleanup;

#if defined(MADV_DONTDUMP)

    if (madvise(sign->seed, ngx_pagesize, MADV_DONTDUMP) == -1) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, ngx_errno,
                           "madvise(MADV_DONTDUMP) failed, core dumps will "
                           "hold the key of \"cdm_stop_audit_sign\"");
    }

#endif

    rc = ngx_http_cdm_stop_sign_key(cf, sign, file, &pem);

    ngx_explicit_memzero(pem.data, pem.len);

    return (rc == NGX_OK) ? sign : NULL;
}


static ngx_int_t
ngx_http_cdm_stop_sign_key(ngx_conf_t *cf, ngx_http_cdm_stop_sign_t *sign,
    ngx_str_t *file, ngx_str_t *pem)
{
    BIO       *bio;
    size_t     len, public_len;
    u_char     public[NGX_HTTP_CDM_STOP_SEED_LEN];
    u_char     md[NGX_HTTP_CDM_STOP_HASH_LEN];
    EVP_PKEY  *key;
    ngx_int_t  rc;

    bio = BIO_new_mem_buf(pem->data, (int) pem->len);
    if (bio == NULL) {
        return NGX_ERROR;
    }

    key = PEM_read_bio_PrivateKey(bio, NULL, ngx_http_cdm_stop_sign_password,
                                  NULL);
    BIO_free(bio);

    len = NGX_HTTP_CDM_STOP_SEED_LEN;
    public_len = NGX_HTTP_CDM_STOP_SEED_LEN;
    rc = NGX_ERROR;

    if (key
        && EVP_PKEY_id(key) == EVP_PKEY_ED25519
        && EVP_PKEY_get_raw_private_key(key, sign->seed, &len)
        && EVP_PKEY_get_raw_public_key(key, public, &public_len)
        && EVP_Digest(public, public_len, md, NULL, EVP_sha256(), NULL))
    {
        ngx_hex_dump(sign->key_id, md, sizeof(md));
        rc = NGX_OK;
    }

    EVP_PKEY_free(key);
    ERR_clear_error();

    if (rc != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" holds no Ed25519 private key without a "
                           "password in PEM, make one by: openssl genpkey "
                           "-algorithm ed25519 -out %V", file, file);
    }

    return rc;
}


/* without it OpenSSL would ask on the terminal */

static int
ngx_http_cdm_stop_sign_password(char *buf, int size, int rwflag, void *data)
{
    return 0;
}


static void
ngx_http_cdm_stop_sign_cleanup(void *data)
{
    ngx_http_cdm_stop_sign_t *sign = data;

    ngx_explicit_memzero(sign->seed, NGX_HTTP_CDM_STOP_SEED_LEN);

    if (munmap(sign->seed, ngx_pagesize) == -1) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      "munmap(%p, %uz) failed", sign->seed, ngx_pagesize);
    }
}


void
ngx_http_cdm_stop_checkpoint(ngx_http_cdm_stop_chain_t *chain, ngx_log_t *log)
{
    u_char                      *p, *begin, signature[
                                     NGX_HTTP_CDM_STOP_SIGNATURE_LEN];
    u_char                       buf[NGX_HTTP_CDM_STOP_RECORD_HEAD
                                     + NGX_HTTP_CDM_STOP_CHECKPOINT
                                     + NGX_HTTP_CDM_STOP_RECORD_TAIL];
    ngx_str_t                    raw, text;
    ngx_time_t                  *tp;
    ngx_uint_t                   slot;
    ngx_file_info_t              fi;
    ngx_http_cdm_stop_sign_t    *sign;
    ngx_http_cdm_stop_record_t   rec;

    sign = chain->sign;
    tp = ngx_timeofday();

    /* one that fails is due again after the usual time */

    chain->sh->check_time = ngx_http_cdm_stop_now();
    chain->sh->check_seq = ngx_http_cdm_stop_chain_head(chain)->seq;

    rec.start = buf + NGX_HTTP_CDM_STOP_RECORD_HEAD;
    rec.end = rec.start + NGX_HTTP_CDM_STOP_CHECKPOINT;
    rec.op = NGX_HTTP_CDM_STOP_OPEN_KEEP;
    rec.intent = NULL;
    slot = NGX_HTTP_CDM_STOP_NO_SLOT;

    p = ngx_cpymem(rec.start, ",\"stage\":\"checkpoint\",\"time\":\"",
                   sizeof(",\"stage\":\"checkpoint\",\"time\":\"") - 1);
    p = ngx_http_cdm_stop_time_text(p, tp->sec, tp->msec);
    rec.pos = ngx_sprintf(p, "\",\"every\":%M,\"key_id\":\"%*s\"",
                          sign->every / 1000, sizeof(sign->key_id),
                          sign->key_id);

    /* what is signed has its place in the chain, so the file comes first */

    if (ngx_http_cdm_stop_file_ready(chain, 0, &fi, log) != NGX_OK
        || ngx_http_cdm_stop_follow(chain, &fi, log) != NGX_OK)
    {
        goto failed;
    }

    begin = ngx_http_cdm_stop_chain_link(chain,
                                         ngx_http_cdm_stop_chain_head(chain),
                                         &rec);

    if (ngx_http_cdm_stop_sign_text(sign, begin, rec.pos - begin, signature)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_ALERT, log, 0,
                      "audit checkpoint could not be signed");
        return;
    }

    raw.data = signature;
    raw.len = sizeof(signature);

    p = ngx_cpymem(rec.pos, ",\"signature\":\"",
                   sizeof(",\"signature\":\"") - 1);

    text.data = p;
    ngx_encode_base64(&text, &raw);

    rec.pos = p + text.len;
    *rec.pos++ = '"';

    if (ngx_http_cdm_stop_chain_append_locked(chain, &rec, &slot, log)
        == NGX_OK)
    {
        ngx_http_cdm_stop_signed(chain, tp);
        return;
    }

failed:

    ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                  "audit checkpoint could not be written to \"%V\"",
                  &chain->name);
}


/* a checkpoint was written as the last record */

static void
ngx_http_cdm_stop_signed(ngx_http_cdm_stop_chain_t *chain, ngx_time_t *tp)
{
    chain->sh->check_seq = ngx_http_cdm_stop_chain_head(chain)->seq;
    chain->sh->signed_seq = chain->sh->check_seq;
    chain->sh->signed_time = (uint64_t) tp->sec * 1000 + tp->msec;
}


static ngx_int_t
ngx_http_cdm_stop_sign_text(ngx_http_cdm_stop_sign_t *sign, u_char *p,
    size_t len, u_char *signature)
{
    size_t       size;
    EVP_PKEY    *key;
    ngx_int_t    rc;
    EVP_MD_CTX  *ctx;

    size = NGX_HTTP_CDM_STOP_SIGNATURE_LEN;

    key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, sign->seed,
                                       NGX_HTTP_CDM_STOP_SEED_LEN);
    ctx = EVP_MD_CTX_new();

    rc = (key
          && ctx
          && EVP_DigestSignInit(ctx, NULL, NULL, NULL, key)
          && EVP_DigestSign(ctx, signature, &size, p, len))
         ? NGX_OK : NGX_ERROR;

    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    ERR_clear_error();

    return rc;
}
