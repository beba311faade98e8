
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_text.h"


/* shortest piece of a secret that counts as the secret showing */
#define NGX_HTTP_CDM_STOP_PIECE  8

/* shortest run of token characters that is redacted for its look alone */
#define NGX_HTTP_CDM_STOP_RUN    20


#define ngx_http_cdm_stop_is_plain(c)                                         \
    (ngx_http_cdm_stop_text_plain[(c) >> 5] & ((uint32_t) 1 << ((c) & 0x1f)))

#define ngx_http_cdm_stop_put_hex(dst, c)                                     \
    ngx_memcpy(dst, ngx_http_cdm_stop_text_hex + 2 * (size_t) (c), 2)


static u_char *ngx_http_cdm_stop_json_rest(u_char *dst, u_char *end,
    ngx_str_t *src, size_t n, size_t max);
static size_t ngx_http_cdm_stop_copy_plain(u_char *dst, u_char *src,
    size_t len);
static ngx_uint_t ngx_http_cdm_stop_any_special(uint64_t eight);
static ngx_uint_t ngx_http_cdm_stop_token_char(u_char c);
static ngx_uint_t ngx_http_cdm_stop_looks_secret(u_char *p, size_t len);
static void ngx_http_cdm_stop_redact_pieces(ngx_str_t *text,
    ngx_str_t *secret);
static size_t ngx_http_cdm_stop_stands_for(u_char *p, u_char *last, u_char c);
static void ngx_http_cdm_stop_redact_after(ngx_str_t *text, char *key);


/* what stands for itself: 0x20 to 0x7e but for " and \ */

static uint32_t  ngx_http_cdm_stop_text_plain[] = {
    0x00000000,
    0xfffffffb, /* 1111 1111 1111 1111  1111 1111 1111 1011 */
                /* ?>=< ;:98 7654 3210  /.-, +*)( '&%$ #"!  */
    0xefffffff, /* 1110 1111 1111 1111  1111 1111 1111 1111 */
                /* _^]\ [ZYX WVUT SRQP  ONML KJIH GFED CBA@ */
    0x7fffffff, /* 0111 1111 1111 1111  1111 1111 1111 1111 */
                /*  ~}| {zyx wvut srqp  onml kjih gfed cba` */
    0x00000000,
    0x00000000,
    0x00000000,
    0x00000000
};


/* two digits for each byte */

static u_char  ngx_http_cdm_stop_text_hex[] =
    "000102030405060708090a0b0c0d0e0f"
    "101112131415161718191a1b1c1d1e1f"
    "202122232425262728292a2b2c2d2e2f"
    "303132333435363738393a3b3c3d3e3f"
    "404142434445464748494a4b4c4d4e4f"
    "505152535455565758595a5b5c5d5e5f"
    "606162636465666768696a6b6c6d6e6f"
    "707172737475767778797a7b7c7d7e7f"
    "808182838485868788898a8b8c8d8e8f"
    "909192939495969798999a9b9c9d9e9f"
    "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
    "b0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
    "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf"
    "d0d1d2d3d4d5d6d7d8d9dadbdcdddedf"
    "e0e1e2e3e4e5e6e7e8e9eaebecedeeef"
    "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";


uint32_t
ngx_http_cdm_stop_utf8_decode(u_char **p, u_char *last)
{
    u_char      *s;
    size_t       n, i;
    uint32_t     c, min;

    s = *p;
    c = *s;

    *p = s + 1;

    if (c < 0x80) {
        return c;
    }

    if (c >= 0xc2 && c <= 0xdf) {
        n = 1;
        c &= 0x1f;
        min = 0x80;

    } else if (c >= 0xe0 && c <= 0xef) {
        n = 2;
        c &= 0x0f;
        min = 0x800;

    } else if (c >= 0xf0 && c <= 0xf4) {
        n = 3;
        c &= 0x07;
        min = 0x10000;

    } else {
        return NGX_HTTP_CDM_STOP_BAD_UTF8;
    }

    if ((size_t) (last - s) <= n) {
        return NGX_HTTP_CDM_STOP_BAD_UTF8;
    }

    for (i = 1; i <= n; i++) {

        if ((s[i] & 0xc0) != 0x80) {
            return NGX_HTTP_CDM_STOP_BAD_UTF8;
        }

        c = (c << 6) | (s[i] & 0x3f);
    }

    if (c < min || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
        return NGX_HTTP_CDM_STOP_BAD_UTF8;
    }

    *p = s + n + 1;

    return c;
}


u_char *
ngx_http_cdm_stop_json_text(u_char *dst, u_char *end, ngx_str_t *src,
    size_t max)
{
    size_t  n;

    n = ngx_min(src->len, max);
    n = ngx_http_cdm_stop_copy_plain(dst, src->data,
                                     ngx_min(n, (size_t) (end - dst)));

    /* most texts are plain as a whole */

    if (n == src->len) {
        return dst + n;
    }

    return ngx_http_cdm_stop_json_rest(dst + n, end, src, n, max);
}


/* what is behind the first n bytes */

static u_char *
ngx_http_cdm_stop_json_rest(u_char *dst, u_char *end, ngx_str_t *src,
    size_t n, size_t max)
{
    u_char     *p, *start, *last, *stop;
    uint32_t    c;

    p = src->data + n;
    last = src->data + src->len;
    stop = (src->len > max) ? src->data + max : last;

    while (p < stop) {

        n = ngx_http_cdm_stop_copy_plain(dst, p, ngx_min(stop - p, end - dst));

        if (n) {
            p += n;
            dst += n;
            continue;
        }

        if (ngx_http_cdm_stop_is_plain(*p)) {
            return NULL;
        }

        start = p;
        c = ngx_http_cdm_stop_utf8_decode(&p, last);

        if (p > stop) {
            break;
        }

        /* the longest form of one character is \uXXXX */

        if (end - dst < 6) {
            return NULL;
        }

        if (c == NGX_HTTP_CDM_STOP_BAD_UTF8) {
            dst = ngx_cpymem(dst, "\xef\xbf\xbd", 3);

        } else if (c == '"' || c == '\\') {
            *dst++ = '\\';
            *dst++ = (u_char) c;

        } else if (ngx_http_cdm_stop_text_unsafe(c)) {
            dst = ngx_sprintf(dst, "\\u%04xD", c);

        } else {
            n = p - start;
            dst = ngx_cpymem(dst, start, n);
        }
    }

    if (src->len > max) {

        if (end - dst < 3) {
            return NULL;
        }

        dst = ngx_cpymem(dst, "\xe2\x80\xa6", 3);
    }

    return dst;
}


/*
 * Copies what stands for itself, up to len bytes, and returns how much that
 * was: eight bytes at a time, and what is left of less than eight together
 * with some of those before it.
 */

static size_t
ngx_http_cdm_stop_copy_plain(u_char *dst, u_char *src, size_t len)
{
    size_t    i;
    uint64_t  eight;

    for (i = 0; len - i >= 8; i += 8) {
        ngx_memcpy(&eight, src + i, 8);

        if (ngx_http_cdm_stop_any_special(eight)) {
            goto single;
        }

        ngx_memcpy(dst + i, &eight, 8);
    }

    if (i && i < len) {
        ngx_memcpy(&eight, src + len - 8, 8);

        if (!ngx_http_cdm_stop_any_special(eight)) {
            ngx_memcpy(dst + len - 8, &eight, 8);
            return len;
        }
    }

single:

    while (i < len && ngx_http_cdm_stop_is_plain(src[i])) {
        dst[i] = src[i];
        i++;
    }

    return i;
}


/*
 * Whether any of eight bytes does not stand for itself: the first bit of a
 * byte is set by the subtraction of 0x20 from less than that, by that of 1
 * from 0, which a quote or a backslash is made, and by the addition of 1 to
 * 0x7f, or it was set before.  What is carried over into another byte comes
 * from one that is such.
 */

static ngx_uint_t
ngx_http_cdm_stop_any_special(uint64_t eight)
{
    uint64_t  one, quote, backslash, set;

    one = NGX_HTTP_CDM_STOP_BYTES(1);
    quote = eight ^ NGX_HTTP_CDM_STOP_BYTES('"');
    backslash = eight ^ NGX_HTTP_CDM_STOP_BYTES('\\');

    set = eight | (eight - NGX_HTTP_CDM_STOP_BYTES(0x20))
          | (quote - one) | (backslash - one) | (eight + one);

    return (set & NGX_HTTP_CDM_STOP_BYTES(0x80)) != 0;
}


ngx_uint_t
ngx_http_cdm_stop_text_unsafe(uint32_t c)
{
    if (c < 0x20 || (c >= 0x7f && c <= 0x9f)) {
        return 1;
    }

    /* U+2028, U+2029 end a line for many readers; the rest reorders text */

    return c == 0x61c || c == 0x200e || c == 0x200f
           || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069)
           || c == 0xfeff;
}


u_char *
ngx_http_cdm_stop_hex_dump(u_char *dst, u_char *src, size_t len)
{
    /* ids and hashes are of four bytes or a multiple of that */

    while (len >= 4) {
        ngx_http_cdm_stop_put_hex(dst, src[0]);
        ngx_http_cdm_stop_put_hex(dst + 2, src[1]);
        ngx_http_cdm_stop_put_hex(dst + 4, src[2]);
        ngx_http_cdm_stop_put_hex(dst + 6, src[3]);

        dst += 8;
        src += 4;
        len -= 4;
    }

    while (len--) {
        ngx_http_cdm_stop_put_hex(dst, *src++);
        dst += 2;
    }

    return dst;
}


size_t
ngx_http_cdm_stop_text_fit(ngx_str_t *src, size_t size)
{
    while (size && (src->data[size] & 0xc0) == 0x80) {
        size--;
    }

    return size;
}


void
ngx_http_cdm_stop_redact(ngx_str_t *text, ngx_str_t *secret)
{
    size_t   len;
    u_char  *p, *last, *start;

    if (text->len == 0) {
        return;
    }

    /* APIG echoes headers, and others may echo bodies, behind these */

    ngx_http_cdm_stop_redact_after(text, "canonicalRequest");
    ngx_http_cdm_stop_redact_after(text, "\"password");
    ngx_http_cdm_stop_redact_after(text, "SDK-HMAC");
    ngx_http_cdm_stop_redact_after(text, "Signature=");
    ngx_http_cdm_stop_redact_after(text, "Access=");

    ngx_http_cdm_stop_redact_pieces(text, secret);

    p = text->data;
    last = p + text->len;

    while (p < last) {

        if (!ngx_http_cdm_stop_token_char(*p)) {
            p++;
            continue;
        }

        start = p;

        while (p < last && ngx_http_cdm_stop_token_char(*p)) {
            p++;
        }

        len = p - start;

        if (ngx_http_cdm_stop_looks_secret(start, len)) {
            ngx_memset(start, '*', len);
        }
    }
}


static void
ngx_http_cdm_stop_redact_after(ngx_str_t *text, char *key)
{
    size_t   n;
    u_char  *p;

    n = ngx_strlen(key);

    p = ngx_strlcasestrn(text->data, text->data + text->len, (u_char *) key,
                         n - 1);
    if (p == NULL) {
        return;
    }

    text->len = p + n - text->data;
}


static ngx_uint_t
ngx_http_cdm_stop_token_char(u_char c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')
           || c == '+' || c == '/' || c == '=' || c == '_' || c == '-';
}


static ngx_uint_t
ngx_http_cdm_stop_looks_secret(u_char *p, size_t len)
{
    size_t      i;
    ngx_uint_t  upper, lower, digit, hex;

    if (len < NGX_HTTP_CDM_STOP_RUN) {
        return 0;
    }

    upper = 0;
    lower = 0;
    digit = 0;
    hex = 0;

    for (i = 0; i < len; i++) {

        if (p[i] >= '0' && p[i] <= '9') {
            digit++;
            hex++;

        } else if (p[i] >= 'A' && p[i] <= 'Z') {
            upper++;
            hex += (p[i] <= 'F');

        } else if (p[i] >= 'a' && p[i] <= 'z') {
            lower++;
            hex += (p[i] <= 'f');
        }
    }

    /* ids of projects, clusters and requests are hex of 32 or 36 bytes */

    if (hex == len) {
        return len > 36;
    }

    return upper && lower && digit;
}


static void
ngx_http_cdm_stop_redact_pieces(ngx_str_t *text, ngx_str_t *secret)
{
    size_t   i, j, n, len;
    u_char  *p, *q, *last;

    n = ngx_min(NGX_HTTP_CDM_STOP_PIECE, secret->len);

    if (n == 0) {
        return;
    }

    last = text->data + text->len;

    for (p = text->data; p < last; p++) {

        for (i = 0; i + n <= secret->len; i++) {

            q = p;

            for (j = i; j < secret->len; j++) {

                len = ngx_http_cdm_stop_stands_for(q, last, secret->data[j]);

                if (len == 0) {
                    break;
                }

                q += len;
            }

            if (j - i < n) {
                continue;
            }

            /* the next search begins behind */

            ngx_memset(p, '*', q - p);
            p = q - 1;

            break;
        }
    }
}


/* the length of a byte of a text as it is or, as in a URL, escaped, or 0 */

static size_t
ngx_http_cdm_stop_stands_for(u_char *p, u_char *last, u_char c)
{
    if (p == last) {
        return 0;
    }

    if (*p == c) {
        return 1;
    }

    if (*p == '%' && last - p >= 3 && ngx_hextoi(p + 1, 2) == c) {
        return 3;
    }

    return 0;
}
