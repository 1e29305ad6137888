#include "kernels/cpu/kv_write.h"
#include "kernels/cpu/kv_coder.h"
#include "kernels/cpu/span_tiles.h"
#include "kernels/workers.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = KV_BLOCK_TOKENS };

struct scratch {
    _Alignas(64) float x[KV_MAX_HEAD_DIM * TOKENS];
    _Alignas(64) float mixed[KV_MAX_HEAD_DIM * TOKENS];
    _Alignas(64) float y[KV_MAX_HEAD_DIM * TOKENS]; /* of the coder */
    _Alignas(64) uint16_t half[KV_MAX_HEAD_DIM * TOKENS];
    struct span_cursor cursor;
};

struct kv_writer {
    struct workers *workers;
    const struct kv_kernels *kernels;
    struct scratch *scratch; /* one per worker */
};

struct kv_writer *kv_writer_create(struct workers *workers, const struct kv_kernels *kernels)
{
    struct kv_writer *writer = malloc(sizeof *writer);
    if (!writer) return NULL;
    *writer = (struct kv_writer){.workers = workers, .kernels = kernels};
    writer->scratch = aligned_alloc(64, (size_t)workers_count(workers) * sizeof *writer->scratch);
    if (!writer->scratch) {
        free(writer);
        return NULL;
    }
    return writer;
}

void kv_writer_free(struct kv_writer *writer)
{
    if (!writer) return;
    free(writer->scratch);
    free(writer);
}

/* ---- store ---- */

struct store_job {
    struct kv_writer *writer;
    const struct kv_store_args *args;
};

static void store_tile(void *context, int item, int worker)
{
    const struct store_job *job = context;
    const struct kv_store_args *args = job->args;
    const struct kv_kernels *kernels = job->writer->kernels;
    struct scratch *scratch = &job->writer->scratch[worker];
    int n_heads = args->shape->n_kv_heads, n = args->shape->head_dim;
    struct span_tile tile = span_tile_at(&scratch->cursor, args->spans, TOKENS, item);
    const struct kv_block_ref *block = &tile.span->blocks[tile.position / TOKENS];
    char *layer = block->f16 + (size_t)args->layer * block->f16_layer_stride;
    for (int r = 0; r < tile.n_rows; r++) {
        int slot = tile.position % TOKENS + r;
        size_t row = (size_t)(tile.span->first_row + tile.row + r) * (size_t)n_heads;
        for (int head = 0; head < n_heads; head++) {
            uint16_t *page = (uint16_t *)(layer + (size_t)head * kv_page_bytes(KV_F16, n));
            kernels->float_to_half(args->k + (row + head) * n, n, scratch->half);
            for (int i = 0; i < n; i++) page[i * TOKENS + slot] = scratch->half[i];
            kernels->float_to_half(args->v + (row + head) * n, n, page + (TOKENS + slot) * n);
        }
    }
}

void kv_writer_store(struct kv_writer *writer, const struct kv_store_args *args)
{
    struct store_job job = {.writer = writer, .args = args};
    int n_tiles = 0, n_rows = 0;
    for (int i = 0; i < args->n_spans; i++) {
        n_tiles += span_tile_count(&args->spans[i], TOKENS);
        n_rows += args->spans[i].n_rows;
    }
    for (int i = 0; i < workers_count(writer->workers); i++)
        writer->scratch[i].cursor = (struct span_cursor){0};
    /* A decode step writes a few kilobytes: waking the workers would cost more. */
    if (n_tiles == 1 || n_rows * args->shape->n_kv_heads * args->shape->head_dim < 16384)
        for (int i = 0; i < n_tiles; i++) store_tile(&job, i, 0);
    else
        workers_run(writer->workers, n_tiles, store_tile, &job);
}

/* ---- coordinates ---- */

/* x = R_{sign * angle} x for the pairs (i, i + n/2), the same angles for every token. */
static void columns_rotate(float *x, int n, const float *cosines, const float *sines, float sign)
{
    for (int i = 0; i < n / 2; i++) {
        float *a = x + i * TOKENS, *b = x + (i + n / 2) * TOKENS;
        float c = cosines[i], s = sign * sines[i];
        for (int t = 0; t < TOKENS; t++) {
            float low = a[t] * c - b[t] * s, high = b[t] * c + a[t] * s;
            a[t] = low, b[t] = high;
        }
    }
}

/* x += sign * R_o mean, o = offset + t. */
static void columns_add_key_mean(float *x, int n, const float *mean, const struct kv_tables *tables,
                                 int offset, float sign)
{
    for (int i = 0; i < n / 2; i++) {
        float a = sign * mean[i], b = sign * mean[i + n / 2];
        for (int t = 0; t < TOKENS; t++) {
            float c = tables->rope_cos[i * tables->frame_tokens + offset + t];
            float s = tables->rope_sin[i * tables->frame_tokens + offset + t];
            x[i * TOKENS + t] += a * c - b * s;
            x[(i + n / 2) * TOKENS + t] += b * c + a * s;
        }
    }
}

static void columns_add_value_mean(float *x, int n, const float *mean, float sign)
{
    for (int i = 0; i < n; i++)
        for (int t = 0; t < TOKENS; t++) x[i * TOKENS + t] += sign * mean[i];
}

static void columns_hadamard(float *x, int n)
{
    for (int stride = 1; stride < n; stride *= 2) {
        for (int i = 0; i < n; i++) {
            if (i & stride) continue;
            float *a = x + i * TOKENS, *b = x + (i + stride) * TOKENS;
            for (int t = 0; t < TOKENS; t++) {
                float sum = a[t] + b[t], difference = a[t] - b[t];
                a[t] = sum, b[t] = difference;
            }
        }
    }
    float norm = 1.0f / sqrtf((float)n);
    for (int i = 0; i < n * TOKENS; i++) x[i] *= norm;
}

/* scratch->x through the matrix, or the fast Hadamard when there is none; returns where the result stands. */
static float *columns_transform(const struct kv_kernels *kernels, struct scratch *scratch,
                                const float *matrix, int n)
{
    if (!matrix) {
        columns_hadamard(scratch->x, n);
        return scratch->x;
    }
    kernels->mix(matrix, scratch->x, n, scratch->mixed);
    return scratch->mixed;
}

/* scratch->x through the matrix transposed, products and sums in increasing i, likewise. */
static float *columns_transform_transposed(struct scratch *scratch, const float *matrix, int n)
{
    if (!matrix) {
        columns_hadamard(scratch->x, n);
        return scratch->x;
    }
    memset(scratch->mixed, 0, (size_t)(n * TOKENS) * sizeof *scratch->mixed);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            for (int t = 0; t < TOKENS; t++)
                scratch->mixed[j * TOKENS + t] += matrix[i * n + j] * scratch->x[i * TOKENS + t];
    return scratch->mixed;
}

/* ---- seal and unseal ---- */

struct seal_job {
    struct kv_writer *writer;
    const struct kv_seal_args *args;
    int n_parts; /* unseal */
};

/* One page of one block, and what of the tables belongs to it. */
struct seal_page {
    const struct kv_codec *codec;
    const struct kv_block_ref *block;
    size_t index;
    int n, offset;     /* head_dim; position of the first token in its frame */
    uint16_t *f16;     /* keys [n][64], values [64][n] */
    size_t sink_bytes; /* where in a sink the page's token stands */
    const float *frame_cos, *frame_sin;
    const float *key_transform, *query_transform, *value_transform; /* NULL: Hadamard */
    const float *key_mean, *value_mean;                             /* NULL: 0 */
};

static struct seal_page seal_page_at(const struct kv_seal_args *args, int item)
{
    const struct kv_codec *codec = args->codec;
    const struct kv_tables *tables = codec->tables;
    int n_heads = codec->shape.n_kv_heads, n = codec->shape.head_dim;
    const struct kv_block_ref *block = args->blocks[item / n_heads];
    size_t head = (size_t)(item % n_heads), index = (size_t)args->layer * (size_t)n_heads + head;
    int position = args->block_index[item / n_heads] * TOKENS, frame = position / tables->frame_tokens;
    assert(frame < tables->n_frames);
    size_t vector = index * (size_t)n, matrix = vector * (size_t)n, angles = (size_t)frame * (size_t)(n / 2);
    struct seal_page page = {.codec = codec,
                             .block = block,
                             .index = index,
                             .n = n,
                             .offset = position % tables->frame_tokens,
                             .f16 = (uint16_t *)(block->f16 + (size_t)args->layer * block->f16_layer_stride +
                                                 head * kv_page_bytes(KV_F16, n)),
                             .sink_bytes = index * kv_page_bytes(KV_SINK, n),
                             .frame_cos = tables->frame_cos + angles,
                             .frame_sin = tables->frame_sin + angles,
                             .key_mean = tables->key_mean ? tables->key_mean + vector : NULL,
                             .value_mean = tables->value_mean ? tables->value_mean + vector : NULL};
    if (!tables->is_hadamard) {
        page.key_transform = tables->key_transform + matrix;
        page.query_transform = tables->query_transform + matrix;
        page.value_transform = tables->value_transform;
    }
    return page;
}

static void keys_seal(const struct seal_page *page, const struct kv_kernels *kernels, struct scratch *scratch)
{
    kernels->half_to_float(page->f16, page->n * TOKENS, scratch->x);
    columns_rotate(scratch->x, page->n, page->frame_cos, page->frame_sin, -1);
    if (page->key_mean)
        columns_add_key_mean(scratch->x, page->n, page->key_mean, page->codec->tables, page->offset, -1);
    const float *z = columns_transform(kernels, scratch, page->key_transform, page->n);
    struct kv_coder coder = kv_coder_at(page->codec, page->block, page->index, 0);
    kv_coder_encode(&coder, kernels, z, scratch->y);
}

static void values_seal(const struct seal_page *page, const struct kv_kernels *kernels,
                        struct scratch *scratch)
{
    int n = page->n;
    const uint16_t *values = page->f16 + n * TOKENS;
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < n; i++) scratch->half[i * TOKENS + t] = values[t * n + i];
    kernels->half_to_float(scratch->half, n * TOKENS, scratch->x);
    if (page->value_mean) columns_add_value_mean(scratch->x, n, page->value_mean, -1);
    const float *z = columns_transform(kernels, scratch, page->value_transform, n);
    struct kv_coder coder = kv_coder_at(page->codec, page->block, page->index, 1);
    kv_coder_encode(&coder, kernels, z, scratch->y);
}

static void sinks_save(const struct seal_page *page)
{
    int slot = 0, n = page->n;
    for (uint64_t mask = page->block->sink_mask; mask; mask &= mask - 1) {
        int t = __builtin_ctzll(mask);
        uint16_t *sink = (uint16_t *)(page->block->sinks[slot++] + page->sink_bytes);
        for (int i = 0; i < n; i++) sink[i] = page->f16[i * TOKENS + t];
        memcpy(sink + n, page->f16 + (TOKENS + t) * n, (size_t)n * sizeof *sink);
    }
}

static void page_seal(void *context, int item, int worker)
{
    const struct seal_job *job = context;
    struct seal_page page = seal_page_at(job->args, item);
    struct scratch *scratch = &job->writer->scratch[worker];
    keys_seal(&page, job->writer->kernels, scratch);
    values_seal(&page, job->writer->kernels, scratch);
    sinks_save(&page);
}

void kv_writer_seal(struct kv_writer *writer, const struct kv_seal_args *args)
{
    struct seal_job job = {.writer = writer, .args = args};
    if (args->n_blocks > 0)
        workers_run(writer->workers, args->n_blocks * args->codec->shape.n_kv_heads, page_seal, &job);
}

static void keys_unseal(const struct seal_page *page, const struct kv_kernels *kernels,
                        struct scratch *scratch, int n_parts)
{
    struct kv_coder coder = kv_coder_at(page->codec, page->block, page->index, 0);
    kv_coder_decode(&coder, n_parts, scratch->x);
    float *x = columns_transform(kernels, scratch, page->query_transform, page->n);
    if (page->key_mean)
        columns_add_key_mean(x, page->n, page->key_mean, page->codec->tables, page->offset, 1);
    columns_rotate(x, page->n, page->frame_cos, page->frame_sin, 1);
    kernels->float_to_half(x, page->n * TOKENS, page->f16);
}

static void values_unseal(const struct seal_page *page, const struct kv_kernels *kernels,
                          struct scratch *scratch, int n_parts)
{
    int n = page->n;
    struct kv_coder coder = kv_coder_at(page->codec, page->block, page->index, 1);
    kv_coder_decode(&coder, n_parts, scratch->x);
    float *x = columns_transform_transposed(scratch, page->value_transform, n);
    if (page->value_mean) columns_add_value_mean(x, n, page->value_mean, 1);
    kernels->float_to_half(x, n * TOKENS, scratch->half);
    uint16_t *values = page->f16 + n * TOKENS;
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < n; i++) values[t * n + i] = scratch->half[i * TOKENS + t];
}

static void sinks_restore(const struct seal_page *page)
{
    int slot = 0, n = page->n;
    for (uint64_t mask = page->block->sink_mask; mask; mask &= mask - 1) {
        int t = __builtin_ctzll(mask);
        const uint16_t *sink = (const uint16_t *)(page->block->sinks[slot++] + page->sink_bytes);
        for (int i = 0; i < n; i++) page->f16[i * TOKENS + t] = sink[i];
        memcpy(page->f16 + (TOKENS + t) * n, sink + n, (size_t)n * sizeof *sink);
    }
}

static void page_unseal(void *context, int item, int worker)
{
    const struct seal_job *job = context;
    struct seal_page page = seal_page_at(job->args, item);
    struct scratch *scratch = &job->writer->scratch[worker];
    keys_unseal(&page, job->writer->kernels, scratch, job->n_parts);
    values_unseal(&page, job->writer->kernels, scratch, job->n_parts);
    sinks_restore(&page);
}

void kv_writer_unseal(struct kv_writer *writer, const struct kv_seal_args *args, int n_parts)
{
    struct seal_job job = {.writer = writer, .args = args, .n_parts = n_parts};
    if (args->n_blocks > 0)
        workers_run(writer->workers, args->n_blocks * args->codec->shape.n_kv_heads, page_unseal, &job);
}
