#include "kernels/cpu/matmul.h"

#include <immintrin.h>
#include <string.h>

/*
 * matmul.h with a 512-bit register for each quad of two neighbouring tiles: lanes 0..7 are the rows of the
 * first tile, 8..15 of the second. vpdpbusd adds four u8 x s8 products to a 32-bit sum without saturation, so
 * every dot product is exact as it stands (16-bit activations: vpdpwssd, two s16 x s16); signed codes get 128
 * (Q8_0) or 32 (Q6_K) added to be unsigned, and that much of the sum of q is taken off again. A last odd tile
 * is left to matmul_avx2.c, whose bits are the same. AVX512-BF16's dot product rounds differently from fmaf,
 * so BF16 is widened and multiplied as fp32.
 */
#define INLINE static inline __attribute__((always_inline))

enum { MAX_ROWS = 8, PAIR_ROWS = 2 * TILE_ROWS, PREFETCH_BYTES = 2048 };

/* 32 bytes of each of the two tiles. */
INLINE __m512i load(const char *first, size_t tile_bytes)
{
    __m256i low = _mm256_loadu_si256((const __m256i *)first);
    __m256i high = _mm256_loadu_si256((const __m256i *)(first + tile_bytes));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* 16 bytes of each. */
INLINE __m256i load_16(const char *first, size_t tile_bytes)
{
    __m128i low = _mm_loadu_si128((const __m128i *)first);
    __m128i high = _mm_loadu_si128((const __m128i *)(first + tile_bytes));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/* 8 bytes of each. */
INLINE __m128i load_8(const char *first, size_t tile_bytes)
{
    return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)first),
                              _mm_loadl_epi64((const __m128i *)(first + tile_bytes)));
}

INLINE __m512 load_halves(const char *first, size_t tile_bytes)
{
    return _mm512_cvtph_ps(load_16(first, tile_bytes));
}

INLINE __m512i broadcast(const void *bytes)
{
    int32_t word;
    memcpy(&word, bytes, sizeof word);
    return _mm512_set1_epi32(word);
}

/* Quad q of a group, as unsigned bytes. */
INLINE __m512i quad_expand(int bits, const char *codes, size_t tile_bytes, int q)
{
    if (bits == 8) return _mm512_xor_si512(load(codes + 32 * q, tile_bytes), _mm512_set1_epi8((char)0x80));
    __m512i packed = load(codes + q / 2 * 32, tile_bytes);
    __m512i quad = _mm512_and_si512(q % 2 ? _mm512_srli_epi16(packed, 4) : packed, _mm512_set1_epi8(15));
    if (bits == 5) {
        __m512i high = load(codes + 128, tile_bytes);
        high =
            q < 4 ? _mm512_slli_epi16(high, (unsigned)(4 - q)) : _mm512_srli_epi16(high, (unsigned)(q - 4));
        quad = _mm512_or_si512(quad, _mm512_and_si512(high, _mm512_set1_epi8(0x10)));
    } else if (bits == 6) {
        __m512i high = load(codes + 128 + q / 4 * 32, tile_bytes);
        int shift = 4 - q % 4 * 2;
        high =
            shift >= 0 ? _mm512_slli_epi16(high, (unsigned)shift) : _mm512_srli_epi16(high, (unsigned)-shift);
        quad = _mm512_or_si512(quad, _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
    }
    return quad;
}

/* n[t] = the exact sum of code * q over quads [first, end), codes unsigned. */
INLINE void quads_dot(int bits, const char *codes, size_t tile_bytes, int first, int end,
                      const char *const *acts, int n_rows, __m512i *n)
{
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) n[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int q = first; q < end; q++) {
        __m512i quad = quad_expand(bits, codes, tile_bytes, q);
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++)
            n[t] = _mm512_dpbusd_epi32(n[t], quad, broadcast(act_8(acts[t])->q + 4 * q));
    }
}

/* Q6_K: scale * (sum - 32 * (sum of q)) of each half. scales: int8 [2][8] of each tile. */
INLINE void group_dot_q6_k(const char *codes, const char *scales, size_t tile_bytes, const char *const *acts,
                           int n_rows, __m512i *n)
{
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        __m512i scale = _mm512_cvtepi8_epi32(load_8(scales + 8 * half, tile_bytes));
        __m512i sum[MAX_ROWS];
        quads_dot(6, codes, tile_bytes, 4 * half, 4 * half + 4, acts, n_rows, sum);
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++) {
            __m512i centred =
                _mm512_sub_epi32(sum[t], _mm512_set1_epi32(32 * act_head(acts[t])->half_sum[half]));
            __m512i scaled = _mm512_mullo_epi32(centred, scale);
            n[t] = half ? _mm512_add_epi32(n[t], scaled) : scaled;
        }
    }
}

INLINE void group_dot(enum dtype dtype, const char *codes, const char *scales, size_t tile_bytes,
                      const char *const *acts, int n_rows, __m512i *n)
{
    int bits = tile_code_bits(dtype);
    if (bits == 6) {
        group_dot_q6_k(codes, scales, tile_bytes, acts, n_rows, n);
        return;
    }
    quads_dot(bits, codes, tile_bytes, 0, TILE_QUADS, acts, n_rows, n);
#pragma GCC unroll 8
    for (int t = 0; bits == 8 && t < n_rows; t++) {
        int total = act_head(acts[t])->half_sum[0] + act_head(acts[t])->half_sum[1];
        n[t] = _mm512_sub_epi32(n[t], _mm512_set1_epi32(128 * total));
    }
}

INLINE __m512 bytes_to_floats(const char *first, size_t tile_bytes)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_8(first, tile_bytes)));
}

/* Step and offset of one group. scales: of its scale block; group: within the block. */
INLINE void group_scales(enum dtype dtype, const char *scales, size_t tile_bytes, int group, __m512 *step,
                         __m512 *offset)
{
    const __m512 minus = _mm512_set1_ps(-0.0f);
    *step = load_halves(scales, tile_bytes);
    *offset = _mm512_setzero_ps();
    if (dtype == DTYPE_Q4_0)
        *offset = _mm512_mul_ps(*step, _mm512_set1_ps(-8.0f));
    else if (dtype == DTYPE_Q5_0)
        *offset = _mm512_mul_ps(*step, _mm512_set1_ps(-16.0f));
    else if (dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1)
        *offset = load_halves(scales + 16, tile_bytes);
    else if (dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K) {
        const char *bytes = scales + 32 + group * 16;
        __m512 minimum =
            _mm512_mul_ps(load_halves(scales + 16, tile_bytes), bytes_to_floats(bytes + 8, tile_bytes));
        *step = _mm512_mul_ps(*step, bytes_to_floats(bytes, tile_bytes));
        *offset = _mm512_xor_ps(minimum, minus);
    }
}

/* acc[t] += step * scale * n[t] + offset * sum. */
INLINE void group_accumulate(enum dtype dtype, __m512 step, __m512 offset, const __m512i *n,
                             const char *const *acts, int n_rows, __m512 *acc)
{
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) {
        __m512 factor = _mm512_mul_ps(step, _mm512_set1_ps(act_head(acts[t])->scale));
        acc[t] = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(n[t]), acc[t]);
        if (tile_has_offset(dtype))
            acc[t] = _mm512_fmadd_ps(offset, _mm512_set1_ps(act_head(acts[t])->sum), acc[t]);
    }
}

/* One group, 8-bit activations. scales: of its scale block; group: within the block. */
INLINE void group_add_8(enum dtype dtype, const char *codes, const char *scales, size_t tile_bytes, int group,
                        const char *const *acts, int n_rows, __m512 *acc)
{
    __m512i n[MAX_ROWS];
    __m512 step, offset;
    group_dot(dtype, codes, scales + 16 + group * 16, tile_bytes, acts, n_rows, n);
    group_scales(dtype, scales, tile_bytes, group, &step, &offset);
    group_accumulate(dtype, step, offset, n, acts, n_rows, acc);
}

/* Quad q in 16 bits a code: columns 0 and 2 of each row, columns 1 and 3. */
INLINE void quad_widen(enum dtype dtype, const char *codes, size_t tile_bytes, int q, __m512i *even,
                       __m512i *odd)
{
    int bits = tile_code_bits(dtype);
    if (bits == 8) {
        __m512i quad = load(codes + 32 * q, tile_bytes);
        *even = _mm512_srai_epi16(_mm512_slli_epi16(quad, 8), 8);
        *odd = _mm512_srai_epi16(quad, 8);
        return;
    }
    __m512i quad = quad_expand(bits, codes, tile_bytes, q);
    *even = _mm512_and_si512(quad, _mm512_set1_epi16(0xff));
    *odd = _mm512_srli_epi16(quad, 8);
}

/* n[t] = the exact sum of code * q over quads [first, end), 16-bit activations, codes unsigned but for Q8_0.
 */
INLINE void quads_dot_16(enum dtype dtype, const char *codes, size_t tile_bytes, int first, int end,
                         const char *const *acts, int n_rows, __m512i *n)
{
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) n[t] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int q = first; q < end; q++) {
        __m512i even, odd;
        quad_widen(dtype, codes, tile_bytes, q, &even, &odd);
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++) {
            n[t] = _mm512_dpwssd_epi32(n[t], even, broadcast(act_16(acts[t])->q + 4 * q));
            n[t] = _mm512_dpwssd_epi32(n[t], odd, broadcast(act_16(acts[t])->q + 4 * q + 2));
        }
    }
}

/* Q6_K: the step of one half of a group. scales: int8 [2][8]. */
INLINE __m512 half_step(__m512 step, const char *scales, size_t tile_bytes, int half)
{
    __m512i bytes = _mm512_cvtepi8_epi32(load_8(scales + 8 * half, tile_bytes));
    return _mm512_mul_ps(step, _mm512_cvtepi32_ps(bytes));
}

/* One group, 16-bit activations. */
INLINE void group_add_16(enum dtype dtype, const char *codes, const char *scales, size_t tile_bytes,
                         int group, const char *const *acts, int n_rows, __m512 *acc)
{
    __m512i n[MAX_ROWS];
    __m512 step, offset;
    group_scales(dtype, scales, tile_bytes, group, &step, &offset);
    if (dtype != DTYPE_Q6_K) {
        quads_dot_16(dtype, codes, tile_bytes, 0, TILE_QUADS, acts, n_rows, n);
        group_accumulate(dtype, step, offset, n, acts, n_rows, acc);
        return;
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        quads_dot_16(dtype, codes, tile_bytes, 4 * half, 4 * half + 4, acts, n_rows, n);
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++)
            n[t] = _mm512_sub_epi32(n[t], _mm512_set1_epi32(32 * act_head(acts[t])->half_sum[half]));
        group_accumulate(dtype, half_step(step, scales + 16 + group * 16, tile_bytes, half), offset, n, acts,
                         n_rows, acc);
    }
}

INLINE void rows_store(const struct matmul_part *part, int tile, int row, __m512 acc)
{
    int first = tile * TILE_ROWS, n = part->n_outputs - first;
    float *out = part->out + (size_t)row * part->out_stride + first;
    __mmask16 mask = (__mmask16)(n >= PAIR_ROWS ? 0xffffu : (1u << n) - 1);
    if (part->bias) acc = _mm512_add_ps(acc, _mm512_maskz_loadu_ps(mask, part->bias + first));
    _mm512_mask_storeu_ps(out, mask, acc);
}

/* As in matmul_avx2.c, of both tiles. */
INLINE void prefetch_group(const char *at, size_t tile_bytes, int code_bytes)
{
    for (int line = 0; line < code_bytes; line += 64) {
        _mm_prefetch(at + PREFETCH_BYTES + line, _MM_HINT_T0);
        _mm_prefetch(at + tile_bytes + PREFETCH_BYTES + line, _MM_HINT_T0);
    }
}

/* Two tiles, `tile` and the next, times n_rows rows of activations (a constant, at most MAX_ROWS). */
INLINE void quantized_rows(enum dtype dtype, int act_bits, const struct matmul_part *part, int tile,
                           int first, int n_rows)
{
    const struct tile_format format = tile_format(dtype);
    int n_groups = part->n_cols / TILE_GROUP;
    const char *at = part->tiles + (size_t)tile * part->tile_bytes;
    const size_t group_bytes = act_bytes(act_bits);
    const char *acts[MAX_ROWS];
    __m512 acc[MAX_ROWS];
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) {
        acts[t] = part->groups + (size_t)(first + t) * (size_t)n_groups * group_bytes;
        acc[t] = _mm512_setzero_ps();
    }
    for (int g = 0; g < n_groups; g += format.groups_per_scale) {
        const char *scales = at;
        at += format.scale_bytes;
        for (int i = 0; i < format.groups_per_scale; i++, at += format.code_bytes) {
            prefetch_group(at, part->tile_bytes, format.code_bytes);
            if (act_bits == 16)
                group_add_16(dtype, at, scales, part->tile_bytes, i, acts, n_rows, acc);
            else
                group_add_8(dtype, at, scales, part->tile_bytes, i, acts, n_rows, acc);
#pragma GCC unroll 8
            for (int t = 0; t < n_rows; t++) acts[t] += group_bytes;
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) rows_store(part, tile, first + t, acc[t]);
}

INLINE __m512 load_floats(enum dtype dtype, const char *tile, size_t tile_bytes, int column)
{
    size_t at = (size_t)column * TILE_ROWS;
    if (dtype == DTYPE_F32) return _mm512_castsi512_ps(load(tile + 4 * at, tile_bytes));
    if (dtype == DTYPE_F16) return load_halves(tile + 2 * at, tile_bytes);
    __m512i wide = _mm512_cvtepu16_epi32(load_16(tile + 2 * at, tile_bytes));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE void float_rows(enum dtype dtype, const struct matmul_part *part, int tile, int first, int n_rows)
{
    const char *weights = part->tiles + (size_t)tile * part->tile_bytes;
    const float *x[MAX_ROWS];
    __m512 acc[MAX_ROWS];
#pragma GCC unroll 8
    for (int t = 0; t < n_rows; t++) {
        x[t] = part->x + (size_t)(first + t) * (size_t)part->n_cols;
        acc[t] = _mm512_setzero_ps();
    }
    for (int c = 0; c < part->n_cols; c++) {
        __m512 column = load_floats(dtype, weights, part->tile_bytes, c);
#pragma GCC unroll 8
        for (int t = 0; t < n_rows; t++) acc[t] = _mm512_fmadd_ps(column, _mm512_set1_ps(x[t][c]), acc[t]);
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

/* Rows of activations in blocks of 8, 4 and 1 (the same bits in any cut). */
INLINE void part_of_precision(enum dtype dtype, int act_bits, const struct matmul_part *part)
{
    int tile = 0;
    for (; tile + 2 <= part->n_tiles; tile += 2) {
        int row = 0;
        for (; row + MAX_ROWS <= part->n_rows; row += MAX_ROWS)
            tile_rows(dtype, act_bits, part, tile, row, MAX_ROWS);
        if (row + 4 <= part->n_rows) {
            tile_rows(dtype, act_bits, part, tile, row, 4);
            row += 4;
        }
        for (; row < part->n_rows; row++) tile_rows(dtype, act_bits, part, tile, row, 1);
    }
    if (tile == part->n_tiles) return;
    struct matmul_part last = *part;
    last.tiles += (size_t)tile * part->tile_bytes;
    last.n_tiles = 1;
    last.n_outputs -= tile * TILE_ROWS;
    last.bias = part->bias ? part->bias + tile * TILE_ROWS : NULL;
    last.out += tile * TILE_ROWS;
    matmul_avx2.part(dtype, &last);
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

const struct matmul_kernels matmul_avx512 = {part, MAX_ROWS};
