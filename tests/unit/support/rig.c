#include "tests/unit/support/rig.h"

#include "kernels/workers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void need(enum err err, const struct err_info *info)
{
    if (!err) return;
    fprintf(stderr, "rig: %s: %s\n", err_name(err), info->message);
    abort();
}

static void *need_memory(void *memory)
{
    if (!memory) abort();
    return memory;
}

static void create_cache(struct rig *rig, const struct rig_setup *setup)
{
    struct err_info info;
    struct kv_shape shape;
    size_t class_bytes[KV_CLASSES] = {0}, most = 0;
    model_kv_shape(rig->model, &shape);
    need(kv_formats_create(&shape, setup->formats ? setup->formats : "f16", NULL,
                           setup->max_tokens / KV_FRAME_TOKENS + 1, model_inv_freq(rig->model), &rig->formats,
                           &info),
         &info);
    for (int f = 0; f < kv_formats_count(rig->formats); f++) {
        struct kv_policy *policy = &rig->policies[f];
        *policy = (struct kv_policy){.shape = shape,
                                     .format = kv_formats_at(rig->formats, f),
                                     .recent_blocks = setup->recent_blocks,
                                     .sink_tokens = setup->sink_tokens};
        kv_policy_classes(policy, class_bytes);
        size_t bytes =
            kv_policy_bytes(policy, setup->max_tokens) + kv_policy_step_bytes(policy, setup->max_rows);
        if (bytes > most) most = bytes;
    }
    need(kv_pool_create_on(rig->backend, class_bytes, (size_t)setup->max_sequences * most, &rig->pool, &info),
         &info);
    rig->staging = need_memory(kv_staging_create(&shape, setup->max_rows, rig->backend));
}

struct rig *rig_create(const struct rig_setup *setup)
{
    struct err_info info;
    struct rig *rig = need_memory(calloc(1, sizeof *rig));
    rig->gguf = setup->gguf;
    if (setup->path) need(gguf_open(setup->path, &rig->gguf, &info), &info);
    if (!setup->path && !rig->gguf)
        need(gguf_open_memory(setup->bytes, setup->length, &rig->gguf, &info), &info);
    need(workers_create(setup->threads, &rig->workers, &info), &info);
    const char *device = strncmp(setup->level, "cuda", 4) ? "cpu" : setup->level;
    need(backend_create(device, rig->workers, setup->level, &rig->backend, &info), &info);
    rig->backend->activation_bits = setup->activation_bits;
    rig->backend->weights = setup->weights;
    int max_logits = setup->max_logits ? setup->max_logits : setup->max_rows;
    need(model_load(rig->gguf, rig->backend, setup->max_rows, max_logits, &rig->model, &info), &info);
    create_cache(rig, setup);
    rig->max_rows = setup->max_rows;
    rig->max_tokens = setup->max_tokens;
    rig->spans = need_memory(calloc((size_t)setup->max_rows, sizeof *rig->spans));
    rig->tokens = need_memory(calloc((size_t)setup->max_rows, sizeof *rig->tokens));
    rig->logit_rows = need_memory(calloc((size_t)setup->max_rows, sizeof *rig->logit_rows));
    return rig;
}

void rig_free(struct rig *rig)
{
    kv_staging_free(rig->staging);
    kv_pool_free(rig->pool);
    kv_formats_free(rig->formats);
    model_free(rig->model);
    rig->backend->destroy(rig->backend);
    workers_free(rig->workers);
    gguf_close(rig->gguf);
    free(rig->spans);
    free(rig->tokens);
    free(rig->logit_rows);
    free(rig);
}

struct kv_sequence *rig_sequence_of(struct rig *rig, int format)
{
    struct err_info info;
    struct kv_sequence *seq = NULL;
    need(kv_sequence_create(&rig->policies[format], rig->pool, rig->staging, rig->backend, rig->max_tokens,
                            &seq, &info),
         &info);
    return seq;
}

struct kv_sequence *rig_sequence(struct rig *rig)
{
    return rig_sequence_of(rig, 0);
}

const float *rig_step(struct rig *rig, const struct rig_part *parts, int n_parts)
{
    struct err_info info;
    struct model_batch batch = {
        .tokens = rig->tokens,
        .n_spans = n_parts,
        .spans = rig->spans,
        .logit_rows = rig->logit_rows,
    };
    const float *logits;
    kv_staging_reset(rig->staging);
    for (int i = 0; i < n_parts; i++) {
        const struct rig_part *part = &parts[i];
        need(kv_sequence_begin(part->seq, part->n, &info), &info);
        memcpy(&rig->tokens[batch.n_tokens], part->tokens, (size_t)part->n * sizeof *part->tokens);
        for (int r = part->last_only ? part->n - 1 : 0; r < part->n; r++) {
            rig->logit_rows[batch.n_logits++] = batch.n_tokens + r;
        }
        batch.n_tokens += part->n;
    }
    for (int i = 0, row = 0; i < n_parts; row += parts[i++].n) {
        kv_sequence_span(parts[i].seq, row, &rig->spans[i]);
    }
    model_forward(rig->model, &batch, &logits);
    for (int i = 0; i < n_parts; i++) kv_sequence_end(parts[i].seq);
    return logits;
}
