#include "kernels/cpu/kv_trellis.h"
#include "kernels/cpu/kv_write.h"
#include "kernels/dtype.h"

#include <math.h>

/* The reference of the write path's kernels; kernels/cpu/kv_write.h says what they compute. */

enum { TOKENS = KV_BLOCK_TOKENS };

static void half_to_float(const uint16_t *half, int n, float *out)
{
    for (int i = 0; i < n; i++) out[i] = dtype_f16_to_f32(half[i]);
}

static uint16_t half_saturated(float x)
{
    x = x > -65504.0f ? x : -65504.0f;
    x = x < 65504.0f ? x : 65504.0f;
    return dtype_f32_to_f16(x);
}

static void float_to_half(const float *x, int n, uint16_t *out)
{
    for (int i = 0; i < n; i++) out[i] = half_saturated(x[i]);
}

static void mix(const float *matrix, const float *x, int n, float *out)
{
    for (int j = 0; j < n; j++) {
        for (int t = 0; t < TOKENS; t++) {
            float sum = 0;
            for (int i = 0; i < n; i++) sum = fmaf(matrix[j * n + i], x[i * TOKENS + t], sum);
            out[j * TOKENS + t] = sum;
        }
    }
}

static void group_norms(const float *z, float *out)
{
    for (int t = 0; t < TOKENS; t++) {
        float sum = 0;
        for (int i = 0; i < KV_CODE_GROUP; i++) sum = fmaf(z[i * TOKENS + t], z[i * TOKENS + t], sum);
        out[t] = sum;
    }
}

static float clamp(float x, float low, float high)
{
    x = x > low ? x : low;
    return x < high ? x : high;
}

/* What the code is chosen from: u, or for 2 bits what the trellis searches. */
static int16_t symbol(float e, int bits)
{
    if (bits == 1) return e >= 0 ? 8 : 0;
    if (bits == 4) return (int16_t)((int)clamp(floorf(e * 0.5f), -8, 7) + 8);
    return (int16_t)rintf(clamp(e * 4, -KV_TRELLIS_LIMIT, KV_TRELLIS_LIMIT));
}

static void transpose(int16_t tile[KV_TILE][KV_TILE])
{
    for (int i = 0; i < KV_TILE; i++) {
        for (int j = 0; j < i; j++) {
            int16_t x = tile[i][j];
            tile[i][j] = tile[j][i], tile[j][i] = x;
        }
    }
}

/* u [column][row] to the words of each row (kernels/kv_codec.h, Geometry). */
static void words_pack(int16_t u[KV_TILE][KV_TILE], int bits, uint32_t words[2][KV_TILE])
{
    for (int row = 0; row < KV_TILE; row++) {
        words[0][row] = words[1][row] = 0;
        for (int column = 0; column < KV_TILE; column++) {
            int byte = column / 4, q = column % 4;
            if (bits == 4)
                words[q / 2][row] |= (uint32_t)u[column][row] << (8 * byte + 4 * (q % 2));
            else
                words[0][row] |= (uint32_t)(u[column][row] >> 3) << (8 * byte + q);
        }
    }
}

static void tile_encode(const float *z, float *y, float unit, int bits, int is_values, float *dots,
                        uint32_t words[2][KV_TILE])
{
    int16_t u[KV_TILE][KV_TILE];
    float per_unit = 1 / unit;
    for (int i = 0; i < KV_TILE; i++)
        for (int t = 0; t < KV_TILE; t++) u[i][t] = symbol(y[i * TOKENS + t] * per_unit, bits);
    /* Keys: columns are channels, as they stand. Values: columns are tokens. */
    if (is_values) transpose(u);
    if (bits == 2)
        kv_trellis_scalar(&u[0][0], words[0]);
    else
        words_pack(u, bits, words);
    if (is_values) transpose(u);
    for (int t = 0; t < KV_TILE; t++) {
        dots[t] = 0;
        for (int i = 0; i < KV_TILE; i++) {
            float level = (float)(2 * u[i][t] - (bits == 1 ? 8 : 15));
            dots[t] = fmaf(z[i * TOKENS + t], level, dots[t]);
            y[i * TOKENS + t] = fmaf(-unit, level, y[i * TOKENS + t]);
        }
    }
}

const struct kv_kernels kv_kernels_scalar = {
    .half_to_float = half_to_float,
    .float_to_half = float_to_half,
    .mix = mix,
    .group_norms = group_norms,
    .tile_encode = tile_encode,
    .trellis = kv_trellis_scalar,
};
