#include "server/native.h"

#include "server/api_field.h"
#include "server/translation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What would change the text and is not here: only its neutral value is taken. */
static const struct {
    const char *name;
    double neutral;
} samplers[] = {
    {"mirostat", 0},       {"typical_p", 1},        {"dry_multiplier", 0},    {"xtc_probability", 0},
    {"dynatemp_range", 0}, {"top_n_sigma", -1},     {"t_max_predict_ms", -1}, {"n_keep", 0},
    {"n_indent", 0},       {"adaptive_target", -1},
};

void native_print_fixed(struct buf *out)
{
    for (size_t i = 0; i < sizeof samplers / sizeof samplers[0]; i++)
        buf_printf(out, ",\"%s\":%g", samplers[i].name, samplers[i].neutral);
    buf_text(out, ",\"adaptive_decay\":0.9,\"lora\":[]");
}

static enum err refuse_samplers(const struct json *body, struct err_info *info)
{
    for (size_t i = 0; i < sizeof samplers / sizeof samplers[0]; i++) {
        double value = samplers[i].neutral;
        enum err err = api_field_number(body, samplers[i].name, -1e9, 1e9, &value, info);
        if (err != ERR_OK) return err;
        if (value != samplers[i].neutral)
            return err_set_param(info, ERR_INVALID, samplers[i].name,
                                 "%s is not supported, except %g for off", samplers[i].name,
                                 samplers[i].neutral);
    }
    const struct json *lora = api_field_given(body, "lora");
    if (lora && json_length(lora) > 0)
        return err_set_param(info, ERR_INVALID, "lora", "adapters (lora) are not supported");
    return ERR_OK;
}

/* Of several biases of one token, which texts bring about, the last one counts. */
struct bias_list {
    struct bias {
        int64_t token;
        double bias;
    } items[GENERATION_MAX_BIAS];
    int n;
};

static enum err add_bias(struct bias_list *list, int64_t token, double bias, struct err_info *info)
{
    int i = 0;
    while (i < list->n && list->items[i].token != token) i++;
    if (i == GENERATION_MAX_BIAS)
        return err_set_param(info, ERR_INVALID, "logit_bias", "logit_bias has more than %d tokens",
                             GENERATION_MAX_BIAS);
    list->items[i] = (struct bias){token, bias};
    list->n += i == list->n;
    return ERR_OK;
}

/* Every token of a text. */
static enum err add_text_bias(struct bias_list *list, const struct tokenizer *tokenizer, const char *text,
                              size_t length, double bias, struct err_info *info)
{
    int32_t *tokens = NULL;
    size_t n = 0;
    enum err err =
        tokenizer_encode(tokenizer, text, length, false, true, GENERATION_MAX_BIAS, &tokens, &n, info);
    if (err != ERR_OK) snprintf(info->param, sizeof info->param, "logit_bias");
    for (size_t i = 0; err == ERR_OK && i < n; i++) err = add_bias(list, tokens[i], bias, info);
    free(tokens);
    return err;
}

/* One entry of [[token, bias], ...]: token is an id or a text, bias a number or false for "never". */
static enum err add_pair(struct bias_list *list, const struct tokenizer *tokenizer, const struct json *token,
                         const struct json *bias, struct err_info *info)
{
    bool never = bias && json_type(bias) == JSON_BOOL && !json_bool(bias);
    bool text = token && json_type(token) == JSON_STRING;
    if (!token || !bias || (!text && (json_type(token) != JSON_NUMBER || !json_is_integer(token))) ||
        (!never && json_type(bias) != JSON_NUMBER))
        return err_set_param(info, ERR_INVALID, "logit_bias",
                             "logit_bias must hold pairs of a token id or a text and a number or false");
    double value = never ? -100 : json_number(bias);
    if (!text) return add_bias(list, json_int64(token), value, info);
    size_t length;
    const char *bytes = json_string(token, &length);
    return add_text_bias(list, tokenizer, bytes, length, value, info);
}

/* One of OpenAI's object, whose names are ids; here they may be texts too. */
static enum err add_member(struct bias_list *list, const struct tokenizer *tokenizer, const struct json *item,
                           struct err_info *info)
{
    const char *name = json_key(item);
    size_t length = strlen(name);
    if (json_type(item) != JSON_NUMBER)
        return err_set_param(info, ERR_INVALID, "logit_bias", "logit_bias of '%.40s' must be a number", name);
    if (length > 0 && length < 10 && strspn(name, "0123456789") == length)
        return add_bias(list, strtol(name, NULL, 10), json_number(item), info);
    return add_text_bias(list, tokenizer, name, length, json_number(item), info);
}

/* llama-server's notations, as OpenAI's object. */
static enum err write_bias(struct translation *t, const struct json *body, const struct tokenizer *tokenizer)
{
    const struct json *value = api_field_given(body, "logit_bias");
    struct bias_list list = {.n = 0};
    enum err err = ERR_OK;
    if (!value) return ERR_OK;
    bool pairs = json_type(value) == JSON_ARRAY;
    if (!pairs && json_type(value) != JSON_OBJECT) {
        translation_tree(t, "logit_bias", value);
        return ERR_OK;
    }
    for (const struct json *item = json_first(value); item && err == ERR_OK; item = json_next(item))
        err = pairs ? add_pair(&list, tokenizer, json_at(item, 0), json_at(item, 1), t->info)
                    : add_member(&list, tokenizer, item, t->info);
    translation_key(t, "logit_bias");
    translation_open(t, '{');
    for (int i = 0; i < list.n; i++) {
        char id[32];
        snprintf(id, sizeof id, "%lld", (long long)list.items[i].token);
        translation_number(t, id, list.items[i].bias);
    }
    translation_close(t, '}');
    return err;
}

/* Those below 0 are greedy there. */
static enum err write_temperature(struct translation *t, const struct json *body)
{
    double temperature = 0;
    enum err err = api_field_number(body, "temperature", -1e9, 2, &temperature, t->info);
    if (err == ERR_OK && api_field_given(body, "temperature"))
        translation_number(t, "temperature", temperature > 0 ? temperature : 0);
    return err;
}

static enum err write_counts(struct translation *t, const struct json *body, struct native_params *params)
{
    int64_t n_predict = -1, n = 1;
    bool unused;
    enum err err = api_field_int(body, "max_tokens", -1, INT32_MAX, &n_predict, t->info);
    if (err == ERR_OK) err = api_field_int(body, "n_predict", -1, INT32_MAX, &n_predict, t->info);
    if (err == ERR_OK) err = api_field_int(body, "n", 1, GENERATION_MAX_N, &n, t->info);
    if (err == ERR_OK) err = api_field_int(body, "n_cmpl", 1, GENERATION_MAX_N, &n, t->info);
    if (err == ERR_OK) err = api_field_bool(body, "return_tokens", &params->return_tokens, t->info);
    if (err == ERR_OK)
        err = api_field_bool(body, "post_sampling_probs", &params->post_sampling_probs, t->info);
    if (err == ERR_OK) err = api_field_bool(body, "cache_prompt", &unused, t->info);
    if (err != ERR_OK) return err;
    if (n_predict >= 0) translation_number(t, "max_tokens", (double)n_predict);
    translation_number(t, "n", (double)n);
    params->n_predict = n_predict;
    return ERR_OK;
}

/* Written by the functions above, or of no concern to generation_parse. */
static bool is_own(const char *name)
{
    static const char *const names[] = {
        "prompt",        "n_predict",    "max_tokens",     "n",           "n_cmpl",
        "n_probs",       "logprobs",     "logit_bias",     "temperature", "post_sampling_probs",
        "return_tokens", "cache_prompt", "response_fields"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}

static void copy_others(struct translation *t, const struct json *body)
{
    for (const struct json *item = json_first(body); item; item = json_next(item)) {
        const char *name = json_key(item);
        if (is_own(name) || json_type(item) == JSON_NULL) continue;
        if (strcmp(name, "repetition_penalty") == 0 && api_field_given(body, "repeat_penalty")) continue;
        translation_tree(t, strcmp(name, "repeat_penalty") == 0 ? "repetition_penalty" : name, item);
    }
}

enum err native_translate(const struct json *body, const struct tokenizer *tokenizer,
                          struct native_params *params, struct json **out, struct err_info *info)
{
    struct native_params found = {0};
    struct translation translation;
    translation_begin(&translation, info);
    enum err err = generation_parse_object(body, info);
    double penalty = 1; /* under its other name its faults would be told under llama-server's */
    if (err == ERR_OK) err = api_field_number(body, "repetition_penalty", .01, 100, &penalty, info);
    if (err == ERR_OK) err = refuse_samplers(body, info);
    if (err == ERR_OK) err = write_counts(&translation, body, &found);
    if (err == ERR_OK) err = write_temperature(&translation, body);
    if (err == ERR_OK) err = write_bias(&translation, body, tokenizer);
    if (err == ERR_OK) copy_others(&translation, body);
    err = translation_end(&translation, err, out);
    if (err == ERR_OK) *params = found;
    return err;
}
