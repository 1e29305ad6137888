#include "kernels/cpu/matmul.h"

#include <immintrin.h>
#include <string.h>

/*
 * matmul.h with a 256-bit register for each quad of 8 rows. Lane r is row r of the tile throughout.
 *
 * vpmaddubsw adds two u8 x s8 products in 16 bits and saturates, so the 16-bit sums must stay in range:
 *   4 bits   a whole group: 8 quads * 2 * 15 * 127 = 30480
 *   5 bits   half a group:  4 quads * 2 * 31 * 127 = 31496
 *   6 bits   one product pair is 2 * 63 * 127 = 16002; a half's sum wraps modulo 2^16, but less 32 * (the sum
 *            of q), which is the wanted value, it is within 8 * 32 * 127 = 32512
 *   8 bits   |w| and the sign moved to q: 2 * 128 * 127 = 32512, widened at once
 * With 16-bit activations vpmaddwd adds two s16 x s16 products in 32 bits; a group of 8-bit codes comes to at
 * most 32 * 128 * 32767 < 2^28.
 *
 * Functions take the type as a constant and are inlined into one specialised loop for each type.
 */
#define INLINE static inline __attribute__((always_inline))

enum { MAX_ROWS = 4, FLOAT_ROWS = 8, PREFETCH_BYTES = 2048 };

INLINE __m256i load(const char *bytes)
{
    return _mm256_loadu_si256((const __m256i *)bytes);
}

INLINE __m256 load_halves(const char *halves)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
}

/* The same 4 bytes in every lane. */
INLINE __m256i broadcast(const void *bytes)
{
    int32_t word;
    memcpy(&word, bytes, sizeof word);
    return _mm256_set1_epi32(word);
}

/* a + b, and let GCC not reorder a chain of such sums: its balanced tree keeps so many products alive that
   they spill to the stack (half the speed). */
INLINE __m256i chain_add_epi16(__m256i a, __m256i b)
{
    __m256i sum = _mm256_add_epi16(a, b);
    __asm__("" : "+x"(sum));
    return sum;
}

INLINE __m256i chain_add_epi32(__m256i a, __m256i b)
{
    __m256i sum = _mm256_add_epi32(a, b);
    __asm__("" : "+x"(sum));
    return sum;
}

/* Quad q of a group whose codes have 4, 5 or 6 bits. */
INLINE __m256i quad_expand(int bits, const char *codes, int q)
{
    __m256i packed = load(codes + q / 2 * 32);
    __m256i quad = _mm256_and_si256(q % 2 ? _mm256_srli_epi16(packed, 4) : packed, _mm256_set1_epi8(15));
    if (bits == 5) {
        __m256i high = load(codes + 128);
        high = q < 4 ? _mm256_slli_epi16(high, 4 - q) : _mm256_srli_epi16(high, q - 4);
        quad = _mm256_or_si256(quad, _mm256_and_si256(high, _mm256_set1_epi8(0x10)));
    } else if (bits == 6) {
        __m256i high = load(codes + 128 + q / 4 * 32);
        int shift = 4 - q % 4 * 2;
        high = shift >= 0 ? _mm256_slli_epi16(high, shift) : _mm256_srli_epi16(high, -shift);
        quad = _mm256_or_si256(quad, _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
    }
    return quad;
}

/* n[t] = the exact sum of code * q, 4 and 5 bits. */
INLINE void group_dot_unsigned(int bits, const char *codes, const char *const *acts, int n_rows, __m256i *n)
{
    const __m256i ones = _mm256_set1_epi16(1);
    int quads_per_sum = bits == 4 ? 8 : 4;
#pragma GCC unroll 2
    for (int first = 0; first < TILE_QUADS; first += quads_per_sum) {
        __m256i sum[MAX_ROWS];
#pragma GCC unroll 8
        for (int q = first; q < first + quads_per_sum; q++) {
            __m256i quad = quad_expand(bits, codes, q);
#pragma GCC unroll 8
            for (int t = 0; t < n_rows; t++) {
                __m256i products = _mm256_maddubs_epi16(quad, broadcast(act_8(acts[t])->q + 4 * q));
                sum[t] = q == first ? products : chain_add_epi16(sum[t], products);
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++) {
            __m256i wide = _mm256_madd_epi16(sum[t], ones);
            n[t] = first ? chain_add_epi32(n[t], wide) : wide;
        }
    }
}

/* Q6_K: half by half, each with its scale. scales: int8 [2][8]. */
INLINE void group_dot_q6_k(const char *codes, const char *scales, const char *const *acts, int n_rows,
                           __m256i *n)
{
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m128i bytes = _mm_loadl_epi64((const __m128i *)(scales + 8 * half));
        __m256i scale = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(bytes, bytes)); /* twice in each lane */
        __m256i sum[MAX_ROWS];
#pragma GCC unroll 8
        for (int q = 4 * half; q < 4 * half + 4; q++) {
            __m256i quad = quad_expand(6, codes, q);
#pragma GCC unroll 8
            for (int t = 0; t < n_rows; t++) {
                __m256i products = _mm256_maddubs_epi16(quad, broadcast(act_8(acts[t])->q + 4 * q));
                sum[t] = q == 4 * half ? _mm256_sub_epi16(products, broadcast(act_8(acts[t])->pair_sum[half]))
                                       : chain_add_epi16(sum[t], products);
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++) {
            __m256i wide = _mm256_madd_epi16(sum[t], scale);
            n[t] = half ? chain_add_epi32(n[t], wide) : wide;
        }
    }
}

INLINE void group_dot_q8_0(const char *codes, const char *const *acts, int n_rows, __m256i *n)
{
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int q = 0; q < TILE_QUADS; q++) {
        __m256i quad = load(codes + 32 * q), magnitude = _mm256_abs_epi8(quad);
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++) {
            __m256i signed_q = _mm256_sign_epi8(broadcast(act_8(acts[t])->q + 4 * q), quad);
            __m256i wide = _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, signed_q), ones);
            n[t] = q ? chain_add_epi32(n[t], wide) : wide;
        }
    }
}

INLINE void group_dot(enum dtype dtype, const char *codes, const char *scales, const char *const *acts,
                      int n_rows, __m256i *n)
{
    int bits = tile_code_bits(dtype);
    if (bits == 8)
        group_dot_q8_0(codes, acts, n_rows, n);
    else if (bits == 6)
        group_dot_q6_k(codes, scales, acts, n_rows, n);
    else
        group_dot_unsigned(bits, codes, acts, n_rows, n);
}

INLINE __m256 bytes_to_floats(const char *bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes)));
}

/* Step and offset of one group. scales: of its scale block; group: within the block. */
INLINE void group_scales(enum dtype dtype, const char *scales, int group, __m256 *step, __m256 *offset)
{
    const __m256 minus = _mm256_set1_ps(-0.0f);
    *step = load_halves(scales);
    *offset = _mm256_setzero_ps();
    if (dtype == DTYPE_Q4_0)
        *offset = _mm256_mul_ps(*step, _mm256_set1_ps(-8.0f));
    else if (dtype == DTYPE_Q5_0)
        *offset = _mm256_mul_ps(*step, _mm256_set1_ps(-16.0f));
    else if (dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1)
        *offset = load_halves(scales + 16);
    else if (dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K) {
        const char *bytes = scales + 32 + group * 16;
        *step = _mm256_mul_ps(*step, bytes_to_floats(bytes));
        *offset = _mm256_xor_ps(_mm256_mul_ps(load_halves(scales + 16), bytes_to_floats(bytes + 8)), minus);
    }
}

/* acc[t] += step * scale * n[t] + offset * sum. */
INLINE void group_accumulate(enum dtype dtype, __m256 step, __m256 offset, const __m256i *n,
                             const char *const *acts, int n_rows, __m256 *acc)
{
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) {
        __m256 factor = _mm256_mul_ps(step, _mm256_set1_ps(act_head(acts[t])->scale));
        acc[t] = _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(n[t]), acc[t]);
        if (tile_has_offset(dtype))
            acc[t] = _mm256_fmadd_ps(offset, _mm256_set1_ps(act_head(acts[t])->sum), acc[t]);
    }
}

/* One group, 8-bit activations. scales: of its scale block; group: within the block. */
INLINE void group_add_8(enum dtype dtype, const char *codes, const char *scales, int group,
                        const char *const *acts, int n_rows, __m256 *acc)
{
    __m256i n[MAX_ROWS];
    __m256 step, offset;
    group_dot(dtype, codes, scales + 16 + group * 16, acts, n_rows, n);
    group_scales(dtype, scales, group, &step, &offset);
    group_accumulate(dtype, step, offset, n, acts, n_rows, acc);
}

/* Quad q in 16 bits a code: columns 0 and 2 of each row, columns 1 and 3. */
INLINE void quad_widen(enum dtype dtype, const char *codes, int q, __m256i *even, __m256i *odd)
{
    int bits = tile_code_bits(dtype);
    if (bits == 8) {
        __m256i quad = load(codes + 32 * q);
        *even = _mm256_srai_epi16(_mm256_slli_epi16(quad, 8), 8);
        *odd = _mm256_srai_epi16(quad, 8);
        return;
    }
    __m256i quad = quad_expand(bits, codes, q);
    *even = _mm256_and_si256(quad, _mm256_set1_epi16(0xff));
    *odd = _mm256_srli_epi16(quad, 8);
}

/* n[t] = the exact sum of code * q over quads [first, end), 16-bit activations, codes unsigned but for Q8_0.
 */
INLINE void quads_dot_16(enum dtype dtype, const char *codes, int first, int end, const char *const *acts,
                         int n_rows, __m256i *n)
{
#pragma GCC unroll 8
    for (int q = first; q < end; q++) {
        __m256i even, odd;
        quad_widen(dtype, codes, q, &even, &odd);
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++) {
            __m256i low = _mm256_madd_epi16(even, broadcast(act_16(acts[t])->q + 4 * q));
            __m256i high = _mm256_madd_epi16(odd, broadcast(act_16(acts[t])->q + 4 * q + 2));
            n[t] = q == first ? low : chain_add_epi32(n[t], low);
            n[t] = chain_add_epi32(n[t], high);
        }
    }
}

/* Q6_K: the step of one half of a group. scales: int8 [2][8]. */
INLINE __m256 half_step(__m256 step, const char *scales, int half)
{
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(scales + 8 * half));
    return _mm256_mul_ps(step, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
}

/* One group, 16-bit activations. */
INLINE void group_add_16(enum dtype dtype, const char *codes, const char *scales, int group,
                         const char *const *acts, int n_rows, __m256 *acc)
{
    __m256i n[MAX_ROWS];
    __m256 step, offset;
    group_scales(dtype, scales, group, &step, &offset);
    if (dtype != DTYPE_Q6_K) {
        quads_dot_16(dtype, codes, 0, TILE_QUADS, acts, n_rows, n);
        group_accumulate(dtype, step, offset, n, acts, n_rows, acc);
        return;
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        quads_dot_16(dtype, codes, 4 * half, 4 * half + 4, acts, n_rows, n);
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++)
            n[t] = _mm256_sub_epi32(n[t], _mm256_set1_epi32(32 * act_head(acts[t])->half_sum[half]));
        group_accumulate(dtype, half_step(step, scales + 16 + group * 16, half), offset, n, acts, n_rows,
                         acc);
    }
}

INLINE void rows_store(const struct matmul_part *part, int tile, int row, __m256 acc)
{
    int first = tile * TILE_ROWS, n = part->n_outputs - first;
    float *out = part->out + (size_t)row * part->out_stride + first;
    const float *bias = part->bias ? part->bias + first : NULL;
    if (n >= TILE_ROWS) {
        _mm256_storeu_ps(out, bias ? _mm256_add_ps(acc, _mm256_loadu_ps(bias)) : acc);
        return;
    }
    float lanes[TILE_ROWS];
    _mm256_storeu_ps(lanes, acc);
    matmul_store(lanes, bias, n, out);
}

/* Rows of a few kilobytes end before the processor's own prefetcher has found its stride: one row of
   activations goes 15 % faster with this, four 20 %. Addresses past the end are harmless. */
INLINE void prefetch_group(const char *at, int code_bytes)
{
    for (int line = 0; line < code_bytes; line += 64) _mm_prefetch(at + PREFETCH_BYTES + line, _MM_HINT_T0);
}

/* One tile times n_rows rows of activations (a constant, at most MAX_ROWS). */
INLINE void quantized_rows(enum dtype dtype, int act_bits, const struct matmul_part *part, int tile,
                           int first, int n_rows)
{
    const struct tile_format format = tile_format(dtype);
    int n_groups = part->n_cols / TILE_GROUP;
    const char *at = part->tiles + (size_t)tile * part->tile_bytes;
    const size_t group_bytes = act_bytes(act_bits);
    const char *acts[MAX_ROWS];
    __m256 acc[MAX_ROWS];
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) {
        acts[t] = part->groups + (size_t)(first + t) * (size_t)n_groups * group_bytes;
        acc[t] = _mm256_setzero_ps();
    }
    for (int g = 0; g < n_groups; g += format.groups_per_scale) {
        const char *scales = at;
        at += format.scale_bytes;
        for (int i = 0; i < format.groups_per_scale; i++, at += format.code_bytes) {
            prefetch_group(at, format.code_bytes);
            if (act_bits == 16)
                group_add_16(dtype, at, scales, i, acts, n_rows, acc);
            else
                group_add_8(dtype, at, scales, i, acts, n_rows, acc);
#pragma GCC unroll 8
            for (int t = 0; t < n_rows; t++) acts[t] += group_bytes;
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) rows_store(part, tile, first + t, acc[t]);
}

INLINE __m256 load_floats(enum dtype dtype, const char *tile, int column)
{
    size_t at = (size_t)column * TILE_ROWS;
    if (dtype == DTYPE_F32) return _mm256_loadu_ps((const float *)(const void *)tile + at);
    if (dtype == DTYPE_F16) return load_halves(tile + 2 * at);
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(tile + 2 * at)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

INLINE void float_rows(enum dtype dtype, const struct matmul_part *part, int tile, int first, int n_rows)
{
    const char *weights = part->tiles + (size_t)tile * part->tile_bytes;
    const float *x[FLOAT_ROWS];
    __m256 acc[FLOAT_ROWS];
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) {
        x[t] = part->x + (size_t)(first + t) * (size_t)part->n_cols;
        acc[t] = _mm256_setzero_ps();
    }
    for (int c = 0; c < part->n_cols; c++) {
        __m256 column = load_floats(dtype, weights, c);
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++) acc[t] = _mm256_fmadd_ps(column, _mm256_set1_ps(x[t][c]), acc[t]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) rows_store(part, tile, first + t, acc[t]);
}

INLINE void tile_rows(enum dtype dtype, int act_bits, const struct matmul_part *part, int tile, int first,
                      int n_rows)
{
    if (tile_is_quantized(dtype))
        quantized_rows(dtype, act_bits, part, tile, first, n_rows);
    else
        float_rows(dtype, part, tile, first, n_rows);
}

INLINE void part_of_precision(enum dtype dtype, int act_bits, const struct matmul_part *part)
{
    for (int tile = 0; tile < part->n_tiles; tile++) {
        int row = 0;
        /* Sums of products wait four cycles for the one before: eight rows keep both multipliers busy. */
        for (; !tile_is_quantized(dtype) && row + FLOAT_ROWS <= part->n_rows; row += FLOAT_ROWS)
            float_rows(dtype, part, tile, row, FLOAT_ROWS);
        for (; row + MAX_ROWS <= part->n_rows; row += MAX_ROWS)
            tile_rows(dtype, act_bits, part, tile, row, MAX_ROWS);
        switch (part->n_rows - row) {
        case 3:
            tile_rows(dtype, act_bits, part, tile, row, 3);
            break;
        case 2:
            tile_rows(dtype, act_bits, part, tile, row, 2);
            break;
        case 1:
            tile_rows(dtype, act_bits, part, tile, row, 1);
            break;
        default:
            break;
        }
    }
}

INLINE void part_of_type(enum dtype dtype, const struct matmul_part *part)
{
    if (part->act_bits == 16 && tile_is_quantized(dtype))
        part_of_precision(dtype, 16, part);
    else
        part_of_precision(dtype, 8, part);
}

static void part(enum dtype dtype, const struct matmul_part *part)
{
    switch (dtype) {
    case DTYPE_F32:
        part_of_type(DTYPE_F32, part);
        break;
    case DTYPE_F16:
        part_of_type(DTYPE_F16, part);
        break;
    case DTYPE_BF16:
        part_of_type(DTYPE_BF16, part);
        break;
    case DTYPE_Q4_0:
        part_of_type(DTYPE_Q4_0, part);
        break;
    case DTYPE_Q4_1:
        part_of_type(DTYPE_Q4_1, part);
        break;
    case DTYPE_Q5_0:
        part_of_type(DTYPE_Q5_0, part);
        break;
    case DTYPE_Q5_1:
        part_of_type(DTYPE_Q5_1, part);
        break;
    case DTYPE_Q8_0:
        part_of_type(DTYPE_Q8_0, part);
        break;
    case DTYPE_Q4_K:
        part_of_type(DTYPE_Q4_K, part);
        break;
    case DTYPE_Q5_K:
        part_of_type(DTYPE_Q5_K, part);
        break;
    case DTYPE_Q6_K:
        part_of_type(DTYPE_Q6_K, part);
        break;
    }
}

const struct matmul_kernels matmul_avx2 = {part, FLOAT_ROWS};
