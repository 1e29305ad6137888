#include "kernels/cuda/matmul.h"
#include "kernels/cuda/ptx.cuh"

#include <cuda_fp16.h>

/*
 * Products of fp16 weights and fp16 activations with fp32 sums, on tensor cores: rows of the weight are M,
 * tokens N of mma.m16n8k16. A sum runs over the columns in steps of 16 from the first to the last, whatever
 * the tile, so a token's result does not depend on how many tokens there are: no split-K, and one order for
 * every tile size.
 *
 * Tiles come in through a ring of shared memory by cp.async. A row of a tile is 32 columns, 64 bytes, in four
 * chunks of 16 whose places are permuted by the row, so that ldmatrix meets no bank twice.
 */
enum { COLUMNS = 32 };

/* Byte offset of chunk c of row r. */
__device__ static int chunk_at(int r, int c)
{
    return r * 64 + ((c ^ (r >> 1)) & 3) * 16;
}

template <int N_ROWS, int N_THREADS>
__device__ static void tile_load(uint32_t to, const __half *matrix, int n_cols, int first, int end,
                                 int column)
{
    for (int i = threadIdx.x; i < N_ROWS * 4; i += N_THREADS) {
        int r = i / 4, c = i % 4, row = first + r;
        bool is_there = row < end;
        ptx_copy_or_zero(to + chunk_at(r, c),
                         matrix + (size_t)(is_there ? row : first) * n_cols + column + c * 8, is_there);
    }
}

/* A thread block makes BM rows of the weight times BN tokens; its warps are WM x WN. */
template <int BM, int BN, int WM, int WN, int STAGES>
__global__ void __launch_bounds__(WM *WN * 32)
    matmul_kernel(const __half *weight, int n_rows, int n_cols, const __half *x, const float *scale,
                  int n_tokens, const float *bias, float *out, int out_rows)
{
    constexpr int N_THREADS = WM * WN * 32, MT = BM / WM / 16, NT = BN / WN / 8;
    constexpr int STAGE_BYTES = (BM + BN) * 64;
    CUDA_DYNAMIC_SHARED(shared);
    uint32_t ring = ptx_shared(shared);
    int row0 = blockIdx.x * BM, token0 = blockIdx.y * BN;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int warp_row = warp / WN * (BM / WM), warp_token = warp % WN * (BN / WN);
    int n_steps = n_cols / COLUMNS;

    float sums[MT][NT][4] = {};
    auto fill = [&](int step) {
        if (step < n_steps) {
            uint32_t at = ring + step % STAGES * STAGE_BYTES;
            tile_load<BM, N_THREADS>(at, weight, n_cols, row0, n_rows, step * COLUMNS);
            tile_load<BN, N_THREADS>(at + BM * 64, x, n_cols, token0, n_tokens, step * COLUMNS);
        }
        ptx_copy_commit();
    };
    for (int s = 0; s < STAGES - 1; s++) fill(s);
    for (int step = 0; step < n_steps; step++) {
        ptx_copy_wait<STAGES - 2>();
        __syncthreads();
        fill(step + STAGES - 1);
        uint32_t a_at = ring + step % STAGES * STAGE_BYTES, b_at = a_at + BM * 64;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint32_t a[MT][4], b[NT][2];
#pragma unroll
            for (int i = 0; i < MT; i++)
                ptx_load_matrix_4(a[i], a_at + chunk_at(warp_row + i * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
            for (int j = 0; j < NT; j++)
                ptx_load_matrix_2(b[j], b_at + chunk_at(warp_token + j * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int j = 0; j < NT; j++)
                    ptx_multiply(sums[i][j], a[i][0], a[i][1], a[i][2], a[i][3], b[j][0], b[j][1]);
        }
    }
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = row0 + warp_row + i * 16 + lane / 4 + e / 2 * 8;
                int token = token0 + warp_token + j * 8 + lane % 4 * 2 + e % 2;
                if (row >= n_rows || token >= n_tokens) continue;
                out[(size_t)token * out_rows + row] =
                    fmaf(sums[i][j][e], scale[token], bias ? bias[row] : 0.0f);
            }
}

template <int BM, int BN, int WM, int WN, int STAGES>
static cudaError_t matmul_launch(const struct cuda_matmul *matmul, cudaStream_t stream)
{
    auto kernel = matmul_kernel<BM, BN, WM, WN, STAGES>;
    constexpr int BYTES = STAGES * (BM + BN) * 64;
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, BYTES);
    for (int i = 0; i < matmul->n_parts && error == cudaSuccess; i++) {
        const struct cuda_matmul_part *part = &matmul->parts[i];
        dim3 grid((part->n_rows + BM - 1) / BM, (matmul->n_tokens + BN - 1) / BN);
        CUDA_LAUNCH(kernel, grid, WM * WN * 32, BYTES, stream, (const __half *)part->weight, part->n_rows,
                    matmul->n_cols, (const __half *)matmul->x, matmul->scale, matmul->n_tokens, part->bias,
                    part->out, part->out_rows);
        error = cudaGetLastError();
    }
    return error;
}

cudaError_t cuda_matmul_run(const struct cuda_matmul *matmul, cudaStream_t stream)
{
    if (matmul->n_tokens <= 16) return matmul_launch<32, 16, 2, 2, 8>(matmul, stream);
    if (matmul->n_tokens <= 128) return matmul_launch<64, 64, 2, 2, 6>(matmul, stream);
    return matmul_launch<128, 128, 2, 4, 5>(matmul, stream);
}
