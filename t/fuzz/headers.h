
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _HEADERS_H_INCLUDED_
#define _HEADERS_H_INCLUDED_


/*
 * A request with headers in a guarded location of a real configuration, whose
 * proxy_pass connects to nobody.
 */


#include "cycle.h"
#include "ngx_http_cdm_stop.h"


#define HEADERS_MAX   64
#define HEADERS_SIZE  4096

/* options */

#define HEADERS_INJECTED  0x01
#define HEADERS_BODY      0x02
#define HEADERS_PART      0x1c      /* headers in each part of the list */
#define HEADERS_ANY       0x20      /* the location that passes more */
#define HEADERS_BUILT     0x40      /* the request itself follows */


typedef struct {
    ngx_http_request_t    r;
    ngx_connection_t      connection;
    ngx_table_elt_t       expect;
    ngx_str_t             names[HEADERS_MAX];
    ngx_str_t             values[HEADERS_MAX];
    ngx_uint_t            n;
    ngx_uint_t            options;
    ngx_str_t             token;
    ngx_str_t             built;
    void                 *modules[1024];
} headers_t;


static void init_headers(void);
static void make_request(headers_t *h);
static void make_list(headers_t *h);
static size_t collect(ngx_chain_t *cl, u_char *buf);
static ngx_int_t init_peer(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us);
static void free_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t state);
static ssize_t no_send(ngx_connection_t *c, u_char *buf, size_t size);


static const char  configuration[] =
    "events { }\n"
    "http {\n"
    "    cdm_stop_zone cdm:1m;\n"
    "    cdm_stop_iam huawei {\n"
    "        uri http://127.0.0.1; insecure on; domain acme; user gateway;\n"
    "        password_file secret; projects any;\n"
    "    }\n"
    "    cdm_stop_audit off;\n"
    "    cdm_stop_insecure_upstream on;\n"
    "    proxy_set_header X-Operator \"set here\";\n"
    "    server {\n"
    "        listen 127.0.0.1:8080;\n"
    "        location /v1.1/ {\n"
    "            cdm_stop huawei;\n"
    "            proxy_pass http://127.0.0.1:8081;\n"
    "        }\n"
    "        location /any/ {\n"
    "            cdm_stop huawei;\n"
    "            cdm_stop_pass_header X-Trace-Id x_odd.Name;\n"
    "            proxy_pass http://127.0.0.1:8081;\n"
    "        }\n"
    "    }\n"
    "}\n";


#define TARGET  "/v1.1/1551c7f6c808414d8e9f3c514a170f2e/clusters/"            \
                "6ec9a0a4-76be-4262-8697-e7af1fac7920/cdm/job/etl/stop"

#define TOKEN   "MIIatAYJKoZIhvcNAQcCoIIapTCCGqECAQExDTALBglghkgBZQMEAgEw"


static cycle_t  cycle;


static void
init_headers(void)
{
    ngx_uint_t                      i;
    ngx_http_cdm_stop_peer_t       *peers;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cycle_init();
    cycle_read(&cycle, configuration, sizeof(configuration) - 1);
    require(cycle.rc == NGX_OK, "a configuration");

    /* it connects to nobody */

    cdmcf = cycle_main_conf(&cycle, &ngx_http_cdm_stop_module);
    peers = cdmcf->peers.elts;

    for (i = 0; i < cdmcf->peers.nelts; i++) {
        peers[i].init = init_peer;
    }
}


static void
make_request(headers_t *h)
{
    ngx_uint_t                       i;
    ngx_http_request_t              *r;
    ngx_http_core_main_conf_t       *cmcf;
    ngx_http_cdm_stop_loc_conf_t    *cdcf, **locations;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    r = &h->r;

    cdmcf = cycle_main_conf(&cycle, &ngx_http_cdm_stop_module);
    cmcf = cycle_main_conf(&cycle, &ngx_http_core_module);

    locations = cdmcf->locations.elts;
    cdcf = NULL;

    for (i = 0; i < cdmcf->locations.nelts; i++) {
        if (locations[i]->identity
            && (locations[i]->pass_headers != NULL)
               == ((h->options & HEADERS_ANY) != 0))
        {
            cdcf = locations[i];
        }
    }

    require(cdcf != NULL, "a location");

    h->connection.log = &cycle.log;
    h->connection.send = no_send;

    r->signature = NGX_HTTP_MODULE;
    r->main = r;
    r->count = 1;
    r->connection = &h->connection;
    r->pool = ngx_create_pool(4096, &cycle.log);
    r->main_conf = ((ngx_http_conf_ctx_t *)
                    ngx_get_conf(cycle.cycle->conf_ctx, ngx_http_module))
                   ->main_conf;
    r->srv_conf = cdcf->server->ctx->srv_conf;
    r->loc_conf = cdcf->location->loc_conf;
    r->ctx = h->modules;
    r->method = NGX_HTTP_PUT;
    r->http_version = NGX_HTTP_VERSION_11;

    ngx_str_set(&r->method_name, "PUT");
    ngx_str_set(&r->unparsed_uri, TARGET);

    r->valid_unparsed_uri = 1;
    r->uri = r->unparsed_uri;

    r->variables = ngx_pcalloc(r->pool, cmcf->variables.nelts
                                        * sizeof(ngx_http_variable_value_t));
    require(r->variables != NULL, "memory");

    r->headers_in.content_length_n = (h->options & HEADERS_BODY) ? 4 : 0;

    /* the handler comes back before the body is read, see send_stop() */

    ngx_str_set(&h->expect.value, "100-continue");
    r->headers_in.expect = &h->expect;
}


static void
make_list(headers_t *h)
{
    ngx_uint_t        i, size;
    ngx_table_elt_t  *elt;

    size = 1 + ((h->options & HEADERS_PART) >> 2);

    require(ngx_list_init(&h->r.headers_in.headers, h->r.pool, size,
                          sizeof(ngx_table_elt_t))
            == NGX_OK, "a list");

    for (i = 0; i < h->n; i++) {
        elt = ngx_list_push(&h->r.headers_in.headers);
        require(elt != NULL, "memory");

        elt->key = h->names[i];
        elt->value = h->values[i];
        elt->lowcase_key = ngx_pnalloc(h->r.pool, elt->key.len);
        elt->hash = ngx_hash_strlow(elt->lowcase_key, elt->key.data,
                                    elt->key.len);
    }
}


static size_t
collect(ngx_chain_t *cl, u_char *buf)
{
    u_char  *p;

    for (p = buf; cl; cl = cl->next) {
        p = ngx_cpymem(p, cl->buf->pos, ngx_buf_size(cl->buf));
    }

    return p - buf;
}


static ngx_int_t
init_peer(ngx_http_request_t *r, ngx_http_upstream_srv_conf_t *us)
{
    r->upstream->peer.free = free_peer;

    return NGX_OK;
}


static void
free_peer(ngx_peer_connection_t *pc, void *data, ngx_uint_t state)
{
}


static ssize_t
no_send(ngx_connection_t *c, u_char *buf, size_t size)
{
    return NGX_ERROR;
}


#endif /* _HEADERS_H_INCLUDED_ */
