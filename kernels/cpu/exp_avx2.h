#ifndef KERNELS_CPU_EXP_AVX2_H
#define KERNELS_CPU_EXP_AVX2_H

#include "kernels/cpu/exp.h"

#include <immintrin.h>

/* exp_scalar() of eight lanes. */
static inline __m256 exp_avx2(__m256 x)
{
    __m256 bounded = _mm256_min_ps(x, _mm256_set1_ps(EXP_HIGHEST));
    bounded = _mm256_max_ps(bounded, _mm256_set1_ps(EXP_LOWEST));
    __m256 shifted = _mm256_fmadd_ps(bounded, _mm256_set1_ps(EXP_LOG2E), _mm256_set1_ps(EXP_ROUND));
    __m256 n = _mm256_sub_ps(shifted, _mm256_set1_ps(EXP_ROUND));
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_HI), bounded);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-EXP_LN2_LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(EXP_C6), r, _mm256_set1_ps(EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i scale = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    p = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), scale));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(EXP_LOWEST), _CMP_LT_OQ), p);
}

#endif
