#ifndef KERNELS_CUDA_PAGE_CUH
#define KERNELS_CUDA_PAGE_CUH

#include "kernels/cuda/ptx.cuh"

#include <cuda_fp16.h>

/*
 * Where things stand in a part's page (kernels/kv_codec.h, Geometry), and what a code is worth: for the
 * kernels that take codes one at a time.
 */

struct page_part {
    const uint8_t *key_bits, *value_bits; /* [n_groups] */
    uint8_t *keys, *values;
    uint16_t *key_scales, *value_scales; /* [64] */
};

__device__ static inline int key_row_bytes(const uint8_t *bits, int n_groups)
{
    int sum = 0, ones = 0;
    for (int g = 0; g < n_groups; g++) {
        sum += bits[g];
        ones += bits[g] == 1;
    }
    return (sum + ones % 2) * 16;
}

__device__ static inline page_part page_part_at(const cuda_codec *codec, int p, char *block, int page)
{
    const cuda_part *part = &codec->parts[p];
    page_part out;
    out.key_bits = part->codes + page * CUDA_CODE_BYTES;
    out.value_bits = out.key_bits + CUDA_MAX_GROUPS;
    int sum = 0;
    for (int g = 0; g < codec->n_groups; g++) sum += out.value_bits[g];
    out.keys = (uint8_t *)block + part->offset[page];
    out.values = out.keys + key_row_bytes(out.key_bits, codec->n_groups) * (CUDA_TOKENS / 8);
    out.key_scales = (uint16_t *)(out.values + sum * (CUDA_GROUP * CUDA_TOKENS / 8));
    out.value_scales = out.key_scales + CUDA_TOKENS;
    return out;
}

/* u of a code after another. */
__device__ static inline int trellis_u(int previous, int code)
{
    return 5 * (code >> 1) + 3 * (code & 1) + 4 * (previous & 1) + 3 * (1 - (previous >> 1));
}

__device__ static inline int word_level(const uint32_t words[2], int bits, int column)
{
    int byte = column / 4, q = column % 4;
    if (bits == 4) return 2 * (int)(words[q / 2] >> (8 * byte + 4 * (q % 2)) & 15) - 15;
    if (bits == 1) return words[0] >> (8 * byte + q) & 1 ? 8 : -8;
    int before = (column + 15) % 16;
    return 2 * trellis_u(words[0] >> (2 * before) & 3, words[0] >> (2 * column) & 3) - 15;
}

/* Where the word of a key's group stands (token's own row), and the shift of a group of 1 bit. */
__device__ static inline int key_word_at(const uint8_t *bits, int n_groups, int group, int token, int *shift)
{
    int before = 0, ones = 0;
    for (int g = 0; g < group; g++) {
        before += bits[g] > 1 ? bits[g] * 16 : 0;
        ones += bits[g] == 1;
    }
    *shift = 4 * (ones % 2);
    return token / 8 * key_row_bytes(bits, n_groups) + before + ones / 2 * 32 + token % 8 * 4;
}

/* The same of a value's channel and a tile of 16 tokens. */
__device__ static inline int value_word_at(const uint8_t *bits, int channel, int tile, int *shift)
{
    int group = channel / CUDA_GROUP, before = 0;
    for (int g = 0; g < group; g++) before += bits[g];
    int first = bits[group] == 1 ? tile & ~1 : tile;
    *shift = 4 * (tile - first);
    return before * (CUDA_GROUP * CUDA_TOKENS / 8) + channel % CUDA_GROUP / 8 * (bits[group] * 64) +
           first * bits[group] * 16 + channel % 8 * 4;
}

__device__ static inline int level_at(const uint8_t *codes, int at, int shift, int bits, int column)
{
    uint32_t words[2];
    words[0] = *(const uint32_t *)(codes + at) >> shift;
    words[1] = bits == 4 ? *(const uint32_t *)(codes + at + 32) : 0;
    return word_level(words, bits, column);
}

__device__ static inline int key_level(const page_part *part, int n_groups, int token, int channel)
{
    int group = channel / CUDA_GROUP, shift;
    if (part->key_bits[group] == 0) return 0;
    int at = key_word_at(part->key_bits, n_groups, group, token, &shift);
    return level_at(part->keys, at, shift, part->key_bits[group], channel % CUDA_GROUP);
}

__device__ static inline int value_level(const page_part *part, int token, int channel)
{
    int bits = part->value_bits[channel / CUDA_GROUP], shift;
    if (bits == 0) return 0;
    int at = value_word_at(part->value_bits, channel, token / CUDA_GROUP, &shift);
    return level_at(part->values, at, shift, bits, token % CUDA_GROUP);
}

__device__ static inline const __half *half_page(const cuda_block *block, int layer, int head, int head_dim)
{
    return (const __half *)(block->f16 + layer * block->f16_layer_stride +
                            (size_t)head * (2 * CUDA_TOKENS * sizeof(uint16_t)) * head_dim);
}

#endif
