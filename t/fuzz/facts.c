
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * What IAM says of a caller's token.  An input is: three digits of the status,
 * the number of X-Subject-Token lines as a digit, 's' if the first one is the
 * caller's token, and the body.  What is accepted is, by another reading of
 * the body, what the block of facts gives back, and bounded.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_http_cdm_stop_facts.h"
#include "ngx_http_cdm_stop_text.h"
#include "ngx_http_cdm_stop_time.h"


#define FACTS_DATE  1795000000      /* November 2026 */


static void check_refused(ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_http_cdm_stop_facts_t *facts);
static void check_facts(ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_http_cdm_stop_facts_t *facts);
static void check_next(u_char **p, u_char *last, json_t *value, size_t max,
    const char *what);
static void check_block(u_char *data, size_t size);
static void require(ngx_uint_t holds, const char *what);


static ngx_str_t  subject = ngx_string("MIIatAYJKoZIhvcNAQcCoIIapTCC");


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    u_char                          *copy;
    ngx_int_t                        rc;
    const char                      *error;
    ngx_http_cdm_stop_facts_t        facts;
    ngx_http_cdm_stop_iam_answer_t   a;

    if (size < 5) {
        return 0;
    }

    copy = malloc(size);
    facts.data = malloc(NGX_HTTP_CDM_STOP_FACTS_LEN);
    require(copy != NULL && facts.data != NULL, "memory");

    memcpy(copy, data, size);

    ngx_memzero(&a, sizeof(ngx_http_cdm_stop_iam_answer_t));

    a.status = (copy[0] - '0') * 100 + (copy[1] - '0') * 10 + copy[2] - '0';
    a.tokens = copy[3] - '0';
    a.date = FACTS_DATE;

    if (copy[4] == 's') {
        a.token = subject;

    } else {
        ngx_str_set(&a.token, "MIIatAYJKoZIhvcNAQcCoIIapTCD");
    }

    a.body.data = copy + 5;
    a.body.len = size - 5;

    facts.len = 0;
    facts.life = 0;

    rc = ngx_http_cdm_stop_facts_read(&a, &subject, &facts, &error);

    switch (rc) {

    case NGX_OK:
        require(error == NULL, "no error is told");
        check_facts(&a, &facts);
        break;

    case NGX_DECLINED:
        require(error == NULL, "no error is told");
        check_refused(&a, &facts);
        break;

    default:
        require(rc == NGX_ERROR && strlen(error) > 5, "an error is told");
    }

    check_block(copy, size);

    free(facts.data);
    free(copy);

    return 0;
}


static void
check_refused(ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_http_cdm_stop_facts_t *facts)
{
    require(answer->status == 401 || answer->status == 404
            || (answer->status == 400
                && ngx_strnstr(answer->body.data, "error_code",
                               answer->body.len))
            || (answer->status == 200 && facts->life <= 0),
            "IAM refused it, or it has ended");
}


static void
check_facts(ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_http_cdm_stop_facts_t *facts)
{
    u_char    *p, *last;
    json_t    *json, *token, *user, *domain, *project, *roles, *expires;
    size_t     i;
    int64_t    end;
    ngx_str_t  value;

    require(answer->status == 200, "its status");
    require(answer->tokens == 0
            || (answer->tokens == 1 && answer->token.data == subject.data),
            "about this token");
    require(facts->len <= NGX_HTTP_CDM_STOP_FACTS_LEN, "its room");

    json = json_loadb((char *) answer->body.data, answer->body.len,
                      JSON_REJECT_DUPLICATES, NULL);
    require(json != NULL, "a body of JSON");

    token = json_object_get(json, "token");
    user = json_object_get(token, "user");
    domain = json_object_get(user, "domain");
    project = json_object_get(token, "project");
    roles = json_object_get(token, "roles");
    expires = json_object_get(token, "expires_at");

    p = facts->data;
    last = p + facts->len;

    check_next(&p, last, json_object_get(user, "id"), 64, "id of the user");
    check_next(&p, last, json_object_get(user, "name"), 1024, "the user");
    check_next(&p, last, json_object_get(domain, "id"), 64, "id of a domain");
    check_next(&p, last, json_object_get(domain, "name"), 1024, "a domain");

    if (json_is_object(project)) {
        check_next(&p, last, json_object_get(project, "id"), 64, "a project");

    } else {
        require(ngx_http_cdm_stop_facts_next(&p, last, &value) == NGX_OK
                && value.len == 0, "no project");
    }

    for (i = 0; i < json_array_size(roles); i++) {
        check_next(&p, last,
                   json_object_get(json_array_get(roles, i), "name"), 1024,
                   "a role");
    }

    require(ngx_http_cdm_stop_facts_next(&p, last, &value) == NGX_DONE
            && p == last, "nothing else");

    end = ngx_http_cdm_stop_parse_time((u_char *) json_string_value(expires),
                                       json_string_length(expires));

    require(facts->life > 0 && facts->life <= NGX_HTTP_CDM_STOP_LIFE_MAX
            && facts->life < end - (int64_t) FACTS_DATE * 1000,
            "trust ends before the token");

    json_decref(json);
}


static void
check_next(u_char **p, u_char *last, json_t *value, size_t max,
    const char *what)
{
    u_char     *q;
    uint32_t    ch;
    ngx_str_t   text;

    require(ngx_http_cdm_stop_facts_next(p, last, &text) == NGX_OK, what);

    require(json_is_string(value) && json_string_length(value) == text.len
            && memcmp(json_string_value(value), text.data, text.len) == 0,
            what);

    require(text.len > 0 && text.len <= max, "bounds of a name");

    for (q = text.data; q < text.data + text.len; /* void */ ) {
        ch = ngx_http_cdm_stop_utf8_decode(&q, text.data + text.len);

        require(ch != NGX_HTTP_CDM_STOP_BAD_UTF8, "a name is UTF-8");
        require(ch >= 0x20 && ch != 0x7f, "a name has no control character");
    }
}


/* a block of any bytes is not read beyond its end */

static void
check_block(u_char *data, size_t size)
{
    u_char     *p, *last;
    ngx_str_t   value;

    p = data;
    last = data + size;

    while (ngx_http_cdm_stop_facts_next(&p, last, &value) == NGX_OK) {
        require(value.data >= data && value.data + value.len <= last,
                "within the block");
    }
}


static void
require(ngx_uint_t holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}
