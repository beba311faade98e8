
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_http_cdm_stop_iam.h"
#include "ngx_http_cdm_stop_time.h"


static size_t ngx_http_cdm_stop_json_len(ngx_str_t *s);
static u_char *ngx_http_cdm_stop_json_cpy(u_char *p, ngx_str_t *s);
static const char *ngx_http_cdm_stop_iam_read_token(json_t *token,
    ngx_http_cdm_stop_iam_answer_t *answer, ngx_str_t *project,
    ngx_http_cdm_stop_grant_t *grant);
static int64_t ngx_http_cdm_stop_iam_time(json_t *token, const char *key);


static char  ngx_http_cdm_stop_auth_password[] =
    "{\"auth\":{\"identity\":{\"methods\":[\"password\"],"
    "\"password\":{\"user\":{\"name\":\"";
static char  ngx_http_cdm_stop_auth_secret[] = "\",\"password\":\"";
static char  ngx_http_cdm_stop_auth_domain[] = "\",\"domain\":{\"name\":\"";
static char  ngx_http_cdm_stop_auth_scope[] =
    "\"}}}},\"scope\":{\"project\":{\"id\":\"";
static char  ngx_http_cdm_stop_auth_end[] = "\"}}}}";


ngx_int_t
ngx_http_cdm_stop_iam_body(ngx_pool_t *pool,
    ngx_http_cdm_stop_credentials_t *credentials, ngx_str_t *body)
{
    size_t   len;
    u_char  *p;

    len = sizeof(ngx_http_cdm_stop_auth_password) - 1
          + ngx_http_cdm_stop_json_len(&credentials->user)
          + sizeof(ngx_http_cdm_stop_auth_secret) - 1
          + ngx_http_cdm_stop_json_len(&credentials->password)
          + sizeof(ngx_http_cdm_stop_auth_domain) - 1
          + ngx_http_cdm_stop_json_len(&credentials->domain)
          + sizeof(ngx_http_cdm_stop_auth_scope) - 1
          + ngx_http_cdm_stop_json_len(&credentials->project)
          + sizeof(ngx_http_cdm_stop_auth_end) - 1;

    p = ngx_pnalloc(pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;

    p = ngx_cpymem(p, ngx_http_cdm_stop_auth_password,
                   sizeof(ngx_http_cdm_stop_auth_password) - 1);
    p = ngx_http_cdm_stop_json_cpy(p, &credentials->user);

    p = ngx_cpymem(p, ngx_http_cdm_stop_auth_secret,
                   sizeof(ngx_http_cdm_stop_auth_secret) - 1);
    p = ngx_http_cdm_stop_json_cpy(p, &credentials->password);

    p = ngx_cpymem(p, ngx_http_cdm_stop_auth_domain,
                   sizeof(ngx_http_cdm_stop_auth_domain) - 1);
    p = ngx_http_cdm_stop_json_cpy(p, &credentials->domain);

    p = ngx_cpymem(p, ngx_http_cdm_stop_auth_scope,
                   sizeof(ngx_http_cdm_stop_auth_scope) - 1);
    p = ngx_http_cdm_stop_json_cpy(p, &credentials->project);

    p = ngx_cpymem(p, ngx_http_cdm_stop_auth_end,
                   sizeof(ngx_http_cdm_stop_auth_end) - 1);

    body->len = p - body->data;

    return NGX_OK;
}


static size_t
ngx_http_cdm_stop_json_len(ngx_str_t *s)
{
    return s->len + ngx_escape_json(NULL, s->data, s->len);
}


static u_char *
ngx_http_cdm_stop_json_cpy(u_char *p, ngx_str_t *s)
{
    return (u_char *) ngx_escape_json(p, s->data, s->len);
}


ngx_uint_t
ngx_http_cdm_stop_token_legal(ngx_str_t *token)
{
    size_t  i;

    if (token->len == 0 || token->len > NGX_HTTP_CDM_STOP_TOKEN_LEN) {
        return 0;
    }

    for (i = 0; i < token->len; i++) {

        /* a comma would make a list of it, which some servers take apart */

        if (token->data[i] <= 0x20 || token->data[i] > 0x7e
            || token->data[i] == ',')
        {
            return 0;
        }
    }

    return 1;
}


const char *
ngx_http_cdm_stop_iam_read(ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_str_t *project, ngx_http_cdm_stop_grant_t *grant)
{
    json_t      *json, *token;
    const char  *error;

    if (answer->status != 201) {
        return "unexpected status";
    }

    if (answer->tokens != 1) {
        return answer->tokens ? "more than one X-Subject-Token"
                              : "no X-Subject-Token";
    }

    if (!ngx_http_cdm_stop_token_legal(&answer->token)) {
        return "an X-Subject-Token that is no legal token";
    }

    json = json_loadb((char *) answer->body.data, answer->body.len,
                      JSON_REJECT_DUPLICATES, NULL);
    if (json == NULL) {
        return "a body that is no JSON";
    }

    token = json_object_get(json, "token");

    error = json_is_object(token)
            ? ngx_http_cdm_stop_iam_read_token(token, answer, project, grant)
            : "no token object";

    json_decref(json);

    return error;
}


static const char *
ngx_http_cdm_stop_iam_read_token(json_t *token,
    ngx_http_cdm_stop_iam_answer_t *answer, ngx_str_t *project,
    ngx_http_cdm_stop_grant_t *grant)
{
    json_t   *id;
    int64_t   expires, now;

    id = json_object_get(json_object_get(token, "project"), "id");

    if (!json_is_string(id)
        || json_string_length(id) != project->len
        || ngx_memcmp(json_string_value(id), project->data, project->len) != 0)
    {
        return "a token of another project";
    }

    expires = ngx_http_cdm_stop_iam_time(token, "expires_at");

    if (expires == NGX_HTTP_CDM_STOP_TIME_ERROR) {
        return "no readable expires_at";
    }

    /*
     * The life is the difference of two times of IAM's own clock, which is
     * then counted from receipt: that clock need not agree with ours.  Date
     * is the later time where IAM hands out a token that it issued before.
     */

    now = ngx_http_cdm_stop_iam_time(token, "issued_at");

    if (answer->date != (time_t) NGX_ERROR) {
        now = ngx_max(now, (int64_t) answer->date * 1000);
    }

    if (now == NGX_HTTP_CDM_STOP_TIME_ERROR) {
        return "neither issued_at nor Date";
    }

    grant->life = ngx_min(expires - now, NGX_HTTP_CDM_STOP_LIFE_MAX);

    if (grant->life <= 0) {
        return "a token that has ended";
    }

    return NULL;
}


static int64_t
ngx_http_cdm_stop_iam_time(json_t *token, const char *key)
{
    json_t  *value;

    value = json_object_get(token, key);

    if (!json_is_string(value)) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    return ngx_http_cdm_stop_parse_time((u_char *) json_string_value(value),
                                        json_string_length(value));
}


size_t
ngx_http_cdm_stop_iam_message(ngx_str_t *body, u_char *dst, size_t size)
{
    size_t   len;
    json_t  *json, *message;

    json = json_loadb((char *) body->data, body->len, JSON_REJECT_DUPLICATES,
                      NULL);

    message = json_object_get(json_object_get(json, "error"), "message");

    if (!json_is_string(message)) {
        message = json_object_get(json, "error_msg");
    }

    len = 0;

    if (json_is_string(message)) {
        len = ngx_min(json_string_length(message), size);
        ngx_memcpy(dst, json_string_value(message), len);
    }

    json_decref(json);

    return len;
}
