#include "tests/unit/support/kv_pages.h"
#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *memory_or_exit(size_t n, size_t size)
{
    void *memory = calloc(n ? n : 1, size);
    if (!memory) {
        fprintf(stderr, "kv_pages: out of memory\n");
        exit(1);
    }
    return memory;
}

float *kv_pages_gauss(size_t n, uint64_t seed)
{
    float *x = memory_or_exit(n, sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = kv_fixture_gauss(&seed);
    return x;
}

/* ---- contents ---- */

/* An fp16 that looks Gaussian: the sum of four uniform numbers is quick, and the benchmark fills gigabytes.
   The upper bits of a small fp32 are those of an fp16. */
static uint16_t bell_half(uint64_t random)
{
    float x = 0;
    for (int i = 0; i < 4; i++) x += (float)(int16_t)(random >> (16 * i));
    x *= 1.0f / 37837.0f * 0x1p-112f; /* variance 1 */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits >> 16 & 0x8000) | (bits >> 13 & 0x7fff));
}

static uint16_t scale_half(uint64_t random)
{
    return (uint16_t)(0x3800 + random % 0x600); /* 0.5 to 1.5 */
}

static void halves_fill(char *at, size_t bytes, uint64_t *seed)
{
    for (size_t i = 0; i < bytes; i += 2) {
        uint16_t half = bell_half(kv_fixture_random(seed));
        memcpy(at + i, &half, sizeof half);
    }
}

static void part_fill(const struct kv_codec *codec, int part, char *block, uint64_t *seed)
{
    size_t bytes = kv_codec_part_bytes(codec, part);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t random = kv_fixture_random(seed);
        memcpy(block + i, &random, bytes - i < 8 ? bytes - i : 8);
    }
    for (int page = 0; page < codec->n_pages; page++) {
        uint16_t *scales = kv_codec_page(codec, part, block, (size_t)page).key_scales;
        for (int t = 0; t < 2 * KV_BLOCK_TOKENS; t++) scales[t] = scale_half(kv_fixture_random(seed));
    }
}

/* ---- the sequence ---- */

static int keeps_f16(const struct kv_pages *pages, enum kv_pages_keep keep, int block)
{
    return keep == KV_PAGES_ALL || !pages->codec || block == pages->n_blocks - 1;
}

static int parts_kept(const struct kv_pages *pages, enum kv_pages_keep keep, int block)
{
    int age = pages->n_blocks - 1 - block;
    if (!pages->codec || (block + 1) * KV_BLOCK_TOKENS > pages->n_tokens) return 0;
    if (keep == KV_PAGES_ALL || age <= pages->recent_blocks) return pages->codec->n_parts;
    return pages->codec->n_old_parts;
}

static uint64_t sink_mask(const struct kv_pages *pages, int block, int n_sinks, int scattered_sinks)
{
    if (!pages->codec || (block + 1) * KV_BLOCK_TOKENS > pages->n_tokens) return 0;
    uint64_t mask = block == 0 && n_sinks ? ~(uint64_t)0 >> (64 - n_sinks) : 0;
    if (scattered_sinks && block % 3 == 1) mask |= (uint64_t)1 << 5 | (uint64_t)1 << 17 | (uint64_t)1 << 63;
    return mask;
}

/* Cuts `bytes` out of memory; the first time round only counts them. */
static char *cut(struct kv_pages *pages, size_t bytes)
{
    char *at = pages->memory ? pages->memory + pages->memory_bytes : NULL;
    pages->memory_bytes += (bytes + 63) / 64 * 64;
    return at;
}

static void block_init(struct kv_pages *pages, enum kv_pages_keep keep, int b, uint64_t *seed)
{
    struct kv_block_ref *block = &pages->blocks[b];
    if (keeps_f16(pages, keep, b)) {
        size_t bytes = kv_block_bytes(KV_F16, &pages->shape);
        block->f16_layer_stride = bytes / (size_t)pages->shape.n_layers;
        block->f16 = cut(pages, bytes);
        if (block->f16) halves_fill(block->f16, bytes, seed);
    }
    for (int p = 0; p < parts_kept(pages, keep, b); p++) {
        block->parts[p] = cut(pages, kv_codec_part_bytes(pages->codec, p));
        if (block->parts[p]) part_fill(pages->codec, p, block->parts[p], seed);
    }
    for (int i = 0; i < __builtin_popcountll(block->sink_mask); i++) {
        size_t bytes = kv_block_bytes(KV_SINK, &pages->shape);
        char *sink = cut(pages, bytes);
        if (!sink) continue;
        halves_fill(sink, bytes, seed);
        *(char **)(block->sinks + i) = sink;
    }
}

void kv_pages_init(struct kv_pages *pages, const struct kv_shape *shape, const struct kv_codec *codec,
                   enum kv_pages_keep keep, int recent_blocks, int n_tokens, int n_sinks, int scattered_sinks,
                   uint64_t seed)
{
    int n_blocks = (n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS, n_slots = 0;
    *pages = (struct kv_pages){.shape = *shape,
                               .codec = codec,
                               .recent_blocks = recent_blocks,
                               .n_tokens = n_tokens,
                               .n_blocks = n_blocks};
    pages->blocks = memory_or_exit((size_t)n_blocks, sizeof *pages->blocks);
    pages->sinks = memory_or_exit((size_t)n_blocks * KV_BLOCK_TOKENS, sizeof *pages->sinks);
    for (int b = 0; b < n_blocks; b++) {
        pages->blocks[b].sink_mask = sink_mask(pages, b, n_sinks, scattered_sinks);
        pages->blocks[b].sinks = pages->sinks + n_slots;
        n_slots += __builtin_popcountll(pages->blocks[b].sink_mask);
    }
    for (int b = 0; b < n_blocks; b++) block_init(pages, keep, b, &seed);
    pages->memory = aligned_alloc(64, pages->memory_bytes ? pages->memory_bytes : 64);
    if (!pages->memory) exit(1);
    pages->memory_bytes = 0;
    for (int b = 0; b < n_blocks; b++) block_init(pages, keep, b, &seed);
}

void kv_pages_free(struct kv_pages *pages)
{
    free(pages->blocks);
    free(pages->sinks);
    free(pages->memory);
}

struct attention_span kv_pages_span(const struct kv_pages *pages, int first, int n, int first_row)
{
    return (struct attention_span){.first_row = first_row,
                                   .n_rows = n,
                                   .first_pos = first,
                                   .n_blocks = (first + n - 1) / KV_BLOCK_TOKENS + 1,
                                   .blocks = pages->blocks,
                                   .codec = pages->codec,
                                   .recent_blocks = pages->recent_blocks};
}
