#ifndef KERNELS_CUDA_PACKED_H
#define KERNELS_CUDA_PACKED_H

#include "kernels/cuda/matmul.h"
#include "kernels/dtype.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Weights that stay quantized on the card: as many bytes as in the file, but rows padded to 16 and columns to
 * 64, in the order in which lanes feed them to mma.m16n8k16.
 *
 * A tile is 16 rows and all columns; tiles follow each other. A tile is a run of units, a unit one or four
 * blocks of 64 columns and a record with their scales. Lane 4 gid + tid holds, of a block, 32 codes: those of
 * rows gid and gid + 8 (half 0 and 1) whose column is 16 k + 8 h + 2 tid + e. They are unsigned, the middle
 * being 0, and split in planes:
 *
 *   4 low bits    [32 lanes][4 words]        word k, bit 4 (2 h + half) + 16 e
 *   8 low bits    [2][32 lanes][4 words]     word 2 k + h of the eight, bit 8 half + 16 e
 *   1 high bit    [32 lanes][1 word]         bit 4 k + 2 h + half + 16 e
 *   2 high bits   [32 lanes][2 words]        word k / 2, bit 8 (k % 2) + 2 (2 h + half) + 16 e
 *
 * so that two neighbours in a row stand in the two halves of a word, as two fp16 numbers do.
 *
 * Records, fp16 unless said otherwise:
 *   CUDA_PACKED_HALVES   of one block: [gid][half][2] scales of 32 columns
 *   CUDA_PACKED_MINIMA   of four: [gid][half] of 16 bytes: scale, minimum, three words. Byte i of word w has
 * the 6 bits of block w's scale, minimum, scale, minimum, and above them 2 bits of block 3's
 *   CUDA_PACKED_SIGNED   of four: [block][gid][half][k] int8 + 128, then [gid][half] the scale that they
 * multiply
 */
enum cuda_packed_record { CUDA_PACKED_HALVES, CUDA_PACKED_MINIMA, CUDA_PACKED_SIGNED };
enum { CUDA_PACKED_ROWS = 16, CUDA_PACKED_COLUMNS = 64 }; /* of a block */

/* FORM(type, low bits, high bits, record, middle) */
#define CUDA_PACKED_FORMS(FORM)                                                                              \
    FORM(Q4_0, 4, 0, CUDA_PACKED_HALVES, 8)                                                                  \
    FORM(Q5_0, 4, 1, CUDA_PACKED_HALVES, 16)                                                                 \
    FORM(Q8_0, 8, 0, CUDA_PACKED_HALVES, 128)                                                                \
    FORM(Q4_K, 4, 0, CUDA_PACKED_MINIMA, 0)                                                                  \
    FORM(Q5_K, 4, 1, CUDA_PACKED_MINIMA, 0)                                                                  \
    FORM(Q6_K, 4, 2, CUDA_PACKED_SIGNED, 32)

#define CUDA_PACKED_CODE_BYTES(low, high) (((low) + (high)) * 128) /* of a block */
#define CUDA_PACKED_UNIT_BLOCKS(record)   ((record) == CUDA_PACKED_HALVES ? 1 : 4)
#define CUDA_PACKED_RECORD_BYTES(record)                                                                     \
    ((record) == CUDA_PACKED_HALVES ? 64 : (record) == CUDA_PACKED_MINIMA ? 256 : 288)

struct cuda_packed {
    enum dtype dtype;
    int n_rows, n_cols;
    const char *memory; /* of the card, [tiles][units]; NULL: the weight is not packed */
};

/* packed.c. False for the types that have no form. */
bool cuda_packed_has(enum dtype dtype);
/* Of a tile of so many columns. */
size_t cuda_packed_tile_bytes(enum dtype dtype, int n_cols);
/* Tiles of n_rows rows, on the host: rows[i] points to the GGUF blocks of row i. */
void cuda_packed_fill(enum dtype dtype, const void *const *rows, int n_rows, int n_cols, void *out);

/* packed.cu: the fp16 values that dtype_to_f32 and rounding to fp16 give, bit for bit. n_rows rows from
   first_row on, a multiple of 16, to out [n_rows][n_cols]; rows of tokens, as floats, to out
   [n_tokens][n_cols].
 */
cudaError_t cuda_packed_unpack_run(const struct cuda_packed *packed, int first_row, int n_rows, uint16_t *out,
                                   cudaStream_t stream);
cudaError_t cuda_packed_gather_run(const struct cuda_packed *packed, const int32_t *tokens, int n_tokens,
                                   float *out, cudaStream_t stream);

/* matmul_packed.cu: products for few tokens, of parts whose weights are packed[i], all of one type, instead
   of part.weight. matmul->n_segments (1, 2, 4 or 8; 0: 1) says how columns are cut, as by matmul_90.cu: with
   one segment the bits are those of matmul.cu, with n those of matmul_90.cu with n. */
cudaError_t cuda_matmul_packed_run(const struct cuda_packed *const *packed, const struct cuda_matmul *matmul,
                                   cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
