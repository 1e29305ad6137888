#ifndef SERVER_BENCH_SAMPLER_H
#define SERVER_BENCH_SAMPLER_H

#include "server/bench_http.h"

/* A thread that reads a server's /metrics again and again during a measurement and keeps the highest. */
struct bench_sampler;

struct bench_sample {
    int most_running;       /* octavo_sequences_running */
    double pool_used_bytes; /* octavo_kv_pool_bytes of every kind but free, at its highest */
    double bits_per_value;  /* octavo_kv_bitwidth when pool_used_bytes was highest */
    int n_samples;
    double preemptions; /* octavo_preemptions_total at the end */
    /* process_resident_memory_bytes: first, highest, last; below 0: the server does not tell. */
    double first_resident, most_resident, last_resident;
};

/* url and api_key (NULL: none) stay the caller's until the stop. */
enum err bench_sampler_start(const struct bench_url *url, const char *api_key, int interval_ms,
                             struct bench_sampler **out, struct err_info *info);
/* Stops and frees it; ERR_IO when it got no sample of sequences and pool at all, which leaves the memory's.
 */
enum err bench_sampler_stop(struct bench_sampler *sampler, struct bench_sample *out, struct err_info *info);

/* Value of a metric in Prometheus' text format, summed over its label sets except those that contain `except`
   (NULL: all); negative when it is missing. */
double bench_metric_sum(const char *text, const char *name, const char *except);

#endif
