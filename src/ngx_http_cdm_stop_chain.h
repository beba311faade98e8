
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_CHAIN_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_CHAIN_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_http_cdm_stop_mac.h"
#include "ngx_http_cdm_stop_target.h"


#define NGX_HTTP_CDM_STOP_REQUEST_ID_LEN  32
#define NGX_HTTP_CDM_STOP_TIME_LEN                                            \
    (sizeof("1970-01-01T00:00:00.000Z") - 1)
#define NGX_HTTP_CDM_STOP_CHAIN_ID_LEN  16
#define NGX_HTTP_CDM_STOP_HASH_LEN      NGX_HTTP_CDM_STOP_MAC_LEN

/* the longest record: all fields at their bounds, each byte as \uXXXX */
#define NGX_HTTP_CDM_STOP_RECORD_LEN    49152

/*
 * What is kept free before a record, for the line break that a torn line
 * lacks and the members of the chain, and behind it, for its hash.  The hash
 * of the record before is put there as well, for both to be hashed at once.
 */
#define NGX_HTTP_CDM_STOP_RECORD_HEAD                                         \
    (NGX_HTTP_CDM_STOP_HASH_LEN + NGX_HTTP_CDM_STOP_RECORD_LINK)
#define NGX_HTTP_CDM_STOP_RECORD_LINK                                         \
    (sizeof("\n{\"v\":1,\"chain\":\"\",\"seq\":,\"prev\":\"\",\"torn\":") - 1 \
     + NGX_HTTP_CDM_STOP_CHAIN_ID_LEN + NGX_INT64_LEN                         \
     + 2 * NGX_HTTP_CDM_STOP_HASH_LEN + NGX_INT64_LEN)
#define NGX_HTTP_CDM_STOP_RECORD_TAIL                                         \
    (sizeof(",\"hash\":\"\"}\n") - 1 + 2 * NGX_HTTP_CDM_STOP_HASH_LEN)

/*
 * Stops that are on their way at one time, for one target.  More get the
 * answer that they cannot be recorded: CDM takes 1,200 calls a minute, so
 * these would have waited for minutes.
 */
#define NGX_HTTP_CDM_STOP_OPEN_MAX      4096

#define NGX_HTTP_CDM_STOP_NO_SLOT       0

/*
 * FILE.state and a checkpoint are written when so many records came since, and
 * FILE.state after so many milliseconds, if there were any: what was written
 * since is read at a start.
 */
#define NGX_HTTP_CDM_STOP_CHECK_RECORDS 10000
#define NGX_HTTP_CDM_STOP_STATE_EVERY   60000

/* checkpoints in silence, in seconds, and what may be asked for */
#define NGX_HTTP_CDM_STOP_EVERY         60
#define NGX_HTTP_CDM_STOP_EVERY_MAX     86400


/* an intent whose outcome is not yet written */

typedef struct {
    uint64_t                        seq;        /* of the intent */
    ngx_pid_t                       pid;        /* of its worker, 0: is gone */
    u_char                          time[NGX_HTTP_CDM_STOP_TIME_LEN];
    u_char                          id[NGX_HTTP_CDM_STOP_REQUEST_ID_LEN];
    u_char                          project[NGX_HTTP_CDM_STOP_PROJECT_LEN];
    u_char                          cluster[NGX_HTTP_CDM_STOP_CLUSTER_LEN];
    size_t                          job_len;
    u_char                          job[NGX_HTTP_CDM_STOP_JOB_LEN];
} ngx_http_cdm_stop_open_t;


typedef enum {
    NGX_HTTP_CDM_STOP_OPEN_KEEP = 0,
    NGX_HTTP_CDM_STOP_OPEN_ADD,
    NGX_HTTP_CDM_STOP_OPEN_REMOVE
} ngx_http_cdm_stop_open_e;


/*
 * The head of a chain: all that the next record depends on.  There are two,
 * of which one is in force; the other one is filled and then put in force by
 * a single store, so that a worker that is killed leaves the one or the other.
 */

typedef struct {
    uint64_t                        seq;        /* of the last record */
    u_char                          hash[NGX_HTTP_CDM_STOP_HASH_LEN];

    dev_t                           dev;        /* the file it goes to */
    ngx_file_uniq_t                 uniq;
    off_t                           size;       /* as far as it was looked at */
    size_t                          torn;       /* bytes of no record */
    ngx_uint_t                      unended;    /* it ends within a line */

    ngx_http_cdm_stop_open_e        op;         /* to be done with the table */
    ngx_uint_t                      slot;       /* of open intents */
} ngx_http_cdm_stop_head_t;


typedef struct {
    u_char                          id[NGX_HTTP_CDM_STOP_CHAIN_ID_LEN];
    ngx_atomic_t                    current;    /* of heads */
    ngx_http_cdm_stop_head_t        heads[2];

    ngx_uint_t                      writing;    /* head may be behind */

    ngx_uint_t                      owner;      /* has the lock of the file */
    uint64_t                        state_seq;  /* of the last FILE.state */
    int64_t                         state_time;
    ngx_uint_t                      state_due;
    uint64_t                        check_seq;  /* of the last checkpoint */
    int64_t                         check_time;
    uint64_t                        signed_seq; /* of the last one written */
    uint64_t                        signed_time; /* ms of the day, 0: none */

    ngx_uint_t                      hint;       /* where a slot may be free */
    ngx_uint_t                      high;       /* slots beyond were not used */
    u_char                         *used;       /* slots, by their numbers */
    ngx_http_cdm_stop_open_t       *open;
} ngx_http_cdm_stop_chain_sh_t;


/*
 * Ed25519 by the seed of a private key, which is on a page of its own that no
 * core dump has.
 */

typedef struct {
    u_char                         *seed;
    ngx_msec_t                      every;
    u_char                          key_id[2 * NGX_HTTP_CDM_STOP_HASH_LEN];
} ngx_http_cdm_stop_sign_t;


/* FILE.lock, by which instances tell that there is another one */

typedef struct {
    ngx_fd_t                        fd;
    ngx_uint_t                      cycles;     /* that have it */
} ngx_http_cdm_stop_lock_t;


typedef struct ngx_http_cdm_stop_sync_s  ngx_http_cdm_stop_sync_t;

typedef struct ngx_http_cdm_stop_syslog_s  ngx_http_cdm_stop_syslog_t;

/* what is counted, see stats.h */

typedef struct ngx_http_cdm_stop_stats_s  ngx_http_cdm_stop_stats_t;
typedef struct ngx_http_cdm_stop_iam_stats_s  ngx_http_cdm_stop_iam_stats_t;
typedef struct ngx_http_cdm_stop_audit_stats_s
    ngx_http_cdm_stop_audit_stats_t;
typedef struct ngx_http_cdm_stop_worker_stats_s
    ngx_http_cdm_stop_worker_stats_t;

typedef struct ngx_http_cdm_stop_ctx_s  ngx_http_cdm_stop_ctx_t;


/* a request whose intent is on its way to the disk, for one target */

typedef struct {
    ngx_queue_t                     queue;
    void                           *description;    /* of the file */
    ngx_http_cdm_stop_ctx_t        *ctx;
    ngx_http_cdm_stop_sync_t       *sync;
    unsigned                        waits:1;
    unsigned                        best_effort:1;
} ngx_http_cdm_stop_sync_wait_t;


/* a target of records, of one configuration */

typedef struct {
    ngx_open_file_t                *file;       /* NULL: syslog */
    ngx_http_cdm_stop_syslog_t     *syslog;
    ngx_str_t                       name;       /* as it is for messages */
    ngx_fd_t                        reader;     /* of the same file */

    /* what was looked at in this turn of the event loop, which turn ends */

    ngx_event_t                     turn;
    ngx_fd_t                        looked;     /* INVALID: nothing */
    dev_t                           looked_dev;
    ngx_file_uniq_t                 looked_uniq;

    ngx_shm_zone_t                 *zone;
    ngx_slab_pool_t                *shpool;
    ngx_http_cdm_stop_chain_sh_t   *sh;
    ngx_http_cdm_stop_mac_t        *mac;
    u_char                          key_id[8];  /* tells keys apart */
    ngx_http_cdm_stop_sign_t       *sign;
    ngx_http_cdm_stop_lock_t       *lock;
    ngx_cycle_t                    *cycle;
    time_t                          state_logged;
    ngx_http_cdm_stop_sync_t       *sync;       /* NULL: for no location */
    ngx_http_cdm_stop_audit_stats_t *stats;     /* NULL: not counted */
    ngx_uint_t                      lost;       /* records, by this worker */
    time_t                          lost_logged;
    time_t                          gone_logged;    /* a deleted file */
    unsigned                        is_file:1;  /* and can be rotated, read */
} ngx_http_cdm_stop_chain_t;


/*
 * A record under construction, in a buffer with room before start and behind
 * end.  A field that does not fit makes pos NULL, after which nothing is added
 * any more.
 */

typedef struct {
    u_char                         *start;
    u_char                         *pos;
    u_char                         *end;

    /* of the table of open intents */

    ngx_http_cdm_stop_open_e        op;
    ngx_http_cdm_stop_open_t       *intent;     /* to be added */
} ngx_http_cdm_stop_record_t;


/*
 * The target of a name that "cdm_stop_audit" gives, made if need be; its
 * records are one chain.  NULL if there is no memory or the file cannot be
 * opened, which has been logged.
 */
ngx_http_cdm_stop_chain_t *ngx_http_cdm_stop_chain_add(ngx_conf_t *cf,
    ngx_array_t *chains, ngx_str_t *name);

/*
 * Gives each chain its shared memory, its key, which may be empty, and what
 * signs it, which may be NULL: to be called when all of the configuration was
 * read.
 */
ngx_int_t ngx_http_cdm_stop_chain_zones(ngx_conf_t *cf, ngx_array_t *chains,
    ngx_str_t *key, ngx_http_cdm_stop_sign_t *sign);

/*
 * Makes a record, which begins with a comma, the next one of the chain and
 * writes it by one write(2).  slot is where the record's intent is in the
 * table of open ones: set for one that is added, which is to be removed with
 * the outcome.  On NGX_ERROR the chain is as it was, and ngx_errno tells why;
 * it is 0 if only a part was written.
 */
ngx_int_t ngx_http_cdm_stop_chain_append(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_record_t *rec, ngx_uint_t *slot, ngx_log_t *log);

/*
 * What is to be done once in a while, by any worker: closes intents of dead
 * workers, writes checkpoints and FILE.state when it is time to.
 */
void ngx_http_cdm_stop_keep(ngx_http_cdm_stop_chain_t *chain, u_char *buf,
    ngx_log_t *log);

/* the same for a worker that ends: its own intents are closed as well */
void ngx_http_cdm_stop_keep_exit(ngx_http_cdm_stop_chain_t *chain,
    u_char *buf, ngx_log_t *log);

/*
 * In the master, for a zone that is new: finds the end of the chain, and the
 * intents left open, from FILE.state and what was written behind it.  Where
 * another instance has the file a chain of its own begins.
 */
ngx_int_t ngx_http_cdm_stop_recover(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log);

/* closes the lock with the last cycle that has it */
void ngx_http_cdm_stop_unlock(ngx_http_cdm_stop_chain_t *chain);


/* what follows is called with the mutex of the zone held */

/*
 * Takes the file over when the other instance is gone, and the intents that
 * it left open.
 */
void ngx_http_cdm_stop_take_over(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log);

/* writes FILE.state; a failure is logged */
void ngx_http_cdm_stop_state_write(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log);

/*
 * Puts the members of the chain before the record, so that they end where it
 * starts, and returns where they begin.
 */
u_char *ngx_http_cdm_stop_chain_link(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_head_t *head, ngx_http_cdm_stop_record_t *rec);

/* writes a checkpoint; a failure is logged */
void ngx_http_cdm_stop_checkpoint(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log);

ngx_int_t ngx_http_cdm_stop_chain_append_locked(
    ngx_http_cdm_stop_chain_t *chain, ngx_http_cdm_stop_record_t *rec,
    ngx_uint_t *slot, ngx_log_t *log);

/* the head in force */
ngx_http_cdm_stop_head_t *ngx_http_cdm_stop_chain_head(
    ngx_http_cdm_stop_chain_t *chain);

/* puts a copy of head in force, and does with the open intents what it says */
void ngx_http_cdm_stop_chain_advance(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_head_t *head);

/*
 * Sees to it that the file is the one of this name, that head is at its end,
 * and that head tells of what is there and is no record.  fi is of the file,
 * as ngx_http_cdm_stop_file_ready() fills it, and changed.  Returns NGX_ERROR
 * with ngx_errno.
 */
ngx_int_t ngx_http_cdm_stop_follow(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi, ngx_log_t *log);

/*
 * Reads the file from head->size to size: takes over records of the chain
 * that were written by a worker that was killed before it could tell, and
 * counts bytes of no record.
 */
ngx_int_t ngx_http_cdm_stop_tail(ngx_http_cdm_stop_chain_t *chain, off_t size,
    ngx_log_t *log);


/*
 * Sees to it that chain->reader is of the file that fi is of.  Returns
 * NGX_ERROR with ngx_errno.
 */
ngx_int_t ngx_http_cdm_stop_tail_open(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi, ngx_log_t *log);

/*
 * The same in the master, on a reload, for the workers, who may not be allowed
 * to open the file for reading.
 */
void ngx_http_cdm_stop_tail_inherit(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log);

/*
 * Calls handler for each line of a file from pos to size, without its line
 * feed, and with whole not set for a piece that has none or is too long.
 * Returns NGX_ERROR if the file cannot be read.
 */
typedef void (*ngx_http_cdm_stop_line_pt)(void *data, ngx_str_t *line,
    off_t end, ngx_uint_t whole);

ngx_int_t ngx_http_cdm_stop_lines(ngx_fd_t fd, off_t pos, off_t size,
    ngx_http_cdm_stop_line_pt handler, void *data, ngx_log_t *log);

/* whether the line's hash is that of the line behind prev; fills md */
ngx_int_t ngx_http_cdm_stop_line_hash(ngx_http_cdm_stop_chain_t *chain,
    u_char *prev, ngx_str_t *line, u_char *md);

/*
 * How many bytes there are behind the last line feed of the file that fi is
 * of.  Returns NGX_ERROR with ngx_errno.
 */
ngx_int_t ngx_http_cdm_stop_tail_piece(ngx_http_cdm_stop_chain_t *chain,
    ngx_file_info_t *fi, size_t *piece, ngx_log_t *log);


/* the table of open intents; all but "take" may be repeated after a crash */

/* a free slot, filled but not yet in use; NO_SLOT if there is none */
ngx_uint_t ngx_http_cdm_stop_open_take(ngx_http_cdm_stop_chain_sh_t *sh,
    ngx_http_cdm_stop_open_t *intent);

void ngx_http_cdm_stop_open_do(ngx_http_cdm_stop_chain_sh_t *sh,
    ngx_http_cdm_stop_head_t *head);

/* the slot of an open intent of this request, or NO_SLOT */
ngx_uint_t ngx_http_cdm_stop_open_find(ngx_http_cdm_stop_chain_sh_t *sh,
    u_char *id);

/*
 * Makes head->op and slot what a record that was read from the file does to
 * the table.  Returns NGX_DECLINED if it is no record.
 */
ngx_int_t ngx_http_cdm_stop_open_read(ngx_http_cdm_stop_chain_sh_t *sh,
    ngx_http_cdm_stop_head_t *head, json_t *json);

/* an intent from its record; NGX_ERROR if a member is not there or not legal */
ngx_int_t ngx_http_cdm_stop_open_parse(json_t *json,
    ngx_http_cdm_stop_open_t *intent);


/* targets */

/*
 * A chain whose records go to syslog, as cf->args->elts[1] tells; that text is
 * changed.  Logs what is wrong and returns NGX_ERROR.
 */
ngx_int_t ngx_http_cdm_stop_syslog_add(ngx_conf_t *cf,
    ngx_http_cdm_stop_chain_t *chain);

/* as write(2), which takes all or nothing here, and does not wait */
ssize_t ngx_http_cdm_stop_syslog_send(ngx_http_cdm_stop_syslog_t *syslog,
    u_char *p, size_t len);

/*
 * Sees to it that a record of len bytes can be written to a target without
 * waiting, and not to a file that was deleted, which is opened again.  fi is
 * then what the system says of it, st_mode 0 if that is nothing.  Returns
 * NGX_ERROR with the errno set.
 */
ngx_int_t ngx_http_cdm_stop_file_ready(ngx_http_cdm_stop_chain_t *chain,
    size_t len, ngx_file_info_t *fi, ngx_log_t *log);


#endif /* _NGX_HTTP_CDM_STOP_CHAIN_H_INCLUDED_ */
