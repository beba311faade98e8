
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * Patterns of a policy, and what they are found by.  An input is: the length
 * of a pattern, the pattern, and a value.  A value that does not begin with
 * what the index takes for the pattern's beginning is one that the pattern
 * does not match, and about which the engine is certain: else a rule would be
 * passed over that denies it.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


static void check(ngx_conf_t *cf, ngx_str_t *text, ngx_str_t *value);
static void require(ngx_uint_t holds, const char *what);


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    ngx_str_t           text, value;
    ngx_conf_t          cf;
    static ngx_log_t    log;
    static ngx_cycle_t  cycle;

    /* a configuration has no null character */

    if (size < 2 || size < 1 + (size_t) data[0]
        || memchr(data + 1, '\0', data[0]) != NULL)
    {
        return 0;
    }

    /* PCRE gets some memory by the log of the cycle */

    cycle.log = &log;
    ngx_cycle = &cycle;

    ngx_memzero(&cf, sizeof(ngx_conf_t));

    cf.log = &log;
    cf.pool = ngx_create_pool(4096, &log);
    require(cf.pool != NULL, "memory");

    text.len = 1 + data[0];
    text.data = ngx_pnalloc(cf.pool, text.len);

    value.len = size - text.len;
    value.data = ngx_pnalloc(cf.pool, value.len + 1);

    require(text.data != NULL && value.data != NULL, "memory");

    text.data[0] = '~';
    ngx_memcpy(text.data + 1, data + 1, data[0]);
    ngx_memcpy(value.data, data + text.len, value.len);

    check(&cf, &text, &value);

    ngx_destroy_pool(cf.pool);

    return 0;
}


static void
check(ngx_conf_t *cf, ngx_str_t *text, ngx_str_t *value)
{
    size_t        len;
    u_char        prefix[NGX_HTTP_CDM_STOP_PREFIX_LEN];
    ngx_int_t     rc;
    ngx_regex_t  *regex;

    len = ngx_http_cdm_stop_pattern_prefix(text, prefix);
    require(len <= NGX_HTTP_CDM_STOP_PREFIX_LEN, "a bounded beginning");

    regex = ngx_http_cdm_stop_pattern(cf, text);

    if (regex == NULL || len == 0) {
        return;
    }

    rc = ngx_http_cdm_stop_pattern_match(regex, value);

    /* of this no pattern tells, and the index is not asked */

    if (value->len && value->data[value->len - 1] == LF) {
        return;
    }

    if (value->len < len || ngx_memcmp(value->data, prefix, len) != 0) {
        require(rc == NGX_DECLINED, "certainly no match");
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
