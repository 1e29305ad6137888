#ifndef SERVER_API_ERROR_H
#define SERVER_API_ERROR_H

struct buf;

/*
 * Error bodies. The type follows from the status (400: invalid_request_error, 429: rate_limit_error ...).
 */
enum api_error_shape {
    API_ERROR_OPENAI,    /* {"error":{"message":...,"type":...,"param":...,"code":...}} */
    API_ERROR_ANTHROPIC, /* {"type":"error","error":{"type":...,"message":...}} */
};

/* param and code may be NULL or empty: null. */
void api_error_print(struct buf *out, enum api_error_shape shape, int status, const char *message,
                     const char *param, const char *code);

#endif
