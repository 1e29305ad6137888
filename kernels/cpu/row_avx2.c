#include "kernels/cpu/exp_avx2.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/row.h"

#include <immintrin.h>
#include <math.h>

/* row_scalar.c, eight lanes at a time; what is left of a row goes to the scalar code. */

static float lanes_sum(const float lane[16])
{
    __m256 eight = _mm256_add_ps(_mm256_loadu_ps(lane), _mm256_loadu_ps(lane + 8));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static void rmsnorm(const float *x, const float *gain, float eps, int n, float *out)
{
    __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + 8);
        low = _mm256_fmadd_ps(a, a, low);
        high = _mm256_fmadd_ps(b, b, high);
    }
    float lane[16];
    _mm256_storeu_ps(lane, low);
    _mm256_storeu_ps(lane + 8, high);
    for (; i < n; i++) lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);

    float factor = 1.0f / sqrtf(lanes_sum(lane) / (float)n + eps);
    __m256 factors = _mm256_set1_ps(factor);
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(x + i), factors);
        _mm256_storeu_ps(out + i, _mm256_mul_ps(scaled, _mm256_loadu_ps(gain + i)));
    }
    for (; i < n; i++) out[i] = x[i] * factor * gain[i];
}

static float lanes_max(__m256 v)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

static int32_t lanes_sum_i32(__m128i v)
{
    __m128i two = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

static __m256i round_to_codes(__m256 values, int32_t largest)
{
    __m256i bits = _mm256_castps_si256(_mm256_add_ps(values, _mm256_set1_ps(0x1.8p+23f)));
    __m256i codes = _mm256_sub_epi32(bits, _mm256_set1_epi32(0x4b400000));
    codes = _mm256_min_epi32(codes, _mm256_set1_epi32(largest));
    return _mm256_max_epi32(codes, _mm256_set1_epi32(-largest));
}

/* Sums of the 16 codes of a half over columns 4i, 4i+1, 4i+2, 4i+3. */
static __m128i half_column_sums(const __m256i codes[2])
{
    __m256i both = _mm256_add_epi32(codes[0], codes[1]);
    return _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
}

static inline void codes_of_group(const float *x, int32_t largest, __m256i codes[4], struct act_head *head)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v[4], amaxes = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        amaxes = _mm256_max_ps(_mm256_andnot_ps(sign, v[i]), amaxes);
    }
    float amax = lanes_max(amaxes);
    __m256 inverse = _mm256_set1_ps(amax > 0.0f ? (float)largest / amax : 0.0f);
    for (int i = 0; i < 4; i++) codes[i] = round_to_codes(_mm256_mul_ps(v[i], inverse), largest);
    for (int half = 0; half < 2; half++)
        head->half_sum[half] = lanes_sum_i32(half_column_sums(codes + 2 * half));
    head->scale = amax / (float)largest;
    head->sum = head->scale * (float)(head->half_sum[0] + head->half_sum[1]);
}

static void quantize_8(const float *x, int n, struct act_8 *groups)
{
    for (struct act_8 *group = groups; group < groups + n / TILE_GROUP; group++, x += TILE_GROUP) {
        __m256i codes[4];
        codes_of_group(x, 127, codes, &group->head);
        __m256i low = _mm256_packs_epi32(codes[0], codes[1]), high = _mm256_packs_epi32(codes[2], codes[3]);
        __m256i bytes = _mm256_packs_epi16(low, high); /* each pack works within 128-bit halves */
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)group->q, bytes);
        for (int half = 0; half < 2; half++) {
            int32_t sums[4];
            _mm_storeu_si128((__m128i *)sums, half_column_sums(codes + 2 * half));
            group->pair_sum[half][0] = (int16_t)(32 * (sums[0] + sums[1]));
            group->pair_sum[half][1] = (int16_t)(32 * (sums[2] + sums[3]));
        }
        group->unused[0] = group->unused[1] = 0;
    }
}

static void quantize_16(const float *x, int n, struct act_16 *groups)
{
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5,
                                           2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    for (struct act_16 *group = groups; group < groups + n / TILE_GROUP; group++, x += TILE_GROUP) {
        __m256i codes[4];
        codes_of_group(x, 32767, codes, &group->head);
        for (int half = 0; half < 2; half++) {
            __m256i words = _mm256_packs_epi32(codes[2 * half], codes[2 * half + 1]);
            words = _mm256_permute4x64_epi64(words, 0xd8); /* the pack works within 128-bit halves */
            _mm256_storeu_si256((__m256i *)(group->q + 16 * half), _mm256_shuffle_epi8(words, order));
        }
    }
}

static void rope(float *x, int n_heads, int head_dim, const float *cosines, const float *sines)
{
    int half = head_dim / 2;
    for (int h = 0; h < n_heads; h++, x += head_dim) {
        int i = 0;
        for (; i + 8 <= half; i += 8) {
            __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + half);
            __m256 c = _mm256_loadu_ps(cosines + i), s = _mm256_loadu_ps(sines + i);
            _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
            _mm256_storeu_ps(x + i + half, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
        }
        for (; i < half; i++) {
            float a = x[i], b = x[i + half];
            x[i] = fmaf(a, cosines[i], -(b * sines[i]));
            x[i + half] = fmaf(b, cosines[i], a * sines[i]);
        }
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *out)
{
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 g = _mm256_loadu_ps(gate + i);
        __m256 divisor = _mm256_add_ps(one, exp_avx2(_mm256_xor_ps(g, sign)));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_div_ps(g, divisor), _mm256_loadu_ps(up + i)));
    }
    for (; i < n; i++) out[i] = gate[i] / (1.0f + exp_scalar(-gate[i])) * up[i];
}

static void add(float *x, const float *y, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    for (; i < n; i++) x[i] += y[i];
}

const struct row_kernels row_avx2 = {rmsnorm, quantize_8, quantize_16, rope, swiglu, add};
