
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


static char *ngx_http_cdm_stop_audit_target(ngx_conf_t *cf,
    ngx_http_cdm_stop_audit_t *audit, ngx_str_t *name);
static ngx_int_t ngx_http_cdm_stop_audit_write_one(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_audit_t *audit, u_char *record, size_t len);
static void ngx_http_cdm_stop_audit_tear(ngx_shm_zone_t *zone, ngx_fd_t fd);
static ngx_uint_t ngx_http_cdm_stop_audit_mend(ngx_shm_zone_t *zone,
    ngx_fd_t fd);
static void ngx_http_cdm_stop_audit_alert(ngx_http_request_t *r,
    ngx_http_cdm_stop_audit_t *audit, ngx_err_t err);


char *
ngx_http_cdm_stop_audit_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_cdm_stop_loc_conf_t *cdcf = conf;

    ngx_str_t                  *value;
    ngx_uint_t                  i, off;
    ngx_http_cdm_stop_audit_t  *audit;

    value = cf->args->elts;

    off = (ngx_strcmp(value[1].data, "off") == 0);

    if (cdcf->audit == NGX_CONF_UNSET_PTR) {
        cdcf->audit = ngx_array_create(cf->pool,
                                       NGX_HTTP_CDM_STOP_AUDIT_TARGETS,
                                       sizeof(ngx_http_cdm_stop_audit_t));
        if (cdcf->audit == NULL) {
            return NGX_CONF_ERROR;
        }

    } else if (off || cdcf->audit->nelts == 0) {
        return "cannot be \"off\" and have a target as well";
    }

    if (off) {
        return (cf->args->nelts == 2) ? NGX_CONF_OK
                                      : "\"off\" takes no parameters";
    }

    if (cdcf->audit->nelts == NGX_HTTP_CDM_STOP_AUDIT_TARGETS) {
        return "has more than two targets";
    }

    audit = ngx_array_push(cdcf->audit);
    if (audit == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(audit, sizeof(ngx_http_cdm_stop_audit_t));

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_strcmp(value[i].data, "best_effort") == 0) {
            audit->best_effort = 1;
            audit->by_name = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "sync") == 0) {
            return "parameter \"sync\" is not available in this version, "
                   "remove it";
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" of \"cdm_stop_audit\", "
                           "it must be \"best_effort\"", &value[i]);
        return NGX_CONF_ERROR;
    }

    return ngx_http_cdm_stop_audit_target(cf, audit, &value[1]);
}


static char *
ngx_http_cdm_stop_audit_target(ngx_conf_t *cf,
    ngx_http_cdm_stop_audit_t *audit, ngx_str_t *name)
{
    ngx_str_t  path;

    if (name->len == 0) {
        return "has an empty target, name a file, \"stderr\" or \"off\"";
    }

    if (ngx_strncmp(name->data, "syslog:", sizeof("syslog:") - 1) == 0) {
        return "target \"syslog:\" is not available in this version, "
               "name a file or \"stderr\"";
    }

    path = *name;

    if (ngx_strcmp(name->data, "stderr") == 0) {
        ngx_str_null(&path);
        audit->best_effort = 1;
    }

    /* opened by the master, opened again on USR1 */

    audit->file = ngx_conf_open_file(cf->cycle, &path);
    if (audit->file == NULL) {
        return NGX_CONF_ERROR;
    }

    if (audit->file->flush) {
        return "names a file that \"access_log\" buffers, give the records "
               "a file of their own";
    }

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_cdm_stop_audit_write(ngx_http_request_t *r, ngx_array_t *targets,
    u_char *record, size_t len)
{
    ngx_int_t                       rc;
    ngx_uint_t                      i;
    ngx_http_cdm_stop_audit_t      *audit;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    rc = NGX_OK;
    audit = targets->elts;
    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    for (i = 0; i < targets->nelts; i++) {

        if (ngx_http_cdm_stop_audit_write_one(cdmcf->zone, &audit[i], record,
                                              len)
            == NGX_OK)
        {
            continue;
        }

        ngx_http_cdm_stop_audit_alert(r, &audit[i], ngx_errno);

        if (!audit[i].best_effort) {
            rc = NGX_ERROR;
        }
    }

    return rc;
}


/*
 * One write(2) for one record: on a file that is open for appending, the
 * lines of several workers do not mix.  The byte before the record is for the
 * line break that a torn line lacks.
 */

static ngx_int_t
ngx_http_cdm_stop_audit_write_one(ngx_shm_zone_t *zone,
    ngx_http_cdm_stop_audit_t *audit, u_char *record, size_t len)
{
    ssize_t    n;
    ngx_fd_t   fd;
    ngx_err_t  err;

    fd = audit->file->fd;

    if (ngx_http_cdm_stop_audit_mend(zone, fd)) {
        record--;
        len++;
        *record = LF;
    }

    n = ngx_write_fd(fd, record, len);

    if (n == (ssize_t) len) {
        return NGX_OK;
    }

    err = ngx_errno;

    if (n > 0) {
        ngx_http_cdm_stop_audit_tear(zone, fd);
        err = 0;
    }

    ngx_set_errno(err);

    return NGX_ERROR;
}


/* the file ends within a line: its place is kept for whoever writes next */

static void
ngx_http_cdm_stop_audit_tear(ngx_shm_zone_t *zone, ngx_fd_t fd)
{
    ngx_file_info_t           fi;
    ngx_http_cdm_stop_end_t   end;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR || !ngx_is_file(&fi)) {
        return;
    }

    end.dev = fi.st_dev;
    end.uniq = ngx_file_uniq(&fi);
    end.size = lseek(fd, 0, SEEK_CUR);

    ngx_http_cdm_stop_zone_mark(zone, &end);
}


/*
 * Whether the file still ends where a line was torn.  Who is told so is the
 * only one, and ends that line with its record; a file that has grown since,
 * is shorter, or another one by now, is of no concern.
 */

static ngx_uint_t
ngx_http_cdm_stop_audit_mend(ngx_shm_zone_t *zone, ngx_fd_t fd)
{
    ngx_file_info_t           fi;
    ngx_http_cdm_stop_end_t   end;

    if (!ngx_http_cdm_stop_zone_marked(zone)
        || ngx_fd_info(fd, &fi) == NGX_FILE_ERROR)
    {
        return 0;
    }

    end.dev = fi.st_dev;
    end.uniq = ngx_file_uniq(&fi);
    end.size = ngx_file_size(&fi);

    return ngx_http_cdm_stop_zone_unmark(zone, &end);
}


static void
ngx_http_cdm_stop_audit_alert(ngx_http_request_t *r,
    ngx_http_cdm_stop_audit_t *audit, ngx_err_t err)
{
    ngx_http_cdm_stop_worker_t     *worker;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    worker = cdmcf->worker;
    worker->lost++;

    if (worker->lost_logged
        && ngx_time() - worker->lost_logged < NGX_HTTP_CDM_STOP_ALERT_EVERY)
    {
        return;
    }

    worker->lost_logged = ngx_time();

    ngx_log_error(NGX_LOG_ALERT, r->connection->log, err,
                  "audit record could not be written to \"%V\", %ui lost "
                  "by this worker", &audit->file->name, worker->lost);
}
