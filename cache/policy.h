#ifndef CACHE_POLICY_H
#define CACHE_POLICY_H

#include "config/err.h"
#include "kernels/kv_page.h"

/*
 * A cache format as arithmetic: which kinds of block a sequence of n tokens holds, and how many bytes that
 * is. Admission, the "N sequences of M tokens fit" line, /metrics and 400 replies all use these functions, so
 * they cannot disagree with what the pool really hands out.
 */
enum kv_format { KV_FORMAT_F16, KV_FORMAT_O4, KV_FORMAT_O2, KV_FORMATS };

struct kv_policy {
    struct kv_shape shape;
    enum kv_format format;
    int recent_blocks; /* o2: blocks of age 1..recent_blocks are KV_Q4, older ones KV_Q2; ignored by f16 and
                          o4 */
    int sink_tokens;   /* tokens 0..sink_tokens-1 also stand in KV_SINK slots once block 0 is sealed; not for
                          f16; at most KV_MAX_SINKS */
};

const char *kv_format_name(enum kv_format format);
/* ERR_USAGE with the known names for an unknown one. */
enum err kv_format_parse(const char *name, enum kv_format *out, struct err_info *info);

/* Bytes one block of this kind counts for: kv_block_bytes rounded up to the system's page. */
size_t kv_policy_block_bytes(const struct kv_shape *shape, enum kv_kind kind);
/* Which tokens of a block are sinks, as kv_block_ref.sink_mask has it once the block is sealed. */
uint64_t kv_policy_sink_mask(const struct kv_policy *policy, int block);

/* Blocks of each kind that a sequence of n_tokens holds between two steps. */
void kv_policy_blocks(const struct kv_policy *policy, int n_tokens, int counts[KV_KINDS]);
/* The bytes of those blocks. */
size_t kv_policy_held_bytes(const struct kv_policy *policy, int n_tokens);
/* The most bytes a sequence holds between two steps at any length up to n_tokens. */
size_t kv_policy_bytes(const struct kv_policy *policy, int n_tokens);
/* The most bytes a sequence holds at any moment of a step that takes it from n_tokens to n_tokens + n_new:
   until the step's end a sealed block stands beside its f16 part, and 4-bit blocks beside the 2-bit ones that
   replace them. */
size_t kv_policy_peak_bytes(const struct kv_policy *policy, int n_tokens, int n_new);
/* The most by which a step of up to max_batch_tokens tokens of ONE sequence passes kv_policy_bytes of the
   length it reaches. Whoever keeps this much free beside the sum of kv_policy_bytes can always run a step of
   some sequence; steps of several sequences are planned with kv_policy_peak_bytes. */
size_t kv_policy_step_bytes(const struct kv_policy *policy, int max_batch_tokens);
/* Bits per cached value all-in: 8 * bytes / (n_tokens * layers * kv_heads * head_dim * 2). */
double kv_policy_bits(const struct kv_policy *policy, int n_tokens);

#endif
