#include "server/sched_internal.h"

#include <assert.h>

/* One step: how many tokens of which running sequence. */

/* What is left of the step's limits. */
struct room {
    int tokens, logits;
    size_t bytes;
};

static bool samples(const struct sched_seq *seq, int n)
{
    return n > 0 && seq->max_tokens > 0 && seq->n_cached + n == seq->n_tokens;
}

bool sched_samples(const struct sched_seq *seq)
{
    return samples(seq, seq->n_step);
}

static int scored_rows(const struct sched_seq *seq, int n)
{
    int left = seq->n_prompt - 1 - seq->n_cached;
    if (!seq->score_prompt || left <= 0) return 0;
    return n < left ? n : left;
}

int sched_logits(const struct sched_seq *seq)
{
    return scored_rows(seq, seq->n_step) + samples(seq, seq->n_step);
}

static int pending(const struct sched_seq *seq)
{
    return seq->n_tokens - seq->n_cached;
}

static bool stays_in_block(const struct sched_seq *seq, int n)
{
    int filled = seq->n_cached % KV_BLOCK_TOKENS;
    return filled > 0 && filled + n < KV_BLOCK_TOKENS;
}

size_t sched_added_bytes(const struct sched *sched, const struct sched_seq *seq, int n)
{
    if (stays_in_block(seq, n)) return 0;
    const struct sched_sizes *sizes = &sched->sizes[seq->format][seq->n_cached / KV_BLOCK_TOKENS];
    size_t peak;
    if (n > 1)
        peak = kv_policy_peak_bytes(&sched->config.policies[seq->format], seq->n_cached, n);
    else
        peak = seq->n_cached % KV_BLOCK_TOKENS == 0 ? sizes->open : sizes->sealing;
    return peak - seq->held_bytes;
}

/* The most tokens, up to n, whose logits fit. A prompt that is scored leaves a row for everyone else. */
static int fit_logits(const struct sched *sched, const struct sched_seq *seq, int n, const struct room *room)
{
    if (room->logits < 1) return seq->score_prompt ? 0 : n - samples(seq, n);
    if (scored_rows(seq, n) == 0) return n;
    int rows = room->logits - (sched->n_running - 1);
    if (rows < 1) rows = 1;
    if (n > rows) n = rows;
    return n;
}

/* The most tokens, up to n, whose bytes fit: n, or less up to a block's edge, or what does not seal a block.
 */
static int fit_bytes(const struct sched *sched, const struct sched_seq *seq, int n, const struct room *room)
{
    while (n > 0 && sched_added_bytes(sched, seq, n) > room->bytes) {
        int edge = (seq->n_cached + n - 1) / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
        bool first_block = edge <= seq->n_cached;
        bool closes = (seq->n_cached + n) % KV_BLOCK_TOKENS == 0;
        n = !first_block ? edge - seq->n_cached : closes ? n - 1 : 0;
    }
    return n;
}

/* Others may have computed the same beginning since it was admitted: it goes on from there. */
static void look_ahead(struct sched *sched, struct sched_seq *seq, struct room *room)
{
    const struct sched_cache *cache = sched->config.cache;
    struct sched_hit hit = {0};

    if (cache == NULL || sched_hit_limit(seq) < seq->n_cached + KV_BLOCK_TOKENS / 2) return;
    cache->lookup(cache->context, seq, sched_hit_limit(seq), &hit);
    if (hit.n_tokens <= seq->n_cached || hit.idle_bytes > room->bytes) return;
    size_t used = sched->memory.used_bytes;
    sched_take_hit(sched, seq, &hit);
    room->bytes += used;
    room->bytes -= sched->memory.used_bytes;
}

static void give(struct sched *sched, struct sched_seq *seq, int n, struct room *room)
{
    if (pending(seq) > 1) look_ahead(sched, seq, room);
    if (n > pending(seq)) n = pending(seq);
    if (n > room->tokens) n = room->tokens;
    n = fit_logits(sched, seq, n, room);
    n = fit_bytes(sched, seq, n, room);
    if (n <= 0) {
        /* Out of tokens is the fate of prompts that are not the next; anything else must not last. */
        if (room->tokens > 0 && sched->turn == NULL) sched->turn = seq;
        return;
    }
    const struct sched_cache *cache = sched->config.cache;
    if (pending(seq) > 1 && cache != NULL && cache->claim != NULL && !cache->claim(cache->context, seq))
        return;
    seq->n_step = n;
    room->tokens -= n;
    room->logits -= sched_logits(seq);
    room->bytes -= sched_added_bytes(sched, seq, n);
    sched->chosen[sched->n_chosen++] = seq;
}

static struct sched_seq *next_in_ring(const struct sched *sched, const struct sched_seq *seq)
{
    struct sched_seq *next = sched_next(sched, seq);
    return next != NULL ? next : sched_running(sched);
}

/* More running than tokens in a step: one token each, starting where the last step stopped. */
static void plan_turns(struct sched *sched, struct sched_seq *first, struct room *room)
{
    if (first == NULL) first = sched_running(sched);
    struct sched_seq *seq = first;
    do {
        give(sched, seq, 1, room);
        seq = next_in_ring(sched, seq);
    } while (seq != first && room->tokens > 0);
    if (sched->turn == NULL) sched->turn = seq;
}

/* --- Prompts --- */

static struct sched_flow *flow_of(const struct sched_link *link)
{
    return SCHED_OWNER(struct sched_flow, link, link);
}

/* Tokens of the flow's prompts, as far as the step has any. */
static int demand_of(const struct sched_flow *flow, int most)
{
    int demand = 0;
    for (struct sched_link *at = flow->prompts.next; at != &flow->prompts && demand < most; at = at->next) {
        const struct sched_seq *seq = sched_side_seq_of(at);
        if (seq->n_step == 0) demand += pending(seq);
    }
    return demand < most ? demand : most;
}

/* Equal shares of n tokens for those who want more than the share: max-min fairness. *extra: how many of
   these get one more. */
static int share_of(struct sched_class *class, int n, int *extra)
{
    struct sched_heap_node *heap = NULL;
    int n_flows = 0;
    for (struct sched_link *at = class->prompt_flows.next; at != &class->prompt_flows; at = at->next) {
        struct sched_flow *flow = flow_of(at);
        flow->demand = demand_of(flow, n);
        sched_heap_push(&heap, &flow->demand_node, flow->demand, 0);
        n_flows++;
    }
    while (heap != NULL && heap->key <= n / n_flows) {
        n -= (int)heap->key;
        n_flows--;
        sched_heap_remove(&heap, heap);
    }
    *extra = n_flows > 0 ? n % n_flows : 0;
    return n_flows > 0 ? n / n_flows : n;
}

/* First come, first served within the flow. Returns the tokens given. */
static int plan_flow(struct sched *sched, struct sched_flow *flow, int n, struct room *room)
{
    int left = n;
    for (struct sched_link *at = flow->prompts.next; at != &flow->prompts && left > 0; at = at->next) {
        struct sched_seq *seq = sched_side_seq_of(at);
        if (seq->n_step > 0) continue;
        give(sched, seq, left, room);
        left -= seq->n_step;
    }
    return n - left;
}

/* What its tenants are given stands, then those who got something go to the end. */
static void plan_class(struct sched *sched, struct sched_class *class, struct room *room)
{
    struct sched_link *head = &class->prompt_flows;
    if (head->next->next == head) { /* one tenant */
        plan_flow(sched, flow_of(head->next), room->tokens, room);
        return;
    }
    int extra, share = share_of(class, room->tokens, &extra);
    struct sched_link *last = head->previous, *at = head->next;
    for (bool more = true; more && room->tokens > 0;) {
        struct sched_link *next = at->next;
        struct sched_flow *flow = flow_of(at);
        int n = flow->demand;
        more = at != last;
        if (n > share) {
            n = share + (extra > 0);
            extra -= extra > 0;
        }
        if (n > 0 && plan_flow(sched, flow, n, room) > 0) {
            sched_list_remove(at);
            sched_list_insert(head, at);
        }
        at = next;
    }
    /* What some could not use, for logits, bytes or a hit in the cache. */
    for (at = head->next; at != head && room->tokens > 0; at = at->next)
        plan_flow(sched, flow_of(at), room->tokens, room);
}

/* By priority, which ages as in the queue. */
static void plan_prompts(struct sched *sched, struct room *room)
{
    struct sched_heap_node *heap = NULL;
    struct sched_link *classes = &sched->prompt_classes;

    for (struct sched_link *at = classes->next; at != classes; at = at->next) {
        struct sched_class *class = SCHED_OWNER(struct sched_class, link, at);
        const struct sched_seq *oldest = NULL;
        for (struct sched_link *link = class->prompt_flows.next; link != &class->prompt_flows;
             link = link->next) {
            const struct sched_seq *seq = sched_side_seq_of(flow_of(link)->prompts.next);
            if (oldest == NULL || seq->rank < oldest->rank) oldest = seq;
        }
        sched_heap_push(&heap, &class->prompt_node, oldest->rank, oldest->order);
    }
    while (heap != NULL && room->tokens > 0) {
        struct sched_class *class = SCHED_OWNER(struct sched_class, prompt_node, heap);
        sched_heap_remove(&heap, heap);
        plan_class(sched, class, room);
    }
}

static void plan_step(struct sched *sched, struct sched_seq *first, struct room *room)
{
    /* Tokens that are left when everyone else has one. */
    int most = room->tokens - sched->n_running + 1;
    struct sched_seq *seq = first != NULL ? first : sched_running(sched);

    for (int i = sched->n_running; i > 0; i--, seq = next_in_ring(sched, seq)) {
        /* A prompt that was due and got nothing last time need not wait for the generating ones. */
        if (pending(seq) == 1 || seq == first) give(sched, seq, most, room);
    }
    if (room->tokens > 0) plan_prompts(sched, room);
}

/* --- Plan and advance --- */

static void plan(struct sched *sched, int max_prompt_tokens)
{
    struct sched_seq *first = sched->turn;
    int tokens = sched->config.max_batch_tokens;

    sched_look(sched);
    sched->turn = NULL;
    sched->n_chosen = 0;
    if (max_prompt_tokens < tokens - sched->n_running) tokens = sched->n_running + max_prompt_tokens;
    assert(sched->memory.used_bytes <= sched->config.kv_bytes);
    struct room room = {.tokens = tokens,
                        .logits = sched->config.max_logits,
                        .bytes = sched->config.kv_bytes - sched->memory.used_bytes};
    if (sched->n_running > room.tokens)
        plan_turns(sched, first, &room);
    else
        plan_step(sched, first, &room);
}

/* The window of the rates: time between plans that had something to do. */
static void count_time(struct sched *sched, int64_t now_us)
{
    if (sched->planned_us > 0 && now_us > sched->planned_us) {
        double step_us = (double)(now_us - sched->planned_us);
        double keep = step_us < sched_memory_us ? 1 - step_us / sched_memory_us : 0;
        sched->busy_us += step_us;
        sched->window_us = sched->window_us * keep + step_us;
        sched->finished_sum *= keep;
        sched->tokens_sum *= keep;
        sched->step_us = step_us;
    }
    sched->planned_us = sched->n_running + sched->n_waiting > 0 ? now_us : 0;
}

int sched_plan(struct sched *sched, int64_t now_us, int max_prompt_tokens, struct sched_seq *const **chosen)
{
    bool optimistic = sched->config.admission == SCHED_OPTIMISTIC;

    count_time(sched, now_us);
    *chosen = sched->chosen;
    sched->n_chosen = 0;
    sched->fetching = false;
    if (!optimistic || !sched_relieve(sched)) sched_admit(sched, now_us);
    if (sched->n_running == 0) {
        /* sched_check let nobody in who cannot run alone. */
        assert(sched->n_waiting == 0 || sched->fetching);
        return 0;
    }
    plan(sched, max_prompt_tokens);
    while (optimistic && sched->n_chosen == 0) {
        sched_preempt_one(sched);
        plan(sched, max_prompt_tokens);
    }
    assert(sched->n_chosen > 0);
    return sched->n_chosen;
}

void sched_skip(struct sched_seq *seq)
{
    seq->n_step = 0;
}

static void advance_one(struct sched *sched, struct sched_seq *seq)
{
    int n = seq->n_step;
    if (!stays_in_block(seq, n)) {
        size_t held = sched_held_at(sched, seq->format, seq->n_cached + n);
        sched->held += held - seq->held_bytes;
        seq->held_bytes = held;
    }
    int again = seq->n_high - seq->n_cached;
    if (again > 0) sched->stats.recomputed_tokens += (uint64_t)(again < n ? again : n);
    sched->stats.computed_tokens += (uint64_t)n;
    seq->n_cached += n;
    if (seq->n_cached > seq->n_high) seq->n_high = seq->n_cached;
    seq->n_step = 0;
    if (pending(seq) <= 1 && sched_in_prompts(seq)) sched_prompts_remove(seq);
}

void sched_advance(struct sched *sched)
{
    int n_tokens = 0;
    for (int i = 0; i < sched->n_chosen; i++) {
        n_tokens += sched->chosen[i]->n_step;
        advance_one(sched, sched->chosen[i]);
    }
    sched_reach_relax(sched, n_tokens);
    sched->n_chosen = 0;
}

void sched_token(struct sched_seq *seq)
{
    assert(seq->n_cached == seq->n_tokens && seq->n_tokens < seq->n_prompt + seq->max_tokens);
    seq->n_tokens++;
}
