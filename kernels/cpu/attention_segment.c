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

static int is_coded(const struct attention_unit *unit, int block)
{
    return unit->rows.span->codec && block != unit->own;
}

static void memory_prefetch(const char *from, const char *end)
{
    for (; from < end; from += 64) __builtin_prefetch(from);
}

/* Pages of one head lie far apart, each too short for the processor to see a stream in: while working on one,
   ask for the next, its keys or its values (and scales) at a time. Being younger, it has at least the parts
   that this one is read with. */
static void page_prefetch(const struct attention_unit *unit, int block, int is_values)
{
    const struct kv_block_ref *ref = &unit->rows.span->blocks[block];
    const struct attention_reading *reading = &unit->scratch->reading;
    if (!is_coded(unit, block)) {
        const char *page = (const char *)half_page(unit, block);
        size_t bytes = kv_page_bytes(KV_F16, unit->scratch->tile.head_dim) / 2;
        memory_prefetch(page + is_values * bytes, page + (1 + is_values) * bytes);
        return;
    }
    for (int p = 0; p < reading->n_parts; p++) {
        const struct attention_part *part = &reading->parts[p];
        size_t end = p == reading->n_parts - 1 ? part->end : part->scales_at;
        if (is_values)
            memory_prefetch(ref->parts[p] + part->values_at, ref->parts[p] + end);
        else
            memory_prefetch(ref->parts[p] + part->keys_at, ref->parts[p] + part->values_at);
    }
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

static struct attention_groups groups_fill(const uint8_t *bits, const float *unit, const float *gain,
                                           int n_groups)
{
    struct attention_groups groups = {0};
    for (int g = 0; g < n_groups; g++) {
        groups.n_fours += bits[g] == 4;
        groups.n_twos += bits[g] == 2;
        groups.n_ones += bits[g] == 1;
        groups.factor[g] = unit[g] * gain[g];
    }
    return groups;
}

static void reading_fill(struct attention_unit *unit, int n_parts)
{
    const struct kv_codec *codec = unit->rows.span->codec;
    struct attention_reading *reading = &unit->scratch->reading;
    size_t page = attention_page_index(unit), cells = page * (size_t)codec->n_groups;
    const struct kv_part *last = &codec->parts[n_parts - 1];
    assert(n_parts <= codec->n_parts);
    for (int p = 0; p < n_parts; p++) {
        const struct kv_part *part = &codec->parts[p];
        const struct kv_code *code = &part->codes[page];
        size_t keys_at = part->offset[page];
        size_t values_at = keys_at + kv_key_code_bytes(code->key_bits, codec->n_groups);
        reading->parts[p] = (struct attention_part){
            .keys_at = keys_at,
            .values_at = values_at,
            .scales_at = values_at + kv_value_code_bytes(code->value_bits, codec->n_groups),
            .end = part->offset[page + 1],
            .keys =
                groups_fill(code->key_bits, part->key_unit + cells, last->key_gain + cells, codec->n_groups),
            .values = groups_fill(code->value_bits, part->value_unit + cells, last->value_gain + cells,
                                  codec->n_groups)};
    }
    reading->n_columns = 0;
    for (int p = 0; p < codec->n_parts; p++)
        for (int g = 0; g < codec->n_groups; g++)
            if (codec->parts[p].codes[page].key_bits[g] && reading->n_columns <= g * KV_CODE_GROUP)
                reading->n_columns = (g + 1) * KV_CODE_GROUP;
    reading->n_parts = unit->n_parts = n_parts;
}

static void mean_factors(const struct attention_unit *unit)
{
    const struct kv_tables *tables = unit->rows.span->codec->tables;
    const float *cosines = tables->mean_basis.centre_cos, *sines = tables->mean_basis.centre_sin;
    struct attention_scratch *scratch = unit->scratch;
    int n = scratch->tile.head_dim, half = n / 2;
    const float *mean = tables->key_mean + attention_page_index(unit) * n;
    float turned[KV_MAX_HEAD_DIM];
    for (int i = 0; i < half; i++) {
        turned[i] = mean[i] * cosines[i] - mean[i + half] * sines[i];
        turned[i + half] = mean[i + half] * cosines[i] + mean[i] * sines[i];
    }
    for (int row = 0; row < scratch->tile.n_rows; row++) {
        const float *q = scratch->q_frame + row * n;
        float *factors = scratch->mean_factors + row * n;
        for (int i = 0; i < half; i++) {
            factors[i] = q[i] * turned[i] + q[i + half] * turned[i + half];
            factors[i + half] = q[i + half] * turned[i] - q[i] * turned[i + half];
        }
    }
}

/* The queries as a block of this frame, read with so many parts, needs them. */
static void queries_prepare(struct attention_unit *unit, int frame, int n_parts)
{
    const struct kv_tables *tables = unit->rows.span->codec->tables;
    struct attention_scratch *scratch = unit->scratch;
    int n = scratch->tile.head_dim;
    if (unit->n_parts != n_parts) reading_fill(unit, n_parts);
    if (unit->frame != frame) {
        assert(frame < tables->n_frames && tables->frame_tokens <= KV_FRAME_TOKENS);
        size_t angles = (size_t)frame * (n / 2);
        size_t matrix = attention_page_index(unit) * (size_t)n * (size_t)n;
        unit->kernels->query_frame(&scratch->tile, tables->frame_cos + angles, tables->frame_sin + angles,
                                   tables->is_hadamard ? NULL : tables->query_transform + matrix,
                                   scratch->reading.n_columns);
        if (tables->key_mean) {
            mean_factors(unit);
            unit->kernels->scores_mean(&scratch->tile, &tables->mean_basis, tables->frame_tokens);
        }
    }
    unit->kernels->query_quantize(&scratch->tile, &scratch->reading);
    unit->frame = frame;
}

static void coded_step(struct attention_unit *unit, int block)
{
    const struct attention_kernels *kernels = unit->kernels;
    const struct attention_span *span = unit->rows.span;
    const struct kv_codec *codec = span->codec;
    const struct kv_tables *tables = codec->tables;
    const struct kv_block_ref *ref = &span->blocks[block];
    const struct attention_reading *reading = &unit->scratch->reading;
    struct attention_tile *tile = &unit->scratch->tile;

    int position = block * TOKENS, frame = position / tables->frame_tokens;
    int n_parts = unit->own - block > span->recent_blocks ? codec->n_old_parts : codec->n_parts;
    if (frame != unit->frame || n_parts != unit->n_parts) queries_prepare(unit, frame, n_parts);
    for (int p = 0; p < n_parts; p++) assert(ref->parts[p]);
    const float *mean_scores = tables->key_mean ? tile->mean_scores + position % tables->frame_tokens : NULL;
    page_prefetch(unit, block + 1, 0);
    kernels->scores_coded(tile, reading, ref->parts, mean_scores);
    const struct attention_part *last = &reading->parts[n_parts - 1];
    const uint16_t *scales = (const uint16_t *)(ref->parts[n_parts - 1] + last->scales_at);
    kernels->softmax(tile, 0, tile->n_rows, ~ref->sink_mask, scales + TOKENS);
    page_prefetch(unit, block + 1, 1);
    kernels->values_coded(tile, reading, ref->parts);
}

void attention_segment_run(struct attention_unit *unit, int segment)
{
    const struct attention_span *span = unit->rows.span;
    int first = segment * ATTENTION_SEGMENT_BLOCKS, end = first + ATTENTION_SEGMENT_BLOCKS;
    int coded_end = end < unit->own ? end : unit->own;
    segment_reset(&unit->scratch->tile);
    unit->frame = -1;
    if (span->codec)
        for (int block = first; block < coded_end; block++)
            if (span->blocks[block].sink_mask) sinks_step(unit, block);
    for (int block = first; block < coded_end; block++) {
        if (span->codec) {
            coded_step(unit, block);
        } else {
            const uint16_t *keys = half_page(unit, block);
            page_prefetch(unit, block + 1, 0);
            page_prefetch(unit, block + 1, 1);
            half_step(unit, keys, keys + TOKENS * unit->scratch->tile.head_dim, TOKENS);
        }
    }
    if (unit->own < end) own_step(unit);
}
