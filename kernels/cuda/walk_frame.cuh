#ifndef KERNELS_CUDA_WALK_FRAME_CUH
#define KERNELS_CUDA_WALK_FRAME_CUH

#include "kernels/cuda/walk_half.cuh"

/*
 * The launch before the walks: of each tile and each frame that it looks back on the record that walk.cuh
 * speaks of. Queries are turned back by the frame's angle, in fp32, and multiplied with the transform, in
 * fp16, q' = A^-T q; the score of the mean (kernels/kv_mean.h) is a product per block of functions of the
 * place with coefficients that are made here, in two halves. The pieces in fp16, few and long, are done on
 * the way: they too would take a walk's registers. A warp makes the records of two frames in a row at a time.
 * Lane gid works for query gid / 2 in the first of them where gid is even, in the second where it is odd: so
 * have products' columns.
 */

enum { FRAME_WARPS = 10 };

/* A warp, 4 queries of a tile, two frames. */
template <int D> struct framer {
    const cuda_walk *walk;
    const walk_page *page;
    const uint4 *matrix, *terms;
    const float *mean;
    const float *q; /* of query gid / 2, or of any where there is none: nobody reads what comes of it */
    float *mixed;   /* shared: q', [frame][group][4][16], channel 4 b + t of the group at 4 t + b */
    int page_index, frame, set;
    int lane, gid, tid, odd;
    char *records[2]; /* one and the same where there is one frame: then both halves of the lanes make it */
    char *record;     /* this lane's */
    int all;          /* of its query: factors times what their bits are worth, of this lane's bits */
};

/* Where means are large fp16 queries do not do for their score. */
template <int D> __device__ static inline bool is_fine(const framer<D> &f)
{
    return f.walk->n_basis_halves > 1;
}

/* fp16 values of two numbers, and what these leave. */
__device__ static inline uint2 halves_of(float x, float y)
{
    uint2 out;
    out.x = half_pair(x, y);
    float2 high = __half22float2(*(__half2 *)&out.x);
    out.y = half_pair(x - high.x, y - high.y);
    return out;
}

/* Queries, but for the scale of scores, turned back, as factors of k-steps of 16 channels, in halves; on the
   way the coefficients of the mean's fast pairs: <q, R mean> of pair i is even * cos + odd * sin of the
   place's angle. coefs: of the lane's record, [step] [stride]. */
template <int D>
__device__ static inline void queries_turn(const framer<D> &f, uint32_t b[D / 16][2],
                                           uint32_t rest[D / 16][2], uint2 *coefs, int stride)
{
    const cuda_codec *codec = f.walk->codec;
    const float *cosines = codec->frame_cos + (size_t)f.frame * (D / 2),
                *sines = codec->frame_sin + (size_t)f.frame * (D / 2);
    coefs += (f.gid & ~1) * 4 + f.tid;
#pragma unroll
    for (int k = 0; k < D / 32; k++) {
        float2 low[2], high[2], cosine[2], sine[2]; /* loaded ahead of use */
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int i = 16 * k + 8 * h + 2 * f.tid;
            low[h] = *(const float2 *)(f.q + i), high[h] = *(const float2 *)(f.q + i + D / 2);
            cosine[h] = *(const float2 *)(cosines + i), sine[h] = *(const float2 *)(sines + i);
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int i = 16 * k + 8 * h + 2 * f.tid, step = 1 + 2 * k + h;
            float2 x = low[h], y = high[h], c = cosine[h], s = sine[h];
            float a0 = x.x * c.x + y.x * s.x, a1 = x.y * c.y + y.y * s.y;
            float b0 = y.x * c.x - x.x * s.x, b1 = y.y * c.y - x.y * s.y;
            b[k][h] = half_pair(a0, a1), b[k + D / 32][h] = half_pair(b0, b1);
            if (is_fine(f)) rest[k][h] = halves_of(a0, a1).y, rest[k + D / 32][h] = halves_of(b0, b1).y;
            if (step >= f.walk->n_basis_steps) continue;
            float2 m = *(const float2 *)(f.mean + i), n = *(const float2 *)(f.mean + i + D / 2);
            uint2 even = halves_of(a0 * m.x + b0 * n.x, a1 * m.y + b1 * n.y),
                  odd = halves_of(b0 * m.x - a0 * n.x, b1 * m.y - a1 * n.y);
            coefs[step * stride] = make_uint2(even.x, odd.x);
            coefs[step * stride + 4] = make_uint2(even.y, odd.y);
        }
    }
}

/* Coefficients of the slow pairs' polynomials, 8 even terms and 8 odd ones, to both records. at: this lane's,
   of step 0 in a record. */
template <int D>
__device__ static inline void terms_fill(const framer<D> &f, const uint32_t b[D / 16][2],
                                         const uint32_t rest[D / 16][2], int at)
{
    float sums[3][4] = {}, c[4], scale = f.walk->args.scale;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint4 a = f.terms[k * 32 + f.lane], low = f.terms[(D / 16 + k) * 32 + f.lane];
        ptx_multiply(sums[0], a.x, a.y, a.z, a.w, b[k][0], b[k][1]);
        if (is_fine(f)) ptx_multiply(sums[1], a.x, a.y, a.z, a.w, rest[k][0], rest[k][1]);
        ptx_multiply(sums[2], low.x, low.y, low.z, low.w, b[k][0], b[k][1]);
    }
#pragma unroll
    for (int e = 0; e < 4; e++) c[e] = sums[0][e] + (sums[1][e] + sums[2][e]);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float even = c[i] * scale, odd = c[2 + i] * scale;
        float even_high = __half2float(__float2half_rn(even)), odd_high = __half2float(__float2half_rn(odd));
        uint2 coef;
        coef.x = ptx_transpose(half_pair(even_high, even - even_high));
        coef.y = ptx_transpose(half_pair(odd_high, odd - odd_high));
        ((uint2 *)(f.records[i] + WALK_COEFS))[at] = coef;
    }
}

/* q', but for the transform's and the scores' scale, into f.mixed; the largest factor that it can make, of
   this lane's query and frame. */
template <int D> __device__ static inline float queries_mix(const framer<D> &f, const uint32_t b[D / 16][2])
{
    float most[2] = {1e-20f, 1e-20f};
    float *to = f.mixed + f.tid * 16 + f.gid % 4 * 4 + f.gid / 4;
    const uint4 *a = f.matrix + f.lane;
#pragma unroll(D <= 128 ? 4 : 1)
    for (int g = 0; g < D / 16; g++) {
        float c[2][4] = {};
#pragma unroll
        for (int k = 0; k < D / 16; k++, a += 32) {
            uint4 x = *a;
            ptx_multiply(c[k % 2], x.x, x.y, x.z, x.w, b[k][0], b[k][1]);
        }
        float bound = f.page->key_bound[f.set][g];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float low = c[0][i] + c[1][i], high = c[0][2 + i] + c[1][2 + i];
            to[i * D * 4] = low, to[i * D * 4 + 2] = high;
            most[i] = fmaxf(most[i], fmaxf(fabsf(low), fabsf(high)) * bound);
        }
        to += 4 * 16;
    }
    float first = __shfl_sync(~0u, rows_max(most[0]), f.gid / 2),
          second = __shfl_sync(~0u, rows_max(most[1]), f.gid / 2);
    return f.odd ? second : first;
}

#define FRAME_MAGIC (WALK_MAGIC + 0x8080)

/* What four floats of FRAME_MAGIC and an integer have of integers. */
__device__ static inline int integers_sum(const float *x)
{
    return (int)(__float_as_uint(x[0]) + __float_as_uint(x[1]) + __float_as_uint(x[2]) +
                 __float_as_uint(x[3]) - 4 * __float_as_uint(FRAME_MAGIC));
}

/*
 * Digits of the factors of a group's bits, of this lane's query and frame and columns 4 b + tid: high ones of
 * low bits and high bits of codes, then low ones, as they stand in a record.
 */

/* Codes of 2 bits: those at 2 tid and 2 tid + 1. */
template <int D> __device__ static inline uint4 pair_digits(framer<D> &f, float factor, const float4 *at)
{
    float4 x = at[f.tid], y = at[(f.tid + 1) & 3];
    float l[4], m[4];
    uint4 out;
    if (f.tid == 3) y = make_float4(y.y, y.z, y.w, y.x);
    int worth = f.tid & 1 ? 4 : 1;
    if (f.tid & 1) factor *= .25f;
    float six = 6 * factor, eight = 8 * factor, five = 5 * factor, three = -3 * factor;
#pragma unroll
    for (int b = 0; b < 4; b++) {
        l[b] = fmaf(six, (&x.x)[b], fmaf(eight, (&y.x)[b], FRAME_MAGIC));
        m[b] = fmaf(five, (&x.x)[b], fmaf(three, (&y.x)[b], FRAME_MAGIC));
    }
    f.all += (integers_sum(l) + 2 * integers_sum(m)) * worth;
    digits_pack(l, out.x, out.z);
    digits_pack(m, out.y, out.w);
    return out;
}

/* Codes of 4 bits and of 1, whose bits are worth `worth` together: all their factors are alike. */
template <int D>
__device__ static inline uint4 plain_digits(framer<D> &f, float factor, const float4 *at, int worth)
{
    float4 x = at[f.tid];
    float l[4];
    uint4 out;
#pragma unroll
    for (int b = 0; b < 4; b++) l[b] = fmaf(2 * factor, (&x.x)[b], FRAME_MAGIC);
    f.all += integers_sum(l) * worth;
    digits_pack(l, out.x, out.z);
    out.y = out.x, out.w = out.z;
    return out;
}

/* A part's factors of this lane's query and frame. Bits do not increase from group to group. */
template <int D, int UNITS>
__device__ static inline void factors_fill(framer<D> &f, float reach, int unit, int part, uint2 *to)
{
    const int *end = f.page->key_ends[part], column = f.gid & ~1;
    const float *factor = f.page->key_factor[f.set][part];
    const float4 *at = (const float4 *)(f.mixed + f.odd * D * 4) + f.gid / 2 * 4;
    int group = 0;
    if (f.page->is_ragged[part])
        for (int w = 0; w < 4; w++)
            *(uint4 *)&to[factor_at<UNITS>(f.page->n_chunks[part] - 1, unit, f.tid, w, column)] =
                make_uint4(0, 0, 0, 0);
    __syncwarp();
#pragma unroll 2
    for (; group < end[0]; group++) {
        int word = 2 * group + f.tid / 2;
        uint4 digits = plain_digits<D>(f, factor[group] * reach, at + group * 16, 15);
        uint4 *out = (uint4 *)&to[factor_at<UNITS>(word / 4, unit, f.tid % 2 * 2, word % 4, column)];
        out[0] = out[16] = digits;
    }
#pragma unroll 2
    for (; group < end[1]; group++) {
        int word = end[0] + group;
        uint4 digits = pair_digits<D>(f, factor[group] * reach, at + group * 16);
        *(uint4 *)&to[factor_at<UNITS>(word / 4, unit, f.tid, word % 4, column)] = digits;
    }
    float share = __int_as_float((127 - f.tid) << 23); /* the bit is worth 2^tid */
#pragma unroll 1
    for (; group < end[2]; group++) {
        int half = (group - end[1]) % 2, word = end[0] + end[1] + (group - end[1]) / 2;
        uint4 digits = plain_digits<D>(f, factor[group] * reach * share, at + group * 16, 1 << f.tid);
        uint32_t *out =
            (uint32_t *)&to[factor_at<UNITS>(word / 4, unit, half * 2 + f.tid / 2, word % 4, column)];
        out[f.tid % 2] = digits.x, out[2 + f.tid % 2] = digits.z;
    }
}

/* A unit of both records. */
template <int D, int UNITS> __device__ static inline void records_fill(framer<D> &f, int unit)
{
    uint2 *coefs = (uint2 *)(f.record + WALK_COEFS) + unit * 32;
    uint2 *factors = (uint2 *)(f.record + walk_factors_at(f.walk, UNITS));
    uint32_t b[D / 16][2], rest[D / 16][2]; /* rest: where it is fine */
    queries_turn<D>(f, b, rest, coefs, UNITS * 32);
    if (f.walk->n_basis_steps) terms_fill<D>(f, b, rest, unit * 32 + f.lane);
    __syncwarp();
    float most = queries_mix<D>(f, b);
    __syncwarp();
    f.all = 0;
    for (int p = 0; p < f.page->n_parts[f.set]; p++)
        factors_fill<D, UNITS>(f, 32000 / most, unit, p, factors + f.page->first_chunk[p] * UNITS * 128);
    int all = f.all;
    all += __shfl_xor_sync(~0u, all, 1);
    all += __shfl_xor_sync(~0u, all, 2);
    if (f.tid) return;
    float scale = f.walk->codec->query_tiles_scale[f.walk->codec->query_tiles_stride ? f.page_index : 0];
    ((float *)f.record)[4 * unit + f.gid / 2] = most / 32000 * scale * f.walk->args.scale;
    ((int *)f.record)[4 * UNITS + 4 * unit + f.gid / 2] = -(all >> 1);
}

/* Frames `frame` and, where is_second, the next one, of an item whose first block is in first_frame. */
template <int D, int UNITS>
__device__ static inline void records_make(framer<D> &f, const walk_item &item, int first_frame, int frame,
                                           bool is_second)
{
    f.set = item.at.kind == CUDA_ITEM_RECENT, f.frame = frame + (is_second ? f.odd : 0);
    size_t bytes = f.set ? f.walk->record_bytes : f.walk->old_record_bytes;
    f.records[0] = item_record(*f.walk, item) + (frame - first_frame) * bytes;
    f.records[1] = is_second ? f.records[0] + bytes : f.records[0];
    f.record = f.odd ? f.records[1] : f.records[0];
#pragma unroll 1
    for (int u = 0; u < UNITS; u++) {
        int n = 4 * u + f.gid / 2;
        f.q = f.walk->args.q + column_place<D>(*f.walk, item, n < item.n_columns ? n : 0);
        records_fill<D, UNITS>(f, u);
    }
}

/* Transform, terms, mean and struct walk_page in shared memory. matrix, terms: -1 where they are left in the
 * card's. */
struct frame_layout {
    int matrix, terms, mean, warps, bytes;
};

/* Floats of a warp: q' of two frames, or the near item's queries. */
__host__ __device__ static inline int frame_mixed(int head_dim)
{
    return COLUMNS * (head_dim + 4);
}

__host__ __device__ static inline frame_layout frame_layout_of(const cuda_walk *walk, int head_dim)
{
    frame_layout l;
    int groups = head_dim / CUDA_GROUP, at = rounded_up((int)sizeof(walk_page));
    int is_shared = head_dim <= 128;
    l.matrix = is_shared ? at : -1, at += is_shared ? groups * groups * 512 : 0;
    l.terms = is_shared ? at : -1, at += is_shared && walk->n_basis_steps ? 2 * groups * 512 : 0;
    l.mean = at, at += walk->n_basis_steps ? head_dim * 4 : 0;
    l.warps = rounded_up(at);
    l.bytes = l.warps + FRAME_WARPS * frame_mixed(head_dim) * (int)sizeof(float);
    return l;
}

template <int D>
__device__ static inline void framer_enter(framer<D> &f, const cuda_walk &walk, int page_index, char *memory)
{
    const cuda_codec *codec = walk.codec;
    frame_layout layout = frame_layout_of(&walk, D);
    const uint4 *matrix = (const uint4 *)codec->query_tiles + page_index * codec->query_tiles_stride,
                *terms = (const uint4 *)codec->mean_tiles + page_index * (D / 16) * 64;
    if (layout.matrix >= 0) {
        static_copy(memory + layout.matrix, matrix, D * D * 2);
        matrix = (const uint4 *)(memory + layout.matrix);
        if (walk.n_basis_steps) static_copy(memory + layout.terms, terms, D / 16 * 1024);
        terms = (const uint4 *)(memory + layout.terms);
    }
    for (int i = threadIdx.x; walk.n_basis_steps && i < D; i += blockDim.x)
        ((float *)(memory + layout.mean))[i] =
            codec->mean_turned[(size_t)page_index * D + i] * walk.args.scale / 64;
    page_copy(codec, page_index, memory);
    ptx_copy_commit();
    ptx_copy_wait<0>();
    __syncthreads();
    f.walk = &walk, f.page = (const walk_page *)memory, f.page_index = page_index;
    f.matrix = matrix, f.terms = terms, f.mean = (const float *)(memory + layout.mean);
    f.lane = threadIdx.x % 32, f.gid = f.lane / 4, f.tid = f.lane % 4, f.odd = f.gid % 2;
    f.mixed = (float *)(memory + layout.warps) + threadIdx.x / 32 * frame_mixed(D);
}

template <int D, int UNITS>
__global__ void __launch_bounds__(32 * FRAME_WARPS, D <= 128 ? 2 : 1)
    frame_kernel(const __grid_constant__ cuda_walk walk)
{
    CUDA_DYNAMIC_SHARED(memory);
    int lots = walk.args.n_kv_heads * walk.n_parts, lot = blockIdx.x % lots, index = blockIdx.x / lots;
    int blocks = 2 * walk.place_blocks, n_others = walk.n_items - walk.n_tiles;
    uint32_t *tickets = tickets_open(walk, false, lot, index) + TICKETS_RECORDS;
    framer<D> f;
    framer_enter<D>(f, walk, walk.args.layer * walk.args.n_kv_heads + lot / walk.n_parts, memory);
    uint32_t asked = ticket_ask(tickets, f.lane);
    int at = ticket_read(asked);
    /* Near ones, which take longest, first; two loops, for the registers. */
#pragma unroll 1
    for (; at < walk.n_tiles; at = ticket_read(asked)) {
        asked = ticket_ask(tickets, f.lane);
        half_item<D, true>(walk, item_find(walk, n_others + at, lot), f.mixed);
        __syncwarp();
    }
#pragma unroll 1
    for (; at < walk.n_items; at = ticket_read(asked)) {
        asked = ticket_ask(tickets, f.lane);
        walk_item item = item_find(walk, at - walk.n_tiles, lot);
        int first = item.at.first / blocks;
#pragma unroll 1
        for (int frame = item.at.made_first; frame < item.at.made_end; frame += 2)
            records_make<D, UNITS>(f, item, first, frame, frame + 1 < item.at.made_end);
    }
}

#endif
