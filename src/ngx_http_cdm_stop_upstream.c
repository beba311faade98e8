
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_stats.h"


static void ngx_http_cdm_stop_free_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t state);
static ngx_int_t ngx_http_cdm_stop_process_header(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_skip_interim(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_read_header(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_finalize(ngx_http_request_t *r, ngx_int_t rc);
static void ngx_http_cdm_stop_alert_refusals(ngx_http_request_t *r,
    ngx_http_cdm_stop_worker_t *worker);
static void ngx_http_cdm_stop_conclude(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_fail(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);


extern ngx_module_t  ngx_http_proxy_module;


ngx_http_upstream_conf_t *
ngx_http_cdm_stop_proxy_conf(void **loc_conf)
{
    /* the first member of a configuration that is proxy's own business */

    return loc_conf[ngx_http_proxy_module.ctx_index];
}


/*
 * What a stop has for the configuration of proxy_pass: one until a byte of it
 * may have left, and one behind that.
 */

ngx_int_t
ngx_http_cdm_stop_upstream_conf(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_http_upstream_conf_t           *ucf;
    ngx_http_cdm_stop_upstream_conf_t  *conf;

    /* a server has none; an "if" has one, though not a handler of its own */

    if (cdcf->location->loc_conf == NULL) {
        return NGX_OK;
    }

    ucf = ngx_http_cdm_stop_proxy_conf(cdcf->location->loc_conf);

    if (ucf->upstream == NULL) {
        return NGX_OK;
    }

    conf = ngx_palloc(cf->pool, sizeof(ngx_http_cdm_stop_upstream_conf_t));
    if (conf == NULL) {
        return NGX_ERROR;
    }

    conf->proxy = ucf;
    conf->unsent = *ucf;

    conf->unsent.ignore_client_abort = 1;
    conf->unsent.intercept_errors = 0;

    /* a stop goes to another peer only if it was not sent */

    conf->unsent.next_upstream &= NGX_HTTP_UPSTREAM_FT_ERROR
                                  |NGX_HTTP_UPSTREAM_FT_TIMEOUT
                                  |NGX_HTTP_UPSTREAM_FT_NOLIVE
                                  |NGX_HTTP_UPSTREAM_FT_OFF;

    /* CDM does not steer this gateway */

    conf->unsent.ignore_headers |= NGX_HTTP_UPSTREAM_IGN_XA_REDIRECT
                                   |NGX_HTTP_UPSTREAM_IGN_XA_EXPIRES
                                   |NGX_HTTP_UPSTREAM_IGN_XA_LIMIT_RATE
                                   |NGX_HTTP_UPSTREAM_IGN_XA_BUFFERING
                                   |NGX_HTTP_UPSTREAM_IGN_XA_CHARSET;

#if (nginx_version >= 1029000)

    /* nor does it get past the filter that holds its answer back */

    conf->unsent.pass_early_hints = 0;

#endif

    conf->sent = conf->unsent;
    conf->sent.next_upstream = 0;

    cdcf->upstream = conf;

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_take_upstream(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_upstream_t                *u;
    ngx_http_cdm_stop_upstream_conf_t  *conf;

    u = r->upstream;
    conf = ctx->conf->upstream;

    /* who frees a peer finds the request by what proxy_pass put there */

    if (conf == NULL || u->conf != conf->proxy || u->input_filter_ctx != r) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "a stop is not sent: its location needs "
                      "\"proxy_pass\" with the address of CDM as it is, "
                      "without variables");
        return NGX_ERROR;
    }

    u->conf = &conf->unsent;

    /* "proxy_store" would write the answer to a file */

    u->store = 0;

    /*
     * Our filter holds the answer back by itself, so a pipe between it and
     * CDM would be for what is longer than any answer to a stop.
     */

    u->buffering = 0;

    ctx->http_version = r->http_version;
    ctx->process_header = u->process_header;
    ctx->finalize_request = u->finalize_request;

    u->process_header = ngx_http_cdm_stop_process_header;
    u->finalize_request = ngx_http_cdm_stop_finalize;

    /*
     * Core began to watch the client before it asked us.  A stop that is on
     * its way goes on without the client, and its outcome is recorded.
     */

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    return NGX_OK;
}


void
ngx_http_cdm_stop_take_peer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ctx->free_peer = r->upstream->peer.free;

    r->upstream->peer.free = ngx_http_cdm_stop_free_peer;
}


/*
 * Called before core decides whether the next peer is tried: once a byte may
 * have left, there is no next peer.
 */

static void
ngx_http_cdm_stop_free_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t state)
{
    ngx_http_upstream_t      *u;
    ngx_http_cdm_stop_ctx_t  *ctx;

    u = (ngx_http_upstream_t *)
            ((u_char *) pc - offsetof(ngx_http_upstream_t, peer));

    ctx = ngx_http_cdm_stop_get_ctx(u->input_filter_ctx);

    if (u->request_sent) {
        u->conf = &ctx->conf->upstream->sent;
    }

    ctx->free_peer(pc, data, state);
}


static ngx_int_t
ngx_http_cdm_stop_process_header(ngx_http_request_t *r)
{
    ngx_int_t                 rc;
    ngx_http_upstream_t      *u;
    ngx_http_cdm_stop_ctx_t  *ctx;

    u = r->upstream;
    ctx = ngx_http_cdm_stop_get_ctx(r);

    if (!u->request_sent) {

        /* before the TLS handshake, it may be anybody's */

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "CDM sent an answer before it was asked");
        return NGX_HTTP_UPSTREAM_INVALID_HEADER;
    }

    ngx_http_cdm_stop_mask_header(&u->buffer, &ctx->token);

    /* proxy moves its own pointer from the status line to the header */

    for ( ;; ) {

        u->process_header = ctx->process_header;

        rc = u->process_header(r);

        ctx->process_header = u->process_header;
        u->process_header = ngx_http_cdm_stop_process_header;

        if (rc != NGX_OK) {
            return rc;
        }

        if (u->headers_in.status_n == 0) {

            /* no status line, which is a "200" of HTTP/0.9 to proxy */

            r->http_version = ctx->http_version;
            return NGX_HTTP_UPSTREAM_INVALID_HEADER;
        }

        if (u->headers_in.status_n >= NGX_HTTP_OK) {
            break;
        }

        if (ngx_http_cdm_stop_skip_interim(r) != NGX_OK) {
            return NGX_HTTP_UPSTREAM_INVALID_HEADER;
        }

        ctx->process_header = u->process_header;
        u->process_header = ngx_http_cdm_stop_process_header;

        if (u->buffer.pos == u->buffer.last) {
            return NGX_AGAIN;
        }
    }

    return ngx_http_cdm_stop_read_header(r, ctx);
}


/* an interim answer, such as 103, is followed by the real one */

static ngx_int_t
ngx_http_cdm_stop_skip_interim(ngx_http_request_t *r)
{
    ngx_http_upstream_t  *u;

    u = r->upstream;

    if (u->headers_in.status_n == NGX_HTTP_SWITCHING_PROTOCOLS) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "CDM sent 101 to a request without \"Upgrade\"");
        return NGX_ERROR;
    }

    ngx_memzero(&u->headers_in, sizeof(ngx_http_upstream_headers_in_t));
    u->headers_in.content_length_n = -1;
    u->headers_in.last_modified_time = -1;

    if (ngx_list_init(&u->headers_in.headers, r->pool, 8,
                      sizeof(ngx_table_elt_t))
        != NGX_OK
        || ngx_list_init(&u->headers_in.trailers, r->pool, 2,
                         sizeof(ngx_table_elt_t))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    u->state->status = 0;
    u->keepalive = 0;
    u->upgrade = 0;

    /* proxy starts again with a status line */

    return u->reinit_request(r);
}


static ngx_int_t
ngx_http_cdm_stop_read_header(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_uint_t                       i, lengths;
    ngx_list_part_t                 *part;
    ngx_table_elt_t                 *h;
    ngx_http_upstream_headers_in_t  *headers;

    headers = &r->upstream->headers_in;

    lengths = 0;

    part = &headers->headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len == sizeof("content-length") - 1
            && ngx_strncmp(h[i].lowcase_key, "content-length", h[i].key.len)
               == 0)
        {
            lengths++;
            continue;
        }

        if (h[i].key.len == sizeof("x-request-id") - 1
            && ngx_strncmp(h[i].lowcase_key, "x-request-id", h[i].key.len)
               == 0)
        {
            ctx->upstream_request_id = h[i].value;
            h[i].hash = 0;
            continue;
        }

        /* a token in an answer is for nobody, $upstream_http_name included */

        if ((h[i].key.len == sizeof("x-auth-token") - 1
             && ngx_http_cdm_stop_header_folds(&h[i].key, "x-auth-token"))
            || (h[i].key.len == sizeof("x-subject-token") - 1
                && ngx_http_cdm_stop_header_folds(&h[i].key,
                                                  "x-subject-token")))
        {
            ngx_explicit_memzero(h[i].value.data, h[i].value.len);
            h[i].value.len = 0;
            h[i].hash = 0;
        }
    }

    if (lengths > 1) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "CDM sent more than one \"Content-Length\"");
        return NGX_HTTP_UPSTREAM_INVALID_HEADER;
    }

    if (lengths && headers->chunked) {

        /* what follows on this connection may be part of the answer */

        headers->connection_close = 1;
    }

    ctx->upstream_status = headers->status_n;

    return NGX_OK;
}


/*
 * Core calls this when it is done with CDM and before it tells the client,
 * whose header our filter still holds back.
 */

static void
ngx_http_cdm_stop_finalize(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_http_upstream_t      *u;
    ngx_http_cdm_stop_ctx_t  *ctx;

    u = r->upstream;
    ctx = ngx_http_cdm_stop_get_ctx(r);

    if (u->request_sent) {
        ctx->attempts++;
    }

    if (u->state && u->state->peer) {
        ctx->upstream_name = *u->state->peer;
    }

    ngx_http_cdm_stop_stats_cdm(r, ctx);

    if (ctx->upstream_status == NGX_HTTP_UNAUTHORIZED && !ctx->injected) {
        ngx_http_cdm_stop_forget_caller(r, ctx);
    }

    /*
     * While the header is held back, an error means that CDM's answer was
     * cut.  Later on, the client may be gone in the midst of a long answer.
     */

    if (ctx->held && rc == NGX_OK
        && (ctx->repeat || ngx_http_cdm_stop_renewable(r, ctx)))
    {

        /* our body filter keeps this answer back for good */

        ctx->repeat = 1;

    } else if (ctx->released || (ctx->held && rc == NGX_OK)) {
        ngx_http_cdm_stop_conclude(r, ctx);

    } else {
        ngx_http_cdm_stop_fail(r, ctx);
    }

    ngx_http_cdm_stop_wipe_connection(u->peer.connection, ctx->request_len);

    ngx_http_cdm_stop_leave_token(ctx);

    ctx->finalize_request(r, rc);
}


/*
 * APIG answers 401 before CDM sees the stop, so the next one is not a second
 * one; whatever the body says, it is about the token.  Of a 403 nothing is
 * known like that.
 */

ngx_uint_t
ngx_http_cdm_stop_renewable(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (ctx->upstream_status != NGX_HTTP_UNAUTHORIZED
        || !ctx->injected
        || ctx->repeated)
    {
        return 0;
    }

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    if (ngx_http_cdm_stop_token_drop(cdmcf->zone, &ctx->key, ctx->generation)
        == NGX_OK)
    {
        return 1;
    }

    ngx_http_cdm_stop_alert_refusals(r, cdmcf->worker);

    return 0;
}


/* CDM refuses whatever IAM issues: no renewal mends that */

static void
ngx_http_cdm_stop_alert_refusals(ngx_http_request_t *r,
    ngx_http_cdm_stop_worker_t *worker)
{
    if (worker->refused_logged
        && ngx_time() - worker->refused_logged < NGX_HTTP_CDM_STOP_ALERT_EVERY)
    {
        return;
    }

    worker->refused_logged = ngx_time();

    ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                  "CDM refuses every token that IAM issues, IAM is not asked "
                  "for another one: see to the endpoint and to the rights of "
                  "the gateway's user in this project");
}


static void
ngx_http_cdm_stop_conclude(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t   body;
    ngx_uint_t  unread;

    body.data = ctx->body;
    body.len = ctx->body_len;

    /* nothing, up to the end of the connection, may be a cut answer */

    unread = ctx->overflow
             || (body.len == 0
                 && ctx->upstream_status != NGX_HTTP_NO_CONTENT
                 && r->upstream->headers_in.content_length_n == -1
                 && !r->upstream->headers_in.chunked);

    if (ngx_http_cdm_stop_mask_body(&body, &ctx->token, r->pool) != NGX_OK) {
        unread = 1;
    }

    ctx->echoed = (body.data != ctx->body);

    ngx_http_cdm_stop_verdict_read(&ctx->verdict, ctx->upstream_status,
                                   unread ? NULL : &body, r->pool);

    ngx_http_cdm_stop_redact(&ctx->verdict.message, &ctx->token);
    ngx_http_cdm_stop_redact(&ctx->verdict.code, &ctx->token);

    ngx_http_cdm_stop_mask_id(&ctx->upstream_request_id, &ctx->token);

    ngx_http_cdm_stop_record_outcome(r, ctx, ctx->upstream_status);
}


static void
ngx_http_cdm_stop_fail(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ctx->failed = 1;
    ctx->repeat = 0;

    if (r->upstream->request_sent) {
        ctx->error = &ngx_http_cdm_stop_no_answer;
        ctx->verdict.verdict = NGX_HTTP_CDM_STOP_UNKNOWN;

    } else {
        ctx->error = &ngx_http_cdm_stop_unreachable;
        ctx->verdict.verdict = NGX_HTTP_CDM_STOP_NOT_SENT;
    }

    ngx_http_cdm_stop_record_outcome(r, ctx, ctx->error->status);

    if (ctx->held) {

        /*
         * Core believes that a header was sent, and would just hang up; it
         * will do so behind this answer, which has to say it.
         */

        r->keepalive = 0;

        (void) ngx_http_cdm_stop_send_answer(r, ctx);
    }
}


void
ngx_http_cdm_stop_wipe_connection(ngx_connection_t *c, size_t len)
{
    ngx_buf_t  *b;

    if (c == NULL || c->ssl == NULL) {
        return;
    }

    b = c->ssl->buf;

    if (b && b->start) {
        ngx_explicit_memzero(b->start,
                             ngx_min(len, (size_t) (b->end - b->start)));
    }
}
