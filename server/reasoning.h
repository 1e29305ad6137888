#ifndef SERVER_REASONING_H
#define SERVER_REASONING_H

#include "config/arena.h"
#include "model/chat_template.h"
#include "model/grammar.h"
#include "server/tools.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Models that think before they answer write their thoughts between two tags, <think>...</think>, at the
 * start of a reply; many templates end the prompt with the first tag. Here: which tags a template's model
 * has, where a prompt stops, the grammar of a reply that thinks, and the way from a reply's text to thoughts
 * and answer.
 *
 * Only what stands at the start of a reply is taken for thoughts: tags further on are text. White space
 * around thoughts, and before the answer behind them, belongs to neither.
 */

enum { REASONING_TAGS = 2 };
struct reasoning_style {
    const char *tags[REASONING_TAGS]; /* opening, closing; in some vocabularies they are control tokens */
};
/* The style of a template's model, by the tags that its source spells out; NULL: it does not think. */
const struct reasoning_style *reasoning_style_of(const struct chat_template *chat);

enum reasoning_place {
    REASONING_NONE, /* the reply is all answer */
    REASONING_MAY,  /* it may begin with the opening tag */
    REASONING_OPEN, /* the prompt ends inside of thoughts */
};
/* What follows a prompt that a template has ended, by the tag at its end. */
enum reasoning_place reasoning_after_prompt(const struct reasoning_style *style, const char *text,
                                            size_t length);
/* What follows an assistant's message that is to go on. */
enum reasoning_place reasoning_after_message(const struct reasoning_style *style, const char *text,
                                             size_t length);

/* What a request's replies are to be read as. */
struct reasoning {
    const struct reasoning_style
        *style; /* NULL: thoughts are text like any other; then nothing else counts */
    enum reasoning_place place;
    bool exact; /* a form is asked for, see reasoning_grammar */
};
/* Whether replies may hold thoughts. NULL-safe. */
bool reasoning_expected(const struct reasoning *reasoning);

/* The field reasoning_format of a body, llama-server's: "none", "auto", "deepseek" (here the same as auto).
 *split stays as it was when it is not given. ERR_INVALID. */
enum err reasoning_parse(const struct json *body, bool *split, struct err_info *info);

/* A reply that thinks and then follows the grammar of `answer`, a node. Thoughts are any text, and there is
   no end before their closing tag. exact: between that tag and the answer stand two line feeds, which the
   parser takes away, so that what is left is the answer to the byte; else a little white space may. */
int reasoning_grammar(struct grammar_builder *builder, const struct reasoning *reasoning, int answer);

/* --- From text to thoughts and answer --- */

/*
 * One choice's place in its text. What comes out does not depend on how the text was cut into pieces, only in
 * how many events. A parser's memory is fixed. NULL when the arena is full.
 */
struct reasoning_parser;
struct reasoning_parser *reasoning_parser_create(const struct reasoning *reasoning, struct arena *arena);
/* length bytes more, whole characters. Thoughts come as TOOLS_REASONING, the answer as TOOLS_TEXT. */
void reasoning_parser_feed(struct reasoning_parser *parser, const char *text, size_t length, bool last,
                           tools_emit *emit, void *context);
/* Bytes at the start of the text that are thoughts, tags included; SIZE_MAX: all of it so far. */
size_t reasoning_parser_end(const struct reasoning_parser *parser);

#endif
