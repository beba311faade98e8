
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


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
