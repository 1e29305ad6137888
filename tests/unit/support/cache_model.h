#ifndef SUPPORT_CACHE_MODEL_H
#define SUPPORT_CACHE_MODEL_H

#include "server/sched.h"

/*
 * A model of pool and prefix cache for simulations of the scheduler: no contents, but every byte that a real
 * one would count, by cache/policy.h, and sharing as it should be. A sealed block has a base (what old blocks
 * keep, sinks included) and what only recent blocks have besides; a sequence that finds a block it has just
 * sealed in the cache takes that one and gives its own back. Every failure aborts with a message.
 */
struct cache_model;
struct cache_block;

/* One sequence's side; zero at first, cache_model_join makes it ready. */
struct cache_holder {
    struct sched_seq *seq;
    uint64_t tenant, group; /* blocks below n_common are the same for all of a group, tenant and format */
    uint64_t id;            /* the others are its own */
    int n_common;
    int n_tokens;                 /* that it holds */
    int lasting_block;            /* sched_lasting_block */
    size_t open_bytes, new_bytes; /* its open block; taken in this step */
    struct cache_block **blocks;  /* [blocks of ctx_size] of its sealed ones */
};

struct cache_model *cache_model_create(const struct kv_policy *policies, int n_formats, size_t kv_bytes);
void cache_model_free(struct cache_model *model);

/* A second store of so many bytes from now on: what is forgotten goes there, and comes back to whoever is
   admitted. bad: the share of blocks that turn out to be damaged when they should come back; dear: of the
   admissions for which it is cheaper to compute. slow: of the plans in which what should come back is not
   there yet. chances: of the blocks of preempted sequences (cache/swap.h). Before cache_model_ops. */
struct cache_model_swap {
    size_t bytes; /* 0: none */
    double bad, dear, slow;
    int chances;
};
void cache_model_swap(struct cache_model *model, const struct cache_model_swap *swap);
/* Blocks that came back, and that were damaged. */
void cache_model_swapped(const struct cache_model *model, long *n_back, long *n_bad);

/* For sched_config. owner of a sequence must be its holder's: holder_of(owner). */
void cache_model_ops(struct cache_model *model, struct cache_holder *(*holder_of)(void *owner),
                     struct sched_cache *out);

/* Before every sched_plan. */
void cache_model_plan(struct cache_model *model);
/* A step of a chosen sequence; all begin before the first ends. */
void cache_model_begin(struct cache_model *model, struct cache_holder *holder, int n);
void cache_model_end(struct cache_model *model, struct cache_holder *holder);
/* It left: sealed blocks stay as idle ones. */
void cache_model_release(struct cache_model *model, struct cache_holder *holder);
/* Forget up to n idle blocks, the oldest first. */
void cache_model_evict(struct cache_model *model, int n);

size_t cache_model_used(const struct cache_model *model);
size_t cache_model_idle(const struct cache_model *model);
/* Counts everything anew, from the running sequences of the scheduler. */
void cache_model_verify(const struct cache_model *model, const struct sched *sched);

#endif
