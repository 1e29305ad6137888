#ifndef MODEL_JINJA_NODE_H
#define MODEL_JINJA_NODE_H

#include "config/arena.h"
#include "model/jinja.h"
#include "model/jinja_lex.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * A compiled template: a tree of nodes, walked by jinja_run.c (statements) and jinja_eval.c (expressions).
 * Which fields a node uses stands beside its kind; `items` is a list linked by `next`.
 */
enum jinja_kind {
    /* expressions */
    JINJA_CONST,    /* value */
    JINJA_NAME,     /* symbol */
    JINJA_TUPLE,    /* items */
    JINJA_ARRAY,    /* items */
    JINJA_TABLE,    /* items: JINJA_ENTRY */
    JINJA_ENTRY,    /* left: key, right: value */
    JINJA_GETATTR,  /* left, value: name */
    JINJA_GETITEM,  /* left, right: index */
    JINJA_SLICE,    /* left: what is sliced, items: start, stop, step, each JINJA_CONST None when left out */
    JINJA_CALL,     /* left: callee, items: arguments, then JINJA_KEYWORD */
    JINJA_KEYWORD,  /* value: name, left */
    JINJA_FILTERED, /* left (NULL: what the block rendered), value: name, filter, items as of a call */
    JINJA_TESTED,   /* left, value: name, test, items as of a call */
    JINJA_NOT,      /* left */
    JINJA_NEGATE,   /* left */
    JINJA_PLUS,     /* left */
    JINJA_AND,      /* left, right */
    JINJA_OR,       /* left, right */
    JINJA_BINARY,   /* operation, left, right */
    JINJA_CONCAT,   /* items */
    JINJA_COMPARE,  /* left, items: JINJA_COMPARED */
    JINJA_COMPARED, /* operation, left */
    JINJA_COND,     /* left: condition, items: value, else (may be absent) */
    /* statements */
    JINJA_DATA,        /* value */
    JINJA_PRINT,       /* left */
    JINJA_FOR,         /* left: target, right: what is walked, test: may be NULL, items: body, others: else */
    JINJA_IF,          /* items: JINJA_BRANCH */
    JINJA_BRANCH,      /* left: condition, NULL: else; items: body */
    JINJA_SET,         /* left: target, right */
    JINJA_SET_BLOCK,   /* left: target, right: JINJA_FILTERED chain or NULL, items: body */
    JINJA_MACRO_BLOCK, /* symbol, others: JINJA_PARAMETER, items: body, uses_* */
    JINJA_PARAMETER,   /* symbol, left: default or NULL */
    JINJA_CALL_BLOCK,  /* right: JINJA_CALL, left: JINJA_MACRO_BLOCK, the caller */
    JINJA_FILTER_BLOCK, /* right: JINJA_FILTERED chain, items: body */
    JINJA_WITH,         /* others: JINJA_SET of names, items: body */
    JINJA_SCOPE,        /* items: body (the `generation` tag) */
    JINJA_BREAK,
    JINJA_CONTINUE,
    JINJA_NAMESPACE_TARGET, /* a target: symbol, value: attribute */
};

enum jinja_operation {
    JINJA_ADD,
    JINJA_SUBTRACT,
    JINJA_MULTIPLY,
    JINJA_DIVIDE,
    JINJA_FLOOR_DIVIDE,
    JINJA_MODULO,
    JINJA_POWER,
    JINJA_EQUAL,
    JINJA_NOT_EQUAL,
    JINJA_LESS,
    JINJA_LESS_EQUAL,
    JINJA_GREATER,
    JINJA_GREATER_EQUAL,
    JINJA_IN,
    JINJA_NOT_IN,
};

struct jinja_node {
    enum jinja_kind kind;
    enum jinja_operation operation;
    int line;
    int symbol;
    bool uses_varargs, uses_kwargs, uses_caller;
    struct jinja_node *left, *right, *test, *items, *others, *next;
    struct jinja_value value;
    const struct jinja_filter *filter; /* NULL: Jinja2 has none of this name; an error when it is reached */
    const struct jinja_test *tester;   /* the same */
};

/* Names that the parser and the interpreter know. */
enum {
    JINJA_SYMBOL_LOOP,
    JINJA_SYMBOL_CALLER,
    JINJA_SYMBOL_VARARGS,
    JINJA_SYMBOL_KWARGS,
    JINJA_SYMBOLS_FIXED
};

struct jinja {
    struct arena *arena;
    struct jinja_node *body;
    struct jinja_text *symbols; /* [n_symbols] */
    int n_symbols;
};

/* --- Parser: jinja_parse.c (statements) and jinja_parse_expression.c --- */

enum { JINJA_MAX_NESTING = 100 };

struct jinja_parser {
    struct arena *arena;
    struct jinja_tokens tokens;
    size_t at;
    int depth;                /* expressions and statements within each other */
    int loops;                /* around this place, within the innermost macro */
    bool soft;                /* under a condition, where Jinja2 puts up with unknown filters */
    struct jinja_node *macro; /* the innermost */
    struct jinja *jinja;
    int symbols_capacity;
    enum err err;
    struct err_info *info;
};

/* All of these return NULL (or false) once an error has been set; so does everything that comes after. */
struct jinja_node *jinja_parse_node(struct jinja_parser *parser, enum jinja_kind kind);
bool jinja_parse_fail(struct jinja_parser *parser, enum err err, const struct jinja_token *token,
                      const char *format, ...) __attribute__((format(printf, 4, 5)));
int jinja_parse_symbol(struct jinja_parser *parser, struct jinja_text name); /* -1: error */
const struct jinja_token *jinja_parse_peek(const struct jinja_parser *parser);
bool jinja_parse_is(const struct jinja_token *token, enum jinja_token_type type, const char *text);
bool jinja_parse_skip(struct jinja_parser *parser, enum jinja_token_type type, const char *text);
bool jinja_parse_expect(struct jinja_parser *parser, enum jinja_token_type type, const char *text);
const struct jinja_token *jinja_parse_name(struct jinja_parser *parser);
/* One level deeper; false at the limit. */
bool jinja_parse_enter(struct jinja_parser *parser);

/* with_condition: `a if b else c` is taken. */
struct jinja_node *jinja_parse_expression(struct jinja_parser *parser, bool with_condition);
/* An expression, or several with commas between: a tuple. */
struct jinja_node *jinja_parse_tuple(struct jinja_parser *parser, bool with_condition);
/* The target of a `for` or `set`: names, tuples of them, ns.attribute. */
struct jinja_node *jinja_parse_target(struct jinja_parser *parser, bool with_namespace);
/* left | filter | filter ...; named: the first one comes without its bar. */
struct jinja_node *jinja_parse_filters(struct jinja_parser *parser, struct jinja_node *left, bool named);
/* The arguments of a call, with their brackets, into node->items. */
bool jinja_parse_arguments(struct jinja_parser *parser, struct jinja_node *node);
/* Names with or without defaults, with their brackets, into node->others. */
bool jinja_parse_signature(struct jinja_parser *parser, struct jinja_node *node);

#endif
