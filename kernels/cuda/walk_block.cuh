#ifndef KERNELS_CUDA_WALK_BLOCK_CUH
#define KERNELS_CUDA_WALK_BLOCK_CUH

#include "kernels/cuda/walk_page.cuh"

/*
 * One coded block. Scores: keys are the 16 rows of a product; lane gid has the 8 tokens of row tile gid, of
 * row tile i of the product rows (h ^ odd) * 4 + i, and lane tid a word of every four of their rows, so that
 * 16 bytes are one lane's share of four products and lanes of odd gid read the other half first, from other
 * banks. Output: rows are channels, and lane tid has 16 tokens in a row of each, one word.
 */

/* A warp on its way through an item's blocks: UNITS times 4 queries. */
template <int D, int UNITS> struct walker {
    const cuda_walk *walk;
    const walk_page *page;
    const uint4 *basis;
    char *exchange;          /* shared: factors of a block's values */
    const char *record;      /* of the frame */
    const uint2 *factors;    /* in it, this lane's */
    int lane, gid, tid, odd; /* odd: of gid; which digit, which half of a row tile comes first */
    int kinds_bytes;         /* of a unit in exchange */
    /* Of part 0, for blocks that is_plain_old speaks of; this lane's, in a page. */
    int n_chunks, n_nibble_chunks, keys_at, values_at;
    int scales_at;     /* in an old block's page */
    float unit[UNITS]; /* of query tid: a key sum's unit */
    int middle[UNITS]; /* of query tid: what the sums start from */
    float max[UNITS], sum[UNITS];
    float most[UNITS]; /* what a score may exceed max by; -INFINITY: nothing was there yet */
    /* Channels gid and gid + 8 of each group, query tid, to value_base. */
    float out[UNITS][D / CUDA_GROUP][2];
};

/* c += functions of the places of 64 tokens times coefficients. row: between tiles of 16 tokens. FIRST: c =
 * from + it. */
template <int UNITS, bool FIRST>
__device__ static inline void mean_step(const uint4 *tiles, int row, const uint2 *coefs, uint32_t sign,
                                        const float from[UNITS][4], float c[UNITS][4][4])
{
    uint2 coef[UNITS];
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        coef[u] = coefs[u * 32];
        coef[u].y ^= sign;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint4 a = tiles[i * row];
#pragma unroll
        for (int u = 0; u < UNITS; u++)
            ptx_multiply(c[u][i], FIRST ? from[u] : c[u][i], a.x, a.y, a.z, a.w, coef[u].x, coef[u].y);
    }
}

/* The mean's scores of the block that is j-th of its frame, less the queries' maxima. About the frame's
   centre even functions mirror and odd ones change sign: blocks before it read the rows of those after it
   backwards. */
template <int D, int UNITS>
__device__ static inline void mean_scores(const walker<D, UNITS> &w, int j, float c[UNITS][4][4])
{
    float from[UNITS][4];
#pragma unroll
    for (int u = 0; u < UNITS; u++) from[u][0] = from[u][2] = -w.max[u], from[u][1] = from[u][3] = 0;
    int places = w.walk->place_blocks, is_mirrored = j < places, n_steps = w.walk->n_basis_steps;
    if (n_steps == 0) {
#pragma unroll
        for (int u = 0; u < UNITS; u++)
#pragma unroll
            for (int i = 0; i < 16; i++) c[u][i / 4][i % 4] = from[u][i % 4];
        return;
    }
    int at = (is_mirrored ? places - 1 - j : j - places) * 4;
    int lane = is_mirrored ? 28 - w.lane + 2 * w.tid : w.lane; /* 7 - gid, tid */
    uint32_t sign = is_mirrored ? 0x80008000u : 0;
    int row = (is_mirrored ? -1 : 1) * 32, step = places * 128;
    const uint4 *tiles = w.basis + at * 32 + lane + (is_mirrored ? 3 * 32 : 0);
    const uint2 *coefs = (const uint2 *)(w.record + WALK_COEFS) + w.lane;
    mean_step<UNITS, true>(tiles, row, coefs, sign, from, c);
    if ((n_steps == 3 || n_steps == 4) && w.walk->n_basis_halves == 1) { /* what most models have */
        mean_step<UNITS, false>(tiles + step, row, coefs + UNITS * 32, sign, NULL, c);
        mean_step<UNITS, false>(tiles + 2 * step, row, coefs + 2 * UNITS * 32, sign, NULL, c);
        if (n_steps == 4)
            mean_step<UNITS, false>(tiles + 3 * step, row, coefs + 3 * UNITS * 32, sign, NULL, c);
        return;
    }
#pragma unroll 1
    for (int n = 1; n < n_steps * w.walk->n_basis_halves; n++) {
        tiles += step;
        coefs += n == n_steps ? -(n_steps - 1) * UNITS * 32 : UNITS * 32;
        mean_step<UNITS, false>(tiles, row, coefs, sign, NULL, c);
    }
}

/* Of a word whose upper nibbles are moved down for s >= 2: the lower ones of bits 2 s and 2 s + 1 of each
 * byte. */
__device__ static inline uint32_t low_bits(int s)
{
    return s % 2 ? 0x04040404u : 0x01010101u;
}

/* What a product of bytes starts from: in the columns of low digits, n. */
__device__ static inline void start_at(int n, int from[4])
{
    from[0] = from[2] = 0, from[1] = from[3] = n;
}

/* Four words of 64 keys' rows. words: of row tile gid, this lane's. FIRST: nothing is in c yet. */
template <int UNITS, bool FIRST>
__device__ static inline void words_multiply(const uint8_t *words, int odd, const uint2 *factors,
                                             const int from[UNITS][4], int c[UNITS][4][4])
{
    uint4 x = *(const uint4 *)(words + 16 * odd), y = *(const uint4 *)(words + 16 * (odd ^ 1));
    uint2 f[UNITS][4];
#pragma unroll
    for (int u = 0; u < UNITS; u++)
#pragma unroll
        for (int s = 0; s < 4; s++) f[u][s] = factors[factor_at<UNITS>(0, u, s, 0, 0)];
#pragma unroll
    for (int s = 0; s < 4; s++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t a = (&x.x)[i], b = (&y.x)[i];
            if (s >= 2) a >>= 4, b >>= 4;
            const uint32_t one = low_bits(s);
#pragma unroll
            for (int u = 0; u < UNITS; u++)
                ptx_multiply_bytes_32(c[u][i], FIRST && s == 0 ? from[u] : c[u][i], a & one, b & one,
                                      a & 2 * one, b & 2 * one, f[u][s].x, f[u][s].y);
        }
}

/* The same of words of codes of 4 bits, whose four bits' factors are one. */
template <int UNITS, bool FIRST>
__device__ static inline void nibbles_multiply(const uint8_t *words, int odd, const uint2 *factors,
                                               const int from[UNITS][4], int c[UNITS][4][4])
{
    uint4 x = *(const uint4 *)(words + 16 * odd), y = *(const uint4 *)(words + 16 * (odd ^ 1));
    const uint32_t mask = 0x0f0f0f0f;
    uint32_t f[UNITS][2];
#pragma unroll
    for (int u = 0; u < UNITS; u++)
#pragma unroll
        for (int h = 0; h < 2; h++) f[u][h] = factors[factor_at<UNITS>(0, u, 2 * h, 0, 0)].x;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t a = (&x.x)[i], b = (&y.x)[i];
#pragma unroll
        for (int u = 0; u < UNITS; u++)
            ptx_multiply_bytes_32(c[u][i], FIRST ? from[u] : c[u][i], a & mask, b & mask, a >> 4 & mask,
                                  b >> 4 & mask, f[u][0], f[u][1]);
    }
}

/* A part of 64 keys. words, factors: this lane's. FIRST: c = from + it, otherwise c += it. */
template <int UNITS, bool FIRST>
__device__ static inline void part_sum(const uint8_t *words, int odd, const uint2 *factors, int n_nibbles,
                                       int n, const int from[UNITS][4], int c[UNITS][4][4])
{
    int i = 0;
    if (FIRST) {
        if (n_nibbles)
            nibbles_multiply<UNITS, true>(words, odd, factors, from, c);
        else
            words_multiply<UNITS, true>(words, odd, factors, from, c);
        i = 1, words += 128, factors += UNITS * 128;
    }
#pragma unroll 1
    for (; i < n_nibbles; i++, words += 128, factors += UNITS * 128)
        nibbles_multiply<UNITS, false>(words, odd, factors, NULL, c);
#pragma unroll 1
    for (; i < n; i++, words += 128, factors += UNITS * 128)
        words_multiply<UNITS, false>(words, odd, factors, NULL, c);
}

/* Sums of keys over channels, of all parts: a set 0's stand a page apart, a set 1's one after the other.
   IS_PLAIN: of blocks that is_plain_old speaks of. */
template <int D, int UNITS, bool IS_PLAIN>
__device__ static inline void keys_sum(const walker<D, UNITS> &w, const uint8_t *keys, int set,
                                       int c[UNITS][4][4])
{
    int from[UNITS][4];
#pragma unroll
    for (int u = 0; u < UNITS; u++) start_at(w.middle[u], from[u]);
    if constexpr (IS_PLAIN) {
        part_sum<UNITS, true>(keys + w.keys_at, w.odd, w.factors, w.n_nibble_chunks, w.n_chunks, from, c);
    } else {
#pragma unroll
        for (int u = 0; u < UNITS; u++)
#pragma unroll
            for (int i = 0; i < 16; i++) c[u][i / 4][i % 4] = from[u][i % 4];
#pragma unroll 1
        for (int p = 0; p < w.page->n_parts[set]; p++) {
            part_sum<UNITS, false>(keys + w.gid * w.page->row_bytes[p] + 32 * w.tid, w.odd,
                                   w.factors + w.page->first_chunk[p] * UNITS * 128,
                                   w.page->n_nibble_chunks[p], w.page->n_chunks[p], NULL, c);
            keys += set ? w.page->key_bytes[p] : w.page->page_bytes[p];
        }
    }
}

/* The eight scales that belong to this lane's tokens: h, then i. */
__device__ static inline void scales_read(const uint16_t *scales, int gid, int odd, float out[2][4])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint2 x = *(const uint2 *)(scales + 8 * gid + 4 * (h ^ odd));
        float2 low = __half22float2(*(__half2 *)&x.x), high = __half22float2(*(__half2 *)&x.y);
        out[h][0] = low.x, out[h][1] = low.y, out[h][2] = high.x, out[h][3] = high.y;
    }
}

/* The scores of query tid in a unit, less its maximum: integer sums and the mean's in; sinks do not count. */
template <int D, int UNITS>
__device__ static inline void scores_finish(const walker<D, UNITS> &w, int unit, const int c[4][4],
                                            const float mean[4][4], const float scales[2][4], uint64_t sinks,
                                            float s[4][2])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float x = (float)digits_join(c[i][2 * h], c[i][2 * h + 1]);
            s[i][h] = fmaf(x, scales[h][i] * w.unit[unit], mean[i][2 * h] + mean[i][2 * h + 1]);
        }
    if (!sinks) return;
    uint32_t skipped = (uint32_t)(sinks >> (8 * w.gid)) & 255;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (skipped >> (4 * (h ^ w.odd) + i) & 1) s[i][h] = -INFINITY;
}

/* Moves the maximum of query tid where a score exceeds it by more than 8; s is then less the new one. */
template <int D, int UNITS>
__device__ static inline void max_move(walker<D, UNITS> &w, int unit, float s[4][2])
{
    float most = s[0][0];
#pragma unroll
    for (int i = 0; i < 8; i++) most = fmaxf(most, s[i / 2][i % 2]);
    if (!__any_sync(~0u, most > w.most[unit])) return;
    most = rows_max(most);
    float move = most > w.most[unit] ? most : 0;
    float factor = w.most[unit] < 0 ? 0 : ptx_exp2(-move);
    if (move == 0) factor = 1;
    w.max[unit] += move;
    w.most[unit] = most > w.most[unit] ? 8 : w.most[unit];
    w.sum[unit] *= factor;
#pragma unroll
    for (int i = 0; i < 8; i++) s[i / 2][i % 2] -= move;
#pragma unroll
    for (int g = 0; g < D / 16; g++) w.out[unit][g][0] *= factor, w.out[unit][g][1] *= factor;
}

/* Weights of the values as factors: of the trellis' low and high bits, by code of the byte, a fourth of them
   for odd ones; of plain codes. */
struct walk_weights {
    uint32_t low[4], high[4], plain[4];
    float unit; /* of query tid */
};

/* Integers of 16 bits, 32768 + 128 too large, in words: a lane's 4 of [query][tile of 16 tokens][gid %
   2][token % 4], two tokens in each. order: which of the two is first. */
__device__ static inline void factors_write(char *to, const float factors[4][2], uint32_t order)
{
    uint4 pairs;
#pragma unroll
    for (int i = 0; i < 4; i++)
        (&pairs.x)[i] = __byte_perm(__float_as_uint(factors[i][0]), __float_as_uint(factors[i][1]), order);
    *(uint4 *)to = pairs;
}

/* Probabilities times the values' scales, in a unit of which the block's largest has 2280, and from these the
   factors of a code's bits, at most 14 times as much, to the exchange. s is used up. */
template <int D, int UNITS>
__device__ static inline void weights_make(walker<D, UNITS> &w, int unit, float s[4][2],
                                           const float scales[2][4], bool has_plain, walk_weights &out)
{
    float most = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float p = ptx_exp2(s[i][h]);
            w.sum[unit] += p;
            s[i][h] = p * scales[h][i];
            most = fmaxf(most, s[i][h]);
        }
    most = fmaxf(rows_max(most), 1e-15f);
    float shrink = 2280 * ptx_reciprocal(most);
    out.unit = most * (1.0f / 2280);
    /* After token 3 of a row tile's half comes token 0 of the other; after the second half's the neighbour's.
     */
    float first = s[0][0], second = s[0][1]; /* by h, of the half that begins a row tile: h ^ odd = 0 */
    float other = __shfl_xor_sync(~0u, w.odd ? second : first, 4), low[4][2], high[4][2];
    const float magic = WALK_MAGIC + 0x8080;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float to = i % 2 ? shrink * .25f : shrink;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float next = i < 3 ? s[(i + 1) % 4][h] : h ? (w.odd ? first : other) : w.odd ? other : second;
            low[i][h] = fmaf(6 * to, s[i][h], fmaf(8 * to, next, magic));
            high[i][h] = fmaf(5 * to, s[i][h], fmaf(-3 * to, next, magic));
        }
    }
    uint32_t order = w.odd ? 0x1054 : 0x5410; /* tokens i and 4 + i of the row tile */
    char *to = w.exchange + unit * w.kinds_bytes + w.tid * 128 + w.gid * 16;
    factors_write(to, low, order);
    factors_write(to + WALK_FACTORS, high, order);
    if (!has_plain) return;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) low[i][h] = fmaf(WALK_PLAIN * shrink, s[i][h], magic);
    factors_write(to + 2 * WALK_FACTORS, low, order);
}

/* Of lane tid's 16 tokens and query gid / 2 the signed digits that this lane's column takes. */
__device__ static inline void digits_read(const char *factors, int gid, int tid, int is_low, uint32_t out[4])
{
    const uint4 *from = (const uint4 *)(factors + gid / 2 * 128 + tid * 32);
    uint4 a = from[0], b = from[1]; /* word s: tokens s and 4 + s; 8 + s and 12 + s */
#pragma unroll
    for (int s = 0; s < 4; s++) out[s] = digit_pick((&a.x)[s], (&b.x)[s], is_low);
}

/* Codes of a trellis of 16 channels. at: this lane's words of row tile 0; from: what to add to. */
template <int D, int UNITS>
__device__ static inline void trellis_multiply(const uint8_t *at, const walk_weights v[UNITS],
                                               const int from[UNITS][4], int c[UNITS][4])
{
    uint32_t x = *(const uint32_t *)at, y = *(const uint32_t *)(at + 128);
#pragma unroll
    for (int s = 0; s < 4; s++) {
        uint32_t a = s < 2 ? x : x >> 4, b = s < 2 ? y : y >> 4;
        const uint32_t one = low_bits(s);
#pragma unroll
        for (int u = 0; u < UNITS; u++)
            ptx_multiply_bytes_32(c[u], s ? c[u] : from[u], a & one, b & one, a & 2 * one, b & 2 * one,
                                  v[u].low[s], v[u].high[s]);
    }
}

/* Adds plain codes of BITS bits, 4 or 1. */
template <int D, int UNITS, int BITS>
__device__ static inline void plain_multiply(const uint8_t *at, int tid, const walk_weights v[UNITS],
                                             int c[UNITS][4])
{
    uint32_t x[4], y[4]; /* codes 4 b + s of rows gid and gid + 8, where they stand in the byte */
    if (BITS == 4) {
        const uint32_t *low = (const uint32_t *)(at + 64 * tid), *high = low + 64;
        x[0] = low[0], x[1] = low[0] >> 4, x[2] = low[8], x[3] = low[8] >> 4;
        y[0] = high[0], y[1] = high[0] >> 4, y[2] = high[8], y[3] = high[8] >> 4;
    } else {
        uint32_t a = *(const uint32_t *)(at + 32 * (tid / 2)) >> (4 * (tid & 1)),
                 b = *(const uint32_t *)(at + 64 + 32 * (tid / 2)) >> (4 * (tid & 1));
#pragma unroll
        for (int s = 0; s < 4; s++) x[s] = a >> s, y[s] = b >> s;
    }
    const uint32_t mask = BITS == 4 ? 0x0f0f0f0fu : 0x01010101u;
#pragma unroll
    for (int s = 0; s < 4; s += 2)
#pragma unroll
        for (int u = 0; u < UNITS; u++)
            ptx_multiply_bytes_32(c[u], x[s] & mask, y[s] & mask, x[s + 1] & mask, y[s + 1] & mask,
                                  v[u].plain[s], v[u].plain[s + 1]);
}

template <int D, int UNITS>
__device__ static inline void out_add(walker<D, UNITS> &w, int unit, int group, const int c[4], float of)
{
#pragma unroll
    for (int h = 0; h < 2; h++)
        w.out[unit][group][h] = fmaf((float)digits_join(c[2 * h], c[2 * h + 1]), of, w.out[unit][group][h]);
}

/* What all of the trellis' bits would make, halved, taken off. */
template <int UNITS> __device__ static inline int trellis_middle(const walk_weights &v)
{
    int all[4] = {};
#pragma unroll
    for (int s = 0; s < 4; s++) {
        const uint32_t one = low_bits(s);
        ptx_multiply_bytes_32(all, one, one, 2 * one, 2 * one, v.low[s], v.high[s]);
    }
    return middle_of(all);
}

/* Adds a part of values that are not all of 2 bits, or not read alone. at: as below. */
template <int D, int UNITS>
__device__ static inline void mixed_values_sum(walker<D, UNITS> &w, const uint8_t *at, int set, int part,
                                               const walk_weights v[UNITS])
{
    int middle[3][UNITS]; /* of 2, 4 and 1 bits */
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        middle[0][u] = trellis_middle<UNITS>(v[u]);
        if (!w.page->has_plain) continue;
        int all[4] = {};
        const uint32_t one = 0x01010101u;
        for (int s = 0; s < 4; s += 2)
            ptx_multiply_bytes_32(all, one, one, one, one, v[u].plain[s], v[u].plain[s + 1]);
        int sum = digits_join(all[0], all[1]);
        middle[1][u] = -(15 * sum >> 1), middle[2][u] = -(sum >> 1);
    }
#pragma unroll
    for (int g = 0; g < D / 16; g++) {
        int bits = w.page->value_bits[part][g], c[UNITS][4];
        if (bits == 0) continue;
#pragma unroll
        for (int u = 0; u < UNITS; u++) start_at(middle[bits == 2 ? 0 : bits == 4 ? 1 : 2][u], c[u]);
        if (bits == 2)
            trellis_multiply<D, UNITS>(at + 32 * w.tid, v, c, c);
        else if (bits == 4)
            plain_multiply<D, UNITS, 4>(at, w.tid, v, c);
        else
            plain_multiply<D, UNITS, 1>(at, w.tid, v, c);
        at += 128 * bits;
        float factor = w.page->value_factor[set][part][g];
#pragma unroll
        for (int u = 0; u < UNITS; u++) out_add<D, UNITS>(w, u, g, c[u], v[u].unit * factor);
    }
}

/* Adds values in a trellis, of a part whose values all are. at: this lane's words of row tile 0. factors: of
   groups; IS_ALONE: 1, since they are in value_base. */
template <int D, int UNITS, bool IS_ALONE>
__device__ static inline void trellis_values_sum(walker<D, UNITS> &w, const uint8_t *at, const float *factors,
                                                 const walk_weights v[UNITS])
{
    int from[UNITS][4];
#pragma unroll
    for (int u = 0; u < UNITS; u++) start_at(trellis_middle<UNITS>(v[u]), from[u]);
#pragma unroll
    for (int g = 0; g < D / 16; g++) {
        int c[UNITS][4];
        trellis_multiply<D, UNITS>(at + 256 * g, v, from, c);
#pragma unroll
        for (int u = 0; u < UNITS; u++)
            out_add<D, UNITS>(w, u, g, c[u], IS_ALONE ? v[u].unit : v[u].unit * factors[g]);
    }
}

/* Scores of a block's keys, and of them the weights of its values. keys: in shared memory, as keys_sum wants
   them. j: the block's place in its frame. IS_PLAIN: as is_plain_old says, and the block is old. keys_end:
   called when the keys, but not yet the scales, have been read. */
template <int D, int UNITS, bool IS_PLAIN, typename F>
__device__ static inline void weights_find(walker<D, UNITS> &w, const uint8_t *keys,
                                           const uint16_t *key_scales, int j, int set, uint64_t sinks,
                                           walk_weights v[UNITS], F keys_end)
{
    float mean[UNITS][4][4], s[UNITS][4][2], scales[2][4];
    int c[UNITS][4][4];
    bool has_plain = !IS_PLAIN && w.page->has_plain;
    if (IS_PLAIN) mean_scores<D, UNITS>(w, j, mean);
    keys_sum<D, UNITS, IS_PLAIN>(w, keys, set, c);
    keys_end();
    if (!IS_PLAIN) mean_scores<D, UNITS>(w, j, mean);
    scales_read(key_scales, w.gid, w.odd, scales);
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        scores_finish<D, UNITS>(w, u, c[u], mean[u], scales, sinks, s[u]);
        max_move<D, UNITS>(w, u, s[u]);
    }
    scales_read(key_scales + WALK_TOKENS, w.gid, w.odd, scales);
    __syncwarp(); /* everyone is done with the block before this one's factors */
#pragma unroll
    for (int u = 0; u < UNITS; u++) weights_make<D, UNITS>(w, u, s[u], scales, has_plain, v[u]);
    __syncwarp();
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const char *factors = w.exchange + u * w.kinds_bytes;
        digits_read(factors, w.gid, w.tid, w.odd, v[u].low);
        digits_read(factors + WALK_FACTORS, w.gid, w.tid, w.odd, v[u].high);
        if (has_plain) digits_read(factors + 2 * WALK_FACTORS, w.gid, w.tid, w.odd, v[u].plain);
    }
}

/* Values of a set's parts. is_page: parts' whole pages stand one after the other; otherwise their values. */
template <int D, int UNITS>
__device__ static inline void parts_values_sum(walker<D, UNITS> &w, const uint8_t *values, int is_page,
                                               int set, const walk_weights v[UNITS])
{
#pragma unroll 1
    for (int p = 0; p < w.page->n_parts[set]; p++) {
        int keys = w.page->key_bytes[p];
        const uint8_t *at = values + (is_page ? keys : 0) + 4 * w.gid;
        if (w.page->is_trellis[p])
            trellis_values_sum<D, UNITS, false>(w, at + 32 * w.tid, w.page->value_factor[set][p], v);
        else
            mixed_values_sum<D, UNITS>(w, at, set, p, v);
        values += w.page->page_bytes[p] - (is_page ? 0 : keys + 4 * WALK_TOKENS);
    }
}

/* An old block. page: of its parts, one after the other, in shared memory. */
template <int D, int UNITS, bool IS_PLAIN>
__device__ static inline void old_block_step(walker<D, UNITS> &w, const uint8_t *page, int j, uint64_t sinks)
{
    walk_weights v[UNITS];
    weights_find<D, UNITS, IS_PLAIN>(w, page, (const uint16_t *)(page + w.scales_at), j, 0, sinks, v, [] {});
    if constexpr (IS_PLAIN)
        trellis_values_sum<D, UNITS, true>(w, page + w.values_at, NULL, v);
    else
        parts_values_sum<D, UNITS>(w, page, 1, 0, v);
}

#endif
