
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* Intents whose outcome has not come: all that memory is used for */


#include <stdlib.h>
#include <string.h>
#include "audit_verify.h"


#define CDM_STOP_AUDIT_BUCKETS  4096


static cdm_stop_audit_intent_t **cdm_stop_audit_bucket(
    cdm_stop_audit_intents_t *intents, const char *id);
static cdm_stop_audit_intent_t **cdm_stop_audit_intent_of(
    cdm_stop_audit_intents_t *intents, cdm_stop_audit_chain_t *chain,
    const char *id);
static int cdm_stop_audit_grow(cdm_stop_audit_intents_t *intents);
static void cdm_stop_audit_copy(char *dst, size_t size,
    const cdm_stop_audit_str_t *s);


int
cdm_stop_audit_intent(cdm_stop_audit_t *ctx, cdm_stop_audit_chain_t *chain,
    const cdm_stop_audit_place_t *place, cdm_stop_audit_line_t *line)
{
    char                       id[33];
    cdm_stop_audit_str_t      *m;
    cdm_stop_audit_intent_t   *intent, **bucket;

    m = line->members;

    if (m[CDM_STOP_AUDIT_REQUEST_ID].len != sizeof(id) - 1) {
        return 0;
    }

    cdm_stop_audit_copy(id, sizeof(id), &m[CDM_STOP_AUDIT_REQUEST_ID]);

    if (cdm_stop_audit_is(&m[CDM_STOP_AUDIT_STAGE], "intent")) {

        if (cdm_stop_audit_grow(&ctx->intents) != 0) {
            return -1;
        }

        intent = malloc(sizeof(cdm_stop_audit_intent_t)
                        + m[CDM_STOP_AUDIT_JOB_NAME].len + 1);
        if (intent == NULL) {
            return -1;
        }

        intent->chain = chain;
        intent->place = *place;
        intent->seq = line->seq;
        memcpy(intent->id, id, sizeof(id));
        cdm_stop_audit_copy(intent->time, sizeof(intent->time),
                            &m[CDM_STOP_AUDIT_TIME]);
        cdm_stop_audit_copy(intent->job, m[CDM_STOP_AUDIT_JOB_NAME].len + 1,
                            &m[CDM_STOP_AUDIT_JOB_NAME]);

        bucket = cdm_stop_audit_bucket(&ctx->intents, id);
        intent->next = *bucket;
        *bucket = intent;
        ctx->intents.n++;

        return 0;
    }

    if (!cdm_stop_audit_is(&m[CDM_STOP_AUDIT_STAGE], "outcome")) {
        return 0;
    }

    if (cdm_stop_audit_is(&m[CDM_STOP_AUDIT_CLOSED], "crash")) {
        ctx->crashed++;
        cdm_stop_audit_find(ctx, 0, "closed", place, line->seq,
                            "request %s: its worker died, the outcome is not "
                            "known", id);
    }

    bucket = cdm_stop_audit_intent_of(&ctx->intents, chain, id);

    if (bucket) {
        intent = *bucket;
        *bucket = intent->next;
        free(intent);
        ctx->intents.n--;

        return 0;
    }

    /* the intent may be among what is missing, which is found anyway */

    cdm_stop_audit_find(ctx, !chain->incomplete, "no intent", place, line->seq,
                        "request %s: an outcome without an intent", id);

    return 0;
}


static cdm_stop_audit_intent_t **
cdm_stop_audit_bucket(cdm_stop_audit_intents_t *intents, const char *id)
{
    uint32_t  hash;

    for (hash = 0; *id; id++) {
        hash = (hash ^ (unsigned char) *id) * 0x01000193;
    }

    return &intents->buckets[(hash ^ hash >> 15) & (intents->nbuckets - 1)];
}


/* each target has its own; an outcome of a new chain may close an old one */

static cdm_stop_audit_intent_t **
cdm_stop_audit_intent_of(cdm_stop_audit_intents_t *intents,
    cdm_stop_audit_chain_t *chain, const char *id)
{
    cdm_stop_audit_intent_t  **bucket, **other;

    if (intents->nbuckets == 0) {
        return NULL;
    }

    other = NULL;

    for (bucket = cdm_stop_audit_bucket(intents, id); *bucket;
         bucket = &(*bucket)->next)
    {
        if (strcmp((*bucket)->id, id) != 0) {
            continue;
        }

        if ((*bucket)->chain == chain) {
            return bucket;
        }

        other = bucket;
    }

    return other;
}


static int
cdm_stop_audit_grow(cdm_stop_audit_intents_t *intents)
{
    size_t                     i;
    cdm_stop_audit_intent_t   *intent, *next, **bucket;
    cdm_stop_audit_intents_t   grown;

    if (intents->n < intents->nbuckets) {
        return 0;
    }

    grown.n = intents->n;
    grown.nbuckets = intents->nbuckets ? 4 * intents->nbuckets
                                       : CDM_STOP_AUDIT_BUCKETS;

    grown.buckets = calloc(grown.nbuckets, sizeof(cdm_stop_audit_intent_t *));
    if (grown.buckets == NULL) {
        return -1;
    }

    for (i = 0; i < intents->nbuckets; i++) {

        for (intent = intents->buckets[i]; intent; intent = next) {
            next = intent->next;
            bucket = cdm_stop_audit_bucket(&grown, intent->id);
            intent->next = *bucket;
            *bucket = intent;
        }
    }

    free(intents->buckets);
    *intents = grown;

    return 0;
}


static void
cdm_stop_audit_copy(char *dst, size_t size, const cdm_stop_audit_str_t *s)
{
    size_t  len;

    len = s->len < size ? s->len : size - 1;

    if (len) {
        memcpy(dst, s->data, len);
    }

    dst[len] = '\0';
}
