#include "kernels/cpu/kv_coder.h"
#include "kernels/cpu/kv_trellis.h"
#include "kernels/dtype.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { TOKENS = KV_BLOCK_TOKENS, RUN_BYTES = 32, RUN_ROWS = 8 };

struct kv_coder kv_coder_at(const struct kv_codec *codec, const struct kv_block_ref *block, size_t page_index,
                            int is_values)
{
    size_t at = page_index * (size_t)codec->n_groups;
    struct kv_coder coder = {.n_groups = codec->n_groups,
                             .n_parts = codec->n_parts,
                             .is_values = is_values,
                             .weight = is_values ? NULL : codec->key_weight + at};
    for (int p = 0; p < codec->n_parts; p++) {
        const struct kv_part *part = &codec->parts[p];
        const struct kv_code *code = &part->codes[page_index];
        coder.parts[p] = (struct kv_coder_part){.bits = is_values ? code->value_bits : code->key_bits,
                                                .unit = (is_values ? part->value_unit : part->key_unit) + at,
                                                .gain = (is_values ? part->value_gain : part->key_gain) + at};
        if (!block->parts[p]) continue;
        struct kv_page page = kv_codec_page(codec, p, block->parts[p], page_index);
        coder.parts[p].codes = is_values ? page.value_codes : page.key_codes;
        coder.parts[p].scales = is_values ? page.value_scales : page.key_scales;
    }
    return coder;
}

/* ---- geometry ---- */

/* Where the words of a tile stand: its first eight rows at `at`, the other eight row_stride further; at 1 bit
   shifted to the half of a run that is theirs. */
struct tile_place {
    size_t at, row_stride;
    int shift;
};

/* Rows are tokens: every row tile has all groups, those of 1 bit in pairs at the end. */
static struct tile_place key_tile_place(const uint8_t *bits, int n_groups, int group, int tile)
{
    size_t row_stride = kv_key_code_bytes(bits, n_groups) / (TOKENS / RUN_ROWS), before = 0;
    int n_ones = 0;
    for (int g = 0; g < group; g++) {
        before += bits[g] > 1 ? bits[g] * (size_t)(RUN_BYTES / 2) : 0;
        n_ones += bits[g] == 1;
    }
    size_t ones = (size_t)(n_ones / 2) * RUN_BYTES;
    return (struct tile_place){.at = (size_t)(tile * KV_TILE / RUN_ROWS) * row_stride + before + ones,
                               .row_stride = row_stride,
                               .shift = 4 * (n_ones % 2)};
}

/* Rows are channels: a group is two row tiles, each with the columns of all tokens. */
static struct tile_place value_tile_place(const uint8_t *bits, int group, int tile)
{
    size_t row_stride = bits[group] * (size_t)(RUN_ROWS * TOKENS / 8);
    int first = bits[group] == 1 ? tile & ~1 : tile; /* of the tiles that share the run */
    return (struct tile_place){.at = kv_value_code_bytes(bits, group) +
                                     (size_t)first * bits[group] * (RUN_BYTES / 2),
                               .row_stride = row_stride,
                               .shift = 4 * (tile - first)};
}

static struct tile_place tile_place(const struct kv_coder *coder, int p, int group, int tile)
{
    const uint8_t *bits = coder->parts[p].bits;
    return coder->is_values ? value_tile_place(bits, group, tile)
                            : key_tile_place(bits, coder->n_groups, group, tile);
}

/* A tile whose shift is not 0 follows the one it shares the run with. */
static void tile_store(uint8_t *codes, struct tile_place place, int bits, uint32_t words[2][KV_TILE])
{
    for (int run = 0; run < (bits == 4 ? 2 : 1); run++) {
        for (int half = 0; half < 2; half++) {
            uint8_t *at = codes + place.at + (size_t)half * place.row_stride + (size_t)run * RUN_BYTES;
            uint32_t rows[RUN_ROWS] = {0};
            if (place.shift) memcpy(rows, at, sizeof rows);
            for (int i = 0; i < RUN_ROWS; i++) rows[i] |= words[run][RUN_ROWS * half + i] << place.shift;
            memcpy(at, rows, sizeof rows);
        }
    }
}

static void tile_load(const uint8_t *codes, struct tile_place place, int bits, uint32_t words[2][KV_TILE])
{
    for (int run = 0; run < (bits == 4 ? 2 : 1); run++)
        for (int half = 0; half < 2; half++)
            memcpy(words[run] + RUN_ROWS * half,
                   codes + place.at + (size_t)half * place.row_stride + (size_t)run * RUN_BYTES, RUN_BYTES);
    for (int row = 0; row < KV_TILE; row++) words[0][row] >>= place.shift;
}

/* ---- encode ---- */

/* Per group and token; kernels/cpu/kv_write.h names them. */
struct sums {
    float zz[KV_MAX_CODE_GROUPS][TOKENS], zy[KV_MAX_CODE_GROUPS][TOKENS];
    float r[TOKENS], per_r[TOKENS];
};

static void norms_fill(const struct kv_coder *coder, const struct kv_kernels *kernels, const float *z,
                       struct sums *sums)
{
    float norm[TOKENS] = {0};
    int n_channels = 0;
    for (int g = 0; g < coder->n_groups; g++) {
        kernels->group_norms(z + g * KV_CODE_GROUP * TOKENS, sums->zz[g]);
        if (coder->parts[0].bits[g] == 0) continue;
        n_channels += KV_CODE_GROUP;
        for (int t = 0; t < TOKENS; t++) norm[t] += sums->zz[g][t];
    }
    for (int t = 0; t < TOKENS; t++) {
        int is_some = norm[t] >= 1e-30f;
        sums->r[t] = is_some ? sqrtf(norm[t] / (float)n_channels) : 0;
        sums->per_r[t] = is_some ? 1 / sums->r[t] : 0;
    }
    memset(sums->zy, 0, sizeof sums->zy);
}

static void group_encode(const struct kv_coder *coder, const struct kv_kernels *kernels, int p, int g,
                         const float *z, float *y, float zy[TOKENS])
{
    const struct kv_coder_part *part = &coder->parts[p];
    size_t row = (size_t)g * KV_CODE_GROUP * TOKENS;
    for (int tile = 0; tile < TOKENS / KV_TILE; tile++) {
        int t = tile * KV_TILE;
        uint32_t words[2][KV_TILE];
        float dots[KV_TILE];
        kernels->tile_encode(z + row + t, y + row + t, part->unit[g], part->bits[g], coder->is_values, dots,
                             words);
        for (int i = 0; i < KV_TILE; i++) zy[t + i] += part->unit[g] * dots[i];
        if (part->codes) tile_store(part->codes, tile_place(coder, p, g, tile), part->bits[g], words);
    }
}

static int is_coded(const struct kv_coder *coder, int n_parts, int group)
{
    int bits = 0;
    for (int p = 0; p < n_parts; p++) bits |= coder->parts[p].bits[group];
    return bits != 0;
}

static void scales_write(const struct kv_coder *coder, const struct kv_kernels *kernels, int p,
                         const struct sums *sums)
{
    float num[TOKENS] = {0}, den[TOKENS] = {0}, scale[TOKENS];
    for (int g = 0; g < coder->n_groups; g++) {
        if (!is_coded(coder, p + 1, g)) continue;
        float weight = coder->weight ? coder->weight[g] : 1, gained = weight * coder->parts[p].gain[g];
        for (int t = 0; t < TOKENS; t++) {
            num[t] += weight * sums->zz[g][t];
            den[t] += gained * sums->zy[g][t];
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        float ratio = num[t] / den[t], limit = 32 * sums->r[t];
        scale[t] = den[t] > 0 ? (ratio < limit ? ratio : limit) : 0;
    }
    kernels->float_to_half(scale, TOKENS, coder->parts[p].scales);
}

void kv_coder_encode(const struct kv_coder *coder, const struct kv_kernels *kernels, const float *z, float *y)
{
    struct sums sums;
    norms_fill(coder, kernels, z, &sums);
    for (int i = 0; i < coder->n_groups * KV_CODE_GROUP; i++)
        for (int t = 0; t < TOKENS; t++) y[i * TOKENS + t] = z[i * TOKENS + t] * sums.per_r[t];
    int n_parts = coder->n_parts; /* the last one that is kept needs the ones before it */
    while (n_parts > 0 && !coder->parts[n_parts - 1].codes) n_parts--;
    for (int p = 0; p < n_parts; p++) {
        for (int g = 0; g < coder->n_groups; g++)
            if (coder->parts[p].bits[g]) group_encode(coder, kernels, p, g, z, y, sums.zy[g]);
        if (coder->parts[p].scales) scales_write(coder, kernels, p, &sums);
    }
}

/* ---- decode ---- */

static int word_level(uint32_t words[2][KV_TILE], int bits, int row, int column)
{
    int byte = column / 4, q = column % 4;
    uint32_t word = words[bits == 4 ? q / 2 : 0][row];
    if (bits == 4) return 2 * (int)(word >> (8 * byte + 4 * (q % 2)) & 15) - 15;
    if (bits == 1) return word >> (8 * byte + q) & 1 ? 8 : -8;
    return 2 * kv_trellis_word_u(word, column) - 15;
}

/* y [16] rows of stride 64: adds unit * level of one tile of one part. */
static void tile_decode(const struct kv_coder *coder, int p, int group, int tile, float *y)
{
    const struct kv_coder_part *part = &coder->parts[p];
    uint32_t words[2][KV_TILE];
    tile_load(part->codes, tile_place(coder, p, group, tile), part->bits[group], words);
    for (int i = 0; i < KV_TILE; i++) {
        for (int t = 0; t < KV_TILE; t++) {
            int row = coder->is_values ? i : t, column = coder->is_values ? t : i;
            y[i * TOKENS + t] += part->unit[group] * (float)word_level(words, part->bits[group], row, column);
        }
    }
}

void kv_coder_decode(const struct kv_coder *coder, int n_parts, float *z)
{
    assert(n_parts >= 1 && n_parts <= coder->n_parts);
    const struct kv_coder_part *last = &coder->parts[n_parts - 1];
    memset(z, 0, (size_t)(coder->n_groups * KV_CODE_GROUP * TOKENS) * sizeof *z);
    for (int g = 0; g < coder->n_groups; g++) {
        float *group = z + g * KV_CODE_GROUP * TOKENS;
        for (int p = 0; p < n_parts; p++)
            for (int tile = 0; coder->parts[p].bits[g] && tile < TOKENS / KV_TILE; tile++)
                tile_decode(coder, p, g, tile, group + tile * KV_TILE);
        for (int i = 0; i < KV_CODE_GROUP; i++)
            for (int t = 0; t < TOKENS; t++)
                group[i * TOKENS + t] *= last->gain[g] * dtype_f16_to_f32(last->scales[t]);
    }
}
