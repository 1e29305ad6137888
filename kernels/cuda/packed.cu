#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/ptx.cuh"

/* Packed weights back to rows: a slice of them in fp16, for the products of many tokens, and rows of an
   embedding matrix. */
enum { WARPS = 4, BLOCK_ROWS = CUDA_PACKED_ROWS, BLOCK_COLUMNS = CUDA_PACKED_COLUMNS };

/* A warp has a block of 16 rows and 64 columns. It goes through shared memory, so that whole lines are
 * written. */
template <typename FORM>
__global__ void __launch_bounds__(WARPS * 32)
    unpack_kernel(const char *memory, int first_tile, int n_rows, int n_cols, uint16_t *out)
{
    CUDA_SHARED(uint4, lines, [WARPS][BLOCK_ROWS][8]);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, gid = lane / 4;
    int n_blocks = (n_cols + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS, block = blockIdx.x * WARPS + warp;
    if (block >= n_blocks) return;
    const char *unit = memory + (size_t)(first_tile + blockIdx.y) * packed_tile_bytes<FORM>(n_blocks) +
                       packed_unit_at<FORM>(block);
    int of_unit = block % FORM::UNIT_BLOCKS;
    uint32_t a[4][4];
    packed_block<FORM>(unit + of_unit * FORM::CODE_BYTES, unit + FORM::UNIT_BLOCKS * FORM::CODE_BYTES,
                       of_unit, lane, a);
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {
            int row = gid + pair % 2 * 8, chunk = 2 * k + pair / 2;
            ((uint32_t *)&lines[warp][row][(chunk ^ row) & 7])[lane % 4] = a[k][pair];
        }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int r = i * 4 + lane / 8, chunk = lane % 8, column = block * BLOCK_COLUMNS + chunk * 8;
        int row = blockIdx.y * BLOCK_ROWS + r;
        if (row < n_rows && column < n_cols)
            *(uint4 *)(out + (size_t)row * n_cols + column) = lines[warp][r][(chunk ^ r) & 7];
    }
}

/* Four threads to a block of columns, each as a lane that has the row. */
template <typename FORM>
__global__ void gather_kernel(const char *memory, int n_cols, const int32_t *tokens, float *out)
{
    int n_blocks = (n_cols + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    int row = tokens[blockIdx.x], half = row % BLOCK_ROWS / 8;
    const char *tile = memory + (size_t)(row / BLOCK_ROWS) * packed_tile_bytes<FORM>(n_blocks);
    for (int i = threadIdx.x; i < n_blocks * 4; i += WARPS * 32) {
        int block = i / 4, tid = i % 4, of_unit = block % FORM::UNIT_BLOCKS;
        const char *unit = tile + packed_unit_at<FORM>(block);
        uint32_t a[4][4];
        packed_block<FORM>(unit + of_unit * FORM::CODE_BYTES, unit + FORM::UNIT_BLOCKS * FORM::CODE_BYTES,
                           of_unit, row % 8 * 4 + tid, a);
        for (int k = 0; k < 4; k++)
            for (int h = 0; h < 2; h++) {
                int column = block * BLOCK_COLUMNS + k * 16 + h * 8 + tid * 2;
                float2 values = __half22float2(packed_half2(half ? a[k][2 * h + 1] : a[k][2 * h]));
                if (column < n_cols) *(float2 *)(out + (size_t)blockIdx.x * n_cols + column) = values;
            }
    }
}

template <typename FORM>
static cudaError_t unpack_launch(const cuda_packed *packed, int first_row, int n_rows, uint16_t *out,
                                 cudaStream_t stream)
{
    auto kernel = unpack_kernel<FORM>;
    int n_blocks = (packed->n_cols + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    dim3 grid((n_blocks + WARPS - 1) / WARPS, (n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS);
    CUDA_LAUNCH(kernel, grid, WARPS * 32, 0, stream, packed->memory, first_row / BLOCK_ROWS, n_rows,
                packed->n_cols, out);
    return cudaGetLastError();
}

cudaError_t cuda_packed_unpack_run(const struct cuda_packed *packed, int first_row, int n_rows, uint16_t *out,
                                   cudaStream_t stream)
{
    if (first_row % BLOCK_ROWS) return cudaErrorInvalidValue;
    return packed_launch_form(packed->dtype, [&](auto form) {
        return unpack_launch<decltype(form)>(packed, first_row, n_rows, out, stream);
    });
}

template <typename FORM>
static cudaError_t gather_launch(const cuda_packed *packed, const int32_t *tokens, int n_tokens, float *out,
                                 cudaStream_t stream)
{
    auto kernel = gather_kernel<FORM>;
    CUDA_LAUNCH(kernel, n_tokens, WARPS * 32, 0, stream, packed->memory, packed->n_cols, tokens, out);
    return cudaGetLastError();
}

cudaError_t cuda_packed_gather_run(const struct cuda_packed *packed, const int32_t *tokens, int n_tokens,
                                   float *out, cudaStream_t stream)
{
    return packed_launch_form(packed->dtype, [&](auto form) {
        return gather_launch<decltype(form)>(packed, tokens, n_tokens, out, stream);
    });
}
