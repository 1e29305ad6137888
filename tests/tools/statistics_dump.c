/* Runs statistics_add and balance_solve on one layer given as raw floats: the C side of
   tests/model/test_calibration.py. usage: statistics_dump IN OUT
   IN:  int32 [sequences tokens heads kv_heads head_dim frame sinks], then inv_freq as float64, then q, k, v,
   o and gram as float32 OUT: per kv head, float64: key mean, value mean, key cov, query cov, key harm, value
   harm; then float32: key, query transforms, sigma */
#include "kernels/workers.h"
#include "model/balance.h"
#include "model/statistics.h"

#include <stdio.h>
#include <stdlib.h>

static void *read_all(FILE *file, size_t count, size_t size)
{
    void *memory = malloc(count * size);
    if (memory == NULL || fread(memory, size, count, file) != count) {
        fprintf(stderr, "statistics_dump: short input\n");
        exit(1);
    }
    return memory;
}

static void fail(const struct err_info *info)
{
    fprintf(stderr, "statistics_dump: %s\n", info->message);
    exit(1);
}

static void dump_head(const struct statistics *statistics, int kv_head, int D, FILE *out)
{
    size_t n = (size_t)D, square = n * n;
    double *memory = malloc((2 * n + 2 * square) * sizeof *memory);
    float *key = malloc(2 * square * sizeof *key), sigma[KV_MAX_HEAD_DIM / KV_CODE_GROUP];
    struct err_info info;
    struct statistics_moments moments = {memory, memory + n, memory + 2 * n, memory + 2 * n + square, 0, 0};
    if (statistics_head(statistics, 0, kv_head, &moments, &info)) fail(&info);
    fwrite(memory, sizeof(double), 2 * n + 2 * square, out);
    fwrite(&moments.key_harm, sizeof(double), 1, out);
    fwrite(&moments.value_harm, sizeof(double), 1, out);
    if (balance_solve(D, memory + 2 * n, memory + 2 * n + square, key, key + square, sigma, &info))
        fail(&info);
    fwrite(key, sizeof(float), 2 * square, out);
    fwrite(sigma, sizeof(float), n / KV_CODE_GROUP, out);
    free(key);
    free(memory);
}

int main(int argc, char **argv)
{
    FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL, *out = argc == 3 ? fopen(argv[2], "wb") : NULL;
    if (in == NULL || out == NULL) {
        fprintf(stderr, "usage: statistics_dump IN OUT\n");
        return 2;
    }
    int32_t *n = read_all(in, 7, sizeof *n);
    size_t S = (size_t)n[0], T = (size_t)n[1], D = (size_t)n[4];
    double *inv_freq = read_all(in, D / 2, sizeof *inv_freq);
    float *q = read_all(in, S * T * (size_t)n[2] * D, sizeof *q);
    float *k = read_all(in, S * T * (size_t)n[3] * D, sizeof *k);
    float *v = read_all(in, S * T * (size_t)n[3] * D, sizeof *v);
    float *o = read_all(in, S * T * (size_t)n[2] * D, sizeof *o);
    float *gram = read_all(in, (size_t)n[2] * D * D, sizeof *gram);
    struct statistics_options options = {{1, n[2], n[3], n[4]}, n[1], n[5], n[6], inv_freq};
    struct statistics *statistics;
    struct workers *workers;
    struct err_info info;
    if (workers_create(2, &workers, &info) || statistics_create(&options, &statistics, &info)) fail(&info);
    for (size_t s = 0; s < S; s++) {
        size_t queries = s * T * (size_t)n[2] * D, keys = s * T * (size_t)n[3] * D;
        struct statistics_layer layer = {0, n[1], q + queries, k + keys, v + keys, o + queries, gram};
        statistics_add(statistics, workers, &layer);
    }
    for (int h = 0; h < n[3]; h++) dump_head(statistics, h, n[4], out);
    statistics_free(statistics);
    workers_free(workers);
    free(n);
    free(inv_freq);
    free(q);
    free(k);
    free(v);
    free(o);
    free(gram);
    fclose(in);
    return fclose(out) != 0;
}
