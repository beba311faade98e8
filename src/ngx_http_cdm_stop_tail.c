
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <jansson.h>
#include "ngx_http_cdm_stop.h"


/* a line that is longer is no record */
#define NGX_HTTP_CDM_STOP_TAIL_LINE   65536
#define NGX_HTTP_CDM_STOP_TAIL_CHUNK  65536


/* what is put behind the part of a record that its hash is of */
#define NGX_HTTP_CDM_STOP_TAIL_HASH                                           \
    (sizeof(",\"hash\":\"\"}") - 1 + 2 * NGX_HTTP_CDM_STOP_HASH_LEN)


typedef struct {
    ngx_http_cdm_stop_chain_t  *chain;
    ngx_http_cdm_stop_head_t    head;
} ngx_http_cdm_stop_tail_t;


static void ngx_http_cdm_stop_tail_line(void *data, ngx_str_t *line,
    off_t end, ngx_uint_t whole);
static ngx_int_t ngx_http_cdm_stop_tail_record(
    ngx_http_cdm_stop_chain_t *chain, ngx_http_cdm_stop_head_t *head,
    ngx_str_t *line);


ngx_int_t
ngx_http_cdm_stop_tail(ngx_http_cdm_stop_chain_t *chain, off_t size,
    ngx_log_t *log)
{
    ngx_file_info_t           fi;
    ngx_http_cdm_stop_tail_t  tail;

    if (ngx_fd_info(chain->file->fd, &fi) == NGX_FILE_ERROR
        || ngx_http_cdm_stop_tail_open(chain, &fi, log) != NGX_OK)
    {
        return NGX_ERROR;
    }

    tail.chain = chain;
    tail.head = *ngx_http_cdm_stop_chain_head(chain);
    tail.head.op = NGX_HTTP_CDM_STOP_OPEN_KEEP;

    if (ngx_http_cdm_stop_lines(chain->reader, tail.head.size, size,
                                ngx_http_cdm_stop_tail_line, &tail, log)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    tail.head.size = size;

    ngx_http_cdm_stop_chain_advance(chain, &tail.head);

    return NGX_OK;
}


/* the file can be read by what the master opened, or since it was rotated */

ngx_int_t
ngx_http_cdm_stop_tail_open(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi, ngx_log_t *log)
{
    ngx_fd_t         fd;
    ngx_file_info_t  reader;

    if (chain->reader != NGX_INVALID_FILE
        && ngx_fd_info(chain->reader, &reader) != NGX_FILE_ERROR
        && reader.st_dev == fi->st_dev
        && ngx_file_uniq(&reader) == ngx_file_uniq(fi))
    {
        return NGX_OK;
    }

    fd = ngx_open_file(chain->file->name.data,
                       NGX_FILE_RDONLY|NGX_FILE_NONBLOCK, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        return NGX_ERROR;
    }

    if (fcntl(fd, F_SETFD, FD_CLOEXEC) == -1
        || ngx_fd_info(fd, &reader) == NGX_FILE_ERROR)
    {
        (void) ngx_close_file(fd);
        return NGX_ERROR;
    }

    if (reader.st_dev != fi->st_dev
        || ngx_file_uniq(&reader) != ngx_file_uniq(fi))
    {
        (void) ngx_close_file(fd);
        ngx_set_errno(ESTALE);
        return NGX_ERROR;
    }

    if (chain->reader != NGX_INVALID_FILE
        && ngx_close_file(chain->reader) == NGX_FILE_ERROR)
    {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      ngx_close_file_n " \"%V\" failed", &chain->name);
    }

    chain->reader = fd;

    return NGX_OK;
}


void
ngx_http_cdm_stop_tail_inherit(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log)
{
    ngx_file_info_t  fi;

    if (chain->is_file
        && ngx_fd_info(chain->file->fd, &fi) != NGX_FILE_ERROR
        && ngx_is_file(&fi))
    {
        (void) ngx_http_cdm_stop_tail_open(chain, &fi, log);
    }
}


ngx_int_t
ngx_http_cdm_stop_tail_piece(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi, size_t *piece, ngx_log_t *log)
{
    off_t    start;
    u_char   buf[4096];
    size_t   len;
    ssize_t  n;

    if (ngx_http_cdm_stop_tail_open(chain, fi, log) != NGX_OK) {
        return NGX_ERROR;
    }

    *piece = 0;
    start = ngx_file_size(fi);

    while (start > 0 && *piece < NGX_HTTP_CDM_STOP_TAIL_LINE) {

        len = (size_t) ngx_min(start, (off_t) sizeof(buf));
        start -= len;

        n = pread(chain->reader, buf, len, start);

        if (n != (ssize_t) len) {
            return NGX_ERROR;
        }

        while (n > 0) {

            if (buf[n - 1] == LF) {
                return NGX_OK;
            }

            (*piece)++;
            n--;
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_lines(ngx_fd_t fd, off_t pos, off_t size,
    ngx_http_cdm_stop_line_pt handler, void *data, ngx_log_t *log)
{
    u_char     *buf, *p, *lf, *last;
    size_t      len;
    ssize_t     n;
    ngx_str_t   line;

    buf = ngx_alloc(NGX_HTTP_CDM_STOP_TAIL_LINE + NGX_HTTP_CDM_STOP_TAIL_CHUNK,
                    log);
    if (buf == NULL) {
        return NGX_ERROR;
    }

    last = buf;

    while (pos < size) {

        len = (size_t) ngx_min(size - pos, NGX_HTTP_CDM_STOP_TAIL_CHUNK);

        n = pread(fd, last, len, pos);

        if (n <= 0) {
            ngx_free(buf);
            return NGX_ERROR;
        }

        pos += n;
        last += n;
        line.data = buf;

        for ( ;; ) {
            p = line.data;
            lf = ngx_strlchr(p, last, LF);

            if (lf == NULL) {
                break;
            }

            line.len = lf - p;

            handler(data, &line, pos - (last - lf) + 1, 1);

            line.data = lf + 1;
        }

        line.len = last - p;

        if (line.len > NGX_HTTP_CDM_STOP_TAIL_LINE) {
            handler(data, &line, pos, 0);
            line.len = 0;
        }

        ngx_memmove(buf, p, line.len);
        last = buf + line.len;
    }

    if (last > buf) {
        line.data = buf;
        line.len = last - buf;

        handler(data, &line, pos, 0);
    }

    ngx_free(buf);

    return NGX_OK;
}


static void
ngx_http_cdm_stop_tail_line(void *data, ngx_str_t *line, off_t end,
    ngx_uint_t whole)
{
    ngx_http_cdm_stop_tail_t *tail = data;

    u_char                    *id;
    ngx_http_cdm_stop_head_t  *head;
    static const ngx_str_t     begin = ngx_string("{\"v\":1,\"chain\":\"");

    head = &tail->head;

    head->size = end;

    if (head->unended || !whole) {

        /* a line that was torn before, or is now */

        head->unended = !whole;
        head->torn += line->len;
        return;
    }

    if (line->len > begin.len + NGX_HTTP_CDM_STOP_CHAIN_ID_LEN
        && ngx_memcmp(line->data, begin.data, begin.len) == 0)
    {
        id = line->data + begin.len;

        if (ngx_memcmp(id, tail->chain->sh->id, NGX_HTTP_CDM_STOP_CHAIN_ID_LEN)
            != 0)
        {
            /* another instance writes to the same file */

            return;
        }

        if (ngx_http_cdm_stop_tail_record(tail->chain, head, line) == NGX_OK) {
            head->op = NGX_HTTP_CDM_STOP_OPEN_KEEP;
            return;
        }
    }

    head->torn += line->len;
}


/* whether the line is the next record of the chain, which is then taken over */

static ngx_int_t
ngx_http_cdm_stop_tail_record(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_head_t *head, ngx_str_t *line)
{
    u_char     md[NGX_HTTP_CDM_STOP_HASH_LEN];
    json_t    *json;
    ngx_int_t  rc;

    if (ngx_http_cdm_stop_line_hash(chain, head->hash, line, md) != NGX_OK) {
        return NGX_DECLINED;
    }

    json = json_loadb((char *) line->data, line->len, JSON_REJECT_DUPLICATES,
                      NULL);
    if (json == NULL) {
        return NGX_DECLINED;
    }

    rc = ngx_http_cdm_stop_open_read(chain->sh, head, json);

    json_decref(json);

    if (rc != NGX_OK) {
        return NGX_DECLINED;
    }

    head->seq++;
    head->torn = 0;
    ngx_memcpy(head->hash, md, NGX_HTTP_CDM_STOP_HASH_LEN);

    ngx_http_cdm_stop_chain_advance(chain, head);

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_line_hash(ngx_http_cdm_stop_chain_t *chain, u_char *prev,
    ngx_str_t *line, u_char *md)
{
    u_char     hex[2 * NGX_HTTP_CDM_STOP_HASH_LEN], *p;
    ngx_str_t  parts[2];

    if (line->len <= NGX_HTTP_CDM_STOP_TAIL_HASH) {
        return NGX_DECLINED;
    }

    parts[0].data = prev;
    parts[0].len = NGX_HTTP_CDM_STOP_HASH_LEN;
    parts[1].data = line->data;
    parts[1].len = line->len - NGX_HTTP_CDM_STOP_TAIL_HASH;

    if (ngx_http_cdm_stop_mac(chain->mac, parts, 2, md) != NGX_OK) {
        return NGX_DECLINED;
    }

    ngx_http_cdm_stop_hex_dump(hex, md, NGX_HTTP_CDM_STOP_HASH_LEN);

    p = line->data + parts[1].len + sizeof(",\"hash\":\"") - 1;

    return (ngx_memcmp(p, hex, sizeof(hex)) == 0) ? NGX_OK : NGX_DECLINED;
}
