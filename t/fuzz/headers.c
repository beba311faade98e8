
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * The header firewall, from the list of the caller's headers as nginx has it
 * to the request that CDM gets, by way of proxy_pass itself.  An input is: a
 * byte of options, see below, and lines of NAME:VALUE, where the bytes 1 and 2
 * stand for a null character and a line feed.
 *
 * CDM gets the headers that may be passed as they came and in their order, the
 * token once, what the configuration sets, and nothing else; and the list is
 * afterwards what it was.
 *
 * By another option the rest of the input is what proxy_pass has built, be it
 * of a configuration that sets what it must not; "%M" is the mark behind which
 * the caller's headers are.
 */


#include "headers.h"


static void read_lines(headers_t *h, u_char *p, u_char *last);
static ngx_uint_t is_passed(headers_t *h, ngx_str_t *name);
static void check_names(headers_t *h);
static ngx_uint_t take_token(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx);
static void send_stop(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t init_built(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx);
static void check_built(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx);
static ngx_uint_t is_broken(headers_t *h);
static void check_request(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx);
static void check_header(headers_t *h, const char *line, size_t len,
    ngx_uint_t *counts, ngx_uint_t *next);
static ngx_uint_t same_line(ngx_str_t *name, ngx_str_t *value,
    const char *line, size_t len);
static ngx_uint_t is_token(ngx_str_t *s);


/* what the configuration and proxy_pass set, each exactly once */

static const char  *fixed[] = {
    "Host: 127.0.0.1:8081",
    "Connection: close",
    "X-Operator: set here",
    "Accept-Encoding: identity",
    NULL
};


/* by contract; a star is any ending */

static const char  *forbidden[] = {
    "x-auth-token", "authorization", "cookie", "proxy-authorization",
    "x-sdk-*", "x-security-token", "x-subject-token", "x-service-token",
    "x-storage-token", "x-project-id", "x-domain-id", "x-tenant-*",
    "x-cluster-id", "x-user-*", "x-roles", "x-identity-status",
    "x-is-admin-project", "x-http-method*", "x-method-override",
    "x-original-url", "x-rewrite-url", "accept-encoding", "host",
    "content-length", "transfer-encoding", "connection", NULL
};


static const char  *allowed[] = {
    "accept", "accept-language", "content-type", "user-agent", "x-language",
    "workspace", "traceparent", "tracestate", "x-trace-id", "x_odd.name"
};


#define ALWAYS  8       /* of them, the rest is passed by the option */


int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const u_char *data, size_t size);


int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    init_headers();

    return 0;
}


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    u_char                     *copy;
    static headers_t            h;
    ngx_http_cdm_stop_ctx_t    *ctx;
    ngx_http_cdm_stop_target_t  target;

    if (size < 1 || size > HEADERS_SIZE) {
        return 0;
    }

    cycle.len = 0;
    cycle.worst = NGX_LOG_DEBUG;

    ngx_memzero(&h, sizeof(headers_t));

    copy = malloc(size);
    require(copy != NULL, "memory");
    memcpy(copy, data, size);

    h.options = copy[0];

    if (h.options & HEADERS_BUILT) {
        h.options |= HEADERS_INJECTED;
        h.built.data = copy + 1;
        h.built.len = size - 1;

    } else {
        read_lines(&h, copy + 1, copy + size);
    }

    make_request(&h);
    make_list(&h);
    check_names(&h);

    ngx_memzero(&target, sizeof(ngx_http_cdm_stop_target_t));

    ngx_str_set(&target.project, "1551c7f6c808414d8e9f3c514a170f2e");
    ngx_str_set(&target.cluster, "6ec9a0a4-76be-4262-8697-e7af1fac7920");
    ngx_str_set(&target.job, "etl");

    ctx = ngx_http_cdm_stop_create_ctx(&h.r, &target);
    require(ctx != NULL, "a context");

    if (take_token(&h, ctx)) {
        send_stop(&h, ctx);
    }

    ngx_destroy_pool(h.r.pool);
    free(copy);

    return 0;
}


static void
read_lines(headers_t *h, u_char *p, u_char *last)
{
    u_char  *lf, *colon, *c;

    for ( /* void */ ; p < last && h->n < HEADERS_MAX; p = lf + 1) {

        lf = memchr(p, '\n', last - p);
        lf = lf ? lf : last;

        colon = memchr(p, ':', lf - p);

        if (colon == NULL || colon == p
            || memchr(p, '\1', colon - p) || memchr(p, '\2', colon - p)
            || memmem(p, lf - p, "\r\2", 2))
        {
            continue;
        }

        h->names[h->n].data = p;
        h->names[h->n].len = colon - p;
        h->values[h->n].data = colon + 1;
        h->values[h->n].len = lf - colon - 1;
        h->n++;

        for (c = colon + 1; c < lf; c++) {
            *c = (*c == '\1') ? '\0' : (*c == '\2') ? '\n' : *c;
        }
    }
}


static ngx_uint_t
is_passed(headers_t *h, ngx_str_t *name)
{
    ngx_uint_t  i, n;

    n = (h->options & HEADERS_ANY) ? sizeof(allowed) / sizeof(allowed[0])
                                   : ALWAYS;

    for (i = 0; i < n; i++) {
        if (name->len == strlen(allowed[i])
            && strncasecmp((char *) name->data, allowed[i], name->len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/* what is forbidden in any spelling is never what is passed */

static void
check_names(headers_t *h)
{
    char                          *p, folded[HEADERS_SIZE + 1];
    size_t                         len;
    ngx_uint_t                     i, k;
    const char                    *why;
    ngx_http_cdm_stop_loc_conf_t  *cdcf;

    cdcf = ngx_http_get_module_loc_conf((&h->r), ngx_http_cdm_stop_module);

    for (i = 0; i < h->n; i++) {

        ngx_memcpy(folded, h->names[i].data, h->names[i].len);
        folded[h->names[i].len] = '\0';

        for (p = folded; *p; p++) {
            *p = (*p == '_' || *p == '.') ? '-' : (char) ngx_tolower(*p);
        }

        why = ngx_http_cdm_stop_header_forbidden(&h->names[i]);

        require(is_token(&h->names[i])
                == ngx_http_cdm_stop_header_legal(&h->names[i]),
                "a legal name is a token");
        require(is_token(&h->names[i]) || why, "others may not be named");
        require(ngx_http_cdm_stop_header_allowed(cdcf, &h->names[i])
                == is_passed(h, &h->names[i]), "the list of the allowed");
        require(!is_passed(h, &h->names[i]) || why == NULL,
                "what is allowed is not forbidden");

        for (k = 0; forbidden[k]; k++) {
            len = strlen(forbidden[k]);

            if (forbidden[k][len - 1] == '*'
                ? strncmp(folded, forbidden[k], len - 1) == 0
                : strcmp(folded, forbidden[k]) == 0)
            {
                require(why != NULL, "what must never be passed");
            }
        }

        require(ngx_http_cdm_stop_header_folds(&h->names[i], "x-auth-token")
                == (strcmp(folded, "x-auth-token") == 0
                    && strlen(folded) == h->names[i].len),
                "a name in another spelling");
    }
}


static ngx_uint_t
is_token(ngx_str_t *s)
{
    size_t  i;

    for (i = 0; i < s->len; i++) {
        if (!((s->data[i] >= '0' && s->data[i] <= '9')
              || ((s->data[i] | 0x20) >= 'a' && (s->data[i] | 0x20) <= 'z')
              || (s->data[i] && strchr("!#$%&'*+-.^_`|~", s->data[i]))))
        {
            return 0;
        }
    }

    return s->len > 0;
}


/* whether the stop would be sent: one token at most, and a legal one */

static ngx_uint_t
take_token(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx)
{
    size_t      k;
    ngx_int_t   rc;
    ngx_uint_t  i, n, legal;

    n = 0;
    legal = 1;

    for (i = 0; i < h->n; i++) {

        if (h->names[i].len != 12
            || strncasecmp((char *) h->names[i].data, "x-auth-token", 12) != 0)
        {
            continue;
        }

        n++;
        legal &= (h->values[i].len != 0);

        for (k = 0; k < h->values[i].len; k++) {
            legal &= (h->values[i].data[k] > ' '
                      && h->values[i].data[k] < 0x7f
                      && h->values[i].data[k] != ',');
        }
    }

    rc = ngx_http_cdm_stop_caller_token(&h->r, ctx);

    h->token = ctx->caller_token;

    if (rc == NGX_OK) {
        require(n <= 1 && legal, "one token, and legal");
        require((n == 1) == (h->token.len != 0), "it is the one that is sent");
        return 1;
    }

    require(rc == NGX_DECLINED && (n > 1 || !legal), "a token is refused");

    return 0;
}


/* as ngx_http_cdm_stop_forward() and ngx_http_upstream_init_request() do it */

static void
send_stop(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_int_t                  rc;
    ngx_buf_t                  body;
    ngx_list_t                 before;
    ngx_chain_t                cl;
    ngx_http_request_t        *r;
    ngx_http_upstream_t       *u;
    ngx_http_core_loc_conf_t  *clcf;

    r = &h->r;
    before = r->headers_in.headers;

    ctx->forwarding = 1;
    ctx->injected = (h->options & HEADERS_INJECTED) != 0;
    ctx->token = h->token;

    if (ctx->injected) {
        ngx_str_set(&ctx->token, TOKEN);
        require(ngx_http_cdm_stop_take_caller_token(r, ctx) == NGX_OK,
                "memory");
    }

    require(ngx_http_cdm_stop_mark_headers(r, ctx) == NGX_OK, "memory");

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    rc = clcf->handler(r);
    u = r->upstream;

    require(rc == NGX_HTTP_INTERNAL_SERVER_ERROR && u != NULL,
            "proxy_pass begins");

    ngx_memzero(&body, sizeof(ngx_buf_t));
    ngx_memzero(&cl, sizeof(ngx_chain_t));

    body.pos = (u_char *) "body";
    body.last = body.pos + 4;
    body.memory = 1;
    cl.buf = &body;

    u->request_bufs = (h->options & HEADERS_BODY) ? &cl : NULL;

    require(u->create_request(r) == NGX_OK, "proxy_pass builds a request");

    rc = h->built.data ? init_built(h, ctx)
                       : u->conf->upstream->peer.init(r, u->conf->upstream);

    ngx_http_cdm_stop_unmark_headers(r, ctx);

    require(memcmp(&before, &r->headers_in.headers, sizeof(ngx_list_t)) == 0,
            "the list is what it was");

    if (h->built.data) {

        if (rc == NGX_OK) {
            check_built(h, ctx);

        } else {
            require(cycle.worst == NGX_LOG_ERR, "why it is not sent is told");
        }

        return;
    }

    if (is_broken(h)) {
        require(rc == NGX_ERROR, "a broken request is not sent");
        return;
    }

    require(rc == NGX_OK, "the stop is sent");
    require(cycle.worst >= NGX_LOG_INFO, "no error is told");

    check_request(h, ctx);
}


/* the first buffer is the header, and there may be a part of the body in it */

static ngx_int_t
init_built(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char               *p, *dst, *last;
    ngx_buf_t            *b;
    ngx_http_upstream_t  *u;

    u = h->r.upstream;

    b = ngx_create_temp_buf(h->r.pool, h->built.len * sizeof(ctx->id) + 1);
    require(b != NULL, "memory");

    last = h->built.data + h->built.len;

    for (p = h->built.data, dst = b->pos; p < last; p++) {

        if (p + 1 < last && p[0] == '%' && p[1] == 'M') {
            dst = ngx_cpymem(dst, ctx->id, sizeof(ctx->id));
            p++;

        } else {
            *dst++ = *p;
        }
    }

    b->last = dst;
    u->request_bufs->buf = b;

    return u->conf->upstream->peer.init(&h->r, u->conf->upstream);
}


/* whatever was built, this is what CDM never gets */

static void
check_built(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx)
{
    int          lengths, tokens;
    char        *p, *last, *end;
    size_t       len, rest;
    static char  text[64 * HEADERS_SIZE];

    len = collect(h->r.upstream->request_bufs, (u_char *) text);
    last = text + len;
    text[len] = '\0';

    p = memmem(text, len, "\r\n", 2);
    require(p && (size_t) (p - text) == strlen("PUT " TARGET " HTTP/1.1")
            && memcmp(text, "PUT " TARGET " HTTP/1.1", p - text) == 0,
            "the request line");

    end = memmem(text, len, "\r\n\r\n", 4);
    require(end != NULL, "the header has an end");

    rest = last - end - 4;
    lengths = 0;
    tokens = 0;

    while (p < end) {
        p += 2;

        if (strncasecmp(p, "Content-Length:", 15) == 0) {
            require(strtoul(p + 15, NULL, 10) == rest, "the length is right");
            lengths++;
        }

        tokens += (strncasecmp(p, "X-Auth-Token", 12) == 0 && p[12] == ':');

        require(strncasecmp(p, "Transfer-Encoding:", 18) != 0,
                "the body has one length");
        require(*p != ' ' && *p != '\t', "no line goes on");

        len = strcspn(p, "\r\n");
        require(p[len] == '\r' && p[len + 1] == '\n', "no other line break");

        p += len;
    }

    require(lengths == 1 && tokens == 1, "one length and one token");
}


/*
 * What would end a line in the midst of it.  Some headers of the caller's are
 * not for proxy_pass, and it sets one in place of the caller's.
 */

static ngx_uint_t
is_broken(headers_t *h)
{
    ngx_uint_t          i, k;
    static const char  *own[] = {
        "host", "connection", "content-length", "transfer-encoding", "te",
        "keep-alive", "expect", "upgrade", "x-operator", NULL
    };

    for (i = 0; i < h->n; i++) {

        for (k = 0; own[k]; k++) {
            if (h->names[i].len == strlen(own[k])
                && strncasecmp((char *) h->names[i].data, own[k],
                               h->names[i].len)
                   == 0)
            {
                break;
            }
        }

        if (own[k]) {
            continue;
        }

        if (memchr(h->names[i].data, '\r', h->names[i].len)
            || memchr(h->names[i].data, '\0', h->names[i].len)
            || memchr(h->values[i].data, '\r', h->values[i].len)
            || memchr(h->values[i].data, '\n', h->values[i].len)
            || memchr(h->values[i].data, '\0', h->values[i].len))
        {
            return 1;
        }
    }

    return 0;
}


static void
check_request(headers_t *h, ngx_http_cdm_stop_ctx_t *ctx)
{
    char        *p, *last, *end;
    size_t       len;
    ngx_uint_t   i, next, counts[sizeof(fixed) / sizeof(fixed[0]) + 2];
    static char  text[64 * HEADERS_SIZE];

    ngx_memzero(counts, sizeof(counts));

    len = collect(h->r.upstream->request_bufs, (u_char *) text);
    last = text + len;

    p = memmem(text, len, "\r\n", 2);
    require(p && (size_t) (p - text) == strlen("PUT " TARGET " HTTP/1.1")
            && memcmp(text, "PUT " TARGET " HTTP/1.1", p - text) == 0,
            "the request line");

    next = 0;

    for (p += 2; /* void */ ; p = end + 2) {
        end = memmem(p, last - p, "\r\n", 2);
        require(end != NULL, "lines have an end");

        if (end == p) {
            break;
        }

        check_header(h, p, end - p, counts, &next);
    }

    for ( /* void */ ; next < h->n; next++) {
        require(!is_passed(h, &h->names[next]), "no header is lost");
    }

    for (i = 0; fixed[i]; i++) {
        require(counts[i] == 1, "what is set is there once");
    }

    require(counts[i] == (ctx->token.len != 0), "the token is there once");
    require(counts[i + 1] == 1, "one Content-Length");

    len = (h->options & HEADERS_BODY) ? 4 : 0;
    require(last - end - 2 == (ssize_t) len
            && memcmp(end + 2, "body", len) == 0, "the body follows");
}


static void
check_header(headers_t *h, const char *line, size_t len, ngx_uint_t *counts,
    ngx_uint_t *next)
{
    char        length[32];
    ngx_str_t   name, value;
    ngx_uint_t  i;

    for (i = 0; fixed[i]; i++) {
        if (len == strlen(fixed[i]) && memcmp(line, fixed[i], len) == 0) {
            counts[i]++;
            return;
        }
    }

    ngx_str_set(&name, "X-Auth-Token");
    value = h->token;

    if (h->options & HEADERS_INJECTED) {
        ngx_str_set(&value, TOKEN);
    }

    if (value.len && same_line(&name, &value, line, len)) {
        counts[i]++;
        return;
    }

    snprintf(length, sizeof(length), "Content-Length: %d",
             (h->options & HEADERS_BODY) ? 4 : 0);

    if (len == strlen(length) && memcmp(line, length, len) == 0) {
        counts[i + 1]++;
        return;
    }

    /* the next one of the caller's that is passed, as it came */

    while (*next < h->n && !is_passed(h, &h->names[*next])) {
        (*next)++;
    }

    require(*next < h->n
            && same_line(&h->names[*next], &h->values[*next], line, len),
            "nothing else is sent, and nothing is changed");

    (*next)++;
}


static ngx_uint_t
same_line(ngx_str_t *name, ngx_str_t *value, const char *line, size_t len)
{
    return len == name->len + 2 + value->len
           && memcmp(line, name->data, name->len) == 0
           && memcmp(line + name->len, ": ", 2) == 0
           && memcmp(line + name->len + 2, value->data, value->len) == 0;
}
