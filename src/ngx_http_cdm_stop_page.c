
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop_status.h"


ngx_str_t  ngx_http_cdm_stop_page = ngx_string(
    "<!DOCTYPE html>\n"
    "<html lang=\"en\">\n"
    "<meta charset=\"utf-8\">\n"
    "<title>cdm_stop</title>\n"
    "<p><a href=\"?format=json\">JSON</a>\n"
    "<p><a href=\"?format=metrics\">Metrics</a>\n"
    "</html>\n"
);


ngx_str_t  ngx_http_cdm_stop_page_csp = ngx_string(
    "default-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
);
