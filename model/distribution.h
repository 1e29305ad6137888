#ifndef MODEL_DISTRIBUTION_H
#define MODEL_DISTRIBUTION_H

#include "kernels/choice.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * A row of logits as a distribution: its largest value, its weights exp((logit - largest) / temperature), and
 * its best tokens without sorting the vocabulary. The maximum of every 64 logits is kept, so that what looks
 * for large values passes over most of the row.
 *
 * A NaN counts as minus infinity, plus infinity as the largest finite number. "Better" is a strict order: the
 * larger logit, of equals the lower id. Sums run in one fixed order and the exponential is plain arithmetic
 * without fused operations, so every machine gives the same bits.
 */
enum { DISTRIBUTION_BLOCK = 64 };

struct candidate {
    float logit;
    float weight;
    int32_t token;
};

struct distribution {
    int n;
    int n_blocks;
    const float *logits;          /* [n] of the caller, from distribution_scan on */
    float *block_max;             /* [n_blocks] */
    float max;                    /* -infinity when no token is possible */
    float *weights;               /* [n], from distribution_weigh on */
    double *block_mass;           /* [n_blocks] sums of weights */
    double mass;                  /* sum of all weights */
    struct candidate *candidates; /* [n] by increasing id */
    struct candidate *scratch;    /* [n] */
    int n_candidates;
};

/* False when memory is short; distribution_free then too. */
bool distribution_init(struct distribution *distribution, int n);
void distribution_free(struct distribution *distribution);

/* A value of the row as it counts. */
float distribution_clean(float logit);

/* Take logits [n], which must stay, and find the maxima. */
void distribution_scan(struct distribution *distribution, const float *logits);
/* The best token of the row scanned; 0 when none is possible. */
int32_t distribution_best(const struct distribution *distribution);
/* The best tokens of the row scanned, best first, into best[k]; their number (impossible ones are left out).
 */
int distribution_top(const struct distribution *distribution, int k, struct candidate *best);

/* weights, block_mass and mass at this temperature (> 0). */
void distribution_weigh(struct distribution *distribution, float temperature);
/* Scan and weigh logits at temperature 1: log of the sum of exp(logit). A logit less this is a log
   probability. */
double distribution_log_sum(struct distribution *distribution, const float *logits);

/* Candidates become the tokens with logit >= threshold; without weights. */
void distribution_gather(struct distribution *distribution, float threshold);
/* The k best of the candidates that distribution_gather(threshold) would give; without weights. */
void distribution_gather_top(struct distribution *distribution, int k, float threshold);
/* The smallest set of best tokens that holds `share` of the mass; needs distribution_weigh at this
 * temperature. */
void distribution_gather_share(struct distribution *distribution, double share, float temperature);
/* The same for a row that lies on a device (kernels/choice.h): its largest value and the sum of its weights,
   in place of distribution_scan and distribution_weigh; then candidates out of a list [n] of all tokens at or
   above some logit, by increasing id. share_listed: false when those would not do. */
void distribution_know(struct distribution *distribution, float max, double mass);
void distribution_gather_listed(struct distribution *distribution, const struct backend_listed *list, int n,
                                float threshold);
void distribution_top_listed(struct distribution *distribution, const struct backend_listed *list, int n,
                             int k, float threshold);
bool distribution_share_listed(struct distribution *distribution, const struct backend_answer *answer,
                               double share, float temperature);
/* How far below the largest value a list for share_listed reaches, at first and at last. */
enum { DISTRIBUTION_NATS_NEAR = 4, DISTRIBUTION_NATS_FAR = 12 };
/* Give the candidates their weights at this temperature; their sum. */
double distribution_weigh_candidates(struct distribution *distribution, float temperature);
/* Keep the candidates of at least this weight; the sum of theirs. */
double distribution_keep_weight(struct distribution *distribution, float least);
/* Keep the smallest set of best candidates whose weights sum to at least `mass` (all when they do not). */
void distribution_keep_mass(struct distribution *distribution, double mass);

/* The token in which u (in [0, 1)) falls, when tokens lie side by side by id, each as wide as its weight: of
   the candidates, or of the whole row weighed. */
int32_t distribution_draw_candidates(const struct distribution *distribution, double u);
int32_t distribution_draw_all(const struct distribution *distribution, double u);

/* What the last draw was made from, the candidates or, when there are none, the whole row weighed: the sum of
   its weights, the weight of one token, and its best tokens, as distribution_top, but with weights, and
   without those of no weight. */
double distribution_drawn_mass(const struct distribution *distribution);
float distribution_drawn_weight(const struct distribution *distribution, int32_t token);
int distribution_drawn_top(const struct distribution *distribution, int k, struct candidate *best);

#endif
