
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_VERDICT_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_VERDICT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


typedef enum {
    NGX_HTTP_CDM_STOP_UNKNOWN = 0,
    NGX_HTTP_CDM_STOP_STOPPED,
    NGX_HTTP_CDM_STOP_FAILED,
    NGX_HTTP_CDM_STOP_ALREADY_STOPPED,
    NGX_HTTP_CDM_STOP_NOT_FOUND,
    NGX_HTTP_CDM_STOP_DENIED,
    NGX_HTTP_CDM_STOP_THROTTLED,
    NGX_HTTP_CDM_STOP_NOT_SENT
} ngx_http_cdm_stop_verdict_e;


typedef struct {
    ngx_http_cdm_stop_verdict_e  verdict;
    ngx_str_t                    code;
    ngx_str_t                    message;   /* as CDM sent it: redact it */
} ngx_http_cdm_stop_verdict_t;


/*
 * Reads what CDM, or the API gateway in front of it, says of a stop from the
 * status and the body of its answer; body is NULL if it was not read whole.
 * A 200 is no proof of a stop: its body tells.  Strings are allocated from
 * pool.  Never fails: what cannot be read is NGX_HTTP_CDM_STOP_UNKNOWN.
 *
 * Sources: CDM API reference, StopJob and "Error codes"; error codes of APIG.
 */
void ngx_http_cdm_stop_verdict_read(ngx_http_cdm_stop_verdict_t *v,
    ngx_uint_t status, ngx_str_t *body, ngx_pool_t *pool);

/*
 * The name of a verdict in records and variables.
 */
ngx_str_t *ngx_http_cdm_stop_verdict_name(ngx_http_cdm_stop_verdict_e verdict);


#endif /* _NGX_HTTP_CDM_STOP_VERDICT_H_INCLUDED_ */
