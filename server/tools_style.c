/*
 * Which family a template's model belongs to. The looks of a template decide, as in vLLM's and llama.cpp's
 * recognition: models of one family come with many templates, but all of them spell the family's markers out.
 * A template that writes calls in any other way (Qwen3-Coder's <function=...>, GLM's <arg_key>, gpt-oss) is
 * as good as one that knows no tools: octavo tells its model the Hermes way in words.
 */
#include "server/marker.h"
#include "server/tools_syntax.h"

#include <string.h>

static const struct tools_syntax syntaxes[] = {
    [TOOLS_HERMES] = {.marker = "<tool_call>",
                      .close = "</tool_call>",
                      .key = "arguments",
                      .bare = true,
                      .shown = {"<tool_call>", "</tool_call>"}},
    [TOOLS_LLAMA3] = {.marker = "<|python_tag|>",
                      .key = "parameters",
                      .bare = true,
                      .shown = {"<|python_tag|>"}},
    [TOOLS_MISTRAL] = {.marker = "[TOOL_CALLS]",
                       .key = "arguments",
                       .list = true,
                       .name_first = true,
                       .shown = {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"}},
    [TOOLS_MISTRAL_ARGS] = {.marker = "[TOOL_CALLS]",
                            .key = "arguments",
                            .list = true,
                            .name_first = true,
                            .shown = {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"}},
    [TOOLS_GENERIC] = {.marker = "<tool_call>",
                       .close = "</tool_call>",
                       .key = "arguments",
                       .bare = true,
                       .shown = {"<tool_call>", "</tool_call>"}},
};

const struct tools_syntax *tools_syntax_of(enum tools_style style)
{
    return &syntaxes[style];
}

/* A key of the objects that a template writes, quoted plainly or inside a string. */
static bool writes_key(const char *source, const char *plain, const char *escaped)
{
    return strstr(source, plain) || strstr(source, escaped);
}

enum tools_style tools_style_of(const struct chat_template *chat)
{
    const char *source = chat->source;
    if (strstr(source, "[TOOL_CALLS]")) return strstr(source, "[ARGS]") ? TOOLS_MISTRAL_ARGS : TOOLS_MISTRAL;
    if (strstr(source, "<function=") || strstr(source, "<arg_key>") || strstr(source, "<tool_calls>"))
        return TOOLS_GENERIC;
    if (strstr(source, "<tool_call>") && writes_key(source, "\"arguments\":", "\\\"arguments\\\":"))
        return TOOLS_HERMES;
    if (strstr(source, "ipython") && writes_key(source, "\"parameters\":", "\\\"parameters\\\":"))
        return TOOLS_LLAMA3;
    return TOOLS_GENERIC;
}

int tools_shown_tokens(enum tools_style style, const struct tokenizer *tokenizer,
                       int32_t out[TOOLS_MAX_SHOWN])
{
    return marker_tokens(tokenizer, tools_syntax_of(style)->shown, TOOLS_MAX_SHOWN, out);
}
