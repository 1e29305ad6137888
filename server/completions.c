#include "server/completions.h"

#include "config/buf.h"
#include "server/api.h"
#include "server/infill.h"

#include <string.h>

/* The text that echo repeats: the client's own, or that of its tokens. */
static enum err fill_echo(const struct generation *generation, const struct completions_prompt *prompt,
                          const struct generation_prompt *encoded, struct completions_echo *echo,
                          struct err_info *info)
{
    const struct tokenizer *tokenizer = generation->api->tokenizer;
    const int32_t *tokens = encoded->tokens;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    if (prompt->text && encoded->n > 0) {
        size_t bos_length = 0;
        const char *bos = tokenizer_bytes(tokenizer, tokens[0], &bos_length);
        bool spelled = prompt->length >= bos_length && memcmp(prompt->text, bos, bos_length) == 0;
        echo->has_bos = tokens[0] == tokenizer_bos(tokenizer) && !spelled;
        buf_append(&text, prompt->text, prompt->length);
    } else {
        struct detokenizer detokenizer = {0};
        for (int i = 0; i < encoded->n; i++)
            detokenizer_push(&detokenizer, tokenizer, tokens[i], false, &text);
        detokenizer_flush(&detokenizer, &text);
    }
    if (!text.failed) echo->text = arena_copy(generation->arena, text.data ? text.data : "", text.length);
    echo->length = text.length;
    buf_free(&text);
    return echo->text ? ERR_OK : generation_no_room(info);
}

static enum err parse(struct generation *generation, const struct json *body, struct err_info *info)
{
    struct completions_params *params = arena_alloc(generation->arena, 1, sizeof(*params));
    if (!params) return generation_no_room(info);
    int n_vocab = tokenizer_vocab_size(generation->api->tokenizer);
    struct generation_defaults defaults = generation_defaults(generation->api, completions_defaults);
    enum err err = completions_parse(body, n_vocab, &defaults, generation->arena, params, info);
    if (err != ERR_OK) return err;
    generation->params = params->common;
    generation->own = params;
    return params->suffix ? infill_begin(generation, "suffix", info) : ERR_OK;
}

static enum err encode_between(const struct generation *generation, const struct completions_prompt *prompt,
                               struct generation_prompt *out, struct err_info *info)
{
    const struct api *api = generation->api;
    const struct completions_params *params = generation->own;
    struct fim_piece before = {.text = prompt->text,
                               .length = prompt->length,
                               .tokens = prompt->tokens.tokens,
                               .n = (size_t)prompt->tokens.n};
    struct fim_piece after = {.text = params->suffix, .length = params->suffix_length};
    int32_t *tokens = NULL;
    size_t n = 0;
    enum err err = fim_encode(&api->fim, api->tokenizer, &before, &after, NULL, 0, (size_t)api->ctx_size,
                              &tokens, &n, info);
    return generation_keep(generation, err, tokens, n, out, info);
}

static enum err encode(const struct generation *generation, const struct completions_prompt *prompt,
                       struct generation_prompt *out, struct err_info *info)
{
    const struct api *api = generation->api;
    const struct completions_params *params = generation->own;
    int32_t *tokens = NULL;
    size_t n = 0;
    if (params->suffix) return encode_between(generation, prompt, out, info);
    if (!prompt->text) {
        *out = prompt->tokens;
        return ERR_OK;
    }
    enum err err = tokenizer_encode(api->tokenizer, prompt->text, prompt->length, true, true,
                                    (size_t)api->ctx_size, &tokens, &n, info);
    return generation_keep(generation, err, tokens, n, out, info);
}

static enum err prepare(struct generation *generation, struct err_info *info)
{
    const struct completions_params *params = generation->own;
    size_t n = (size_t)params->n_prompts;
    struct generation_prompt *prompts = arena_alloc(generation->arena, n, sizeof(*prompts));
    struct completions_state *state = arena_alloc(generation->arena, 1, sizeof(*state));
    struct completions_echo *echoes =
        params->echo ? arena_alloc(generation->arena, n, sizeof(*echoes)) : NULL;
    if (!prompts || !state || (params->echo && !echoes)) return generation_no_room(info);
    for (size_t i = 0; i < n; i++) {
        const struct completions_prompt *prompt = &params->prompts[i];
        enum err err = encode(generation, prompt, &prompts[i], info);
        if (err == ERR_OK && echoes) err = fill_echo(generation, prompt, &prompts[i], &echoes[i], info);
        if (err != ERR_OK) return err;
    }
    *state = (struct completions_state){.common = generation_state(generation),
                                        .n_wanted = params->n_wanted,
                                        .echo = params->echo,
                                        .echoes = echoes};
    /* Choosing needs logprobs even when the client does not. */
    struct sampler_params *sampler = &generation->params.sampler;
    if (params->n_wanted < params->common.n && sampler->n_logprobs < 0) sampler->n_logprobs = 0;
    generation->prompts = prompts;
    generation->n_prompts = params->n_prompts;
    generation->score_prompts = params->echo && params->common.sampler.n_logprobs >= 0;
    generation->state = state;
    return ERR_OK;
}

void completions_handle(struct http_call *call, void *context)
{
    static const struct generation_kind kind = {.id_prefix = "cmpl-",
                                                .prompt_field = "prompt",
                                                .format = &completions_format,
                                                .parse = parse,
                                                .prepare = prepare};
    generation_handle(call, context, &kind);
}
