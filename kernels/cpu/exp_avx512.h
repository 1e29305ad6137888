#ifndef KERNELS_CPU_EXP_AVX512_H
#define KERNELS_CPU_EXP_AVX512_H

#include "kernels/cpu/exp.h"

#include <immintrin.h>

/* exp_scalar() of sixteen lanes. */
static inline __m512 exp_avx512(__m512 x)
{
    __m512 bounded = _mm512_min_ps(x, _mm512_set1_ps(EXP_HIGHEST));
    bounded = _mm512_max_ps(bounded, _mm512_set1_ps(EXP_LOWEST));
    __m512 shifted = _mm512_fmadd_ps(bounded, _mm512_set1_ps(EXP_LOG2E), _mm512_set1_ps(EXP_ROUND));
    __m512 n = _mm512_sub_ps(shifted, _mm512_set1_ps(EXP_ROUND));
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-EXP_LN2_HI), bounded);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-EXP_LN2_LO), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(EXP_C6), r, _mm512_set1_ps(EXP_C5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    __m512i scale = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    p = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), scale));
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(EXP_LOWEST), _CMP_NLT_UQ), p);
}

#endif
