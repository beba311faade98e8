
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _AUDIT_H_INCLUDED_
#define _AUDIT_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <openssl/evp.h>


#define CDM_STOP_AUDIT_VERSION    "1.0.0"

/* exit status */
#define CDM_STOP_AUDIT_WHOLE      0
#define CDM_STOP_AUDIT_FINDINGS   1
#define CDM_STOP_AUDIT_USAGE      2

#define CDM_STOP_AUDIT_HASH_LEN   32
#define CDM_STOP_AUDIT_CHAIN_LEN  16

/* the module's records have 33 KB at most; what is longer is no record */
#define CDM_STOP_AUDIT_LINE_MAX   65536

/* of each of --key, --head and --from: a key a month for five years */
#define CDM_STOP_AUDIT_GIVEN_MAX  64

/* chains that are looked at to put files in order */
#define CDM_STOP_AUDIT_SPANS      8


/* the members that the verifier knows */

typedef enum {
    CDM_STOP_AUDIT_V = 0,
    CDM_STOP_AUDIT_CHAIN,
    CDM_STOP_AUDIT_SEQ,
    CDM_STOP_AUDIT_PREV,
    CDM_STOP_AUDIT_TORN,
    CDM_STOP_AUDIT_STAGE,
    CDM_STOP_AUDIT_TIME,
    CDM_STOP_AUDIT_REQUEST_ID,
    CDM_STOP_AUDIT_JOB_NAME,
    CDM_STOP_AUDIT_CLOSED,
    CDM_STOP_AUDIT_CLIENT_TOKEN,
    CDM_STOP_AUDIT_INJECTED_TOKEN,
    CDM_STOP_AUDIT_EVERY,
    CDM_STOP_AUDIT_KEY_ID,
    CDM_STOP_AUDIT_SIGNATURE,
    CDM_STOP_AUDIT_HASH,
    CDM_STOP_AUDIT_MEMBERS
} cdm_stop_audit_member_e;


typedef struct {
    size_t                 len;
    const unsigned char   *data;
} cdm_stop_audit_str_t;


/* a line, whose pieces point into it: strings as they are spelled in it */

typedef struct {
    int64_t                seq;
    int64_t                torn;        /* 0: not there */
    int64_t                every;       /* seconds */
    size_t                 hashed;      /* bytes that the hash covers */
    size_t                 is_signed;   /* bytes that the signature covers */
    unsigned char          prev[CDM_STOP_AUDIT_HASH_LEN];
    unsigned char          hash[CDM_STOP_AUDIT_HASH_LEN];
    cdm_stop_audit_str_t   members[CDM_STOP_AUDIT_MEMBERS];
} cdm_stop_audit_line_t;


/* a place: file is the number of the file in the order of the chain */

typedef struct {
    int                    file;
    int64_t                line;        /* from 1 */
    int64_t                offset;      /* of its first byte, from 0 */
} cdm_stop_audit_place_t;


/* a chain in a file, by the lowest number that was seen of it */

typedef struct {
    int64_t                seq;
    char                   chain[CDM_STOP_AUDIT_CHAIN_LEN + 1];
} cdm_stop_audit_span_t;


typedef struct {
    const char            *name;
    int64_t                size;        /* 0: not known */
    int                    before;      /* files that come before it */
    int                    nspans;
    cdm_stop_audit_span_t  spans[CDM_STOP_AUDIT_SPANS];
    char                   time[32];    /* of its first record */
} cdm_stop_audit_file_t;


/* a reader of lines in big pieces; a line that is too long is not kept */

typedef struct {
    int                    fd;
    int                    error;       /* errno of a failed read */
    size_t                 pos;
    size_t                 last;
    size_t                 size;
    unsigned char         *buffer;
    int64_t                done;        /* bytes behind which pos is */
    cdm_stop_audit_place_t place;       /* of the line that was given */
    int64_t                len;         /* of it, without its line feed */
    unsigned               unended:1;   /* it has no line feed */
    unsigned               too_long:1;
} cdm_stop_audit_reader_t;


/* HMAC-SHA256 with a key, SHA-256 without; contexts are used again */

typedef struct {
    EVP_MAC_CTX           *mac;
    EVP_MD                *md;
    EVP_MD_CTX            *digest;
} cdm_stop_audit_mac_t;


typedef struct {
    char                   chain[CDM_STOP_AUDIT_CHAIN_LEN + 1];
    int64_t                seq;
    unsigned char          hash[CDM_STOP_AUDIT_HASH_LEN];
    unsigned               with_hash:1;
    unsigned               met:1;
} cdm_stop_audit_head_t;


typedef struct {
    int                    nkeys;
    int                    nheads;
    int                    nfroms;
    char                  *keys[CDM_STOP_AUDIT_GIVEN_MAX]; /* files */
    char                  *public_key;  /* a file */
    cdm_stop_audit_head_t  heads[CDM_STOP_AUDIT_GIVEN_MAX];
    cdm_stop_audit_head_t  froms[CDM_STOP_AUDIT_GIVEN_MAX];
    int64_t                at;          /* milliseconds, 0: not given */
    int64_t                every;       /* seconds, 0: not given */
    unsigned               json:1;
    unsigned               strict:1;
    unsigned               keyless:1;

    /* of "show" */

    char                  *job;
    char                  *user;
    char                  *since;
    char                  *until;
    char                  *verdict;
    char                  *stage;
    char                  *request_id;

    cdm_stop_audit_file_t *files;
    int                    nfiles;
} cdm_stop_audit_opts_t;


/*
 * Takes a line, without its line feed, to pieces.  Returns NULL, or what is
 * wrong with it: it is not one JSON object in valid UTF-8, has a member twice,
 * or is no record of a chain.  What was read until then is in line.
 */
const char *cdm_stop_audit_line(const unsigned char *data, size_t len,
    cdm_stop_audit_line_t *line);

/* 2 * len hexadecimal digits; returns -1 if they are none */
int cdm_stop_audit_unhex(unsigned char *dst, const unsigned char *src,
    size_t len);

void cdm_stop_audit_hex(char *dst, const unsigned char *src, size_t len);

/* milliseconds since 1970 of "2026-01-31T23:59:59.999Z", or -1 */
int64_t cdm_stop_audit_time(const unsigned char *data, size_t len);

/* a text of a member is this one, which has no escapes */
int cdm_stop_audit_is(const cdm_stop_audit_str_t *s, const char *text);


/* returns -1 with errno */
int cdm_stop_audit_open(cdm_stop_audit_reader_t *reader, const char *name);

/*
 * The next line in *data, which lives until the next call, and in
 * reader->place and len.  Returns 1, 0 at the end, -1 with reader->error.
 */
int cdm_stop_audit_next(cdm_stop_audit_reader_t *reader,
    const unsigned char **data);

void cdm_stop_audit_close(cdm_stop_audit_reader_t *reader);


/*
 * A key as the module reads it, less its line end; to be wiped.  Returns its
 * length, or -1, of which was told.
 */
int cdm_stop_audit_key(const char *name, unsigned char *key, size_t size);

/* returns -1 if OpenSSL refuses; key is NULL for SHA-256 */
int cdm_stop_audit_mac_init(cdm_stop_audit_mac_t *mac,
    const unsigned char *key, size_t len);
int cdm_stop_audit_mac(cdm_stop_audit_mac_t *mac, const unsigned char *a,
    size_t alen, const unsigned char *b, size_t blen, unsigned char *out);
void cdm_stop_audit_mac_free(cdm_stop_audit_mac_t *mac);

/* a public key in PEM and its id, 64 hexadecimal digits; NULL was told */
EVP_PKEY *cdm_stop_audit_public_key(const char *name, char *id);

/* 1 if the signature is of the key, else 0 */
int cdm_stop_audit_signature(EVP_PKEY *key, const unsigned char *data,
    size_t len, const cdm_stop_audit_str_t *signature);


/* the commands; they return an exit status */

int cdm_stop_audit_verify(cdm_stop_audit_opts_t *opts);
int cdm_stop_audit_show(cdm_stop_audit_opts_t *opts);
int cdm_stop_audit_fingerprint(cdm_stop_audit_opts_t *opts);


/* a message on standard error, beginning with the tool's name */
void cdm_stop_audit_error(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));

/* 1 if it is a terminal that knows more than to print lines */
int cdm_stop_audit_terminal(int fd);

/*
 * Sorts the files by what they have of the same chain, and by time where they
 * have nothing in common; returns -1, of which was told.
 */
int cdm_stop_audit_order(cdm_stop_audit_opts_t *opts);

/* the text of a file or record, with what would act on a terminal as \x.. */
void cdm_stop_audit_print(FILE *out, const char *text);

/* the same as a JSON string with its quotes */
void cdm_stop_audit_print_json(FILE *out, const char *text);


#endif /* _AUDIT_H_INCLUDED_ */
