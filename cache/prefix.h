#ifndef CACHE_PREFIX_H
#define CACHE_PREFIX_H

#include "cache/pool.h"

#include <stdint.h>

/*
 * The prefix cache: sealed blocks by what they were computed from, so that a sequence that starts with the
 * same tokens takes them over instead of computing them again.
 *
 * A block's key is a chained 128-bit hash: of the key of the block before it, its 64 tokens, and at the
 * chain's start everything else that changes its bytes (model, calibration, format, recent blocks, sinks) and
 * the tenant's salt. So equal keys mean equal bytes, bit for bit, and a key stands for its whole prefix.
 *
 * A block consists of its old parts, which every reader needs (and, in the first block, of the sinks; of
 * format f16: of its fp16 page), and of its recent parts, which only the recent_blocks blocks after it read.
 * Each of the two is used   by at least one sequence: it stays; idle   used by none: it stays as long as its
 * memory is not needed, and is as good as free. A sequence can go on behind n cached blocks when all n have
 * their old parts and the last recent_blocks of them their recent parts; then its state is bit for bit that
 * of a sequence that computed them itself. (Recomputing missing recent parts would not do: their tokens read
 * the recent parts of blocks before them.)
 *
 * Idle memory is given up in the order of last use, so a sequence that ends gives its blocks back last to
 * first: a chain loses its end before its beginning. A block that somebody is sure to come back for may be
 * given chances (kv_prefix_favour): each lets it pass the end of that order once, so it stays longer, not for
 * ever. The entries hold the pool's references. Owned by the engine thread; nothing is allocated after
 * creation.
 */
struct kv_hash {
    uint64_t low, high;
};

struct kv_prefix;
struct kv_prefix_entry;

struct kv_prefix_stats {
    size_t used_bytes, idle_bytes;
    size_t saved_bytes;         /* what sharing saves for good, see kv_prefix_use */
    int64_t n_entries, n_idle;  /* blocks; idle: whose old parts nobody uses */
    uint64_t inserted, evicted; /* blocks, since the start */
};

/* The start of a chain. */
struct kv_hash kv_prefix_seed(const void *bytes, size_t n_bytes);
/* The key of the block with these KV_BLOCK_TOKENS tokens behind the block (or seed) `parent`. */
struct kv_hash kv_prefix_hash(struct kv_hash parent, const int32_t *tokens);

/* max_sinks: most sinks of a first block. ERR_MEMORY. The pool outlives the cache. */
enum err kv_prefix_create(struct kv_pool *pool, int max_sinks, struct kv_prefix **out, struct err_info *info);
/* Gives all blocks back; asserts that none is used. NULL-safe. */
void kv_prefix_free(struct kv_prefix *prefix);

/* How many of the n_keys blocks of a chain a sequence can go on behind: they are there, and so are the recent
   parts that its next tokens read. Does not count as use. */
int kv_prefix_longest(const struct kv_prefix *prefix, const struct kv_hash *keys, int n_keys,
                      int recent_blocks);
/* NULL: not there. Does not count as use. */
struct kv_prefix_entry *kv_prefix_find(const struct kv_prefix *prefix, struct kv_hash key);
bool kv_prefix_has_recent(const struct kv_prefix_entry *entry);

/* How a sequence uses a block. */
enum kv_prefix_use {
    KV_USE_OLD,     /* the old parts only */
    KV_USE_RECENT,  /* the recent parts too, until the block grows old */
    KV_USE_LASTING, /* the recent parts too, and it will end before the block grows old */
};

/* How a sequence of this format uses its block: the first n_old blocks are old, those from lasting_block on
   will not grow old. */
enum kv_prefix_use kv_prefix_use_of(const struct kv_format *format, int block, int n_old, int lasting_block);

/* Put a sealed block of a sequence in (of format f16: a full one): the cache takes over its references. When
   the key is there already, the cached bytes take the place of the sequence's own, which are released, and
   recent parts that the cache lacks are taken over. Either way *block ends up pointing at cached memory, and
   the sequence uses the entry. NULL: no entry is free; the block stays the sequence's own.

   Of every use the cache keeps count: n sequences that keep the same part to their end save n - 1 times its
   bytes for good (server/sched.h: sched_memory). */
struct kv_prefix_entry *kv_prefix_insert(struct kv_prefix *prefix, struct kv_hash key,
                                         const struct kv_format *format, enum kv_prefix_use use,
                                         struct kv_block_ref *block);

/* A sequence begins to use an entry: *block is filled with its old parts and sinks, and unless KV_USE_OLD the
   recent parts, which must be there. */
void kv_prefix_use(struct kv_prefix *prefix, struct kv_prefix_entry *entry, enum kv_prefix_use use,
                   struct kv_block_ref *block);
/* The sequence's block grew old: KV_USE_RECENT becomes KV_USE_OLD. */
void kv_prefix_grow_old(struct kv_prefix *prefix, struct kv_prefix_entry *entry);
/* The sequence gives the block up. */
void kv_prefix_drop(struct kv_prefix *prefix, struct kv_prefix_entry *entry, enum kv_prefix_use use);
/* Sequences that use it. */
int kv_prefix_users(const struct kv_prefix_entry *entry);
/* What a sequence that began this use now would take out of idle memory, and add to saved bytes; both are
   added to. */
void kv_prefix_price(const struct kv_prefix *prefix, const struct kv_prefix_entry *entry,
                     enum kv_prefix_use use, size_t *idle_bytes, size_t *saved_bytes);

/* So many times the entry is put at the order's other end instead of being given up; with its next use that
   is over. Where a store stands behind the cache (kv_prefix_on_evict), it is the one that keeps to it. */
void kv_prefix_favour(struct kv_prefix_entry *entry, int chances);
int kv_prefix_chances(const struct kv_prefix_entry *entry);

/* Give up idle memory until the pool has n_bytes free. False when that cannot be. */
bool kv_prefix_reclaim(struct kv_prefix *prefix, size_t n_bytes);

/* Told of every block whose memory is about to be taken from it: what it holds (kv_prefix_view), of which the
   recent parts may be all that goes, and its chances; not when they go because the block grew old under its
   users. It must not call the cache. NULL: nobody. */
typedef void kv_prefix_evicted(void *context, struct kv_hash key, const struct kv_format *format,
                               const struct kv_block_ref *block, int chances);
void kv_prefix_on_evict(struct kv_prefix *prefix, kv_prefix_evicted *evicted, void *context);

/* Give up everything that is idle; or this block, which nobody uses, and nobody is told. */
void kv_prefix_clear(struct kv_prefix *prefix);
void kv_prefix_forget(struct kv_prefix *prefix, struct kv_prefix_entry *entry);

int kv_prefix_max_sinks(const struct kv_prefix *prefix);
/* The idle blocks, oldest first: NULL begins, NULL ends. */
struct kv_prefix_entry *kv_prefix_next_idle(const struct kv_prefix *prefix,
                                            const struct kv_prefix_entry *after);
/* What an entry holds; its memory stays the cache's. Parts that it does not have are NULL; of format f16 the
   page is given as part 0 too. */
struct kv_hash kv_prefix_view(const struct kv_prefix_entry *entry, const struct kv_format **format,
                              struct kv_block_ref *block);

void kv_prefix_stats(const struct kv_prefix *prefix, struct kv_prefix_stats *out);

/* Walk everything and assert that lists, counts and bytes agree. */
void kv_prefix_check(const struct kv_prefix *prefix);

#endif
