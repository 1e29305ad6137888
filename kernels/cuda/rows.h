#ifndef KERNELS_CUDA_ROWS_H
#define KERNELS_CUDA_ROWS_H

#include "kernels/cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* rows.cu: what is done to a row between two products, in one pass over it, in this order; the same bits as
   one after the other. n: a multiple of 4, at most CUDA_MOST_ROW; rows start on 16 bytes. */
enum { CUDA_MOST_ROW = 65536 };
struct cuda_row_work {
    float *x;          /* [n_rows][n] */
    const float *y;    /* added to x, which is written; NULL: nothing */
    const float *up;   /* x becomes silu(x) * up; NULL: not */
    const float *gain; /* [n] the row is normalised; NULL: not */
    float eps;
    int n_rows, n;
    float *out;     /* where the result goes; NULL: nowhere */
    uint16_t *half; /* and where divided by a power of two; NULL: nowhere */
    float *scale;   /* [n_rows] that power */
};
cudaError_t cuda_row_run(const struct cuda_row_work *work, cudaStream_t stream);

/* rope.cu */
struct cuda_rotation {
    int layer, n_heads, n_kv_heads, head_dim, n_rows;
    const struct cuda_span *spans; /* NULL: nothing is stored */
    const struct cuda_row *rows;
    float *q; /* [n_rows][n_heads][head_dim] */
    float *k; /* [n_rows][n_kv_heads][head_dim] */
    const float *v;
    const float *cosines, *sines; /* [n_rows][head_dim / 2] */
};
/* Queries and keys are turned; keys, as they are then, and values go to the f16 pages. */
cudaError_t cuda_rotate_run(const struct cuda_rotation *rotation, cudaStream_t stream);
/* Of each row's position; rows of nobody get nothing. inv_freq [half] is of the card too. */
cudaError_t cuda_angles_run(const struct cuda_row *rows, int n_rows, int half, const double *inv_freq,
                            float *cosines, float *sines, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
