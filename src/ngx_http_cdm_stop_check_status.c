
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_status.h"


static void ngx_http_cdm_stop_check_open(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);
static ngx_uint_t ngx_http_cdm_stop_is_limited(ngx_conf_t *cf,
    ngx_http_core_loc_conf_t *clcf);
static void *ngx_http_cdm_stop_conf_of(ngx_conf_t *cf, void **loc_conf,
    char *name);
static ngx_uint_t ngx_http_cdm_stop_is_local(ngx_conf_t *cf,
    ngx_http_core_srv_conf_t *cscf);
static ngx_uint_t ngx_http_cdm_stop_addr_has(ngx_http_conf_addr_t *addr,
    ngx_http_core_srv_conf_t *cscf);
static ngx_uint_t ngx_http_cdm_stop_addr_is_local(struct sockaddr *sa);
static void ngx_http_cdm_stop_check_uses(ngx_http_cdm_stop_main_conf_t *cdmcf);


ngx_int_t
ngx_http_cdm_stop_check_status(ngx_conf_t *cf, ngx_uint_t guarded)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_loc_conf_t   **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    cdmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_cdm_stop_module);

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        if (!locations[i]->status) {
            continue;
        }

        if (!guarded) {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG,
                                         &locations[i]->status_place,
                                         "\"cdm_stop_status\" has nothing to "
                                         "tell of, guard a location by "
                                         "\"cdm_stop\" or remove it");
            return NGX_ERROR;
        }

        if (locations[i]->location->handler
            != ngx_http_cdm_stop_status_handler)
        {
            ngx_http_cdm_stop_conf_error(cf, NGX_LOG_EMERG,
                                         &locations[i]->status_place,
                                         "\"cdm_stop_status\" is in a "
                                         "location that something else, such "
                                         "as \"proxy_pass\", answers, give it "
                                         "a location of its own");
            return NGX_ERROR;
        }

        if (locations[i]->status == NGX_HTTP_CDM_STOP_STATUS_ALL) {
            ngx_http_cdm_stop_check_open(cf, locations[i]);
        }
    }

    ngx_http_cdm_stop_check_uses(cdmcf);

    return NGX_OK;
}


static void
ngx_http_cdm_stop_check_open(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf)
{
    if (cdcf->location->internal
        || ngx_http_cdm_stop_is_limited(cf, cdcf->location)
        || ngx_http_cdm_stop_is_local(cf, cdcf->server))
    {
        return;
    }

    ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &cdcf->status_place,
                                 "\"cdm_stop_status\" tells everybody who "
                                 "stopped which job and what is wrong here, "
                                 "add such as \"allow 127.0.0.1; deny all;\" "
                                 "to its location");
}


/*
 * The configuration of a module that may not be there is found by its name;
 * what it begins with is the same in all versions of nginx that we build with.
 */

static ngx_uint_t
ngx_http_cdm_stop_is_limited(ngx_conf_t *cf, ngx_http_core_loc_conf_t *clcf)
{
    void       **pointers;
    ngx_str_t   *uri;
    ngx_uint_t   i, n;

    /* the rules by family of addresses, each an array or NULL */

    pointers = ngx_http_cdm_stop_conf_of(cf, clcf->loc_conf,
                                         "ngx_http_access_module");

    n = 1;
#if (NGX_HAVE_INET6)
    n++;
#endif
#if (NGX_HAVE_UNIX_DOMAIN)
    n++;
#endif

    for (i = 0; pointers && i < n; i++) {
        if (pointers[i]) {
            return 1;
        }
    }

    /* the realm */

    pointers = ngx_http_cdm_stop_conf_of(cf, clcf->loc_conf,
                                         "ngx_http_auth_basic_module");

    if (pointers && pointers[0]) {
        return 1;
    }

    uri = ngx_http_cdm_stop_conf_of(cf, clcf->loc_conf,
                                    "ngx_http_auth_request_module");

    return uri && uri->len;
}


static void *
ngx_http_cdm_stop_conf_of(ngx_conf_t *cf, void **loc_conf, char *name)
{
    ngx_uint_t  i;

    for (i = 0; cf->cycle->modules[i]; i++) {
        if (ngx_strcmp(cf->cycle->modules[i]->name, name) == 0) {
            return loc_conf[cf->cycle->modules[i]->ctx_index];
        }
    }

    return NULL;
}


/* whether only this host gets to the server */

static ngx_uint_t
ngx_http_cdm_stop_is_local(ngx_conf_t *cf, ngx_http_core_srv_conf_t *cscf)
{
    ngx_uint_t                  i, j;
    ngx_http_conf_port_t       *port;
    ngx_http_conf_addr_t       *addr;
    ngx_http_core_main_conf_t  *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    if (cmcf->ports == NULL) {
        return 0;
    }

    port = cmcf->ports->elts;

    for (i = 0; i < cmcf->ports->nelts; i++) {

        addr = port[i].addrs.elts;

        for (j = 0; j < port[i].addrs.nelts; j++) {

            if (ngx_http_cdm_stop_addr_has(&addr[j], cscf)
                && !ngx_http_cdm_stop_addr_is_local(addr[j].opt.sockaddr))
            {
                return 0;
            }
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_cdm_stop_addr_has(ngx_http_conf_addr_t *addr,
    ngx_http_core_srv_conf_t *cscf)
{
    ngx_uint_t                  i;
    ngx_http_core_srv_conf_t  **servers;

    servers = addr->servers.elts;

    for (i = 0; i < addr->servers.nelts; i++) {
        if (servers[i] == cscf) {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_cdm_stop_addr_is_local(struct sockaddr *sa)
{
    struct sockaddr_in   *sin;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;
#endif

    switch (sa->sa_family) {

    case AF_INET:
        sin = (struct sockaddr_in *) sa;
        return (ntohl(sin->sin_addr.s_addr) >> 24) == IN_LOOPBACKNET;

#if (NGX_HAVE_INET6)
    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sa;
        return IN6_IS_ADDR_LOOPBACK(&sin6->sin6_addr);
#endif

    case AF_UNIX:
        return 1;

    default:
        return 0;
    }
}


/* the identities without which some stop has no token */

static void
ngx_http_cdm_stop_check_uses(ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_identity_t    *identity;
    ngx_http_cdm_stop_loc_conf_t   **locations;

    locations = cdmcf->locations.elts;

    for (i = 0; i < cdmcf->locations.nelts; i++) {

        identity = locations[i]->identity;

        if (identity
            && locations[i]->inject != NGX_HTTP_CDM_STOP_INJECT_OFF)
        {
            identity->used = 1;
        }
    }
}
