
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_stats.h"
#include "ngx_http_cdm_stop_sync.h"


#if (NGX_THREADS)

#include <ngx_thread_pool.h>


/*
 * A description of the file that is this worker's own.  Those of nginx are
 * inherited from the master, and an error of the disk is told once for each
 * description: another worker would get it.
 */

typedef struct {
    dev_t                              dev;
    ngx_fd_t                           fd;
    ngx_uint_t                         refs;
    ngx_file_uniq_t                    uniq;
    unsigned                           entered:1;  /* directory is on disk */
} ngx_http_cdm_stop_description_t;


/* what the thread gets and gives back */

typedef struct {
    ngx_fd_t                           fd;
    ngx_err_t                          err;
    u_char                            *name;       /* NULL: file alone */
} ngx_http_cdm_stop_sync_task_t;


struct ngx_http_cdm_stop_sync_s {
    ngx_open_file_t                   *file;
    ngx_thread_pool_t                 *pool;
    ngx_thread_task_t                  task;
    ngx_http_cdm_stop_sync_task_t      sync;

    /* an intent waits for a call that began after it was written */

    ngx_queue_t                        running;
    ngx_queue_t                        pending;
    ngx_http_cdm_stop_description_t   *current;
    ngx_http_cdm_stop_description_t   *syncing;    /* not NULL is busy */
    time_t                             logged;
};


static void ngx_http_cdm_stop_sync_cleanup(void *data);
static ngx_http_cdm_stop_description_t *ngx_http_cdm_stop_sync_describe(
    ngx_http_cdm_stop_sync_t *sync, ngx_file_info_t *fi, ngx_log_t *log);
static void ngx_http_cdm_stop_sync_release(
    ngx_http_cdm_stop_description_t *d);
static ngx_uint_t ngx_http_cdm_stop_sync_enqueue(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_sync_start(ngx_http_cdm_stop_sync_t *sync);
static void ngx_http_cdm_stop_sync_thread(void *data, ngx_log_t *log);
static ngx_err_t ngx_http_cdm_stop_sync_directory(u_char *name);
static void ngx_http_cdm_stop_sync_done(ngx_event_t *ev);
static void ngx_http_cdm_stop_sync_wake(ngx_queue_t *queue,
    ngx_http_cdm_stop_description_t *d, ngx_uint_t failed);
static void ngx_http_cdm_stop_sync_handler(ngx_event_t *ev);
static void ngx_http_cdm_stop_sync_alert(ngx_http_cdm_stop_sync_t *sync,
    ngx_err_t err, char *what);


ngx_int_t
ngx_http_cdm_stop_sync_add(ngx_conf_t *cf, ngx_http_cdm_stop_chain_t *chain)
{
    ngx_pool_cleanup_t        *cln;
    ngx_http_cdm_stop_sync_t  *sync;

    if (chain->sync) {
        return NGX_OK;
    }

    sync = ngx_pcalloc(cf->pool, sizeof(ngx_http_cdm_stop_sync_t));
    if (sync == NULL) {
        return NGX_ERROR;
    }

    sync->file = chain->file;
    sync->pool = ngx_thread_pool_add(cf, NULL);

    if (sync->pool == NULL) {
        return NGX_ERROR;
    }

    ngx_queue_init(&sync->running);
    ngx_queue_init(&sync->pending);

    sync->task.ctx = &sync->sync;
    sync->task.handler = ngx_http_cdm_stop_sync_thread;
    sync->task.event.handler = ngx_http_cdm_stop_sync_done;
    sync->task.event.data = sync;

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_cdm_stop_sync_cleanup;
    cln->data = sync;

    chain->sync = sync;

    return NGX_OK;
}


static void
ngx_http_cdm_stop_sync_cleanup(void *data)
{
    ngx_http_cdm_stop_sync_t *sync = data;

    if (sync->syncing) {
        ngx_http_cdm_stop_sync_release(sync->syncing);
    }

    if (sync->current) {
        ngx_http_cdm_stop_sync_release(sync->current);
    }
}


ngx_int_t
ngx_http_cdm_stop_sync_open(ngx_http_cdm_stop_sync_t *sync, ngx_log_t *log)
{
    ngx_file_info_t                   fi;
    ngx_http_cdm_stop_description_t  *d;

    if (ngx_fd_info(sync->file->fd, &fi) == NGX_FILE_ERROR) {
        return NGX_ERROR;
    }

    d = sync->current;

    if (d && d->dev == fi.st_dev && d->uniq == ngx_file_uniq(&fi)) {
        return NGX_OK;
    }

    /* the file is another one since USR1; those who wait keep the old one */

    d = ngx_http_cdm_stop_sync_describe(sync, &fi, log);
    if (d == NULL) {
        return NGX_ERROR;
    }

    if (sync->current) {
        ngx_http_cdm_stop_sync_release(sync->current);
    }

    sync->current = d;

    return NGX_OK;
}


static ngx_http_cdm_stop_description_t *
ngx_http_cdm_stop_sync_describe(ngx_http_cdm_stop_sync_t *sync,
    ngx_file_info_t *fi, ngx_log_t *log)
{
    u_char                            name[sizeof("/proc/self/fd/")
                                           + NGX_INT_T_LEN];
    ngx_err_t                         err;
    ngx_http_cdm_stop_description_t  *d;

    d = ngx_alloc(sizeof(ngx_http_cdm_stop_description_t), log);
    if (d == NULL) {
        ngx_set_errno(NGX_ENOMEM);
        return NULL;
    }

    ngx_sprintf(name, "/proc/self/fd/%d%Z", sync->file->fd);

    d->fd = open((const char *) name, O_RDONLY|O_NONBLOCK|O_CLOEXEC);

    if (d->fd == NGX_INVALID_FILE) {

        ngx_log_error(NGX_LOG_WARN, log, ngx_errno,
                      "\"%V\" cannot be opened for reading by the worker, an "
                      "error of its disk may be told to another worker only; "
                      "let the user of the workers read it",
                      &sync->file->name);

        d->fd = fcntl(sync->file->fd, F_DUPFD_CLOEXEC, 0);

        if (d->fd == NGX_INVALID_FILE) {
            err = ngx_errno;
            ngx_free(d);
            ngx_set_errno(err);
            return NULL;
        }
    }

    d->dev = fi->st_dev;
    d->uniq = ngx_file_uniq(fi);
    d->refs = 1;
    d->entered = 0;

    return d;
}


static void
ngx_http_cdm_stop_sync_release(ngx_http_cdm_stop_description_t *d)
{
    if (--d->refs) {
        return;
    }

    if (ngx_close_file(d->fd) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      "close() of an audit file failed");
    }

    ngx_free(d);
}


ngx_int_t
ngx_http_cdm_stop_sync_wait(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_uint_t                      n;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    if (cdmcf->worker->waiting >= NGX_HTTP_CDM_STOP_WAITING_MAX) {
        return NGX_BUSY;
    }

    n = ngx_http_cdm_stop_sync_enqueue(r, ctx);

    if (n == 0) {
        return NGX_OK;
    }

    cdmcf->worker->waiting++;
    ctx->syncing = n;
    ctx->sync_waits = 1;
    ctx->sync_start = ngx_http_cdm_stop_now();

    /* the cleanup of the context ends the wait if the client leaves */

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    if (r->connection->read->ready) {
        ngx_post_event(r->connection->read, &ngx_posted_events);

    } else if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        ngx_http_cdm_stop_sync_cancel(ctx);
        return NGX_ERROR;
    }

    ctx->wake.handler = ngx_http_cdm_stop_sync_handler;
    ctx->wake.data = r;
    ctx->wake.log = r->connection->log;

    ngx_add_timer(&ctx->wake, ctx->conf->wait);

    r->connection->log->action = "waiting for the disk";

    /* a failure to start wakes the request, too, so this is the last thing */

    for (n = 0; n < ctx->conf->audit->nelts; n++) {
        if (ctx->sync[n].waits) {
            ngx_http_cdm_stop_sync_start(ctx->sync[n].sync);
        }
    }

    return NGX_AGAIN;
}


static ngx_uint_t
ngx_http_cdm_stop_sync_enqueue(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_uint_t                       i, n;
    ngx_http_cdm_stop_audit_t       *audit;
    ngx_http_cdm_stop_sync_wait_t   *wait;

    n = 0;
    audit = ctx->conf->audit->elts;

    for (i = 0; i < ctx->conf->audit->nelts; i++) {

        /* best effort: the intent may not have got so far */

        if (audit[i].sync == NULL || audit[i].sync->current == NULL) {
            continue;
        }

        wait = &ctx->sync[i];

        wait->ctx = ctx;
        wait->sync = audit[i].sync;
        wait->description = audit[i].sync->current;
        wait->best_effort = audit[i].best_effort;
        wait->waits = 1;

        audit[i].sync->current->refs++;
        ngx_queue_insert_tail(&audit[i].sync->pending, &wait->queue);

        n++;
    }

    return n;
}


/* one call for all whose intents are in the file by now */

static void
ngx_http_cdm_stop_sync_start(ngx_http_cdm_stop_sync_t *sync)
{
    ngx_queue_t                      *q, *next;
    ngx_http_cdm_stop_sync_wait_t    *wait;
    ngx_http_cdm_stop_description_t  *d;

    while (sync->syncing == NULL && !ngx_queue_empty(&sync->pending)) {

        q = ngx_queue_head(&sync->pending);
        wait = ngx_queue_data(q, ngx_http_cdm_stop_sync_wait_t, queue);
        d = wait->description;

        for ( /* void */ ; q != ngx_queue_sentinel(&sync->pending); q = next) {

            next = ngx_queue_next(q);
            wait = ngx_queue_data(q, ngx_http_cdm_stop_sync_wait_t, queue);

            if (wait->description == d) {
                ngx_queue_remove(q);
                ngx_queue_insert_tail(&sync->running, q);
            }
        }

        sync->sync.fd = d->fd;
        sync->sync.err = 0;
        sync->sync.name = d->entered ? NULL : sync->file->name.data;
        sync->task.event.log = ngx_cycle->log;

        d->refs++;
        sync->syncing = d;

        if (ngx_thread_task_post(sync->pool, &sync->task) == NGX_OK) {
            return;
        }

        sync->syncing = NULL;

        ngx_http_cdm_stop_sync_alert(sync, 0, "is not written to disk, the "
                                     "queue of its thread pool is full");
        ngx_http_cdm_stop_sync_wake(&sync->running, d, 1);
        ngx_http_cdm_stop_sync_release(d);
    }
}


/* a thread: nothing but system calls */

static void
ngx_http_cdm_stop_sync_thread(void *data, ngx_log_t *log)
{
    ngx_http_cdm_stop_sync_task_t *task = data;

    if (fdatasync(task->fd) == -1) {
        task->err = ngx_errno;
        return;
    }

    if (task->name) {
        task->err = ngx_http_cdm_stop_sync_directory(task->name);
    }
}


/* a new file is lost with its directory's entry */

static ngx_err_t
ngx_http_cdm_stop_sync_directory(u_char *name)
{
    size_t     len;
    u_char     path[NGX_MAX_PATH];
    ngx_fd_t   fd;
    ngx_err_t  err;

    len = ngx_strlen(name);

    while (len && name[len - 1] != '/') {
        len--;
    }

    if (len == 0 || len >= sizeof(path)) {
        return 0;
    }

    ngx_memcpy(path, name, len);
    path[len] = '\0';

    fd = open((const char *) path, O_RDONLY|O_CLOEXEC);

    /* who may not read the directory has to rely on the file system */

    if (fd == NGX_INVALID_FILE) {
        return 0;
    }

    err = 0;

    /* not every file system can: EINVAL */

    if (fsync(fd) == -1 && ngx_errno != NGX_EINVAL) {
        err = ngx_errno;
    }

    (void) close(fd);

    return err;
}


static void
ngx_http_cdm_stop_sync_done(ngx_event_t *ev)
{
    ngx_uint_t                        failed;
    ngx_http_cdm_stop_sync_t         *sync;
    ngx_http_cdm_stop_description_t  *d;

    sync = ev->data;
    d = sync->syncing;
    failed = 0;

    if (sync->sync.err) {
        failed = 1;

        ngx_http_cdm_stop_sync_alert(sync, sync->sync.err, "could not be "
                                     "written to disk, its last records may "
                                     "be lost");

        /*
         * The pages that failed count as clean now, and what was added to
         * them while the call went on is not tried again by the next one.
         */

        ngx_http_cdm_stop_sync_wake(&sync->pending, d, 1);

    } else {
        d->entered = 1;
    }

    sync->syncing = NULL;

    ngx_http_cdm_stop_sync_wake(&sync->running, d, failed);
    ngx_http_cdm_stop_sync_release(d);

    ngx_http_cdm_stop_sync_start(sync);
}


static void
ngx_http_cdm_stop_sync_wake(ngx_queue_t *queue,
    ngx_http_cdm_stop_description_t *d, ngx_uint_t failed)
{
    ngx_queue_t                    *q, *next;
    ngx_http_cdm_stop_ctx_t        *ctx;
    ngx_http_cdm_stop_sync_wait_t  *wait;

    for (q = ngx_queue_head(queue); q != ngx_queue_sentinel(queue); q = next) {

        next = ngx_queue_next(q);
        wait = ngx_queue_data(q, ngx_http_cdm_stop_sync_wait_t, queue);

        if (wait->description != d) {
            continue;
        }

        ctx = wait->ctx;

        ngx_queue_remove(q);
        wait->waits = 0;
        ngx_http_cdm_stop_sync_release(d);

        ngx_http_cdm_stop_stats_synced(ctx, wait - ctx->sync, failed);

        if (failed && !wait->best_effort) {
            ctx->sync_failed = 1;
        }

        if (--ctx->syncing && !ctx->sync_failed) {
            continue;
        }

        if (ctx->wake.timer_set) {
            ngx_del_timer(&ctx->wake);
        }

        ngx_post_event(&ctx->wake, &ngx_posted_events);
    }
}


void
ngx_http_cdm_stop_sync_cancel(ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_uint_t                      i;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (!ctx->sync_waits) {
        return;
    }

    for (i = 0; i < NGX_HTTP_CDM_STOP_AUDIT_TARGETS; i++) {

        if (ctx->sync[i].waits) {
            ngx_queue_remove(&ctx->sync[i].queue);
            ctx->sync[i].waits = 0;
            ngx_http_cdm_stop_sync_release(ctx->sync[i].description);
        }
    }

    cdmcf = ngx_http_get_module_main_conf(ctx->request,
                                          ngx_http_cdm_stop_module);
    cdmcf->worker->waiting--;

    ctx->syncing = 0;
    ctx->sync_waits = 0;
}


/* the intent is on disk, or will not be, or the time is up */

static void
ngx_http_cdm_stop_sync_handler(ngx_event_t *ev)
{
    ngx_uint_t                i;
    ngx_connection_t         *c;
    ngx_http_request_t       *r;
    ngx_http_cdm_stop_ctx_t  *ctx;

    r = ev->data;
    c = r->connection;

    ctx = ngx_http_cdm_stop_get_ctx(r);

    ngx_http_set_log_request(c->log, r);

    for (i = 0; i < NGX_HTTP_CDM_STOP_AUDIT_TARGETS; i++) {

        if (!ctx->sync[i].waits || ctx->sync_failed) {
            continue;
        }

        ngx_http_cdm_stop_stats_synced(ctx, i, 1);

        ngx_http_cdm_stop_sync_alert(ctx->sync[i].sync, 0, "was not written "
                                     "to disk in the time of "
                                     "\"cdm_stop_wait\"");

        if (!ctx->sync[i].best_effort) {
            ctx->sync_failed = 1;
        }
    }

    ngx_http_cdm_stop_sync_cancel(ctx);

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    ngx_http_cdm_stop_synced(r, ctx->sync_failed ? NGX_ERROR : NGX_OK);

    ngx_http_run_posted_requests(c);
}


static void
ngx_http_cdm_stop_sync_alert(ngx_http_cdm_stop_sync_t *sync, ngx_err_t err,
    char *what)
{
    if (sync->logged
        && ngx_time() - sync->logged < NGX_HTTP_CDM_STOP_ALERT_EVERY)
    {
        return;
    }

    sync->logged = ngx_time();

    ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, err,
                  "audit file \"%V\" %s", &sync->file->name, what);
}


#else

ngx_int_t
ngx_http_cdm_stop_sync_add(ngx_conf_t *cf, ngx_http_cdm_stop_chain_t *chain)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "parameter \"sync\" of \"cdm_stop_audit\" needs an "
                       "nginx that is built --with-threads, use such a one or "
                       "remove the word");
    return NGX_ERROR;
}


ngx_int_t
ngx_http_cdm_stop_sync_open(ngx_http_cdm_stop_sync_t *sync, ngx_log_t *log)
{
    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_sync_wait(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    return NGX_OK;
}


void
ngx_http_cdm_stop_sync_cancel(ngx_http_cdm_stop_ctx_t *ctx)
{
    /* void */
}

#endif
