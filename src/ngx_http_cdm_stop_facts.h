
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_FACTS_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_FACTS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_cdm_stop_iam.h"


/* ids have 32 characters, in Keystone up to 64 */
#define NGX_HTTP_CDM_STOP_ID_LEN     64

/* Keystone bounds a name by 255 characters, of at most 4 bytes each */
#define NGX_HTTP_CDM_STOP_NAME_LEN   1024

/*
 * All facts of a token.  Huawei Cloud lists a role for each feature that is
 * in trial ("op_gated_..."), some hundred of them.
 */
#define NGX_HTTP_CDM_STOP_FACTS_LEN  (16 * 1024)


/*
 * What IAM tells of a caller's token, in one block that is copied in and out
 * of shared memory: id and name of the user, id and name of its domain, the
 * id of the project (empty if the token is of none), and the names of roles.
 */

typedef struct {
    u_char      *data;          /* room for NGX_HTTP_CDM_STOP_FACTS_LEN */
    size_t       len;
    int64_t      life;          /* from IAM's Date on, milliseconds */
} ngx_http_cdm_stop_facts_t;


/*
 * Reads an answer to GET /v3/auth/tokens about a token.  Returns NGX_OK with
 * facts, NGX_DECLINED if IAM says that the token is none or has ended, or
 * NGX_ERROR if it says neither; error is then what is wrong with the answer.
 *
 * Source: IAM API reference, "Verifying a Token"; Keystone API v3, "Validate
 * and show information for token".
 */
ngx_int_t ngx_http_cdm_stop_facts_read(ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_str_t *token, ngx_http_cdm_stop_facts_t *facts, const char **error);

/*
 * Takes the next fact, in the order above, from the block that begins at *p,
 * and moves *p behind it.  Returns NGX_DONE at the end of the block.
 */
ngx_int_t ngx_http_cdm_stop_facts_next(u_char **p, u_char *last,
    ngx_str_t *value);


#endif /* _NGX_HTTP_CDM_STOP_FACTS_H_INCLUDED_ */
