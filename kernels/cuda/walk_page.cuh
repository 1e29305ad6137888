#ifndef KERNELS_CUDA_WALK_PAGE_CUH
#define KERNELS_CUDA_WALK_PAGE_CUH

#include "kernels/cuda/walk.cuh"

/*
 * What the launches over coded blocks have in common: an item, where its frames' records stand, and what a
 * thread block keeps of its head's pages.
 */

enum { COLUMNS = CUDA_COLUMNS };

/* An item of one KV head and part of its query heads. */
struct walk_item {
    cuda_item at;
    int head, part, lot, heads, n_columns; /* heads: of a token */
};

__device__ static inline walk_item item_find(const cuda_walk &walk, int index, int lot)
{
    walk_item out;
    const uint4 *from = (const uint4 *)&walk.items[index];
    union {
        uint4 words[sizeof(cuda_item) / 16];
        cuda_item item;
    } copy;
#pragma unroll
    for (int i = 0; i < (int)sizeof(cuda_item) / 16; i++) copy.words[i] = from[i];
    out.at = copy.item;
    out.lot = lot, out.head = lot / walk.n_parts, out.part = lot % walk.n_parts;
    out.heads = min(walk.args.n_heads / walk.args.n_kv_heads - out.part * COLUMNS, COLUMNS);
    out.n_columns = out.heads * out.at.n_rows;
    return out;
}

/* [columns][4 + D] */
template <int D> __device__ static inline float *item_partial(const cuda_walk &walk, const walk_item &item)
{
    size_t lots = (size_t)walk.args.n_kv_heads * walk.n_parts;
    return walk.partials + (item.at.slot * lots + item.lot) * walk.columns * (4 + D);
}

/* The record of the frame of the item's first block. */
__device__ static inline char *item_record(const cuda_walk &walk, const walk_item &item)
{
    return walk.records + item.at.records + (size_t)item.at.lot_bytes * item.lot + item.at.record_at;
}

/*
 * Items are handed out as warps come free: what an item takes depends on what it is, and a warp that has a
 * long one gets fewer. A ticket is asked for while the last item is under way, since its answer takes some
 * 700 cycles. Who computes an item does not change its result.
 */
enum { TICKETS_RECORDS, TICKETS_PLAIN, TICKETS_OTHER, TICKETS = CUDA_TICKETS };

/* A thread block's counters. Those of the other launch, which nobody uses now, begin at 0 then. */
__device__ static inline uint32_t *tickets_open(const cuda_walk &walk, bool is_walk, int lot, int index)
{
    uint32_t *tickets = walk.tickets + TICKETS * lot;
    if (index == 0 && threadIdx.x < TICKETS && (threadIdx.x == TICKETS_RECORDS) == is_walk)
        tickets[threadIdx.x] = 0;
    return tickets;
}

/* For lane 0; ticket_read tells the others. */
__device__ static inline uint32_t ticket_ask(uint32_t *tickets, int lane)
{
    return lane == 0 ? atomicAdd(tickets, 1u) : 0;
}

__device__ static inline int ticket_read(uint32_t asked)
{
    return (int)__shfl_sync(~0u, asked, 0);
}

/* Of the batch's queries, column n of the item. */
template <int D>
__device__ static inline size_t column_place(const cuda_walk &walk, const walk_item &item, int n)
{
    int group = walk.args.n_heads / walk.args.n_kv_heads, row = item.at.first_row + n / item.heads;
    return ((size_t)row * walk.args.n_heads + item.head * group + item.part * COLUMNS + n % item.heads) * D;
}

__device__ static inline void static_copy(char *to, const void *from, int bytes)
{
    for (int at = 16 * threadIdx.x; at < bytes; at += 16 * blockDim.x)
        ptx_copy(ptx_shared(to + at), (const char *)from + at);
}

/* The thread block's struct cuda_walk_page; wait and synchronise after it. */
__device__ static inline void page_copy(const cuda_codec *codec, int page_index, char *memory)
{
    static_copy(memory, &codec->walk_pages[page_index], (int)sizeof(walk_page));
}

#endif
