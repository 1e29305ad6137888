#ifndef KERNELS_KV_PAGE_H
#define KERNELS_KV_PAGE_H

#include "kernels/kv_mean.h"

#include <stddef.h>
#include <stdint.h>

/*
 * What a block of the KV cache looks like in memory.
 *
 * A block holds KV_BLOCK_TOKENS tokens of every layer and KV head. It has up to three kinds of memory:
 *
 *   KV_F16   keys after RoPE at the absolute position, transposed [head_dim][64], then values [64][head_dim],
 *            fp16. All blocks of format f16; the open (newest, incomplete) block of the others. The page of
 *            (layer, head) stands at (layer * n_kv_heads + head) * page_bytes.
 *   KV_PART0, KV_PART1, KV_PART2
 *            the codes of a sealed block: what its format writes (kernels/kv_codec.h). Part 0 can be read
 *            alone; each further part refines the ones before it. The newest blocks keep more parts than the
 *            old ones, so growing old is giving a part back.
 *   KV_SINK  one token: key [head_dim] after RoPE, value [head_dim], fp16.
 */
enum { KV_BLOCK_TOKENS = 64, KV_FRAME_TOKENS = 256 };
enum { KV_MAX_SINKS = 64, KV_MAX_HEAD_DIM = 256, KV_MAX_GROUP = 16 };
enum { KV_CODE_GROUP = 16, KV_MAX_CODE_GROUPS = KV_MAX_HEAD_DIM / KV_CODE_GROUP, KV_MAX_PARTS = 3 };

enum kv_kind { KV_F16, KV_SINK, KV_PART0, KV_PART1, KV_PART2, KV_KINDS };

struct kv_shape {
    int n_layers;
    int n_heads; /* query heads; a multiple of n_kv_heads, at most KV_MAX_GROUP times it */
    int n_kv_heads;
    int head_dim; /* a multiple of 16, at most KV_MAX_HEAD_DIM */
};

/* The transforms of the coded formats for the whole model: data, so that calibration fills them.
   Until then: mean 0, transform = normalised Hadamard (Sylvester order, head_dim a power of two; otherwise
   blocks of the largest power of two that divides it). All arrays are fp32, owned by whoever made the struct.
 */
struct kv_tables {
    int frame_tokens;      /* F, a multiple of KV_BLOCK_TOKENS; 256 */
    int n_frames;          /* frames that frame_cos/sin cover */
    const float *key_mean; /* [layers][kv_heads][head_dim] before RoPE, or NULL for zero */
    /* [layers][kv_heads][head_dim][head_dim]: A, row by row: x = A (k_frame - RoPE_o(mean)) */
    const float *key_transform;
    /* [layers][kv_heads][head_dim][head_dim]: A^-1, row by row: q'_j = sum_i q_frame_i (A^-1)_ij, so that
       <q', x> = <q_frame, A^-1 x> */
    const float *query_transform;
    const float *value_mean;      /* [layers][kv_heads][head_dim], or NULL for zero */
    const float *value_transform; /* [head_dim][head_dim]: H, orthogonal: v' = H (v - mean); output: H^T */
    const float *rope_cos;        /* [head_dim/2][frame_tokens]: angles of offsets 0..F-1 */
    const float *rope_sin;
    const float *frame_cos; /* [n_frames][head_dim/2]: angles of f * F, computed in double */
    const float *frame_sin;
    struct kv_mean_basis mean_basis; /* of the same angles */
    /* True while every transform is the plain normalised Hadamard of a power of two and the means are zero:
       kernels may then use the fast transform, whose results the reference defines (butterflies in order of
       stride 1, 2, 4..., then one multiplication by 1/sqrt(head_dim)). The three transforms are then NULL:
       megabytes that nobody would read. */
    int is_hadamard;
};

/* Bytes of the page of one layer and head (of KV_SINK: of one token), and of all layers and heads. KV_F16 and
   KV_SINK only; parts: kv_codec_part_bytes. */
size_t kv_page_bytes(enum kv_kind kind, int head_dim);
size_t kv_block_bytes(enum kv_kind kind, const struct kv_shape *shape);

/* A block of one sequence as the kernels see it: addresses of layer 0, NULL where it has no such part.
   f16_layer_stride is n_kv_heads * page_bytes, except for f16 parts that live in per-step staging (0). */
struct kv_block_ref {
    char *f16;
    size_t f16_layer_stride;
    char *parts[KV_MAX_PARTS];
    uint64_t sink_mask; /* bit t: token t of this block is a sink; the coded pass skips it */
    char *const *sinks; /* one KV_SINK slot per set bit, lowest first */
};

/* The tables' identity setting for a model: allocated once, freed by kv_tables_free. inv_freq [head_dim/2]:
   the model's RoPE frequencies in double; n_frames covers the longest context. NULL when memory is short. */
struct kv_tables *kv_tables_identity(const struct kv_shape *shape, int frame_tokens, int n_frames,
                                     const double *inv_freq);
void kv_tables_free(struct kv_tables *tables);

/* For whoever makes tables: their angles, in memory of kv_angles_count floats that lives as long as they do.
 */
size_t kv_angles_count(int head_dim, int frame_tokens, int n_frames);
void kv_angles_fill(struct kv_tables *tables, int head_dim, int frame_tokens, int n_frames,
                    const double *inv_freq, float *memory);
/* The normalised Hadamard matrix [head_dim][head_dim]: Sylvester matrices of the largest power of two that
   divides head_dim along the diagonal. */
void kv_hadamard_fill(float *matrix, int head_dim);

#endif
