#ifndef SERVER_BENCH_HTTP_H
#define SERVER_BENCH_HTTP_H

#include "config/buf.h"
#include "config/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/*
 * As much of an HTTP/1.1 client as a load generator needs: plain http URLs, one request per connection, and a
 * reply that is read piece by piece, so that the arrival of each can be timed.
 */
struct bench_url {
    char host[256];   /* as in the Host header, with the port */
    char prefix[256]; /* path before /v1, without a slash at its end */
    struct sockaddr_storage address;
    socklen_t address_bytes;
};

/* "http://127.0.0.1:8080", "http://[::1]:8080/prefix", "localhost:8080"; resolves the name. ERR_USAGE. */
enum err bench_url_parse(const char *text, struct bench_url *out, struct err_info *info);

/* A non-blocking socket that is connecting or connected; -1 with errno. */
int bench_url_connect(const struct bench_url *url);

/* Append a request; body NULL: GET. api_key may be NULL. */
void bench_request_write(struct buf *out, const struct bench_url *url, const char *path, const char *api_key,
                         const char *body, size_t length);

/* A reply being read: status line, headers, body (by length, in chunks, or until the peer closes). */
struct bench_reply {
    void (*body)(void *context, const char *bytes, size_t length);
    void *context;
    int status;        /* 0 until known */
    bool done;         /* the whole body is there */
    const char *fault; /* why it cannot be read; NULL: all is well */

    /* the reader's own */
    enum { REPLY_STATUS, REPLY_HEADER, REPLY_BODY, REPLY_CHUNK_SIZE, REPLY_CHUNK_END, REPLY_TRAILER } at;
    bool chunked, has_length;
    uint64_t remaining; /* of the body, or of the chunk */
    size_t line_length;
    char line[1024]; /* of a header longer than this only the start is kept: none that matters is */
};

void bench_reply_init(struct bench_reply *reply,
                      void (*body)(void *context, const char *bytes, size_t length), void *context);
/* False when it is at fault. Bytes past the reply's end are ignored. */
bool bench_reply_feed(struct bench_reply *reply, const char *bytes, size_t length);
/* The peer closed. False when that cut the reply. */
bool bench_reply_close(struct bench_reply *reply);

/* GET path, waiting at most timeout_ms; the body goes into *body. ERR_IO: no (whole) reply. */
enum err bench_get(const struct bench_url *url, const char *path, const char *api_key, int timeout_ms,
                   int *status, struct buf *body, struct err_info *info);

#endif
