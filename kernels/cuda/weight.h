#ifndef KERNELS_CUDA_WEIGHT_H
#define KERNELS_CUDA_WEIGHT_H

#include "kernels/cuda/packed.h"

/* Between weights.c and product.c. */

/* A weight on the card: fp16, row after row, or as packed.h has it. A gathered matrix is read from the same
   copy, so nothing of the file stays borrowed. */
struct weight {
    int n_rows, n_cols;
    uint16_t *data; /* of the card: [n_rows][n_cols]; NULL: packed */
    struct cuda_packed packed;
};

/* Activations in fp16, each row divided by a power of two. */
struct acts {
    int max_rows, max_cols;
    int n_rows, n_cols;
    uint16_t *half; /* of the card */
    float *scale;
};

/* Products of more tokens than this turn packed weights to fp16, slice by slice, in memory of at most
   CUDA_UNPACKED_BYTES or CUDA_SLICE_ROWS rows. Not fewer than 64: up to there a launch of matmul_90.cu may
   read its weight before the launch that writes the slice has ended. */
enum { CUDA_FEW_TOKENS = 64, CUDA_SLICE_ROWS = 128 };
#ifdef OCTAVO_CUDA_EMULATED
enum { CUDA_UNPACKED_BYTES = 1 << 10 }; /* so that small weights have several slices */
#else
enum { CUDA_UNPACKED_BYTES = 128 << 20 };
#endif

/* The memory that such products of this weight need. */
size_t cuda_unpacked_bytes(int n_rows, int n_cols);

/* product.c: its operations into the table. */
void cuda_fill_product(struct backend *backend);

#endif
