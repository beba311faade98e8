
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_REFUSALS_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_REFUSALS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/*
 * Records of refusals for one set of targets, in a second and by one worker:
 * enough to see each refusal of a day's work, and 50 MB an hour of a flood.
 */
#define NGX_HTTP_CDM_STOP_REFUSALS_MAX    100
#define NGX_HTTP_CDM_STOP_REFUSALS_EVERY  1000  /* milliseconds */


typedef struct {
    ngx_uint_t                      number;
    ngx_uint_t                      msec;
    time_t                          sec;        /* the first of them */
} ngx_http_cdm_stop_unwritten_t;


/* refusals of one worker that go to the same targets */

struct ngx_http_cdm_stop_refusals_s {
    ngx_array_t                    *targets;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;
    ngx_event_t                     timer;
    int64_t                         start;      /* of the second */
    ngx_uint_t                      count;      /* of records in it */

    /* by target: one that fails gets its summary later than the other */

    ngx_http_cdm_stop_unwritten_t   unwritten[NGX_HTTP_CDM_STOP_AUDIT_TARGETS];
};


/* gives each guarded location the state that it shares; NGX_ERROR: memory */
ngx_int_t ngx_http_cdm_stop_refusals_init(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf);

/*
 * Whether a refusal gets a record of its own.  One that does not is in the
 * number of the summary, which comes at the end of the second.
 */
ngx_uint_t ngx_http_cdm_stop_refusals_admit(
    ngx_http_cdm_stop_refusals_t *refusals);

/*
 * Writes a summary to a target, in record.c.  NGX_ERROR if it did not take it.
 */
ngx_int_t ngx_http_cdm_stop_record_refusals(
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_unwritten_t *unwritten);

/*
 * Writes the summaries that are due later and ends their timers: the worker,
 * or this configuration in it, comes to its end.
 */
void ngx_http_cdm_stop_refusals_flush(ngx_http_cdm_stop_main_conf_t *cdmcf);


#endif /* _NGX_HTTP_CDM_STOP_REFUSALS_H_INCLUDED_ */
