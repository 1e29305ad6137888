#include "server/native.h"

#include "server/api.h"
#include "server/api_field.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void native_rename(struct err_info *info)
{
    static const char *const pairs[][2] = {
        {"max_tokens", "n_predict"}, {"repetition_penalty", "repeat_penalty"}, {"logprobs", "n_probs"}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if (strcmp(info->param, pairs[i][0]) == 0)
            snprintf(info->param, sizeof info->param, "%s", pairs[i][1]);
}

/* --- Prompts: text, tokens, or both in one array --- */

struct token_list {
    int32_t *tokens; /* malloc'ed */
    size_t n;
};

static enum err append(struct token_list *list, const int32_t *tokens, size_t n, struct err_info *info)
{
    int32_t *grown = realloc(list->tokens, (list->n + n + 1) * sizeof *grown);
    if (!grown) return err_set(info, ERR_MEMORY, "no memory for the prompt");
    list->tokens = grown;
    if (n > 0) memcpy(grown + list->n, tokens, n * sizeof *grown);
    list->n += n;
    return ERR_OK;
}

static enum err append_text(const struct generation *generation, const struct json *text, bool first,
                            struct token_list *list, struct err_info *info)
{
    const struct api *api = generation->api;
    size_t length, n = 0;
    const char *bytes = json_string(text, &length);
    int32_t *tokens = NULL;
    enum err err = tokenizer_encode(api->tokenizer, bytes, length, first, true,
                                    (size_t)api->ctx_size + 1 - list->n, &tokens, &n, info);
    if (err == ERR_OK) err = append(list, tokens, n, info);
    free(tokens);
    return err;
}

/* {"prompt_string": TEXT} is the text; what it may hold besides are pictures. */
static enum err open_prompt(const struct json **value, const char *path, struct err_info *info)
{
    const struct json *text = json_type(*value) == JSON_OBJECT ? json_get(*value, "prompt_string") : NULL;
    const struct json *media = text ? api_field_given(*value, "multimodal_data") : NULL;
    if (media && (json_type(media) != JSON_ARRAY || json_length(media) > 0))
        return err_set_param(info, ERR_INVALID, path, "%s: multimodal_data is not supported", path);
    if (text && json_type(text) == JSON_STRING) *value = text;
    if (json_type(*value) == JSON_ARRAY || json_type(*value) == JSON_STRING) return ERR_OK;
    return err_set_param(info, ERR_INVALID, path,
                         "%s must be a string, an array of strings and token ids, or an object with a string "
                         "prompt_string",
                         path);
}

/* One prompt; path names it. */
static enum err read_prompt(const struct generation *generation, const struct json *value, const char *path,
                            struct generation_prompt *out, struct err_info *info)
{
    const struct api *api = generation->api;
    struct token_list list = {0};
    enum err err = open_prompt(&value, path, info);
    bool array = json_type(value) == JSON_ARRAY;
    size_t i = 0;
    for (const struct json *item = array ? json_first(value) : value; err == ERR_OK && item;
         item = array ? json_next(item) : NULL, i++) {
        char place[64];
        int32_t token;
        snprintf(place, sizeof place, array ? "%.40s[%zu]" : "%.40s", path, i);
        if (json_type(item) == JSON_STRING) {
            err = append_text(generation, item, i == 0, &list, info);
        } else {
            err = api_field_token(item, place, tokenizer_vocab_size(api->tokenizer), &token, info);
            if (err == ERR_OK) err = append(&list, &token, 1, info);
        }
        if (err == ERR_OK && list.n > (size_t)api->ctx_size) {
            info->param[0] = '\0';
            err = info->code = ERR_LIMIT;
        }
    }
    if (err == ERR_OK) return generation_keep(generation, err, list.tokens, list.n, out, info);
    free(list.tokens);
    return err == ERR_LIMIT ? generation_keep(generation, err, NULL, 0, out, info) : err;
}

/* An array whose first element is no token and which holds more than one string, or arrays: several prompts.
 */
static bool is_many(const struct json *prompt)
{
    const struct json *item = json_type(prompt) == JSON_ARRAY ? json_first(prompt) : NULL;
    if (!item) return false;
    for (; item; item = json_next(item))
        if (json_type(item) == JSON_NUMBER) return false;
    return true;
}

static enum err read_prompts(struct generation *generation, const struct json *prompt, struct err_info *info)
{
    if (!prompt) return err_set_param(info, ERR_INVALID, "prompt", "prompt is missing");
    bool many = is_many(prompt);
    size_t n = many ? json_length(prompt) : 1, i = 0;
    if (n * (size_t)generation->params.n > GENERATION_MAX_CHOICES)
        return err_set_param(info, ERR_INVALID, "prompt", "prompt has %zu prompts, at most %d are taken", n,
                             GENERATION_MAX_CHOICES / generation->params.n);
    struct generation_prompt *prompts = arena_alloc(generation->arena, n, sizeof *prompts);
    if (!prompts) return generation_no_room(info);
    generation->prompts = prompts;
    generation->n_prompts = (int)n;
    if (!many) return read_prompt(generation, prompt, "prompt", &prompts[0], info);
    for (const struct json *item = json_first(prompt); item; item = json_next(item), i++) {
        char path[32];
        snprintf(path, sizeof path, "prompt[%zu]", i);
        enum err err = read_prompt(generation, item, path, &prompts[i], info);
        if (err != ERR_OK) return err;
    }
    return ERR_OK;
}

/* --- The endpoint --- */

const struct generation_defaults native_defaults = {
    .temperature = .8, .top_p = .95, .min_p = .05, .top_k = 40, .seed = -1, .max_tokens = INT32_MAX};

/* They outlive the body. */
static enum err read_fields(const struct json *body, struct arena *arena, struct native_params *params,
                            struct err_info *info)
{
    const struct json *value = api_field_given(body, "response_fields");
    if (!value) return ERR_OK;
    if (json_type(value) != JSON_ARRAY || json_length(value) > NATIVE_MAX_FIELDS)
        return err_set_param(info, ERR_INVALID, "response_fields",
                             "response_fields must be an array of at most %d strings", NATIVE_MAX_FIELDS);
    params->fields = arena_alloc(arena, json_length(value) + 1, sizeof *params->fields);
    if (!params->fields) return generation_no_room(info);
    for (const struct json *item = json_first(value); item; item = json_next(item)) {
        if (json_type(item) != JSON_STRING)
            return err_set_param(info, ERR_INVALID, "response_fields",
                                 "response_fields must hold strings, not %s",
                                 json_type_name(json_type(item)));
        size_t length;
        const char *text = json_string(item, &length);
        const char *copy = arena_copy(arena, text, length);
        if (!copy) return generation_no_room(info);
        params->fields[params->n_fields++] = copy;
    }
    return ERR_OK;
}

enum err native_parse(struct generation *generation, const struct json *body, struct err_info *info)
{
    int n_vocab = tokenizer_vocab_size(generation->api->tokenizer);
    int64_t n_probs = 0;
    struct generation_defaults defaults = generation_defaults(generation->api, native_defaults);
    struct native_params *params = arena_alloc(generation->arena, 1, sizeof *params);
    if (!params) return generation_no_room(info);
    enum err err = native_translate(body, generation->api->tokenizer, params, &generation->translated, info);
    if (err == ERR_OK)
        err = generation_parse(generation->translated, n_vocab, &defaults, generation->arena,
                               &generation->params, info);
    if (err == ERR_OK) err = api_field_int(body, "n_probs", 0, SAMPLER_MAX_LOGPROBS, &n_probs, info);
    if (err == ERR_OK) err = read_fields(body, generation->arena, params, info);
    if (err != ERR_OK) return err;
    generation->params.sampler.n_logprobs = n_probs > 0 ? (int)n_probs : -1;
    generation->params.sampler.drawn_logprobs = params->post_sampling_probs;
    generation->params.max_tokens_given = false; /* the end of the context ends the text */
    if (params->n_predict < 0 && defaults.max_tokens != native_defaults.max_tokens)
        params->n_predict = defaults.max_tokens;
    generation->own = params;
    return ERR_OK;
}

enum err native_prepare(struct generation *generation, struct err_info *info)
{
    const struct native_params *own = generation->own;
    size_t n_choices = (size_t)generation->params.n * (size_t)generation->n_prompts;
    struct native_state *state = arena_alloc(generation->arena, 1, sizeof *state);
    struct generation_params *params = arena_alloc(generation->arena, 1, sizeof *params);
    bool *has_new_line = arena_alloc(generation->arena, n_choices, sizeof *has_new_line);
    int *n_shown_tokens = arena_alloc(generation->arena, n_choices, sizeof *n_shown_tokens);
    if (!state || !params || !has_new_line || !n_shown_tokens) return generation_no_room(info);
    *params = generation->params;
    *state = (struct native_state){.common = generation_state(generation),
                                   .params = params,
                                   .own = own,
                                   .many = n_choices > 1,
                                   .has_new_line = has_new_line,
                                   .n_shown_tokens = n_shown_tokens};
    generation->state = state;
    return ERR_OK;
}

static enum err parse(struct generation *generation, const struct json *body, struct err_info *info)
{
    enum err err = native_parse(generation, body, info);
    return err == ERR_OK ? read_prompts(generation, api_field_given(body, "prompt"), info) : err;
}

void native_handle(struct http_call *call, void *context)
{
    static const struct generation_kind kind = {.id_prefix = "cmpl-",
                                                .prompt_field = "prompt",
                                                .format = &native_format,
                                                .parse = parse,
                                                .prepare = native_prepare,
                                                .rename = native_rename};
    generation_handle(call, context, &kind);
}
