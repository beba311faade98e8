
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


/*
 * A line of a chain, as the verifier reads it.  What it takes is JSON for
 * jansson as well, which finds no member twice; its pieces lie within the
 * line; and one byte less is no record any more.
 */


#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <jansson.h>

#include "tools/audit_line.c"
#include "tools/audit_text.c"


static void require(int holds);


int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);


int
LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    size_t                 i;
    json_t                *json;
    unsigned char         *copy;
    cdm_stop_audit_line_t  line;

    /* of the exact size, for a read beyond it to be seen */

    copy = malloc(size ? size : 1);
    require(copy != NULL);

    if (size) {
        memcpy(copy, data, size);
    }

    if (cdm_stop_audit_line(copy, size, &line) != NULL) {
        free(copy);
        return 0;
    }

    require(line.seq > 0 && line.torn >= 0 && line.every >= 0);
    require(line.hashed > 0 && line.hashed < size);

    for (i = 0; i < CDM_STOP_AUDIT_MEMBERS; i++) {

        if (line.members[i].data) {
            require(line.members[i].data > copy
                    && line.members[i].data + line.members[i].len
                       < copy + size);
        }
    }

    /* lone surrogates, NUL in a name and large numbers are jansson's own no */

    json = json_loadb((char *) copy, size,
                      JSON_REJECT_DUPLICATES|JSON_ALLOW_NUL
                      |JSON_DECODE_INT_AS_REAL, NULL);

    if (json == NULL) {
        require(memmem(copy, size, "\\u", 2) != NULL || size > 300);
    }

    json_decref(json);

    require(cdm_stop_audit_line(copy, size - 1, &line) != NULL);

    free(copy);

    return 0;
}


static void
require(int holds)
{
    if (!holds) {
        abort();
    }
}
