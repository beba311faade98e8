
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/*
 * Which certificates a client may show is a setting of a server block, but
 * nginx checks them when it knows no more of the request than the name in the
 * handshake, or with none at all: then by the settings of the default server,
 * and a header "Host" leads to another one afterwards.  A TLS session brings
 * its certificate along from where it was made, too.  So a name of a
 * certificate is one here only if the certificate was asked for by the
 * settings of this server.
 */


static ngx_int_t ngx_http_cdm_stop_handshake_session(ngx_http_request_t *r,
    ngx_uint_t *unnamed);
static ngx_uint_t ngx_http_cdm_stop_same_clients(ngx_http_ssl_srv_conf_t *a,
    ngx_http_ssl_srv_conf_t *b);
static ngx_uint_t ngx_http_cdm_stop_same_file(ngx_str_t *a, ngx_str_t *b);


ngx_int_t
ngx_http_cdm_stop_handshake(ngx_http_request_t *r)
{
    ngx_uint_t                 unnamed;
    ngx_http_connection_t     *hc;
    ngx_http_ssl_srv_conf_t   *sscf, *made;
    ngx_http_core_srv_conf_t  *cscf;

    sscf = ngx_http_get_module_srv_conf(r, ngx_http_ssl_module);

    if (r->connection->ssl == NULL || sscf->verify == 0) {
        return NGX_OK;
    }

    hc = r->http_connection;

    /*
     * With a name that this address knows, nginx itself sees to it that
     * "Host" is the same one.
     */

    unnamed = (hc->ssl_servername == NULL);

    if (SSL_session_reused(r->connection->ssl->connection)
        && ngx_http_cdm_stop_handshake_session(r, &unnamed) != NGX_OK)
    {
        goto refused;
    }

    if (unnamed == 0) {
        return NGX_OK;
    }

    cscf = hc->addr_conf->default_server;
    made = ngx_http_get_module_srv_conf(cscf->ctx, ngx_http_ssl_module);

    if (ngx_http_cdm_stop_same_clients(sscf, made)) {
        return NGX_OK;
    }

refused:

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "the client's certificate was checked for another server, "
                  "it names nobody here");

    return NGX_DECLINED;
}


/* whether the handshake that made the session was for the same name */

static ngx_int_t
ngx_http_cdm_stop_handshake_session(ngx_http_request_t *r,
    ngx_uint_t *unnamed)
{
#if (defined TLS1_3_VERSION                                                   \
     && !defined LIBRESSL_VERSION_NUMBER && !defined OPENSSL_IS_BORINGSSL)

    ngx_ssl_conn_t  *ssl;
    const char      *made, *name;

    ssl = r->connection->ssl->connection;

    made = SSL_SESSION_get0_hostname(SSL_get0_session(ssl));

    if (made == NULL) {
        *unnamed = 1;
        return NGX_OK;
    }

    name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

    return (name && ngx_strcmp(made, name) == 0) ? NGX_OK : NGX_DECLINED;

#else

    /* it cannot be told; where there is one server only, it need not */

    *unnamed = 0;

    return r->http_connection->addr_conf->virtual_names ? NGX_DECLINED
                                                        : NGX_OK;

#endif
}


static ngx_uint_t
ngx_http_cdm_stop_same_clients(ngx_http_ssl_srv_conf_t *a,
    ngx_http_ssl_srv_conf_t *b)
{
    return a == b
           || (a->verify == b->verify
               && a->verify_depth == b->verify_depth
               && ngx_http_cdm_stop_same_file(&a->client_certificate,
                                              &b->client_certificate)
               && ngx_http_cdm_stop_same_file(&a->trusted_certificate,
                                              &b->trusted_certificate)
               && ngx_http_cdm_stop_same_file(&a->crl, &b->crl));
}


static ngx_uint_t
ngx_http_cdm_stop_same_file(ngx_str_t *a, ngx_str_t *b)
{
    return a->len == b->len
           && (a->len == 0 || ngx_memcmp(a->data, b->data, a->len) == 0);
}
