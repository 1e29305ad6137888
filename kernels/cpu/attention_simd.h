/*
 * The attention kernels in 256-bit vectors, included by attention_avx2.c and attention_avx512.c after they
 * have defined what differs, the integer dot product:
 *
 *   dot_step(sum, u, s)   adds to each 32-bit group of `sum` the products of its 4 unsigned and 4 signed
 *                         bytes, in the form that dot_sum turns into eight int32
 *   dot_sum(sum)
 *   dot_quads(largest)    how many steps `sum` takes before it could overflow, when no product of an unsigned
 *                         and a signed byte is larger than `largest`
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

/* ---- the query in a frame ---- */

/* Lanes a, b at distance 1, 2 or 4 become a + b, a - b; `other` holds each lane's partner. */
#define BUTTERFLY(x, other, upper) _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), upper)

static void hadamard(float *x, int n)
{
    __m256 norm = _mm256_set1_ps(1.0f / sqrtf((float)n));
    for (int i = 0; i < n; i += LANES) {
        __m256 a = _mm256_loadu_ps(x + i);
        a = BUTTERFLY(a, _mm256_permute_ps(a, 0xb1), 0xaa);
        a = BUTTERFLY(a, _mm256_permute_ps(a, 0x4e), 0xcc);
        a = BUTTERFLY(a, _mm256_permute2f128_ps(a, a, 1), 0xf0);
        _mm256_storeu_ps(x + i, a);
    }
    for (int stride = LANES; stride < n; stride *= 2) {
        /* The last stride also normalises. */
        __m256 factor = 2 * stride == n ? norm : _mm256_set1_ps(1.0f);
        for (int i = 0; i < n; i += 2 * stride) {
            for (int j = i; j < i + stride; j += LANES) {
                __m256 a = _mm256_loadu_ps(x + j), b = _mm256_loadu_ps(x + j + stride);
                _mm256_storeu_ps(x + j, _mm256_mul_ps(_mm256_add_ps(a, b), factor));
                _mm256_storeu_ps(x + j + stride, _mm256_mul_ps(_mm256_sub_ps(a, b), factor));
            }
        }
    }
}

static void transform(const float *x, const float *matrix, int n, float *out)
{
    if (!matrix) {
        memcpy(out, x, (size_t)n * sizeof *out);
        hadamard(out, n);
        return;
    }
    for (int j = 0; j < n; j += 2 * LANES) {
        __m256 low = _mm256_setzero_ps(), high = low;
        for (int i = 0; i < n; i++) {
            __m256 factor = _mm256_broadcast_ss(x + i);
            low = _mm256_fmadd_ps(factor, _mm256_loadu_ps(matrix + i * n + j), low);
            high = _mm256_fmadd_ps(factor, _mm256_loadu_ps(matrix + i * n + j + LANES), high);
        }
        _mm256_storeu_ps(out + j, low);
        _mm256_storeu_ps(out + j + LANES, high);
    }
}

/* 16 floats to int32, rounded to nearest even, then packed in order to int16. */
INLINE __m256i round_to_16(__m256 low, __m256 high)
{
    __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
    return _mm256_permute4x64_epi64(packed, 0xd8);
}

static void query_quantize(struct attention_tile *tile, int row, const float *x)
{
    int n = tile->head_dim;
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 amaxes = _mm256_setzero_ps();
    for (int i = 0; i < n; i += LANES)
        amaxes = _mm256_max_ps(amaxes, _mm256_and_ps(_mm256_loadu_ps(x + i), magnitude));
    float amax = max_of_lanes(amaxes);
    int is_zero = !(amax >= ATTENTION_TINY);
    __m256 per_step = _mm256_set1_ps(is_zero ? 0 : 127.0f / amax);
    __m256i sums = _mm256_setzero_si256();
    for (int i = 0; i < n; i += 2 * LANES) {
        __m256i q = round_to_16(_mm256_mul_ps(_mm256_loadu_ps(x + i), per_step),
                                _mm256_mul_ps(_mm256_loadu_ps(x + i + LANES), per_step));
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(q, _mm256_set1_epi16(1)));
        __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        _mm_storeu_si128((__m128i *)(tile->q8 + row * n + i), bytes);
    }
    tile->q8_scale[row] = is_zero ? 0 : amax * (0.5f / 127.0f);
    tile->q8_sum[row] = sum_of_lanes(sums);
}

static void query_frame(struct attention_tile *tile, const float *cosines, const float *sines,
                        const float *matrix)
{
    int n = tile->head_dim, half = n / 2;
    for (int row = 0; row < tile->n_rows; row++) {
        const float *q = tile->q + row * n;
        float *turned = tile->q_frame + row * n, mixed[KV_MAX_HEAD_DIM];
        for (int i = 0; i < half; i += LANES) {
            __m256 c = _mm256_loadu_ps(cosines + i), s = _mm256_loadu_ps(sines + i);
            __m256 a = _mm256_loadu_ps(q + i), b = _mm256_loadu_ps(q + half + i);
            _mm256_storeu_ps(turned + i, _mm256_add_ps(_mm256_mul_ps(a, c), _mm256_mul_ps(b, s)));
            _mm256_storeu_ps(turned + half + i, _mm256_sub_ps(_mm256_mul_ps(b, c), _mm256_mul_ps(a, s)));
        }
        transform(turned, matrix, n, mixed);
        query_quantize(tile, row, mixed);
    }
}

/* ---- f16 blocks: chains of fmaf over `n` terms, lanes = tokens (scores) or channels (values) ---- */

/* out[row][8 v] (+)= sum_i factors[row][i] * half[i][8 v], for n_rows rows and n_vectors vectors. */
INLINE void half_product(const float *factors, int factor_stride, const uint16_t *half, int half_stride,
                         int n, float *out, int out_stride, int is_fresh, int n_rows, int n_vectors)
{
    __m256 sums[6][4];
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++)
            sums[r][v] = is_fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(out + r * out_stride + v * LANES);
    for (int i = 0; i < n; i++, half += half_stride) {
        /* Keep in registers whichever is less, the vectors or the factors. */
        __m256 x[4], factor[6];
        if (n_vectors < n_rows) {
            for (int v = 0; v < n_vectors; v++) x[v] = load_half(half + v * LANES);
            for (int r = 0; r < n_rows; r++) {
                factor[r] = _mm256_broadcast_ss(factors + r * factor_stride + i);
                for (int v = 0; v < n_vectors; v++) sums[r][v] = _mm256_fmadd_ps(factor[r], x[v], sums[r][v]);
            }
        } else {
            for (int r = 0; r < n_rows; r++) factor[r] = _mm256_broadcast_ss(factors + r * factor_stride + i);
            for (int v = 0; v < n_vectors; v++) {
                x[v] = load_half(half + v * LANES);
                for (int r = 0; r < n_rows; r++) sums[r][v] = _mm256_fmadd_ps(factor[r], x[v], sums[r][v]);
            }
        }
    }
    for (int r = 0; r < n_rows; r++)
        for (int v = 0; v < n_vectors; v++) _mm256_storeu_ps(out + r * out_stride + v * LANES, sums[r][v]);
}

/* As half_product over `width` columns, a multiple of 16. With few rows, more columns at once keep the
   multipliers busy. */
INLINE void half_columns(const float *factors, int factor_stride, const uint16_t *half, int half_stride,
                         int n, float *out, int out_stride, int width, int is_fresh, int n_rows)
{
    int column = 0;
    if (n_rows <= 3)
        for (; column + 4 * LANES <= width; column += 4 * LANES)
            half_product(factors, factor_stride, half + column, half_stride, n, out + column, out_stride,
                         is_fresh, n_rows, 4);
    for (; column < width; column += 2 * LANES)
        half_product(factors, factor_stride, half + column, half_stride, n, out + column, out_stride,
                     is_fresh, n_rows, 2);
}

/* How many rows to take at once when n are left: never leave a single row behind. */
INLINE int rows_at_once(int n)
{
    return n <= 6 ? n : n == 7 ? 4 : n == 8 ? 4 : 6;
}

INLINE void half_rows(const float *factors, int factor_stride, const uint16_t *half, int half_stride, int n,
                      float *out, int out_stride, int width, int is_fresh, int n_rows)
{
    while (n_rows > 0) {
        int taken = rows_at_once(n_rows);
#define CASE(count)                                                                                          \
    case count:                                                                                              \
        half_columns(factors, factor_stride, half, half_stride, n, out, out_stride, width, is_fresh, count); \
        break;
        switch (taken) {
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
        }
#undef CASE
        n_rows -= taken, factors += taken * factor_stride, out += taken * out_stride;
    }
}

static void scores_half(struct attention_tile *tile, const uint16_t *keys, int n_tokens)
{
    int width = (n_tokens + 2 * LANES - 1) / (2 * LANES) * (2 * LANES);
    half_rows(tile->q, tile->head_dim, keys, TOKENS, tile->head_dim, tile->scores, TOKENS, width, 1,
              tile->n_rows);
}

static void values_half(struct attention_tile *tile, int first_row, int n_rows, const uint16_t *values,
                        int n_tokens)
{
    int n = tile->head_dim;
    half_rows(tile->scores + first_row * TOKENS, TOKENS, values, n, n_tokens, tile->out_half + first_row * n,
              n, n, 0, n_rows);
}

/* ---- coded blocks ---- */

/* Quad `part` (0 or 1 at 4 bits, 0..3 at 2 bits) of a packed group. */
INLINE __m256i code_expand(__m256i packed, enum code_reading reading, int part)
{
    if (reading == CODES_2) return _mm256_and_si256(_mm256_srli_epi16(packed, 2 * part), _mm256_set1_epi8(3));
    __m256i code = _mm256_and_si256(_mm256_srli_epi16(packed, 4 * part), _mm256_set1_epi8(15));
    if (reading == CODES_4) return code;
    const __m256i nested =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3));
    return _mm256_shuffle_epi8(nested, code);
}

/* The codes of a page times a few byte vectors, one byte per column: int8 queries (is_signed) or u8 weights.
   isums[vector][row]: exact. */
struct code_product {
    const uint8_t *codes;
    int n_rows, n_quads; /* of the codes: a multiple of 16; columns / 4, a multiple of 4 */
    const uint8_t *vectors;
    int vector_stride;
    int32_t *isums; /* [n_vectors][n_rows] */
};

INLINE void code_tiles(const struct code_product *product, enum code_reading reading, int is_signed,
                       int n_vectors, int n_tiles, int row)
{
    int parts = reading == CODES_2 ? 4 : 2, largest = (reading == CODES_4 ? 15 : 3) * (is_signed ? 127 : 255);
    int most = dot_quads(largest) / 4 * 4, tile_bytes = product->n_quads / parts * 32;
    const uint8_t *codes = product->codes + row / 8 * tile_bytes;
    for (int first = 0; first < product->n_quads; first += most) {
        int end = first + most < product->n_quads ? first + most : product->n_quads;
        __m256i sums[6][2];
        for (int r = 0; r < n_vectors; r++)
            for (int t = 0; t < n_tiles; t++) sums[r][t] = _mm256_setzero_si256();
        for (int quad = first; quad < end; quad += parts) {
            __m256i packed[2];
            for (int t = 0; t < n_tiles; t++)
                packed[t] = _mm256_loadu_si256((const __m256i *)(codes + t * tile_bytes + quad / parts * 32));
            for (int part = 0; part < parts; part++) {
                __m256i code[2];
                for (int t = 0; t < n_tiles; t++) code[t] = code_expand(packed[t], reading, part);
                for (int r = 0; r < n_vectors; r++) {
                    int32_t word;
                    memcpy(&word, product->vectors + r * product->vector_stride + 4 * (quad + part),
                           sizeof word);
                    __m256i vector = _mm256_set1_epi32(word);
                    for (int t = 0; t < n_tiles; t++)
                        sums[r][t] = is_signed ? dot_step(sums[r][t], code[t], vector)
                                               : dot_step(sums[r][t], vector, code[t]);
                }
            }
        }
        for (int r = 0; r < n_vectors; r++) {
            for (int t = 0; t < n_tiles; t++) {
                __m256i *out = (__m256i *)(product->isums + r * product->n_rows + row + t * LANES);
                __m256i sum = dot_sum(sums[r][t]);
                _mm256_storeu_si256(out, first ? _mm256_add_epi32(_mm256_loadu_si256(out), sum) : sum);
            }
        }
    }
}

/* Up to four vectors go with two tiles at once, five or six with one: what the registers hold. */
INLINE void code_rows(const struct code_product *product, enum code_reading reading, int is_signed,
                      int n_vectors)
{
    for (int row = 0; row < product->n_rows; row += 2 * LANES) {
        if (n_vectors <= 4) {
            code_tiles(product, reading, is_signed, n_vectors, 2, row);
        } else {
            code_tiles(product, reading, is_signed, n_vectors, 1, row);
            code_tiles(product, reading, is_signed, n_vectors, 1, row + LANES);
        }
    }
}

INLINE void code_vectors(const struct code_product *product, enum code_reading reading, int is_signed,
                         int n_vectors)
{
    switch (n_vectors) {
    case 1:
        code_rows(product, reading, is_signed, 1);
        break;
    case 2:
        code_rows(product, reading, is_signed, 2);
        break;
    case 3:
        code_rows(product, reading, is_signed, 3);
        break;
    case 4:
        code_rows(product, reading, is_signed, 4);
        break;
    case 5:
        code_rows(product, reading, is_signed, 5);
        break;
    case 6:
        code_rows(product, reading, is_signed, 6);
        break;
    }
}

INLINE void code_multiply(const struct code_product *product, enum code_reading reading, int is_signed,
                          int n_vectors)
{
    switch (reading) {
    case CODES_4:
        code_vectors(product, CODES_4, is_signed, n_vectors);
        break;
    case CODES_2:
        code_vectors(product, CODES_2, is_signed, n_vectors);
        break;
    case CODES_4_AS_2:
        code_vectors(product, CODES_4_AS_2, is_signed, n_vectors);
        break;
    }
}

/* What isums lack to be sums of levels: 2 isum - (2^b - 1) * sum of the vector, as float. */
INLINE __m256 level_sums(const int32_t *isums, __m256i offset)
{
    __m256i isum = _mm256_loadu_si256((const __m256i *)isums);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_add_epi32(isum, isum), offset));
}

INLINE __m256i level_offset(enum code_reading reading, int32_t vector_sum)
{
    return _mm256_set1_epi32((reading == CODES_4 ? 15 : 3) * vector_sum);
}

static void scores_coded(struct attention_tile *tile, const uint8_t *codes, enum code_reading reading,
                         const uint16_t *scales, const float *mean_scores)
{
    int n = tile->head_dim;
    int32_t isums[6 * TOKENS];
    float floats[TOKENS];
    for (int t = 0; t < TOKENS; t += LANES) _mm256_storeu_ps(floats + t, load_half(scales + t));
    for (int first = 0, taken; first < tile->n_rows; first += taken) {
        taken = rows_at_once(tile->n_rows - first);
        struct code_product product = {.codes = codes,
                                       .n_rows = TOKENS,
                                       .n_quads = n / 4,
                                       .vectors = (const uint8_t *)tile->q8 + first * n,
                                       .vector_stride = n,
                                       .isums = isums};
        code_multiply(&product, reading, 1, taken);
        for (int r = 0; r < taken; r++) {
            int row = first + r;
            __m256i offset = level_offset(reading, tile->q8_sum[row]);
            __m256 step = _mm256_set1_ps(tile->q8_scale[row]);
            for (int t = 0; t < TOKENS; t += LANES) {
                __m256 sum = level_sums(isums + r * TOKENS + t, offset);
                __m256 factor = _mm256_mul_ps(_mm256_loadu_ps(floats + t), step);
                __m256 score = mean_scores ? _mm256_fmadd_ps(sum, factor,
                                                             _mm256_loadu_ps(mean_scores + row * TOKENS + t))
                                           : _mm256_mul_ps(sum, factor);
                _mm256_storeu_ps(tile->scores + row * TOKENS + t, score);
            }
        }
    }
}

static void values_coded(struct attention_tile *tile, const uint8_t *codes, enum code_reading reading)
{
    int n = tile->head_dim;
    int32_t isums[6 * KV_MAX_HEAD_DIM];
    for (int first = 0, taken; first < tile->n_rows; first += taken) {
        taken = rows_at_once(tile->n_rows - first);
        struct code_product product = {.codes = codes,
                                       .n_rows = n,
                                       .n_quads = TOKENS / 4,
                                       .vectors = tile->w8 + first * TOKENS,
                                       .vector_stride = TOKENS,
                                       .isums = isums};
        code_multiply(&product, reading, 0, taken);
        for (int r = 0; r < taken; r++) {
            int row = first + r;
            __m256i offset = level_offset(reading, tile->w8_sum[row]);
            __m256 step = _mm256_set1_ps(tile->w8_scale[row]);
            float *out = tile->out_coded + row * n;
            for (int i = 0; i < n; i += LANES)
                _mm256_storeu_ps(out + i, _mm256_fmadd_ps(level_sums(isums + r * n + i, offset), step,
                                                          _mm256_loadu_ps(out + i)));
        }
    }
}

/* ---- softmax ---- */

enum { VECTORS = TOKENS / LANES };

/* Scores of dead tokens become -inf. */
INLINE __m256 mask_lanes(__m256 scores, uint64_t live)
{
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_and_si256(_mm256_set1_epi32((int)(live & 255)), bits);
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), scores,
                            _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bits)));
}

INLINE void scale_row(float *x, int n, __m256 factor)
{
    for (int i = 0; i < n; i += LANES) _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
}

INLINE float sum_tokens(const __m256 p[VECTORS])
{
    __m256 low = p[0], high = p[1];
    for (int v = 2; v < VECTORS; v += 2) {
        low = _mm256_add_ps(low, p[v]);
        high = _mm256_add_ps(high, p[v + 1]);
    }
    low = _mm256_add_ps(low, high);
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

/* A step in three passes over the rows, so that what one row waits for (a maximum over lanes, a division) is
   hidden behind the others. */

/* The new maximum; sums and outputs move to it. */
INLINE void softmax_max(struct attention_tile *tile, int row, uint64_t live)
{
    int n = tile->head_dim;
    float *scores = tile->scores + row * TOKENS;
    __m256 maxes = _mm256_set1_ps(tile->max[row]);
    for (int v = 0; v < VECTORS; v++) {
        __m256 x = _mm256_loadu_ps(scores + v * LANES);
        if (~live) {
            x = mask_lanes(x, live >> (v * LANES));
            _mm256_storeu_ps(scores + v * LANES, x);
        }
        maxes = _mm256_max_ps(x, maxes);
    }
    float max = max_of_lanes(maxes);
    if (max > tile->max[row]) {
        float factor = attention_exp2(tile->max[row] - max);
        tile->sum[row] *= factor;
        tile->coded_sum[row] *= factor;
        scale_row(tile->out_half + row * n, n, _mm256_set1_ps(factor));
        scale_row(tile->out_coded + row * n, n, _mm256_set1_ps(factor));
        tile->max[row] = max;
    }
}

/* Scores become p, or with value_scales the weights p * scale, whose maximum is returned. */
INLINE float softmax_exp(struct attention_tile *tile, int row, const float *value_scales)
{
    float *scores = tile->scores + row * TOKENS;
    __m256 p[VECTORS], max = _mm256_set1_ps(tile->max[row]), maxes = _mm256_setzero_ps();
    for (int v = 0; v < VECTORS; v++) {
        p[v] = exp2_lanes(_mm256_sub_ps(_mm256_loadu_ps(scores + v * LANES), max));
        __m256 weight = p[v];
        if (value_scales) {
            weight = _mm256_mul_ps(p[v], _mm256_loadu_ps(value_scales + v * LANES));
            maxes = _mm256_max_ps(weight, maxes);
        }
        _mm256_storeu_ps(scores + v * LANES, weight);
    }
    float sum = sum_tokens(p);
    tile->sum[row] += sum;
    if (!value_scales) return 0;
    tile->coded_sum[row] += sum;
    return max_of_lanes(maxes);
}

INLINE void weights_quantize(struct attention_tile *tile, int row, float max)
{
    const float *weights = tile->scores + row * TOKENS;
    int is_zero = !(max >= ATTENTION_TINY);
    __m256 per_step = _mm256_set1_ps(is_zero ? 0 : 255.0f / max);
    __m256i sums = _mm256_setzero_si256();
    for (int t = 0; t < TOKENS; t += 4 * LANES) {
        __m256 x[4];
        for (int v = 0; v < 4; v++) x[v] = _mm256_mul_ps(_mm256_loadu_ps(weights + t + v * LANES), per_step);
        __m256i bytes = _mm256_packus_epi16(round_to_16(x[0], x[1]), round_to_16(x[2], x[3]));
        bytes = _mm256_permute4x64_epi64(bytes, 0xd8);
        _mm256_storeu_si256((__m256i *)(tile->w8 + row * TOKENS + t), bytes);
        sums = _mm256_add_epi32(sums, _mm256_sad_epu8(bytes, _mm256_setzero_si256()));
    }
    tile->w8_scale[row] = is_zero ? 0 : max * (0.5f / 255.0f);
    tile->w8_sum[row] = sum_of_lanes(sums);
}

static void softmax(struct attention_tile *tile, int first_row, int n_rows, uint64_t live,
                    const uint16_t *value_scales)
{
    float floats[TOKENS], maxes[ATTENTION_TILE_ROWS];
    int end = first_row + n_rows;
    for (int row = first_row; row < end; row++) softmax_max(tile, row, live);
    if (!value_scales) {
        for (int row = first_row; row < end; row++) softmax_exp(tile, row, NULL);
        return;
    }
    for (int t = 0; t < TOKENS; t += LANES) _mm256_storeu_ps(floats + t, load_half(value_scales + t));
    for (int row = first_row; row < end; row++) maxes[row] = softmax_exp(tile, row, floats);
    for (int row = first_row; row < end; row++) weights_quantize(tile, row, maxes[row]);
}
