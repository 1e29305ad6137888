#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/rows.h"

#include <cuda_fp16.h>

/*
 * Operations on rows and elements. A row is one thread block's: each thread keeps its lots of four elements
 * in registers, and a row's sums are of the lots in order, then of lanes, then of warps, whatever is done in
 * one pass.
 */

enum { THREADS = 256, ROW_THREADS = 512, ROW_WARPS = ROW_THREADS / 32 };

/* Of all threads of a row's block; the same bits for every row. */
template <typename F> __device__ static float block_fold(float x, float *room, F fold)
{
    for (int step = 16; step > 0; step /= 2) x = fold(x, __shfl_xor_sync(~0u, x, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = room[0];
    for (int i = 1; i < ROW_WARPS; i++) x = fold(x, room[i]);
    return x;
}

__global__ void gather_kernel(const __half *weight, int n, const int32_t *tokens, float *out)
{
    const __half *row = weight + (size_t)tokens[blockIdx.x] * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[(size_t)blockIdx.x * n + i] = __half2float(row[i]);
}

__device__ static inline float gated(float gate, float up)
{
    return gate / (1 + expf(-gate)) * up;
}

/* A thread's elements of a row: lot j is at (j * ROW_THREADS + thread) * 4. */
template <int LOTS> __device__ static void row_load(const cuda_row_work &work, float v[LOTS][4])
{
    size_t row = (size_t)blockIdx.x * work.n;
#pragma unroll
    for (int j = 0; j < LOTS; j++) {
        int i = (j * ROW_THREADS + threadIdx.x) * 4;
        if (i >= work.n) continue;
        float4 x = *(const float4 *)(work.x + row + i);
        if (work.y) {
            float4 y = *(const float4 *)(work.y + row + i);
            x = make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
            *(float4 *)(work.x + row + i) = x;
        }
        v[j][0] = x.x, v[j][1] = x.y, v[j][2] = x.z, v[j][3] = x.w;
        if (work.up) {
            float4 up = *(const float4 *)(work.up + row + i);
            v[j][0] = gated(v[j][0], up.x), v[j][1] = gated(v[j][1], up.y);
            v[j][2] = gated(v[j][2], up.z), v[j][3] = gated(v[j][3], up.w);
        }
    }
}

template <int LOTS> __device__ static void row_normalise(const cuda_row_work &work, float v[LOTS][4])
{
    CUDA_SHARED(float, room, [ROW_WARPS]);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < LOTS; j++)
        if ((j * ROW_THREADS + threadIdx.x) * 4 < work.n)
#pragma unroll
            for (int e = 0; e < 4; e++) sum = fmaf(v[j][e], v[j][e], sum);
    sum = block_fold(sum, room, [](float a, float b) { return a + b; });
    float factor = 1 / sqrtf(sum / work.n + work.eps);
#pragma unroll
    for (int j = 0; j < LOTS; j++) {
        int i = (j * ROW_THREADS + threadIdx.x) * 4;
        if (i < work.n)
#pragma unroll
            for (int e = 0; e < 4; e++) v[j][e] = v[j][e] * factor * work.gain[i + e];
    }
}

/* half[row] = the row / scale[row], a power of two that keeps every row within fp16. */
template <int LOTS> __device__ static void row_prepare(const cuda_row_work &work, const float v[LOTS][4])
{
    CUDA_SHARED(float, room, [ROW_WARPS]);
    float most = 0;
#pragma unroll
    for (int j = 0; j < LOTS; j++)
        if ((j * ROW_THREADS + threadIdx.x) * 4 < work.n)
#pragma unroll
            for (int e = 0; e < 4; e++) most = fmaxf(most, fabsf(v[j][e]));
    most = block_fold(most, room, [](float a, float b) { return fmaxf(a, b); });
    int exponent = 0;
    if (most > 0 && most < INFINITY) frexpf(most, &exponent);
    float factor = ldexpf(1, exponent < -100 ? 112 : 12 - exponent);
    if (threadIdx.x == 0) work.scale[blockIdx.x] = 1 / factor;
#pragma unroll
    for (int j = 0; j < LOTS; j++) {
        int i = (j * ROW_THREADS + threadIdx.x) * 4;
        if (i >= work.n) continue;
        __half2 low = __halves2half2(__float2half_rn(v[j][0] * factor), __float2half_rn(v[j][1] * factor));
        __half2 high = __halves2half2(__float2half_rn(v[j][2] * factor), __float2half_rn(v[j][3] * factor));
        __half2 *to = (__half2 *)(work.half + (size_t)blockIdx.x * work.n + i);
        to[0] = low, to[1] = high;
    }
}

template <int LOTS>
__global__ void __launch_bounds__(ROW_THREADS) row_kernel(const __grid_constant__ cuda_row_work work)
{
    float v[LOTS][4];
    ptx_begin_next(); /* a product: it fetches its weight meanwhile */
    row_load<LOTS>(work, v);
    if (work.gain) row_normalise<LOTS>(work, v);
    if (work.half) row_prepare<LOTS>(work, v);
    if (!work.out) return;
#pragma unroll
    for (int j = 0; j < LOTS; j++) {
        int i = (j * ROW_THREADS + threadIdx.x) * 4;
        if (i < work.n)
            *(float4 *)(work.out + (size_t)blockIdx.x * work.n + i) =
                make_float4(v[j][0], v[j][1], v[j][2], v[j][3]);
    }
}

__global__ void swiglu_kernel(const float *gate, const float *up, size_t n, float *out)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) out[i] = gated(gate[i], up[i]);
}

__global__ void add_kernel(float *x, const float *y, size_t n)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) x[i] += y[i];
}

static unsigned blocks_for(size_t n)
{
    return (unsigned)((n + THREADS - 1) / THREADS);
}

cudaError_t cuda_gather_run(const uint16_t *weight, int n, const int32_t *tokens, int n_tokens, float *out,
                            cudaStream_t stream)
{
    CUDA_LAUNCH(gather_kernel, n_tokens, THREADS, 0, stream, (const __half *)weight, n, tokens, out);
    return cudaGetLastError();
}

template <int LOTS> static cudaError_t row_launch(const cuda_row_work *work, cudaStream_t stream)
{
    auto kernel = row_kernel<LOTS>;
    CUDA_LAUNCH(kernel, work->n_rows, ROW_THREADS, 0, stream, *work);
    return cudaGetLastError();
}

cudaError_t cuda_row_run(const struct cuda_row_work *work, cudaStream_t stream)
{
    int lots = (work->n + ROW_THREADS * 4 - 1) / (ROW_THREADS * 4);
    if (work->n % 4) return cudaErrorInvalidValue;
    return lots <= 1    ? row_launch<1>(work, stream)
           : lots <= 2  ? row_launch<2>(work, stream)
           : lots <= 4  ? row_launch<4>(work, stream)
           : lots <= 8  ? row_launch<8>(work, stream)
           : lots <= 16 ? row_launch<16>(work, stream)
           : lots <= 32 ? row_launch<32>(work, stream)
                        : cudaErrorInvalidValue;
}

cudaError_t cuda_rmsnorm_run(const float *x, const float *gain, float eps, int n_rows, int n, float *out,
                             cudaStream_t stream)
{
    cuda_row_work work = {};
    work.x = (float *)x; /* nothing is added, so it is only read */
    work.gain = gain;
    work.eps = eps;
    work.n_rows = n_rows;
    work.n = n;
    work.out = out;
    return cuda_row_run(&work, stream);
}

cudaError_t cuda_prepare_run(const float *x, int n_rows, int n, uint16_t *half, float *scale,
                             cudaStream_t stream)
{
    cuda_row_work work = {};
    work.x = (float *)x;
    work.n_rows = n_rows;
    work.n = n;
    work.half = half;
    work.scale = scale;
    return cuda_row_run(&work, stream);
}

cudaError_t cuda_swiglu_run(const float *gate, const float *up, size_t n, float *out, cudaStream_t stream)
{
    CUDA_LAUNCH(swiglu_kernel, blocks_for(n), THREADS, 0, stream, gate, up, n, out);
    return cudaGetLastError();
}

cudaError_t cuda_add_run(float *x, const float *y, size_t n, cudaStream_t stream)
{
    CUDA_LAUNCH(add_kernel, blocks_for(n), THREADS, 0, stream, x, y, n);
    return cudaGetLastError();
}
