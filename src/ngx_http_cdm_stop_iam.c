
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_http_cdm_stop_iam.h"
#include "ngx_http_cdm_stop_text.h"
#include "ngx_http_cdm_stop_time.h"


/* values, escaped when they are written, each with what stands before it */

typedef struct {
    const char  *before[6];
    ngx_str_t   *value[6];
    const char  *end;           /* of the method */
    ngx_uint_t   n;
} ngx_http_cdm_stop_text_t;


static void ngx_http_cdm_stop_iam_password(ngx_http_cdm_stop_text_t *text,
    ngx_http_cdm_stop_credentials_t *credentials);
static void ngx_http_cdm_stop_iam_ak_sk(ngx_http_cdm_stop_text_t *text,
    ngx_http_cdm_stop_credentials_t *credentials);
static void ngx_http_cdm_stop_iam_agency(ngx_http_cdm_stop_text_t *text,
    ngx_http_cdm_stop_credentials_t *credentials);
static void ngx_http_cdm_stop_iam_scope(ngx_http_cdm_stop_text_t *text,
    ngx_http_cdm_stop_credentials_t *credentials);
static void ngx_http_cdm_stop_iam_add(ngx_http_cdm_stop_text_t *text,
    const char *before, ngx_str_t *value);
static const char *ngx_http_cdm_stop_iam_read_token(json_t *token,
    ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_http_cdm_stop_credentials_t *credentials,
    ngx_http_cdm_stop_grant_t *grant);
static const char *ngx_http_cdm_stop_iam_read_scope(json_t *token,
    ngx_http_cdm_stop_credentials_t *credentials);
static ngx_str_t *ngx_http_cdm_stop_iam_domain(
    ngx_http_cdm_stop_credentials_t *credentials);
static ngx_uint_t ngx_http_cdm_stop_iam_is(json_t *value, ngx_str_t *text);
static int64_t ngx_http_cdm_stop_iam_time(json_t *token, const char *key);


ngx_int_t
ngx_http_cdm_stop_iam_body(ngx_pool_t *pool,
    ngx_http_cdm_stop_credentials_t *credentials, ngx_str_t *body)
{
    size_t                      len;
    u_char                     *p;
    ngx_uint_t                  i;
    ngx_http_cdm_stop_text_t    text;

    text.n = 0;

    switch (credentials->method) {

    case NGX_HTTP_CDM_STOP_AK_SK:
        ngx_http_cdm_stop_iam_ak_sk(&text, credentials);
        break;

    case NGX_HTTP_CDM_STOP_AGENCY:
        ngx_http_cdm_stop_iam_agency(&text, credentials);
        break;

    default: /* NGX_HTTP_CDM_STOP_PASSWORD */
        ngx_http_cdm_stop_iam_password(&text, credentials);
    }

    ngx_http_cdm_stop_iam_scope(&text, credentials);

    len = 0;

    for (i = 0; i < text.n; i++) {
        len += ngx_strlen(text.before[i]) + text.value[i]->len
               + ngx_escape_json(NULL, text.value[i]->data,
                                 text.value[i]->len);
    }

    p = ngx_pnalloc(pool, len + sizeof("\"}}}}") - 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;

    for (i = 0; i < text.n; i++) {
        p = ngx_cpymem(p, text.before[i], ngx_strlen(text.before[i]));
        p = (u_char *) ngx_escape_json(p, text.value[i]->data,
                                       text.value[i]->len);
    }

    p = ngx_cpymem(p, "\"}}}}", sizeof("\"}}}}") - 1);

    body->len = p - body->data;

    return NGX_OK;
}


static void
ngx_http_cdm_stop_iam_password(ngx_http_cdm_stop_text_t *text,
    ngx_http_cdm_stop_credentials_t *credentials)
{
    ngx_http_cdm_stop_iam_add(text,
                              "{\"auth\":{\"identity\":{"
                              "\"methods\":[\"password\"],"
                              "\"password\":{\"user\":{\"name\":\"",
                              &credentials->user);
    ngx_http_cdm_stop_iam_add(text, "\",\"password\":\"",
                              &credentials->password);
    ngx_http_cdm_stop_iam_add(text, "\",\"domain\":{\"name\":\"",
                              &credentials->domain);

    text->end = "\"}}}},";
}


static void
ngx_http_cdm_stop_iam_ak_sk(ngx_http_cdm_stop_text_t *text,
    ngx_http_cdm_stop_credentials_t *credentials)
{
    ngx_http_cdm_stop_iam_add(text,
                              "{\"auth\":{\"identity\":{"
                              "\"methods\":[\"hw_ak_sk\"],"
                              "\"hw_ak_sk\":{\"access\":{\"key\":\"",
                              &credentials->access_key);
    ngx_http_cdm_stop_iam_add(text, "\"},\"secret\":{\"key\":\"",
                              &credentials->secret_key);

    text->end = "\"}}},";
}


static void
ngx_http_cdm_stop_iam_agency(ngx_http_cdm_stop_text_t *text,
    ngx_http_cdm_stop_credentials_t *credentials)
{
    ngx_http_cdm_stop_iam_add(text,
                              "{\"auth\":{\"identity\":{"
                              "\"methods\":[\"assume_role\"],"
                              "\"assume_role\":{\"domain_name\":\"",
                              &credentials->agency_domain);
    ngx_http_cdm_stop_iam_add(text, "\",\"agency_name\":\"",
                              &credentials->agency);

    text->end = "\"}},";
}


static void
ngx_http_cdm_stop_iam_scope(ngx_http_cdm_stop_text_t *text,
    ngx_http_cdm_stop_credentials_t *credentials)
{
    static ngx_str_t  nothing = ngx_string("");

    ngx_http_cdm_stop_iam_add(text, text->end, &nothing);

    if (!credentials->domain_scope) {
        ngx_http_cdm_stop_iam_add(text,
                                  "\"scope\":{\"project\":{\"id\":\"",
                                  &credentials->project);
        return;
    }

    ngx_http_cdm_stop_iam_add(text, "\"scope\":{\"domain\":{\"name\":\"",
                              ngx_http_cdm_stop_iam_domain(credentials));
}


static void
ngx_http_cdm_stop_iam_add(ngx_http_cdm_stop_text_t *text, const char *before,
    ngx_str_t *value)
{
    text->before[text->n] = before;
    text->value[text->n] = value;
    text->n++;
}


ngx_uint_t
ngx_http_cdm_stop_token_legal(ngx_str_t *token)
{
    u_char    *p, *last;
    uint64_t   word, good, bad;

    if (token->len == 0 || token->len > NGX_HTTP_CDM_STOP_TOKEN_LEN) {
        return 0;
    }

    p = token->data;
    last = p + token->len;
    good = NGX_HTTP_CDM_STOP_BYTES(0x80);
    bad = 0;

    /*
     * Callers' tokens are long, so eight bytes are looked at together.  Of
     * bytes less than 0x80, which no sum carries over from, the first sum sets
     * the high bit of those that are 0x21 at least, the second one of those
     * that are no comma, which would make a list of it that some servers take
     * apart, and the third one of 0x7f.
     */

    for ( /* void */ ; last - p >= 8; p += 8) {

        ngx_memcpy(&word, p, 8);

        good &= (word + NGX_HTTP_CDM_STOP_BYTES(0x80 - 0x21))
                & ((word ^ NGX_HTTP_CDM_STOP_BYTES(','))
                   + NGX_HTTP_CDM_STOP_BYTES(0x7f));

        bad |= word | (word + NGX_HTTP_CDM_STOP_BYTES(0x80 - 0x7f));
    }

    if ((bad | ~good) & NGX_HTTP_CDM_STOP_BYTES(0x80)) {
        return 0;
    }

    for ( /* void */ ; p < last; p++) {
        if (*p <= 0x20 || *p > 0x7e || *p == ',') {
            return 0;
        }
    }

    return 1;
}


const char *
ngx_http_cdm_stop_iam_read(ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_http_cdm_stop_credentials_t *credentials,
    ngx_http_cdm_stop_grant_t *grant)
{
    json_t      *json, *token;
    ngx_uint_t   status;
    const char  *error;

    status = (credentials->method == NGX_HTTP_CDM_STOP_FILE) ? 200 : 201;

    if (answer->status != status) {
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
            ? ngx_http_cdm_stop_iam_read_token(token, answer, credentials,
                                               grant)
            : "no token object";

    json_decref(json);

    return error;
}


static const char *
ngx_http_cdm_stop_iam_read_token(json_t *token,
    ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_http_cdm_stop_credentials_t *credentials,
    ngx_http_cdm_stop_grant_t *grant)
{
    int64_t      expires, now;
    const char  *error;

    error = ngx_http_cdm_stop_iam_read_scope(token, credentials);

    if (error) {
        return error;
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


static const char *
ngx_http_cdm_stop_iam_read_scope(json_t *token,
    ngx_http_cdm_stop_credentials_t *credentials)
{
    json_t     *project, *domain;
    ngx_str_t  *name;

    project = json_object_get(token, "project");
    domain = json_object_get(token, "domain");

    if (!credentials->domain_scope) {
        return ngx_http_cdm_stop_iam_is(json_object_get(project, "id"),
                                        &credentials->project)
               ? NULL : "a token of another project";
    }

    if (project) {
        return "a token of a project and not of a domain";
    }

    if (!json_is_object(domain)) {
        return "a token without a domain";
    }

    name = ngx_http_cdm_stop_iam_domain(credentials);

    /* of a token from a file it need not be known */

    if (name->len
        && !ngx_http_cdm_stop_iam_is(json_object_get(domain, "name"), name))
    {
        return "a token of another domain";
    }

    return NULL;
}


/* the domain that a token of a domain is asked for */

static ngx_str_t *
ngx_http_cdm_stop_iam_domain(ngx_http_cdm_stop_credentials_t *credentials)
{
    return (credentials->method == NGX_HTTP_CDM_STOP_AGENCY)
           ? &credentials->agency_domain : &credentials->domain;
}


static ngx_uint_t
ngx_http_cdm_stop_iam_is(json_t *value, ngx_str_t *text)
{
    return json_is_string(value)
           && json_string_length(value) == text->len
           && ngx_memcmp(json_string_value(value), text->data, text->len) == 0;
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


ngx_int_t
ngx_http_cdm_stop_iam_bind(void)
{
    char        text[] = "{\"a\":{\"b\":[\"\\u00e9\",-1,1.5e1,true,null]},";
    json_t     *json;
    ngx_int_t   rc;

    json_object_seed(0);

    /* what is broken, then what is whole */

    json = json_loadb(text, sizeof(text) - 1, JSON_REJECT_DUPLICATES, NULL);
    json_decref(json);

    text[sizeof(text) - 2] = '}';

    json = json_loadb(text, sizeof(text) - 1, JSON_REJECT_DUPLICATES, NULL);

    rc = json_is_object(json_object_get(json, "a")) ? NGX_OK : NGX_ERROR;

    json_decref(json);

    return rc;
}
