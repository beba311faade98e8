
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_metric.h"
#include "ngx_http_cdm_stop_status.h"


static void ngx_http_cdm_stop_labels(ngx_http_cdm_stop_metric_t *m,
    const char *le);
static void ngx_http_cdm_stop_fraction(ngx_http_cdm_stop_metric_t *m,
    ngx_uint_t value, ngx_uint_t unit);


void
ngx_http_cdm_stop_family(ngx_http_cdm_stop_metric_t *m, const char *name,
    const char *type, const char *help)
{
    const char  *suffix;

    suffix = (ngx_strcmp(type, "counter") == 0 && !m->out->openmetrics)
             ? "_total" : "";

    m->name = name;
    m->nlabels = 0;

    ngx_http_cdm_stop_out(m->out, "# HELP %s%s %s\n# TYPE %s%s %s\n",
                          name, suffix, help, name, suffix, type);
}


void
ngx_http_cdm_stop_label(ngx_http_cdm_stop_metric_t *m, const char *key,
    u_char *data, size_t len)
{
    m->labels[m->nlabels].key = key;
    m->labels[m->nlabels].data = data;
    m->labels[m->nlabels].len = len;

    m->nlabels++;
}


void
ngx_http_cdm_stop_word(ngx_http_cdm_stop_metric_t *m, const char *key,
    const char *word)
{
    ngx_http_cdm_stop_label(m, key, (u_char *) word, ngx_strlen(word));
}


static void
ngx_http_cdm_stop_labels(ngx_http_cdm_stop_metric_t *m, const char *le)
{
    ngx_uint_t  i;

    if (m->nlabels == 0 && le == NULL) {
        return;
    }

    for (i = 0; i < m->nlabels; i++) {
        ngx_http_cdm_stop_out(m->out, "%s%s=\"", i ? "," : "{",
                              m->labels[i].key);
        ngx_http_cdm_stop_out_label(m->out, m->labels[i].data,
                                    m->labels[i].len);
        ngx_http_cdm_stop_out(m->out, "\"");
    }

    if (le) {
        ngx_http_cdm_stop_out(m->out, "%sle=\"%s\"", i ? "," : "{", le);
    }

    ngx_http_cdm_stop_out(m->out, "}");
}


void
ngx_http_cdm_stop_counter(ngx_http_cdm_stop_metric_t *m, uint64_t value)
{
    ngx_http_cdm_stop_out(m->out, "%s_total", m->name);
    ngx_http_cdm_stop_labels(m, NULL);
    ngx_http_cdm_stop_out(m->out, " %uL\n", value);

    m->nlabels = 0;
}


void
ngx_http_cdm_stop_gauge(ngx_http_cdm_stop_metric_t *m, uint64_t value)
{
    ngx_http_cdm_stop_out(m->out, "%s", m->name);
    ngx_http_cdm_stop_labels(m, NULL);
    ngx_http_cdm_stop_out(m->out, " %uL\n", value);

    m->nlabels = 0;
}


void
ngx_http_cdm_stop_seconds(ngx_http_cdm_stop_metric_t *m, int64_t ms)
{
    ms = ngx_max(ms, 0);

    ngx_http_cdm_stop_out(m->out, "%s", m->name);
    ngx_http_cdm_stop_labels(m, NULL);
    ngx_http_cdm_stop_out(m->out, " %L.%03L\n", ms / 1000, ms % 1000);

    m->nlabels = 0;
}


void
ngx_http_cdm_stop_histogram(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_histogram_t *h, const ngx_uint_t *bounds,
    ngx_uint_t unit)
{
    u_char      le[NGX_INT_T_LEN + sizeof(".000000")], *p;
    ngx_uint_t  i, sum, count;

    /* what is counted meanwhile may be in the sum already */

    sum = h->sum;
    count = 0;

    for (i = 0; i < NGX_HTTP_CDM_STOP_BUCKETS; i++) {

        count += h->buckets[i];

        if (i < NGX_HTTP_CDM_STOP_BUCKETS - 1) {

            p = ngx_sprintf(le, (unit == 1000) ? "%ui.%03ui" : "%ui.%06ui",
                            bounds[i] / unit, bounds[i] % unit);

            /* 0.25 and not 0.250, 1.0 and not 1 */

            while (p[-1] == '0' && p[-2] != '.') {
                p--;
            }

            *p = '\0';

        } else {
            ngx_memcpy(le, "+Inf", sizeof("+Inf"));
        }

        ngx_http_cdm_stop_out(m->out, "%s_bucket", m->name);
        ngx_http_cdm_stop_labels(m, (char *) le);
        ngx_http_cdm_stop_out(m->out, " %ui\n", count);
    }

    ngx_http_cdm_stop_out(m->out, "%s_sum", m->name);
    ngx_http_cdm_stop_labels(m, NULL);
    ngx_http_cdm_stop_fraction(m, sum, unit);

    ngx_http_cdm_stop_out(m->out, "%s_count", m->name);
    ngx_http_cdm_stop_labels(m, NULL);
    ngx_http_cdm_stop_out(m->out, " %ui\n", count);

    m->nlabels = 0;
}


static void
ngx_http_cdm_stop_fraction(ngx_http_cdm_stop_metric_t *m, ngx_uint_t value,
    ngx_uint_t unit)
{
    ngx_http_cdm_stop_out(m->out, (unit == 1000) ? " %ui.%03ui\n"
                                                 : " %ui.%06ui\n",
                          value / unit, value % unit);
}


ngx_uint_t
ngx_http_cdm_stop_metric_identity(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh, ngx_uint_t i)
{
    m->nlabels = 0;

    if (i < sh->nidentities) {
        ngx_http_cdm_stop_label(m, "identity", sh->identities[i].name,
                                sh->identities[i].name_len);
        return 1;
    }

    if (i == NGX_HTTP_CDM_STOP_NAMED_MAX) {
        ngx_http_cdm_stop_word(m, "identity", "other");
        return 1;
    }

    return 0;
}


ngx_uint_t
ngx_http_cdm_stop_metric_target(ngx_http_cdm_stop_metric_t *m,
    ngx_http_cdm_stop_stats_sh_t *sh, ngx_uint_t i)
{
    m->nlabels = 0;

    if (i < sh->ntargets) {
        ngx_http_cdm_stop_label(m, "target", sh->targets[i].name,
                                sh->targets[i].name_len);
        return 1;
    }

    if (i == NGX_HTTP_CDM_STOP_NAMED_MAX) {
        ngx_http_cdm_stop_word(m, "target", "other");
        return 1;
    }

    return 0;
}
