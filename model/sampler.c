#include "model/sampler.h"

#include "model/distribution.h"
#include "model/philox.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Below this temperature every other token has no weight worth a draw; vLLM draws the line there too. */
#define GREEDY_BELOW 1e-5f

static const uint32_t SEEN = 1u << 31;

struct sampler {
    struct distribution distribution;
    float *logits;   /* [n_vocab] the row with bias, penalties and mask */
    uint32_t *marks; /* [n_vocab] zero between draws: SEEN, and how often in the output */
};

struct sampler *sampler_create(int n_vocab)
{
    assert(n_vocab > 0);
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (!sampler) return NULL;
    sampler->logits = malloc((size_t)n_vocab * sizeof *sampler->logits);
    sampler->marks = calloc((size_t)n_vocab, sizeof *sampler->marks);
    if (!distribution_init(&sampler->distribution, n_vocab) || !sampler->logits || !sampler->marks) {
        sampler_free(sampler);
        return NULL;
    }
    return sampler;
}

void sampler_free(struct sampler *sampler)
{
    if (!sampler) return;
    distribution_free(&sampler->distribution);
    free(sampler->logits);
    free(sampler->marks);
    free(sampler);
}

/* ---- Logprobs, of the row as the model gave it ---- */

struct reference {
    float max;
    double log_mass;
};

static float logprob(const struct reference *reference, float logit)
{
    float clean = distribution_clean(logit);
    if (clean == -INFINITY) return -INFINITY;
    return (float)((double)clean - (double)reference->max - reference->log_mass);
}

/* The row is scanned; weighs it at temperature 1. */
static struct reference reference_take(struct distribution *distribution, int n_logprobs,
                                       struct sampler_result *out)
{
    if (distribution->max == -INFINITY) return (struct reference){.max = 0};
    distribution_weigh(distribution, 1.0f);
    struct reference reference = {.max = distribution->max, .log_mass = log(distribution->mass)};
    struct candidate best[SAMPLER_MAX_LOGPROBS];
    int k = n_logprobs < SAMPLER_MAX_LOGPROBS ? n_logprobs : SAMPLER_MAX_LOGPROBS;
    out->n_top = distribution_top(distribution, k, best);
    for (int i = 0; i < out->n_top; i++) {
        out->top_token[i] = best[i].token;
        out->top_logprob[i] = logprob(&reference, best[i].logit);
    }
    return reference;
}

/* ---- Bias and penalties ---- */

static bool is_penalized(const struct sampler_params *params)
{
    return params->repetition_penalty != 1 || params->presence_penalty != 0 || params->frequency_penalty != 0;
}

static void mark(struct sampler *sampler, const int32_t *tokens, int n, uint32_t count)
{
    for (int i = 0; i < n; i++)
        if (tokens[i] >= 0 && tokens[i] < sampler->distribution.n)
            sampler->marks[tokens[i]] = (sampler->marks[tokens[i]] | SEEN) + count;
}

/* Each token once; its mark is taken away. */
static void penalize(struct sampler *sampler, const struct sampler_params *params, const int32_t *tokens,
                     int n)
{
    for (int i = 0; i < n; i++) {
        int32_t token = tokens[i];
        if (token < 0 || token >= sampler->distribution.n || !sampler->marks[token]) continue;
        uint32_t count = sampler->marks[token] & ~SEEN;
        float logit = sampler->logits[token];
        logit = logit > 0 ? logit / params->repetition_penalty : logit * params->repetition_penalty;
        logit -= params->frequency_penalty * (float)count;
        if (count > 0) logit -= params->presence_penalty;
        sampler->logits[token] = logit;
        sampler->marks[token] = 0;
    }
}

/* ---- Mask ---- */

/* to [n] becomes from, with minus infinity for what is not allowed; they may be the same. On the bits of
   floats, four at a time, because that becomes vector instructions everywhere. */
static void word_mask(float *to, const float *from, uint32_t word)
{
    static const uint32_t keep[16][4] = {
#define LANES(b)                                                                                             \
    {b & 1 ? UINT32_MAX : 0, b & 2 ? UINT32_MAX : 0, b & 4 ? UINT32_MAX : 0, b & 8 ? UINT32_MAX : 0}
        LANES(0), LANES(1), LANES(2),  LANES(3),  LANES(4),  LANES(5),  LANES(6),  LANES(7),
        LANES(8), LANES(9), LANES(10), LANES(11), LANES(12), LANES(13), LANES(14), LANES(15)};
#undef LANES
    static const uint32_t impossible = 0xFF800000; /* minus infinity */
    for (int i = 0; i < 32; i += 4) {
        uint32_t bits[4];
        memcpy(bits, from + i, sizeof bits);
        for (int l = 0; l < 4; l++) {
            uint32_t mask = keep[word >> i & 15][l];
            bits[l] = (bits[l] & mask) | (impossible & ~mask);
        }
        memcpy(to + i, bits, sizeof bits);
    }
}

static void row_mask(float *to, const float *from, const uint32_t *allowed, int n)
{
    int whole = n & ~31;
    for (int begin = 0; begin < whole; begin += 32) word_mask(to + begin, from + begin, allowed[begin >> 5]);
    for (int i = whole; i < n; i++) to[i] = allowed[i >> 5] >> (i & 31) & 1 ? from[i] : -INFINITY;
}

static int32_t mask_first(const uint32_t *allowed, int n)
{
    for (int i = 0; i < n; i++)
        if (allowed[i >> 5] >> (i & 31) & 1) return i;
    return 0;
}

/* The row with bias, penalties and mask; logits itself when there are none. */
static const float *row_adjust(struct sampler *sampler, const struct sampler_params *params,
                               const float *logits, const uint32_t *allowed, const int32_t *prompt,
                               int n_prompt, const int32_t *output, int n_output)
{
    bool penalized = is_penalized(params) && n_prompt + n_output > 0;
    if (params->n_bias == 0 && !penalized) {
        if (!allowed) return logits;
        row_mask(sampler->logits, logits, allowed, sampler->distribution.n);
        return sampler->logits;
    }
    memcpy(sampler->logits, logits, (size_t)sampler->distribution.n * sizeof *logits);
    for (int i = 0; i < params->n_bias; i++) {
        int32_t token = params->bias[i].token;
        if (token >= 0 && token < sampler->distribution.n) sampler->logits[token] += params->bias[i].bias;
    }
    if (penalized) {
        mark(sampler, prompt, n_prompt, 0);
        mark(sampler, output, n_output, 1);
        penalize(sampler, params, prompt, n_prompt);
        penalize(sampler, params, output, n_output);
    }
    if (allowed) row_mask(sampler->logits, sampler->logits, allowed, sampler->distribution.n);
    return sampler->logits;
}

/* ---- The draw ---- */

/* What limits a draw. */
struct limits {
    bool by_k, by_min, by_share;
};

static struct limits limits_of(const struct sampler_params *params, int n_vocab)
{
    return (struct limits){.by_k = params->top_k > 0 && params->top_k<n_vocab, .by_min = params->min_p> 0,
                           .by_share = params->top_p < 1};
}

/* How far below the largest logit min_p lets tokens be. A little low, because logarithms differ between
   machines: the weights decide. */
static float min_depth(const struct sampler_params *params)
{
    return params->min_p > 0 ? params->temperature * (logf(params->min_p) - 0.01f) : -INFINITY;
}

/* Among the candidates that min_p or top_k left. */
static int32_t candidates_draw(struct distribution *distribution, const struct sampler_params *params,
                               double u)
{
    double mass = distribution_weigh_candidates(distribution, params->temperature);
    if (params->min_p > 0) mass = distribution_keep_weight(distribution, params->min_p);
    if (params->top_p < 1) distribution_keep_mass(distribution, (double)params->top_p * mass);
    return distribution_draw_candidates(distribution, u);
}

static int32_t row_draw(struct distribution *distribution, const struct sampler_params *params, double u)
{
    float temperature = params->temperature;
    struct limits limits = limits_of(params, distribution->n);
    if (!limits.by_k && !limits.by_min) {
        distribution_weigh(distribution, temperature);
        if (!limits.by_share) return distribution_draw_all(distribution, u);
        distribution_gather_share(distribution, (double)params->top_p, temperature);
        return distribution_draw_candidates(distribution, u);
    }
    float threshold = distribution->max + min_depth(params);
    if (limits.by_k)
        distribution_gather_top(distribution, params->top_k, threshold);
    else
        distribution_gather(distribution, threshold);
    return candidates_draw(distribution, params, u);
}

/* Logprobs of what the token was drawn from, which is as the draw left it. */
static void drawn_take(const struct distribution *distribution, const struct sampler_params *params,
                       struct sampler_result *out)
{
    struct candidate best[SAMPLER_MAX_LOGPROBS];
    bool possible = distribution->max != -INFINITY;
    int k = params->n_logprobs < SAMPLER_MAX_LOGPROBS ? params->n_logprobs : SAMPLER_MAX_LOGPROBS;
    out->logprob = possible ? 0 : -INFINITY;
    if (!possible) return;
    if (!(params->temperature >= GREEDY_BELOW)) {
        out->n_top = k > 0;
        out->top_token[0] = out->token;
        out->top_logprob[0] = 0;
        return;
    }
    double log_mass = log(distribution_drawn_mass(distribution));
    out->logprob = (float)(log((double)distribution_drawn_weight(distribution, out->token)) - log_mass);
    out->n_top = distribution_drawn_top(distribution, k, best);
    for (int i = 0; i < out->n_top; i++) {
        out->top_token[i] = best[i].token;
        out->top_logprob[i] = (float)(log((double)best[i].weight) - log_mass);
    }
}

void sampler_draw(struct sampler *sampler, const struct sampler_params *params, const float *logits,
                  const uint32_t *allowed, const int32_t *prompt, int n_prompt, const int32_t *output,
                  int n_output, struct sampler_result *out)
{
    struct distribution *distribution = &sampler->distribution;
    out->logprob = 0;
    out->n_top = 0;
    const float *row = row_adjust(sampler, params, logits, allowed, prompt, n_prompt, output, n_output);
    struct reference reference = {0};
    bool own = params->n_logprobs >= 0 && !params->drawn_logprobs;
    if (own) {
        distribution_scan(distribution, logits);
        reference = reference_take(distribution, params->n_logprobs, out);
    }
    if (!own || row != logits) distribution_scan(distribution, row);
    if (distribution->max == -INFINITY)
        out->token = allowed ? mask_first(allowed, distribution->n) : 0;
    else if (!(params->temperature >= GREEDY_BELOW))
        out->token = distribution_best(distribution);
    else
        out->token = row_draw(distribution, params, philox_uniform(params->seed, (uint64_t)n_output));
    if (own)
        out->logprob = logprob(&reference, logits[out->token]);
    else if (params->n_logprobs >= 0)
        drawn_take(distribution, params, out);
}

/* ---- From what a device tells of a row ---- */

void sampler_wish(const struct sampler_params *params, int n_vocab, bool is_masked, int n_output,
                  struct backend_wish *out)
{
    struct limits limits = limits_of(params, n_vocab);
    float temperature = params->temperature;
    *out = (struct backend_wish){.kind = BACKEND_ROW};
    if (is_masked || params->n_bias > 0 || params->n_logprobs >= 0 || is_penalized(params)) return;
    if (!(temperature >= GREEDY_BELOW)) {
        out->kind = BACKEND_BEST;
        return;
    }
    out->scale = 1.0f / temperature;
    out->u = philox_uniform(params->seed, (uint64_t)n_output);
    if (limits.by_k || limits.by_min) {
        if (limits.by_k && params->top_k > BACKEND_LISTED) return;
        out->kind = BACKEND_LIST;
        out->top_k = limits.by_k ? params->top_k : 0;
        out->depth[0] = out->depth[1] = min_depth(params);
    } else if (limits.by_share) {
        out->kind = BACKEND_LIST;
        out->is_weighed = true;
        out->depth[0] = -(DISTRIBUTION_NATS_FAR * temperature);
        out->depth[1] = -(DISTRIBUTION_NATS_NEAR * temperature);
    } else {
        out->kind = BACKEND_DRAW;
    }
}

bool sampler_draw_answer(struct sampler *sampler, const struct sampler_params *params,
                         const struct backend_answer *answer, int n_output, struct sampler_result *out)
{
    struct distribution *distribution = &sampler->distribution;
    struct limits limits = limits_of(params, distribution->n);
    if (answer->n < 0) return false;
    *out = (struct sampler_result){.token = answer->token};
    if (answer->max == -INFINITY) out->token = 0;
    if (answer->max == -INFINITY || !answer->list) return true;
    double u = philox_uniform(params->seed, (uint64_t)n_output);
    distribution_know(distribution, answer->max, answer->mass);
    if (limits.by_k || limits.by_min) {
        float threshold = distribution->max + min_depth(params);
        if (limits.by_k)
            distribution_top_listed(distribution, answer->list, answer->n, params->top_k, threshold);
        else
            distribution_gather_listed(distribution, answer->list, answer->n, threshold);
        out->token = candidates_draw(distribution, params, u);
        return true;
    }
    if (!distribution_share_listed(distribution, answer, (double)params->top_p, params->temperature))
        return false;
    out->token = distribution_draw_candidates(distribution, u);
    return true;
}

void sampler_score(struct sampler *sampler, int n_logprobs, const float *logits, int32_t token,
                   struct sampler_result *out)
{
    assert(token >= 0 && token < sampler->distribution.n);
    out->token = token;
    out->n_top = 0;
    distribution_scan(&sampler->distribution, logits);
    struct reference reference = reference_take(&sampler->distribution, n_logprobs, out);
    out->logprob = logprob(&reference, logits[token]);
}
