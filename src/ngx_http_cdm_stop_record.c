
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_refusals.h"
#include "ngx_http_cdm_stop_stats.h"


/* bounds of a field, in bytes, before it is escaped */
#define NGX_HTTP_CDM_STOP_FIELD    256
#define NGX_HTTP_CDM_STOP_MESSAGE  512

/* all roles together; what is beyond is told by an ellipsis */
#define NGX_HTTP_CDM_STOP_ROLES    1024


static void ngx_http_cdm_stop_record_begin(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx, char *stage);
static void ngx_http_cdm_stop_record_start(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_main_conf_t *cdmcf, char *stage);
static void ngx_http_cdm_stop_record_open(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_open_t *intent);
static void ngx_http_cdm_stop_record_target(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx);
static ngx_uint_t ngx_http_cdm_stop_record_question(u_char *p, u_char *last);
static void ngx_http_cdm_stop_record_caller(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_record_identity(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_record_roles(ngx_http_cdm_stop_record_t *rec,
    ngx_array_t *roles);
static void ngx_http_cdm_stop_record_decision(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_record_tokens(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_record_sent(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_record_answer(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status);
static ngx_int_t ngx_http_cdm_stop_record_end(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx);
static void ngx_http_cdm_stop_record_raw(ngx_http_cdm_stop_record_t *rec,
    const void *p, size_t len);
static void ngx_http_cdm_stop_record_string(ngx_http_cdm_stop_record_t *rec,
    ngx_str_t *value, size_t max);
static void ngx_http_cdm_stop_record_int(ngx_http_cdm_stop_record_t *rec,
    int64_t value);


/* a literal as it is; so its length is known when the module is compiled */

#define ngx_http_cdm_stop_record_literal(rec, text)                           \
    ngx_http_cdm_stop_record_raw(rec, text, sizeof(text) - 1)

#define ngx_http_cdm_stop_record_text(rec, key, value, max)                   \
    do {                                                                      \
        ngx_http_cdm_stop_record_literal(rec, ",\"" key "\":\"");             \
        ngx_http_cdm_stop_record_string(rec, value, max);                     \
    } while (0)

/* ids, and names of the module's own, of which no byte is escaped */

#define ngx_http_cdm_stop_record_plain(rec, key, p, len)                      \
    do {                                                                      \
        ngx_http_cdm_stop_record_literal(rec, ",\"" key "\":\"");             \
        ngx_http_cdm_stop_record_raw(rec, p, len);                            \
        ngx_http_cdm_stop_record_literal(rec, "\"");                          \
    } while (0)

#define ngx_http_cdm_stop_record_number(rec, key, value)                      \
    do {                                                                      \
        ngx_http_cdm_stop_record_literal(rec, ",\"" key "\":");               \
        ngx_http_cdm_stop_record_int(rec, value);                             \
    } while (0)


void
ngx_http_cdm_stop_record_refused(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status)
{
    ngx_http_cdm_stop_record_t  rec;

    ctx->refused = 1;
    ngx_http_cdm_stop_stats_end(r, ctx, status);

    if (ctx->conf->audit->nelts == 0
        || !ngx_http_cdm_stop_refusals_admit(ctx->conf->refusals))
    {
        return;
    }

    ngx_http_cdm_stop_record_begin(&rec, r, ctx, "refused");
    ngx_http_cdm_stop_record_caller(&rec, r, ctx);
    ngx_http_cdm_stop_record_sent(&rec, r, ctx);
    ngx_http_cdm_stop_record_answer(&rec, ctx, status);

    (void) ngx_http_cdm_stop_record_end(&rec, r, ctx);
}


ngx_int_t
ngx_http_cdm_stop_record_refusals(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_unwritten_t *unwritten)
{
    ngx_uint_t                  slot;
    ngx_http_cdm_stop_record_t  rec;

    slot = NGX_HTTP_CDM_STOP_NO_SLOT;

    ngx_http_cdm_stop_record_start(&rec, cdmcf, "refused");
    ngx_http_cdm_stop_record_number(&rec, "summary", unwritten->number);

    /* the room is there in a record of this length */

    rec.pos = ngx_cpymem(rec.pos, ",\"since\":\"", sizeof(",\"since\":\"") - 1);
    rec.pos = ngx_http_cdm_stop_time_text(rec.pos, unwritten->sec,
                                          unwritten->msec);
    *rec.pos++ = '"';

    rec.op = NGX_HTTP_CDM_STOP_OPEN_KEEP;

    return ngx_http_cdm_stop_stats_append(chain, &rec, &slot, ngx_cycle->log,
                                          NGX_HTTP_CDM_STOP_STAGE_REFUSED);
}


ngx_int_t
ngx_http_cdm_stop_record_intent(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_open_t    intent;
    ngx_http_cdm_stop_record_t  rec;

    if (ctx->conf->audit->nelts == 0) {
        ctx->intent = 1;
        return NGX_OK;
    }

    ngx_http_cdm_stop_record_begin(&rec, r, ctx, "intent");
    ngx_http_cdm_stop_record_caller(&rec, r, ctx);
    ngx_http_cdm_stop_record_tokens(&rec, r, ctx);
    ngx_http_cdm_stop_record_number(&rec, "wait_ms", ctx->wait_time);

    ngx_http_cdm_stop_record_open(&rec, ctx, &intent);

    if (ngx_http_cdm_stop_record_end(&rec, r, ctx) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->intent = 1;

    return NGX_OK;
}


/* what has to be known to write the outcome if this worker is gone by then */

static void
ngx_http_cdm_stop_record_open(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_open_t *intent)
{
    intent->pid = ngx_pid;

    ngx_memcpy(intent->id, ctx->id, sizeof(intent->id));
    ngx_memcpy(intent->project, ctx->target.project.data,
               sizeof(intent->project));
    ngx_memcpy(intent->cluster, ctx->target.cluster.data,
               sizeof(intent->cluster));
    ngx_memcpy(intent->job, ctx->target.job.data, ctx->target.job.len);
    intent->job_len = ctx->target.job.len;

    /* the time is the first member behind the stage */

    ngx_memcpy(intent->time,
               rec->start + sizeof(",\"stage\":\"intent\",\"time\":\"") - 1,
               sizeof(intent->time));

    rec->op = NGX_HTTP_CDM_STOP_OPEN_ADD;
    rec->intent = intent;
}


void
ngx_http_cdm_stop_record_outcome(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status)
{
    ngx_http_cdm_stop_record_t  rec;

    ctx->outcome = 1;
    ngx_http_cdm_stop_stats_end(r, ctx, status);

    if (ctx->conf->audit->nelts == 0) {
        return;
    }

    ngx_http_cdm_stop_record_begin(&rec, r, ctx, "outcome");
    ngx_http_cdm_stop_record_caller(&rec, r, ctx);
    ngx_http_cdm_stop_record_tokens(&rec, r, ctx);
    ngx_http_cdm_stop_record_answer(&rec, ctx, status);

    ngx_http_cdm_stop_record_number(&rec, "attempts", ctx->attempts);
    ngx_http_cdm_stop_record_number(&rec, "duration_ms",
                                    ngx_http_cdm_stop_now() - ctx->start);
    ngx_http_cdm_stop_record_number(&rec, "wait_ms", ctx->wait_time);

    if (ctx->upstream_status) {
        ngx_http_cdm_stop_record_number(&rec, "bytes",
                                   r->upstream->state->response_length);
    }

    (void) ngx_http_cdm_stop_record_end(&rec, r, ctx);
}


static void
ngx_http_cdm_stop_record_begin(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx, char *stage)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    ngx_http_cdm_stop_record_start(rec, cdmcf, stage);

    ngx_http_cdm_stop_record_literal(rec, ",\"request_id\":\"");
    ngx_http_cdm_stop_record_raw(rec, ctx->id, sizeof(ctx->id));
    ngx_http_cdm_stop_record_literal(rec, "\",\"operation\":\"StopJob\"");

    ngx_http_cdm_stop_record_target(rec, r, ctx);
}


static void
ngx_http_cdm_stop_record_start(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_main_conf_t *cdmcf, char *stage)
{
    ngx_time_t  *tp;

    /* a record is built and written at one go, so one buffer serves all */

    rec->start = cdmcf->worker->record + NGX_HTTP_CDM_STOP_RECORD_HEAD;
    rec->pos = rec->start;
    rec->end = rec->start + NGX_HTTP_CDM_STOP_RECORD_LEN;

    /* who is refused behind an intent has no outcome but this */

    rec->op = NGX_HTTP_CDM_STOP_OPEN_REMOVE;
    rec->intent = NULL;

    tp = ngx_timeofday();

    ngx_http_cdm_stop_record_literal(rec, ",\"stage\":\"");
    ngx_http_cdm_stop_record_raw(rec, stage, ngx_strlen(stage));
    ngx_http_cdm_stop_record_literal(rec, "\",\"time\":\"");

    /* the room is there in a record of this length */

    rec->pos = ngx_http_cdm_stop_time_text(rec->pos, tp->sec, tp->msec);
    *rec->pos++ = '"';
}


static void
ngx_http_cdm_stop_record_target(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char     *p;
    ngx_str_t   path;

    if (ctx->target.job.len) {
        ngx_http_cdm_stop_record_plain(rec, "project_id",
                                       ctx->target.project.data,
                                       NGX_HTTP_CDM_STOP_PROJECT_LEN);
        ngx_http_cdm_stop_record_plain(rec, "cluster_id",
                                       ctx->target.cluster.data,
                                       NGX_HTTP_CDM_STOP_CLUSTER_LEN);

        /* a name that was cut would not tell which job it was */

        ngx_http_cdm_stop_record_text(rec, "job_name", &ctx->target.job,
                                      NGX_HTTP_CDM_STOP_JOB_LEN);
        return;
    }

    /* what was meant is not known, so it is told as it came, less the query */

    path = ctx->subrequest ? r->uri : r->unparsed_uri;

    for (p = path.data; p < path.data + path.len; p++) {

        if (ngx_http_cdm_stop_record_question(p, path.data + path.len)) {
            path.len = p - path.data;
            break;
        }
    }

    ngx_http_cdm_stop_record_text(rec, "target", &path,
                                  NGX_HTTP_CDM_STOP_FIELD);
}


/* a question mark, escaped any number of times */

static ngx_uint_t
ngx_http_cdm_stop_record_question(u_char *p, u_char *last)
{
    if (*p != '%') {
        return *p == '?';
    }

    p++;

    while (last - p >= 2 && p[0] == '2' && p[1] == '5') {
        p += 2;
    }

    return last - p >= 2 && p[0] == '3' && (p[1] | 0x20) == 'f';
}


static void
ngx_http_cdm_stop_record_caller(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    u_char            buf[4 * NGX_HTTP_CDM_STOP_FIELD];
    ngx_str_t         value;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    ngx_http_cdm_stop_record_text(rec, "source_ip",
                                  &r->connection->addr_text,
                                  NGX_HTTP_CDM_STOP_FIELD);

    value.data = buf;
    value.len = 0;

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (h[i].key.len == sizeof("x-forwarded-for") - 1
            && ngx_strncmp(h[i].lowcase_key, "x-forwarded-for", h[i].key.len)
               == 0)
        {
            value.len = ngx_snprintf(buf + value.len, sizeof(buf) - value.len,
                                     "%s%V", value.len ? ", " : "",
                                     &h[i].value)
                        - buf;
        }
    }

    if (value.len) {
        ngx_http_cdm_stop_record_text(rec, "forwarded_for", &value,
                                      NGX_HTTP_CDM_STOP_FIELD);
    }

    ngx_http_cdm_stop_record_identity(rec, ctx);
    ngx_http_cdm_stop_record_decision(rec, ctx);
}


static void
ngx_http_cdm_stop_record_identity(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_caller_t  *caller;

    caller = &ctx->caller;

    if (caller->principal.len) {
        ngx_http_cdm_stop_record_text(rec, "principal", &caller->principal,
                                      NGX_HTTP_CDM_STOP_FIELD);
    }

    if (!caller->verified) {
        return;
    }

    /* names may be those of another domain: its id tells */

    ngx_http_cdm_stop_record_literal(rec, ",\"user\":{\"id\":\"");
    ngx_http_cdm_stop_record_string(rec, &caller->user_id,
                                    NGX_HTTP_CDM_STOP_FIELD);
    ngx_http_cdm_stop_record_text(rec, "name", &caller->user,
                                  NGX_HTTP_CDM_STOP_FIELD);
    ngx_http_cdm_stop_record_text(rec, "domain", &caller->domain,
                                  NGX_HTTP_CDM_STOP_FIELD);
    ngx_http_cdm_stop_record_text(rec, "domain_id", &caller->domain_id,
                                  NGX_HTTP_CDM_STOP_FIELD);
    ngx_http_cdm_stop_record_literal(rec, "}");

    ngx_http_cdm_stop_record_roles(rec, caller->roles);
}


static void
ngx_http_cdm_stop_record_roles(ngx_http_cdm_stop_record_t *rec,
    ngx_array_t *roles)
{
    size_t             len;
    ngx_str_t         *role;
    ngx_uint_t         i;
    static ngx_str_t   more = ngx_string("\xe2\x80\xa6");

    ngx_http_cdm_stop_record_literal(rec, ",\"roles\":[");

    len = 0;
    role = roles->elts;

    for (i = 0; i < roles->nelts; i++) {

        if (i) {
            ngx_http_cdm_stop_record_literal(rec, ",");
        }

        ngx_http_cdm_stop_record_literal(rec, "\"");

        len += ngx_min(role[i].len, NGX_HTTP_CDM_STOP_FIELD);

        if (len > NGX_HTTP_CDM_STOP_ROLES) {
            ngx_http_cdm_stop_record_string(rec, &more, more.len);
            break;
        }

        ngx_http_cdm_stop_record_string(rec, &role[i],
                                        NGX_HTTP_CDM_STOP_FIELD);
    }

    ngx_http_cdm_stop_record_literal(rec, "]");
}


static void
ngx_http_cdm_stop_record_decision(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_str_t         *decision, *code;
    static ngx_str_t   allow = ngx_string("allow");
    static ngx_str_t   deny = ngx_string("deny");

    if (ctx->reason.len) {
        ngx_http_cdm_stop_record_text(rec, "reason", &ctx->reason,
                                      NGX_HTTP_CDM_STOP_REASON_LEN);
    }

    if (ctx->decision == NGX_HTTP_CDM_STOP_DECISION_NONE) {
        return;
    }

    decision = (ctx->decision == NGX_HTTP_CDM_STOP_DECISION_ALLOW) ? &allow
                                                                   : &deny;

    ngx_http_cdm_stop_record_plain(rec, "decision", decision->data,
                                   decision->len);

    if (ctx->rule.len) {
        ngx_http_cdm_stop_record_text(rec, "rule", &ctx->rule, ctx->rule.len);
    }

    if (ctx->conf->dry_run) {
        ngx_http_cdm_stop_record_literal(rec, ",\"enforced\":false");

    } else {
        ngx_http_cdm_stop_record_literal(rec, ",\"enforced\":true");
    }

    /* an answer of the gateway's own has its code anyway */

    if (ctx->waived && ctx->error == NULL) {
        code = (ngx_str_t *) &ctx->waived->code;
        ngx_http_cdm_stop_record_plain(rec, "error_code", code->data,
                                       code->len);
    }
}


static void
ngx_http_cdm_stop_record_tokens(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    /* the outcome comes when the token has been wiped */

    if (!ctx->fingerprinted) {

        ctx->fingerprinted = 1;

        cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

        if ((ctx->caller_token.len
             && ctx->caller_fp[0] == '\0'
             && ngx_http_cdm_stop_token_fingerprint(cdmcf->zone,
                                                    &ctx->caller_token,
                                                    ctx->caller_fp)
                != NGX_OK)
            || (ctx->injected
                && ctx->token_fp[0] == '\0'
                && ngx_http_cdm_stop_token_keep_fingerprint(cdmcf->zone,
                                                            &ctx->key,
                                                            ctx->generation,
                                                            &ctx->token,
                                                            ctx->token_fp)
                   != NGX_OK))
        {
            rec->pos = NULL;
            return;
        }
    }

    if (ctx->caller_token.len) {
        ngx_http_cdm_stop_record_plain(rec, "client_token", ctx->caller_fp,
                                       sizeof(ctx->caller_fp));
    }

    if (ctx->injected) {
        ngx_http_cdm_stop_record_plain(rec, "injected_token", ctx->token_fp,
                                       sizeof(ctx->token_fp));
        ngx_http_cdm_stop_record_number(rec, "token_generation",
                                        ctx->generation);
    }
}


/* the caller's token alone, of a stop that got none of the gateway's */

static void
ngx_http_cdm_stop_record_sent(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    ngx_http_cdm_stop_main_conf_t  *cdmcf;

    if (ctx->caller_token.len == 0) {
        return;
    }

    cdmcf = ngx_http_get_module_main_conf(r, ngx_http_cdm_stop_module);

    if (ctx->caller_fp[0] == '\0'
        && ngx_http_cdm_stop_token_fingerprint(cdmcf->zone, &ctx->caller_token,
                                               ctx->caller_fp)
           != NGX_OK)
    {
        rec->pos = NULL;
        return;
    }

    ngx_http_cdm_stop_record_plain(rec, "client_token", ctx->caller_fp,
                                   sizeof(ctx->caller_fp));
}


static void
ngx_http_cdm_stop_record_answer(ngx_http_cdm_stop_record_t *rec,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status)
{
    ngx_str_t  *name;

    ngx_http_cdm_stop_record_number(rec, "status", status);

    if (ctx->error) {
        name = (ngx_str_t *) &ctx->error->code;
        ngx_http_cdm_stop_record_plain(rec, "error_code", name->data,
                                       name->len);
    }

    if (ctx->upstream_name.len) {
        ngx_http_cdm_stop_record_text(rec, "upstream", &ctx->upstream_name,
                                      NGX_HTTP_CDM_STOP_FIELD);
    }

    if (ctx->upstream_status) {
        ngx_http_cdm_stop_record_number(rec, "upstream_status",
                                        ctx->upstream_status);
    }

    if (ctx->upstream_request_id.len) {
        ngx_http_cdm_stop_record_text(rec, "upstream_request_id",
                                      &ctx->upstream_request_id,
                                      NGX_HTTP_CDM_STOP_FIELD);
    }

    name = ngx_http_cdm_stop_verdict_name(ctx->verdict.verdict);
    ngx_http_cdm_stop_record_plain(rec, "verdict", name->data, name->len);

    if (ctx->verdict.code.len) {
        ngx_http_cdm_stop_record_text(rec, "cdm_code", &ctx->verdict.code,
                                      NGX_HTTP_CDM_STOP_FIELD);
    }

    if (ctx->verdict.message.len) {
        ngx_http_cdm_stop_record_text(rec, "cdm_message",
                                      &ctx->verdict.message,
                                      NGX_HTTP_CDM_STOP_MESSAGE);
    }
}


static ngx_int_t
ngx_http_cdm_stop_record_end(ngx_http_cdm_stop_record_t *rec,
    ngx_http_request_t *r, ngx_http_cdm_stop_ctx_t *ctx)
{
    if (rec->pos == NULL) {
        ngx_log_error(NGX_LOG_ALERT, r->connection->log, 0,
                      "audit record could not be built");
        return NGX_ERROR;
    }

    return ngx_http_cdm_stop_audit_write(r, ctx, rec);
}


static void
ngx_http_cdm_stop_record_raw(ngx_http_cdm_stop_record_t *rec, const void *p,
    size_t len)
{
    if (rec->pos == NULL) {
        return;
    }

    if ((size_t) (rec->end - rec->pos) < len) {
        rec->pos = NULL;
        return;
    }

    rec->pos = ngx_cpymem(rec->pos, p, len);
}


/* a string behind its opening quote */

static void
ngx_http_cdm_stop_record_string(ngx_http_cdm_stop_record_t *rec,
    ngx_str_t *value, size_t max)
{
    if (rec->pos == NULL) {
        return;
    }

    if (rec->pos == rec->end) {
        rec->pos = NULL;
        return;
    }

    /* room for the closing quote is kept */

    rec->pos = ngx_http_cdm_stop_json_text(rec->pos, rec->end - 1, value, max);

    if (rec->pos) {
        *rec->pos++ = '"';
    }
}


static void
ngx_http_cdm_stop_record_int(ngx_http_cdm_stop_record_t *rec, int64_t value)
{
    size_t    len;
    uint64_t  n, rest;

    if (value < 0) {
        ngx_http_cdm_stop_record_literal(rec, "-");
    }

    n = (value < 0) ? 0 - (uint64_t) value : (uint64_t) value;

    len = 1;

    for (rest = n; rest > 9; rest /= 10) {
        len++;
    }

    if (rec->pos == NULL || (size_t) (rec->end - rec->pos) < len) {
        rec->pos = NULL;
        return;
    }

    rec->pos += len;

    (void) ngx_http_cdm_stop_digits_before(rec->pos, n);
}
