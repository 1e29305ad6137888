#include "kernels/dtype.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

/*
 * Blocks as GGUF stores them, least significant bit first, all numbers little-endian (ggml-common.h):
 *
 *   Q4_0  d | 16 bytes: element j in the low nibble of byte j, j+16 in the high       d (q - 8)
 *   Q4_1  d, m | as Q4_0                                                              d q + m
 *   Q5_0  d | 32 high bits | as Q4_0                                                  d (q - 16)
 *   Q5_1  d, m | 32 high bits | as Q4_0                                               d q + m
 *   Q8_0  d | 32 int8                                                                 d q
 *   Q4_K  d, dmin | 12 bytes: 8 scales, 8 minima of 6 bits | 128 bytes                d sc q - dmin m
 *   Q5_K  d, dmin | 12 bytes | 32 bytes: bit g of byte j is for group g | 128 bytes   d sc q - dmin m
 *   Q6_K  128 bytes low nibbles | 64 bytes high pairs | 16 int8 scales | d            d sc (q - 32)
 *
 * The products are written with the same roundings as the `gguf` package, so results agree to the bit.
 */

static const struct dtype_traits {
    const char *name;
    unsigned short elements, bytes;
} dtype_table[] = {
    [DTYPE_F32] = {"F32", 1, 4},       [DTYPE_F16] = {"F16", 1, 2},       [DTYPE_BF16] = {"BF16", 1, 2},
    [DTYPE_Q4_0] = {"Q4_0", 32, 18},   [DTYPE_Q4_1] = {"Q4_1", 32, 20},   [DTYPE_Q5_0] = {"Q5_0", 32, 22},
    [DTYPE_Q5_1] = {"Q5_1", 32, 24},   [DTYPE_Q8_0] = {"Q8_0", 32, 34},   [DTYPE_Q4_K] = {"Q4_K", 256, 144},
    [DTYPE_Q5_K] = {"Q5_K", 256, 176}, [DTYPE_Q6_K] = {"Q6_K", 256, 210},
};

static const struct dtype_traits *dtype_find(uint32_t dtype)
{
    static const struct dtype_traits unknown = {NULL, 0, 0};
    return dtype < sizeof dtype_table / sizeof *dtype_table ? &dtype_table[dtype] : &unknown;
}

const char *dtype_name(uint32_t dtype)
{
    return dtype_find(dtype)->name;
}

size_t dtype_block_elements(uint32_t dtype)
{
    return dtype_find(dtype)->elements;
}

size_t dtype_block_bytes(uint32_t dtype)
{
    return dtype_find(dtype)->bytes;
}

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float dtype_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = (half >> 10) & 31, fraction = half & 1023;
    if (exponent == 31) { /* infinity, or a NaN made quiet as F16C does */
        uint32_t quiet = fraction ? 0x400000u : 0;
        return float_of_bits(sign | 0x7f800000u | quiet | fraction << 13);
    }
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24, exact */
        float magnitude = (float)fraction * 0x1p-24f;
        return float_of_bits(sign | bits_of_float(magnitude));
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t dtype_f32_to_f16(float value)
{
    uint32_t bits = bits_of_float(value);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and above round to infinity */
    if (magnitude < 0x38800000) { /* below 2^-14: adding 1/2 leaves the value in units of 2^-24, rounded */
        float shifted = float_of_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (bits_of_float(shifted) - 0x3f000000));
    }
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}

static float half_at(const uint8_t *bytes)
{
    return dtype_f16_to_f32((uint16_t)(bytes[0] | bytes[1] << 8));
}

static void floats_to_f32(enum dtype dtype, const uint8_t *bytes, size_t n, float *out)
{
    if (dtype == DTYPE_F32) {
        memcpy(out, bytes, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint32_t half = bytes[2 * i] | (uint32_t)bytes[2 * i + 1] << 8;
        out[i] = dtype == DTYPE_F16 ? dtype_f16_to_f32((uint16_t)half) : float_of_bits(half << 16);
    }
}

/* Q4_0, Q4_1, Q5_0, Q5_1: 32 codes of 4 or 5 bits; high may be NULL. */
static void codes_of_32(const uint8_t *nibbles, const uint8_t *high, uint8_t codes[32])
{
    for (int j = 0; j < 16; j++) {
        codes[j] = nibbles[j] & 15;
        codes[j + 16] = nibbles[j] >> 4;
    }
    for (int j = 0; high && j < 32; j++) codes[j] |= (uint8_t)((high[j / 8] >> j % 8 & 1) << 4);
}

static void block_32_to_f32(enum dtype dtype, const uint8_t *block, float *out)
{
    uint8_t codes[32];
    float d = half_at(block);
    switch (dtype) {
    case DTYPE_Q4_0:
        codes_of_32(block + 2, NULL, codes);
        for (int j = 0; j < 32; j++) out[j] = d * (float)(codes[j] - 8);
        break;
    case DTYPE_Q4_1:
        codes_of_32(block + 4, NULL, codes);
        for (int j = 0; j < 32; j++) out[j] = d * (float)codes[j] + half_at(block + 2);
        break;
    case DTYPE_Q5_0:
        codes_of_32(block + 6, block + 2, codes);
        for (int j = 0; j < 32; j++) out[j] = d * (float)(codes[j] - 16);
        break;
    case DTYPE_Q5_1:
        codes_of_32(block + 8, block + 4, codes);
        for (int j = 0; j < 32; j++) out[j] = d * (float)codes[j] + half_at(block + 2);
        break;
    default: /* Q8_0 */
        for (int j = 0; j < 32; j++) out[j] = d * (float)(int8_t)block[2 + j];
        break;
    }
}

void dtype_k_scales(const uint8_t packed[12], uint8_t scale[8], uint8_t minimum[8])
{
    for (int g = 0; g < 4; g++) {
        scale[g] = packed[g] & 63;
        minimum[g] = packed[g + 4] & 63;
        scale[g + 4] = (uint8_t)((packed[g + 8] & 15) | packed[g] >> 6 << 4);
        minimum[g + 4] = (uint8_t)(packed[g + 8] >> 4 | packed[g + 4] >> 6 << 4);
    }
}

/* Q4_K and Q5_K: 8 groups of 32; two groups share 32 bytes of nibbles. */
static void block_k_to_f32(const uint8_t *block, bool five_bits, float *out)
{
    uint8_t scale[8], minimum[8];
    dtype_k_scales(block + 4, scale, minimum);
    const uint8_t *high = block + 16, *nibbles = block + (five_bits ? 48 : 16);
    for (int g = 0; g < 8; g++) {
        float d = half_at(block) * (float)scale[g];
        float offset = half_at(block + 2) * (float)minimum[g];
        for (int j = 0; j < 32; j++) {
            int code = nibbles[g / 2 * 32 + j] >> (g & 1) * 4 & 15;
            if (five_bits) code |= (high[j] >> g & 1) << 4;
            out[g * 32 + j] = d * (float)code - offset;
        }
    }
}

/* Halves of 128 elements: 64 bytes of nibbles (elements 0..63 low, 64..127 high) and 32 bytes of high pairs
   (element j of quarter k at bits 2k of byte j). */
static void block_q6_k_to_f32(const uint8_t *block, float *out)
{
    float d = half_at(block + 208);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, j = i % 128;
        int low = block[half * 64 + j % 64] >> j / 64 * 4 & 15;
        int high = block[128 + half * 32 + j % 32] >> j / 32 * 2 & 3;
        float scale = d * (float)(int8_t)block[192 + i / 16];
        out[i] = scale * (float)((low | high << 4) - 32);
    }
}

void dtype_to_f32(enum dtype dtype, const void *source, size_t n, float *out)
{
    const uint8_t *bytes = source;
    size_t elements = dtype_block_elements(dtype);
    assert(elements && n % elements == 0);
    if (elements == 1) {
        floats_to_f32(dtype, bytes, n, out);
        return;
    }
    for (size_t i = 0; i < n; i += elements, bytes += dtype_block_bytes(dtype)) {
        if (dtype == DTYPE_Q6_K)
            block_q6_k_to_f32(bytes, out + i);
        else if (elements == 256)
            block_k_to_f32(bytes, dtype == DTYPE_Q5_K, out + i);
        else
            block_32_to_f32(dtype, bytes, out + i);
    }
}
