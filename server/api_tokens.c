#include "server/api_tokens.h"

#include "config/buf.h"
#include "config/utf8.h"
#include "server/api.h"
#include "server/api_field.h"
#include "server/chat.h"

#include <stdio.h>
#include <stdlib.h>

struct tokenize_params {
    const char *text;
    size_t length;
    bool vllm; /* `prompt` was given, not `content` */
    bool add_special, parse_special, with_pieces;
};

/* Of no use here, but its type is checked all the same. */
static enum err check_model(const struct json *body, struct err_info *info)
{
    const char *model = NULL;
    return api_field_string(body, "model", &model, info);
}

/* chat: the text is what the template makes of messages. */
static enum err parse_tokenize(const struct json *body, bool chat, struct tokenize_params *out,
                               struct err_info *info)
{
    if (json_type(body) != JSON_OBJECT)
        return err_set(info, ERR_INVALID, "the request must be a JSON object, not %s",
                       json_type_name(json_type(body)));
    const struct json *text = api_field_given(body, "content");
    *out = (struct tokenize_params){.vllm = !text, .add_special = !text, .parse_special = true};
    const char *name = text ? "content" : "prompt";
    if (!text) text = api_field_given(body, "prompt");
    if (!text && !chat)
        return err_set_param(info, ERR_INVALID, "content", "content (or prompt, or messages) is missing");
    if (text && json_type(text) != JSON_STRING)
        return err_set_param(info, ERR_INVALID, name, "%s must be a string, not %s", name,
                             json_type_name(json_type(text)));
    if (text) out->text = json_string(text, &out->length);
    enum err err = check_model(body, info);
    if (err == ERR_OK) err = api_field_bool(body, "add_special", &out->add_special, info);
    if (err == ERR_OK) err = api_field_bool(body, "add_special_tokens", &out->add_special, info);
    if (err == ERR_OK) err = api_field_bool(body, "parse_special", &out->parse_special, info);
    if (err == ERR_OK) err = api_field_bool(body, "with_pieces", &out->with_pieces, info);
    if (err == ERR_OK) err = api_field_bool(body, "return_token_strs", &out->with_pieces, info);
    return err;
}

/* A piece that is not UTF-8 by itself is an array of its bytes, as llama-server has it. */
static void print_piece(struct buf *out, const struct tokenizer *tokenizer, int32_t token)
{
    size_t length;
    const char *bytes = tokenizer_bytes(tokenizer, token, &length);
    if (utf8_valid(bytes, length) == length) {
        json_write_string(out, bytes, length);
        return;
    }
    for (size_t i = 0; i < length; i++) buf_printf(out, "%s%d", i == 0 ? "[" : ",", (unsigned char)bytes[i]);
    buf_text(out, "]");
}

static void print_tokens(struct buf *out, const struct api *api, const struct tokenize_params *params,
                         const int32_t *tokens, size_t n)
{
    bool objects = params->with_pieces && !params->vllm;
    buf_text(out, "{");
    if (params->vllm) buf_printf(out, "\"count\":%zu,\"max_model_len\":%d,", n, api->ctx_size);
    buf_text(out, "\"tokens\":[");
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, objects ? "%s{\"id\":%d,\"piece\":" : "%s%d", i > 0 ? "," : "", tokens[i]);
        if (!objects) continue;
        print_piece(out, api->tokenizer, tokens[i]);
        buf_text(out, "}");
    }
    buf_text(out, "]");
    if (params->vllm && params->with_pieces) {
        buf_text(out, ",\"token_strs\":[");
        for (size_t i = 0; i < n; i++) {
            size_t length;
            const char *bytes = tokenizer_bytes(api->tokenizer, tokens[i], &length);
            if (i > 0) buf_text(out, ",");
            json_write_string(out, bytes, length);
        }
        buf_text(out, "]");
    }
    buf_text(out, "}");
}

void api_tokenize(struct http_call *call, void *context)
{
    const struct api *api = context;
    struct json *body;
    if (!api_ready(api, call) || !api_body(api, call, &body)) return;
    struct tokenize_params params;
    struct err_info info;
    int32_t *tokens = NULL;
    size_t n = 0;
    bool chat = json_get(body, "messages") != NULL;
    enum err err = parse_tokenize(body, chat, &params, &info);
    if (err == ERR_OK && chat)
        err = chat_tokens(api, body, SIZE_MAX / sizeof(int32_t), NULL, &tokens, &n, &info);
    else if (err == ERR_OK)
        err = tokenizer_encode(api->tokenizer, params.text, params.length, params.add_special,
                               params.parse_special, SIZE_MAX / sizeof(int32_t), &tokens, &n, &info);
    if (err != ERR_OK) {
        api_fail(call, &info, 0);
    } else {
        struct buf out;
        buf_init(&out, SIZE_MAX);
        print_tokens(&out, api, &params, tokens, n);
        api_reply(call, &out);
    }
    free(tokens);
    json_free(body);
}

/* Appends the text of the tokens. */
static enum err print_text(const struct api *api, const struct json *body, struct buf *out,
                           struct err_info *info)
{
    const struct json *tokens = api_field_given(body, "tokens");
    enum err err = check_model(body, info);
    if (err != ERR_OK) return err;
    if (!tokens) return err_set_param(info, ERR_INVALID, "tokens", "tokens is missing");
    if (json_type(tokens) != JSON_ARRAY)
        return err_set_param(info, ERR_INVALID, "tokens", "tokens must be an array of token ids, not %s",
                             json_type_name(json_type(tokens)));
    struct detokenizer detokenizer = {0};
    int n_vocab = tokenizer_vocab_size(api->tokenizer);
    size_t i = 0;
    for (const struct json *item = json_first(tokens); item; item = json_next(item), i++) {
        char place[32];
        snprintf(place, sizeof(place), "tokens[%zu]", i);
        int32_t token;
        err = api_field_token(item, place, n_vocab, &token, info);
        if (err != ERR_OK) return err;
        detokenizer_push(&detokenizer, api->tokenizer, token, false, out);
    }
    detokenizer_flush(&detokenizer, out);
    return ERR_OK;
}

void api_detokenize(struct http_call *call, void *context)
{
    const struct api *api = context;
    struct json *body;
    if (!api_ready(api, call) || !api_body(api, call, &body)) return;
    struct err_info info;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    enum err err = print_text(api, body, &text, &info);
    if (err != ERR_OK) {
        api_fail(call, &info, 0);
    } else {
        struct buf out;
        buf_init(&out, text.failed ? 0 : SIZE_MAX);
        buf_text(&out, "{\"content\":");
        json_write_string(&out, text.data, text.length);
        buf_text(&out, ",\"prompt\":");
        json_write_string(&out, text.data, text.length);
        buf_text(&out, "}");
        api_reply(call, &out);
    }
    buf_free(&text);
    json_free(body);
}
