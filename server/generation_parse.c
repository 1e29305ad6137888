#include "server/api.h"
#include "server/api_field.h"
#include "server/generation.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum err no_memory(const char *name, struct err_info *info)
{
    return err_set_param(info, ERR_LIMIT, name, "%s is larger than one request may be", name);
}

enum err generation_parse_tokens(const struct json *array, const char *path, int n_vocab, struct arena *arena,
                                 struct generation_prompt *out, struct err_info *info)
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
    *out = (struct generation_prompt){.tokens = tokens, .n = (int)n};
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
                                  struct generation_params *out, struct err_info *info)
{
    const struct json *value = api_field_given(body, "stop_token_ids");
    if (!value) return ERR_OK;
    if (json_type(value) != JSON_ARRAY)
        return err_set_param(info, ERR_INVALID, "stop_token_ids",
                             "stop_token_ids must be an array of token ids, not %s",
                             json_type_name(json_type(value)));
    if (json_length(value) == 0) return ERR_OK;
    if (json_length(value) > GENERATION_MAX_STOP_TOKENS)
        return err_set_param(info, ERR_INVALID, "stop_token_ids", "at most %d stop tokens are taken",
                             GENERATION_MAX_STOP_TOKENS);
    struct generation_prompt tokens;
    enum err err = generation_parse_tokens(value, "stop_token_ids", n_vocab, arena, &tokens, info);
    if (err != ERR_OK) return err;
    out->stop_tokens = tokens.tokens;
    out->n_stop_tokens = tokens.n;
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
    if (n > GENERATION_MAX_BIAS)
        return err_set_param(info, ERR_INVALID, "logit_bias",
                             "logit_bias has %zu entries, at most %d are taken", n, GENERATION_MAX_BIAS);
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
static enum err parse_seed(const struct json *body, const struct generation_defaults *defaults,
                           struct generation_params *out, struct err_info *info)
{
    int64_t seed = defaults->seed;
    const int64_t limit = (INT64_C(1) << 53) - 1;
    enum err err = api_field_int(body, "seed", -limit, limit, &seed, info);
    if (err != ERR_OK) return err;
    out->seeded = seed != -1;
    out->sampler.seed = (uint64_t)seed;
    return ERR_OK;
}

static enum err parse_sampler(const struct json *body, const struct generation_defaults *defaults,
                              struct sampler_params *out, struct err_info *info)
{
    double temperature = defaults->temperature, top_p = defaults->top_p, min_p = defaults->min_p;
    double repetition = 1, presence = 0, frequency = 0;
    int64_t top_k = defaults->top_k;
    enum err err = api_field_number(body, "temperature", 0, 2, &temperature, info);
    if (err == ERR_OK) err = api_field_number(body, "top_p", 0, 1, &top_p, info);
    if (err == ERR_OK) err = api_field_number(body, "min_p", 0, 1, &min_p, info);
    if (err == ERR_OK) err = api_field_int(body, "top_k", -1, INT32_MAX, &top_k, info);
    if (err == ERR_OK) err = api_field_number(body, "repetition_penalty", 0.01, 100, &repetition, info);
    if (err == ERR_OK) err = api_field_number(body, "presence_penalty", -2, 2, &presence, info);
    if (err == ERR_OK) err = api_field_number(body, "frequency_penalty", -2, 2, &frequency, info);
    if (err != ERR_OK) return err;
    /* The sampler's ranges are half-open: 0 for top_p and 1 for min_p mean "only the likeliest". */
    out->temperature = (float)temperature;
    out->top_p = top_p > FLT_MIN ? (float)top_p : FLT_MIN;
    out->min_p = min_p < 1 ? fminf((float)min_p, nextafterf(1, 0)) : nextafterf(1, 0);
    out->top_k = (int)top_k;
    out->repetition_penalty = (float)repetition;
    out->presence_penalty = (float)presence;
    out->frequency_penalty = (float)frequency;
    out->n_logprobs = -1;
    return ERR_OK;
}

/* max_tokens keeps its default when it is not given. */
static enum err parse_counts(const struct json *body, struct generation_params *out, struct err_info *info)
{
    int64_t n = 1, max_tokens = out->max_tokens;
    enum err err = api_field_int(body, "n", 1, GENERATION_MAX_N, &n, info);
    if (err == ERR_OK) err = api_field_int(body, "max_tokens", 0, INT32_MAX, &max_tokens, info);
    if (err != ERR_OK) return err;
    out->n = (int)n;
    out->max_tokens = (int)max_tokens;
    out->max_tokens_given = api_field_given(body, "max_tokens") != NULL;
    return ERR_OK;
}

static enum err parse_stream(const struct json *body, struct generation_params *out, struct err_info *info)
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
    if (err != ERR_OK) return err;
    err = api_field_bool(options, "continuous_usage_stats", &out->continuous_usage, info);
    if (err != ERR_OK && info)
        snprintf(info->param, sizeof(info->param), "stream_options.continuous_usage_stats");
    return err;
}

/* What the scheduler wants to know. */
static enum err parse_scheduling(const struct json *body, struct generation_params *out,
                                 struct err_info *info)
{
    enum { MOST_PRIORITY = 1000000, DAY_MS = 86400000 };
    int64_t priority = 0;
    enum err err = api_field_int(body, "priority", -MOST_PRIORITY, MOST_PRIORITY, &priority, info);
    if (err == ERR_OK) err = api_field_int(body, "timeout_ms", 1, DAY_MS, &out->timeout_ms, info);
    if (err == ERR_OK) err = api_field_string(body, "cache_salt", &out->cache_salt, info);
    out->priority = (int)priority;
    return err;
}

struct generation_defaults generation_defaults(const struct api *api, struct generation_defaults own)
{
    const struct generation_defaults *given = &api->defaults;
    if (given->temperature >= 0) own.temperature = given->temperature;
    if (given->top_p >= 0) own.top_p = given->top_p;
    if (given->min_p >= 0) own.min_p = given->min_p;
    if (given->top_k >= 0) own.top_k = given->top_k;
    if (given->seed >= 0) own.seed = given->seed;
    if (given->max_tokens >= 0) own.max_tokens = given->max_tokens;
    return own;
}

enum err generation_parse(const struct json *body, int n_vocab, const struct generation_defaults *defaults,
                          struct arena *arena, struct generation_params *out, struct err_info *info)
{
    const char *user = NULL; /* of no use here, but its type is checked all the same */
    struct generation_params params = {.max_tokens = defaults->max_tokens};
    enum err err = api_field_string(body, "model", &params.model, info);
    if (err == ERR_OK) err = parse_counts(body, &params, info);
    if (err == ERR_OK) err = parse_sampler(body, defaults, &params.sampler, info);
    if (err == ERR_OK) err = parse_seed(body, defaults, &params, info);
    if (err == ERR_OK) err = parse_bias(body, n_vocab, arena, &params.sampler, info);
    if (err == ERR_OK) err = parse_stop(body, arena, &params.stop, info);
    if (err == ERR_OK) err = parse_stop_tokens(body, n_vocab, arena, &params, info);
    if (err == ERR_OK) err = parse_stream(body, &params, info);
    if (err == ERR_OK) err = api_field_bool(body, "timings_per_token", &params.timings_per_token, info);
    if (err == ERR_OK) err = api_field_bool(body, "return_progress", &params.return_progress, info);
    if (err == ERR_OK) err = api_field_bool(body, "ignore_eos", &params.ignore_eos, info);
    if (err == ERR_OK) err = api_field_string(body, "kv_format", &params.kv_format, info);
    if (err == ERR_OK) err = parse_scheduling(body, &params, info);
    if (err == ERR_OK) err = api_field_string(body, "user", &user, info);
    if (err == ERR_OK) *out = params;
    return err;
}

enum err generation_parse_object(const struct json *body, struct err_info *info)
{
    if (json_type(body) == JSON_OBJECT) return ERR_OK;
    return err_set(info, ERR_INVALID, "the request must be a JSON object, not %s",
                   json_type_name(json_type(body)));
}
