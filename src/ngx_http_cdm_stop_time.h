
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_TIME_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_TIME_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_HTTP_CDM_STOP_TIME_ERROR  INT64_MIN


/*
 * Milliseconds of a clock that nobody sets and that runs on while the machine
 * is suspended; the same for all processes of a host until it boots.  It is
 * read once for a turn of the event loop, so what another process wrote may
 * be some milliseconds ahead.  Not for threads.
 */
int64_t ngx_http_cdm_stop_now(void);

/*
 * Parses a time as Keystone writes it ("2020-01-04T09:05:22.701000Z"; the
 * fraction may be missing, the zone may be "+08:00") into milliseconds since
 * the Unix epoch.  Returns NGX_HTTP_CDM_STOP_TIME_ERROR if it is no such time.
 */
int64_t ngx_http_cdm_stop_parse_time(u_char *p, size_t len);

/* writes a time as records have it: 24 bytes, of which it returns the end */
u_char *ngx_http_cdm_stop_time_text(u_char *p, time_t sec, ngx_uint_t msec);


#endif /* _NGX_HTTP_CDM_STOP_TIME_H_INCLUDED_ */
