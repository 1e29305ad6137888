#ifndef KERNELS_CUDA_WALK_CUH
#define KERNELS_CUDA_WALK_CUH

#include "kernels/cuda/page.cuh"
#include "kernels/cuda/ptx.cuh"

/*
 * Attention over coded blocks: warps that walk over pages.
 *
 * Work. A tile is up to 8 queries, tokens x query heads of one KV head, whose tokens stand in one block. Its
 * old blocks fall into segments of 8, its recent ones of 4, its sinks and its own block are one more piece;
 * each is an item, from a fresh softmax to a partial result, and another kernel merges a tile's partial
 * results in their order. What a segment is depends on the position alone, so a row's bits are its own
 * whatever else the batch has. A thread block stays on one KV head for its whole life, since what is the same
 * for all pages of a head stands in shared memory: the mean's functions, bits and factors. Its warps take
 * items as they come free and share nothing else.
 *
 * Arithmetic. A level is linear in a code's bits (kernels/kv_codec.h), so a token's score is a sum over the
 * bits that are set in its row of a page, each with a factor of its own, made of the query: what a bit means
 * (of a code in a trellis, of a nibble, alone) is in the factor, and the walk over keys is the same for all.
 * mma.m16n8k32 takes unsigned bytes; a word masked where it stands is four of them, of 1, 2, 4 or 8, or 16
 * times that, so a word is shifted once for its eight masks. A value's bits are those of 16 tokens, and
 * factors come of weights. The other side is an integer of 16 bits in two signed digits of 8, in two columns
 * side by side: column 2 q has the high digits of query q, column 2 q + 1 the low ones, so the two sums of a
 * query meet in one lane, which has query tid of its rows. All sums over bits are exact. A bit worth 4 has a
 * factor a fourth as large. In a trellis and in a nibble levels are symmetric, so what all bits would make,
 * halved, is taken off.
 *
 * Frames. What a walk needs to know of the queries in a frame of 256 tokens is a record, made by a launch of
 * its own (walk_frame.cuh) that knows no pages: it would take a fourth of a walk's time, and registers and
 * shared memory that are better given to more warps. It comes by the same copies as pages do.
 *
 * A query's maximum moves only when a block exceeds it by 2^8, so most blocks rescale nothing; whether it
 * moves depends on that query alone.
 */

enum { WALK_TOKENS = CUDA_TOKENS, WALK_SEGMENT = CUDA_WALK_SEGMENT };
using walk_page = cuda_walk_page;
/* Bytes of one kind of bit of values, 4 queries, 64 tokens, 16 bits. */
enum { WALK_FACTORS = CUDA_WALK_FACTORS };
#define WALK_PLAIN CUDA_WALK_PLAIN

/* A record, in bytes from its start: of each query the unit of its sums of keys (float) and what these start
   from (int); at 128 the coefficients of the mean, [step][UNITS][32 lanes] 8 bytes; the factors of keys'
   bits, [part][chunk][UNITS][4][4 words][8 columns] 8 bytes (factor_at). */
enum { WALK_COEFS = CUDA_WALK_COEFS };

__device__ static inline int walk_factors_at(const cuda_walk *walk, int units)
{
    return cuda_record_bytes(walk->n_basis_steps, units, 0);
}

/* Where the factors of word 4 chunk + word at bits 2 s and 2 s + 1 stand, in 8 bytes, of a column: a query's
   two digits side by side, as they are written, and so that 16 lanes that read them meet all banks. */
template <int UNITS>
__host__ __device__ static inline int factor_at(int chunk, int unit, int s, int word, int column)
{
    return ((chunk * UNITS + unit) * 4 + s) * 32 + word * 8 + (column ^ (word & 2) * 2);
}

__host__ __device__ static inline int int_max(int a, int b)
{
    return a > b ? a : b;
}

__host__ __device__ static inline int rounded_up(int bytes)
{
    return (bytes + 127) / 128 * 128;
}

__host__ __device__ static inline int walk_basis_bytes(const cuda_walk *walk)
{
    return walk->n_basis_halves * walk->n_basis_steps * walk->place_blocks * 4 * 512;
}

__device__ static inline uint32_t half_pair(float low, float high)
{
    __half2 x = __floats2half2_rn(low, high);
    return *(uint32_t *)&x;
}

/* Over the lanes with the same tid: all rows of a column. */
__device__ static inline float rows_max(float x)
{
#pragma unroll
    for (int step = 4; step < 32; step *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
    return x;
}

template <typename T> __device__ static inline T rows_sum(T x)
{
#pragma unroll
    for (int step = 4; step < 32; step *= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}

/* Four floats within +-32639 as integers, and of these the high digits in one word, the low ones in another.
 */
#define WALK_MAGIC 12582912.0f /* 1.5 * 2^23: an integer added to it stands in the low bits */
__device__ static inline uint32_t digit_pick(uint32_t a, uint32_t b, int is_low)
{
    return __byte_perm(a, b, is_low ? 0x6420 : 0x7531) ^ 0x80808080u;
}

__device__ static inline void digits_pack(const float *x, uint32_t &high, uint32_t &low)
{
    uint32_t a = __byte_perm(__float_as_uint(x[0]), __float_as_uint(x[1]), 0x5410);
    uint32_t b = __byte_perm(__float_as_uint(x[2]), __float_as_uint(x[3]), 0x5410);
    high = digit_pick(a, b, 0), low = digit_pick(a, b, 1);
}

/* A query's two sums in one; all of them, halved, are what levels are symmetric about. */
__device__ static inline int digits_join(int high, int low)
{
    return high * 256 + low;
}

__device__ static inline int middle_of(const int *all)
{
    return -(digits_join(all[0], all[1]) >> 1);
}

#endif
