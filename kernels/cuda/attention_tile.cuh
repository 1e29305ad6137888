#ifndef KERNELS_CUDA_ATTENTION_TILE_CUH
#define KERNELS_CUDA_ATTENTION_TILE_CUH

#include "kernels/cuda/page.cuh"

/*
 * One warp's piece of attention (attention.cu says what it is): up to 8 query columns against the blocks of a
 * segment, by mma.m16n8k16 with keys, or values transposed, as the 16 rows. Lane = 4 * gid + tid. In a result
 * C a lane has rows gid and gid + 8 of columns 2 tid and 2 tid + 1.
 */

enum { TOKENS = CUDA_TOKENS, FRAME = 256, TERMS = 8 };
enum { COLUMNS = CUDA_COLUMNS, SEGMENT_BLOCKS = 16 };

struct segment {
    const cuda_span *span;
    const cuda_codec *codec;
    int layer, page, own, n_columns, heads; /* heads: columns of a token */
    int first_slot;                         /* in own, of the first token */
    int lane, gid, tid;
    float *q;      /* shared [COLUMNS][D + 4], times scale * log2 e */
    float *mixed;  /* shared [COLUMNS][D + 4]: q' */
    float *mean;   /* shared [n_columns][FRAME]: scores of the keys' mean over the frame */
    float *coefs;  /* shared [2][D/2 + TERMS][COLUMNS]: of its cosines, its sines */
    uint8_t *ring; /* shared [2][stage_bytes] */
    int stage_bytes;
};

__device__ static inline uint32_t pair(float low, float high)
{
    __half2 x = __floats2half2_rn(low, high);
    return *(uint32_t *)&x;
}

__device__ static inline uint32_t pair_fma(uint32_t a, uint32_t b, uint32_t c)
{
    __half2 x = __hfma2(*(__half2 *)&a, *(__half2 *)&b, *(__half2 *)&c);
    return *(uint32_t *)&x;
}

__device__ static inline uint32_t pair_mul(uint32_t a, uint32_t b)
{
    __half2 x = __hmul2(*(__half2 *)&a, *(__half2 *)&b);
    return *(uint32_t *)&x;
}

__device__ static inline float over_rows(float x, bool is_max)
{
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
        float other = __shfl_xor_sync(~0u, x, step);
        x = is_max ? fmaxf(x, other) : x + other;
    }
    return x;
}

/* The running softmax of this lane's two columns; sums are of this lane's rows alone. Without CODED there is
   nothing in coded. */
template <int D, bool CODED = true> struct softmax_state {
    float max[2], sum[2], coded_sum[2];
    float half[D / 16][4], coded[CODED ? D / 16 : 1][4];
};

/* s: scores in, weights p out. */
template <int D, bool CODED>
__device__ static void softmax_step(softmax_state<D, CODED> &state, float s[4][4], bool is_coded)
{
    float factor[2];
#pragma unroll
    for (int c = 0; c < 2; c++) {
        float max = state.max[c];
#pragma unroll
        for (int i = 0; i < 4; i++) max = fmaxf(max, fmaxf(s[i][c], s[i][c + 2]));
        max = over_rows(max, true);
        factor[c] = state.max[c] == max ? 1 : state.max[c] > -INFINITY ? exp2f(state.max[c] - max) : 0;
        float sum = 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float &p = s[i][c + 2 * h];
                p = p > -INFINITY ? exp2f(p - max) : 0;
                sum += p;
            }
        state.max[c] = max;
        state.sum[c] = state.sum[c] * factor[c] + sum;
        state.coded_sum[c] = state.coded_sum[c] * factor[c] + (is_coded ? sum : 0);
    }
    /* A factor of 1 changes nothing: leaving it out is no matter of bits. */
    if (!__any_sync(~0u, factor[0] != 1 || factor[1] != 1)) return;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            state.half[i][e] *= factor[e % 2];
            if (CODED) state.coded[CODED ? i : 0][e] *= factor[e % 2];
        }
}

/* ---- f16: the rows' own block, blocks of format f16, sinks ---- */

/* In row tile i, rows gid and gid + 8 are tokens 8 gid + 2 i and the next: 16 bytes of a channel's keys are
   one lane's share of all four tiles. Tokens from n_tokens on do not exist. own_slot: -1, or the last token
   that the first query token sees, one more for each further one. */
template <int D, bool SINKS, bool CODED>
__device__ static void half_step(const segment &g, softmax_state<D, CODED> &state, const __half *keys,
                                 char *const *sinks, int n_tokens, int own_slot)
{
    float s[4][4] = {};
    const __half *sink_keys[4][2];
    if (SINKS)
        for (int i = 0; i < 4; i++)
            for (int h = 0; h < 2; h++) {
                int t = 8 * g.gid + 2 * i + h;
                sink_keys[i][h] = t < n_tokens ? (const __half *)sinks[t] + (size_t)g.page * 2 * D : NULL;
            }
#pragma unroll 2
    for (int k = 0; k < D / 16; k++) {
        int c = 16 * k + 2 * g.tid;
        const float *q = g.q + g.gid * (D + 4) + c;
        uint32_t b0 = pair(q[0], q[1]), b1 = pair(q[8], q[9]);
        if (SINKS) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const __half *low = sink_keys[i][0], *high = sink_keys[i][1];
                uint32_t a0 = low ? *(const uint32_t *)(low + c) : 0,
                         a2 = low ? *(const uint32_t *)(low + c + 8) : 0;
                uint32_t a1 = high ? *(const uint32_t *)(high + c) : 0,
                         a3 = high ? *(const uint32_t *)(high + c + 8) : 0;
                ptx_multiply(s[i], a0, a1, a2, a3, b0, b1);
            }
            continue;
        }
        const uint4 *at = (const uint4 *)(keys + c * TOKENS) + g.gid;
        uint4 x0 = at[0], x1 = at[TOKENS / 8], x2 = at[8 * TOKENS / 8], x3 = at[9 * TOKENS / 8];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t y0 = (&x0.x)[i], y1 = (&x1.x)[i], y2 = (&x2.x)[i], y3 = (&x3.x)[i];
            ptx_multiply(s[i], __byte_perm(y0, y1, 0x5410), __byte_perm(y0, y1, 0x7632),
                         __byte_perm(y2, y3, 0x5410), __byte_perm(y2, y3, 0x7632), b0, b1);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int t = 8 * g.gid + 2 * i + e / 2, column = 2 * g.tid + e % 2;
            int last = own_slot < 0 ? n_tokens - 1 : own_slot + column / g.heads;
            if (t > last || t >= n_tokens) s[i][e] = -INFINITY;
        }
    softmax_step(state, s, false);
    const __half *values = keys + D * TOKENS;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t b0 = ptx_transpose(pair(s[i][0], s[i][1])), b1 = ptx_transpose(pair(s[i][2], s[i][3]));
        const __half *v[4]; /* tokens of a0's pair, then of a2's */
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int t = 16 * g.tid + 2 * i + e % 2 * 8 + e / 2;
            v[e] = t >= n_tokens ? NULL
                   : SINKS       ? (const __half *)sinks[t] + (size_t)g.page * 2 * D + D
                                 : values + t * D;
        }
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            uint2 x[4];
#pragma unroll
            for (int e = 0; e < 4; e++)
                x[e] = v[e] ? *(const uint2 *)(v[e] + 32 * c + 4 * g.gid) : make_uint2(0, 0);
            ptx_multiply(state.half[2 * c], __byte_perm(x[0].x, x[1].x, 0x5410),
                         __byte_perm(x[0].x, x[1].x, 0x7632), __byte_perm(x[2].x, x[3].x, 0x5410),
                         __byte_perm(x[2].x, x[3].x, 0x7632), b0, b1);
            ptx_multiply(state.half[2 * c + 1], __byte_perm(x[0].y, x[1].y, 0x5410),
                         __byte_perm(x[0].y, x[1].y, 0x7632), __byte_perm(x[2].y, x[3].y, 0x5410),
                         __byte_perm(x[2].y, x[3].y, 0x7632), b0, b1);
        }
    }
}

/* The channel of row h (0: gid, 1: gid + 8) of row tile i of state.half. */
__device__ static inline int half_channel(int i, int h, int gid)
{
    return 32 * (i / 2) + 4 * gid + 2 * (i % 2) + h;
}

/* ---- queries in a frame ---- */

/* Channel i of column n turned back by the frame's angle. */
template <int D>
__device__ static inline float turned(const segment &g, const float *cosines, const float *sines, int n,
                                      int i)
{
    const float *q = g.q + n * (D + 4);
    int pair = i % (D / 2);
    float a = q[pair], b = q[pair + D / 2], c = cosines[pair], s = sines[pair];
    return i < D / 2 ? a * c + b * s : b * c - a * s;
}

/* The mean's scores over the frame (kernels/kv_mean.h), in fp32. */
template <int D> __device__ static void mean_fill(const segment &g, const float *cosines, const float *sines)
{
    const cuda_codec *codec = g.codec;
    int n_functions = codec->n_fast + codec->n_terms, n_slow = D / 2 - codec->n_fast,
        places = codec->frame_tokens / 2;
    const float *mean = codec->mean_turned + (size_t)g.page * D;
    float *even = g.coefs, *odd = g.coefs + (D / 2 + TERMS) * COLUMNS, *slow = g.mixed;
    for (int at = g.lane; at < D / 2 * g.n_columns; at += 32) {
        int n = at / (D / 2), i = at % (D / 2);
        float a = turned<D>(g, cosines, sines, n, i), b = turned<D>(g, cosines, sines, n, i + D / 2);
        float m = mean[i], k = mean[i + D / 2], c = a * m + b * k, s = b * m - a * k;
        if (i < codec->n_fast)
            even[i * COLUMNS + n] = c, odd[i * COLUMNS + n] = s;
        else
            slow[n * (D + 4) + i] = c, slow[n * (D + 4) + i + D / 2] = s;
    }
    __syncwarp();
    for (int at = g.lane; codec->n_terms && at < 2 * TERMS * g.n_columns; at += 32) {
        int n = at / (2 * TERMS), j = at % TERMS, is_odd = at / TERMS % 2;
        const float *terms = (is_odd ? codec->odd_terms : codec->even_terms) + j;
        const float *x = slow + n * (D + 4) + codec->n_fast + is_odd * (D / 2);
        float sum = 0;
        for (int i = 0; i < n_slow; i++) sum = fmaf(x[i], terms[i * TERMS], sum);
        (is_odd ? odd : even)[(codec->n_fast + j) * COLUMNS + n] = sum;
    }
    __syncwarp();
    for (int n = 0; n < g.n_columns; n += 2)
        for (int s = 4 * g.lane; s < places; s += 128) {
            float e[2][4] = {}, o[2][4] = {};
            for (int f = 0; f < n_functions; f++) {
                float4 x = *(const float4 *)(codec->even + f * places + s),
                       y = *(const float4 *)(codec->odd + f * places + s);
                float2 c = *(const float2 *)(even + f * COLUMNS + n),
                       d = *(const float2 *)(odd + f * COLUMNS + n);
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    e[0][k] = fmaf(c.x, (&x.x)[k], e[0][k]), o[0][k] = fmaf(d.x, (&y.x)[k], o[0][k]);
                    e[1][k] = fmaf(c.y, (&x.x)[k], e[1][k]), o[1][k] = fmaf(d.y, (&y.x)[k], o[1][k]);
                }
            }
            for (int m = 0; m < 2 && n + m < g.n_columns; m++)
                for (int k = 0; k < 4; k++) {
                    g.mean[(n + m) * FRAME + places + s + k] = e[m][k] + o[m][k];
                    g.mean[(n + m) * FRAME + places - 1 - s - k] = e[m][k] - o[m][k];
                }
        }
    __syncwarp();
}

/* q' of all columns into g.mixed. */
template <int D> __device__ static void frame_enter(const segment &g, int frame)
{
    const cuda_codec *codec = g.codec;
    const float *cosines = codec->frame_cos + (size_t)frame * (D / 2),
                *sines = codec->frame_sin + (size_t)frame * (D / 2);
    __syncwarp();
    if (codec->key_mean) mean_fill<D>(g, cosines, sines);
    uint32_t b[D / 16][2];
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int i = 16 * k + 2 * g.tid + 8 * h;
            b[k][h] =
                pair(turned<D>(g, cosines, sines, g.gid, i), turned<D>(g, cosines, sines, g.gid, i + 1));
        }
    float scale = codec->query_tiles_scale[codec->query_tiles_stride ? g.page : 0];
    const uint4 *a = (const uint4 *)codec->query_tiles + (size_t)g.page * codec->query_tiles_stride + g.lane;
#pragma unroll 1
    for (int j = 0; j < D / 16; j++) {
        float c[4] = {};
#pragma unroll
        for (int k = 0; k < D / 16; k++, a += 32) {
            uint4 x = *a;
            ptx_multiply(c, x.x, x.y, x.z, x.w, b[k][0], b[k][1]);
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            g.mixed[(2 * g.tid + e % 2) * (D + 4) + 16 * j + g.gid + e / 2 * 8] = c[e] * scale;
    }
    __syncwarp();
}

/* ---- codes ---- */

/*
 * A level is linear in the bits, so a product with levels is one with each plane of bits: of a 2-bit code m,
 * l sum_j x_j level_j = sum_j m_j (10 x_j - 6 x_(j+1)) + l_j (6 x_j + 8 x_(j+1)) - 9 sum_j x_j, j + 1 around
 * the word. A bit where it stands in the byte, masked, is a subnormal fp16 number: 2^-24 times its weight in
 * the byte, which the other factor is divided by.
 */
#define SUBNORMAL 16777216.0f /* 2^24 */
enum { KEY_GAIN = 64 };       /* keeps the queries' factors clear of subnormal numbers */

/* What a lane multiplies keys' bits with: of a group, columns 4 tid .. 4 tid + 3 of query gid. */
template <int D> struct key_factors {
    uint32_t b[D / 16][4];
    float scale[2],
        offset[2]; /* of columns 2 tid and 2 tid + 1: score = scale * sum + offset, times the token's */
};

template <int D>
__device__ static void key_factors_fill(const segment &g, key_factors<D> &out, const uint8_t *bits,
                                        const float *unit, const float *gain)
{
    const float *mixed = g.mixed + g.gid * (D + 4);
    float most = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++)
        for (int i = 0; bits[k] && i < 4; i++)
            most = fmaxf(most, fabsf(mixed[16 * k + 4 * g.tid + i] * unit[k] * gain[k]));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    int exponent = most > 1e-30f ? ilogbf(most) - 3 : 0;
    float shrink = ldexpf(1, -exponent), offset = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        float x[5], factor = bits[k] ? unit[k] * gain[k] * shrink : 0;
#pragma unroll
        for (int i = 0; i < 5; i++) x[i] = mixed[16 * k + (4 * g.tid + i) % 16] * factor;
        float sum = x[0] + x[1] + x[2] + x[3];
        offset -= (bits[k] == 2 ? 9 : bits[k] == 4 ? 15 : 8) * sum;
        if (bits[k] == 2) {
            out.b[k][0] =
                pair((10 * x[0] - 6 * x[1]) * (KEY_GAIN / 2.f), (10 * x[1] - 6 * x[2]) * (KEY_GAIN / 8.f));
            out.b[k][1] =
                pair((10 * x[2] - 6 * x[3]) * (KEY_GAIN / 32.f), (10 * x[3] - 6 * x[4]) * (KEY_GAIN / 128.f));
            out.b[k][2] = pair((6 * x[0] + 8 * x[1]) * KEY_GAIN, (6 * x[1] + 8 * x[2]) * (KEY_GAIN / 4.f));
            out.b[k][3] =
                pair((6 * x[2] + 8 * x[3]) * (KEY_GAIN / 16.f), (6 * x[3] + 8 * x[4]) * (KEY_GAIN / 64.f));
        } else if (bits[k] == 4) {
            out.b[k][0] = pair(2 * x[0] * KEY_GAIN, x[1] * (KEY_GAIN / 8.f));
            out.b[k][1] = pair(2 * x[2] * KEY_GAIN, x[3] * (KEY_GAIN / 8.f));
        } else {
            out.b[k][0] = pair(16 * x[0] * KEY_GAIN, 8 * x[1] * KEY_GAIN);
            out.b[k][1] = pair(4 * x[2] * KEY_GAIN, 2 * x[3] * KEY_GAIN);
        }
    }
    offset += __shfl_xor_sync(~0u, offset, 1);
    offset += __shfl_xor_sync(~0u, offset, 2);
    float scale = ldexpf(SUBNORMAL / KEY_GAIN, exponent);
    offset *= ldexpf(1, exponent);
#pragma unroll
    for (int c = 0; c < 2; c++) {
        out.scale[c] = __shfl_sync(~0u, scale, (2 * g.tid + c) * 4);
        out.offset[c] = __shfl_sync(~0u, offset, (2 * g.tid + c) * 4);
    }
}

/* A byte in both halves of a word. */
__device__ static inline uint32_t twice(uint32_t byte)
{
    return byte * 0x10001u;
}

/* Adds to s the products with a part's keys. Row tile i has, of each 16 tokens a (= gid / 2), 16 a + 4 i +
   gid % 2 and the one after the next: what makes row tile i's columns 4 i .. 4 i + 3 of every value word. */
template <int D>
__device__ static void keys_multiply(const segment &g, const key_factors<D> &f, const uint8_t *bits,
                                     const uint8_t *keys, int row_bytes, float s[4][4])
{
    const uint8_t *rows[4][2];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int t = 16 * (g.gid / 2) + 4 * i + g.gid % 2 + 2 * h;
            rows[i][h] = keys + t / 8 * row_bytes + t % 8 * 4 + g.tid;
        }
    int at = 0, is_second = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        int n_bits = bits[k];
        if (n_bits == 2) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t x = twice(rows[i][0][at]), y = twice(rows[i][1][at]);
                ptx_multiply(s[i], x & 0x00080002, y & 0x00080002, x & 0x00800020, y & 0x00800020, f.b[k][0],
                             f.b[k][1]);
                ptx_multiply(s[i], x & 0x00040001, y & 0x00040001, x & 0x00400010, y & 0x00400010, f.b[k][2],
                             f.b[k][3]);
            }
            at += 32;
        } else if (n_bits == 4) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t x = twice(rows[i][0][at]), y = twice(rows[i][1][at]);
                uint32_t z = twice(rows[i][0][at + 32]), w = twice(rows[i][1][at + 32]);
                ptx_multiply(s[i], x & 0x00f0000f, y & 0x00f0000f, z & 0x00f0000f, w & 0x00f0000f, f.b[k][0],
                             f.b[k][1]);
            }
            at += 64;
        } else if (n_bits == 1) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t x = twice(rows[i][0][at]) >> (4 * is_second),
                         y = twice(rows[i][1][at]) >> (4 * is_second);
                ptx_multiply(s[i], x & 0x00020001, y & 0x00020001, x & 0x00080004, y & 0x00080004, f.b[k][0],
                             f.b[k][1]);
            }
            if (is_second) at += 32;
            is_second ^= 1;
        }
    }
}

/* Weights times the tokens' value scales, as factors of each kind of code: w[i] has tokens 16 tid + 4 i, + 1
   and
   + 2, + 3 of query gid. */
struct value_weights {
    uint32_t w[4][2];
    float sum[2]; /* over the block, of columns 2 tid and 2 tid + 1 */
};

__device__ static inline uint32_t constant(float low, float high)
{
    return pair(low, high);
}

/* Adds a part's values: factor_g * (2^24 * products - middle * sum). */
template <int D>
__device__ static void values_multiply(const segment &g, const value_weights &v, const uint8_t *bits,
                                       const uint8_t *values, const float *unit, const float *gain,
                                       float out[D / 16][4])
{
    uint32_t twos[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t w01 = v.w[i][0], w23 = v.w[i][1], w12 = __byte_perm(w01, w23, 0x5432);
        uint32_t w34 = __byte_perm(w23, v.w[(i + 1) % 4][0], 0x5432);
        twos[i][0] = pair_fma(w01, constant(5, 1.25f), pair_mul(w12, constant(-3, -.75f)));
        twos[i][1] = pair_fma(w23, constant(.3125f, .078125f), pair_mul(w34, constant(-.1875f, -.046875f)));
        twos[i][2] = pair_fma(w01, constant(6, 1.5f), pair_mul(w12, constant(8, 2)));
        twos[i][3] = pair_fma(w23, constant(.375f, .09375f), pair_mul(w34, constant(.5f, .125f)));
    }
    const uint8_t *at = values + 4 * g.gid;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        int n_bits = bits[k];
        if (n_bits == 0) continue;
        float factor = unit[k] * gain[k], middle = n_bits == 2 ? 9 : n_bits == 4 ? 15 : 8, c[4];
#pragma unroll
        for (int e = 0; e < 4; e++) c[e] = -middle / SUBNORMAL * v.sum[e % 2];
        if (n_bits == 2) {
            uint32_t x = *(const uint32_t *)(at + 32 * g.tid), y = *(const uint32_t *)(at + 128 + 32 * g.tid);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t a = __byte_perm(x, 0, 0x4040 + 0x101 * i), b = __byte_perm(y, 0, 0x4040 + 0x101 * i);
                ptx_multiply(c, a & 0x00080002, b & 0x00080002, a & 0x00800020, b & 0x00800020, twos[i][0],
                             twos[i][1]);
                ptx_multiply(c, a & 0x00040001, b & 0x00040001, a & 0x00400010, b & 0x00400010, twos[i][2],
                             twos[i][3]);
            }
        } else if (n_bits == 4) {
            const uint32_t *low = (const uint32_t *)(at + 64 * g.tid),
                           *high = (const uint32_t *)(at + 256 + 64 * g.tid);
            uint32_t x = low[0], z = low[8], y = high[0], w = high[8];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int select = 0x4040 + 0x101 * i;
                ptx_multiply(c, __byte_perm(x, 0, select) & 0x00f0000f,
                             __byte_perm(y, 0, select) & 0x00f0000f, __byte_perm(z, 0, select) & 0x00f0000f,
                             __byte_perm(w, 0, select) & 0x00f0000f, pair_mul(v.w[i][0], constant(2, .125f)),
                             pair_mul(v.w[i][1], constant(2, .125f)));
            }
        } else {
            int shift = 4 * (g.tid & 1);
            uint32_t x = *(const uint32_t *)(at + 32 * (g.tid / 2)) >> shift;
            uint32_t y = *(const uint32_t *)(at + 64 + 32 * (g.tid / 2)) >> shift;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t a = __byte_perm(x, 0, 0x4040 + 0x101 * i), b = __byte_perm(y, 0, 0x4040 + 0x101 * i);
                ptx_multiply(c, a & 0x00020001, b & 0x00020001, a & 0x00080004, b & 0x00080004,
                             pair_mul(v.w[i][0], constant(16, 8)), pair_mul(v.w[i][1], constant(4, 2)));
            }
        }
#pragma unroll
        for (int e = 0; e < 4; e++) out[k][e] = fmaf(c[e], SUBNORMAL * factor, out[k][e]);
        at += n_bits * 128;
    }
}

#endif
