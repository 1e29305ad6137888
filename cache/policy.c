#include "cache/policy.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/*
 * A sequence of n tokens has n / 64 sealed blocks and, when n is no multiple of 64, an open one. The next
 * query stands in block n / 64, so sealed block b has age n / 64 - b, from which its kind follows.
 */

static const char *const names[KV_FORMATS] = {"f16", "o4", "o2"};

const char *kv_format_name(enum kv_format format)
{
    assert(format >= 0 && format < KV_FORMATS);
    return names[format];
}

enum err kv_format_parse(const char *name, enum kv_format *out, struct err_info *info)
{
    for (int format = 0; format < KV_FORMATS; format++) {
        if (strcmp(name, names[format]) == 0) {
            *out = (enum kv_format)format;
            return ERR_OK;
        }
    }
    return err_set(info, ERR_USAGE, "unknown KV cache format '%.40s'; known are f16, o4 and o2", name);
}

size_t kv_policy_block_bytes(const struct kv_shape *shape, enum kv_kind kind)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (kv_block_bytes(kind, shape) + page - 1) / page * page;
}

static int policy_sinks(const struct kv_policy *policy)
{
    assert(policy->sink_tokens >= 0 && policy->sink_tokens <= KV_MAX_SINKS);
    return policy->format == KV_FORMAT_F16 ? 0 : policy->sink_tokens;
}

uint64_t kv_policy_sink_mask(const struct kv_policy *policy, int block)
{
    int n = block == 0 ? policy_sinks(policy) : 0;
    return n == 64 ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1;
}

void kv_policy_blocks(const struct kv_policy *policy, int n_tokens, int counts[KV_KINDS])
{
    int sealed = n_tokens / KV_BLOCK_TOKENS;
    int open = n_tokens % KV_BLOCK_TOKENS != 0;

    assert(n_tokens >= 0 && policy->recent_blocks >= 0);
    memset(counts, 0, KV_KINDS * sizeof counts[0]);
    counts[KV_F16] = open;
    if (policy->format == KV_FORMAT_F16) {
        counts[KV_F16] += sealed;
        return;
    }
    if (policy->format == KV_FORMAT_O4) {
        counts[KV_O4] = sealed;
    } else {
        counts[KV_Q4] = sealed < policy->recent_blocks ? sealed : policy->recent_blocks;
        counts[KV_Q2] = sealed - counts[KV_Q4];
    }
    counts[KV_SINK] = sealed > 0 ? policy_sinks(policy) : 0;
}

static size_t blocks_bytes(const struct kv_shape *shape, const int counts[KV_KINDS])
{
    size_t bytes = 0;
    for (int kind = 0; kind < KV_KINDS; kind++) {
        if (counts[kind] > 0)
            bytes += (size_t)counts[kind] * kv_policy_block_bytes(shape, (enum kv_kind)kind);
    }
    return bytes;
}

size_t kv_policy_held_bytes(const struct kv_policy *policy, int n_tokens)
{
    int counts[KV_KINDS];
    kv_policy_blocks(policy, n_tokens, counts);
    return blocks_bytes(&policy->shape, counts);
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
    bool was_open = n_tokens % KV_BLOCK_TOKENS != 0, is_open = last % KV_BLOCK_TOKENS != 0;

    kv_policy_blocks(policy, n_tokens, counts);
    kv_policy_blocks(policy, last, after);
    if (policy->format == KV_FORMAT_F16 || sealed == 0) return blocks_bytes(&policy->shape, after);

    /* The forward pass: new coded blocks, sinks and open block beside all that was held. */
    int demoted = 0;
    counts[KV_F16] += is_open;
    counts[KV_SINK] = after[KV_SINK];
    if (policy->format == KV_FORMAT_O4) {
        counts[KV_O4] += sealed;
    } else if (policy->recent_blocks == 0) {
        counts[KV_Q2] += sealed;
    } else {
        counts[KV_Q4] += sealed;
        demoted = after[KV_Q2] - counts[KV_Q2];
    }
    size_t forward = blocks_bytes(&policy->shape, counts);

    /* The end: the sealed f16 block goes first, then blocks are demoted one by one. */
    counts[KV_F16] -= was_open;
    counts[KV_Q2] += demoted > 0;
    size_t end = blocks_bytes(&policy->shape, counts);
    return forward > end ? forward : end;
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
    int recent_tokens = policy->recent_blocks * KV_BLOCK_TOKENS;
    int starts[] = {0, recent_tokens, recent_tokens + KV_BLOCK_TOKENS};
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

double kv_policy_bits(const struct kv_policy *policy, int n_tokens)
{
    const struct kv_shape *shape = &policy->shape;
    double values = 2.0 * n_tokens * shape->n_layers * shape->n_kv_heads * shape->head_dim;
    return n_tokens > 0 ? 8.0 * (double)kv_policy_held_bytes(policy, n_tokens) / values : 0.0;
}
