
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_status.h"


/*
 * How long a record that was lost speaks against a target, in milliseconds:
 * nothing but another record can tell that it is well again, and none would
 * come if it were not ready for ever.
 */
#define NGX_HTTP_CDM_STOP_LOST_FOR  10000


static ngx_int_t ngx_http_cdm_stop_unready(ngx_http_cdm_stop_view_t *view,
    const char *code, ngx_str_t *identity, ngx_str_t *target, int64_t retry);
static ngx_http_cdm_stop_identity_view_t *ngx_http_cdm_stop_judge_identity(
    ngx_http_cdm_stop_view_t *view, ngx_http_cdm_stop_identity_view_t *iv);
static const char *ngx_http_cdm_stop_judge_code(
    ngx_http_cdm_stop_identity_view_t *iv);
static ngx_int_t ngx_http_cdm_stop_try_key(ngx_http_cdm_stop_view_t *view,
    ngx_http_cdm_stop_identity_view_t *iv, ngx_http_cdm_stop_key_t *key);


ngx_int_t
ngx_http_cdm_stop_judge(ngx_http_cdm_stop_view_t *view)
{
    int64_t                             lost;
    ngx_int_t                           rc;
    ngx_uint_t                          i;
    ngx_http_cdm_stop_target_view_t    *target;
    ngx_http_cdm_stop_identity_view_t  *iv, *cause;

    if (ngx_array_init(&view->reasons, view->pool, 4,
                       sizeof(ngx_http_cdm_stop_unready_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    rc = NGX_OK;

    if (ngx_exiting || ngx_quit || ngx_terminate) {
        rc |= ngx_http_cdm_stop_unready(view, "shutting_down", NULL, NULL, -1);
    }

    if (view->cdmcf->worker->waiting >= NGX_HTTP_CDM_STOP_WAITING_MAX) {
        rc |= ngx_http_cdm_stop_unready(view, "waiting_full", NULL, NULL, -1);
    }

    target = view->targets.elts;

    for (i = 0; i < view->targets.nelts; i++) {

        lost = view->now - target[i].chain->stats->health.failed;

        if (target[i].required
            && (target[i].blocked
                || (target[i].failing && lost < NGX_HTTP_CDM_STOP_LOST_FOR)))
        {
            rc |= ngx_http_cdm_stop_unready(view, "audit_failing", NULL,
                                            &target[i].chain->name, -1);
        }
    }

    iv = view->identities.elts;

    for (i = 0; i < view->identities.nelts; i++) {

        cause = ngx_http_cdm_stop_judge_identity(view, &iv[i]);

        iv[i].ready = (cause == NULL);

        if (cause) {
            rc |= ngx_http_cdm_stop_unready(view,
                                          ngx_http_cdm_stop_judge_code(cause),
                                          &iv[i].identity->name, NULL,
                                          ngx_max(cause->next, cause->rest));
        }
    }

    return rc;
}


static ngx_int_t
ngx_http_cdm_stop_unready(ngx_http_cdm_stop_view_t *view, const char *code,
    ngx_str_t *identity, ngx_str_t *target, int64_t retry)
{
    ngx_http_cdm_stop_unready_t  *reason;

    reason = ngx_array_push(&view->reasons);
    if (reason == NULL) {
        return NGX_ERROR;
    }

    reason->code = code;
    reason->identity = identity;
    reason->target = target;
    reason->retry = retry;

    return NGX_OK;
}


/*
 * An identity serves if it has a good token, or nothing speaks against its
 * getting one.  Of one that takes any project nothing is said: a stranger may
 * name some for which there is no token.  Returns the identity that fails, by
 * whose token this one may live, or NULL.
 */

static ngx_http_cdm_stop_identity_view_t *
ngx_http_cdm_stop_judge_identity(ngx_http_cdm_stop_view_t *view,
    ngx_http_cdm_stop_identity_view_t *iv)
{
    ngx_uint_t                          i;
    ngx_http_cdm_stop_identity_view_t  *other;

    if (!iv->identity->used || iv->identity->any_project || iv->good) {
        return NULL;
    }

    if (iv->failing || iv->rest) {
        return iv;
    }

    if (iv->identity->via == NULL) {
        return NULL;
    }

    other = view->identities.elts;

    for (i = 0; i < view->identities.nelts; i++) {

        /* that one needs a token of its domain, whatever projects it has */

        if (other[i].identity == iv->identity->via
            && other[i].good == 0
            && (other[i].failing || other[i].rest))
        {
            return &other[i];
        }
    }

    return NULL;
}


static const char *
ngx_http_cdm_stop_judge_code(ngx_http_cdm_stop_identity_view_t *iv)
{
    ngx_http_cdm_stop_health_t  *health;

    if (iv->rest) {
        return "iam_refused";
    }

    health = &iv->identity->stats->health;

    switch (iv->fail) {

    case NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE:
        return (iv->identity->credentials.method == NGX_HTTP_CDM_STOP_FILE
                && health->cause == NGX_HTTP_CDM_STOP_IAM_LOCAL)
               ? "token_file" : "iam_unreachable";

    case NGX_HTTP_CDM_STOP_FAIL_THROTTLED:
        return "iam_throttled";

    case NGX_HTTP_CDM_STOP_FAIL_REFUSED:
        return "iam_refused";

    case NGX_HTTP_CDM_STOP_FAIL_VIA:
        return "iam_via";

    default: /* NGX_HTTP_CDM_STOP_FAIL_ANSWER */
        return health->failures ? "iam_answer" : "token_unusable";
    }
}


void
ngx_http_cdm_stop_try(ngx_http_cdm_stop_view_t *view)
{
    ngx_uint_t                          i;
    ngx_http_cdm_stop_key_t             key;
    ngx_http_cdm_stop_found_t           found;
    ngx_http_cdm_stop_identity_view_t  *iv;

    iv = view->identities.elts;

    for (i = 0; i < view->identities.nelts; i++) {

        if (!iv[i].identity->used || iv[i].identity->any_project
            || iv[i].good || iv[i].rest)
        {
            continue;
        }

        if (iv[i].ready && iv[i].entries) {
            continue;
        }

        if (ngx_http_cdm_stop_try_key(view, &iv[i], &key) == NGX_OK) {

            /* leases and back-off bound this as they do for stops */

            (void) ngx_http_cdm_stop_find(view->cdmcf, iv[i].identity, &key,
                                          &found);
        }
    }
}


static ngx_int_t
ngx_http_cdm_stop_try_key(ngx_http_cdm_stop_view_t *view,
    ngx_http_cdm_stop_identity_view_t *iv, ngx_http_cdm_stop_key_t *key)
{
    ngx_str_t                       *project;
    ngx_uint_t                       i;
    ngx_http_cdm_stop_token_view_t  *token;

    token = view->tokens.elts;

    for (i = 0; i < view->tokens.nelts; i++) {

        if (token[i].identity == iv->identity
            && !token[i].good && !token[i].leased && token[i].retry == 0)
        {
            ngx_http_cdm_stop_identity_key(iv->identity, token[i].project,
                                           key);
            return NGX_OK;
        }
    }

    if (iv->entries) {
        return NGX_DECLINED;
    }

    project = iv->identity->projects ? iv->identity->projects->elts : NULL;

    if (project == NULL || iv->identity->projects->nelts == 0) {

        if (!iv->identity->credentials.domain_scope) {
            return NGX_DECLINED;
        }

        ngx_http_cdm_stop_identity_key(iv->identity, NULL, key);
        return NGX_OK;
    }

    ngx_http_cdm_stop_identity_key(iv->identity, project->data, key);

    return NGX_OK;
}
