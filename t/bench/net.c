/*
 * Connections and HTTP/1.1 heads, as far as a benchmark needs them.
 */


#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "net.h"


static struct sockaddr_in bench_address(int port);
static void bench_ready(bench_conn_t *c, int fd);


void
bench_fail(const char *what, const char *more)
{
    fprintf(stderr, "%s: %s\n", what, more ? more : strerror(errno));
    exit(1);
}


uint64_t
bench_now(void)
{
    struct timespec  ts;

    if (clock_gettime(CLOCK_MONOTONIC, &ts) == -1) {
        bench_fail("clock_gettime", NULL);
    }

    return (uint64_t) ts.tv_sec * 1000000000 + (uint64_t) ts.tv_nsec;
}


char *
bench_file(const char *name)
{
    FILE    *file;
    char    *text;
    size_t   size;

    if (name == NULL) {
        return NULL;
    }

    file = fopen(name, "r");
    text = calloc(1, BENCH_BUFFER);

    if (file == NULL || text == NULL) {
        bench_fail(name, NULL);
    }

    size = fread(text, 1, BENCH_BUFFER - 1, file);
    fclose(file);

    if (size > 0 && text[size - 1] == '\n') {
        text[size - 1] = '\0';
    }

    return text;
}


static struct sockaddr_in
bench_address(int port)
{
    struct sockaddr_in  sin;

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sin.sin_port = htons((uint16_t) port);

    return sin;
}


int
bench_listen(int port)
{
    int                 fd, on = 1;
    struct sockaddr_in  sin = bench_address(port);

    fd = socket(AF_INET, SOCK_STREAM|SOCK_NONBLOCK, 0);

    if (fd == -1
        || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == -1
        || bind(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1
        || listen(fd, 4096) == -1)
    {
        bench_fail("listen", NULL);
    }

    return fd;
}


void
bench_connect(bench_conn_t *c, int port, SSL_CTX *ctx)
{
    int                 fd;
    struct sockaddr_in  sin = bench_address(port);

    fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd == -1 || connect(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1) {
        bench_fail("connect", NULL);
    }

    bench_ready(c, fd);

    if (ctx != NULL) {
        c->ssl = SSL_new(ctx);

        if (c->ssl == NULL || !SSL_set_fd(c->ssl, fd)
            || !SSL_set_tlsext_host_name(c->ssl, "localhost")
            || SSL_connect(c->ssl) != 1)
        {
            bench_fail("TLS", "no handshake with the gateway");
        }
    }

    if (fcntl(fd, F_SETFL, O_NONBLOCK) == -1) {
        bench_fail("fcntl", NULL);
    }
}


int
bench_accept(bench_conn_t *c, int listener, SSL_CTX *ctx)
{
    int  fd;

    fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);

    if (fd == -1) {
        if (errno != EAGAIN) {
            bench_fail("accept", NULL);
        }

        return 0;
    }

    bench_ready(c, fd);

    if (ctx != NULL) {
        c->ssl = SSL_new(ctx);

        if (c->ssl == NULL || !SSL_set_fd(c->ssl, fd)) {
            bench_fail("TLS", "no memory");
        }

        SSL_set_accept_state(c->ssl);
    }

    return 1;
}


static void
bench_ready(bench_conn_t *c, int fd)
{
    int  on = 1;

    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == -1) {
        bench_fail("TCP_NODELAY", NULL);
    }

    memset(c, 0, offsetof(bench_conn_t, buffer));
    c->fd = fd;
}


int
bench_read(bench_conn_t *c)
{
    int      n, error;
    size_t   room;

    room = BENCH_BUFFER - c->used;

    if (room == 0) {
        bench_fail("read", "a message larger than the buffer");
    }

    if (c->ssl == NULL) {
        n = recv(c->fd, c->buffer + c->used, room, 0);

        if (n == -1) {
            return errno == EAGAIN ? BENCH_AGAIN : 0;
        }

    } else {
        n = SSL_read(c->ssl, c->buffer + c->used, (int) room);

        if (n <= 0) {
            error = SSL_get_error(c->ssl, n);

            return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE
                   ? BENCH_AGAIN : 0;
        }
    }

    c->used += (size_t) n;

    return n;
}


void
bench_write(bench_conn_t *c, const char *data, size_t size)
{
    ssize_t  n;

    n = c->ssl ? SSL_write(c->ssl, data, (int) size)
               : send(c->fd, data, size, MSG_NOSIGNAL);

    if (n != (ssize_t) size) {
        bench_fail("write", "the peer takes no whole message");
    }
}


void
bench_close(bench_conn_t *c)
{
    if (c->ssl != NULL) {
        SSL_free(c->ssl);
    }

    close(c->fd);
}


size_t
bench_head(bench_conn_t *c)
{
    char  *end;

    end = memmem(c->buffer, c->used, "\r\n\r\n", 4);

    return end ? (size_t) (end - c->buffer) + 4 : 0;
}


const char *
bench_header(bench_conn_t *c, size_t head, const char *name, size_t *size)
{
    char    *line, *end, *last;
    size_t   len = strlen(name);

    last = c->buffer + head;

    for (line = c->buffer; line < last; line = end + 1) {
        end = memchr(line, '\n', (size_t) (last - line));

        if (end == NULL) {
            break;
        }

        if ((size_t) (end - line) > len + 2 && line[len] == ':'
            && strncasecmp(line, name, len) == 0)
        {
            line += len + 1;
            line += *line == ' ';
            *size = (size_t) (end - 1 - line);

            return line;
        }
    }

    return NULL;
}


size_t
bench_body(bench_conn_t *c, size_t head)
{
    size_t       size;
    const char  *value;

    value = bench_header(c, head, "content-length", &size);

    if (value == NULL) {
        bench_fail("message", "no Content-Length");
    }

    return (size_t) strtoul(value, NULL, 10);
}


void
bench_take(bench_conn_t *c, size_t size)
{
    c->used -= size;
    memmove(c->buffer, c->buffer + size, c->used);
}
