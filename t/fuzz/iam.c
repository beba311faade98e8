
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * Answers of IAM.  An input is: '1' for the status 201, '2' for 200 and a
 * token from a file, the number of X-Subject-Token lines as a digit, 'd' if
 * there is a Date ('D' or '=' with and without it for a token of a domain), the
 * token up to a line feed, and the body.  What is accepted holds by another
 * reading of it.  Its error text is redacted and escaped as for the log, and
 * its parts are sent as credentials of each method, which must come out of the
 * request as they went in.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_http_cdm_stop_iam.h"
#include "ngx_http_cdm_stop_text.h"
#include "ngx_http_cdm_stop_time.h"


#define IAM_DATE     1795000000     /* November 2026 */
#define IAM_MESSAGE  256


static void answer(const u_char *data, size_t size);
static void check_accepted(ngx_http_cdm_stop_iam_answer_t *a,
    ngx_http_cdm_stop_credentials_t *c, ngx_http_cdm_stop_grant_t *grant);
static int64_t time_of(json_t *token, const char *key);
static void message(ngx_str_t *body);
static void request(ngx_pool_t *pool, ngx_str_t *a, ngx_str_t *b);
static void check_identity(json_t *identity, ngx_uint_t method, ngx_str_t *a,
    ngx_str_t *b);
static json_t *inside(json_t *json, const char *one, const char *two);
static ngx_uint_t is_utf8(ngx_str_t *s);
static void require_text(json_t *value, ngx_str_t *s, const char *what);
static void require(ngx_uint_t holds, const char *what);


static ngx_str_t  project = ngx_string("1551c7f6c808414d8e9f3c514a170f2e");
static ngx_str_t  domain = ngx_string("acme");
static ngx_str_t  secret = ngx_string("pa\"ss, w\\rd");


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    if (size >= 3) {
        answer(data, size);
    }

    return 0;
}


static void
answer(const u_char *data, size_t size)
{
    u_char                           *copy, *lf;
    ngx_log_t                         log;
    const char                       *error;
    ngx_pool_t                       *pool;
    ngx_http_cdm_stop_grant_t         grant;
    ngx_http_cdm_stop_iam_answer_t    a;
    ngx_http_cdm_stop_credentials_t   c;

    ngx_memzero(&log, sizeof(ngx_log_t));
    ngx_pagesize = 4096;

    pool = ngx_create_pool(4096, &log);
    copy = malloc(size);
    require(pool != NULL && copy != NULL, "memory");

    memcpy(copy, data, size);

    ngx_memzero(&a, sizeof(ngx_http_cdm_stop_iam_answer_t));

    ngx_memzero(&c, sizeof(ngx_http_cdm_stop_credentials_t));

    a.status = (copy[0] == '1') ? 201 : (copy[0] == '2') ? 200 : 100 + copy[0];
    a.tokens = copy[1] - '0';
    a.date = (copy[2] == 'd' || copy[2] == 'D') ? IAM_DATE
                                                : (time_t) NGX_ERROR;

    c.method = (copy[0] == '2') ? NGX_HTTP_CDM_STOP_FILE
                                : NGX_HTTP_CDM_STOP_PASSWORD;
    c.domain_scope = (copy[2] == 'D' || copy[2] == '=');
    c.project = project;
    c.domain = domain;

    a.token.data = copy + 3;
    lf = memchr(copy + 3, '\n', size - 3);

    if (lf) {
        a.token.len = lf - a.token.data;
        a.body.data = lf + 1;
        a.body.len = copy + size - a.body.data;

    } else {
        a.token.len = size - 3;
        a.body.data = copy + size;
    }

    error = ngx_http_cdm_stop_iam_read(&a, &c, &grant);

    if (error == NULL) {
        check_accepted(&a, &c, &grant);

    } else {
        require(strlen(error) > 5, "an error is told");
    }

    message(&a.body);
    request(pool, &a.token, &a.body);

    free(copy);
    ngx_destroy_pool(pool);
}


static void
check_accepted(ngx_http_cdm_stop_iam_answer_t *a,
    ngx_http_cdm_stop_credentials_t *c, ngx_http_cdm_stop_grant_t *grant)
{
    size_t    i;
    json_t   *json, *token;
    int64_t   expires, issued;

    require(a->status == (c->method == NGX_HTTP_CDM_STOP_FILE ? 200 : 201)
            && a->tokens == 1, "its status and one token");
    require(a->token.len >= 1 && a->token.len <= 32768, "length of a token");

    for (i = 0; i < a->token.len; i++) {
        require(a->token.data[i] > ' ' && a->token.data[i] < 0x7f
                && a->token.data[i] != ',', "characters of a token");
    }

    json = json_loadb((char *) a->body.data, a->body.len,
                      JSON_REJECT_DUPLICATES, NULL);
    require(json != NULL, "a body of JSON");

    token = json_object_get(json, "token");

    if (c->domain_scope) {
        require(json_is_object(json_object_get(token, "domain")),
                "a token of a domain");

    } else {
        require_text(inside(token, "project", "id"), &project,
                     "the project that was asked for");
    }

    expires = time_of(token, "expires_at");
    issued = time_of(token, "issued_at");

    require(expires != NGX_HTTP_CDM_STOP_TIME_ERROR, "an end");
    require(issued != NGX_HTTP_CDM_STOP_TIME_ERROR
            || a->date != (time_t) NGX_ERROR, "a begin");

    require(grant->life > 0 && grant->life <= 86400000, "bounds of a life");
    require(issued == NGX_HTTP_CDM_STOP_TIME_ERROR
            || grant->life <= expires - issued, "no longer than since issue");
    require(a->date == (time_t) NGX_ERROR
            || grant->life <= expires - (int64_t) a->date * 1000,
            "no longer than from now");

    json_decref(json);
}


static int64_t
time_of(json_t *token, const char *key)
{
    json_t  *value;

    value = json_object_get(token, key);

    if (!json_is_string(value)) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    return ngx_http_cdm_stop_parse_time((u_char *) json_string_value(value),
                                        json_string_length(value));
}


/* as it goes into the log */

static void
message(ngx_str_t *body)
{
    char        quoted[6 * IAM_MESSAGE + 16];
    u_char      buf[IAM_MESSAGE], text[6 * IAM_MESSAGE + 3], *p, *last;
    json_t     *json;
    ngx_str_t   s;

    s.data = buf;
    s.len = ngx_http_cdm_stop_iam_message(body, buf, sizeof(buf));
    require(s.len <= sizeof(buf), "a message is cut");

    ngx_http_cdm_stop_redact(&s, &secret);
    require(s.len <= sizeof(buf), "redaction does not lengthen");
    require(memmem(s.data, s.len, secret.data, secret.len) == NULL
            && memmem(s.data, s.len, secret.data, 8) == NULL,
            "no secret is left");

    last = text + sizeof(text);
    p = ngx_http_cdm_stop_json_text(text, last, &s, sizeof(buf));
    require(p != NULL && p <= last, "an escaped message fits");

    last = p;

    for (p = text; p < last; p++) {
        require(*p >= ' ' && *p != 0x7f, "no control character in the log");
    }

    snprintf(quoted, sizeof(quoted), "\"%.*s\"", (int) (last - text), text);

    json = json_loads(quoted, JSON_DECODE_ANY|JSON_ALLOW_NUL, NULL);
    require(json != NULL, "an escaped message is a string of JSON");
    json_decref(json);
}


static void
request(ngx_pool_t *pool, ngx_str_t *a, ngx_str_t *b)
{
    json_t                           *json, *auth, *scope;
    ngx_str_t                         body;
    ngx_uint_t                        i, method;
    ngx_http_cdm_stop_credentials_t   c;

    /* the configuration takes nothing else */

    if (!is_utf8(a) || !is_utf8(b)) {
        return;
    }

    for (i = 0; i < 6; i++) {

        method = i / 2;

        ngx_memzero(&c, sizeof(ngx_http_cdm_stop_credentials_t));

        c.method = method;
        c.domain_scope = i % 2;
        c.project = project;

        c.user = *a;
        c.password = *b;
        c.domain = *b;
        c.access_key = *a;
        c.secret_key = *b;
        c.agency = *a;
        c.agency_domain = *b;

        require(ngx_http_cdm_stop_iam_body(pool, &c, &body) == NGX_OK,
                "memory");

        json = json_loadb((char *) body.data, body.len,
                          JSON_REJECT_DUPLICATES|JSON_ALLOW_NUL, NULL);
        require(json != NULL, "a request of JSON");

        auth = json_object_get(json, "auth");
        scope = json_object_get(auth, "scope");

        require(json_object_size(json) == 1 && json_object_size(auth) == 2
                && json_object_size(scope) == 1, "nothing but what is meant");

        if (c.domain_scope) {
            require_text(inside(scope, "domain", "name"), b, "the domain");

        } else {
            require_text(inside(scope, "project", "id"), &project,
                         "the project");
        }

        check_identity(json_object_get(auth, "identity"), method, a, b);

        json_decref(json);
    }
}


static void
check_identity(json_t *identity, ngx_uint_t method, ngx_str_t *a, ngx_str_t *b)
{
    json_t              *json, *user;
    static const char   *names[] = { "password", "hw_ak_sk", "assume_role" };

    json = json_object_get(identity, "methods");

    require(json_object_size(identity) == 2 && json_array_size(json) == 1
            && strcmp(json_string_value(json_array_get(json, 0)),
                      names[method]) == 0, "one method");

    json = json_object_get(identity, names[method]);

    switch (method) {

    case NGX_HTTP_CDM_STOP_AK_SK:
        require(json_object_size(json) == 2, "two keys");
        require_text(inside(json, "access", "key"), a, "the access key");
        require_text(inside(json, "secret", "key"), b, "the secret key");
        break;

    case NGX_HTTP_CDM_STOP_AGENCY:
        require(json_object_size(json) == 2, "two names");
        require_text(json_object_get(json, "agency_name"), a, "the agency");
        require_text(json_object_get(json, "domain_name"), b, "its domain");
        break;

    default: /* NGX_HTTP_CDM_STOP_PASSWORD */
        user = json_object_get(json, "user");

        require(json_object_size(json) == 1 && json_object_size(user) == 3,
                "one user");
        require_text(json_object_get(user, "name"), a, "the user");
        require_text(json_object_get(user, "password"), b, "the password");
        require_text(inside(user, "domain", "name"), b, "the user's domain");
    }
}


static json_t *
inside(json_t *json, const char *one, const char *two)
{
    return json_object_get(json_object_get(json, one), two);
}


static ngx_uint_t
is_utf8(ngx_str_t *s)
{
    u_char  *p;

    for (p = s->data; p < s->data + s->len; /* void */ ) {
        if (ngx_http_cdm_stop_utf8_decode(&p, s->data + s->len)
            == NGX_HTTP_CDM_STOP_BAD_UTF8)
        {
            return 0;
        }
    }

    return 1;
}


static void
require_text(json_t *value, ngx_str_t *s, const char *what)
{
    require(json_is_string(value) && json_string_length(value) == s->len
            && (s->len == 0
                || memcmp(json_string_value(value), s->data, s->len) == 0),
            what);
}


static void
require(ngx_uint_t holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}
