#include "kernels/cuda/half.cuh"
#include "kernels/cuda/page.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/rows.h"

/*
 * RoPE, and what goes with it: angles, and the keys and values of new tokens into their pages. Compiled with
 * -fmad=false: from the same angles keys are the CPU's, bit for bit.
 */

enum { THREADS = 256, TOKENS = CUDA_TOKENS };

__global__ void angles_kernel(const cuda_row *rows, int n_rows, int half, const double *inv_freq,
                              float *cosines, float *sines)
{
    int at = blockIdx.x * THREADS + threadIdx.x;
    if (at >= n_rows * half || rows[at / half].span < 0) return;
    double angle = (double)rows[at / half].position * inv_freq[at % half];
    cosines[at] = (float)cos(angle);
    sines[at] = (float)sin(angle);
}

/* Channels i and i + half of a vector. */
__device__ static inline float2 pair_turn(float *x, int half, int i, float c, float s)
{
    float a = x[i], b = x[i + half];
    float2 turned = make_float2(fmaf(a, c, -(b * s)), fmaf(b, c, a * s));
    x[i] = turned.x, x[i + half] = turned.y;
    return turned;
}

/* A pair of channels for each thread; heads of queries first, then of keys. */
__global__ void rotate_kernel(const __grid_constant__ cuda_rotation args, size_t n_pairs)
{
    size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= n_pairs) return;
    int half = args.head_dim / 2, n = args.head_dim, i = (int)(at % half), heads = args.n_heads + args.n_kv_heads;
    size_t row = at / half / heads, angle = row * half + i;
    int head = (int)(at / half % heads);
    float c = args.cosines[angle], s = args.sines[angle];
    if (head < args.n_heads) {
        pair_turn(args.q + (row * args.n_heads + head) * n, half, i, c, s);
        return;
    }
    head -= args.n_heads;
    size_t from = (row * args.n_kv_heads + head) * n;
    float2 key = pair_turn(args.k + from, half, i, c, s);
    if (!args.spans) return;
    cuda_row place = args.rows[row];
    if (place.span < 0) return;
    int slot = place.position % TOKENS;
    const cuda_block *block = &args.spans[place.span].blocks[place.position / TOKENS];
    __half *page = (__half *)half_page(block, args.layer, head, n);
    const float *v = args.v + from;
    page[i * TOKENS + slot] = half_saturated(key.x);
    page[(i + half) * TOKENS + slot] = half_saturated(key.y);
    page[(TOKENS + slot) * n + i] = half_saturated(v[i]);
    page[(TOKENS + slot) * n + i + half] = half_saturated(v[i + half]);
}

static unsigned blocks_for(size_t n)
{
    return (unsigned)((n + THREADS - 1) / THREADS);
}

cudaError_t cuda_rotate_run(const struct cuda_rotation *rotation, cudaStream_t stream)
{
    size_t n_pairs =
        (size_t)rotation->n_rows * (rotation->n_heads + rotation->n_kv_heads) * (rotation->head_dim / 2);
    CUDA_LAUNCH(rotate_kernel, blocks_for(n_pairs), THREADS, 0, stream, *rotation, n_pairs);
    return cudaGetLastError();
}

cudaError_t cuda_angles_run(const struct cuda_row *rows, int n_rows, int half, const double *inv_freq,
                            float *cosines, float *sines, cudaStream_t stream)
{
    CUDA_LAUNCH(angles_kernel, blocks_for((size_t)n_rows * half), THREADS, 0, stream, rows, n_rows, half,
                inv_freq, cosines, sines);
    return cudaGetLastError();
}

/* Alone: the vectors of one kind, as many heads as they have. */
cudaError_t cuda_rope_run(float *x, int n_rows, int n_heads, int head_dim, const float *cosines,
                          const float *sines, cudaStream_t stream)
{
    cuda_rotation rotation = {};
    rotation.n_heads = n_heads;
    rotation.head_dim = head_dim;
    rotation.n_rows = n_rows;
    rotation.q = x;
    rotation.cosines = cosines;
    rotation.sines = sines;
    return cuda_rotate_run(&rotation, stream);
}
