/*
 * CDM for the benchmark: answers each stop at once with 200 and "{}" if it has
 * the token of TOKENFILE, and with 403 otherwise.
 *
 *     serve PORT TOKENFILE [CERTIFICATE KEY]
 *
 * USR1 holds the answers back, USR2 gives them.  TERM ends it; it then says
 * how many stops it answered, and how many of these with 403.
 *
 * A server of a hundred lines and not nginx: where client and CDM share a
 * processor, they must take less of it than any gateway takes of its own.
 */


#define _GNU_SOURCE

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "net.h"


static void bench_new(int epoll, int listener, SSL_CTX *ctx);
static void bench_serve(bench_conn_t *c);
static void bench_answer(bench_conn_t *c);
static void bench_give(void);
static int bench_signal(int fd);
static int bench_signals(void);
static SSL_CTX *bench_tls(const char *cert, const char *key);


static const char  yes[] = "HTTP/1.1 200 OK\r\n"
                           "Content-Type: application/json\r\n"
                           "Content-Length: 2\r\n\r\n{}";
static const char  no[] = "HTTP/1.1 403 Forbidden\r\n"
                          "Content-Type: application/json\r\n"
                          "Content-Length: 2\r\n\r\n{}";

static char           *token;
static size_t          token_size;
static unsigned long   answers, refusals;

static int             hold;
static size_t          nheld;
static bench_conn_t   *held[65536];


int
main(int argc, char **argv)
{
    int                  i, n, epoll, listener, signals;
    SSL_CTX             *ctx;
    struct epoll_event   events[BENCH_EVENTS], event;

    if (argc < 3) {
        bench_fail("serve", "PORT TOKENFILE [CERTIFICATE KEY]");
    }

    token = bench_file(argv[2]);
    token_size = strlen(token);
    ctx = argc > 4 ? bench_tls(argv[3], argv[4]) : NULL;

    listener = bench_listen(atoi(argv[1]));
    signals = bench_signals();
    epoll = epoll_create1(0);

    memset(&event, 0, sizeof(event));
    event.events = EPOLLIN;
    event.data.ptr = &listener;

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) == -1) {
        bench_fail("epoll_ctl", NULL);
    }

    event.data.ptr = &signals;

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, signals, &event) == -1) {
        bench_fail("epoll_ctl", NULL);
    }

    for ( ;; ) {
        n = epoll_wait(epoll, events, BENCH_EVENTS, -1);

        for (i = 0; i < n; i++) {
            if (events[i].data.ptr == &listener) {
                bench_new(epoll, listener, ctx);

            } else if (events[i].data.ptr == &signals) {
                if (bench_signal(signals)) {
                    printf("%lu %lu\n", answers, refusals);
                    return 0;
                }

            } else {
                bench_serve(events[i].data.ptr);
            }
        }
    }
}


static void
bench_new(int epoll, int listener, SSL_CTX *ctx)
{
    bench_conn_t        *c;
    struct epoll_event   event;

    c = malloc(sizeof(*c));

    if (c == NULL) {
        bench_fail("malloc", NULL);
    }

    if (!bench_accept(c, listener, ctx)) {
        free(c);
        return;
    }

    memset(&event, 0, sizeof(event));
    event.events = EPOLLIN;
    event.data.ptr = c;

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) == -1) {
        bench_fail("epoll_ctl", NULL);
    }
}


static void
bench_serve(bench_conn_t *c)
{
    int     n;
    size_t  head;

    do {
        n = bench_read(c);

        if (n == 0) {
            if (c->held) {
                bench_fail("serve", "the gateway left before the answer");
            }

            bench_close(c);
            free(c);
            return;
        }

        head = bench_head(c);

        if (head > 0 && !c->held) {
            bench_answer(c);
        }

        /* TLS may have read more than it gave */

    } while (n > 0 && c->ssl != NULL && SSL_pending(c->ssl) > 0);
}


static void
bench_answer(bench_conn_t *c)
{
    size_t       head, size;
    const char  *value;

    if (hold) {
        if (nheld == sizeof(held) / sizeof(held[0])) {
            bench_fail("serve", "too many held");
        }

        c->held = 1;
        held[nheld++] = c;
        return;
    }

    head = bench_head(c);

    if (bench_body(c, head) != 0) {
        bench_fail("serve", "a stop with a body");
    }

    value = bench_header(c, head, "x-auth-token", &size);
    answers++;

    if (value && size == token_size && memcmp(value, token, size) == 0) {
        bench_write(c, yes, sizeof(yes) - 1);

    } else {
        refusals++;
        bench_write(c, no, sizeof(no) - 1);
    }

    bench_take(c, head);
}


static void
bench_give(void)
{
    size_t  i;

    hold = 0;

    for (i = 0; i < nheld; i++) {
        held[i]->held = 0;
        bench_answer(held[i]);
    }

    nheld = 0;
}


static int
bench_signal(int fd)
{
    struct signalfd_siginfo  info;

    if (read(fd, &info, sizeof(info)) != sizeof(info)) {
        return 0;
    }

    if (info.ssi_signo == SIGUSR1) {
        hold = 1;
        return 0;
    }

    if (info.ssi_signo == SIGUSR2) {
        bench_give();
        return 0;
    }

    return 1;
}


static int
bench_signals(void)
{
    int       fd;
    sigset_t  set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTERM);

    fd = signalfd(-1, &set, SFD_NONBLOCK);

    if (fd == -1 || sigprocmask(SIG_BLOCK, &set, NULL) == -1) {
        bench_fail("signalfd", NULL);
    }

    return fd;
}


static SSL_CTX *
bench_tls(const char *cert, const char *key)
{
    SSL_CTX  *ctx;

    ctx = SSL_CTX_new(TLS_server_method());

    if (ctx == NULL
        || SSL_CTX_use_certificate_chain_file(ctx, cert) != 1
        || SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
    {
        bench_fail("TLS", cert);
    }

    return ctx;
}
