
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


typedef struct {
    u_char      *pos;           /* of the request that proxy_pass built */
    u_char      *last;
    u_char      *start;         /* of the request that CDM gets */
    u_char      *dst;
    off_t        length;        /* of the body, -1 is none */
    ngx_uint_t   marked;        /* what follows are the caller's headers */
    ngx_uint_t   encoding;      /* Accept-Encoding lines */
} ngx_http_cdm_stop_gate_t;


typedef struct {
    ngx_buf_t    buf;
    ngx_chain_t  link;
} ngx_http_cdm_stop_part_t;


static ngx_uint_t ngx_http_cdm_stop_made_stop(ngx_http_request_t *r);
static ngx_int_t ngx_http_cdm_stop_gate(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static const char *ngx_http_cdm_stop_gate_upstream(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static const char *ngx_http_cdm_stop_gate_rebuild(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static const char *ngx_http_cdm_stop_gate_lines(
    ngx_http_cdm_stop_gate_t *gate, ngx_http_cdm_stop_ctx_t *ctx);
static off_t ngx_http_cdm_stop_gate_body(ngx_chain_t *cl);
static const char *ngx_http_cdm_stop_gate_request_line(
    ngx_http_cdm_stop_gate_t *gate, ngx_http_cdm_stop_ctx_t *ctx);
static const char *ngx_http_cdm_stop_gate_line(ngx_http_cdm_stop_gate_t *gate,
    ngx_str_t *line);
static u_char *ngx_http_cdm_stop_gate_control(u_char *p, u_char *last);
static const char *ngx_http_cdm_stop_gate_header(
    ngx_http_cdm_stop_gate_t *gate, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_str_t *line);
static const char *ngx_http_cdm_stop_gate_name(ngx_http_cdm_stop_gate_t *gate,
    ngx_str_t *name, u_char *value, ngx_str_t *line);
static void ngx_http_cdm_stop_gate_close(ngx_http_cdm_stop_gate_t *gate,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_gate_replace(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_gate_t *gate);
static ngx_chain_t *ngx_http_cdm_stop_gate_link(
    ngx_http_cdm_stop_part_t *part, u_char *start, u_char *last);


static const char  ngx_http_cdm_stop_gate_broken[] =
    "a header of it has a line break or a null character";


ngx_int_t
ngx_http_cdm_stop_wrap_upstreams(ngx_conf_t *cf)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_peer_t        *peer;
    ngx_http_upstream_srv_conf_t   **uscfp;
    ngx_http_upstream_main_conf_t   *umcf;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_upstream_module);
    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    uscfp = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (uscfp[i]->peer.init == NULL) {
            continue;
        }

        peer = ngx_array_push(&cdmcf->peers);
        if (peer == NULL) {
            return NGX_ERROR;
        }

        peer->upstream = uscfp[i];
        peer->init = uscfp[i]->peer.init;

        uscfp[i]->peer.init = ngx_http_cdm_stop_init_peer;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_init_peer(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_ctx_t         *ctx;
    ngx_http_cdm_stop_peer_t        *peer;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    peer = cdmcf->peers.elts;

    for (i = 0; i < cdmcf->peers.nelts; i++) {
        if (peer[i].upstream == us) {
            break;
        }
    }

    if (i == cdmcf->peers.nelts) {
        return NGX_ERROR;
    }

    ctx = (r == r->main) ? ngx_http_cdm_stop_get_ctx(r) : NULL;

    /* "post_action" follows a stop with a request of its own */

    if (ctx == NULL || !ctx->forwarding || ctx->outcome) {

        if (ngx_http_cdm_stop_made_stop(r)) {
            return NGX_ERROR;
        }

        return peer[i].init(r, us);
    }

    if (ngx_http_cdm_stop_take_upstream(r, ctx) != NGX_OK
        || ngx_http_cdm_stop_gate(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (peer[i].init(r, us) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_cdm_stop_take_peer(r, ctx);

    return NGX_OK;
}


/*
 * A path in proxy_pass may make a stop of a request that was none when the
 * handler saw it.  Nothing was decided about it, so it is not sent.
 */

static ngx_uint_t
ngx_http_cdm_stop_made_stop(ngx_http_request_t *r)
{
    u_char                           *p, *last;
    ngx_buf_t                        *b;
    ngx_str_t                         target;
    ngx_http_cdm_stop_ctx_t          *ctx;
    ngx_http_cdm_stop_loc_conf_t     *cdcf;
    const ngx_http_cdm_stop_error_t  *error;

    cdcf = ngx_http_get_module_loc_conf(r, ngx_http_cdm_stop_module);

    ctx = (r == r->main) ? ngx_http_cdm_stop_get_ctx(r) : NULL;

    /* a redirect may have led it, with its context, out of the guard */

    if ((cdcf->identity == NULL && ctx == NULL)
        || r->upstream->request_bufs == NULL)
    {
        return 0;
    }

    b = r->upstream->request_bufs->buf;

    /* METHOD SP target SP version CR LF */

    last = ngx_strlchr(b->pos, b->last, CR);
    p = last ? ngx_strlchr(b->pos, last, ' ') : NULL;

    if (p == NULL) {
        return 0;
    }

    while (last > p + 1 && *last != ' ') {
        last--;
    }

    target.data = p + 1;
    target.len = last - target.data;

    if (ngx_http_cdm_stop_looks_like(r, &target) == NGX_DECLINED) {
        return 0;
    }

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "a stop is not sent: \"proxy_pass\" makes it of another "
                  "request, remove the path from \"proxy_pass\"");

    if (r->post_action) {
        return 1;
    }

    if (ctx == NULL) {
        ctx = ngx_http_cdm_stop_create_ctx(r, NULL);
    }

    if (ctx && !ctx->refused) {
        error = (r == r->main) ? &ngx_http_cdm_stop_bad_target
                               : &ngx_http_cdm_stop_by_subrequest;

        (void) ngx_http_cdm_stop_refuse(r, ctx, error);
    }

    return 1;
}


static ngx_int_t
ngx_http_cdm_stop_gate(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    const char  *error;

    error = ngx_http_cdm_stop_gate_upstream(r, ctx);

    if (error == NULL) {
        error = ngx_http_cdm_stop_gate_rebuild(r, ctx);
    }

    if (error) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "a stop is not sent: %s", error);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static const char *
ngx_http_cdm_stop_gate_upstream(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_upstream_t  *u;

    u = r->upstream;

    if (u->resolved) {
        return "\"proxy_pass\" has variables, write the address of CDM "
               "as it is";
    }

    if (ctx->injected
        && !ctx->conf->insecure_upstream
        && !(u->ssl && u->conf->ssl_verify))
    {
        return "the certificate of CDM is not checked, set "
               "\"proxy_pass https://...\" and \"proxy_ssl_verify on\"";
    }

    return NULL;
}


/*
 * Writes the request anew: the request line and the token are ours, and of
 * the headers that proxy_pass took from the caller only the allowed remain.
 * So the token is never among the headers of the client's request, where
 * variables, mirrors and subrequests would see it.
 */

static const char *
ngx_http_cdm_stop_gate_rebuild(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    off_t                      body;
    size_t                     len;
    ngx_buf_t                 *b;
    const char                *error;
    ngx_http_cdm_stop_gate_t   gate;

    b = r->upstream->request_bufs->buf;

    ngx_memzero(&gate, sizeof(ngx_http_cdm_stop_gate_t));

    gate.pos = b->pos;
    gate.last = b->last;
    gate.length = -1;

    len = b->last - b->pos
          + NGX_HTTP_CDM_STOP_TARGET_LEN
          - 3 * (NGX_HTTP_CDM_STOP_JOB_LEN - ctx->target.job.len)
          + sizeof("PUT  HTTP/1.1" CRLF
                   "Content-Length: " CRLF
                   "Accept-Encoding: identity" CRLF CRLF)
          + NGX_OFF_T_LEN;

    gate.start = ngx_pnalloc(r->pool, len);
    if (gate.start == NULL) {
        return "no memory";
    }

    gate.dst = gate.start;

    error = ngx_http_cdm_stop_gate_lines(&gate, ctx);

    if (error) {
        return error;
    }

    body = gate.last - gate.pos
           + ngx_http_cdm_stop_gate_body(r->upstream->request_bufs->next);

    if (gate.length == -1 && gate.pos == gate.last) {
        gate.length = body;

    } else if (gate.length != body) {

        /* CDM would read the rest of a body as the next request */

        return "\"Content-Length\" is not that of its body, remove "
               "\"proxy_set_header Content-Length\"";

    } else {
        gate.length = -1;
    }

    ngx_http_cdm_stop_gate_close(&gate, ctx);

    if ((ctx->token.len && !ctx->injected
         && ngx_http_cdm_stop_take_caller_token(r, ctx) != NGX_OK)
        || ngx_http_cdm_stop_gate_replace(r, ctx, &gate) != NGX_OK)
    {
        return "no memory";
    }

    ctx->request_len = gate.dst - gate.start + ctx->token_header.len
                       + (size_t) body;

    return NULL;
}


static const char *
ngx_http_cdm_stop_gate_lines(ngx_http_cdm_stop_gate_t *gate,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t    line;
    const char  *error;

    error = ngx_http_cdm_stop_gate_request_line(gate, ctx);

    while (error == NULL) {

        if (gate->marked) {
            gate->pos = ngx_http_cdm_stop_header_skip(gate->pos, gate->last,
                                                      &ctx->caller_token);
        }

        error = ngx_http_cdm_stop_gate_line(gate, &line);

        if (error || line.len == 0) {
            break;
        }

        error = ngx_http_cdm_stop_gate_header(gate, ctx, &line);
    }

    return error;
}


static off_t
ngx_http_cdm_stop_gate_body(ngx_chain_t *cl)
{
    off_t  length;

    length = 0;

    for ( /* void */ ; cl; cl = cl->next) {
        length += ngx_buf_size(cl->buf);
    }

    return length;
}


static const char *
ngx_http_cdm_stop_gate_request_line(ngx_http_cdm_stop_gate_t *gate,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char      *version;
    ngx_str_t    line;
    const char  *error;

    error = ngx_http_cdm_stop_gate_line(gate, &line);

    if (error) {
        return error;
    }

    if (line.len < sizeof(" HTTP/1.x") - 1) {
        return "its request line is not that of HTTP/1";
    }

    version = line.data + line.len - (sizeof(" HTTP/1.x") - 1);

    if (ngx_strncmp(version, " HTTP/1.", sizeof(" HTTP/1.") - 1) != 0) {
        return "its request line is not that of HTTP/1, set "
               "\"proxy_http_version 1.1\"";
    }

    gate->dst = ngx_cpymem(gate->dst, "PUT ", sizeof("PUT ") - 1);
    gate->dst = ngx_http_cdm_stop_target_build(gate->dst, &ctx->target);

    /*
     * To 1.0, nginx's default, CDM may answer with a body that ends with the
     * connection: a cut one would look whole.
     */

    gate->dst = ngx_cpymem(gate->dst, " HTTP/1.1" CRLF,
                           sizeof(" HTTP/1.1" CRLF) - 1);

    return NULL;
}


/* takes the next line, without its end; an empty one ends the header */

static const char *
ngx_http_cdm_stop_gate_line(ngx_http_cdm_stop_gate_t *gate, ngx_str_t *line)
{
    u_char  *p;

    line->data = gate->pos;

    for (p = gate->pos; /* void */; p++) {

        p = ngx_http_cdm_stop_gate_control(p, gate->last);

        if (p == gate->last) {
            return "its header has no end";
        }

        if (*p == CR && p + 1 < gate->last && p[1] == LF) {
            break;
        }

        if (*p == CR || *p == LF || *p == '\0') {
            return ngx_http_cdm_stop_gate_broken;
        }
    }

    line->len = p - line->data;
    gate->pos = p + 2;

    return NULL;
}


/* the next control character, or the end; by eight bytes as long as possible */

static u_char *
ngx_http_cdm_stop_gate_control(u_char *p, u_char *last)
{
    uint64_t  c;

    while (last - p >= 8) {

        ngx_memcpy(&c, p, 8);

        /* a borrow sets the top bit of a byte below 0x20 */

        c = (c - NGX_HTTP_CDM_STOP_BYTES(0x20)) & ~c
            & NGX_HTTP_CDM_STOP_BYTES(0x80);

        if (c) {

#if (NGX_HAVE_LITTLE_ENDIAN && __GNUC__)

            /* of further ones the borrow may be another's, the first is it */

            return p + __builtin_ctzll(c) / 8;

#else
            break;
#endif
        }

        p += 8;
    }

    while (p < last && *p >= 0x20) {
        p++;
    }

    return p;
}


static const char *
ngx_http_cdm_stop_gate_header(ngx_http_cdm_stop_gate_t *gate,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_str_t *line)
{
    u_char      *colon;
    ngx_str_t    name;
    const char  *error;

    if (!gate->marked
        && line->len > sizeof(ctx->id)
        && line->data[sizeof(ctx->id)] == ':'
        && ngx_memcmp(line->data, ctx->id, sizeof(ctx->id)) == 0)
    {
        gate->marked = 1;
        return NULL;
    }

    colon = memchr(line->data, ':', line->len);

    if (colon == NULL) {
        return "a header of it has no colon";
    }

    name.data = line->data;
    name.len = colon - line->data;

    if (gate->marked) {

        /* no name that is allowed is illegal */

        if (!ngx_http_cdm_stop_header_allowed(ctx->conf, &name)) {
            return NULL;
        }

    } else if (!ngx_http_cdm_stop_header_legal(&name)) {
        return "a header of it has no legal name";
    }

    error = ngx_http_cdm_stop_gate_name(gate, &name, colon + 1, line);

    if (error) {
        return error;
    }

    gate->dst = ngx_cpymem(gate->dst, line->data, line->len);
    gate->dst = ngx_cpymem(gate->dst, CRLF, 2);

    return NULL;
}


static const char *
ngx_http_cdm_stop_gate_name(ngx_http_cdm_stop_gate_t *gate, ngx_str_t *name,
    u_char *value, ngx_str_t *line)
{
    off_t    n;
    u_char  *last;

    if (name->len == sizeof("x-auth-token") - 1
        && ngx_http_cdm_stop_header_folds(name, "x-auth-token"))
    {
        return "the configuration sets X-Auth-Token, remove "
               "\"proxy_set_header X-Auth-Token\"";
    }

#define ngx_http_cdm_stop_gate_is(s)                                          \
    ngx_http_cdm_stop_header_is(name, s, sizeof(s) - 1)

    if (ngx_http_cdm_stop_gate_is("transfer-encoding")) {
        return "\"Transfer-Encoding\" frames a body that has a length, remove "
               "\"proxy_set_header Transfer-Encoding\"";
    }

    if (ngx_http_cdm_stop_gate_is("accept-encoding")) {
        gate->encoding++;
    }

    if (!ngx_http_cdm_stop_gate_is("content-length")) {
        return NULL;
    }

    last = line->data + line->len;

    while (value < last && *value == ' ') {
        value++;
    }

    n = ngx_atoof(value, last - value);

    if (n == NGX_ERROR || gate->length != -1) {
        return "\"Content-Length\" is repeated or no number, remove "
               "\"proxy_set_header Content-Length\"";
    }

    gate->length = n;

    return NULL;
}


static void
ngx_http_cdm_stop_gate_close(ngx_http_cdm_stop_gate_t *gate,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char  *p;

    p = gate->dst;

    if (gate->length != -1) {
        p = ngx_sprintf(p, "Content-Length: %O" CRLF, gate->length);
    }

    if (gate->encoding == 0) {
        p = ngx_cpymem(p, "Accept-Encoding: identity" CRLF,
                       sizeof("Accept-Encoding: identity" CRLF) - 1);
    }

    /* the token, if there is one, follows with the end of the header */

    if (ctx->token.len == 0) {
        p = ngx_cpymem(p, CRLF, 2);
    }

    gate->dst = p;
}


/* puts the new header before what remains of the old buffer, the body */

static ngx_int_t
ngx_http_cdm_stop_gate_replace(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_gate_t *gate)
{
    ngx_buf_t                 *old;
    ngx_chain_t               *cl, *last, *rest;
    ngx_http_cdm_stop_part_t  *part;

    rest = r->upstream->request_bufs;
    old = rest->buf;

    part = ngx_pcalloc(r->pool, 2 * sizeof(ngx_http_cdm_stop_part_t));
    if (part == NULL) {
        return NGX_ERROR;
    }

    cl = ngx_http_cdm_stop_gate_link(&part[0], gate->start, gate->dst);
    last = cl;

    if (ctx->token.len) {
        last = ngx_http_cdm_stop_gate_link(&part[1], ctx->token_header.data,
                                           ctx->token_header.data
                                           + ctx->token_header.len);
        cl->next = last;
    }

    if (gate->pos == old->last) {
        last->buf->flush = old->flush;
        last->next = rest->next;

    } else {
        old->start = gate->pos;
        old->pos = gate->pos;
        last->next = rest;
    }

    r->upstream->request_bufs = cl;

    return NGX_OK;
}


static ngx_chain_t *
ngx_http_cdm_stop_gate_link(ngx_http_cdm_stop_part_t *part, u_char *start,
    u_char *last)
{
    ngx_buf_t  *b;

    b = &part->buf;

    b->start = start;
    b->pos = start;
    b->last = last;
    b->end = last;
    b->temporary = 1;

    part->link.buf = b;

    return &part->link;
}
