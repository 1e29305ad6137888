#include "model/statistics.h"

#include "kernels/workers.h"
#include "model/linalg.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Sums over a row are taken in LANES parts, which the compiler can do with vectors of any width up to that
   without reordering anything; the result is the same everywhere. */
enum { LANES = 8 };
_Static_assert(KV_BLOCK_TOKENS % LANES == 0, "columns before a block come in whole lanes");

/* Sums of one (layer, kv head) over all sequences. Keys are before RoPE, about `center`. */
struct head_sums {
    float *center;         /* [head_dim] mean of the first sequence */
    double *key_cov;       /* [head_dim][head_dim] sum w R_o(k) R_o(k)^T */
    double *query_cov;     /* [head_dim][head_dim] */
    double *offset_keys;   /* [frame][head_dim] sum w k over the tokens at this offset */
    double *offset_weight; /* [frame] sum w */
    double *values;        /* [head_dim] sum w v */
    double value_weight;
    double key_harm;
    /* Values by what reads them, u = w |W|^2 / head_dim: sum u, sum u v, sum u |v|^2. */
    double harm_weight, *harm_values, harm_squares;
    int n_sequences;
};

/* What one query head adds in one call. */
struct head_share {
    float *key_weight;   /* [max_tokens] */
    float *value_weight; /* [max_tokens] */
    float *query_cov;    /* [head_dim][head_dim] */
    float *scores;       /* [KV_BLOCK_TOKENS][stride] */
    float *rows;         /* [max_tokens][head_dim] */
    float *harm_weight;  /* [max_tokens] of the whole group, in the group's first share */
    float *values;       /* [max_tokens][head_dim + 2]: v, v^T gram v, 1 */
    float *moved;        /* [KV_BLOCK_TOKENS][head_dim + 2]: sums of P^2 times these */
    double key_harm;
};

struct statistics {
    struct statistics_options options;
    int stride;                /* max_tokens, in whole lanes */
    float *cosine, *sine;      /* [max_tokens][head_dim/2] angles of positions */
    struct head_sums *sums;    /* [layers][kv_heads] */
    struct head_share *shares; /* [heads] */
    float *floats;
    double *doubles;
};

struct add_call {
    struct statistics *statistics;
    struct statistics_layer in;
};

static enum err statistics_allocate(struct statistics *s, struct err_info *info)
{
    const struct kv_shape *shape = &s->options.shape;
    size_t T = (size_t)s->options.max_tokens, D = (size_t)shape->head_dim,
           F = (size_t)s->options.frame_tokens;
    size_t heads = (size_t)shape->n_layers * (size_t)shape->n_kv_heads, n_heads = (size_t)shape->n_heads;
    size_t S = (T + LANES - 1) / LANES * LANES;
    size_t share_floats = 3 * T + D * D + KV_BLOCK_TOKENS * S + T * D + (T + KV_BLOCK_TOKENS) * (D + 2),
           head_doubles = 2 * D * D + F * D + F + 2 * D;
    s->stride = (int)S;
    s->sums = calloc(heads, sizeof *s->sums);
    s->shares = calloc(n_heads, sizeof *s->shares);
    s->floats = calloc(T * D + heads * D + n_heads * share_floats, sizeof *s->floats);
    s->doubles = calloc(heads * head_doubles, sizeof *s->doubles);
    if (s->sums == NULL || s->shares == NULL || s->floats == NULL || s->doubles == NULL)
        return err_set(info, ERR_MEMORY, "calibration statistics: out of memory");
    float *next = s->floats;
    s->cosine = next;
    s->sine = next + T * D / 2;
    next += T * D;
    double *next_double = s->doubles;
    for (size_t i = 0; i < heads; i++, next += D, next_double += head_doubles) {
        struct head_sums *sums = &s->sums[i];
        sums->center = next;
        sums->key_cov = next_double;
        sums->query_cov = sums->key_cov + D * D;
        sums->offset_keys = sums->query_cov + D * D;
        sums->offset_weight = sums->offset_keys + F * D;
        sums->values = sums->offset_weight + F;
        sums->harm_values = sums->values + D;
    }
    for (size_t i = 0; i < n_heads; i++, next += share_floats) {
        struct head_share *share = &s->shares[i];
        share->key_weight = next;
        share->value_weight = share->key_weight + T;
        share->query_cov = share->value_weight + T;
        share->scores = share->query_cov + D * D;
        share->rows = share->scores + KV_BLOCK_TOKENS * S;
        share->harm_weight = share->rows + T * D;
        share->values = share->harm_weight + T;
        share->moved = share->values + T * (D + 2);
    }
    return ERR_OK;
}

enum err statistics_create(const struct statistics_options *options, struct statistics **out,
                           struct err_info *info)
{
    struct statistics *s = calloc(1, sizeof *s);
    if (s == NULL) return err_set(info, ERR_MEMORY, "calibration statistics: out of memory");
    s->options = *options;
    s->options.inv_freq = NULL;
    enum err err = statistics_allocate(s, info);
    if (err != ERR_OK) {
        statistics_free(s);
        return err;
    }
    int half = options->shape.head_dim / 2;
    for (int t = 0; t < options->max_tokens; t++)
        for (int i = 0; i < half; i++) {
            s->cosine[(size_t)t * half + i] = (float)cos(t * options->inv_freq[i]);
            s->sine[(size_t)t * half + i] = (float)sin(t * options->inv_freq[i]);
        }
    linalg_single_thread();
    *out = s;
    return ERR_OK;
}

void statistics_free(struct statistics *statistics)
{
    if (statistics == NULL) return;
    free(statistics->sums);
    free(statistics->shares);
    free(statistics->floats);
    free(statistics->doubles);
    free(statistics);
}

/* out = weight * R_{direction * position} x; direction 1 or -1. */
static void rotate(const struct statistics *s, const float *x, int position, int direction, float weight,
                   float *out)
{
    int half = s->options.shape.head_dim / 2;
    const float *cosine = s->cosine + (size_t)position * half, *sine = s->sine + (size_t)position * half;
    for (int i = 0; i < half; i++) {
        float turn = (float)direction * sine[i], a = x[i], b = x[i + half];
        out[i] = weight * (a * cosine[i] - b * turn);
        out[i + half] = weight * (a * turn + b * cosine[i]);
    }
}

static int rows_of_block(const struct add_call *call, int block)
{
    int left = call->in.n_tokens - block * KV_BLOCK_TOKENS;
    return left < KV_BLOCK_TOKENS ? left : KV_BLOCK_TOKENS;
}

/* exp(x) for x <= 0, by Cephes' polynomial: relative error about 1e-7, 1e-38 instead of less. Without a
   branch or a call, so that loops over it become vector code. */
static inline float exp_negative(float x)
{
    const float shift = 12582912; /* 1.5 * 2^23: a sum with it has the nearest integer in its low bits */
    x = x < -87 ? -87 : x;
    float shifted = x * 1.44269504F + shift, n = shifted - shift;
    float r = x - n * 0.693359375F + n * 2.12194440e-4F;
    float y = 1.9875691500e-4F;
    y = y * r + 1.3981999507e-3F;
    y = y * r + 8.3334519073e-3F;
    y = y * r + 4.1665795894e-2F;
    y = y * r + 1.6666665459e-1F;
    y = y * r + 5.0000001201e-1F;
    y = y * r * r + r + 1;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

/* row [n] becomes exp(row - max); returns the sum. Up to LANES - 1 entries past n are overwritten. */
static float row_exp(float *row, int n)
{
    float largest[LANES], sums[LANES] = {0}, most = -INFINITY, sum = 0;
    for (int t = n; t % LANES != 0; t++) row[t] = -INFINITY;
    for (int i = 0; i < LANES; i++) largest[i] = -INFINITY;
    for (int t = 0; t < n; t += LANES)
        for (int i = 0; i < LANES; i++) largest[i] = row[t + i] > largest[i] ? row[t + i] : largest[i];
    for (int i = 0; i < LANES; i++) most = largest[i] > most ? largest[i] : most;
    for (int t = 0; t < n; t += LANES)
        for (int i = 0; i < LANES; i++) {
            row[t + i] = exp_negative(row[t + i] - most);
            sums[i] += row[t + i];
        }
    for (int i = 0; i < LANES; i++) sum += sums[i];
    return sum;
}

/* Attention of the rows of one query block before it is divided by its sum; scale is what divides. 0 at
   sinks; only columns before the block are of use. scores [KV_BLOCK_TOKENS][stride]. */
static void block_attention(const struct add_call *call, int head, int block, float *scores, float *scale)
{
    const struct statistics_options *options = &call->statistics->options;
    const struct kv_shape *shape = &options->shape;
    int first = block * KV_BLOCK_TOKENS, rows = rows_of_block(call, block), D = shape->head_dim;
    int kv_head = head / (shape->n_heads / shape->n_kv_heads), stride = call->statistics->stride;
    linalg_gemm_f32(false, true, rows, first + rows, D, 1 / sqrtf((float)D),
                    call->in.q + ((size_t)first * shape->n_heads + head) * D, shape->n_heads * D,
                    call->in.k + (size_t)kv_head * D, shape->n_kv_heads * D, 0, scores, stride);
    for (int r = 0; r < rows; r++) {
        float *row = scores + (size_t)r * stride;
        scale[r] = 1 / row_exp(row, first + r + 1);
        for (int t = 0; t < options->sink_tokens && t < first; t++) row[t] = 0;
    }
}

/* Adds one row's weights to the n keys of a frame (n a multiple of LANES); returns the query's. The row
   becomes P^2. */
static float row_add(float *restrict row, float scale, int n, float *restrict key_weight,
                     float *restrict value_weight)
{
    float masses[LANES] = {0}, mass = 0;
    for (int t = 0; t < n; t += LANES)
        for (int i = 0; i < LANES; i++) {
            float p = row[t + i] * scale, z = p * (1 - p);
            z = z > 0 ? z : 0; /* p can round to more than 1 */
            masses[i] += z;
            key_weight[t + i] += z;
            value_weight[t + i] += p * p;
            row[t + i] = p * p;
        }
    for (int i = 0; i < LANES; i++) mass += masses[i];
    return mass;
}

static const float *gram_of(const struct add_call *call, int head)
{
    size_t D = (size_t)call->statistics->options.shape.head_dim;
    return call->in.gram + (size_t)head * D * D;
}

static void values_fill(const struct add_call *call, int head, struct head_share *share)
{
    const struct kv_shape *shape = &call->statistics->options.shape;
    int D = shape->head_dim, ld = shape->n_kv_heads * D, n = call->in.n_tokens;
    const float *v = call->in.v + (size_t)(head / (shape->n_heads / shape->n_kv_heads)) * D;
    linalg_gemm_f32(false, false, n, D, D, 1, v, ld, gram_of(call, head), D, 0, share->rows, D);
    for (int t = 0; t < n; t++) {
        float *out = share->values + (size_t)t * (D + 2), square = 0;
        for (int c = 0; c < D; c++) {
            out[c] = v[(size_t)t * ld + c];
            square += out[c] * share->rows[(size_t)t * D + c];
        }
        out[D] = square;
        out[D + 1] = 1;
    }
}

/* The block's scores have become P^2. With G = gram, sum P^2 (v - o)^T G (v - o) = sum P^2 v^T G v + (G o)^T
   (o sum P^2 - 2 sum P^2 v). */
static void harm_add(const struct add_call *call, int head, int block, struct head_share *share)
{
    const struct statistics *s = call->statistics;
    int first = block * KV_BLOCK_TOKENS, rows = rows_of_block(call, block), D = s->options.shape.head_dim;
    int ld = s->options.shape.n_heads * D;
    const float *o = call->in.o + (size_t)first * ld + (size_t)head * D;
    linalg_gemm_f32(false, false, rows, D + 2, first, 1, share->scores, s->stride, share->values, D + 2, 0,
                    share->moved, D + 2);
    linalg_gemm_f32(false, false, rows, D, D, 1, o, ld, gram_of(call, head), D, 0, share->rows, D);
    for (int r = 0; r < rows; r++) {
        const float *moved = share->moved + (size_t)r * (D + 2), *turned = share->rows + (size_t)r * D;
        double harm = moved[D];
        for (int c = 0; c < D; c++)
            harm += (double)turned[c] * (moved[D + 1] * o[(size_t)r * ld + c] - 2 * moved[c]);
        share->key_harm += harm;
    }
}

static void block_add(const struct add_call *call, int head, int block, struct head_share *share)
{
    const struct statistics *s = call->statistics;
    int first = block * KV_BLOCK_TOKENS, rows = rows_of_block(call, block), D = s->options.shape.head_dim;
    int frame_tokens = s->options.frame_tokens;
    float scale[KV_BLOCK_TOKENS];
    block_attention(call, head, block, share->scores, scale);
    for (int begin = 0; begin < first; begin += frame_tokens) {
        int end = begin + frame_tokens < first ? begin + frame_tokens : first;
        for (int r = 0; r < rows; r++) {
            float mass = row_add(share->scores + (size_t)r * s->stride + begin, scale[r], end - begin,
                                 share->key_weight + begin, share->value_weight + begin);
            const float *q = call->in.q + ((size_t)(first + r) * s->options.shape.n_heads + head) * D;
            rotate(s, q, begin, -1, sqrtf(mass), share->rows + (size_t)r * D);
        }
        linalg_gemm_f32(true, false, D, D, rows, 1, share->rows, D, share->rows, D, 1, share->query_cov, D);
    }
    harm_add(call, head, block, share);
}

static void item_query_head(void *context, int head, int worker)
{
    (void)worker;
    struct add_call *call = context;
    struct head_share *share = &call->statistics->shares[head];
    size_t D = (size_t)call->statistics->options.shape.head_dim;
    memset(share->key_weight, 0, (size_t)call->in.n_tokens * sizeof(float));
    memset(share->value_weight, 0, (size_t)call->in.n_tokens * sizeof(float));
    memset(share->query_cov, 0, D * D * sizeof(float));
    share->key_harm = 0;
    values_fill(call, head, share);
    for (int block = 1; block * KV_BLOCK_TOKENS < call->in.n_tokens; block++)
        block_add(call, head, block, share);
}

/* The shares of a kv head's group are added into the first of them. */
static struct head_share *group_merge(const struct add_call *call, int kv_head, struct head_sums *sums)
{
    const struct kv_shape *shape = &call->statistics->options.shape;
    int group = shape->n_heads / shape->n_kv_heads, square = shape->head_dim * shape->head_dim;
    struct head_share *first = &call->statistics->shares[kv_head * group];
    memset(first->harm_weight, 0, (size_t)call->in.n_tokens * sizeof(float));
    for (int g = 0; g < group; g++) {
        const struct head_share *share = first + g;
        const float *gram = gram_of(call, kv_head * group + g);
        float trace = 0;
        for (int c = 0; c < shape->head_dim; c++) trace += gram[c * shape->head_dim + c];
        for (int i = 0; i < square; i++) sums->query_cov[i] += share->query_cov[i];
        for (int t = 0; t < call->in.n_tokens; t++)
            first->harm_weight[t] += trace / (float)shape->head_dim * share->value_weight[t];
        for (int t = 0; g > 0 && t < call->in.n_tokens; t++) {
            first->key_weight[t] += share->key_weight[t];
            first->value_weight[t] += share->value_weight[t];
        }
        sums->key_harm += share->key_harm;
    }
    return first;
}

static void center_set(const struct add_call *call, int kv_head, const float *weight, float *center)
{
    const struct statistics *s = call->statistics;
    int D = s->options.shape.head_dim;
    double total = 0, mean[KV_MAX_HEAD_DIM] = {0};
    for (int t = 0; t < call->in.n_tokens; t++) {
        float key[KV_MAX_HEAD_DIM];
        rotate(s, call->in.k + ((size_t)t * s->options.shape.n_kv_heads + kv_head) * D, t, -1, 1, key);
        for (int c = 0; c < D; c++) mean[c] += (double)weight[t] * key[c];
        total += weight[t];
    }
    for (int c = 0; c < D; c++) center[c] = (float)(mean[c] / (total > 0 ? total : 1));
}

static void item_kv_head(void *context, int kv_head, int worker)
{
    (void)worker;
    struct add_call *call = context;
    struct statistics *s = call->statistics;
    const struct kv_shape *shape = &s->options.shape;
    int D = shape->head_dim;
    struct head_sums *sums = &s->sums[call->in.layer * shape->n_kv_heads + kv_head];
    struct head_share *share = group_merge(call, kv_head, sums);
    if (sums->n_sequences++ == 0) center_set(call, kv_head, share->key_weight, sums->center);
    for (int t = 0; t < call->in.n_tokens; t++) {
        size_t at = ((size_t)t * shape->n_kv_heads + kv_head) * D;
        float key[KV_MAX_HEAD_DIM];
        double weight = share->key_weight[t], value_weight = share->value_weight[t];
        double harm_weight = share->harm_weight[t];
        int offset = t % s->options.frame_tokens;
        rotate(s, call->in.k + at, t, -1, 1, key);
        for (int c = 0; c < D; c++) {
            key[c] -= sums->center[c];
            sums->offset_keys[(size_t)offset * D + c] += weight * key[c];
            sums->values[c] += value_weight * call->in.v[at + c];
            sums->harm_values[c] += harm_weight * call->in.v[at + c];
            sums->harm_squares += harm_weight * call->in.v[at + c] * call->in.v[at + c];
        }
        sums->harm_weight += harm_weight;
        sums->offset_weight[offset] += weight;
        sums->value_weight += value_weight;
        rotate(s, key, offset, 1, sqrtf(share->key_weight[t]), share->rows + (size_t)t * D);
    }
    linalg_gemm_f32(true, false, D, D, call->in.n_tokens, 1, share->rows, D, share->rows, D, 0,
                    share->query_cov, D);
    for (int i = 0; i < D * D; i++) sums->key_cov[i] += share->query_cov[i];
}

void statistics_add(struct statistics *statistics, struct workers *workers,
                    const struct statistics_layer *layer)
{
    struct add_call call = {statistics, *layer};
    workers_run(workers, statistics->options.shape.n_heads, item_query_head, &call);
    workers_run(workers, statistics->options.shape.n_kv_heads, item_kv_head, &call);
}

/* key_cov about center -> about center + shift: minus R_o S_o (R_o shift)^T and its transpose, plus
   W_o R_o shift (R_o shift)^T, over all offsets o. */
static void cov_shift(const struct statistics *s, const struct head_sums *sums, const float *shift,
                      double *key_cov)
{
    int D = s->options.shape.head_dim;
    for (int o = 0; o < s->options.frame_tokens; o++) {
        float keys[KV_MAX_HEAD_DIM], turned[KV_MAX_HEAD_DIM], by[KV_MAX_HEAD_DIM];
        for (int c = 0; c < D; c++) keys[c] = (float)sums->offset_keys[(size_t)o * D + c];
        rotate(s, keys, o, 1, 1, turned);
        rotate(s, shift, o, 1, 1, by);
        double weight = sums->offset_weight[o];
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++)
                key_cov[(size_t)i * D + j] +=
                    weight * by[i] * by[j] - (double)turned[i] * by[j] - (double)by[i] * turned[j];
    }
}

enum err statistics_head(const struct statistics *statistics, int layer, int kv_head,
                         struct statistics_moments *out, struct err_info *info)
{
    const struct kv_shape *shape = &statistics->options.shape;
    const struct head_sums *sums = &statistics->sums[layer * shape->n_kv_heads + kv_head];
    int D = shape->head_dim;
    double weight = 0, shift_sum[KV_MAX_HEAD_DIM] = {0};
    float shift[KV_MAX_HEAD_DIM];
    for (int o = 0; o < statistics->options.frame_tokens; o++) {
        weight += sums->offset_weight[o];
        for (int c = 0; c < D; c++) shift_sum[c] += sums->offset_keys[(size_t)o * D + c];
    }
    if (!(weight > 0) || !isfinite(weight) || !(sums->value_weight > 0))
        return err_set(
            info, ERR_FORMAT,
            "calibration: layer %d, KV head %d: no key is read quantized, or attention is not finite", layer,
            kv_head);
    out->key_harm = sums->key_harm;
    out->value_harm = sums->harm_squares;
    for (int c = 0; c < D; c++) {
        shift[c] = (float)(shift_sum[c] / weight);
        out->key_mean[c] = sums->center[c] + shift_sum[c] / weight;
        out->value_mean[c] = sums->values[c] / sums->value_weight;
        out->value_harm +=
            out->value_mean[c] * (sums->harm_weight * out->value_mean[c] - 2 * sums->harm_values[c]);
    }
    memcpy(out->key_cov, sums->key_cov, (size_t)D * D * sizeof *out->key_cov);
    cov_shift(statistics, sums, shift, out->key_cov);
    for (int i = 0; i < D * D; i++) {
        out->key_cov[i] /= weight;
        out->query_cov[i] = sums->query_cov[i] / weight;
    }
    return ERR_OK;
}
