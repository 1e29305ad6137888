#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/rows.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * Weights on the card: fp16, row after row, dequantized once when the model is loaded. A gathered matrix is
 * read from the same copy, so nothing of the file stays borrowed.
 */
struct weight {
    int n_rows, n_cols;
    uint16_t *data; /* of the card: [n_rows][n_cols] */
};

/* Activations in fp16, each row divided by a power of two. */
struct acts {
    int max_rows, max_cols;
    int n_rows, n_cols;
    uint16_t *half; /* of the card */
    float *scale;
};

enum { UPLOAD_ELEMENTS = 4 << 20 };

static const char *row_of(const struct weight_source *source, int row)
{
    size_t row_bytes =
        (size_t)source->n_cols / dtype_block_elements(source->dtype) * dtype_block_bytes(source->dtype);
    int from = source->row_order ? source->row_order[row] : row;
    return (const char *)source->data + (size_t)from * row_bytes;
}

/* False when a weight does not fit fp16. */
static bool rows_convert(const struct weight_source *source, int first, int n, float *row, uint16_t *out)
{
    float most = 0;
    for (int r = first; r < first + n; r++) {
        dtype_to_f32(source->dtype, row_of(source, r), (size_t)source->n_cols, row);
        for (int c = 0; c < source->n_cols; c++) {
            float size = fabsf(row[c]);
            most = size > most ? size : most;
            *out++ = dtype_f32_to_f16(row[c]);
        }
    }
    return most <= 65504.0f;
}

static enum err weight_upload(const struct weight_source *source, struct weight *weight,
                              struct err_info *info)
{
    int at_once = UPLOAD_ELEMENTS / source->n_cols;
    if (at_once < 1) at_once = 1;
    if (at_once > source->n_rows) at_once = source->n_rows;
    float *row = malloc((size_t)source->n_cols * sizeof *row);
    uint16_t *half = malloc((size_t)at_once * (size_t)source->n_cols * sizeof *half);
    enum err err =
        row && half ? ERR_OK : err_set(info, ERR_MEMORY, "tensor '%s': out of memory", source->name);
    for (int r = 0; r < source->n_rows && !err; r += at_once) {
        int n = source->n_rows - r < at_once ? source->n_rows - r : at_once;
        size_t n_elements = (size_t)n * (size_t)source->n_cols;
        if (!rows_convert(source, r, n, row, half)) {
            err = err_set_param(info, ERR_UNSUPPORTED, source->name,
                                "tensor '%s' has weights beyond 65504, which fp16 on the card cannot hold",
                                source->name);
            break;
        }
        cudaError_t error = cudaMemcpy(weight->data + (size_t)r * (size_t)source->n_cols, half,
                                       n_elements * sizeof *half, cudaMemcpyHostToDevice);
        if (error != cudaSuccess)
            err = err_set(info, ERR_IO, "tensor '%s': to the card: %s", source->name,
                          cudaGetErrorString(error));
    }
    free(row);
    free(half);
    return err;
}

static void weight_free(struct backend *backend, struct weight *weight)
{
    (void)backend;
    if (weight) cudaFree(weight->data);
    free(weight);
}

static size_t weight_bytes(const struct weight *weight)
{
    return (size_t)weight->n_rows * (size_t)weight->n_cols * sizeof *weight->data;
}

static enum err weight_create(struct backend *backend, const struct weight_source *source,
                              struct weight **out, struct err_info *info)
{
    struct weight *weight = calloc(1, sizeof *weight);
    if (!weight) return err_set(info, ERR_MEMORY, "tensor '%s': out of memory", source->name);
    weight->n_rows = source->n_rows;
    weight->n_cols = source->n_cols;
    void *data = NULL;
    cudaError_t error = cudaMalloc(&data, weight_bytes(weight));
    if (error != cudaSuccess) {
        cudaGetLastError(); /* being out of memory is not sticky */
        free(weight);
        return err_set_param(
            info, ERR_MEMORY, source->name,
            "tensor '%s': the card has no room for its %zu bytes in fp16, %zu are free: %s; its weights need "
            "a smaller model, or a card with more memory",
            source->name, (size_t)source->n_rows * (size_t)source->n_cols * 2, backend->free_bytes(backend),
            cudaGetErrorString(error));
    }
    weight->data = data;
    enum err err = weight_upload(source, weight, info);
    if (err) {
        weight_free(backend, weight);
        return err;
    }
    *out = weight;
    return ERR_OK;
}

static size_t acts_bytes(const struct acts *acts)
{
    return (size_t)acts->max_rows * ((size_t)acts->max_cols * sizeof *acts->half + sizeof *acts->scale);
}

static void acts_free(struct backend *backend, struct acts *acts)
{
    if (!acts) return;
    cuda_state(backend)->acts_bytes -= acts_bytes(acts);
    cudaFree(acts->half);
    cudaFree(acts->scale);
    free(acts);
}

static struct acts *acts_create(struct backend *backend, int max_rows, int max_cols, int bits)
{
    (void)bits; /* fp16 */
    struct acts *acts = calloc(1, sizeof *acts);
    if (!acts) return NULL;
    void *half = NULL, *scale = NULL;
    cudaError_t error = cudaMalloc(&half, (size_t)max_rows * (size_t)max_cols * sizeof *acts->half);
    if (error == cudaSuccess) error = cudaMalloc(&scale, (size_t)max_rows * sizeof *acts->scale);
    *acts = (struct acts){.max_rows = max_rows, .max_cols = max_cols, .half = half, .scale = scale};
    cuda_state(backend)->acts_bytes += acts_bytes(acts);
    if (error != cudaSuccess) {
        cudaGetLastError();
        acts_free(backend, acts);
        return NULL;
    }
    return acts;
}

static void prepare(struct backend *backend, const float *x, int n_rows, int n, struct acts *acts)
{
    struct cuda_state *cuda = cuda_state(backend);
    assert(n_rows <= acts->max_rows && n <= acts->max_cols);
    acts->n_rows = n_rows;
    acts->n_cols = n;
    if (cuda->failure[0] || n_rows == 0) return;
    cuda_check(cuda, cuda_prepare_run(x, n_rows, n, acts->half, acts->scale, cuda->stream), "prepare");
}

static void add_norm_prepare(struct backend *backend, float *x, const float *y, const float *gain, float eps,
                             int n_rows, int n, float *h, struct acts *acts)
{
    struct cuda_state *cuda = cuda_state(backend);
    struct cuda_row_work work = {.x = x,
                                 .y = y,
                                 .gain = gain,
                                 .eps = eps,
                                 .n_rows = n_rows,
                                 .n = n,
                                 .half = acts->half,
                                 .scale = acts->scale};
    (void)h;
    assert(n_rows <= acts->max_rows && n <= acts->max_cols);
    acts->n_rows = n_rows;
    acts->n_cols = n;
    if (cuda->failure[0] || n_rows == 0) return;
    cuda_check(cuda, cuda_row_run(&work, cuda->stream), "norm");
}

static void swiglu_prepare(struct backend *backend, float *gate, const float *up, int n_rows, int n,
                           struct acts *acts)
{
    struct cuda_state *cuda = cuda_state(backend);
    struct cuda_row_work work = {
        .x = gate, .up = up, .n_rows = n_rows, .n = n, .half = acts->half, .scale = acts->scale};
    assert(n_rows <= acts->max_rows && n <= acts->max_cols);
    acts->n_rows = n_rows;
    acts->n_cols = n;
    if (cuda->failure[0] || n_rows == 0) return;
    cuda_check(cuda, cuda_row_run(&work, cuda->stream), "swiglu");
}

static void matmul_group(struct backend *backend, const struct backend_product *products, int n_products,
                         const struct acts *acts)
{
    struct cuda_state *cuda = cuda_state(backend);
    struct cuda_matmul matmul = {.n_parts = n_products,
                                 .x = acts->half,
                                 .scale = acts->scale,
                                 .n_cols = acts->n_cols,
                                 .n_tokens = acts->n_rows};
    assert(n_products > 0 && n_products <= CUDA_MATMUL_PARTS);
    if (cuda->failure[0] || acts->n_rows == 0) return;
    for (int i = 0; i < n_products; i++) {
        const struct weight *weight = products[i].weight;
        assert(acts->n_cols == weight->n_cols);
        matmul.parts[i] =
            (struct cuda_matmul_part){weight->data, products[i].bias, products[i].out, weight->n_rows};
    }
    cuda_check(cuda,
               cuda->matmul_90
                   ? cuda_matmul_90_run(cuda->matmul_90, &matmul, cuda->n_processors, cuda->stream)
                   : cuda_matmul_run(&matmul, cuda->stream),
               "matmul");
}

static void matmul(struct backend *backend, const struct weight *weight, const struct acts *acts,
                   const float *bias, float *out)
{
    const struct backend_product product = {weight, bias, out};
    matmul_group(backend, &product, 1, acts);
}

static void gather(struct backend *backend, const struct weight *weight, const int32_t *tokens, int n_tokens,
                   float *out)
{
    struct cuda_state *cuda = cuda_state(backend);
    size_t bytes = (size_t)n_tokens * sizeof *tokens;
    if (cuda->failure[0] || n_tokens == 0 || !cuda_buffer_need(cuda, &cuda->tokens, bytes)) return;
    backend->upload(backend, cuda->tokens.memory, tokens, bytes);
    cuda_check(
        cuda, cuda_gather_run(weight->data, weight->n_cols, cuda->tokens.memory, n_tokens, out, cuda->stream),
        "gather");
}

void cuda_fill_weights(struct backend *backend)
{
    const char *products = getenv("OCTAVO_CUDA_MATMUL"); /* for comparisons: docs/cuda.md */
    cuda_state(backend)->matmul_90 = products && strcmp(products, "mma") == 0 ? NULL : cuda_matmul_90_open();
    backend->weight_create = weight_create;
    backend->weight_free = weight_free;
    backend->weight_bytes = weight_bytes;
    backend->acts_create = acts_create;
    backend->acts_free = acts_free;
    backend->prepare = prepare;
    backend->add_norm_prepare = add_norm_prepare;
    backend->swiglu_prepare = swiglu_prepare;
    backend->matmul = matmul;
    backend->matmul_group = matmul_group;
    backend->gather = gather;
}
