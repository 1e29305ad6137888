#include "tests/unit/support/swap_model.h"

#include "tests/unit/support/check.h"

#include <stdlib.h>

enum { BUCKETS = 1 << 15 };

struct entry {
    uint64_t key;
    size_t base_bytes, recent_bytes;
    int chances;
    struct entry *chain, *older, *newer;
};

struct swap_model {
    size_t budget, used;
    struct entry *buckets[BUCKETS], *oldest, *newest;
};

struct swap_model *swap_model_create(size_t bytes)
{
    struct swap_model *swap = calloc(1, sizeof *swap);
    CHECK(swap != NULL);
    swap->budget = bytes;
    return swap;
}

static struct entry *find(const struct swap_model *swap, uint64_t key)
{
    struct entry *entry = swap->buckets[key % BUCKETS];
    while (entry != NULL && entry->key != key) entry = entry->chain;
    return entry;
}

static void unlist(struct swap_model *swap, const struct entry *entry)
{
    *(entry->older != NULL ? &entry->older->newer : &swap->oldest) = entry->newer;
    *(entry->newer != NULL ? &entry->newer->older : &swap->newest) = entry->older;
}

static void list(struct swap_model *swap, struct entry *entry)
{
    entry->older = swap->newest;
    entry->newer = NULL;
    *(swap->newest != NULL ? &swap->newest->newer : &swap->oldest) = entry;
    swap->newest = entry;
}

static void forget(struct swap_model *swap, struct entry *entry)
{
    struct entry **at = &swap->buckets[entry->key % BUCKETS];
    while (*at != entry) at = &(*at)->chain;
    *at = entry->chain;
    unlist(swap, entry);
    swap->used -= entry->base_bytes + entry->recent_bytes;
    free(entry);
}

void swap_model_free(struct swap_model *swap)
{
    if (swap == NULL) return;
    while (swap->oldest != NULL) forget(swap, swap->oldest);
    CHECK(swap->used == 0);
    free(swap);
}

static void make_room(struct swap_model *swap)
{
    for (int spared = 0; swap->used > swap->budget;) {
        struct entry *entry = swap->oldest;
        if (entry->chances > 0 && spared++ < 64) {
            entry->chances--;
            unlist(swap, entry);
            list(swap, entry);
        } else {
            forget(swap, entry);
        }
    }
}

void swap_model_put(struct swap_model *swap, uint64_t key, size_t base_bytes, size_t recent_bytes,
                    int chances)
{
    struct entry *entry = find(swap, key);
    if (base_bytes + recent_bytes > swap->budget) return;
    if (entry == NULL) {
        entry = calloc(1, sizeof *entry);
        CHECK(entry != NULL);
        entry->key = key;
        entry->base_bytes = base_bytes;
        entry->chain = swap->buckets[key % BUCKETS];
        swap->buckets[key % BUCKETS] = entry;
        swap->used += base_bytes;
    } else {
        CHECK(entry->base_bytes == base_bytes);
        unlist(swap, entry);
    }
    list(swap, entry);
    if (entry->recent_bytes == 0) {
        entry->recent_bytes = recent_bytes;
        swap->used += recent_bytes;
    }
    if (chances > entry->chances) entry->chances = chances;
    make_room(swap);
}

bool swap_model_find(const struct swap_model *swap, uint64_t key, bool *recent)
{
    const struct entry *entry = find(swap, key);
    *recent = entry != NULL && entry->recent_bytes > 0;
    return entry != NULL;
}

void swap_model_touch(struct swap_model *swap, uint64_t key)
{
    struct entry *entry = find(swap, key);
    entry->chances = 0;
    unlist(swap, entry);
    list(swap, entry);
}

void swap_model_lose(struct swap_model *swap, uint64_t key)
{
    forget(swap, find(swap, key));
}

void swap_model_verify(const struct swap_model *swap)
{
    size_t used = 0;
    long listed = 0, chained = 0;
    for (const struct entry *entry = swap->oldest; entry != NULL; entry = entry->newer) {
        CHECK(entry->newer != NULL || entry == swap->newest);
        used += entry->base_bytes + entry->recent_bytes;
        listed++;
    }
    for (int i = 0; i < BUCKETS; i++) {
        for (const struct entry *entry = swap->buckets[i]; entry != NULL; entry = entry->chain) chained++;
    }
    CHECK(listed == chained && used == swap->used && used <= swap->budget);
}
