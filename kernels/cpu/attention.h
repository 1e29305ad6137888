#ifndef KERNELS_CPU_ATTENTION_H
#define KERNELS_CPU_ATTENTION_H

#include "kernels/cpu/cpu.h"

/* First draft of the seam with cpu.c; the attention files fill it. */

/* Scratch that one worker needs in any operation of this group, for the largest shapes of kv_page.h. */
size_t attention_scratch_bytes(void);

/* The kernels of a level; the next lower level's where one has none of its own. */
const struct attention_kernels *attention_kernels_for(enum cpu_level level);

void attention_kv_store(struct backend *backend, const struct kv_store_args *args);
void attention_kv_seal(struct backend *backend, const struct kv_seal_args *args);
void attention_kv_demote(struct backend *backend, const struct kv_shape *shape, const char *q4_block,
                         char *q2_block);
void attention_run(struct backend *backend, const struct attention_args *args);

#endif
