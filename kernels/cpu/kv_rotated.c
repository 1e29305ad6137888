#include "kernels/cpu/kv_rotated.h"
#include "kernels/kv_rotate.h"
#include "kernels/workers.h"

#include <assert.h>
#include <string.h>

enum { TOKENS = KV_BLOCK_TOKENS };

/* Lane i does the blocks i, i + lanes ... in its own scratch. */
struct job {
    const struct kv_kernels *kernels;
    const struct kv_seal_args *args;
    void (*block_do)(const struct job *job, int block, float *x);
};

static void lane_run(void *context, int lane, int worker)
{
    (void)worker;
    const struct job *job = context;
    const struct kv_rotate *rotate = job->args->codec->rotate;
    float *x = rotate->lanes + (size_t)lane * (size_t)rotate->n_channels * TOKENS;
    for (int i = lane; i < job->args->n_blocks; i += KV_ROTATE_LANES) job->block_do(job, i, x);
}

static void blocks_run(struct workers *workers, struct job *job)
{
    int n = job->args->n_blocks;
    if (n > 0) workers_run(workers, n < KV_ROTATE_LANES ? n : KV_ROTATE_LANES, lane_run, job);
}

/* --- Seal --- */

static uint16_t *head_page(const struct kv_block_ref *block, int layer, int head, int head_dim)
{
    return (uint16_t *)(block->f16 + (size_t)layer * block->f16_layer_stride +
                        (size_t)head * kv_page_bytes(KV_F16, head_dim));
}

/* A sink's slot holds all layers and heads. */
static uint16_t *sink_page(const struct kv_block_ref *block, int slot, const struct kv_shape *shape,
                           int layer, int head)
{
    size_t page = (size_t)layer * (size_t)shape->n_kv_heads + (size_t)head;
    return (uint16_t *)(block->sinks[slot] + page * kv_page_bytes(KV_SINK, shape->head_dim));
}

static void sinks_copy(const struct kv_shape *shape, const struct kv_block_ref *block, int layer,
                       bool to_slots)
{
    int n = shape->head_dim, slot = 0;
    for (uint64_t mask = block->sink_mask; mask; mask &= mask - 1, slot++) {
        int t = __builtin_ctzll(mask);
        for (int head = 0; head < shape->n_kv_heads; head++) {
            uint16_t *page = head_page(block, layer, head, n);
            uint16_t *sink = sink_page(block, slot, shape, layer, head);
            uint16_t *value = page + (TOKENS + t) * n;
            for (int i = 0; i < n; i++) {
                uint16_t *key = page + i * TOKENS + t;
                if (to_slots)
                    sink[i] = *key, sink[n + i] = value[i];
                else
                    *key = sink[i], value[i] = sink[n + i];
            }
        }
    }
}

static char *layer_codes(const struct kv_seal_args *args, const struct kv_block_ref *block)
{
    return block->parts[0] + (size_t)args->layer * args->codec->rotate->layer_bytes;
}

static void block_seal(const struct job *job, int i, float *x)
{
    const struct kv_seal_args *args = job->args;
    const struct kv_block_ref *block = args->blocks[i];
    const struct kv_shape *shape = &args->codec->shape;
    int n = shape->head_dim;
    for (int head = 0; head < shape->n_kv_heads; head++)
        job->kernels->half_to_float(head_page(block, args->layer, head, n), n * TOKENS,
                                    x + head * n * TOKENS);
    kv_rotate_encode_keys(args->codec, args->layer, args->block_index[i], x, layer_codes(args, block));
    for (int head = 0; head < shape->n_kv_heads; head++) {
        const uint16_t *values = head_page(block, args->layer, head, n) + n * TOKENS;
        for (int t = 0; t < TOKENS; t++) {
            float row[KV_MAX_HEAD_DIM];
            job->kernels->half_to_float(values + t * n, n, row);
            for (int c = 0; c < n; c++) x[(head * n + c) * TOKENS + t] = row[c];
        }
    }
    kv_rotate_encode_values(args->codec, x, layer_codes(args, block));
    sinks_copy(shape, block, args->layer, true);
}

void kv_rotated_seal(struct workers *workers, const struct kv_kernels *kernels,
                     const struct kv_seal_args *args)
{
    struct job job = {kernels, args, block_seal};
    blocks_run(workers, &job);
}

/* --- Unseal --- */

static void block_unseal(const struct job *job, int i, float *x)
{
    const struct kv_seal_args *args = job->args;
    const struct kv_block_ref *block = args->blocks[i];
    const struct kv_shape *shape = &args->codec->shape;
    int n = shape->head_dim;
    kv_rotate_decode_keys(args->codec, args->layer, args->block_index[i], layer_codes(args, block), x);
    for (int head = 0; head < shape->n_kv_heads; head++)
        job->kernels->float_to_half(x + head * n * TOKENS, n * TOKENS,
                                    head_page(block, args->layer, head, n));
    kv_rotate_decode_values(args->codec, layer_codes(args, block), x);
    for (int head = 0; head < shape->n_kv_heads; head++) {
        uint16_t *values = head_page(block, args->layer, head, n) + n * TOKENS;
        for (int t = 0; t < TOKENS; t++) {
            float row[KV_MAX_HEAD_DIM];
            for (int c = 0; c < n; c++) row[c] = x[(head * n + c) * TOKENS + t];
            job->kernels->float_to_half(row, n, values + t * n);
        }
    }
    sinks_copy(shape, block, args->layer, false);
}

void kv_rotated_unseal(struct workers *workers, const struct kv_kernels *kernels,
                       const struct kv_seal_args *args)
{
    struct job job = {kernels, args, block_unseal};
    blocks_run(workers, &job);
}

/* --- Attention --- */

/* Block b of the span as an f16 page in scratch. */
static void ref_unsealed(const struct attention_span *span, int b)
{
    struct kv_rotate *rotate = span->codec->rotate;
    const struct kv_shape *shape = &span->codec->shape;
    rotate->refs[b] = span->blocks[b];
    rotate->refs[b].f16 =
        rotate->f16 + (size_t)b * (size_t)shape->n_kv_heads * kv_page_bytes(KV_F16, shape->head_dim);
    rotate->refs[b].f16_layer_stride = 0;
}

/* The first n_blocks of the span into scratch. */
static void span_unseal(struct workers *workers, const struct kv_kernels *kernels,
                        const struct attention_span *span, int layer, int n_blocks)
{
    enum { AT_ONCE = 64 };
    for (int b = 0; b < n_blocks;) {
        const struct kv_block_ref *blocks[AT_ONCE];
        int32_t index[AT_ONCE];
        int n = 0;
        for (; n < AT_ONCE && b < n_blocks; n++, b++) {
            ref_unsealed(span, b);
            blocks[n] = &span->codec->rotate->refs[b];
            index[n] = b;
        }
        struct kv_seal_args args = {
            .codec = span->codec, .layer = layer, .n_blocks = n, .blocks = blocks, .block_index = index};
        kv_rotated_unseal(workers, kernels, &args);
    }
}

/* The rows in each block read that block as it was stored, and those before it from the codes. */
static void span_attend(struct workers *workers, const struct kv_kernels *kernels,
                        struct attention *attention, const struct attention_args *args,
                        const struct attention_span *span)
{
    struct kv_block_ref *refs = span->codec->rotate->refs;
    int end = span->first_pos + span->n_rows, last = (end - 1) / TOKENS;
    assert(last < span->codec->rotate->max_blocks);
    span_unseal(workers, kernels, span, args->layer, last);
    for (int own = span->first_pos / TOKENS; own <= last; own++) {
        int from = own * TOKENS, to = from + TOKENS;
        if (from < span->first_pos) from = span->first_pos;
        if (to > end) to = end;
        struct attention_span rows = {.first_row = span->first_row + from - span->first_pos,
                                      .n_rows = to - from,
                                      .first_pos = from,
                                      .n_blocks = own + 1,
                                      .blocks = refs};
        struct attention_args call = *args;
        call.n_spans = 1;
        call.spans = &rows;
        refs[own] = span->blocks[own];
        attention_run(attention, &call);
        if (own < last) ref_unsealed(span, own);
    }
}

static bool is_rotated(const struct attention_span *span)
{
    return span->codec && span->codec->rotate;
}

void kv_rotated_attention(struct workers *workers, const struct kv_kernels *kernels,
                          struct attention *attention, const struct attention_args *args)
{
    for (int i = 0; i < args->n_spans;) {
        struct attention_args call = *args;
        call.spans = &args->spans[i];
        call.n_spans = 0;
        while (i < args->n_spans && !is_rotated(&args->spans[i])) call.n_spans++, i++;
        if (call.n_spans > 0) attention_run(attention, &call);
        if (i == args->n_spans) return;
        span_attend(workers, kernels, attention, args, &args->spans[i++]);
    }
}
