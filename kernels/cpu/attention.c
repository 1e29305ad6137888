#include "kernels/cpu/attention_segment.h"
#include "kernels/workers.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * Attention divided among workers. A unit is a tile of query rows and one KV head; an
 * item of work is a whole unit, its segments one after the other, or, when there are too few units to go
 * round (one long sequence in decode), one segment of a unit. Either way the segments are merged in order.
 */

enum { TOKENS = KV_BLOCK_TOKENS };

/* Partial results of segments: untouched, and so not resident, until a long sequence is decoded alone. */
enum { PARTIAL_FLOATS = 1 << 22 };

struct attention {
    struct workers *workers;
    const struct attention_kernels *kernels;
    struct attention_scratch *scratch; /* one per worker */
    float *partials;                   /* [PARTIAL_FLOATS] */
};

struct attention *attention_create(struct workers *workers, const struct attention_kernels *kernels)
{
    struct attention *attention = malloc(sizeof *attention);
    if (!attention) return NULL;
    size_t n_workers = (size_t)workers_count(workers);
    *attention = (struct attention){.workers = workers, .kernels = kernels};
    attention->scratch = aligned_alloc(64, n_workers * sizeof *attention->scratch);
    attention->partials = aligned_alloc(64, PARTIAL_FLOATS * sizeof(float));
    if (!attention->scratch || !attention->partials) {
        attention_free(attention);
        return NULL;
    }
    for (size_t i = 0; i < n_workers; i++) {
        struct attention_scratch *s = &attention->scratch[i];
        s->tile = (struct attention_tile){.q = s->q,
                                          .q_frame = s->q_frame,
                                          .mixed = s->mixed,
                                          .q8 = {s->q8[0], s->q8[1], s->q8[2]},
                                          .scores = s->scores,
                                          .w8 = s->w8,
                                          .out_half = s->out_half,
                                          .out_coded = s->out_coded,
                                          .mean_factors = s->mean_factors,
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

static struct attention_unit unit_at(const struct attention_job *job, int index, int worker)
{
    struct attention_scratch *scratch = &job->attention->scratch[worker];
    int n_kv_heads = job->args->shape->n_kv_heads;
    struct attention_unit unit = {.kernels = job->attention->kernels,
                                  .args = job->args,
                                  .scratch = scratch,
                                  .group = job->group,
                                  .kv_head = index % n_kv_heads};
    unit.rows = span_tile_at(&scratch->cursor, job->args->spans, job->tile_tokens, index / n_kv_heads);
    unit.own = unit.rows.position / TOKENS;
    scratch->tile.n_rows = unit.rows.n_rows * job->group;
    scratch->tile.head_dim = job->args->shape->head_dim;
    return unit;
}

/* Where the unit's token r has its query heads in [T][n_heads][head_dim]. */
static size_t unit_offset(const struct attention_unit *unit, int r)
{
    const struct kv_shape *shape = unit->args->shape;
    size_t row = (size_t)(unit->rows.span->first_row + unit->rows.row + r);
    return (row * shape->n_heads + (size_t)(unit->kv_head * unit->group)) * shape->head_dim;
}

static void unit_load_queries(const struct attention_unit *unit)
{
    int n = unit->group * unit->args->shape->head_dim;
    float scale = unit->args->scale * (float)M_LOG2E;
    for (int r = 0; r < unit->rows.n_rows; r++) {
        const float *q = unit->args->q + unit_offset(unit, r);
        for (int i = 0; i < n; i++) unit->scratch->q[r * n + i] = q[i] * scale;
    }
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

/* The state of both, in this order: scaled to the larger max and added, each product and sum rounded. */
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
    const struct kv_codec *codec = unit->rows.span->codec;
    const struct kv_tables *tables = codec ? codec->tables : NULL;
    struct attention_tile *tile = &unit->scratch->tile;
    int n = tile->head_dim;
    if (tables)
        unit->kernels->transform(tile->out_coded, tables->is_hadamard ? NULL : tables->value_transform, n,
                                 tile->n_rows, tile->mixed);
    for (int row = 0; row < tile->n_rows; row++) {
        float *out = unit->args->out + unit_offset(unit, row / unit->group) + (size_t)(row % unit->group) * n;
        float *half = tile->out_half + row * n;
        if (tables)
            for (int i = 0; i < n; i++) half[i] += tile->mixed[row * n + i];
        if (tables && tables->value_mean) {
            const float *mean = tables->value_mean + attention_page_index(unit) * n;
            for (int i = 0; i < n; i++) half[i] += mean[i] * tile->coded_sum[row];
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
        attention_segment_run(&unit, segment);
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
    attention_segment_run(&unit, segment);
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
