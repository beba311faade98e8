
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


#define NGX_HTTP_CDM_STOP_IAM_MESSAGE_LEN  256


/*
 * One exchange with IAM.  It is a request without a client, on a connection
 * of its own whose other end is closed, with nginx's upstream as its content:
 * so it outlives the request that needed it.  docs/DESIGN.md tells why.
 */

typedef struct {
    ngx_http_cdm_stop_main_conf_t   *cdmcf;
    ngx_http_cdm_stop_identity_t    *identity;
    ngx_http_request_t              *request;
    ngx_http_cdm_stop_key_t          key;
    ngx_http_cdm_stop_lease_t        lease;

    ngx_event_t                      deadline;
    ngx_log_t                        log;
    ngx_http_log_ctx_t               log_ctx;
    ngx_http_connection_t            hc;
    ngx_http_addr_conf_t             addr_conf;

    ngx_str_t                        output;    /* with the secret; wiped */
    ngx_http_status_t                status;
    ngx_http_chunked_t               chunked;
    ngx_http_cdm_stop_iam_answer_t   answer;
    size_t                           body_size;

    unsigned                         complete:1;
    unsigned                         encoded:1;
    unsigned                         timedout:1;
    unsigned                         ended:1;
} ngx_http_cdm_stop_fetch_t;


static ngx_connection_t *ngx_http_cdm_stop_fetch_connection(ngx_log_t *log);
static ngx_int_t ngx_http_cdm_stop_fetch_request(
    ngx_http_cdm_stop_fetch_t *f, ngx_connection_t *c);
static ngx_int_t ngx_http_cdm_stop_fetch_upstream(
    ngx_http_cdm_stop_fetch_t *f);
static u_char *ngx_http_cdm_stop_fetch_log(ngx_log_t *log, u_char *buf,
    size_t len);
static void ngx_http_cdm_stop_fetch_deadline(ngx_event_t *ev);
static void ngx_http_cdm_stop_fetch_cleanup(void *data);
static ngx_int_t ngx_http_cdm_stop_fetch_create(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_fetch_reinit(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_fetch_status_line(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_fetch_header(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_fetch_header_line(ngx_http_request_t *r,
    ngx_http_cdm_stop_fetch_t *f);
static ngx_int_t ngx_http_cdm_stop_fetch_filter_init(void *data);
static ngx_int_t ngx_http_cdm_stop_fetch_filter(void *data, ssize_t bytes);
static ngx_int_t ngx_http_cdm_stop_fetch_chunked(ngx_http_cdm_stop_fetch_t *f,
    ssize_t bytes);
static ngx_int_t ngx_http_cdm_stop_fetch_append(ngx_http_cdm_stop_fetch_t *f,
    u_char *p, size_t len);
static void ngx_http_cdm_stop_fetch_abort(ngx_http_request_t *r);
static void ngx_http_cdm_stop_fetch_finalize(ngx_http_request_t *r,
    ngx_int_t rc);
static void ngx_http_cdm_stop_fetch_end(ngx_http_cdm_stop_fetch_t *f,
    ngx_int_t rc);
static void ngx_http_cdm_stop_fetch_issued(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_grant_t *grant);
static void ngx_http_cdm_stop_fetch_failed(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_fail_e fail, const char *error);
static ngx_http_cdm_stop_fail_e ngx_http_cdm_stop_fetch_reason(
    ngx_http_cdm_stop_fetch_t *f);
static void ngx_http_cdm_stop_fetch_wipe(ngx_http_cdm_stop_fetch_t *f);


ngx_int_t
ngx_http_cdm_stop_fetch(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity, ngx_http_cdm_stop_key_t *key,
    ngx_http_cdm_stop_lease_t *lease)
{
    ngx_connection_t           *c;
    ngx_http_cdm_stop_fetch_t  *f;

    c = ngx_http_cdm_stop_fetch_connection(ngx_cycle->log);

    if (c == NULL) {
        goto failed;
    }

    f = ngx_pcalloc(c->pool, sizeof(ngx_http_cdm_stop_fetch_t));
    if (f == NULL) {
        ngx_http_close_connection(c);
        goto failed;
    }

    f->cdmcf = cdmcf;
    f->identity = identity;
    f->key = *key;
    f->lease = *lease;

    if (ngx_http_cdm_stop_fetch_request(f, c) != NGX_OK) {
        ngx_http_close_connection(c);
        goto failed;
    }

    f->deadline.handler = ngx_http_cdm_stop_fetch_deadline;
    f->deadline.data = f;
    f->deadline.log = c->log;

    ngx_add_timer(&f->deadline, identity->timeout);

    /* whatever happens from here on is told by the callbacks of upstream */

    if (ngx_http_cdm_stop_fetch_upstream(f) != NGX_OK) {
        ngx_http_finalize_request(f->request, NGX_ERROR);
        ngx_http_run_posted_requests(c);
        return NGX_OK;
    }

    f->request->main->count++;

    ngx_http_upstream_init(f->request);

    ngx_http_finalize_request(f->request, NGX_DONE);
    ngx_http_run_posted_requests(c);

    return NGX_OK;

failed:

    (void) ngx_http_cdm_stop_token_failed(cdmcf->zone, key, lease,
                                          NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE);
    return NGX_ERROR;
}


/*
 * A real descriptor, since the core closes it, and may even read from it, as
 * it does with any other; its other end is closed at once.
 */

static ngx_connection_t *
ngx_http_cdm_stop_fetch_connection(ngx_log_t *log)
{
    ngx_socket_t       s[2];
    ngx_connection_t  *c;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, s) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      "socketpair() failed while requesting IAM token");
        return NULL;
    }

    if (ngx_close_socket(s[1]) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      ngx_close_socket_n " failed");
    }

    c = NULL;

    if (ngx_nonblocking(s[0]) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      ngx_nonblocking_n " failed");

    } else {
        c = ngx_get_connection(s[0], log);
    }

    if (c == NULL) {
        goto failed;
    }

    c->pool = ngx_create_pool(4096, log);
    if (c->pool == NULL) {
        ngx_free_connection(c);
        goto failed;
    }

    /* core would set options of TCP on it */

    c->tcp_nodelay = NGX_TCP_NODELAY_DISABLED;
    c->tcp_nopush = NGX_TCP_NOPUSH_DISABLED;

    c->recv = ngx_recv;
    c->send = ngx_send;
    c->recv_chain = ngx_recv_chain;
    c->send_chain = ngx_send_chain;
    c->read->handler = ngx_http_empty_handler;
    c->write->handler = ngx_http_empty_handler;
    c->write->ready = 1;
    c->start_time = ngx_current_msec;
    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);

#if (NGX_STAT_STUB)
    (void) ngx_atomic_fetch_add(ngx_stat_active, 1);
#endif

    return c;

failed:

    if (ngx_close_socket(s[0]) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      ngx_close_socket_n " failed");
    }

    return NULL;
}


static ngx_int_t
ngx_http_cdm_stop_fetch_request(ngx_http_cdm_stop_fetch_t *f,
    ngx_connection_t *c)
{
    ngx_http_request_t         *r;
    static struct sockaddr_in   loopback = { .sin_family = AF_INET };

    f->log = *ngx_cycle->log;
    f->log.handler = ngx_http_cdm_stop_fetch_log;
    f->log.data = &f->log_ctx;
    f->log.action = "requesting IAM token";
    f->log.connection = c->number;

    f->log_ctx.connection = c;

    c->log = &f->log;
    c->pool->log = &f->log;
    c->read->log = &f->log;
    c->write->log = &f->log;
    c->log_error = NGX_ERROR_ERR;

    /* variables and limits by address, if any gets here, see this address */

    c->sockaddr = (struct sockaddr *) &loopback;
    c->socklen = sizeof(struct sockaddr_in);
    c->local_sockaddr = c->sockaddr;
    c->local_socklen = c->socklen;
    ngx_str_set(&c->addr_text, "127.0.0.1");

    c->buffer = ngx_create_temp_buf(c->pool, 1);
    if (c->buffer == NULL) {
        return NGX_ERROR;
    }

    f->hc.conf_ctx = f->cdmcf->server;
    f->hc.addr_conf = &f->addr_conf;
    f->addr_conf.default_server =
                 ngx_http_get_module_srv_conf(f->hc.conf_ctx,
                                              ngx_http_core_module);
    c->data = &f->hc;

    r = ngx_http_create_request(c);
    if (r == NULL) {
        return NGX_ERROR;
    }

    c->data = r;
    f->request = r;

    /* what goes wrong with IAM is told in the main log, not in a server's */

    ngx_set_connection_log(c, ngx_cycle->log);

    ngx_str_set(&r->method_name, "POST");
    r->method = NGX_HTTP_POST;
    r->http_version = NGX_HTTP_VERSION_11;
    r->uri = f->identity->path;
    r->unparsed_uri = f->identity->path;
    r->valid_unparsed_uri = 1;
    r->http_state = NGX_HTTP_PROCESS_REQUEST_STATE;
    r->write_event_handler = ngx_http_request_empty_handler;
    r->read_event_handler = ngx_http_block_reading;

    /* neither error_page nor access_log of the server apply */

    r->error_page = 1;
    r->logged = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_fetch_upstream(ngx_http_cdm_stop_fetch_t *f)
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

    cln->handler = ngx_http_cdm_stop_fetch_cleanup;
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

    u->create_request = ngx_http_cdm_stop_fetch_create;
    u->reinit_request = ngx_http_cdm_stop_fetch_reinit;
    u->process_header = ngx_http_cdm_stop_fetch_status_line;
    u->abort_request = ngx_http_cdm_stop_fetch_abort;
    u->finalize_request = ngx_http_cdm_stop_fetch_finalize;

    u->input_filter_init = ngx_http_cdm_stop_fetch_filter_init;
    u->input_filter = ngx_http_cdm_stop_fetch_filter;
    u->input_filter_ctx = r;

    return NGX_OK;
}


static u_char *
ngx_http_cdm_stop_fetch_log(ngx_log_t *log, u_char *buf, size_t len)
{
    u_char                     *p;
    ngx_http_log_ctx_t         *ctx;
    ngx_http_upstream_t        *u;
    ngx_http_cdm_stop_fetch_t  *f;

    ctx = log->data;
    f = (ngx_http_cdm_stop_fetch_t *)
            ((u_char *) ctx - offsetof(ngx_http_cdm_stop_fetch_t, log_ctx));

    p = ngx_snprintf(buf, len, " while requesting IAM token, identity: \"%V\", "
                     "project: \"%*s\"", &f->identity->name,
                     (size_t) NGX_HTTP_CDM_STOP_PROJECT_LEN, f->key.project);
    len -= p - buf;
    buf = p;

    u = f->request ? f->request->upstream : NULL;

    if (u && u->peer.name) {
        p = ngx_snprintf(buf, len, ", upstream: \"%V%V%V\"", &u->schema,
                         u->peer.name, &f->identity->path);
    }

    return p;
}


/* timeouts of upstream are for one read each: this one is for the whole */

static void
ngx_http_cdm_stop_fetch_deadline(ngx_event_t *ev)
{
    ngx_connection_t           *c;
    ngx_http_cdm_stop_fetch_t  *f;

    f = ev->data;
    c = f->request->connection;

    f->timedout = 1;

    c->error = 1;

    ngx_http_finalize_request(f->request, NGX_ERROR);
    ngx_http_run_posted_requests(c);
}


static void
ngx_http_cdm_stop_fetch_cleanup(void *data)
{
    ngx_http_cdm_stop_fetch_t *f = data;

    if (!f->ended) {
        ngx_http_cdm_stop_fetch_end(f, NGX_ERROR);
    }
}


static ngx_int_t
ngx_http_cdm_stop_fetch_create(ngx_http_request_t *r)
{
    size_t                            len;
    ngx_buf_t                        *b;
    ngx_str_t                         body;
    ngx_chain_t                      *cl;
    ngx_http_cdm_stop_ctx_t          *ctx;
    ngx_http_cdm_stop_fetch_t        *f;
    ngx_http_cdm_stop_credentials_t   credentials;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);
    f = ctx->fetch;

    credentials = f->identity->credentials;
    credentials.project.len = NGX_HTTP_CDM_STOP_PROJECT_LEN;
    credentials.project.data = f->key.project;

    if (ngx_http_cdm_stop_iam_body(r->pool, &credentials, &body) != NGX_OK) {
        return NGX_ERROR;
    }

    len = sizeof("POST  HTTP/1.1" CRLF
                 "Host: " CRLF
                 "Content-Type: application/json;charset=utf8" CRLF
                 "Content-Length: " CRLF
                 "Accept: application/json" CRLF
                 "User-Agent: ngx_http_cdm_stop_module/"
                 NGX_HTTP_CDM_STOP_VERSION CRLF
                 "Connection: close" CRLF CRLF) - 1
          + f->identity->path.len + f->identity->host.len + NGX_SIZE_T_LEN
          + body.len;

    b = ngx_create_temp_buf(r->pool, len);
    if (b == NULL) {
        ngx_explicit_memzero(body.data, body.len);
        return NGX_ERROR;
    }

    b->last = ngx_sprintf(b->last,
                          "POST %V HTTP/1.1" CRLF
                          "Host: %V" CRLF
                          "Content-Type: application/json;charset=utf8" CRLF
                          "Content-Length: %uz" CRLF
                          "Accept: application/json" CRLF
                          "User-Agent: ngx_http_cdm_stop_module/"
                          NGX_HTTP_CDM_STOP_VERSION CRLF
                          "Connection: close" CRLF CRLF,
                          &f->identity->path, &f->identity->host, body.len);

    b->last = ngx_cpymem(b->last, body.data, body.len);

    ngx_explicit_memzero(body.data, body.len);

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


static ngx_int_t
ngx_http_cdm_stop_fetch_reinit(ngx_http_request_t *r)
{
    /* IAM got the request: it is not sent again, see next_upstream */

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_cdm_stop_fetch_status_line(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_http_upstream_t        *u;
    ngx_http_cdm_stop_ctx_t    *ctx;
    ngx_http_cdm_stop_fetch_t  *f;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);
    f = ctx->fetch;
    u = r->upstream;

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

    u->process_header = ngx_http_cdm_stop_fetch_header;

    return ngx_http_cdm_stop_fetch_header(r);
}


static ngx_int_t
ngx_http_cdm_stop_fetch_header(ngx_http_request_t *r)
{
    ngx_int_t                 rc;
    ngx_http_cdm_stop_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);

    for ( ;; ) {

        rc = ngx_http_parse_header_line(r, &r->upstream->buffer, 1);

        if (rc == NGX_OK) {

            if (ngx_http_cdm_stop_fetch_header_line(r, ctx->fetch) != NGX_OK) {
                return NGX_ERROR;
            }

            continue;
        }

        if (rc == NGX_HTTP_PARSE_HEADER_DONE) {
            return NGX_OK;
        }

        if (rc == NGX_AGAIN) {
            return NGX_AGAIN;
        }

        /* it may hold a token, so it is not logged */

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent an invalid header line");

        return NGX_HTTP_UPSTREAM_INVALID_HEADER;
    }
}


static ngx_int_t
ngx_http_cdm_stop_fetch_header_line(ngx_http_request_t *r,
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
        r->upstream->headers_in.content_length_n = ngx_atoof(value.data,
                                                             value.len);

        if (r->upstream->headers_in.content_length_n < 0) {
            r->upstream->headers_in.content_length_n = 0;
            f->encoded = 1;
        }

    } else if (ngx_http_cdm_stop_header_is("Transfer-Encoding")) {

        if (value.len == sizeof("chunked") - 1
            && ngx_strncasecmp(value.data, (u_char *) "chunked", value.len)
               == 0)
        {
            r->upstream->headers_in.chunked = 1;

        } else {
            f->encoded = 1;
        }

    } else if (ngx_http_cdm_stop_header_is("Content-Encoding")) {
        f->encoded = 1;

    } else if (ngx_http_cdm_stop_header_is("Date")) {
        f->answer.date = ngx_parse_http_time(value.data, value.len);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_fetch_filter_init(void *data)
{
    ngx_http_request_t *r = data;

    ngx_http_upstream_t        *u;
    ngx_http_cdm_stop_ctx_t    *ctx;
    ngx_http_cdm_stop_fetch_t  *f;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);
    f = ctx->fetch;
    u = r->upstream;

    if (f->encoded) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent a body of unknown length or encoding");
        return NGX_ERROR;
    }

    f->body_size = NGX_HTTP_CDM_STOP_IAM_BODY_LEN;

    if (u->headers_in.chunked) {
        u->length = 1;

    } else {

        u->length = u->headers_in.content_length_n;

        if (u->length > (off_t) f->body_size) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                          "IAM sent too big body");
            return NGX_ERROR;
        }

        if (u->length >= 0) {
            f->body_size = (size_t) u->length;
            f->complete = (u->length == 0);
        }
    }

    f->answer.body.data = ngx_pnalloc(r->pool, f->body_size + 1);
    if (f->answer.body.data == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_fetch_filter(void *data, ssize_t bytes)
{
    ngx_http_request_t *r = data;

    ngx_http_upstream_t        *u;
    ngx_http_cdm_stop_ctx_t    *ctx;
    ngx_http_cdm_stop_fetch_t  *f;

    ctx = ngx_http_get_module_ctx(r, ngx_http_cdm_stop_module);
    f = ctx->fetch;
    u = r->upstream;

    if (u->headers_in.chunked) {
        return ngx_http_cdm_stop_fetch_chunked(f, bytes);
    }

    if (u->length == -1) {
        return ngx_http_cdm_stop_fetch_append(f, u->buffer.last, bytes);
    }

    if (bytes > u->length) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent more data than specified in "
                      "\"Content-Length\"");
        return NGX_ERROR;
    }

    u->length -= bytes;
    f->complete = (u->length == 0);

    return ngx_http_cdm_stop_fetch_append(f, u->buffer.last, bytes);
}


static ngx_int_t
ngx_http_cdm_stop_fetch_chunked(ngx_http_cdm_stop_fetch_t *f, ssize_t bytes)
{
    size_t                size;
    ngx_buf_t             b;
    ngx_int_t             rc;
    ngx_http_request_t   *r;
    ngx_http_upstream_t  *u;

    r = f->request;
    u = r->upstream;

    ngx_memzero(&b, sizeof(ngx_buf_t));

    b.pos = u->buffer.last;
    b.last = u->buffer.last + bytes;

    for ( ;; ) {

#if (nginx_version >= 1027002)
        rc = ngx_http_parse_chunked(r, &b, &f->chunked, 0);
#else
        rc = ngx_http_parse_chunked(r, &b, &f->chunked);
#endif

        if (rc == NGX_OK) {

            size = (size_t) ngx_min(b.last - b.pos, f->chunked.size);

            if (ngx_http_cdm_stop_fetch_append(f, b.pos, size) != NGX_OK) {
                return NGX_ERROR;
            }

            b.pos += size;
            f->chunked.size -= size;

            continue;
        }

        if (rc == NGX_DONE) {
            u->length = 0;
            f->complete = 1;
            return NGX_OK;
        }

        if (rc == NGX_AGAIN) {
            return NGX_OK;
        }

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "IAM sent invalid chunked body");

        return NGX_ERROR;
    }
}


static ngx_int_t
ngx_http_cdm_stop_fetch_append(ngx_http_cdm_stop_fetch_t *f, u_char *p,
    size_t len)
{
    if (len > f->body_size - f->answer.body.len) {
        ngx_log_error(NGX_LOG_ERR, f->request->connection->log, 0,
                      "IAM sent too big body");
        return NGX_ERROR;
    }

    ngx_memcpy(f->answer.body.data + f->answer.body.len, p, len);
    f->answer.body.len += len;

    return NGX_OK;
}


static void
ngx_http_cdm_stop_fetch_abort(ngx_http_request_t *r)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "abort request to IAM");
}


static void
ngx_http_cdm_stop_fetch_finalize(ngx_http_request_t *r, ngx_int_t rc)
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
    ngx_http_cdm_stop_fetch_wipe(f);
}


/* ends the lease, once, and tells who waits */

static void
ngx_http_cdm_stop_fetch_end(ngx_http_cdm_stop_fetch_t *f, ngx_int_t rc)
{
    ngx_str_t                  project;
    const char                *error;
    ngx_http_cdm_stop_grant_t  grant;

    if (f->ended) {
        return;
    }

    f->ended = 1;

    if (f->deadline.timer_set) {
        ngx_del_timer(&f->deadline);
    }

    project.len = NGX_HTTP_CDM_STOP_PROJECT_LEN;
    project.data = f->key.project;

    if (rc != NGX_OK || !f->complete) {
        ngx_http_cdm_stop_fetch_failed(f, NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE,
                                       f->timedout ? "no answer in time"
                                                   : "no answer");
        goto done;
    }

    error = ngx_http_cdm_stop_iam_read(&f->answer, &project, &grant);

    if (error) {
        ngx_http_cdm_stop_fetch_failed(f, ngx_http_cdm_stop_fetch_reason(f),
                                       error);
        goto done;
    }

    ngx_http_cdm_stop_fetch_issued(f, &grant);

done:

    ngx_http_cdm_stop_wake(f->cdmcf, &f->key);
}


static void
ngx_http_cdm_stop_fetch_issued(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_grant_t *grant)
{
    ngx_int_t  rc;

    rc = ngx_http_cdm_stop_token_publish(f->cdmcf->zone, &f->key, &f->lease,
                                         &f->answer.token, grant);

    if (rc == NGX_OK) {
        ngx_log_error(NGX_LOG_INFO, &f->log, 0,
                      "IAM issued a token of %uz bytes for %L seconds",
                      f->answer.token.len, grant->life / 1000);
        return;
    }

    if (rc == NGX_DECLINED) {
        ngx_log_error(NGX_LOG_WARN, &f->log, 0,
                      "IAM issued a token too late, it is not used");
        return;
    }

    ngx_log_error(NGX_LOG_ALERT, &f->log, 0,
                  "no room for a token of %uz bytes, enlarge "
                  "\"cdm_stop_zone\"", f->answer.token.len);

    (void) ngx_http_cdm_stop_token_failed(f->cdmcf->zone, &f->key, &f->lease,
                                          NGX_HTTP_CDM_STOP_FAIL_ANSWER);
}


static ngx_http_cdm_stop_fail_e
ngx_http_cdm_stop_fetch_reason(ngx_http_cdm_stop_fetch_t *f)
{
    switch (f->answer.status) {

    case NGX_HTTP_UNAUTHORIZED:
    case NGX_HTTP_FORBIDDEN:
        return NGX_HTTP_CDM_STOP_FAIL_REFUSED;

    case NGX_HTTP_TOO_MANY_REQUESTS:
    case NGX_HTTP_SERVICE_UNAVAILABLE:
        return NGX_HTTP_CDM_STOP_FAIL_THROTTLED;
    }

    return NGX_HTTP_CDM_STOP_FAIL_ANSWER;
}


static void
ngx_http_cdm_stop_fetch_failed(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_fail_e fail, const char *error)
{
    u_char     *p, text[6 * NGX_HTTP_CDM_STOP_IAM_MESSAGE_LEN];
    u_char      buf[NGX_HTTP_CDM_STOP_IAM_MESSAGE_LEN];
    int64_t     rest;
    ngx_str_t   message, *secret;

    rest = ngx_http_cdm_stop_token_failed(f->cdmcf->zone, &f->key, &f->lease,
                                          fail);

    if (fail == NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE || f->answer.status == 0) {
        ngx_log_error(NGX_LOG_ERR, &f->log, 0,
                      "IAM gave no token: %s, next try in %L ms",
                      error, rest);
        return;
    }

    /* a message of IAM may echo what it was sent */

    message.data = buf;
    message.len = ngx_http_cdm_stop_iam_message(&f->answer.body, buf,
                                                sizeof(buf));
    secret = &f->identity->credentials.password;

    ngx_http_cdm_stop_redact(&message, secret);

    p = ngx_http_cdm_stop_json_text(text, text + sizeof(text), &message,
                                    sizeof(buf));
    if (p == NULL) {
        p = text;
    }

    if (fail == NGX_HTTP_CDM_STOP_FAIL_REFUSED) {
        ngx_log_error(NGX_LOG_ALERT, &f->log, 0,
                      "IAM refuses the gateway: status %ui, message \"%*s\", "
                      "next try in %L s or after a reload with other "
                      "credentials",
                      f->answer.status, (size_t) (p - text), text,
                      rest / 1000);
        return;
    }

    ngx_log_error(NGX_LOG_ERR, &f->log, 0,
                  "IAM gave no token: %s (status %ui, message \"%*s\"), "
                  "next try in %L ms",
                  error, f->answer.status, (size_t) (p - text), text, rest);
}


static void
ngx_http_cdm_stop_fetch_wipe(ngx_http_cdm_stop_fetch_t *f)
{
    ngx_http_upstream_t  *u;

    u = f->request->upstream;

    if (f->output.data) {
        ngx_explicit_memzero(f->output.data, f->output.len);
    }

    if (f->answer.token.data) {
        ngx_explicit_memzero(f->answer.token.data, f->answer.token.len);
    }

    if (f->answer.body.data) {
        ngx_explicit_memzero(f->answer.body.data, f->answer.body.len);
    }

    if (u->buffer.start) {
        ngx_explicit_memzero(u->buffer.start, u->buffer.end - u->buffer.start);
    }

    ngx_http_cdm_stop_wipe_connection(u->peer.connection);
}
