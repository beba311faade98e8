
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


/* how a pattern, or a branch of it, begins or ends */

typedef enum {
    NGX_HTTP_CDM_STOP_EDGE_OPEN = 0,
    NGX_HTTP_CDM_STOP_EDGE_ANCHOR,
    NGX_HTTP_CDM_STOP_EDGE_ALL,         /* ".*", or a group with anchors */
    NGX_HTTP_CDM_STOP_EDGE_NONE         /* nothing of weight so far */
} ngx_http_cdm_stop_edge_e;


typedef struct {
    ngx_str_t                       text;
    ngx_str_t                       bare;       /* without its anchors */
    ngx_http_cdm_stop_edge_e        start;
    ngx_http_cdm_stop_edge_e        end;
} ngx_http_cdm_stop_branch_t;


/* what the branches of a pattern have between them */

typedef struct {
    ngx_str_t                       fact;       /* up to "~" or "~*" */
    ngx_str_t                       pattern;
    ngx_uint_t                      branches;
    ngx_uint_t                      starts[2];  /* open ones, anchored ones */
    ngx_uint_t                      ends[2];
} ngx_http_cdm_stop_pattern_t;


static ngx_int_t ngx_http_cdm_stop_anchor_read(
    ngx_http_cdm_stop_condition_t *condition, ngx_http_cdm_stop_pattern_t *pt);
static u_char *ngx_http_cdm_stop_anchor_branch(u_char *p, u_char *last,
    ngx_http_cdm_stop_branch_t *branch);
static u_char *ngx_http_cdm_stop_anchor_token(u_char *p, u_char *last,
    ngx_http_cdm_stop_edge_e *start, ngx_http_cdm_stop_edge_e *end);
static u_char *ngx_http_cdm_stop_anchor_escape(u_char *p, u_char *last,
    ngx_http_cdm_stop_edge_e *edge);
static u_char *ngx_http_cdm_stop_anchor_class(u_char *p, u_char *last);
static u_char *ngx_http_cdm_stop_anchor_group(u_char *p, u_char *last,
    ngx_http_cdm_stop_edge_e *start, ngx_http_cdm_stop_edge_e *end);
static u_char *ngx_http_cdm_stop_anchor_options(u_char *p, u_char *last);
static ngx_uint_t ngx_http_cdm_stop_anchor_suggest(
    ngx_http_cdm_stop_pattern_t *pt, ngx_str_t *text);


/*
 * A pattern that lets somebody in has to say what the whole value is: "admin"
 * also matches "not-admin".  Of a job, the beginning is enough, since
 * families of jobs share it.  And in any pattern "^a|b$" asks less of each
 * branch than it looks.
 */

void
ngx_http_cdm_stop_lint_pattern(ngx_conf_t *cf, ngx_http_cdm_stop_rule_t *rule,
    ngx_http_cdm_stop_condition_t *condition)
{
    u_char                       buf[NGX_MAX_CONF_ERRSTR / 2];
    ngx_str_t                    better;
    ngx_uint_t                   start, end, lets_in;
    ngx_http_cdm_stop_pattern_t  pt;

    if (ngx_http_cdm_stop_anchor_read(condition, &pt) != NGX_OK) {
        return;
    }

    lets_in = (rule->deny == condition->negated);

    start = (pt.starts[0] == 0);
    end = (pt.ends[0] == 0);

    if (pt.branches > 1
        && ((pt.starts[0] && pt.starts[1]) || (pt.ends[0] && pt.ends[1])))
    {
        better.data = buf;
        better.len = sizeof(buf);

        if (!ngx_http_cdm_stop_anchor_suggest(&pt, &better)) {
            return;
        }

        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &rule->place,
                                     "anchors of pattern \"%V\" of rule "
                                     "\"%V\" hold for a part of its "
                                     "alternatives only, write \"%V\"",
                                     &condition->text, &rule->name, &better);
        return;
    }

    if (condition->fact == NGX_HTTP_CDM_STOP_FACT_JOB) {
        end = 1;
    }

    if (!lets_in || (start && end)) {
        return;
    }

    ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &rule->place,
                                 "pattern \"%V\" of rule \"%V\" also matches "
                                 "%s, write \"%s\" at its %s%s",
                                 &condition->text, &rule->name,
                                 start ? "what goes on behind it"
                                       : "in the middle of a value",
                                 start ? "$" : "^", start ? "end" : "start",
                                 (pt.branches > 1)
                                 ? " and parentheses around its alternatives"
                                 : "");
}


/* NGX_DECLINED if the pattern is one that cannot be told without PCRE */

static ngx_int_t
ngx_http_cdm_stop_anchor_read(ngx_http_cdm_stop_condition_t *condition,
    ngx_http_cdm_stop_pattern_t *pt)
{
    u_char                      *p, *last;
    ngx_http_cdm_stop_branch_t   branch;

    ngx_memzero(pt, sizeof(ngx_http_cdm_stop_pattern_t));

    p = condition->text.data;
    last = p + condition->text.len;

    pt->fact.data = p;

    p = ngx_strlchr(p, last, '~') + 1;

    if (p < last && *p == '*') {
        p++;
    }

    p = ngx_http_cdm_stop_anchor_options(p, last);

    if (p == NULL) {
        return NGX_DECLINED;
    }

    pt->fact.len = p - pt->fact.data;

    pt->pattern.data = p;
    pt->pattern.len = last - p;

    do {
        p = ngx_http_cdm_stop_anchor_branch(p, last, &branch);

        pt->branches++;

        if (branch.start <= NGX_HTTP_CDM_STOP_EDGE_ANCHOR) {
            pt->starts[branch.start]++;
        }

        if (branch.end <= NGX_HTTP_CDM_STOP_EDGE_ANCHOR) {
            pt->ends[branch.end]++;
        }

    } while (p);

    return NGX_OK;
}


/* up to "|" or the end; returns where the next one begins, or NULL */

static u_char *
ngx_http_cdm_stop_anchor_branch(u_char *p, u_char *last,
    ngx_http_cdm_stop_branch_t *branch)
{
    u_char                    *token;
    ngx_http_cdm_stop_edge_e   start, end;

    branch->text.data = p;
    branch->bare.data = p;
    branch->start = NGX_HTTP_CDM_STOP_EDGE_NONE;
    branch->end = NGX_HTTP_CDM_STOP_EDGE_NONE;

    token = p;

    while (p < last && *p != '|') {

        token = p;
        start = NGX_HTTP_CDM_STOP_EDGE_OPEN;
        end = branch->end;

        p = ngx_http_cdm_stop_anchor_token(p, last, &start, &end);

        if (branch->start == NGX_HTTP_CDM_STOP_EDGE_NONE) {
            branch->start = start;

            if (start == NGX_HTTP_CDM_STOP_EDGE_ANCHOR
                && token == branch->text.data)
            {
                branch->bare.data = p;
            }
        }

        branch->end = end;
    }

    branch->text.len = p - branch->text.data;

    if (branch->end == NGX_HTTP_CDM_STOP_EDGE_ANCHOR
        && token >= branch->bare.data)
    {
        branch->bare.len = token - branch->bare.data;

    } else {
        branch->bare.len = p - branch->bare.data;
    }

    if (branch->start == NGX_HTTP_CDM_STOP_EDGE_NONE) {
        branch->start = NGX_HTTP_CDM_STOP_EDGE_OPEN;
    }

    if (branch->end == NGX_HTTP_CDM_STOP_EDGE_NONE) {
        branch->end = NGX_HTTP_CDM_STOP_EDGE_OPEN;
    }

    return (p < last) ? p + 1 : NULL;
}


/* "end" is that of the token before, which a quantifier leaves as it is */

static u_char *
ngx_http_cdm_stop_anchor_token(u_char *p, u_char *last,
    ngx_http_cdm_stop_edge_e *start, ngx_http_cdm_stop_edge_e *end)
{
    if (*p == '*' || *p == '+' || *p == '?') {
        return p + 1;
    }

    *end = NGX_HTTP_CDM_STOP_EDGE_OPEN;

    switch (*p) {

    case '\\':
        p = ngx_http_cdm_stop_anchor_escape(p, last, end);
        *start = *end;
        return p;

    case '[':
        return ngx_http_cdm_stop_anchor_class(p, last);

    case '(':
        return ngx_http_cdm_stop_anchor_group(p, last, start, end);

    case '.':
        if (p + 1 < last && p[1] == '*') {
            *start = *end = NGX_HTTP_CDM_STOP_EDGE_ALL;
            return p + 2;
        }

        break;

    case '^':
        *start = NGX_HTTP_CDM_STOP_EDGE_ANCHOR;
        break;

    case '$':
        *end = NGX_HTTP_CDM_STOP_EDGE_ANCHOR;
        break;
    }

    return p + 1;
}


/* \A begins a value, \z and \Z end it, \Q...\E is taken as it is */

static u_char *
ngx_http_cdm_stop_anchor_escape(u_char *p, u_char *last,
    ngx_http_cdm_stop_edge_e *edge)
{
    p++;

    if (p == last) {
        return p;
    }

    switch (*p) {

    case 'A':
    case 'z':
    case 'Z':
        *edge = NGX_HTTP_CDM_STOP_EDGE_ANCHOR;
        break;

    case 'Q':

        for (p++; p + 1 < last; p++) {
            if (p[0] == '\\' && p[1] == 'E') {
                return p + 2;
            }
        }

        return last;
    }

    return p + 1;
}


/* behind the bracket that closes it */

static u_char *
ngx_http_cdm_stop_anchor_class(u_char *p, u_char *last)
{
    p++;

    if (p < last && *p == '^') {
        p++;
    }

    /* the first one may be "]" itself */

    if (p < last && *p == ']') {
        p++;
    }

    while (p < last && *p != ']') {

        if (*p == '\\' && p + 1 < last) {
            p += 2;
            continue;
        }

        if (*p == '[' && p + 1 < last && p[1] == ':') {

            /* such as [:alpha:] */

            for (p += 2; p < last && *p != ']'; p++) { /* void */ }
        }

        p++;
    }

    return (p < last) ? p + 1 : last;
}


/*
 * A group is told by what is in it: with "^" somewhere it may begin a value,
 * with "$" it may end it.  What looks ahead or behind takes no part of the
 * value.
 */

static u_char *
ngx_http_cdm_stop_anchor_group(u_char *p, u_char *last,
    ngx_http_cdm_stop_edge_e *start, ngx_http_cdm_stop_edge_e *end)
{
    ngx_uint_t                 looks;
    ngx_http_cdm_stop_edge_e   edge, inner_start, inner_end;

    looks = (last - p > 3 && p[1] == '?'
             && (p[2] == '=' || p[2] == '!'
                 || (p[2] == '<' && (p[3] == '=' || p[3] == '!'))));
    p++;

    while (p < last && *p != ')') {

        switch (*p) {

        case '\\':
            edge = NGX_HTTP_CDM_STOP_EDGE_OPEN;
            p = ngx_http_cdm_stop_anchor_escape(p, last, &edge);

            if (edge == NGX_HTTP_CDM_STOP_EDGE_ANCHOR) {
                *start = *end = NGX_HTTP_CDM_STOP_EDGE_ALL;
            }

            continue;

        case '[':
            p = ngx_http_cdm_stop_anchor_class(p, last);
            continue;

        case '(':
            inner_start = NGX_HTTP_CDM_STOP_EDGE_OPEN;
            inner_end = NGX_HTTP_CDM_STOP_EDGE_OPEN;

            p = ngx_http_cdm_stop_anchor_group(p, last, &inner_start,
                                               &inner_end);

            *start = ngx_max(*start, inner_start);
            *end = ngx_max(*end, inner_end);
            continue;

        case '^':
            *start = NGX_HTTP_CDM_STOP_EDGE_ALL;
            break;

        case '$':
            *end = NGX_HTTP_CDM_STOP_EDGE_ALL;
            break;

        case '.':
            if (p + 1 < last && p[1] == '*') {
                *start = *end = NGX_HTTP_CDM_STOP_EDGE_ALL;
            }

            break;
        }

        p++;
    }

    if (looks) {
        *start = NGX_HTTP_CDM_STOP_EDGE_NONE;
        *end = NGX_HTTP_CDM_STOP_EDGE_ALL;
    }

    return (p < last) ? p + 1 : last;
}


/*
 * Skips (*VERB) and (?i) at the beginning.  With x and m, blanks and lines
 * have another meaning: NULL.
 */

static u_char *
ngx_http_cdm_stop_anchor_options(u_char *p, u_char *last)
{
    u_char  *end, *option;

    while (last - p > 2 && p[0] == '('
           && (p[1] == '*' || p[1] == '?'))
    {
        end = ngx_strlchr(p, last, ')');

        if (end == NULL) {
            return NULL;
        }

        for (option = p + 2; p[1] == '?' && option < end; option++) {

            if (!((*option | 0x20) >= 'a' && (*option | 0x20) <= 'z')
                && *option != '-' && *option != '^')
            {
                /* a group */

                return p;
            }

            if (*option == 'x' || *option == 'm') {
                return NULL;
            }
        }

        p = end + 1;
    }

    return p;
}


/* the alternatives in one pair of parentheses; 0 if it is too long */

static ngx_uint_t
ngx_http_cdm_stop_anchor_suggest(ngx_http_cdm_stop_pattern_t *pt,
    ngx_str_t *text)
{
    u_char                      *p, *w, *last;
    ngx_http_cdm_stop_branch_t   branch;

    if (pt->fact.len + pt->pattern.len + sizeof("^()$") > text->len) {
        return 0;
    }

    w = ngx_cpymem(text->data, pt->fact.data, pt->fact.len);

    if (pt->starts[1]) {
        *w++ = '^';
    }

    *w++ = '(';

    p = pt->pattern.data;
    last = p + pt->pattern.len;

    do {
        p = ngx_http_cdm_stop_anchor_branch(p, last, &branch);

        w = ngx_cpymem(w, branch.bare.data, branch.bare.len);
        *w++ = p ? '|' : ')';

    } while (p);

    if (pt->ends[1]) {
        *w++ = '$';
    }

    text->len = w - text->data;

    return 1;
}
