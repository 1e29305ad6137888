#include "kernels/cpu/row.h"

#include <math.h>

/* Work is split so that an item is worth handing to a worker: some thousands of elements. */
enum { ITEM_ELEMENTS = 4096 };

struct row_job {
    const struct row_kernels *kernels;
    float *x;
    const float *in, *other, *sines; /* rmsnorm: in, gain; rope: cosines, sines; swiglu: gate, up; add: y */
    float eps;
    int n_rows, n, n_heads; /* n: elements of a row; rope: head_dim */
    size_t n_elements;
    int rows_per_item;
};

static void row_job_run(struct backend *backend, struct row_job *job, size_t row_elements,
                        void (*body)(void *context, int item, int worker))
{
    size_t rows = row_elements < ITEM_ELEMENTS ? ITEM_ELEMENTS / row_elements : 1;
    job->rows_per_item = (int)rows;
    int n_items = (job->n_rows + job->rows_per_item - 1) / job->rows_per_item;
    workers_run(cpu_state(backend)->workers, n_items, body, job);
}

static int row_job_end(const struct row_job *job, int item)
{
    int end = (item + 1) * job->rows_per_item;
    return end < job->n_rows ? end : job->n_rows;
}

static void rmsnorm_item(void *context, int item, int worker)
{
    (void)worker;
    const struct row_job *job = context;
    for (int row = item * job->rows_per_item; row < row_job_end(job, item); row++) {
        size_t at = (size_t)row * (size_t)job->n;
        job->kernels->rmsnorm(job->in + at, job->other, job->eps, job->n, job->x + at);
    }
}

void row_rmsnorm(struct backend *backend, const float *x, const float *gain, float eps, int n_rows, int n,
                 float *out)
{
    struct row_job job = {.kernels = cpu_state(backend)->rows,
                          .x = out,
                          .in = x,
                          .other = gain,
                          .eps = eps,
                          .n_rows = n_rows,
                          .n = n};
    row_job_run(backend, &job, (size_t)n, rmsnorm_item);
}

static void rope_item(void *context, int item, int worker)
{
    (void)worker;
    const struct row_job *job = context;
    size_t half = (size_t)job->n / 2, row_elements = (size_t)job->n_heads * (size_t)job->n;
    for (int row = item * job->rows_per_item; row < row_job_end(job, item); row++)
        job->kernels->rope(job->x + (size_t)row * row_elements, job->n_heads, job->n,
                           job->other + (size_t)row * half, job->sines + (size_t)row * half);
}

void row_rope(struct backend *backend, float *x, int n_rows, int n_heads, int head_dim, const float *cos,
              const float *sin)
{
    struct row_job job = {.kernels = cpu_state(backend)->rows,
                          .x = x,
                          .other = cos,
                          .sines = sin,
                          .n_rows = n_rows,
                          .n = head_dim,
                          .n_heads = n_heads};
    row_job_run(backend, &job, (size_t)n_heads * (size_t)head_dim, rope_item);
}

/* Elementwise operations: a "row" is ITEM_ELEMENTS elements. */
static void elements_run(struct backend *backend, struct row_job *job,
                         void (*body)(void *context, int item, int worker))
{
    job->n_rows = (int)((job->n_elements + ITEM_ELEMENTS - 1) / ITEM_ELEMENTS);
    row_job_run(backend, job, ITEM_ELEMENTS, body);
}

static size_t elements_of_item(const struct row_job *job, int item)
{
    size_t left = job->n_elements - (size_t)item * ITEM_ELEMENTS;
    return left < ITEM_ELEMENTS ? left : ITEM_ELEMENTS;
}

static void swiglu_item(void *context, int item, int worker)
{
    (void)worker;
    const struct row_job *job = context;
    size_t at = (size_t)item * ITEM_ELEMENTS;
    job->kernels->swiglu(job->in + at, job->other + at, elements_of_item(job, item), job->x + at);
}

void row_swiglu(struct backend *backend, const float *gate, const float *up, size_t n, float *out)
{
    struct row_job job = {
        .kernels = cpu_state(backend)->rows, .x = out, .in = gate, .other = up, .n_elements = n};
    elements_run(backend, &job, swiglu_item);
}

static void add_item(void *context, int item, int worker)
{
    (void)worker;
    const struct row_job *job = context;
    size_t at = (size_t)item * ITEM_ELEMENTS;
    job->kernels->add(job->x + at, job->other + at, elements_of_item(job, item));
}

void row_add(struct backend *backend, float *x, const float *y, size_t n)
{
    struct row_job job = {.kernels = cpu_state(backend)->rows, .x = x, .other = y, .n_elements = n};
    elements_run(backend, &job, add_item);
}

struct angles_job {
    const struct attention_span *spans;
    int half;
    const double *inv_freq;
    float *cosines, *sines;
};

static void angles_item(void *context, int item, int worker)
{
    (void)worker;
    const struct angles_job *job = context;
    const struct attention_span *span = &job->spans[item];
    for (int r = 0; r < span->n_rows; r++) {
        size_t at = (size_t)(span->first_row + r) * (size_t)job->half;
        for (int f = 0; f < job->half; f++) {
            double angle = (double)(span->first_pos + r) * job->inv_freq[f];
            job->cosines[at + (size_t)f] = (float)cos(angle);
            job->sines[at + (size_t)f] = (float)sin(angle);
        }
    }
}

void row_angles(struct backend *backend, int n_spans, const struct attention_span *spans, int half,
                const double *inv_freq, float *cosines, float *sines)
{
    struct angles_job job = {spans, half, inv_freq, cosines, sines};
    workers_run(cpu_state(backend)->workers, n_spans, angles_item, &job);
}
