#ifndef MODEL_JINJA_TEXT_H
#define MODEL_JINJA_TEXT_H

#include "config/arena.h"
#include "model/jinja_value.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Text with marks: what Python does to strings, on UTF-8. Positions are bytes unless "character" is said.
 */

/* Text that grows, in an arena; failure is sticky. */
struct jinja_builder {
    struct arena *arena;
    char *bytes;
    unsigned char *marks; /* NULL as long as all is of one kind */
    size_t length, capacity, limit;
    bool literal; /* what all is */
    bool failed;  /* above the limit (too_long), or the arena is full */
    bool too_long;
};

void jinja_builder_init(struct jinja_builder *builder, struct arena *arena, size_t limit);
void jinja_builder_add(struct jinja_builder *builder, struct jinja_text text);
/* Bytes of the program's own making. */
void jinja_builder_bytes(struct jinja_builder *builder, const char *bytes, size_t length);
void jinja_builder_string(struct jinja_builder *builder, const char *string);
/* One character with the mark of what it stands for. */
void jinja_builder_char(struct jinja_builder *builder, uint32_t code, bool literal);
/* What has been built; the builder's memory. */
struct jinja_text jinja_builder_text(const struct jinja_builder *builder);

bool jinja_text_literal_at(const struct jinja_text *text, size_t at);
/* Bytes from `from` up to `to`. */
struct jinja_text jinja_text_cut(struct jinja_text text, size_t from, size_t to);
/* Characters in the text. */
size_t jinja_text_chars(struct jinja_text text);
/* The byte where a character starts; the length when there are fewer characters. */
size_t jinja_text_offset(struct jinja_text text, size_t character);

/* First place of the needle at or after `from`, or the last one; SIZE_MAX when there is none. */
size_t jinja_text_find(struct jinja_text text, struct jinja_text needle, size_t from);
size_t jinja_text_find_last(struct jinja_text text, struct jinja_text needle);
/* Where the line that starts at `from` ends, as Python's splitlines has it; *next: behind its line break. */
size_t jinja_text_line(struct jinja_text text, size_t from, size_t *next);
bool jinja_text_starts(struct jinja_text text, struct jinja_text start);
bool jinja_text_ends(struct jinja_text text, struct jinja_text end);

/* Without the characters of `set` at its ends; set NULL: white space. */
struct jinja_text jinja_text_strip(struct jinja_text text, const struct jinja_text *set, bool left,
                                   bool right);
/* Every old (or the first `count`, when not negative) becomes new. */
void jinja_text_replace(struct jinja_builder *out, struct jinja_text text, struct jinja_text old,
                        struct jinja_text new, int64_t count);

enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_TITLE, JINJA_CAPITALIZE };
void jinja_text_case(struct jinja_builder *out, struct jinja_text text, enum jinja_case mode);

/* Python's str.isspace, isprintable, isalpha ... of one character. */
bool jinja_char_is_space(uint32_t code);
bool jinja_char_is_printable(uint32_t code);
bool jinja_char_is_alpha(uint32_t code);
bool jinja_char_is_digit(uint32_t code);
bool jinja_char_is_upper(uint32_t code);
bool jinja_char_is_lower(uint32_t code);

#endif
