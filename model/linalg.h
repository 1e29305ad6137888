#ifndef MODEL_LINALG_H
#define MODEL_LINALG_H

#include "config/err.h"

#include <stdbool.h>

/*
 * The little dense linear algebra that calibration needs, over OpenBLAS (the one file that sees it). Row
 * major. BLAS runs on the calling thread only: callers parallelise over heads.
 */

/* Call once before the others. */
void linalg_single_thread(void);

/* c [m][n] = alpha * op(a) op(b) + beta * c; op transposes when the flag is set (a is then [k][m], b [n][k]).
 */
void linalg_gemm(bool transpose_a, bool transpose_b, int m, int n, int k, double alpha, const double *a,
                 const double *b, double beta, double *c);
void linalg_gemm_f32(bool transpose_a, bool transpose_b, int m, int n, int k, float alpha, const float *a,
                     int lda, const float *b, int ldb, float beta, float *c, int ldc);

/* Eigenvalues of the symmetric matrix a [n][n], ascending, into values [n]; a becomes the eigenvectors, one
   per row. ERR_MEMORY, or ERR_FORMAT when the iteration does not converge (a NaN in the matrix). */
enum err linalg_symmetric_eigen(int n, double *a, double *values, struct err_info *info);

/* inverse [n][n] of a [n][n] by Gauss-Jordan with partial pivoting; a is destroyed. ERR_FORMAT when singular.
 */
enum err linalg_invert(int n, double *a, double *inverse, struct err_info *info);

#endif
