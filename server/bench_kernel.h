#ifndef SERVER_BENCH_KERNEL_H
#define SERVER_BENCH_KERNEL_H

#include "kernels/backend.h"
#include "model/model_shape.h"

#include <time.h>

/*
 * What the measurements of `octavo bench kernels` share: how time is taken, where a result goes, and the
 * memory they work on. Everything goes through the backend's operations, so a card is measured by the code
 * that measures the CPU.
 */
enum { BENCH_LIST_MAX = 16 };

struct bench_list {
    int values[BENCH_LIST_MAX];
    int n;
};

struct bench_kernels {
    struct backend *backend;
    struct workers *workers;
    struct model_shape shape;
    int64_t budget_us;   /* of one measurement */
    size_t memory_bytes; /* that pages or weights of one measurement may take */
    const char *types;   /* of weights, with commas between */
    const char *formats; /* of the cache */
    int recent_blocks;   /* that keep all parts */
    struct bench_list tokens, contexts, batches;
    clockid_t clock;
    bool json;
    int n_rows; /* reported */
};

/* One result. */
struct bench_row {
    const char *kernel; /* "matmul" */
    char what[40];      /* which of them: a matrix' sizes, settings */
    const char *type;   /* of weights, or the cache's format; "" */
    int n;              /* tokens or sequences */
    int context;        /* 0: none */
    double us;          /* the median */
    double bytes, macs; /* that it must read, multiply-adds that it must do; 0: not told */
};
void bench_row_report(struct bench_kernels *bench, const struct bench_row *row);
/* Something that this backend or memory cannot do; on stderr. */
void bench_skip(const char *kernel, const char *what, const char *why);

/* Microseconds of one call of run(context), the median of as many as fit the budget, after one that is not
   counted. Short ones are timed several at once. */
double bench_time_us(const struct bench_kernels *bench, void (*run)(void *context), void *context);

/* Memory of the device; random bytes that read as finite halves and any codes, or random floats about 0. NULL
   when short. */
char *bench_memory_halves(struct backend *backend, size_t bytes);
float *bench_memory_floats(struct backend *backend, size_t n);

/* The measurements. ERR_USAGE: a type or format that does not exist; ERR_MEMORY. */
enum err bench_matmul_run(struct bench_kernels *bench, struct err_info *info);
enum err bench_attention_run(struct bench_kernels *bench, bool decode, bool prefill, struct err_info *info);
enum err bench_seal_run(struct bench_kernels *bench, bool store, bool seal, struct err_info *info);
enum err bench_draw_run(struct bench_kernels *bench, struct err_info *info);

#endif
