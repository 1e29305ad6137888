#include "kernels/cpu/exp.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/row.h"

#include <math.h>
#include <string.h>

/* The reference: row_avx2.c gives the same bits. */

enum { LANES = 16 };

static float lanes_sum(float lane[LANES])
{
    for (int step = LANES / 2; step >= 1; step /= 2)
        for (int i = 0; i < step; i++) lane[i] += lane[i + step];
    return lane[0];
}

static void rmsnorm(const float *x, const float *gain, float eps, int n, float *out)
{
    float lane[LANES] = {0};
    for (int i = 0; i < n; i++) lane[i % LANES] = fmaf(x[i], x[i], lane[i % LANES]);
    float mean = lanes_sum(lane) / (float)n;
    float factor = 1.0f / sqrtf(mean + eps);
    for (int i = 0; i < n; i++) out[i] = x[i] * factor * gain[i];
}

/* To the nearest integer, ties to even, by adding 1.5 * 2^23: defined for every input, infinities and NaN
   included, and then held within int8. */
static int32_t round_to_code(float value)
{
    float shifted = value + 0x1.8p+23f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    int32_t code = (int32_t)(bits - 0x4b400000u);
    return code > 127 ? 127 : code < -127 ? -127 : code;
}

static void quantize_group(const float *x, struct act_group *group)
{
    float amax = 0.0f;
    for (int i = 0; i < TILE_GROUP; i++) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    float inverse = amax > 0.0f ? 127.0f / amax : 0.0f;
    memset(group, 0, sizeof *group);
    int pair[2][2] = {0};
    for (int i = 0; i < TILE_GROUP; i++) {
        int32_t code = round_to_code(x[i] * inverse);
        group->q[i] = (int8_t)code;
        group->half_sum[i / 16] += code;
        pair[i / 16][i / 2 % 2] += code;
    }
    for (int i = 0; i < 4; i++) group->pair_sum[i / 2][i % 2] = (int16_t)(32 * pair[i / 2][i % 2]);
    group->scale = amax / 127.0f;
    group->sum = group->scale * (float)(group->half_sum[0] + group->half_sum[1]);
}

static void quantize(const float *x, int n, struct act_group *groups)
{
    for (int g = 0; g < n / TILE_GROUP; g++) quantize_group(x + g * TILE_GROUP, &groups[g]);
}

static void rope(float *x, int n_heads, int head_dim, const float *cosines, const float *sines)
{
    int half = head_dim / 2;
    for (int h = 0; h < n_heads; h++, x += head_dim) {
        for (int i = 0; i < half; i++) {
            float a = x[i], b = x[i + half];
            x[i] = fmaf(a, cosines[i], -(b * sines[i]));
            x[i + half] = fmaf(b, cosines[i], a * sines[i]);
        }
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = gate[i] / (1.0f + exp_scalar(-gate[i])) * up[i];
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

const struct row_kernels row_scalar = {rmsnorm, quantize, rope, swiglu, add};
