#include "server/sched_internal.h"

#include <assert.h>
#include <math.h>

/*
 * Optimistic admission.
 *
 * A sequence is counted with what it has and `reach` of what it may still ask for, never less than
 * SCHED_FLOOR_TOKENS more; it is admitted when the fattest moment ahead fits (server/sched_outlook.c). reach
 * begins at 1, falls with every token computed and rises with every token lost by a preemption, so that about
 * one in a hundred is lost: it stays near 1 for requests that say max_tokens and mean it, and falls for those
 * that stop early.
 *
 * When a sequence that generates cannot have its next block, others are preempted until it can. The eldest
 * (least rank: priority and arrival) is never a victim, so it always goes on, and everyone is eldest in the
 * end. Victims are those that have made the progress that their admission promised (SCHED_FLOOR_TOKENS new
 * tokens), if there are any; of these, those of least standing (rank, in steps of ageing_us); of these, the
 * one with the fewest tokens to recompute.
 *
 * Against thrashing: nobody is admitted in a step that preempts; until a running one ends or leaves,
 * admission keeps twice the watermark free; and every admission pays for itself with progress.
 */
static const double first_reach = 1;
static const double wasted_share = 0.01; /* of the tokens computed, that may be lost again */
static const double reach_gain = 0.1;    /* for the loss of as much as a sequence computes on average */

void sched_reach_init(struct sched *sched)
{
    sched->reach = first_reach;
}

static void reach_add(struct sched *sched, double sequences)
{
    sched->reach = fmin(1, fmax(0, sched->reach + reach_gain * sequences));
}

/* Before one has finished, nothing is known of how much they compute: a loss is then that of one sequence. */
static void reach_lose(struct sched *sched, int n_tokens)
{
    bool known = sched->stats.finished > 0;
    reach_add(sched, known ? n_tokens / fmax(sched->mean_work, KV_BLOCK_TOKENS) : 1);
}

void sched_reach_relax(struct sched *sched, int n_tokens)
{
    bool known = sched->stats.finished > 0;
    if (known) reach_add(sched, -wasted_share * n_tokens / fmax(sched->mean_work, KV_BLOCK_TOKENS));
}

size_t sched_watermark(const struct sched *sched)
{
    if (sched->config.admission == SCHED_NO_EVICT) return 0;
    return sched->config.kv_bytes / (sched->pressed ? 50 : 100);
}

static bool elder(const struct sched_seq *a, const struct sched_seq *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->order < b->order;
}

static void preempt(struct sched *sched, struct sched_seq *seq)
{
    const struct sched_cache *cache = sched->config.cache;

    assert(seq->n_step == 0);
    sched_stop_running(sched, seq);
    cache->drop(cache->context, seq);
    seq->n_cached = 0;
    seq->n_preempted++;
    seq->state = SCHED_WAITING;
    sched_queue_return(sched, seq);
    sched->pressed = true;
    sched_look(sched);
}

/* What its end would cost. */
struct loss {
    struct sched_seq *seq;
    bool protected;
    int64_t standing;
    int tokens; /* to compute again, if nothing but what others hold stays in the cache */
};

static struct loss loss_of(const struct sched *sched, struct sched_seq *seq)
{
    const struct sched_cache *cache = sched->config.cache;
    int64_t ageing_us = sched->config.ageing_us;
    int shared = cache->shared_tokens(cache->context, seq);
    return (struct loss){.seq = seq,
                         .protected = seq->n_tokens - seq->n_admitted < SCHED_FLOOR_TOKENS,
                         .standing = (seq->rank - (seq->rank < 0 ? ageing_us - 1 : 0)) / ageing_us,
                         .tokens = seq->n_cached - shared};
}

static bool costs_less(const struct loss *a, const struct loss *b)
{
    if (a->protected != b->protected) return b->protected;
    if (a->standing != b->standing) return a->standing > b->standing;
    return a->tokens != b->tokens ? a->tokens < b->tokens : elder(b->seq, a->seq);
}

void sched_preempt_one(struct sched *sched)
{
    struct sched_seq *eldest = sched_running(sched);
    struct loss least = {0};

    assert(sched->n_running > 1); /* one alone always fits: sched_check */
    for (struct sched_seq *seq = eldest; seq != NULL; seq = sched_next(sched, seq)) {
        if (elder(seq, eldest)) eldest = seq;
    }
    for (struct sched_seq *seq = sched_running(sched); seq != NULL; seq = sched_next(sched, seq)) {
        if (seq == eldest) continue;
        struct loss loss = loss_of(sched, seq);
        if (least.seq == NULL || costs_less(&loss, &least)) least = loss;
    }
    sched->stats.preempted++;
    sched->stats.unprotected += least.protected;
    reach_lose(sched, least.tokens);
    preempt(sched, least.seq);
}

/* Bytes for the next tokens of all that generate, and for the worst moment of any one of them: several that
   seal a block in the same step can take turns. */
static size_t needed_bytes(const struct sched *sched)
{
    size_t sum = 0, most = 0;
    for (struct sched_seq *seq = sched_running(sched); seq != NULL; seq = sched_next(sched, seq)) {
        if (seq->n_tokens - seq->n_cached != 1) continue;
        size_t added = sched_added_bytes(sched, seq, 1);
        size_t held = sched_held_at(sched, seq->format, seq->n_cached + 1);
        if (held > seq->held_bytes) sum += held - seq->held_bytes;
        if (added > most) most = added;
    }
    return sum > most ? sum : most;
}

bool sched_relieve(struct sched *sched)
{
    bool preempted = false;

    sched_look(sched);
    while (sched->n_running > 1 && needed_bytes(sched) > sched->config.kv_bytes - sched->memory.used_bytes) {
        sched_preempt_one(sched);
        preempted = true;
    }
    return preempted;
}
