#include "server/engine_cache.h"

#include "cache/prefix_file.h"
#include "config/log.h"
#include "server/engine_swap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- keys ---- */

int engine_cache_keys(int n_prompt, int max_tokens)
{
    return (int)(((int64_t)n_prompt + max_tokens) / KV_BLOCK_TOKENS);
}

/* All that the bytes of a block depend on besides the tokens and what is the same for the whole server. */
static struct kv_hash format_seed(const struct engine *engine, int format)
{
    const char *name = engine->policies[format].format->name;
    return kv_prefix_seed(name, strlen(name));
}

static struct kv_hash job_seed(const struct engine *engine, const struct engine_job *job)
{
    struct kv_hash seed[2] = {engine->seeds[job->seq.format], {.low = job->ticket->request->cache_salt}};
    return kv_prefix_seed(seed, sizeof seed);
}

static int32_t job_token(const struct engine_job *job, int position)
{
    int n_prompt = job->seq.n_prompt;
    return position < n_prompt ? job->choice->prompt[position] : job->output[position - n_prompt];
}

const struct kv_hash *engine_cache_job_keys(const struct engine *engine, struct engine_job *job, int n)
{
    for (; job->n_keys < n; job->n_keys++) {
        int32_t tokens[KV_BLOCK_TOKENS];
        for (int i = 0; i < KV_BLOCK_TOKENS; i++)
            tokens[i] = job_token(job, job->n_keys * KV_BLOCK_TOKENS + i);
        struct kv_hash parent = job->n_keys > 0 ? job->keys[job->n_keys - 1] : job_seed(engine, job);
        job->keys[job->n_keys] = kv_prefix_hash(parent, tokens);
    }
    return job->keys;
}

int engine_cache_recent(const struct kv_policy *policy)
{
    return policy->format->codec != NULL ? policy->recent_blocks : 0;
}

/* ---- the scheduler's questions ---- */

static void cache_lookup(void *context, const struct sched_seq *seq, int limit, struct sched_hit *out)
{
    const struct engine *engine = context;
    struct engine_job *job = seq->owner;
    const struct kv_policy *policy = &engine->policies[seq->format];
    int n_keys = limit / KV_BLOCK_TOKENS, recent = engine_cache_recent(policy);

    *out = (struct sched_hit){0};
    const struct kv_hash *keys = engine_cache_job_keys(engine, job, n_keys);
    int n = kv_prefix_longest(engine->prefix, keys, n_keys, recent);
    int lasting = sched_lasting_block(engine->sched, seq);
    for (int b = 0; b < n; b++) {
        enum kv_prefix_use use = kv_prefix_use_of(policy->format, b, n - recent, lasting);
        kv_prefix_price(engine->prefix, kv_prefix_find(engine->prefix, keys[b]), use, &out->idle_bytes,
                        &out->saved_bytes);
    }
    out->n_tokens = n * KV_BLOCK_TOKENS;
}

static void job_adopt(struct engine *engine, struct engine_job *job, int n_blocks)
{
    if (job->kv == NULL) {
        assert(engine->n_free_kv > 0);
        job->kv = engine->free_kv[--engine->n_free_kv];
        for (job->slot = 0; engine->all_kv[job->slot] != job->kv;) job->slot++;
    }
    kv_sequence_reset(job->kv, &engine->policies[job->seq.format]);
    if (engine->prefix == NULL) return;
    int n = kv_sequence_adopt(job->kv, engine_cache_job_keys(engine, job, n_blocks), n_blocks,
                              sched_lasting_block(engine->sched, &job->seq));
    assert(n == n_blocks);
    (void)n;
}

static void cache_take(void *context, struct sched_seq *seq, const struct sched_hit *hit)
{
    job_adopt(context, seq->owner, hit->n_tokens / KV_BLOCK_TOKENS);
}

/* It will be back, so the second store keeps its blocks rather than others'. */
static void cache_drop(void *context, struct sched_seq *seq)
{
    struct engine *engine = context;
    struct engine_job *job = seq->owner;
    int n = job->kv != NULL && engine->swap != NULL ? seq->n_cached / KV_BLOCK_TOKENS : 0;
    engine_cache_close(engine, job);
    for (int b = 0; b < n; b++) {
        struct kv_prefix_entry *entry = kv_prefix_find(engine->prefix, job->keys[b]);
        if (entry != NULL) kv_prefix_favour(entry, KV_SWAP_CHANCES);
    }
}

static int cache_shared_tokens(void *context, const struct sched_seq *seq)
{
    const struct engine_job *job = seq->owner;
    (void)context;
    return job->kv != NULL ? kv_sequence_shared_tokens(job->kv) : 0;
}

static void cache_memory(void *context, struct sched_memory *out)
{
    const struct engine *engine = context;
    struct kv_prefix_stats stats;
    kv_prefix_stats(engine->prefix, &stats);
    out->used_bytes = engine->options.kv_bytes - kv_pool_free_bytes(engine->pool) - stats.idle_bytes;
    out->saved_bytes = stats.saved_bytes;
}

/* Of several sequences whose next block is the same, the first to ask computes it, the others wait for the
   hit: a system prompt that comes with sixty-four clients at once is computed once. */
static bool cache_claim(void *context, struct sched_seq *seq)
{
    struct engine *engine = context;
    struct engine_job *job = seq->owner;
    int b = seq->n_cached / KV_BLOCK_TOKENS;
    if ((b + 1) * KV_BLOCK_TOKENS > sched_hit_limit(seq)) return true;
    struct kv_hash key = engine_cache_job_keys(engine, job, b + 1)[b];
    size_t at = key.low & engine->claim_mask;
    for (; engine->claims[at].step == engine->claim_step; at = (at + 1) & engine->claim_mask)
        if (engine->claims[at].key.low == key.low && engine->claims[at].key.high == key.high) return false;
    engine->claims[at].step = engine->claim_step;
    engine->claims[at].key = key;
    return true;
}

/* ---- life ---- */

static enum err claims_create(struct engine *engine, struct err_info *info)
{
    size_t n = 64;
    while (n < 2 * (size_t)engine->options.parallel) n *= 2;
    engine->claims = calloc(n, sizeof *engine->claims);
    engine->claim_mask = n - 1;
    return engine->claims != NULL ? ERR_OK : err_set(info, ERR_MEMORY, "prefix cache: out of memory");
}

enum err engine_cache_create(struct engine *engine, struct err_info *info)
{
    for (int format = 0; format < engine->n_formats; format++)
        engine->seeds[format] = format_seed(engine, format);
    engine->cache = (struct sched_cache){.context = engine,
                                         .lookup = cache_lookup,
                                         .take = cache_take,
                                         .drop = cache_drop,
                                         .shared_tokens = cache_shared_tokens,
                                         .memory = cache_memory,
                                         .claim = cache_claim};
    if (engine->options.no_prefix_cache) return ERR_OK;
    enum err err = claims_create(engine, info);
    if (err != ERR_OK) return err;
    err = kv_prefix_create(engine->pool, engine->options.sink_tokens, &engine->prefix, info);
    return err == ERR_OK ? engine_swap_create(engine, info) : err;
}

void engine_cache_free(struct engine *engine)
{
    engine_swap_free(engine); /* before, or it would be told of all that goes */
    kv_prefix_free(engine->prefix);
    free(engine->claims);
    engine->prefix = NULL;
    engine->claims = NULL;
}

/* ---- from one run to the next ---- */

static struct kv_prefix_identity cache_identity(const struct engine *engine)
{
    return (struct kv_prefix_identity){.hash = engine->options.cache_identity,
                                       .shape = &engine->policies[0].shape};
}

enum err engine_cache_load(struct engine *engine, struct err_info *info)
{
    const char *path = engine->options.prompt_cache;
    struct kv_prefix_identity identity = cache_identity(engine);
    int64_t n_blocks = 0;
    if (engine->prefix == NULL || path == NULL || access(path, F_OK) != 0) return ERR_OK;
    enum err err = kv_prefix_load(engine->prefix, engine->pool, engine->options.formats, &identity, path,
                                  &n_blocks, info);
    if (err == ERR_OK)
        log_info("engine", "%s: %lld cached blocks of %d tokens", path, (long long)n_blocks, KV_BLOCK_TOKENS);
    return err;
}

void engine_cache_save(const struct engine *engine)
{
    const char *path = engine->options.prompt_cache;
    struct kv_prefix_identity identity = cache_identity(engine);
    struct kv_prefix_stats stats;
    struct err_info info;
    if (engine->prefix == NULL || path == NULL) return;
    kv_prefix_stats(engine->prefix, &stats);
    log_info("engine", "%s: writing %lld cached blocks", path, (long long)stats.n_entries);
    if (kv_prefix_save(engine->prefix, engine->pool, engine->options.formats, &identity, path, NULL, &info) !=
        ERR_OK)
        log_error("engine", "the prompt cache is lost: %s", info.message);
}

void engine_cache_begin(struct engine *engine)
{
    engine_swap_begin(engine);
    engine->claim_step++;
}

void engine_cache_open(struct engine *engine, struct engine_job *job)
{
    job_adopt(engine, job, 0);
}

void engine_cache_end(struct engine *engine, struct engine_job *job)
{
    if (engine->prefix == NULL) {
        kv_sequence_end(job->kv);
        return;
    }
    int first = job->seq.n_cached / KV_BLOCK_TOKENS;
    const struct kv_hash *keys = engine_cache_job_keys(engine, job, first + kv_sequence_completes(job->kv));
    kv_sequence_end_shared(job->kv, keys + first);
}

void engine_cache_close(struct engine *engine, struct engine_job *job)
{
    if (job->kv == NULL) return;
    kv_sequence_reset(job->kv, &engine->policies[job->seq.format]);
    engine->free_kv[engine->n_free_kv++] = job->kv;
    job->kv = NULL;
}
