#ifndef KERNELS_CUDA_WALK_BLOCK_CUH
#define KERNELS_CUDA_WALK_BLOCK_CUH

#include "kernels/cuda/walk_frame.cuh"

/*
 * One coded block. Scores: keys are the 16 rows of a product; lane gid has the 8 tokens of row tile gid, of
 * row tile i of the product rows (h ^ odd) * 4 + i, so that 16 bytes are one lane's share of four products
 * and lanes of odd gid read the other half first, from other banks. Output: rows are channels, and lane tid
 * has 16 tokens in a row of each, one word.
 */

/* The mean's scores of the block that is j-th of its frame. About the frame's centre even functions mirror
   and odd ones change sign: blocks before it read the rows of those after it backwards. */
template <int D, int UNITS>
__device__ static inline void mean_scores(const walker<D, UNITS> &w, int j, float c[UNITS][4][4])
{
    int places = w.walk->place_blocks, is_mirrored = j < places;
    int at = (is_mirrored ? places - 1 - j : j - places) * 4;
    int lane = is_mirrored ? 28 - w.lane + 2 * w.tid : w.lane; /* 7 - gid, tid */
    uint32_t sign = is_mirrored ? 0x80008000u : 0;
    const uint4 *tiles = w.basis + at * 32 + lane;
    int row = (is_mirrored ? -1 : 1) * 32, n_steps = w.walk->n_basis_steps, lows = n_steps * places * 128;
    if (is_mirrored) tiles += 3 * 32;
#pragma unroll(UNITS == 1 ? 4 : 1)
    for (int step = 0; step < n_steps; step++, tiles += places * 128) {
        uint2 coef[UNITS];
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            coef[u] = w.coefs[(step * UNITS + u) * 32 + w.lane];
            coef[u].y ^= sign;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint4 a = tiles[i * row];
#pragma unroll
            for (int u = 0; u < UNITS; u++) ptx_multiply(c[u][i], a.x, a.y, a.z, a.w, coef[u].x, coef[u].y);
        }
        if (w.walk->n_basis_halves == 1) continue;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint4 a = tiles[lows + i * row];
#pragma unroll
            for (int u = 0; u < UNITS; u++) ptx_multiply(c[u][i], a.x, a.y, a.z, a.w, coef[u].x, coef[u].y);
        }
    }
}

/* Adds a group of channels of 64 keys. word: of the group; is_second: of two groups of 1 bit in one word. */
template <int D, int UNITS, int BITS>
__device__ static inline void keys_multiply(const walker<D, UNITS> &w, const uint8_t *word, int is_second,
                                            const uint2 digits[UNITS], int c[UNITS][4][4])
{
    if (BITS == 4) word += w.tid / 2 * 32;
    int shift = BITS == 2 ? 2 * w.tid : BITS == 4 ? w.tid % 2 * 4 : w.tid + 4 * is_second;
    uint4 x = *(const uint4 *)(word + 16 * w.odd), y = *(const uint4 *)(word + 16 * (w.odd ^ 1));
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t a = (&x.x)[i] >> shift, b = (&y.x)[i] >> shift;
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            const uint32_t mask = BITS == 4 ? 0x0f0f0f0fu : 0x01010101u;
            if (BITS == 2)
                ptx_multiply_bytes_32(c[u][i], a & mask, b & mask, a & 2 * mask, b & 2 * mask, digits[u].x,
                                      digits[u].y);
            else
                ptx_multiply_bytes_16(c[u][i], a & mask, b & mask, digits[u].x);
        }
    }
}

/* Adds the groups first .. end - 1 of a part, which have BITS bits. words: of group `first`. ALONE: the only
   part, whose factors are there; otherwise they are made here. */
template <int D, int UNITS, int BITS, bool ALONE>
__device__ static inline void groups_sum(const walker<D, UNITS> &w, const uint8_t *words, int part, int first,
                                         int end, int c[UNITS][4][4])
{
#pragma unroll(ALONE &&UNITS == 1 ? 2 : 1)
    for (int g = first; g < end; g++) {
        uint2 digits[UNITS];
        float unused = 0;
        int n = g - first;
#pragma unroll
        for (int u = 0; u < UNITS; u++)
            digits[u] = ALONE ? ((const uint2 *)w.mixed)[(g * UNITS + u) * 32 + w.lane]
                              : digits_of<D, UNITS, BITS>(w, u, part, g, unused);
        keys_multiply<D, UNITS, BITS>(w, words + (BITS == 1 ? n / 2 * 32 : n * 16 * BITS), n & 1, digits, c);
    }
}

/* A part's groups of 4 bits, or all others. */
template <int D, int UNITS, bool ALONE>
__device__ static inline void part_sum(const walker<D, UNITS> &w, const uint8_t *page, int part,
                                       bool is_nibbles, int c[UNITS][4][4])
{
    const uint8_t *words = page + w.gid * w.page->row_bytes[part];
    const int *end = w.page->key_ends[part];
    if (is_nibbles) {
        groups_sum<D, UNITS, 4, ALONE>(w, words, part, 0, end[0], c);
        return;
    }
    words += 64 * end[0];
    groups_sum<D, UNITS, 2, ALONE>(w, words, part, end[0], end[1], c);
    words += 32 * (end[1] - end[0]);
    groups_sum<D, UNITS, 1, ALONE>(w, words, part, end[1], end[2], c);
}

/* Sums of keys over channels, of all parts: nibbles first, whose unit is finer. */
template <int D, int UNITS>
__device__ static inline void keys_sum(const walker<D, UNITS> &w, const uint8_t *pages, int n_parts,
                                       int c[UNITS][4][4])
{
    if (w.page->has_nibbles) {
        const uint8_t *page = pages;
        if (n_parts == 1) part_sum<D, UNITS, true>(w, page, 0, true, c);
        for (int p = 0; n_parts > 1 && p < n_parts; page += w.page->page_bytes[p], p++)
            part_sum<D, UNITS, false>(w, page, p, true, c);
#pragma unroll
        for (int u = 0; u < UNITS; u++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int e = 0; e < 4; e += 2) {
                    c[u][i][e + 1] = (c[u][i][e] * 256 + c[u][i][e + 1]) >> w.shift[u];
                    c[u][i][e] = 0;
                }
    }
#pragma unroll
    for (int u = 0; u < UNITS; u++)
#pragma unroll
        for (int i = 0; i < 4; i++) c[u][i][1] += w.middle[u], c[u][i][3] += w.middle[u];
    if (n_parts == 1) part_sum<D, UNITS, true>(w, pages, 0, false, c);
    for (int p = 0; n_parts > 1 && p < n_parts; pages += w.page->page_bytes[p], p++)
        part_sum<D, UNITS, false>(w, pages, p, false, c);
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

/* The scores of query tid in a unit: integer sums and the mean's in; sinks do not count. */
template <int D, int UNITS>
__device__ static inline void scores_finish(const walker<D, UNITS> &w, int unit, const int c[4][4],
                                            const float mean[4][4], const float scales[2][4], uint64_t sinks,
                                            float s[4][2])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float x = (float)(c[i][2 * h] * 256 + c[i][2 * h + 1]) * w.unit[unit];
            s[i][h] = fmaf(x, scales[h][i], mean[i][2 * h] + mean[i][2 * h + 1]);
        }
    if (!sinks) return;
    uint32_t skipped = (uint32_t)(sinks >> (8 * w.gid)) & 255;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (skipped >> (4 * (h ^ w.odd) + i) & 1) s[i][h] = -INFINITY;
}

/* Moves the maximum of query tid where a score exceeds it by more than 8. */
template <int D, int UNITS>
__device__ static inline void max_move(walker<D, UNITS> &w, int unit, const float s[4][2])
{
    float most = s[0][0];
#pragma unroll
    for (int i = 0; i < 8; i++) most = fmaxf(most, s[i / 2][i % 2]);
    if (!__any_sync(~0u, most > w.max[unit] + 8)) return;
    most = rows_max(most);
    float next = most > w.max[unit] + 8 ? most : w.max[unit], factor = ptx_exp2(w.max[unit] - next);
    if (next == w.max[unit]) factor = 1;
    w.max[unit] = next;
    w.sum[unit] *= factor;
#pragma unroll
    for (int g = 0; g < D / 16; g++) w.out[unit][g][0] *= factor, w.out[unit][g][1] *= factor;
}

/* Weights of the values as factors: of the trellis' low and high bits, by code of the byte; of plain codes.
 */
struct walk_weights {
    uint32_t low[4], high[4], plain[4];
    float sum;  /* of query tid's weights */
    float unit; /* of the same */
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

/* Probabilities times the values' scales, as multiples of a power of two of which the block's largest has
   1024 to 2048, and from these the factors of a code's bits, to the exchange. s is used up. */
template <int D, int UNITS>
__device__ static inline void weights_make(walker<D, UNITS> &w, int unit, float s[4][2],
                                           const float scales[2][4], walk_weights &out)
{
    float most = 0, sum = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float p = ptx_exp2(s[i][h] - w.max[unit]);
            w.sum[unit] += p;
            s[i][h] = p * scales[h][i];
            most = fmaxf(most, s[i][h]);
        }
    uint32_t exponent = __float_as_uint(fmaxf(rows_max(most), 1e-15f)) & 0x7f800000u;
    float shrink = __uint_as_float((264u << 23) - exponent);
    out.unit = __uint_as_float(exponent - (10u << 23));
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) s[i][h] *= shrink, sum += s[i][h];
    /* After token 3 of a row tile's half comes token 0 of the other; after the second half's the neighbour's.
     */
    float other = __shfl_xor_sync(~0u, w.odd ? s[0][1] : s[0][0], 4), low[4][2], high[4][2];
    const float magic = WALK_MAGIC + 0x8080;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float next = i < 3 ? s[(i + 1) % 4][h] : w.odd == h ? s[0][1 - h] : other;
            low[i][h] = fmaf(6, s[i][h], fmaf(8, next, magic));
            high[i][h] = fmaf(5, s[i][h], fmaf(-3, next, magic));
        }
    uint32_t order = w.odd ? 0x1054 : 0x5410; /* tokens i and 4 + i of the row tile */
    char *to = w.exchange + unit * w.walk->exchange_bytes + w.tid * 128 + w.gid * 16;
    factors_write(to, low, order);
    factors_write(to + WALK_FACTORS, high, order);
    out.sum = rows_sum(sum);
    if (!w.page->has_plain) return;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) low[i][h] = fmaf(WALK_PLAIN, s[i][h], magic);
    factors_write(to + 2 * WALK_FACTORS, low, order);
}

/* Of lane tid's 16 tokens and query gid / 2 the signed digits that this lane's column takes. */
__device__ static inline void digits_read(const char *factors, int gid, int tid, int is_low, uint32_t out[4])
{
    const uint4 *from = (const uint4 *)(factors + gid / 2 * 128 + tid * 32);
    uint4 a = from[0], b = from[1]; /* word s: tokens s and 4 + s; 8 + s and 12 + s */
    uint32_t digit = is_low ? 0x6420 : 0x7531;
#pragma unroll
    for (int s = 0; s < 4; s++) out[s] = __byte_perm((&a.x)[s], (&b.x)[s], digit) ^ 0x80808080u;
}

/* Adds a group of channels of BITS bits. at: its codes, this lane's row. */
template <int D, int UNITS, int BITS>
__device__ static inline void values_multiply(walker<D, UNITS> &w, const uint8_t *at, int part, int group,
                                              const walk_weights v[UNITS], const int middle[UNITS])
{
    int c[UNITS][4], tid = w.tid;
    uint32_t x[4], y[4]; /* codes 4 b + s of rows gid and gid + 8, where they stand in the byte */
#pragma unroll
    for (int u = 0; u < UNITS; u++) c[u][0] = c[u][2] = 0, c[u][1] = c[u][3] = middle[u];
    if (BITS == 4) {
        const uint32_t *low = (const uint32_t *)(at + 64 * tid), *high = low + 64;
        x[0] = low[0], x[1] = low[0] >> 4, x[2] = low[8], x[3] = low[8] >> 4;
        y[0] = high[0], y[1] = high[0] >> 4, y[2] = high[8], y[3] = high[8] >> 4;
    } else {
        uint32_t a = *(const uint32_t *)(at + 32 * (BITS == 2 ? tid : tid / 2)),
                 b = *(const uint32_t *)(at + 64 * BITS + 32 * (BITS == 2 ? tid : tid / 2));
        if (BITS == 1) a >>= 4 * (tid & 1), b >>= 4 * (tid & 1);
#pragma unroll
        for (int s = 0; s < 4; s++) x[s] = a >> (BITS * s), y[s] = b >> (BITS * s);
    }
    const uint32_t mask = BITS == 4 ? 0x0f0f0f0fu : 0x01010101u;
#pragma unroll
    for (int s = 0; s < 4; s++)
#pragma unroll
        for (int u = 0; u < UNITS; u++)
            if (BITS == 2)
                ptx_multiply_bytes_32(c[u], x[s] & mask, y[s] & mask, x[s] & 2 * mask, y[s] & 2 * mask,
                                      v[u].low[s], v[u].high[s]);
            else if (s % 2 == 0)
                ptx_multiply_bytes_32(c[u], x[s] & mask, y[s] & mask, x[s + 1] & mask, y[s + 1] & mask,
                                      v[u].plain[s], v[u].plain[s + 1]);
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        float unit = w.page->value_factor[w.set][part][group] * v[u].unit;
#pragma unroll
        for (int h = 0; h < 2; h++)
            w.out[u][group][h] = fmaf((float)(c[u][2 * h] * 256 + c[u][2 * h + 1]), unit, w.out[u][group][h]);
    }
}

template <int D, int UNITS>
__device__ static inline void values_sum(walker<D, UNITS> &w, const uint8_t *pages, int n_parts,
                                         const walk_weights v[UNITS])
{
    int middle[3][UNITS]; /* of 2, 4 and 1 bits: what the levels' constants make */
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        middle[0][u] = __float2int_rn(-9 * v[u].sum);
        middle[1][u] = __float2int_rn(-7.5f * WALK_PLAIN * v[u].sum);
        middle[2][u] = __float2int_rn(-.5f * WALK_PLAIN * v[u].sum);
    }
#pragma unroll 1
    for (int p = 0; p < n_parts; p++) {
        const uint8_t *at = pages + w.page->key_bytes[p] + 4 * w.gid;
        pages += w.page->page_bytes[p];
        if (w.page->is_trellis[p]) {
#pragma unroll
            for (int g = 0; g < D / 16; g++)
                values_multiply<D, UNITS, 2>(w, at + 256 * g, p, g, v, middle[0]);
            continue;
        }
#pragma unroll
        for (int g = 0; g < D / 16; g++) {
            int bits = w.page->value_bits[p][g];
            if (bits == 2)
                values_multiply<D, UNITS, 2>(w, at, p, g, v, middle[0]);
            else if (bits == 4)
                values_multiply<D, UNITS, 4>(w, at, p, g, v, middle[1]);
            else if (bits == 1)
                values_multiply<D, UNITS, 1>(w, at, p, g, v, middle[2]);
            at += 128 * bits;
        }
    }
}

/* pages: of the parts, one after the other, in shared memory. j: the block's place in its frame. */
template <int D, int UNITS>
__device__ static inline void block_step(walker<D, UNITS> &w, const uint8_t *pages, int j, int n_parts,
                                         uint64_t sinks)
{
    float mean[UNITS][4][4] = {}, s[UNITS][4][2], scales[2][4];
    int c[UNITS][4][4] = {};
    mean_scores<D, UNITS>(w, j, mean);
    keys_sum<D, UNITS>(w, pages, n_parts, c);
    const uint8_t *end = pages;
    for (int p = 0; p < n_parts; p++) end += w.page->page_bytes[p];
    const uint16_t *key_scales = (const uint16_t *)end - 2 * WALK_TOKENS;
    walk_weights v[UNITS];
    scales_read(key_scales, w.gid, w.odd, scales);
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        scores_finish<D, UNITS>(w, u, c[u], mean[u], scales, sinks, s[u]);
        max_move<D, UNITS>(w, u, s[u]);
    }
    scales_read(key_scales + WALK_TOKENS, w.gid, w.odd, scales);
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        weights_make<D, UNITS>(w, u, s[u], scales, v[u]);
    }
    __syncwarp();
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        const char *factors = w.exchange + u * w.walk->exchange_bytes;
        digits_read(factors, w.gid, w.tid, w.odd, v[u].low);
        digits_read(factors + WALK_FACTORS, w.gid, w.tid, w.odd, v[u].high);
        if (w.page->has_plain) digits_read(factors + 2 * WALK_FACTORS, w.gid, w.tid, w.odd, v[u].plain);
    }
    values_sum<D, UNITS>(w, pages, n_parts, v);
}

#endif
