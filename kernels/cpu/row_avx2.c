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

static __m256i round_to_codes(__m256 values)
{
    __m256i bits = _mm256_castps_si256(_mm256_add_ps(values, _mm256_set1_ps(0x1.8p+23f)));
    __m256i codes = _mm256_sub_epi32(bits, _mm256_set1_epi32(0x4b400000));
    codes = _mm256_min_epi32(codes, _mm256_set1_epi32(127));
    return _mm256_max_epi32(codes, _mm256_set1_epi32(-127));
}

/* Sums of a half's 16 codes, given as two registers: by pair of columns, times 32, and all together. */
static void half_sums(__m256i a, __m256i b, int half, struct act_group *group)
{
    __m256i both = _mm256_add_epi32(a, b);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    int32_t sums[4]; /* over columns 4i, 4i+1, 4i+2, 4i+3 */
    _mm_storeu_si128((__m128i *)sums, four);
    group->half_sum[half] = lanes_sum_i32(four);
    group->pair_sum[half][0] = (int16_t)(32 * (sums[0] + sums[1]));
    group->pair_sum[half][1] = (int16_t)(32 * (sums[2] + sums[3]));
}

static void quantize_group(const float *x, struct act_group *group)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v[4], amaxes = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        amaxes = _mm256_max_ps(_mm256_andnot_ps(sign, v[i]), amaxes);
    }
    float amax = lanes_max(amaxes);
    __m256 inverse = _mm256_set1_ps(amax > 0.0f ? 127.0f / amax : 0.0f);
    __m256i codes[4];
    for (int i = 0; i < 4; i++) codes[i] = round_to_codes(_mm256_mul_ps(v[i], inverse));
    __m256i low = _mm256_packs_epi32(codes[0], codes[1]), high = _mm256_packs_epi32(codes[2], codes[3]);
    __m256i bytes = _mm256_packs_epi16(low, high); /* each pack works within 128-bit halves */
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)group->q, bytes);
    half_sums(codes[0], codes[1], 0, group);
    half_sums(codes[2], codes[3], 1, group);
    group->scale = amax / 127.0f;
    group->sum = group->scale * (float)(group->half_sum[0] + group->half_sum[1]);
    group->unused[0] = group->unused[1] = 0;
}

static void quantize(const float *x, int n, struct act_group *groups)
{
    for (int g = 0; g < n / TILE_GROUP; g++) quantize_group(x + g * TILE_GROUP, &groups[g]);
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

const struct row_kernels row_avx2 = {rmsnorm, quantize, rope, swiglu, add};
