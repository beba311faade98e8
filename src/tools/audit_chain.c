
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * The chain.  A record names the hash of the one before, so each can be
 * judged alone first, with the hash that it names itself, and then by its
 * place.  One that fails alone was changed or put in: which of both, the next
 * good record tells by its number.
 */


#include <stdlib.h>
#include <string.h>
#include "audit_verify.h"


static cdm_stop_audit_mac_t *cdm_stop_audit_fits(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain, const unsigned char *data,
    cdm_stop_audit_line_t *line);
static cdm_stop_audit_chain_t *cdm_stop_audit_known(cdm_stop_audit_t *ctx,
    cdm_stop_audit_line_t *line);
static cdm_stop_audit_chain_t *cdm_stop_audit_chain(cdm_stop_audit_t *ctx,
    cdm_stop_audit_line_t *line, int authentic);
static void cdm_stop_audit_bad(cdm_stop_audit_chain_t *chain,
    cdm_stop_audit_reader_t *reader, cdm_stop_audit_line_t *line,
    const char *why);
static int cdm_stop_audit_placed(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain, const cdm_stop_audit_place_t *place,
    cdm_stop_audit_line_t *line);
static void cdm_stop_audit_first(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain, const cdm_stop_audit_place_t *place,
    cdm_stop_audit_line_t *line);
static int cdm_stop_audit_behind(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain, const cdm_stop_audit_place_t *place,
    cdm_stop_audit_line_t *line);
static int64_t cdm_stop_audit_ahead(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain, cdm_stop_audit_line_t *line);
static void cdm_stop_audit_gap(cdm_stop_audit_chain_t *chain,
    const cdm_stop_audit_place_t *place, int64_t seq, int64_t last);


void
cdm_stop_audit_step(cdm_stop_audit_t *ctx, cdm_stop_audit_reader_t *reader,
    const unsigned char *data, cdm_stop_audit_line_t *line, const char *why)
{
    int                      i;
    cdm_stop_audit_mac_t    *mac;
    cdm_stop_audit_head_t   *head;
    cdm_stop_audit_chain_t  *chain;

    mac = NULL;
    chain = cdm_stop_audit_known(ctx, line);

    if (why == NULL) {
        mac = cdm_stop_audit_fits(ctx, chain, data, line);

        if (mac == NULL) {
            why = "its hash does not fit";
        }
    }

    if (chain == NULL) {
        chain = cdm_stop_audit_chain(ctx, line, why == NULL);
    }

    ctx->current = chain;

    if (chain->records == 0 && chain->nbad == 0) {
        chain->first_line = reader->place;
    }

    if (why) {
        cdm_stop_audit_bad(chain, reader, line, why);
        return;
    }

    if (!cdm_stop_audit_placed(ctx, chain, &reader->place, line)) {
        return;
    }

    chain->mac = mac;
    chain->authentic++;
    chain->records++;

    for (i = 0; i < ctx->opts->nheads; i++) {
        head = &ctx->opts->heads[i];

        if (head->seq == line->seq
            && memcmp(head->hash, line->hash, sizeof(line->hash)) == 0)
        {
            head->met = 1;
        }
    }

    cdm_stop_audit_checkpoint(ctx, chain, &reader->place, data, line);

    if (cdm_stop_audit_intent(ctx, chain, &reader->place, line) != 0) {
        cdm_stop_audit_error("there is no memory for the open intents");
        exit(CDM_STOP_AUDIT_USAGE);
    }
}


/* a chain keeps the key of its first record; NULL if the hash fits none */

static cdm_stop_audit_mac_t *
cdm_stop_audit_fits(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain,
    const unsigned char *data, cdm_stop_audit_line_t *line)
{
    int                    i, n;
    unsigned char          hash[CDM_STOP_AUDIT_HASH_LEN];
    cdm_stop_audit_mac_t  *mac;

    mac = ctx->macs;
    n = ctx->nmacs;

    if (chain && chain->mac) {
        mac = chain->mac;
        n = 1;
    }

    for (i = 0; i < n; i++) {

        if (cdm_stop_audit_mac(&mac[i], line->prev, CDM_STOP_AUDIT_HASH_LEN,
                               data, line->hashed, hash)
            != 0)
        {
            cdm_stop_audit_error("OpenSSL failed to hash");
            exit(CDM_STOP_AUDIT_USAGE);
        }

        if (memcmp(hash, line->hash, sizeof(hash)) == 0) {
            return &mac[i];
        }
    }

    return NULL;
}


static cdm_stop_audit_chain_t *
cdm_stop_audit_known(cdm_stop_audit_t *ctx, cdm_stop_audit_line_t *line)
{
    int                    i;
    cdm_stop_audit_str_t  *id;

    id = &line->members[CDM_STOP_AUDIT_CHAIN];

    for (i = 0; i < ctx->nchains; i++) {

        if (cdm_stop_audit_is(id, ctx->chains[i]->id)) {
            return ctx->chains[i];
        }
    }

    return NULL;
}


/* a line that does not fit opens no chain where there is one */

static cdm_stop_audit_chain_t *
cdm_stop_audit_chain(cdm_stop_audit_t *ctx, cdm_stop_audit_line_t *line,
    int authentic)
{
    cdm_stop_audit_str_t    *id;
    cdm_stop_audit_chain_t  *chain;

    id = &line->members[CDM_STOP_AUDIT_CHAIN];

    if (!authentic && ctx->current) {
        return ctx->current;
    }

    /* lines before the first record that fits belong to its chain */

    if (ctx->nchains == 1 && ctx->current && ctx->current->records == 0
        && authentic)
    {
        memcpy(ctx->current->id, id->data, CDM_STOP_AUDIT_CHAIN_LEN);
        return ctx->current;
    }

    if (ctx->nchains == CDM_STOP_AUDIT_CHAINS) {
        cdm_stop_audit_error("there are more than %d chains in these files",
                             CDM_STOP_AUDIT_CHAINS);
        exit(CDM_STOP_AUDIT_USAGE);
    }

    chain = calloc(1, sizeof(cdm_stop_audit_chain_t));
    if (chain == NULL) {
        cdm_stop_audit_error("there is no memory");
        exit(CDM_STOP_AUDIT_USAGE);
    }

    if (id->len == CDM_STOP_AUDIT_CHAIN_LEN) {
        memcpy(chain->id, id->data, id->len);
    }

    ctx->chains[ctx->nchains++] = chain;

    return chain;
}


static void
cdm_stop_audit_bad(cdm_stop_audit_chain_t *chain,
    cdm_stop_audit_reader_t *reader, cdm_stop_audit_line_t *line,
    const char *why)
{
    cdm_stop_audit_str_t  *id;
    cdm_stop_audit_bad_t  *bad;

    id = &line->members[CDM_STOP_AUDIT_CHAIN];

    if (chain->nbad == 0) {
        chain->nalien = 0;

        if (id->len == CDM_STOP_AUDIT_CHAIN_LEN) {
            memcpy(chain->alien, id->data, id->len);
        }
    }

    if (line->hashed && cdm_stop_audit_is(id, chain->alien)) {
        chain->nalien++;
    }

    bad = &chain->last_bad;
    bad->place = reader->place;
    bad->len = reader->len;
    bad->seq = line->seq;
    bad->why = why;

    if (chain->nbad < CDM_STOP_AUDIT_BAD) {
        chain->bad[chain->nbad] = *bad;
    }

    chain->nbad++;
    chain->bad_bytes += reader->len + 1;
}


/* 0 if it is a record that was counted before */

static int
cdm_stop_audit_placed(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain,
    const cdm_stop_audit_place_t *place, cdm_stop_audit_line_t *line)
{
    int      i;
    int64_t  gap;

    if (chain->records == 0) {
        cdm_stop_audit_first(ctx, chain, place, line);

    } else if (line->seq <= chain->now.seq) {

        if (chain->jumped && line->seq == chain->before.seq + 1
            && memcmp(line->prev, chain->before.hash, sizeof(line->prev)) == 0
            && chain->nearly < CDM_STOP_AUDIT_EARLY)
        {
            /* the one before was too early; go on where the chain was */

            i = chain->nearly++;
            chain->early[i].seq = chain->now.seq;
            chain->early[i].place = chain->now.place;
            memcpy(chain->early[i].hash, chain->now.hash, sizeof(line->hash));

            chain->ngaps--;
            chain->jumped = 0;

        } else {
            return cdm_stop_audit_behind(ctx, chain, place, line);
        }

    } else {
        gap = cdm_stop_audit_ahead(ctx, chain, line);

        chain->before = chain->now;
        chain->jumped = 0;

        cdm_stop_audit_settle(ctx, chain, gap, line->torn);

        if (gap > chain->nbad) {
            cdm_stop_audit_gap(chain, place, line->seq - gap + chain->nbad,
                               line->seq - 1);
            chain->jumped = (chain->nbad == 0
                             && chain->ngaps < CDM_STOP_AUDIT_GAPS);

        } else if (gap == 0
                   && memcmp(line->prev, chain->now.hash, sizeof(line->prev))
                      != 0)
        {
            cdm_stop_audit_find(ctx, 1, "broken", place, line->seq,
                                "it does not follow the record before it, of "
                                "line %lld: one of both was written anew, or "
                                "two wrote with one key",
                                (long long) chain->now.place.line);
        }

        chain->nbad = 0;
        chain->bad_bytes = 0;
    }

    chain->now.seq = line->seq;
    chain->now.place = *place;
    memcpy(chain->now.hash, line->hash, sizeof(line->hash));

    return 1;
}


static void
cdm_stop_audit_first(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain,
    const cdm_stop_audit_place_t *place, cdm_stop_audit_line_t *line)
{
    int                     i;
    int64_t                 first, gap;
    unsigned char           zero[CDM_STOP_AUDIT_HASH_LEN];
    cdm_stop_audit_head_t  *from;

    memset(zero, 0, sizeof(zero));

    first = 1;
    from = NULL;

    for (i = 0; i < ctx->opts->nfroms; i++) {
        from = &ctx->opts->froms[i];

        if (line->seq > from->seq
            && (from->chain[0] == '\0' || strcmp(from->chain, chain->id) == 0))
        {
            first = from->seq + 1;
            break;
        }
    }

    gap = line->seq - first;

    chain->begun = (gap <= chain->nbad);
    chain->incomplete = (first > 1);

    cdm_stop_audit_settle(ctx, chain, gap, line->torn);

    if (gap > chain->nbad) {
        chain->incomplete = 1;
        cdm_stop_audit_find(ctx, 1, "lost start", place, line->seq,
                            "records %lld to %lld are not in these files; if "
                            "you know the last one from before, give --from",
                            (long long) first,
                            (long long) (line->seq - 1 - chain->nbad));

    } else if (gap == 0
               && ((first == 1 && memcmp(line->prev, zero, sizeof(zero)) != 0)
                   || (first > 1 && from->with_hash
                       && memcmp(line->prev, from->hash, sizeof(zero)) != 0)))
    {
        cdm_stop_audit_find(ctx, 1, "broken", place, line->seq,
                            "it does not follow %s",
                            first == 1 ? "nothing, as a first record does"
                                       : "the record of --from");
    }

    chain->nbad = 0;
    chain->bad_bytes = 0;
}


/*
 * How many records are missing before a record, less those that stood too
 * early.
 */

static int64_t
cdm_stop_audit_ahead(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain,
    cdm_stop_audit_line_t *line)
{
    int                      i, found;
    cdm_stop_audit_early_t  *early;

    do {
        found = 0;

        for (i = 0; i < chain->nearly; i++) {
            early = &chain->early[i];

            if (early->seq != chain->now.seq + 1) {
                continue;
            }

            if (line->seq == early->seq) {
                cdm_stop_audit_find(ctx, 1, "repeated", &early->place,
                                    early->seq, "it stands a second time "
                                    "where it belongs");

            } else {
                cdm_stop_audit_find(ctx, 1, "moved", &early->place,
                                    early->seq, "it stands before record "
                                    "%lld", (long long) chain->now.seq);
                chain->now.seq = early->seq;
                memcpy(chain->now.hash, early->hash, sizeof(early->hash));
                found = 1;
            }

            chain->early[i] = chain->early[--chain->nearly];
            break;
        }

    } while (found);

    return line->seq - chain->now.seq - 1;
}


/* a good record with a number that has been passed; 1 if it was missing */

static int
cdm_stop_audit_behind(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain,
    const cdm_stop_audit_place_t *place, cdm_stop_audit_line_t *line)
{
    int                    i;
    cdm_stop_audit_gap_t  *gap;

    chain->jumped = 0;

    for (i = 0; i < chain->ngaps; i++) {
        gap = &chain->gaps[i];

        if (line->seq < gap->seq || line->seq > gap->last) {
            continue;
        }

        cdm_stop_audit_find(ctx, 1, "moved", place, line->seq,
                            "it stands behind record %lld",
                            (long long) chain->now.seq);

        if (gap->seq == gap->last) {
            *gap = chain->gaps[--chain->ngaps];

        } else if (line->seq == gap->seq) {
            gap->seq++;

        } else if (line->seq == gap->last) {
            gap->last--;

        } else if (chain->ngaps < CDM_STOP_AUDIT_GAPS) {
            chain->gaps[chain->ngaps] = *gap;
            chain->gaps[chain->ngaps++].seq = line->seq + 1;
            gap->last = line->seq - 1;
        }

        return 1;
    }

    cdm_stop_audit_find(ctx, 1, "repeated", place, line->seq,
                        "it was there before");

    return 0;
}


static void
cdm_stop_audit_gap(cdm_stop_audit_chain_t *chain,
    const cdm_stop_audit_place_t *place, int64_t seq, int64_t last)
{
    cdm_stop_audit_gap_t  *gap;

    chain->incomplete = 1;

    if (chain->ngaps == CDM_STOP_AUDIT_GAPS) {
        /* as one with the last, which tells too much rather than too little */
        chain->gaps[chain->ngaps - 1].last = last;
        return;
    }

    gap = &chain->gaps[chain->ngaps++];
    gap->seq = seq;
    gap->last = last;
    gap->place = *place;
    gap->file = (place->file != chain->now.place.file);
}
