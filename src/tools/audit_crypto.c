
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* Keys, hashes and signatures */


#include <errno.h>
#include <string.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include "audit.h"


#define CDM_STOP_AUDIT_KEY_MIN        16
#define CDM_STOP_AUDIT_SIGNATURE_LEN  64


int
cdm_stop_audit_key(const char *name, unsigned char *key, size_t size)
{
    FILE    *in;
    size_t   len;

    in = fopen(name, "rb");
    if (in == NULL) {
        cdm_stop_audit_error("%s: %s", name, strerror(errno));
        return -1;
    }

    /* no copy of the key in a buffer of the library */
    setvbuf(in, NULL, _IONBF, 0);

    len = fread(key, 1, size, in);

    if (ferror(in)) {
        cdm_stop_audit_error("%s: it cannot be read", name);
        fclose(in);
        return -1;
    }

    fclose(in);

    if (len && len < size && key[len - 1] == '\n') {
        len--;

        if (len && key[len - 1] == '\r') {
            len--;
        }
    }

    if (len < CDM_STOP_AUDIT_KEY_MIN || len == size) {
        cdm_stop_audit_error("%s: a key has 16 to 4096 bytes", name);
        OPENSSL_cleanse(key, size);
        return -1;
    }

    return len;
}


int
cdm_stop_audit_mac_init(cdm_stop_audit_mac_t *mac, const unsigned char *key,
    size_t len)
{
    char         digest[] = "SHA256";
    EVP_MAC     *hmac;
    OSSL_PARAM   params[2];

    memset(mac, 0, sizeof(cdm_stop_audit_mac_t));

    if (key == NULL) {
        mac->md = EVP_MD_fetch(NULL, digest, NULL);
        mac->digest = EVP_MD_CTX_new();

        return mac->md && mac->digest ? 0 : -1;
    }

    hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    if (hmac == NULL) {
        return -1;
    }

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST,
                                                 digest, 0);
    params[1] = OSSL_PARAM_construct_end();

    mac->mac = EVP_MAC_CTX_new(hmac);
    EVP_MAC_free(hmac);

    if (mac->mac == NULL || EVP_MAC_init(mac->mac, key, len, params) != 1) {
        return -1;
    }

    return 0;
}


int
cdm_stop_audit_mac(cdm_stop_audit_mac_t *mac, const unsigned char *a,
    size_t alen, const unsigned char *b, size_t blen, unsigned char *out)
{
    size_t  len;

    if (mac->mac) {
        return EVP_MAC_init(mac->mac, NULL, 0, NULL) == 1
               && EVP_MAC_update(mac->mac, a, alen) == 1
               && EVP_MAC_update(mac->mac, b, blen) == 1
               && EVP_MAC_final(mac->mac, out, &len, CDM_STOP_AUDIT_HASH_LEN)
                  == 1
               ? 0 : -1;
    }

    return EVP_DigestInit_ex(mac->digest, mac->md, NULL) == 1
           && EVP_DigestUpdate(mac->digest, a, alen) == 1
           && EVP_DigestUpdate(mac->digest, b, blen) == 1
           && EVP_DigestFinal_ex(mac->digest, out, NULL) == 1
           ? 0 : -1;
}


void
cdm_stop_audit_mac_free(cdm_stop_audit_mac_t *mac)
{
    EVP_MAC_CTX_free(mac->mac);
    EVP_MD_CTX_free(mac->digest);
    EVP_MD_free(mac->md);
}


EVP_PKEY *
cdm_stop_audit_public_key(const char *name, char *id)
{
    FILE           *in;
    size_t          len;
    EVP_PKEY       *key;
    unsigned char   raw[32], hash[CDM_STOP_AUDIT_HASH_LEN];

    in = fopen(name, "rb");
    if (in == NULL) {
        cdm_stop_audit_error("%s: %s", name, strerror(errno));
        return NULL;
    }

    key = PEM_read_PUBKEY(in, NULL, NULL, NULL);
    fclose(in);

    len = sizeof(raw);

    if (key == NULL || !EVP_PKEY_is_a(key, "ED25519")
        || EVP_PKEY_get_raw_public_key(key, raw, &len) != 1
        || EVP_Digest(raw, len, hash, NULL, EVP_sha256(), NULL) != 1)
    {
        cdm_stop_audit_error("%s: it is no Ed25519 public key in PEM; write "
                             "\"openssl pkey -in PRIVATE -pubout\"", name);
        EVP_PKEY_free(key);
        return NULL;
    }

    cdm_stop_audit_hex(id, hash, sizeof(hash));

    return key;
}


int
cdm_stop_audit_signature(EVP_PKEY *key, const unsigned char *data, size_t len,
    const cdm_stop_audit_str_t *signature)
{
    int            rc;
    EVP_MD_CTX    *ctx;
    unsigned char  raw[CDM_STOP_AUDIT_SIGNATURE_LEN + 2];

    /* 64 bytes are 88 characters, of which the last two fill up */

    if (signature->len != 88 || signature->data[87] != '='
        || signature->data[86] != '='
        || EVP_DecodeBlock(raw, signature->data, 88) != sizeof(raw))
    {
        return 0;
    }

    ctx = EVP_MD_CTX_new();
    if (ctx == NULL) {
        return 0;
    }

    rc = EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1
         && EVP_DigestVerify(ctx, raw, CDM_STOP_AUDIT_SIGNATURE_LEN, data, len)
            == 1;

    EVP_MD_CTX_free(ctx);

    return rc;
}
