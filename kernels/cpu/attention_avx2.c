/* 16-bit sums of pairs of products, widened before they could overflow. */
#define DOT_STEP(sum, u, s) _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, s))
#define DOT_SUM(sum)        _mm256_madd_epi16(sum, _mm256_set1_epi16(1))
#define DOT_QUADS(largest)  (32767 / (2 * (largest)))

#include "kernels/cpu/attention_simd.h"

const struct attention_kernels attention_kernels_avx2 = {
    .transform = transform,
    .query_frame = query_frame,
    .scores_half = scores_half,
    .scores_coded = scores_coded,
    .softmax = softmax,
    .values_half = values_half,
    .values_coded = values_coded,
};
