#include "server/completions.h"
#include "server/courier.h"
#include "server/engine.h"
#include "tests/unit/support/http_client.h"
#include "tests/unit/support/tiny_model.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/*
 * The courier between a scripted engine and a real HTTP connection: the test publishes records as the engine
 * does, in batches of its choosing, and reads what the client gets.
 */
static _Atomic int n_cancelled;

void engine_cancel(struct engine *engine, struct request *request)
{
    (void)engine;
    atomic_store(&request->cancelled, true);
    atomic_fetch_add(&n_cancelled, 1);
}

struct fixture {
    struct metrics metrics;
    struct http *http;
    struct gguf *gguf;
    void *file;
    struct tokenizer *tokenizer;
    struct courier *courier;
    pthread_mutex_t lock;
    struct http_call *waiting;
} fixture;

enum { PATIENCE_MS = 120000 }; /* for a busy machine under a sanitizer */

static void wait_cancelled(int wanted)
{
    for (int i = 0; i < PATIENCE_MS && atomic_load(&n_cancelled) < wanted; i++) usleep(1000);
}

static void left(void *context)
{
    (void)context;
}

static void handle(struct http_call *call, void *context)
{
    (void)context;
    http_defer(call, &(struct http_deferral){.left = left, .release = left});
    http_call_retain(call);
    pthread_mutex_lock(&fixture.lock);
    fixture.waiting = call;
    pthread_mutex_unlock(&fixture.lock);
}

static const struct http_route routes[] = {{.method = "POST", .path = "/", .handle = handle}};

static int set_up(void **state)
{
    (void)state;
    struct tiny_model tiny = tiny_model_default();
    size_t length;
    fixture.file = tiny_model_bytes(&tiny, &length);
    assert_int_equal(gguf_open_memory(fixture.file, length, &fixture.gguf, NULL), ERR_OK);
    assert_int_equal(tokenizer_create(fixture.gguf, &fixture.tokenizer, NULL), ERR_OK);
    assert_int_equal(courier_create(fixture.tokenizer, &fixture.courier, NULL), ERR_OK);
    courier_set_engine(fixture.courier, (struct engine *)&fixture);
    pthread_mutex_init(&fixture.lock, NULL);
    struct http_options options = {.host = "127.0.0.1",
                                   .threads = 1,
                                   .max_connections = 8,
                                   .max_body_bytes = 100,
                                   .max_stream_bytes = 1 << 20,
                                   .header_timeout_ms = 20000,
                                   .idle_timeout_ms = 20000,
                                   .routes = routes,
                                   .n_routes = 1,
                                   .metrics = &fixture.metrics};
    assert_int_equal(http_create(&options, &fixture.http, NULL), ERR_OK);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    http_close(fixture.http);
    courier_set_engine(fixture.courier, NULL);
    courier_free(fixture.courier);
    http_free(fixture.http, 1000);
    tokenizer_free(fixture.tokenizer);
    gguf_close(fixture.gguf);
    free(fixture.file);
    return 0;
}

/* A request of n choices, each of which will produce exactly these tokens. */
struct script {
    int fd;
    struct request *request;
    struct http_call *call;
    struct completions_state state;
    struct api_stop stop;
};

static void begin(struct script *script, int n, bool stream, int n_logprobs, const char *const *stops,
                  int n_stops)
{
    *script = (struct script){.fd = http_client_open(http_port(fixture.http))};
    http_client_send(script->fd, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    while (!script->call) {
        pthread_mutex_lock(&fixture.lock);
        script->call = fixture.waiting;
        fixture.waiting = NULL;
        pthread_mutex_unlock(&fixture.lock);
        usleep(100);
    }
    struct arena *arena = arena_create(1 << 24);
    struct request *request = arena_alloc(arena, 1, sizeof(*request));
    request->arena = arena;
    strcpy(request->id, "cmpl-test");
    atomic_store(&request->references, 1);
    request->n_choices = n;
    request->max_tokens = 1000;
    request->choices = arena_alloc(arena, (size_t)n, sizeof(struct choice));
    for (int i = 0; i < n; i++) {
        struct choice *choice = &request->choices[i];
        choice->request = request;
        choice->index = i;
        choice->n_prompt = 1;
        choice->sampler.n_logprobs = n_logprobs;
        choice->records = arena_alloc(arena, 1000, sizeof(struct token_record));
    }
    for (int i = 0; i < n_stops; i++)
        assert_int_equal(api_stop_add(&script->stop, arena, stops[i], strlen(stops[i]), NULL), ERR_OK);
    script->state = (struct completions_state){
        .common = {.model = "tiny", .tokenizer = fixture.tokenizer, .n = n, .n_logprobs = n_logprobs},
        .n_wanted = n};
    script->request = request;
    const struct courier_order order = {
        .format = &completions_format, .stream = stream, .stop = &script->stop, .state = &script->state};
    assert_int_equal(courier_attach(request, script->call, &order, NULL), ERR_OK);
}

/* As the engine: publish, then news with a reference unless the courier still has some to read. */
static void publish(struct script *script, int choice, const int32_t *tokens, int n,
                    enum finish_reason finish)
{
    struct choice *to = &script->request->choices[choice];
    int at = atomic_load(&to->n_ready);
    for (int i = 0; i < n; i++) to->records[at + i] = (struct token_record){tokens[i], -0.5f};
    atomic_store(&to->n_ready, at + n);
    if (finish != FINISH_NONE) atomic_store(&to->finish, (int)finish);
    if (atomic_exchange(&script->request->in_news, true)) return;
    request_retain(script->request);
    script->request->next_news = NULL;
    courier_deliver(fixture.courier, script->request);
}

static void end(struct script *script)
{
    close(script->fd);
    http_call_release(script->call);
    request_release(script->request);
}

/* The value of a string member, undone as far as these tests write it. */
static void take_string(const char *from, const char *member, char *out)
{
    const char *at = strstr(from, member);
    assert_non_null(at);
    at += strlen(member);
    for (; *at != '"'; at++) {
        if (*at != '\\') {
            *out++ = *at;
            continue;
        }
        at++;
        *out++ = *at == 'n' ? '\n' : *at;
    }
    *out = '\0';
}

/* All events' texts, one after another. */
static void join_events(const char *body, char *out)
{
    for (const char *at = body; (at = strstr(at, "data: {")); at++) {
        if (!strstr(at, "\"text\":\"")) break;
        take_string(at, "\"text\":\"", out);
        out += strlen(out);
    }
    *out = '\0';
}

static void encode(const char *text, int32_t *tokens, int *n)
{
    int32_t *found;
    size_t count;
    assert_int_equal(
        tokenizer_encode(fixture.tokenizer, text, strlen(text), false, false, 1000, &found, &count, NULL),
        ERR_OK);
    memcpy(tokens, found, count * sizeof(*tokens));
    *n = (int)count;
    free(found);
}

static void random_text(char *out, int n)
{
    static const char *const parts[] = {
        "a", "b", "ab", " the", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\n"};
    out[0] = '\0';
    for (int i = 0; i < n; i++) strcat(out, parts[rand() % 8]);
}

/* Random text in random batches, with and without stop strings, streamed and whole: the client gets the text
   up to the stop string that ends first. */
static void test_texts(void **state)
{
    (void)state;
    srand(11);
    int n_stopped = 0;
    for (int round = 0; round < 300; round++) {
        char text[400], stop_a[64], stop_b[64];
        int32_t tokens[1000];
        int n_tokens;
        random_text(text, 1 + rand() % 60);
        random_text(stop_a, 1 + rand() % 4);
        random_text(stop_b, 1 + rand() % 4);
        const char *const stops[] = {stop_a, stop_b};
        int n_stops = rand() % 3;
        encode(text, tokens, &n_tokens);

        size_t cut = strlen(text), cut_end = strlen(text) + 1;
        for (int s = 0; s < n_stops; s++) {
            const char *at = strstr(text, stops[s]);
            if (!at) continue;
            size_t start = (size_t)(at - text), stop_end = start + strlen(stops[s]);
            if (stop_end < cut_end || (stop_end == cut_end && start < cut)) cut = start, cut_end = stop_end;
        }
        bool stopped = cut_end <= strlen(text), stream = round % 2 == 0;
        n_stopped += stopped;
        char wanted[400];
        snprintf(wanted, sizeof(wanted), "%.*s", (int)cut, text);

        struct script script;
        int cancelled_before = atomic_load(&n_cancelled);
        begin(&script, 1, stream, -1, stops, n_stops);
        for (int at = 0; at < n_tokens;) {
            int n = 1 + rand() % 3;
            if (n > n_tokens - at) n = n_tokens - at;
            at += n;
            publish(&script, 0, tokens + at - n, n, FINISH_NONE);
            if (rand() % 2 == 0) usleep(200);
        }
        if (!stopped) publish(&script, 0, NULL, 0, FINISH_LENGTH);
        struct http_client_reply reply;
        http_client_read(script.fd, true, &reply);
        assert_int_equal(reply.status, 200);
        assert_true(reply.complete);
        char got[2000];
        if (stream)
            join_events(reply.body, got);
        else
            take_string(reply.body, "\"text\":\"", got);
        assert_string_equal(got, wanted);
        assert_non_null(
            strstr(reply.body, stopped ? "\"finish_reason\":\"stop\"" : "\"finish_reason\":\"length\""));
        assert_int_equal(strstr(reply.body, "data: [DONE]\n\n") != NULL, stream);
        http_client_free(&reply);
        end(&script);
        if (stopped) {
            wait_cancelled(cancelled_before + 1);
            assert_int_equal(atomic_load(&n_cancelled), cancelled_before + 1);
        }
    }
    assert_true(n_stopped > 30);
}

/* Two choices, interleaved; one stops by its string, the other goes on to its end. */
static void test_two_choices(void **state)
{
    (void)state;
    static const char *const stops[] = {"STOP"};
    int32_t a[1000], b[1000];
    int n_a, n_b;
    encode("one STOP two", a, &n_a);
    encode("three four five six", b, &n_b);
    struct script script;
    int cancelled_before = atomic_load(&n_cancelled);
    begin(&script, 2, false, -1, stops, 1);
    for (int i = 0; i < n_a || i < n_b; i++) {
        if (i < n_b) publish(&script, 1, b + i, 1, FINISH_NONE);
        if (i < n_a) publish(&script, 0, a + i, 1, FINISH_NONE);
    }
    publish(&script, 1, NULL, 0, FINISH_LENGTH);
    struct http_client_reply reply;
    http_client_read(script.fd, true, &reply);
    assert_non_null(
        strstr(reply.body, "{\"index\":0,\"text\":\"one \",\"logprobs\":null,\"finish_reason\":\"stop\"}"));
    assert_non_null(strstr(
        reply.body,
        "{\"index\":1,\"text\":\"three four five six\",\"logprobs\":null,\"finish_reason\":\"length\"}"));
    http_client_free(&reply);
    end(&script);
    wait_cancelled(cancelled_before + 1);
    assert_int_equal(atomic_load(&n_cancelled), cancelled_before + 1);
}

/* Bytes that never become UTF-8, and a sequence that the end cuts in two. */
static void test_bad_bytes(void **state)
{
    (void)state;
    int32_t euro[1000], tokens[3];
    int n;
    encode("\xE2\x82\xAC", euro, &n);
    if (n != 3) skip(); /* the vocabulary has a token for it */
    tokens[0] = euro[1], tokens[1] = euro[0], tokens[2] = euro[1];
    for (int stream = 0; stream < 2; stream++) {
        struct script script;
        begin(&script, 1, stream, 0, NULL, 0);
        for (int i = 0; i < 3; i++) publish(&script, 0, tokens + i, 1, i == 2 ? FINISH_LENGTH : FINISH_NONE);
        struct http_client_reply reply;
        http_client_read(script.fd, true, &reply);
        char got[100];
        if (stream)
            join_events(reply.body, got);
        else
            take_string(reply.body, "\"text\":\"", got);
        assert_int_equal(strncmp(got, "\xEF\xBF\xBD", 3), 0);
        assert_true(strlen(got) >= 6);
        if (!stream) {
            assert_non_null(
                strstr(reply.body, "\"tokens\":[\"bytes:\\\\x82\",\"bytes:\\\\xe2\",\"bytes:\\\\x82\"]"));
            assert_non_null(strstr(reply.body, "\"token_logprobs\":[-0.5,-0.5,-0.5]"));
            assert_non_null(strstr(reply.body, "\"top_logprobs\":null"));
            assert_non_null(strstr(reply.body, "\"text_offset\":[0,1,1]"));
        }
        http_client_free(&reply);
        end(&script);
    }
}

/* Logprobs stop where the text stops, and offsets count characters. */
static void test_logprobs(void **state)
{
    (void)state;
    static const char *const stops[] = {"b"};
    int32_t accents[1000], b[1000], tokens[1000];
    int n_accents, n_b;
    encode("\xC3\xA9\xC3\xA9", accents, &n_accents);
    encode("b", b, &n_b);
    memcpy(tokens, accents, (size_t)n_accents * sizeof(*tokens));
    tokens[n_accents] = b[0];
    struct script script;
    begin(&script, 1, false, 0, stops, 1);
    publish(&script, 0, tokens, n_accents + 1, FINISH_LENGTH);
    struct http_client_reply reply;
    http_client_read(script.fd, true, &reply);
    assert_non_null(strstr(reply.body, "\"text\":\"\xC3\xA9\xC3\xA9\""));
    assert_null(strstr(reply.body, "\"b\""));
    assert_non_null(strstr(reply.body, "\"text_offset\":[0,"));
    char usage[64];
    snprintf(usage, sizeof(usage), "\"completion_tokens\":%d", n_accents + 1);
    assert_non_null(strstr(reply.body, usage));
    http_client_free(&reply);
    end(&script);
}

/* The engine gives up: before anything was sent an HTTP error, later an error event without [DONE]. */
static void test_errors(void **state)
{
    (void)state;
    int32_t tokens[1000];
    int n;
    encode("some text", tokens, &n);
    for (int begun = 0; begun < 2; begun++) {
        struct script script;
        begin(&script, 1, true, -1, NULL, 0);
        if (begun) {
            publish(&script, 0, tokens, n, FINISH_NONE);
            struct pollfd begins = {.fd = script.fd, .events = POLLIN};
            assert_int_equal(poll(&begins, 1, PATIENCE_MS), 1);
        }
        err_set(&script.request->error, ERR_CLOSED, "the server is stopping");
        publish(&script, 0, NULL, 0, FINISH_ERROR);
        struct http_client_reply reply;
        http_client_read(script.fd, true, &reply);
        assert_int_equal(reply.status, begun ? 200 : 503);
        assert_non_null(strstr(reply.body, "{\"error\":{\"message\":\"the server is stopping\""));
        assert_null(strstr(reply.body, "[DONE]"));
        http_client_free(&reply);
        end(&script);
    }
    struct script script; /* cancelled: the connection closes without a reply */
    begin(&script, 1, false, -1, NULL, 0);
    publish(&script, 0, NULL, 0, FINISH_CANCELLED);
    assert_true(http_client_closed(script.fd));
    end(&script);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),    cmocka_unit_test(test_two_choices), cmocka_unit_test(test_bad_bytes),
        cmocka_unit_test(test_logprobs), cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
