#include "server/serve.h"

#include "config/log.h"
#include "config/options.h"
#include "config/version.h"
#include "kernels/workers.h"
#include "model/gguf.h"
#include "server/api.h"
#include "server/chat.h"
#include "server/constraint.h"
#include "server/courier.h"
#include "server/engine.h"
#include "server/http_keys.h"
#include "server/model_source.h"
#include "server/runtime.h"
#include "server/serve_calibration.h"
#include "server/serve_machine.h"
#include "server/serve_restart.h"
#include "server/tls.h"

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
 * tells whoever is left), the courier delivers that, and HTTP goes last. A lost card goes the same way, and
 * then the process becomes a new one (server/serve_restart.h).
 */
enum {
    STREAM_BYTES_MAX = 1 << 20, /* unread by a slow client */
    LOGITS_BYTES = 32 << 20,
    HOST_PARALLEL = 64,
    CARD_PARALLEL = 512,
    PROMPT_TOKENS = 512,
    GRAMMAR_BYTES = 64 << 20, /* of compiled grammars that are kept */
    FLUSH_MS = 2000,          /* for the last replies to reach their clients */
    FLUSH_HARD_MS = 200,
    DRAIN_POLL_MS = 20,
};

struct serve {
    const struct options *options;
    struct model_source source;
    struct metrics metrics;
    struct api api;
    char model_name[256];
    struct tls tls;
    struct http_keys *keys;
    struct http *http;
    struct workers *workers;
    struct backend *backend;
    struct gguf *gguf;
    struct tokenizer *tokenizer;
    struct chat_template *chat_template;
    struct json *template_variables;
    struct constraint_cache *constraints;
    struct model *model;
    struct kv_hash cache_identity;
    struct kv_formats *formats;
    struct courier *courier;
    struct engine *engine;
    int parallel, max_batch_tokens; /* chosen where the options say 0 */
    int max_logits;
    int ctx_size;
    struct serve_restart restart;
    _Atomic bool is_lost;     /* the card was */
    _Atomic bool has_stepped; /* before that */
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

/* Those that end the process wait, or no longer: between a process and the one that it becomes nobody catches
   them. */
static void hold_signals(bool hold)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
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
    sigaction(SIGXFSZ, &action, NULL); /* a limit on files is a write that fails */
    hold_signals(false);
    return ERR_OK;
}

/* Until signal_fd is written to, timeout_ms at most (-1: for ever). False when it was not. */
static bool wait_news(int timeout_ms)
{
    struct pollfd poll_fd = {.fd = signal_fd, .events = POLLIN};
    int n = poll(&poll_fd, 1, timeout_ms);
    uint64_t value;
    ssize_t got = n > 0 ? read(signal_fd, &value, sizeof(value)) : 0;
    (void)got;
    return n != 0;
}

/* True once `count` signals have come; waits timeout_ms at most. */
static bool wait_signal(int count, int timeout_ms)
{
    while (signals_seen < count && wait_news(timeout_ms)) continue;
    return signals_seen >= count;
}

/* On the engine's thread. */
static void on_lost(void *context, bool has_stepped)
{
    struct serve *serve = context;
    uint64_t one = 1;
    atomic_store(&serve->has_stepped, has_stepped);
    atomic_store(&serve->is_lost, true);
    ssize_t n = write(signal_fd, &one, sizeof(one));
    (void)n;
}

/* --- Up --- */

/* What takes no time, and what /metrics shows from the start. */
static enum err start_backend(struct serve *serve, struct err_info *info)
{
    const struct options *options = serve->options;
    int threads = options->threads > 0 ? options->threads : serve_machine_processors();
    enum err err = kv_formats_check(options->kv_format, info);
    if (err == ERR_OK) err = workers_create(threads, &serve->workers, info);
    if (err == ERR_OK)
        err = backend_create(options->device, serve->workers, options->cpu, &serve->backend, info);
    if (err != ERR_OK) return err;
    serve->backend->activation_bits = (int)strtol(options->activation_bits, NULL, 10); /* "auto" reads as 0 */
    serve->backend->weights = backend_weights_named(options->device_weights);
    serve->backend->cache_bytes = (size_t)options->kv_cache_bytes;
    serve->metrics.backend = serve->backend->name;
    return ERR_OK;
}

static enum err start_http(struct serve *serve, struct err_info *info)
{
    const struct options *options = serve->options;
    enum err err = tls_load(options->tls_cert, options->tls_key, &serve->tls, info);
    if (err == ERR_OK) err = http_keys_create(options->api_key, options->api_key_file, &serve->keys, info);
    if (err != ERR_OK) return err;
    serve->metrics.tenants = http_keys_names(serve->keys, &serve->metrics.n_tenants);
    int files = serve_machine_raise_files();
    if (files > 0 && files < options->max_connections + 64)
        log_warn("serve", "only %d files may be open, so --max-connections %d cannot be reached", files,
                 options->max_connections);
    serve->api.metrics = &serve->metrics;
    serve->api.created = (int64_t)time(NULL);
    serve->api.max_body_bytes = (size_t)options->max_body_bytes;
    serve->api.model_path = model_source_name(&serve->source);
    serve->api.no_ui = options->no_ui;
    serve->api.is_restart = serve->restart.n_in_row > 0;
    struct http_options http = {.host = options->host,
                                .port = options->port ? options->port : serve->restart.port,
                                .threads = options->http_threads,
                                .max_connections = options->max_connections,
                                .max_body_bytes = (size_t)options->max_body_bytes,
                                .max_stream_bytes = STREAM_BYTES_MAX,
                                .header_timeout_ms = options->header_timeout_ms,
                                .idle_timeout_ms = options->idle_timeout_ms,
                                .keys = serve->keys,
                                .tls_cert = serve->tls.certificate,
                                .tls_key = serve->tls.key,
                                .cors_origins = options->cors_origins,
                                .routes = api_routes,
                                .n_routes = api_n_routes,
                                .context = &serve->api,
                                .metrics = &serve->metrics};
    err = http_create(&http, &serve->http, info);
    if (err == ERR_OK) serve->restart.port = http_port(serve->http);
    return err;
}

/* A card is fast with many sequences at once, a CPU with few; and prompts need room beside those that
   generate. */
static void choose_batch(struct serve *serve)
{
    const struct options *options = serve->options;
    bool is_host = serve->backend->is_host;
    serve->parallel = options->parallel > 0 ? options->parallel : is_host ? HOST_PARALLEL : CARD_PARALLEL;
    serve->max_batch_tokens = PROMPT_TOKENS + (is_host ? 0 : serve->parallel);
    if (options->max_batch_tokens > 0) serve->max_batch_tokens = options->max_batch_tokens;
}

/* A row for every sequence that can be in a step; more, within LOGITS_BYTES, to score prompts in larger
 * chunks.
 */
static int choose_max_logits(const struct serve *serve)
{
    size_t row_bytes = (size_t)tokenizer_vocab_size(serve->tokenizer) * sizeof(float);
    int rows = row_bytes > 0 ? (int)(LOGITS_BYTES / row_bytes) : 1;
    if (rows < serve->parallel) rows = serve->parallel;
    return rows < serve->max_batch_tokens ? rows : serve->max_batch_tokens;
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

static bool signal_seen(void)
{
    return signals_seen > 0;
}

/* f16 has no use for one, and no text says anything about a dummy, so for those only a file that was named is
   looked at, for its errors. */
static enum err get_calibration(struct serve *serve, struct calibration **out, struct err_info *info)
{
    struct serve_calibration call = {serve->options, serve->gguf,    serve->tokenizer,
                                     serve->backend, serve->workers, signal_seen};
    *out = NULL;
    bool needless = strcmp(serve->options->kv_format, "f16") == 0 || model_source_is_dummy(&serve->source);
    if (needless && serve->options->calibration == NULL) return ERR_OK;
    return serve_calibration_get(&call, out, info);
}

static enum err load_model(struct serve *serve, struct err_info *info)
{
    choose_batch(serve);
    serve->max_logits = choose_max_logits(serve);
    enum err err = model_load(serve->gguf, serve->backend, serve->max_batch_tokens, serve->max_logits,
                              &serve->model, info);
    if (err == ERR_OK) serve->ctx_size = choose_ctx_size(serve);
    return err;
}

static enum err make_formats(struct serve *serve, const struct calibration *calibration,
                             struct err_info *info)
{
    struct kv_shape shape;
    model_kv_shape(serve->model, &shape);
    enum err err = kv_formats_create(&shape, serve->options->kv_format, calibration,
                                     serve->ctx_size / KV_FRAME_TOKENS + 1, model_inv_freq(serve->model),
                                     &serve->formats, info);
    if (err != ERR_OK) return err;
    atomic_store(&serve->metrics.formats, serve->formats);
    bool warn = calibration == NULL && !model_source_is_dummy(&serve->source);
    for (int i = 0; i < kv_formats_count(serve->formats) && warn; i++) {
        const struct kv_format *format = kv_formats_at(serve->formats, i);
        if (format->codec != NULL)
            log_warn("serve",
                     "KV cache format %s is uncalibrated: its error is several times larger than after "
                     "`octavo calibrate`",
                     format->name);
    }
    return ERR_OK;
}

static enum err read_template_variables(struct serve *serve, struct err_info *info)
{
    const char *text = serve->options->chat_template_kwargs;
    struct json_limits limits = json_limits_default;
    struct err_info fault;
    if (!text) return ERR_OK;
    limits.max_bytes = strlen(text);
    enum err err = json_parse(text, strlen(text), &limits, &serve->template_variables, &fault);
    if (err == ERR_OK) err = chat_check_variables(serve->template_variables, &fault);
    if (err != ERR_OK)
        return err_set_param(info, ERR_USAGE, "chat-template-kwargs", "--chat-template-kwargs: %s",
                             fault.message);
    serve->chat_template->variables = serve->template_variables;
    return ERR_OK;
}

static enum err load_chat_template(struct serve *serve, struct err_info *info)
{
    enum { MOST_BYTES = 1 << 20 };
    const char *path = serve->options->chat_template;
    char *source = NULL;
    size_t length = 0;
    enum err err =
        path ? runtime_text_read("--chat-template", path, MOST_BYTES, &source, &length, info) : ERR_OK;
    if (err == ERR_OK)
        err = chat_template_create(serve->gguf, serve->tokenizer, path, source, length, &serve->chat_template,
                                   info);
    free(source);
    if (err == ERR_OK && serve->chat_template->is_fallback && !model_source_is_dummy(&serve->source))
        log_warn("serve",
                 "the model has no chat template: chats are laid out as ChatML, which it may not know");
    return err;
}

/* All that the bytes of cached blocks depend on, for a file of them. */
static struct kv_hash cache_identity(const struct serve *serve, const struct calibration *calibration)
{
    const struct options *options = serve->options;
    struct {
        uint64_t model[2];
        struct kv_hash means, transforms, bits;
        int64_t recent_blocks, sink_tokens;
        struct kv_hash arithmetic, version;
    } all = {.recent_blocks = options->kv_recent, .sink_tokens = options->sink_tokens};
    gguf_hash(serve->gguf, all.model);
    if (calibration != NULL) {
        const struct kv_shape *shape = &calibration->shape;
        size_t heads = (size_t)shape->n_layers * (size_t)shape->n_kv_heads, n = (size_t)shape->head_dim;
        all.means = kv_prefix_seed(calibration->value_mean, heads * n * sizeof(float));
        all.transforms = kv_prefix_seed(calibration->key_transform, heads * n * n * sizeof(float));
        all.bits = kv_prefix_seed(calibration->value_weight, heads * sizeof(float));
    }
    /* A card has activations of its own, fp16, and sums in another order. */
    const char *arithmetic = serve->backend->is_host ? options->activation_bits : "card";
    all.arithmetic = kv_prefix_seed(arithmetic, strlen(arithmetic));
    all.version = kv_prefix_seed(OCTAVO_VERSION, strlen(OCTAVO_VERSION));
    return kv_prefix_seed(&all, sizeof all);
}

/* From the file to the model and the formats of its cache. */
static enum err load(struct serve *serve, struct err_info *info)
{
    struct calibration *calibration = NULL;
    enum err err = model_source_open(&serve->source, serve->workers, &serve->gguf, info);
    if (err == ERR_OK) err = tokenizer_create(serve->gguf, &serve->tokenizer, info);
    if (err == ERR_OK) fim_find(serve->gguf, serve->tokenizer, &serve->api.fim);
    if (err == ERR_OK) err = load_chat_template(serve, info);
    if (err == ERR_OK) err = read_template_variables(serve, info);
    if (err == ERR_OK)
        err = constraint_cache_create(serve->tokenizer, GRAMMAR_BYTES, &serve->metrics, &serve->constraints,
                                      info);
    if (err == ERR_OK) err = get_calibration(serve, &calibration, info);
    if (err == ERR_OK) err = load_model(serve, info);
    if (err == ERR_OK) err = make_formats(serve, calibration, info);
    if (err == ERR_OK) serve->cache_identity = cache_identity(serve, calibration);
    calibration_free(calibration);
    return err;
}

/* --served-model-name, else general.name, else the file's name without its end. */
static void name_model(struct serve *serve)
{
    const char *given = serve->options->served_model_name;
    const char *own = model_config(serve->model)->name;
    const char *all = model_source_name(&serve->source), *path = strrchr(all, '/');
    path = path ? path + 1 : all;
    size_t length = strlen(path);
    if (length > 5 && strcmp(path + length - 5, ".gguf") == 0) length -= 5;
    if (given && given[0])
        snprintf(serve->model_name, sizeof(serve->model_name), "%s", given);
    else if (own[0])
        snprintf(serve->model_name, sizeof(serve->model_name), "%s", own);
    else
        snprintf(serve->model_name, sizeof(serve->model_name), "%.*s", (int)length, path);
}

/* Blocks get their memory as they come into use, so what is too large would only fail under requests. */
static enum err check_kv_bytes(const struct serve *serve, size_t bytes, struct err_info *info)
{
    size_t free_bytes = serve->backend->free_bytes(serve->backend);
    if (bytes <= free_bytes) return ERR_OK;
    return err_set_param(info, ERR_USAGE, "kv-cache-bytes",
                         "--kv-cache-bytes is %zu, and %s has %zu bytes free beside %zu bytes of weights and "
                         "%zu of activations: lower --kv-cache-bytes, or --max-batch-tokens (%d) for its "
                         "activations%s",
                         bytes, serve->backend->name, free_bytes, model_weight_bytes(serve->model),
                         model_scratch_bytes(serve->model), serve->max_batch_tokens,
                         serve->backend->weights == BACKEND_WEIGHTS_F16
                             ? ", or let the weights be quantized (--device-weights file)"
                             : "");
}

/* What a share of the card leaves beside weights and activations. */
static enum err share_kv_bytes(const struct serve *serve, double share, size_t *out, struct err_info *info)
{
    struct backend_memory memory;
    serve->backend->memory(serve->backend, &memory);
    size_t own = model_weight_bytes(serve->model) + model_scratch_bytes(serve->model) + memory.activations +
                 memory.scratch,
           all = (size_t)(share * (double)memory.total);
    if (all > own && all - own <= memory.free) {
        *out = all - own;
        return ERR_OK;
    }
    return err_set_param(
        info, ERR_USAGE, "gpu-memory-utilization",
        "--gpu-memory-utilization %g is %zu bytes of %s, of which weights and activations have "
        "%zu, and %zu are free: %s it",
        share, all, serve->backend->name, own, memory.free, all > own ? "lower" : "raise");
}

static enum err choose_kv_bytes(const struct serve *serve, size_t *out, struct err_info *info)
{
    struct backend *backend = serve->backend;
    double share = serve->options->gpu_memory_utilization;
    *out = (size_t)serve->options->kv_cache_bytes;
    if (*out > 0) return backend->is_host ? ERR_OK : check_kv_bytes(serve, *out, info);
    if (share > 0 && !backend->is_host) return share_kv_bytes(serve, share, out, info);
    *out = backend->is_host ? serve_machine_free_bytes() / 4 : backend->free_bytes(backend) / 4 * 3;
    if (*out > 0) return ERR_OK;
    return err_set_param(info, ERR_USAGE, "kv-cache-bytes",
                         "the system does not tell how much memory is free; give --kv-cache-bytes");
}

/* One tenant must not fill the queue that others share. */
static int choose_queued_per_key(const struct serve *serve)
{
    int n = serve->options->max_queued_per_key, half = serve->options->max_queue / 2;
    if (n > 0 || http_keys_tenants(serve->keys) < 2) return n;
    return half > 0 ? half : 1;
}

static enum err start_engine(struct serve *serve, struct err_info *info)
{
    const struct options *options = serve->options;
    struct api *api = &serve->api;
    struct engine_options engine = {.backend = serve->backend,
                                    .workers = serve->workers,
                                    .model = serve->model,
                                    .tokenizer = serve->tokenizer,
                                    .vocabulary = constraint_vocabulary(serve->constraints),
                                    .metrics = &serve->metrics,
                                    .formats = serve->formats,
                                    .recent_blocks = options->kv_recent,
                                    .sink_tokens = options->sink_tokens,
                                    .ctx_size = serve->ctx_size,
                                    .parallel = serve->parallel,
                                    .max_batch_tokens = serve->max_batch_tokens,
                                    .max_logits = serve->max_logits,
                                    .max_queue = options->max_queue,
                                    .max_queue_tokens = options->max_queue_tokens,
                                    .max_queue_wait_us = (int64_t)options->max_queue_wait_ms * 1000,
                                    .max_queued_per_key = choose_queued_per_key(serve),
                                    .optimistic = strcmp(options->admission, "optimistic") == 0,
                                    .no_prefix_cache = options->no_prefix_cache,
                                    .prompt_cache = options->prompt_cache,
                                    .swap_bytes = (size_t)options->swap_bytes,
                                    .swap_file = options->swap_file,
                                    .cache_identity = serve->cache_identity,
                                    .deliver = courier_deliver,
                                    .lost = on_lost,
                                    .lost_context = serve};
    enum err err = choose_kv_bytes(serve, &engine.kv_bytes, info);
    if (err == ERR_OK) err = courier_create(serve->tokenizer, &serve->courier, info);
    if (err != ERR_OK) return err;
    engine.deliver_context = serve->courier;
    err = engine_create(&engine, &serve->engine, info);
    if (err != ERR_OK) return err;
    courier_set_engine(serve->courier, serve->engine);
    name_model(serve);
    api->model_name = serve->model_name;
    api->any_model = serve->options->any_model;
    api->splits_reasoning = strcmp(serve->options->reasoning_format, "none") != 0;
    api->config = model_config(serve->model);
    api->model_bytes = gguf_tensor_bytes(serve->gguf);
    api->tokenizer = serve->tokenizer;
    api->gguf = serve->gguf;
    api->chat_template = serve->chat_template;
    api->constraints = serve->constraints;
    api->engine = serve->engine;
    api->courier = serve->courier;
    api->ctx_size = engine.ctx_size;
    api->parallel = engine.parallel;
    api->formats = serve->formats;
    api->defaults = (struct generation_defaults){.temperature = options->temperature,
                                                 .top_p = options->top_p,
                                                 .min_p = options->min_p,
                                                 .top_k = options->top_k,
                                                 .seed = options->seed,
                                                 .max_tokens = options->n_predict};
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
    http_keys_free(serve->keys);
    tls_free(&serve->tls);
    kv_formats_free(serve->formats);
    if (serve->model) model_free(serve->model);
    constraint_cache_free(serve->constraints);
    chat_template_free(serve->chat_template);
    json_free(serve->template_variables);
    if (serve->tokenizer) tokenizer_free(serve->tokenizer);
    if (serve->backend) serve->backend->destroy(serve->backend);
    if (serve->workers) workers_free(serve->workers);
    if (serve->gguf) gguf_close(serve->gguf);
    close(signal_fd);
    signal_fd = -1;
}

static const char *scheme(const struct serve *serve)
{
    return serve->tls.certificate ? "https" : "http";
}

/* From the port to a server that is ready. */
static enum err start(struct serve *serve, struct err_info *info)
{
    const struct options *options = serve->options;
    enum err err = start_backend(serve, info);
    if (err == ERR_OK) err = start_http(serve, info);
    if (err == ERR_OK) {
        log_info("serve", "octavo %s on %s://%s:%d, loading %s", OCTAVO_VERSION, scheme(serve), options->host,
                 http_port(serve->http), model_source_name(&serve->source));
        err = load(serve, info);
    }
    if (err == ERR_OK) err = start_engine(serve, info);
    return err;
}

/* Until a signal comes or the card is lost. True: nothing runs any more. */
static bool serve_requests(struct serve *serve)
{
    signals_limit = 3;
    atomic_store(&serve->metrics.backend_restarts, (uint64_t)serve->restart.n_total);
    atomic_store(&serve->api.state, API_READY);
    log_info("serve", "ready: %s on %s://%s:%d", serve->model_name, scheme(serve), serve->options->host,
             http_port(serve->http));
    while (signals_seen == 0 && !atomic_load(&serve->is_lost)) wait_news(-1);
    return signals_seen > 0 ? drain(serve) : true;
}

/* The card was lost, or could not be had again: true when another process is to try. */
static bool wants_restart(struct serve *serve, enum err err, const struct err_info *info)
{
    bool was_up = atomic_load(&serve->is_lost);
    if (signals_seen > 0 || (!was_up && (err == ERR_OK || serve->restart.n_in_row == 0))) return false;
    if (err != ERR_OK)
        log_error("serve", "restart %d of %d after an error of the card: %s", serve->restart.n_in_row,
                  (int)SERVE_RESTART_MOST, info->message);
    if (!serve_restart_next(&serve->restart, was_up, atomic_load(&serve->has_stepped))) return false;
    return !wait_signal(1, serve_restart_wait_ms(&serve->restart));
}

enum err serve_run(const struct options *options, char **argv, struct err_info *info)
{
    struct serve *serve = calloc(1, sizeof(*serve));
    if (!serve) return err_set(info, ERR_MEMORY, "no memory");
    serve->options = options;
    serve->source = (struct model_source){options->load_format, options->model, options->shape};
    serve_restart_read(&serve->restart);
    bool finished = true;
    enum err err = catch_signals(info);
    if (err == ERR_OK) err = start(serve, info);
    if (err == ERR_OK) finished = serve_requests(serve);
    bool again = wants_restart(serve, err, info);
    if (err == ERR_OK && !again && atomic_load(&serve->is_lost) && signals_seen == 0)
        err = err_set(info, ERR_DEVICE, "the card was lost %d times before a step worked",
                      (int)SERVE_RESTART_MOST + 1);
    /* Whoever asked to stop before it was up gets what they asked for. */
    if (signals_seen > 0 && (err == ERR_CLOSED || serve->restart.n_in_row > 0)) err = ERR_OK;
    struct serve_restart restart = serve->restart;
    tear_down(serve, err != ERR_OK ? 0 : finished ? FLUSH_MS : FLUSH_HARD_MS);
    free(serve);
    if (again) hold_signals(true);
    if (again && signals_seen == 0) {
        log_info("serve", "starting anew, because a card that failed is lost to the process");
        serve_restart_run(&restart, argv);
        return err_set(info, ERR_IO, "cannot start anew after an error of the card: %s", strerror(errno));
    }
    if (err == ERR_OK) log_info("serve", "stopped");
    return err;
}
