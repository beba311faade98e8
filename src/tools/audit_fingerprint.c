
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* The command "fingerprint": which records a token is in */


#include <errno.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>
#include <openssl/crypto.h>
#include "audit.h"


#define CDM_STOP_AUDIT_TOKEN_MAX        32768
#define CDM_STOP_AUDIT_FINGERPRINT_LEN  32
#define CDM_STOP_AUDIT_LABEL            "cdm_stop fingerprint v1"


static ssize_t cdm_stop_audit_token(unsigned char *token, size_t size);
static int cdm_stop_audit_fingerprint_of(cdm_stop_audit_opts_t *opts,
    char *fingerprint);
static int cdm_stop_audit_hmac(const unsigned char *key, size_t klen,
    const unsigned char *data, size_t len, unsigned char *out);
static int cdm_stop_audit_look(cdm_stop_audit_opts_t *opts, const char *name,
    const char *fingerprint, int64_t *found);
static void cdm_stop_audit_piece(const char *before,
    const cdm_stop_audit_str_t *s);


int
cdm_stop_audit_fingerprint(cdm_stop_audit_opts_t *opts)
{
    int      i;
    char     fingerprint[2 * CDM_STOP_AUDIT_HASH_LEN + 1];
    int64_t  found;

    if (opts->key == NULL) {
        cdm_stop_audit_error("--key is missing: without \"cdm_stop_audit_key\" "
                             "fingerprints have a random key that only nginx "
                             "knows, and nobody can tell a token from them");
        return CDM_STOP_AUDIT_USAGE;
    }

    if (cdm_stop_audit_order(opts) != 0
        || cdm_stop_audit_fingerprint_of(opts, fingerprint) != 0)
    {
        return CDM_STOP_AUDIT_USAGE;
    }

    found = 0;

    for (i = 0; i < opts->nfiles; i++) {

        if (cdm_stop_audit_look(opts, opts->files[i].name, fingerprint, &found)
            != 0)
        {
            return CDM_STOP_AUDIT_USAGE;
        }
    }

    if (!opts->json) {
        printf("%lld records have this token, as %s\n", (long long) found,
               fingerprint);
    }

    return found ? CDM_STOP_AUDIT_WHOLE : CDM_STOP_AUDIT_FINDINGS;
}


static int
cdm_stop_audit_fingerprint_of(cdm_stop_audit_opts_t *opts, char *fingerprint)
{
    int            rc, len;
    ssize_t        n;
    unsigned char  token[CDM_STOP_AUDIT_TOKEN_MAX + 2];
    unsigned char  key[4097], derived[CDM_STOP_AUDIT_HASH_LEN];
    unsigned char  hash[CDM_STOP_AUDIT_HASH_LEN];

    len = cdm_stop_audit_key(opts->key, key, sizeof(key));

    if (len == -1) {
        return -1;
    }

    n = cdm_stop_audit_token(token, sizeof(token));

    if (n < 1 || n > CDM_STOP_AUDIT_TOKEN_MAX) {
        cdm_stop_audit_error("a token of 1 to %d bytes is read from standard "
                             "input", CDM_STOP_AUDIT_TOKEN_MAX);
        rc = -1;

    } else {
        rc = cdm_stop_audit_hmac(key, len,
                                 (unsigned char *) CDM_STOP_AUDIT_LABEL,
                                 sizeof(CDM_STOP_AUDIT_LABEL) - 1, derived);

        if (rc == 0) {
            rc = cdm_stop_audit_hmac(derived, sizeof(derived), token, n, hash);
        }

        if (rc != 0) {
            cdm_stop_audit_error("OpenSSL failed to hash");
        }
    }

    OPENSSL_cleanse(token, sizeof(token));
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


/* a terminal shows nothing; its lines are longer without its own editing */

static ssize_t
cdm_stop_audit_token(unsigned char *token, size_t size)
{
    int             tty;
    size_t          len;
    ssize_t         n;
    struct termios  saved, silent;

    tty = (tcgetattr(STDIN_FILENO, &saved) == 0);

    if (tty) {
        silent = saved;
        silent.c_lflag &= ~(ECHO|ICANON);
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
        fputs("token: ", stderr);
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

        if (tty && memchr(token + len - n, '\n', n)) {
            break;
        }
    }

    if (tty) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &saved);
        fputc('\n', stderr);
    }

    while (len && (token[len - 1] == '\n' || token[len - 1] == '\r')) {
        len--;
    }

    return len;
}


static int
cdm_stop_audit_look(cdm_stop_audit_opts_t *opts, const char *name,
    const char *fingerprint, int64_t *found)
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
        client = cdm_stop_audit_is(&m[CDM_STOP_AUDIT_CLIENT_TOKEN],
                                   fingerprint);
        injected = cdm_stop_audit_is(&m[CDM_STOP_AUDIT_INJECTED_TOKEN],
                                     fingerprint);

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
