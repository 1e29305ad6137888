#include "model/statistics.h"

#include "kernels/workers.h"
#include "model/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Per (sequence, kv head): its share of the sums, added up in the order of sequences afterwards. */
struct share {
    float *key_weight;   /* [tokens] */
    float *value_weight; /* [tokens] */
    float *query_cov;    /* [head_dim][head_dim] */
    float *key_cov;      /* [head_dim][head_dim] */
};

/* Per worker. */
struct scratch {
    float *scores;  /* [KV_BLOCK_TOKENS][tokens] */
    float *rotated; /* [tokens or KV_BLOCK_TOKENS][head_dim] */
};

struct collect {
    const struct statistics_input *in;
    struct statistics_head *heads;
    struct share *shares;    /* [sequences][kv_heads] */
    struct scratch *scratch; /* [workers] */
};

static size_t row_offset(const struct statistics_input *in, int sequence, int token, int n_heads, int head)
{
    return (((size_t)sequence * in->n_tokens + token) * n_heads + head) * in->shape->head_dim;
}

/* out = weight * R_{-position} x */
static void unrotate(const struct statistics_input *in, const float *x, int position, float weight,
                     float *out)
{
    int half = in->shape->head_dim / 2;
    const float *cosine = in->rope_cos + (size_t)position * half,
                *sine = in->rope_sin + (size_t)position * half;
    for (int i = 0; i < half; i++) {
        out[i] = weight * (x[i] * cosine[i] + x[i + half] * sine[i]);
        out[i + half] = weight * (x[i + half] * cosine[i] - x[i] * sine[i]);
    }
}

/* Softmax of the rows of one query block over keys 0..own token, then P where the key is read quantized, 0
   elsewhere; n_keys = the block's first token. */
static void block_attention(const struct statistics_input *in, int sequence, int head, int block,
                            float *scores)
{
    const struct kv_shape *shape = in->shape;
    int first = block * KV_BLOCK_TOKENS, T = in->n_tokens, D = shape->head_dim;
    int rows = T - first < KV_BLOCK_TOKENS ? T - first : KV_BLOCK_TOKENS;
    int group = shape->n_heads / shape->n_kv_heads;
    linalg_gemm_f32(false, true, rows, first + rows, D, in->scale,
                    in->q + row_offset(in, sequence, first, shape->n_heads, head), shape->n_heads * D,
                    in->k + row_offset(in, sequence, 0, shape->n_kv_heads, head / group),
                    shape->n_kv_heads * D, 0, scores, T);
    for (int r = 0; r < rows; r++) {
        float *row = scores + (size_t)r * T, largest = -INFINITY, sum = 0;
        for (int t = 0; t <= first + r; t++) largest = fmaxf(largest, row[t]);
        for (int t = 0; t <= first + r; t++) {
            row[t] = expf(row[t] - largest);
            sum += row[t];
        }
        for (int t = 0; t < first; t++) row[t] = t < in->sink_tokens ? 0 : row[t] / sum;
    }
}

/* Adds one query block of one head to its share. */
static void block_add(const struct statistics_input *in, int sequence, int head, int block,
                      struct scratch *scratch, struct share *share)
{
    int first = block * KV_BLOCK_TOKENS, T = in->n_tokens, D = in->shape->head_dim;
    int rows = T - first < KV_BLOCK_TOKENS ? T - first : KV_BLOCK_TOKENS;
    block_attention(in, sequence, head, block, scratch->scores);
    for (int frame = 0; frame * in->frame_tokens < first; frame++) {
        int begin = frame * in->frame_tokens,
            end = begin + in->frame_tokens < first ? begin + in->frame_tokens : first;
        for (int r = 0; r < rows; r++) {
            const float *p = scratch->scores + (size_t)r * T;
            float mass = 0;
            for (int t = begin; t < end; t++) {
                float z = p[t] * (1 - p[t]);
                mass += z;
                share->key_weight[t] += z;
                share->value_weight[t] += p[t] * p[t];
            }
            unrotate(in, in->q + row_offset(in, sequence, first + r, in->shape->n_heads, head), begin,
                     sqrtf(mass), scratch->rotated + (size_t)r * D);
        }
        linalg_gemm_f32(true, false, D, D, rows, 1, scratch->rotated, D, scratch->rotated, D, 1,
                        share->query_cov, D);
    }
}

static void item_weights(void *context, int item, int worker)
{
    struct collect *collect = context;
    const struct statistics_input *in = collect->in;
    int n_kv_heads = in->shape->n_kv_heads, group = in->shape->n_heads / n_kv_heads;
    int sequence = item / n_kv_heads, kv_head = item % n_kv_heads;
    int n_blocks = (in->n_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    for (int g = 0; g < group; g++)
        for (int block = 1; block < n_blocks; block++)
            block_add(in, sequence, kv_head * group + g, block, &collect->scratch[worker],
                      &collect->shares[item]);
}

/* Weighted covariance of this sequence's keys about the mean, seen in their frames. */
static void item_key_cov(void *context, int item, int worker)
{
    struct collect *collect = context;
    const struct statistics_input *in = collect->in;
    int n_kv_heads = in->shape->n_kv_heads, D = in->shape->head_dim, half = D / 2;
    int sequence = item / n_kv_heads, kv_head = item % n_kv_heads;
    struct share *share = &collect->shares[item];
    float *rows = collect->scratch[worker].rotated, mean[KV_MAX_HEAD_DIM], turned[KV_MAX_HEAD_DIM];
    for (int c = 0; c < D; c++) mean[c] = (float)collect->heads[kv_head].key_mean[c];
    for (int t = 0; t < in->n_tokens; t++) {
        int offset = t % in->frame_tokens;
        const float *cosine = in->rope_cos + (size_t)offset * half,
                    *sine = in->rope_sin + (size_t)offset * half;
        float *row = rows + (size_t)t * D, weight = sqrtf(share->key_weight[t]);
        unrotate(in, in->k + row_offset(in, sequence, t, n_kv_heads, kv_head), t - offset, 1, turned);
        for (int i = 0; i < half; i++) {
            row[i] = weight * (turned[i] - (mean[i] * cosine[i] - mean[i + half] * sine[i]));
            row[i + half] = weight * (turned[i + half] - (mean[i] * sine[i] + mean[i + half] * cosine[i]));
        }
    }
    linalg_gemm_f32(true, false, D, D, in->n_tokens, 1, rows, D, rows, D, 0, share->key_cov, D);
}

/* Means of one head from all sequences' weights; returns the sum of key weights. */
static double head_means(const struct collect *collect, int kv_head)
{
    const struct statistics_input *in = collect->in;
    const struct statistics_head *head = &collect->heads[kv_head];
    int n_kv_heads = in->shape->n_kv_heads, D = in->shape->head_dim;
    double key_sum = 0, value_sum = 0;
    memset(head->key_mean, 0, (size_t)D * sizeof *head->key_mean);
    memset(head->value_mean, 0, (size_t)D * sizeof *head->value_mean);
    for (int s = 0; s < in->n_sequences; s++) {
        const struct share *share = &collect->shares[s * n_kv_heads + kv_head];
        for (int t = 0; t < in->n_tokens; t++) {
            float key[KV_MAX_HEAD_DIM];
            size_t offset = row_offset(in, s, t, n_kv_heads, kv_head);
            double key_weight = share->key_weight[t], value_weight = share->value_weight[t];
            unrotate(in, in->k + offset, t, 1, key);
            for (int c = 0; c < D; c++) {
                head->key_mean[c] += key_weight * key[c];
                head->value_mean[c] += value_weight * in->v[offset + c];
            }
            key_sum += key_weight;
            value_sum += value_weight;
        }
    }
    for (int c = 0; c < D; c++) {
        head->key_mean[c] /= key_sum > 0 ? key_sum : 1;
        head->value_mean[c] /= value_sum > 0 ? value_sum : 1;
    }
    return key_sum;
}

static void head_covariances(const struct collect *collect, int kv_head, double key_sum)
{
    const struct statistics_input *in = collect->in;
    const struct statistics_head *head = &collect->heads[kv_head];
    int square = in->shape->head_dim * in->shape->head_dim;
    for (int i = 0; i < square; i++) {
        double key = 0, query = 0;
        for (int s = 0; s < in->n_sequences; s++) {
            const struct share *share = &collect->shares[s * in->shape->n_kv_heads + kv_head];
            key += share->key_cov[i];
            query += share->query_cov[i];
        }
        head->key_cov[i] = key / key_sum;
        head->query_cov[i] = query / key_sum;
    }
}

static enum err collect_run(struct workers *workers, struct collect *collect, struct err_info *info)
{
    const struct statistics_input *in = collect->in;
    int n_items = in->n_sequences * in->shape->n_kv_heads;
    double key_sums[256];
    workers_run(workers, n_items, item_weights, collect);
    for (int h = 0; h < in->shape->n_kv_heads; h++) {
        key_sums[h] = head_means(collect, h);
        if (!(key_sums[h] > 0) || !isfinite(key_sums[h]))
            return err_set(info, ERR_FORMAT,
                           "calibration: kv head %d: no key is read quantized, or attention is not "
                           "finite (weight %g)",
                           h, key_sums[h]);
    }
    workers_run(workers, n_items, item_key_cov, collect);
    for (int h = 0; h < in->shape->n_kv_heads; h++) head_covariances(collect, h, key_sums[h]);
    return ERR_OK;
}

enum err statistics_collect(struct workers *workers, const struct statistics_input *input,
                            struct statistics_head *heads, struct err_info *info)
{
    size_t T = (size_t)input->n_tokens, D = (size_t)input->shape->head_dim;
    size_t n_items = (size_t)input->n_sequences * input->shape->n_kv_heads,
           n_workers = (size_t)workers_count(workers);
    size_t per_item = 2 * T + 2 * D * D;
    size_t rotated = (T > KV_BLOCK_TOKENS ? T : KV_BLOCK_TOKENS) * D,
           per_worker = KV_BLOCK_TOKENS * T + rotated;
    if (input->shape->n_kv_heads > 256) return err_set(info, ERR_UNSUPPORTED, "more than 256 KV heads");
    struct collect collect = {.in = input, .heads = heads};
    float *memory = calloc(n_items * per_item + n_workers * per_worker, sizeof *memory);
    collect.shares = calloc(n_items, sizeof *collect.shares);
    collect.scratch = calloc(n_workers, sizeof *collect.scratch);
    enum err err = ERR_OK;
    if (memory == NULL || collect.shares == NULL || collect.scratch == NULL) {
        err = err_set(info, ERR_MEMORY, "calibration statistics: out of memory");
        goto out;
    }
    float *next = memory;
    for (size_t i = 0; i < n_items; i++, next += per_item)
        collect.shares[i] = (struct share){next, next + T, next + 2 * T, next + 2 * T + D * D};
    for (size_t i = 0; i < n_workers; i++, next += per_worker)
        collect.scratch[i] = (struct scratch){next, next + KV_BLOCK_TOKENS * T};
    linalg_single_thread();
    err = collect_run(workers, &collect, info);
out:
    free(collect.scratch);
    free(collect.shares);
    free(memory);
    return err;
}
