#ifndef SERVER_BENCH_STATS_H
#define SERVER_BENCH_STATS_H

#include <stddef.h>

/* What a column of measurements comes down to; all 0 when there are none. */
struct bench_stats {
    double mean, p50, p90, p99, max;
};

/* Sorts values. Percentiles between two measurements are interpolated linearly, as NumPy does. */
struct bench_stats bench_stats_of(double *values, size_t n);

#endif
