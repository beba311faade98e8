
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_fetch.h"
#include "ngx_http_cdm_stop_stats.h"


static ngx_int_t ngx_http_cdm_stop_verify_ask(
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_found_t *found);
static void ngx_http_cdm_stop_verify_read(ngx_http_cdm_stop_fetch_t *f);
static void ngx_http_cdm_stop_verify_known(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_facts_t *facts);
static ngx_http_cdm_stop_fail_e ngx_http_cdm_stop_verify_reason(
    ngx_http_cdm_stop_fetch_t *f);
static void ngx_http_cdm_stop_verify_failed(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_fail_e fail, const char *error);
static ngx_uint_t ngx_http_cdm_stop_verify_level(ngx_http_cdm_stop_fetch_t *f,
    ngx_uint_t level);


ngx_int_t
ngx_http_cdm_stop_verify_look(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_found_t *found)
{
    ngx_int_t                      rc;
    ngx_http_cdm_stop_identity_t  *identity;

    identity = ctx->conf->identity;

    rc = ngx_http_cdm_stop_verified_find(cdmcf->zone, identity->digest,
                                         &ctx->key, &identity->terms, found,
                                         cdmcf->worker->facts);

    if (rc != NGX_DONE) {
        return rc;
    }

    return ngx_http_cdm_stop_verify_ask(cdmcf, ctx, found);
}


/*
 * IAM lets everybody ask about a token by itself, as documented.  One that
 * does not is asked with the gateway's token, which may have to be got first.
 */

static ngx_int_t
ngx_http_cdm_stop_verify_ask(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_found_t *found)
{
    ngx_int_t                      rc;
    ngx_http_cdm_stop_key_t        key;
    ngx_http_cdm_stop_found_t      gateway;
    ngx_http_cdm_stop_identity_t  *identity;

    identity = ctx->conf->identity;

    if (found->by_gateway) {

        if (ngx_http_cdm_stop_serves(identity, &ctx->target.project)) {

            ngx_http_cdm_stop_identity_key(identity, ctx->target.project.data,
                                           &key);

            rc = ngx_http_cdm_stop_find(cdmcf, identity, &key, &gateway);

        } else {
            ngx_memzero(&gateway, sizeof(ngx_http_cdm_stop_found_t));
            rc = NGX_BUSY;
        }

        if (rc != NGX_OK) {
            ngx_http_cdm_stop_verified_abandon(cdmcf->zone, identity->digest,
                                               &ctx->key, &found->lease, 0);
            found->retry = gateway.retry;
            found->fail = gateway.fail;

            return rc;
        }
    }

    if (ngx_http_cdm_stop_fetch_verify(cdmcf, ctx, found) != NGX_OK) {
        return NGX_ERROR;
    }

    return NGX_AGAIN;
}


void
ngx_http_cdm_stop_verify_end(ngx_http_cdm_stop_fetch_t *f, ngx_int_t rc)
{
    if (rc != NGX_OK || !f->complete) {
        ngx_http_cdm_stop_verify_failed(f, NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE,
                                        f->timedout ? "no answer in time"
                                                    : "no answer");

    } else if (f->answer.status == NGX_HTTP_FORBIDDEN && !f->by_gateway) {

        /* the first half of an exchange: IAM wants another one to ask */

        ngx_http_cdm_stop_stats_iam(f->cdmcf, f->identity,
                                    NGX_HTTP_CDM_STOP_VERIFY,
                                    NGX_HTTP_CDM_STOP_IAM_UNUSED, f->start);

        ngx_http_cdm_stop_verified_abandon(f->cdmcf->zone, f->identity->digest,
                                           &f->key, &f->lease, 1);

    } else if (f->answer.status == NGX_HTTP_UNAUTHORIZED && f->by_gateway) {

        /* this is about the gateway's token and not about the caller's */

        (void) ngx_http_cdm_stop_token_drop(f->cdmcf->zone, &f->by,
                                            f->generation);

        ngx_http_cdm_stop_verify_failed(f, NGX_HTTP_CDM_STOP_FAIL_ANSWER,
                                        "the gateway's token is refused");

    } else {
        ngx_http_cdm_stop_verify_read(f);

        ngx_http_cdm_stop_wake(f->cdmcf, &f->key);
        ngx_http_cdm_stop_wake_next(f->cdmcf);

        return;
    }

    ngx_http_cdm_stop_wake(f->cdmcf, &f->key);
}


static void
ngx_http_cdm_stop_verify_read(ngx_http_cdm_stop_fetch_t *f)
{
    ngx_int_t                   rc;
    ngx_str_t                   body;
    const char                 *error;
    ngx_http_cdm_stop_facts_t   facts;

    /* what parses the body frees copies of it without wiping them */

    body = f->answer.body;

    if (ngx_http_cdm_stop_mask_body(&body, &f->subject, f->request->pool)
        != NGX_OK)
    {
        body.len = 0;
    }

    if (body.data != f->answer.body.data) {
        ngx_explicit_memzero(f->answer.body.data, f->answer.body.len);
        f->answer.body = body;
    }

    /* IAM's own clock or, where it does not show it, ours */

    if (f->answer.date == (time_t) NGX_ERROR) {
        f->answer.date = ngx_time();
    }

    facts.data = f->cdmcf->worker->facts;

    rc = ngx_http_cdm_stop_facts_read(&f->answer, &f->subject, &facts, &error);

    if (rc == NGX_ERROR) {
        ngx_http_cdm_stop_verify_failed(f, ngx_http_cdm_stop_verify_reason(f),
                                        error);
        return;
    }

    ngx_http_cdm_stop_verify_known(f, (rc == NGX_OK) ? &facts : NULL);
}


static void
ngx_http_cdm_stop_verify_known(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_facts_t *facts)
{
    int64_t    end;
    ngx_int_t  rc;

    /*
     * IAM told the time after it was asked, so what is left of the token's
     * life is counted from then on.
     */

    end = facts ? f->start + facts->life : 0;

    ngx_http_cdm_stop_stats_iam(f->cdmcf, f->identity,
                                NGX_HTTP_CDM_STOP_VERIFY,
                                facts ? NGX_HTTP_CDM_STOP_IAM_OK
                                      : NGX_HTTP_CDM_STOP_FAIL_REFUSED,
                                f->start);

    rc = ngx_http_cdm_stop_verified_publish(f->cdmcf->zone,
                                            f->identity->digest, &f->key,
                                            &f->lease, facts, end);

    if (rc == NGX_ERROR) {
        ngx_log_error(ngx_http_cdm_stop_verify_level(f, NGX_LOG_ALERT),
                      &f->log, 0,
                      "no room for what IAM says of a caller's token, enlarge "
                      "\"cdm_stop_zone\"");
    }
}


static ngx_http_cdm_stop_fail_e
ngx_http_cdm_stop_verify_reason(ngx_http_cdm_stop_fetch_t *f)
{
    if (f->answer.status == NGX_HTTP_TOO_MANY_REQUESTS
        || f->answer.status == NGX_HTTP_SERVICE_UNAVAILABLE)
    {
        return NGX_HTTP_CDM_STOP_FAIL_THROTTLED;
    }

    return NGX_HTTP_CDM_STOP_FAIL_ANSWER;
}


static void
ngx_http_cdm_stop_verify_failed(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_fail_e fail, const char *error)
{
    size_t      len;
    u_char      text[NGX_HTTP_CDM_STOP_IAM_TEXT_LEN];
    int64_t     rest;
    ngx_uint_t  level;

    ngx_http_cdm_stop_stats_iam(f->cdmcf, f->identity,
                                NGX_HTTP_CDM_STOP_VERIFY, fail, f->start);

    rest = ngx_http_cdm_stop_verified_failed(f->cdmcf->zone,
                                             f->identity->digest, &f->key,
                                             &f->lease, fail,
                                             ngx_http_cdm_stop_fetch_retry(f));

    level = ngx_http_cdm_stop_verify_level(f, NGX_LOG_ERR);

    if (fail == NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE || f->answer.status == 0) {
        ngx_log_error(level, &f->log, 0,
                      "IAM did not verify a caller's token: %s, next try in "
                      "%L ms", error, rest);
        return;
    }

    len = ngx_http_cdm_stop_fetch_message(f, text);

    ngx_log_error(level, &f->log, 0,
                  "IAM did not verify a caller's token: %s (status %ui, "
                  "message \"%*s\"), next try in %L ms",
                  error, f->answer.status, len, text, rest);
}


/* callers may cause many of these messages: one a second is told loudly */

static ngx_uint_t
ngx_http_cdm_stop_verify_level(ngx_http_cdm_stop_fetch_t *f, ngx_uint_t level)
{
    ngx_http_cdm_stop_worker_t  *worker;

    worker = f->cdmcf->worker;

    if (worker->verify_logged == ngx_time()) {
        return NGX_LOG_INFO;
    }

    worker->verify_logged = ngx_time();

    return level;
}
