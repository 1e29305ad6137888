#include "server/responses.h"

#include "config/buf.h"
#include "server/api_field.h"
#include "server/chat.h"

static void print_given(struct buf *out, const struct json *body, const char *name, const char *otherwise)
{
    const struct json *value = api_field_given(body, name);
    buf_printf(out, ",\"%s\":", name);
    if (value)
        json_write_tree(out, value);
    else
        buf_text(out, otherwise);
}

/* A response says what it was asked. */
static enum err echo_request(const struct generation *generation, const struct json *body, const char **out,
                             struct err_info *info)
{
    const struct sampler_params *sampler = &generation->params.sampler;
    struct buf text;
    buf_init(&text, SIZE_MAX);
    print_given(&text, body, "instructions", "null");
    print_given(&text, body, "max_output_tokens", "null");
    print_given(&text, body, "max_tool_calls", "null");
    print_given(&text, body, "metadata", "{}");
    print_given(&text, body, "parallel_tool_calls", "true");
    print_given(&text, body, "reasoning", "{\"effort\":null,\"summary\":null}");
    print_given(&text, body, "text", "{\"format\":{\"type\":\"text\"}}");
    print_given(&text, body, "tool_choice", "\"auto\"");
    print_given(&text, body, "tools", "[]");
    print_given(&text, body, "user", "null");
    buf_text(&text, ",\"temperature\":");
    json_write_float(&text, sampler->temperature);
    buf_text(&text, ",\"top_p\":");
    json_write_float(&text, sampler->top_p);
    buf_text(
        &text,
        ",\"background\":false,\"previous_response_id\":null,\"store\":false,\"truncation\":\"disabled\"");
    *out = text.failed ? NULL : arena_copy(generation->arena, text.data, text.length);
    buf_free(&text);
    return *out ? ERR_OK : generation_no_room(info);
}

static enum err parse(struct generation *generation, const struct json *body, struct err_info *info)
{
    struct responses_state *state = arena_alloc(generation->arena, 1, sizeof *state);
    if (!state) return generation_no_room(info);
    enum err err = responses_translate(body, &generation->translated, info);
    if (err == ERR_OK) err = chat_generation_parse(generation, generation->translated, info);
    if (err == ERR_OK) err = echo_request(generation, body, &state->echo, info);
    generation->state = state;
    return err;
}

static enum err prepare(struct generation *generation, struct err_info *info)
{
    struct responses_state *state = generation->state;
    return blocks_prepare(generation, &responses_blocks, &state->blocks, info);
}

void responses_handle_count(struct http_call *call, void *context)
{
    chat_count(call, context, "\"object\":\"response.input_tokens\",", responses_translate, responses_rename);
}

void responses_handle(struct http_call *call, void *context)
{
    static const struct generation_kind kind = {.id_prefix = "resp_",
                                                .prompt_field = "input",
                                                .format = &responses_format,
                                                .parse = parse,
                                                .prepare = prepare,
                                                .rename = responses_rename};
    generation_handle(call, context, &kind);
}
