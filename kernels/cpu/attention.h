#ifndef KERNELS_CPU_ATTENTION_H
#define KERNELS_CPU_ATTENTION_H

#include "kernels/backend.h"

/*
 * Attention over paged keys and values. Prefill and decode are one algorithm, defined per query row (one
 * token, one query head) and in exact fp32 operations, so that neither the batch, nor the chunk a row arrives
 * in, nor the instruction set, nor the number of workers can change a bit of its result.
 *
 * Query row at position i, own = i / 64, q scaled by scale * log2 e. Its blocks fall into segments of 16
 * (block b is in segment b / 16). Each segment starts fresh and walks, in this order,
 *   1. the sinks of its blocks before own, block by block (f16 keys and values); not without a codec
 *   2. its blocks before own, in codes (sinks masked out), or in f16 without a codec
 *   3. own, if it is in the segment: f16, tokens up to i
 * each one step of an online softmax over at most 64 tokens:
 *
 *   score_t      f16:   a chain of fmaf(q_c, k_c, .) in increasing c
 *                coded: below
 *   max'         = max(max, score_0..63); when it grew, sums and outputs are multiplied by exp2(max - max')
 *   p_t          = exp2(score_t - max'), 0 for masked tokens
 *   sum         += the sum of p: sixteen lanes (t mod 16), increasing, folded by 8, 4, 2, 1
 *   out          f16:   out_half_d = fmaf(p_t, v_td, .) in increasing t, live tokens only
 *                coded: below
 *
 * A coded block is read with the first P of its parts: all of the codec's while it is recent, n_old_parts
 * later. Level p of a channel is 2u - M, M = 8 where part p has 1 bit for its group g, 15 where it has 2 or
 * 4 (kernels/kv_codec.h); groups without bits take no part. The scales are those of part P - 1.
 *
 *   keys    factor_pg = key_unit_p[g] * key_gain_(P-1)[g]; x = q'_c * factor_pg, amax_p = max |x|,
 *           q8_c = rint(x * (127 / amax_p)), q8_scale_p = amax_p * (1 / 127)
 *           level_p = 2 sum_c u q8_c - sum_c M q8_c, an exact integer
 *           s = fmaf(level_p, q8_scale_p, s) in increasing p, from 0
 *           score_t = s * scale_t, or fmaf(s, scale_t, the mean's score)
 *   values  w = p_t * scale_t, w8_t = rint(w * (255 / max w)), w8_scale = max w * (1 / 255)
 *           step_pg = w8_scale * (value_unit_p[g] * value_gain_(P-1)[g])
 *           out_coded_d = fmaf(2 sum_t u w8_t - M sum_t w8_t, step_pg, out_coded_d) in increasing p
 *
 * q' is the query in the frame: turned back by the frame's angle (q_frame), then transformed. q8 belongs to a
 * frame and a P; q' stays when only P changes.
 *
 * The mean's score, <q_frame, R_o mean>, comes for a whole frame at once (kernels/kv_mean.h). With m the mean
 * turned to the frame's centre (a cos - b sin, b cos + a sin) and j = i + head_dim/2, pair i counts c_i = q_i
 * m_i + q_j m_j cosines and s_i = q_j m_i - q_i m_j sines. The slow pairs become terms: chains of fmaf over
 * i, in increasing order. E(s) is a chain over the fast c_i, then the even terms, O(s) over the fast s_i,
 * then the odd terms; the scores are E + O after the centre and E - O before it.
 *
 * Segments are merged in order (state_merge), then out = (out_half + H^T out_coded + mean * coded_sum) * (1 /
 * sum). They make one long sequence a job for many workers; nothing else depends on them.
 */

enum {
    ATTENTION_TILE_ROWS =
        96, /* rows (tokens x query heads of one KV head) that share one pass over the keys */
    ATTENTION_SEGMENT_BLOCKS = 16,
};

/* 2^f on [-1/2, 1/2] as a polynomial with c0 = 1, least relative error (9e-8), Horner's scheme with fmaf. */
#define ATTENTION_EXP2_C1 0x1.62e42ap-1f
#define ATTENTION_EXP2_C2 0x1.ebf9bcp-3f
#define ATTENTION_EXP2_C3 0x1.c6b752p-5f
#define ATTENTION_EXP2_C4 0x1.3cea88p-7f
#define ATTENTION_EXP2_C5 0x1.5bba14p-10f

/* Below this the largest of a row's values is zero, lest its reciprocal overflow. */
#define ATTENTION_TINY 1e-30f

/* x <= 0; 0 below -126 and for NaN. */
float attention_exp2(float x);

/* How a part codes the channels: so many groups of 4 bits, then of 2, then of 1, then none. */
struct attention_groups {
    int n_fours, n_twos, n_ones;
    float factor[KV_MAX_CODE_GROUPS]; /* unit of the part times gain of all parts that are read */
};

/* A page of codes as it is read: which parts, and what stands where in the block of each. */
struct attention_reading {
    int n_parts;
    int n_columns; /* of the keys; beyond, no part of the codec has bits */
    struct attention_part {
        size_t keys_at, values_at, scales_at, end; /* scales: [64] of keys, [64] of values */
        struct attention_groups keys, values;
    } parts[KV_MAX_PARTS];
};

/* Where column c stands in a vector of bytes that is multiplied with codes: the order in which the columns of
   a group come out of a word (kernels/kv_codec.h). Its own inverse. */
static inline int attention_column_place(int c)
{
    return (c & ~15) | (c & 3) << 2 | (c >> 2 & 3);
}

/* The rows a worker has in hand. Arrays per row and channel are [n_rows][head_dim], per row and token
 * [n_rows][64]. */
struct attention_tile {
    int n_rows, head_dim;
    float *q;                 /* times scale * log2 e */
    float *q_frame;           /* the same, turned back by the frame's angle */
    float *mixed;             /* and transformed: q'; at the end H^T out_coded */
    int8_t *q8[KV_MAX_PARTS]; /* columns in their places (attention_column_place) */
    float *scores;            /* then p */
    uint8_t *w8;              /* tokens in their places */
    float *out_half, *out_coded;
    float *mean_factors; /* [n_rows][head_dim]: of the cosines of each pair, then of the sines */
    float *mean_scores;  /* [n_rows][KV_FRAME_TOKENS] */
    float q8_scale[KV_MAX_PARTS][ATTENTION_TILE_ROWS];
    int32_t q8_offset[KV_MAX_PARTS][ATTENTION_TILE_ROWS]; /* sum of M q8 */
    float w8_scale[ATTENTION_TILE_ROWS];
    int32_t w8_sum[ATTENTION_TILE_ROWS];
    float max[ATTENTION_TILE_ROWS];
    float sum[ATTENTION_TILE_ROWS];
    float coded_sum[ATTENTION_TILE_ROWS]; /* of p over coded tokens: what the value mean is multiplied by */
};

struct attention_kernels {
    /* Each of n_rows rows: out_j = sum_i x_i matrix[i][j] (fmaf, increasing i), or the fast Hadamard when
       matrix is NULL. */
    void (*transform)(const float *x, const float *matrix, int n, int n_rows, float *out);
    /* q -> q_frame, mixed. cosines, sines [head_dim/2]: the frame's angle. Of mixed only n_columns are
       needed, a multiple of 16. */
    void (*query_frame)(struct attention_tile *tile, const float *cosines, const float *sines,
                        const float *matrix, int n_columns);
    /* mixed -> q8, q8_scale, q8_offset. */
    void (*query_quantize)(struct attention_tile *tile, const struct attention_reading *reading);
    /* scores of all rows; keys [head_dim][64]. Tokens from n_tokens on may be left undefined. */
    void (*scores_half)(struct attention_tile *tile, const uint16_t *keys, int n_tokens);
    /* mean_factors (which it uses up) -> mean_scores. */
    void (*scores_mean)(struct attention_tile *tile, const struct kv_mean_basis *basis, int frame_tokens);
    /* parts: a block's (struct kv_block_ref); mean_scores: where the block's stand in tile->mean_scores, or
       NULL. */
    void (*scores_coded)(struct attention_tile *tile, const struct attention_reading *reading,
                         char *const *parts, const float *mean_scores);
    /* One softmax step of some rows; `live` has a bit for every token that counts. value_scales [64]: also
       make w8, w8_scale and w8_sum; NULL for f16. */
    void (*softmax)(struct attention_tile *tile, int first_row, int n_rows, uint64_t live,
                    const uint16_t *value_scales);
    /* values [n_tokens][head_dim] */
    void (*values_half)(struct attention_tile *tile, int first_row, int n_rows, const uint16_t *values,
                        int n_tokens);
    void (*values_coded)(struct attention_tile *tile, const struct attention_reading *reading,
                         char *const *parts);
};

extern const struct attention_kernels attention_kernels_scalar, attention_kernels_avx2,
    attention_kernels_avx512;

/* Workers, the chosen kernels and their scratch; nothing is allocated later. NULL when memory is short. */
struct attention;
struct attention *attention_create(struct workers *workers, const struct attention_kernels *kernels);
void attention_free(struct attention *attention);

/* The backend's attention (kernels/backend.h). */
void attention_run(struct attention *attention, const struct attention_args *args);

#endif
