#ifndef KERNELS_CPU_KV_ROTATED_H
#define KERNELS_CPU_KV_ROTATED_H

#include "kernels/backend.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/kv_write.h"

/*
 * The backend's operations on blocks of format rotatekv (kernels/kv_rotate.h). Attention turns the sealed
 * blocks of a sequence back into f16 pages in the codec's scratch, a layer at a time, and attends to those:
 * every query pays for it, which a baseline may.
 */

/* All blocks' codec has `rotate`. */
void kv_rotated_seal(struct workers *workers, const struct kv_kernels *kernels,
                     const struct kv_seal_args *args);
void kv_rotated_unseal(struct workers *workers, const struct kv_kernels *kernels,
                       const struct kv_seal_args *args);

/* attention_run for spans of any codec; those with `rotate` are treated as above. */
void kv_rotated_attention(struct workers *workers, const struct kv_kernels *kernels,
                          struct attention *attention, const struct attention_args *args);

#endif
