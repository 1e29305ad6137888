#include "model/grammar_text.h"

#include "config/buf.h"
#include "config/utf8.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/*
 * GBNF: rules "name ::= alternatives", one after the other, read in one pass. A name stands for its node from
 * its first use on, so that rules may use each other in any order; which of them are never defined shows at
 * the end.
 *
 * As in llama.cpp: outside of parentheses a rule ends with its line, but for the end of a line after "::=" or
 * "|"; escapes in literals and classes name code points, also \xNN; an operator repeats the element before it
 * with the operators it has. Beyond it: a line that begins with "|" goes on with the rule above it, and names
 * may hold "_" (no text that llama.cpp accepts means something else).
 *
 * Tokens: <name> is the control token of that text, or the text itself where the vocabulary has it as
 * ordinary tokens. !<name>* is any text without it. Other negated tokens, and tokens by number (which only
 * mean something beside one vocabulary), are refused.
 */

enum {
    MAX_TEXT_BYTES = 1 << 20,
    MAX_DEPTH = 200, /* of parentheses */
    MAX_NAME_BYTES = 256,
};

struct rule {
    const char *name;
    size_t length, first_use, definition; /* offsets; SIZE_MAX: none yet */
    int node;
};

struct parser {
    struct grammar_builder *builder;
    const char *text;
    size_t length, at;
    int depth;

    struct rule *rules;
    size_t n_rules, rules_capacity;
    uint32_t *slots; /* index + 1 into rules, by the hash of the name; 0: free */
    size_t n_slots;  /* a power of two */

    int *nodes; /* of the sequences and choices that are being read, the innermost last */
    size_t n_nodes, nodes_capacity;
    struct grammar_range *ranges; /* of the class that is being read */
    size_t n_ranges, ranges_capacity;
    struct buf literal;

    struct err_info *info;
    enum err err;
};

/* --- Faults --- */

static int fail(struct parser *parser, enum err err, size_t offset, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int fail(struct parser *parser, enum err err, size_t offset, const char *format, ...)
{
    char what[400];
    int line = 1, column = 1;
    if (parser->err) return -1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    for (size_t i = 0; i < offset; i++) {
        if (parser->text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)parser->text[i] & 0xC0) != 0x80) {
            column++;
        }
    }
    parser->err = err_set(parser->info, err, "line %d, column %d: %s", line, column, what);
    return -1;
}

static int no_memory(struct parser *parser)
{
    if (!parser->err) parser->err = err_set(parser->info, ERR_MEMORY, "no memory to read a grammar");
    return -1;
}

/* What stands at the place, for messages; out holds 8 bytes at least. */
static const char *found(const struct parser *parser, char *out)
{
    if (parser->at >= parser->length) return "the end";
    size_t size = utf8_sequence(parser->text + parser->at, parser->length - parser->at);
    if (parser->text[parser->at] == '\n' || parser->text[parser->at] == '\r') return "the end of the line";
    if ((unsigned char)parser->text[parser->at] < 0x20) return "a control character";
    snprintf(out, 8, "'%.*s'", (int)size, parser->text + parser->at);
    return out;
}

/* Room for one more of an array's elements. */
static bool grow(struct parser *parser, void *array, size_t n, size_t *capacity, size_t size)
{
    void **memory = array;
    if (n < *capacity) return true;
    size_t grown = *capacity * 2 + 64;
    void *moved = realloc(*memory, grown * size);
    if (!moved) {
        no_memory(parser);
        return false;
    }
    *memory = moved;
    *capacity = grown;
    return true;
}

/* --- Rules by name --- */

static uint32_t *slot_of(const struct parser *parser, const char *name, size_t length)
{
    size_t i = (size_t)XXH3_64bits(name, length) & (parser->n_slots - 1);
    for (;; i = (i + 1) & (parser->n_slots - 1)) {
        uint32_t *slot = &parser->slots[i];
        if (*slot == 0) return slot;
        const struct rule *rule = &parser->rules[*slot - 1];
        if (rule->length == length && memcmp(rule->name, name, length) == 0) return slot;
    }
}

static bool slots_grow(struct parser *parser)
{
    size_t n_slots = parser->n_slots ? parser->n_slots * 2 : 64;
    uint32_t *slots = calloc(n_slots, sizeof *slots);
    if (!slots) {
        no_memory(parser);
        return false;
    }
    free(parser->slots);
    parser->slots = slots;
    parser->n_slots = n_slots;
    for (size_t i = 0; i < parser->n_rules; i++)
        *slot_of(parser, parser->rules[i].name, parser->rules[i].length) = (uint32_t)i + 1;
    return true;
}

/* The rule of a name, made when it is new. NULL: a fault. */
static struct rule *rule_named(struct parser *parser, const char *name, size_t length)
{
    char text[MAX_NAME_BYTES + 1];
    if (length > MAX_NAME_BYTES) {
        fail(parser, ERR_LIMIT, (size_t)(name - parser->text), "a name of more than %d characters",
             MAX_NAME_BYTES);
        return NULL;
    }
    if (2 * parser->n_rules >= parser->n_slots && !slots_grow(parser)) return NULL;
    uint32_t *slot = slot_of(parser, name, length);
    if (*slot == 0) {
        if (!grow(parser, &parser->rules, parser->n_rules, &parser->rules_capacity, sizeof *parser->rules))
            return NULL;
        memcpy(text, name, length);
        text[length] = '\0';
        struct rule *rule = &parser->rules[parser->n_rules++];
        *rule = (struct rule){name, length, SIZE_MAX, SIZE_MAX, grammar_rule(parser->builder, text)};
        *slot = (uint32_t)parser->n_rules;
    }
    return &parser->rules[*slot - 1];
}

/* --- Characters --- */

static int peek(const struct parser *parser)
{
    return parser->at < parser->length ? (unsigned char)parser->text[parser->at] : -1;
}

static bool is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static bool is_name(int c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_';
}

/* White space and comments; newlines only where a rule goes on over them. */
static void skip_space(struct parser *parser, bool newlines)
{
    for (;; parser->at++) {
        int c = peek(parser);
        if (c == '#') {
            while (peek(parser) != '\n' && peek(parser) != '\r' && peek(parser) >= 0) parser->at++;
            c = peek(parser);
        }
        if (c != ' ' && c != '\t' && !(newlines && (c == '\n' || c == '\r'))) return;
    }
}

static size_t name_length(const struct parser *parser)
{
    size_t end = parser->at;
    while (end < parser->length && is_name((unsigned char)parser->text[end])) end++;
    return end - parser->at;
}

static int hex_value(int c)
{
    if (is_digit(c)) return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool hex_character(struct parser *parser, size_t start, int digits, uint32_t *out)
{
    uint32_t code = 0;
    for (int i = 0; i < digits; i++, parser->at++) {
        int value = hex_value(peek(parser));
        if (value < 0) {
            fail(parser, ERR_INVALID, start, "\\%c needs %d hexadecimal digits", parser->text[start + 1],
                 digits);
            return false;
        }
        code = code << 4 | (uint32_t)value;
    }
    if (code > 0x10FFFF) {
        fail(parser, ERR_INVALID, start, "U+%X: no character, the last is U+10FFFF", (unsigned)code);
        return false;
    }
    *out = code;
    return true;
}

/* The character or escape at the place, which is not the end. */
static bool read_character(struct parser *parser, uint32_t *out)
{
    static const char letters[] = "tnr\\\"[]-", meanings[] = "\t\n\r\\\"[]-";
    size_t start = parser->at, size;
    if (peek(parser) != '\\') {
        *out = utf8_decode(parser->text + start, &size);
        parser->at += size;
        return true;
    }
    parser->at++;
    int c = peek(parser);
    if (c == 'x' || c == 'u' || c == 'U') {
        parser->at++;
        return hex_character(parser, start, c == 'x' ? 2 : c == 'u' ? 4 : 8, out);
    }
    const char *letter = c > 0 ? strchr(letters, c) : NULL;
    if (!letter) {
        char shown[8];
        fail(parser, ERR_INVALID, start,
             "unknown escape: \\ before %s (there are \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\xNN \\uNNNN "
             "\\UNNNNNNNN)",
             found(parser, shown));
        return false;
    }
    *out = (uint32_t)(unsigned char)meanings[letter - letters];
    parser->at++;
    return true;
}

/* --- Elements --- */

static int read_literal(struct parser *parser)
{
    size_t start = parser->at++;
    buf_clear(&parser->literal);
    while (peek(parser) != '"') {
        size_t at = parser->at;
        uint32_t code;
        char bytes[4];
        if (peek(parser) < 0) return fail(parser, ERR_INVALID, start, "a literal without its closing '\"'");
        if (!read_character(parser, &code)) return -1;
        if (code >= 0xD800 && code <= 0xDFFF)
            return fail(parser, ERR_INVALID, at, "U+%04X is a surrogate, not a character", (unsigned)code);
        buf_append(&parser->literal, bytes, utf8_encode(code, bytes));
    }
    parser->at++;
    if (parser->literal.failed) return no_memory(parser);
    return grammar_literal(parser->builder, parser->literal.data, parser->literal.length);
}

static int read_class(struct parser *parser)
{
    size_t start = parser->at++;
    bool negated = peek(parser) == '^';
    parser->at += negated;
    parser->n_ranges = 0;
    while (peek(parser) != ']') {
        struct grammar_range range;
        size_t at = parser->at;
        if (peek(parser) < 0) return fail(parser, ERR_INVALID, start, "a class without its closing ']'");
        if (!read_character(parser, &range.first)) return -1;
        range.last = range.first;
        if (peek(parser) == '-' && parser->at + 1 < parser->length && parser->text[parser->at + 1] != ']') {
            parser->at++;
            if (!read_character(parser, &range.last)) return -1;
            if (range.last < range.first)
                return fail(parser, ERR_INVALID, at, "a range that ends (U+%04X) before it begins (U+%04X)",
                            (unsigned)range.last, (unsigned)range.first);
        }
        if (!grow(parser, &parser->ranges, parser->n_ranges, &parser->ranges_capacity,
                  sizeof *parser->ranges))
            return -1;
        parser->ranges[parser->n_ranges++] = range;
    }
    parser->at++;
    if (parser->n_ranges == 0)
        return fail(parser, ERR_INVALID, start, "an empty class (for any character, write '.')");
    return grammar_character(parser->builder, parser->ranges, (int)parser->n_ranges, negated);
}

/* Any one character. */
static int any_character(struct parser *parser)
{
    parser->at++;
    return grammar_character(parser->builder, NULL, 0, true);
}

/* <name> or !<name>*. */
static int read_token(struct parser *parser)
{
    size_t start = parser->at;
    bool negated = peek(parser) == '!';
    parser->at += negated;
    if (peek(parser) != '<') return fail(parser, ERR_INVALID, start, "'!' without the '<' of a token");
    size_t name = parser->at;
    while (peek(parser) >= 0 && peek(parser) != '\n' && peek(parser) != '>') parser->at++;
    if (peek(parser) != '>') return fail(parser, ERR_INVALID, name, "a token without its closing '>'");
    parser->at++;
    const char *text = parser->text + name;
    size_t length = parser->at - name;
    if (length == 2) return fail(parser, ERR_INVALID, name, "a token without a name");
    if (text[1] == '[')
        return fail(parser, ERR_UNSUPPORTED, start,
                    "tokens by their number are not supported: write the token's text, as in <think>");
    if (negated) {
        skip_space(parser, parser->depth > 0);
        if (peek(parser) != '*')
            return fail(parser, ERR_UNSUPPORTED, start, "a negated token is only supported repeated: !%.*s*",
                        (int)length, text);
        parser->at++;
        return grammar_without(parser->builder, &text, &length, 1);
    }
    char control = (char)GRAMMAR_CONTROL;
    buf_clear(&parser->literal);
    buf_append(&parser->literal, &control, 1);
    buf_append(&parser->literal, text, length);
    if (parser->literal.failed) return no_memory(parser);
    int either[2] = {grammar_literal(parser->builder, parser->literal.data, length + 1),
                     grammar_literal(parser->builder, text, length)};
    return grammar_choice(parser->builder, either, 2);
}

static int read_reference(struct parser *parser)
{
    struct rule *rule = rule_named(parser, parser->text + parser->at, name_length(parser));
    if (!rule) return -1;
    if (rule->first_use == SIZE_MAX) rule->first_use = parser->at;
    parser->at += rule->length;
    return rule->node;
}

/* --- Repetition --- */

static bool read_number(struct parser *parser, int64_t *out)
{
    size_t start = parser->at;
    int64_t value = 0;
    char shown[8];
    if (!is_digit(peek(parser))) {
        fail(parser, ERR_INVALID, start, "a number was expected, not %s", found(parser, shown));
        return false;
    }
    for (; is_digit(peek(parser)); parser->at++) {
        value = value * 10 + (peek(parser) - '0');
        if (value > INT_MAX) {
            fail(parser, ERR_LIMIT, start, "a repetition of more than %d", INT_MAX);
            return false;
        }
    }
    skip_space(parser, parser->depth > 0);
    *out = value;
    return true;
}

/* {m}, {m,} or {m,n}. */
static bool read_bounds(struct parser *parser, int64_t *min, int64_t *max)
{
    size_t start = parser->at++;
    char shown[8];
    skip_space(parser, parser->depth > 0);
    if (!read_number(parser, min)) return false;
    *max = *min;
    if (peek(parser) == ',') {
        parser->at++;
        skip_space(parser, parser->depth > 0);
        *max = -1;
        if (peek(parser) != '}' && !read_number(parser, max)) return false;
    }
    if (peek(parser) != '}') {
        fail(parser, ERR_INVALID, parser->at, "a repetition goes on with ',' or '}', not %s",
             found(parser, shown));
        return false;
    }
    parser->at++;
    if (*max >= 0 && *max < *min) {
        fail(parser, ERR_INVALID, start, "a repetition whose most (%lld) is below its least (%lld)",
             (long long)*max, (long long)*min);
        return false;
    }
    return true;
}

/* An element's node with the operators after it. */
static int read_repetitions(struct parser *parser, int node)
{
    for (;;) {
        skip_space(parser, parser->depth > 0);
        int c = peek(parser);
        int64_t min = c == '+', max = c == '?' ? 1 : -1;
        if (c == '{') {
            if (!read_bounds(parser, &min, &max)) return -1;
        } else if (c == '*' || c == '+' || c == '?') {
            parser->at++;
        } else {
            return node;
        }
        node = grammar_repeat(parser->builder, node, min, max);
    }
}

/* --- Sequences, alternatives, rules --- */

static int read_alternatives(struct parser *parser);

static int read_group(struct parser *parser)
{
    size_t start = parser->at++;
    char shown[8];
    if (parser->depth == MAX_DEPTH)
        return fail(parser, ERR_LIMIT, start, "more than %d parentheses in each other", MAX_DEPTH);
    parser->depth++;
    skip_space(parser, true);
    int node = read_alternatives(parser);
    if (parser->err) return -1;
    if (peek(parser) != ')') {
        if (parser->at >= parser->length)
            return fail(parser, ERR_INVALID, start, "'(' without its closing ')'");
        return fail(parser, ERR_INVALID, parser->at, "an element, '|' or ')' was expected, not %s",
                    found(parser, shown));
    }
    parser->at++;
    parser->depth--;
    return node;
}

static bool begins_element(int c)
{
    return is_name(c) || (c > 0 && strchr("\"[<!(.", c));
}

static int read_element(struct parser *parser)
{
    switch (peek(parser)) {
    case '"':
        return read_literal(parser);
    case '[':
        return read_class(parser);
    case '<':
    case '!':
        return read_token(parser);
    case '(':
        return read_group(parser);
    case '.':
        return any_character(parser);
    default:
        return read_reference(parser);
    }
}

static int push_node(struct parser *parser, int node)
{
    if (!grow(parser, &parser->nodes, parser->n_nodes, &parser->nodes_capacity, sizeof *parser->nodes))
        return -1;
    parser->nodes[parser->n_nodes++] = node;
    return 0;
}

static int read_sequence(struct parser *parser)
{
    size_t base = parser->n_nodes;
    while (begins_element(peek(parser))) {
        int node = read_element(parser);
        if (!parser->err) node = read_repetitions(parser, node);
        if (parser->err || push_node(parser, node) < 0) return -1;
    }
    int c = peek(parser);
    if (c > 0 && strchr("*+?{", c))
        return fail(parser, ERR_INVALID, parser->at, "nothing stands before '%c' that it could repeat", c);
    size_t n = parser->n_nodes - base;
    parser->n_nodes = base;
    if (n == 1) return parser->nodes[base];
    return grammar_sequence(parser->builder, n > 0 ? parser->nodes + base : NULL, (int)n);
}

/* At the end of a line outside of parentheses: past it when the next line that says something begins with
   "|". */
static void skip_to_bar(struct parser *parser)
{
    size_t end = parser->at;
    skip_space(parser, true);
    if (peek(parser) != '|') parser->at = end;
}

static int read_alternatives(struct parser *parser)
{
    size_t base = parser->n_nodes;
    for (;;) {
        int node = read_sequence(parser);
        if (parser->err || push_node(parser, node) < 0) return -1;
        if (parser->depth == 0) skip_to_bar(parser);
        if (peek(parser) != '|') break;
        parser->at++;
        skip_space(parser, true);
    }
    size_t n = parser->n_nodes - base;
    parser->n_nodes = base;
    return n == 1 ? parser->nodes[base] : grammar_choice(parser->builder, parser->nodes + base, (int)n);
}

static void read_rule(struct parser *parser)
{
    char shown[8];
    size_t start = parser->at, length = name_length(parser);
    if (length == 0) {
        fail(parser, ERR_INVALID, start, "a rule's name was expected, not %s", found(parser, shown));
        return;
    }
    struct rule *rule = rule_named(parser, parser->text + start, length);
    if (!rule) return;
    size_t index = (size_t)(rule - parser->rules);
    if (rule->definition != SIZE_MAX) {
        fail(parser, ERR_INVALID, start, "the rule '%.*s' is defined a second time", (int)length, rule->name);
        return;
    }
    rule->definition = start;
    parser->at += length;
    skip_space(parser, false);
    if (parser->length - parser->at < 3 || memcmp(parser->text + parser->at, "::=", 3) != 0) {
        fail(parser, ERR_INVALID, parser->at, "'::=' was expected after the rule's name, not %s",
             found(parser, shown));
        return;
    }
    parser->at += 3;
    skip_space(parser, true);
    int node = read_alternatives(parser);
    if (parser->err) return;
    grammar_define(parser->builder, parser->rules[index].node, node);
    int c = peek(parser);
    if (c >= 0 && c != '\n' && c != '\r')
        fail(parser, ERR_INVALID, parser->at, "an element, '|' or the end of the line was expected, not %s",
             found(parser, shown));
}

/* The root's node, once all rules are read. */
static int find_root(struct parser *parser)
{
    for (size_t i = 0; i < parser->n_rules; i++) {
        const struct rule *rule = &parser->rules[i];
        if (rule->definition == SIZE_MAX)
            return fail(parser, ERR_INVALID, rule->first_use, "the rule '%.*s' is not defined",
                        (int)rule->length, rule->name);
    }
    uint32_t root = parser->n_rules > 0 ? *slot_of(parser, "root", 4) : 0;
    if (root == 0) {
        parser->err = err_set(parser->info, ERR_INVALID,
                              parser->n_rules > 0 ? "there is no rule 'root', with which the text begins"
                                                  : "there is no rule");
        return -1;
    }
    return parser->rules[root - 1].node;
}

enum err grammar_gbnf(struct grammar_builder *builder, const char *text, size_t length, int *out,
                      struct err_info *info)
{
    struct parser parser = {.builder = builder, .text = text, .length = length, .info = info};
    if (length > MAX_TEXT_BYTES)
        return err_set(info, ERR_LIMIT, "a grammar of %zu bytes, the most is %d", length, MAX_TEXT_BYTES);
    size_t valid = utf8_valid(text, length);
    if (valid < length) fail(&parser, ERR_INVALID, valid, "no UTF-8");
    buf_init(&parser.literal, SIZE_MAX);
    skip_space(&parser, true);
    while (!parser.err && parser.at < length) {
        read_rule(&parser);
        skip_space(&parser, true);
    }
    int root = parser.err ? -1 : find_root(&parser);
    if (!parser.err) *out = root;
    free(parser.rules);
    free(parser.slots);
    free(parser.nodes);
    free(parser.ranges);
    buf_free(&parser.literal);
    return parser.err;
}
