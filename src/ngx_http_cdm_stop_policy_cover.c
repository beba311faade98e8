
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_cdm_stop.h"
#include "ngx_http_cdm_stop_policy.h"


/*
 * A rule is covered by an earlier one, and never matches, if each condition
 * of the earlier one is implied by one of its own.  Here "implied" is taken
 * narrowly, so that a rule is told only if it is so for every request.
 *
 * A condition with exact values is implied by no other than exact values
 * among them, and a pattern by itself or by exact values that it matches.  So
 * an earlier rule that is found by a value or a beginning in the index can
 * only cover rules that are found by it, too, and no others are compared.
 */


/*
 * What is compared before the rest is left, for one policy: a quarter of a
 * second or so.  Ten thousand rules over fifty projects take a twentieth of
 * it, six thousand over one project take all.
 */
#define NGX_HTTP_CDM_STOP_COVER_STEPS  100000000

/* a pattern takes as long as that many comparisons of values */
#define NGX_HTTP_CDM_STOP_COVER_MATCH  30

/* one that the engine gave up on takes a millisecond */
#define NGX_HTTP_CDM_STOP_COVER_LIMIT  50000

/* one broad rule by mistake may cover thousands: some are enough to see it */
#define NGX_HTTP_CDM_STOP_COVER_MAX    20


static ngx_http_cdm_stop_rule_t *ngx_http_cdm_stop_cover_find(
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_cover_t *cover,
    ngx_uint_t n);
static ngx_http_cdm_stop_rule_t *ngx_http_cdm_stop_cover_list(
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_cover_t *cover,
    ngx_uint_t n, ngx_uint_t *list, ngx_uint_t nlist);
static ngx_uint_t ngx_http_cdm_stop_covers(ngx_http_cdm_stop_cover_t *cover,
    ngx_http_cdm_stop_rule_t *earlier, ngx_http_cdm_stop_rule_t *rule);
static ngx_uint_t ngx_http_cdm_stop_implies(ngx_http_cdm_stop_cover_t *cover,
    ngx_http_cdm_stop_condition_t *c, ngx_http_cdm_stop_condition_t *by,
    ngx_uint_t same);
static ngx_uint_t ngx_http_cdm_stop_implies_pattern(
    ngx_http_cdm_stop_cover_t *cover, ngx_http_cdm_stop_condition_t *c,
    ngx_http_cdm_stop_condition_t *by);
static ngx_uint_t ngx_http_cdm_stop_implies_list(
    ngx_http_cdm_stop_condition_t *c, ngx_http_cdm_stop_condition_t *by);
static ngx_uint_t ngx_http_cdm_stop_has_value(
    ngx_http_cdm_stop_condition_t *c, ngx_str_t *value);
static ngx_uint_t ngx_http_cdm_stop_implies_range(
    ngx_http_cdm_stop_condition_t *c, ngx_http_cdm_stop_condition_t *by);
static ngx_uint_t ngx_http_cdm_stop_has_range(
    ngx_http_cdm_stop_condition_t *c, ngx_cidr_t *range, ngx_uint_t part);
static ngx_uint_t ngx_http_cdm_stop_within(ngx_cidr_t *outer,
    ngx_cidr_t *inner);


void
ngx_http_cdm_stop_lint_covered(ngx_conf_t *cf,
    ngx_http_cdm_stop_policy_t *policy, ngx_http_cdm_stop_cover_t *cover,
    ngx_uint_t n)
{
    ngx_http_cdm_stop_rule_t  *rule, *earlier;

    if (cover->done) {
        return;
    }

    rule = policy->rules[n];

    earlier = ngx_http_cdm_stop_cover_find(policy, cover, n);

    if (earlier) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &rule->place,
                                     "rule \"%V\" never matches: \"%V\" in "
                                     "%V:%ui already matches all that it asks "
                                     "for; move it before that one or remove "
                                     "it", &rule->name, &earlier->name,
                                     &earlier->place.file,
                                     earlier->place.line);
        cover->found++;
    }

    if (cover->found < NGX_HTTP_CDM_STOP_COVER_MAX
        && cover->steps < NGX_HTTP_CDM_STOP_COVER_STEPS)
    {
        return;
    }

    cover->done = 1;

    if (n + 1 < policy->nrules) {
        ngx_http_cdm_stop_conf_error(cf, NGX_LOG_WARN, &rule->place,
                                     "rules behind \"%V\" are not compared "
                                     "with those before them, %s", &rule->name,
                                     earlier ? "enough never match"
                                             : "too many share their values");
    }
}


static ngx_http_cdm_stop_rule_t *
ngx_http_cdm_stop_cover_find(ngx_http_cdm_stop_policy_t *policy,
    ngx_http_cdm_stop_cover_t *cover, ngx_uint_t n)
{
    ngx_str_t                      *value;
    ngx_uint_t                      i, j, nlists;
    ngx_http_cdm_stop_rule_t       *rule, *earlier;
    ngx_http_cdm_stop_value_t      *lists[NGX_HTTP_CDM_STOP_LISTS];
    ngx_http_cdm_stop_condition_t  *c;

    earlier = ngx_http_cdm_stop_cover_list(policy, cover, n, policy->others,
                                           policy->nothers);

    rule = policy->rules[n];

    for (i = 0; earlier == NULL && i < rule->nconditions; i++) {
        c = &rule->conditions[i];

        if (c->fact >= NGX_HTTP_CDM_STOP_INDEXED || c->negated) {
            continue;
        }

        value = c->values ? &c->values[0] : &c->prefix;

        nlists = ngx_http_cdm_stop_index_find(policy, c->fact, value, lists);

        for (j = 0; earlier == NULL && j < nlists; j++) {
            earlier = ngx_http_cdm_stop_cover_list(policy, cover, n,
                                                   lists[j]->rules,
                                                   lists[j]->nrules);
        }
    }

    return earlier;
}


/* the lists are ascending */

static ngx_http_cdm_stop_rule_t *
ngx_http_cdm_stop_cover_list(ngx_http_cdm_stop_policy_t *policy,
    ngx_http_cdm_stop_cover_t *cover, ngx_uint_t n, ngx_uint_t *list,
    ngx_uint_t nlist)
{
    ngx_uint_t                 i;
    ngx_http_cdm_stop_rule_t  *earlier;

    for (i = 0; i < nlist && list[i] < n; i++) {

        if (cover->steps >= NGX_HTTP_CDM_STOP_COVER_STEPS) {
            return NULL;
        }

        earlier = policy->rules[list[i]];

        if (ngx_http_cdm_stop_covers(cover, earlier, policy->rules[n])) {
            return earlier;
        }
    }

    return NULL;
}


/*
 * On a fact that a request lacks, and where a pattern cannot be told, a deny
 * rule may match and an allow rule with the same conditions not.
 */

static ngx_uint_t
ngx_http_cdm_stop_covers(ngx_http_cdm_stop_cover_t *cover,
    ngx_http_cdm_stop_rule_t *earlier, ngx_http_cdm_stop_rule_t *rule)
{
    ngx_uint_t  i, j, same;

    same = earlier->deny || !rule->deny;

    for (i = 0; i < earlier->nconditions; i++) {

        cover->steps++;

        for (j = 0; j < rule->nconditions; j++) {

            if (earlier->conditions[i].fact == rule->conditions[j].fact
                && ngx_http_cdm_stop_implies(cover, &earlier->conditions[i],
                                             &rule->conditions[j], same))
            {
                break;
            }
        }

        if (j == rule->nconditions) {
            return 0;
        }
    }

    return 1;
}


/*
 * Whether c holds for each request for which "by" does; "same" is whether
 * what cannot be told is the same for both.
 */

static ngx_uint_t
ngx_http_cdm_stop_implies(ngx_http_cdm_stop_cover_t *cover,
    ngx_http_cdm_stop_condition_t *c, ngx_http_cdm_stop_condition_t *by,
    ngx_uint_t same)
{
    ngx_uint_t  steps;

    if (c->fact == NGX_HTTP_CDM_STOP_FACT_IF) {
        return same && c->variable == by->variable
               && c->negated == by->negated;
    }

    if (c->regex) {

        if (by->regex) {
            cover->steps++;

            return same && c->text.len == by->text.len
                   && ngx_memcmp(c->text.data, by->text.data, c->text.len)
                      == 0;
        }

        return ngx_http_cdm_stop_implies_pattern(cover, c, by);
    }

    if (by->regex || (by->negated && (!c->negated || !same))) {
        return 0;
    }

    /* one of several roles says nothing about the others */

    if (c->fact == NGX_HTTP_CDM_STOP_FACT_ROLE && c->negated && !by->negated) {
        return 0;
    }

    steps = c->nvalues * by->nvalues;
    cover->steps += steps;

    if (steps > NGX_HTTP_CDM_STOP_COVER_STEPS) {
        return 0;
    }

    return c->cidrs ? ngx_http_cdm_stop_implies_range(c, by)
                    : ngx_http_cdm_stop_implies_list(c, by);
}


static ngx_uint_t
ngx_http_cdm_stop_implies_pattern(ngx_http_cdm_stop_cover_t *cover,
    ngx_http_cdm_stop_condition_t *c, ngx_http_cdm_stop_condition_t *by)
{
    ngx_int_t   rc;
    ngx_uint_t  i;

    if (by->negated
        || (c->fact == NGX_HTTP_CDM_STOP_FACT_ROLE && c->negated))
    {
        return 0;
    }

    for (i = 0; i < by->nvalues; i++) {

        if (cover->steps >= NGX_HTTP_CDM_STOP_COVER_STEPS) {
            return 0;
        }

        cover->steps += NGX_HTTP_CDM_STOP_COVER_MATCH;

        rc = ngx_http_cdm_stop_pattern_match(c->regex, &by->values[i]);

        if (rc == NGX_ERROR) {
            cover->steps += NGX_HTTP_CDM_STOP_COVER_LIMIT;
        }

        if (rc != (c->negated ? NGX_DECLINED : NGX_OK)) {
            return 0;
        }
    }

    return 1;
}


/*
 * Values of both that are asked for: all of "by" are among those of c.  That
 * are excluded: the other way round.  Asked for here and excluded there: no
 * value is in both.
 */

static ngx_uint_t
ngx_http_cdm_stop_implies_list(ngx_http_cdm_stop_condition_t *c,
    ngx_http_cdm_stop_condition_t *by)
{
    ngx_uint_t                      i, want;
    ngx_http_cdm_stop_condition_t  *list, *in;

    want = (c->negated == by->negated);

    list = by->negated ? c : by;
    in = by->negated ? by : c;

    for (i = 0; i < list->nvalues; i++) {
        if (ngx_http_cdm_stop_has_value(in, &list->values[i]) != want) {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_cdm_stop_has_value(ngx_http_cdm_stop_condition_t *c, ngx_str_t *value)
{
    ngx_uint_t  i;

    for (i = 0; i < c->nvalues; i++) {
        if (c->values[i].len == value->len
            && ngx_memcmp(c->values[i].data, value->data, value->len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/*
 * The same of ranges of addresses.  Of two of them one lies in the other, or
 * they are apart.
 */

static ngx_uint_t
ngx_http_cdm_stop_implies_range(ngx_http_cdm_stop_condition_t *c,
    ngx_http_cdm_stop_condition_t *by)
{
    ngx_uint_t                      i, want;
    ngx_cidr_t                     *ranges;
    ngx_http_cdm_stop_condition_t  *list, *in;

    want = (c->negated == by->negated);

    list = by->negated ? c : by;
    in = by->negated ? by : c;

    ranges = list->cidrs->elts;

    for (i = 0; i < list->cidrs->nelts; i++) {
        if (ngx_http_cdm_stop_has_range(in, &ranges[i], !want) != want) {
            return 0;
        }
    }

    return 1;
}


/* whether the range is in one of these or, with "part", a part of it is */

static ngx_uint_t
ngx_http_cdm_stop_has_range(ngx_http_cdm_stop_condition_t *c,
    ngx_cidr_t *range, ngx_uint_t part)
{
    ngx_uint_t   i;
    ngx_cidr_t  *ranges;

    ranges = c->cidrs->elts;

    for (i = 0; i < c->cidrs->nelts; i++) {
        if (ngx_http_cdm_stop_within(&ranges[i], range)
            || (part && ngx_http_cdm_stop_within(range, &ranges[i])))
        {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_cdm_stop_within(ngx_cidr_t *outer, ngx_cidr_t *inner)
{
#if (NGX_HAVE_INET6)
    u_char      *addr, *mask, *in, *narrow;
    ngx_uint_t   i;
#endif

    if (outer->family != inner->family) {
        return 0;
    }

    switch (outer->family) {

#if (NGX_HAVE_INET6)
    case AF_INET6:

        addr = outer->u.in6.addr.s6_addr;
        mask = outer->u.in6.mask.s6_addr;
        in = inner->u.in6.addr.s6_addr;
        narrow = inner->u.in6.mask.s6_addr;

        for (i = 0; i < 16; i++) {
            if ((mask[i] & narrow[i]) != mask[i]
                || (in[i] & mask[i]) != addr[i])
            {
                return 0;
            }
        }

        return 1;
#endif

    case AF_INET:

        return (outer->u.in.mask & inner->u.in.mask) == outer->u.in.mask
               && (inner->u.in.addr & outer->u.in.mask) == outer->u.in.addr;

    default: /* AF_UNIX, where there are no addresses */

        return 1;
    }
}
