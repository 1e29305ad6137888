#ifndef MODEL_JINJA_LEX_H
#define MODEL_JINJA_LEX_H

#include "config/arena.h"
#include "config/err.h"
#include "model/jinja_value.h"

#include <stdint.h>

/*
 * Template text to tokens, white space control included: what `-` and `+`, trim_blocks and lstrip_blocks take
 * away is gone from the data tokens, and comments and raw blocks are resolved.
 */
enum jinja_token_type {
    JINJA_TOKEN_DATA,
    JINJA_TOKEN_BLOCK_BEGIN,
    JINJA_TOKEN_BLOCK_END,
    JINJA_TOKEN_VARIABLE_BEGIN,
    JINJA_TOKEN_VARIABLE_END,
    JINJA_TOKEN_NAME,
    JINJA_TOKEN_STRING, /* text: decoded */
    JINJA_TOKEN_INTEGER,
    JINJA_TOKEN_FLOAT,
    JINJA_TOKEN_OPERATOR, /* text: the operator */
    JINJA_TOKEN_END,
};

struct jinja_token {
    enum jinja_token_type type;
    size_t offset; /* in the source, newlines normalized */
    int line;      /* from 1 */
    struct jinja_text text;
    int64_t integer;
    double real;
};

struct jinja_tokens {
    const char *source; /* newlines normalized */
    size_t length;
    struct jinja_token *tokens; /* the last is JINJA_TOKEN_END */
    size_t n;
};

/* Everything is in the arena. Errors as in jinja_compile. */
enum err jinja_lex(struct arena *arena, const char *source, size_t length, struct jinja_tokens *out,
                   struct err_info *info);

/* "line 3, column 14" of a place in the source; both from 1, columns in characters. */
void jinja_lex_place(const char *source, size_t offset, int *line, int *column);

#endif
