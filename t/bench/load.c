/*
 * Clients for the benchmark, in one thread:
 *
 *     load [-T] [-k TOKENFILE] -p PORT -c CONNECTIONS -u TARGET
 *          { -n REQUESTS | -s SECONDS [-r RATE] | -w }
 *
 * -n and -s without -r: a closed loop, each connection sends as soon as it has
 * its answer.
 *
 * -s with -r: an open loop.  Request i is due at start + i / RATE whatever
 * became of those before it, and its latency counts from there, not from when
 * a connection was free for it: a gateway that stalls for a second delays all
 * that were due in this second, and all of these are in the percentiles.
 * ("Coordinated omission" is what a generator does that waits for an answer
 * before it looks at the clock again.)
 *
 * -w: each connection has one answer and then waits for the end of stdin.
 *
 * It prints one line of JSON; latencies are microseconds.
 */


#define _GNU_SOURCE

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "net.h"


typedef struct {
    int             port;
    int             wait;
    int             connections;
    double          rate;
    double          seconds;
    size_t          requests;
    SSL_CTX        *ctx;

    int             epoll;
    bench_conn_t   *conns;
    bench_conn_t  **idle;
    int             nidle;

    uint64_t        start;
    uint64_t        end;
    size_t          total;
    size_t          sent;
    size_t          done;
    size_t          good;
    uint32_t       *latency;

    size_t          size;
    char            request[BENCH_BUFFER];
} bench_load_t;


static void bench_options(bench_load_t *l, int argc, char **argv);
static void bench_open(bench_load_t *l);
static void bench_run(bench_load_t *l);
static uint64_t bench_due(bench_load_t *l, size_t i);
static void bench_send_due(bench_load_t *l, uint64_t now);
static void bench_pause(bench_load_t *l, struct timespec *ts);
static void bench_answered(bench_load_t *l, bench_conn_t *c);
static void bench_report(bench_load_t *l);
static double bench_percentile(bench_load_t *l, double part);
static int bench_compare(const void *one, const void *two);


static bench_load_t  load;


int
main(int argc, char **argv)
{
    char  c;

    bench_options(&load, argc, argv);

    /* whatever happens, this process ends */
    alarm((unsigned) load.seconds + 120);

    /* the kernel may round a pause up by this many nanoseconds */
    prctl(PR_SET_TIMERSLACK, 1);

    bench_open(&load);
    bench_run(&load);
    bench_report(&load);

    if (load.wait) {
        fflush(stdout);
        while (read(0, &c, 1) > 0) { /* void */ }
    }

    return 0;
}


static void
bench_options(bench_load_t *l, int argc, char **argv)
{
    int          opt;
    char        *token = NULL;
    const char  *target = "/";

    while ((opt = getopt(argc, argv, "Tk:p:c:u:n:s:r:w")) != -1) {
        switch (opt) {
        case 'T':
            l->ctx = SSL_CTX_new(TLS_client_method());
            break;
        case 'k':
            token = bench_file(optarg);
            break;
        case 'p':
            l->port = atoi(optarg);
            break;
        case 'c':
            l->connections = atoi(optarg);
            break;
        case 'u':
            target = optarg;
            break;
        case 'n':
            l->requests = strtoul(optarg, NULL, 10);
            break;
        case 's':
            l->seconds = atof(optarg);
            break;
        case 'r':
            l->rate = atof(optarg);
            break;
        case 'w':
            l->wait = 1;
            break;
        default:
            bench_fail("load", "wrong option, see the head of load.c");
        }
    }

    if (l->port == 0 || l->connections < 1) {
        bench_fail("load", "-p and -c are needed, see the head of load.c");
    }

    if (l->wait) {
        l->requests = (size_t) l->connections;
    }

    l->total = l->rate > 0 ? (size_t) (l->rate * l->seconds)
               : l->requests ? l->requests : SIZE_MAX;

    l->size = (size_t) snprintf(l->request, sizeof(l->request),
                                "PUT %s HTTP/1.1\r\n"
                                "Host: localhost\r\n"
                                "User-Agent: airflow/2.7\r\n"
                                "Accept: application/json\r\n"
                                "%s%s%s"
                                "Content-Length: 0\r\n\r\n",
                                target, token ? "X-Auth-Token: " : "",
                                token ? token : "", token ? "\r\n" : "");

    free(token);

    if (l->size >= sizeof(l->request)) {
        bench_fail("load", "the request is too long");
    }
}


static void
bench_open(bench_load_t *l)
{
    int                 i;
    struct epoll_event  event;

    l->conns = calloc((size_t) l->connections, sizeof(*l->conns));
    l->idle = calloc((size_t) l->connections, sizeof(*l->idle));
    l->epoll = epoll_create1(0);

    if (l->rate > 0) {
        l->latency = calloc(l->total, sizeof(*l->latency));
    }

    if (l->conns == NULL || l->idle == NULL || l->epoll == -1
        || (l->rate > 0 && l->latency == NULL))
    {
        bench_fail("load", "no memory");
    }

    memset(&event, 0, sizeof(event));
    event.events = EPOLLIN;

    for (i = 0; i < l->connections; i++) {
        bench_connect(&l->conns[i], l->port, l->ctx);

        event.data.ptr = &l->conns[i];
        l->idle[l->nidle++] = &l->conns[i];

        if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->conns[i].fd, &event) == -1) {
            bench_fail("epoll_ctl", NULL);
        }
    }
}


static void
bench_run(bench_load_t *l)
{
    int                 i, n;
    struct timespec     ts;
    struct epoll_event  events[BENCH_EVENTS];

    l->start = bench_now();
    l->end = l->start + (uint64_t) (l->seconds * 1e9);

    for ( ;; ) {
        bench_send_due(l, bench_now());

        if (l->nidle == l->connections && l->sent == l->total) {
            break;
        }

        bench_pause(l, &ts);
        n = epoll_pwait2(l->epoll, events, BENCH_EVENTS, &ts, NULL);

        if (n == -1) {
            bench_fail("epoll_pwait2", NULL);
        }

        for (i = 0; i < n; i++) {
            bench_answered(l, events[i].data.ptr);
        }
    }

    l->end = bench_now();
}


/* when request number i is due, in nanoseconds */

static uint64_t
bench_due(bench_load_t *l, size_t i)
{
    return l->start + (uint64_t) ((double) i * 1e9 / l->rate);
}


static void
bench_send_due(bench_load_t *l, uint64_t now)
{
    bench_conn_t  *c;

    /* a closed loop for a time ends with those that are on their way */

    if (l->total == SIZE_MAX && now >= l->end) {
        l->total = l->sent;
    }

    while (l->nidle > 0 && l->sent < l->total) {

        if (l->rate > 0 && bench_due(l, l->sent) > now) {
            break;
        }

        c = l->idle[--l->nidle];
        c->due = l->rate > 0 ? bench_due(l, l->sent) : now;
        l->sent++;

        bench_write(c, l->request, l->size);
    }
}


/* until the next request is due, if a connection is free for it */

static void
bench_pause(bench_load_t *l, struct timespec *ts)
{
    uint64_t  now, due;

    ts->tv_sec = 1;
    ts->tv_nsec = 0;

    if (l->rate > 0 && l->nidle > 0 && l->sent < l->total) {
        now = bench_now();
        due = bench_due(l, l->sent);
        due = due > now ? due - now : 0;

        ts->tv_sec = (time_t) (due / 1000000000);
        ts->tv_nsec = (long) (due % 1000000000);
    }
}


static void
bench_answered(bench_load_t *l, bench_conn_t *c)
{
    int     n;
    size_t  head, whole;

    do {
        n = bench_read(c);

        if (n == 0) {
            bench_fail("load", "the gateway closed a connection");
        }

        head = bench_head(c);

    } while (n > 0 && c->ssl != NULL && SSL_pending(c->ssl) > 0);

    if (head == 0) {
        return;
    }

    whole = head + bench_body(c, head);

    if (c->used < whole) {
        return;
    }

    if (l->rate > 0) {
        l->latency[l->done] = (uint32_t) ((bench_now() - c->due) / 10);
    }

    l->done++;
    l->good += memcmp(c->buffer, "HTTP/1.1 200 ", 13) == 0;
    l->idle[l->nidle++] = c;

    bench_take(c, whole);
}


static void
bench_report(bench_load_t *l)
{
    double  seconds;

    seconds = (double) (l->end - l->start) / 1e9;

    printf("{\"requests\":%zu,\"good\":%zu,\"seconds\":%.6f", l->done, l->good,
           seconds);

    if (l->rate > 0) {
        qsort(l->latency, l->done, sizeof(*l->latency), bench_compare);

        printf(",\"p50\":%.2f,\"p99\":%.2f,\"p999\":%.2f,\"max\":%.2f",
               bench_percentile(l, 0.5), bench_percentile(l, 0.99),
               bench_percentile(l, 0.999), bench_percentile(l, 1));
    }

    printf("}\n");
}


/* the least value that at least this part of the values does not exceed */

static double
bench_percentile(bench_load_t *l, double part)
{
    size_t  i;

    i = (size_t) (part * (double) l->done + 0.999999);

    return l->latency[i > 0 ? i - 1 : 0] / 100.0;
}


static int
bench_compare(const void *one, const void *two)
{
    uint32_t  a = *(const uint32_t *) one, b = *(const uint32_t *) two;

    return a < b ? -1 : a > b;
}
