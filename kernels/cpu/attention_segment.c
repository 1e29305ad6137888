#include "kernels/cpu/attention_segment.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* The walk over the blocks of a segment: which page is read, how, and in which order. */

enum { TOKENS = KV_BLOCK_TOKENS };

static void segment_reset(struct attention_tile *tile)
{
    size_t n = (size_t)(tile->n_rows * tile->head_dim);
    memset(tile->out_half, 0, n * sizeof *tile->out_half);
    memset(tile->out_coded, 0, n * sizeof *tile->out_coded);
    for (int row = 0; row < tile->n_rows; row++) {
        tile->max[row] = -INFINITY;
        tile->sum[row] = tile->coded_sum[row] = 0;
    }
}

static const uint16_t *half_page(const struct attention_unit *unit, int block)
{
    const struct attention_args *args = unit->args;
    const struct kv_block_ref *ref = &unit->rows.span->blocks[block];
    return (const uint16_t *)(ref->f16 + (size_t)args->layer * ref->f16_layer_stride +
                              (size_t)unit->kv_head * kv_page_bytes(KV_F16, args->shape->head_dim));
}

/* Pages of one head lie far apart, each too short for the processor to see a stream in: while working on one,
   ask for the next, half of it (0: keys, 1: values) at a time. */
static void page_prefetch(const struct attention_unit *unit, int block, size_t which)
{
    const struct kv_block_ref *ref = &unit->rows.span->blocks[block];
    int n = unit->scratch->tile.head_dim, is_half = unit->rows.span->all_f16 || block == unit->own;
    const char *page = is_half ? (const char *)half_page(unit, block)
                               : ref->coded + attention_page_index(unit) * kv_page_bytes(ref->coded_kind, n);
    size_t bytes = kv_page_bytes(is_half ? KV_F16 : ref->coded_kind, n) / 2;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(page + which * bytes + i);
}

/* Tokens that every row sees. */
static void half_step(const struct attention_unit *unit, const uint16_t *keys, const uint16_t *values,
                      int n_tokens)
{
    const struct attention_kernels *kernels = unit->kernels;
    struct attention_tile *tile = &unit->scratch->tile;
    kernels->scores_half(tile, keys, n_tokens);
    kernels->softmax(tile, 0, tile->n_rows, ~(uint64_t)0 >> (TOKENS - n_tokens), NULL);
    kernels->values_half(tile, 0, tile->n_rows, values, n_tokens);
}

/* The rows' own block: a row sees the tokens up to itself, and nothing behind it is ever read, whether it is
   there yet or not. */
static void own_step(const struct attention_unit *unit)
{
    const struct attention_kernels *kernels = unit->kernels;
    struct attention_tile *tile = &unit->scratch->tile;
    const uint16_t *keys = half_page(unit, unit->own), *values = keys + TOKENS * tile->head_dim;
    int group = unit->group, first = unit->rows.position % TOKENS;
    kernels->scores_half(tile, keys, first + unit->rows.n_rows);
    for (int r = 0; r < unit->rows.n_rows; r++) {
        int n_tokens = first + r + 1;
        kernels->softmax(tile, r * group, group, ~(uint64_t)0 >> (TOKENS - n_tokens), NULL);
        kernels->values_half(tile, r * group, group, values, n_tokens);
    }
}

/* Sinks lie one by one; gathered, they are a small f16 block. */
static void sinks_step(const struct attention_unit *unit, int block)
{
    const struct kv_block_ref *ref = &unit->rows.span->blocks[block];
    struct attention_scratch *scratch = unit->scratch;
    int n = scratch->tile.head_dim, n_sinks = __builtin_popcountll(ref->sink_mask);
    for (int s = 0; s < n_sinks; s++) {
        const uint16_t *sink =
            (const uint16_t *)(ref->sinks[s] + attention_page_index(unit) * kv_page_bytes(KV_SINK, n));
        for (int i = 0; i < n; i++) scratch->sink_keys[i * TOKENS + s] = sink[i];
        memcpy(scratch->sink_values + s * n, sink + n, (size_t)n * sizeof *sink);
    }
    half_step(unit, scratch->sink_keys, scratch->sink_values, n_sinks);
}

static void mean_factors(const struct attention_unit *unit)
{
    struct attention_scratch *scratch = unit->scratch;
    int n = scratch->tile.head_dim, half = n / 2;
    const float *mean = unit->args->tables->key_mean + attention_page_index(unit) * n;
    for (int row = 0; row < scratch->tile.n_rows; row++) {
        const float *q = scratch->q_frame + row * n;
        float *factors = scratch->mean_factors + row * n;
        for (int i = 0; i < half; i++) {
            factors[i] = q[i] * mean[i] + q[i + half] * mean[i + half];
            factors[i + half] = q[i + half] * mean[i] - q[i] * mean[i + half];
        }
    }
}

static void enter_frame(struct attention_unit *unit, int frame)
{
    const struct kv_tables *tables = unit->args->tables;
    int n = unit->scratch->tile.head_dim;
    assert(frame < tables->n_frames);
    size_t angles = (size_t)frame * (n / 2), matrix = attention_page_index(unit) * (size_t)n * (size_t)n;
    unit->kernels->query_frame(&unit->scratch->tile, tables->frame_cos + angles, tables->frame_sin + angles,
                               tables->is_hadamard ? NULL : tables->query_transform + matrix);
    if (tables->key_mean) mean_factors(unit);
    unit->frame = frame;
}

static void coded_step(struct attention_unit *unit, int block)
{
    const struct attention_kernels *kernels = unit->kernels;
    const struct attention_span *span = unit->rows.span;
    const struct kv_tables *tables = unit->args->tables;
    const struct kv_block_ref *ref = &span->blocks[block];
    struct attention_tile *tile = &unit->scratch->tile;
    size_t n = (size_t)tile->head_dim;
    assert(ref->coded);
    const char *page =
        ref->coded + attention_page_index(unit) * kv_page_bytes(ref->coded_kind, tile->head_dim);

    /* Scale arrays of a KV_Q4 page: key4, value4, key2, value2. */
    enum code_reading reading = CODES_4;
    size_t code_bytes = n * TOKENS / 2, scale_array = 0;
    if (ref->coded_kind == KV_Q2) {
        reading = CODES_2;
        code_bytes = n * TOKENS / 4;
    } else if (ref->coded_kind == KV_Q4 && unit->own - block > span->recent_blocks) {
        reading = CODES_4_AS_2;
        scale_array = 2;
    }
    const uint8_t *codes = (const uint8_t *)page;
    const uint16_t *scales = (const uint16_t *)(page + 2 * code_bytes) + scale_array * TOKENS;

    int position = block * TOKENS, frame = position / tables->frame_tokens;
    if (frame != unit->frame) enter_frame(unit, frame);
    const float *mean_scores = NULL;
    if (tables->key_mean) {
        int offset = position % tables->frame_tokens;
        kernels->scores_mean(tile, tables->rope_cos + offset, tables->rope_sin + offset,
                             tables->frame_tokens);
        mean_scores = tile->mean_scores;
    }
    page_prefetch(unit, block + 1, 0);
    kernels->scores_coded(tile, codes, reading, scales, mean_scores);
    kernels->softmax(tile, 0, tile->n_rows, ~ref->sink_mask, scales + TOKENS);
    page_prefetch(unit, block + 1, 1);
    kernels->values_coded(tile, codes + code_bytes, reading);
}

void attention_segment_run(struct attention_unit *unit, int segment)
{
    const struct attention_span *span = unit->rows.span;
    int first = segment * ATTENTION_SEGMENT_BLOCKS, end = first + ATTENTION_SEGMENT_BLOCKS;
    int coded_end = end < unit->own ? end : unit->own;
    segment_reset(&unit->scratch->tile);
    unit->frame = -1;
    if (!span->all_f16)
        for (int block = first; block < coded_end; block++)
            if (span->blocks[block].sink_mask) sinks_step(unit, block);
    for (int block = first; block < coded_end; block++) {
        if (span->all_f16) {
            const uint16_t *keys = half_page(unit, block);
            page_prefetch(unit, block + 1, 0);
            page_prefetch(unit, block + 1, 1);
            half_step(unit, keys, keys + TOKENS * unit->scratch->tile.head_dim, TOKENS);
        } else {
            coded_step(unit, block);
        }
    }
    if (unit->own < end) own_step(unit);
}
