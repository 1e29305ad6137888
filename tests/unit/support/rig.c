#include "tests/unit/support/rig.h"

#include "kernels/workers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FRAME_TOKENS = 256 };

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
    rig->policy.format = setup->format;
    rig->policy.recent_blocks = setup->recent_blocks;
    rig->policy.sink_tokens = setup->sink_tokens;
    model_kv_shape(rig->model, &rig->policy.shape);
    size_t bytes = (size_t)setup->max_sequences * (kv_policy_bytes(&rig->policy, setup->max_tokens) +
                                                   kv_policy_step_bytes(&rig->policy, setup->max_rows));
    need(kv_pool_create(&rig->policy.shape, bytes, &rig->pool, &info), &info);
    rig->staging = need_memory(kv_staging_create(&rig->policy.shape, setup->max_rows, rig->backend));
    if (setup->format == KV_FORMAT_F16) return;
    int n_frames = setup->max_tokens / FRAME_TOKENS + 1;
    rig->tables = need_memory(
        kv_tables_identity(&rig->policy.shape, FRAME_TOKENS, n_frames, model_inv_freq(rig->model)));
}

struct rig *rig_create(const struct rig_setup *setup)
{
    struct err_info info;
    struct rig *rig = need_memory(calloc(1, sizeof *rig));
    if (setup->path) need(gguf_open(setup->path, &rig->gguf, &info), &info);
    if (!setup->path) need(gguf_open_memory(setup->bytes, setup->length, &rig->gguf, &info), &info);
    need(workers_create(setup->threads, &rig->workers, &info), &info);
    need(backend_cpu_create(rig->workers, setup->level, &rig->backend, &info), &info);
    rig->backend->activation_bits = setup->activation_bits;
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
    kv_tables_free(rig->tables);
    model_free(rig->model);
    rig->backend->destroy(rig->backend);
    workers_free(rig->workers);
    gguf_close(rig->gguf);
    free(rig->spans);
    free(rig->tokens);
    free(rig->logit_rows);
    free(rig);
}

struct kv_sequence *rig_sequence(struct rig *rig)
{
    struct err_info info;
    struct kv_sequence *seq = NULL;
    need(
        kv_sequence_create(&rig->policy, rig->pool, rig->staging, rig->backend, rig->max_tokens, &seq, &info),
        &info);
    return seq;
}

const float *rig_step(struct rig *rig, const struct rig_part *parts, int n_parts)
{
    struct err_info info;
    struct model_batch batch = {
        .tokens = rig->tokens,
        .n_spans = n_parts,
        .spans = rig->spans,
        .logit_rows = rig->logit_rows,
        .tables = rig->tables,
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
