#include "server/reasoning.h"

#include "model/grammar.h"
#include "server/api_field.h"
#include "server/marker.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* --- Styles and places --- */

enum { OPEN, CLOSE };

const struct reasoning_style *reasoning_style_of(const struct chat_template *chat)
{
    static const struct reasoning_style styles[] = {
        {{"<think>", "</think>"}}, /* DeepSeek, Qwen3, QwQ, GLM, Nemotron, SmolLM3 and most others */
        {{"[THINK]", "[/THINK]"}}, /* Mistral */
        {{"<seed:think>", "</seed:think>"}},
        {{"<mm:think>", "</mm:think>"}}, /* MiniMax-M3 */
    };
    for (size_t i = 0; i < sizeof styles / sizeof styles[0]; i++)
        if (strstr(chat->source, styles[i].tags[CLOSE])) return &styles[i];
    return NULL;
}

static size_t without_spaces(const char *text, size_t length)
{
    while (length > 0 && marker_is_space(text[length - 1])) length--;
    return length;
}

static bool ends_with(const char *text, size_t length, const char *tag)
{
    size_t n = strlen(tag);
    return length >= n && memcmp(text + length - n, tag, n) == 0;
}

enum reasoning_place reasoning_after_prompt(const struct reasoning_style *style, const char *text,
                                            size_t length)
{
    length = without_spaces(text, length);
    if (ends_with(text, length, style->tags[OPEN])) return REASONING_OPEN;
    return ends_with(text, length, style->tags[CLOSE]) ? REASONING_NONE : REASONING_MAY;
}

enum reasoning_place reasoning_after_message(const struct reasoning_style *style, const char *text,
                                             size_t length)
{
    length = without_spaces(text, length);
    if (length == 0) return REASONING_MAY;
    for (; length > 0; length--) {
        if (ends_with(text, length, style->tags[CLOSE])) return REASONING_NONE;
        if (ends_with(text, length, style->tags[OPEN])) return REASONING_OPEN;
    }
    return REASONING_NONE;
}

bool reasoning_expected(const struct reasoning *reasoning)
{
    return reasoning && reasoning->style && reasoning->place != REASONING_NONE;
}

enum err reasoning_parse(const struct json *body, bool *split, struct err_info *info)
{
    static const char field[] = "reasoning_format";
    const char *format = NULL;
    enum err err = api_field_string(body, field, &format, info);
    if (err != ERR_OK || !format) return err;
    bool none = strcmp(format, "none") == 0;
    if (!none && strcmp(format, "auto") != 0 && strcmp(format, "deepseek") != 0)
        return err_set_param(info, ERR_INVALID, field, "%s is '%.40s'; it must be none, auto or deepseek",
                             field, format);
    *split = !none;
    return ERR_OK;
}

int reasoning_grammar(struct grammar_builder *builder, const struct reasoning *reasoning, int answer)
{
    static const struct grammar_range space[] = {{' ', ' '}, {'\n', '\n'}};
    const struct reasoning_style *style = reasoning->style;
    size_t length = strlen(style->tags[CLOSE]);
    int between = reasoning->exact
                      ? grammar_literal(builder, "\n\n", 2)
                      : grammar_repeat(builder, grammar_character(builder, space, 2, false), 0, 4);
    const int nodes[] = {grammar_without(builder, &style->tags[CLOSE], &length, 1),
                         marker_grammar(builder, style->tags[CLOSE]), between, answer};
    int thoughts = grammar_sequence(builder, nodes, 4);
    if (reasoning->place == REASONING_OPEN) return thoughts;
    const int opened[] = {marker_grammar(builder, style->tags[OPEN]), thoughts};
    return grammar_choice(builder, (const int[]){answer, grammar_sequence(builder, opened, 2)}, 2);
}

/* --- The parser --- */

enum { CHUNK = 1024, TAG = 16 };

enum place {
    PLACE_START, /* nothing but white space and the beginning of the opening tag */
    PLACE_THOUGHTS,
    PLACE_BETWEEN, /* behind the closing tag */
    PLACE_ANSWER,
};

struct reasoning_parser {
    struct reasoning reasoning;
    enum place place;
    size_t n_tag; /* of the opening tag, at the end of what is held */
    struct marker close;
    bool begun;       /* a thought's first byte has come */
    size_t n_between; /* line feeds taken away */
    size_t n_read;    /* bytes of the text */
    size_t end;       /* see reasoning_parser_end */
    tools_emit *emit;
    void *context;
    size_t n_held;
    char held[MARKER_SPACES + TAG + CHUNK];
};

struct reasoning_parser *reasoning_parser_create(const struct reasoning *reasoning, struct arena *arena)
{
    struct reasoning_parser *parser = arena_alloc(arena, 1, sizeof *parser);
    assert(reasoning_expected(reasoning) && strlen(reasoning->style->tags[CLOSE]) <= TAG);
    if (!parser) return NULL;
    parser->reasoning = *reasoning;
    parser->close.text = reasoning->style->tags[CLOSE];
    parser->end = SIZE_MAX;
    return parser;
}

size_t reasoning_parser_end(const struct reasoning_parser *parser)
{
    return parser->end;
}

static void tell(const struct reasoning_parser *parser, enum tools_event_type type, const char *text,
                 size_t length)
{
    if (length == 0) return;
    parser->emit(parser->context, &(struct tools_event){.type = type, .text = text, .length = length});
}

static void hold(struct reasoning_parser *parser, char byte)
{
    assert(parser->n_held < sizeof parser->held);
    parser->held[parser->n_held++] = byte;
}

/* Tells the thoughts that are held, but for the last bytes, and forgets them. */
static void tell_thoughts(struct reasoning_parser *parser, size_t uncertain)
{
    size_t certain = parser->n_held - uncertain;
    tell(parser, TOOLS_REASONING, parser->held, certain);
    parser->n_held = uncertain;
    memmove(parser->held, parser->held + certain, uncertain);
}

static void read_thought(struct reasoning_parser *parser, char byte)
{
    if (!parser->begun && marker_is_space(byte)) return;
    parser->begun = true;
    hold(parser, byte);
    if (!marker_read(&parser->close, byte)) return;
    tell_thoughts(parser, parser->close.matched + parser->close.n_spaces);
    parser->n_held = 0;
    parser->end = parser->n_read;
    parser->place = PLACE_BETWEEN;
}

/* The text does not begin with the opening tag: what is held is of whatever it begins with. */
static void refute_start(struct reasoning_parser *parser)
{
    size_t n = parser->n_held;
    parser->n_held = 0;
    if (parser->reasoning.place == REASONING_OPEN) {
        parser->place = PLACE_THOUGHTS;
        for (size_t i = 0; i < n; i++)
            read_thought(parser, parser->held[i]); /* holds no faster than it reads */
        return;
    }
    parser->place = PLACE_ANSWER;
    parser->end = 0;
    tell(parser, TOOLS_TEXT, parser->held, n);
}

/* Returns whether the byte was used; if not, it is of the place that is now entered. */
static bool read_start(struct reasoning_parser *parser, char byte)
{
    const char *open = parser->reasoning.style->tags[OPEN];
    bool space = parser->n_tag == 0 && marker_is_space(byte) && parser->n_held < MARKER_SPACES;
    if (!space && byte != open[parser->n_tag]) {
        refute_start(parser);
        return false;
    }
    hold(parser, byte);
    if (space || open[++parser->n_tag] != '\0') return true;
    parser->n_held = 0;
    parser->place = PLACE_THOUGHTS;
    return true;
}

static bool read_between(struct reasoning_parser *parser, char byte)
{
    bool taken = parser->reasoning.exact ? byte == '\n' && parser->n_between < 2 : marker_is_space(byte);
    parser->n_between += taken;
    if (!taken) parser->place = PLACE_ANSWER;
    return taken;
}

/* False: the byte is the answer's. */
static bool read_byte(struct reasoning_parser *parser, char byte)
{
    parser->n_read++;
    if (parser->place == PLACE_START && read_start(parser, byte)) return true;
    if (parser->place == PLACE_BETWEEN) return read_between(parser, byte);
    if (parser->place == PLACE_THOUGHTS) read_thought(parser, byte);
    return parser->place != PLACE_ANSWER;
}

/* Returns how many of the bytes, at most CHUNK, were not the answer's. */
static size_t read_chunk(struct reasoning_parser *parser, const char *text, size_t length)
{
    size_t i = 0;
    while (i < length && read_byte(parser, text[i])) i++;
    if (parser->place == PLACE_THOUGHTS)
        tell_thoughts(parser, parser->close.matched + parser->close.n_spaces);
    return i;
}

void reasoning_parser_feed(struct reasoning_parser *parser, const char *text, size_t length, bool last,
                           tools_emit *emit, void *context)
{
    parser->emit = emit;
    parser->context = context;
    while (length > 0 && parser->place != PLACE_ANSWER) {
        size_t n = length < CHUNK ? length : CHUNK;
        while (n < length && n > CHUNK - 4 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
        n = read_chunk(parser, text, n);
        text += n;
        length -= n;
    }
    tell(parser, TOOLS_TEXT, text, length);
    if (last && parser->place == PLACE_START) refute_start(parser);
    if (last && parser->place == PLACE_THOUGHTS) tell_thoughts(parser, 0);
}
