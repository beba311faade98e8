
/*
 * Copyright (C) 2026 the ngx_http_cdm_stop_module authors
 */


#ifndef _NGX_HTTP_CDM_STOP_CONF_H_INCLUDED_
#define _NGX_HTTP_CDM_STOP_CONF_H_INCLUDED_


/* what reads and checks the configuration */


/*
 * Zeroed memory for a structure of the configuration, which lives as long as
 * the cycle and is read-only in the workers.  Returns NULL if there is none.
 */
void *ngx_http_cdm_stop_conf_alloc(ngx_conf_t *cf, size_t size);

/*
 * Copies a text there, with a zero behind it.  Returns NGX_ERROR if there is
 * no memory.
 */
ngx_int_t ngx_http_cdm_stop_conf_text(ngx_conf_t *cf, ngx_str_t *text,
    ngx_str_t *from);

/* the pages of all such structures of this cycle, once there is one */
void *ngx_http_cdm_stop_conf_pages(void);

/* makes them read-only, in a worker; NGX_ERROR if the system refuses */
ngx_int_t ngx_http_cdm_stop_conf_protect(void *first, ngx_log_t *log);

void *ngx_http_cdm_stop_create_main_conf(ngx_conf_t *cf);
void *ngx_http_cdm_stop_create_loc_conf(ngx_conf_t *cf);
char *ngx_http_cdm_stop_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);

char *ngx_http_cdm_stop_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_cdm_stop_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_cdm_stop_pass_header(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* as ngx_conf_set_enum_slot(), but says what may be written */
char *ngx_http_cdm_stop_set_enum(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

char *ngx_http_cdm_stop_identity_block(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* what a token of the identity for a project is found by */
void ngx_http_cdm_stop_identity_key(ngx_http_cdm_stop_identity_t *identity,
    u_char *project, ngx_http_cdm_stop_key_t *key);

/* "method", "scope", "agency", "projects", and the like in the block */
char *ngx_http_cdm_stop_set_method(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_cdm_stop_set_scope(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_cdm_stop_set_agency(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/*
 * Checks that the identity has what its method needs and nothing else, and
 * reads its secrets.  Logs what is wrong and returns NGX_ERROR.
 */
ngx_int_t ngx_http_cdm_stop_method(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);

/*
 * Reads the token of the method "file", in a worker.  stamp tells one content
 * of the file from another.  Returns NGX_ERROR if it is not there or is not a
 * whole token, after that has been logged.
 */
ngx_int_t ngx_http_cdm_stop_read_token_file(
    ngx_http_cdm_stop_identity_t *identity, ngx_pool_t *pool,
    ngx_str_t *token, uint64_t *stamp, ngx_log_t *log);

/* the stamp alone, 0 if there is no file */
uint64_t ngx_http_cdm_stop_token_file_stamp(
    ngx_http_cdm_stop_identity_t *identity);

/*
 * Where the identity's IAM is, how it is reached and checked, and the digest
 * that tells this identity's tokens from those of others.  Logs what is wrong
 * and returns NGX_ERROR.
 */
ngx_int_t ngx_http_cdm_stop_endpoint(ngx_conf_t *cf,
    ngx_http_cdm_stop_identity_t *identity);

/*
 * Reads a secret of at most 64 KB, cuts one line feed at its end.  Logs what
 * is wrong, with what to do, and returns NGX_ERROR.
 */
ngx_int_t ngx_http_cdm_stop_read_secret(ngx_conf_t *cf, ngx_str_t *file,
    ngx_str_t *secret);

/* the same for a key, whose bytes need not be UTF-8 */
ngx_int_t ngx_http_cdm_stop_read_key(ngx_conf_t *cf, ngx_str_t *file,
    ngx_str_t *secret);

/*
 * What proxy_pass of a location is set to; "upstream" is NULL if there is
 * none, or one with variables.
 */
ngx_http_upstream_conf_t *ngx_http_cdm_stop_proxy_conf(void **loc_conf);

/*
 * Makes cdcf->upstream of what proxy_pass of the location is set to, if there
 * is one.  Returns NGX_ERROR if there is no memory.
 */
ngx_int_t ngx_http_cdm_stop_upstream_conf(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);

/* checks that need the whole configuration; logs and returns NGX_ERROR */
ngx_int_t ngx_http_cdm_stop_check(ngx_conf_t *cf);

/* those of who may call, of one guarded location */
ngx_int_t ngx_http_cdm_stop_check_callers(ngx_conf_t *cf,
    ngx_http_cdm_stop_loc_conf_t *cdcf);

/* logs a message with the file and the line of an earlier directive */
void ngx_cdecl ngx_http_cdm_stop_conf_error(ngx_conf_t *cf, ngx_uint_t level,
    ngx_http_cdm_stop_place_t *place, const char *fmt, ...);


#endif /* _NGX_HTTP_CDM_STOP_CONF_H_INCLUDED_ */
