
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_fetch.h"
#include "ngx_http_cdm_stop_stats.h"


static ngx_int_t ngx_http_cdm_stop_fetch_start(ngx_http_cdm_stop_fetch_t *f,
    ngx_connection_t *c);
static ngx_int_t ngx_http_cdm_stop_fetch_auth(ngx_http_cdm_stop_fetch_t *f,
    ngx_connection_t *c);
static ngx_int_t ngx_http_cdm_stop_fetch_subject(ngx_http_cdm_stop_fetch_t *f,
    ngx_connection_t *c, ngx_str_t *subject);
static ngx_int_t ngx_http_cdm_stop_fetch_copy(ngx_http_cdm_stop_fetch_t *f,
    ngx_connection_t *c, ngx_http_cdm_stop_key_t *key);
static ngx_int_t ngx_http_cdm_stop_fetch_request(
    ngx_http_cdm_stop_fetch_t *f, ngx_connection_t *c);
static u_char *ngx_http_cdm_stop_fetch_log(ngx_log_t *log, u_char *buf,
    size_t len);
static void ngx_http_cdm_stop_fetch_event(ngx_event_t *ev);
static void ngx_http_cdm_stop_fetch_give_up(ngx_connection_t *c);
static void ngx_http_cdm_stop_fetch_deadline(ngx_event_t *ev);
static void ngx_http_cdm_stop_fetch_issued(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_grant_t *grant);
static void ngx_http_cdm_stop_fetch_failed(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_fail_e fail, const char *error);
static ngx_http_cdm_stop_fail_e ngx_http_cdm_stop_fetch_reason(
    ngx_http_cdm_stop_fetch_t *f);


ngx_int_t
ngx_http_cdm_stop_fetch(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity, ngx_http_cdm_stop_key_t *key,
    ngx_http_cdm_stop_lease_t *lease)
{
    ngx_connection_t           *c;
    ngx_http_cdm_stop_fetch_t  *f;

    c = ngx_http_cdm_stop_fetch_connection(ngx_cycle->log);

    f = c ? ngx_pcalloc(c->pool, sizeof(ngx_http_cdm_stop_fetch_t)) : NULL;

    if (f) {
        f->cdmcf = cdmcf;
        f->identity = identity;
        f->key = *key;
        f->lease = *lease;

        if (ngx_http_cdm_stop_fetch_start(f, c) == NGX_OK) {
            return NGX_OK;
        }
    }

    if (c) {
        ngx_http_close_connection(c);
    }

    ngx_http_cdm_stop_stats_iam(cdmcf, identity, NGX_HTTP_CDM_STOP_ISSUE,
                                NGX_HTTP_CDM_STOP_IAM_LOCAL, 0);

    (void) ngx_http_cdm_stop_token_failed(cdmcf->zone, key, lease,
                                          &identity->terms,
                                          NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE,
                                          0,
                              ngx_http_cdm_stop_token_file_stamp(identity));
    return NGX_ERROR;
}


ngx_int_t
ngx_http_cdm_stop_fetch_verify(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_found_t *found)
{
    ngx_connection_t              *c;
    ngx_http_cdm_stop_fetch_t     *f;
    ngx_http_cdm_stop_identity_t  *identity;

    identity = ctx->conf->identity;

    c = ngx_http_cdm_stop_fetch_connection(ngx_cycle->log);

    f = c ? ngx_pcalloc(c->pool, sizeof(ngx_http_cdm_stop_fetch_t)) : NULL;

    if (f) {
        f->cdmcf = cdmcf;
        f->identity = identity;
        f->key = ctx->key;
        f->lease = found->lease;
        f->subject = ctx->caller_token;
        f->by_gateway = found->by_gateway;

        ngx_http_cdm_stop_identity_key(identity, ctx->target.project.data,
                                       &f->by);

        if (ngx_http_cdm_stop_fetch_start(f, c) == NGX_OK) {
            return NGX_OK;
        }
    }

    if (c) {
        ngx_http_close_connection(c);
    }

    ngx_http_cdm_stop_stats_iam(cdmcf, identity, NGX_HTTP_CDM_STOP_VERIFY,
                                NGX_HTTP_CDM_STOP_IAM_LOCAL, 0);

    (void) ngx_http_cdm_stop_verified_failed(cdmcf->zone, identity->digest,
                                             &ctx->key, &found->lease,
                                             NGX_HTTP_CDM_STOP_FAIL_ANSWER, 0);
    return NGX_ERROR;
}


static ngx_int_t
ngx_http_cdm_stop_fetch_start(ngx_http_cdm_stop_fetch_t *f,
    ngx_connection_t *c)
{
    ngx_str_t            subject;
    ngx_pool_cleanup_t  *cln;

    f->start = ngx_http_cdm_stop_now();

    c->read->handler = ngx_http_cdm_stop_fetch_event;

    /* what belongs to the caller's request is not wiped */

    subject = f->subject;
    ngx_str_null(&f->subject);

    cln = ngx_pool_cleanup_add(c->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_cdm_stop_fetch_wipe;
    cln->data = f;

    if (subject.len
        && ngx_http_cdm_stop_fetch_subject(f, c, &subject) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_cdm_stop_fetch_auth(f, c) != NGX_OK
        || ngx_http_cdm_stop_fetch_request(f, c) != NGX_OK)
    {
        return NGX_ERROR;
    }

    f->deadline.handler = ngx_http_cdm_stop_fetch_deadline;
    f->deadline.data = f;
    f->deadline.log = c->log;

    ngx_add_timer(&f->deadline, f->identity->timeout);

    /* whatever happens from here on is told by the callbacks of upstream */

    if (ngx_http_cdm_stop_exchange(f) != NGX_OK) {
        ngx_http_finalize_request(f->request, NGX_ERROR);
        ngx_http_run_posted_requests(c);
        return NGX_OK;
    }

    f->request->main->count++;

    ngx_http_upstream_init(f->request);

    ngx_http_finalize_request(f->request, NGX_DONE);
    ngx_http_run_posted_requests(c);

    return NGX_OK;
}


/*
 * The token that the request itself needs, of a via or from a file.  Everybody
 * may ask about a token by itself; about others the gateway may, if it has
 * the right.
 */

static ngx_int_t
ngx_http_cdm_stop_fetch_auth(ngx_http_cdm_stop_fetch_t *f,
    ngx_connection_t *c)
{
    ngx_http_cdm_stop_key_t        key;
    ngx_http_cdm_stop_identity_t  *identity;

    identity = f->identity;

    if (f->subject.len) {

        if (f->by_gateway) {
            return ngx_http_cdm_stop_fetch_copy(f, c, &f->by);
        }

        f->auth = f->subject;

        return NGX_OK;
    }

    if (identity->credentials.method == NGX_HTTP_CDM_STOP_FILE) {
        return ngx_http_cdm_stop_read_token_file(identity, c->pool, &f->auth,
                                                 &f->stamp, ngx_cycle->log);
    }

    if (identity->via == NULL) {
        return NGX_OK;
    }

    ngx_http_cdm_stop_identity_key(identity->via, NULL, &key);

    return ngx_http_cdm_stop_fetch_copy(f, c, &key);
}


/* the token that is asked about outlives the request that sent it */

static ngx_int_t
ngx_http_cdm_stop_fetch_subject(ngx_http_cdm_stop_fetch_t *f,
    ngx_connection_t *c, ngx_str_t *subject)
{
    u_char  *p;

    p = ngx_pnalloc(c->pool, subject->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, subject->data, subject->len);
    f->subject.data = p;
    f->subject.len = subject->len;

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_fetch_copy(ngx_http_cdm_stop_fetch_t *f,
    ngx_connection_t *c, ngx_http_cdm_stop_key_t *key)
{
    f->auth.data = ngx_pnalloc(c->pool, NGX_HTTP_CDM_STOP_TOKEN_LEN);
    if (f->auth.data == NULL) {
        return NGX_ERROR;
    }

    f->auth.len = ngx_http_cdm_stop_token_copy(f->cdmcf->zone, key,
                                               f->auth.data,
                                               NGX_HTTP_CDM_STOP_TOKEN_LEN,
                                               &f->generation, NULL);

    return f->auth.len ? NGX_OK : NGX_ERROR;
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

    p = ngx_snprintf(buf, len, " while %s, identity: \"%V\", "
                     "project: \"%*s\"",
                     f->subject.len ? "asking IAM about a caller's token"
                                    : "requesting IAM token",
                     &f->identity->name,
                     (size_t) NGX_HTTP_CDM_STOP_PROJECT_LEN,
                     f->subject.len ? f->by.project : f->key.project);
    len -= p - buf;
    buf = p;

    u = f->request ? f->request->upstream : NULL;

    if (u && u->peer.name) {
        p = ngx_snprintf(buf, len, ", upstream: \"%V%V%V\"", &u->schema,
                         u->peer.name, &f->identity->path);
    }

    return p;
}


/* called by "worker_shutdown_timeout"; nothing else happens there */

static void
ngx_http_cdm_stop_fetch_event(ngx_event_t *ev)
{
    ngx_connection_t  *c;

    c = ev->data;

    if (c->close) {
        ngx_http_cdm_stop_fetch_give_up(c);
    }
}


static void
ngx_http_cdm_stop_fetch_give_up(ngx_connection_t *c)
{
    ngx_http_request_t  *r;

    r = c->data;

    /* the cleanup of upstream gives one reference back while core works on */

    r->main->count++;

    c->error = 1;

    ngx_http_finalize_request(r, NGX_ERROR);
    ngx_http_run_posted_requests(c);
}


/* timeouts of upstream are for one read each: this one is for the whole */

static void
ngx_http_cdm_stop_fetch_deadline(ngx_event_t *ev)
{
    ngx_http_cdm_stop_fetch_t  *f;

    f = ev->data;

    f->timedout = 1;

    ngx_http_cdm_stop_fetch_give_up(f->request->connection);
}


/* ends the lease, once, and tells who waits */

void
ngx_http_cdm_stop_fetch_end(ngx_http_cdm_stop_fetch_t *f, ngx_int_t rc)
{
    ngx_str_t                         body;
    const char                       *error;
    ngx_http_cdm_stop_grant_t         grant;
    ngx_http_cdm_stop_credentials_t   credentials;

    if (f->ended) {
        return;
    }

    f->ended = 1;

    if (f->deadline.timer_set) {
        ngx_del_timer(&f->deadline);
    }

    if (f->subject.len) {
        ngx_http_cdm_stop_verify_end(f, rc);
        return;
    }

    if (rc != NGX_OK || !f->complete) {
        ngx_http_cdm_stop_fetch_failed(f, NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE,
                                       f->timedout ? "no answer in time"
                                                   : "no answer");
        goto failed;
    }

    ngx_http_cdm_stop_fetch_credentials(f, &credentials);

    if (credentials.method == NGX_HTTP_CDM_STOP_FILE) {

        /* the token is ours, and it was issued long ago */

        f->answer.tokens = 1;
        f->answer.token = f->auth;

        if (f->answer.date == (time_t) NGX_ERROR) {
            f->answer.date = ngx_time();
        }
    }

    ngx_memzero(&grant, sizeof(ngx_http_cdm_stop_grant_t));
    grant.stamp = f->stamp;

    body = f->answer.body;

    if (ngx_http_cdm_stop_mask_body(&body, &f->answer.token,
                                    f->request->pool)
        != NGX_OK)
    {
        body.len = 0;
    }

    if (body.data != f->answer.body.data) {
        ngx_explicit_memzero(f->answer.body.data, f->answer.body.len);
        f->answer.body = body;
    }

    error = ngx_http_cdm_stop_iam_read(&f->answer, &credentials, &grant);

    if (error) {
        ngx_http_cdm_stop_fetch_failed(f, ngx_http_cdm_stop_fetch_reason(f),
                                       error);
        goto failed;
    }

    ngx_http_cdm_stop_fetch_issued(f, &grant);

    ngx_http_cdm_stop_wake(f->cdmcf, &f->key);
    ngx_http_cdm_stop_wake_next(f->cdmcf);

    return;

failed:

    ngx_http_cdm_stop_wake(f->cdmcf, &f->key);
}


void
ngx_http_cdm_stop_fetch_credentials(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_credentials_t *credentials)
{
    *credentials = f->identity->credentials;

    credentials->project.len = NGX_HTTP_CDM_STOP_PROJECT_LEN;
    credentials->project.data = f->key.project;
}


static void
ngx_http_cdm_stop_fetch_issued(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_grant_t *grant)
{
    ngx_int_t                   rc;
    ngx_http_cdm_stop_terms_t  *terms;

    terms = &f->identity->terms;

    grant->margin = terms->margin;

    if (grant->margin == -1) {
        grant->margin = ngx_min(grant->life / 10, NGX_HTTP_CDM_STOP_MARGIN);
    }

    if (grant->life < 3 * grant->margin) {
        ngx_log_error(NGX_LOG_ALERT, &f->log, 0,
                      "IAM issued a token for %L seconds only, it is not used: "
                      "\"margin\" of %L seconds is more than a third of that",
                      grant->life / 1000, grant->margin / 1000);

        ngx_http_cdm_stop_stats_iam(f->cdmcf, f->identity,
                                    NGX_HTTP_CDM_STOP_ISSUE,
                                    NGX_HTTP_CDM_STOP_IAM_UNUSED, f->start);

        (void) ngx_http_cdm_stop_token_failed(f->cdmcf->zone, &f->key,
                                              &f->lease, terms,
                                              NGX_HTTP_CDM_STOP_FAIL_ANSWER,
                                              0, f->stamp);
        return;
    }

    grant->ahead = grant->life * (int64_t) terms->ahead / 100;

    /* before it is not used any more there is time for an exchange */

    grant->ahead = ngx_max(grant->ahead,
                           ngx_min(2 * grant->margin, grant->life / 2));

    rc = ngx_http_cdm_stop_token_publish(f->cdmcf->zone, &f->key, &f->lease,
                                         &f->answer.token, grant);

    ngx_http_cdm_stop_stats_iam(f->cdmcf, f->identity,
                                NGX_HTTP_CDM_STOP_ISSUE,
                                (rc == NGX_OK) ? NGX_HTTP_CDM_STOP_IAM_OK
                                               : NGX_HTTP_CDM_STOP_IAM_UNUSED,
                                f->start);

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
                                          terms,
                                          NGX_HTTP_CDM_STOP_FAIL_ANSWER, 0,
                                          f->stamp);
}


static ngx_http_cdm_stop_fail_e
ngx_http_cdm_stop_fetch_reason(ngx_http_cdm_stop_fetch_t *f)
{
    ngx_http_cdm_stop_key_t  key;

    if (f->identity->credentials.method == NGX_HTTP_CDM_STOP_FILE
        && f->answer.status == NGX_HTTP_UNAUTHORIZED)
    {
        /* a token that has ended locks no account */

        return NGX_HTTP_CDM_STOP_FAIL_ANSWER;
    }

    switch (f->answer.status) {

    case NGX_HTTP_UNAUTHORIZED:

        if (f->identity->via) {
            ngx_http_cdm_stop_identity_key(f->identity->via, NULL, &key);

            (void) ngx_http_cdm_stop_token_drop(f->cdmcf->zone, &key,
                                                f->generation);

            return NGX_HTTP_CDM_STOP_FAIL_VIA;
        }

        return NGX_HTTP_CDM_STOP_FAIL_REFUSED;

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
    size_t   len;
    u_char   text[NGX_HTTP_CDM_STOP_IAM_TEXT_LEN];
    int64_t  rest;

    ngx_http_cdm_stop_stats_iam(f->cdmcf, f->identity,
                                NGX_HTTP_CDM_STOP_ISSUE, fail, f->start);

    rest = ngx_http_cdm_stop_token_failed(f->cdmcf->zone, &f->key, &f->lease,
                                          &f->identity->terms, fail,
                                          ngx_http_cdm_stop_fetch_retry(f),
                                          f->stamp);

    if (rest == -1) {
        ngx_log_error(NGX_LOG_WARN, &f->log, 0,
                      "IAM gave no token: %s, but too late to matter", error);
        return;
    }

    if (fail == NGX_HTTP_CDM_STOP_FAIL_VIA && rest) {

        /* the second time, with a new token of its via */

        fail = NGX_HTTP_CDM_STOP_FAIL_REFUSED;
    }

    if (fail == NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE || f->answer.status == 0) {
        ngx_log_error(NGX_LOG_ERR, &f->log, 0,
                      "IAM gave no token: %s, next try in %L ms",
                      error, rest);
        return;
    }

    len = ngx_http_cdm_stop_fetch_message(f, text);

    if (fail == NGX_HTTP_CDM_STOP_FAIL_REFUSED) {
        ngx_log_error(NGX_LOG_ALERT, &f->log, 0,
                      "IAM refuses the gateway: status %ui, message \"%*s\", "
                      "next try in %L s or after a reload with other "
                      "credentials",
                      f->answer.status, len, text, rest / 1000);
        return;
    }

    ngx_log_error(NGX_LOG_ERR, &f->log, 0,
                  "IAM gave no token: %s (status %ui, message \"%*s\"), "
                  "next try in %L ms",
                  error, f->answer.status, len, text, rest);
}
