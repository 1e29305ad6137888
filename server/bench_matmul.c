#include "server/bench_kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Products with a model's matrices. Copies of a matrix are used in turn, so that small ones do not stay in
   the cache as they never do in a model. */

enum { MAX_COPIES = 256, IN_TURN_BYTES = 96 << 20 };

struct product {
    struct backend *backend;
    struct weight *copies[MAX_COPIES];
    int n_copies, next;
    int n_rows, n_cols, tokens;
    struct acts *acts;
    float *x, *out;
};

static void product_run(void *context)
{
    struct product *product = context;
    struct backend *backend = product->backend;
    backend->prepare(backend, product->x, product->tokens, product->n_cols, product->acts);
    backend->matmul(backend, product->copies[product->next], product->acts, NULL, product->out);
    product->next = (product->next + 1) % product->n_copies;
}

static void product_free(struct product *product)
{
    struct backend *backend = product->backend;
    for (int c = 0; c < product->n_copies; c++) backend->weight_free(backend, product->copies[c]);
    product->n_copies = 0;
}

static enum err product_create(struct product *product, enum dtype dtype, struct err_info *info)
{
    size_t elements = (size_t)product->n_rows * (size_t)product->n_cols;
    size_t bytes = elements / dtype_block_elements(dtype) * dtype_block_bytes(dtype);
    int n_copies = (int)(IN_TURN_BYTES / bytes) + 1;
    char *data = malloc(bytes);
    if (data == NULL) return err_set(info, ERR_MEMORY, "matmul: out of memory");
    for (size_t i = 0; i < bytes; i++) data[i] = (char)((i * 2654435761u >> 8) & 0x3b); /* no NaN as fp16 */
    struct weight_source source = {.name = "bench",
                                   .dtype = dtype,
                                   .n_rows = product->n_rows,
                                   .n_cols = product->n_cols,
                                   .data = data,
                                   .multiply = true,
                                   .keep = product->backend->weights == BACKEND_WEIGHTS_FILE};
    enum err err = ERR_OK;
    product->n_copies = 0;
    while (product->n_copies < n_copies && product->n_copies < MAX_COPIES && err == ERR_OK) {
        err = product->backend->weight_create(product->backend, &source, &product->copies[product->n_copies],
                                              info);
        if (err == ERR_OK) product->n_copies++;
    }
    if (err != ERR_OK) product_free(product);
    free(data);
    return err;
}

static enum err tokens_run(struct bench_kernels *bench, struct product *product, enum dtype dtype, int tokens,
                           struct err_info *info)
{
    struct backend *backend = bench->backend;
    product->tokens = tokens;
    product->next = 0;
    product->x = bench_memory_floats(backend, (size_t)tokens * (size_t)product->n_cols);
    product->out = bench_memory_floats(backend, (size_t)tokens * (size_t)product->n_rows);
    product->acts = backend->acts_create(backend, tokens, product->n_cols, backend->activation_bits);
    enum err err = ERR_OK;
    if (product->x == NULL || product->out == NULL || product->acts == NULL) {
        err = err_set(info, ERR_MEMORY, "matmul: no memory for %d tokens", tokens);
    } else {
        double elements = (double)product->n_rows * product->n_cols;
        double bytes = elements / (double)dtype_block_elements(dtype) * (double)dtype_block_bytes(dtype);
        if (!backend->is_host) bytes = (double)backend->weight_bytes(product->copies[0]);
        struct bench_row row = {.kernel = "matmul",
                                .type = dtype_name(dtype),
                                .n = tokens,
                                .us = bench_time_us(bench, product_run, product),
                                .bytes = bytes,
                                .macs = elements * tokens};
        snprintf(row.what, sizeof row.what, "%d x %d", product->n_rows, product->n_cols);
        bench_row_report(bench, &row);
    }
    if (product->acts != NULL) backend->acts_free(backend, product->acts);
    if (product->x != NULL) backend->free(backend, product->x);
    if (product->out != NULL) backend->free(backend, product->out);
    return err;
}

static enum err matrix_run(struct bench_kernels *bench, enum dtype dtype, int n_rows, int n_cols,
                           struct err_info *info)
{
    struct product product = {.backend = bench->backend, .n_rows = n_rows, .n_cols = n_cols};
    char what[40];
    snprintf(what, sizeof what, "%s %d x %d", dtype_name(dtype), n_rows, n_cols);
    if ((size_t)n_cols % dtype_block_elements(dtype) != 0) {
        bench_skip("matmul", what, "rows are no multiple of the type's block");
        return ERR_OK;
    }
    struct err_info why;
    enum err err = product_create(&product, dtype, &why);
    if (err != ERR_OK) {
        bench_skip("matmul", what, why.message);
        return ERR_OK;
    }
    for (int i = 0; i < bench->tokens.n && err == ERR_OK; i++)
        err = tokens_run(bench, &product, dtype, bench->tokens.values[i], info);
    product_free(&product);
    return err;
}

enum err bench_matmul_run(struct bench_kernels *bench, struct err_info *info)
{
    const struct model_shape *shape = &bench->shape;
    const int matrices[][2] = {{shape->n_heads * shape->head_dim, shape->n_embd},
                               {shape->n_ff, shape->n_embd},
                               {shape->n_embd, shape->n_ff},
                               {shape->n_vocab, shape->n_embd}};
    enum err err = ERR_OK;
    for (const char *at = bench->types; *at != '\0' && err == ERR_OK;) {
        size_t length = strcspn(at, ",");
        enum dtype dtype = DTYPE_F32;
        if (!dtype_named(at, length, &dtype))
            err = err_set_param(info, ERR_USAGE, "types",
                                "--types: unknown type '%.*s'; there are " DTYPE_NAMES,
                                (int)(length < 40 ? length : 40), at);
        for (size_t m = 0; m < sizeof matrices / sizeof *matrices && err == ERR_OK; m++)
            err = matrix_run(bench, dtype, matrices[m][0], matrices[m][1], info);
        at += length;
        at += *at == ',';
    }
    return err;
}
