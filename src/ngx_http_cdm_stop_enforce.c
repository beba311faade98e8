
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


ngx_int_t
ngx_http_cdm_stop_enforce(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    return NGX_OK;
}
