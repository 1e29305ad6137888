#ifndef KERNELS_CUDA_WALK_KERNEL_CUH
#define KERNELS_CUDA_WALK_KERNEL_CUH

#include "kernels/cuda/walk_block.cuh"
#include "kernels/cuda/walk_half.cuh"

/*
 * The kernels around walk_block.cuh: items of coded blocks, items in f16, the merge.
 */

/* What an item is about. */
struct walk_item {
    cuda_tile tile;
    const cuda_span *span;
    int head, part, heads, n_columns; /* heads: of a token */
    int is_near, first, end;          /* the last slot; blocks, the own one not */
    float *partial;                   /* [columns][4 + D] */
};

template <int D>
__device__ static inline walk_item item_find(const cuda_walk &walk, int index, int head, int part)
{
    walk_item out;
    cuda_item item = walk.items[index];
    int group = walk.args.n_heads / walk.args.n_kv_heads;
    out.tile = walk.args.tiles[item.tile];
    out.span = &walk.args.spans[out.tile.span];
    out.head = head, out.part = part;
    out.heads = min(group - part * COLUMNS, COLUMNS);
    out.n_columns = out.heads * out.tile.n_rows;
    int own = out.tile.position / WALK_TOKENS;
    out.is_near = item.slot == out.tile.n_slots - 1;
    out.first = item.slot * WALK_SEGMENT;
    out.end = min(out.first + WALK_SEGMENT, own);
    size_t slot = (size_t)(out.tile.first_slot + item.slot - walk.first_slot);
    out.partial =
        walk.partials + ((slot * walk.args.n_kv_heads + head) * walk.n_parts + part) * walk.columns * (4 + D);
    return out;
}

/* Of the batch's queries, column n of the item. */
template <int D>
__device__ static inline size_t column_place(const cuda_walk &walk, const cuda_tile &tile, int head, int part,
                                             int heads, int n)
{
    int group = walk.args.n_heads / walk.args.n_kv_heads, row = tile.first_row + n / heads;
    return ((size_t)row * walk.args.n_heads + head * group + part * COLUMNS + n % heads) * D;
}

/* ---- f16 ---- */

/* Of format f16 a segment and, in the last one, the own block; otherwise all sinks and the own block.
   queries: in shared memory, [8][D + 4]. */
template <int D, bool IS_CODED>
__device__ static inline void half_item(const cuda_walk &walk, const walk_item &item, float *queries)
{
    segment g;
    g.own = item.tile.position / TOKENS;
    g.heads = item.heads, g.n_columns = item.n_columns;
    g.span = item.span;
    g.layer = walk.args.layer, g.page = g.layer * walk.args.n_kv_heads + item.head;
    g.first_slot = item.tile.position % TOKENS;
    g.lane = threadIdx.x % 32, g.gid = g.lane / 4, g.tid = g.lane % 4;
    g.q = queries;
    __syncwarp();
    for (int at = g.lane; at < COLUMNS * D; at += 32) {
        int n = at / D, i = at % D;
        float x = n < g.n_columns
                      ? walk.args.q[column_place<D>(walk, item.tile, item.head, item.part, item.heads, n) + i]
                      : 0;
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
        for (int first = 0; first < g.own; first += 128) {
            unsigned there[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int b = first + 32 * i + g.lane;
                there[i] = __ballot_sync(~0u, b < g.own && g.span->blocks[b].sink_mask != 0);
            }
#pragma unroll 1
            for (int i = 0; i < 4; i++)
                for (unsigned left = there[i]; left; left &= left - 1) {
                    const cuda_block *block = &g.span->blocks[first + 32 * i + __ffs((int)left) - 1];
                    half_step<D, true>(g, state, NULL, block->sinks, __popcll(block->sink_mask), -1);
                }
        }
    } else {
        for (int b = item.first; b < item.end; b++)
            half_step<D, false>(g, state, half_page(&g.span->blocks[b], g.layer, item.head, D), NULL, TOKENS,
                                -1);
    }
    if (item.is_near)
        half_step<D, false>(g, state, half_page(&g.span->blocks[g.own], g.layer, item.head, D), NULL,
                            g.first_slot + item.tile.n_rows, g.first_slot);
#pragma unroll
    for (int c = 0; c < 2; c++) {
        int column = 2 * g.tid + c;
        float sum = rows_sum(state.sum[c]);
        if (column >= g.n_columns) continue;
        float *out = item.partial + column * (4 + D);
        if (g.gid == 0) out[0] = state.max[c], out[1] = sum;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            for (int h = 0; h < 2; h++) out[4 + half_channel(i, h, g.gid)] = state.half[i][2 * h + c];
    }
}

/* Called, not woven in: its registers are then no matter of the coded blocks'. */
template <int D>
__device__ __noinline__ static void near_item(const cuda_walk *walk, int index, int head, int part,
                                              float *queries)
{
    half_item<D, true>(*walk, item_find<D>(*walk, index, head, part), queries);
}

enum { HALF_WARPS = 4 };

template <int D>
__global__ void __launch_bounds__(32 * HALF_WARPS, D <= 128 ? 4 : 2)
    half_kernel(const __grid_constant__ cuda_walk walk)
{
    CUDA_DYNAMIC_SHARED(half_memory);
    int warp = threadIdx.x / 32, lots = walk.args.n_kv_heads * walk.n_parts;
    int at = blockIdx.x * HALF_WARPS + warp;
    if (at >= walk.n_items * lots) return;
    walk_item item = item_find<D>(walk, at / lots, at % lots / walk.n_parts, at % walk.n_parts);
    half_item<D, false>(walk, item, (float *)half_memory + warp * COLUMNS * (D + 4));
}

/* ---- coded ---- */

__device__ static inline void page_fill(const cuda_codec *codec, int index, walk_page *page)
{
    size_t cells = (size_t)index * codec->n_groups;
    for (int at = threadIdx.x; at < CUDA_MAX_PARTS * CUDA_MAX_GROUPS; at += blockDim.x) {
        int p = at / CUDA_MAX_GROUPS, g = at % CUDA_MAX_GROUPS, is_there = p < codec->n_parts;
        const uint8_t *bits = is_there ? codec->parts[p].codes + index * CUDA_CODE_BYTES : NULL;
        page->key_bits[p][g] = is_there ? bits[g] : 0;
        page->value_bits[p][g] = is_there ? bits[CUDA_MAX_GROUPS + g] : 0;
        for (int set = 0; is_there && g < codec->n_groups && set < 2; set++) {
            const cuda_part *part = &codec->parts[p],
                            *last = &codec->parts[(set ? codec->n_parts : codec->n_old_parts) - 1];
            page->key_factor[set][p][g] =
                part->key_unit[cells + g] * last->key_gain[cells + g] * (bits[g] == 1 ? 8 : 1);
            page->value_factor[set][p][g] = part->value_unit[cells + g] * last->value_gain[cells + g] *
                                            (bits[CUDA_MAX_GROUPS + g] == 1 ? 8 : 1) *
                                            (bits[CUDA_MAX_GROUPS + g] == 2 ? 1 : 2 / WALK_PLAIN);
        }
    }
    for (int p = threadIdx.x; p < codec->n_parts; p += blockDim.x) {
        const cuda_part *part = &codec->parts[p];
        page->row_bytes[p] = key_row_bytes(part->codes + index * CUDA_CODE_BYTES, codec->n_groups);
        page->key_bytes[p] = page->row_bytes[p] * (WALK_TOKENS / 8);
        page->page_bytes[p] = (int)(part->offset[index + 1] - part->offset[index]);
        page->offset[p] = part->offset[index];
        const uint8_t *bits = part->codes + index * CUDA_CODE_BYTES;
        int *end = page->key_ends[p];
        end[0] = end[1] = end[2] = 0, page->is_trellis[p] = 1;
        for (int g = 0; g < codec->n_groups; g++) { /* bits do not increase */
            end[0] += bits[g] == 4, end[1] += bits[g] >= 2, end[2] += bits[g] >= 1;
            page->is_trellis[p] &= bits[CUDA_MAX_GROUPS + g] == 2;
        }
    }
    if (threadIdx.x == 0) {
        page->n_parts[0] = codec->n_old_parts, page->n_parts[1] = codec->n_parts;
        page->has_nibbles = page->has_plain = 0;
        for (int p = 0; p < codec->n_parts; p++) { /* bits do not increase */
            const uint8_t *bits = codec->parts[p].codes + index * CUDA_CODE_BYTES;
            page->has_nibbles |= bits[0] == 4;
            for (int g = 0; g < codec->n_groups; g++)
                page->has_plain |= bits[CUDA_MAX_GROUPS + g] != 2 && bits[CUDA_MAX_GROUPS + g] != 0;
        }
    }
    __syncthreads();
    for (int at = threadIdx.x; at < 4 * codec->n_groups; at += blockDim.x) {
        int set = at % 2, is_nibbles = at / 2 % 2, g = at / 4;
        float most = 0;
        for (int p = 0; p < page->n_parts[set]; p++) {
            int bits = page->key_bits[p][g];
            if (bits && is_nibbles == (bits == 4))
                most = fmaxf(most, page->key_factor[set][p][g] * (bits == 2 ? 14 : 2));
        }
        page->key_bound[set][is_nibbles][g] = most;
    }
}

__device__ static inline void static_copy(char *to, const void *from, int bytes)
{
    for (int at = 16 * threadIdx.x; at < bytes; at += 16 * blockDim.x)
        ptx_copy(ptx_shared(to + at), (const char *)from + at);
}

/* A head's part of shared memory. */
template <int D>
__device__ static void head_enter(const cuda_walk &walk, const walk_layout &layout, int page_index,
                                  char *memory)
{
    const cuda_codec *codec = walk.codec;
    if (layout.matrix >= 0)
        static_copy(memory + layout.matrix,
                    (const uint4 *)codec->query_tiles + page_index * codec->query_tiles_stride, D * D * 2);
    if (walk.n_basis_steps) {
        static_copy(memory + layout.terms, (const uint4 *)codec->mean_tiles + page_index * (D / 16) * 64,
                    D / 16 * 1024);
        if (layout.basis >= 0)
            static_copy(memory + layout.basis, codec->basis_tiles, walk_basis_bytes(&walk));
        for (int i = threadIdx.x; i < D; i += blockDim.x)
            ((float *)(memory + layout.mean))[i] = codec->mean_turned[(size_t)page_index * D + i] / 64;
    }
    page_fill(codec, page_index, (walk_page *)(memory + layout.page));
    ptx_copy_commit();
    ptx_copy_wait<0>();
    __syncthreads();
}

/* The first n_parts parts of a block to the ring; first: where part 0 of all pages begins. */
template <int D, int UNITS>
__device__ static inline void pages_fetch(const walker<D, UNITS> &w, const cuda_block *block,
                                          const char *first, int n_parts, uint8_t *to)
{
    for (int p = 0; p < n_parts; p++) {
        const char *from = (p ? block->parts[p] : first) + w.page->offset[p] + 16 * w.lane;
        int bytes = w.page->page_bytes[p];
        uint32_t at = ptx_shared(to) + 16 * w.lane;
#pragma unroll 4
        for (int i = 16 * w.lane; i < bytes; i += 512, at += 512, from += 512) ptx_copy(at, from);
        to += bytes;
    }
}

/* Blocks first .. end - 1: old ones come through the ring ahead of use, recent ones one at a time. */
template <int D, int UNITS>
__device__ static inline void coded_blocks(walker<D, UNITS> &w, int first, int end)
{
    const cuda_block *blocks = w.span->blocks;
    int old_end = max(first, min(end, w.own - w.span->recent_blocks)), ahead = w.walk->n_stages - 1;
    int n_old = w.page->n_parts[0], frame_blocks = 2 * w.walk->place_blocks, stage = 0;
    for (int i = 0; i < ahead; i++) {
        if (first + i < old_end)
            pages_fetch(w, &blocks[first + i], blocks[first + i].parts[0], n_old,
                        w.ring + i * w.walk->stage_bytes);
        ptx_copy_commit();
    }
    const char *next = first + ahead < end ? blocks[first + ahead].parts[0] : NULL;
    int frame = first / frame_blocks, j = first % frame_blocks;
#pragma unroll 1
    for (int b = first; b < end; b++, j++) {
        int is_recent = b >= old_end, n_parts = w.page->n_parts[is_recent];
        uint64_t sinks = blocks[b].sink_mask;
        const uint8_t *pages = w.ring + stage * w.walk->stage_bytes;
        if (is_recent) {
            pages = w.ring;
            pages_fetch(w, &blocks[b], blocks[b].parts[0], n_parts, w.ring);
        } else if (b + ahead < old_end) {
            int to = stage + ahead >= w.walk->n_stages ? stage - 1 : stage + ahead;
            pages_fetch(w, &blocks[b + ahead], next, n_old, w.ring + to * w.walk->stage_bytes);
        }
        ptx_copy_commit();
        if (b + ahead + 1 < old_end) next = blocks[b + ahead + 1].parts[0];
        if (j == frame_blocks) j = 0, frame++;
        if (frame != w.frame || is_recent != w.set) frame_enter<D, UNITS>(w, frame, is_recent);
        if (is_recent)
            ptx_copy_wait<0>();
        else if (ahead == 1)
            ptx_copy_wait<1>();
        else
            ptx_copy_wait<2>();
        __syncwarp();
        block_step<D, UNITS>(w, pages, j, n_parts, sinks);
        __syncwarp();
        stage = stage + 1 == w.walk->n_stages ? 0 : stage + 1;
    }
    ptx_copy_wait<0>();
}

template <int D, int UNITS> __device__ static void walker_begin(walker<D, UNITS> &w, const walk_item &item)
{
    const cuda_walk &walk = *w.walk;
    w.span = item.span;
    w.own = item.tile.position / WALK_TOKENS;
    w.frame = w.set = -1;
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        int n = 4 * u + w.gid / 2;
        w.q[u] = n < item.n_columns
                     ? walk.args.q + column_place<D>(walk, item.tile, item.head, item.part, item.heads, n)
                     : NULL;
        w.max[u] = -1e30f, w.sum[u] = 0;
#pragma unroll
        for (int g = 0; g < D / 16; g++) w.out[u][g][0] = w.out[u][g][1] = 0;
    }
}

template <int D, int UNITS>
__device__ static void walker_end(const walker<D, UNITS> &w, const walk_item &item)
{
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        int n = 4 * u + w.tid;
        float sum = rows_sum(w.sum[u]);
        if (n >= item.n_columns) continue;
        float *out = item.partial + n * (4 + D);
        if (w.gid == 0) out[0] = w.max[u], out[1] = sum;
#pragma unroll
        for (int g = 0; g < D / 16; g++) {
            out[4 + 16 * g + w.gid] = w.out[u][g][0];
            out[4 + 16 * g + w.gid + 8] = w.out[u][g][1];
        }
    }
}

/* IN_SHARED: transform and functions are, both. */
template <int D, int UNITS, int WARPS, bool IN_SHARED>
__global__ void __launch_bounds__(32 * WARPS, 1) walk_kernel(const __grid_constant__ cuda_walk walk)
{
    CUDA_DYNAMIC_SHARED(memory);
    int lots = walk.args.n_kv_heads * walk.n_parts, lot = blockIdx.x % lots, index = blockIdx.x / lots;
    int n_blocks = (gridDim.x - lot + lots - 1) / lots, warp = threadIdx.x / 32;
    int head = lot / walk.n_parts, part = lot % walk.n_parts;
    if (index >= walk.n_items) return;
    walk_layout layout = walk_layout_of(&walk, D, UNITS);
    walker<D, UNITS> w;
    w.page_index = walk.args.layer * walk.args.n_kv_heads + head;
    head_enter<D>(walk, layout, w.page_index, memory);
    char *mine = memory + layout.warps + warp * layout.per_warp;
    w.walk = &walk;
    w.page = (const walk_page *)(memory + layout.page);
    w.matrix = IN_SHARED || layout.matrix >= 0
                   ? (const uint4 *)(memory + layout.matrix)
                   : (const uint4 *)walk.codec->query_tiles + w.page_index * walk.codec->query_tiles_stride;
    w.terms = (const uint4 *)(memory + layout.terms);
    w.basis = IN_SHARED || layout.basis >= 0 ? (const uint4 *)(memory + layout.basis)
                                             : (const uint4 *)walk.codec->basis_tiles;
    w.mean = (const float *)(memory + layout.mean);
    w.ring = (uint8_t *)mine + layout.ring;
    w.mixed = (float *)(mine + layout.mixed);
    w.coefs = (uint2 *)(mine + layout.coefs);
    w.exchange = mine + layout.exchange;
    w.lane = threadIdx.x % 32, w.gid = w.lane / 4, w.tid = w.lane % 4, w.odd = w.gid % 2;
    /* Neighbours in the list go to different multiprocessors. */
#pragma unroll 1
    for (int at = warp * n_blocks + index; at < walk.n_items; at += walk.n_warps * n_blocks) {
        {
            walk_item item = item_find<D>(walk, at, head, part);
            if (item.is_near) {
                near_item<D>(&walk, at, head, part, (float *)w.ring);
                __syncwarp();
                continue;
            }
            walker_begin<D, UNITS>(w, item);
            coded_blocks<D, UNITS>(w, item.first, item.end);
        }
        /* Found again: it would take registers from all blocks. */
        walker_end<D, UNITS>(w, item_find<D>(walk, at, head, part));
    }
}

/* ---- launch ---- */

template <int D, int UNITS, int WARPS, bool IN_SHARED>
static cudaError_t walk_start(cuda_walk walk, cudaStream_t stream)
{
    walk.n_warps = walk.n_warps < WARPS ? walk.n_warps : WARPS;
    walk_layout layout = walk_layout_of(&walk, D, UNITS);
    int fit = (walk.most_shared_bytes - layout.warps) / layout.per_warp;
    if (fit < 1) return cudaErrorInvalidConfiguration;
    walk.n_warps = walk.n_warps < fit ? walk.n_warps : fit;
    layout = walk_layout_of(&walk, D, UNITS);
    cudaError_t error = cudaFuncSetAttribute(walk_kernel<D, UNITS, WARPS, IN_SHARED>,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize, layout.bytes);
    if (error != cudaSuccess) return error;
    int lots = walk.args.n_kv_heads * walk.n_parts;
    int grid = lots > walk.n_processors ? lots : walk.n_processors;
    CUDA_LAUNCH((walk_kernel<D, UNITS, WARPS, IN_SHARED>), grid, 32 * walk.n_warps, layout.bytes, stream,
                walk);
    return cudaGetLastError();
}

/* Defined for one head_dim in each walk_N.cu, so that they compile side by side. */
template <int D> cudaError_t walk_launch(const cuda_walk &walk, cudaStream_t stream)
{
    if (!walk.codec) {
        int n = walk.n_items * walk.args.n_kv_heads * walk.n_parts;
        size_t bytes = HALF_WARPS * COLUMNS * (D + 4) * sizeof(float);
        CUDA_LAUNCH(half_kernel<D>, (n + HALF_WARPS - 1) / HALF_WARPS, 32 * HALF_WARPS, bytes, stream, walk);
        return cudaGetLastError();
    }
    walk_layout layout = walk_layout_of(&walk, D, 1);
    if constexpr (D <= 128) {
        if (layout.matrix >= 0 && layout.basis >= 0) {
            if (walk.columns == 8) return walk_start<D, 2, 12, true>(walk, stream);
            return walk.n_warps > 12 ? walk_start<D, 1, 16, true>(walk, stream)
                                     : walk_start<D, 1, 12, true>(walk, stream);
        }
    }
    return walk_start<D, 2, 8, false>(walk, stream);
}

#endif
