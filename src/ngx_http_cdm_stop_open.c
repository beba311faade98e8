
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <jansson.h>
#include "ngx_http_cdm_stop.h"


static ngx_int_t ngx_http_cdm_stop_open_member(json_t *json, const char *name,
    ngx_str_t *value);


/*
 * The table of intents whose outcome is not yet written.  A slot is filled
 * first and counts from the moment that its byte in "used" is set, so that
 * a worker that is killed does not leave half an intent.  Slots are numbered
 * from 1.
 */

ngx_uint_t
ngx_http_cdm_stop_open_take(ngx_http_cdm_stop_chain_sh_t *sh,
    ngx_http_cdm_stop_open_t *intent)
{
    ngx_uint_t  i, slot;

    for (i = 0; i < NGX_HTTP_CDM_STOP_OPEN_MAX; i++) {

        slot = (sh->hint + i) % NGX_HTTP_CDM_STOP_OPEN_MAX;

        if (!sh->used[slot]) {
            sh->hint = slot;

            /* not what is behind the name: the zone is in core dumps */

            ngx_memcpy(&sh->open[slot], intent,
                       offsetof(ngx_http_cdm_stop_open_t, job)
                       + intent->job_len);
            return slot + 1;
        }
    }

    return NGX_HTTP_CDM_STOP_NO_SLOT;
}


void
ngx_http_cdm_stop_open_do(ngx_http_cdm_stop_chain_sh_t *sh,
    ngx_http_cdm_stop_head_t *head)
{
    ngx_uint_t  slot;

    if (head->op == NGX_HTTP_CDM_STOP_OPEN_KEEP
        || head->slot == NGX_HTTP_CDM_STOP_NO_SLOT)
    {
        return;
    }

    slot = head->slot - 1;

    if (head->op == NGX_HTTP_CDM_STOP_OPEN_ADD) {
        sh->used[slot] = 1;
        sh->high = ngx_max(sh->high, head->slot);

    } else {
        sh->used[slot] = 0;

        /* the lowest slots are used, which keeps the rest untouched */

        sh->hint = ngx_min(sh->hint, slot);
    }
}


ngx_uint_t
ngx_http_cdm_stop_open_find(ngx_http_cdm_stop_chain_sh_t *sh, u_char *id)
{
    ngx_uint_t  i;

    for (i = 0; i < sh->high; i++) {

        if (sh->used[i]
            && ngx_memcmp(sh->open[i].id, id, NGX_HTTP_CDM_STOP_REQUEST_ID_LEN)
               == 0)
        {
            return i + 1;
        }
    }

    return NGX_HTTP_CDM_STOP_NO_SLOT;
}


ngx_int_t
ngx_http_cdm_stop_open_read(ngx_http_cdm_stop_chain_sh_t *sh,
    ngx_http_cdm_stop_head_t *head, json_t *json)
{
    ngx_str_t                 stage;
    ngx_http_cdm_stop_open_t  intent;

    head->op = NGX_HTTP_CDM_STOP_OPEN_KEEP;

    if (ngx_http_cdm_stop_open_member(json, "stage", &stage) != NGX_OK) {
        return NGX_DECLINED;
    }

    if (ngx_strcmp(stage.data, "intent") == 0) {

        if (ngx_http_cdm_stop_open_parse(json, &intent) != NGX_OK) {
            return NGX_OK;
        }

        head->op = NGX_HTTP_CDM_STOP_OPEN_ADD;
        head->slot = ngx_http_cdm_stop_open_find(sh, intent.id);

        if (head->slot == NGX_HTTP_CDM_STOP_NO_SLOT) {
            head->slot = ngx_http_cdm_stop_open_take(sh, &intent);
        }

        return NGX_OK;
    }

    if (ngx_http_cdm_stop_open_member(json, "request_id", &stage) == NGX_OK
        && stage.len == NGX_HTTP_CDM_STOP_REQUEST_ID_LEN)
    {
        head->op = NGX_HTTP_CDM_STOP_OPEN_REMOVE;
        head->slot = ngx_http_cdm_stop_open_find(sh, stage.data);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_cdm_stop_open_parse(json_t *json, ngx_http_cdm_stop_open_t *intent)
{
    ngx_str_t  id, project, cluster, job, time;

    if (ngx_http_cdm_stop_open_member(json, "request_id", &id) != NGX_OK
        || ngx_http_cdm_stop_open_member(json, "project_id", &project)
           != NGX_OK
        || ngx_http_cdm_stop_open_member(json, "cluster_id", &cluster)
           != NGX_OK
        || ngx_http_cdm_stop_open_member(json, "job_name", &job) != NGX_OK
        || ngx_http_cdm_stop_open_member(json, "time", &time) != NGX_OK
        || id.len != sizeof(intent->id)
        || project.len != sizeof(intent->project)
        || cluster.len != sizeof(intent->cluster)
        || job.len > sizeof(intent->job)
        || time.len != sizeof(intent->time))
    {
        return NGX_ERROR;
    }

    ngx_memzero(intent, sizeof(ngx_http_cdm_stop_open_t));

    ngx_memcpy(intent->id, id.data, id.len);
    ngx_memcpy(intent->project, project.data, project.len);
    ngx_memcpy(intent->cluster, cluster.data, cluster.len);
    ngx_memcpy(intent->job, job.data, job.len);
    ngx_memcpy(intent->time, time.data, time.len);

    intent->job_len = job.len;

    return NGX_OK;
}


/* a string of a JSON object, which owns it */

static ngx_int_t
ngx_http_cdm_stop_open_member(json_t *json, const char *name,
    ngx_str_t *value)
{
    json_t  *member;

    member = json_object_get(json, name);

    if (!json_is_string(member)) {
        return NGX_ERROR;
    }

    value->data = (u_char *) json_string_value(member);
    value->len = json_string_length(member);

    return NGX_OK;
}
