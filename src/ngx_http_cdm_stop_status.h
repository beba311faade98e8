
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_STATUS_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_STATUS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_stats.h"
#include "ngx_http_cdm_stop_zone.h"


/* tokens that the JSON tells of one by one */
#define NGX_HTTP_CDM_STOP_TOKENS_MAX  2000


typedef enum {
    NGX_HTTP_CDM_STOP_STATUS_OFF = 0,
    NGX_HTTP_CDM_STOP_STATUS_ALL,
    NGX_HTTP_CDM_STOP_STATUS_READY
} ngx_http_cdm_stop_status_e;


typedef enum {
    NGX_HTTP_CDM_STOP_FORM_METRICS = 0,
    NGX_HTTP_CDM_STOP_FORM_OPENMETRICS,
    NGX_HTTP_CDM_STOP_FORM_JSON,
    NGX_HTTP_CDM_STOP_FORM_HTML
} ngx_http_cdm_stop_form_e;


/* text that grows, in buffers of a pool; an error is kept until the end */

typedef struct {
    ngx_pool_t                    *pool;
    ngx_chain_t                   *first;
    ngx_chain_t                  **last;
    ngx_buf_t                     *buf;         /* that is filled */
    u_char                        *pos;
    u_char                        *end;
    off_t                          length;
    unsigned                       failed:1;
    unsigned                       openmetrics:1;
    unsigned                       comma:1;     /* JSON: a member was there */
} ngx_http_cdm_stop_out_t;


/* a token, as it was when the zone was looked at */

typedef struct {
    ngx_http_cdm_stop_identity_t  *identity;
    u_char                         project[NGX_HTTP_CDM_STOP_PROJECT_LEN];
    uint64_t                       generation;
    uint64_t                       issues;
    int64_t                        issued;
    int64_t                        life;
    int64_t                        renew;
    int64_t                        end;
    int64_t                        retry;       /* ms until the next try */
    ngx_uint_t                     failures;
    ngx_http_cdm_stop_fail_e       fail;
    unsigned                       has:1;       /* a token, ended or not */
    unsigned                       good:1;
    unsigned                       leased:1;
    unsigned                       used:1;
} ngx_http_cdm_stop_token_view_t;


typedef struct {
    ngx_http_cdm_stop_identity_t  *identity;
    ngx_uint_t                     entries;
    ngx_uint_t                     good;
    ngx_uint_t                     stale;       /* of the good ones */
    ngx_uint_t                     failing;
    ngx_uint_t                     verifying;   /* calls in flight */
    int64_t                        left;        /* least of the good ones */
    uint64_t                       generation;  /* greatest */
    int64_t                        retry;       /* ms, longest */
    int64_t                        next;        /* ms, soonest of a failed one,
                                                   -1: none failed */
    int64_t                        verify_retry;
    int64_t                        rest;        /* of the identity, refused */
    ngx_http_cdm_stop_fail_e       fail;
    unsigned                       ready:1;
} ngx_http_cdm_stop_identity_view_t;


typedef struct {
    ngx_http_cdm_stop_chain_t     *chain;
    ngx_err_t                      err;         /* why it fails */
    ngx_uint_t                     failing;
    ngx_uint_t                     blocked;     /* the next one would fail */
    ngx_uint_t                     required;
    ngx_uint_t                     sync;
    ngx_uint_t                     owner;
    ngx_uint_t                     keyed;
    ngx_uint_t                     open;
    uint64_t                       seq;
    uint64_t                       signed_seq;  /* of the last checkpoint */
    uint64_t                       signed_time; /* 0: none so far */
    u_char                         id[NGX_HTTP_CDM_STOP_CHAIN_ID_LEN];
} ngx_http_cdm_stop_target_view_t;


typedef struct {
    const char                    *code;
    ngx_str_t                     *identity;    /* or NULL */
    ngx_str_t                     *target;      /* or NULL */
    int64_t                        retry;       /* ms, -1: not known */
} ngx_http_cdm_stop_unready_t;


/* the gateway as it is now, for one answer */

typedef struct {
    ngx_pool_t                    *pool;
    ngx_http_cdm_stop_main_conf_t *cdmcf;
    ngx_http_cdm_stop_stats_sh_t  *sh;
    int64_t                        now;         /* ngx_http_cdm_stop_now() */
    int64_t                        time;        /* of day, milliseconds */

    ngx_array_t                    tokens;      /* of token_view_t */
    ngx_uint_t                     more;        /* tokens */
    ngx_array_t                    identities;  /* of identity_view_t */
    ngx_array_t                    targets;     /* of target_view_t */
    ngx_array_t                    reasons;     /* of unready_t */

    ngx_uint_t                     workers;
    ngx_uint_t                     waiting;
    ngx_uint_t                     known;       /* callers' tokens */
    ngx_uint_t                     valid;       /* of them */
    size_t                         known_size;
    size_t                         known_max;
    uint64_t                       evictions;
    uint64_t                       full;
    size_t                         zone_size;
    size_t                         zone_free;
} ngx_http_cdm_stop_view_t;


char *ngx_http_cdm_stop_status_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/*
 * Looks at the locations with "cdm_stop_status"; guarded tells whether there
 * is anything to tell of.  Logs what is wrong and returns NGX_ERROR.
 */
ngx_int_t ngx_http_cdm_stop_check_status(ngx_conf_t *cf, ngx_uint_t guarded);

/* the content handler */
ngx_int_t ngx_http_cdm_stop_status_handler(ngx_http_request_t *r);

/*
 * What the client wants: ?format= of the request, else the format of its
 * Accept that it likes best.  Returns NGX_DECLINED for an unknown ?format=.
 */
ngx_int_t ngx_http_cdm_stop_form(ngx_http_request_t *r,
    ngx_http_cdm_stop_form_e *format);

/* looks at everything; NULL if there is no memory */
ngx_http_cdm_stop_view_t *ngx_http_cdm_stop_view(ngx_http_request_t *r);

/* fills view->reasons and ready of identities; NGX_ERROR: memory */
ngx_int_t ngx_http_cdm_stop_judge(ngx_http_cdm_stop_view_t *view);

/*
 * Asks IAM for a token for identities that are not ready, or were never used:
 * nobody else might, while no stops are sent here.
 */
void ngx_http_cdm_stop_try(ngx_http_cdm_stop_view_t *view);

void ngx_http_cdm_stop_metrics(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);
void ngx_http_cdm_stop_json(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);
void ngx_http_cdm_stop_json_reasons(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);

/* the rest of the JSON: what is in lists */
void ngx_http_cdm_stop_json_lists(ngx_http_cdm_stop_out_t *out,
    ngx_http_cdm_stop_view_t *view);

/* names in JSON and in labels; the i-th code of an answer, or NULL */
const char *ngx_http_cdm_stop_code(ngx_uint_t i);
const char *ngx_http_cdm_stop_token_label(ngx_http_cdm_stop_token_e state);
const char *ngx_http_cdm_stop_caller_label(ngx_http_cdm_stop_caller_e state);
const char *ngx_http_cdm_stop_result_name(ngx_uint_t result);
const char *ngx_http_cdm_stop_class_name(ngx_http_cdm_stop_cdm_e class);
const char *ngx_http_cdm_stop_stage_name(ngx_http_cdm_stop_stage_e stage);


/* out: text; each of these is nothing once one has failed */

ngx_int_t ngx_http_cdm_stop_out_init(ngx_http_cdm_stop_out_t *out,
    ngx_pool_t *pool);

/* ends the text: NULL if there was no memory */
ngx_chain_t *ngx_http_cdm_stop_out_end(ngx_http_cdm_stop_out_t *out);

/* as ngx_sprintf(), at most NGX_HTTP_CDM_STOP_OUT_MAX bytes */
void ngx_cdecl ngx_http_cdm_stop_out(ngx_http_cdm_stop_out_t *out,
    const char *fmt, ...);

#define NGX_HTTP_CDM_STOP_OUT_MAX  512

/* the inside of a label: valid UTF-8, escaped, no control */
void ngx_http_cdm_stop_out_label(ngx_http_cdm_stop_out_t *out, u_char *data,
    size_t len);

/* JSON: "key": before a value, with the comma that it needs */
void ngx_http_cdm_stop_out_key(ngx_http_cdm_stop_out_t *out, const char *key);
void ngx_http_cdm_stop_out_open(ngx_http_cdm_stop_out_t *out, const char *key,
    char bracket);
void ngx_http_cdm_stop_out_close(ngx_http_cdm_stop_out_t *out, char bracket);

/* a value, or "key": value */
void ngx_http_cdm_stop_out_text(ngx_http_cdm_stop_out_t *out, const char *key,
    u_char *data, size_t len);
void ngx_http_cdm_stop_out_word(ngx_http_cdm_stop_out_t *out, const char *key,
    const char *word);
void ngx_http_cdm_stop_out_count(ngx_http_cdm_stop_out_t *out,
    const char *key, uint64_t value);
void ngx_http_cdm_stop_out_flag(ngx_http_cdm_stop_out_t *out, const char *key,
    ngx_uint_t value);

/* milliseconds as seconds; null if negative */
void ngx_http_cdm_stop_out_time(ngx_http_cdm_stop_out_t *out, const char *key,
    int64_t ms);
void ngx_http_cdm_stop_out_null(ngx_http_cdm_stop_out_t *out,
    const char *key);

/* "key": the count, sum and quantiles of a histogram, in seconds */
void ngx_http_cdm_stop_out_histogram(ngx_http_cdm_stop_out_t *out,
    const char *key, ngx_http_cdm_stop_histogram_t *h,
    const ngx_uint_t *bounds, ngx_uint_t unit);


/* the page: one file with all that it needs, and its policy for browsers */

extern ngx_str_t  ngx_http_cdm_stop_page;
extern ngx_str_t  ngx_http_cdm_stop_page_csp;


#endif /* _NGX_HTTP_CDM_STOP_STATUS_H_INCLUDED_ */
