#include "server/engine_swap.h"

#include "config/log.h"
#include "server/engine_cache.h"

static const double forgive = 0.99; /* what was found too dear is tried again some time */
enum { WAIT_MS = 10 };              /* until the mailbox is looked at again */

bool engine_swap_pays(double token_us, int n_tokens, double byte_us, size_t n_bytes)
{
    return token_us <= 0 || byte_us * (double)n_bytes < token_us * n_tokens;
}

static bool pays(const struct engine *engine, int n_tokens, double byte_us, size_t n_bytes)
{
    return engine->options.swap_always || engine_swap_pays(engine->token_us, n_tokens, byte_us, n_bytes);
}

static void learn(double *byte_us, uint64_t n_bytes, int64_t took_us)
{
    if (n_bytes == 0) return;
    double now = (double)took_us / (double)n_bytes;
    *byte_us += (now - *byte_us) * (*byte_us > 0 ? 0.25 : 1);
}

void engine_swap_begin(struct engine *engine)
{
    struct kv_swap_stats now, *seen = &engine->swap_seen;
    if (engine->swap == NULL) return;
    kv_swap_collect(engine->swap);
    kv_swap_stats(engine->swap, &now);
    learn(&engine->swap_out_us, now.out_bytes - seen->out_bytes, now.out_us - seen->out_us);
    learn(&engine->swap_in_us, now.in_bytes - seen->in_bytes, now.in_us - seen->in_us);
    *seen = now;
}

void engine_swap_wait(struct engine *engine)
{
    if (sched_fetching(engine->sched)) kv_swap_wait(engine->swap, WAIT_MS);
}

/* ---- out ---- */

static void swap_evicted(void *context, struct kv_hash key, const struct kv_format *format,
                         const struct kv_block_ref *block, int chances)
{
    struct engine *engine = context;
    size_t n_bytes = kv_swap_put_bytes(engine->swap, key, format, block);
    if (pays(engine, KV_BLOCK_TOKENS, engine->swap_out_us + engine->swap_in_us, n_bytes))
        kv_swap_put(engine->swap, key, format, block, chances);
    else
        engine->swap_out_us *= forgive;
}

/* ---- in ---- */

/* What a hit of n blocks would cost. */
static size_t price(const struct engine *engine, const struct sched_seq *seq, const struct kv_hash *keys,
                    int n, struct sched_hit *out)
{
    const struct kv_policy *policy = &engine->policies[seq->format];
    int n_old = n - engine_cache_recent(policy), lasting = sched_lasting_block(engine->sched, seq);
    size_t swapped = 0;
    for (int b = 0; b < n; b++) {
        enum kv_prefix_use use = kv_prefix_use_of(policy->format, b, n_old, lasting);
        struct kv_prefix_entry *entry = kv_prefix_find(engine->prefix, keys[b]);
        if (entry != NULL) kv_prefix_price(engine->prefix, entry, use, &out->idle_bytes, &out->saved_bytes);
        swapped += kv_swap_missing(engine->swap, engine->prefix, engine->pool, keys[b], use != KV_USE_OLD);
    }
    out->idle_bytes += swapped;
    out->n_tokens = n * KV_BLOCK_TOKENS;
    return swapped;
}

static void swap_look_further(void *context, const struct sched_seq *seq, int limit, struct sched_hit *out)
{
    struct engine *engine = context;
    int n_keys = limit / KV_BLOCK_TOKENS, recent = engine_cache_recent(&engine->policies[seq->format]);
    const struct kv_hash *keys = engine_cache_job_keys(engine, seq->owner, n_keys);
    int near = kv_prefix_longest(engine->prefix, keys, n_keys, recent);
    int n = kv_swap_longest(engine->swap, engine->prefix, keys, n_keys, recent);

    *out = (struct sched_hit){0};
    if (n <= near) return;
    size_t swapped = price(engine, seq, keys, n, out);
    if (pays(engine, (n - near) * KV_BLOCK_TOKENS, engine->swap_in_us, swapped)) return;
    engine->swap_in_us *= forgive;
    *out = (struct sched_hit){0};
}

static bool swap_fetch(void *context, const struct sched_seq *seq, const struct sched_hit *hit)
{
    struct engine *engine = context;
    int n = hit->n_tokens / KV_BLOCK_TOKENS;
    const struct kv_hash *keys = engine_cache_job_keys(engine, seq->owner, n);
    return kv_swap_fetch(engine->swap, engine->prefix, engine->pool, keys, n,
                         engine_cache_recent(&engine->policies[seq->format]));
}

/* ---- life ---- */

enum err engine_swap_create(struct engine *engine, struct err_info *info)
{
    const struct engine_options *options = &engine->options;
    struct kv_swap_options swap = {.backend = options->backend,
                                   .policies = engine->policies,
                                   .n_policies = engine->n_formats,
                                   .budget_bytes = options->swap_bytes,
                                   .path = options->swap_file,
                                   .max_blocks = options->ctx_size / KV_BLOCK_TOKENS,
                                   .max_sinks = options->sink_tokens};
    if (options->swap_bytes == 0) return ERR_OK;
    enum err err = kv_swap_create(&swap, &engine->swap, info);
    if (err != ERR_OK) return err;
    engine->swap_seen = (struct kv_swap_stats){0};
    kv_prefix_on_evict(engine->prefix, swap_evicted, engine);
    engine->cache.look_further = swap_look_further;
    engine->cache.fetch = swap_fetch;
    log_info("engine", "cached blocks are swapped to %s, %zu bytes",
             options->swap_file != NULL ? options->swap_file : "host memory", options->swap_bytes);
    return ERR_OK;
}

void engine_swap_free(struct engine *engine)
{
    if (engine->swap == NULL) return;
    kv_prefix_on_evict(engine->prefix, NULL, NULL);
    kv_swap_free(engine->swap);
    engine->swap = NULL;
}
