
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_fetch.h"


ngx_connection_t *
ngx_http_cdm_stop_fetch_connection(ngx_log_t *log)
{
    ngx_socket_t       s[2];
    ngx_connection_t  *c;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, s) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      "socketpair() failed while requesting IAM token");
        return NULL;
    }

    if (ngx_close_socket(s[1]) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      ngx_close_socket_n " failed");
    }

    c = NULL;

    if (ngx_nonblocking(s[0]) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      ngx_nonblocking_n " failed");

    } else {
        c = ngx_get_connection(s[0], log);
    }

    if (c == NULL) {
        goto failed;
    }

    c->pool = ngx_create_pool(4096, log);
    if (c->pool == NULL) {
        ngx_free_connection(c);
        goto failed;
    }

    /* core would set options of TCP on it */

    c->tcp_nodelay = NGX_TCP_NODELAY_DISABLED;
    c->tcp_nopush = NGX_TCP_NOPUSH_DISABLED;

    c->recv = ngx_recv;
    c->send = ngx_send;
    c->recv_chain = ngx_recv_chain;
    c->send_chain = ngx_send_chain;
    c->write->handler = ngx_http_empty_handler;
    c->write->ready = 1;
    c->start_time = ngx_current_msec;
    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);

#if (NGX_STAT_STUB)
    (void) ngx_atomic_fetch_add(ngx_stat_active, 1);
#endif

    return c;

failed:

    if (ngx_close_socket(s[0]) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      ngx_close_socket_n " failed");
    }

    return NULL;
}


void
ngx_http_cdm_stop_fetch_wipe(void *data)
{
    ngx_http_cdm_stop_fetch_t *f = data;

    if (f->auth.data) {
        ngx_explicit_memzero(f->auth.data, f->auth.len);
    }

    if (f->subject.data) {
        ngx_explicit_memzero(f->subject.data, f->subject.len);
    }
}
