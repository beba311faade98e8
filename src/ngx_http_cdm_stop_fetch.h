
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_FETCH_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_FETCH_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


#define NGX_HTTP_CDM_STOP_IAM_MESSAGE_LEN  256
#define NGX_HTTP_CDM_STOP_IAM_TEXT_LEN                                        \
    (6 * NGX_HTTP_CDM_STOP_IAM_MESSAGE_LEN)


/*
 * One exchange with IAM.  It is a request without a client, on a connection
 * of its own whose other end is closed, with nginx's upstream as its content:
 * so it outlives the request that needed it.  docs/DESIGN.md tells why.
 */

typedef struct {
    ngx_http_cdm_stop_main_conf_t   *cdmcf;
    ngx_http_cdm_stop_identity_t    *identity;
    ngx_http_request_t              *request;
    ngx_http_cdm_stop_key_t          key;
    ngx_http_cdm_stop_lease_t        lease;

    ngx_event_t                      deadline;
    ngx_log_t                        log;
    ngx_http_log_ctx_t               log_ctx;
    ngx_http_connection_t            hc;
    ngx_http_addr_conf_t             addr_conf;

    ngx_str_t                        subject;   /* a caller's token; wiped */
    ngx_http_cdm_stop_key_t          by;        /* who asks about it */
    ngx_str_t                        auth;      /* X-Auth-Token; wiped */
    uint64_t                         generation;/* of it, if it is a via's */
    uint64_t                         stamp;     /* of its file */
    ngx_str_t                        output;    /* with the secret; wiped */
    ngx_http_status_t                status;
    ngx_http_chunked_t               chunked;
    ngx_http_cdm_stop_iam_answer_t   answer;
    size_t                           body_size;
    int64_t                          start;
    int64_t                          retry_after;   /* milliseconds */
    time_t                           retry_date;

    unsigned                         by_gateway:1;
    unsigned                         complete:1;
    unsigned                         encoded:1;
    unsigned                         timedout:1;
    unsigned                         ended:1;
    unsigned                         wiped:1;
} ngx_http_cdm_stop_fetch_t;


/*
 * A connection with a pool for such a request.  It has a real descriptor,
 * since the core closes it, and may even read from it, as it does with any
 * other.  NULL if there is none to be had.
 */
ngx_connection_t *ngx_http_cdm_stop_fetch_connection(ngx_log_t *log);

/*
 * A cleanup of the connection's pool: wipes the tokens that were copied for
 * the exchange, of which "data" is the ngx_http_cdm_stop_fetch_t.
 */
void ngx_http_cdm_stop_fetch_wipe(void *data);

/*
 * Makes nginx's upstream, with the callbacks of an HTTP client, the content
 * of f->request.  Returns NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_exchange(ngx_http_cdm_stop_fetch_t *f);

/*
 * The input filter of the exchange: collects the body of IAM's answer, within
 * its bound, in f->answer.body and sets f->complete at its end.
 */
ngx_int_t ngx_http_cdm_stop_exchange_filter_init(void *data);
ngx_int_t ngx_http_cdm_stop_exchange_filter(void *data, ssize_t bytes);

/* the identity's credentials, for the project of this exchange */
void ngx_http_cdm_stop_fetch_credentials(ngx_http_cdm_stop_fetch_t *f,
    ngx_http_cdm_stop_credentials_t *credentials);

/*
 * Ends the lease with what the exchange brought, once, and wakes who waits.
 * rc is NGX_OK if the exchange came to its end.
 */
void ngx_http_cdm_stop_fetch_end(ngx_http_cdm_stop_fetch_t *f, ngx_int_t rc);


/* the same for an exchange about a caller's token */
void ngx_http_cdm_stop_verify_end(ngx_http_cdm_stop_fetch_t *f, ngx_int_t rc);

/* milliseconds of Retry-After, 0 if IAM said nothing that makes sense */
int64_t ngx_http_cdm_stop_fetch_retry(ngx_http_cdm_stop_fetch_t *f);

/*
 * Writes the message of IAM's answer to text, of
 * NGX_HTTP_CDM_STOP_IAM_TEXT_LEN bytes, without what it repeats of a secret
 * and escaped for a log.  Returns its length.
 */
size_t ngx_http_cdm_stop_fetch_message(ngx_http_cdm_stop_fetch_t *f,
    u_char *text);


#endif /* _NGX_HTTP_CDM_STOP_FETCH_H_INCLUDED_ */
