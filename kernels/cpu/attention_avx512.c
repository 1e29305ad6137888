/* VNNI on 256-bit vectors: the products of a quad go into 32-bit sums at once. */
#define DOT_STEP(sum, u, s) _mm256_dpbusd_epi32(sum, u, s)
#define DOT_SUM(sum)        (sum)
#define DOT_QUADS(largest)  ((void)(largest), 1 << 20)

#include "kernels/cpu/attention_simd.h"

const struct attention_kernels attention_kernels_avx512 = {
    .transform = transform,
    .query_frame = query_frame,
    .scores_half = scores_half,
    .scores_coded = scores_coded,
    .softmax = softmax,
    .values_half = values_half,
    .values_coded = values_coded,
};
