
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/* a look at the chains, in milliseconds */
#define NGX_HTTP_CDM_STOP_KEEP_EVERY  1000

/* intents that are closed at one look, while others wait for the chain */
#define NGX_HTTP_CDM_STOP_KEEP_CLOSE  256


static void ngx_http_cdm_stop_keep_handler(ngx_event_t *ev);
static void ngx_http_cdm_stop_keep_close(ngx_http_cdm_stop_chain_t *chain,
    u_char *buf, ngx_uint_t exiting, ngx_log_t *log);
static ngx_uint_t ngx_http_cdm_stop_keep_gone(ngx_pid_t pid);
static ngx_int_t ngx_http_cdm_stop_keep_record(
    ngx_http_cdm_stop_chain_t *chain, ngx_uint_t slot, u_char *buf,
    ngx_uint_t exiting, ngx_log_t *log);


/*
 * All workers look, so that none has to be alive; what is due is done by the
 * first of them.
 */

void
ngx_http_cdm_stop_start_keeping(ngx_http_cdm_stop_main_conf_t *cdmcf)
{
    ngx_event_t  *ev;

    if (cdmcf->chains.nelts == 0) {
        return;
    }

    ev = &cdmcf->worker->keep;

    ev->handler = ngx_http_cdm_stop_keep_handler;
    ev->data = cdmcf;
    ev->log = ngx_cycle->log;
    ev->cancelable = 1;

    ngx_add_timer(ev, 1);
}


void
ngx_http_cdm_stop_stop_keeping(void *data)
{
    ngx_http_cdm_stop_main_conf_t *cdmcf = data;

    if (cdmcf->worker->keep.timer_set) {
        ngx_del_timer(&cdmcf->worker->keep);
    }
}


static void
ngx_http_cdm_stop_keep_handler(ngx_event_t *ev)
{
    ngx_uint_t                       i;
    ngx_http_cdm_stop_chain_t      **chains;
    ngx_http_cdm_stop_main_conf_t   *cdmcf;

    if (ngx_exiting || ngx_terminate) {
        return;
    }

    ngx_add_timer(ev, NGX_HTTP_CDM_STOP_KEEP_EVERY);

    cdmcf = ev->data;
    chains = cdmcf->chains.elts;

    for (i = 0; i < cdmcf->chains.nelts; i++) {
        ngx_http_cdm_stop_keep(chains[i], cdmcf->worker->record, ev->log);
    }
}


void
ngx_http_cdm_stop_keep(ngx_http_cdm_stop_chain_t *chain, u_char *buf,
    ngx_log_t *log)
{
    int64_t                        now;
    uint64_t                       seq;
    ngx_file_info_t                fi;
    ngx_http_cdm_stop_chain_sh_t  *sh;

    sh = chain->sh;
    now = ngx_http_cdm_stop_now();

    ngx_shmtx_lock(&chain->shpool->mutex);

    ngx_http_cdm_stop_open_do(sh, ngx_http_cdm_stop_chain_head(chain));

    /* a file that cannot be followed is told of when a record is lost */

    if (ngx_http_cdm_stop_file_ready(chain, 0, &fi, log) != NGX_OK
        || ngx_http_cdm_stop_follow(chain, &fi, log) != NGX_OK)
    {
        ngx_shmtx_unlock(&chain->shpool->mutex);
        return;
    }

    if (!sh->owner) {
        ngx_http_cdm_stop_take_over(chain, log);
    }

    ngx_http_cdm_stop_keep_close(chain, buf, 0, log);

    if (chain->sign
        && (sh->check_time == 0
            || now - sh->check_time >= (int64_t) chain->sign->every))
    {
        ngx_http_cdm_stop_checkpoint(chain, log);
    }

    seq = ngx_http_cdm_stop_chain_head(chain)->seq;

    if (sh->owner
        && (sh->state_due
            || (seq != sh->state_seq
                && (now - sh->state_time >= NGX_HTTP_CDM_STOP_STATE_EVERY
                    || seq - sh->state_seq
                       >= NGX_HTTP_CDM_STOP_CHECK_RECORDS))))
    {
        ngx_http_cdm_stop_state_write(chain, log);
    }

    ngx_shmtx_unlock(&chain->shpool->mutex);
}


void
ngx_http_cdm_stop_keep_exit(ngx_http_cdm_stop_chain_t *chain, u_char *buf,
    ngx_log_t *log)
{
    ngx_http_cdm_stop_chain_sh_t  *sh;

    sh = chain->sh;

    ngx_shmtx_lock(&chain->shpool->mutex);

    ngx_http_cdm_stop_open_do(sh, ngx_http_cdm_stop_chain_head(chain));

    ngx_http_cdm_stop_keep_close(chain, buf, 1, log);

    /* the worker that ends last leaves the last word */

    if (chain->sign
        && ngx_http_cdm_stop_chain_head(chain)->seq != sh->check_seq)
    {
        ngx_http_cdm_stop_checkpoint(chain, log);
    }

    if (sh->owner
        && ngx_http_cdm_stop_chain_head(chain)->seq != sh->state_seq)
    {
        ngx_http_cdm_stop_state_write(chain, log);
    }

    ngx_shmtx_unlock(&chain->shpool->mutex);
}


static void
ngx_http_cdm_stop_keep_close(ngx_http_cdm_stop_chain_t *chain, u_char *buf,
    ngx_uint_t exiting, ngx_log_t *log)
{
    ngx_pid_t                      pid, last;
    ngx_uint_t                     i, n, gone;
    ngx_http_cdm_stop_chain_sh_t  *sh;

    sh = chain->sh;
    last = -1;
    gone = 0;
    n = 0;

    for (i = 0; i < sh->high; i++) {

        if (!sh->used[i]) {
            continue;
        }

        pid = sh->open[i].pid;

        if (pid != last) {
            last = pid;
            gone = exiting ? (pid == ngx_pid)
                           : ngx_http_cdm_stop_keep_gone(pid);
        }

        if (!gone) {
            continue;
        }

        if (ngx_http_cdm_stop_keep_record(chain, i + 1, buf,
                                          exiting && pid == ngx_pid, log)
            != NGX_OK
            || (!exiting && ++n == NGX_HTTP_CDM_STOP_KEEP_CLOSE))
        {
            return;
        }
    }
}


static ngx_uint_t
ngx_http_cdm_stop_keep_gone(ngx_pid_t pid)
{
    return pid == 0 || (kill(pid, 0) == -1 && ngx_errno == NGX_ESRCH);
}


/* the outcome of a stop of which nobody knows how it ended */

static ngx_int_t
ngx_http_cdm_stop_keep_record(ngx_http_cdm_stop_chain_t *chain,
    ngx_uint_t slot, u_char *buf, ngx_uint_t exiting, ngx_log_t *log)
{
    u_char                      *p;
    ngx_str_t                    job;
    ngx_time_t                  *tp;
    ngx_http_cdm_stop_open_t    *open;
    ngx_http_cdm_stop_record_t   rec;

    open = &chain->sh->open[slot - 1];

    ngx_time_update();

    tp = ngx_timeofday();

    rec.start = buf + NGX_HTTP_CDM_STOP_RECORD_HEAD;
    rec.end = rec.start + NGX_HTTP_CDM_STOP_RECORD_LEN;
    rec.op = NGX_HTTP_CDM_STOP_OPEN_REMOVE;
    rec.intent = NULL;

    p = ngx_cpymem(rec.start, ",\"stage\":\"outcome\",\"time\":\"",
                   sizeof(",\"stage\":\"outcome\",\"time\":\"") - 1);
    p = ngx_http_cdm_stop_time_text(p, tp->sec, tp->msec);
    p = ngx_sprintf(p, "\",\"request_id\":\"%*s\",\"operation\":\"StopJob\","
                    "\"project_id\":\"%*s\",\"cluster_id\":\"%*s\","
                    "\"job_name\":\"",
                    sizeof(open->id), open->id,
                    sizeof(open->project), open->project,
                    sizeof(open->cluster), open->cluster);

    job.data = open->job;
    job.len = open->job_len;

    p = ngx_http_cdm_stop_json_text(p, rec.end - 64, &job, job.len);

    if (p == NULL) {
        return NGX_ERROR;
    }

    rec.pos = ngx_sprintf(p, "\",\"status\":0,\"verdict\":\"unknown\","
                          "\"closed\":\"%s\"", exiting ? "exit" : "crash");

    return ngx_http_cdm_stop_chain_append_locked(chain, &rec, &slot, log);
}
