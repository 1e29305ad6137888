/* The write path's kernels in 256-bit vectors (kernels/cpu/kv_write.h), included by kv_write_avx2.c and
   kv_write_avx512.c, whose compilers may use more registers. Lanes = tokens. */
#include "kernels/cpu/kv_trellis_simd.h"
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

static void group_norms(const float *z, float *out)
{
    for (int t = 0; t < TOKENS; t += LANES) {
        __m256 sum = _mm256_setzero_ps();
        for (int i = 0; i < KV_CODE_GROUP; i++) {
            __m256 value = _mm256_loadu_ps(z + i * TOKENS + t);
            sum = _mm256_fmadd_ps(value, value, sum);
        }
        _mm256_storeu_ps(out + t, sum);
    }
}

static inline __m256 clamp(__m256 x, float low, float high)
{
    return _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(low)), _mm256_set1_ps(high));
}

/* Eight of the scalar version's symbol(). */
static inline __m256i symbols(__m256 e, int bits)
{
    if (bits == 1)
        return _mm256_and_si256(_mm256_castps_si256(_mm256_cmp_ps(e, _mm256_setzero_ps(), _CMP_GE_OQ)),
                                _mm256_set1_epi32(8));
    if (bits == 2)
        return _mm256_cvtps_epi32(
            clamp(_mm256_mul_ps(e, _mm256_set1_ps(4)), -KV_TRELLIS_LIMIT, KV_TRELLIS_LIMIT));
    __m256 cell = clamp(_mm256_floor_ps(_mm256_mul_ps(e, _mm256_set1_ps(0.5f))), -8, 7);
    return _mm256_add_epi32(_mm256_cvtps_epi32(cell), _mm256_set1_epi32(8));
}

static void transpose(__m256i x[KV_TILE])
{
    /* Four rounds of interleaving row i with row i + 8: the bits of (row, column) turn by one each round. */
    for (int round = 0; round < 4; round++) {
        __m256i y[KV_TILE];
        for (int i = 0; i < KV_TILE / 2; i++) {
            __m256i low = _mm256_unpacklo_epi16(x[i], x[i + 8]), high = _mm256_unpackhi_epi16(x[i], x[i + 8]);
            y[2 * i] = _mm256_permute2x128_si256(low, high, 0x20);
            y[2 * i + 1] = _mm256_permute2x128_si256(low, high, 0x31);
        }
        for (int i = 0; i < KV_TILE; i++) x[i] = y[i];
    }
}

/* u [column], lanes = rows, to the words of each row (kernels/kv_codec.h, Geometry): bytes 0 and 1 in one
   vector of int16, bytes 2 and 3 in another. */
static void words_pack(const __m256i u[KV_TILE], int bits, uint32_t words[2][KV_TILE])
{
    for (int run = 0; run < (bits == 4 ? 2 : 1); run++) {
        __m256i halves[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int byte = 0; byte < 4; byte++) {
            __m256i packed;
            const __m256i *c = u + 4 * byte;
            if (bits == 4)
                packed = _mm256_or_si256(c[2 * run], _mm256_slli_epi16(c[2 * run + 1], 4));
            else /* u is 8 or 0: bit 3 */
                packed =
                    _mm256_or_si256(_mm256_or_si256(_mm256_srli_epi16(c[0], 3), _mm256_srli_epi16(c[1], 2)),
                                    _mm256_or_si256(_mm256_srli_epi16(c[2], 1), c[3]));
            halves[byte / 2] = _mm256_or_si256(halves[byte / 2], _mm256_slli_epi16(packed, 8 * (byte % 2)));
        }
        halves_store(halves[0], halves[1], words[run]);
    }
}

/* The symbols of a tile, by channel, to codes; back by channel come the u. */
static inline void tile_code(__m256i x[KV_TILE], int bits, int is_values, uint32_t words[2][KV_TILE])
{
    if (bits == 2) {
        if (is_values) transpose(x);
        kv_trellis_simd((int16_t *)x, words[0]);
        if (is_values) transpose(x);
    } else if (is_values) {
        __m256i u[KV_TILE];
        for (int i = 0; i < KV_TILE; i++) u[i] = x[i];
        transpose(u);
        words_pack(u, bits, words);
    } else {
        words_pack(x, bits, words);
    }
}

static inline void tile_encode_bits(const float *z, float *y, float unit, int bits, int is_values,
                                    float *dots, uint32_t words[2][KV_TILE])
{
    __m256i u[KV_TILE];
    const __m256 per_unit = _mm256_set1_ps(1 / unit), minus_unit = _mm256_set1_ps(-unit);
    for (int i = 0; i < KV_TILE; i++) {
        __m256i low = symbols(_mm256_mul_ps(_mm256_loadu_ps(y + i * TOKENS), per_unit), bits);
        __m256i high = symbols(_mm256_mul_ps(_mm256_loadu_ps(y + i * TOKENS + LANES), per_unit), bits);
        u[i] = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    }
    tile_code(u, bits, is_values, words);
    const __m256i centre = _mm256_set1_epi16(bits == 1 ? 8 : 15);
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int i = 0; i < KV_TILE; i++) {
        __m256i levels = _mm256_sub_epi16(_mm256_slli_epi16(u[i], 1), centre);
        for (int half = 0; half < 2; half++) {
            __m128i eight = half ? _mm256_extracti128_si256(levels, 1) : _mm256_castsi256_si128(levels);
            __m256 level = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eight));
            float *at = y + i * TOKENS + half * LANES;
            sums[half] = _mm256_fmadd_ps(_mm256_loadu_ps(z + i * TOKENS + half * LANES), level, sums[half]);
            _mm256_storeu_ps(at, _mm256_fmadd_ps(minus_unit, level, _mm256_loadu_ps(at)));
        }
    }
    _mm256_storeu_ps(dots, sums[0]);
    _mm256_storeu_ps(dots + LANES, sums[1]);
}

static void tile_encode(const float *z, float *y, float unit, int bits, int is_values, float *dots,
                        uint32_t words[2][KV_TILE])
{
    if (bits == 1)
        tile_encode_bits(z, y, unit, 1, is_values, dots, words);
    else if (bits == 2)
        tile_encode_bits(z, y, unit, 2, is_values, dots, words);
    else
        tile_encode_bits(z, y, unit, 4, is_values, dots, words);
}
