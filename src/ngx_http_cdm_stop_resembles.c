
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_target.h"


#define NGX_HTTP_CDM_STOP_SEGMENTS  8

/* more segments than this on top of those that fit are not told apart */
#define NGX_HTTP_CDM_STOP_JUNK_MAX  63


/* in a folded target, which has no control characters of its own */

#define NGX_HTTP_CDM_STOP_SOFT      0x01    /* a slash to some readers */
#define NGX_HTTP_CDM_STOP_ANY       0x02    /* a character beyond ASCII */
#define NGX_HTTP_CDM_STOP_CONTROL   0x03    /* a control character, a blank */


/* what a soft slash is at the end of: a segment, or its parameters */

#define NGX_HTTP_CDM_STOP_SPLIT     1
#define NGX_HTTP_CDM_STOP_CUT       2


/*
 * A target without escapes.  Some parsers skip controls and blanks, to others
 * they are an end; some take characters beyond ASCII for the ASCII ones that
 * they resemble, others skip them.
 */

typedef struct {
    u_char     *start;
    u_char     *last;
    unsigned    controls:1;     /* controls are kept */
    unsigned    beyond:2;       /* those beyond ASCII: see below */
    unsigned    ambiguous:1;    /* there are some of these */
} ngx_http_cdm_stop_plain_t;


/* a segment, read as far as its first semicolon */

typedef struct {
    ngx_uint_t  words[NGX_HTTP_CDM_STOP_SEGMENTS];  /* letters read, bits */
    ngx_uint_t  len;            /* characters, those beyond ASCII left out */
    ngx_uint_t  dots;
    unsigned    parameters:1;
} ngx_http_cdm_stop_segment_t;


/*
 * What may have been read so far: bit n of junk[m] is set if the path may be
 * the first m segments of a stop and n others that ".." may yet remove.
 */

typedef struct {
    uint64_t    junk[NGX_HTTP_CDM_STOP_SEGMENTS + 1];
} ngx_http_cdm_stop_readings_t;


/*
 * What is made of characters beyond ASCII, and of overlong forms of ASCII:
 * both are folded, the overlong ones only (1), or neither.
 */

#define NGX_HTTP_CDM_STOP_FOLD      0
#define NGX_HTTP_CDM_STOP_NEITHER   2
#define NGX_HTTP_CDM_STOP_BEYOND    3


static ngx_uint_t ngx_http_cdm_stop_any_reading(u_char *p, u_char *last);
static void ngx_http_cdm_stop_make_plain(ngx_http_cdm_stop_plain_t *plain,
    ngx_str_t *uri);
static u_char *ngx_http_cdm_stop_add_char(ngx_http_cdm_stop_plain_t *plain,
    u_char *dst, u_char c);
static void ngx_http_cdm_stop_decode(ngx_http_cdm_stop_plain_t *plain);
static u_char *ngx_http_cdm_stop_decode_end(ngx_http_cdm_stop_plain_t *plain,
    u_char *dst);
static void ngx_http_cdm_stop_fold(ngx_http_cdm_stop_plain_t *plain);
static uint32_t ngx_http_cdm_stop_lenient(u_char **p, u_char *last);
static u_char *ngx_http_cdm_stop_fold_char(ngx_http_cdm_stop_plain_t *plain,
    u_char *dst, uint32_t c);
static void ngx_http_cdm_stop_segment_start(ngx_http_cdm_stop_segment_t *s);
static void ngx_http_cdm_stop_segment_char(ngx_http_cdm_stop_segment_t *s,
    u_char c);
static ngx_uint_t ngx_http_cdm_stop_segment_fits(
    ngx_http_cdm_stop_segment_t *s, ngx_uint_t m);
static void ngx_http_cdm_stop_readings_add(ngx_http_cdm_stop_readings_t *r,
    ngx_http_cdm_stop_segment_t *s, ngx_uint_t soft);
static ngx_uint_t ngx_http_cdm_stop_readings_stop(
    ngx_http_cdm_stop_readings_t *r, ngx_http_cdm_stop_segment_t *s,
    ngx_uint_t soft);


/* the fixed segments of a stop; an id or a name stands where it is empty */

static ngx_str_t  ngx_http_cdm_stop_shape[NGX_HTTP_CDM_STOP_SEGMENTS] = {
    ngx_string("v1.1"),
    ngx_null_string,
    ngx_string("clusters"),
    ngx_null_string,
    ngx_string("cdm"),
    ngx_string("job"),
    ngx_null_string,
    ngx_string("stop")
};


/*
 * Servers and proxies decode once, twice or segment by segment, resolve dots
 * before or after that, cut parameters or not, merge slashes or not, in any
 * order.  So what can be read in two ways is read in both: a slash that was
 * an escape may end a segment or belong to it, a dot segment may count or be
 * a name, an empty one may be there or not, and the target may end at each
 * of ";", "#" and "?".  If one of these readings is a stop, uri resembles it.
 */

ngx_uint_t
ngx_http_cdm_stop_target_resembles(ngx_str_t *uri, u_char *scratch)
{
    ngx_uint_t                 mode;
    ngx_http_cdm_stop_plain_t  plain;

    for (mode = 0; mode < 2 * NGX_HTTP_CDM_STOP_BEYOND; mode++) {

        ngx_memzero(&plain, sizeof(ngx_http_cdm_stop_plain_t));

        plain.start = scratch;
        plain.controls = (mode & 1);
        plain.beyond = (mode >> 1);

        ngx_http_cdm_stop_make_plain(&plain, uri);

        if (ngx_http_cdm_stop_any_reading(plain.start, plain.last)) {
            return 1;
        }

        if (!plain.ambiguous) {
            break;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_cdm_stop_any_reading(u_char *p, u_char *last)
{
    ngx_uint_t                     soft;
    ngx_http_cdm_stop_segment_t    s;
    ngx_http_cdm_stop_readings_t   r;

    ngx_memzero(&r, sizeof(ngx_http_cdm_stop_readings_t));
    r.junk[0] = 1;

    if (p < last && (*p == '/' || *p == NGX_HTTP_CDM_STOP_SOFT)) {
        p++;
    }

    soft = 0;
    ngx_http_cdm_stop_segment_start(&s);

    for ( /* void */ ; p < last; p++) {

        switch (*p) {

        case '/':
        case NGX_HTTP_CDM_STOP_SOFT:
            ngx_http_cdm_stop_readings_add(&r, &s, soft);

            if (*p == '/') {
                soft = 0;

            } else if (s.parameters) {
                soft = NGX_HTTP_CDM_STOP_CUT;

            } else if (soft == 0) {
                soft = NGX_HTTP_CDM_STOP_SPLIT;
            }

            ngx_http_cdm_stop_segment_start(&s);
            break;

        case ';':
        case '#':
        case '?':
        case NGX_HTTP_CDM_STOP_CONTROL:
            if (ngx_http_cdm_stop_readings_stop(&r, &s, soft)) {
                return 1;
            }

            ngx_http_cdm_stop_segment_char(&s, *p);
            break;

        case '.':

            /* "/stop.json" is "/stop" by Spring's suffix match */

            if (s.len > s.dots
                && ngx_http_cdm_stop_readings_stop(&r, &s, soft))
            {
                return 1;
            }

            /* fall through */

        default:
            ngx_http_cdm_stop_segment_char(&s, *p);
        }
    }

    return ngx_http_cdm_stop_readings_stop(&r, &s, soft);
}


/* decodes and folds until nothing is left to decode or to fold */

static void
ngx_http_cdm_stop_make_plain(ngx_http_cdm_stop_plain_t *plain, ngx_str_t *uri)
{
    u_char  *dst;
    size_t   i, len;

    dst = plain->start;

    for (i = 0; i < uri->len; i++) {
        dst = ngx_http_cdm_stop_add_char(plain, dst, uri->data[i]);
    }

    plain->last = dst;

    do {
        len = plain->last - plain->start;

        ngx_http_cdm_stop_decode(plain);
        ngx_http_cdm_stop_fold(plain);

    } while ((size_t) (plain->last - plain->start) != len);
}


static u_char *
ngx_http_cdm_stop_add_char(ngx_http_cdm_stop_plain_t *plain, u_char *dst,
    u_char c)
{
    if (c > 0x20 && c != 0x7f) {
        *dst++ = c;
        return dst;
    }

    plain->ambiguous = 1;

    if (plain->controls) {
        *dst++ = NGX_HTTP_CDM_STOP_CONTROL;
    }

    return dst;
}


static void
ngx_http_cdm_stop_decode(ngx_http_cdm_stop_plain_t *plain)
{
    u_char  *p, *dst, *end;

    dst = plain->start;

    for (p = plain->start; p < plain->last; p++) {

        *dst++ = *p;

        /* what was decoded may complete an escape that began before it */

        for ( ;; ) {
            end = ngx_http_cdm_stop_decode_end(plain, dst);

            if (end == dst) {
                break;
            }

            dst = end;
        }
    }

    plain->last = dst;
}


/* decodes %XX or %uXXXX before dst, if it is there */

static u_char *
ngx_http_cdm_stop_decode_end(ngx_http_cdm_stop_plain_t *plain, u_char *dst)
{
    ngx_int_t  n;

    if (dst - plain->start >= 3 && dst[-3] == '%') {

        n = ngx_hextoi(dst - 2, 2);

        if (n == NGX_ERROR) {
            return dst;
        }

        dst -= 3;

        /* an escaped slash is a soft one */

        if (n == '/') {
            *dst++ = NGX_HTTP_CDM_STOP_SOFT;
            return dst;
        }

        return ngx_http_cdm_stop_add_char(plain, dst, (u_char) n);
    }

    if (dst - plain->start >= 6 && dst[-6] == '%' && (dst[-5] | 0x20) == 'u') {

        n = ngx_hextoi(dst - 4, 4);

        if (n == NGX_ERROR) {
            return dst;
        }

        return ngx_http_cdm_stop_fold_char(plain, dst - 6, (uint32_t) n);
    }

    return dst;
}


/* lower case, and ASCII for the characters that compatibility makes of it */

static void
ngx_http_cdm_stop_fold(ngx_http_cdm_stop_plain_t *plain)
{
    u_char    *p, *dst;
    uint32_t   c;

    dst = plain->start;

    for (p = plain->start; p < plain->last; /* void */ ) {

        if (*p < 0x80 && *p != '\\') {
            *dst++ = ngx_tolower(*p);
            p++;
            continue;
        }

        if (plain->beyond == NGX_HTTP_CDM_STOP_NEITHER && *p >= 0x80) {
            *dst++ = NGX_HTTP_CDM_STOP_ANY;
            p++;
            continue;
        }

        c = ngx_http_cdm_stop_lenient(&p, plain->last);
        dst = ngx_http_cdm_stop_fold_char(plain, dst, c);
    }

    plain->last = dst;
}


/* UTF-8 as lenient decoders take it: overlong, surrogates, too large */

static uint32_t
ngx_http_cdm_stop_lenient(u_char **p, u_char *last)
{
    u_char      lead;
    uint32_t    c;
    ngx_uint_t  n;

    lead = *(*p)++;

    if (lead < 0x80) {
        return lead;
    }

    n = 0;

    while (n < 5 && (lead & (0x40 >> n))) {
        n++;
    }

    c = lead & (0x3f >> n);

    while (n && *p < last && (**p & 0xc0) == 0x80) {
        c = (c << 6) | (*(*p)++ & 0x3f);
        n--;
    }

    /* a byte that is no character may be dropped or replaced by one */

    return n || !(lead & 0x40) ? 0xfffd : c;
}


static u_char *
ngx_http_cdm_stop_fold_char(ngx_http_cdm_stop_plain_t *plain, u_char *dst,
    uint32_t c)
{
    if (c != '\\') {
        plain->ambiguous = 1;
    }

    if (plain->beyond != NGX_HTTP_CDM_STOP_FOLD) {

        /* overlong forms have been decoded */

    } else if (c >= 0xff01 && c <= 0xff5e) {
        c -= 0xff00 - 0x20;

    } else {

        switch (c) {

        case 0x2024:
        case 0xfe52:
            c = '.';
            break;

        case 0x2025:
            *dst++ = '.';
            c = '.';
            break;

        case 0xfe54:
            c = ';';
            break;

        case 0xfe56:
            c = '?';
            break;

        case 0xfe5f:
            c = '#';
            break;

        case 0xfe68:
            c = '\\';
        }
    }

    if (c >= 0x80) {
        *dst++ = NGX_HTTP_CDM_STOP_ANY;

    } else if (c == '/' || c == '\\') {
        *dst++ = NGX_HTTP_CDM_STOP_SOFT;

    } else {
        dst = ngx_http_cdm_stop_add_char(plain, dst, ngx_tolower((u_char) c));
    }

    return dst;
}


static void
ngx_http_cdm_stop_segment_start(ngx_http_cdm_stop_segment_t *s)
{
    ngx_uint_t  m;

    ngx_memzero(s, sizeof(ngx_http_cdm_stop_segment_t));

    for (m = 0; m < NGX_HTTP_CDM_STOP_SEGMENTS; m++) {
        s->words[m] = 1;
    }
}


/*
 * A character beyond ASCII is dropped by some readers, and is one or two
 * letters to those that ignore case: U+017F is "s" and U+FB06 is "st".
 */

static void
ngx_http_cdm_stop_segment_char(ngx_http_cdm_stop_segment_t *s, u_char c)
{
    ngx_str_t   *word;
    ngx_uint_t   m, n, bits;

    if (s->parameters || c == NGX_HTTP_CDM_STOP_CONTROL) {
        return;
    }

    if (c == ';') {
        s->parameters = 1;
        return;
    }

    s->len += (c != NGX_HTTP_CDM_STOP_ANY);
    s->dots += (c == '.');

    for (m = 0; m < NGX_HTTP_CDM_STOP_SEGMENTS; m++) {

        word = &ngx_http_cdm_stop_shape[m];

        if (c == NGX_HTTP_CDM_STOP_ANY) {
            s->words[m] |= s->words[m] << 1 | s->words[m] << 2;
            s->words[m] &= (2 << word->len) - 1;
            continue;
        }

        bits = 0;

        for (n = 0; n < word->len; n++) {
            if (word->data[n] == c && (s->words[m] & (1 << n))) {
                bits |= 2 << n;
            }
        }

        s->words[m] = bits;
    }
}


/* an id or a name may be anything, an empty one included */

static ngx_uint_t
ngx_http_cdm_stop_segment_fits(ngx_http_cdm_stop_segment_t *s, ngx_uint_t m)
{
    ngx_str_t  *word;

    if (m == NGX_HTTP_CDM_STOP_SEGMENTS) {
        return 0;
    }

    word = &ngx_http_cdm_stop_shape[m];

    return word->len == 0 || (s->words[m] & (1 << word->len));
}


/* each reading so far goes on in all the ways in which s can be taken */

static void
ngx_http_cdm_stop_readings_add(ngx_http_cdm_stop_readings_t *r,
    ngx_http_cdm_stop_segment_t *s, ngx_uint_t soft)
{
    uint64_t                       junk;
    ngx_uint_t                     m, exact;
    ngx_http_cdm_stop_readings_t   next;

    ngx_memzero(&next, sizeof(ngx_http_cdm_stop_readings_t));

    for (m = 0; m <= NGX_HTTP_CDM_STOP_SEGMENTS; m++) {

        exact = r->junk[m] & 1;
        junk = r->junk[m] & ~(uint64_t) 1;

        /* a segment of its own */

        next.junk[m] |= junk << 1 | (junk >> NGX_HTTP_CDM_STOP_JUNK_MAX
                                          << NGX_HTTP_CDM_STOP_JUNK_MAX);

        if (exact) {
            if (ngx_http_cdm_stop_segment_fits(s, m)) {
                next.junk[m + 1] |= 1;

            } else {
                next.junk[m] |= 2;
            }
        }

        /* cut, with the parameters that it is the end of */

        if (soft == NGX_HTTP_CDM_STOP_CUT) {
            next.junk[m] |= r->junk[m];
        }

        /* the end of the segment before it, which is no fixed one then */

        if (soft) {
            next.junk[m] |= junk;

            if (exact && m > 0) {
                if (ngx_http_cdm_stop_shape[m - 1].len == 0) {
                    next.junk[m] |= 1;

                } else {
                    next.junk[m - 1] |= 2;
                }
            }
        }

        /* nothing, or "." */

        if (s->len == s->dots && s->len < 2) {
            next.junk[m] |= r->junk[m];
        }

        /* ".." */

        if (s->len == s->dots && s->len == 2) {
            next.junk[m] |= junk >> 1 | (junk >> NGX_HTTP_CDM_STOP_JUNK_MAX
                                              << NGX_HTTP_CDM_STOP_JUNK_MAX);

            if (exact) {
                next.junk[m ? m - 1 : 0] |= 1;
            }
        }
    }

    *r = next;
}


/* whether it is a stop if the target ends behind s */

static ngx_uint_t
ngx_http_cdm_stop_readings_stop(ngx_http_cdm_stop_readings_t *r,
    ngx_http_cdm_stop_segment_t *s, ngx_uint_t soft)
{
    ngx_http_cdm_stop_readings_t  end;

    end = *r;
    ngx_http_cdm_stop_readings_add(&end, s, soft);

    return end.junk[NGX_HTTP_CDM_STOP_SEGMENTS] & 1;
}
