/* The write path's kernels in 256-bit vectors (kernels/cpu/kv_write.h), included by kv_write_avx2.c and
   kv_write_avx512.c, whose compilers may use more registers. Lanes = tokens. */
#include "kernels/cpu/kv_write.h"

#include <immintrin.h>

enum { TOKENS = KV_BLOCK_TOKENS, LANES = 8 };

static inline __m128i half_saturated(__m256 x)
{
    x = _mm256_max_ps(x, _mm256_set1_ps(-65504.0f));
    x = _mm256_min_ps(x, _mm256_set1_ps(65504.0f));
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static void half_to_float(const uint16_t *half, int n, float *out)
{
    for (int i = 0; i < n; i += LANES)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(half + i))));
}

static void float_to_half(const float *x, int n, uint16_t *out)
{
    for (int i = 0; i < n; i += LANES)
        _mm_storeu_si128((__m128i *)(out + i), half_saturated(_mm256_loadu_ps(x + i)));
}

static void mix(const float *matrix, const float *x, int n, float *out)
{
    for (int t = 0; t < TOKENS; t += 2 * LANES) {
        for (int j = 0; j < n; j += 4) {
            __m256 sums[4][2];
            for (int r = 0; r < 4; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
            for (int i = 0; i < n; i++) {
                __m256 low = _mm256_loadu_ps(x + i * TOKENS + t);
                __m256 high = _mm256_loadu_ps(x + i * TOKENS + t + LANES);
                for (int r = 0; r < 4; r++) {
                    __m256 factor = _mm256_broadcast_ss(matrix + (j + r) * n + i);
                    sums[r][0] = _mm256_fmadd_ps(factor, low, sums[r][0]);
                    sums[r][1] = _mm256_fmadd_ps(factor, high, sums[r][1]);
                }
            }
            for (int r = 0; r < 4; r++) {
                _mm256_storeu_ps(out + (j + r) * TOKENS + t, sums[r][0]);
                _mm256_storeu_ps(out + (j + r) * TOKENS + t + LANES, sums[r][1]);
            }
        }
    }
}

/* 1 where the cell is at least the bound, else 0. */
static inline __m256 step_at(__m256 cell, float bound)
{
    return _mm256_and_ps(_mm256_cmp_ps(cell, _mm256_set1_ps(bound), _CMP_GE_OQ), _mm256_set1_ps(1.0f));
}

/* Eight int32 codes of 0..15 to bytes. */
static inline void codes_store(__m256i codes, uint8_t *out)
{
    __m128i pairs = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storel_epi64((__m128i *)out, _mm_packus_epi16(pairs, pairs));
}

static void quantize(const float *x, int n, uint8_t *codes4, uint16_t *scale4, uint16_t *scale2)
{
    for (int t = 0; t < TOKENS; t += LANES) {
        __m256 norm = _mm256_setzero_ps(), dot4 = norm, dot2 = norm;
        for (int i = 0; i < n; i++) {
            __m256 value = _mm256_loadu_ps(x + i * TOKENS + t);
            norm = _mm256_fmadd_ps(value, value, norm);
        }
        __m256 is_some = _mm256_cmp_ps(norm, _mm256_set1_ps(1e-30f), _CMP_GE_OQ);
        __m256 rms = _mm256_sqrt_ps(_mm256_div_ps(norm, _mm256_set1_ps((float)n)));
        __m256 per_step = _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_mul_ps(rms, _mm256_set1_ps(KV_STEP_4)));
        per_step = _mm256_and_ps(per_step, is_some);
        for (int i = 0; i < n; i++) {
            __m256 value = _mm256_loadu_ps(x + i * TOKENS + t);
            __m256 cell = _mm256_floor_ps(_mm256_mul_ps(value, per_step));
            cell = _mm256_max_ps(cell, _mm256_set1_ps(-8.0f));
            cell = _mm256_min_ps(cell, _mm256_set1_ps(7.0f));
            codes_store(_mm256_add_epi32(_mm256_cvtps_epi32(cell), _mm256_set1_epi32(8)),
                        codes4 + i * TOKENS + t);
            dot4 = _mm256_fmadd_ps(value, _mm256_add_ps(cell, _mm256_set1_ps(0.5f)), dot4);
            __m256 code2 =
                _mm256_add_ps(_mm256_add_ps(step_at(cell, -3), step_at(cell, 0)), step_at(cell, 3));
            dot2 = _mm256_fmadd_ps(value, _mm256_sub_ps(code2, _mm256_set1_ps(1.5f)), dot2);
        }
        __m256 ratio4 = _mm256_and_ps(_mm256_div_ps(norm, dot4), is_some);
        __m256 ratio2 = _mm256_and_ps(_mm256_div_ps(norm, dot2), is_some);
        _mm_storeu_si128((__m128i *)(scale4 + t), half_saturated(ratio4));
        _mm_storeu_si128((__m128i *)(scale2 + t), half_saturated(ratio2));
    }
}

static void nest(const uint8_t *codes4, size_t n, uint8_t *codes2)
{
    const __m256i nested =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3));
    const __m256i nibble = _mm256_set1_epi8(15);
    for (size_t group = 0; group < n; group += 32) {
        __m256i codes = _mm256_setzero_si256();
        for (int j = 1; j >= 0; j--) {
            __m256i packed = _mm256_loadu_si256((const __m256i *)(codes4 + 2 * group + 32 * j));
            __m256i low = _mm256_shuffle_epi8(nested, _mm256_and_si256(packed, nibble));
            __m256i high =
                _mm256_shuffle_epi8(nested, _mm256_and_si256(_mm256_srli_epi16(packed, 4), nibble));
            __m256i pair = _mm256_or_si256(low, _mm256_slli_epi16(high, 2));
            codes = _mm256_or_si256(_mm256_slli_epi16(codes, 4), pair);
        }
        _mm256_storeu_si256((__m256i *)(codes2 + group), codes);
    }
}
