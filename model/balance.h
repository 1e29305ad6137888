#ifndef MODEL_BALANCE_H
#define MODEL_BALANCE_H

#include "config/err.h"

/*
 * The key transform of one head (design 2.2, item 1).
 *
 * A quantizer with equal error in every channel does least harm to the scores q.k when keys and queries are
 * seen in coordinates where their second moments agree. With M = Sk^-1 # Sq (the matrix geometric mean) and B
 * = M^(1/2), B Sk B^T = B^-T Sq B^-1 = C. U holds C's eigenvectors, largest eigenvalue first, so channels
 * come sorted by importance; inside each group of 16 a Hadamard matrix spreads the variance evenly, and
 * dividing by the group's standard deviation sigma makes every coded channel a unit Gaussian, nearly:
 *
 *   key:   z  = diag(1/sigma) Had16 U^T B    (k - mean)      rows of `key`
 *   query: q' = diag(sigma)   Had16 U^T B^-T q               rows of `query`,  so q'.z = q.(k - mean)
 */

/* key_cov, query_cov [n][n], symmetric, destroyed; n a multiple of 16. Both get 1e-3 of their mean diagonal
   added. key, query [n][n]; sigma [n/16]. ERR_MEMORY, ERR_FORMAT (moments that are not finite). */
enum err balance_solve(int n, double *key_cov, double *query_cov, float *key, float *query, float *sigma,
                       struct err_info *info);

#endif
