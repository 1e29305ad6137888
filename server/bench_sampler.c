#include "server/bench_sampler.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bench_sampler {
    const struct bench_url *url;
    const char *api_key;
    int interval_ms;
    pthread_t thread;
    atomic_bool stop;
    struct bench_sample sample; /* the thread's until it is joined */
};

double bench_metric_sum(const char *text, const char *name, const char *except)
{
    size_t length = strlen(name);
    double sum = 0;
    bool found = false;
    while (*text) {
        size_t line = strcspn(text, "\n");
        char after = line > length ? text[length] : '\0';
        if (strncmp(text, name, length) == 0 && (after == ' ' || after == '{')) {
            const char *labels_end = after == '{' ? memchr(text, '}', line) : text + length - 1;
            const char *hidden = except ? strstr(text, except) : NULL;
            if (labels_end && !(hidden && hidden < labels_end)) {
                sum += strtod(labels_end + 1, NULL);
                found = true;
            }
        }
        text += line;
        text += *text == '\n';
    }
    return found ? sum : -1;
}

static void sample_take(struct bench_sampler *sampler)
{
    struct bench_sample *sample = &sampler->sample;
    struct buf body;
    int status = 0;
    buf_init(&body, 4 << 20);
    enum err err = bench_get(sampler->url, "/metrics", sampler->api_key, 5000, &status, &body, NULL);
    if (!err && status == 200 && body.data) {
        double running = bench_metric_sum(body.data, "octavo_sequences_running_peak", NULL);
        double used = bench_metric_sum(body.data, "octavo_kv_pool_bytes", "kind=\"free\"");
        if (running >= 0 && used >= 0) sample->n_samples++;
        double resident = bench_metric_sum(body.data, "process_resident_memory_bytes", NULL);
        if (sample->first_resident < 0) sample->first_resident = resident;
        if (resident > sample->most_resident) sample->most_resident = resident;
        sample->last_resident = resident;
        sample->preemptions = bench_metric_sum(body.data, "octavo_preemptions_total", NULL);
        if (running > sample->most_running) sample->most_running = (int)running;
        if (used > sample->pool_used_bytes) {
            sample->pool_used_bytes = used;
            sample->bits_per_value = bench_metric_sum(body.data, "octavo_kv_bitwidth", NULL);
        }
    }
    buf_free(&body);
}

static void *sampler_run(void *context)
{
    struct bench_sampler *sampler = context;
    while (!atomic_load(&sampler->stop)) {
        sample_take(sampler);
        usleep((useconds_t)sampler->interval_ms * 1000);
    }
    return NULL;
}

enum err bench_sampler_start(const struct bench_url *url, const char *api_key, int interval_ms,
                             struct bench_sampler **out, struct err_info *info)
{
    struct bench_sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler) return err_set(info, ERR_MEMORY, "not enough memory to sample metrics");
    sampler->url = url;
    sampler->api_key = api_key;
    sampler->sample.first_resident = sampler->sample.most_resident = sampler->sample.last_resident = -1;
    sample_take(sampler); /* before anything is asked of the server */
    sampler->interval_ms = interval_ms;
    int failure = pthread_create(&sampler->thread, NULL, sampler_run, sampler);
    if (failure) {
        free(sampler);
        return err_set(info, ERR_IO, "pthread_create: %s", strerror(failure));
    }
    *out = sampler;
    return ERR_OK;
}

enum err bench_sampler_stop(struct bench_sampler *sampler, struct bench_sample *out, struct err_info *info)
{
    atomic_store(&sampler->stop, true);
    pthread_join(sampler->thread, NULL);
    sample_take(sampler); /* the peak, however short the load was */
    *out = sampler->sample;
    free(sampler);
    if (out->n_samples == 0)
        return err_set(info, ERR_IO,
                       "/metrics gave neither octavo_sequences_running_peak nor octavo_kv_pool_bytes");
    return ERR_OK;
}
