#include "kernels/backend.h"
#include "kernels/workers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/*
 * bench_matmul [threads] [level] [milliseconds per measurement] [wall|cpu] [8|16 bits]
 *
 * Products with the shapes of SmolLM2-135M and Qwen2.5-1.5B: best of several runs, in 10^9 multiply-adds a
 * second and in GB/s of packed weights. Copies of a matrix are used in turn, so that small ones do not stay
 * in the cache as they never do in a model. With `cpu` the clock is the process's processor time, which on a
 * busy machine says more (with one thread).
 */

static const struct bench_case {
    enum dtype dtype;
    int n_rows, n_cols;
} cases[] = {
    {DTYPE_Q4_1, 1536, 576},   {DTYPE_Q4_1, 576, 1536},  {DTYPE_Q4_1, 576, 576},   {DTYPE_Q8_0, 49152, 576},
    {DTYPE_Q4_K, 8960, 1536},  {DTYPE_Q4_K, 1536, 8960}, {DTYPE_Q4_K, 1536, 1536}, {DTYPE_Q6_K, 1536, 8960},
    {DTYPE_Q6_K, 50000, 1536}, {DTYPE_Q4_0, 4864, 896},  {DTYPE_Q5_0, 4864, 896},  {DTYPE_Q5_1, 4864, 896},
    {DTYPE_Q5_K, 8960, 1536},  {DTYPE_F16, 1536, 1536},  {DTYPE_BF16, 1536, 1536}, {DTYPE_F32, 1536, 1536},
};
static const int token_counts[] = {1, 4, 16, 512};

enum { WEIGHTS_IN_TURN_BYTES = 96 << 20, MAX_COPIES = 256 };

static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct weight *copy_create(struct backend *backend, const struct bench_case *shape, const void *data)
{
    struct weight_source source = {.name = "bench",
                                   .dtype = shape->dtype,
                                   .n_rows = shape->n_rows,
                                   .n_cols = shape->n_cols,
                                   .data = data,
                                   .multiply = true};
    struct weight *weight;
    struct err_info info;
    if (backend->weight_create(backend, &source, &weight, &info)) {
        fprintf(stderr, "%s\n", info.message);
        exit(1);
    }
    return weight;
}

static void *checked(void *memory)
{
    if (memory) return memory;
    fprintf(stderr, "out of memory\n");
    exit(1);
}

/* Seconds of one product, the best of many. */
static double case_time(struct backend *backend, struct weight **copies, int n_copies,
                        const struct bench_case *shape, int tokens, double budget_s)
{
    size_t n = (size_t)tokens * (size_t)shape->n_cols;
    float *x = checked(malloc(n * sizeof *x));
    float *out = checked(malloc((size_t)tokens * (size_t)shape->n_rows * sizeof *out));
    memset(out, 0, (size_t)tokens * (size_t)shape->n_rows * sizeof *out);
    for (size_t i = 0; i < n; i++) x[i] = (float)(i * 2654435761u % 1000) / 500.0f - 1.0f;
    struct acts *acts =
        checked(backend->acts_create(backend, tokens, shape->n_cols, backend->activation_bits));
    double best = 1e9, start = now_s();
    int batch = tokens < 64 ? n_copies : 1;
    for (int i = 0; i < 3 || now_s() - start < budget_s; i++) {
        double began = now_s();
        for (int c = 0; c < batch; c++) {
            backend->prepare(backend, x, tokens, shape->n_cols, acts);
            backend->matmul(backend, copies[c], acts, NULL, out);
        }
        double each = (now_s() - began) / batch;
        if (each < best) best = each;
    }
    backend->acts_free(backend, acts);
    free(x);
    free(out);
    return best;
}

static void case_run(struct backend *backend, const struct bench_case *shape, double budget_s)
{
    size_t elements = (size_t)shape->n_rows * (size_t)shape->n_cols;
    size_t bytes = elements / dtype_block_elements(shape->dtype) * dtype_block_bytes(shape->dtype);
    char *data = checked(malloc(bytes));
    for (size_t i = 0; i < bytes; i++) data[i] = (char)((i * 2654435761u >> 8) & 0x3b); /* no NaN as fp16 */
    struct weight *copies[MAX_COPIES];
    int n_copies = (int)(WEIGHTS_IN_TURN_BYTES / bytes) + 1;
    if (n_copies > MAX_COPIES) n_copies = MAX_COPIES;
    for (int c = 0; c < n_copies; c++) copies[c] = copy_create(backend, shape, data);
    double packed = (double)backend->weight_bytes(copies[0]);

    printf("%-5s %6d x %-5d", dtype_name(shape->dtype), shape->n_rows, shape->n_cols);
    for (size_t i = 0; i < sizeof token_counts / sizeof *token_counts; i++) {
        double s = case_time(backend, copies, n_copies, shape, token_counts[i], budget_s);
        printf("  T=%-3d %6.1f GMAC/s %5.1f GB/s", token_counts[i],
               (double)elements * token_counts[i] / s * 1e-9, packed / s * 1e-9);
        fflush(stdout);
    }
    printf("\n");
    for (int c = 0; c < n_copies; c++) backend->weight_free(backend, copies[c]);
    free(data);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    const char *level = argc > 2 ? argv[2] : "auto";
    double budget_s = argc > 3 ? atof(argv[3]) * 1e-3 : 0.2;
    if (argc > 4 && !strcmp(argv[4], "cpu")) bench_clock = CLOCK_PROCESS_CPUTIME_ID;
    struct workers *workers;
    struct backend *backend;
    struct err_info info;
    if (workers_create(threads, &workers, &info) || backend_cpu_create(workers, level, &backend, &info)) {
        fprintf(stderr, "%s\n", info.message);
        return 1;
    }
    backend->activation_bits = argc > 5 ? atoi(argv[5]) : 8;
    printf("%s, %d threads, %d-bit activations\n", backend->name, threads, backend->activation_bits);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) case_run(backend, &cases[i], budget_s);
    backend->destroy(backend);
    workers_free(workers);
    return 0;
}
