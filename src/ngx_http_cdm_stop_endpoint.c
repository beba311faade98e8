
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/evp.h>
#include "ngx_http_cdm_stop.h"


#define NGX_HTTP_CDM_STOP_IAM_PATH  "/v3/auth/tokens?nocatalog=true"


static ngx_int_t ngx_http_cdm_stop_endpoint_target(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);
static ngx_uint_t ngx_http_cdm_stop_endpoint_legal(ngx_str_t *uri);
static ngx_int_t ngx_http_cdm_stop_endpoint_upstream(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);
static ngx_int_t ngx_http_cdm_stop_endpoint_resolve(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);
static ngx_int_t ngx_http_cdm_stop_endpoint_ssl(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);
static ngx_int_t ngx_http_cdm_stop_endpoint_digest(
    ngx_http_cdm_stop_identity_t *identity);


ngx_int_t
ngx_http_cdm_stop_endpoint(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    if (ngx_http_cdm_stop_endpoint_target(cf, identity) != NGX_OK
        || ngx_http_cdm_stop_endpoint_upstream(cf, identity) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_cdm_stop_endpoint_digest(identity);
}


/* the Host header and the target of the token API */

static ngx_int_t
ngx_http_cdm_stop_endpoint_target(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    u_char     *p;
    ngx_str_t   base;
    ngx_url_t  *url;

    url = &identity->url;

    if (ngx_parse_url(cf->pool, url) != NGX_OK) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                     "%s in \"uri %V\" of identity \"%V\"",
                                     url->err ? url->err : "invalid address",
                                     &identity->uri, &identity->name);
        return NGX_ERROR;
    }

    if (url->family == AF_UNIX
        || !ngx_http_cdm_stop_endpoint_legal(&identity->uri))
    {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                     "\"uri %V\" of identity \"%V\" must be "
                                     "scheme, host, and optionally port and "
                                     "path", &identity->uri, &identity->name);
        return NGX_ERROR;
    }

    /* https://host, https://host/ and https://host/v3 mean the same */

    base = url->uri;

    if (base.len == 0) {
        ngx_str_set(&base, "");
    }

    if (base.len && base.data[base.len - 1] == '/') {
        base.len--;
    }

    if (base.len >= 3
        && ngx_strncmp(base.data + base.len - 3, "/v3", 3) == 0)
    {
        base.len -= 3;
    }

    p = ngx_pnalloc(cf->pool,
                    base.len + sizeof(NGX_HTTP_CDM_STOP_IAM_PATH) - 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    identity->path.data = p;

    p = ngx_cpymem(p, base.data, base.len);
    p = ngx_cpymem(p, NGX_HTTP_CDM_STOP_IAM_PATH,
                   sizeof(NGX_HTTP_CDM_STOP_IAM_PATH) - 1);

    identity->path.len = p - identity->path.data;

    identity->host.len = url->host.len;

    if (!url->no_port && url->port != url->default_port) {
        identity->host.len += 1 + url->port_text.len;
    }

    identity->host.data = url->host.data;

    if (identity->server_name.value.len == 0) {
        identity->server_name.value = url->host;
    }

    return NGX_OK;
}


/* it becomes part of a request line */

static ngx_uint_t
ngx_http_cdm_stop_endpoint_legal(ngx_str_t *uri)
{
    size_t  i;

    for (i = 0; i < uri->len; i++) {

        if (uri->data[i] <= 0x20 || uri->data[i] > 0x7e
            || uri->data[i] == '?' || uri->data[i] == '#')
        {
            return 0;
        }
    }

    return 1;
}


static ngx_int_t
ngx_http_cdm_stop_endpoint_upstream(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    ngx_url_t                  url;
    ngx_http_upstream_conf_t  *ucf;

    ngx_memzero(&url, sizeof(ngx_url_t));

    url.url = identity->url.url;
    url.default_port = identity->url.default_port;
    url.uri_part = 1;
    url.no_resolve = 1;

    ucf = &identity->upstream;

    ucf->upstream = ngx_http_upstream_add(cf, &url, 0);
    if (ucf->upstream == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_cdm_stop_endpoint_resolve(cf, identity) != NGX_OK) {
        return NGX_ERROR;
    }

    /*
     * Each is for one step: the whole has a deadline of its own, within which
     * there is time for an address that does not answer, and for another.
     */

    ucf->connect_timeout = identity->timeout / 3 + 1;
    ucf->send_timeout = identity->timeout;
    ucf->read_timeout = identity->timeout;

    /* the whole header has to fit, and a token alone may have 32 KB */

    ucf->buffer_size = NGX_HTTP_CDM_STOP_IAM_HEADER_LEN;

    /* the next address is tried if a connection fails, not after a request */

    ucf->next_upstream = NGX_CONF_BITMASK_SET
                         |NGX_HTTP_UPSTREAM_FT_ERROR
                         |NGX_HTTP_UPSTREAM_FT_TIMEOUT;

    ucf->ignore_client_abort = 1;

    ngx_str_set(&ucf->module, "cdm_stop");

    if (identity->ssl) {
        return ngx_http_cdm_stop_endpoint_ssl(cf, identity);
    }

    return NGX_OK;
}


/*
 * A name is looked up again for each exchange, where there is a resolver.  It
 * ends with a dot then, which resolvers cut, since core would find the group
 * of addresses above by the name without one.
 */

static ngx_int_t
ngx_http_cdm_stop_endpoint_resolve(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    u_char     *p;
    ngx_str_t  *host;

    host = &identity->url.host;

    if (host->data[0] == '['
        || host->data[host->len - 1] == '.'
        || ngx_inet_addr(host->data, host->len) != INADDR_NONE)
    {
        return NGX_OK;
    }

    p = ngx_pnalloc(cf->pool, host->len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    identity->resolve.data = p;
    identity->resolve.len = host->len + 1;

    p = ngx_cpymem(p, host->data, host->len);
    *p = '.';

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_endpoint_ssl(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity)
{
    ngx_str_t                  ciphers;
    ngx_ssl_t                 *ssl;
    ngx_pool_cleanup_t        *cln;
    ngx_http_upstream_conf_t  *ucf;

    ucf = &identity->upstream;

    ssl = ngx_pcalloc(cf->pool, sizeof(ngx_ssl_t));
    if (ssl == NULL) {
        return NGX_ERROR;
    }

    ssl->log = cf->log;

    if (ngx_ssl_create(ssl, NGX_SSL_TLSv1_2|NGX_SSL_TLSv1_3, NULL) != NGX_OK) {
        return NGX_ERROR;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        ngx_ssl_cleanup_ctx(ssl);
        return NGX_ERROR;
    }

    cln->handler = ngx_ssl_cleanup_ctx;
    cln->data = ssl;

    ngx_str_set(&ciphers, "DEFAULT");

    if (ngx_ssl_ciphers(cf, ssl, &ciphers, 0) != NGX_OK) {
        return NGX_ERROR;
    }

#ifdef SSL_OP_CLEANSE_PLAINTEXT
    /* OpenSSL then wipes its buffers, in which the token has been */
    SSL_CTX_set_options(ssl->ctx, SSL_OP_CLEANSE_PLAINTEXT);
#endif

    if (identity->trusted_certificate.len) {

        /* public chains have two intermediates and more; nginx allows one */

        if (ngx_ssl_trusted_certificate(cf, ssl,
                                        &identity->trusted_certificate, 4)
            != NGX_OK)
        {
            /* why has been told, by core and without the place */

            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &identity->place,
                                         "\"trusted_certificate %V\" of "
                                         "identity \"%V\" cannot be used, "
                                         "name a file with the certificate "
                                         "of its CA in PEM",
                                         &identity->trusted_certificate,
                                         &identity->name);
            return NGX_ERROR;
        }

    } else if (SSL_CTX_set_default_verify_paths(ssl->ctx) == 0) {
        ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                      "SSL_CTX_set_default_verify_paths() failed");
        return NGX_ERROR;
    }

    ucf->ssl = ssl;
    ucf->ssl_name = &identity->server_name;
    ucf->ssl_server_name = 1;
    ucf->ssl_verify = identity->verify;

    return NGX_OK;
}


/*
 * What makes a token of one identity unfit for another, each part with its
 * length before it, so that no two identities give the same bytes.
 */

static ngx_int_t
ngx_http_cdm_stop_endpoint_digest(ngx_http_cdm_stop_identity_t *identity)
{
    size_t                            len;
    u_char                            flags[4];
    ngx_str_t                        *part[13], via, rest;
    ngx_uint_t                        i;
    EVP_MD_CTX                       *md;
    ngx_http_cdm_stop_credentials_t  *credentials;

    credentials = &identity->credentials;

    ngx_str_null(&via);

    if (identity->via) {
        via.data = identity->via->digest;
        via.len = NGX_HTTP_CDM_STOP_DIGEST_LEN;
    }

    /* nor is a token that came unchecked one that came from IAM */

    flags[0] = (u_char) credentials->method;
    flags[1] = (u_char) credentials->domain_scope;
    flags[2] = (u_char) identity->verify;
    flags[3] = (u_char) identity->insecure;

    rest.len = sizeof(flags);
    rest.data = flags;

    part[0] = &identity->uri;
    part[1] = &credentials->domain;
    part[2] = &credentials->user;
    part[3] = &credentials->password;
    part[4] = &credentials->access_key;
    part[5] = &credentials->secret_key;
    part[6] = &credentials->agency_domain;
    part[7] = &credentials->agency;
    part[8] = &via;
    part[9] = &identity->token_file;
    part[10] = &identity->server_name.value;
    part[11] = &identity->trusted_certificate;
    part[12] = &rest;

    md = EVP_MD_CTX_new();
    if (md == NULL) {
        return NGX_ERROR;
    }

    if (EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        goto failed;
    }

    for (i = 0; i < sizeof(part) / sizeof(part[0]); i++) {

        len = part[i]->len;

        if (EVP_DigestUpdate(md, &len, sizeof(size_t)) != 1
            || EVP_DigestUpdate(md, part[i]->data, len) != 1)
        {
            goto failed;
        }
    }

    if (EVP_DigestFinal_ex(md, identity->digest, NULL) != 1) {
        goto failed;
    }

    EVP_MD_CTX_free(md);

    return NGX_OK;

failed:

    EVP_MD_CTX_free(md);

    return NGX_ERROR;
}
