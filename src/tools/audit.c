
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/* The tool of auditors: commands and options */


#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include "audit.h"


typedef enum {
    CDM_STOP_AUDIT_OPT_KEY = 256,
    CDM_STOP_AUDIT_OPT_KEYLESS,
    CDM_STOP_AUDIT_OPT_PUBLIC_KEY,
    CDM_STOP_AUDIT_OPT_HEAD,
    CDM_STOP_AUDIT_OPT_FROM,
    CDM_STOP_AUDIT_OPT_AT,
    CDM_STOP_AUDIT_OPT_EVERY,
    CDM_STOP_AUDIT_OPT_JSON,
    CDM_STOP_AUDIT_OPT_STRICT,
    CDM_STOP_AUDIT_OPT_JOB,
    CDM_STOP_AUDIT_OPT_USER,
    CDM_STOP_AUDIT_OPT_SINCE,
    CDM_STOP_AUDIT_OPT_UNTIL,
    CDM_STOP_AUDIT_OPT_VERDICT,
    CDM_STOP_AUDIT_OPT_STAGE,
    CDM_STOP_AUDIT_OPT_REQUEST_ID,
    CDM_STOP_AUDIT_OPT_HELP,
    CDM_STOP_AUDIT_OPT_VERSION
} cdm_stop_audit_opt_e;


typedef struct {
    const char  *name;
    int        (*run)(cdm_stop_audit_opts_t *opts);
    const char  *legal;                 /* options, each within blanks */
} cdm_stop_audit_command_t;


static void cdm_stop_audit_no_dump(void);
static int cdm_stop_audit_names(cdm_stop_audit_opts_t *opts, char **names,
    int n);
static int cdm_stop_audit_option(cdm_stop_audit_opts_t *opts, int c);
static void cdm_stop_audit_filter(cdm_stop_audit_opts_t *opts, int c);
static int cdm_stop_audit_head(cdm_stop_audit_head_t *heads, int *nheads,
    const char *text, int need_hash);
static int cdm_stop_audit_legal(const char *legal, const char *name);


static cdm_stop_audit_command_t  cdm_stop_audit_commands[] = {

    { "verify", cdm_stop_audit_verify,
      " key keyless public-key head from at every json strict " },

    { "show", cdm_stop_audit_show,
      " job user since until verdict stage request-id json " },

    { "fingerprint", cdm_stop_audit_fingerprint,
      " key json " },

    { NULL, NULL, NULL }
};


static struct option  cdm_stop_audit_options[] = {
    { "key", 1, NULL, CDM_STOP_AUDIT_OPT_KEY },
    { "keyless", 0, NULL, CDM_STOP_AUDIT_OPT_KEYLESS },
    { "public-key", 1, NULL, CDM_STOP_AUDIT_OPT_PUBLIC_KEY },
    { "head", 1, NULL, CDM_STOP_AUDIT_OPT_HEAD },
    { "from", 1, NULL, CDM_STOP_AUDIT_OPT_FROM },
    { "at", 1, NULL, CDM_STOP_AUDIT_OPT_AT },
    { "every", 1, NULL, CDM_STOP_AUDIT_OPT_EVERY },
    { "json", 0, NULL, CDM_STOP_AUDIT_OPT_JSON },
    { "strict", 0, NULL, CDM_STOP_AUDIT_OPT_STRICT },
    { "job", 1, NULL, CDM_STOP_AUDIT_OPT_JOB },
    { "user", 1, NULL, CDM_STOP_AUDIT_OPT_USER },
    { "since", 1, NULL, CDM_STOP_AUDIT_OPT_SINCE },
    { "until", 1, NULL, CDM_STOP_AUDIT_OPT_UNTIL },
    { "verdict", 1, NULL, CDM_STOP_AUDIT_OPT_VERDICT },
    { "stage", 1, NULL, CDM_STOP_AUDIT_OPT_STAGE },
    { "request-id", 1, NULL, CDM_STOP_AUDIT_OPT_REQUEST_ID },
    { "help", 0, NULL, CDM_STOP_AUDIT_OPT_HELP },
    { "version", 0, NULL, CDM_STOP_AUDIT_OPT_VERSION },
    { NULL, 0, NULL, 0 }
};


static const char  cdm_stop_audit_help[] =
    "usage: cdm-stop-audit verify [--key FILE]... [--keyless]\n"
    "           [--public-key FILE] [--head [CHAIN:]SEQ:HASH]...\n"
    "           [--from [CHAIN:]SEQ[:HASH]]... [--at TIME]\n"
    "           [--every SECONDS] [--strict] [--json] FILE...\n"
    "       cdm-stop-audit show [--job REGEX] [--user NAME] [--since TIME]\n"
    "           [--until TIME] [--verdict VERDICT] [--stage STAGE]\n"
    "           [--request-id ID] [--json] FILE...\n"
    "       cdm-stop-audit fingerprint --key FILE... [--json] FILE...\n"
    "           (reads a token from standard input)\n"
    "\n"
    "A TIME is as in the records: 2026-01-31T23:59:59Z.\n"
    "Exit status: 0 whole, or found; 1 findings, or nothing found;\n"
    "2 wrong usage or a file that cannot be read.\n";


int
main(int argc, char **argv)
{
    int                        c, index;
    cdm_stop_audit_opts_t      opts;
    cdm_stop_audit_command_t  *command;

    cdm_stop_audit_no_dump();

    memset(&opts, 0, sizeof(cdm_stop_audit_opts_t));

    command = cdm_stop_audit_commands;

    while (argc > 1 && command->name && strcmp(command->name, argv[1]) != 0) {
        command++;
    }

    for ( ;; ) {
        index = 0;
        c = getopt_long(argc, argv, "", cdm_stop_audit_options, &index);

        if (c == -1) {
            break;
        }

        if (c == CDM_STOP_AUDIT_OPT_HELP) {
            fputs(cdm_stop_audit_help, stdout);
            return CDM_STOP_AUDIT_WHOLE;
        }

        if (c == CDM_STOP_AUDIT_OPT_VERSION) {
            puts("cdm-stop-audit " CDM_STOP_AUDIT_VERSION);
            return CDM_STOP_AUDIT_WHOLE;
        }

        if (c != '?' && command->name
            && !cdm_stop_audit_legal(command->legal,
                                     cdm_stop_audit_options[index].name))
        {
            cdm_stop_audit_error("--%s is no option of \"%s\"",
                                 cdm_stop_audit_options[index].name,
                                 command->name);
            return CDM_STOP_AUDIT_USAGE;
        }

        if (c == '?' || cdm_stop_audit_option(&opts, c) != 0) {
            return CDM_STOP_AUDIT_USAGE;
        }
    }

    if (argc < 2 || command->name == NULL || argc - optind < 2) {
        fputs(cdm_stop_audit_help, stderr);
        return CDM_STOP_AUDIT_USAGE;
    }

    if (cdm_stop_audit_names(&opts, &argv[optind + 1], argc - optind - 1)
        != 0)
    {
        return CDM_STOP_AUDIT_USAGE;
    }

    c = command->run(&opts);

    free(opts.files);

    if (fflush(stdout) != 0 || ferror(stdout)) {
        cdm_stop_audit_error("standard output cannot be written");
        return CDM_STOP_AUDIT_USAGE;
    }

    return c;
}


/* keys and tokens come into no core dump */

static void
cdm_stop_audit_no_dump(void)
{
    struct rlimit  no_core;

    no_core.rlim_cur = 0;
    no_core.rlim_max = 0;

    (void) setrlimit(RLIMIT_CORE, &no_core);
    (void) prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}


/* "FILE*" also has what nginx keeps beside a file, in which are no records */

static int
cdm_stop_audit_names(cdm_stop_audit_opts_t *opts, char **names, int n)
{
    int          i;
    const char  *dot;

    opts->files = calloc((size_t) n, sizeof(cdm_stop_audit_file_t));
    if (opts->files == NULL) {
        cdm_stop_audit_error("there is no memory");
        return -1;
    }

    for (i = 0; i < n; i++) {
        dot = strrchr(names[i], '.');

        if (n > 1 && dot
            && (strcmp(dot, ".state") == 0 || strcmp(dot, ".lock") == 0))
        {
            cdm_stop_audit_error("%s is passed over: nginx keeps it beside "
                                 "its file of records", names[i]);
            continue;
        }

        opts->files[opts->nfiles++].name = names[i];
    }

    if (opts->nfiles == 0) {
        cdm_stop_audit_error("there is no file of records among these");
        free(opts->files);
        return -1;
    }

    return 0;
}


static int
cdm_stop_audit_legal(const char *legal, const char *name)
{
    char  text[32];

    snprintf(text, sizeof(text), " %s ", name);

    return strstr(legal, text) != NULL;
}


static int
cdm_stop_audit_option(cdm_stop_audit_opts_t *opts, int c)
{
    char     *end;
    int64_t   time;

    if (c == CDM_STOP_AUDIT_OPT_AT || c == CDM_STOP_AUDIT_OPT_SINCE
        || c == CDM_STOP_AUDIT_OPT_UNTIL)
    {
        time = cdm_stop_audit_time((unsigned char *) optarg, strlen(optarg));

        if (time <= 0) {
            cdm_stop_audit_error("\"%s\" is no time, write it as in the "
                                 "records: 2026-01-31T23:59:59Z", optarg);
            return -1;
        }

        if (c == CDM_STOP_AUDIT_OPT_AT) {
            opts->at = time;
        }
    }

    switch (c) {

    case CDM_STOP_AUDIT_OPT_KEY:
        if (opts->nkeys == CDM_STOP_AUDIT_GIVEN_MAX) {
            cdm_stop_audit_error("there are more than %d of --key",
                                 CDM_STOP_AUDIT_GIVEN_MAX);
            return -1;
        }

        opts->keys[opts->nkeys++] = optarg;
        break;

    case CDM_STOP_AUDIT_OPT_KEYLESS:
        opts->keyless = 1;
        break;

    case CDM_STOP_AUDIT_OPT_PUBLIC_KEY:
        opts->public_key = optarg;
        break;

    case CDM_STOP_AUDIT_OPT_HEAD:
        return cdm_stop_audit_head(opts->heads, &opts->nheads, optarg, 1);

    case CDM_STOP_AUDIT_OPT_FROM:
        return cdm_stop_audit_head(opts->froms, &opts->nfroms, optarg, 0);

    case CDM_STOP_AUDIT_OPT_EVERY:
        opts->every = strtol(optarg, &end, 10);

        if (*end != '\0' || opts->every < 1 || opts->every > 86400 * 366) {
            cdm_stop_audit_error("--every is a number of seconds");
            return -1;
        }

        break;

    case CDM_STOP_AUDIT_OPT_JSON:
        opts->json = 1;
        break;

    case CDM_STOP_AUDIT_OPT_STRICT:
        opts->strict = 1;
        break;

    default:
        cdm_stop_audit_filter(opts, c);
    }

    return 0;
}


static void
cdm_stop_audit_filter(cdm_stop_audit_opts_t *opts, int c)
{
    switch (c) {

    case CDM_STOP_AUDIT_OPT_JOB:
        opts->job = optarg;
        break;

    case CDM_STOP_AUDIT_OPT_USER:
        opts->user = optarg;
        break;

    case CDM_STOP_AUDIT_OPT_SINCE:
        opts->since = optarg;
        break;

    case CDM_STOP_AUDIT_OPT_UNTIL:
        opts->until = optarg;
        break;

    case CDM_STOP_AUDIT_OPT_VERDICT:
        opts->verdict = optarg;
        break;

    case CDM_STOP_AUDIT_OPT_STAGE:
        opts->stage = optarg;
        break;

    case CDM_STOP_AUDIT_OPT_REQUEST_ID:
        opts->request_id = optarg;
        break;
    }
}


/* [CHAIN:]SEQ[:HASH] */

static int
cdm_stop_audit_head(cdm_stop_audit_head_t *heads, int *nheads,
    const char *text, int need_hash)
{
    char                   *end;
    const char             *p;
    cdm_stop_audit_head_t  *head;

    if (*nheads == CDM_STOP_AUDIT_GIVEN_MAX) {
        cdm_stop_audit_error("there are more than %d of --%s",
                             CDM_STOP_AUDIT_GIVEN_MAX,
                             need_hash ? "head" : "from");
        return -1;
    }

    p = text;
    head = &heads[(*nheads)++];

    if (strlen(p) > CDM_STOP_AUDIT_CHAIN_LEN
        && p[CDM_STOP_AUDIT_CHAIN_LEN] == ':' && strchr(p, ':')
           == p + CDM_STOP_AUDIT_CHAIN_LEN)
    {
        memcpy(head->chain, p, CDM_STOP_AUDIT_CHAIN_LEN);
        p += CDM_STOP_AUDIT_CHAIN_LEN + 1;
    }

    head->seq = strtoll(p, &end, 10);

    if (end > p && head->seq > 0 && *end == '\0' && !need_hash) {
        return 0;
    }

    if (end > p && head->seq > 0 && *end == ':'
        && strlen(end + 1) == 2 * CDM_STOP_AUDIT_HASH_LEN
        && cdm_stop_audit_unhex(head->hash, (unsigned char *) end + 1,
                                CDM_STOP_AUDIT_HASH_LEN)
           == 0)
    {
        head->with_hash = 1;
        return 0;
    }

    cdm_stop_audit_error("\"%s\" is no head: write number:hash as \"verify\" "
                         "prints it", text);

    return -1;
}
