#ifndef KERNELS_CUDA_WALK_PAGE_CUH
#define KERNELS_CUDA_WALK_PAGE_CUH

#include "kernels/cuda/walk.cuh"

/*
 * What the launches over coded blocks have in common: an item, where its frames' records stand, and what a thread
 * block keeps of its head's pages.
 */

enum { COLUMNS = CUDA_COLUMNS };

/* What an item is about. */
struct walk_item {
    cuda_tile tile;
    const cuda_span *span;
    int head, part, heads, n_columns; /* heads: of a token */
    int is_near;                      /* the last slot */
    int is_recent, first, end;        /* blocks, the own one not, of which old_end and later ones are recent */
    int old_end;
    float *partial;                   /* [columns][4 + D] */
};

template <int D>
__device__ static inline walk_item item_find(const cuda_walk &walk, int index, int lot)
{
    walk_item out;
    int head = lot / walk.n_parts, part = lot % walk.n_parts;
    cuda_item item = walk.items[index];
    int group = walk.args.n_heads / walk.args.n_kv_heads;
    out.tile = walk.args.tiles[item.tile];
    out.span = &walk.args.spans[out.tile.span];
    out.head = head, out.part = part;
    out.heads = min(group - part * COLUMNS, COLUMNS);
    out.n_columns = out.heads * out.tile.n_rows;
    int own = out.tile.position / WALK_TOKENS;
    out.is_near = item.slot == out.tile.n_slots - 1;
    out.old_end = walk.codec ? int_max(own - out.span->recent_blocks, 0) : own + 1;
    out.is_recent = walk.codec && item.slot >= out.tile.n_old_slots;
    out.first = item.slot * WALK_SEGMENT;
    out.end = min(out.first + WALK_SEGMENT, min(own, out.old_end));
    if (out.is_recent) {
        int pair = out.old_end / CUDA_WALK_PAIR + item.slot - out.tile.n_old_slots;
        out.first = int_max(pair * CUDA_WALK_PAIR, out.old_end);
        out.end = min((pair + 1) * CUDA_WALK_PAIR, own);
    }
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

/* A tile's records for one KV head and part: of frame 0; of the first frame with recent blocks. */
struct walk_records {
    char *old, *recent;
    int first_recent;
};

__device__ static inline walk_records records_find(const cuda_walk &walk, const walk_item &item)
{
    walk_records out;
    const cuda_tile &tile = item.tile;
    size_t old = (size_t)tile.n_old_frames * walk.old_record_bytes,
           all = old + (size_t)tile.n_recent_frames * walk.record_bytes,
           lots = (size_t)walk.args.n_kv_heads * walk.n_parts;
    out.old = walk.records + (tile.first_record - walk.first_record) * lots +
              all * (item.head * walk.n_parts + item.part);
    out.recent = out.old + old;
    out.first_recent = item.old_end / (2 * walk.place_blocks);
    return out;
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
