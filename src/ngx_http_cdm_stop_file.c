
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <poll.h>
#include <sys/ioctl.h>
#include "ngx_http_cdm_stop.h"


static ngx_int_t ngx_http_cdm_stop_file_reopen(
    ngx_http_cdm_stop_chain_t *chain, ngx_file_info_t *fi, ngx_log_t *log);
static ngx_int_t ngx_http_cdm_stop_file_stream(
    ngx_http_cdm_stop_chain_t *chain, size_t len);
static void ngx_http_cdm_stop_file_made(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log);


/*
 * Renamed, the file is written on until nginx is told to open it again;
 * deleted, a record in it would be seen by nobody.
 */

ngx_int_t
ngx_http_cdm_stop_file_ready(ngx_http_cdm_stop_chain_t *chain, size_t len,
    ngx_file_info_t *fi, ngx_log_t *log)
{
    if (chain->file == NULL
        || ngx_fd_info(chain->file->fd, fi) == NGX_FILE_ERROR)
    {
        /* syslog, or whoever follows the file will open it */

        fi->st_mode = 0;

        return NGX_OK;
    }

    if (!ngx_is_file(fi)) {
        return ngx_http_cdm_stop_file_stream(chain, len);
    }

    if (fi->st_nlink || !chain->is_file) {
        return NGX_OK;
    }

    return ngx_http_cdm_stop_file_reopen(chain, fi, log);
}


static ngx_int_t
ngx_http_cdm_stop_file_reopen(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi, ngx_log_t *log)
{
    ngx_fd_t   fd, old;
    ngx_err_t  err;

    fd = ngx_open_file(chain->file->name.data, NGX_FILE_APPEND|O_CLOEXEC,
                       NGX_FILE_CREATE_OR_OPEN, NGX_FILE_DEFAULT_ACCESS);

    if (fd == NGX_INVALID_FILE) {
        err = ngx_errno;

        if (ngx_time() - chain->gone_logged >= NGX_HTTP_CDM_STOP_ALERT_EVERY) {
            chain->gone_logged = ngx_time();

            ngx_log_error(NGX_LOG_ALERT, log, err,
                          "audit file \"%V\" was deleted, and the worker "
                          "cannot make a new one; send USR1 to the master "
                          "process", &chain->name);
        }

        ngx_set_errno(err);
        return NGX_ERROR;
    }

    old = chain->file->fd;
    chain->file->fd = fd;

    ngx_log_error(NGX_LOG_WARN, log, 0,
                  "audit file \"%V\" was deleted, a new one is opened",
                  &chain->name);

    if (ngx_close_file(old) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      ngx_close_file_n " \"%V\" failed", &chain->name);
    }

    if (ngx_fd_info(fd, fi) == NGX_FILE_ERROR) {
        fi->st_mode = 0;
    }

    return NGX_OK;
}


/*
 * A pipe whose reader sleeps must not put the worker to sleep.  One that nginx
 * itself opened does not; stderr is shared with others, who may rely on its
 * blocking, so it is asked for room: what a pipe takes at one go fits if there
 * is any, and more if it is empty.  Workers do this one at a time.
 */

static ngx_int_t
ngx_http_cdm_stop_file_stream(ngx_http_cdm_stop_chain_t *chain, size_t len)
{
    int            flags;
    struct pollfd  pfd;
#ifdef F_GETPIPE_SZ
    int            n, size;
#endif

    if (chain->is_file) {
        flags = fcntl(chain->file->fd, F_GETFL);

        if (flags == -1
            || (!(flags & O_NONBLOCK)
                && fcntl(chain->file->fd, F_SETFL, flags|O_NONBLOCK) == -1))
        {
            return NGX_ERROR;
        }
    }

    pfd.fd = chain->file->fd;
    pfd.events = POLLOUT;
    pfd.revents = 0;

    if (poll(&pfd, 1, 0) != 1 || !(pfd.revents & POLLOUT)) {
        ngx_set_errno(NGX_EAGAIN);
        return NGX_ERROR;
    }

#ifdef F_GETPIPE_SZ

    size = fcntl(chain->file->fd, F_GETPIPE_SZ);

    if (len > PIPE_BUF && size != -1
        && (len > (size_t) size
            || ioctl(chain->file->fd, FIONREAD, &n) == -1 || n > 0))
    {
        ngx_set_errno(NGX_EAGAIN);
        return NGX_ERROR;
    }

#endif

    return NGX_OK;
}


void
ngx_http_cdm_stop_files_made(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_log_t *log)
{
    ngx_uint_t                   i;
    ngx_http_cdm_stop_chain_t  **chains;

    chains = cdmcf->chains.elts;

    for (i = 0; i < cdmcf->chains.nelts; i++) {
        ngx_http_cdm_stop_file_made(chains[i], log);
    }
}


/*
 * What nginx opens on USR1 it gives to the user of the workers, but not what
 * it makes on a reload.  Workers that are still leaving follow the chain to
 * that file as well, and have to open it by themselves.
 *
 * Who may write to the directory, such as a worker, may put a link to a file
 * of root there, so only a file that has this name and no other is given away.
 */

static void
ngx_http_cdm_stop_file_made(ngx_http_cdm_stop_chain_t *chain, ngx_log_t *log)
{
    ngx_core_conf_t  *ccf;
    ngx_file_info_t   fi, named;

    if (!chain->is_file || geteuid() != 0) {
        return;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(chain->cycle->conf_ctx,
                                           ngx_core_module);

    if (ccf->user == (ngx_uid_t) NGX_CONF_UNSET_UINT
        || ngx_fd_info(chain->file->fd, &fi) == NGX_FILE_ERROR
        || !ngx_is_file(&fi)
        || ngx_file_size(&fi) != 0
        || fi.st_uid == ccf->user
        || ngx_link_info(chain->file->name.data, &named) == NGX_FILE_ERROR
        || ngx_file_uniq(&named) != ngx_file_uniq(&fi)
        || named.st_dev != fi.st_dev
        || fi.st_nlink != 1)
    {
        return;
    }

    if (fchown(chain->file->fd, ccf->user, (gid_t) -1) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      "fchown() of audit file \"%V\" failed, workers of the "
                      "former configuration cannot write to it",
                      &chain->name);
    }
}
