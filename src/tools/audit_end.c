
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* What shows only behind some lines: bad ones, checkpoints, a cut tail */


#include <string.h>
#include "audit_verify.h"


/* a timer may be late by as much as it is set to, and by these milliseconds */
#define CDM_STOP_AUDIT_LATE        5000

#define CDM_STOP_AUDIT_EVERY_TIME  60

/* a checkpoint comes each 10,000 records; workers may run ahead of it */
#define CDM_STOP_AUDIT_EVERY_SEQ   20000


static void cdm_stop_audit_end_chain(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain);
static void cdm_stop_audit_end_gaps(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain);
static void cdm_stop_audit_end_head(cdm_stop_audit_t *ctx,
    cdm_stop_audit_head_t *head);
static void cdm_stop_audit_end_at(cdm_stop_audit_t *ctx);
static int64_t cdm_stop_audit_grace(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain);


void
cdm_stop_audit_settle(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain,
    int64_t gap, int64_t torn)
{
    int64_t                i, n;
    const char            *kind;
    cdm_stop_audit_bad_t  *bad;

    n = chain->nbad;

    if (torn && n && chain->last_bad.len == torn) {
        n--;

    } else if (torn && n && chain->bad_bytes - 1 == torn) {
        n = 0;

    } else if (torn) {
        cdm_stop_audit_find(ctx, 0, "torn", &chain->now.place, 0,
                            "the record behind it tells of %lld torn bytes "
                            "that are not there", (long long) torn);
        torn = 0;
    }

    if (torn) {
        cdm_stop_audit_find(ctx, 0, "torn", &chain->last_bad.place, 0,
                            "%lld bytes of no record, which the next record "
                            "tells of", (long long) torn);
    }

    if (n > CDM_STOP_AUDIT_BAD && n == chain->nalien
        && strcmp(chain->alien, chain->id) != 0)
    {
        cdm_stop_audit_find(ctx, 1, "wrong key", &chain->bad[0].place, 0,
                            "not one of %lld lines of chain %s, which begin "
                            "here, fits a key that was given", (long long) n,
                            chain->alien);
        chain->nbad = 0;
        return;
    }

    kind = (gap >= n) ? "changed" : gap == 0 ? "put in" : "changed or put in";

    for (i = 0; i < n && i < CDM_STOP_AUDIT_BAD; i++) {
        bad = &chain->bad[i];

        cdm_stop_audit_find(ctx, 1, kind, &bad->place,
                            gap >= n ? chain->now.seq + 1 + i : 0, "%s",
                            bad->why);
    }

    if (n > CDM_STOP_AUDIT_BAD) {
        cdm_stop_audit_find(ctx, 1, kind, &chain->last_bad.place, 0,
                            "this is the last of %lld more lines that do not "
                            "fit: written with another key, or anew",
                            (long long) (n - CDM_STOP_AUDIT_BAD));
    }

    if (n) {
        chain->incomplete = 1;
    }

    chain->nbad = n;
}


void
cdm_stop_audit_checkpoint(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain, const cdm_stop_audit_place_t *place,
    const unsigned char *data, cdm_stop_audit_line_t *line)
{
    int64_t                now;
    cdm_stop_audit_str_t  *m;

    m = line->members;
    now = cdm_stop_audit_time(m[CDM_STOP_AUDIT_TIME].data,
                              m[CDM_STOP_AUDIT_TIME].len);

    if (chain->first == 0) {
        chain->first = now;
        chain->signed_time = now;
        chain->signed_seq = line->seq - 1;
    }

    chain->time = now;

    if (!cdm_stop_audit_is(&m[CDM_STOP_AUDIT_STAGE], "checkpoint")) {

        if (ctx->public_key && !chain->overdue
            && (now > chain->signed_time + cdm_stop_audit_grace(ctx, chain)
                || line->seq > chain->signed_seq + CDM_STOP_AUDIT_EVERY_SEQ))
        {
            chain->overdue = 1;
            cdm_stop_audit_find(ctx, 1, "no checkpoint", place, line->seq,
                                "the one that was due before it is missing");
        }

        return;
    }

    if (ctx->public_key) {

        if (!cdm_stop_audit_is(&m[CDM_STOP_AUDIT_KEY_ID], ctx->key_id)) {
            cdm_stop_audit_find(ctx, 1, "foreign signer", place, line->seq,
                                "the checkpoint was not signed with this key");
            return;
        }

        if (!cdm_stop_audit_signature(ctx->public_key, data, line->is_signed,
                                      &m[CDM_STOP_AUDIT_SIGNATURE]))
        {
            cdm_stop_audit_find(ctx, 1, "bad signature", place, line->seq,
                                "the checkpoint's signature does not fit");
            return;
        }
    }

    chain->overdue = 0;
    chain->checkpoints++;
    chain->signed_time = now;
    chain->signed_seq = line->seq;
    chain->every = line->every;
}


void
cdm_stop_audit_end(cdm_stop_audit_t *ctx)
{
    int  i;

    for (i = 0; i < ctx->nchains; i++) {
        cdm_stop_audit_end_chain(ctx, ctx->chains[i]);
    }

    for (i = 0; i < ctx->opts->nheads; i++) {

        if (!ctx->opts->heads[i].met) {
            cdm_stop_audit_end_head(ctx, &ctx->opts->heads[i]);
        }
    }

    if (ctx->opts->at) {
        cdm_stop_audit_end_at(ctx);
    }
}


static void
cdm_stop_audit_end_chain(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain)
{
    if (chain->records == 0) {
        cdm_stop_audit_find(ctx, 1, "wrong key", &chain->first_line, 0,
                            ctx->opts->nkeys == 0
                            ? "not one of %lld lines fits: they have a key, "
                              "which --key gives (%s)"
                            : ctx->opts->nkeys == 1
                            ? "not one of %lld lines fits this key (%s)"
                            : "not one of %lld lines fits one of these keys "
                              "(%s)",
                            (long long) chain->nbad, chain->bad[0].why);
        return;
    }

    cdm_stop_audit_settle(ctx, chain, chain->nbad, 0);
    cdm_stop_audit_end_gaps(ctx, chain);

    if (ctx->public_key && chain->checkpoints == 0 && !chain->overdue) {
        cdm_stop_audit_find(ctx, 1, "no checkpoint", &chain->now.place,
                            chain->now.seq, "there is none in the chain");
    }
}


static void
cdm_stop_audit_end_gaps(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain)
{
    int                        i;
    cdm_stop_audit_gap_t      *gap;
    cdm_stop_audit_early_t    *early;
    cdm_stop_audit_finding_t  *f;

    for (i = 0; i < chain->nearly; i++) {
        early = &chain->early[i];
        cdm_stop_audit_find(ctx, 1, "moved", &early->place, early->seq,
                            "what belongs between it and the record before "
                            "it is not there");
    }

    for (i = 0; i < chain->ngaps; i++) {
        gap = &chain->gaps[i];

        f = cdm_stop_audit_find(ctx, 1, gap->file ? "lost file" : "missing",
                                &gap->place, gap->seq,
                                gap->seq == gap->last
                                ? "record %lld is missing before this line"
                                : "records %lld to %lld are missing before "
                                  "this line",
                                (long long) gap->seq, (long long) gap->last);
        if (f) {
            f->last = gap->last;
        }
    }
}


static void
cdm_stop_audit_end_head(cdm_stop_audit_t *ctx, cdm_stop_audit_head_t *head)
{
    int                      i;
    cdm_stop_audit_chain_t  *chain, *last;

    last = NULL;

    for (i = 0; i < ctx->nchains; i++) {
        chain = ctx->chains[i];

        if ((head->chain[0] == '\0' || strcmp(head->chain, chain->id) == 0)
            && (last == NULL || chain->time >= last->time))
        {
            last = chain;
        }
    }

    if (last == NULL) {
        cdm_stop_audit_find(ctx, 1, "cut tail", &(cdm_stop_audit_place_t) { 0 },
                            head->seq, "there is no record of the chain of "
                            "--head");
        return;
    }

    if (last->now.seq < head->seq) {
        cdm_stop_audit_find(ctx, 1, "cut tail", &last->now.place,
                            last->now.seq, "it is the last one, and --head "
                            "says that record %lld was written",
                            (long long) head->seq);
        return;
    }

    cdm_stop_audit_find(ctx, 1, "other head", &last->now.place, head->seq,
                        "the record of --head has another hash, or is not "
                        "there");
}


/* of several chains one is alive: the one that was written last */

static void
cdm_stop_audit_end_at(cdm_stop_audit_t *ctx)
{
    int                      i;
    cdm_stop_audit_chain_t  *chain, *last;

    last = NULL;

    for (i = 0; i < ctx->nchains; i++) {
        chain = ctx->chains[i];

        if (last == NULL || chain->time > last->time) {
            last = chain;
        }
    }

    if (last == NULL || last->records == 0) {
        return;
    }

    if (last->checkpoints == 0) {
        cdm_stop_audit_find(ctx, 1, "no checkpoint", &last->now.place,
                            last->now.seq, "without one --at cannot tell "
                            "whether the tail was cut");
        return;
    }

    if (ctx->opts->at > last->signed_time + cdm_stop_audit_grace(ctx, last)) {
        cdm_stop_audit_find(ctx, 1, "cut tail", &last->now.place,
                            last->now.seq, "it is the last one, and the next "
                            "checkpoint was due %lld seconds before --at",
                            (long long) ((ctx->opts->at - last->signed_time)
                                         / 1000
                                         - (ctx->opts->every
                                            ? ctx->opts->every : last->every)));
    }
}


static int64_t
cdm_stop_audit_grace(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain)
{
    int64_t  every;

    every = ctx->opts->every ? ctx->opts->every : chain->every;

    if (every <= 0 || every > 86400 * 366) {
        every = CDM_STOP_AUDIT_EVERY_TIME;
    }

    return 2 * every * 1000 + CDM_STOP_AUDIT_LATE;
}
