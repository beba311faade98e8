
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


static u_char *ngx_http_cdm_stop_pattern_class(u_char *p, u_char *last);
static ngx_uint_t ngx_http_cdm_stop_pattern_simple(u_char *p, u_char *last);


ngx_regex_t *
ngx_http_cdm_stop_pattern(ngx_conf_t *cf, ngx_str_t *text)
{
    u_char               *p, errstr[NGX_MAX_CONF_ERRSTR];
    ngx_str_t             bare;
    ngx_regex_compile_t   rc;

    ngx_memzero(&rc, sizeof(ngx_regex_compile_t));

    bare.data = text->data + 1;
    bare.len = text->len - 1;

    if (bare.len && bare.data[0] == '*') {
        bare.data++;
        bare.len--;
        rc.options = NGX_REGEX_CASELESS;
    }

    if (bare.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "empty pattern \"%V\", write one behind \"~\"",
                           text);
        return NULL;
    }

    /* limits in a pattern of the operator can only make these smaller */

    rc.pattern.len = sizeof(NGX_HTTP_CDM_STOP_LIMITS) - 1 + bare.len;
    rc.pattern.data = ngx_pnalloc(cf->pool, rc.pattern.len + 1);
    if (rc.pattern.data == NULL) {
        return NULL;
    }

    p = ngx_cpymem(rc.pattern.data, NGX_HTTP_CDM_STOP_LIMITS,
                   sizeof(NGX_HTTP_CDM_STOP_LIMITS) - 1);
    p = ngx_cpymem(p, bare.data, bare.len);
    *p = '\0';

    rc.pool = cf->pool;
    rc.err.len = NGX_MAX_CONF_ERRSTR;
    rc.err.data = errstr;

    if (ngx_regex_compile(&rc) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "bad pattern \"%V\", mend it: %V", text, &rc.err);
        return NULL;
    }

    return rc.regex;
}


ngx_int_t
ngx_http_cdm_stop_pattern_match(ngx_regex_t *regex, ngx_str_t *value)
{
    ngx_int_t  rc;

    /* "$" holds before a line feed at the end, which nobody means */

    if (value->len && value->data[value->len - 1] == LF) {
        return NGX_ERROR;
    }

    rc = ngx_regex_exec(regex, value, NULL, 0);

    if (rc >= 0) {
        return NGX_OK;
    }

    return (rc == NGX_REGEX_NO_MATCHED) ? NGX_DECLINED : NGX_ERROR;
}


/* letters mean something behind a backslash, all else is itself there */

size_t
ngx_http_cdm_stop_pattern_prefix(ngx_str_t *text, u_char *prefix)
{
    u_char  *p, *last;
    size_t   len;

    p = text->data;
    last = p + text->len;

    if (last - p < 3 || p[0] != '~' || p[1] != '^'
        || !ngx_http_cdm_stop_pattern_simple(p + 2, last))
    {
        return 0;
    }

    len = 0;

    for (p += 2; p < last; p++) {

        if (*p == '*' || *p == '?' || *p == '{') {

            /* the one before may be missing */

            return len ? len - 1 : 0;
        }

        if (*p == '\\'
            && p + 1 < last && p[1] < 0x80
            && !(p[1] >= '0' && p[1] <= '9')
            && !((p[1] | 0x20) >= 'a' && (p[1] | 0x20) <= 'z'))
        {
            p++;

        } else if (ngx_strchr("\\^$.|+()[", *p)) {
            break;
        }

        if (len == NGX_HTTP_CDM_STOP_PREFIX_LEN) {
            break;
        }

        prefix[len++] = *p;
    }

    return len;
}


/*
 * Whether the pattern has certainly no alternatives but in parentheses, so
 * that what it begins with holds for all of it.  What would need more of PCRE
 * to be told counts as none: options, verbs, comments, \Q...\E.
 */

static ngx_uint_t
ngx_http_cdm_stop_pattern_simple(u_char *p, u_char *last)
{
    ngx_uint_t  depth;

    depth = 0;

    while (p < last) {

        switch (*p) {

        case '\\':
            if (p + 1 == last || ngx_strchr("QEc", p[1])) {
                return 0;
            }

            p++;
            break;

        case '[':
            p = ngx_http_cdm_stop_pattern_class(p + 1, last);
            if (p == NULL) {
                return 0;
            }

            break;

        case '(':
            if (p + 2 < last
                && (p[1] == '*'
                    || (p[1] == '?' && !ngx_strchr(":=!", p[2]))))
            {
                return 0;
            }

            depth++;
            break;

        case ')':
            if (depth == 0) {
                return 0;
            }

            depth--;
            break;

        case '|':
            if (depth == 0) {
                return 0;
            }

            break;
        }

        p++;
    }

    return depth == 0;
}


/* the bracket that closes it, NULL if that is not certain */

static u_char *
ngx_http_cdm_stop_pattern_class(u_char *p, u_char *last)
{
    if (p < last && *p == '^') {
        p++;
    }

    if (p < last && *p == ']') {
        return NULL;
    }

    for ( /* void */ ; p < last; p++) {

        if (*p == ']') {
            return p;
        }

        if (*p == '[') {
            return NULL;
        }

        if (*p == '\\') {

            if (p + 1 == last || ngx_strchr("QEc", p[1])) {
                return NULL;
            }

            p++;
        }
    }

    return NULL;
}
