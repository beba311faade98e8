
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* Findings, in the order of the files */


#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "audit_verify.h"


static void cdm_stop_audit_print_place(cdm_stop_audit_t *ctx,
    cdm_stop_audit_finding_t *f);
static void cdm_stop_audit_json(cdm_stop_audit_t *ctx,
    cdm_stop_audit_finding_t *f);
static void cdm_stop_audit_print_intents(cdm_stop_audit_t *ctx);
static void cdm_stop_audit_summary(cdm_stop_audit_t *ctx);
static void cdm_stop_audit_limits(cdm_stop_audit_t *ctx);
static int cdm_stop_audit_by_intent(const void *one, const void *two);
static int cdm_stop_audit_by_place(const void *one, const void *two);


cdm_stop_audit_finding_t *
cdm_stop_audit_find(cdm_stop_audit_t *ctx, int bad, const char *kind,
    const cdm_stop_audit_place_t *place, int64_t seq, const char *fmt, ...)
{
    void                      *p;
    size_t                     size;
    va_list                    args;
    cdm_stop_audit_finding_t  *f;

    f = ctx->nfindings ? &ctx->findings[ctx->nfindings - 1] : NULL;

    if (f && strcmp(f->kind, kind) == 0 && f->place.file == place->file
        && f->place.line + f->lines == place->line && seq
        && f->last + 1 == seq
        && (strcmp(kind, "moved") == 0 || strcmp(kind, "repeated") == 0))
    {
        f->last = seq;
        f->lines++;
        return f;
    }

    ctx->nbad += bad;

    if (ctx->nfindings == CDM_STOP_AUDIT_REPORTED) {
        ctx->unreported++;
        return NULL;
    }

    if (ctx->nfindings == ctx->size) {
        size = ctx->size ? 2 * ctx->size : 64;

        p = realloc(ctx->findings, size * sizeof(cdm_stop_audit_finding_t));
        if (p == NULL) {
            ctx->unreported++;
            return NULL;
        }

        ctx->findings = p;
        ctx->size = size;
    }

    f = &ctx->findings[ctx->nfindings++];

    f->bad = bad;
    f->kind = kind;
    f->place = *place;
    f->seq = seq;
    f->last = seq;
    f->lines = 1;

    va_start(args, fmt);
    vsnprintf(f->text, sizeof(f->text), fmt, args);
    va_end(args);

    return f;
}


int
cdm_stop_audit_report(cdm_stop_audit_t *ctx)
{
    size_t                     i;
    cdm_stop_audit_finding_t  *f;

    if (ctx->nfindings) {
        qsort(ctx->findings, ctx->nfindings, sizeof(cdm_stop_audit_finding_t),
              cdm_stop_audit_by_place);
    }

    for (i = 0; i < ctx->nfindings; i++) {
        f = &ctx->findings[i];

        if (ctx->opts->json) {
            cdm_stop_audit_json(ctx, f);
            continue;
        }

        cdm_stop_audit_print_place(ctx, f);
        printf(": %s%s", f->bad ? "" : "note: ", f->kind);

        if (f->lines > 1) {
            printf(" (%lld lines, records %lld to %lld)", (long long) f->lines,
                   (long long) f->seq, (long long) f->last);

        } else if (f->seq && f->seq == f->last) {
            printf(" (record %lld)", (long long) f->seq);
        }

        fputs(": ", stdout);
        cdm_stop_audit_print(stdout, f->text);
        fputc('\n', stdout);
    }

    cdm_stop_audit_print_intents(ctx);

    if (ctx->unreported) {
        cdm_stop_audit_error("%lld more findings are not told",
                             (long long) ctx->unreported);
    }

    cdm_stop_audit_summary(ctx);

    if (!ctx->opts->json) {
        cdm_stop_audit_limits(ctx);
    }

    if (ctx->nbad || (ctx->opts->strict && ctx->intents.n)) {
        return CDM_STOP_AUDIT_FINDINGS;
    }

    return CDM_STOP_AUDIT_WHOLE;
}


static void
cdm_stop_audit_print_place(cdm_stop_audit_t *ctx, cdm_stop_audit_finding_t *f)
{
    cdm_stop_audit_print(stdout, ctx->opts->files[f->place.file].name);

    if (f->place.line) {
        printf(":%lld (byte %lld)", (long long) f->place.line,
               (long long) f->place.offset);
    }
}


static void
cdm_stop_audit_json(cdm_stop_audit_t *ctx, cdm_stop_audit_finding_t *f)
{
    printf("{\"finding\":\"%s\",\"fails\":%s,\"file\":", f->kind,
           f->bad ? "true" : "false");
    cdm_stop_audit_print_json(stdout, ctx->opts->files[f->place.file].name);
    printf(",\"line\":%lld,\"offset\":%lld,\"lines\":%lld",
           (long long) f->place.line, (long long) f->place.offset,
           (long long) f->lines);

    if (f->seq) {
        printf(",\"seq\":%lld,\"last_seq\":%lld", (long long) f->seq,
               (long long) f->last);
    }

    fputs(",\"text\":", stdout);
    cdm_stop_audit_print_json(stdout, f->text);
    fputs("}\n", stdout);
}


static int
cdm_stop_audit_by_intent(const void *one, const void *two)
{
    const cdm_stop_audit_intent_t  *a, *b;

    a = *(cdm_stop_audit_intent_t *const *) one;
    b = *(cdm_stop_audit_intent_t *const *) two;

    if (a->place.file != b->place.file) {
        return a->place.file - b->place.file;
    }

    return (a->place.line > b->place.line) - (a->place.line < b->place.line);
}


static void
cdm_stop_audit_print_intents(cdm_stop_audit_t *ctx)
{
    size_t                     i, n;
    cdm_stop_audit_intent_t   *intent, **all;

    if (ctx->intents.n == 0) {
        return;
    }

    all = malloc(ctx->intents.n * sizeof(cdm_stop_audit_intent_t *));
    if (all == NULL) {
        cdm_stop_audit_error("there is no memory to list the open intents");
        return;
    }

    n = 0;

    for (i = 0; i < ctx->intents.nbuckets; i++) {

        for (intent = ctx->intents.buckets[i]; intent; intent = intent->next) {
            all[n++] = intent;
        }
    }

    qsort(all, n, sizeof(cdm_stop_audit_intent_t *), cdm_stop_audit_by_intent);

    for (i = 0; i < n; i++) {
        intent = all[i];

        if (ctx->opts->json) {
            printf("{\"open\":\"%s\",\"time\":\"%s\",\"job_name\":\"%s\","
                   "\"file\":", intent->id, intent->time, intent->job);
            cdm_stop_audit_print_json(stdout,
                                 ctx->opts->files[intent->place.file].name);
            printf(",\"line\":%lld,\"seq\":%lld}\n",
                   (long long) intent->place.line, (long long) intent->seq);
            continue;
        }

        cdm_stop_audit_print(stdout,
                             ctx->opts->files[intent->place.file].name);
        printf(":%lld: open: request ", (long long) intent->place.line);
        cdm_stop_audit_print(stdout, intent->id);
        printf(" of %s, job ", intent->time);
        cdm_stop_audit_print(stdout, intent->job);
        fputs(": an intent without an outcome\n", stdout);
    }

    free(all);
}


static void
cdm_stop_audit_summary(cdm_stop_audit_t *ctx)
{
    int                      i;
    char                     hash[2 * CDM_STOP_AUDIT_HASH_LEN + 1];
    cdm_stop_audit_chain_t  *chain;

    for (i = 0; i < ctx->nchains; i++) {
        chain = ctx->chains[i];
        cdm_stop_audit_hex(hash, chain->now.hash, CDM_STOP_AUDIT_HASH_LEN);

        printf(ctx->opts->json
               ? "{\"chain\":\"%s\",\"records\":%lld,\"head\":\"%lld:%s\","
                 "\"checkpoints\":%lld}\n"
               : "chain %s: %lld records fit, head %lld:%s, "
                 "%lld checkpoints\n",
               chain->id, (long long) chain->authentic,
               (long long) chain->now.seq, hash,
               (long long) chain->checkpoints);
    }

    printf(ctx->opts->json
           ? "{\"lines\":%lld,\"findings\":%lld,\"open\":%zu,"
             "\"closed_by_crash\":%lld}\n"
           : "%lld lines, %lld findings, %zu intents without outcome, "
             "%lld closed by a crash\n",
           (long long) ctx->lines, (long long) ctx->nbad, ctx->intents.n,
           (long long) ctx->crashed);
}


/* what was not proved is said */

static void
cdm_stop_audit_limits(cdm_stop_audit_t *ctx)
{
    int  i;

    for (i = 0; i < ctx->nchains; i++) {

        if (ctx->chains[i]->mac && ctx->chains[i]->mac->mac == NULL) {
            break;
        }
    }

    if (i < ctx->nchains || ctx->opts->nkeys == 0) {
        puts("no key: whoever could write the file could write it anew from "
             "any line on; without a key only signed checkpoints "
             "(--public-key) or a head kept elsewhere (--head) show that");
    }

    if (ctx->public_key == NULL) {
        puts("no public key: signatures of checkpoints were not looked at");
    }

    if (ctx->opts->nheads == 0 && !ctx->opts->at) {
        puts("no head and no time: whether the tail was cut behind the last "
             "record is not known");
    }
}


static int
cdm_stop_audit_by_place(const void *one, const void *two)
{
    const cdm_stop_audit_finding_t  *a, *b;

    a = one;
    b = two;

    if (a->place.file != b->place.file) {
        return a->place.file - b->place.file;
    }

    return (a->place.line > b->place.line) - (a->place.line < b->place.line);
}
