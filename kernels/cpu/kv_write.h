#ifndef KERNELS_CPU_KV_WRITE_H
#define KERNELS_CPU_KV_WRITE_H

#include "kernels/backend.h"

/*
 * The write path of the cache: f16 pages, their sealing into codes (kernels/kv_codec.h says which), and the
 * way back.
 *
 * Sealing works on a page as a matrix z [head_dim][64] of fp32, lanes = tokens: keys rotated back to the
 * frame, the mean subtracted, transformed. Then, for every token (column), in fp32:
 *
 *   zz_g    = sum z^2 over the channels of group g, fmaf in increasing channel order from 0
 *   norm    = sum of zz_g over the groups that part 0 codes, g increasing
 *   r       = sqrt(norm / their channels);  y = z * (1 / r);  0 instead of 1 / r when norm < 1e-30
 *   and for every part, with per_unit = 1 / unit of the group:
 *     e     = y * per_unit, coded to levels;  y = fmaf(-unit, level, y) is what the next part codes
 *     zl    = sum z * level over the channels of the group, fmaf in increasing channel order from 0
 *     zy_g += unit * zl
 *     num   = sum of weight_g * zz_g,  den = sum of (weight_g * gain_g) * zy_g, over the groups coded so far,
 *             g increasing, a product and an addition each
 *     scale = num / den, at most 32 r; 0 when den is not positive or norm < 1e-30; as fp16, saturated
 *
 * A weight is 1 for values. The limit of 32 r is out of reach of a vector that the codes fit (scale is about
 * r; a lone outlier of 256 channels at 1 bit needs 20 r); it stops a vector whose codes happen to be nearly
 * orthogonal to it from becoming huge.
 *
 * What has a SIMD version stands in the table below; the rest is plain C, in which a sum never crosses lanes,
 * so that a compiler's vectors cannot change a bit.
 */
enum { KV_TILE = KV_CODE_GROUP }; /* a tile is 16 channels x 16 tokens */

struct kv_kernels {
    void (*half_to_float)(const uint16_t *half, int n, float *out);
    /* Saturates to +-65504, so that a cached value is always finite. */
    void (*float_to_half)(const float *x, int n, uint16_t *out);
    /* out[j][t] = sum_i matrix[j][i] * x[i][t], fmaf in increasing i; x, out [n][64]. */
    void (*mix)(const float *matrix, const float *x, int n, float *out);
    /* out[t] = zz_g of the group z [16][64]. */
    void (*group_norms)(const float *z, float *out);
    /* The codes of one tile of one part; unit > 0, bits 1, 2, 4. z, y: [16] rows of stride 64; y becomes the
       residual. dots [16]: zl of the tokens. words: the codes in the order of a page, of each row (a token of
       keys, a channel of values) 32 bits per run of the group: 2 runs at 4 bits, 1 at 2; at 1 bit the first
       half of one (bits 4 b + q empty for q >= 4). */
    void (*tile_encode)(const float *z, float *y, float unit, int bits, int is_values, float *dots,
                        uint32_t words[2][KV_TILE]);
    /* kv_trellis_scalar of kernels/cpu/kv_trellis.h. */
    void (*trellis)(int16_t *tile, uint32_t *words);
};

extern const struct kv_kernels kv_kernels_scalar, kv_kernels_avx2, kv_kernels_avx512;

/* Workers, the chosen kernels and one scratch page per worker. NULL when memory is short. */
struct kv_writer;
struct kv_writer *kv_writer_create(struct workers *workers, const struct kv_kernels *kernels);
void kv_writer_free(struct kv_writer *writer);

/* The backend's kv_store, kv_seal and kv_unseal (kernels/backend.h). */
void kv_writer_store(struct kv_writer *writer, const struct kv_store_args *args);
void kv_writer_seal(struct kv_writer *writer, const struct kv_seal_args *args);
void kv_writer_unseal(struct kv_writer *writer, const struct kv_seal_args *args, int n_parts);

#endif
