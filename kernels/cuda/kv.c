#include "kernels/cuda/cuda.h"
#include "kernels/cuda/rotated.h"
#include "kernels/cuda/rows.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * The cache's operations: block tables brought to the card once a step, and the kernels called.
 */

/* ---- tables ---- */

static size_t rounded(size_t bytes)
{
    return (bytes + 15) / 16 * 16;
}

bool cuda_table_need(struct cuda_state *cuda, struct cuda_table *table, size_t bytes)
{
    if (!cuda_buffer_need(cuda, &table->device, bytes)) return false;
    if (bytes <= table->host_bytes) return true;
    free(table->host);
    table->host = malloc(table->device.bytes);
    table->host_bytes = table->host ? table->device.bytes : 0;
    if (table->host) return true;
    return cuda_check(cuda, cudaErrorMemoryAllocation, "block tables");
}

/* Blocks and the addresses of their sinks, at most n_blocks of them, one after the other. */
struct block_writer {
    struct cuda_block *blocks;
    char **sinks;
    const char *host, *device; /* where the table stands on either side */
    size_t n_blocks, n_sinks;
};

static void block_write(struct block_writer *writer, const struct kv_block_ref *ref)
{
    int n_sinks = __builtin_popcountll(ref->sink_mask);
    struct cuda_block *block = &writer->blocks[writer->n_blocks++];
    char **sinks = writer->sinks + writer->n_sinks;
    *block =
        (struct cuda_block){.f16 = ref->f16,
                            .f16_layer_stride = ref->f16_layer_stride,
                            .sink_mask = ref->sink_mask,
                            .sinks = (char *const *)(writer->device + ((const char *)sinks - writer->host))};
    memcpy(block->parts, ref->parts, sizeof block->parts);
    for (int s = 0; s < n_sinks; s++) sinks[s] = ref->sinks[s];
    writer->n_sinks += (size_t)n_sinks;
}

/* ---- spans ---- */

static void span_write(struct cuda_table *table, struct block_writer *writer,
                       const struct attention_span *span, const struct cuda_codec *codec, int index)
{
    struct cuda_span *out = (struct cuda_span *)table->host + index;
    struct cuda_row *rows = (struct cuda_row *)(table->host + ((const char *)table->rows - writer->device));
    *out = (struct cuda_span){.first_row = span->first_row,
                              .n_rows = span->n_rows,
                              .first_pos = span->first_pos,
                              .recent_blocks = span->recent_blocks,
                              .codec = codec};
    const char *blocks = (const char *)(writer->blocks + writer->n_blocks);
    out->blocks = (const struct cuda_block *)(writer->device + (blocks - writer->host));
    int n_blocks = (span->first_pos + span->n_rows - 1) / KV_BLOCK_TOKENS + 1;
    for (int b = 0; b < n_blocks; b++) {
        block_write(writer, &span->blocks[b]);
        if (span->blocks[b].sink_mask) out->sink_blocks = b + 1;
    }
    for (int r = 0; r < span->n_rows; r++)
        rows[span->first_row + r] = (struct cuda_row){index, span->first_pos + r};
}

/* Fills cuda->table from the spans, whose rows are 0, 1 ... without gaps, and sends it to the card. */
static bool table_fill(struct cuda_state *cuda, const struct attention_span *spans, int n_spans)
{
    struct cuda_table *table = &cuda->table;
    size_t n_blocks = 0, n_sinks = 0, n_rows = 0;
    if (!cuda_rotated_split(cuda, &spans, &n_spans)) return false;
    for (int i = 0; i < n_spans; i++) {
        int n = (spans[i].first_pos + spans[i].n_rows - 1) / KV_BLOCK_TOKENS + 1;
        size_t end = (size_t)(spans[i].first_row + spans[i].n_rows);
        n_blocks += (size_t)n;
        n_rows = end > n_rows ? end : n_rows;
        for (int b = 0; b < n; b++) n_sinks += (size_t)__builtin_popcountll(spans[i].blocks[b].sink_mask);
    }
    size_t rows_at = rounded((size_t)n_spans * sizeof(struct cuda_span));
    size_t blocks_at = rows_at + rounded(n_rows * sizeof(struct cuda_row));
    size_t sinks_at = blocks_at + n_blocks * sizeof(struct cuda_block),
           bytes = sinks_at + n_sinks * sizeof(char *);
    if (!cuda_table_need(cuda, table, bytes)) return false;
    char *device = table->device.memory;
    table->spans = (const struct cuda_span *)device;
    table->rows = (const struct cuda_row *)(device + rows_at);
    table->filled = spans, table->n_filled = n_spans;
    table->n_rows = (int)n_rows;
    table->tiles_group = 0;
    struct block_writer writer = {.blocks = (struct cuda_block *)(table->host + blocks_at),
                                  .sinks = (char **)(table->host + sinks_at),
                                  .host = table->host,
                                  .device = device};
    memset(table->host + rows_at, 0xff, n_rows * sizeof(struct cuda_row)); /* span -1: nobody's */
    for (int i = 0; i < n_spans; i++) {
        const struct cuda_resident *codec = spans[i].codec ? cuda_codec_resident(cuda, spans[i].codec) : NULL;
        if (spans[i].codec && !codec) return false;
        span_write(table, &writer, &spans[i], codec ? codec->codec : NULL, i);
    }
    return cuda_send(cuda, device, table->host, bytes, "block tables");
}

/* The announced table, or one for this call alone. */
static bool table_get(struct cuda_state *cuda, const struct attention_span *spans, int n_spans)
{
    struct cuda_table *table = &cuda->table;
    if (cuda->failure[0]) return false;
    if (table->announced && table->announced == spans && table->n_announced == n_spans) return true;
    table->announced = NULL;
    return table_fill(cuda, spans, n_spans);
}

static void kv_step_begin(struct backend *backend, int n_spans, const struct attention_span *spans)
{
    struct cuda_state *cuda = cuda_state(backend);
    cuda->table.announced = NULL;
    /* Which card launches go to is the thread's, and this one need not be the one that opened it. */
    cudaSetDevice(cuda->device);
    if (n_spans == 0 || cuda->failure[0] || !table_fill(cuda, spans, n_spans)) return;
    cuda->table.announced = spans;
    cuda->table.n_announced = n_spans;
}

/* ---- operations ---- */

static void kv_store(struct backend *backend, const struct kv_store_args *args)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (args->n_spans == 0 || !table_get(cuda, args->spans, args->n_spans)) return;
    struct cuda_store store = {.layer = args->layer,
                               .n_kv_heads = args->shape->n_kv_heads,
                               .head_dim = args->shape->head_dim,
                               .n_rows = cuda->table.n_rows,
                               .spans = cuda->table.spans,
                               .rows = cuda->table.rows,
                               .k = args->k,
                               .v = args->v};
    cuda_check(cuda, cuda_store_run(&store, cuda->stream), "kv_store");
}

static void rotate_store(struct backend *backend, const struct kv_store_args *args, float *q, float *k,
                         const float *cosines, const float *sines)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (args->n_spans == 0 || !table_get(cuda, args->spans, args->n_spans)) return;
    struct cuda_rotation rotation = {.layer = args->layer,
                                     .n_heads = args->shape->n_heads,
                                     .n_kv_heads = args->shape->n_kv_heads,
                                     .head_dim = args->shape->head_dim,
                                     .n_rows = cuda->table.n_rows,
                                     .spans = cuda->table.spans,
                                     .rows = cuda->table.rows,
                                     .q = q,
                                     .k = k,
                                     .v = args->v,
                                     .cosines = cosines,
                                     .sines = sines};
    assert(args->k == k);
    cuda_check(cuda, cuda_rotate_run(&rotation, cuda->stream), "rope");
}

static void angles(struct backend *backend, int n_spans, const struct attention_span *spans, int half,
                   const double *inv_freq, float *cosines, float *sines)
{
    struct cuda_state *cuda = cuda_state(backend);
    size_t bytes = (size_t)half * sizeof *inv_freq;
    if (n_spans == 0 || !table_get(cuda, spans, n_spans)) return;
    if (!cuda_buffer_need(cuda, &cuda->frequencies, bytes) ||
        !cuda_send(cuda, cuda->frequencies.memory, inv_freq, bytes, "angles"))
        return;
    cuda_check(cuda,
               cuda_angles_run(cuda->table.rows, cuda->table.n_rows, half, cuda->frequencies.memory, cosines,
                               sines, cuda->stream),
               "angles");
}

bool cuda_blocks_send(struct cuda_state *cuda, struct cuda_table *table,
                      const struct kv_block_ref *const *blocks, const int32_t *block_index, int n_blocks,
                      struct cuda_seal *out)
{
    size_t n = (size_t)n_blocks, n_sinks = 0;
    for (size_t i = 0; i < n; i++) n_sinks += (size_t)__builtin_popcountll(blocks[i]->sink_mask);
    size_t sinks_at = n * sizeof(struct cuda_block), index_at = sinks_at + n_sinks * sizeof(char *);
    size_t bytes = index_at + n * sizeof(int32_t);
    if (!cuda_table_need(cuda, table, bytes)) return false;
    char *device = table->device.memory;
    struct block_writer writer = {.blocks = (struct cuda_block *)table->host,
                                  .sinks = (char **)(table->host + sinks_at),
                                  .host = table->host,
                                  .device = device};
    for (size_t i = 0; i < n; i++) block_write(&writer, blocks[i]);
    memcpy(table->host + index_at, block_index, n * sizeof(int32_t));
    out->n_blocks = n_blocks;
    out->blocks = (const struct cuda_block *)device;
    out->block_index = (const int32_t *)(device + index_at);
    return cuda_send(cuda, device, table->host, bytes, "blocks to seal");
}

/* The codec, and the blocks to the card; NULL when there is nothing to do. */
static const struct cuda_resident *seal_prepare(struct cuda_state *cuda, const struct kv_seal_args *args,
                                                struct cuda_seal *out)
{
    if (args->n_blocks == 0 || cuda->failure[0]) return NULL;
    const struct cuda_resident *codec = cuda_codec_resident(cuda, args->codec);
    if (!codec) return NULL;
    *out = (struct cuda_seal){.codec = codec->codec,
                              .layer = args->layer,
                              .n_kv_heads = args->codec->shape.n_kv_heads,
                              .head_dim = args->codec->shape.head_dim};
    bool sent = cuda_blocks_send(cuda, &cuda->sealed, args->blocks, args->block_index, args->n_blocks, out);
    return sent ? codec : NULL;
}

static void kv_seal(struct backend *backend, const struct kv_seal_args *args)
{
    struct cuda_state *cuda = cuda_state(backend);
    struct cuda_seal seal;
    const struct cuda_resident *codec = seal_prepare(cuda, args, &seal);
    if (codec)
        cuda_check(cuda,
                   codec->rotate ? cuda_rotated_seal_run(codec->rotate, &seal, cuda->stream)
                                 : cuda_seal_run(&seal, cuda->stream),
                   "kv_seal");
}

static void kv_unseal(struct backend *backend, const struct kv_seal_args *args, int n_parts)
{
    struct cuda_state *cuda = cuda_state(backend);
    struct cuda_seal seal;
    const struct cuda_resident *codec = seal_prepare(cuda, args, &seal);
    if (codec)
        cuda_check(cuda,
                   codec->rotate ? cuda_rotated_unseal_run(codec->rotate, &seal, cuda->stream)
                                 : cuda_unseal_run(&seal, n_parts, cuda->stream),
                   "kv_unseal");
}

static bool is_fast(const struct cuda_state *cuda, int head_dim)
{
    return !cuda->is_plain && (head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256);
}

/* By the readable kernel, the rows of one load of rotated.c after those of another. */
static void plain_attention(struct cuda_state *cuda, const struct cuda_attention *attention)
{
    const struct cuda_rotated *rotated = &cuda->rotated;
    size_t width = (size_t)attention->n_heads * (size_t)attention->head_dim;
    for (int i = 0; i == 0 || i < rotated->n_loads; i++) {
        int first = i ? rotated->loads[i].first_row : 0,
            end = i + 1 < rotated->n_loads ? rotated->loads[i + 1].first_row : attention->n_rows;
        struct cuda_attention part = *attention;
        part.n_rows = end - first;
        part.rows += first;
        part.q += (size_t)first * width, part.out += (size_t)first * width;
        if (!cuda_rotated_load(cuda, attention->layer, i)) return;
        cuda_check(cuda, cuda_attention_plain_run(&part, cuda->stream), "attention");
    }
}

static void kv_attention(struct backend *backend, const struct attention_args *args)
{
    struct cuda_state *cuda = cuda_state(backend);
    if (args->n_spans == 0 || !table_get(cuda, args->spans, args->n_spans)) return;
    struct cuda_attention attention = {.layer = args->layer,
                                       .n_heads = args->shape->n_heads,
                                       .n_kv_heads = args->shape->n_kv_heads,
                                       .head_dim = args->shape->head_dim,
                                       .n_rows = cuda->table.n_rows,
                                       .scale = args->scale * (float)M_LOG2E,
                                       .spans = cuda->table.spans,
                                       .rows = cuda->table.rows,
                                       .q = args->q,
                                       .out = args->out};
    struct attention_args filled = *args;
    filled.spans = cuda->table.filled, filled.n_spans = cuda->table.n_filled;
    if (is_fast(cuda, args->shape->head_dim))
        cuda_walk_attention(cuda, &filled, &attention);
    else
        plain_attention(cuda, &attention);
}

void cuda_fill_kv(struct backend *backend)
{
    backend->step_begin = kv_step_begin;
    backend->kv_store = kv_store;
    backend->rotate_store = rotate_store;
    backend->angles = angles;
    backend->kv_seal = kv_seal;
    backend->kv_unseal = kv_unseal;
    backend->attention = kv_attention;
}

void cuda_table_free(struct cuda_table *table)
{
    cudaFree(table->device.memory);
    free(table->host);
    *table = (struct cuda_table){0};
}

void cuda_free_kv(struct cuda_state *cuda)
{
    for (int i = 0; i < CUDA_MAX_CODECS; i++) {
        cudaFree(cuda->codecs[i].memory);
        cuda->codecs[i] = (struct cuda_resident){0};
    }
    cuda_table_free(&cuda->table);
    cuda_table_free(&cuda->sealed);
    cuda_table_free(&cuda->tiles);
    cuda_free_rotated(cuda);
    struct cuda_buffer *buffers[] = {&cuda->frequencies, &cuda->partials, &cuda->records, &cuda->tickets};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        cudaFree(buffers[i]->memory);
        *buffers[i] = (struct cuda_buffer){0};
    }
    free(cuda->batches);
    cuda->batches = NULL;
    cuda->n_batches = cuda->most_batches = 0;
}
