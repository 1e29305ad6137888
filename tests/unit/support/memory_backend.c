#include "tests/unit/support/memory_backend.h"

#include <stdlib.h>
#include <string.h>

static void *memory_alloc(struct backend *self, size_t bytes)
{
    (void)self;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void memory_free(struct backend *self, void *memory)
{
    (void)self;
    free(memory);
}

static void memory_copy(struct backend *self, void *to, const void *from, size_t bytes)
{
    (void)self;
    memcpy(to, from, bytes);
}

struct backend memory_backend = {
    .name = "memory", .alloc = memory_alloc, .free = memory_free, .copy = memory_copy};
