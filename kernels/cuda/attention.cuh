#ifndef KERNELS_CUDA_ATTENTION_CUH
#define KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/attention_tile.cuh"

/*
 * Attention over paged keys and values, prefill and decode alike. The law of rows: a row's bits are its own.
 *
 * A tile is up to 8 columns, tokens x query heads of one KV head (of more than 8 heads a KV head, 8 at a
 * time), all in one block of one sequence. Its blocks fall into segments of 16; one warp does one tile's
 * segment (attention_tile.cuh), from a fresh start: sinks, coded blocks, the own block in f16, the order of
 * kernels/cpu/attention.h. Another kernel merges a tile's segments in their order, then turns what was coded
 * back. What a segment is depends on the position alone, so neither the batch nor the chunk matters.
 *
 * Pages that are read with one part come through a ring of two in shared memory, the next one while this one
 * is worked on; keys' row tiles are spread by 16 bytes, so that lanes meet in no bank. The few recent blocks
 * with several parts are read where they stand.
 */

struct partial_layout {
    int n_segments, n_parts; /* of the longest tile; of a KV head's query heads */
};

/* Floats of a column's partial result: max, sum, coded_sum, 0, half[D], coded[D]. */
__host__ __device__ static inline size_t partial_floats(int head_dim)
{
    return 4 + 2 * (size_t)head_dim;
}

/* ---- the ring ---- */

struct page_place {
    int keys_bytes, values_bytes, row_bytes; /* row_bytes: of a row tile of keys, 8 of them */
    const uint8_t *bits;
    size_t offset;
};

__device__ static page_place place_of(const segment &g, int p)
{
    const cuda_part *part = &g.codec->parts[p];
    page_place place;
    place.bits = part->codes + g.page * CUDA_CODE_BYTES;
    place.offset = part->offset[g.page];
    place.row_bytes = key_row_bytes(place.bits, g.codec->n_groups);
    place.keys_bytes = place.row_bytes * 8;
    int sum = 0;
    for (int k = 0; k < g.codec->n_groups; k++) sum += place.bits[CUDA_MAX_GROUPS + k];
    place.values_bytes = sum * 128;
    return place;
}

__device__ static void page_fetch(const segment &g, const page_place &place, const char *block, int stage)
{
    const uint8_t *from = (const uint8_t *)block + place.offset;
    uint32_t to = ptx_shared(g.ring + stage * g.stage_bytes);
    int n = (place.keys_bytes + place.values_bytes + 4 * TOKENS) / 16, row_chunks = place.row_bytes / 16;
    for (int i = g.lane; i < n; i += 32) {
        int row = row_chunks ? min(i / row_chunks, 8) : 8;
        ptx_copy(to + i * 16 + row * 16, from + i * 16);
    }
}

/* ---- a coded block ---- */

template <int D> struct reader {
    key_factors<D> factors; /* for part 0 read alone, in `frame` */
    int frame, factors_frame;
    page_place first;
};

template <int D>
__device__ static void scores_finish(const segment &g, float s[4][4], float total[4][4],
                                     const key_factors<D> &f)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) total[i][e] += fmaf(s[i][e], f.scale[e % 2], f.offset[e % 2]);
}

/* total: sums over channels; out: scores, then weights; v: what values are multiplied with. */
template <int D>
__device__ static void coded_softmax(const segment &g, softmax_state<D> &state, float total[4][4],
                                     uint64_t sinks, const uint16_t *key_scales, const uint16_t *value_scales,
                                     int offset, value_weights &v)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int t = 16 * (g.gid / 2) + 4 * i + g.gid % 2 + 2 * h;
            float scale = __half2float(__ushort_as_half(key_scales[t]));
            bool is_sink = sinks >> t & 1;
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float &x = total[i][2 * h + c];
                int column = 2 * g.tid + c;
                float mean =
                    g.codec->key_mean && column < g.n_columns ? g.mean[column * FRAME + offset + t] : 0;
                x = is_sink ? -INFINITY : fmaf(x, scale, mean);
            }
        }
    softmax_step(state, total, true);
    v.sum[0] = v.sum[1] = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int t = 16 * (g.gid / 2) + 4 * i + g.gid % 2 + 2 * h;
            float scale = __half2float(__ushort_as_half(value_scales[t]));
            float a = fminf(total[i][2 * h] * scale, 8000), b = fminf(total[i][2 * h + 1] * scale, 8000);
            v.sum[0] += a, v.sum[1] += b;
            v.w[i][h] = ptx_transpose(pair(a, b));
        }
    v.sum[0] = over_rows(v.sum[0], false);
    v.sum[1] = over_rows(v.sum[1], false);
}

/* With one part, from the ring. */
template <int D>
__device__ static void coded_step(const segment &g, softmax_state<D> &state, reader<D> &reader,
                                  const cuda_block *block, int stage, int offset)
{
    const cuda_part *part = &g.codec->parts[0];
    size_t cells = (size_t)g.page * (D / 16);
    if (reader.factors_frame != reader.frame) {
        key_factors_fill<D>(g, reader.factors, reader.first.bits, part->key_unit + cells,
                            part->key_gain + cells);
        reader.factors_frame = reader.frame;
    }
    const uint8_t *keys = g.ring + stage * g.stage_bytes, *values = keys + reader.first.keys_bytes + 8 * 16;
    const uint16_t *scales = (const uint16_t *)(values + reader.first.values_bytes);
    float s[4][4] = {}, total[4][4] = {};
    keys_multiply<D>(g, reader.factors, reader.first.bits, keys, reader.first.row_bytes + 16, s);
    scores_finish<D>(g, s, total, reader.factors);
    value_weights v;
    coded_softmax<D>(g, state, total, block->sink_mask, scales, scales + TOKENS, offset, v);
    values_multiply<D>(g, v, reader.first.bits + CUDA_MAX_GROUPS, values, part->value_unit + cells,
                       part->value_gain + cells, state.coded);
}

/* With several, where they stand. */
template <int D>
__device__ __noinline__ static void coded_step_parts(const segment &g, softmax_state<D> &state,
                                                     const cuda_block *block, int n_parts, int offset)
{
    const cuda_part *last = &g.codec->parts[n_parts - 1];
    size_t cells = (size_t)g.page * (D / 16);
    float total[4][4] = {};
    const uint16_t *scales = NULL;
#pragma unroll 1
    for (int p = 0; p < n_parts; p++) {
        page_place place = place_of(g, p);
        const uint8_t *keys = (const uint8_t *)block->parts[p] + place.offset;
        key_factors<D> factors;
        float s[4][4] = {};
        key_factors_fill<D>(g, factors, place.bits, g.codec->parts[p].key_unit + cells,
                            last->key_gain + cells);
        keys_multiply<D>(g, factors, place.bits, keys, place.row_bytes, s);
        scores_finish<D>(g, s, total, factors);
        scales = (const uint16_t *)(keys + place.keys_bytes + place.values_bytes);
    }
    value_weights v;
    coded_softmax<D>(g, state, total, block->sink_mask, scales, scales + TOKENS, offset, v);
#pragma unroll 1
    for (int p = 0; p < n_parts; p++) {
        page_place place = place_of(g, p);
        const uint8_t *values = (const uint8_t *)block->parts[p] + place.offset + place.keys_bytes;
        values_multiply<D>(g, v, place.bits + CUDA_MAX_GROUPS, values, g.codec->parts[p].value_unit + cells,
                           last->value_gain + cells, state.coded);
    }
}

__device__ static int parts_of(const segment &g, int block)
{
    return g.own - block > g.span->recent_blocks ? g.codec->n_old_parts : g.codec->n_parts;
}

template <int D>
__device__ static void coded_blocks(const segment &g, softmax_state<D> &state, int first, int end)
{
    reader<D> reader;
    reader.frame = reader.factors_frame = -1;
    reader.first = place_of(g, 0);
    if (first < end && parts_of(g, first) == 1)
        page_fetch(g, reader.first, g.span->blocks[first].parts[0], first % 2);
    ptx_copy_commit();
#pragma unroll 1
    for (int b = first; b < end; b++) {
        const cuda_block *block = &g.span->blocks[b];
        int n_parts = parts_of(g, b), position = b * TOKENS, frame = position / g.codec->frame_tokens;
        if (b + 1 < end && parts_of(g, b + 1) == 1)
            page_fetch(g, reader.first, g.span->blocks[b + 1].parts[0], (b + 1) % 2);
        ptx_copy_commit();
        if (frame != reader.frame) {
            frame_enter<D>(g, frame);
            reader.frame = frame;
        }
        ptx_copy_wait<1>();
        __syncwarp();
        if (n_parts == 1)
            coded_step<D>(g, state, reader, block, b % 2, position % g.codec->frame_tokens);
        else
            coded_step_parts<D>(g, state, block, n_parts, position % g.codec->frame_tokens);
        __syncwarp();
    }
}

/* ---- a segment ---- */

template <int D>
__device__ static void partial_write(const segment &g, softmax_state<D> &state, float *partial)
{
#pragma unroll
    for (int c = 0; c < 2; c++) {
        int column = 2 * g.tid + c;
        float sum = over_rows(state.sum[c], false), coded_sum = over_rows(state.coded_sum[c], false);
        if (column >= g.n_columns) continue;
        float *out = partial + column * partial_floats(D);
        if (g.gid == 0) out[0] = state.max[c], out[1] = sum, out[2] = coded_sum, out[3] = 0;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                out[4 + half_channel(i, h, g.gid)] = state.half[i][2 * h + c];
                out[4 + D + 16 * i + g.gid + 8 * h] = state.coded[i][2 * h + c];
            }
    }
}

template <int D>
__global__ void __launch_bounds__(32)
    segment_kernel(cuda_attention args, partial_layout layout, int first_tile, int stage_bytes,
                   int mean_columns, float *partials)
{
    CUDA_DYNAMIC_SHARED(warp_memory);
    cuda_tile tile = args.tiles[first_tile + blockIdx.y];
    segment g;
    int part = blockIdx.x % layout.n_parts, head = blockIdx.x / layout.n_parts, index = blockIdx.z;
    int group = args.n_heads / args.n_kv_heads;
    g.own = tile.position / TOKENS;
    if (index * SEGMENT_BLOCKS > g.own) return;
    g.heads = min(group - part * COLUMNS, COLUMNS);
    g.n_columns = g.heads * tile.n_rows;
    g.span = &args.spans[tile.span];
    g.codec = g.span->codec;
    g.layer = args.layer;
    g.page = args.layer * args.n_kv_heads + head;
    g.first_slot = tile.position % TOKENS;
    g.lane = threadIdx.x, g.gid = g.lane / 4, g.tid = g.lane % 4;
    g.q = (float *)warp_memory;
    g.mixed = g.q + COLUMNS * (D + 4);
    g.coefs = g.mixed + COLUMNS * (D + 4);
    g.mean = g.coefs + (mean_columns ? 2 * (D / 2 + TERMS) * COLUMNS : 0);
    g.ring = (uint8_t *)(g.mean + mean_columns * FRAME);
    g.stage_bytes = stage_bytes;
    for (int at = g.lane; at < COLUMNS * D; at += 32) {
        int n = at / D, i = at % D, row = n / g.heads, h = head * group + part * COLUMNS + n % g.heads;
        bool is_there = n < g.n_columns;
        float x = is_there ? args.q[((size_t)(tile.first_row + row) * args.n_heads + h) * D + i] : 0;
        g.q[n * (D + 4) + i] = x * args.scale;
        g.mixed[n * (D + 4) + i] = 0;
    }
    __syncwarp();

    softmax_state<D> state;
#pragma unroll
    for (int c = 0; c < 2; c++) state.max[c] = -INFINITY, state.sum[c] = state.coded_sum[c] = 0;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) state.half[i][e] = state.coded[i][e] = 0;
    int first = index * SEGMENT_BLOCKS, end = first + SEGMENT_BLOCKS, coded_end = min(end, g.own);
    for (int b = first; b < coded_end; b++) {
        const cuda_block *block = &g.span->blocks[b];
        if (!g.codec)
            half_step<D, false>(g, state, half_page(block, g.layer, head, D), NULL, TOKENS, -1);
        else if (block->sink_mask)
            half_step<D, true>(g, state, NULL, block->sinks, __popcll(block->sink_mask), -1);
    }
    if (g.codec) coded_blocks<D>(g, state, first, coded_end);
    if (g.own < end)
        half_step<D, false>(g, state, half_page(&g.span->blocks[g.own], g.layer, head, D), NULL,
                            g.first_slot + tile.n_rows, g.first_slot);
    size_t item = ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * layout.n_segments + index;
    partial_write<D>(g, state, partials + item * COLUMNS * partial_floats(D));
}

/* ---- the merge ---- */

template <int D>
__global__ void __launch_bounds__(D)
    merge_kernel(cuda_attention args, partial_layout layout, int first_tile, const float *partials)
{
    CUDA_SHARED(float, coded, [COLUMNS][D]);
    cuda_tile tile = args.tiles[first_tile + blockIdx.y];
    int part = blockIdx.x % layout.n_parts, head = blockIdx.x / layout.n_parts, d = threadIdx.x;
    int group = args.n_heads / args.n_kv_heads, heads = min(group - part * COLUMNS, COLUMNS);
    int n_columns = heads * tile.n_rows, n_segments = tile.position / TOKENS / SEGMENT_BLOCKS + 1;
    const cuda_codec *codec = args.spans[tile.span].codec;
    int page = args.layer * args.n_kv_heads + head;
    const float *first = partials + ((size_t)blockIdx.y * gridDim.x + blockIdx.x) * layout.n_segments *
                                        COLUMNS * partial_floats(D);
    float half[COLUMNS], coded_sum[COLUMNS], sum[COLUMNS];
#pragma unroll
    for (int n = 0; n < COLUMNS; n++) {
        half[n] = coded_sum[n] = sum[n] = 0;
        if (n >= n_columns) continue;
        const float *at = first + n * partial_floats(D);
        float max = -INFINITY, merged = 0;
        for (int i = 0; i < n_segments; i++, at += COLUMNS * partial_floats(D)) {
            float most = fmaxf(max, at[0]);
            float f = max > -INFINITY ? exp2f(max - most) : 0,
                  h = at[0] > -INFINITY ? exp2f(at[0] - most) : 0;
            max = most;
            sum[n] = sum[n] * f + at[1] * h;
            coded_sum[n] = coded_sum[n] * f + at[2] * h;
            half[n] = half[n] * f + at[4 + d] * h;
            merged = merged * f + at[4 + D + d] * h;
        }
        coded[n][d] = merged;
    }
    __syncthreads();
    if (codec) {
        const float *matrix = codec->value_transform + d;
        for (int i = 0; i < D; i++) {
            float x = matrix[i * D];
#pragma unroll
            for (int n = 0; n < COLUMNS; n++)
                if (n < n_columns) half[n] = fmaf(coded[n][i], x, half[n]);
        }
    }
#pragma unroll
    for (int n = 0; n < COLUMNS; n++) {
        if (n >= n_columns) continue;
        float out = half[n];
        if (codec && codec->value_mean)
            out = fmaf(codec->value_mean[(size_t)page * D + d], coded_sum[n], out);
        int row = tile.first_row + n / heads, h = head * group + part * COLUMNS + n % heads;
        args.out[((size_t)row * args.n_heads + h) * D + d] = out / sum[n];
    }
}

/* ---- launch ---- */

/* Defined for one head_dim in each attention_N.cu, so that they compile side by side. */
template <int D>
cudaError_t tiles_launch(const cuda_attention *args, partial_layout layout, int first, int n, int stage_bytes,
                         int mean_columns, float *partials, cudaStream_t stream)
{
    size_t bytes =
        2 * (size_t)stage_bytes + sizeof(float) * (2 * COLUMNS * (D + 4) + (size_t)mean_columns * FRAME +
                                                   (mean_columns ? 2 * (D / 2 + TERMS) * COLUMNS : 0));
    cudaError_t error =
        cudaFuncSetAttribute(segment_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (error != cudaSuccess) return error;
    dim3 grid(args->n_kv_heads * layout.n_parts, n, layout.n_segments);
    CUDA_LAUNCH(segment_kernel<D>, grid, 32, bytes, stream, *args, layout, first, stage_bytes, mean_columns,
                partials);
    error = cudaGetLastError();
    if (error != cudaSuccess) return error;
    CUDA_LAUNCH(merge_kernel<D>, dim3(grid.x, n), D, 0, stream, *args, layout, first, partials);
    return cudaGetLastError();
}

#endif
