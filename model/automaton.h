#ifndef MODEL_AUTOMATON_H
#define MODEL_AUTOMATON_H

#include "config/arena.h"
#include "model/grammar.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Finite automata over bytes, for what a context-free grammar cannot say: that a text is in two sets at once,
 * or in one and not in another. A JSON Schema asks for this in its numbers (a range and a multiple), strings
 * (a pattern and a length) and keys (any but those that are named).
 *
 * Deterministic, in an arena, immutable. Each state can reach an accepting one, so that a generator which
 * follows the edges never comes to a dead end. State 0 is the start; without states nothing is accepted.
 */
enum { AUTOMATON_MAX_STATES = 8192, AUTOMATON_NONE = 0xFFFF };

struct automaton {
    int n;
    uint16_t (*next)[256]; /* AUTOMATON_NONE: no edge */
    bool *accepts;
};

/* An automaton told as a function: states are numbers of the caller's choice, found by walking from start. */
struct automaton_source {
    const void *context;
    uint64_t start;
    bool (*step)(const void *context, uint64_t state, uint8_t byte, uint64_t *next); /* false: no edge */
    bool (*accepts)(const void *context, uint64_t state);
};

/* All that make one return NULL when memory is short or more than AUTOMATON_MAX_STATES would be needed, and
   when given NULL. */
struct automaton *automaton_explore(struct arena *arena, const struct automaton_source *source);
struct automaton *automaton_copy(struct arena *arena, const struct automaton *a);
struct automaton *automaton_and(struct arena *arena, const struct automaton *a, const struct automaton *b);
struct automaton *automaton_minus(struct arena *arena, const struct automaton *a, const struct automaton *b);
struct automaton *automaton_text(struct arena *arena); /* all of UTF-8 */
/* Exactly these texts; NUL-terminated. */
struct automaton *automaton_names(struct arena *arena, const char *const *names, int n);
/* Texts of min to max characters (max -1: no end), where they are UTF-8. */
struct automaton *automaton_length(struct arena *arena, int64_t min, int64_t max);
/* What stands between the quotes of a JSON string for the texts of a: each character as itself, by its short
   escape, or control characters as \u00XX. */
struct automaton *automaton_spelled(struct arena *arena, const struct automaton *a);

/* The texts of a node without rules that refer to themselves. */
struct automaton *automaton_of_node(const struct grammar_builder *builder, struct arena *arena, int node);

bool automaton_is_empty(const struct automaton *a);
bool automaton_matches(const struct automaton *a, const char *text, size_t length);

/* As a node of a grammar; -1 like the builder's own functions. */
int automaton_node(struct grammar_builder *builder, struct arena *arena, const struct automaton *a);

#endif
