#ifndef KERNELS_CUDA_ROTATED_H
#define KERNELS_CUDA_ROTATED_H

#include "kernels/cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* struct kv_rotate on the card, and what it takes of struct kv_tables. */
struct cuda_rotate {
    int key_group, key_hadamard, value_hadamard, frame_tokens;
    uint64_t layer_bytes;
    const int32_t *key_order;           /* [layers][n_channels] */
    const float *rope_cos, *rope_sin;   /* [head_dim/2][frame_tokens] */
    const float *frame_cos, *frame_sin; /* [n_frames][head_dim/2] */
};

/* rotated.cu: blocks of format rotatekv, of which parts[0] has the codes; seal->codec is not looked at. To
   the bit what kernels/kv_rotate.c computes. */
cudaError_t cuda_rotated_seal_run(const struct cuda_rotate *rotate, const struct cuda_seal *seal,
                                  cudaStream_t stream);
cudaError_t cuda_rotated_unseal_run(const struct cuda_rotate *rotate, const struct cuda_seal *seal,
                                    cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
