#include "config/json.h"
#include "config/option.h"
#include "config/option_rows.h"
#include "server/bench.h"
#include "server/bench_load.h"
#include "server/bench_sampler.h"
#include "server/bench_stats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* `octavo bench serve`: a load on a server that runs already, and what it felt like from outside. */

struct serve_options {
    const char *url, *api_key, *model, *prompt_tokens, *max_tokens;
    int requests, concurrency, vocab, timeout_s;
    double rate, duration_s, temperature;
    int64_t seed;
    bool allow_busy, json, help;
};

#define FIELD(field) offsetof(struct serve_options, field)

static const struct option rows[] = {
    {.name = "url",
     .group = "Server",
     .kind = OPTION_TEXT,
     .offset = FIELD(url),
     .default_value = "http://127.0.0.1:8080",
     .metavar = "URL",
     .help = "the server; /v1/completions and /v1/models are asked"},
    {.name = "api-key",
     .group = "Server",
     .kind = OPTION_TEXT,
     .offset = FIELD(api_key),
     .secret = true,
     .metavar = "KEY",
     .help = "sent as a bearer token"},
    {.name = "model",
     .group = "Server",
     .kind = OPTION_TEXT,
     .offset = FIELD(model),
     .aliases = "-m",
     .metavar = "NAME",
     .help = "model to name in requests; when not given, the first that /v1/models lists"},
    {.name = "vocab",
     .group = "Server",
     .kind = OPTION_INT,
     .offset = FIELD(vocab),
     .default_value = "0",
     .max = 1 << 24,
     .metavar = "N",
     .help = "prompts are token ids below N; 0: the vocabulary size that /v1/models states"},

    {.name = "requests",
     .group = "Load",
     .kind = OPTION_INT,
     .offset = FIELD(requests),
     .default_value = "100",
     .min = 1,
     .max = 1000000,
     .aliases = "-n --num-prompts",
     .metavar = "N",
     .help = "requests in all"},
    {.name = "concurrency",
     .group = "Load",
     .kind = OPTION_INT,
     .offset = FIELD(concurrency),
     .default_value = "0",
     .max = 1000000,
     .aliases = "--max-concurrency",
     .metavar = "N",
     .help = "most requests in flight; a new one begins when one ends; 0: 8, or with --rate no limit"},
    {.name = "rate",
     .group = "Load",
     .kind = OPTION_REAL,
     .offset = FIELD(rate),
     .default_value = "0",
     .max = 1000000,
     .aliases = "--request-rate",
     .metavar = "R",
     .help = "requests a second, arriving at random (Poisson); 0: as fast as --concurrency allows"},
    {.name = "duration-s",
     .group = "Load",
     .kind = OPTION_REAL,
     .offset = FIELD(duration_s),
     .default_value = "0",
     .max = 86400,
     .metavar = "S",
     .help = "with --rate: as many requests as arrive in this time, in place of --requests"},
    {.name = "allow-busy",
     .group = "Load",
     .kind = OPTION_FLAG,
     .offset = FIELD(allow_busy),
     .help =
         "429 and 503 are no failures: the server is meant to be asked for more than it can do; latencies "
         "are of what it admitted"},
    {.name = "prompt-tokens",
     .group = "Load",
     .kind = OPTION_TEXT,
     .offset = FIELD(prompt_tokens),
     .default_value = "512",
     .metavar = "A[:B]",
     .help = "tokens of each prompt, or a range to draw them from"},
    {.name = "max-tokens",
     .group = "Load",
     .kind = OPTION_TEXT,
     .offset = FIELD(max_tokens),
     .default_value = "64",
     .metavar = "A[:B]",
     .help = "tokens of each reply, or a range; the end token is ignored"},
    {.name = "temperature",
     .group = "Load",
     .kind = OPTION_REAL,
     .offset = FIELD(temperature),
     .default_value = "0",
     .max = 2,
     .metavar = "T",
     .help = "0: greedy"},
    {.name = "seed",
     .group = "Load",
     .kind = OPTION_INT64,
     .offset = FIELD(seed),
     .default_value = "1",
     .metavar = "N",
     .help = "the same seed gives the same prompts, lengths and arrivals"},
    {.name = "timeout-s",
     .group = "Load",
     .kind = OPTION_INT,
     .offset = FIELD(timeout_s),
     .default_value = "600",
     .min = 1,
     .max = 86400,
     .metavar = "S",
     .help = "a request that takes longer has failed"},

    OPTION_ROW_JSON("Output", FIELD(json)),
    OPTION_ROW_HELP("Output", FIELD(help)),
};

static const struct option_table table = {
    .usage = "octavo bench serve [options]",
    .about = "Sends streaming completions to a running server and reports latencies and throughput.",
    .options = rows,
    .n_options = sizeof rows / sizeof *rows,
};

/* The columns of the report. */
enum { FIRST_TOKEN, INTER_TOKEN, PER_TOKEN, END_TO_END, COLUMNS };
enum { MOST_REQUESTS = 1000000, MOST_STATUSES = 16, SAMPLE_MS = 250 };

static const struct {
    const char *key, *title;
} columns[COLUMNS] = {{"first_token_ms", "time to first token"},
                      {"inter_token_ms", "between tokens"},
                      {"per_output_token_ms", "per output token"},
                      {"end_to_end_ms", "end to end"}};

struct report {
    struct bench_stats stats[COLUMNS];
    int64_t prompt_tokens, output_tokens;
    double wall_s;
    int n_ok, n_failed, n_refused;
    int statuses[MOST_STATUSES][2]; /* status and how many, increasing; 0: no whole reply */
    int n_statuses;
    struct bench_sample sample; /* of the server's memory */
};

/* Of the requests that succeeded, one figure each; returns how many have it. */
static size_t column_fill(const struct bench_load_result *result, int column, double *out)
{
    size_t n = 0;
    for (int i = 0; i < result->n_requests; i++) {
        const struct bench_record *record = &result->records[i];
        if (!record->ok) continue;
        if (column == END_TO_END)
            out[n++] = (double)(record->end_us - record->start_us) / 1000;
        else if (column == FIRST_TOKEN && record->first_us)
            out[n++] = (double)(record->first_us - record->start_us) / 1000;
        else if (column == PER_TOKEN && record->output_tokens > 1)
            out[n++] = (double)(record->last_us - record->first_us) / 1000 / (record->output_tokens - 1);
    }
    return n;
}

/* Statuses past MOST_STATUSES different ones are not told. */
static void status_count(struct report *report, int status)
{
    int at = 0;
    while (at < report->n_statuses && report->statuses[at][0] < status) at++;
    if (at == report->n_statuses || report->statuses[at][0] != status) {
        if (report->n_statuses == MOST_STATUSES) return;
        memmove(report->statuses[at + 1], report->statuses[at],
                (size_t)(report->n_statuses++ - at) * sizeof *report->statuses);
        report->statuses[at][0] = status;
        report->statuses[at][1] = 0;
    }
    report->statuses[at][1]++;
}

static enum err report_make(struct bench_load_result *result, struct report *report, struct err_info *info)
{
    double *values = malloc((size_t)result->n_requests * sizeof *values);
    if (!values) return err_set(info, ERR_MEMORY, "not enough memory for the report");
    *report = (struct report){.wall_s = (double)result->wall_us / 1e6,
                              .n_failed = result->n_failed,
                              .n_refused = result->n_refused};
    for (int column = 0; column < COLUMNS; column++) {
        if (column == INTER_TOKEN)
            report->stats[column] = bench_stats_of(result->gaps_ms, result->n_gaps);
        else
            report->stats[column] = bench_stats_of(values, column_fill(result, column, values));
    }
    for (int i = 0; i < result->n_requests; i++) {
        status_count(report, result->records[i].status);
        if (!result->records[i].ok) continue;
        report->n_ok++;
        report->prompt_tokens += result->records[i].prompt_tokens;
        report->output_tokens += result->records[i].output_tokens;
    }
    free(values);
    return ERR_OK;
}

static void report_text(const struct report *report)
{
    printf("%-22s %10d done, %d failed", "requests", report->n_ok, report->n_failed);
    if (report->n_refused > 0) printf(", %d refused", report->n_refused);
    printf("\n");
    for (int i = 0; i < report->n_statuses && report->n_statuses > 1; i++)
        printf("%-22s %10d with status %d\n", "", report->statuses[i][1], report->statuses[i][0]);
    printf("%-22s %10.2f s\n", "wall time", report->wall_s);
    printf("%-22s %10.2f /s\n", "requests", report->n_ok / report->wall_s);
    printf("%-22s %10lld  %.1f /s\n", "prompt tokens", (long long)report->prompt_tokens,
           (double)report->prompt_tokens / report->wall_s);
    printf("%-22s %10lld  %.1f /s\n\n", "output tokens", (long long)report->output_tokens,
           (double)report->output_tokens / report->wall_s);
    if (report->sample.first_resident >= 0)
        printf("%-22s %10.1f MB before, %.1f at most, %.1f after\n\n", "server's memory",
               report->sample.first_resident / 1e6, report->sample.most_resident / 1e6,
               report->sample.last_resident / 1e6);
    printf("%-22s %10s %10s %10s %10s %10s\n", "milliseconds", "mean", "p50", "p90", "p99", "max");
    for (int column = 0; column < COLUMNS; column++) {
        const struct bench_stats *stats = &report->stats[column];
        printf("%-22s %10.2f %10.2f %10.2f %10.2f %10.2f\n", columns[column].title, stats->mean, stats->p50,
               stats->p90, stats->p99, stats->max);
    }
}

static void report_json(const struct report *report)
{
    printf("{\"requests\":%d,\"failed\":%d,\"wall_s\":%.6f,\"prompt_tokens\":%lld,\"output_tokens\":%lld,"
           "\"requests_per_s\":%.4f,\"prompt_tokens_per_s\":%.3f,\"output_tokens_per_s\":%.3f",
           report->n_ok, report->n_failed, report->wall_s, (long long)report->prompt_tokens,
           (long long)report->output_tokens, report->n_ok / report->wall_s,
           (double)report->prompt_tokens / report->wall_s, (double)report->output_tokens / report->wall_s);
    for (int column = 0; column < COLUMNS; column++) {
        const struct bench_stats *stats = &report->stats[column];
        printf(",\"%s\":{\"mean\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f}",
               columns[column].key, stats->mean, stats->p50, stats->p90, stats->p99, stats->max);
    }
    printf(",\"refused\":%d,\"statuses\":{", report->n_refused);
    for (int i = 0; i < report->n_statuses; i++)
        printf("%s\"%d\":%d", i > 0 ? "," : "", report->statuses[i][0], report->statuses[i][1]);
    printf("}");
    if (report->sample.first_resident >= 0)
        printf(",\"resident_bytes\":{\"before\":%.0f,\"most\":%.0f,\"after\":%.0f}",
               report->sample.first_resident, report->sample.most_resident, report->sample.last_resident);
    printf("}\n");
}

/* The load that the options describe; url and name are the caller's memory, which the load keeps. */
static enum err load_describe(const struct serve_options *options, struct bench_url *url, char *name,
                              size_t size, struct bench_load_options *load, struct err_info *info)
{
    int n_vocab;
    enum err err = bench_url_parse(options->url, url, info);
    if (!err) err = bench_range_parse("prompt-tokens", options->prompt_tokens, &load->prompt_tokens, info);
    if (!err) err = bench_range_parse("max-tokens", options->max_tokens, &load->max_tokens, info);
    if (err) return err;
    if (!options->model || options->vocab == 0) {
        err = bench_model_ask(url, options->api_key, name, size, &n_vocab, info);
        if (err) return err;
    }
    load->n_vocab = options->vocab > 0 ? options->vocab : n_vocab;
    if (load->n_vocab <= 0)
        return err_set_param(info, ERR_USAGE, "vocab",
                             "the server does not say how large its vocabulary is: give --vocab");
    load->url = url;
    load->api_key = options->api_key;
    load->model = options->model ? options->model : name;
    load->n_requests = options->requests;
    if (options->duration_s > 0) {
        double wanted = options->rate * options->duration_s;
        if (wanted < 1 || wanted > MOST_REQUESTS)
            return err_set_param(info, ERR_USAGE, "duration-s",
                                 "--duration-s: %g requests would come in %g s at --rate %g; 1 to %d may",
                                 wanted, options->duration_s, options->rate, MOST_REQUESTS);
        load->n_requests = (int)wanted;
    }
    load->concurrency = options->concurrency;
    if (load->concurrency == 0) load->concurrency = options->rate > 0 ? load->n_requests : 8;
    load->allow_busy = options->allow_busy;
    load->rate = options->rate;
    load->temperature = options->temperature;
    load->seed = (uint64_t)options->seed;
    load->timeout_s = options->timeout_s;
    load->progress = true;
    return ERR_OK;
}

static enum err serve_measure(const struct serve_options *options, struct err_info *info)
{
    struct bench_url url;
    struct bench_load_options load = {.url = NULL};
    struct bench_load_result result;
    struct report report = {.n_ok = 0};
    struct bench_sampler *sampler;
    struct bench_sample sample;
    char name[256];
    enum err err = load_describe(options, &url, name, sizeof name, &load, info);
    if (!err) err = bench_sampler_start(&url, options->api_key, SAMPLE_MS, &sampler, info);
    if (err) return err;
    err = bench_load_run(&load, &result, info);
    bench_sampler_stop(sampler, &sample, NULL); /* other servers may tell nothing */
    if (err) return err;
    err = report_make(&result, &report, info);
    report.sample = sample;
    if (!err) {
        if (options->json)
            report_json(&report);
        else
            report_text(&report);
        if (result.n_failed > 0)
            err = err_set(info, ERR_IO, "%d of %d requests failed; the first: %s", result.n_failed,
                          result.n_requests, result.first_failure);
    }
    bench_load_free(&result);
    return err;
}

enum err bench_serve_run(int argc, char **argv, struct err_info *info)
{
    struct serve_options options;
    struct option_state *state;
    enum err err = option_parse(&table, argc, argv, 1, NULL, "help", &options, &state, info);
    if (err) return err;
    if (options.help)
        option_help(&table, stdout);
    else
        err = serve_measure(&options, info);
    option_state_free(state);
    return err;
}
