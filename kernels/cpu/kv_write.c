#include "kernels/cpu/kv_write.h"
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
    _Alignas(64) uint8_t codes4[KV_MAX_HEAD_DIM * TOKENS];
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

/* ---- seal ---- */

struct seal_job {
    struct kv_writer *writer;
    const struct kv_seal_args *args;
};

/* x = R_{-angle} x for the pairs (i, i + n/2), the same angles for every token. */
static void columns_rotate_back(float *x, int n, const float *cosines, const float *sines)
{
    for (int i = 0; i < n / 2; i++) {
        float *a = x + i * TOKENS, *b = x + (i + n / 2) * TOKENS;
        float c = cosines[i], s = sines[i];
        for (int t = 0; t < TOKENS; t++) {
            float low = a[t] * c + b[t] * s, high = b[t] * c - a[t] * s;
            a[t] = low, b[t] = high;
        }
    }
}

/* x -= R_o mean, o = offset + t. */
static void columns_subtract_key_mean(float *x, int n, const float *mean, const struct kv_tables *tables,
                                      int offset)
{
    for (int i = 0; i < n / 2; i++) {
        float a = mean[i], b = mean[i + n / 2];
        for (int t = 0; t < TOKENS; t++) {
            float c = tables->rope_cos[i * tables->frame_tokens + offset + t];
            float s = tables->rope_sin[i * tables->frame_tokens + offset + t];
            x[i * TOKENS + t] -= a * c - b * s;
            x[(i + n / 2) * TOKENS + t] -= b * c + a * s;
        }
    }
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

/* x through the matrix, or the fast Hadamard when there is none; returns where the result stands. */
static const float *columns_transform(const struct kv_kernels *kernels, struct scratch *scratch,
                                      const float *matrix, int n)
{
    if (!matrix) {
        columns_hadamard(scratch->x, n);
        return scratch->x;
    }
    kernels->mix(matrix, scratch->x, n, scratch->mixed);
    return scratch->mixed;
}

/* One tile of codes, 8 rows x 4 columns, as 8 little-endian words: byte = column. Rows are tokens for keys,
   channels for values. */
static void key_tile(const uint8_t *codes, int row_tile, int quad, uint32_t tile[8])
{
    const uint8_t *c = codes + 4 * quad * TOKENS + 8 * row_tile;
    for (int i = 0; i < 8; i++)
        tile[i] = (uint32_t)c[i] | (uint32_t)c[TOKENS + i] << 8 | (uint32_t)c[2 * TOKENS + i] << 16 |
                  (uint32_t)c[3 * TOKENS + i] << 24;
}

static void value_tile(const uint8_t *codes, int row_tile, int quad, uint32_t tile[8])
{
    for (int i = 0; i < 8; i++) {
        const uint8_t *c = codes + (8 * row_tile + i) * TOKENS + 4 * quad;
        tile[i] = (uint32_t)c[0] | (uint32_t)c[1] << 8 | (uint32_t)c[2] << 16 | (uint32_t)c[3] << 24;
    }
}

/* codes [n][64], one a byte, to the packed order of kernels/kv_page.h. */
static uint8_t *codes_pack(const uint8_t *codes, int n, int bits, int is_values, uint8_t *out)
{
    int n_row_tiles = (is_values ? n : TOKENS) / 8, n_quads = (is_values ? TOKENS : n) / 4;
    int per_group = 8 / bits;
    for (int row_tile = 0; row_tile < n_row_tiles; row_tile++) {
        for (int quad = 0; quad < n_quads; quad += per_group) {
            uint32_t packed[8] = {0}, tile[8];
            for (int j = 0; j < per_group; j++) {
                if (is_values)
                    value_tile(codes, row_tile, quad + j, tile);
                else
                    key_tile(codes, row_tile, quad + j, tile);
                for (int i = 0; i < 8; i++) packed[i] |= tile[i] << (bits * j);
            }
            for (int i = 0; i < 8; i++)
                for (int byte = 0; byte < 4; byte++) *out++ = (uint8_t)(packed[i] >> (8 * byte));
        }
    }
    return out;
}

/* Quantize scratch->x (or its transform) into the key or value part of a page. */
static void part_seal(const struct kv_kernels *kernels, struct scratch *scratch, const float *matrix, int n,
                      enum kv_kind kind, int is_values, char *page)
{
    uint16_t scale4[TOKENS], scale2[TOKENS];
    const float *x = columns_transform(kernels, scratch, matrix, n);
    kernels->quantize(x, n, scratch->codes4, scale4, scale2);
    int bits = kind == KV_Q2 ? 2 : 4;
    if (bits == 2)
        for (int i = 0; i < n * TOKENS; i++) scratch->codes4[i] = kv_code_nested(scratch->codes4[i]);
    size_t code_bytes = (size_t)(n * TOKENS * bits / 8);
    codes_pack(scratch->codes4, n, bits, is_values, (uint8_t *)page + (is_values ? code_bytes : 0));
    uint16_t *scales = (uint16_t *)(page + 2 * code_bytes);
    memcpy(scales + is_values * TOKENS, bits == 2 ? scale2 : scale4, sizeof scale4);
    if (kind == KV_Q4) memcpy(scales + (2 + is_values) * TOKENS, scale2, sizeof scale2);
}

static void sinks_copy(const struct kv_block_ref *block, const uint16_t *page, size_t slot_offset, int n)
{
    int slot = 0;
    for (uint64_t mask = block->sink_mask; mask; mask &= mask - 1) {
        int t = __builtin_ctzll(mask);
        uint16_t *sink = (uint16_t *)(block->sinks[slot++] + slot_offset);
        for (int i = 0; i < n; i++) sink[i] = page[i * TOKENS + t];
        memcpy(sink + n, page + (TOKENS + t) * n, (size_t)n * sizeof *sink);
    }
}

static void seal_page(void *context, int item, int worker)
{
    const struct seal_job *job = context;
    const struct kv_seal_args *args = job->args;
    const struct kv_tables *tables = args->tables;
    const struct kv_kernels *kernels = job->writer->kernels;
    struct scratch *scratch = &job->writer->scratch[worker];
    int n_heads = args->shape->n_kv_heads, n = args->shape->head_dim;
    const struct kv_block_ref *block = args->blocks[item / n_heads];
    size_t head = (size_t)(item % n_heads), page_index = (size_t)args->layer * (size_t)n_heads + head;
    int position = args->block_index[item / n_heads] * TOKENS;
    int frame = position / tables->frame_tokens;
    assert(frame < tables->n_frames);
    size_t matrix_at = page_index * (size_t)n * (size_t)n;

    const uint16_t *half = (const uint16_t *)(block->f16 + (size_t)args->layer * block->f16_layer_stride +
                                              head * kv_page_bytes(KV_F16, n));
    char *page = block->coded + page_index * kv_page_bytes(block->coded_kind, n);

    kernels->half_to_float(half, n * TOKENS, scratch->x);
    columns_rotate_back(scratch->x, n, tables->frame_cos + (size_t)frame * (n / 2),
                        tables->frame_sin + (size_t)frame * (n / 2));
    if (tables->key_mean)
        columns_subtract_key_mean(scratch->x, n, tables->key_mean + page_index * n, tables,
                                  position % tables->frame_tokens);
    part_seal(kernels, scratch, tables->is_hadamard ? NULL : tables->key_transform + matrix_at, n,
              block->coded_kind, 0, page);

    const uint16_t *values = half + n * TOKENS;
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < n; i++) scratch->half[i * TOKENS + t] = values[t * n + i];
    kernels->half_to_float(scratch->half, n * TOKENS, scratch->x);
    if (tables->value_mean)
        for (int i = 0; i < n; i++)
            for (int t = 0; t < TOKENS; t++)
                scratch->x[i * TOKENS + t] -= tables->value_mean[page_index * n + i];
    part_seal(kernels, scratch, tables->is_hadamard ? NULL : tables->value_transform, n, block->coded_kind, 1,
              page);

    sinks_copy(block, half, page_index * kv_page_bytes(KV_SINK, n), n);
}

void kv_writer_seal(struct kv_writer *writer, const struct kv_seal_args *args)
{
    struct seal_job job = {.writer = writer, .args = args};
    if (args->n_blocks > 0)
        workers_run(writer->workers, args->n_blocks * args->shape->n_kv_heads, seal_page, &job);
}

/* ---- demote ---- */

void kv_writer_demote(struct kv_writer *writer, const struct kv_shape *shape, const char *q4_block,
                      char *q2_block)
{
    int n = shape->head_dim, n_pages = shape->n_layers * shape->n_kv_heads;
    size_t q4_bytes = kv_page_bytes(KV_Q4, n), q2_bytes = kv_page_bytes(KV_Q2, n);
    size_t q2_codes = (size_t)(2 * n * TOKENS / 4), scales = 2 * TOKENS * sizeof(uint16_t);
    for (int page = 0; page < n_pages; page++) {
        const char *q4 = q4_block + (size_t)page * q4_bytes;
        char *q2 = q2_block + (size_t)page * q2_bytes;
        writer->kernels->nest((const uint8_t *)q4, q2_codes, (uint8_t *)q2);
        memcpy(q2 + q2_codes, q4 + 2 * q2_codes + scales, scales);
    }
}
