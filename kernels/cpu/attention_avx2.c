#include <immintrin.h>

/* 16-bit sums of pairs of products, widened before they could overflow. The empty assembly keeps the compiler
   from adding up the steps of a whole group first, for which it runs out of registers. */
static inline __m256i dot_step(__m256i sum, __m256i u, __m256i s)
{
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(u, s));
    __asm__("" : "+x"(sum));
    return sum;
}

static inline __m256i dot_sum(__m256i sum)
{
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

enum { DOT_OVERFLOWS = 1 };

static inline __m256i rotate_left_2(__m256i x)
{
    return _mm256_or_si256(_mm256_slli_epi32(x, 2), _mm256_srli_epi32(x, 30));
}

#include "kernels/cpu/attention_simd.h"

const struct attention_kernels attention_kernels_avx2 = {
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
