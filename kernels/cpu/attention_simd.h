/*
 * The attention kernels in 256-bit vectors, included by attention_avx2.c and attention_avx512.c after they
 * have defined what differs:
 *
 *   dot_step(sum, u, s)   adds to each 32-bit group of `sum` the products of its 4 unsigned and 4 signed
 *                         bytes, in the form that dot_sum turns into eight int32
 *   dot_sum(sum)
 *   DOT_OVERFLOWS         1: `sum` holds int16, so that all its products, two from each step, must together
 *                         stay within 32,767
 *   rotate_left_2(x)      each 32-bit group
 *
 * Where a kernel runs over rows, it takes a few at once: the keys, values or codes are expanded in registers
 * and used for all of them. Such functions are inlined with constant counts, so that the loops over rows and
 * vectors unroll into registers; which counts are taken changes no sum.
 */
#include "kernels/cpu/attention.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

enum { TOKENS = KV_BLOCK_TOKENS, LANES = 8 };

#define INLINE static inline __attribute__((always_inline))

INLINE __m256 load_half(const uint16_t *half)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)half));
}

/* attention_exp2. The rounding constant leaves the whole part in the low bits, ready for the exponent. */
INLINE __m256 exp2_lanes(__m256 x)
{
    const __m256 round = _mm256_set1_ps(0x1.8p+23f);
    __m256 shifted = _mm256_add_ps(x, round);
    __m256 f = _mm256_sub_ps(x, _mm256_sub_ps(shifted, round));
    __m256 y = _mm256_fmadd_ps(_mm256_set1_ps(ATTENTION_EXP2_C5), f, _mm256_set1_ps(ATTENTION_EXP2_C4));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(ATTENTION_EXP2_C3));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(ATTENTION_EXP2_C2));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(ATTENTION_EXP2_C1));
    y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(1.0f));
    __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    y = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), exponent));
    return _mm256_and_ps(y, _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_GE_OQ));
}

INLINE float max_of_lanes(__m256 x)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

INLINE int32_t sum_of_lanes(__m256i x)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* 16 floats to int32, rounded to nearest even, then packed in order to int16. */
INLINE __m256i round_to_16(__m256 low, __m256 high)
{
    __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
    return _mm256_permute4x64_epi64(packed, 0xd8);
}

/* attention_column_place, for a shuffle. */
INLINE __m128i column_places(void)
{
    return _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}

#include "kernels/cpu/attention_simd_half.h"

#include "kernels/cpu/attention_simd_coded.h"
#include "kernels/cpu/attention_simd_query.h"
#include "kernels/cpu/attention_simd_softmax.h"
