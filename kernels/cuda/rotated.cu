#include "kernels/cuda/half.cuh"
#include "kernels/cuda/page.cuh"
#include "kernels/cuda/rotated.h"

/*
 * Pages of format rotatekv, written and read by the operations of kernels/kv_rotate.c in their order (this
 * file is compiled with -fmad=false), so they are the CPU's to the bit. A thread block has some tokens of a
 * block's keys or values, of all KV heads, since the matrix of the keys goes over all of them: x
 * [n_channels][n_tokens] of fp32 in shared memory. A thread has one token throughout, and channels that are
 * n_rows apart.
 */

enum { THREADS = 256, TOKENS = CUDA_TOKENS, MOST_TOKENS = 16, ROOM_BYTES = 96 << 10 };

struct side {
    const cuda_rotate *rotate;
    const cuda_block *block;
    int layer, n_heads, n; /* of KV; head_dim */
    int n_channels, n_tokens, is_values;
    int first, position;    /* token of the block; of the block's first token in the sequence */
    int token, row, n_rows; /* this thread's */
    int stride;             /* floats from channel to channel: one more than tokens, for the banks */
    float *x;
    int group;            /* channels */
    const int32_t *order; /* NULL: as they come */
    uint8_t *codes;       /* [n_channels / 4][64] */
    uint16_t *scales;     /* [groups][64] */
    int16_t *zeros;
};

__device__ static size_t side_bytes(int n_channels, int group)
{
    return (size_t)n_channels / 4 * TOKENS + (size_t)(n_channels / group) * TOKENS * 4;
}

__device__ static side side_at(const cuda_rotate *rotate, const cuda_seal &seal, int n_tokens, char *shared)
{
    side s;
    s.rotate = rotate;
    s.block = &seal.blocks[blockIdx.x];
    s.layer = seal.layer, s.n_heads = seal.n_kv_heads, s.n = seal.head_dim;
    s.n_channels = s.n_heads * s.n, s.n_tokens = n_tokens, s.is_values = blockIdx.y;
    s.first = blockIdx.z * n_tokens, s.position = seal.block_index[blockIdx.x] * TOKENS;
    s.token = threadIdx.x % n_tokens, s.row = threadIdx.x / n_tokens, s.n_rows = THREADS / n_tokens;
    s.stride = n_tokens + 1;
    s.x = (float *)shared;
    s.group = s.is_values ? s.n : rotate->key_group;
    s.order = s.is_values ? NULL : rotate->key_order + (size_t)s.layer * s.n_channels;
    s.codes = (uint8_t *)s.block->parts[0] + s.layer * rotate->layer_bytes;
    if (s.is_values) s.codes += side_bytes(s.n_channels, rotate->key_group);
    s.scales = (uint16_t *)(s.codes + (size_t)s.n_channels / 4 * TOKENS);
    s.zeros = (int16_t *)(s.scales + s.n_channels / s.group * TOKENS);
    return s;
}

__device__ static inline float *cell(const side &s, int channel)
{
    return s.x + channel * s.stride + s.token;
}

/* ---- f16 ---- */

/* Of a channel and one of the thread block's tokens. */
__device__ static inline __half *half_at(const side &s, int channel, int token)
{
    __half *page = (__half *)half_page(s.block, s.layer, channel / s.n, s.n);
    int i = channel % s.n, t = s.first + token;
    return page + (s.is_values ? (TOKENS + t) * s.n + i : i * TOKENS + t);
}

/* do(channel, token) for all of both, neighbours in memory side by side. */
template <typename F> __device__ static inline void cells_do(const side &s, F f)
{
    if (s.is_values) {
        for (int token = 0; token < s.n_tokens; token++)
            for (int channel = threadIdx.x; channel < s.n_channels; channel += THREADS) f(channel, token);
    } else {
        for (int channel = s.row; channel < s.n_channels; channel += s.n_rows) f(channel, s.token);
    }
    __syncthreads();
}

__device__ static void half_load(const side &s)
{
    cells_do(s, [&](int channel, int token) {
        s.x[channel * s.stride + token] = __half2float(*half_at(s, channel, token));
    });
}

__device__ static void half_store(const side &s)
{
    cells_do(s, [&](int channel, int token) {
        *half_at(s, channel, token) = half_saturated(s.x[channel * s.stride + token]);
    });
}

__device__ static void sinks_copy(const side &s, bool to_slots)
{
    int slot = 0;
    for (uint64_t mask = s.block->sink_mask; mask; mask &= mask - 1, slot++) {
        int token = __ffsll((long long)mask) - 1 - s.first;
        if (token < 0 || token >= s.n_tokens) continue;
        for (int channel = threadIdx.x; channel < s.n_channels; channel += THREADS) {
            size_t page = (size_t)s.layer * s.n_heads + channel / s.n;
            __half *sink =
                (__half *)s.block->sinks[slot] + page * 2 * s.n + s.is_values * s.n + channel % s.n;
            __half *half = half_at(s, channel, token);
            if (to_slots)
                *sink = *half;
            else
                *half = *sink;
        }
    }
}

/* ---- rotations ---- */

__device__ static void hadamard(const side &s, int size)
{
    for (int half = 1; half < size; half *= 2) {
        for (int k = s.row; k < s.n_channels / 2; k += s.n_rows) {
            float *a = cell(s, (k & ~(half - 1)) * 2 + (k & (half - 1))), *b = a + half * s.stride;
            float sum = *a + *b, difference = *a - *b;
            *a = sum, *b = difference;
        }
        __syncthreads();
    }
    float norm = 1 / sqrtf((float)size);
    for (int channel = s.row; channel < s.n_channels; channel += s.n_rows) *cell(s, channel) *= norm;
    __syncthreads();
}

/* By every token's position (direction 1), or back (-1). */
__device__ static void rope(const side &s, float direction)
{
    const cuda_rotate *r = s.rotate;
    int half = s.n / 2, frame = s.position / r->frame_tokens,
        offset = s.position % r->frame_tokens + s.first + s.token;
    for (int row = s.row; row < s.n_heads * half; row += s.n_rows) {
        int i = row % half;
        float *a = cell(s, row / half * s.n + i), *b = a + half * s.stride;
        float frame_cos = r->frame_cos[frame * half + i], frame_sin = r->frame_sin[frame * half + i];
        float offset_cos = r->rope_cos[i * r->frame_tokens + offset],
              offset_sin = r->rope_sin[i * r->frame_tokens + offset];
        float c = frame_cos * offset_cos - frame_sin * offset_sin;
        float d = direction * (frame_sin * offset_cos + frame_cos * offset_sin);
        float low = *a * c - *b * d, high = *b * c + *a * d;
        *a = low, *b = high;
    }
    __syncthreads();
}

/* ---- the quantizer ---- */

__device__ static inline int channel_at(const side &s, int place)
{
    return s.order ? s.order[place] : place;
}

/* A thread codes groups of its token. */
__device__ static void encode(const side &s)
{
    for (int g = s.row; g < s.n_channels / s.group; g += s.n_rows) {
        int begin = g * s.group, at = g * TOKENS + s.first + s.token;
        float low = *cell(s, channel_at(s, begin)), high = low;
        for (int i = 1; i < s.group; i++) {
            float x = *cell(s, channel_at(s, begin + i));
            low = fminf(low, x);
            high = fmaxf(high, x);
        }
        low *= .8f, high *= .8f;
        float scale = fmaxf(high - low, 1e-8f) / 3;
        float zero = fmaxf(-32768, fminf(32767, rintf(-low / scale)));
        s.scales[at] = __half_as_ushort(__float2half_rn(fminf(scale, 65504)));
        s.zeros[at] = (int16_t)zero;
        for (int i = 0; i < s.group; i += 4) {
            int byte = 0;
            for (int e = 0; e < 4; e++) {
                float x = *cell(s, channel_at(s, begin + i + e));
                byte |= (int)fmaxf(0, fminf(3, rintf(x / scale) + zero)) << 2 * e;
            }
            s.codes[(begin + i) / 4 * TOKENS + s.first + s.token] = (uint8_t)byte;
        }
    }
}

__device__ static void decode(const side &s)
{
    int t = s.first + s.token;
    for (int i = s.row; i < s.n_channels / 4; i += s.n_rows) {
        int at = 4 * i / s.group * TOKENS + t, byte = s.codes[i * TOKENS + t], zero = s.zeros[at];
        float scale = __half2float(__ushort_as_half(s.scales[at]));
        for (int e = 0; e < 4; e++)
            *cell(s, channel_at(s, 4 * i + e)) = scale * (float)((byte >> 2 * e & 3) - zero);
    }
    __syncthreads();
}

/* ---- blocks ---- */

__global__ void __launch_bounds__(THREADS)
    rotated_seal_kernel(const cuda_rotate *rotate, cuda_seal seal, int n_tokens)
{
    CUDA_DYNAMIC_SHARED(rotated_memory);
    side s = side_at(rotate, seal, n_tokens, rotated_memory);
    half_load(s);
    if (!s.is_values) rope(s, -1);
    hadamard(s, s.is_values ? rotate->value_hadamard : rotate->key_hadamard);
    encode(s);
    sinks_copy(s, true);
}

__global__ void __launch_bounds__(THREADS)
    rotated_unseal_kernel(const cuda_rotate *rotate, cuda_seal seal, int n_tokens)
{
    CUDA_DYNAMIC_SHARED(rotated_memory);
    side s = side_at(rotate, seal, n_tokens, rotated_memory);
    decode(s);
    hadamard(s, s.is_values ? rotate->value_hadamard : rotate->key_hadamard);
    if (!s.is_values) rope(s, 1);
    half_store(s);
    sinks_copy(s, false);
}

typedef void kernel(const cuda_rotate *rotate, cuda_seal seal, int n_tokens);

/* As many tokens to a thread block as leave room for another one beside it. */
static cudaError_t blocks_launch(kernel *kernel, const struct cuda_rotate *rotate,
                                 const struct cuda_seal *seal, cudaStream_t stream)
{
    int channel_bytes = seal->n_kv_heads * seal->head_dim * (int)sizeof(float), n = MOST_TOKENS;
    while (n > 1 && channel_bytes * (n + 1) > ROOM_BYTES) n /= 2;
    int bytes = channel_bytes * (n + 1);
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
    CUDA_LAUNCH(kernel, dim3(seal->n_blocks, 2, TOKENS / n), THREADS, bytes, stream, rotate, *seal, n);
    return cudaGetLastError();
}

cudaError_t cuda_rotated_seal_run(const struct cuda_rotate *rotate, const struct cuda_seal *seal,
                                  cudaStream_t stream)
{
    return blocks_launch(rotated_seal_kernel, rotate, seal, stream);
}

cudaError_t cuda_rotated_unseal_run(const struct cuda_rotate *rotate, const struct cuda_seal *seal,
                                    cudaStream_t stream)
{
    return blocks_launch(rotated_unseal_kernel, rotate, seal, stream);
}
