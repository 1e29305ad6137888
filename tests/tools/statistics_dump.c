/* Runs statistics_collect and balance_solve on one layer given as raw floats: the C side of
   tests/model/test_calibration.py. usage: statistics_dump IN OUT
   IN:  int32 [sequences tokens heads kv_heads head_dim frame sinks], then q, k, v, cos, sin as float32
   OUT: per kv head, float64: key mean, value mean, key cov, query cov; then float32: key, query transforms, sigma */
#include "kernels/workers.h"
#include "model/balance.h"
#include "model/statistics.h"

#include <math.h>
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

static void dump_head(const struct statistics_head *head, int D, FILE *out)
{
    size_t n = (size_t)D, square = n * n;
    fwrite(head->key_mean, sizeof(double), n, out);
    fwrite(head->value_mean, sizeof(double), n, out);
    fwrite(head->key_cov, sizeof(double), square, out);
    fwrite(head->query_cov, sizeof(double), square, out);
    float *key = malloc(2 * square * sizeof *key), sigma[KV_MAX_HEAD_DIM / BALANCE_GROUP];
    struct err_info info;
    if (balance_solve(D, head->key_cov, head->query_cov, key, key + square, sigma, &info) != ERR_OK) {
        fprintf(stderr, "statistics_dump: %s\n", info.message);
        exit(1);
    }
    fwrite(key, sizeof(float), 2 * square, out);
    fwrite(sigma, sizeof(float), n / BALANCE_GROUP, out);
    free(key);
}

int main(int argc, char **argv)
{
    FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL, *out = argc == 3 ? fopen(argv[2], "wb") : NULL;
    if (in == NULL || out == NULL) {
        fprintf(stderr, "usage: statistics_dump IN OUT\n");
        return 2;
    }
    int32_t *n = read_all(in, 7, sizeof *n);
    struct kv_shape shape = {1, n[2], n[3], n[4]};
    size_t tokens = (size_t)n[0] * n[1], D = (size_t)n[4];
    struct statistics_input input = {&shape, n[0], n[1], n[5], n[6], 1 / sqrtf((float)n[4]), NULL, NULL, NULL, NULL, NULL};
    input.q = read_all(in, tokens * n[2] * D, sizeof(float));
    input.k = read_all(in, tokens * n[3] * D, sizeof(float));
    input.v = read_all(in, tokens * n[3] * D, sizeof(float));
    input.rope_cos = read_all(in, (size_t)n[1] * D / 2, sizeof(float));
    input.rope_sin = read_all(in, (size_t)n[1] * D / 2, sizeof(float));
    struct statistics_head heads[256];
    for (int h = 0; h < n[3]; h++) {
        double *memory = malloc((2 * D + 2 * D * D) * sizeof *memory);
        heads[h] = (struct statistics_head){memory, memory + D, memory + 2 * D, memory + 2 * D + D * D};
    }
    struct workers *workers;
    struct err_info info;
    if (workers_create(2, &workers, &info) != ERR_OK ||
        statistics_collect(workers, &input, heads, &info) != ERR_OK) {
        fprintf(stderr, "statistics_dump: %s\n", info.message);
        return 1;
    }
    for (int h = 0; h < n[3]; h++) dump_head(&heads[h], n[4], out);
    return fclose(out) != 0;
}
