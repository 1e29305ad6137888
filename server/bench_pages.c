#include "server/bench_pages.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SINKS = 4 };

/* ---- formats ---- */

static void calibration_fill(struct calibration *calibration)
{
    const struct kv_shape *shape = &calibration->shape;
    int n_heads = shape->n_layers * shape->n_kv_heads, d = shape->head_dim, n_groups = d / KV_CODE_GROUP;
    for (int i = 0; i < n_heads * d; i++) {
        calibration->key_mean[i] = (float)(i % 13) / 13 - 0.5F;
        calibration->value_mean[i] = (float)(i % 7) / 70 - 0.05F;
    }
    for (int h = 0; h < n_heads; h++) {
        calibration->key_weight[h] = calibration->value_weight[h] = 1;
        for (int g = 0; g < n_groups; g++)
            calibration->key_sigma[h * n_groups + g] = exp2f(-(float)g * 8 / (float)n_groups / 2);
        kv_hadamard_fill(calibration->key_transform + (size_t)h * d * d, d);
        kv_hadamard_fill(calibration->query_transform + (size_t)h * d * d, d);
    }
}

enum err bench_pages_formats(const struct kv_shape *shape, const char *names, int n_tokens,
                             struct kv_formats **out, struct err_info *info)
{
    double inv_freq[KV_MAX_HEAD_DIM / 2];
    struct calibration *calibration = NULL;
    for (int i = 0; i < shape->head_dim / 2; i++) inv_freq[i] = pow(10000, -2.0 * i / shape->head_dim);
    enum err err = calibration_create(shape, &calibration, info);
    if (err != ERR_OK) return err;
    calibration_fill(calibration);
    err = kv_formats_create(shape, names, calibration, n_tokens / KV_FRAME_TOKENS + 1, inv_freq, out, info);
    calibration_free(calibration);
    return err;
}

/* ---- blocks ---- */

static char *cut(char **at, size_t bytes)
{
    char *here = *at;
    *at += (bytes + 255) / 256 * 256;
    return here;
}

/* Which parts a block of this age has: 0 the f16 page, 1 + p part p. age: of the newest row. */
static bool block_has(const struct bench_pages *pages, int age, int n_new, int recent_blocks, int part)
{
    const struct kv_codec *codec = pages->format->codec;
    if (part == 0) return codec == NULL || age < n_new;
    if (codec == NULL || part > codec->n_parts || age == 0) return false;
    return part <= codec->n_old_parts || age < n_new + recent_blocks;
}

static size_t part_bytes(const struct bench_pages *pages, int part)
{
    return part == 0 ? kv_block_bytes(KV_F16, &pages->shape)
                     : kv_codec_part_bytes(pages->format->codec, part - 1);
}

/* Deals all blocks out, in an order that is not that of the sequence; memory NULL: how much they take. */
static size_t blocks_deal(struct bench_pages *pages, char *memory, int n_new, int recent_blocks)
{
    int n = pages->n_distinct * pages->n_blocks, step = n % 7919 != 0 ? 7919 : 7907;
    size_t layer_bytes = kv_block_bytes(KV_F16, &pages->shape) / (size_t)pages->shape.n_layers;
    char *at = memory;
    for (int s = 0; s < SINKS; s++) pages->sinks[s] = cut(&at, kv_block_bytes(KV_SINK, &pages->shape));
    for (int i = 0, b = 0; i < n; i++, b = (b + step) % n) {
        struct kv_block_ref *block = &pages->blocks[b];
        int index = b % pages->n_blocks, age = pages->n_blocks - 1 - index;
        *block = (struct kv_block_ref){.f16_layer_stride = layer_bytes};
        for (int part = 0; part <= KV_MAX_PARTS; part++) {
            if (!block_has(pages, age, n_new, recent_blocks, part)) continue;
            char *place = cut(&at, part_bytes(pages, part));
            *(part == 0 ? &block->f16 : &block->parts[part - 1]) = place;
        }
        if (pages->format->codec != NULL && index == 0 && age > 0) {
            block->sink_mask = (UINT64_C(1) << SINKS) - 1;
            block->sinks = pages->sinks;
        }
    }
    return (size_t)(at - memory);
}

/* By the read rule, for one query at the end. */
static double sequence_read_bytes(const struct bench_pages *pages, int recent_blocks)
{
    const struct kv_codec *codec = pages->format->codec;
    double bytes = 0;
    for (int age = 0; age < pages->n_blocks; age++) {
        int n_parts = codec == NULL || age == 0 ? 0
                      : age <= recent_blocks    ? codec->n_parts
                                                : codec->n_old_parts;
        if (n_parts == 0) bytes += (double)part_bytes(pages, 0);
        for (int p = 1; p <= n_parts; p++) bytes += (double)part_bytes(pages, p);
    }
    return bytes / pages->shape.n_layers;
}

enum err bench_pages_create(const struct bench_kernels *bench, const struct kv_format *format,
                            int n_sequences, int n_tokens, int n_rows, struct bench_pages *out,
                            struct err_info *info)
{
    int n_blocks = (n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    int n_new = n_blocks - (n_tokens - n_rows) / KV_BLOCK_TOKENS, recent = bench->recent_blocks;
    struct bench_pages pages = {.backend = bench->backend,
                                .shape = model_shape_kv(&bench->shape),
                                .format = format,
                                .n_sequences = n_sequences,
                                .n_distinct = 1,
                                .n_blocks = n_blocks};
    pages.spans = calloc((size_t)n_sequences, sizeof *pages.spans);
    pages.blocks = calloc((size_t)n_sequences * (size_t)n_blocks, sizeof *pages.blocks);
    pages.sinks = calloc(SINKS, sizeof *pages.sinks);
    if (pages.spans == NULL || pages.blocks == NULL || pages.sinks == NULL) {
        bench_pages_free(&pages);
        return err_set(info, ERR_MEMORY, "out of memory");
    }
    size_t one = blocks_deal(&pages, NULL, n_new, recent);
    if (one > bench->memory_bytes) {
        bench_pages_free(&pages);
        return err_set(info, ERR_CAPACITY, "a sequence takes %zu bytes: raise --memory-bytes", one);
    }
    size_t fitting = bench->memory_bytes / one;
    pages.n_distinct = fitting < (size_t)n_sequences ? (int)fitting : n_sequences;
    size_t bytes = blocks_deal(&pages, NULL, n_new, recent);
    pages.memory = bench_memory_halves(bench->backend, bytes);
    if (pages.memory == NULL) {
        bench_pages_free(&pages);
        return err_set(info, ERR_MEMORY, "no memory for %zu bytes of pages: lower --memory-bytes", bytes);
    }
    blocks_deal(&pages, pages.memory, n_new, recent);
    for (int s = 0; s < n_sequences; s++)
        pages.spans[s] = (struct attention_span){.first_row = s * n_rows,
                                                 .n_rows = n_rows,
                                                 .first_pos = n_tokens - n_rows,
                                                 .n_blocks = n_blocks,
                                                 .blocks = pages.blocks +
                                                           (size_t)(s % pages.n_distinct) * (size_t)n_blocks,
                                                 .codec = format->codec,
                                                 .recent_blocks = recent};
    pages.read_bytes = n_sequences * sequence_read_bytes(&pages, recent);
    if (!bench->backend->is_host) bench->backend->step_begin(bench->backend, n_sequences, pages.spans);
    *out = pages;
    return ERR_OK;
}

void bench_pages_free(struct bench_pages *pages)
{
    struct backend *backend = pages->backend;
    if (pages->memory != NULL) {
        if (!backend->is_host) backend->step_begin(backend, 0, NULL);
        backend->free(backend, pages->memory);
    }
    free(pages->spans);
    free(pages->blocks);
    free(pages->sinks);
}
