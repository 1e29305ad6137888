#ifndef KERNELS_CPU_ROW_H
#define KERNELS_CPU_ROW_H

#include "kernels/cpu/cpu.h"

/*
 * Operations on rows and elements. Sums over a row are sixteen partial sums, lane = index mod 16, each in
 * increasing order, then lane i += lane i+8, i+4, i+2, i+1. See row_scalar.c for the rest.
 */
struct act_8; /* matmul.h */
struct act_16;

struct row_kernels {
    /* One row of n. */
    void (*rmsnorm)(const float *x, const float *gain, float eps, int n, float *out);
    /* n a multiple of 32. */
    void (*quantize_8)(const float *x, int n, struct act_8 *groups);
    void (*quantize_16)(const float *x, int n, struct act_16 *groups);
    /* One token: x [n_heads][head_dim], cos and sin [head_dim/2]. */
    void (*rope)(float *x, int n_heads, int head_dim, const float *cos, const float *sin);
    void (*swiglu)(const float *gate, const float *up, size_t n, float *out);
    void (*add)(float *x, const float *y, size_t n);
};

extern const struct row_kernels row_scalar, row_avx2;

/* Operations of struct backend. */
void row_rmsnorm(struct backend *backend, const float *x, const float *gain, float eps, int n_rows, int n,
                 float *out);
void row_rope(struct backend *backend, float *x, int n_rows, int n_heads, int head_dim, const float *cos,
              const float *sin);
void row_swiglu(struct backend *backend, const float *gate, const float *up, size_t n, float *out);
void row_add(struct backend *backend, float *x, const float *y, size_t n);
void row_angles(struct backend *backend, int n_spans, const struct attention_span *spans, int half,
                const double *inv_freq, float *cosines, float *sines);

#endif
