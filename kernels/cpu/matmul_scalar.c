#include "kernels/cpu/matmul.h"

#include <math.h>
#include <string.h>

/* The reference of matmul.h, one row of weights and one row of activations at a time. */

/* One row's share of one group. */
struct row_group {
    int codes[TILE_GROUP]; /* with their sign; Q6_K: c - 32 */
    float step, offset;
    int half_scale[2]; /* Q6_K */
};

static float half_at(const char *halves, int row)
{
    uint16_t half;
    memcpy(&half, halves + 2 * row, sizeof half);
    return dtype_f16_to_f32(half);
}

static int packed_code(enum dtype dtype, const uint8_t *codes, int row, int column)
{
    int q = column / 4, k = 4 * row + column % 4;
    if (dtype == DTYPE_Q8_0) return (int8_t)codes[q * 32 + k];
    int code = codes[q / 2 * 32 + k] >> q % 2 * 4 & 15;
    if (tile_code_bits(dtype) == 5) code |= (codes[128 + k] >> q & 1) << 4;
    if (dtype == DTYPE_Q6_K) code |= (codes[128 + q / 4 * 32 + k] >> q % 4 * 2 & 3) << 4;
    return code;
}

/* scales: of the group's scale block; group: within that block. */
static struct row_group row_group_read(enum dtype dtype, const char *codes, const char *scales, int group,
                                       int row)
{
    struct row_group out = {0};
    for (int c = 0; c < TILE_GROUP; c++) out.codes[c] = packed_code(dtype, (const uint8_t *)codes, row, c);
    out.step = half_at(scales, row);
    switch (dtype) {
    case DTYPE_Q4_0:
        out.offset = -8.0f * out.step;
        break;
    case DTYPE_Q5_0:
        out.offset = -16.0f * out.step;
        break;
    case DTYPE_Q4_1:
    case DTYPE_Q5_1:
        out.offset = half_at(scales + 16, row);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K: {
        const uint8_t *bytes = (const uint8_t *)scales + 32 + group * 16;
        out.step *= (float)bytes[row];
        out.offset = -(half_at(scales + 16, row) * (float)bytes[8 + row]);
        break;
    }
    case DTYPE_Q6_K:
        for (int c = 0; c < TILE_GROUP; c++) out.codes[c] -= 32;
        for (int half = 0; half < 2; half++)
            out.half_scale[half] = (int8_t)scales[16 + group * 16 + half * 8 + row];
        break;
    default:
        break;
    }
    return out;
}

/* The 32 activations in column order. */
static void act_codes(int bits, const char *group, int codes[TILE_GROUP])
{
    static const int place[4] = {0, 2, 1, 3};
    for (int c = 0; c < TILE_GROUP; c++)
        codes[c] = bits == 16 ? act_16(group)->q[c / 4 * 4 + place[c % 4]] : act_8(group)->q[c];
}

static int32_t codes_dot(const int *a, const int *b, int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static float group_add(enum dtype dtype, int act_bits, const struct row_group *weight, const char *group,
                       float acc)
{
    const struct act_head *head = act_head(group);
    int q[TILE_GROUP], halves[2];
    act_codes(act_bits, group, q);
    for (int half = 0; half < 2; half++)
        halves[half] = codes_dot(weight->codes + 16 * half, q + 16 * half, 16);
    if (dtype == DTYPE_Q6_K && act_bits == 16) {
        for (int half = 0; half < 2; half++) {
            float step = weight->step * (float)weight->half_scale[half];
            acc = fmaf(step * head->scale, (float)halves[half], acc);
        }
        return acc;
    }
    int32_t n = dtype == DTYPE_Q6_K ? weight->half_scale[0] * halves[0] + weight->half_scale[1] * halves[1]
                                    : halves[0] + halves[1];
    acc = fmaf(weight->step * head->scale, (float)n, acc);
    return tile_has_offset(dtype) ? fmaf(weight->offset, head->sum, acc) : acc;
}

static float quantized_dot(enum dtype dtype, const char *tile, int row, int n_groups, int act_bits,
                           const char *acts)
{
    struct tile_format format = tile_format(dtype);
    const char *at = tile, *scales = tile;
    float acc = 0.0f;
    for (int g = 0; g < n_groups; g++, at += format.code_bytes) {
        if (g % format.groups_per_scale == 0) {
            scales = at;
            at += format.scale_bytes;
        }
        struct row_group weight = row_group_read(dtype, at, scales, g % format.groups_per_scale, row);
        acc = group_add(dtype, act_bits, &weight, acts + (size_t)g * act_bytes(act_bits), acc);
    }
    return acc;
}

static float float_dot(enum dtype dtype, const char *tile, int row, int n_cols, const float *x)
{
    size_t size = dtype_block_bytes(dtype);
    float acc = 0.0f;
    for (int c = 0; c < n_cols; c++) {
        float weight;
        dtype_to_f32(dtype, tile + ((size_t)c * TILE_ROWS + (size_t)row) * size, 1, &weight);
        acc = fmaf(weight, x[c], acc);
    }
    return acc;
}

static void part(enum dtype dtype, const struct matmul_part *part)
{
    int n_groups = part->n_cols / TILE_GROUP;
    size_t act_row_bytes = (size_t)n_groups * act_bytes(part->act_bits);
    for (int output = 0; output < part->n_outputs; output++) {
        const char *tile = part->tiles + (size_t)(output / TILE_ROWS) * part->tile_bytes;
        int row = output % TILE_ROWS;
        for (int t = 0; t < part->n_rows; t++) {
            float acc;
            if (!tile_is_quantized(dtype))
                acc = float_dot(dtype, tile, row, part->n_cols, part->x + (size_t)t * (size_t)part->n_cols);
            else
                acc = quantized_dot(dtype, tile, row, n_groups, part->act_bits,
                                    part->groups + (size_t)t * act_row_bytes);
            matmul_store(&acc, part->bias ? part->bias + output : NULL, 1,
                         part->out + (size_t)t * part->out_stride + output);
        }
    }
}

const struct matmul_kernels matmul_scalar = {part, 1};
