
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/rand.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_sync.h"


/*
 * A zone has the table of open intents, of which pages are taken only when
 * they are used, and room for what the slab allocator keeps for itself.
 */
#define NGX_HTTP_CDM_STOP_CHAIN_ZONE                                          \
    (NGX_HTTP_CDM_STOP_OPEN_MAX * (sizeof(ngx_http_cdm_stop_open_t) + 1)      \
     + 256 * 1024)


#define ngx_http_cdm_stop_is_syslog(name)                                     \
    (ngx_strncmp((name)->data, "syslog:", sizeof("syslog:") - 1) == 0)

/* a literal so that it ends before p, which is then where it begins */

#define ngx_http_cdm_stop_put_before(p, text)                                 \
    do {                                                                      \
        p -= sizeof(text) - 1;                                                \
        ngx_memcpy(p, text, sizeof(text) - 1);                                \
    } while (0)


static ngx_open_file_t *ngx_http_cdm_stop_chain_file(ngx_conf_t *cf,
    ngx_str_t *name, ngx_uint_t is_file);
static ngx_int_t ngx_http_cdm_stop_chain_zone_init(ngx_shm_zone_t *zone,
    void *data);
static void ngx_http_cdm_stop_chain_cleanup(void *data);
static ngx_int_t ngx_http_cdm_stop_chain_line(
    ngx_http_cdm_stop_chain_t *chain, ngx_http_cdm_stop_record_t *rec,
    ngx_uint_t *slot, ngx_log_t *log);
static ngx_int_t ngx_http_cdm_stop_chain_ready(
    ngx_http_cdm_stop_chain_t *chain, ngx_http_cdm_stop_record_t *rec,
    ngx_log_t *log);
static ngx_int_t ngx_http_cdm_stop_chain_look(
    ngx_http_cdm_stop_chain_t *chain, size_t len, ngx_log_t *log);
static ngx_uint_t ngx_http_cdm_stop_chain_looked(
    ngx_http_cdm_stop_chain_t *chain);
static void ngx_http_cdm_stop_chain_turn(ngx_event_t *ev);
static ngx_int_t ngx_http_cdm_stop_chain_write(
    ngx_http_cdm_stop_chain_t *chain, ngx_http_cdm_stop_head_t *head,
    u_char *p, size_t len, ngx_log_t *log);
static ngx_int_t ngx_http_cdm_stop_chain_between(
    ngx_http_cdm_stop_chain_t *chain, ngx_http_cdm_stop_head_t *head,
    u_char *p, size_t len, ngx_log_t *log);


ngx_http_cdm_stop_chain_t *
ngx_http_cdm_stop_chain_add(ngx_conf_t *cf, ngx_array_t *chains,
    ngx_str_t *name)
{
    ngx_uint_t                   i, is_syslog, is_file;
    ngx_open_file_t             *file;
    ngx_http_cdm_stop_chain_t   *chain, **chainp;

    is_syslog = ngx_http_cdm_stop_is_syslog(name);
    is_file = !is_syslog && ngx_strcmp(name->data, "stderr") != 0;

    file = NULL;

    if (!is_syslog) {

        /* opened by the master, opened again on USR1 */

        file = ngx_http_cdm_stop_chain_file(cf, name, is_file);
        if (file == NULL) {
            return NULL;
        }
    }

    chainp = chains->elts;

    for (i = 0; i < chains->nelts; i++) {

        if (is_file ? chainp[i]->file == file
                    : (!chainp[i]->is_file && chainp[i]->name.len == name->len
                       && ngx_strncmp(chainp[i]->name.data, name->data,
                                      name->len)
                          == 0))
        {
            return chainp[i];
        }
    }

    chain = ngx_pcalloc(cf->pool, sizeof(ngx_http_cdm_stop_chain_t));
    if (chain == NULL) {
        return NULL;
    }

    chain->file = file;
    chain->is_file = is_file;
    chain->reader = NGX_INVALID_FILE;

    chain->looked = NGX_INVALID_FILE;
    chain->turn.handler = ngx_http_cdm_stop_chain_turn;
    chain->turn.data = chain;

    if (is_file) {
        chain->name = file->name;

    } else {
        chain->name.len = name->len;
        chain->name.data = ngx_pstrdup(cf->pool, name);
        if (chain->name.data == NULL) {
            return NULL;
        }
    }

    if (is_syslog && ngx_http_cdm_stop_syslog_add(cf, chain) != NGX_OK) {
        return NULL;
    }

    chainp = ngx_array_push(chains);
    if (chainp == NULL) {
        return NULL;
    }

    *chainp = chain;

    return chain;
}


static ngx_open_file_t *
ngx_http_cdm_stop_chain_file(ngx_conf_t *cf, ngx_str_t *name,
    ngx_uint_t is_file)
{
    ngx_str_t  path;

    path = *name;

    if (!is_file) {
        ngx_str_null(&path);
    }

    return ngx_conf_open_file(cf->cycle, &path);
}


ngx_int_t
ngx_http_cdm_stop_chain_zones(ngx_conf_t *cf, ngx_array_t *chains,
    ngx_str_t *key, ngx_http_cdm_stop_sign_t *sign)
{
    u_char                       md[NGX_HTTP_CDM_STOP_MAC_LEN], *p;
    ngx_str_t                    name, label;
    ngx_uint_t                   i;
    ngx_pool_cleanup_t          *cln;
    ngx_http_cdm_stop_mac_t     *mac;
    ngx_http_cdm_stop_chain_t  **chain;

    if (chains->nelts == 0) {
        return NGX_OK;
    }

    mac = ngx_http_cdm_stop_mac_create(cf->pool, key);
    if (mac == NULL) {
        return NGX_ERROR;
    }

    /* with another key it is another chain: workers that end have the old */

    ngx_str_set(&label, "cdm_stop zone");

    if (ngx_http_cdm_stop_mac(mac, &label, 1, md) != NGX_OK) {
        return NGX_ERROR;
    }

    chain = chains->elts;

    for (i = 0; i < chains->nelts; i++) {

        name.len = sizeof("cdm_stop_audit  ") - 1 + chain[i]->name.len + 8;
        name.data = ngx_pnalloc(cf->pool, name.len);
        if (name.data == NULL) {
            return NGX_ERROR;
        }

        p = ngx_sprintf(name.data, "cdm_stop_audit %V ", &chain[i]->name);
        ngx_http_cdm_stop_hex_dump(p, md, 4);
        ngx_memcpy(chain[i]->key_id, p, 8);

        cln = ngx_pool_cleanup_add(cf->pool, 0);
        if (cln == NULL) {
            return NGX_ERROR;
        }

        cln->handler = ngx_http_cdm_stop_chain_cleanup;
        cln->data = chain[i];

        chain[i]->mac = mac;
        chain[i]->sign = sign;
        chain[i]->cycle = cf->cycle;

        chain[i]->zone = ngx_shared_memory_add(cf, &name,
                                               NGX_HTTP_CDM_STOP_CHAIN_ZONE,
                                               &ngx_http_cdm_stop_module);
        if (chain[i]->zone == NULL) {
            return NGX_ERROR;
        }

        chain[i]->zone->init = ngx_http_cdm_stop_chain_zone_init;
        chain[i]->zone->data = chain[i];
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_cdm_stop_chain_zone_init(ngx_shm_zone_t *zone, void *data)
{
    ngx_http_cdm_stop_chain_t  *ochain = data;

    u_char                        id[NGX_HTTP_CDM_STOP_CHAIN_ID_LEN / 2];
    ngx_http_cdm_stop_chain_t    *chain;
    ngx_http_cdm_stop_chain_sh_t *sh;

    chain = zone->data;

    chain->shpool = (ngx_slab_pool_t *) zone->shm.addr;

    if (ochain || zone->shm.exists) {

        /* the workers of the old cycle go on with it */

        chain->sh = chain->shpool->data;

        if (ochain && ochain->lock) {
            chain->lock = ochain->lock;
            chain->lock->cycles++;
        }

        ngx_http_cdm_stop_tail_inherit(chain, zone->shm.log);

        return NGX_OK;
    }

    sh = ngx_slab_calloc(chain->shpool, sizeof(ngx_http_cdm_stop_chain_sh_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    chain->sh = sh;
    chain->shpool->data = sh;

    sh->used = ngx_slab_calloc(chain->shpool, NGX_HTTP_CDM_STOP_OPEN_MAX);
    sh->open = ngx_slab_alloc(chain->shpool, NGX_HTTP_CDM_STOP_OPEN_MAX
                                            * sizeof(ngx_http_cdm_stop_open_t));

    if (sh->used == NULL || sh->open == NULL) {
        return NGX_ERROR;
    }

    if (RAND_bytes(id, sizeof(id)) != 1) {
        ngx_log_error(NGX_LOG_EMERG, zone->shm.log, 0, "RAND_bytes() failed");
        return NGX_ERROR;
    }

    ngx_http_cdm_stop_hex_dump(sh->id, id, sizeof(id));

    if (ngx_test_config || !chain->is_file) {
        return NGX_OK;
    }

    return ngx_http_cdm_stop_recover(chain, zone->shm.log);
}


static void
ngx_http_cdm_stop_chain_cleanup(void *data)
{
    ngx_http_cdm_stop_chain_t *chain = data;

    if (chain->turn.posted) {
        ngx_delete_posted_event(&chain->turn);
    }

    if (chain->reader != NGX_INVALID_FILE
        && ngx_close_file(chain->reader) == NGX_FILE_ERROR)
    {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      ngx_close_file_n " \"%V\" failed", &chain->name);
    }

    chain->reader = NGX_INVALID_FILE;

    ngx_http_cdm_stop_unlock(chain);
}


ngx_http_cdm_stop_head_t *
ngx_http_cdm_stop_chain_head(ngx_http_cdm_stop_chain_t *chain)
{
    return &chain->sh->heads[chain->sh->current];
}


void
ngx_http_cdm_stop_chain_advance(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_head_t *head)
{
    ngx_http_cdm_stop_chain_sh_t  *sh;

    sh = chain->sh;

    /* the worker may be killed at any place */

    sh->heads[!sh->current] = *head;

    ngx_memory_barrier();

    sh->current = !sh->current;

    ngx_memory_barrier();

    ngx_http_cdm_stop_open_do(sh, head);
}


ngx_int_t
ngx_http_cdm_stop_chain_append(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_record_t *rec, ngx_uint_t *slot, ngx_log_t *log)
{
    ngx_err_t                 err;
    ngx_int_t                 rc;
    ngx_http_cdm_stop_head_t  head;

    ngx_shmtx_lock(&chain->shpool->mutex);

    rc = ngx_http_cdm_stop_chain_append_locked(chain, rec, slot, log);
    err = ngx_errno;

    if (rc != NGX_OK && rec->op == NGX_HTTP_CDM_STOP_OPEN_REMOVE) {

        /*
         * The stop has ended, and this worker knows how: it is not to be told
         * as one of which nobody does.  The verifier lists it.
         */

        head = *ngx_http_cdm_stop_chain_head(chain);
        head.op = rec->op;
        head.slot = *slot;

        ngx_http_cdm_stop_chain_advance(chain, &head);
    }

    ngx_shmtx_unlock(&chain->shpool->mutex);

    ngx_set_errno(err);

    return rc;
}


ngx_int_t
ngx_http_cdm_stop_chain_append_locked(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_record_t *rec, ngx_uint_t *slot, ngx_log_t *log)
{
    ngx_int_t  rc;

    do {
        rc = ngx_http_cdm_stop_chain_line(chain, rec, slot, log);
    } while (rc == NGX_AGAIN);

    if (rc == NGX_OK
        && chain->sign
        && ngx_http_cdm_stop_chain_head(chain)->seq - chain->sh->check_seq
           >= NGX_HTTP_CDM_STOP_CHECK_RECORDS)
    {
        ngx_http_cdm_stop_checkpoint(chain, log);
    }

    return rc;
}


/* NGX_AGAIN if it is not a line, because of what somebody else wrote */

static ngx_int_t
ngx_http_cdm_stop_chain_line(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_record_t *rec, ngx_uint_t *slot, ngx_log_t *log)
{
    u_char                    *p, *last;
    ngx_int_t                  rc;
    ngx_str_t                  text;
    ngx_http_cdm_stop_head_t   head;

    /* whoever was killed behind the store of the head left this undone */

    ngx_http_cdm_stop_open_do(chain->sh, ngx_http_cdm_stop_chain_head(chain));

    if (ngx_http_cdm_stop_chain_ready(chain, rec, log) != NGX_OK) {
        return NGX_ERROR;
    }

    head = *ngx_http_cdm_stop_chain_head(chain);

    p = ngx_http_cdm_stop_chain_link(chain, &head, rec);

    /* the first record of a chain has 32 zero bytes before it */

    ngx_memcpy(p - NGX_HTTP_CDM_STOP_HASH_LEN, head.hash,
               NGX_HTTP_CDM_STOP_HASH_LEN);

    text.data = p - NGX_HTTP_CDM_STOP_HASH_LEN;
    text.len = rec->pos - text.data;

    if (ngx_http_cdm_stop_mac(chain->mac, &text, 1, head.hash) != NGX_OK) {
        ngx_set_errno(0);
        return NGX_ERROR;
    }

    last = ngx_cpymem(rec->pos, ",\"hash\":\"", sizeof(",\"hash\":\"") - 1);
    last = ngx_http_cdm_stop_hex_dump(last, head.hash,
                                      NGX_HTTP_CDM_STOP_HASH_LEN);
    last = ngx_cpymem(last, "\"}\n", sizeof("\"}\n") - 1);

    head.op = rec->op;
    head.slot = *slot;

    if (rec->op == NGX_HTTP_CDM_STOP_OPEN_ADD) {

        rec->intent->seq = head.seq + 1;

        head.slot = ngx_http_cdm_stop_open_take(chain->sh, rec->intent);

        if (head.slot == NGX_HTTP_CDM_STOP_NO_SLOT) {
            ngx_set_errno(NGX_ENOSPC);
            return NGX_ERROR;
        }
    }

    if (head.unended) {
        *--p = LF;
    }

    chain->sh->writing = 1;

    ngx_memory_barrier();

    rc = ngx_http_cdm_stop_chain_write(chain, &head, p, last - p, log);

    if (rc != NGX_OK) {
        return rc;
    }

    head.seq++;
    head.torn = 0;
    head.unended = 0;

    ngx_http_cdm_stop_chain_advance(chain, &head);

    ngx_memory_barrier();

    chain->sh->writing = 0;

    *slot = head.slot;

    return NGX_OK;
}


/* the file is there, and the chain at its end */

static ngx_int_t
ngx_http_cdm_stop_chain_ready(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_record_t *rec, ngx_log_t *log)
{
    size_t  len;

    if (!ngx_http_cdm_stop_chain_looked(chain)) {

        len = NGX_HTTP_CDM_STOP_RECORD_LINK + (rec->pos - rec->start)
              + NGX_HTTP_CDM_STOP_RECORD_TAIL;

        if (ngx_http_cdm_stop_chain_look(chain, len, log) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (chain->sync && rec->op == NGX_HTTP_CDM_STOP_OPEN_ADD) {
        return ngx_http_cdm_stop_sync_open(chain->sync, log);
    }

    return NGX_OK;
}


/*
 * A look at the file costs half of what writing to it does, so one serves all
 * records of a turn of the event loop.  What happens to the file meanwhile is
 * seen in the next turn, and whoever appends to it when the record is written.
 */

static ngx_int_t
ngx_http_cdm_stop_chain_look(ngx_http_cdm_stop_chain_t *chain, size_t len,
    ngx_log_t *log)
{
    ngx_file_info_t  fi;

    chain->looked = NGX_INVALID_FILE;

    if (ngx_http_cdm_stop_file_ready(chain, len, &fi, log) != NGX_OK
        || ngx_http_cdm_stop_follow(chain, &fi, log) != NGX_OK)
    {
        return NGX_ERROR;
    }

    chain->sh->writing = 0;

    if (chain->is_file && ngx_is_file(&fi)) {
        chain->looked = chain->file->fd;
        chain->looked_dev = fi.st_dev;
        chain->looked_uniq = ngx_file_uniq(&fi);

        chain->turn.log = ngx_cycle->log;

        ngx_post_event(&chain->turn, &ngx_posted_events);
    }

    return NGX_OK;
}


/* nginx, another worker, or one that was killed may have changed what was */

static ngx_uint_t
ngx_http_cdm_stop_chain_looked(ngx_http_cdm_stop_chain_t *chain)
{
    ngx_http_cdm_stop_head_t  *head;

    if (chain->looked == NGX_INVALID_FILE || chain->sh->writing) {
        return 0;
    }

    head = ngx_http_cdm_stop_chain_head(chain);

    return chain->looked == chain->file->fd
           && chain->looked_dev == head->dev
           && chain->looked_uniq == head->uniq;
}


static void
ngx_http_cdm_stop_chain_turn(ngx_event_t *ev)
{
    ngx_http_cdm_stop_chain_t  *chain;

    chain = ev->data;

    chain->looked = NGX_INVALID_FILE;
}


u_char *
ngx_http_cdm_stop_chain_link(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_head_t *head, ngx_http_cdm_stop_record_t *rec)
{
    u_char  *p;

    p = rec->start;

    if (head->torn) {
        p = ngx_http_cdm_stop_digits_before(p, head->torn);
        ngx_http_cdm_stop_put_before(p, ",\"torn\":");
    }

    ngx_http_cdm_stop_put_before(p, "\"");

    p -= 2 * NGX_HTTP_CDM_STOP_HASH_LEN;
    (void) ngx_http_cdm_stop_hex_dump(p, head->hash,
                                      NGX_HTTP_CDM_STOP_HASH_LEN);

    ngx_http_cdm_stop_put_before(p, ",\"prev\":\"");
    p = ngx_http_cdm_stop_digits_before(p, head->seq + 1);
    ngx_http_cdm_stop_put_before(p, "\",\"seq\":");

    p -= NGX_HTTP_CDM_STOP_CHAIN_ID_LEN;
    ngx_memcpy(p, chain->sh->id, NGX_HTTP_CDM_STOP_CHAIN_ID_LEN);

    ngx_http_cdm_stop_put_before(p, "{\"v\":1,\"chain\":\"");

    return p;
}


/*
 * One write(2) for one record.  What it took of it, when that was not all, is
 * kept for whoever writes next.
 */

static ngx_int_t
ngx_http_cdm_stop_chain_write(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_head_t *head, u_char *p, size_t len, ngx_log_t *log)
{
    off_t                     size;
    ssize_t                   n;
    ngx_http_cdm_stop_head_t  torn;

    n = chain->syslog ? ngx_http_cdm_stop_syslog_send(chain->syslog, p, len)
                      : ngx_write_fd(chain->file->fd, p, len);

    size = head->size;

    if (n > 0 && chain->is_file) {

        /* where this very write ended, though others may append as well */

        head->size = lseek(chain->file->fd, 0, SEEK_CUR);
    }

    if (n == (ssize_t) len) {

        if (chain->looked != NGX_INVALID_FILE
            && head->size - size != (off_t) len)
        {
            return ngx_http_cdm_stop_chain_between(chain, head, p, len, log);
        }

        return NGX_OK;
    }

    if (n == -1) {
        return NGX_ERROR;
    }

    if (n > 0) {
        torn = *ngx_http_cdm_stop_chain_head(chain);

        torn.size = head->size;
        torn.op = NGX_HTTP_CDM_STOP_OPEN_KEEP;
        torn.torn += n - (*p == LF ? 1 : 0);
        torn.unended = (n > 1 || *p != LF);

        ngx_http_cdm_stop_chain_advance(chain, &torn);
    }

    ngx_set_errno(0);

    return NGX_ERROR;
}


/*
 * Somebody else appended to the file, or cut it, between the look and the
 * write.  If there is no line feed before the record, it is part of a torn
 * line, and to be written again.
 */

static ngx_int_t
ngx_http_cdm_stop_chain_between(ngx_http_cdm_stop_chain_t *chain,
    ngx_http_cdm_stop_head_t *head, u_char *p, size_t len, ngx_log_t *log)
{
    size_t                    piece;
    ngx_file_info_t           fi;
    ngx_http_cdm_stop_head_t  torn;

    chain->looked = NGX_INVALID_FILE;

    if (*p == LF) {
        return NGX_OK;
    }

    if (ngx_fd_info(chain->file->fd, &fi) == NGX_FILE_ERROR) {
        return NGX_ERROR;
    }

    fi.st_size = head->size - len;

    if (ngx_http_cdm_stop_tail_piece(chain, &fi, &piece, log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (piece == 0) {
        return NGX_OK;
    }

    torn = *ngx_http_cdm_stop_chain_head(chain);

    torn.size = head->size;
    torn.op = NGX_HTTP_CDM_STOP_OPEN_KEEP;
    torn.torn += piece + len - 1;
    torn.unended = 0;

    ngx_http_cdm_stop_chain_advance(chain, &torn);

    return NGX_AGAIN;
}
