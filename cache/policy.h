#ifndef CACHE_POLICY_H
#define CACHE_POLICY_H

#include "cache/format.h"
#include "kernels/kv_page.h"

/*
 * A cache format as arithmetic: which blocks a sequence of n tokens holds, and how many bytes that is.
 * Admission, the "N sequences of M tokens fit" line, /metrics and 400 replies all use these functions, so
 * they cannot disagree with what the pool really hands out.
 *
 * Counts are by enum kv_kind. To the pool a kind of one format is a class: fp16 blocks and sinks are the same
 * for all formats, a part has the size that its format gives it.
 */
enum { KV_CLASSES = KV_PART0 + KV_MAX_FORMATS * KV_MAX_PARTS };

struct kv_policy {
    struct kv_shape shape;
    const struct kv_format *format;
    int recent_blocks; /* the newest sealed blocks keep all parts of the format, older ones n_old_parts;
                          ignored by f16 */
    int sink_tokens;   /* tokens 0..sink_tokens-1 also stand in KV_SINK slots once block 0 is sealed; not for
                          f16; at most KV_MAX_SINKS */
};

/* The pool's class of a kind of a format, below KV_CLASSES. */
int kv_format_class(const struct kv_format *format, enum kv_kind kind);
int kv_policy_class(const struct kv_policy *policy, enum kv_kind kind);
/* The class of part `part` of a full block; of format f16 its page counts as part 0. */
int kv_format_part_class(const struct kv_format *format, int part);
/* Sets the block bytes of the classes that the policy needs, for kv_pool_create; the others stay as they are.
 */
void kv_policy_classes(const struct kv_policy *policy, size_t class_bytes[KV_CLASSES]);
/* Parts that a sealed block is written with: all of them when some reader will want them all. 0 for f16. */
int kv_policy_parts(const struct kv_policy *policy);
/* Bytes one block of this kind counts for: its own rounded up to the system's page; 0 for a part that the
   format does not have. */
size_t kv_policy_block_bytes(const struct kv_policy *policy, enum kv_kind kind);
/* Which tokens of a block are sinks, as kv_block_ref.sink_mask has it once the block is sealed. */
uint64_t kv_policy_sink_mask(const struct kv_policy *policy, int block);

/* Blocks of each kind that a sequence of n_tokens holds between two steps. */
void kv_policy_blocks(const struct kv_policy *policy, int n_tokens, int counts[KV_KINDS]);
/* The bytes of those blocks. */
size_t kv_policy_held_bytes(const struct kv_policy *policy, int n_tokens);
/* The most bytes a sequence holds between two steps at any length up to n_tokens. */
size_t kv_policy_bytes(const struct kv_policy *policy, int n_tokens);
/* The most bytes a sequence holds at any moment of a step that takes it from n_tokens to n_tokens + n_new:
   until the step's end a sealed block stands beside its fp16 form, and blocks that grow old keep all parts.
 */
size_t kv_policy_peak_bytes(const struct kv_policy *policy, int n_tokens, int n_new);
/* The most by which a step of up to max_batch_tokens tokens of ONE sequence passes kv_policy_bytes of the
   length it reaches. Whoever keeps this much free beside the sum of kv_policy_bytes can always run a step of
   some sequence; steps of several sequences are planned with kv_policy_peak_bytes. */
size_t kv_policy_step_bytes(const struct kv_policy *policy, int max_batch_tokens);
/* Cached keys and values of n_tokens: tokens * layers * kv_heads * head_dim * 2. */
int64_t kv_policy_values(const struct kv_policy *policy, int n_tokens);
/* Bits per cached value all-in: 8 * bytes / values. */
double kv_policy_bits(const struct kv_policy *policy, int n_tokens);

#endif
