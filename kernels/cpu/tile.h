#ifndef KERNELS_CPU_TILE_H
#define KERNELS_CPU_TILE_H

#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * How weights lie in memory for products.
 *
 * A tile is 8 rows of the matrix over all its columns, read from front to back: for every scale block (a
 * group of 32 columns, or 8 groups in types with blocks of 256) its scales, then the codes of its groups.
 * Tiles follow each other, so that a product is one stream through memory. Within a group, the codes of one
 * quad of columns (4q .. 4q+3) make 32 bytes when expanded: byte 4*row + i is column 4q+i of that row. So a
 * 256-bit register holds one quad of 8 rows, each of its eight 32-bit lanes is a row, and u8 x s8 dot
 * products over 4 neighbouring bytes land in the row's lane. Packed, byte k of 32:
 *
 *   nibbles   4 x 32 bytes: of pair p, quad 2p in the low nibble, quad 2p+1 in the high
 *   bit 4     32 bytes (5-bit types, after the nibbles): quad q at bit q
 *   bits 4-5  2 x 32 bytes (Q6_K, after the nibbles): of half h, quad 4h+i at bits 2i, 2i+1
 *   bytes     8 x 32 bytes (Q8_0): int8
 *   floats    [32 columns][8 rows] in their own type (F32, F16, BF16)
 *
 * Scales, halves being fp16 and exact copies of the file's, [8] over rows:
 *
 *   Q4_0 Q5_0 Q8_0   per group: halves d[8]
 *   Q4_1 Q5_1        per group: halves d[8], m[8]
 *   Q4_K Q5_K        per 256:   halves d[8], dmin[8]; then per group bytes scale[8], minimum[8]
 *   Q6_K             per 256:   halves d[8]; then per group int8 scale[2][8] of its halves of 16 columns
 *
 * That is the size of the file, but for Q4_K (+2.8 %) and Q5_K (+2.3 %), whose 6-bit scales become bytes.
 * Rows past the end of the matrix are zero.
 */
enum { TILE_ROWS = 8, TILE_GROUP = 32, TILE_QUADS = 8 };

struct tile_format {
    int code_bytes;       /* of a group */
    int scale_bytes;      /* of `groups_per_scale` groups */
    int groups_per_scale; /* 1, or 8 for blocks of 256 */
};

/* Inline, so that in the kernels, which know their type, these are constants. */
static inline __attribute__((always_inline)) struct tile_format tile_format(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
        return (struct tile_format){1024, 0, 1};
    case DTYPE_F16:
    case DTYPE_BF16:
        return (struct tile_format){512, 0, 1};
    case DTYPE_Q4_0:
        return (struct tile_format){128, 16, 1};
    case DTYPE_Q4_1:
        return (struct tile_format){128, 32, 1};
    case DTYPE_Q5_0:
        return (struct tile_format){160, 16, 1};
    case DTYPE_Q5_1:
        return (struct tile_format){160, 32, 1};
    case DTYPE_Q8_0:
        return (struct tile_format){256, 16, 1};
    case DTYPE_Q4_K:
        return (struct tile_format){128, 160, 8};
    case DTYPE_Q5_K:
        return (struct tile_format){160, 160, 8};
    case DTYPE_Q6_K:
        return (struct tile_format){192, 144, 8};
    }
    return (struct tile_format){0, 0, 1};
}

static inline __attribute__((always_inline)) bool tile_is_quantized(enum dtype dtype)
{
    return dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16;
}

/* Bits of a code: 32 of 8 rows take 32 bytes a bit. */
static inline __attribute__((always_inline)) int tile_code_bits(enum dtype dtype)
{
    return tile_format(dtype).code_bytes / 32;
}

/* Whether a group's weights are step * code + offset. */
static inline __attribute__((always_inline)) bool tile_has_offset(enum dtype dtype)
{
    return tile_is_quantized(dtype) && dtype != DTYPE_Q8_0 && dtype != DTYPE_Q6_K;
}

/* n_cols a multiple of 32 and of the block. */
size_t tile_bytes(enum dtype dtype, int n_cols);

/* Packs one tile. rows[i]: GGUF bytes of row i, or NULL for a row of zeros. */
void tile_pack(enum dtype dtype, const void *const rows[TILE_ROWS], int n_cols, void *tile);

#endif
