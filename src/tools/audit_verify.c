
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* The command "verify": files through the chain, and the progress */


#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <openssl/crypto.h>
#include "audit_verify.h"


#define CDM_STOP_AUDIT_KEY_SIZE  4097


static int cdm_stop_audit_prepare(cdm_stop_audit_t *ctx);
static int cdm_stop_audit_file(cdm_stop_audit_t *ctx, int n);
static void cdm_stop_audit_progress(cdm_stop_audit_t *ctx, int64_t done,
    int last);
static void cdm_stop_audit_free(cdm_stop_audit_t *ctx);


int
cdm_stop_audit_verify(cdm_stop_audit_opts_t *opts)
{
    int               i, rc;
    cdm_stop_audit_t  ctx;

    memset(&ctx, 0, sizeof(cdm_stop_audit_t));
    ctx.opts = opts;

    rc = CDM_STOP_AUDIT_USAGE;

    if (cdm_stop_audit_order(opts) != 0 || cdm_stop_audit_prepare(&ctx) != 0) {
        goto done;
    }

    for (i = 0; i < opts->nfiles; i++) {
        ctx.total += opts->files[i].size;
    }

    for (i = 0; i < opts->nfiles; i++) {

        if (cdm_stop_audit_file(&ctx, i) != 0) {
            goto done;
        }
    }

    cdm_stop_audit_progress(&ctx, ctx.bytes, 1);
    cdm_stop_audit_end(&ctx);

    if (ctx.lines == 0) {
        cdm_stop_audit_find(&ctx, 1, "empty", &(cdm_stop_audit_place_t) { 0 },
                            0, "there is no record");
    }

    rc = cdm_stop_audit_report(&ctx);

done:

    cdm_stop_audit_free(&ctx);

    return rc;
}


static int
cdm_stop_audit_prepare(cdm_stop_audit_t *ctx)
{
    int            i, len, rc;
    unsigned char  key[CDM_STOP_AUDIT_KEY_SIZE];

    for (i = 0; i < ctx->opts->nkeys; i++) {
        len = cdm_stop_audit_key(ctx->opts->keys[i], key, sizeof(key));

        if (len == -1) {
            return -1;
        }

        rc = cdm_stop_audit_mac_init(&ctx->macs[ctx->nmacs++], key, len);
        OPENSSL_cleanse(key, sizeof(key));

        if (rc != 0) {
            goto failed;
        }
    }

    if ((ctx->opts->keyless || ctx->opts->nkeys == 0)
        && cdm_stop_audit_mac_init(&ctx->macs[ctx->nmacs++], NULL, 0) != 0)
    {
        goto failed;
    }

    if (ctx->opts->public_key) {
        ctx->public_key = cdm_stop_audit_public_key(ctx->opts->public_key,
                                                    ctx->key_id);
        if (ctx->public_key == NULL) {
            return -1;
        }
    }

    return 0;

failed:

    cdm_stop_audit_error("OpenSSL has no SHA-256");

    return -1;
}


static int
cdm_stop_audit_file(cdm_stop_audit_t *ctx, int n)
{
    int                      rc;
    const char              *name, *why;
    const unsigned char     *data;
    cdm_stop_audit_line_t    line;
    cdm_stop_audit_reader_t  reader;

    name = ctx->opts->files[n].name;

    if (cdm_stop_audit_open(&reader, name) != 0) {
        cdm_stop_audit_error("%s: it cannot be opened", name);
        return -1;
    }

    reader.place.file = n;

    for ( ;; ) {
        rc = cdm_stop_audit_next(&reader, &data);

        if (rc != 1) {
            break;
        }

        ctx->lines++;

        if (reader.too_long) {
            memset(&line, 0, sizeof(cdm_stop_audit_line_t));
            why = "it is longer than any record";

        } else {
            why = cdm_stop_audit_line(data, reader.len, &line);
        }

        if (why == NULL && reader.unended) {
            cdm_stop_audit_find(ctx, 1, "no line feed", &reader.place,
                                line.seq, "the file ends without one");
        }

        cdm_stop_audit_step(ctx, &reader, data, &line, why);

        if ((ctx->lines & 0xffff) == 0) {
            cdm_stop_audit_progress(ctx, ctx->bytes + reader.done, 0);
        }
    }

    ctx->bytes += reader.done;

    if (rc == -1) {
        cdm_stop_audit_error("%s: %s", name, strerror(reader.error));
    }

    cdm_stop_audit_close(&reader);

    return rc;
}


static void
cdm_stop_audit_progress(cdm_stop_audit_t *ctx, int64_t done, int last)
{
    int            percent, i;
    char           bar[31];
    static time_t  shown;

    if (ctx->total == 0 || !cdm_stop_audit_terminal(STDERR_FILENO)
        || (!last && time(NULL) == shown))
    {
        return;
    }

    if (last) {
        if (shown) {
            fputs("\r\033[K", stderr);
        }

        return;
    }

    shown = time(NULL);
    percent = done >= ctx->total ? 100 : 100 * done / ctx->total;

    for (i = 0; i < 30; i++) {
        bar[i] = (i < percent * 30 / 100) ? '#' : '.';
    }

    bar[30] = '\0';

    fprintf(stderr, "\r[%s] %3d%% of %lld MB, %lld lines", bar, percent,
            (long long) (ctx->total / 1048576), (long long) ctx->lines);
}


static void
cdm_stop_audit_free(cdm_stop_audit_t *ctx)
{
    int                       i;
    size_t                    k;
    cdm_stop_audit_intent_t  *intent, *next;

    for (k = 0; k < ctx->intents.nbuckets; k++) {

        for (intent = ctx->intents.buckets[k]; intent; intent = next) {
            next = intent->next;
            free(intent);
        }
    }

    for (i = 0; i < ctx->nchains; i++) {
        free(ctx->chains[i]);
    }

    free(ctx->intents.buckets);
    free(ctx->findings);
    EVP_PKEY_free(ctx->public_key);

    for (i = 0; i < ctx->nmacs; i++) {
        cdm_stop_audit_mac_free(&ctx->macs[i]);
    }
}
