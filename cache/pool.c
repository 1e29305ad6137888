#define _GNU_SOURCE
#include "cache/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * Each class is a region: an address range of slots of one size. A slot is
 *   used     it has references;
 *   cached   free, its memory still resident: the first choice for the next block of the class;
 *   blank    free and without memory: never used (numbers fresh and above), or given back to the system.
 * Used and cached bytes together stay within the budget. The two free lists run through `next`.
 */

enum { SLOT_NONE = -1 };
enum { REFERENCES_CACHED = 0, REFERENCES_BLANK = -1 };

struct slot {
    int32_t references; /* above 0: used */
    int32_t next;       /* in its free list */
};

struct region {
    char *base;
    size_t stride;
    int32_t n_slots;
    int32_t fresh;             /* slots from here on were never used */
    int32_t cached, blank;     /* heads of the free lists */
    int32_t n_used, n_cached;  /* slots */
    struct slot *slots;        /* [n_slots] */
    _Atomic int64_t published; /* n_used, for other threads */
};

struct kv_pool {
    struct backend *backend; /* whose memory it is; NULL: the system's */
    size_t budget;
    size_t used, cached; /* bytes, all classes */
    struct region regions[KV_CLASSES];
    _Atomic size_t published_cached;
    _Atomic int64_t stored_values;
};

static void region_check(const struct region *region)
{
    int32_t used = 0, cached = 0, blank = 0;
    for (int32_t slot = 0; slot < region->fresh; slot++) used += region->slots[slot].references > 0;
    for (int32_t slot = region->cached; slot != SLOT_NONE; slot = region->slots[slot].next) {
        assert(slot < region->fresh && region->slots[slot].references == REFERENCES_CACHED);
        cached++;
    }
    for (int32_t slot = region->blank; slot != SLOT_NONE; slot = region->slots[slot].next) {
        assert(slot < region->fresh && region->slots[slot].references == REFERENCES_BLANK);
        blank++;
    }
    assert(used == region->n_used && cached == region->n_cached);
    assert(used + cached + blank == region->fresh && region->fresh <= region->n_slots);
}

/* After every operation of a debug build: the lists of the region it touched. */
static void region_verify(const struct region *region)
{
#ifdef OCTAVO_CHECKS
    region_check(region);
#else
    (void)region;
#endif
}

/* Addresses for a whole region; NULL when there are none. */
static void *addresses_reserve(struct backend *backend, size_t bytes)
{
    if (backend) return backend->range_reserve(backend, bytes);
    void *base =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return NULL;
    /* Huge pages would round blocks up, and the kernel's daemon would back blank slots again; the budget is a
       promise, and pages are walked in order anyway. A kernel without them refuses: all the better. */
    madvise(base, bytes, MADV_NOHUGEPAGE);
    return base;
}

static enum err region_create(struct backend *backend, struct region *region, size_t stride, size_t budget,
                              struct err_info *info)
{
    size_t n_slots = budget / stride;
    if (n_slots >= 1 << 29)
        return err_set(info, ERR_MEMORY, "KV cache: %zu bytes are too many blocks of %zu bytes", budget,
                       stride);
    assert(stride % (size_t)sysconf(_SC_PAGESIZE) == 0);
    region->stride = stride;
    region->n_slots = (int32_t)n_slots;
    region->cached = region->blank = SLOT_NONE;
    if (n_slots == 0) return ERR_OK;
    region->slots = calloc(n_slots, sizeof *region->slots);
    if (region->slots == NULL)
        return err_set(info, ERR_MEMORY, "KV cache: no memory for the table of %zu blocks", n_slots);
    void *base = addresses_reserve(backend, n_slots * stride);
    if (base == NULL)
        return err_set(info, ERR_MEMORY, "KV cache: cannot reserve %zu bytes of address space: %s",
                       n_slots * stride, backend ? "the device has none left" : strerror(errno));
    region->base = base;
    return ERR_OK;
}

static void pool_destroy(struct kv_pool *pool)
{
    for (int class = 0; class < KV_CLASSES; class ++) {
        struct region *region = &pool->regions[class];
        if (region->base != NULL && pool->backend)
            pool->backend->range_release(pool->backend, region->base);
        else if (region->base != NULL)
            munmap(region->base, (size_t)region->n_slots * region->stride);
        free(region->slots);
    }
    free(pool);
}

enum err kv_pool_create(const size_t class_bytes[KV_CLASSES], size_t budget_bytes, struct kv_pool **out,
                        struct err_info *info)
{
    return kv_pool_create_on(NULL, class_bytes, budget_bytes, out, info);
}

enum err kv_pool_create_on(struct backend *backend, const size_t class_bytes[KV_CLASSES], size_t budget_bytes,
                           struct kv_pool **out, struct err_info *info)
{
    size_t least = class_bytes[KV_F16];
    if (budget_bytes < least)
        return err_set_param(info, ERR_CAPACITY, "kv-cache-bytes",
                             "a KV cache of %zu bytes does not hold one fp16 block of %zu bytes (%d tokens)",
                             budget_bytes, least, KV_BLOCK_TOKENS);
    struct kv_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) return err_set(info, ERR_MEMORY, "KV cache: out of memory");
    pool->backend = backend && !backend->is_host ? backend : NULL;
    pool->budget = budget_bytes;
    for (int class = 0; class < KV_CLASSES; class ++) {
        if (class_bytes[class] == 0) continue;
        enum err err =
            region_create(pool->backend, &pool->regions[class], class_bytes[class], budget_bytes, info);
        if (err != ERR_OK) {
            pool_destroy(pool);
            return err;
        }
    }
    *out = pool;
    return ERR_OK;
}

struct backend *kv_pool_backend(const struct kv_pool *pool)
{
    return pool->backend;
}

void kv_pool_free(struct kv_pool *pool)
{
    if (pool == NULL) return;
    assert(pool->used == 0);
    pool_destroy(pool);
}

static int32_t list_pop(struct region *region, int32_t *head)
{
    int32_t slot = *head;
    *head = region->slots[slot].next;
    return slot;
}

static void list_push(struct region *region, int32_t *head, int32_t slot, int32_t references)
{
    region->slots[slot].next = *head;
    region->slots[slot].references = references;
    *head = slot;
}

/* Give one cached block back to the system, of the class that has the most bytes in them. */
static void pool_trim(struct kv_pool *pool)
{
    struct region *most = NULL;
    size_t most_bytes = 0;
    for (int class = 0; class < KV_CLASSES; class ++) {
        struct region *region = &pool->regions[class];
        size_t bytes = (size_t)region->n_cached * region->stride;
        if (bytes > most_bytes) {
            most = region;
            most_bytes = bytes;
        }
    }
    assert(most != NULL);
    int32_t slot = list_pop(most, &most->cached);
    char *at = most->base + (size_t)slot * most->stride;
    if (pool->backend)
        pool->backend->range_decommit(pool->backend, at, most->stride);
    else
        madvise(at, most->stride, MADV_DONTNEED);
    list_push(most, &most->blank, slot, REFERENCES_BLANK);
    most->n_cached--;
    pool->cached -= most->stride;
}

/* Memory behind a blank slot. A device that is full, because it maps memory in pieces larger than blocks, is
   helped by what other classes keep for reuse. */
static bool slot_commit(struct kv_pool *pool, const struct region *region, int32_t slot)
{
    if (!pool->backend) return true;
    char *at = region->base + (size_t)slot * region->stride;
    while (!pool->backend->range_commit(pool->backend, at, region->stride)) {
        if (pool->cached == 0) return false;
        pool_trim(pool);
    }
    return true;
}

char *kv_pool_take(struct kv_pool *pool, int class)
{
    struct region *region = &pool->regions[class];
    int32_t slot;

    assert(region->stride > 0);
    if (region->stride > pool->budget - pool->used) return NULL;
    if (region->cached != SLOT_NONE) {
        slot = list_pop(region, &region->cached);
        region->n_cached--;
        pool->cached -= region->stride;
    } else {
        while (pool->used + pool->cached + region->stride > pool->budget) pool_trim(pool);
        slot = region->blank != SLOT_NONE ? list_pop(region, &region->blank) : region->fresh++;
        assert(slot < region->n_slots);
        if (!slot_commit(pool, region, slot)) {
            list_push(region, &region->blank, slot, REFERENCES_BLANK);
            return NULL;
        }
    }
    region->slots[slot].references = 1;
    region->n_used++;
    pool->used += region->stride;
    atomic_store_explicit(&region->published, region->n_used, memory_order_relaxed);
    atomic_store_explicit(&pool->published_cached, pool->cached, memory_order_relaxed);
    region_verify(region);
    return region->base + (size_t)slot * region->stride;
}

static int32_t region_slot(const struct region *region, const char *block)
{
    size_t offset = (size_t)(block - region->base);
    size_t slot = offset / region->stride;
    assert(block >= region->base && slot < (size_t)region->n_slots && offset % region->stride == 0);
    assert(region->slots[slot].references > 0);
    return (int32_t)slot;
}

void kv_pool_retain(struct kv_pool *pool, int class, char *block)
{
    struct region *region = &pool->regions[class];
    region->slots[region_slot(region, block)].references++;
}

void kv_pool_release(struct kv_pool *pool, int class, char *block)
{
    struct region *region = &pool->regions[class];
    int32_t slot = region_slot(region, block);

    if (--region->slots[slot].references > 0) return;
    list_push(region, &region->cached, slot, REFERENCES_CACHED);
    region->n_used--;
    region->n_cached++;
    pool->used -= region->stride;
    pool->cached += region->stride;
    atomic_store_explicit(&region->published, region->n_used, memory_order_relaxed);
    atomic_store_explicit(&pool->published_cached, pool->cached, memory_order_relaxed);
    region_verify(region);
}

size_t kv_pool_block_bytes(const struct kv_pool *pool, int class)
{
    return pool->regions[class].stride;
}

size_t kv_pool_free_bytes(const struct kv_pool *pool)
{
    return pool->budget - pool->used;
}

void kv_pool_count_values(struct kv_pool *pool, int64_t change)
{
    atomic_fetch_add_explicit(&pool->stored_values, change, memory_order_relaxed);
}

void kv_pool_stats(const struct kv_pool *pool, struct kv_pool_stats *out)
{
    out->budget_bytes = pool->budget;
    out->cached_bytes = atomic_load_explicit(&pool->published_cached, memory_order_relaxed);
    out->stored_values = atomic_load_explicit(&pool->stored_values, memory_order_relaxed);
    for (int class = 0; class < KV_CLASSES; class ++) {
        const struct region *region = &pool->regions[class];
        out->used_blocks[class] = atomic_load_explicit(&region->published, memory_order_relaxed);
        out->used_bytes[class] = (size_t)out->used_blocks[class] * region->stride;
    }
}

void kv_pool_check(const struct kv_pool *pool)
{
    size_t used = 0, cached = 0;
    for (int class = 0; class < KV_CLASSES; class ++) {
        const struct region *region = &pool->regions[class];
        if (region->stride == 0) continue;
        region_check(region);
        used += (size_t)region->n_used * region->stride;
        cached += (size_t)region->n_cached * region->stride;
    }
    assert(used == pool->used && cached == pool->cached && used + cached <= pool->budget);
}
