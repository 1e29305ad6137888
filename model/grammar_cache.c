/*
 * Masks by what decides them: the configurations, as far down the stack as the tokens of the vocabulary have
 * looked when the mask was made, and what counters have left, up to the length of a token. Keys are compared
 * in full, not by their hash.
 *
 * Entries lie in one piece of memory that the system gives page by page as they are used. One lock, held
 * for a look-up and a copy. Which entry goes when it is full: the first, in turn, that was not used since the
 * last turn.
 */
#include "model/grammar_internal.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_ENTRIES = 1024, LEAST_ENTRIES = 4, DEPTHS = 1024 };

struct entry {
    struct grammar_key key;
    int32_t n_allowed;
    uint32_t frames, edges;
    bool was_used;
};

struct grammar_cache {
    pthread_mutex_t lock;
    size_t n_words;
    uint32_t n_entries, n_used, hand;
    struct entry *entries; /* [n_entries] */
    uint32_t *masks;       /* [n_entries][n_words] */
    uint32_t *slots;       /* [n_slots] by hash, 0: empty, else entry + 1 */
    uint32_t n_slots;
    _Atomic uint32_t depths[DEPTHS]; /* bit d: masks that looked d deep */
};

static size_t entry_bytes(size_t n_words)
{
    return sizeof(struct entry) + n_words * sizeof(uint32_t) + 4 * sizeof(uint32_t);
}

struct grammar_cache *grammar_cache_create(size_t n_words, size_t max_bytes)
{
    struct grammar_cache *cache = calloc(1, sizeof *cache);
    if (!cache) return NULL;
    if (pthread_mutex_init(&cache->lock, NULL) != 0) {
        free(cache);
        return NULL;
    }
    size_t n = max_bytes > sizeof *cache ? (max_bytes - sizeof *cache) / entry_bytes(n_words) : 0;
    if (n < LEAST_ENTRIES) return cache;
    cache->n_entries = n > MOST_ENTRIES ? MOST_ENTRIES : (uint32_t)n;
    cache->n_words = n_words;
    cache->n_slots = 8;
    while (cache->n_slots < cache->n_entries * 2) cache->n_slots *= 2;
    cache->entries = malloc(cache->n_entries * sizeof *cache->entries);
    cache->masks = malloc(cache->n_entries * n_words * sizeof *cache->masks);
    cache->slots = calloc(cache->n_slots, sizeof *cache->slots);
    if (cache->entries && cache->masks && cache->slots) return cache;
    grammar_cache_free(cache);
    return NULL;
}

void grammar_cache_free(struct grammar_cache *cache)
{
    if (!cache) return;
    pthread_mutex_destroy(&cache->lock);
    free(cache->entries);
    free(cache->masks);
    free(cache->slots);
    free(cache);
}

size_t grammar_cache_bytes(struct grammar_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    size_t bytes = sizeof *cache + cache->n_slots * sizeof *cache->slots +
                   cache->n_used * (sizeof *cache->entries + cache->n_words * sizeof *cache->masks);
    pthread_mutex_unlock(&cache->lock);
    return bytes;
}

/* The slot of the key, or the empty one where it would be. */
static uint32_t slot_find(const struct grammar_cache *cache, const struct grammar_key *key)
{
    uint32_t slot = (uint32_t)key->hash & (cache->n_slots - 1);
    for (; cache->slots[slot]; slot = (slot + 1) & (cache->n_slots - 1)) {
        const struct grammar_key *known = &cache->entries[cache->slots[slot] - 1].key;
        if (known->hash == key->hash && known->n == key->n &&
            memcmp(known->words, key->words, key->n * sizeof *key->words) == 0)
            break;
    }
    return slot;
}

int grammar_cache_get(struct grammar_cache *cache, const struct grammar_key *key, uint32_t *allowed,
                      uint32_t *frames, uint32_t *edges)
{
    if (cache->n_entries == 0) return -1;
    int n = -1;
    pthread_mutex_lock(&cache->lock);
    uint32_t slot = slot_find(cache, key);
    if (cache->slots[slot]) {
        uint32_t at = cache->slots[slot] - 1;
        struct entry *entry = &cache->entries[at];
        memcpy(allowed, cache->masks + at * cache->n_words, cache->n_words * sizeof *allowed);
        n = entry->n_allowed;
        *frames = entry->frames;
        *edges = entry->edges;
        entry->was_used = true;
    }
    pthread_mutex_unlock(&cache->lock);
    return n;
}

/* Empties a slot of a table with linear probing: those behind it move up (Knuth, TAOCP 3, 6.4, algorithm R).
 */
static void slot_remove(struct grammar_cache *cache, uint32_t slot)
{
    uint32_t mask = cache->n_slots - 1;
    for (uint32_t at = (slot + 1) & mask; cache->slots[at]; at = (at + 1) & mask) {
        uint32_t home = (uint32_t)cache->entries[cache->slots[at] - 1].key.hash & mask;
        if (((at - home) & mask) < ((at - slot) & mask)) continue;
        cache->slots[slot] = cache->slots[at];
        slot = at;
    }
    cache->slots[slot] = 0;
}

static uint32_t entry_take(struct grammar_cache *cache)
{
    if (cache->n_used < cache->n_entries) return cache->n_used++;
    while (cache->entries[cache->hand].was_used) {
        cache->entries[cache->hand].was_used = false;
        cache->hand = (cache->hand + 1) % cache->n_entries;
    }
    uint32_t at = cache->hand;
    cache->hand = (cache->hand + 1) % cache->n_entries;
    slot_remove(cache, slot_find(cache, &cache->entries[at].key));
    return at;
}

void grammar_cache_put(struct grammar_cache *cache, const struct grammar_key *key, const uint32_t *allowed,
                       int n, uint32_t frames, uint32_t edges)
{
    if (cache->n_entries == 0) return;
    pthread_mutex_lock(&cache->lock);
    if (!cache->slots[slot_find(cache, key)]) { /* another thread may have been first */
        uint32_t at = entry_take(cache);
        struct entry *entry = &cache->entries[at];
        entry->key.n = key->n;
        entry->key.hash = key->hash;
        memcpy(entry->key.words, key->words, key->n * sizeof *key->words);
        entry->n_allowed = n;
        entry->frames = frames;
        entry->edges = edges;
        entry->was_used = false;
        memcpy(cache->masks + at * cache->n_words, allowed, cache->n_words * sizeof *allowed);
        cache->slots[slot_find(cache, key)] = at + 1;
    }
    pthread_mutex_unlock(&cache->lock);
}

uint32_t grammar_cache_depths(struct grammar_cache *cache, uint64_t hash)
{
    return atomic_load_explicit(&cache->depths[hash % DEPTHS], memory_order_relaxed);
}

void grammar_cache_note_depth(struct grammar_cache *cache, uint64_t hash, uint32_t depth)
{
    atomic_fetch_or_explicit(&cache->depths[hash % DEPTHS], 1u << depth, memory_order_relaxed);
}
