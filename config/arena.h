#ifndef CONFIG_ARENA_H
#define CONFIG_ARENA_H

#include <stddef.h>

/*
 * A bump allocator: everything a request needs comes from one arena and goes with it. Not thread-safe: an
 * arena has one owner at a time.
 */
struct arena;

/* limit_bytes: the most it may ever take from the heap. NULL when memory is short. */
struct arena *arena_create(size_t limit_bytes);

/* NULL-safe. */
void arena_free(struct arena *arena);

/* Zeroed, aligned to 16 bytes; NULL when the limit or the heap is exhausted. count * size is checked. */
void *arena_alloc(struct arena *arena, size_t count, size_t size);

/* A NUL-terminated copy of length bytes. */
char *arena_copy(struct arena *arena, const char *text, size_t length);

/* Bytes taken from the heap so far. */
size_t arena_bytes(const struct arena *arena);

#endif
