#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "cache/pool.h"
#include "cache/prefix.h"
#include "cache/swap.h"
#include "kernels/backend.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What /metrics shows, in Prometheus' text format: counters, gauges and histograms that any thread updates
 * with atomic operations and the HTTP thread prints. Names: octavo_*, base units, _total for counters.
 */
enum metrics_outcome {
    OUTCOME_OK,
    OUTCOME_CANCELLED,
    OUTCOME_REJECTED_INVALID,
    OUTCOME_REJECTED_CAPACITY,
    OUTCOME_REJECTED_BUSY,
    OUTCOME_ERROR,
    OUTCOMES
};

/* What a block of the pool is to its sequence. */
enum metrics_kv_kind {
    METRICS_KV_OLD,    /* sealed, at the format's own bits */
    METRICS_KV_RECENT, /* sealed, with parts that old ones do not have */
    METRICS_KV_OPEN,   /* newest, incomplete, fp16 */
    METRICS_KV_SINKS,
    METRICS_KV_KINDS
};

/* Memory of a card. */
enum metrics_memory {
    METRICS_WEIGHTS,
    METRICS_ACTIVATIONS,
    METRICS_KV_CACHE, /* behind the blocks of the pool that came into use */
    METRICS_SCRATCH,  /* block tables, codecs, partial results */
    METRICS_OTHER,    /* the driver's, and other processes' */
    METRICS_FREE,
    METRICS_MEMORIES
};

enum { METRICS_BUCKETS = 20, METRICS_TENANTS = 64 };

struct metrics_histogram {
    _Atomic uint64_t bucket[METRICS_BUCKETS + 1]; /* not cumulative; the last one is +Inf */
    _Atomic uint64_t sum;                         /* of what was observed, in its unit */
};

/* By what a request asked its reply to be. */
enum metrics_constraint {
    CONSTRAINT_JSON_OBJECT,
    CONSTRAINT_JSON_SCHEMA,
    CONSTRAINT_REGEX,
    CONSTRAINT_CHOICE,
    CONSTRAINT_GRAMMAR,
    CONSTRAINT_TOOLS,
    CONSTRAINTS
};

struct metrics {
    _Atomic uint64_t requests[OUTCOMES];
    _Atomic uint64_t prompt_tokens, generated_tokens;
    _Atomic uint64_t engine_steps, step_tokens;
    _Atomic uint64_t forward_ns, host_ns, part_ns[BACKEND_PARTS];
    _Atomic uint64_t device_bytes[METRICS_MEMORIES]; /* all 0: there is no card */
    _Atomic uint64_t backend_restarts;
    _Atomic uint64_t preemptions, recomputed_tokens, prefix_hit_tokens, prefix_query_tokens;
    _Atomic uint64_t prefix_blocks, prefix_idle_bytes, prefix_used_bytes, prefix_evicted;
    _Atomic uint64_t swap_out_bytes, swap_in_bytes, swap_hit_blocks, swap_blocks, swap_used_bytes,
        swap_budget_bytes, swap_bad_checksums, swap_failures, swap_dropped_blocks;
    _Atomic int64_t waiting_tokens;   /* of the prompts in the queue */
    _Atomic int64_t waiting, running; /* sequences */
    _Atomic int64_t running_peak;     /* the most that ever ran at once */
    _Atomic int64_t connections;
    struct metrics_histogram first_token, inter_token, end_to_end, queue_time; /* microseconds */
    struct metrics_histogram grammar_mask, grammar_compile;                    /* nanoseconds */
    _Atomic uint64_t constrained[CONSTRAINTS];                                 /* requests */
    _Atomic uint64_t grammar_cache_hits, grammar_cache_bytes;
    /* The pool, copied by the engine after each step. */
    _Atomic uint64_t pool_budget_bytes, pool_free_bytes;
    _Atomic uint64_t kv_bytes[KV_MAX_FORMATS][METRICS_KV_KINDS], kv_blocks[KV_MAX_FORMATS][METRICS_KV_KINDS];
    _Atomic uint64_t kv_values[KV_MAX_FORMATS];
    _Atomic uint64_t stored_values;
    /* Borrowed. NULL until the model is there: then nothing is printed by format. */
    _Atomic(const struct kv_formats *) formats;
    /* By tenant (server/http_keys.h); the names are borrowed and set before the first request. */
    const char *const *tenants;
    int n_tenants;
    struct metrics_tenant {
        _Atomic uint64_t requests, prompt_tokens, generated_tokens;
    } tenant[METRICS_TENANTS];
    /* Name of the backend, set before the first metrics_print; borrowed. NULL prints as empty. */
    const char *backend;
};

extern const char *const metrics_memory_names[METRICS_MEMORIES];

/* Upper bounds of the buckets in the histogram's unit, 500 to 1e9 in 1-2-5 steps: 0.5 ms to 1,000 s, or 0.5
   microseconds to 1 s. */
extern const int64_t metrics_bounds[METRICS_BUCKETS];

/* A request of a tenant has ended. tenant: number of the name; outside of 0 .. n_tenants - 1: nobody's. */
void metrics_add_tenant(struct metrics *metrics, int tenant, uint64_t prompt_tokens,
                        uint64_t generated_tokens);

/* value: microseconds or nanoseconds, as the histogram says. */
void metrics_observe(struct metrics_histogram *histogram, int64_t value);
/* Between steps: budget, free bytes (idle ones are free) and stored values; the prefix cache. */
void metrics_set_pool(struct metrics *metrics, const struct kv_pool_stats *stats,
                      const struct kv_prefix_stats *prefix);

void metrics_set_swap(struct metrics *metrics, const struct kv_swap_stats *stats);

/* Between steps: what the sequences hold, by format and kind; they are the policy's own numbers. */
struct metrics_kv {
    size_t bytes[KV_MAX_FORMATS][METRICS_KV_KINDS], blocks[KV_MAX_FORMATS][METRICS_KV_KINDS];
    int64_t values[KV_MAX_FORMATS];
};
void metrics_kv_add(struct metrics_kv *kv, const struct kv_policy *policy, int n_tokens);
void metrics_set_kv(struct metrics *metrics, const struct metrics_kv *kv);

/* A step is over: forward and host are of the engine's thread, part_seconds those of the backend so far. */
void metrics_add_step(struct metrics *metrics, int64_t forward_ns, int64_t host_ns,
                      const double part_seconds[BACKEND_PARTS]);
/* Of the model: weight_bytes, activation_bytes. */
void metrics_set_memory(struct metrics *metrics, const struct backend_memory *memory, size_t weight_bytes,
                        size_t activation_bytes);

struct sched_stats;
void metrics_set_sched(struct metrics *metrics, const struct sched_stats *stats, int64_t waiting_tokens);

struct buf;
/* The whole page, text/plain; version=0.0.4. */
void metrics_print(const struct metrics *metrics, struct buf *out);

#endif
