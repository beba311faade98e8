
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* Small things of texts: digits, times, and what a terminal may see */


#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "audit.h"


static const unsigned char *cdm_stop_audit_inert(FILE *out,
    const unsigned char *p, const char *format);


/* the value of a digit plus one, 0 of what is none */

static const unsigned char  cdm_stop_audit_digits[256] = {
    ['0'] = 1, ['1'] = 2, ['2'] = 3, ['3'] = 4, ['4'] = 5, ['5'] = 6,
    ['6'] = 7, ['7'] = 8, ['8'] = 9, ['9'] = 10, ['a'] = 11, ['b'] = 12,
    ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16
};


int
cdm_stop_audit_is(const cdm_stop_audit_str_t *s, const char *text)
{
    size_t  len;

    len = strlen(text);

    return s->len == len && memcmp(s->data, text, len) == 0;
}


int
cdm_stop_audit_unhex(unsigned char *dst, const unsigned char *src, size_t len)
{
    size_t         i;
    unsigned char  high, low, bad;

    /* without branches: all of the digits are random */

    bad = 0;

    for (i = 0; i < len; i++) {
        high = cdm_stop_audit_digits[src[2 * i]];
        low = cdm_stop_audit_digits[src[2 * i + 1]];

        bad |= high | low;
        dst[i] = (unsigned char) (((high - 1u) & 15) << 4 | ((low - 1u) & 15));
        bad |= (high == 0 || low == 0) << 7;
    }

    return (bad & 0x80) ? -1 : 0;
}


void
cdm_stop_audit_hex(char *dst, const unsigned char *src, size_t len)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        dst[2 * i] = "0123456789abcdef"[src[i] >> 4];
        dst[2 * i + 1] = "0123456789abcdef"[src[i] & 15];
    }

    dst[2 * len] = '\0';
}


/* days by the civil calendar, without the C library's zones */

int64_t
cdm_stop_audit_time(const unsigned char *data, size_t len)
{
    int64_t      n[7], y, days;
    size_t       i, k;
    const char  *form = "0000-11-22T33:44:55.666Z";

    if (len != strlen(form) && len != strlen("0000-11-22T33:44:55Z")) {
        return -1;
    }

    memset(n, 0, sizeof(n));

    for (i = 0; i < len; i++) {

        if (i == 19 && len == 20) {
            if (data[i] != 'Z') {
                return -1;
            }

        } else if (form[i] >= '0' && form[i] <= '6') {
            k = form[i] - '0';

            if (data[i] < '0' || data[i] > '9') {
                return -1;
            }

            n[k] = n[k] * 10 + (data[i] - '0');

        } else if (data[i] != (unsigned char) form[i]) {
            return -1;
        }
    }

    if (n[1] < 1 || n[1] > 12 || n[2] < 1 || n[2] > 31 || n[3] > 23
        || n[4] > 59 || n[5] > 60)
    {
        return -1;
    }

    y = n[0] - (n[1] <= 2);
    days = 365 * y + y / 4 - y / 100 + y / 400
           + (153 * (n[1] + (n[1] > 2 ? -3 : 9)) + 2) / 5 + n[2] - 1 - 719468;

    return (((days * 24 + n[3]) * 60 + n[4]) * 60 + n[5]) * 1000 + n[6];
}


void
cdm_stop_audit_error(const char *fmt, ...)
{
    char     text[2048];
    va_list  args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);

    fputs("cdm-stop-audit: ", stderr);
    cdm_stop_audit_print(stderr, text);
    fputc('\n', stderr);
}


int
cdm_stop_audit_terminal(int fd)
{
    const char  *term;

    term = getenv("TERM");

    return isatty(fd) && term && *term && strcmp(term, "dumb") != 0;
}


void
cdm_stop_audit_print(FILE *out, const char *text)
{
    const unsigned char  *p;

    p = (const unsigned char *) text;

    while (*p) {

        if (*p >= 0x20 && *p < 0x7f) {
            fputc(*p++, out);
            continue;
        }

        p = cdm_stop_audit_inert(out, p, "\\x%02x");
    }
}


void
cdm_stop_audit_print_json(FILE *out, const char *text)
{
    const unsigned char  *p;

    fputc('"', out);

    p = (const unsigned char *) text;

    while (*p) {

        if (*p == '"' || *p == '\\') {
            fputc('\\', out);
            fputc(*p++, out);

        } else if (*p >= 0x20 && *p < 0x7f) {
            fputc(*p++, out);

        } else {
            p = cdm_stop_audit_inert(out, p, "\\u00%02x");
        }
    }

    fputc('"', out);
}


/*
 * A character that is not of ASCII: as it is, unless it is malformed, a
 * control, a separator of lines, invisible, or turns the direction of others.
 */

static const unsigned char *
cdm_stop_audit_inert(FILE *out, const unsigned char *p, const char *format)
{
    size_t    i, n;
    uint32_t  code;

    n = (*p >= 0xf0 && *p <= 0xf4) ? 3 : (*p >= 0xe0) ? 2 : (*p >= 0xc2);

    code = n ? *p & (0x3f >> n) : *p;

    for (i = 1; i <= n && n; i++) {

        if ((p[i] & 0xc0) != 0x80) {
            n = 0;
            break;
        }

        code = code << 6 | (p[i] & 0x3f);
    }

    if (n == 0 || *p > 0xf4 || code < 0xa0 || code == 0xad || code == 0x61c
        || (code >= 0x200b && code <= 0x200f)
        || (code >= 0x2028 && code <= 0x202e)
        || (code >= 0x2060 && code <= 0x206f) || code == 0xfeff
        || (code >= 0xd800 && code <= 0xdfff) || code >= 0xe0000
        || (n == 2 && code < 0x800) || (n == 3 && code < 0x10000))
    {
        for (i = 0; i <= n; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            fprintf(out, format, p[i]);
#pragma GCC diagnostic pop
        }

        return p + n + 1;
    }

    for (i = 0; i <= n; i++) {
        fputc(p[i], out);
    }

    return p + n + 1;
}
