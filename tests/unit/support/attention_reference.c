#include "tests/unit/support/attention_reference.h"
#include "kernels/dtype.h"

#include <math.h>
#include <stdlib.h>

enum { TOKENS = KV_BLOCK_TOKENS, GROUP = KV_CODE_GROUP, MAX = KV_MAX_HEAD_DIM };

struct row {
    const struct attention_args *args;
    const struct attention_span *span;
    const struct kv_codec *codec;
    enum attention_rounding rounding;
    int n, kv_head, own;
    size_t page;
    double q[MAX]; /* scaled */
};

/* ---- codes ---- */

static int bit_of(const uint8_t *bytes, int bit)
{
    return bytes[bit / 8] >> (bit % 8) & 1;
}

/* u of column j of a group of 16 whose row of 4 bytes is `row`; the second run of 4 bits is 32 bytes on. */
static int code_u(const uint8_t *row, int bits, int is_upper_half, int j)
{
    int before = (j + 15) % 16;
    switch (bits) {
    case 1:
        return 8 * bit_of(row, j / 4 * 8 + j % 4 + 4 * is_upper_half);
    case 2:
        return 5 * bit_of(row, 2 * j + 1) + 3 * bit_of(row, 2 * j) + 4 * bit_of(row, 2 * before) +
               3 * (1 - bit_of(row, 2 * before + 1));
    default:
        row += j % 4 / 2 * 32;
        return row[j / 4] >> (j % 2 * 4) & 15;
    }
}

static int level(int u, int bits)
{
    return bits == 1 ? 2 * u - 8 : 2 * u - 15;
}

/* Level of a channel of a token's key in part p; 0 without bits. */
static int key_level(const struct row *row, int p, const struct kv_block_ref *block, int t, int c)
{
    const uint8_t *bits = row->codec->parts[p].codes[row->page].key_bits;
    int g = c / GROUP, at = 0, ones_before = 0;
    if (!bits[g]) return 0;
    for (int i = 0; i < g; i++) {
        at += 16 * bits[i];
        ones_before += bits[i] == 1;
    }
    int is_upper = bits[g] == 1 && ones_before % 2;
    if (is_upper) at -= 16;
    size_t tile = kv_key_code_bytes(bits, row->codec->n_groups) / 8;
    const uint8_t *codes = kv_codec_page(row->codec, p, block->parts[p], row->page).key_codes;
    return level(code_u(codes + (size_t)(t / 8) * tile + at + 4 * (t % 8), bits[g], is_upper, c % GROUP),
                 bits[g]);
}

static int value_level(const struct row *row, int p, const struct kv_block_ref *block, int t, int c)
{
    const uint8_t *bits = row->codec->parts[p].codes[row->page].value_bits;
    int g = c / GROUP, at = 0;
    if (!bits[g]) return 0;
    for (int i = 0; i < g; i++) at += 2 * 64 * bits[i];
    at += c % GROUP / 8 * 64 * bits[g];
    int is_upper = bits[g] == 1 && t / GROUP % 2;
    at += 16 * bits[g] * (t / GROUP) - 16 * is_upper;
    const uint8_t *codes = kv_codec_page(row->codec, p, block->parts[p], row->page).value_codes;
    return level(code_u(codes + at + 4 * (c % 8), bits[g], is_upper, t % GROUP), bits[g]);
}

/* ---- transforms ---- */

static double hadamard(int n, int i, int j)
{
    return (__builtin_popcount((unsigned)(i & j)) % 2 ? -1 : 1) / sqrt(n);
}

/* out_j = sum_i x_i matrix_ij. */
static void transform(const double *x, const float *matrix, int n, double *out)
{
    for (int j = 0; j < n; j++) {
        out[j] = 0;
        for (int i = 0; i < n; i++) out[j] += x[i] * (matrix ? (double)matrix[i * n + j] : hadamard(n, i, j));
    }
}

static void query_in_frame(const struct row *row, int frame, double *q_frame, double *mixed)
{
    const struct kv_tables *tables = row->codec->tables;
    int n = row->n, half = n / 2;
    for (int i = 0; i < half; i++) {
        double c = tables->frame_cos[frame * half + i], s = tables->frame_sin[frame * half + i];
        q_frame[i] = row->q[i] * c + row->q[i + half] * s;
        q_frame[i + half] = row->q[i + half] * c - row->q[i] * s;
    }
    transform(q_frame, tables->is_hadamard ? NULL : tables->query_transform + row->page * n * n, n, mixed);
}

static double mean_score(const struct row *row, const double *q_frame, int offset)
{
    const struct kv_tables *tables = row->codec->tables;
    if (!tables->key_mean) return 0;
    const float *mean = tables->key_mean + row->page * row->n;
    int half = row->n / 2;
    double score = 0;
    for (int i = 0; i < half; i++) {
        double c = tables->rope_cos[i * tables->frame_tokens + offset];
        double s = tables->rope_sin[i * tables->frame_tokens + offset];
        score += q_frame[i] * (mean[i] * c - mean[i + half] * s);
        score += q_frame[i + half] * (mean[i + half] * c + mean[i] * s);
    }
    return score;
}

/* ---- rounding ---- */

/* x to whole multiples of its largest magnitude / steps. */
static void round_to(double *x, int n, int steps)
{
    double most = 0;
    for (int i = 0; i < n; i++) most = fmax(most, fabs(x[i]));
    if (most < 1e-30) most = 1;
    for (int i = 0; i < n; i++) x[i] = rint(x[i] * steps / most) * most / steps;
}

/* ---- blocks ---- */

static int parts_read(const struct row *row, int block)
{
    return row->own - block <= row->span->recent_blocks ? row->codec->n_parts : row->codec->n_old_parts;
}

static void block_scores(const struct row *row, int b, double *scores)
{
    const struct kv_block_ref *block = &row->span->blocks[b];
    int n = row->n, P = parts_read(row, b), frame_blocks = row->codec->tables->frame_tokens / TOKENS;
    double q_frame[MAX], mixed[MAX];
    query_in_frame(row, b / frame_blocks, q_frame, mixed);
    for (int t = 0; t < TOKENS; t++) scores[t] = 0;
    for (int p = 0; p < P; p++) {
        double x[MAX];
        const float *unit = row->codec->parts[p].key_unit + row->page * row->codec->n_groups;
        const float *gain = row->codec->parts[P - 1].key_gain + row->page * row->codec->n_groups;
        for (int c = 0; c < n; c++) x[c] = mixed[c] * unit[c / GROUP] * gain[c / GROUP];
        if (row->rounding == ATTENTION_ROUNDED) round_to(x, n, 127);
        for (int t = 0; t < TOKENS; t++)
            for (int c = 0; c < n; c++) scores[t] += x[c] * key_level(row, p, block, t, c);
    }
    const uint16_t *scales = kv_codec_page(row->codec, P - 1, block->parts[P - 1], row->page).key_scales;
    for (int t = 0; t < TOKENS; t++)
        scores[t] =
            scores[t] * dtype_f16_to_f32(scales[t]) + mean_score(row, q_frame, b % frame_blocks * TOKENS + t);
}

/* out += sum_t p_t v_t of the tokens that are no sinks. */
static void block_values(const struct row *row, int b, const double *p, double *out)
{
    const struct kv_block_ref *block = &row->span->blocks[b];
    const struct kv_tables *tables = row->codec->tables;
    int n = row->n, P = parts_read(row, b), n_groups = row->codec->n_groups;
    const uint16_t *scales = kv_codec_page(row->codec, P - 1, block->parts[P - 1], row->page).value_scales;
    double w[TOKENS], sum = 0, z[MAX] = {0}, v[MAX];
    for (int t = 0; t < TOKENS; t++) {
        double live = block->sink_mask >> t & 1 ? 0 : p[t];
        w[t] = live * dtype_f16_to_f32(scales[t]);
        sum += live;
    }
    if (row->rounding == ATTENTION_ROUNDED) round_to(w, TOKENS, 255);
    for (int q = 0; q < P; q++) {
        const float *unit = row->codec->parts[q].value_unit + row->page * n_groups;
        const float *gain = row->codec->parts[P - 1].value_gain + row->page * n_groups;
        for (int c = 0; c < n; c++)
            for (int t = 0; t < TOKENS; t++)
                z[c] += w[t] * unit[c / GROUP] * gain[c / GROUP] * value_level(row, q, block, t, c);
    }
    transform(z, tables->is_hadamard ? NULL : tables->value_transform, n, v);
    for (int c = 0; c < n; c++)
        out[c] += v[c] + (tables->value_mean ? sum * tables->value_mean[row->page * n + c] : 0);
}

static double half_score(const struct row *row, const uint16_t *key, int stride)
{
    double score = 0;
    for (int c = 0; c < row->n; c++) score += row->q[c] * dtype_f16_to_f32(key[c * stride]);
    return score;
}

static const uint16_t *half_page(const struct row *row, int b)
{
    const struct kv_block_ref *block = &row->span->blocks[b];
    return (const uint16_t *)(block->f16 + (size_t)row->args->layer * block->f16_layer_stride) +
           (size_t)row->kv_head * 2 * TOKENS * row->n;
}

static const uint16_t *sink_at(const struct row *row, int b, int t)
{
    const struct kv_block_ref *block = &row->span->blocks[b];
    int slot = __builtin_popcountll(block->sink_mask & (((uint64_t)1 << t) - 1));
    return (const uint16_t *)block->sinks[slot] + row->page * 2 * (size_t)row->n;
}

static int is_coded(const struct row *row, int b)
{
    return row->codec && b != row->own;
}

/* Scores of tokens [0, n_tokens) in their blocks. */
static void row_scores(const struct row *row, int n_tokens, double *scores)
{
    for (int b = 0; b <= row->own; b++) {
        if (is_coded(row, b)) block_scores(row, b, scores + b * TOKENS);
        for (int t = 0; t < TOKENS && b * TOKENS + t < n_tokens; t++) {
            double *score = &scores[b * TOKENS + t];
            if (!is_coded(row, b))
                *score = half_score(row, half_page(row, b) + t, TOKENS);
            else if (row->span->blocks[b].sink_mask >> t & 1)
                *score = half_score(row, sink_at(row, b, t), 1);
        }
    }
}

static void half_value(const struct row *row, const uint16_t *value, double p, double *out)
{
    for (int c = 0; c < row->n; c++) out[c] += p * dtype_f16_to_f32(value[c]);
}

static void row_values(const struct row *row, int n_tokens, const double *p, double *out)
{
    for (int b = 0; b <= row->own; b++) {
        if (is_coded(row, b)) block_values(row, b, p + b * TOKENS, out);
        for (int t = 0; t < TOKENS && b * TOKENS + t < n_tokens; t++) {
            if (!is_coded(row, b))
                half_value(row, half_page(row, b) + (TOKENS + t) * row->n, p[b * TOKENS + t], out);
            else if (row->span->blocks[b].sink_mask >> t & 1)
                half_value(row, sink_at(row, b, t) + row->n, p[b * TOKENS + t], out);
        }
    }
}

void attention_reference(const struct attention_args *args, const struct attention_span *span, int r, int h,
                         enum attention_rounding rounding, double *out)
{
    const struct kv_shape *shape = args->shape;
    int position = span->first_pos + r, n_tokens = position + 1;
    struct row row = {.args = args,
                      .span = span,
                      .codec = span->codec,
                      .rounding = rounding,
                      .n = shape->head_dim,
                      .kv_head = h / (shape->n_heads / shape->n_kv_heads),
                      .own = position / TOKENS};
    row.page = (size_t)args->layer * shape->n_kv_heads + row.kv_head;
    const float *q = args->q + ((size_t)(span->first_row + r) * shape->n_heads + h) * row.n;
    for (int c = 0; c < row.n; c++) row.q[c] = (double)q[c] * args->scale;

    double *p = calloc((size_t)(row.own + 1) * TOKENS, sizeof *p), max = -INFINITY, sum = 0;
    if (!p) abort();
    row_scores(&row, n_tokens, p);
    for (int t = 0; t < n_tokens; t++) max = fmax(max, p[t]);
    for (int t = 0; t < n_tokens; t++) sum += p[t] = exp(p[t] - max);
    for (int c = 0; c < row.n; c++) out[c] = 0;
    row_values(&row, n_tokens, p, out);
    for (int c = 0; c < row.n; c++) out[c] /= sum;
    free(p);
}
