
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_stats.h"


#define NGX_HTTP_CDM_STOP_ERROR(status, code, message)                        \
    { status, ngx_string("CDMSTOP." code), ngx_string(message) }


static ngx_table_elt_t *ngx_http_cdm_stop_push_header(ngx_http_request_t *r,
    char *key, ngx_str_t *value);
static ngx_int_t ngx_http_cdm_stop_set_authenticate(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static ngx_int_t ngx_http_cdm_stop_set_retry_after(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);


const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_bad_target =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_BAD_REQUEST, "0001",
        "The target is not spelled as CDM documents it. Send "
        "PUT /v1.1/{project_id}/clusters/{cluster_id}/cdm/job/{job_name}/stop "
        "with lower-case ids, the job name percent-encoded once, and no "
        "query.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_bad_token =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_BAD_REQUEST, "0002",
        "The header X-Auth-Token is repeated or is not a token. Send it once, "
        "with 1 to 32768 visible ASCII characters and no comma, or leave it "
        "out.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_bad_method =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_NOT_ALLOWED, "0003",
        "A job is stopped with the method PUT.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_reason =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_BAD_REQUEST, "0004",
        "A stop needs a reason here. Send it once, in the header and the form "
        "that the gateway's operator asks for, with 1 to 512 bytes of UTF-8.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_by_default =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_FORBIDDEN, "0201",
        "No rule of the gateway's policy allows this stop, so it is denied by "
        "default. Ask its operator who may send it.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_too_many =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_TOO_MANY_REQUESTS, "0205",
        "You send more stops in a minute than the gateway lets through for "
        "one caller. Send this one again after the time in Retry-After.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_other_request =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_FORBIDDEN, "0005",
        "Only requests that stop a job are served here. Send other requests "
        "to CDM itself.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_early_data =
    NGX_HTTP_CDM_STOP_ERROR(425, "0006",
        "A stop is not accepted in TLS early data. Send it again after the "
        "handshake.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_credentials =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_UNAUTHORIZED, "0101",
        "Nothing tells who you are. Send a token of IAM, for the project of "
        "the job, in the header X-Auth-Token, or identify yourself as the "
        "gateway's operator says.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_not_valid =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_UNAUTHORIZED, "0102",
        "IAM does not accept your X-Auth-Token: it is not whole, has ended, "
        "or was revoked. Get a new one.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_other_project =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_FORBIDDEN, "0202",
        "Your X-Auth-Token is not one of the project in the target. Get a "
        "token with the scope of that project.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_not_verified =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_SERVICE_UNAVAILABLE, "0302",
        "Your X-Auth-Token could not be verified: IAM is unreachable, slow "
        "or throttling, or its answer is not usable. The stop was not sent. "
        "Try again later.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_project =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_FORBIDDEN, "0203",
        "The gateway serves no token for this project. Ask its operator to "
        "add the project.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_by_subrequest =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_FORBIDDEN, "0204",
        "A job is not stopped by a subrequest of the gateway. Send the stop "
        "as a request of its own.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_token =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_SERVICE_UNAVAILABLE, "0301",
        "The gateway has no token for this project: IAM is unreachable, slow "
        "or throttling. The stop did not reach CDM. Try again later.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_token_refused =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_SERVICE_UNAVAILABLE, "0301",
        "The gateway has no token for this project: IAM refuses the gateway's "
        "credentials. The stop did not reach CDM. Tell the gateway's "
        "operator.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_many_projects =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_SERVICE_UNAVAILABLE, "0301",
        "The gateway has no token for this project: too many projects that "
        "are new to it were named of late, and IAM was not asked. The stop "
        "did not reach CDM. Try again later.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_record =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_SERVICE_UNAVAILABLE, "0303",
        "The audit record could not be written, so the stop was not sent. "
        "Tell the gateway's operator.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_unreachable =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_BAD_GATEWAY, "0401",
        "CDM could not be reached, the stop did not get to it. Try again "
        "later.");

const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_answer =
    NGX_HTTP_CDM_STOP_ERROR(NGX_HTTP_GATEWAY_TIME_OUT, "0402",
        "The stop was sent, but CDM did not answer as it should: the outcome "
        "is unknown. Query the job's status before you send it again.");


ngx_int_t
ngx_http_cdm_stop_refuse(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    const ngx_http_cdm_stop_error_t *error)
{
    ctx->error = error;

    if (ctx->intent) {
        ctx->verdict.verdict = ctx->attempts ? NGX_HTTP_CDM_STOP_DENIED
                                             : NGX_HTTP_CDM_STOP_NOT_SENT;
        ngx_http_cdm_stop_record_outcome(r, ctx, error->status);

    } else if (error != &ngx_http_cdm_stop_other_request) {
        ctx->verdict.verdict = NGX_HTTP_CDM_STOP_NOT_SENT;
        ngx_http_cdm_stop_record_refused(r, ctx, error->status);

    } else {
        ngx_http_cdm_stop_stats_other(r, ctx);
    }

    return error->status;
}


ngx_int_t
ngx_http_cdm_stop_refuse_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    const ngx_http_cdm_stop_error_t  *error;

    if (ctx->retry_after == 0) {
        ctx->retry_after = NGX_HTTP_CDM_STOP_BACKOFF_MIN;
    }

    switch (ctx->fail) {

    case NGX_HTTP_CDM_STOP_FAIL_REFUSED:
        error = &ngx_http_cdm_stop_token_refused;
        break;

    case NGX_HTTP_CDM_STOP_FAIL_PROJECTS:
        error = &ngx_http_cdm_stop_many_projects;
        break;

    default:
        error = &ngx_http_cdm_stop_no_token;
    }

    return ngx_http_cdm_stop_refuse(r, ctx, error);
}


ngx_int_t
ngx_http_cdm_stop_set_answer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    size_t                            len;
    u_char                           *p;
    ngx_str_t                         allow;
    const ngx_http_cdm_stop_error_t  *error;

    error = ctx->error;

    len = sizeof("{\"error_code\":\"\",\"error_msg\":\"\",\"request_id\":\"\"}")
          - 1 + error->code.len + error->message.len + sizeof(ctx->id);

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ctx->answer.data = p;
    ctx->answer.len = len;

    ngx_sprintf(p, "{\"error_code\":\"%V\",\"error_msg\":\"%V\","
                   "\"request_id\":\"%*s\"}",
                &error->code, &error->message, sizeof(ctx->id), ctx->id);

    /* nothing of an answer of CDM or of nginx remains */

    ngx_http_clean_header(r);

    r->headers_out.status = error->status;
    r->headers_out.status_line.len = 0;
    r->headers_out.content_length_n = len;

    ngx_str_set(&r->headers_out.content_type, "application/json");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;
    ngx_str_null(&r->headers_out.charset);

    if (error->status == NGX_HTTP_NOT_ALLOWED) {
        ngx_str_set(&allow, "PUT");

        if (ngx_http_cdm_stop_push_header(r, "Allow", &allow) == NULL) {
            return NGX_ERROR;
        }
    }

    if (error->status == NGX_HTTP_UNAUTHORIZED
        && ngx_http_cdm_stop_set_authenticate(r, ctx) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_cdm_stop_set_retry_after(r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_cdm_stop_set_request_id(r, ctx);
}


/* where to get a token, as Keystone's own middleware says it */

static ngx_int_t
ngx_http_cdm_stop_set_authenticate(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t  value, *uri;

    uri = &ctx->conf->identity->uri;

    value.len = sizeof("Keystone uri=\"\"") - 1 + uri->len;

    value.data = ngx_pnalloc(r->pool, value.len);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    ngx_sprintf(value.data, "Keystone uri=\"%V\"", uri);

    if (ngx_http_cdm_stop_push_header(r, "WWW-Authenticate", &value) == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_set_retry_after(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t  value;

    if (ctx->retry_after == 0) {
        return NGX_OK;
    }

    value.data = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (value.data == NULL) {
        return NGX_ERROR;
    }

    value.len = ngx_sprintf(value.data, "%L", (ctx->retry_after + 999) / 1000)
                - value.data;

    if (ngx_http_cdm_stop_push_header(r, "Retry-After", &value) == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_set_request_id(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t         id;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    id.data = ctx->id;
    id.len = sizeof(ctx->id);

    part = &r->headers_out.headers.part;
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

        if (h[i].key.len == sizeof("X-Request-Id") - 1
            && ngx_strncasecmp(h[i].key.data, (u_char *) "X-Request-Id",
                               sizeof("X-Request-Id") - 1)
               == 0)
        {
            h[i].hash = 0;
        }
    }

    if (ngx_http_cdm_stop_push_header(r, "X-Request-Id", &id) == NULL) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_table_elt_t *
ngx_http_cdm_stop_push_header(ngx_http_request_t *r, char *key,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NULL;
    }

    h->hash = 1;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif
    h->key.data = (u_char *) key;
    h->key.len = ngx_strlen(key);
    h->value = *value;

    return h;
}
