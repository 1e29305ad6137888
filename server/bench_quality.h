#ifndef SERVER_BENCH_QUALITY_H
#define SERVER_BENCH_QUALITY_H

#include "cache/format.h"

#include <stdbool.h>

/* What a format does to the model's predictions: `octavo eval --text` in this process. */
struct bench_quality_options {
    const char *model, *text;
    const char *formats; /* names, with commas between */
    int ctx, windows;    /* windows 0: all there are */
    int kv_recent, sink_tokens, threads;
    const char *device, *device_weights, *cpu;
};

struct bench_quality {
    bool known;
    double kl, kl99, top1, ppl; /* to f16, see server/eval_text.h */
};

/* out [KV_MAX_FORMATS]: by the formats' order. Progress to stderr. */
enum err bench_quality_measure(const struct bench_quality_options *options,
                               struct bench_quality out[KV_MAX_FORMATS], struct err_info *info);

#endif
