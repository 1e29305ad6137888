#ifndef KERNELS_CPU_KV_WRITE_H
#define KERNELS_CPU_KV_WRITE_H

#include "kernels/backend.h"

/*
 * The write path of the cache: f16 pages, and their sealing into codes (design 2.2).
 *
 * Sealing works on a page as a matrix x [head_dim][64] of fp32, lanes = tokens: rotate back to the frame,
 * subtract the mean, transform, then per token (column), all sums in increasing channel order with fmaf:
 *
 *   n = sum x^2,  r = sqrt(n / head_dim),  cell = clamp(floor(x * (1 / (r * step_4))), -8, 7)
 *   code4 = cell + 8, level4 = cell + 1/2;  code2 = kv_code_nested(code4), level2 = code2 - 3/2
 *   scale_b = n / sum x * level_b           (fp16, saturated; 0 when n < 1e-30)
 *
 * The scale is the projection of x on its own reconstruction turned the unbiased way: <x, scale * level> =
 * <x, x>, so a key does not shrink and the softmax does not flatten.
 *
 * What has a SIMD version stands in the table below; the rest is plain C, in which a sum never crosses lanes,
 * so that a compiler's vectors cannot change a bit.
 */

#define KV_STEP_4 0.3352f

/* The 2-bit code of a 4-bit code (kernels/kv_page.h, Grids). */
static inline uint8_t kv_code_nested(uint8_t code4)
{
    return (uint8_t)((code4 >= 5) + (code4 >= 8) + (code4 >= 11));
}

struct kv_kernels {
    void (*half_to_float)(const uint16_t *half, int n, float *out);
    /* Saturates to +-65504, so that a cached value is always finite. */
    void (*float_to_half)(const float *x, int n, uint16_t *out);
    /* out[j][t] = sum_i matrix[j][i] * x[i][t], fmaf in increasing i; x, out [n][64]. */
    void (*mix)(const float *matrix, const float *x, int n, float *out);
    /* x [n][64] -> codes4 [n][64], scales [64]. */
    void (*quantize)(const float *x, int n, uint8_t *codes4, uint16_t *scale4, uint16_t *scale2);
    /* Packed 4-bit codes (2 n bytes) to packed 2-bit codes (n bytes); n a multiple of 32. */
    void (*nest)(const uint8_t *codes4, size_t n, uint8_t *codes2);
};

extern const struct kv_kernels kv_kernels_scalar, kv_kernels_avx2, kv_kernels_avx512;

/* Workers, the chosen kernels and one scratch page per worker. NULL when memory is short. */
struct kv_writer;
struct kv_writer *kv_writer_create(struct workers *workers, const struct kv_kernels *kernels);
void kv_writer_free(struct kv_writer *writer);

/* The backend's kv_store, kv_seal and kv_demote (kernels/backend.h). */
void kv_writer_store(struct kv_writer *writer, const struct kv_store_args *args);
void kv_writer_seal(struct kv_writer *writer, const struct kv_seal_args *args);
void kv_writer_demote(struct kv_writer *writer, const struct kv_shape *shape, const char *q4_block,
                      char *q2_block);

#endif
