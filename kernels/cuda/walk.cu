#include "kernels/cuda/page.cuh"
#include "kernels/cuda/ptx.cuh"

/*
 * Walking (walk.cuh) and the merge of what the walks leave. A thread block merges one column: four threads for
 * each channel, each of every fourth partial result, so long contexts are many short chains; what the order is
 * depends on the position alone.
 */

template <int D> cudaError_t walk_launch(const cuda_walk &walk, cudaStream_t stream);

enum { QUARTERS = 4, LOT_HEADS = CUDA_COLUMNS };

/* fold(x) over the thread block. */
template <typename F> __device__ static inline float block_fold(float x, float *room, F fold)
{
    for (int step = 16; step; step /= 2) x = fold(x, __shfl_xor_sync(~0u, x, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = room[0];
    for (int i = 1; i < (int)blockDim.x / 32; i++) x = fold(x, room[i]);
    return x;
}

/* Sums of quarters. */
__device__ static inline float quarters_sum(float x, float *room, int n, int d)
{
    __syncthreads();
    room[threadIdx.x] = x;
    __syncthreads();
    return (room[d] + room[n + d]) + (room[2 * n + d] + room[3 * n + d]);
}

/* What was coded turned back: x is channel d's, for all threads of it; the result is too. */
__device__ static inline float values_turn_back(const cuda_codec *codec, float x, float *room, int n, int d)
{
    int quarter = threadIdx.x / n;
    if (!codec->values_hadamard) {
        float sum = 0, *all = room + QUARTERS * n;
        if (quarter == 0) all[d] = x;
        __syncthreads();
#pragma unroll 8
        for (int i = quarter; i < n; i += QUARTERS)
            sum = fmaf(all[i], codec->value_transform[i * n + d], sum);
        return quarters_sum(sum, room, n, d);
    }
    int size = n & -n;
    float per_root = rsqrtf((float)size);
    for (int step = 1; step < size; step *= 2) {
        __syncthreads();
        if (quarter == 0) room[d] = x;
        __syncthreads();
        float other = room[d ^ step];
        x = d & step ? other - x : x + other;
    }
    return x * per_root;
}

__global__ void __launch_bounds__(1024) merge_columns_kernel(const __grid_constant__ cuda_walk walk)
{
    CUDA_DYNAMIC_SHARED(memory);
    CUDA_SHARED(float, fold, [32]);
    const cuda_attention &args = walk.args;
    cuda_tile tile = args.tiles[walk.first_tile + blockIdx.x];
    int n = args.head_dim, d = threadIdx.x % n, quarter = threadIdx.x / n, column = blockIdx.z;
    int head = blockIdx.y / walk.n_parts, part = blockIdx.y % walk.n_parts;
    int group = args.n_heads / args.n_kv_heads, heads = min(group - part * LOT_HEADS, (int)LOT_HEADS);
    if (column >= heads * tile.n_rows) return;
    float *room = (float *)memory, *weights = room + (QUARTERS + 1) * n;
    size_t stride = (size_t)args.n_kv_heads * walk.n_parts * walk.columns * (4 + n);
    const float *first = walk.partials + (tile.first_slot - walk.first_slot) * stride +
                         ((size_t)blockIdx.y * walk.columns + column) * (4 + n);
    float max = -INFINITY, sum = 0, coded_sum = 0, half = 0, coded = 0;
    int n_coded = walk.codec ? tile.n_slots - 1 : 0;
    for (int i = threadIdx.x; i < tile.n_slots; i += blockDim.x)
        weights[i] = first[i * stride], max = fmaxf(max, weights[i]);
    max = block_fold(max, fold, [](float a, float b) { return fmaxf(a, b); });
    for (int i = threadIdx.x; i < tile.n_slots; i += blockDim.x) {
        weights[i] = ptx_exp2(weights[i] - max);
        float x = weights[i] * first[i * stride + 1];
        sum += x;
        coded_sum += i < n_coded ? x : 0;
    }
    sum = block_fold(sum, fold, [](float a, float b) { return a + b; });
    coded_sum = block_fold(coded_sum, fold, [](float a, float b) { return a + b; });
#pragma unroll 8
    for (int i = quarter; i < n_coded; i += QUARTERS)
        coded = fmaf(weights[i], first[i * stride + 4 + d], coded);
#pragma unroll 8
    for (int i = n_coded + quarter; i < tile.n_slots; i += QUARTERS)
        half = fmaf(weights[i], first[i * stride + 4 + d], half);
    half = quarters_sum(half, room, n, d);
    if (walk.codec) {
        coded = quarters_sum(coded, room, n, d);
        half += values_turn_back(walk.codec, coded, room, n, d);
        if (walk.codec->value_mean)
            half = fmaf(walk.codec->value_mean[(size_t)(args.layer * args.n_kv_heads + head) * n + d],
                        coded_sum, half);
    }
    if (quarter) return;
    size_t row = (size_t)tile.first_row + column / heads;
    args.out[(row * args.n_heads + head * group + part * LOT_HEADS + column % heads) * n + d] = half / sum;
}

cudaError_t cuda_walk_run(const struct cuda_walk *walk, cudaStream_t stream)
{
    int n = walk->args.head_dim, columns = walk->columns;
    cudaError_t error = n == 64    ? walk_launch<64>(*walk, stream)
                        : n == 96  ? walk_launch<96>(*walk, stream)
                        : n == 128 ? walk_launch<128>(*walk, stream)
                        : n == 256 ? walk_launch<256>(*walk, stream)
                                   : cudaErrorNotSupported;
    if (error != cudaSuccess) return error;
    size_t bytes = ((size_t)(QUARTERS + 1) * n + walk->most_slots) * sizeof(float);
    CUDA_LAUNCH(merge_columns_kernel, dim3(walk->n_tiles, walk->args.n_kv_heads * walk->n_parts, columns),
                QUARTERS * n, bytes, stream, *walk);
    return cudaGetLastError();
}
