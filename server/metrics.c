#include "server/metrics.h"

#include "config/buf.h"
#include "config/version.h"
#include "server/sched.h"

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

const int64_t metrics_bounds[METRICS_BUCKETS] = {
    500,     1000,    2000,    5000,     10000,    20000,    50000,     100000,    200000,    500000,
    1000000, 2000000, 5000000, 10000000, 20000000, 50000000, 100000000, 200000000, 500000000, 1000000000,
};

static const char *const outcome_names[OUTCOMES] = {
    "ok", "cancelled", "rejected_invalid", "rejected_capacity", "rejected_busy", "error",
};

static const char *const constraint_names[CONSTRAINTS] = {
    "json_object", "json_schema", "regex", "choice", "grammar", "tools",
};

static const char *const part_names[BACKEND_PARTS] = {"attention", "products", "rest"};

const char *const metrics_memory_names[METRICS_MEMORIES] = {"weights", "activations", "kv_cache",
                                                            "scratch", "other",       "free"};

static const char *const kv_kind_names[METRICS_KV_KINDS] = {"old", "recent", "open", "sinks"};

static uint64_t load(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void store(_Atomic uint64_t *value, uint64_t to)
{
    atomic_store_explicit(value, to, memory_order_relaxed);
}

void metrics_observe(struct metrics_histogram *histogram, int64_t value)
{
    int bucket = 0;
    if (value < 0) value = 0;
    while (bucket < METRICS_BUCKETS && value > metrics_bounds[bucket]) bucket++;
    atomic_fetch_add_explicit(&histogram->bucket[bucket], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum, (uint64_t)value, memory_order_relaxed);
}

void metrics_set_pool(struct metrics *metrics, const struct kv_pool_stats *stats,
                      const struct kv_prefix_stats *prefix)
{
    size_t used = 0;
    for (int class = 0; class < KV_CLASSES; class ++) used += stats->used_bytes[class];
    store(&metrics->pool_budget_bytes, stats->budget_bytes);
    store(&metrics->prefix_blocks, (uint64_t)prefix->n_entries);
    store(&metrics->prefix_idle_bytes, prefix->idle_bytes);
    store(&metrics->prefix_used_bytes, prefix->used_bytes);
    store(&metrics->prefix_evicted, prefix->evicted);
    store(&metrics->pool_free_bytes, stats->budget_bytes - used + prefix->idle_bytes);
    store(&metrics->stored_values, (uint64_t)stats->stored_values);
}

void metrics_set_swap(struct metrics *metrics, const struct kv_swap_stats *stats)
{
    store(&metrics->swap_out_bytes, stats->out_bytes);
    store(&metrics->swap_in_bytes, stats->in_bytes);
    store(&metrics->swap_hit_blocks, stats->in_blocks);
    store(&metrics->swap_blocks, (uint64_t)stats->n_blocks);
    store(&metrics->swap_used_bytes, stats->used_bytes);
    store(&metrics->swap_budget_bytes, stats->given_up ? 0 : stats->budget_bytes);
    store(&metrics->swap_bad_checksums, stats->bad_checksums);
    store(&metrics->swap_failures, stats->failures);
    store(&metrics->swap_dropped_blocks, stats->dropped_blocks);
}

/* Bytes of the first n_parts parts of a sealed block. */
static size_t parts_bytes(const struct kv_policy *policy, int n_parts)
{
    size_t bytes = 0;
    for (int part = 0; part < n_parts; part++)
        bytes += kv_policy_block_bytes(policy, (enum kv_kind)(KV_PART0 + part));
    return bytes;
}

void metrics_kv_add(struct metrics_kv *kv, const struct kv_policy *policy, int n_tokens)
{
    const struct kv_codec *codec = policy->format->codec;
    size_t *bytes = kv->bytes[policy->format->index], *blocks = kv->blocks[policy->format->index];
    size_t f16 = kv_policy_block_bytes(policy, KV_F16), sink = kv_policy_block_bytes(policy, KV_SINK);
    size_t sealed = (size_t)n_tokens / KV_BLOCK_TOKENS, open = n_tokens % KV_BLOCK_TOKENS != 0, recent = 0;
    int counts[KV_KINDS];

    kv_policy_blocks(policy, n_tokens, counts);
    if (codec != NULL && codec->n_parts > codec->n_old_parts)
        recent = (size_t)counts[KV_PART0 + codec->n_old_parts];
    blocks[METRICS_KV_OPEN] += open;
    blocks[METRICS_KV_OLD] += sealed - recent;
    blocks[METRICS_KV_RECENT] += recent;
    blocks[METRICS_KV_SINKS] += (size_t)counts[KV_SINK];
    bytes[METRICS_KV_OPEN] += open * f16;
    bytes[METRICS_KV_OLD] +=
        (sealed - recent) * (codec != NULL ? parts_bytes(policy, codec->n_old_parts) : f16);
    bytes[METRICS_KV_RECENT] += recent * (codec != NULL ? parts_bytes(policy, codec->n_parts) : 0);
    bytes[METRICS_KV_SINKS] += (size_t)counts[KV_SINK] * sink;
    kv->values[policy->format->index] += kv_policy_values(policy, n_tokens);
}

void metrics_set_kv(struct metrics *metrics, const struct metrics_kv *kv)
{
    for (int format = 0; format < KV_MAX_FORMATS; format++) {
        for (int kind = 0; kind < METRICS_KV_KINDS; kind++) {
            store(&metrics->kv_bytes[format][kind], kv->bytes[format][kind]);
            store(&metrics->kv_blocks[format][kind], kv->blocks[format][kind]);
        }
        store(&metrics->kv_values[format], (uint64_t)kv->values[format]);
    }
}

void metrics_set_sched(struct metrics *metrics, const struct sched_stats *stats, int64_t waiting_tokens)
{
    store(&metrics->preemptions, stats->preempted);
    store(&metrics->recomputed_tokens, stats->recomputed_tokens);
    store(&metrics->prefix_hit_tokens, stats->hit_tokens);
    store(&metrics->prefix_query_tokens, stats->looked_up_tokens);
    atomic_store_explicit(&metrics->waiting_tokens, waiting_tokens, memory_order_relaxed);
}

void metrics_add_step(struct metrics *metrics, int64_t forward_ns, int64_t host_ns,
                      const double part_seconds[BACKEND_PARTS])
{
    atomic_fetch_add_explicit(&metrics->forward_ns, (uint64_t)forward_ns, memory_order_relaxed);
    atomic_fetch_add_explicit(&metrics->host_ns, (uint64_t)host_ns, memory_order_relaxed);
    for (int part = 0; part < BACKEND_PARTS; part++)
        store(&metrics->part_ns[part], (uint64_t)(part_seconds[part] * 1e9));
}

void metrics_set_memory(struct metrics *metrics, const struct backend_memory *memory, size_t weight_bytes,
                        size_t activation_bytes)
{
    const size_t known[] = {weight_bytes, activation_bytes + memory->activations, memory->ranges,
                            memory->scratch};
    size_t used = memory->total - memory->free;
    for (int kind = METRICS_WEIGHTS; kind < METRICS_OTHER; kind++) {
        store(&metrics->device_bytes[kind], known[kind]);
        used -= known[kind] < used ? known[kind] : used;
    }
    store(&metrics->device_bytes[METRICS_OTHER], used);
    store(&metrics->device_bytes[METRICS_FREE], memory->free);
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

/* unit_s: what the histogram counts in, in seconds. */
static void print_histogram(struct buf *out, const char *name, const char *help,
                            const struct metrics_histogram *histogram, double unit_s)
{
    unsigned long long count = 0;

    print_head(out, name, "histogram", help);
    for (int bucket = 0; bucket < METRICS_BUCKETS; bucket++) {
        count += load(&histogram->bucket[bucket]);
        buf_printf(out, "%s_bucket{le=\"%g\"} %llu\n", name, (double)metrics_bounds[bucket] * unit_s, count);
    }
    count += load(&histogram->bucket[METRICS_BUCKETS]);
    buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n", name, count);
    buf_printf(out, "%s_sum %.9f\n%s_count %llu\n", name, (double)load(&histogram->sum) * unit_s, name,
               count);
}

static void print_build(const struct metrics *metrics, struct buf *out)
{
    const struct kv_formats *formats = atomic_load(&metrics->formats);
    print_head(out, "octavo_build_info", "gauge", "Always 1; the labels say what runs.");
    buf_printf(out, "octavo_build_info{version=\"%s\",backend=\"%s\",kv_format=\"%s\"} 1\n", OCTAVO_VERSION,
               metrics->backend != NULL ? metrics->backend : "",
               formats != NULL ? kv_formats_at(formats, 0)->name : "");
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
    print_counter(out, "octavo_backend_restarts_total", "Restarts of the device after an error.",
                  &metrics->backend_restarts);
    print_counter(out, "octavo_engine_step_tokens_total", "Tokens of all forward passes.",
                  &metrics->step_tokens);
    print_gauge(out, "octavo_sequences_waiting", "Sequences in the queue.", &metrics->waiting);
    print_gauge(out, "octavo_waiting_prompt_tokens", "Prompt tokens of the sequences in the queue.",
                &metrics->waiting_tokens);
    print_gauge(out, "octavo_sequences_running", "Sequences that hold a place in the batch.",
                &metrics->running);
    print_gauge(out, "octavo_sequences_running_peak", "The most sequences that ran at once since the start.",
                &metrics->running_peak);
    print_gauge(out, "octavo_http_connections", "Open client connections.", &metrics->connections);
    print_histogram(out, "octavo_time_to_first_token_seconds", "From a request's arrival to its first token.",
                    &metrics->first_token, 1e-6);
    print_histogram(out, "octavo_inter_token_seconds", "Between two tokens of a sequence.",
                    &metrics->inter_token, 1e-6);
    print_histogram(out, "octavo_request_duration_seconds", "From a request's arrival to its last token.",
                    &metrics->end_to_end, 1e-6);
    print_histogram(out, "octavo_queue_time_seconds", "From a sequence's arrival to its admission.",
                    &metrics->queue_time, 1e-6);
}

static void print_constraints(const struct metrics *metrics, struct buf *out)
{
    print_head(out, "octavo_constrained_requests_total", "counter",
               "Requests that asked for text in a given form.");
    for (int kind = 0; kind < CONSTRAINTS; kind++)
        buf_printf(out, "octavo_constrained_requests_total{kind=\"%s\"} %llu\n", constraint_names[kind],
                   (unsigned long long)load(&metrics->constrained[kind]));
    print_histogram(out, "octavo_grammar_compile_seconds", "To compile a grammar that was not kept.",
                    &metrics->grammar_compile, 1e-9);
    print_counter(out, "octavo_grammar_cache_hits_total",
                  "Requests whose grammar was kept from earlier ones.", &metrics->grammar_cache_hits);
    print_number(out, "octavo_grammar_cache_bytes", "gauge", "Memory of the grammars that are kept.",
                 (double)load(&metrics->grammar_cache_bytes));
    print_histogram(out, "octavo_grammar_mask_seconds", "To find the tokens that may follow in one sequence.",
                    &metrics->grammar_mask, 1e-9);
}

void metrics_add_tenant(struct metrics *metrics, int tenant, uint64_t prompt_tokens,
                        uint64_t generated_tokens)
{
    if (tenant < 0 || tenant >= metrics->n_tenants || tenant >= METRICS_TENANTS) return;
    struct metrics_tenant *counts = &metrics->tenant[tenant];
    atomic_fetch_add_explicit(&counts->requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&counts->prompt_tokens, prompt_tokens, memory_order_relaxed);
    atomic_fetch_add_explicit(&counts->generated_tokens, generated_tokens, memory_order_relaxed);
}

static void print_tenant_counter(const struct metrics *metrics, struct buf *out, const char *name,
                                 const char *help, size_t offset)
{
    print_head(out, name, "counter", help);
    for (int i = 0; i < metrics->n_tenants && i < METRICS_TENANTS; i++) {
        const char *counts = (const char *)&metrics->tenant[i];
        buf_printf(out, "%s{tenant=\"%s\"} %llu\n", name, metrics->tenants[i],
                   (unsigned long long)load((const _Atomic uint64_t *)(const void *)(counts + offset)));
    }
}

/* Those whose keys have names in the file of keys; there cannot be many. */
static void print_tenants(const struct metrics *metrics, struct buf *out)
{
    if (metrics->n_tenants == 0) return;
    print_tenant_counter(metrics, out, "octavo_tenant_requests_total", "Requests that have ended, by tenant.",
                         offsetof(struct metrics_tenant, requests));
    print_tenant_counter(metrics, out, "octavo_tenant_prompt_tokens_total",
                         "Tokens of the prompts of their sequences, cached ones too.",
                         offsetof(struct metrics_tenant, prompt_tokens));
    print_tenant_counter(metrics, out, "octavo_tenant_generated_tokens_total", "Tokens generated for them.",
                         offsetof(struct metrics_tenant, generated_tokens));
}

static void print_seconds(struct buf *out, const char *name, const char *label, const char *value,
                          const _Atomic uint64_t *ns)
{
    buf_printf(out, "%s{%s=\"%s\"} %.9f\n", name, label, value, (double)load(ns) * 1e-9);
}

static void print_step(const struct metrics *metrics, struct buf *out)
{
    print_head(out, "octavo_engine_seconds_total", "counter",
               "Time of the engine while it had something to run: in forward passes, and between them, when "
               "a card is idle.");
    print_seconds(out, "octavo_engine_seconds_total", "phase", "forward", &metrics->forward_ns);
    print_seconds(out, "octavo_engine_seconds_total", "phase", "host", &metrics->host_ns);
    print_head(out, "octavo_forward_seconds_total", "counter",
               "Time of the forward passes by part, on a card by its own clock, where the difference to the "
               "engine's is copies and waiting for the host.");
    for (int part = 0; part < BACKEND_PARTS; part++)
        print_seconds(out, "octavo_forward_seconds_total", "part", part_names[part], &metrics->part_ns[part]);
    if (load(&metrics->device_bytes[METRICS_WEIGHTS]) == 0) return;
    print_head(out, "octavo_device_memory_bytes", "gauge",
               "Memory of the card by what has it; other: the driver's, and other processes'.");
    for (int kind = 0; kind < METRICS_MEMORIES; kind++)
        buf_printf(out, "octavo_device_memory_bytes{kind=\"%s\"} %llu\n", metrics_memory_names[kind],
                   (unsigned long long)load(&metrics->device_bytes[kind]));
}

/* A gauge by kind of block and format. */
static void print_kinds(struct buf *out, const char *name, const struct kv_formats *formats,
                        const _Atomic uint64_t values[KV_MAX_FORMATS][METRICS_KV_KINDS])
{
    for (int format = 0; formats != NULL && format < kv_formats_count(formats); format++) {
        for (int kind = 0; kind < METRICS_KV_KINDS; kind++)
            buf_printf(out, "%s{kind=\"%s\",format=\"%s\"} %llu\n", name, kv_kind_names[kind],
                       kv_formats_at(formats, format)->name, (unsigned long long)load(&values[format][kind]));
    }
}

static double bits_per_value(uint64_t bytes, uint64_t values)
{
    return values > 0 ? 8.0 * (double)bytes / (double)values : 0.0;
}

static uint64_t format_bytes(const struct metrics *metrics, int format)
{
    uint64_t bytes = 0;
    for (int kind = 0; kind < METRICS_KV_KINDS; kind++) bytes += load(&metrics->kv_bytes[format][kind]);
    return bytes;
}

static void print_bitwidths(const struct metrics *metrics, const struct kv_formats *formats, struct buf *out)
{
    uint64_t used = 0;
    for (int format = 0; format < KV_MAX_FORMATS; format++) used += format_bytes(metrics, format);
    /* promtool wants no "bits" in a name. */
    print_number(out, "octavo_kv_bitwidth", "gauge",
                 "Bits per cached key or value, everything counted; 0 while nothing is cached.",
                 bits_per_value(used, load(&metrics->stored_values)));
    print_head(out, "octavo_kv_format_bitwidth", "gauge", "The same of the sequences of one format.");
    for (int format = 0; formats != NULL && format < kv_formats_count(formats); format++)
        buf_printf(out, "octavo_kv_format_bitwidth{format=\"%s\"} %.17g\n",
                   kv_formats_at(formats, format)->name,
                   bits_per_value(format_bytes(metrics, format), load(&metrics->kv_values[format])));
}

static void print_cache(const struct metrics *metrics, struct buf *out)
{
    const struct kv_formats *formats = atomic_load(&metrics->formats);

    print_head(
        out, "octavo_kv_pool_bytes", "gauge",
        "Bytes of the KV cache by kind of block and format of its sequence; free room is any format's.");
    print_kinds(out, "octavo_kv_pool_bytes", formats, metrics->kv_bytes);
    buf_printf(out, "octavo_kv_pool_bytes{kind=\"free\",format=\"any\"} %llu\n",
               (unsigned long long)load(&metrics->pool_free_bytes));
    print_head(out, "octavo_kv_pool_blocks", "gauge",
               "Blocks of the KV cache in use: of 64 tokens; sinks of one.");
    print_kinds(out, "octavo_kv_pool_blocks", formats, metrics->kv_blocks);
    print_number(out, "octavo_kv_pool_budget_bytes", "gauge", "Size of the KV cache.",
                 (double)load(&metrics->pool_budget_bytes));
    print_bitwidths(metrics, formats, out);
    print_counter(out, "octavo_preemptions_total", "Sequences that lost their place.", &metrics->preemptions);
    print_counter(out, "octavo_recomputed_tokens_total", "Tokens computed again after a preemption.",
                  &metrics->recomputed_tokens);
    print_counter(out, "octavo_prefix_cache_hit_tokens_total", "Prompt tokens found in the prefix cache.",
                  &metrics->prefix_hit_tokens);
    print_counter(out, "octavo_prefix_cache_query_tokens_total",
                  "Prompt tokens looked up in the prefix cache.", &metrics->prefix_query_tokens);
    print_number(out, "octavo_prefix_cache_blocks", "gauge", "Sealed blocks in the prefix cache.",
                 (double)load(&metrics->prefix_blocks));
    print_counter(out, "octavo_prefix_cache_evicted_blocks_total", "Blocks that made room for others.",
                  &metrics->prefix_evicted);
    print_head(out, "octavo_prefix_cache_bytes", "gauge",
               "Bytes of cached blocks: used by running sequences, or idle, which is as good as free.");
    buf_printf(out, "octavo_prefix_cache_bytes{state=\"used\"} %llu\n",
               (unsigned long long)load(&metrics->prefix_used_bytes));
    buf_printf(out, "octavo_prefix_cache_bytes{state=\"idle\"} %llu\n",
               (unsigned long long)load(&metrics->prefix_idle_bytes));
}

static void print_swap(const struct metrics *metrics, struct buf *out)
{
    print_head(out, "octavo_swap_bytes_total", "counter",
               "Bytes of cached blocks copied to the second store (out) and back (in).");
    buf_printf(out, "octavo_swap_bytes_total{direction=\"out\"} %llu\n",
               (unsigned long long)load(&metrics->swap_out_bytes));
    buf_printf(out, "octavo_swap_bytes_total{direction=\"in\"} %llu\n",
               (unsigned long long)load(&metrics->swap_in_bytes));
    print_number(out, "octavo_swap_blocks", "gauge", "Cached blocks in the second store.",
                 (double)load(&metrics->swap_blocks));
    print_number(out, "octavo_swap_used_bytes", "gauge", "Bytes that they take there.",
                 (double)load(&metrics->swap_used_bytes));
    print_number(out, "octavo_swap_budget_bytes", "gauge",
                 "Size of the second store; 0: there is none, or it was given up.",
                 (double)load(&metrics->swap_budget_bytes));
    print_counter(out, "octavo_swap_hit_blocks_total", "Blocks that came back from the second store.",
                  &metrics->swap_hit_blocks);
    print_counter(out, "octavo_swap_dropped_blocks_total",
                  "Blocks that were lost because the swap file takes them too slowly.",
                  &metrics->swap_dropped_blocks);
    print_head(out, "octavo_swap_failures_total", "counter",
               "Blocks lost in the second store, and computed again: of a wrong checksum, or by a read or "
               "write that failed.");
    buf_printf(out, "octavo_swap_failures_total{reason=\"checksum\"} %llu\n",
               (unsigned long long)load(&metrics->swap_bad_checksums));
    buf_printf(out, "octavo_swap_failures_total{reason=\"io\"} %llu\n",
               (unsigned long long)load(&metrics->swap_failures));
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
    print_step(metrics, out);
    print_tenants(metrics, out);
    print_constraints(metrics, out);
    print_cache(metrics, out);
    print_swap(metrics, out);
    print_process(out);
}
