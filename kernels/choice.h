#ifndef KERNELS_CHOICE_H
#define KERNELS_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * What the host wants to know of a row of logits that lies on a device, so that the row need not be brought
 * over: as little as a draw needs to fall on the very token that model/sampler.h draws from the whole row.
 * Logits count as model/distribution.h says (a NaN is minus infinity), sums and weights are its own to the
 * bit, and "better" is the larger logit, of equals the lower id.
 */
enum backend_wish_kind {
    BACKEND_ROW,  /* the row */
    BACKEND_BEST, /* the best token */
    BACKEND_DRAW, /* the token in which u falls when all lie side by side by id, as wide as their weights */
    BACKEND_LIST, /* the tokens at or above a threshold */
};

enum { BACKEND_LISTED = 2048 }; /* most tokens of a list */

struct backend_wish {
    enum backend_wish_kind kind;
    float scale;     /* 1 / temperature: of weights, exp((logit - largest) * scale) */
    bool is_weighed; /* of a list: the sum of all weights is wanted */
    int top_k;       /* of a list: at least the k best, if no depth forbids it, and not many more; 0: all */
    float depth[2];  /* of a list: the threshold is no lower than the largest logit plus this (0 or below);
                        the second is taken when the first gives too many tokens */
    double u;        /* of a draw, in [0, 1) */
};

struct backend_listed {
    float logit;
    int32_t token;
};

/* Of a row without any possible token max is minus infinity, and there is nothing else. */
struct backend_answer {
    int32_t token;   /* best or drawn */
    int n;           /* tokens of the list; -1: more than it holds, and of any wish: the row is needed */
    float max;       /* the largest logit */
    float threshold; /* of the list, which has every token at or above it */
    double mass;     /* of a draw or a weighed list: sum of all weights */
    const struct backend_listed
        *list; /* [n] by increasing id; the backend's, valid until it is asked again */
};

#endif
