
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_STATS_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_STATS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"


/*
 * What is counted for cdm_stop_status.  It lies in shared memory of its own,
 * which is there only if some location has that directive: cdmcf->stats is
 * NULL otherwise, and nothing is counted.  Counters are atomics; the mutex of
 * the zone is for what has more than one word, never while anything waits.
 */

/* a change of what follows makes another zone, whose counters begin anew */
#define NGX_HTTP_CDM_STOP_STATS_LAYOUT    1

/* sets of labels of decisions: a rule in a location; what is beyond is "other"
 * so that a policy of 10,000 rules does not drown a Prometheus */
#define NGX_HTTP_CDM_STOP_RULES_MAX       1024
#define NGX_HTTP_CDM_STOP_RULES_OTHER     4
#define NGX_HTTP_CDM_STOP_RULES_INDEX     4096  /* a power of 2 */

/* identities and targets that were ever configured since the zone was made */
#define NGX_HTTP_CDM_STOP_NAMED_MAX       64

/* worker processes at one time, old ones that still finish included */
#define NGX_HTTP_CDM_STOP_WORKERS_MAX     512

/* the last stops, of each kind */
#define NGX_HTTP_CDM_STOP_LAST_MAX        64

/* minutes for the plots: an hour, and the end of its first minute */
#define NGX_HTTP_CDM_STOP_MINUTES         61

/* bounds of texts, in bytes */
#define NGX_HTTP_CDM_STOP_LABEL_LEN       128
#define NGX_HTTP_CDM_STOP_CODE_LEN        16
#define NGX_HTTP_CDM_STOP_KEPT_LEN        256

#define NGX_HTTP_CDM_STOP_BUCKETS         14


/* what an exchange with IAM brought: those of fail_e, and these */

#define NGX_HTTP_CDM_STOP_IAM_OK          NGX_HTTP_CDM_STOP_FAIL_NONE
#define NGX_HTTP_CDM_STOP_IAM_UNUSED      (NGX_HTTP_CDM_STOP_FAIL_PROJECTS + 1)
#define NGX_HTTP_CDM_STOP_IAM_LOCAL       (NGX_HTTP_CDM_STOP_FAIL_PROJECTS + 2)
#define NGX_HTTP_CDM_STOP_IAM_RESULTS     (NGX_HTTP_CDM_STOP_FAIL_PROJECTS + 3)


typedef enum {
    NGX_HTTP_CDM_STOP_ISSUE = 0,
    NGX_HTTP_CDM_STOP_VERIFY
} ngx_http_cdm_stop_purpose_e;


typedef enum {
    NGX_HTTP_CDM_STOP_STAGE_INTENT = 0,
    NGX_HTTP_CDM_STOP_STAGE_OUTCOME,
    NGX_HTTP_CDM_STOP_STAGE_REFUSED
} ngx_http_cdm_stop_stage_e;


#define NGX_HTTP_CDM_STOP_STAGES          (NGX_HTTP_CDM_STOP_STAGE_REFUSED + 1)
#define NGX_HTTP_CDM_STOP_VERDICTS        (NGX_HTTP_CDM_STOP_NOT_SENT + 1)


/* where the token that CDM gets came from */

typedef enum {
    NGX_HTTP_CDM_STOP_TOKEN_NONE = 0,
    NGX_HTTP_CDM_STOP_TOKEN_HIT,
    NGX_HTTP_CDM_STOP_TOKEN_WAIT,
    NGX_HTTP_CDM_STOP_TOKEN_STALE,
    NGX_HTTP_CDM_STOP_TOKEN_RENEWED
} ngx_http_cdm_stop_token_e;


#define NGX_HTTP_CDM_STOP_TOKEN_STATES    (NGX_HTTP_CDM_STOP_TOKEN_RENEWED + 1)


/* what is known of the caller's token */

typedef enum {
    NGX_HTTP_CDM_STOP_CALLER_NONE = 0,
    NGX_HTTP_CDM_STOP_CALLER_HIT,
    NGX_HTTP_CDM_STOP_CALLER_WAIT,
    NGX_HTTP_CDM_STOP_CALLER_REFUSED,
    NGX_HTTP_CDM_STOP_CALLER_FAILED
} ngx_http_cdm_stop_caller_e;


#define NGX_HTTP_CDM_STOP_CALLER_STATES   (NGX_HTTP_CDM_STOP_CALLER_FAILED + 1)


/* answers of CDM: by the first digit, 401 and none apart */

typedef enum {
    NGX_HTTP_CDM_STOP_CDM_2XX = 0,
    NGX_HTTP_CDM_STOP_CDM_3XX,
    NGX_HTTP_CDM_STOP_CDM_401,
    NGX_HTTP_CDM_STOP_CDM_4XX,
    NGX_HTTP_CDM_STOP_CDM_5XX,
    NGX_HTTP_CDM_STOP_CDM_NONE
} ngx_http_cdm_stop_cdm_e;


#define NGX_HTTP_CDM_STOP_CDM_CLASSES     (NGX_HTTP_CDM_STOP_CDM_NONE + 1)


typedef struct {
    ngx_atomic_t                    buckets[NGX_HTTP_CDM_STOP_BUCKETS];
    ngx_atomic_t                    sum;        /* of the unit it is told in */
} ngx_http_cdm_stop_histogram_t;


/* one set of labels of decisions; its texts do not change once it is found */

typedef struct {
    uint64_t                        hash;
    ngx_atomic_t                    count;
    ngx_http_cdm_stop_decision_e    decision;
    ngx_uint_t                      enforced;
    ngx_uint_t                      by_rule;    /* and not by default */
    ngx_uint_t                      by_policy;
    size_t                          server_len;
    size_t                          location_len;
    size_t                          policy_len;
    size_t                          rule_len;
    u_char                          server[NGX_HTTP_CDM_STOP_LABEL_LEN];
    u_char                          location[NGX_HTTP_CDM_STOP_LABEL_LEN];
    u_char                          policy[NGX_HTTP_CDM_STOP_LABEL_LEN];
    u_char                          rule[NGX_HTTP_CDM_STOP_LABEL_LEN];
} ngx_http_cdm_stop_rule_stats_t;


/* whether something answers: times of day in milliseconds, 0 is never */

typedef struct {
    int64_t                         success;
    int64_t                         failure;
    int64_t                         failed;     /* by the clock nobody sets */
    ngx_atomic_t                    failures;   /* one after the other */
    ngx_atomic_t                    cause;      /* of the last one */
} ngx_http_cdm_stop_health_t;


struct ngx_http_cdm_stop_iam_stats_s {
    size_t                          name_len;
    u_char                          name[NGX_HTTP_CDM_STOP_KEPT_LEN];
    ngx_http_cdm_stop_health_t      health;
    ngx_atomic_t                    results[2][NGX_HTTP_CDM_STOP_IAM_RESULTS];
    ngx_http_cdm_stop_histogram_t   time[2];    /* in milliseconds */
};


struct ngx_http_cdm_stop_audit_stats_s {
    size_t                          name_len;
    u_char                          name[NGX_HTTP_CDM_STOP_KEPT_LEN];
    ngx_http_cdm_stop_health_t      health;     /* cause: an errno */
    ngx_atomic_t                    written;
    ngx_atomic_t                    lost[NGX_HTTP_CDM_STOP_STAGES];
    ngx_atomic_t                    unsynced;
    ngx_atomic_t                    summed_up;
    ngx_http_cdm_stop_histogram_t   write;      /* in microseconds */
    ngx_http_cdm_stop_histogram_t   sync;       /* in milliseconds */
};


typedef struct {
    ngx_http_cdm_stop_health_t      health;
    ngx_atomic_t                    responses[NGX_HTTP_CDM_STOP_CDM_CLASSES];
    ngx_atomic_t                    repeats;
    ngx_atomic_t                    unreachable;
    ngx_http_cdm_stop_histogram_t   time;       /* in milliseconds */
} ngx_http_cdm_stop_cdm_stats_t;


/* one of the last stops; its turn is odd while it is written */

typedef struct {
    ngx_atomic_t                    turn;       /* 0: none was here yet */
    int64_t                         time;       /* of day, milliseconds */
    int64_t                         duration;
    ngx_uint_t                      status;
    ngx_uint_t                      attempts;
    ngx_http_cdm_stop_verdict_e     verdict;
    ngx_http_cdm_stop_decision_e    decision;
    unsigned                        sent:1;
    unsigned                        enforced:1;

    u_char                          id[NGX_HTTP_CDM_STOP_REQUEST_ID_LEN];
    u_char                          project[NGX_HTTP_CDM_STOP_PROJECT_LEN];
    u_char                          cluster[NGX_HTTP_CDM_STOP_CLUSTER_LEN];

    size_t                          job_len;    /* 0: no legal target */
    size_t                          principal_len;
    size_t                          location_len;
    size_t                          rule_len;
    size_t                          reason_len;
    size_t                          code_len;

    /* one behind the other, in this order, so that few lines are touched */

    u_char                          text[NGX_HTTP_CDM_STOP_JOB_LEN
                                         + NGX_HTTP_CDM_STOP_KEPT_LEN
                                         + 2 * NGX_HTTP_CDM_STOP_LABEL_LEN
                                         + NGX_HTTP_CDM_STOP_REASON_LEN
                                         + NGX_HTTP_CDM_STOP_CODE_LEN];
} ngx_http_cdm_stop_last_t;


/* who is refused does not push out of sight what was sent */

typedef struct {
    ngx_atomic_t                    next;       /* stops so far */
    ngx_http_cdm_stop_last_t        stops[NGX_HTTP_CDM_STOP_LAST_MAX];
} ngx_http_cdm_stop_ring_t;


/* all since the zone was made, as it was when a minute began */

typedef struct {
    ngx_uint_t                      allow;
    ngx_uint_t                      deny;
    ngx_uint_t                      none;       /* of a copy, for the plots */
    ngx_uint_t                      verdicts[NGX_HTTP_CDM_STOP_VERDICTS];
    ngx_uint_t                      iam_ok;
    ngx_uint_t                      iam_failed;
    ngx_uint_t                      iam_count;
    ngx_uint_t                      iam_sum;
    ngx_uint_t                      cdm_count;
    ngx_uint_t                      cdm_sum;
} ngx_http_cdm_stop_totals_t;


struct ngx_http_cdm_stop_worker_stats_s {
    ngx_pid_t                       pid;        /* 0: none */
    ngx_atomic_t                    waiting;
};


typedef struct {
    int64_t                         started;    /* time of day, ms */

    ngx_atomic_t                    verdicts[NGX_HTTP_CDM_STOP_VERDICTS];
    ngx_atomic_t                    errors[10][10]; /* digits of a code */
    ngx_atomic_t                    others;     /* nginx ended it */
    ngx_atomic_t                    tokens[NGX_HTTP_CDM_STOP_TOKEN_STATES];
    ngx_atomic_t                    callers[NGX_HTTP_CDM_STOP_CALLER_STATES];
    ngx_http_cdm_stop_histogram_t   wait;       /* of those that waited, ms */
    ngx_http_cdm_stop_cdm_stats_t   cdm;

    ngx_uint_t                      nidentities;
    ngx_http_cdm_stop_iam_stats_t   identities[NGX_HTTP_CDM_STOP_NAMED_MAX
                                               + 1];
    ngx_uint_t                      ntargets;
    ngx_http_cdm_stop_audit_stats_t targets[NGX_HTTP_CDM_STOP_NAMED_MAX + 1];

    ngx_http_cdm_stop_worker_stats_t workers[NGX_HTTP_CDM_STOP_WORKERS_MAX];

    /* the slot of a bucket, plus 1; added to under the mutex only */

    ngx_uint_t                      nrules;
    ngx_atomic_t                    index[NGX_HTTP_CDM_STOP_RULES_INDEX];
    ngx_http_cdm_stop_rule_stats_t  rules[NGX_HTTP_CDM_STOP_RULES_MAX
                                          + NGX_HTTP_CDM_STOP_RULES_OTHER];

    /* under the mutex */

    ngx_atomic_t                    minute;     /* that runs */
    ngx_uint_t                      first;      /* minute */
    ngx_http_cdm_stop_totals_t      minutes[NGX_HTTP_CDM_STOP_MINUTES];

    /* without it, each place by its turn */

    ngx_http_cdm_stop_ring_t        rings[2];   /* refused, sent */
} ngx_http_cdm_stop_stats_sh_t;


struct ngx_http_cdm_stop_stats_s {
    ngx_http_cdm_stop_stats_sh_t   *sh;
    ngx_slab_pool_t                *shpool;
    ngx_http_cdm_stop_main_conf_t  *cdmcf;
};


/* upper bounds of the buckets but the last, which has none, in their unit */

extern const ngx_uint_t  ngx_http_cdm_stop_bounds_ms[];
extern const ngx_uint_t  ngx_http_cdm_stop_bounds_us[];


/*
 * Makes cdmcf->stats and its zone, and the labels of guarded locations, if a
 * location has "cdm_stop_status".  Returns NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_stats_init(ngx_conf_t *cf,
    ngx_http_cdm_stop_main_conf_t *cdmcf);

/* hashes what all decisions of a location have in common in their labels */
void ngx_http_cdm_stop_stats_label(ngx_http_cdm_stop_loc_conf_t *cdcf);

/* a worker begins, or ends */
void ngx_http_cdm_stop_stats_worker(ngx_http_cdm_stop_main_conf_t *cdmcf);
void ngx_http_cdm_stop_stats_exit(ngx_http_cdm_stop_main_conf_t *cdmcf);

/* once a second: tells of requests that wait, and turns the minute */
void ngx_http_cdm_stop_stats_tick(ngx_http_cdm_stop_main_conf_t *cdmcf);

/* begins a new minute if it is time to */
void ngx_http_cdm_stop_stats_minute(ngx_http_cdm_stop_stats_t *stats);

/* all until now */
void ngx_http_cdm_stop_stats_totals(ngx_http_cdm_stop_stats_sh_t *sh,
    ngx_http_cdm_stop_totals_t *totals);

/* the stops among them */
ngx_uint_t ngx_http_cdm_stop_stats_stops(ngx_http_cdm_stop_totals_t *totals);


/* $cdm_stop_token_status and _verify_status of a stop, as a number and so */
ngx_http_cdm_stop_token_e ngx_http_cdm_stop_token_state(
    ngx_http_cdm_stop_ctx_t *ctx);
ngx_http_cdm_stop_caller_e ngx_http_cdm_stop_caller_state(
    ngx_http_cdm_stop_ctx_t *ctx);
ngx_str_t *ngx_http_cdm_stop_token_name(ngx_http_cdm_stop_token_e state);
ngx_str_t *ngx_http_cdm_stop_caller_name(ngx_http_cdm_stop_caller_e state);


/* what happens to requests; each returns at once if nothing is counted */

/* a stop came to its end, with this status of the answer */
void ngx_http_cdm_stop_stats_end(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status);

/* a request that is no stop was refused, for ctx->error */
void ngx_http_cdm_stop_stats_other(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* the exchange with CDM is over, with an answer or without */
void ngx_http_cdm_stop_stats_cdm(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * An exchange with IAM is over, or could not begin (IAM_LOCAL).  result is one
 * of fail_e or of the above; start is ngx_http_cdm_stop_now() of its begin.
 */
void ngx_http_cdm_stop_stats_iam(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_http_cdm_stop_identity_t *identity,
    ngx_http_cdm_stop_purpose_e purpose, ngx_uint_t result, int64_t start);

/* the same as ngx_http_cdm_stop_chain_append(), counted */
ngx_int_t ngx_http_cdm_stop_stats_append(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_record_t *rec, ngx_uint_t *slot, ngx_log_t *log,
    ngx_http_cdm_stop_stage_e stage);

/* the intent of a stop is on the disk of the i-th target, or not known to be */
void ngx_http_cdm_stop_stats_synced(ngx_http_cdm_stop_ctx_t *ctx,
    ngx_uint_t i, ngx_uint_t failed);

/* a refusal gets no record of its own */
void ngx_http_cdm_stop_stats_summed_up(ngx_array_t *targets);


#endif /* _NGX_HTTP_CDM_STOP_STATS_H_INCLUDED_ */
