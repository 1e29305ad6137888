#include "kernels/cuda/cuda.h"
#include "kernels/cuda/weight.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/*
 * Which kernel makes a product. Weights in fp16 go to matmul_90.cu or matmul.cu, all that meet the same
 * tokens in one call. Where some of them are packed, parts of one form go together, in the segments that the
 * whole group would have in fp16: so a weight's form changes no bit. Packed weights have a kernel of their
 * own for few tokens; for more, slices of rows are unpacked, each before its product.
 */

size_t cuda_unpacked_bytes(int n_rows, int n_cols)
{
    size_t row_bytes = (size_t)n_cols * sizeof(uint16_t), rows = CUDA_UNPACKED_BYTES / row_bytes;
    rows = rows > CUDA_SLICE_ROWS ? rows / CUDA_SLICE_ROWS * CUDA_SLICE_ROWS : CUDA_SLICE_ROWS;
    return (rows < (size_t)n_rows ? rows : (size_t)n_rows) * row_bytes;
}

static cudaError_t halves_run(struct cuda_state *cuda, const struct cuda_matmul *matmul)
{
    return cuda->matmul_90 ? cuda_matmul_90_run(cuda->matmul_90, matmul, cuda->n_processors, cuda->stream)
                           : cuda_matmul_run(matmul, cuda->stream);
}

static cudaError_t slices_run(struct cuda_state *cuda, const struct cuda_packed *packed,
                              const struct cuda_matmul *matmul)
{
    size_t row_bytes = (size_t)packed->n_cols * sizeof(uint16_t);
    int at_once = (int)(cuda_unpacked_bytes(packed->n_rows, packed->n_cols) / row_bytes);
    cudaError_t error = cudaSuccess;
    assert(cuda->unpacked.bytes >= (size_t)at_once * row_bytes);
    for (int row = 0; row < packed->n_rows && error == cudaSuccess; row += at_once) {
        int n = packed->n_rows - row < at_once ? packed->n_rows - row : at_once;
        struct cuda_matmul slice = *matmul;
        struct cuda_matmul_part *part = &slice.parts[0];
        part->weight = cuda->unpacked.memory;
        part->n_rows = n;
        part->out += row;
        if (part->bias) part->bias += row;
        error = cuda_packed_unpack_run(packed, row, n, cuda->unpacked.memory, cuda->stream);
        if (error == cudaSuccess) error = halves_run(cuda, &slice);
    }
    return error;
}

/* Parts whose weights are all in fp16, or all packed from one type. */
static cudaError_t parts_run(struct cuda_state *cuda, const struct cuda_matmul *matmul,
                             const struct cuda_packed *const *packed)
{
    cudaError_t error = cudaSuccess;
    if (!packed[0]->memory) return halves_run(cuda, matmul);
    if (matmul->n_tokens <= CUDA_FEW_TOKENS) return cuda_matmul_packed_run(packed, matmul, cuda->stream);
    for (int i = 0; i < matmul->n_parts && error == cudaSuccess; i++) {
        struct cuda_matmul one = *matmul;
        one.n_parts = 1;
        one.parts[0] = matmul->parts[i];
        error = slices_run(cuda, packed[i], &one);
    }
    return error;
}

static bool is_like(const struct weight *a, const struct weight *b)
{
    return a->data || b->data ? a->data && b->data : a->packed.dtype == b->packed.dtype;
}

static cudaError_t group_run(struct cuda_state *cuda, const struct cuda_matmul *matmul,
                             const struct backend_product *products)
{
    int n_segments = cuda->matmul_90 ? cuda_matmul_90_segments(matmul) : 1;
    cudaError_t error = cudaSuccess;
    bool is_done[CUDA_MATMUL_PARTS] = {false};
    for (int i = 0; i < matmul->n_parts && error == cudaSuccess; i++) {
        struct cuda_matmul parts = *matmul;
        const struct cuda_packed *packed[CUDA_MATMUL_PARTS];
        if (is_done[i]) continue;
        parts.n_parts = 0;
        for (int p = i; p < matmul->n_parts; p++) {
            if (!is_like(products[i].weight, products[p].weight)) continue;
            is_done[p] = true;
            packed[parts.n_parts] = &products[p].weight->packed;
            parts.parts[parts.n_parts++] = matmul->parts[p];
        }
        if (parts.n_parts < matmul->n_parts || packed[0]->memory) parts.n_segments = n_segments;
        error = parts_run(cuda, &parts, packed);
    }
    return error;
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
        matmul.parts[i] = (struct cuda_matmul_part){.weight = weight->data,
                                                    .bias = products[i].bias,
                                                    .out = products[i].out,
                                                    .n_rows = weight->n_rows,
                                                    .out_rows = weight->n_rows};
    }
    cuda_check(cuda, group_run(cuda, &matmul, products), "matmul");
}

static void matmul(struct backend *backend, const struct weight *weight, const struct acts *acts,
                   const float *bias, float *out)
{
    const struct backend_product product = {weight, bias, out};
    matmul_group(backend, &product, 1, acts);
}

void cuda_fill_product(struct backend *backend)
{
    const char *products = getenv("OCTAVO_CUDA_MATMUL"); /* for comparisons: docs/cuda.md */
    cuda_state(backend)->matmul_90 = products && strcmp(products, "mma") == 0 ? NULL : cuda_matmul_90_open();
    backend->matmul = matmul;
    backend->matmul_group = matmul_group;
}
