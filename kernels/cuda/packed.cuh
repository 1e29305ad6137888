#ifndef KERNELS_CUDA_PACKED_CUH
#define KERNELS_CUDA_PACKED_CUH

#include "kernels/cuda/packed.h"
#include "kernels/cuda/ptx.cuh"

#include <cuda_fp16.h>

/*
 * A lane's part of a packed block (packed.h) to fp16, with the bits that the load-time way gives:
 * dtype_to_f32, rounded. Codes become fp16 exactly: by standing in the mantissa of 1024, from which the
 * middle is taken too, or where there is none as they are, the smallest subnormals. What follows is one
 * rounding where the scale is one fp16 number, as its product with a code has at most 19 bits; elsewhere
 * products of scale and code are exact in fp32 (17 + 5 and 18 + 5 bits), so that one fmaf is dtype_to_f32's
 * difference.
 */

#define FORM(type, low, high, kind, middle)                                                                  \
    struct packed_##type {                                                                                   \
        static constexpr int LOW = low, HIGH = high, RECORD = kind, MIDDLE = middle;                         \
        static constexpr int CODE_BYTES = CUDA_PACKED_CODE_BYTES(low, high);                                 \
        static constexpr int UNIT_BLOCKS = CUDA_PACKED_UNIT_BLOCKS(kind);                                    \
        static constexpr int RECORD_BYTES = CUDA_PACKED_RECORD_BYTES(kind);                                  \
        static constexpr int UNIT_BYTES = UNIT_BLOCKS * CODE_BYTES + RECORD_BYTES;                           \
        static constexpr bool IS_HALF = kind == CUDA_PACKED_HALVES;                                          \
    };
CUDA_PACKED_FORMS(FORM)
#undef FORM

/* What launch says of the type's form, of which it gets an object; cudaErrorInvalidValue where there is none.
 */
template <typename F> static cudaError_t packed_launch_form(enum dtype dtype, F launch)
{
    switch (dtype) {
#define FORM(type, low, high, kind, middle)                                                                  \
    case DTYPE_##type:                                                                                       \
        return launch(packed_##type());
        CUDA_PACKED_FORMS(FORM)
#undef FORM
    default:
        return cudaErrorInvalidValue;
    }
}

__device__ static inline uint32_t packed_bits(__half2 x)
{
    return *(uint32_t *)&x;
}

__device__ static inline __half2 packed_half2(uint32_t bits)
{
    return *(__half2 *)&bits;
}

/* A lane's codes and scales of one block. */
template <typename FORM> struct packed_lane {
    uint32_t low[FORM::LOW], high[FORM::HIGH ? FORM::HIGH : 1];
    __half2 scale[2][2];            /* IS_HALF: [half][columns / 32], twice each */
    float factor[2][4], less[2][2]; /* otherwise: [half][k], or [half][columns / 32]: code * factor - less */
};

template <typename FORM>
__device__ static inline void packed_codes_load(const char *codes, int lane, packed_lane<FORM> &out)
{
#pragma unroll
    for (int i = 0; i < FORM::LOW / 4; i++) {
        uint4 words = *(const uint4 *)(codes + i * 512 + lane * 16);
        out.low[4 * i] = words.x, out.low[4 * i + 1] = words.y;
        out.low[4 * i + 2] = words.z, out.low[4 * i + 3] = words.w;
    }
#pragma unroll
    for (int i = 0; i < FORM::HIGH; i++)
        out.high[i] = *(const uint32_t *)(codes + FORM::LOW * 128 + (lane * FORM::HIGH + i) * 4);
}

/* What a form's factor is multiplied by, since its codes are worth 2^-24 each. */
template <typename FORM> struct packed_unit {
    static constexpr float FACTOR = FORM::MIDDLE ? 1.0f : 16777216.0f;
};

/* Byte I of x, less the middle. */
template <int I, int MIDDLE> __device__ static inline float packed_byte(uint32_t x)
{
    return __uint_as_float(__byte_perm(x, 0x4b000000, 0x7440 + I)) - (8388608.0f + MIDDLE); /* 2^23 */
}

/* Scale, minimum, scale, minimum of a block of four, a byte each. */
__device__ static inline uint32_t packed_minima(const char *words, int block)
{
    if (block < 3) return *(const uint32_t *)(words + 4 + 4 * block) & 0x3f3f3f3f;
    uint4 all = *(const uint4 *)words;
    return (all.y >> 6 & 0x03030303) | (all.z >> 4 & 0x0c0c0c0c) | (all.w >> 2 & 0x30303030);
}

/* block: of the unit. */
template <typename FORM>
__device__ static inline void packed_scales_load(const char *record, int block, int lane,
                                                 packed_lane<FORM> &out)
{
    int gid = lane / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (FORM::RECORD == CUDA_PACKED_HALVES) {
            __half2 scales = packed_half2(*(const uint32_t *)(record + gid * 8 + half * 4));
            out.scale[half][0] = __half2half2(__low2half(scales));
            out.scale[half][1] = __half2half2(__high2half(scales));
        } else if (FORM::RECORD == CUDA_PACKED_MINIMA) {
            const char *words = record + gid * 32 + half * 16;
            float2 d = __half22float2(packed_half2(*(const uint32_t *)words));
            uint32_t minima = packed_minima(words, block);
            d.x *= packed_unit<FORM>::FACTOR;
            out.factor[half][0] = out.factor[half][1] = d.x * packed_byte<0, 0>(minima);
            out.factor[half][2] = out.factor[half][3] = d.x * packed_byte<2, 0>(minima);
            out.less[half][0] = d.y * packed_byte<1, 0>(minima);
            out.less[half][1] = d.y * packed_byte<3, 0>(minima);
        } else {
            uint32_t scales = *(const uint32_t *)(record + block * 64 + gid * 8 + half * 4);
            float d = __half2float(*(const __half *)(record + 256 + gid * 4 + half * 2));
            out.factor[half][0] = d * packed_byte<0, 128>(scales);
            out.factor[half][1] = d * packed_byte<1, 128>(scales);
            out.factor[half][2] = d * packed_byte<2, 128>(scales);
            out.factor[half][3] = d * packed_byte<3, 128>(scales);
            out.less[half][0] = out.less[half][1] = 0;
        }
    }
}

template <int SHIFT> __device__ static inline uint32_t packed_shifted(uint32_t x)
{
    return SHIFT >= 0 ? x >> (SHIFT & 31) : x << (-SHIFT & 31);
}

/* Two codes less the middle, as fp16: exact. */
template <typename FORM, int K, int PAIR>
__device__ static inline __half2 packed_codes(const packed_lane<FORM> &lane)
{
    constexpr uint32_t ONES = FORM::MIDDLE ? 0x64006400 : 0; /* 1024, whose last bit is worth 1 */
    uint32_t bits =
        FORM::LOW == 4
            ? ptx_pick(packed_shifted<4 * PAIR>(lane.low[K]), 0x000f000f, ONES)
            : ptx_pick(packed_shifted<PAIR % 2 * 8>(lane.low[FORM::LOW == 8 ? 2 * K + PAIR / 2 : 0]),
                       0x00ff00ff, ONES);
    if (FORM::HIGH == 1) bits |= packed_shifted<4 * K + PAIR - 4>(lane.high[0]) & 0x00100010;
    if (FORM::HIGH == 2)
        bits |=
            packed_shifted<8 * (K % 2) + 2 * PAIR - 4>(lane.high[FORM::HIGH == 2 ? K / 2 : 0]) & 0x00300030;
    if (!FORM::MIDDLE) return packed_half2(bits);
    return __hadd2(packed_half2(bits), __half2half2(__float2half_rn(-1024.0f - FORM::MIDDLE)));
}

template <typename FORM, int K, int PAIR>
__device__ static inline uint32_t packed_pair(const packed_lane<FORM> &lane)
{
    constexpr int HALF = PAIR % 2;
    __half2 codes = packed_codes<FORM, K, PAIR>(lane);
    if (FORM::IS_HALF) return packed_bits(__hmul2(codes, lane.scale[HALF][K / 2]));
    float2 x = __half22float2(codes);
    float factor = lane.factor[HALF][K], less = lane.less[HALF][K / 2];
    return packed_bits(__floats2half2_rn(fmaf(x.x, factor, -less), fmaf(x.y, factor, -less)));
}

/* Columns 16 K to 16 K + 15: the lane's a0 to a3 of ptx_multiply. */
template <typename FORM, int K>
__device__ static inline void packed_step(const packed_lane<FORM> &lane, uint32_t *a)
{
    a[0] = packed_pair<FORM, K, 0>(lane);
    a[1] = packed_pair<FORM, K, 1>(lane);
    a[2] = packed_pair<FORM, K, 2>(lane);
    a[3] = packed_pair<FORM, K, 3>(lane);
}

/* All of the block: [k][pair]. */
template <typename FORM>
__device__ static inline void packed_block(const char *codes, const char *record, int block, int lane,
                                           uint32_t a[4][4])
{
    packed_lane<FORM> mine;
    packed_codes_load(codes, lane, mine);
    packed_scales_load(record, block, lane, mine);
    packed_step<FORM, 0>(mine, a[0]);
    packed_step<FORM, 1>(mine, a[1]);
    packed_step<FORM, 2>(mine, a[2]);
    packed_step<FORM, 3>(mine, a[3]);
}

/* Bytes of a tile, and where in it a block's unit begins. */
template <typename FORM> __device__ static inline size_t packed_tile_bytes(int n_blocks)
{
    return (size_t)((n_blocks + FORM::UNIT_BLOCKS - 1) / FORM::UNIT_BLOCKS) * FORM::UNIT_BYTES;
}

template <typename FORM> __device__ static inline unsigned packed_unit_at(unsigned block)
{
    return block / FORM::UNIT_BLOCKS * FORM::UNIT_BYTES;
}

#endif
