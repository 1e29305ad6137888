#include "server/sched_internal.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>

enum { DEFAULT_WAITING = 65536 };
static const int64_t default_ageing_us = 60000000;
static const int64_t most_ageing_us = 3600 * INT64_C(1000000); /* times a 32-bit priority fits 64 bits */

/* --- Creation --- */

static void fill_sizes(struct sched *sched, int format)
{
    const struct kv_policy *policy = &sched->config.policies[format];
    int n_blocks = sched->config.ctx_size / KV_BLOCK_TOKENS + 1;
    for (int i = 0; i < n_blocks; i++) {
        int n = i * KV_BLOCK_TOKENS;
        sched->sizes[format][i] = (struct sched_sizes){
            .closed = kv_policy_held_bytes(policy, n),
            .open = kv_policy_held_bytes(policy, n + 1),
            .upto_closed = kv_policy_bytes(policy, n),
            .upto_open = kv_policy_bytes(policy, n + 1),
            .sealing = kv_policy_peak_bytes(policy, n + KV_BLOCK_TOKENS - 1, 1),
        };
    }
    int old = (policy->recent_blocks + 1) * KV_BLOCK_TOKENS;
    size_t old_bytes =
        kv_policy_held_bytes(policy, old + KV_BLOCK_TOKENS) - kv_policy_held_bytes(policy, old);
    sched->slope[format] = (double)old_bytes / KV_BLOCK_TOKENS;
    sched->headroom[format] = kv_policy_step_bytes(policy, sched->config.max_batch_tokens);
}

static enum err check_config(const struct sched_config *config, struct err_info *info)
{
    if (config->ctx_size < 1 || config->parallel < 1 || config->max_batch_tokens < 1 ||
        config->max_logits < 1)
        return err_set(info, ERR_USAGE,
                       "ctx-size (%d), parallel (%d), max-batch-tokens (%d) and rows of logits (%d) must be "
                       "at least 1",
                       config->ctx_size, config->parallel, config->max_batch_tokens, config->max_logits);
    if (config->ageing_us < 0 || config->ageing_us > most_ageing_us)
        return err_set(info, ERR_USAGE, "ageing of priorities is %lld us; it must be 1 us to 1 hour",
                       (long long)config->ageing_us);
    assert(config->n_formats >= 1 && config->n_formats <= KV_MAX_FORMATS);
    if (config->admission == SCHED_OPTIMISTIC && config->cache == NULL)
        return err_set_param(
            info, ERR_USAGE, "admission",
            "--admission optimistic needs the prefix cache, where those who wait again leave "
            "their blocks: do without --no-prefix-cache, or take no-evict");
    return ERR_OK;
}

static bool allocate(struct sched *sched)
{
    const struct sched_config *config = &sched->config;
    size_t n_blocks = (size_t)config->ctx_size / KV_BLOCK_TOKENS + 1, n = (size_t)config->max_sequences;
    bool complete = true;

    for (sched->n_buckets = 64; sched->n_buckets < n;) sched->n_buckets *= 2;
    for (int format = 0; format < config->n_formats; format++) {
        sched->sizes[format] = calloc(n_blocks, sizeof(struct sched_sizes));
        complete = complete && sched->sizes[format] != NULL;
    }
    sched->chosen = calloc((size_t)config->parallel, sizeof(struct sched_seq *));
    sched->flows = calloc(n, sizeof *sched->flows);
    sched->classes = calloc(n, sizeof *sched->classes);
    sched->flow_buckets = calloc(sched->n_buckets, sizeof(struct sched_flow *));
    sched->class_buckets = calloc(sched->n_buckets, sizeof(struct sched_class *));
    sched->tenants = calloc(n, sizeof *sched->tenants);
    sched->tenant_buckets = calloc(sched->n_buckets, sizeof(struct sched_tenant *));
    return complete && sched->chosen != NULL && sched->flows != NULL && sched->classes != NULL &&
           sched->flow_buckets != NULL && sched->class_buckets != NULL && sched->tenants != NULL &&
           sched->tenant_buckets != NULL;
}

enum err sched_create(const struct sched_config *config, struct sched **out, struct err_info *info)
{
    enum err err = check_config(config, info);
    if (err != ERR_OK) return err;
    struct sched *sched = calloc(1, sizeof *sched);
    if (sched == NULL) return err_set(info, ERR_MEMORY, "no memory for a scheduler");
    sched->config = *config;
    if (config->max_sequences == 0)
        sched->config.max_sequences =
            config->parallel < INT_MAX - DEFAULT_WAITING ? config->parallel + DEFAULT_WAITING : INT_MAX;
    if (config->ageing_us == 0) sched->config.ageing_us = default_ageing_us;
    if (!allocate(sched)) {
        sched_free(sched);
        return err_set(info, ERR_MEMORY, "no memory for a scheduler of %d sequences", config->parallel);
    }
    for (int format = 0; format < config->n_formats; format++) fill_sizes(sched, format);
    sched_list_init(&sched->running);
    sched_list_init(&sched->prompt_classes);
    sched_reach_init(sched);
    *out = sched;
    return ERR_OK;
}

void sched_free(struct sched *sched)
{
    if (sched == NULL) return;
    for (int format = 0; format < KV_MAX_FORMATS; format++) free(sched->sizes[format]);
    free(sched->chosen);
    free(sched->flows);
    free(sched->classes);
    free(sched->flow_buckets);
    free(sched->class_buckets);
    free(sched->tenants);
    free(sched->tenant_buckets);
    free(sched);
}

/* --- Sizes --- */

size_t sched_held_at(const struct sched *sched, int format, int n_tokens)
{
    const struct sched_sizes *sizes = &sched->sizes[format][n_tokens / KV_BLOCK_TOKENS];
    return n_tokens % KV_BLOCK_TOKENS == 0 ? sizes->closed : sizes->open;
}

size_t sched_upto(const struct sched *sched, int format, int n_tokens)
{
    const struct sched_sizes *sizes = &sched->sizes[format][n_tokens / KV_BLOCK_TOKENS];
    return n_tokens % KV_BLOCK_TOKENS == 0 ? sizes->upto_closed : sizes->upto_open;
}

/* The last generated token is never cached. */
static int cached_at_most(int n_prompt, int max_tokens)
{
    return n_prompt + (max_tokens > 0 ? max_tokens - 1 : 0);
}

int sched_cached_at_most(const struct sched_seq *seq)
{
    return cached_at_most(seq->n_prompt, seq->max_tokens);
}

int sched_lasting_block(const struct sched *sched, const struct sched_seq *seq)
{
    int block =
        sched_cached_at_most(seq) / KV_BLOCK_TOKENS - sched->config.policies[seq->format].recent_blocks;
    return block > 0 ? block : 0;
}

void sched_look(struct sched *sched)
{
    const struct sched_cache *cache = sched->config.cache;
    if (cache != NULL)
        cache->memory(cache->context, &sched->memory);
    else
        sched->memory = (struct sched_memory){.used_bytes = sched->held};
}

/* --- Admission --- */

enum err sched_check(const struct sched *sched, int format, int n_prompt, int max_tokens,
                     struct err_info *info)
{
    const struct sched_config *config = &sched->config;
    assert(n_prompt >= 1 && max_tokens >= 0 && format >= 0 && format < config->n_formats);

    if (n_prompt > config->ctx_size || max_tokens > config->ctx_size - n_prompt)
        return err_set_param(
            info, ERR_CAPACITY, "max_tokens",
            "prompt of %d tokens + max_tokens of %d = %lld tokens; the context is %d tokens: "
            "shorten the prompt, lower max_tokens, or raise --ctx-size",
            n_prompt, max_tokens, (long long)n_prompt + max_tokens, config->ctx_size);
    size_t bytes = sched_upto(sched, format, cached_at_most(n_prompt, max_tokens));
    size_t needed = bytes + sched->headroom[format];
    if (needed > config->kv_bytes)
        return err_set_param(
            info, ERR_CAPACITY, "max_tokens",
            "prompt of %d tokens + max_tokens of %d need %zu bytes of %s KV cache (%zu and %zu "
            "for a step); it has %zu bytes: shorten the prompt, lower max_tokens, or raise "
            "--kv-cache-bytes",
            n_prompt, max_tokens, needed, config->policies[format].format->name, bytes,
            sched->headroom[format], config->kv_bytes);
    return ERR_OK;
}

int sched_fitting(const struct sched *sched, int format, int n_tokens)
{
    size_t bytes = kv_policy_bytes(&sched->config.policies[format], n_tokens);
    size_t headroom = sched->headroom[format];
    if (bytes == 0 || headroom > sched->config.kv_bytes) return 0;
    size_t n = (sched->config.kv_bytes - headroom) / bytes;
    return n < INT_MAX ? (int)n : INT_MAX;
}

void sched_add(struct sched *sched, struct sched_seq *seq, int64_t now_us)
{
    assert(seq->state == SCHED_OUT && seq->n_step == 0);
    assert(sched->n_running + sched->n_waiting < sched->config.max_sequences);
    seq->state = SCHED_WAITING;
    seq->n_tokens = seq->n_prompt;
    seq->n_cached = seq->n_hit = seq->n_high = seq->n_charged = seq->n_preempted = 0;
    seq->reserved_bytes = seq->held_bytes = 0;
    seq->arrived_us = now_us;
    seq->admitted_us = 0;
    seq->order = sched->n_orders++;
    seq->rank = now_us + seq->priority * sched->config.ageing_us;
    if (seq->deadline_us > 0)
        sched_heap_push(&sched->deadlines, &seq->deadline, seq->deadline_us, seq->order);
    sched_queue_join(sched, seq);
    sched_queue_push(sched, seq);
}

/* One token at least is computed; a prompt that is scored is computed whole. */
int sched_hit_limit(const struct sched_seq *seq)
{
    int limit = seq->n_tokens - 1;
    return seq->score_prompt && seq->n_high < limit ? seq->n_high : limit;
}

static struct sched_hit look_up(struct sched *sched, const struct sched_seq *seq)
{
    const struct sched_cache *cache = sched->config.cache;
    struct sched_hit hit = {0};
    if (cache != NULL) cache->lookup(cache->context, seq, sched_hit_limit(seq), &hit);
    return hit;
}

void sched_take_hit(struct sched *sched, struct sched_seq *seq, const struct sched_hit *hit)
{
    const struct sched_cache *cache = sched->config.cache;
    int computed = seq->n_cached > seq->n_high ? seq->n_cached : seq->n_high;

    assert(hit->n_tokens % KV_BLOCK_TOKENS == 0 && hit->n_tokens > seq->n_cached &&
           hit->n_tokens <= sched_hit_limit(seq));
    cache->take(cache->context, seq, hit);
    sched->stats.hit_tokens += (uint64_t)(hit->n_tokens - seq->n_cached);
    if (hit->n_tokens > computed) {
        seq->n_hit += hit->n_tokens - computed;
        seq->n_high = hit->n_tokens;
    }
    seq->n_cached = hit->n_tokens;
    size_t held = sched_held_at(sched, seq->format, seq->n_cached);
    sched->held += held - seq->held_bytes;
    seq->held_bytes = held;
    sched_look(sched);
}

static size_t headroom_with(const struct sched *sched, const struct sched_seq *seq)
{
    size_t headroom = sched->headroom[seq->format];
    for (int format = 0; format < sched->config.n_formats; format++) {
        if (sched->n_of_format[format] > 0 && sched->headroom[format] > headroom)
            headroom = sched->headroom[format];
    }
    return headroom;
}

static bool has_room(struct sched *sched, const struct sched_seq *seq, const struct sched_hit *hit)
{
    size_t free_bytes = sched->config.kv_bytes - headroom_with(sched, seq);
    size_t saved = sched->memory.saved_bytes + hit->saved_bytes;

    if (sched->config.admission == SCHED_NO_EVICT)
        return sched->reserved + sched_upto(sched, seq->format, sched_cached_at_most(seq)) - saved <=
               free_bytes;
    sched_outlook_add(sched, seq);
    double peak = sched_outlook_peak(sched, (double)saved) + (double)sched_watermark(sched);
    if (peak <= (double)free_bytes || sched->n_running == 0) return true; /* alone it fits: sched_check */
    sched_outlook_remove(sched, seq);
    return false;
}

/* Whether it can be admitted now; *hit: what it takes over. What a second store has comes back first, and as
   it may turn out to be less than it was, there must be room for it without. */
static bool can_enter(struct sched *sched, const struct sched_seq *seq, struct sched_hit *hit)
{
    const struct sched_cache *cache = sched->config.cache;
    struct sched_hit further = {0};

    *hit = look_up(sched, seq);
    if (cache != NULL && cache->look_further != NULL)
        cache->look_further(cache->context, seq, sched_hit_limit(seq), &further);
    if (further.n_tokens <= hit->n_tokens) return has_room(sched, seq, hit);
    if (!has_room(sched, seq, &further)) return false;
    sched->fetching = !cache->fetch(cache->context, seq, &further);
    if (sched->fetching) {
        if (sched->config.admission == SCHED_OPTIMISTIC) sched_outlook_remove(sched, seq);
        return false;
    }
    *hit = look_up(sched, seq);
    if (hit->saved_bytes == further.saved_bytes) return true;
    if (sched->config.admission == SCHED_OPTIMISTIC) sched_outlook_remove(sched, seq);
    return has_room(sched, seq, hit);
}

/* Statistics by priority. */
static int rank_of(const struct sched_seq *seq)
{
    return seq->priority < 0 ? 0 : seq->priority > 0 ? 2 : 1;
}

static void count_admission(struct sched *sched, const struct sched_seq *seq, int64_t now_us)
{
    sched->stats.looked_up_tokens += (uint64_t)seq->n_tokens;
    if (seq->n_preempted > 0) {
        sched->stats.resumed++;
        return;
    }
    int64_t waited_us = now_us > seq->arrived_us ? now_us - seq->arrived_us : 0;
    sched->stats.admitted[rank_of(seq)]++;
    sched->stats.waited_us[rank_of(seq)] += (uint64_t)waited_us;
    sched->tokens_sum += seq->n_prompt;
    sched_tenant_served(sched, seq->flow->account, 0, seq->n_prompt);
}

/* What its tenant is charged until it ends: the prompt, and what requests generate on average. */
static int likely_cost(const struct sched *sched, const struct sched_seq *seq, const struct sched_hit *hit)
{
    int output = seq->max_tokens;
    if (sched->stats.finished > 0 && output > sched->mean_output) output = (int)sched->mean_output;
    int cost = seq->n_prompt - hit->n_tokens + output;
    return cost > 0 ? cost : 1;
}

static void admit_one(struct sched *sched, struct sched_seq *seq, const struct sched_hit *hit, int64_t now_us)
{
    if (seq->n_preempted == 0) {
        sched_queue_charge(sched, seq, likely_cost(sched, seq, hit));
        seq->admitted_us = now_us;
    }
    sched_queue_remove(sched, seq);
    /* At the end of the round, or those who come in would be served before those who wait for their turn. */
    sched_list_insert(sched->turn != NULL ? &sched->turn->link : &sched->running, &seq->link);
    sched->n_running++;
    sched->n_of_format[seq->format]++;
    seq->state = SCHED_RUNNING;
    seq->n_admitted = seq->n_tokens;
    seq->reserved_bytes = sched->config.admission == SCHED_NO_EVICT
                              ? sched_upto(sched, seq->format, sched_cached_at_most(seq))
                              : sched_outlook_bytes(sched, seq);
    sched->reserved += seq->reserved_bytes;
    count_admission(sched, seq, now_us);
    if (hit->n_tokens > 0) sched_take_hit(sched, seq, hit);
    if (seq->n_tokens - seq->n_cached > 1) sched_prompts_add(sched, seq);
}

void sched_admit(struct sched *sched, int64_t now_us)
{
    struct sched_seq *seq = sched_queue_first(sched);
    if (seq == NULL || sched->n_running == sched->config.parallel) return;
    if (sched->config.admission == SCHED_OPTIMISTIC) sched_outlook_reset(sched);
    sched_look(sched);
    while (seq != NULL && sched->n_running < sched->config.parallel) {
        struct sched_hit hit;
        if (!can_enter(sched, seq, &hit)) return;
        admit_one(sched, seq, &hit, now_us);
        seq = sched_queue_first(sched);
    }
}

/* --- The end --- */

void sched_stop_running(struct sched *sched, struct sched_seq *seq)
{
    if (sched->turn == seq)
        sched->turn = seq->link.next == &sched->running ? NULL : sched_seq_of(seq->link.next);
    if (sched_in_prompts(seq)) sched_prompts_remove(seq);
    sched_list_remove(&seq->link);
    sched->n_running--;
    sched->n_of_format[seq->format]--;
    sched->reserved -= seq->reserved_bytes;
    sched->held -= seq->held_bytes;
    seq->reserved_bytes = seq->held_bytes = 0;
}

static void leave(struct sched *sched, struct sched_seq *seq)
{
    assert(seq->state != SCHED_OUT && seq->n_step == 0);
    if (seq->state == SCHED_WAITING) {
        sched_queue_remove(sched, seq);
    } else {
        sched_stop_running(sched, seq);
        sched->pressed = false;
    }
    if (seq->deadline_us > 0) sched_heap_remove(&sched->deadlines, &seq->deadline);
    sched_queue_settle(sched, seq);
    sched_queue_part(sched, seq);
    seq->state = SCHED_OUT;
}

void sched_cancel(struct sched *sched, struct sched_seq *seq)
{
    sched->stats.cancelled++;
    leave(sched, seq);
}

static void learn(struct sched *sched, double *mean, double value)
{
    double n = sched->stats.finished < 15 ? (double)sched->stats.finished + 1 : 16;
    *mean += (value - *mean) / n;
}

void sched_finish(struct sched *sched, struct sched_seq *seq)
{
    if (seq->state == SCHED_RUNNING) {
        int output = seq->n_tokens + 1 - seq->n_prompt; /* nobody told of the last token */
        learn(sched, &sched->mean_output, output < seq->max_tokens ? output : seq->max_tokens);
        learn(sched, &sched->mean_work, seq->n_high - seq->n_hit);
        /* Its last step began with the last plan and took about as long as the one before. */
        learn(sched, &sched->mean_run_us, (double)(sched->planned_us - seq->admitted_us) + sched->step_us);
        sched->stats.finished++;
        sched->finished_sum++;
        sched_tenant_served(sched, seq->flow->account, 1, 0);
    }
    leave(sched, seq);
}

struct sched_seq *sched_expired(const struct sched *sched, int64_t now_us)
{
    const struct sched_heap_node *first = sched->deadlines;
    return first != NULL && first->key <= now_us ? SCHED_OWNER(struct sched_seq, deadline, first) : NULL;
}

/* --- What others may know --- */

struct sched_seq *sched_running(const struct sched *sched)
{
    return sched_list_empty(&sched->running) ? NULL : sched_seq_of(sched->running.next);
}

struct sched_seq *sched_next(const struct sched *sched, const struct sched_seq *seq)
{
    return seq->link.next == &sched->running ? NULL : sched_seq_of(seq->link.next);
}

int sched_waiting_count(const struct sched *sched)
{
    return sched->n_waiting;
}

int64_t sched_waiting_tokens(const struct sched *sched)
{
    return sched->waiting_tokens;
}

int sched_running_count(const struct sched *sched)
{
    return sched->n_running;
}

size_t sched_reserved_bytes(const struct sched *sched)
{
    const struct sched_cache *cache = sched->config.cache;
    struct sched_memory memory = {0};
    if (cache != NULL) cache->memory(cache->context, &memory);
    return memory.saved_bytes < sched->reserved ? sched->reserved - memory.saved_bytes : 0;
}

bool sched_fetching(const struct sched *sched)
{
    return sched->fetching;
}

size_t sched_held_bytes(const struct sched *sched)
{
    return sched->held;
}

double sched_finish_interval_us(const struct sched *sched)
{
    return sched->finished_sum > 0 ? sched->window_us / sched->finished_sum : sched->window_us;
}

double sched_token_interval_us(const struct sched *sched)
{
    return sched->tokens_sum > 0 ? sched->window_us / sched->tokens_sum : sched->window_us;
}

double sched_run_us(const struct sched *sched)
{
    return sched->mean_run_us;
}

const struct sched_stats *sched_stats(const struct sched *sched)
{
    return &sched->stats;
}
