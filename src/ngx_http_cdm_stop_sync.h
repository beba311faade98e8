
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_SYNC_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_SYNC_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/*
 * Gives a chain the state of a file whose intents are to reach the disk, for
 * one worker and all locations that name it.  Logs what is wrong and returns
 * NGX_ERROR.
 */
ngx_int_t ngx_http_cdm_stop_sync_add(ngx_conf_t *cf,
    ngx_http_cdm_stop_chain_t *chain);

/*
 * To be called before an intent is written to the file: from here on, the
 * worker is told of what goes wrong with it.  NGX_ERROR with the errno set.
 */
ngx_int_t ngx_http_cdm_stop_sync_open(ngx_http_cdm_stop_sync_t *sync,
    ngx_log_t *log);

/*
 * To be called when the intent has been written.  Returns NGX_OK if no target
 * of the location asks for the disk, NGX_AGAIN if the request now waits and
 * will be resumed by ngx_http_cdm_stop_synced(), NGX_BUSY if too many wait,
 * NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_sync_wait(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* the request waits no more: it is resumed, or ends */
void ngx_http_cdm_stop_sync_cancel(ngx_http_cdm_stop_ctx_t *ctx);


#endif /* _NGX_HTTP_CDM_STOP_SYNC_H_INCLUDED_ */
