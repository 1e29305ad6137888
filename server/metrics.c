#include "server/metrics.h"

#include "config/buf.h"
#include "config/version.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/*
 * The text format: https://prometheus.io/docs/instrumenting/exposition_formats/. Each family has its HELP and
 * TYPE before its samples; histograms are cumulative here, though not in memory.
 */

#define MS INT64_C(1000)
#define S  INT64_C(1000000)

const int64_t metrics_bounds_us[METRICS_BUCKETS] = {
    MS / 2, 1 * MS, 2 * MS, 5 * MS, 10 * MS, 20 * MS, 50 * MS, 100 * MS, 200 * MS, 500 * MS,
    1 * S,  2 * S,  5 * S,  10 * S, 20 * S,  50 * S,  100 * S, 200 * S,  500 * S,  1000 * S,
};

static const char *const outcome_names[OUTCOMES] = {
    "ok", "cancelled", "rejected_invalid", "rejected_capacity", "rejected_busy", "error",
};

static const char *const kv_kind_names[METRICS_KV_KINDS] = {"old", "recent", "open", "sinks"};

static uint64_t load(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void store(_Atomic uint64_t *value, uint64_t to)
{
    atomic_store_explicit(value, to, memory_order_relaxed);
}

void metrics_observe(struct metrics_histogram *histogram, int64_t us)
{
    int bucket = 0;
    if (us < 0) us = 0;
    while (bucket < METRICS_BUCKETS && us > metrics_bounds_us[bucket]) bucket++;
    atomic_fetch_add_explicit(&histogram->bucket[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_us, (uint64_t)us, memory_order_relaxed);
}

void metrics_set_pool(struct metrics *metrics, const struct kv_pool_stats *stats)
{
    size_t used = 0;
    for (int kind = 0; kind < KV_KINDS; kind++) used += stats->used_bytes[kind];
    store(&metrics->pool_budget_bytes, stats->budget_bytes);
    store(&metrics->pool_free_bytes, stats->budget_bytes - used);
    store(&metrics->stored_values, (uint64_t)stats->stored_values);
}

void metrics_kv_add(struct metrics_kv *kv, const struct kv_policy *policy, int n_tokens)
{
    size_t *bytes = kv->bytes[policy->format];
    int counts[KV_KINDS];
    int open = n_tokens % KV_BLOCK_TOKENS != 0;

    kv_policy_blocks(policy, n_tokens, counts);
    size_t f16 = kv_policy_block_bytes(&policy->shape, KV_F16);
    bytes[METRICS_KV_OPEN] += (size_t)open * f16;
    bytes[METRICS_KV_OLD] += (size_t)(counts[KV_F16] - open) * f16 +
                             (size_t)counts[KV_O4] * kv_policy_block_bytes(&policy->shape, KV_O4) +
                             (size_t)counts[KV_Q2] * kv_policy_block_bytes(&policy->shape, KV_Q2);
    bytes[METRICS_KV_RECENT] += (size_t)counts[KV_Q4] * kv_policy_block_bytes(&policy->shape, KV_Q4);
    bytes[METRICS_KV_SINKS] += (size_t)counts[KV_SINK] * kv_policy_block_bytes(&policy->shape, KV_SINK);
}

void metrics_set_kv(struct metrics *metrics, const struct metrics_kv *kv)
{
    for (int format = 0; format < KV_FORMATS; format++) {
        for (int kind = 0; kind < METRICS_KV_KINDS; kind++)
            store(&metrics->kv_bytes[format][kind], kv->bytes[format][kind]);
    }
}

static void print_head(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void print_number(struct buf *out, const char *name, const char *type, const char *help, double value)
{
    print_head(out, name, type, help);
    buf_printf(out, "%s %.17g\n", name, value);
}

static void print_counter(struct buf *out, const char *name, const char *help, const _Atomic uint64_t *value)
{
    print_head(out, name, "counter", help);
    buf_printf(out, "%s %llu\n", name, (unsigned long long)load(value));
}

static void print_gauge(struct buf *out, const char *name, const char *help, const _Atomic int64_t *value)
{
    print_head(out, name, "gauge", help);
    buf_printf(out, "%s %lld\n", name, (long long)atomic_load_explicit(value, memory_order_relaxed));
}

static void print_histogram(struct buf *out, const char *name, const char *help,
                            const struct metrics_histogram *histogram)
{
    unsigned long long count = 0;

    print_head(out, name, "histogram", help);
    for (int bucket = 0; bucket < METRICS_BUCKETS; bucket++) {
        count += load(&histogram->bucket[bucket]);
        buf_printf(out, "%s_bucket{le=\"%g\"} %llu\n", name, (double)metrics_bounds_us[bucket] * 1e-6, count);
    }
    count += load(&histogram->bucket[METRICS_BUCKETS]);
    buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n", name, count);
    buf_printf(out, "%s_sum %.6f\n%s_count %llu\n", name, (double)load(&histogram->sum_us) * 1e-6, name,
               count);
}

static void print_build(const struct metrics *metrics, struct buf *out)
{
    print_head(out, "octavo_build_info", "gauge", "Always 1; the labels say what runs.");
    buf_printf(out, "octavo_build_info{version=\"%s\",backend=\"%s\",kv_format=\"%s\"} 1\n", OCTAVO_VERSION,
               metrics->backend != NULL ? metrics->backend : "",
               metrics->kv_format != NULL ? metrics->kv_format : "");
}

static void print_requests(const struct metrics *metrics, struct buf *out)
{
    print_head(out, "octavo_requests_total", "counter", "Completion requests by how they ended.");
    for (int outcome = 0; outcome < OUTCOMES; outcome++)
        buf_printf(out, "octavo_requests_total{outcome=\"%s\"} %llu\n", outcome_names[outcome],
                   (unsigned long long)load(&metrics->requests[outcome]));
    print_counter(out, "octavo_prompt_tokens_total", "Prompt tokens computed.", &metrics->prompt_tokens);
    print_counter(out, "octavo_generated_tokens_total", "Tokens generated.", &metrics->generated_tokens);
    print_counter(out, "octavo_engine_steps_total", "Forward passes.", &metrics->engine_steps);
    print_counter(out, "octavo_engine_step_tokens_total", "Tokens of all forward passes.",
                  &metrics->step_tokens);
    print_gauge(out, "octavo_sequences_waiting", "Sequences in the queue.", &metrics->waiting);
    print_gauge(out, "octavo_sequences_running", "Sequences that hold a place in the batch.",
                &metrics->running);
    print_gauge(out, "octavo_sequences_running_peak", "The most sequences that ran at once since the start.",
                &metrics->running_peak);
    print_gauge(out, "octavo_http_connections", "Open client connections.", &metrics->connections);
    print_histogram(out, "octavo_time_to_first_token_seconds", "From a request's arrival to its first token.",
                    &metrics->first_token);
    print_histogram(out, "octavo_inter_token_seconds", "Between two tokens of a sequence.",
                    &metrics->inter_token);
    print_histogram(out, "octavo_request_duration_seconds", "From a request's arrival to its last token.",
                    &metrics->end_to_end);
    print_histogram(out, "octavo_queue_time_seconds", "From a sequence's arrival to its admission.",
                    &metrics->queue_time);
}

static void print_cache(const struct metrics *metrics, struct buf *out)
{
    uint64_t used = 0;

    print_head(
        out, "octavo_kv_pool_bytes", "gauge",
        "Bytes of the KV cache by kind of block and format of its sequence; free room is any format's.");
    for (int format = 0; format < KV_FORMATS; format++) {
        for (int kind = 0; kind < METRICS_KV_KINDS; kind++) {
            uint64_t bytes = load(&metrics->kv_bytes[format][kind]);
            used += bytes;
            buf_printf(out, "octavo_kv_pool_bytes{kind=\"%s\",format=\"%s\"} %llu\n", kv_kind_names[kind],
                       kv_format_name((enum kv_format)format), (unsigned long long)bytes);
        }
    }
    buf_printf(out, "octavo_kv_pool_bytes{kind=\"free\",format=\"any\"} %llu\n",
               (unsigned long long)load(&metrics->pool_free_bytes));
    print_number(out, "octavo_kv_pool_budget_bytes", "gauge", "Size of the KV cache.",
                 (double)load(&metrics->pool_budget_bytes));
    uint64_t values = load(&metrics->stored_values);
    /* promtool wants no "bits" in a name. */
    print_number(out, "octavo_kv_bitwidth", "gauge",
                 "Bits per cached key or value, everything counted; 0 while nothing is cached.",
                 values > 0 ? 8.0 * (double)used / (double)values : 0.0);
    print_counter(out, "octavo_preemptions_total", "Sequences that lost their place.", &metrics->preemptions);
    print_counter(out, "octavo_prefix_cache_hit_tokens_total", "Prompt tokens found in the prefix cache.",
                  &metrics->prefix_hit_tokens);
    print_counter(out, "octavo_prefix_cache_query_tokens_total",
                  "Prompt tokens looked up in the prefix cache.", &metrics->prefix_query_tokens);
}

/* --- The process, under the names of Prometheus' own client libraries --- */

static int open_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    if (folder == NULL) return -1;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) count += entry->d_name[0] != '.';
    closedir(folder);
    return count - 1; /* its own */
}

/* Fields of /proc/self/stat, see proc(5); those after the name, which may hold anything but ends with the
   last
   ')'. */
struct process_stat {
    unsigned long long user_ticks, system_ticks, start_ticks, virtual_bytes;
    long long threads, resident_pages;
};

static bool read_process(struct process_stat *out)
{
    char text[2048];
    FILE *file = fopen("/proc/self/stat", "r");
    if (file == NULL) return false;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    const char *fields = strrchr(text, ')');
    return fields != NULL &&
           sscanf(fields,
                  ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %lld %*d %llu "
                  "%llu %lld",
                  &out->user_ticks, &out->system_ticks, &out->threads, &out->start_ticks, &out->virtual_bytes,
                  &out->resident_pages) == 6;
}

static double boot_time_s(void)
{
    struct timespec now, up;
    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &up);
    return (double)(now.tv_sec - up.tv_sec) + (double)(now.tv_nsec - up.tv_nsec) * 1e-9;
}

static void print_process(struct buf *out)
{
    double tick_s = 1.0 / (double)sysconf(_SC_CLK_TCK), page_bytes = (double)sysconf(_SC_PAGESIZE);
    struct process_stat stat;
    struct rlimit limit;
    int descriptors = open_descriptors();

    if (read_process(&stat)) {
        print_number(out, "process_cpu_seconds_total", "counter", "User and system time spent.",
                     (double)(stat.user_ticks + stat.system_ticks) * tick_s);
        print_number(out, "process_resident_memory_bytes", "gauge", "Resident memory.",
                     (double)stat.resident_pages * page_bytes);
        print_number(out, "process_virtual_memory_bytes", "gauge", "Address space.",
                     (double)stat.virtual_bytes);
        print_number(out, "process_threads", "gauge", "Threads.", (double)stat.threads);
        print_number(out, "process_start_time_seconds", "gauge", "Start time since the epoch.",
                     boot_time_s() + (double)stat.start_ticks * tick_s);
    }
    if (descriptors >= 0)
        print_number(out, "process_open_fds", "gauge", "Open file descriptors.", descriptors);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        print_number(out, "process_max_fds", "gauge", "Most file descriptors it may open.",
                     (double)limit.rlim_cur);
}

void metrics_print(const struct metrics *metrics, struct buf *out)
{
    print_build(metrics, out);
    print_requests(metrics, out);
    print_cache(metrics, out);
    print_process(out);
}
