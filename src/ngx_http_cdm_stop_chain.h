
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
#define NGX_HTTP_CDM_STOP_RECORD_LEN    32768

/*
 * What is kept free before a record, for the line break that a torn line
 * lacks and the members of the chain, and behind it, for its hash.
 */
#define NGX_HTTP_CDM_STOP_RECORD_HEAD                                         \
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

    ngx_uint_t                      hint;       /* where a slot may be free */
    ngx_uint_t                      high;       /* slots beyond were not used */
    u_char                         *used;       /* slots, by their numbers */
    ngx_http_cdm_stop_open_t       *open;
} ngx_http_cdm_stop_chain_sh_t;


/* a target of records, of one configuration */

typedef struct {
    ngx_open_file_t                *file;
    ngx_str_t                       name;       /* as it is for messages */
    ngx_fd_t                        reader;     /* of the same file */
    ngx_shm_zone_t                 *zone;
    ngx_slab_pool_t                *shpool;
    ngx_http_cdm_stop_chain_sh_t   *sh;
    ngx_http_cdm_stop_mac_t        *mac;
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
 * Gives each chain its shared memory and its key, which may be empty: to be
 * called when all of the configuration was read.
 */
ngx_int_t ngx_http_cdm_stop_chain_zones(ngx_conf_t *cf, ngx_array_t *chains,
    ngx_str_t *key);

/*
 * Makes a record, which begins with a comma, the next one of the chain and
 * writes it by one write(2).  slot is where the record's intent is in the
 * table of open ones: set for one that is added, which is to be removed with
 * the outcome.  On NGX_ERROR the chain is as it was, and ngx_errno tells why;
 * it is 0 if only a part was written.
 */
ngx_int_t ngx_http_cdm_stop_chain_append(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_record_t *rec, ngx_uint_t *slot, ngx_log_t *log);


/* what follows is called with the mutex of the zone held */

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
 * and that head tells of what is there and is no record.  Returns NGX_ERROR
 * with ngx_errno.
 */
ngx_int_t ngx_http_cdm_stop_follow(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log);

/*
 * Reads the file from head->size to size: takes over records of the chain
 * that were written by a worker that was killed before it could tell, and
 * counts bytes of no record.
 */
ngx_int_t ngx_http_cdm_stop_tail(ngx_http_cdm_stop_chain_t *chain, off_t size,
    ngx_log_t *log);


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


#endif /* _NGX_HTTP_CDM_STOP_CHAIN_H_INCLUDED_ */
