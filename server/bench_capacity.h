#ifndef SERVER_BENCH_CAPACITY_H
#define SERVER_BENCH_CAPACITY_H

#include "cache/format.h"
#include "server/bench_quality.h"
#include "server/bench_sampler.h"

/* What `octavo bench capacity` was asked and what it measured: bench_capacity.c measures, this reports. */
struct capacity_options {
    const char *model, *load_format, *shape, *formats, *device, *device_weights, *cpu, *admission, *plot,
        *quality_text;
    int64_t kv_cache_bytes, seed;
    int prompt_tokens, max_tokens, requests, kv_recent, sink_tokens, threads, max_batch_tokens, timeout_s;
    int quality_ctx, quality_windows;
    bool json, help;
    const char *name; /* of the model, for the report */
};

/* One format's line of the report. */
struct capacity_row {
    char format[KV_FORMAT_NAME_BYTES];
    size_t sequence_bytes; /* of one sequence at its longest */
    int fit;               /* by arithmetic */
    int requests;
    struct bench_sample sample;
    double wall_s, prompt_tokens_per_s, output_tokens_per_s;
    struct bench_quality quality;
};

/* To stdout. */
void bench_capacity_text(const struct capacity_options *options, const struct capacity_row *rows, int n);
void bench_capacity_json(const struct capacity_options *options, const struct capacity_row *rows, int n);
/* To the file options->plot, as SVG. ERR_IO. */
enum err bench_capacity_plot(const struct capacity_options *options, const struct capacity_row *rows, int n,
                             struct err_info *info);

#endif
