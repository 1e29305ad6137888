#include "kernels/cuda/page.cuh"
#include "kernels/cuda/ptx.cuh"

/*
 * Walking (walk.cuh) and the merge of what the walks leave. A thread block merges one column, each of its
 * eight warps every eighth partial result, so long contexts are many short chains; what the order is depends
 * on the position alone.
 */

template <int D> cudaError_t walk_launch(const cuda_walk &walk, cudaStream_t stream);

enum { MERGE_WARPS = 8, LOT_HEADS = CUDA_COLUMNS };

/* fold(x) over the thread block. */
template <typename F> __device__ static inline float block_fold(float x, float *room, F fold)
{
#pragma unroll
    for (int step = 16; step; step /= 2) x = fold(x, __shfl_xor_sync(~0u, x, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = room[0];
#pragma unroll
    for (int i = 1; i < MERGE_WARPS; i++) x = fold(x, room[i]);
    return x;
}

/* What was coded turned back, of a warp: channel 32 e + lane in x[e]. */
template <int E>
__device__ static inline void values_turn_back(const cuda_codec *codec, float x[E], float *room, int lane)
{
    const int D = 32 * E, size = D & -D;
    if (!codec->values_hadamard) {
#pragma unroll
        for (int e = 0; e < E; e++) room[32 * e + lane] = x[e], x[e] = 0;
        __syncwarp();
#pragma unroll 4
        for (int i = 0; i < D; i++)
#pragma unroll
            for (int e = 0; e < E; e++)
                x[e] = fmaf(room[i], codec->value_transform[i * D + 32 * e + lane], x[e]);
        return;
    }
#pragma unroll
    for (int step = 1; step < 32; step *= 2)
#pragma unroll
        for (int e = 0; e < E; e++) {
            float other = __shfl_xor_sync(~0u, x[e], step);
            x[e] = lane & step ? other - x[e] : x[e] + other;
        }
#pragma unroll
    for (int step = 32; step < size; step *= 2)
#pragma unroll
        for (int e = 0; e < E; e++)
            if (!(32 * e & step)) {
                float low = x[e], high = x[e + step / 32];
                x[e] = low + high, x[e + step / 32] = low - high;
            }
#pragma unroll
    for (int e = 0; e < E; e++) x[e] *= rsqrtf((float)size);
}

/* The sum over slots i, i + MERGE_WARPS ... of their weight times their output. */
template <int E>
__device__ static inline void slots_sum(const float *first, size_t stride, const float *weights, int i, int n,
                                        float x[E])
{
    for (int e = 0; e < E; e++) x[e] = 0;
#pragma unroll 8
    for (; i < n; i += MERGE_WARPS)
#pragma unroll
        for (int e = 0; e < E; e++) x[e] = fmaf(weights[i], first[i * stride + 32 * e], x[e]);
}

template <int E>
__global__ void __launch_bounds__(32 * MERGE_WARPS) merge_kernel(const __grid_constant__ cuda_walk walk)
{
    CUDA_DYNAMIC_SHARED(memory);
    CUDA_SHARED(float, fold, [MERGE_WARPS]);
    const int D = 32 * E;
    const cuda_attention &args = walk.args;
    cuda_tile tile = args.tiles[walk.first_tile + blockIdx.x];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.z;
    int head = blockIdx.y / walk.n_parts, part = blockIdx.y % walk.n_parts;
    int group = args.n_heads / args.n_kv_heads, heads = min(group - part * LOT_HEADS, (int)LOT_HEADS);
    if (column >= heads * tile.n_rows) return;
    float *room = (float *)memory, *weights = room + MERGE_WARPS * D;
    size_t stride = (size_t)args.n_kv_heads * walk.n_parts * walk.columns * (4 + D);
    const float *first = walk.partials + (tile.first_slot - walk.first_slot) * stride +
                         ((size_t)blockIdx.y * walk.columns + column) * (4 + D);
    float max = -INFINITY, sum = 0, coded_sum = 0, x[E];
    int n_coded = walk.codec ? tile.n_slots - 1 : tile.n_slots;
    for (int i = threadIdx.x; i < tile.n_slots; i += blockDim.x)
        weights[i] = first[i * stride], max = fmaxf(max, weights[i]);
    max = block_fold(max, fold, [](float a, float b) { return fmaxf(a, b); });
    for (int i = threadIdx.x; i < tile.n_slots; i += blockDim.x) {
        weights[i] = ptx_exp2(weights[i] - max);
        float share = weights[i] * first[i * stride + 1];
        sum += share;
        coded_sum += i < n_coded ? share : 0;
    }
    sum = block_fold(sum, fold, [](float a, float b) { return a + b; });
    coded_sum = block_fold(coded_sum, fold, [](float a, float b) { return a + b; });
    slots_sum<E>(first + 4 + lane, stride, weights, warp, n_coded, x);
#pragma unroll
    for (int e = 0; e < E; e++) room[warp * D + 32 * e + lane] = x[e];
    __syncthreads();
    if (warp) return;
#pragma unroll
    for (int e = 0; e < E; e++) {
        x[e] = 0;
#pragma unroll
        for (int i = 0; i < MERGE_WARPS; i++) x[e] += room[i * D + 32 * e + lane];
    }
    size_t row = (size_t)tile.first_row + column / heads;
    float *out =
        args.out + (row * args.n_heads + head * group + part * LOT_HEADS + column % heads) * D + lane;
    if (walk.codec) {
        __syncwarp();
        values_turn_back<E>(walk.codec, x, room, lane);
        const float *mean = walk.codec->value_mean, *near = first + n_coded * stride + 4 + lane;
        if (mean) mean += (size_t)(args.layer * args.n_kv_heads + head) * D + lane;
#pragma unroll
        for (int e = 0; e < E; e++) {
            x[e] = fmaf(weights[n_coded], near[32 * e], x[e]);
            if (mean) x[e] = fmaf(mean[32 * e], coded_sum, x[e]);
        }
    }
#pragma unroll
    for (int e = 0; e < E; e++) out[32 * e] = x[e] / sum;
}

template <int D> static cudaError_t walk_and_merge(const cuda_walk &walk, cudaStream_t stream)
{
    cudaError_t error = walk_launch<D>(walk, stream);
    if (error != cudaSuccess) return error;
    size_t bytes = ((size_t)MERGE_WARPS * D + walk.most_slots) * sizeof(float);
    CUDA_LAUNCH(merge_kernel<D / 32>, dim3(walk.n_tiles, walk.args.n_kv_heads * walk.n_parts, walk.columns),
                32 * MERGE_WARPS, bytes, stream, walk);
    return cudaGetLastError();
}

cudaError_t cuda_walk_run(const struct cuda_walk *walk, cudaStream_t stream)
{
    switch (walk->args.head_dim) {
    case 64:
        return walk_and_merge<64>(*walk, stream);
    case 96:
        return walk_and_merge<96>(*walk, stream);
    case 128:
        return walk_and_merge<128>(*walk, stream);
    case 256:
        return walk_and_merge<256>(*walk, stream);
    default:
        return cudaErrorNotSupported;
    }
}
