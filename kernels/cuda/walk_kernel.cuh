#ifndef KERNELS_CUDA_WALK_KERNEL_CUH
#define KERNELS_CUDA_WALK_KERNEL_CUH

#include "kernels/cuda/walk_block.cuh"
#include "kernels/cuda/walk_frame.cuh"
#include "kernels/cuda/walk_ring.cuh"

/*
 * The walk: a warp's way through an item, and the launches.
 */

/* A thread block's shared memory: struct walk_page, the mean's functions, warps. */
__host__ __device__ static inline int walk_warps_at(const cuda_walk *walk)
{
    return rounded_up((int)sizeof(walk_page)) + walk_basis_bytes(walk);
}

/* A warp's: pages, a record, values' factors, its task, barriers. */
struct walk_layout {
    int record, recent, exchange, task, barriers, bytes; /* recent: the record of a recent block's frame */
};

/* What a warp keeps of its item in shared memory. */
struct walk_task {
    struct {
        const char *page; /* part 0 of this layer and head */
        uint64_t sinks;
    } blocks[WALK_SEGMENT];
    float *partial;
    int n_columns;
};

/* Pages: two as old blocks are read. A recent block and its frame's record have their place and the old
 * record's. */
__host__ __device__ static inline walk_layout walk_layout_of(const cuda_walk *walk,
                                                             const cuda_walk_room &room, int units)
{
    walk_layout l;
    l.record = rounded_up(RING_STAGES * room.old_bytes);
    l.recent = rounded_up(room.recent_bytes);
    l.exchange = int_max(l.record + cuda_record_bytes(walk->n_basis_steps, units, room.old_chunks),
                         l.recent + cuda_record_bytes(walk->n_basis_steps, units, room.chunks));
    l.task = l.exchange + units * room.kinds * WALK_FACTORS;
    l.barriers = l.task + (int)sizeof(walk_task);
    l.bytes = rounded_up(l.barriers + RING_BARRIERS * 8);
    return l;
}

/* A warp's place in shared memory and its copies. */
struct walk_place {
    uint8_t *pages;
    char *record;
    walk_task *task;
    walk_ring ring;
};

template <int D, int UNITS>
__device__ static inline void walker_begin(walker<D, UNITS> &w, const walk_item &item,
                                           const walk_place &place)
{
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        w.max[u] = w.sum[u] = 0, w.most[u] = -INFINITY;
#pragma unroll
        for (int g = 0; g < D / 16; g++) w.out[u][g][0] = w.out[u][g][1] = 0;
    }
    __syncwarp(); /* everyone is done with the task before */
    if (w.lane < item.at.end - item.at.first) {
        const cuda_block *block = &item.at.blocks[item.at.first + w.lane];
        place.task->blocks[w.lane].page = block->parts[0] + w.page->offset[0];
        place.task->blocks[w.lane].sinks = block->sink_mask;
    }
    if (w.lane == 0)
        place.task->partial = item_partial<D>(*w.walk, item), place.task->n_columns = item.n_columns;
    __syncwarp();
}

template <int D, int UNITS> __device__ static inline void record_read(walker<D, UNITS> &w, const char *record)
{
    w.record = record;
    w.factors =
        (const uint2 *)(record + walk_factors_at(w.walk, UNITS)) + factor_at<UNITS>(0, 0, 0, w.tid, w.gid);
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        w.unit[u] = ((const float *)record)[4 * u + w.tid];
        w.middle[u] = ((const int *)record)[4 * UNITS + 4 * u + w.tid];
    }
}

/* Where a recent block's scales stand, behind its keys, or its values. */
__device__ static inline int recent_scales_at(const walk_page &page)
{
    return int_max(page.all_key_bytes, page.all_value_bytes);
}

/* Of a recent block what scores need: codes of keys, part after part, and the last part's scales. */
__device__ static inline void keys_fetch(const walk_ring &ring, uint8_t *to, const cuda_block &block,
                                         const walk_page &page)
{
    int n = page.n_parts[1], scales = 4 * WALK_TOKENS;
    ring_expect(ring, 0, page.all_key_bytes + scales);
    for (int p = 0; p < n; p++) {
        ring_copy(ring, 0, to, block.parts[p] + page.offset[p], page.key_bytes[p]);
        to += page.key_bytes[p];
    }
    ring_copy(ring, 0, to + recent_scales_at(page) - page.all_key_bytes,
              block.parts[n - 1] + page.offset[n - 1] + page.page_bytes[n - 1] - scales, scales);
}

/* And codes of values. */
__device__ static inline void values_fetch(const walk_ring &ring, uint8_t *to, const cuda_block &block,
                                           const walk_page &page)
{
    int n = page.n_parts[1];
    ring_expect(ring, 1, page.all_value_bytes);
    for (int p = 0; p < n; p++) {
        int bytes = page.page_bytes[p] - page.key_bytes[p] - 4 * WALK_TOKENS;
        ring_copy(ring, 1, to, block.parts[p] + page.offset[p] + page.key_bytes[p], bytes);
        to += bytes;
    }
}

/* The page of the item's n-th old block, of all parts that are read. */
template <int D, int UNITS, bool IS_PLAIN>
__device__ static inline void page_fetch(const walker<D, UNITS> &w, const walk_item &item, walk_place &place,
                                         int i, int n, int stage)
{
    const walk_page &page = *w.page;
    uint8_t *to = place.pages + stage * page.room.old_bytes;
    if (i < n && IS_PLAIN)
        ring_fetch(place.ring, stage, to, place.task->blocks[i].page, page.room.old_bytes);
    else if (i < n) {
        ring_expect(place.ring, stage, page.room.old_bytes);
        for (int p = 0; p < page.n_parts[0]; to += page.page_bytes[p], p++)
            ring_copy(place.ring, stage, to, item.at.blocks[item.at.first + i].parts[p] + page.offset[p],
                      page.page_bytes[p]);
    }
    ring_commit();
}

/* An item of old blocks, pages ahead of use. A frame's record is fetched when the one before it is done
 * with. */
template <int D, int UNITS, bool IS_PLAIN>
__device__ static inline void old_blocks(walker<D, UNITS> &w, const walk_item &item, walk_place &place)
{
    int frame_blocks = 2 * w.walk->place_blocks, n = item.at.end - item.at.first, j = 0;
    int record_bytes = cuda_record_bytes(w.walk->n_basis_steps, UNITS, w.page->room.old_chunks);
    const char *records = item_record(*w.walk, item);
    ring_fetch(place.ring, RING_RECORD, place.record, records, record_bytes);
    ring_commit();
    page_fetch<D, UNITS, IS_PLAIN>(w, item, place, 0, n, 0);
    page_fetch<D, UNITS, IS_PLAIN>(w, item, place, 1, n, 1);
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        int stage = i % RING_STAGES;
        ring_wait(place.ring, stage);
        if (j == 0) {
            ring_wait(place.ring, RING_RECORD);
            record_read<D, UNITS>(w, place.record);
        }
        old_block_step<D, UNITS, IS_PLAIN>(w, place.pages + stage * w.page->room.old_bytes, j,
                                           place.task->blocks[i].sinks);
        __syncwarp();
        if (++j == frame_blocks) {
            j = 0, records += w.walk->old_record_bytes;
            if (i + 1 < n) ring_fetch(place.ring, RING_RECORD, place.record, records, record_bytes);
            ring_commit();
        }
        page_fetch<D, UNITS, IS_PLAIN>(w, item, place, i + RING_STAGES, n, stage);
    }
    ring_drain();
}

/* An item of recent blocks, few, with more to read of each: a frame's record stands after room for a block's
   keys, whose place its values take. */
template <int D, int UNITS>
__device__ static inline void recent_blocks(walker<D, UNITS> &w, const walk_item &item, walk_place &place)
{
    int frame_blocks = 2 * w.walk->place_blocks, n = item.at.end - item.at.first, last = -1;
    const walk_page &page = *w.page;
    char *own = (char *)place.pages + rounded_up(page.room.recent_bytes);
    const char *record = item_record(*w.walk, item);
    int record_bytes = cuda_record_bytes(w.walk->n_basis_steps, UNITS, page.room.chunks);
#pragma unroll 1
    for (int i = 0; i < n; i++) {
        int b = item.at.first + i, frame = b / frame_blocks;
        if (frame != last) {
            ring_fetch(place.ring, RING_RECORD, own, record, record_bytes);
            record += w.walk->record_bytes;
        }
        keys_fetch(place.ring, place.pages, item.at.blocks[b], page);
        ring_commit();
        ring_commit();
        if (frame != last) {
            ring_wait(place.ring, RING_RECORD);
            record_read<D, UNITS>(w, own);
        }
        last = frame;
        ring_wait(place.ring, 0);
        walk_weights v[UNITS];
        weights_find<D, UNITS, false>(w, place.pages,
                                      (const uint16_t *)(place.pages + recent_scales_at(page)),
                                      b % frame_blocks, 1, place.task->blocks[i].sinks, v, [&] {
                                          __syncwarp();
                                          values_fetch(place.ring, place.pages, item.at.blocks[b], page);
                                          ring_commit();
                                          ring_commit();
                                      });
        ring_wait(place.ring, 1);
        parts_values_sum<D, UNITS>(w, place.pages, 0, 1, v);
        __syncwarp();
    }
    ring_drain();
}

template <int D, int UNITS>
__device__ static inline void walker_end(const walker<D, UNITS> &w, const walk_task &task)
{
#pragma unroll
    for (int u = 0; u < UNITS; u++) {
        int n = 4 * u + w.tid;
        float sum = rows_sum(w.sum[u]);
        if (n >= task.n_columns) continue;
        float *out = task.partial + n * (4 + D);
        if (w.gid == 0) out[0] = w.max[u], out[1] = sum;
#pragma unroll
        for (int g = 0; g < D / 16; g++) {
            out[4 + 16 * g + w.gid] = w.out[u][g][0] * w.page->value_base[g];
            out[4 + 16 * g + w.gid + 8] = w.out[u][g][1] * w.page->value_base[g];
        }
    }
}

/* An item of old blocks that is_plain_old speaks of. */
template <int D, int UNITS>
__device__ static inline void plain_item(walker<D, UNITS> &w, walk_place &place, int at, int lot)
{
    walk_item item = item_find(*w.walk, at, lot);
    walker_begin<D, UNITS>(w, item, place);
    old_blocks<D, UNITS, true>(w, item, place);
    walker_end<D, UNITS>(w, *place.task);
}

/* Any but a near one. */
template <int D, int UNITS>
__device__ static inline void other_item(walker<D, UNITS> &w, walk_place &place, int at, int lot)
{
    walk_item item = item_find(*w.walk, at, lot);
    walker_begin<D, UNITS>(w, item, place);
    if (item.at.kind == CUDA_ITEM_RECENT)
        recent_blocks<D, UNITS>(w, item, place);
    else
        old_blocks<D, UNITS, false>(w, item, place);
    walker_end<D, UNITS>(w, *place.task);
}

/* A head's part of shared memory, and what a walker knows of it. */
template <int D, int UNITS>
__device__ static inline void head_enter(walker<D, UNITS> &w, const cuda_walk &walk, int page_index,
                                         char *memory)
{
    char *basis = memory + rounded_up((int)sizeof(walk_page));
    static_copy(basis, walk.codec->basis_tiles, walk_basis_bytes(&walk));
    page_copy(walk.codec, page_index, memory);
    ptx_copy_commit();
    ptx_copy_wait<0>();
    __syncthreads();
    w.walk = &walk;
    w.page = (const walk_page *)memory;
    w.basis = (const uint4 *)basis;
    w.lane = threadIdx.x % 32, w.gid = w.lane / 4, w.tid = w.lane % 4, w.odd = w.gid % 2;
    w.kinds_bytes = w.page->room.kinds * WALK_FACTORS;
    w.n_chunks = w.page->n_chunks[0], w.n_nibble_chunks = w.page->n_nibble_chunks[0];
    w.keys_at = w.gid * w.page->row_bytes[0] + 32 * w.tid;
    w.values_at = w.page->key_bytes[0] + 4 * w.gid + 32 * w.tid;
    w.scales_at = w.page->room.old_bytes - 4 * WALK_TOKENS;
}

template <int D, int UNITS, int WARPS>
__global__ void __launch_bounds__(32 * WARPS, 1) walk_kernel(const __grid_constant__ cuda_walk walk)
{
    CUDA_DYNAMIC_SHARED(memory);
    int lots = walk.args.n_kv_heads * walk.n_parts, lot = blockIdx.x % lots, index = blockIdx.x / lots;
    int warp = threadIdx.x / 32;
    if (index >= walk.n_items) return;
    uint32_t *tickets = tickets_open(walk, true, lot, index);
    walker<D, UNITS> w;
    head_enter<D, UNITS>(w, walk, walk.args.layer * walk.args.n_kv_heads + lot / walk.n_parts, memory);
    walk_layout layout = walk_layout_of(&walk, w.page->room, UNITS);
    int first = walk_warps_at(&walk);
    int n_warps = min((int)blockDim.x / 32, (walk.most_shared_bytes - first) / layout.bytes);
    if (warp >= n_warps) return;
    char *mine = memory + first + warp * layout.bytes;
    walk_place place;
    place.pages = (uint8_t *)mine, place.record = mine + layout.record;
    place.task = (walk_task *)(mine + layout.task);
    ring_begin(place.ring, mine + layout.barriers, w.lane);
    w.exchange = mine + layout.exchange;
    /* Recent blocks wait more than they compute, so half of the warps begin with them, beside old ones'
       walks, and each half helps the other at the end. Two loops, so that what few items need takes no
       registers from the others. */
    int n_old = walk.n_old_items, n_recent = walk.n_items - walk.n_tiles - n_old;
    int n_plain = w.page->is_plain_old ? n_old : 0, n_others = n_old - n_plain + n_recent;
#pragma unroll 1
    for (int phase = warp % 2; phase < 3; phase++) {
        uint32_t *counter = tickets + (phase % 2 ? TICKETS_PLAIN : TICKETS_OTHER);
        uint32_t asked = ticket_ask(counter, w.lane);
        int at = ticket_read(asked);
#pragma unroll 1
        for (; phase % 2 && at < n_plain; at = ticket_read(asked)) {
            asked = ticket_ask(counter, w.lane);
            plain_item<D, UNITS>(w, place, at, lot);
        }
#pragma unroll 1
        for (; phase % 2 == 0 && at < n_others; at = ticket_read(asked)) {
            asked = ticket_ask(counter, w.lane);
            other_item<D, UNITS>(w, place, at < n_recent ? n_old + at : at - n_recent, lot);
        }
    }
}

/* ---- launch ---- */

template <int D, int UNITS>
static cudaError_t frame_start(const cuda_walk &walk, int grid, cudaStream_t stream)
{
    int bytes = frame_layout_of(&walk, D).bytes;
    cudaError_t error =
        cudaFuncSetAttribute(frame_kernel<D, UNITS>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    CUDA_LAUNCH((frame_kernel<D, UNITS>), 2 * grid, 32 * FRAME_WARPS, bytes, stream, walk);
    return cudaGetLastError();
}

template <int D, int UNITS, int WARPS>
static cudaError_t walk_start(const cuda_walk &walk, cudaStream_t stream)
{
    int bytes = walk.most_shared_bytes, lots = walk.args.n_kv_heads * walk.n_parts;
    int grid = lots > walk.n_processors ? lots : walk.n_processors;
    if (walk_warps_at(&walk) + walk_layout_of(&walk, walk.room, UNITS).bytes > bytes)
        return cudaErrorInvalidConfiguration;
    cudaError_t error = frame_start<D, UNITS>(walk, grid, stream);
    if (error != cudaSuccess) return error;
    error = cudaFuncSetAttribute(walk_kernel<D, UNITS, WARPS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 bytes);
    if (error != cudaSuccess) return error;
    int n_warps = walk.n_warps < WARPS ? walk.n_warps : WARPS;
    CUDA_LAUNCH((walk_kernel<D, UNITS, WARPS>), grid, 32 * n_warps, bytes, stream, walk);
    return cudaGetLastError();
}

/* Defined for one head_dim in each walk_N.cu, so that they compile side by side. */
template <int D> cudaError_t walk_launch(const cuda_walk &walk, cudaStream_t stream)
{
    if (!walk.codec) return half_start<D>(walk, stream);
    if constexpr (D <= 128)
        return walk.columns < CUDA_COLUMNS ? walk_start<D, 1, 16>(walk, stream)
                                           : walk_start<D, 2, 12>(walk, stream);
    return walk_start<D, 2, 8>(walk, stream);
}

#endif
