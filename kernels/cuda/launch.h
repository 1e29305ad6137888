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

/* walk.cuh: a piece of a tile. slot: of the tile; the last one has sinks and the own block, or the own
   block's segment when all blocks are f16. */
struct cuda_item {
    int tile, slot;
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
enum { CUDA_WALK_SEGMENT = 16, CUDA_WALK_FACTORS = 512 }; /* blocks; bytes of a kind of values' factors */
struct cuda_walk {
    struct cuda_attention args;
    const struct cuda_codec *codec; /* NULL: f16 */
    const struct cuda_item *items;  /* [n_items]; all slots of tiles first_tile .. first_tile + n_tiles - 1 */
    int n_items, first_tile, n_tiles, first_slot, most_slots;
    int n_parts, columns;
    int stage_bytes, n_stages, n_warps; /* of the largest page as old blocks are read, at least half a recent
                                           one; 2 or 3; warps of a thread block at most */
    int n_basis_steps, n_basis_halves, place_blocks; /* of the codec; blocks in half a frame */
    int exchange_bytes; /* of the codec: CUDA_WALK_FACTORS for low bits of values, for high ones and, if there
                           are any, for plain codes */
    int n_processors, most_shared_bytes;
    float *partials; /* [slot - first_slot][KV head][part][columns][4 + head_dim] */
};
cudaError_t cuda_walk_run(const struct cuda_walk *walk, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
