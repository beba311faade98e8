
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * Answers of CDM.  An input is: a character for the status, see below, 'x' if
 * the body was not read whole, and the body.  What is read as a stop is one
 * by another reading of it, a denial to no code is by its status, and what
 * the body says is told within bounds, redacted and escaped as in a record.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_http_cdm_stop_verdict.h"
#include "ngx_http_cdm_stop_text.h"


#define VERDICT_CODE     64
#define VERDICT_MESSAGE  1024
#define VERDICT_FIELD    512


static void check(ngx_uint_t status, ngx_str_t *body, ngx_pool_t *pool);
static void check_stopped(ngx_uint_t status, ngx_str_t *body);
static void check_entries(json_t *list);
static void check_code(ngx_http_cdm_stop_verdict_t *v, ngx_uint_t status,
    ngx_str_t *body);
static void check_text(ngx_str_t *text);
static json_t *load(ngx_str_t *body);
static ngx_uint_t same(ngx_str_t *a, const char *b);
static void require(ngx_uint_t holds, const char *what);


static ngx_uint_t  statuses[] = {
    200, 201, 204, 206, 302, 304, 400, 401, 403, 404, 409, 429, 494, 500, 502,
    503, 504, 599, 999, 0
};


static ngx_str_t  secret = ngx_string("MIIatAYJKoZIhvcNAQcCoIIapTCCGqECAQEx");


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    u_char      *copy;
    ngx_log_t    log;
    ngx_str_t    body;
    ngx_pool_t  *pool;
    ngx_uint_t   n, status;

    if (size < 2) {
        return 0;
    }

    ngx_memzero(&log, sizeof(ngx_log_t));
    ngx_pagesize = 4096;

    pool = ngx_create_pool(4096, &log);
    copy = malloc(size);
    require(pool != NULL && copy != NULL, "memory");

    memcpy(copy, data, size);

    n = sizeof(statuses) / sizeof(statuses[0]);
    status = statuses[copy[0] % n];

    body.data = copy + 2;
    body.len = size - 2;

    check(status, (copy[1] == 'x') ? NULL : &body, pool);

    free(copy);
    ngx_destroy_pool(pool);

    return 0;
}


static void
check(ngx_uint_t status, ngx_str_t *body, ngx_pool_t *pool)
{
    ngx_str_t                    *name;
    ngx_http_cdm_stop_verdict_t   v, again;

    memset(&v, 0xa5, sizeof(v));
    memset(&again, 0x5a, sizeof(again));

    ngx_http_cdm_stop_verdict_read(&v, status, body, pool);
    ngx_http_cdm_stop_verdict_read(&again, status, body, pool);

    require(v.verdict == again.verdict && v.code.len == again.code.len
            && v.message.len == again.message.len, "the same twice");

    require(v.verdict != NGX_HTTP_CDM_STOP_NOT_SENT, "an answer was sent for");

    name = ngx_http_cdm_stop_verdict_name(v.verdict);
    require(name->len > 5 && name->len < 16, "a name");

    if (v.verdict == NGX_HTTP_CDM_STOP_STOPPED) {
        require(body != NULL, "what was not read is no stop");
        check_stopped(status, body);
        require(v.code.len == 0, "a stop has no code");
    }

    if (body == NULL || body->len == 0) {
        require(v.code.len == 0 && v.message.len == 0, "nothing from nothing");

    } else {
        check_code(&v, status, body);
    }

    require(v.code.len <= VERDICT_CODE, "bounds of a code");
    require(v.message.len <= VERDICT_MESSAGE, "bounds of a message");

    check_text(&v.code);
    check_text(&v.message);
}


/* by another reading: nothing that is there speaks against it */

static void
check_stopped(ngx_uint_t status, ngx_str_t *body)
{
    json_t      *json, *list, *value;
    const char  *key;

    require(status >= 200 && status < 300, "a stop has a good status");

    if (body->len == 0) {
        return;
    }

    json = load(body);
    require(json_is_object(json), "a stop is an object");

    json_object_foreach(json, key, value) {

        if (strcmp(key, "errCode") == 0 || strcmp(key, "code") == 0
            || strcmp(key, "error_code") == 0 || strcmp(key, "error") == 0)
        {
            require(json_is_null(value)
                    || (json_is_string(value)
                        && json_string_length(value) == 0),
                    "a stop has nothing where a code is");
        }
    }

    list = json_object_get(json, "validation-result");

    if (list) {
        check_entries(list);

    } else {
        require(json_object_size(json) == 0
                || json_is_array(json_object_get(json, "submissions")),
                "a stop has one of the known forms");
    }

    json_decref(json);
}


static void
check_entries(json_t *list)
{
    size_t       i;
    json_t      *status;
    const char  *text;

    require(json_is_array(list), "the list is one");

    for (i = 0; i < json_array_size(list); i++) {
        status = json_object_get(json_array_get(list, i), "status");
        require(json_is_string(status), "an entry has a status");

        text = json_string_value(status);
        require(strcmp(text, "WARNING") == 0, "a warning at most");
    }
}


/* a code of CDM's that has a verdict of its own decides, and no other does */

static void
check_code(ngx_http_cdm_stop_verdict_t *v, ngx_uint_t status, ngx_str_t *body)
{
    json_t  *json;

    switch (v->verdict) {

    case NGX_HTTP_CDM_STOP_ALREADY_STOPPED:
        require(same(&v->code, "Cdm.0053"), "already stopped by its code");
        break;

    case NGX_HTTP_CDM_STOP_NOT_FOUND:
        require(same(&v->code, "Cdm.0054") || same(&v->code, "Cdm.0100"),
                "not found by its code");
        break;

    case NGX_HTTP_CDM_STOP_DENIED:
        require(same(&v->code, "Cdm.0032") || status == 401 || status == 403,
                "denied by its code or status");
        break;

    case NGX_HTTP_CDM_STOP_THROTTLED:
        require(status == 429, "throttled by its status");
        break;

    default:
        require(!same(&v->code, "Cdm.0053") && !same(&v->code, "Cdm.0054")
                && !same(&v->code, "Cdm.0100") && !same(&v->code, "Cdm.0032"),
                "a known code decides");
    }

    if (v->code.len == 0 && v->message.len == 0) {
        return;
    }

    json = load(body);
    require(json_is_object(json), "what is told was read in an object");
    json_decref(json);
}


/* as it is put into a record */

static void
check_text(ngx_str_t *text)
{
    char        quoted[6 * VERDICT_MESSAGE + 16];
    u_char      buf[6 * VERDICT_MESSAGE + 3], *p, *last;
    json_t     *json;
    ngx_str_t   s;

    if (text->len == 0) {
        return;
    }

    s = *text;
    ngx_http_cdm_stop_redact(&s, &secret);
    require(s.len <= text->len, "redaction does not lengthen");
    require(memmem(s.data, s.len, secret.data, 8) == NULL, "no secret is left");

    last = ngx_http_cdm_stop_json_text(buf, buf + sizeof(buf), &s,
                                       VERDICT_FIELD);
    require(last != NULL, "a bounded text fits");

    for (p = buf; p < last; p++) {
        require(*p >= ' ' && *p != 0x7f, "no control character in a record");
    }

    snprintf(quoted, sizeof(quoted), "\"%.*s\"", (int) (last - buf), buf);

    json = json_loads(quoted, JSON_DECODE_ANY|JSON_ALLOW_NUL, NULL);
    require(json != NULL, "an escaped text is a string of JSON");
    json_decref(json);
}


static json_t *
load(ngx_str_t *body)
{
    return json_loadb((char *) body->data, body->len, JSON_REJECT_DUPLICATES,
                      NULL);
}


static ngx_uint_t
same(ngx_str_t *a, const char *b)
{
    return a->len == strlen(b) && memcmp(a->data, b, a->len) == 0;
}


static void
require(ngx_uint_t holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}
