
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_ANSWER_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_ANSWER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/* answers of the gateway itself */

extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_bad_target;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_bad_token;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_bad_method;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_other_request;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_early_data;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_credentials;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_not_valid;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_other_project;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_not_verified;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_reason;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_by_default;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_too_many;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_project;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_by_subrequest;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_token;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_token_refused;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_many_projects;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_record;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_unreachable;
extern const ngx_http_cdm_stop_error_t  ngx_http_cdm_stop_no_answer;

/*
 * Records a refusal, or the outcome where there is an intent, and returns the
 * status to finalize the request with; the
 * header and body filters then send the error's answer in place of nginx's.
 */
ngx_int_t ngx_http_cdm_stop_refuse(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, const ngx_http_cdm_stop_error_t *error);

/*
 * Makes r->headers_out those of the answer that ctx->error stands for, and
 * ctx->answer its body.  Returns NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_set_answer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Sends the answer that ctx->error stands for in place of a header of CDM
 * that is still held back.
 */
ngx_int_t ngx_http_cdm_stop_send_answer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* adds or, if there is one, replaces the header X-Request-Id of the answer */
ngx_int_t ngx_http_cdm_stop_set_request_id(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);


#endif /* _NGX_HTTP_CDM_STOP_ANSWER_H_INCLUDED_ */
