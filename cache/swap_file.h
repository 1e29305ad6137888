#ifndef CACHE_SWAP_FILE_H
#define CACHE_SWAP_FILE_H

#include "config/err.h"
#include "kernels/backend.h"

/*
 * The file behind --swap-file. Its places are addresses to the block pool (cache/pool.h), which hands them
 * out and never looks behind them: an address is the offset in the file. Bytes go through pread and pwrite,
 * never through a mapping: whoever truncates the file then causes a short read, not a signal.
 *
 * The file is ours alone while it is open (a lock), and sparse: it takes as much of the disk as is written,
 * and what the pool gives back is given back. It is removed at the end.
 */
struct kv_swap_file;

/* A file that is there already is taken over when it is empty or was left by another run; any other is
   refused, or a slip of the hand could cost somebody's data. ERR_IO, ERR_MEMORY; ERR_UNSUPPORTED: the file
   system cannot give back parts of a file. */
enum err kv_swap_file_create(const char *path, struct kv_swap_file **out, struct err_info *info);
/* Removes the file. NULL-safe. */
void kv_swap_file_free(struct kv_swap_file *file);

/* For kv_pool_create_on, which uses its range functions only; the file's own. */
struct backend *kv_swap_file_ranges(struct kv_swap_file *file);

/* All n bytes or false, and errno says why; 0: the file is shorter. */
bool kv_swap_file_write(struct kv_swap_file *file, const char *at, const void *from, size_t n);
bool kv_swap_file_read(const struct kv_swap_file *file, const char *at, void *to, size_t n);
/* Gives the whole disk space back; what stood there reads as zeros, or not at all. */
void kv_swap_file_empty(struct kv_swap_file *file);

#endif
