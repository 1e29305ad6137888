#include "config/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A chain of chunks from calloc (so memory is zero); the first is the one being filled. Chunks double, so a
   request takes few of them, and one that is larger than the next chunk gets a chunk of its own. */
enum { ALIGNMENT = 16, FIRST_CHUNK = 4096, LAST_CHUNK = 1 << 20 };

struct chunk {
    alignas(ALIGNMENT) struct chunk *next;
    size_t used, size; /* of the bytes behind this header */
};

struct arena {
    struct chunk *chunks;
    size_t limit_bytes, bytes;
    size_t next_chunk;
};

struct arena *arena_create(size_t limit_bytes)
{
    struct arena *arena = calloc(1, sizeof *arena);
    if (!arena) return NULL;
    arena->limit_bytes = limit_bytes;
    arena->next_chunk = FIRST_CHUNK;
    return arena;
}

void arena_free(struct arena *arena)
{
    if (!arena) return;
    struct chunk *chunk = arena->chunks;
    while (chunk) {
        struct chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
    free(arena);
}

/* A new chunk with room for size bytes; NULL when the limit or the heap is exhausted. */
static struct chunk *chunk_add(struct arena *arena, size_t size)
{
    size_t left = arena->limit_bytes - arena->bytes;
    size_t least = size + sizeof(struct chunk);
    if (least > left) return NULL;
    size_t whole = least > arena->next_chunk ? least : arena->next_chunk;
    if (whole > left) whole = least;
    struct chunk *chunk = calloc(1, whole);
    if (!chunk) return NULL;
    chunk->size = whole - sizeof *chunk;
    arena->bytes += whole;
    if (arena->next_chunk < LAST_CHUNK) arena->next_chunk *= 2;

    /* What is left of the current chunk stays in use when the new one will be full at once. */
    struct chunk *current = arena->chunks;
    if (current && chunk->size - size < current->size - current->used) {
        chunk->next = current->next;
        current->next = chunk;
    } else {
        chunk->next = current;
        arena->chunks = chunk;
    }
    return chunk;
}

void *arena_alloc(struct arena *arena, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    if (bytes > SIZE_MAX / 2) return NULL;
    if (bytes == 0) bytes = 1;
    bytes = (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);

    struct chunk *chunk = arena->chunks;
    if (!chunk || chunk->size - chunk->used < bytes) {
        chunk = chunk_add(arena, bytes);
        if (!chunk) return NULL;
    }
    void *memory = (char *)(chunk + 1) + chunk->used;
    chunk->used += bytes;
    return memory;
}

char *arena_copy(struct arena *arena, const char *text, size_t length)
{
    if (length == SIZE_MAX) return NULL;
    char *copy = arena_alloc(arena, length + 1, 1);
    if (copy && length > 0) memcpy(copy, text, length);
    return copy;
}

size_t arena_bytes(const struct arena *arena)
{
    return arena->bytes;
}
