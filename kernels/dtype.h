#ifndef KERNELS_DTYPE_H
#define KERNELS_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tensor element types, numbered as in GGUF v3 (ggml.h: enum ggml_type). */
enum dtype {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_Q4_0 = 2,
    DTYPE_Q4_1 = 3,
    DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7,
    DTYPE_Q8_0 = 8,
    DTYPE_Q4_K = 12,
    DTYPE_Q5_K = 13,
    DTYPE_Q6_K = 14,
    DTYPE_BF16 = 30,
};

/* "Q4_K"; NULL for a type octavo does not read. */
const char *dtype_name(uint32_t dtype);
/* All of them, for messages. */
#define DTYPE_NAMES "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, F16, BF16, F32"
/* The type of this name (length bytes, letters of either case); false when there is none. */
bool dtype_named(const char *name, size_t length, enum dtype *out);

/* Elements in one block (1, 32 or 256) and its bytes; 0 for an unknown type. */
size_t dtype_block_elements(uint32_t dtype);
size_t dtype_block_bytes(uint32_t dtype);

/* n elements (a multiple of the block) to fp32. The independent reference is the Python package `gguf`:
   tests compare bit for bit. */
void dtype_to_f32(enum dtype dtype, const void *source, size_t n, float *out);

/* IEEE binary16, round to nearest even; the scalar reference of F16C. */
float dtype_f16_to_f32(uint16_t half);
uint16_t dtype_f32_to_f16(float value);

/* Parts of a quantized block, for code that rearranges them. group: which 32 elements of the block (0 when it
   has only 32). Codes are unsigned as stored (Q8_0: the bytes of int8). */
void dtype_group_codes(enum dtype dtype, const void *block, int group, uint8_t codes[32]);

/* The 8 scales and 8 minima of 6 bits in the 12 bytes of a block of Q4_K or Q5_K. */
void dtype_k_scales(const uint8_t packed[12], uint8_t scale[8], uint8_t minimum[8]);

#endif
