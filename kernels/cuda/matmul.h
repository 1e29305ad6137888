#ifndef KERNELS_CUDA_MATMUL_H
#define KERNELS_CUDA_MATMUL_H

#include "kernels/cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out[t][r] = scale[t] * sum_c weight[r][c] x[t][c] + bias[r], of one to three weights. A token's result is
   the same bits for every n_tokens; it may be others on another kind of card, or in another group of weights.
 */
enum { CUDA_MATMUL_PARTS = 3 };
struct cuda_matmul_part {
    const uint16_t *weight; /* [n_rows][n_cols] fp16 */
    const float *bias;      /* [n_rows]; NULL: 0 */
    float *out;             /* [n_tokens][out_rows] */
    int n_rows, out_rows;   /* out_rows: n_rows, or more where the part is but some rows of a weight */
};
struct cuda_matmul {
    struct cuda_matmul_part parts[CUDA_MATMUL_PARTS];
    int n_parts;
    const uint16_t *x;    /* [n_tokens][n_cols] fp16 */
    const float *scale;   /* [n_tokens] */
    int n_cols, n_tokens; /* n_cols: a multiple of 32 */
    /* On Hopper cards: cuda_matmul_90_segments of the group that the parts were taken from; 0: they are it.
       matmul.cu has one. */
    int n_segments;
};

/* matmul.cu: on any card. */
cudaError_t cuda_matmul_run(const struct cuda_matmul *matmul, cudaStream_t stream);

/* matmul_90.cu: on the Hopper cards. What run wants as driver; NULL where there is no such code or card. */
void *cuda_matmul_90_open(void);
/* In how many segments a group's columns are cut: by the shapes of its weights alone. */
int cuda_matmul_90_segments(const struct cuda_matmul *matmul);
cudaError_t cuda_matmul_90_run(void *driver, const struct cuda_matmul *matmul, int n_processors,
                               cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
