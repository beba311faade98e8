
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* The command "show": records for people */


#include <errno.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>
#include "audit.h"


typedef struct {
    cdm_stop_audit_opts_t  *opts;
    regex_t                 job;
    int                     colour;
    int64_t                 since;
    int64_t                 until;
    int64_t                 unreadable;
} cdm_stop_audit_show_t;


static int cdm_stop_audit_show_file(cdm_stop_audit_show_t *ctx,
    const char *name);
static int cdm_stop_audit_wanted(cdm_stop_audit_show_t *ctx, json_t *record);
static void cdm_stop_audit_show_record(cdm_stop_audit_show_t *ctx,
    json_t *record);
static void cdm_stop_audit_field(const char *before, const char *text);
static const char *cdm_stop_audit_get(json_t *record, const char *name);
static const char *cdm_stop_audit_who(json_t *record);


int
cdm_stop_audit_show(cdm_stop_audit_opts_t *opts)
{
    int                    i, rc;
    char                   error[256];
    const char            *no_color;
    cdm_stop_audit_show_t  ctx;

    memset(&ctx, 0, sizeof(cdm_stop_audit_show_t));
    ctx.opts = opts;

    if (opts->job) {
        rc = regcomp(&ctx.job, opts->job, REG_EXTENDED|REG_NOSUB);

        if (rc != 0) {
            regerror(rc, &ctx.job, error, sizeof(error));
            cdm_stop_audit_error("--job: %s", error);
            return CDM_STOP_AUDIT_USAGE;
        }
    }

    if (opts->since) {
        ctx.since = cdm_stop_audit_time((unsigned char *) opts->since,
                                        strlen(opts->since));
    }

    if (opts->until) {
        ctx.until = cdm_stop_audit_time((unsigned char *) opts->until,
                                        strlen(opts->until));
    }

    no_color = getenv("NO_COLOR");
    ctx.colour = cdm_stop_audit_terminal(STDOUT_FILENO)
                 && (no_color == NULL || !*no_color);

    rc = cdm_stop_audit_order(opts);

    for (i = 0; rc == 0 && i < opts->nfiles; i++) {
        rc = cdm_stop_audit_show_file(&ctx, opts->files[i].name);
    }

    if (opts->job) {
        regfree(&ctx.job);
    }

    if (rc != 0) {
        return CDM_STOP_AUDIT_USAGE;
    }

    if (ctx.unreadable) {
        cdm_stop_audit_error("%lld lines are no records; \"verify\" tells "
                             "which", (long long) ctx.unreadable);
        return CDM_STOP_AUDIT_FINDINGS;
    }

    return CDM_STOP_AUDIT_WHOLE;
}


static int
cdm_stop_audit_show_file(cdm_stop_audit_show_t *ctx, const char *name)
{
    int                      rc;
    char                    *text;
    json_t                  *record;
    const unsigned char     *data;
    cdm_stop_audit_line_t    line;
    cdm_stop_audit_reader_t  reader;

    if (cdm_stop_audit_open(&reader, name) != 0) {
        cdm_stop_audit_error("%s: %s", name, strerror(errno));
        return -1;
    }

    while ((rc = cdm_stop_audit_next(&reader, &data)) == 1) {

        record = NULL;

        if (!reader.too_long
            && cdm_stop_audit_line(data, reader.len, &line) == NULL)
        {
            record = json_loadb((const char *) data, reader.len,
                                JSON_ALLOW_NUL, NULL);
        }

        if (record == NULL) {
            ctx->unreadable++;
            continue;
        }

        if (cdm_stop_audit_wanted(ctx, record)) {

            if (ctx->opts->json) {
                text = json_dumps(record, JSON_COMPACT|JSON_ENSURE_ASCII
                                          |JSON_PRESERVE_ORDER);
                if (text) {
                    puts(text);
                    free(text);
                }

            } else {
                cdm_stop_audit_show_record(ctx, record);
            }
        }

        json_decref(record);
    }

    if (rc == -1) {
        cdm_stop_audit_error("%s: %s", name, strerror(reader.error));
    }

    cdm_stop_audit_close(&reader);

    return rc;
}


static int
cdm_stop_audit_wanted(cdm_stop_audit_show_t *ctx, json_t *record)
{
    int64_t                 time;
    const char             *text;
    cdm_stop_audit_opts_t  *opts;

    opts = ctx->opts;

    text = cdm_stop_audit_get(record, "time");
    time = cdm_stop_audit_time((const unsigned char *) text, strlen(text));

    if ((ctx->since && time < ctx->since) || (ctx->until && time > ctx->until))
    {
        return 0;
    }

    if (opts->job
        && (*cdm_stop_audit_get(record, "job_name") == '\0'
            || regexec(&ctx->job, cdm_stop_audit_get(record, "job_name"), 0,
                       NULL, 0) != 0))
    {
        return 0;
    }

    if (opts->user && strcmp(cdm_stop_audit_who(record), opts->user) != 0
        && strcmp(cdm_stop_audit_get(json_object_get(record, "user"), "name"),
                  opts->user) != 0)
    {
        return 0;
    }

    if ((opts->verdict
         && strcmp(cdm_stop_audit_get(record, "verdict"), opts->verdict) != 0)
        || (opts->stage
            && strcmp(cdm_stop_audit_get(record, "stage"), opts->stage) != 0)
        || (opts->request_id
            && strcmp(cdm_stop_audit_get(record, "request_id"),
                      opts->request_id) != 0))
    {
        return 0;
    }

    /* for people a stop is one line: what became of it */

    text = cdm_stop_audit_get(record, "stage");

    return opts->json || opts->stage || opts->request_id
           || (strcmp(text, "intent") != 0 && strcmp(text, "checkpoint") != 0);
}


static void
cdm_stop_audit_show_record(cdm_stop_audit_show_t *ctx, json_t *record)
{
    json_t      *n;
    const char  *verdict, *colour;

    verdict = cdm_stop_audit_get(record, "verdict");

    if (*verdict == '\0') {
        verdict = cdm_stop_audit_get(record, "stage");
    }

    colour = strcmp(verdict, "stopped") == 0
             || strcmp(verdict, "already_stopped") == 0 ? "32"
             : strcmp(verdict, "intent") == 0
               || strcmp(verdict, "checkpoint") == 0 ? "2"
             : strcmp(verdict, "unknown") == 0 ? "33" : "31";

    cdm_stop_audit_field("", cdm_stop_audit_get(record, "time"));

    fputs(ctx->colour ? "  \033[" : "  ", stdout);
    fputs(ctx->colour ? colour : "", stdout);
    fputs(ctx->colour ? "m" : "", stdout);
    cdm_stop_audit_print(stdout, verdict);
    fputs(ctx->colour ? "\033[0m" : "", stdout);

    cdm_stop_audit_field("  job=", cdm_stop_audit_get(record, "job_name"));
    cdm_stop_audit_field("  target=", cdm_stop_audit_get(record, "target"));
    cdm_stop_audit_field("  by=", cdm_stop_audit_who(record));
    cdm_stop_audit_field("  from=", cdm_stop_audit_get(record, "source_ip"));

    n = json_object_get(record, "status");

    if (json_is_integer(n)) {
        printf("  status=%lld", (long long) json_integer_value(n));
    }

    n = json_object_get(record, "summary");

    if (json_is_integer(n)) {
        printf("  refusals=%lld", (long long) json_integer_value(n));
    }

    cdm_stop_audit_field("  error=", cdm_stop_audit_get(record, "error_code"));
    cdm_stop_audit_field("  rule=", cdm_stop_audit_get(record, "rule"));
    cdm_stop_audit_field("  cdm=", cdm_stop_audit_get(record, "cdm_code"));
    cdm_stop_audit_field("  closed=", cdm_stop_audit_get(record, "closed"));
    cdm_stop_audit_field("  request=",
                         cdm_stop_audit_get(record, "request_id"));
    cdm_stop_audit_field("  reason=", cdm_stop_audit_get(record, "reason"));
    cdm_stop_audit_field("  message=",
                         cdm_stop_audit_get(record, "cdm_message"));
    fputc('\n', stdout);
}


static void
cdm_stop_audit_field(const char *before, const char *text)
{
    if (*text == '\0') {
        return;
    }

    fputs(before, stdout);

    if (strpbrk(text, " =\"\\")) {
        fputc('"', stdout);
        cdm_stop_audit_print(stdout, text);
        fputc('"', stdout);
        return;
    }

    cdm_stop_audit_print(stdout, text);
}


static const char *
cdm_stop_audit_get(json_t *record, const char *name)
{
    const char  *text;

    text = json_string_value(json_object_get(record, name));

    return text ? text : "";
}


static const char *
cdm_stop_audit_who(json_t *record)
{
    const char  *text;

    text = cdm_stop_audit_get(record, "principal");

    return *text ? text
                 : cdm_stop_audit_get(json_object_get(record, "user"), "name");
}
