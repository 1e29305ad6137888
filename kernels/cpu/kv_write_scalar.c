#include "kernels/cpu/kv_write.h"
#include "kernels/dtype.h"

#include <math.h>

/* The reference of the write path's kernels; kernels/cpu/kv_write.h says what they compute. */

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
        for (int t = 0; t < KV_BLOCK_TOKENS; t++) {
            float sum = 0;
            for (int i = 0; i < n; i++) sum = fmaf(matrix[j * n + i], x[i * KV_BLOCK_TOKENS + t], sum);
            out[j * KV_BLOCK_TOKENS + t] = sum;
        }
    }
}

static void quantize(const float *x, int n, uint8_t *codes4, uint16_t *scale4, uint16_t *scale2)
{
    for (int t = 0; t < KV_BLOCK_TOKENS; t++) {
        float norm = 0, dot4 = 0, dot2 = 0;
        for (int i = 0; i < n; i++) norm = fmaf(x[i * KV_BLOCK_TOKENS + t], x[i * KV_BLOCK_TOKENS + t], norm);
        int is_zero = !(norm >= 1e-30f);
        float per_step = is_zero ? 0 : 1.0f / (sqrtf(norm / (float)n) * KV_STEP_4);
        for (int i = 0; i < n; i++) {
            float value = x[i * KV_BLOCK_TOKENS + t];
            float cell = floorf(value * per_step);
            cell = cell > -8.0f ? cell : -8.0f;
            cell = cell < 7.0f ? cell : 7.0f;
            uint8_t code4 = (uint8_t)((int)cell + 8);
            codes4[i * KV_BLOCK_TOKENS + t] = code4;
            dot4 = fmaf(value, cell + 0.5f, dot4);
            dot2 = fmaf(value, (float)kv_code_nested(code4) - 1.5f, dot2);
        }
        scale4[t] = is_zero ? 0 : half_saturated(norm / dot4);
        scale2[t] = is_zero ? 0 : half_saturated(norm / dot2);
    }
}

/* Two groups of 32 bytes with two quads each become one group with four. */
static void nest(const uint8_t *codes4, size_t n, uint8_t *codes2)
{
    for (size_t group = 0; group < n; group += 32) {
        const uint8_t *low = codes4 + 2 * group, *high = low + 32;
        for (int i = 0; i < 32; i++) {
            codes2[group + i] =
                (uint8_t)(kv_code_nested(low[i] & 15) | kv_code_nested(low[i] >> 4) << 2 |
                          kv_code_nested(high[i] & 15) << 4 | kv_code_nested(high[i] >> 4) << 6);
        }
    }
}

const struct kv_kernels kv_kernels_scalar = {
    .half_to_float = half_to_float,
    .float_to_half = float_to_half,
    .mix = mix,
    .quantize = quantize,
    .nest = nest,
};
