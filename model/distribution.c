#include "model/distribution.h"

#include "kernels/cpu/exp.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, BINS = 1024, FEW = 256 };

bool distribution_init(struct distribution *distribution, int n)
{
    int n_blocks = (n + DISTRIBUTION_BLOCK - 1) / DISTRIBUTION_BLOCK;
    *distribution = (struct distribution){.n = n, .n_blocks = n_blocks};
    distribution->block_max = malloc((size_t)n_blocks * sizeof(float));
    distribution->block_mass = malloc((size_t)n_blocks * sizeof(double));
    distribution->weights = malloc((size_t)n * sizeof(float));
    distribution->candidates = malloc((size_t)n * sizeof(struct candidate));
    distribution->scratch = malloc((size_t)n * sizeof(struct candidate));
    return distribution->block_max && distribution->block_mass && distribution->weights &&
           distribution->candidates && distribution->scratch;
}

void distribution_free(struct distribution *distribution)
{
    free(distribution->block_max);
    free(distribution->block_mass);
    free(distribution->weights);
    free(distribution->candidates);
    free(distribution->scratch);
    *distribution = (struct distribution){0};
}

/* Written so that loops over it become vector instructions. */
static inline float clean(float logit)
{
    float low = logit == logit ? logit : -INFINITY;
    return low < FLT_MAX ? low : FLT_MAX;
}

float distribution_clean(float logit)
{
    return clean(logit);
}

/* exp(x) for x <= 0 as in kernels/cpu/exp.h, but with a product and a sum where that has a fused one, which
   is a slow call where the instruction cannot be counted on. n * EXP_LN2_HI is exact all the same. Below -87:
   0. */
static inline float exp_negative(float x)
{
    float bounded = x > EXP_LOWEST ? x : EXP_LOWEST;
    float shifted = bounded * EXP_LOG2E + EXP_ROUND;
    float n = shifted - EXP_ROUND;
    float r = (bounded - n * EXP_LN2_HI) - n * EXP_LN2_LO;
    float p = EXP_C6 * r + EXP_C5;
    p = p * r + EXP_C4;
    p = p * r + EXP_C3;
    p = p * r + EXP_C2;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t shifted_bits, bits;
    memcpy(&shifted_bits, &shifted, sizeof bits);
    memcpy(&bits, &p, sizeof bits);
    bits += shifted_bits << 23;
    memcpy(&p, &bits, sizeof p);
    return x < EXP_LOWEST ? 0.0f : p;
}

static int block_begin(int block)
{
    return block * DISTRIBUTION_BLOCK;
}

static int block_end(const struct distribution *distribution, int block)
{
    int end = block_begin(block) + DISTRIBUTION_BLOCK;
    return end < distribution->n ? end : distribution->n;
}

static float block_scan(const float *logits, int n)
{
    float lanes[LANES], max = -INFINITY;
    for (int l = 0; l < LANES; l++) lanes[l] = -INFINITY;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float value = clean(logits[i + l]);
            lanes[l] = value > lanes[l] ? value : lanes[l];
        }
    for (; i < n; i++) lanes[0] = clean(logits[i]) > lanes[0] ? clean(logits[i]) : lanes[0];
    for (int l = 0; l < LANES; l++) max = lanes[l] > max ? lanes[l] : max;
    return max;
}

void distribution_scan(struct distribution *distribution, const float *logits)
{
    distribution->logits = logits;
    distribution->max = -INFINITY;
    distribution->n_candidates = 0;
    for (int block = 0; block < distribution->n_blocks; block++) {
        int begin = block_begin(block);
        float max = block_scan(logits + begin, block_end(distribution, block) - begin);
        distribution->block_max[block] = max;
        if (max > distribution->max) distribution->max = max;
    }
}

int32_t distribution_best(const struct distribution *distribution)
{
    if (distribution->max == -INFINITY) return 0;
    int block = 0;
    while (distribution->block_max[block] != distribution->max) block++;
    int32_t token = block_begin(block);
    while (clean(distribution->logits[token]) != distribution->max) token++;
    return token;
}

/* One more, with a higher id than those before, for the k best of which there are n; how many there are then.
 */
static inline int best_insert(struct candidate *best, int n, int k, struct candidate candidate)
{
    if (n == k && !(candidate.logit > best[n - 1].logit)) return n;
    int at = n < k ? n++ : n - 1;
    for (; at > 0 && best[at - 1].logit < candidate.logit; at--) best[at] = best[at - 1];
    best[at] = candidate;
    return n;
}

int distribution_top(const struct distribution *distribution, int k, struct candidate *best)
{
    int n = 0;
    for (int block = 0; k > 0 && block < distribution->n_blocks; block++) {
        if (n == k && !(distribution->block_max[block] > best[n - 1].logit)) continue;
        for (int32_t token = block_begin(block); token < block_end(distribution, block); token++) {
            float logit = clean(distribution->logits[token]);
            if (logit == -INFINITY) continue;
            n = best_insert(best, n, k, (struct candidate){.logit = logit, .token = token});
        }
    }
    return n;
}

/* ---- Weights ---- */

static inline __attribute__((always_inline)) double weigh(const float *logits, int n, float max, float scale,
                                                          float *restrict weights)
{
    double lanes[LANES] = {0}, mass = 0;
    for (int i = 0; i < n; i++) weights[i] = exp_negative((clean(logits[i]) - max) * scale);
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lanes[l] += (double)weights[i + l];
    for (; i < n; i++) lanes[0] += (double)weights[i];
    for (int l = 0; l < LANES; l++) mass += lanes[l];
    return mass;
}

/* The same source for two vector widths: the operations and their order, so the bits too, are the same. */
#ifdef __x86_64__
static __attribute__((target("avx2"))) double block_weigh_wide(const float *logits, int n, float max,
                                                               float scale, float *weights)
{
    return weigh(logits, n, max, scale, weights);
}
#endif

static double block_weigh(const float *logits, int n, float max, float scale, float *weights)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) return block_weigh_wide(logits, n, max, scale, weights);
#endif
    return weigh(logits, n, max, scale, weights);
}

void distribution_weigh(struct distribution *distribution, float temperature)
{
    float scale = 1.0f / temperature;
    distribution->mass = 0;
    for (int block = 0; block < distribution->n_blocks; block++) {
        int begin = block_begin(block), n = block_end(distribution, block) - begin;
        double mass = 0;
        if ((distribution->block_max[block] - distribution->max) * scale < EXP_LOWEST)
            memset(distribution->weights + begin, 0, (size_t)n * sizeof(float));
        else
            mass = block_weigh(distribution->logits + begin, n, distribution->max, scale,
                               distribution->weights + begin);
        distribution->block_mass[block] = mass;
        distribution->mass += mass;
    }
}

double distribution_log_sum(struct distribution *distribution, const float *logits)
{
    distribution_scan(distribution, logits);
    distribution_weigh(distribution, 1);
    return distribution->max + log(distribution->mass);
}

double distribution_weigh_candidates(struct distribution *distribution, float temperature)
{
    float scale = 1.0f / temperature;
    double mass = 0;
    for (int i = 0; i < distribution->n_candidates; i++) {
        struct candidate *candidate = &distribution->candidates[i];
        candidate->weight = exp_negative((candidate->logit - distribution->max) * scale);
        mass += (double)candidate->weight;
    }
    return mass;
}

double distribution_keep_weight(struct distribution *distribution, float least)
{
    int kept = 0;
    double mass = 0;
    for (int i = 0; i < distribution->n_candidates; i++) {
        struct candidate candidate = distribution->candidates[i];
        if (candidate.weight < least) continue;
        distribution->candidates[kept++] = candidate;
        mass += (double)candidate.weight;
    }
    distribution->n_candidates = kept;
    return mass;
}

/* ---- Selection ---- */

static bool is_better(const struct candidate *a, const struct candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->token < b->token;
}

static void swap(struct candidate *a, struct candidate *b)
{
    struct candidate kept = *a;
    *a = *b;
    *b = kept;
}

/* Puts those of list[begin..end) that are better than one of the middle before it, the others after; its
 * index. */
static int list_partition(struct candidate *list, int begin, int end)
{
    int middle = begin + (end - begin) / 2, last = end - 1;
    if (is_better(&list[middle], &list[begin])) swap(&list[middle], &list[begin]);
    if (is_better(&list[last], &list[begin])) swap(&list[last], &list[begin]);
    if (is_better(&list[last], &list[middle])) swap(&list[last], &list[middle]);
    swap(&list[middle], &list[last]); /* the median waits at the end */
    int place = begin;
    for (int i = begin; i < last; i++)
        if (is_better(&list[i], &list[last])) swap(&list[i], &list[place++]);
    swap(&list[place], &list[last]);
    return place;
}

/* The last of the smallest set of best members whose weights sum to at least mass; the worst of all when they
   do not. The list is put in another order. */
static struct candidate list_select_mass(struct candidate *list, int n, double mass)
{
    int begin = 0, end = n;
    struct candidate bound = list[0];
    double before = 0; /* weight of everything better than list[begin..end) */
    while (begin < end) {
        int place = list_partition(list, begin, end);
        double upper = before;
        for (int i = begin; i < place; i++) upper += (double)list[i].weight;
        if (upper >= mass && place > begin) {
            end = place;
            continue;
        }
        bound = list[place];
        before = upper + (double)bound.weight;
        if (before >= mass) break;
        begin = place + 1;
    }
    return bound;
}

static inline int bin_of(float below_best, float scale)
{
    int bin = (int)(below_best * scale);
    return bin < BINS ? bin : BINS - 1;
}

/* Copy into scratch those candidates among which the bound of `mass` lies; their number. *before: the weight
   of the better ones. A histogram of logits spares a long list the search. */
static int candidates_narrow(struct distribution *distribution, double mass, double *before)
{
    const struct candidate *list = distribution->candidates;
    int n = distribution->n_candidates;
    float best = list[0].logit, worst = list[0].logit;
    for (int i = 1; i < n; i++) {
        best = list[i].logit > best ? list[i].logit : best;
        worst = list[i].logit < worst ? list[i].logit : worst;
    }
    *before = 0;
    float range = best - worst;
    if (n < FEW || !(range > 0) || !(range < FLT_MAX)) {
        memcpy(distribution->scratch, list, (size_t)n * sizeof *list);
        return n;
    }
    double bins[BINS] = {0};
    float scale = (float)BINS / range;
    for (int i = 0; i < n; i++) bins[bin_of(best - list[i].logit, scale)] += (double)list[i].weight;
    int bin = 0, found = 0;
    while (bin < BINS - 1 && *before + bins[bin] < mass) *before += bins[bin++];
    for (int i = 0; i < n; i++)
        if (bin_of(best - list[i].logit, scale) == bin) distribution->scratch[found++] = list[i];
    return found;
}

void distribution_keep_mass(struct distribution *distribution, double mass)
{
    if (distribution->n_candidates == 0) return;
    double before = 0;
    int n = candidates_narrow(distribution, mass, &before);
    struct candidate bound = list_select_mass(distribution->scratch, n, mass - before);
    int kept = 0;
    for (int i = 0; i < distribution->n_candidates; i++) {
        struct candidate candidate = distribution->candidates[i];
        distribution->candidates[kept] = candidate;
        kept += (candidate.logit > bound.logit) |
                ((candidate.logit == bound.logit) & (candidate.token <= bound.token));
    }
    distribution->n_candidates = kept;
}

void distribution_gather(struct distribution *distribution, float threshold)
{
    if (!(threshold > -FLT_MAX)) threshold = -FLT_MAX; /* never the impossible */
    int n = 0;
    for (int block = 0; block < distribution->n_blocks; block++) {
        if (distribution->block_max[block] < threshold) continue;
        for (int32_t token = block_begin(block); token < block_end(distribution, block); token++) {
            float logit = clean(distribution->logits[token]);
            distribution->candidates[n] = (struct candidate){.logit = logit, .token = token};
            n += logit >= threshold; /* a branch here would be a coin toss */
        }
    }
    distribution->n_candidates = n;
}

/* The k best of the candidates. */
static void keep_best(struct distribution *distribution, int k)
{
    if (distribution->n_candidates <= k) return;
    for (int i = 0; i < distribution->n_candidates; i++) distribution->candidates[i].weight = 1;
    distribution_keep_mass(distribution, k);
}

void distribution_gather_top(struct distribution *distribution, int k, float threshold)
{
    /* k blocks have a maximum at or above the k-th largest maximum, so at least k logits are there. */
    if (k < distribution->n_blocks) {
        for (int block = 0; block < distribution->n_blocks; block++)
            distribution->scratch[block] =
                (struct candidate){.logit = distribution->block_max[block], .weight = 1, .token = block};
        float bound = list_select_mass(distribution->scratch, distribution->n_blocks, k).logit;
        if (bound > threshold) threshold = bound;
    }
    distribution_gather(distribution, threshold);
    keep_best(distribution, k);
}

void distribution_gather_share(struct distribution *distribution, double share, float temperature)
{
    double wanted = share * distribution->mass;
    /* Most of the time the few likeliest tokens hold enough. */
    static const float nats[] = {DISTRIBUTION_NATS_NEAR, DISTRIBUTION_NATS_FAR, INFINITY};
    for (int i = 0; i < 3; i++) {
        distribution_gather(distribution, distribution->max - nats[i] * temperature);
        double mass = 0;
        for (int c = 0; c < distribution->n_candidates; c++) {
            struct candidate *candidate = &distribution->candidates[c];
            candidate->weight = distribution->weights[candidate->token];
            mass += (double)candidate->weight;
        }
        if (mass >= wanted) break;
    }
    distribution_keep_mass(distribution, wanted);
}

/* ---- Of a row elsewhere ---- */

void distribution_know(struct distribution *distribution, float max, double mass)
{
    distribution->logits = NULL;
    distribution->max = max;
    distribution->mass = mass;
    distribution->n_candidates = 0;
}

void distribution_gather_listed(struct distribution *distribution, const struct backend_listed *list, int n,
                                float threshold)
{
    int kept = 0;
    for (int i = 0; i < n; i++) {
        distribution->candidates[kept] = (struct candidate){.logit = list[i].logit, .token = list[i].token};
        kept += list[i].logit >= threshold;
    }
    distribution->n_candidates = kept;
}

void distribution_top_listed(struct distribution *distribution, const struct backend_listed *list, int n,
                             int k, float threshold)
{
    distribution_gather_listed(distribution, list, n, threshold);
    keep_best(distribution, k);
}

bool distribution_share_listed(struct distribution *distribution, const struct backend_answer *answer,
                               double share, float temperature)
{
    static const float nats[] = {DISTRIBUTION_NATS_NEAR, DISTRIBUTION_NATS_FAR};
    double wanted = share * distribution->mass;
    for (int i = 0; i < 2; i++) {
        float threshold = distribution->max - nats[i] * temperature;
        if (threshold < answer->threshold) return false; /* the list is shorter */
        distribution_gather_listed(distribution, answer->list, answer->n, threshold);
        if (distribution_weigh_candidates(distribution, temperature) < wanted) continue;
        distribution_keep_mass(distribution, wanted);
        return true;
    }
    return false;
}

/* ---- Draws ---- */

int32_t distribution_draw_candidates(const struct distribution *distribution, double u)
{
    const struct candidate *candidates = distribution->candidates;
    double mass = 0, at = 0;
    for (int i = 0; i < distribution->n_candidates; i++) mass += (double)candidates[i].weight;
    int32_t token = 0;
    for (int i = 0; i < distribution->n_candidates; i++) {
        if (candidates[i].weight == 0) continue;
        token = candidates[i].token;
        at += (double)candidates[i].weight;
        if (at > u * mass) break;
    }
    return token;
}

int32_t distribution_draw_all(const struct distribution *distribution, double u)
{
    double wanted = u * distribution->mass, at = 0;
    int block = 0, last = 0;
    for (; block < distribution->n_blocks; block++) {
        if (distribution->block_mass[block] > 0) last = block;
        if (at + distribution->block_mass[block] > wanted) break;
        at += distribution->block_mass[block];
    }
    if (block == distribution->n_blocks) block = last; /* rounding: u * mass reached the end */
    int32_t token = 0;
    for (int32_t i = block_begin(block); i < block_end(distribution, block); i++) {
        if (distribution->weights[i] == 0) continue;
        token = i;
        at += (double)distribution->weights[i];
        if (at > wanted) break;
    }
    return token;
}

/* ---- What was drawn from ---- */

double distribution_drawn_mass(const struct distribution *distribution)
{
    if (distribution->n_candidates == 0) return distribution->mass;
    double mass = 0;
    for (int i = 0; i < distribution->n_candidates; i++) mass += (double)distribution->candidates[i].weight;
    return mass;
}

float distribution_drawn_weight(const struct distribution *distribution, int32_t token)
{
    if (distribution->n_candidates == 0) return distribution->weights[token];
    for (int i = 0; i < distribution->n_candidates; i++)
        if (distribution->candidates[i].token == token) return distribution->candidates[i].weight;
    return 0;
}

int distribution_drawn_top(const struct distribution *distribution, int k, struct candidate *best)
{
    int n = 0;
    if (k <= 0) return 0;
    if (distribution->n_candidates == 0) {
        n = distribution_top(distribution, k, best);
        for (int i = 0; i < n; i++) best[i].weight = distribution->weights[best[i].token];
    } else {
        for (int i = 0; i < distribution->n_candidates; i++)
            n = best_insert(best, n, k, distribution->candidates[i]);
    }
    while (n > 0 && best[n - 1].weight == 0) n--;
    return n;
}
