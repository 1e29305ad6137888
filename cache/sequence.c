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
    int n_sealed; /* blocks that have coded parts, those of this step included */
    int n_old;    /* the first n_old blocks have only the parts that old ones are read with */
    int n_sinks;  /* slots taken */
    size_t f16_layer_bytes;
    struct kv_block_ref *blocks; /* [blocks of max_tokens] */
    struct kv_prefix *prefix;    /* NULL: blocks are not shared */
    int lasting_block;           /* from this one on, blocks will not grow old; of an attached sequence */
    struct kv_prefix_entry **entries; /* [blocks of max_tokens]: whose memory the block is; NULL: its own */
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
    struct kv_prefix_entry **entries = calloc((size_t)blocks_of(max_tokens), sizeof *entries);
    if (seq == NULL || blocks == NULL || entries == NULL) {
        free(seq);
        free(blocks);
        free(entries);
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
    seq->entries = entries;
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

static void drop_parts(struct kv_sequence *seq, struct kv_block_ref *block, int first)
{
    for (int part = first; part < KV_MAX_PARTS; part++) {
        if (block->parts[part] == NULL) continue;
        kv_pool_release(seq->pool, kv_format_part_class(seq->policy.format, part), block->parts[part]);
        block->parts[part] = NULL;
    }
}

/* How an attached sequence uses its sealed block b. */
static enum kv_prefix_use use_of(const struct kv_sequence *seq, int b, int n_old)
{
    return kv_prefix_use_of(seq->policy.format, b, n_old, seq->lasting_block);
}

static void drop_own(struct kv_sequence *seq, struct kv_block_ref *block)
{
    drop_f16(seq, block);
    drop_parts(seq, block, 0);
    for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++)
        kv_pool_release(seq->pool, KV_SINK, block->sinks[s]);
    seq->n_sinks -= __builtin_popcountll(block->sink_mask);
}

/* Release everything that blocks from `first` on hold, the last one first: so the prefix cache forgets the
   ends of chains before their beginnings. */
static void drop_blocks(struct kv_sequence *seq, int first)
{
    for (int b = blocks_of(seq->n_tokens + seq->n_new) - 1; b >= first; b--) {
        if (seq->entries[b] != NULL)
            kv_prefix_drop(seq->prefix, seq->entries[b], use_of(seq, b, seq->n_old));
        else
            drop_own(seq, &seq->blocks[b]);
        seq->entries[b] = NULL;
        memset(&seq->blocks[b], 0, sizeof seq->blocks[b]);
    }
}

void kv_sequence_reset(struct kv_sequence *seq, const struct kv_policy *policy)
{
    assert(memcmp(&policy->shape, &seq->policy.shape, sizeof policy->shape) == 0);
    drop_blocks(seq, 0);
    kv_pool_count_values(seq->pool, -kv_policy_values(&seq->policy, seq->n_tokens));
    seq->n_tokens = seq->n_new = seq->n_sealed = seq->n_old = 0;
    seq->lasting_block = seq->max_tokens;
    seq->policy = *policy;
}

void kv_sequence_free(struct kv_sequence *seq)
{
    if (seq == NULL) return;
    kv_sequence_reset(seq, &seq->policy);
    free(seq->blocks);
    free(seq->entries);
    free(seq);
}

int kv_sequence_tokens(const struct kv_sequence *seq)
{
    return seq->n_tokens;
}

size_t kv_sequence_bytes(const struct kv_sequence *seq)
{
    int n_blocks = blocks_of(seq->n_tokens + seq->n_new);
    size_t bytes = 0;
    for (int b = 0; b < n_blocks; b++) {
        const struct kv_block_ref *block = &seq->blocks[b];
        size_t n_sinks = (size_t)__builtin_popcountll(block->sink_mask);
        bytes += n_sinks * kv_pool_block_bytes(seq->pool, KV_SINK);
        if (f16_in_pool(block)) bytes += kv_pool_block_bytes(seq->pool, KV_F16);
        for (int part = 0; part < KV_MAX_PARTS; part++)
            if (block->parts[part] != NULL)
                bytes += kv_pool_block_bytes(seq->pool, kv_format_part_class(seq->policy.format, part));
    }
    return bytes;
}

/* A block of the pool, at the cost of idle ones. */
static char *take(struct kv_sequence *seq, int class)
{
    char *block = kv_pool_take(seq->pool, class);
    if (block == NULL && seq->prefix != NULL &&
        kv_prefix_reclaim(seq->prefix, kv_pool_block_bytes(seq->pool, class)))
        block = kv_pool_take(seq->pool, class);
    return block;
}

static bool take_sinks(struct kv_sequence *seq, int b)
{
    struct kv_block_ref *block = &seq->blocks[b];
    uint64_t mask = kv_policy_sink_mask(&seq->policy, b);

    block->sinks = &seq->sinks[seq->n_sinks];
    for (; mask != 0; mask &= mask - 1) {
        assert(seq->n_sinks < KV_MAX_SINKS);
        char *slot = take(seq, KV_SINK);
        if (slot == NULL) return false;
        seq->sinks[seq->n_sinks++] = slot;
        block->sink_mask |= mask & -mask;
    }
    return true;
}

/* What block b needs to take tokens in a step that ends at token `last`. False when the pool is short; what
   was taken is in the table. */
static bool take_block(struct kv_sequence *seq, int b, int last)
{
    struct kv_block_ref *block = &seq->blocks[b];
    bool coded = seq->policy.format->codec != NULL && (b + 1) * KV_BLOCK_TOKENS <= last;

    if (block->f16 == NULL && coded) {
        block->f16 = staging_take(seq->staging);
        block->f16_layer_stride = 0;
    } else if (block->f16 == NULL) {
        block->f16 = take(seq, KV_F16);
        block->f16_layer_stride = seq->f16_layer_bytes;
        if (block->f16 == NULL) return false;
    }
    if (!coded) return true;
    for (int part = 0; part < kv_policy_parts(&seq->policy); part++) {
        block->parts[part] = take(seq, kv_format_part_class(seq->policy.format, part));
        if (block->parts[part] == NULL) return false;
    }
    return take_sinks(seq, b);
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
    if (seq->policy.format->codec != NULL) seq->n_sealed = last / KV_BLOCK_TOKENS;
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
    span->codec = seq->policy.format->codec;
    span->recent_blocks = seq->policy.recent_blocks;
}

/* Blocks that grew old keep the parts that old ones are read with. */
static void age_blocks(struct kv_sequence *seq)
{
    for (; seq->n_old < seq->n_sealed - seq->policy.recent_blocks; seq->n_old++) {
        struct kv_block_ref *block = &seq->blocks[seq->n_old];
        int first = seq->policy.format->codec->n_old_parts;
        if (seq->entries[seq->n_old] == NULL) {
            drop_parts(seq, block, first);
            continue;
        }
        kv_prefix_grow_old(seq->prefix, seq->entries[seq->n_old]);
        for (int part = first; part < KV_MAX_PARTS; part++) block->parts[part] = NULL;
    }
}

int kv_sequence_completes(const struct kv_sequence *seq)
{
    return (seq->n_tokens + seq->n_new) / KV_BLOCK_TOKENS - seq->n_tokens / KV_BLOCK_TOKENS;
}

static void share_block(struct kv_sequence *seq, int b, struct kv_hash key)
{
    struct kv_block_ref *block = &seq->blocks[b];
    int n_sinks = __builtin_popcountll(block->sink_mask);
    enum kv_prefix_use use = use_of(seq, b, seq->n_old);
    seq->entries[b] = kv_prefix_insert(seq->prefix, key, seq->policy.format, use, block);
    if (seq->entries[b] != NULL) seq->n_sinks -= n_sinks;
}

static void end_step(struct kv_sequence *seq, const struct kv_hash *keys)
{
    assert(seq->n_new > 0);
    int first = seq->n_tokens / KV_BLOCK_TOKENS, n_full = kv_sequence_completes(seq);

    seq->n_tokens += seq->n_new;
    kv_pool_count_values(seq->pool, kv_policy_values(&seq->policy, seq->n_new));
    seq->n_new = 0;
    for (int b = first; b < seq->n_sealed; b++) drop_f16(seq, &seq->blocks[b]);
    for (int i = 0; i < n_full && keys != NULL; i++) share_block(seq, first + i, keys[i]);
    age_blocks(seq);
}

void kv_sequence_end(struct kv_sequence *seq)
{
    end_step(seq, NULL);
}

void kv_sequence_end_shared(struct kv_sequence *seq, const struct kv_hash *keys)
{
    assert(seq->prefix != NULL);
    end_step(seq, keys);
}

static void retain_block(struct kv_sequence *seq, const struct kv_block_ref *block)
{
    if (block->f16 != NULL) kv_pool_retain(seq->pool, KV_F16, block->f16);
    for (int part = 0; part < KV_MAX_PARTS; part++)
        if (block->parts[part] != NULL)
            kv_pool_retain(seq->pool, kv_format_part_class(seq->policy.format, part), block->parts[part]);
    for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++)
        kv_pool_retain(seq->pool, KV_SINK, block->sinks[s]);
}

enum err kv_sequence_fork(const struct kv_sequence *seq, struct kv_sequence *other, struct err_info *info)
{
    assert(other != seq && other->pool == seq->pool && other->backend == seq->backend);
    assert(other->prefix == seq->prefix);
    assert(seq->n_new == 0 && other->n_new == 0 && seq->n_tokens <= other->max_tokens);
    int n_whole = seq->n_tokens / KV_BLOCK_TOKENS;
    bool is_open = seq->n_tokens % KV_BLOCK_TOKENS != 0;
    char *open = NULL;

    kv_sequence_reset(other, &seq->policy);
    other->lasting_block = seq->lasting_block;
    if (is_open) {
        open = take(other, KV_F16);
        if (open == NULL)
            return err_set(info, ERR_BUSY, "the KV cache is full: %zu bytes are free",
                           kv_pool_free_bytes(seq->pool));
        size_t bytes = kv_block_bytes(KV_F16, &seq->policy.shape);
        seq->backend->copy(seq->backend, open, seq->blocks[n_whole].f16, bytes);
    }
    memcpy(other->sinks, seq->sinks, (size_t)seq->n_sinks * sizeof *seq->sinks);
    for (int b = 0; b < n_whole; b++) {
        struct kv_block_ref *block = &other->blocks[b];
        *block = seq->blocks[b];
        other->entries[b] = seq->entries[b];
        if (other->entries[b] != NULL) {
            kv_prefix_use(seq->prefix, other->entries[b], use_of(other, b, seq->n_old), block);
            continue;
        }
        if (block->sinks != NULL) block->sinks = &other->sinks[block->sinks - seq->sinks];
        retain_block(other, block);
    }
    if (is_open)
        other->blocks[n_whole] = (struct kv_block_ref){.f16 = open, .f16_layer_stride = seq->f16_layer_bytes};
    other->n_tokens = seq->n_tokens;
    other->n_sealed = seq->n_sealed;
    other->n_old = seq->n_old;
    other->n_sinks = seq->n_sinks;
    kv_pool_count_values(seq->pool, kv_policy_values(&seq->policy, seq->n_tokens));
    return ERR_OK;
}

/* ---- the prefix cache ---- */

void kv_sequence_attach(struct kv_sequence *seq, struct kv_prefix *prefix)
{
    assert(seq->n_tokens == 0 && seq->n_new == 0);
    seq->prefix = prefix;
    seq->lasting_block = seq->max_tokens;
}

static int recent_of(const struct kv_sequence *seq)
{
    return seq->policy.format->codec != NULL ? seq->policy.recent_blocks : 0;
}

int kv_sequence_adopt(struct kv_sequence *seq, const struct kv_hash *keys, int n_keys, int lasting_block)
{
    assert(seq->prefix != NULL && seq->n_tokens == 0 && seq->n_new == 0);
    assert(n_keys <= seq->max_tokens / KV_BLOCK_TOKENS);
    seq->lasting_block = lasting_block;
    int n = kv_prefix_longest(seq->prefix, keys, n_keys, recent_of(seq));
    int n_old = n > recent_of(seq) ? n - recent_of(seq) : 0;
    for (int b = 0; b < n; b++) {
        seq->entries[b] = kv_prefix_find(seq->prefix, keys[b]);
        kv_prefix_use(seq->prefix, seq->entries[b], use_of(seq, b, n_old), &seq->blocks[b]);
        if (seq->policy.format->codec == NULL) seq->blocks[b].f16_layer_stride = seq->f16_layer_bytes;
    }
    seq->n_tokens = n * KV_BLOCK_TOKENS;
    if (seq->policy.format->codec != NULL) {
        seq->n_sealed = n;
        seq->n_old = n_old;
    }
    kv_pool_count_values(seq->pool, kv_policy_values(&seq->policy, seq->n_tokens));
    return n;
}

int kv_sequence_shared_tokens(const struct kv_sequence *seq)
{
    int b = 0;
    while (b < seq->n_tokens / KV_BLOCK_TOKENS && seq->entries[b] != NULL &&
           kv_prefix_users(seq->entries[b]) > 1)
        b++;
    return b * KV_BLOCK_TOKENS;
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
    if (seq->policy.format->codec != NULL) seq->n_sealed = seq->n_tokens / KV_BLOCK_TOKENS;
}
