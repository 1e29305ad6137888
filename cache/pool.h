#ifndef CACHE_POOL_H
#define CACHE_POOL_H

#include "cache/policy.h"
#include "kernels/backend.h"

#include <stdint.h>

/*
 * The block pool: one budget in bytes, blocks of several classes (cache/policy.h), each class of one size.
 *
 * Every class has its own address range, reserved for the whole budget and backed by memory only where it is
 * used, so classes never fragment each other: a block of any class can be had as long as the bytes in use
 * allow it. Memory of freed blocks is kept for the same class and given back to the system when another one
 * needs it, so resident bytes never pass the budget: strides are multiples of the system's page, and strides
 * are what is counted. Reference-counted. Owned by the engine thread; kv_pool_stats may be read by any
 * thread. Nothing is allocated after creation.
 */
struct kv_pool;

struct kv_pool_stats {
    size_t budget_bytes;
    size_t used_bytes[KV_CLASSES];
    int64_t used_blocks[KV_CLASSES];
    size_t cached_bytes;   /* resident memory of free blocks, kept for reuse */
    int64_t stored_values; /* cached K and V values (tokens * layers * kv_heads * head_dim * 2) of live
                              sequences */
};

/* class_bytes: what one block of each class counts for, from kv_policy_classes; 0: there is no such class.
   ERR_CAPACITY when the budget does not hold one KV_F16 block; ERR_MEMORY. */
enum err kv_pool_create(const size_t class_bytes[KV_CLASSES], size_t budget_bytes, struct kv_pool **out,
                        struct err_info *info);
/* The same in the backend's memory, which outlives the pool. A device maps memory in larger pieces than the
   system's pages: a few MiB of a class's blocks may be resident without being counted. */
enum err kv_pool_create_on(struct backend *backend, const size_t class_bytes[KV_CLASSES], size_t budget_bytes,
                           struct kv_pool **out, struct err_info *info);
/* NULL when the blocks are in the host's memory. */
struct backend *kv_pool_backend(const struct kv_pool *pool);
void kv_pool_free(struct kv_pool *pool); /* asserts that no block is in use */

/* A block with one reference, contents undefined; NULL when the budget does not allow it. */
char *kv_pool_take(struct kv_pool *pool, int class);
void kv_pool_retain(struct kv_pool *pool, int class, char *block);
void kv_pool_release(struct kv_pool *pool, int class, char *block);

/* Bytes one block of this class counts for. */
size_t kv_pool_block_bytes(const struct kv_pool *pool, int class);
size_t kv_pool_free_bytes(const struct kv_pool *pool);
/* Sequences tell how many cached values (K and V) they gained or lost; for kv_pool_stats. */
void kv_pool_count_values(struct kv_pool *pool, int64_t change);
void kv_pool_stats(const struct kv_pool *pool, struct kv_pool_stats *out);

/* Walk everything and assert that lists, counts and bytes agree. */
void kv_pool_check(const struct kv_pool *pool);

#endif
