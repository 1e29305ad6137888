#ifndef SERVER_MARKER_H
#define SERVER_MARKER_H

#include "model/grammar.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A marker ("<tool_call>", "</think>") looked for in text that comes byte by byte. Its reader holds the bytes
 * that may belong to it, and the white space before them, which goes when it is one: the last n_spaces +
 * matched bytes. All before those are text for certain.
 */
struct marker {
    const char *text; /* borrowed; not empty, and does not begin with white space */
    size_t matched;   /* bytes at the end of what has come that are its beginning */
    size_t n_spaces;  /* white space before those, up to MARKER_SPACES */
};
enum { MARKER_SPACES = 64 }; /* a longer row of it is text */

/* One byte more; true: with it the marker is complete. Before the next byte comes marker_reset. */
bool marker_read(struct marker *marker, char byte);
void marker_reset(struct marker *marker);
bool marker_is_space(char byte);

/* Control tokens are not shown in a reply's text, but a marker's text must reach its reader: of up to n texts
   (NULL ends them) those that are one control token. Returns how many. */
int marker_tokens(const struct tokenizer *tokenizer, const char *const *texts, int n, int32_t *out);

/* A marker in a grammar: a control token where the vocabulary has one of this text, or the text. */
int marker_grammar(struct grammar_builder *builder, const char *text);

#endif
