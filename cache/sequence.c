#include "cache/sequence.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct kv_staging {
    struct backend *backend;
    char *memory;
    size_t slot_bytes;
    int n_slots;
    int n_taken;
};

struct kv_sequence {
    struct kv_policy policy;
    struct kv_pool *pool;
    struct kv_staging *staging;
    struct backend *backend;
    int max_tokens;
    int n_tokens; /* that count */
    int n_new;    /* begun */
    int n_sealed; /* blocks that have a coded part, those of this step included */
    int n_old;    /* the first n_old blocks are KV_Q2 */
    int n_sinks;  /* slots taken */
    size_t f16_layer_bytes;
    struct kv_block_ref *blocks; /* [blocks of max_tokens] */
    char *sinks[KV_MAX_SINKS];
};

static int blocks_of(int n_tokens)
{
    return (n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

struct kv_staging *kv_staging_create(const struct kv_shape *shape, int max_batch_tokens,
                                     struct backend *backend)
{
    struct kv_staging *staging = calloc(1, sizeof *staging);
    if (staging == NULL) return NULL;
    staging->backend = backend;
    staging->slot_bytes = (size_t)shape->n_kv_heads * kv_page_bytes(KV_F16, shape->head_dim);
    staging->n_slots =
        max_batch_tokens / KV_BLOCK_TOKENS; /* a block in staging has all its tokens in one step */
    if (staging->n_slots > 0) {
        staging->memory = backend->alloc(backend, (size_t)staging->n_slots * staging->slot_bytes);
        if (staging->memory == NULL) {
            free(staging);
            return NULL;
        }
    }
    return staging;
}

void kv_staging_free(struct kv_staging *staging)
{
    if (staging == NULL) return;
    if (staging->memory != NULL) staging->backend->free(staging->backend, staging->memory);
    free(staging);
}

void kv_staging_reset(struct kv_staging *staging)
{
    staging->n_taken = 0;
}

static char *staging_take(struct kv_staging *staging)
{
    assert(staging->n_taken < staging->n_slots);
    return staging->memory + (size_t)staging->n_taken++ * staging->slot_bytes;
}

enum err kv_sequence_create(const struct kv_policy *policy, struct kv_pool *pool, struct kv_staging *staging,
                            struct backend *backend, int max_tokens, struct kv_sequence **out,
                            struct err_info *info)
{
    assert(max_tokens > 0);
    struct kv_sequence *seq = calloc(1, sizeof *seq);
    struct kv_block_ref *blocks = calloc((size_t)blocks_of(max_tokens), sizeof *blocks);
    if (seq == NULL || blocks == NULL) {
        free(seq);
        free(blocks);
        return err_set(info, ERR_MEMORY, "no memory for the block table of a sequence of %d tokens",
                       max_tokens);
    }
    seq->policy = *policy;
    seq->pool = pool;
    seq->staging = staging;
    seq->backend = backend;
    seq->max_tokens = max_tokens;
    seq->f16_layer_bytes = (size_t)policy->shape.n_kv_heads * kv_page_bytes(KV_F16, policy->shape.head_dim);
    seq->blocks = blocks;
    *out = seq;
    return ERR_OK;
}

static bool f16_in_pool(const struct kv_block_ref *block)
{
    return block->f16 != NULL && block->f16_layer_stride != 0;
}

static void drop_f16(struct kv_sequence *seq, struct kv_block_ref *block)
{
    if (f16_in_pool(block)) kv_pool_release(seq->pool, KV_F16, block->f16);
    block->f16 = NULL;
}

/* Release everything that blocks from `first` on hold. */
static void drop_blocks(struct kv_sequence *seq, int first)
{
    int n_blocks = blocks_of(seq->n_tokens + seq->n_new);
    for (int b = first; b < n_blocks; b++) {
        struct kv_block_ref *block = &seq->blocks[b];
        drop_f16(seq, block);
        if (block->coded != NULL) kv_pool_release(seq->pool, block->coded_kind, block->coded);
        for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++)
            kv_pool_release(seq->pool, KV_SINK, block->sinks[s]);
        seq->n_sinks -= __builtin_popcountll(block->sink_mask);
        memset(block, 0, sizeof *block);
    }
}

static int64_t values_of(const struct kv_sequence *seq, int n_tokens)
{
    const struct kv_shape *shape = &seq->policy.shape;
    return (int64_t)2 * n_tokens * shape->n_layers * shape->n_kv_heads * shape->head_dim;
}

void kv_sequence_reset(struct kv_sequence *seq, const struct kv_policy *policy)
{
    assert(memcmp(&policy->shape, &seq->policy.shape, sizeof policy->shape) == 0);
    drop_blocks(seq, 0);
    kv_pool_count_values(seq->pool, -values_of(seq, seq->n_tokens));
    seq->n_tokens = seq->n_new = seq->n_sealed = seq->n_old = 0;
    seq->policy = *policy;
}

void kv_sequence_free(struct kv_sequence *seq)
{
    if (seq == NULL) return;
    kv_sequence_reset(seq, &seq->policy);
    free(seq->blocks);
    free(seq);
}

int kv_sequence_tokens(const struct kv_sequence *seq)
{
    return seq->n_tokens;
}

size_t kv_sequence_bytes(const struct kv_sequence *seq)
{
    int n_blocks = blocks_of(seq->n_tokens + seq->n_new);
    size_t bytes = (size_t)seq->n_sinks * kv_pool_block_bytes(seq->pool, KV_SINK);
    for (int b = 0; b < n_blocks; b++) {
        const struct kv_block_ref *block = &seq->blocks[b];
        if (f16_in_pool(block)) bytes += kv_pool_block_bytes(seq->pool, KV_F16);
        if (block->coded != NULL) bytes += kv_pool_block_bytes(seq->pool, block->coded_kind);
    }
    return bytes;
}

static bool take_sinks(struct kv_sequence *seq, int b)
{
    struct kv_block_ref *block = &seq->blocks[b];
    uint64_t mask = kv_policy_sink_mask(&seq->policy, b);

    block->sinks = &seq->sinks[seq->n_sinks];
    for (; mask != 0; mask &= mask - 1) {
        assert(seq->n_sinks < KV_MAX_SINKS);
        char *slot = kv_pool_take(seq->pool, KV_SINK);
        if (slot == NULL) return false;
        seq->sinks[seq->n_sinks++] = slot;
        block->sink_mask |= mask & -mask;
    }
    return true;
}

static enum kv_kind sealed_kind(const struct kv_policy *policy)
{
    if (policy->format == KV_FORMAT_O4) return KV_O4;
    return policy->recent_blocks > 0 ? KV_Q4 : KV_Q2;
}

/* What block b needs to take tokens in a step that ends at token `last`. False when the pool is short; what
   was taken is in the table. */
static bool take_block(struct kv_sequence *seq, int b, int last)
{
    struct kv_block_ref *block = &seq->blocks[b];
    bool coded = seq->policy.format != KV_FORMAT_F16 && (b + 1) * KV_BLOCK_TOKENS <= last;

    if (block->f16 == NULL && coded) {
        block->f16 = staging_take(seq->staging);
        block->f16_layer_stride = 0;
    } else if (block->f16 == NULL) {
        block->f16 = kv_pool_take(seq->pool, KV_F16);
        block->f16_layer_stride = seq->f16_layer_bytes;
        if (block->f16 == NULL) return false;
    }
    if (!coded) return true;
    block->coded_kind = sealed_kind(&seq->policy);
    block->coded = kv_pool_take(seq->pool, block->coded_kind);
    return block->coded != NULL && take_sinks(seq, b);
}

enum err kv_sequence_begin(struct kv_sequence *seq, int n_tokens, struct err_info *info)
{
    assert(seq->n_new == 0 && n_tokens >= 1 && n_tokens <= seq->max_tokens - seq->n_tokens);
    int last = seq->n_tokens + n_tokens;
    int staged = seq->staging->n_taken;

    seq->n_new = n_tokens;
    for (int b = seq->n_tokens / KV_BLOCK_TOKENS; b < blocks_of(last); b++) {
        if (!take_block(seq, b, last)) {
            kv_sequence_abort(seq);
            seq->staging->n_taken = staged;
            return err_set(info, ERR_BUSY, "the KV cache is full: %zu bytes are free",
                           kv_pool_free_bytes(seq->pool));
        }
    }
    if (seq->policy.format != KV_FORMAT_F16) seq->n_sealed = last / KV_BLOCK_TOKENS;
    return ERR_OK;
}

void kv_sequence_span(const struct kv_sequence *seq, int first_row, struct attention_span *span)
{
    assert(seq->n_new > 0);
    span->first_row = first_row;
    span->n_rows = seq->n_new;
    span->first_pos = seq->n_tokens;
    span->n_blocks = blocks_of(seq->n_tokens + seq->n_new);
    span->blocks = seq->blocks;
    span->all_f16 = seq->policy.format == KV_FORMAT_F16;
    span->recent_blocks = seq->policy.recent_blocks;
}

static void demote_old(struct kv_sequence *seq)
{
    if (seq->policy.recent_blocks == 0) seq->n_old = seq->n_sealed; /* sealed as KV_Q2 */
    for (; seq->n_old < seq->n_sealed - seq->policy.recent_blocks; seq->n_old++) {
        struct kv_block_ref *block = &seq->blocks[seq->n_old];
        char *old = kv_pool_take(seq->pool, KV_Q2);
        /* Only when the caller did not plan with kv_policy_peak_bytes. The block stays at 4 bits, is read at
           2 all the same (nested grids), and is tried again at the end of the next step. */
        if (old == NULL) return;
        seq->backend->kv_demote(seq->backend, &seq->policy.shape, block->coded, old);
        kv_pool_release(seq->pool, KV_Q4, block->coded);
        block->coded = old;
        block->coded_kind = KV_Q2;
    }
}

void kv_sequence_end(struct kv_sequence *seq)
{
    assert(seq->n_new > 0);
    int first = seq->n_tokens / KV_BLOCK_TOKENS;

    seq->n_tokens += seq->n_new;
    kv_pool_count_values(seq->pool, values_of(seq, seq->n_new));
    seq->n_new = 0;
    for (int b = first; b < seq->n_sealed; b++) drop_f16(seq, &seq->blocks[b]);
    if (seq->policy.format == KV_FORMAT_O2) demote_old(seq);
}

void kv_sequence_abort(struct kv_sequence *seq)
{
    assert(seq->n_new > 0);
    int first = seq->n_tokens / KV_BLOCK_TOKENS;
    struct kv_block_ref *open = &seq->blocks[first];

    if (seq->n_tokens % KV_BLOCK_TOKENS != 0) {
        /* The block that was open before the step keeps its f16 part. */
        struct kv_block_ref kept = {.f16 = open->f16, .f16_layer_stride = open->f16_layer_stride};
        open->f16 = NULL;
        drop_blocks(seq, first);
        *open = kept;
    } else {
        drop_blocks(seq, first);
    }
    seq->n_new = 0;
    if (seq->policy.format != KV_FORMAT_F16) seq->n_sealed = seq->n_tokens / KV_BLOCK_TOKENS;
}
