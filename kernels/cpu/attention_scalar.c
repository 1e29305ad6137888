#include "kernels/cpu/attention.h"
#include "kernels/dtype.h"

#include <math.h>
#include <string.h>

/* The reference of the attention kernels; kernels/cpu/attention.h says what they compute. */

enum { TOKENS = KV_BLOCK_TOKENS, GROUP = KV_CODE_GROUP, RUN = 32 };

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

static void transform_row(const float *x, const float *matrix, int n, int n_columns, float *out)
{
    if (matrix) {
        for (int j = 0; j < n_columns; j++) {
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
    for (int row = 0; row < n_rows; row++) transform_row(x + row * n, matrix, n, n, out + row * n);
}

static void query_frame(struct attention_tile *tile, const float *cosines, const float *sines,
                        const float *matrix, int n_columns)
{
    int n = tile->head_dim, half = n / 2;
    for (int row = 0; row < tile->n_rows; row++) {
        const float *q = tile->q + row * n;
        float *turned = tile->q_frame + row * n, *mixed = tile->mixed + row * n;
        for (int i = 0; i < half; i++) {
            turned[i] = q[i] * cosines[i] + q[i + half] * sines[i];
            turned[i + half] = q[i + half] * cosines[i] - q[i] * sines[i];
        }
        transform_row(turned, matrix, n, n_columns, mixed);
    }
}

/* The bits of a group, and what is taken from its 2u to be its level. */
static int group_bits(const struct attention_groups *groups, int g)
{
    int n_most = groups->n_fours + groups->n_twos;
    return g < groups->n_fours ? 4 : g < n_most ? 2 : g < n_most + groups->n_ones ? 1 : 0;
}

static int group_middle(int bits)
{
    return bits == 1 ? 8 : 15;
}

static int groups_coded(const struct attention_groups *groups)
{
    return groups->n_fours + groups->n_twos + groups->n_ones;
}

static void query_quantize_row(struct attention_tile *tile, const struct attention_groups *groups, int part,
                               int row)
{
    int n = tile->head_dim, n_coded = GROUP * groups_coded(groups);
    const float *mixed = tile->mixed + row * n;
    int8_t *q8 = tile->q8[part] + row * n;
    float amax = 0;
    for (int i = 0; i < n_coded; i++) {
        float x = fabsf(mixed[i] * groups->factor[i / GROUP]);
        amax = x > amax ? x : amax;
    }
    int is_zero = !(amax >= ATTENTION_TINY);
    float per_step = is_zero ? 0 : 127.0f / amax;
    int32_t offset = 0;
    for (int i = 0; i < n_coded; i++) {
        int8_t q = (int8_t)lrintf(mixed[i] * groups->factor[i / GROUP] * per_step);
        q8[attention_column_place(i)] = q;
        offset += group_middle(group_bits(groups, i / GROUP)) * q;
    }
    tile->q8_scale[part][row] = is_zero ? 0 : amax * (1.0f / 127.0f);
    tile->q8_offset[part][row] = offset;
}

static void query_quantize(struct attention_tile *tile, const struct attention_reading *reading)
{
    for (int p = 0; p < reading->n_parts; p++)
        for (int row = 0; row < tile->n_rows; row++)
            query_quantize_row(tile, &reading->parts[p].keys, p, row);
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

/* The slow pairs' factors become those of the terms, behind the fast ones. */
static void mean_terms(float *factors, const float *terms, int n_slow)
{
    float sums[KV_MEAN_TERMS] = {0};
    for (int i = 0; i < n_slow; i++)
        for (int j = 0; j < KV_MEAN_TERMS; j++)
            sums[j] = fmaf(factors[i], terms[i * KV_MEAN_TERMS + j], sums[j]);
    memcpy(factors, sums, sizeof sums);
}

static void scores_mean(struct attention_tile *tile, const struct kv_mean_basis *basis, int frame_tokens)
{
    int n = tile->head_dim, half = n / 2, n_fast = basis->n_fast, n_places = frame_tokens / 2;
    for (int row = 0; row < tile->n_rows; row++) {
        float *cosines = tile->mean_factors + row * n, *sines = cosines + half;
        if (basis->n_terms) {
            mean_terms(cosines + n_fast, basis->even_terms, half - n_fast);
            mean_terms(sines + n_fast, basis->odd_terms, half - n_fast);
        }
        float *centre = tile->mean_scores + row * KV_FRAME_TOKENS + n_places;
        for (int s = 0; s < n_places; s++) {
            float even = 0, odd = 0;
            for (int i = 0; i < n_fast + basis->n_terms; i++) {
                even = fmaf(cosines[i], basis->even[i * n_places + s], even);
                odd = fmaf(sines[i], basis->odd[i * n_places + s], odd);
            }
            centre[s] = even + odd;
            centre[-1 - s] = even - odd;
        }
    }
}

/* The u of 16 codes, in the order of their columns. row: where the row's 4 bytes stand in the first run of
   the group; is_second: a group of 1 bit that has the upper half of a run. */
static void codes_expand(const uint8_t *row, int bits, int is_second, int *u)
{
    for (int c = 0; c < GROUP; c++) {
        int byte = c / 4, q = c % 4;
        if (bits == 4) {
            u[c] = row[RUN * (q / 2) + byte] >> (4 * (q % 2)) & 15;
        } else if (bits == 2) {
            int before = (c + GROUP - 1) % GROUP;
            int code = row[byte] >> (2 * q) & 3, last = row[before / 4] >> (2 * (before % 4)) & 3;
            u[c] = 5 * (code >> 1) + 3 * (code & 1) + 4 * (last & 1) + 3 * (1 - (last >> 1));
        } else {
            u[c] = (row[byte] >> (q + 4 * is_second) & 1) * 8;
        }
    }
}

/* A token's keys. */
static void key_expand(const uint8_t *codes, const struct attention_groups *groups, int token, int *u)
{
    int n_runs = 2 * groups->n_fours + groups->n_twos + (groups->n_ones + 1) / 2;
    const uint8_t *row = codes + token / 8 * n_runs * RUN + token % 8 * 4;
    for (int g = 0, n_ones = 0; g < groups_coded(groups); g++, u += GROUP) {
        int bits = group_bits(groups, g), is_second = bits == 1 && n_ones++ % 2;
        codes_expand(row - is_second * RUN, bits, is_second, u);
        if (!is_second) row += (bits == 4 ? 2 : 1) * RUN;
    }
}

/* A channel's values. */
static void value_expand(const uint8_t *codes, const struct attention_groups *groups, int channel, int *u)
{
    for (int g = 0; g < channel / GROUP; g++) codes += group_bits(groups, g) * (GROUP * TOKENS / 8);
    int bits = group_bits(groups, channel / GROUP);
    const uint8_t *row = codes + channel % GROUP / 8 * (bits * TOKENS) + channel % 8 * 4;
    for (int c = 0; c < TOKENS; c += GROUP) {
        int run = c / GROUP * bits / 2;
        codes_expand(row + run * RUN, bits, bits == 1 && c / GROUP % 2, u + c);
    }
}

static void scores_coded(struct attention_tile *tile, const struct attention_reading *reading,
                         char *const *parts, const float *mean_scores)
{
    int n = tile->head_dim, last = reading->n_parts - 1, u[KV_MAX_HEAD_DIM];
    const uint16_t *scales = (const uint16_t *)(parts[last] + reading->parts[last].scales_at);
    for (int i = 0; i < tile->n_rows * TOKENS; i++) tile->scores[i] = 0;
    for (int p = 0; p <= last; p++) {
        const struct attention_part *part = &reading->parts[p];
        for (int t = 0; t < TOKENS; t++) {
            key_expand((const uint8_t *)parts[p] + part->keys_at, &part->keys, t, u);
            for (int row = 0; row < tile->n_rows; row++) {
                const int8_t *q8 = tile->q8[p] + row * n;
                int32_t isum = 0;
                for (int i = 0; i < GROUP * groups_coded(&part->keys); i++)
                    isum += q8[attention_column_place(i)] * u[i];
                float level = (float)(2 * isum - tile->q8_offset[p][row]);
                float *score = &tile->scores[row * TOKENS + t];
                *score = fmaf(level, tile->q8_scale[p][row], *score);
            }
        }
    }
    for (int i = 0; i < tile->n_rows * TOKENS; i++) {
        float s = tile->scores[i], scale = dtype_f16_to_f32(scales[i % TOKENS]);
        int mean_at = i / TOKENS * KV_FRAME_TOKENS + i % TOKENS;
        tile->scores[i] = mean_scores ? fmaf(s, scale, mean_scores[mean_at]) : s * scale;
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
        uint8_t w = (uint8_t)lrintf(weights[t] * per_step);
        tile->w8[row * TOKENS + attention_column_place(t)] = w;
        sum += w;
    }
    tile->w8_scale[row] = is_zero ? 0 : max * (1.0f / 255.0f);
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

static void values_coded(struct attention_tile *tile, const struct attention_reading *reading,
                         char *const *parts)
{
    int n = tile->head_dim, u[TOKENS];
    for (int p = 0; p < reading->n_parts; p++) {
        const struct attention_part *part = &reading->parts[p];
        for (int i = 0; i < GROUP * groups_coded(&part->values); i++) {
            int g = i / GROUP, middle = group_middle(group_bits(&part->values, g));
            value_expand((const uint8_t *)parts[p] + part->values_at, &part->values, i, u);
            for (int row = 0; row < tile->n_rows; row++) {
                const uint8_t *w8 = tile->w8 + row * TOKENS;
                int32_t isum = 0;
                for (int t = 0; t < TOKENS; t++) isum += w8[attention_column_place(t)] * u[t];
                float level = (float)(2 * isum - middle * tile->w8_sum[row]);
                float step = tile->w8_scale[row] * part->values.factor[g];
                float *out = &tile->out_coded[row * n + i];
                *out = fmaf(level, step, *out);
            }
        }
    }
}

const struct attention_kernels attention_kernels_scalar = {
    .transform = transform,
    .query_frame = query_frame,
    .query_quantize = query_quantize,
    .scores_half = scores_half,
    .scores_mean = scores_mean,
    .scores_coded = scores_coded,
    .softmax = softmax,
    .values_half = values_half,
    .values_coded = values_coded,
};
