
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* A line of a chain taken to pieces: pure, and the part that is fuzzed */


#include <string.h>
#include "audit.h"


#define CDM_STOP_AUDIT_DEPTH     8
#define CDM_STOP_AUDIT_KEYS_MAX  64


typedef struct {
    const unsigned char   *pos;
    const unsigned char   *end;
    const char            *error;
    size_t                 nkeys;
    cdm_stop_audit_str_t   keys[CDM_STOP_AUDIT_KEYS_MAX];
} cdm_stop_audit_parse_t;


static void cdm_stop_audit_members(cdm_stop_audit_parse_t *p,
    cdm_stop_audit_line_t *line, const unsigned char *start);
static int cdm_stop_audit_string(cdm_stop_audit_parse_t *p,
    cdm_stop_audit_str_t *s);
static int cdm_stop_audit_plain(const unsigned char *p);
static int cdm_stop_audit_escape(cdm_stop_audit_parse_t *p);
static int cdm_stop_audit_utf8(cdm_stop_audit_parse_t *p);
static int cdm_stop_audit_value(cdm_stop_audit_parse_t *p,
    cdm_stop_audit_str_t *s, int depth);
static int cdm_stop_audit_nested(cdm_stop_audit_parse_t *p, int depth);
static int cdm_stop_audit_number(cdm_stop_audit_parse_t *p);
static int cdm_stop_audit_key_seen(cdm_stop_audit_parse_t *p, size_t first,
    const cdm_stop_audit_str_t *key);
static int cdm_stop_audit_same(const cdm_stop_audit_str_t *a,
    const cdm_stop_audit_str_t *b);
static int cdm_stop_audit_fail(cdm_stop_audit_parse_t *p, const char *error);
static const char *cdm_stop_audit_record(cdm_stop_audit_line_t *line);
static int cdm_stop_audit_integer(const cdm_stop_audit_str_t *s, int64_t *n);


#define cdm_stop_audit_name(s)  { sizeof(s) - 1, (const unsigned char *) s }

static const cdm_stop_audit_str_t  cdm_stop_audit_names[] = {
    cdm_stop_audit_name("v"),
    cdm_stop_audit_name("chain"),
    cdm_stop_audit_name("seq"),
    cdm_stop_audit_name("prev"),
    cdm_stop_audit_name("torn"),
    cdm_stop_audit_name("stage"),
    cdm_stop_audit_name("time"),
    cdm_stop_audit_name("request_id"),
    cdm_stop_audit_name("job_name"),
    cdm_stop_audit_name("closed"),
    cdm_stop_audit_name("client_token"),
    cdm_stop_audit_name("injected_token"),
    cdm_stop_audit_name("every"),
    cdm_stop_audit_name("key_id"),
    cdm_stop_audit_name("signature"),
    cdm_stop_audit_name("hash")
};


const char *
cdm_stop_audit_line(const unsigned char *data, size_t len,
    cdm_stop_audit_line_t *line)
{
    cdm_stop_audit_parse_t  p;

    memset(line, 0, sizeof(cdm_stop_audit_line_t));

    p.pos = data;
    p.end = data + len;
    p.error = NULL;
    p.nkeys = 0;

    if (len == 0) {
        return "an empty line";
    }

    if (*p.pos++ != '{') {
        return "it is no JSON object";
    }

    cdm_stop_audit_members(&p, line, data);

    if (p.error) {
        return p.error;
    }

    if (p.pos != p.end) {
        return "there is more behind the JSON object";
    }

    return cdm_stop_audit_record(line);
}


static void
cdm_stop_audit_members(cdm_stop_audit_parse_t *p, cdm_stop_audit_line_t *line,
    const unsigned char *start)
{
    size_t                 i, at;
    cdm_stop_audit_str_t   key, value;

    for ( ;; ) {

        at = p->pos - start - 1;

        if (cdm_stop_audit_string(p, &key) != 0) {
            return;
        }

        if (cdm_stop_audit_key_seen(p, 0, &key) != 0) {
            return;
        }

        if (p->pos == p->end || *p->pos++ != ':') {
            cdm_stop_audit_fail(p, "a colon is missing");
            return;
        }

        if (cdm_stop_audit_value(p, &value, 1) != 0) {
            return;
        }

        for (i = 0; i < CDM_STOP_AUDIT_MEMBERS; i++) {

            if (cdm_stop_audit_same(&key, &cdm_stop_audit_names[i])) {
                line->members[i] = value;

                if (i == CDM_STOP_AUDIT_SIGNATURE) {
                    line->is_signed = at;

                } else if (i == CDM_STOP_AUDIT_HASH) {
                    line->hashed = at;
                }

                break;
            }
        }

        if (p->pos == p->end) {
            cdm_stop_audit_fail(p, "it ends within the JSON object");
            return;
        }

        if (*p->pos == '}') {
            p->pos++;
            return;
        }

        if (line->hashed) {
            cdm_stop_audit_fail(p, "there is a member behind the hash");
            return;
        }

        if (*p->pos++ != ',') {
            cdm_stop_audit_fail(p, "it is no valid JSON");
            return;
        }
    }
}


static int
cdm_stop_audit_key_seen(cdm_stop_audit_parse_t *p, size_t first,
    const cdm_stop_audit_str_t *key)
{
    size_t  i;

    for (i = first; i < p->nkeys; i++) {

        if (cdm_stop_audit_same(&p->keys[i], key)) {
            return cdm_stop_audit_fail(p, "it has a member twice");
        }
    }

    if (p->nkeys == CDM_STOP_AUDIT_KEYS_MAX) {
        return cdm_stop_audit_fail(p, "it has too many members");
    }

    p->keys[p->nkeys++] = *key;

    return 0;
}


/* called for all pairs of names: most differ in what is looked at first */

static int
cdm_stop_audit_same(const cdm_stop_audit_str_t *a,
    const cdm_stop_audit_str_t *b)
{
    return a->len == b->len
           && (a->len == 0
               || (a->data[0] == b->data[0]
                   && memcmp(a->data, b->data, a->len) == 0));
}


/* no blanks: the module writes none */

static int
cdm_stop_audit_value(cdm_stop_audit_parse_t *p, cdm_stop_audit_str_t *s,
    int depth)
{
    size_t  len;

    if (p->pos == p->end) {
        return cdm_stop_audit_fail(p, "it ends within the JSON object");
    }

    if (*p->pos == '"') {
        return cdm_stop_audit_string(p, s);
    }

    s->data = p->pos;
    len = p->end - p->pos;

    if (*p->pos == '{' || *p->pos == '[') {

        if (depth == CDM_STOP_AUDIT_DEPTH) {
            return cdm_stop_audit_fail(p, "it is nested too deep");
        }

        if (cdm_stop_audit_nested(p, depth) != 0) {
            return -1;
        }

    } else if (len >= 4 && (memcmp(p->pos, "true", 4) == 0
                            || memcmp(p->pos, "null", 4) == 0))
    {
        p->pos += 4;

    } else if (len >= 5 && memcmp(p->pos, "false", 5) == 0) {
        p->pos += 5;

    } else if (cdm_stop_audit_number(p) != 0) {
        return -1;
    }

    s->len = p->pos - s->data;

    return 0;
}


static int
cdm_stop_audit_nested(cdm_stop_audit_parse_t *p, int depth)
{
    size_t                 first, object;
    unsigned char          close;
    cdm_stop_audit_str_t   s;

    first = p->nkeys;
    object = (*p->pos == '{');
    close = object ? '}' : ']';

    p->pos++;

    if (p->pos < p->end && *p->pos == close) {
        p->pos++;
        return 0;
    }

    for ( ;; ) {

        if (object) {

            if (cdm_stop_audit_string(p, &s) != 0
                || cdm_stop_audit_key_seen(p, first, &s) != 0)
            {
                return -1;
            }

            if (p->pos == p->end || *p->pos++ != ':') {
                return cdm_stop_audit_fail(p, "a colon is missing");
            }
        }

        if (cdm_stop_audit_value(p, &s, depth + 1) != 0) {
            return -1;
        }

        if (p->pos == p->end) {
            return cdm_stop_audit_fail(p, "it ends within the JSON object");
        }

        if (*p->pos == close) {
            p->pos++;
            p->nkeys = first;
            return 0;
        }

        if (*p->pos++ != ',') {
            return cdm_stop_audit_fail(p, "it is no valid JSON");
        }
    }
}


static int
cdm_stop_audit_number(cdm_stop_audit_parse_t *p)
{
    const unsigned char  *start, *digits;

    start = p->pos;

    if (*p->pos == '-') {
        p->pos++;
    }

    digits = p->pos;

    while (p->pos < p->end && *p->pos >= '0' && *p->pos <= '9') {
        p->pos++;
    }

    if (p->pos == digits || (*digits == '0' && p->pos - digits > 1)) {
        p->pos = start;
        return cdm_stop_audit_fail(p, "it is no valid JSON");
    }

    if (p->pos < p->end && *p->pos == '.') {
        digits = ++p->pos;

        while (p->pos < p->end && *p->pos >= '0' && *p->pos <= '9') {
            p->pos++;
        }

        if (p->pos == digits) {
            return cdm_stop_audit_fail(p, "it is no valid JSON");
        }
    }

    return 0;
}


static int
cdm_stop_audit_string(cdm_stop_audit_parse_t *p, cdm_stop_audit_str_t *s)
{
    unsigned char         c;
    const unsigned char  *pos, *end;

    if (p->pos == p->end || *p->pos != '"') {
        return cdm_stop_audit_fail(p, "it is no valid JSON");
    }

    pos = ++p->pos;
    end = p->end;
    s->data = pos;

    while (pos < end) {
        c = *pos;

        if (c == '"') {
            s->len = pos - s->data;
            p->pos = pos + 1;
            return 0;
        }

        if (c >= 0x20 && c < 0x7f && c != '\\') {
            pos++;

            /* long texts by eight bytes, none of which is any of these */

            while (end - pos >= 8 && cdm_stop_audit_plain(pos)) {
                pos += 8;
            }

            continue;
        }

        p->pos = pos;

        if (c == '\\') {
            if (cdm_stop_audit_escape(p) != 0) {
                return -1;
            }

        } else if (c < 0x20) {
            return cdm_stop_audit_fail(p, "a control character in a string");

        } else if (cdm_stop_audit_utf8(p) != 0) {
            return -1;
        }

        pos = p->pos;
    }

    p->pos = end;

    return cdm_stop_audit_fail(p, "it ends within a string");
}


/* neither control, quote, backslash, DEL nor beyond ASCII; may say no */

static int
cdm_stop_audit_plain(const unsigned char *p)
{
    uint64_t        w, quote, slash, del;
    const uint64_t  ones = 0x0101010101010101;

    memcpy(&w, p, sizeof(w));

    quote = w ^ ones * '"';
    slash = w ^ ones * '\\';
    del = w ^ ones * 0x7f;

    return (((w - ones * 0x20) | (quote - ones) | (slash - ones)
             | (del - ones) | w)
            & ones * 0x80)
           == 0;
}


static int
cdm_stop_audit_escape(cdm_stop_audit_parse_t *p)
{
    unsigned char  code[2];

    p->pos++;

    if (p->pos == p->end) {
        return cdm_stop_audit_fail(p, "it ends within a string");
    }

    if (*p->pos == 'u') {

        if (p->end - p->pos < 5
            || cdm_stop_audit_unhex(code, p->pos + 1, 2) != 0)
        {
            return cdm_stop_audit_fail(p, "an escape that is none");
        }

        p->pos += 5;
        return 0;
    }

    if (*p->pos == '\0' || strchr("\"\\/bfnrt", *p->pos) == NULL) {
        return cdm_stop_audit_fail(p, "an escape that is none");
    }

    p->pos++;

    return 0;
}


/* a character as RFC 3629 has it: shortest form, no surrogate */

static int
cdm_stop_audit_utf8(cdm_stop_audit_parse_t *p)
{
    size_t         n, i;
    unsigned char  c, low, high;

    c = *p->pos;
    low = 0x80;
    high = 0xbf;

    if (c == 0x7f) {
        n = 0;

    } else if (c >= 0xc2 && c <= 0xdf) {
        n = 1;

    } else if ((c & 0xf0) == 0xe0) {
        n = 2;
        low = (c == 0xe0) ? 0xa0 : 0x80;
        high = (c == 0xed) ? 0x9f : 0xbf;

    } else if (c >= 0xf0 && c <= 0xf4) {
        n = 3;
        low = (c == 0xf0) ? 0x90 : 0x80;
        high = (c == 0xf4) ? 0x8f : 0xbf;

    } else {
        return cdm_stop_audit_fail(p, "it is no valid UTF-8");
    }

    if ((size_t) (p->end - p->pos) <= n) {
        return cdm_stop_audit_fail(p, "it is no valid UTF-8");
    }

    for (i = 1; i <= n; i++) {

        if (p->pos[i] < low || p->pos[i] > high) {
            return cdm_stop_audit_fail(p, "it is no valid UTF-8");
        }

        low = 0x80;
        high = 0xbf;
    }

    p->pos += n + 1;

    return 0;
}


static int
cdm_stop_audit_fail(cdm_stop_audit_parse_t *p, const char *error)
{
    if (p->error == NULL) {
        p->error = error;
    }

    return -1;
}


/* what makes a JSON object a record of a chain */

static const char *
cdm_stop_audit_record(cdm_stop_audit_line_t *line)
{
    cdm_stop_audit_str_t  *m;
    unsigned char          chain[CDM_STOP_AUDIT_CHAIN_LEN / 2];

    m = line->members;

    if (!cdm_stop_audit_is(&m[CDM_STOP_AUDIT_V], "1")) {
        return "its version \"v\" is not 1";
    }

    if (m[CDM_STOP_AUDIT_CHAIN].len != CDM_STOP_AUDIT_CHAIN_LEN
        || cdm_stop_audit_unhex(chain, m[CDM_STOP_AUDIT_CHAIN].data,
                                sizeof(chain))
           != 0)
    {
        return "it has no \"chain\"";
    }

    if (cdm_stop_audit_integer(&m[CDM_STOP_AUDIT_SEQ], &line->seq) != 0
        || line->seq < 1)
    {
        return "it has no \"seq\"";
    }

    if (m[CDM_STOP_AUDIT_PREV].len != 2 * CDM_STOP_AUDIT_HASH_LEN
        || cdm_stop_audit_unhex(line->prev, m[CDM_STOP_AUDIT_PREV].data,
                                CDM_STOP_AUDIT_HASH_LEN)
           != 0)
    {
        return "it has no \"prev\"";
    }

    if (m[CDM_STOP_AUDIT_HASH].len != 2 * CDM_STOP_AUDIT_HASH_LEN
        || cdm_stop_audit_unhex(line->hash, m[CDM_STOP_AUDIT_HASH].data,
                                CDM_STOP_AUDIT_HASH_LEN)
           != 0)
    {
        return "it has no \"hash\"";
    }

    if (m[CDM_STOP_AUDIT_STAGE].len == 0) {
        return "it has no \"stage\"";
    }

    if (cdm_stop_audit_time(m[CDM_STOP_AUDIT_TIME].data,
                            m[CDM_STOP_AUDIT_TIME].len)
        < 0)
    {
        return "it has no \"time\"";
    }

    if ((m[CDM_STOP_AUDIT_TORN].len
         && cdm_stop_audit_integer(&m[CDM_STOP_AUDIT_TORN], &line->torn) != 0)
        || (m[CDM_STOP_AUDIT_EVERY].len
            && cdm_stop_audit_integer(&m[CDM_STOP_AUDIT_EVERY], &line->every)
               != 0))
    {
        return "a number is none";
    }

    return NULL;
}


static int
cdm_stop_audit_integer(const cdm_stop_audit_str_t *s, int64_t *n)
{
    size_t   i;
    int64_t  value;

    if (s->len == 0 || s->len > 18) {
        return -1;
    }

    value = 0;

    for (i = 0; i < s->len; i++) {

        if (s->data[i] < '0' || s->data[i] > '9') {
            return -1;
        }

        value = value * 10 + (s->data[i] - '0');
    }

    *n = value;

    return 0;
}
