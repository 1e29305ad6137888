#include "kernels/cuda/cuda.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/weight.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/*
 * Weights to the card when the model is loaded, dequantized to fp16 or packed (kernels/cuda/packed.h), and
 * what is done with activations around products.
 */
enum { UPLOAD_ELEMENTS = 4 << 20 };

static const char *row_of(const struct weight_source *source, int row)
{
    size_t row_bytes =
        (size_t)source->n_cols / dtype_block_elements(source->dtype) * dtype_block_bytes(source->dtype);
    int from = source->row_order ? source->row_order[row] : row;
    return (const char *)source->data + (size_t)from * row_bytes;
}

/* False when a weight does not fit fp16. half: where its values go; NULL: they are only looked at. */
static bool rows_convert(const struct weight_source *source, int first, int n, float *row, uint16_t *half)
{
    float most = 0;
    for (int r = first; r < first + n; r++) {
        dtype_to_f32(source->dtype, row_of(source, r), (size_t)source->n_cols, row);
        for (int c = 0; c < source->n_cols; c++) {
            float size = fabsf(row[c]);
            most = size > most ? size : most;
        }
        for (int c = 0; c < source->n_cols && half; c++) *half++ = dtype_f32_to_f16(row[c]);
    }
    return most <= 65504.0f;
}

/* Rows as they lie on the card; n and first are multiples of a tile's, but at the end. */
static bool rows_make(const struct weight_source *source, const struct weight *weight, int first, int n,
                      float *row, const void **rows, void *out)
{
    if (weight->data) return rows_convert(source, first, n, row, out);
    for (int r = 0; r < n; r++) rows[r] = row_of(source, first + r);
    cuda_packed_fill(source->dtype, rows, n, source->n_cols, out);
    return rows_convert(source, first, n, row, NULL);
}

/* Of the first rows of a weight, on the card. */
static size_t rows_bytes(const struct weight *weight, int n_rows)
{
    if (weight->data) return (size_t)n_rows * (size_t)weight->n_cols * sizeof *weight->data;
    size_t n_tiles = (size_t)(n_rows + CUDA_PACKED_ROWS - 1) / CUDA_PACKED_ROWS;
    return n_tiles * cuda_packed_tile_bytes(weight->packed.dtype, weight->n_cols);
}

static enum err weight_upload(const struct weight_source *source, struct weight *weight,
                              struct err_info *info)
{
    int at_once = UPLOAD_ELEMENTS / source->n_cols / CUDA_PACKED_ROWS * CUDA_PACKED_ROWS;
    if (at_once < CUDA_PACKED_ROWS) at_once = CUDA_PACKED_ROWS;
    char *to = weight->data ? (char *)weight->data : (char *)weight->packed.memory;
    float *row = malloc((size_t)source->n_cols * sizeof *row);
    const void **rows = malloc((size_t)at_once * sizeof *rows);
    void *made = malloc(rows_bytes(weight, at_once));
    enum err err =
        row && rows && made ? ERR_OK : err_set(info, ERR_MEMORY, "tensor '%s': out of memory", source->name);
    for (int r = 0; r < source->n_rows && !err; r += at_once) {
        int n = source->n_rows - r < at_once ? source->n_rows - r : at_once;
        if (!rows_make(source, weight, r, n, row, rows, made)) {
            err = err_set_param(info, ERR_UNSUPPORTED, source->name,
                                "tensor '%s' has weights beyond 65504, which fp16 on the card cannot hold",
                                source->name);
            break;
        }
        cudaError_t error =
            cudaMemcpy(to + rows_bytes(weight, r), made, rows_bytes(weight, n), cudaMemcpyHostToDevice);
        if (error != cudaSuccess)
            err = err_set(info, ERR_IO, "tensor '%s': to the card: %s", source->name,
                          cudaGetErrorString(error));
    }
    free(row);
    free(rows);
    free(made);
    return err;
}

static void weight_free(struct backend *backend, struct weight *weight)
{
    (void)backend;
    if (weight) cudaFree(weight->data ? (void *)weight->data : (void *)weight->packed.memory);
    free(weight);
}

static size_t weight_bytes(const struct weight *weight)
{
    return rows_bytes(weight, weight->n_rows);
}

/* NULL, without an error that stays, when the card is full. */
static void *memory_of_card(size_t bytes, cudaError_t *error)
{
    void *memory = NULL;
    *error = cudaMalloc(&memory, bytes);
    if (*error == cudaSuccess) return memory;
    cudaGetLastError(); /* being out of memory is not sticky */
    return NULL;
}

/* form: what the bytes are. */
static enum err memory_fail(struct backend *backend, const struct weight_source *source, const char *form,
                            size_t bytes, cudaError_t error, struct err_info *info)
{
    bool can_keep = !source->keep && cuda_packed_has(source->dtype);
    return err_set_param(
        info, ERR_MEMORY, source->name,
        "tensor '%s': the card has no room for its %zu bytes %s, %zu are free: %s; its weights "
        "need %sa smaller model, or a card with more memory",
        source->name, bytes, form, backend->free_bytes(backend), cudaGetErrorString(error),
        can_keep ? "--device-weights file, " : "");
}

/* Room for the slices of the largest weight so far. */
static bool unpacked_need(struct cuda_state *cuda, size_t bytes, cudaError_t *error)
{
    struct cuda_buffer *unpacked = &cuda->unpacked;
    if (bytes <= unpacked->bytes) return true;
    cudaStreamSynchronize(cuda->stream);
    cudaFree(unpacked->memory);
    unpacked->memory = memory_of_card(bytes, error);
    unpacked->bytes = unpacked->memory ? bytes : 0;
    return unpacked->memory != NULL;
}

static enum err weight_alloc(struct backend *backend, const struct weight_source *source,
                             struct weight *weight, struct err_info *info)
{
    bool is_packed = source->keep && cuda_packed_has(source->dtype);
    weight->n_rows = source->n_rows;
    weight->n_cols = source->n_cols;
    weight->packed = (struct cuda_packed){source->dtype, source->n_rows, source->n_cols, NULL};
    size_t bytes = (size_t)source->n_rows * (size_t)source->n_cols * sizeof *weight->data;
    if (is_packed) bytes = rows_bytes(weight, weight->n_rows);
    cudaError_t error;
    void *memory = memory_of_card(bytes, &error);
    if (!memory)
        return memory_fail(backend, source, is_packed ? "as in the file" : "in fp16", bytes, error, info);
    if (!is_packed)
        weight->data = memory;
    else
        weight->packed.memory = memory;
    size_t unpacked = cuda_unpacked_bytes(source->n_rows, source->n_cols);
    if (is_packed && source->multiply && !unpacked_need(cuda_state(backend), unpacked, &error))
        return memory_fail(backend, source, "for slices in fp16", unpacked, error, info);
    return ERR_OK;
}

static enum err weight_create(struct backend *backend, const struct weight_source *source,
                              struct weight **out, struct err_info *info)
{
    struct weight *weight = calloc(1, sizeof *weight);
    if (!weight) return err_set(info, ERR_MEMORY, "tensor '%s': out of memory", source->name);
    enum err err = weight_alloc(backend, source, weight, info);
    if (!err) err = weight_upload(source, weight, info);
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

static void gather(struct backend *backend, const struct weight *weight, const int32_t *tokens, int n_tokens,
                   float *out)
{
    struct cuda_state *cuda = cuda_state(backend);
    size_t bytes = (size_t)n_tokens * sizeof *tokens;
    if (cuda->failure[0] || n_tokens == 0 || !cuda_buffer_need(cuda, &cuda->tokens, bytes)) return;
    backend->upload(backend, cuda->tokens.memory, tokens, bytes);
    cuda_check(
        cuda,
        weight->data
            ? cuda_gather_run(weight->data, weight->n_cols, cuda->tokens.memory, n_tokens, out, cuda->stream)
            : cuda_packed_gather_run(&weight->packed, cuda->tokens.memory, n_tokens, out, cuda->stream),
        "gather");
}

void cuda_fill_weights(struct backend *backend)
{
    backend->weight_create = weight_create;
    backend->weight_free = weight_free;
    backend->weight_bytes = weight_bytes;
    backend->acts_create = acts_create;
    backend->acts_free = acts_free;
    backend->prepare = prepare;
    backend->add_norm_prepare = add_norm_prepare;
    backend->swiglu_prepare = swiglu_prepare;
    backend->gather = gather;
    cuda_fill_product(backend);
}
