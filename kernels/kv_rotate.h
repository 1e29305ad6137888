#ifndef KERNELS_KV_ROTATE_H
#define KERNELS_KV_ROTATE_H

#include "kernels/kv_codec.h"

/*
 * The format `rotatekv`: RotateKV's quantizer as published (arXiv 2501.16383), the baseline that octavo's own
 * formats are compared with. Readable and correct before fast.
 *
 * Keys, before RoPE. The channels of all KV heads of a layer stand side by side, C = n_kv_heads * head_dim,
 * are multiplied by a Hadamard matrix over all heads ("grouped-head rotation"), and sorted by the channels'
 * rotated means, so that a group holds channels of similar size. Values: a Hadamard matrix over each head,
 * not sorted. Then per token, in groups of 128 sorted channels (keys; 64 or less when C is no multiple), or
 * of a head (values), asymmetric 2-bit codes between the group's extremes, both clipped to .8 of themselves:
 *
 *   lo = .8 min x,  hi = .8 max x,  s = max(hi - lo, 1e-8) / 3,  z = rint(-lo / s)
 *   code = clamp(rint(x / s) + z, 0, 3),   x^ = s (code - z)
 *
 * The zero point is an integer of any size, as published: it is no code. Stored: s as fp16, z as int16 (both
 * saturate); codes come from the fp32 s.
 *
 * Where we differ from the paper, and why: a matrix over all heads needs their number to be a power of two,
 * otherwise each head is rotated for itself; order comes from the means in the calibration's file, which are
 * attention-weighted where the paper's are plain; and which tokens stay in fp16 is for the cache to say (the
 * first sink_tokens, where the paper takes the 20 tokens of the whole prompt with the largest activations,
 * which no server can know when it writes the first page).
 *
 * A part's bytes of one layer, all rows of 64 tokens:
 *
 *   key codes [C / 4][64]    byte: channels 4 i .. 4 i + 3 in sorted order, two bits each, the first lowest
 *   key scales [groups][64], key zeros [groups][64]
 *   value codes [C / 4][64], value scales [n_kv_heads][64], value zeros [n_kv_heads][64]
 */
struct kv_rotate {
    int n_channels, key_group;
    int key_hadamard, value_hadamard; /* sizes of the matrices along the channels */
    const int32_t *key_order;         /* [layers][n_channels]: the channel at each place of the order */
    size_t layer_bytes;
    /* Scratch of who reads and writes, one thread of control at a time: KV_ROTATE_LANES matrices [n_channels]
       [64]; a sequence's blocks of one layer in f16, [max_blocks][n_kv_heads][page], and their references. */
    float *lanes;
    char *f16;
    struct kv_block_ref *refs;
    int max_blocks;
};

enum { KV_ROTATE_LANES = 16 };

/* A codec of one part whose `rotate` is set, for kv_codec_free. tables: outlive it (angles only are used);
   their n_frames says how long a sequence can be. key_mean [layers][kv_heads][head_dim] before RoPE, used
   during the call; NULL: channels stay in order. ERR_MEMORY. */
enum err kv_rotate_codec_create(const struct kv_shape *shape, const struct kv_tables *tables,
                                const float *key_mean, struct kv_codec **out, struct err_info *info);
void kv_rotate_free(struct kv_rotate *rotate);

/* One layer of one block. x [n_channels][64]: keys after RoPE at their absolute positions, 64 * block_index
   and on, or values. layer_codes: where the layer's bytes stand. x is overwritten. */
void kv_rotate_encode_keys(const struct kv_codec *codec, int layer, int block_index, float *x,
                           char *layer_codes);
void kv_rotate_encode_values(const struct kv_codec *codec, float *x, char *layer_codes);
/* And back. */
void kv_rotate_decode_keys(const struct kv_codec *codec, int layer, int block_index, const char *layer_codes,
                           float *x);
void kv_rotate_decode_values(const struct kv_codec *codec, const char *layer_codes, float *x);

#endif
