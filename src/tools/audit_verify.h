
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _AUDIT_VERIFY_H_INCLUDED_
#define _AUDIT_VERIFY_H_INCLUDED_


#include "audit.h"


/* so much is remembered of a chain, to tell a moved line from a lost one */
#define CDM_STOP_AUDIT_GAPS       1024
#define CDM_STOP_AUDIT_EARLY      256

/* lines that do not fit in a row, told one by one; beyond, as a number */
#define CDM_STOP_AUDIT_BAD        8

#define CDM_STOP_AUDIT_CHAINS     4096
#define CDM_STOP_AUDIT_REPORTED   10000


typedef struct {
    int                       bad;      /* 0: only told */
    const char               *kind;
    cdm_stop_audit_place_t    place;
    int64_t                   seq;      /* 0: not known */
    int64_t                   last;     /* of the records that it is about */
    int64_t                   lines;
    char                      text[240];
} cdm_stop_audit_finding_t;


/* records seq to last are missing before a place */

typedef struct {
    int64_t                   seq;
    int64_t                   last;
    cdm_stop_audit_place_t    place;
    unsigned                  file:1;   /* it is between two files */
} cdm_stop_audit_gap_t;


typedef struct {
    int64_t                   seq;
    cdm_stop_audit_place_t    place;
    unsigned char             hash[CDM_STOP_AUDIT_HASH_LEN];
} cdm_stop_audit_early_t;


typedef struct {
    cdm_stop_audit_place_t    place;
    int64_t                   seq;      /* 0: not known */
    int64_t                   len;
    const char               *why;
} cdm_stop_audit_bad_t;


/* where a chain is */

typedef struct {
    int64_t                   seq;      /* of the last record */
    unsigned char             hash[CDM_STOP_AUDIT_HASH_LEN];
    cdm_stop_audit_place_t    place;
} cdm_stop_audit_at_t;


typedef struct {
    char                      id[CDM_STOP_AUDIT_CHAIN_LEN + 1];
    cdm_stop_audit_mac_t     *mac;      /* that its first record fits */
    cdm_stop_audit_at_t       now;
    cdm_stop_audit_at_t       before;   /* the last jump ahead */
    unsigned                  jumped:1;
    unsigned                  incomplete:1;
    unsigned                  overdue:1;
    unsigned                  begun:1;  /* with its first record */

    int64_t                   records;
    int64_t                   authentic;
    int64_t                   first;    /* milliseconds */
    int64_t                   time;

    int64_t                   checkpoints;
    int64_t                   signed_time;
    int64_t                   signed_seq;
    int64_t                   every;

    int                       ngaps;
    cdm_stop_audit_gap_t      gaps[CDM_STOP_AUDIT_GAPS];

    int                       nearly;
    cdm_stop_audit_early_t    early[CDM_STOP_AUDIT_EARLY];

    int64_t                   nbad;     /* in a row, as yet */
    int64_t                   bad_bytes;
    cdm_stop_audit_bad_t      bad[CDM_STOP_AUDIT_BAD];
    cdm_stop_audit_bad_t      last_bad;
    int64_t                   nalien;   /* of these, all of one other chain */
    char                      alien[CDM_STOP_AUDIT_CHAIN_LEN + 1];
    cdm_stop_audit_place_t    first_line;
} cdm_stop_audit_chain_t;


typedef struct cdm_stop_audit_intent_s  cdm_stop_audit_intent_t;

struct cdm_stop_audit_intent_s {
    cdm_stop_audit_intent_t  *next;
    cdm_stop_audit_chain_t   *chain;
    cdm_stop_audit_place_t    place;
    int64_t                   seq;
    char                      id[33];
    char                      time[32];
    char                      job[];
};


typedef struct {
    cdm_stop_audit_intent_t **buckets;
    size_t                    nbuckets;
    size_t                    n;
} cdm_stop_audit_intents_t;


typedef struct {
    cdm_stop_audit_opts_t    *opts;
    int                       nmacs;
    cdm_stop_audit_mac_t      macs[CDM_STOP_AUDIT_GIVEN_MAX + 1];
    EVP_PKEY                 *public_key;
    char                      key_id[2 * CDM_STOP_AUDIT_HASH_LEN + 1];

    int                       nchains;
    cdm_stop_audit_chain_t   *chains[CDM_STOP_AUDIT_CHAINS];
    cdm_stop_audit_chain_t   *current;  /* of the line before */

    cdm_stop_audit_intents_t  intents;
    int64_t                   crashed;  /* outcomes that a start wrote */
    int64_t                   bytes;
    int64_t                   total;
    int64_t                   lines;

    int64_t                   nbad;     /* findings */
    int64_t                   unreported;
    size_t                    nfindings;
    size_t                    size;
    cdm_stop_audit_finding_t *findings;
} cdm_stop_audit_t;


/*
 * A finding, or what is only told.  One that goes on where the last one of
 * its kind ended is made a part of it.
 */
cdm_stop_audit_finding_t *cdm_stop_audit_find(cdm_stop_audit_t *ctx, int bad,
    const char *kind, const cdm_stop_audit_place_t *place, int64_t seq,
    const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/* prints all; the exit status */
int cdm_stop_audit_report(cdm_stop_audit_t *ctx);

/* a line of a reader; why is what is wrong with it, or NULL */
void cdm_stop_audit_step(cdm_stop_audit_t *ctx,
    cdm_stop_audit_reader_t *reader, const unsigned char *data,
    cdm_stop_audit_line_t *line, const char *why);

/* what can only be told at the end */
void cdm_stop_audit_end(cdm_stop_audit_t *ctx);

/* lines that did not fit, when so many records are missing behind them */
void cdm_stop_audit_settle(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain, int64_t gap, int64_t torn);

/* a checkpoint that fits the chain, and records that should have had one */
void cdm_stop_audit_checkpoint(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain, const cdm_stop_audit_place_t *place,
    const unsigned char *data, cdm_stop_audit_line_t *line);

/* intents and outcomes; -1 if there is no memory */
int cdm_stop_audit_intent(cdm_stop_audit_t *ctx,
    cdm_stop_audit_chain_t *chain, const cdm_stop_audit_place_t *place,
    cdm_stop_audit_line_t *line);


#endif /* _AUDIT_VERIFY_H_INCLUDED_ */
