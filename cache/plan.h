#ifndef CACHE_PLAN_H
#define CACHE_PLAN_H

#include "cache/calibration.h"
#include "kernels/kv_codec.h"

/*
 * Where the bits go: from the bits a value may cost on average to the bits of every group of channels, in
 * every part, layer and head (design 2.2 item 2). Bits are counted in halves: 4 means 2 bits.
 *
 *   asked   old blocks, always read      recent blocks besides
 *   1.5     part 0                       2 in part 1
 *   2       part 0                       2 in part 1
 *   2.5, 3  parts 0 and 1 together       as many as make 4, in part 2
 *   4, 8    parts 0 and 1 together       nothing
 *
 * When one of keys and values needs two old parts and the other one, the other has 0 bits in the second.
 */
struct kv_plan {
    int n_parts, n_old_parts;
    struct kv_code *codes[KV_MAX_PARTS]; /* [layers * kv_heads] each; owned by the plan */
};

/* key_half_bits, value_half_bits: 3, 4, 5, 6, 8 or 16. calibration NULL: all channels alike. An average that
   whole groups cannot meet is rounded up. ERR_MEMORY. */
enum err kv_plan_make(const struct kv_shape *shape, const struct calibration *calibration, int key_half_bits,
                      int value_half_bits, struct kv_plan *out, struct err_info *info);
void kv_plan_free(struct kv_plan *plan);

#endif
