
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <jansson.h>
#include <sys/file.h>
#include "ngx_http_cdm_stop.h"


/* of a file without FILE.state so much is read at a start */
#define NGX_HTTP_CDM_STOP_RECOVER_LEN  (64 * 1024 * 1024)

/* FILE.state with all intents that may be open, with long names of jobs */
#define NGX_HTTP_CDM_STOP_STATE_MAX    (32 * 1024 * 1024)


/* what is known of the chain while files are read */

typedef struct {
    ngx_http_cdm_stop_chain_t  *chain;
    ngx_http_cdm_stop_head_t    head;
    u_char                      id[NGX_HTTP_CDM_STOP_CHAIN_ID_LEN];
    off_t                       offset;     /* covered by FILE.state */
    unsigned                    known:1;    /* there is a chain */
    unsigned                    state:1;    /* FILE.state was read */
    unsigned                    broken:1;   /* its key is another one */
    unsigned                    others:1;   /* look for other chains only */
} ngx_http_cdm_stop_recover_t;


static ngx_int_t ngx_http_cdm_stop_lock(ngx_http_cdm_stop_chain_t *chain,
    ngx_log_t *log);
static void ngx_http_cdm_stop_recover_state(ngx_http_cdm_stop_recover_t *rc,
    ngx_log_t *log);
static void ngx_http_cdm_stop_recover_parse(ngx_http_cdm_stop_recover_t *rc,
    json_t *json);
static ngx_int_t ngx_http_cdm_stop_recover_files(
    ngx_http_cdm_stop_recover_t *rc, ngx_log_t *log);
static ngx_fd_t ngx_http_cdm_stop_recover_rotated(
    ngx_http_cdm_stop_recover_t *rc, ngx_file_info_t *fi);
static void ngx_http_cdm_stop_recover_line(void *data, ngx_str_t *line,
    off_t end, ngx_uint_t whole);
static ngx_int_t ngx_http_cdm_stop_recover_record(
    ngx_http_cdm_stop_recover_t *rc, json_t *json, ngx_str_t *line);
static ngx_int_t ngx_http_cdm_stop_recover_unhex(u_char *dst, const char *hex,
    size_t len);


ngx_int_t
ngx_http_cdm_stop_recover(ngx_http_cdm_stop_chain_t *chain, ngx_log_t *log)
{
    ngx_file_info_t               fi;
    ngx_http_cdm_stop_recover_t   rc;

    if (ngx_fd_info(chain->file->fd, &fi) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      ngx_fd_info_n " \"%V\" failed", &chain->name);
        return NGX_ERROR;
    }

    if (!ngx_is_file(&fi)) {
        return NGX_OK;
    }

    if (ngx_http_cdm_stop_lock(chain, log) != NGX_OK) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "another instance writes to \"%V\", the records of "
                      "this one are a chain of their own", &chain->name);
        return NGX_OK;
    }

    chain->sh->owner = 1;

    ngx_memzero(&rc, sizeof(ngx_http_cdm_stop_recover_t));

    rc.chain = chain;

    ngx_http_cdm_stop_recover_state(&rc, log);

    if (ngx_http_cdm_stop_recover_files(&rc, log) != NGX_OK) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "audit file \"%V\" could not be read, which the chain "
                      "goes on from", &chain->name);
        return NGX_ERROR;
    }

    if (rc.broken) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "the last record of \"%V\" was not made with this "
                      "\"cdm_stop_audit_key\", a new chain begins",
                      &chain->name);
        rc.known = 0;
    }

    if (rc.known) {
        ngx_memcpy(chain->sh->id, rc.id, NGX_HTTP_CDM_STOP_CHAIN_ID_LEN);

    } else {
        rc.head.seq = 0;
        ngx_memzero(rc.head.hash, NGX_HTTP_CDM_STOP_HASH_LEN);
    }

    rc.head.op = NGX_HTTP_CDM_STOP_OPEN_KEEP;

    ngx_http_cdm_stop_chain_advance(chain, &rc.head);

    chain->sh->check_seq = rc.head.seq;
    chain->sh->signed_time = 0;

    ngx_http_cdm_stop_state_write(chain, log);

    return NGX_OK;
}


void
ngx_http_cdm_stop_take_over(ngx_http_cdm_stop_chain_t *chain, ngx_log_t *log)
{
    ngx_http_cdm_stop_recover_t  rc;

    if (chain->lock == NULL || flock(chain->lock->fd, LOCK_EX|LOCK_NB) == -1) {
        return;
    }

    chain->sh->owner = 1;

    ngx_log_error(NGX_LOG_NOTICE, log, 0,
                  "the other instance no longer writes to \"%V\"",
                  &chain->name);

    ngx_memzero(&rc, sizeof(ngx_http_cdm_stop_recover_t));

    rc.chain = chain;
    rc.others = 1;

    ngx_http_cdm_stop_recover_state(&rc, log);

    if (ngx_http_cdm_stop_recover_files(&rc, log) != NGX_OK) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      "audit file \"%V\" could not be read, stops that the "
                      "other instance left open stay so", &chain->name);
    }

    ngx_http_cdm_stop_state_write(chain, log);
}


/*
 * The lock belongs to what the master opened and all its workers inherit: so
 * it is held as long as one of them lives, and ends with the last one.
 */

static ngx_int_t
ngx_http_cdm_stop_lock(ngx_http_cdm_stop_chain_t *chain, ngx_log_t *log)
{
    u_char    name[NGX_MAX_PATH + 1];
    ngx_fd_t  fd;

    fd = NGX_INVALID_FILE;

    if (chain->name.len + sizeof(".lock") <= NGX_MAX_PATH) {

        ngx_sprintf(name, "%V.lock%Z", &chain->name);

        fd = open((char *) name, O_RDWR|O_CREAT|O_NOFOLLOW|O_CLOEXEC, 0600);
    }

    if (fd == NGX_INVALID_FILE) {
        ngx_log_error(NGX_LOG_WARN, log, ngx_errno,
                      "open() \"%V.lock\" failed, see to it that no other "
                      "instance writes to \"%V\"", &chain->name, &chain->name);
        return NGX_OK;
    }

    chain->lock = ngx_alloc(sizeof(ngx_http_cdm_stop_lock_t), log);

    if (chain->lock == NULL) {
        (void) ngx_close_file(fd);
        return NGX_OK;
    }

    chain->lock->fd = fd;
    chain->lock->cycles = 1;

    return flock(fd, LOCK_EX|LOCK_NB) == -1 ? NGX_DECLINED : NGX_OK;
}


void
ngx_http_cdm_stop_unlock(ngx_http_cdm_stop_chain_t *chain)
{
    ngx_http_cdm_stop_lock_t  *lock;

    lock = chain->lock;
    chain->lock = NULL;

    if (lock == NULL || --lock->cycles) {
        return;
    }

    if (ngx_close_file(lock->fd) == NGX_FILE_ERROR) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      ngx_close_file_n " \"%V.lock\" failed", &chain->name);
    }

    ngx_free(lock);
}


/* a state that cannot be read is none: the file then has to tell it all */

static void
ngx_http_cdm_stop_recover_state(ngx_http_cdm_stop_recover_t *rc,
    ngx_log_t *log)
{
    u_char           name[NGX_MAX_PATH + 1], *buf;
    json_t          *json;
    ssize_t          n;
    ngx_fd_t         fd;
    ngx_file_info_t  fi;

    if (rc->chain->name.len + sizeof(".state") > NGX_MAX_PATH) {
        return;
    }

    ngx_sprintf(name, "%V.state%Z", &rc->chain->name);

    fd = open((char *) name, O_RDONLY|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {

        if (ngx_errno != NGX_ENOENT) {
            ngx_log_error(NGX_LOG_WARN, log, ngx_errno,
                          "open() \"%s\" failed", name);
        }

        return;
    }

    json = NULL;

    if (ngx_fd_info(fd, &fi) != NGX_FILE_ERROR
        && ngx_is_file(&fi)
        && ngx_file_size(&fi) <= NGX_HTTP_CDM_STOP_STATE_MAX)
    {
        buf = ngx_alloc(ngx_file_size(&fi) + 1, log);

        if (buf) {
            n = ngx_read_fd(fd, buf, ngx_file_size(&fi));

            if (n > 0) {
                json = json_loadb((char *) buf, n, JSON_REJECT_DUPLICATES,
                                  NULL);
            }

            ngx_free(buf);
        }
    }

    (void) ngx_close_file(fd);

    if (json == NULL) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "\"%s\" is not whole, the end of \"%V\" is read "
                      "instead", name, &rc->chain->name);
        return;
    }

    ngx_http_cdm_stop_recover_parse(rc, json);

    json_decref(json);
}


static void
ngx_http_cdm_stop_recover_parse(ngx_http_cdm_stop_recover_t *rc, json_t *json)
{
    size_t                     i;
    json_t                    *open, *value;
    const char                *id, *hash, *key;
    ngx_http_cdm_stop_head_t   op;
    ngx_http_cdm_stop_open_t   intent;

    id = json_string_value(json_object_get(json, "chain"));
    hash = json_string_value(json_object_get(json, "hash"));
    key = json_string_value(json_object_get(json, "key"));

    if (id == NULL
        || ngx_strlen(id) != NGX_HTTP_CDM_STOP_CHAIN_ID_LEN
        || ngx_http_cdm_stop_recover_unhex(rc->head.hash, hash,
                                           NGX_HTTP_CDM_STOP_HASH_LEN)
           != NGX_OK)
    {
        return;
    }

    rc->known = 1;
    rc->state = 1;

    rc->broken = (key == NULL
                  || ngx_strncmp(key, rc->chain->key_id,
                                 sizeof(rc->chain->key_id))
                     != 0);

    ngx_memcpy(rc->id, id, NGX_HTTP_CDM_STOP_CHAIN_ID_LEN);

    rc->head.seq = json_integer_value(json_object_get(json, "seq"));
    rc->head.dev = json_integer_value(json_object_get(json, "dev"));
    rc->head.uniq = json_integer_value(json_object_get(json, "ino"));
    rc->offset = json_integer_value(json_object_get(json, "offset"));

    open = json_object_get(json, "open");

    json_array_foreach(open, i, value) {

        if (ngx_http_cdm_stop_open_parse(value, &intent) != NGX_OK
            || ngx_http_cdm_stop_open_find(rc->chain->sh, intent.id))
        {
            continue;
        }

        op.op = NGX_HTTP_CDM_STOP_OPEN_ADD;
        op.slot = ngx_http_cdm_stop_open_take(rc->chain->sh, &intent);

        ngx_http_cdm_stop_open_do(rc->chain->sh, &op);
    }
}


static ngx_int_t
ngx_http_cdm_stop_recover_files(ngx_http_cdm_stop_recover_t *rc,
    ngx_log_t *log)
{
    off_t             pos;
    ngx_fd_t          fd;
    ngx_int_t         rv;
    ngx_file_info_t   fi, old;

    if (ngx_fd_info(rc->chain->file->fd, &fi) == NGX_FILE_ERROR
        || ngx_http_cdm_stop_tail_open(rc->chain, &fi, log) != NGX_OK)
    {
        return NGX_ERROR;
    }

    pos = 0;

    if (rc->state
        && rc->head.dev == fi.st_dev
        && rc->head.uniq == ngx_file_uniq(&fi))
    {
        /* a file that was cut is read from its start */

        if (rc->offset >= 0 && rc->offset <= ngx_file_size(&fi)) {
            pos = rc->offset;
        }

    } else if (rc->state) {

        /* rotated while nobody was there to tell of it */

        fd = ngx_http_cdm_stop_recover_rotated(rc, &old);

        if (fd != NGX_INVALID_FILE) {

            rv = ngx_http_cdm_stop_lines(fd, rc->offset, ngx_file_size(&old),
                                         ngx_http_cdm_stop_recover_line, rc,
                                         log);
            (void) ngx_close_file(fd);

            if (rv != NGX_OK) {
                return NGX_ERROR;
            }

            /* of a torn line there is nothing to mend in the new file */

            rc->head.unended = 0;
        }
    }

    if (ngx_file_size(&fi) - pos > NGX_HTTP_CDM_STOP_RECOVER_LEN) {
        pos = ngx_file_size(&fi) - NGX_HTTP_CDM_STOP_RECOVER_LEN;
    }

    rc->head.dev = fi.st_dev;
    rc->head.uniq = ngx_file_uniq(&fi);
    rc->head.size = ngx_file_size(&fi);

    return ngx_http_cdm_stop_lines(rc->chain->reader, pos, rc->head.size,
                                   ngx_http_cdm_stop_recover_line, rc, log);
}


/* the file that FILE.state is of, under whatever name it is beside FILE now */

static ngx_fd_t
ngx_http_cdm_stop_recover_rotated(ngx_http_cdm_stop_recover_t *rc,
    ngx_file_info_t *fi)
{
    u_char     *slash, dirname[NGX_MAX_PATH + 1], path[NGX_MAX_PATH + 1];
    ngx_fd_t    fd;
    ngx_dir_t   dir;
    ngx_str_t   name;

    if (rc->chain->name.len > NGX_MAX_PATH) {
        return NGX_INVALID_FILE;
    }

    ngx_sprintf(dirname, "%V%Z", &rc->chain->name);

    slash = (u_char *) strrchr((char *) dirname, '/');

    if (slash == NULL) {
        return NGX_INVALID_FILE;
    }

    *slash = '\0';
    name.data = dirname;
    name.len = slash - dirname;

    if (ngx_open_dir(&name, &dir) == NGX_ERROR) {
        return NGX_INVALID_FILE;
    }

    fd = NGX_INVALID_FILE;

    while (ngx_read_dir(&dir) == NGX_OK) {

        if (dir.de->d_ino != rc->head.uniq
            || name.len + ngx_strlen(ngx_de_name(&dir)) + 1 >= NGX_MAX_PATH)
        {
            continue;
        }

        ngx_sprintf(path, "%V/%s%Z", &name, ngx_de_name(&dir));

        fd = open((char *) path, O_RDONLY|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

        if (fd == NGX_INVALID_FILE) {
            continue;
        }

        if (ngx_fd_info(fd, fi) != NGX_FILE_ERROR
            && ngx_is_file(fi)
            && fi->st_dev == rc->head.dev
            && ngx_file_uniq(fi) == rc->head.uniq
            && ngx_file_size(fi) >= rc->offset
            && rc->offset >= 0)
        {
            break;
        }

        (void) ngx_close_file(fd);
        fd = NGX_INVALID_FILE;
    }

    (void) ngx_close_dir(&dir);

    return fd;
}


static void
ngx_http_cdm_stop_recover_line(void *data, ngx_str_t *line, off_t end,
    ngx_uint_t whole)
{
    ngx_http_cdm_stop_recover_t *rc = data;

    json_t    *json;
    ngx_int_t  rv;

    json = NULL;

    if (whole && !rc->head.unended) {
        json = json_loadb((char *) line->data, line->len,
                          JSON_REJECT_DUPLICATES, NULL);
    }

    rv = json ? ngx_http_cdm_stop_recover_record(rc, json, line)
              : NGX_DECLINED;

    json_decref(json);

    if (rv != NGX_OK) {
        rc->head.torn += line->len;
    }

    rc->head.unended = !whole;
}


static ngx_int_t
ngx_http_cdm_stop_recover_record(ngx_http_cdm_stop_recover_t *rc,
    json_t *json, ngx_str_t *line)
{
    u_char                     hash[NGX_HTTP_CDM_STOP_HASH_LEN];
    u_char                     prev[NGX_HTTP_CDM_STOP_HASH_LEN];
    uint64_t                   seq;
    const char                *id;
    ngx_http_cdm_stop_head_t   op;

    id = json_string_value(json_object_get(json, "chain"));
    seq = json_integer_value(json_object_get(json, "seq"));

    if (id == NULL
        || ngx_strlen(id) != NGX_HTTP_CDM_STOP_CHAIN_ID_LEN
        || ngx_http_cdm_stop_recover_unhex(prev,
                      json_string_value(json_object_get(json, "prev")),
                      NGX_HTTP_CDM_STOP_HASH_LEN)
           != NGX_OK
        || (rc->others
            && ngx_strncmp(id, rc->chain->sh->id,
                           NGX_HTTP_CDM_STOP_CHAIN_ID_LEN)
               == 0)
        || ngx_http_cdm_stop_open_read(rc->chain->sh, &op, json) != NGX_OK)
    {
        return NGX_DECLINED;
    }

    ngx_http_cdm_stop_open_do(rc->chain->sh, &op);

    /* with a state its chain goes on, else that of the last record */

    if (rc->state
        && (ngx_strncmp(id, rc->id, NGX_HTTP_CDM_STOP_CHAIN_ID_LEN) != 0
            || seq <= rc->head.seq))
    {
        return NGX_OK;
    }

    rc->known = 1;
    rc->broken = (ngx_http_cdm_stop_line_hash(rc->chain, prev, line, hash)
                  != NGX_OK);
    rc->head.seq = seq;
    rc->head.torn = 0;

    ngx_memcpy(rc->id, id, NGX_HTTP_CDM_STOP_CHAIN_ID_LEN);
    ngx_memcpy(rc->head.hash, hash, NGX_HTTP_CDM_STOP_HASH_LEN);

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_recover_unhex(u_char *dst, const char *hex, size_t len)
{
    size_t     i;
    ngx_int_t  n;

    if (hex == NULL || ngx_strlen(hex) != 2 * len) {
        return NGX_ERROR;
    }

    for (i = 0; i < len; i++) {

        n = ngx_hextoi((u_char *) hex + 2 * i, 2);

        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        dst[i] = (u_char) n;
    }

    return NGX_OK;
}
