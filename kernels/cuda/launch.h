#ifndef KERNELS_CUDA_LAUNCH_H
#define KERNELS_CUDA_LAUNCH_H

/*
 * What the host code in C17 and the kernels in .cu share: structs that lie in the card's memory as they stand
 * here, and the launchers. A launcher enqueues on the stream and returns cudaSuccess or what the launch said.
 * Every pointer below is into the card's memory.
 */
#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define CUDA_BOTH __host__ __device__
#else
#define CUDA_BOTH
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { CUDA_TOKENS = 64, CUDA_GROUP = 16, CUDA_MAX_GROUPS = 16, CUDA_MAX_PARTS = 3, CUDA_MAX_DIM = 256 };
enum { CUDA_COLUMNS = 8 }; /* most queries of a tile; more heads of one KV head come in lots of as many */
enum { CUDA_CODE_BYTES = 2 * CUDA_MAX_GROUPS }; /* struct kv_code: bits of keys, then of values */

/* struct kv_block_ref. */
struct cuda_block {
    char *f16;
    uint64_t f16_layer_stride;
    char *parts[CUDA_MAX_PARTS];
    uint64_t sink_mask;
    char *const *sinks;
};

struct cuda_part {
    const uint8_t *codes;                                       /* [n_pages][CUDA_CODE_BYTES] */
    const uint64_t *offset;                                     /* [n_pages + 1] */
    const float *key_unit, *value_unit, *key_gain, *value_gain; /* [n_pages][n_groups] */
};

/* What a walk's shared memory has of a page, or the most of any page of a codec. */
struct cuda_walk_room {
    int old_chunks, chunks; /* of 4 words of a row of keys, of the parts of old blocks, of recent ones */
    int old_bytes;          /* of a page as old blocks are read */
    int recent_bytes;       /* of a recent block's keys, or of its values, and scales */
    int kinds;              /* of values' bits: low and high ones; 3: also those of plain codes */
};

/* What the pages of a layer and head have in common for the walks (walk_page.c). Sets: 0 is what old blocks
   are read with, 1 recent ones. */
#define CUDA_WALK_PLAIN                                                                                      \
    14.0F /* weights of plain codes are multiplied with it, so that they too use 16 bits */
struct __attribute__((aligned(16))) cuda_walk_page { /* it is copied 16 bytes at a time */
    /* Level to x, by part and group, 8 in it at 1 bit. */
    float key_factor[2][CUDA_MAX_PARTS][CUDA_MAX_GROUPS];
    /* Of a sum to value_base, which is what part 0 has in set 0; 2 / CUDA_WALK_PLAIN in it for plain codes.
     */
    float value_factor[2][CUDA_MAX_PARTS][CUDA_MAX_GROUPS], value_base[CUDA_MAX_GROUPS];
    float key_bound[2][CUDA_MAX_GROUPS]; /* what |x| of a group makes at most in factors */
    int value_bits[CUDA_MAX_PARTS][CUDA_MAX_GROUPS];
    int n_chunks[CUDA_MAX_PARTS];        /* of 4 words of a row of keys */
    int n_nibble_chunks[CUDA_MAX_PARTS]; /* the first ones, all of 4 bits */
    int first_chunk[CUDA_MAX_PARTS];     /* of the parts in a record */
    int key_ends[CUDA_MAX_PARTS][3];     /* groups that have 4 bits; 2 or more; any */
    int is_ragged[CUDA_MAX_PARTS];       /* the last chunk is not full */
    int is_trellis[CUDA_MAX_PARTS];      /* all values have 2 bits */
    int row_bytes[CUDA_MAX_PARTS], key_bytes[CUDA_MAX_PARTS], page_bytes[CUDA_MAX_PARTS];
    uint64_t offset[CUDA_MAX_PARTS];
    int n_parts[2];
    int all_key_bytes, all_value_bytes; /* codes of all parts */
    int is_plain_old;                   /* old blocks have one part, and all its values a trellis */
    int has_plain;                      /* values of other than 2 bits, in any part */
    struct cuda_walk_room room;
};

struct cuda_codec {
    int n_groups, n_parts, n_old_parts;
    int head_dim, n_kv_heads;
    struct cuda_part parts[CUDA_MAX_PARTS];
    const float *key_weight; /* [n_pages][n_groups] */
    /* struct kv_tables. is_hadamard: the sealing uses the fast transform; query_transform and value_transform
       are there all the same (then one matrix for all pages). */
    int frame_tokens, is_hadamard;
    const float *key_mean, *value_mean; /* NULL: zero */
    const float *key_transform, *query_transform, *value_transform;
    uint64_t query_transform_stride;    /* floats from page to page */
    const float *rope_cos, *rope_sin;   /* [head_dim/2][frame_tokens] */
    const float *frame_cos, *frame_sin; /* [n_frames][head_dim/2] */
    const float *mean_turned;           /* [n_pages][head_dim]: the keys' mean at the frame's centre */
    /* query_transform transposed, fp16, as mma.m16n8k16 takes it: [page][row tile][k][lane] 16 bytes */
    const uint16_t *query_tiles;    /* divided by the page's largest entry, so a Hadamard matrix is exact */
    const float *query_tiles_scale; /* [n_pages], or one when the stride is 0: what they were divided by */
    uint64_t query_tiles_stride;    /* 16-byte units from page to page; 0: one matrix for all */
    const struct cuda_walk_page *walk_pages; /* [n_pages] */
    /* For the kernels of walk.cuh. values_hadamard: the values' transform is the Hadamard matrix.
       n_basis_steps: k-steps of 16 of the mean's functions, 8 even ones and 8 odd ones each, the slow pairs'
       terms and then the fast pairs in their order; 0: there is no mean. mean_tiles [page][2][D/16][32 lanes]
       16 bytes: from queries to terms, fp16 values and what they leave, divided by 64. basis_tiles
       [n_basis_halves][step][frame_tokens / 128][4][32 lanes] 16 bytes: the functions by place from the
       centre, times 64, in fp16; where means are large, also what that leaves. */
    int values_hadamard, n_basis_steps;
    const uint16_t *mean_tiles, *basis_tiles;
    int n_fast, n_terms; /* struct kv_mean_basis */
    const float *centre_cos, *centre_sin, *even, *odd, *even_terms, *odd_terms;
};

/* struct attention_span. */
struct cuda_span {
    int first_row, n_rows, first_pos, recent_blocks;
    int sink_blocks; /* no later block has sinks */
    const struct cuda_block *blocks;
    const struct cuda_codec *codec; /* NULL: f16 */
};

/* A row of the batch; span -1: not in this call. */
struct cuda_row {
    int span, position;
};

/* Rows of one span that stand in one block. */
struct cuda_tile {
    int span, first_row, n_rows, position; /* first_row: of the batch */
    int first_slot, n_slots;               /* walk.cuh: where its partial results stand */
};

/* walk.cuh: a piece of a tile, and all that a warp must know of it. */
enum { CUDA_ITEM_OLD, CUDA_ITEM_RECENT, CUDA_ITEM_NEAR }; /* NEAR: sinks and own block; of f16 any */
struct cuda_item {
    const struct cuda_block *blocks; /* of the span */
    uint64_t records; /* of the tile, of all KV heads and lots: where they begin in the batch's */
    uint32_t lot_bytes,
        record_at;        /* from one's to the next one's; there that of the frame of block `first` */
    int kind, tile, slot; /* slot: of the batch */
    int first_row, n_rows;
    int first, end;           /* blocks, the own one not */
    int made_first, made_end; /* frames whose records are made on its behalf */
    int padding;              /* to 64 bytes */
};

/* ---- rows.cu ---- */
cudaError_t cuda_gather_run(const uint16_t *weight, int n, const int32_t *tokens, int n_tokens, float *out,
                            cudaStream_t stream);
cudaError_t cuda_rmsnorm_run(const float *x, const float *gain, float eps, int n_rows, int n, float *out,
                             cudaStream_t stream);
/* half[row] = x[row] / scale[row], scale a power of two that keeps every row within fp16. */
cudaError_t cuda_prepare_run(const float *x, int n_rows, int n, uint16_t *half, float *scale,
                             cudaStream_t stream);
cudaError_t cuda_rope_run(float *x, int n_rows, int n_heads, int head_dim, const float *cosines,
                          const float *sines, cudaStream_t stream);
cudaError_t cuda_swiglu_run(const float *gate, const float *up, size_t n, float *out, cudaStream_t stream);
cudaError_t cuda_add_run(float *x, const float *y, size_t n, cudaStream_t stream);

/* ---- kv_write.cu ---- */
struct cuda_store {
    int layer, n_kv_heads, head_dim, n_rows;
    const struct cuda_span *spans;
    const struct cuda_row *rows;
    const float *k, *v;
};
cudaError_t cuda_store_run(const struct cuda_store *store, cudaStream_t stream);

struct cuda_seal {
    const struct cuda_codec *codec;
    int layer, n_blocks, n_kv_heads, head_dim;
    const struct cuda_block *blocks;
    const int32_t *block_index;
};
cudaError_t cuda_seal_run(const struct cuda_seal *seal, cudaStream_t stream);
cudaError_t cuda_unseal_run(const struct cuda_seal *seal, int n_parts, cudaStream_t stream);

/* ---- attention*.cu ---- */
struct cuda_attention {
    int layer, n_heads, n_kv_heads, head_dim, n_rows;
    float scale; /* times log2 e */
    const struct cuda_span *spans;
    const struct cuda_row *rows;
    const struct cuda_tile *tiles;
    const float *q;
    float *out;
};
/* Readable and slow; any head_dim. What the other one is compared with. */
cudaError_t cuda_attention_plain_run(const struct cuda_attention *args, cudaStream_t stream);

/* On tensor cores (walk.cuh); head_dim 64, 96, 128, 256: tiles of one codec, or of format f16. columns: room
   for queries in a tile, 4 or 8; query heads of a KV head come in n_parts lots of 8. */
enum {
    CUDA_WALK_SEGMENT = 8,
    CUDA_WALK_RECENT = 4,
    CUDA_WALK_FACTORS = 512
}; /* blocks; bytes of a kind of values' factors */
/* A record (walk.cuh) of chunks of keys' factors, for so many units of 4 queries; from CUDA_WALK_COEFS on the
   coefficients of the mean. */
enum { CUDA_WALK_COEFS = 128 };
CUDA_BOTH static inline int cuda_record_bytes(int n_basis_steps, int units, int chunks)
{
    return CUDA_WALK_COEFS + units * (n_basis_steps * 256 + chunks * 1024);
}

enum { CUDA_TICKETS = 4, CUDA_HALF_TILES = 8 };
struct cuda_walk {
    struct cuda_attention args;
    const struct cuda_codec *codec; /* NULL: f16 */
    const struct cuda_item *items;  /* [n_items]; all slots of tiles first_tile .. first_tile + n_tiles - 1;
                                       coded: old  segments first, n_old_items of them */
    int n_items, n_old_items, first_tile, n_tiles, first_slot, most_slots;
    int has_tiles_in_rows; /* of one span, of f16: items in the order of list_half_items (walk.c) */
    int n_parts, columns;
    int n_warps;                                     /* of a thread block at most */
    int n_basis_steps, n_basis_halves, place_blocks; /* of the codec; blocks in half a frame */
    struct cuda_walk_room room;                      /* of the codec */
    int n_processors, most_shared_bytes;
    float *partials; /* [slot - first_slot][KV head][part][columns][4 + head_dim] */
    /* Records of frames (walk.cuh): of a tile those of frames with old blocks, of old_record_bytes, then
       those of frames with recent ones, of record_bytes; [tile][KV head][part]. */
    char *records;
    int old_record_bytes, record_bytes;
    /* [KV head][part][CUDA_TICKETS]: items that have been handed out (walk_page.cuh). 0 before the first
       launch; each launch leaves those of the next one at 0. */
    uint32_t *tickets;
};
cudaError_t cuda_walk_run(const struct cuda_walk *walk, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
