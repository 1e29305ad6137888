#ifndef MODEL_SAMPLER_H
#define MODEL_SAMPLER_H

#include "config/err.h"
#include "kernels/choice.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * From logits to a token. Order, as vLLM and OpenAI's API have it: logit_bias, then penalties (repetition,
 * presence, frequency), then the mask of a grammar, then temperature, then min_p, top_k, top_p on the
 * tempered distribution, then one draw. temperature 0 (or anything below 1e-5) is greedy: the largest logit,
 * lowest id among equals.
 *
 * min_p keeps tokens at least min_p times as likely as the likeliest; top_k exactly k tokens, the lower ids
 * among equals; top_p the smallest set of likeliest tokens that holds that share of what min_p and top_k
 * left. The tokens kept lie side by side by id on [0, 1), each as wide as its probability, and the draw is
 * the one in which the random number falls.
 *
 * A NaN logit counts as minus infinity (impossible), plus infinity as the largest finite number. When no
 * token is possible the result is token 0 with logprob minus infinity and no alternatives. A bias is added,
 * whatever its size: -100 makes a token impossible in practice only. The same logits give the same token on
 * every machine.
 *
 * Randomness is a counter-based generator (Philox 4x32-10): the draw for output position i of a sequence is a
 * function of (seed, i) alone, so the same seed gives the same tokens whatever else is in the batch.
 */
enum { SAMPLER_MAX_LOGPROBS = 20 };

struct sampler_bias {
    int32_t token;
    float bias;
};

struct sampler_params {
    float temperature;        /* 0: greedy */
    float top_p;              /* (0, 1]; 1: off */
    int top_k;                /* 0 or less: off */
    float min_p;              /* [0, 1); 0: off */
    float repetition_penalty; /* 1: off; counts prompt and output */
    float presence_penalty;   /* 0: off; counts output only, as do vLLM and OpenAI */
    float frequency_penalty;
    uint64_t seed;
    const struct sampler_bias *bias;
    int n_bias;
    int n_logprobs; /* -1: none wanted; 0: the chosen token's only; up to SAMPLER_MAX_LOGPROBS alternatives */
    bool
        drawn_logprobs; /* those of the distribution that the draw is made from, instead of the model's own */
};

struct sampler_result {
    int32_t token;
    float logprob; /* of the model's own distribution (before bias, penalties and temperature), like OpenAI's,
                      or with drawn_logprobs of what is left of it in the end, where greedy choice is certain;
                      0 when none is wanted, minus infinity for a token whose logit is */
    int n_top;
    int32_t top_token[SAMPLER_MAX_LOGPROBS]; /* largest first */
    float top_logprob[SAMPLER_MAX_LOGPROBS];
};

/* Scratch of one worker thread, allocated once. NULL when memory is short. */
struct sampler;
struct sampler *sampler_create(int n_vocab);
void sampler_free(struct sampler *sampler);

/* allowed: NULL, or a bit for each token, t & 31 of allowed[t >> 5]: the others are impossible, whatever bias
   and penalties say, and the draw is made among those that are left; when none of them is possible the result
   is the lowest of them, or token 0 when there are none. Logprobs and alternatives are those of the whole row
   all the same.
   prompt and output: the sequence's tokens so far (for penalties; ids outside the vocabulary do not count).
   The draw is number n_output. logits [n_vocab] is not changed. Allocates nothing. */
void sampler_draw(struct sampler *sampler, const struct sampler_params *params, const float *logits,
                  const uint32_t *allowed, const int32_t *prompt, int n_prompt, const int32_t *output,
                  int n_output, struct sampler_result *out);
/* The same draw from a row that lies on a device. sampler_wish: what must be known of it; the whole row with
   bias, penalties, a mask or logprobs. sampler_draw_answer: the token, of a wish for less than the row; false
   when the row is needed after all (then *out is undefined). */
void sampler_wish(const struct sampler_params *params, int n_vocab, bool is_masked, int n_output,
                  struct backend_wish *out);
bool sampler_draw_answer(struct sampler *sampler, const struct sampler_params *params,
                         const struct backend_answer *answer, int n_output, struct sampler_result *out);
/* Logprob of a given token and its n_logprobs alternatives, for echoing a prompt's logprobs. */
void sampler_score(struct sampler *sampler, int n_logprobs, const float *logits, int32_t token,
                   struct sampler_result *out);

#endif
