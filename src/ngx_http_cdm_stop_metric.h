
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_METRIC_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_METRIC_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop_status.h"


/*
 * The text format of Prometheus 0.0.4 and OpenMetrics 1.0.0.  They differ in
 * the name of a counter's family, which has no "_total" in the second, and in
 * the end.  Units are seconds and bytes.
 */

#define NGX_HTTP_CDM_STOP_LABELS_MAX  6


typedef struct {
    ngx_http_cdm_stop_out_t  *out;
    const char               *name;     /* of the family, without "_total" */
    ngx_uint_t                nlabels;

    struct {
        const char           *key;
        u_char               *data;
        size_t                len;
    } labels[NGX_HTTP_CDM_STOP_LABELS_MAX];
} ngx_http_cdm_stop_metric_t;


/* begins a family: type is "counter", "gauge" or "histogram" */
void ngx_http_cdm_stop_family(ngx_http_cdm_stop_metric_t *m,
    const char *name, const char *type, const char *help);

/* adds a label to the next sample, which takes all that were added */
void ngx_http_cdm_stop_label(ngx_http_cdm_stop_metric_t *m,
    const char *key, u_char *data, size_t len);
void ngx_http_cdm_stop_word(ngx_http_cdm_stop_metric_t *m,
    const char *key, const char *word);

/* samples of the family */
void ngx_http_cdm_stop_counter(ngx_http_cdm_stop_metric_t *m,
    uint64_t value);
void ngx_http_cdm_stop_gauge(ngx_http_cdm_stop_metric_t *m, uint64_t value);

/* milliseconds, told in seconds */
void ngx_http_cdm_stop_seconds(ngx_http_cdm_stop_metric_t *m, int64_t ms);

/* unit is 1000 or 1000000, of what the histogram counts in a second */
void ngx_http_cdm_stop_histogram(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_histogram_t *h, const ngx_uint_t *bounds,
    ngx_uint_t unit);

/* begins the labels with those of the i-th one; 0 if there is none */
ngx_uint_t ngx_http_cdm_stop_metric_identity(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh, ngx_uint_t i);
ngx_uint_t ngx_http_cdm_stop_metric_target(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh, ngx_uint_t i);

/* all that is not counted but looked at, and the records */
void ngx_http_cdm_stop_metrics_state(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_view_t *view);


#endif /* _NGX_HTTP_CDM_STOP_METRIC_H_INCLUDED_ */
