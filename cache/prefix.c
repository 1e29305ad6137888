#include "cache/prefix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/*
 * Entries stand in one array; a free one is in the free list, another in its bucket's chain. What is idle
 * stands in one of two lists, oldest first: entries whose old parts nobody uses, and entries whose recent
 * parts nobody uses. An entry may be in both; a clock that ticks with every use that ends tells which list
 * has the older head.
 */

struct link {
    struct kv_prefix_entry *previous, *next;
    uint64_t since;
};

struct kv_prefix_entry {
    struct kv_hash key;
    struct kv_prefix_entry *chain; /* of the bucket, or of the free list */
    const struct kv_format *format;
    char *parts[KV_MAX_PARTS]; /* recent ones NULL when given up; of format f16: its page, as part 0 */
    char **sinks;              /* [max_sinks] */
    uint64_t sink_mask;
    int users;         /* of the old parts: all */
    int recent_users;  /* of these, who use the recent parts too */
    int lasting_users; /* of these, who keep them to their end */
    int chances;       /* to stay when it is its turn to go */
    struct link idle, idle_recent;
};

struct idle_list {
    struct kv_prefix_entry *first, *last;
    size_t link_offset; /* of the list's link in an entry */
};

struct kv_prefix {
    struct kv_pool *pool;
    struct kv_prefix_entry *entries; /* [n_entries] */
    struct kv_prefix_entry *free;
    struct kv_prefix_entry **buckets; /* [bucket_mask + 1] */
    char **sinks;                     /* [n_entries][max_sinks] */
    size_t n_entries, bucket_mask;
    int max_sinks;
    struct idle_list idle, idle_recent;
    uint64_t clock;
    kv_prefix_evicted *evicted; /* NULL: nobody wants to know */
    void *evicted_context;
    struct kv_prefix_stats stats;
};

/* ---- keys ---- */

static struct kv_hash hash_of(XXH128_hash_t hash)
{
    return (struct kv_hash){.low = hash.low64, .high = hash.high64};
}

struct kv_hash kv_prefix_seed(const void *bytes, size_t n_bytes)
{
    return hash_of(XXH3_128bits(bytes, n_bytes));
}

struct kv_hash kv_prefix_hash(struct kv_hash parent, const int32_t *tokens)
{
    struct {
        struct kv_hash parent;
        int32_t tokens[KV_BLOCK_TOKENS];
    } link = {.parent = parent};
    memcpy(link.tokens, tokens, sizeof link.tokens);
    return hash_of(XXH3_128bits(&link, sizeof link));
}

static struct kv_prefix_entry **bucket_of(const struct kv_prefix *prefix, struct kv_hash key)
{
    return &prefix->buckets[key.low & prefix->bucket_mask];
}

struct kv_prefix_entry *kv_prefix_find(const struct kv_prefix *prefix, struct kv_hash key)
{
    struct kv_prefix_entry *entry = *bucket_of(prefix, key);
    while (entry != NULL && (entry->key.low != key.low || entry->key.high != key.high)) entry = entry->chain;
    return entry;
}

int kv_prefix_longest(const struct kv_prefix *prefix, const struct kv_hash *keys, int n_keys,
                      int recent_blocks)
{
    int longest = 0, with_recent = 0; /* the latter: of the last blocks, all that have recent parts */
    for (int b = 0; b < n_keys; b++) {
        const struct kv_prefix_entry *entry = kv_prefix_find(prefix, keys[b]);
        if (entry == NULL) break;
        with_recent = kv_prefix_has_recent(entry) ? with_recent + 1 : 0;
        if (with_recent >= recent_blocks || with_recent == b + 1) longest = b + 1;
    }
    return longest;
}

/* ---- life ---- */

/* As many as blocks of the smallest kind fit the pool, which is empty yet. */
static size_t entries_needed(const struct kv_pool *pool)
{
    size_t least = SIZE_MAX;
    for (int kind = 0; kind < KV_CLASSES; kind++) {
        size_t bytes = kv_pool_block_bytes(pool, kind);
        if (kind != KV_SINK && bytes > 0 && bytes < least) least = bytes;
    }
    return kv_pool_free_bytes(pool) / least;
}

enum err kv_prefix_create(struct kv_pool *pool, int max_sinks, struct kv_prefix **out, struct err_info *info)
{
    size_t n = entries_needed(pool), n_buckets = 64;
    while (n_buckets < 2 * n) n_buckets *= 2;
    struct kv_prefix *prefix = calloc(1, sizeof *prefix);
    if (prefix != NULL) {
        prefix->entries = calloc(n + 1, sizeof *prefix->entries);
        prefix->buckets = calloc(n_buckets, sizeof(struct kv_prefix_entry *));
        prefix->sinks = calloc(n * (size_t)max_sinks + 1, sizeof *prefix->sinks);
    }
    if (prefix == NULL || prefix->entries == NULL || prefix->buckets == NULL || prefix->sinks == NULL) {
        if (prefix != NULL) {
            free(prefix->entries);
            free(prefix->buckets);
            free(prefix->sinks);
        }
        free(prefix);
        return err_set(info, ERR_MEMORY, "prefix cache: no memory for the table of %zu blocks", n);
    }
    prefix->pool = pool;
    prefix->n_entries = n;
    prefix->max_sinks = max_sinks;
    prefix->bucket_mask = n_buckets - 1;
    prefix->idle.link_offset = offsetof(struct kv_prefix_entry, idle);
    prefix->idle_recent.link_offset = offsetof(struct kv_prefix_entry, idle_recent);
    for (size_t i = n; i-- > 0;) {
        prefix->entries[i].sinks = prefix->sinks + i * (size_t)max_sinks;
        prefix->entries[i].chain = prefix->free;
        prefix->free = &prefix->entries[i];
    }
    *out = prefix;
    return ERR_OK;
}

/* ---- idle lists ---- */

static struct link *link_of(const struct idle_list *list, struct kv_prefix_entry *entry)
{
    return (struct link *)((char *)entry + list->link_offset);
}

static void idle_append(struct idle_list *list, struct kv_prefix_entry *entry, uint64_t since)
{
    *link_of(list, entry) = (struct link){.previous = list->last, .since = since};
    if (list->last != NULL)
        link_of(list, list->last)->next = entry;
    else
        list->first = entry;
    list->last = entry;
}

static void idle_remove(struct idle_list *list, struct kv_prefix_entry *entry)
{
    struct link *link = link_of(list, entry);
    if (link->previous != NULL)
        link_of(list, link->previous)->next = link->next;
    else
        list->first = link->next;
    if (link->next != NULL)
        link_of(list, link->next)->previous = link->previous;
    else
        list->last = link->previous;
    *link = (struct link){0};
}

/* ---- bytes ---- */

static int n_old_parts(const struct kv_prefix_entry *entry)
{
    return entry->format->codec != NULL ? entry->format->codec->n_old_parts : 1;
}

/* Recent parts of its own; a format without any has nothing to give up. */
static bool owns_recent(const struct kv_prefix_entry *entry)
{
    return n_old_parts(entry) < KV_MAX_PARTS && entry->parts[n_old_parts(entry)] != NULL;
}

bool kv_prefix_has_recent(const struct kv_prefix_entry *entry)
{
    const struct kv_codec *codec = entry->format->codec;
    return codec == NULL || codec->n_parts == codec->n_old_parts || owns_recent(entry);
}

static size_t parts_bytes(const struct kv_prefix *prefix, const struct kv_prefix_entry *entry, int first,
                          int end)
{
    size_t bytes = 0;
    for (int p = first; p < end; p++)
        if (entry->parts[p] != NULL)
            bytes += kv_pool_block_bytes(prefix->pool, kv_format_part_class(entry->format, p));
    return bytes;
}

static size_t old_bytes(const struct kv_prefix *prefix, const struct kv_prefix_entry *entry)
{
    size_t n_sinks = (size_t)__builtin_popcountll(entry->sink_mask);
    return parts_bytes(prefix, entry, 0, n_old_parts(entry)) +
           n_sinks * kv_pool_block_bytes(prefix->pool, KV_SINK);
}

static size_t recent_bytes(const struct kv_prefix *prefix, const struct kv_prefix_entry *entry)
{
    return parts_bytes(prefix, entry, n_old_parts(entry), KV_MAX_PARTS);
}

static void release_parts(struct kv_prefix *prefix, const struct kv_format *format, char *parts[], int first)
{
    for (int p = first; p < KV_MAX_PARTS; p++) {
        if (parts[p] != NULL) kv_pool_release(prefix->pool, kv_format_part_class(format, p), parts[p]);
        parts[p] = NULL;
    }
}

/* ---- use ---- */

enum kv_prefix_use kv_prefix_use_of(const struct kv_format *format, int block, int n_old, int lasting_block)
{
    if (format->codec == NULL || block < n_old) return KV_USE_OLD;
    return block < lasting_block ? KV_USE_RECENT : KV_USE_LASTING;
}

static void old_use(struct kv_prefix *prefix, struct kv_prefix_entry *entry)
{
    size_t bytes = old_bytes(prefix, entry);
    if (entry->users++ > 0) {
        prefix->stats.saved_bytes += bytes;
        return;
    }
    entry->chances = 0;
    idle_remove(&prefix->idle, entry);
    prefix->stats.idle_bytes -= bytes;
    prefix->stats.used_bytes += bytes;
    prefix->stats.n_idle--;
}

static void recent_use(struct kv_prefix *prefix, struct kv_prefix_entry *entry, bool lasting)
{
    if (!owns_recent(entry)) return;
    size_t bytes = recent_bytes(prefix, entry);
    if (lasting && entry->lasting_users++ > 0) prefix->stats.saved_bytes += bytes;
    if (entry->recent_users++ > 0) return;
    idle_remove(&prefix->idle_recent, entry);
    prefix->stats.idle_bytes -= bytes;
    prefix->stats.used_bytes += bytes;
}

static void recent_drop(struct kv_prefix *prefix, struct kv_prefix_entry *entry, bool lasting)
{
    if (!owns_recent(entry)) return;
    assert(entry->recent_users > 0 && (!lasting || entry->lasting_users > 0));
    size_t bytes = recent_bytes(prefix, entry);
    if (lasting && --entry->lasting_users > 0) prefix->stats.saved_bytes -= bytes;
    if (--entry->recent_users > 0) return;
    idle_append(&prefix->idle_recent, entry, ++prefix->clock);
    prefix->stats.used_bytes -= bytes;
    prefix->stats.idle_bytes += bytes;
}

void kv_prefix_grow_old(struct kv_prefix *prefix, struct kv_prefix_entry *entry)
{
    recent_drop(prefix, entry, false);
}

void kv_prefix_drop(struct kv_prefix *prefix, struct kv_prefix_entry *entry, enum kv_prefix_use use)
{
    if (use != KV_USE_OLD) recent_drop(prefix, entry, use == KV_USE_LASTING);
    assert(entry->users > 0);
    size_t bytes = old_bytes(prefix, entry);
    if (--entry->users > 0) {
        prefix->stats.saved_bytes -= bytes;
        return;
    }
    idle_append(&prefix->idle, entry, ++prefix->clock);
    prefix->stats.used_bytes -= bytes;
    prefix->stats.idle_bytes += bytes;
    prefix->stats.n_idle++;
}

int kv_prefix_users(const struct kv_prefix_entry *entry)
{
    return entry->users;
}

void kv_prefix_price(const struct kv_prefix *prefix, const struct kv_prefix_entry *entry,
                     enum kv_prefix_use use, size_t *idle_bytes, size_t *saved_bytes)
{
    *(entry->users > 0 ? saved_bytes : idle_bytes) += old_bytes(prefix, entry);
    if (use == KV_USE_OLD) return;
    if (entry->recent_users == 0) *idle_bytes += recent_bytes(prefix, entry);
    if (use == KV_USE_LASTING && entry->lasting_users > 0) *saved_bytes += recent_bytes(prefix, entry);
}

static void block_point(struct kv_block_ref *block, const struct kv_prefix_entry *entry, bool with_recent)
{
    if (entry->format->codec == NULL) {
        block->f16 = entry->parts[0];
        return;
    }
    int n_parts = with_recent ? KV_MAX_PARTS : n_old_parts(entry);
    for (int p = 0; p < KV_MAX_PARTS; p++) block->parts[p] = p < n_parts ? entry->parts[p] : NULL;
    block->sink_mask = entry->sink_mask;
    block->sinks = entry->sinks;
}

void kv_prefix_use(struct kv_prefix *prefix, struct kv_prefix_entry *entry, enum kv_prefix_use use,
                   struct kv_block_ref *block)
{
    assert(use == KV_USE_OLD || kv_prefix_has_recent(entry));
    old_use(prefix, entry);
    if (use != KV_USE_OLD) recent_use(prefix, entry, use == KV_USE_LASTING);
    block_point(block, entry, use != KV_USE_OLD);
}

/* ---- giving up ---- */

void kv_prefix_on_evict(struct kv_prefix *prefix, kv_prefix_evicted *evicted, void *context)
{
    prefix->evicted = evicted;
    prefix->evicted_context = context;
}

static void announce(const struct kv_prefix *prefix, const struct kv_prefix_entry *entry)
{
    const struct kv_format *format;
    struct kv_block_ref block;
    if (prefix->evicted == NULL) return;
    struct kv_hash key = kv_prefix_view(entry, &format, &block);
    prefix->evicted(prefix->evicted_context, key, format, &block, entry->chances);
}

static void forget_recent(struct kv_prefix *prefix, struct kv_prefix_entry *entry)
{
    assert(entry->recent_users == 0);
    prefix->stats.idle_bytes -= recent_bytes(prefix, entry);
    idle_remove(&prefix->idle_recent, entry);
    release_parts(prefix, entry->format, entry->parts, n_old_parts(entry));
}

void kv_prefix_forget(struct kv_prefix *prefix, struct kv_prefix_entry *entry)
{
    assert(entry->users == 0);
    if (owns_recent(entry)) forget_recent(prefix, entry);
    prefix->stats.idle_bytes -= old_bytes(prefix, entry);
    prefix->stats.n_idle--;
    prefix->stats.n_entries--;
    prefix->stats.evicted++;
    idle_remove(&prefix->idle, entry);
    release_parts(prefix, entry->format, entry->parts, 0);
    int n_sinks = __builtin_popcountll(entry->sink_mask);
    for (int s = 0; s < n_sinks; s++) kv_pool_release(prefix->pool, KV_SINK, entry->sinks[s]);
    entry->sink_mask = 0;

    struct kv_prefix_entry **at = bucket_of(prefix, entry->key);
    while (*at != entry) at = &(*at)->chain;
    *at = entry->chain;
    entry->chain = prefix->free;
    prefix->free = entry;
}

/* Recent parts of a block that somebody still uses are those of one that grew old: of no use to him, and to
   others only if their prompts part from his right there. */
static void evict_recent(struct kv_prefix *prefix, struct kv_prefix_entry *entry)
{
    if (entry->users == 0) announce(prefix, entry);
    forget_recent(prefix, entry);
}

static void evict(struct kv_prefix *prefix, struct kv_prefix_entry *entry)
{
    announce(prefix, entry);
    kv_prefix_forget(prefix, entry);
}

/* Whose turn it is to give up something; *its_recent: the recent parts only. */
static struct kv_prefix_entry *next_to_go(const struct kv_prefix *prefix, bool *its_recent)
{
    struct kv_prefix_entry *old = prefix->idle.first, *recent = prefix->idle_recent.first;
    *its_recent = recent != NULL && (old == NULL || recent->idle_recent.since < old->idle.since);
    return *its_recent ? recent : old;
}

/* To the other end, with all that is idle of it. */
static void spare(struct kv_prefix *prefix, struct kv_prefix_entry *entry)
{
    entry->chances--;
    if (owns_recent(entry) && entry->recent_users == 0) {
        idle_remove(&prefix->idle_recent, entry);
        idle_append(&prefix->idle_recent, entry, ++prefix->clock);
    }
    if (entry->users == 0) {
        idle_remove(&prefix->idle, entry);
        idle_append(&prefix->idle, entry, ++prefix->clock);
    }
}

static bool evict_oldest(struct kv_prefix *prefix)
{
    enum { MOST_SPARED = 64 }; /* at once, so that it takes bounded time */
    bool its_recent;
    struct kv_prefix_entry *entry = next_to_go(prefix, &its_recent);
    for (int i = 0; i < MOST_SPARED && entry != NULL && entry->chances > 0; i++) {
        if (prefix->evicted != NULL) break; /* who is told of it keeps to it */
        spare(prefix, entry);
        entry = next_to_go(prefix, &its_recent);
    }
    if (entry == NULL) return false;
    if (its_recent)
        evict_recent(prefix, entry);
    else
        evict(prefix, entry);
    return true;
}

void kv_prefix_favour(struct kv_prefix_entry *entry, int chances)
{
    entry->chances = chances;
}

int kv_prefix_chances(const struct kv_prefix_entry *entry)
{
    return entry->chances;
}

bool kv_prefix_reclaim(struct kv_prefix *prefix, size_t n_bytes)
{
    while (kv_pool_free_bytes(prefix->pool) < n_bytes)
        if (!evict_oldest(prefix)) return false;
    return true;
}

void kv_prefix_clear(struct kv_prefix *prefix)
{
    while (evict_oldest(prefix)) continue;
}

int kv_prefix_max_sinks(const struct kv_prefix *prefix)
{
    return prefix->max_sinks;
}

void kv_prefix_free(struct kv_prefix *prefix)
{
    if (prefix == NULL) return;
    kv_prefix_clear(prefix);
    assert(prefix->stats.n_entries == 0);
    free(prefix->entries);
    free(prefix->buckets);
    free(prefix->sinks);
    free(prefix);
}

/* ---- insertion ---- */

static struct kv_prefix_entry *entry_take(struct kv_prefix *prefix)
{
    if (prefix->free == NULL && prefix->idle.first != NULL) evict(prefix, prefix->idle.first);
    struct kv_prefix_entry *entry = prefix->free;
    if (entry != NULL) prefix->free = entry->chain;
    return entry;
}

static struct kv_prefix_entry *insert_new(struct kv_prefix *prefix, struct kv_hash key,
                                          const struct kv_format *format, enum kv_prefix_use use,
                                          struct kv_block_ref *block)
{
    struct kv_prefix_entry *entry = entry_take(prefix);
    if (entry == NULL) return NULL;
    struct kv_prefix_entry **bucket = bucket_of(prefix, key);
    entry->key = key;
    entry->format = format;
    entry->chain = *bucket;
    *bucket = entry;
    if (format->codec != NULL)
        memcpy(entry->parts, block->parts, sizeof entry->parts);
    else
        entry->parts[0] = block->f16;
    entry->sink_mask = block->sink_mask;
    for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++) entry->sinks[s] = block->sinks[s];
    entry->users = 1;
    entry->chances = 0;
    entry->recent_users = owns_recent(entry);
    entry->lasting_users = owns_recent(entry) && use == KV_USE_LASTING;
    prefix->stats.used_bytes += old_bytes(prefix, entry) + recent_bytes(prefix, entry);
    prefix->stats.n_entries++;
    prefix->stats.inserted++;
    return entry;
}

/* The same bytes stand here already: the sequence's copy goes, except for recent parts that were given up
   here. */
static void insert_again(struct kv_prefix *prefix, struct kv_prefix_entry *entry, enum kv_prefix_use use,
                         struct kv_block_ref *block)
{
    int old = n_old_parts(entry);
    old_use(prefix, entry);
    if (entry->format->codec == NULL) {
        kv_pool_release(prefix->pool, KV_F16, block->f16);
        block_point(block, entry, false);
        return;
    }
    if (use != KV_USE_OLD && !owns_recent(entry)) {
        for (int p = old; p < KV_MAX_PARTS; p++) {
            entry->parts[p] = block->parts[p];
            block->parts[p] = NULL;
        }
        entry->recent_users = owns_recent(entry);
        entry->lasting_users = owns_recent(entry) && use == KV_USE_LASTING;
        prefix->stats.used_bytes += recent_bytes(prefix, entry);
    } else if (use != KV_USE_OLD) {
        recent_use(prefix, entry, use == KV_USE_LASTING);
    }
    release_parts(prefix, entry->format, block->parts, 0);
    for (int s = 0; s < __builtin_popcountll(block->sink_mask); s++)
        kv_pool_release(prefix->pool, KV_SINK, block->sinks[s]);
    block_point(block, entry, use != KV_USE_OLD);
}

struct kv_prefix_entry *kv_prefix_insert(struct kv_prefix *prefix, struct kv_hash key,
                                         const struct kv_format *format, enum kv_prefix_use use,
                                         struct kv_block_ref *block)
{
    struct kv_prefix_entry *entry = kv_prefix_find(prefix, key);
    if (entry != NULL) {
        insert_again(prefix, entry, use, block);
        return entry;
    }
    entry = insert_new(prefix, key, format, use, block);
    if (entry != NULL) block_point(block, entry, true);
    return entry;
}

/* ---- looking ---- */

struct kv_prefix_entry *kv_prefix_next_idle(const struct kv_prefix *prefix,
                                            const struct kv_prefix_entry *after)
{
    return after != NULL ? after->idle.next : prefix->idle.first;
}

struct kv_hash kv_prefix_view(const struct kv_prefix_entry *entry, const struct kv_format **format,
                              struct kv_block_ref *block)
{
    *format = entry->format;
    *block = (struct kv_block_ref){0};
    block_point(block, entry, true);
    block->parts[0] = entry->parts[0];
    return entry->key;
}

void kv_prefix_stats(const struct kv_prefix *prefix, struct kv_prefix_stats *out)
{
    *out = prefix->stats;
}

static void idle_check(const struct idle_list *list, int64_t *count)
{
    struct kv_prefix_entry *previous = NULL;
    uint64_t since = 0;
    for (struct kv_prefix_entry *entry = list->first; entry != NULL; entry = link_of(list, entry)->next) {
        const struct link *link = link_of(list, entry);
        assert(link->previous == previous && link->since > since);
        previous = entry;
        since = link->since;
        ++*count;
    }
    assert(list->last == previous);
}

void kv_prefix_check(const struct kv_prefix *prefix)
{
    size_t used = 0, idle = 0, saved = 0;
    int64_t n_entries = 0, n_idle = 0, n_idle_recent = 0, listed = 0, listed_recent = 0;
    for (size_t b = 0; b <= prefix->bucket_mask; b++) {
        for (const struct kv_prefix_entry *entry = prefix->buckets[b]; entry != NULL; entry = entry->chain) {
            assert((entry->key.low & prefix->bucket_mask) == b);
            assert(entry->users >= entry->recent_users && entry->recent_users >= entry->lasting_users);
            assert(entry->lasting_users >= 0);
            if (entry->users > 1) saved += (size_t)(entry->users - 1) * old_bytes(prefix, entry);
            if (entry->lasting_users > 1)
                saved += (size_t)(entry->lasting_users - 1) * recent_bytes(prefix, entry);
            *(entry->users > 0 ? &used : &idle) += old_bytes(prefix, entry);
            *(entry->recent_users > 0 ? &used : &idle) += recent_bytes(prefix, entry);
            n_entries++;
            n_idle += entry->users == 0;
            n_idle_recent += owns_recent(entry) && entry->recent_users == 0;
        }
    }
    idle_check(&prefix->idle, &listed);
    idle_check(&prefix->idle_recent, &listed_recent);
    assert(listed == n_idle && listed_recent == n_idle_recent);
    assert(n_entries == prefix->stats.n_entries && n_idle == prefix->stats.n_idle);
    assert(used == prefix->stats.used_bytes && idle == prefix->stats.idle_bytes);
    assert(saved == prefix->stats.saved_bytes);
}
