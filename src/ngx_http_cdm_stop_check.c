
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


/* X-Auth-Token with a token of 32 KB has to fit in one buffer */
#define NGX_HTTP_CDM_STOP_HEADER_BUFFER  (40 * 1024)


static ngx_int_t ngx_http_cdm_stop_check_guard(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static ngx_int_t ngx_http_cdm_stop_check_audit(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static ngx_int_t ngx_http_cdm_stop_check_proxy(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static ngx_uint_t ngx_http_cdm_stop_is_proxy(ngx_conf_t *cf,
    ngx_http_core_loc_conf_t *clcf);
static void ngx_http_cdm_stop_check_buffers(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static void ngx_http_cdm_stop_check_debug(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static void ngx_http_cdm_stop_check_siblings(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);


void ngx_cdecl
ngx_http_cdm_stop_conf_error(ngx_conf_t *cf, ngx_uint_t level,
    ngx_http_cdm_stop_place_t *place, const char *fmt, ...)
{
    u_char   errstr[NGX_MAX_CONF_ERRSTR], *p;
    va_list  args;

    va_start(args, fmt);
    p = ngx_vslprintf(errstr, errstr + NGX_MAX_CONF_ERRSTR, fmt, args);
    va_end(args);

    ngx_log_error(level, cf->log, 0, "%*s in %V:%ui",
                  (size_t) (p - errstr), errstr, &place->file, place->line);
}


ngx_int_t
ngx_http_cdm_stop_check(ngx_conf_t *cf)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_loc_conf_t   **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        if (locations[i]->identity == NULL) {
            continue;
        }

        if (cdmcf->zone == NULL) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG,
                                         &locations[i]->place,
                                         "\"cdm_stop\" needs shared memory, "
                                         "add \"cdm_stop_zone cdm:16m;\" to "
                                         "the http block");
            return NGX_ERROR;
        }

        if (ngx_http_cdm_stop_check_guard(cf, locations[i]) != NGX_OK
            || ngx_http_cdm_stop_upstream_conf(cf, locations[i]) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_cdm_stop_check_policies(cf);
}


static ngx_int_t
ngx_http_cdm_stop_check_guard(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    if (ngx_http_cdm_stop_check_callers(cf, cdcf) != NGX_OK
        || ngx_http_cdm_stop_check_audit(cf, cdcf) != NGX_OK
        || ngx_http_cdm_stop_check_proxy(cf, cdcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (cdcf->wait == 0) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                     "\"cdm_stop_wait\" of \"cdm_stop\" is "
                                     "zero, give IAM some seconds");
        return NGX_ERROR;
    }

    /* warnings are for the place where they can be mended, once */

    if (cdcf->own) {
        ngx_http_cdm_stop_check_buffers(cf, cdcf);
        ngx_http_cdm_stop_check_debug(cf, cdcf);
    }

    ngx_http_cdm_stop_check_siblings(cf, cdcf);

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_check_audit(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_uint_t                  i;
    ngx_http_cdm_stop_audit_t  *audit;

    if (cdcf->audit == NULL) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                     "\"cdm_stop\" writes its records nowhere, "
                                     "add \"cdm_stop_audit FILE;\" or, to have "
                                     "none, \"cdm_stop_audit off;\"");
        return NGX_ERROR;
    }

    if (cdcf->audit->nelts == 0) {

        if (cdcf->own) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                         "stops leave no record with "
                                         "\"cdm_stop_audit off\"");
        }

        return NGX_OK;
    }

    audit = cdcf->audit->elts;

    for (i = 0; i < cdcf->audit->nelts; i++) {
        if (audit[i].chain->is_file || audit[i].by_name) {
            return NGX_OK;
        }
    }

    ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                 "\"cdm_stop_audit %V\" alone may lose "
                                 "records, add a file or write "
                                 "\"cdm_stop_audit %V best_effort;\"",
                                 &audit[0].chain->name, &audit[0].chain->name);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_cdm_stop_check_proxy(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_http_upstream_conf_t  *ucf;

    if (cdcf->location->handler == NULL) {

        /* "cdm_stop" in a server, or around nested locations, is inherited */

        if (!cdcf->own
            || cdcf->location->name.len == 0
            || cdcf->location->locations)
        {
            return NGX_OK;
        }

        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                     "\"cdm_stop\" guards a location without "
                                     "\"proxy_pass\", add "
                                     "\"proxy_pass https://...;\" with the "
                                     "address of CDM");
        return NGX_ERROR;
    }

    ucf = ngx_http_cdm_stop_proxy_conf(cdcf->location->loc_conf);

    if (ucf->upstream == NULL) {

        /* an inherited guard may cover locations that proxy to nowhere */

        if (!cdcf->own && !ngx_http_cdm_stop_is_proxy(cf, cdcf->location)) {
            return NGX_OK;
        }

        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                     "\"cdm_stop\" needs \"proxy_pass\" with "
                                     "the address of CDM as it is, without "
                                     "variables");
        return NGX_ERROR;
    }

    if (cdcf->inject != NGX_HTTP_CDM_STOP_INJECT_OFF
        && !cdcf->insecure_upstream
        && !(ucf->ssl && ucf->ssl->ctx && ucf->ssl_verify))
    {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG, &cdcf->place,
                                     "\"cdm_stop\" would give the gateway's "
                                     "token to a server it does not check, set "
                                     "\"proxy_pass https://...;\", "
                                     "\"proxy_ssl_verify on;\", "
                                     "\"proxy_ssl_server_name on;\" and "
                                     "\"proxy_ssl_trusted_certificate\" or, "
                                     "for a test, "
                                     "\"cdm_stop_insecure_upstream on;\"");
        return NGX_ERROR;
    }

    if (!ucf->request_buffering) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                     "\"proxy_request_buffering off\" has no "
                                     "effect on stops, whose body is read "
                                     "before the token is taken; remove it");
    }

    return NGX_OK;
}


/* whether the handler is that of proxy_pass, as some other location tells */

static ngx_uint_t
ngx_http_cdm_stop_is_proxy(ngx_conf_t *cf, ngx_http_core_loc_conf_t *clcf)
{
    ngx_uint_t                       i;
    ngx_http_upstream_conf_t        *ucf;
    ngx_http_core_loc_conf_t        *other;
    ngx_http_cdm_stop_loc_conf_t   **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        other = locations[i]->location;

        if (other->handler == NULL || other->handler != clcf->handler) {
            continue;
        }

        ucf = ngx_http_cdm_stop_proxy_conf(other->loc_conf);

        if (ucf->upstream) {
            return 1;
        }
    }

    return 0;
}


static void
ngx_http_cdm_stop_check_buffers(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    size_t  size;

    size = cdcf->server->large_client_header_buffers.size;

    if (size >= NGX_HTTP_CDM_STOP_HEADER_BUFFER) {
        return;
    }

    ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                 "callers of \"cdm_stop\" who send a token "
                                 "of more than %uz bytes get 400 from nginx "
                                 "itself, write "
                                 "\"large_client_header_buffers 4 40k;\" in "
                                 "the server",
                                 size - sizeof("X-Auth-Token: " CRLF) + 1);
}


static void
ngx_http_cdm_stop_check_debug(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
#if (NGX_DEBUG)

    ngx_log_t  *log;

    for (log = cdcf->location->error_log; log; log = log->next) {

        if (log->log_level & NGX_LOG_DEBUG_ALL) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                         "nginx prints the headers of callers "
                                         "of \"cdm_stop\", their tokens "
                                         "included, at level \"debug\" of "
                                         "\"error_log\"; set it to \"info\"");
            return;
        }
    }

#endif
}


/* a way to the same CDM that leaves the guard aside */

static void
ngx_http_cdm_stop_check_siblings(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    ngx_uint_t                       i;
    ngx_http_upstream_conf_t        *guarded, *other;
    ngx_http_cdm_stop_loc_conf_t   **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    if (cdcf->location->handler == NULL) {
        return;
    }

    guarded = ngx_http_cdm_stop_proxy_conf(cdcf->location->loc_conf);

    if (guarded->upstream == NULL) {
        return;
    }

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        if (locations[i]->identity || locations[i]->location->handler == NULL)
        {
            continue;
        }

        other = ngx_http_cdm_stop_proxy_conf(locations[i]->location->loc_conf);

        if (other->upstream == guarded->upstream) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->place,
                                         "location \"%V\" proxies to the same "
                                         "CDM without \"cdm_stop\", guard it "
                                         "as well",
                                         &locations[i]->location->name);
        }
    }
}
