#include "model/balance.h"

#include "kernels/kv_page.h"
#include "model/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void identity_add(int n, double *a, double share)
{
    double trace = 0;
    for (int i = 0; i < n; i++) trace += a[(size_t)i * n + i];
    for (int i = 0; i < n; i++) a[(size_t)i * n + i] += share * trace / n;
}

/* out = V^T diag(f(w)) V for eigenvectors V (rows) and values w, f = w^power; values below 1e-9 of the
   largest are raised to it. */
static void power_form(int n, const double *vectors, const double *values, double power, double *scratch,
                       double *out)
{
    double floor_value = values[n - 1] * 1e-9;
    for (int i = 0; i < n; i++) {
        double scale = pow(values[i] > floor_value ? values[i] : floor_value, power);
        for (int c = 0; c < n; c++) scratch[(size_t)i * n + c] = scale * vectors[(size_t)i * n + c];
    }
    linalg_gemm(true, false, n, n, n, 1, vectors, scratch, 0, out);
}

/* root = a^(1/2), inverse_root = a^(-1/2); a is destroyed. */
static enum err roots(int n, double *a, double *values, double *scratch, double *root, double *inverse_root,
                      struct err_info *info)
{
    enum err err = linalg_symmetric_eigen(n, a, values, info);
    if (err != ERR_OK) return err;
    if (!(values[n - 1] > 0) || !isfinite(values[n - 1]))
        return err_set(info, ERR_FORMAT, "a covariance is zero or not finite");
    power_form(n, a, values, .5, scratch, root);
    power_form(n, a, values, -.5, scratch, inverse_root);
    return ERR_OK;
}

static void symmetric_product(int n, const double *outer, const double *inner, double *scratch, double *out)
{
    linalg_gemm(false, false, n, n, n, 1, outer, inner, 0, scratch);
    linalg_gemm(false, true, n, n, n, 1, scratch, outer, 0, out);
}

/* In-place Hadamard of order 16 on rows g*16 .. g*16+15 of a [n][n], normalised. */
static void group_hadamard(int n, double *a, int group)
{
    for (int stride = 1; stride < KV_CODE_GROUP; stride *= 2)
        for (int i = 0; i < KV_CODE_GROUP; i++) {
            if (i & stride) continue;
            double *x = a + ((size_t)group * KV_CODE_GROUP + i) * n, *y = x + (size_t)stride * n;
            for (int c = 0; c < n; c++) {
                double sum = x[c] + y[c], difference = x[c] - y[c];
                x[c] = sum;
                y[c] = difference;
            }
        }
    for (int i = 0; i < KV_CODE_GROUP * n; i++) a[(size_t)group * KV_CODE_GROUP * n + i] *= .25;
}

/* rows of vectors reversed (largest eigenvalue first) times base: the rotated transform. */
static void rotate_descending(int n, const double *vectors, const double *base, double *scratch, double *out)
{
    for (int i = 0; i < n; i++)
        memcpy(scratch + (size_t)i * n, vectors + (size_t)(n - 1 - i) * n, (size_t)n * sizeof *scratch);
    linalg_gemm(false, false, n, n, n, 1, scratch, base, 0, out);
}

static void scale_groups(int n, double *key, double *query, const double *values, float *sigma,
                         float *key_out, float *query_out)
{
    for (int g = 0; g < n / KV_CODE_GROUP; g++) {
        double mean = 0;
        for (int i = 0; i < KV_CODE_GROUP; i++) mean += fmax(values[n - 1 - (g * KV_CODE_GROUP + i)], 0);
        double s = sqrt(mean / KV_CODE_GROUP);
        sigma[g] = (float)s;
        group_hadamard(n, key, g);
        group_hadamard(n, query, g);
        for (int i = g * KV_CODE_GROUP * n; i < (g + 1) * KV_CODE_GROUP * n; i++) {
            key_out[i] = (float)(key[i] / s);
            query_out[i] = (float)(query[i] * s);
        }
    }
}

enum err balance_solve(int n, double *key_cov, double *query_cov, float *key, float *query, float *sigma,
                       struct err_info *info)
{
    size_t square = (size_t)n * n;
    double *memory = malloc((7 * square + (size_t)n) * sizeof *memory);
    if (memory == NULL) return err_set(info, ERR_MEMORY, "balance of size %d: out of memory", n);
    double *root = memory, *inverse = root + square, *middle = inverse + square, *m_root = middle + square;
    double *m_inverse = m_root + square, *scratch = m_inverse + square, *other = scratch + square;
    double *values = other + square;

    identity_add(n, key_cov, 1e-3);
    identity_add(n, query_cov, 1e-3);
    memcpy(middle, key_cov, square * sizeof *middle);
    enum err err = roots(n, middle, values, scratch, root, inverse, info);
    if (err != ERR_OK) goto out;
    symmetric_product(n, root, query_cov, scratch, middle);
    err = roots(n, middle, values, scratch, m_root, m_inverse, info);
    if (err != ERR_OK) goto out;
    symmetric_product(n, inverse, m_root, scratch, middle); /* M */
    err = roots(n, middle, values, scratch, m_root, m_inverse, info);
    if (err != ERR_OK) goto out;
    symmetric_product(n, m_root, key_cov, scratch, middle); /* C */
    err = linalg_symmetric_eigen(n, middle, values, info);
    if (err != ERR_OK) goto out;
    rotate_descending(n, middle, m_root, scratch, root);
    rotate_descending(n, middle, m_inverse, scratch, inverse);
    scale_groups(n, root, inverse, values, sigma, key, query);
out:
    free(memory);
    return err;
}
