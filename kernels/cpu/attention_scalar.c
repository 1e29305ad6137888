#include "kernels/cpu/attention.h"
#include "kernels/dtype.h"

#include <math.h>
#include <string.h>

/* The reference of the attention kernels; kernels/cpu/attention.h says what they compute. */

enum { TOKENS = KV_BLOCK_TOKENS };

float attention_exp2(float x)
{
    if (!(x >= -126.0f)) return 0;
    float whole = rintf(x), f = x - whole;
    float y = ATTENTION_EXP2_C5;
    y = fmaf(y, f, ATTENTION_EXP2_C4);
    y = fmaf(y, f, ATTENTION_EXP2_C3);
    y = fmaf(y, f, ATTENTION_EXP2_C2);
    y = fmaf(y, f, ATTENTION_EXP2_C1);
    y = fmaf(y, f, 1.0f);
    uint32_t bits = (uint32_t)((int)whole + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

static void transform_row(const float *x, const float *matrix, int n, float *out)
{
    if (matrix) {
        for (int j = 0; j < n; j++) {
            float sum = 0;
            for (int i = 0; i < n; i++) sum = fmaf(x[i], matrix[i * n + j], sum);
            out[j] = sum;
        }
        return;
    }
    memcpy(out, x, (size_t)n * sizeof *out);
    for (int stride = 1; stride < n; stride *= 2) {
        for (int i = 0; i < n; i++) {
            if (i & stride) continue;
            float a = out[i], b = out[i + stride];
            out[i] = a + b;
            out[i + stride] = a - b;
        }
    }
    float norm = 1.0f / sqrtf((float)n);
    for (int i = 0; i < n; i++) out[i] *= norm;
}

static void transform(const float *x, const float *matrix, int n, int n_rows, float *out)
{
    for (int row = 0; row < n_rows; row++) transform_row(x + row * n, matrix, n, out + row * n);
}

static void query_frame(struct attention_tile *tile, const float *cosines, const float *sines,
                        const float *matrix)
{
    int n = tile->head_dim, half = n / 2;
    for (int row = 0; row < tile->n_rows; row++) {
        const float *q = tile->q + row * n;
        float *turned = tile->q_frame + row * n, *mixed = tile->mixed + row * n;
        for (int i = 0; i < half; i++) {
            turned[i] = q[i] * cosines[i] + q[i + half] * sines[i];
            turned[i + half] = q[i + half] * cosines[i] - q[i] * sines[i];
        }
        transform_row(turned, matrix, n, mixed);
        float amax = 0;
        for (int i = 0; i < n; i++) amax = fabsf(mixed[i]) > amax ? fabsf(mixed[i]) : amax;
        int is_zero = !(amax >= ATTENTION_TINY);
        float per_step = is_zero ? 0 : 127.0f / amax;
        int32_t sum = 0;
        for (int i = 0; i < n; i++) {
            tile->q8[row * n + i] = (int8_t)lrintf(mixed[i] * per_step);
            sum += tile->q8[row * n + i];
        }
        tile->q8_scale[row] = is_zero ? 0 : amax * (0.5f / 127.0f);
        tile->q8_sum[row] = sum;
    }
}

static void scores_half(struct attention_tile *tile, const uint16_t *keys, int n_tokens)
{
    int n = tile->head_dim;
    for (int row = 0; row < tile->n_rows; row++) {
        for (int t = 0; t < n_tokens; t++) {
            float score = 0;
            for (int i = 0; i < n; i++)
                score = fmaf(tile->q[row * n + i], dtype_f16_to_f32(keys[i * TOKENS + t]), score);
            tile->scores[row * TOKENS + t] = score;
        }
    }
}

static void scores_mean(struct attention_tile *tile, const float *cosines, const float *sines, int stride)
{
    int n = tile->head_dim, half = n / 2;
    for (int row = 0; row < tile->n_rows; row++) {
        const float *factors = tile->mean_factors + row * n;
        for (int t = 0; t < TOKENS; t++) {
            float score = 0;
            for (int i = 0; i < half; i++) score = fmaf(factors[i], cosines[i * stride + t], score);
            for (int i = 0; i < half; i++) score = fmaf(factors[half + i], sines[i * stride + t], score);
            tile->mean_scores[row * TOKENS + t] = score;
        }
    }
}

/* The code of a row and column of a matrix with n_columns columns. */
static int code_at(const uint8_t *codes, enum code_reading reading, int n_columns, int row, int column)
{
    int bits = reading == CODES_2 ? 2 : 4, per_byte = 8 / bits;
    int quad = column / 4, n_groups = n_columns / 4 / per_byte;
    const uint8_t *group = codes + 32 * (row / 8 * n_groups + quad / per_byte);
    int code = group[4 * (row % 8) + column % 4] >> (bits * (quad % per_byte)) & ((1 << bits) - 1);
    return reading == CODES_4_AS_2 ? (code >= 5) + (code >= 8) + (code >= 11) : code;
}

static int code_max(enum code_reading reading)
{
    return reading == CODES_4 ? 15 : 3;
}

static void scores_coded(struct attention_tile *tile, const uint8_t *codes, enum code_reading reading,
                         const uint16_t *scales, const float *mean_scores)
{
    int n = tile->head_dim;
    for (int row = 0; row < tile->n_rows; row++) {
        for (int t = 0; t < TOKENS; t++) {
            int32_t isum = 0;
            for (int i = 0; i < n; i++) isum += tile->q8[row * n + i] * code_at(codes, reading, n, t, i);
            float level_sum = (float)(2 * isum - code_max(reading) * tile->q8_sum[row]);
            float factor = dtype_f16_to_f32(scales[t]) * tile->q8_scale[row];
            tile->scores[row * TOKENS + t] =
                mean_scores ? fmaf(level_sum, factor, mean_scores[row * TOKENS + t]) : level_sum * factor;
        }
    }
}

/* Sixteen lanes, folded. */
static float sum_tokens(const float *p)
{
    float lanes[16];
    for (int i = 0; i < 16; i++) lanes[i] = p[i];
    for (int t = 16; t < TOKENS; t++) lanes[t % 16] += p[t];
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
}

static void weights_quantize(struct attention_tile *tile, int row, const uint16_t *value_scales)
{
    const float *p = tile->scores + row * TOKENS;
    float weights[TOKENS], max = 0;
    for (int t = 0; t < TOKENS; t++) {
        weights[t] = p[t] * dtype_f16_to_f32(value_scales[t]);
        max = weights[t] > max ? weights[t] : max;
    }
    int is_zero = !(max >= ATTENTION_TINY);
    float per_step = is_zero ? 0 : 255.0f / max;
    int32_t sum = 0;
    for (int t = 0; t < TOKENS; t++) {
        tile->w8[row * TOKENS + t] = (uint8_t)lrintf(weights[t] * per_step);
        sum += tile->w8[row * TOKENS + t];
    }
    tile->w8_scale[row] = is_zero ? 0 : max * (0.5f / 255.0f);
    tile->w8_sum[row] = sum;
}

static void softmax(struct attention_tile *tile, int first_row, int n_rows, uint64_t live,
                    const uint16_t *value_scales)
{
    int n = tile->head_dim;
    for (int row = first_row; row < first_row + n_rows; row++) {
        float *p = tile->scores + row * TOKENS, max = tile->max[row];
        for (int t = 0; t < TOKENS; t++) {
            if (!(live >> t & 1)) p[t] = -INFINITY;
            max = p[t] > max ? p[t] : max;
        }
        if (max > tile->max[row]) {
            float factor = attention_exp2(tile->max[row] - max);
            tile->sum[row] *= factor;
            tile->coded_sum[row] *= factor;
            for (int i = 0; i < n; i++) {
                tile->out_half[row * n + i] *= factor;
                tile->out_coded[row * n + i] *= factor;
            }
            tile->max[row] = max;
        }
        /* With nothing live so far max is -inf and the differences NaN, of which attention_exp2 makes 0. */
        for (int t = 0; t < TOKENS; t++) p[t] = attention_exp2(p[t] - max);
        float sum = sum_tokens(p);
        tile->sum[row] += sum;
        if (value_scales) {
            tile->coded_sum[row] += sum;
            weights_quantize(tile, row, value_scales);
        }
    }
}

static void values_half(struct attention_tile *tile, int first_row, int n_rows, const uint16_t *values,
                        int n_tokens)
{
    int n = tile->head_dim;
    for (int row = first_row; row < first_row + n_rows; row++) {
        for (int t = 0; t < n_tokens; t++) {
            float p = tile->scores[row * TOKENS + t];
            for (int i = 0; i < n; i++)
                tile->out_half[row * n + i] =
                    fmaf(p, dtype_f16_to_f32(values[t * n + i]), tile->out_half[row * n + i]);
        }
    }
}

static void values_coded(struct attention_tile *tile, const uint8_t *codes, enum code_reading reading)
{
    int n = tile->head_dim;
    for (int row = 0; row < tile->n_rows; row++) {
        for (int i = 0; i < n; i++) {
            int32_t isum = 0;
            for (int t = 0; t < TOKENS; t++)
                isum += tile->w8[row * TOKENS + t] * code_at(codes, reading, TOKENS, i, t);
            float level_sum = (float)(2 * isum - code_max(reading) * tile->w8_sum[row]);
            tile->out_coded[row * n + i] = fmaf(level_sum, tile->w8_scale[row], tile->out_coded[row * n + i]);
        }
    }
}

const struct attention_kernels attention_kernels_scalar = {
    .transform = transform,
    .query_frame = query_frame,
    .scores_half = scores_half,
    .scores_mean = scores_mean,
    .scores_coded = scores_coded,
    .softmax = softmax,
    .values_half = values_half,
    .values_coded = values_coded,
};
