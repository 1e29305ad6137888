#include "cache/policy.h"
#include "config/json.h"
#include "config/option.h"
#include "model/model.h"
#include "server/bench.h"
#include "server/bench_load.h"
#include "server/bench_process.h"
#include "server/bench_sampler.h"

#include <stdio.h>
#include <string.h>

/*
 * `octavo bench capacity`: how many sequences run at once in each KV format when the pool has the same bytes.
 * For each format a server of our own gets more requests than fit, and its /metrics tell how many of them ran
 * at once. The arithmetic stands beside what was seen.
 */

enum { MAX_ARGUMENTS = 40, NUMBER_BYTES = 24, SAMPLE_MS = 20, READY_S = 900 };

struct capacity_options {
    const char *model, *formats, *cpu;
    int64_t kv_cache_bytes, seed;
    int prompt_tokens, max_tokens, requests, kv_recent, sink_tokens, threads, max_batch_tokens, timeout_s;
    bool json, help;
};

#define FIELD(field) offsetof(struct capacity_options, field)

static const struct option rows[] = {
    {.name = "model",
     .group = "Server",
     .kind = OPTION_TEXT,
     .offset = FIELD(model),
     .aliases = "-m",
     .metavar = "MODEL",
     .help = "GGUF file; the same as the argument without a flag"},
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
    {.name = "kv-recent",
     .group = "Server",
     .kind = OPTION_INT,
     .offset = FIELD(kv_recent),
     .default_value = "8",
     .max = 1 << 18,
     .metavar = "N",
     .help = "as of octavo serve"},
    {.name = "sink-tokens",
     .group = "Server",
     .kind = OPTION_INT,
     .offset = FIELD(sink_tokens),
     .default_value = "4",
     .max = KV_MAX_SINKS,
     .metavar = "N",
     .help = "as of octavo serve"},
    {.name = "max-batch-tokens",
     .group = "Server",
     .kind = OPTION_INT,
     .offset = FIELD(max_batch_tokens),
     .default_value = "512",
     .min = 1,
     .max = 65536,
     .metavar = "N",
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

    {.name = "json", .group = "Output", .kind = OPTION_FLAG, .offset = FIELD(json), .help = "print JSON"},
    {.name = "help",
     .group = "Output",
     .kind = OPTION_FLAG,
     .offset = FIELD(help),
     .aliases = "-h",
     .help = "print this and exit"},
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

/* One format's line of the report. */
struct row {
    enum kv_format format;
    size_t sequence_bytes; /* of one sequence at its longest */
    int fit;               /* by arithmetic */
    int requests;
    struct bench_sample sample;
    double wall_s, prompt_tokens_per_s, output_tokens_per_s;
};

static enum err formats_parse(const char *list, struct row *lines, int *n, struct err_info *info)
{
    *n = 0;
    for (const char *at = list; *at || at == list;) {
        char name[16];
        size_t length = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        struct err_info why;
        if (*n == KV_FORMATS)
            return err_set_param(info, ERR_USAGE, "formats", "--formats '%s': at most %d", list, KV_FORMATS);
        if (kv_format_parse(name, &lines[*n].format, &why))
            return err_set_param(info, ERR_USAGE, "formats", "--formats '%s': %s", list, why.message);
        (*n)++;
        at += length;
        if (*at == ',' && !*++at)
            return err_set_param(info, ERR_USAGE, "formats", "--formats '%s' ends with a comma", list);
    }
    return ERR_OK;
}

/* What the scheduler's admission comes to for such sequences, and how many requests to send. */
static enum err row_plan(const struct capacity_options *options, const struct model_config *config,
                         struct row *row, struct err_info *info)
{
    struct kv_policy policy = {.shape = {.n_layers = config->n_layers,
                                         .n_heads = config->n_heads,
                                         .n_kv_heads = config->n_kv_heads,
                                         .head_dim = config->head_dim},
                               .format = row->format,
                               .recent_blocks = options->kv_recent,
                               .sink_tokens = options->sink_tokens};
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
            pool, kv_format_name(row->format), row->sequence_bytes, step);
    size_t wanted = options->requests > 0 ? (size_t)options->requests : fit + fit / 4 + 2;
    if (fit >= 4096 || wanted > 4096)
        return err_set_param(
            info, ERR_USAGE, "kv-cache-bytes",
            "%zu sequences of %s fit, more than a server runs at once: make the pool smaller "
            "or prompts longer",
            fit, kv_format_name(row->format));
    row->fit = (int)fit;
    row->requests = (int)wanted;
    return ERR_OK;
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

static void arguments_make(const struct capacity_options *options, const struct row *row, int port,
                           struct arguments *arguments)
{
    *arguments = (struct arguments){.n = 0};
    argument_text(arguments, "octavo", "serve");
    argument_text(arguments, "--model", options->model);
    argument_text(arguments, "--host", "127.0.0.1");
    argument_number(arguments, "--port", port);
    argument_text(arguments, "--kv-format", kv_format_name(row->format));
    argument_number(arguments, "--kv-cache-bytes", options->kv_cache_bytes);
    argument_number(arguments, "--kv-recent", options->kv_recent);
    argument_number(arguments, "--sink-tokens", options->sink_tokens);
    argument_number(arguments, "--ctx-size", options->prompt_tokens + options->max_tokens);
    argument_number(arguments, "--parallel", row->requests);
    argument_number(arguments, "--max-queue", row->requests);
    argument_number(arguments, "--max-connections", row->requests + 16);
    argument_number(arguments, "--max-batch-tokens", options->max_batch_tokens);
    argument_number(arguments, "--threads", options->threads);
    argument_text(arguments, "--cpu", options->cpu);
    argument_text(arguments, "--log-level", "warn");
    arguments->words[arguments->n] = NULL;
}

static void row_fill(struct row *row, const struct bench_load_result *result)
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

/* The load on the server that runs, with /metrics watched. */
static enum err row_load(const struct capacity_options *options, const struct model_config *config,
                         const struct bench_url *url, struct row *row, struct err_info *info)
{
    struct bench_sampler *sampler;
    struct bench_load_result result;
    char name[256];
    int n_vocab;
    enum err err = bench_model_ask(url, NULL, name, sizeof name, &n_vocab, info);
    if (!err) err = bench_sampler_start(url, SAMPLE_MS, &sampler, info);
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
        err = err_set(info, ERR_IO, "%s: %d of %d requests failed; the first: %s",
                      kv_format_name(row->format), result.n_failed, result.n_requests, result.first_failure);
    else if (sampling)
        err = err_set(info, sampling, "%s: %s", kv_format_name(row->format), why.message);
    else if (row->sample.most_running == 0)
        err = err_set(info, ERR_IO,
                      "%s: all was over before /metrics showed a running sequence; raise --max-tokens or "
                      "--prompt-tokens",
                      kv_format_name(row->format));
    bench_load_free(&result);
    return err;
}

static enum err row_measure(const struct capacity_options *options, const struct model_config *config,
                            struct row *row, struct err_info *info)
{
    struct arguments arguments;
    struct bench_process process;
    int port;
    fprintf(stderr, "bench: %s: %d requests, %d should run at once\n", kv_format_name(row->format),
            row->requests, row->fit);
    enum err err = bench_port_find(&port, info);
    if (err) return err;
    arguments_make(options, row, port, &arguments);
    err = bench_process_start(arguments.words, port, READY_S, &process, info);
    if (err) return err;
    err = row_load(options, config, &process.url, row, info);
    bench_process_stop(&process);
    return err;
}

static void report_text(const struct capacity_options *options, const struct row *lines, int n)
{
    printf("%s: pool of %lld bytes, prompts of %d tokens, %d generated\n\n", options->model,
           (long long)options->kv_cache_bytes, options->prompt_tokens, options->max_tokens);
    printf("%-6s  %14s  %8s  %12s  %5s  %10s  %9s  %10s  %8s\n", "format", "bytes/sequence", "requests",
           "most at once", "ratio", "bits/value", "prompt/s", "output/s", "wall s");
    for (int i = 0; i < n; i++) {
        const struct row *row = &lines[i];
        printf("%-6s  %14zu  %8d  %12d  %5.2f  %10.3f  %9.1f  %10.2f  %8.1f\n", kv_format_name(row->format),
               row->sequence_bytes, row->requests, row->sample.most_running,
               (double)row->sample.most_running / lines[0].sample.most_running, row->sample.bits_per_value,
               row->prompt_tokens_per_s, row->output_tokens_per_s, row->wall_s);
    }
}

static void report_json(const struct capacity_options *options, const struct row *lines, int n)
{
    struct buf out;
    buf_init(&out, SIZE_MAX);
    buf_text(&out, "{\"model\":");
    json_write_text(&out, options->model);
    buf_printf(&out, ",\"kv_cache_bytes\":%lld,\"prompt_tokens\":%d,\"max_tokens\":%d,\"formats\":[",
               (long long)options->kv_cache_bytes, options->prompt_tokens, options->max_tokens);
    for (int i = 0; i < n; i++) {
        const struct row *row = &lines[i];
        buf_printf(&out,
                   "%s{\"format\":\"%s\",\"sequence_bytes\":%zu,\"fit\":%d,\"requests\":%d,"
                   "\"most_at_once\":%d,\"ratio\":%.4f,\"pool_used_bytes\":%.0f,\"bits_per_value\":%.4f,"
                   "\"prompt_tokens_per_s\":%.3f,\"output_tokens_per_s\":%.3f,\"wall_s\":%.3f}",
                   i ? "," : "", kv_format_name(row->format), row->sequence_bytes, row->fit, row->requests,
                   row->sample.most_running, (double)row->sample.most_running / lines[0].sample.most_running,
                   row->sample.pool_used_bytes, row->sample.bits_per_value, row->prompt_tokens_per_s,
                   row->output_tokens_per_s, row->wall_s);
    }
    buf_text(&out, "]}\n");
    fwrite(out.data, 1, out.length, stdout);
    buf_free(&out);
}

static enum err config_ask(const char *path, struct model_config *out, struct err_info *info)
{
    struct gguf *gguf;
    enum err err = gguf_open(path, &gguf, info);
    if (err) return err;
    err = model_config_read(gguf, out, info);
    gguf_close(gguf);
    return err;
}

static enum err capacity_measure(const struct capacity_options *options, struct err_info *info)
{
    struct row lines[KV_FORMATS] = {{.fit = 0}};
    struct model_config config;
    int n = 0;
    if (!options->model)
        return err_set_param(info, ERR_USAGE, "model", "no model is named; usage: %s", table.usage);
    enum err err = formats_parse(options->formats, lines, &n, info);
    if (!err) err = config_ask(options->model, &config, info);
    for (int i = 0; i < n && !err; i++) err = row_plan(options, &config, &lines[i], info);
    for (int i = 0; i < n && !err; i++) err = row_measure(options, &config, &lines[i], info);
    if (err) return err;
    if (options->json)
        report_json(options, lines, n);
    else
        report_text(options, lines, n);
    return ERR_OK;
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
