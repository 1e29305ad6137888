#include "server/serve.h"

#include "config/log.h"
#include "config/options.h"
#include "config/version.h"
#include "kernels/workers.h"
#include "model/gguf.h"
#include "server/api.h"
#include "server/courier.h"
#include "server/engine.h"
#include "server/serve_calibration.h"
#include "server/serve_machine.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

/*
 * Order of things. The port is bound first: a taken one fails at once, and /health can say "loading". Then
 * the calibration, and the model, from the file up to the engine; then the doors open. On the way down: the
 * engine takes no more requests while it finishes those it has, HTTP closes its doors, the engine goes (it
 * tells whoever is left), the courier delivers that, and HTTP goes last.
 */
enum {
    STREAM_BYTES_MAX = 1 << 20, /* unread by a slow client */
    LOGITS_BYTES = 32 << 20,
    FLUSH_MS = 2000, /* for the last replies to reach their clients */
    FLUSH_HARD_MS = 200,
    DRAIN_POLL_MS = 20,
};

struct serve {
    const struct options *options;
    struct metrics metrics;
    struct api api;
    char model_name[256];
    struct http *http;
    struct workers *workers;
    struct backend *backend;
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct model *model;
    struct calibration *calibration;
    struct courier *courier;
    struct engine *engine;
    enum kv_format kv_format;
    int max_logits;
};

/* --- Signals --- */

static volatile sig_atomic_t signals_seen;
static volatile sig_atomic_t signals_limit; /* the one that ends the process on the spot */
static int signal_fd = -1;

static void on_signal(int number)
{
    int error = errno;
    signals_seen = signals_seen + 1;
    if (signals_seen >= signals_limit) _exit(128 + number);
    uint64_t one = 1;
    ssize_t n = write(signal_fd, &one, sizeof(one));
    (void)n;
    errno = error;
}

static enum err catch_signals(struct err_info *info)
{
    signals_seen = 0;
    signals_limit = 2; /* loading cannot be hurried, so the second one does not wait for it */
    signal_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (signal_fd < 0) return err_set(info, ERR_IO, "eventfd: %s", strerror(errno));
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, NULL);
    return ERR_OK;
}

/* True once `count` signals have come; waits timeout_ms at most (-1: for ever). */
static bool wait_signal(int count, int timeout_ms)
{
    while (signals_seen < count) {
        struct pollfd poll_fd = {.fd = signal_fd, .events = POLLIN};
        int n = poll(&poll_fd, 1, timeout_ms);
        if (n == 0) break;
        uint64_t value;
        ssize_t got = n > 0 ? read(signal_fd, &value, sizeof(value)) : 0;
        (void)got;
    }
    return signals_seen >= count;
}

/* --- Up --- */

/* What takes no time, and what /metrics shows from the start. */
static enum err start_backend(struct serve *serve, struct err_info *info)
{
    const struct options *options = serve->options;
    int threads = options->threads > 0 ? options->threads : serve_machine_processors();
    enum err err = kv_format_parse(options->kv_format, &serve->kv_format, info);
    if (err == ERR_OK) err = workers_create(threads, &serve->workers, info);
    if (err == ERR_OK) err = backend_cpu_create(serve->workers, options->cpu, &serve->backend, info);
    if (err != ERR_OK) return err;
    serve->backend->activation_bits = (int)strtol(options->activation_bits, NULL, 10); /* "auto" reads as 0 */
    serve->metrics.kv_format = kv_format_name(serve->kv_format);
    serve->metrics.backend = serve->backend->name;
    return ERR_OK;
}

static enum err start_http(struct serve *serve, struct err_info *info)
{
    const struct options *options = serve->options;
    int files = serve_machine_raise_files();
    if (files > 0 && files < options->max_connections + 64)
        log_warn("serve", "only %d files may be open, so --max-connections %d cannot be reached", files,
                 options->max_connections);
    serve->api.metrics = &serve->metrics;
    serve->api.created = (int64_t)time(NULL);
    serve->api.max_body_bytes = (size_t)options->max_body_bytes;
    serve->api.model_path = options->model;
    struct http_options http = {.host = options->host,
                                .port = options->port,
                                .threads = options->http_threads,
                                .max_connections = options->max_connections,
                                .max_body_bytes = (size_t)options->max_body_bytes,
                                .max_stream_bytes = STREAM_BYTES_MAX,
                                .header_timeout_ms = options->header_timeout_ms,
                                .idle_timeout_ms = options->idle_timeout_ms,
                                .api_key = options->api_key,
                                .routes = api_routes,
                                .n_routes = api_n_routes,
                                .context = &serve->api,
                                .metrics = &serve->metrics};
    return http_create(&http, &serve->http, info);
}

/* A row for every sequence that can be in a step; more, within LOGITS_BYTES, to score prompts in larger
 * chunks.
 */
static int choose_max_logits(const struct serve *serve)
{
    const struct options *options = serve->options;
    size_t row_bytes = (size_t)tokenizer_vocab_size(serve->tokenizer) * sizeof(float);
    int rows = row_bytes > 0 ? (int)(LOGITS_BYTES / row_bytes) : 1;
    if (rows < options->parallel) rows = options->parallel;
    return rows < options->max_batch_tokens ? rows : options->max_batch_tokens;
}

static bool signal_seen(void)
{
    return signals_seen > 0;
}

/* f16 has no use for one, so only a file that was named is looked at, for its errors. */
static enum err get_calibration(struct serve *serve, struct err_info *info)
{
    struct serve_calibration call = {serve->options, serve->gguf,    serve->tokenizer,
                                     serve->backend, serve->workers, signal_seen};
    if (serve->kv_format == KV_FORMAT_F16 && serve->options->calibration == NULL) return ERR_OK;
    return serve_calibration_get(&call, &serve->calibration, info);
}

static enum err load_model(struct serve *serve, struct err_info *info)
{
    const struct options *options = serve->options;
    enum err err = gguf_open(options->model, &serve->gguf, info);
    if (err == ERR_OK) err = tokenizer_create(serve->gguf, &serve->tokenizer, info);
    if (err == ERR_OK) err = get_calibration(serve, info);
    if (err != ERR_OK) return err;
    serve->max_logits = choose_max_logits(serve);
    return model_load(serve->gguf, serve->backend, options->max_batch_tokens, serve->max_logits,
                      &serve->model, info);
}

/* --served-model-name, else general.name, else the file's name without its end. */
static void name_model(struct serve *serve)
{
    const char *given = serve->options->served_model_name;
    const char *own = model_config(serve->model)->name;
    const char *path = strrchr(serve->options->model, '/');
    path = path ? path + 1 : serve->options->model;
    size_t length = strlen(path);
    if (length > 5 && strcmp(path + length - 5, ".gguf") == 0) length -= 5;
    if (given && given[0])
        snprintf(serve->model_name, sizeof(serve->model_name), "%s", given);
    else if (own[0])
        snprintf(serve->model_name, sizeof(serve->model_name), "%s", own);
    else
        snprintf(serve->model_name, sizeof(serve->model_name), "%.*s", (int)length, path);
}

static int choose_ctx_size(const struct serve *serve)
{
    int trained = model_config(serve->model)->context_length;
    int given = serve->options->ctx_size;
    if (given > trained)
        log_warn("serve", "--ctx-size %d is longer than the %d tokens that the model was trained for", given,
                 trained);
    return given > 0 ? given : trained;
}

static enum err choose_kv_bytes(const struct serve *serve, size_t *out, struct err_info *info)
{
    *out = (size_t)serve->options->kv_cache_bytes;
    if (*out > 0) return ERR_OK;
    *out = serve_machine_free_bytes() / 4;
    if (*out > 0) return ERR_OK;
    return err_set_param(info, ERR_USAGE, "kv-cache-bytes",
                         "the system does not tell how much memory is free; give --kv-cache-bytes");
}

static enum err start_engine(struct serve *serve, struct err_info *info)
{
    const struct options *options = serve->options;
    struct api *api = &serve->api;
    struct engine_options engine = {.backend = serve->backend,
                                    .workers = serve->workers,
                                    .model = serve->model,
                                    .tokenizer = serve->tokenizer,
                                    .metrics = &serve->metrics,
                                    .default_format = serve->kv_format,
                                    .recent_blocks = options->kv_recent,
                                    .sink_tokens = options->sink_tokens,
                                    .ctx_size = choose_ctx_size(serve),
                                    .parallel = options->parallel,
                                    .max_batch_tokens = options->max_batch_tokens,
                                    .max_logits = serve->max_logits,
                                    .max_queue = options->max_queue,
                                    .deliver = courier_deliver};
    engine.calibration = serve->calibration;
    enum err err = choose_kv_bytes(serve, &engine.kv_bytes, info);
    if (err == ERR_OK) err = courier_create(serve->tokenizer, &serve->courier, info);
    if (err != ERR_OK) return err;
    engine.deliver_context = serve->courier;
    err = engine_create(&engine, &serve->engine, info);
    if (err != ERR_OK) return err;
    courier_set_engine(serve->courier, serve->engine);
    name_model(serve);
    api->model_name = serve->model_name;
    api->config = model_config(serve->model);
    api->model_bytes = gguf_file_bytes(serve->gguf);
    api->tokenizer = serve->tokenizer;
    api->engine = serve->engine;
    api->courier = serve->courier;
    api->ctx_size = engine.ctx_size;
    api->parallel = engine.parallel;
    api->kv_format = engine.default_format;
    return ERR_OK;
}

/* --- Down --- */

/* Until everything that runs has finished, time is up, or a second signal comes. True: nothing is left. */
static bool drain(struct serve *serve)
{
    int timeout_ms = serve->options->drain_timeout_ms;
    log_info("serve", "stopping: running requests have %d ms to finish; a second signal stops at once",
             timeout_ms);
    atomic_store(&serve->api.state, API_DRAINING);
    engine_drain(serve->engine);
    for (int waited_ms = 0; waited_ms < timeout_ms; waited_ms += DRAIN_POLL_MS) {
        if (engine_idle(serve->engine)) return true;
        if (wait_signal(2, DRAIN_POLL_MS)) break;
    }
    if (engine_idle(serve->engine)) return true;
    log_warn("serve", "%s: unfinished requests are ended",
             signals_seen > 1 ? "second signal" : "drain timeout");
    return false;
}

static void tear_down(struct serve *serve, int flush_ms)
{
    if (serve->http) http_close(serve->http);
    if (serve->courier) courier_set_engine(serve->courier, NULL);
    if (serve->engine) engine_free(serve->engine);
    courier_free(serve->courier);
    http_free(serve->http, flush_ms);
    calibration_free(serve->calibration);
    if (serve->model) model_free(serve->model);
    if (serve->tokenizer) tokenizer_free(serve->tokenizer);
    if (serve->backend) serve->backend->destroy(serve->backend);
    if (serve->workers) workers_free(serve->workers);
    if (serve->gguf) gguf_close(serve->gguf);
    close(signal_fd);
    signal_fd = -1;
}

enum err serve_run(const struct options *options, struct err_info *info)
{
    struct serve *serve = calloc(1, sizeof(*serve));
    if (!serve) return err_set(info, ERR_MEMORY, "no memory");
    serve->options = options;
    bool finished = true;
    enum err err = catch_signals(info);
    if (err == ERR_OK) err = start_backend(serve, info);
    if (err == ERR_OK) err = start_http(serve, info);
    if (err == ERR_OK) {
        log_info("serve", "octavo %s on http://%s:%d, loading %s", OCTAVO_VERSION, options->host,
                 http_port(serve->http), options->model);
        err = load_model(serve, info);
    }
    if (err == ERR_OK) err = start_engine(serve, info);
    if (err == ERR_OK) {
        signals_limit = 3;
        atomic_store(&serve->api.state, API_READY);
        log_info("serve", "ready: %s on http://%s:%d", serve->model_name, options->host,
                 http_port(serve->http));
        wait_signal(1, -1);
        finished = drain(serve);
    }
    if (err == ERR_CLOSED && signals_seen > 0) err = ERR_OK; /* asked to stop before it was up */
    tear_down(serve, err != ERR_OK ? 0 : finished ? FLUSH_MS : FLUSH_HARD_MS);
    if (err == ERR_OK) log_info("serve", "stopped");
    free(serve);
    return err;
}
