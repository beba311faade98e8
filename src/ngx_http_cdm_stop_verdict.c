
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_http_cdm_stop_verdict.h"


/* longest piece of a message that is looked at; records cut it shorter */
#define NGX_HTTP_CDM_STOP_MESSAGE_LEN  1024
#define NGX_HTTP_CDM_STOP_CODE_LEN     64


typedef struct {
    char                         *digits;
    ngx_http_cdm_stop_verdict_e   verdict;
} ngx_http_cdm_stop_cdm_code_t;


static ngx_uint_t ngx_http_cdm_stop_is_empty_object(ngx_str_t *body);
static u_char *ngx_http_cdm_stop_json_blank(u_char *p, u_char *last);
static ngx_http_cdm_stop_verdict_e ngx_http_cdm_stop_read_object(
    ngx_http_cdm_stop_verdict_t *v, ngx_uint_t status, json_t *json,
    ngx_pool_t *pool);
static ngx_http_cdm_stop_verdict_e ngx_http_cdm_stop_read_validation(
    ngx_http_cdm_stop_verdict_t *v, json_t *list, ngx_pool_t *pool);
static ngx_uint_t ngx_http_cdm_stop_read_code(ngx_http_cdm_stop_verdict_t *v,
    json_t *json, ngx_pool_t *pool);
static ngx_uint_t ngx_http_cdm_stop_odd_code(json_t *json);
static ngx_uint_t ngx_http_cdm_stop_is_cdm_code(ngx_str_t *code);
static void ngx_http_cdm_stop_read_message(ngx_http_cdm_stop_verdict_t *v,
    json_t *json, ngx_pool_t *pool);
static ngx_http_cdm_stop_verdict_e ngx_http_cdm_stop_by_code(ngx_str_t *code);
static ngx_http_cdm_stop_verdict_e ngx_http_cdm_stop_by_status(
    ngx_uint_t status, ngx_uint_t readable);
static void ngx_http_cdm_stop_json_string(ngx_str_t *dst, json_t *json,
    size_t max, ngx_pool_t *pool);


static ngx_str_t  ngx_http_cdm_stop_verdict_names[] = {
    ngx_string("unknown"),
    ngx_string("stopped"),
    ngx_string("failed"),
    ngx_string("already_stopped"),
    ngx_string("not_found"),
    ngx_string("denied"),
    ngx_string("throttled"),
    ngx_string("not_sent")
};


/* what a code says counts more than the status that came with it */

static ngx_http_cdm_stop_cdm_code_t  ngx_http_cdm_stop_cdm_codes[] = {
    { "0032", NGX_HTTP_CDM_STOP_DENIED },
    { "0053", NGX_HTTP_CDM_STOP_ALREADY_STOPPED },
    { "0054", NGX_HTTP_CDM_STOP_NOT_FOUND },
    { "0100", NGX_HTTP_CDM_STOP_NOT_FOUND },
    { NULL, NGX_HTTP_CDM_STOP_UNKNOWN }
};


ngx_str_t *
ngx_http_cdm_stop_verdict_name(ngx_http_cdm_stop_verdict_e verdict)
{
    return &ngx_http_cdm_stop_verdict_names[verdict];
}


void
ngx_http_cdm_stop_verdict_read(ngx_http_cdm_stop_verdict_t *v,
    ngx_uint_t status, ngx_str_t *body, ngx_pool_t *pool)
{
    json_t  *json;

    ngx_str_null(&v->code);
    ngx_str_null(&v->message);

    if (body == NULL) {
        v->verdict = ngx_http_cdm_stop_by_status(status, 0);
        return;
    }

    if (body->len == 0) {

        /* the older reference: status code 200 and no response parameters */

        v->verdict = ngx_http_cdm_stop_by_status(status, status < 300);
        return;
    }

    /* nearly every stop is answered so, and it needs no parser */

    if (ngx_http_cdm_stop_is_empty_object(body)) {
        v->verdict = ngx_http_cdm_stop_by_status(status, status < 300);
        return;
    }

    json = json_loadb((char *) body->data, body->len, JSON_REJECT_DUPLICATES,
                      NULL);

    if (!json_is_object(json)) {
        v->verdict = ngx_http_cdm_stop_by_status(status, 0);

    } else {
        v->verdict = ngx_http_cdm_stop_read_object(v, status, json, pool);
    }

    json_decref(json);
}


static ngx_uint_t
ngx_http_cdm_stop_is_empty_object(ngx_str_t *body)
{
    u_char  *p, *last;

    last = body->data + body->len;
    p = ngx_http_cdm_stop_json_blank(body->data, last);

    if (p == last || *p != '{') {
        return 0;
    }

    p = ngx_http_cdm_stop_json_blank(p + 1, last);

    if (p == last || *p != '}') {
        return 0;
    }

    return ngx_http_cdm_stop_json_blank(p + 1, last) == last;
}


static u_char *
ngx_http_cdm_stop_json_blank(u_char *p, u_char *last)
{
    while (p < last && (*p == ' ' || *p == '\t' || *p == CR || *p == LF)) {
        p++;
    }

    return p;
}


static ngx_http_cdm_stop_verdict_e
ngx_http_cdm_stop_read_object(ngx_http_cdm_stop_verdict_t *v,
    ngx_uint_t status, json_t *json, ngx_pool_t *pool)
{
    json_t                       *list;
    ngx_http_cdm_stop_verdict_e   verdict;

    if (ngx_http_cdm_stop_read_code(v, json, pool)) {

        ngx_http_cdm_stop_read_message(v, json, pool);

        verdict = ngx_http_cdm_stop_by_code(&v->code);

        if (verdict != NGX_HTTP_CDM_STOP_UNKNOWN) {
            return verdict;
        }

        if (status < 300) {
            return NGX_HTTP_CDM_STOP_FAILED;
        }

        return ngx_http_cdm_stop_by_status(status, 1);
    }

    if (status < 200 || status >= 300) {
        ngx_http_cdm_stop_read_message(v, json, pool);
        return ngx_http_cdm_stop_by_status(status, 0);
    }

    list = json_object_get(json, "validation-result");

    if (ngx_http_cdm_stop_odd_code(json)) {
        return NGX_HTTP_CDM_STOP_UNKNOWN;
    }

    if (list) {
        return ngx_http_cdm_stop_read_validation(v, list, pool);
    }

    /* {} or the list of submissions of the reference before 2022 */

    if (json_object_size(json) == 0
        || json_is_array(json_object_get(json, "submissions")))
    {
        return ngx_http_cdm_stop_by_status(status, 1);
    }

    return NGX_HTTP_CDM_STOP_UNKNOWN;
}


static ngx_http_cdm_stop_verdict_e
ngx_http_cdm_stop_read_validation(ngx_http_cdm_stop_verdict_t *v, json_t *list,
    ngx_pool_t *pool)
{
    size_t                        i;
    json_t                       *entry;
    const char                   *status;
    ngx_http_cdm_stop_verdict_e   verdict;

    if (!json_is_array(list)) {
        return NGX_HTTP_CDM_STOP_UNKNOWN;
    }

    verdict = NGX_HTTP_CDM_STOP_STOPPED;

    json_array_foreach(list, i, entry) {

        status = json_string_value(json_object_get(entry, "status"));

        if (status && ngx_strcmp(status, "ERROR") == 0) {

            /* the message of the first error is the one to keep */

            ngx_http_cdm_stop_json_string(&v->message,
                                          json_object_get(entry, "message"),
                                          NGX_HTTP_CDM_STOP_MESSAGE_LEN, pool);

            return NGX_HTTP_CDM_STOP_FAILED;
        }

        if (status == NULL || ngx_strcmp(status, "WARNING") != 0) {
            verdict = NGX_HTTP_CDM_STOP_UNKNOWN;
        }

        if (v->message.len == 0) {
            ngx_http_cdm_stop_json_string(&v->message,
                                          json_object_get(entry, "message"),
                                          NGX_HTTP_CDM_STOP_MESSAGE_LEN, pool);
        }
    }

    return verdict;
}


/*
 * CDM writes errCode, sometimes beside another code; APIG and other services
 * write error_code, and some wrap {"error":{"code":…}} with a number.
 */

static ngx_uint_t
ngx_http_cdm_stop_read_code(ngx_http_cdm_stop_verdict_t *v, json_t *json,
    ngx_pool_t *pool)
{
    ngx_str_t          code;
    ngx_uint_t         i;
    static const char *keys[] = { "errCode", "code", "error_code", NULL };

    for (i = 0; keys[i]; i++) {

        ngx_str_null(&code);

        ngx_http_cdm_stop_json_string(&code, json_object_get(json, keys[i]),
                                      NGX_HTTP_CDM_STOP_CODE_LEN, pool);

        if (code.len == 0) {
            continue;
        }

        if (v->code.len == 0) {
            v->code = code;
        }

        if (ngx_http_cdm_stop_is_cdm_code(&code)) {
            v->code = code;
            return 1;
        }
    }

    if (v->code.len) {
        return 1;
    }

    return json_is_object(json_object_get(json, "error"));
}


/* something where a code belongs that is none: no success, at any rate */

static ngx_uint_t
ngx_http_cdm_stop_odd_code(json_t *json)
{
    json_t             *value;
    ngx_uint_t          i;
    static const char  *keys[] = { "errCode", "code", "error_code", "error",
                                   NULL };

    for (i = 0; keys[i]; i++) {

        value = json_object_get(json, keys[i]);

        if (value && !json_is_null(value)
            && !(json_is_string(value) && json_string_length(value) == 0))
        {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_cdm_stop_is_cdm_code(ngx_str_t *code)
{
    size_t  i;

    if (code->len < sizeof("Cdm.0000") - 1
        || code->len > sizeof("Cdm.00000") - 1
        || ngx_strncmp(code->data, "Cdm.", sizeof("Cdm.") - 1) != 0)
    {
        return 0;
    }

    for (i = sizeof("Cdm.") - 1; i < code->len; i++) {
        if (code->data[i] < '0' || code->data[i] > '9') {
            return 0;
        }
    }

    return 1;
}


static void
ngx_http_cdm_stop_read_message(ngx_http_cdm_stop_verdict_t *v, json_t *json,
    ngx_pool_t *pool)
{
    json_t             *error;
    ngx_uint_t          i;
    static const char  *keys[] = { "externalMessage", "message", "error_msg",
                                   NULL };

    for (i = 0; keys[i] && v->message.len == 0; i++) {
        ngx_http_cdm_stop_json_string(&v->message,
                                      json_object_get(json, keys[i]),
                                      NGX_HTTP_CDM_STOP_MESSAGE_LEN, pool);
    }

    error = json_object_get(json, "error");

    if (v->message.len == 0) {
        ngx_http_cdm_stop_json_string(&v->message,
                                      json_object_get(error, "message"),
                                      NGX_HTTP_CDM_STOP_MESSAGE_LEN, pool);
    }
}


static ngx_http_cdm_stop_verdict_e
ngx_http_cdm_stop_by_code(ngx_str_t *code)
{
    ngx_http_cdm_stop_cdm_code_t  *c;

    if (!ngx_http_cdm_stop_is_cdm_code(code)
        || code->len != sizeof("Cdm.0000") - 1)
    {
        return NGX_HTTP_CDM_STOP_UNKNOWN;
    }

    for (c = ngx_http_cdm_stop_cdm_codes; c->digits; c++) {
        if (ngx_strncmp(code->data + 4, c->digits, 4) == 0) {
            return c->verdict;
        }
    }

    return NGX_HTTP_CDM_STOP_UNKNOWN;
}


static ngx_http_cdm_stop_verdict_e
ngx_http_cdm_stop_by_status(ngx_uint_t status, ngx_uint_t readable)
{
    if (status >= 200 && status < 300) {
        return readable ? NGX_HTTP_CDM_STOP_STOPPED : NGX_HTTP_CDM_STOP_UNKNOWN;
    }

    switch (status) {

    case 401:
    case 403:
        return NGX_HTTP_CDM_STOP_DENIED;

    case 429:
        return NGX_HTTP_CDM_STOP_THROTTLED;

    case 502:
    case 504:
        /* a gateway in front of CDM, which may have got the stop */
        return NGX_HTTP_CDM_STOP_UNKNOWN;
    }

    if (status >= 400 && status < 500) {
        return NGX_HTTP_CDM_STOP_FAILED;
    }

    if (status >= 500 && readable) {
        return NGX_HTTP_CDM_STOP_FAILED;
    }

    return NGX_HTTP_CDM_STOP_UNKNOWN;
}


static void
ngx_http_cdm_stop_json_string(ngx_str_t *dst, json_t *json, size_t max,
    ngx_pool_t *pool)
{
    size_t   len;
    u_char  *p;

    if (!json_is_string(json)) {
        return;
    }

    len = ngx_min(json_string_length(json), max);

    if (len == 0) {
        return;
    }

    p = ngx_pnalloc(pool, len);
    if (p == NULL) {
        return;
    }

    ngx_memcpy(p, json_string_value(json), len);

    dst->len = len;
    dst->data = p;
}
