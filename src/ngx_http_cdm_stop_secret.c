
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


#define NGX_HTTP_CDM_STOP_SECRET_MAX  65536


static ngx_int_t ngx_http_cdm_stop_check_secret(ngx_conf_t *cf, ngx_fd_t fd,
    ngx_str_t *name, size_t *size);
static ngx_int_t ngx_http_cdm_stop_load_secret(ngx_conf_t *cf, ngx_fd_t fd,
    ngx_str_t *name, size_t size, ngx_str_t *secret);
static void ngx_http_cdm_stop_wipe_secret(void *data);


ngx_int_t
ngx_http_cdm_stop_read_secret(ngx_conf_t *cf, ngx_str_t *file,
    ngx_str_t *secret)
{
    u_char     *p;
    ngx_str_t   name;

    if (ngx_http_cdm_stop_read_key(cf, file, secret) != NGX_OK) {
        return NGX_ERROR;
    }

    name = *file;

    if (ngx_conf_full_name(cf->cycle, &name, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    /* it goes into JSON, which is UTF-8 */

    for (p = secret->data; p < secret->data + secret->len; /* void */ ) {

        if (ngx_http_cdm_stop_utf8_decode(&p, secret->data + secret->len)
            == NGX_HTTP_CDM_STOP_BAD_UTF8)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "secret \"%V\" is not valid UTF-8, save the "
                               "file as UTF-8", &name);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_read_key(ngx_conf_t *cf, ngx_str_t *file, ngx_str_t *secret)
{
    size_t     size;
    ngx_fd_t   fd;
    ngx_int_t  rc;
    ngx_str_t  name;

    name = *file;

    if (ngx_conf_full_name(cf->cycle, &name, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    /* a FIFO would block here for ever */

    fd = ngx_open_file(name.data, NGX_FILE_RDONLY|NGX_FILE_NONBLOCK,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed, put the secret "
                           "there in a file that only the master process "
                           "may read", &name);
        return NGX_ERROR;
    }

    rc = ngx_http_cdm_stop_check_secret(cf, fd, &name, &size);

    if (rc == NGX_OK) {
        rc = ngx_http_cdm_stop_load_secret(cf, fd, &name, size, secret);
    }

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", &name);
    }

    return rc;
}


static ngx_int_t
ngx_http_cdm_stop_check_secret(ngx_conf_t *cf, ngx_fd_t fd, ngx_str_t *name,
    size_t *size)
{
    ngx_file_info_t  fi;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_fd_info_n " \"%V\" failed", name);
        return NGX_ERROR;
    }

    if (!ngx_is_file(&fi)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "secret \"%V\" is not a regular file, name the "
                           "file itself", name);
        return NGX_ERROR;
    }

    if (fi.st_mode & (S_IROTH|S_IWOTH|S_IWGRP)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "secret \"%V\" can be read or written by others, "
                           "run: chmod 600 %V", name, name);
        return NGX_ERROR;
    }

    if (ngx_file_size(&fi) == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "secret \"%V\" is empty, write the secret into it",
                           name);
        return NGX_ERROR;
    }

    if (ngx_file_size(&fi) > NGX_HTTP_CDM_STOP_SECRET_MAX) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "secret \"%V\" is larger than 64 KB, it must hold "
                           "nothing but the secret", name);
        return NGX_ERROR;
    }

    *size = (size_t) ngx_file_size(&fi);

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_load_secret(ngx_conf_t *cf, ngx_fd_t fd, ngx_str_t *name,
    size_t size, ngx_str_t *secret)
{
    ssize_t              n;
    ngx_str_t           *whole;
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_str_t));
    if (cln == NULL) {
        return NGX_ERROR;
    }

    whole = cln->data;

    whole->data = ngx_pcalloc(cf->pool, size + 1);
    if (whole->data == NULL) {
        return NGX_ERROR;
    }

    whole->len = size + 1;

    /* gone with the configuration, that is after the next reload */

    cln->handler = ngx_http_cdm_stop_wipe_secret;

    n = ngx_read_fd(fd, whole->data, size);

    if (n != (ssize_t) size) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, (n == -1) ? ngx_errno : 0,
                           ngx_read_fd_n " \"%V\" failed", name);
        return NGX_ERROR;
    }

    secret->data = whole->data;
    secret->len = size;

    if (secret->data[secret->len - 1] == LF) {
        secret->len--;
    }

    if (secret->len && secret->data[secret->len - 1] == CR) {
        secret->len--;
    }

    if (secret->len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "secret \"%V\" is empty, write the secret into it",
                           name);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static void
ngx_http_cdm_stop_wipe_secret(void *data)
{
    ngx_str_t *secret = data;

    ngx_explicit_memzero(secret->data, secret->len);
}
