#include "model/linalg.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* LAPACK's divide-and-conquer symmetric eigensolver, by its Fortran name: OpenBLAS carries it, its header
 * does not. */
void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
             double *work, const int *lwork, int *iwork, const int *liwork, int *info);

void linalg_single_thread(void)
{
    openblas_set_num_threads(1);
}

void linalg_gemm(bool transpose_a, bool transpose_b, int m, int n, int k, double alpha, const double *a,
                 const double *b, double beta, double *c)
{
    cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, transpose_a ? m : k, b,
                transpose_b ? k : n, beta, c, n);
}

void linalg_gemm_f32(bool transpose_a, bool transpose_b, int m, int n, int k, float alpha, const float *a,
                     int lda, const float *b, int ldb, float beta, float *c, int ldc)
{
    cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

enum err linalg_symmetric_eigen(int n, double *a, double *values, struct err_info *info)
{
    int status = 0;
    int work_size = 1 + 6 * n + 2 * n * n, int_size = 3 + 5 * n;
    double *work = malloc((size_t)work_size * sizeof *work);
    int *int_work = malloc((size_t)int_size * sizeof *int_work);
    enum err err = ERR_OK;
    if (work == NULL || int_work == NULL) {
        err = err_set(info, ERR_MEMORY, "eigenproblem of size %d: out of memory", n);
        goto out;
    }
    /* Fortran stores columns: its columns of eigenvectors are our rows, and a symmetric input reads the same.
     */
    dsyevd_("V", "L", &n, a, &n, values, work, &work_size, int_work, &int_size, &status);
    if (status != 0)
        err = err_set(info, ERR_FORMAT, "eigenproblem of size %d does not converge (LAPACK dsyevd: %d)", n,
                      status);
out:
    free(work);
    free(int_work);
    return err;
}

static void rows_swap(int n, double *a, int i, int j)
{
    for (int c = 0; c < n; c++) {
        double held = a[(size_t)i * n + c];
        a[(size_t)i * n + c] = a[(size_t)j * n + c];
        a[(size_t)j * n + c] = held;
    }
}

enum err linalg_invert(int n, double *a, double *inverse, struct err_info *info)
{
    memset(inverse, 0, (size_t)n * n * sizeof *inverse);
    for (int i = 0; i < n; i++) inverse[(size_t)i * n + i] = 1;
    for (int p = 0; p < n; p++) {
        int best = p;
        for (int r = p + 1; r < n; r++)
            if (fabs(a[(size_t)r * n + p]) > fabs(a[(size_t)best * n + p])) best = r;
        if (!(fabs(a[(size_t)best * n + p]) > 0))
            return err_set(info, ERR_FORMAT, "matrix of size %d is singular at column %d", n, p);
        if (best != p) {
            rows_swap(n, a, best, p);
            rows_swap(n, inverse, best, p);
        }
        double scale = 1 / a[(size_t)p * n + p];
        for (int c = 0; c < n; c++) {
            a[(size_t)p * n + c] *= scale;
            inverse[(size_t)p * n + c] *= scale;
        }
        for (int r = 0; r < n; r++) {
            double factor = a[(size_t)r * n + p];
            if (r == p || factor == 0) continue;
            for (int c = 0; c < n; c++) {
                a[(size_t)r * n + c] -= factor * a[(size_t)p * n + c];
                inverse[(size_t)r * n + c] -= factor * inverse[(size_t)p * n + c];
            }
        }
    }
    return ERR_OK;
}
