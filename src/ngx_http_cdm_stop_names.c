
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_status.h"


/* names in metrics and JSON: they are public and do not change */


const char *
ngx_http_cdm_stop_code(ngx_uint_t i)
{
    static const char  *codes[] = {
        "CDMSTOP.0001",
        "CDMSTOP.0002",
        "CDMSTOP.0003",
        "CDMSTOP.0004",
        "CDMSTOP.0005",
        "CDMSTOP.0006",
        "CDMSTOP.0101",
        "CDMSTOP.0102",
        "CDMSTOP.0201",
        "CDMSTOP.0202",
        "CDMSTOP.0203",
        "CDMSTOP.0204",
        "CDMSTOP.0205",
        "CDMSTOP.0301",
        "CDMSTOP.0302",
        "CDMSTOP.0303",
        "CDMSTOP.0401",
        "CDMSTOP.0402",
        NULL
    };

    return codes[i];
}


/* the causes of failures, and what else an exchange may bring */

const char *
ngx_http_cdm_stop_result_name(ngx_uint_t result)
{
    switch (result) {

    case NGX_HTTP_CDM_STOP_IAM_OK:
        return "ok";

    case NGX_HTTP_CDM_STOP_FAIL_UNREACHABLE:
        return "unreachable";

    case NGX_HTTP_CDM_STOP_FAIL_ANSWER:
        return "answer";

    case NGX_HTTP_CDM_STOP_FAIL_THROTTLED:
        return "throttled";

    case NGX_HTTP_CDM_STOP_FAIL_REFUSED:
        return "refused";

    case NGX_HTTP_CDM_STOP_FAIL_VIA:
        return "via";

    case NGX_HTTP_CDM_STOP_FAIL_PROJECTS:
        return "projects";

    case NGX_HTTP_CDM_STOP_IAM_UNUSED:
        return "unused";

    default: /* NGX_HTTP_CDM_STOP_IAM_LOCAL */
        return "local";
    }
}


const char *
ngx_http_cdm_stop_class_name(ngx_http_cdm_stop_cdm_e class)
{
    static const char  *names[] = {
        "2xx", "3xx", "401", "4xx", "5xx", "none"
    };

    return names[class];
}


const char *
ngx_http_cdm_stop_stage_name(ngx_http_cdm_stop_stage_e stage)
{
    static const char  *names[] = { "intent", "outcome", "refused" };

    return names[stage];
}


/* the same words as in the variables, but in lower case */

const char *
ngx_http_cdm_stop_token_label(ngx_http_cdm_stop_token_e state)
{
    static const char  *names[] = { "none", "hit", "wait", "stale", "renewed" };

    return names[state];
}


const char *
ngx_http_cdm_stop_caller_label(ngx_http_cdm_stop_caller_e state)
{
    static const char  *names[] = {
        "none", "hit", "wait", "refused", "failed"
    };

    return names[state];
}
