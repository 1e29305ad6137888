#include "server/bench_quality.h"

#include "server/eval_text.h"

#include <stdio.h>
#include <string.h>

enum { NUMBER_BYTES = 16 };

static const char *number(char text[NUMBER_BYTES], int value)
{
    snprintf(text, NUMBER_BYTES, "%d", value);
    return text;
}

enum err bench_quality_measure(const struct bench_quality_options *options,
                               struct bench_quality out[KV_MAX_FORMATS], struct err_info *info)
{
    char ctx[NUMBER_BYTES], windows[NUMBER_BYTES], recent[NUMBER_BYTES], sinks[NUMBER_BYTES],
        threads[NUMBER_BYTES];
    const char *arguments[] = {"eval",
                               options->model,
                               "--text",
                               options->text,
                               "--kv-format",
                               options->formats,
                               "--ctx",
                               number(ctx, options->ctx),
                               "--windows",
                               number(windows, options->windows),
                               "--kv-recent",
                               number(recent, options->kv_recent),
                               "--sink-tokens",
                               number(sinks, options->sink_tokens),
                               "--threads",
                               number(threads, options->threads),
                               "--device",
                               options->device,
                               "--device-weights",
                               options->device_weights,
                               "--cpu",
                               options->cpu};
    struct eval_options eval;
    struct evaluation evaluation;
    struct eval_text_row rows[EVALUATION_MAX_CACHES];
    int n_windows = 0;
    enum err err = eval_options_parse(sizeof arguments / sizeof *arguments, (char **)arguments, &eval, info);
    if (err != ERR_OK) return err;
    err = evaluation_open(&eval, &evaluation, info);
    if (err == ERR_OK) {
        err = eval_text_measure(&evaluation, rows, &n_windows, info);
        for (int c = 1; c < evaluation.n_caches && err == ERR_OK; c++)
            out[c - 1] = (struct bench_quality){true, rows[c].kl, rows[c].kl99, rows[c].top1, rows[c].ppl};
        evaluation_close(&evaluation);
    }
    eval_options_free(&eval);
    return err;
}
