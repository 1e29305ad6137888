#ifndef CACHE_PREFIX_FILE_H
#define CACHE_PREFIX_FILE_H

#include "cache/prefix.h"

/*
 * The prefix cache on disk, so that a restarted server still knows its system prompts.
 *
 * A file: magic, version, the identity of all that its blocks depend on, the formats by name with the sizes
 * of their parts, then one record a block, each with its own checksum, and a record that says that the file
 * is whole. Little-endian.
 */

/* All that the bytes of a block depend on besides its key's tokens. */
struct kv_prefix_identity {
    struct kv_hash hash;
    const struct kv_shape *shape;
};

/* Write all idle blocks, least recently used first, beside the target, then rename. `done` (may be NULL) is
   told how many of how many blocks are written. ERR_IO; ERR_DEVICE. */
enum err kv_prefix_save(const struct kv_prefix *prefix, const struct kv_pool *pool,
                        const struct kv_formats *formats, const struct kv_prefix_identity *identity,
                        const char *path, void (*done)(int64_t n, int64_t of), struct err_info *info);

/* Read all blocks; when the pool is full the least recently used ones go. *n_blocks: how many were read.
   ERR_IO (no such file among others); ERR_FORMAT: no such file of ours, damaged or cut short, or made with
   another model, calibration or format: the message says which, and no block of it stays. */
enum err kv_prefix_load(struct kv_prefix *prefix, struct kv_pool *pool, const struct kv_formats *formats,
                        const struct kv_prefix_identity *identity, const char *path, int64_t *n_blocks,
                        struct err_info *info);

#endif
