#include "kernels/cuda/cuda.h"

#include <stdlib.h>

/*
 * The host's side of kernels/cuda/walk.cuh: the tiles of a step and their items, by codec and in lots whose
 * partial results have room, once for all layers.
 */

enum { PARTIAL_BYTES = 256 << 20, MOST_COLUMNS = CUDA_COLUMNS };

static int slots_of(const struct attention_span *span, int position)
{
    int own = position / KV_BLOCK_TOKENS;
    return span->codec ? (own + CUDA_WALK_SEGMENT - 1) / CUDA_WALK_SEGMENT + 1 : own / CUDA_WALK_SEGMENT + 1;
}

/* Decoding with few query heads to a KV head takes half a tile, whose other half would be computed in vain.
 */
static int columns_of(const struct attention_args *args, int group)
{
    for (int i = 0; i < args->n_spans; i++)
        if (args->spans[i].n_rows > 1) return MOST_COLUMNS;
    return group <= MOST_COLUMNS / 2 ? MOST_COLUMNS / 2 : MOST_COLUMNS;
}

static struct cuda_batch *batch_begin(struct cuda_state *cuda, const struct cuda_resident *codec)
{
    if (cuda->n_batches == cuda->most_batches) {
        int most = 2 * cuda->most_batches + 8;
        struct cuda_batch *batches = realloc(cuda->batches, (size_t)most * sizeof *batches);
        if (!batches) {
            cuda_check(cuda, cudaErrorMemoryAllocation, "tiles");
            return NULL;
        }
        cuda->batches = batches, cuda->most_batches = most;
    }
    struct cuda_batch *batch = &cuda->batches[cuda->n_batches++];
    *batch = (struct cuda_batch){.codec = codec};
    if (cuda->n_batches > 1) {
        const struct cuda_batch *last = batch - 1;
        batch->first_tile = last->first_tile + last->n_tiles;
        batch->first_item = last->first_item + last->n_items;
        batch->first_slot = last->first_slot + last->n_slots;
    }
    return batch;
}

/* Rows that stand in one block, at_once at most, from row r on. */
static int tile_rows(const struct attention_span *span, int r, int at_once)
{
    int left = span->n_rows - r, in_block = KV_BLOCK_TOKENS - (span->first_pos + r) % KV_BLOCK_TOKENS;
    int n = left < in_block ? left : in_block;
    return n < at_once ? n : at_once;
}

/* The span's tiles to the last batch, which is of its codec, and further ones when that is full. tiles NULL:
   counted only. */
static bool span_cut(struct cuda_state *cuda, const struct attention_span *span, int index, int at_once,
                     int most_slots, struct cuda_tile *tiles)
{
    struct cuda_batch *batch = &cuda->batches[cuda->n_batches - 1];
    for (int r = 0, step; r < span->n_rows; r += step) {
        step = tile_rows(span, r, at_once);
        int n_slots = slots_of(span, span->first_pos + r);
        if (batch->n_slots > 0 && batch->n_slots + n_slots > most_slots) {
            batch = batch_begin(cuda, batch->codec);
            if (!batch) return false;
        }
        if (tiles)
            tiles[batch->first_tile + batch->n_tiles] =
                (struct cuda_tile){.span = index,
                                   .first_row = span->first_row + r,
                                   .n_rows = step,
                                   .position = span->first_pos + r,
                                   .first_slot = batch->first_slot + batch->n_slots,
                                   .n_slots = n_slots};
        batch->n_tiles++;
        batch->n_slots += n_slots, batch->n_items += n_slots;
        if (n_slots > batch->most_slots) batch->most_slots = n_slots;
    }
    return true;
}

static bool is_first_of_codec(const struct attention_args *args, int i)
{
    for (int j = 0; j < i; j++)
        if (args->spans[j].codec == args->spans[i].codec) return false;
    return true;
}

/* All spans, codec by codec. */
static bool batches_make(struct cuda_state *cuda, const struct attention_args *args, int at_once,
                         int most_slots, struct cuda_tile *tiles)
{
    cuda->n_batches = 0;
    for (int i = 0; i < args->n_spans; i++) {
        if (!is_first_of_codec(args, i)) continue;
        const struct kv_codec *codec = args->spans[i].codec;
        const struct cuda_resident *resident = codec ? cuda_codec_resident(cuda, codec) : NULL;
        if ((codec && !resident) || !batch_begin(cuda, resident)) return false;
        for (int j = i; j < args->n_spans; j++)
            if (args->spans[j].codec == codec &&
                !span_cut(cuda, &args->spans[j], j, at_once, most_slots, tiles))
                return false;
    }
    return true;
}

/* 0: a whole segment; 1: the last slot; 2: a segment cut short by the own block. */
static int item_kind(const struct cuda_tile *tile, int slot)
{
    if (slot == tile->n_slots - 1) return 1;
    return (slot + 1) * CUDA_WALK_SEGMENT <= tile->position / KV_BLOCK_TOKENS ? 0 : 2;
}

/* A batch's items, long ones first: warps take them in this order, and the short ones fill the end. */
static void items_fill(const struct cuda_batch *batch, const struct cuda_tile *tiles, struct cuda_item *items)
{
    int n = batch->first_item;
    for (int kind = 0; kind < 3; kind++)
        for (int t = batch->first_tile; t < batch->first_tile + batch->n_tiles; t++)
            for (int slot = 0; slot < tiles[t].n_slots; slot++)
                if (item_kind(&tiles[t], slot) == kind) items[n++] = (struct cuda_item){t, slot};
}

/* Floats of a slot's partial results. */
static size_t slot_floats(const struct attention_args *args, int columns)
{
    const struct kv_shape *shape = args->shape;
    int n_parts = (shape->n_heads / shape->n_kv_heads + MOST_COLUMNS - 1) / MOST_COLUMNS;
    return (size_t)(shape->n_kv_heads * n_parts * columns) * (4 + (size_t)shape->head_dim);
}

static bool tiles_make(struct cuda_state *cuda, const struct attention_args *args, int group)
{
    if (cuda->table.tiles_group == group) return true;
    int columns = columns_of(args, group);
    int at_once = columns < MOST_COLUMNS || group >= MOST_COLUMNS ? 1 : MOST_COLUMNS / group;
    int most_slots = (int)(PARTIAL_BYTES / sizeof(float) / slot_floats(args, columns));
    if (!batches_make(cuda, args, at_once, most_slots, NULL)) return false;
    const struct cuda_batch *last = &cuda->batches[cuda->n_batches - 1];
    size_t n_tiles = (size_t)(last->first_tile + last->n_tiles),
           n_items = (size_t)(last->first_item + last->n_items);
    cuda->items_at = (n_tiles * sizeof(struct cuda_tile) + 15) / 16 * 16;
    size_t bytes = cuda->items_at + n_items * sizeof(struct cuda_item);
    if (!cuda_table_need(cuda, &cuda->tiles, bytes)) return false;
    struct cuda_tile *tiles = (struct cuda_tile *)cuda->tiles.host;
    if (!batches_make(cuda, args, at_once, most_slots, tiles)) return false;
    for (int i = 0; i < cuda->n_batches; i++)
        items_fill(&cuda->batches[i], tiles, (struct cuda_item *)(cuda->tiles.host + cuda->items_at));
    cuda->walk_columns = columns;
    cuda->table.tiles_group = group;
    return cuda_send(cuda, cuda->tiles.device.memory, tiles, bytes, "tiles");
}

void cuda_walk_attention(struct cuda_state *cuda, const struct attention_args *args,
                         const struct cuda_attention *attention)
{
    int group = args->shape->n_heads / args->shape->n_kv_heads;
    if (!tiles_make(cuda, args, group)) return;
    int most = 0;
    for (int i = 0; i < cuda->n_batches; i++)
        most = cuda->batches[i].n_slots > most ? cuda->batches[i].n_slots : most;
    size_t bytes = (size_t)most * slot_floats(args, cuda->walk_columns) * sizeof(float);
    if (!cuda_buffer_need(cuda, &cuda->partials, bytes)) return;
    struct cuda_walk walk = {.args = *attention,
                             .n_parts = (group + MOST_COLUMNS - 1) / MOST_COLUMNS,
                             .columns = cuda->walk_columns,
                             .n_stages = cuda->walk_stages,
                             .n_warps = cuda->walk_warps,
                             .n_processors = cuda->n_processors,
                             .most_shared_bytes = cuda->most_shared_bytes,
                             .partials = cuda->partials.memory};
    walk.args.tiles = cuda->tiles.device.memory;
    for (int i = 0; i < cuda->n_batches; i++) {
        const struct cuda_batch *batch = &cuda->batches[i];
        if (batch->n_items == 0) continue;
        walk.codec = batch->codec ? batch->codec->codec : NULL;
        walk.stage_bytes = batch->codec ? (int)batch->codec->walk_stage_bytes : 0;
        walk.n_basis_steps = batch->codec ? batch->codec->n_basis_steps : 0;
        walk.n_basis_halves = batch->codec ? batch->codec->n_basis_halves : 0;
        walk.exchange_bytes = batch->codec ? batch->codec->walk_exchange_bytes : 0;
        walk.place_blocks = batch->codec ? batch->codec->place_blocks : 0;
        walk.items = (const struct cuda_item *)((char *)cuda->tiles.device.memory + cuda->items_at) +
                     batch->first_item;
        walk.n_items = batch->n_items;
        walk.first_tile = batch->first_tile, walk.n_tiles = batch->n_tiles;
        walk.first_slot = batch->first_slot, walk.most_slots = batch->most_slots;
        cuda_check(cuda, cuda_walk_run(&walk, cuda->stream), "attention");
    }
}
