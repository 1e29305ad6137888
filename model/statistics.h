#ifndef MODEL_STATISTICS_H
#define MODEL_STATISTICS_H

#include "config/err.h"
#include "kernels/kv_page.h"

/*
 * What calibration learns: attention-weighted moments of keys, queries and values (design 2.2).
 *
 * With P the attention of query i on key t, counted only where the key is read quantized (t before i's own
 * block, not a sink), a key weighs sum_i P(1-P), a query weighs the same sum over the keys of a frame, a
 * value weighs sum_i P^2: to first order, how much an error there moves the output. What such errors do to
 * the stream that the output is added to tells heads and layers apart (key_harm, value_harm).
 *
 * Sequences stream through, layer by layer; nothing of them is kept. The covariance is about a mean known
 * only at the end, and keys are seen rotated by their offset o in a frame, so the sums are taken about the
 * first sequence's mean (close enough that no digits are lost) together with sum w and sum w k for every
 * offset, from which the shift to the final mean is exact.
 */
struct workers;
struct statistics;

struct statistics_options {
    struct kv_shape shape;
    int max_tokens;   /* longest sequence */
    int frame_tokens; /* a multiple of KV_BLOCK_TOKENS */
    int sink_tokens;
    const double *inv_freq; /* [head_dim/2], copied */
};

enum err statistics_create(const struct statistics_options *options, struct statistics **out,
                           struct err_info *info);
void statistics_free(struct statistics *statistics);

/* One layer of one sequence, positions 0..n_tokens-1. Arrays as in struct model_attention; gram
   [heads][head_dim][head_dim]: W^T W of the columns W of the output matrix that read a head. Parallel over
   heads; the result does not depend on the number of workers. */
struct statistics_layer {
    int layer, n_tokens;
    const float *q, *k, *v, *o, *gram;
};
void statistics_add(struct statistics *statistics, struct workers *workers,
                    const struct statistics_layer *layer);

/* One head after all sequences, the query heads of its group summed. */
struct statistics_moments {
    double *key_mean, *value_mean; /* [head_dim], the key's before RoPE */
    double *key_cov;               /* [head_dim][head_dim] of R_o(key - mean) */
    double *query_cov;             /* [head_dim][head_dim] of queries as frames see them */
    /* Sums over queries and keys of P^2 times |W (value - output)|^2, what an error of 1 in the score moves
       the stream by, and of P^2 |W|^2 |value - mean|^2 / head_dim, the same for an error as large as the
       value in a random direction. */
    double key_harm, value_harm;
};

/* Fills the arrays, which are the caller's. ERR_FORMAT when no key was ever read quantized or something is
   not finite. */
enum err statistics_head(const struct statistics *statistics, int layer, int kv_head,
                         struct statistics_moments *out, struct err_info *info);

#endif
