/* kv_trellis_scalar (kernels/cpu/kv_trellis.h) in 256-bit vectors of int16, one word a lane; included by
   kernels/cpu/kv_write_simd.h. What is one number there is a vector here, and a choice is a blend. */
#include "kernels/cpu/kv_trellis.h"

#include <immintrin.h>

/* Costs of one step by u, for the u that occur: 2 level^2 - x level, levels in pairs of opposite sign. */
static inline void trellis_costs(__m256i x, __m256i costs[16])
{
    for (int u = 8; u < 16; u++) {
        int level = 2 * u - 15;
        if (level == 11 || level == 13) continue; /* no two codes make these */
        __m256i product = _mm256_mullo_epi16(x, _mm256_set1_epi16((short)level));
        __m256i square = _mm256_set1_epi16((short)(2 * level * level));
        costs[u] = _mm256_sub_epi16(square, product);
        costs[15 - u] = _mm256_add_epi16(square, product);
    }
}

/* The least cost of a state after a step, and in `before` the state that it came from. */
static inline __m256i trellis_step(const __m256i sums[4], const __m256i costs[16], int code, __m256i *before)
{
    __m256i from[4];
    for (int previous = 0; previous < 4; previous++)
        from[previous] = _mm256_add_epi16(sums[previous], costs[kv_trellis_u(previous, code)]);
    __m256i is_odd_low = _mm256_cmpgt_epi16(from[0], from[1]), low = _mm256_min_epi16(from[0], from[1]);
    __m256i is_odd_high = _mm256_cmpgt_epi16(from[2], from[3]), high = _mm256_min_epi16(from[2], from[3]);
    __m256i is_high = _mm256_cmpgt_epi16(low, high);
    __m256i is_odd = _mm256_blendv_epi8(is_odd_low, is_odd_high, is_high);
    *before = _mm256_or_si256(_mm256_and_si256(is_high, _mm256_set1_epi16(2)),
                              _mm256_and_si256(is_odd, _mm256_set1_epi16(1)));
    return _mm256_min_epi16(low, high);
}

/* paths_search: returns the cost; before[step] has the state before state c at bits 2c, 2c + 1. */
static inline __m256i trellis_search(__m256i costs[KV_TRELLIS_STEPS][16], int start,
                                     __m256i before[KV_TRELLIS_STEPS])
{
    __m256i sums[4];
    for (int code = 0; code < 4; code++) sums[code] = costs[0][kv_trellis_u(start, code)];
    for (int step = 1; step < KV_TRELLIS_STEPS; step++) {
        __m256i next[4], packed = _mm256_setzero_si256();
        for (int code = 0; code < 4; code++) {
            __m256i state;
            next[code] = trellis_step(sums, costs[step], code, &state);
            packed = _mm256_or_si256(packed, _mm256_slli_epi16(state, 2 * code));
        }
        before[step] = packed;
        for (int code = 0; code < 4; code++) sums[code] = next[code];
    }
    return sums[start];
}

/* A table of sixteen bytes at indices 0..15 in int16 lanes. */
static inline __m256i trellis_look_up(__m128i table, __m256i index)
{
    index = _mm256_or_si256(index, _mm256_set1_epi16((short)0x8000)); /* the high bytes become 0 */
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index);
}

/* Of every lane, the path back through the pointers of its own start. */
static inline void trellis_trace(__m256i before[4][KV_TRELLIS_STEPS], __m256i start, int16_t *tile,
                                 __m256i halves[2])
{
    /* (pointers << 6 - 2 state) >> 6: the state's two bits */
    const __m128i shifts = _mm_setr_epi8(64, 16, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m128i us = _mm_setr_epi8(3, 6, 8, 11, 7, 10, 12, 15, 0, 3, 5, 8, 4, 7, 9, 12);
    __m256i is_odd =
        _mm256_cmpgt_epi16(_mm256_and_si256(start, _mm256_set1_epi16(1)), _mm256_setzero_si256());
    __m256i is_high = _mm256_cmpgt_epi16(start, _mm256_set1_epi16(1));
    __m256i code = start;
    halves[0] = halves[1] = _mm256_setzero_si256();
    for (int step = KV_TRELLIS_STEPS - 1; step >= 0; step--) {
        __m256i previous = start;
        if (step > 0) {
            __m256i low = _mm256_blendv_epi8(before[0][step], before[1][step], is_odd);
            __m256i high = _mm256_blendv_epi8(before[2][step], before[3][step], is_odd);
            __m256i pointers = _mm256_blendv_epi8(low, high, is_high);
            pointers = _mm256_mullo_epi16(pointers, trellis_look_up(shifts, code));
            previous = _mm256_and_si256(_mm256_srli_epi16(pointers, 6), _mm256_set1_epi16(3));
        }
        __m256i window = _mm256_or_si256(_mm256_slli_epi16(previous, 2), code);
        _mm256_storeu_si256((__m256i *)(tile + step * KV_TRELLIS_LANES), trellis_look_up(us, window));
        halves[step / 8] = _mm256_or_si256(halves[step / 8], _mm256_slli_epi16(code, 2 * (step % 8)));
        code = previous;
    }
}

/* Low and high halves of sixteen 32-bit words, in the order of the lanes. */
static inline void halves_store(__m256i low, __m256i high, uint32_t *words)
{
    __m256i even = _mm256_unpacklo_epi16(low, high), odd = _mm256_unpackhi_epi16(low, high);
    _mm256_storeu_si256((__m256i *)words, _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256((__m256i *)(words + 8), _mm256_permute2x128_si256(even, odd, 0x31));
}

static void kv_trellis_simd(int16_t *tile, uint32_t *words)
{
    __m256i costs[KV_TRELLIS_STEPS][16], before[4][KV_TRELLIS_STEPS], halves[2];
    for (int step = 0; step < KV_TRELLIS_STEPS; step++)
        trellis_costs(_mm256_loadu_si256((const __m256i *)(tile + step * KV_TRELLIS_LANES)), costs[step]);
    __m256i best = trellis_search(costs, 0, before[0]), start = _mm256_setzero_si256();
    for (int s = 1; s < 4; s++) {
        __m256i cost = trellis_search(costs, s, before[s]);
        start = _mm256_blendv_epi8(start, _mm256_set1_epi16((short)s), _mm256_cmpgt_epi16(best, cost));
        best = _mm256_min_epi16(best, cost);
    }
    trellis_trace(before, start, tile, halves);
    halves_store(halves[0], halves[1], words);
}
