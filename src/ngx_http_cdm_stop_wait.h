
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_WAIT_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_WAIT_H_INCLUDED_


/*
 * Requests that wait for IAM, and who asks it.  It is a part of
 * ngx_http_cdm_stop.h, whose types it needs.
 */


/* refuses a request that gets no token, for the reason in ctx->fail */
ngx_int_t ngx_http_cdm_stop_refuse_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Returns what ctx->look does: NGX_OK if there is a token, NGX_AGAIN if the
 * request now waits and will be resumed, NGX_BUSY with ctx->retry_after and
 * ctx->fail if IAM is left alone for now or the time is up, NGX_ERROR.
 */
ngx_int_t ngx_http_cdm_stop_wait(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* ctx->look of a token of the gateway's */
ngx_int_t ngx_http_cdm_stop_look(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_found_t *found);

/* finds a token or sees to it that somebody asks for one: NGX_AGAIN then */
ngx_int_t ngx_http_cdm_stop_find(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity, ngx_http_cdm_stop_key_t *key,
    ngx_http_cdm_stop_found_t *found);

/* whether the gateway gets tokens of the project at all */
ngx_uint_t ngx_http_cdm_stop_serves(ngx_http_cdm_stop_identity_t *identity,
    ngx_str_t *project);

/* ctx->look of a caller's token; facts get to worker->facts with NGX_OK */
ngx_int_t ngx_http_cdm_stop_verify_look(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_found_t *found);

/* runs the wake handler of a request that does not wait, soon */
void ngx_http_cdm_stop_wake_later(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Asks IAM with the lease in found, or sees to it that the token that this
 * needs itself is asked for first.  Returns NGX_AGAIN, or NGX_BUSY with
 * found->retry and fail, or NGX_ERROR; without NGX_AGAIN the lease is ended.
 */
ngx_int_t ngx_http_cdm_stop_ask(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity, ngx_http_cdm_stop_key_t *key,
    ngx_http_cdm_stop_found_t *found);

/* looks from now on, in this worker, for tokens that have to be renewed */
void ngx_http_cdm_stop_start_renewal(ngx_http_cdm_stop_main_conf_t *cdmcf);

/* the opposite, a cleanup of the configuration's pool */
void ngx_http_cdm_stop_stop_renewal(void *data);

/* resumes, soon, what waits for the token of key */
void ngx_http_cdm_stop_wake(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_key_t *key);

/*
 * Lets others of this worker's that wait look again, soon, and not only with
 * their next poll: IAM has answered, so one more may ask it.  After a failure
 * they are not to follow one another at IAM.
 */
void ngx_http_cdm_stop_wake_next(ngx_http_cdm_stop_main_conf_t *cdmcf);

/*
 * Asks IAM for a token on behalf of the worker.  It ends the lease in any
 * case, at the latest when the identity's timeout is over, and then wakes who
 * waits.  Returns NGX_ERROR if it could not begin; the lease is ended then.
 */
ngx_int_t ngx_http_cdm_stop_fetch(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity, ngx_http_cdm_stop_key_t *key,
    ngx_http_cdm_stop_lease_t *lease);

/*
 * Asks IAM about the caller's token with the lease in found, in the same
 * manner.
 */
ngx_int_t ngx_http_cdm_stop_fetch_verify(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_found_t *found);


#endif /* _NGX_HTTP_CDM_STOP_WAIT_H_INCLUDED_ */
