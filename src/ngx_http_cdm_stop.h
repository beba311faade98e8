
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <nginx.h>
#include "ngx_http_cdm_stop_chain.h"
#include "ngx_http_cdm_stop_held.h"
#include "ngx_http_cdm_stop_iam.h"
#include "ngx_http_cdm_stop_regular.h"
#include "ngx_http_cdm_stop_target.h"
#include "ngx_http_cdm_stop_text.h"
#include "ngx_http_cdm_stop_time.h"
#include "ngx_http_cdm_stop_token.h"
#include "ngx_http_cdm_stop_verdict.h"
#include "ngx_http_cdm_stop_verified.h"


#if !(NGX_HTTP_SSL)
#error ngx_http_cdm_stop_module requires nginx --with-http_ssl_module
#endif


#define NGX_HTTP_CDM_STOP_VERSION         "0.1.0"

/* CDM's body as far as it is read for the verdict: it lists a few messages */
#define NGX_HTTP_CDM_STOP_CDM_BODY_LEN    (64 * 1024)

/* waiting requests of one worker; more are answered at once */
#define NGX_HTTP_CDM_STOP_WAITING_MAX     4096

/* requests that wait for a token which another worker fetches look this often,
 * in milliseconds */
#define NGX_HTTP_CDM_STOP_POLL            50

/* an alert that any request could cause is written once in so many seconds by
 * one worker */
#define NGX_HTTP_CDM_STOP_ALERT_EVERY     60

#define NGX_HTTP_CDM_STOP_AUDIT_TARGETS   2

/*
 * Random bytes that a worker asks for at a time, for 256 ids: what OpenSSL
 * does for each call, a system call included, costs as much as the bytes of
 * some hundred of them.
 */
#define NGX_HTTP_CDM_STOP_RANDOM          4096

/* labels of decisions of which a worker knows where they are counted */
#define NGX_HTTP_CDM_STOP_COUNTED         64

/* a reason is recorded whole, so a longer one is refused */
#define NGX_HTTP_CDM_STOP_REASON_LEN      512


typedef enum {
    NGX_HTTP_CDM_STOP_INJECT_ALWAYS = 0,
    NGX_HTTP_CDM_STOP_INJECT_MISSING,
    NGX_HTTP_CDM_STOP_INJECT_OFF
} ngx_http_cdm_stop_inject_e;


typedef enum {
    NGX_HTTP_CDM_STOP_VERIFY_REQUIRED = 0,
    NGX_HTTP_CDM_STOP_VERIFY_OPTIONAL,
    NGX_HTTP_CDM_STOP_VERIFY_OFF
} ngx_http_cdm_stop_verify_e;


typedef enum {
    NGX_HTTP_CDM_STOP_OTHER_PASS = 0,
    NGX_HTTP_CDM_STOP_OTHER_DENY
} ngx_http_cdm_stop_other_e;


typedef enum {
    NGX_HTTP_CDM_STOP_FORMAT_NATIVE = 0
} ngx_http_cdm_stop_format_e;


typedef enum {
    NGX_HTTP_CDM_STOP_DECISION_NONE = 0,
    NGX_HTTP_CDM_STOP_DECISION_ALLOW,
    NGX_HTTP_CDM_STOP_DECISION_DENY
} ngx_http_cdm_stop_decision_e;


/* where a directive stands, for messages that come when its file is closed */

typedef struct {
    ngx_str_t                       file;
    ngx_uint_t                      line;
} ngx_http_cdm_stop_place_t;


/* an identity of the gateway at IAM: cdm_stop_iam NAME { ... } */

typedef struct ngx_http_cdm_stop_identity_s  ngx_http_cdm_stop_identity_t;

struct ngx_http_cdm_stop_identity_s {
    ngx_str_t                       name;
    ngx_http_cdm_stop_place_t       place;

    ngx_str_t                       uri;
    ngx_url_t                       url;
    ngx_str_t                       host;       /* for the Host header */
    ngx_str_t                       path;       /* of the token API */
    ngx_str_t                       resolve;    /* the name, or empty */
    ngx_http_cdm_stop_credentials_t credentials;
    ngx_str_t                       password_file;
    ngx_str_t                       access_key_file;
    ngx_str_t                       secret_key_file;
    ngx_str_t                       token_file;
    ngx_str_t                       via_name;
    ngx_http_cdm_stop_identity_t   *via;        /* an agency needs its token */
    ngx_array_t                    *projects;   /* of ngx_str_t */
    ngx_flag_t                      any_project;
    ngx_msec_t                      timeout;
    ngx_msec_t                      hold;
    ngx_msec_t                      margin;
    ngx_msec_t                      verify_cache;
    ngx_uint_t                      refresh_ahead;  /* percent */
    ngx_http_cdm_stop_terms_t       terms;          /* of all these */

    ngx_flag_t                      verify;
    ngx_flag_t                      insecure;
    ngx_str_t                       trusted_certificate;
    ngx_http_complex_value_t        server_name;

    u_char                          digest[NGX_HTTP_CDM_STOP_DIGEST_LEN];
    ngx_http_upstream_conf_t        upstream;
    ngx_http_cdm_stop_iam_stats_t  *stats;      /* NULL: not counted */
    unsigned                        ssl:1;
    unsigned                        used:1;     /* its tokens are injected */
};


typedef struct {
    ngx_http_cdm_stop_chain_t      *chain;
    ngx_http_cdm_stop_sync_t       *sync;       /* NULL: not waited for */
    unsigned                        best_effort:1;
    unsigned                        by_name:1;  /* the word was written */
} ngx_http_cdm_stop_audit_t;


/*
 * Who asks for a stop, as IAM tells of the token that the caller sent, or as
 * another mechanism of nginx does, which knows a principal and nothing else.
 * What is not known is empty.
 */

typedef struct {
    ngx_str_t                       principal;
    ngx_str_t                       user_id;
    ngx_str_t                       user;
    ngx_str_t                       domain_id;
    ngx_str_t                       domain;
    ngx_str_t                       project_id;
    ngx_array_t                    *roles;      /* of ngx_str_t, or NULL */
    unsigned                        verified:1; /* by IAM */
} ngx_http_cdm_stop_caller_t;


typedef struct ngx_http_cdm_stop_refusals_s  ngx_http_cdm_stop_refusals_t;


/* cdm_stop_policy, _enforce, _reason and _rate, see policy.h */

typedef struct ngx_http_cdm_stop_policy_s  ngx_http_cdm_stop_policy_t;
typedef struct ngx_http_cdm_stop_enforced_s  ngx_http_cdm_stop_enforced_t;
typedef struct ngx_http_cdm_stop_reason_s  ngx_http_cdm_stop_reason_t;
typedef struct ngx_http_cdm_stop_rate_s  ngx_http_cdm_stop_rate_t;


/* where decisions of a rule, or of none, are counted, in shared memory */

typedef struct {
    void                           *conf;       /* of the location */
    u_char                         *rule;       /* its name */
    ngx_uint_t                      decision;
    ngx_atomic_t                   *count;
} ngx_http_cdm_stop_counted_t;


/*
 * What one worker process keeps.  Allocated with the configuration and
 * inherited by fork(), so that each process has its own.
 */

typedef struct {
    ngx_queue_t                     groups;     /* of waiting requests */
    ngx_event_t                     renew;
    ngx_event_t                     keep;       /* of the chains */
    ngx_uint_t                      waiting;
    time_t                          verify_logged;
    time_t                          refused_logged;
    ngx_pid_t                       random_pid; /* whose the rest is */
    size_t                          random_left;
    u_char                          random[NGX_HTTP_CDM_STOP_RANDOM];
    ngx_http_cdm_stop_held_t        held[NGX_HTTP_CDM_STOP_HELD];
    ngx_http_cdm_stop_regulars_t   *regulars;   /* NULL: none so far */
    ngx_http_cdm_stop_worker_stats_t *stats;    /* in shared memory, or NULL */
    ngx_http_cdm_stop_counted_t     counted[NGX_HTTP_CDM_STOP_COUNTED];
    u_char                          facts[NGX_HTTP_CDM_STOP_FACTS_LEN];
    u_char                          record[NGX_HTTP_CDM_STOP_RECORD_HEAD
                                           + NGX_HTTP_CDM_STOP_RECORD_LEN
                                           + NGX_HTTP_CDM_STOP_RECORD_TAIL];
} ngx_http_cdm_stop_worker_t;


typedef struct {
    ngx_http_upstream_srv_conf_t   *upstream;
    ngx_http_upstream_init_peer_pt  init;
} ngx_http_cdm_stop_peer_t;


typedef struct {
    ngx_shm_zone_t                 *zone;
    ngx_array_t                     identities; /* of pointers */
    ngx_array_t                     policies;   /* of pointers */
    ngx_array_t                     peers;      /* ngx_http_cdm_stop_peer_t */
    ngx_array_t                     locations;  /* all, of pointers */
    ngx_array_t                     chains;     /* of pointers */
    ngx_str_t                       audit_key;  /* wiped once it is used */
    ngx_http_cdm_stop_place_t       audit_key_place;
    ngx_http_cdm_stop_sign_t       *sign;
    ngx_http_cdm_stop_place_t       sign_place;
    ngx_array_t                    *refusals;   /* of pointers */
    ngx_http_conf_ctx_t            *server;     /* for requests of our own */
    void                           *pages;      /* of the configuration */
    ngx_http_cdm_stop_worker_t     *worker;
    ngx_http_cdm_stop_stats_t      *stats;      /* NULL: nothing is counted */
    ngx_uint_t                      status;     /* some location tells */
} ngx_http_cdm_stop_main_conf_t;


/* the configuration of proxy_pass, as it is and as stops have it */

typedef struct {
    ngx_http_upstream_conf_t       *proxy;
    ngx_http_upstream_conf_t        unsent;
    ngx_http_upstream_conf_t        sent;       /* a byte may have left */
} ngx_http_cdm_stop_upstream_conf_t;


typedef struct {
    ngx_http_cdm_stop_identity_t   *identity;   /* NULL is off */
    ngx_str_t                       identity_name;
    ngx_uint_t                      verify;
    ngx_http_complex_value_t       *principal;
    ngx_uint_t                      inject;
    ngx_uint_t                      other;
    ngx_flag_t                      anonymous;
    ngx_flag_t                      insecure_upstream;
    ngx_msec_t                      wait;
    ngx_array_t                    *pass_headers;
    ngx_array_t                    *audit;      /* empty is off */
    ngx_uint_t                      audit_format;
    ngx_http_cdm_stop_enforced_t   *enforced;   /* NULL is off */
    ngx_http_cdm_stop_reason_t     *reason;     /* NULL is off */
    ngx_http_cdm_stop_rate_t       *rate;       /* NULL is off */
    ngx_flag_t                      dry_run;
    ngx_http_cdm_stop_refusals_t   *refusals;

    ngx_http_cdm_stop_upstream_conf_t *upstream;/* NULL: stops go nowhere */

    ngx_http_core_srv_conf_t       *server;
    ngx_http_core_loc_conf_t       *location;
    uint64_t                        label_hash; /* with server and policy */
    ngx_str_t                       label;      /* of the location */
    ngx_uint_t                      status;     /* ngx_http_cdm_stop_status_e */
    ngx_http_cdm_stop_place_t       status_place;
    ngx_http_cdm_stop_place_t       place;      /* of cdm_stop */
    unsigned                        own:1;      /* not inherited */
    unsigned                        named:1;    /* nor is the principal */
    unsigned                        tried:1;    /* nor is the dry run */
} ngx_http_cdm_stop_loc_conf_t;


/*
 * Looks for what a request needs of IAM, by ctx->key, and sees to it that
 * somebody asks for it.  Returns NGX_AGAIN while that is under way.
 */

typedef ngx_int_t (*ngx_http_cdm_stop_look_pt)(
    ngx_http_cdm_stop_main_conf_t *cdmcf, ngx_http_cdm_stop_ctx_t *ctx,
    ngx_http_cdm_stop_found_t *found);


typedef struct {
    ngx_uint_t                      status;
    ngx_str_t                       code;
    ngx_str_t                       message;
} ngx_http_cdm_stop_error_t;


struct ngx_http_cdm_stop_ctx_s {
    ngx_http_request_t             *request;
    void                           *fetch;      /* an exchange with IAM */
    ngx_http_cdm_stop_loc_conf_t   *conf;
    ngx_http_cdm_stop_target_t      target;
    u_char                          id[NGX_HTTP_CDM_STOP_REQUEST_ID_LEN];
    int64_t                         start;

    const ngx_http_cdm_stop_error_t *error;     /* the gateway's own answer */
    int64_t                         retry_after;/* milliseconds */
    ngx_http_cdm_stop_fail_e        fail;       /* why there is no token */
    ngx_str_t                       answer;     /* body of that answer */

    /* credentials */

    ngx_str_t                       caller_token;
    ngx_http_cdm_stop_regular_t    *regular;    /* where it was, or NULL */
    ngx_http_cdm_stop_caller_t      caller;
    ngx_http_cdm_stop_decision_e    decision;
    ngx_str_t                       rule;       /* empty is by default */
    ngx_str_t                       reason;
    const ngx_http_cdm_stop_error_t *waived;    /* by the dry run */
    ngx_http_cdm_stop_key_t         key;
    ngx_str_t                       token;      /* that CDM gets */
    size_t                          token_len;  /* when it was looked up */
    uint64_t                        found;      /* generation of that time */
    ngx_msec_t                      found_time;
    ngx_http_cdm_stop_held_t       *from;       /* where it is held, or NULL */
    ngx_http_cdm_stop_fingerprint_t caller_fp;
    ngx_http_cdm_stop_fingerprint_t token_fp;
    uint64_t                        generation;

    /* where the intent is in the tables of the targets */

    ngx_uint_t                      slots[NGX_HTTP_CDM_STOP_AUDIT_TARGETS];

    /* waiting for IAM, in a group of requests with the same key */

    ngx_http_cdm_stop_look_pt       look;
    ngx_queue_t                     queue;
    ngx_event_t                     wake;
    int64_t                         wait_start;
    int64_t                         wait_end;
    int64_t                         wait_time;  /* so far */

    /* waiting for the disk */

    ngx_http_cdm_stop_sync_wait_t   sync[NGX_HTTP_CDM_STOP_AUDIT_TARGETS];
    ngx_uint_t                      syncing;    /* targets to wait for */
    int64_t                         sync_start;

    /* forwarding */

    ngx_http_handler_pt             content_handler;
    ngx_event_free_peer_pt          free_peer;
    ngx_list_t                      headers;    /* while they are marked */
    ngx_str_t                       token_header;   /* with its end; wiped */
    size_t                          request_len;
    ngx_int_t                     (*process_header)(ngx_http_request_t *r);
    void                          (*finalize_request)(ngx_http_request_t *r,
                                                      ngx_int_t rc);
    ngx_uint_t                      http_version;

    /* CDM's answer */

    ngx_uint_t                      upstream_status;
    ngx_str_t                       upstream_request_id;
    ngx_str_t                       upstream_name;
    u_char                         *body;
    size_t                          body_len;
    size_t                          body_size;
    ngx_http_cdm_stop_verdict_t     verdict;
    off_t                           bytes;
    ngx_uint_t                      attempts;

    unsigned                        body_read:1;
    unsigned                        verifying:1; /* key is its token's */
    unsigned                        verify_late:1;  /* waited for that */
    unsigned                        identified:1;
    unsigned                        decided:1;
    unsigned                        waiting:1;
    unsigned                        waited:1;    /* and has not done with it */
    unsigned                        late:1;      /* waited at all */
    unsigned                        stale:1;     /* renewal of it fails */
    unsigned                        injected:1;  /* token is the gateway's */
    unsigned                        subrequest:1;
    unsigned                        forwarding:1;
    unsigned                        held:1;      /* header not yet sent */
    unsigned                        released:1;
    unsigned                        answered:1;  /* by the gateway itself */
    unsigned                        answer_sent:1;
    unsigned                        fingerprinted:1;
    unsigned                        overflow:1;
    unsigned                        echoed:1;    /* body has the token */
    unsigned                        failed:1;    /* no answer of CDM */
    unsigned                        repeat:1;    /* after a 401 of CDM's */
    unsigned                        repeated:1;
    unsigned                        refused:1;   /* recorded */
    unsigned                        intent:1;    /* recorded */
    unsigned                        sync_waits:1;
    unsigned                        sync_failed:1;
    unsigned                        synced:1;    /* or need not be */
    unsigned                        outcome:1;   /* recorded */
};


extern ngx_module_t  ngx_http_cdm_stop_module;


/* ctx: found again after an internal redirect, which clears r->ctx */

ngx_http_cdm_stop_ctx_t *ngx_http_cdm_stop_get_ctx(ngx_http_request_t *r);

/*
 * Makes the context of a request whose target is a stop or, with target NULL,
 * would be read as one.  Returns NULL if there is no memory.
 */
ngx_http_cdm_stop_ctx_t *ngx_http_cdm_stop_create_ctx(ngx_http_request_t *r,
    ngx_http_cdm_stop_target_t *target);

/*
 * Compares the target that the client sent with the one that nginx acts on.
 * Returns NGX_OK (a stop), NGX_DECLINED (no stop), NGX_ABORT (refuse it as
 * misspelt), NGX_ERROR (no memory); target is filled on NGX_OK only.
 */
ngx_int_t ngx_http_cdm_stop_recognise(ngx_http_request_t *r,
    ngx_http_cdm_stop_target_t *target);

/* whether core accepted the header of the request, and nothing failed since */
ngx_uint_t ngx_http_cdm_stop_was_accepted(ngx_http_request_t *r);

/*
 * NGX_OK if some reading of uri is a stop, NGX_DECLINED if none is, 500 if
 * there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_looks_like(ngx_http_request_t *r, ngx_str_t *uri);

/*
 * The context of a stop that nginx itself ended before it got to our handler;
 * makes it if the location is guarded.  NULL if it is no such request.
 */
ngx_http_cdm_stop_ctx_t *ngx_http_cdm_stop_early_ctx(ngx_http_request_t *r);


/* phases */

ngx_int_t ngx_http_cdm_stop_post_read(ngx_http_request_t *r);
ngx_int_t ngx_http_cdm_stop_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_cdm_stop_content(ngx_http_request_t *r);
void ngx_http_cdm_stop_repeat(ngx_http_request_t *r);

/* resumes a request in the content phase whose intent is, or is not, on disk */
void ngx_http_cdm_stop_synced(ngx_http_request_t *r, ngx_int_t rc);

ngx_int_t ngx_http_cdm_stop_log(ngx_http_request_t *r);
ngx_int_t ngx_http_cdm_stop_filter_init(ngx_conf_t *cf);
ngx_int_t ngx_http_cdm_stop_add_variables(ngx_conf_t *cf);


/* headers */

/*
 * Looks for the caller's X-Auth-Token.  Returns NGX_OK and fills
 * ctx->caller_token (len 0 if there is none) and, of one that the worker
 * holds, what goes with it; or NGX_DECLINED if it is sent twice or is not
 * legal.
 */
ngx_int_t ngx_http_cdm_stop_caller_token(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Puts a mark before the headers of the request, so that the gate can tell,
 * in the request that proxy_pass builds, the caller's headers, which come
 * behind the mark, from those of the configuration.  Unlike a list without
 * the caller's headers, it leaves $http_name to proxy_set_header.
 */
ngx_int_t ngx_http_cdm_stop_mark_headers(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
void ngx_http_cdm_stop_unmark_headers(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* whether a header of the caller may reach CDM */
ngx_uint_t ngx_http_cdm_stop_header_allowed(ngx_http_cdm_stop_loc_conf_t *cdcf,
    ngx_str_t *header);

/* whether it is the one of that lower-case name */
ngx_uint_t ngx_http_cdm_stop_header_is(ngx_str_t *header, const char *name,
    size_t len);

/* whether it may by default, since CDM knows it */
ngx_uint_t ngx_http_cdm_stop_header_known(ngx_str_t *header);

/* why a header may not be named in cdm_stop_pass_header, or NULL if it may */
const char *ngx_http_cdm_stop_header_forbidden(ngx_str_t *name);

/* where the token of RFC 9110 ends that p begins with, and if a name is one */
u_char *ngx_http_cdm_stop_header_name(u_char *p, u_char *last);
ngx_uint_t ngx_http_cdm_stop_header_legal(ngx_str_t *name);

/*
 * Where the line behind p ends if it is the caller's X-Auth-Token, which does
 * not pass, is longer than all other headers, and was read before; else p.
 */
u_char *ngx_http_cdm_stop_header_skip(u_char *p, u_char *last,
    ngx_str_t *token);

/* whether a header is the one to a reader that takes _ and . for - */
ngx_uint_t ngx_http_cdm_stop_header_folds(ngx_str_t *name, char *folded);


/* who asks for a stop, and whether this caller may have it */

/*
 * Whether the request has what identifies its caller, before its body is read.
 * Returns NGX_OK, with ctx->caller.principal filled where another mechanism
 * names the caller, or the status of an answer that refuses it.
 */
ngx_int_t ngx_http_cdm_stop_credentials(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Whether a certificate of the client was asked for by the settings of this
 * server: NGX_OK, also if this one asks for none, or NGX_DECLINED.
 */
ngx_int_t ngx_http_cdm_stop_handshake(ngx_http_request_t *r);

/*
 * Fills ctx->caller.  Returns NGX_OK, NGX_AGAIN if the request now waits for
 * IAM and will be resumed, or the status of an answer that refuses it.
 */
ngx_int_t ngx_http_cdm_stop_identify(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* CDM refused the caller's own token: what is known of it does not hold */
void ngx_http_cdm_stop_forget_caller(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* NGX_OK, or the status of an answer that refuses the stop */
ngx_int_t ngx_http_cdm_stop_enforce(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Refuses a caller that is not identified.  A dry run notes that and returns
 * NGX_OK where CDM gets the caller's own token or none.
 */
ngx_int_t ngx_http_cdm_stop_unidentified(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, const ngx_http_cdm_stop_error_t *error);

/* whether CDM gets the gateway's token with this stop */
ngx_uint_t ngx_http_cdm_stop_injects(ngx_http_cdm_stop_ctx_t *ctx);


/* forwarding */

/*
 * The last gate: the wrapper of every upstream's peer.init, called when the
 * request has been built and before any connection is made.
 */
ngx_int_t ngx_http_cdm_stop_init_peer(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us);
ngx_int_t ngx_http_cdm_stop_wrap_upstreams(ngx_conf_t *cf);

/*
 * Takes over the callbacks and the configuration of r->upstream, so that a
 * stop is sent once, its answer is understood and the outcome is recorded.
 */
ngx_int_t ngx_http_cdm_stop_take_upstream(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/*
 * Whether a stop that got a first 401 is to be sent once more; the token that
 * was refused is dropped then.
 */
ngx_uint_t ngx_http_cdm_stop_renewable(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* wraps peer.free, which the original peer.init has set by now */
void ngx_http_cdm_stop_take_peer(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);

/* wipes what the TLS layer of nginx buffered of a request of len bytes */
void ngx_http_cdm_stop_wipe_connection(ngx_connection_t *c, size_t len);


/* tokens that CDM or IAM echo */

/*
 * Overwrites the token, wherever it stands from its start on, in the header
 * in a buffer of upstream before it is parsed, since from there it gets to
 * variables, logs and the client.
 */
void ngx_http_cdm_stop_mask_header(ngx_buf_t *b, ngx_str_t *token);

/*
 * Replaces body by a copy without the token if it is there: parsers keep, and
 * free, copies of what they read.  Returns NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_mask_body(ngx_str_t *body, ngx_str_t *token,
    ngx_pool_t *pool);

/* the same in an id, in place, for any piece of the token */
void ngx_http_cdm_stop_mask_id(ngx_str_t *id, ngx_str_t *token);


/* records */

/*
 * Each writes one record to all targets of the location.  The intent returns
 * NGX_ERROR if a required target failed; the others count what is lost.
 */
void ngx_http_cdm_stop_record_refused(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status);
ngx_int_t ngx_http_cdm_stop_record_intent(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx);
void ngx_http_cdm_stop_record_outcome(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_uint_t status);

char *ngx_http_cdm_stop_audit_key(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_cdm_stop_audit_sign(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/*
 * Reads a private key in PEM for checkpoints, one in "every" milliseconds.
 * NULL if it is none, or no Ed25519 key, which has been logged.
 */
ngx_http_cdm_stop_sign_t *ngx_http_cdm_stop_sign_create(ngx_conf_t *cf,
    ngx_str_t *file, ngx_msec_t every);

/* warns of keys that no record is made with */
void ngx_http_cdm_stop_check_keys(ngx_conf_t *cf);

/* gives the chains and the fingerprints their keys, of which it wipes one */
ngx_int_t ngx_http_cdm_stop_init_chains(ngx_conf_t *cf);

/*
 * In the master, on a reload: gives files that were just made to the user of
 * the workers.  A failure is logged.
 */
void ngx_http_cdm_stop_files_made(ngx_http_cdm_stop_main_conf_t *cdmcf,
    ngx_log_t *log);

/* looks after the chains from now on, in this worker, until it ends */
void ngx_http_cdm_stop_start_keeping(ngx_http_cdm_stop_main_conf_t *cdmcf);
void ngx_http_cdm_stop_stop_keeping(void *data);

char *ngx_http_cdm_stop_audit_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_cdm_stop_audit_format(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* writes a record to all targets of the location */
ngx_int_t ngx_http_cdm_stop_audit_write(ngx_http_request_t *r,
    ngx_http_cdm_stop_ctx_t *ctx, ngx_http_cdm_stop_record_t *rec);


#include "ngx_http_cdm_stop_conf.h"


#include "ngx_http_cdm_stop_wait.h"


#include "ngx_http_cdm_stop_answer.h"


#endif /* _NGX_HTTP_CDM_STOP_H_INCLUDED_ */
