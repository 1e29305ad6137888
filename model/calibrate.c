#include "model/calibrate.h"

#include "cache/sequence.h"
#include "kernels/workers.h"
#include "model/balance.h"
#include "model/statistics.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct calibrate {
    struct model *model;
    const struct calibrate_options *options;
    struct kv_shape shape;
    struct statistics *statistics;
    struct kv_pool *pool;
    struct kv_staging *staging;
    struct calibration *calibration;
    int length, n_sequences; /* tokens of a sequence, sequences */
    int done, total;
    bool stopped;
};

/* One layer of one sequence, or one layer solved. False: stop. */
static bool progress(struct calibrate *run)
{
    const struct calibrate_options *options = run->options;
    run->done++;
    if (options->progress && !options->progress(options->progress_context, run->done, run->total))
        run->stopped = true;
    return !run->stopped;
}

static bool tap(void *context, int layer, const float *q, const float *k, const float *v)
{
    struct calibrate *run = context;
    statistics_add(run->statistics, run->options->workers, layer, run->length, q, k, v);
    return progress(run);
}

static enum err calibrate_open(struct calibrate *run, struct err_info *info)
{
    struct kv_policy policy = {run->shape, KV_FORMAT_F16, 0, run->options->sink_tokens};
    struct statistics_options options = {run->shape, run->length, CALIBRATE_FRAME_TOKENS,
                                         run->options->sink_tokens, model_inv_freq(run->model)};
    size_t pool_bytes = kv_policy_bytes(&policy, run->length) + kv_policy_step_bytes(&policy, run->length) +
                        ((size_t)run->length << 10);
    run->staging = kv_staging_create(&run->shape, run->length, run->options->backend);
    if (run->staging == NULL) return err_set(info, ERR_MEMORY, "calibration: out of memory");
    enum err err = kv_pool_create(&run->shape, pool_bytes, &run->pool, info);
    if (err == ERR_OK) err = statistics_create(&options, &run->statistics, info);
    if (err == ERR_OK) err = calibration_create(&run->shape, CALIBRATE_FRAME_TOKENS, &run->calibration, info);
    return err;
}

static enum err sequence_run(struct calibrate *run, const int32_t *tokens, struct err_info *info)
{
    struct kv_policy policy = {run->shape, KV_FORMAT_F16, 0, run->options->sink_tokens};
    struct kv_sequence *sequence = NULL;
    kv_staging_reset(run->staging);
    enum err err = kv_sequence_create(&policy, run->pool, run->staging, run->options->backend, run->length,
                                      &sequence, info);
    if (err == ERR_OK) err = kv_sequence_begin(sequence, run->length, info);
    if (err == ERR_OK) {
        struct attention_span span;
        const float *logits;
        kv_sequence_span(sequence, 0, &span);
        struct model_batch batch = {.n_tokens = run->length,
                                    .tokens = tokens,
                                    .n_spans = 1,
                                    .spans = &span,
                                    .tap = tap,
                                    .tap_context = run};
        model_forward(run->model, &batch, &logits);
        kv_sequence_end(sequence);
    }
    kv_sequence_free(sequence);
    if (run->stopped) err = err_set(info, ERR_CLOSED, "calibration was stopped");
    return err;
}

static enum err layer_solve(struct calibrate *run, int layer, double *moments, struct err_info *info)
{
    struct calibration *c = run->calibration;
    size_t D = (size_t)run->shape.head_dim, square = D * D;
    double *key_mean = moments, *value_mean = key_mean + D, *key_cov = value_mean + D,
           *query_cov = key_cov + square;
    for (int h = 0; h < run->shape.n_kv_heads; h++) {
        size_t head = (size_t)layer * run->shape.n_kv_heads + h;
        enum err err =
            statistics_head(run->statistics, layer, h, key_mean, value_mean, key_cov, query_cov, info);
        if (err == ERR_OK)
            err = balance_solve((int)D, key_cov, query_cov, c->key_transform + head * square,
                                c->query_transform + head * square,
                                c->key_sigma + head * D / CALIBRATION_GROUP, info);
        if (err != ERR_OK) return err;
        for (size_t i = 0; i < D; i++) {
            c->key_mean[head * D + i] = (float)key_mean[i];
            c->value_mean[head * D + i] = (float)value_mean[i];
        }
    }
    return ERR_OK;
}

enum err calibrate_run(struct model *model, const struct gguf *gguf, const struct calibrate_options *options,
                       const int32_t *tokens, size_t n_tokens, struct calibration **out,
                       struct err_info *info)
{
    struct calibrate run = {.model = model, .options = options};
    double *moments = NULL;
    model_kv_shape(model, &run.shape);
    if (n_tokens < 4 * KV_BLOCK_TOKENS)
        return err_set(info, ERR_INVALID, "calibration needs at least %d tokens of text, not %zu",
                       4 * KV_BLOCK_TOKENS, n_tokens);
    run.length = model_config(model)->context_length;
    if (run.length > CALIBRATE_SEQUENCE_TOKENS) run.length = CALIBRATE_SEQUENCE_TOKENS;
    if ((size_t)run.length > n_tokens) run.length = (int)n_tokens;
    size_t whole = n_tokens / (size_t)run.length;
    run.n_sequences = whole < CALIBRATE_SEQUENCES ? (int)whole : CALIBRATE_SEQUENCES;
    run.total = (run.n_sequences + 1) * run.shape.n_layers;
    enum err err = calibrate_open(&run, info);
    for (int s = 0; s < run.n_sequences && err == ERR_OK; s++)
        err = sequence_run(&run, tokens + (size_t)s * run.length, info);
    size_t D = (size_t)run.shape.head_dim;
    moments = malloc((2 * D + 2 * D * D) * sizeof *moments);
    if (moments == NULL && err == ERR_OK) err = err_set(info, ERR_MEMORY, "calibration: out of memory");
    for (int layer = 0; layer < run.shape.n_layers && err == ERR_OK; layer++) {
        err = layer_solve(&run, layer, moments, info);
        if (err == ERR_OK && !progress(&run)) err = err_set(info, ERR_CLOSED, "calibration was stopped");
    }
    if (err == ERR_OK) {
        gguf_hash(gguf, run.calibration->model_hash);
        *out = run.calibration;
        run.calibration = NULL;
    }
    free(moments);
    calibration_free(run.calibration);
    statistics_free(run.statistics);
    if (run.pool != NULL) kv_pool_free(run.pool);
    if (run.staging != NULL) kv_staging_free(run.staging);
    return err;
}
