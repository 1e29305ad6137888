#include "tests/unit/support/cache_model.h"

#include "tests/unit/support/check.h"
#include "tests/unit/support/swap_model.h"

#include <stdlib.h>
#include <string.h>

/* Idle bases and idle recent parts, each in a list: who became idle first is dropped first. */
struct idle {
    struct cache_block *block;
    struct idle *older, *newer;
    uint64_t since;
};

struct idles {
    struct idle *oldest, *newest;
};

struct cache_block {
    uint64_t key;
    int format, index;
    int holders, recent_holders; /* running sequences that hold its base, its recent parts */
    int lasting;                 /* of the recent holders, those that keep them to their end */
    bool recent;                 /* the recent parts are there */
    bool pinned;                 /* of a chain that is being brought back */
    int chances;                 /* that it takes to the second store: a preempted sequence left it */
    struct cache_block *chain;   /* in its bucket, or free */
    struct idle base_idle, recent_idle;
};

enum { BUCKETS = 1 << 15, CLAIMS = 1024 };

struct cache_model {
    size_t base[KV_MAX_FORMATS], recent[KV_MAX_FORMATS], sinks[KV_MAX_FORMATS], f16[KV_MAX_FORMATS];
    int recent_blocks[KV_MAX_FORMATS];
    bool coded[KV_MAX_FORMATS];
    size_t kv_bytes, used, idle, saved;
    size_t step; /* taken by steps under way */
    uint64_t clock;
    struct idles bases, recents;
    struct cache_block *buckets[BUCKETS], *free;
    struct cache_holder *(*holder_of)(void *owner);
    uint64_t claims[CLAIMS]; /* keys of blocks that this step computes */
    int n_claims;
    struct swap_model *swap; /* NULL: none */
    struct cache_model_swap swap_config;
    uint64_t random;
    long n_back, n_bad;
};

struct cache_model *cache_model_create(const struct kv_policy *policies, int n_formats, size_t kv_bytes)
{
    struct cache_model *model = calloc(1, sizeof *model);
    CHECK(model != NULL);
    model->kv_bytes = kv_bytes;
    for (int f = 0; f < n_formats; f++) {
        const struct kv_policy *policy = &policies[f];
        const struct kv_codec *codec = policy->format->codec;
        int counts[KV_KINDS];
        kv_policy_blocks(policy, KV_BLOCK_TOKENS, counts);
        model->f16[f] = kv_policy_block_bytes(policy, KV_F16);
        model->sinks[f] = (size_t)counts[KV_SINK] * kv_policy_block_bytes(policy, KV_SINK);
        model->coded[f] = codec != NULL;
        model->recent_blocks[f] = codec != NULL ? policy->recent_blocks : 0;
        if (codec == NULL) model->base[f] = model->f16[f];
        for (int part = 0; codec != NULL && part < kv_policy_parts(policy); part++)
            *(part < codec->n_old_parts ? &model->base[f] : &model->recent[f]) +=
                kv_policy_block_bytes(policy, KV_PART0 + (enum kv_kind)part);
        if (model->recent[f] == 0) model->recent_blocks[f] = 0;
    }
    return model;
}

void cache_model_free(struct cache_model *model)
{
    CHECK(model->used == 0 && model->saved == 0 && model->step == 0);
    swap_model_free(model->swap);
    for (int b = 0; b < BUCKETS; b++) {
        for (struct cache_block *block = model->buckets[b], *next; block != NULL; block = next) {
            next = block->chain;
            free(block);
        }
    }
    for (struct cache_block *block = model->free, *next; block != NULL; block = next) {
        next = block->chain;
        free(block);
    }
    free(model);
}

static size_t base_bytes(const struct cache_model *model, int format, int index)
{
    return model->base[format] + (index == 0 ? model->sinks[format] : 0);
}

/* --- The table --- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static uint64_t key_of(const struct cache_holder *holder, int index)
{
    uint64_t content = (index + 1) * KV_BLOCK_TOKENS <= holder->n_common
                           ? mix(holder->tenant * 1000 + holder->group) | 1
                           : mix(holder->id) & ~UINT64_C(1);
    return mix(content + (uint64_t)holder->seq->format * 131 +
               (uint64_t)index * UINT64_C(0x9e3779b97f4a7c15));
}

static struct cache_block *find(const struct cache_model *model, uint64_t key)
{
    struct cache_block *block = model->buckets[key % BUCKETS];
    while (block != NULL && block->key != key) block = block->chain;
    return block;
}

static void idle_insert(struct cache_model *model, struct idles *list, struct idle *idle,
                        struct cache_block *block)
{
    *idle = (struct idle){.block = block, .older = list->newest, .since = ++model->clock};
    *(list->newest != NULL ? &list->newest->newer : &list->oldest) = idle;
    list->newest = idle;
}

static void idle_remove(struct idles *list, struct idle *idle)
{
    *(idle->older != NULL ? &idle->older->newer : &list->oldest) = idle->newer;
    *(idle->newer != NULL ? &idle->newer->older : &list->newest) = idle->older;
}

static void base_idles(struct cache_model *model, struct cache_block *block)
{
    idle_insert(model, &model->bases, &block->base_idle, block);
    model->idle += base_bytes(model, block->format, block->index);
}

static void base_wakes(struct cache_model *model, struct cache_block *block)
{
    idle_remove(&model->bases, &block->base_idle);
    model->idle -= base_bytes(model, block->format, block->index);
}

static void recent_idles(struct cache_model *model, struct cache_block *block)
{
    idle_insert(model, &model->recents, &block->recent_idle, block);
    model->idle += model->recent[block->format];
}

static void recent_wakes(struct cache_model *model, struct cache_block *block)
{
    idle_remove(&model->recents, &block->recent_idle);
    model->idle -= model->recent[block->format];
}

static void swap_out(struct cache_model *model, const struct cache_block *block)
{
    size_t base = base_bytes(model, block->format, block->index);
    if (model->swap != NULL)
        swap_model_put(model->swap, block->key, base, block->recent ? model->recent[block->format] : 0,
                       block->chances);
}

static struct idle *oldest_of(const struct idles *list)
{
    struct idle *idle = list->oldest;
    while (idle != NULL && idle->block->pinned) idle = idle->newer;
    return idle;
}

static bool forget_oldest(struct cache_model *model)
{
    struct idle *base = oldest_of(&model->bases), *recent = oldest_of(&model->recents);
    if (base == NULL && recent == NULL) return false;
    if (base == NULL || (recent != NULL && recent->since < base->since)) {
        if (recent->block->holders == 0) swap_out(model, recent->block);
        recent_wakes(model, recent->block);
        recent->block->recent = false;
        return true;
    }
    struct cache_block *block = base->block, **at = &model->buckets[block->key % BUCKETS];
    CHECK(block->holders == 0 && block->recent_holders == 0);
    swap_out(model, block);
    base_wakes(model, block);
    if (block->recent) recent_wakes(model, block);
    while (*at != block) at = &(*at)->chain;
    *at = block->chain;
    block->chain = model->free;
    model->free = block;
    return true;
}

void cache_model_evict(struct cache_model *model, int n)
{
    while (n-- > 0 && forget_oldest(model)) {
    }
}

/* More bytes in use: idle ones make room, and there must be room. */
static void use(struct cache_model *model, size_t bytes)
{
    model->used += bytes;
    CHECK(model->used + model->step <= model->kv_bytes);
    while (model->used + model->step + model->idle > model->kv_bytes) forget_oldest(model);
}

/* --- Holding --- */

static void hold(struct cache_model *model, struct cache_block *block)
{
    size_t base = base_bytes(model, block->format, block->index);
    if (block->holders++ > 0) {
        model->saved += base;
        return;
    }
    block->chances = 0;
    base_wakes(model, block);
    use(model, base);
}

static void hold_recent(struct cache_model *model, struct cache_block *block, bool lasting)
{
    size_t bytes = model->recent[block->format];
    CHECK(block->recent && block->holders > block->recent_holders);
    if (block->recent_holders++ == 0) {
        recent_wakes(model, block);
        use(model, bytes);
    }
    if (lasting && block->lasting++ > 0) model->saved += bytes;
}

static void let_recent_go(struct cache_model *model, struct cache_block *block, bool lasting)
{
    size_t bytes = model->recent[block->format];
    CHECK(block->recent && block->recent_holders > 0);
    if (lasting && --block->lasting > 0) model->saved -= bytes;
    if (--block->recent_holders > 0) return;
    model->used -= bytes;
    recent_idles(model, block);
}

static void let_go(struct cache_model *model, struct cache_block *block)
{
    size_t base = base_bytes(model, block->format, block->index);
    CHECK(block->holders > block->recent_holders);
    if (--block->holders > 0) {
        model->saved -= base;
        return;
    }
    model->used -= base;
    base_idles(model, block);
}

static int recent_from(const struct cache_model *model, const struct cache_holder *holder, int n_blocks)
{
    int from = n_blocks - model->recent_blocks[holder->seq->format];
    if (model->recent[holder->seq->format] == 0) return n_blocks;
    return from > 0 ? from : 0;
}

/* From `before` sealed blocks to `after`; those new are in the table, held by nobody or by others. */
static void grow(struct cache_model *model, struct cache_holder *holder, int before, int after)
{
    int old_recent = recent_from(model, holder, before), new_recent = recent_from(model, holder, after);
    for (int b = before; b < after; b++) {
        holder->blocks[b] = find(model, key_of(holder, b));
        CHECK(holder->blocks[b] != NULL);
        hold(model, holder->blocks[b]);
    }
    for (int b = new_recent > before ? new_recent : before; b < after; b++)
        hold_recent(model, holder->blocks[b], b >= holder->lasting_block);
    for (int b = old_recent; b < new_recent && b < before; b++) {
        CHECK(b < holder->lasting_block);
        let_recent_go(model, holder->blocks[b], false);
    }
}

void cache_model_release(struct cache_model *model, struct cache_holder *holder)
{
    int n_blocks = holder->n_tokens / KV_BLOCK_TOKENS;
    CHECK(holder->new_bytes == 0);
    for (int b = n_blocks - 1; b >= 0; b--) {
        if (b >= recent_from(model, holder, n_blocks))
            let_recent_go(model, holder->blocks[b], b >= holder->lasting_block);
        let_go(model, holder->blocks[b]);
    }
    model->used -= holder->open_bytes;
    holder->open_bytes = 0;
    holder->n_tokens = 0;
}

/* --- Steps --- */

void cache_model_begin(struct cache_model *model, struct cache_holder *holder, int n)
{
    int format = holder->seq->format, last = holder->n_tokens + n;
    int before = holder->n_tokens / KV_BLOCK_TOKENS, after = last / KV_BLOCK_TOKENS;
    bool opens = last % KV_BLOCK_TOKENS != 0 && (after > before || holder->open_bytes == 0);
    size_t bytes = opens ? model->f16[format] : 0;

    CHECK(holder->n_tokens == holder->seq->n_cached);
    for (int b = before; b < after; b++) {
        if (model->coded[format])
            bytes +=
                base_bytes(model, format, b) + (model->recent_blocks[format] > 0 ? model->recent[format] : 0);
        else
            bytes += b == before && holder->open_bytes > 0 ? 0 : model->f16[format];
    }
    holder->new_bytes = bytes;
    model->step += bytes;
    use(model, 0);
}

/* An idle block of the cache; it must have room. */
static struct cache_block *add_block(struct cache_model *model, uint64_t key, int format, int index)
{
    struct cache_block *block = model->free;
    if (block != NULL)
        model->free = block->chain;
    else
        block = malloc(sizeof *block);
    CHECK(block != NULL);
    *block = (struct cache_block){
        .key = key, .format = format, .index = index, .chain = model->buckets[key % BUCKETS]};
    model->buckets[key % BUCKETS] = block;
    base_idles(model, block);
    return block;
}

static void add_recent(struct cache_model *model, struct cache_block *block)
{
    block->recent = true;
    recent_idles(model, block);
}

/* A block that has just been sealed becomes an idle one of the cache, unless it is there already. */
static void seal(struct cache_model *model, const struct cache_holder *holder, int index)
{
    uint64_t key = key_of(holder, index);
    int format = holder->seq->format;
    struct cache_block *block = find(model, key);

    if (block == NULL) block = add_block(model, key, format, index);
    CHECK(block->format == format && block->index == index);
    if (!block->recent && model->recent_blocks[format] > 0) add_recent(model, block);
}

void cache_model_end(struct cache_model *model, struct cache_holder *holder)
{
    int format = holder->seq->format;
    int before = holder->n_tokens / KV_BLOCK_TOKENS;

    holder->n_tokens += holder->seq->n_step;
    int after = holder->n_tokens / KV_BLOCK_TOKENS;
    model->step -= holder->new_bytes;
    holder->new_bytes = 0;
    model->used -= holder->open_bytes;
    holder->open_bytes = 0;
    for (int b = before; b < after; b++) {
        seal(model, holder, b);
        grow(model, holder, b, b + 1);
    }
    if (holder->n_tokens % KV_BLOCK_TOKENS != 0) {
        holder->open_bytes = model->f16[format];
        use(model, holder->open_bytes);
    }
}

/* --- For the scheduler --- */

static void model_lookup(void *context, const struct sched_seq *seq, int limit, struct sched_hit *out)
{
    const struct cache_model *model = context;
    const struct cache_holder *holder = model->holder_of(seq->owner);
    int format = seq->format, held = holder->n_tokens / KV_BLOCK_TOKENS, n_hit = 0, run = 0;
    int most = limit / KV_BLOCK_TOKENS;

    for (int b = 0; b < most; b++) {
        const struct cache_block *block = b < held ? holder->blocks[b] : find(model, key_of(holder, b));
        if (block == NULL) break;
        run = block->recent ? run + 1 : 0;
        int want = b + 1 < model->recent_blocks[format] ? b + 1 : model->recent_blocks[format];
        if (run >= want) n_hit = b + 1;
    }
    *out = (struct sched_hit){.n_tokens = n_hit * KV_BLOCK_TOKENS};
    for (int b = held; b < n_hit; b++) {
        const struct cache_block *block = find(model, key_of(holder, b));
        size_t base = base_bytes(model, format, b);
        *(block->holders == 0 ? &out->idle_bytes : &out->saved_bytes) += base;
        if (b < recent_from(model, holder, n_hit)) continue;
        if (block->recent_holders == 0) out->idle_bytes += model->recent[format];
        if (b >= holder->lasting_block && block->lasting > 0) out->saved_bytes += model->recent[format];
    }
}

static void model_take(void *context, struct sched_seq *seq, const struct sched_hit *hit)
{
    struct cache_model *model = context;
    struct cache_holder *holder = model->holder_of(seq->owner);
    size_t saved = model->saved, used = model->used;
    int before = holder->n_tokens / KV_BLOCK_TOKENS;

    CHECK(holder->n_tokens == seq->n_cached && holder->new_bytes == 0);
    model->used -= holder->open_bytes;
    used -= holder->open_bytes;
    holder->open_bytes = 0;
    holder->n_tokens = hit->n_tokens;
    grow(model, holder, before, hit->n_tokens / KV_BLOCK_TOKENS);
    CHECK(model->saved == saved + hit->saved_bytes);
    CHECK(model->used <= used + hit->idle_bytes);
}

static void model_drop(void *context, struct sched_seq *seq)
{
    struct cache_model *model = context;
    struct cache_holder *holder = model->holder_of(seq->owner);
    int n_blocks = holder->n_tokens / KV_BLOCK_TOKENS;
    cache_model_release(model, holder);
    for (int b = 0; b < n_blocks; b++) holder->blocks[b]->chances = model->swap_config.chances;
}

static int model_shared_tokens(void *context, const struct sched_seq *seq)
{
    const struct cache_model *model = context;
    const struct cache_holder *holder = model->holder_of(seq->owner);
    int low = 0, high = holder->n_tokens / KV_BLOCK_TOKENS; /* holders never increase from block to block */
    while (low < high) {
        int middle = (low + high) / 2;
        if (holder->blocks[middle]->holders > 1)
            low = middle + 1;
        else
            high = middle;
    }
    return low * KV_BLOCK_TOKENS;
}

static void model_memory(void *context, struct sched_memory *out)
{
    const struct cache_model *model = context;
    *out = (struct sched_memory){.used_bytes = model->used, .saved_bytes = model->saved};
}

void cache_model_plan(struct cache_model *model)
{
    model->n_claims = 0;
}

static bool model_claim(void *context, struct sched_seq *seq)
{
    struct cache_model *model = context;
    const struct cache_holder *holder = model->holder_of(seq->owner);
    int b = holder->n_tokens / KV_BLOCK_TOKENS;
    if ((b + 1) * KV_BLOCK_TOKENS > sched_hit_limit(seq)) return true;
    uint64_t key = key_of(holder, b);
    for (int i = 0; i < model->n_claims; i++) {
        if (model->claims[i] == key) return false;
    }
    CHECK(model->n_claims < CLAIMS);
    model->claims[model->n_claims++] = key;
    return true;
}

/* --- The second store --- */

void cache_model_swap(struct cache_model *model, const struct cache_model_swap *swap)
{
    model->swap_config = *swap;
    if (swap->bytes > 0) model->swap = swap_model_create(swap->bytes);
}

void cache_model_swapped(const struct cache_model *model, long *n_back, long *n_bad)
{
    *n_back = model->n_back;
    *n_bad = model->n_bad;
}

static bool chance(struct cache_model *model, double p)
{
    model->random = model->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(model->random >> 11) < p * 0x1p53;
}

static void model_look_further(void *context, const struct sched_seq *seq, int limit, struct sched_hit *out)
{
    struct cache_model *model = context;
    const struct cache_holder *holder = model->holder_of(seq->owner);
    int format = seq->format, n_hit = 0, run = 0;

    *out = (struct sched_hit){0};
    CHECK(holder->n_tokens == 0 && seq->state == SCHED_WAITING);
    if (chance(model, model->swap_config.dear)) return;
    for (int b = 0; b < limit / KV_BLOCK_TOKENS; b++) {
        const struct cache_block *block = find(model, key_of(holder, b));
        bool recent, there = swap_model_find(model->swap, key_of(holder, b), &recent);
        if (block == NULL && !there) break;
        run = recent || (block != NULL && block->recent) ? run + 1 : 0;
        int want = b + 1 < model->recent_blocks[format] ? b + 1 : model->recent_blocks[format];
        if (run >= want) n_hit = b + 1;
    }
    out->n_tokens = n_hit * KV_BLOCK_TOKENS;
    for (int b = 0; b < n_hit; b++) {
        const struct cache_block *block = find(model, key_of(holder, b));
        bool wants = b >= recent_from(model, holder, n_hit), lasts = b >= holder->lasting_block;
        size_t base = base_bytes(model, format, b), recent = model->recent[format];
        *(block == NULL || block->holders == 0 ? &out->idle_bytes : &out->saved_bytes) += base;
        if (wants && (block == NULL || block->recent_holders == 0)) out->idle_bytes += recent;
        if (wants && lasts && block != NULL && block->lasting > 0) out->saved_bytes += recent;
    }
}

static bool make_room(struct cache_model *model, size_t bytes)
{
    while (model->used + model->step + model->idle + bytes > model->kv_bytes)
        if (!forget_oldest(model)) return false;
    return true;
}

/* What block b lacks, as idle. False: damaged, forgotten meanwhile, or there is no room. */
static bool bring_back(struct cache_model *model, const struct cache_holder *holder, int b, bool wants)
{
    int format = holder->seq->format;
    uint64_t key = key_of(holder, b);
    struct cache_block *block = find(model, key);
    bool lacks = wants && model->recent_blocks[format] > 0 && (block == NULL || !block->recent), recent;

    if (block != NULL && !lacks) return true;
    if (!make_room(model,
                   (block == NULL ? base_bytes(model, format, b) : 0) + (lacks ? model->recent[format] : 0)))
        return false;
    if (!swap_model_find(model->swap, key, &recent)) return false;
    if (chance(model, model->swap_config.bad)) {
        swap_model_lose(model->swap, key);
        model->n_bad++;
        return false;
    }
    if (block == NULL) block = add_block(model, key, format, b);
    block->pinned = true;
    if (lacks && recent) add_recent(model, block);
    model->n_back++;
    return true;
}

static bool model_fetch(void *context, const struct sched_seq *seq, const struct sched_hit *hit)
{
    struct cache_model *model = context;
    const struct cache_holder *holder = model->holder_of(seq->owner);
    int n = hit->n_tokens / KV_BLOCK_TOKENS;
    bool recent, good = true;

    if (chance(model, model->swap_config.slow)) return false;
    for (int b = n - 1; b >= 0; b--) {
        struct cache_block *block = find(model, key_of(holder, b));
        if (block != NULL) block->pinned = true;
        if (swap_model_find(model->swap, key_of(holder, b), &recent))
            swap_model_touch(model->swap, key_of(holder, b));
    }
    for (int b = 0; b < n && good; b++)
        good = bring_back(model, holder, b, b >= recent_from(model, holder, n));
    for (int b = 0; b < n; b++) {
        struct cache_block *block = find(model, key_of(holder, b));
        if (block != NULL) block->pinned = false;
    }
    return true;
}

void cache_model_ops(struct cache_model *model, struct cache_holder *(*holder_of)(void *owner),
                     struct sched_cache *out)
{
    model->holder_of = holder_of;
    *out = (struct sched_cache){.context = model,
                                .lookup = model_lookup,
                                .take = model_take,
                                .drop = model_drop,
                                .shared_tokens = model_shared_tokens,
                                .memory = model_memory,
                                .claim = model_claim};
    if (model->swap == NULL) return;
    out->look_further = model_look_further;
    out->fetch = model_fetch;
}

size_t cache_model_used(const struct cache_model *model)
{
    return model->used;
}

size_t cache_model_idle(const struct cache_model *model)
{
    return model->idle;
}

void cache_model_verify(const struct cache_model *model, const struct sched *sched)
{
    size_t open = 0, used = 0, idle = 0, saved = 0;
    long holders = 0, recent_holders = 0, lasting = 0;

    for (const struct sched_seq *seq = sched_running(sched); seq != NULL; seq = sched_next(sched, seq)) {
        const struct cache_holder *holder = model->holder_of(seq->owner);
        int n_blocks = holder->n_tokens / KV_BLOCK_TOKENS, from = recent_from(model, holder, n_blocks);
        int later = from > holder->lasting_block ? from : holder->lasting_block;
        CHECK(holder->n_tokens == seq->n_cached && holder->new_bytes == 0);
        open += holder->open_bytes;
        holders += n_blocks;
        recent_holders += n_blocks - from;
        lasting += later < n_blocks && from < n_blocks ? n_blocks - later : 0;
        for (int b = 0; b < n_blocks; b++)
            CHECK(holder->blocks[b]->index == b && holder->blocks[b]->holders > 0);
    }
    for (int i = 0; i < BUCKETS; i++) {
        for (const struct cache_block *block = model->buckets[i]; block != NULL; block = block->chain) {
            size_t base = base_bytes(model, block->format, block->index),
                   recent = model->recent[block->format];
            *(block->holders > 0 ? &used : &idle) += base;
            if (block->recent) *(block->recent_holders > 0 ? &used : &idle) += recent;
            if (block->holders > 1) saved += (size_t)(block->holders - 1) * base;
            if (block->lasting > 1) saved += (size_t)(block->lasting - 1) * recent;
            holders -= block->holders;
            recent_holders -= block->recent_holders;
            lasting -= block->lasting;
        }
    }
    CHECK(holders == 0 && recent_holders == 0 && lasting == 0);
    CHECK(used + open == model->used && idle == model->idle && saved == model->saved && model->step == 0);
    CHECK(used + open + idle <= model->kv_bytes);
    if (model->swap != NULL) swap_model_verify(model->swap);
}
