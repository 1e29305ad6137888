#include "cache/swap.h"

#include "cache/swap_worker.h"
#include "config/clock.h"
#include "config/log.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * A place is given to a block, and the block stands in the index, as soon as its bytes are handed over; since
 * the worker does one job after the other, whoever wants it back later reads what was written. While a block
 * is read, its entry in the index is in use, so that its place stays its own.
 *
 * With places in host memory there is no worker: what it would do is done at once.
 */

static const int64_t most_fetch_us = 10 * 1000000; /* then the disk is taken for dead */

/* A chain on its way back. */
struct fetch {
    uint64_t id;       /* of this one; jobs of another are late */
    bool active, good; /* good: nothing has gone wrong yet */
    struct kv_prefix *prefix;
    struct kv_pool *pool;
    struct kv_hash *keys; /* [max_blocks] */
    int n_keys, n_old;
    int next;        /* block to ask for */
    int n_under_way; /* asked for and not there */
    int64_t since_us;
};

struct kv_swap {
    struct backend *backend;
    struct kv_swap_file *file;     /* NULL: places are host memory, and so is: */
    struct kv_swap_worker *worker; /* NULL */
    struct kv_pool *pool;          /* of places */
    struct kv_prefix *index;       /* whose blocks are places */
    struct kv_swap_job at_once[2]; /* without a worker: to read and to write, which reading may cause */
    struct fetch fetch;
    size_t class_bytes[KV_CLASSES]; /* of a block's bytes, its checksum aside */
    int max_blocks;
    struct kv_swap_stats stats;
};

/* ---- pieces ---- */

static int n_old_parts(const struct kv_format *format)
{
    return format->codec != NULL ? format->codec->n_old_parts : 1;
}

static bool block_has_recent(const struct kv_format *format, const struct kv_block_ref *block)
{
    int old = n_old_parts(format);
    return old < KV_MAX_PARTS && block->parts[old] != NULL;
}

/* The pieces of a block of the cache or of places: old parts and sinks when with_old, recent parts when
   with_recent. at[]: the address of each. Returns how many. */
static int pieces_of(const struct kv_swap *swap, const struct kv_format *format,
                     const struct kv_block_ref *block, bool with_old, bool with_recent,
                     struct kv_swap_piece pieces[KV_SWAP_PIECES], char *at[KV_SWAP_PIECES])
{
    int n = 0, old = n_old_parts(format);
    for (int p = 0; p < KV_MAX_PARTS; p++) {
        if (block->parts[p] == NULL || !(p < old ? with_old : with_recent)) continue;
        at[n] = block->parts[p];
        pieces[n++] = (struct kv_swap_piece){.class = kv_format_part_class(format, p), .number = p};
    }
    for (int s = 0; with_old && s < __builtin_popcountll(block->sink_mask); s++) {
        at[n] = block->sinks[s];
        pieces[n++] = (struct kv_swap_piece){.class = KV_SINK, .number = KV_MAX_PARTS + s};
    }
    for (int i = 0; i < n; i++) pieces[i].n_bytes = swap->class_bytes[pieces[i].class];
    return n;
}

static size_t pieces_bytes(const struct kv_pool *pool, const struct kv_swap_piece *pieces, int n)
{
    size_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += kv_pool_block_bytes(pool, pieces[i].class);
    return bytes;
}

/* A block of a pool from pieces: what kv_prefix_insert takes over. sinks: [KV_MAX_SINKS], for it. */
static struct kv_block_ref block_from(const struct kv_format *format, const struct kv_swap_piece *pieces,
                                      int n, char *const at[], uint64_t sink_mask, char **sinks)
{
    struct kv_block_ref block = {.sinks = sinks};
    for (int i = 0; i < n; i++) {
        if (pieces[i].number >= KV_MAX_PARTS) {
            sinks[pieces[i].number - KV_MAX_PARTS] = at[i];
            block.sink_mask = sink_mask;
        } else {
            block.parts[pieces[i].number] = at[i];
        }
    }
    if (format->codec == NULL) block.f16 = block.parts[0];
    return block;
}

static void release_pieces(struct kv_pool *pool, const struct kv_swap_piece *pieces, int n, char *const at[])
{
    for (int i = 0; i < n; i++) kv_pool_release(pool, pieces[i].class, at[i]);
}

/* All of them or none. */
static bool take_pieces(struct kv_pool *pool, const struct kv_swap_piece *pieces, int n, char *at[])
{
    for (int i = 0; i < n; i++) {
        at[i] = kv_pool_take(pool, pieces[i].class);
        if (at[i] != NULL) continue;
        release_pieces(pool, pieces, i, at);
        return false;
    }
    return true;
}

/* ---- life ---- */

/* The bytes of each class, and what a place of it takes. *block_bytes: the most of a block. Returns the most
   of a class. */
static size_t fill_classes(const struct kv_swap_options *options, struct kv_swap *swap,
                           size_t place_bytes[KV_CLASSES], size_t *block_bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), most = 0;
    for (int i = 0; i < options->n_policies; i++) {
        const struct kv_policy *policy = &options->policies[i];
        const struct kv_codec *codec = policy->format->codec;
        size_t bytes = kv_block_bytes(KV_F16, &policy->shape), parts = 0;
        swap->class_bytes[KV_F16] = bytes;
        swap->class_bytes[KV_SINK] = kv_block_bytes(KV_SINK, &policy->shape);
        for (int p = 0; codec != NULL && p < codec->n_parts; p++) {
            swap->class_bytes[kv_format_part_class(policy->format, p)] = kv_codec_part_bytes(codec, p);
            parts += kv_codec_part_bytes(codec, p);
        }
        if (parts > bytes) bytes = parts;
        bytes += (size_t)options->max_sinks * swap->class_bytes[KV_SINK];
        if (bytes > *block_bytes) *block_bytes = bytes;
    }
    for (int class = 0; class < KV_CLASSES; class ++) {
        size_t bytes = swap->class_bytes[class];
        place_bytes[class] =
            bytes > 0 ? (bytes + sizeof(struct kv_swap_checksum) + page - 1) / page * page : 0;
        if (bytes > most) most = bytes;
    }
    return most;
}

enum err kv_swap_create(const struct kv_swap_options *options, struct kv_swap **out, struct err_info *info)
{
    enum err err = ERR_OK;
    size_t place_bytes[KV_CLASSES], block_bytes = 0;
    struct kv_swap *swap = calloc(1, sizeof *swap);
    if (swap == NULL) return err_set(info, ERR_MEMORY, "swap: out of memory");
    swap->backend = options->backend;
    swap->max_blocks = options->max_blocks;
    size_t most = fill_classes(options, swap, place_bytes, &block_bytes);
    if (options->budget_bytes < 2 * most) {
        err = err_set_param(info, ERR_USAGE, "swap-bytes",
                            "--swap-bytes of %zu does not hold two blocks of %zu bytes (%d tokens)",
                            options->budget_bytes, most, KV_BLOCK_TOKENS);
        goto out;
    }
    swap->fetch.keys = calloc((size_t)options->max_blocks + 1, sizeof *swap->fetch.keys);
    if (swap->fetch.keys == NULL) {
        err = err_set(info, ERR_MEMORY, "swap: out of memory");
        goto out;
    }
    if (options->path != NULL) err = kv_swap_file_create(options->path, &swap->file, info);
    struct backend *ranges = swap->file != NULL ? kv_swap_file_ranges(swap->file) : NULL;
    if (err == ERR_OK) err = kv_pool_create_on(ranges, place_bytes, options->budget_bytes, &swap->pool, info);
    if (err == ERR_OK) err = kv_prefix_create(swap->pool, options->max_sinks, &swap->index, info);
    if (err == ERR_OK && swap->file != NULL)
        err = kv_swap_worker_create(swap->file, block_bytes, &swap->worker, info);
    if (err != ERR_OK) goto out;
    *out = swap;
    swap = NULL;
out:
    kv_swap_free(swap);
    return err;
}

void kv_swap_free(struct kv_swap *swap)
{
    if (swap == NULL) return;
    if (swap->worker != NULL) {
        swap->fetch.active = false;
        swap->stats.given_up = true; /* what was not done is no failure */
        kv_swap_worker_stop(swap->worker);
        kv_swap_collect(swap);
        kv_swap_worker_free(swap->worker);
    }
    kv_prefix_free(swap->index);
    kv_pool_free(swap->pool);
    kv_swap_file_free(swap->file);
    free(swap->fetch.keys);
    free(swap);
}

static void give_up(struct kv_swap *swap, int error)
{
    if (swap->stats.given_up) return;
    swap->stats.given_up = true;
    swap->stats.failures++;
    kv_prefix_clear(swap->index);
    kv_swap_file_empty(swap->file);
    log_warn("swap", "the swap file cannot be written (%s): the server goes on without",
             error != 0 ? strerror(error) : "cut short");
}

/* ---- jobs ---- */

/* NULL: the queue is full. */
static struct kv_swap_job *job_take(struct kv_swap *swap, bool writes)
{
    if (swap->worker != NULL) return kv_swap_worker_job(swap->worker, writes);
    swap->at_once[writes].writes = writes;
    return &swap->at_once[writes];
}

static void job_put_back(struct kv_swap *swap, struct kv_swap_job *job)
{
    if (swap->worker != NULL) kv_swap_worker_give_back(swap->worker, job);
}

/* Host memory for each piece on its way: the job's own, or the place itself where that is host memory. */
static void job_lay_out(const struct kv_swap *swap, struct kv_swap_job *job)
{
    char *at = job->bytes;
    for (int i = 0; i < job->block.n_pieces; i++) {
        struct kv_swap_piece *piece = &job->block.pieces[i];
        piece->memory = swap->file != NULL ? at : piece->place;
        if (swap->file != NULL) at += piece->n_bytes;
    }
}

static void job_wrote(struct kv_swap *swap, struct kv_swap_job *job)
{
    swap->stats.out_us += job->took_us;
    if (job->outcome == KV_SWAP_FAILED) {
        give_up(swap, job->error);
    } else {
        for (int i = 0; i < job->block.n_pieces; i++) swap->stats.out_bytes += job->block.pieces[i].n_bytes;
        swap->stats.out_blocks++;
    }
    job_put_back(swap, job);
}

static void job_read(struct kv_swap *swap, struct kv_swap_job *job);

static void job_done(struct kv_swap *swap, struct kv_swap_job *job)
{
    if (job->writes)
        job_wrote(swap, job);
    else
        job_read(swap, job);
}

static void job_hand_over(struct kv_swap *swap, struct kv_swap_job *job)
{
    if (swap->worker != NULL) {
        kv_swap_worker_hand_over(swap->worker, job);
        return;
    }
    int64_t start_us = clock_us();
    job->outcome =
        job->writes ? kv_swap_block_write(NULL, &job->block) : kv_swap_block_read(NULL, &job->block);
    job->took_us = clock_us() - start_us;
    job_done(swap, job);
}

void kv_swap_collect(struct kv_swap *swap)
{
    struct kv_swap_job *job;
    while (swap->worker != NULL && (job = kv_swap_worker_take(swap->worker)) != NULL) job_done(swap, job);
}

bool kv_swap_wait(struct kv_swap *swap, int timeout_ms)
{
    bool waited = swap->worker != NULL && kv_swap_worker_wait(swap->worker, timeout_ms);
    kv_swap_collect(swap);
    return waited;
}

/* ---- out ---- */

/* Which of the two a put would write. */
static void put_needs(const struct kv_swap *swap, struct kv_hash key, const struct kv_format *format,
                      const struct kv_block_ref *block, bool *old, bool *recent)
{
    const struct kv_prefix_entry *entry = kv_prefix_find(swap->index, key);
    *old = entry == NULL;
    *recent = block_has_recent(format, block) && (entry == NULL || !kv_prefix_has_recent(entry));
}

/* The most recently used one again. */
static void touch(struct kv_swap *swap, struct kv_prefix_entry *entry)
{
    struct kv_block_ref unused;
    enum kv_prefix_use use = kv_prefix_has_recent(entry) ? KV_USE_RECENT : KV_USE_OLD;
    kv_prefix_use(swap->index, entry, use, &unused);
    kv_prefix_drop(swap->index, entry, use);
}

size_t kv_swap_put_bytes(const struct kv_swap *swap, struct kv_hash key, const struct kv_format *format,
                         const struct kv_block_ref *block)
{
    struct kv_swap_piece pieces[KV_SWAP_PIECES];
    char *at[KV_SWAP_PIECES];
    bool old, recent;
    if (swap->stats.given_up) return 0;
    put_needs(swap, key, format, block, &old, &recent);
    int n = pieces_of(swap, format, block, old, recent, pieces, at);
    return pieces_bytes(swap->pool, pieces, n);
}

/* Places for the pieces of the job, which stand in the index from then on. NULL: there is no room. */
static struct kv_prefix_entry *put_places(struct kv_swap *swap, struct kv_swap_job *job,
                                          const struct kv_format *format, const struct kv_block_ref *block,
                                          bool old, bool recent)
{
    struct kv_swap_piece *pieces = job->block.pieces;
    char *places[KV_SWAP_PIECES], *sinks[KV_MAX_SINKS];
    int n = job->block.n_pieces;
    enum kv_prefix_use use = recent ? KV_USE_RECENT : KV_USE_OLD;

    if (!kv_prefix_reclaim(swap->index, pieces_bytes(swap->pool, pieces, n))) return NULL;
    /* Making room took the rest of it: the store is that small. */
    if (!old && kv_prefix_find(swap->index, job->block.key) == NULL) return NULL;
    if (!take_pieces(swap->pool, pieces, n, places)) return NULL;
    struct kv_block_ref place = block_from(format, pieces, n, places, block->sink_mask, sinks);
    struct kv_prefix_entry *entry = kv_prefix_insert(swap->index, job->block.key, format, use, &place);
    if (entry == NULL) {
        release_pieces(swap->pool, pieces, n, places);
        return NULL;
    }
    kv_prefix_drop(swap->index, entry, use);
    for (int i = 0; i < n; i++) pieces[i].place = places[i];
    return entry;
}

static void copy_out(struct kv_swap *swap, struct kv_swap_job *job, char *const from[])
{
    struct backend *backend = swap->backend;
    job_lay_out(swap, job);
    for (int i = 0; i < job->block.n_pieces; i++) {
        const struct kv_swap_piece *piece = &job->block.pieces[i];
        backend->download(backend, piece->memory, from[i], piece->n_bytes);
    }
}

void kv_swap_put(struct kv_swap *swap, struct kv_hash key, const struct kv_format *format,
                 const struct kv_block_ref *block, int chances)
{
    char *from[KV_SWAP_PIECES];
    bool old, recent;
    if (swap->stats.given_up) return;
    put_needs(swap, key, format, block, &old, &recent);
    struct kv_prefix_entry *entry = kv_prefix_find(swap->index, key);
    if (entry != NULL) {
        if (chances < kv_prefix_chances(entry)) chances = kv_prefix_chances(entry);
        touch(swap, entry); /* making room must not take it */
        kv_prefix_favour(entry, chances);
        if (!recent) return; /* all of it is there */
    }
    struct kv_swap_job *job = job_take(swap, true);
    if (job == NULL) {
        swap->stats.dropped_blocks++;
        return;
    }
    job->block.key = key;
    job->block.n_pieces = pieces_of(swap, format, block, old, recent, job->block.pieces, from);
    entry = put_places(swap, job, format, block, old, recent);
    if (entry == NULL) {
        job_put_back(swap, job);
        return;
    }
    kv_prefix_favour(entry, chances);
    copy_out(swap, job, from);
    job_hand_over(swap, job);
}

/* ---- in ---- */

int kv_swap_longest(const struct kv_swap *swap, const struct kv_prefix *prefix, const struct kv_hash *keys,
                    int n_keys, int recent_blocks)
{
    int longest = 0, with_recent = 0;
    for (int b = 0; b < n_keys; b++) {
        const struct kv_prefix_entry *here = kv_prefix_find(prefix, keys[b]);
        const struct kv_prefix_entry *there = kv_prefix_find(swap->index, keys[b]);
        if (here == NULL && there == NULL) break;
        bool recent =
            (here != NULL && kv_prefix_has_recent(here)) || (there != NULL && kv_prefix_has_recent(there));
        with_recent = recent ? with_recent + 1 : 0;
        if (with_recent >= recent_blocks || with_recent == b + 1) longest = b + 1;
    }
    return longest;
}

/* The pieces that the cache lacks and the store has, and their places. */
static int missing_pieces(const struct kv_swap *swap, const struct kv_prefix *prefix, struct kv_hash key,
                          bool with_recent, struct kv_swap_piece pieces[KV_SWAP_PIECES],
                          char *places[KV_SWAP_PIECES])
{
    const struct kv_prefix_entry *here = kv_prefix_find(prefix, key);
    const struct kv_prefix_entry *there = kv_prefix_find(swap->index, key);
    const struct kv_format *format;
    struct kv_block_ref place;
    bool recent = with_recent && (here == NULL || !kv_prefix_has_recent(here));
    if (there == NULL || (here != NULL && !recent)) return 0;
    kv_prefix_view(there, &format, &place);
    return pieces_of(swap, format, &place, here == NULL, recent, pieces, places);
}

size_t kv_swap_missing(const struct kv_swap *swap, const struct kv_prefix *prefix, const struct kv_pool *pool,
                       struct kv_hash key, bool with_recent)
{
    struct kv_swap_piece pieces[KV_SWAP_PIECES];
    char *places[KV_SWAP_PIECES];
    int n = missing_pieces(swap, prefix, key, with_recent, pieces, places);
    return pieces_bytes(pool, pieces, n);
}

/* Into memory of the cache, as an idle block. False: no room. */
static bool copy_in(struct kv_swap *swap, const struct kv_swap_job *job, const struct kv_format *format,
                    uint64_t sink_mask)
{
    struct fetch *fetch = &swap->fetch;
    const struct kv_swap_piece *pieces = job->block.pieces;
    char *memory[KV_SWAP_PIECES], *sinks[KV_MAX_SINKS];
    int n = job->block.n_pieces;
    bool whole = false, recent = false;

    for (int i = 0; i < n; i++) {
        whole = whole || pieces[i].number == 0;
        recent = recent || (pieces[i].number >= n_old_parts(format) && pieces[i].number < KV_MAX_PARTS);
    }
    if (!kv_prefix_reclaim(fetch->prefix, pieces_bytes(fetch->pool, pieces, n))) return false;
    /* What was to be added to has gone meanwhile. */
    if (!whole && kv_prefix_find(fetch->prefix, job->block.key) == NULL) return false;
    if (!take_pieces(fetch->pool, pieces, n, memory)) return false;
    for (int i = 0; i < n; i++)
        swap->backend->upload(swap->backend, memory[i], pieces[i].memory, pieces[i].n_bytes);
    struct kv_block_ref block = block_from(format, pieces, n, memory, sink_mask, sinks);
    enum kv_prefix_use use = recent ? KV_USE_RECENT : KV_USE_OLD;
    struct kv_prefix_entry *entry = kv_prefix_insert(fetch->prefix, job->block.key, format, use, &block);
    if (entry == NULL) {
        release_pieces(fetch->pool, pieces, n, memory);
        return false;
    }
    kv_prefix_drop(fetch->prefix, entry, use);
    for (int i = 0; i < n; i++) swap->stats.in_bytes += pieces[i].n_bytes;
    swap->stats.in_blocks++;
    return true;
}

static void count_loss(struct kv_swap *swap, const struct kv_swap_job *job)
{
    if (job->outcome == KV_SWAP_DAMAGED) {
        swap->stats.bad_checksums++;
        log_warn("swap", "a block is not what was written, and is computed again");
    } else if (!swap->stats.given_up) {
        swap->stats.failures++;
        log_warn("swap", "a block cannot be read back and is computed again: %s",
                 job->error != 0 ? strerror(job->error) : "the file was cut short");
    }
}

/* A block was read: it goes to the cache, unless nobody waits for it any more; a bad one is forgotten. */
static void job_read(struct kv_swap *swap, struct kv_swap_job *job)
{
    struct fetch *fetch = &swap->fetch;
    struct kv_prefix_entry *entry = kv_prefix_find(swap->index, job->block.key);
    const struct kv_format *format;
    struct kv_block_ref place;
    bool awaited = fetch->active && job->fetch == fetch->id, good = job->outcome == KV_SWAP_DONE;

    swap->stats.in_us += job->took_us;
    kv_prefix_view(entry, &format, &place);
    if (!good) count_loss(swap, job);
    if (awaited) {
        fetch->n_under_way--;
        fetch->good = fetch->good && good && copy_in(swap, job, format, place.sink_mask);
    }
    kv_prefix_drop(swap->index, entry, job->use);
    if ((!good || swap->stats.given_up) && kv_prefix_users(entry) == 0) kv_prefix_forget(swap->index, entry);
    job_put_back(swap, job);
}

/* What the cache has of the chain, and then what the store has, is the last to be given up, the chain's end
   before its beginning. */
static void touch_chain(struct kv_swap *swap)
{
    const struct fetch *fetch = &swap->fetch;
    for (int b = fetch->n_keys - 1; b >= 0; b--) {
        struct kv_prefix_entry *here = kv_prefix_find(fetch->prefix, fetch->keys[b]);
        struct kv_prefix_entry *there = kv_prefix_find(swap->index, fetch->keys[b]);
        if (there != NULL) touch(swap, there);
        if (here == NULL) continue;
        struct kv_block_ref unused;
        bool recent = b >= fetch->n_old && kv_prefix_has_recent(here);
        kv_prefix_use(fetch->prefix, here, recent ? KV_USE_RECENT : KV_USE_OLD, &unused);
        kv_prefix_drop(fetch->prefix, here, recent ? KV_USE_RECENT : KV_USE_OLD);
    }
}

/* Ask for the next block. False: the queue is full. */
static bool ask(struct kv_swap *swap)
{
    struct fetch *fetch = &swap->fetch;
    struct kv_hash key = fetch->keys[fetch->next];
    bool recent = fetch->next >= fetch->n_old;
    const struct kv_prefix_entry *here = kv_prefix_find(fetch->prefix, key);
    char *places[KV_SWAP_PIECES];
    struct kv_block_ref unused;

    if (here != NULL && (!recent || kv_prefix_has_recent(here))) {
        fetch->next++;
        return true;
    }
    struct kv_swap_job *job = job_take(swap, false);
    if (job == NULL) return false;
    job->block.key = key;
    job->block.n_pieces = missing_pieces(swap, fetch->prefix, key, recent, job->block.pieces, places);
    if (job->block.n_pieces == 0) {
        job_put_back(swap, job);
        fetch->good = false; /* forgotten meanwhile */
        return true;
    }
    for (int i = 0; i < job->block.n_pieces; i++) job->block.pieces[i].place = places[i];
    job_lay_out(swap, job);
    struct kv_prefix_entry *there = kv_prefix_find(swap->index, key);
    job->use = kv_prefix_has_recent(there) ? KV_USE_RECENT : KV_USE_OLD;
    job->fetch = fetch->id;
    kv_prefix_use(swap->index, there, job->use, &unused);
    fetch->next++;
    fetch->n_under_way++;
    job_hand_over(swap, job);
    return true;
}

static bool is_current(const struct fetch *fetch, const struct kv_hash *keys, int n_keys)
{
    return fetch->active && fetch->n_keys == n_keys && fetch->keys[n_keys - 1].low == keys[n_keys - 1].low &&
           fetch->keys[n_keys - 1].high == keys[n_keys - 1].high;
}

bool kv_swap_fetch(struct kv_swap *swap, struct kv_prefix *prefix, struct kv_pool *pool,
                   const struct kv_hash *keys, int n_keys, int recent_blocks)
{
    struct fetch *fetch = &swap->fetch;
    assert(n_keys <= swap->max_blocks);
    if (n_keys == 0) return true;
    if (!is_current(fetch, keys, n_keys)) {
        *fetch = (struct fetch){.id = fetch->id + 1,
                                .active = true,
                                .good = true,
                                .prefix = prefix,
                                .pool = pool,
                                .keys = fetch->keys,
                                .n_keys = n_keys,
                                .n_old = n_keys > recent_blocks ? n_keys - recent_blocks : 0,
                                .since_us = clock_us()};
        memcpy(fetch->keys, keys, (size_t)n_keys * sizeof *keys);
        touch_chain(swap);
    }
    kv_swap_collect(swap);
    while (fetch->good && fetch->next < n_keys && ask(swap)) continue;
    fetch->active = fetch->good && (fetch->next < n_keys || fetch->n_under_way > 0);
    if (fetch->active && clock_us() - fetch->since_us > most_fetch_us) {
        swap->stats.failures++;
        log_warn("swap", "blocks do not come back from the swap file and are computed again");
        fetch->active = false;
    }
    return !fetch->active;
}

/* ---- looking ---- */

void kv_swap_stats(const struct kv_swap *swap, struct kv_swap_stats *out)
{
    struct kv_prefix_stats index;
    struct kv_pool_stats pool;
    kv_prefix_stats(swap->index, &index);
    kv_pool_stats(swap->pool, &pool);
    *out = swap->stats;
    out->n_blocks = index.n_entries;
    out->used_bytes = index.used_bytes + index.idle_bytes;
    out->budget_bytes = pool.budget_bytes;
}

void kv_swap_check(const struct kv_swap *swap)
{
    kv_prefix_check(swap->index);
    kv_pool_check(swap->pool);
}
