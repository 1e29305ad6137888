#include "kernels/cpu/attention.h"
#include "kernels/cpu/span_tiles.h"
#include "kernels/workers.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * The walk over blocks, and its division among workers. A unit is a tile of query rows and one KV head; an
 * item of work is a whole unit, its segments one after the other, or, when there are too few units to go
 * round (one long sequence in decode), one segment of a unit. Either way the segments are merged in order.
 */

enum { TOKENS = KV_BLOCK_TOKENS };

/* Partial results of segments: untouched, and so not resident, until a long sequence is decoded alone. */
enum { PARTIAL_FLOATS = 1 << 22 };

/* A worker's memory. */
struct worker_scratch {
    struct attention_tile tile;
    struct span_cursor cursor;
    float q[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    float q_frame[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    float out_half[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    float out_coded[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    float scores[ATTENTION_TILE_ROWS * TOKENS];
    float mean_scores[ATTENTION_TILE_ROWS * TOKENS];
    float mean_keys[KV_MAX_HEAD_DIM * TOKENS];
    float merged[ATTENTION_TILE_ROWS * (2 * KV_MAX_HEAD_DIM + 3)];
    float next[ATTENTION_TILE_ROWS * (2 * KV_MAX_HEAD_DIM + 3)];
    int8_t q8[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    uint8_t w8[ATTENTION_TILE_ROWS * TOKENS];
    uint16_t sink_keys[KV_MAX_HEAD_DIM * TOKENS];
    uint16_t sink_values[KV_MAX_HEAD_DIM * TOKENS];
};

struct attention {
    struct workers *workers;
    const struct attention_kernels *kernels;
    struct worker_scratch *scratch; /* one per worker */
    float *partials;                /* [PARTIAL_FLOATS] */
};

struct attention *attention_create(struct workers *workers, const struct attention_kernels *kernels)
{
    struct attention *attention = malloc(sizeof *attention);
    if (!attention) return NULL;
    size_t n_workers = (size_t)workers_count(workers);
    *attention = (struct attention){.workers = workers, .kernels = kernels};
    attention->scratch = malloc(n_workers * sizeof *attention->scratch);
    attention->partials = malloc(PARTIAL_FLOATS * sizeof(float));
    if (!attention->scratch || !attention->partials) {
        attention_free(attention);
        return NULL;
    }
    for (size_t i = 0; i < n_workers; i++) {
        struct worker_scratch *s = &attention->scratch[i];
        s->tile = (struct attention_tile){.q = s->q,
                                          .q_frame = s->q_frame,
                                          .q8 = s->q8,
                                          .scores = s->scores,
                                          .w8 = s->w8,
                                          .out_half = s->out_half,
                                          .out_coded = s->out_coded,
                                          .mean_scores = s->mean_scores};
    }
    return attention;
}

void attention_free(struct attention *attention)
{
    if (!attention) return;
    free(attention->scratch);
    free(attention->partials);
    free(attention);
}

struct attention_job {
    struct attention *attention;
    const struct attention_args *args;
    int group;       /* query heads per KV head */
    int tile_tokens; /* a power of two */
    int n_segments;  /* of the longest span; what the items of a unit are counted by when it is split */
    size_t partial_floats;
};

/* One unit, and where it stands in the caller's arrays. */
struct attention_unit {
    const struct attention_job *job;
    struct worker_scratch *scratch;
    struct span_tile rows;
    int kv_head;
    int own; /* index of the rows' own block */
    int frame;
};

static struct attention_unit unit_at(const struct attention_job *job, int index, int worker)
{
    struct worker_scratch *scratch = &job->attention->scratch[worker];
    int n_kv_heads = job->args->shape->n_kv_heads;
    struct attention_unit unit = {.job = job, .scratch = scratch, .kv_head = index % n_kv_heads};
    unit.rows = span_tile_at(&scratch->cursor, job->args->spans, job->tile_tokens, index / n_kv_heads);
    unit.own = unit.rows.position / TOKENS;
    scratch->tile.n_rows = unit.rows.n_rows * job->group;
    scratch->tile.head_dim = job->args->shape->head_dim;
    return unit;
}

/* Where the unit's token r has its query heads in [T][n_heads][head_dim]. */
static size_t unit_offset(const struct attention_unit *unit, int r)
{
    const struct attention_job *job = unit->job;
    size_t row = (size_t)(unit->rows.span->first_row + unit->rows.row + r);
    return (row * job->args->shape->n_heads + (size_t)(unit->kv_head * job->group)) *
           job->args->shape->head_dim;
}

static void unit_load_queries(const struct attention_unit *unit)
{
    const struct attention_job *job = unit->job;
    int n = job->group * job->args->shape->head_dim;
    float scale = job->args->scale * (float)M_LOG2E;
    for (int r = 0; r < unit->rows.n_rows; r++) {
        const float *q = job->args->q + unit_offset(unit, r);
        for (int i = 0; i < n; i++) unit->scratch->q[r * n + i] = q[i] * scale;
    }
}

static size_t page_index(const struct attention_unit *unit)
{
    return (size_t)unit->job->args->layer * unit->job->args->shape->n_kv_heads + (size_t)unit->kv_head;
}

/* ---- one segment ---- */

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
    const struct attention_args *args = unit->job->args;
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
                               : ref->coded + page_index(unit) * kv_page_bytes(ref->coded_kind, n);
    size_t bytes = kv_page_bytes(is_half ? KV_F16 : ref->coded_kind, n) / 2;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(page + which * bytes + i);
}

/* Tokens that every row sees. */
static void half_step(const struct attention_unit *unit, const uint16_t *keys, const uint16_t *values,
                      int n_tokens)
{
    const struct attention_kernels *kernels = unit->job->attention->kernels;
    struct attention_tile *tile = &unit->scratch->tile;
    kernels->scores_half(tile, keys, n_tokens);
    kernels->softmax(tile, 0, tile->n_rows, ~(uint64_t)0 >> (TOKENS - n_tokens), NULL);
    kernels->values_half(tile, 0, tile->n_rows, values, n_tokens);
}

/* The rows' own block: a row sees the tokens up to itself, and nothing behind it is ever read, whether it is
   there yet or not. */
static void own_step(const struct attention_unit *unit)
{
    const struct attention_kernels *kernels = unit->job->attention->kernels;
    struct attention_tile *tile = &unit->scratch->tile;
    const uint16_t *keys = half_page(unit, unit->own), *values = keys + TOKENS * tile->head_dim;
    int group = unit->job->group, first = unit->rows.position % TOKENS;
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
    struct worker_scratch *scratch = unit->scratch;
    int n = scratch->tile.head_dim, n_sinks = __builtin_popcountll(ref->sink_mask);
    for (int s = 0; s < n_sinks; s++) {
        const uint16_t *sink =
            (const uint16_t *)(ref->sinks[s] + page_index(unit) * kv_page_bytes(KV_SINK, n));
        for (int i = 0; i < n; i++) scratch->sink_keys[i * TOKENS + s] = sink[i];
        memcpy(scratch->sink_values + s * n, sink + n, (size_t)n * sizeof *sink);
    }
    half_step(unit, scratch->sink_keys, scratch->sink_values, n_sinks);
}

/* mean_scores = <q_frame, R_o mean> for the block's 64 offsets. */
static const float *mean_scores(const struct attention_unit *unit, int offset)
{
    const struct kv_tables *tables = unit->job->args->tables;
    struct worker_scratch *scratch = unit->scratch;
    int n = scratch->tile.head_dim, half = n / 2;
    const float *mean = tables->key_mean + page_index(unit) * n;
    for (int i = 0; i < half; i++) {
        for (int t = 0; t < TOKENS; t++) {
            float c = tables->rope_cos[(offset + t) * half + i],
                  s = tables->rope_sin[(offset + t) * half + i];
            scratch->mean_keys[i * TOKENS + t] = mean[i] * c - mean[i + half] * s;
            scratch->mean_keys[(i + half) * TOKENS + t] = mean[i + half] * c + mean[i] * s;
        }
    }
    for (int row = 0; row < scratch->tile.n_rows; row++) {
        float *scores = scratch->mean_scores + row * TOKENS;
        memset(scores, 0, TOKENS * sizeof *scores);
        for (int i = 0; i < n; i++)
            for (int t = 0; t < TOKENS; t++)
                scores[t] += scratch->q_frame[row * n + i] * scratch->mean_keys[i * TOKENS + t];
    }
    return scratch->mean_scores;
}

static void enter_frame(struct attention_unit *unit, int frame)
{
    const struct kv_tables *tables = unit->job->args->tables;
    int n = unit->scratch->tile.head_dim;
    assert(frame < tables->n_frames);
    size_t angles = (size_t)frame * (n / 2), matrix = page_index(unit) * (size_t)n * (size_t)n;
    unit->job->attention->kernels->query_frame(&unit->scratch->tile, tables->frame_cos + angles,
                                               tables->frame_sin + angles,
                                               tables->is_hadamard ? NULL : tables->query_transform + matrix);
    unit->frame = frame;
}

static void coded_step(struct attention_unit *unit, int block)
{
    const struct attention_kernels *kernels = unit->job->attention->kernels;
    const struct attention_span *span = unit->rows.span;
    const struct kv_tables *tables = unit->job->args->tables;
    const struct kv_block_ref *ref = &span->blocks[block];
    struct attention_tile *tile = &unit->scratch->tile;
    size_t n = (size_t)tile->head_dim;
    assert(ref->coded);
    const char *page = ref->coded + page_index(unit) * kv_page_bytes(ref->coded_kind, tile->head_dim);

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
    const float *mean = tables->key_mean ? mean_scores(unit, position % tables->frame_tokens) : NULL;
    page_prefetch(unit, block + 1, 0);
    kernels->scores_coded(tile, codes, reading, scales, mean);
    kernels->softmax(tile, 0, tile->n_rows, ~ref->sink_mask, scales + TOKENS);
    page_prefetch(unit, block + 1, 1);
    kernels->values_coded(tile, codes + code_bytes, reading);
}

static void segment_run(struct attention_unit *unit, int segment)
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

/* ---- partial results: [row]{max, sum, coded_sum, out_half[], out_coded[]} ---- */

static size_t state_floats(int head_dim)
{
    return 2 * (size_t)head_dim + 3;
}

static void state_save(const struct attention_tile *tile, float *state)
{
    size_t n = (size_t)tile->head_dim;
    for (int row = 0; row < tile->n_rows; row++, state += state_floats(tile->head_dim)) {
        state[0] = tile->max[row], state[1] = tile->sum[row], state[2] = tile->coded_sum[row];
        memcpy(state + 3, tile->out_half + row * n, n * sizeof *state);
        memcpy(state + 3 + n, tile->out_coded + row * n, n * sizeof *state);
    }
}

static void state_load(struct attention_tile *tile, const float *state)
{
    size_t n = (size_t)tile->head_dim;
    for (int row = 0; row < tile->n_rows; row++, state += state_floats(tile->head_dim)) {
        tile->max[row] = state[0], tile->sum[row] = state[1], tile->coded_sum[row] = state[2];
        memcpy(tile->out_half + row * n, state + 3, n * sizeof *state);
        memcpy(tile->out_coded + row * n, state + 3 + n, n * sizeof *state);
    }
}

/* state = state then next: both scaled to the larger max, a = state * f + next * g, each product rounded. */
static void state_merge(float *state, const float *next, int n_rows, int head_dim)
{
    size_t n = state_floats(head_dim);
    for (int row = 0; row < n_rows; row++, state += n, next += n) {
        float max = state[0] > next[0] ? state[0] : next[0];
        float f = attention_exp2(state[0] - max), g = attention_exp2(next[0] - max);
        state[0] = max;
        for (size_t i = 1; i < n; i++) state[i] = state[i] * f + next[i] * g;
    }
}

/* ---- the unit's result ---- */

static void unit_finish(const struct attention_unit *unit)
{
    const struct attention_job *job = unit->job;
    const struct kv_tables *tables = job->args->tables;
    struct attention_tile *tile = &unit->scratch->tile;
    int n = tile->head_dim, is_coded = !unit->rows.span->all_f16;
    for (int row = 0; row < tile->n_rows; row++) {
        float *out = job->args->out + unit_offset(unit, row / job->group) + (size_t)(row % job->group) * n;
        float *half = tile->out_half + row * n, back[KV_MAX_HEAD_DIM];
        if (is_coded) {
            job->attention->kernels->transform(tile->out_coded + row * n,
                                               tables->is_hadamard ? NULL : tables->value_transform, n, back);
            for (int i = 0; i < n; i++) half[i] += back[i];
            if (tables->value_mean) {
                const float *mean = tables->value_mean + page_index(unit) * n;
                for (int i = 0; i < n; i++) half[i] += mean[i] * tile->coded_sum[row];
            }
        }
        float per_sum = 1.0f / tile->sum[row];
        for (int i = 0; i < n; i++) out[i] = half[i] * per_sum;
    }
}

static int unit_segments(const struct attention_unit *unit)
{
    return unit->own / ATTENTION_SEGMENT_BLOCKS + 1;
}

/* ---- items ---- */

static void whole_unit(void *context, int item, int worker)
{
    struct attention_unit unit = unit_at(context, item, worker);
    struct attention_tile *tile = &unit.scratch->tile;
    float *merged = unit.scratch->merged, *next = unit.scratch->next;
    unit_load_queries(&unit);
    int n_segments = unit_segments(&unit);
    for (int segment = 0; segment < n_segments; segment++) {
        segment_run(&unit, segment);
        if (n_segments == 1) break;
        state_save(tile, segment ? next : merged);
        if (segment) state_merge(merged, next, tile->n_rows, tile->head_dim);
    }
    if (n_segments > 1) state_load(tile, merged);
    unit_finish(&unit);
}

static void unit_segment(void *context, int item, int worker)
{
    const struct attention_job *job = context;
    struct attention_unit unit = unit_at(job, item / job->n_segments, worker);
    int segment = item % job->n_segments;
    if (segment >= unit_segments(&unit)) return;
    unit_load_queries(&unit);
    segment_run(&unit, segment);
    state_save(&unit.scratch->tile, job->attention->partials + (size_t)item * job->partial_floats);
}

static void unit_merge(void *context, int item, int worker)
{
    const struct attention_job *job = context;
    struct attention_unit unit = unit_at(job, item, worker);
    struct attention_tile *tile = &unit.scratch->tile;
    float *first = job->attention->partials + (size_t)item * job->n_segments * job->partial_floats;
    for (int segment = 1; segment < unit_segments(&unit); segment++)
        state_merge(first, first + (size_t)segment * job->partial_floats, tile->n_rows, tile->head_dim);
    state_load(tile, first);
    unit_finish(&unit);
}

static void cursors_reset(struct attention *attention)
{
    for (int i = 0; i < workers_count(attention->workers); i++)
        attention->scratch[i].cursor = (struct span_cursor){0};
}

void attention_run(struct attention *attention, const struct attention_args *args)
{
    const struct kv_shape *shape = args->shape;
    struct attention_job job = {.attention = attention, .args = args, .tile_tokens = 16};
    job.group = shape->n_heads / shape->n_kv_heads;
    assert(job.group <= KV_MAX_GROUP && shape->head_dim <= KV_MAX_HEAD_DIM);
    while (job.tile_tokens * job.group > ATTENTION_TILE_ROWS) job.tile_tokens /= 2;

    int n_tiles = 0, max_tokens = 0;
    for (int i = 0; i < args->n_spans; i++) {
        const struct attention_span *span = &args->spans[i];
        n_tiles += span_tile_count(span, job.tile_tokens);
        int n_tokens = span->n_rows < job.tile_tokens ? span->n_rows : job.tile_tokens;
        if (n_tokens > max_tokens) max_tokens = n_tokens;
        int n_segments = (span->first_pos + span->n_rows - 1) / (TOKENS * ATTENTION_SEGMENT_BLOCKS) + 1;
        if (n_segments > job.n_segments) job.n_segments = n_segments;
    }
    int n_units = n_tiles * shape->n_kv_heads;
    if (n_units == 0) return;
    job.partial_floats = (size_t)(max_tokens * job.group) * state_floats(shape->head_dim);

    int n_workers = workers_count(attention->workers);
    int is_split = n_workers > 1 && n_units < 4 * n_workers && job.n_segments > 1 &&
                   (size_t)n_units * job.n_segments * job.partial_floats <= PARTIAL_FLOATS;
    cursors_reset(attention);
    if (!is_split) {
        workers_run(attention->workers, n_units, whole_unit, &job);
        return;
    }
    workers_run(attention->workers, n_units * job.n_segments, unit_segment, &job);
    cursors_reset(attention);
    workers_run(attention->workers, n_units, unit_merge, &job);
}
