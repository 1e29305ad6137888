#ifndef SERVER_API_ERROR_H
#define SERVER_API_ERROR_H

struct buf;

/*
 * OpenAI's error object: {"error":{"message":...,"type":...,"param":...,"code":...}}. The type follows from
 * the status (400: invalid_request_error, 429: rate_limit_error ...). param and code may be NULL or empty:
 * null.
 */
void api_error_print(struct buf *out, int status, const char *message, const char *param, const char *code);

#endif
