#include "server/api_info.h"

#include "config/buf.h"
#include "config/version.h"
#include "server/api.h"
#include "server/engine.h"
#include "server/native.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- pieces ---- */

/* ,"name":"text of the token" or null */
static void print_token(struct buf *out, const struct tokenizer *tokenizer, const char *name, int32_t token)
{
    size_t length;
    const char *bytes = tokenizer_bytes(tokenizer, token, &length);
    buf_printf(out, ",\"%s\":", name);
    if (token >= 0)
        json_write_string(out, bytes, length);
    else
        buf_text(out, "null");
}

static void print_id(struct buf *out, const char *name, int32_t token)
{
    if (token >= 0)
        buf_printf(out, ",\"%s\":%d", name, token);
    else
        buf_printf(out, ",\"%s\":null", name);
}

/* ,"name":"value of the key" or null */
static void print_key(struct buf *out, const struct gguf *gguf, const char *name, const char *key)
{
    struct gguf_string text;
    struct err_info info;
    buf_printf(out, ",\"%s\":", name);
    if (gguf_has(gguf, key) && gguf_get_string(gguf, key, &text, &info) == ERR_OK)
        json_write_string(out, text.bytes, text.length);
    else
        buf_text(out, "null");
}

static int32_t padding_token(const struct api *api)
{
    uint32_t id;
    struct err_info info;
    if (gguf_has(api->gguf, "tokenizer.ggml.padding_token_id") &&
        gguf_get_u32(api->gguf, "tokenizer.ggml.padding_token_id", &id, &info) == ERR_OK &&
        id < (uint32_t)tokenizer_vocab_size(api->tokenizer))
        return (int32_t)id;
    return -1;
}

static bool adds_bos(const struct api *api)
{
    int32_t *tokens = NULL;
    size_t n = 0;
    struct err_info info;
    if (tokenizer_encode(api->tokenizer, "", 0, true, false, 8, &tokens, &n, &info) != ERR_OK) return false;
    free(tokens);
    return n > 0;
}

/* ---- /props ---- */

/* What a request of the longest kind takes in each format. Its last token is never cached. */
static void print_formats(struct buf *out, const struct api *api)
{
    for (int i = 0; i < kv_formats_count(api->formats); i++) {
        struct engine_capacity capacity;
        engine_capacity(api->engine, i, api->ctx_size - 1, &capacity);
        buf_printf(out,
                   "%s{\"name\":\"%s\",\"sequence_bytes\":%zu,\"step_bytes\":%zu,\"sequences_fit\":%d,"
                   "\"bits_per_value\":%.4f}",
                   i ? "," : "", kv_formats_at(api->formats, i)->name, capacity.sequence_bytes,
                   capacity.step_bytes, capacity.fitting, capacity.bits);
    }
}

/* The defaults of /completion. */
static void print_settings(struct buf *out, const struct api *api)
{
    struct generation_defaults defaults = generation_defaults(api, native_defaults);
    int limit = defaults.max_tokens == native_defaults.max_tokens ? -1 : defaults.max_tokens;
    buf_printf(
        out,
        "{\"n_ctx\":%d,\"speculative\":false,\"params\":{\"seed\":%lld,\"temperature\":%g,\"top_k\":%d,"
        "\"top_p\":%g,\"min_p\":%g,",
        api->ctx_size, (long long)defaults.seed, defaults.temperature, defaults.top_k, defaults.top_p,
        defaults.min_p);
    buf_printf(
        out,
        "\"repeat_penalty\":1.0,\"presence_penalty\":0.0,\"frequency_penalty\":0.0,\"n_predict\":%d,"
        "\"max_tokens\":%d,\"n_probs\":0,\"stop\":[],\"ignore_eos\":false,\"stream\":false,\"samplers\":["
        "\"penalties\",\"temperature\",\"min_p\",\"top_k\",\"top_p\"]}}",
        limit, limit);
}

void api_info_props(struct http_call *call, void *context)
{
    const struct api *api = context;
    if (!api_ready(api, call)) return;
    struct buf out;
    buf_init(&out, 1 << 20);
    buf_text(&out, "{\"default_generation_settings\":");
    print_settings(&out, api);
    buf_printf(&out, ",\"total_slots\":%d,\"model_alias\":", api->parallel);
    json_write_text(&out, api->model_name);
    buf_text(&out, ",\"model_path\":");
    json_write_text(&out, api->model_path);
    buf_printf(&out, ",\"kv_format\":\"%s\",\"kv_formats\":[", kv_formats_at(api->formats, 0)->name);
    print_formats(&out, api);
    buf_text(&out, "],\"modalities\":{\"vision\":false,\"audio\":false},\"endpoint_slots\":true,"
                   "\"endpoint_props\":false,\"endpoint_metrics\":true,\"is_sleeping\":false");
    print_token(&out, api->tokenizer, "bos_token", tokenizer_bos(api->tokenizer));
    print_token(&out, api->tokenizer, "eos_token", tokenizer_eos(api->tokenizer));
    buf_text(&out, ",\"chat_template\":");
    json_write_text(&out, api->chat_template->source);
    buf_printf(&out, ",\"fill_in_the_middle\":%s,\"build_info\":\"octavo %s\"}",
               fim_usable(&api->fim) ? "true" : "false", OCTAVO_VERSION);
    api_reply(call, &out);
}

/* ---- /tokenizer_info ---- */

/* Control tokens, as Hugging Face's added_tokens_decoder; and those that end a text. */
static void print_special(struct buf *out, const struct tokenizer *tokenizer)
{
    const char *separator = "";
    int n = tokenizer_vocab_size(tokenizer);
    buf_text(out, ",\"added_tokens_decoder\":{");
    for (int32_t token = 0; token < n; token++) {
        if (!tokenizer_is_special(tokenizer, token)) continue;
        size_t length;
        const char *bytes = tokenizer_bytes(tokenizer, token, &length);
        buf_printf(out, "%s\"%d\":{\"content\":", separator, token);
        json_write_string(out, bytes, length);
        buf_text(out, ",\"special\":true}");
        separator = ",";
    }
    buf_text(out, "},\"end_token_ids\":[");
    separator = "";
    for (int32_t token = 0; token < n; token++) {
        if (!tokenizer_is_end(tokenizer, token)) continue;
        buf_printf(out, "%s%d", separator, token);
        separator = ",";
    }
    buf_text(out, "]");
}

void api_info_tokenizer(struct http_call *call, void *context)
{
    const struct api *api = context;
    if (!api_ready(api, call)) return;
    const struct tokenizer *tokenizer = api->tokenizer;
    int32_t bos = tokenizer_bos(tokenizer), eos = tokenizer_eos(tokenizer), pad = padding_token(api);
    struct buf out;
    buf_init(&out, 1 << 24);
    buf_printf(&out,
               "{\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"vocab_size\":%d,\"model_max_length\":%d,"
               "\"add_bos_token\":%s,\"add_eos_token\":false",
               tokenizer_vocab_size(tokenizer), api->ctx_size, adds_bos(api) ? "true" : "false");
    print_key(&out, api->gguf, "model", "tokenizer.ggml.model");
    print_key(&out, api->gguf, "pre_tokenizer", "tokenizer.ggml.pre");
    print_token(&out, tokenizer, "bos_token", bos);
    print_id(&out, "bos_token_id", bos);
    print_token(&out, tokenizer, "eos_token", eos);
    print_id(&out, "eos_token_id", eos);
    print_token(&out, tokenizer, "pad_token", pad);
    print_id(&out, "pad_token_id", pad);
    print_token(&out, tokenizer, "fim_prefix_token", api->fim.prefix);
    print_token(&out, tokenizer, "fim_suffix_token", api->fim.suffix);
    print_token(&out, tokenizer, "fim_middle_token", api->fim.middle);
    print_special(&out, tokenizer);
    buf_text(&out, ",\"chat_template\":");
    json_write_text(&out, api->chat_template->source);
    buf_text(&out, "}");
    api_reply(call, &out);
}

/* ---- /v1/embeddings ---- */

/* Whether the file says how the states of a text's tokens become one vector. */
static bool has_pooling(const struct api *api)
{
    struct gguf_string architecture;
    struct err_info info;
    char key[128];
    uint32_t type = 0;
    if (gguf_get_string(api->gguf, "general.architecture", &architecture, &info) != ERR_OK) return false;
    snprintf(key, sizeof key, "%.*s.pooling_type", (int)(architecture.length < 64 ? architecture.length : 64),
             architecture.bytes);
    return gguf_has(api->gguf, key) && gguf_get_u32(api->gguf, key, &type, &info) == ERR_OK && type != 0;
}

void api_info_embeddings(struct http_call *call, void *context)
{
    const struct api *api = context;
    if (!api_ready(api, call)) return;
    http_fail(call, 400, "model", "embeddings_not_supported",
              has_pooling(api)
                  ? "the model '%.200s' is made for embeddings, which this server does not compute"
                  : "the model '%.200s' has no embeddings: its file defines no pooling",
              api->model_name);
}
