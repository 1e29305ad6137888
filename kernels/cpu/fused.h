#ifndef KERNELS_CPU_FUSED_H
#define KERNELS_CPU_FUSED_H

#include "kernels/backend.h"

/* Operations of struct backend that are several of its others: here they are just that. */
void fused_matmul_group(struct backend *backend, const struct backend_product *products, int n_products,
                        const struct acts *acts);
void fused_add_norm_prepare(struct backend *backend, float *x, const float *y, const float *gain, float eps,
                            int n_rows, int n, float *h, struct acts *acts);
void fused_swiglu_prepare(struct backend *backend, float *gate, const float *up, int n_rows, int n,
                          struct acts *acts);
void fused_rotate_store(struct backend *backend, const struct kv_store_args *args, float *q, float *k,
                        const float *cos, const float *sin);

#endif
