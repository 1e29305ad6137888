#ifndef KERNELS_CUDA_WALK_HALF_CUH
#define KERNELS_CUDA_WALK_HALF_CUH

#include "kernels/cuda/walk_page.cuh"

/*
 * Blocks and sinks in fp16: one warp, up to 8 query columns, by mma.m16n8k16 with keys, or values transposed,
 * as the 16 rows. Lane = 4 * gid + tid. In a result C a lane has rows gid and gid + 8 of columns 2 tid and 2
 * tid + 1.
 */

enum { TOKENS = CUDA_TOKENS };

struct segment {
    const cuda_span *span;
    int layer, page, own, n_columns, heads; /* heads: columns of a token */
    int first_slot;                         /* in own, of the first token */
    int lane, gid, tid;
    float *q; /* shared [COLUMNS][D + 4], times scale * log2 e */
};

/* The running softmax of this lane's two columns; sums are of this lane's rows alone. */
template <int D> struct softmax_state {
    float max[2], sum[2];
    float half[D / 16][4];
};

/* s: scores in, weights p out. */
template <int D> __device__ static void softmax_step(softmax_state<D> &state, float s[4][4])
{
    float factor[2];
#pragma unroll
    for (int c = 0; c < 2; c++) {
        float max = state.max[c];
#pragma unroll
        for (int i = 0; i < 4; i++) max = fmaxf(max, fmaxf(s[i][c], s[i][c + 2]));
        max = rows_max(max);
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
    }
    /* A factor of 1 changes nothing: leaving it out is no matter of bits. */
    if (!__any_sync(~0u, factor[0] != 1 || factor[1] != 1)) return;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) state.half[i][e] *= factor[e % 2];
}

/* In row tile i, rows gid and gid + 8 are tokens 8 gid + 2 i and the next: 16 bytes of a channel's keys are
   one lane's share of all four tiles. Tokens from n_tokens on do not exist. own_slot: -1, or the last token
   that the first query token sees, one more for each further one. */
template <int D, bool SINKS>
__device__ static void half_step(const segment &g, softmax_state<D> &state, const __half *keys,
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
        uint32_t b0 = half_pair(q[0], q[1]), b1 = half_pair(q[8], q[9]);
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
    softmax_step(state, s);
    const __half *values = keys + D * TOKENS;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t b0 = ptx_transpose(half_pair(s[i][0], s[i][1])),
                 b1 = ptx_transpose(half_pair(s[i][2], s[i][3]));
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

/* Of format f16 a segment and, in the last one, the own block; otherwise all sinks and the own block.
   queries: in shared memory, [8][D + 4]. */
template <int D, bool IS_CODED>
__device__ static inline void half_item(const cuda_walk &walk, const walk_item &item, float *queries)
{
    segment g;
    cuda_tile tile = walk.args.tiles[item.at.tile];
    g.own = tile.position / TOKENS;
    g.heads = item.heads, g.n_columns = item.n_columns;
    g.span = &walk.args.spans[tile.span];
    g.layer = walk.args.layer, g.page = g.layer * walk.args.n_kv_heads + item.head;
    g.first_slot = tile.position % TOKENS;
    g.lane = threadIdx.x % 32, g.gid = g.lane / 4, g.tid = g.lane % 4;
    g.q = queries;
    __syncwarp();
    for (int at = g.lane; at < COLUMNS * D; at += 32) {
        int n = at / D, i = at % D;
        float x = n < g.n_columns ? walk.args.q[column_place<D>(walk, item, n) + i] : 0;
        g.q[n * (D + 4) + i] = x * walk.args.scale;
    }
    __syncwarp();
    softmax_state<D> state;
    for (int c = 0; c < 2; c++) state.max[c] = -INFINITY, state.sum[c] = 0;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        for (int e = 0; e < 4; e++) state.half[i][e] = 0;
    if (IS_CODED) {
        /* Few blocks have sinks: 128 masks at a time. */
        int end = min(g.own, g.span->sink_blocks);
        for (int first = 0; first < end; first += 128) {
            unsigned there[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int b = first + 32 * i + g.lane;
                there[i] = __ballot_sync(~0u, b < end && g.span->blocks[b].sink_mask != 0);
            }
#pragma unroll 1
            for (int i = 0; i < 4; i++)
                for (unsigned left = there[i]; left; left &= left - 1) {
                    const cuda_block *block = &g.span->blocks[first + 32 * i + __ffs((int)left) - 1];
                    half_step<D, true>(g, state, NULL, block->sinks, __popcll(block->sink_mask), -1);
                }
        }
    } else {
        for (int b = item.at.first; b < item.at.end; b++)
            half_step<D, false>(g, state, half_page(&g.span->blocks[b], g.layer, item.head, D), NULL, TOKENS,
                                -1);
    }
    if (IS_CODED || item.at.end == g.own)
        half_step<D, false>(g, state, half_page(&g.span->blocks[g.own], g.layer, item.head, D), NULL,
                            g.first_slot + tile.n_rows, g.first_slot);
#pragma unroll
    for (int c = 0; c < 2; c++) {
        int column = 2 * g.tid + c;
        float sum = rows_sum(state.sum[c]);
        if (column >= g.n_columns) continue;
        float *out = item_partial<D>(walk, item) + column * (4 + D);
        if (g.gid == 0) out[0] = state.max[c], out[1] = sum;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            for (int h = 0; h < 2; h++) out[4 + half_channel(i, h, g.gid)] = state.half[i][2 * h + c];
    }
}

/* Of format f16 all items. Where tokens stand side by side a thread block takes a segment of neighbouring
   tiles, which list_half_items put side by side in the list: they read the same pages at nearly the same
   time, so that most of it comes from the multiprocessor's own cache. Otherwise it takes a segment of
   neighbouring lots. */
template <int D>
__global__ void __launch_bounds__(32 * CUDA_HALF_TILES, D <= 128 ? 2 : 1)
    half_kernel(const __grid_constant__ cuda_walk walk)
{
    CUDA_DYNAMIC_SHARED(half_memory);
    int warp = threadIdx.x / 32, n_warps = blockDim.x / 32, lots = walk.args.n_kv_heads * walk.n_parts;
    int n = blockIdx.x * n_warps + warp, index = n / lots, lot = n % lots;
    if (walk.has_tiles_in_rows) lot = blockIdx.x % lots, index = blockIdx.x / lots * n_warps + warp;
    if (index >= walk.n_items) return;
    walk_item item = item_find(walk, index, lot);
    half_item<D, false>(walk, item, (float *)half_memory + warp * COLUMNS * (D + 4));
}

template <int D> static cudaError_t half_start(const cuda_walk &walk, cudaStream_t stream)
{
    int lots = walk.args.n_kv_heads * walk.n_parts, n_warps = walk.has_tiles_in_rows ? CUDA_HALF_TILES : 4;
    int n_blocks = walk.has_tiles_in_rows ? (walk.n_items + n_warps - 1) / n_warps * lots
                                          : (walk.n_items * lots + n_warps - 1) / n_warps;
    size_t bytes = n_warps * COLUMNS * (D + 4) * sizeof(float);
    cudaError_t error =
        cudaFuncSetAttribute(half_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    CUDA_LAUNCH(half_kernel<D>, n_blocks, 32 * n_warps, bytes, stream, walk);
    return cudaGetLastError();
}

#endif
