#include "server/http.h"

#include "config/buf.h"
#include "config/clock.h"
#include "config/log.h"
#include "config/version.h"
#include "server/api_error.h"
#include "server/http_cors.h"
#include "server/http_keys.h"
#include "server/http_listen.h"
#include "server/http_route.h"
#include "server/metrics.h"
#include "server/tls.h"
#include "server/watcher.h"

#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/*
 * How a call sleeps and wakes. libmicrohttpd's own thread suspends a connection (call_sleep) when there is
 * nothing to send; any other thread that has news wakes it (call_wake). Resuming before the suspension would
 * be lost, so the word `asleep` orders the two: it is set after suspending, only who sets it back resumes,
 * and the sleeper looks once more for news after it set it. A connection cannot end while it sleeps, so the
 * one who resumes may touch it; nobody else but its own thread ever does.
 *
 * Lifetimes. A connection's descriptor is open between the library's STARTED and CLOSED notifications, a
 * call's between its opening and call_over; whoever uses the descriptor from another thread does so inside
 * the watcher's notification or under the call's lock, both of which CLOSED and call_over wait for.
 *
 * Locks: the library holds its response's mutex while it asks for stream data (stream_read), where we take
 * the call's; nowhere else are two held.
 */

enum {
    HEADER_BYTES = 32 * 1024,          /* longer headers get 431 */
    CONNECTION_POOL_BYTES = 96 * 1024, /* the library's memory of one connection; headers that outgrow it get
                                          its own 431, in HTML */
    THREAD_STACK_BYTES = 512 * 1024,
    /* A thread of the library (0.9.75) takes 128 events at a time, and when it got exactly so many it waits
       for further ones before it looks at them: clients whose requests came at once then got 408. With fewer
       descriptors than that it never gets so many: these, one more where they do not divide, the listening
       one, and the one that wakes it. */
    THREAD_CONNECTIONS = 120,
    STREAM_BLOCK_BYTES = 4096,
    BODY_BYTES_PER_MS = 1, /* the slowest upload that is waited for */
    EXTRA_HEADERS = 4,
};
/* A refused request's body up to this length is read and dropped, so that the client gets to read the reply;
   a longer one is cut off. */
static const uint64_t discard_bytes = 64 << 20;

static const char json_type[] = "application/json";

struct connection {
    struct http *http;
    int fd;
    struct watch *watch;
    struct http_call *call; /* while one is followed */
};

struct header {
    char name[32];
    char value[512]; /* openai-js asks for ten headers at once */
};

/* A header's value without the white space behind it. */
struct trimmed {
    struct trimmed *next;
    char value[];
};

struct http_call {
    struct http *http;
    struct http_call *next, **link; /* http->calls */
    _Atomic int references;

    /* Of the connection's own thread. */
    struct MHD_Connection *mhd;
    const struct http_route *route; /* NULL: refused, the reply is set */
    const char *method, *path;
    const struct http_tenant *tenant;
    enum api_error_shape errors;
    struct buf body;
    struct trimmed *trimmed;
    uint64_t received;
    bool handled;
    int64_t start_ms;
    char id[64];
    _Atomic bool asleep;

    pthread_mutex_t lock;          /* for everything below */
    struct connection *connection; /* NULL once the call is over */
    int status;                    /* 0: no reply yet */
    const char *content_type;
    struct header extra[EXTRA_HEADERS];
    int n_extra;
    struct buf out; /* the reply, or what of the stream has not been read yet: out.data + sent */
    size_t sent;
    bool stream, ended, aborted;
    bool deferred, told_left;
    struct http_deferral deferral;
};

struct http {
    struct http_options options;
    int port;
    int listen_fd;
    struct MHD_Daemon *daemon;
    struct watcher *watcher;

    pthread_mutex_t lock; /* for everything below */
    pthread_cond_t changed;
    struct http_call *calls;
    int n_inside; /* handlers and left() that run */
    bool closed;
};

/* Handlers and left() run between enter and leave; after http_close nobody enters. */
static bool http_enter(struct http *http)
{
    pthread_mutex_lock(&http->lock);
    bool open = !http->closed;
    if (open) http->n_inside++;
    pthread_mutex_unlock(&http->lock);
    return open;
}

static void http_leave(struct http *http)
{
    pthread_mutex_lock(&http->lock);
    http->n_inside--;
    pthread_cond_broadcast(&http->changed);
    pthread_mutex_unlock(&http->lock);
}

/* --- Sleeping and waking --- */

static bool call_has_news(struct http_call *call)
{
    pthread_mutex_lock(&call->lock);
    bool news = call->aborted;
    if (call->stream)
        news = news || call->ended || call->out.length > call->sent;
    else
        news = news || call->status != 0;
    pthread_mutex_unlock(&call->lock);
    return news;
}

static void call_wake(struct http_call *call)
{
    bool asleep = true;
    if (atomic_compare_exchange_strong(&call->asleep, &asleep, false)) MHD_resume_connection(call->mhd);
}

/* On the connection's thread. */
static void call_sleep(struct http_call *call)
{
    MHD_suspend_connection(call->mhd);
    atomic_store(&call->asleep, true);
    if (call_has_news(call)) call_wake(call);
}

/* --- The life of a call --- */

static void call_free(struct http_call *call)
{
    for (struct trimmed *next, *trimmed = call->trimmed; trimmed; trimmed = next) {
        next = trimmed->next;
        tls_wipe(trimmed->value, strlen(trimmed->value)); /* it may be a key */
        free(trimmed);
    }
    buf_free(&call->body);
    buf_free(&call->out);
    pthread_mutex_destroy(&call->lock);
    free(call);
}

void http_call_retain(struct http_call *call)
{
    atomic_fetch_add(&call->references, 1);
}

void http_call_release(struct http_call *call)
{
    if (atomic_fetch_sub(&call->references, 1) == 1) call_free(call);
}

/* The client's own id when it is printable and short enough, else a random one. */
static void call_name(struct http_call *call)
{
    const char *given = http_call_header(call, "X-Request-Id");
    size_t length = given ? strlen(given) : 0;
    bool usable = length > 0 && length < sizeof(call->id);
    for (size_t i = 0; usable && i < length; i++) usable = given[i] > ' ' && given[i] <= '~';
    if (usable) {
        memcpy(call->id, given, length + 1);
        return;
    }
    uint64_t random[2] = {0, 0};
    if (getrandom(random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
        random[0] = (uint64_t)(uintptr_t)call ^ (uint64_t)watcher_now_ms();
    snprintf(call->id, sizeof(call->id), "req-%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
}

static struct http_call *call_create(struct http *http, struct MHD_Connection *mhd,
                                     struct connection *connection, const char *method, const char *path)
{
    struct http_call *call = calloc(1, sizeof(*call));
    if (!call) return NULL;
    call->http = http;
    call->mhd = mhd;
    call->connection = connection;
    call->method = method;
    call->path = path;
    call->start_ms = watcher_now_ms();
    atomic_store(&call->references, 1);
    pthread_mutex_init(&call->lock, NULL);
    buf_init(&call->body, http->options.max_body_bytes);
    buf_init(&call->out, SIZE_MAX);
    call_name(call);
    connection->call = call;
    pthread_mutex_lock(&http->lock);
    call->next = http->calls;
    call->link = &http->calls;
    if (call->next) call->next->link = &call->next;
    http->calls = call;
    pthread_mutex_unlock(&http->lock);
    return call;
}

static void call_tell_left(struct http_call *call)
{
    pthread_mutex_lock(&call->lock);
    bool tell = call->deferred && !call->ended && !call->told_left;
    if (tell) call->told_left = true;
    struct http_deferral deferral = call->deferral;
    pthread_mutex_unlock(&call->lock);
    if (!tell || !http_enter(call->http)) return;
    deferral.left(deferral.context);
    http_leave(call->http);
}

/* The reply is out, or the connection is going: on its own thread, before the descriptor is closed. */
static void call_over(struct http_call *call, const char *how)
{
    struct http *http = call->http;
    struct connection *connection = call->connection;
    watcher_ignore(http->watcher, connection->watch);
    connection->call = NULL;
    call_tell_left(call);
    pthread_mutex_lock(&call->lock);
    call->connection = NULL;
    bool deferred = call->deferred;
    int status = call->status;
    struct http_deferral deferral = call->deferral;
    pthread_mutex_unlock(&call->lock);
    if (deferred) deferral.release(deferral.context);
    log_debug("http", "%s %s %d %s, %lld ms, %s", call->method, call->path, status, how,
              (long long)(watcher_now_ms() - call->start_ms), call->id);
    pthread_mutex_lock(&http->lock);
    *call->link = call->next;
    if (call->next) call->next->link = call->link;
    pthread_cond_broadcast(&http->changed);
    pthread_mutex_unlock(&http->lock);
    http_call_release(call);
}

/* --- What handlers see --- */

/* The library leaves the white space behind a value where it is, which is none of it (RFC 9110, 5.5). */
const char *http_call_header(struct http_call *call, const char *name)
{
    const char *value = MHD_lookup_connection_value(call->mhd, MHD_HEADER_KIND, name);
    size_t given = value ? strlen(value) : 0, length = given;
    while (length > 0 && (value[length - 1] == ' ' || value[length - 1] == '\t')) length--;
    if (length == given) return value;
    struct trimmed *trimmed = malloc(sizeof *trimmed + length + 1);
    if (!trimmed) return NULL;
    memcpy(trimmed->value, value, length);
    trimmed->value[length] = '\0';
    trimmed->next = call->trimmed;
    call->trimmed = trimmed;
    return trimmed->value;
}

const char *http_call_query(struct http_call *call, const char *name)
{
    return MHD_lookup_connection_value(call->mhd, MHD_GET_ARGUMENT_KIND, name);
}

const char *http_call_key(struct http_call *call)
{
    const char *bearer = http_route_bearer(http_call_header(call, "Authorization"));
    return bearer ? bearer : http_call_header(call, "X-Api-Key");
}

const struct http_tenant *http_call_tenant(const struct http_call *call)
{
    return call->tenant;
}

const char *http_call_path(const struct http_call *call)
{
    return call->path;
}

const char *http_call_body(const struct http_call *call, size_t *length)
{
    *length = call->body.length;
    return call->body.data ? call->body.data : "";
}

void http_reply_header(struct http_call *call, const char *name, const char *value)
{
    pthread_mutex_lock(&call->lock);
    assert(call->status == 0 && call->n_extra < EXTRA_HEADERS);
    struct header *header = &call->extra[call->n_extra++];
    snprintf(header->name, sizeof(header->name), "%s", name);
    snprintf(header->value, sizeof(header->value), "%s", value);
    pthread_mutex_unlock(&call->lock);
}

void http_reply(struct http_call *call, int status, const char *content_type, const char *bytes,
                size_t length)
{
    pthread_mutex_lock(&call->lock);
    assert(call->status == 0);
    call->content_type = content_type;
    buf_append(&call->out, bytes, length);
    call->status = status;
    call->ended = true;
    if (call->out.failed) call->aborted = true;
    pthread_mutex_unlock(&call->lock);
    call_wake(call);
}

void http_fail(struct http_call *call, int status, const char *param, const char *code, const char *format,
               ...)
{
    char message[600];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    struct buf body;
    buf_init(&body, SIZE_MAX);
    api_error_print(&body, call->errors, status, message, param, code);
    http_reply(call, status, json_type, body.data ? body.data : "", body.length);
    buf_free(&body);
}

void http_defer(struct http_call *call, const struct http_deferral *deferral)
{
    pthread_mutex_lock(&call->lock);
    assert(call->status == 0 && !call->deferred);
    call->deferred = true;
    call->deferral = *deferral;
    pthread_mutex_unlock(&call->lock);
    /* When this fails the client's leaving is noticed at the next write. */
    (void)watcher_follow(call->http->watcher, call->connection->watch);
}

void http_stream_begin(struct http_call *call, const char *content_type)
{
    pthread_mutex_lock(&call->lock);
    assert(call->status == 0);
    call->status = 200;
    call->content_type = content_type;
    call->stream = true;
    pthread_mutex_unlock(&call->lock);
}

enum http_sent http_stream_append(struct http_call *call, const char *bytes, size_t length)
{
    enum http_sent sent = HTTP_SENT;
    pthread_mutex_lock(&call->lock);
    assert(call->stream && !call->ended);
    if (call->aborted || !call->connection) {
        sent = HTTP_GONE;
    } else if (call->out.length - call->sent > call->http->options.max_stream_bytes) {
        sent = HTTP_SLOW;
        call->aborted = true;
        /* The library waits for a socket that never becomes writable: make it fail. */
        shutdown(call->connection->fd, SHUT_RDWR);
    } else {
        buf_consume(&call->out, call->sent);
        call->sent = 0;
        buf_append(&call->out, bytes, length);
        if (call->out.failed) call->aborted = true;
    }
    pthread_mutex_unlock(&call->lock);
    call_wake(call);
    return sent;
}

void http_stream_end(struct http_call *call)
{
    pthread_mutex_lock(&call->lock);
    call->ended = true;
    pthread_mutex_unlock(&call->lock);
    call_wake(call);
}

void http_abort(struct http_call *call)
{
    pthread_mutex_lock(&call->lock);
    call->aborted = true;
    pthread_mutex_unlock(&call->lock);
    call_wake(call);
}

/* --- Replies on the wire --- */

/* The library's callback: more of the stream. */
static ssize_t stream_read(void *context, uint64_t position, char *out, size_t room)
{
    (void)position;
    struct http_call *call = context;
    pthread_mutex_lock(&call->lock);
    size_t n = call->out.length - call->sent;
    if (n > room) n = room;
    if (n > 0) memcpy(out, call->out.data + call->sent, n);
    call->sent += n;
    if (call->sent == call->out.length) {
        buf_clear(&call->out);
        call->sent = 0;
    }
    bool ended = call->ended, aborted = call->aborted;
    pthread_mutex_unlock(&call->lock);
    if (aborted) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n > 0) return (ssize_t)n;
    if (ended) return MHD_CONTENT_READER_END_OF_STREAM;
    call_sleep(call);
    return 0;
}

static void stream_over(void *context)
{
    http_call_release(context);
}

static struct MHD_Response *call_response(struct http_call *call)
{
    if (call->stream) {
        http_call_retain(call);
        struct MHD_Response *response = MHD_create_response_from_callback(
            MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, stream_read, call, stream_over);
        if (!response) http_call_release(call);
        return response;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(call->out.length, call->out.data, MHD_RESPMEM_MUST_FREE);
    if (response) buf_init(&call->out, SIZE_MAX); /* the library frees it */
    return response;
}

static void add_cors(struct http_call *call, struct MHD_Response *response)
{
    const char *origins = call->http->options.cors_origins;
    const char *allow = http_cors_allow(origins ? origins : "*", http_call_header(call, "Origin"));
    if (!allow || strcmp(allow, "*") != 0) MHD_add_response_header(response, "Vary", "Origin");
    if (!allow) return;
    MHD_add_response_header(response, "Access-Control-Allow-Origin", allow);
    MHD_add_response_header(response, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
}

static enum MHD_Result call_send(struct http_call *call)
{
    struct MHD_Response *response = call_response(call);
    if (!response) return MHD_NO;
    if (call->content_type) MHD_add_response_header(response, "Content-Type", call->content_type);
    MHD_add_response_header(response, "Server", "octavo/" OCTAVO_VERSION);
    MHD_add_response_header(response, "X-Request-Id", call->id);
    add_cors(call, response);
    if (call->stream) {
        MHD_add_response_header(response, "Cache-Control", "no-cache");
        MHD_add_response_header(response, "X-Accel-Buffering", "no"); /* nginx: pass each event on */
    }
    for (int i = 0; i < call->n_extra; i++)
        MHD_add_response_header(response, call->extra[i].name, call->extra[i].value);
    enum MHD_Result result = MHD_queue_response(call->mhd, (unsigned)call->status, response);
    MHD_destroy_response(response);
    return result;
}

/* --- Requests from the wire --- */

static void reply_options(struct http_call *call, const char *allow)
{
    http_reply_header(call, "Allow", allow[0] ? allow : "GET, HEAD, POST, OPTIONS");
    http_reply_header(call, "Access-Control-Allow-Methods", allow[0] ? allow : "GET, HEAD, POST, OPTIONS");
    const char *wanted = http_call_header(call, "Access-Control-Request-Headers");
    http_reply_header(call, "Access-Control-Allow-Headers",
                      wanted && strlen(wanted) < sizeof call->extra[0].value
                          ? wanted
                          : "Authorization, Content-Type, X-Api-Key, Anthropic-Version");
    http_reply_header(call, "Access-Control-Max-Age", "86400");
    http_reply(call, 204, NULL, "", 0);
}

/* Sets route, or the reply that says why there is none. */
static void call_direct(struct http_call *call)
{
    struct http *http = call->http;
    const struct http_options *options = &http->options;
    char allow[128];
    call->errors = http_route_errors(options->routes, options->n_routes, call->path);
    http_route_allowed(options->routes, options->n_routes, call->path, allow, sizeof(allow));
    if (strcmp(call->method, "OPTIONS") == 0) {
        reply_options(call, allow);
        return;
    }
    const struct http_route *route =
        http_route_find(options->routes, options->n_routes, call->method, call->path);
    if (options->keys) call->tenant = http_keys_find(options->keys, http_call_key(call));
    if (options->keys && !call->tenant && !(route && route->open)) {
        http_reply_header(call, "WWW-Authenticate", "Bearer");
        http_fail(call, 401, NULL, "invalid_api_key",
                  "this server needs its API key: send 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'");
    } else if (route) {
        call->route = route;
    } else if (allow[0]) {
        http_reply_header(call, "Allow", allow);
        http_fail(call, 405, NULL, "method_not_allowed", "%s does not take %s; it takes %s", call->path,
                  call->method, allow);
    } else {
        http_fail(call, 404, NULL, "unknown_url", "no such path: %s %s", call->method, call->path);
    }
}

static void refuse_body(struct http_call *call)
{
    call->route = NULL;
    http_fail(call, 413, NULL, "request_too_large",
              "the request body is longer than this server takes (%zu bytes; --max-body-bytes raises it)",
              call->http->options.max_body_bytes);
}

/* The request line and the headers. */
static void check_header(struct http_call *call)
{
    const union MHD_ConnectionInfo *at =
        MHD_get_connection_info(call->mhd, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (!call->route || !at || at->header_size <= HEADER_BYTES) return;
    call->route = NULL;
    http_fail(call, 431, NULL, "headers_too_large",
              "the request's header has %zu bytes, at most %d are taken", at->header_size, HEADER_BYTES);
}

static uint64_t declared_length(struct http_call *call)
{
    const char *text = http_call_header(call, "Content-Length");
    return text ? strtoull(text, NULL, 10) : 0; /* the library has refused what is not a number */
}

static void set_body_deadline(struct http_call *call)
{
    struct http *http = call->http;
    int64_t patience_ms = http->options.header_timeout_ms + (int64_t)(call->received / BODY_BYTES_PER_MS);
    watcher_set_deadline(http->watcher, call->connection->watch, call->start_ms + patience_ms);
}

/* The headers are there. */
static enum MHD_Result call_open(struct http *http, struct MHD_Connection *mhd, const char *path,
                                 const char *method, void **context)
{
    const union MHD_ConnectionInfo *at = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *connection = at ? at->socket_context : NULL;
    if (!connection) return MHD_NO;
    struct http_call *call = call_create(http, mhd, connection, method, path);
    if (!call) return MHD_NO;
    *context = call;
    set_body_deadline(call);
    call_direct(call);
    check_header(call);
    uint64_t length = declared_length(call);
    if (call->route && length > http->options.max_body_bytes) refuse_body(call);
    bool waits = http_call_header(call, "Expect") != NULL;
    if (!call->route && (waits || length > discard_bytes)) return call_send(call);
    return MHD_YES;
}

static enum MHD_Result call_receive(struct http_call *call, const char *bytes, size_t length)
{
    call->received += length;
    set_body_deadline(call);
    if (call->route) {
        buf_append(&call->body, bytes, length);
        if (call->body.failed) refuse_body(call);
    }
    if (!call->route) buf_free(&call->body);
    return call->route || call->received <= discard_bytes ? MHD_YES : MHD_NO;
}

/* The request is complete. */
static void call_handle(struct http_call *call)
{
    struct http *http = call->http;
    call->handled = true;
    watcher_set_deadline(http->watcher, call->connection->watch, 0);
    if (!call->route) return;
    if (!http_enter(http)) {
        http_reply_header(call, "Retry-After", "5");
        http_fail(call, 503, NULL, "shutting_down", "the server is shutting down");
        return;
    }
    call->route->handle(call, http->options.context);
    http_leave(http);
    buf_free(&call->body);
}

static enum MHD_Result call_proceed(struct http_call *call)
{
    if (!call->handled) call_handle(call);
    pthread_mutex_lock(&call->lock);
    bool aborted = call->aborted, replied = call->status != 0;
    assert(aborted || replied || call->deferred); /* a handler replies or defers */
    pthread_mutex_unlock(&call->lock);
    if (aborted) return MHD_NO;
    if (replied) return call_send(call);
    call_sleep(call);
    return MHD_YES;
}

/* --- The library's callbacks --- */

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *path, const char *method,
                                  const char *version, const char *upload, size_t *upload_length,
                                  void **context)
{
    (void)version;
    struct http_call *call = *context;
    if (!call) return call_open(cls, mhd, path, method, context);
    if (*upload_length == 0) return call_proceed(call);
    enum MHD_Result result = call_receive(call, upload, *upload_length);
    *upload_length = 0;
    return result;
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **context,
                         enum MHD_RequestTerminationCode code)
{
    struct http *http = cls;
    struct http_call *call = *context;
    *context = NULL;
    if (!call) return;
    const union MHD_ConnectionInfo *at = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *connection = at->socket_context;
    call_over(call, code == MHD_REQUEST_TERMINATED_COMPLETED_OK ? "complete" : "cut off");
    watcher_set_deadline(http->watcher, connection->watch,
                         watcher_now_ms() + http->options.idle_timeout_ms + http->options.header_timeout_ms);
}

/* The library is reading, so nothing of ours is under way on this connection. */
static void connection_tell_late(struct connection *connection)
{
    static const char body[] = "{\"error\":{\"message\":\"the request did not arrive in time\",\"type\":"
                               "\"invalid_request_error\",\"param\":null,\"code\":\"timeout\"}}";
    char late[400];
    int n = snprintf(late, sizeof(late),
                     "HTTP/1.1 408 Request Timeout\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                     "Connection: close\r\n\r\n%s",
                     json_type, sizeof(body) - 1, body);
    ssize_t sent = send(connection->fd, late, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)sent;
}

/* On the watcher's thread. */
static void on_watched(void *context, enum watcher_event event)
{
    struct connection *connection = context;
    if (event == WATCHER_LEFT) {
        struct http_call *call = connection->call;
        call_tell_left(call);
        http_abort(call);
        return;
    }
    /* Under TLS the words would have to be the library's: a session has one writer at a time. */
    if (!connection->http->options.tls_cert) connection_tell_late(connection);
    shutdown(connection->fd, SHUT_RDWR);
}

static void connection_open(struct http *http, struct MHD_Connection *mhd, void **context)
{
    *context = NULL;
    const union MHD_ConnectionInfo *at = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct connection *connection = calloc(1, sizeof(*connection));
    if (!connection || !at) {
        free(connection);
        return;
    }
    connection->http = http;
    connection->fd = at->connect_fd;
    connection->watch = watcher_add(http->watcher, connection->fd, on_watched, connection);
    if (!connection->watch) {
        free(connection);
        return;
    }
    watcher_set_deadline(http->watcher, connection->watch,
                         watcher_now_ms() + http->options.header_timeout_ms);
    atomic_fetch_add(&http->options.metrics->connections, 1);
    *context = connection;
}

static void connection_close(struct connection *connection)
{
    struct http *http = connection->http;
    watcher_remove(http->watcher, connection->watch);
    atomic_fetch_sub(&http->options.metrics->connections, 1);
    free(connection);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        connection_open(cls, mhd, context);
    else if (*context)
        connection_close(*context);
}

/* The request line is there: the headers have header_timeout_ms from now. */
static void *on_request_line(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    (void)uri;
    struct http *http = cls;
    const union MHD_ConnectionInfo *at = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *connection = at ? at->socket_context : NULL;
    if (connection)
        watcher_set_deadline(http->watcher, connection->watch,
                             watcher_now_ms() + http->options.header_timeout_ms);
    return NULL;
}

__attribute__((format(printf, 2, 0))) static void on_log(void *cls, const char *format, va_list args)
{
    (void)cls;
    char line[400];
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = '\0';
    log_debug("http", "libmicrohttpd: %s", line);
}

/* --- Starting and stopping --- */

static struct MHD_Daemon *daemon_start(struct http *http)
{
    const struct http_options *options = &http->options;
    bool tls = options->tls_cert != NULL;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (tls) flags |= MHD_USE_TLS;
    struct MHD_OptionItem secure[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(size_t)options->tls_cert},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(size_t)options->tls_key},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(size_t)tls_priorities},
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_OptionItem more[] = {
        {MHD_OPTION_LISTEN_SOCKET, http->listen_fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, options->max_connections, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, (options->idle_timeout_ms + 999) / 1000, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_POOL_BYTES, NULL},
        {MHD_OPTION_THREAD_STACK_SIZE, THREAD_STACK_BYTES, NULL},
        {MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
        /* One thread is the daemon's own; a pool needs at least two. */
        {options->threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, options->threads, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    return MHD_start_daemon(flags, 0, NULL, NULL, on_request, http, MHD_OPTION_EXTERNAL_LOGGER, on_log, http,
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, http, MHD_OPTION_NOTIFY_CONNECTION,
                            on_connection, http, MHD_OPTION_URI_LOG_CALLBACK, on_request_line, http,
                            MHD_OPTION_ARRAY, more, tls ? MHD_OPTION_ARRAY : MHD_OPTION_END, secure,
                            MHD_OPTION_END);
}

enum err http_create(const struct http_options *options, struct http **out, struct err_info *info)
{
    struct http *http = calloc(1, sizeof(*http));
    if (!http) return err_set(info, ERR_MEMORY, "no memory for the HTTP server");
    http->options = *options;
    int least = (options->max_connections + THREAD_CONNECTIONS - 1) / THREAD_CONNECTIONS;
    if (http->options.threads < least) http->options.threads = least;
    if (http->options.max_connections < options->threads) http->options.max_connections = options->threads;
    http->port = options->port;
    http->listen_fd = -1;
    pthread_mutex_init(&http->lock, NULL);
    pthread_cond_init(&http->changed, NULL);
    enum err err = http_listen(options->host, &http->port, &http->listen_fd, info);
    if (err == ERR_OK) err = watcher_create(&http->watcher, info);
    if (err == ERR_OK) {
        http->daemon = daemon_start(http);
        if (!http->daemon) err = err_set(info, ERR_IO, "cannot start the HTTP threads: %s", strerror(errno));
    }
    if (err == ERR_OK) {
        *out = http;
        return ERR_OK;
    }
    watcher_free(http->watcher);
    if (http->listen_fd >= 0) close(http->listen_fd);
    pthread_cond_destroy(&http->changed);
    pthread_mutex_destroy(&http->lock);
    free(http);
    return err;
}

int http_port(const struct http *http)
{
    return http->port;
}

void http_close(struct http *http)
{
    pthread_mutex_lock(&http->lock);
    http->closed = true;
    while (http->n_inside > 0) pthread_cond_wait(&http->changed, &http->lock);
    pthread_mutex_unlock(&http->lock);
    /* A worker may be about to accept: the descriptor stays ours until it has ended, and refuses. */
    http->listen_fd = MHD_quiesce_daemon(http->daemon);
    if (http->listen_fd != MHD_INVALID_SOCKET) shutdown(http->listen_fd, SHUT_RDWR);
}

/* Waits until no call is under way; false when that takes longer than limit_ms. */
static bool wait_for_calls(struct http *http, int limit_ms)
{
    struct timespec until = clock_after_ms(CLOCK_REALTIME, limit_ms);
    int fault = 0;
    pthread_mutex_lock(&http->lock);
    while (http->calls && fault == 0) fault = pthread_cond_timedwait(&http->changed, &http->lock, &until);
    bool none = !http->calls;
    pthread_mutex_unlock(&http->lock);
    return none;
}

/* One call that has not been cut off yet, retained; NULL when there is none. */
static struct http_call *next_uncut(struct http *http)
{
    pthread_mutex_lock(&http->lock);
    struct http_call *call = http->calls;
    while (call && atomic_load(&call->asleep) == false) call = call->next;
    if (call) http_call_retain(call);
    pthread_mutex_unlock(&http->lock);
    return call;
}

void http_free(struct http *http, int flush_ms)
{
    if (!http) return;
    assert(http->closed);
    if (!wait_for_calls(http, flush_ms)) {
        log_warn("http", "cutting off clients that have not read their replies");
        /* The library must not be stopped while a connection sleeps. */
        for (struct http_call *call; (call = next_uncut(http)); http_call_release(call)) http_abort(call);
    }
    MHD_stop_daemon(http->daemon);
    if (http->listen_fd != MHD_INVALID_SOCKET) close(http->listen_fd);
    watcher_free(http->watcher);
    pthread_cond_destroy(&http->changed);
    pthread_mutex_destroy(&http->lock);
    free(http);
}
