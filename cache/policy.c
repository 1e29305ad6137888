#include "cache/policy.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/*
 * A sequence of n tokens has n / 64 sealed blocks and, when n is no multiple of 64, an open one. The next
 * query stands in block n / 64, so sealed block b has age n / 64 - b, from which its parts follow.
 */

int kv_format_class(const struct kv_format *format, enum kv_kind kind)
{
    if (kind < KV_PART0) return kind;
    assert(format->index >= 0 && format->index < KV_MAX_FORMATS);
    return (int)kind + format->index * KV_MAX_PARTS;
}

int kv_format_part_class(const struct kv_format *format, int part)
{
    return format->codec != NULL ? kv_format_class(format, (enum kv_kind)(KV_PART0 + part)) : KV_F16;
}

int kv_policy_class(const struct kv_policy *policy, enum kv_kind kind)
{
    return kv_format_class(policy->format, kind);
}

static size_t kind_bytes(const struct kv_policy *policy, enum kv_kind kind)
{
    const struct kv_codec *codec = policy->format->codec;
    if (kind < KV_PART0) return kv_block_bytes(kind, &policy->shape);
    int part = (int)kind - KV_PART0;
    return codec != NULL && part < codec->n_parts ? kv_codec_part_bytes(codec, part) : 0;
}

void kv_policy_classes(const struct kv_policy *policy, size_t class_bytes[KV_CLASSES])
{
    for (int kind = 0; kind < KV_KINDS; kind++) {
        size_t bytes = kv_policy_block_bytes(policy, (enum kv_kind)kind);
        if (bytes > 0) class_bytes[kv_policy_class(policy, (enum kv_kind)kind)] = bytes;
    }
}

int kv_policy_parts(const struct kv_policy *policy)
{
    const struct kv_codec *codec = policy->format->codec;
    if (codec == NULL) return 0;
    return policy->recent_blocks > 0 ? codec->n_parts : codec->n_old_parts;
}

size_t kv_policy_block_bytes(const struct kv_policy *policy, enum kv_kind kind)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (kind_bytes(policy, kind) + page - 1) / page * page;
}

static int policy_sinks(const struct kv_policy *policy)
{
    assert(policy->sink_tokens >= 0 && policy->sink_tokens <= KV_MAX_SINKS);
    return policy->format->codec == NULL ? 0 : policy->sink_tokens;
}

uint64_t kv_policy_sink_mask(const struct kv_policy *policy, int block)
{
    int n = block == 0 ? policy_sinks(policy) : 0;
    return n == 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1;
}

void kv_policy_blocks(const struct kv_policy *policy, int n_tokens, int counts[KV_KINDS])
{
    const struct kv_codec *codec = policy->format->codec;
    int sealed = n_tokens / KV_BLOCK_TOKENS;
    int recent = sealed < policy->recent_blocks ? sealed : policy->recent_blocks;

    assert(n_tokens >= 0 && policy->recent_blocks >= 0);
    memset(counts, 0, KV_KINDS * sizeof counts[0]);
    counts[KV_F16] = n_tokens % KV_BLOCK_TOKENS != 0;
    if (codec == NULL) {
        counts[KV_F16] += sealed;
        return;
    }
    for (int part = 0; part < codec->n_parts; part++)
        counts[KV_PART0 + part] = part < codec->n_old_parts ? sealed : recent;
    counts[KV_SINK] = sealed > 0 ? policy_sinks(policy) : 0;
}

static size_t blocks_bytes(const struct kv_policy *policy, const int counts[KV_KINDS])
{
    size_t bytes = 0;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        if (counts[kind] > 0)
            bytes += (size_t)counts[kind] * kv_policy_block_bytes(policy, (enum kv_kind)kind);
    }
    return bytes;
}

size_t kv_policy_held_bytes(const struct kv_policy *policy, int n_tokens)
{
    int counts[KV_KINDS];
    kv_policy_blocks(policy, n_tokens, counts);
    return blocks_bytes(policy, counts);
}

size_t kv_policy_bytes(const struct kv_policy *policy, int n_tokens)
{
    size_t bytes = kv_policy_held_bytes(policy, n_tokens);
    /* Sealing may shrink a sequence, so its fattest moment may lie just before the last block was sealed. */
    int before = n_tokens / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS - 1;
    size_t bytes_before = before > 0 ? kv_policy_held_bytes(policy, before) : 0;
    return bytes > bytes_before ? bytes : bytes_before;
}

size_t kv_policy_peak_bytes(const struct kv_policy *policy, int n_tokens, int n_new)
{
    int counts[KV_KINDS], after[KV_KINDS];
    int last = n_tokens + n_new;
    int sealed = last / KV_BLOCK_TOKENS - n_tokens / KV_BLOCK_TOKENS;

    kv_policy_blocks(policy, n_tokens, counts);
    kv_policy_blocks(policy, last, after);
    if (policy->format->codec == NULL || sealed == 0) return blocks_bytes(policy, after);
    /* Until the step ends: new parts, sinks and open block beside all that was held. */
    counts[KV_F16] += after[KV_F16];
    counts[KV_SINK] = after[KV_SINK];
    for (int part = 0; part < kv_policy_parts(policy); part++) counts[KV_PART0 + part] += sealed;
    return blocks_bytes(policy, counts);
}

static size_t step_excess(const struct kv_policy *policy, int n_tokens, int n_new)
{
    size_t peak = kv_policy_peak_bytes(policy, n_tokens, n_new);
    size_t bound = kv_policy_bytes(policy, n_tokens + n_new);
    return peak > bound ? peak - bound : 0;
}

size_t kv_policy_step_bytes(const struct kv_policy *policy, int max_batch_tokens)
{
    /* What a step adds depends on where in a block it starts, how many blocks it seals, whether it leaves one
       open, whether block 0 (with its sinks) is among them, and whether blocks become old: all such steps are
       tried. */
    int starts[] = {0, policy->recent_blocks * KV_BLOCK_TOKENS};
    size_t most = 0;

    for (size_t s = 0; s < sizeof starts / sizeof starts[0]; s++) {
        for (int offset = 0; offset < KV_BLOCK_TOKENS; offset++) {
            int edge = KV_BLOCK_TOKENS - offset;
            for (int n_new = edge; n_new <= max_batch_tokens; n_new += KV_BLOCK_TOKENS) {
                size_t closed = step_excess(policy, starts[s] + offset, n_new);
                size_t open =
                    n_new < max_batch_tokens ? step_excess(policy, starts[s] + offset, n_new + 1) : 0;
                if (closed > most) most = closed;
                if (open > most) most = open;
            }
        }
    }
    return most;
}

int64_t kv_policy_values(const struct kv_policy *policy, int n_tokens)
{
    const struct kv_shape *shape = &policy->shape;
    return (int64_t)2 * n_tokens * shape->n_layers * shape->n_kv_heads * shape->head_dim;
}

double kv_policy_bits(const struct kv_policy *policy, int n_tokens)
{
    return n_tokens > 0 ? 8.0 * (double)kv_policy_held_bytes(policy, n_tokens) /
                              (double)kv_policy_values(policy, n_tokens)
                        : 0.0;
}
