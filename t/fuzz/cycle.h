
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _CYCLE_H_INCLUDED_
#define _CYCLE_H_INCLUDED_


/*
 * A configuration in a fuzz target, read by nginx's own parser with all of its
 * modules, as by "nginx -t" up to the moment when it would open files and
 * sockets.  Names are looked up in no DNS.  Relative names are those of files
 * which are made here.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
#include <netdb.h>
#include <openssl/evp.h>
#include <openssl/pem.h>


#define CYCLE_SAID  (64 * 1024)


typedef struct {
    ngx_cycle_t  *cycle;
    ngx_conf_t    conf;
    ngx_log_t     log;
    ngx_int_t     rc;
    ngx_uint_t    worst;        /* level of the worst message */
    size_t        len;
    u_char        said[CYCLE_SAID];
} cycle_t;


static void cycle_init(void);
static void cycle_read(cycle_t *c, const void *text, size_t len);
static ngx_inline void cycle_free(cycle_t *c);
static ngx_inline ngx_uint_t cycle_has(cycle_t *c, const char *text);
static void *cycle_main_conf(cycle_t *c, ngx_module_t *module);

static void cycle_file(const char *name, mode_t mode, const void *text,
    size_t len);
static void cycle_key_file(void);
static void cycle_cleanup(void);
static u_char *cycle_say(ngx_log_t *log, u_char *buf, size_t len);
static void cycle_writer(ngx_log_t *log, ngx_uint_t level, u_char *buf,
    size_t len);
static ngx_int_t cycle_create(cycle_t *c);
static ngx_int_t cycle_parse(cycle_t *c);
static void require(ngx_uint_t holds, const char *what);


static char         cycle_dir[] = "/tmp/cdm-stop-fuzz-XXXXXX";
static char         cycle_path[64];
static ngx_cycle_t  cycle_first;
static ngx_log_t    cycle_log;

static const char  *cycle_files[] = {
    "secret", "other", "open", "empty", "blank", "large", "latin", "key.pem",
    "rules", "nginx.conf", NULL
};


/* what main() does before it reads the configuration */

static void
cycle_init(void)
{
    static u_char  large[65537];

    require(mkdtemp(cycle_dir) != NULL, "a directory");
    require(atexit(cycle_cleanup) == 0, "its end");

    memset(large, 'x', sizeof(large));

    cycle_file("secret", 0600, "pa55word\n", 9);
    cycle_file("other", 0600, "0123456789abcdef0123456789abcdef\r\n", 34);
    cycle_file("open", 0644, "pa55word\n", 9);
    cycle_file("empty", 0600, "", 0);
    cycle_file("blank", 0600, "\r\n", 2);
    cycle_file("large", 0600, large, sizeof(large));
    cycle_file("latin", 0600, "p\xe4ssword", 8);
    cycle_file("rules", 0600, "allow file user=of_a_file;", 26);
    cycle_key_file();

    snprintf(cycle_path, sizeof(cycle_path), "%s/nginx.conf", cycle_dir);

    /* a name of a file that is nginx's own input must not wait for it */

    require(freopen("/dev/null", "r", stdin) != NULL, "no input");

    ngx_use_stderr = 0;
    ngx_pid = ngx_getpid();
    ngx_test_config = 1;

    /* ngx_os_init() would move the arguments, which are libFuzzer's */

    ngx_pagesize = getpagesize();
    ngx_pagesize_shift = 12;
    ngx_cacheline_size = NGX_CPU_CACHE_LINE;
    ngx_ncpu = 1;
    ngx_max_sockets = -1;

    cycle_first.log = &cycle_log;
    cycle_first.pool = ngx_create_pool(1024, &cycle_log);
    ngx_cycle = &cycle_first;

    ngx_time_init();
    ngx_regex_init();

    require(cycle_first.pool != NULL
            && ngx_strerror_init() == NGX_OK
            && ngx_ssl_init(&cycle_log) == NGX_OK
            && ngx_crc32_table_init() == NGX_OK
            && ngx_preinit_modules() == NGX_OK, "nginx begins");

    ngx_slab_sizes_init();
}


static void
cycle_cleanup(void)
{
    char         path[128];
    ngx_uint_t   i;

    for (i = 0; cycle_files[i]; i++) {
        snprintf(path, sizeof(path), "%s/%s", cycle_dir, cycle_files[i]);
        (void) unlink(path);
    }

    (void) rmdir(cycle_dir);
}


static void
cycle_file(const char *name, mode_t mode, const void *text, size_t len)
{
    int   fd;
    char  path[128];

    snprintf(path, sizeof(path), "%s/%s", cycle_dir, name);

    fd = open(path, O_WRONLY|O_CREAT|O_TRUNC, 0600);

    require(fd != -1
            && write(fd, text, len) == (ssize_t) len
            && fchmod(fd, mode) == 0
            && close(fd) == 0, "a file");
}


static void
cycle_key_file(void)
{
    BIO       *bio;
    char      *pem;
    long       len;
    EVP_PKEY  *key;

    key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    bio = BIO_new(BIO_s_mem());

    require(key && bio
            && PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL),
            "a key");

    len = BIO_get_mem_data(bio, &pem);
    cycle_file("key.pem", 0600, pem, len);

    BIO_free(bio);
    EVP_PKEY_free(key);
}


static void
cycle_read(cycle_t *c, const void *text, size_t len)
{
    cycle_file("nginx.conf", 0600, text, len);

    ngx_memzero(c, offsetof(cycle_t, said));

    c->worst = NGX_LOG_DEBUG;
    c->log.log_level = NGX_LOG_INFO;
    c->log.handler = cycle_say;
    c->log.writer = cycle_writer;
    c->log.wdata = c;

    c->rc = cycle_create(c);
    require(c->rc == NGX_OK, "a cycle");

    c->rc = cycle_parse(c);
}


static u_char *
cycle_say(ngx_log_t *log, u_char *buf, size_t len)
{
    return buf;
}


static void
cycle_writer(ngx_log_t *log, ngx_uint_t level, u_char *buf, size_t len)
{
    cycle_t  *c;

    c = log->wdata;

    c->worst = ngx_min(c->worst, level);

    len = ngx_min(len, CYCLE_SAID - c->len);
    ngx_memcpy(c->said + c->len, buf, len);
    c->len += len;
}


/* as ngx_init_cycle() */

static ngx_int_t
cycle_create(cycle_t *c)
{
    ngx_uint_t          i;
    ngx_pool_t         *pool;
    ngx_cycle_t        *cycle;
    ngx_core_module_t  *module;

    pool = ngx_create_pool(NGX_CYCLE_POOL_SIZE, &c->log);
    cycle = ngx_pcalloc(pool, sizeof(ngx_cycle_t));

    cycle->pool = pool;
    cycle->log = &c->log;
    cycle->old_cycle = &cycle_first;

    ngx_str_set(&cycle->hostname, "gateway");
    ngx_str_set(&cycle->error_log, "stderr");

    cycle->conf_prefix.data = ngx_pnalloc(pool, sizeof(cycle_dir) + 1);
    cycle->conf_prefix.len = ngx_sprintf(cycle->conf_prefix.data, "%s/%Z",
                                         cycle_dir)
                             - cycle->conf_prefix.data - 1;
    cycle->prefix = cycle->conf_prefix;
    cycle->conf_file.data = (u_char *) cycle_path;
    cycle->conf_file.len = ngx_strlen(cycle_path);

    if (ngx_array_init(&cycle->paths, pool, 10, sizeof(ngx_path_t *))
        != NGX_OK
        || ngx_array_init(&cycle->config_dump, pool, 1,
                          sizeof(ngx_conf_dump_t))
           != NGX_OK
        || ngx_list_init(&cycle->open_files, pool, 20,
                         sizeof(ngx_open_file_t))
           != NGX_OK
        || ngx_list_init(&cycle->shared_memory, pool, 1,
                         sizeof(ngx_shm_zone_t))
           != NGX_OK
        || ngx_array_init(&cycle->listening, pool, 10,
                          sizeof(ngx_listening_t))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_rbtree_init(&cycle->config_dump_rbtree, &cycle->config_dump_sentinel,
                    ngx_str_rbtree_insert_value);
    ngx_queue_init(&cycle->reusable_connections_queue);

    cycle->conf_ctx = ngx_pcalloc(pool, ngx_max_module * sizeof(void *));

    if (ngx_cycle_modules(cycle) != NGX_OK) {
        return NGX_ERROR;
    }

    for (i = 0; cycle->modules[i]; i++) {

        if (cycle->modules[i]->type != NGX_CORE_MODULE) {
            continue;
        }

        module = cycle->modules[i]->ctx;

        if (module->create_conf) {
            cycle->conf_ctx[cycle->modules[i]->index]
                                                 = module->create_conf(cycle);
        }
    }

    c->cycle = cycle;

    return NGX_OK;
}


static ngx_int_t
cycle_parse(cycle_t *c)
{
    ngx_uint_t          i;
    ngx_cycle_t        *cycle;
    ngx_core_module_t  *module;

    cycle = c->cycle;

    c->conf.args = ngx_array_create(cycle->pool, 10, sizeof(ngx_str_t));
    c->conf.temp_pool = ngx_create_pool(NGX_CYCLE_POOL_SIZE, &c->log);
    c->conf.ctx = cycle->conf_ctx;
    c->conf.cycle = cycle;
    c->conf.pool = cycle->pool;
    c->conf.log = &c->log;
    c->conf.module_type = NGX_CORE_MODULE;
    c->conf.cmd_type = NGX_MAIN_CONF;

    if (ngx_conf_parse(&c->conf, &cycle->conf_file) != NGX_CONF_OK) {
        return NGX_ERROR;
    }

    for (i = 0; cycle->modules[i]; i++) {

        if (cycle->modules[i]->type != NGX_CORE_MODULE) {
            continue;
        }

        module = cycle->modules[i]->ctx;

        if (module->init_conf
            && module->init_conf(cycle,
                                 cycle->conf_ctx[cycle->modules[i]->index])
               == NGX_CONF_ERROR)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_inline void
cycle_free(cycle_t *c)
{
    ngx_destroy_pool(c->conf.temp_pool);
    ngx_destroy_pool(c->cycle->pool);
}


static ngx_inline ngx_uint_t
cycle_has(cycle_t *c, const char *text)
{
    return memmem(c->said, c->len, text, strlen(text)) != NULL;
}


static void *
cycle_main_conf(cycle_t *c, ngx_module_t *module)
{
    ngx_http_conf_ctx_t  *ctx;

    ctx = (ngx_http_conf_ctx_t *) ngx_get_conf(c->cycle->conf_ctx,
                                               ngx_http_module);

    return ctx ? ctx->main_conf[module->ctx_index] : NULL;
}


/* instead of those of libc: each name has an address, but for some */

int
getaddrinfo(const char *node, const char *service,
    const struct addrinfo *hints, struct addrinfo **res)
{
    struct addrinfo     *ai;
    struct sockaddr_in  *sin;

    if (node == NULL || strncmp(node, "nowhere", 7) == 0) {
        return EAI_NONAME;
    }

    ai = calloc(1, sizeof(struct addrinfo) + sizeof(struct sockaddr_in));
    require(ai != NULL, "memory");

    sin = (struct sockaddr_in *) (ai + 1);
    sin->sin_family = AF_INET;
    sin->sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    ai->ai_family = AF_INET;
    ai->ai_socktype = SOCK_STREAM;
    ai->ai_addr = (struct sockaddr *) sin;
    ai->ai_addrlen = sizeof(struct sockaddr_in);

    *res = ai;

    return 0;
}


void
freeaddrinfo(struct addrinfo *ai)
{
    free(ai);
}


static void
require(ngx_uint_t holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}


#endif /* _CYCLE_H_INCLUDED_ */
