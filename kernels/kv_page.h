#ifndef KERNELS_KV_PAGE_H
#define KERNELS_KV_PAGE_H

#include <stddef.h>
#include <stdint.h>

/*
 * What a block of the KV cache looks like in memory.
 *
 * A block holds KV_BLOCK_TOKENS tokens of every layer and KV head. Inside, the page of (layer, head) stands
 * at (layer * n_kv_heads + head) * page_bytes. There are four kinds:
 *
 *   KV_F16   keys after RoPE at the absolute position, transposed [head_dim][64], then values [64][head_dim],
 * fp16. All blocks of format f16; the open (newest, incomplete) block of the others. KV_Q4    4-bit codes of
 * keys and values, four fp16 scales per token: key4, value4, key2, value2. The recent blocks of o2. Its 2-bit
 * codes need no room of their own: the grids are nested (below), so a 4-bit code tells the 2-bit code,
 * exactly; only the 2-bit scales are stored beside. KV_O4    as KV_Q4 without the 2-bit scales: the sealed
 * blocks of o4. KV_Q2    2-bit codes, two fp16 scales per token: the old blocks of o2. KV_SINK  one token:
 * key [head_dim] after RoPE, value [head_dim], fp16.
 *
 * Code geometry. A page's codes are two small matrices of u-bit unsigned integers, laid out as the integer
 * dot product wants them, in tiles of 8 rows x 4 columns = 32 codes, one code a byte when expanded (row
 * major: byte 4*row + column): keys:   rows = tokens (8 tiles of 8), columns = channels (head_dim/4 quads)
 *   values: rows = channels (head_dim/8 tiles of 8), columns = tokens (16 quads)
 * Packed, 32 bytes hold two quads (4 bits: low nibble quad 2j, high nibble quad 2j+1) or four (2 bits: quad
 * 4j+i at bits 2i..2i+1). Order: [row tile][packed column group][32 bytes]. A page is: key codes, value
 * codes, scales (each scale array is fp16 [64], in the order named above).
 *
 * Grids. Mid-rise, no zero point: level = code - (2^b - 1)/2. With r = RMS of the transformed vector, code =
 * clamp(floor(x / (r * step_b)) + 2^(b-1), 0, 2^b - 1), step_4 = .3352 and step_2 = 3 * step_4 = 1.0056:
 * design 2.2 has .9957, whose distortion is the same to 1e-4, and with a factor of exactly 3 the 2-bit cell
 * boundaries are 4-bit cell boundaries: code2 = (code4 >= 5) + (code4 >= 8) + (code4 >= 11).
 */
enum { KV_BLOCK_TOKENS = 64 };
enum { KV_MAX_SINKS = 64, KV_MAX_HEAD_DIM = 256, KV_MAX_GROUP = 16 };

enum kv_kind { KV_F16, KV_Q4, KV_O4, KV_Q2, KV_SINK, KV_KINDS };

struct kv_shape {
    int n_layers;
    int n_heads; /* query heads; a multiple of n_kv_heads, at most KV_MAX_GROUP times it */
    int n_kv_heads;
    int head_dim; /* a multiple of 16, at most KV_MAX_HEAD_DIM */
};

/* The quantizer's tables for the whole model: data, so that calibration fills them and nothing else changes.
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
    /* True while every transform is the plain normalised Hadamard of a power of two and the means are zero:
       kernels may then use the fast transform, whose results the reference defines (butterflies in order of
       stride 1, 2, 4..., then one multiplication by 1/sqrt(head_dim)). The three transforms are then NULL:
       megabytes that nobody would read. */
    int is_hadamard;
};

/* Bytes of the page of one layer and head (for KV_SINK: of one token), and of a whole block (all layers and
 * heads). */
size_t kv_page_bytes(enum kv_kind kind, int head_dim);
size_t kv_block_bytes(enum kv_kind kind, const struct kv_shape *shape);

/* A block of one sequence as the kernels see it: up to three addresses, of layer 0, NULL where it has no such
   part. Page of (layer, head): address + layer * layer_stride + head * page_bytes; layer_stride is n_kv_heads
   * page_bytes except for f16 parts that live in per-step staging (f16_layer_stride = 0). */
struct kv_block_ref {
    char *f16;
    size_t f16_layer_stride;
    char *coded; /* KV_Q4, KV_O4 or KV_Q2, as `coded_kind` says */
    enum kv_kind coded_kind;
    uint64_t sink_mask; /* bit t: token t of this block is a sink; the coded pass skips it */
    char *const *sinks; /* one KV_SINK slot per set bit, lowest first */
};

/* The tables' identity setting for a model: allocated once, freed by kv_tables_free. inv_freq [head_dim/2]:
   the model's RoPE frequencies in double; n_frames covers the longest context. NULL when memory is short. */
struct kv_tables *kv_tables_identity(const struct kv_shape *shape, int frame_tokens, int n_frames,
                                     const double *inv_freq);
void kv_tables_free(struct kv_tables *tables);

#endif
