#include <immintrin.h>

/* VNNI on 256-bit vectors: the products of a quad go into 32-bit sums at once. */
static inline __m256i dot_step(__m256i sum, __m256i u, __m256i s)
{
    return _mm256_dpbusd_epi32(sum, u, s);
}

static inline __m256i dot_sum(__m256i sum)
{
    return sum;
}

enum { DOT_OVERFLOWS = 0 };

static inline __m256i rotate_left_2(__m256i x)
{
    return _mm256_rol_epi32(x, 2);
}

#include "kernels/cpu/attention_simd.h"

const struct attention_kernels attention_kernels_avx512 = {
    .transform = transform,
    .query_frame = query_frame,
    .query_quantize = query_quantize,
    .scores_half = scores_half,
    .scores_mean = scores_mean,
    .scores_coded = scores_coded,
    .softmax = softmax,
    .values_half = values_half,
    .values_coded = values_coded,
};
