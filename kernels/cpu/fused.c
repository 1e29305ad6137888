#include "kernels/cpu/fused.h"

void fused_matmul_group(struct backend *backend, const struct backend_product *products, int n_products,
                        const struct acts *acts)
{
    for (int i = 0; i < n_products; i++)
        backend->matmul(backend, products[i].weight, acts, products[i].bias, products[i].out);
}

void fused_add_norm_prepare(struct backend *backend, float *x, const float *y, const float *gain, float eps,
                            int n_rows, int n, float *h, struct acts *acts)
{
    if (y) backend->add(backend, x, y, (size_t)n_rows * (size_t)n);
    backend->rmsnorm(backend, x, gain, eps, n_rows, n, h);
    backend->prepare(backend, h, n_rows, n, acts);
}

void fused_swiglu_prepare(struct backend *backend, float *gate, const float *up, int n_rows, int n,
                          struct acts *acts)
{
    backend->swiglu(backend, gate, up, (size_t)n_rows * (size_t)n, gate);
    backend->prepare(backend, gate, n_rows, n, acts);
}

void fused_rotate_store(struct backend *backend, const struct kv_store_args *args, float *q, float *k,
                        const float *cos, const float *sin)
{
    const struct kv_shape *shape = args->shape;
    const struct attention_span *last = &args->spans[args->n_spans - 1];
    int n_rows = last->first_row + last->n_rows;
    backend->rope(backend, q, n_rows, shape->n_heads, shape->head_dim, cos, sin);
    backend->rope(backend, k, n_rows, shape->n_kv_heads, shape->head_dim, cos, sin);
    backend->kv_store(backend, args);
}
