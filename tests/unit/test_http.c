#include "server/http.h"
#include "server/http_keys.h"
#include "server/metrics.h"
#include "tests/unit/support/http_client.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* The real server on a free port, with handlers that do what the tests ask. */
struct fixture {
    struct http *http;
    struct http_keys *keys;
    struct metrics metrics;
    int port;
    pthread_mutex_t lock;
    struct http_call *waiting; /* the deferred call, retained */
    _Atomic int n_left, n_released, n_handled;
};

static void handle_plain(struct http_call *call, void *context)
{
    struct fixture *fixture = context;
    atomic_fetch_add(&fixture->n_handled, 1);
    http_reply(call, 200, "text/plain", "plain", 5);
}

static void handle_echo(struct http_call *call, void *context)
{
    (void)context;
    size_t length;
    const char *body = http_call_body(call, &length);
    http_reply(call, 200, "text/plain", body, length);
}

static void handle_query(struct http_call *call, void *context)
{
    (void)context;
    const char *value = http_call_query(call, "q");
    http_reply(call, 200, "text/plain", value ? value : "none", strlen(value ? value : "none"));
}

static void left(void *context)
{
    struct fixture *fixture = context;
    atomic_fetch_add(&fixture->n_left, 1);
}

static void released(void *context)
{
    struct fixture *fixture = context;
    atomic_fetch_add(&fixture->n_released, 1);
}

static void handle_later(struct http_call *call, void *context)
{
    struct fixture *fixture = context;
    http_defer(call, &(struct http_deferral){.left = left, .release = released, .context = fixture});
    http_call_retain(call);
    pthread_mutex_lock(&fixture->lock);
    fixture->waiting = call;
    pthread_mutex_unlock(&fixture->lock);
}

static const struct http_route routes[] = {
    {.method = "GET", .path = "/plain", .handle = handle_plain},
    {.method = "GET", .path = "/open", .open = true, .handle = handle_plain},
    {.method = "GET", .path = "/query", .handle = handle_query},
    {.method = "GET", .path = "/thing/", .prefix = true, .handle = handle_plain},
    {.method = "POST", .path = "/echo", .handle = handle_echo},
    {.method = "POST", .path = "/later", .handle = handle_later},
};

enum { BODY_MAX = 100000, STREAM_MAX = 300000 };

static struct fixture *start(const char *key, int header_timeout_ms, int threads)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    pthread_mutex_init(&fixture->lock, NULL);
    struct err_info info;
    assert_int_equal(http_keys_create(key, NULL, &fixture->keys, &info), ERR_OK);
    struct http_options options = {.host = "127.0.0.1",
                                   .threads = threads,
                                   .max_connections = 64,
                                   .max_body_bytes = BODY_MAX,
                                   .max_stream_bytes = STREAM_MAX,
                                   .header_timeout_ms = header_timeout_ms,
                                   .idle_timeout_ms = 30000,
                                   .keys = fixture->keys,
                                   .routes = routes,
                                   .n_routes = sizeof(routes) / sizeof(routes[0]),
                                   .context = fixture,
                                   .metrics = &fixture->metrics};
    assert_int_equal(http_create(&options, &fixture->http, &info), ERR_OK);
    fixture->port = http_port(fixture->http);
    return fixture;
}

static void stop(struct fixture *fixture)
{
    http_close(fixture->http);
    http_free(fixture->http, 2000);
    http_keys_free(fixture->keys);
    assert_int_equal(atomic_load(&fixture->metrics.connections), 0);
    pthread_mutex_destroy(&fixture->lock);
    free(fixture);
}

enum { PATIENCE = 120000 }; /* times a millisecond, for a busy machine under a sanitizer */

/* Waits for a value that other threads bring about. */
static void wait_for(_Atomic int *value, int wanted)
{
    for (int i = 0; i < PATIENCE && atomic_load(value) != wanted; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_int_equal(atomic_load(value), wanted);
}

static struct http_call *wait_call(struct fixture *fixture)
{
    for (int i = 0; i < PATIENCE; i++) {
        pthread_mutex_lock(&fixture->lock);
        struct http_call *call = fixture->waiting;
        fixture->waiting = NULL;
        pthread_mutex_unlock(&fixture->lock);
        if (call) return call;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    fail_msg("no deferred call came");
    return NULL;
}

/* Sends text on a new connection, reads the reply, closes. */
static void ask(struct fixture *fixture, const char *text, struct http_client_reply *reply)
{
    int fd = http_client_open(fixture->port);
    http_client_send(fd, text);
    http_client_read(fd, strncmp(text, "HEAD", 4) != 0, reply);
    close(fd);
}

static void check_error(const struct http_client_reply *reply, int status, const char *code)
{
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "\"code\":\"%s\"", code);
    assert_int_equal(reply->status, status);
    assert_string_equal(http_client_header(reply, "Content-Type"), "application/json");
    assert_non_null(strstr(reply->body, "{\"error\":{\"message\":\""));
    assert_non_null(strstr(reply->body, wanted));
}

static void test_replies(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 2);
    struct http_client_reply reply;
    ask(fixture, "GET /plain HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine-1\r\n\r\n", &reply);
    assert_int_equal(reply.status, 200);
    assert_string_equal(reply.body, "plain");
    assert_string_equal(http_client_header(&reply, "X-Request-Id"), "mine-1");
    assert_int_equal(strncmp(http_client_header(&reply, "Server"), "octavo/", 7), 0);
    assert_string_equal(http_client_header(&reply, "Access-Control-Allow-Origin"), "*");
    http_client_free(&reply);

    ask(fixture, "GET /plain HTTP/1.1\r\nHost: x\r\nX-Request-Id: not mine\r\n\r\n", &reply);
    assert_int_equal(strncmp(http_client_header(&reply, "X-Request-Id"), "req-", 4), 0);
    http_client_free(&reply);

    ask(fixture, "HEAD /plain HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    assert_int_equal(reply.status, 200);
    assert_string_equal(http_client_header(&reply, "Content-Length"), "5");
    http_client_free(&reply);

    ask(fixture, "GET /query?a=1&q=a%20b HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    assert_string_equal(reply.body, "a b");
    http_client_free(&reply);

    ask(fixture, "GET /thing/a/b HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    assert_int_equal(reply.status, 200);
    http_client_free(&reply);

    ask(fixture, "GET /plain HTTP/1.0\r\n\r\n", &reply);
    assert_int_equal(reply.status, 200);
    http_client_free(&reply);
    stop(fixture);
}

static void test_refusals(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 2);
    struct http_client_reply reply;
    ask(fixture, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    check_error(&reply, 404, "unknown_url");
    http_client_free(&reply);
    ask(fixture, "GET /thing/ HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    check_error(&reply, 404, "unknown_url");
    http_client_free(&reply);

    ask(fixture, "DELETE /plain HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    check_error(&reply, 405, "method_not_allowed");
    assert_string_equal(http_client_header(&reply, "Allow"), "GET, HEAD, OPTIONS");
    http_client_free(&reply);

    ask(fixture,
        "OPTIONS /echo HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Headers: x-a, authorization\r\n\r\n",
        &reply);
    assert_int_equal(reply.status, 204);
    assert_string_equal(http_client_header(&reply, "Allow"), "POST, OPTIONS");
    assert_string_equal(http_client_header(&reply, "Access-Control-Allow-Headers"), "x-a, authorization");
    http_client_free(&reply);

    /* Malformed, and HTTP/1.1 without Host: the library's own 400. */
    ask(fixture, "GET /plain HTTP/1.1\r\n\r\n", &reply);
    assert_int_equal(reply.status, 400);
    http_client_free(&reply);
    ask(fixture, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n", &reply);
    assert_int_equal(reply.status, 400);
    http_client_free(&reply);
    ask(fixture, "GET /plain HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    assert_int_equal(reply.status, 200);
    http_client_free(&reply);
    stop(fixture);
}

static void test_keys(void **state)
{
    (void)state;
    struct fixture *fixture = start("secret", 20000, 1);
    static const struct {
        const char *header;
        int status;
    } cases[] = {
        {"", 401},
        {"Authorization: Bearer secret\r\n", 200},
        {"Authorization: bearer  secret\r\n", 200},
        {"Authorization: Bearer secre\r\n", 401},
        {"Authorization: Bearer secretsecret\r\n", 401},
        {"Authorization: Bearer \r\n", 401},
        {"Authorization: secret\r\n", 401},
        {"Authorization: Basic secret\r\n", 401},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[256];
        struct http_client_reply reply;
        snprintf(text, sizeof(text), "GET /plain HTTP/1.1\r\nHost: x\r\n%s\r\n", cases[i].header);
        ask(fixture, text, &reply);
        assert_int_equal(reply.status, cases[i].status);
        if (reply.status == 401) {
            check_error(&reply, 401, "invalid_api_key");
            assert_string_equal(http_client_header(&reply, "WWW-Authenticate"), "Bearer");
        }
        http_client_free(&reply);
    }
    struct http_client_reply reply;
    ask(fixture, "GET /open HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    assert_int_equal(reply.status, 200);
    http_client_free(&reply);
    ask(fixture, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    assert_int_equal(reply.status, 401);
    http_client_free(&reply);
    stop(fixture);
}

static void test_bodies(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 2);
    struct http_client_reply reply;
    char *text = malloc(2 * BODY_MAX + 1000);

    /* Exactly the limit, one more by Content-Length, one more in chunks; then the same connection goes on. */
    int fd = http_client_open(fixture->port);
    int n = sprintf(text, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", BODY_MAX);
    memset(text + n, 'a', BODY_MAX);
    text[n + BODY_MAX] = '\0';
    http_client_send(fd, text);
    http_client_read(fd, true, &reply);
    assert_int_equal(reply.status, 200);
    assert_int_equal(reply.length, BODY_MAX);
    http_client_free(&reply);

    n = sprintf(text, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", BODY_MAX + 1);
    memset(text + n, 'a', BODY_MAX + 1);
    text[n + BODY_MAX + 1] = '\0';
    http_client_send(fd, text);
    http_client_read(fd, true, &reply);
    check_error(&reply, 413, "request_too_large");
    http_client_free(&reply);

    n = sprintf(text, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n",
                BODY_MAX + 1);
    memset(text + n, 'a', BODY_MAX + 1);
    strcpy(text + n + BODY_MAX + 1, "\r\n0\r\n\r\n");
    http_client_send(fd, text);
    http_client_read(fd, true, &reply);
    check_error(&reply, 413, "request_too_large");
    http_client_free(&reply);

    http_client_send(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                         "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    http_client_read(fd, true, &reply);
    assert_int_equal(reply.status, 200);
    assert_string_equal(reply.body, "abcde");
    http_client_free(&reply);
    close(fd);

    /* With Expect the refusal comes instead of "100 Continue". */
    sprintf(text, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n",
            BODY_MAX + 1);
    ask(fixture, text, &reply);
    check_error(&reply, 413, "request_too_large");
    http_client_free(&reply);
    fd = http_client_open(fixture->port);
    http_client_send(fd,
                     "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    http_client_read(fd, true, &reply);
    assert_int_equal(reply.status, 100);
    http_client_free(&reply);
    http_client_send(fd, "ok");
    http_client_read(fd, true, &reply);
    assert_string_equal(reply.body, "ok");
    http_client_free(&reply);
    close(fd);
    free(text);
    stop(fixture);
}

static void test_headers_too_long(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 1);
    char *text = malloc(100000);
    int n = sprintf(text, "GET /plain HTTP/1.1\r\nHost: x\r\nX-Long: ");
    memset(text + n, 'a', 60000);
    strcpy(text + n + 60000, "\r\n\r\n");
    struct http_client_reply reply;
    ask(fixture, text, &reply);
    assert_true(reply.status == 431 || reply.status == 0); /* 0: the reset overtook the reply */
    http_client_free(&reply);
    free(text);
    ask(fixture, "GET /plain HTTP/1.1\r\nHost: x\r\n\r\n", &reply);
    assert_int_equal(reply.status, 200);
    http_client_free(&reply);
    stop(fixture);
}

/* A client that keeps sending, but never a whole header or body, is not waited for. */
static void test_slow_request(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 300, 1);
    static const char *const parts[] = {"GET /plain HTTP/1.1\r\nHost: x\r\nX-Slow: ",
                                        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"};
    for (int i = 0; i < 2; i++) {
        int fd = http_client_open(fixture->port);
        http_client_send(fd, parts[i]);
        struct http_client_reply reply = {0};
        struct pollfd end = {.fd = fd, .events = POLLIN};
        for (int round = 0; round < PATIENCE / 50 && poll(&end, 1, 50) == 0; round++)
            http_client_send(fd, "a");
        http_client_read(fd, true, &reply);
        assert_true(reply.status == 408 || reply.status == 0);
        http_client_free(&reply);
        close(fd);
    }
    assert_int_equal(atomic_load(&fixture->n_handled), 0);
    stop(fixture);
}

static void test_deferred(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 2);
    struct http_client_reply reply;
    int fd = http_client_open(fixture->port);
    for (int round = 1; round <= 50; round++) {
        http_client_send(fd, "POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx");
        struct http_call *call = wait_call(fixture);
        if (round % 2 == 0) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        http_reply_header(call, "Retry-After", "7");
        http_fail(call, 429, "prompt", "server_busy", "no room for %d", round);
        http_call_release(call);
        http_client_read(fd, true, &reply);
        check_error(&reply, 429, "server_busy");
        assert_string_equal(http_client_header(&reply, "Retry-After"), "7");
        http_client_free(&reply);
    }
    close(fd);
    wait_for(&fixture->n_released, 50);
    assert_int_equal(atomic_load(&fixture->n_left), 0);
    stop(fixture);
}

static void test_stream(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 2);
    int fd = http_client_open(fixture->port);
    for (int round = 0; round < 10; round++) { /* keep-alive after a stream */
        http_client_send(fd, "POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        struct http_call *call = wait_call(fixture);
        http_stream_begin(call, "text/event-stream");
        char event[32], wanted[20000] = "";
        for (int i = 0; i < 1000; i++) {
            int n = sprintf(event, "data: %d\n\n", i);
            assert_int_equal(http_stream_append(call, event, (size_t)n), HTTP_SENT);
            strcat(wanted, event);
            if (i % 100 == 50) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        http_stream_end(call);
        http_call_release(call);
        struct http_client_reply reply;
        http_client_read(fd, true, &reply);
        assert_int_equal(reply.status, 200);
        assert_true(reply.complete);
        assert_string_equal(http_client_header(&reply, "Content-Type"), "text/event-stream");
        assert_string_equal(reply.body, wanted);
        http_client_free(&reply);
    }
    close(fd);
    wait_for(&fixture->n_released, 10);
    assert_int_equal(atomic_load(&fixture->n_left), 0);
    stop(fixture);
}

/* The client leaves: while it waits for a whole reply, and in the middle of a stream. */
static void test_left(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 2);
    for (int round = 1; round <= 20; round++) {
        int fd = http_client_open(fixture->port);
        http_client_send(fd, "POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        struct http_call *call = wait_call(fixture);
        if (round % 2 == 0) {
            http_stream_begin(call, "text/event-stream");
            http_stream_append(call, "data: x\n\n", 9);
        }
        if (round % 3 == 0) nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        close(fd);
        wait_for(&fixture->n_left, round);
        wait_for(&fixture->n_released, round);
        if (round % 2 == 0)
            assert_int_equal(http_stream_append(call, "data: y\n\n", 9), HTTP_GONE);
        else
            http_reply(call, 200, "text/plain", "late", 4);
        http_call_release(call);
    }
    stop(fixture);
}

static void test_slow_reader(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 1);
    int fd = http_client_open_small(fixture->port, 4096);
    http_client_send(fd, "POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    struct http_call *call = wait_call(fixture);
    http_stream_begin(call, "text/event-stream");
    static char block[2 * STREAM_MAX]; /* what comes at once may be longer than what may be left unread */
    memset(block, 'a', sizeof(block));
    enum http_sent sent = HTTP_SENT;
    for (int i = 0; i < 10000 && sent == HTTP_SENT; i++)
        sent = http_stream_append(call, block, sizeof(block));
    assert_int_equal(sent, HTTP_SLOW);
    assert_int_equal(http_stream_append(call, block, 1), HTTP_GONE);
    wait_for(&fixture->n_released, 1);
    http_call_release(call);
    close(fd);
    stop(fixture);
}

/* The server ends while clients wait, read slowly, send slowly or do nothing. */
static void test_stop(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 2);
    int idle = http_client_open(fixture->port);
    int half = http_client_open(fixture->port);
    http_client_send(half, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab");
    int waits = http_client_open(fixture->port);
    http_client_send(waits, "POST /later HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    struct http_call *call = wait_call(fixture);
    http_close(fixture->http);
    http_free(fixture->http, 50);
    http_keys_free(fixture->keys);
    assert_int_equal(atomic_load(&fixture->n_left), 0); /* nobody is told after http_close */
    assert_int_equal(atomic_load(&fixture->n_released), 1);
    assert_int_equal(atomic_load(&fixture->metrics.connections), 0);
    http_call_release(call);
    assert_true(http_client_closed(idle));
    assert_true(http_client_closed(half));
    assert_true(http_client_closed(waits));
    close(idle), close(half), close(waits);
    pthread_mutex_destroy(&fixture->lock);
    free(fixture);
}

static void test_bind(void **state)
{
    (void)state;
    struct fixture *fixture = start(NULL, 20000, 1);
    struct http_options options = {.host = "127.0.0.1",
                                   .port = fixture->port,
                                   .threads = 1,
                                   .max_connections = 4,
                                   .metrics = &fixture->metrics};
    struct err_info info;
    struct http *second = NULL;
    assert_int_equal(http_create(&options, &second, &info), ERR_IO);
    assert_string_equal(info.param, "port");
    assert_non_null(strstr(info.message, "Address already in use"));
    options.host = "no.such.host.invalid";
    assert_int_equal(http_create(&options, &second, &info), ERR_IO);
    assert_string_equal(info.param, "host");
    stop(fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replies),      cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_keys),         cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_slow_request), cmocka_unit_test(test_headers_too_long),
        cmocka_unit_test(test_deferred),     cmocka_unit_test(test_stream),
        cmocka_unit_test(test_left),         cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_stop),         cmocka_unit_test(test_bind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
