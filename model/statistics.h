#ifndef MODEL_STATISTICS_H
#define MODEL_STATISTICS_H

#include "config/err.h"
#include "kernels/kv_page.h"

/*
 * What calibration learns of one layer: attention-weighted moments of keys, queries and values (design 2.2).
 *
 * With P the attention of query i on key t, counted only where the key is read quantized (t before i's own
 * block, not a sink), a key weighs sum_i P(1-P), a query weighs the same sum over the keys of a frame, a
 * value weighs sum_i P^2: first-order, how much an error there moves the output. The reference is
 * lab/kvlab.py's calibrate in NumPy terms; tests/model/test_calibration.py repeats it in float64.
 */
struct workers;

struct statistics_input {
    const struct kv_shape *shape;
    int n_sequences, n_tokens; /* every sequence has n_tokens, positions 0..n_tokens-1 */
    int frame_tokens, sink_tokens;
    float scale;           /* of the scores, 1/sqrt(head_dim) */
    const float *q;        /* [sequences][tokens][heads][head_dim] after RoPE */
    const float *k;        /* [sequences][tokens][kv_heads][head_dim] after RoPE */
    const float *v;        /* [sequences][tokens][kv_heads][head_dim] */
    const float *rope_cos; /* [n_tokens][head_dim/2], position t */
    const float *rope_sin;
};

struct statistics_head {
    double *key_mean;   /* [head_dim] before RoPE */
    double *value_mean; /* [head_dim] */
    double *key_cov;    /* [head_dim][head_dim] of R_o(key - mean), o the offset in its frame */
    double *query_cov;  /* [head_dim][head_dim] of queries as frames see them; the group's heads summed */
};

/* heads [n_kv_heads], their arrays allocated by the caller. Parallel over sequences and heads; the result
   does not depend on the number of workers. ERR_MEMORY; ERR_FORMAT when no key is ever read quantized
   (sequences shorter than two blocks). */
enum err statistics_collect(struct workers *workers, const struct statistics_input *input,
                            struct statistics_head *heads, struct err_info *info);

#endif
