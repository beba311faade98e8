
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/* an open intent as JSON, but for the name of its job */
#define NGX_HTTP_CDM_STOP_STATE_ENTRY  384


static u_char *ngx_http_cdm_stop_state_build(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log, size_t *len);
static ngx_int_t ngx_http_cdm_stop_state_replace(
    ngx_http_cdm_stop_chain_t *chain, u_char *p, size_t len);
static ngx_int_t ngx_http_cdm_stop_state_put(ngx_fd_t fd, u_char *p,
    size_t len);
static ngx_int_t ngx_http_cdm_stop_state_own(ngx_http_cdm_stop_chain_t *chain,
    ngx_fd_t fd);


/*
 * FILE.state has what a start needs and FILE may not have any more.  It is
 * replaced as a whole where the directory may be written to; workers, who
 * often may not, write over it then, by one write(2).
 */

void
ngx_http_cdm_stop_state_write(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log)
{
    u_char     *p;
    size_t      len;
    ngx_int_t   rc;

    chain->sh->state_seq = ngx_http_cdm_stop_chain_head(chain)->seq;
    chain->sh->state_time = ngx_http_cdm_stop_now();
    chain->sh->state_due = 0;

    p = ngx_http_cdm_stop_state_build(chain, log, &len);
    if (p == NULL) {
        return;
    }

    rc = ngx_http_cdm_stop_state_replace(chain, p, len);

    if (rc != NGX_OK
        && (chain->state_logged == 0
            || ngx_time() - chain->state_logged
               >= NGX_HTTP_CDM_STOP_ALERT_EVERY))
    {
        chain->state_logged = ngx_time();

        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      "state of the audit chain could not be written to "
                      "\"%V.state\"", &chain->name);
    }

    ngx_free(p);
}


static u_char *
ngx_http_cdm_stop_state_build(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log, size_t *len)
{
    u_char                        *p, *buf, *end;
    size_t                         size;
    ngx_str_t                      job;
    ngx_uint_t                     i, n;
    ngx_http_cdm_stop_head_t      *head;
    ngx_http_cdm_stop_open_t      *open;
    ngx_http_cdm_stop_chain_sh_t  *sh;

    sh = chain->sh;
    size = 1024;

    for (i = 0; i < sh->high; i++) {
        if (sh->used[i]) {
            size += NGX_HTTP_CDM_STOP_STATE_ENTRY + 6 * sh->open[i].job_len;
        }
    }

    buf = ngx_alloc(size, log);
    if (buf == NULL) {
        return NULL;
    }

    end = buf + size;
    head = ngx_http_cdm_stop_chain_head(chain);

    p = ngx_sprintf(buf, "{\"v\":1,\"chain\":\"%*s\",\"seq\":%uL,\"hash\":\"",
                    (size_t) NGX_HTTP_CDM_STOP_CHAIN_ID_LEN, sh->id,
                    head->seq);
    p = ngx_http_cdm_stop_hex_dump(p, head->hash, NGX_HTTP_CDM_STOP_HASH_LEN);
    p = ngx_sprintf(p, "\",\"key\":\"%*s\",\"dev\":%uL,\"ino\":%uL,"
                    "\"offset\":%O,\"open\":[",
                    sizeof(chain->key_id), chain->key_id,
                    (uint64_t) head->dev, (uint64_t) head->uniq, head->size);

    n = 0;

    for (i = 0; i < sh->high; i++) {

        if (!sh->used[i]) {
            continue;
        }

        open = &sh->open[i];
        job.data = open->job;
        job.len = open->job_len;

        p = ngx_sprintf(p, "%s{\"request_id\":\"%*s\",\"project_id\":\"%*s\","
                        "\"cluster_id\":\"%*s\",\"time\":\"%*s\","
                        "\"job_name\":\"",
                        n++ ? "," : "",
                        sizeof(open->id), open->id,
                        sizeof(open->project), open->project,
                        sizeof(open->cluster), open->cluster,
                        sizeof(open->time), open->time);

        p = ngx_http_cdm_stop_json_text(p, end, &job, job.len);

        if (p == NULL) {
            ngx_free(buf);
            return NULL;
        }

        *p++ = '"';
        *p++ = '}';
    }

    p = ngx_cpymem(p, "]}\n", sizeof("]}\n") - 1);

    *len = p - buf;

    return buf;
}


static ngx_int_t
ngx_http_cdm_stop_state_replace(ngx_http_cdm_stop_chain_t *chain, u_char *p,
    size_t len)
{
    u_char           name[NGX_MAX_PATH + 1], temp[NGX_MAX_PATH + 1];
    ngx_fd_t         fd;
    ngx_err_t        err;
    ngx_file_info_t  fi;

    if (chain->name.len + sizeof(".state.new") > NGX_MAX_PATH) {
        ngx_set_errno(NGX_ENAMETOOLONG);
        return NGX_ERROR;
    }

    ngx_sprintf(name, "%V.state%Z", &chain->name);
    ngx_sprintf(temp, "%V.state.new%Z", &chain->name);

    /* what is there may be a link to a file of root that a worker put there */

    (void) ngx_delete_file(temp);

    fd = open((char *) temp, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC,
              0600);

    if (fd == NGX_INVALID_FILE) {

        fd = open((char *) name, O_WRONLY|O_NOFOLLOW|O_CLOEXEC);

        if (fd == NGX_INVALID_FILE) {
            return NGX_ERROR;
        }

        if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
            goto failed;
        }

        if (!ngx_is_file(&fi) || fi.st_nlink > 1) {
            ngx_set_errno(NGX_EPERM);
            goto failed;
        }

        if (ngx_http_cdm_stop_state_put(fd, p, len) != NGX_OK
            || ftruncate(fd, len) == -1)
        {
            goto failed;
        }

        return (ngx_close_file(fd) == NGX_FILE_ERROR) ? NGX_ERROR : NGX_OK;
    }

    if (ngx_http_cdm_stop_state_put(fd, p, len) != NGX_OK
        || ngx_http_cdm_stop_state_own(chain, fd) != NGX_OK
        || ngx_rename_file(temp, name) == NGX_FILE_ERROR)
    {
        goto failed;
    }

    return (ngx_close_file(fd) == NGX_FILE_ERROR) ? NGX_ERROR : NGX_OK;

failed:

    err = ngx_errno;

    (void) ngx_close_file(fd);

    ngx_set_errno(err);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_cdm_stop_state_put(ngx_fd_t fd, u_char *p, size_t len)
{
    ssize_t  n;

    n = ngx_write_fd(fd, p, len);

    if (n == (ssize_t) len) {
        return NGX_OK;
    }

    if (n != -1) {
        ngx_set_errno(NGX_ENOSPC);
    }

    return NGX_ERROR;
}


/* a file that the master makes is for workers to write to, as a log is */

static ngx_int_t
ngx_http_cdm_stop_state_own(ngx_http_cdm_stop_chain_t *chain, ngx_fd_t fd)
{
    ngx_core_conf_t  *ccf;

    if (geteuid() != 0) {
        return NGX_OK;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(chain->cycle->conf_ctx,
                                           ngx_core_module);

    if (ccf->user == (ngx_uid_t) NGX_CONF_UNSET_UINT) {
        return NGX_OK;
    }

    return fchown(fd, ccf->user, ccf->group) == -1 ? NGX_ERROR : NGX_OK;
}
