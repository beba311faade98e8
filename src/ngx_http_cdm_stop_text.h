
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_TEXT_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_TEXT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#define NGX_HTTP_CDM_STOP_BAD_UTF8  0xffffffff

/* a byte eight times, for what is done with eight bytes at a time */

#define NGX_HTTP_CDM_STOP_BYTES(c)  ((uint64_t) (c) * 0x0101010101010101)


/*
 * Decodes one character of strict UTF-8 (RFC 3629: no overlong form, no
 * surrogate, nothing above U+10FFFF) at *p and moves *p behind it.  Returns
 * the code point; on a malformed sequence returns NGX_HTTP_CDM_STOP_BAD_UTF8
 * and moves *p by one byte.  Expects *p < last.
 */
uint32_t ngx_http_cdm_stop_utf8_decode(u_char **p, u_char *last);

/*
 * Whether a character may change how the text around it is shown: controls,
 * separators of lines, bidirectional controls.
 */
ngx_uint_t ngx_http_cdm_stop_text_unsafe(uint32_t c);

/*
 * Writes src as the inside of a JSON string to [dst, end): at most max bytes
 * of src, cut before a character that does not fit in whole and then ended
 * by an ellipsis.  Malformed UTF-8 becomes U+FFFD; controls (C0, DEL, C1),
 * line and paragraph separators and bidirectional controls are written as
 * \uXXXX, so that a record stays one line that a terminal shows as it is.
 * Returns the new end, or NULL if the text does not fit.
 */
u_char *ngx_http_cdm_stop_json_text(u_char *dst, u_char *end, ngx_str_t *src,
    size_t max);

/* how much of a longer text fits into size bytes, not cut in a character */
size_t ngx_http_cdm_stop_text_fit(ngx_str_t *src, size_t size);

/* copies as much of src as there is room for and returns how much that was */

static ngx_inline size_t
ngx_http_cdm_stop_text_cut(u_char *dst, size_t size, ngx_str_t *src)
{
    size_t  len;

    len = src->len;

    if (len > size) {
        len = ngx_http_cdm_stop_text_fit(src, size);
    }

    if (len) {
        ngx_memcpy(dst, src->data, len);
    }

    return len;
}


/*
 * Writes 2 * len lowercase hexadecimal digits and returns their end, as
 * ngx_hex_dump() does, which takes three times longer.
 */
u_char *ngx_http_cdm_stop_hex_dump(u_char *dst, u_char *src, size_t len);

/*
 * Writes a number so that it ends before p, and returns where it begins: it
 * takes up to NGX_INT64_LEN bytes.
 */
static ngx_inline u_char *
ngx_http_cdm_stop_digits_before(u_char *p, uint64_t n)
{
    do {
        *--p = (u_char) ('0' + n % 10);
        n /= 10;
    } while (n);

    return p;
}


/*
 * Overwrites in place what looks like a credential in a message of CDM or
 * IAM: signatures, access keys, long runs with the look of a token, and every
 * piece of 8 or more bytes of the given secret, as it is or escaped as in a
 * URL; the secret may be empty or, if it is shorter, counts as a whole.
 */
void ngx_http_cdm_stop_redact(ngx_str_t *text, ngx_str_t *secret);


#endif /* _NGX_HTTP_CDM_STOP_TEXT_H_INCLUDED_ */
