#ifndef SERVER_SCHED_H
#define SERVER_SCHED_H

#include "cache/policy.h"
#include "config/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The scheduler: which sequences run in the next step and how many tokens of each. A pure state machine: no
 * thread, no clock of its own (times are passed in, monotonic microseconds), no allocation after creation, no
 * knowledge of models; so a simulator can drive it through millions of steps.
 *
 * Iteration-level batching. A step holds at most max_batch_tokens tokens: one for every sequence that
 * generates, then chunks of prompts, oldest first, with what is left; so a long prompt delays nobody by more
 * than one chunk. With more running sequences than max_batch_tokens they take turns.
 *
 * Admission is first come, first served, and never evicts: a sequence is admitted when all that it and the
 * others can still need (kv_policy_bytes) fits the pool beside the headroom of one step
 * (kv_policy_step_bytes). Within a step the real need of every chosen sequence (kv_policy_peak_bytes) is
 * counted, so kv_sequence_begin cannot fail; whoever does not fit is first in the next step, where it does.
 */
struct sched;

struct sched_config {
    struct kv_policy policies[KV_FORMATS]; /* of one shape */
    size_t kv_bytes;                       /* of the pool */
    int ctx_size;                          /* longest prompt + output */
    int parallel;                          /* most sequences running */
    int max_batch_tokens;
    int max_logits; /* most rows of logits in one step; at least 1 */
};

enum sched_state { SCHED_OUT, SCHED_WAITING, SCHED_RUNNING };

/* One sequence; memory of the owner, in the scheduler's lists from sched_add to sched_finish or sched_cancel.
 */
struct sched_seq {
    /* Set by the owner before sched_add. */
    void *owner;
    enum kv_format format;
    int n_prompt;      /* at least 1 */
    int max_tokens;    /* to generate; 0: the prompt only */
    bool score_prompt; /* every row of the prompt but the last needs logits */

    /* Zero before sched_add; written by the scheduler, the owner reads. */
    enum sched_state state;
    int n_tokens; /* known: prompt and generated */
    int n_cached; /* of these, how many are in the cache */
    int n_step;   /* of these, how many more this step computes; 0: not in this step */
    size_t reserved_bytes, held_bytes;
    int64_t arrived_us, admitted_us;
    struct sched_seq *previous, *next;
};

/* ERR_USAGE when a limit is below 1; ERR_MEMORY. */
enum err sched_create(const struct sched_config *config, struct sched **out, struct err_info *info);
/* NULL-safe. */
void sched_free(struct sched *sched);

/* Whether it can ever run: ERR_CAPACITY with the arithmetic and the option to raise. Reads the config only:
   any thread may ask. */
enum err sched_check(const struct sched *sched, enum kv_format format, int n_prompt, int max_tokens,
                     struct err_info *info);
/* How many sequences of n_tokens (prompt and output) can run at once, `parallel` aside. */
int sched_fitting(const struct sched *sched, enum kv_format format, int n_tokens);

/* At the end of the queue. It must have passed sched_check. */
void sched_add(struct sched *sched, struct sched_seq *seq, int64_t now_us);

/* Admit what can be admitted and choose the step: *chosen lists the sequences with n_step > 0, valid until
   the next plan. Returns how many; 0 only when nothing runs or waits. max_prompt_tokens (at least 1): the
   most tokens beside one for each running sequence; it keeps steps short on slow machines. */
int sched_plan(struct sched *sched, int64_t now_us, int max_prompt_tokens, struct sched_seq *const **chosen);
/* True when the step computes the last known token of a sequence that generates: it will have a new token. */
bool sched_samples(const struct sched_seq *seq);
/* Rows of logits it needs in this step. */
int sched_logits(const struct sched_seq *seq);
/* Take a chosen sequence out of the step. */
void sched_skip(struct sched_seq *seq);
/* The step is done: its tokens are in the cache. */
void sched_advance(struct sched *sched);
/* One more token of it is known. After sched_advance. */
void sched_token(struct sched_seq *seq);

/* Out of the scheduler, between steps, from any state but SCHED_OUT. Finished ones count for the rate. */
void sched_finish(struct sched *sched, struct sched_seq *seq, int64_t now_us);
void sched_cancel(struct sched *sched, struct sched_seq *seq);

/* The oldest, or NULL; the others follow through `next`. */
struct sched_seq *sched_waiting(const struct sched *sched);
struct sched_seq *sched_running(const struct sched *sched);
int sched_waiting_count(const struct sched *sched);
int sched_running_count(const struct sched *sched);
/* Sum of what the running ones may still come to hold, and of what they hold now. */
size_t sched_reserved_bytes(const struct sched *sched);
size_t sched_held_bytes(const struct sched *sched);

/* Microseconds between two sequences finishing, by the time the last ones took. */
int64_t sched_pace_us(const struct sched *sched, int64_t now_us);
/* When to come back, 1 to 600 seconds, if n_sequences must finish first. */
int sched_retry_after_s(int64_t pace_us, int n_sequences);

/* Walk everything and assert that lists, counts and bytes agree. */
void sched_verify(const struct sched *sched);

#endif
