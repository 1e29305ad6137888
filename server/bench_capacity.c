#include "server/bench_capacity.h"
#include "cache/format.h"
#include "cache/policy.h"
#include "config/json.h"
#include "config/option.h"
#include "config/option_rows.h"
#include "model/model.h"
#include "server/bench.h"
#include "server/bench_load.h"
#include "server/bench_process.h"
#include "server/model_source.h"

#include <stdio.h>
#include <string.h>

/*
 * `octavo bench capacity`: how many sequences run at once in each KV format when the pool has the same bytes.
 * For each format a server of our own gets more requests than fit, and its /metrics tell how many of them ran
 * at once. The arithmetic stands beside what was seen: it is the server's own (/props), because how many
 * bytes a format takes depends on the model's calibration. How many requests to send is reckoned here,
 * without one.
 */

enum { MAX_ARGUMENTS = 56, NUMBER_BYTES = 24, SAMPLE_MS = 20, READY_S = 900 };

#define FIELD(field) offsetof(struct capacity_options, field)

static const struct option rows[] = {
    {.name = "model",
     .group = "Server",
     .kind = OPTION_TEXT,
     .offset = FIELD(model),
     .aliases = "-m",
     .metavar = "MODEL",
     .help = "GGUF file; the same as the argument without a flag"},
    OPTION_ROW_LOAD_FORMAT("Server", FIELD(load_format)),
    OPTION_ROW_SHAPE("Server", FIELD(shape), NULL, "sizes of a dummy model"),
    {.name = "formats",
     .group = "Server",
     .kind = OPTION_TEXT,
     .offset = FIELD(formats),
     .default_value = "f16,o2",
     .metavar = "LIST",
     .help = "KV formats to compare, with commas between; ratios are to the first"},
    {.name = "kv-cache-bytes",
     .group = "Server",
     .kind = OPTION_BYTES,
     .offset = FIELD(kv_cache_bytes),
     .default_value = "512Mi",
     .min = 1,
     .metavar = "SIZE",
     .help = "size of the block pool, the same for every format; suffixes k M G, Ki Mi Gi"},
    OPTION_ROW_KV_RECENT("Server", FIELD(kv_recent), "as of octavo serve"),
    OPTION_ROW_SINK_TOKENS("Server", FIELD(sink_tokens), "as of octavo serve"),
    {.name = "max-batch-tokens",
     .group = "Server",
     .kind = OPTION_INT,
     .offset = FIELD(max_batch_tokens),
     .default_value = "512",
     .min = 1,
     .max = 65536,
     .metavar = "N",
     .help = "as of octavo serve"},
    {.name = "admission",
     .group = "Server",
     .kind = OPTION_CHOICE,
     .offset = FIELD(admission),
     .default_value = "no-evict",
     .choices = "no-evict|optimistic",
     .help = "as of octavo serve"},
    {.name = "threads",
     .group = "Server",
     .kind = OPTION_INT,
     .offset = FIELD(threads),
     .default_value = "0",
     .max = 1024,
     .aliases = "-t",
     .metavar = "N",
     .help = "as of octavo serve"},
    {.name = "device",
     .group = "Server",
     .kind = OPTION_TEXT,
     .offset = FIELD(device),
     .default_value = "auto",
     .metavar = "DEVICE",
     .help = "as of octavo serve"},
    {.name = "device-weights",
     .group = "Server",
     .kind = OPTION_CHOICE,
     .offset = FIELD(device_weights),
     .default_value = "auto",
     .choices = "auto|f16|file",
     .help = "as of octavo serve"},
    {.name = "cpu",
     .group = "Server",
     .kind = OPTION_CHOICE,
     .offset = FIELD(cpu),
     .default_value = "auto",
     .choices = "auto|scalar|avx2|avx512",
     .help = "as of octavo serve"},

    {.name = "prompt-tokens",
     .group = "Load",
     .kind = OPTION_INT,
     .offset = FIELD(prompt_tokens),
     .default_value = "2000",
     .min = 1,
     .max = 1 << 24,
     .metavar = "N",
     .help = "tokens of each prompt"},
    {.name = "max-tokens",
     .group = "Load",
     .kind = OPTION_INT,
     .offset = FIELD(max_tokens),
     .default_value = "64",
     .min = 1,
     .max = 1 << 24,
     .metavar = "N",
     .help = "tokens of each reply; the end token is ignored"},
    {.name = "requests",
     .group = "Load",
     .kind = OPTION_INT,
     .offset = FIELD(requests),
     .default_value = "0",
     .max = 4096,
     .aliases = "-n",
     .metavar = "N",
     .help = "requests for each format, all sent at once; 0: a quarter more than should fit"},
    {.name = "seed",
     .group = "Load",
     .kind = OPTION_INT64,
     .offset = FIELD(seed),
     .default_value = "1",
     .metavar = "N",
     .help = "the same seed gives the same prompts"},
    {.name = "timeout-s",
     .group = "Load",
     .kind = OPTION_INT,
     .offset = FIELD(timeout_s),
     .default_value = "3600",
     .min = 1,
     .max = 86400,
     .metavar = "S",
     .help = "a request that takes longer has failed"},

    {.name = "quality-text",
     .group = "Quality",
     .kind = OPTION_TEXT,
     .offset = FIELD(quality_text),
     .metavar = "FILE",
     .help = "score this text in every format, as octavo eval --text does"},
    {.name = "quality-ctx",
     .group = "Quality",
     .kind = OPTION_INT,
     .offset = FIELD(quality_ctx),
     .default_value = "4096",
     .min = 2,
     .max = 1 << 20,
     .metavar = "N",
     .help = "tokens of a window"},
    {.name = "quality-windows",
     .group = "Quality",
     .kind = OPTION_INT,
     .offset = FIELD(quality_windows),
     .default_value = "4",
     .max = 1 << 20,
     .metavar = "N",
     .help = "windows of the text; 0: all there are"},

    {.name = "plot",
     .group = "Output",
     .kind = OPTION_TEXT,
     .offset = FIELD(plot),
     .metavar = "FILE",
     .help = "draw what was measured, as SVG"},
    OPTION_ROW_JSON("Output", FIELD(json)),
    OPTION_ROW_HELP("Output", FIELD(help)),
};

static const struct option_table table = {
    .usage = "octavo bench capacity --model MODEL [options]",
    .about =
        "Starts a server for each KV format with the same bytes of KV pool, sends more requests than fit,\n"
        "and reports how many sequences ran at once.",
    .positional = "model",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
};

/* About what the scheduler's admission comes to for such sequences, and how many requests to send. */
static enum err row_plan(const struct capacity_options *options, const struct kv_shape *shape,
                         const struct kv_format *format, struct capacity_row *row, struct err_info *info)
{
    struct kv_policy policy = {.shape = *shape,
                               .format = format,
                               .recent_blocks = options->kv_recent,
                               .sink_tokens = options->sink_tokens};
    memcpy(row->format, format->name, sizeof row->format);
    /* The last token is never cached: nothing follows it. */
    row->sequence_bytes = kv_policy_bytes(&policy, options->prompt_tokens + options->max_tokens - 1);
    size_t step = kv_policy_step_bytes(&policy, options->max_batch_tokens);
    size_t pool = (size_t)options->kv_cache_bytes;
    size_t fit = pool > step ? (pool - step) / row->sequence_bytes : 0;
    if (fit == 0)
        return err_set_param(
            info, ERR_USAGE, "kv-cache-bytes",
            "--kv-cache-bytes %zu does not hold one sequence of %s: %zu bytes, and %zu for a "
            "step",
            pool, row->format, row->sequence_bytes, step);
    size_t wanted = options->requests > 0 ? (size_t)options->requests : fit + fit / 4 + 2;
    if (fit >= 4096 || wanted > 4096)
        return err_set_param(
            info, ERR_USAGE, "kv-cache-bytes",
            "%zu sequences of %s fit, more than a server runs at once: make the pool smaller "
            "or prompts longer",
            fit, row->format);
    row->fit = (int)fit;
    row->requests = (int)wanted;
    return ERR_OK;
}

static enum err rows_plan(const struct capacity_options *options, const struct model_config *config,
                          struct capacity_row lines[KV_MAX_FORMATS], int *n, struct err_info *info)
{
    const double inv_freq[KV_MAX_HEAD_DIM / 2] = {0}; /* sizes do not depend on it */
    struct kv_shape shape = {.n_layers = config->n_layers,
                             .n_heads = config->n_heads,
                             .n_kv_heads = config->n_kv_heads,
                             .head_dim = config->head_dim};
    struct kv_formats *formats = NULL;
    enum err err = kv_formats_create(&shape, options->formats, NULL, 1, inv_freq, &formats, info);
    if (err) return err;
    *n = kv_formats_count(formats);
    for (int i = 0; i < *n && !err; i++)
        err = row_plan(options, &shape, kv_formats_at(formats, i), &lines[i], info);
    kv_formats_free(formats);
    return err;
}

/* The server's command line: pairs of flag and value, texts kept in `numbers`. */
struct arguments {
    char *words[MAX_ARGUMENTS];
    char numbers[MAX_ARGUMENTS][NUMBER_BYTES];
    int n;
};

static void argument_text(struct arguments *arguments, const char *flag, const char *value)
{
    arguments->words[arguments->n++] = (char *)flag;
    arguments->words[arguments->n++] = (char *)value;
}

static void argument_number(struct arguments *arguments, const char *flag, int64_t value)
{
    char *text = arguments->numbers[arguments->n];
    snprintf(text, NUMBER_BYTES, "%lld", (long long)value);
    argument_text(arguments, flag, text);
}

static void arguments_make(const struct capacity_options *options, const struct capacity_row *row, int port,
                           struct arguments *arguments)
{
    *arguments = (struct arguments){.n = 0};
    argument_text(arguments, "octavo", "serve");
    argument_text(arguments, "--load-format", options->load_format);
    argument_text(arguments, options->model ? "--model" : "--shape", options->name);
    argument_text(arguments, "--host", "127.0.0.1");
    argument_number(arguments, "--port", port);
    argument_text(arguments, "--kv-format", row->format);
    argument_number(arguments, "--kv-cache-bytes", options->kv_cache_bytes);
    argument_number(arguments, "--kv-recent", options->kv_recent);
    argument_number(arguments, "--sink-tokens", options->sink_tokens);
    argument_number(arguments, "--ctx-size", options->prompt_tokens + options->max_tokens);
    argument_number(arguments, "--parallel", row->requests);
    argument_number(arguments, "--max-queue", row->requests);
    argument_number(arguments, "--max-queue-wait-ms", 0);
    argument_number(arguments, "--max-connections", row->requests + 16);
    argument_number(arguments, "--max-batch-tokens", options->max_batch_tokens);
    argument_number(arguments, "--threads", options->threads);
    argument_text(arguments, "--cpu", options->cpu);
    argument_text(arguments, "--device", options->device);
    argument_text(arguments, "--device-weights", options->device_weights);
    argument_text(arguments, "--admission", options->admission);
    argument_text(arguments, "--log-level", "warn");
    arguments->words[arguments->n] = NULL;
}

static void row_fill(struct capacity_row *row, const struct bench_load_result *result)
{
    int64_t prompt = 0, output = 0;
    for (int i = 0; i < result->n_requests; i++) {
        if (!result->records[i].ok) continue;
        prompt += result->records[i].prompt_tokens;
        output += result->records[i].output_tokens;
    }
    row->wall_s = (double)result->wall_us / 1e6;
    row->prompt_tokens_per_s = (double)prompt / row->wall_s;
    row->output_tokens_per_s = (double)output / row->wall_s;
}

/* The server's own arithmetic of its longest sequences, which are those that the load has. */
static enum err row_ask(const struct bench_url *url, struct capacity_row *row, struct err_info *info)
{
    struct buf body;
    struct json *root = NULL;
    int status = 0;
    buf_init(&body, 1 << 20);
    enum err err = bench_get(url, "/props", NULL, 10000, &status, &body, info);
    if (!err && status != 200) err = err_set(info, ERR_IO, "/props answers with status %d", status);
    if (!err) err = json_parse(body.data ? body.data : "", body.length, &json_limits_default, &root, info);
    if (!err) {
        const struct json *format = json_at(json_get(root, "kv_formats"), 0);
        const struct json *bytes = json_get(format, "sequence_bytes");
        const struct json *fit = json_get(format, "sequences_fit");
        if (bytes && fit && json_is_integer(bytes) && json_is_integer(fit)) {
            row->sequence_bytes = (size_t)json_int64(bytes);
            row->fit = (int)json_int64(fit);
        } else {
            err = err_set(info, ERR_IO, "/props does not tell what a sequence takes");
        }
    }
    json_free(root);
    buf_free(&body);
    return err;
}

/* The load on the server that runs, with /metrics watched. */
static enum err row_load(const struct capacity_options *options, const struct model_config *config,
                         const struct bench_url *url, struct capacity_row *row, struct err_info *info)
{
    struct bench_sampler *sampler;
    struct bench_load_result result;
    char name[256];
    int n_vocab;
    enum err err = bench_model_ask(url, NULL, name, sizeof name, &n_vocab, info);
    if (!err) err = row_ask(url, row, info);
    if (!err) err = bench_sampler_start(url, NULL, SAMPLE_MS, &sampler, info);
    if (err) return err;
    struct bench_load_options load = {.url = url,
                                      .model = name,
                                      .n_vocab = config->n_vocab,
                                      .n_requests = row->requests,
                                      .concurrency = row->requests,
                                      .prompt_tokens = {options->prompt_tokens, options->prompt_tokens},
                                      .max_tokens = {options->max_tokens, options->max_tokens},
                                      .seed = (uint64_t)options->seed,
                                      .timeout_s = options->timeout_s,
                                      .progress = true};
    err = bench_load_run(&load, &result, info);
    struct err_info why;
    enum err sampling = bench_sampler_stop(sampler, &row->sample, &why);
    if (err) return err;
    row_fill(row, &result);
    if (result.n_failed > 0)
        err = err_set(info, ERR_IO, "%s: %d of %d requests failed; the first: %s", row->format,
                      result.n_failed, result.n_requests, result.first_failure);
    else if (sampling)
        err = err_set(info, sampling, "%s: %s", row->format, why.message);
    else if (row->sample.most_running == 0)
        err = err_set(info, ERR_IO,
                      "%s: all was over before /metrics showed a running sequence; raise --max-tokens or "
                      "--prompt-tokens",
                      row->format);
    bench_load_free(&result);
    return err;
}

static enum err row_measure(const struct capacity_options *options, const struct model_config *config,
                            struct capacity_row *row, struct err_info *info)
{
    struct arguments arguments;
    struct bench_process process;
    int port;
    fprintf(stderr, "bench: %s: %d requests, about %d should run at once\n", row->format, row->requests,
            row->fit);
    enum err err = bench_port_find(&port, info);
    if (err) return err;
    arguments_make(options, row, port, &arguments);
    err = bench_process_start(arguments.words, port, READY_S, &process, info);
    if (err) return err;
    err = row_load(options, config, &process.url, row, info);
    bench_process_stop(&process);
    return err;
}

static enum err quality_measure(const struct capacity_options *options, struct capacity_row *lines,
                                struct err_info *info)
{
    struct bench_quality quality[KV_MAX_FORMATS] = {{.known = false}};
    const struct bench_quality_options wanted = {.model = options->model,
                                                 .text = options->quality_text,
                                                 .formats = options->formats,
                                                 .ctx = options->quality_ctx,
                                                 .windows = options->quality_windows,
                                                 .kv_recent = options->kv_recent,
                                                 .sink_tokens = options->sink_tokens,
                                                 .threads = options->threads,
                                                 .device = options->device,
                                                 .device_weights = options->device_weights,
                                                 .cpu = options->cpu};
    enum err err = bench_quality_measure(&wanted, quality, info);
    for (int i = 0; i < KV_MAX_FORMATS && !err; i++) lines[i].quality = quality[i];
    return err;
}

static enum err capacity_measure(struct capacity_options *options, struct err_info *info)
{
    struct capacity_row lines[KV_MAX_FORMATS] = {{.fit = 0}};
    struct model_config config;
    int n = 0;
    const struct model_source source = {options->load_format, options->model, options->shape};
    struct err_info why;
    enum err err = model_source_check(&source, table.usage, info);
    if (err) return err;
    if (options->quality_text && model_source_is_dummy(&source))
        return err_set_param(info, ERR_USAGE, "quality-text",
                             "--quality-text: a dummy model has no quality to measure");
    if (kv_formats_check(options->formats, &why))
        return err_set_param(info, ERR_USAGE, "formats", "--formats: %s", why.message);
    options->name = model_source_name(&source);
    err = model_source_config(&source, &config, info);
    if (!err) err = rows_plan(options, &config, lines, &n, info);
    for (int i = 0; i < n && !err; i++) err = row_measure(options, &config, &lines[i], info);
    if (!err && options->quality_text) err = quality_measure(options, lines, info);
    if (err) return err;
    if (options->json)
        bench_capacity_json(options, lines, n);
    else
        bench_capacity_text(options, lines, n);
    return options->plot ? bench_capacity_plot(options, lines, n, info) : ERR_OK;
}

enum err bench_capacity_run(int argc, char **argv, struct err_info *info)
{
    struct capacity_options options;
    struct option_state *state;
    enum err err = option_parse(&table, argc, argv, 1, NULL, "help", &options, &state, info);
    if (err) return err;
    if (options.help)
        option_help(&table, stdout);
    else
        err = capacity_measure(&options, info);
    option_state_free(state);
    return err;
}
