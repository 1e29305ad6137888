#ifndef SERVER_METRICS_H
#define SERVER_METRICS_H

#include "cache/pool.h"

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
    METRICS_KV_RECENT, /* o2: sealed, still at 4 bits */
    METRICS_KV_OPEN,   /* newest, incomplete, fp16 */
    METRICS_KV_SINKS,
    METRICS_KV_KINDS
};

enum { METRICS_BUCKETS = 20 };

struct metrics_histogram {
    _Atomic uint64_t bucket[METRICS_BUCKETS + 1]; /* not cumulative; the last one is +Inf */
    _Atomic uint64_t sum_us;
};

struct metrics {
    _Atomic uint64_t requests[OUTCOMES];
    _Atomic uint64_t prompt_tokens, generated_tokens;
    _Atomic uint64_t engine_steps, step_tokens;
    _Atomic uint64_t preemptions, prefix_hit_tokens, prefix_query_tokens;
    _Atomic int64_t waiting, running; /* sequences */
    _Atomic int64_t running_peak;     /* the most that ever ran at once */
    _Atomic int64_t connections;
    struct metrics_histogram first_token, inter_token, end_to_end, queue_time;
    /* The pool, copied by the engine after each step. */
    _Atomic uint64_t pool_budget_bytes, pool_free_bytes;
    _Atomic uint64_t kv_bytes[KV_FORMATS][METRICS_KV_KINDS];
    _Atomic uint64_t stored_values;
    /* Set before the first metrics_print; borrowed. NULL prints as empty. */
    const char *kv_format; /* name of the default format */
    const char *backend;   /* name of the backend */
};

/* Upper bounds of the buckets in microseconds: 0.5 ms to 1,000 s in 1-2-5 steps. */
extern const int64_t metrics_bounds_us[METRICS_BUCKETS];

void metrics_observe(struct metrics_histogram *histogram, int64_t us);
/* Between steps: budget, free bytes and stored values. */
void metrics_set_pool(struct metrics *metrics, const struct kv_pool_stats *stats);

/* Between steps: what the sequences hold, by format and kind; they are the policy's own numbers. */
struct metrics_kv {
    size_t bytes[KV_FORMATS][METRICS_KV_KINDS];
};
void metrics_kv_add(struct metrics_kv *kv, const struct kv_policy *policy, int n_tokens);
void metrics_set_kv(struct metrics *metrics, const struct metrics_kv *kv);

struct buf;
/* The whole page, text/plain; version=0.0.4. */
void metrics_print(const struct metrics *metrics, struct buf *out);

#endif
