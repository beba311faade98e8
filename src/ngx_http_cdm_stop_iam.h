
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_IAM_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_IAM_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* APIG refuses a header of more than 32 KB, so no token is longer */
#define NGX_HTTP_CDM_STOP_TOKEN_LEN       32768

/* with a catalog, which we ask IAM to leave out, a body has some 100 KB */
#define NGX_HTTP_CDM_STOP_IAM_BODY_LEN    (256 * 1024)
#define NGX_HTTP_CDM_STOP_IAM_HEADER_LEN  (64 * 1024)

/* Keystone and Huawei Cloud grant 24 hours; more is not believed */
#define NGX_HTTP_CDM_STOP_LIFE_MAX        (24 * 3600 * 1000)

/* a token is not used closer to its end than this, in milliseconds */
#define NGX_HTTP_CDM_STOP_MARGIN          (60 * 1000)


typedef enum {
    NGX_HTTP_CDM_STOP_PASSWORD = 0,
    NGX_HTTP_CDM_STOP_AK_SK,
    NGX_HTTP_CDM_STOP_AGENCY,
    NGX_HTTP_CDM_STOP_FILE
} ngx_http_cdm_stop_method_e;


typedef struct {
    ngx_uint_t   method;
    ngx_uint_t   domain_scope;  /* and not of a project */
    ngx_str_t    domain;
    ngx_str_t    user;
    ngx_str_t    password;
    ngx_str_t    access_key;
    ngx_str_t    secret_key;
    ngx_str_t    agency_domain;
    ngx_str_t    agency;
    ngx_str_t    project;
} ngx_http_cdm_stop_credentials_t;


typedef struct {
    ngx_uint_t   status;
    ngx_uint_t   tokens;        /* number of X-Subject-Token lines */
    ngx_str_t    token;         /* the first one */
    time_t       date;          /* of the Date header, or NGX_ERROR */
    ngx_str_t    body;
} ngx_http_cdm_stop_iam_answer_t;


typedef struct {
    int64_t      life;          /* from receipt to the end, milliseconds */
    int64_t      margin;        /* before the end: not used any more */
    int64_t      ahead;         /* before the end: time to renew it */
    uint64_t     stamp;         /* of the file that it came from, or 0 */
} ngx_http_cdm_stop_grant_t;


/*
 * The body of POST /v3/auth/tokens for the methods "password", "hw_ak_sk"
 * and "assume_role", scoped to one project by its id or to a domain by its
 * name.  Returns NGX_ERROR if there is no memory.  The body holds a secret:
 * wipe it.
 *
 * Source: IAM API reference, "Obtaining a User Token Through Password
 * Authentication" and "Obtaining an Agency Token"; Keystone API v3,
 * "Password authentication with scoped authorization".
 */
ngx_int_t ngx_http_cdm_stop_iam_body(ngx_pool_t *pool,
    ngx_http_cdm_stop_credentials_t *credentials, ngx_str_t *body);

/*
 * Checks an answer to POST /v3/auth/tokens: 201, exactly one X-Subject-Token
 * of legal characters, expires_at in the future, the project or domain that
 * was asked for.  Of a token from a file it checks the answer to
 * GET /v3/auth/tokens: 200, and the same of the body.  Returns NULL and fills
 * grant->life, or returns what is wrong with it.
 */
const char *ngx_http_cdm_stop_iam_read(ngx_http_cdm_stop_iam_answer_t *answer,
    ngx_http_cdm_stop_credentials_t *credentials,
    ngx_http_cdm_stop_grant_t *grant);

/*
 * Copies the message of an error answer of IAM to dst (at most size bytes, a
 * message that is longer is cut) and returns its length, 0 if there is none.
 * It may echo what was sent: redact it before it is logged.
 */
size_t ngx_http_cdm_stop_iam_message(ngx_str_t *body, u_char *dst,
    size_t size);

/*
 * Whether the value is a token that may stand in a header: 1 to 32,768
 * visible ASCII characters without a comma.
 */
ngx_uint_t ngx_http_cdm_stop_token_legal(ngx_str_t *token);


/*
 * Calls jansson once, so that what it calls is bound to the C library before
 * there is a token.  Debian's jansson is bound when it is first used, and the
 * loader then saves the vector registers on the stack, where bytes of a token
 * that was just copied would stay and be in a core dump.  Returns NGX_ERROR
 * when there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_iam_bind(void);


#endif /* _NGX_HTTP_CDM_STOP_IAM_H_INCLUDED_ */
