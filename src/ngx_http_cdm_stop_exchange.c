
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_fetch.h"


static ngx_int_t ngx_http_cdm_stop_exchange_resolve(ngx_http_request_t *r,
    ngx_http_cdm_stop_identity_t *identity);
static void ngx_http_cdm_stop_exchange_cleanup(void *data);
static ngx_int_t ngx_http_cdm_stop_exchange_create(ngx_http_request_t *r);
static ngx_buf_t *ngx_http_cdm_stop_exchange_request(
    ngx_http_cdm_stop_fetch_t *f, ngx_str_t *body);
static ngx_int_t ngx_http_cdm_stop_exchange_reinit(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_exchange_status_line(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_exchange_header(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_exchange_interim(ngx_http_request_t *r,
    ngx_http_cdm_stop_fetch_t *f);
static ngx_int_t ngx_http_cdm_stop_exchange_header_line(ngx_http_request_t *r,
    ngx_http_cdm_stop_fetch_t *f);
static void ngx_http_cdm_stop_exchange_retry(ngx_http_cdm_stop_fetch_t *f,
    ngx_str_t *value);
static void ngx_http_cdm_stop_exchange_length(ngx_http_request_t *r,
    ngx_http_cdm_stop_fetch_t *f, ngx_str_t *value);
static void ngx_http_cdm_stop_exchange_abort(ngx_http_request_t *r);
static void ngx_http_cdm_stop_exchange_finalize(ngx_http_request_t *r,
    ngx_int_t rc);
static void ngx_http_cdm_stop_exchange_wipe(ngx_http_cdm_stop_fetch_t *f);


ngx_int_t
ngx_http_cdm_stop_exchange(ngx_http_cdm_stop_fetch_t *f)
{
    ngx_http_request_t        *r;
    ngx_http_cleanup_t        *cln;
    ngx_http_upstream_t       *u;
    ngx_http_cdm_stop_ctx_t   *ctx;

    r = f->request;

    /* first, so that the lease is ended whatever fails below */

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        ngx_http_cdm_stop_fetch_end(f, NGX_ERROR);
        return NGX_ERROR;
    }

    cln->handler = ngx_http_cdm_stop_exchange_cleanup;
    cln->data = f;

    /* tells our filters that nothing of this request is sent anywhere */

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_cdm_stop_ctx_t));
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    ctx->fetch = f;

    ngx_http_set_ctx(r, ctx, ngx_http_cdm_stop_module);

    if (ngx_http_upstream_create(r) != NGX_OK) {
        return NGX_ERROR;
    }

    u = r->upstream;

    u->conf = &f->identity->upstream;
    u->output.tag = (ngx_buf_tag_t) &ngx_http_cdm_stop_module;

    if (f->identity->ssl) {
        u->ssl = 1;
        ngx_str_set(&u->schema, "https://");

    } else {
        ngx_str_set(&u->schema, "http://");
    }

    if (ngx_http_cdm_stop_exchange_resolve(r, f->identity) != NGX_OK) {
        return NGX_ERROR;
    }

    u->create_request = ngx_http_cdm_stop_exchange_create;
    u->reinit_request = ngx_http_cdm_stop_exchange_reinit;
    u->process_header = ngx_http_cdm_stop_exchange_status_line;
    u->abort_request = ngx_http_cdm_stop_exchange_abort;
    u->finalize_request = ngx_http_cdm_stop_exchange_finalize;

    u->input_filter_init = ngx_http_cdm_stop_exchange_filter_init;
    u->input_filter = ngx_http_cdm_stop_exchange_filter;
    u->input_filter_ctx = r;

    return NGX_OK;
}


/* without a resolver the addresses are those of the start of nginx */

static ngx_int_t
ngx_http_cdm_stop_exchange_resolve(ngx_http_request_t *r,
    ngx_http_cdm_stop_identity_t *identity)
{
    ngx_http_core_loc_conf_t       *clcf;
    ngx_http_upstream_resolved_t   *resolved;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (identity->resolve.len == 0
        || identity->upstream.upstream->servers
        || clcf->resolver == NULL
        || clcf->resolver->connections.nelts == 0)
    {
        /* an address, a group of the configuration's own, or no resolver */

        return NGX_OK;
    }

    resolved = ngx_pcalloc(r->pool, sizeof(ngx_http_upstream_resolved_t));
    if (resolved == NULL) {
        return NGX_ERROR;
    }

    resolved->host = identity->resolve;
    resolved->port = identity->url.port;
    resolved->no_port = identity->url.no_port;

    r->upstream->resolved = resolved;

    return NGX_OK;
}


static void
ngx_http_cdm_stop_exchange_cleanup(void *data)
{
    ngx_http_cdm_stop_fetch_t *f = data;

    if (!f->ended) {
        ngx_http_cdm_stop_fetch_end(f, NGX_ERROR);
    }

    /* upstream does not call back if it could not begin */

    ngx_http_cdm_stop_exchange_wipe(f);
}


static ngx_int_t
ngx_http_cdm_stop_exchange_create(ngx_http_request_t *r)
{
    ngx_buf_t                        *b;
    ngx_str_t                         body;
    ngx_chain_t                      *cl;
    ngx_http_cdm_stop_ctx_t          *ctx;
    ngx_http_cdm_stop_fetch_t        *f;
    ngx_http_cdm_stop_credentials_t   credentials;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);
    f = ctx->fetch;

    ngx_http_cdm_stop_fetch_credentials(f, &credentials);

    ngx_str_null(&body);

    if (f->subject.len == 0
        && credentials.method != NGX_HTTP_CDM_STOP_FILE
        && ngx_http_cdm_stop_iam_body(r->pool, &credentials, &body) != NGX_OK)
    {
        return NGX_ERROR;
    }

    b = ngx_http_cdm_stop_exchange_request(f, &body);

    if (body.len) {
        ngx_explicit_memzero(body.data, body.len);
    }

    if (b == NULL) {
        return NGX_ERROR;
    }

    f->output.data = b->start;
    f->output.len = b->end - b->start;

    /* without it the TLS layer would keep the request in its buffer */

    b->flush = 1;

    cl = ngx_alloc_chain_link(r->pool);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    cl->buf = b;
    cl->next = NULL;

    r->upstream->request_bufs = cl;

    return NGX_OK;
}


/* POST to get a token or, without a body, GET to ask about one */

static ngx_buf_t *
ngx_http_cdm_stop_exchange_request(ngx_http_cdm_stop_fetch_t *f,
    ngx_str_t *body)
{
    size_t      len;
    ngx_buf_t  *b;

    len = sizeof("POST  HTTP/1.1" CRLF
                 "Host: " CRLF
                 "Content-Type: application/json;charset=utf8" CRLF
                 "Content-Length: " CRLF
                 "Accept: application/json" CRLF
                 "User-Agent: ngx_http_cdm_stop_module/"
                 NGX_HTTP_CDM_STOP_VERSION CRLF
                 "X-Auth-Token: " CRLF
                 "X-Subject-Token: " CRLF
                 "Connection: close" CRLF CRLF) - 1
          + f->identity->path.len + f->identity->host.len + NGX_SIZE_T_LEN
          + 2 * f->auth.len + f->subject.len + body->len;

    b = ngx_create_temp_buf(f->request->pool, len);
    if (b == NULL) {
        return NULL;
    }

    b->last = ngx_sprintf(b->last, "%s %V HTTP/1.1" CRLF "Host: %V" CRLF,
                          body->len ? "POST" : "GET", &f->identity->path,
                          &f->identity->host);

    if (body->len) {
        b->last = ngx_sprintf(b->last,
                              "Content-Type: application/json;charset=utf8"
                              CRLF "Content-Length: %uz" CRLF, body->len);
    }

    b->last = ngx_sprintf(b->last,
                          "Accept: application/json" CRLF
                          "User-Agent: ngx_http_cdm_stop_module/"
                          NGX_HTTP_CDM_STOP_VERSION CRLF);

    if (f->auth.len) {
        b->last = ngx_sprintf(b->last, "X-Auth-Token: %V" CRLF, &f->auth);
    }

    if (f->auth.len && body->len == 0) {
        b->last = ngx_sprintf(b->last, "X-Subject-Token: %V" CRLF,
                              f->subject.len ? &f->subject : &f->auth);
    }

    b->last = ngx_cpymem(b->last, "Connection: close" CRLF CRLF,
                         sizeof("Connection: close" CRLF CRLF) - 1);

    if (body->len) {
        b->last = ngx_cpymem(b->last, body->data, body->len);
    }

    return b;
}


static ngx_int_t
ngx_http_cdm_stop_exchange_reinit(ngx_http_request_t *r)
{
    /* IAM got the request: it is not sent again, see next_upstream */

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_cdm_stop_exchange_status_line(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_http_upstream_t        *u;
    ngx_http_cdm_stop_ctx_t    *ctx;
    ngx_http_cdm_stop_fetch_t  *f;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);
    f = ctx->fetch;
    u = r->upstream;

    if (!u->request_sent) {

        /* before the TLS handshake, it may be anybody's */

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent an answer before it was asked");
        return NGX_HTTP_UPSTREAM_INVALID_HEADER;
    }

    rc = ngx_http_parse_status_line(r, &u->buffer, &f->status);

    if (rc == NGX_AGAIN) {
        return rc;
    }

    if (rc == NGX_ERROR) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent no valid HTTP/1.1 header");
        return NGX_HTTP_UPSTREAM_INVALID_HEADER;
    }

    u->state->status = f->status.code;
    u->headers_in.status_n = f->status.code;

    f->answer.status = f->status.code;
    f->answer.date = (time_t) NGX_ERROR;

    u->process_header = ngx_http_cdm_stop_exchange_header;

    return ngx_http_cdm_stop_exchange_header(r);
}


static ngx_int_t
ngx_http_cdm_stop_exchange_header(ngx_http_request_t *r)
{
    ngx_int_t                 rc;
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);

    for ( ;; ) {

        rc = ngx_http_parse_header_line(r, &r->upstream->buffer, 1);

        if (rc == NGX_AGAIN) {
            return NGX_AGAIN;
        }

        if (rc == NGX_HTTP_PARSE_HEADER_DONE) {

            if (r->upstream->headers_in.status_n < NGX_HTTP_OK) {
                return ngx_http_cdm_stop_exchange_interim(r, ctx->fetch);
            }

            return NGX_OK;
        }

        /* core takes a line without a colon, and one that ends with LF */

        if (rc == NGX_OK
            && *r->header_name_end == ':'
            && *r->header_end != LF)
        {
            if (ngx_http_cdm_stop_exchange_header_line(r, ctx->fetch)
                != NGX_OK)
            {
                return NGX_ERROR;
            }

            continue;
        }

        /* it may hold a token, so it is not logged */

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent an invalid header line");

        return NGX_HTTP_UPSTREAM_INVALID_HEADER;
    }
}


/* an interim answer is followed by the real one; nothing of it counts */

static ngx_int_t
ngx_http_cdm_stop_exchange_interim(ngx_http_request_t *r,
    ngx_http_cdm_stop_fetch_t *f)
{
    ngx_http_upstream_t  *u;

    u = r->upstream;

    if (f->status.code == NGX_HTTP_SWITCHING_PROTOCOLS) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent 101 to a request without \"Upgrade\"");
        return NGX_HTTP_UPSTREAM_INVALID_HEADER;
    }

    ngx_memzero(&f->status, sizeof(ngx_http_status_t));
    ngx_memzero(&f->answer, sizeof(ngx_http_cdm_stop_iam_answer_t));

    u->headers_in.status_n = 0;
    u->headers_in.content_length_n = -1;
    u->headers_in.chunked = 0;
    f->encoded = 0;
    f->retry_after = 0;
    f->retry_date = 0;

    r->state = 0;
    u->process_header = ngx_http_cdm_stop_exchange_status_line;

    if (u->buffer.pos == u->buffer.last) {
        return NGX_AGAIN;
    }

    return ngx_http_cdm_stop_exchange_status_line(r);
}


static ngx_int_t
ngx_http_cdm_stop_exchange_header_line(ngx_http_request_t *r,
    ngx_http_cdm_stop_fetch_t *f)
{
    u_char     *p;
    size_t      len;
    ngx_str_t   name, value;

    name.data = r->header_name_start;
    name.len = r->header_name_end - r->header_name_start;

    value.data = r->header_start;
    value.len = r->header_end - r->header_start;

#define ngx_http_cdm_stop_header_is(s)                                        \
    (name.len == sizeof(s) - 1                                                \
     && ngx_strncasecmp(name.data, (u_char *) s, sizeof(s) - 1) == 0)

    if (ngx_http_cdm_stop_header_is("X-Subject-Token")) {

        /* the buffer that the header is in is used again for the body */

        if (f->answer.tokens++ == 0) {

            len = ngx_min(value.len, NGX_HTTP_CDM_STOP_TOKEN_LEN + 1);

            p = ngx_pnalloc(r->pool, len + 1);
            if (p == NULL) {
                return NGX_ERROR;
            }

            ngx_memcpy(p, value.data, len);

            f->answer.token.data = p;
            f->answer.token.len = len;
        }

    } else if (ngx_http_cdm_stop_header_is("Content-Length")) {
        ngx_http_cdm_stop_exchange_length(r, f, &value);

    } else if (ngx_http_cdm_stop_header_is("Transfer-Encoding")) {

        if (value.len == sizeof("chunked") - 1
            && ngx_strncasecmp(value.data, (u_char *) "chunked", value.len)
               == 0
            && r->upstream->headers_in.content_length_n == -1)
        {
            r->upstream->headers_in.chunked = 1;

        } else {
            f->encoded = 1;
        }

    } else if (ngx_http_cdm_stop_header_is("Content-Encoding")) {
        f->encoded = 1;

    } else if (ngx_http_cdm_stop_header_is("Date")) {
        f->answer.date = ngx_parse_http_time(value.data, value.len);

    } else if (ngx_http_cdm_stop_header_is("Retry-After")) {
        ngx_http_cdm_stop_exchange_retry(f, &value);
    }

    return NGX_OK;
}


/* seconds or a date, of IAM's own clock; what is neither is not followed */

static void
ngx_http_cdm_stop_exchange_retry(ngx_http_cdm_stop_fetch_t *f,
    ngx_str_t *value)
{
    ngx_int_t  seconds;

    seconds = ngx_atoi(value->data, value->len);

    if (seconds == NGX_ERROR) {
        f->retry_date = ngx_parse_http_time(value->data, value->len);
        return;
    }

    f->retry_after = (int64_t) ngx_min(seconds,
                                       NGX_HTTP_CDM_STOP_RETRY_MAX / 1000)
                     * 1000;
}


/* two lengths, or one beside chunks, leave the end of the body open */

static void
ngx_http_cdm_stop_exchange_length(ngx_http_request_t *r,
    ngx_http_cdm_stop_fetch_t *f, ngx_str_t *value)
{
    off_t                            length;
    ngx_http_upstream_headers_in_t  *headers;

    headers = &r->upstream->headers_in;

    length = ngx_atoof(value->data, value->len);

    if (length == NGX_ERROR
        || headers->chunked
        || (headers->content_length_n != -1
            && headers->content_length_n != length))
    {
        f->encoded = 1;
        return;
    }

    headers->content_length_n = length;
}


static void
ngx_http_cdm_stop_exchange_abort(ngx_http_request_t *r)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "abort request to IAM");
}


static void
ngx_http_cdm_stop_exchange_finalize(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_http_upstream_t        *u;
    ngx_http_cdm_stop_ctx_t    *ctx;
    ngx_http_cdm_stop_fetch_t  *f;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);
    f = ctx->fetch;
    u = r->upstream;

    /* "post_action" of the server does not apply */

    r->post_action = 1;
    r->uri_changes = 0;

    /* a body that ends with the connection */

    if (rc == NGX_OK && u->length == -1 && !u->headers_in.chunked) {
        f->complete = 1;
    }

    ngx_http_cdm_stop_fetch_end(f, rc);
    ngx_http_cdm_stop_exchange_wipe(f);
}


static void
ngx_http_cdm_stop_exchange_wipe(ngx_http_cdm_stop_fetch_t *f)
{
    ngx_http_upstream_t  *u;

    if (f->wiped) {
        return;
    }

    f->wiped = 1;

    ngx_http_cdm_stop_fetch_wipe(f);

    if (f->output.data) {
        ngx_explicit_memzero(f->output.data, f->output.len);
    }

    if (f->answer.token.data) {
        ngx_explicit_memzero(f->answer.token.data, f->answer.token.len);
    }

    if (f->answer.body.data) {
        ngx_explicit_memzero(f->answer.body.data, f->answer.body.len);
    }

    u = f->request->upstream;

    if (u == NULL) {
        return;
    }

    if (u->buffer.start) {
        ngx_explicit_memzero(u->buffer.start, u->buffer.end - u->buffer.start);
    }

    ngx_http_cdm_stop_wipe_connection(u->peer.connection,
                                      NGX_MAX_SIZE_T_VALUE);
}
