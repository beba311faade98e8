
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <ngx_syslog.h>
#include "ngx_http_cdm_stop.h"


/* how long a server that is not there is left alone, in milliseconds */
#define NGX_HTTP_CDM_STOP_SYSLOG_REST    1000

/* priority, time, host name, tag */
#define NGX_HTTP_CDM_STOP_SYSLOG_HEADER                                       \
    (sizeof("<255>Jan 01 00:00:00  : ") + NGX_MAXHOSTNAMELEN + 32)


struct ngx_http_cdm_stop_syslog_s {
    ngx_syslog_peer_t   peer;
    int64_t             rest;           /* until then */
    u_char             *buf;
};


ngx_int_t
ngx_http_cdm_stop_syslog_add(ngx_conf_t *cf, ngx_http_cdm_stop_chain_t *chain)
{
    ngx_http_cdm_stop_syslog_t  *syslog;

    syslog = ngx_pcalloc(cf->pool, sizeof(ngx_http_cdm_stop_syslog_t));
    if (syslog == NULL) {
        return NGX_ERROR;
    }

    syslog->buf = ngx_pnalloc(cf->pool, NGX_HTTP_CDM_STOP_SYSLOG_HEADER
                                        + NGX_HTTP_CDM_STOP_RECORD_LINK
                                        + NGX_HTTP_CDM_STOP_RECORD_LEN
                                        + NGX_HTTP_CDM_STOP_RECORD_TAIL);
    if (syslog->buf == NULL) {
        return NGX_ERROR;
    }

    /* reads the directive's first argument, and cuts it to pieces */

    if (ngx_syslog_process_conf(cf, &syslog->peer) != NGX_CONF_OK) {
        return NGX_ERROR;
    }

    chain->syslog = syslog;

    return NGX_OK;
}


/*
 * The sockets are datagram ones and do not block.  A server that is gone costs
 * two system calls and two lines of the error log at each try, so it is not
 * tried for each record.
 */

ssize_t
ngx_http_cdm_stop_syslog_send(ngx_http_cdm_stop_syslog_t *syslog, u_char *p,
    size_t len)
{
    u_char     *last;
    ssize_t     n;
    int64_t     now;
    ngx_err_t   err;

    now = ngx_http_cdm_stop_now();

    if (now < syslog->rest) {
        ngx_set_errno(NGX_EAGAIN);
        return -1;
    }

    /* a message has no line feed at its end */

    last = ngx_syslog_add_header(&syslog->peer, syslog->buf);
    last = ngx_cpymem(last, p, len - 1);

    ngx_set_errno(0);

    n = ngx_syslog_send(&syslog->peer, syslog->buf, last - syslog->buf);

    if (n == last - syslog->buf) {
        return len;
    }

    err = ngx_errno;

    if (n != NGX_AGAIN && err != EMSGSIZE) {
        syslog->rest = now + NGX_HTTP_CDM_STOP_SYSLOG_REST;
    }

    ngx_set_errno(err);

    return -1;
}
