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
    float *logits;   /* [n_vocab] the row with bias and penalties */
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

/* The row with bias and penalties; logits itself when there are none. */
static const float *row_adjust(struct sampler *sampler, const struct sampler_params *params,
                               const float *logits, const int32_t *prompt, int n_prompt,
                               const int32_t *output, int n_output)
{
    bool penalized = is_penalized(params) && n_prompt + n_output > 0;
    if (params->n_bias == 0 && !penalized) return logits;
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
    return sampler->logits;
}

/* ---- The draw ---- */

static int32_t row_draw(struct distribution *distribution, const struct sampler_params *params, double u)
{
    float temperature = params->temperature;
    bool by_k = params->top_k > 0 && params->top_k < distribution->n;
    bool by_min = params->min_p > 0;
    bool by_share = params->top_p < 1;
    if (!by_k && !by_min) {
        distribution_weigh(distribution, temperature);
        if (!by_share) return distribution_draw_all(distribution, u);
        distribution_gather_share(distribution, (double)params->top_p, temperature);
        return distribution_draw_candidates(distribution, u);
    }
    /* A little low, because logarithms differ between machines: the weights decide. */
    float threshold = by_min ? distribution->max + temperature * (logf(params->min_p) - 0.01f) : -INFINITY;
    if (by_k)
        distribution_gather_top(distribution, params->top_k, threshold);
    else
        distribution_gather(distribution, threshold);
    double mass = distribution_weigh_candidates(distribution, temperature);
    if (by_min) mass = distribution_keep_weight(distribution, params->min_p);
    if (by_share) distribution_keep_mass(distribution, (double)params->top_p * mass);
    return distribution_draw_candidates(distribution, u);
}

void sampler_draw(struct sampler *sampler, const struct sampler_params *params, const float *logits,
                  const int32_t *prompt, int n_prompt, const int32_t *output, int n_output,
                  struct sampler_result *out)
{
    struct distribution *distribution = &sampler->distribution;
    out->logprob = 0;
    out->n_top = 0;
    const float *row = row_adjust(sampler, params, logits, prompt, n_prompt, output, n_output);
    struct reference reference = {0};
    if (params->n_logprobs >= 0) {
        distribution_scan(distribution, logits);
        reference = reference_take(distribution, params->n_logprobs, out);
    }
    if (params->n_logprobs < 0 || row != logits) distribution_scan(distribution, row);
    if (!(params->temperature >= GREEDY_BELOW) || distribution->max == -INFINITY)
        out->token = distribution_best(distribution);
    else
        out->token = row_draw(distribution, params, philox_uniform(params->seed, (uint64_t)n_output));
    if (params->n_logprobs >= 0) out->logprob = logprob(&reference, logits[out->token]);
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
