
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/evp.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"
#include "ngx_http_cdm_stop_zone.h"


#define NGX_HTTP_CDM_STOP_MINUTE    60000

/* buckets that one caller may be in */
#define NGX_HTTP_CDM_STOP_RATE_WAY  8

/* bytes of an IPv6 address that tell networks apart */
#define NGX_HTTP_CDM_STOP_RATE_NET  8

/* the part of the zone that buckets take */
#define NGX_HTTP_CDM_STOP_RATE_PART 64


/*
 * The leaky bucket of limit_req.  A stop fills it by a minute's milliseconds,
 * and N of these run out in each millisecond, so nothing is rounded.
 */

typedef struct {
    u_char                     id[16];
    int64_t                    last;
    int64_t                    level;
    int64_t                    empty;       /* when it will be */
} ngx_http_cdm_stop_bucket_t;


static ngx_int_t ngx_http_cdm_stop_rate_id(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, u_char *id);
static void ngx_http_cdm_stop_rate_address(ngx_http_request_t *r,
    ngx_str_t *name);
static ngx_http_cdm_stop_bucket_t *ngx_http_cdm_stop_bucket(
    ngx_http_cdm_stop_shctx_t *sh, u_char *id, int64_t rate, int64_t now);


/* "cdm_stop_rate N/m [burst=N]" */

char *
ngx_http_cdm_stop_rate_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    ngx_int_t                  n, burst;
    ngx_str_t                 *value;
    ngx_http_cdm_stop_rate_t  *rate;

    if (cdcf->rate != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        cdcf->rate = NULL;
        return NGX_CONF_OK;
    }

    n = NGX_ERROR;
    burst = 0;

    if (value[1].len > 2
        && ngx_strncmp(value[1].data + value[1].len - 2, "/m", 2) == 0)
    {
        n = ngx_atoi(value[1].data, value[1].len - 2);
    }

    if (n < 1 || n > NGX_HTTP_CDM_STOP_MINUTE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "bad rate \"%V\", write stops a minute such as "
                           "\"30/m\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 3) {

        if (ngx_strncmp(value[2].data, "burst=", 6) == 0) {
            burst = ngx_atoi(value[2].data + 6, value[2].len - 6);

        } else {
            burst = NGX_ERROR;
        }

        if (burst < 0 || burst > NGX_HTTP_CDM_STOP_MINUTE) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "bad burst \"%V\", write such as \"burst=10\"",
                               &value[2]);
            return NGX_CONF_ERROR;
        }
    }

    rate = ngx_http_cdm_stop_conf_alloc(cf, sizeof(ngx_http_cdm_stop_rate_t));
    if (rate == NULL) {
        return NGX_CONF_ERROR;
    }

    rate->rate = n;
    rate->burst = burst;

    cdcf->rate = rate;

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_cdm_stop_rate_init(ngx_http_cdm_stop_zone_t *zone, size_t size)
{
    size_t  n;

    n = size / NGX_HTTP_CDM_STOP_RATE_PART
        / (sizeof(ngx_http_cdm_stop_bucket_t) * NGX_HTTP_CDM_STOP_RATE_WAY);

    zone->sh->nbuckets = n * NGX_HTTP_CDM_STOP_RATE_WAY;

    zone->sh->buckets = ngx_slab_calloc(zone->shpool, zone->sh->nbuckets
                                     * sizeof(ngx_http_cdm_stop_bucket_t));

    return zone->sh->buckets ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_http_cdm_stop_take_rate(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char                          id[EVP_MAX_MD_SIZE];
    int64_t                         now, over;
    ngx_http_cdm_stop_rate_t       *rate;
    ngx_http_cdm_stop_zone_t       *zone;
    ngx_http_cdm_stop_bucket_t     *bucket;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);
    zone = cdmcf->zone->data;
    rate = ctx->conf->rate;

    if (ngx_http_cdm_stop_rate_id(r, ctx, id) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    now = ngx_http_cdm_stop_now();
    bucket = ngx_http_cdm_stop_bucket(zone->sh, id, rate->rate, now);

    over = bucket->level - rate->burst * NGX_HTTP_CDM_STOP_MINUTE;

    if (over <= 0) {
        bucket->level += NGX_HTTP_CDM_STOP_MINUTE;
        bucket->empty = now + bucket->level / rate->rate;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    if (over <= 0) {
        return NGX_OK;
    }

    ctx->retry_after = over / rate->rate + 1;

    return NGX_DECLINED;
}


/* who has no name is known by the address; no name is an address's bytes */

static ngx_int_t
ngx_http_cdm_stop_rate_id(ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx,
    u_char *id)
{
    u_char       *p, *data;
    size_t        len;
    ngx_str_t     name;
    ngx_uint_t    named;
    unsigned int  n;

    named = (ctx->caller.principal.len != 0);

    if (named) {
        name = ctx->caller.principal;

    } else {
        ngx_http_cdm_stop_rate_address(r, &name);
    }

    /* another rate is another bucket */

    len = 1 + sizeof(ngx_http_cdm_stop_rate_t) + name.len;

    data = ngx_pnalloc(r->pool, len);
    if (data == NULL) {
        return NGX_ERROR;
    }

    p = data;
    *p++ = named ? 'p' : 'a';
    p = ngx_cpymem(p, ctx->conf->rate, sizeof(ngx_http_cdm_stop_rate_t));
    ngx_memcpy(p, name.data, name.len);

    if (EVP_Digest(data, len, id, &n, EVP_sha256(), NULL) != 1) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* one host has all addresses of its IPv6 network, which has 64 bits */

static void
ngx_http_cdm_stop_rate_address(ngx_http_request_t *r, ngx_str_t *name)
{
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;

    if (r->connection->sockaddr->sa_family == AF_INET6) {

        sin6 = (struct sockaddr_in6 *) r->connection->sockaddr;

        if (!IN6_IS_ADDR_V4MAPPED(&sin6->sin6_addr)) {
            name->data = sin6->sin6_addr.s6_addr;
            name->len = NGX_HTTP_CDM_STOP_RATE_NET;
            return;
        }
    }
#endif

    *name = r->connection->addr_text;
}


/*
 * The bucket of an id, drained up to now.  Of the few that it may be in, the
 * one that is empty first makes room.
 */

static ngx_http_cdm_stop_bucket_t *
ngx_http_cdm_stop_bucket(ngx_http_cdm_stop_shctx_t *sh, u_char *id,
    int64_t rate, int64_t now)
{
    uint32_t                     hash;
    ngx_uint_t                   i;
    ngx_http_cdm_stop_bucket_t  *set, *b, *found;

    ngx_memcpy(&hash, id, sizeof(uint32_t));

    set = sh->buckets;
    set += hash % (sh->nbuckets / NGX_HTTP_CDM_STOP_RATE_WAY)
           * NGX_HTTP_CDM_STOP_RATE_WAY;

    found = set;

    for (i = 0; i < NGX_HTTP_CDM_STOP_RATE_WAY; i++) {
        b = &set[i];

        if (ngx_memcmp(b->id, id, sizeof(b->id)) == 0) {

            /* another worker may be some milliseconds ahead */

            if (now > b->last) {
                b->level = ngx_max(b->level - (now - b->last) * rate, 0);
                b->last = now;
            }

            return b;
        }

        if (b->empty < found->empty) {
            found = b;
        }
    }

    ngx_memcpy(found->id, id, sizeof(found->id));
    found->last = now;
    found->level = 0;
    found->empty = now;

    return found;
}
