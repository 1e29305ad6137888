#ifndef KERNELS_CPU_ATTENTION_SEGMENT_H
#define KERNELS_CPU_ATTENTION_SEGMENT_H

#include "kernels/cpu/attention.h"
#include "kernels/cpu/span_tiles.h"

/* A worker's memory: what its tile points at, and room for the merging of segments. */
struct attention_scratch {
    struct attention_tile tile;
    struct attention_reading reading;
    struct span_cursor cursor;
    _Alignas(64) float q[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    _Alignas(64) float q_frame[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    _Alignas(64) float mixed[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    _Alignas(64) float out_half[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    _Alignas(64) float out_coded[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    _Alignas(64) float scores[ATTENTION_TILE_ROWS * KV_BLOCK_TOKENS];
    _Alignas(64) float mean_scores[ATTENTION_TILE_ROWS * KV_FRAME_TOKENS];
    _Alignas(64) float mean_factors[ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    _Alignas(64) int8_t q8[KV_MAX_PARTS][ATTENTION_TILE_ROWS * KV_MAX_HEAD_DIM];
    _Alignas(64) uint8_t w8[ATTENTION_TILE_ROWS * KV_BLOCK_TOKENS];
    _Alignas(64) uint16_t sink_keys[KV_MAX_HEAD_DIM * KV_BLOCK_TOKENS];
    _Alignas(64) uint16_t sink_values[KV_MAX_HEAD_DIM * KV_BLOCK_TOKENS];
    float merged[ATTENTION_TILE_ROWS * (2 * KV_MAX_HEAD_DIM + 3)];
    float next[ATTENTION_TILE_ROWS * (2 * KV_MAX_HEAD_DIM + 3)];
};

/* A tile of query rows and one KV head, in a worker's hands: scratch->tile holds its queries. */
struct attention_unit {
    const struct attention_kernels *kernels;
    const struct attention_args *args;
    struct attention_scratch *scratch;
    struct span_tile rows;
    int group; /* query heads per KV head */
    int kv_head;
    int own;     /* index of the rows' own block */
    int frame;   /* that the tile's queries stand in; -1: none */
    int n_parts; /* that scratch->reading and the tile's q8 are for; 0: none */
};

/* The index of the unit's layer and head among a block's pages. */
static inline size_t attention_page_index(const struct attention_unit *unit)
{
    return (size_t)unit->args->layer * unit->args->shape->n_kv_heads + (size_t)unit->kv_head;
}

/* The whole walk of one segment (kernels/cpu/attention.h), from a fresh start; leaves max, sum and outputs in
   scratch->tile. */
void attention_segment_run(struct attention_unit *unit, int segment);

#endif
