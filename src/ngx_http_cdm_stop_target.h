
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_TARGET_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_TARGET_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* an IAM project id is 32 lower-case hexadecimal digits, a cluster id a UUID */

#define NGX_HTTP_CDM_STOP_PROJECT_LEN   32
#define NGX_HTTP_CDM_STOP_CLUSTER_LEN   36

/* the API reference: a job name has 1 to 240 characters, here in UTF-8 */

#define NGX_HTTP_CDM_STOP_JOB_CHARS     240
#define NGX_HTTP_CDM_STOP_JOB_LEN       (NGX_HTTP_CDM_STOP_JOB_CHARS * 4)

/* "/v1.1/" "/clusters/" "/cdm/job/" "/stop" and each byte of a name as %XX */

#define NGX_HTTP_CDM_STOP_TARGET_LEN                                          \
    (6 + NGX_HTTP_CDM_STOP_PROJECT_LEN + 10 + NGX_HTTP_CDM_STOP_CLUSTER_LEN   \
     + 9 + NGX_HTTP_CDM_STOP_JOB_LEN * 3 + 5)


typedef struct {
    ngx_str_t  project;     /* points into the parsed target */
    ngx_str_t  cluster;     /* points into the parsed target */
    ngx_str_t  job;         /* decoded, points into one of both */
} ngx_http_cdm_stop_target_t;


/*
 * Recognises PUT /v1.1/{project_id}/clusters/{cluster_id}/cdm/job/{job_name}
 * /stop by its target as the client sent it (path and query, not decoded).
 * Returns
 *   NGX_OK        it is a stop, spelled as documented; t is filled,
 *   NGX_ERROR     it is no stop as it stands, but some normalisation would
 *                 make it one (or its ids or name are not legal): refuse it,
 *   NGX_DECLINED  it is some other request.
 * scratch is working memory of at least uri->len bytes; it has the name then,
 * unless that was not encoded.
 *
 * Source: CDM API reference, StopJob and "URI of the APIs".
 */
ngx_int_t ngx_http_cdm_stop_target_parse(ngx_http_cdm_stop_target_t *t,
    ngx_str_t *uri, u_char *scratch);

/*
 * The part of the above that looks through normalisations: whether some
 * reading of uri has the shape of a stop.
 */
ngx_uint_t ngx_http_cdm_stop_target_resembles(ngx_str_t *uri, u_char *scratch);

/*
 * Writes the one canonical target of a stop (every byte of the name that is
 * not unreserved in RFC 3986 as %XX) and returns its end; dst has room for
 * NGX_HTTP_CDM_STOP_TARGET_LEN bytes, of which a shorter name needs three less
 * for each byte.
 */
u_char *ngx_http_cdm_stop_target_build(u_char *dst,
    ngx_http_cdm_stop_target_t *t);

/*
 * Whether uri, decoded, is the path of the very stop that t holds.
 */
ngx_uint_t ngx_http_cdm_stop_target_equal(ngx_http_cdm_stop_target_t *t,
    ngx_str_t *uri);


#endif /* _NGX_HTTP_CDM_STOP_TARGET_H_INCLUDED_ */
