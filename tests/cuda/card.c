#include "tests/cuda/card.h"

#include "kernels/workers.h"
#include "tests/unit/support/kv_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct backend *cuda, *cpu;
static struct workers *workers;
static bool was_open;
static int n_checks, n_failed;

void card_open(void)
{
    struct err_info info;
    if (backend_create("cuda", NULL, "auto", &cuda, &info)) {
        printf(was_open ? "FAILED: %s\n" : "SKIPPED, nothing was done: %s\n", info.message);
        exit(was_open ? 1 : 77);
    }
    was_open = true;
}

void card_open_cpu(int n_threads)
{
    struct err_info info;
    if (workers_create(n_threads, &workers, &info) || backend_create("cpu", workers, "auto", &cpu, &info)) {
        printf("%s\n", info.message);
        exit(1);
    }
}

void card_check(bool good, const char *what, const char *detail, double value)
{
    n_checks++;
    n_failed += !good;
    if (!good) printf("FAILED %s %s (%g)\n", what, detail, value);
    fflush(stdout);
}

void card_check_failure(void)
{
    const char *failure = cuda->failure(cuda);
    card_check(!failure, "card", failure ? failure : "", 0);
}

int card_end(void)
{
    cpu->destroy(cpu);
    workers_free(workers);
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed != 0;
}

void *card_need(void *memory)
{
    if (memory) return memory;
    printf("out of memory\n");
    exit(1);
}

float *card_gauss(size_t n, uint64_t seed)
{
    float *x = card_need(malloc(n * sizeof *x));
    for (size_t i = 0; i < n; i++) x[i] = kv_fixture_gauss(&seed);
    return x;
}

void *card_put(const void *from, size_t bytes)
{
    void *memory = card_need(cuda->alloc(cuda, bytes));
    cuda->upload(cuda, memory, from, bytes);
    return memory;
}

void *card_get(const void *from, size_t bytes)
{
    void *memory = card_need(malloc(bytes));
    cuda->download(cuda, memory, from, bytes);
    return memory;
}

double card_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double card_error(const float *x, const float *reference, size_t n)
{
    double most = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)x[i] - (double)reference[i]);
        most = e > most || isnan(e) ? e : most;
        sum += (double)reference[i] * (double)reference[i];
    }
    return most / sqrt(sum / (double)n);
}
