
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * The target of a stop.  What is accepted obeys the grammar, and its canonical
 * form parses to the same parts.  What is declined is made a stop by no chain
 * of up to three normalisations, done here one by one as servers do them, and
 * then read segment by segment.  What has nothing to normalise is refused only
 * if it has the shape of a stop.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_target.h"


#define TARGET_LEN     512      /* inputs longer than this go unexplored */
#define TARGET_FORMS   600
#define TARGET_DEPTH   3


typedef struct {
    u_char      data[TARGET_LEN];
    size_t      len;
    ngx_uint_t  depth;
} form_t;


typedef struct {
    void      (*step)(form_t *f, u_char c);
    u_char      c;
} step_t;


static ngx_int_t parse(ngx_http_cdm_stop_target_t *t, u_char *p, size_t len);
static void check_accepted(ngx_http_cdm_stop_target_t *t, u_char *p,
    size_t len);
static void check_declined(u_char *p, size_t len);
static void check_refused(u_char *p, size_t len);
static ngx_uint_t is_plain(u_char *p, size_t len);
static size_t explore(form_t *first, ngx_uint_t whole);
static ngx_uint_t is_stop(form_t *f);
static ngx_uint_t is_word(u_char *p, size_t len, const char *word);
static ngx_uint_t reads_as(u_char *p, size_t len, const char *word);
static void require(ngx_uint_t holds, const char *what);

static void step_decode(form_t *f, u_char u);
static void step_merge(form_t *f, u_char c);
static void step_dots(form_t *f, u_char c);
static void step_parameters(form_t *f, u_char c);
static void step_cut(form_t *f, u_char c);
static void step_backslash(form_t *f, u_char c);
static void step_lower(form_t *f, u_char c);
static void step_compatible(form_t *f, u_char c);
static void step_overlong(form_t *f, u_char c);
static void step_drop_controls(form_t *f, u_char c);
static void step_trim_slashes(form_t *f, u_char c);


/* the first of them change what a segment says, not where it ends */

#define SEGMENT_STEPS  7

static step_t  steps[] = {
    { step_decode, 0 },
    { step_decode, 'u' },
    { step_parameters, ';' },
    { step_lower, 0 },
    { step_compatible, 0 },
    { step_overlong, 0 },
    { step_drop_controls, 0 },
    { step_cut, ';' },
    { step_cut, '#' },
    { step_cut, '?' },
    { step_cut, 0 },
    { step_merge, 0 },
    { step_dots, 0 },
    { step_backslash, 0 },
    { step_trim_slashes, 0 }
};


#define STEPS  (sizeof(steps) / sizeof(step_t))


static form_t  forms[TARGET_FORMS];
static form_t  words[TARGET_FORMS];


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_http_cdm_stop_target_t  t;

    /* the line feed at the end of a file of seeds is no part of a target */

    size -= (size > 0 && data[size - 1] == '\n');

    switch (parse(&t, (u_char *) data, size)) {

    case NGX_OK:
        check_accepted(&t, (u_char *) data, size);
        break;

    case NGX_ERROR:
        check_refused((u_char *) data, size);
        break;

    case NGX_DECLINED:
        check_declined((u_char *) data, size);
        break;

    default:
        require(0, "a known return code");
    }

    return 0;
}


/* in buffers of the exact size, so that each byte beyond them is noticed */

static ngx_int_t
parse(ngx_http_cdm_stop_target_t *t, u_char *p, size_t len)
{
    u_char             *scratch, *copy;
    ngx_int_t           rc;
    ngx_str_t           uri;
    static u_char       names[2][NGX_HTTP_CDM_STOP_JOB_LEN];
    static ngx_uint_t   n;

    copy = malloc(len ? len : 1);
    scratch = malloc(len ? len : 1);
    require(copy != NULL && scratch != NULL, "memory");

    uri.data = memcpy(copy, p, len);
    uri.len = len;

    rc = ngx_http_cdm_stop_target_parse(t, &uri, scratch);

    if (rc == NGX_OK) {
        n = !n;
        t->job.data = memcpy(names[n], t->job.data, t->job.len);
        require(ngx_http_cdm_stop_target_resembles(&uri, scratch),
                "a stop resembles a stop");

        /* the ids point into the copy */
        t->project.data = p + (t->project.data - copy);
        t->cluster.data = p + (t->cluster.data - copy);
    }

    require(ngx_memcmp(copy, p, len) == 0, "the target is left as it was");

    free(scratch);
    free(copy);

    return rc;
}


static void
check_accepted(ngx_http_cdm_stop_target_t *t, u_char *p, size_t len)
{
    size_t                       i, chars, n;
    u_char                       c, next;
    form_t                       f;
    ngx_str_t                    path;
    ngx_http_cdm_stop_target_t   again;
    u_char                       canonical[NGX_HTTP_CDM_STOP_TARGET_LEN];

    require(t->project.len == 32 && t->cluster.len == 36, "lengths of ids");

    for (i = 0; i < t->job.len; i += n) {

        c = t->job.data[i];
        n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;

        require(n > 1 || (c >= 0x20 && c != 0x7f && c != '/' && c != '\\'
                          && c != '%' && c != ';' && c != '?' && c != '#'),
                "no forbidden character");
        require(i + n <= t->job.len, "a whole character");
        require(c != 0xc0 && c != 0xc1 && c < 0xf5, "a lead byte");

        next = (n > 1) ? t->job.data[i + 1] : 0;

        require((c != 0xc2 || next >= 0xa0) && (c != 0xe0 || next >= 0xa0)
                && (c != 0xed || next < 0xa0) && (c != 0xf0 || next >= 0x90)
                && (c != 0xf4 || next < 0x90),
                "no C1, overlong, surrogate or too large character");

        for (chars = 1; chars < n; chars++) {
            require((t->job.data[i + chars] & 0xc0) == 0x80,
                    "a continuation byte");
        }
    }

    for (chars = 0, i = 0; i < t->job.len; i++) {
        chars += ((t->job.data[i] & 0xc0) != 0x80);
    }

    require(chars >= 1 && chars <= 240, "1 to 240 characters");
    require(t->job.data[0] != ' ' && t->job.data[t->job.len - 1] != ' ',
            "no blank at an end");
    require(!is_word(t->job.data, t->job.len, ".")
            && !is_word(t->job.data, t->job.len, ".."), "no dot segment");

    path.data = canonical;
    path.len = ngx_http_cdm_stop_target_build(canonical, t) - canonical;

    require(path.len <= NGX_HTTP_CDM_STOP_TARGET_LEN, "the length is bounded");
    require(parse(&again, path.data, path.len) == NGX_OK,
            "the canonical form is a stop");
    require(again.job.len == t->job.len
            && ngx_memcmp(again.job.data, t->job.data, t->job.len) == 0
            && ngx_memcmp(again.project.data, t->project.data, 32) == 0
            && ngx_memcmp(again.cluster.data, t->cluster.data, 36) == 0,
            "it has the same parts");

    if (len > TARGET_LEN) {
        return;
    }

    /* nginx decodes once, and nothing else is to be done */

    ngx_memcpy(f.data, p, len);
    f.len = len;
    step_decode(&f, 0);

    path.data = f.data;
    path.len = f.len;

    require(ngx_http_cdm_stop_target_equal(t, &path), "it equals itself");

    path.data[path.len - sizeof("/stop")] ^= 1;

    require(!ngx_http_cdm_stop_target_equal(t, &path),
            "it differs from another name");
}


static void
check_declined(u_char *p, size_t len)
{
    size_t  i, n;

    if (len > TARGET_LEN) {
        return;
    }

    ngx_memcpy(forms[0].data, p, len);
    forms[0].len = len;

    n = explore(forms, 1);

    for (i = 0; i < n; i++) {
        require(!is_stop(&forms[i]), "no normalisation makes it a stop");
    }
}


static void
check_refused(u_char *p, size_t len)
{
    if (len == 0 || len > TARGET_LEN || !is_plain(p, len)) {
        return;
    }

    ngx_memcpy(forms[0].data, p, len);
    forms[0].len = len;
    step_trim_slashes(&forms[0], 0);

    require(is_stop(&forms[0]), "what is refused has the shape of a stop");
}


/* nothing in it but the ids or the name can be read in two ways */

static ngx_uint_t
is_plain(u_char *p, size_t len)
{
    size_t  i;

    if (len < 6 || ngx_strncasecmp(p, (u_char *) "/v1.1/", 6) != 0) {
        return 0;
    }

    for (i = 5; i < len; i++) {

        if (p[i] == '/') {

            /* an empty segment is there or not */

            if (p[i - 1] == '/' && p[len - 1] != '/') {
                return 0;
            }

            continue;
        }

        if (p[i - 1] == '/' && i > 6 && p[i - 2] == '/') {
            return 0;
        }

        if (!((p[i] >= 'a' && p[i] <= 'z') || (p[i] >= 'A' && p[i] <= 'Z')
              || (p[i] >= '0' && p[i] <= '9') || p[i] == '-' || p[i] == '_'))
        {
            return 0;
        }
    }

    return 1;
}


/* all that some steps make of the first form, each thing once */

static size_t
explore(form_t *first, ngx_uint_t whole)
{
    form_t      *f;
    size_t       i, j, n;
    ngx_uint_t   s, last;

    first->depth = 0;
    last = whole ? STEPS : SEGMENT_STEPS;
    n = 1;

    for (i = 0; i < n; i++) {

        if (first[i].depth == TARGET_DEPTH) {
            break;
        }

        for (s = 0; s < last && n < TARGET_FORMS; s++) {

            f = &first[n];
            *f = first[i];
            f->depth++;

            steps[s].step(f, steps[s].c);

            for (j = 0; j < n; j++) {
                if (first[j].len == f->len
                    && ngx_memcmp(first[j].data, f->data, f->len) == 0)
                {
                    break;
                }
            }

            n += (j == n);
        }
    }

    return n;
}


/* split at slashes, then each fixed segment read in all the ways there are */

static ngx_uint_t
is_stop(form_t *f)
{
    u_char              *p, *last, *next;
    size_t               i, k, n;
    static const char   *shape[] = { "v1.1", NULL, "clusters", NULL, "cdm",
                                     "job", NULL, "stop" };

    p = f->data;
    last = f->data + f->len;

    for (n = 0; p < last; p++) {
        n += (*p == '/');
    }

    if (n != 8 || f->data[0] != '/') {
        return 0;
    }

    p = f->data + 1;

    for (i = 0; i < 8; i++) {

        next = p;

        while (next < last && *next != '/') {
            next++;
        }

        if ((next == last) != (i == 7)) {
            return 0;
        }

        if (shape[i]) {
            ngx_memcpy(words[0].data, p, next - p);
            words[0].len = next - p;

            n = explore(words, 0);

            for (k = 0; k < n; k++) {
                if (reads_as(words[k].data, words[k].len, shape[i])) {
                    break;
                }
            }

            if (k == n) {
                return 0;
            }
        }

        p = next + 1;
    }

    return 1;
}


static ngx_uint_t
is_word(u_char *p, size_t len, const char *word)
{
    return len == strlen(word) && ngx_memcmp(p, word, len) == 0;
}


/* lenient readers leave out what is beyond ASCII */

static ngx_uint_t
reads_as(u_char *p, size_t len, const char *word)
{
    size_t  i;

    for (i = 0; i < len; i++) {

        if (p[i] >= 0x80) {
            continue;
        }

        if (*word == '\0' || p[i] != (u_char) *word) {
            return 0;
        }

        word++;
    }

    return *word == '\0';
}


static void
require(ngx_uint_t holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "it does not hold: %s\n", what);
        abort();
    }
}


/* %XX, or %uXXXX of an ASCII character */

static void
step_decode(form_t *f, u_char u)
{
    size_t     i, n, digits;
    ngx_int_t  c;

    digits = u ? 4 : 2;

    for (i = 0, n = 0; i < f->len; i++) {

        c = NGX_ERROR;

        if (f->data[i] == '%' && f->len - i > (u != 0) + digits
            && (!u || f->data[i + 1] == u))
        {
            c = ngx_hextoi(&f->data[i + 1 + (u != 0)], digits);
        }

        if (c == NGX_ERROR || (u && c > 0x7f)) {
            f->data[n++] = f->data[i];

        } else {
            f->data[n++] = (u_char) c;
            i += (u != 0) + digits;
        }
    }

    f->len = n;
}


static void
step_merge(form_t *f, u_char c)
{
    size_t  i, n;

    for (i = 0, n = 0; i < f->len; i++) {
        if (f->data[i] != '/' || n == 0 || f->data[n - 1] != '/') {
            f->data[n++] = f->data[i];
        }
    }

    f->len = n;
}


/* RFC 3986, section 5.2.4 */

static void
step_dots(form_t *f, u_char c)
{
    size_t  i, n, start;

    for (i = 0, n = 0; i < f->len; /* void */ ) {

        start = i++;

        while (i < f->len && f->data[i] != '/') {
            i++;
        }

        if (is_word(&f->data[start], i - start, "/.")) {

            if (i == f->len) {
                f->data[n++] = '/';
            }

            continue;
        }

        if (is_word(&f->data[start], i - start, "/..")) {

            while (n > 0 && f->data[--n] != '/') { /* void */ }

            if (i == f->len) {
                f->data[n++] = '/';
            }

            continue;
        }

        ngx_memmove(&f->data[n], &f->data[start], i - start);
        n += i - start;
    }

    f->len = n;
}


static void
step_parameters(form_t *f, u_char c)
{
    size_t      i, n;
    ngx_uint_t  inside;

    inside = 0;

    for (i = 0, n = 0; i < f->len; i++) {

        if (f->data[i] == c) {
            inside = 1;

        } else if (f->data[i] == '/') {
            inside = 0;
        }

        if (!inside) {
            f->data[n++] = f->data[i];
        }
    }

    f->len = n;
}


/* the target ends at some character, or at any control or blank */

static void
step_cut(form_t *f, u_char c)
{
    size_t  i;

    for (i = 0; i < f->len; i++) {
        if (c ? f->data[i] == c : (f->data[i] <= 0x20 || f->data[i] == 0x7f)) {
            f->len = i;
            return;
        }
    }
}


static void
step_backslash(form_t *f, u_char c)
{
    size_t  i;

    for (i = 0; i < f->len; i++) {
        if (f->data[i] == '\\') {
            f->data[i] = '/';
        }
    }
}


static void
step_lower(form_t *f, u_char c)
{
    ngx_strlow(f->data, f->data, f->len);
}


/* fullwidth forms are ASCII, and U+017F is s */

static void
step_compatible(form_t *f, u_char c)
{
    size_t  i, n;

    for (i = 0, n = 0; i < f->len; i++) {

        if (f->len - i >= 3 && f->data[i] == 0xef
            && ((f->data[i + 1] == 0xbc && f->data[i + 2] >= 0x81)
                || (f->data[i + 1] == 0xbd && f->data[i + 2] >= 0x80
                    && f->data[i + 2] <= 0x9e)))
        {
            f->data[n++] = (u_char) (((f->data[i + 1] & 1) << 6)
                                     + (f->data[i + 2] & 0x3f) + 0x20);
            i += 2;

        } else if (f->len - i >= 2 && f->data[i] == 0xc5
                   && f->data[i + 1] == 0xbf)
        {
            f->data[n++] = 's';
            i++;

        } else {
            f->data[n++] = f->data[i];
        }
    }

    f->len = n;
}


static void
step_overlong(form_t *f, u_char c)
{
    size_t  i, n;

    for (i = 0, n = 0; i < f->len; i++) {

        if (f->len - i >= 2 && (f->data[i] & 0xfe) == 0xc0
            && (f->data[i + 1] & 0xc0) == 0x80)
        {
            f->data[n++] = (u_char) (((f->data[i] & 1) << 6)
                                     | (f->data[i + 1] & 0x3f));
            i++;

        } else if (f->len - i >= 3 && f->data[i] == 0xe0
                   && (f->data[i + 1] & 0xfe) == 0x80
                   && (f->data[i + 2] & 0xc0) == 0x80)
        {
            f->data[n++] = (u_char) (((f->data[i + 1] & 1) << 6)
                                     | (f->data[i + 2] & 0x3f));
            i += 2;

        } else {
            f->data[n++] = f->data[i];
        }
    }

    f->len = n;
}


static void
step_drop_controls(form_t *f, u_char c)
{
    size_t  i, n;

    for (i = 0, n = 0; i < f->len; i++) {
        if (f->data[i] > 0x20 && f->data[i] != 0x7f) {
            f->data[n++] = f->data[i];
        }
    }

    f->len = n;
}


static void
step_trim_slashes(form_t *f, u_char c)
{
    while (f->len > 1 && f->data[f->len - 1] == '/') {
        f->len--;
    }
}
