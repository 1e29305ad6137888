#include "kernels/dtype.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

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

bool dtype_named(const char *name, size_t length, enum dtype *out)
{
    for (uint32_t dtype = 0; dtype < sizeof dtype_table / sizeof *dtype_table; dtype++) {
        const char *known = dtype_table[dtype].name;
        if (known == NULL || strlen(known) != length || strncasecmp(known, name, length) != 0) continue;
        *out = (enum dtype)dtype;
        return true;
    }
    return false;
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

/* 32 codes of 4 bits: two halves of 16 in one run of 16 bytes. */
static void nibbles_of_halves(const uint8_t *bytes, uint8_t codes[32])
{
    for (int j = 0; j < 16; j++) {
        codes[j] = bytes[j] & 15;
        codes[j + 16] = bytes[j] >> 4;
    }
}

/* K types: two groups share a run of 32 bytes. */
static void nibbles_of_group(const uint8_t *bytes, int high_half, uint8_t codes[32])
{
    for (int j = 0; j < 32; j++) codes[j] = bytes[j] >> 4 * high_half & 15;
}

/* Q6_K: halves of 128 elements have 64 bytes of nibbles (elements 0..63 low, 64..127 high) and 32 bytes of
   high pairs (quarter k at bits 2k). */
static void codes_of_q6_k(const uint8_t *block, int group, uint8_t codes[32])
{
    int half = group / 4, quarter = group % 4;
    const uint8_t *high = block + 128 + half * 32;
    nibbles_of_group(block + half * 64 + quarter % 2 * 32, quarter / 2, codes);
    for (int j = 0; j < 32; j++) codes[j] |= (uint8_t)((high[j] >> 2 * quarter & 3) << 4);
}

static void add_high_bits(const uint8_t *bits, uint8_t codes[32])
{
    for (int j = 0; j < 32; j++) codes[j] |= (uint8_t)((bits[j / 8] >> j % 8 & 1) << 4);
}

void dtype_group_codes(enum dtype dtype, const void *block, int group, uint8_t codes[32])
{
    const uint8_t *bytes = block;
    switch (dtype) {
    case DTYPE_Q4_0:
        nibbles_of_halves(bytes + 2, codes);
        break;
    case DTYPE_Q4_1:
        nibbles_of_halves(bytes + 4, codes);
        break;
    case DTYPE_Q5_0:
        nibbles_of_halves(bytes + 6, codes);
        add_high_bits(bytes + 2, codes);
        break;
    case DTYPE_Q5_1:
        nibbles_of_halves(bytes + 8, codes);
        add_high_bits(bytes + 4, codes);
        break;
    case DTYPE_Q8_0:
        memcpy(codes, bytes + 2, 32);
        break;
    case DTYPE_Q4_K:
        nibbles_of_group(bytes + 16 + group / 2 * 32, group & 1, codes);
        break;
    case DTYPE_Q5_K:
        nibbles_of_group(bytes + 48 + group / 2 * 32, group & 1, codes);
        for (int j = 0; j < 32; j++) codes[j] |= (uint8_t)((bytes[16 + j] >> group & 1) << 4);
        break;
    case DTYPE_Q6_K:
        codes_of_q6_k(bytes, group, codes);
        break;
    default:
        assert(!"dtype_group_codes: not a quantized type");
    }
}

static void block_32_to_f32(enum dtype dtype, const uint8_t *block, float *out)
{
    uint8_t codes[32];
    dtype_group_codes(dtype, block, 0, codes);
    float d = half_at(block);
    bool has_minimum = dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1;
    float minimum = has_minimum ? half_at(block + 2) : 0.0f;
    int middle = dtype == DTYPE_Q4_0 ? 8 : dtype == DTYPE_Q5_0 ? 16 : 0;
    for (int j = 0; j < 32; j++) {
        int code = dtype == DTYPE_Q8_0 ? (int8_t)codes[j] : codes[j] - middle;
        out[j] = has_minimum ? d * (float)code + minimum : d * (float)code;
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

static void block_k_to_f32(enum dtype dtype, const uint8_t *block, float *out)
{
    uint8_t codes[32], scale[8], minimum[8];
    dtype_k_scales(block + 4, scale, minimum);
    for (int g = 0; g < 8; g++) {
        float d = half_at(block) * (float)scale[g];
        float offset = half_at(block + 2) * (float)minimum[g];
        dtype_group_codes(dtype, block, g, codes);
        for (int j = 0; j < 32; j++) out[g * 32 + j] = d * (float)codes[j] - offset;
    }
}

static void block_q6_k_to_f32(const uint8_t *block, float *out)
{
    uint8_t codes[32];
    for (int g = 0; g < 8; g++) {
        dtype_group_codes(DTYPE_Q6_K, block, g, codes);
        for (int j = 0; j < 32; j++) {
            float scale = half_at(block + 208) * (float)(int8_t)block[192 + g * 2 + j / 16];
            out[g * 32 + j] = scale * (float)(codes[j] - 32);
        }
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
            block_k_to_f32(dtype, bytes, out + i);
        else
            block_32_to_f32(dtype, bytes, out + i);
    }
}
