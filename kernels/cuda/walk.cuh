#ifndef KERNELS_CUDA_WALK_CUH
#define KERNELS_CUDA_WALK_CUH

#include "kernels/cuda/page.cuh"
#include "kernels/cuda/ptx.cuh"

/*
 * Attention over coded blocks: warps that walk over pages.
 *
 * Work. A tile is up to 8 queries, tokens x query heads of one KV head, whose tokens stand in one block. Its
 * coded blocks fall into segments of 16, its sinks and its own block are one more piece; each is an item,
 * from a fresh softmax to a partial result, and another kernel merges a tile's partial results in their
 * order. What a segment is depends on the position alone, so a row's bits are its own whatever else the batch
 * has. A thread block stays on one KV head for its whole life, since what is the same for all pages of a head
 * stands in shared memory: the transform of queries, the mean's functions, bits and factors. Its warps take
 * items in turn and share nothing else.
 *
 * Arithmetic. A level is linear in a code's bits (kernels/kv_codec.h), so products with levels are products
 * with planes of bits; a plane, masked where it stands, is four bytes of 0 or 1 (or 2, or a nibble), which is
 * what mma.m16n8k32 takes as unsigned bytes. The other factor, of queries or of weights, is an integer of 16
 * bits in two signed digits of 8, in two columns side by side: column 2 q has the high digits of query q,
 * column 2 q + 1 the low ones, so the two sums of a query meet in one lane, which has query tid of its rows.
 * All sums over bits are exact. Nibbles weigh more than bits and their factors less, so these have a finer
 * unit, a power of two, and are summed first. A group of 16 channels is one product of 16 rows of the result
 * whatever its bits.
 *
 * Frames. On entering one a warp turns its queries back by the frame's angle, in fp32, and multiplies them in
 * two fp16 halves, again in two columns, with the transform. The score of the mean (kernels/kv_mean.h) is a
 * product per block: functions of the place in fp16, in two halves where means are large, with coefficients in two
 * halves, made once a frame.
 *
 * A query's maximum moves only when a block exceeds it by 2^8, so most blocks rescale nothing; whether it
 * moves depends on that query alone.
 */

enum { WALK_TOKENS = CUDA_TOKENS, WALK_SEGMENT = CUDA_WALK_SEGMENT, WALK_QUERIES = 4 }; /* of one mma */
enum { WALK_FACTORS = CUDA_WALK_FACTORS }; /* bytes: of one kind of bit of values, 4 queries, 64 tokens, 16 bits */
#define WALK_PLAIN 15.0f     /* weights of plain codes are multiplied with it, so that they too use 16 bits */

/* What a head's pages have in common, for the thread block. Sets: 0 is what old blocks are read with, 1
   recent ones. */
struct walk_page {
    /* Level to x, by part and group, 8 in it at 1 bit; of a sum, 2 / WALK_PLAIN in it for plain codes. */
    float key_factor[2][CUDA_MAX_PARTS][CUDA_MAX_GROUPS], value_factor[2][CUDA_MAX_PARTS][CUDA_MAX_GROUPS];
    float key_bound[2][2][CUDA_MAX_GROUPS]; /* what |x| of a group makes at most in factors: of 1 and 2 bits,
                                               of 4 */
    int key_bits[CUDA_MAX_PARTS][CUDA_MAX_GROUPS], value_bits[CUDA_MAX_PARTS][CUDA_MAX_GROUPS];
    int key_ends[CUDA_MAX_PARTS][3]; /* groups that have 4 bits; 2 or more; any */
    int is_trellis[CUDA_MAX_PARTS];  /* all values have 2 bits */
    int row_bytes[CUDA_MAX_PARTS], key_bytes[CUDA_MAX_PARTS], page_bytes[CUDA_MAX_PARTS];
    uint64_t offset[CUDA_MAX_PARTS];
    int n_parts[2];
    int has_nibbles, has_plain; /* keys of 4 bits, values of other than 2, in any part */
};

/* Where things stand in the block's shared memory, in bytes from its start. */
struct walk_layout {
    int matrix, terms, basis, mean, page, warps,
        per_warp;                     /* matrix, basis: -1 where they are left in the card's memory */
    int ring, mixed, coefs, exchange; /* within a warp's */
    int bytes;                        /* of all */
};

__host__ __device__ static inline int walk_basis_bytes(const cuda_walk *walk)
{
    return walk->n_basis_halves * walk->n_basis_steps * walk->place_blocks * 4 * 512;
}

__host__ __device__ static inline walk_layout walk_layout_of(const cuda_walk *walk, int head_dim, int units)
{
    walk_layout l;
    int groups = head_dim / CUDA_GROUP, at = 0, matrix = groups * groups * 512;
    int basis = walk_basis_bytes(walk), most = walk->most_shared_bytes;
    l.basis = basis <= most / 3 ? at : -1;
    at += l.basis < 0 ? 0 : basis;
    l.matrix = at + matrix <= most / 2 ? at : -1;
    at += l.matrix < 0 ? 0 : matrix;
    l.terms = at, at += walk->n_basis_steps ? 2 * groups * 512 : 0;
    l.mean = at, at += walk->n_basis_steps ? head_dim * 4 : 0;
    l.page = at, at += (int)(sizeof(walk_page) + 127) / 128 * 128;
    l.warps = at;
    l.ring = 0;
    l.mixed = walk->n_stages * walk->stage_bytes;
    if (l.mixed < 8 * (head_dim + 4) * 4) l.mixed = 8 * (head_dim + 4) * 4; /* the near item's queries */
    l.coefs = l.mixed + units * groups * 256;
    l.exchange = l.coefs + units * walk->n_basis_steps * 256;
    l.per_warp = l.exchange + units * walk->exchange_bytes;
    l.bytes = l.warps + walk->n_warps * l.per_warp;
    return l;
}

/* A warp on its way through an item's blocks: UNITS times 4 queries. */
template <int D, int UNITS> struct walker {
    const cuda_walk *walk;
    const cuda_span *span;
    const walk_page *page;
    const uint4 *matrix, *terms, *basis;
    const float *mean;
    uint8_t *ring;
    float *mixed; /* [group][4 UNITS][16]: q', channel 4 b + t of the group at 4 t + b; then, by group, what
                     digits_of makes of them: [UNITS][32 lanes] 8 bytes */
    uint2 *coefs; /* [step][UNITS][32 lanes] */
    char *exchange;
    const float *q[UNITS]; /* of query gid / 2 (+ 4 unit); NULL: there is none */
    float reach[UNITS],
        boost[UNITS]; /* of the same: what makes its factors at most 32000; times what for 4 bits */
    int page_index, own, frame, set;
    int lane, gid, tid, odd; /* odd: of gid; which digit, which half of a row tile comes first */
    float unit[UNITS];       /* of query tid: a key sum's unit */
    int shift[UNITS];        /* of the same: log2 of boost */
    int middle[UNITS];       /* of query tid: what the sums start from */
    float max[UNITS], sum[UNITS];
    float out[UNITS][D / CUDA_GROUP][2]; /* channels gid and gid + 8 of each group, query tid */
};

__device__ static inline uint32_t half_pair(float low, float high)
{
    __half2 x = __floats2half2_rn(low, high);
    return *(uint32_t *)&x;
}

/* The half of two numbers that this lane's column takes: their fp16 values, or what those leave. */
__device__ static inline uint32_t half_digit(float x, float y, int is_low)
{
    uint32_t high = half_pair(x, y);
    if (!is_low) return high;
    float2 rounded = __half22float2(*(__half2 *)&high);
    return half_pair(x - rounded.x, y - rounded.y);
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

/* Four floats within +-32639 as integers, the digit of each that this lane's column takes, in one word. */
#define WALK_MAGIC 12582912.0f /* 1.5 * 2^23: an integer added to it stands in the low bits */
__device__ static inline uint32_t digit_pick(uint32_t a, uint32_t b, int is_low)
{
    return __byte_perm(a, b, is_low ? 0x6420 : 0x7531) ^ 0x80808080u;
}

__device__ static inline uint32_t digits_pack(const float *x, int is_low)
{
    uint32_t low = __byte_perm(__float_as_uint(x[0]), __float_as_uint(x[1]), 0x5410);
    uint32_t high = __byte_perm(__float_as_uint(x[2]), __float_as_uint(x[3]), 0x5410);
    return digit_pick(low, high, is_low);
}

#endif
