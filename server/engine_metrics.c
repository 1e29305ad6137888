#include "server/engine_internal.h"

#include "config/log.h"

#include <stdio.h>

/*
 * What the engine knows of itself, to where /metrics reads it, after each step.
 */

enum { MEMORY_US = 1000000 }; /* how often the driver is asked */

static void update_memory(struct engine *engine)
{
    struct backend *backend = engine->options.backend;
    struct backend_memory memory;
    int64_t now_us = clock_us();
    if (backend->memory == NULL || engine_device_failure(engine) != NULL) return;
    if (engine->memory_us != 0 && now_us - engine->memory_us < MEMORY_US) return;
    engine->memory_us = now_us;
    backend->memory(backend, &memory);
    metrics_set_memory(engine->options.metrics, &memory, model_weight_bytes(engine->options.model),
                       model_scratch_bytes(engine->options.model));
}

void engine_metrics_update(struct engine *engine)
{
    struct metrics *metrics = engine->options.metrics;
    struct metrics_kv kv = {0};
    struct kv_pool_stats stats;

    for (struct sched_seq *seq = sched_running(engine->sched); seq != NULL;
         seq = sched_next(engine->sched, seq))
        metrics_kv_add(&kv, &engine->policies[seq->format], seq->n_cached);
    kv_pool_stats(engine->pool, &stats);
    metrics_set_kv(metrics, &kv);
    metrics_set_sched(metrics, sched_stats(engine->sched), sched_waiting_tokens(engine->sched));
    struct kv_prefix_stats prefix = {0};
    if (engine->prefix != NULL) kv_prefix_stats(engine->prefix, &prefix);
    metrics_set_pool(metrics, &stats, &prefix);
    struct kv_swap_stats swap = {0};
    if (engine->swap != NULL) kv_swap_stats(engine->swap, &swap);
    metrics_set_swap(metrics, &swap);
    int64_t running = sched_running_count(engine->sched);
    atomic_store_explicit(&metrics->running, running, memory_order_relaxed);
    if (running > atomic_load_explicit(&metrics->running_peak, memory_order_relaxed))
        atomic_store_explicit(&metrics->running_peak, running, memory_order_relaxed);
    update_memory(engine);
}

void engine_metrics_forward(struct engine *engine, int64_t forward_us, int64_t host_us)
{
    const struct backend *backend = engine->options.backend;
    double seconds[BACKEND_PARTS];
    backend->part_seconds(backend, seconds);
    metrics_add_step(engine->options.metrics, forward_us * 1000, host_us * 1000, seconds);
}

void engine_metrics_turn(struct engine *engine, int64_t start_us)
{
    int64_t now_us = clock_us(), since_us = engine->turn_us != 0 ? engine->turn_us : start_us;
    bool stepped = engine->forward_us > 0;
    if (stepped) engine_metrics_forward(engine, engine->forward_us, now_us - since_us - engine->forward_us);
    engine->turn_us = stepped ? now_us : 0;
    engine->forward_us = 0;
}

void engine_metrics_log(const struct engine *engine)
{
    const _Atomic uint64_t *bytes = engine->options.metrics->device_bytes;
    if (engine->options.backend->memory == NULL) return;
    char text[256];
    size_t at = 0;
    for (int kind = 0; kind < METRICS_MEMORIES; kind++)
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s %.1f", kind > 0 ? ", " : "",
                               metrics_memory_names[kind], (double)bytes[kind] / (1 << 20));
    log_info("engine", "MiB of the card: %s", text);
}
