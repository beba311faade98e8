
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_fetch.h"


int64_t
ngx_http_cdm_stop_fetch_retry(ngx_http_cdm_stop_fetch_t *f)
{
    time_t  now;

    if (!f->complete) {
        return 0;
    }

    if (f->retry_date <= 0) {
        return f->retry_after;
    }

    now = (f->answer.date == (time_t) NGX_ERROR) ? ngx_time()
                                                 : f->answer.date;

    if (f->retry_date <= now) {
        return 0;
    }

    return ngx_min((int64_t) (f->retry_date - now) * 1000,
                   NGX_HTTP_CDM_STOP_RETRY_MAX);
}


/* a message of IAM may echo what it was sent */

size_t
ngx_http_cdm_stop_fetch_message(ngx_http_cdm_stop_fetch_t *f, u_char *text)
{
    u_char     *p, buf[NGX_HTTP_CDM_STOP_IAM_MESSAGE_LEN];
    ngx_str_t   message, *secret;

    message.data = buf;
    message.len = ngx_http_cdm_stop_iam_message(&f->answer.body, buf,
                                                sizeof(buf));
    secret = f->auth.len ? &f->auth : &f->identity->credentials.password;

    ngx_http_cdm_stop_redact(&message, secret);

    if (f->subject.len && f->by_gateway) {
        ngx_http_cdm_stop_redact(&message, &f->subject);
    }

    p = ngx_http_cdm_stop_json_text(text,
                                    text + NGX_HTTP_CDM_STOP_IAM_TEXT_LEN,
                                    &message, sizeof(buf));

    return p ? (size_t) (p - text) : 0;
}
