#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "config/err.h"
#include "server/api_error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * HTTP, and the only door to libmicrohttpd: connections, limits, deadlines, keys, routes. What stands above
 * sees routes, calls and replies.
 *
 * A call is one request and its reply. Its handler runs on an HTTP thread once the whole body is there, and
 * either replies at once or defers: then any thread may reply later, whole or as a stream, and the connection
 * sleeps meanwhile. Faults that need no handler (404, 405, 401, 413 ...) are answered here. Error bodies
 * have the shape that the route's clients know.
 */
struct http;
struct http_call;
struct http_keys;
struct http_tenant;
struct metrics;

struct http_route {
    const char *method; /* GET also answers HEAD */
    const char *path;
    bool prefix; /* path is only the start of what it answers */
    bool open;   /* needs no key */
    enum api_error_shape errors;
    void (*handle)(struct http_call *call, void *context);
};

struct http_options {
    const char *host; /* name or address; "::" also takes IPv4 */
    int port;         /* 0: any free one */
    int threads;
    int max_connections;
    size_t max_body_bytes;
    size_t max_stream_bytes; /* a stream whose reader leaves more than this unread is cut off at its next
                                bytes; what is appended at once may be longer */
    int header_timeout_ms;
    int idle_timeout_ms;
    const struct http_keys *keys;    /* NULL: everybody may */
    const char *tls_cert, *tls_key;  /* PEM, as tls_load gives them; NULL: plain HTTP */
    const char *cors_origins;        /* as http_cors_allow takes them; NULL: "*" */
    const struct http_route *routes; /* borrowed, as are the strings */
    int n_routes;
    void *context; /* for the handlers */
    struct metrics *metrics;
};

/* Binds the address (ERR_IO when it is taken or unknown, naming it) and starts to serve. */
enum err http_create(const struct http_options *options, struct http **out, struct err_info *info);
/* The port it listens on. */
int http_port(const struct http *http);
/* Stop accepting connections and refuse new calls with 503. When this returns, no handler and no deferral's
   `left` runs or will run; deferred calls still wait for their replies. */
void http_close(struct http *http);
/* Give replies up to flush_ms to reach their clients, cut off what is left, join the threads. Only after
   http_close. NULL-safe. */
void http_free(struct http *http, int flush_ms);

/* In a handler. Header and query values live until it returns; NULL when absent. A header's value is without
   the white space around it. */
const char *http_call_header(struct http_call *call, const char *name);
const char *http_call_query(struct http_call *call, const char *name);
/* The key it came with (Authorization: Bearer, else X-Api-Key, as Anthropic's clients have it); NULL: none.
 */
const char *http_call_key(struct http_call *call);
/* Whose key that is; NULL: the server has no keys, or the route needs none. */
const struct http_tenant *http_call_tenant(const struct http_call *call);
const char *http_call_path(const struct http_call *call);
const char *http_call_body(const struct http_call *call, size_t *length);

/* A call's reply may be given from one thread at a time. Whoever keeps a deferred call retains it. */
void http_call_retain(struct http_call *call);
void http_call_release(struct http_call *call);

/* Before the reply or the stream begins. Copies. */
void http_reply_header(struct http_call *call, const char *name, const char *value);
/* The whole reply; copies bytes. content_type must be static. */
void http_reply(struct http_call *call, int status, const char *content_type, const char *bytes,
                size_t length);
/* An error body. param and code may be NULL or empty; the type follows from the status. */
void http_fail(struct http_call *call, int status, const char *param, const char *code, const char *format,
               ...) __attribute__((format(printf, 5, 6)));

/* In a handler that will not reply before it returns. */
struct http_deferral {
    void (*left)(void *context);    /* the client is gone before its reply was complete; from any thread,
                                       at most once */
    void (*release)(void *context); /* the call is over and will not use context again */
    void *context;
};
void http_defer(struct http_call *call, const struct http_deferral *deferral);

enum http_sent {
    HTTP_SENT,
    HTTP_GONE, /* the client left */
    HTTP_SLOW, /* more than max_stream_bytes were still unread: the connection is cut */
};
/* Status 200 and the headers go out with the first bytes. */
void http_stream_begin(struct http_call *call, const char *content_type);
enum http_sent http_stream_append(struct http_call *call, const char *bytes, size_t length);
void http_stream_end(struct http_call *call);
/* Close the connection without a complete reply. */
void http_abort(struct http_call *call);

#endif
