#include "server/chat.h"

#include "config/buf.h"
#include "model/jinja_text.h"
#include "server/api.h"
#include "server/api_field.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A template may make much of little; what it makes on the way is not the request's to keep. */
static const size_t render_bytes_max = (size_t)128 << 20;

/* --- The prompt --- */

/* As apply_chat_template finds the place: this is added to the text and looked for in what comes out. Some
   templates strip white space there, hence the space at the end. */
static const char tag[] = "CONTINUE_FINAL_MESSAGE_TAG ";

static enum err no_text(struct err_info *info)
{
    return err_set_param(info, ERR_INVALID, "continue_final_message",
                         "continue_final_message: the last message has no text that could go on");
}

/* Where the text of the last message stands: its content, or that of its last part. */
static struct jinja_value *final_text(const struct chat_input *input)
{
    const struct jinja_list *messages = input->messages.list;
    struct jinja_dict *last = messages->items[messages->n - 1].dict;
    struct jinja_value *content = (struct jinja_value *)jinja_value_get_name(last, "content");
    if (content && content->type == JINJA_LIST && content->list->n > 0)
        content = (struct jinja_value *)jinja_value_get_name(content->list->items[content->list->n - 1].dict,
                                                             "text");
    return content && content->type == JINJA_STRING ? content : NULL;
}

static enum err render_continued(const struct chat_template *chat, struct arena *arena,
                                 const struct chat_input *input, struct jinja_text *out,
                                 struct err_info *info)
{
    struct jinja_text mark = {.bytes = tag, .length = sizeof tag - 2}; /* without its space */
    struct jinja_value *text = final_text(input);
    struct jinja_builder tagged;
    if (!text) return no_text(info);
    jinja_builder_init(&tagged, arena, SIZE_MAX);
    jinja_builder_add(&tagged, text->text);
    jinja_builder_add(&tagged, (struct jinja_text){.bytes = tag, .length = sizeof tag - 1});
    if (tagged.failed)
        return err_set_param(info, ERR_LIMIT, "messages", "messages are larger than one request may be");
    *text = jinja_value_text(jinja_builder_text(&tagged));
    enum err err = chat_template_render(chat, arena, input, out, info);
    if (err != ERR_OK) return err;
    size_t at = jinja_text_find_last(*out, mark);
    if (at == SIZE_MAX)
        return err_set_param(
            info, ERR_INVALID, "continue_final_message",
            "continue_final_message: the chat template does not show the last message's text");
    bool spaced = at + sizeof tag - 1 <= out->length && memcmp(out->bytes + at, tag, sizeof tag - 1) == 0;
    *out = jinja_text_cut(*out, 0, at);
    if (!spaced) *out = jinja_text_strip(*out, NULL, false, true);
    return ERR_OK;
}

enum err chat_render(const struct chat_template *chat, struct arena *arena,
                     const struct chat_conversation *conversation, struct jinja_text *out,
                     struct err_info *info)
{
    enum err err = conversation->continue_final_message
                       ? render_continued(chat, arena, &conversation->input, out, info)
                       : chat_template_render(chat, arena, &conversation->input, out, info);
    if (err != ERR_OK && info && info->param[0] == '\0')
        snprintf(info->param, sizeof info->param, "messages");
    return err;
}

static enum err encode(const struct tokenizer *tokenizer, const struct jinja_text *text, bool add_special,
                       size_t max_tokens, int32_t **tokens, size_t *n, struct err_info *info)
{
    if (!text->marks)
        return tokenizer_encode(tokenizer, text->bytes, text->length, add_special, text->literal, max_tokens,
                                tokens, n, info);
    return tokenizer_encode_marked(tokenizer, text->bytes, text->length, text->marks, add_special, max_tokens,
                                   tokens, n, info);
}

/* Before the conversation is rendered: where in its thoughts an answer is that a client lets go on. */
static enum reasoning_place continued_place(const struct reasoning_style *style,
                                            const struct chat_conversation *conversation)
{
    const struct jinja_value *text =
        conversation->continue_final_message ? final_text(&conversation->input) : NULL;
    return text ? reasoning_after_message(style, text->text.bytes, text->text.length) : REASONING_MAY;
}

enum err chat_tokens(const struct api *api, const struct json *body, size_t max_tokens,
                     struct reasoning *reasoning, int32_t **tokens, size_t *n, struct err_info *info)
{
    const struct chat_template *chat = api->chat_template;
    struct chat_conversation conversation;
    struct jinja_text text;
    struct arena *arena = arena_create(render_bytes_max);
    if (!arena) return err_set(info, ERR_MEMORY, "no memory for the prompt");
    bool splits = reasoning && reasoning->style;
    enum err err = chat_parse_conversation(body, chat, arena, &conversation, info);
    if (err == ERR_OK && splits) reasoning->place = continued_place(reasoning->style, &conversation);
    if (err == ERR_OK) err = chat_render(chat, arena, &conversation, &text, info);
    if (err == ERR_OK && splits && conversation.input.add_generation_prompt)
        reasoning->place = reasoning_after_prompt(reasoning->style, text.bytes, text.length);
    if (err == ERR_OK)
        err = encode(api->tokenizer, &text, conversation.add_special_tokens, max_tokens, tokens, n, info);
    arena_free(arena);
    return err;
}

/* --- The endpoint --- */

/* Fields that would change what comes out; silence about them would be a lie. */
static enum err refuse_unsupported(const struct json *body, struct err_info *info)
{
    static const char *const names[] = {"functions",  "function_call",      "audio",
                                        "prediction", "web_search_options", "chat_template"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (api_field_given(body, names[i]))
            return err_set_param(info, ERR_INVALID, names[i], "%s is not supported", names[i]);
    const struct json *modalities = api_field_given(body, "modalities");
    const struct json *first = modalities ? json_first(modalities) : NULL;
    bool text_only = first && json_length(modalities) == 1 && json_type(first) == JSON_STRING &&
                     strcmp(json_string(first, NULL), "text") == 0;
    if (modalities && !text_only)
        return err_set_param(info, ERR_INVALID, "modalities",
                             "modalities other than [\"text\"] are not supported");
    return ERR_OK;
}

static enum err parse_logprobs(const struct json *body, struct generation_params *out, struct err_info *info)
{
    bool logprobs = false;
    int64_t n = 0;
    enum err err = api_field_bool(body, "logprobs", &logprobs, info);
    if (err == ERR_OK) err = api_field_int(body, "top_logprobs", 0, SAMPLER_MAX_LOGPROBS, &n, info);
    if (err != ERR_OK) return err;
    if (n > 0 && !logprobs)
        return err_set_param(info, ERR_INVALID, "top_logprobs", "top_logprobs needs logprobs to be true");
    out->sampler.n_logprobs = logprobs ? (int)n : -1;
    return ERR_OK;
}

const struct generation_defaults chat_defaults = {
    .temperature = 1, .top_p = 1, .seed = -1, .max_tokens = INT_MAX};

enum err chat_parse(const struct json *body, int n_vocab, const struct generation_defaults *defaults,
                    struct arena *arena, struct generation_params *out, struct err_info *info)
{
    struct generation_params params;
    enum err err = generation_parse_object(body, info);
    if (err == ERR_OK) err = refuse_unsupported(body, info);
    if (err == ERR_OK) err = generation_parse(body, n_vocab, defaults, arena, &params, info);
    if (err == ERR_OK) err = parse_logprobs(body, &params, info);
    int64_t max_tokens = params.max_tokens;
    if (err == ERR_OK) err = api_field_int(body, "max_completion_tokens", 0, INT32_MAX, &max_tokens, info);
    if (err != ERR_OK) return err;
    params.max_tokens = (int)max_tokens; /* the newer name wins */
    params.max_tokens_given = params.max_tokens_given || api_field_given(body, "max_completion_tokens");
    *out = params;
    return ERR_OK;
}

/* How thoughts are told: as the server's option has it, unless the body says otherwise. */
static enum err parse_reasoning(struct generation *generation, const struct json *body, struct err_info *info)
{
    bool split = generation->api->splits_reasoning;
    enum err err = reasoning_parse(body, &split, info);
    if (split) generation->reasoning.style = reasoning_style_of(generation->api->chat_template);
    return err;
}

/* What the body says of tools, with the generation's memory. */
static enum err parse_tools(struct generation *generation, const struct json *body, struct err_info *info)
{
    struct tools *tools = arena_alloc(generation->arena, 1, sizeof *tools);
    if (!tools) return generation_no_room(info);
    enum tools_style style = tools_style_of(generation->api->chat_template);
    enum err err = tools_parse(body, style, generation->arena, tools, info);
    if (err != ERR_OK) return err;
    if (tools_offered(tools)) generation->tools = tools;
    return ERR_OK;
}

enum err chat_generation_parse(struct generation *generation, const struct json *body, struct err_info *info)
{
    struct api *api = generation->api;
    struct generation_prompt *prompt = arena_alloc(generation->arena, 1, sizeof *prompt);
    if (!prompt) return generation_no_room(info);
    int n_vocab = tokenizer_vocab_size(api->tokenizer);
    int32_t *tokens = NULL;
    size_t n = 0;
    struct generation_defaults defaults = generation_defaults(api, chat_defaults);
    enum err err = chat_parse(body, n_vocab, &defaults, generation->arena, &generation->params, info);
    if (err == ERR_OK) err = parse_tools(generation, body, info);
    if (err == ERR_OK) err = parse_reasoning(generation, body, info);
    if (err != ERR_OK) return err;
    err = chat_tokens(api, body, (size_t)api->ctx_size, &generation->reasoning, &tokens, &n, info);
    err = generation_keep(generation, err, tokens, n, prompt, info);
    generation->own = prompt;
    return err;
}

static enum err prepare_tools(struct generation *generation, struct err_info *info)
{
    size_t n = (size_t)generation->params.n;
    struct tools_parser **parsers = arena_alloc(generation->arena, n, sizeof *parsers);
    if (!parsers) return generation_no_room(info);
    for (size_t i = 0; i < n; i++) {
        char seed[96];
        snprintf(seed, sizeof seed, "%s/%zu", generation->request->id, i);
        parsers[i] = tools_parser_create(generation->tools, seed, generation->arena);
        if (!parsers[i]) return generation_no_room(info);
    }
    generation->parsers = parsers;
    return ERR_OK;
}

static enum err prepare_reasoning(struct generation *generation, struct err_info *info)
{
    size_t n = (size_t)generation->params.n;
    struct reasoning_parser **parsers = arena_alloc(generation->arena, n, sizeof *parsers);
    if (!parsers) return generation_no_room(info);
    for (size_t i = 0; i < n; i++) {
        parsers[i] = reasoning_parser_create(&generation->reasoning, generation->arena);
        if (!parsers[i]) return generation_no_room(info);
    }
    generation->reasoning_parsers = parsers;
    return ERR_OK;
}

enum err chat_generation_prepare(struct generation *generation, struct err_info *info)
{
    struct generation_state *state = arena_alloc(generation->arena, 1, sizeof *state);
    if (!state) return generation_no_room(info);
    enum err err = generation->tools ? prepare_tools(generation, info) : ERR_OK;
    if (err == ERR_OK && reasoning_expected(&generation->reasoning))
        err = prepare_reasoning(generation, info);
    if (err != ERR_OK) return err;
    *state = generation_state(generation);
    generation->prompts = generation->own;
    generation->n_prompts = 1;
    generation->state = state;
    return ERR_OK;
}

void chat_handle(struct http_call *call, void *context)
{
    static const struct generation_kind kind = {.id_prefix = "chatcmpl-",
                                                .prompt_field = "messages",
                                                .format = &chat_format,
                                                .parse = chat_generation_parse,
                                                .prepare = chat_generation_prepare};
    generation_handle(call, context, &kind);
}

void chat_count(struct http_call *call, const struct api *api, const char *members,
                enum err (*translate)(const struct json *body, struct json **chat, struct err_info *info),
                void (*rename)(struct err_info *info))
{
    struct json *body, *chat = NULL;
    int32_t *tokens = NULL;
    size_t n = 0;
    struct err_info info;
    if (!api_ready(api, call) || !api_body(api, call, &body)) return;
    enum err err = translate ? translate(body, &chat, &info) : generation_parse_object(body, &info);
    if (err == ERR_OK) {
        err = chat_tokens(api, chat ? chat : body, SIZE_MAX / sizeof *tokens, NULL, &tokens, &n, &info);
        if (err != ERR_OK && rename) rename(&info);
    }
    if (err != ERR_OK) {
        api_fail(call, &info, 0);
    } else {
        struct buf out;
        buf_init(&out, 256);
        buf_printf(&out, "{%s\"input_tokens\":%zu}", members, n);
        api_reply(call, &out);
    }
    free(tokens);
    json_free(chat);
    json_free(body);
}

void chat_handle_count(struct http_call *call, void *context)
{
    chat_count(call, context, "", NULL, NULL);
}

void chat_handle_template(struct http_call *call, void *context)
{
    const struct api *api = context;
    struct json *body;
    if (!api_ready(api, call) || !api_body(api, call, &body)) return;
    struct chat_conversation conversation;
    struct jinja_text text;
    struct err_info info;
    struct arena *arena = arena_create(render_bytes_max);
    enum err err =
        arena ? generation_parse_object(body, &info) : err_set(&info, ERR_MEMORY, "no memory for the prompt");
    if (err == ERR_OK) err = chat_parse_conversation(body, api->chat_template, arena, &conversation, &info);
    if (err == ERR_OK) err = chat_render(api->chat_template, arena, &conversation, &text, &info);
    if (err != ERR_OK) {
        api_fail(call, &info, 0);
    } else {
        struct buf out;
        buf_init(&out, SIZE_MAX);
        buf_text(&out, "{\"prompt\":");
        json_write_string(&out, text.bytes, text.length);
        buf_text(&out, "}");
        api_reply(call, &out);
    }
    arena_free(arena);
    json_free(body);
}
