
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * The times of IAM.  What is parsed is parsed again by another way, with the
 * calendar of the C library; and each time that the first eight bytes of an
 * input stand for is read back as it was written, in every zone.  Records have
 * such times, too: each is what the C library writes, whatever time was
 * written before.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_time.h"


#define TIME_LAST  253402300799999LL    /* the end of the year 9999 */


static int64_t reference(const u_char *p, size_t len);
static int64_t fraction(const u_char *p, size_t len, int64_t t);
static int number(const u_char *p, size_t digits);
static void round_trip(const u_char *p);
static void written_time(int64_t t);
static void require(ngx_uint_t holds, const char *what);


int LLVMFuzzerTestOneInput(const u_char *data, size_t size);


int
LLVMFuzzerTestOneInput(const u_char *data, size_t size)
{
    u_char   *copy;
    int64_t   t;

    /* of its size exactly, for a byte read behind it to be seen */

    copy = malloc(size ? size : 1);
    require(copy != NULL, "memory");

    memcpy(copy, data, size);

    t = ngx_http_cdm_stop_parse_time(copy, size);

    require(t == reference(copy, size), "both ways agree");

    free(copy);

    if (size >= 10) {
        round_trip(data);
    }

    return 0;
}


/* YYYY-MM-DDThh:mm:ss[.digits](Z|+hh:mm|-hh:mm) */

static int64_t
reference(const u_char *p, size_t len)
{
    int         month, day, hour, min, sec;
    time_t      t;
    struct tm   tm, back;

    if (len < 20
        || p[4] != '-' || p[7] != '-' || p[10] != 'T'
        || p[13] != ':' || p[16] != ':')
    {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    memset(&tm, 0, sizeof(struct tm));

    tm.tm_year = number(p, 4) - 1900;
    month = number(p + 5, 2);
    day = number(p + 8, 2);
    hour = number(p + 11, 2);
    min = number(p + 14, 2);
    sec = number(p + 17, 2);

    if (tm.tm_year < 70 || month < 1 || day < 1 || hour < 0 || hour > 23
        || min < 0 || min > 59 || sec < 0 || sec > 60)
    {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    /* a day that does not exist comes back as another one */

    tm.tm_mon = month - 1;
    tm.tm_mday = day;

    t = timegm(&tm);
    gmtime_r(&t, &back);

    if (back.tm_mon != month - 1 || back.tm_mday != day) {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    t += hour * 3600 + min * 60 + sec;

    return fraction(p + 19, len - 19, (int64_t) t * 1000);
}


/* what is behind the seconds */

static int64_t
fraction(const u_char *p, size_t len, int64_t t)
{
    int     i, msec, zone;
    size_t  end;

    end = 0;
    msec = 0;

    if (p[end] == '.') {

        for (i = 0, end++; end < len && p[end] >= '0' && p[end] <= '9'; end++)
        {
            if (i++ < 3) {
                msec = msec * 10 + (p[end] - '0');
            }
        }

        if (i == 0) {
            return NGX_HTTP_CDM_STOP_TIME_ERROR;
        }

        for ( /* void */ ; i < 3; i++) {
            msec *= 10;
        }
    }

    if (end + 1 == len && p[end] == 'Z') {
        zone = 0;

    } else if (end + 6 == len
               && (p[end] == '+' || p[end] == '-')
               && p[end + 3] == ':'
               && number(p + end + 1, 2) >= 0 && number(p + end + 1, 2) <= 23
               && number(p + end + 4, 2) >= 0 && number(p + end + 4, 2) <= 59)
    {
        zone = number(p + end + 1, 2) * 3600 + number(p + end + 4, 2) * 60;
        zone = (p[end] == '-') ? -zone : zone;

    } else {
        return NGX_HTTP_CDM_STOP_TIME_ERROR;
    }

    return t - (int64_t) zone * 1000 + msec;
}


static int
number(const u_char *p, size_t digits)
{
    int  n;

    for (n = 0; digits; digits--, p++) {

        if (*p < '0' || *p > '9') {
            return -1;
        }

        n = n * 10 + (*p - '0');
    }

    return n;
}


static void
round_trip(const u_char *p)
{
    int         zone;
    char        text[64], written[96];
    time_t      local;
    int64_t     t;
    uint64_t    n;
    struct tm   tm;

    memcpy(&n, p, sizeof(uint64_t));

    /* a day from either end, so that no zone leads out of four digits */

    t = 86400000 + (int64_t) (n % (TIME_LAST - 2 * 86400000));
    zone = (p[8] % 24) * 60 + p[9] % 60;
    zone = (p[9] & 0x80) ? -zone : zone;

    local = t / 1000 + zone * 60;
    gmtime_r(&local, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);

    snprintf(written, sizeof(written), "%s.%03d%c%02d:%02d", text,
             (int) (t % 1000), zone < 0 ? '-' : '+', abs(zone) / 60,
             abs(zone) % 60);

    require(ngx_http_cdm_stop_parse_time((u_char *) written, strlen(written))
            == t, "a time is read as it was written");

    /* another second, the same one, and the one behind it */

    written_time(t);
    written_time(t - t % 1000 + p[8] + p[9]);
    written_time(t + 1000);
}


static void
written_time(int64_t t)
{
    char        want[64];
    u_char      text[24];
    time_t      sec;
    struct tm   tm;

    sec = t / 1000;
    gmtime_r(&sec, &tm);
    strftime(want, sizeof(want), "%Y-%m-%dT%H:%M:%S", &tm);
    sprintf(want + strlen(want), ".%03dZ", (int) (t % 1000));

    require(ngx_http_cdm_stop_time_text(text, sec, t % 1000)
            == text + sizeof(text), "a time has 24 bytes");
    require(memcmp(text, want, sizeof(text)) == 0, "a time of a record");
}


static void
require(ngx_uint_t holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}
