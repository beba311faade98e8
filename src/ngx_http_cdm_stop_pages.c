
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/*
 * The structures of the configuration lie on pages of their own, which a
 * worker makes read-only before its first request: so no request, and no
 * defect, changes for the next one what is guarded here and how.
 */

#define NGX_HTTP_CDM_STOP_PAGES_SIZE  (64 * 1024)


typedef struct ngx_http_cdm_stop_pages_s  ngx_http_cdm_stop_pages_t;

struct ngx_http_cdm_stop_pages_s {
    ngx_http_cdm_stop_pages_t  *next;
    size_t                      size;
    size_t                      used;
};


static ngx_http_cdm_stop_pages_t *ngx_http_cdm_stop_pages_add(ngx_conf_t *cf,
    size_t size);
static void ngx_http_cdm_stop_pages_cleanup(void *data);


/* the first ones of the configuration that is being read, or was last read */

static ngx_http_cdm_stop_pages_t  *ngx_http_cdm_stop_pages_first;
static ngx_cycle_t                *ngx_http_cdm_stop_pages_cycle;


void *
ngx_http_cdm_stop_conf_alloc(ngx_conf_t *cf, size_t size)
{
    u_char                     *p;
    ngx_http_cdm_stop_pages_t  *pages;

    if (ngx_http_cdm_stop_pages_cycle != cf->cycle) {
        ngx_http_cdm_stop_pages_first = NULL;
        ngx_http_cdm_stop_pages_cycle = cf->cycle;
    }

    size = ngx_align(size, NGX_ALIGNMENT);

    for (pages = ngx_http_cdm_stop_pages_first; pages; pages = pages->next) {
        if (pages->size - pages->used >= size) {
            break;
        }
    }

    if (pages == NULL) {
        pages = ngx_http_cdm_stop_pages_add(cf, size);
        if (pages == NULL) {
            return NULL;
        }
    }

    p = (u_char *) pages + pages->used;
    pages->used += size;

    return p;
}


ngx_int_t
ngx_http_cdm_stop_conf_text(ngx_conf_t *cf, ngx_str_t *text, ngx_str_t *from)
{
    u_char  *p;

    p = ngx_http_cdm_stop_conf_alloc(cf, from->len + 1);
    if (p == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(p, from->data, from->len);

    text->data = p;
    text->len = from->len;

    return NGX_OK;
}


static ngx_http_cdm_stop_pages_t *
ngx_http_cdm_stop_pages_add(ngx_conf_t *cf, size_t size)
{
    void                       *p;
    ngx_pool_cleanup_t         *cln;
    ngx_http_cdm_stop_pages_t  *pages;

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    size += ngx_align(sizeof(ngx_http_cdm_stop_pages_t), NGX_ALIGNMENT);
    size = ngx_max(size, NGX_HTTP_CDM_STOP_PAGES_SIZE);
    size = ngx_align(size, ngx_pagesize);

    p = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS,
             -1, 0);

    if (p == MAP_FAILED) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           "mmap(MAP_ANONYMOUS, %uz) failed", size);
        return NULL;
    }

    /* of a new mapping all bytes are 0, as after ngx_pcalloc() */

    pages = p;
    pages->size = size;
    pages->used = ngx_align(sizeof(ngx_http_cdm_stop_pages_t),
                            NGX_ALIGNMENT);

    if (ngx_http_cdm_stop_pages_first) {
        pages->next = ngx_http_cdm_stop_pages_first->next;
        ngx_http_cdm_stop_pages_first->next = pages;

    } else {
        ngx_http_cdm_stop_pages_first = pages;
    }

    cln->handler = ngx_http_cdm_stop_pages_cleanup;
    cln->data = pages;

    return pages;
}


static void
ngx_http_cdm_stop_pages_cleanup(void *data)
{
    ngx_http_cdm_stop_pages_t *pages = data;

    /* the next configuration may be read at the same address */

    if (pages == ngx_http_cdm_stop_pages_first) {
        ngx_http_cdm_stop_pages_first = NULL;
        ngx_http_cdm_stop_pages_cycle = NULL;
    }

    if (munmap(pages, pages->size) == -1) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      "munmap(%p, %uz) failed", pages, pages->size);
    }
}


void *
ngx_http_cdm_stop_conf_pages(void)
{
    return ngx_http_cdm_stop_pages_first;
}


ngx_int_t
ngx_http_cdm_stop_conf_protect(void *first, ngx_log_t *log)
{
    ngx_http_cdm_stop_pages_t  *pages;

    for (pages = first; pages; pages = pages->next) {

        if (mprotect(pages, pages->size, PROT_READ) == -1) {
            ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                          "mprotect(PROT_READ) of the configuration failed");
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}
