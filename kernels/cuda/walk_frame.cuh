#ifndef KERNELS_CUDA_WALK_FRAME_CUH
#define KERNELS_CUDA_WALK_FRAME_CUH

#include "kernels/cuda/walk.cuh"

/*
 * What a warp does on entering a frame: queries turned back by the frame's angle, q' = A^-T q into w.mixed, the
 * mean's coefficients into w.coefs. Lane gid works for query gid / 2; of its two columns the even one has
 * fp16 values, the odd one what they leave, so that together they are the queries to 22 bits.
 */

/* Queries of one unit turned back, as factors of k-steps of 16 channels; on the way the coefficients of the mean's
   fast pairs: <q, R mean> of pair i is even * cos + odd * sin of the place's angle. */
template <int D, int UNITS>
__device__ static inline void queries_turn(const walker<D, UNITS> &w, int unit, uint32_t b[D / 16][2])
{
    const cuda_codec *codec = w.walk->codec;
    const float *cosines = codec->frame_cos + (size_t)w.frame * (D / 2),
                *sines = codec->frame_sin + (size_t)w.frame * (D / 2), *q = w.q[unit];
    float scale = w.walk->args.scale;
#pragma unroll
    for (int k = 0; k < D / 32; k++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int i = 16 * k + 8 * h + 2 * w.tid, step = 1 + 2 * k + h;
            float2 x = make_float2(0, 0), y = x;
            if (q) x = *(const float2 *)(q + i), y = *(const float2 *)(q + i + D / 2);
            float2 c = *(const float2 *)(cosines + i), s = *(const float2 *)(sines + i);
            x.x *= scale, x.y *= scale, y.x *= scale, y.y *= scale;
            float a0 = x.x * c.x + y.x * s.x, a1 = x.y * c.y + y.y * s.y;
            float b0 = y.x * c.x - x.x * s.x, b1 = y.y * c.y - x.y * s.y;
            b[k][h] = half_digit(a0, a1, w.odd);
            b[k + D / 32][h] = half_digit(b0, b1, w.odd);
            if (step >= w.walk->n_basis_steps) continue;
            float2 m = *(const float2 *)(w.mean + i), n = *(const float2 *)(w.mean + i + D / 2);
            uint2 coef;
            coef.x = half_digit(a0 * m.x + b0 * n.x, a1 * m.y + b1 * n.y, w.odd);
            coef.y = half_digit(b0 * m.x - a0 * n.x, b1 * m.y - a1 * n.y, w.odd);
            w.coefs[(step * UNITS + unit) * 32 + w.lane] = coef;
        }
}

/* Coefficients of the slow pairs' polynomials: 8 even terms and 8 odd ones. */
template <int D, int UNITS>
__device__ static inline void terms_fill(const walker<D, UNITS> &w, int unit, const uint32_t b[D / 16][2])
{
    float c[4] = {};
#pragma unroll
    for (int k = 0; k < 2 * (D / 16); k++) {
        uint4 a = w.terms[k * 32 + w.lane];
        ptx_multiply(c, a.x, a.y, a.z, a.w, b[k % (D / 16)][0], b[k % (D / 16)][1]);
    }
    float even = c[0] + c[1], odd = c[2] + c[3];
    float even_high = __half2float(__float2half_rn(even)), odd_high = __half2float(__float2half_rn(odd));
    uint2 coef;
    coef.x = ptx_transpose(half_pair(even_high, even - even_high));
    coef.y = ptx_transpose(half_pair(odd_high, odd - odd_high));
    w.coefs[unit * 32 + w.lane] = coef;
}

/* q' of one unit, and the units that its factors come in. */
template <int D, int UNITS>
__device__ static inline void queries_mix(walker<D, UNITS> &w, int unit, const uint32_t b[D / 16][2])
{
    float most[2] = {1e-20f, 1e-20f};
    float scale = w.walk->codec->query_tiles_scale[w.walk->codec->query_tiles_stride ? w.page_index : 0];
    float *to = w.mixed + (4 * unit + w.tid) * 16 + w.gid % 4 * 4 + w.gid / 4;
    const uint4 *a = w.matrix + w.lane;
#pragma unroll 1
    for (int g = 0; g < D / 16; g++) {
        float c[2][4] = {};
#pragma unroll
        for (int k = 0; k < D / 16; k++, a += 32) {
            uint4 x = *a;
            ptx_multiply(c[k % 2], x.x, x.y, x.z, x.w, b[k][0], b[k][1]);
        }
        to[0] = (c[0][0] + c[1][0] + (c[0][1] + c[1][1])) * scale;
        to[2] = (c[0][2] + c[1][2] + (c[0][3] + c[1][3])) * scale;
        float x = fmaxf(fabsf(to[0]), fabsf(to[2]));
        for (int i = 0; i < 2; i++) most[i] = fmaxf(most[i], x * w.page->key_bound[w.set][i][g]);
        to += 4 * UNITS * 16;
    }
    float nibbles = rows_max(most[1]), all = fmaxf(rows_max(most[0]), nibbles);
    int shift = min(ilogbf(all) - ilogbf(nibbles), 7);
    if (ldexpf(nibbles, shift) > all) shift--;
    w.shift[unit] = shift;
    w.unit[unit] = all / 32000;
    w.reach[unit] = 32000 / __shfl_sync(~0u, all, w.gid / 2);
    w.boost[unit] = ldexpf(1, __shfl_sync(~0u, shift, w.gid / 2));
}

/* The factors of a group of channels of BITS bits: of columns 4 b + tid, times the level's bits. middle gets what the
   levels' constants take away, of this lane's channels. */
template <int D, int UNITS, int BITS>
__device__ static inline uint2 digits_of(const walker<D, UNITS> &w, int unit, int part, int group,
                                         float &middle)
{
    const float4 *at = (const float4 *)(w.mixed + ((group * UNITS + unit) * 4 + w.gid / 2) * 16);
    float factor = w.page->key_factor[w.set][part][group] * w.reach[unit];
    float4 x = at[w.tid];
    float sum = x.x + x.y + (x.z + x.w), l[4], m[4];
    const float magic = WALK_MAGIC + 0x8080;
    middle -= (BITS == 2 ? 9 : BITS == 4 ? 15 : 1) * factor * sum;
    if (BITS != 2) {
        float two = 2 * factor * (BITS == 4 ? w.boost[unit] : 1);
#pragma unroll
        for (int b = 0; b < 4; b++) l[b] = fmaf(two, (&x.x)[b], magic);
        return make_uint2(digits_pack(l, w.odd), 0);
    }
    float4 y = at[(w.tid + 1) & 3];
    if (w.tid == 3) y = make_float4(y.y, y.z, y.w, y.x);
    float six = 6 * factor, eight = 8 * factor, five = 5 * factor, three = -3 * factor;
#pragma unroll
    for (int b = 0; b < 4; b++) {
        l[b] = fmaf(six, (&x.x)[b], fmaf(eight, (&y.x)[b], magic));
        m[b] = fmaf(five, (&x.x)[b], fmaf(three, (&y.x)[b], magic));
    }
    return make_uint2(digits_pack(l, w.odd), digits_pack(m, w.odd));
}

/* Of part 0's groups first .. end - 1, in place of q'; IN_PLACE false: of a part's, for what they add to middle. */
template <int D, int UNITS, int BITS, bool IN_PLACE>
__device__ static inline void digits_fill(const walker<D, UNITS> &w, int part, int first, int end,
                                          float middle[UNITS])
{
#pragma unroll 1
    for (int g = first; g < end; g++) {
        uint2 digits[UNITS];
#pragma unroll
        for (int u = 0; u < UNITS; u++) digits[u] = digits_of<D, UNITS, BITS>(w, u, part, g, middle[u]);
        if (!IN_PLACE) continue;
        __syncwarp();
#pragma unroll
        for (int u = 0; u < UNITS; u++) ((uint2 *)w.mixed)[(g * UNITS + u) * 32 + w.lane] = digits[u];
    }
}

template <int D, int UNITS, bool IN_PLACE>
__device__ static inline void part_digits_fill(const walker<D, UNITS> &w, int part, float middle[UNITS])
{
    const int *end = w.page->key_ends[part];
    digits_fill<D, UNITS, 4, IN_PLACE>(w, part, 0, end[0], middle);
    digits_fill<D, UNITS, 2, IN_PLACE>(w, part, end[0], end[1], middle);
    digits_fill<D, UNITS, 1, IN_PLACE>(w, part, end[1], end[2], middle);
}

template <int D, int UNITS>
__device__ static inline void frame_enter(walker<D, UNITS> &w, int frame, int set)
{
    w.frame = frame, w.set = set;
    float middle[UNITS];
    __syncwarp();
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        uint32_t b[D / 16][2];
        queries_turn<D, UNITS>(w, u, b);
        if (w.walk->n_basis_steps) terms_fill<D, UNITS>(w, u, b);
        queries_mix<D, UNITS>(w, u, b);
        middle[u] = 0;
    }
    __syncwarp();
    if (w.page->n_parts[set] == 1)
        part_digits_fill<D, UNITS, true>(w, 0, middle);
    else
        for (int p = 0; p < w.page->n_parts[set]; p++) part_digits_fill<D, UNITS, false>(w, p, middle);
    __syncwarp();
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        float sum = middle[u];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        w.middle[u] = __float2int_rn(__shfl_sync(~0u, sum, 8 * w.tid));
    }
}

#endif
