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
   included, and then held within [-largest, largest]. */
static int32_t round_to_code(float value, int32_t largest)
{
    float shifted = value + 0x1.8p+23f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    int32_t code = (int32_t)(bits - 0x4b400000u);
    return code > largest ? largest : code < -largest ? -largest : code;
}

static void codes_of_group(const float *x, int32_t largest, int32_t codes[TILE_GROUP], struct act_head *head)
{
    float amax = 0.0f;
    for (int i = 0; i < TILE_GROUP; i++) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    float inverse = amax > 0.0f ? (float)largest / amax : 0.0f;
    head->half_sum[0] = head->half_sum[1] = 0;
    for (int i = 0; i < TILE_GROUP; i++) {
        codes[i] = round_to_code(x[i] * inverse, largest);
        head->half_sum[i / 16] += codes[i];
    }
    head->scale = amax / (float)largest;
    head->sum = head->scale * (float)(head->half_sum[0] + head->half_sum[1]);
}

static void quantize_8(const float *x, int n, struct act_8 *groups)
{
    int32_t codes[TILE_GROUP];
    for (struct act_8 *group = groups; group < groups + n / TILE_GROUP; group++, x += TILE_GROUP) {
        memset(group, 0, sizeof *group);
        codes_of_group(x, 127, codes, &group->head);
        for (int i = 0; i < TILE_GROUP; i++) {
            int16_t *pair = &group->pair_sum[i / 16][i / 2 % 2];
            group->q[i] = (int8_t)codes[i];
            *pair = (int16_t)(*pair + 32 * codes[i]);
        }
    }
}

static void quantize_16(const float *x, int n, struct act_16 *groups)
{
    static const int order[4] = {0, 2, 1, 3};
    int32_t codes[TILE_GROUP];
    for (struct act_16 *group = groups; group < groups + n / TILE_GROUP; group++, x += TILE_GROUP) {
        codes_of_group(x, 32767, codes, &group->head);
        for (int i = 0; i < TILE_GROUP; i++) group->q[i] = (int16_t)codes[i / 4 * 4 + order[i % 4]];
    }
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

const struct row_kernels row_scalar = {rmsnorm, quantize_8, quantize_16, rope, swiglu, add};
