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
 *   1. the sinks of its blocks before own, block by block (f16 keys and values); not when all_f16
 *   2. its blocks before own, in codes (sinks masked out), or in f16 when all_f16
 *   3. own, if it is in the segment: f16, tokens up to i
 * each one step of an online softmax over at most 64 tokens:
 *
 *   score_t      f16:   a chain of fmaf(q_c, k_c, .) in increasing c
 *                coded: (2 isum - (2^b - 1) sum q8) * (scale_t * q8_scale); plus the mean's score, one fmaf
 *   max'         = max(max, score_0..63); when it grew, sums and outputs are multiplied by exp2(max - max')
 *   p_t          = exp2(score_t - max'), 0 for masked tokens
 *   sum         += the sum of p: sixteen lanes (t mod 16), increasing, folded by 8, 4, 2, 1
 *   out          f16:   out_half_d = fmaf(p_t, v_td, .) in increasing t, live tokens only
 *                coded: w_t = p_t * scale_t as u8 (w8_t = rint(w_t * (255 / max w))),
 *                       out_coded_d = fmaf(2 isum - (2^b - 1) sum w8, max w / 255 / 2, .)
 *
 * The mean's score, <q_frame, R_o mean>, is sum_i c_i cos(o w_i), then + s_i sin(o w_i), chains of fmaf over
 * the pairs i in increasing order, with c = q_i mean_i + q_j mean_j, s = q_j mean_i - q_i mean_j, j = i +
 * head_dim/2.
 *
 * q8: on entering a frame, the query is turned back by the frame's angle, transformed and rounded to int8:
 * rint(q'_c * (127 / amax)), q8_scale = amax / 127 / 2. isum are exact integers. Segments are merged in order
 * (state_merge), then out = (out_half + H^T out_coded + mean * coded_sum) * (1 / sum).
 *
 * The segments make one long sequence a job for many workers; nothing else depends on them.
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

/* How 4 codes of a column quad are found in a page (kernels/kv_page.h). */
enum code_reading {
    CODES_4,      /* 4 bits */
    CODES_2,      /* 2 bits */
    CODES_4_AS_2, /* 4 bits, each mapped to its 2-bit code */
};

/* The rows a worker has in hand. Arrays per row and channel are [n_rows][head_dim], per row and token
 * [n_rows][64]. */
struct attention_tile {
    int n_rows, head_dim;
    float *q;       /* times scale * log2 e */
    float *q_frame; /* the same, turned back by the frame's angle */
    float *mixed;   /* and transformed: q'; at the end H^T out_coded */
    int8_t *q8;
    float *scores; /* then p */
    uint8_t *w8;
    float *out_half, *out_coded;
    float *mean_factors; /* [n_rows][head_dim]: of the cosines of each pair, then of the sines */
    float *mean_scores;
    float q8_scale[ATTENTION_TILE_ROWS]; /* half the step of q8 */
    int32_t q8_sum[ATTENTION_TILE_ROWS];
    float w8_scale[ATTENTION_TILE_ROWS]; /* half the step of w8 */
    int32_t w8_sum[ATTENTION_TILE_ROWS];
    float max[ATTENTION_TILE_ROWS];
    float sum[ATTENTION_TILE_ROWS];
    float coded_sum[ATTENTION_TILE_ROWS]; /* of p over coded tokens: what the value mean is multiplied by */
};

struct attention_kernels {
    /* Each of n_rows rows: out_j = sum_i x_i matrix[i][j] (fmaf, increasing i), or the fast Hadamard when
       matrix is NULL. */
    void (*transform)(const float *x, const float *matrix, int n, int n_rows, float *out);
    /* q -> q_frame, q8, q8_scale, q8_sum. cosines, sines [head_dim/2]: the frame's angle. */
    void (*query_frame)(struct attention_tile *tile, const float *cosines, const float *sines,
                        const float *matrix);
    /* scores of all rows; keys [head_dim][64]. Tokens from n_tokens on may be left undefined. */
    void (*scores_half)(struct attention_tile *tile, const uint16_t *keys, int n_tokens);
    /* mean_factors -> mean_scores. cosines, sines [head_dim/2][stride]: angles of the block's 64 offsets. */
    void (*scores_mean)(struct attention_tile *tile, const float *cosines, const float *sines, int stride);
    /* scales [64]; mean_scores: tile->mean_scores or NULL. */
    void (*scores_coded)(struct attention_tile *tile, const uint8_t *codes, enum code_reading reading,
                         const uint16_t *scales, const float *mean_scores);
    /* One softmax step of some rows; `live` has a bit for every token that counts. value_scales [64]: also
       make w8, w8_scale and w8_sum; NULL for f16. */
    void (*softmax)(struct attention_tile *tile, int first_row, int n_rows, uint64_t live,
                    const uint16_t *value_scales);
    /* values [n_tokens][head_dim] */
    void (*values_half)(struct attention_tile *tile, int first_row, int n_rows, const uint16_t *values,
                        int n_tokens);
    void (*values_coded)(struct attention_tile *tile, const uint8_t *codes, enum code_reading reading);
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
