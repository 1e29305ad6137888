#ifndef KERNELS_CPU_KV_CODER_H
#define KERNELS_CPU_KV_CODER_H

#include "kernels/cpu/kv_write.h"

/*
 * The keys or the values of one page between coordinates z [head_dim][64] and the codes and scales of its
 * parts: what kernels/cpu/kv_write.h states, and the geometry of kernels/kv_codec.h.
 */
struct kv_coder {
    int n_groups, n_parts;
    int is_values;
    const float *weight; /* [n_groups], NULL: 1 */
    struct kv_coder_part {
        const uint8_t *bits;      /* [n_groups] */
        const float *unit, *gain; /* [n_groups] */
        uint8_t *codes;           /* NULL: the block does not have this part */
        uint16_t *scales;
    } parts[KV_MAX_PARTS];
};

struct kv_coder kv_coder_at(const struct kv_codec *codec, const struct kv_block_ref *block, size_t page_index,
                            int is_values);

/* Writes the parts that the block has. y [head_dim][64]: scratch. */
void kv_coder_encode(const struct kv_coder *coder, const struct kv_kernels *kernels, const float *z,
                     float *y);

/* z as a reader of parts 0..n_parts-1 understands it; the block has them. */
void kv_coder_decode(const struct kv_coder *coder, int n_parts, float *z);

#endif
