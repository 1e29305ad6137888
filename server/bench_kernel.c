#include "server/bench_kernel.h"

#include "config/clock.h"
#include "server/bench_stats.h"

#include <stdlib.h>

enum { MAX_SAMPLES = 1000, LEAST_SAMPLES = 3 };
static const double least_sample_us = 1000; /* below, the clock and a card's answer would count */

/* Operations run in order: when this is back, so are they. */
static void wait_for(struct backend *backend, const void *memory)
{
    float x;
    if (!backend->is_host) backend->download(backend, &x, memory, sizeof x);
}

static double now_us(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static double sample_us(const struct bench_kernels *bench, void (*run)(void *context), void *context,
                        const void *memory, int n)
{
    double start_us = now_us(bench->clock);
    for (int i = 0; i < n; i++) run(context);
    wait_for(bench->backend, memory);
    return (now_us(bench->clock) - start_us) / n;
}

double bench_time_us(const struct bench_kernels *bench, void (*run)(void *context), void *context)
{
    static double samples[MAX_SAMPLES];
    struct backend *backend = bench->backend;
    void *memory = backend->alloc(backend, 64);
    if (memory == NULL) return 0;
    sample_us(bench, run, context, memory, 1);
    double once_us = sample_us(bench, run, context, memory, 1);
    int n = once_us < least_sample_us ? (int)(least_sample_us / (once_us + 1)) + 1 : 1;
    int64_t end_us = clock_us() + bench->budget_us;
    size_t n_samples = 0;
    while (n_samples < MAX_SAMPLES && (n_samples < LEAST_SAMPLES || clock_us() < end_us))
        samples[n_samples++] = sample_us(bench, run, context, memory, n);
    backend->free(backend, memory);
    return bench_stats_of(samples, n_samples).p50;
}

/* ---- memory ---- */

static uint32_t random_next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 32);
}

char *bench_memory_halves(struct backend *backend, size_t bytes)
{
    enum { PIECE = 1 << 20 };
    char *memory = backend->alloc(backend, bytes);
    uint16_t *piece = malloc(PIECE);
    uint64_t state = 1;
    if (memory == NULL || piece == NULL) {
        if (memory != NULL) backend->free(backend, memory);
        free(piece);
        return NULL;
    }
    /* Below 2 in absolute value whatever the other bits. */
    for (int i = 0; i < PIECE / 2; i++) piece[i] = (uint16_t)(random_next(&state) & 0xbbff);
    for (size_t at = 0; at < bytes; at += PIECE)
        backend->upload(backend, memory + at, piece, bytes - at < PIECE ? bytes - at : PIECE);
    free(piece);
    return memory;
}

float *bench_memory_floats(struct backend *backend, size_t n)
{
    float *memory = backend->alloc(backend, n * sizeof *memory), *values = malloc(n * sizeof *values);
    uint64_t state = 7;
    if (memory == NULL || values == NULL) {
        if (memory != NULL) backend->free(backend, memory);
        free(values);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) values[i] = (float)(random_next(&state) % 4001) / 2000 - 1;
    backend->upload(backend, memory, values, n * sizeof *values);
    free(values);
    return memory;
}
