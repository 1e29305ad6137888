#ifndef KERNELS_CUDA_CHOOSE_H
#define KERNELS_CUDA_CHOOSE_H

#include "kernels/choice.h"

#include <cuda_runtime_api.h>

/*
 * choose.cu: rows of logits looked through on the card (struct backend_wish). Every pointer is into the
 * card's memory.
 */
#ifdef __cplusplus
extern "C" {
#endif

/* What comes back of a row; mass: its weights' sum, where a draw or a list of a share asks for it. */
struct cuda_answer {
    int32_t token, n;
    float max, threshold;
    double mass;
};

struct cuda_choice {
    const float *logits; /* [n_rows][n_vocab] */
    int n_rows, n_vocab;
    const struct backend_wish *wishes; /* [n_rows] */
    const int32_t *places;             /* [n_rows] of a row's list among all lists */
    struct cuda_answer *answers;       /* [n_rows] */
    struct backend_listed *lists;      /* [lists][BACKEND_LISTED] */
};

/* Bytes of shared memory that a row takes. */
size_t cuda_choice_shared_bytes(int n_vocab);
cudaError_t cuda_choice_run(const struct cuda_choice *choice, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
