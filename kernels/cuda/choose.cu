#include "kernels/cuda/ptx.cuh"

#include "kernels/cpu/exp.h"
#include "kernels/cuda/choose.h"

#include <cfloat>

/*
 * Rows of logits, a thread block each: the best token, a draw from all of them, or the tokens that a draw can
 * still fall on. To the bit what model/distribution.c computes: maxima of blocks of 64, weights by the same
 * polynomial without fused operations (this file is compiled with -fmad=false), sums in double precision of
 * sixteen lanes a block, lane by lane, and then block by block.
 */

enum { THREADS = 512, WARPS = THREADS / 32, BLOCK = 64, LANES = 16, BOUND_BITS = 20, AHEAD = 4, CHUNK = 16 };

__device__ static inline float clean(float logit)
{
    float low = logit == logit ? logit : -INFINITY;
    return low < FLT_MAX ? low : FLT_MAX;
}

/* exp_negative of model/distribution.c. */
__device__ static inline float weight_of(float x)
{
    float bounded = x > EXP_LOWEST ? x : EXP_LOWEST;
    float shifted = bounded * EXP_LOG2E + EXP_ROUND;
    float n = shifted - EXP_ROUND;
    float r = (bounded - n * EXP_LN2_HI) - n * EXP_LN2_LO;
    float p = EXP_C6 * r + EXP_C5;
    p = p * r + EXP_C4;
    p = p * r + EXP_C3;
    p = p * r + EXP_C2;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    p = __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
    return x < EXP_LOWEST ? 0.0f : p;
}

/* A row, and what stands in shared memory of its blocks. */
struct choose_row {
    const float *logits;
    int n, n_blocks;
    float max, scale;
    double *sums; /* [n_blocks] masses, then sums of all masses up to a block's own */
    float *maxima; /* [n_blocks] */
    int *counts;   /* [n_blocks] where sums stand, when those are no longer needed */
};

__device__ static inline int block_size(const choose_row &row, int block)
{
    return min((int)BLOCK, row.n - block * BLOCK);
}

template <typename T, typename F> __device__ static T block_fold(T x, T *room, F fold)
{
    for (int step = 16; step; step /= 2) x = fold(x, __shfl_xor_sync(~0u, x, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
    __syncthreads();
    x = room[0];
    for (int i = 1; i < WARPS; i++) x = fold(x, room[i]);
    return x;
}

/* Maxima of all blocks, and of the row. */
__device__ static void row_scan(choose_row *row)
{
    CUDA_SHARED(float, room, [WARPS]);
    float most = -INFINITY;
    int lane = threadIdx.x % 32;
    for (int first = threadIdx.x / 32 * AHEAD; first < row->n_blocks; first += WARPS * AHEAD) {
        float max[AHEAD];
#pragma unroll
        for (int b = 0; b < AHEAD; b++) {
            int at = (first + b) * BLOCK + lane;
            max[b] = at < row->n ? clean(row->logits[at]) : -INFINITY;
            if (at + 32 < row->n) max[b] = fmaxf(max[b], clean(row->logits[at + 32]));
        }
#pragma unroll
        for (int b = 0; b < AHEAD; b++) {
            for (int step = 16; step; step /= 2) max[b] = fmaxf(max[b], __shfl_xor_sync(~0u, max[b], step));
            if (lane == 0 && first + b < row->n_blocks) row->maxima[first + b] = max[b];
            most = fmaxf(most, max[b]);
        }
    }
    row->max = block_fold(most, room, [](float a, float b) { return fmaxf(a, b); });
}

/* The first token that has the row's largest logit. */
__device__ static int row_best(const choose_row &row)
{
    CUDA_SHARED(int, first, [1]);
    if (threadIdx.x == 0) first[0] = row.n_blocks;
    __syncthreads();
    for (int block = threadIdx.x; block < row.n_blocks; block += THREADS)
        if (row.maxima[block] == row.max) atomicMin(&first[0], block);
    __syncthreads();
    int token = first[0] * BLOCK;
    while (clean(row.logits[token]) != row.max) token++;
    return token;
}

/* A block's weights by sixteen lanes, of which each half of a warp is one block's. All lanes get the sum. */
__device__ static double block_mass(const choose_row &row, int block)
{
    int lane = threadIdx.x % LANES, n = block < row.n_blocks ? block_size(row, block) : 0;
    double sum = 0, mass = 0;
    const float *logits = row.logits + block * BLOCK;
    bool is_nothing = n == 0 || (row.maxima[block] - row.max) * row.scale < EXP_LOWEST;
    int whole = is_nothing ? 0 : n / LANES * LANES;
    for (int i = lane; i < whole; i += LANES)
        sum += (double)weight_of((clean(logits[i]) - row.max) * row.scale);
    if (!is_nothing && lane == 0)
        for (int i = whole; i < n; i++) sum += (double)weight_of((clean(logits[i]) - row.max) * row.scale);
    for (int l = 0; l < LANES; l++) mass += __shfl_sync(~0u, sum, l, LANES);
    return mass;
}

/* Fills row.sums; returns the sum of all. *last: the last block that has any weight. */
__device__ static double row_weigh(const choose_row &row, int *last)
{
    CUDA_SHARED(int, weighty, [1]);
    for (int block = threadIdx.x / LANES; block < (row.n_blocks + 1) / 2 * 2; block += THREADS / LANES) {
        double mass = block_mass(row, block);
        if (threadIdx.x % LANES == 0 && block < row.n_blocks) row.sums[block] = mass;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0;
        int last_weighty = 0;
        for (int first = 0; first < row.n_blocks; first += CHUNK) { /* loaded ahead: the sums are one chain */
            double mass[CHUNK];
#pragma unroll
            for (int b = 0; b < CHUNK; b++) mass[b] = first + b < row.n_blocks ? row.sums[first + b] : 0;
#pragma unroll
            for (int b = 0; b < CHUNK; b++) {
                if (mass[b] > 0) last_weighty = first + b;
                sum += mass[b];
                if (first + b < row.n_blocks) row.sums[first + b] = sum;
            }
        }
        weighty[0] = last_weighty;
    }
    __syncthreads();
    *last = weighty[0];
    return row.sums[row.n_blocks - 1];
}

/* distribution_draw_all, after row_weigh; the answer is the first thread's. */
__device__ static int row_draw(const choose_row &row, double wanted, int last)
{
    CUDA_SHARED(int, first, [1]);
    if (threadIdx.x == 0) first[0] = row.n_blocks;
    __syncthreads();
    for (int block = threadIdx.x; block < row.n_blocks; block += THREADS)
        if (row.sums[block] > wanted) atomicMin(&first[0], block);
    __syncthreads();
    if (threadIdx.x) return 0;
    int block = first[0], token = 0;
    double at = block > 0 ? row.sums[block - 1] : 0;
    if (block == row.n_blocks) block = last; /* rounding: u times the mass reached the end */
    for (int i = block * BLOCK; i < block * BLOCK + block_size(row, block); i++) {
        float weight = weight_of((clean(row.logits[i]) - row.max) * row.scale);
        if (weight == 0) continue;
        token = i;
        at += (double)weight;
        if (at > wanted) break;
    }
    return token;
}

/* Floats as integers in the same order. */
__device__ static inline unsigned order_of(float x)
{
    unsigned bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* So low that k blocks have maxima at or above it, and as high as BOUND_BITS of its order allow. */
__device__ static float row_bound(const choose_row &row, int k)
{
    CUDA_SHARED(int, room, [WARPS]);
    unsigned bound = 0;
    for (int bit = 31; bit >= 32 - BOUND_BITS; bit--) {
        unsigned higher = bound | 1u << bit;
        int n = 0;
        for (int block = threadIdx.x; block < row.n_blocks; block += THREADS)
            n += order_of(row.maxima[block]) >= higher;
        n = block_fold(n, room, [](int a, int b) { return a + b; });
        if (n >= k) bound = higher;
    }
    return __uint_as_float(bound >> 31 ? bound & 0x7fffffffu : ~bound);
}

/* How many tokens are at or above the threshold; row.counts: in front of each block. */
__device__ static int row_count(const choose_row &row, float threshold)
{
    CUDA_SHARED(int, total, [1]);
    __syncthreads();
    for (int block = threadIdx.x / 32; block < row.n_blocks; block += WARPS) {
        int lane = threadIdx.x % 32, n = block_size(row, block), count = 0;
        if (row.maxima[block] >= threshold) { /* the same for all lanes */
            const float *logits = row.logits + block * BLOCK;
            count = __popc(__ballot_sync(~0u, lane < n && clean(logits[lane]) >= threshold)) +
                    __popc(__ballot_sync(~0u, lane + 32 < n && clean(logits[lane + 32]) >= threshold));
        }
        if (lane == 0) row.counts[block] = count;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        int sum = 0;
        for (int first = 0; first < row.n_blocks; first += CHUNK) {
            int count[CHUNK];
#pragma unroll
            for (int b = 0; b < CHUNK; b++) count[b] = first + b < row.n_blocks ? row.counts[first + b] : 0;
#pragma unroll
            for (int b = 0; b < CHUNK; b++) {
                if (first + b < row.n_blocks) row.counts[first + b] = sum;
                sum += count[b];
            }
        }
        total[0] = sum;
    }
    __syncthreads();
    return total[0];
}

/* Those tokens, by increasing id. */
__device__ static void row_list(const choose_row &row, float threshold, backend_listed *list)
{
    for (int block = threadIdx.x / 32; block < row.n_blocks; block += WARPS) {
        if (!(row.maxima[block] >= threshold)) continue;
        int lane = threadIdx.x % 32, n = block_size(row, block), at = row.counts[block];
        for (int half = 0; half < BLOCK; half += 32) {
            int i = block * BLOCK + half + lane;
            float logit = half + lane < n ? clean(row.logits[i]) : -INFINITY;
            unsigned chosen = __ballot_sync(~0u, logit >= threshold);
            if (logit >= threshold)
                list[at + __popc(chosen & ((1u << lane) - 1))] = backend_listed{logit, i};
            at += __popc(chosen);
        }
    }
}

/* Never the impossible. */
__device__ static inline float threshold_of(float x)
{
    return x > -FLT_MAX ? x : -FLT_MAX;
}

__global__ void __launch_bounds__(THREADS) choose_kernel(const __grid_constant__ cuda_choice choice)
{
    CUDA_DYNAMIC_SHARED(memory);
    backend_wish wish = choice.wishes[blockIdx.x];
    if (wish.kind == BACKEND_ROW) return;
    choose_row row;
    row.logits = choice.logits + (size_t)blockIdx.x * choice.n_vocab;
    row.n = choice.n_vocab;
    row.n_blocks = (row.n + BLOCK - 1) / BLOCK;
    row.scale = wish.scale;
    row.sums = (double *)memory;
    row.maxima = (float *)(row.sums + row.n_blocks);
    row.counts = (int *)memory;
    row_scan(&row);
    cuda_answer answer = {};
    answer.max = row.max;
    bool is_possible = row.max != -INFINITY; /* the same for all threads */
    if (is_possible && wish.kind == BACKEND_BEST) answer.token = row_best(row);
    if (is_possible && wish.kind != BACKEND_BEST && (wish.kind == BACKEND_DRAW || wish.is_weighed)) {
        int last;
        answer.mass = row_weigh(row, &last);
        if (wish.kind == BACKEND_DRAW) answer.token = row_draw(row, wish.u * answer.mass, last);
    }
    if (is_possible && wish.kind == BACKEND_LIST) {
        float bound = wish.top_k > 0 && wish.top_k < row.n_blocks ? row_bound(row, wish.top_k) : -INFINITY;
        answer.n = -1;
        for (int i = 0; i < 2 && answer.n < 0; i++) {
            answer.threshold = threshold_of(fmaxf(row.max + wish.depth[i], bound));
            int n = row_count(row, answer.threshold);
            if (n <= BACKEND_LISTED) answer.n = n;
        }
        if (answer.n > 0)
            row_list(row, answer.threshold, choice.lists + (size_t)choice.places[blockIdx.x] * BACKEND_LISTED);
    }
    if (threadIdx.x == 0) choice.answers[blockIdx.x] = answer;
}

size_t cuda_choice_shared_bytes(int n_vocab)
{
    return (size_t)((n_vocab + BLOCK - 1) / BLOCK) * (sizeof(double) + sizeof(float));
}

cudaError_t cuda_choice_run(const struct cuda_choice *choice, cudaStream_t stream)
{
    size_t bytes = cuda_choice_shared_bytes(choice->n_vocab);
    cudaError_t error =
        cudaFuncSetAttribute(choose_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (error != cudaSuccess) return error;
    CUDA_LAUNCH(choose_kernel, choice->n_rows, THREADS, bytes, stream, *choice);
    return cudaGetLastError();
}
