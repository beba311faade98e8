
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


static ngx_int_t ngx_http_cdm_stop_follow_name(
    ngx_http_cdm_stop_chain_t *chain, ngx_file_info_t *fi);
static ngx_int_t ngx_http_cdm_stop_follow_open(
    ngx_http_cdm_stop_chain_t *chain, ngx_file_info_t *fi);
static ngx_int_t ngx_http_cdm_stop_follow_end(
    ngx_http_cdm_stop_chain_t *chain, ngx_file_info_t *fi, ngx_log_t *log);


#define ngx_http_cdm_stop_same_file(head, fi)                                 \
    ((head)->dev == (fi)->st_dev && (head)->uniq == ngx_file_uniq(fi))


/*
 * After a rotation workers open the file anew one after the other.  The chain
 * moves once, by the first of them that writes; who still has the old file
 * then opens the new one at once, so that no file has records of later ones.
 */

ngx_int_t
ngx_http_cdm_stop_follow(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi, ngx_log_t *log)
{
    ngx_http_cdm_stop_head_t  *head;

    if (!chain->is_file) {
        return NGX_OK;
    }

    head = ngx_http_cdm_stop_chain_head(chain);

    if (fi->st_mode == 0) {

        if (head->uniq == 0) {
            return NGX_ERROR;
        }

        ngx_memzero(fi, sizeof(ngx_file_info_t));

    } else if (!ngx_is_file(fi) && head->uniq == 0) {

        /* a device or a pipe has no end to look at */

        return NGX_OK;
    }

    if (!ngx_http_cdm_stop_same_file(head, fi)) {

        if (ngx_http_cdm_stop_follow_name(chain, fi) != NGX_OK) {
            return NGX_ERROR;
        }

        head = ngx_http_cdm_stop_chain_head(chain);
    }

    if (head->size == ngx_file_size(fi)) {
        return NGX_OK;
    }

    if (head->size > ngx_file_size(fi)) {

        /* cut by someone; the chain does not forget what was there */

        return ngx_http_cdm_stop_follow_end(chain, fi, log);
    }

    return ngx_http_cdm_stop_tail(chain, ngx_file_size(fi), log);
}


/* this worker's file is not that of the chain: which one is newer? */

static ngx_int_t
ngx_http_cdm_stop_follow_name(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi)
{
    ngx_file_info_t           named;
    ngx_http_cdm_stop_head_t  head;

    if (ngx_file_info(chain->file->name.data, &named) == NGX_FILE_ERROR) {

        if (ngx_errno != NGX_ENOENT
            || !ngx_is_file(fi)
            || ngx_file_size(fi) != 0)
        {
            return NGX_ERROR;
        }

        /* renamed again before anybody wrote to it, so it is the newer one */

        return ngx_http_cdm_stop_follow_end(chain, fi, ngx_cycle->log);
    }

    if (named.st_dev != fi->st_dev
        || ngx_file_uniq(&named) != ngx_file_uniq(fi))
    {
        if (ngx_http_cdm_stop_follow_open(chain, fi) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    head = *ngx_http_cdm_stop_chain_head(chain);

    if (ngx_http_cdm_stop_same_file(&head, fi)) {
        return NGX_OK;
    }

    return ngx_http_cdm_stop_follow_end(chain, fi, ngx_cycle->log);
}


static ngx_int_t
ngx_http_cdm_stop_follow_open(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi)
{
    ngx_fd_t  fd, old;

    fd = ngx_open_file(chain->file->name.data, NGX_FILE_APPEND,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        return NGX_ERROR;
    }

    old = NGX_INVALID_FILE;

    if (ngx_is_file(fi)) {
        old = chain->file->fd;
    }

    if (fcntl(fd, F_SETFD, FD_CLOEXEC) == -1
        || ngx_fd_info(fd, fi) == NGX_FILE_ERROR
        || !ngx_is_file(fi))
    {
        (void) ngx_close_file(fd);
        return NGX_ERROR;
    }

    chain->file->fd = fd;

    /* one that nginx lost may be something else by now: it is left alone */

    if (old != NGX_INVALID_FILE && ngx_close_file(old) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      ngx_close_file_n " \"%V\" failed", &chain->name);
    }

    return NGX_OK;
}


/* goes on at the end of a file, of which nothing is known */

static ngx_int_t
ngx_http_cdm_stop_follow_end(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi, ngx_log_t *log)
{
    size_t                    piece;
    ngx_http_cdm_stop_head_t  head;

    head = *ngx_http_cdm_stop_chain_head(chain);

    head.dev = fi->st_dev;
    head.uniq = ngx_file_uniq(fi);
    head.size = ngx_file_size(fi);
    head.op = NGX_HTTP_CDM_STOP_OPEN_KEEP;
    head.unended = 0;

    if (head.size) {

        if (ngx_http_cdm_stop_tail_piece(chain, fi, &piece, log) != NGX_OK) {
            return NGX_ERROR;
        }

        head.unended = (piece != 0);
        head.torn += piece;
    }

    ngx_http_cdm_stop_chain_advance(chain, &head);

    /* what the former file had is known from now on by the state alone */

    if (chain->sh->owner) {
        ngx_http_cdm_stop_state_write(chain, log);
    }

    return NGX_OK;
}
