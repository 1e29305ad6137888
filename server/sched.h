#ifndef SERVER_SCHED_H
#define SERVER_SCHED_H

#include "cache/policy.h"
#include "config/err.h"
#include "server/sched_heap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The scheduler: which sequences run in the next step and how many tokens of each. A pure state machine: no
 * thread, no clock of its own (times are passed in, monotonic microseconds), no allocation after creation, no
 * knowledge of models; so a simulator can drive it through millions of steps.
 *
 * The step. Iteration-level batching: at most max_batch_tokens tokens, one for every sequence that generates,
 * then chunks of prompts with what is left; so a long prompt delays nobody by more than one chunk. Prompts
 * are served by priority, then in equal shares of tokens by tenant, then first come, first served. With more
 * running sequences than max_batch_tokens they take turns. Every chosen sequence is counted at the worst
 * moment of its step (kv_policy_peak_bytes), so kv_sequence_begin cannot fail; whoever does not fit is first
 * in the next step.
 *
 * The queue. `priority` as in vLLM: lower runs earlier. It ages: a sequence stands as if it had arrived
 * priority * ageing_us later than it did, so that nobody waits for ever. Within a priority, tenants get equal
 * shares in tokens: each has a count of tokens it was served, the tenant with the least is next, and one that
 * had nothing to do starts at the count of the one last served (start-time fair queueing: the limit of
 * deficit round robin for small quanta; a quantum would have to be as large as the largest request for a
 * decision in constant time). Within a tenant, first come, first served. Nobody overtakes the next one
 * because it is smaller.
 *
 * Memory. The pool holds blocks of running sequences, shared or not, and idle blocks of the prefix cache that
 * nobody running holds and that can be dropped at any moment: idle bytes are free bytes.
 *
 *   no-evict    a sequence is admitted when all that it and the others can still need fits:
 *                   sum of kv_policy_bytes(everything they may come to hold) - saved + headroom <= kv_bytes
 *               headroom is that of one step (kv_policy_step_bytes); `saved` is what sharing saves for good
 *               (struct sched_memory). What was admitted finishes, whatever is evicted, whoever leaves.
 *   optimistic  the same sum over what they are likely to need: what they hold now and a share of what they
 *               may still ask for (server/sched_preempt.c). When a step is short, sequences are preempted:
 *               everything is given back, and they wait at the front of their priority.
 */
struct sched;

enum sched_admission { SCHED_NO_EVICT, SCHED_OPTIMISTIC };

struct sched_seq;

/* What the prefix cache has of a sequence's beginning. */
struct sched_hit {
    int n_tokens; /* a multiple of KV_BLOCK_TOKENS */
    /* Of what the sequence would hold in these blocks: bytes that no running sequence holds now. */
    size_t idle_bytes;
    size_t saved_bytes; /* what sched_memory.saved_bytes grows by when it takes them */
};

/*
 * `saved_bytes` makes the sum of no-evict exact and keeps its promise. Of a sealed block a sequence keeps
 * some parts until it ends: those that old blocks have and, when the block is among the recent_blocks newest
 * of its longest length, all of them (sched_lasting_block). A part that n > 0 running sequences keep for good
 * saves (n - 1) times its bytes. Parts that only some of them will drop are not saved: each counts its own,
 * because one of them may still hold the part when the other has dropped it and holds a newer one instead.
 * Then what a sequence has yet to take never exceeds kv_policy_bytes less the lasting parts it holds, and the
 * sum cannot grow but by admission: sealing moves bytes from one to the other, and a leaver takes at most its
 * own bytes out of `saved`.
 */
struct sched_memory {
    size_t used_bytes; /* that running sequences hold in the pool, each block once, idle ones not */
    size_t saved_bytes;
};

/* The memory side, called from sched_plan. All functions take the same context. */
struct sched_cache {
    void *context;
    /* The longest hit up to `limit` tokens; its blocks have all the parts that a sequence of that length
       holds. Changes nothing. */
    void (*lookup)(void *context, const struct sched_seq *seq, int limit, struct sched_hit *out);
    /* What lookup has just found is the sequence's: it gives back what it holds in its place. */
    void (*take)(void *context, struct sched_seq *seq, const struct sched_hit *hit);
    /* Preempted: it gives everything back; sealed blocks stay as idle ones. */
    void (*drop)(void *context, struct sched_seq *seq);
    /* Tokens at its beginning whose blocks another running sequence holds too: they are no loss. */
    int (*shared_tokens)(void *context, const struct sched_seq *seq);
    /* As of now. Constant time. */
    void (*memory)(void *context, struct sched_memory *out);
    /* Asked before a sequence gets prompt tokens in a step: false when another one got them that computes the
       same next block; it waits for the hit. May be NULL. */
    bool (*claim)(void *context, struct sched_seq *seq);
    /* A second store (cache/swap.h), or both NULL. look_further: the hit that a sequence about to be admitted
       would have if what the cache lacks were brought back from there; n_tokens no more than lookup's when
       that is not worth its while. Changes nothing. fetch: brings it back, as idle blocks, as far as it can;
       lookup then says how far. False: it is on its way; the sequence stays the next one, nobody is admitted
       before it, and it is asked for again with the next plan. */
    void (*look_further)(void *context, const struct sched_seq *seq, int limit, struct sched_hit *out);
    bool (*fetch)(void *context, const struct sched_seq *seq, const struct sched_hit *hit);
};

struct sched_config {
    struct kv_policy policies[KV_MAX_FORMATS]; /* by index of the format; of one shape */
    int n_formats;
    size_t kv_bytes;   /* of the pool */
    int ctx_size;      /* longest prompt + output */
    int parallel;      /* most sequences running */
    int max_sequences; /* most that it ever has, waiting ones too; 0: parallel and 65,536 */
    int max_batch_tokens;
    int max_logits; /* most rows of logits in one step; at least 1 */
    enum sched_admission admission;
    int64_t ageing_us;               /* what one step of priority is worth in waiting; 0: 60 s */
    const struct sched_cache *cache; /* borrowed; NULL: nothing is shared. Optimistic needs one. */
};

enum sched_state { SCHED_OUT, SCHED_WAITING, SCHED_RUNNING };

struct sched_link {
    struct sched_link *previous, *next;
};

/* One sequence; memory of the owner, in the scheduler's lists from sched_add to sched_finish or sched_cancel.
 */
struct sched_seq {
    /* Set by the owner before sched_add. */
    void *owner;
    int format;        /* index of its policy */
    int n_prompt;      /* at least 1 */
    int max_tokens;    /* to generate; 0: the prompt only */
    bool score_prompt; /* every row of the prompt but the last needs logits */
    int priority;
    uint64_t tenant;     /* who shares with whom: a hash of the API key; 0: nobody in particular */
    int64_t deadline_us; /* 0: none */

    /* Zero before sched_add; written by the scheduler, the owner reads. */
    enum sched_state state;
    int n_tokens;                      /* known: prompt and generated */
    int n_cached;                      /* of these, how many are in the cache */
    int n_step;                        /* of these, how many more this step computes; 0: not in this step */
    int n_hit;                         /* tokens of the prompt that it never had to compute */
    int n_preempted;                   /* how many times */
    size_t reserved_bytes, held_bytes; /* while it runs */
    int64_t arrived_us, admitted_us;   /* admitted: for the first time */

    /* The scheduler's own. */
    struct sched_link link, side_link;
    struct sched_heap_node deadline;
    struct sched_flow *flow;
    uint64_t order; /* of arrival */
    int64_t rank;   /* arrived_us + priority * ageing_us */
    int n_high;     /* most n_cached it ever had */
    int n_admitted; /* n_tokens when it was last admitted */
    int n_charged;  /* tokens that its tenant was charged for it */
};

/* ERR_USAGE: a limit below 1, or optimistic without a cache; ERR_MEMORY. */
enum err sched_create(const struct sched_config *config, struct sched **out, struct err_info *info);
/* NULL-safe. */
void sched_free(struct sched *sched);

/* Whether it can ever run: ERR_CAPACITY with the arithmetic and the option to raise. Reads the config only:
   any thread may ask. */
enum err sched_check(const struct sched *sched, int format, int n_prompt, int max_tokens,
                     struct err_info *info);
/* How many sequences of n_tokens (prompt and output) can run at once, `parallel` aside. */
int sched_fitting(const struct sched *sched, int format, int n_tokens);
/* The most tokens that a hit may have: the last known one is always computed, for its logits. */
int sched_hit_limit(const struct sched_seq *seq);
/* For sched_memory.saved_bytes: from this block on, a sequence keeps all parts of its sealed blocks to its
   end; of those before, the parts that old blocks have. */
int sched_lasting_block(const struct sched *sched, const struct sched_seq *seq);

/* At the end of its tenant's queue. It must have passed sched_check, and there must be room for it
   (max_sequences; server/sched_gate.h sees to it). */
void sched_add(struct sched *sched, struct sched_seq *seq, int64_t now_us);

/* Preempt if it must be, admit what can be admitted and choose the step: *chosen lists the sequences with
   n_step > 0, valid until the next plan. Returns how many; 0 only when nothing runs or waits, or when nothing
   runs and what waits waits for the second store (sched_fetching).
   max_prompt_tokens (at least 1): the most tokens beside one for each running sequence; it keeps steps short
   on slow machines. */
int sched_plan(struct sched *sched, int64_t now_us, int max_prompt_tokens, struct sched_seq *const **chosen);
/* True when the last plan admitted nobody because what the next one needs is on its way from the second
 * store.
 */
bool sched_fetching(const struct sched *sched);
/* True when the step computes the last known token of a sequence that generates: it will have a new token. */
bool sched_samples(const struct sched_seq *seq);
/* Rows of logits it needs in this step. After a preemption, rows of a scored prompt come again. */
int sched_logits(const struct sched_seq *seq);
/* Take a chosen sequence out of the step. */
void sched_skip(struct sched_seq *seq);
/* The step is done: its tokens are in the cache. */
void sched_advance(struct sched *sched);
/* One more token of it is known. After sched_advance. */
void sched_token(struct sched_seq *seq);

/* Out of the scheduler, between steps, from any state but SCHED_OUT. Finished ones count for the rate. The
   owner gives its blocks back before the next plan. */
void sched_finish(struct sched *sched, struct sched_seq *seq);
void sched_cancel(struct sched *sched, struct sched_seq *seq);
/* The sequence, waiting or running, whose deadline passed first, to be cancelled by the owner; NULL: none.
   Nobody is refused because it is likely to be late: any running sequence may end with its next token, and
   the cache may hold a whole prompt, so before a deadline has passed nothing is certain. */
struct sched_seq *sched_expired(const struct sched *sched, int64_t now_us);

/* All that run: the first or NULL, the others by sched_next. In order of admission, unless they take turns.
 */
struct sched_seq *sched_running(const struct sched *sched);
struct sched_seq *sched_next(const struct sched *sched, const struct sched_seq *seq);
int sched_waiting_count(const struct sched *sched);
int64_t sched_waiting_tokens(const struct sched *sched); /* of their prompts */
int sched_running_count(const struct sched *sched);
/* What the running ones are reserved, less what sharing saves; and the sum of what each holds now. */
size_t sched_reserved_bytes(const struct sched *sched);
size_t sched_held_bytes(const struct sched *sched);

/* By the time that was spent in steps, the last minute or so counting most: microseconds between two
   sequences finishing, and between two prompt tokens leaving the queue. While none has, the time spent so
   far. */
double sched_finish_interval_us(const struct sched *sched);
double sched_token_interval_us(const struct sched *sched);
/* From first admission to the end, the mean of the last 16 or so that finished; 0: none has. */
double sched_run_us(const struct sched *sched);

/* One tenant's part: what waits of it for a first admission, and the intervals of its own sequences and
   prompt tokens. */
struct sched_share {
    int n_waiting;
    int64_t waiting_tokens;
    double finish_interval_us, token_interval_us;
};
void sched_tenant_share(const struct sched *sched, uint64_t id, struct sched_share *out);

/* Counters since creation. By priority: below 0, 0, above 0. */
enum { SCHED_RANKS = 3 };
struct sched_stats {
    uint64_t admitted[SCHED_RANKS], waited_us[SCHED_RANKS]; /* first admissions, and until then */
    uint64_t finished, cancelled;
    uint64_t preempted, resumed;
    uint64_t unprotected; /* of the preempted, those short of the progress that an admission promises */
    uint64_t computed_tokens, recomputed_tokens; /* the latter: lost by preemption, among the former */
    /* Known tokens at each admission, and how many of them it did not have to compute, then or later. */
    uint64_t looked_up_tokens, hit_tokens;
};
const struct sched_stats *sched_stats(const struct sched *sched);
/* Gauges, by priority; the lowest number first. Returns how many there are, of which it fills up to max. */
struct sched_priority {
    int priority;
    int n_waiting;
    int64_t oldest_us; /* arrival; 0 when none waits */
};
int sched_priorities(const struct sched *sched, struct sched_priority *out, int max);

/* Walk everything and assert that lists, counts and bytes agree. */
void sched_verify(const struct sched *sched);

#endif
