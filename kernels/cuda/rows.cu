#include "kernels/cuda/ptx.cuh"

#include <cuda_fp16.h>

/* Operations on rows and elements. A row's sums are of one thread block, in one order. */

enum { THREADS = 256 };

/* Of all threads of the block; the same bits for every row. */
template <typename F> __device__ float block_fold(float x, F fold)
{
    CUDA_SHARED(float, warps, [THREADS / 32]);
    for (int step = 16; step > 0; step /= 2) x = fold(x, __shfl_xor_sync(~0u, x, step));
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warps[0];
    for (int i = 1; i < THREADS / 32; i++) x = fold(x, warps[i]);
    __syncthreads();
    return x;
}

__global__ void gather_kernel(const __half *weight, int n, const int32_t *tokens, float *out)
{
    const __half *row = weight + (size_t)tokens[blockIdx.x] * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[(size_t)blockIdx.x * n + i] = __half2float(row[i]);
}

__global__ void rmsnorm_kernel(const float *x, const float *gain, float eps, int n, float *out)
{
    const float *row = x + (size_t)blockIdx.x * n;
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) sum = fmaf(row[i], row[i], sum);
    sum = block_fold(sum, [](float a, float b) { return a + b; });
    float factor = 1 / sqrtf(sum / n + eps);
    for (int i = threadIdx.x; i < n; i += THREADS)
        out[(size_t)blockIdx.x * n + i] = row[i] * factor * gain[i];
}

__global__ void prepare_kernel(const float *x, int n, __half *half, float *scale)
{
    const float *row = x + (size_t)blockIdx.x * n;
    float most = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) most = fmaxf(most, fabsf(row[i]));
    most = block_fold(most, [](float a, float b) { return fmaxf(a, b); });
    int exponent = 0;
    if (most > 0 && most < INFINITY) frexpf(most, &exponent);
    float factor = ldexpf(1, exponent < -100 ? 112 : 12 - exponent);
    if (threadIdx.x == 0) scale[blockIdx.x] = 1 / factor;
    for (int i = threadIdx.x; i < n; i += THREADS)
        half[(size_t)blockIdx.x * n + i] = __float2half_rn(row[i] * factor);
}

__global__ void rope_kernel(float *x, size_t n_pairs, int n_heads, int half_dim, const float *cosines,
                            const float *sines)
{
    size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= n_pairs) return;
    int i = (int)(at % half_dim);
    size_t vector = at / half_dim, angle = vector / n_heads * half_dim + i;
    float *low = x + vector * 2 * half_dim + i, *high = low + half_dim;
    float a = *low, b = *high, c = cosines[angle], s = sines[angle];
    *low = a * c - b * s;
    *high = b * c + a * s;
}

__global__ void swiglu_kernel(const float *gate, const float *up, size_t n, float *out)
{
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
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

cudaError_t cuda_rmsnorm_run(const float *x, const float *gain, float eps, int n_rows, int n, float *out,
                             cudaStream_t stream)
{
    CUDA_LAUNCH(rmsnorm_kernel, n_rows, THREADS, 0, stream, x, gain, eps, n, out);
    return cudaGetLastError();
}

cudaError_t cuda_prepare_run(const float *x, int n_rows, int n, uint16_t *half, float *scale,
                             cudaStream_t stream)
{
    CUDA_LAUNCH(prepare_kernel, n_rows, THREADS, 0, stream, x, n, (__half *)half, scale);
    return cudaGetLastError();
}

cudaError_t cuda_rope_run(float *x, int n_rows, int n_heads, int head_dim, const float *cosines,
                          const float *sines, cudaStream_t stream)
{
    size_t n_pairs = (size_t)n_rows * n_heads * (head_dim / 2);
    CUDA_LAUNCH(rope_kernel, blocks_for(n_pairs), THREADS, 0, stream, x, n_pairs, n_heads, head_dim / 2,
                cosines, sines);
    return cudaGetLastError();
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
