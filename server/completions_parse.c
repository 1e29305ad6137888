#include "server/api_field.h"
#include "server/completions.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum err no_memory(const char *name, struct err_info *info)
{
    return err_set_param(info, ERR_LIMIT, name, "%s is larger than one request may be", name);
}

static enum err parse_tokens(const struct json *array, const char *path, int n_vocab, struct arena *arena,
                             struct completions_prompt *out, struct err_info *info)
{
    size_t n = json_length(array);
    int32_t *tokens = arena_alloc(arena, n, sizeof(*tokens));
    if (!tokens) return no_memory(path, info);
    size_t i = 0;
    for (const struct json *value = json_first(array); value; value = json_next(value), i++) {
        char place[64];
        snprintf(place, sizeof(place), "%.40s[%zu]", path, i);
        enum err err = api_field_token(value, place, n_vocab, &tokens[i], info);
        if (err != ERR_OK) return err;
    }
    *out = (struct completions_prompt){.tokens = tokens, .n_tokens = (int)n};
    return ERR_OK;
}

static enum err parse_prompt(const struct json *value, const char *path, int n_vocab, struct arena *arena,
                             struct completions_prompt *out, struct err_info *info)
{
    if (json_type(value) == JSON_STRING) {
        size_t length;
        const char *text = json_string(value, &length);
        *out = (struct completions_prompt){.text = text, .length = length};
        return ERR_OK;
    }
    if (json_type(value) == JSON_ARRAY && json_length(value) > 0)
        return parse_tokens(value, path, n_vocab, arena, out, info);
    return err_set_param(info, ERR_INVALID, path, "%s must be a string or a non-empty array of token ids",
                         path);
}

/* A string, token ids, an array of strings, an array of arrays of token ids. */
static enum err parse_prompts(const struct json *body, int n_vocab, struct arena *arena,
                              struct completions_params *out, struct err_info *info)
{
    const struct json *value = api_field_given(body, "prompt");
    if (!value) return err_set_param(info, ERR_INVALID, "prompt", "prompt is missing");
    const struct json *first = json_first(value);
    bool many = json_type(value) == JSON_ARRAY && first && json_type(first) != JSON_NUMBER;
    size_t n = many ? json_length(value) : 1;
    if (n > COMPLETIONS_MAX_CHOICES)
        return err_set_param(info, ERR_INVALID, "prompt", "prompt has %zu prompts, at most %d are taken", n,
                             COMPLETIONS_MAX_CHOICES);
    struct completions_prompt *prompts = arena_alloc(arena, n, sizeof(*prompts));
    if (!prompts) return no_memory("prompt", info);
    out->prompts = prompts;
    out->n_prompts = (int)n;
    if (!many) return parse_prompt(value, "prompt", n_vocab, arena, &prompts[0], info);
    size_t i = 0;
    for (const struct json *item = first; item; item = json_next(item), i++) {
        char path[32];
        snprintf(path, sizeof(path), "prompt[%zu]", i);
        if (json_type(item) != json_type(first))
            return err_set_param(info, ERR_INVALID, path, "%s is %s, but prompt[0] is %s", path,
                                 json_type_name(json_type(item)), json_type_name(json_type(first)));
        enum err err = parse_prompt(item, path, n_vocab, arena, &prompts[i], info);
        if (err != ERR_OK) return err;
    }
    return ERR_OK;
}

static enum err parse_stop(const struct json *body, struct arena *arena, struct api_stop *out,
                           struct err_info *info)
{
    const struct json *value = api_field_given(body, "stop");
    if (!value) return ERR_OK;
    bool array = json_type(value) == JSON_ARRAY;
    if (!array && json_type(value) != JSON_STRING)
        return err_set_param(info, ERR_INVALID, "stop",
                             "stop must be a string or an array of strings, not %s",
                             json_type_name(json_type(value)));
    for (const struct json *item = array ? json_first(value) : value; item; item = json_next(item)) {
        if (json_type(item) != JSON_STRING)
            return err_set_param(info, ERR_INVALID, "stop", "stop must hold strings, not %s",
                                 json_type_name(json_type(item)));
        size_t length;
        const char *text = json_string(item, &length);
        enum err err = api_stop_add(out, arena, text, length, info);
        if (err != ERR_OK) return err;
        if (!array) break; /* its next is the next field of the body */
    }
    return ERR_OK;
}

static enum err parse_stop_tokens(const struct json *body, int n_vocab, struct arena *arena,
                                  struct completions_params *out, struct err_info *info)
{
    const struct json *value = api_field_given(body, "stop_token_ids");
    if (!value) return ERR_OK;
    if (json_type(value) != JSON_ARRAY)
        return err_set_param(info, ERR_INVALID, "stop_token_ids",
                             "stop_token_ids must be an array of token ids, not %s",
                             json_type_name(json_type(value)));
    if (json_length(value) == 0) return ERR_OK;
    if (json_length(value) > COMPLETIONS_MAX_STOP_TOKENS)
        return err_set_param(info, ERR_INVALID, "stop_token_ids", "at most %d stop tokens are taken",
                             COMPLETIONS_MAX_STOP_TOKENS);
    struct completions_prompt tokens;
    enum err err = parse_tokens(value, "stop_token_ids", n_vocab, arena, &tokens, info);
    if (err != ERR_OK) return err;
    out->stop_tokens = tokens.tokens;
    out->n_stop_tokens = tokens.n_tokens;
    return ERR_OK;
}

/* A key of logit_bias: decimal digits only. */
static enum err parse_bias_token(const char *key, int n_vocab, int32_t *out, struct err_info *info)
{
    size_t digits = strspn(key, "0123456789");
    long token = digits > 0 && digits < 10 && key[digits] == '\0' ? strtol(key, NULL, 10) : -1;
    if (token < 0 || token >= n_vocab)
        return err_set_param(info, ERR_INVALID, "logit_bias",
                             "logit_bias: '%.40s' is not a token id from 0 to %d", key, n_vocab - 1);
    *out = (int32_t)token;
    return ERR_OK;
}

static enum err parse_bias(const struct json *body, int n_vocab, struct arena *arena,
                           struct sampler_params *out, struct err_info *info)
{
    const struct json *value = api_field_given(body, "logit_bias");
    if (!value) return ERR_OK;
    if (json_type(value) != JSON_OBJECT)
        return err_set_param(info, ERR_INVALID, "logit_bias",
                             "logit_bias must be an object from token ids to numbers, not %s",
                             json_type_name(json_type(value)));
    size_t n = json_length(value);
    if (n == 0) return ERR_OK;
    if (n > COMPLETIONS_MAX_BIAS)
        return err_set_param(info, ERR_INVALID, "logit_bias",
                             "logit_bias has %zu entries, at most %d are taken", n, COMPLETIONS_MAX_BIAS);
    struct sampler_bias *bias = arena_alloc(arena, n, sizeof(*bias));
    if (!bias) return no_memory("logit_bias", info);
    size_t i = 0;
    for (const struct json *item = json_first(value); item; item = json_next(item), i++) {
        enum err err = parse_bias_token(json_key(item), n_vocab, &bias[i].token, info);
        if (err != ERR_OK) return err;
        double number = json_type(item) == JSON_NUMBER ? json_number(item) : NAN;
        if (!(number >= -100 && number <= 100))
            return err_set_param(info, ERR_INVALID, "logit_bias",
                                 "logit_bias of token %d must be a number from -100 to 100", bias[i].token);
        bias[i].bias = (float)number;
    }
    out->bias = bias;
    out->n_bias = (int)n;
    return ERR_OK;
}

/* -1 draws a seed, as vLLM and llama-server have it. */
static enum err parse_seed(const struct json *body, struct completions_params *out, struct err_info *info)
{
    int64_t seed = -1;
    const int64_t limit = (INT64_C(1) << 53) - 1;
    enum err err = api_field_int(body, "seed", -limit, limit, &seed, info);
    if (err != ERR_OK) return err;
    out->seeded = seed != -1;
    out->sampler.seed = (uint64_t)seed;
    return ERR_OK;
}

static enum err parse_sampler(const struct json *body, struct sampler_params *out, struct err_info *info)
{
    double temperature = 1, top_p = 1, min_p = 0, repetition = 1, presence = 0, frequency = 0;
    int64_t top_k = 0, n_logprobs = -1;
    enum err err = api_field_number(body, "temperature", 0, 2, &temperature, info);
    if (err == ERR_OK) err = api_field_number(body, "top_p", 0, 1, &top_p, info);
    if (err == ERR_OK) err = api_field_number(body, "min_p", 0, 1, &min_p, info);
    if (err == ERR_OK) err = api_field_int(body, "top_k", -1, INT32_MAX, &top_k, info);
    if (err == ERR_OK) err = api_field_number(body, "repetition_penalty", 0.01, 100, &repetition, info);
    if (err == ERR_OK) err = api_field_number(body, "presence_penalty", -2, 2, &presence, info);
    if (err == ERR_OK) err = api_field_number(body, "frequency_penalty", -2, 2, &frequency, info);
    if (err == ERR_OK) err = api_field_int(body, "logprobs", 0, SAMPLER_MAX_LOGPROBS, &n_logprobs, info);
    if (err != ERR_OK) return err;
    /* The sampler's ranges are half-open: 0 for top_p and 1 for min_p mean "only the likeliest". */
    out->temperature = (float)temperature;
    out->top_p = top_p > FLT_MIN ? (float)top_p : FLT_MIN;
    out->min_p = min_p < 1 ? fminf((float)min_p, nextafterf(1, 0)) : nextafterf(1, 0);
    out->top_k = (int)top_k;
    out->repetition_penalty = (float)repetition;
    out->presence_penalty = (float)presence;
    out->frequency_penalty = (float)frequency;
    out->n_logprobs = (int)n_logprobs;
    return ERR_OK;
}

static enum err parse_counts(const struct json *body, struct completions_params *out, struct err_info *info)
{
    int64_t n = 1, best_of, max_tokens = COMPLETIONS_DEFAULT_MAX_TOKENS;
    enum err err = api_field_int(body, "n", 1, COMPLETIONS_MAX_N, &n, info);
    best_of = n;
    if (err == ERR_OK) err = api_field_int(body, "best_of", 1, COMPLETIONS_MAX_N, &best_of, info);
    if (err == ERR_OK) err = api_field_int(body, "max_tokens", 0, INT32_MAX, &max_tokens, info);
    if (err != ERR_OK) return err;
    if (best_of != n)
        return err_set_param(info, ERR_INVALID, "best_of", "best_of (%d) other than n (%d) is not supported",
                             (int)best_of, (int)n);
    if (n * out->n_prompts > COMPLETIONS_MAX_CHOICES)
        return err_set_param(info, ERR_INVALID, "n",
                             "n (%d) times the number of prompts (%d) is more than %d", (int)n,
                             out->n_prompts, COMPLETIONS_MAX_CHOICES);
    out->n = (int)n;
    out->max_tokens = (int)max_tokens;
    out->max_tokens_given = api_field_given(body, "max_tokens") != NULL;
    return ERR_OK;
}

static enum err parse_stream(const struct json *body, struct completions_params *out, struct err_info *info)
{
    enum err err = api_field_bool(body, "stream", &out->stream, info);
    if (err != ERR_OK) return err;
    const struct json *options = api_field_given(body, "stream_options");
    if (!options) return ERR_OK;
    if (json_type(options) != JSON_OBJECT)
        return err_set_param(info, ERR_INVALID, "stream_options", "stream_options must be an object, not %s",
                             json_type_name(json_type(options)));
    if (!out->stream)
        return err_set_param(info, ERR_INVALID, "stream_options",
                             "stream_options is only allowed when stream is true");
    err = api_field_bool(options, "include_usage", &out->include_usage, info);
    if (err != ERR_OK && info) snprintf(info->param, sizeof(info->param), "stream_options.include_usage");
    return err;
}

/* Fields without a use here, whose types are checked all the same. */
static enum err parse_unused(const struct json *body, struct err_info *info)
{
    const char *user = NULL, *suffix = NULL;
    enum err err = api_field_string(body, "user", &user, info);
    if (err == ERR_OK) err = api_field_string(body, "suffix", &suffix, info);
    if (err == ERR_OK && suffix && suffix[0])
        return err_set_param(info, ERR_INVALID, "suffix", "suffix (fill in the middle) is not supported");
    return err;
}

enum err completions_parse(const struct json *body, int n_vocab, struct arena *arena,
                           struct completions_params *out, struct err_info *info)
{
    if (json_type(body) != JSON_OBJECT)
        return err_set(info, ERR_INVALID, "the request must be a JSON object, not %s",
                       json_type_name(json_type(body)));
    struct completions_params params = {0};
    enum err err = api_field_string(body, "model", &params.model, info);
    if (err == ERR_OK) err = parse_prompts(body, n_vocab, arena, &params, info);
    if (err == ERR_OK) err = parse_counts(body, &params, info);
    if (err == ERR_OK) err = parse_sampler(body, &params.sampler, info);
    if (err == ERR_OK) err = parse_seed(body, &params, info);
    if (err == ERR_OK) err = parse_bias(body, n_vocab, arena, &params.sampler, info);
    if (err == ERR_OK) err = parse_stop(body, arena, &params.stop, info);
    if (err == ERR_OK) err = parse_stop_tokens(body, n_vocab, arena, &params, info);
    if (err == ERR_OK) err = parse_stream(body, &params, info);
    if (err == ERR_OK) err = api_field_bool(body, "echo", &params.echo, info);
    if (err == ERR_OK) err = api_field_bool(body, "ignore_eos", &params.ignore_eos, info);
    if (err == ERR_OK) err = api_field_string(body, "kv_format", &params.kv_format, info);
    if (err == ERR_OK) err = parse_unused(body, info);
    if (err == ERR_OK) *out = params;
    return err;
}
