#ifndef EMULATOR_CUDA_RUNTIME_H
#define EMULATOR_CUDA_RUNTIME_H

/* What nvcc gives to a .cu file: qualifiers, built-in variables, vector types and intrinsics. */
#include <cuda_runtime_api.h>
#ifdef __cplusplus
#include "emulated.h"

#include <cmath>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__    __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__ __restrict

#define threadIdx (emulated_now->index)
#define blockIdx  (emulated_block.index)
#define blockDim  (emulated_block.size)
#define gridDim   (emulated_block.grid)
static const int warpSize = 32;

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
static inline float2 make_float2(float x, float y)
{
    return float2{x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}
static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return uint2{x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return uint4{x, y, z, w};
}
static inline int2 make_int2(int x, int y)
{
    return int2{x, y};
}
static inline int4 make_int4(int x, int y, int z, int w)
{
    return int4{x, y, z, w};
}

static inline int min(int a, int b)
{
    return a < b ? a : b;
}
static inline int max(int a, int b)
{
    return a > b ? a : b;
}
static inline unsigned min(unsigned a, unsigned b)
{
    return a < b ? a : b;
}
static inline unsigned max(unsigned a, unsigned b)
{
    return a > b ? a : b;
}
static inline size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}
static inline size_t max(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

/* Byte i of the result: byte s_i of y:x, s_i the nibble i of the selector, or its sign where bit 3 is set. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> (4 * i), byte = bytes >> (8 * (s & 7)) & 255;
        out |= (s & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
    }
    return out;
}

template <typename To, typename From> static inline To emulated_bits(From x)
{
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To out;
    memcpy(&out, &x, sizeof out);
    return out;
}
static inline unsigned __float_as_uint(float x)
{
    return emulated_bits<unsigned>(x);
}
static inline int __float_as_int(float x)
{
    return emulated_bits<int>(x);
}
static inline float __uint_as_float(unsigned x)
{
    return emulated_bits<float>(x);
}
static inline float __int_as_float(int x)
{
    return emulated_bits<float>(x);
}

#define __expf expf /* the name is taken in glibc */
static inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}
static inline float __fdividef(float x, float y)
{
    return x / y;
}
static inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}
static inline float __fmul_rn(float x, float y)
{
    return x * y;
}
static inline float __fadd_rn(float x, float y)
{
    return x + y;
}
static inline float __frcp_rn(float x)
{
    return 1 / x;
}
static inline int __float2int_rn(float x)
{
    return (int)rintf(x);
}

static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> (8 * i)) * (int)(int8_t)(b >> (8 * i));
    return c;
}

template <typename T> static inline T __ldg(const T *p)
{
    return *p;
}
static inline size_t __cvta_generic_to_shared(const void *p)
{
    return emulated_shared_address(p);
}

/* ---- barriers, votes, shuffles ---- */

static inline void __syncthreads()
{
    emulated_barrier();
}
static inline void __threadfence() {}
static inline void __threadfence_block() {}

static inline void __syncwarp(unsigned mask = ~0u)
{
    emulated_meet([](void *const *, unsigned) {}, "__syncwarp", mask, NULL);
}

struct emulated_vote {
    int is_true;
    unsigned ballot;
};

static inline unsigned __ballot_sync(unsigned mask, int is_true)
{
    emulated_vote vote = {is_true, 0};
    emulated_meet(
        [](void *const *args, unsigned mask) {
            unsigned ballot = 0;
            for (int i = 0; i < 32; i++)
                if (mask >> i & 1 && ((emulated_vote *)args[i])->is_true) ballot |= 1u << i;
            for (int i = 0; i < 32; i++)
                if (mask >> i & 1) ((emulated_vote *)args[i])->ballot = ballot;
        },
        "a vote", mask, &vote);
    return vote.ballot;
}
static inline int __any_sync(unsigned mask, int is_true)
{
    return __ballot_sync(mask, is_true) != 0;
}
static inline int __all_sync(unsigned mask, int is_true)
{
    return __ballot_sync(mask, is_true) == mask;
}

struct emulated_shuffle {
    uint64_t in, out;
    int from; /* lane */
};

static inline uint64_t emulated_shuffle_run(unsigned mask, uint64_t in, int from)
{
    emulated_shuffle shuffle = {in, 0, from};
    emulated_meet(
        [](void *const *args, unsigned mask) {
            for (int i = 0; i < 32; i++) {
                if (!(mask >> i & 1)) continue;
                emulated_shuffle *shuffle = (emulated_shuffle *)args[i];
                if (!(mask >> shuffle->from & 1)) emulated_fault("a shuffle from a lane out of its mask");
                shuffle->out = ((emulated_shuffle *)args[shuffle->from])->in;
            }
        },
        "a shuffle", mask, &shuffle);
    return shuffle.out;
}

template <typename T> static inline T emulated_shuffled(unsigned mask, T x, int from)
{
    static_assert(sizeof x <= sizeof(uint64_t), "what fits two registers");
    uint64_t in = 0;
    memcpy(&in, &x, sizeof x);
    in = emulated_shuffle_run(mask, in, from);
    memcpy(&x, &in, sizeof x);
    return x;
}

/* Segments of `width` lanes; beyond the segment a lane gets its own. */
template <typename T> static inline T __shfl_sync(unsigned mask, T x, int source, int width = 32)
{
    int lane = emulated_now->lane;
    return emulated_shuffled(mask, x, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32)
{
    int lane = emulated_now->lane, from = lane ^ bits, end = (lane | (width - 1)) + 1;
    return emulated_shuffled(mask, x, from < end ? from : lane);
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32)
{
    int lane = emulated_now->lane, from = lane + (int)by;
    return emulated_shuffled(mask, x, from <= (lane | (width - 1)) ? from : lane);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32)
{
    int lane = emulated_now->lane, from = lane - (int)by;
    return emulated_shuffled(mask, x, from >= (lane & ~(width - 1)) ? from : lane);
}

template <typename T, typename F> static inline T emulated_reduce(unsigned mask, T x, F fold)
{
    T out = T();
    bool is_first = true;
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1)) continue;
        T other = emulated_shuffled(mask, x, i);
        out = is_first ? other : fold(out, other);
        is_first = false;
    }
    return out;
}
template <typename T> static inline T __reduce_add_sync(unsigned mask, T x)
{
    return emulated_reduce(mask, x, [](T a, T b) { return a + b; });
}
template <typename T> static inline T __reduce_max_sync(unsigned mask, T x)
{
    return emulated_reduce(mask, x, [](T a, T b) { return a > b ? a : b; });
}
template <typename T> static inline T __reduce_min_sync(unsigned mask, T x)
{
    return emulated_reduce(mask, x, [](T a, T b) { return a < b ? a : b; });
}

/* ---- atomics: nothing else runs meanwhile ---- */

template <typename T> static inline T emulated_exchange(T *at, T x)
{
    T old = *at;
    *at = x;
    return old;
}
template <typename T> static inline T atomicAdd(T *at, T x)
{
    return emulated_exchange<T>(at, *at + x);
}
template <typename T> static inline T atomicMax(T *at, T x)
{
    return emulated_exchange<T>(at, *at > x ? *at : x);
}
template <typename T> static inline T atomicMin(T *at, T x)
{
    return emulated_exchange<T>(at, *at < x ? *at : x);
}
template <typename T> static inline T atomicOr(T *at, T x)
{
    return emulated_exchange<T>(at, *at | x);
}
template <typename T> static inline T atomicExch(T *at, T x)
{
    return emulated_exchange<T>(at, x);
}
template <typename T> static inline T atomicCAS(T *at, T expected, T x)
{
    return emulated_exchange<T>(at, *at == expected ? x : *at);
}

#endif
#endif
