#ifndef CACHE_SWAP_H
#define CACHE_SWAP_H

#include "cache/prefix.h"

/*
 * The second store: blocks that the prefix cache (cache/prefix.h) must give up go to host memory or to a file
 * and come back when a sequence wants them, instead of being computed again. A preempted sequence leaves its
 * sealed blocks in the prefix cache as idle ones, so whoever takes their memory sends them here, and its next
 * admission brings them back; so do the blocks of finished sequences, for the next one that begins alike.
 *
 * Inside it is a prefix cache of its own, over a pool whose memory is the store: the same keys, the same
 * order of forgetting. Every piece (a part, a sink) stands there with a checksum of its key, its place in the
 * block and its bytes; a piece whose checksum is wrong is never used, and its block is forgotten. What is
 * brought back stays here too, so that giving it up again costs nothing.
 *
 * Host memory is copied to and from at once. The file is read and written by a thread of its own
 * (cache/swap_worker.h): a put copies the block into memory of that thread and returns, and what is fetched
 * is there some calls later. When that thread has as much to write as it can keep, a block is lost instead of
 * waited for.
 *
 * A write that fails (the disk is full) ends it for good: everything is forgotten, the space given back, and
 * the server goes on without. Owned by the engine thread; nothing is allocated after creation.
 */
struct kv_swap;

/* What the blocks of a preempted sequence are favoured with (kv_prefix_favour): it comes back for sure, so
   they outlast those of finished ones by so many times the life of a block here, and not longer. */
enum { KV_SWAP_CHANCES = 2 };

struct kv_swap_stats {
    uint64_t out_bytes, in_bytes;   /* moved, since the start */
    int64_t out_us, in_us;          /* that moving them took, on whichever thread */
    uint64_t out_blocks, in_blocks; /* the latter: hits */
    uint64_t dropped_blocks;        /* lost because the thread had too much to write */
    uint64_t bad_checksums;         /* blocks forgotten because a piece was not what was written */
    uint64_t failures;              /* reads and writes that the system refused or cut short */
    int64_t n_blocks;               /* in the store */
    size_t used_bytes, budget_bytes;
    bool given_up;
};

struct kv_swap_options {
    struct backend *backend;          /* whose memory the blocks of the cache are */
    const struct kv_policy *policies; /* of one shape */
    int n_policies;
    size_t budget_bytes;
    const char *path; /* NULL: host memory */
    int max_blocks;   /* of the longest chain */
    int max_sinks;
};

/* ERR_USAGE: the budget does not hold one block. ERR_IO, ERR_UNSUPPORTED: the file (cache/swap_file.h).
   ERR_MEMORY. */
enum err kv_swap_create(const struct kv_swap_options *options, struct kv_swap **out, struct err_info *info);
/* NULL-safe. */
void kv_swap_free(struct kv_swap *swap);

/* A block that the prefix cache is about to give up: its old parts and sinks, and its recent parts unless
   NULL; of format f16, the page as part 0 (kv_prefix_view). The oldest here make room, those with chances
   later than others. */
void kv_swap_put(struct kv_swap *swap, struct kv_hash key, const struct kv_format *format,
                 const struct kv_block_ref *block, int chances);
/* Bytes that this would copy; 0: it is there already, or there is no use. */
size_t kv_swap_put_bytes(const struct kv_swap *swap, struct kv_hash key, const struct kv_format *format,
                         const struct kv_block_ref *block);

/* kv_prefix_longest over both: how many of the n_keys blocks of a chain a sequence could go on behind, once
   what the prefix cache lacks is brought back. */
int kv_swap_longest(const struct kv_swap *swap, const struct kv_prefix *prefix, const struct kv_hash *keys,
                    int n_keys, int recent_blocks);
/* Bytes of the pool that block `key` lacks in the prefix cache and would take when it is brought back,
   with its recent parts or without. */
size_t kv_swap_missing(const struct kv_swap *swap, const struct kv_prefix *prefix, const struct kv_pool *pool,
                       struct kv_hash key, bool with_recent);
/* Bring back what the first n_keys blocks of a chain lack, as idle blocks, the last recent_blocks of them
   with recent parts. False: some are on their way; call again, after kv_swap_wait if there is nothing else to
   do. True: it is over; it stopped at the first that cannot be had: no room beside what is in use, or a piece
   is bad; what a sequence can then go on behind is for kv_prefix_longest to say. One chain at a time: another
   one takes its turn from the one before. The pool is the prefix cache's, and both outlive the fetch. */
bool kv_swap_fetch(struct kv_swap *swap, struct kv_prefix *prefix, struct kv_pool *pool,
                   const struct kv_hash *keys, int n_keys, int recent_blocks);

/* What the thread has done since: takes note of it, and what was fetched goes to the cache. */
void kv_swap_collect(struct kv_swap *swap);
/* The same, after a wait until it has done something or the time is over. False: it has nothing to do. */
bool kv_swap_wait(struct kv_swap *swap, int timeout_ms);

void kv_swap_stats(const struct kv_swap *swap, struct kv_swap_stats *out);
/* Walk everything and assert that lists, counts and bytes agree. */
void kv_swap_check(const struct kv_swap *swap);

#endif
