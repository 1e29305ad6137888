#include "server/bench_stats.h"

#include <stdlib.h>

static int compare(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile(const double *sorted, size_t n, double fraction)
{
    double at = fraction * (double)(n - 1);
    size_t below = (size_t)at;
    if (below + 1 >= n) return sorted[n - 1];
    return sorted[below] + (at - (double)below) * (sorted[below + 1] - sorted[below]);
}

struct bench_stats bench_stats_of(double *values, size_t n)
{
    if (n == 0) return (struct bench_stats){0};
    qsort(values, n, sizeof *values, compare);
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += values[i];
    return (struct bench_stats){.mean = sum / (double)n,
                                .p50 = percentile(values, n, .5),
                                .p90 = percentile(values, n, .9),
                                .p99 = percentile(values, n, .99),
                                .max = values[n - 1]};
}
