#include "server/bench_load.h"

#include "config/clock.h"
#include "config/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* One request and its connection. */
struct client {
    struct load *load;
    struct bench_record *record;
    int fd;
    bool active; /* begun and not over */
    struct buf request;
    struct buf line; /* of the event stream, until its end of line; of an error, the body */
    struct bench_reply reply;
    bool ended; /* "[DONE]" came */
};

struct load {
    const struct bench_load_options *options;
    struct bench_load_result *result;
    struct client *clients; /* [n_requests] */
    int epoll;
    int n_started, n_running, n_ended;
    int64_t begin_us, next_arrival_us;
    int64_t progress_us;
};

/* --- what is asked --- */

/* splitmix64 of a counter (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014). */
static uint64_t random_at(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint64_t z = seed * 0xD1342543DE82EF95u + stream * 0x9E3779B97F4A7C15u + index * 0xBF58476D1CE4E5B9u;
    for (int i = 0; i < 2; i++) {
        z += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
    }
    return z;
}

enum { STREAM_SHAPE = 1, STREAM_ARRIVAL = 2, STREAM_PROMPT = 16 };

static int range_draw(const struct bench_range *range, uint64_t random)
{
    return range->low + (int)(random % (uint64_t)(range->high - range->low + 1));
}

static void request_write(struct client *client, int index)
{
    const struct bench_load_options *options = client->load->options;
    uint64_t shape = (uint64_t)index * 2;
    int n_prompt = range_draw(&options->prompt_tokens, random_at(options->seed, STREAM_SHAPE, shape));
    int max_tokens = range_draw(&options->max_tokens, random_at(options->seed, STREAM_SHAPE, shape + 1));
    client->record->prompt_tokens = n_prompt;

    struct buf body;
    buf_init(&body, SIZE_MAX);
    buf_text(&body, "{\"model\":");
    json_write_text(&body, options->model);
    buf_text(&body, ",\"prompt\":[");
    for (int i = 0; i < n_prompt; i++) {
        uint64_t random = random_at(options->seed, STREAM_PROMPT + (uint64_t)index, (uint64_t)i);
        buf_printf(&body, i ? ",%d" : "%d", (int)(random % (uint64_t)options->n_vocab));
    }
    buf_printf(&body, "],\"max_tokens\":%d,\"ignore_eos\":true,\"seed\":%d,\"temperature\":", max_tokens,
               index);
    json_write_double(&body, options->temperature);
    buf_text(&body, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    bench_request_write(&client->request, options->url, "/v1/completions", options->api_key, body.data,
                        body.length);
    client->request.failed = client->request.failed || body.failed;
    buf_free(&body);
}

/* --- what comes back --- */

static void client_end(struct client *client, const char *failure)
{
    struct load *load = client->load;
    if (!client->active) return;
    client->active = false;
    if (client->fd >= 0) close(client->fd);
    buf_free(&client->request);
    buf_free(&client->line);
    client->record->end_us = clock_us();
    client->record->ok = failure == NULL;
    load->n_running--;
    load->n_ended++;
    if (!failure) return;
    bool busy = client->record->status == 429 || client->record->status == 503;
    if (busy && load->options->allow_busy)
        load->result->n_refused++;
    else if (load->result->n_failed++ == 0)
        snprintf(load->result->first_failure, sizeof load->result->first_failure, "%s", failure);
}

static void gap_add(struct bench_load_result *result, double gap_ms)
{
    if (result->n_gaps == result->gaps_capacity) {
        size_t capacity = result->gaps_capacity ? result->gaps_capacity * 2 : 4096;
        double *gaps = realloc(result->gaps_ms, capacity * sizeof *gaps);
        if (!gaps) return; /* one gap less in the statistics */
        result->gaps_ms = gaps;
        result->gaps_capacity = capacity;
    }
    result->gaps_ms[result->n_gaps++] = gap_ms;
}

static void text_arrived(struct client *client)
{
    struct bench_record *record = client->record;
    int64_t now = clock_us();
    if (record->first_us == 0)
        record->first_us = now;
    else
        gap_add(client->load->result, (double)(now - record->last_us) / 1000);
    record->last_us = now;
}

/* One event's data: counts its time when it brings text, and takes the usage at the end. */
static void event_read(struct client *client, const char *data, size_t length)
{
    struct json *root;
    if (length == 6 && memcmp(data, "[DONE]", 6) == 0) {
        client->ended = true;
        return;
    }
    if (json_parse(data, length, &json_limits_default, &root, NULL)) return;
    const struct json *choice = json_at(json_get(root, "choices"), 0);
    const struct json *text = choice ? json_get(choice, "text") : NULL;
    size_t text_length = 0;
    if (text && json_type(text) == JSON_STRING) json_string(text, &text_length);
    if (text_length > 0) text_arrived(client);
    const struct json *tokens = json_get(json_get(root, "usage"), "completion_tokens");
    if (tokens && json_is_integer(tokens)) client->record->output_tokens = (int)json_int64(tokens);
    json_free(root);
}

/* Bytes of the body: event lines, or the text of an error. */
static void body_read(void *context, const char *bytes, size_t length)
{
    struct client *client = context;
    if (client->reply.status != 200) {
        buf_append(&client->line, bytes, length);
        return;
    }
    while (length > 0) {
        const char *newline = memchr(bytes, '\n', length);
        size_t n = newline ? (size_t)(newline - bytes) : length;
        buf_append(&client->line, bytes, n);
        if (!newline) return;
        struct buf *line = &client->line;
        if (line->length > 0 && line->data[line->length - 1] == '\r') line->length--;
        if (line->length >= 5 && memcmp(line->data, "data:", 5) == 0) {
            size_t skip = line->length > 5 && line->data[5] == ' ' ? 6 : 5;
            event_read(client, line->data + skip, line->length - skip);
        }
        buf_clear(line);
        bytes += n + 1;
        length -= n + 1;
    }
}

/* The reply is complete. */
static void reply_judge(struct client *client)
{
    char failure[256];
    client->record->status = client->reply.status;
    if (client->reply.status != 200)
        snprintf(failure, sizeof failure, "status %d: %.200s", client->reply.status,
                 client->line.data ? client->line.data : "");
    else if (!client->ended)
        snprintf(failure, sizeof failure, "the event stream ended without [DONE]");
    else if (client->record->output_tokens == 0)
        snprintf(failure, sizeof failure, "the reply has no tokens");
    else
        failure[0] = '\0';
    client_end(client, failure[0] ? failure : NULL);
}

/* --- the loop --- */

static void client_watch(struct client *client, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(client->load->epoll, operation, client->fd, &event) != 0)
        client_end(client, strerror(errno));
}

static void client_start(struct load *load, int index, int64_t start_us)
{
    struct client *client = &load->clients[index];
    client->record = &load->result->records[index];
    client->record->start_us = start_us;
    buf_init(&client->request, SIZE_MAX);
    buf_init(&client->line, 1 << 20);
    bench_reply_init(&client->reply, body_read, client);
    load->n_started++;
    load->n_running++;
    client->active = true;
    client->fd = bench_url_connect(load->options->url);
    if (client->fd < 0) {
        client_end(client, strerror(errno));
        return;
    }
    request_write(client, index);
    if (client->request.failed)
        client_end(client, "not enough memory for the request");
    else
        client_watch(client, EPOLL_CTL_ADD, EPOLLOUT);
}

static void client_send(struct client *client)
{
    ssize_t n = send(client->fd, client->request.data, client->request.length, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR) client_end(client, strerror(errno));
        return;
    }
    buf_consume(&client->request, (size_t)n);
    if (client->request.length == 0) client_watch(client, EPOLL_CTL_MOD, EPOLLIN);
}

static void client_receive(struct client *client)
{
    char piece[16384];
    ssize_t n = recv(client->fd, piece, sizeof piece, 0);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR) client_end(client, strerror(errno));
        return;
    }
    bool well =
        n > 0 ? bench_reply_feed(&client->reply, piece, (size_t)n) : bench_reply_close(&client->reply);
    if (!well)
        client_end(client, client->reply.fault);
    else if (client->reply.done)
        reply_judge(client);
}

static void arrivals_start(struct load *load, int64_t now)
{
    const struct bench_load_options *options = load->options;
    while (load->n_started < options->n_requests && load->n_running < options->concurrency) {
        if (options->rate <= 0) {
            client_start(load, load->n_started, now);
            continue;
        }
        if (now < load->next_arrival_us) return;
        /* From the time it was due: a generator that lags must not flatter the server. */
        uint64_t random = random_at(options->seed, STREAM_ARRIVAL, (uint64_t)load->n_started);
        int64_t due = load->next_arrival_us;
        load->next_arrival_us +=
            (int64_t)(-log(((double)(random >> 11) + 1) * 0x1p-53) / options->rate * 1e6);
        client_start(load, load->n_started, due);
    }
}

static void late_end(struct load *load, int64_t now)
{
    for (int i = 0; i < load->n_started; i++) {
        struct client *client = &load->clients[i];
        if (!client->active) continue;
        if (now - client->record->start_us > (int64_t)load->options->timeout_s * 1000000)
            client_end(client, "timed out");
    }
}

static void progress_print(struct load *load, int64_t now)
{
    if (!load->options->progress || now < load->progress_us) return;
    load->progress_us = now + 5000000;
    fprintf(stderr, "bench: %d of %d requests done, %d in flight, %.0f s\n", load->n_ended,
            load->options->n_requests, load->n_running, (double)(now - load->begin_us) / 1e6);
}

static enum err load_loop(struct load *load, struct err_info *info)
{
    struct epoll_event events[256];
    while (load->n_ended < load->options->n_requests) {
        int64_t now = clock_us();
        arrivals_start(load, now);
        late_end(load, now);
        progress_print(load, now);
        int wait_ms = 500;
        if (load->options->rate > 0 && load->n_started < load->options->n_requests &&
            load->next_arrival_us - now < 500000)
            wait_ms = load->next_arrival_us <= now ? 0 : (int)((load->next_arrival_us - now) / 1000) + 1;
        if (load->n_running >= load->options->concurrency) wait_ms = 500;
        int n = epoll_wait(load->epoll, events, 256, wait_ms);
        if (n < 0 && errno != EINTR) return err_set(info, ERR_IO, "epoll_wait: %s", strerror(errno));
        for (int i = 0; i < n; i++) {
            struct client *client = events[i].data.ptr;
            if (!client->active) continue;
            if (client->request.length > 0)
                client_send(client);
            else
                client_receive(client);
        }
    }
    return ERR_OK;
}

enum err bench_load_run(const struct bench_load_options *options, struct bench_load_result *out,
                        struct err_info *info)
{
    struct bench_load_result result = {.n_requests = options->n_requests};
    struct load load = {.options = options, .result = &result, .epoll = -1};
    enum err err = ERR_OK;
    result.records = calloc((size_t)options->n_requests, sizeof *result.records);
    load.clients = calloc((size_t)options->n_requests, sizeof *load.clients);
    if (!result.records || !load.clients) {
        err = err_set(info, ERR_MEMORY, "not enough memory for %d requests", options->n_requests);
        goto out;
    }
    for (int i = 0; i < options->n_requests; i++) load.clients[i].load = &load;
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (load.epoll < 0) {
        err = err_set(info, ERR_IO, "epoll_create1: %s", strerror(errno));
        goto out;
    }
    load.begin_us = load.next_arrival_us = clock_us();
    load.progress_us = load.begin_us + 5000000;
    err = load_loop(&load, info);
    result.wall_us = clock_us() - load.begin_us;
out:
    for (int i = 0; load.clients && i < load.n_started; i++) client_end(&load.clients[i], "stopped");
    if (load.epoll >= 0) close(load.epoll);
    free(load.clients);
    if (err)
        bench_load_free(&result);
    else
        *out = result;
    return err;
}

void bench_load_free(struct bench_load_result *result)
{
    free(result->records);
    free(result->gaps_ms);
    *result = (struct bench_load_result){.records = NULL};
}

/* --- settings --- */

enum err bench_range_parse(const char *option, const char *text, struct bench_range *out,
                           struct err_info *info)
{
    char *end;
    long low = strtol(text, &end, 10), high = low;
    bool well = end != text && text[0] >= '0' && text[0] <= '9';
    if (well && *end == ':') {
        const char *second = end + 1;
        high = strtol(second, &end, 10);
        well = end != second && second[0] >= '0' && second[0] <= '9';
    }
    if (!well || *end || low < 1 || high < low || high > 1 << 24)
        return err_set_param(info, ERR_USAGE, option,
                             "--%s: '%s' is not a count or a range such as 100:2000 (from 1 on)", option,
                             text);
    *out = (struct bench_range){.low = (int)low, .high = (int)high};
    return ERR_OK;
}

enum err bench_model_ask(const struct bench_url *url, const char *api_key, char *name, size_t size,
                         int *n_vocab, struct err_info *info)
{
    struct buf body;
    struct json *root = NULL;
    int status = 0;
    buf_init(&body, 1 << 20);
    enum err err = bench_get(url, "/v1/models", api_key, 10000, &status, &body, info);
    if (err) goto out;
    if (status != 200) {
        err = err_set(info, ERR_IO, "/v1/models answers with status %d: %.200s", status,
                      body.data ? body.data : "");
        goto out;
    }
    err = json_parse(body.data ? body.data : "", body.length, &json_limits_default, &root, info);
    if (err) goto out;
    const struct json *model = json_at(json_get(root, "data"), 0);
    const struct json *id = json_get(model, "id");
    const struct json *vocab = json_get(json_get(model, "meta"), "n_vocab");
    if (!id || json_type(id) != JSON_STRING) {
        err = err_set(info, ERR_IO, "/v1/models names no model");
        goto out;
    }
    snprintf(name, size, "%s", json_string(id, NULL));
    *n_vocab = vocab && json_is_integer(vocab) && json_int64(vocab) < 1 << 30 ? (int)json_int64(vocab) : 0;
out:
    json_free(root);
    buf_free(&body);
    return err;
}
