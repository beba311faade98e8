/*
 * Connections of the benchmark's client (load.c) and of its CDM (serve.c),
 * with and without TLS.
 */


#ifndef BENCH_NET_H
#define BENCH_NET_H


#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>


#define BENCH_BUFFER   32768
#define BENCH_EVENTS   512

#define BENCH_AGAIN    -1


typedef struct {
    int        fd;
    int        held;
    SSL       *ssl;
    size_t     used;
    uint64_t   due;
    char       buffer[BENCH_BUFFER];
} bench_conn_t;


/*
 * All of them end the process with a message where nothing can be done, since
 * a figure that was taken in spite of a failure is worth nothing.
 */

void bench_fail(const char *what, const char *more);

/* nanoseconds of a clock that no one sets */
uint64_t bench_now(void);

/* the content of a file without a final line feed; NULL for no file */
char *bench_file(const char *name);

/* a listening socket on 127.0.0.1, not blocking */
int bench_listen(int port);

/* connects to 127.0.0.1, with TLS if there is a context; then not blocking */
void bench_connect(bench_conn_t *c, int port, SSL_CTX *ctx);

/* takes a connection; 0 if there is none now */
int bench_accept(bench_conn_t *c, int listener, SSL_CTX *ctx);

/*
 * Reads what there is behind what the buffer has: the number of bytes, 0 for
 * the end, BENCH_AGAIN.
 */
int bench_read(bench_conn_t *c);

/* one request at a time is on its way, so it fits into the socket's buffer */
void bench_write(bench_conn_t *c, const char *data, size_t size);

void bench_close(bench_conn_t *c);

/* the head that the buffer begins with, with its empty line; 0 if not whole */
size_t bench_head(bench_conn_t *c);

/* the value of a header of that head, its length in *size; NULL if missing */
const char *bench_header(bench_conn_t *c, size_t head, const char *name,
    size_t *size);

/* of a Content-Length; one that is missing is a failure */
size_t bench_body(bench_conn_t *c, size_t head);

/* forgets the first bytes of the buffer */
void bench_take(bench_conn_t *c, size_t size);


#endif /* BENCH_NET_H */
