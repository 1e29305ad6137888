#include "server/bench_kernel.h"

#include "model/sampler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Drawing a token from a row of logits: on the host whatever the device. */

struct draw {
    struct sampler *sampler;
    struct sampler_params params;
    float *logits;
    const uint32_t *allowed;
    int n; /* the next output's number */
};

static void draw_run(void *context)
{
    struct draw *draw = context;
    struct sampler_result result;
    sampler_draw(draw->sampler, &draw->params, draw->logits, draw->allowed, NULL, 0, NULL, 0, &result);
    draw->params.seed++;
}

/* A peak and a long tail, as a model's logits have. */
static void logits_fill(float *logits, int n)
{
    uint64_t state = 3;
    for (int i = 0; i < n; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        logits[i] = (float)(state >> 40) * 0x1p-24F * 12 - 8;
        if (state >> 54 == 0) logits[i] += 12;
    }
}

enum err bench_draw_run(struct bench_kernels *bench, struct err_info *info)
{
    static const struct setting {
        const char *name;
        float temperature, top_p, min_p;
        int top_k, logprobs;
        int allowed_of_64; /* tokens that a mask lets through; 0: no mask */
    } settings[] = {
        {"greedy", 0, 1, 0, 0, -1, 0},
        {"temperature 0.8", .8F, 1, 0, 0, -1, 0},
        {"top_p 0.9", .8F, .9F, 0, 0, -1, 0},
        {"top_k 40, top_p 0.95", .8F, .95F, 0, 40, -1, 0},
        {"min_p 0.05", .8F, 1, .05F, 0, -1, 0},
        {"greedy, 5 logprobs", 0, 1, 0, 0, 5, 0},
        {"top_p 0.9, mask of 1/64", .8F, .9F, 0, 0, -1, 1},
        {"top_p 0.9, mask of 63/64", .8F, .9F, 0, 0, -1, 63},
    };
    int n_vocab = bench->shape.n_vocab;
    size_t n_words = (size_t)n_vocab / 32 + 1;
    float *logits = malloc((size_t)n_vocab * sizeof *logits);
    uint32_t *mask = malloc(n_words * sizeof *mask);
    struct sampler *sampler = sampler_create(n_vocab);
    enum err err = ERR_OK;
    if (logits == NULL || mask == NULL || sampler == NULL) {
        err = err_set(info, ERR_MEMORY, "draw: out of memory");
        goto out;
    }
    logits_fill(logits, n_vocab);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const struct setting *setting = &settings[i];
        memset(mask, 0, n_words * sizeof *mask);
        for (int t = 0; t < n_vocab; t++)
            if (t % 64 < setting->allowed_of_64) mask[t >> 5] |= UINT32_C(1) << (t & 31);
        struct draw draw = {.sampler = sampler,
                            .params = {.temperature = setting->temperature,
                                       .top_p = setting->top_p,
                                       .min_p = setting->min_p,
                                       .top_k = setting->top_k,
                                       .repetition_penalty = 1,
                                       .n_logprobs = setting->logprobs},
                            .logits = logits,
                            .allowed = setting->allowed_of_64 > 0 ? mask : NULL};
        struct bench_row row = {
            .kernel = "draw", .type = "", .n = 1, .us = bench_time_us(bench, draw_run, &draw)};
        snprintf(row.what, sizeof row.what, "%s", setting->name);
        bench_row_report(bench, &row);
    }
out:
    sampler_free(sampler);
    free(mask);
    free(logits);
    return err;
}
