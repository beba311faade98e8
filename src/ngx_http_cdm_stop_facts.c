
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_http_cdm_stop_facts.h"
#include "ngx_http_cdm_stop_time.h"


/* a Date has whole seconds: the true time may be later by so much */
#define NGX_HTTP_CDM_STOP_DATE_ERROR  999

/* IAM's code for a bad X-Subject-Token; other 400s are about other things */
#define NGX_HTTP_CDM_STOP_BAD_SUBJECT  "IAM.0009"


static ngx_uint_t ngx_http_cdm_stop_facts_refused(
    ngx_http_cdm_stop_iam_answer_t *answer);
static const char *ngx_http_cdm_stop_facts_token(json_t *token,
    ngx_http_cdm_stop_iam_answer_t *answer, ngx_http_cdm_stop_facts_t *facts);
static const char *ngx_http_cdm_stop_facts_user(json_t *user,
    ngx_http_cdm_stop_facts_t *facts);
static const char *ngx_http_cdm_stop_facts_project(json_t *token,
    ngx_http_cdm_stop_facts_t *facts);
static const char *ngx_http_cdm_stop_facts_roles(json_t *token,
    ngx_http_cdm_stop_facts_t *facts);
static const char *ngx_http_cdm_stop_facts_life(json_t *token,
    ngx_http_cdm_stop_iam_answer_t *answer, ngx_http_cdm_stop_facts_t *facts);
static ngx_int_t ngx_http_cdm_stop_facts_text(json_t *value, size_t max,
    ngx_http_cdm_stop_facts_t *facts);
static ngx_int_t ngx_http_cdm_stop_facts_add(const char *p, size_t len,
    ngx_http_cdm_stop_facts_t *facts);


ngx_int_t
ngx_http_cdm_stop_facts_read(ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_str_t *token, ngx_http_cdm_stop_facts_t *facts, const char **error)
{
    json_t  *json, *object;

    *error = NULL;

    if (ngx_http_cdm_stop_facts_refused(answer)) {
        return NGX_DECLINED;
    }

    if (answer->status != 200) {
        *error = "unexpected status";
        return NGX_ERROR;
    }

    /* Keystone repeats what it was asked about */

    if (answer->tokens > 1
        || (answer->tokens == 1
            && (answer->token.len != token->len
                || ngx_memcmp(answer->token.data, token->data, token->len)
                   != 0)))
    {
        *error = "an answer about another token";
        return NGX_ERROR;
    }

    json = json_loadb((char *) answer->body.data, answer->body.len,
                      JSON_REJECT_DUPLICATES, NULL);
    if (json == NULL) {
        *error = "a body that is no JSON";
        return NGX_ERROR;
    }

    object = json_object_get(json, "token");

    *error = json_is_object(object)
             ? ngx_http_cdm_stop_facts_token(object, answer, facts)
             : "no token object";

    json_decref(json);

    if (*error) {
        return NGX_ERROR;
    }

    return (facts->life > 0) ? NGX_OK : NGX_DECLINED;
}


static ngx_uint_t
ngx_http_cdm_stop_facts_refused(ngx_http_cdm_stop_iam_answer_t *answer)
{
    json_t      *json, *code;
    ngx_uint_t   refused;

    if (answer->status == 401 || answer->status == 404) {
        return 1;
    }

    if (answer->status != 400) {
        return 0;
    }

    json = json_loadb((char *) answer->body.data, answer->body.len,
                      JSON_REJECT_DUPLICATES, NULL);

    code = json_object_get(json, "error_code");

    refused = json_is_string(code)
              && ngx_strcmp(json_string_value(code),
                            NGX_HTTP_CDM_STOP_BAD_SUBJECT)
                 == 0;

    json_decref(json);

    return refused;
}


static const char *
ngx_http_cdm_stop_facts_token(json_t *token,
    ngx_http_cdm_stop_iam_answer_t *answer, ngx_http_cdm_stop_facts_t *facts)
{
    const char  *error;

    facts->len = 0;

    error = ngx_http_cdm_stop_facts_user(json_object_get(token, "user"),
                                         facts);
    if (error) {
        return error;
    }

    error = ngx_http_cdm_stop_facts_project(token, facts);

    if (error) {
        return error;
    }

    error = ngx_http_cdm_stop_facts_roles(token, facts);

    if (error) {
        return error;
    }

    return ngx_http_cdm_stop_facts_life(token, answer, facts);
}


static const char *
ngx_http_cdm_stop_facts_user(json_t *user, ngx_http_cdm_stop_facts_t *facts)
{
    json_t  *domain;

    domain = json_object_get(user, "domain");

    if (ngx_http_cdm_stop_facts_text(json_object_get(user, "id"),
                                     NGX_HTTP_CDM_STOP_ID_LEN, facts)
        != NGX_OK
        || ngx_http_cdm_stop_facts_text(json_object_get(user, "name"),
                                        NGX_HTTP_CDM_STOP_NAME_LEN, facts)
           != NGX_OK)
    {
        return "no usable user";
    }

    if (ngx_http_cdm_stop_facts_text(json_object_get(domain, "id"),
                                     NGX_HTTP_CDM_STOP_ID_LEN, facts)
        != NGX_OK
        || ngx_http_cdm_stop_facts_text(json_object_get(domain, "name"),
                                        NGX_HTTP_CDM_STOP_NAME_LEN, facts)
           != NGX_OK)
    {
        return "no usable domain of the user";
    }

    return NULL;
}


/* a token of a domain, or of nothing, has no project */

static const char *
ngx_http_cdm_stop_facts_project(json_t *token,
    ngx_http_cdm_stop_facts_t *facts)
{
    json_t     *project;
    ngx_int_t   rc;

    project = json_object_get(token, "project");

    if (project == NULL || json_is_null(project)) {
        rc = ngx_http_cdm_stop_facts_add("", 0, facts);

    } else {
        rc = ngx_http_cdm_stop_facts_text(json_object_get(project, "id"),
                                          NGX_HTTP_CDM_STOP_ID_LEN, facts);
    }

    return (rc == NGX_OK) ? NULL : "no usable project";
}


static const char *
ngx_http_cdm_stop_facts_roles(json_t *token, ngx_http_cdm_stop_facts_t *facts)
{
    size_t   i;
    json_t  *roles, *role;

    roles = json_object_get(token, "roles");

    if (roles == NULL || json_is_null(roles)) {
        return NULL;
    }

    if (!json_is_array(roles)) {
        return "no usable roles";
    }

    for (i = 0; i < json_array_size(roles); i++) {

        role = json_object_get(json_array_get(roles, i), "name");

        if (ngx_http_cdm_stop_facts_text(role, NGX_HTTP_CDM_STOP_NAME_LEN,
                                         facts)
            != NGX_OK)
        {
            return "no usable roles";
        }
    }

    return NULL;
}


/*
 * How long the token lives is the difference of two times of IAM's clock.
 * issued_at is of no use for that: it may be long ago.
 */

static const char *
ngx_http_cdm_stop_facts_life(json_t *token,
    ngx_http_cdm_stop_iam_answer_t *answer, ngx_http_cdm_stop_facts_t *facts)
{
    json_t   *value;
    int64_t   expires;

    value = json_object_get(token, "expires_at");

    if (!json_is_string(value)) {
        return "no readable expires_at";
    }

    expires = ngx_http_cdm_stop_parse_time((u_char *) json_string_value(value),
                                           json_string_length(value));

    if (expires == NGX_HTTP_CDM_STOP_TIME_ERROR) {
        return "no readable expires_at";
    }

    if (answer->date == (time_t) NGX_ERROR) {
        return "no readable Date";
    }

    facts->life = expires - (int64_t) answer->date * 1000
                  - NGX_HTTP_CDM_STOP_DATE_ERROR;
    facts->life = ngx_min(facts->life, NGX_HTTP_CDM_STOP_LIFE_MAX);

    return NULL;
}


/*
 * A name with a control character is none: a line feed at its end would be
 * passed over by the "$" of a pattern.
 */

static ngx_int_t
ngx_http_cdm_stop_facts_text(json_t *value, size_t max,
    ngx_http_cdm_stop_facts_t *facts)
{
    size_t       i, len;
    const char  *p;

    if (!json_is_string(value)) {
        return NGX_ERROR;
    }

    p = json_string_value(value);
    len = json_string_length(value);

    if (len == 0 || len > max) {
        return NGX_ERROR;
    }

    for (i = 0; i < len; i++) {
        if ((u_char) p[i] < 0x20 || p[i] == 0x7f) {
            return NGX_ERROR;
        }
    }

    return ngx_http_cdm_stop_facts_add(p, len, facts);
}


static ngx_int_t
ngx_http_cdm_stop_facts_add(const char *p, size_t len,
    ngx_http_cdm_stop_facts_t *facts)
{
    u_char  *dst;

    if (len + 2 > NGX_HTTP_CDM_STOP_FACTS_LEN - facts->len) {
        return NGX_ERROR;
    }

    dst = facts->data + facts->len;

    *dst++ = (u_char) (len >> 8);
    *dst++ = (u_char) len;

    ngx_memcpy(dst, p, len);

    facts->len += len + 2;

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_facts_next(u_char **p, u_char *last, ngx_str_t *value)
{
    size_t  len;

    if (last - *p < 2) {
        return NGX_DONE;
    }

    len = ((size_t) (*p)[0] << 8) + (*p)[1];

    *p += 2;

    if ((size_t) (last - *p) < len) {
        return NGX_DONE;
    }

    value->data = *p;
    value->len = len;

    *p += len;

    return NGX_OK;
}
