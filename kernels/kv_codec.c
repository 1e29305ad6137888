#include "kernels/kv_codec.h"
#include "kernels/kv_rotate.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/*
 * What a level is worth, and how much error is left, for every history of bits: measured on unit Gaussians
 * with the codes that kernels/kv_codec.h defines, each unit the best for its stage
 * (tests/tools/code-units.py).
 */
struct stage {
    uint8_t bits[KV_MAX_PARTS]; /* the history, this stage last; zeros after */
    float unit;                 /* in units of the vector's RMS */
    float distortion;           /* E[(y - yhat)^2] of a unit Gaussian y */
    float gain;                 /* 1 / E[y yhat]; where yhat is no centroid, more than 1 / (1 - distortion) */
};

/* A history of 0 bits is no history: bits are shifted to the front before they are looked up. */
static const struct stage stages[] = {
    {{1}, 0.09960f, 0.364222f, 1.5740f},       {{2}, 0.13984f, 0.097004f, 1.1072f},
    {{4}, 0.16741f, 0.011585f, 1.0119f},       {{1, 1}, 0.06029f, 0.131044f, 1.2340f},
    {{1, 2}, 0.08632f, 0.039015f, 1.0568f},    {{1, 4}, 0.11767f, 0.006645f, 1.0105f},
    {{2, 1}, 0.03111f, 0.035107f, 1.0510f},    {{2, 2}, 0.04454f, 0.010808f, 1.0179f},
    {{2, 4}, 0.06190f, 0.001899f, 1.0040f},    {{4, 1}, 0.01085f, 0.004081f, 1.0096f},
    {{4, 2}, 0.01628f, 0.001923f, 1.0061f},    {{4, 4}, 0.03158f, 0.000756f, 1.0029f},
    {{1, 1, 1}, 0.03352f, 0.058862f, 1.1348f}, {{1, 1, 2}, 0.05956f, 0.019579f, 1.0372f},
    {{1, 2, 1}, 0.01876f, 0.016496f, 1.0356f}, {{1, 2, 2}, 0.03225f, 0.006061f, 1.0144f},
    {{2, 1, 1}, 0.01823f, 0.013797f, 1.0313f}, {{2, 1, 2}, 0.02804f, 0.005144f, 1.0136f},
    {{2, 2, 1}, 0.00983f, 0.004623f, 1.0124f}, {{2, 2, 2}, 0.01707f, 0.002013f, 1.0066f},
    {{4, 1, 1}, 0.00558f, 0.002100f, 1.0084f}, {{4, 1, 2}, 0.00967f, 0.001362f, 1.0062f},
    {{4, 2, 1}, 0.00327f, 0.001244f, 1.0056f}, {{4, 2, 2}, 0.00903f, 0.000843f, 1.0040f},
};

/* Two stages of 4 bits of which the first is never read alone: a wider first grid loses less at its ends. */
static const struct stage wide_first = {{4}, 0.24500f, 0.020024f, 1.0003f};
static const struct stage wide_both = {{4, 4}, 0.01530f, 0.000088f, 1.0001f};

static const struct stage *stage_find(const uint8_t *bits, int n_parts, int n_old_parts)
{
    uint8_t history[KV_MAX_PARTS] = {0};
    int n = 0;
    for (int p = 0; p < n_parts; p++)
        if (bits[p]) history[n++] = bits[p];
    if (n == 0) return NULL;
    if (n_old_parts > 1 && bits[0] == 4 && bits[1] == 4 && n <= 2) return n == 1 ? &wide_first : &wide_both;
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++)
        if (memcmp(stages[i].bits, history, sizeof history) == 0) return &stages[i];
    assert(!"a history of bits with a measured unit");
    return NULL;
}

double kv_code_distortion(const uint8_t *bits, int n_parts, int n_old_parts)
{
    const struct stage *stage = stage_find(bits, n_parts, n_old_parts);
    return stage ? (double)stage->distortion : 1;
}

size_t kv_key_code_bytes(const uint8_t *bits, int n_groups)
{
    size_t sum = 0, ones = 0;
    for (int g = 0; g < n_groups; g++) {
        sum += bits[g];
        ones += bits[g] == 1;
    }
    return (sum + ones % 2) * KV_CODE_GROUP * KV_BLOCK_TOKENS / 8;
}

size_t kv_value_code_bytes(const uint8_t *bits, int n_groups)
{
    size_t sum = 0;
    for (int g = 0; g < n_groups; g++) sum += bits[g];
    return sum * KV_CODE_GROUP * KV_BLOCK_TOKENS / 8;
}

struct kv_page kv_codec_page(const struct kv_codec *codec, int part, char *block, size_t page_index)
{
    const struct kv_code *code = &codec->parts[part].codes[page_index];
    struct kv_page page;
    page.key_codes = (uint8_t *)block + codec->parts[part].offset[page_index];
    page.value_codes = page.key_codes + kv_key_code_bytes(code->key_bits, codec->n_groups);
    page.key_scales = (uint16_t *)(page.value_codes + kv_value_code_bytes(code->value_bits, codec->n_groups));
    page.value_scales = page.key_scales + KV_BLOCK_TOKENS;
    return page;
}

size_t kv_codec_part_bytes(const struct kv_codec *codec, int part)
{
    return codec->parts[part].offset[codec->n_pages];
}

static void bits_check(const uint8_t *bits, int n_groups)
{
    for (int g = 0; g < n_groups; g++) {
        assert(bits[g] == 0 || bits[g] == 1 || bits[g] == 2 || bits[g] == 4);
        assert(g == 0 || bits[g] <= bits[g - 1]);
    }
}

/* Keys get a little less than would make them unbiased: larger gains also make errors larger. Measured at 2
   bits: the rise of perplexity is 8 % less than with all of it, the KL 1 % (SmolLM2-135M,
   Qwen2.5-Coder-0.5B). */
#define KEY_GAIN_EXPONENT 0.85F

/* Of one group, over its parts: units and gains. stride: from part to part. */
static void group_fill(const struct kv_codec *codec, const uint8_t *bits, float *unit, float *gain,
                       size_t stride)
{
    for (int p = 0; p < codec->n_parts; p++) {
        const struct stage *stage = stage_find(bits, p + 1, codec->n_old_parts);
        unit[p * stride] = bits[p] ? stage->unit : 0;
        gain[p * stride] = stage ? stage->gain : 1;
    }
}

/* The allocation: the codec, then offsets, floats and codes of its parts. */
struct codec_memory {
    struct kv_codec codec;
    char rest[];
};

static void part_attach(struct kv_codec *codec, int p, float *floats, size_t *offsets, struct kv_code *codes)
{
    size_t pages = (size_t)codec->n_pages, cells = pages * (size_t)codec->n_groups;
    float *at = floats + (size_t)p * cells, *end = floats + (size_t)codec->n_parts * cells;
    size_t kind = (size_t)(end - floats);
    codec->parts[p] = (struct kv_part){.codes = codes + (size_t)p * pages,
                                       .offset = offsets + (size_t)p * (pages + 1),
                                       .key_unit = at,
                                       .value_unit = at + kind,
                                       .key_gain = at + 2 * kind,
                                       .value_gain = at + 3 * kind};
}

static void part_layout(const struct kv_codec_spec *spec, int p, int n_groups, size_t n_pages,
                        struct kv_code *codes, size_t *offset)
{
    size_t at = 0;
    for (size_t page = 0; page < n_pages; page++) {
        const struct kv_code *code = &spec->codes[p][page];
        bits_check(code->key_bits, n_groups);
        bits_check(code->value_bits, n_groups);
        codes[page] = *code;
        offset[page] = at;
        at += kv_key_code_bytes(code->key_bits, n_groups) + kv_value_code_bytes(code->value_bits, n_groups) +
              2 * KV_BLOCK_TOKENS * sizeof(uint16_t);
    }
    offset[n_pages] = at;
}

static void units_fill(struct kv_codec *codec, const struct kv_code *codes, float *floats)
{
    size_t cells = (size_t)codec->n_pages * (size_t)codec->n_groups, kind = (size_t)codec->n_parts * cells;
    for (int page = 0; page < codec->n_pages; page++) {
        for (int g = 0; g < codec->n_groups; g++) {
            uint8_t key[KV_MAX_PARTS], value[KV_MAX_PARTS];
            for (int p = 0; p < codec->n_parts; p++) {
                key[p] = codes[p * codec->n_pages + page].key_bits[g];
                value[p] = codes[p * codec->n_pages + page].value_bits[g];
            }
            size_t at = (size_t)page * (size_t)codec->n_groups + (size_t)g;
            group_fill(codec, key, floats + at, floats + 2 * kind + at, cells);
            for (int p = 0; p < codec->n_parts; p++) {
                float *gain = &floats[2 * kind + (size_t)p * cells + at];
                *gain = powf(*gain, KEY_GAIN_EXPONENT);
            }
            group_fill(codec, value, floats + kind + at, floats + 3 * kind + at, cells);
        }
    }
}

/* Only ratios within a page matter; divided by the page's largest, so that sums stay in range. */
static void weights_fill(const struct kv_codec_spec *spec, int n_groups, size_t n_pages, float *weight)
{
    for (size_t page = 0; page < n_pages; page++, weight += n_groups) {
        const float *sigma = spec->key_sigma ? spec->key_sigma + page * (size_t)n_groups : NULL;
        float most = 0;
        for (int g = 0; g < n_groups; g++) most = sigma && sigma[g] > most ? sigma[g] : most;
        for (int g = 0; g < n_groups; g++) weight[g] = most > 0 ? powf(sigma[g] / most, 3) : 1;
    }
}

uint64_t kv_codec_serial(void)
{
    static _Atomic uint64_t last;
    return atomic_fetch_add(&last, 1) + 1;
}

enum err kv_codec_create(const struct kv_codec_spec *spec, struct kv_codec **out, struct err_info *info)
{
    assert(spec->n_old_parts >= 1 && spec->n_old_parts <= spec->n_parts && spec->n_parts <= KV_MAX_PARTS);
    int n_groups = spec->shape.head_dim / KV_CODE_GROUP;
    size_t n_pages = (size_t)spec->shape.n_layers * (size_t)spec->shape.n_kv_heads, parts = spec->n_parts;
    size_t n_offsets = parts * (n_pages + 1), cells = n_pages * (size_t)n_groups;
    size_t n_floats = (4 * parts + 1) * cells;
    struct codec_memory *memory = malloc(sizeof *memory + n_offsets * sizeof(size_t) +
                                         n_floats * sizeof(float) + parts * n_pages * sizeof(struct kv_code));
    if (memory == NULL) return err_set(info, ERR_MEMORY, "cache format: out of memory");

    size_t *offsets = (size_t *)memory->rest;
    float *floats = (float *)(offsets + n_offsets), *weight = floats + 4 * parts * cells;
    struct kv_code *codes = (struct kv_code *)(floats + n_floats);
    struct kv_codec *codec = &memory->codec;
    *codec = (struct kv_codec){.serial = kv_codec_serial(),
                               .shape = spec->shape,
                               .n_groups = n_groups,
                               .n_pages = (int)n_pages,
                               .n_parts = spec->n_parts,
                               .n_old_parts = spec->n_old_parts,
                               .key_weight = weight,
                               .tables = spec->tables};
    for (int p = 0; p < spec->n_parts; p++) {
        part_layout(spec, p, n_groups, n_pages, codes + (size_t)p * n_pages,
                    offsets + (size_t)p * (n_pages + 1));
        part_attach(codec, p, floats, offsets, codes);
    }
    units_fill(codec, codes, floats);
    weights_fill(spec, n_groups, n_pages, weight);
    *out = codec;
    return ERR_OK;
}

void kv_codec_free(struct kv_codec *codec)
{
    if (codec) kv_rotate_free(codec->rotate);
    free(codec);
}
