
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_time.h"


static int64_t ngx_http_cdm_stop_parse_number(u_char **p, u_char *last,
    size_t digits);
static ngx_uint_t ngx_http_cdm_stop_parse_char(u_char **p, u_char *last,
    u_char c);
static int64_t ngx_http_cdm_stop_parse_date(u_char **p, u_char *last);
static int64_t ngx_http_cdm_stop_parse_clock(u_char **p, u_char *last);
static int64_t ngx_http_cdm_stop_parse_zone(u_char **p, u_char *last);
static u_char *ngx_http_cdm_stop_digits(u_char *p, ngx_uint_t n,
    size_t digits, u_char end);


/*
 * A time up to its seconds, which most of the next ones share.  Only a
 * worker's main thread, or the master, writes times.
 */

static time_t  ngx_http_cdm_stop_text_sec;
static u_char  ngx_http_cdm_stop_text_time[] = "1970-01-01T00:00:00.";


/*
 * Read once for a turn of the event loop and a millisecond of it, as nginx
 * does with its own times: five readings for a stop are a good part of it.
 * Of nginx's times one is coarse, and the other may be set or stand still.
 */

int64_t
ngx_http_cdm_stop_now(void)
{
    ngx_time_t         *tp;
    struct timespec     ts;
    static int64_t      now;
    static ngx_msec_t   turn;
    static ngx_uint_t   msec;

    tp = ngx_timeofday();

    if (now && turn == ngx_current_msec && msec == tp->msec) {
        return now;
    }

#if defined(CLOCK_BOOTTIME)
    clock_gettime(CLOCK_BOOTTIME, &ts);
#else
    /* CLOCK_MONOTONIC runs on in suspend on systems without CLOCK_BOOTTIME */
    clock_gettime(CLOCK_MONOTONIC, &ts);
#endif

    now = (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
    turn = ngx_current_msec;
    msec = tp->msec;

    return now;
}


int64_t
ngx_http_cdm_stop_parse_time(u_char *p, size_t len)
{
    u_char   *last;
    int64_t   days, msec, zone;

    last = p + len;

    days = ngx_http_cdm_stop_parse_date(&p, last);

    if (days == NGX_HTTP_CDM_STOP_TIME_ERROR
        || !ngx_http_cdm_stop_parse_char(&p, last, 'T'))
    {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    msec = ngx_http_cdm_stop_parse_clock(&p, last);
    if (msec == NGX_HTTP_CDM_STOP_TIME_ERROR) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    zone = ngx_http_cdm_stop_parse_zone(&p, last);

    if (zone == NGX_HTTP_CDM_STOP_TIME_ERROR || p != last) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    return days * 86400000 + msec - zone;
}


static int64_t
ngx_http_cdm_stop_parse_date(u_char **p, u_char *last)
{
    int64_t        year, month, day;
    static u_char  mdays[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };

    year = ngx_http_cdm_stop_parse_number(p, last, 4);

    if (!ngx_http_cdm_stop_parse_char(p, last, '-')) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    month = ngx_http_cdm_stop_parse_number(p, last, 2);

    if (!ngx_http_cdm_stop_parse_char(p, last, '-')) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    day = ngx_http_cdm_stop_parse_number(p, last, 2);

    if (year < 1970 || month < 1 || month > 12 || day < 1) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    if (day > mdays[month - 1]
        && !(month == 2 && day == 29 && year % 4 == 0
             && (year % 100 != 0 || year % 400 == 0)))
    {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    /* Gauss' formula for Gregorian days since March 1, 1 BC */

    month -= 2;

    if (month <= 0) {
        month += 12;
        year -= 1;
    }

    return 365 * year + year / 4 - year / 100 + year / 400
           + 367 * month / 12 - 30
           + day - 1

           /*
            * 719527 days were between March 1, 1 BC and March 1, 1970,
            * 31 and 28 days were in January and February 1970
            */

           - 719527 + 31 + 28;
}


static int64_t
ngx_http_cdm_stop_parse_clock(u_char **p, u_char *last)
{
    int64_t  hour, min, sec, msec, scale;

    hour = ngx_http_cdm_stop_parse_number(p, last, 2);

    if (!ngx_http_cdm_stop_parse_char(p, last, ':')) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    min = ngx_http_cdm_stop_parse_number(p, last, 2);

    if (!ngx_http_cdm_stop_parse_char(p, last, ':')) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    sec = ngx_http_cdm_stop_parse_number(p, last, 2);

    /* a leap second is written as 60 */

    if (hour < 0 || hour > 23 || min < 0 || min > 59 || sec < 0 || sec > 60) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    msec = 0;

    if (ngx_http_cdm_stop_parse_char(p, last, '.')) {

        if (*p == last || **p < '0' || **p > '9') {
            return NGX_HTTP_CDM_STOP_TIME_ERROR;
        }

        for (scale = 100; *p < last && **p >= '0' && **p <= '9'; (*p)++) {
            msec += (**p - '0') * scale;
            scale /= 10;
        }
    }

    return (hour * 3600 + min * 60 + sec) * 1000 + msec;
}


static int64_t
ngx_http_cdm_stop_parse_zone(u_char **p, u_char *last)
{
    int64_t  sign, hour, min;

    if (ngx_http_cdm_stop_parse_char(p, last, 'Z')) {
        return 0;
    }

    if (ngx_http_cdm_stop_parse_char(p, last, '+')) {
        sign = 1;

    } else if (ngx_http_cdm_stop_parse_char(p, last, '-')) {
        sign = -1;

    } else {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    hour = ngx_http_cdm_stop_parse_number(p, last, 2);

    if (!ngx_http_cdm_stop_parse_char(p, last, ':')) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    min = ngx_http_cdm_stop_parse_number(p, last, 2);

    if (hour < 0 || hour > 23 || min < 0 || min > 59) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    return sign * (hour * 60 + min) * 60000;
}


static int64_t
ngx_http_cdm_stop_parse_number(u_char **p, u_char *last, size_t digits)
{
    int64_t  n;

    n = 0;

    for ( /* void */ ; digits; digits--, (*p)++) {

        if (*p == last || **p < '0' || **p > '9') {
            return -1;
        }

        n = n * 10 + (**p - '0');
    }

    return n;
}


static ngx_uint_t
ngx_http_cdm_stop_parse_char(u_char **p, u_char *last, u_char c)
{
    if (*p == last || **p != c) {
        return 0;
    }

    (*p)++;

    return 1;
}


u_char *
ngx_http_cdm_stop_time_text(u_char *p, time_t sec, ngx_uint_t msec)
{
    u_char    *t;
    ngx_tm_t   tm;

    if (sec != ngx_http_cdm_stop_text_sec) {

        ngx_gmtime(sec, &tm);

        t = ngx_http_cdm_stop_text_time;

        t = ngx_http_cdm_stop_digits(t, tm.ngx_tm_year, 4, '-');
        t = ngx_http_cdm_stop_digits(t, tm.ngx_tm_mon, 2, '-');
        t = ngx_http_cdm_stop_digits(t, tm.ngx_tm_mday, 2, 'T');
        t = ngx_http_cdm_stop_digits(t, tm.ngx_tm_hour, 2, ':');
        t = ngx_http_cdm_stop_digits(t, tm.ngx_tm_min, 2, ':');

        (void) ngx_http_cdm_stop_digits(t, tm.ngx_tm_sec, 2, '.');

        ngx_http_cdm_stop_text_sec = sec;
    }

    p = ngx_cpymem(p, ngx_http_cdm_stop_text_time,
                   sizeof(ngx_http_cdm_stop_text_time) - 1);

    return ngx_http_cdm_stop_digits(p, msec, 3, 'Z');
}


/* so many digits and what follows them: ngx_sprintf() takes ten times longer */

static u_char *
ngx_http_cdm_stop_digits(u_char *p, ngx_uint_t n, size_t digits, u_char end)
{
    size_t  i;

    p[digits] = end;

    for (i = digits; i > 0; i--) {
        p[i - 1] = (u_char) ('0' + n % 10);
        n /= 10;
    }

    return p + digits + 1;
}
