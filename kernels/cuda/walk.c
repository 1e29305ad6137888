#include "kernels/cuda/cuda.h"

#include <stdlib.h>

/*
 * The host's side of kernels/cuda/walk.cuh: the tiles of a step and their items, by codec and in lots whose
 * partial results have room, once for all layers.
 */

enum { PARTIAL_BYTES = 256 << 20, RECORD_BYTES = 256 << 20, MOST_COLUMNS = CUDA_COLUMNS };

/* Decoding with few query heads to a KV head takes half a tile, whose other half would be computed in vain.
 */
static int columns_of(const struct attention_args *args, int group)
{
    for (int i = 0; i < args->n_spans; i++)
        if (args->spans[i].n_rows > 1) return MOST_COLUMNS;
    return group <= MOST_COLUMNS / 2 ? MOST_COLUMNS / 2 : MOST_COLUMNS;
}

static struct cuda_batch *batch_begin(struct cuda_state *cuda, const struct cuda_resident *codec, int columns)
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
    if (codec) {
        batch->old_record_bytes =
            cuda_record_bytes(codec->n_basis_steps, columns / 4, codec->room.old_chunks);
        batch->all_record_bytes = cuda_record_bytes(codec->n_basis_steps, columns / 4, codec->room.chunks);
    }
    if (cuda->n_batches > 1) {
        const struct cuda_batch *last = batch - 1;
        batch->first_tile = last->first_tile + last->n_tiles;
        batch->first_item = last->first_item + last->n_items;
        batch->first_slot = last->first_slot + last->n_slots;
        batch->load = last->load;
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

/* The coded blocks of a tile: old ones before old_end, recent ones before own. */
struct reach {
    int own, old_end, frame_blocks;
    int n_old_slots, n_recent_slots;   /* segments */
    int n_old_frames, n_recent_frames; /* that have old blocks, that have recent ones */
    size_t lot_bytes;                  /* of the frames' records, of one KV head and lot of query heads */
};

static struct reach reach_of(const struct cuda_batch *batch, const struct attention_span *span, int position)
{
    struct reach out = {.own = position / KV_BLOCK_TOKENS};
    if (!batch->codec) return out;
    int blocks = 2 * batch->codec->place_blocks;
    out.frame_blocks = blocks;
    out.old_end = out.own > span->recent_blocks ? out.own - span->recent_blocks : 0;
    out.n_old_slots = (out.old_end + CUDA_WALK_SEGMENT - 1) / CUDA_WALK_SEGMENT;
    out.n_old_frames = (out.old_end + blocks - 1) / blocks;
    if (out.old_end < out.own) {
        out.n_recent_slots = (out.own - 1) / CUDA_WALK_RECENT - out.old_end / CUDA_WALK_RECENT + 1;
        out.n_recent_frames = (out.own - 1) / blocks - out.old_end / blocks + 1;
    }
    out.lot_bytes = (size_t)out.n_old_frames * (size_t)batch->old_record_bytes +
                    (size_t)out.n_recent_frames * (size_t)batch->all_record_bytes;
    return out;
}

/* How a call's rows become tiles: rows of a tile, room for its queries, and what a launch may need of partial
   results and, of one KV head and lot, of records. */
struct cut {
    int at_once, columns, most_slots;
    size_t most_record_bytes;
};

/* A batch of f16 reads one load of rotated.c. */
static struct cuda_batch *batch_of_load(struct cuda_state *cuda, int index, const struct cut *cut)
{
    struct cuda_batch *batch = &cuda->batches[cuda->n_batches - 1];
    int load = cuda->rotated.n_loads && !batch->codec ? cuda->rotated.load_of[index] : 0;
    if (load != batch->load && batch->n_slots > 0) batch = batch_begin(cuda, batch->codec, cut->columns);
    if (batch) batch->load = load;
    return batch;
}

/* The span's tiles to the last batch, which is of its codec, and further ones when that is full. tiles NULL:
   counted only. */
static bool span_cut(struct cuda_state *cuda, const struct attention_span *span, int index,
                     const struct cut *cut, struct cuda_tile *tiles)
{
    struct cuda_batch *batch = batch_of_load(cuda, index, cut);
    if (!batch) return false;
    for (int r = 0, step; r < span->n_rows; r += step) {
        step = tile_rows(span, r, cut->at_once);
        struct reach reach = reach_of(batch, span, span->first_pos + r);
        int n_slots =
            span->codec ? reach.n_old_slots + reach.n_recent_slots + 1 : reach.own / CUDA_WALK_SEGMENT + 1;
        if (batch->n_slots > 0 && (batch->n_slots + n_slots > cut->most_slots ||
                                   batch->record_bytes + reach.lot_bytes > cut->most_record_bytes)) {
            batch = batch_begin(cuda, batch->codec, cut->columns);
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
        batch->record_bytes += reach.lot_bytes;
        batch->n_slots += n_slots, batch->n_items += n_slots;
        batch->n_old_items += reach.n_old_slots;
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
static bool batches_make(struct cuda_state *cuda, const struct attention_args *args, const struct cut *cut,
                         struct cuda_tile *tiles)
{
    cuda->n_batches = 0;
    for (int i = 0; i < args->n_spans; i++) {
        if (!is_first_of_codec(args, i)) continue;
        const struct kv_codec *codec = args->spans[i].codec;
        const struct cuda_resident *resident = codec ? cuda_codec_resident(cuda, codec) : NULL;
        if ((codec && !resident) || !batch_begin(cuda, resident, cut->columns)) return false;
        for (int j = i; j < args->n_spans; j++)
            if (args->spans[j].codec == codec && !span_cut(cuda, &args->spans[j], j, cut, tiles))
                return false;
    }
    return true;
}

/* Of a tile the slot-th segment of old blocks, or of recent ones. */
static void old_item_fill(const struct cuda_batch *batch, const struct reach *reach, int slot,
                          struct cuda_item *item)
{
    item->kind = CUDA_ITEM_OLD;
    item->first = slot * CUDA_WALK_SEGMENT;
    item->end =
        item->first + CUDA_WALK_SEGMENT < reach->old_end ? item->first + CUDA_WALK_SEGMENT : reach->old_end;
    int frame = item->first / reach->frame_blocks;
    item->made_first = frame, item->made_end = (item->end - 1) / reach->frame_blocks + 1;
    item->record_at = (uint32_t)(frame * batch->old_record_bytes);
}

/* A frame's record is made on behalf of the item that has its first recent block. */
static void recent_item_fill(const struct cuda_batch *batch, const struct reach *reach, int slot,
                             struct cuda_item *item)
{
    int segment = reach->old_end / CUDA_WALK_RECENT + slot, first = segment * CUDA_WALK_RECENT;
    item->kind = CUDA_ITEM_RECENT;
    item->first = first > reach->old_end ? first : reach->old_end;
    item->end = first + CUDA_WALK_RECENT < reach->own ? first + CUDA_WALK_RECENT : reach->own;
    int blocks = reach->frame_blocks, frame = item->first / blocks;
    bool is_first = item->first == reach->old_end || item->first % blocks == 0;
    item->made_first = is_first ? frame : frame + 1, item->made_end = (item->end - 1) / blocks + 1;
    item->record_at = (uint32_t)(reach->n_old_frames * batch->old_record_bytes +
                                 (frame - reach->old_end / blocks) * batch->all_record_bytes);
}

/* Of a tile the slot-th item. records: where the tile's begin. */
static struct cuda_item item_make(const struct cuda_state *cuda, const struct cuda_batch *batch,
                                  const struct reach *reach, int index, int slot, uint64_t records)
{
    const struct cuda_tile *tile = &((const struct cuda_tile *)cuda->tiles.host)[index];
    struct cuda_item item = {.blocks = ((const struct cuda_span *)cuda->table.host)[tile->span].blocks,
                             .records = records,
                             .lot_bytes = (uint32_t)reach->lot_bytes,
                             .kind = CUDA_ITEM_NEAR,
                             .tile = index,
                             .slot = tile->first_slot - batch->first_slot + slot,
                             .first_row = tile->first_row,
                             .n_rows = tile->n_rows};
    if (!batch->codec) { /* of f16 a segment */
        item.first = slot * CUDA_WALK_SEGMENT;
        item.end = item.first + CUDA_WALK_SEGMENT < reach->own ? item.first + CUDA_WALK_SEGMENT : reach->own;
    } else if (slot < reach->n_old_slots) {
        old_item_fill(batch, reach, slot, &item);
    } else if (slot < tile->n_slots - 1) {
        recent_item_fill(batch, reach, slot - reach->n_old_slots, &item);
    }
    return item;
}

/* Old ones, recent ones, near ones. */
static void list_coded_items(const struct cuda_state *cuda, const struct attention_args *args,
                             const struct cuda_batch *batch, struct cuda_item *items)
{
    const struct cuda_tile *tiles = (const struct cuda_tile *)cuda->tiles.host;
    struct cuda_item *next[3] = {items, items + batch->n_old_items, items + batch->n_items - batch->n_tiles};
    uint64_t records = 0, lots = (uint64_t)cuda->walk_lots;
    for (int t = batch->first_tile; t < batch->first_tile + batch->n_tiles; t++) {
        struct reach reach = reach_of(batch, &args->spans[tiles[t].span], tiles[t].position);
        for (int slot = 0; slot < tiles[t].n_slots; slot++) {
            struct cuda_item item = item_make(cuda, batch, &reach, t, slot, records);
            *next[item.kind]++ = item;
        }
        records += reach.lot_bytes * lots;
    }
}

/* Of up to CUDA_HALF_TILES neighbours of one span the first segments, the second ones and so on: they read
   the same pages. */
static void list_half_items(const struct cuda_state *cuda, const struct attention_args *args,
                            struct cuda_batch *batch, struct cuda_item *items)
{
    const struct cuda_tile *tiles = (const struct cuda_tile *)cuda->tiles.host;
    int end = batch->first_tile + batch->n_tiles, after;
    for (int t = batch->first_tile; t < end; t = after) {
        int most_slots = 0;
        for (after = t; after < end && after < t + CUDA_HALF_TILES && tiles[after].span == tiles[t].span;
             after++)
            if (tiles[after].n_slots > most_slots) most_slots = tiles[after].n_slots;
        if (after > t + 1) batch->has_tiles_in_rows = true;
        for (int slot = 0; slot < most_slots; slot++)
            for (int n = t; n < after; n++) {
                struct reach reach = reach_of(batch, &args->spans[tiles[n].span], tiles[n].position);
                if (slot < tiles[n].n_slots) *items++ = item_make(cuda, batch, &reach, n, slot, 0);
            }
    }
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
    int lots = args->shape->n_kv_heads * ((group + MOST_COLUMNS - 1) / MOST_COLUMNS);
    cuda->walk_columns = columns, cuda->walk_lots = lots;
    struct cut cut = {.at_once = columns < MOST_COLUMNS || group >= MOST_COLUMNS ? 1 : MOST_COLUMNS / group,
                      .columns = columns,
                      .most_slots = (int)(PARTIAL_BYTES / sizeof(float) / slot_floats(args, columns)),
                      .most_record_bytes = RECORD_BYTES / (size_t)lots};
    if (!batches_make(cuda, args, &cut, NULL)) return false;
    const struct cuda_batch *last = &cuda->batches[cuda->n_batches - 1];
    size_t n_tiles = (size_t)(last->first_tile + last->n_tiles),
           n_items = (size_t)(last->first_item + last->n_items);
    cuda->items_at = (n_tiles * sizeof(struct cuda_tile) + 15) / 16 * 16;
    size_t bytes = cuda->items_at + n_items * sizeof(struct cuda_item);
    if (!cuda_table_need(cuda, &cuda->tiles, bytes)) return false;
    struct cuda_tile *tiles = (struct cuda_tile *)cuda->tiles.host;
    if (!batches_make(cuda, args, &cut, tiles)) return false;
    struct cuda_item *items = (struct cuda_item *)(cuda->tiles.host + cuda->items_at);
    for (int i = 0; i < cuda->n_batches; i++) {
        struct cuda_batch *batch = &cuda->batches[i];
        if (batch->codec)
            list_coded_items(cuda, args, batch, items + batch->first_item);
        else
            list_half_items(cuda, args, batch, items + batch->first_item);
    }
    cuda->table.tiles_group = group;
    return cuda_send(cuda, cuda->tiles.device.memory, tiles, bytes, "tiles");
}

/* Counters that are 0 before the first launch that uses them. */
static bool tickets_need(struct cuda_state *cuda, size_t lots)
{
    size_t bytes = CUDA_TICKETS * lots * sizeof(uint32_t);
    if (bytes <= cuda->tickets.bytes) return true;
    return cuda_buffer_need(cuda, &cuda->tickets, bytes) &&
           cuda_check(cuda, cudaMemsetAsync(cuda->tickets.memory, 0, cuda->tickets.bytes, cuda->stream),
                      "tickets");
}

void cuda_walk_attention(struct cuda_state *cuda, const struct attention_args *args,
                         const struct cuda_attention *attention)
{
    int group = args->shape->n_heads / args->shape->n_kv_heads;
    if (!tiles_make(cuda, args, group)) return;
    int most = 0, n_parts = (group + MOST_COLUMNS - 1) / MOST_COLUMNS;
    size_t records = 0, lots = (size_t)(args->shape->n_kv_heads * n_parts);
    for (int i = 0; i < cuda->n_batches; i++) {
        most = cuda->batches[i].n_slots > most ? cuda->batches[i].n_slots : most;
        records = cuda->batches[i].record_bytes > records ? cuda->batches[i].record_bytes : records;
    }
    if (!cuda_buffer_need(cuda, &cuda->records, records * lots) || !tickets_need(cuda, lots)) return;
    size_t bytes = (size_t)most * slot_floats(args, cuda->walk_columns) * sizeof(float);
    if (!cuda_buffer_need(cuda, &cuda->partials, bytes)) return;
    struct cuda_walk walk = {.args = *attention,
                             .n_parts = n_parts,
                             .columns = cuda->walk_columns,
                             .n_warps = cuda->walk_warps,
                             .n_processors = cuda->n_processors,
                             .most_shared_bytes = cuda->most_shared_bytes,
                             .partials = cuda->partials.memory,
                             .records = cuda->records.memory,
                             .tickets = cuda->tickets.memory};
    walk.args.tiles = cuda->tiles.device.memory;
    int loaded = -1;
    for (int i = 0; i < cuda->n_batches; i++) {
        const struct cuda_batch *batch = &cuda->batches[i];
        if (batch->n_items == 0) continue;
        if (!batch->codec && batch->load != loaded) {
            loaded = batch->load;
            if (!cuda_rotated_load(cuda, args->layer, loaded)) return;
        }
        walk.codec = batch->codec ? batch->codec->codec : NULL;
        walk.room = batch->codec ? batch->codec->room : (struct cuda_walk_room){0};
        walk.n_basis_steps = batch->codec ? batch->codec->n_basis_steps : 0;
        walk.n_basis_halves = batch->codec ? batch->codec->n_basis_halves : 0;
        walk.place_blocks = batch->codec ? batch->codec->place_blocks : 0;
        walk.old_record_bytes = batch->old_record_bytes, walk.record_bytes = batch->all_record_bytes;
        walk.items = (const struct cuda_item *)((char *)cuda->tiles.device.memory + cuda->items_at) +
                     batch->first_item;
        walk.n_items = batch->n_items, walk.n_old_items = batch->n_old_items;
        walk.first_tile = batch->first_tile, walk.n_tiles = batch->n_tiles;
        walk.has_tiles_in_rows = batch->has_tiles_in_rows;
        walk.first_slot = batch->first_slot, walk.most_slots = batch->most_slots;
        cuda_check(cuda, cuda_walk_run(&walk, cuda->stream), "attention");
    }
}
