
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * Texts of strangers on their way into a record.  An input is: a bound, the
 * length of a secret, the secret, and the text.  Decoding agrees with the
 * table of well-formed sequences in the Unicode Standard; what is escaped is
 * the inside of one JSON string that says the same, within its bound; a
 * redacted text has no piece of the secret; and digits are those that the C
 * library writes.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>
#include "ngx_http_cdm_stop_text.h"


#define TEXT_PIECE  8


static void decode(ngx_str_t *text);
static size_t well_formed(u_char *p, size_t len);
static void escape(ngx_str_t *text, size_t max);
static u_char *expected(ngx_str_t *text, size_t max, u_char *dst);
static void check_escaped(u_char *start, u_char *last);
static void redact(ngx_str_t *text, ngx_str_t *secret);
static void hex(ngx_str_t *text);
static void require(ngx_uint_t holds, const char *what);


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    size_t      max;
    u_char     *copy;
    ngx_str_t   text, secret;

    if (size < 2 || size < 2 + (size_t) data[1]) {
        return 0;
    }

    copy = malloc(size);
    require(copy != NULL, "memory");

    memcpy(copy, data, size);

    max = copy[0];

    secret.len = copy[1];
    secret.data = copy + 2;

    text.data = secret.data + secret.len;
    text.len = size - 2 - secret.len;

    decode(&text);
    escape(&text, max);
    escape(&text, text.len);
    escape(&text, 10000);
    hex(&text);

    redact(&text, &secret);
    escape(&text, max);

    free(copy);

    return 0;
}


static void
decode(ngx_str_t *text)
{
    size_t     n;
    u_char    *p, *start, *last;
    uint32_t   c;

    p = text->data;
    last = p + text->len;

    while (p < last) {

        start = p;
        n = well_formed(p, last - p);
        c = ngx_http_cdm_stop_utf8_decode(&p, last);

        if (n == 0) {
            require(c == NGX_HTTP_CDM_STOP_BAD_UTF8 && p == start + 1,
                    "what is malformed is one byte");
            continue;
        }

        require(p == start + n, "a character is taken whole");
        require(c <= 0x10ffff && (c < 0xd800 || c > 0xdfff), "a code point");
        require((c < 0x80) == (n == 1) && (c < 0x800) == (n <= 2)
                && (c < 0x10000) == (n <= 3), "in its shortest form");
    }
}


/* the Unicode Standard, table 3-7: the length of a sequence, 0 if it is none */

static size_t
well_formed(u_char *p, size_t len)
{
    size_t                i, n;
    static const u_char   table[][5] = {
        /* first byte from, to; second byte from, to; length */
        { 0x00, 0x7f, 0x00, 0x00, 1 },
        { 0xc2, 0xdf, 0x80, 0xbf, 2 },
        { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
        { 0xe1, 0xec, 0x80, 0xbf, 3 },
        { 0xed, 0xed, 0x80, 0x9f, 3 },
        { 0xee, 0xef, 0x80, 0xbf, 3 },
        { 0xf0, 0xf0, 0x90, 0xbf, 4 },
        { 0xf1, 0xf3, 0x80, 0xbf, 4 },
        { 0xf4, 0xf4, 0x80, 0x8f, 4 }
    };

    for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {

        if (p[0] < table[i][0] || p[0] > table[i][1]) {
            continue;
        }

        n = table[i][4];

        if (len < n || (n > 1 && (p[1] < table[i][2] || p[1] > table[i][3]))) {
            return 0;
        }

        if ((n > 2 && (p[2] & 0xc0) != 0x80)
            || (n > 3 && (p[3] & 0xc0) != 0x80))
        {
            return 0;
        }

        return n;
    }

    return 0;
}


static void
escape(ngx_str_t *text, size_t max)
{
    size_t    n, room;
    u_char   *buf, *want, *last, *end;
    json_t   *json;

    n = ngx_min(text->len, max);
    room = 6 * n + 3;

    buf = malloc(room + 2);
    want = malloc(3 * n + 3 + 1);
    require(buf != NULL && want != NULL, "memory");

    buf[0] = '"';

    last = ngx_http_cdm_stop_json_text(buf + 1, buf + 1 + room, text, max);
    require(last != NULL, "the longest form fits");

    check_escaped(buf + 1, last);

    *last++ = '"';

    json = json_loadb((char *) buf, last - buf,
                      JSON_DECODE_ANY|JSON_ALLOW_NUL, NULL);
    require(json_is_string(json), "a string of JSON");

    end = expected(text, max, want);
    require(json_string_length(json) == (size_t) (end - want)
            && memcmp(json_string_value(json), want, end - want) == 0,
            "that says the same");

    json_decref(json);
    free(want);

    /* less room: it fits, or it says so */

    for (room = 0; room < 24; room++) {

        last = ngx_http_cdm_stop_json_text(buf, buf + ngx_min(room, 6 * n),
                                           text, max);
        require(last == NULL || last <= buf + ngx_min(room, 6 * n),
                "never more than there is room for");
    }

    free(buf);
}


/* what a reader of the record is to get: UTF-8 */

static u_char *
expected(ngx_str_t *text, size_t max, u_char *dst)
{
    size_t  i, n, stop;

    stop = ngx_min(text->len, max);

    for (i = 0; i < stop; i += n ? n : 1) {

        n = well_formed(text->data + i, text->len - i);

        if (i + (n ? n : 1) > stop) {
            break;
        }

        if (n) {
            dst = ngx_cpymem(dst, text->data + i, n);

        } else {
            dst = ngx_cpymem(dst, "\xef\xbf\xbd", 3);
        }
    }

    if (text->len > max) {
        dst = ngx_cpymem(dst, "\xe2\x80\xa6", 3);
    }

    return dst;
}


/* nothing in it that ends a line, a string, or turns a terminal */

static void
check_escaped(u_char *start, u_char *last)
{
    u_char    *p;
    uint32_t   c;

    for (p = start; p < last; /* void */) {

        if (*p == '\\') {
            require(last - p >= 2, "an escape is whole");
            p += 2;
            continue;
        }

        c = ngx_http_cdm_stop_utf8_decode(&p, last);

        require(c != NGX_HTTP_CDM_STOP_BAD_UTF8, "well-formed");
        require(c >= 0x20 && c != '"' && !(c >= 0x7f && c <= 0x9f),
                "no control character, no quote");
        require(!(c >= 0x2028 && c <= 0x202e) && !(c >= 0x2066 && c <= 0x2069)
                && c != 0x200e && c != 0x200f && c != 0x61c && c != 0xfeff,
                "no separator, nothing that reorders text");
    }
}


static void
redact(ngx_str_t *text, ngx_str_t *secret)
{
    size_t      i, n, len;
    u_char     *before;
    ngx_str_t   again;

    len = text->len;

    before = malloc(len + 1);
    require(before != NULL, "memory");

    memcpy(before, text->data, len);

    ngx_http_cdm_stop_redact(text, secret);

    require(text->len <= len, "redaction does not lengthen");

    for (i = 0; i < text->len; i++) {
        require(text->data[i] == '*' || text->data[i] == before[i],
                "bytes stay or are stars");
    }

    n = ngx_min(TEXT_PIECE, secret->len);

    for (i = 0; n && i + n <= secret->len; i++) {

        /* stars tell nothing, be they of the secret */

        if (memchr(secret->data + i, '*', n)) {
            continue;
        }

        require(memmem(text->data, text->len, secret->data + i, n) == NULL,
                "no piece of the secret is left");
    }

    if (secret->len && memchr(secret->data, '*', secret->len)) {
        free(before);
        return;
    }

    memcpy(before, text->data, text->len);
    again.data = before;
    again.len = text->len;

    ngx_http_cdm_stop_redact(&again, secret);
    require(again.len == text->len
            && memcmp(again.data, text->data, text->len) == 0,
            "once is enough");

    free(before);
}


static void
hex(ngx_str_t *text)
{
    char     want[3];
    size_t   i;
    u_char  *buf;

    /* of its size exactly, for a byte written behind it to be seen */

    buf = malloc(text->len ? 2 * text->len : 1);
    require(buf != NULL, "memory");

    require(ngx_http_cdm_stop_hex_dump(buf, text->data, text->len)
            == buf + 2 * text->len,
            "two digits a byte");

    for (i = 0; i < text->len; i++) {
        sprintf(want, "%02x", text->data[i]);
        require(memcmp(buf + 2 * i, want, 2) == 0, "those of the byte");
    }

    free(buf);
}


static void
require(ngx_uint_t holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}
