#ifndef MODEL_STATISTICS_H
#define MODEL_STATISTICS_H

#include "config/err.h"
#include "kernels/kv_page.h"

/*
 * What calibration learns: attention-weighted moments of keys, queries and values (design 2.2).
 *
 * With P the attention of query i on key t, counted only where the key is read quantized (t before i's own
 * block, not a sink), a key weighs sum_i P(1-P), a query weighs the same sum over the keys of a frame, a
 * value weighs sum_i P^2: to first order, how much an error there moves the output.
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

/* One layer of one sequence, positions 0..n_tokens-1. q [n_tokens][heads][head_dim] and k
   [n_tokens][kv_heads][head_dim] after RoPE, v [n_tokens][kv_heads][head_dim]. Parallel over heads; the
   result does not depend on the number of workers. */
void statistics_add(struct statistics *statistics, struct workers *workers, int layer, int n_tokens,
                    const float *q, const float *k, const float *v);

/* One head after all sequences: means [head_dim] (the key's before RoPE), key_cov [head_dim][head_dim] of
   R_o(key - mean), query_cov [head_dim][head_dim] of queries as frames see them, the group's heads summed.
   ERR_FORMAT when no key was ever read quantized or something is not finite. */
enum err statistics_head(const struct statistics *statistics, int layer, int kv_head, double *key_mean,
                         double *value_mean, double *key_cov, double *query_cov, struct err_info *info);

#endif
