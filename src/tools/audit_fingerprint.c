
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* The command "fingerprint": which records a token is in */


#include <errno.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include <openssl/crypto.h>
#include "audit.h"


#define CDM_STOP_AUDIT_TOKEN_MAX        32768
#define CDM_STOP_AUDIT_FINGERPRINT_LEN  32
#define CDM_STOP_AUDIT_LABEL            "cdm_stop fingerprint v1"


typedef char  cdm_stop_audit_print_t[2 * CDM_STOP_AUDIT_HASH_LEN + 1];


static ssize_t cdm_stop_audit_token(unsigned char *token, size_t size);
static ssize_t cdm_stop_audit_ask(unsigned char *token, size_t size);
static void cdm_stop_audit_interrupted(int signo);
static int cdm_stop_audit_fingerprints(cdm_stop_audit_opts_t *opts,
    cdm_stop_audit_print_t *prints);
static int cdm_stop_audit_fingerprint_of(const char *name,
    const unsigned char *token, size_t size, char *fingerprint);
static int cdm_stop_audit_hmac(const unsigned char *key, size_t klen,
    const unsigned char *data, size_t len, unsigned char *out);
static int cdm_stop_audit_look(cdm_stop_audit_opts_t *opts, const char *name,
    cdm_stop_audit_print_t *prints, int64_t *found);
static int cdm_stop_audit_among(cdm_stop_audit_opts_t *opts,
    cdm_stop_audit_print_t *prints, const cdm_stop_audit_str_t *s);
static void cdm_stop_audit_piece(const char *before,
    const cdm_stop_audit_str_t *s);


/* for the handler of signals */

static struct termios  cdm_stop_audit_terminal_was;


int
cdm_stop_audit_fingerprint(cdm_stop_audit_opts_t *opts)
{
    int                     i;
    int64_t                 found;
    cdm_stop_audit_print_t  prints[CDM_STOP_AUDIT_GIVEN_MAX];

    if (opts->nkeys == 0) {
        cdm_stop_audit_error("--key is missing: without \"cdm_stop_audit_key\" "
                             "fingerprints have a random key that only nginx "
                             "knows, and nobody can tell a token from them");
        return CDM_STOP_AUDIT_USAGE;
    }

    if (cdm_stop_audit_order(opts) != 0
        || cdm_stop_audit_fingerprints(opts, prints) != 0)
    {
        return CDM_STOP_AUDIT_USAGE;
    }

    found = 0;

    for (i = 0; i < opts->nfiles; i++) {

        if (cdm_stop_audit_look(opts, opts->files[i].name, prints, &found)
            != 0)
        {
            return CDM_STOP_AUDIT_USAGE;
        }
    }

    if (!opts->json) {
        printf("%lld records have this token, as %s", (long long) found,
               prints[0]);

        for (i = 1; i < opts->nkeys; i++) {
            printf(" or %s", prints[i]);
        }

        fputc('\n', stdout);
    }

    return found ? CDM_STOP_AUDIT_WHOLE : CDM_STOP_AUDIT_FINDINGS;
}


static int
cdm_stop_audit_fingerprints(cdm_stop_audit_opts_t *opts,
    cdm_stop_audit_print_t *prints)
{
    int            i, rc;
    ssize_t        n;
    unsigned char  token[CDM_STOP_AUDIT_TOKEN_MAX + 2];

    n = cdm_stop_audit_token(token, sizeof(token));
    rc = 0;

    if (n == -1) {
        rc = -1;

    } else if (n < 1 || n > CDM_STOP_AUDIT_TOKEN_MAX) {
        cdm_stop_audit_error("a token of 1 to %d bytes is read from standard "
                             "input", CDM_STOP_AUDIT_TOKEN_MAX);
        rc = -1;
    }

    for (i = 0; rc == 0 && i < opts->nkeys; i++) {
        rc = cdm_stop_audit_fingerprint_of(opts->keys[i], token, n, prints[i]);
    }

    OPENSSL_cleanse(token, sizeof(token));

    return rc;
}


static int
cdm_stop_audit_fingerprint_of(const char *name, const unsigned char *token,
    size_t size, char *fingerprint)
{
    int            rc, len;
    unsigned char  key[4097], derived[CDM_STOP_AUDIT_HASH_LEN];
    unsigned char  hash[CDM_STOP_AUDIT_HASH_LEN];

    len = cdm_stop_audit_key(name, key, sizeof(key));

    if (len == -1) {
        return -1;
    }

    rc = cdm_stop_audit_hmac(key, len, (unsigned char *) CDM_STOP_AUDIT_LABEL,
                             sizeof(CDM_STOP_AUDIT_LABEL) - 1, derived);

    if (rc == 0) {
        rc = cdm_stop_audit_hmac(derived, sizeof(derived), token, size, hash);
    }

    if (rc != 0) {
        cdm_stop_audit_error("OpenSSL failed to hash");
    }

    OPENSSL_cleanse(key, sizeof(key));
    OPENSSL_cleanse(derived, sizeof(derived));

    if (rc == 0) {
        cdm_stop_audit_hex(fingerprint, hash, sizeof(hash));
        fingerprint[CDM_STOP_AUDIT_FINGERPRINT_LEN] = '\0';
    }

    return rc;
}


static int
cdm_stop_audit_hmac(const unsigned char *key, size_t klen,
    const unsigned char *data, size_t len, unsigned char *out)
{
    int                   rc;
    cdm_stop_audit_mac_t  mac;

    rc = cdm_stop_audit_mac_init(&mac, key, klen);

    if (rc == 0) {
        rc = cdm_stop_audit_mac(&mac, data, len, data, 0, out);
    }

    cdm_stop_audit_mac_free(&mac);

    return rc;
}


static ssize_t
cdm_stop_audit_token(unsigned char *token, size_t size)
{
    size_t   len;
    ssize_t  n;

    if (tcgetattr(STDIN_FILENO, &cdm_stop_audit_terminal_was) == 0) {
        return cdm_stop_audit_ask(token, size);
    }

    len = 0;

    while (len < size) {
        n = read(STDIN_FILENO, token + len, size - len);

        if (n == -1 && errno == EINTR) {
            continue;
        }

        if (n <= 0) {
            break;
        }

        len += n;
    }

    while (len && (token[len - 1] == '\n' || token[len - 1] == '\r')) {
        len--;
    }

    return len;
}


/*
 * A terminal shows nothing of it.  Lines are longer without its own editing,
 * of which the two characters that erase are left.
 */

static ssize_t
cdm_stop_audit_ask(unsigned char *token, size_t size)
{
    size_t            i, len;
    unsigned char     c;
    struct termios    silent;
    struct sigaction  act, was[4];
    static const int  signals[4] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };

    memset(&act, 0, sizeof(struct sigaction));
    act.sa_handler = cdm_stop_audit_interrupted;

    for (i = 0; i < 4; i++) {
        sigaction(signals[i], &act, &was[i]);

        if (was[i].sa_handler == SIG_IGN) {
            sigaction(signals[i], &was[i], NULL);
        }
    }

    silent = cdm_stop_audit_terminal_was;
    silent.c_lflag &= ~(ECHO|ECHONL|ICANON);
    silent.c_cc[VMIN] = 1;
    silent.c_cc[VTIME] = 0;
    silent.c_cc[VSUSP] = _POSIX_VDISABLE;

    if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent) == -1) {
        cdm_stop_audit_error("the terminal would show the token, give it by a "
                             "pipe: %s", strerror(errno));
        return -1;
    }

    fputs("token: ", stderr);

    for (len = 0; len < size; /* void */ ) {

        if (read(STDIN_FILENO, &c, 1) != 1 || c == '\n' || c == '\r'
            || c == cdm_stop_audit_terminal_was.c_cc[VEOF])
        {
            break;
        }

        if (c == cdm_stop_audit_terminal_was.c_cc[VERASE]) {
            len -= (len > 0);

        } else if (c == cdm_stop_audit_terminal_was.c_cc[VKILL]) {
            len = 0;

        } else {
            token[len++] = c;
        }
    }

    /* what was typed ahead is for nobody to see */
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &cdm_stop_audit_terminal_was);
    fputc('\n', stderr);

    for (i = 0; i < 4; i++) {
        sigaction(signals[i], &was[i], NULL);
    }

    return len;
}


/* the terminal is left as it was, and the signal does what it does */

static void
cdm_stop_audit_interrupted(int signo)
{
    struct sigaction  act;

    tcsetattr(STDIN_FILENO, TCSAFLUSH, &cdm_stop_audit_terminal_was);

    memset(&act, 0, sizeof(struct sigaction));
    act.sa_handler = SIG_DFL;

    sigaction(signo, &act, NULL);
    raise(signo);
}


static int
cdm_stop_audit_look(cdm_stop_audit_opts_t *opts, const char *name,
    cdm_stop_audit_print_t *prints, int64_t *found)
{
    int                      rc, client, injected;
    const unsigned char     *data;
    cdm_stop_audit_str_t    *m;
    cdm_stop_audit_line_t    line;
    cdm_stop_audit_reader_t  reader;

    if (cdm_stop_audit_open(&reader, name) != 0) {
        cdm_stop_audit_error("%s: %s", name, strerror(errno));
        return -1;
    }

    while ((rc = cdm_stop_audit_next(&reader, &data)) == 1) {

        if (reader.too_long
            || cdm_stop_audit_line(data, reader.len, &line) != NULL)
        {
            continue;
        }

        m = line.members;
        client = cdm_stop_audit_among(opts, prints,
                                      &m[CDM_STOP_AUDIT_CLIENT_TOKEN]);
        injected = cdm_stop_audit_among(opts, prints,
                                        &m[CDM_STOP_AUDIT_INJECTED_TOKEN]);

        if (!client && !injected) {
            continue;
        }

        (*found)++;

        if (opts->json) {
            fwrite(data, 1, reader.len, stdout);
            fputc('\n', stdout);
            continue;
        }

        cdm_stop_audit_print(stdout, name);
        printf(":%lld: %.*s", (long long) reader.place.line,
               (int) m[CDM_STOP_AUDIT_TIME].len, m[CDM_STOP_AUDIT_TIME].data);
        cdm_stop_audit_piece(" ", &m[CDM_STOP_AUDIT_STAGE]);
        cdm_stop_audit_piece(" request ", &m[CDM_STOP_AUDIT_REQUEST_ID]);
        printf(": %s\n", client ? "sent by the caller"
                                : "injected by the gateway");
    }

    cdm_stop_audit_close(&reader);

    return rc;
}


static int
cdm_stop_audit_among(cdm_stop_audit_opts_t *opts,
    cdm_stop_audit_print_t *prints, const cdm_stop_audit_str_t *s)
{
    int  i;

    for (i = 0; i < opts->nkeys; i++) {

        if (cdm_stop_audit_is(s, prints[i])) {
            return 1;
        }
    }

    return 0;
}


static void
cdm_stop_audit_piece(const char *before, const cdm_stop_audit_str_t *s)
{
    char    text[64];
    size_t  len;

    len = s->len < sizeof(text) ? s->len : sizeof(text) - 1;

    if (len == 0) {
        return;
    }

    memcpy(text, s->data, len);
    text[len] = '\0';

    fputs(before, stdout);
    cdm_stop_audit_print(stdout, text);
}
