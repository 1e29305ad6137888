#include "server/api_field.h"
#include "server/completions.h"

#include <stdio.h>

static enum err no_memory(const char *name, struct err_info *info)
{
    return err_set_param(info, ERR_LIMIT, name, "%s is larger than one request may be", name);
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
        return generation_parse_tokens(value, path, n_vocab, arena, &out->tokens, info);
    return err_set_param(info, ERR_INVALID, path, "%s must be a string or a non-empty array of token ids",
                         path);
}

/* A string, token ids, an array of strings, an array of arrays of token ids. */
enum err completions_parse_prompts(const struct json *body, int n_vocab, struct arena *arena,
                                   struct completions_params *out, struct err_info *info)
{
    const struct json *value = api_field_given(body, "prompt");
    if (!value) return err_set_param(info, ERR_INVALID, "prompt", "prompt is missing");
    const struct json *first = json_first(value);
    bool many = json_type(value) == JSON_ARRAY && first && json_type(first) != JSON_NUMBER;
    size_t n = many ? json_length(value) : 1;
    if (n > GENERATION_MAX_CHOICES)
        return err_set_param(info, ERR_INVALID, "prompt", "prompt has %zu prompts, at most %d are taken", n,
                             GENERATION_MAX_CHOICES);
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

static enum err parse_suffix(const struct json *body, struct completions_params *out, struct err_info *info)
{
    const char *suffix = NULL;
    enum err err = api_field_string(body, "suffix", &suffix, info);
    if (err != ERR_OK || !suffix || !suffix[0]) return err;
    if (out->echo)
        return err_set_param(info, ERR_INVALID, "echo",
                             "echo is not possible with suffix: the prompt is not what precedes the text");
    out->suffix = json_string(json_get(body, "suffix"), &out->suffix_length);
    return ERR_OK;
}

/* As many choices as best_of are made, n of them are given. */
static enum err parse_best_of(const struct json *body, struct completions_params *out, struct err_info *info)
{
    struct generation_params *common = &out->common;
    int64_t best_of = common->n;
    enum err err = api_field_int(body, "best_of", 1, GENERATION_MAX_N, &best_of, info);
    if (err != ERR_OK) return err;
    if (best_of < common->n)
        return err_set_param(info, ERR_INVALID, "best_of", "best_of (%d) must not be less than n (%d)",
                             (int)best_of, common->n);
    if (best_of > common->n && common->stream)
        return err_set_param(info, ERR_INVALID, "best_of",
                             "best_of (%d) above n (%d) is not possible with stream", (int)best_of,
                             common->n);
    out->n_wanted = common->n;
    common->n = (int)best_of;
    if (common->n * out->n_prompts > GENERATION_MAX_CHOICES)
        return err_set_param(info, ERR_INVALID, best_of > out->n_wanted ? "best_of" : "n",
                             "%d choices of each of %d prompts are more than %d", common->n, out->n_prompts,
                             GENERATION_MAX_CHOICES);
    return ERR_OK;
}

/* What belongs to this endpoint alone. */
static enum err parse_own(const struct json *body, struct completions_params *out, struct err_info *info)
{
    int64_t n_logprobs = -1;
    enum err err = parse_best_of(body, out, info);
    if (err == ERR_OK) err = api_field_int(body, "logprobs", 0, SAMPLER_MAX_LOGPROBS, &n_logprobs, info);
    if (err == ERR_OK) err = api_field_bool(body, "echo", &out->echo, info);
    if (err == ERR_OK) err = parse_suffix(body, out, info);
    out->common.sampler.n_logprobs = (int)n_logprobs;
    return err;
}

const struct generation_defaults completions_defaults = {
    .temperature = 1, .top_p = 1, .seed = -1, .max_tokens = 16};

enum err completions_parse(const struct json *body, int n_vocab, const struct generation_defaults *defaults,
                           struct arena *arena, struct completions_params *out, struct err_info *info)
{
    struct completions_params params = {0};
    enum err err = generation_parse_object(body, info);
    if (err == ERR_OK) err = completions_parse_prompts(body, n_vocab, arena, &params, info);
    if (err == ERR_OK) err = generation_parse(body, n_vocab, defaults, arena, &params.common, info);
    if (err == ERR_OK) err = parse_own(body, &params, info);
    if (err == ERR_OK) *out = params;
    return err;
}
